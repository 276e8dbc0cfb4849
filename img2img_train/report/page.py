"""Pages that tell how good a run is: ``report.html`` of a run, and the page of a matrix of runs and corpora.

A page is whole in itself: images, style and script are inside, it opens from a file and asks the network
for nothing. The same run folder gives the same bytes. What a page says comes from the files of the run;
nothing is computed anew here.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

from img2img_data.core.errors import printable
from img2img_data.core.files import write_atomically
from img2img_train.config import CONFIG_FILE, RunConfig, read_page
from img2img_train.report.gallery import Card, album_of
from img2img_train.runs.folder import read_log, sample_paths

Point: TypeAlias = tuple[float, float]

SAMPLE_BYTES: Final = 1_300_000
SAMPLE_FRAMES: Final = 10
SAMPLE_SIDE: Final = 960
CHART_WIDTH: Final = 520
CHART_HEIGHT: Final = 280
LOG_FROM: Final = 20
"""A loss that spans more than this factor is drawn on a logarithmic axis."""


def write_run_report(run: Path) -> Path:
    """Write ``RUN/report.html`` from the run's settings, log, samples and evaluations; return its path.

    Raises CheckpointError when the folder holds no run.
    """
    page = read_page(run / CONFIG_FILE)
    log = read_log(run)
    config = RunConfig.load(run / CONFIG_FILE)
    evaluations = [_evaluation(path) for path in sorted((run / "evaluation").glob("*.json"))]
    metrics = evaluations[0]["protocol"]["metrics"] if evaluations else {}
    text = render(
        "run.html",
        {
            "name": printable(config.title),
            "columns": ", ".join(
                name.replace("_", " ") for name in config.objective.sample_columns
            ),
            "evaluations": evaluations,
            "album": album_of(
                [({"corpus": _place(saved)}, saved) for saved in evaluations], metrics
            ),
            "largest": largest_gains,
            "charts": _charts(log),
            "remarks": [row["text"] for row in log if row.get("kind") in {"warning", "stopped"}],
            "frames": list(_frames(sample_paths(run))),
            "settings": list(
                flat({**page.get("config", {}), "versions": page.get("versions", {})})
            ),
        },
    )
    return write_page(run / "report.html", text)


def write_matrix_page(
    payload: Mapping[str, Any], path: Path, galleries: Sequence[Sequence[Card]] = ()
) -> Path:
    """Write the page of a matrix, ``payload`` being the content of ``matrix.json``, and return its path.

    ``galleries`` are the cards of each cell (``gallery.cards``), none for a page without images.
    """
    columns = len(payload["corpora"])
    rows = [
        payload["cells"][start : start + columns]
        for start in range(0, len(payload["cells"]), columns)
    ]
    metrics = payload["protocol"]["metrics"]
    parts = [
        ({"run": cell["run"], "corpus": cell["corpus"]}, {**cell, "gallery": cards})
        for cell, cards in zip(payload["cells"], galleries, strict=False)
    ]
    text = render(
        "matrix.html",
        {
            "matrix": payload,
            "rows": rows,
            "largest": largest_gains(payload["cells"]),
            "tag_largest": largest_gains,
            "album": album_of(parts, metrics),
        },
    )
    return write_page(path, text)


def largest_gains(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the largest gain or loss of each metric over cells or slices; 1 where there is none."""
    names = parts[0]["gain"] if parts else ()
    return {name: max(abs(part["gain"][name]) for part in parts) or 1 for name in names}


def render_browser_page(title: str, about: str, runtime: bytes, wasm: bytes, model: bytes) -> str:
    """Return the page that runs a model (an ONNX file) by a runtime (a JavaScript module and its binary)."""
    inside = {
        name: b64encode(data).decode() for name, data in (("runtime", runtime), ("wasm", wasm))
    }
    inside["model"] = b64encode(model).decode()
    return render(
        "browser.html", {"title": printable(title), "about": about, "side": 256, **inside}
    )


# ------------------------------------------------------------------- parts of a run's page
def _evaluation(path: Path) -> dict[str, Any]:
    """Return an evaluation as it was saved; earlier versions knew no slices."""
    return {"slices": [], "notes": [], **json.loads(path.read_bytes())}


def _place(saved: Mapping[str, Any]) -> str:
    return f"{saved['corpus']}, {saved['split']}"


def _frames(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the sample grids: the first, the last and others evenly between, no larger than needed."""
    import cv2
    import numpy as np

    from img2img_data.images import io

    room = SAMPLE_BYTES
    steps = max(1, min(len(paths), SAMPLE_FRAMES) - 1)
    places = sorted(
        {round(i * (len(paths) - 1) / steps) for i in range(min(len(paths), SAMPLE_FRAMES))}
    )
    for place in places:
        pixels = io.read(paths[place]).pixels
        height, width = pixels.shape[:2]
        scale = min(1.0, SAMPLE_SIDE / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        if scale < 1:
            pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        webp = b64encode(io.encode(pixels, "webp", 82)).decode()
        room -= len(webp)
        if room < 0:
            return
        yield {
            "webp": webp,
            "label": _frame_label(paths[place]),
            "width": size[0],
            "height": size[1],
        }


def _frame_label(path: Path) -> str:
    """Return "epoch 5" for epoch-00005.png."""
    return re.sub(r"-0*(\d+)$", r" \1", printable(path.stem))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings as (dotted name, value) in the order of the file."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield (
                prefix + name,
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
            )


def _charts(log: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return the loss and the validation PSNR over the epochs, as far as the log holds them."""
    trained = [row for row in log if row.get("kind") == "train"]
    checked = [row for row in log if row.get("kind") == "validation"]
    losses = [Series(name, points) for name, points in _losses(trained).items()]
    losses += [
        Series(f"{name}, validation", points, "dashed") for name, points in _losses(checked).items()
    ]
    model = _by_epoch((row["epoch"], row.get("psnr")) for row in checked)
    nothing = _by_epoch((row["epoch"], row.get("psnr_input")) for row in checked)
    again = _by_epoch((row["epoch"], row.get("cycle_mae")) for row in checked)
    known = _by_epoch((row["epoch"], row.get("psnr_train")) for row in checked)
    quality = [
        Series("model", model),
        Series("on training pairs", known, "dashed"),
        Series("doing nothing", nothing, "dashed"),
    ]
    charts = [
        chart("Loss", "", losses),
        chart("PSNR on the validation split", "dB", quality),
        chart("Error there and back, validation split", "gray levels", [Series("model", again)]),
    ]
    return [drawn for drawn in charts if drawn.lines]


def _losses(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    found: dict[str, list[tuple[Any, Any]]] = {}
    for row in rows:
        for name, value in (row.get("losses") or {}).items():
            found.setdefault(name, []).append((row["epoch"], value))
    return {name: _by_epoch(pairs) for name, pairs in found.items()}


def _by_epoch(pairs: Iterable[tuple[Any, Any]]) -> list[Point]:
    """Return one point per epoch, the mean of its finite values."""
    values: dict[float, list[float]] = {}
    for epoch, value in pairs:
        if isinstance(value, int | float) and math.isfinite(value):
            values.setdefault(float(epoch), []).append(float(value))
    return [(epoch, sum(v) / len(v)) for epoch, v in sorted(values.items())]


# ------------------------------------------------------------------------------ line charts
@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart: its points in the units of the axes, sorted by x; ``style`` solid or dashed."""

    label: str
    points: Sequence[Point]
    style: str = "solid"


@dataclass(frozen=True, slots=True)
class Line:
    """A line in the units of the image: ``path`` for SVG, its ``last`` place and the value there."""

    label: str
    style: str
    path: str
    last: Point
    value: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn chart: ticks are (place in the image, label)."""

    title: str
    unit: str
    width: int
    height: int
    left: int
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]


def chart(title: str, unit: str, series: Sequence[Series]) -> Chart:
    """Lay out a line chart over epochs; series without points are left out."""
    drawn = [one for one in series if one.points]
    xs = [x for one in drawn for x, _ in one.points] or [0.0]
    ys = [y for one in drawn for _, y in one.points] or [0.0]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > LOG_FROM
    ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys), 5)
    scale = math.log10 if logarithmic else float
    low, high = scale(min(ticks[0], *ys)), scale(max(ticks[-1], *ys))
    labels = [_tick_label(tick, ticks, logarithmic) for tick in ticks]
    left = 12 + round(7.2 * max(map(len, labels)))
    right, bottom = CHART_WIDTH - 8, CHART_HEIGHT - 40

    def place(x: float, y: float) -> Point:
        across = (x - min(xs)) / ((max(xs) - min(xs)) or 1)
        up = (scale(y) - low) / ((high - low) or 1)
        return round(left + across * (right - left), 1), round(bottom - up * (bottom - 10), 1)

    lines = [_line(one, [place(*point) for point in one.points]) for one in drawn]
    epochs = [
        tick
        for tick in _ticks(min(xs), max(xs), 6)
        if tick.is_integer() and min(xs) <= tick <= max(xs)
    ]
    x_ticks = [(place(tick, ys[0])[0], f"{tick:g}") for tick in epochs]
    y_ticks = [(place(xs[0], tick)[1], label) for tick, label in zip(ticks, labels, strict=True)]
    return Chart(title, unit, CHART_WIDTH, CHART_HEIGHT, left, x_ticks, y_ticks, lines)


def _line(series: Series, places: Sequence[Point]) -> Line:
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    return Line(series.label, series.style, path, places[-1], f"{series.points[-1][1]:.4g}")


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers, in steps of 1, 2 or 5 x 10^n, that enclose low to high."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(s * power for s in (1, 2, 5, 10) if s * power * count >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    start = max(i for i, tick in enumerate(fine) if tick <= low * (1 + 1e-9))
    end = min(
        (i for i, tick in enumerate(fine) if tick >= high * (1 - 1e-9)), default=len(fine) - 1
    )
    ticks = fine[start : end + 1]
    return ticks if len(ticks) <= 8 else [10.0**power for power in powers]


def _tick_label(tick: float, ticks: Sequence[float], logarithmic: bool) -> str:
    if logarithmic:
        return f"{tick:g}"
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{tick:.{digits}f}".replace("-", "\N{MINUS SIGN}")


# ---------------------------------------------------------------------------------- writing
def render(template: str, content: Mapping[str, Any], folder: Path | None = None) -> str:
    """Return a page from a template of this package, or of ``folder``."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

    packages = [PackageLoader("img2img_train.report"), PackageLoader("img2img_data.inspect")]
    loader = ChoiceLoader([*([FileSystemLoader(folder)] if folder else []), *packages])
    environment = Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    environment.filters["number"] = _number
    environment.filters["signed"] = lambda value, digits: _number(value, digits, "+")
    return environment.get_template(template).render(content)


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value + 0.0:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def write_page(path: Path, page: str) -> Path:
    """Write a page as UTF-8, by rename, and return its path."""
    write_atomically(path, page.encode("utf-8", "backslashreplace"))
    return path
