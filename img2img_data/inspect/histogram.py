"""How values are spread: counted in one pass over any number of them, drawn as bars.

Memory is bounded however many values come: numbers fall into bins that grow coarser together, words are
counted up to a limit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

FINEST: Final = 2.0**-30
BINS: Final = 4096
"""Bins that are kept while counting; far more than are drawn, so that drawn ones get round borders."""
WORDS: Final = 64
"""Different words that are counted of one name."""
BARS: Final = 44
WIDTH: Final = 300
HEIGHT: Final = 96
WIDEST: Final = 75


@dataclass(slots=True)
class Spread:
    """Numbers, counted in bins of one width: bin k holds k * width up to (k + 1) * width.

    The width is a power of two. It doubles when there are more than ``BINS`` bins; two and two then become
    one, so the result does not depend on the order of the values.
    """

    width: float = FINEST
    bins: dict[int, int] = field(default_factory=dict)
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True
    """Whether all of them are whole numbers."""

    def add(self, value: float) -> None:
        """Count one number; NaN and infinity are passed over."""
        if not math.isfinite(value):
            return
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.whole = self.whole and float(value).is_integer()
        place = math.floor(value / self.width)
        self.bins[place] = self.bins.get(place, 0) + 1
        while len(self.bins) > BINS:
            self._coarsen()

    def _coarsen(self) -> None:
        self.width *= 2
        merged: dict[int, int] = {}
        for place, count in self.bins.items():
            merged[place >> 1] = merged.get(place >> 1, 0) + count
        self.bins = merged

    def value_of(self, place: int) -> float:
        """Return the number that stands for a bin: whole ones lie at its start, others in its middle."""
        exact = self.whole and self.width <= 1
        return min(max((place + (0 if exact else 0.5)) * self.width, self.low), self.high)

    def median(self) -> float:
        """Return the number in the middle, as exactly as the bins are."""
        left = (self.count + 1) // 2
        for place, count in sorted(self.bins.items()):
            left -= count
            if left <= 0:
                return self.value_of(place)
        return math.nan


@dataclass(slots=True)
class Words:
    """Words and how often each came; after ``WORDS`` different ones only ``more`` is counted."""

    counts: Counter[str] = field(default_factory=Counter)
    more: int = 0

    def add(self, word: str) -> None:
        """Count one word."""
        if word in self.counts or len(self.counts) < WORDS:
            self.counts[word] += 1
        else:
            self.more += 1


# --------------------------------------------------------------------------------------------- drawing
@dataclass(frozen=True, slots=True)
class Bar:
    """One bar in the units of the image, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Bars:
    """A histogram, laid out: ticks are (place in the image, label)."""

    title: str
    under: str
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT


def draw_spread(title: str, spread: Spread) -> Bars | None:
    """Lay out the histogram of some numbers; None when there are no two different ones."""
    if not spread.count or spread.low == spread.high:
        return None
    step = _step(spread.high - spread.low, BARS)
    if spread.whole:
        step = max(1.0, step)
    counts = Counter[int]()
    for place, count in spread.bins.items():
        counts[math.floor(spread.value_of(place) / step + 1e-9)] += count
    first, last = min(counts), max(counts)
    across, most = min(WIDTH / (last - first + 1), WIDEST), max(counts.values())
    bars = []
    for place in range(first, last + 1):
        if counts[place]:
            tall = max(1.5, (HEIGHT - 22) * counts[place] / most)
            x, y = (place - first) * across, HEIGHT - 20 - tall
            label = f"{_range(place, step, spread.whole)}: {counts[place]:,}"
            bars.append(
                Bar(
                    round(x, 2),
                    round(y, 2),
                    round(max(across - 1, across * 0.8), 2),
                    round(tall, 2),
                    label,
                )
            )
    under = f"{number(spread.low)} to {number(spread.high)}, median {number(spread.median())}"
    return Bars(title, under, bars, _ticks(first, last, step, across, spread.whole))


def draw_words(title: str, words: Words) -> Bars | None:
    """Lay out a bar for each word, the most frequent first; None when there are no two, or too many."""
    ranked = words.counts.most_common()
    if not 2 <= len(ranked) <= BARS // 3 or words.more:
        return None
    across, most = min(WIDTH / len(ranked), WIDEST), ranked[0][1]
    bars, ticks = [], []
    for place, (word, count) in enumerate(ranked):
        tall = max(1.5, (HEIGHT - 22) * count / most)
        bars.append(
            Bar(
                round(place * across, 2),
                round(HEIGHT - 20 - tall, 2),
                round(across * 0.9, 2),
                round(tall, 2),
                f"{word}: {count:,}",
            )
        )
        room = int(across / 6.5)
        ticks.append(
            (
                round((place + 0.45) * across, 2),
                word if len(word) <= room else word[: max(1, room - 1)] + "…",
            )
        )
    return Bars(title, ", ".join(f"{word} {count:,}" for word, count in ranked), bars, ticks)


def _step(span: float, count: int) -> float:
    """Return the smallest of 1, 2, 5 x 10^n that covers the span in ``count`` steps."""
    power = 10.0 ** math.floor(math.log10(span / count))
    return next(s * power for s in (1, 2, 5, 10) if s * power * count >= span * (1 - 1e-9))


def _range(place: int, step: float, whole: bool) -> str:
    if whole:
        first, last = place * step, (place + 1) * step - 1
        return number(first) if first == last else f"{number(first)} to {number(last)}"
    return f"{number(place * step)} to {number((place + 1) * step)}"


def _ticks(
    first: int, last: int, step: float, across: float, whole: bool
) -> list[tuple[float, str]]:
    """Return about five ticks at borders of bins; below the bar's middle where it is one whole number."""
    every = max(_step(max(1, last - first) * step, 5), step if whole else 0)
    shift = across / 2 if whole and step == 1 else 0.0
    found = []
    for tick in range(
        math.ceil(first * step / every - 1e-9), math.floor((last + 1) * step / every + 1e-9) + 1
    ):
        x = (tick * every / step - first) * across + shift
        if 0 <= x <= min(WIDTH, (last - first + 1) * across + 1e-6):
            found.append((round(x, 2), number(tick * every)))
    return found


def number(value: float) -> str:
    """Return a number as short as it says enough: four digits, whole ones whole."""
    if float(value).is_integer() and abs(value) < 1e7:
        return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")
