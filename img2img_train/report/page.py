"""HTML pages: the report of a run, the matrix of runs and corpora, and a model that runs in the
browser.

A page is self-contained: images, style and script are inline, it opens from a file and requests
nothing from the network. It shows the files of a run and computes nothing anew, so the
same run folder gives the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, TypeAlias

from img2img_data.core.errors import printable
from img2img_data.core.files import write_atomically
from img2img_data.images import io
from img2img_train.config import CONFIG_FILE, RunConfig, read_page
from img2img_train.report.gallery import GalleryItem, build_gallery, to_webp
from img2img_train.runs.folder import read_log, sample_paths

Point: TypeAlias = tuple[float, float]

SAMPLE_BYTES: Final = 1_300_000
SAMPLE_FRAMES: Final = 10
SAMPLE_SIDE: Final = 960
SAMPLE_QUALITY: Final = 82
CHART_WIDTH: Final = 520
CHART_HEIGHT: Final = 280
LOG_RATIO: Final = 20
"""A chart whose values span more than this factor has a logarithmic axis."""
BROWSER_SIDE: Final = 256


def write_run_report(run: Path) -> Path:
    """Write ``RUN/report.html`` from the run's settings, log, samples and evaluations; return its
    path.

    Raises CheckpointError if the folder holds no run.
    """
    # No time stamps and no absolute paths: equal runs give equal bytes.
    page, config = read_page(run / CONFIG_FILE), RunConfig.load(run)
    log = read_log(run)
    evaluations = [json.loads(p.read_bytes()) for p in sorted((run / "evaluation").glob("*.json"))]
    metrics = evaluations[0]["protocol"]["metrics"] if evaluations else {}
    parts = [({"corpus": f"{e['corpus']}, {e['split']}"}, e) for e in evaluations]
    content = {
        "name": printable(config.title),
        "columns": ", ".join(name.replace("_", " ") for name in config.objective.sample_columns),
        "evaluations": evaluations,
        "gallery": build_gallery(parts, metrics),
        "largest_gains": largest_gains,
        "charts": _charts(log),
        "remarks": [row["text"] for row in log if row.get("kind") in {"warning", "stopped"}],
        "frames": list(_frames(sample_paths(run))),
        "settings": list(flatten({**page["config"], "versions": page.get("versions", {})})),
    }
    return write_page(run / "report.html", render("run.html", content))


def write_matrix_page(
    payload: Mapping[str, Any], path: Path, galleries: Sequence[Sequence[GalleryItem]]
) -> Path:
    """Write the page of a matrix, ``payload`` being the content of ``matrix.json``; return its
    path.

    ``galleries`` holds the images of each evaluation.
    """
    evaluations, columns = payload["evaluations"], len(payload["corpora"])
    origins = ({"run": e["run"], "corpus": e["corpus"]} for e in evaluations)
    saved = ({**e, "gallery": items} for e, items in zip(evaluations, galleries, strict=True))
    parts = list(zip(origins, saved, strict=True))
    content = {
        "matrix": payload,
        "rows": [evaluations[at : at + columns] for at in range(0, len(evaluations), columns)],
        "largest": largest_gains(evaluations),
        "largest_gains": largest_gains,
        "gallery": build_gallery(parts, payload["protocol"]["metrics"]),
    }
    return write_page(path, render("matrix.html", content))


def largest_gains(parts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the largest gain or loss of each metric over evaluations or tags; 1 if all are 0."""
    names = parts[0]["gain"] if parts else ()
    return {name: max(abs(part["gain"][name]) for part in parts) or 1 for name in names}


def render_browser_page(title: str, about: str, runtime: bytes, wasm: bytes, model: bytes) -> str:
    """Return a page that runs an ONNX model; the runtime is a JavaScript module and its wasm."""
    files = {"runtime": runtime, "wasm": wasm, "model": model}
    inline = {name: b64encode(data).decode() for name, data in files.items()}
    content = {"title": printable(title), "about": about, "side": BROWSER_SIDE, **inline}
    return render("browser.html", content)


# ------------------------------------------------------------------------ parts of a run's report
def _frames(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield sample grids: the first, the last and others evenly between, up to SAMPLE_BYTES."""
    room, count = SAMPLE_BYTES, min(len(paths), SAMPLE_FRAMES)
    last, steps = len(paths) - 1, max(1, count - 1)
    for index in sorted({round(i * last / steps) for i in range(count)}):
        webp = to_webp(io.read(paths[index]).pixels, SAMPLE_SIDE, SAMPLE_QUALITY)
        room -= len(webp.base64)
        if room < 0:
            return
        # "epoch 5" for epoch-00005.png.
        label = re.sub(r"-0*(\d+)$", r" \1", printable(paths[index].stem))
        yield {"webp": webp.base64, "label": label, "width": webp.width, "height": webp.height}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as (dotted name, value as text), in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield prefix + name, text


def _charts(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the charts for which the log has values: losses, validation PSNR, cycle MAE."""
    train = [row for row in log if row.get("kind") == "train"]
    validation = [row for row in log if row.get("kind") == "validation"]
    names = dict.fromkeys(name for row in train for name in row["losses"])
    rows = [{**row["losses"], "epoch": row["epoch"]} for row in train]
    losses = [Series(name, _by_epoch(rows, name)) for name in names]

    def line(label: str, key: str, style: str = "solid") -> Series:
        return Series(label, _by_epoch(validation, key), style)

    trained = line("model, training pairs", "psnr_train", "dashed")
    quality = [line("model", "psnr"), trained, line("input", "psnr_input", "dashed")]
    charts = [
        draw_chart("Loss", "", losses),
        draw_chart("PSNR on the validation split", "dB", quality),
        draw_chart("Cycle MAE on the validation split", "levels", [line("model", "cycle_mae")]),
    ]
    return [chart for chart in charts if chart["lines"]]


def _by_epoch(rows: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    """Return one point per epoch, the mean of its finite values under ``key``."""
    values: dict[float, list[float]] = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            values.setdefault(float(row["epoch"]), []).append(float(value))
    return [(epoch, sum(v) / len(v)) for epoch, v in sorted(values.items())]


# ------------------------------------------------------------------------------------ line charts
@dataclass(frozen=True, slots=True)
class Series:
    """A line of a chart: its points in data units, sorted by x; ``style`` is solid or dashed."""

    label: str
    points: Sequence[Point]
    style: str = "solid"


def draw_chart(title: str, unit: str, series: Sequence[Series]) -> dict[str, Any]:
    """Return a line chart over epochs for ``chart.html``; series without points are left out.

    All positions are pixels: ticks are (position, label), lines are label, style, ``path`` for SVG,
    its ``last`` point, and the ``value`` there as text.
    """
    drawn = [one for one in series if one.points]
    xs = [x for one in drawn for x, _ in one.points] or [0.0]
    ys = [y for one in drawn for _, y in one.points] or [0.0]
    # A loss that falls by orders of magnitude is a flat line on a linear axis.
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > LOG_RATIO
    ticks = _log_ticks(min(ys), max(ys)) if logarithmic else _ticks(min(ys), max(ys), 5)
    scale = math.log10 if logarithmic else float
    low, high = scale(min(ticks[0], *ys)), scale(max(ticks[-1], *ys))
    digits = 0 if logarithmic else max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    labels = [f"{tick:g}" if logarithmic else _number(tick, digits) for tick in ticks]
    # 7.2 pixels are the width of a digit at the font size of the axes.
    left = 12 + round(7.2 * max(map(len, labels)))
    right, bottom = CHART_WIDTH - 8, CHART_HEIGHT - 40

    def place(x: float, y: float) -> Point:
        across = (x - min(xs)) / ((max(xs) - min(xs)) or 1)
        up = (scale(y) - low) / ((high - low) or 1)
        return round(left + across * (right - left), 1), round(bottom - up * (bottom - 10), 1)

    lines = []
    for one in drawn:
        points = [place(*point) for point in one.points]
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        line = {"label": one.label, "style": one.style, "path": path, "last": points[-1]}
        lines.append({**line, "value": f"{one.points[-1][1]:.4g}"})
    epochs = [x for x in _ticks(min(xs), max(xs), 6) if x.is_integer() and min(xs) <= x <= max(xs)]
    x_ticks = [(place(x, ys[0])[0], f"{x:g}") for x in epochs]
    y_ticks = [(place(xs[0], y)[1], label) for y, label in zip(ticks, labels, strict=True)]
    chart = {"title": title, "unit": unit, "width": CHART_WIDTH, "height": CHART_HEIGHT}
    return {**chart, "left": left, "x_ticks": x_ticks, "y_ticks": y_ticks, "lines": lines}


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` round numbers around low to high, in steps of 1, 2 or 5 x 10^n."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(s * power for s in (1, 2, 5, 10) if s * power * count >= span)
    # The tolerance keeps 0.3 / 0.1 from becoming one step more.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 x 10^n around low to high, or powers of ten if those are too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    start = max(i for i, tick in enumerate(fine) if tick <= low * (1 + 1e-9))
    above = (i for i, tick in enumerate(fine) if tick >= high * (1 - 1e-9))
    ticks = fine[start : next(above, len(fine) - 1) + 1]
    return ticks if len(ticks) <= 8 else [10.0**power for power in powers]


# ---------------------------------------------------------------------------------------- writing
def render(template: str, content: Mapping[str, Any], folder: Path | None = None) -> str:
    """Return a page from a template of this package, or of ``folder``."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

    # The layout, style and script of all pages are those of img2img_data.
    loaders = [PackageLoader("img2img_train.report"), PackageLoader("img2img_data.inspect")]
    environment = Environment(
        loader=ChoiceLoader([*([FileSystemLoader(folder)] if folder else []), *loaders]),
        autoescape=True,  # names of files and tags come from anywhere
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    # Digests for the Content-Security-Policy, which lets no other script run.
    environment.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    environment.filters["number"] = _number
    environment.filters["signed"] = lambda value, digits: _number(value, digits, "+")
    return environment.get_template(template).render(content)


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{value + 0.0:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def write_page(path: Path, page: str) -> Path:
    """Write a page as UTF-8, atomically, and return its path."""
    # Names of files may hold lone surrogates, which UTF-8 cannot encode.
    write_atomically(path, page.encode("utf-8", "backslashreplace"))
    return path
