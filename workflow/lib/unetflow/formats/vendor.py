"""Files of microscope vendors, read with bioio and the plugin of the format."""

from __future__ import annotations

from unetflow.formats.source import (
    SAMPLES,
    Source,
    index_of,
    known,
    micrometres,
    only,
    readable,
)


def open_source(place: str, scene: str, level: str) -> Source:
    """Return a scene of a file for which bioio has a plugin.

    bioio gives five axes, tczyx, and colours as a sixth, and sizes in micrometres. A z axis of one
    plane is left out, and a channel axis beside colours.

    Parameters
    ----------
    scene : str
        Index or name; may be empty where there is one.
    level : str
        Index among bioio's resolution levels; empty: 0.

    Raises
    ------
    ValueError
        If bioio or the plugin is not installed, or if there is no such scene or level.
    """
    kind = f"{place.rpartition('.')[2].upper()} file"
    try:
        from bioio import BioImage
    except ImportError as error:
        extra = "czi" if place.lower().endswith(".czi") else "formats"
        raise ValueError(
            f"{place}: files of microscope vendors need bioio: found none; install "
            f"unetflow[{extra}]"
        ) from error
    with readable(place, kind):
        image = BioImage(place)
        scenes = list(image.scenes)
    image_scene = only(scene, "scene", len(scenes), place, scenes)
    with readable(place, kind):
        image.set_scene(image_scene)
        levels = len(image.resolution_levels)
    chosen = index_of(level or "0", "level", levels, place)
    with readable(place, kind):
        image.set_resolution_level(chosen)
        pixels, axes = image.dask_data, image.dims.order.lower()
        sizes = image.physical_pixel_sizes
        channels = [str(name) for name in image.channel_names or ()]
    for axis in "zc" if SAMPLES in axes else "z":
        if axis in axes and pixels.shape[axes.index(axis)] == 1:
            pixels, axes = pixels.squeeze(axes.index(axis)), axes.replace(axis, "")
    found = {axis: micrometres(getattr(sizes, axis.upper()), "um") for axis in "zyx"}
    return Source(pixels, axes.replace(SAMPLES, "c"), known(found), channels)
