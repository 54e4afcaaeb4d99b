"""The dataset registry: complete entries, overrides, and what to do where there is no download."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from unetflow.datasets.registry import find_dataset, find_weights
from unetflow.settings.datasets import DatasetSettings

REGISTRY = Path(__file__).parents[2] / "resources/datasets"
FILES = sorted(REGISTRY.glob("*.yaml"))
SHA256 = "0123456789abcdef" * 4


def entry(path: Path) -> DatasetSettings:
    """Return an entry, also one that has no download."""
    return DatasetSettings(**yaml.safe_load(path.read_text(encoding="utf-8")), name=path.stem)


def override(folder: Path, name: str, url: str) -> Path:
    """Write an override of one dataset."""
    path = folder / "registry.yaml"
    path.write_text(yaml.safe_dump({name: {"url": url, "sha256": SHA256}}), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_entry_has_title_licence_and_citation(path: Path) -> None:
    dataset = entry(path)
    assert dataset.title
    assert dataset.licence
    assert dataset.citation or dataset.layout.kind == "synthetic", "nobody made it?"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_entry_has_a_download_or_says_how_to_get_it(path: Path) -> None:
    dataset = entry(path)
    assert dataset.downloads or dataset.instructions or dataset.layout.kind == "synthetic"
    assert all(download.url.startswith("https://") for download in dataset.downloads)
    assert dataset.folder is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_citation_is_a_doi_an_arxiv_number_or_a_page(path: Path) -> None:
    for citation in entry(path).citation:
        assert re.fullmatch(r"10\.\d{4,}/\S+|arXiv:\d{4}\.\d{5}|https://\S+", citation)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_published_checksum_is_whole(path: Path) -> None:
    checksums = [download.sha256 for download in entry(path).downloads]
    assert all(checksum is None or len(checksum) == 64 for checksum in checksums)


def test_no_two_entries_are_the_same_file_by_mistake() -> None:
    checksums = [
        download.sha256 for path in FILES for download in entry(path).downloads if download.sha256
    ]
    assert len(set(checksums)) == len(checksums)


def test_an_entry_takes_the_name_of_its_file() -> None:
    assert find_dataset("isbi2012", REGISTRY, None).name == "isbi2012"


def test_an_override_replaces_url_and_checksum_and_nothing_else(tmp_path: Path) -> None:
    original = find_dataset("phc-u373", REGISTRY, None)
    path = override(tmp_path, "phc-u373", "https://mirror.example/u373.zip")
    replaced = find_dataset("phc-u373", REGISTRY, path)
    (download,) = replaced.downloads
    assert (download.url, download.sha256) == ("https://mirror.example/u373.zip", SHA256)
    # The size of the original is no longer that of the file.
    assert download.size_bytes is None
    assert replaced.model_copy(update={"downloads": original.downloads}) == original


def test_a_relative_url_is_relative_to_the_override(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    path = override(folder, "isbi2012", "parts/isbi.zip").relative_to(tmp_path)
    (download,) = find_dataset("isbi2012", REGISTRY, path).downloads
    assert Path(download.url) == folder / "parts/isbi.zip"


@pytest.mark.parametrize("kind", ["absolute", "file"])
def test_an_absolute_path_or_file_url_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "elsewhere" / "isbi.zip"
    url = str(target) if kind == "absolute" else target.as_uri()
    path = override(tmp_path, "isbi2012", url)
    (download,) = find_dataset("isbi2012", REGISTRY, path).downloads
    assert download.url == url


def test_an_override_of_another_dataset_changes_nothing(tmp_path: Path) -> None:
    path = override(tmp_path, "dsb2018", "dsb.zip")
    assert find_dataset("isbi2012", REGISTRY, path) == find_dataset("isbi2012", REGISTRY, None)


def test_an_empty_override_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text("# nothing yet\n")
    found = find_dataset("isbi2012", REGISTRY, tmp_path / "registry.yaml")
    assert found == find_dataset("isbi2012", REGISTRY, None)


def test_an_override_gives_a_download_to_a_dataset_without_one(tmp_path: Path) -> None:
    path = override(tmp_path, "nuclei3d", "nuclei3d.zip")
    (download,) = find_dataset("nuclei3d", REGISTRY, path).downloads
    assert Path(download.url) == tmp_path / "nuclei3d.zip"


def test_an_unknown_dataset_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"dataset isbi2021: .*; the nearest is isbi2012\Z"):
        find_dataset("isbi2021", REGISTRY, None)


def test_a_dataset_like_none_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"dataset qqqq: .* known are .*isbi2012.*phc-u373"):
        find_dataset("qqqq", REGISTRY, None)


@pytest.mark.parametrize("name", ["nuclei3d", "ovule3d"])
def test_a_dataset_without_download_says_how_to_get_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"dataset {name}: has no direct download; ") as caught:
        find_dataset(name, REGISTRY, None)
    line = str(caught.value)
    assert "\n" not in line
    assert (entry(REGISTRY / f"{name}.yaml").instructions or "?") in line
    assert "--config registry=FILE" in line


def test_a_misspelt_key_of_an_entry_is_one_line_with_file_and_nearest_key(tmp_path: Path) -> None:
    text = "title: Mine\nlicense: CC0\nlayout: {kind: synthetic, shape: [4, 64, 64]}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml: unknown key license; .* licence") as caught:
        find_dataset("mine", tmp_path, None)
    assert "\n" not in str(caught.value)


def test_an_entry_that_is_no_yaml_is_one_line_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("title: [open\n")
    with pytest.raises(ValueError, match=r"mine\.yaml: must be YAML: .*line 2") as caught:
        find_dataset("mine", tmp_path, None)
    assert "\n" not in str(caught.value)


def test_a_missing_override_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"registry.*nothing\.yaml.* must exist"):
        find_dataset("isbi2012", REGISTRY, tmp_path / "nothing.yaml")


@pytest.mark.parametrize("text", ["isbi2012: {sha256: 01234567}", "isbi2012: isbi.zip", "- one"])
def test_an_override_without_url_is_one_line_with_its_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "registry.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"registry\.yaml: ") as caught:
        find_dataset("isbi2012", REGISTRY, tmp_path / "registry.yaml")
    assert "\n" not in str(caught.value)


def test_weights_come_from_torchvision_or_from_a_copy(tmp_path: Path) -> None:
    name = "vgg11-8a719046.pth"
    there = find_weights(name, None)
    assert there.url == f"https://download.pytorch.org/models/{name}"
    assert (there.name, there.sha256) == (name, "8a719046")
    assert find_weights(name, override(tmp_path, "other", "a.zip")) == there
    here = find_weights(name, override(tmp_path, name, "copies/vgg.pth"))
    assert here.url == str(tmp_path / "copies/vgg.pth")
    assert (here.name, here.sha256) == (name, SHA256)
