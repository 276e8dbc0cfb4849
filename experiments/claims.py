"""Measurements of an experiment and rules that check a claim against them.

A claim is confirmed, not confirmed or inconclusive. Its rule is fixed where the experiment is
defined, before its numbers are seen. Where images are compared, the 95 % interval over photos
decides; where only the log of a run is compared, its numbers decide, without an interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_train.metrics.bootstrap import Interval, bootstrap_interval
from img2img_train.metrics.registry import COLOR_METRICS, METRICS

if TYPE_CHECKING:
    from img2img_train.evaluation.score import Evaluation
    from img2img_train.metrics.color_overlap import ColorHistograms

Status: TypeAlias = Literal["confirmed", "not confirmed", "inconclusive"]
Log: TypeAlias = Sequence[Mapping[str, Any]]

EDGES: Final = "edges"
"""A property, not a score: mean gradient of the output over that of the target, 1 if as sharp."""
LABELS: Final = {name: metric.label for name, metric in METRICS.items()} | {EDGES: "edges"}
DIGITS: Final = {name: metric.digits for name, metric in METRICS.items()} | {EDGES: 2}


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of one model on one corpus, its color histograms, and the EDGES of each image."""

    evaluation: Evaluation
    colors: ColorHistograms
    edges: NDArray[np.float64]

    def mean(self, metric: str) -> float:
        """Return the mean of a metric, or of EDGES."""
        return float(self.edges.mean()) if metric == EDGES else self.evaluation.scores[metric]


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained model: its networks in words, training pairs, log and training minutes."""

    networks: str
    pairs: int
    log: Log
    minutes: float

    def last(self, kind: str) -> Mapping[str, Any]:
        """Return the last log row of a kind, "train" or "validation"."""
        return next(row for row in reversed(self.log) if row["kind"] == kind)

    def first(self, kind: str) -> Mapping[str, Any]:
        """Return the first log row of a kind."""
        return next(row for row in self.log if row["kind"] == kind)

    def gap(self) -> float:
        """Return the last PSNR on training pairs minus that on held-out pairs, in dB."""
        row = self.last("validation")
        return float(row["psnr_train"] - row["psnr"])

    def cycle_loss(self, row: Mapping[str, Any]) -> float:
        """Return the weighted cycle loss of both directions in a log row of an epoch."""
        return float(sum(v for name, v in row["losses"].items() if name.startswith("cycle")))


@dataclass(frozen=True, slots=True)
class Results:
    """The measurements of an experiment: by model, and by (model, test corpus)."""

    models: Mapping[str, TrainedModel]
    scores: Mapping[tuple[str, str], ModelScores]


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The status of a claim, and the numbers that decided it."""

    status: Status
    numbers: str


Rule: TypeAlias = Callable[[Results], ClaimResult]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, with its source, and the rule that checks it."""

    text: str
    rule: Rule


def status_of(difference: float, interval: Interval) -> Status:
    """Return the status of the claim that a difference is positive."""
    if interval is None:
        return "confirmed" if difference > 0 else "not confirmed"
    if interval[0] > 0:
        return "confirmed"
    return "not confirmed" if interval[1] < 0 else "inconclusive"


def _span(interval: Interval, digits: int) -> str:
    if interval is None:
        return "no interval"
    return f"95 % interval {interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


# ------------------------------------------------------------------------------- rules on images
def compare(first: ModelScores, second: ModelScores, metric: str) -> tuple[float, Interval]:
    """Return by how much the first model is better (EDGES: sharper), and its interval."""
    if metric in COLOR_METRICS:
        difference = first.mean(metric) - second.mean(metric)
        return difference, first.colors.gain_intervals(second.colors)[metric]
    rows, others = first.evaluation.image_scores, second.evaluation.image_scores
    if metric == EDGES:
        gains = first.edges - second.edges
    else:
        gain = METRICS[metric].gain
        gains = np.array(
            [gain(a.scores[metric], b.scores[metric]) for a, b in zip(rows, others, strict=True)]
        )
    interval = bootstrap_interval(gains[:, None], [row.group for row in rows])[0]
    return float(gains.mean()), interval


def better(metric: str, model: str, other: str, test: str) -> Rule:
    """Return a rule, confirmed if ``model`` is better than ``other`` beyond chance."""

    def rule(results: Results) -> ClaimResult:
        first, second = results.scores[model, test], results.scores[other, test]
        difference, interval = compare(first, second, metric)
        digits = DIGITS[metric]
        scores = f"{first.mean(metric):.{digits}f} against {second.mean(metric):.{digits}f}"
        change = f"better by {difference:+.{digits}f}, {_span(interval, digits)}"
        numbers = f"{LABELS[metric]} {scores}; {change}"
        return ClaimResult(status_of(difference, interval), numbers)

    return rule


def no_better(metric: str, model: str, other: str, test: str) -> Rule:
    """Return a rule, confirmed if ``model`` is not better than ``other`` beyond chance."""

    def rule(results: Results) -> ClaimResult:
        result = better(metric, model, other, test)(results)
        status: Status = "not confirmed" if result.status == "confirmed" else "confirmed"
        return ClaimResult(status, result.numbers)

    return rule


def gains(model: str, test: str, metric: str = "psnr") -> Rule:
    """Return a rule, confirmed if a model beats the input beyond chance."""

    def rule(results: Results) -> ClaimResult:
        evaluation = results.scores[model, test].evaluation
        gain, interval = evaluation.gain[metric], evaluation.gain_interval[metric]
        digits, baseline = DIGITS[metric], evaluation.input_scores[metric]
        scores = f"{evaluation.scores[metric]:.{digits}f}, input {baseline:.{digits}f}"
        numbers = f"{LABELS[metric]} {scores}; gain {gain:+.{digits}f}, {_span(interval, digits)}"
        return ClaimResult(status_of(gain, interval), numbers)

    return rule


def harms(model: str, test: str) -> Rule:
    """Return a rule, confirmed if a model is worse than the input by PSNR, beyond chance."""
    opposite: dict[Status, Status] = {
        "confirmed": "not confirmed",
        "not confirmed": "confirmed",
        "inconclusive": "inconclusive",
    }

    def rule(results: Results) -> ClaimResult:
        result = gains(model, test)(results)
        return ClaimResult(opposite[result.status], result.numbers)

    return rule


def share(test: str, reference: str, model: str, least: float = 0, most: float = 0) -> Rule:
    """Return a rule about the gain in PSNR on ``test`` as a share of that on ``reference``.

    Confirmed if the share is at least ``least``, or at most ``most``.
    """

    def rule(results: Results) -> ClaimResult:
        both = [results.scores[model, name].evaluation for name in (test, reference)]
        gain, base = (evaluation.gain["psnr"] for evaluation in both)
        near, far = (evaluation.gain_interval["psnr"] for evaluation in both)
        limit, sign = (most, -1) if most else (least, 1)
        excess = sign * (gain - limit * base)
        interval: Interval = None
        if near is not None and far is not None:
            # The photos of the two corpora are independent, so the half widths add in squares.
            half = float(np.hypot(_half(near), limit * _half(far)))
            interval = excess - half, excess + half
        numbers = f"gain {gain:+.2f} dB, {_span(near, 2)}; {base:+.2f} dB on {reference}"
        bound = f"claimed: {'at most' if most else 'at least'} {limit:g}"
        return ClaimResult(
            status_of(excess, interval), f"{numbers}: a share of {gain / base:.2f}, {bound}"
        )

    return rule


def _half(interval: tuple[float, float]) -> float:
    return (interval[1] - interval[0]) / 2


# ----------------------------------------------------------------------------------- rules on logs
def wider_gap(model: str, other: str, least: float = 1.0) -> Rule:
    """Return a rule on the gap between training and held-out pairs.

    Confirmed if that of ``model`` is more than ``least`` times as wide as that of ``other``.
    """

    def rule(results: Results) -> ClaimResult:
        first, second = results.models[model].gap(), results.models[other].gap()
        bound = f"claimed: more than {least:g} times"
        numbers = f"gap {first:.2f} dB against {second:.2f} dB; {bound}; one run each"
        return ClaimResult(status_of(first - least * max(second, 0.0), None), numbers)

    return rule


def halves_cycle(model: str) -> Rule:
    """Return a rule, confirmed if the cycle loss falls to half or less from first to last epoch."""

    def rule(results: Results) -> ClaimResult:
        trained = results.models[model]
        rows = trained.first("train"), trained.last("train")
        start, end = (trained.cycle_loss(row) for row in rows)
        maes = [row["cycle_mae"] for row in trained.log if "cycle_mae" in row]
        held_out = f"; held-out cycle MAE {maes[0]:.1f} to {maes[-1]:.1f} levels" if maes else ""
        numbers = f"{start:.4g} in epoch 1, {end:.4g} in the last: {end / start:.2f} of it"
        # The tolerance confirms exactly one half.
        return ClaimResult(status_of(0.5 * start - end + 1e-12, None), numbers + held_out)

    return rule
