"""Every format gives the pixels that its own library wrote, and no more of them than asked for."""

from __future__ import annotations

import gc
import importlib.util
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dask.array
import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from numpy.typing import NDArray
from ome_zarr_models.v04 import Image as Image04
from ome_zarr_models.v05 import Image as Image05

from unetflow.formats import vendor
from unetflow.formats.source import MICROMETRES
from unetflow.store import create_image
from unetflow.volumes import Selection, open_volume

HAS_ITK = importlib.util.find_spec("SimpleITK") is not None
needs_itk = pytest.mark.skipif(not HAS_ITK, reason="SimpleITK is not installed")

EXTENTS = {"t": 3, "c": 2, "z": 5, "y": 37, "x": 41}


def grey(axes: str, dtype: str = "u2", seed: int = 0) -> NDArray[Any]:
    """Random pixels of the extents of axes."""
    shape = tuple(EXTENTS[axis] for axis in axes)
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def refused(*arguments: Any, **choice: str) -> str:
    """Return the one line, naming the place, with which a volume is refused."""
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        open_volume(*arguments, **choice)
    line = str(caught.value)
    assert line.startswith(f"{arguments[0]}: ")
    return line


# ----------------------------------------------------------------------- writers of each format


def ome_zarr(
    path: Path,
    pixels: NDArray[Any],
    axes: str,
    version: str = "0.5",
    levels: int = 1,
    units: str | None = "micrometer",
    step: float = 0.5,
) -> Path:
    """Write an image whose level n keeps every 2**n-th row and column, and check its metadata."""
    kinds = {"t": "time", "c": "channel"}
    named: list[dict[str, Any]] = [
        {"name": axis, "type": kinds.get(axis, "space")}
        | ({"unit": units} if units and axis in "zyx" else {})
        for axis in axes
    ]
    datasets = []
    for level in range(levels):
        scale = [step * 2.0**level if axis in "yx" else 2.0 if axis == "z" else 1 for axis in axes]
        steps = [{"type": "scale", "scale": scale}]
        datasets.append({"path": f"s{level}", "coordinateTransformations": steps})
    multiscales: list[dict[str, Any]] = [{"axes": named, "datasets": datasets}]
    window = {"start": 0, "end": 1, "min": 0, "max": 1}
    names = ["DAPI", "GFP"][: pixels.shape[axes.index("c")] if "c" in axes else 1]
    channels = [{"color": "FFFFFF", "window": window, "label": name} for name in names]
    facts: dict[str, Any] = {"multiscales": multiscales, "omero": {"channels": channels}}
    new = version == "0.5"
    if not new:
        multiscales[0]["version"] = version
    attributes = {"ome": {"version": version, **facts}} if new else facts
    group = zarr.create_group(path, zarr_format=3 if new else 2, attributes=attributes)
    for level in range(levels):
        part = pixels[..., :: 2**level, :: 2**level]
        group.create_array(
            f"s{level}",
            shape=part.shape,
            dtype=part.dtype,
            chunks=(1,) * (len(axes) - 2) + (16, 16),
            dimension_names=tuple(axes) if new else None,
            chunk_key_encoding=None if new else {"name": "v2", "separator": "/"},
        )[...] = part
    (Image05 if new else Image04).from_zarr(zarr.open_group(path, mode="r"))
    return path


def bare_zarr(path: Path, pixels: NDArray[Any], names: Any = None, zarr_format: Any = 3) -> Path:
    chunks = (1,) * (pixels.ndim - 2) + (16, 16)
    zarr.create_array(
        path,
        data=pixels,
        chunks=chunks,
        dimension_names=names,
        zarr_format=zarr_format,
    )
    return path


def tiff(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **{"photometric": "minisblack", **options})
    return path


def pyramid(path: Path, pixels: NDArray[Any], axes: str) -> Path:
    """Write an OME-TIFF with two smaller levels, tiled."""
    sizes = {"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    depth = {"PhysicalSizeZ": 1e-3, "PhysicalSizeZUnit": "mm"} if "Z" in axes else {}
    names = {"Channel": {"Name": ["DAPI", "GFP"]}} if "C" in axes else {}
    metadata = {"axes": axes, **sizes, **depth, **names}
    options: dict[str, Any] = {"tile": (16, 16), "photometric": "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=2, metadata=metadata, compression="zlib", **options)
        for step in (2, 4):
            file.write(pixels[..., ::step, ::step], subfiletype=1, compression="zlib", **options)
    return path


def hdf5(path: Path, **datasets: NDArray[Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, pixels in datasets.items():
            file.create_dataset(name, data=pixels, chunks=True, compression="gzip")
    return path


def itk(path: Path, pixels: NDArray[Any], vector: bool = False, compressed: bool = False) -> Path:
    """Write with spacing of 0.5, 0.25 and 3 mm along x, y and z."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(pixels, isVector=vector)
    image.SetSpacing((0.5, 0.25, 3.0, 1.0)[: image.GetDimension()])
    sitk.WriteImage(image, str(path), useCompression=compressed)
    return path


def npy(path: Path, pixels: NDArray[Any]) -> Path:
    np.save(path, pixels)
    return path


MILLIMETRES = {"x": 500.0, "y": 250.0, "z": 3000.0}
FORMATS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "ome-zarr 0.4": (lambda f: ome_zarr(f / "a.zarr", grey("czyx"), "czyx", "0.4"), "czyx"),
    "ome-zarr 0.5": (lambda f: ome_zarr(f / "a.zarr", grey("zyx"), "zyx"), "zyx"),
    "own ome-zarr": (lambda f: own(f / "a.zarr", grey("cyx")), "cyx"),
    "zarr 2": (lambda f: bare_zarr(f / "a.zarr", grey("zyx"), zarr_format=2), "zyx"),
    "zarr 3": (lambda f: bare_zarr(f / "a.zarr", grey("czyx")), "czyx"),
    "tiff": (lambda f: tiff(f / "a.tif", grey("yx")), "yx"),
    "pages": (lambda f: tiff(f / "a.tiff", grey("zyx"), metadata=None), "zyx"),
    "tiff without names": (lambda f: tiff(f / "a.tif", grey("czyx")), "czyx"),
    "tiled tiff": (lambda f: tiff(f / "a.TIF", grey("zyx"), tile=(16, 32)), "zyx"),
    "lzw tiff": (lambda f: tiff(f / "a.tif", grey("zyx"), compression="lzw"), "zyx"),
    "bigtiff": (lambda f: tiff(f / "a.btf", grey("zyx"), bigtiff=True), "zyx"),
    "big-endian tiff": (lambda f: tiff(f / "a.tif", grey("zyx"), byteorder=">"), "zyx"),
    "pyramid": (lambda f: pyramid(f / "a.ome.tif", grey("czyx"), "CZYX"), "czyx"),
    "hdf5": (lambda f: hdf5(f / "a.h5", data=grey("zyx")), "zyx"),
    "numpy": (lambda f: npy(f / "a.npy", grey("zyx")), "zyx"),
    "numpy, Fortran order": (lambda f: npy(f / "a.npy", np.asfortranarray(grey("czyx"))), "czyx"),
    "numpy, big-endian": (lambda f: npy(f / "a.npy", grey("zyx", ">u2")), "zyx"),
    "nifti": (lambda f: itk(f / "a.nii", grey("zyx")), "zyx"),
    "nifti, gzip": (lambda f: itk(f / "a.nii.gz", grey("zyx")), "zyx"),
    "mha": (lambda f: itk(f / "a.mha", grey("zyx")), "zyx"),
    "mha, compressed": (lambda f: itk(f / "a.mha", grey("zyx"), compressed=True), "zyx"),
    "mhd": (lambda f: itk(f / "a.mhd", grey("zyx")), "zyx"),
    "plane in mha": (lambda f: itk(f / "a.mha", grey("yx")), "yx"),
}


def own(path: Path, pixels: NDArray[Any]) -> Path:
    create_image(path, "cyx", pixels.shape, pixels.dtype, {})[...] = pixels
    return path


def needs(name: str) -> Any:
    itk_alone = "nifti" in name or "mh" in name
    return pytest.param(name, marks=needs_itk if itk_alone else ())


every_format = pytest.mark.parametrize("name", [needs(name) for name in FORMATS])


# -------------------------------------------------------------------------------------- regions


def random_index(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Return an int, or a slice that may be empty or have steps, for each of some axes."""
    index: list[Any] = []
    for extent in shape:
        start, stop = (int(place) for place in rng.integers(-extent, extent + 1, 2))
        step = int(rng.choice([1, 1, 1, 2, 3]))
        one = int(rng.integers(-extent, extent))
        index.append(one if rng.random() < 0.25 else slice(start, stop, step))
    return tuple(index[: int(rng.integers(0, len(shape) + 1))])


@every_format
def test_any_region_holds_the_pixels_that_were_written(tmp_path: Path, name: str) -> None:
    write, axes = FORMATS[name]
    pixels, volume = grey(axes), open_volume(write(tmp_path))
    assert (volume.axes, volume.array.shape) == (axes, pixels.shape)
    assert volume.array.dtype == np.dtype("u2")
    np.testing.assert_array_equal(volume.array[...], pixels)
    np.testing.assert_array_equal(np.asarray(volume.array), pixels)
    rng = np.random.default_rng(1)
    for _ in range(60):
        index = random_index(rng, pixels.shape)
        found = volume.array[index]
        assert found.dtype == np.dtype("u2")
        np.testing.assert_array_equal(found, pixels[index], err_msg=str(index))


@every_format
def test_threads_may_read_at_once(tmp_path: Path, name: str) -> None:
    write, axes = FORMATS[name]
    pixels, volume = grey(axes), open_volume(write(tmp_path))
    rng = np.random.default_rng(2)
    indices = [random_index(rng, pixels.shape) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for index, found in zip(indices, pool.map(volume.array.__getitem__, indices), strict=True):
            np.testing.assert_array_equal(found, pixels[index])


@every_format
def test_what_is_read_may_be_changed_and_the_file_stays(tmp_path: Path, name: str) -> None:
    write, axes = FORMATS[name]
    volume = open_volume(write(tmp_path))
    volume.array[...][...] = 1
    np.testing.assert_array_equal(volume.array[...], grey(axes))


@given(st.data())
@examples(max_examples=60)
def test_axes_in_any_order_come_in_ours(data: st.DataObject) -> None:
    rest = data.draw(st.permutations(["t", "c", "z"])).copy()
    rest = rest[: data.draw(st.integers(0, 3))]
    axes = "".join(data.draw(st.permutations([*rest, "y", "x"])))
    pixels = np.arange(np.prod([EXTENTS[axis] for axis in axes])).reshape(
        [EXTENTS[axis] for axis in axes]
    )
    time = data.draw(st.integers(0, 2))
    count = EXTENTS["c"] if "c" in axes else 1
    channels = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4))
    selection = Selection(pixels, axes, time, channels)
    ours = [axis for axis in "czyx" if axis in axes]
    expected = np.moveaxis(
        pixels, [axes.index(axis) for axis in ["t"] * ("t" in axes) + ours], range(len(axes))
    )
    expected = expected[time] if "t" in axes else expected
    expected = expected[channels] if "c" in axes else expected
    assert selection.axes == "".join(ours)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for _ in range(5):
        index = random_index(rng, expected.shape)
        np.testing.assert_array_equal(selection[index], expected[index])


@pytest.mark.parametrize(
    "index", [(5, 0, 0), (0, -38), (0, 0, 0, 0), (slice(None, None, -1),), (0.5,)]
)
def test_an_index_outside_or_backwards_is_refused(index: Any) -> None:
    with pytest.raises((IndexError, TypeError)):
        Selection(grey("zyx"), "zyx", 0, [0])[index]


# ---------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize("axes", ["yx", "zyx", "czyx", "tczyx"])
def test_axes_without_names_go_by_their_number(tmp_path: Path, axes: str) -> None:
    pixels = grey(axes)
    places = [
        npy(tmp_path / "a.npy", pixels),
        hdf5(tmp_path / "a.h5", raw=pixels),
        bare_zarr(tmp_path / "a.zarr", pixels),
        tiff(tmp_path / "a.tif", pixels),
    ]
    for place in places:
        volume = open_volume(place, time="1" if "t" in axes else "")
        assert volume.axes == axes.replace("t", "")
        np.testing.assert_array_equal(volume.array[...], pixels[1] if "t" in axes else pixels)


@pytest.mark.parametrize("shape", [(7,), (1, 2, 1, 2, 4, 4)])
def test_other_numbers_of_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    line = refused(npy(tmp_path / "a.npy", np.ones(shape)))
    assert f"must have 2 to 5: got {shape}" in line


@pytest.mark.parametrize("names", ["xyz", "zxy", ("x", "y", "Z")])
def test_named_dimensions_of_a_zarr_array_are_put_in_order(tmp_path: Path, names: Any) -> None:
    pixels = np.arange(24).reshape(2, 3, 4)
    volume = open_volume(bare_zarr(tmp_path / "a.zarr", pixels, names))
    order = ["".join(names).lower().index(axis) for axis in "zyx"]
    np.testing.assert_array_equal(volume.array[...], pixels.transpose(order))


def test_names_of_dimensions_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    line = refused(bare_zarr(tmp_path / "a.zarr", np.ones((2, 3, 4)), ("dose", "y", "x")))
    assert "names t, c, z, y, x or none: got ['dose', 'y', 'x']" in line


def test_dimensions_as_xarray_names_them_in_zarr_2_are_known(tmp_path: Path) -> None:
    path = bare_zarr(tmp_path / "a.zarr", np.ones((2, 8, 9)), zarr_format=2)
    zarr.open_array(path, mode="a").attrs["_ARRAY_DIMENSIONS"] = ["channel", "y", "x"]
    assert open_volume(path).axes == "cyx"


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("pages", [1, 4])
def test_colours_of_a_tiff_are_channels(tmp_path: Path, planar: str, pages: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, (pages, 3, 20, 30)).astype("u1")
    stored = np.moveaxis(pixels, 1, -1) if planar == "contig" else pixels
    path = tiff(
        tmp_path / "a.tif",
        stored[0] if pages == 1 else stored,
        photometric="rgb",
        planarconfig=planar,
    )
    volume = open_volume(path)
    assert volume.axes == ("cyx" if pages == 1 else "czyx")
    expected = pixels[0] if pages == 1 else pixels.swapaxes(0, 1)
    np.testing.assert_array_equal(volume.array[...], expected)
    np.testing.assert_array_equal(open_volume(path, channel="2,0").array[...], expected[[2, 0]])


def test_axes_of_an_imagej_hyperstack_are_told_apart(tmp_path: Path) -> None:
    pixels = grey("tzyx")[:, :, None].repeat(2, axis=2)  # ImageJ's own order is t, z, c
    pixels[:, :, 1] += 300
    path = tiff(tmp_path / "a.tif", pixels, imagej=True, metadata={"axes": "TZCYX"})
    volume = open_volume(path, time="2")
    assert volume.axes == "czyx"
    np.testing.assert_array_equal(volume.array[...], pixels[2].swapaxes(0, 1))


def test_axes_of_an_ome_tiff_are_put_in_order(tmp_path: Path) -> None:
    pixels = grey("zyx")[:, None].repeat(2, axis=1)
    path = tiff(tmp_path / "a.ome.tif", pixels, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(open_volume(path).array[...], pixels.swapaxes(0, 1))


@needs_itk
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_components_of_a_medical_volume_are_channels(
    tmp_path: Path, name: str, compressed: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9000, (5, 7, 8, 3)).astype("i2")
    volume = open_volume(itk(tmp_path / name, pixels, vector=True, compressed=compressed))
    assert volume.axes == "czyx"
    rng = np.random.default_rng(0)
    expected = np.moveaxis(pixels, -1, 0)
    for _ in range(40):
        index = random_index(rng, expected.shape)
        np.testing.assert_array_equal(volume.array[index], expected[index])


@needs_itk
def test_the_fourth_axis_of_a_nifti_file_is_time(tmp_path: Path) -> None:
    pixels = grey("tzyx", "f4")
    path = itk(tmp_path / "a.nii", pixels)
    volume = open_volume(path, time="2")
    assert (volume.axes, volume.voxel_size_um) == ("zyx", MILLIMETRES)
    np.testing.assert_array_equal(volume.array[...], pixels[2])
    np.testing.assert_array_equal(open_volume(path, time="1", channel="0").array[...], pixels[1])


@needs_itk
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha"])
def test_the_fourth_axis_of_a_medical_volume_is_that_of_the_channels_that_are_chosen(
    tmp_path: Path, name: str
) -> None:
    """As the layout of the Decathlon reads it."""
    pixels = grey("czyx", "f4")
    path = itk(tmp_path / name, pixels)
    volume = open_volume(path, channel="1,0")
    assert (volume.axes, volume.voxel_size_um) == ("czyx", MILLIMETRES)
    np.testing.assert_array_equal(volume.array[...], pixels[[1, 0]])
    assert "channel must be a number from 0 to 1: got '2'" in refused(path, channel="2")
    assert "must be one time point: found 2" in refused(path)


# --------------------------------------------------------------------------------- voxel sizes


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("nanometer", 1e-3), ("micrometer", 1), ("millimeter", 1e3), ("meter", 1e6)],
)
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_voxel_size_is_that_of_the_level_in_micrometres(
    tmp_path: Path, version: str, unit: str, factor: float
) -> None:
    path = ome_zarr(tmp_path / "a.zarr", grey("czyx"), "czyx", version, levels=3, units=unit)
    for level in range(3):
        volume = open_volume(path, level=str(level))
        expected = {"z": 2 * factor, "y": 0.5 * factor * 2**level, "x": 0.5 * factor * 2**level}
        assert volume.voxel_size_um == pytest.approx(expected)
        np.testing.assert_array_equal(
            volume.array[...], grey("czyx")[..., :: 2**level, :: 2**level]
        )


def test_a_scale_of_all_levels_counts_too(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", grey("zyx"), "zyx")
    group = zarr.open_group(path, mode="a")
    facts: Any = dict(group.attrs)["ome"]
    shared = {"type": "scale", "scale": [1, 3, 1]}
    facts["multiscales"][0]["coordinateTransformations"] = [shared]
    group.attrs["ome"] = facts
    assert open_volume(path).voxel_size_um == {"z": 2, "y": 1.5, "x": 0.5}


@pytest.mark.parametrize("unit", [None, "parsec"])
def test_a_voxel_size_without_a_known_unit_is_unknown(tmp_path: Path, unit: str | None) -> None:
    path = ome_zarr(tmp_path / "a.zarr", grey("zyx"), "zyx", "0.4", units=unit)
    assert open_volume(path).voxel_size_um == {}


def test_an_ome_tiff_tells_voxel_sizes_and_channels_of_each_level(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, (2, 3, 64, 96)).astype("u2")
    path = pyramid(tmp_path / "a.ome.tif", pixels, "CZYX")
    for level in range(3):
        volume = open_volume(path, level=str(level), channel="GFP")
        by = 2**level
        np.testing.assert_array_equal(volume.array[0], pixels[1, :, ::by, ::by])
        assert volume.voxel_size_um == pytest.approx({"z": 1, "y": 0.25 * by, "x": 0.25 * by})


@pytest.mark.parametrize("unit", ["micron", "um", "\\u00B5m"])
def test_imagej_tells_voxel_sizes(tmp_path: Path, unit: str) -> None:
    metadata = {"axes": "ZYX", "spacing": 2.5, "unit": unit}
    path = tiff(tmp_path / "a.tif", grey("zyx"), imagej=True, resolution=(4, 5), metadata=metadata)
    assert open_volume(path).voxel_size_um == pytest.approx({"z": 2.5, "y": 0.2, "x": 0.25})


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("CENTIMETER", {"y": 2.0, "x": 1.0}),
        ("MILLIMETER", {"y": 0.2, "x": 0.1}),
        ("INCH", {}),
        ("NONE", {}),
    ],
)
def test_tags_of_a_tiff_tell_the_size_of_pixels_but_of_screens(
    tmp_path: Path, unit: str, expected: dict[str, float]
) -> None:
    path = tiff(tmp_path / "a.tif", grey("yx"), resolution=(10000, 5000), resolutionunit=unit)
    assert open_volume(path).voxel_size_um == pytest.approx(expected)


@needs_itk
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha", "a.mhd"])
def test_spacing_of_medical_volumes_is_in_millimetres(tmp_path: Path, name: str) -> None:
    assert open_volume(itk(tmp_path / name, grey("zyx"))).voxel_size_um == MILLIMETRES


@pytest.mark.parametrize("name", ["a.npy", "a.h5"])
def test_formats_without_voxel_sizes_have_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    npy(path, grey("zyx")) if name == "a.npy" else hdf5(path, data=grey("zyx"))
    assert open_volume(path).voxel_size_um == {}


def test_units_are_those_of_the_specification() -> None:
    units = {"angstrom": -10, "picometer": -12, "nanometer": -9, "micrometer": -6}
    units |= {"millimeter": -3, "centimeter": -2, "meter": 0}
    assert {unit: MICROMETRES[unit] for unit in units} == {
        unit: pytest.approx(10.0 ** (power + 6)) for unit, power in units.items()
    }


# -------------------------------------------------------------------------------------- choices


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_time_points_and_channels_of_an_image_are_chosen(tmp_path: Path, version: str) -> None:
    pixels = grey("tczyx")
    path = ome_zarr(tmp_path / "a.zarr", pixels, "tczyx", version)
    for channel, order in (("", [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("GFP, DAPI", [1, 0])):
        volume = open_volume(path, time="2", channel=channel)
        assert volume.axes == "czyx"
        np.testing.assert_array_equal(volume.array[...], pixels[2][order])


def test_one_time_point_needs_no_choice(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", grey("tyx")[:1], "tyx")
    for time in ("", "0"):
        assert open_volume(path, time=time).axes == "yx"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({}, "a volume must be one time point: found 3; name a number from 0 to 2 in the column"),
        ({"time": "3"}, "time must be a number from 0 to 2: got '3'; correct the sheet"),
        ({"time": "-1"}, "time must be a number from 0 to 2: got '-1'"),
        ({"time": "0", "level": "2"}, "level must be a number from 0 to 1: got '2'"),
        ({"time": "0", "scene": "1"}, "scene must be 0, the only one,: got '1'"),
        ({"time": "0", "channel": "2"}, "from 0 to 1 or one of DAPI, GFP: got '2'"),
        ({"time": "0", "channel": "0,RFP"}, "from 0 to 1 or one of DAPI, GFP: got 'RFP'"),
        ({"time": "0", "channel": "0,"}, "from 0 to 1 or one of DAPI, GFP: got ''"),
    ],
)
def test_what_is_not_there_is_told_with_what_there_is(
    tmp_path: Path, choice: dict[str, str], words: str
) -> None:
    path = ome_zarr(tmp_path / "a.zarr", grey("tcyx"), "tcyx", levels=2)
    assert words in refused(path, **choice)


@pytest.mark.parametrize("name", ["a.npy", "a.h5", "a.tif", "a.zarr"])
@pytest.mark.parametrize("what", ["scene", "level", "time", "channel"])
def test_what_a_format_has_once_is_chosen_as_0_alone(tmp_path: Path, name: str, what: str) -> None:
    path = tmp_path / name
    writers: dict[str, Any] = {"a.npy": npy, "a.tif": tiff, "a.zarr": bare_zarr}
    writers.get(name, lambda path, pixels: hdf5(path, data=pixels))(path, grey("yx"))
    np.testing.assert_array_equal(open_volume(path, **{what: "0"}).array[...], grey("yx"))
    assert f"{what} must be 0, the only one,: got '1'" in refused(path, **{what: "1"})


def test_scenes_of_a_tiff_are_chosen_by_index_or_name(tmp_path: Path) -> None:
    path, shapes = tmp_path / "a.ome.tif", [(20, 30), (3, 8, 9)]
    with tifffile.TiffWriter(path, ome=True) as file:
        for number, shape in enumerate(shapes):
            metadata = {"axes": "ZYX"[-len(shape) :], "Name": f"field {number}"}
            metadata |= {"PhysicalSizeX": number + 1.0}
            file.write(np.full(shape, number, "u1"), metadata=metadata, photometric="minisblack")
    for number, shape in enumerate(shapes):
        for scene in (str(number), f"field {number}"):
            volume = open_volume(path, scene=scene)
            assert volume.voxel_size_um == {"x": number + 1.0}
            np.testing.assert_array_equal(volume.array[...], np.full(shape, number))
    line = refused(path)
    assert (
        "a volume must be one scene: found 2; name a number from 0 to 1 or one of field 0" in line
    )
    assert "or one of field 0, field 1: got 'field 2'" in refused(path, scene="field 2")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_series_of_bioformats2raw_are_scenes(tmp_path: Path, version: str, listed: bool) -> None:
    layout = {"bioformats2raw.layout": 3}
    new = version == "0.5"
    attributes = {"ome": {"version": version, **layout}} if new else layout
    group = zarr.create_group(
        tmp_path / "a.zarr", zarr_format=3 if new else 2, attributes=attributes
    )
    if listed:
        series = {"series": ["0", "1"]}
        group.create_group("OME", attributes={"ome": series} if new else series)
    for scene in ("0", "1"):
        ome_zarr(tmp_path / "a.zarr" / scene, grey("zyx", seed=int(scene)), "zyx", version)
    for scene in ("0", "1"):
        volume = open_volume(tmp_path / "a.zarr", scene=scene)
        np.testing.assert_array_equal(volume.array[...], grey("zyx", seed=int(scene)))
        assert volume.voxel_size_um == {"z": 2.0, "y": 0.5, "x": 0.5}
    assert "a volume must be one scene: found 2" in refused(tmp_path / "a.zarr")


def test_a_dataset_of_several_is_named_behind_the_file(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", **{"volumes/raw": grey("zyx"), "volumes/mask": grey("yx")})
    for inside in ("/volumes/raw", "volumes/raw"):
        np.testing.assert_array_equal(open_volume(f"{path}:{inside}").array[...], grey("zyx"))
    assert "found /volumes/mask, /volumes/raw; correct the path" in refused(path)
    for wrong in (":/volumes", ":/raw", ":/volumes/raw/0"):
        assert "found /volumes/mask, /volumes/raw; correct the path" in refused(f"{path}{wrong}")


def test_the_only_dataset_with_planes_needs_no_name(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5", **{"entry/data": grey("zyx"), "entry/angles": np.ones(7)})
    np.testing.assert_array_equal(open_volume(path).array[...], grey("zyx"))
    assert "found none of 2 or more axes" in refused(hdf5(tmp_path / "b.h5", angles=np.ones(7)))


# ------------------------------------------------------------------------------ no more is read


class Asked:
    """An array that notes what it is asked for."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self.pixels, self.shape, self.dtype = pixels, pixels.shape, pixels.dtype
        self.regions: list[tuple[Any, ...]] = []

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        self.regions.append(index)
        return np.asarray(self.pixels[index])


def test_chosen_channels_are_asked_for_alone_and_neighbours_at_once() -> None:
    array = Asked(np.zeros((2, 6, 3, 8, 9), "u1"))
    selection = Selection(array, "tczyx", 1, [4, 1, 2])
    assert array.regions == []
    assert selection[:, 2, 3:5].shape == (3, 2, 9)
    rest = (2, slice(3, 5), slice(0, 9))
    assert array.regions == [(1, slice(4, 5), *rest), (1, slice(1, 3), *rest)]
    assert selection[0:0].shape == (0, 3, 8, 9)
    assert len(array.regions) == 2


SPARSE = """
import resource, sys
from unetflow.volumes import open_volume
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
for place in sys.argv[1:]:
    volume = open_volume(place)
    assert volume.array.shape == (16384, 1024, 1024), place
    assert volume.array[16000:16002, 500:520, 7:9].tolist()[1][3] == [0, 5], place
"""


def test_a_region_of_a_file_larger_than_memory_is_read(tmp_path: Path) -> None:
    shape, marked = (16384, 1024, 1024), (16001, 503, 8)
    offset = int(np.ravel_multi_index(marked, shape))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", shape, "u1", chunks=(1, 256, 256))[marked] = 5
    array = zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=(1, 256, 256), dtype="u1")
    array[marked] = 5
    tifffile.imwrite(tmp_path / "a.tif", shape=shape, dtype="u1", bigtiff=True, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        starts = {"a.tif": file.pages[16001].dataoffsets[0] + offset % 2**20}
    if HAS_ITK:
        itk(tmp_path / "a.mhd", np.zeros((2, 3, 4), "u1"))
        header = (
            (tmp_path / "a.mhd").read_text().replace("DimSize = 4 3 2", "DimSize = 1024 1024 16384")
        )
        (tmp_path / "a.mhd").write_text(header)
        itk(tmp_path / "a.nii", np.zeros((2, 3, 4), "u1"))
        content = bytearray((tmp_path / "a.nii").read_bytes())
        struct.pack_into("<4h", content, 40, 3, 1024, 1024, 16384)
        (tmp_path / "a.nii").write_bytes(content[:352])
        starts |= {"a.raw": offset, "a.nii": 352 + offset}
    for name, start in starts.items():
        with (tmp_path / name).open("r+b") as file:
            if name != "a.tif":
                file.truncate(start - offset + int(np.prod(shape)))
            file.seek(start)
            file.write(b"\x05")
    names = ["a.h5", "a.zarr", "a.tif"] + (["a.mhd", "a.nii"] if HAS_ITK else [])
    command = [sys.executable, "-c", SPARSE, *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_tiff_is_read_as_far_as_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(8 * 64 * 64, dtype="u2").reshape(8, 64, 64)
    tiff(tmp_path / "a.tif", pixels, compression="zlib")
    asked: list[int] = []
    original = tifffile.FileHandle.read

    def counting(handle: tifffile.FileHandle, size: int = -1, /) -> bytes:
        content = original(handle, size)
        asked.append(len(content))
        return content

    volume = open_volume(tmp_path / "a.tif")
    monkeypatch.setattr(tifffile.FileHandle, "read", counting)
    np.testing.assert_array_equal(volume.region((2, slice(None), slice(None)))[0], pixels[2])
    assert sum(asked) < (tmp_path / "a.tif").stat().st_size / 4


# --------------------------------------------------------------------------------------- remote


class Served(BaseHTTPRequestHandler):
    """Files of a folder, whole or in part, as a web server gives them; it notes what it sends."""

    root: Path
    sent: list[tuple[str, int]]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        size, asked = len(content), self.headers.get("Range", "")
        start, _, stop = asked.removeprefix("bytes=").partition("-")
        if asked:
            content = content[int(start or 0) : int(stop or size) + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        if asked:
            self.send_header(
                "Content-Range", f"bytes {start}-{int(start) + len(content) - 1}/{size}"
            )
        self.end_headers()
        if body:
            self.wfile.write(content)
            self.sent.append((self.path, len(content)))

    def log_message(self, *_: Any) -> None:
        """Say nothing on the terminal."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Address of a web server of the test's folder, and what it has sent."""
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    sent: list[tuple[str, int]] = []
    handler = type("Handler", (Served,), {"root": tmp_path, "sent": sent})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", sent
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.mark.parametrize(
    "name", ["ome-zarr 0.4", "ome-zarr 0.5", "zarr 2", "zarr 3", "pyramid", "lzw tiff", "hdf5"]
)
def test_a_volume_on_a_web_server_is_read_where_it_lies(
    tmp_path: Path, server: tuple[str, list[tuple[str, int]]], name: str
) -> None:
    write, axes = FORMATS[name]
    url = f"{server[0]}/{write(tmp_path).name}"
    pixels, volume = grey(axes), open_volume(url)
    assert (volume.path, volume.name, volume.axes) == (url, url.rpartition("/")[2], axes)
    rng = np.random.default_rng(0)
    for _ in range(4):
        index = random_index(rng, pixels.shape)
        np.testing.assert_array_equal(volume.array[index], pixels[index])


def test_of_a_remote_image_only_the_chunks_that_are_asked_for_come(
    tmp_path: Path, server: tuple[str, list[tuple[str, int]]]
) -> None:
    ome_zarr(tmp_path / "a.zarr", grey("tczyx"), "tczyx", "0.4")
    volume = open_volume(f"{server[0]}/a.zarr", time="1", channel="1")
    before = len(server[1])
    np.testing.assert_array_equal(
        volume.array[0, 3, 0:16, 16:32], grey("tczyx")[1, 1, 3, :16, 16:32]
    )
    # Metadata that were asked for before may be noted late.
    asked = [path for path, _ in server[1][before:] if path.startswith("/a.zarr/s0/")]
    chunks = [path for path in asked if not Path(path).name.startswith(".z")]
    assert chunks == ["/a.zarr/s0/1/1/3/0/1"]


@pytest.mark.parametrize("name", ["ome-zarr 0.5", "zarr 3", "pyramid", "hdf5"])
def test_a_volume_at_any_address_of_fsspec_is_read(tmp_path: Path, name: str) -> None:
    write, axes = FORMATS[name]
    path = write(tmp_path)
    place = f"/{tmp_path.name}/{path.name}"
    fsspec.filesystem("memory").put(str(path), place, recursive=True)
    np.testing.assert_array_equal(open_volume(f"memory:/{place}").array[...], grey(axes))


def test_labels_of_a_remote_image_are_found(
    tmp_path: Path, server: tuple[str, list[tuple[str, int]]]
) -> None:
    own(tmp_path / "a", grey("cyx"))
    labels = grey("yx", "u4")
    create_image(tmp_path / "a/labels/instances", "yx", labels.shape, "u4", {})[...] = labels
    volume = open_volume(f"{server[0]}/a")
    found = volume.label("instances")
    assert found is not None
    np.testing.assert_array_equal(found[...], labels)
    assert volume.label("classes") is None


def test_a_remote_place_that_is_not_there_is_told(
    tmp_path: Path, server: tuple[str, list[tuple[str, int]]]
) -> None:
    for name, kind in (("a.zarr", "OME-Zarr image"), ("a.tif", "TIFF file"), ("a.h5", "HDF5 file")):
        assert f"must be a readable {kind}" in refused(f"{server[0]}/{name}")


@pytest.mark.parametrize("name", ["a.npy", "a.nii.gz", "a.mha", "a.czi"])
def test_other_formats_are_not_read_from_afar(name: str) -> None:
    line = refused(f"https://example.org/{name}")
    assert "a volume at a URL must be Zarr, TIFF or HDF5" in line
    assert line.endswith("download it")


def test_a_kind_of_address_whose_library_is_missing_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert refused("s3://bucket/a.zarr").endswith("install unetflow[remote]")
    assert "must be a readable" in refused("nowhere://bucket/a.zarr")


# -------------------------------------------------------------------------------------- vendors


COLOURS = np.random.default_rng(0).integers(0, 250, (7, 9, 3)).astype("u1")


class FakeImage:
    """What bioio gives of a file with scenes of two levels."""

    scenes = ("overview", "detail", "colours")
    resolution_levels = (0, 1)
    channel_names = ("DAPI", "GFP")

    def __init__(self, path: str) -> None:
        if "broken" in path:
            raise RuntimeError("no plugin\nreads it")
        self.scene, self.level = 0, 0

    def set_scene(self, scene: int) -> None:
        self.scene = scene

    def set_resolution_level(self, level: int) -> None:
        self.level = level

    @property
    def dims(self) -> Any:
        return SimpleNamespace(order="TCZYXS" if self.scene == 2 else "TCZYX")

    @property
    def dask_data(self) -> Any:
        if self.scene == 2:
            return dask.array.from_array(COLOURS[None, None, None], chunks=16)
        pixels = grey("tczyx", seed=self.scene)[..., :: 2**self.level, :: 2**self.level]
        return dask.array.from_array(pixels if self.scene else pixels[:1, :, :1], chunks=16)

    @property
    def physical_pixel_sizes(self) -> Any:
        return SimpleNamespace(Z=None, Y=0.5 * 2**self.level, X=0.25 * 2**self.level)


@pytest.fixture
def bioio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bioio that has a plugin for everything."""
    module: Any = ModuleType("bioio")
    module.BioImage = FakeImage
    monkeypatch.setitem(sys.modules, "bioio", module)


@pytest.mark.usefixtures("bioio")
@pytest.mark.parametrize("name", ["a.czi", "a.nd2", "a.LIF"])
def test_a_vendors_file_is_read_through_bioio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    volume = open_volume(path, scene="detail", time="2", channel="GFP", level="1")
    assert (volume.axes, volume.voxel_size_um) == ("czyx", {"y": 1.0, "x": 0.5})
    expected = grey("tczyx", seed=1)[2, 1:, :, ::2, ::2]
    np.testing.assert_array_equal(volume.array[:, 1:3], expected[:, 1:3])
    flat = open_volume(path, scene="0")
    assert flat.axes == "cyx"
    np.testing.assert_array_equal(flat.array[...], grey("tczyx")[0, :, 0])
    colours = open_volume(path, scene="colours")
    assert colours.axes == "cyx"
    np.testing.assert_array_equal(colours.array[...], np.moveaxis(COLOURS, -1, 0))
    assert "found 3; name a number from 0 to 2 or one of overview, detail" in refused(path)
    assert "level must be a number from 0 to 1: got '2'" in refused(path, scene="0", level="2")
    assert "found 3" in refused(path, scene="1")


@pytest.mark.usefixtures("bioio")
def test_a_vendors_file_that_no_plugin_reads_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.nd2").touch()
    assert "must be a readable ND2 file: no plugin reads it" in refused(tmp_path / "broken.nd2")


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("bioio", "a.nd2", "formats"),
        ("bioio", "a.czi", "czi"),
        ("SimpleITK", "a.nii.gz", "medical"),
        ("SimpleITK", "a.mhd", "medical"),
    ],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, extra: str
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    line = refused(tmp_path / name)
    assert module in line
    assert line.endswith(f"install unetflow[{extra}]")


@pytest.mark.filterwarnings("default")  # those of other people's readers
def test_bioio_itself_gives_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("bioio", reason="bioio is not installed")
    pytest.importorskip("bioio_tifffile", reason="bioio-tifffile is not installed")
    pixels = grey("tczyx")
    path = tiff(tmp_path / "a.tif", pixels, metadata={"axes": "TCZYX"})
    source = vendor.open_source(str(path), "", "")
    assert source.axes == "tczyx"
    selection = Selection(source.array, source.axes, 2, [1])
    np.testing.assert_array_equal(selection[0, 1:3, 5:20], pixels[2, 1, 1:3, 5:20])


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "name", ["a.tif", "a.zarr", "a.h5", "a.h5:/data", "a.czi", "a.nii", "a.txt"]
)
def test_a_missing_volume_is_refused(tmp_path: Path, name: str) -> None:
    line = refused(tmp_path / name)
    assert line.endswith("a volume must exist: found nothing; correct the path in the sheet")


def test_an_unknown_ending_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    for name in ("a.png", "a", "a.tif.txt"):
        (tmp_path / name).touch()
        line = refused(tmp_path / name)
        for ending in (".tif", ".h5", ".npy", ".nii.gz", ".mhd", ".czi", ".nd2"):
            assert ending in line


@pytest.mark.parametrize("name", [needs(name) for name in FORMATS if "zarr" not in name])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.4])
def test_a_file_that_was_cut_is_told_when_it_is_opened_or_read(
    tmp_path: Path, name: str, keep: float
) -> None:
    path = FORMATS[name][0](tmp_path)
    if path.suffix == ".mhd":
        (tmp_path / "a.raw").write_bytes(b"\x01" * int(1000 * keep))
    else:
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises((ValueError, RuntimeError)) as caught:
        open_volume(path).array[...]
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["tiff", "hdf5", "numpy", "nifti", "mha"])
def test_a_file_of_another_format_is_told(tmp_path: Path, name: str) -> None:
    if name in ("nifti", "mha"):
        pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    endings = {"tiff": "tif", "hdf5": "h5", "numpy": "npy", "nifti": "nii", "mha": "mha"}
    path = tmp_path / f"a.{endings[name]}"
    path.write_text("no picture\n" * 100)
    line = refused(path)
    assert "must be a readable " in line
    assert "; " in line


def test_broken_chunks_are_errors_of_reading(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", data=grey("zyx"))
    with h5py.File(path) as file:
        info = file["data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[info.byte_offset : info.byte_offset + info.size] = b"\x07" * info.size
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.h5: .*; replace the file"):
        open_volume(path).array[...]
    folder = ome_zarr(tmp_path / "a.zarr", grey("zyx"), "zyx")
    chunk = next(place for place in (folder / "s0/c").rglob("*") if place.is_file())
    chunk.write_bytes(b"\x07" * 30)
    with pytest.raises((ValueError, RuntimeError)):
        open_volume(folder).array[...]


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.02, 0.5, 0.8])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_tiff_is_refused_when_it_is_opened(
    tmp_path: Path, keep: float, compression: str | None
) -> None:
    path = tiff(tmp_path / "a.tif", grey("zyx", "u1"), compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    assert "must be a readable TIFF file" in refused(path)
    gc.collect()  # a file left open would be told here


@pytest.mark.parametrize(
    "pixels",
    [
        np.ones((4, 5), complex),
        np.ones((4, 5), [("a", "u1")]),
        np.full((4, 5), "a"),
        np.ones((0, 5)),
        np.full((4, 5), None),
    ],
    ids=["complex", "records", "text", "empty", "objects"],
)
def test_what_are_no_pixels_is_refused(tmp_path: Path, pixels: NDArray[Any]) -> None:
    line = refused(npy(tmp_path / "a.npy", pixels))
    assert "pixels must be real numbers" in line or "must be a readable NumPy file" in line


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"multiscales": []},
        {"multiscales": [{}]},
        {"multiscales": [{"axes": [], "datasets": []}]},
        {"bioformats2raw.layout": 3},
        {"multiscales": [{"axes": [], "datasets": [{"path": "s0"}]}]},
        {"multiscales": None},
    ],
)
def test_a_group_without_what_an_image_has_is_refused(tmp_path: Path, facts: Any) -> None:
    zarr.create_group(tmp_path / "a", attributes={"ome": facts})
    line = refused(tmp_path / "a")
    assert "must be a readable OME-Zarr image (0.4 or 0.5) or Zarr array: " in line


def test_axes_that_are_not_ours_are_refused(tmp_path: Path) -> None:
    path = ome_zarr(tmp_path / "a.zarr", grey("zyx"), "zyx")
    group = zarr.open_group(path, mode="a")
    facts: Any = dict(group.attrs)["ome"]
    facts["multiscales"][0]["axes"][0]["name"] = "w"
    group.attrs["ome"] = facts
    assert "each once: got 'wyx'; convert it" in refused(path)
