"""Outlines of objects, as ImageJ's sets of regions of interest and QuPath's GeoJSON hold them.

Coordinates are x, y in pixels, counted from the outer corner of the first pixel, so that outlines
of labels run along the edges of pixels. A pixel is an object's if its centre is.

References
----------
.. [1] ImageJ, ij.io.RoiDecoder: regions with holes or of several pieces are paths ("composite").
.. [2] RFC 7946, The GeoJSON Format, and QuPath, https://qupath.readthedocs.io: an object is a
       feature, whose geometry may name its plane.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from roifile import ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from scipy.ndimage import find_objects
from shapely.geometry import mapping, shape

from unetflow.store import Image, replacing

ENDINGS = {".zip", ".roi", ".geojson"}
WRITTEN = {"fiji": "zip", "qupath": "geojson"}

MOVE, LINE, CLOSE = 0, 1, 4
"""Steps of a path ([1])."""
ENCLOSING = {
    ROI_TYPE.POLYGON,
    ROI_TYPE.FREEHAND,
    ROI_TYPE.TRACED,
    ROI_TYPE.RECT,
    ROI_TYPE.OVAL,
}


@dataclass(frozen=True)
class Outline:
    """An object in one plane: its name, the plane counted from 0, and a shapely (multi)polygon."""

    name: str
    plane: int
    area: Any


# ---------------------------------------------------------------------------------- labels in


def read_outlines(path: Path, extents: Sequence[int]) -> NDArray[np.uint32]:
    """Return the instances whose outlines a file holds, 0 = background.

    Where every name is a whole number, as in what `write_outlines` has written, it is the id; else
    ids follow the order of the file. Where objects overlap the later one wins.

    Parameters
    ----------
    path : Path
        `.roi` or a `.zip` of such of ImageJ, or `.geojson`.
    extents : sequence of int
        (planes,) rows, columns of the image.

    Raises
    ------
    ValueError
        If the file cannot be read, an outline encloses no area or lies beside the image.
    """
    try:
        read = geojson if path.suffix.lower() == ".geojson" else imagej
        outlines = list(read(path))
        empty = [outline.name for outline in outlines if outline.area.is_empty]
        if empty:
            raise ValueError(f"{empty[0]!r} has no area")
    except Exception as error:  # decoders raise whatever they like for a broken file
        reason = " ".join(str(error).split()) or repr(error)
        raise ValueError(
            f"{path}: must hold outlines of objects: {reason}; save it again from Fiji or QuPath"
        ) from error
    labels = np.zeros(extents, np.uint32)
    planes = labels.reshape(-1, *extents[-2:])
    for number, outline in zip(ids_of(outlines), outlines, strict=True):
        there = 0 <= outline.plane < len(planes)
        if not (there and draw(outline.area, planes[outline.plane], number)):
            raise ValueError(
                f"{path}: outlines must hold pixels of their image, of shape {tuple(extents)}: "
                f"that of {outline.name or number} has x, y from {outline.area.bounds[:2]} to "
                f"{outline.area.bounds[2:]} in plane {outline.plane}; remove it or pair the file "
                "with its image"
            )
    return labels


def ids_of(outlines: Sequence[Outline]) -> list[int]:
    """Ids of objects, see `read_outlines`."""
    names = [outline.name for outline in outlines]
    if all(name.isdecimal() and 0 < int(name) < 2**32 for name in names):
        return [int(name) for name in names]
    return list(range(1, len(names) + 1))


def draw(area: Any, plane: NDArray[np.uint32], number: int) -> bool:
    """Label the pixels whose centres lie in an area; return whether there are any."""
    starts = [max(math.floor(least), 0) for least in area.bounds[:2]]
    stops = [*map(min, map(math.ceil, area.bounds[2:]), plane.shape[::-1])]
    columns, rows = map(slice, starts, map(max, starts, stops))
    y, x = np.mgrid[rows, columns] + 0.5
    shapely.prepare(area)
    inside = shapely.contains_xy(area, x, y)
    plane[rows, columns][inside] = number
    return bool(inside.any())


def imagej(path: Path) -> Iterator[Outline]:
    """Outlines of a `.roi` file or a set of them."""
    found = ImagejRoi.fromfile(path)
    for roi in found if isinstance(found, list) else [found]:
        if roi.roitype not in ENCLOSING or roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
            raise ValueError(f"{roi.name!r} is a {roi.roitype.name.lower()}, which has no area")
        # Areas of a path that lie in others are holes.
        rings = (ring for ring in roi.coordinates(multi=True) if len(ring) > 2)
        areas = (polygonal(shapely.Polygon(ring)) for ring in rings)
        area = reduce(shapely.symmetric_difference, areas, shapely.Polygon())
        yield Outline(roi.name, max((roi.z_position or roi.position) - 1, 0), area)


def geojson(path: Path) -> Iterator[Outline]:
    """Outlines of a feature, a list or a collection of them."""
    found = json.loads(path.read_text(encoding="utf-8"))
    features = found.get("features", [found]) if isinstance(found, dict) else found
    for feature in features:
        geometry = feature["geometry"]
        name = str((feature.get("properties") or {}).get("name") or "")
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            raise ValueError(f"{name!r} is a {geometry['type']}, which has no area")
        plane = geometry.get("plane", {}).get("z", 0)
        yield Outline(name, plane, polygonal(shape(geometry)))


def polygonal(area: Any) -> Any:
    """Return an area whose outline may cross or touch itself as polygons that do not."""
    return shapely.make_valid(area, method="structure", keep_collapsed=False)


# --------------------------------------------------------------------------------- labels out


def write_outlines(instances: Image, path: Path, kind: str) -> None:
    """Write the outlines of each object in each plane, named by its id; a plane is in memory.

    Parameters
    ----------
    path : Path
        Complete or absent, without its ending, `.zip` or `.geojson`.
    kind : str
        "fiji" or "qupath".
    """
    with replacing(path.with_name(f"{path.name}.{WRITTEN[kind]}")) as partial:
        if kind == "fiji":
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as file:
                for outline in outlines_of(instances):
                    plane = f"{outline.plane:04d}-" if "z" in instances.axes else ""
                    file.writestr(f"{plane}{outline.name}.roi", as_roi(outline).tobytes())
        else:
            with partial.open("w", encoding="utf-8") as file:
                file.write('{"type": "FeatureCollection", "features": [')
                for number, outline in enumerate(outlines_of(instances)):
                    file.write((",\n" if number else "\n") + json.dumps(as_feature(outline)))
                file.write("\n]}\n")


def outlines_of(instances: Image) -> Iterator[Outline]:
    """Outlines of an image's objects, plane by plane."""
    for number, index in enumerate(instances.planes()):
        plane = np.asarray(instances.array[index])
        names = np.union1d(np.zeros(1, plane.dtype), plane)
        labels = np.searchsorted(names, plane)
        for label, box in enumerate(find_objects(labels), start=1):
            yield Outline(str(names[label]), number, area_of(labels[box] == label, box))


def area_of(mask: NDArray[np.bool_], box: tuple[slice, slice]) -> Any:
    """Return the area of an object's pixels, in whose box a mask is, turned one way."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (rows, starts), (_, stops) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    top, left = (part.start for part in box)
    runs = shapely.box(left + starts, top + rows, left + stops, top + rows + 1)
    # Points on straight edges go; holes turn the other way, as all rules of winding want them.
    return shapely.orient_polygons(shapely.simplify(shapely.union_all(runs), 0))


def as_roi(outline: Outline) -> ImagejRoi:
    """Return ImageJ's region: a traced polygon, or a path where it has holes or several pieces."""
    rings = [
        np.asarray(ring.coords[:-1], np.int32)
        for part in shapely.get_parts(outline.area)
        for ring in (part.exterior, *part.interiors)
    ]
    if len(rings) == 1:
        roi = ImagejRoi.frompoints(rings[0], name=outline.name, position=outline.plane)
        roi.roitype = ROI_TYPE.TRACED
        return roi
    path = [
        number
        for ring in rings
        for step, point in enumerate(ring.tolist())
        for number in (LINE if step else MOVE, *point, *([CLOSE] if step == len(ring) - 1 else []))
    ]
    roi = ImagejRoi()
    roi.roitype, roi.name, roi.position = ROI_TYPE.RECT, outline.name, outline.plane + 1
    roi.left, roi.top, roi.right, roi.bottom = map(int, outline.area.bounds)
    roi.multi_coordinates, roi.shape_roi_size = np.array(path, np.float32), len(path)
    return roi


def as_feature(outline: Outline) -> dict[str, Any]:
    """Return QuPath's annotation, which can be corrected there and read again."""
    plane = {"c": -1, "z": outline.plane, "t": 0}
    return {
        "type": "Feature",
        "geometry": {**mapping(outline.area), "plane": plane},
        "properties": {"objectType": "annotation", "name": outline.name},
    }
