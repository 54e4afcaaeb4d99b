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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from unetflow import axes as axis_rules
from unetflow.inference import build
from unetflow.known_labels import labels_of
from unetflow.losses import outputs_of
from unetflow.progress import log, track
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.network import NetworkSettings
from unetflow.settings.networks import Network
from unetflow.store import open_image, read_json, write_json

LARGEST_OUTPUT = {2: 388, 3: 88}
DEPTHS = {2: range(2, 6), 3: range(2, 5)}
LARGEST_BATCH = 8
NARROWEST = 8
SHARE_OF_PIXELS = 0.05
LIBRARIES_BYTES = 150_000_000
PROCESS_MB = {"cpu": 1500, "auto": 4000, "gpu": 4000}
"""Of a process with its libraries; those of a GPU are large."""
VALIDATION_BYTES = {"held": 5, "scored": 33}
"""Of a voxel: of every validation image, and of the one that is being scored."""


@dataclass(frozen=True)
class Fingerprint:
    """What a plan knows of a dataset.

    Attributes
    ----------
    images : int
        How many are annotated.
    channels : int
        Of each.
    shape : tuple of int
        Their median extents along the network's axes.
    object_extent : float
        Median diameter of objects, pixels: of a disc or ball of the same size, in pixels that are
        as long along every axis.
    pixels : int
        Of all annotated images together.
    largest : int
        Of the largest of them.
    spacing : tuple of float
        Length of a voxel along each axis, over their geometric mean; 1 where no image tells it.
    """

    images: int
    channels: int
    shape: tuple[int, ...]
    object_extent: float
    pixels: int
    largest: int
    spacing: tuple[float, ...]

    @property
    def object_extents(self) -> tuple[float, ...]:
        """Median diameter of objects along each axis, pixels."""
        return tuple(round(self.object_extent / step, 1) for step in self.spacing)


def fingerprint(
    images: Path, index: Mapping[str, Any], dimensions: int, look: bool = True
) -> Fingerprint:
    """Return what a plan knows of a dataset; of objects only where it may `look` at all labels.

    Raises
    ------
    ValueError
        If no image is annotated, or one has fewer spatial axes than the network.
    """
    for entry in index["images"]:
        axis_rules.check_dimensions(entry["axes"], dimensions, str(images / entry["image"]))
    annotated = [entry for entry in index["images"] if entry["annotated"]]
    if not annotated:
        raise ValueError(
            "training must have annotated images: the dataset has none; add masks for some"
        )
    sizes: list[int] = []
    for entry in track(annotated, "looking at objects", len(annotated)) if look else ():
        _, instances = labels_of(open_image(images / entry["image"]), dimensions)
        whole = instances[...]
        for plane in np.ndindex(whole.shape[:-dimensions]):
            _, counts = np.unique(whole[plane][whole[plane] > 0], return_counts=True)
            sizes += counts.tolist()
    shapes = np.array([entry["shape"][-dimensions:] for entry in annotated])
    pixels = [math.prod(entry["shape"]) // channels_of(entry) for entry in annotated]
    size = float(np.median(sizes)) if sizes else 1.0
    unit = math.pi / 4 if dimensions == 2 else math.pi / 6
    return Fingerprint(
        images=len(annotated),
        channels=channels_of(annotated[0]),
        shape=tuple(int(extent) for extent in np.median(shapes, axis=0)),
        object_extent=round((size / unit) ** (1 / dimensions), 1),
        pixels=sum(pixels),
        largest=max(pixels),
        spacing=relative_spacing(annotated, dimensions),
    )


def relative_spacing(entries: Sequence[Mapping[str, Any]], dimensions: int) -> tuple[float, ...]:
    """Median voxel of images in the index that tell it, over its geometric mean."""
    told = [axis_rules.voxel_size(entry["axes"], entry["voxel_size_um"]) for entry in entries]
    known = [size[-dimensions:] for size in told if size is not None]
    if not known:
        return (1.0,) * dimensions
    voxel = np.median(known, axis=0)
    return tuple(round(float(step), 3) for step in voxel / stats.gmean(voxel))


def channels_of(entry: Mapping[str, Any]) -> int:
    """Channels of an image in the index."""
    return int(entry["shape"][entry["axes"].index("c")]) if "c" in entry["axes"] else 1


def step_bytes(
    model: NetworkSettings, channels: int, classes: int, batch: int, tile: Sequence[int]
) -> int:
    """Memory of one step of training in single precision, libraries included.

    Counted on tensors without data: what the backward pass keeps; three times the largest of it,
    which is what passes through it at a time (of volumes, which are rearranged for it, five times);
    weights, gradients and two moments. On a CPU, where it was measured, processes took between six
    and eleven tenths of it.
    """
    with torch.device("meta"):
        network = build(model, channels, classes)
        pixels = torch.empty((batch, channels, *tile))
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = outputs_of(network(pixels))
        like = ((batch, *output.shape[2:]) for output in outputs)
        targets = [torch.zeros(shape, dtype=torch.long, device="meta") for shape in like]
        loss = [*map(nn.functional.cross_entropy, outputs, targets)]
    weights = sum(values.numel() * values.itemsize for values in network.parameters())
    del loss  # which has kept the tensors, and with them their addresses, until here
    passing = (3 if len(tile) == 2 else 5) * max(kept.values())
    return sum(kept.values()) + passing + 4 * weights + LIBRARIES_BYTES


def plan(experiment: ExperimentSettings, of: Fingerprint, classes: int) -> dict[str, Any]:
    """Values of the settings that are `auto`, each with its reason, and the memory of a step.

    Width, tile and batch are those of any network, depth is of those that have it.

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
        depth, reasons["model.depth"] = chosen_depth(experiment, of)
        model = model.model_copy(update={"depth": depth})
    if "model.width" in automatic:
        narrow = experiment.train.device == "cpu"
        width, reason = (16, "for the time it takes") if narrow else (32, "as nnU-Net")
        model, reasons["model.width"] = model.model_copy(update={"width": width}), reason
    tile = list(experiment.patches.tile_of(dimensions))
    if "patches.tile" in automatic:
        wanted = [
            # As long in micrometres along every axis, so that objects are seen alike in each.
            max(min(extent, round(LARGEST_OUTPUT[dimensions] / step)), axis.divisor)
            for extent, step, axis in zip(of.shape, of.spacing, model.geometry, strict=True)
        ]
        tile = [axis.input_for(extent) for axis, extent in zip(model.geometry, wanted, strict=True)]
        reasons["patches.tile"] = f"predicts {times(wanted)} of images of {times(of.shape)} at once"
    else:
        check_tile("patches.tile", tile, model)
    if experiment.predict.fixed_tile is not None:
        check_tile("predict.tile", experiment.per_axis(experiment.predict.tile), model)
    batch = experiment.train.devices if "train.batch" in automatic else experiment.train.batch
    model, tile = fitting(experiment, of, model, tile, batch, classes, reasons)
    if "train.batch" in automatic:
        batch, reasons["train.batch"] = chosen_batch(experiment, of, model, tile, classes)
    values = {f"model.{name}": value for name, value in model}
    values |= {"patches.tile": tile, "train.batch": batch}
    return {
        "values": {key: values[key] for key in automatic},
        "reasons": {key: reasons[key] for key in automatic},
        "fingerprint": asdict(of),
        "step_bytes": step_bytes(
            model, of.channels, classes, batch // experiment.train.devices, tile
        ),
    }


def times(extents: Sequence[int]) -> str:
    """Extents as people write them."""
    return " x ".join(map(str, extents))


def check_tile(name: str, tile: Sequence[int], model: NetworkSettings) -> None:
    """Refuse a tile that is set and does not suit the network that is planned."""
    check = model.check_patch if name == "patches.tile" else model.check_tile
    try:
        check(tile)
    except ValueError as error:
        planned = f"depth {model.depth}" if hasattr(model, "depth") else model.network
        raise ValueError(f"{name} must suit the planned {planned}, or be auto: {error}") from error


def suits(name: str, tile: Sequence[int], model: NetworkSettings) -> bool:
    """Whether `check_tile` finds nothing to refuse."""
    with suppress(ValueError):
        check_tile(name, tile, model)
        return True
    return False


def chosen_depth(experiment: ExperimentSettings, of: Fingerprint) -> tuple[int, str]:
    """Return the least number of poolings with which an object's whole surroundings are seen.

    Tiles that are set must be admissible.
    """
    dimensions = experiment.model.dimensions
    tiles = {"patches.tile": experiment.patches.tile, "predict.tile": experiment.predict.fixed_tile}
    fixed = {
        name: tile
        for name, tile in tiles.items()
        if tile is not None and name not in experiment.automatic
    }
    models = {
        depth: experiment.model.model_copy(update={"depth": depth}) for depth in DEPTHS[dimensions]
    }
    halos = {
        depth: model.geometry[-1].halo
        for depth, model in models.items()
        if all(suits(name, experiment.per_axis(tile), model) for name, tile in fixed.items())
    }
    if not halos:
        raise ValueError(
            f"model.depth auto must suit the tiles that are set: got {[*fixed.values()]}, which no "
            f"depth of {min(models)} to {max(models)} accepts; set patches.tile to auto"
        )
    within = {depth: halo for depth, halo in halos.items() if halo <= min(of.shape)}
    depths = within or {min(halos): halos[min(halos)]}
    wide = max(of.object_extents)
    depth = next((depth for depth in depths if depths[depth] >= wide), max(depths))
    return depth, f"sees {depths[depth]} pixels around each, objects are {wide:g} wide"


def fitting(
    experiment: ExperimentSettings,
    of: Fingerprint,
    model: Network,
    tile: list[int],
    batch: int,
    classes: int,
    reasons: dict[str, str],
) -> tuple[Network, list[int]]:
    """Lower tile, then width, where they are to be chosen, until a step fits the memory."""
    budget, share = experiment.train.memory_gb, batch // experiment.train.devices
    if not experiment.automatic:
        return model, tile
    # A padded network would learn from smaller patches that it sees little around a pixel.
    smallest = [axis.smallest_tile for axis in model.geometry]
    while (need := step_bytes(model, of.channels, classes, share, tile)) > budget * 1e9:
        spare = [extent - least for extent, least in zip(tile, smallest, strict=True)]
        if "patches.tile" in experiment.automatic and max(spare) > 0:
            longest = spare.index(max(spare))
            tile[longest] -= model.geometry[longest].divisor
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
    of: Fingerprint,
    model: NetworkSettings,
    tile: Sequence[int],
    classes: int,
) -> tuple[int, str]:
    """Return the largest batch, of doublings, that fits the memory and shows few of all pixels."""
    devices, budget = experiment.train.devices, experiment.train.memory_gb
    output = math.prod(n - 2 * axis.frame for n, axis in zip(tile, model.geometry, strict=True))
    share, reason = 1, f"the largest that fits {budget:g} GB"
    while step_bytes(model, of.channels, classes, 2 * share, tile) <= budget * 1e9:
        if 2 * share * devices > LARGEST_BATCH:
            reason = "enough for a steady gradient"
            break
        if 2 * share * devices * output > SHARE_OF_PIXELS * of.pixels:
            reason = f"at most {SHARE_OF_PIXELS:.0%} of all annotated pixels in a step"
            break
        share *= 2
    return share * devices, reason


def what_fits(experiment: ExperimentSettings, channels: int, classes: int) -> str:
    """Say which smaller step needs at most three quarters of the memory of the one that failed."""
    model, devices = experiment.model, experiment.train.devices
    batch = experiment.train.batch // devices
    tile = list(experiment.per_axis(experiment.patches.tile))
    failed = step_bytes(model, channels, classes, batch, tile)
    limit = failed - (failed - LIBRARIES_BYTES) / 4
    while batch > 1 and step_bytes(model, channels, classes, batch, tile) > limit:
        batch //= 2
    if step_bytes(model, channels, classes, batch, tile) <= limit:
        return f"set train.batch to {batch * devices}"
    least = [axis.input_for(axis.divisor) for axis in model.geometry]
    while step_bytes(model, channels, classes, batch, tile) > limit:
        spare = [extent - smallest for extent, smallest in zip(tile, least, strict=True)]
        if max(spare) <= 0:
            return "lower model.width"
        longest = spare.index(max(spare))
        tile[longest] -= model.geometry[longest].divisor
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
    look = "model.depth" in experiment.automatic
    of = fingerprint(images, facts, experiment.model.dimensions, look)
    made = plan(experiment, of, len(facts["class_names"] or facts["target_names"]))
    for name, value in made["values"].items():
        log(f"{name}: {value} ({made['reasons'][name]})")
    train = experiment.train
    on_host = 0 if train.device == "gpu" else made["step_bytes"]
    split = experiment.split
    held = VALIDATION_BYTES["held"] * of.pixels * split.validating_folds // split.folds
    validation = held + VALIDATION_BYTES["scored"] * of.largest
    mem_mb = train.devices * (PROCESS_MB[train.device] + on_host // 10**6) + validation // 10**6
    write_json(output, {"key": key, **made, "mem_mb": mem_mb})
