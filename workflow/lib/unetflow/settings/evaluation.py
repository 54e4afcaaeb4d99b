"""How objects are scored, and what an exported network says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from unetflow.settings.fields import (
    Name,
    Settings,
    setting,
)


class EvaluateSettings(Settings):
    """Scores of the test images."""

    plane_by_plane: bool = setting(True, "score a stack as the mean over its planes")
    ignore_border: int = setting(0, "frame left out of the scores", "pixels", ge=0)
    challenge: Literal["isbi2012", "sliver07"] | None = setting(
        None,
        "isbi2012: 2D sections of one size are also scored together as that challenge did, with "
        "all classes but background as cells, each score at its best threshold; sliver07: its "
        "points, from 0 to 100, for the surface and the volume of each class in whole volumes",
    )
    surface_tolerance: float | None = setting(
        None,
        "surface distances of each class are scored too, and the part of its surface that is "
        "within this distance; null: they are not",
        "surface_unit, or pixels where the image does not tell their size",
        ge=0,
    )
    surface_unit: Literal["um", "mm"] = setting("um", "of surface distances")
    regions: dict[Name, tuple[str, ...]] = setting(
        {},
        "name: classes that are scored together as one, beside each by itself, such as the whole "
        "tumour of its parts",
    )
    data_range: float | None = setting(
        None,
        "of a regression: largest possible value minus the least, for PSNR and SSIM; null: of the "
        "training targets, largest minus least",
        "units of the target",
        gt=0,
    )
    pixel_ratio: float | None = setting(
        None,
        "of a regression: pixel size before sharpening over that after, such as 4, for ERGAS; "
        "null: it is not scored",
        ge=1,
    )
    baselines: dict[Name, Literal["input", "gaussian", "brovey", "pca"]] = setting(
        {},
        "of a regression, name: what is scored beside the network. input: the picture's first "
        "channels, as many as the target has; gaussian: these, filtered by the width that suits "
        "the training images best; brovey and pca: these, sharpened by the next channel",
    )

    @model_validator(mode="after")
    def _points_are_for_volumes_in_mm(self) -> Self:
        found = self.surface_tolerance, self.surface_unit, self.plane_by_plane
        if self.challenge == "sliver07" and (found[0] is None or found[1:] != ("mm", False)):
            raise ValueError(
                "surface_tolerance must be set, surface_unit be mm and plane_by_plane be false for "
                f"the challenge sliver07: got {found[0]}, {found[1]} and {found[2]}; set all three"
            )
        return self

    def numbered_regions(self, class_names: Sequence[str]) -> dict[str, list[int]]:
        """Return the classes of each region by their numbers.

        Raises
        ------
        ValueError
            If a region has a class that there is not, or the name of a class.
        """
        for name, classes in self.regions.items():
            unknown = sorted({*classes} - {*class_names})
            if unknown or not classes:
                raise ValueError(
                    f"evaluate.regions.{name} must be of the classes {', '.join(class_names)}: got "
                    f"{', '.join(unknown) or 'none'}; correct it"
                )
            if name in class_names:
                raise ValueError(
                    f"evaluate.regions.{name} must have a name that no class has: got that of a "
                    "class; rename it"
                )
        return {
            name: [class_names.index(of) for of in classes]
            for name, classes in self.regions.items()
        }


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
