"""Histograms, merged and whole, and the normalisation that follows from them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetflow.intensity import (
    Histogram,
    Normalisation,
    histogram,
    levels,
    merge,
    normalisation,
    normalisations,
    percentile,
    read_histograms,
    stored_normalisation,
    write_histograms,
)
from unetflow.settings.training import IntensitySettings
from unetflow.store import create_image

PERCENTS = (0, 0.5, 1, 10, 25, 50, 75, 99, 99.5, 100)


@st.composite
def images(draw: st.DrawFn) -> list[np.ndarray]:
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    parts = []
    for _ in range(draw(st.integers(1, 4))):
        scale, offset = draw(st.sampled_from([1, 40])), draw(st.sampled_from([0, 30, 100]))
        shape = draw(st.lists(st.integers(1, 8), min_size=1, max_size=3))
        part = np.abs(generator.normal(offset, scale, shape)).astype(dtype)
        part.flat[0] = 200
        parts.append(np.append(part, dtype(7)))
    return parts


@given(images())
def test_a_merged_histogram_is_that_of_all_pixels_together(parts: list[np.ndarray]) -> None:
    pixels = np.concatenate(parts)
    merged = merge([histogram(part, "image") for part in parts])
    whole = histogram(pixels, "image")
    values, counts = np.unique(pixels.astype(np.float64), return_counts=True)
    assert merged.values == whole.values == values.tolist()
    assert merged.counts == whole.counts == counts.tolist()
    assert merged.mean == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-12)
    assert merged.variance == pytest.approx(pixels.var(dtype=np.float64), rel=1e-9)


@given(images(), st.sampled_from(PERCENTS))
def test_a_percentile_of_the_merged_histogram_is_that_of_all_pixels(
    parts: list[np.ndarray], percent: float
) -> None:
    pixels = np.concatenate(parts).astype(np.float64)
    found = percentile(merge([histogram(part, "image") for part in parts]), percent)
    needed = percent / 100 * pixels.size
    assert found in pixels
    assert (pixels <= found).sum() >= needed - 1e-9
    assert (pixels < found).sum() <= needed + 1e-9


def test_more_than_65536_grey_values_are_binned_and_keep_their_exact_moments() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=70_000), generator.normal(3, 2, 70_000)]
    pixels = np.concatenate(parts)
    merged = merge([histogram(part, "image") for part in parts])
    assert sum(merged.counts) == pixels.size
    assert len(histogram(parts[0], "image").values) <= 65_536
    assert merged.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert merged.variance == pytest.approx(pixels.var(), rel=1e-12)
    width = np.ptp(pixels) / 65_536
    for percent in PERCENTS:
        assert percentile(merged, percent) == pytest.approx(
            np.percentile(pixels, percent, method="inverted_cdf"), abs=width
        )


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ([1, np.nan, 2], "a.tif: grey values must be finite: got 1 NaN or infinite; repair"),
        ([-np.inf, np.nan, 2], "a.tif: grey values must be finite: got 2 NaN or infinite;"),
        ([3, 3, 3], "a.tif: an image must have at least two grey values: all are 3; remove"),
    ],
)
def test_an_image_that_cannot_be_normalised_is_refused(pixels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        histogram(np.array(pixels), "a.tif")


@given(images())
def test_zscore_gives_mean_0_and_deviation_1(parts: list[np.ndarray]) -> None:
    pixels = np.concatenate(parts)
    made = normalisation([merge([histogram(part, "image") for part in parts])], IntensitySettings())
    applied = made.apply(pixels[None]).astype(np.float64)
    assert applied.mean() == pytest.approx(0, abs=1e-3)
    assert applied.std() == pytest.approx(1, rel=1e-3)


def test_percentiles_are_mapped_to_0_and_1() -> None:
    ramp = np.arange(101, dtype=np.uint8)
    settings = IntensitySettings(normalise="percentile", low_percentile=10, high_percentile=60)
    made = normalisation([histogram(ramp, "ramp")], settings)
    # Of 101 pixels 10 % are 10.1, which the value 10 is the first to reach; 60 % are 60.6.
    assert made == Normalisation((10.0,), (50.0,))
    assert made.apply(np.array([[10, 60, 0]])).tolist() == [[0, 1, np.float32(-0.2)]]


@given(images(), st.sampled_from(["zscore", "percentile"]))
def test_clipped_grey_values_are_normalised_as_those_of_a_clipped_image(
    parts: list[np.ndarray], how: str
) -> None:
    pixels = np.concatenate(parts).astype(np.float64)
    clipped = np.clip(pixels, 20, 90)
    settings = IntensitySettings(normalise=how, clip=(20, 90))
    made = normalisation([merge([histogram(part, "image") for part in parts])], settings)
    plain = normalisation([histogram(clipped, "image")], IntensitySettings(normalise=how))
    assert made.clip == (20, 90)
    np.testing.assert_allclose(made.apply(pixels[None]), plain.apply(clipped[None]), atol=1e-4)
    facts = {"offset": list(made.offset), "scale": list(made.scale), "clip": [20.0, 90.0]}
    assert stored_normalisation(facts) == made


def test_a_model_without_word_of_clipping_does_not_clip() -> None:
    facts = {"offset": [3.0], "scale": [2.0], "source": "training"}
    assert stored_normalisation(facts) == Normalisation((3.0,), (2.0,))


def test_clipping_must_leave_something() -> None:
    found = [histogram(np.array([50, 70]), "image")]
    with pytest.raises(ValueError, match="got 100 to 200 for values from 50 to 70; widen it"):
        normalisation(found, IntensitySettings(clip=(100, 200)))
    with pytest.raises(ValueError, match="must be a lower and a higher grey value"):
        IntensitySettings(clip=(9, 9))


def test_a_nearly_empty_image_falls_back_to_its_deviation() -> None:
    pixels = np.zeros(10_000)
    pixels[0] = 1
    made = normalisation([histogram(pixels, "empty")], IntensitySettings(normalise="percentile"))
    assert made.offset == (0.0,)
    assert made.scale == (pytest.approx(pixels.std()),)


def test_every_channel_is_normalised_by_itself() -> None:
    made = Normalisation((1.0, 10.0), (2.0, 5.0))
    pixels = np.array([[[1, 3]], [[10, 20]]], np.uint8)
    applied = made.apply(pixels)
    assert applied.dtype == np.float32
    assert applied.tolist() == [[[0, 1]], [[0, 2]]]


@pytest.fixture
def histograms(tmp_path: Path) -> dict[str, Path]:
    """Histograms of three images with two channels each."""
    generator = np.random.default_rng(0)
    paths = {}
    for number, name in enumerate("abc"):
        pixels = generator.integers(50 * number, 50 * number + 100, (2, 9, 11)).astype(np.uint8)
        create_image(tmp_path / name, "cyx", pixels.shape, pixels.dtype, {})[...] = pixels
        paths[name] = tmp_path / f"{name}.json"
        write_histograms(tmp_path / name, paths[name])
        stored = read_histograms(paths[name])
        assert stored == [histogram(channel, name) for channel in pixels]
    return paths


def test_training_statistics_come_from_the_training_images_alone(
    histograms: dict[str, Path],
) -> None:
    pooled, each = normalisations(histograms, ["a", "b"], IntensitySettings())
    assert set(each) == {"a", "b", "c"}
    assert set(each.values()) == {pooled}
    channels = zip(*(read_histograms(histograms[name]) for name in "ab"), strict=True)
    assert pooled == normalisation([merge(parts) for parts in channels], IntensitySettings())


def test_image_statistics_are_each_images_own(histograms: dict[str, Path]) -> None:
    settings = IntensitySettings(source="image")
    pooled, each = normalisations(histograms, ["a", "b"], settings)
    assert pooled == normalisations(histograms, ["a", "b"], IntensitySettings())[0]
    for name, path in histograms.items():
        assert each[name] == normalisation(read_histograms(path), settings)
    assert len(set(each.values())) == 3


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 50)), min_size=2, max_size=9))
@settings(max_examples=30)
def test_merging_does_not_depend_on_the_order(pairs: list[tuple[int, int]]) -> None:
    parts = [
        Histogram([float(value), 100.0], [count, 1], mean, (100 - value) ** 2 * count / total**2)
        for value, count in pairs
        for total in [count + 1]
        for mean in [(value * count + 100) / total]
    ]
    forward, backward = merge(parts), merge(reversed(parts))
    assert (forward.values, forward.counts) == (backward.values, backward.counts)
    assert forward.variance == pytest.approx(backward.variance, rel=1e-9)


# -------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
@pytest.mark.parametrize("percentile_too", [False, True])
def test_statistics_of_what_is_not_0_are_those_of_the_body(
    dtype: type, percentile_too: bool
) -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(900, 150, 70_000).clip(1).astype(dtype) for _ in range(2)]
    for part in parts:
        part[generator.random(part.size) < 0.6] = 0
    merged = merge([histogram(part, "image") for part in parts])
    body = np.concatenate(parts).astype(np.float64)
    body = body[body != 0]
    method = "percentile" if percentile_too else "zscore"
    settings = IntensitySettings(normalise=method, pixels="nonzero")
    made = normalisation([merged], settings)
    if percentile_too:
        low, high = np.percentile(body, [0.5, 99.5], method="inverted_cdf")
        width = np.ptp(body) / 60_000 if dtype == np.float32 else 1e-9
        assert made.offset[0] == pytest.approx(low, abs=width)
        assert made.scale[0] == pytest.approx(high - low, abs=2 * width)
    else:
        assert made.offset[0] == pytest.approx(body.mean(), rel=1e-9)
        assert made.scale[0] == pytest.approx(body.std(), rel=1e-9)


def test_levels_are_those_of_clipped_values() -> None:
    of = histogram(np.arange(-1000, 1001), "image")
    made = normalisation([of], IntensitySettings(clip=(-100, 250)))
    low, middle, high = levels([of], made)[0]
    expected = made.apply(np.array([[-100, 0, 250]]))[0]
    assert [low, middle, high] == pytest.approx(expected.tolist(), abs=1e-6)
