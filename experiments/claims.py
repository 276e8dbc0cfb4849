"""What an experiment measured, and how a sentence is held against it: held, not held, within chance.

A rule is fixed where the experiment is defined, before its numbers are seen. Where images are compared, the
95 % interval over photos decides; where only the log of a run speaks, its numbers do, and there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_train.metrics.bootstrap import Interval, bootstrap_interval
from img2img_train.metrics.image import METRICS, SET_METRICS

if TYPE_CHECKING:
    from img2img_train.evaluation.score import Cell
    from img2img_train.metrics.color_overlap import Histograms

Held: TypeAlias = Literal["held", "not held", "within chance"]
Log: TypeAlias = Sequence[Mapping[str, Any]]

EDGES: Final = "edges"
"""Not a score but a property: the mean gradient of the output over that of the target, 1 as sharp."""
LABELS: Final = {name: m.label for name, m in (METRICS | SET_METRICS).items()} | {EDGES: "edges"}
DIGITS: Final = {name: m.digits for name, m in (METRICS | SET_METRICS).items()} | {EDGES: 2}


@dataclass(frozen=True, slots=True)
class Seen:
    """One model on one corpus: its scores, the colors of all its images, and how sharp each is (EDGES)."""

    cell: Cell
    colors: Histograms
    edges: NDArray[np.float64]

    def score(self, metric: str) -> float:
        """Return the mean of a metric, or of EDGES."""
        return float(self.edges.mean()) if metric == EDGES else self.cell.scores[metric]


@dataclass(frozen=True, slots=True)
class Trained:
    """One model: what it is, in words, its pairs to train on, its log, and the minutes that it took."""

    about: str
    pairs: int
    log: Log
    minutes: float

    def last(self, kind: str) -> Mapping[str, Any]:
        """Return the last row of a kind, "train" or "validation"."""
        return next(row for row in reversed(self.log) if row["kind"] == kind)

    def first(self, kind: str) -> Mapping[str, Any]:
        """Return the first row of a kind."""
        return next(row for row in self.log if row["kind"] == kind)

    def gap(self) -> float:
        """Return by how much the last PSNR on training pairs is above that on held-out pairs, dB."""
        row = self.last("validation")
        return float(row["psnr_train"] - row["psnr"])

    def cycle(self, row: Mapping[str, Any]) -> float:
        """Return the weighted absolute error there and back, both ways, of a row about an epoch."""
        return float(sum(v for name, v in row["losses"].items() if name.startswith("cycle")))


@dataclass(frozen=True, slots=True)
class Results:
    """Everything an experiment measured: of models, and of models on corpora, by their names."""

    models: Mapping[str, Trained]
    seen: Mapping[tuple[str, str], Seen]


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether a sentence held, and the numbers that say so."""

    held: Held
    numbers: str


Rule: TypeAlias = Callable[[Results], Finding]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, whose it is, and the rule that decides whether it holds here."""

    said: str
    rule: Rule


def judged(difference: float, interval: Interval) -> Held:
    """Return what an interval of a difference says, positive being what is claimed."""
    if interval is None:
        return "held" if difference > 0 else "not held"
    return "held" if interval[0] > 0 else "not held" if interval[1] < 0 else "within chance"


def _span(interval: Interval, digits: int) -> str:
    if interval is None:
        return "no interval"
    return f"95 % interval {interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


# ------------------------------------------------------------------------------- rules on images
def lead(first: Seen, second: Seen, metric: str) -> tuple[float, Interval]:
    """Return by how much the first model is better on the same images (EDGES: sharper), and the 95 %
    interval.
    """
    groups = [row.group for row in first.cell.rows]
    if metric in SET_METRICS:
        return first.score(metric) - second.score(metric), first.colors.lead(second.colors)[metric]
    if metric == EDGES:
        gains = first.edges - second.edges
    else:
        both = zip(first.cell.rows, second.cell.rows, strict=True)
        gains = np.array(
            [METRICS[metric].gain(a.scores[metric], b.scores[metric]) for a, b in both]
        )
    return float(gains.mean()), bootstrap_interval(gains[:, None], groups)[0]


def better(metric: str, model: str, other: str, test: str) -> Rule:
    """Hold where ``model`` is better than ``other`` on the same images, beyond chance."""

    def rule(results: Results) -> Finding:
        first, second = results.seen[model, test], results.seen[other, test]
        difference, interval = lead(first, second, metric)
        digits = DIGITS[metric]
        scores = f"{first.score(metric):.{digits}f} against {second.score(metric):.{digits}f}"
        numbers = f"{LABELS[metric]} {scores}; better by {difference:+.{digits}f}, {_span(interval, digits)}"
        return Finding(judged(difference, interval), numbers)

    return rule


def no_better(metric: str, model: str, other: str, test: str) -> Rule:
    """Hold where ``model`` is not better than ``other`` beyond chance."""

    def rule(results: Results) -> Finding:
        found = better(metric, model, other, test)(results)
        return Finding("not held" if found.held == "held" else "held", found.numbers)

    return rule


def gains(model: str, test: str, metric: str = "psnr") -> Rule:
    """Hold where a model is better than doing nothing, beyond chance."""

    def rule(results: Results) -> Finding:
        cell = results.seen[model, test].cell
        gain, interval, digits = cell.gain[metric], cell.gain_interval[metric], DIGITS[metric]
        scores = (
            f"{cell.scores[metric]:.{digits}f}, doing nothing {cell.nothing[metric]:.{digits}f}"
        )
        return Finding(
            judged(gain, interval),
            f"{LABELS[metric]} {scores}; gain {gain:+.{digits}f}, {_span(interval, digits)}",
        )

    return rule


def harms(model: str, test: str) -> Rule:
    """Hold where a model is worse than doing nothing by PSNR, beyond chance."""

    def rule(results: Results) -> Finding:
        found = gains(model, test)(results)
        turned: dict[Held, Held] = {
            "held": "not held",
            "not held": "held",
            "within chance": "within chance",
        }
        return Finding(turned[found.held], found.numbers)

    return rule


def share(test: str, reference: str, model: str, least: float = 0, most: float = 0) -> Rule:
    """Hold where the gain in PSNR on ``test`` is at ``least``, or at ``most``, such a part of that on
    ``reference``.

    The interval of what is left over adds the two half widths in squares, for the photos are others.
    """

    def rule(results: Results) -> Finding:
        cells = [results.seen[model, name].cell for name in (test, reference)]
        (gain, base), (near, far) = (
            (c.gain["psnr"] for c in cells),
            (c.gain_interval["psnr"] for c in cells),
        )
        part, sign = (most, -1) if most else (least, 1)
        left = sign * (gain - part * base)
        half = None if near is None or far is None else np.hypot(_half(near), part * _half(far))
        span: Interval = None if half is None else (left - float(half), left + float(half))
        said = f"gain {gain:+.2f} dB, {_span(near, 2)}; {base:+.2f} dB on {reference}"
        bound = f"{'at most' if most else 'at least'} {part:g} of it is asked"
        return Finding(judged(left, span), f"{said}: {gain / base:.2f} of it, {bound}")

    return rule


def _half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


# ----------------------------------------------------------------------------------- rules on logs
def wider_gap(model: str, other: str, least: float = 1.0) -> Rule:
    """Hold where the gap between training and held-out pairs is more than ``least`` times as wide."""

    def rule(results: Results) -> Finding:
        first, second = results.models[model].gap(), results.models[other].gap()
        numbers = f"gap {first:.2f} dB against {second:.2f} dB; more than {least:g} times is asked; one run each"
        return Finding(judged(first - least * max(second, 0.0), None), numbers)

    return rule


def halves_cycle(model: str) -> Rule:
    """Hold where the error there and back of the last epoch is at most half that of the first."""

    def rule(results: Results) -> Finding:
        trained = results.models[model]
        start, end = (trained.cycle(row) for row in (trained.first("train"), trained.last("train")))
        seen = [row["cycle_mae"] for row in trained.log if "cycle_mae" in row]
        held_out = (
            f"; on held-out photos {seen[0]:.1f} to {seen[-1]:.1f} gray levels" if seen else ""
        )
        numbers = (
            f"{start:.4g} in epoch 1, {end:.4g} in the last: {end / start:.2f} of it{held_out}"
        )
        return Finding(judged(0.5 * start - end + 1e-12, None), numbers)

    return rule
