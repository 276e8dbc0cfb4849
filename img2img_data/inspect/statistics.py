"""Statistics of a corpus from its rows, which are read one by one and never all in memory.

Counts and histograms cover all rows. Images are read of a sample only: of each split the rows whose
hash of seed and key is smallest, so the sample is even, reproducible and bounded.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from img2img_data.core.errors import printable
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import REJECTED_FILE, hash64
from img2img_data.corpus.reader import Corpus, Pair, iter_pairs
from img2img_data.inspect.histogram import NumberCounts

MAX_NAMES: Final = 200
"""Different names that are counted per section. Rows come from strangers too, so it is bounded."""
MAX_WORDS: Final = 64
"""Different words that are counted per name."""
LARGEST: Final = 1e100
MIN_SAMPLE: Final = 8
"""Rows that a split, or a domain, has in the sample at least."""


@dataclass(slots=True)
class CorpusStatistics:
    """Counts over the rows of a corpus. Numbers and words are counted by section, then by name."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(split, domain) > pairs or images."""
    numbers: dict[str, dict[str, NumberCounts]] = field(default_factory=lambda: defaultdict(dict))
    words: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: defaultdict(dict))
    rejected: Counter[str] = field(default_factory=Counter)

    def add(self, part: tuple[str, str], row: Mapping[str, Any]) -> None:
        """Count one row of a part: (split, domain)."""
        self.counts[part] += 1
        for section, name, value in _values(row):
            if section != "tags" and is_number(value):
                numbers = self.numbers[section]
                if name in numbers or len(numbers) < MAX_NAMES:
                    numbers.setdefault(name, NumberCounts()).add(value)
            elif section in ("tags", "drawn"):
                words = self.words[section]
                if name in words or len(words) < MAX_NAMES:
                    counts, word = words.setdefault(name, Counter()), text_of(value)
                    if word in counts or len(counts) < MAX_WORDS:
                        counts[word] += 1


def _values(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (section, name, value) of all that is counted."""
    if row.get("kind"):
        yield "drawn", "kind", row["kind"]
    for section in ("tags", "drawn", "measured"):
        yield from ((section, *item) for item in values_of(row, section))
    for name in ("width", "height"):
        yield "sizes", f"{name}, pixels", row.get(name)


def count_corpus(
    corpus: Corpus, splits: Sequence[str], limit: int, seed: int, progress: Callable[[], None]
) -> tuple[CorpusStatistics, list[Pair]]:
    """Read every row of some splits once; return the statistics and a sample of ``limit`` pairs.

    Each split, and each domain, has a share of the sample by its size, but at least a twentieth.
    ``progress`` is called now and then.
    """
    found, samples = CorpusStatistics(), dict[tuple[str, str], list[tuple[int, int, Pair]]]()
    for split in splits:
        for pair in iter_pairs(corpus, split):
            part = split, ""
            if corpus.kind == "unpaired":
                part = split, "B" if pair.row.get("domain") == "B" else "A"
            found.add(part, pair.row)
            rows = found.counts.total()
            if rows % 1000 == 0:
                progress()
            heap = samples.setdefault(part, [])
            key = pair.key.encode("utf-8", "surrogatepass")
            # Negative, for the root of the heap must be the largest hash; ``rows`` breaks ties.
            ranked = (-hash64(b"show", str(seed).encode(), key), rows, pair)
            heapq.heappush(heap, ranked)
            if len(heap) > limit:
                heapq.heappop(heap)
    rejected = corpus.root / REJECTED_FILE
    for row in iter_rows(rejected) if rejected.is_file() else ():
        found.rejected[printable(str(row.get("reason")))] += 1
    total = found.counts.total()
    chosen: list[Pair] = []
    for part, heap in samples.items():
        # The least share keeps a small split visible beside a large one.
        share = max(limit * found.counts[part] // total, min(MIN_SAMPLE, limit), limit // 20)
        best = heapq.nlargest(limit if total <= limit else share, heap)
        chosen += [pair for _, _, pair in sorted(best, key=lambda ranked: ranked[1])]
    return found, chosen


def values_of(row: Mapping[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a section of a row: tags, measured, or drawn without seeds."""
    for name, value in _flatten(row.get(section)):
        if section != "drawn" or name.rpartition(".")[2] != "seed":
            yield name, value


def _flatten(values: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of nested mappings and lists."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping | list):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield printable(f"{prefix}{name}"), value


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
