"""Histograms: values counted in one pass within bounded memory, and the bars that show them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

FINEST: Final = 2.0**-30
MAX_BINS: Final = 4096
"""Bins while counting; far more than are drawn, so that drawn ones get round borders."""
MAX_BARS: Final = 44
MAX_LABELED: Final = 6
"""Bars of integers up to this number have a label each."""


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
    """A histogram. ``ticks`` are one label per bar, or those of the two ends."""

    title: str
    summary: str
    bars: Sequence[Bar]
    ticks: Sequence[str]


def draw_numbers(title: str, numbers: NumberCounts) -> Histogram | None:
    """Return the histogram of numbers, None unless there are two different ones."""
    if numbers.low >= numbers.high:
        return None
    step = _round_step(numbers.high - numbers.low, MAX_BARS)
    if numbers.integers:
        step = max(1.0, step)
    counts = Counter[int]()
    for place, count in numbers.bins.items():
        # The margin keeps values at a border, as 0.3 in steps of 0.1, in the bin that starts there.
        counts[math.floor(numbers.value_of(place) / step + 1e-9)] += count
    places = range(min(counts), max(counts) + 1)
    ranges = [_range_text(place, step, numbers.integers) for place in places]
    ticks = [ranges[0].partition(" to ")[0], ranges[-1].rpartition(" to ")[2]]
    if numbers.integers and step == 1 and len(places) <= MAX_LABELED:
        ticks = ranges
    low, high, median = map(number_text, (numbers.low, numbers.high, numbers.median()))
    bars = _bars(ranges, [counts[place] for place in places])
    return Histogram(title, f"{low} to {high}, median {median}", bars, ticks)


def draw_words(title: str, words: Counter[str]) -> Histogram | None:
    """Return a bar per word, the most frequent first; None if there is one word, or too many."""
    ranked = dict(words.most_common())
    if not 2 <= len(ranked) <= MAX_BARS // 3:
        return None
    summary = ", ".join(f"{word} {count:,}" for word, count in ranked.items())
    return Histogram(title, summary, _bars(ranked, ranked.values()), list(ranked))


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
