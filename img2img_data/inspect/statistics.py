"""What is in a corpus, told by its rows: read one by one, never all in memory.

Counts and spreads are those of all rows. Images are read of a sample only: of each split the rows whose
hash of seed and key is smallest, so the sample is even, the same each time, and bounded.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from img2img_data.core.errors import CorpusError, printable
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import METADATA_FILE, REJECTED_FILE, digest, inside
from img2img_data.corpus.reader import Corpus, Pair, pair_of
from img2img_data.inspect.histogram import Spread, Words

NAMES: Final = 200
"""Different parameters, measured values or tags that are looked at; rows are not ours to trust."""

LARGEST: Final = 1e100

Row = Mapping[str, Any]
CounterT = TypeVar("CounterT", Spread, Words)


class Entry(NamedTuple):
    """One pair, or one image of a domain ("A" or "B"; "" of a paired corpus), by its row."""

    split: str
    domain: str
    key: str
    row: Row
    item: Pair | Path | None = None

    def open(self, corpus: Corpus) -> Pair | Path:
        """Return what to read: the pair, or the path of the image."""
        if self.item is not None:
            return self.item
        folder = corpus.root / self.split
        return (
            inside(folder, self.row.get("file_name")) if self.domain else pair_of(folder, self.row)
        )


@dataclass(slots=True)
class Survey:
    """Everything that is counted over the rows of a corpus."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, domain) > pairs or images."""
    kinds: Words = field(default_factory=Words)
    tags: dict[str, Words] = field(default_factory=dict)
    drawn: dict[str, Spread] = field(default_factory=dict)
    drawn_words: dict[str, Words] = field(default_factory=dict)
    measured: dict[str, Spread] = field(default_factory=dict)
    sizes: dict[str, Spread] = field(
        default_factory=lambda: {"width": Spread(), "height": Spread()}
    )
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, entry: Entry) -> None:
        """Count one row."""
        row = entry.row
        self.counts[entry.split, entry.domain] += 1
        if row.get("kind"):
            self.kinds.add(printable(str(row["kind"])))
        for name, value in flat(row.get("tags")):
            _counter(self.tags, name, Words).add(text_of(value))
        for name, value in flat(row.get("drawn")):
            if is_seed(name):
                continue
            if is_number(value):
                _counter(self.drawn, name, Spread).add(value)
            else:
                _counter(self.drawn_words, name, Words).add(text_of(value))
        for name, value in flat(row.get("measured")):
            if is_number(value):
                _counter(self.measured, name, Spread).add(value)
        for name, spread in self.sizes.items():
            if is_number(row.get(name)):
                spread.add(row[name])


def survey_corpus(
    corpus: Corpus,
    splits: tuple[str, ...],
    limit: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[Survey, list[Entry]]:
    """Read every row of some splits once; return the counts, and a sample of about ``limit`` entries by key.

    Each split, and each domain, has its part of the sample by its size, but never less than a twentieth.
    ``progress`` is called now and then with the number of rows read.
    """
    survey, samples, rows = Survey(), dict[tuple[str, str], _Sample](), 0
    for split in splits:
        for entry in entries_of(corpus, split):
            rows += 1
            if rows % 1000 == 0:
                progress(rows)
            survey.add(entry)
            part = split, entry.domain
            if part not in samples:
                samples[part] = _Sample(limit, seed)
            samples[part].add(entry)
    rejected = corpus.root / REJECTED_FILE
    for row in iter_rows(rejected) if rejected.is_file() else ():
        survey.rejected[printable(str(row.get("reason")))] += 1
    total = survey.counts.total()
    chosen: list[Entry] = []
    for part, sample in samples.items():
        share = max(limit * survey.counts[part] // max(total, 1), min(8, limit), limit // 20)
        chosen += sample.best(limit if total <= limit else share)
    return survey, chosen


class _Sample:
    """The entries with the smallest hashes of seed and key."""

    def __init__(self, limit: int, seed: int) -> None:
        self._limit, self._seed = limit, str(seed).encode()
        self._heap: list[tuple[int, int, Entry]] = []
        self._count = 0

    def add(self, entry: Entry) -> None:
        place = -int.from_bytes(
            digest(b"show", self._seed, entry.key.encode("utf-8", "surrogatepass")), "little"
        )
        self._count += 1
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, (place, self._count, entry))
        elif place > self._heap[0][0]:
            heapq.heapreplace(self._heap, (place, self._count, entry))

    def best(self, count: int) -> list[Entry]:
        best = heapq.nlargest(count, self._heap)
        return [entry for _, _, entry in sorted(best, key=lambda found: found[1])]


def entries_of(corpus: Corpus, split: str) -> Iterator[Entry]:
    """Yield the entries of a split in the order of its manifest, or of the names in a bare folder."""
    manifest = corpus.root / split / METADATA_FILE
    if corpus.info and manifest.is_file():
        for row in iter_rows(manifest):
            domain = str(row.get("domain")) if corpus.kind == "unpaired" else ""
            yield Entry(split, domain, str(row.get("key", "")), row)
    elif corpus.kind == "paired":
        for pair in corpus.pairs(split):
            yield Entry(split, "", pair.key, pair.row, pair)
    else:
        for domain, paths in zip("AB", corpus.domains[split], strict=True):
            for path in paths:
                yield Entry(split, domain, path.stem, {}, path)


def check_split(corpus: Corpus, split: str) -> tuple[str, ...]:
    """Return the splits to show: all, or the one asked for; ``CorpusError`` names those there are."""
    if not split:
        return corpus.splits
    if split not in corpus.splits:
        have = ", ".join(corpus.splits) or "none"
        raise CorpusError(
            "corpus", corpus.root, f"has no split '{printable(split)}'", f"it has {have}"
        )
    return (split,)


def flat(values: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested mappings and lists."""
    parts = (
        values.items()
        if isinstance(values, Mapping)
        else enumerate(values)
        if isinstance(values, list)
        else ()
    )
    for name, value in parts:
        if isinstance(value, Mapping | list):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield printable(f"{prefix}{name}"), value


def short(name: str) -> str:
    """Return the end of a dotted name: of a parameter deep in a tree, its kind and its own name."""
    return ".".join(name.split(".")[-2:])


def is_seed(name: str) -> bool:
    """Tell a drawn seed, which says nothing to a person, from a strength."""
    return name.rpartition(".")[2] == "seed"


def is_number(value: object) -> bool:
    """Tell numbers that can be drawn from all else: yes and no, NaN, and what no one measures."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def text_of(value: object) -> str:
    """Return a value of a row for people."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _counter(counters: dict[str, CounterT], name: str, kind: type[CounterT]) -> CounterT:
    if name not in counters:
        if len(counters) >= NAMES:
            return kind()
        counters[name] = kind()
    return counters[name]
