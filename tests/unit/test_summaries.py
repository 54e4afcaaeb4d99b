"""Means, spread and paired differences of scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from unetflow.summaries import compare, summarise


def scored(values: np.ndarray, images: list[str], metric: str = "dice") -> pd.DataFrame:
    """Scores of shape (seeds, images), two images to a fold."""
    return pd.DataFrame(
        [
            {
                "split": f"fold{at // 2}",
                "seed": seed,
                "image": image,
                "metric": metric,
                "value": values[seed, at],
            }
            for seed in range(len(values))
            for at, image in enumerate(images)
        ]
    )


IMAGES = [f"image{i}" for i in range(12)]


def test_spread_between_folds_and_seeds_is_that_of_their_means() -> None:
    values = np.random.default_rng(0).normal(size=(3, 12))
    found = summarise(scored(values, IMAGES))["dice"]
    folds = values.reshape(3, 6, 2).mean(axis=(0, 2))
    assert found["between_folds"] == pytest.approx(np.std(folds, ddof=1))
    assert found["between_seeds"] == pytest.approx(np.std(values.mean(axis=1), ddof=1))
    alone = summarise(scored(values[:1, :2], IMAGES[:2]))["dice"]
    assert (alone["between_folds"], alone["between_seeds"]) == (None, None)


def test_a_paired_difference_is_not_widened_by_how_hard_images_are() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(scale=10, size=(1, 12))
    gain = 0.1 + rng.normal(scale=0.02, size=(1, 12))
    found = compare(scored(hard, IMAGES), scored(hard + gain, IMAGES))["dice"]
    assert found["difference"] == pytest.approx(gain.mean())
    assert found["n"] == 12
    # The interval of a mean of twelve is about 2 · 0.02 / √12 to either side.
    assert 0.08 < found["low"] < gain.mean() < found["high"] < 0.12


def test_only_images_and_metrics_of_both_are_compared() -> None:
    one = scored(np.arange(12.0)[None], IMAGES)
    other = pd.concat(
        [scored(np.full((2, 3), 5.0), IMAGES[:3]), scored(np.ones((1, 3)), IMAGES[:3], "f1")]
    )
    other.loc[other["image"] == "image0", "value"] = np.nan
    found = compare(one, other)
    assert set(found) == {"dice"}
    assert found["dice"]["n"] == 2
    assert found["dice"]["difference"] == pytest.approx(5 - (1 + 2) / 2)


def test_a_single_image_has_a_difference_without_an_interval() -> None:
    found = compare(scored(np.ones((1, 1)), ["a"]), scored(np.zeros((1, 1)), ["a"]))["dice"]
    assert found == {"difference": -1, "low": None, "high": None, "n": 1}


def test_experiments_without_common_images_cannot_be_compared() -> None:
    assert compare(scored(np.ones((1, 1)), ["a"]), scored(np.ones((1, 1)), ["b"])) == {}
