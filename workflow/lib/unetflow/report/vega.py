"""A chart as Vega-Lite: what the page shows of it, and what papers get.

The page shows it as SVG, which comes alive under a pointer where scripts run; papers get it as SVG
and PDF. Text and axes take the page's own colour, so that a chart follows light and dark.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import vl_convert
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from unetflow.store import replacing, write_text

FIGURES = "figures"
"""Folder of the files, beside the page."""

INK = "currentColor"
AXIS = {
    **{f"{part}Color": INK for part in ("domain", "tick", "label", "title", "grid")},
    **{"domainOpacity": 0.5, "tickOpacity": 0.5, "gridOpacity": 0.12},
    **{"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
    **{"labelFlush": False, "labelOverlap": "greedy", "labelSeparation": 8},
}
LEGEND = {
    **{"orient": "bottom", "columns": 2, "title": None, "columnPadding": 16, "rowPadding": 3},
    **{"labelColor": INK, "labelFontSize": 11, "labelLimit": 300},
    **{"symbolSize": 70, "symbolStrokeWidth": 2},
}
HEADER = {"labelColor": INK, "labelFontSize": 12, "labelPadding": 2, "labelLimit": 360}
CONFIG = {
    "background": None,
    # Fonts of the same widths, so that what was laid out with one fits in another.
    "font": "Arial, Helvetica, 'Liberation Sans', sans-serif",
    "view": {"stroke": None},
    "axis": AXIS,
    "legend": LEGEND,
    "header": HEADER,
    "aria": False,
}
HOVER = "hover"
"""Name of a layer of invisible points, which a pointer finds more easily than a line."""

SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const options = {actions: false, ast: true, renderer: "svg", tooltip: {theme: dark ? "dark" : ""}};
for (const chart of document.querySelectorAll(".chart")) {
  chart.addEventListener("pointerenter", async () => {
    const live = document.createElement("div");
    const specification = JSON.parse(chart.querySelector("script").textContent);
    await vegaEmbed(live, specification, options);
    live.className = "live";
    chart.querySelector(".still").after(live);
    chart.classList.add("alive");
  }, {once: true});
}
"""


@dataclass(frozen=True)
class Chart:
    """A chart that the page and papers show.

    Attributes
    ----------
    name : str
        Of its files, unique in a page.
    title, note : str
        What it shows, and how to read it.
    specification : dict
        Vega-Lite, with its data.
    """

    name: str
    title: str
    note: str
    specification: dict[str, Any]

    @cached_property
    def svg(self) -> str:
        """The chart without a pointer, its text and axes in `currentColor`."""
        layers = self.specification.get("layer")
        still = dict(self.specification)
        if layers:
            still["layer"] = [layer for layer in layers if layer.get("name") != HOVER]
        return str(vl_convert.vegalite_to_svg(still))

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.pdf, in black, into a folder."""
        svg = self.svg.replace(INK, "black")
        write_text(folder / f"{self.name}.svg", svg)
        with replacing(folder / f"{self.name}.pdf") as partial:
            partial.write_bytes(vl_convert.svg_to_pdf(svg))

    def __html__(self) -> str:
        """Return the figure, its caption and links to its files in the folder of figures."""
        files = " · ".join(
            f'<a class="source" href="{FIGURES}/{quote(self.name)}.{kind}">{kind.upper()}</a>'
            for kind in ("svg", "pdf")
        )
        kind = "chart tall" if "facet" in self.specification else "chart"
        return Markup(
            f'<figure class="{kind}"><h4>{escape(self.title)}</h4>'
            f'<div class="still" role="img" aria-label="{escape(self.title)}">{self.svg}</div>'
            f'<script type="application/json">{htmlsafe_json_dumps(self.specification)}</script>'
            f"<figcaption>{escape(self.note)} "
            f'<span class="files">{files}</span></figcaption></figure>'
        )


@cache
def script() -> Markup:
    """Return the script that makes the charts of a page alive: Vega, which asks for nothing."""
    bundle: str = vl_convert.javascript_bundle(SCRIPT)
    return Markup(bundle.replace("</script", r"<\/script"))


def charts_in(content: Any) -> Iterator[Chart]:
    """Yield the charts in nested mappings and sequences."""
    if isinstance(content, Chart):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from charts_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from charts_in(value)
