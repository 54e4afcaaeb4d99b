"""Pictures of the report and what lies over them, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib.image
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from skimage.segmentation import find_boundaries

from unetflow.store import NOT_ANNOTATED

# Of Okabe and Ito's palette, which all kinds of colour vision tell apart: what is true is blue,
# what is predicted is orange, in contours as in errors.
TRUE = (86, 180, 233)
PREDICTED = (230, 130, 0)
CONFUSED = (204, 121, 167)
DIVIDED = (240, 228, 66)
JOINED = (0, 158, 115)
VEIL = (128, 128, 128, 150)

LARGEST = 700
THUMBNAIL = 320


@dataclass
class Strip:
    """Panels that share one picture, which is stored once and shown under each overlay.

    Attributes
    ----------
    name : str
        Identifies the picture in the page.
    picture : str
        Data URI.
    height, width : int
        Of the picture as it is stored.
    panels : list of Panel
    """

    name: str
    picture: str
    height: int
    width: int
    panels: list[Panel] = field(default_factory=list)

    def add(
        self, title: str, overlay: NDArray[np.uint8] | None = None, picture: bool = True
    ) -> None:
        """Add a panel: the picture, with an overlay (rows, columns, RGBA), or the overlay alone."""
        uri = None if overlay is None else data_uri(overlay, exact=True)
        self.panels.append(Panel(title, picture, uri))


@dataclass(frozen=True)
class Panel:
    """One view of a strip's picture."""

    title: str
    picture: bool
    overlay: str | None


def data_uri(pixels: NDArray[np.uint8], exact: bool = False) -> str:
    """Return pixels (rows, columns, RGB or RGBA) as WebP, which is smaller where not `exact`."""
    buffer = io.BytesIO()
    options = {"lossless": True, "quality": 50} if exact else {"quality": 80}
    matplotlib.image.imsave(buffer, pixels, format="webp", pil_kwargs={**options, "method": 2})
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def factor(plane: NDArray[np.generic], largest: int = LARGEST) -> int:
    """Return the factor by which a plane is made smaller to be at most `largest` long."""
    return -(-int(max(plane.shape[-2:])) // largest)


def smaller(plane: NDArray[np.generic], by: int) -> NDArray[np.float32]:
    """Mean over squares of `by` pixels (..., rows, columns); the last ones may hold fewer."""
    values = plane.astype(np.float32)
    for axis in (-2, -1):
        starts = np.arange(0, values.shape[axis], by)
        sizes = np.diff(np.append(starts, values.shape[axis])).astype(np.float32)
        sums: NDArray[np.float32] = np.add.reduceat(values, starts, axis=axis)
        values = sums / (sizes[:, None] if axis == -2 else sizes)
    return values


def grey(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey values as RGB; 0.5 % of the pixels are left black, 0.5 % white."""
    low, high = np.percentile(plane, (0.5, 99.5))
    scaled = (plane - low) / max(float(high - low), 1e-12)
    values = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return np.repeat(values[..., None], 3, axis=-1)


def strip(name: str, plane: NDArray[np.generic], by: int) -> Strip:
    """Return a strip without panels of a grey plane, made smaller by a factor."""
    pixels = grey(smaller(plane, by))
    return Strip(name, data_uri(pixels), *pixels.shape[:2])


def shades(
    values: NDArray[np.float32],
    levels: Sequence[tuple[float, float]],
    chosen: Sequence[int],
    by: int,
) -> NDArray[np.uint8]:
    """Picture (rows, columns, RGB) of values (channels, rows, columns).

    Parameters
    ----------
    levels : sequence of (float, float)
        Of each channel what is black and what is white.
    chosen : sequence of int
        Channels that are shown as red, green and blue, or one that is grey.
    """
    planes = []
    for channel in chosen:
        low, high = levels[channel]
        scaled = (smaller(values[channel], by) - low) / max(high - low, 1e-12)
        planes.append(np.rint(255 * np.clip(np.nan_to_num(scaled), 0, 1)).astype(np.uint8))
    return np.stack(planes * (3 // len(planes)), axis=-1)


def opaque(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Overlay of a picture that hides what is below it."""
    return np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])


def contours(
    labels: NDArray[np.generic], by: int, colour: tuple[int, int, int], ignored: bool = False
) -> NDArray[np.uint8]:
    """Overlay of the borders of labels; what is `ignored` (class 255) lies under a grey veil."""
    coarse = labels[::by, ::by]
    overlay = np.zeros((*coarse.shape, 4), np.uint8)
    overlay[find_boundaries(coarse, mode="thick", connectivity=1)] = (*colour, 255)
    if ignored:
        overlay[coarse == NOT_ANNOTATED] = VEIL
    return overlay


def errors(
    truth: NDArray[np.integer], foreground: NDArray[np.float32], by: int
) -> NDArray[np.uint8]:
    """Overlay of the pixels that are given the wrong class.

    Orange: foreground where there is none; blue: foreground that is missed; purple: one foreground
    class for another; a grey veil where nothing is annotated.

    Parameters
    ----------
    truth : array (rows, columns)
        Classes.
    foreground : float array (classes - 1, rows, columns)
        Predicted probabilities.
    """
    truth, foreground = truth[::by, ::by], foreground[:, ::by, ::by]
    background = 1 - foreground.sum(axis=0, keepdims=True)
    predicted = np.concatenate([background, foreground]).argmax(axis=0)
    overlay = np.zeros((*truth.shape, 4), np.uint8)
    overlay[(predicted != truth) & (truth > 0)] = (*CONFUSED, 200)
    overlay[(predicted > 0) & (truth == 0)] = (*PREDICTED, 230)
    overlay[(predicted == 0) & (truth > 0)] = (*TRUE, 230)
    overlay[truth == NOT_ANNOTATED] = VEIL
    return overlay


def outlines(
    labels: NDArray[np.integer],
    chosen: NDArray[np.integer],
    by: int,
    colour: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Overlay of the broad borders of the labels that are chosen, drawn inside them."""
    coarse = np.where(np.isin(labels, chosen), labels, 0)[::by, ::by]
    inside = find_boundaries(coarse, mode="inner", connectivity=2)
    broad = binary_dilation(inside, iterations=2) & (coarse > 0)
    overlay = np.zeros((*coarse.shape, 4), np.uint8)
    overlay[broad] = (*colour, 255)
    return overlay


def above(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Overlay of two: the upper one where it shows anything, else the lower one."""
    return np.where(upper[..., 3:] > 0, upper, lower)


def heat(values: NDArray[np.generic], by: int, low: float, high: float) -> NDArray[np.uint8]:
    """Values as colours of viridis, in 64 steps."""
    scaled = (smaller(values, by) - low) / max(high - low, 1e-12)
    steps = np.rint(63 * np.clip(np.nan_to_num(scaled), 0, 1)) / 63
    return np.asarray(matplotlib.colormaps["viridis"](steps, bytes=True))


def framed(
    overlay: NDArray[np.uint8], shape: Sequence[int], colour: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Overlay put into the middle of a larger one, inside a frame."""
    rows, columns = overlay.shape[:2]
    top, left = (shape[0] - rows) // 2, (shape[1] - columns) // 2
    result = np.zeros((*shape, 4), np.uint8)
    result[max(top - 2, 0) : top + rows + 2, max(left - 2, 0) : left + columns + 2] = (*colour, 255)
    result[top : top + rows, left : left + columns] = overlay
    return result
