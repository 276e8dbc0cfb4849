"""How sure a mean is: 95 % intervals by resampling whole photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Interval: TypeAlias = tuple[float, float] | None
RESAMPLES: Final = 2000
BLOCK: Final = 250_000
"""Numbers drawn at a time."""


def bootstrap_interval(
    values: NDArray[np.float64], groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Return the 95 % interval of the mean of each column of ``values`` (images x metrics).

    Whole groups (the photos) are drawn with replacement, so that forty crops of one photo count as one
    witness and not as forty. The percentiles are widened by t with G - 1 degrees of freedom and sqrt(G / (G -
    1)), for plain ones are too narrow for few groups (Hesterberg, "What Teachers Should Know About the
    Bootstrap", 2015). None for each column when there is but one group.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    count = len(names)
    if count < 2:
        return [None] * values.shape[1]
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, member, values)
    sizes = np.bincount(member, minlength=count)
    means = [(drawn @ sums) / (drawn @ sizes)[:, None] for drawn in draws(count, resamples, seed)]
    return percentiles(np.concatenate(means), count)


def draws(count: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of ``count`` groups is drawn, a row a resample, in blocks that fit into memory."""
    rng = np.random.default_rng(seed)
    chunk = max(1, BLOCK // count)
    for start in range(0, resamples, chunk):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, resamples - start))


def percentiles(means: NDArray[np.float64], count: int) -> list[Interval]:
    """Return the 95 % interval of each column of resampled means of ``count`` groups."""
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr(stdtrit(count - 1, 0.025) * np.sqrt(count / (count - 1))))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
