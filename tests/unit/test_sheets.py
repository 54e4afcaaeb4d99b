"""Sheets of archives: mistakes in one line; plates and wells are their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
import zarr

from unetflow.settings import ExperimentSettings
from unetflow.sheets import datasets_in, files_of, located, read_sheet, read_sheets
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


def test_a_remote_plate_is_a_row_for_each_of_its_images(tmp_path: Path) -> None:
    path = plate(tmp_path / "p.zarr", {"A/1": ["0"], "A/2": ["0"]})
    memory = fsspec.filesystem("memory")
    memory.put(str(path), "/plates/p.zarr", recursive=True)
    rows = read_sheet(sheet(tmp_path, f"{HEAD}s\tmemory://plates/p.zarr\tone\t\n"))
    assert [row["path"] for row in rows] == [
        f"memory://plates/p.zarr/{image}" for image in ("A/1/0", "A/2/0")
    ]
