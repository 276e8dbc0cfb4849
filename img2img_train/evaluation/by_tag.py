"""Scores by tag: how a model does on each gender, each kind of degradation, each folder's own tags.

What a image can be sorted by is what its row says: ``kind``, each tag, and of a degradation with branches
(``one-of``) which one was taken. The tag ``group`` is the unit that intervals resample, not a slice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.settings_model import did_you_mean

MOST: Final = 20
"""Different values that a tag may have to be shown unasked."""
MOST_ASKED: Final = 200
UNKNOWN: Final = "unknown"
NONE: Final = "none"
_BRANCH: Final = re.compile(r"((?:(\d{1,4})\.)?one-of)\.branch")

Facts = Mapping[str, str]


def facts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return what a pair can be sorted by, as texts; a tag of the same name as another fact counts first."""
    tags = row.get("tags")
    found = _branches(row.get("drawn"))
    if row.get("kind"):
        found["kind"] = printable(str(row["kind"]))
    for name, value in tags.items() if isinstance(tags, Mapping) else ():
        if name != "group" and not isinstance(value, Mapping | list):
            found[printable(str(name))] = _text(value)
    return found


def _branches(drawn: object) -> dict[str, str]:
    """Return the branch that each outermost ``one-of`` took, by name, as in {"degradation": "gaussian"}.

    Of several they are "degradation 1" and so on, by their place in the recipe.
    """
    names = [str(name) for name in drawn] if isinstance(drawn, Mapping) else []
    found = [match for name in names if (match := _BRANCH.fullmatch(name))]
    taken = {}
    for match in found:
        place = drawn[match[0]] if isinstance(drawn, Mapping) else None
        inside = f"{match[1]}.{place}."
        kind = next(
            (name[len(inside) :].partition(".")[0] for name in names if name.startswith(inside)), ""
        )
        unnamed = NONE if isinstance(place, int) and place < 0 else f"branch {place}"
        number = f" {int(match[2]) + 1}" if len(found) > 1 and match[2] else ""
        taken[f"degradation{number}"] = printable(kind) or printable(unnamed)
    return taken


def _text(value: object) -> str:
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


@dataclass(frozen=True, slots=True)
class Choice:
    """The tags to score by, and a sentence for each that was left out."""

    names: tuple[str, ...]
    notes: tuple[str, ...]


def choose_tags(facts: Sequence[Facts], asked: Sequence[str] = ()) -> Choice:
    """Return the tags to score by: those asked for, or all that sort the images into a few heaps.

    Left out unasked: a tag of one value, of more than MOST, or of fewer than two images a value. UsageError
    where one that was asked for has more than MOST_ASKED.
    """
    names = dict.fromkeys(name for one in facts for name in one)
    counts = {name: Counter(one.get(name, UNKNOWN) for one in facts) for name in names}
    if asked:
        there = tuple(name for name in dict.fromkeys(asked) if name in counts)
        for name in there:
            if len(counts[name]) > MOST_ASKED:
                why = f"has {len(counts[name]):,} values in these images"
                raise UsageError("tag", name, why, f"choose one with {MOST_ASKED} at most")
        return Choice(
            there, tuple(f"no image has a tag {name}" for name in asked if name not in counts)
        )
    chosen, crowded = [], []
    for name, values in counts.items():
        if len(values) > MOST or (len(values) > 1 and len(values) * 2 > len(facts)):
            crowded.append(f"{name} ({len(values):,} values)")
        elif len(values) > 1:
            chosen.append(name)
    left_out = f"not scored by {', '.join(crowded)}: too many for {len(facts):,} images"
    return Choice(tuple(chosen), (left_out,) if crowded else ())


def check_tags(asked: Sequence[str], facts: Sequence[Facts]) -> None:
    """Raise UsageError where a tag that was asked for is in none of the images."""
    there = sorted({name for one in facts for name in one})
    for name in asked:
        if name not in there:
            known = f"{did_you_mean(name, there)}" if there else "these images have none"
            raise UsageError("option", "--by", f"no image has a tag '{name}'", known)


def heaps(facts: Sequence[Facts], name: str) -> dict[str, list[int]]:
    """Return the places of the images of each value of a tag, the largest heap first."""
    found: dict[str, list[int]] = {}
    for place, one in enumerate(facts):
        found.setdefault(one.get(name, UNKNOWN), []).append(place)
    return dict(sorted(found.items(), key=lambda heap: (-len(heap[1]), heap[0])))
