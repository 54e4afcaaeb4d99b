"""What a prediction stores, and how the stages after it read probabilities from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetflow.settings.prediction import PredictSettings
from unetflow.store import Image, open_image

COLOURS = ("56B4E9", "E69F00", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7")
"""Of channels in viewers; told apart by the colour-blind (Okabe and Ito 2008)."""


def channels(class_names: Sequence[str], settings: PredictSettings) -> list[str]:
    """Names of the channels that are stored.

    Raises
    ------
    ValueError
        If the settings choose a class that the model does not know.
    """
    if settings.output == "classes":
        return ["class"]
    if settings.output in ("logits", "values"):
        return [*class_names]
    chosen = class_names[1:] if settings.channels is None else settings.channels
    unknown = sorted(set(chosen) - set(class_names))
    if unknown:
        raise ValueError(
            f"predict.channels must be classes of the model, {', '.join(class_names)}: got "
            f"{', '.join(unknown)}; correct them"
        )
    if not {*chosen} - {class_names[0]}:
        raise ValueError(
            f"predict.channels must name a class but {class_names[0]}: got no other, of which no "
            "objects could be made; add one"
        )
    return [*chosen]


def metadata(class_names: Sequence[str], settings: PredictSettings) -> dict[str, dict[str, Any]]:
    """Return a prediction's metadata, `extra` and `attributes` of `store.create_image`.

    The attribute `unetflow` is all that reading probabilities back takes.
    """
    names = channels(class_names, settings)
    about = {"output": settings.output, "classes": [*class_names], "channels": names}
    if settings.output == "values":  # of any range, which viewers find out
        return {"attributes": {"unetflow": {"output": settings.output, "channels": names}}}
    least, most = shown_range(len(class_names), settings)
    window = {"min": least, "start": least, "end": most, "max": most}
    colours = COLOURS if len(names) > 1 else ("FFFFFF",)
    shown = [
        {"label": name, "color": colour, "window": window, "active": True}
        for name, colour in zip(names, cycle(colours), strict=False)
    ]
    return {"extra": {"omero": {"channels": shown}}, "attributes": {"unetflow": about}}


def shown_range(n_classes: int, settings: PredictSettings) -> tuple[float, float]:
    """Values that viewers show as black and as white."""
    if settings.output == "classes":
        return 0, n_classes - 1
    if settings.output == "logits":
        return -10, 10  # a probability of 5e-5 to 1 - 5e-5 between two classes
    return 0, 255 if settings.dtype == "uint8" else 1


def encode(
    predicted: NDArray[np.float32],
    class_names: Sequence[str],
    names: Sequence[str],
    settings: PredictSettings,
) -> NDArray[Any]:
    """Return what is stored (channels, ...) of probabilities, logits or values (outputs, ...)."""
    if settings.output == "classes":
        return np.asarray(predicted.argmax(axis=0)[np.newaxis], np.uint8)
    if settings.output in ("logits", "values"):
        return np.asarray(predicted, settings.dtype)
    chosen = predicted[[class_names.index(name) for name in names]]
    if settings.dtype == "uint8":
        chosen = np.rint(chosen * 255)
    return np.asarray(chosen.astype(settings.dtype))


def stored_dtype(settings: PredictSettings) -> str:
    """Data type of the stored array."""
    return "uint8" if settings.output == "classes" else settings.dtype


def open_prediction(path: Path) -> Image:
    """Open the prediction of an image or a volume.

    Raises
    ------
    ValueError
        If it is not there.
    """
    if not (path / "zarr.json").is_file():
        raise ValueError(
            f"{path}: a volume's prediction must be there: it was removed, since predict.keep is "
            "false; predict again with `snakemake --forcerun predict_block predict_pack`"
        )
    return open_image(path)


def probabilities(image: Image, index: tuple[Any, ...] = ()) -> NDArray[np.float32]:
    """Probabilities (classes - 1, ...) of the classes but background, of a part of a prediction.

    Of a class that is not stored they are 0. An image without our attributes holds all of them.

    Parameters
    ----------
    index : tuple
        Of the spatial axes.
    """
    values = np.asarray(image.array[(slice(None), *index)])
    facts: Any = zarr.open_group(image.path, mode="r").attrs.get("unetflow")
    if facts is None:
        return values.astype(np.float32)
    classes = facts["classes"]
    if facts["output"] == "logits":
        likelihood = np.exp((values - values.max(axis=0)).astype(np.float32))
        return np.asarray(likelihood[1:] / likelihood.sum(axis=0))
    result = np.zeros((len(classes), *values.shape[1:]), np.float32)
    if facts["output"] == "classes":
        np.put_along_axis(result, values.astype(np.intp), 1, axis=0)
    else:
        scale = np.float32(255 if values.dtype == np.uint8 else 1)
        for name, channel in zip(facts["channels"], values, strict=True):
            result[classes.index(name)] = channel / scale
    return result[1:]


def foreground(image: Image, index: tuple[Any, ...] = ()) -> NDArray[np.float32]:
    """Probability (...) of not being background, of a part of a prediction."""
    return np.asarray(probabilities(image, index).sum(axis=0))
