"""The plan of a training: its memory, and values for the settings that are left to it.

References
----------
.. [1] F. Isensee et al.: nnU-Net. Nature Methods 2021, DOI 10.1038/s41592-020-01008-z: a dataset's
       fingerprint decides network, patch and batch; 32 channels; a batch of at most 5 % of the
       pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unetflow.geometry import unet_geometry
from unetflow.inference import build
from unetflow.progress import log, track
from unetflow.settings import ExperimentSettings, UNetSettings
from unetflow.store import open_image, read_json, write_json
from unetflow.weights import labels_of

LARGEST_OUTPUT = {2: 388, 3: 88}
DEPTHS = {2: range(2, 6), 3: range(2, 5)}
LARGEST_BATCH = 8
NARROWEST = 8
SHARE_OF_PIXELS = 0.05
LIBRARIES_BYTES = 150_000_000
PROCESS_MB = 1500


@dataclass(frozen=True)
class Fingerprint:
    """What a plan knows of a dataset.

    Attributes
    ----------
    images : int
        How many are annotated.
    shape : tuple of int
        Their median extents along the network's axes.
    object_extent : float
        Median diameter of objects, pixels: of a disc or ball of the same size.
    pixels : int
        Of all annotated images together.
    """

    images: int
    shape: tuple[int, ...]
    object_extent: float
    pixels: int


def fingerprint(images: Path, index: Mapping[str, Any], dimensions: int) -> Fingerprint:
    """Look at the annotated images of a dataset; objects are those that a network separates."""
    annotated = [entry for entry in index["images"] if entry["annotated"]]
    sizes: list[int] = []
    for entry in track(annotated, "looking at objects", len(annotated)):
        _, instances = labels_of(open_image(images / entry["image"]), dimensions)
        whole = np.asarray(instances)
        for plane in np.ndindex(whole.shape[:-dimensions]):
            counts = np.bincount(whole[plane].ravel())[1:]
            sizes += counts[counts > 0].tolist()
    shapes = np.array([entry["shape"][-dimensions:] for entry in annotated])
    size = float(np.median(sizes)) if sizes else 1.0
    unit = math.pi / 4 if dimensions == 2 else math.pi / 6
    return Fingerprint(
        images=len(annotated),
        shape=tuple(int(extent) for extent in np.median(shapes, axis=0)),
        object_extent=round((size / unit) ** (1 / dimensions), 1),
        pixels=sum(math.prod(entry["shape"]) for entry in annotated),
    )


def step_bytes(model: UNetSettings, classes: int, batch: int, tile: Sequence[int]) -> int:
    """Memory of one step of training in single precision, libraries included.

    Counted on tensors without data: what the backward pass keeps; three times the largest of it,
    which is what passes through it at a time; weights, gradients and two moments. On a CPU, where
    it was measured, processes took between six and eleven tenths of it.
    """
    with torch.device("meta"):
        network = build(model, 1, classes)
        pixels = torch.empty((batch, 1, *tile))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(pixels)
        target = torch.zeros((batch, *output.shape[2:]), dtype=torch.long, device="meta")
        loss = nn.functional.cross_entropy(output, target)
    weights = sum(values.numel() * values.itemsize for values in network.parameters())
    del loss  # which has kept the tensors, and with them their addresses, until here
    return sum(kept.values()) + 3 * max(kept.values()) + 4 * weights + LIBRARIES_BYTES


def plan(experiment: ExperimentSettings, of: Fingerprint, classes: int) -> dict[str, Any]:
    """Values of the settings that are `auto`, each with its reason, and the memory of a step.

    Returns
    -------
    dict
        values, reasons: by dotted key, to be pinned by writing them into the experiment.
        fingerprint. step_bytes: of one process.

    Raises
    ------
    ValueError
        If not even the smallest choice fits `train.memory_gb`.
    """
    automatic, dimensions = experiment.automatic, experiment.model.dimensions
    reasons: dict[str, str] = {}
    model = experiment.model
    if "model.depth" in automatic:
        depth, reasons["model.depth"] = chosen_depth(of, dimensions)
        model = model.model_copy(update={"depth": depth})
    if "model.width" in automatic:
        width, reason = (16, "for the time it takes") if slow(experiment) else (32, "as nnU-Net")
        model, reasons["model.width"] = model.model_copy(update={"width": width}), reason
    tile = list(experiment.patches.tile_of(dimensions))
    if "patches.tile" in automatic:
        wanted = [min(extent, LARGEST_OUTPUT[dimensions]) for extent in of.shape]
        tile = [axis.input_for(extent) for axis, extent in zip(model.geometry, wanted, strict=True)]
        reasons["patches.tile"] = f"predicts {times(wanted)} of images of {times(of.shape)} at once"
    batch = experiment.train.devices if "train.batch" in automatic else experiment.train.batch
    model, tile = fitting(experiment, model, tile, batch, classes, reasons)
    if "train.batch" in automatic:
        batch, reasons["train.batch"] = chosen_batch(experiment, model, tile, classes, of)
    values = {
        "model.depth": model.depth,
        "model.width": model.width,
        "patches.tile": tile,
        "train.batch": batch,
    }
    return {
        "values": {key: values[key] for key in automatic},
        "reasons": {key: reasons[key] for key in automatic},
        "fingerprint": asdict(of),
        "step_bytes": step_bytes(model, classes, batch // experiment.train.devices, tile),
    }


def slow(experiment: ExperimentSettings) -> bool:
    """Whether it is known that there will be no GPU."""
    return experiment.train.device == "cpu"


def times(extents: Sequence[int]) -> str:
    """Extents as people write them."""
    return " x ".join(map(str, extents))


def chosen_depth(of: Fingerprint, dimensions: int) -> tuple[int, str]:
    """Return the least number of poolings with which an object's whole surroundings are seen."""
    halos = {depth: unet_geometry(depth, dimensions)[0].halo for depth in DEPTHS[dimensions]}
    within = {depth: halo for depth, halo in halos.items() if halo <= min(of.shape)}
    depths = within or {min(halos): halos[min(halos)]}
    depth = next((depth for depth in depths if depths[depth] >= of.object_extent), max(depths))
    return depth, f"sees {depths[depth]} pixels around each, objects are {of.object_extent:g} wide"


def fitting(
    experiment: ExperimentSettings,
    model: UNetSettings,
    tile: list[int],
    batch: int,
    classes: int,
    reasons: dict[str, str],
) -> tuple[UNetSettings, list[int]]:
    """Lower tile, then width, where they are to be chosen, until a step fits the memory."""
    budget, share = experiment.train.memory_gb, batch // experiment.train.devices
    smallest = [axis.input_for(axis.divisor) for axis in model.geometry]
    while (need := step_bytes(model, classes, share, tile)) > budget * 1e9:
        spare = [extent - least for extent, least in zip(tile, smallest, strict=True)]
        if "patches.tile" in experiment.automatic and max(spare) > 0:
            longest = spare.index(max(spare))
            tile = [n - model.geometry[0].divisor * (i == longest) for i, n in enumerate(tile)]
            reasons["patches.tile"] = f"the largest that fits {budget:g} GB"
        elif "model.width" in experiment.automatic and model.width > NARROWEST:
            model = model.model_copy(update={"width": model.width // 2})
            reasons["model.width"] = f"the widest that fits {budget:g} GB"
        else:
            raise ValueError(
                f"training must fit train.memory_gb: got {budget:g}, but a step of batch {share}, "
                f"tile {times(tile)} and width {model.width} needs {need / 1e9:.1f} GB; raise it, "
                "or lower model.width or patches.tile"
            )
    return model, tile


def chosen_batch(
    experiment: ExperimentSettings,
    model: UNetSettings,
    tile: Sequence[int],
    classes: int,
    of: Fingerprint,
) -> tuple[int, str]:
    """Return the largest batch, of doublings, that fits the memory and shows few of all pixels."""
    devices, budget = experiment.train.devices, experiment.train.memory_gb
    output = math.prod(n - 2 * axis.halo for n, axis in zip(tile, model.geometry, strict=True))
    share, reason = 1, f"the largest that fits {budget:g} GB"
    while step_bytes(model, classes, 2 * share, tile) <= budget * 1e9:
        if 2 * share * devices > LARGEST_BATCH:
            reason = "enough for a steady gradient"
            break
        if 2 * share * devices * output > SHARE_OF_PIXELS * of.pixels:
            reason = f"at most {SHARE_OF_PIXELS:.0%} of all annotated pixels in a step"
            break
        share *= 2
    return share * devices, reason


def what_fits(experiment: ExperimentSettings, classes: int) -> str:
    """Say which smaller step needs at most three quarters of the memory of the one that failed."""
    dimensions, geometry = experiment.model.dimensions, experiment.model.geometry
    share = experiment.train.batch // experiment.train.devices
    tile = list(experiment.per_axis(experiment.patches.tile))
    failed = step_bytes(experiment.model, classes, share, tile)
    limit = failed - (failed - LIBRARIES_BYTES) / 4
    if share > 1:
        batch = share // 2 * experiment.train.devices
        return f"set train.batch to {batch}"
    least = [axis.input_for(axis.divisor) for axis in geometry]
    while step_bytes(experiment.model, classes, share, tile) > limit and tile != least:
        longest = max(range(dimensions), key=lambda axis: tile[axis] - least[axis])
        tile[longest] -= geometry[longest].divisor
    return f"set patches.tile to {tile}, or lower model.width"


def write_plan(
    images: Path, index: Path, output: Path, experiment: ExperimentSettings, key: str
) -> None:
    """Write the plan of an experiment's training.

    Parameters
    ----------
    index : Path
        Of the dataset.
    output : Path
        JSON: `key`, what `plan` returns, and `mem_mb`, the memory that its job asks for.
    key : str
        Says what the plan was made from.
    """
    facts = read_json(index)
    classes, dimensions = len(facts["class_names"]), experiment.model.dimensions
    if experiment.automatic:
        made = plan(experiment, fingerprint(images, facts, dimensions), classes)
    else:
        share = experiment.train.batch // experiment.train.devices
        tile = experiment.patches.tile_of(dimensions)
        need = step_bytes(experiment.model, classes, share, tile)
        made = {"values": {}, "reasons": {}, "step_bytes": need}
    on_cpu = 0 if experiment.train.device == "gpu" else made["step_bytes"]
    mem_mb = (PROCESS_MB + on_cpu // 10**6) * experiment.train.devices
    for name, value in made["values"].items():
        log(f"{name}: {value} ({made['reasons'][name]})")
    write_json(output, {"key": key, **made, "mem_mb": mem_mb})
