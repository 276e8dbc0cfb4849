"""A pool that works in the process of the test, for tests that look into it or patch it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from img2img_data.runner.stages import finished, stages_of


@dataclass
class SerialPool:
    """Stands in for ``LocalPool``: the tasks run one by one in this process."""

    work: Any
    task_at: Any
    lost: Any = None
    jobs: int = 0
    limit: float = 0.0

    def run(self, todo: Sequence[int]) -> Iterator[Any]:
        """Yield one result for each index in ``todo``."""
        return (finished(stages_of(self.work, self.task_at(index))) for index in todo)


def work_in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Make the runs of a test work in its process."""
    patch.setattr("img2img_data.runner.workers.LocalPool", SerialPool)
