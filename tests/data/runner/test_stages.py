"""Tasks that go through their stages together."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from conftest import write_photos

from img2img_data.builds.pairs import BuildSettings, Degrade, corpus_build
from img2img_data.runner.plan import plan_folders
from img2img_data.runner.stages import GROUP_BYTES, GROUP_SIZE, Stages, finished, in_step, stages_of
from img2img_data.sources.folder import list_folder

Log = list[tuple[str, int]]


def staged(log: Log, count: int, held: int = 1) -> Stages[int]:
    """A task that notes each of its three stages and returns its square."""
    for stage in ("read", "degrade"):
        log.append((stage, count))
        yield held
    log.append(("write", count))
    return count**2


@pytest.mark.parametrize("size", [1, 2, 3, 7, GROUP_SIZE])
def test_results_do_not_depend_on_the_group(size: int) -> None:
    def work(task: int) -> int | Stages[int]:
        return task**2 if task % 3 == 0 else staged([], task)

    groups = list(in_step(work, range(20), 60, {}, size))
    assert [result for group in groups for result in group] == [i**2 for i in range(20)]
    assert max(map(len, groups)) <= size
    assert finished(staged([], 5)) == 25


def test_a_group_finishes_a_stage_before_the_next_one() -> None:
    log: Log = []
    assert list(in_step(lambda i: staged(log, i), range(5), 60, {}, 3)) == [[0, 1, 4], [9, 16]]
    stages = ("read", "degrade", "write")
    assert log == [(s, i) for group in ([0, 1, 2], [3, 4]) for s in stages for i in group]


def test_large_tasks_are_not_kept_together() -> None:
    half = GROUP_BYTES // 2
    sizes = [half, half, 1, GROUP_BYTES, GROUP_BYTES, 1]
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


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({}, 900 * 600 * 3, 2_000_000),
        ({"size": "2000"}, 2000 * 2000 * 3, 14_000_000),  # in the group with its size in the corpus
        ({"tile": "16"}, 16 * 16 * 3, 16 * 16 * 3),  # a tile does not keep its image
    ],
)
def test_a_pair_reports_the_memory_that_it_keeps(
    settings: dict[str, str], least: int, most: int, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 1, 900, 600)
    plan = plan_folders([photos], "paired", [list_folder(photos)])
    if "tile" in settings:
        plan = plan.cut((16, 16), None, lambda *_: None)
    out = tmp_path / "out"
    build = corpus_build(plan, Degrade(), out, BuildSettings(**settings), "blur")
    stages = stages_of(build.work, plan.task(0))
    assert least <= next(stages) <= most
    assert not out.exists(), "the first stage only reads"
