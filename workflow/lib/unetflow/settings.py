"""Every setting with its unit, range, default and meaning: the source of schema and reference."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, field_validator, model_validator

from unetflow.fields import OR_AUTO, Settings, setting
from unetflow.networks import Network, UNetSettings, VggSettings
from unetflow.orientations import orientations

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Automatic = Literal["model.depth", "model.width", "patches.tile", "train.batch"]
Precision = Literal["32", "bf16", "auto"]
PRECISION = "of the convolutions; auto: bf16 where the device computes in it, else 32"


def _once(numbers: tuple[int, ...]) -> tuple[int, ...]:
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise ValueError(f"must name each number once: got {twice} more than once")
    return numbers


Distinct = Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_once)]


# ------------------------------------------------------------------------------- datasets


class Download(Settings):
    """One file of a dataset's original."""

    url: str = setting(
        ..., "http(s) or file URL, or a path relative to the file that names it", min_length=1
    )
    sha256: str | None = setting(
        None,
        "SHA-256 (a prefix of at least 8 digits counts); null: recorded at first download",
        pattern=r"^[0-9a-f]{8,64}$",
    )
    size_bytes: int | None = setting(None, "size, checked before and after", "bytes", gt=0)
    file: str | None = setting(None, "name to store it under; null: the last part of the URL")

    @property
    def name(self) -> str:
        """Name under which the file is stored."""
        return self.file or PurePosixPath(self.url.split("?")[0].rstrip("/")).name


class StackLayout(Settings):
    """Multi-page TIFF stacks of pictures and of class masks, as in the ISBI 2012 challenge."""

    kind: Literal["stack"]
    images: str = setting(..., "pattern of the picture stack; {group} names several")
    labels: str = setting(..., "pattern of the mask stack")
    unannotated: str | None = setting(None, "pattern of stacks without masks")
    classes: dict[str, int] = setting(
        ..., "class name: its value in the masks; the first is background"
    )
    planes_are_images: bool = setting(True, "each plane is an image of its own (2D networks)")


class CtcLayout(Settings):
    """Folders of the Cell Tracking Challenge: 01, 01_GT/SEG, 01_GT/TRA, 02, ..."""

    kind: Literal["ctc"]
    ignore_unlabelled: bool = setting(
        True, "cells marked in TRA without outline in SEG are left out of training and scores"
    )
    every_frame: bool = setting(
        False,
        "frames without outlines in SEG are images too, not annotated: what tracks run through",
    )
    field_of_interest: int = setting(
        0,
        "frame of a picture in which whole cells have no outline (E of the challenge): what is "
        "not labelled in it is left out of training and scores",
        "pixels",
        ge=0,
    )


class PairsLayout(Settings):
    """Picture files with their mask files, one or many per picture."""

    kind: Literal["pairs"]
    images: str = setting(
        ...,
        "pattern of pictures; {image} (or else the last *) is the name, {group} the patient",
    )
    masks: str = setting(
        ...,
        "pattern of masks; a * after {image} means one file per object. Label images, or outlines: "
        "ROI sets of Fiji (.zip, .roi), .geojson of QuPath",
    )
    labels_are: Literal["instances", "components", "classes"] = setting(
        "instances",
        "what mask values mean; components: objects are the connected regions of one value, which "
        "others may have too",
    )
    classes: dict[str, int] | None = setting(
        None, "for class masks, class name: its value; the first is background"
    )
    mask_channel: int | None = setting(None, "the channel to take from colour masks", ge=0)
    channel: int | None = setting(None, "the channel to take from colour pictures", ge=0)


class Hdf5Layout(Settings):
    """HDF5 files that hold a volume and its labels under two keys."""

    kind: Literal["hdf5"]
    files: str = setting(..., "pattern of the files; {image} and {group} as for pairs")
    image: str = setting(..., "key of the volume")
    labels: str | None = setting(..., "key of the labels; null: not annotated")
    labels_are: Literal["instances", "classes"] = setting("instances", "what label values mean")
    classes: dict[str, int] | None = setting(None, "for class labels, class name: its value")
    planes_are_images: bool = setting(False, "each plane is an image of its own (2D networks)")


class SyntheticLayout(Settings):
    """Labelled pictures made on the spot, which look like microscopy."""

    kind: Literal["synthetic"]
    texture: Literal["membranes", "cells"] = setting("membranes", "EM sections or phase contrast")
    shape: tuple[int, ...] = setting(
        ...,
        "planes, rows, columns of a stack, or rows, columns",
        "pixels",
        min_length=2,
        max_length=3,
    )
    stacks: int = setting(1, "how many", ge=1)
    seed: int = setting(0, "same seed, same bytes", ge=0)
    planes_are_images: bool = setting(True, "each plane is an image of its own (2D networks)")


Layout = Annotated[
    StackLayout | CtcLayout | PairsLayout | Hdf5Layout | SyntheticLayout,
    Field(discriminator="kind"),
]


class DatasetSettings(Settings):
    """A dataset: an entry of the registry, or written out in an experiment."""

    name: Name | None = setting(
        None, "name of the results folder; registry entries take the file's"
    )
    title: str = setting("", "what people call it")
    downloads: tuple[Download, ...] = setting((), "the files of the original")
    folder: str | None = setting(None, "a folder of yours to read in place, instead of downloads")
    instructions: str | None = setting(None, "how to get data that has no direct download")
    licence: str = setting("", "terms of use")
    citation: tuple[str, ...] = setting((), "what to cite: DOI or arXiv number")
    voxel_size_um: dict[str, Annotated[float, Field(gt=0)]] = setting(
        {}, "voxel size per axis, where files do not say", "µm"
    )
    layout: Layout

    @model_validator(mode="after")
    def _comes_from_one_place(self) -> Self:
        places = {
            "downloads": bool(self.downloads),
            "folder": self.folder is not None,
            "layout synthetic": isinstance(self.layout, SyntheticLayout),
        }
        given = [name for name, is_given in places.items() if is_given]
        if len(given) > 1:
            raise ValueError(
                f"a dataset must come from one place: got {' and '.join(given)}; remove one"
            )
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first; class `k` of a label image is name `k`."""
        classes = getattr(self.layout, "classes", None)
        if classes:
            return tuple(classes)
        if isinstance(self.layout, SyntheticLayout) and self.layout.texture == "membranes":
            return ("membrane", "cell")
        return ("background", "cell")


# ------------------------------------------------------------------------------- stages


class SplitSettings(Settings):
    """Who trains, validates and tests."""

    unit: Literal["group", "block", "image"] = setting(
        "group",
        "what is never divided between parts: a group (sequence, patient), a block of neighbouring "
        "frames or planes, or only an image",
    )
    folds: int = setting(
        5,
        "test on one of them, validate on the next, train on the rest; with 2, the last fifth of "
        "the images of the other one validates",
        ge=2,
        le=50,
    )
    run: Distinct | None = setting(
        None, "which folds to run; null: all. The model named final learns from those that ran"
    )
    seed: int = setting(0, "order of groups or images before they are dealt out", ge=0)

    @property
    def names(self) -> list[str]:
        """Names of the folds that run: fold0, fold1, ..."""
        return [f"fold{fold}" for fold in (range(self.folds) if self.run is None else self.run)]

    @model_validator(mode="after")
    def _runs_exist(self) -> Self:
        if self.run is not None and not (self.run and set(self.run) <= set(range(self.folds))):
            raise ValueError(
                f"run must name folds from 0 to {self.folds - 1}: got {list(self.run)}"
            )
        return self


class IntensitySettings(Settings):
    """How grey values reach the network."""

    normalise: Literal["zscore", "percentile"] = setting(
        "zscore",
        "subtract the mean, divide by the standard deviation; or map two percentiles to 0 and 1",
    )
    low_percentile: float = setting(0.5, "mapped to 0 by percentile", "%", ge=0, lt=50)
    high_percentile: float = setting(99.5, "mapped to 1 by percentile", "%", gt=50, le=100)
    source: Literal["training", "image"] = setting(
        "training", "statistics of the training images, or of each image (or volume) itself"
    )


class WeightsSettings(Settings):
    """Border weights, Ronneberger et al. 2015, equation 2."""

    w0: float = setting(
        10.0, "weight of the border term, on background pixels; 0 leaves it out", ge=0
    )
    sigma: float = setting(5.0, "its width", "finest voxels, or µm", gt=0, le=1000)
    sigma_unit: Literal["voxels", "um"] = setting("voxels", "what sigma is measured in")
    cap: float | None = setting(None, "largest weight", gt=0)
    foreground_factor: float = setting(1.0, "factor on the weight of all but background", gt=0)
    balance_classes: bool = setting(
        True,
        "w_c: classes weigh the inverse of their frequency in all annotated images of the dataset, "
        "mean 1",
    )
    separate_touching: bool = setting(
        True, "divide touching instances by a background line of one pixel in the training target"
    )


class PatchesSettings(Settings):
    """The cache of elastically deformed patches."""

    tile: Annotated[int | tuple[int, ...], OR_AUTO] = setting(
        572, "input extent of a patch per axis, admissible for the network", "pixels"
    )
    per_image: int = setting(30, "patches of each training image", ge=1)
    seed: int = setting(0, "of every draw", ge=0)
    elastic_sigma: float = setting(
        10.0, "standard deviation of the displacements (3D U-Net: 4)", "pixels", ge=0
    )
    elastic_grid: int = setting(
        3, "displacement vectors along each axis of a patch (the paper: 3)", ge=2, le=32
    )
    elastic_spacing: float | None = setting(
        None, "distance of the vectors instead of their number (3D U-Net: 32)", "pixels", gt=1
    )
    interpolation: Literal["spline", "convolution"] = setting(
        "spline", "of grey values: the exact cubic B-spline, or cubic convolution, which is quicker"
    )
    weights: Literal["deformed", "recomputed"] = setting(
        "deformed",
        "border weights of a patch: those of the image, deformed with it, or exactly those of the "
        "deformed objects",
    )
    rotation_degrees: float = setting(
        180.0, "rotation in the plane, drawn uniformly up to this", "°", ge=0, le=180
    )
    mirror: bool = setting(True, "mirror each axis or not, at random")
    scaling: float = setting(
        0.0, "zoom factor drawn log-uniformly between 1 / (1 + scaling) and 1 + scaling", ge=0, le=1
    )

    def tile_of(self, dimensions: int) -> tuple[int, ...]:
        """Tile as one extent per spatial axis."""
        return (self.tile,) * dimensions if isinstance(self.tile, int) else self.tile


RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "modern": {
        "batch": 4,
        "optimiser": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 1e-4,
        "schedule": "one_cycle",
        "precision": "auto",
    },
}
"""Values of the settings of training that a recipe differs in from their defaults."""


class TrainSettings(Settings):
    """The optimisation, bounded by steps and never by time, so that load changes no result."""

    recipe: Literal["paper", "modern"] = setting(
        "paper",
        "what settings are that are not given; paper: the defaults below, the U-Net of 2015; "
        f"modern: {', '.join(f'{key} {value}' for key, value in RECIPES['modern'].items())}",
    )
    steps: int = setting(3000, "optimiser steps of a fold", ge=1)
    batch: Annotated[int, OR_AUTO] = setting(1, "patches a step", ge=1)
    optimiser: Literal["sgd", "adam", "adamw"] = setting("sgd", "the paper: sgd")
    learning_rate: float = setting(1e-3, "peak learning rate", gt=0)
    momentum: float = setting(0.99, "of sgd", ge=0, lt=1)
    weight_decay: float = setting(0.0, "L2 penalty, decoupled for adamw", ge=0)
    schedule: Literal["constant", "one_cycle", "staircase"] = setting(
        "constant",
        "one_cycle warms up for 30 % of the steps, then anneals to 0; staircase multiplies by "
        "staircase_factor every staircase_steps",
    )
    staircase_factor: float = setting(0.95, "of each stair", gt=0, lt=1)
    staircase_steps: int = setting(1000, "length of a stair", "steps", ge=1)
    loss: Literal["cross_entropy", "dice", "dice_cross_entropy", "jaccard_cross_entropy"] = setting(
        "cross_entropy",
        "each under the border weights: the paper's; soft Dice; their sum; or H - log J",
    )
    gradient_clip: float | None = setting(None, "largest norm of the gradient", gt=0)
    orientations: bool = setting(True, "random flips and turns by 90° in the plane")
    gain: float = setting(0.1, "grey values are multiplied by 1 ± gain", ge=0, lt=1)
    offset: float = setting(0.1, "and shifted by ± offset, in normalised units", ge=0)
    gamma: float = setting(
        0.0,
        "bent by an exponent drawn log-uniformly between 1 / (1 + gamma) and 1 + gamma, between "
        "the patch's lowest and highest value",
        ge=0,
        le=4,
    )
    noise: float = setting(
        0.0, "largest standard deviation of Gaussian noise, in normalised units", ge=0
    )
    blur: float = setting(0.0, "largest standard deviation of a Gaussian blur", "pixels", ge=0)
    validate_every: int = setting(250, "steps between validations; the best model is kept", ge=1)
    patience: int | None = setting(
        None, "stop after so many validations without a better one; null: take all steps", ge=1
    )
    checkpoint_minutes: float = setting(5.0, "between resume points", "minutes", gt=0)
    precision: Precision = setting("32", PRECISION)
    compile: bool = setting(
        False,
        "compile the network before training, which takes a minute or so; where there is no "
        "compiler the log says so and training goes on without",
    )
    device: Literal["cpu", "gpu", "auto"] = setting(
        "auto", "gpu without one is an error; auto logs its choice"
    )
    devices: int = setting(
        1, "processes of one job that divide each batch, each with a GPU of its own if any", ge=1
    )
    memory_gb: float = setting(
        8.0,
        "memory of each device that a plan may fill, for what is set to auto; it does not ask the "
        "device, which may be another's",
        "GB",
        gt=0,
    )
    threads: int = setting(
        2, "CPU threads of each process, part of what makes the same bytes", ge=1
    )
    seeds: Distinct = setting((0,), "one training each", min_length=1)
    start_from: str | None = setting(
        None,
        "folder of a model.json and model.safetensors to go on from, such as "
        "results/experiments/NAME/final/seed0, with the same network; or an experiment of the same "
        "file, as an earlier stage: its network of the same split and seed",
    )
    freeze_encoder: bool = setting(
        False,
        "leave the contracting path as start_from or model.pretrained has it; for very few images",
    )

    @model_validator(mode="before")
    @classmethod
    def _recipe_fills_in(cls, given: Any) -> Any:
        recipe = given.get("recipe") if isinstance(given, dict) else None
        return RECIPES[recipe] | given if isinstance(recipe, str) and recipe in RECIPES else given

    @model_validator(mode="after")
    def _batch_divides_among_devices(self) -> Self:
        if self.batch % self.devices:
            raise ValueError(
                f"batch must be a multiple of devices: got {self.batch} for {self.devices}; "
                f"set batch to {-(-self.batch // self.devices) * self.devices}"
            )
        return self


class PredictSettings(Settings):
    """Overlap-tile prediction."""

    tile: int | tuple[int, ...] | Literal["auto"] | None = setting(
        None,
        "largest input extent of a tile, admissible for the network; null: the patches' tile, with "
        "padding so much more that inside an image as much is written as a patch shows; auto: the "
        "fastest for each image within memory_gb (validation of a training: as null)",
        "pixels",
    )
    memory_gb: float = setting(
        4.0,
        "memory that a tile with its network may fill where tile is auto; it does not ask the "
        "device, which may be another's",
        "GB",
        gt=0,
    )
    orientations: Literal[1, 4, 8, 16, 48] = setting(
        1,
        "average over turns of the plane by 90° (4), and their mirror images (8); of a volume by a "
        "3D network also over the order of its planes (16), or all symmetries of a cube (48)",
    )
    rotations: int = setting(
        1,
        "of an experiment's own images by a 2D network: average over so many evenly spaced "
        "rotations of the whole plane in memory (the paper: 7)",
        ge=1,
    )
    dtype: Literal["uint8", "float16", "float32"] = setting(
        "float16", "of what is stored; probabilities in uint8 are 0 to 255"
    )
    output: Literal["probabilities", "classes", "logits"] = setting(
        "probabilities",
        "of an archive's volumes: probabilities of all classes but background; the number of the "
        "most probable class; or logits of all classes",
    )
    channels: tuple[str, ...] | None = setting(
        None,
        "classes whose probabilities an archive's volumes store, of which alone objects are made; "
        "null: all but background",
    )
    unannotated: bool = setting(
        True,
        "the dataset's images without truth are predicted, by a final network that learns from all "
        "others; false: only scores are wanted",
    )
    keep: bool = setting(
        True, "an archive's predictions once they are segmented and scored; else they are removed"
    )
    block_minutes: float = setting(
        30.0,
        "estimated work of one job on an archive, of one core or a GPU, in whole shards of a "
        "large volume or in several small volumes",
        "minutes",
        gt=0,
    )
    voxel_size_um: dict[Literal["z", "y", "x"], Annotated[float, Field(gt=0)]] | None = setting(
        None,
        "an archive's volumes are resampled to it, linearly, where theirs is another; null: they "
        "are taken as they are, if their voxels are as large as those that the model learned from",
        "µm",
    )
    missing_chunks: Literal["error", "fill"] = setting(
        "error",
        "chunks that an archive's Zarr volume does not store: a copy that was cut short lacks them"
        ", and so do volumes that leave empty ones out, which are to be filled",
    )
    input_checksum: Literal["metadata", "data"] = setting(
        "metadata",
        "by which an archive's volume is known to be the same: size and time of its file, or data "
        "type and chunks of its array; or its voxels, which planning then reads",
    )
    precision: Precision = setting("32", PRECISION)
    backend: Literal["torch", "openvino", "auto"] = setting(
        "torch",
        "what runs the network; openvino is the faster one on CPUs, above all for 3D networks, and "
        "to be installed; auto: it on a CPU where it is installed, else torch; logs its choice",
    )
    device: Literal["cpu", "gpu", "auto"] = setting(
        "auto", "gpu without one is an error; auto logs its choice"
    )
    threads: int = setting(2, "CPU threads", ge=1)
    scheduler: str | None = setting(
        None,
        "address of a running Dask cluster, such as tcp://node:8786, whose workers predict the "
        "shards of a block; or slurm, pbs, sge, lsf, oar, moab or htcondor, of which a block asks "
        "for workers by dask-jobqueue, as its jobqueue.yaml says; null: the job itself predicts",
    )
    workers: int = setting(
        4, "jobs of one worker each that a block asks of a batch system in scheduler", ge=1
    )

    @model_validator(mode="after")
    def _backend_suits_the_device(self) -> Self:
        if self.backend == "openvino" and self.device == "gpu":
            raise ValueError("backend must be torch on a GPU: got openvino; set predict.backend")
        return self

    @model_validator(mode="after")
    def _output_fits_its_storage(self) -> Self:
        if self.output == "logits" and self.dtype == "uint8":
            raise ValueError(
                "dtype must be float16 or float32 for logits: got uint8; set predict.dtype"
            )
        if self.channels is not None and self.output != "probabilities":
            raise ValueError(
                f"channels must be of probabilities: got output {self.output}; leave one out"
            )
        return self

    @property
    def fixed_tile(self) -> int | tuple[int, ...] | None:
        """The tile where it is given; None where it follows the patches or the image."""
        return None if self.tile == "auto" else self.tile


class SegmentSettings(Settings):
    """From probabilities to instances."""

    method: Literal["components", "watershed"] = setting(
        "components",
        "connected components above the threshold; or those above seed_threshold, grown by "
        "watershed on the probability to the threshold",
    )
    threshold: Fraction | Literal["auto"] = setting(
        "auto", "of the foreground probability; auto: the best Dice on the validation images"
    )
    seed_threshold: Fraction = setting(0.8, "of watershed's seeds")
    merge_below: Fraction | None = setting(
        None,
        "after watershed, neighbours are joined, weakest boundary first, while the mean background "
        "probability along their boundary is below this; null: none are",
    )
    minimum_size: int = setting(0, "smaller objects are dropped", "pixels", ge=0)
    fill_holes: int = setting(
        0,
        "holes of at most so many pixels become objects'; a hole is background within the image, "
        "connected through faces, that does not reach its border",
        "pixels",
        ge=0,
    )
    objects: Literal["tsv", "parquet"] = setting(
        "tsv",
        "table of objects: objects.tsv; or objects.parquet beside it, with all digits, which needs "
        "unetflow[parquet]",
    )
    outlines: Literal["none", "fiji", "qupath"] = setting(
        "none",
        "of each object in each plane: a ROI set for Fiji, outlines.zip; or annotations for QuPath,"
        " outlines.geojson",
    )
    link_planes: Fraction | None = setting(
        None,
        "objects that a 2D network found in neighbouring planes are one if they overlap each other "
        "most, and by so much (intersection over union); null: each is of one plane",
    )
    block_megavoxels: float = setting(
        17.0,
        "a larger volume is segmented in blocks of whole shards of at most so many voxels, each of "
        "which takes 150 bytes by watershed",
        "million voxels",
        gt=0,
    )
    job_megavoxels: float = setting(
        1000.0,
        "a larger volume's blocks are divided among jobs of about so many voxels each, unless "
        "fill_holes is set",
        "million voxels",
        gt=0,
    )
    margin: int = setting(
        32, "by watershed, what a block sees around it, as wide as an object", "voxels", ge=1
    )
    join_overlap: Fraction = setting(
        0.3,
        "by watershed, intersection over union at the seam of two blocks from which on two objects "
        "are one",
    )


class TrackSettings(Settings):
    """From instances of successive frames to tracks."""

    enabled: bool = setting(
        False,
        "link the instances of the frames of each sequence (group) of the dataset, all frames that "
        "were held out together, and score them where the dataset has true tracks",
    )
    division: float = setting(
        0.25,
        "objects are the children of one of the frame before if each lies mostly in it and covers "
        "at least this part of it; above 0.5 nothing divides",
        gt=0,
        le=1,
    )
    max_distance: float = setting(
        0.0,
        "what overlaps nothing is linked to what was lost within this distance of centroids; 0: "
        "it begins a track",
        "µm, or pixels where the image does not tell their size",
        ge=0,
    )
    gap: int = setting(
        0,
        "within max_distance, a track may be lost in so many frames and be found as its own child",
        "frames",
        ge=0,
    )
    field_of_interest: int = setting(
        0,
        "frame of a picture: objects that lie wholly in it are not tracked (E of the challenge)",
        "pixels",
        ge=0,
    )

    @model_validator(mode="after")
    def _gap_has_a_distance(self) -> Self:
        if self.gap and not self.max_distance:
            raise ValueError(
                f"gap must have a max_distance: got gap {self.gap} and max_distance 0; set "
                "track.max_distance to what objects move in a frame"
            )
        return self


class EvaluateSettings(Settings):
    """Scores of the test images."""

    plane_by_plane: bool = setting(True, "score a stack as the mean over its planes")
    ignore_border: int = setting(0, "frame left out of the scores", "pixels", ge=0)
    challenge: Literal["isbi2012"] | None = setting(
        None,
        "isbi2012: 2D sections of one size are also scored together as that challenge did, with "
        "all classes but background as cells, each score at its best threshold",
    )
    surface_tolerance: float | None = setting(
        None,
        "surface distances of each class are scored too, and the part of its surface that is "
        "within this distance; null: they are not",
        "µm, or pixels where the image does not tell their size",
        ge=0,
    )


class AuthorSettings(Settings):
    """One author of an exported network."""

    name: str = setting(..., "full name", min_length=1, pattern=r"^[^/\\]+$")
    affiliation: str | None = setting(None, "institution")
    orcid: str | None = setting(
        None, "ORCID iD, such as 0000-0001-2345-6789", pattern=r"^(\d{4}-){3}\d{3}[\dX]$"
    )


class ExportSettings(Settings):
    """What the package of an exported network says of it."""

    title: str | None = setting(
        None,
        "its name; null: U-Net and the experiment's",
        min_length=5,
        max_length=64,
        pattern=r"^[A-Za-z0-9_+\- ()]+$",
    )
    authors: tuple[AuthorSettings, ...] = setting(
        (), "who made it; none are stated where none are given, which bioimage.io does not publish"
    )
    licence: str | None = setting(
        None,
        "SPDX identifier of its licence, such as CC-BY-4.0; null: the dataset's where that is one, "
        "else none is stated",
    )


class ExperimentSettings(Settings):
    """One experiment: a dataset and every stage up to its scores."""

    description: str = setting("", "a sentence for the report")
    dataset: Name | DatasetSettings = setting(
        ..., "name of a registry entry, or a dataset written out"
    )
    split: SplitSettings = SplitSettings()
    intensity: IntensitySettings = IntensitySettings()
    weights: WeightsSettings = WeightsSettings()
    patches: PatchesSettings = PatchesSettings()
    model: Network = setting(UNetSettings(), "the network, of those below")
    train: TrainSettings = TrainSettings()
    predict: PredictSettings = PredictSettings()
    segment: SegmentSettings = SegmentSettings()
    track: TrackSettings = TrackSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    export: ExportSettings = ExportSettings()
    automatic: tuple[Automatic, ...] = setting(
        (), "settings whose values a plan chooses from the data; those that are auto are added"
    )
    variants: dict[Name, dict[str, Any]] = setting(
        {}, "further experiments NAME-variant: dotted key: value changes of this one"
    )

    @model_validator(mode="before")
    @classmethod
    def _auto_is_left_to_the_plan(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        result, automatic = dict(given), list(given.get("automatic", ()))
        for key in get_args(Automatic):
            section, name = key.split(".")
            of = result.get(section)
            if not isinstance(of, dict) or of.get(name) != "auto":
                continue
            result[section] = {field: value for field, value in of.items() if field != name}
            if name == "batch":  # any that divides among the devices, until the plan has chosen
                result[section]["batch"] = of.get("devices", 1)
            automatic.append(key)
        return result | {"automatic": automatic} if automatic else result

    @model_validator(mode="before")
    @classmethod
    def _network_is_unet_unless_named(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(model := given.get("model"), dict):
            return given | {"model": {"network": "unet"} | model}
        return given

    @model_validator(mode="after")
    def _planned_depth_is_a_setting(self) -> Self:
        if "model.depth" in self.automatic and "depth" not in type(self.model).model_fields:
            raise ValueError(
                f"model.depth auto must be of a network that has it: got {self.model.network}; "
                "leave it out"
            )
        return self

    @field_validator("dataset")
    @classmethod
    def _written_out_has_name(cls, dataset: str | DatasetSettings) -> str | DatasetSettings:
        if isinstance(dataset, DatasetSettings) and dataset.name is None:
            raise ValueError("a dataset written out must have a name: got none; add dataset.name")
        return dataset

    @model_validator(mode="after")
    def _tiles_are_admissible(self) -> Self:
        if self.patches_are_planned:
            return self  # looked at when the plan has chosen
        for stage, tile in (("patches", self.patches.tile), ("predict", self.predict.tile)):
            try:
                for axis, extent in zip(self.model.geometry, self.per_axis(tile), strict=True):
                    if stage == "patches":
                        axis.check_patch(extent)
                    else:
                        axis.step(extent)
            except ValueError as error:
                raise ValueError(f"{stage}.{error}") from error
        return self

    @model_validator(mode="after")
    def _orientations_suit_the_network(self) -> Self:
        if self.predict.rotations > 1 and self.model.dimensions == 3:
            raise ValueError(
                f"predict.rotations must be 1 for a 3D network: got {self.predict.rotations}; "
                "set predict.orientations"
            )
        if self.predict.rotations > 1 and self.predict.orientations > 1:
            raise ValueError(
                "predict.rotations must be 1 where there are orientations: got "
                f"{self.predict.rotations} and {self.predict.orientations}; leave one out"
            )
        try:
            orientations(self.predict.orientations, self.model.dimensions)
        except ValueError as error:
            raise ValueError(f"predict.{error}") from error
        return self

    @model_validator(mode="after")
    def _batch_is_normalised_whole(self) -> Self:
        # Else a network would learn another thing from several processes than from one.
        if self.model.mixes_batch and self.train.devices > 1:
            raise ValueError(
                "model.normalisation batch must see all of a batch: got train.devices "
                f"{self.train.devices}, which divide it; set train.devices to 1"
            )
        return self

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        pretrained = isinstance(self.model, VggSettings) and self.model.pretrained is not None
        if self.train.start_from is not None and pretrained:
            raise ValueError(
                "train.start_from must be alone: got model.pretrained too; set one of them to null"
            )
        if self.train.freeze_encoder and self.train.start_from is None and not pretrained:
            raise ValueError(
                "train.freeze_encoder must have train.start_from or model.pretrained: got none; "
                "name a trained model"
            )
        return self

    @property
    def patches_are_planned(self) -> bool:
        """Whether the patches wait for the plan of the training."""
        return bool({"model.depth", "patches.tile"} & {*self.automatic})

    def per_axis(self, tile: int | tuple[int, ...] | Literal["auto"] | None) -> tuple[int, ...]:
        """Return a tile setting as one extent per spatial axis of the network.

        None stands for the tile of prediction that writes as much as a patch does, and so does
        `auto`, which waits for an image: a training validates in that tile.
        """
        if tile is None or tile == "auto":
            patch = self.per_axis(self.patches.tile)
            return tuple(
                axis.at_least(extent - 2 * axis.frame + 2 * axis.reach)
                for axis, extent in zip(self.model.geometry, patch, strict=True)
            )
        extents = (tile,) * self.model.dimensions if isinstance(tile, int) else tile
        if len(extents) != self.model.dimensions:
            raise ValueError(
                f"tile must be a number or {self.model.dimensions} of them: got {list(extents)}"
            )
        return extents


class RunSettings(Settings):
    """What config/config.yaml says."""

    experiments: tuple[Name, ...] = setting(
        (), "files of config/experiments to run, or NAME-variant"
    )
    archives: tuple[Name, ...] = setting((), "sheets of config/archives to segment")
    results: str = setting("results", "folder of everything that is made")
    registry: str | None = setting(
        None,
        "a file with other URLs and checksums for datasets of the registry: a mirror, a local copy",
    )

    @field_validator("experiments", "archives", mode="before")
    @classmethod
    def _one_is_a_list(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names
