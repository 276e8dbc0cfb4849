"""Attributes of images (tags, kind, degradation drawn) and the choice of those to score by.

The tag ``group`` is not one of them: it names the unit that confidence intervals resample.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.settings_model import did_you_mean

MAX_VALUES: Final = 20
"""Distinct values that an attribute may have to be scored by default."""
MAX_VALUES_ASKED: Final = 200
UNKNOWN: Final = "unknown"
_BRANCH: Final = re.compile(r"((?:(\d{1,4})\.one-of\.)?)branch")

Attributes: TypeAlias = Mapping[str, str]
"""The attributes of one image: name to value, as text."""


def attributes_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the attributes of a pair by its manifest row; a tag overrides another attribute."""
    tags = row.get("tags")
    # Rows may come from other programs, so nothing about their types is taken for granted.
    found = _branches(row.get("drawn"))
    if row.get("kind"):
        found["kind"] = printable(str(row["kind"]))
    for name, value in tags.items() if isinstance(tags, Mapping) else ():
        if name != "group" and not isinstance(value, Mapping | list):
            found[printable(str(name))] = _as_text(value)
    return found


def _branches(drawn: object) -> dict[str, str]:
    """Return the branch that each outermost ``one-of`` took, as in {"degradation": "gaussian"}.

    Several are called "degradation 1", "degradation 2" ... by their position in the recipe.
    """
    if not isinstance(drawn, Mapping):
        return {}
    names = [str(name) for name in drawn]
    matches = [match for name in names if (match := _BRANCH.fullmatch(name))]
    found = {}
    for match in matches:
        branch = drawn[match[0]]
        prefix = f"{match[1]}{branch}."
        inner = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        kind = next(inner, "").partition(".")[0]
        # A branch without parameters leaves no name; a negative branch means that none was applied.
        unnamed = "none" if isinstance(branch, int) and branch < 0 else f"branch {branch}"
        number = f" {int(match[2]) + 1}" if len(matches) > 1 and match[2] else ""
        found[f"degradation{number}"] = printable(kind or unnamed)
    return found


def _as_text(value: object) -> str:
    if value is None or value == "":
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def choose_tags(
    attributes: Sequence[Attributes], asked: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the attributes to score by (those asked for, or all that form a few large groups), and
    notes about those that were left out.

    By default an attribute with one value, with more than MAX_VALUES, or with fewer than two images
    per value is left out. Raises UsageError if one that was asked for has more than
    MAX_VALUES_ASKED.
    """
    names = dict.fromkeys(name for image in attributes for name in image)
    counts = {name: Counter(image.get(name, UNKNOWN) for image in attributes) for name in names}
    if asked:
        # Each value is a row of the page and of the CSV file.
        for name in asked:
            if len(counts.get(name, ())) > MAX_VALUES_ASKED:
                why = f"has {len(counts[name]):,} values in these images"
                raise UsageError("tag", name, why, f"choose a tag with at most {MAX_VALUES_ASKED}")
        missing = [f"no image has a tag {name}" for name in asked if name not in counts]
        return [name for name in dict.fromkeys(asked) if name in counts], missing
    # A person's name or a time stamp has about as many values as there are images: no groups to
    # compare.
    chosen, crowded = [], []
    for name, values in counts.items():
        if len(values) > MAX_VALUES or (len(values) > 1 and len(values) * 2 > len(attributes)):
            crowded.append(f"{name} ({len(values):,} values)")
        elif len(values) > 1:
            chosen.append(name)
    note = f"not scored by {', '.join(crowded)}: too many values for {len(attributes):,} images"
    return chosen, [note] if crowded else []


def check_tags(asked: Sequence[str], attributes: Sequence[Attributes]) -> None:
    """Raise UsageError if no image has one of the attributes that were asked for."""
    known = sorted({name for image in attributes for name in image})
    for name in asked:
        if name not in known:
            hint = did_you_mean(name, known) if known else "these images have no tags"
            raise UsageError("option", "--by", f"no image has a tag '{name}'", hint)


def group_by_value(attributes: Sequence[Attributes], name: str) -> dict[str, list[int]]:
    """Return the indices of the images with each value of an attribute, the largest group first."""
    groups: dict[str, list[int]] = {}
    for index, image in enumerate(attributes):
        groups.setdefault(image.get(name, UNKNOWN), []).append(index)
    return dict(sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])))
