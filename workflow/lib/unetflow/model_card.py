"""What people see of an exported network: its documentation and its cover picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from unetflow.regression import output_names, regression_of
from unetflow.store import write_text

UNET_DOI = "10.1007/978-3-319-24574-4_28"
COVER = 512
"""Height of the cover picture, which is twice as wide; an image with fewer pixels is enlarged."""

README = """\
# {name}

{description}

A {dimensions}D U-Net of width {width} and depth {depth} (Ronneberger et al. 2015,
https://doi.org/{unet}), made with unetflow. For each voxel it tells {told}:
{names}. {threshold}

## Data

{dataset}

{steps} training steps on {images} images. Grey values go in as they are in the image: {intensity}

## Validation

{scores}

To validate it on images of your own, {compared}; scores of other microscopes,
stains or magnifications will be lower.{voxels}

## Tiles

An input has {minimum} plus a multiple of {divisor} voxels along each axis; {halo} on each side of
the output are halo, to be cut off. {border} `predict_sample_with_blocking` of bioimageio.core does
so and its tiles join exactly, if the image has a multiple of {divisor} voxels along each axis:
otherwise it shifts its last tile back, off the grid of the poolings. An image of any size is
predicted on that grid once it is extended:

```python
import numpy as np
from bioimageio.core import create_prediction_pipeline
from bioimageio.core.digest_spec import create_sample_for_model
from bioimageio.spec import load_model_description

model = load_model_description("PACKAGE.zip")
around = [({halo}, {halo} + -extent % {divisor}) for extent in image.shape]  # image: {axes}
extended = np.pad(image, around, mode="reflect")[None, None]  # batch, channel
with create_prediction_pipeline(model) as pipeline:
    sample = create_sample_for_model(model, inputs=extended.astype("float32"))
    size = min(10, (min(image.shape) - 1) // {divisor})  # of a tile: {minimum} + size * {divisor}
    output = pipeline.predict_sample_with_blocking(sample, ns=size).members["output"].data
inner = tuple(slice({halo}, {halo} + extent) for extent in image.shape)
{result} = output.to_numpy()[0][(slice(None), *inner)]
```

`model.json` holds the facts of the training: settings, images, statistics of grey values.
"""


@dataclass(frozen=True)
class Subject:
    """What a network is about.

    Attributes
    ----------
    name, description : str
        Of its experiment.
    title, licence : str
        Of its dataset.
    citation : sequence of str
        What to cite for the dataset: DOI or arXiv number.
    """

    name: str
    description: str
    title: str
    licence: str
    citation: Sequence[str]


def doi_of(reference: str) -> str | None:
    """DOI of a reference: itself, or that of an arXiv number; None for anything else.

    Examples
    --------
    >>> doi_of("1505.04597"), doi_of("10.1371/journal.pbio.1000502"), doi_of("a book")
    ('10.48550/arXiv.1505.04597', '10.1371/journal.pbio.1000502', None)
    """
    number = re.fullmatch(r"(?:arxiv:)?(\d{4}\.\d{4,5})(?:v\d+)?", reference, re.IGNORECASE)
    if number:
        return f"10.48550/arXiv.{number[1]}"
    return reference if reference.startswith("10.") else None


def write_readme(
    path: Path, subject: Subject, facts: Mapping[str, Any], halo: int, summary: Mapping[str, Any]
) -> None:
    """Write the documentation of a package.

    Parameters
    ----------
    facts : mapping
        Of `model.json`.
    summary : mapping
        Of `summary.json`.
    """
    network, axis = facts["network"], facts["geometry"][0]
    padded = axis.get("padded", False)
    threshold, voxels = facts.get("threshold"), facts.get("voxel_size_um")
    dataset = f"{subject.title or 'A dataset of its own'}."
    if subject.licence:
        dataset += f" Its terms: {subject.licence}."
    if subject.citation:
        dataset += f" To be cited: {', '.join(subject.citation)}."
    text = README.format(
        name=subject.name,
        description=subject.description,
        unet=UNET_DOI,
        dimensions=network["dimensions"],
        width=network["width"],
        depth=network["depth"],
        names=", ".join(output_names(facts)),
        **TELLS["classes" if regression_of(facts) is None else "values"],
        threshold=""
        if threshold is None
        else f"Foreground is where the classes but the first add up to {threshold:.3g} or more.",
        dataset=dataset,
        steps=facts["training"]["best_step"],
        images=len(facts["training"]["images"]),
        intensity=INTENSITY[facts["intensity"]["source"]],
        scores=scores(summary),
        voxels=""
        if not voxels
        else "\nVoxels are to be of "
        + ", ".join(f"{size:g} µm along {axis}" for axis, size in voxels.items())
        + ".",
        minimum=axis["divisor"] + 2 * halo,
        divisor=axis["divisor"],
        halo=halo,
        border=BORDER[padded].format(halo=halo),
        axes=", ".join(("planes", "rows", "columns")[-network["dimensions"] :]),
    )
    write_text(path, text)


TELLS = {
    "classes": {
        "told": "the probability of each class",
        "compared": "annotate some that it has not seen and compare, for example by\n"
        "the Dice coefficient of each class",
        "result": "probabilities",
    },
    "values": {
        "told": "the values that its targets have,\nin their unit",
        "compared": "take some with targets that it has not seen and\ncompare, for example by PSNR",
        "result": "values",
    },
}
INTENSITY = {
    "training": "the package normalises them by the statistics of the training images.",
    "image": "the package normalises them by the statistics of the image itself. Percentiles are\n"
    "interpolated between grey values, which unetflow does not: a difference of less than a grey\n"
    "level.",
}
BORDER = {
    False: "The image is mirrored at its border\nwithout repeating the edge.",
    True: "Convolutions pad with zeros at the\nborder of what the network is given. unetflow pads "
    "so at the border of the image alone; programs\nthat tile mirror the image there, so that up "
    "to {halo} voxels from the border the two may differ.",
}


def scores(summary: Mapping[str, Any]) -> str:
    """Table of an experiment's scores on images that the networks of its folds had not seen."""
    lines = [
        "Scores of the networks of its folds on images that they had not seen, with intervals of",
        "95 %; this one has learned from all of them.",
        "",
        "| score | mean | interval | images |",
        "| --- | --- | --- | --- |",
    ]
    for metric, of in summary["metrics"].items():
        known = of["low"] is not None and of["high"] is not None
        interval = f"{of['low']:.4g} – {of['high']:.4g}" if known else "–"
        lines.append(f"| {metric} | {of['mean']:.4g} | {interval} | {of['n']} |")
    return "\n".join(lines)


def draw_cover(
    pixels: NDArray[np.float32],
    predicted: NDArray[np.float32],
    halo: int,
    path: Path,
    of_values: bool,
) -> None:
    """Write a PNG twice as wide as high: the image, and the probability of the foreground.

    Parameters
    ----------
    pixels, predicted : arrays (1, channels, *extents)
        Of a volume the middle plane is shown, of several channels the first.
    of_values : bool
        Whether values are predicted, which are shown in grey.
    halo : int
        Voxels on each side that are left out.
    """
    core: tuple[Any, ...] = (slice(halo, -halo),) * (pixels.ndim - 2)
    grey = pixels[0, 0, *core]
    found = predicted[0, 0, *core] if of_values else predicted[0, 1:, *core].sum(axis=0)
    if grey.ndim == 3:
        grey, found = grey[len(grey) // 2], found[len(found) // 2]
    side = min(grey.shape)
    grey, found = grey[:side, :side], found[:side, :side]
    halves = [
        colormaps["gray"](scaled(grey)),
        colormaps["gray"](scaled(found)) if of_values else colormaps["cividis"](found.clip(0, 1)),
    ]
    picture = np.concatenate(halves, axis=1)[..., :3]
    times = max(COVER // side, 1)
    enlarged = picture.repeat(times, axis=0).repeat(times, axis=1)
    imageio.imwrite(path, np.rint(enlarged * 255).astype(np.uint8))


def scaled(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey values from 0 to 1; 0.5 % of the pixels are left black, 0.5 % white."""
    low, high = np.percentile(plane, [0.5, 99.5])
    return np.asarray(np.clip((plane - low) / max(high - low, 1e-9), 0, 1))
