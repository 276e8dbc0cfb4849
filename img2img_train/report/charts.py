"""Line charts of a report: losses, scores and learning rate, of one run or of several.

The page holds the points; ``chart.js`` draws axes and lines, and draws them again when a control
changes. Without a script the lines are there, and the extremes of both axes.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from img2img_train.runs.folder import iter_steps, read_log

Points: TypeAlias = Sequence[tuple[float, float]]

WIDTH: Final = 520
HEIGHT: Final = 240
"""The box of the lines in pixels, without the labels of the axes."""
LOG_RATIO: Final = 20
"""A chart whose values span more than this factor has a logarithmic axis at first."""
MAX_POINTS: Final = 500
"""Points of a line; of more, neighbors are averaged."""
COLORS: Final = 6
"""Colors of the style; the next lines have the same ones, dashed."""
SCORES: Final = {"psnr": ("Validation PSNR", "dB"), "cycle_mae": ("Validation cycle MAE", "levels")}
INPUT: Final = "input"
TRAINING: Final = "training pairs"
LABELS: Final = {"": "model", "_train": TRAINING, "_input": INPUT}


def build_charts(runs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return the charts for which the logs of runs, by name, have values, for ``chart.html``.

    Losses and learning rate are by step, scores by epoch. The lines of one run share a chart and
    are named by loss; of several runs each loss has a chart, and a line is named by its run.
    """
    charts: dict[tuple[str, str], dict[str, Any]] = {}
    several = len(runs) > 1
    for number, (run, path) in enumerate(runs.items()):
        for title, name, unit, across, points in _lines(path):
            # A chart of several runs has one line of each, and that of the input.
            if several and name == TRAINING:
                continue
            dashed = name in (TRAINING, INPUT)
            title = f"{title}: {name}" if several and title == "Loss" else title
            about = {"title": title, "unit": unit, "across": across}
            lines = charts.setdefault((title, across), {**about, "lines": []})["lines"]
            label = (f"{name} of {run}" if dashed else run) if several else name
            color = number if several else COLORS - 1 if name == INPUT else len(lines)
            # Runs on one corpus have one input baseline.
            known = [line["points"][-1][1] for line in lines if several and line["dashed"]]
            if not (dashed and points[-1][1] in known):
                line = {"label": label, "color": color % COLORS, "dashed": dashed}
                lines.append({**line, "broken": color >= COLORS, "points": points})
    for chart in charts.values():
        inputs = [line for line in chart["lines"] if line["dashed"]]
        if several and len(inputs) == 1:
            inputs[0].update(label=INPUT, color=COLORS - 1)
        _draw(chart)
    return sorted(charts.values(), key=lambda chart: not chart["title"].startswith("Loss"))


def _lines(run: Path) -> Iterator[tuple[str, str, str, str, Points]]:
    """Yield title of the chart, name, unit, axis and points of each line of a run."""
    log, rate = read_log(run), "learning rate"
    steps = _points((row["step"], row["losses"] | {rate: row.get("lr")}) for row in iter_steps(run))
    epochs = _points((row["epoch"], row["losses"]) for row in log if row["kind"] == "train")
    # A run that ended within an epoch and was continued has validated there twice: the last counts.
    scores = _points({row["epoch"]: row for row in log if row["kind"] == "validation"}.items())
    for name, points in (steps or epochs).items():
        if name != rate:
            yield "Loss", name, "", "step" if steps else "epoch", points
    for key, (title, unit) in SCORES.items():
        for suffix, label in LABELS.items():
            if key + suffix in scores:
                yield title, label, unit, "epoch", scores[key + suffix]
    if rate in steps:
        yield "Learning rate", rate, "", "step", steps[rate]


def _points(rows: Iterable[tuple[float, Mapping[str, Any]]]) -> dict[str, Points]:
    """Return the line of each name in rows: a point is (x, mean of its finite values there)."""
    # Only numbers are kept: a run may have a million steps.
    found: dict[str, array[float]] = {}
    for x, values in rows:
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                found.setdefault(name, array("d")).extend((x, value))
    points = {}
    for name, both in found.items():
        xs, ys = np.reshape(both, (-1, 2)).T
        places, at = np.unique(xs, return_inverse=True)
        points[name] = thin(np.column_stack((places, np.bincount(at, ys) / np.bincount(at))))
    return points


def thin(points: npt.ArrayLike) -> Points:
    """Return at most MAX_POINTS points, each the mean of as many neighbors."""
    points = np.asarray(points)
    size = -(-len(points) // MAX_POINTS) or 1
    means = (points[at : at + size].mean(axis=0) for at in range(0, len(points), size))
    return [(float(f"{x:.7g}"), float(f"{y:.5g}")) for x, y in means]


def _draw(chart: dict[str, Any]) -> None:
    """Add the scale, the extremes of the axes, a path for SVG per line, and ``data`` as JSON."""
    lines = chart["lines"] = sorted(chart["lines"], key=lambda line: line["dashed"])
    xs, ys = zip(*(point for line in lines for point in line["points"]), strict=True)
    # A loss that falls by orders of magnitude is a flat line on a linear axis.
    chart["log"] = (
        chart["title"].startswith("Loss") and min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO
    )
    chart["data"] = json.dumps(chart, separators=(",", ":"))
    scale = math.log10 if chart["log"] else float
    left, low = min(xs), scale(min(ys))
    wide, high = (max(xs) - left) or 1, (scale(max(ys)) - low) or 1
    for line in lines:
        shares = (((x - left) / wide, 1 - (scale(y) - low) / high) for x, y in line["points"])
        line["path"] = "M" + "L".join(f"{x * WIDTH:.1f} {y * HEIGHT:.1f}" for x, y in shares)
        line["value"] = f"{line['points'][-1][1]:.4g}"
    extremes = (f"{value:g}" for value in (min(xs), max(xs), min(ys), max(ys)))
    chart |= {"width": WIDTH, "height": HEIGHT, "extremes": list(extremes)}
