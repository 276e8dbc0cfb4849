"""HTML pages: the report of a run, the matrix of runs and corpora, and a model that runs in the
browser.

A page is self-contained: images, style and script are inline, it opens from a file and requests
nothing from the network. It shows the files of a run and computes nothing anew, so the
same run folder gives the same bytes.
"""

from __future__ import annotations

import csv
import json
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from img2img_data.core.command_line import format_duration, shell_line
from img2img_data.core.errors import CheckpointError, Img2ImgError, printable
from img2img_data.core.files import write_atomically
from img2img_data.corpus.reader import open_corpus
from img2img_train.config import RunConfig, config_of, read_page
from img2img_train.metrics.image import PSNR_CAP
from img2img_train.metrics.registry import COLOR_METRICS
from img2img_train.report.charts import build_charts
from img2img_train.report.gallery import SAMPLE_BYTES, GalleryItem, build_gallery, build_samples
from img2img_train.runs.folder import (
    RunFolder,
    read_evaluations,
    read_log,
    read_sessions,
    read_timing,
)

BROWSER_SIDE: Final = 256
SAME_COLORS: Final = 0.9
"""Overlap of the colors of inputs and targets from which a task does not change colors."""


@contextmanager
def one_error_if_damaged() -> Iterator[None]:
    """Raise CheckpointError where a value in a file of a run is not of the type that pages use."""
    from jinja2 import UndefinedError

    wrong = ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError
    # The module csv has errors of its own, as for a field of more than 131,072 characters.
    # A schema of all that pages show of an evaluation would be longer than the pages.
    try:
        yield
    except (*wrong, csv.Error) as error:
        why = f"a file of a run, likely in its folder evaluation, is damaged ({printable(error)})"
        raise CheckpointError("report", why=why, hint="remove it") from error


@one_error_if_damaged()
def write_run_report(run: Path, out: Path | None = None) -> Path:
    """Write a page from the run's settings, log, samples and evaluations; return its path, ``out``
    or ``RUN/report.html``.

    Raises CheckpointError if the folder holds no run.
    """
    out = out or run / "report.html"
    config, content = RunConfig.load(run), _read_run(run, out)
    evaluations = content["evaluations"]
    parts = [({"corpus": f"{e['corpus']}, {e['split']}"}, e) for e in evaluations]
    metrics = evaluations[0]["protocol"]["metrics"] if evaluations else {}
    content |= {
        "name": printable(config.title),
        "evaluations": [{**e, **score_table([{**e, "run": "model"}])} for e in evaluations],
        "gallery": build_gallery(parts, metrics),
        "charts": build_charts({"": run}),
        "samples": build_samples(run, config.objective.sample_columns),
        "paired": config.objective.paired,
        "unpaired_corpora": _unpaired_corpora(config),
        **_settings(config),
    }
    return write_page(out, render("run.html", content))


def _unpaired_corpora(config: RunConfig) -> dict[str, str]:
    """Return the corpora of a run that have no pairs, and the commands that score it on them."""
    commands = {}
    for path in (choice.path for choice in config.corpora):
        # A loss without pairs takes paired corpora too. Nothing is known of a corpus that is gone.
        with suppress(Img2ImgError, OSError):
            if open_corpus(path, rows=False).kind == "unpaired":
                words = ("evaluate", "RUN", "--on", path, "--split", "SPLIT", "--fid", "WEIGHTS")
                commands[printable(path)] = shell_line("img2img-train", *words)
    return commands


@one_error_if_damaged()
def write_comparison(runs: Sequence[Path], out: Path, differences: Sequence[str] = ()) -> Path:
    """Write a page that compares runs: their curves in the same charts, scores, ``differences``
    between these in words, last samples, and the settings that differ; return its path.

    Raises CheckpointError if a folder holds no run.
    """
    paths, room = {printable(run): run for run in runs}, 2 * SAMPLE_BYTES // len(runs)
    pages, tables = [], dict[tuple[Any, ...], list[dict[str, Any]]]()
    for name, run in paths.items():
        config, page = RunConfig.load(run), _read_run(run, out)
        page["samples"] = build_samples(run, config.objective.sample_columns, 1, room)
        page["settings"] = dict(flatten(config.model_dump(mode="json")))
        pages.append({**page, "name": name, "paired": config.objective.paired})
        roots = {Path(choice.path).name: printable(choice.path) for choice in config.corpora}
        for e in page["evaluations"]:
            # Corpora of one name are apart by their inputs, whose scores no model changes.
            key = e["corpus"], e["split"], e["images"], e["input_scores"]["psnr"]
            row = {**e, "run": name, "path": roots.get(e["corpus"], e["corpus"])}
            tables.setdefault(key, []).append(row)
    scores = [{**table[0], **score_table(table)} for table in tables.values()]
    content = {"pages": pages, "tables": scores, "charts": build_charts(paths)}
    return write_page(out, render("comparison.html", {**content, "differences": differences}))


def write_matrix_page(
    payload: Mapping[str, Any], path: Path, galleries: Sequence[Sequence[GalleryItem]]
) -> Path:
    """Write the page of a matrix, ``payload`` being the content of ``matrix.json``; return its
    path.

    ``galleries`` holds the images of each evaluation.
    """
    evaluations = [{**e, "protocol": payload["protocol"]} for e in payload["evaluations"]]
    origins = ({"run": e["run"], "corpus": e["corpus"]} for e in evaluations)
    saved = ({**e, "gallery": items} for e, items in zip(evaluations, galleries, strict=True))
    parts = list(zip(origins, saved, strict=True))
    metrics = payload["protocol"]["metrics"] if len(payload["corpora"]) > 1 else ("",)
    content = {
        "matrix": payload,
        "tables": {m: t for m in metrics if (t := score_table(evaluations, m))["columns"]},
        "gallery": build_gallery(parts, payload["protocol"]["metrics"]),
    }
    return write_page(path, render("matrix.html", content))


def render_browser_page(title: str, about: str, runtime: bytes, wasm: bytes, model: bytes) -> str:
    """Return a page that runs an ONNX model; the runtime is a JavaScript module and its wasm."""
    files = {"runtime": runtime, "wasm": wasm, "model": model}
    inline = {name: b64encode(data).decode() for name, data in files.items()}
    content = {"title": printable(title), "about": about, "side": BROWSER_SIDE, **inline}
    return render("browser.html", content)


# ------------------------------------------------------------------------ parts of a run's report
def _read_run(run: Path, page: Path) -> dict[str, Any]:
    """Return what pages show of a run. No clock is read, so equal folders give equal pages."""
    folder = RunFolder(run)
    return {
        **({"versions": {}, "data": {}} | read_page(folder.config)),
        "evaluations": list(read_evaluations(run)),
        "log": read_log(run),
        "sessions": read_sessions(run),
        "seconds": sum(row["seconds"] for row in read_timing(run)),
        "report": _link(folder.report, page),
        "checkpoints": [
            (printable(path.name), _link(path, page), path.stat().st_size / 1e6)
            for path in sorted(folder.checkpoints.glob("*.safetensors"))
        ],
    }


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings, their defaults with this loss, and the group of each, by name."""
    values = config.model_dump(mode="json")
    defaults = config_of({name: values[name] for name in ("corpora", "loss")})
    fields = {**RunConfig.model_fields, **type(config.objective).model_fields}
    extras = {name: field.json_schema_extra for name, field in fields.items()}
    groups = {n: e["group"] if isinstance(e, dict) else "Data" for n, e in extras.items()}
    return {"settings": values, "defaults": defaults.model_dump(mode="json"), "groups": groups}


def _link(path: Path, page: Path) -> str:
    """Return the link from a page to a file; "" if it would reveal other folders."""
    if path.is_absolute() != page.is_absolute():
        return ""
    return quote(Path(os.path.relpath(path, page.parent)).as_posix(), errors="surrogateescape")


def score_table(evaluations: Sequence[Mapping[str, Any]], metric: str = "") -> dict[str, Any]:
    """Return a table of scores for ``scores.html``: rows are models, baselines and the input.

    Columns are the metrics, of evaluations on one corpus, or with ``metric`` the corpora. Those in
    which nothing was scored, or that say nothing about a corpus, are left out.
    """
    metrics = evaluations[0]["protocol"]["metrics"]
    # The metrics of the headline first. A photo has many plausible colors, of which PSNR accepts
    # one: a colorization is compared by the distribution of its colors.
    first = COLOR_METRICS[1:] if evaluations[0].get("colorizes") else ("psnr", "fid")
    shown = [metric] if metric else sorted(metrics, key=lambda n: n not in first)
    cells: dict[tuple[str, str], dict[tuple[str, str], dict[str, Any]]] = {}
    for e in evaluations:
        useful = [n for n in shown if n not in _pointless(e)]
        for kind, name, scores, gains, intervals in _score_rows(e):
            row = cells.setdefault((kind, name), {})
            for n in (n for n in useful if n in scores):
                gain = None if _has_equal_pairs(e) else gains[n]
                cell = {"score": scores[n], "gain": gain, "interval": intervals.get(n)}
                row.setdefault((e["corpus"], n), cell)
    columns = [(c, n) for c in dict.fromkeys(e["corpus"] for e in evaluations) for n in shown]
    columns = [column for column in columns if any(column in row for row in cells.values())]
    order = ("model", "baseline", "input")
    rows = [(*row, [cells[row].get(column) for column in columns]) for row in cells]
    rows = sorted((r for r in rows if any(r[2])), key=lambda row: order.index(row[0]))
    return {"columns": [(c, {"name": n, **metrics[n]}) for c, n in columns], "rows": rows}


def _score_rows(evaluation: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any, Any]]:
    """Yield kind, name, scores, gains over the input and their intervals."""
    gains = evaluation["gain"]
    yield "model", evaluation["run"], evaluation["scores"], gains, evaluation["gain_interval"]
    for name, its in evaluation.get("baselines", {}).items():
        over_input = {n: gains[n] - gain for n, gain in its["gain"].items()}
        yield "baseline", name, its["scores"], over_input, {}
    yield "input", "input", evaluation["input_scores"], dict.fromkeys(gains, 0.0), {}


def _has_equal_pairs(part: Mapping[str, Any]) -> bool:
    """Return True if all inputs equal their targets, so that there is no gain to state."""
    return bool(part["input_scores"].get("psnr") == PSNR_CAP)


def _pointless(evaluation: Mapping[str, Any]) -> Sequence[str]:
    """Return the color metrics if the task does not change colors."""
    # Classical baselines restore; otherwise the inputs have the colors of the targets already.
    restores = evaluation.get("baselines") and "psnr" in evaluation["scores"]
    overlaps = [evaluation["input_scores"].get(name, 1) for name in COLOR_METRICS[1:]]
    return COLOR_METRICS if restores or min(overlaps) >= SAME_COLORS else ()


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested settings as (dotted name, value as text), in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield prefix + name, text


# ---------------------------------------------------------------------------------------- writing
def render(template: str, content: Mapping[str, Any], folder: Path | None = None) -> str:
    """Return a page from a template of this package, or of ``folder``."""
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

    # The layout, style and script of all pages are those of img2img_data.
    loaders = [PackageLoader("img2img_train.report"), PackageLoader("img2img_data.inspect")]
    environment = Environment(
        loader=ChoiceLoader([*([FileSystemLoader(folder)] if folder else []), *loaders]),
        autoescape=True,  # names of files and tags are untrusted
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    # Digests for the Content-Security-Policy, which lets no other script run.
    environment.filters["sha256"] = lambda text: b64encode(sha256(text.encode()).digest()).decode()
    environment.filters["duration"] = format_duration
    environment.tests["equal_pairs"] = _has_equal_pairs
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
