"""Tasks that kill or block their worker, and the reasons for which they are rejected.

Run as ``deadly.py NAME JOBS COUNT`` to process ``COUNT`` tasks in a process without other threads.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from img2img_data.runner.stages import Stages

DEADLY = 7
"""The task that is lost, and the first of all."""


def dies_on_seven(task: int) -> int:
    """Return the task, but kill the process on 7."""
    if task == DEADLY:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def dies_in_a_stage(task: int) -> Stages[int]:
    """Return the task after a stage, but kill the process on 7."""
    yield 1
    return dies_on_seven(task)


def hangs_in_a_stage(task: int) -> Stages[int]:
    """Return the task after two stages, but sleep for a minute on 7."""
    yield 1
    if task == DEADLY:
        time.sleep(60)
    yield 1
    return task


def fails_on_first(task: int) -> int:
    """Raise an error."""
    return task // (task - DEADLY)


LOST: dict[str, tuple[Any, float, str]] = {
    "dies": (dies_on_seven, 60.0, "worker-died"),
    "dies in a stage": (dies_in_a_stage, 60.0, "worker-died"),
    "hangs": (hangs_in_a_stage, 1.0, "timeout"),
}
"""Function, time limit in seconds, reason of the rejection."""


def results(name: str, jobs: int, count: int) -> list[list[object]]:
    """Process tasks 7, 8, ... in a pool; return the results, sorted, and the lost tasks."""
    from img2img_data.runner.workers import LocalPool

    work, limit, _ = LOST.get(name, (fails_on_first, 60.0, ""))
    lost: list[object] = []

    def note(task: int, why: str) -> int:
        lost.append([task, why])
        return -1

    pool: Any = LocalPool(work, lambda i: DEADLY + i, note, jobs, limit)
    return [sorted(pool.run(range(count))), lost]


def expected(name: str, count: int) -> list[list[object]]:
    """Return the results if only the deadly task is lost."""
    return [[-1, *range(DEADLY + 1, DEADLY + count)], [[DEADLY, LOST[name][2]]]]


if __name__ == "__main__":
    print(json.dumps(results(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
