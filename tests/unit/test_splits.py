"""Who trains, validates and tests: once each, never both, and never a group in two parts."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unetflow.settings import SplitSettings
from unetflow.splits import split

Image = dict[str, Any]


@st.composite
def datasets(draw: st.DrawFn, groups: int, smallest_group: int) -> list[Image]:
    """Images of several groups, in any order, some of them without annotation."""
    sizes = draw(st.lists(st.integers(smallest_group, 9), min_size=groups, max_size=9))
    images = []
    for group, size in enumerate(sizes):
        start, step = draw(st.integers(0, 50)), draw(st.integers(1, 7))
        for number in range(size):
            frame = start + step * number
            images.append(image(f"g{group}", frame, annotated=True))
    for number in range(draw(st.integers(0, 4))):
        images.append(image("g0", 1000 + number, annotated=False))
    return draw(st.permutations(images))


def image(group: str, frame: int, annotated: bool = True) -> Image:
    """Return an entry of an index."""
    return {
        "image": f"{group}_{frame:04d}",
        "group": group,
        "frame": frame,
        "annotated": annotated,
    }


def group_sizes(images: list[Image]) -> Counter[str]:
    """Return the number of annotated images of each group."""
    return Counter(entry["group"] for entry in images if entry["annotated"])


def any_split(
    data: st.DataObject, units: tuple[str, ...] = ("group", "block", "image")
) -> tuple[list[Image], SplitSettings, dict[str, dict[str, str]]]:
    """Draw a dataset, settings that suit it, and how it is split."""
    folds = data.draw(st.integers(3, 6))
    unit = data.draw(st.sampled_from(units))
    images = data.draw(
        datasets(
            groups=folds if unit == "group" else 1,
            smallest_group=1 if unit == "group" else folds,
        )
    )
    settings = SplitSettings(unit=unit, folds=folds, seed=data.draw(st.integers(0, 99)))
    return images, settings, split(images, settings)


@examples(deadline=None)
@given(st.data())
def test_every_annotated_image_is_tested_in_exactly_one_fold(data: st.DataObject) -> None:
    images, settings, parts = any_split(data)
    tested = Counter(
        name
        for fold in range(settings.folds)
        for name, part in parts[f"fold{fold}"].items()
        if part == "test"
    )
    assert tested == {entry["image"]: 1 for entry in images if entry["annotated"]}


@examples(deadline=None)
@given(st.data())
def test_a_fold_knows_all_annotated_images_and_each_in_one_part(data: st.DataObject) -> None:
    images, settings, parts = any_split(data)
    annotated = {entry["image"] for entry in images if entry["annotated"]}
    assert list(parts) == [*(f"fold{fold}" for fold in range(settings.folds)), "final"]
    for fold in range(settings.folds):
        assert set(parts[f"fold{fold}"]) == annotated
        assert set(parts[f"fold{fold}"].values()) == {"train", "validate", "test"}


@examples(deadline=None)
@given(st.data())
def test_what_a_fold_validates_on_is_what_the_next_tests_on(data: st.DataObject) -> None:
    _, settings, parts = any_split(data)
    for fold in range(settings.folds):
        following = parts[f"fold{(fold + 1) % settings.folds}"]
        validated = {name for name, part in parts[f"fold{fold}"].items() if part == "validate"}
        assert validated == {name for name, part in following.items() if part == "test"}


@examples(deadline=None)
@given(st.data())
def test_final_trains_on_all_annotated_images_and_tests_the_rest(data: st.DataObject) -> None:
    images, _, parts = any_split(data)
    assert parts["final"] == {
        entry["image"]: "train" if entry["annotated"] else "test" for entry in images
    }


@examples(deadline=None)
@given(st.data())
def test_groups_are_never_divided(data: st.DataObject) -> None:
    images, settings, parts = any_split(data, ("group",))
    group_of = {entry["image"]: entry["group"] for entry in images}
    for fold in range(settings.folds):
        parts_of = defaultdict(set)
        for name, part in parts[f"fold{fold}"].items():
            parts_of[group_of[name]].add(part)
        assert all(len(found) == 1 for found in parts_of.values())


@examples(deadline=None)
@given(st.data())
def test_blocks_are_runs_of_neighbouring_frames(data: st.DataObject) -> None:
    images, settings, parts = any_split(data, ("block",))
    for group in group_sizes(images):
        frames = sorted(
            (entry["frame"], entry["image"])
            for entry in images
            if entry["annotated"] and entry["group"] == group
        )
        fold_of = [
            next(fold for fold in range(settings.folds) if parts[f"fold{fold}"][name] == "test")
            for _, name in frames
        ]
        assert fold_of == sorted(fold_of)
        sizes = Counter(fold_of)
        assert set(sizes) == set(range(settings.folds))
        assert max(sizes.values()) - min(sizes.values()) <= 1


@examples(deadline=None)
@given(st.data())
def test_folds_differ_little_in_size(data: st.DataObject) -> None:
    images, settings, parts = any_split(data)
    sizes = [list(parts[f"fold{fold}"].values()).count("test") for fold in range(settings.folds)]
    groups = group_sizes(images)
    allowed = {"image": 1, "block": len(groups), "group": max(groups.values())}
    assert max(sizes) - min(sizes) <= allowed[settings.unit]


@examples(deadline=None)
@given(st.data())
def test_the_same_seed_deals_alike_whatever_the_order_of_images(data: st.DataObject) -> None:
    images, settings, parts = any_split(data, ("group", "block"))
    shuffled = data.draw(st.permutations(images))
    assert split(shuffled, settings) == parts


def test_another_seed_deals_otherwise() -> None:
    images = [image("g", frame) for frame in range(12)]
    dealt = [split(images, SplitSettings(unit="image", seed=seed))["fold0"] for seed in range(3)]
    assert dealt[0] != dealt[1] or dealt[1] != dealt[2]


def test_a_large_group_shares_no_fold_while_small_ones_can_fill_another() -> None:
    sizes = {"a": 6, "b": 2, "c": 2, "d": 2}
    images = [image(group, frame) for group, size in sizes.items() for frame in range(size)]
    parts = split(images, SplitSettings(unit="group", folds=3))
    tested = [
        {name[0] for name, part in parts[f"fold{fold}"].items() if part == "test"}
        for fold in range(3)
    ]
    assert {"a"} in tested


@pytest.mark.parametrize("images", [[], [image("a", 0, annotated=False)]])
def test_a_dataset_without_annotation_is_refused(images: list[Image]) -> None:
    with pytest.raises(ValueError, match="must have annotated images: got none; check the mask"):
        split(images, SplitSettings())


def test_fewer_groups_than_folds_name_blocks_as_the_remedy() -> None:
    images = [image("only", frame) for frame in range(30)]
    with pytest.raises(ValueError, match=r"number of groups: got 5 folds and 1; .*unit: block "):
        split(images, SplitSettings(unit="group", folds=5))


def test_groups_without_annotation_do_not_count() -> None:
    images = [image(f"g{number}", 0, annotated=number < 2) for number in range(5)]
    with pytest.raises(ValueError, match="got 3 folds and 2"):
        split(images, SplitSettings(unit="group", folds=3))


def test_fewer_images_than_folds_name_the_remedy() -> None:
    images = [image("a", frame) for frame in range(2)]
    with pytest.raises(ValueError, match=r"number of images: got 3 folds and 2; use fewer folds"):
        split(images, SplitSettings(unit="image", folds=3))


def test_a_group_of_fewer_frames_than_folds_is_named() -> None:
    images = [image(group, frame) for group, size in (("a", 5), ("b", 3)) for frame in range(size)]
    with pytest.raises(ValueError, match=r"got 4 folds and 3 frames in b; .*split\.unit: image"):
        split(images, SplitSettings(unit="block", folds=4))
