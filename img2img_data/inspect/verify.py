"""Is a corpus what its manifests say? Every file is read again."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError, Rejected, printable
from img2img_data.core.jsonl import count_rows, iter_rows
from img2img_data.corpus.format import CORPUS_FILE, EXTENSIONS, METADATA_FILE, digest, inside
from img2img_data.corpus.reader import bits_of, channels_of, kept_of, read_info
from img2img_data.images import io

PROBLEMS: Final = {
    "manifest": "lost, or of another number of rows than corpus.json says",
    "incomplete": "a row that does not name what it must",
    "missing": "named by the manifest, not there",
    "extra": "there, not named by the manifest",
    "unreadable": "no whole image",
    "changed": "other bytes than when it was built",
    "size": "another size than the manifest says",
    "samples": "another depth or number of channels than corpus.json says",
    "misaligned": "its halves lie further apart than --max-shift",
    "two-splits": "the same source, or the same group, in two splits",
    "leak": "a copy, or nearly, of a image in another split",
    "twice": "named twice by the manifest",
}


Problem = tuple[str, str, str]
"""(a key of ``PROBLEMS``, file, detail)"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What corpus.json says of every image."""

    combined: bool
    bits: int
    channels: Mapping[str, int]
    columns: tuple[str, ...]
    """What every row must name."""

    @classmethod
    def by(cls, info: Mapping[str, Any]) -> Wanted:
        """Take it from corpus.json."""
        combined = info.get("layout") == "combined"
        columns: tuple[str, ...] = (
            ("file_name",) if combined else ("input_file_name", "target_file_name")
        )
        if info.get("kind") == "unpaired":
            columns = ("file_name", "domain")
        return cls(combined, bits_of(info), channels_of(info), columns)


@dataclass(slots=True)
class Findings:
    """What is wrong: (problem, file, detail), sorted; and how much was looked at."""

    images: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was seen and is no problem."""

    def lines(self) -> list[str]:
        """Return the report, a line for each problem and a summary."""
        counts = Counter(p for p, _, _ in self.problems)
        found = [
            f"{p:<11} {printable(name)}  {detail}".rstrip()
            for p, name, detail in sorted(self.problems)
        ]
        if not counts:
            return [*self.notes, f"{self.images:,} images, nothing wrong"]
        summary = ", ".join(f"{n:,} {p} ({PROBLEMS[p]})" for p, n in sorted(counts.items()))
        return [*found, *self.notes, f"{self.images:,} images; {summary}"]


def verify_corpus(
    root: Path, progress: Callable[[int, int], None], quick: bool = False
) -> Findings:
    """Compare a corpus with its manifests; ``quick`` compares names alone. Memory: 24 bytes a image.

    Raises ``CorpusError`` when there are no manifests to compare with.
    """
    if not (root / CORPUS_FILE).is_file():
        raise CorpusError(
            "corpus", root, "has no corpus.json", "it is unfinished, or was not made here"
        )
    info = read_info(root)
    wanted, kept = Wanted.by(info), kept_of(info)
    findings, manifests = Findings(), sorted(root.glob(f"*/{METADATA_FILE}"))
    found = dict.fromkeys(kept, 0)
    total, groups = sum(count_rows(path) for path in manifests), list[NDArray[np.uint64]]()
    done = 0
    for manifest in manifests:
        of_rows, of_names = array("Q"), array("Q")
        for row in iter_rows(manifest, strict=True):
            of_rows.append(_hash(_group_of(row)))
            findings.problems += _incomplete(manifest.parent.name, row, wanted)
            for column, name in _files_of(row):
                of_names.append(_hash(name))
                _check_file(manifest.parent, row, column, name, wanted, quick, findings)
            done += 1
            progress(done, total)
        found[manifest.parent.name] = len(of_rows)
        groups.append(np.unique(np.array(of_rows, np.uint64)))
        findings.problems += _twice(manifest, _repeated(np.array(of_names, np.uint64)))
        findings.problems += _extra(manifest.parent, np.sort(np.array(of_names, np.uint64)))
    findings.problems += _in_two_splits(
        manifests, _repeated(np.concatenate(groups)) if groups else set()
    )
    findings.problems += _other_counts(root, kept, found)
    for folder in _folders_without(root):
        findings.problems += _extra(folder, np.array([], np.uint64))
    return findings


def _folders_without(root: Path) -> list[Path]:
    """Return the folders that have no manifest: whatever lies there, no row names it."""
    folders = (p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    return sorted(p for p in folders if not (p / METADATA_FILE).is_file())


def _other_counts(
    root: Path, kept: Mapping[str, int], found: Mapping[str, int]
) -> Iterator[Problem]:
    """Yield the splits whose manifest is lost, or shorter or longer than corpus.json says."""
    for split, count in found.items() if kept else ():
        if count != kept.get(split, 0):
            there = (root / split / METADATA_FILE).is_file()
            stated = f"corpus.json says {kept.get(split, 0):,}"
            what = f"{count:,} rows, {stated}" if there else f"not there, {stated} rows"
            yield "manifest", f"{split}/{METADATA_FILE}", what


def _incomplete(split: str, row: Mapping[str, Any], wanted: Wanted) -> Iterator[Problem]:
    lacking = [name for name in wanted.columns if not row.get(name)]
    if lacking:
        yield "incomplete", f"{split}/{row.get('key', '')}", f"has no {', '.join(lacking)}"
    elif "domain" in wanted.columns and row["domain"] not in ("A", "B"):
        yield (
            "incomplete",
            f"{split}/{row.get('key', '')}",
            f"its domain is '{printable(row['domain'])}'",
        )


def _hash(text: str) -> int:
    return int.from_bytes(digest(text.encode("utf-8", "surrogatepass")), "little")


def _repeated(hashes: NDArray[np.uint64]) -> set[int]:
    known, counts = np.unique(hashes, return_counts=True)
    return set(map(int, known[counts > 1]))


def _files_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((c, str(row[c])) for c in row if c.endswith("file_name"))


def _group_of(row: Mapping[str, Any]) -> str:
    tags = row.get("tags") or {}
    side = row.get("domain", "")
    return f"group {tags['group']}" if "group" in tags else f"source {side} {row.get('source_hex')}"


def _in_two_splits(manifests: Sequence[Path], hashes: set[int]) -> Iterator[Problem]:
    """Yield the rows whose group an earlier split holds too; ``hashes`` of groups tell where to look."""
    first: dict[str, str] = {}
    for manifest in manifests if hashes else ():
        split = manifest.parent.name
        for row in iter_rows(manifest):
            group = _group_of(row)
            if _hash(group) in hashes and first.setdefault(group, split) != split:
                yield "two-splits", f"{split}/{row.get('key')}", f"also in {first[group]}: {group}"


def _twice(manifest: Path, hashes: set[int]) -> Iterator[Problem]:
    """Yield the files that a manifest names again; ``hashes`` of names tell where to look."""
    seen = set[str]()
    for row in iter_rows(manifest) if hashes else ():
        for _, name in _files_of(row):
            if _hash(name) in hashes and name in seen:
                yield "twice", f"{manifest.parent.name}/{name}", ""
            elif _hash(name) in hashes:
                seen.add(name)


def _extra(folder: Path, named: NDArray[np.uint64]) -> Iterator[Problem]:
    """Yield the images in a split's folder that no row names; ``named``: hashes of names, sorted."""
    for name in _images_in(folder):
        wanted = np.uint64(_hash(name))
        at = int(np.searchsorted(named, wanted))
        if at == len(named) or named[at] != wanted:
            yield "extra", f"{folder.name}/{name}", ""


def _images_in(folder: Path) -> Iterator[str]:
    """Yield the names of all images, relative and with "/", as they come: a folder may hold a million."""
    below = [""]
    while below:
        prefix = below.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(f"{prefix}{entry.name}/")
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    yield prefix + entry.name


def _check_file(
    folder: Path,
    row: Mapping[str, Any],
    column: str,
    name: str,
    wanted: Wanted,
    quick: bool,
    findings: Findings,
) -> None:
    shown, path = f"{folder.name}/{name}", inside(folder, name)
    findings.images += 1
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
        data = io.read_bytes(path)
        image = io.decode(data, io.ReadPolicy(depth="keep", channels="keep"))
    except Rejected as rejected:
        return "unreadable", f"{rejected.reason} {rejected.detail}".strip()
    width, height = image.size
    size = (row.get("width", 0) * (2 if wanted.combined else 1), row.get("height", 0))
    if (width, height) != size:
        return "size", f"{width}x{height}, not {size[0]}x{size[1]}"
    found = (8 * image.pixels.itemsize, 1 if image.pixels.ndim == 2 else image.pixels.shape[2])
    stated = (wanted.bits, wanted.channels["input" if column.startswith("input") else "target"])
    if found != stated:
        return "samples", f"{found[0]} bit x {found[1]}, not {stated[0]} bit x {stated[1]}"
    if sha256(data).hexdigest() != row.get(column.replace("file_name", "sha256")):
        return "changed", ""
    return None
