"""Charts of the report: curves, scores of images, differences, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from unetflow.report.vega import CONFIG, HOVER, INK, Chart

# Okabe and Ito's palette, which all kinds of colour vision tell apart, those first that stand out
# on white as on black; then the same again in other dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#888888")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
GREY = "#888888"

# A phone shows it at this size, wider windows a little larger.
WIDTH, HEIGHT = 360, 230
TICKS = alt.Axis(tickCount=5)


def curves(
    name: str,
    title: str,
    lines: Mapping[str, pd.Series[float]],
    over: str,
    of: str,
    *,
    note: str = "",
    steps: bool = False,
    zero: bool = True,
    dots: bool = False,
    best: bool = False,
    lowest: bool = False,
    shares: bool = False,
    diagonal: bool = False,
) -> Chart:
    """Return curves as a chart.

    Parameters
    ----------
    lines : mapping of legend to values, whose index is what they are over
    over, of : str
        What the axes are.
    steps : bool
        Whether a value holds back to the one before, instead of a line between them.
    zero : bool
        Whether the second axis begins at 0.
    dots, best : bool
        Whether each value has a dot, and the highest of a curve a larger one; or the `lowest`.
    shares, diagonal : bool
        Whether both axes are from 0 to 1, and whether a line shows where they are equal.
    """
    rows = [row for line, values in lines.items() for row in points(line, values, lowest)]
    ends = [0, 1] if shares else alt.Undefined
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("over:Q", title=over, scale=alt.Scale(domain=ends, nice=False), axis=TICKS),
        y=alt.Y("value:Q", title=of, scale=alt.Scale(domain=ends, zero=zero)),
        color=alt.Color(
            "line:N",
            scale=cycle(list(lines), COLOURS, 1),
            legend=alt.Legend(symbolType="stroke"),
        ),
        tooltip=[
            alt.Tooltip("line:N", title="curve"),
            alt.Tooltip("over:Q", title=over),
            alt.Tooltip("value:Q", title=of),
        ],
    )
    chosen = alt.selection_point(fields=["line"], bind="legend")
    faint = alt.when(chosen).then(alt.value(1)).otherwise(alt.value(0.12))
    drawn = base.mark_line(
        strokeWidth=1.8, interpolate="step-before" if steps else "linear"
    ).encode(
        order="at:Q",
        opacity=faint,
        strokeDash=alt.StrokeDash("line:N", scale=cycle(list(lines), DASHES, len(COLOURS))),
    )
    layers = [drawn.add_params(chosen)]
    if dots:
        large = alt.value(110 if best else 22)
        size = alt.when("datum.best").then(large).otherwise(alt.value(22))
        layers.append(base.mark_circle(opacity=1).encode(size=size, opacity=faint))
    else:
        layers.append(base.mark_circle(opacity=0, size=60).properties(name=HOVER))
    if diagonal:
        corners = [{"over": 0, "value": 0}, {"over": 1, "value": 1}]
        rule = alt.Chart(alt.InlineData(values=corners)).mark_line(
            color=GREY, strokeDash=[2, 3], strokeWidth=1
        )
        layers.insert(0, rule.encode(x="over:Q", y="value:Q"))
    return finished(name, title, note, alt.layer(*layers))


def points(line: str, values: pd.Series[float], lowest: bool = False) -> list[dict[str, Any]]:
    """Return the points of a curve that are finite, and which is the (first) highest or lowest."""
    finite = values[np.isfinite(values)]
    best = int(finite.argmin() if lowest else finite.argmax()) if len(finite) else 0
    return [
        {"line": line, "at": at, "over": rounded(x), "value": rounded(y), "best": at == best}
        for at, (x, y) in enumerate(finite.items())
    ]


def distribution(name: str, title: str, table: pd.DataFrame, note: str = "") -> Chart:
    """Return a row of dots per score, one for each image, and a line at their median.

    Parameters
    ----------
    table : DataFrame
        Columns `score`, `image`, `value`, `place`: "best", "median" and "worst" stand out, "" not.
    """
    places = ("best", "median", "worst")
    rows: list[dict[str, Any]] = [
        # Steps of the golden ratio keep neighbours apart, the same way each time.
        {
            **{str(key): of for key, of in row.items()},
            "value": rounded(row["value"]),
            "height": round(at * 0.618034 % 1, 3),
        }
        for at, row in enumerate(table.to_dict("records"))
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("value:Q", title=None, axis=TICKS, scale=alt.Scale(zero=False))
    )
    dots = base.encode(
        y=alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[-0.15, 1.15])),
        # What is titled "image" would be taken for the address of one.
        tooltip=[
            alt.Tooltip("image:N", title="test image"),
            alt.Tooltip("value:Q", title="score"),
            alt.Tooltip("place:N"),
        ],
    )
    plain = dots.transform_filter("datum.place === ''")
    marked = dots.transform_filter("datum.place !== ''").encode(
        color=alt.Color("place:N", scale=cycle(places, COLOURS, 1), legend=alt.Legend(columns=3)),
        shape=alt.Shape(
            "place:N",
            scale=alt.Scale(domain=places, range=["triangle-up", "diamond", "triangle-down"]),
        ),
    )
    layered = alt.layer(
        base.mark_tick(thickness=2, height=44, color=INK, opacity=0.8).encode(x="median(value):Q"),
        plain.mark_circle(size=24, color=GREY, opacity=0.75),
        marked.mark_point(size=75, filled=True, opacity=1),
    ).properties(width=WIDTH - 20, height=44)
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start")
    scores = list(dict.fromkeys(table["score"]))
    faceted = layered.facet(row=alt.Row("score:N", sort=scores, header=header), spacing=14)
    return finished(name, title, note, faceted.resolve_scale(x="independent"))


def intervals(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], of: str, note: str = ""
) -> Chart:
    """Return differences from 0 with their intervals, one below the other.

    Parameters
    ----------
    rows : sequence of mappings
        `name`, `difference`, `low`, `high` (either None without an interval), and `verdict`:
        "better", "worse" or "undecided".
    """
    verdicts = ("better", "worse", "undecided")
    colours = (COLOURS[0], COLOURS[1], GREY)
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        y=alt.Y("name:N", title=None, sort=None, axis=alt.Axis(labelLimit=170, ticks=False)),
        color=alt.Color(
            "verdict:N",
            scale=alt.Scale(domain=verdicts, range=colours),
            legend=alt.Legend(columns=3),
        ),
        tooltip=["name:N", "difference:Q", "low:Q", "high:Q", "verdict:N"],
    )
    zero = alt.Chart(alt.InlineData(values=[{"at": 0}])).mark_rule(color=INK, strokeDash=[2, 3])
    x = alt.X("low:Q", title=of, axis=TICKS)
    layers = alt.layer(
        zero.encode(x=alt.X("at:Q", title=of)),
        base.mark_rule(strokeWidth=2.5).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x="difference:Q",
            shape=alt.Shape(
                "verdict:N",
                scale=alt.Scale(domain=verdicts, range=["triangle-up", "triangle-down", "circle"]),
            ),
        ),
    )
    return finished(name, title, note, layers, height=70 + 24 * len(rows))


def trends(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], over: str, of: str, note: str = ""
) -> Chart:
    """Return means over a number on a logarithmic axis, with their intervals, a line per series.

    Parameters
    ----------
    rows : sequence of mappings
        `series`, `over` (above 0), `mean`, `low`, `high` (either None without an interval), and
        `n`, of how many the mean is.
    over, of : str
        What the axes are.
    """
    series = list(dict.fromkeys(row["series"] for row in rows))
    shown = [
        row | {key: rounded(row[key]) for key in ("mean", "low", "high") if row[key] is not None}
        for row in map(dict, rows)
    ]
    ticks = alt.Axis(values=sorted({row["over"] for row in rows}), format="~g", grid=False)
    base = alt.Chart(alt.InlineData(values=shown)).encode(
        x=alt.X(
            "over:Q", title=over, axis=ticks, scale=alt.Scale(type="log", nice=False, padding=14)
        ),
        color=alt.Color(
            "series:N",
            scale=cycle(series, COLOURS, 1),
            legend=alt.Legend(symbolType="stroke", symbolOpacity=1, columns=1),
        ),
        tooltip=["series:N", "over:Q", "mean:Q", "low:Q", "high:Q", "n:Q"],
    )
    y = alt.Y("mean:Q", title=of, axis=TICKS, scale=alt.Scale(zero=False))
    layers = alt.layer(
        base.mark_line(strokeWidth=1.8).encode(
            y=y, strokeDash=alt.StrokeDash("series:N", scale=cycle(series, DASHES, len(COLOURS)))
        ),
        base.mark_rule(strokeWidth=5, opacity=0.35).encode(y=alt.Y("low:Q", title=of), y2="high:Q"),
        base.mark_circle(size=40, opacity=1).encode(y=y),
    )
    return finished(name, title, note, layers, height=HEIGHT + 18 * len(series))


def bars(
    name: str, title: str, rows: Sequence[Mapping[str, Any]], over: str, note: str = ""
) -> Chart:
    """Return a bar per stage, made of the parts that bear its name.

    Parameters
    ----------
    rows : sequence of mappings
        `stage`, `name` ("" where stages have no parts) and `value`.
    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    legend = None if names == [""] else alt.Legend()
    base = alt.Chart(alt.InlineData(values=[dict(row) for row in rows])).encode(
        x=alt.X("sum(value):Q", title=over, axis=TICKS),
        y=alt.Y("stage:N", title=None, sort=None, axis=alt.Axis(ticks=False)),
        color=alt.Color("name:N", scale=cycle(names, COLOURS, 1), legend=legend),
        tooltip=["stage:N", "name:N", alt.Tooltip("sum(value):Q", title=over, format=".3~r")],
    )
    stages = len({row["stage"] for row in rows})
    return finished(name, title, note, base.mark_bar(height=13), height=70 + 22 * stages)


def finished(name: str, title: str, note: str, chart: Any, height: int = HEIGHT) -> Chart:
    """Return an Altair chart in the report's style; single views are as wide as others."""
    if not isinstance(chart, alt.FacetChart):
        fit = alt.AutoSizeParams(type="fit", contains="padding")
        chart = chart.properties(width=WIDTH, height=height, autosize=fit)
    return Chart(name, title, note, {**chart.to_dict(), "config": CONFIG})


def cycle(names: Sequence[str], values: Sequence[Any], each: int) -> alt.Scale:
    """Return a scale that gives each so many names the next value, and begins again at the end."""
    shown = [values[at // each % len(values)] for at in range(len(names))]
    return alt.Scale(domain=list(names), range=shown)


def rounded(value: Any) -> float:
    """Return a number in five digits; a chart shows no more."""
    return float(f"{value:.5g}")
