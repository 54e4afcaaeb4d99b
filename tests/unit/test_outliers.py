"""Grey values unlike the training images': NumPy's percentiles as the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from unetflow.intensity import normalisations, range_of_levels, write_histograms
from unetflow.outliers import pieces, sample, unlike_training
from unetflow.settings.training import IntensitySettings
from unetflow.store import Image, create_image

RNG = np.random.default_rng(0)
# Training images of different brightness.
TRAINING = [RNG.normal(mean, 20, (64, 80)).clip(0, 255).astype(np.uint8) for mean in (90, 110)]


def image(pixels: NDArray[Any], axes: str = "") -> Image:
    """An image in memory."""
    return Image("v.tif", pixels, axes or "zyx"[-pixels.ndim :], {})


@pytest.fixture(scope="module")
def histograms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("histograms")
    for number, pixels in enumerate(TRAINING):
        path = folder / f"{number}"
        create_image(path, "yx", pixels.shape, pixels.dtype, {})[...] = pixels
        write_histograms(path, folder / f"{number}.json")
    return {f"{number}": folder / f"{number}.json" for number in range(len(TRAINING))}


def model(histograms: dict[str, Path], **chosen: Any) -> dict[str, Any]:
    """Facts of a model that has learned from the training images."""
    settings = IntensitySettings(**chosen)
    pooled, each = normalisations(histograms, list(histograms), settings)
    of = {
        "offset": pooled.offset,
        "scale": pooled.scale,
        "levels": range_of_levels(histograms, each),
    }
    return {"intensity": settings.model_dump(mode="json") | of}


KINDS = [
    {"normalise": normalise, "source": source}
    for normalise in ("zscore", "percentile")
    for source in ("training", "image")
]


@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_the_range_of_the_training_images(
    histograms: dict[str, Path], kind: dict[str, str]
) -> None:
    facts = model(histograms, **kind)["intensity"]
    of_each = []
    for pixels in TRAINING:
        low, high = np.percentile(pixels, (0.5, 99.5), method="inverted_cdf")
        offset, scale = (pixels.mean(), pixels.std())
        if kind["normalise"] == "percentile":
            offset, scale = low, high - low
        if kind["source"] == "training":
            offset, scale = facts["offset"][0], facts["scale"][0]
        found = np.percentile(pixels, (1, 50, 99), method="inverted_cdf")
        of_each.append((found - offset) / scale)
    expected = np.stack([np.min(of_each, axis=0), np.max(of_each, axis=0)], -1)
    np.testing.assert_allclose(np.array(facts["levels"])[0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_image_is_none(histograms: dict[str, Path], kind: dict[str, str]) -> None:
    facts = model(histograms, **kind)
    assert [unlike_training(image(pixels), facts) for pixels in TRAINING] == ["", ""]


@pytest.mark.parametrize(
    ("factor", "shift", "told"),
    [
        (1, 10, ""),
        (1, 90, "grey"),
        (1, -90, "grey"),
        (2, 0, "percentile 99"),
        (0.05, 90, "grey"),
    ],
    ids=["alike", "brighter", "darker", "more contrast", "flat"],
)
@pytest.mark.parametrize("normalise", ["zscore", "percentile"])
def test_a_volume_is_one_by_its_brightness_or_contrast(
    histograms: dict[str, Path], normalise: str, factor: float, shift: float, told: str
) -> None:
    pixels = TRAINING[0].astype(float) * factor + shift
    found = unlike_training(image(pixels), model(histograms, normalise=normalise))
    assert bool(found) == bool(told)
    assert told in found


def test_what_is_told_are_the_percentile_and_its_range(histograms: dict[str, Path]) -> None:
    facts = model(histograms)
    pixels = TRAINING[0] + 100.0
    found = unlike_training(image(pixels), facts)
    offset, scale = facts["intensity"]["offset"][0], facts["intensity"]["scale"][0]
    least, greatest = (
        extreme([(np.percentile(of, 1, method="inverted_cdf") - offset) / scale for of in TRAINING])
        for extreme in (min, max)
    )
    level = (np.percentile(pixels, 1, method="inverted_cdf") - offset) / scale
    assert found == (
        f"percentile 1 of the normalised grey values is {level:.3g}, of the training images "
        f"{least:.3g} to {greatest:.3g}"
    )


def test_brightness_counts_not_where_each_image_is_normalised_by_its_own(
    histograms: dict[str, Path],
) -> None:
    facts = model(histograms, source="image")
    assert unlike_training(image(TRAINING[0] * 30.0 + 1000), facts) == ""
    mostly_empty = np.where(RNG.random((64, 80)) < 0.9, 0, TRAINING[0])
    assert "percentile 1 of" in unlike_training(image(mostly_empty), facts)
    assert "normalised grey values is 0, of" in unlike_training(image(np.full((9, 9), 7)), facts)


def test_voxels_outside_region_and_mask_do_not_count(histograms: dict[str, Path]) -> None:
    facts = model(histograms)
    pixels = np.full((200, 200), np.nan)
    pixels[:64, :80] = TRAINING[1]
    pixels[100:] = 1e6
    assert unlike_training(image(pixels), facts)
    assert unlike_training(image(pixels), facts, (slice(0, 64), slice(0, 200))) == ""
    inside = np.zeros(pixels.shape, np.uint8)
    inside[:64, :80] = 1
    assert unlike_training(image(pixels), facts, None, image(inside)) == ""
    assert unlike_training(image(pixels), facts, None, image(inside * 0)) == ""


def test_the_channel_that_differs_is_named(histograms: dict[str, Path]) -> None:
    facts = model(histograms)
    for name in ("offset", "scale", "levels"):
        facts["intensity"][name] = [*facts["intensity"][name]] * 2
    pixels = np.stack([TRAINING[0], TRAINING[0] + 100.0])
    assert "grey values of channel 1 is" in unlike_training(image(pixels, "cyx"), facts)


def test_a_model_that_does_not_state_them_is_not_compared(histograms: dict[str, Path]) -> None:
    facts = model(histograms)
    del facts["intensity"]["levels"]
    assert unlike_training(image(TRAINING[0] + 1e6), facts) == ""


def test_training_images_of_background_alone_have_no_range(histograms: dict[str, Path]) -> None:
    facts = model(histograms)
    facts["intensity"]["levels"] = [[[-0.1, -0.1]] * 3]
    offset, scale = facts["intensity"]["offset"][0], facts["intensity"]["scale"][0]
    for level, outlier in ((-0.1, False), (0.1, False), (0.5, True)):
        pixels = np.full((9, 9), offset + scale * level)
        assert bool(unlike_training(image(pixels), facts)) == outlier


@given(st.integers(0, 50), st.integers(1, 3000), st.integers(1, 5), st.integers(1, 200))
def test_pieces_lie_apart_within_their_span(start: int, extent: int, count: int, side: int) -> None:
    part = slice(start, start + extent)
    found = pieces(part, count, side)
    ends = [part.start, *(end for one in found for end in (one.start, one.stop)), part.stop]
    assert ends == sorted(ends)
    assert sum(one.stop - one.start for one in found) == min(extent, count * side)


def test_of_a_large_volume_a_sample_is_read() -> None:
    class Counting:
        shape, dtype, read = (10**6, 10**5, 10**5), np.dtype(np.uint8), 0

        def __getitem__(self, index: tuple[slice, ...]) -> NDArray[np.uint8]:
            extents = [part.stop - part.start for part in index]
            self.read += int(np.prod(extents))
            return np.zeros(extents, np.uint8)

    array = Counting()
    assert sample(Image("v", array, "zyx", {}), None, None).shape == (1, 4 * 2 * 2 * 128 * 128)
    assert array.read == 4 * 2 * 2 * 128 * 128
