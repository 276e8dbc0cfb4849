"""Which files of two folders belong together: by name, by template, by pattern or by a table.

Nothing is ever paired by sort order. Adding a matcher: a function that returns how the names of either side
are read, and a row in ``MATCHERS``.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from img2img_data.errors import UsageError, printable

Identify = Callable[[bytes], str | None]
"""From a source's relative path to what it shares with its other half; None: no such name."""


class MatchSettings(BaseModel):
    """Which picture belongs to which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Literal["stem", "cuhk", "template", "regex", "csv"] = Field(
        "stem",
        description="stem: equal paths but for extension and case; cuhk: CUHK student names; "
        "template, regex, csv: as given by the options of that name",
    )
    template_a: str | None = Field(None, description="name of the inputs, as in '{id}.jpg'")
    template_b: str | None = Field(None, description="name of the targets, as in '{id}-sz1.jpg'")
    regex_a: str | None = Field(None, description="pattern of the inputs with a group (?P<id>...)")
    regex_b: str | None = Field(None, description="pattern of the targets  [default: as --regex-a]")
    csv: str | None = Field(None, description="table with the columns input,target: relative paths")


@dataclass(slots=True)
class Matching:
    """The result of matching: pairs, and what could not be paired with the reason why."""

    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    loose: list[tuple[int, bytes, str, str]] = field(default_factory=list)
    """(side 0 or 1, path, reason, detail)"""


def match_paths(first: Sequence[bytes], second: Sequence[bytes], settings: MatchSettings) -> Matching:
    """Pair the paths of two folders. Whatever has no partner, or more than one, is in ``loose``."""
    if settings.match == "csv":
        return _match_table(first, second, settings)
    identify = MATCHERS[settings.match](settings)
    sides = [_grouped(paths, identify[i]) for i, paths in enumerate((first, second))]
    result = Matching()
    for side, groups in enumerate(sides):
        for path in groups.pop(None, []):
            result.loose.append((side, path, "unpaired", f"the name does not fit --match {settings.match}"))
    for name in sorted({str(n) for n in sides[0].keys() | sides[1].keys()}):
        _match_group(sides[0].get(name, []), sides[1].get(name, []), result)
    return result


def _grouped(paths: Iterable[bytes], identify: Identify) -> dict[str | None, list[bytes]]:
    groups: dict[str | None, list[bytes]] = {}
    for path in paths:
        groups.setdefault(identify(path), []).append(path)
    return groups


def _match_group(first: list[bytes], second: list[bytes], result: Matching) -> None:
    if len(first) == len(second) == 1:
        result.pairs.append((first[0], second[0]))
        return
    exact = sorted(set(first) & set(second))
    result.pairs += [(path, path) for path in exact]
    for side, (own, other) in enumerate(((first, second), (second, first))):
        for path in sorted(set(own) - set(exact)):
            if not other:
                result.loose.append((side, path, "unpaired", "no other half"))
            else:
                names = ", ".join(printable(p) for p in sorted({*own, *other} - {path}))
                result.loose.append((side, path, "ambiguous-pair", f"also: {names}"))


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _stem(path: bytes) -> str:
    return _fold(os.path.splitext(path)[0].decode("utf-8", "surrogateescape"))


def _by_stem(settings: MatchSettings) -> tuple[Identify, Identify]:
    return _stem, _stem


_CUHK: Final = re.compile(r"(?P<folder>.*/)?(?P<sex>[fm])(?:2)?-(?P<number>\d+)-(?P<pose>\d+)(?:-sz\d+)?")


def _by_cuhk(settings: MatchSettings) -> tuple[Identify, Identify]:
    """Names of the CUHK student set: f-005-01, F2-005-01-sz1 (training), m-001-01-sz1 (test)."""

    def identify(path: bytes) -> str | None:
        found = _CUHK.fullmatch(_stem(path))
        return f"{found['folder'] or ''}{found['sex']}-{found['number']}-{found['pose']}" if found else None

    return identify, identify


def _by_template(settings: MatchSettings) -> tuple[Identify, Identify]:
    if not settings.template_a or not settings.template_b:
        raise UsageError(
            "option", "--match template", "needs both names", "give --template-a and --template-b"
        )
    return _template(settings.template_a, "--template-a"), _template(settings.template_b, "--template-b")


def _template(template: str, option: str) -> Identify:
    before, found, after = template.partition("{id}")
    if not found:
        raise UsageError("option", option, "has no {id}", "write it as in '{id}-sz1.jpg'")
    return _regex(f"{re.escape(before)}(?P<id>.+){re.escape(after)}", option)


def _by_regex(settings: MatchSettings) -> tuple[Identify, Identify]:
    if not settings.regex_a:
        raise UsageError(
            "option", "--match regex", "needs a pattern", "give --regex-a, and --regex-b if it differs"
        )
    first = _regex(settings.regex_a, "--regex-a")
    return first, _regex(settings.regex_b, "--regex-b") if settings.regex_b else first


def _regex(pattern: str, option: str) -> Identify:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError("option", option, f"is no regular expression: {error}", "mend the pattern") from None
    if "id" not in compiled.groupindex:
        raise UsageError("option", option, "has no group (?P<id>...)", "name the part both halves share")

    def identify(path: bytes) -> str | None:
        found = compiled.fullmatch(path.decode("utf-8", "surrogateescape"))
        return found["id"] if found else None

    return identify


MATCHERS: Final[dict[str, Callable[[MatchSettings], tuple[Identify, Identify]]]] = {
    "stem": _by_stem,
    "cuhk": _by_cuhk,
    "template": _by_template,
    "regex": _by_regex,
}


def _match_table(first: Sequence[bytes], second: Sequence[bytes], settings: MatchSettings) -> Matching:
    if not settings.csv:
        raise UsageError(
            "option", "--match csv", "needs the table", "give --csv FILE with columns input,target"
        )
    rows = _read_table(Path(settings.csv))
    result, used = Matching(), (set[bytes](), set[bytes]())
    there = (set(first), set(second))
    for number, row in enumerate(rows, 2):
        for side, path in enumerate(row):
            if path not in there[side]:
                result.loose.append((side, path, "missing", f"line {number} of the table names it"))
            elif path in used[side]:
                result.loose.append(
                    (side, path, "ambiguous-pair", f"line {number} of the table names it again")
                )
        if all(p in t and p not in u for p, t, u in zip(row, there, used, strict=True)):
            result.pairs.append(row)
        for path, seen in zip(row, used, strict=True):
            seen.add(path)
    for side, (paths, seen) in enumerate(zip((first, second), used, strict=True)):
        result.loose += [(side, p, "unpaired", "not in the table") for p in paths if p not in seen]
    return result


def _read_table(path: Path) -> list[tuple[bytes, bytes]]:
    import csv

    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file)
            if not {"input", "target"} <= set(reader.fieldnames or ()):
                raise UsageError(
                    "table", path, "has no columns input and target", "name them in its first line"
                )
            return [(os.fsencode(r["input"] or ""), os.fsencode(r["target"] or "")) for r in reader]
    except (OSError, csv.Error) as error:
        raise UsageError("table", path, str(error), "check the path") from None
