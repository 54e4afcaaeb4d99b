"""Pictures and curves of the report, as data URIs and inline SVG."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from unetflow.store import NOT_ANNOTATED

# Of Okabe and Ito's palette, which all kinds of colour vision tell apart: what is true is blue,
# what is predicted is orange, in contours as in errors.
TRUE = (86, 180, 233)
PREDICTED = (230, 130, 0)
CONFUSED = (204, 121, 167)
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#888888")
STYLES = ("-", "--", "-.", ":")
VEIL = (128, 128, 128, 150)

LARGEST = 700
THUMBNAIL = 320
# Matplotlib writes the colours of text and axes into each element; this one, which nothing else
# has, is replaced by the page's own, so that curves follow light and dark.
INK = "#010203"


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
        uri = None if overlay is None else data_uri(overlay, "png")
        self.panels.append(Panel(title, picture, uri))


@dataclass(frozen=True)
class Panel:
    """One view of a strip's picture."""

    title: str
    picture: bool
    overlay: str | None


def data_uri(pixels: NDArray[np.uint8], kind: str) -> str:
    """Return pixels (rows, columns, RGB or RGBA) as "webp" (small, lossy) or "png" (exact)."""
    buffer = io.BytesIO()
    options = {"quality": 80, "method": 4} if kind == "webp" else {"optimize": True}
    matplotlib.image.imsave(buffer, pixels, format=kind, pil_kwargs=options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


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
    return Strip(name, data_uri(pixels, "webp"), *pixels.shape[:2])


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


def smoothed(values: pd.Series[float]) -> pd.Series[float]:
    """Mean over the last fiftieth of all steps, thinned to some 300 points."""
    mean = values.rolling(max(1, len(values) // 50), min_periods=1).mean()
    return mean.iloc[:: max(1, len(mean) // 300)]


def curves(
    name: str, lines: Mapping[str, pd.Series[float]], label: str, marks: bool, over: str = "step"
) -> Markup:
    """Return curves, of one training step after the other or `over` else, as inline SVG.

    Parameters
    ----------
    name : str
        Made part of every id, so that the figures of a page do not share one.
    lines : mapping of legend to values, whose index is the step, or what they are over
    marks : bool
        Whether each value has a dot, and the highest a larger one.
    """

    def draw(axes: Axes) -> None:
        for number, (legend, values) in enumerate(lines.items()):
            colour = LINES[number % len(LINES)]
            line = STYLES[number // len(LINES) % len(STYLES)]
            marker = "o" if marks else ""
            axes.plot(values, line, color=colour, label=legend, lw=1.4, marker=marker, ms=2.5)
            if marks and values.notna().any():
                best = values[values == values.max()].iloc[:1]
                axes.plot(best, "o", color=colour, ms=6)
        axes.set_xlabel(over)
        axes.set_ylabel(label)
        if not marks:
            axes.set_ylim(bottom=0)

    return drawn(name, label, draw)


def shares(
    name: str, lines: Mapping[str, pd.Series[float]], over: str, label: str, diagonal: bool = False
) -> Markup:
    """Return curves of one share over another, both from 0 to 1, as inline SVG.

    Parameters
    ----------
    lines : mapping of legend to values, whose index is the share along the first axis
    over, label : str
        What the axes are.
    diagonal : bool
        Whether points have dots, and a line shows where the two are equal.
    """

    def draw(axes: Axes) -> None:
        if diagonal:
            axes.plot([0, 1], [0, 1], ":", color=LINES[-1], lw=1)
        for number, (legend, values) in enumerate(lines.items()):
            colour, marker = LINES[number % len(LINES)], "o" if diagonal else ""
            axes.plot(values, color=colour, label=legend, lw=1.4, marker=marker, ms=3)
        axes.set_xlabel(over)
        axes.set_ylabel(label)
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)

    return drawn(name, f"{label} over {over}", draw)


def drawn(name: str, label: str, draw: Callable[[Axes], None]) -> Markup:
    """Return a figure as inline SVG in the page's own colours.

    Parameters
    ----------
    label : str
        Told to those who do not see it.
    draw : callable
        Draws on the axes that it is given.
    """
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
        **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    }
    with rc_context(style):
        figure = Figure(figsize=(5.0, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.15, color="#888888")
        axes.legend(frameon=False, ncols=2, fontsize=8)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor").replace("xlink:", "")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # Its extents would keep it from shrinking on a phone; the viewBox stays.
    viewbox = re.search(r'viewBox="[^"]*"', svg)
    head = f'<svg class="curve" role="img" aria-label="{label}" {viewbox[0] if viewbox else ""}>'
    return Markup(head + svg[svg.index(">") + 1 :])
