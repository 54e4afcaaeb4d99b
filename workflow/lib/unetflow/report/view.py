"""Volumes of archives in neuroglancer: the image, its prediction and its instances as layers."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetflow import axes as axis_rules
from unetflow.predicted import foreground, holds_values
from unetflow.progress import logger
from unetflow.report import sources
from unetflow.report.sources import facts
from unetflow.store import Image, Pixels, open_image
from unetflow.volumes import choice_of, open_volume

LOOPBACK = "127.0.0.1"
MOST = 20
NAMED = 5
# What the client draws, and what stands for the other types of numbers
DRAWN = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32")
LIKELY = "void main() { emitRGBA(vec4(1.0, 0.25, 0.5, 0.7 * clamp(getDataValue(), 0.0, 1.0))); }"


def view(results: Path, archives: Mapping[str, Sequence[str]], wanted: str, port: int) -> None:
    """Serve volumes to a browser on this machine until it is interrupted, and print where.

    Parameters
    ----------
    archives : mapping
        Volumes of each.
    wanted : str
        ARCHIVE/VOLUME, or ARCHIVE for all its volumes that are done; empty: those of all archives.
    port : int
        0 takes any that is free.

    Raises
    ------
    ValueError
        If neuroglancer is not installed, or there are no such volumes that are done.
    """
    volumes = volumes_to_view(results, archives, wanted)
    # Neuroglancer would have everything written to the terminal; its server's errors go to the log.
    logging.getLogger().addHandler(logging.NullHandler())
    for handler in logger.handlers:
        logging.getLogger("tornado").addHandler(handler)
    # Under `make` this process alone is interrupted, so that nothing else has to end in a hurry.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with served(results, volumes, port) as addresses, suppress(KeyboardInterrupt):
        for (archive, volume), address in addresses.items():
            print(f"{archive}/{volume}: {address}", flush=True)
        print("open an address in a browser on this machine; Ctrl-C ends", flush=True)
        while True:
            time.sleep(3600)


def volumes_to_view(
    results: Path, archives: Mapping[str, Sequence[str]], wanted: str
) -> list[tuple[str, str]]:
    """Archive and name of each volume that is wanted, all of them done."""
    name, slash, only = wanted.partition("/")
    if name and name not in archives:
        raise ValueError(
            f"view must name an archive, or ARCHIVE/VOLUME: got {wanted!r}; choose one of "
            f"{named(archives)}"
        )
    if slash and only not in archives[name]:
        raise ValueError(
            f"view must name a volume of {name}: got {only!r}; choose one of "
            f"{named(archives[name])}"
        )
    chosen = [name] if name else [*archives]
    asked = [(of, volume) for of in chosen for volume in archives[of] if not only or volume == only]
    done = [it for it in asked if state_of(results, *it) == "done"]
    if not done:
        raise ValueError(
            f"a volume must be segmented to be viewed: none of {len(asked)} is; see `make status`, "
            "and run the workflow"
        )
    if len(done) > MOST:
        raise ValueError(
            f"at most {MOST} volumes are viewed at once: got {len(done)}; name one, as "
            f"VOLUME={'/'.join(done[0])}"
        )
    return done


def named(names: Sequence[str] | Mapping[str, object]) -> str:
    """Return the first of some names, for a message."""
    shown = ", ".join([*names][:NAMED]) or "none, there are no archives"
    return f"{shown}, and {len(names) - NAMED} more" if len(names) > NAMED else shown


def state_of(results: Path, archive: str, volume: str) -> str:
    """State of a volume, empty where it is not there yet."""
    return str(facts(results / "archives" / archive / volume / "summary.json").get("state", ""))


@contextmanager
def served(
    results: Path, volumes: Sequence[tuple[str, str]], port: int
) -> Iterator[dict[tuple[str, str], str]]:
    """Serve volumes on the loopback interface; gives the address of each.

    An address holds a secret, without which nothing is served: other users of the machine reach
    the loopback interface too.
    """
    try:
        import neuroglancer
        from tornado.web import StaticFileHandler
    except ImportError as error:
        raise ValueError(
            f"view needs neuroglancer: {error}; pip install 'unetflow[view]'"
        ) from error
    archives = results / "archives"
    neuroglancer.set_server_bind_address(LOOPBACK, port)
    neuroglancer.server.start()
    try:
        server = neuroglancer.server.global_server
        # One port for the pages and the files: through a tunnel there may be no other.
        below = {"path": str(archives.resolve())}
        server.app.add_handlers(".*", [(rf"/{server.token}/(.*)", StaticFileHandler, below)])
        viewers = {}
        for archive, volume in volumes:
            viewer = viewers[archive, volume] = neuroglancer.Viewer()
            row = facts(archives / archive / "plan.json")["volumes"][volume]
            url = f"{server.server_url}/{server.token}/{archive}/{volume}"
            add_layers(viewer, row, archives / archive / volume, url)
        yield {name: viewer.get_viewer_url() for name, viewer in viewers.items()}
    finally:
        neuroglancer.stop()


def add_layers(viewer: Any, row: Mapping[str, Any], folder: Path, url: str) -> None:
    """Add the layers of a volume to a viewer; what is not there any more is left out.

    Instances are read from their Zarr files by the browser, at the level that it needs. Grey values
    and probabilities come from here, since browsers read few formats and no 16-bit floats.

    Parameters
    ----------
    folder, url : Path, str
        Of the volume's results, and where they are served.
    """
    import neuroglancer

    with viewer.txn() as state:
        image = open_volume(row["path"], **choice_of(row))
        low, high = grey_range(image)
        state.layers["image"] = neuroglancer.ImageLayer(
            source=local_volume(image, Drawn(image.array)),
            shader_controls={"normalized": {"range": [low, high]}},
        )
        if (folder / "prediction.ome.zarr/zarr.json").is_file():
            prediction = open_image(folder / "prediction.ome.zarr")
            if holds_values(prediction):
                low, high = grey_range(prediction)
                state.layers["values"] = neuroglancer.ImageLayer(
                    source=local_volume(prediction, Drawn(prediction.array)),
                    shader_controls={"normalized": {"range": [low, high]}},
                )
            else:
                plain = replace(prediction, axes=axis_rules.spatial(prediction.axes))
                source = local_volume(plain, Foreground(prediction))
                state.layers["prediction"] = neuroglancer.ImageLayer(source=source, shader=LIKELY)
                state.layers["prediction"].visible = False
        if (folder / "segmentation.ome.zarr/zarr.json").is_file():
            state.layers["instances"] = neuroglancer.SegmentationLayer(
                source=f"zarr3://{url}/segmentation.ome.zarr/"
            )
        state.layout = "xy"
        # The first two are those of a picture on the screen.
        state.dimensions = space("".join(reversed(axis_rules.spatial(image.axes))), image)


def grey_range(image: Image) -> tuple[float, float]:
    """Grey values between which an image is shown, by the middle of its middle plane."""
    shape = image.spatial_shape
    lead = (0,) * (len(image.axes) - len(shape))
    plane = np.asarray(image.array[(*lead, *sources.middle(shape), *sources.window(shape))])
    low, high = np.percentile(plane.astype(np.float32), (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def local_volume(image: Image, pixels: Pixels) -> Any:
    """Return an array of an image as neuroglancer serves it."""
    import neuroglancer

    dimensions = space(image.axes, image)
    return neuroglancer.LocalVolume(data=pixels, dimensions=dimensions, volume_type="image")


def space(axes: str, image: Image) -> Any:
    """Axes of an image, with its voxel size, as neuroglancer names them."""
    import neuroglancer

    sizes = image.voxel_size_um
    return neuroglancer.CoordinateSpace(
        # An axis that ends in ' belongs to one layer, as those of channels do in Zarr images.
        names=[axis if axis in "zyx" else f"{axis}'" for axis in axes],
        units=["um" if axis in sizes else "" for axis in axes],
        scales=[sizes.get(axis, 1.0) for axis in axes],
    )


@dataclass(frozen=True)
class Drawn:
    """Pixels in a type of numbers that the client draws."""

    pixels: Pixels

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis."""
        return self.pixels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Theirs where it is drawn, else float32, for truth values uint8."""
        name = str(self.pixels.dtype)
        return np.dtype("uint8" if name == "bool" else name if name in DRAWN else "float32")

    def __getitem__(self, index: Any) -> NDArray[Any]:
        """Pixels of a region."""
        return np.asarray(self.pixels[index]).astype(self.dtype, copy=False)


@dataclass(frozen=True)
class Foreground:
    """Probability of not being background, whatever a prediction stores."""

    prediction: Image
    dtype = np.dtype("float32")

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the spatial axes."""
        return self.prediction.spatial_shape

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        """Probabilities of a region."""
        return foreground(self.prediction, index)
