"""What the validations of a run tell: that it no longer gets better, or that it learns its pairs by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

Row: TypeAlias = Mapping[str, Any]

FALLEN: Final = 0.5
"""A validation so far below the best, dB, is worse by more than chance among epochs."""
SAMPLE: Final = 64
"""So many training pairs at most are scored beside the held-out ones."""


def stale(rows: Sequence[Row]) -> int:
    """Return how many validations came since the best PSNR; 0 where none has one. Rows as in the log."""
    scores = [row["psnr"] for row in rows if row["kind"] == "validation" and "psnr" in row]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def overfitting(rows: Sequence[Row], pairs: int, ways_out: Sequence[str]) -> str | None:
    """Return a line where training pairs still gain while held-out ones have lost; None, else and once said.

    That is where the last validation is ``FALLEN`` dB or more below the best one, and the PSNR on training
    pairs is higher than it was then. Rows as in the log; ``pairs`` are those trained on.
    """
    scored = [
        row for row in rows if row["kind"] == "validation" and {"psnr", "psnr_train"} <= row.keys()
    ]
    if not scored or any(row["kind"] == "warning" for row in rows):
        return None
    last, best = scored[-1], max(scored, key=lambda row: float(row["psnr"]))
    if last["psnr"] > best["psnr"] - FALLEN or last["psnr_train"] <= best["psnr_train"]:
        return None
    now = f"train {last['psnr_train']:.1f} dB, validation {last['psnr']:.1f} dB"
    before = f"(best {best['psnr']:.1f} at epoch {best['epoch']})"
    *others, hint = "more pairs", *ways_out
    help_ = f"{', '.join(others)} or {hint} help" if others else f"{hint} help"
    return f"overfitting: {now} {before}, on {pairs:,} pairs; {help_}"


def stopped(epoch: int, validations: int) -> str:
    """Return the line about a run that ends early."""
    return f"stopped early after epoch {epoch}: no better PSNR in {validations:,} validations"
