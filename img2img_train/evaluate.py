"""Score runs on corpora: each picture by each metric, beside doing nothing, with an interval of the gain.

"Doing nothing" scores the input as if it were the output: a model that does not beat it is of no use. A gain
is positive where the model is better (PSNR and SSIM: output minus input; MAE: input minus output). Pictures
are compared as 8-bit RGB.
"""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_data.corpus import Corpus, Pair, open_corpus, to_json_page, write_atomically
from img2img_data.errors import CorpusError, UsageError, printable
from img2img_data.fields import did_you_mean
from img2img_train import report
from img2img_train.colours import Histograms
from img2img_train.intervals import RESAMPLES, Interval, bootstrap_interval
from img2img_train.layers import TestNorm
from img2img_train.metrics import METRICS, SET_METRICS, Pixels
from img2img_train.online import Online

if TYPE_CHECKING:
    from img2img_train.run import LoadedModel

Progress: TypeAlias = Callable[[int, int, str], None]

THUMBNAIL: Final = 256
GALLERY: Final = 48
SCORED: Final = {**METRICS, **SET_METRICS}
BATCH_PIXELS: Final = 1 << 22
"""Large pictures go through a model in smaller batches than asked for: 64 of 256 x 256 at most."""


class Restorer(Protocol):
    """What is scored: a model, or anything else that turns a batch of inputs into outputs."""

    def restore(self, batch: Pixels) -> Pixels:
        """Return the outputs of N x H x W x 3 uint8 inputs, in the same shape and range."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one picture. ``group`` names the photo it comes from."""

    key: str
    group: str
    source: str
    scores: Mapping[str, float]
    nothing: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run on one corpus: mean scores, those of doing nothing, the gain with its 95 % interval.

    ``run`` and ``corpus`` are short names, ``at_test`` says how dropout and norms stood. An interval is None
    where all pictures come from one photo, for nothing is known then about another photo. ``groups`` counts
    the photos.
    """

    run: str
    corpus: str
    split: str
    pictures: int
    groups: int
    scores: Mapping[str, float]
    nothing: Mapping[str, float]
    gain: Mapping[str, float]
    gain_interval: Mapping[str, Interval]
    rows: tuple[Row, ...]
    at_test: Mapping[str, bool | str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Say in one sentence whether the model is of use, by its PSNR."""
        return verdict(self.gain["psnr"], self.gain_interval["psnr"])

    def summary(self) -> dict[str, Any]:
        """Return everything but the rows, ready for JSON."""
        plain = ("run", "corpus", "split", "pictures", "groups", "verdict", "at_test")
        means = ("scores", "nothing", "gain", "gain_interval")
        rounded = {mean: {name: _rounded(v) for name, v in getattr(self, mean).items()} for mean in means}
        return {name: getattr(self, name) for name in plain} | rounded


@dataclass(frozen=True, slots=True)
class Matrix:
    """Several runs on several corpora; ``cells`` run by run, in the order of ``corpora``."""

    runs: tuple[str, ...]
    corpora: tuple[str, ...]
    split: str
    cells: tuple[Cell, ...]

    def cell(self, run: str, corpus: str) -> Cell:
        """Return the cell of a run and a corpus, by their names."""
        return self.cells[self.runs.index(run) * len(self.corpora) + self.corpora.index(corpus)]


def verdict(gain: float, interval: Interval) -> str:
    """Say in one sentence whether a gain in PSNR, dB, is one."""
    if interval is None:
        seen = "all pictures come from one photo, so there is no interval"
        return f"{'beats' if gain > 0 else 'does not beat'} doing nothing by {abs(gain):.2f} dB ({seen})"
    low, high = interval
    span = f"95 % interval {low:+.2f} to {high:+.2f}"
    if low > 0:
        return f"beats doing nothing by {gain:.2f} dB ({span})"
    if high < 0:
        return f"does not beat doing nothing: it is worse by {-gain:.2f} dB ({span})"
    return f"does not beat doing nothing: a difference of {gain:+.2f} dB is within chance ({span})"


def protocol() -> dict[str, Any]:
    """Return how the scores were made, as it is written into every result."""
    metrics = {
        name: {
            "label": m.label,
            "unit": m.unit,
            "digits": m.digits,
            "better": "higher" if m.higher_is_better else "lower",
            "how": m.how,
        }
        for name, m in SCORED.items()
    }
    return {
        "colour": "RGB",
        "data_range": 255,
        "means": "over pictures, each weighing the same",
        "nothing": "the input scored against the target, as if it were the output",
        "gain": "the mean by which the model is better than doing nothing; positive is better, for MAE too",
        "interval": f"95 % of {RESAMPLES} bootstrap resamples of whole photos, widened for few photos "
        "(expanded percentile, Hesterberg 2015), seed 0",
        "metrics": metrics,
    }


def evaluate_matrix(
    runs: Sequence[Path],
    corpora: Sequence[Path],
    split: str = "test",
    device: str = "auto",
    batch: int = 64,
    progress: Progress | None = None,
    dropout: bool | None = None,
    norm: TestNorm | None = None,
) -> Matrix:
    """Score every run (a run folder or a checkpoint) on the split of every corpus.

    ``progress`` is called with pictures done, pictures in all, and the name of the cell. Raises CorpusError
    where a corpus has no such split or no pairs, CheckpointError where a run cannot be loaded. ``dropout``
    and ``norm``: another way at test than the models were saved with.
    """
    from img2img_train.run import load_generator

    opened = [(open_corpus(path), path) for path in dict.fromkeys(corpora)]
    names = _short_names([path for _, path in opened])
    work = [(corpus, name, _pairs(corpus, split)) for (corpus, _), name in zip(opened, names, strict=True)]
    run_names = _short_names(list(dict.fromkeys(runs)))
    if not work or not run_names:
        raise UsageError("evaluate", why="needs at least one run and one corpus")
    total, done, cells = len(run_names) * sum(len(pairs) for *_, pairs in work), 0, []
    for run, run_name in zip(dict.fromkeys(runs), run_names, strict=True):
        model = load_generator(run, device, dropout=dropout, norm=norm)
        swapped = model.config.direction == "BtoA"
        for corpus, name, pairs in work:
            counter = _counter(progress, done, total, f"{run_name} on {name}")
            cell = evaluate_model(model, corpus, pairs, (run_name, name), batch, counter, swapped)
            cells.append(replace(cell, at_test=_at_test(model)))
            done += len(pairs)
    return Matrix(tuple(run_names), tuple(names), split, tuple(cells))


def evaluate_model(
    model: Restorer,
    corpus: Corpus,
    pairs: Sequence[Pair],
    names: tuple[str, str] = ("model", "corpus"),
    batch: int = 64,
    count: Callable[[int], None] = lambda done: None,
    swapped: bool = False,
    online: Online | None = None,
) -> Cell:
    """Score a model on some pairs of a corpus; ``names`` are those of the run and the corpus.

    ``swapped``: the model goes from target to input (BtoA); ``online``: inputs are made from the targets, in
    the fixed way. ``count`` is called with the pairs done.
    """
    rows: list[Row] = []
    colours = Histograms()
    for group in _batches(model, corpus, pairs, batch, swapped, online):
        for pair, given, made, target in group:
            scores = {name: metric.measure(made, target) for name, metric in METRICS.items()}
            nothing = {name: metric.measure(given, target) for name, metric in METRICS.items()}
            rows.append(Row(pair.key, _photo(pair), _source(pair), scores, nothing))
            colours.add(_photo(pair), given, made, target)
        count(len(rows))
    return _cell(*names, pairs[0].split, tuple(rows), colours)


def evaluate_run(
    run: Path,
    corpus: Path,
    split: str = "test",
    device: str = "auto",
    batch: int = 64,
    progress: Progress | None = None,
    gallery: int = GALLERY,
) -> Cell:
    """Score one run on one split and keep the result in ``RUN/evaluation/`` for the run's report.

    Writes ``CORPUS-SPLIT.json`` (the means, the protocol and ``gallery`` pictures: the worst two thirds by
    PSNR, then others evenly through the rest) and ``CORPUS-SPLIT.csv`` (every picture). A run that spoiled
    its inputs itself is scored on such. Raises as ``evaluate_matrix``.
    """
    from img2img_train.run import load_generator

    opened, model = open_corpus(corpus), load_generator(run, device)
    pairs = _pairs(opened, split)
    known = dict.fromkeys(path.resolve() for path in (corpus, *(Path(c.path) for c in model.config.corpora)))
    name, label = _short_names(list(known))[0], model.config.title
    counter = _counter(progress, 0, len(pairs), f"{label} on {name}")
    swapped = model.config.direction == "BtoA"
    online = Online.of(model.config.degrade, model.config.seed)
    cell = evaluate_model(model, opened, pairs, (label, name), batch, counter, swapped, online)
    cell = replace(cell, at_test=_at_test(model))
    shown = _worst_and_typical(cell.rows, gallery)
    by_key = {pair.key: pair for pair in pairs}
    chosen = _batches(model, opened, [by_key[row.key] for row in shown], batch, swapped, online)
    pictures = list(_gallery(shown, chosen))
    folder = run / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{_file_name(name)}-{_file_name(split)}"
    _write(folder / f"{stem}.csv", pictures_csv([cell]).encode())
    scored = {"file": model.path.name, "step": model.step}
    payload = {**cell.summary(), "checkpoint": scored, "protocol": protocol(), "gallery": pictures}
    _write(folder / f"{stem}.json", to_json_page(payload))
    return cell


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Return the limits of "psnr=24" and the like; UsageError names the metrics there are."""
    limits = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in SCORED:
            raise UsageError("option", "--fail-under", f"knows no '{name}'", did_you_mean(name, SCORED))
        try:
            limits[name] = float(number)
        except ValueError:
            raise UsageError("option", "--fail-under", f"'{text}' has no number", "as in psnr=24") from None
    return limits


def shortfalls(matrix: Matrix, limits: Mapping[str, float]) -> list[str]:
    """Return a line for each cell and metric whose mean is worse than its limit."""
    return [
        f"{cell.run} on {cell.corpus}: {SCORED[name].label} {cell.scores[name]:.{SCORED[name].digits}f} "
        f"is worse than {limit:g}"
        for cell in matrix.cells
        for name, limit in limits.items()
        if not SCORED[name].gain(cell.scores[name], limit) >= 0
    ]


def write_matrix(matrix: Matrix, out: Path) -> Path:
    """Write a matrix as JSON, CSV and a page, and return the path of the page.

    ``matrix.json``, ``matrix.csv`` (a row per cell), ``pictures.csv`` (a row per picture), ``index.html``.
    """
    out.mkdir(parents=True, exist_ok=True)
    payload = {
        "runs": list(matrix.runs),
        "corpora": list(matrix.corpora),
        "split": matrix.split,
        "protocol": protocol(),
        "cells": [cell.summary() for cell in matrix.cells],
    }
    _write(out / "matrix.json", to_json_page(payload))
    _write(out / "matrix.csv", matrix_csv(matrix).encode())
    _write(out / "pictures.csv", pictures_csv(matrix.cells).encode())
    return report.write_matrix_page(payload, out / "index.html")


def matrix_csv(matrix: Matrix) -> str:
    """Return the matrix as CSV, one row per run and corpus."""
    head = ["run", "corpus", "split", "pictures", "groups"]
    for name in SCORED:
        head += [name, f"{name}_nothing", f"{name}_gain", f"{name}_gain_low", f"{name}_gain_high"]
    rows: list[list[object]] = []
    for cell in matrix.cells:
        row: list[object] = [cell.run, cell.corpus, cell.split, cell.pictures, cell.groups]
        for name in SCORED:
            row += [_rounded(part[name]) for part in (cell.scores, cell.nothing, cell.gain)]
            row += _rounded(cell.gain_interval[name]) or ["", ""]
        rows.append(row)
    return _csv(head, rows)


def pictures_csv(cells: Sequence[Cell]) -> str:
    """Return the scores of every picture as CSV, cells in order, pictures by key."""
    head = ["run", "corpus", "split", "key", "group", "source"]
    head += [column for name in METRICS for column in (name, f"{name}_nothing")]
    rows = [
        [cell.run, cell.corpus, cell.split, row.key, row.group, row.source]
        + [_rounded(part[name]) for name in METRICS for part in (row.scores, row.nothing)]
        for cell in cells
        for row in cell.rows
    ]
    return _csv(head, rows)


def _at_test(model: LoadedModel) -> dict[str, bool | str]:
    return {"dropout": model.config.test_dropout, "norm": model.config.test_norm}


def _cell(run: str, corpus: str, split: str, rows: tuple[Row, ...], colours: Histograms) -> Cell:
    gains = np.array(
        [[m.gain(row.scores[name], row.nothing[name]) for name, m in METRICS.items()] for row in rows]
    )
    groups = [row.group for row in rows]
    intervals = bootstrap_interval(gains, groups)
    overlap, overlap_nothing = colours.scores()
    return Cell(
        run=run,
        corpus=corpus,
        split=split,
        pictures=len(rows),
        groups=len(set(groups)),
        scores={name: float(np.mean([row.scores[name] for row in rows])) for name in METRICS} | overlap,
        nothing={name: float(np.mean([row.nothing[name] for row in rows])) for name in METRICS}
        | overlap_nothing,
        gain=dict(zip(METRICS, gains.mean(axis=0).tolist(), strict=True))
        | {name: overlap[name] - overlap_nothing[name] for name in SET_METRICS},
        gain_interval=dict(zip(METRICS, intervals, strict=True)) | colours.intervals(),
        rows=rows,
    )


Scored: TypeAlias = tuple[Pair, Pixels, Pixels, Pixels]


def _batches(
    model: Restorer,
    corpus: Corpus,
    pairs: Sequence[Pair],
    batch: int,
    swapped: bool,
    online: Online | None = None,
) -> Iterator[list[Scored]]:
    """Yield (pair, input, output, target), all RGB uint8, in batches of neighbours of one size."""
    held: list[tuple[Pair, Pixels, Pixels]] = []
    for pair in pairs:
        given, target = corpus.read(pair, exact=True)
        if given.shape != target.shape:
            raise CorpusError(
                "picture", pair.input, "is of another size than its target", "verify the corpus"
            )
        if swapped:
            given, target = target, given
        if online is not None:
            given = online.spoil(target, pair, None)
        given, target = _as_rgb(given, target, corpus.colour == "lab")
        room = min(batch, max(1, BATCH_PIXELS // (given.shape[0] * given.shape[1])))
        if held and (len(held) >= room or held[0][1].shape != given.shape):
            yield _restored(model, held)
            held = []
        held.append((pair, given, target))
    if held:
        yield _restored(model, held)


def _as_rgb(given: NDArray[Any], target: NDArray[Any], lab: bool) -> tuple[Pixels, Pixels]:
    """Return a pair as it is stored in 8-bit RGB; of an L plane the grey picture."""
    from img2img_data import images

    if lab:
        middle = np.full_like(given[..., 0], 128 * 257 if given.dtype == np.uint16 else 128)
        given = images.lab_to_rgb(np.dstack([given[..., 0], middle, middle]))
        target = images.lab_to_rgb(np.ascontiguousarray(target))
    return images.to_uint8_rgb(given), images.to_uint8_rgb(target)


def _restored(model: Restorer, held: Sequence[tuple[Pair, Pixels, Pixels]]) -> list[Scored]:
    made = model.restore(np.stack([given for _, given, _ in held]))
    return [(pair, given, out, target) for (pair, given, target), out in zip(held, made, strict=True)]


def _pairs(corpus: Corpus, split: str) -> Sequence[Pair]:
    from img2img_train.pictures import check_samples

    check_samples(corpus)
    pairs = corpus.pairs(split)
    if not pairs:
        raise CorpusError("corpus", corpus.root, f"has no pairs in split '{split}'")
    return pairs


def _photo(pair: Pair) -> str:
    """Return the photo a pair comes from: the tag ``group`` if there is one, else its source, else itself."""
    tags = pair.row.get("tags") or {}
    return str(tags.get("group") or pair.row.get("source") or pair.key)


def _source(pair: Pair) -> str:
    return str(pair.row.get("source") or pair.key)


def _worst_and_typical(rows: Sequence[Row], count: int) -> list[Row]:
    ranked = sorted(rows, key=lambda row: (row.scores["psnr"], row.key))
    worst, rest = ranked[: count * 2 // 3], ranked[count * 2 // 3 :]
    room = min(count - count * 2 // 3, len(rest))
    return worst + [rest[place * len(rest) // room] for place in range(room)]


def _gallery(rows: Sequence[Row], batches: Iterator[list[Scored]]) -> Iterator[dict[str, Any]]:
    """Yield what the report shows of each row: its scores and the three pictures as WebP in base64."""
    from img2img_data.images import encode

    scored = (one for batch in batches for one in batch)
    for (_, *pictures), row in zip(scored, rows, strict=True):
        small = [_thumbnail(pixels) for pixels in pictures]
        webp = [b64encode(encode(pixels, "webp", 88)).decode() for pixels in small]
        yield {
            "key": row.key,
            "source": row.source,
            "group": row.group,
            "scores": {name: _rounded(score) for name, score in row.scores.items()},
            "nothing": {name: _rounded(score) for name, score in row.nothing.items()},
            "width": small[-1].shape[1],
            "height": small[-1].shape[0],
            "webp": dict(zip(("input", "output", "target"), webp, strict=True)),
        }


def _thumbnail(pixels: Pixels) -> Pixels:
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small, np.uint8)


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, data, path.with_name(f".{path.name}.tmp"))


def _counter(progress: Progress | None, before: int, total: int, label: str) -> Callable[[int], None]:
    return lambda done: progress(before + done, total, label) if progress else None


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest endings that tell the paths apart, printable."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [printable(name) for name in names] if parts else []


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text).lstrip(".") or "corpus"


def _rounded(value: Any) -> Any:
    """Round to what is the same on every machine; a sum of floats differs in its last digits."""
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    return value if value is None else round(value, 6) + 0.0


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
