"""OME-Zarr images of versions 0.4 and 0.5, plain Zarr arrays, and the images of plates and wells.

References
----------
.. [1] OME-NGFF 0.4, https://ngff.openmicroscopy.org/0.4/
.. [2] OME-NGFF 0.5, https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import fsspec
import zarr

from unetflow.formats.source import (
    Source,
    axes_by_number,
    index_of,
    known,
    micrometres,
    only,
    readable,
    whole,
)

KIND = "OME-Zarr image (0.4 or 0.5) or Zarr array"
AXIS_LETTERS = {"time": "t", "channel": "c"}
LAYOUT = "bioformats2raw.layout"


def open_source(place: str, scene: str, level: str) -> Source:
    """Return an image of a folder or URL.

    Parameters
    ----------
    scene : str
        Index or name among the multiscale images of a group, or the series that bioformats2raw
        wrote into it; may be empty where there is one.
    level : str
        Index in the pyramid; empty: 0, the full resolution.

    Raises
    ------
    ValueError
        If there is no such image, or no such scene or level.
    """
    with readable(place, KIND):
        node = zarr.open(place, mode="r")
    if isinstance(node, zarr.Array):
        whole(place, scene, level)
        return plain(place, node)
    facts = metadata(node.attrs)
    if "plate" in facts or "well" in facts:
        raise ValueError(
            f"{place}: a volume must be an image: found a plate or well of {len(images_in(place))} "
            "images; name one of them"
        )
    if LAYOUT in facts:
        with readable(place, KIND):
            series = series_of(node)
            if not series:
                raise ValueError("it lists no series")
        chosen = series[only(scene, "scene", len(series), place, series)]
        with readable(f"{place}/{chosen}", KIND):
            node = node[chosen]
            facts, scene = metadata(node.attrs), ""
    with readable(place, KIND):
        scales = facts["multiscales"]
        names = [str(scale.get("name", "")) for scale in scales]
        if not scales or not all(scale["datasets"] for scale in scales):
            raise ValueError("it lists no pixels")
    scale = scales[only(scene, "scene", len(scales), place, names)]
    levels = scale["datasets"]
    dataset = levels[index_of(level or "0", "level", len(levels), place)]
    with readable(place, KIND):
        channels = [str(it.get("label", "")) for it in facts.get("omero", {}).get("channels", ())]
        axes, sizes = axes_and_sizes(scale, dataset)
        array: Any = node[dataset["path"]]
        if len(array.shape) != len(axes):
            raise ValueError(f"{len(axes)} axes {axes!r} do not fit {len(array.shape)} extents")
    return Source(array, axes, sizes, channels)


def metadata(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """OME metadata among the attributes of a group: under `ome` from 0.5 on."""
    found: Any = attributes.get("ome", attributes)
    return found if isinstance(found, Mapping) else {}


def axes_and_sizes(
    scale: Mapping[str, Any], dataset: Mapping[str, Any]
) -> tuple[str, dict[str, float]]:
    """Axes of a multiscale image, and the voxel size in micrometres of one of its levels."""
    axes = "".join(axis["name"].lower() for axis in scale["axes"])
    factors = [1.0] * len(axes)
    # The transformations of the level come first, then those that all levels share.
    for step in [
        *dataset["coordinateTransformations"],
        *scale.get("coordinateTransformations", ()),
    ]:
        if step["type"] == "scale":
            factors = [a * b for a, b in zip(factors, step["scale"], strict=True)]
    described = zip(axes, scale["axes"], factors, strict=True)
    sizes = {name: micrometres(by, axis.get("unit")) for name, axis, by in described}
    return axes, known({name: size for name, size in sizes.items() if name in "zyx"})


def plain(place: str, array: zarr.Array[Any]) -> Source:
    """Return an array without OME metadata, whose dimensions may have names."""
    names: Any = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS")  # as xarray writes them in Zarr 2
    if not names or None in names:
        return Source(array, axes_by_number(place, array.shape))
    letters = [AXIS_LETTERS.get(name.lower(), name.lower()) for name in names]
    if any(len(letter) != 1 for letter in letters):
        raise ValueError(
            f"{place}: dimensions must have the names t, c, z, y, x or none: got {list(names)}; "
            "convert it to OME-Zarr"
        )
    return Source(array, "".join(letters))


def series_of(group: zarr.Group) -> list[str]:
    """Names of the images that bioformats2raw wrote into a group."""
    with suppress(KeyError):
        listed: Any = metadata(group["OME"].attrs).get("series")
        if listed:
            return [str(name) for name in listed]
    count = 0
    while str(count) in group:  # a web server lists no folder
        count += 1
    return [str(index) for index in range(count)]


def images_in(place: str) -> list[str]:
    """Paths of the images below a plate or well, such as "A/1/0"; empty for anything else.

    Reads the small metadata files alone, those of a plate's wells at once. A well without readable
    metadata is told by its own path, which cannot be opened as an image.
    """
    (facts,) = attributes([place])
    try:
        if "plate" in facts:
            wells = [str(well["path"]).strip("/") for well in facts["plate"]["wells"]]
            found = attributes([f"{place}/{well}" for well in wells])
            return [
                f"{well}/{image}".rstrip("/")
                for well, its in zip(wells, found, strict=True)
                for image in (images_of_well(its) if "well" in its else [""])
            ]
        return images_of_well(facts) if "well" in facts else []
    except (KeyError, TypeError, AttributeError):
        return []  # metadata of another form: opening it says so


def images_of_well(facts: Mapping[str, Any]) -> list[str]:
    """Paths of the images of a well."""
    return [str(image["path"]).strip("/") for image in facts["well"]["images"]]


def attributes(places: Sequence[str]) -> list[Mapping[str, Any]]:
    """OME metadata of several groups of one folder or server; empty where there are none."""
    facts: list[Mapping[str, Any]] = [{} for _ in places]
    with suppress(IndexError, ImportError, ValueError):  # no places; opening says the others
        system, _ = fsspec.url_to_fs(places[0])
        roots = [system._strip_protocol(place) for place in places]
        names = [f"{root}/{name}" for root in roots for name in ("zarr.json", ".zattrs")]
        found = system.cat(names, on_error="omit")
        facts = [metadata(parsed(found, root)) for root in roots]
    return facts


def parsed(files: Mapping[str, bytes], root: str) -> Mapping[str, Any]:
    """Attributes of a group, in its file of Zarr 3 or 2; empty where there is none."""
    content: Any = {}
    with suppress(ValueError):
        if f"{root}/zarr.json" in files:
            content = json.loads(files[f"{root}/zarr.json"]).get("attributes")
        elif f"{root}/.zattrs" in files:
            content = json.loads(files[f"{root}/.zattrs"])
    return content if isinstance(content, Mapping) else {}
