"""Where a dataset comes from, and how its files are laid out."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from unetflow.settings.fields import (
    Name,
    Settings,
    setting,
)

SCENE_RATIO = 4
"""Pixel size of a synthetic scene's bands over that of its panchromatic one."""
TARGETS_OF_TEXTURES = {
    "fluorescence": ("signal",),
    "multispectral": ("blue", "green", "red", "infrared"),
}
"""Channels of the true values of synthetic pictures that have such."""


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


class TargetsLayout(Settings):
    """Pictures with the true values that a network is to make of them: the task regression.

    Files are TIFF, GeoTIFF and what archives' volumes may be, pictures, or MATLAB's .mat, in which
    the channels of a picture come last.
    """

    kind: Literal["targets"]
    images: str = setting(
        ...,
        "pattern of pictures; {image} (or else the last *) is the name, {group} the patient",
    )
    targets: str = setting(
        ..., "pattern of pictures of the true values, of the same rows and columns"
    )
    channels: tuple[Name, ...] = setting(
        ("target",), "names of the targets' channels, in their order", min_length=1
    )
    image_key: str | None = setting(
        None, "variable of the picture in .mat files; null: the only array there is"
    )
    target_key: str | None = setting(None, "likewise of its true values")


class Hdf5Layout(Settings):
    """HDF5 files that hold a volume and its labels under two keys."""

    kind: Literal["hdf5"]
    files: str = setting(..., "pattern of the files; {image} and {group} as for pairs")
    image: str = setting(..., "key of the volume")
    labels: str | None = setting(..., "key of the labels; null: not annotated")
    labels_are: Literal["instances", "classes"] = setting("instances", "what label values mean")
    classes: dict[str, int] | None = setting(None, "for class labels, class name: its value")
    planes_are_images: bool = setting(False, "each plane is an image of its own (2D networks)")


class MedicalLayout(Settings):
    """Medical volumes, of each case a file per modality and a mask, as of BRATS and SLIVER07.

    Files are NIfTI or MetaImage; a series of DICOM slices is a folder.
    """

    kind: Literal["medical"]
    images: str = setting(
        ...,
        "pattern of the volumes; {image} is the case, {channel} the modality, {group} the patient",
    )
    channels: tuple[str, ...] = setting(
        (), "modalities that {channel} stands for, in the order of the network's channels"
    )
    masks: str | None = setting(..., "pattern of the masks; null: there are none")
    require_masks: bool = setting(
        True, "a case without mask is refused; else it is an image too, not annotated"
    )
    classes: dict[str, int] = setting(
        ..., "class name: its value in the masks; the first is background"
    )


class DecathlonLayout(Settings):
    """A task of the Medical Segmentation Decathlon: dataset.json names volumes and classes."""

    kind: Literal["decathlon"]
    unannotated_too: bool = setting(
        False, "the volumes of its test part are images too, not annotated"
    )


class SyntheticLayout(Settings):
    """Labelled pictures made on the spot, which look like microscopy, or like a patient."""

    kind: Literal["synthetic"]
    texture: Literal[
        "membranes",
        "cells",
        "circles",
        "rectangles",
        "phantom",
        "fluorescence",
        "multispectral",
    ] = setting(
        "membranes",
        "EM sections, phase contrast, bright shapes in noise, or volumes of a body with lesion in "
        "four modalities; with true values instead of classes: fluorescence with the noise of a "
        "camera, or four coarse bands of a landscape, interpolated to the panchromatic one",
    )
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

    @model_validator(mode="after")
    def _phantom_is_a_volume(self) -> Self:
        if self.texture == "phantom" and (len(self.shape) != 3 or self.planes_are_images):
            raise ValueError(
                f"a phantom must be a volume: got shape {list(self.shape)}, planes_are_images "
                f"{str(self.planes_are_images).lower()}; set three extents, and that to false"
            )
        if self.texture == "multispectral" and (
            len(self.shape) != 2 or any(extent % SCENE_RATIO for extent in self.shape)
        ):
            raise ValueError(
                f"a multispectral scene must be rows and columns in multiples of {SCENE_RATIO}: "
                f"got shape {list(self.shape)}; set two such extents"
            )
        return self


Layout = Annotated[
    StackLayout
    | CtcLayout
    | PairsLayout
    | TargetsLayout
    | Hdf5Layout
    | MedicalLayout
    | DecathlonLayout
    | SyntheticLayout,
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
    resample_um: dict[Literal["z", "y", "x"], Annotated[float, Field(gt=0)]] | None = setting(
        None,
        "images are prepared with voxels of this size: grey values linearly, classes by the "
        "largest of their linear shares, instances by the nearest voxel; scores are those on the "
        "grid that was annotated; null: as they are",
        "µm",
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
    def target_names(self) -> tuple[str, ...]:
        """Names of the channels of its true values; none where its truth are classes."""
        if isinstance(self.layout, TargetsLayout):
            return self.layout.channels
        texture = getattr(self.layout, "texture", "")
        return TARGETS_OF_TEXTURES.get(texture, ())

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, background first; class `k` of a label image is name `k`."""
        if self.target_names:
            return ()
        classes = getattr(self.layout, "classes", None)
        if classes:
            return tuple(classes)
        if isinstance(self.layout, SyntheticLayout) and self.layout.texture == "membranes":
            return ("membrane", "cell")
        if isinstance(self.layout, SyntheticLayout) and self.layout.texture == "phantom":
            return ("background", "rim", "core")
        return ("background", "cell")
