"""Tasks that go through their stages together."""

from __future__ import annotations

import threading
import time

import pytest

from img2img_data.runner.stages import TOGETHER, TOGETHER_BYTES, Stages, finished, in_step

Log = list[tuple[str, int]]


def staged(log: Log, count: int, held: int = 1) -> Stages[int]:
    """A task that notes each of its three stages and returns its square."""
    for stage in ("read", "degrade"):
        log.append((stage, count))
        yield held
    log.append(("write", count))
    return count**2


@pytest.mark.parametrize("together", [1, 2, 3, 7, TOGETHER])
def test_results_do_not_depend_on_the_group(together: int) -> None:
    def work(task: int) -> int | Stages[int]:
        return task**2 if task % 3 == 0 else staged([], task)

    groups = list(in_step(work, range(20), 60, {}, together))
    assert [result for group in groups for result in group] == [i**2 for i in range(20)]
    assert max(map(len, groups)) <= together
    assert finished(staged([], 5)) == 25


def test_a_group_finishes_a_stage_before_the_next_one() -> None:
    log: Log = []
    assert list(in_step(lambda i: staged(log, i), range(5), 60, {}, 3)) == [[0, 1, 4], [9, 16]]
    stages = [("read", "degrade", "write")[n] for n in range(3)]
    assert log == [(s, i) for group in ([0, 1, 2], [3, 4]) for s in stages for i in group]


def test_large_tasks_are_not_kept_together() -> None:
    half = TOGETHER_BYTES // 2
    sizes = [half, half, 1, TOGETHER_BYTES, TOGETHER_BYTES, 1]
    groups = list(in_step(lambda i: staged([], i, sizes[i]), range(6), 60, {}))
    assert groups == [[0, 1], [4, 9], [16], [25]]


def test_a_result_that_needs_no_further_stage_does_not_wait() -> None:
    results = in_step(lambda task: task, [1, 0], 60, {})
    assert next(results) == [1]


def test_the_time_limit_is_for_all_stages_of_a_task() -> None:
    """A stage gets what the stages of the same task before it have left."""
    deadlines: dict[int, float] = {}
    left: dict[int, list[float]] = {0: [], 1: []}

    def work(task: int) -> Stages[None]:
        for _ in range(3):
            left[task].append(deadlines[threading.get_ident()] - time.monotonic())
            if task == 0:
                time.sleep(0.15)
            yield 1

    assert list(in_step(work, [0, 1], 10, deadlines)) == [[None, None]]
    assert not deadlines, "nothing runs between the stages"
    assert all(before - after >= 0.15 for before, after in zip(left[0], left[0][1:], strict=False))
    assert min(left[1]) > 9.85


def test_an_error_of_a_stage_is_raised() -> None:
    def work(task: int) -> Stages[float]:
        yield 1
        return 1 / task

    with pytest.raises(ZeroDivisionError):
        list(in_step(work, [1, 0], 60, {}))
