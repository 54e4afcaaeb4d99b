"""Layouts on the real images that they are for, where those are at hand."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from unetflow.datasets.fetch import fetch
from unetflow.datasets.layouts import Labelled, Source, sources, unique
from unetflow.datasets.prepare import checked
from unetflow.datasets.registry import find_dataset

ROOT = Path(__file__).parents[2]
REGISTRY = ROOT / "resources/datasets"
DATA = ROOT.parent / "shared/data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (DATA / "registry.yaml").is_file(),
        reason="no real images: there is no folder shared/data beside the project",
    ),
]


class Fetched:
    """The sources of datasets, each unpacked once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = cache(self.unpack)

    def unpack(self, name: str) -> dict[str, Source]:
        """Fetch a dataset and return its sources by name."""
        dataset = find_dataset(name, REGISTRY, DATA / "registry.yaml")
        archive = self.folder / name / "archive"
        fetch(dataset.downloads, archive, self.folder / name / "record.json")
        return {source.name: source for source in unique(sources(dataset, archive))}

    def read(self, name: str, image: str) -> Labelled:
        """Return the checked parts of an image."""
        source = self.sources(name)[image]
        return checked(source, *source.read())


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    return Fetched(tmp_path_factory.mktemp("real"))


def test_isbi2012_is_two_stacks_of_which_one_is_annotated(fetched: Fetched) -> None:
    found = fetched.sources("isbi2012")
    assert Counter(source.group for source in found.values()) == {
        "train-volume": 30,
        "test-volume": 30,
    }
    for plane in ("000", "029"):
        pixels, classes, instances = fetched.read("isbi2012", f"train-volume_{plane}")
        assert (pixels.shape, pixels.dtype, instances) == ((512, 512), np.uint8, None)
        assert classes is not None
        assert np.unique(classes).tolist() == [0, 1]
        # Cells fill the picture, and membranes are dark.
        assert 0.7 < classes.mean() < 0.85
        assert pixels[classes == 0].mean() < pixels[classes == 1].mean()
        assert fetched.read("isbi2012", f"test-volume_{plane}")[1:] == (None, None)


@pytest.fixture
def outlined(fetched: Fetched) -> list[str]:
    """Frames of phc-u373 that have outlines."""
    found = fetched.sources("phc-u373").values()
    return [
        source.name
        for source in found
        if (masks(source) / f"man_seg{source.name[3:]}.tif").exists()
    ]


def masks(source: Source) -> Path:
    """Folder of the outlines of a sequence."""
    return source.file.parent.with_name(source.group + "_GT") / "SEG"


def test_u373_has_all_its_frames_with_markers(fetched: Fetched, outlined: list[str]) -> None:
    found = fetched.sources("phc-u373")
    assert {source.group for source in found.values()} == {"02"}
    assert [source.frame for source in found.values()] == list(range(115))
    assert len(outlined) == 19
    assert (outlined[0], outlined[-1]) == ("02_010", "02_112")
    for name in ("02_000", *outlined[:3]):
        read_markers = found[name].read_markers
        assert read_markers is not None
        assert np.unique(read_markers()).size > 4
        assert (fetched.read("phc-u373", name)[1] is not None) == (name in outlined)


def test_u373_leaves_out_the_surroundings_of_unlabelled_cells(
    fetched: Fetched, outlined: list[str]
) -> None:
    not_annotated = set()
    for name in outlined:
        pixels, classes, instances = fetched.read("phc-u373", name)
        assert (pixels.shape, pixels.dtype) == ((520, 696), np.uint8)
        assert classes is not None
        assert instances is not None
        assert ((classes == 1) == (instances > 0)).all()
        if (classes[50:-50, 50:-50] == 255).any():
            not_annotated.add(name.split("_")[1])
            assert 0.0005 < (classes[50:-50, 50:-50] == 255).mean() < 0.1
    # Counted in the masks by hand: markers of TRA that lie on the background of SEG.
    assert not_annotated == {"026", "051", "085", "106"}


def test_u373_outlines_no_cell_that_lies_wholly_in_the_frame_of_50_pixels(
    fetched: Fetched, outlined: list[str]
) -> None:
    for name in outlined:
        _, classes, instances = fetched.read("phc-u373", name)
        assert classes is not None
        assert instances is not None
        inside = instances[50:-50, 50:-50]
        assert set(np.unique(instances)) == set(np.unique(inside)) | {0}
        framed = np.pad(np.zeros_like(inside, bool), 50, constant_values=True)
        assert (classes[framed & (instances == 0)] == 255).all()


def test_dsb2018_has_its_images_of_many_sizes(fetched: Fetched) -> None:
    found = fetched.sources("dsb2018")
    assert len(found) == 240
    shapes = set()
    for name in list(found)[::40]:
        pixels, classes, instances = fetched.read("dsb2018", name)
        assert (pixels.ndim, pixels.dtype) == (2, np.uint8)
        assert instances is not None
        assert instances.dtype == np.uint16
        assert instances.max() > 0
        np.testing.assert_array_equal(classes, instances > 0)
        shapes.add(pixels.shape)
    assert len(shapes) > 1


def test_nuclei3d_is_two_volumes_whose_nuclei_are_brighter(fetched: Fetched) -> None:
    found = fetched.sources("nuclei3d")
    assert len(found) == 2
    counts = []
    for name in found:
        pixels, _, instances = fetched.read("nuclei3d", name)
        assert (pixels.shape, pixels.dtype) == ((100, 100, 100), np.uint8)
        assert instances is not None
        counts.append(np.count_nonzero(np.unique(instances)))
        inside, outside = pixels[instances > 0], pixels[instances == 0]
        assert inside.mean() - outside.mean() > pixels.std() / 2
    assert sorted(counts) == [32, 54]


def test_ovule3d_is_one_volume_of_cells(fetched: Fetched) -> None:
    (name,) = fetched.sources("ovule3d")
    pixels, _, instances = fetched.read("ovule3d", name)
    assert pixels.shape == (32, 128, 128)
    assert instances is not None
    assert len(np.unique(instances)) == 51
