"""Medical volumes: turned to the patient's axes, sized by their header, put back into the file's.

SimpleITK says where a voxel lies.
"""

from __future__ import annotations

import locale
import os
import struct
from collections.abc import Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unetflow.experiments import files_of
from unetflow.formats.dicom import is_series
from unetflow.formats.medical import placement_of
from unetflow.formats.ome_zarr import images_in
from unetflow.formats.placement import Placement, of_voxels
from unetflow.settings.datasets import DatasetSettings
from unetflow.states import known_by, state_of_file
from unetflow.volumes import open_volume

sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")

CODES = ["".join(code) for letters in product("LR", "PA", "SI") for code in permutations(letters)]
SPACING = (0.5, 0.75, 3.0)


def oriented(code: str, shape: Sequence[int] = (3, 4, 5), oblique: bool = False) -> Any:
    """Return an image whose axes go where a code says, of different values."""
    pixels = np.random.default_rng(len(code)).permutation(np.prod(shape)).reshape(shape)
    image = sitk.GetImageFromArray(pixels.astype(np.int16))
    columns = {"L": (1, 0, 0), "P": (0, 1, 0), "S": (0, 0, 1)}
    columns |= {other: tuple(-x for x in columns[one]) for one, other in ("LR", "PA", "SI")}
    matrix = np.array([columns[letter] for letter in code], float).T
    if oblique:
        angle = 0.3
        turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        matrix = np.array(turn) @ matrix
    image.SetDirection(matrix.ravel().tolist())
    image.SetSpacing(SPACING)
    image.SetOrigin((-11.0, 7.0, 30.0))
    return image


def written(path: Path, image: Any) -> Path:
    """Write an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def slices(
    folder: Path,
    image: Any,
    series: str = "1.2.3",
    left_out: int | None = None,
    shift: float = 0.0,
) -> Path:
    """Write a volume as DICOM slices, each of them shifted to the back by some millimetres."""
    folder.mkdir(exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    direction = image.GetDirection()
    for number in range(image.GetDepth()):
        if number == left_out:
            continue
        plane = image[:, :, number]
        place = [*image.TransformIndexToPhysicalPoint((0, 0, number))]
        place[1] += number * shift
        tags = {
            "0008|0060": "CT",
            "0020|000e": series,
            "0020|000d": "1.2",
            "0020|0032": "\\".join(f"{x:g}" for x in place),
            "0020|0037": "\\".join(f"{direction[k]:g}" for k in (0, 3, 6, 1, 4, 7)),
            "0020|0013": str(number),
            "0018|0050": f"{image.GetSpacing()[2]:g}",
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        # Names that say nothing of the order
        writer.SetFileName(str(folder / f"{series}.{(7 * number) % 11}.dcm"))
        writer.Execute(plane)
    # What writes them leaves "C" behind, by which Python then reads other files as ASCII.
    locale.setlocale(locale.LC_ALL, before)
    return folder


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_are_those_that_simpleitk_turns_to_the_patients_axes(
    tmp_path: Path, code: str, oblique: bool, ending: str
) -> None:
    image = oriented(code, oblique=oblique)
    volume = open_volume(written(tmp_path / f"a{ending}", image))
    expected = sitk.DICOMOrient(image, "LPS")
    array = sitk.GetArrayFromImage(expected)
    assert volume.axes == "zyx"
    np.testing.assert_array_equal(volume.array[...], array)
    np.testing.assert_array_equal(volume.array[1:3, -1, 0:2], array[1:3, -1, 0:2])
    sizes = dict(zip("xyz", np.multiply(1000, expected.GetSpacing()), strict=True))
    assert volume.voxel_size_um == pytest.approx(sizes)


@pytest.mark.parametrize("code", CODES)
def test_turning_back_gives_the_files_own_array(tmp_path: Path, code: str) -> None:
    image = oriented(code)
    path = str(written(tmp_path / "a.nii.gz", image))
    placement = placement_of(path)
    assert placement is not None
    assert placement.code == code
    volume = open_volume(path)
    assert placement.spatial_shape == volume.array.shape
    turned = placement.in_file_order(volume.array[...])
    np.testing.assert_array_equal(turned, sitk.GetArrayFromImage(image))
    assert Placement.from_json(placement.to_json()) == placement


def test_times_and_components_are_not_turned(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    image = sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in pixels])
    matrix = np.diag([-1.0, 1, 1, 1])
    image.SetDirection(matrix.ravel().tolist())
    path = written(tmp_path / "a.nii", image)
    for time in range(2):
        volume = open_volume(path, time=str(time))
        np.testing.assert_array_equal(volume.array[...], pixels[time, :, :, ::-1])


def test_a_folder_of_dicom_slices_is_a_volume(tmp_path: Path) -> None:
    image = oriented("LPS", (6, 4, 5))
    folder = slices(tmp_path / "ct", image)
    (folder / "readme.txt").write_text("about the slices")
    volume = open_volume(folder)
    np.testing.assert_array_equal(volume.array[...], sitk.GetArrayFromImage(image))
    assert volume.voxel_size_um == pytest.approx({"x": 500.0, "y": 750.0, "z": 3000.0})
    placement = placement_of(str(folder))
    assert placement is not None
    assert placement.origin_mm == pytest.approx(image.GetOrigin())
    assert placement.size == image.GetSize()


def test_a_series_is_another_once_a_slice_is(tmp_path: Path) -> None:
    folder = slices(tmp_path / "ct", oriented("LPS", (4, 4, 5)))
    before, told = known_by(open_volume(folder)), state_of_file(folder)
    assert known_by(open_volume(folder)) == before
    assert len(told) == 4
    os.utime(folder / "1.2.3.0.dcm", (1, 1))
    assert known_by(open_volume(folder)) != before
    assert state_of_file(folder) != told
    assert images_in(str(folder)) == []


def test_a_dataset_in_place_follows_the_slices_of_its_cases(tmp_path: Path) -> None:
    """A slice that changes prepares the dataset anew; a folder of other things does not."""
    layout = {"kind": "medical", "images": "{image}/ct", "masks": "{image}/mask.nii", "classes": {}}
    dataset = DatasetSettings(folder=str(tmp_path), layout=layout)
    for case in ("first", "second"):
        (tmp_path / case).mkdir()
        slices(tmp_path / case / "ct", oriented("LPS", (4, 4, 5)))
        (tmp_path / case / "mask.nii").write_bytes(b"")
    (tmp_path / "third/ct").mkdir(parents=True)
    (tmp_path / "third/ct/notes.txt").write_text("no slice")
    expected = [
        path for path in tmp_path.rglob("*") if path.suffix == ".dcm" or path.name == "mask.nii"
    ]
    assert len(expected) == 2 * 5
    assert files_of(dataset) == sorted(map(str, expected))


def test_a_series_of_several_is_chosen_as_a_scene(tmp_path: Path) -> None:
    first, second = oriented("LPS", (3, 4, 5)), oriented("LPS", (4, 4, 5))
    folder = slices(tmp_path / "ct", first, "1.2.3")
    slices(folder, second, "1.2.4")
    with pytest.raises(ValueError, match=r"ct: a volume must be one scene: found 2;") as caught:
        open_volume(folder)
    assert "\n" not in str(caught.value)
    assert open_volume(folder, scene="1.2.4").array.shape == (4, 4, 5)


def test_a_series_that_lacks_a_slice_is_refused(tmp_path: Path) -> None:
    folder = slices(tmp_path / "ct", oriented("LPS", (6, 4, 5)), left_out=3)
    volume = open_volume(folder)
    with pytest.raises(ValueError, match="slices must be evenly spaced: 6 mm ") as caught:
        volume.array[...]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("degrees", [-26, 1, 26])
def test_slices_of_a_tilted_gantry_are_refused(tmp_path: Path, degrees: float) -> None:
    """A grid upright on the first of them has the voxels of the others elsewhere."""
    shift = SPACING[2] * np.tan(np.radians(degrees))
    folder = slices(tmp_path / "ct", oriented("LPS", (4, 4, 5)), shift=shift)
    tilt = f"ct: slices must be .* tilted by {abs(degrees)} degrees; "
    for opening in (open_volume, placement_of):
        with pytest.raises(ValueError, match=tilt) as caught:
            opening(str(folder))
        assert "\n" not in str(caught.value)


def test_slices_may_be_oblique_and_their_positions_rounded(tmp_path: Path) -> None:
    image = oriented("LPS", (4, 4, 5), oblique=True)
    folder = slices(tmp_path / "ct", image, shift=0.005)
    np.testing.assert_array_equal(open_volume(folder).array[...], sitk.GetArrayFromImage(image))


def test_a_file_of_several_frames_is_refused(tmp_path: Path) -> None:
    image = sitk.Cast(oriented("LPS", (3, 4, 5)), sitk.sitkUInt16)
    before = locale.setlocale(locale.LC_ALL)
    written(tmp_path / "ct/several.dcm", image)
    locale.setlocale(locale.LC_ALL, before)
    with pytest.raises(ValueError, match=r"several\.dcm: a file .* it has 3 frames; ") as caught:
        open_volume(tmp_path / "ct")
    assert "\n" not in str(caught.value)


def test_a_zarr_folder_is_no_series(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{}")
    assert not is_series(tmp_path)


def stated(path: Path, sizes: Sequence[float]) -> Path:
    """Overwrite the sizes of voxels in a NIfTI header."""
    written(path, oriented("LPS"))
    content = bytearray(path.read_bytes())
    struct.pack_into("<3f", content, 80, *sizes)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "sizes", [(0, 0.75, 3), (0, 0, 0), (-1, 1, 1), (float("nan"), 1, 1), (1, 1, 1e30)]
)
def test_a_nifti_file_without_sizes_is_refused(tmp_path: Path, sizes: tuple[float, ...]) -> None:
    path = stated(tmp_path / "a.nii", sizes)
    with pytest.raises(ValueError, match=r"a\.nii: voxels must be larger .*pixdim") as caught:
        open_volume(path)
    assert "\n" not in str(caught.value)


def test_a_metaimage_without_sizes_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mhd", oriented("LPS"))
    path.write_text(path.read_text().replace("ElementSpacing = 0.5", "ElementSpacing = 0"))
    with pytest.raises(ValueError, match=r"a\.mhd: voxels must be larger") as caught:
        open_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".mhd", ".mha"])
def test_a_metaimage_that_says_no_size_is_refused(tmp_path: Path, ending: str) -> None:
    """SimpleITK takes 1 mm."""
    path = written(tmp_path / f"a{ending}", oriented("LPS"))
    whole = path.read_bytes()
    line = b"ElementSpacing = 0.5 0.75 3\n"
    assert whole.count(line) == 1
    path.write_bytes(whole.replace(line, b"Comment = no ElementSpacing\n"))
    with pytest.raises(ValueError, match=r"voxels must be larger .* says 0 x 0 x 0 ") as caught:
        open_volume(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole.replace(b"ElementSpacing", b"ElementSize"))
    assert open_volume(path).voxel_size_um == pytest.approx({"x": 500, "y": 750, "z": 3000})


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("ending", [".mhd", ".mha"])
def test_pixels_of_a_metaimage_that_were_cut_are_told(
    tmp_path: Path, ending: str, vector: bool, compressed: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (4, 5, 6, 2)[: 3 + vector], "i2")
    path = tmp_path / f"a{ending}"
    image = sitk.GetImageFromArray(pixels, isVector=vector)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    data = path if ending == ".mha" else path.with_suffix(".zraw" if compressed else ".raw")
    open_volume(path).array[...]
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"a{ending}: .*cut: {data.name} has ") as caught:
        open_volume(path)
    assert "\n" not in str(caught.value)
    if not compressed:
        assert f"has {pixels.nbytes - 1} of {pixels.nbytes} bytes" in str(caught.value)


def test_pixels_of_a_metaimage_that_are_missing_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mhd", oriented("LPS"))
    path.with_suffix(".raw").unlink()
    with pytest.raises(ValueError, match=r"a\.mhd: .* in a\.raw: found no such file;") as caught:
        open_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("header", [-1, 7])
def test_pixels_of_a_metaimage_begin_where_its_header_says(tmp_path: Path, header: int) -> None:
    path = written(tmp_path / "a.mhd", oriented("LPS"))
    data, expected = path.with_suffix(".raw"), open_volume(path).array[...]
    data.write_bytes(b"1234567" + data.read_bytes())
    text = path.read_text().replace("ElementDataFile", f"HeaderSize = {header}\nElementDataFile")
    path.write_text(text)
    np.testing.assert_array_equal(open_volume(path).array[...], expected)


def without(folder: Path, *tags: bytes) -> None:
    """Give tags of all slices, where they are there, another number."""
    for path in folder.iterdir():
        content = path.read_bytes()
        for tag in tags:
            assert content.count(tag) <= 1
            content = content.replace(tag, bytes([tag[0], 0, tag[2] + 1, 0]))
        path.write_bytes(content)


def test_slices_that_say_no_size_of_pixels_are_refused(tmp_path: Path) -> None:
    """SimpleITK takes 1 mm."""
    folder = slices(tmp_path / "ct", oriented("LPS", (4, 4, 5)))
    without(folder, b"\x28\x00\x30\x00")
    with pytest.raises(ValueError, match=r"ct: voxels .* says 0 x 0 x 3 .*PixelSpacing") as caught:
        open_volume(folder)
    assert "\n" not in str(caught.value)


def test_a_slice_that_is_alone_is_as_thick_as_it_says(tmp_path: Path) -> None:
    folder = slices(tmp_path / "ct", oriented("LPS", (1, 4, 5)))
    assert open_volume(folder).voxel_size_um == pytest.approx({"x": 500, "y": 750, "z": 3000})
    without(folder, b"\x18\x00\x50\x00", b"\x18\x00\x88\x00")
    with pytest.raises(ValueError, match=r"voxels must be larger .* says 0.5 x 0.75 x 0 "):
        open_volume(folder)


def test_a_volume_of_which_only_voxels_are_known_lies_at_the_origin() -> None:
    volume: NDArray[Any] = np.zeros((2, 3, 4))
    placement = of_voxels(volume.shape, {"z": 2000.0, "y": 500.0})
    assert placement.spacing_mm == (1.0, 0.5, 2.0)
    assert placement.in_file_order(volume).shape == volume.shape


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("code", ["LPS", "AIR"])
def test_what_is_not_finite_is_refused_where_it_is_read(
    tmp_path: Path, dtype: str, ending: str, bad: float, code: str
) -> None:
    """SimpleITK reads it as 0."""
    pixels = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(dtype)
    pixels[2, 3, 1] = bad
    image = sitk.GetImageFromArray(pixels)
    path = written(tmp_path / f"a{ending}", sitk.DICOMOrient(image, code))
    volume = open_volume(path)
    with pytest.raises(ValueError, match=r"/a\.nii.*: grey values must be finite: ") as caught:
        volume.array[...]
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="grey values must be finite"):
        volume.array[2:3, 3, :]
    if ending == ".nii":  # of which no more is read than is asked for
        np.testing.assert_array_equal(volume.array[:2], pixels[:2])


def test_components_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 6, 3), "f4")
    pixels[3, 4, 5, 2] = np.nan
    path = written(tmp_path / "a.nii", sitk.GetImageFromArray(pixels, isVector=True))
    with pytest.raises(ValueError, match="grey values must be finite"):
        open_volume(path).array[0, 0]


def test_finite_values_of_the_other_byte_order_are_read(tmp_path: Path) -> None:
    """Their bytes in the order of this machine would be NaN."""
    pixels = np.full((2, 3, 4), np.float32(np.nan)).view("<u4").byteswap().view("<f4")
    assert np.isfinite(pixels).all()
    path = written(tmp_path / "a.nii", sitk.GetImageFromArray(pixels))
    content = bytearray(path.read_bytes())
    for start, count, size in ((0, 1, 4), (40, 8, 2), (70, 3, 2), (76, 11, 4), (252, 2, 2)):
        field = np.frombuffer(content, f"<u{size}", count, start).astype(f">u{size}")
        content[start : start + count * size] = field.tobytes()
    for start in (*range(256, 328, 4), *range(352, len(content), 4)):
        content[start : start + 4] = content[start : start + 4][::-1]
    path.write_bytes(content)
    np.testing.assert_array_equal(open_volume(path).array[...], pixels)
