"""TIFF and OME-TIFF: tiled, pyramidal, of many pages, or of several files."""

from __future__ import annotations

import weakref
from typing import Any
from xml.etree import ElementTree

import tifffile
import zarr

from unetflow.formats.source import (
    AXES_BY_NUMBER,
    SAMPLES,
    Source,
    index_of,
    known,
    micrometres,
    only,
    readable,
)
from unetflow.tiff import open_tiff

KIND = "TIFF file"
UNNAMED = "qi"  # tifffile's for a sequence of pages, and for any other axis

# ResolutionUnit of TIFF 6.0 and of later extensions. Inches are left out: they come from screens
# and printers, not from microscopes.
UNITS = {3: "centimeter", 4: "millimeter", 5: "micrometer"}


def open_source(place: str, scene: str, level: str) -> Source:
    """Return a series of a TIFF file.

    Samples of a pixel, such as red, green and blue, are channels. Axes that nothing names are
    those of AXES_BY_NUMBER.

    Parameters
    ----------
    scene : str
        Index or name of the series; may be empty where there is one.
    level : str
        Index in the pyramid; empty: 0, the full resolution.

    Raises
    ------
    ValueError
        If the file is cut or no TIFF, or if there is no such scene or level.
    """
    file = open_tiff(place)
    try:
        with readable(place, KIND):
            every = file.series
            if not every:
                raise ValueError("it holds no page")
            names = [series.name for series in every]
        number = only(scene, "scene", len(every), place, names)
        series = every[number]
        chosen = index_of(level or "0", "level", len(series.levels), place)
        with readable(place, KIND):
            store = series.aszarr(level=chosen)
            array = zarr.open_array(store, mode="r")
            sizes, channels = described(file, number)
            shrunk = zip(series.axes.lower(), series.shape, array.shape, strict=True)
    except Exception:
        file.close()
        raise
    # The array is read as long as it is there; nobody else closes its file.
    weakref.finalize(store, file.close)
    by = {axis: extent / kept for axis, extent, kept in shrunk}
    sizes = {axis: size * by.get(axis, 1.0) for axis, size in sizes.items()}
    return Source(array, named(series.axes.lower()), sizes, channels)


def named(axes: str) -> str:
    """Axes in our letters: samples are channels, and axes without a name those that it may have."""
    axes = axes.replace(SAMPLES, "c")
    count = sum(axis in UNNAMED for axis in axes)
    last = AXES_BY_NUMBER.get(count + 2, "")
    given = iter(last)
    return "".join(next(given, axis) if axis in UNNAMED else axis for axis in axes)


def described(file: tifffile.TiffFile, number: int) -> tuple[dict[str, float], list[str]]:
    """Voxel size in micrometres and names of the channels of a series, as far as they are known."""
    if file.ome_metadata:
        images = ElementTree.fromstring(file.ome_metadata).findall("{*}Image")
        pixels = images[number].find("{*}Pixels") if len(images) == len(file.series) else None
        return ({}, []) if pixels is None else from_ome(pixels)
    page = file.series[number].keyframe
    if file.imagej_metadata:
        unit = file.imagej_metadata.get("unit")
        spacing = file.imagej_metadata.get("spacing")
        depth = micrometres(abs(float(spacing)) if spacing else None, unit)
        return known({"z": depth} | in_plane(page.tags, unit)), []
    return known(in_plane(page.tags, UNITS.get(page.tags.valueof("ResolutionUnit")))), []


def from_ome(pixels: ElementTree.Element) -> tuple[dict[str, float], list[str]]:
    """Voxel size and names of the channels that OME-XML tells."""
    sizes = {
        axis: micrometres(
            pixels.get(f"PhysicalSize{axis.upper()}"),
            pixels.get(f"PhysicalSize{axis.upper()}Unit", "\u00b5m"),
        )
        for axis in "zyx"
    }
    return known(sizes), [channel.get("Name", "") for channel in pixels.findall("{*}Channel")]


def in_plane(tags: Any, unit: str | None) -> dict[str, float | None]:
    """Size of a pixel: TIFF holds pixels per unit, as a fraction."""
    sizes: dict[str, float | None] = {}
    for axis, name in (("y", "YResolution"), ("x", "XResolution")):
        pixels, units = tags.valueof(name, default=(0, 1))
        sizes[axis] = micrometres(units / pixels, unit) if pixels else None
    return sizes
