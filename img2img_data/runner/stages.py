"""Tasks in stages, several of which go through each stage together.

A worker that takes one small image after the other from reading to writing spends a third of its
time waiting for memory: a function and its tables have left the caches of the processor when the
next image needs them. Several images therefore go through a stage (read, degrade, encode, write)
before the first of them goes on to the next one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

Stages: TypeAlias = Generator[int, None, ResultT]
"""A task in stages: it yields after each but the last. Its first value is the number of bytes that
it keeps, by which tasks are grouped; later values are not used."""
Work: TypeAlias = "Callable[[TaskT], ResultT | Stages[ResultT]]"
"""A function that processes a task, or starts one in stages."""

GROUP_SIZE: Final = 64
"""Tasks in a group, at most."""
GROUP_BYTES: Final = 1 << 23
"""Bytes that a group keeps after its first stage; no task joins it beyond."""


def stages_of(work: Work[TaskT, ResultT], task: TaskT) -> Stages[ResultT]:
    """Return a task in stages; one that a plain function processes has a single stage."""
    begun = work(task)
    if isinstance(begun, Generator):
        begun = yield from begun
    return begun


def finished(stages: Stages[ResultT]) -> ResultT:
    """Run all stages of a task and return its result."""
    try:
        while True:
            next(stages)
    except StopIteration as end:
        result: ResultT = end.value
        return result


def in_step(
    work: Work[TaskT, ResultT],
    tasks: Iterable[TaskT],
    limit: float,
    deadlines: dict[int, float],
    group_size: int = GROUP_SIZE,
) -> Iterator[list[ResultT]]:
    """Yield the results of tasks, in order: those of a group of up to ``group_size`` tasks at once.

    ``limit``: seconds for all stages of a task. During a stage ``deadlines`` holds the time at
    which it must be finished, by thread.
    """
    waiting = deque(tasks)
    while waiting:
        group, held = list[_Running[ResultT]](), 0
        while waiting and len(group) < group_size and held < GROUP_BYTES:
            group.append(_Running(stages_of(work, waiting.popleft()), limit))
            held += group[-1].advance(deadlines)
            if group[0].stages is None:
                break  # its result does not wait for others
        while unfinished := [running for running in group if running.stages is not None]:
            for running in unfinished:
                running.advance(deadlines)
        yield [running.result for running in group]


@dataclass(slots=True)
class _Running(Generic[ResultT]):
    """A task and the seconds left to it; without further ``stages`` it has its ``result``."""

    stages: Stages[ResultT] | None
    seconds: float
    result: Any = None

    def advance(self, deadlines: dict[int, float]) -> int:
        """Run a stage, and return the bytes that the task keeps; 0 after the last one."""
        assert self.stages is not None
        began, thread = time.monotonic(), threading.get_ident()
        deadlines[thread] = began + self.seconds
        try:
            return next(self.stages)
        except StopIteration as end:
            self.stages, self.result = None, end.value
            return 0
        finally:
            del deadlines[thread]
            self.seconds -= time.monotonic() - began
