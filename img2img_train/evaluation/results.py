"""What an evaluation leaves behind: JSON, CSV and a page, each with how the scores were made."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img2img_data.core.files import versions, write_atomically
from img2img_data.corpus.format import to_json_page
from img2img_train.evaluation.by_tag import MOST
from img2img_train.evaluation.score import ALL_METRICS, SCORED, Cell, Slice, rounded
from img2img_train.metrics.bootstrap import RESAMPLES
from img2img_train.metrics.image import Measure
from img2img_train.report import page
from img2img_train.report.gallery import Card
from img2img_train.runs.folder import LIBRARIES


@dataclass(frozen=True, slots=True)
class Matrix:
    """Several runs on several corpora; ``cells`` run by run, in the order of ``corpora``.

    ``files`` says which networks scored too; ``galleries`` are the images that the page shows of each cell.
    """

    runs: tuple[str, ...]
    corpora: tuple[str, ...]
    split: str
    cells: tuple[Cell, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    galleries: tuple[Sequence[Card], ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of every cell, in the order of the tables."""
        return tuple(name for name in ALL_METRICS if name in self.cells[0].scores)

    def cell(self, run: str, corpus: str) -> Cell:
        """Return the cell of a run and a corpus, by their names."""
        return self.cells[self.runs.index(run) * len(self.corpora) + self.corpora.index(corpus)]


def protocol(
    names: Iterable[str] = SCORED, files: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return how the scores were made, for every result; ``files`` are the weights of networks."""
    return {
        "color": "RGB; of a Lab corpus as RGB too",
        "data_range": 255,
        "samples": "uint8, or uint16 divided by 257 and not rounded, where the corpus has 16 bit; "
        "metrics in float64, networks in float32",
        "images": "whole, at the size of the corpus; an output is rounded to the depth of the corpus first",
        "means": "over images, each weighing the same",
        "nothing": "the input scored against the target, as if it were the output",
        "gain": "the mean by which the model is better than doing nothing; positive is better, for MAE too",
        "interval": "95 % by bootstrap of whole groups, widened for few groups (expanded percentile, "
        "Hesterberg 2015)",
        "resamples": RESAMPLES,
        "seed": 0,
        "groups": "images of one group of the corpus (--group-by, as of a person), else of one source",
        "tags": f"unasked those with 2 to {MOST} values and two images a value; means as over all images",
        "versions": versions(*LIBRARIES, "numpy", "opencv-python-headless"),
        **({"networks": dict(files)} if files else {}),
        "metrics": {name: _described(ALL_METRICS[name]) for name in names},
    }


def _described(measure: Measure) -> dict[str, Any]:
    better = "higher" if measure.higher_is_better else "lower"
    plain = {"label": measure.label, "unit": measure.unit, "digits": measure.digits}
    return {**plain, "better": better, "how": measure.how}


def write_matrix(matrix: Matrix, out: Path) -> Path:
    """Write a matrix as JSON, CSV and a page, and return the path of the page.

    ``matrix.json``, ``matrix.csv`` (a row per cell), ``tags.csv`` (a row per cell, tag and value),
    ``images.csv`` (a row per image), ``index.html``.
    """
    out.mkdir(parents=True, exist_ok=True)
    payload = {
        "runs": list(matrix.runs),
        "corpora": list(matrix.corpora),
        "split": matrix.split,
        "protocol": protocol(matrix.metrics, matrix.files),
        "cells": [cell.summary() for cell in matrix.cells],
    }
    write(out / "matrix.json", to_json_page(payload))
    write(out / "matrix.csv", matrix_csv(matrix).encode())
    write(out / "tags.csv", tags_csv(matrix.cells).encode())
    write(out / "images.csv", images_csv(matrix.cells).encode())
    return page.write_matrix_page(payload, out / "index.html", matrix.galleries)


def matrix_csv(matrix: Matrix) -> str:
    """Return the matrix as CSV, one row per run and corpus."""
    head = ["run", "corpus", "split", "images", "groups", *_columns(matrix.metrics)]
    rows = [
        [
            cell.run,
            cell.corpus,
            cell.split,
            cell.images,
            cell.groups,
            *_values(cell, matrix.metrics),
        ]
        for cell in matrix.cells
    ]
    return _csv(head, rows)


def tags_csv(cells: Sequence[Cell]) -> str:
    """Return the scores by tag as CSV, one row per run, corpus, tag and value."""
    metrics = list(
        dict.fromkeys(name for cell in cells for one in cell.slices for name in one.scores)
    )
    head = ["run", "corpus", "split", "tag", "value", "images", "groups", *_columns(metrics)]
    rows = [
        [cell.run, cell.corpus, cell.split, one.tag, one.value, *counted, *_values(one, metrics)]
        for cell in cells
        for one in cell.slices
        for counted in [(one.images, one.groups)]
    ]
    return _csv(head, rows)


def _columns(metrics: Iterable[str]) -> list[str]:
    ends = ("", "_nothing", "_gain", "_gain_low", "_gain_high")
    return [f"{name}{end}" for name in metrics for end in ends]


def _values(part: Cell | Slice, metrics: Iterable[str]) -> list[object]:
    values: list[object] = []
    for name in metrics:
        values += [rounded(mean[name]) for mean in (part.scores, part.nothing, part.gain)]
        values += rounded(part.gain_interval[name]) or ["", ""]
    return values


def images_csv(cells: Sequence[Cell]) -> str:
    """Return the scores of every image as CSV, cells in order, images by key."""
    rows = [(cell, row) for cell in cells for row in cell.rows]
    metrics = list(rows[0][1].scores) if rows else []
    facts = list(dict.fromkeys(name for _, row in rows for name in row.facts))
    head = ["run", "corpus", "split", "key", "group", "source"]
    head += [column for name in metrics for column in (name, f"{name}_nothing")]
    lines = [
        [cell.run, cell.corpus, cell.split, row.key, row.group, row.source]
        + [rounded(part[name]) for name in metrics for part in (row.scores, row.nothing)]
        + [row.facts.get(name, "") for name in facts]
        for cell, row in rows
    ]
    return _csv(head + [f"tag {name}" for name in facts], lines)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    write_atomically(path, data)


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
