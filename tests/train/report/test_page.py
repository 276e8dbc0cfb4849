"""Charts of a report."""

from __future__ import annotations

import pytest

from img2img_train.report.page import Series, draw_chart

LINES = {
    "one point": [(1.0, 3.0)],
    "flat": [(1.0, 0.0), (2.0, 0.0)],
    "falling far": [(1.0, 1.0), (2.0, 1e-3), (3.0, 2e-6)],
    "below zero": [(0.0, -4.0), (10.0, 1.0)],
    "thousands": [(float(epoch), 1000.0 + epoch) for epoch in range(500)],
}


@pytest.mark.parametrize("name", LINES)
def test_charts_keep_lines_and_ticks_inside(name: str) -> None:
    chart = draw_chart("t", "", [Series("line", LINES[name]), Series("none", [])])
    (line,) = chart["lines"]
    numbers = [float(part) for part in line["path"].replace("M", "").replace("L", " ").split()]
    assert all(0 <= x <= chart["width"] for x in numbers[::2])
    assert all(0 <= y <= chart["height"] for y in numbers[1::2])
    assert 2 <= len(chart["y_ticks"]) <= 9
    assert len({label for _, label in chart["y_ticks"]}) == len(chart["y_ticks"])
