"""Settings files: what is committed loads, and every mistake ends as one helpful line."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from unetflow.experiments import (
    changed,
    check_regions,
    check_starts,
    datasets_of,
    fetched_weights,
    first_alike,
    load_experiments,
    load_families,
    stage_before,
    start_of,
)
from unetflow.reading import dotted_keys, parse, read_yaml
from unetflow.settings.experiment import ExperimentSettings, RunSettings
from unetflow.settings.prediction import PredictSettings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
REGISTRY = ROOT / "resources/datasets"
FILES = sorted((CONFIG / "experiments").glob("*.yaml"))
SYNTHETIC = {"name": "made", "layout": {"kind": "synthetic", "shape": [4, 64, 64]}}
KEYS = sorted(set(dotted_keys(ExperimentSettings)))
GOOD: dict[str, Any] = {
    "dataset": SYNTHETIC,
    "model": {"width": 4, "depth": 2},
    "patches": {"tile": 76},
    "variants": {"wide": {"model.width": 8}, "long": {"train.steps": 9, "weights.w0": 0}},
}


def having(**changes: Any) -> dict[str, Any]:
    """Return good settings with dotted keys (written with two underscores) changed."""
    content = deepcopy(GOOD)
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return content


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write an experiment file."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def mistake(folder: Path, content: dict[str, Any]) -> str:
    """Return the one line that loading an experiment file ends with."""
    write(folder, "one", content)
    with pytest.raises(ValueError, match="one") as caught:
        load_experiments(folder, ["one"])
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{folder / 'one.yaml'}: ")
    return line.removeprefix(f"{folder / 'one.yaml'}: ")


def assert_matches(pattern: str, line: str) -> None:
    """Refuse a line that does not match from start to end."""
    assert re.fullmatch(pattern, line), f"{line!r} is not like {pattern!r}"


# ----------------------------------------------------------------------- what is committed


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_committed_experiment_loads_and_finds_its_dataset(path: Path, tmp_path: Path) -> None:
    loaded = load_experiments(path.parent, [path.stem])
    assert path.stem in loaded
    # What has no direct download is named by those who have put it together.
    own = tmp_path / "registry.yaml"
    names = ("nuclei3d", "ovule3d", "brats", "sliver07")
    own.write_text("".join(f"{name}: {{url: {name}.zip}}\n" for name in names))
    datasets = datasets_of(loaded, REGISTRY, own)
    check_regions(loaded, datasets)


def test_the_committed_config_loads_and_names_what_exists() -> None:
    path = CONFIG / "config.yaml"
    run = parse(RunSettings, read_yaml(path), str(path))
    assert load_experiments(CONFIG / "experiments", run.experiments)
    assert all((CONFIG / "archives" / f"{name}.tsv").is_file() for name in run.archives)


@pytest.mark.parametrize("path", [CONFIG / "config.yaml", *FILES], ids=lambda path: path.stem)
def test_the_first_line_of_a_committed_file_links_a_schema_that_exists(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    link = first.removeprefix("# yaml-language-server: $schema=")
    assert link != first
    assert (path.parent / link).is_file()


def test_settings_survive_json_and_back() -> None:
    loaded = load_experiments(CONFIG / "experiments", [path.stem for path in FILES])
    for settings in loaded.values():
        assert ExperimentSettings(**settings.model_dump(mode="json")) == settings


# --------------------------------------------------------------------------- unknown keys


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trainn": {"steps": 3}}, "unknown key trainn; the nearest is train"),
        ({"train__stepps": 3}, "unknown key train.stepps; the nearest is train.steps"),
        ({"train__Steps": 3}, "unknown key train.Steps; the nearest is train.steps"),
        ({"patches__tile_size": 76}, "unknown key patches.tile_size; the nearest is patches.tile"),
        (
            {"dataset__layout__shapee": [4, 64, 64]},
            "unknown key dataset.layout.shapee; the nearest is dataset.layout.shape",
        ),
        (
            {"dataset__downloads": [{"ulr": "a.zip"}]},
            "unknown key dataset.downloads.ulr; the nearest is dataset.downloads.url",
        ),
        ({"qqqqqqqq": 3}, "unknown key qqqqqqqq; see config/README.md"),
    ],
)
def test_an_unknown_key_names_the_nearest(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    assert mistake(tmp_path, having(**changes)) == line


def test_an_unknown_key_of_a_variant_names_file_variant_key_and_nearest(tmp_path: Path) -> None:
    line = mistake(tmp_path, having(variants={"long": {"train.stepps": 9}}))
    assert line == "variants.long: unknown key train.stepps; the nearest is train.steps"


def test_an_unknown_key_is_told_before_what_follows_from_it(tmp_path: Path) -> None:
    content = having(dataset={"name": "made", "layuot": {"kind": "ctc"}})
    assert mistake(tmp_path, content) == (
        "unknown key dataset.layuot; the nearest is dataset.layout"
    )


@examples(deadline=None)
@given(key=st.sampled_from(KEYS), data=st.data())
def test_a_key_with_one_letter_missing_is_refused_by_its_name(
    key: str, data: st.DataObject
) -> None:
    *parents, last = key.split(".")
    assume(not {"dataset", "authors"} & {*parents} and len(last) >= 3)  # a list of them
    at = data.draw(st.integers(0, len(last) - 1))
    misspelt = last[:at] + last[at + 1 :]
    assume(".".join([*parents, misspelt]) not in KEYS)  # devices and device
    place: dict[str, Any] = {misspelt: 1}
    for parent in reversed(parents):
        place = {parent: place}
    with pytest.raises(ValueError, match=r"\AF: ") as caught:
        parse(ExperimentSettings, GOOD | place, "F")
    assert str(caught.value).startswith(f"F: unknown key {'.'.join([*parents, misspelt])};")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------ impossible values


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"train__steps": 0}, "train.steps must be greater than or equal to 1: got 0"),
        ({"train__steps": "many"}, "train.steps must be a valid integer, .*: got 'many'"),
        ({"model__dimensions": 4}, "model.dimensions must be 2 or 3: got 4"),
        ({"weights__sigma": -1}, "weights.sigma must be greater than 0: got -1"),
        (
            {"weights__annotated_planes": {}},
            "weights.annotated_planes .* at least 1 item.*: got {}",
        ),
        (
            {"weights__class_weights": [0, 0]},
            r"weights.class_weights: must be above 0 for some class, .*: got \[0.0, 0.0\]; .*",
        ),
        (
            {"train": {"optimiser": "adam", "momentum": 0.9}},
            "train: momentum must be left at 0.99 where optimiser is adam, .*: got 0.9; .*",
        ),
        (
            {"train": {"recipe": "modern", "staircase_steps": 9}},
            "train: staircase_steps must be left at 1000 where .* one_cycle, .*: got 9; .*",
        ),
        (
            {"train__staircase_factor": 0.5},
            ".* where schedule is constant, .*: got 0.5; .*, or set schedule to staircase",
        ),
        (
            {"model": {"width": 17, "normalisation": "group"}},
            "model: width must be even for normalisation group, .*: got 17, .*",
        ),
        ({"split__folds": 0}, "split.folds must be greater than or equal to 1: got 0"),
        (
            {"split__folds": 1},
            "split: folds must be at least 2 to test on images that .*: got 1; .*",
        ),
        (
            {"track__gap": 2},
            "track: gap must have a max_distance: got gap 2 and max_distance 0; .*",
        ),
        ({"split__run": [7]}, "split: run must name folds from 0 to 4: got .7."),
        ({"split": None}, "split must be a valid dictionary.*: got None"),
        ({"segment__threshold": 2}, "segment.threshold must be .*1.*: got 2"),
        ({"segment__threshold": "atuo"}, "segment.threshold must be .*: got 'atuo'.* auto"),
        ({"patches__tile": "big"}, "patches.tile must be .*: got 'big'"),
        ({"dataset": "my data"}, "dataset .*A-Za-z0-9_-.*: got 'my data'"),
        ({"dataset__layout__shape": [4]}, r"dataset.layout.shape .* at least 2 .*: got \[4\]"),
        ({"dataset__layout__stacks": 0}, "dataset.layout.stacks must be .* 1: got 0"),
        (
            {"dataset__layout__texture": "membrane"},
            "dataset.layout.texture must be .*: got 'membrane'; the nearest is membranes",
        ),
        (
            {"dataset__layout__kind": "synthetc"},
            "dataset.layout.*: got 'synthetc'; the nearest is synthetic",
        ),
        ({"dataset__voxel_size_um": {"z": 0}}, "dataset.voxel_size_um.z must be .* 0: got 0"),
        ({"dataset__downloads": [{"url": ""}]}, "dataset.downloads.*url .* 1 .*: got ''"),
    ],
)
def test_an_impossible_value_names_key_rule_and_what_was_found(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    assert_matches(line, mistake(tmp_path, having(**changes)))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"train__optimiser": "adm"},
            "train.optimiser must be 'sgd', 'adam' or 'adamw': got 'adm'; the nearest is adam",
        ),
        (
            {"segment__method": "wathershed"},
            "segment.method must be 'components' or 'watershed': got 'wathershed'; "
            "the nearest is watershed",
        ),
        (
            {"intensity__normalise": "z-score"},
            "intensity.normalise must be 'zscore' or 'percentile': got 'z-score'; "
            "the nearest is zscore",
        ),
    ],
)
def test_a_wrong_choice_names_the_choices_and_the_nearest(
    tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    assert mistake(tmp_path, having(**changes)) == line


@pytest.mark.parametrize("key", ["images", "masks"])
def test_a_missing_key_of_a_layout_is_named(tmp_path: Path, key: str) -> None:
    layout = {"kind": "pairs", "images": "images/*.tif", "masks": "masks/*.tif"}
    del layout[key]
    content = having(dataset={"name": "mine", "layout": layout})
    assert mistake(tmp_path, content) == f"dataset.layout.{key} is required: add it"


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    content = having()
    del content["dataset"]
    assert mistake(tmp_path, content) == "dataset is required: add it"


def test_a_written_out_dataset_without_name_is_refused(tmp_path: Path) -> None:
    line = mistake(tmp_path, having(dataset={"layout": SYNTHETIC["layout"]}))
    assert line.endswith("a dataset written out must have a name: got none; add dataset.name")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train__learning_rate", float("inf")),
        ("weights__w0", float("nan")),
        ("train__seeds", [0, -1]),
        ("train__seeds", [1, 0, 1]),
        ("split__run", [0, 0]),
    ],
)
def test_a_number_without_meaning_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    line = mistake(tmp_path, having(**{key: value}))
    assert line.startswith(key.replace("__", "."))


def test_a_dataset_of_two_places_is_refused(tmp_path: Path) -> None:
    line = mistake(tmp_path, having(dataset__folder="data"))
    assert "must come from one place: got folder and layout synthetic; remove one" in line


def test_a_file_of_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_bytes("description: Mäuse".encode("latin-1"))
    with pytest.raises(ValueError, match=r"one\.yaml: must be a text in UTF-8: got the byte 0xe4"):
        load_experiments(tmp_path, ["one"])


@pytest.mark.parametrize("stage", ["patches", "predict"])
@pytest.mark.parametrize("tile", [75, 0, [76, 78]])
def test_an_inadmissible_tile_names_stage_rule_and_nearest(
    tmp_path: Path, stage: str, tile: Any
) -> None:
    line = mistake(tmp_path, having(**{f"{stage}__tile": tile}))
    assert_matches(rf"{stage}\.tile must be 44 plus a multiple of 4: got \d+; nearest are .*", line)


def test_a_tile_that_leaves_no_step_names_the_smallest(tmp_path: Path) -> None:
    line = mistake(tmp_path, having(model__depth=3, patches__tile=92))
    assert_matches(r"patches\.tile must leave an output of .*: got 92, .* smallest is \d+", line)
    smallest = int(line.rsplit(" ", 1)[1])
    parse(ExperimentSettings, having(model__depth=3, patches__tile=smallest), "F")


def test_patches_of_a_padded_network_are_multiples_of_the_divisor(tmp_path: Path) -> None:
    line = mistake(tmp_path, having(model__padding="zeros", patches__tile=78))
    assert_matches(
        r"patches\.tile must be 4 plus a multiple of 4: got 78; nearest .* 76 and 80", line
    )
    settings = ExperimentSettings(**having(model__padding="zeros", patches__tile=[8, 80]))
    tile = settings.per_axis(settings.predict.tile)
    (rows, columns) = settings.model.geometry
    assert (rows.step(tile[0]), columns.step(tile[1])) == (8, 80)  # as much as a patch shows


def test_a_tile_that_a_padded_network_cannot_divide_an_image_into_names_the_smallest(
    tmp_path: Path,
) -> None:
    line = mistake(tmp_path, having(model__padding="zeros", predict__tile=44))
    assert_matches(r"predict\.tile must leave an output of .*: got 44, .* smallest is \d+", line)
    smallest = int(line.rsplit(" ", 1)[1])
    parse(ExperimentSettings, having(model__padding="zeros", predict__tile=smallest), "F")


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_statistics_that_are_stored_are_of_images_of_one_contrast(
    tmp_path: Path, kind: str
) -> None:
    message = mistake(tmp_path, having(model__normalisation=kind))
    assert "one contrast" in message
    assert "got intensity.source training; set that to image" in message
    having_both = having(model__normalisation=kind, intensity__source="image")
    assert ExperimentSettings(**having_both).model.normalisation == kind


def test_batch_normalisation_is_not_divided_among_devices(tmp_path: Path) -> None:
    content = having(model__normalisation="batch", train__devices=2, train__batch=2)
    assert "must see all of a batch: got train.devices 2, which divide it" in mistake(
        tmp_path, content
    )


@pytest.mark.parametrize("tile", [[76], [76, 76, 76]])
def test_a_tile_of_another_number_of_axes_is_refused(tmp_path: Path, tile: list[int]) -> None:
    line = mistake(tmp_path, having(predict__tile=tile))
    assert line == f"predict.tile must be a number or 2 of them: got {tile}"


def test_no_tile_of_prediction_means_that_of_the_patches() -> None:
    settings = ExperimentSettings(**having())
    assert settings.predict == PredictSettings()
    assert settings.per_axis(settings.predict.tile) == (76, 76)


def test_an_automatic_tile_of_prediction_is_admissible_and_that_of_the_patches_until_then() -> None:
    settings = ExperimentSettings(**having(predict__tile="auto"))
    assert (settings.predict.tile, settings.predict.fixed_tile) == ("auto", None)
    assert settings.per_axis(settings.predict.tile) == (76, 76)
    assert settings.automatic == ()  # the plan of the training has nothing to choose
    assert ExperimentSettings(**settings.model_dump(mode="json")) == settings
    with pytest.raises(ValueError, match=r"predict\.tile"):
        ExperimentSettings(**having(predict__tile="large"))


# ------------------------------------------------------------------------- files and names


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tx: 1", "a: 'open"])
def test_a_yaml_mistake_is_one_line_with_the_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"one\.yaml: must be YAML: .*line \d+, column") as caught:
        load_experiments(tmp_path, ["one"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "word"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"one\.yaml: must hold keys and values: got \w+\Z"):
        load_experiments(tmp_path, ["one"])


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"\Aexperiments: .*isbi2021\.yaml .*nearest is isbi2012"):
        load_experiments(CONFIG / "experiments", ["isbi2021"])


def test_an_unknown_variant_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    with pytest.raises(ValueError, match="found none; the nearest is one-wide"):
        load_experiments(tmp_path, ["one-wode"])


def test_an_experiment_like_none_lists_the_known(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    with pytest.raises(ValueError, match="found none; known are one"):
        load_experiments(tmp_path, ["zzzzzz"])
    with pytest.raises(ValueError, match="known are none"):
        load_experiments(tmp_path / "empty", ["zzzzzz"])


def test_one_name_in_the_config_is_a_list_of_one() -> None:
    assert parse(RunSettings, {"experiments": "demo"}, "F").experiments == ("demo",)


@pytest.mark.parametrize("folder", ["a{b}", "results/<x>"])
def test_a_results_folder_with_characters_of_wildcards_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match=r"\AF: results: must be a folder without .*; rename it\Z"):
        parse(RunSettings, {"results": folder}, "F")
    assert parse(RunSettings, {"results": "my results; $x"}, "F").results == "my results; $x"


def test_a_misspelt_key_of_the_config_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"\AF: unknown key experiment; the .* is experiments\Z"):
        parse(RunSettings, {"experiment": ["demo"]}, "F")


# -------------------------------------------------------------------------------- variants


def test_variants_differ_in_the_named_keys_alone(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    loaded = load_experiments(tmp_path, ["one"])
    assert list(loaded) == ["one", "one-long", "one-wide"]
    base = loaded["one"].model_dump() | {"variants": {}}
    long = deepcopy(base)
    long["train"]["steps"], long["weights"]["w0"] = 9, 0
    wide = deepcopy(base)
    wide["model"]["width"] = 8
    assert loaded["one-long"].model_dump() == long
    assert loaded["one-wide"].model_dump() == wide


def test_a_variant_can_run_alone(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    assert list(load_experiments(tmp_path, ["one-wide"])) == ["one-wide"]


def test_the_longest_file_name_wins_over_a_variant_of_a_shorter(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    write(tmp_path, "one-more", having(variants={"b": {"train.steps": 2}}))
    assert list(load_experiments(tmp_path, ["one-more"])) == ["one-more", "one-more-b"]
    assert load_experiments(tmp_path, ["one-more-b"])["one-more-b"].train.steps == 2


def test_changing_leaves_the_content_as_it_was() -> None:
    content = deepcopy(GOOD)
    changed(content, {"model.width": 99, "train.steps": 3}, "F")
    assert content == GOOD


@pytest.mark.parametrize(
    ("key", "place"), [("model.width.more", "width"), ("dataset.name.x", "name")]
)
def test_a_variant_key_that_goes_through_a_value_is_refused(
    tmp_path: Path, key: str, place: str
) -> None:
    line = mistake(tmp_path, having(variants={"bad": {key: 3}}))
    assert line == f"variants.bad: {key}: {place} must hold keys: it is a value"


def test_an_impossible_value_of_a_variant_names_the_variant(tmp_path: Path) -> None:
    line = mistake(tmp_path, having(variants={"bad": {"train.steps": 0}}))
    assert line == "variants.bad: train.steps must be greater than or equal to 1: got 0"


def test_a_variant_name_with_a_space_is_refused(tmp_path: Path) -> None:
    assert_matches(
        "variants.*A-Za-z0-9_-.*: got 'a b'", mistake(tmp_path, having(variants={"a b": {}}))
    )


def test_what_variants_share_is_made_by_the_first_that_is_alike(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    loaded = load_experiments(tmp_path, ["one"])
    assert first_alike(loaded, "one-wide", ["dataset", "weights"]) == "one"
    assert first_alike(loaded, "one-wide", ["dataset", "model"]) == "one-wide"
    assert first_alike(loaded, "one-long", ["weights"]) == "one-long"
    assert first_alike(loaded, "one", ["dataset", "model"]) == "one"
    assert first_alike(loaded, "one-wide", ["dataset", "model.geometry"]) == "one"


def test_what_variants_share_does_not_depend_on_what_is_chosen(tmp_path: Path) -> None:
    write(tmp_path, "one", GOOD)
    for names in (["one"], ["one-wide"], ["one-long", "one-wide"]):
        families = load_families(tmp_path, load_experiments(tmp_path, names))
        assert list(families["one-wide"]) == ["one", "one-long", "one-wide"]


def test_a_variant_and_a_file_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "one-wide", GOOD)
    line = mistake(tmp_path, GOOD)
    assert line == (
        "variants.wide: one-wide must be one experiment: there is a file one-wide.yaml too; "
        "rename one"
    )


def test_a_start_must_be_there_and_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "experiments/other/final/seed0"
    started = {"one": ExperimentSettings(**having(train__start_from=str(folder) + "/"))}
    with pytest.raises(
        ValueError, match=r"one: train\.start_from must hold model\.json: found none"
    ):
        check_starts(started, tmp_path, {"one": started})
    folder.mkdir(parents=True)
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_text("{}")
    check_starts(started, tmp_path, {"one": started})
    other = {"other": started["one"]}
    with pytest.raises(ValueError, match="must be another model: got its own"):
        check_starts(other, tmp_path, {"other": other})


def test_stages_of_one_file_follow_each_other_and_make_no_circle(tmp_path: Path) -> None:
    family = {
        "a": ExperimentSettings(**GOOD),
        "a-b": ExperimentSettings(**having(train__start_from="a")),
        "a-c": ExperimentSettings(**having(train__start_from="a-b")),
    }
    check_starts(family, tmp_path, dict.fromkeys(family, family))
    assert [stage_before(family, name) for name in family] == [None, "a", "a-b"]
    assert [start_of(family, name) for name in family] == [None] * 3
    circle = family | {"a": ExperimentSettings(**having(train__start_from="a-c"))}
    with pytest.raises(ValueError, match=r"experiment a: .* got a circle of a, a-c, a-b"):
        check_starts(circle, tmp_path, dict.fromkeys(circle, circle))


def test_pretrained_weights_must_be_there_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "vgg11.pth"
    model = {"network": "ternausnet", "padding": "valid", "pretrained": str(path)}
    content = having(model=model, patches__tile=342)
    content.pop("predict", None)
    family = {"one": ExperimentSettings(**content)}
    with pytest.raises(ValueError, match=r"one: model.pretrained must be a file: .*8a719046\.pth"):
        check_starts(family, tmp_path, {"one": family})
    path.write_bytes(b"abc")
    check_starts(family, tmp_path, {"one": family})
    assert start_of(family, "one") == [str(path), 3, path.stat().st_mtime_ns]
    # What is fetched need not be there, and is an input of the rule.
    fetched = ExperimentSettings(**content | {"model": model | {"pretrained": "imagenet"}})
    check_starts({"one": fetched}, tmp_path, {"one": {"one": fetched}})
    assert start_of({"one": fetched}, "one") is None
    assert fetched_weights(fetched.model) == "vgg11-8a719046.pth"
    assert fetched_weights(family["one"].model) is None
    content["train"] = {**content.get("train", {}), "start_from": "elsewhere"}
    with pytest.raises(ValueError, match=r"train.start_from must be alone: got model.pretrained"):
        ExperimentSettings(**content)


def test_pretrained_weights_leave_no_width_to_the_plan() -> None:
    model = {"network": "ternausnet", "padding": "valid", "pretrained": "imagenet", "width": "auto"}
    rule = (
        r"^one: model\.width must be 64 for model\.pretrained, as VGG's is: got auto; leave it out$"
    )
    with pytest.raises(ValueError, match=rule):
        parse(ExperimentSettings, having(model=model, patches__tile=342), "one")
    parse(ExperimentSettings, having(model=model | {"pretrained": None}, patches__tile=342), "one")


def test_a_frozen_encoder_must_come_from_somewhere() -> None:
    with pytest.raises(ValueError, match=r"must have train\.start_from or model\.pretrained: got"):
        ExperimentSettings(**having(train__freeze_encoder=True))


# -------------------------------------------------------------------------------- datasets


def test_experiments_share_a_dataset_that_they_describe_alike() -> None:
    experiments = {name: ExperimentSettings(**GOOD) for name in ("one", "two")}
    assert list(datasets_of(experiments, REGISTRY, None)) == ["made"]


def test_two_descriptions_of_one_dataset_are_refused() -> None:
    other = having(dataset__layout__shape=[5, 64, 64])
    experiments = {"one": ExperimentSettings(**GOOD), "two": ExperimentSettings(**other)}
    with pytest.raises(ValueError, match=r"dataset made: must mean one dataset: .*; rename one"):
        datasets_of(experiments, REGISTRY, None)


def test_a_description_that_takes_the_name_of_a_registry_entry_is_refused() -> None:
    mine = having(dataset__name="isbi2012")
    theirs = having(dataset="isbi2012")
    experiments = {"one": ExperimentSettings(**mine), "two": ExperimentSettings(**theirs)}
    with pytest.raises(ValueError, match="dataset isbi2012: must mean one dataset"):
        datasets_of(experiments, REGISTRY, None)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"all": ["cells"]}, r"all must be of the classes membrane, cell: got cells; correct it"),
        ({"all": []}, r"all must be of the classes membrane, cell: got none; correct it"),
        ({"cell": ["membrane"]}, r"cell must have a name that no class has"),
    ],
)
def test_regions_are_of_the_classes_of_the_dataset(
    regions: dict[str, list[str]], message: str
) -> None:
    experiments = {
        "one": ExperimentSettings(**having(evaluate__regions={"both": ["membrane", "cell"]})),
        "two": ExperimentSettings(**having(evaluate__regions=regions)),
    }
    datasets = datasets_of(experiments, REGISTRY, None)
    rule = rf"^experiment two: evaluate\.regions\.{message}"
    with pytest.raises(ValueError, match=rule) as caught:
        check_regions(experiments, datasets)
    assert "\n" not in str(caught.value)
    del experiments["two"]
    check_regions(experiments, datasets)


def test_regions_of_a_task_that_names_its_classes_itself_wait_for_it() -> None:
    decathlon = {"name": "made", "layout": {"kind": "decathlon"}}
    changes = {"dataset": decathlon, "evaluate__regions": {"all": ["tumour", "edema"]}}
    waiting = {"one": ExperimentSettings(**having(**changes))}
    check_regions(waiting, datasets_of(waiting, REGISTRY, None))
    del changes["dataset"]
    known = {"one": ExperimentSettings(**having(**changes))}
    with pytest.raises(ValueError, match="got edema, tumour; correct it"):
        check_regions(known, datasets_of(known, REGISTRY, None))
