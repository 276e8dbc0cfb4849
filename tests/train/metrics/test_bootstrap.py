"""Bootstrap intervals: coverage, groups, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from img2img_train.metrics import bootstrap
from img2img_train.metrics.bootstrap import bootstrap_interval


def test_an_interval_contains_the_mean_and_depends_only_on_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).normal(1, 2, (60, 2))
    groups = [str(i) for i in range(60)]
    intervals = bootstrap_interval(values, groups)
    for interval, mean in zip(intervals, values.mean(axis=0), strict=True):
        assert interval is not None
        assert interval[0] < mean < interval[1]
    assert intervals == bootstrap_interval(values, groups)
    [(low, high), _] = intervals
    assert high - low == pytest.approx(2 * 1.96 * values[:, 0].std() / 60**0.5, rel=0.15)
    monkeypatch.setattr(bootstrap, "SEED", 1)
    assert intervals != bootstrap_interval(values, groups)


def test_crops_of_one_photo_count_once() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(0, 1, (6, 1)), 40, axis=0) + rng.normal(0, 0.01, (240, 1))
    groups = np.repeat(np.arange(6), 40).astype(str).tolist()
    [(low, high)] = bootstrap_interval(values, groups)
    [(single_low, single_high)] = bootstrap_interval(values, [str(i) for i in range(240)])
    assert high - low > 4 * (single_high - single_low)


@pytest.mark.parametrize("count", range(4, 9))
def test_the_coverage_holds_for_few_groups(count: int) -> None:
    values = np.random.default_rng(0).normal(0, 1, (count, 2000))
    intervals = bootstrap_interval(values, list("abcdefgh"[:count]))
    covered = sum(low <= 0 <= high for low, high in intervals)
    assert 0.93 <= covered / 2000 <= 0.97


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_groups_have_no_interval(count: int) -> None:
    values = np.random.default_rng(0).normal(0, 1, (9, 3))
    assert bootstrap_interval(values, [str(n % count) for n in range(9)]) == [None] * 3
