"""Histograms: values counted in one pass within bounded memory, and laid out as bars of an SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

FINEST: Final = 2.0**-30
MAX_BINS: Final = 4096
"""Bins while counting; far more than are drawn, so that drawn ones get round borders."""
MAX_WORDS: Final = 64
"""Different words that are counted per name."""
MAX_BARS: Final = 44
WIDTH: Final = 300
HEIGHT: Final = 96
LABEL_HEIGHT: Final = 20
WIDEST_BAR: Final = 75
LETTER_WIDTH: Final = 6.5


@dataclass(slots=True)
class NumberCounts:
    """Numbers, counted in bins of one width: bin k counts k * width up to (k + 1) * width.

    The width is a power of two. It doubles when there are more than ``MAX_BINS`` bins; two
    neighbors then become one, so the result does not depend on the order of the values.
    """

    width: float = FINEST
    bins: dict[int, int] = field(default_factory=dict)
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    integers: bool = True
    """True if all of them are integers."""

    def add(self, value: float) -> None:
        """Count one number; NaN and infinity are skipped."""
        if not math.isfinite(value):
            return
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.integers = self.integers and float(value).is_integer()
        place = math.floor(value / self.width)
        self.bins[place] = self.bins.get(place, 0) + 1
        while len(self.bins) > MAX_BINS:
            self.width *= 2
            merged = Counter[int]()
            for place, count in self.bins.items():
                merged[place >> 1] += count
            self.bins = dict(merged)

    def value_of(self, place: int) -> float:
        """Return the number that stands for a bin: its start if it holds one integer, else its
        middle."""
        exact = self.integers and self.width <= 1
        return min(max((place + (0 if exact else 0.5)) * self.width, self.low), self.high)

    def median(self) -> float:
        """Return the median, as exactly as the bins are."""
        left = (self.count + 1) // 2
        for place, count in sorted(self.bins.items()):
            left -= count
            if left <= 0:
                return self.value_of(place)
        return math.nan


@dataclass(slots=True)
class WordCounts:
    """Words and their counts; after ``MAX_WORDS`` different ones only ``more`` is counted."""

    counts: Counter[str] = field(default_factory=Counter)
    more: int = 0

    def add(self, word: str) -> None:
        """Count one word."""
        if word in self.counts or len(self.counts) < MAX_WORDS:
            self.counts[word] += 1
        else:
            self.more += 1


# --------------------------------------------------------------------------------------------- drawing
@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in the units of the SVG, and its text."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram, laid out: ticks are (x, label)."""

    title: str
    summary: str
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT


def draw_numbers(title: str, numbers: NumberCounts) -> Histogram | None:
    """Lay out the histogram of numbers; None unless there are two different ones."""
    if not numbers.count or numbers.low == numbers.high:
        return None
    step = _round_step(numbers.high - numbers.low, MAX_BARS)
    if numbers.integers:
        step = max(1.0, step)
    counts = Counter[int]()
    for place, count in numbers.bins.items():
        # The margin keeps values at a border, as 0.3 in steps of 0.1, in the bin that starts there.
        counts[math.floor(numbers.value_of(place) / step + 1e-9)] += count
    first, last = min(counts), max(counts)
    pitch = min(WIDTH / (last - first + 1), WIDEST_BAR)
    peak, bars = max(counts.values()), []
    for place, count in sorted(counts.items()):
        label = f"{_range_text(place, step, numbers.integers)}: {count:,}"
        bars.append(_bar(place - first, pitch, count / peak, label))
    low, high, median = map(number_text, (numbers.low, numbers.high, numbers.median()))
    ticks = _ticks(first, last, step, pitch, numbers.integers)
    return Histogram(title, f"{low} to {high}, median {median}", bars, ticks)


def draw_words(title: str, words: WordCounts) -> Histogram | None:
    """Lay out a bar per word, the most frequent first; None if there are fewer than 2, or too
    many."""
    ranked = words.counts.most_common()
    if not 2 <= len(ranked) <= MAX_BARS // 3 or words.more:
        return None
    pitch = min(WIDTH / len(ranked), WIDEST_BAR)
    bars, ticks = [], []
    room = int(pitch / LETTER_WIDTH)
    for place, (word, count) in enumerate(ranked):
        bars.append(_bar(place, pitch, count / ranked[0][1], f"{word}: {count:,}"))
        short = word if len(word) <= room else word[: max(1, room - 1)] + "…"
        ticks.append((round((place + 0.45) * pitch, 2), short))
    return Histogram(title, ", ".join(f"{w} {n:,}" for w, n in ranked), bars, ticks)


def _bar(place: int, pitch: float, share: float, label: str) -> Bar:
    """Return a bar; ``share`` is its height relative to the highest bar."""
    height = max(1.5, (HEIGHT - LABEL_HEIGHT - 2) * share)
    width = max(pitch - 1, pitch * 0.8)
    top = HEIGHT - LABEL_HEIGHT - height
    return Bar(round(place * pitch, 2), round(top, 2), round(width, 2), round(height, 2), label)


def _round_step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 x 10^n that covers the span in ``count`` steps."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(s * power for s in (1, 2, 5, 10) if s * power * count >= span * (1 - 1e-9))


def _range_text(place: int, step: float, integers: bool) -> str:
    first, last = place * step, (place + 1) * step - (1 if integers else 0)
    return number_text(first) if first == last else f"{number_text(first)} to {number_text(last)}"


def _ticks(
    first: int, last: int, step: float, pitch: float, integers: bool
) -> list[tuple[float, str]]:
    """Return about five ticks at borders of bins; at the bar's middle if it is one integer."""
    every = max(_round_step(max(1, last - first) * step, 5), step if integers else 0)
    shift = pitch / 2 if integers and step == 1 else 0.0
    start = math.ceil(first * step / every - 1e-9)
    end = math.floor((last + 1) * step / every + 1e-9)
    values = [tick * every for tick in range(start, end + 1)]
    ticks = [((value / step - first) * pitch + shift, number_text(value)) for value in values]
    right = min(WIDTH, (last - first + 1) * pitch + 1e-6)
    return [(round(x, 2), label) for x, label in ticks if 0 <= x <= right]


def number_text(value: float) -> str:
    """Return a number with four digits, or an integer in full."""
    text = f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e7 else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")
