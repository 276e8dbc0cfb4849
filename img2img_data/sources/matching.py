"""Matching of the files of two folders: by name, by template, by regular expression or by a table.

Files are never paired by sort order. To add a matcher, write a function that returns how the names
of either side are read, and add a row to ``MATCHERS`` and its name to ``MatchSettings.match``.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import signal
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import model_validator

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.files import MAX_BYTES, read_named
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.sources.folder import tags_of

MAX_CANDIDATES: Final = 5
"""Number of other candidates in the row of an ambiguous file."""

MAX_RATED: Final = 1000
"""Number of names of each folder by which patterns are rated; the best then sees all names."""

PATTERN_SECONDS: Final = 1.0
"""CPU time for matching one name with a regular expression."""

Paths = Sequence[bytes]
Identify = Callable[[bytes], str | None]
"""Function from a relative path to the identity that both halves share, None if it has none."""


class MatchSettings(FrozenModel):
    """Settings of the matching of two folders."""

    match: Literal["stem", "cuhk", "template", "regex", "csv"] = "stem"
    """how to match names; stem: equal paths, ignoring extension and case; cuhk: names of the CUHK
    face sketch database; template, regex, csv: see the options of these names"""
    template_a: str | None = None
    """pattern for the names of the inputs, such as '{id}.jpg'"""
    template_b: str | None = None
    """pattern for the names of the targets, such as '{id}-sz1.jpg'"""
    regex_a: str | None = None
    """regular expression for the names of the inputs, with a group (?P<id>...)"""
    regex_b: str | None = None
    """regular expression for the names of the targets  [default: --regex-a]"""
    csv: str | None = None
    """table of pairs, with the columns input,target; paths are relative to INPUTS and TARGETS, or
    absolute, and may repeat; a column 'split' names the splits, all others are tags"""

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for name in sorted(self.model_fields_set - {"match"}):
            match = name.partition("_")[0]
            if match != self.match:
                option = f"--{name.replace('_', '-')}"
                hint = f"--match {match}; add that, or leave it out"
                raise ValueError(f"{option} needs {hint}")
        return self


@dataclass(slots=True)
class Matching:
    """Result of matching: the pairs, and the unmatched files with the reason."""

    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    unmatched: list[tuple[int, bytes, str, str]] = field(default_factory=list)
    """(side 0 or 1, path, reason, detail)"""
    tags: dict[tuple[bytes, bytes], dict[str, str]] = field(default_factory=dict)
    """Further columns of a table, by pair."""


def match_paths(
    first: Paths, second: Paths, settings: MatchSettings, roots: Sequence[Path] = (Path(), Path())
) -> Matching:
    """Pair the paths of two folders; files without a partner, or with several, are unmatched.

    Upper and lower case, and composed and decomposed letters (NFC, NFD), only count where names
    would be ambiguous otherwise. ``roots`` are the two folders: the paths of a table may contain
    them. ``UsageError`` for wrong templates, patterns and tables.
    """
    if settings.match == "csv":
        return _match_table(first, second, settings.csv, roots)
    identify = MATCHERS[settings.match](settings)
    sides = [_by_identity(paths, identify[i]) for i, paths in enumerate((first, second))]
    result = Matching()
    detail = f"the name does not match --match {settings.match}"
    for side, groups in enumerate(sides):
        result.unmatched += [(side, p, "unpaired", detail) for p in groups.pop(None, [])]
    for name in sorted({str(n) for n in sides[0].keys() | sides[1].keys()}):
        _match_group(sides[0].get(name, []), sides[1].get(name, []), result)
    return result


def better_match(first: Paths, second: Paths) -> tuple[str, int]:
    """Return the options that pair the most files, and the number of their pairs.

    The matchers without options, then patterns for names that differ in the padding of numbers, in
    a folder, a suffix or a prefix; of equals the first.
    """
    guesses = [MatchSettings(match="stem"), MatchSettings(match="cuhk")]
    for head, *tails in itertools.product(_HEADS, _TAILS, _TAILS):
        a, b = (head + tail for tail in tails)
        guesses.append(MatchSettings(match="regex", regex_a=a, regex_b=b if b != a else None))

    def count(guess: MatchSettings, limit: int | None) -> int:
        with contextlib.suppress(UsageError):  # a pattern that takes too long with these names
            return len(match_paths(first[:limit], second[:limit], guess).pairs)
        return 0

    best = max(guesses, key=lambda guess: count(guess, MAX_RATED))
    options = [(f"--{k.replace('_', '-')}", v) for k, v in best if v]
    return shlex.join(itertools.chain(*options)), count(best, None)


def _by_identity(paths: Iterable[bytes], identify: Identify) -> dict[str | None, list[bytes]]:
    groups: dict[str | None, list[bytes]] = {}
    with _alarm() as set_alarm:
        for path in paths:
            try:
                set_alarm()
                groups.setdefault(identify(path), []).append(path)
            except TimeoutError:
                why = f"takes more than {PATTERN_SECONDS:g} s to match"
                hint = "avoid nested repetition, as in (x+)+"
                raise UsageError("pattern", printable(path), why, hint) from None
    return groups


@contextlib.contextmanager
def _alarm() -> Iterator[Callable[[], object]]:
    """Yield a function that sets an alarm, a ``TimeoutError`` in ``PATTERN_SECONDS``.

    There is no such signal on Windows and outside of the main thread: no limit then.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not in_main_thread:
        yield lambda: None
        return

    def ring(number: int, frame: object) -> None:
        raise TimeoutError

    # Python's matcher checks for signals, so this ends a pattern such as '(a+)+b', which may take
    # ages. CPU time, because a process on a busy machine may well wait for a second.
    previous = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, PATTERN_SECONDS)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def _match_group(first: list[bytes], second: list[bytes], result: Matching) -> None:
    """Pair the files of one identity: one with one, else by equal path, else by equal stem."""
    if len(first) == len(second) == 1:
        result.pairs.append((first[0], second[0]))
        return
    remaining = (set(first), set(second))
    for name_of in (bytes, _without_extension):
        a, b = (_unique_names(side, name_of) for side in remaining)
        for name in sorted(a.keys() & b.keys()):
            result.pairs.append((a[name], b[name]))
            remaining[0].discard(a[name])
            remaining[1].discard(b[name])
    candidates = sorted({*first, *second})
    for side, other in enumerate((second, first)):
        for path in sorted(remaining[side]):
            reason, detail = "unpaired", "the other half is missing"
            if other:
                reason, detail = "ambiguous-pair", f"also: {_some_of(candidates, path)}"
            result.unmatched.append((side, path, reason, detail))


def _without_extension(path: bytes) -> bytes:
    return os.path.splitext(path)[0]


def _unique_names(paths: set[bytes], name_of: Callable[[bytes], bytes]) -> dict[bytes, bytes]:
    """Return the paths by name, without those whose name is not unique."""
    counts = Counter(map(name_of, paths))
    return {name_of(path): path for path in paths if counts[name_of(path)] == 1}


def _some_of(paths: Paths, path: bytes) -> str:
    """Return a few other paths: all of them, for a thousand files, would be a million names."""
    others = [printable(p) for p in paths[: MAX_CANDIDATES + 1] if p != path][:MAX_CANDIDATES]
    more = len(paths) - 1 - len(others)
    return ", ".join(others) + (f" and {more:,} more" if more else "")


# -------------------------------------------------------------------------------------- text output
def describe_matching(matching: Matching, with_pairs: bool, limit: int = 0) -> Iterator[str]:
    """Yield the unmatched files with their reasons; ``with_pairs``: first the pairs.

    Of each reason and side at most ``limit`` rows, 0 for all.
    """
    shared = 2 * len(matching.pairs) - sum(len(set(s)) for s in zip(*matching.pairs, strict=True))
    if shared:
        yield f"files in several pairs: {shared:,}; pairs that share a file stay in one split"
    if with_pairs:
        count = f"{len(matching.unmatched):,} files without their other half"
        yield f"{len(matching.pairs):,} pairs, {count}"
        pairs = [(printable(a), printable(b)) for a, b in matching.pairs]
        yield from _rows(pairs, "pair  {}  |  {}", limit)
    for reason, side in sorted({(reason, side) for side, _, reason, _ in matching.unmatched}):
        found = sorted((p, d) for s, p, r, d in matching.unmatched if (r, s) == (reason, side))
        rows = [(printable(path), detail) for path, detail in found]
        yield from _rows(rows, f"{reason}  {'AB'[side]}/{{}}  {{}}", limit)


def _rows(rows: Sequence[tuple[str, str]], form: str, limit: int) -> Iterator[str]:
    shown = rows[: limit or None]
    yield from (form.format(*row) for row in shown)
    if len(shown) < len(rows):
        reason = form.partition(" ")[0]
        yield f"... and {len(rows) - len(shown):,} more rows '{reason}'; --rows 0 shows all"


# ----------------------------------------------------------------------------------------- matchers
def _composed(path: bytes) -> str:
    # macOS may store names decomposed (NFD), other systems mostly composed.
    return unicodedata.normalize("NFC", path.decode("utf-8", "surrogateescape"))


def _stem(path: bytes) -> str:
    # Case folding may decompose letters, so the result is composed once more.
    return unicodedata.normalize("NFC", _composed(_without_extension(path)).casefold())


_CUHK: Final = re.compile(
    r"(?P<folder>(?:.*/)?)"
    r"(?:(?P<sex>[fmw])(?P<series>[12p]?)(?P<number>-\d+-\d+)|(?P<xm2vts>\d+_\d+_\d+))"
    r"(?:[-_]sz\d+)?"
)


def _cuhk(path: bytes) -> str | None:
    """Return the person of a name of the CUHK face sketch database (CUFS), photo or sketch.

    ================  ==========  ==============
    CUHK, training    f-005-01    F2-005-01-sz1
    CUHK, test        m-063-01    m-063-01-sz1
    CUHK, test        f1-001-01   f1-001-01-sz1
    AR                m-002-1     Mp-002-1-sz1
    AR                w-001-1     Wp-001-1-sz1
    XM2VTS            000_1_1     000_1_1_sz1
    ================  ==========  ==============

    Case does not count; f1-005 and f-005 are two people. The names are those of the lists in the
    package bob.db.cuhk_cufs (Idiap); the first two rows were checked against a copy of the data.
    """
    found = _CUHK.fullmatch(_stem(path))
    if not found:
        return None
    series = "1" if found["series"] == "1" else ""
    return str(found["folder"] + (found["xm2vts"] or found["sex"] + series + found["number"]))


def _by_template(settings: MatchSettings) -> tuple[Identify, Identify]:
    a, b = settings.template_a, settings.template_b
    if not a or not b:
        hint = "give --template-a and --template-b"
        raise UsageError("option", "--match template", "needs two templates", hint)
    return _template(a, "--template-a"), _template(b, "--template-b")


def _template(template: str, option: str) -> Identify:
    """Return the reader of names with ``{id}``; if it occurs twice, both must be equal."""
    before, *others = template.split("{id}")
    unknown = re.search(r"\{[^{}/]*\}", "".join([before, *others]))
    if not others:
        raise UsageError("option", option, "has no {id}", "write it as in '{id}-sz1.jpg'")
    if unknown:
        raise UsageError("option", option, f"has {unknown[0]}", "only {id} is a placeholder")
    after = "(?P=id)".join(map(re.escape, others))
    return _regex(f"{re.escape(before)}(?P<id>.+){after}", option)


def _by_regex(settings: MatchSettings) -> tuple[Identify, Identify]:
    if not settings.regex_a:
        raise UsageError("option", "--match regex", "needs a pattern", "give --regex-a")
    first = _regex(settings.regex_a, "--regex-a")
    return first, _regex(settings.regex_b, "--regex-b") if settings.regex_b else first


def _regex(pattern: str, option: str) -> Identify:
    try:
        compiled = re.compile(unicodedata.normalize("NFC", pattern))
    except (re.error, OverflowError, RecursionError) as error:
        why = f"is not a regular expression: {error}"
        raise UsageError("option", option, why, "correct the pattern") from None
    if "id" not in compiled.groupindex:
        hint = "mark the part that both halves share"
        raise UsageError("option", option, "has no group (?P<id>...)", hint)

    def identify(path: bytes) -> str | None:
        found = compiled.fullmatch(_composed(path))
        return found["id"] if found else None

    return identify


MATCHERS: Final[dict[str, Callable[[MatchSettings], tuple[Identify, Identify]]]] = {
    "stem": lambda settings: (_stem, _stem),
    "cuhk": lambda settings: (_cuhk, _cuhk),
    "template": _by_template,
    "regex": _by_regex,
}


# Parts of the patterns that ``better_match`` tries, simple ones first.
_HEADS: Final = (
    r"(?P<id>.+)",
    r"0*(?P<id>.+)",
    r"(?:.*/)?(?P<id>.+)",
    r"(?:.*/)?0*(?P<id>.+)",
    r"(?:.*[/_-])?(?P<id>.+)",
    r"(?:.*\D)?0*(?P<id>\d+)",
)
_TAILS: Final = (r"\.\w+", r"[-_. ][^-_. /]+\.\w+")
"""An extension, without and with a suffix before it."""


# ------------------------------------------------------------------------------------------- tables
def _match_table(first: Paths, second: Paths, table: str | None, roots: Sequence[Path]) -> Matching:
    if not table:
        hint = "give --csv FILE with columns input,target"
        raise UsageError("option", "--match csv", "needs a table", hint)
    # A table of another system may spell a path differently: by its letters, slashes or "./".
    names = [{_spelling(p): p for p in paths} | {p: p for p in paths} for paths in (first, second)]
    above = [os.fsencode(os.path.join(os.path.abspath(root), "")) for root in roots]
    result, unused = Matching(), (set(first), set(second))
    pairs: dict[tuple[bytes, bytes], dict[str, str]] = {}
    # The first row is line 2, after the names of the columns.
    for number, row in enumerate(_read_table(Path(table)), 2):
        cells = (os.fsencode(row.pop(column) or "") for column in ("input", "target"))
        found = [_find(*side) for side in zip(cells, names, above, strict=True)]
        unusable = [(side, path) for side, path in enumerate(found) if path not in names[side]]
        for side, path in unusable:
            detail = f"line {number} of the table names it"
            if Path(os.fsdecode(path)).is_absolute():
                detail += " by an absolute path that is not of an image in the folder"
            result.unmatched.append((side, path, "missing", detail))
        if not unusable:
            # A pair that is listed twice is one pair.
            tags = tags_of({name: cell or None for name, cell in row.items()})
            pairs.setdefault((found[0], found[1]), tags)
        for side, path in enumerate(found):
            unused[side].discard(path)
    result.pairs, result.tags = list(pairs), {p: tags for p, tags in pairs.items() if tags}
    for side, paths in enumerate((first, second)):
        left = [path for path in paths if path in unused[side]]
        result.unmatched += [(side, path, "unpaired", "not in the table") for path in left]
    return result


def _find(path: bytes, names: Mapping[str | bytes, bytes], root: bytes) -> bytes:
    """Return the file that a path in a table names, the path itself if there is none."""
    # Spreadsheets often hold absolute paths, or paths from the folder of the command.
    below = os.path.abspath(path).removeprefix(root)
    return names.get(path) or names.get(_spelling(path)) or names.get(_spelling(below), path)


def _spelling(name: bytes) -> str:
    return _composed(name).replace("\\", "/").removeprefix("./")


def _read_table(path: Path) -> list[dict[str, Any]]:
    import csv

    text = read_named("table", path, MAX_BYTES).decode("utf-8-sig", "surrogateescape")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = csv.DictReader(io.StringIO(text, ""), restkey="", delimiter=delimiter)
    try:
        if not {"input", "target"} <= set(rows.fieldnames or ()):
            hint = "name them in its first line"
            raise UsageError("table", path, "has no columns input and target", hint)
        return list(rows)
    except csv.Error as error:
        raise UsageError("table", path, str(error), "correct the file") from None
