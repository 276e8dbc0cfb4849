"""What became of each image, and of the whole run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from img2img_data.core.errors import REASONS

EXIT_BAD: Final = 1
SHOWN: Final = 10
PAIRING_REASONS: Final = frozenset({"unpaired", "ambiguous-pair"})

CONVERTED: Final[dict[str, str]] = {
    "depth": "16 bit or float and became 8 bit; png keeps that, in a corpus with --bits 16",
    "float": "float and became 16 bit",
    "clipped": "float with samples outside 0..1, which were clipped",
    "widened": "8 bit and became 16 bit, multiplied by 257",
    "luma": "in color and became gray; --channels rgb keeps that",
    "alpha": "stored with transparency and put on white; --alpha reject lists what shows any",
    "profile": "tagged with an ICC profile, which was ignored",
}
"""The notes of images that a summary counts, and what a person reads after "was" or "were"."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One source's end: kept (no reason) or rejected. ``line`` is its finished row for the manifest.

    ``file`` tells which manifest the row belongs to: a split, or "" for rejected.jsonl.
    """

    index: int
    file: str
    reason: str
    line: bytes


@dataclass(slots=True)
class Report:
    """The counts of a run, for the summary and the exit code."""

    kept: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    unmatched: int = 0
    shown: list[tuple[int, bytes]] = field(default_factory=list)
    """The first few rejections by key: (index, row)."""
    warnings: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """How many kept images carry each note of ``images.NOTES``."""
    complete: bool = False
    """Nothing was left to do: an earlier run had finished."""

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.reason:
            self.rejected[outcome.reason] += 1
            self.shown = sorted([*self.shown, (outcome.index, outcome.line)])[:SHOWN]
            self.unmatched += outcome.reason in PAIRING_REASONS
        else:
            self.kept[outcome.file] += 1

    @property
    def total(self) -> int:
        """How many sources there were."""
        return self.kept.total() + self.rejected.total()

    def exit_code(
        self, max_bad: float, expected: frozenset[str] = frozenset(), unmatched_ok: bool = False
    ) -> int:
        """Return 0, or 1 when too large a share was rejected or a pairing left unmatched files.

        ``expected`` reasons were asked for by the user (a filter's), so they are not bad images.
        """
        if self.unmatched and not unmatched_ok:
            return EXIT_BAD
        wanted = expected | PAIRING_REASONS
        bad = sum(n for reason, n in self.rejected.items() if reason not in wanted)
        judged = self.total - sum(n for reason, n in self.rejected.items() if reason in wanted)
        return EXIT_BAD if judged and bad > max_bad * judged else 0

    def lines(self) -> list[str]:
        """Return the summary, one line a fact; reasons come with their meaning."""
        parts = ", ".join(
            f"{split} {n:,}" for split, n in sorted(self.kept.items()) if split != "."
        )
        out = [f"kept {self.kept.total():,}" + (f" ({parts})" if parts else "")]
        for note, text in CONVERTED.items():
            if count := self.notes[note]:
                out.append(f"{count:,} {'image was' if count == 1 else 'images were'} {text}")
        if self.rejected:
            out.append(f"rejected {self.rejected.total():,}, each a row in rejected.jsonl:")
            ranked = sorted(self.rejected.items(), key=lambda r: (-r[1], r[0]))
            out += [f"  {n:>7,}  {reason:<20} {REASONS[reason]}" for reason, n in ranked]
            rows = [json.loads(line) for _, line in self.shown if line]
            out += [
                f"  {r['source']}: {r['reason']}" + (f", {r['detail']}" if r["detail"] else "")
                for r in rows
            ]
            out += ["  ..."] if self.rejected.total() > len(rows) > 0 else []
        return out + [f"warning: {w}" for w in self.warnings]
