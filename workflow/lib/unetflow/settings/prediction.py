"""From a trained network to objects: prediction, instances, tracks."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unetflow.settings.fields import (
    PRECISION,
    Fraction,
    Precision,
    Settings,
    setting,
)


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
        "float16",
        "of what is stored; probabilities in uint8 are 0 to 255; of a regression float32",
    )
    output: Literal["probabilities", "classes", "logits", "values"] = setting(
        "probabilities",
        "of an archive's volumes: probabilities of all classes but background; the number of the "
        "most probable class; or logits of all classes; of a regression always values",
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
        True,
        "an archive's predictions once they are segmented and scored; else they are removed; those "
        "of a regression, which are the result, always",
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
    seed_threshold: Fraction | Literal["auto"] = setting(
        0.8,
        "of watershed's seeds; auto: for each network that which divides its validation images "
        "best (panoptic quality); for the final one the mean of the folds'",
    )
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

    @property
    def seeds_are_chosen(self) -> bool:
        """Whether validation images choose the threshold of watershed's seeds."""
        return self.method == "watershed" and self.seed_threshold == "auto"


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
