"""Verification: compare a corpus with its manifests. Every file is read again."""

from __future__ import annotations

import functools
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.command_line import Progress, counter_of
from img2img_data.core.errors import CorpusError, Rejected, printable
from img2img_data.core.jsonl import Row, iter_rows, open_rows
from img2img_data.corpus.format import EXTENSIONS, METADATA_FILE, columns_of, hash64, inside
from img2img_data.corpus.reader import Corpus, Pair, open_corpus, pair_of, stated_corpus
from img2img_data.images import io
from img2img_data.images.pixels import Pixels
from img2img_data.runner.workers import LocalPool
from img2img_data.similarity.alignment import measure_shift

PROBLEMS: Final = {
    "manifest": "missing, or its number of rows differs from corpus.json",
    "incomplete": "a row without a required column",
    "missing": "named by the manifest, but not there",
    "extra": "not named by the manifest",
    "unreadable": "not a complete image",
    "changed": "its bytes differ from those that were written",
    "size": "its size differs from the manifest",
    "samples": "its depth or number of channels differs from corpus.json",
    "misaligned": "its halves are shifted by more than --max-shift",
    "two-splits": "the same source, or the same group, in two splits",
    "leak": "the same image, or nearly, in another split",
    "twice": "named twice by the manifest",
}

COMPARED: Final = 60
"""Largest number of pairs that ``mismatch`` measures; a third of it must be measurable."""

# Median doubt of pairs relative to that of inputs with the target of the next pair. Measured on 88
# photos | sketches, 100 facades | label maps, and photos | edges, blur, noise and JPEG (150 to 200
# of BSDS500, Yosemite and faces), numbered rightly and off by one, in 400 samples of 40 of each:
#                         right (worst of 100)       off by one (best of 100)
#   128 pixels and more   0.10 to 0.60 (0.66)        0.93 and more (0.86)
#   64                    0.09 to 0.77 (0.88)        0.82 and more (0.71)
# Of 64 pixels, the worst are label maps, the best sketches of faces, which are aligned alike. The
# doubt of the pairs alone does not tell: 0.54 for right label maps, 0.53 for wrong sketches.
MISMATCH: Final = 0.85
"""Ratio above which the images of pairs fit no better than images of different pairs."""
# Wrong pairs have 0.48 and more. Frames of a still camera fit each other, right or wrong.
LEAST_DOUBT: Final = 0.4
"""Median doubt below which pairs are right, whatever the ratio."""

Problem = tuple[str, str, str]
"""(a key of ``PROBLEMS``, file, detail)."""


@dataclass(slots=True)
class VerifyReport:
    """Problems of a corpus, and the number of images that were checked."""

    images: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Observations that are not problems."""

    def lines(self) -> list[str]:
        """Return a line per problem, sorted, and a summary."""
        if not self.problems:
            return [*self.notes, f"{self.images:,} images, no problems"]
        counts = Counter(problem for problem, _, _ in self.problems)
        lines = [
            f"{problem:<11} {printable(name)}  {detail}".rstrip()
            for problem, name, detail in sorted(self.problems)
        ]
        summary = ", ".join(f"{n:,} {p} ({PROBLEMS[p]})" for p, n in sorted(counts.items()))
        return [*lines, *self.notes, f"{self.images:,} images; {summary}"]


def verify_corpus(
    root: Path, progress: Progress, quick: bool = False, jobs: int = 0
) -> VerifyReport:
    """Compare a corpus with its manifests; ``quick`` compares names only.

    ``jobs``: worker processes; 0: one per core. Memory: 32 bytes per image. Raises ``CorpusError``
    if corpus.json is missing, or if it or a manifest is damaged.
    """
    corpus = stated_corpus(root)
    report, manifests = VerifyReport(), corpus.manifests
    rows = {m: open_rows(m, dict)[""] for m in manifests}
    count = counter_of(progress, sum(map(len, rows.values())))
    groups = [np.array([], np.uint64)]
    for manifest in manifests:
        # Only hashes stay in memory; names are read again if two hashes are equal.
        row_groups, names = array("Q"), array("Q")
        check = functools.partial(_check_row, corpus, manifest.parent, quick)
        if quick:
            checked: Iterable[_CheckedRow] = map(check, rows[manifest])
        else:
            lost = functools.partial(_lost, manifest.parent)
            pool = LocalPool(check, rows[manifest].__getitem__, lost, jobs)
            checked = pool.run(range(len(rows[manifest])))
        for row in checked:
            row_groups.append(row.group)
            names.extend(row.names)
            report.images += len(row.names)
            report.problems += row.problems
            count()
        groups.append(np.unique(np.asarray(row_groups)))
        named = np.asarray(names)  # a view: a copy to sort would take as much as the hashes
        named.sort()
        report.problems += _twice(manifest, _repeated(named))
        report.problems += _extra(manifest.parent, named)
    row_counts = {manifest.parent.name: len(found) for manifest, found in rows.items()}
    report.problems += _in_two_splits(manifests, _repeated(np.concatenate(groups)))
    report.problems += _wrong_counts(corpus, dict.fromkeys(corpus.kept, 0) | row_counts)
    folders = (p for p in root.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
    for folder in sorted(folders):
        if not (folder / METADATA_FILE).is_file():
            report.problems += _extra(folder, np.array([], np.uint64))
    return report


def misaligned_pairs(root: Path, max_shift: float, progress: Progress) -> Iterator[Problem]:
    """Yield the pairs whose halves are shifted by more than ``max_shift`` pixels.

    Pairs that cannot be read, or whose shift cannot be measured reliably, are skipped. Raises
    ``CorpusError`` if the corpus is unpaired.
    """
    corpus = open_corpus(root)
    pairs = [pair for split in corpus.splits for pair in corpus.pairs(split)]
    for done, pair in enumerate(pairs, 1):
        progress(done, len(pairs))
        try:
            first, second = _comparable(corpus, pair)
        except CorpusError:
            continue
        if first.shape[:2] == second.shape[:2]:
            shift = measure_shift(first, second)
            if shift.is_reliable and shift.length > max_shift:
                yield "misaligned", f"{pair.split}/{pair.key}", str(shift)


def _comparable(corpus: Corpus, pair: Pair) -> tuple[Pixels, Pixels]:
    first, second = corpus.read(pair)
    # A Lab corpus has L as input, so it is compared with L of the target.
    return (first[..., 0], second[..., 0]) if corpus.color == "lab" else (first, second)


def mismatch(root: Path) -> list[str]:
    """Return a warning if the images of the pairs fit each other no better than other images.

    This happens if one folder is numbered from 0 and the other from 1. The doubt of the shift is
    compared, for some pairs of the largest split. Raises ``CorpusError`` if the corpus is unpaired.
    """
    corpus = open_corpus(root)
    pairs = max(map(corpus.pairs, corpus.splits), key=len, default=())
    doubts: list[tuple[float, float]] = []
    for place in range(0, len(pairs) - 1, -(-len(pairs) // COMPARED) or 1):
        try:
            images = [_comparable(corpus, pair) for pair in pairs[place : place + 2]]
        except CorpusError:
            continue
        # One area of all, because images of one size only can be compared.
        height, width = np.min([i.shape[:2] for both in images for i in both], axis=0)
        (first, second), (_, other) = [[i[:height, :width] for i in both] for both in images]
        found = (measure_shift(first, second).doubt, measure_shift(first, other).doubt)
        # 1 means an image that is too small or too flat to be measured.
        doubts += [found] if max(found) < 1 else []
    own, others = np.median(doubts, axis=0) if 3 * len(doubts) >= COMPARED else (0, 1)
    if own <= max(LEAST_DOUBT, MISMATCH * others):
        return []
    why = f"no better than those of different pairs (median doubt {own:.2f} and {others:.2f})"
    hint = "is one folder numbered differently? 'img2img-data show' shows the pairs"
    return [f"the images of a pair fit each other {why}; {hint}"]


def _wrong_counts(corpus: Corpus, row_counts: Mapping[str, int]) -> Iterator[Problem]:
    """Yield the splits whose manifest is missing, or shorter or longer than corpus.json states."""
    kept = corpus.kept
    for split, count in row_counts.items() if kept else ():
        if count != kept.get(split, 0):
            exists = (corpus.root / split / METADATA_FILE).is_file()
            stated = f"corpus.json says {kept.get(split, 0):,}"
            detail = f"{count:,} rows, {stated}" if exists else f"not there, {stated} rows"
            yield "manifest", f"{split}/{METADATA_FILE}", detail


def _required_columns(corpus: Corpus) -> tuple[str, ...]:
    """Return the columns that every row must have."""
    if corpus.kind == "unpaired":
        return "key", "file_name", "domain"
    combined = corpus.layout == "combined"
    return ("key", "file_name") if combined else ("key", "input_file_name", "target_file_name")


def _hash(text: str) -> int:
    return hash64(text.encode("utf-8", "surrogatepass"))


def _repeated(hashes: NDArray[np.uint64]) -> set[int]:
    known, counts = np.unique(hashes, return_counts=True)
    return set(map(int, known[counts > 1]))


def _group_of(row: Row) -> str:
    # Without a group the source counts: crops of one photo belong in one split. The domain joins
    # it, because A and B are two folders that may have equal paths.
    tags = row.get("tags") or {}
    side = row.get("domain", "")
    return f"group {tags['group']}" if "group" in tags else f"source {side} {row.get('source_hex')}"


def _in_two_splits(manifests: Sequence[Path], hashes: set[int]) -> Iterator[Problem]:
    """Yield the rows whose group is in an earlier split too; ``hashes`` are of such groups."""
    # Texts are compared here, so equal hashes of different groups do no harm.
    first: dict[str, str] = {}
    for manifest in manifests if hashes else ():
        split = manifest.parent.name
        for row in iter_rows(manifest):
            group = _group_of(row)
            if _hash(group) in hashes and first.setdefault(group, split) != split:
                yield "two-splits", f"{split}/{row.get('key')}", f"also in {first[group]}: {group}"


def _twice(manifest: Path, hashes: set[int]) -> Iterator[Problem]:
    """Yield the files that a manifest names again; ``hashes`` are those of such names."""
    seen = set[str]()
    for row in iter_rows(manifest) if hashes else ():
        for name in (row[column] for column in columns_of(row)):
            if name in seen:
                yield "twice", f"{manifest.parent.name}/{name}", ""
            elif _hash(name) in hashes:
                seen.add(name)


def _extra(folder: Path, named: NDArray[np.uint64]) -> Iterator[Problem]:
    """Yield the images in a split's folder whose names' hashes are not in ``named`` (sorted)."""
    for name in _images_in(folder):
        mark = np.uint64(_hash(name))
        at = int(np.searchsorted(named, mark))
        if at == len(named) or named[at] != mark:
            yield "extra", f"{folder.name}/{name}", ""


def _images_in(folder: Path) -> Iterator[str]:
    """Yield the relative names of all images, unsorted: a folder may contain a million."""
    below = [""]
    while below:
        prefix = below.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(f"{prefix}{entry.name}/")
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    yield prefix + entry.name


class _CheckedRow(NamedTuple):
    """Hashes of a row's group and of the names in it, and the problems of its files."""

    group: int
    names: list[int]
    problems: list[Problem]


def _check_row(corpus: Corpus, folder: Path, quick: bool, row: Row) -> _CheckedRow:
    columns, problems = columns_of(row), list[Problem]()
    if lacking := ", ".join(column for column in _required_columns(corpus) if not row.get(column)):
        problems.append(("incomplete", f"{folder.name}/{row.get('key', '')}", f"has no {lacking}"))
    for column in columns:
        problems += _check_file(folder, row, column, corpus, quick)
    if corpus.color == "lab" and not (quick or problems):
        corpus.read(pair_of(folder, row))  # raises if the corpus is not Lab
    return _CheckedRow(_hash(_group_of(row)), [_hash(row[c]) for c in columns], problems)


def _lost(folder: Path, row: Row, reason: str) -> _CheckedRow:
    # Which of the files it was is not known.
    names = [row[column] for column in columns_of(row)]
    problems = [("unreadable", f"{folder.name}/{name}", reason) for name in names]
    return _CheckedRow(_hash(_group_of(row)), [*map(_hash, names)], problems)


def _check_file(folder: Path, row: Row, column: str, corpus: Corpus, quick: bool) -> list[Problem]:
    """Return the problem of one file that a row names, [] if there is none."""
    path, name = inside(folder, row[column]), f"{folder.name}/{row[column]}"
    # A broken link exists: it is reported as unreadable, not as missing.
    if not os.path.lexists(path):
        return [("missing", name, "")]
    if quick:
        return []
    try:
        data = io.read_bytes(path)
        # Nothing is converted: depth and channels are compared as they are stored.
        image = io.decode(data, io.ReadPolicy(depth="keep", channels="keep"))
    except Rejected as rejected:
        return [("unreadable", name, str(rejected))]
    width, height = image.size
    size = (row.get("width", 0) * (2 if corpus.layout == "combined" else 1), row.get("height", 0))
    if (width, height) != size:
        return [("size", name, f"{width}x{height}, not {size[0]}x{size[1]}")]
    bits = 8 * image.pixels.itemsize
    channels = 1 if image.pixels.ndim == 2 else image.pixels.shape[2]
    expected = corpus.channels["input" if column.startswith("input") else "target"]
    if (bits, channels) != (corpus.bits, expected):
        return [("samples", name, f"{bits} bit x {channels}, not {corpus.bits} bit x {expected}")]
    if sha256(data).hexdigest() != row.get(column.replace("file_name", "sha256")):
        return [("changed", name, "")]
    return []
