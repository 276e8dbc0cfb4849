"""Which files of two folders belong together: by name, by template, by pattern or by a table.

Nothing is ever paired by sort order. Adding a matcher: a function that returns how the names of either side
are read, and a row in ``MATCHERS``.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from img2img_data.core.errors import UsageError, printable

MENTIONED: Final = 5
"""How many other candidates the row of an ambiguous file names."""

PATIENCE: Final = 1.0
"""Seconds between two looks at whether a pattern has come on."""

Identify = Callable[[bytes], str | None]
"""From a source's relative path to what it shares with its other half; None: no such name."""


class MatchSettings(BaseModel):
    """Which image belongs to which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Literal["stem", "cuhk", "template", "regex", "csv"] = Field(
        "stem",
        description="rule to match names; stem: equal paths but for extension and case; cuhk: names "
        "of the CUHK face sketch database; template, regex, csv: as given by the options of that name",
    )
    template_a: str | None = Field(None, description="name of the inputs, as in '{id}.jpg'")
    template_b: str | None = Field(None, description="name of the targets, as in '{id}-sz1.jpg'")
    regex_a: str | None = Field(None, description="pattern of the inputs with a group (?P<id>...)")
    regex_b: str | None = Field(None, description="pattern of the targets  [default: as --regex-a]")
    csv: str | None = Field(None, description="table with the columns input,target: relative paths")

    @model_validator(mode="after")
    def _of_this_match(self) -> Self:
        theirs = {
            "template": ("template_a", "template_b"),
            "regex": ("regex_a", "regex_b"),
            "csv": ("csv",),
        }
        for match, names in theirs.items():
            given = [
                name for name in names if name in self.model_fields_set and match != self.match
            ]
            if given:
                option = f"--{given[0].replace('_', '-')}"
                raise ValueError(
                    f"{option} belongs to --match {match}; give that too, or leave it out"
                )
        return self


@dataclass(slots=True)
class Matching:
    """The result of matching: pairs, and what could not be paired with the reason why."""

    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    unmatched: list[tuple[int, bytes, str, str]] = field(default_factory=list)
    """(side 0 or 1, path, reason, detail)"""


def match_paths(
    first: Sequence[bytes], second: Sequence[bytes], settings: MatchSettings
) -> Matching:
    """Pair the paths of two folders. Whatever has no partner, or more than one, is in ``unmatched``.

    Upper and lower case, and a letter written as one character or as two (NFC, NFD), are told apart only
    where the names would be ambiguous otherwise. ``UsageError`` for wrong templates, patterns and tables.
    """
    if settings.match == "csv":
        return _match_table(first, second, settings)
    identify = MATCHERS[settings.match](settings)
    with _watched() as watch:
        sides = [_grouped(paths, identify[i], watch) for i, paths in enumerate((first, second))]
    result = Matching()
    for side, groups in enumerate(sides):
        for path in groups.pop(None, []):
            result.unmatched.append(
                (side, path, "unpaired", f"the name does not fit --match {settings.match}")
            )
    for name in sorted({str(n) for n in sides[0].keys() | sides[1].keys()}):
        _match_group(sides[0].get(name, []), sides[1].get(name, []), result)
    return result


def better_match(
    first: Sequence[bytes], second: Sequence[bytes], settings: MatchSettings
) -> tuple[str, int]:
    """Return the matcher without options that pairs the most, and how many pairs it finds."""
    names = [name for name in ("stem", "cuhk") if name != settings.match]
    found = [(len(match_paths(first, second, MatchSettings(match=n)).pairs), n) for n in names]
    count, name = max(found)
    return name, count


def _grouped(
    paths: Iterable[bytes], identify: Identify, watch: _Watch
) -> dict[str | None, list[bytes]]:
    groups: dict[str | None, list[bytes]] = {}
    for path in paths:
        watch.path = path
        groups.setdefault(identify(path), []).append(path)
    return groups


def _match_group(first: list[bytes], second: list[bytes], result: Matching) -> None:
    """Pair what shares one identity: one with one, else those of equal path, else of equal stem."""
    if len(first) == len(second) == 1:
        result.pairs.append((first[0], second[0]))
        return
    left = (set(first), set(second))
    for same in (bytes, _bare):
        named = [_only_ones(side, same) for side in left]
        for name in sorted(named[0].keys() & named[1].keys()):
            result.pairs.append((named[0][name], named[1][name]))
            left[0].discard(named[0][name])
            left[1].discard(named[1][name])
    everyone = sorted({*first, *second})
    for side, (own, other) in enumerate(((left[0], second), (left[1], first))):
        for path in sorted(own):
            if not other:
                result.unmatched.append((side, path, "unpaired", "no other half"))
            else:
                result.unmatched.append(
                    (side, path, "ambiguous-pair", f"also: {_some_of(everyone, path)}")
                )


def _bare(path: bytes) -> bytes:
    return os.path.splitext(path)[0]


def _only_ones(paths: Iterable[bytes], same: Callable[[bytes], bytes]) -> dict[bytes, bytes]:
    """Return the paths by name, without those that share theirs."""
    groups: dict[bytes, list[bytes]] = {}
    for path in paths:
        groups.setdefault(same(path), []).append(path)
    return {name: found[0] for name, found in groups.items() if len(found) == 1}


def _some_of(paths: Sequence[bytes], path: bytes) -> str:
    """Return the first few of the others; a thousand files of one identity would need a million names."""
    others = [printable(p) for p in paths[: MENTIONED + 1] if p != path][:MENTIONED]
    more = len(paths) - 1 - len(others)
    return ", ".join(others) + (f" and {more:,} more" if more else "")


def _composed(path: bytes) -> str:
    return unicodedata.normalize("NFC", path.decode("utf-8", "surrogateescape"))


# ------------------------------------------------------------------------------------ to read
def describe_matching(matching: Matching, whole: bool, most: int = 0) -> Iterator[str]:
    """Yield the counts, then the unmatched files with their reasons, and with ``whole`` the pairs before them.

    Of each kind at most ``most`` rows, 0 for all.
    """
    if whole:
        yield f"{len(matching.pairs):,} pairs, {len(matching.unmatched):,} files without their other half"
        yield from _some_rows(
            [(printable(a), printable(b)) for a, b in matching.pairs], "pair  {}  |  {}", most
        )
    kinds: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for side, path, reason, detail in sorted(matching.unmatched):
        kinds.setdefault((reason, side), []).append((printable(path), detail))
    for (reason, side), rows in sorted(kinds.items()):
        yield from _some_rows(rows, f"{reason}  {'AB'[side]}/{{}}  {{}}", most)


def _some_rows(rows: Sequence[tuple[str, str]], form: str, most: int) -> Iterator[str]:
    shown = rows[: most or None]
    yield from (form.format(*row) for row in shown)
    if len(shown) < len(rows):
        word = form.partition(" ")[0]
        yield f"... and {len(rows) - len(shown):,} more rows '{word}'; --rows 0 shows all"


# ------------------------------------------------------------------------------ patterns that never end
@dataclass(slots=True)
class _Watch:
    """Which path is read, and which one was at the last look."""

    path: bytes = b""
    seen: bytes | None = None


@contextlib.contextmanager
def _watched() -> Iterator[_Watch]:
    """End a pattern that is still at the same name after a second or two, as '(a+)+b' may be for ages.

    By the clock signal, which Python's matcher heeds; where there is none (Windows, threads) none is ended.
    """
    watch = _Watch()
    if (
        not hasattr(signal, "setitimer")
        or threading.current_thread() is not threading.main_thread()
    ):
        yield watch
        return

    def look(number: int, frame: object) -> None:
        if watch.seen == watch.path:
            shown = printable(watch.path)
            raise UsageError(
                "pattern",
                shown,
                f"is not read within {PATIENCE:g} s",
                "write a pattern without (x+)+",
            )
        watch.seen = watch.path

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
    try:
        yield watch
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# --------------------------------------------------------------------------------------- matchers
def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _stem(path: bytes) -> str:
    return _fold(_bare(path).decode("utf-8", "surrogateescape"))


def _by_stem(settings: MatchSettings) -> tuple[Identify, Identify]:
    return _stem, _stem


_CUHK: Final = re.compile(
    r"(?P<folder>(?:.*/)?)(?:(?P<sex>[fmw])(?P<series>[12p]?)(?P<number>-\d+-\d+)|(?P<xm2vts>\d+_\d+_\d+))"
    r"(?:[-_]sz\d+)?"
)


def _by_cuhk(settings: MatchSettings) -> tuple[Identify, Identify]:
    """Names of the CUHK face sketch database (CUFS), photo and sketch, in any case.

    ================  ==========  ==============
    CUHK, training    f-005-01    F2-005-01-sz1
    CUHK, test        m-063-01    m-063-01-sz1
    CUHK, test        f1-001-01   f1-001-01-sz1
    AR                m-002-1     Mp-002-1-sz1
    AR                w-001-1     Wp-001-1-sz1
    XM2VTS            000_1_1     000_1_1_sz1
    ================  ==========  ==============

    f1-005 and f-005 are two people. The names are those of the lists in the package bob.db.cuhk_cufs (Idiap);
    the first two rows also those of our copy.
    """

    def identify(path: bytes) -> str | None:
        found = _CUHK.fullmatch(_stem(path))
        if not found:
            return None
        who = (
            found["xm2vts"]
            or found["sex"] + ("1" if found["series"] == "1" else "") + found["number"]
        )
        return str(found["folder"] + who)

    return identify, identify


def _by_template(settings: MatchSettings) -> tuple[Identify, Identify]:
    if not settings.template_a or not settings.template_b:
        raise UsageError(
            "option", "--match template", "needs both names", "give --template-a and --template-b"
        )
    return _template(settings.template_a, "--template-a"), _template(
        settings.template_b, "--template-b"
    )


def _template(template: str, option: str) -> Identify:
    """Return the reader of a name with ``{id}``; where it stands twice, both must be the same."""
    before, *others = template.split("{id}")
    strange = re.search(r"\{[^{}/]*\}", "".join([before, *others]))
    if not others:
        raise UsageError("option", option, "has no {id}", "write it as in '{id}-sz1.jpg'")
    if strange:
        raise UsageError(
            "option", option, f"has {strange[0]}", "only {id} stands for a part of the name"
        )
    after = "(?P=id)".join(map(re.escape, others))
    return _regex(f"{re.escape(before)}(?P<id>.+){after}", option)


def _by_regex(settings: MatchSettings) -> tuple[Identify, Identify]:
    if not settings.regex_a:
        raise UsageError(
            "option",
            "--match regex",
            "needs a pattern",
            "give --regex-a, and --regex-b if it differs",
        )
    first = _regex(settings.regex_a, "--regex-a")
    return first, _regex(settings.regex_b, "--regex-b") if settings.regex_b else first


def _regex(pattern: str, option: str) -> Identify:
    try:
        compiled = re.compile(unicodedata.normalize("NFC", pattern))
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            "option", option, f"is no regular expression: {error}", "mend the pattern"
        ) from None
    if "id" not in compiled.groupindex:
        raise UsageError(
            "option", option, "has no group (?P<id>...)", "name the part both halves share"
        )

    def identify(path: bytes) -> str | None:
        found = compiled.fullmatch(_composed(path))
        return found["id"] if found else None

    return identify


MATCHERS: Final[dict[str, Callable[[MatchSettings], tuple[Identify, Identify]]]] = {
    "stem": _by_stem,
    "cuhk": _by_cuhk,
    "template": _by_template,
    "regex": _by_regex,
}


# ------------------------------------------------------------------------------------------ table
def _match_table(
    first: Sequence[bytes], second: Sequence[bytes], settings: MatchSettings
) -> Matching:
    if not settings.csv:
        raise UsageError(
            "option", "--match csv", "needs the table", "give --csv FILE with columns input,target"
        )
    there = (_Names(first), _Names(second))
    rows = [tuple(map(_Names.find, there, row)) for row in _read_table(Path(settings.csv))]
    result, used = Matching(), (set[bytes](), set[bytes]())
    for number, row in enumerate(rows, 2):
        for side, path in enumerate(row):
            if path not in there[side].paths:
                result.unmatched.append(
                    (side, path, "missing", f"line {number} of the table names it")
                )
            elif path in used[side]:
                result.unmatched.append(
                    (side, path, "ambiguous-pair", f"line {number} of the table names it again")
                )
        if all(p in t.paths and p not in u for p, t, u in zip(row, there, used, strict=True)):
            result.pairs.append((row[0], row[1]))
        for path, seen in zip(row, used, strict=True):
            seen.add(path)
    for side, (paths, seen) in enumerate(zip((first, second), used, strict=True)):
        result.unmatched += [
            (side, p, "unpaired", "not in the table") for p in paths if p not in seen
        ]
    return result


class _Names:
    """The paths of a folder, found by what a table made elsewhere may call them too."""

    def __init__(self, paths: Sequence[bytes]) -> None:
        self.paths = frozenset(paths)
        self._spelt = {_spelt(path): path for path in paths}

    def find(self, name: bytes) -> bytes:
        """Return the path of that name; the name itself when there is none."""
        return name if name in self.paths else self._spelt.get(_spelt(name), name)


def _spelt(name: bytes) -> str:
    return _composed(name).replace("\\", "/").removeprefix("./")


def _read_table(path: Path) -> list[tuple[bytes, bytes]]:
    import csv

    try:
        if not path.is_file():
            raise UsageError("table", path, "no such file", "check the path")
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=head.count))
            if not {"input", "target"} <= set(reader.fieldnames or ()):
                raise UsageError(
                    "table", path, "has no columns input and target", "name them in its first line"
                )
            return [(os.fsencode(r["input"] or ""), os.fsencode(r["target"] or "")) for r in reader]
    except (OSError, csv.Error) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError("table", path, why, "check the path") from None
