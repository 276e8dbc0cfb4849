"""Statistics of a corpus from its rows, which are read one by one and never all in memory.

Counts and histograms cover all rows. Values are counted in one pass within bounded memory. Images
are read of a sample only: of each split the rows whose hash of seed and key is smallest, so the
sample is even, reproducible and bounded.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from img2img_data.core.errors import printable
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import REJECTED_FILE, hash64
from img2img_data.corpus.reader import Corpus, Pair, iter_pairs

MAX_NAMES: Final = 200
"""Different names that are counted per section. Bounded, because rows may be untrusted."""
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
    rejected_rows: list[Mapping[str, Any]] = field(default_factory=list)
    """Up to ``MAX_NAMES`` rows of each reason."""

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
        found.rejected[reason := printable(row.get("reason"))] += 1
        if found.rejected[reason] <= MAX_NAMES:
            found.rejected_rows.append({**row, "reason": reason})
    total = found.counts.total()
    chosen: list[Pair] = []
    for part, heap in samples.items():
        # The least share keeps a small split visible beside a large one.
        share = max(limit * found.counts[part] // total, min(MIN_SAMPLE, limit), limit // 20)
        best = heapq.nlargest(limit if total <= limit else share, heap)
        chosen += [pair for _, _, pair in sorted(best, key=lambda ranked: ranked[1])]
    return found, chosen


def values_of(row: Mapping[str, Any], section: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a section of a row: tags, measured, or drawn without seeds and
    branches, which follow from the other parameters.
    """
    for name, value in _flatten(row.get(section)):
        if section != "drawn" or name.rpartition(".")[2] not in ("seed", "branch"):
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
    return f"{value:.4g}" if isinstance(value, float) else printable(value)


# --------------------------------------------------------------------------------------- histograms
FINEST: Final = 2.0**-30
MAX_BINS: Final = 4096
"""Bins while counting; far more than are drawn, so that drawn ones get round borders."""
MAX_BARS: Final = 44


@dataclass(slots=True)
class NumberCounts:
    """Numbers, counted in bins of one width: bin k counts k * width up to (k + 1) * width.

    The width is a power of two. It doubles when there are more than ``MAX_BINS`` bins; two
    neighbors then become one, so the result does not depend on the order of the values.
    """

    width: float = FINEST
    bins: Counter[int] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf
    integers: bool = True
    """True if all of them are integers."""

    def add(self, value: float) -> None:
        """Count one finite number."""
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.integers = self.integers and float(value).is_integer()
        self.bins[math.floor(value / self.width)] += 1
        while len(self.bins) > MAX_BINS:
            self.width *= 2
            merged = Counter[int]()
            for place, count in self.bins.items():
                merged[place >> 1] += count
            self.bins = merged

    def value_of(self, place: int) -> float:
        """Return the value of a bin: its start if it counts one integer, else its center."""
        exact = self.integers and self.width <= 1
        return min(max((place + (0 if exact else 0.5)) * self.width, self.low), self.high)

    def median(self) -> float:
        """Return the median, as exactly as the bins are."""
        places = sorted(self.bins)
        below = np.cumsum([self.bins[place] for place in places])
        return self.value_of(places[int(np.searchsorted(below, (below[-1] + 1) // 2))])


# --------------------------------------------------------------------------------------- drawing
class Bar(NamedTuple):
    """One bar: its height in percent of the highest one, and its text."""

    height: float
    label: str


class Histogram(NamedTuple):
    """A histogram. ``ticks`` are (percent from the left, label); a histogram of words has none."""

    title: str
    summary: str
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]] = ()


def draw_numbers(title: str, numbers: NumberCounts) -> Histogram | None:
    """Return the histogram of numbers, None unless there are two different ones."""
    if numbers.low >= numbers.high:
        return None
    step = max(_round_step(numbers.high - numbers.low, MAX_BARS), float(numbers.integers))
    counts = Counter[int]()
    for place, count in numbers.bins.items():
        # The margin keeps values at a border, as 0.3 in steps of 0.1, in the bin that starts there.
        counts[math.floor(numbers.value_of(place) / step + 1e-9)] += count
    places = range(min(counts), max(counts) + 1)
    ranges = [_range_text(place, step, numbers.integers) for place in places]
    low, high, median = map(number_text, (numbers.low, numbers.high, numbers.median()))
    bars = _bars(ranges, [counts[place] for place in places])
    ticks = _ticks(places, step, numbers.integers)
    return Histogram(title, f"{low} to {high}, median {median}", bars, ticks)


def _ticks(places: range, step: float, integers: bool) -> list[tuple[float, str]]:
    """Return about five round numbers below the bars; that of a single integer in its middle."""
    apart = max(_round_step(len(places) * step, 5), float(integers))
    middle = 0.5 if integers and step == 1 else 0
    ends = places[0] * step / apart - 1e-6, (places[-1] + 1 - 2 * middle) * step / apart + 1e-6
    values = [apart * k for k in range(math.ceil(ends[0]), math.floor(ends[1]) + 1)]
    lefts = [100 * (value / step - places[0] + middle) / len(places) for value in values]
    return [(round(x, 2), number_text(v)) for x, v in zip(lefts, values, strict=True)]


def draw_words(title: str, words: Counter[str]) -> Histogram | None:
    """Return a bar per word, the most frequent first; None if there is one word, or too many."""
    ranked = dict(words.most_common())
    if not 2 <= len(ranked) <= MAX_BARS // 3:
        return None
    summary = ", ".join(f"{word} {count:,}" for word, count in ranked.items())
    return Histogram(title, summary, _bars(ranked, ranked.values()))


def _bars(labels: Iterable[str], counts: Collection[int]) -> list[Bar]:
    scale = 100 / max(counts)
    return [
        Bar(round(count * scale, 1), f"{label}: {count:,}")
        for label, count in zip(labels, counts, strict=True)
    ]


def _round_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 x 10^n that covers the span in ``count`` steps."""
    # The quotient of a subnormal number may be 0, which has no logarithm.
    power = 10.0 ** math.floor(math.log10(max(span / count, 1e-300)))
    return next(s * power for s in (1, 2, 5, 10) if s * power * count >= span * (1 - 1e-9))


def _range_text(place: int, step: float, integers: bool) -> str:
    first, last = place * step, (place + 1) * step - (1 if integers else 0)
    return number_text(first) if first == last else f"{number_text(first)} to {number_text(last)}"


def number_text(value: float) -> str:
    """Return a number with four digits, or an integer in full."""
    text = f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")
