"""Charts: what each draws, what papers get of it, and what the page shows without a pointer."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from unetflow.report import charts
from unetflow.report.vega import HOVER, Chart, charts_in, script

# Markup, an override of the writing direction that is never ended, and a character beyond 16 bits.
TEXT = "<script>alert(1)</script> \u202eabc & \U0001f52c"


def curve(**options: Any) -> Chart:
    lines = {"first": pd.Series([0.25, 0.75, 0.5], [10, 20, 30]), TEXT: pd.Series([0.5], [20])}
    return charts.curves("demo-curve", "Title", lines, "step", "loss", **options)


def distribution() -> Chart:
    scores = np.linspace(0.5, 0.9, 5)
    part = pd.DataFrame(
        {"image": list("abcde"), "value": scores, "place": ["", "best", "", "", ""]}
    )
    table = pd.concat([part.assign(score="Dice"), part.assign(score="V-Rand", place="")])
    return charts.distribution("demo-scores", "Title", table)


def intervals() -> Chart:
    row = {"difference": 0.1, "low": 0.05, "high": 0.2, "verdict": "better"}
    alone = {"difference": -0.1, "low": None, "high": None, "verdict": "undecided"}
    rows = [{"name": "other", **row}, {"name": "lonely", **alone}]
    return charts.intervals("demo-intervals", "Title", rows, "difference")


def trends() -> Chart:
    rows = [
        {"series": "deep", "over": 3, "mean": 0.5, "low": 0.4, "high": 0.6, "n": 3},
        {"series": "deep", "over": 100, "mean": 0.7, "low": 0.6, "high": 0.8, "n": 3},
        {"series": "flat", "over": 3, "mean": 0.3, "low": None, "high": None, "n": 1},
    ]
    return charts.trends("demo-trends", "Title", rows, "annotated planes", "IoU")


def bars(*names: str) -> Chart:
    rows = [
        {"stage": stage, "name": name, "value": 1.5}
        for stage in ("train", "fetch")
        for name in names
    ]
    return charts.bars("demo-bars", "Title", rows, "hours")


ALL = {
    "curves": (curve, ("step", "loss", "first")),
    "distribution": (distribution, ("Dice", "V-Rand", "best")),
    "intervals": (intervals, ("other", "lonely", "difference", "better")),
    "trends": (trends, ("deep", "flat", "annotated planes", "IoU", "3", "100")),
    "bars": (lambda: bars("one", "two"), ("train", "fetch", "hours", "one", "two")),
}


def text_in(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("kind", ALL)
def test_each_kind_of_chart_names_what_it_shows(kind: str) -> None:
    make, names = ALL[kind]
    text = text_in(make().svg)
    for name in names:
        assert name in text, (name, text)


@pytest.mark.parametrize("kind", ALL)
def test_papers_get_svg_in_black_and_pdf(kind: str, tmp_path: Path) -> None:
    chart = ALL[kind][0]()
    chart.save(tmp_path)
    svg = (tmp_path / f"{chart.name}.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "currentColor" not in svg
    assert "currentColor" in chart.svg
    assert (tmp_path / f"{chart.name}.pdf").read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ALL)
def test_charts_hold_no_reference_and_no_id_that_two_of_a_page_could_share(kind: str) -> None:
    svg = ALL[kind][0]().svg
    assert not re.findall(r'\b(?:id|href|src)="[^"]*"|url\(', svg)


def test_text_of_users_is_escaped_in_a_chart() -> None:
    html = curve(note=TEXT).__html__()
    assert html.count("<script") == 1  # of the specification
    specification = re.search(r'<script type="application/json">(.*?)</script>', html)
    assert specification is not None
    assert TEXT in {row["line"] for row in rows_in(json.loads(specification[1]))}
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \u202eabc &amp; \U0001f52c" in html


def rows_in(specification: dict[str, Any]) -> list[dict[str, Any]]:
    found = list(specification.get("datasets", {}).values())
    for layer in (specification, *specification.get("layer", [])):
        found.append(layer.get("data", {}).get("values", []))
    return [row for rows in found for row in rows]


def test_a_curve_leaves_out_what_is_not_finite() -> None:
    values = pd.Series([0.5, np.nan, np.inf, 0.25], [1, 2, 3, 4])
    specification = charts.curves("a", "A", {"run": values}, "step", "loss").specification
    assert {row["over"] for row in rows_in(specification)} == {1, 4}
    assert "NaN" not in json.dumps(specification)


def test_the_first_of_the_highest_values_of_each_curve_is_the_best() -> None:
    lines = {"a": pd.Series([0.1, 0.123456789, 0.12, 0.123456789]), "b": pd.Series([np.nan, 0.5])}
    rows = rows_in(charts.curves("a", "A", lines, "step", "Dice").specification)
    assert [(row["line"], row["over"]) for row in rows if row["best"]] == [("a", 1), ("b", 1)]


def test_points_for_the_pointer_are_in_the_live_chart_alone() -> None:
    chart = curve()
    names = [layer.get("name") for layer in chart.specification["layer"]]
    assert HOVER in names
    # A path for each line and for its sign in the legend, whatever the number of points.
    assert len(re.findall('<path[^>]*stroke="#', chart.svg)) == 4
    assert len(re.findall('<path[^>]*fill="#', chart.svg)) == 0


def test_an_eighth_curve_has_the_first_colour_in_other_dashes() -> None:
    lines = {str(number): pd.Series([1.0, 2.0]) for number in range(9)}
    svg = charts.curves("a", "A", lines, "step", "loss").svg
    drawn = re.findall(
        r'd="M0,[^"]*L[^"]*" stroke="(#\w+)"[^>]*?(?:stroke-dasharray="([^"]*)")', svg
    )
    assert len(set(drawn)) == 9
    assert [colour for colour, _ in drawn].count(charts.COLOURS[0]) == 2


def test_a_chart_without_parts_has_no_legend() -> None:
    assert "" not in text_in(bars("").svg)
    assert {"train", "fetch"} < set(text_in(bars("").svg))


def test_charts_are_found_wherever_they_lie() -> None:
    first, second = bars(""), intervals()
    content = {"a": [{"b": first}, "text", None], "c": (second, 1.5)}
    assert list(charts_in(content)) == [first, second]


def test_the_script_ends_no_element_and_imports_nothing() -> None:
    text = str(script())
    assert "</script" not in text.lower()
    assert not re.search(r"^import\b|\bimport\s*\(|@import", text, re.MULTILINE)
