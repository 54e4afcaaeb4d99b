"""Who trains, validates and tests: once each, never both, and never a group in two parts."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unetflow.settings.training import SplitSettings
from unetflow.splits import images_of, sequences, split, to_predict

Image = dict[str, Any]
HELD_OUT = ("test", "track")


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
    taken = {entry["frame"] for entry in images if entry["group"] == "g0"}
    for frame in draw(st.sets(st.integers(0, 120), max_size=9)) - taken:
        images.append(image("g0", frame, annotated=False))
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
        known = {name: part for name, part in parts[f"fold{fold}"].items() if part != "track"}
        assert set(known) == annotated
        assert set(known.values()) == {"train", "validate", "test"}


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
        assert all(found <= {"test", "track"} or len(found) == 1 for found in parts_of.values())


@examples(deadline=None)
@given(st.data())
def test_what_is_not_annotated_is_held_out_with_its_neighbours_in_one_fold(
    data: st.DataObject,
) -> None:
    images, settings, parts = any_split(data, ("group", "block"))
    rest = [entry["image"] for entry in images if not entry["annotated"]]
    held = Counter(name for part in parts.values() for name, of in part.items() if of == "track")
    assert held == dict.fromkeys(rest, 1)
    for group in group_sizes(images):
        ordered = sorted((entry["frame"], entry["image"]) for entry in images)
        names = [name for _, name in ordered if name.startswith(f"{group}_")]
        fold_of = [
            next(f for f in range(settings.folds) if parts[f"fold{f}"].get(name) in HELD_OUT)
            for name in names
        ]
        runs = [fold for fold, _ in groupby(fold_of)]
        assert len(runs) == len(set(runs)), "a run of frames has a gap"


@examples(deadline=None)
@given(st.data())
def test_images_that_stand_alone_are_not_followed(data: st.DataObject) -> None:
    _, _, parts = any_split(data, ("image",))
    assert all("track" not in part.values() for part in parts.values())


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 9))
def test_of_two_sequences_one_is_tested_and_the_end_of_the_other_validates(
    one: int, other: int, seed: int
) -> None:
    sizes = {"a": one, "b": other}
    images = [image(group, frame) for group, size in sizes.items() for frame in range(size)]
    parts = split(images, SplitSettings(unit="group", folds=2, seed=seed))
    tested = []
    for fold in ("fold0", "fold1"):
        (group,) = {name[0] for name, part in parts[fold].items() if part == "test"}
        (rest,) = set("ab") - {group}
        in_order = [part for name, part in sorted(parts[fold].items()) if name[0] == rest]
        last = max(1, sizes[rest] // 5)
        assert in_order == ["train"] * (sizes[rest] - last) + ["validate"] * last
        tested.append(group)
    assert sorted(tested) == ["a", "b"]


def test_one_image_cannot_train_and_validate() -> None:
    images = [image("a", 0), image("b", 0), image("b", 1)]
    with pytest.raises(ValueError, match=r"folds 2 must leave two images .*: got 1; annotate more"):
        split(images, SplitSettings(unit="group", folds=2))


def movie(annotated: set[int], frames: int = 12) -> list[Image]:
    """Return the frames of a sequence, the last one first."""
    return [image("g", frame, frame in annotated) for frame in reversed(range(frames))]


def test_a_run_of_frames_is_predicted_where_it_is_tracked() -> None:
    images = movie({2, 3, 7, 9})
    parts = split(images, SplitSettings(unit="block", folds=4))
    runs = {fold: to_predict(images, parts[f"fold{fold}"], track=True) for fold in range(4)}
    frames = {fold: [int(name[-2:]) for name in names] for fold, names in runs.items()}
    # Those before the first annotated frame go with it, in the order of the index.
    assert frames == {0: [2, 1, 0], 1: [6, 5, 4, 3], 2: [8, 7], 3: [11, 10, 9]}
    assert list(sequences(images, runs[1])["g"]) == [3, 4, 5, 6]
    assert to_predict(images, parts["fold1"], track=False) == ["g_0003"]


def test_final_predicts_whole_sequences_to_track_them() -> None:
    images = [*movie({2, 3, 7}), image("all annotated", 0), image("none", 5, annotated=False)]
    parts = split(images, SplitSettings(unit="image", folds=3))["final"]
    new = [entry["image"] for entry in images if not entry["annotated"]]
    assert to_predict(images, parts, track=False) == new
    found = sequences(images, to_predict(images, parts, track=True))
    assert {name: list(frames) for name, frames in found.items()} == {
        "g": list(range(12)),
        "none": [5],
    }
    assert found["g"][11] == "g_0011"


@pytest.mark.parametrize(
    ("frames", "match"), [([3, 4, 6], "in g got 6 after 4; use split.unit"), ([3, 3], "3 after 3")]
)
def test_frames_with_gaps_are_not_tracked(frames: list[int], match: str) -> None:
    images = [image("g", frame) for frame in frames]
    with pytest.raises(ValueError, match=match):
        sequences(images, [entry["image"] for entry in images])


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


@examples(deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 99))
def test_stacks_that_are_tested_on_planes_train_validate_and_test_in_one_fold(
    folds: int, more: int, seed: int
) -> None:
    images = [image(f"g{number}", 0) | {"axes": "zyx"} for number in range(folds + more)]
    images.append(image("g0", 1, annotated=False) | {"axes": "zyx"})
    settings = SplitSettings(unit="image", folds=folds, seed=seed, tested_planes=4)
    parts = split(images, settings)
    known = [entry["image"] for entry in images if entry["annotated"]]
    seen = Counter(name for fold in settings.names for name in parts[fold])
    assert seen == dict.fromkeys(known, 1)
    for fold in settings.names:
        for part in ("train", "validate", "test"):
            assert images_of(parts[fold], part) == list(parts[fold])
        assert sorted(to_predict(images, parts[fold], track=False)) == sorted(parts[fold])
    assert images_of(parts["final"], "train") == known


def test_planes_of_a_single_image_cannot_be_tested() -> None:
    images = [image("g", frame) | {"axes": "cyx"} for frame in range(3)]
    with pytest.raises(ValueError, match="tested_planes must be of stacks: got g_0000 of axes cyx"):
        split(images, SplitSettings(unit="block", folds=3, tested_planes=5))


def test_one_fold_must_test_planes() -> None:
    assert SplitSettings(folds=1, tested_planes=2).names == ["fold0"]
    with pytest.raises(ValueError, match="folds must be at least 2 to test on images"):
        SplitSettings(folds=1)


@examples(deadline=None)
@given(st.data(), st.integers(2, 6))
def test_where_training_images_validate_all_but_the_tested_ones_do_both(
    data: st.DataObject, folds: int
) -> None:
    images = data.draw(datasets(groups=1, smallest_group=folds))
    settings = SplitSettings(unit="image", folds=folds, validate_on="training")
    annotated = {entry["image"] for entry in images if entry["annotated"]}
    parts = split(images, settings)
    for fold in settings.names:
        tested = set(images_of(parts[fold], "test"))
        assert set(images_of(parts[fold], "train")) == annotated - tested
        assert set(images_of(parts[fold], "validate")) == annotated - tested
        assert tested
