"""Measurements of an experiment: scores of each seed, and differences with an interval over seeds
and images.

Each seed is a training of its own, scored on the same images. The interval of a difference is a
bootstrap that resamples the seeds and, independently, the groups of images (photos, persons). Three
seeds vary less among themselves than seeds do, so their deviations from the mean are widened first,
as the quantile of Student's t is wider than that of the normal distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_train.metrics.bootstrap import (
    RESAMPLES,
    SEED,
    Interval,
    percentile_intervals,
    resampled_means,
)
from img2img_train.metrics.registry import COLOR_METRICS, METRICS

if TYPE_CHECKING:
    from img2img_train.evaluation.score import Evaluation
    from img2img_train.metrics.color_overlap import ColorHistograms

Log: TypeAlias = Sequence[Mapping[str, Any]]
Values: TypeAlias = NDArray[np.float64]

EDGES: Final = "edges"
"""Mean gradient of the output over that of the target, 1 if as sharp."""
RED, YELLOW = "red", "yellow"
"""Mean a, and mean b, of the output in CIE L*a*b* minus that of the target."""
PROPERTIES: Final = {EDGES: "edges", RED: "shift of a", YELLOW: "shift of b"}
"""Properties of an image, which are not scores: more is not better. Names to labels."""
LABELS: Final = {name: metric.label for name, metric in METRICS.items()} | PROPERTIES
DIGITS: Final = {name: m.digits for name, m in METRICS.items()} | dict.fromkeys(PROPERTIES, 2)
LEAST_RUNS: Final = 3
"""Runs without which a number of a log has no interval."""


@dataclass(frozen=True, slots=True)
class ModelScores:
    """The scores of one model, or of a baseline, on one corpus, its color histograms, and the
    PROPERTIES of each image.
    """

    evaluation: Evaluation
    colors: ColorHistograms
    properties: Mapping[str, Values]

    @property
    def groups(self) -> list[str]:
        """The group of each image."""
        return [row.group for row in self.evaluation.image_scores]

    def mean(self, metric: str) -> float:
        """Return the mean of a metric or property."""
        if metric in PROPERTIES:
            return float(self.properties[metric].mean())
        return self.evaluation.scores[metric]

    def values(self, metric: str) -> Values:
        """Return a metric, not of COLOR_METRICS, or a property of each image."""
        if metric in PROPERTIES:
            return self.properties[metric]
        return np.array([row.scores[metric] for row in self.evaluation.image_scores])


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A trained model: its networks in words, training pairs, log, minutes of training.

    ``cpu_minutes`` is the processor time of the whole command; None if it was not measured.
    """

    networks: str
    pairs: int
    log: Log
    minutes: float
    cpu_minutes: float | None = None

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

    def cycle_losses(self) -> tuple[float, float]:
        """Return the weighted cycle loss of both directions in the first and the last epoch."""
        rows = self.first("train")["losses"], self.last("train")["losses"]
        first, last = (sum(v for n, v in row.items() if n.startswith("cycle")) for row in rows)
        return float(first), float(last)


@dataclass(frozen=True, slots=True)
class Results:
    """The measurements of an experiment, each a sequence over seeds.

    ``models`` by name, ``scores`` by (model, test corpus), ``baselines`` by test corpus and name.
    """

    models: Mapping[str, Sequence[TrainedModel]]
    scores: Mapping[tuple[str, str], Sequence[ModelScores]]
    baselines: Mapping[str, Mapping[str, ModelScores]] = field(default_factory=dict)

    def best_baseline(self, test: str, metric: str) -> str:
        """Return the name of the best baseline on a test corpus by a metric."""
        sign = -1 if METRICS[metric].better == "lower" else 1
        means = {name: sign * scores.mean(metric) for name, scores in self.baselines[test].items()}
        return max(means, key=lambda name: means[name])


# -------------------------------------------------------------------------------------- differences
@dataclass(frozen=True, slots=True)
class Difference:
    """A number of each seed, and the 95 % interval of their mean; None where there is none."""

    by_seed: Values
    interval: Interval

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return float(self.by_seed.mean())

    def __neg__(self) -> Difference:
        interval = self.interval and (-self.interval[1], -self.interval[0])
        return Difference(-self.by_seed, interval)

    def text(self, digits: int) -> str:
        """Return the mean, its interval, and the least and greatest of the seeds."""
        span = "no interval"
        if self.interval is not None:
            low, high = self.interval
            span = f"95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
        if len(self.by_seed) > 1:
            low, high = self.by_seed.min(), self.by_seed.max()
            span += f", seeds {low:+.{digits}f} to {high:+.{digits}f}"
        return f"{self.mean:+.{digits}f}, {span}"


def over_seeds(by_seed: Values, resampled: Values, groups: int) -> Difference:
    """Return the difference of which ``resampled`` (resamples x seeds) are resamples of images.

    In a row all seeds have the same resample of the groups of images. With one seed the interval is
    over images only; with one group there is none.
    """
    seeds = len(by_seed)
    if groups < 2:
        return Difference(by_seed, None)
    means = resampled.mean(axis=1)
    if seeds > 1:
        from scipy.special import stdtrit

        widened = stdtrit(seeds - 1, 0.975) / stdtrit(np.inf, 0.975) * np.sqrt(seeds / (seeds - 1))
        drawn = np.random.default_rng(SEED).integers(seeds, size=(len(resampled), seeds))
        picked = np.take_along_axis(resampled, drawn, axis=1)
        means = means + widened * (picked.mean(axis=1) - means)
    return Difference(by_seed, percentile_intervals(means[:, None], groups)[0])


def over_images(values: Sequence[Values], groups: Sequence[str]) -> Difference:
    """Return the mean of one array of images per seed, all of the same images."""
    columns = np.column_stack(values)
    return over_seeds(columns.mean(axis=0), resampled_means(columns, groups), len(set(groups)))


def over_runs(by_seed: Sequence[float]) -> Difference:
    """Return the mean of a number of each run, its interval by Student's t over LEAST_RUNS or more
    runs.
    """
    values, runs = np.array(by_seed), len(by_seed)
    if runs < LEAST_RUNS:
        return Difference(values, None)
    from scipy.special import stdtrit

    half = float(stdtrit(runs - 1, 0.975) * values.std(ddof=1) / np.sqrt(runs))
    return Difference(values, (float(values.mean()) - half, float(values.mean()) + half))


def compare(first: Sequence[ModelScores], second: Sequence[ModelScores], metric: str) -> Difference:
    """Return by how much the first model is better (of a property: has more) than the second.

    Both are scored on the same images, seed by seed; a baseline has one for all seeds.
    """
    pairs = [(one, second[seed % len(second)]) for seed, one in enumerate(first)]
    if metric in COLOR_METRICS:
        place = COLOR_METRICS.index(metric)
        by_seed = np.array([a.mean(metric) - b.mean(metric) for a, b in pairs])
        resampled = [a.colors.resampled_gains(b.colors)[:, place] for a, b in pairs]
        return over_seeds(by_seed, np.column_stack(resampled), len(first[0].colors.images))
    return over_images(gains_of_images(first, second, metric), first[0].groups)


def gains_of_images(
    first: Sequence[ModelScores], second: Sequence[ModelScores], metric: str
) -> list[Values]:
    """Return by how much each image of the first model is better than of the second, seed by
    seed.
    """
    sign = -1 if metric in METRICS and METRICS[metric].better == "lower" else 1
    others = [second[seed % len(second)] for seed in range(len(first))]
    pairs = zip(first, others, strict=True)
    return [sign * (one.values(metric) - other.values(metric)) for one, other in pairs]


def minus(
    first: Sequence[Values],
    groups: Sequence[str],
    second: Sequence[Values],
    others: Sequence[str],
    factor: float = 1,
) -> Difference:
    """Return the mean of the first minus ``factor`` times that of the second, seed by seed.

    If both are of the same groups, in the same order (gray and color copies of one photo), they are
    resampled together, else independently.
    """
    if list(groups) == list(others):
        both = zip(first, second, strict=True)
        return over_images([one - factor * other for one, other in both], groups)
    near, far = np.column_stack(first), np.column_stack(second)
    order = np.random.default_rng(SEED).permutation(RESAMPLES)
    resampled = resampled_means(near, groups) - factor * resampled_means(far, others)[order]
    by_seed = near.mean(axis=0) - factor * far.mean(axis=0)
    return over_seeds(by_seed, resampled, min(len(set(groups)), len(set(others))))


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Return the mean; of several seeds, also the largest distance of one from it."""
    mean = float(np.mean(values))
    text = f"{mean:{sign}.{digits}f}"
    if len(values) == 1:
        return text
    return f"{text} ± {max(abs(value - mean) for value in values):.{digits}f}"
