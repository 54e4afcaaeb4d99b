"""What a prediction stores, and how the stages after it read probabilities from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.regression import regression_of
from unetflow.settings.prediction import PredictSettings
from unetflow.store import Image, open_image

COLOURS = ("56B4E9", "E69F00", "009E73", "F0E442", "0072B2", "D55E00", "CC79A7")
"""Of channels in viewers; told apart by the colour-blind (Okabe and Ito 2008)."""


def stored_as(settings: PredictSettings, model: Mapping[str, Any]) -> PredictSettings:
    """Return the settings of what is stored of a model's predictions: of a regression its values.

    Parameters
    ----------
    model : mapping
        Its `model.json`.
    """
    if regression_of(model) is None:
        return settings
    return settings.model_copy(update={"output": "values", "channels": None})


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
    about: dict[str, Any] = {"output": settings.output}
    if settings.output == "values":  # of any range, which viewers find out
        return {"extra": {}, "attributes": {"unetflow": about | {"channels": names}}}
    about |= {"classes": [*class_names], "channels": names}
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
    """Return what is stored (channels, ...) of probabilities, logits or values (outputs, ...).

    Raises
    ------
    ValueError
        If a value is too large for its data type.
    """
    if settings.output == "classes":
        return np.asarray(predicted.argmax(axis=0)[np.newaxis], np.uint8)
    if settings.output == "values":
        largest = float(np.abs(predicted).max(initial=0))
        most = float(np.finfo(settings.dtype).max)
        if not largest <= most:
            raise ValueError(
                f"values must fit predict.dtype {settings.dtype}, up to {most:.6g}: got "
                f"{largest:.6g}; set predict.dtype to float32"
            )
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


def holds_values(image: Image) -> bool:
    """Whether a prediction is a regression's."""
    facts: Any = zarr.open_group(image.path, mode="r").attrs.get("unetflow", {})
    return bool(facts.get("output") == "values")


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


@dataclass(frozen=True)
class Probabilities:
    """Probabilities (classes - 1, ...) of all classes but background, read when indexed.

    The first part of an index must be all classes.
    """

    prediction: Image

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a probability."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents along all axes."""
        spatial = self.prediction.spatial_shape
        return (len(probabilities(self.prediction, (slice(0, 1),) * len(spatial))), *spatial)

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Probabilities of a region, of all classes."""
        return probabilities(self.prediction, tuple(index[1:]))


def probability_image(prediction: Image) -> Image:
    """Probabilities of all classes but background, whatever of them is stored, as an image."""
    axes = "c" + axis_rules.spatial(prediction.axes)
    return Image(prediction.path, Probabilities(prediction), axes, prediction.voxel_size_um)


def foreground(image: Image, index: tuple[Any, ...] = ()) -> NDArray[np.float32]:
    """Probability (...) of not being background, of a part of a prediction."""
    return np.asarray(probabilities(image, index).sum(axis=0))


def summary_of(facts: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an archive volume's `summary.json`.

    Parameters
    ----------
    facts : mapping
        How its prediction went, see `assembly.finish_prediction`.
    found : mapping
        What is told of its prediction, in plain values.
    """
    summary = {"state": facts["state"], "reason": facts["reason"], **found}
    summary["predict_seconds"] = facts["seconds"]
    about = {key: facts["volume"].get(key) for key in ("path", "experiment", "shape", "voxels")}
    about |= {"model": facts["volume"]["model"]} if "model" in facts["volume"] else {}
    return summary | about
