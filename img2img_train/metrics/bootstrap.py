"""Bootstrap confidence intervals (95 %) of means over groups of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Interval: TypeAlias = tuple[float, float] | None
SEED: Final = 0
RESAMPLES: Final = 2000
LEAST_GROUPS: Final = 4
"""With fewer groups there is no interval: one by Student's t would be 2.5 deviations of the groups
to each side for three of them, and 9 for two."""
FEW_GROUPS: Final = 6
"""With fewer groups an interval is by Student's t in place of percentiles."""
BLOCK: Final = 250_000
"""Numbers drawn at a time."""


def bootstrap_interval(values: NDArray[np.float64], groups: Sequence[str]) -> list[Interval]:
    """Return the 95 % interval of the mean of each column of ``values`` (images x metrics).

    ``groups`` names the group of each image: crops of one photo, photos of one person. None for
    each column if there are fewer than four groups.
    """
    count = len(set(groups))
    if count < LEAST_GROUPS:
        return [None] * values.shape[1]
    return percentile_intervals(resampled_means(values, groups), count)


def describe_interval(interval: Interval, groups: int) -> str:
    """Return an interval of a mean over so many groups of images, in words."""
    if interval is None:
        return f"no interval: {groups:,} photo{'s' * (groups != 1)}, fewer than {LEAST_GROUPS}"
    return f"95 % interval {interval[0]:+.2f} to {interval[1]:+.2f}"


def resampled_means(values: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Return the means of the columns of ``values`` (images x metrics) in resamples of whole
    groups: resamples x metrics.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names)
    # Whole groups are drawn: crops of one photo are not independent, and forty of them say no more
    # about the next photo than one does.
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, member, values)
    sizes = np.bincount(member, minlength=count)
    blocks = resample_counts(count)
    return np.concatenate([(counts @ sums) / (counts @ sizes)[:, None] for counts in blocks])


def resample_counts(groups: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each group is drawn, resamples x groups, in blocks that fit into memory."""
    rng = np.random.default_rng(SEED)
    rows = max(1, BLOCK // groups)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size=size)


def percentile_intervals(means: NDArray[np.float64], groups: int) -> list[Interval]:
    """Return the 95 % interval of each column of ``means`` (resamples x metrics)."""
    from scipy.special import ndtr, stdtrit

    # The expanded percentile interval: plain percentiles are too narrow for few groups, so they are
    # widened by t with G - 1 degrees of freedom and by sqrt(G / (G - 1)) (Hesterberg 2015, "What
    # Teachers Should Know About the Bootstrap").
    deviations = float(stdtrit(groups - 1, 0.025) * np.sqrt(groups / (groups - 1)))
    if groups < FEW_GROUPS:
        # No resample leaves the range of the groups, so percentiles of very few groups stay too
        # narrow even at the extremes: Student's t, with the standard error of the resamples.
        center, error = means.mean(axis=0), means.std(axis=0)
        low, high = center + deviations * error, center - deviations * error
    else:
        low, high = np.quantile(means, [ndtr(deviations), 1 - ndtr(deviations)], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
