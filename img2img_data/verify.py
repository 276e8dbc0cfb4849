"""Is a corpus what its manifests say? Every file is read again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from img2img_data import images
from img2img_data.corpus import (
    CORPUS_FILE,
    EXTENSIONS,
    METADATA_FILE,
    bits_of,
    channels_of,
    inside,
    read_info,
    read_rows,
)
from img2img_data.errors import CorpusError, Refused, printable

PROBLEMS: Final = {
    "missing": "named by the manifest, not there",
    "extra": "there, not named by the manifest",
    "unreadable": "no whole picture",
    "changed": "other bytes than when it was built",
    "size": "another size than the manifest says",
    "samples": "another depth or number of channels than corpus.json says",
    "misaligned": "its halves lie further apart than --max-shift",
    "two-splits": "the same source, or the same group, in two splits",
    "twice": "named twice by the manifest",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What corpus.json says of every picture."""

    combined: bool
    bits: int
    channels: Mapping[str, int]

    @classmethod
    def by(cls, info: Mapping[str, Any]) -> Wanted:
        """Take it from corpus.json."""
        return cls(info.get("layout") == "combined", bits_of(info), channels_of(info))


@dataclass(slots=True)
class Findings:
    """What is wrong: (problem, file, detail), sorted; and how much was looked at."""

    pictures: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report, a line for each problem and a summary."""
        counts = Counter(p for p, _, _ in self.problems)
        found = [f"{p:<11} {printable(name)}  {detail}".rstrip() for p, name, detail in sorted(self.problems)]
        if not counts:
            return [f"{self.pictures:,} pictures, nothing wrong"]
        summary = ", ".join(f"{n:,} {p} ({PROBLEMS[p]})" for p, n in sorted(counts.items()))
        return [*found, f"{self.pictures:,} pictures; {summary}"]


def verify_corpus(root: Path, progress: Callable[[int, int], None], quick: bool = False) -> Findings:
    """Compare a corpus with its manifests; ``quick`` compares names alone.

    Raises ``CorpusError`` when there are no manifests to compare with.
    """
    if not (root / CORPUS_FILE).is_file():
        raise CorpusError("corpus", root, "has no corpus.json", "it is unfinished, or was not made here")
    wanted = Wanted.by(read_info(root))
    findings, groups = Findings(), dict[str, str]()
    manifests = {p.parent.name: read_rows(p) for p in sorted(root.glob(f"*/{METADATA_FILE}"))}
    total = sum(len(rows) for rows in manifests.values())
    done = 0
    for split, rows in manifests.items():
        named = set[str]()
        for row in rows:
            _check_group(split, row, groups, findings)
            for column, name in _files_of(row):
                _check_file(root / split, split, row, column, name, named, wanted, quick, findings)
            done += 1
            progress(done, total)
        findings.problems += [
            ("extra", f"{split}/{n}", "") for n in sorted(_pictures_in(root / split) - named)
        ]
    return findings


def _files_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((c, str(row[c])) for c in row if c.endswith("file_name"))


def _check_group(split: str, row: Mapping[str, Any], groups: dict[str, str], findings: Findings) -> None:
    tags = row.get("tags") or {}
    side = row.get("domain", "")
    group = f"group {tags['group']}" if "group" in tags else f"source {side} {row.get('source_hex')}"
    there = groups.setdefault(group, split)
    if there != split:
        findings.problems.append(("two-splits", f"{split}/{row.get('key')}", f"also in {there}: {group}"))


def _check_file(
    folder: Path,
    split: str,
    row: Mapping[str, Any],
    column: str,
    name: str,
    named: set[str],
    wanted: Wanted,
    quick: bool,
    findings: Findings,
) -> None:
    shown = f"{split}/{name}"
    path = inside(folder, name)
    if name in named:
        findings.problems.append(("twice", shown, ""))
    named.add(name)
    findings.pictures += 1
    if not os.path.lexists(path):
        findings.problems.append(("missing", shown, ""))
    elif not quick:
        problem = _content_problem(path, row, column, wanted)
        if problem:
            findings.problems.append((problem[0], shown, problem[1]))


def _content_problem(
    path: Path, row: Mapping[str, Any], column: str, wanted: Wanted
) -> tuple[str, str] | None:
    try:
        data = images.read_bytes(path)
        picture = images.decode(data, images.ReadPolicy(depth="keep", channels="keep"))
    except Refused as refused:
        return "unreadable", f"{refused.reason} {refused.detail}".strip()
    width, height = picture.size
    size = (int(row.get("width", 0)) * (2 if wanted.combined else 1), int(row.get("height", 0)))
    if (width, height) != size:
        return "size", f"{width}x{height}, not {size[0]}x{size[1]}"
    found = (8 * picture.pixels.itemsize, 1 if picture.pixels.ndim == 2 else picture.pixels.shape[2])
    stated = (wanted.bits, wanted.channels["input" if column.startswith("input") else "target"])
    if found != stated:
        return "samples", f"{found[0]} bit x {found[1]}, not {stated[0]} bit x {stated[1]}"
    if sha256(data).hexdigest() != row.get(column.replace("file_name", "sha256")):
        return "changed", ""
    return None


def _pictures_in(folder: Path) -> set[str]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    return {p.relative_to(folder).as_posix() for p in found}
