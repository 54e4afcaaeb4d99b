"""The report: one self-contained HTML page, from what the results folder holds now."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from unetflow.progress import log
from unetflow.report.archive import archive_section
from unetflow.report.comparison import comparisons
from unetflow.report.costs import cost_section
from unetflow.report.experiment import experiment_section
from unetflow.report.vega import FIGURES, charts_in, script
from unetflow.store import replacing, write_text


def build(
    results: Path,
    experiments: Mapping[str, Any],
    makers: Mapping[str, Mapping[str, str]],
    datasets: Mapping[str, Any],
    archives: Sequence[str],
    template: Path,
    page: Path,
) -> None:
    """Write the page, complete or not at all, and its charts as figures; it says what is missing.

    It needs no other file and sends no request, so it can be mailed, archived and opened offline.
    The folder `figures` beside it has every chart as SVG and PDF.
    Nothing in the results folder is changed, so it may be built beside a running workflow.

    Parameters
    ----------
    experiments, datasets : mapping
        Settings by name, as plain data.
    makers : mapping
        For each experiment those that made its `weights` and its `patches`.
    archives : sequence of str
        Their names.
    template : Path
        Jinja template, beside those that it includes.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "duration": duration,
        "link": link,
        "relative": relative_to(page.parent),
    }
    content = {
        "experiments": [
            experiment_section(results, name, settings, datasets, makers[name])
            for name, settings in experiments.items()
        ],
        "comparisons": comparisons(results, experiments),
        "archives": [archive_section(results, name, 1 / len(archives)) for name in archives],
        "costs": cost_section(results),
    }
    drawn = list(charts_in(content))
    with replacing(page.parent / FIGURES) as folder:
        folder.mkdir()
        for chart in drawn:
            chart.save(folder)
    text = environment.get_template(template.name).render(
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        script=script() if drawn else "",
        **content,
    )
    write_text(page, text)
    log(f"{page}: {len(text.encode()) / 1e6:.1f} MB, {len(drawn)} charts")


def number(value: float | None) -> str:
    """Return a number in four digits, a dash where it is not defined.

    >>> number(0.94321), number(1234567), number(None)
    ('0.9432', '1,234,567', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.4g}"


def signed(value: float) -> str:
    """Return a difference in two digits with its sign.

    >>> signed(0.0123), signed(-0.0004)
    ('+0.012', '−0.0004')
    """
    return f"{value:+.2g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return seconds in the units that people use.

    >>> duration(3.21), duration(200), duration(7320)
    ('3.2 s', '3 min 20 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def link(reference: str) -> str | None:
    """Address of a DOI, an arXiv number or a web page; None for anything else.

    >>> link("10.1371/journal.pbio.1000502")
    'https://doi.org/10.1371/journal.pbio.1000502'
    >>> link("arXiv:1505.04597"), link("javascript:alert(1)")
    ('https://arxiv.org/abs/1505.04597', None)
    """
    if reference.startswith(("https://", "http://")):
        return reference
    if reference.startswith("10."):
        return f"https://doi.org/{quote(reference)}"
    number = reference.lower().removeprefix("arxiv:").strip()
    if number[:4].isdecimal() and number[4:5] == ".":
        return f"https://arxiv.org/abs/{quote(number)}"
    return None


def relative_to(folder: Path) -> Callable[[Path], str]:
    """Return the filter that turns a path into a link from the page's folder."""

    def relative(path: Path) -> str:
        return quote(Path(os.path.relpath(path, folder)).as_posix())

    return relative
