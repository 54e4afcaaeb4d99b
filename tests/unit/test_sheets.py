"""Sheets of archives: mistakes in one line; plates and wells are their images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zarr

from unetflow.patterns import of_pattern
from unetflow.settings.experiment import ExperimentSettings
from unetflow.sheets import (
    beside_models,
    datasets_in,
    files_of,
    left_over,
    located,
    model_files,
    model_name,
    read_sheet,
    read_sheets,
    trained,
)
from unetflow.volumes import choice_of, open_volume

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


def test_a_sheet_is_read_row_by_row(tmp_path: Path) -> None:
    path = sheet(tmp_path, HEAD + "a\tdata/a.tif\tone\t\n007\tdataset:d/x\ttwo\tdataset:d/x\n")
    assert read_sheet(path) == [
        {"volume": "a", "path": "data/a.tif", "experiment": "one"},
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
        {"volume": "a", "path": "a.tif", "experiment": "one"},
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
    assert "columns must be volume, path, experiment and maybe truth" in line


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


def test_what_a_row_chooses_is_read_as_it_stands(tmp_path: Path) -> None:
    head = "volume\tpath\texperiment\tchannel\ttime\n"
    (row,) = read_sheet(sheet(tmp_path, f"{head}a\ta.tif\tone\tDAPI, 2\t5\n"))
    assert choice_of(row) == {"scene": "", "time": "5", "channel": "DAPI, 2", "level": ""}


def test_files_of_places_are_those_that_are_there(tmp_path: Path) -> None:
    for name in ("a.tif", "a.h5"):
        (tmp_path / name).touch()
    (tmp_path / "a.zarr").mkdir()
    for name in ("a.tif", "a.h5", "a.zarr"):
        assert files_of(str(tmp_path / name)) == [str(tmp_path / name)]
    assert files_of(f"{tmp_path}/a.h5:/volumes/raw") == [str(tmp_path / "a.h5")]
    for place in ("", f"{tmp_path}/b.tif", "https://example.org/a.zarr", "s3://bucket/a.zarr"):
        assert files_of(place) == []


# ------------------------------------------------------------------------- plates and wells


def plate(path: Path, wells: dict[str, list[str]], version: str = "0.5") -> Path:
    """Write the metadata of a plate, as the specification asks for."""
    zarr_format = 3 if version == "0.5" else 2

    def write(place: Path, facts: dict[str, Any]) -> None:
        attributes = {"ome": {"version": version, **facts}} if zarr_format == 3 else facts
        zarr.create_group(place, zarr_format=zarr_format, attributes=attributes)

    listed = [{"path": well, "rowIndex": 0, "columnIndex": 0} for well in wells]
    write(path, {"plate": {"wells": listed}})
    for well, images in wells.items():
        write(path / well, {"well": {"images": [{"path": image} for image in images]}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_plate_is_a_row_for_each_of_its_images(tmp_path: Path, version: str) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0", "1"], "B/12": ["0"]}, version)
    head = HEAD.replace("truth", "level\ttruth")
    rows = f"s\t{path}/\tone\t1\t/t.zarr\nb\tb.tif\tone\t\t\n"
    assert read_sheet(sheet(tmp_path, head + rows)) == [
        {
            "volume": f"s-{name}",
            "path": f"{path}/{image}",
            "experiment": "one",
            "level": "1",
            "truth": f"/t.zarr/{image}",
        }
        for name, image in (("A1-0", "A/1/0"), ("A1-1", "A/1/1"), ("B12-0", "B/12/0"))
    ] + [{"volume": "b", "path": "b.tif", "experiment": "one"}]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_well_is_a_row_for_each_of_its_images(tmp_path: Path, version: str) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0", "field 2"]}, version)
    rows = read_sheet(sheet(tmp_path, f"{HEAD}w\t{path}/A/1\tone\t\n"))
    assert [(row["volume"], row["path"]) for row in rows] == [
        ("w-0", f"{path}/A/1/0"),
        ("w-field-2", f"{path}/A/1/field 2"),
    ]


def test_images_of_a_plate_that_would_have_the_name_of_another_volume_are_told(
    tmp_path: Path,
) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0"]})
    text = f"{HEAD}s\t{path}\tone\t\ns-A1-0\tb.tif\tone\t\n"
    assert refused(sheet(tmp_path, text)).endswith("got 's-A1-0' twice; rename it")


def test_a_well_without_its_metadata_stays_a_volume_that_cannot_be_opened(tmp_path: Path) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0"], "A/2": ["0"]})
    (path / "A/2/zarr.json").write_text("{")
    rows = read_sheet(sheet(tmp_path, f"{HEAD}s\t{path}\tone\t\n"))
    assert [row["path"] for row in rows] == [f"{path}/A/1/0", f"{path}/A/2"]
    with pytest.raises(ValueError, match="must be a readable OME-Zarr image"):
        open_volume(rows[1]["path"])


@pytest.mark.parametrize("facts", [{"plate": None}, {"plate": {"wells": [1]}}, {"well": []}])
def test_a_plate_whose_metadata_have_another_form_stays_a_row(tmp_path: Path, facts: Any) -> None:
    zarr.create_group(tmp_path / "p", attributes={"ome": facts})
    rows = read_sheet(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/p\tone\t\n"))
    assert [row["volume"] for row in rows] == ["s"]
    with pytest.raises(ValueError, match="a volume must be an image: found a plate or well"):
        open_volume(rows[0]["path"])


def test_a_plate_is_not_opened_as_a_volume(tmp_path: Path) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0", "1"], "B/2": ["0"]})
    with pytest.raises(ValueError, match="found a plate or well of 3 images; name one of them"):
        open_volume(path)


@pytest.mark.parametrize("place", ["nowhere://p.zarr", "memory://nothing.zarr", "results/no.zarr"])
def test_a_place_that_cannot_be_read_stays_a_row(tmp_path: Path, place: str) -> None:
    (row,) = read_sheet(sheet(tmp_path, f"{HEAD}s\t{place}\tone\t\n"))
    assert row["path"] == place


def test_a_place_that_the_system_refuses_to_look_at_stays_a_row(tmp_path: Path) -> None:
    long = f"{'a' * 300}.tif"  # as a folder without permission, it is no mistake of the sheet
    head = "volume\tpath\texperiment\ttruth\tmodel\n"
    (row,) = read_sheet(sheet(tmp_path, f"{head}s\t{long}\tone\t{long}\t{long}\n"))
    assert row["path"] == row["truth"] == long
    assert files_of(long) == model_files(long) == []


def test_a_remote_plate_is_a_row_for_each_of_its_images(tmp_path: Path) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0"], "A/2": ["0"]})
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/plates/p.zarr", recursive=True)
    rows = read_sheet(sheet(tmp_path, f"{HEAD}s\tmemory://plates/p.zarr\tone\t\n"))
    assert [row["path"] for row in rows] == [
        f"memory://plates/p.zarr/{image}" for image in ("A/1/0", "A/2/0")
    ]


# -------------------------------------------------------------------------------- patterns


def files(folder: Path, *names: str) -> None:
    """Make empty files."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_pattern_is_a_row_for_each_file_in_the_order_of_their_names(tmp_path: Path) -> None:
    files(tmp_path, "d/b 2.ome.tif", "d/a.tif", "d/c.png", "e/a.tif")
    (tmp_path / "d/f.zarr").mkdir()
    text = f"{HEAD}s\t{tmp_path}/d/*.tif\tone\t\nz\t{tmp_path}/d/*.zarr\tone\t\n"
    assert [(row["volume"], row["path"]) for row in read_sheet(sheet(tmp_path, text))] == [
        ("s-a", f"{tmp_path}/d/a.tif"),
        ("s-b-2", f"{tmp_path}/d/b 2.ome.tif"),
        ("z-f", f"{tmp_path}/d/f.zarr"),
    ]


def test_truth_and_mask_go_to_the_file_in_which_the_pattern_stands_for_the_same(
    tmp_path: Path,
) -> None:
    images = ("x1/img_a.tif", "x1/img_b.tif", "x2/img_a.tif")
    truths, masks = ("1/a.png", "1/b.png", "2/a.png"), ("m/1_a", "m/1_b", "m/2_a")
    files(tmp_path, *images, *truths, *masks)
    cells = f"{tmp_path}/x?/img_*.tif\tone\t{tmp_path}/[0-9]/*.png\t{tmp_path}/m/[!3]_*"
    head = HEAD.replace("truth", "truth\tmask")
    with pytest.raises(ValueError, match="got 's-img_a' twice"):
        read_sheet(sheet(tmp_path, f"{head}s\t{cells}\n"))
    rows = of_pattern(dict(zip(head.split(), ["s", *cells.split("\t")], strict=True)), tmp_path)
    for row, *names in zip(rows, images, truths, masks, strict=True):
        expected = [f"{tmp_path}/{name}" for name in names]
        assert [row[key] for key in ("path", "truth", "mask")] == expected


def test_a_truth_may_be_missing_and_a_mask_may_not(tmp_path: Path) -> None:
    files(tmp_path, "d/a.h5", "d/b.h5", "t/a.tif", "m/b.tif")
    head = HEAD.replace("truth", "truth\tmask")
    cells = f"{tmp_path}/d/*.h5:/raw\tone\t{tmp_path}/t/*.tif\t{tmp_path}/m/*.tif"
    first, second = read_sheet(sheet(tmp_path, f"{head}s\t{cells}\n"))
    assert (first["path"], second["path"]) == tuple(f"{tmp_path}/d/{name}.h5:/raw" for name in "ab")
    assert first["truth"] == f"{tmp_path}/t/a.tif"
    assert "truth" not in second
    assert (first["mask"], second["mask"]) == (f"{tmp_path}/m/*.tif", f"{tmp_path}/m/b.tif")


def test_a_pattern_that_names_nothing_stays_a_volume_that_is_not_there(tmp_path: Path) -> None:
    (row,) = read_sheet(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/*.tif\tone\t\n"))
    assert (row["volume"], row["path"]) == ("s", f"{tmp_path}/*.tif")
    with pytest.raises(ValueError, match="a volume must exist: found nothing"):
        open_volume(row["path"])


@pytest.mark.parametrize("name", ["a[1].tif", "a*.tif", "what?.tif", "a{b}.tif", "$x;.tif"])
def test_a_path_that_is_there_is_no_pattern(tmp_path: Path, name: str) -> None:
    files(tmp_path, name, "a1.tif")
    (row,) = read_sheet(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/{name}\tone\t\n"))
    assert (row["volume"], row["path"]) == ("s", f"{tmp_path}/{name}")


def test_one_truth_for_several_files_is_refused(tmp_path: Path) -> None:
    files(tmp_path, "d/a.tif", "d/b.tif")
    line = refused(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/d/*.tif\tone\tt.tif\n"))
    assert "the truth of a pattern must be a pattern: got 't.tif' for the 2 files" in line
    assert line.endswith("put * where they differ")


def test_files_of_a_pattern_that_would_have_the_same_name_are_told(tmp_path: Path) -> None:
    files(tmp_path, "x/a.tif", "y/a.tif")
    line = refused(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/*/a.tif\tone\t\n"))
    assert line.endswith("got 's-a' twice; rename it")


def test_plates_that_a_pattern_names_are_rows_of_their_images(tmp_path: Path) -> None:
    for name in "pq":
        plate(tmp_path / f"{name}.zarr", {"A/1": ["0"]})
    rows = read_sheet(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/*.zarr\tone\t\n"))
    assert [row["volume"] for row in rows] == ["s-p-A1-0", "s-q-A1-0"]


def test_a_folder_of_files_is_told_to_be_named_by_a_pattern(tmp_path: Path) -> None:
    files(tmp_path, "d/a.tif")
    (row,) = read_sheet(sheet(tmp_path, f"{HEAD}s\t{tmp_path}/d/\tone\t\n"))
    with pytest.raises(ValueError, match=r"by a pattern, such as .*/d/\*\.tif$"):
        open_volume(row["path"])


def test_what_is_left_of_volumes_that_a_sheet_no_longer_names_is_found(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "x" / name).mkdir(parents=True)
    (tmp_path / "x/plan.json").touch()
    assert left_over(tmp_path / "x", ["b", "d"]) == ["a", "c"]
    assert left_over(tmp_path / "y", ["b"]) == []


# -------------------------------------------------------------------------------- models


def test_a_row_names_an_experiment_a_model_or_both(tmp_path: Path) -> None:
    head = "volume\tpath\texperiment\tmodel\n"
    text = head + "a\ta.tif\tone\t\nb\tb.tif\t\tm.zip\nc\tc.tif\ttwo\tm.zip\n"
    rows = read_sheet(sheet(tmp_path, text))
    assert rows == [
        {"volume": "a", "path": "a.tif", "experiment": "one"},
        {"volume": "b", "path": "b.tif", "experiment": "", "model": "m.zip"},
        {"volume": "c", "path": "c.tif", "experiment": "two", "model": "m.zip"},
    ]
    assert (trained(rows), beside_models(rows)) == ({"one"}, {"two"})
    assert list(read_sheets(tmp_path, ["tissue"], {"one": experiment()})) == ["tissue"]
    (row,) = read_sheet(sheet(tmp_path, "volume\tpath\tmodel\na\ta.tif\tm.zip\n"))
    assert row == {"volume": "a", "path": "a.tif", "experiment": "", "model": "m.zip"}
    line = refused(sheet(tmp_path, "volume\tpath\texperiment\tmodel\na\ta.tif\t\t\n"))
    assert line.endswith("a volume must have its experiment or model: got none for 'a'; add it")


def test_models_of_other_paths_have_other_names_and_their_files_are_found(tmp_path: Path) -> None:
    places = ["a/model.json", "a", "b/a", "a b.zip", "a_b.zip", "a-b.zip"]
    names = [model_name(place) for place in places]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", name) for name in names)
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder / name).touch()
    both = [str(folder / name) for name in ("model.json", "model.safetensors")]
    assert model_files(str(folder)) == both
    assert set(model_files(str(folder / "model.json"))) == {*both}
    (tmp_path / "b.zip").touch()
    assert model_files(str(tmp_path / "b.zip")) == [str(tmp_path / "b.zip")]
    assert model_files(str(tmp_path / "c.zip")) == []
