"""Training: which patches, the same bytes, and the same end after being killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from unetflow import training
from unetflow.augmentation import changed_grey
from unetflow.inference import Model, array_reader, build, load, logits, sha256, softmax
from unetflow.intensity import Normalisation, normalisations, write_histograms
from unetflow.losses import LOSSES
from unetflow.models.ternausnet.settings import TernausNetSettings
from unetflow.models.unet.settings import UNetSettings
from unetflow.optimisation import State, optimiser, schedule
from unetflow.patches import cut_patches, open_source
from unetflow.sampling import Patches
from unetflow.settings.datasets import DatasetSettings
from unetflow.settings.experiment import ExperimentSettings
from unetflow.settings.training import (
    IntensitySettings,
    PatchesSettings,
    TrainSettings,
    WeightsSettings,
)
from unetflow.store import (
    NOT_ANNOTATED,
    add_label,
    create_array,
    create_image,
    open_image,
    read_json,
    write_json,
)
from unetflow.training import Task, task_digest, train
from unetflow.validation import (
    THRESHOLDS,
    Validation,
    dice_at_thresholds,
    read_validation,
)
from unetflow.weights import write_weights

torch.set_num_threads(1)

TILE = 26
STEPS = 12
IMAGES = ("a", "b", "v")
FILES = ("model.safetensors", "last.safetensors", "history.tsv", "model.json")


PADDED = {"padding": "zeros", "normalisation": "batch"}


def experiment(
    dropout: float = 0.5, model: dict[str, Any] | None = None, **train_settings: Any
) -> ExperimentSettings:
    """Return the settings of a training of seconds."""
    chosen = {
        "steps": STEPS,
        "validate_every": 5,
        "learning_rate": 0.01,
        **({} if "optimiser" in train_settings else {"momentum": 0.9}),
        "device": "cpu",
        "threads": 1,
        **train_settings,
    }
    return ExperimentSettings(
        dataset="any",
        split={"unit": "image", "folds": 3},
        model={"width": 2, "depth": 1, "dropout": dropout, **(model or {})},
        patches={"tile": TILE, "per_image": 2},
        train=chosen,
    )


def prepare(root: Path, **model: Any) -> None:
    """Make two training images with two patches each, and one image for validation."""
    generator = np.random.default_rng(0)
    for name in IMAGES:
        instances = np.zeros((40, 44), np.uint32)
        for number in range(1, 7):
            row, column = generator.integers(0, 30, 2)
            instances[row : row + 10, column : column + 9] = number
        classes = (instances > 0).astype(np.uint8)
        pixels = (60 + 80 * classes + generator.normal(0, 25, classes.shape)).clip(0, 255)
        classes[:3] = NOT_ANNOTATED
        path = root / "images" / name
        create_image(path, "yx", pixels.shape, np.uint8, {})[...] = pixels.astype(np.uint8)
        add_label(path, "classes", "yx", classes, {})
        add_label(path, "instances", "yx", instances, {})
        write_histograms(path, root / "intensity" / f"{name}.json")
        weights = root / "weights" / name
        write_weights(path, weights, [800, 400], 2, WeightsSettings())
        cut(path, weights, root / "patches" / name, **model)


def cut(image: Path, weights: Path, output: Path, **model: Any) -> None:
    """Cut two patches of an image."""
    geometry = UNetSettings(depth=1, **model).geometry
    source = open_source(image, weights, geometry, WeightsSettings())
    cut_patches(source, output, PatchesSettings(tile=TILE, per_image=2))


def task_in(root: Path) -> Task:
    return Task(
        patches={name: root / "patches" / name for name in "ab"},
        validation={"v": root / "images/v"},
        histograms={name: root / "intensity" / f"{name}.json" for name in IMAGES},
        folds=[],
        class_names=["background", "cell"],
        voxel_size_um={"y": 0.5, "x": 0.5},
        plan={"reasons": {"model.width": "for a test"}},
    )


def train_in(root: Path, output: Path, **settings: Any) -> Path:
    train(task_in(root), experiment(**settings), output, output / "checkpoints")
    return output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    prepare(root)
    return root


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same data with patches for a padded network."""
    root = tmp_path_factory.mktemp("padded")
    prepare(root, **PADDED)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of an uninterrupted training."""
    before = signal.getsignal(signal.SIGTERM)
    yield train_in(data, tmp_path_factory.mktemp("trained"))
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Give pytest its own answer to SIGTERM back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_model_tells_the_grey_values_of_its_training_images(trained: Path, data: Path) -> None:
    intensity = read_json(trained / "model.json")["intensity"]
    pixels = [open_image(data / "images" / name).array[...] for name in "ab"]
    levels = [np.percentile(image, (1, 50, 99), method="inverted_cdf") for image in pixels]
    normal = (np.array(levels) - intensity["offset"][0]) / intensity["scale"][0]
    expected = np.stack([normal.min(axis=0), normal.max(axis=0)], axis=-1)
    np.testing.assert_allclose(intensity["levels"], expected[np.newaxis])


# -------------------------------------------------------------------------------- sampling


def sampler(root: Path, counts: list[int], seed: int, extents: tuple[int, ...] = (4, 4)) -> Patches:
    """Return patches whose pixels all hold the number of their image and their own: 100 i + k."""
    for image, count in enumerate(counts):
        shape = (count, 1, *extents)
        pixels = np.broadcast_to(
            (100 * image + np.arange(count)).reshape(-1, *(1,) * (len(shape) - 1)), shape
        )
        if (root / str(image)).exists():
            continue
        zarr.create_group(root / str(image), zarr_format=3)
        for name, part, dtype in (
            ("image", pixels, np.uint16),
            ("classes", pixels[:, 0] % 2, np.uint8),
            ("weights", pixels[:, 0], np.float32),
        ):
            axes = "ncyx" if name == "image" else "nyx"
            create_array(root / str(image) / name, axes, part.shape, dtype, part.shape, part.shape)[
                ...
            ] = part.astype(dtype)
    names = [str(image) for image in range(len(counts))]
    same = Normalisation((0.0,), (1.0,))
    return Patches({name: root / name for name in names}, dict.fromkeys(names, same), seed)


PLAIN = {"gain": 0, "offset": 0, "orientations": False}


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 7, 20])
def test_every_patch_is_used_once_in_each_epoch_whatever_the_batch(
    tmp_path: Path, batch: int
) -> None:
    patches = sampler(tmp_path, [3, 4], seed=0)
    settings = TrainSettings(batch=batch, **PLAIN)
    steps = -(-21 // batch)
    seen = [
        int(pixels[0, 0, 0]) for step in range(steps) for pixels in patches.batch(step, settings)[0]
    ]
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * (epoch + 1)]) == [0, 1, 2, 100, 101, 102, 103]


@given(st.integers(0, 2**40), st.integers(0, 50))
@examples(deadline=None, max_examples=30)
def test_the_order_depends_on_the_seed_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, place: int
) -> None:
    root = tmp_path_factory.getbasetemp() / "order"
    root.mkdir(exist_ok=True)
    first, again = (sampler(root, [3, 4], seed) for _ in range(2))
    for number in range(place):  # whatever has been asked for before
        again.position(number)
    assert first.position(place) == again.position(place)


def test_another_seed_and_another_epoch_give_another_order(tmp_path: Path) -> None:
    orders = {
        tuple(sampler(tmp_path, [5, 5], seed).position(number) for number in epoch)
        for seed in range(4)
        for epoch in (range(10), range(10, 20))
    }
    assert len(orders) == 8


@pytest.mark.parametrize("first", [0, 3])
def test_batches_read_ahead_equal_batches_read_directly(data: Path, first: int) -> None:
    task, settings = task_in(data), TrainSettings(batch=3)
    _, each = normalisations(task.histograms, ["a", "b"], IntensitySettings())
    patches = Patches(task.patches, each, seed=4)
    ahead = list(patches.ahead(first, settings, 11))
    assert len(ahead) == 11 - first
    for step, batch in enumerate(ahead, start=first):
        for found, expected in zip(batch, patches.batch(step, settings), strict=True):
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)
    assert [part.dtype for part in ahead[0]] == [torch.float32, torch.int64, torch.float32]
    assert [part.shape for part in ahead[0]] == [(3, 1, 26, 26), (3, 10, 10), (3, 10, 10)]


def test_a_batch_is_clipped_before_it_is_normalised(data: Path) -> None:
    task, settings = task_in(data), TrainSettings(batch=2, **PLAIN)
    pixels = []
    for clip in (None, (70.0, 130.0)):
        of = IntensitySettings(clip=clip)
        pooled, each = normalisations(task.histograms, ["a", "b"], of)
        patches = Patches(task.patches, each, seed=0)
        grey = patches.batch(0, settings)[0] * pooled.scale[0] + pooled.offset[0]
        pixels.append(grey)
    assert pixels[0].min() < 70
    assert pixels[0].max() > 130
    torch.testing.assert_close(pixels[1], pixels[0].clamp(70, 130))


def test_pixels_without_annotation_have_weight_0_and_a_class_that_exists(data: Path) -> None:
    task = task_in(data)
    _, each = normalisations(task.histograms, ["a", "b"], IntensitySettings())
    patches, unknown = Patches(task.patches, each, seed=0), 0
    for step in range(4):
        image, index = patches.position(step)
        stored = np.asarray(patches.arrays[image][1][index])
        _, classes, weights = patches.batch(step, TrainSettings(orientations=False))
        unknown += np.count_nonzero(stored == NOT_ANNOTATED)
        assert not weights[0].numpy()[stored == NOT_ANNOTATED].any()
        assert classes.max() < 2
        assert (classes[0].numpy() == stored)[stored != NOT_ANNOTATED].all()
    assert unknown


@pytest.mark.parametrize("extents", [(4, 4), (4, 6), (2, 4, 4)])
def test_pixels_classes_and_weights_are_turned_alike(
    tmp_path: Path, extents: tuple[int, ...]
) -> None:
    """Each batch must stack, also where patches are not square."""
    patches = sampler_of_ramps(tmp_path, extents)
    straight, found = patches.batch(0, TrainSettings(batch=1, **PLAIN))[0][0, 0], Counter()
    for step in range(60):
        settings = TrainSettings(batch=2, gain=0, offset=0)
        for pixels, classes, weights in zip(*patches.batch(step, settings), strict=True):
            assert (pixels[0] == weights).all()
            assert (classes == weights % 2).all()
            assert sorted(pixels.ravel().tolist()) == sorted(straight.ravel().tolist())
            found[tuple(pixels.ravel().tolist())] += 1
    square = extents[-1] == extents[-2]
    assert len(found) == (8 if square else 4)


def sampler_of_ramps(root: Path, extents: tuple[int, ...]) -> Patches:
    """Return one patch whose pixels are numbered; classes and weights follow from the number."""
    ramp = np.arange(np.prod(extents)).reshape(1, *extents)
    zarr.create_group(root / "ramp", zarr_format=3)
    for name, part, dtype in (
        ("image", ramp[:, None], np.uint16),
        ("classes", ramp % 2, np.uint8),
        ("weights", ramp, np.float32),
    ):
        axes = ("nc" if name == "image" else "n") + "zyx"[-len(extents) :]
        create_array(root / "ramp" / name, axes, part.shape, dtype, part.shape, part.shape)[...] = (
            part.astype(dtype)
        )
    return Patches({"ramp": root / "ramp"}, {"ramp": Normalisation((0.0,), (1.0,))}, seed=0)


def test_grey_values_change_within_gain_and_offset(tmp_path: Path) -> None:
    patches = sampler_of_ramps(tmp_path, (4, 4))
    gains, offsets = [], []
    for step in range(100):
        settings = TrainSettings(gain=0.2, offset=0.5, orientations=False)
        pixels = patches.batch(step, settings)[0].ravel()
        gain, offset = np.polynomial.polynomial.polyfit(np.arange(16), pixels, 1)[::-1]
        gains.append(gain)
        offsets.append(offset)
    assert 0.8 - 1e-5 <= min(gains) < 0.85 < 1.15 < max(gains) <= 1.2 + 1e-5
    assert -0.5 - 1e-5 <= min(offsets) < -0.4 < 0.4 < max(offsets) <= 0.5 + 1e-5


QUIET = {"gain": 0, "offset": 0}


def grey(pixels: NDArray[np.float32], seed: int, **settings: Any) -> NDArray[np.float32]:
    """Grey values of a patch, which is changed alike in a batch of others."""
    generators = [np.random.default_rng(number) for number in (seed, seed + 1)]
    batch = torch.from_numpy(np.stack([pixels, pixels[..., ::-1] * 3]))
    changed = changed_grey(batch, TrainSettings(**QUIET | settings), generators)
    alone = changed_grey(
        batch[:1], TrainSettings(**QUIET | settings), [np.random.default_rng(seed)]
    )
    assert changed.dtype == torch.float32
    assert changed.shape == batch.shape
    assert torch.allclose(changed[0], alone[0], atol=1e-6)
    return changed[0].numpy()


@given(st.integers(0, 2**32))
@examples(max_examples=30)
def test_gamma_keeps_the_range_and_the_order_of_grey_values(seed: int) -> None:
    pixels = np.random.default_rng(seed).normal(0, 3, (2, 9, 8)).astype(np.float32)
    bent = grey(pixels, seed, gamma=1)
    assert (bent.min(), bent.max()) == pytest.approx((pixels.min(), pixels.max()), rel=1e-5)
    order = np.argsort(pixels, axis=None)
    assert (np.diff(bent.ravel()[order]) >= -1e-6).all()
    exponent = np.exp(np.random.default_rng(seed).uniform(-1, 1, 3)[2] * np.log(2))
    low, high = pixels.min(), pixels.max()
    expected = low + (high - low) * ((pixels - low) / (high - low)) ** exponent
    np.testing.assert_allclose(bent, expected, atol=1e-4)
    constant = np.full((1, 4, 4), 2, np.float32)
    assert (grey(constant, seed, gamma=1) == 2).all()


def test_noise_has_at_most_the_stated_deviation() -> None:
    flat = np.zeros((1, 60, 60), np.float32)
    deviations = [grey(flat, seed, noise=0.5).std() for seed in range(60)]
    assert 0 <= min(deviations) < 0.1
    assert 0.4 < max(deviations) <= 0.52


def test_blur_stays_in_its_channel_and_keeps_the_mean() -> None:
    pixels = np.zeros((2, 33, 33), np.float32)
    pixels[0, 16, 16] = 1
    blurred = [grey(pixels, seed, blur=2) for seed in range(20)]
    assert not any(part[1].any() for part in blurred)
    assert all(part.sum() == pytest.approx(1, rel=1e-4) for part in blurred)
    widths = [np.sqrt((part[0].sum(axis=0) * (np.arange(33) - 16) ** 2).sum()) for part in blurred]
    assert 0 <= min(widths) < 0.6
    assert 1.5 < max(widths) < 2.1


# ------------------------------------------------------------------------------ validation


@given(hnp.arrays(np.int64, (2, 100), elements=st.integers(0, 50)))
def test_dice_at_every_threshold_equals_its_definition_on_pixels(counts: np.ndarray) -> None:
    bins = np.concatenate([np.repeat(np.arange(100), row) for row in counts])
    truth = np.repeat([False, True], counts.sum(axis=1))
    for found, is_foreground in zip(dice_at_thresholds(counts), (True, False), strict=True):
        for edge in (0, 1, 37, 99):
            predicted = (bins >= edge) == is_foreground
            right = truth == is_foreground
            total = predicted.sum() + right.sum()
            assert found[edge] == pytest.approx(2 * (predicted & right).sum() / max(total, 1))


@pytest.mark.parametrize("shape", [(31, 44), (3, 20, 23)])
def test_the_threshold_maximises_dice_over_all_thresholds(shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    chosen = UNetSettings(width=2, depth=1)
    network = build(chosen, 1, 2).eval()
    model = Model(network, chosen.geometry, torch.device("cpu"), "32", {})
    generator = np.random.default_rng(0)
    images = []
    for _ in range(2):
        pixels = generator.normal(0, 2, (1, *shape)).astype(np.float32)
        classes = (pixels[0] + generator.normal(0, 1, shape) > 0).astype(np.uint8)
        classes[..., :4, :] = NOT_ANNOTATED
        images.append((pixels, classes))
    likelihood, truth = [], []
    for pixels, classes in images:
        for plane in np.ndindex(shape[:-2]):
            image, extents = pixels[:, *plane], shape[-2:]
            whole = tuple(slice(0, extent) for extent in extents)
            found = softmax(logits(model, array_reader(image), extents, whole, None))
            known = classes[plane] != NOT_ANNOTATED
            likelihood.append(1 - found[0][known])
            truth.append(classes[plane][known] > 0)
    likelihood, truth = np.concatenate(likelihood), np.concatenate(truth)
    scores = [
        2 * (truth & (likelihood >= edge)).sum() / (truth.sum() + (likelihood >= edge).sum())
        for edge in THRESHOLDS[:-1]
    ]
    assert len(set(scores)) > 5
    validation = Validation(model, images, (TILE, TILE), 2)
    assert validation.threshold() == THRESHOLDS[int(np.argmax(scores))]
    found = dice_at_thresholds(validation.histograms())[0]
    np.testing.assert_allclose(found, scores, atol=0.002)
    assert 0 < validation.dice() <= 1


class Drawn(Validation):
    """What is predicted of an image is drawn in its pixels: the number of a class in each."""

    def outputs(self, pixels: np.ndarray) -> np.ndarray:
        """Give the classes drawn the highest of all outputs."""
        return np.moveaxis(
            99 * np.eye(self.classes, dtype=np.float32)[pixels[0].astype(int)], -1, 0
        )


def judged(truth: list[list[int]], found: list[list[int]], classes: int) -> Validation:
    """Judge what is drawn as found of a plane by its truth."""
    model = Model(torch.nn.Identity(), (), torch.device("cpu"), "32", {})
    annotated = np.array([found], np.float32), np.array(truth, np.uint8)
    return Drawn(model, [annotated], (TILE, TILE), classes)


def test_several_classes_are_judged_by_the_mean_dice_of_each() -> None:
    truth = [[0, 0, 1, 1, 1, 2, NOT_ANNOTATED]]
    assert judged(truth, [[0, 0, 1, 1, 1, 2, 2]], 4).dice() == 1, "no image shows class 3"
    exchanged = judged(truth, [[0, 0, 2, 2, 2, 1, 1]], 3)
    assert exchanged.dice() == 0
    rare_missed = judged(truth, [[0, 0, 1, 1, 1, 1, 2]], 3)
    assert rare_missed.dice() == pytest.approx((2 * 3 / (3 + 4) + 0) / 2)
    worked = judged(truth, [[1, 0, 1, 1, 2, 2, 1]], 3)
    assert worked.dice() == pytest.approx((2 * 2 / (3 + 3) + 2 * 1 / (2 + 1)) / 2)
    # Which of them it is does not count for where foreground is.
    assert exchanged.threshold() == rare_missed.threshold() == judged(truth, truth, 256).threshold()
    assert exchanged.score() == exchanged.dice()
    nothing = [[0, 0, 0, 255]]
    assert judged(nothing, [[0, 0, 1, 1]], 3).dice() == pytest.approx(2 * 2 / (3 + 2))


def test_two_classes_are_judged_by_foreground_and_background_alike() -> None:
    found = judged([[0, 0, 0, 0, 1, 1, NOT_ANNOTATED]], [[0, 0, 0, 1, 1, 1, 0]], 2)
    assert found.dice() == pytest.approx((2 * 2 / (2 + 3) + 2 * 3 / (4 + 3)) / 2)


def test_a_validation_image_without_annotation_is_refused(tmp_path: Path) -> None:
    create_image(tmp_path / "image", "yx", (4, 4), np.uint8, {})[...] = 0
    message = re.escape("image: a validation image must be annotated: it has no labels/classes")
    with pytest.raises(ValueError, match=message):
        read_validation({"a": tmp_path / "image"}, {"a": Normalisation((0.0,), (1.0,))})


def test_validation_images_without_foreground_are_refused(tmp_path: Path) -> None:
    same = dict.fromkeys("ab", Normalisation((0.0,), (1.0,)))
    for name in "ab":
        create_image(tmp_path / name, "yx", (4, 4), np.uint8, {})[...] = 0
        classes = np.full((4, 4), NOT_ANNOTATED if name == "b" else 0, np.uint8)
        add_label(tmp_path / name, "classes", "yx", classes, {})
    message = r"validation images must show foreground.* got background alone in a, b; annotate"
    with pytest.raises(ValueError, match=message):
        read_validation({name: tmp_path / name for name in "ab"}, same)
    zarr.open_array(tmp_path / "b/labels/classes/0", mode="r+")[0, 0] = 1
    assert len(read_validation({name: tmp_path / name for name in "ab"}, same)) == 2


def test_an_image_validates_only_where_it_could_teach(tmp_path: Path) -> None:
    create_image(tmp_path / "a", "zyx", (6, 4, 5), np.uint8, {})[...] = 0
    add_label(tmp_path / "a", "classes", "zyx", np.ones((6, 4, 5), np.uint8), {})
    same = {"a": Normalisation((0.0,), (1.0,))}
    ((_, classes),) = read_validation({"a": tmp_path / "a"}, same, {"z": 3, "y": 4}, 4)
    expected = np.zeros((6, 4, 5), bool)
    expected[[1, 5]] = True  # of the planes 0, 1, 3, 4, 5, the second and the fifth
    expected[:, 2] = True
    expected[2] = False
    np.testing.assert_array_equal(classes == 1, expected)
    np.testing.assert_array_equal(classes == NOT_ANNOTATED, ~expected)


# -------------------------------------------------------------------------------- training


def assert_same(first: Path, second: Path, *names: str) -> None:
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_same_training_gives_the_same_bytes(data: Path, trained: Path, tmp_path: Path) -> None:
    assert_same(trained, train_in(data, tmp_path), *FILES)


def test_another_seed_gives_another_network(data: Path, trained: Path, tmp_path: Path) -> None:
    other = train_in(data, tmp_path, seeds=(1,))
    assert sha256(other / FILES[0]) != sha256(trained / FILES[0])


def test_nothing_but_the_model_is_left_at_the_end(trained: Path) -> None:
    left = {path.name for path in trained.iterdir()} - {"checkpoints"}
    assert left == {*FILES, "tensorboard"}
    assert not list(trained.glob("checkpoints/*"))


def test_the_history_has_a_row_per_step_and_validates_at_the_end(trained: Path) -> None:
    history = pd.read_csv(trained / "history.tsv", sep="\t")
    assert history["step"].tolist() == list(range(1, STEPS + 1))
    validated = history["validation_dice"].notna()
    assert history["step"][validated].tolist() == [5, 10, 12]
    assert np.isfinite(history["loss"]).all()


def test_the_model_is_the_one_that_validated_best(data: Path, trained: Path) -> None:
    facts = json.loads((trained / "model.json").read_text())
    history = pd.read_csv(trained / "history.tsv", sep="\t").dropna()
    best = history.loc[history["validation_dice"].idxmax()]
    assert facts["training"]["best_step"] == best["step"]
    assert facts["training"]["validation_dice"] == best["validation_dice"]
    model = load(trained, "cpu", "32")
    normalise = Normalisation(
        tuple(facts["intensity"]["offset"]), tuple(facts["intensity"]["scale"])
    )
    images = read_validation({"v": data / "images/v"}, {"v": normalise})
    validation = Validation(model, images, facts["tile"], 2)
    assert validation.dice() == pytest.approx(best["validation_dice"])
    assert facts["threshold"] == validation.threshold()


def test_a_training_learns(data: Path, tmp_path: Path) -> None:
    train_in(data, tmp_path, steps=60, optimiser="adam", validate_every=60)
    losses = pd.read_csv(tmp_path / "history.tsv", sep="\t")["loss"]
    assert losses[-10:].mean() < 0.8 * losses[:10].mean()


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_learns(data: Path, tmp_path: Path, loss: str) -> None:
    train_in(data, tmp_path, steps=40, optimiser="adam", validate_every=40, loss=loss)
    losses = pd.read_csv(tmp_path / "history.tsv", sep="\t")["loss"]
    assert losses[-10:].mean() < 0.95 * losses[:10].mean()


def events_of(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard_shows_what_the_history_tells(data: Path, tmp_path: Path) -> None:
    train_in(data, tmp_path, steps=10)
    history = pd.read_csv(tmp_path / "history.tsv", sep="\t").set_index("step")
    found = events_of(tmp_path / "tensorboard")
    assert set(found.Tags()["scalars"]) == set(history)
    for name in history:
        told = history[name].dropna()
        shown = {event.step: event.value for event in found.Scalars(name)}
        assert shown == pytest.approx(told.to_dict(), rel=1e-5)
    assert (history["gradient_norm"] > 0).all()
    pictures = found.Images("image, truth, prediction")
    assert [picture.step for picture in pictures] == [5, 10]
    assert (pictures[0].width, pictures[0].height) == (3 * 10, 10)
    network = load(tmp_path, "cpu", "32").network
    assert set(found.Tags()["histograms"]) == {name for name, _ in network.named_parameters()}


def test_a_training_that_gets_no_better_stops_and_says_so(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "unetflow"):
        train_in(data, tmp_path, steps=100, learning_rate=1e-30, patience=2)
    facts = json.loads((tmp_path / "model.json").read_text())["training"]
    assert (facts["best_step"], facts["steps"]) == (5, 15)
    assert len(pd.read_csv(tmp_path / "history.tsv", sep="\t")) == 15
    assert "no better validation since step 5: stopped at 15" in caplog.text


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule_kind", ["constant", "one_cycle", "staircase"])
def test_the_history_tells_the_learning_rate_of_each_step(
    data: Path, tmp_path: Path, kind: str, schedule_kind: str
) -> None:
    stairs = {"staircase_steps": 2} if schedule_kind == "staircase" else {}
    train_in(data, tmp_path, optimiser=kind, schedule=schedule_kind, steps=5, **stairs)
    found = pd.read_csv(tmp_path / "history.tsv", sep="\t")["learning_rate"]
    expected = [0.01] * 5
    if schedule_kind == "staircase":
        expected = [0.01, 0.01, 0.0095, 0.0095, 0.009025]
    if schedule_kind == "one_cycle":
        reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.01)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            reference, 0.01, total_steps=5, cycle_momentum=False
        )
        expected = []
        for _ in range(5):
            expected += cycle.get_last_lr()
            reference.step()
            cycle.step()
    assert found.tolist() == pytest.approx(expected)


def test_a_schedule_of_the_learning_rate_leaves_the_momentum_as_it_is_set() -> None:
    settings = TrainSettings(schedule="one_cycle", momentum=0.99)
    made = optimiser(torch.nn.Linear(1, 1), settings)
    rates = schedule(made, settings, 10)
    for _ in range(10):
        assert made.param_groups[0]["momentum"] == 0.99
        made.step()
        rates.step()


def test_without_a_compiler_training_goes_on_and_says_so(
    data: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    torch._dynamo.reset()
    with caplog.at_level("INFO", "unetflow"):
        train_in(data, tmp_path, compile=True)
    assert "warning: not compiled, which is slower: " in caplog.text
    assert_same(trained, tmp_path, *FILES[:3])


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_network_learns_the_same(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses = []
    with caplog.at_level("INFO", "unetflow"):
        for compile in (False, True):
            output = tmp_path / str(compile)
            train_in(data, output, compile=compile, steps=4, dropout=0.0)  # drawn another way
            losses.append(pd.read_csv(output / "history.tsv", sep="\t")["loss"])
            load(output, "cpu", "32")
    assert "not compiled" not in caplog.text
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_on_a_cpu_a_gradient_repeats_exactly(data: Path, trained: Path) -> None:
    task, settings = task_in(data), TrainSettings(batch=2)
    _, each = normalisations(task.histograms, ["a", "b"], IntensitySettings())
    network = build(UNetSettings(width=2, depth=1), 1, 2)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=LightningEnvironment())
    state = State(fabric, network, settings, steps=1)
    batch = Patches(task.patches, each, 0).batch(0, settings)
    assert state.replay_difference(batch) == 0
    factors = iter((1.0, 1.05))
    network.down[0][0].weight.register_hook(lambda of: of * next(factors))
    assert 0 < state.replay_difference(batch) < 0.1
    unknown = (batch[0], batch[1], torch.zeros_like(batch[2]))
    still = State(fabric, build(UNetSettings(width=2, depth=1), 1, 2), settings, steps=1)
    assert still.replay_difference(unknown) == 0
    facts = json.loads((trained / "model.json").read_text())["training"]
    assert (facts["device"], facts["precision"], facts["replay_difference"]) == ("cpu", "32", 0)


def test_one_step_is_a_training(data: Path, tmp_path: Path) -> None:
    for kind in ("constant", "one_cycle"):
        train_in(data, tmp_path / kind, steps=1, schedule=kind)
        facts = json.loads((tmp_path / kind / "model.json").read_text())
        assert facts["training"]["best_step"] == 1


def test_a_trained_model_loads_and_predicts(data: Path, trained: Path) -> None:
    facts = json.loads((trained / "model.json").read_text())
    assert facts["class_names"] == ["background", "cell"]
    assert facts["channels"] == 1
    assert facts["tile"] == [TILE, TILE]
    assert facts["weights_sha256"] == sha256(trained / "model.safetensors")
    model = load(trained, "cpu", "32")
    pixels = np.random.default_rng(0).normal(size=(1, 33, 37)).astype(np.float32)
    whole = (slice(0, 33), slice(0, 37))
    found = logits(model, array_reader(pixels), (33, 37), whole, facts["tile"])
    assert found.shape == (2, 33, 37)
    assert np.isfinite(found).all()


def test_a_padded_and_normalised_training_loads_and_predicts_by_tiles_what_it_does_whole(
    padded: Path, tmp_path: Path
) -> None:
    folder = train_in(padded, tmp_path, model=PADDED)
    patches = zarr.open_group(padded / "patches/a", mode="r")
    assert patches["image"].shape[2:] == patches["classes"].shape[1:] == (TILE, TILE)
    facts = json.loads((folder / "model.json").read_text())
    assert facts["network"] == {**facts["network"], **PADDED}
    assert facts["tile"] == [TILE + 16, TILE + 16]  # writes what a patch shows
    model, shape = load(folder, "cpu", "32"), (97, 61)
    pixels = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    read, everything = array_reader(pixels), tuple(slice(0, extent) for extent in shape)
    whole = logits(model, read, shape, everything, None)
    tiled = logits(model, read, shape, everything, facts["tile"])
    assert np.ptp(whole) > 0
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * np.ptp(whole))
    with torch.inference_mode():
        alone = model.network(torch.from_numpy(pixels[:, :96, :60])[None])[0].numpy()
    part = logits(model, array_reader(pixels[:, :96, :60]), (96, 60), (slice(9, 30),) * 2, None)
    np.testing.assert_allclose(part, alone[:, 9:30, 9:30], atol=1e-5 * np.ptp(whole))


MODERN = {"depth": 2, "blocks": "residual", "deep_supervision": True, "attention": True}


def modern(root: Path, **train_settings: Any) -> ExperimentSettings:
    """Return the settings of a training with coarser outputs, and cut patches for it."""
    chosen = {"width": 4, "normalisation": "instance", **MODERN, **PADDED, "dropout": 0}
    made = experiment(**train_settings).model_dump(mode="json")
    cache = {"tile": 24, "per_image": 2}
    geometry = UNetSettings(**chosen).geometry
    for name in "ab":
        source = open_source(
            root / "images" / name, root / "weights" / name, geometry, WeightsSettings()
        )
        cut_patches(source, root / "coarse" / name, PatchesSettings(**cache))
    return ExperimentSettings(**made | {"model": chosen, "patches": cache})


def test_a_training_with_coarser_outputs_learns_and_predicts_without_them(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    chosen = modern(tmp_path, steps=20, loss="dice_cross_entropy")
    task = replace(task_in(tmp_path), patches={name: tmp_path / "coarse" / name for name in "ab"})
    train(task, chosen, tmp_path / "one", tmp_path / "checkpoints")
    history = pd.read_csv(tmp_path / "one/history.tsv", sep="\t")
    assert history["loss"][-5:].mean() < 0.9 * history["loss"][:5].mean()
    model = load(tmp_path / "one", "cpu", "32")
    assert len(model.network.heads) == 1
    pixels = np.random.default_rng(0).normal(size=(1, 61, 57)).astype(np.float32)
    region = (slice(0, 61), slice(0, 57))
    whole, tiled = (
        logits(model, array_reader(pixels), (61, 57), region, tile)
        for tile in (None, [axis.smallest_tile for axis in model.geometry])
    )
    assert whole.shape == (2, 61, 57)
    np.testing.assert_allclose(tiled, whole, atol=1e-5 * float(np.abs(whole).max()))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_learns_from_all_levels(data: Path, loss: str) -> None:
    network = build(UNetSettings(width=2, **MODERN, dropout=0), 1, 2)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=LightningEnvironment())
    coarser = UNetSettings(**MODERN).coarser
    state = State(fabric, network, TrainSettings(loss=loss), steps=1, coarser=coarser)
    extent = UNetSettings(**MODERN).geometry[0].input_for(20)
    outputs = network.train()(torch.randn(1, 1, extent, extent))
    assert [len(outputs), len(coarser)] == [2, 1]
    shape = outputs[0].shape[2:]
    batch = torch.randn(2, 1, extent, extent), torch.ones(2, *shape).long(), torch.rand(2, *shape)
    state.gradient(batch)
    for name, values in network.named_parameters():
        assert values.grad is not None, name
        if name.startswith("heads"):
            assert values.grad.any()
    state.network.eval()
    assert isinstance(network(batch[0]), torch.Tensor)


def test_both_sets_of_weights_hold_the_statistics_of_their_step(
    padded: Path, tmp_path: Path
) -> None:
    folder = train_in(padded, tmp_path, model=PADDED)
    best = json.loads((folder / "model.json").read_text())["training"]["best_step"]
    for name, steps in (("model", best), ("last", STEPS)):
        weights = safetensors.torch.load_file(folder / f"{name}.safetensors")
        seen = [values for key, values in weights.items() if key.endswith("num_batches_tracked")]
        assert [int(values) for values in seen] == [steps] * 6
        means = [values for key, values in weights.items() if key.endswith("running_mean")]
        assert all(values.any() for values in means)


def test_what_looks_at_a_gradient_leaves_the_statistics_as_they_are(
    padded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, settings = task_in(padded), TrainSettings()
    _, each = normalisations(task.histograms, ["a", "b"], IntensitySettings())
    batch = Patches(task.patches, each, 0).batch(0, settings)
    network = build(UNetSettings(width=2, depth=1, **PADDED), 1, 2)
    before = {name: values.clone() for name, values in network.named_buffers()}
    monkeypatch.setattr(torch, "compile", lambda network: network)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=LightningEnvironment())
    state = State(fabric, network, settings, 1, batch[0])
    assert state.replay_difference(batch) == 0
    assert all(torch.equal(values, before[name]) for name, values in network.named_buffers())
    state.take_step(batch)
    assert not any(torch.equal(values, before[name]) for name, values in network.named_buffers())


def test_channels_last_weights_are_stored_in_plain_order(trained: Path) -> None:
    model = load(trained, "cpu", "32")
    kernel = next(model.network.parameters())
    assert kernel.shape == (2, 1, 3, 3)


# ----------------------------------------------------------------------------- final model


@pytest.mark.parametrize(
    ("best_steps", "steps"), [([3, 9, 5], 5), ([3, 8], 5), ([7], 7), ([1, 1], 1)]
)
def test_the_final_model_takes_the_median_step_and_the_mean_threshold_of_the_folds(
    data: Path, tmp_path: Path, best_steps: list[int], steps: int
) -> None:
    thresholds = [0.4, 0.7, 0.6][: len(best_steps)]
    folds = []
    for number, facts in enumerate(zip(best_steps, thresholds, strict=True)):
        folds.append(tmp_path / f"fold{number}.json")
        write_json(folds[-1], {"training": {"best_step": facts[0]}, "threshold": facts[1]})
    task = replace(task_in(data), validation={}, folds=folds)
    train(task, experiment(), tmp_path / "final", tmp_path / "checkpoints")
    facts = json.loads((tmp_path / "final/model.json").read_text())
    assert facts["training"]["steps"] == facts["training"]["best_step"] == steps
    assert facts["threshold"] == pytest.approx(np.mean(thresholds))
    assert facts["training"]["validation_dice"] is None
    assert len((tmp_path / "final/history.tsv").read_text().splitlines()) == steps + 1


# ------------------------------------------------------------------------------ interrupted

KILL = """
import os, sys
from pathlib import Path
import test_training
from unetflow.optimisation import State
take_step = State.take_step
def take_step_and_kill(state, batch):
    loss = take_step(state, batch)
    if state.step == {step}:
        os.kill(os.getpid(), {signal})
    return loss
State.take_step = take_step_and_kill
test_training.train_in(Path({data!r}), Path({output!r}), **{settings!r})
"""


def kill_at(step: int, number: int, data: Path, output: Path, settings: dict[str, Any]) -> int:
    """Train in a process of its own that gets a signal within a step; return its exit status."""
    script = KILL.format(
        step=step, signal=number, data=str(data), output=str(output), settings=settings
    )
    folder = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, timeout=120, check=False
    ).returncode


@pytest.mark.parametrize(
    ("number", "status", "settings"),
    [
        (signal.SIGTERM, 143, {"batch": 2}),
        (
            signal.SIGKILL,
            -9,
            {"checkpoint_minutes": 1e-6, "optimiser": "adamw", "schedule": "one_cycle"},
        ),
    ],
    ids=["SIGTERM", "SIGKILL"],
)
def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    data: Path, tmp_path: Path, number: int, status: int, settings: dict[str, Any]
) -> None:
    expected = train_in(data, tmp_path / "expected", **settings)
    output = tmp_path / "killed"
    assert kill_at(7, int(number), data, output, settings) == status
    assert not (output / "model.safetensors").exists()
    (checkpoint,) = (output / "checkpoints").iterdir()
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["step"] in (7, 8)
    assert saved["best_step"] == 5
    train_in(data, output, **settings)
    assert_same(expected, output, *FILES)
    assert not list((output / "checkpoints").iterdir())


def test_a_killed_padded_and_normalised_training_goes_on_and_ends_with_the_same_bytes(
    padded: Path, tmp_path: Path
) -> None:
    settings = {"model": PADDED, "checkpoint_minutes": 1e-6, "batch": 2}
    expected = train_in(padded, tmp_path / "expected", **settings)
    output = tmp_path / "killed"
    assert kill_at(7, int(signal.SIGKILL), padded, output, settings) == -9
    assert not (output / "model.safetensors").exists()
    assert_same(expected, train_in(padded, output, **settings), *FILES)


@pytest.mark.parametrize("step", [1, 4, 9])
def test_a_training_may_be_killed_at_any_step(
    data: Path, trained: Path, tmp_path: Path, step: int
) -> None:
    """Also at the one that is validated after it."""
    assert kill_at(step, int(signal.SIGTERM), data, tmp_path, {}) == 143
    assert_same(trained, train_in(data, tmp_path), *FILES)


def test_a_terminated_training_says_from_where_it_goes_on(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    take_step = State.take_step

    def terminate(state: Any, batch: Any) -> tuple[float, float]:
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return take_step(state, batch)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(State, "take_step", terminate)
    with caplog.at_level("INFO", "unetflow"), pytest.raises(SystemExit, match="143"):
        train_in(data, tmp_path / "one")
    assert "terminated at step 4; the same command goes on from step 4" in caplog.text
    monkeypatch.setattr(torch, "save", full)
    with caplog.at_level("INFO", "unetflow"), pytest.raises(SystemExit, match="143"):
        train_in(data, tmp_path / "two")
    assert "terminated at step 4; the same command goes on from step 0" in caplog.text


def test_a_training_counts_and_times_the_steps_that_it_takes_itself(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = State.take_step

    def terminate(state: Any, batch: Any) -> tuple[float, float]:
        if state.step == 3:
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.01)
        return take_step(state, batch)

    monkeypatch.setattr(State, "take_step", terminate)
    task, chosen = task_in(data), experiment(batch=2)
    with pytest.raises(SystemExit, match="143"):
        train(task, chosen, tmp_path, tmp_path / "checkpoints")
    found = train(task, chosen, tmp_path, tmp_path / "checkpoints")
    assert found["steps"] == STEPS - 4
    assert found["step_pixels"] == (STEPS - 4) * 2 * 10**2
    assert found["step_seconds"] >= (STEPS - 4) * 0.01


@pytest.mark.parametrize("content", [b"", b"PK", b"nonsense" * 99])
def test_a_broken_checkpoint_is_told(data: Path, tmp_path: Path, content: bytes) -> None:
    checkpoint = tmp_path / "checkpoints" / task_digest(task_in(data), experiment())
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(content)
    message = rf"{checkpoint.name}: a checkpoint must be whole: .*; remove it to begin"
    with pytest.raises(ValueError, match=message):
        train_in(data, tmp_path)


def test_a_training_stopped_before_its_first_checkpoint_starts_again(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> float:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr(State, "take_step", stop)
        with pytest.raises(OSError):  # noqa: PT011
            train_in(data, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]
    assert_same(trained, train_in(data, tmp_path), *FILES)


def test_a_training_terminated_after_its_last_step_only_writes_the_model(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = State.take_step

    def last(state: Any, batch: Any) -> tuple[float, float]:
        loss = take_step(state, batch)
        if state.step == STEPS - 1:
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(State, "take_step", last)
    with pytest.raises(SystemExit, match="143"):
        train_in(data, tmp_path)

    def never(*_: Any) -> float:
        raise AssertionError("no step is left")

    monkeypatch.setattr(State, "take_step", never)
    assert_same(trained, train_in(data, tmp_path), *FILES)


def test_sigterm_means_what_it_did_before_once_the_steps_are_taken(
    data: Path, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    train_in(data, tmp_path, steps=1)
    assert signal.getsignal(signal.SIGTERM) == before


CHANGES = ("seed", "class names", "statistics", "pixels", "validation")


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_is_not_taken_up_by_a_training_of_something_else(
    tmp_path: Path, change: str
) -> None:
    prepare(tmp_path)
    task, settings = task_in(tmp_path), experiment()
    before = task_digest(task, settings)
    assert task_digest(task_in(tmp_path), experiment()) == before
    if change == "seed":
        settings = experiment(seeds=(1,))
    elif change == "class names":
        task = replace(task, class_names=["background", "nucleus", "membrane"])
    elif change == "statistics":
        facts = json.loads(task.histograms["a"].read_text())
        facts["channels"][0]["mean"] += 1
        write_json(task.histograms["a"], facts)
    elif change == "validation":
        zarr.open_array(tmp_path / "images/v/labels/classes/0", mode="r+")[...] = 1
    else:  # the same patches, cut at the same places of a corrected image
        zarr.open_array(tmp_path / "images/a/0", mode="r+")[...] = 7
        cut(*(tmp_path / folder / "a" for folder in ("images", "weights", "patches")))
    assert task_digest(task, settings) != before


# ------------------------------------------------------------------------------- fine-tuning


def tuned(data: Path, output: Path, start: Path, **settings: Any) -> Any:
    """Weights after a training that starts from a model."""
    chosen = experiment(start_from=str(start), **settings)
    train(replace(task_in(data), start=start), chosen, output, output / "checkpoints")
    return load(output, "cpu", "32").network.state_dict()


def test_a_training_goes_on_from_a_model(data: Path, trained: Path, tmp_path: Path) -> None:
    before = load(trained, "cpu", "32").network.state_dict()
    still = tuned(data, tmp_path / "still", trained, steps=1, learning_rate=1e-30)
    assert all(torch.equal(still[name], before[name]) for name in before)
    frozen = tuned(data, tmp_path / "frozen", trained, freeze_encoder=True, optimiser="adamw")
    for name in before:
        assert torch.equal(frozen[name], before[name]) == name.startswith("down."), name


def test_a_frozen_contracting_path_keeps_its_statistics(padded: Path, tmp_path: Path) -> None:
    start = train_in(padded, tmp_path / "start", model=PADDED, steps=3)
    before = load(start, "cpu", "32").network.state_dict()
    frozen = tuned(padded, tmp_path / "frozen", start, model=PADDED, freeze_encoder=True)
    for name in before:
        assert torch.equal(frozen[name], before[name]) == name.startswith("down."), name


def test_another_number_of_classes_has_a_new_last_layer(
    data: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = replace(task_in(data), start=trained, class_names=["background", "cell", "debris"])
    chosen = experiment(start_from=str(trained), steps=1, learning_rate=1e-30)
    with caplog.at_level("INFO", "unetflow"):
        train(task, chosen, tmp_path, tmp_path / "checkpoints")
    assert "new: classify.weight, classify.bias" in caplog.text
    before, after = (load(path, "cpu", "32").network.state_dict() for path in (trained, tmp_path))
    assert torch.equal(before["down.0.0.weight"], after["down.0.0.weight"])
    assert len(after["classify.bias"]) == 3


def test_another_network_is_no_start(data: Path, trained: Path, tmp_path: Path) -> None:
    chosen = experiment(start_from=str(trained)).model_dump()
    wider = ExperimentSettings(**{**chosen, "model": {"width": 4, "depth": 1}})
    with pytest.raises(
        ValueError, match=r"start_from must be the same network: got model.width 4 inst"
    ):
        train(replace(task_in(data), start=trained), wider, tmp_path, tmp_path / "checkpoints")


def test_a_model_that_knows_what_is_held_out_is_no_start(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    task = task_in(data)
    held_out = replace(task, start=trained, patches={"a": task.patches["a"]})
    with pytest.raises(ValueError, match=r"learned from 1 of its images, such as b; start from"):
        train(held_out, experiment(start_from=str(trained)), tmp_path, tmp_path / "checkpoints")
    other = experiment(start_from=str(trained), steps=1).model_copy(update={"dataset": "other"})
    train(held_out, other, tmp_path, tmp_path / "checkpoints")


def test_a_written_out_dataset_is_known_by_its_name(data: Path, tmp_path: Path) -> None:
    def settings(name: str, **train: Any) -> ExperimentSettings:
        written = DatasetSettings(name=name, layout={"kind": "synthetic", "shape": [3, 40, 44]})
        return experiment(steps=1, **train).model_copy(update={"dataset": written})

    start, task = tmp_path / "start", task_in(data)
    train(task, settings("cells"), start, tmp_path / "checkpoints")
    assert read_json(start / "model.json")["dataset"] == "cells"
    held_out = replace(task, start=start, patches={"a": task.patches["a"]})
    same, other = (settings(name, start_from=str(start)) for name in ("cells", "others"))
    with pytest.raises(ValueError, match=r"learned from 1 of its images, such as b; start from"):
        train(held_out, same, tmp_path / "same", tmp_path / "checkpoints")
    train(held_out, other, tmp_path / "other", tmp_path / "checkpoints")


def test_a_training_starts_from_pretrained_weights_which_prediction_does_without(
    data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "vgg.pth"
    model = TernausNetSettings(network="ternausnet", pretrained=str(file))
    coloured = build(model, 3, 2).features.state_dict()
    torch.save({f"features.{name}": values for name, values in coloured.items()}, file)
    for name in "ab":
        source = open_source(
            data / "images" / name,
            data / "weights" / name,
            model.geometry,
            WeightsSettings(),
        )
        cut_patches(source, tmp_path / "patches" / name, PatchesSettings(tile=32, per_image=2))
    chosen = ExperimentSettings(
        dataset="any",
        model=model,
        patches={"tile": 32},
        train={"steps": 1, "freeze_encoder": True, "device": "cpu", "threads": 1},
    )
    task = replace(
        task_in(data),
        patches={name: tmp_path / "patches" / name for name in "ab"},
        validation={},
    )
    before = training.task_digest(task, chosen)
    # Such as are fetched are in a folder, by the name that torchvision gives them.
    assert task.pretrained(model) == model
    assert task.pretrained(UNetSettings()) is None
    fetched = replace(task, fetched=tmp_path / "fetched")
    its = fetched.pretrained(model)
    assert its is not None
    assert its.pretrained == str(tmp_path / "fetched/vgg11-8a719046.pth")
    (tmp_path / "fetched").mkdir()
    Path(its.pretrained).write_bytes(file.read_bytes())
    assert training.task_digest(fetched, chosen) != before
    with pytest.raises(ValueError, match=r"fetched/vgg11-8a719046\.pth: .* that its name tells"):
        train(fetched, chosen, tmp_path / "model", tmp_path / "checkpoints")
    train(task, chosen, tmp_path / "model", tmp_path / "checkpoints")
    file.write_bytes(b"other weights")
    assert training.task_digest(task, chosen) != before
    file.unlink()
    found = load(tmp_path / "model", "cpu", "32").network.features.state_dict()
    for name, values in coloured.items():
        first = name == "0.weight"
        torch.testing.assert_close(found[name], values.sum(1, keepdim=True) if first else values)


def test_a_checkpoint_at_the_end_of_patience_takes_no_further_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"steps": 100, "learning_rate": 1e-30, "patience": 2, "checkpoint_minutes": 1e-9}
    train_in(data, tmp_path / "whole", **chosen)
    with monkeypatch.context() as patch:
        patch.setattr(training, "write_facts", lambda *_: sys.exit(1))
        with pytest.raises(SystemExit):
            train_in(data, tmp_path / "stopped", **chosen)
    assert list((tmp_path / "stopped/checkpoints").iterdir())
    assert_same(tmp_path / "whole", train_in(data, tmp_path / "stopped", **chosen), *FILES)
    shown = events_of(tmp_path / "stopped/tensorboard").Scalars("loss")
    assert [event.step for event in shown] == list(range(1, 16))


# ----------------------------------------------------------------------------------- errors


def test_a_loss_that_is_not_finite_stops_with_its_step_and_patches(
    data: Path, tmp_path: Path
) -> None:
    message = (
        r"loss must stay finite: got (nan|inf|[\d.e+]+), gradient (nan|inf) at step \d+ of seed 0; "
        r"lower train\.learning_rate or set train\.gradient_clip, .* patches [ab] [01]"
    )
    with pytest.raises(ValueError, match=message):
        train_in(data, tmp_path, learning_rate=1e30)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("batch", "remedy"), [(4, "set train.batch to 2"), (1, r"set patches.tile to \[2\d, 2\d\]")]
)
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("where", [(State, "gradient"), (Validation, "dice")])
def test_a_step_that_does_not_fit_says_what_does(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    remedy: str,
    error: Exception,
    where: tuple[type, str],
) -> None:
    def fail(*_: Any) -> float:
        raise error

    monkeypatch.setattr(*where, fail)
    message = rf"must fit the memory of cpu: batch {batch} of tile \[26, 26\], or .*; {remedy}"
    with pytest.raises(ValueError, match=message):
        train_in(data, tmp_path, batch=batch)


def test_patches_without_foreground_are_an_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    task = task_in(data)
    for name, path in task.patches.items():
        shutil.copytree(path, tmp_path / "patches" / name)
        group = zarr.open_group(tmp_path / "patches" / name, mode="r+")
        group.attrs["class_counts"] = [200, *[0] * 254]
    empty = replace(task, patches={name: tmp_path / "patches" / name for name in task.patches})
    message = "training patches must show foreground: got background alone in .* 2 images, such as"
    with pytest.raises(ValueError, match=message):
        train(empty, experiment(), tmp_path / "out", tmp_path / "checkpoints")
    assert not (tmp_path / "out").exists()


def test_a_class_that_no_patch_shows_is_told(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    task = replace(task_in(data), class_names=["background", "cell", "debris"])
    with caplog.at_level("INFO", "unetflow"):
        train(task, experiment(steps=1), tmp_path, tmp_path / "checkpoints")
    assert "warning: no training patch shows class debris" in caplog.text
    assert "class cell" not in caplog.text


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("failed")])
def test_a_full_disk_costs_no_more_than_a_checkpoint(
    data: Path,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """The disk fills up after step 3: that checkpoint stays, and training comes to its end."""
    write = torch.save
    kept = []

    def save(facts: Any, path: Path) -> None:
        if facts["step"] > 3:
            path.write_bytes(b"half")
            kept.extend(path.parent.iterdir())
            raise error
        write(facts, path)

    monkeypatch.setattr(torch, "save", save)
    with caplog.at_level("INFO", "unetflow"):
        train_in(data, tmp_path, checkpoint_minutes=1e-9)
    assert "warning: no checkpoint of step 4, the one before stays" in caplog.text
    assert {path.suffix for path in kept} == {"", ".partial"}
    assert_same(trained, tmp_path, *FILES[:3])
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_training_without_patches_is_an_error(data: Path, tmp_path: Path) -> None:
    message = "training must have patches: got none; annotate more images or use fewer folds"
    with pytest.raises(ValueError, match=message):
        train(replace(task_in(data), patches={}), experiment(), tmp_path, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must exist: got gpu, but torch sees none"):
        train_in(data, tmp_path, device="gpu")


# -------------------------------------------------------------------------- several processes

DIVIDED = """
from pathlib import Path
import test_training
test_training.train_in(Path({data!r}), Path({output!r}), **{settings!r})
print("written by", test_training.os.getpid())
"""


def train_divided(
    data: Path, output: Path, status: int = 0, source: str = DIVIDED, **settings: Any
) -> str:
    """Train in processes of their own; what they print."""
    script = output.with_suffix(".py")
    script.write_text(source.format(data=str(data), output=str(output), settings=settings))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


@pytest.mark.parametrize("loss", ["cross_entropy", "dice"])
def test_two_processes_learn_what_one_learns_from_the_whole_batch(
    data: Path, tmp_path: Path, loss: str
) -> None:
    settings = {"batch": 4, "loss": loss, "noise": 0.1, "steps": 8, "dropout": 0.0}
    for devices in (1, 2):
        told = train_divided(data, tmp_path / str(devices), devices=devices, **settings)
        assert told.count("written by") == 1  # the others left without writing
    one, two = (pd.read_csv(tmp_path / n / "history.tsv", sep="\t") for n in "12")
    np.testing.assert_allclose(two, one, rtol=1e-4)
    alone, together = (load(tmp_path / n, "cpu", "32").network.state_dict() for n in "12")
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-3, atol=1e-5)


TERMINATE = """
import os, signal
import test_training
from unetflow.optimisation import State
take_step = State.take_step
def terminated(state, batch):
    if state.step == 6 and state.fabric.global_rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return take_step(state, batch)
State.take_step = terminated
"""


def test_processes_stop_together_and_go_on_with_the_same_bytes(data: Path, tmp_path: Path) -> None:
    settings = {"batch": 2, "devices": 2, "steps": 8}
    train_divided(data, tmp_path / "whole", **settings)
    stopped = tmp_path / "stopped"
    train_divided(data, stopped, status=143, source=TERMINATE + DIVIDED, **settings)
    (checkpoint,) = (stopped / "checkpoints").iterdir()
    assert torch.load(checkpoint, weights_only=True)["step"] == 7
    assert not (stopped / "model.safetensors").exists()
    train_divided(data, stopped, **settings)
    assert_same(tmp_path / "whole", stopped, *FILES)


def test_processes_divide_a_batch_without_overlap(data: Path) -> None:
    task, settings = task_in(data), TrainSettings(batch=4, noise=0.2, blur=1)
    _, each = normalisations(task.histograms, ["a", "b"], IntensitySettings())
    cpu = torch.device("cpu")
    whole = Patches(task.patches, each, 4).batch(5, settings)
    parts = [Patches(task.patches, each, 4, cpu, rank, 2).batch(5, settings) for rank in range(2)]
    for expected, first, second in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.cat([first, second]), expected)


def test_a_batch_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of devices: got 3 for 2; set batch to 4"):
        TrainSettings(batch=3, devices=2)
