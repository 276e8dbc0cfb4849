"""How sources become pairs: what stands on the left, what on the right, and which belong together.

Adding a pairing: write a frozen model with ``make`` and give it a row in ``PAIRINGS``. Which files of two
folders belong together is decided by a matcher in ``MATCHERS``; nothing is ever paired by sort order.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from img2img_data import images
from img2img_data.corpus import Colour
from img2img_data.degradations import DEGRADATIONS, Degradation, Gaussian
from img2img_data.errors import UsageError, printable

Pixels = NDArray[Any]


class Made(NamedTuple):
    """One pair in memory, the parameters that were drawn for it, and what was measured on it."""

    input: Pixels
    target: Pixels
    drawn: dict[str, float]
    measured: dict[str, float]


class Pairing(BaseModel):
    """What every pairing is: frozen settings and ``make``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    colour: ClassVar[Colour] = "rgb"

    @property
    def random(self) -> bool:
        """Whether ``make`` uses its generator."""
        return False

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Make a pair from upright H x W x 3 RGB pictures, one for each source of the pair."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return what the recipe in corpus.json says about this pairing."""
        return {"pairing": _name_of(type(self), PAIRINGS), **self.model_dump(mode="json")}


class Degrade(Pairing):
    """Input: the picture, spoiled. Target: the picture itself."""

    degradation: Degradation = Field(Gaussian(), description="what spoils the input")

    @property
    def random(self) -> bool:
        """As the degradation says."""
        return self.degradation.random

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Draw, then apply; the target is the very array that came in."""
        drawn = self.degradation.draw(rng)
        return Made(self.degradation.apply(pictures[0], "yx", **drawn), pictures[0], drawn, {})

    def settings(self) -> dict[str, Any]:
        """Name the kind of degradation beside its parameters."""
        kind = _name_of(type(self.degradation), DEGRADATIONS)
        return {"pairing": "degrade", "kind": kind, **self.degradation.model_dump(mode="json")}


class Combine(Pairing):
    """Input: one picture. Target: the other of the pair. Both upright and of one size."""

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Put the two side by side, unchanged."""
        return Made(pictures[0], pictures[1], {}, {})


class Colorize(Pairing):
    """Input: the L plane. Target: the Lab picture (D65; 8 bit: L*255/100, a+128, b+128)."""

    colour: ClassVar[Colour] = "lab"
    bits: Literal[8, 16] = Field(8, description="bits per Lab sample; 16 comes back within one level")

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Convert, and measure what the way there and back costs."""
        there, back_again = _LAB[self.bits]
        lab = there(pictures[0])
        back = back_again(lab)
        error = np.abs(back.astype(np.int16) - pictures[0])
        measured = {"round_trip_max": float(error.max()), "round_trip_mean": round(float(error.mean()), 4)}
        return Made(np.ascontiguousarray(lab[..., 0]), lab, {}, measured)


_LAB: Final[dict[int, tuple[Callable[[Pixels], Pixels], Callable[[Pixels], Pixels]]]] = {
    8: (images.rgb_to_lab8, images.lab8_to_rgb),
    16: (images.rgb_to_lab16, images.lab16_to_rgb),
}


class Keep(Pairing):
    """One picture as it is: a domain of an unpaired corpus."""

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Return the picture twice; an unpaired corpus writes the target alone."""
        return Made(pictures[0], pictures[0], {}, {})


PAIRINGS: Final[dict[str, type[Pairing]]] = {
    "degrade": Degrade,
    "combine": Combine,
    "lab": Colorize,
    "unpaired": Keep,
}


def _name_of(cls: type[Any], names: Mapping[str, type[Any]]) -> str:
    return next(name for name, member in names.items() if member is cls)


# --------------------------------------------------------------------------------------- matching
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
