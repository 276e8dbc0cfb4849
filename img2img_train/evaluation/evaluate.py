"""Score runs on corpora, and keep what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from img2img_data.core.errors import CorpusError, UsageError, printable
from img2img_data.core.progress import ProgressByPart
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_train.data.checks import check_no_alpha
from img2img_train.data.on_the_fly import OnTheFly
from img2img_train.evaluation.by_tag import check_tags, facts_of
from img2img_train.evaluation.results import Matrix, images_csv, protocol, write
from img2img_train.evaluation.results import (
    write_matrix as write_matrix,  # here for those who come through this door
)
from img2img_train.evaluation.score import ALL_METRICS, Cell, Scored, batches, evaluate_model
from img2img_train.evaluation.score import verdict as verdict
from img2img_train.evaluation.thumbnails import GALLERY, cards, worst_and_typical
from img2img_train.metrics.image import PERCEPTUAL
from img2img_train.metrics.perceptual import PerceptualMetrics
from img2img_train.networks.layers import TestNorm
from img2img_train.report.gallery import Card
from img2img_train.runs.model import LoadedModel, load_generator


def evaluate_matrix(
    runs: Sequence[Path],
    corpora: Sequence[Path],
    split: str = "test",
    device: str = "auto",
    batch: int = 64,
    progress: ProgressByPart | None = None,
    dropout: bool | None = None,
    norm: TestNorm | None = None,
    by: Sequence[str] = (),
    learned: PerceptualMetrics | None = None,
    gallery: int = GALLERY,
) -> Matrix:
    """Score every run (a run folder or a checkpoint) on the split of every corpus.

    ``progress`` is called with images done, images in all, and the name of the cell. Raises CorpusError
    where a corpus has no such split or no pairs, CheckpointError where a run cannot be loaded. ``dropout``
    and ``norm``: another way at test than the models were saved with. ``by``: tags to score by, else those of
    few values; UsageError where no corpus has one. ``learned``: networks that score too. ``gallery``:
    images for the page, of all cells together.
    """
    opened = [(open_corpus(path), path) for path in dict.fromkeys(corpora)]
    names = short_names([path for _, path in opened])
    work = [
        (corpus, name, _pairs(corpus, split))
        for (corpus, _), name in zip(opened, names, strict=True)
    ]
    run_names = short_names(list(dict.fromkeys(runs)))
    if not work or not run_names:
        raise UsageError("evaluate", why="needs at least one run and one corpus")
    if by:
        check_tags(by, [facts_of(pair.row) for *_, pairs in work for pair in pairs])
    total, done = len(run_names) * sum(len(pairs) for *_, pairs in work), 0
    cells, galleries, each = (
        list[Cell](),
        list[Sequence[Card]](),
        gallery // (len(run_names) * len(work)),
    )
    for run, run_name in zip(dict.fromkeys(runs), run_names, strict=True):
        model = load_generator(run, device, dropout=dropout, norm=norm)
        swapped = model.config.direction == "BtoA"
        for corpus, name, pairs in work:
            counter = _counter(progress, done, total, f"{run_name} on {name}")
            named = (run_name, name)
            cell = evaluate_model(
                model, corpus, pairs, named, batch, counter, swapped, learned=learned, by=by
            )
            cells.append(replace(cell, at_test=_at_test(model)))
            again = partial(batches, model, corpus, batch=batch, swapped=swapped)
            galleries.append(_shown(cell, pairs, each, again))
            done += len(pairs)
    return Matrix(
        tuple(run_names),
        tuple(names),
        split,
        tuple(cells),
        learned.files if learned else {},
        tuple(galleries),
    )


def evaluate_run(
    run: Path,
    corpus: Path,
    split: str = "test",
    device: str = "auto",
    batch: int = 64,
    progress: ProgressByPart | None = None,
    gallery: int = GALLERY,
) -> Cell:
    """Score one run on one split and keep the result in ``RUN/evaluation/`` for the run's report.

    Writes ``CORPUS-SPLIT.json`` (the means, the protocol and ``gallery`` images: the worst two thirds by
    PSNR, then others evenly through the rest) and ``CORPUS-SPLIT.csv`` (every image). A run that degraded
    its inputs itself is scored on such. Raises as ``evaluate_matrix``.
    """
    opened, model = open_corpus(corpus), load_generator(run, device)
    pairs = _pairs(opened, split)
    known = dict.fromkeys(
        path.resolve() for path in (corpus, *(Path(c.path) for c in model.config.corpora))
    )
    name, label = short_names(list(known))[0], model.config.title
    counter = _counter(progress, 0, len(pairs), f"{label} on {name}")
    swapped = model.config.direction == "BtoA"
    online = OnTheFly.of(model.config.degrade, model.config.seed)
    cell = evaluate_model(model, opened, pairs, (label, name), batch, counter, swapped, online)
    cell = replace(cell, at_test=_at_test(model))
    again = partial(batches, model, opened, batch=batch, swapped=swapped, online=online)
    images = _shown(cell, pairs, gallery, again)
    folder = run / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{_file_name(name)}-{_file_name(split)}"
    write(folder / f"{stem}.csv", images_csv([cell]).encode())
    scored = {"file": model.path.name, "step": model.step}
    payload = {**cell.summary(), "checkpoint": scored, "protocol": protocol(), "gallery": images}
    write(folder / f"{stem}.json", to_json_page(payload))
    return cell


def _shown(
    cell: Cell,
    pairs: Sequence[Pair],
    count: int,
    restored: Callable[[Sequence[Pair]], Iterable[list[Scored]]],
) -> list[dict[str, Any]]:
    """Return what a page shows of a cell: the worst two thirds by PSNR, then others evenly."""
    rows = worst_and_typical(cell.rows, count)
    by_key = {pair.key: pair for pair in pairs}
    return list(cards(rows, restored([by_key[row.key] for row in rows])))


def parse_limits(texts: Sequence[str], brought: Collection[str] = ()) -> dict[str, float]:
    """Return the limits of "psnr=24" and the like; UsageError names the metrics there are.

    ``brought`` are the metrics whose networks are there.
    """
    limits = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in ALL_METRICS:
            raise UsageError(
                "option", "--fail-under", f"knows no '{name}'", did_you_mean(name, ALL_METRICS)
            )
        if name in PERCEPTUAL and name not in brought:
            why = f"asks for {PERCEPTUAL[name].label}, which needs weights"
            raise UsageError("option", "--fail-under", why, f"give --{name} too")
        try:
            limits[name] = finite(number)
        except ValueError:
            raise UsageError(
                "option", "--fail-under", f"'{text}' has no number", "as in psnr=24"
            ) from None
    return limits


def finite(text: str) -> float:
    """Return a number; ValueError of any other text, NaN and infinity among them."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def shortfalls(matrix: Matrix, limits: Mapping[str, float]) -> list[str]:
    """Return a line for each cell and metric whose mean is worse than its limit."""
    return [
        f"{cell.run} on {cell.corpus}: {ALL_METRICS[name].label} "
        f"{cell.scores[name]:.{ALL_METRICS[name].digits}f} is worse than {limit:g} "
        f"({'higher' if ALL_METRICS[name].higher_is_better else 'lower'} is better)"
        for cell in matrix.cells
        for name, limit in limits.items()
        if not ALL_METRICS[name].gain(cell.scores[name], limit) >= 0
    ]


def _at_test(model: LoadedModel) -> dict[str, bool | str]:
    return {"dropout": model.config.test_dropout, "norm": model.config.test_norm}


def _pairs(corpus: Corpus, split: str) -> Sequence[Pair]:
    check_no_alpha(corpus)
    pairs = corpus.pairs(split)
    if not pairs:
        raise CorpusError("corpus", corpus.root, f"has no pairs in split '{split}'")
    return pairs


def _counter(
    progress: ProgressByPart | None, before: int, total: int, label: str
) -> Callable[[int], None]:
    return lambda done: progress(before + done, total, label) if progress else None


def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest endings that tell the paths apart, printable."""
    parts = [path.resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [printable(name) for name in names] if parts else []


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text).lstrip(".") or "corpus"
