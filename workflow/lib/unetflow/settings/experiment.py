"""An experiment with all of its stages, and a run of some."""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

from pydantic import field_validator, model_validator

from unetflow.models.unet.settings import UNetSettings
from unetflow.orientations import orientations
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.evaluation import EvaluateSettings, ExportSettings
from unetflow.settings.fields import Name, Settings, setting
from unetflow.settings.network import VggSettings
from unetflow.settings.networks import Network
from unetflow.settings.prediction import PredictSettings, SegmentSettings, TrackSettings
from unetflow.settings.training import (
    IntensitySettings,
    PatchesSettings,
    SplitSettings,
    TrainSettings,
    WeightsSettings,
)

Automatic = Literal["model.depth", "model.width", "patches.tile", "train.batch"]

OF_A_REGRESSION: dict[str, dict[str, Any]] = {
    "train": {"loss": "l1", "gain": 0.0, "offset": 0.0},
    "predict": {"dtype": "float32", "output": "values"},
}
"""Values of settings that a regression has where none are given."""
OF_VALUES = ("l1", "l2", "ssim")
"""Losses of a regression."""
OF_CLASSES: dict[str, tuple[str, ...]] = {
    "split": ("tested_planes",),
    "patches": ("balanced", "weights"),
    "train": ("gamma",),
    "predict": ("channels",),
    "evaluate": ("challenge", "surface_tolerance", "regions"),
}
"""Settings that mean nothing for a regression, beside the sections weights, segment and track."""


class ExperimentSettings(Settings):
    """One experiment: a dataset and every stage up to its scores."""

    description: str = setting("", "a sentence for the report")
    dataset: Name | DatasetSettings = setting(
        ..., "name of a registry entry, or a dataset written out"
    )
    task: Literal["segmentation", "regression"] = setting(
        "segmentation",
        "what a network tells of a pixel: its class, of which objects are made; or the true values "
        "that the dataset has of it, without weights, objects and tracks",
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

    @model_validator(mode="before")
    @classmethod
    def _task_fills_in(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("task") != "regression":
            return given
        filled = {
            section: values | part
            for section, values in OF_A_REGRESSION.items()
            if isinstance(part := given.get(section, {}), dict)
        }
        return given | filled

    @model_validator(mode="after")
    def _settings_suit_the_task(self) -> Self:
        regression = self.task == "regression"
        if (self.train.loss in OF_VALUES) != regression:
            others = [*get_args(type(self.train).model_fields["loss"].annotation)]
            losses = [loss for loss in others if (loss in OF_VALUES) == regression]
            raise ValueError(
                f"train.loss must be {', '.join(losses)} for the task {self.task}: got "
                f"{self.train.loss}; set one of them"
            )
        if not regression:
            self._require_defaults("evaluate", ("data_range", "pixel_ratio", "baselines"))
            if self.predict.output == "values":
                raise ValueError(
                    "predict.output values must be of the task regression: got segmentation; set "
                    "another"
                )
            return self
        for section in ("weights", "segment", "track"):
            self._require_defaults(section, tuple(type(getattr(self, section)).model_fields))
        for section, names in OF_CLASSES.items():
            self._require_defaults(section, names)
        if self.train.gain or self.train.offset:
            raise ValueError(
                "train.gain and train.offset must be 0 for the task regression, since they change "
                f"the picture and not its true values: got {self.train.gain:g} and "
                f"{self.train.offset:g}; leave them out"
            )
        if self.predict.dtype == "uint8":
            raise ValueError(
                "predict.dtype must be float16 or float32 for the task regression: got uint8"
            )
        if self.predict.output != "values":
            raise ValueError(
                "predict.output must be values for the task regression: got "
                f"{self.predict.output}; leave it out"
            )
        if not self.predict.keep:
            raise ValueError(
                "predict.keep must be true for the task regression, whose predictions are the "
                "result: got false; leave it out"
            )
        return self

    def _require_defaults(self, section: str, names: tuple[str, ...]) -> None:
        of = getattr(self, section)
        for name in names:
            if getattr(of, name) != type(of).model_fields[name].default:
                raise ValueError(
                    f"{section}.{name} must be left out for the task {self.task}, for which it "
                    f"means nothing: got {getattr(of, name)}"
                )

    @model_validator(mode="after")
    def _planned_depth_is_a_setting(self) -> Self:
        if "model.depth" in self.automatic and "depth" not in type(self.model).model_fields:
            raise ValueError(
                f"model.depth auto must be of a network that has it: got {self.model.network}; "
                "leave it out"
            )
        each = isinstance(self.model, UNetSettings) and self.model.pools_differently
        if "model.depth" in self.automatic and each:
            raise ValueError(
                "model.depth auto must be of one pool_size for all poolings: got a list of several;"
                " set model.depth"
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
        for stage, tile, check in (
            ("patches", self.patches.tile, self.model.check_patch),
            ("predict", self.predict.tile, self.model.check_tile),
        ):
            try:
                check(self.per_axis(tile))
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
        if self.predict.orientations == 48 and len(set(self.model.geometry)) > 1:
            raise ValueError(
                "predict.orientations must be 16 at most where filter_size or pool_size differ "
                "between axes, which they would exchange: got 48"
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
                "model.normalisation batch, instance or group must see all of a batch: got "
                f"train.devices {self.train.devices}, which divide it; set train.devices to 1"
            )
        return self

    @model_validator(mode="after")
    def _stored_statistics_fit_every_image(self) -> Self:
        # A tile's own are not those of its image: predictions take the mean of training's instead.
        kind = getattr(self.model, "normalisation", "none")
        if kind in ("instance", "group") and self.intensity.source != "image":
            raise ValueError(
                f"model.normalisation {kind} must have images of one contrast, since it predicts "
                "with the statistics that training stored: got intensity.source "
                f"{self.intensity.source}; set that to image, or normalisation to layer or batch"
            )
        return self

    @model_validator(mode="after")
    def _weights_come_from_one_place(self) -> Self:
        pretrained = isinstance(self.model, VggSettings) and self.model.pretrained is not None
        if pretrained and "model.width" in self.automatic:
            raise ValueError(
                "model.width must be 64 for model.pretrained, as VGG's is: got auto; leave it out"
            )
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
    def dataset_name(self) -> str:
        """Name of the dataset, in the registry or written out."""
        return self.dataset if isinstance(self.dataset, str) else str(self.dataset.name)

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
    view: str = setting(
        "", "what `snakemake view` shows: ARCHIVE/VOLUME, or ARCHIVE; empty: every volume"
    )
    view_port: int = setting(
        0, "where it serves it, on this machine alone; 0: at any port that is free", ge=0, le=65535
    )

    @field_validator("results")
    @classmethod
    def _results_hold_no_wildcards(cls, folder: str) -> str:
        if set(folder) & set("{}<>"):
            raise ValueError(
                "must be a folder without { } < and >, which stand for wildcards: "
                f"got {folder!r}; rename it"
            )
        return folder

    @field_validator("experiments", "archives", mode="before")
    @classmethod
    def _one_is_a_list(cls, names: Any) -> Any:
        return [names] if isinstance(names, str) else names
