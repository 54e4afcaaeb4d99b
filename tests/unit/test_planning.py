"""Sheets and plans of archives: mistakes in one line, and a bad volume is a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from unetflow.planning import (
    datasets_in,
    located,
    plan_archive,
    read_sheet,
    read_sheets,
)
from unetflow.settings import ExperimentSettings
from unetflow.states import current_plan
from unetflow.store import create_image, read_json

HEAD = "volume\tpath\texperiment\ttruth\n"


def experiment(dimensions: int = 2) -> ExperimentSettings:
    """Return an experiment with a small network."""
    return ExperimentSettings(
        dataset="isbi2012",
        model={"width": 4, "depth": 2, "dimensions": dimensions},
        patches={"tile": 76},
    )


def sheet(folder: Path, text: str, name: str = "tissue") -> Path:
    """Write a sheet."""
    path = folder / f"{name}.tsv"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> str:
    """Return the one line, naming the sheet, with which a sheet is refused."""
    with pytest.raises(ValueError, match=path.name) as caught:
        read_sheet(path)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---------------------------------------------------------------------------------- sheets


def test_a_sheet_is_read_row_by_row(tmp_path: Path) -> None:
    path = sheet(tmp_path, HEAD + "a\tdata/a.tif\tone\t\n007\tdataset:d/x\ttwo\tdataset:d/x\n")
    assert read_sheet(path) == [
        {"volume": "a", "path": "data/a.tif", "experiment": "one", "truth": ""},
        {"volume": "007", "path": "dataset:d/x", "experiment": "two", "truth": "dataset:d/x"},
    ]


def test_the_committed_sheets_are_read() -> None:
    folder = Path(__file__).parents[2] / "config/archives"
    assert all(read_sheet(path) for path in folder.glob("*.tsv"))


def test_truth_is_optional_and_words_like_na_are_names(tmp_path: Path) -> None:
    path = sheet(tmp_path, "volume\tpath\texperiment\nNA\tnull\tone\n")
    assert read_sheet(path) == [{"volume": "NA", "path": "null", "experiment": "one"}]


def test_lines_that_begin_with_a_hash_are_left_out(tmp_path: Path) -> None:
    path = sheet(tmp_path, f"# our tissue\n{HEAD}#a\ta.tif\tone\t\nb\tb.tif\tone\t\n")
    assert [row["volume"] for row in read_sheet(path)] == ["b"]


def test_a_hash_inside_a_path_belongs_to_it(tmp_path: Path) -> None:
    path = sheet(tmp_path, HEAD + "a\tmouse #3/a.tif\tone\t\n")
    assert read_sheet(path)[0]["path"] == "mouse #3/a.tif"


def test_a_quote_inside_a_path_belongs_to_it(tmp_path: Path) -> None:
    path = sheet(tmp_path, HEAD + 'a\t"3 days"/a.tif\tone\t\nb\t5" disc.tif\tone\t\n')
    assert [row["path"] for row in read_sheet(path)] == ['"3 days"/a.tif', '5" disc.tif']


def test_what_spreadsheets_add_does_not_count(tmp_path: Path) -> None:
    path = sheet(tmp_path, "\ufeff" + HEAD.replace("\n", "\t\t\n") + "a\ta.tif \tone\t\t\t\n\t\t\n")
    assert read_sheet(path) == [
        {"volume": "a", "path": "a.tif", "experiment": "one", "truth": ""},
    ]


def test_another_encoding_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tissue.tsv"
    path.write_bytes((HEAD + "a\tM\u00e4use/a.tif\tone\t\n").encode("latin-1"))
    assert refused(path).endswith("save it as UTF-8")


def test_a_volume_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = sheet(tmp_path, HEAD + "a\ta.tif\tone\t\nb\tb.tif\tone\t\na\tc.tif\tone\t\n")
    assert refused(path).endswith("got 'a' twice; rename it")


@pytest.mark.parametrize("name", ["a b", "a/b", "ä", "", "a.b"])
def test_a_name_of_other_characters_is_refused(tmp_path: Path, name: str) -> None:
    path = sheet(tmp_path, HEAD + f"{name}\ta.tif\tone\t\n")
    assert refused(path).endswith(f"got {name!r}; rename it")


@pytest.mark.parametrize("column", ["volume", "path", "experiment"])
def test_a_missing_column_is_named(tmp_path: Path, column: str) -> None:
    head = HEAD.replace(column, f"my_{column}")
    line = refused(sheet(tmp_path, head + "a\ta.tif\tone\t\n"))
    assert line.endswith(f"missing ['{column}'], unknown ['my_{column}']")
    assert "columns must be volume, path, experiment and maybe truth, region, mask" in line


def test_commas_instead_of_tabs_are_told(tmp_path: Path) -> None:
    line = refused(sheet(tmp_path, "volume,path,experiment\na,a.tif,one\n"))
    assert "separated by tabs" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing ['volume', 'path', 'experiment']"),
        (HEAD, "must have a row for each volume: got none"),
        (HEAD.replace("truth", "path") + "a\ta.tif\tone\tb.tif\n", "got ['path'] more than once"),
        (HEAD + "a\ta.tif\tone\t\nb\tb.tif\tone\t\tmore\n", "got 5 in the row of 'b'"),
        (HEAD + "a\ta.tif\tone\t\tmore\n", "got 5 in the row of 'a'"),
    ],
    ids=["empty", "head only", "repeated column", "one row longer", "all rows longer"],
)
def test_a_sheet_that_is_no_table_is_one_line_with_its_file(
    tmp_path: Path, text: str, words: str
) -> None:
    assert words in refused(sheet(tmp_path, text))


@pytest.mark.parametrize("column", ["path", "experiment"])
def test_an_empty_cell_is_refused(tmp_path: Path, column: str) -> None:
    row = {"volume": "a", "path": "a.tif", "experiment": "one", column: ""}
    line = refused(sheet(tmp_path, HEAD + "\t".join([*row.values(), ""]) + "\n"))
    assert column in line
    assert "a" in line


def test_a_missing_sheet_names_the_nearest(tmp_path: Path) -> None:
    sheet(tmp_path, HEAD + "a\ta.tif\tone\t\n", "tissue")
    line = refused(tmp_path / "tisue.tsv")
    assert line == f"archives: {tmp_path / 'tisue.tsv'} must exist: found none; " + (
        "the nearest is tissue"
    )


def test_an_archive_without_its_experiment_is_left_out_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet(tmp_path, HEAD + "a\ta.tif\tone\t\n", "good")
    sheet(tmp_path, HEAD + "a\ta.tif\tone\t\nb\tb.tif\ttwo\t\n", "other")
    sheets = read_sheets(tmp_path, ["good", "other"], {"one": experiment()})
    assert list(sheets) == ["good"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "archive other is left out: it needs the experiment two, which is not among those to run\n"
    )


def test_datasets_of_path_and_truth_are_named_once(tmp_path: Path) -> None:
    text = HEAD + "a\tdataset:d1/x\tone\tdataset:d2/x\nb\tb.tif\tone\tdataset:d1/y\n"
    assert datasets_in(read_sheet(sheet(tmp_path, text))) == ["d1", "d2"]


def test_a_dataset_path_lies_in_the_results_and_others_stay() -> None:
    results = Path("results")
    expected = "results/datasets/d/images.ome.zarr/x"
    assert located("dataset:d/x", results) == expected
    assert located("data/a.tif", results) == "data/a.tif"


# ----------------------------------------------------------------------------------- plans


def plan(folder: Path, paths: dict[str, Path], dimensions: int = 2) -> dict[str, Any]:
    """Plan volumes and return the plan of each."""
    rows = {name: {"path": str(path), "experiment": "one"} for name, path in paths.items()}
    output = folder / "plan.json"
    plan_archive(rows, {"one": experiment(dimensions)}, output, "key")
    volumes: dict[str, Any] = read_json(output)["volumes"]
    return volumes


def volume(path: Path, axes: str = "zyx") -> Path:
    """Write a volume."""
    shape = tuple({"c": 2, "z": 3}.get(axis, 40) for axis in axes)
    create_image(path, axes, shape, "u1", {})[...] = 1
    return path


@pytest.mark.parametrize(("axes", "block"), [("yx", "0_0"), ("zyx", "0_0_0"), ("czyx", "0_0_0")])
def test_a_volume_is_planned_with_its_block_and_needs(
    tmp_path: Path, axes: str, block: str
) -> None:
    planned = plan(tmp_path, {"a": volume(tmp_path / "a", axes)})["a"]
    assert (planned["state"], planned["reason"], planned["axes"]) == ("planned", "", axes)
    assert planned["voxels"] == 40 * 40 * (3 if "z" in axes else 1)
    assert list(planned["blocks"]) == [block]
    assert planned["blocks"][block]["job"]["tile"] == [76, 76]
    assert planned["blocks"][block]["mem_mb"] > 900


def truncated(path: Path) -> Path:
    """Write a TIFF file and cut it."""
    tifffile.imwrite(path, np.ones((40, 40), "u1"))
    path.write_bytes(path.read_bytes()[:600])
    return path


def without_axes(path: Path) -> Path:
    """Write a folder whose OME metadata lack what they must have."""
    datasets = [{"path": "0"}]
    attributes = {"ome": {"version": "0.5", "multiscales": [{"datasets": datasets}]}}
    zarr.create_group(path, zarr_format=3, attributes=attributes)
    zarr.create_array(path / "0", shape=(40, 40), dtype="u1", zarr_format=3)
    return path


def half_written(path: Path) -> Path:
    """Write metadata that end in the middle."""
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_for')
    return path


def missing(path: Path) -> Path:
    """Write nothing."""
    return path


def colours(path: Path) -> Path:
    """Write a picture with colours."""
    tifffile.imwrite(path, np.ones((40, 40, 3), "u1"), photometric="rgb")
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "a volume must exist: found nothing"),
        (truncated, "must be a readable TIFF file"),
        (without_axes, "must be an OME-Zarr image"),
        (half_written, "must be an OME-Zarr image"),
        (colours, "axes must be some of"),
    ],
)
def test_a_volume_that_cannot_be_read_is_failed_and_the_others_are_planned(
    tmp_path: Path, make: Any, reason: str
) -> None:
    paths = {
        "first": volume(tmp_path / "first"),
        "bad": make(tmp_path / "bad.tif"),
        "last": volume(tmp_path / "last"),
    }
    plans = plan(tmp_path, paths)
    assert {name: planned["state"] for name, planned in plans.items()} == {
        "first": "planned",
        "bad": "failed",
        "last": "planned",
    }
    assert plans["bad"]["blocks"] == {}
    assert "\n" not in plans["bad"]["reason"]
    assert str(paths["bad"]) in plans["bad"]["reason"]
    assert reason in plans["bad"]["reason"]


def test_a_3d_network_on_a_plane_is_failed_with_the_rule(tmp_path: Path) -> None:
    planned = plan(tmp_path, {"a": volume(tmp_path / "a", "yx")}, dimensions=3)["a"]
    assert planned["state"] == "failed"
    assert "a 3D network needs 3 spatial axes: the volume has 2" in planned["reason"]


def test_a_plan_for_a_larger_network_or_tile_needs_more_memory(tmp_path: Path) -> None:
    rows = {"a": {"path": str(volume(tmp_path / "a")), "experiment": "one"}}
    needs = []
    for width, tile in ((8, 76), (256, 76), (256, 396)):
        settings = ExperimentSettings(
            dataset="isbi2012", model={"width": width, "depth": 2}, patches={"tile": tile}
        )
        plan_archive(rows, {"one": settings}, tmp_path / "plan.json", "key")
        planned = read_json(tmp_path / "plan.json")["volumes"]["a"]
        needs.append(planned["blocks"]["0_0_0"]["mem_mb"])
    assert needs == sorted(set(needs))


def test_a_plan_is_current_for_its_own_key_alone(tmp_path: Path) -> None:
    assert current_plan(tmp_path / "plan.json", "key") is None
    plan(tmp_path, {"a": volume(tmp_path / "a")})
    found = current_plan(tmp_path / "plan.json", "key")
    assert found is not None
    assert list(found["volumes"]) == ["a"]
    assert current_plan(tmp_path / "plan.json", "another") is None
