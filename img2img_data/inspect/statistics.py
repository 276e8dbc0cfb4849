"""Statistics of a corpus from its rows, which are read one by one and never all in memory.

Counts and histograms cover all rows. Images are read of a sample only: of each split the rows whose
hash of seed and key is smallest, so the sample is even, reproducible and bounded.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from img2img_data.core.errors import printable
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import METADATA_FILE, REJECTED_FILE, hash64, inside
from img2img_data.corpus.reader import Corpus, Pair, pair_of
from img2img_data.inspect.histogram import NumberCounts, WordCounts

MAX_NAMES: Final = 200
"""Different names that are counted per section. Rows come from strangers too, so it is bounded."""
LARGEST: Final = 1e100
MIN_SAMPLE: Final = 8
"""Rows that a split, or a domain, has in the sample at least."""


class CorpusEntry(NamedTuple):
    """One pair, or one image of a domain ("A" or "B"; "" in a paired corpus), by its row.

    ``item`` is set for bare folders, which have no rows.
    """

    split: str
    domain: str
    key: str
    row: Mapping[str, Any]
    item: Pair | Path | None = None

    def open(self, corpus: Corpus) -> Pair | Path:
        """Return the pair, or the path of the image."""
        folder = corpus.root / self.split
        if self.item is not None:
            return self.item
        return (
            inside(folder, self.row.get("file_name")) if self.domain else pair_of(folder, self.row)
        )


@dataclass(slots=True)
class CorpusStatistics:
    """Counts over the rows of a corpus. Numbers and words are counted by section, then by name."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, domain) > pairs or images."""
    numbers: dict[str, dict[str, NumberCounts]] = field(default_factory=lambda: defaultdict(dict))
    words: dict[str, dict[str, WordCounts]] = field(default_factory=lambda: defaultdict(dict))
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, entry: CorpusEntry) -> None:
        """Count one row."""
        row = entry.row
        self.counts[entry.split, entry.domain] += 1
        if row.get("kind"):
            self._add_word("drawn", "kind", str(row["kind"]))
        for name, value in flatten(row.get("tags")):
            self._add_word("tags", name, value)
        for name, value in flatten(row.get("drawn")):
            if is_number(value) and not is_seed(name):
                self._add_number("drawn", name, value)
            elif not is_seed(name):
                self._add_word("drawn", name, value)
        for name, value in flatten(row.get("measured")):
            if is_number(value):
                self._add_number("measured", name, value)
        for name in ("width", "height"):
            if is_number(row.get(name)):
                self._add_number("sizes", f"{name}, pixels", row[name])

    def _add_number(self, section: str, name: str, value: float) -> None:
        known = self.numbers[section]
        if name in known or len(known) < MAX_NAMES:
            known.setdefault(name, NumberCounts()).add(value)

    def _add_word(self, section: str, name: str, value: object) -> None:
        known = self.words[section]
        if name in known or len(known) < MAX_NAMES:
            known.setdefault(name, WordCounts()).add(text_of(value))


def count_corpus(
    corpus: Corpus,
    splits: tuple[str, ...],
    limit: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[CorpusStatistics, list[CorpusEntry]]:
    """Read every row of some splits once; return the statistics and a sample of ``limit`` entries.

    Each split, and each domain, has a share of the sample by its size, but at least a twentieth.
    ``progress`` is called now and then with the number of rows read.
    """
    found, samples = CorpusStatistics(), dict[tuple[str, str], list[tuple[int, int, CorpusEntry]]]()
    for split in splits:
        for entry in entries_of(corpus, split):
            found.add(entry)
            rows = found.counts.total()
            if rows % 1000 == 0:
                progress(rows)
            heap = samples.setdefault((split, entry.domain), [])
            key = entry.key.encode("utf-8", "surrogatepass")
            # Negative, for the root of the heap must be the largest hash; ``rows`` breaks ties.
            ranked = (-hash64(b"show", str(seed).encode(), key), rows, entry)
            if len(heap) < limit:
                heapq.heappush(heap, ranked)
            else:
                heapq.heappushpop(heap, ranked)
    rejected = corpus.root / REJECTED_FILE
    for row in iter_rows(rejected) if rejected.is_file() else ():
        found.rejected[printable(str(row.get("reason")))] += 1
    total = found.counts.total()
    chosen: list[CorpusEntry] = []
    for part, heap in samples.items():
        share = max(limit * found.counts[part] // total, min(MIN_SAMPLE, limit), limit // 20)
        best = heapq.nlargest(limit if total <= limit else share, heap)
        chosen += [entry for _, _, entry in sorted(best, key=lambda ranked: ranked[1])]
    return found, chosen


def entries_of(corpus: Corpus, split: str) -> Iterator[CorpusEntry]:
    """Yield the entries of a split in the order of its manifest, or of the names in a bare
    folder."""
    manifest = corpus.root / split / METADATA_FILE
    if corpus.info and manifest.is_file():
        for row in iter_rows(manifest):
            domain = str(row.get("domain")) if corpus.kind == "unpaired" else ""
            yield CorpusEntry(split, domain, str(row.get("key", "")), row)
    elif corpus.kind == "paired":
        for pair in corpus.pairs(split):
            yield CorpusEntry(split, "", pair.key, pair.row, pair)
    else:
        for domain, paths in zip("AB", corpus.domains[split], strict=True):
            for path in paths:
                yield CorpusEntry(split, domain, path.stem, {}, path)


def flatten(values: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested mappings and lists."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping | list):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield printable(f"{prefix}{name}"), value


def is_seed(name: str) -> bool:
    """Return True for a drawn seed, which says nothing to a reader."""
    return name.rpartition(".")[2] == "seed"


def is_number(value: object) -> bool:
    """Return True for numbers that a chart can show: no booleans, NaN or absurdly large values."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def text_of(value: object) -> str:
    """Return a value of a row as text for people."""
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))
