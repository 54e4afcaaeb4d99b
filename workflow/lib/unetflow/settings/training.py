"""From a dataset to a trained network: split, grey values, weights, patches, optimisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from unetflow.settings.fields import (
    OR_AUTO,
    PRECISION,
    Distinct,
    Fraction,
    Precision,
    Settings,
    setting,
)


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
        ge=1,
        le=50,
    )
    validate_on: Literal["fold", "training"] = setting(
        "fold",
        "what chooses step and thresholds: the next fold, which then does not train; or, where "
        "none can be spared, the training images themselves",
    )
    run: Distinct | None = setting(
        None, "which folds to run; null: all. The model named final learns from those that ran"
    )
    seed: int = setting(0, "order of groups or images before they are dealt out", ge=0)
    tested_planes: int | None = setting(
        None,
        "as the 3D U-Net's semi-automated use: a fold learns from the very stacks that it tests, "
        "and is tested on every n-th plane of them, across the first axis, which neither teaches "
        "nor validates; null: on whole images that it has not seen",
        ge=2,
    )

    @property
    def names(self) -> list[str]:
        """Names of the folds that run: fold0, fold1, ..."""
        return [f"fold{fold}" for fold in (range(self.folds) if self.run is None else self.run)]

    @property
    def validating_folds(self) -> int:
        """How many folds' images a training validates on."""
        every = self.validate_on == "training" and self.tested_planes is None
        return self.folds - 1 if every else 1

    @model_validator(mode="after")
    def _one_fold_tests_planes(self) -> Self:
        if self.folds == 1 and self.tested_planes is None:
            raise ValueError(
                "folds must be at least 2 to test on images that were not seen: got 1; raise it, "
                "or set split.tested_planes"
            )
        return self

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
    clip: tuple[float, float] | None = setting(
        None, "lowest and highest grey value, to which those beyond are set before all else"
    )
    source: Literal["training", "image"] = setting(
        "training", "statistics of the training images, or of each image (or volume) itself"
    )
    pixels: Literal["all", "nonzero"] = setting(
        "all", "of which statistics are; nonzero: of scans whose surroundings were set to 0"
    )

    @field_validator("clip")
    @classmethod
    def _clip_leaves_a_range(cls, clip: tuple[float, float] | None) -> tuple[float, float] | None:
        if clip is not None and clip[0] >= clip[1]:
            raise ValueError(f"must be a lower and a higher grey value: got {list(clip)}")
        return clip


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
        "without planes that are tested or left out by annotated_planes, mean 1",
    )
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = setting(
        None, "w_c given by hand, one per class, background first, instead of balance_classes"
    )
    annotated_planes: dict[Literal["z", "y", "x"], Annotated[int, Field(ge=1)]] | None = setting(
        None,
        "as if only every n-th plane across each of these axes were annotated, as {z: 10, y: 10, "
        "x: 10} (3D U-Net: a few of each); the others teach nothing, nor validate. Tests have all; "
        "null: all. With split.tested_planes, every n-th of those that are not tested",
        min_length=1,
    )
    separate_touching: bool = setting(
        True, "divide touching instances by a background line of one pixel in the training target"
    )

    @field_validator("class_weights")
    @classmethod
    def _some_class_teaches(cls, weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if weights is not None and not any(weights):
            raise ValueError(
                f"must be above 0 for some class, or nothing is learned: got {list(weights)}; "
                "raise one, or leave it out"
            )
        return weights


class PatchesSettings(Settings):
    """The cache of elastically deformed patches."""

    tile: Annotated[int | tuple[int, ...], OR_AUTO] = setting(
        572, "input extent of a patch per axis, admissible for the network", "pixels"
    )
    per_image: int = setting(30, "patches of each training image", ge=1)
    balanced: Fraction = setting(
        0.0,
        "part of the patches that lie around a pixel of a class, drawn evenly among the classes of "
        "the image, so that rare ones are seen; the others lie anywhere",
    )
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
    loss: Literal[
        "cross_entropy", "dice", "dice_cross_entropy", "jaccard_cross_entropy", "l1", "l2", "ssim"
    ] = setting(
        "cross_entropy",
        "each under the border weights: the paper's; soft Dice; their sum; or H - log J, J the "
        "soft Jaccard index of each class but background; of a regression: the mean absolute "
        "error, its default; the mean squared error; or one minus structural similarity",
    )
    gradient_clip: float | None = setting(None, "largest norm of the gradient", gt=0)
    orientations: bool = setting(True, "random flips and turns by 90° in the plane")
    gain: float = setting(
        0.1, "grey values are multiplied by 1 ± gain; of a regression 0", ge=0, lt=1
    )
    offset: float = setting(
        0.1, "and shifted by ± offset, in normalised units; of a regression 0", ge=0
    )
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
    def _values_have_an_effect(self) -> Self:
        for name, of, one in (
            ("momentum", "optimiser", "sgd"),
            ("staircase_factor", "schedule", "staircase"),
            ("staircase_steps", "schedule", "staircase"),
        ):
            # Not whether it is given: settings that a run hands on give each.
            value, default = getattr(self, name), type(self).model_fields[name].default
            if getattr(self, of) != one and value != default:
                raise ValueError(
                    f"{name} must be left at {default} where {of} is {getattr(self, of)}, on which "
                    f"it has no effect: got {value}; leave it out, or set {of} to {one}"
                )
        return self

    @model_validator(mode="after")
    def _batch_divides_among_devices(self) -> Self:
        if self.batch % self.devices:
            raise ValueError(
                f"batch must be a multiple of devices: got {self.batch} for {self.devices}; "
                f"set batch to {-(-self.batch // self.devices) * self.devices}"
            )
        return self
