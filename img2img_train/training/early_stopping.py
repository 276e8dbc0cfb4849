"""Early stopping and the overfitting warning, from the rows of log.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

LogRow: TypeAlias = Mapping[str, Any]

# By chance PSNR varies by some tenths of a dB between epochs, but does not drop by this many dB.
OVERFITTING_DROP: Final = 0.5
# At most this many training pairs are scored beside the held-out ones.
TRAIN_SAMPLE: Final = 64


def validations_since_best(rows: Sequence[LogRow]) -> int:
    """Return the number of validations after the best PSNR, 0 without any PSNR."""
    scores = [row["psnr"] for row in rows if row["kind"] == "validation" and "psnr" in row]
    return len(scores) - 1 - scores.index(max(scores)) if scores else 0


def overfitting_warning(rows: Sequence[LogRow], pairs: int, options: Sequence[str]) -> str | None:
    """Return a warning, once per run, if training pairs still gain while held-out ones have lost.

    That is: the last validation is ``OVERFITTING_DROP`` dB or more below the best one, and the PSNR
    on training pairs is higher than it was then. ``pairs`` is the number of training pairs,
    ``options`` are the options that help.
    """
    validations = (row for row in rows if row["kind"] == "validation")
    scored = [row for row in validations if {"psnr", "psnr_train"} <= row.keys()]
    if not scored or any(row["kind"] == "warning" for row in rows):
        return None
    last, best = scored[-1], max(scored, key=lambda row: float(row["psnr"]))
    if last["psnr"] > best["psnr"] - OVERFITTING_DROP or last["psnr_train"] <= best["psnr_train"]:
        return None
    now = f"train {last['psnr_train']:.1f} dB, validation {last['psnr']:.1f} dB"
    before = f"(best {best['psnr']:.1f} at epoch {best['epoch']})"
    *others, final = "more pairs", *options
    hint = f"{', '.join(others)} or {final} help" if others else f"{final} help"
    return f"overfitting: {now} {before}, on {pairs:,} pairs; {hint}"
