"""What an evaluation leaves behind: JSON, CSV and a page, each with how the scores were made."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img2img_data.corpus import to_json_page, write_atomically
from img2img_train import report
from img2img_train.intervals import RESAMPLES
from img2img_train.metrics import METRICS
from img2img_train.scoring import SCORED, Cell, rounded


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
    write(out / "matrix.json", to_json_page(payload))
    write(out / "matrix.csv", matrix_csv(matrix).encode())
    write(out / "pictures.csv", pictures_csv(matrix.cells).encode())
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
            row += [rounded(part[name]) for part in (cell.scores, cell.nothing, cell.gain)]
            row += rounded(cell.gain_interval[name]) or ["", ""]
        rows.append(row)
    return _csv(head, rows)


def pictures_csv(cells: Sequence[Cell]) -> str:
    """Return the scores of every picture as CSV, cells in order, pictures by key."""
    head = ["run", "corpus", "split", "key", "group", "source"]
    head += [column for name in METRICS for column in (name, f"{name}_nothing")]
    rows = [
        [cell.run, cell.corpus, cell.split, row.key, row.group, row.source]
        + [rounded(part[name]) for name in METRICS for part in (row.scores, row.nothing)]
        for cell in cells
        for row in cell.rows
    ]
    return _csv(head, rows)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    write_atomically(path, data, path.with_name(f".{path.name}.tmp"))


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
