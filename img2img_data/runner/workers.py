"""Work spread over processes: in chunks, results as they come, a dead worker costs one image at most.

Built on joblib's loky. What loky leaves open is closed here: a killed worker loses its whole call, so the
items in flight are run again one by one, and one that kills twice is reported; workers whose parent is gone
end; a image that takes too long ends its worker; a signal to all, as Ctrl-C, is heard by the parent alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

CHUNK: Final = 64
"""Tasks per call of a worker: enough to hide the 215 microseconds that a joblib call costs."""

TIMED_OUT: Final = 75

MALLOPT: Final = {-3: 32 << 20, -1: 256 << 20, -2: 16 << 20}
"""M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of glibc's mallopt(3), in bytes."""

HELD: Final = tuple(
    getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
)
"""Signals that workers never hear: the parent ends them."""

NO_LEAKS: Final = "ignore:resource_tracker:UserWarning"
"""For the processes that clean up after loky: what we give up as we end they would call a leak."""


@dataclass(slots=True)
class Watch:
    """What a worker's guard thread looks at: its parent, and until when the task of each thread may take."""

    parent: int | None
    until: dict[int, float] = field(default_factory=dict)

    def look(self) -> None:
        """End the process when the parent is gone or a task in hand is over its time."""
        while True:
            time.sleep(0.5)
            if self.parent is not None and os.getppid() != self.parent:
                os._exit(1)
            if min(self.until.copy().values(), default=float("inf")) < time.monotonic():
                os._exit(TIMED_OUT)


_watches: dict[int, Watch] = {}  # one entry per worker process, kept for its life
_starting = threading.Lock()


def run_chunk(
    work: Callable[[Task], Result], tasks: Sequence[Task], parent: int | None, limit: float
) -> list[Result]:
    """Do a chunk in a worker: one OpenCV thread, guarded. ``parent`` None: a worker that outlives the run."""
    if os.getpid() == parent:
        return [work(t) for t in tasks]
    watch, thread = _watch_of(parent), threading.get_ident()
    try:
        results = []
        for task in tasks:
            watch.until[thread] = time.monotonic() + limit
            results.append(work(task))
        return results
    finally:
        watch.until.pop(thread, None)


def _watch_of(parent: int | None) -> Watch:
    import cv2

    me = os.getpid()
    with _starting:
        watch = _watches.get(me)
        if watch is None or watch.parent != parent:
            cv2.setNumThreads(1)
            _keep_memory()
            watch = _watches[me] = Watch(parent)
            threading.Thread(target=watch.look, daemon=True, name="img2img-watch").start()
        return watch


def _keep_memory() -> None:
    """Let the allocator keep the memory of one image for the next; each would be given back, and faulted
    in anew, page by page.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        for option, size in MALLOPT.items():
            mallopt(option, size)


@dataclass(slots=True)
class Pool(Generic[Task, Result]):
    """Runs ``work`` over ``count`` tasks; ``task_at(i)`` makes the i-th. Results come in any order.

    ``lost(task, reason)`` makes the result of a task whose worker died ("worker-died") or ran out of time
    ("timeout") twice. Memory does not grow with ``count`` but for one byte a task.
    """

    work: Callable[[Task], Result]
    task_at: Callable[[int], Task]
    lost: Callable[[Task, str], Result]
    jobs: int
    limit: float = 60.0

    def run(self, todo: Sequence[int]) -> Iterator[Result]:
        """Yield one result for each index in ``todo``."""
        if self.jobs == 1 or len(todo) <= 4:
            for index in todo:
                yield self.work(self.task_at(index))
            return
        size = max(1, min(CHUNK, len(todo) // (4 * self.jobs)))
        chunks = range(0, len(todo), size)
        state = bytearray(len(chunks))  # 0 waiting, 1 in flight, 2 done
        while 0 in state:
            try:
                yield from self._run_chunks(todo, chunks, state)
            except Exception as error:
                if not _broken(error):
                    raise
                for at in [i for i, s in enumerate(state) if s == 1]:
                    yield from self._one_by_one(todo[chunks[at] : chunks[at] + size])
                    state[at] = 2

    def _run_chunks(self, todo: Sequence[int], chunks: range, state: bytearray) -> Iterator[Result]:
        from joblib import delayed

        def calls() -> Iterator[Any]:
            for at in range(len(chunks)):
                if state[at] == 0:
                    state[at] = 1
                    tasks = [self.task_at(i) for i in todo[chunks[at] : chunks[at] + chunks.step]]
                    yield delayed(_numbered)(at, self.work, tasks, os.getpid(), self.limit)

        with _parallel(min(self.jobs, len(chunks))) as start:
            for at, results in start(calls()):
                state[at] = 2
                yield from results

    def _one_by_one(self, chunk: Sequence[int]) -> Iterator[Result]:
        for index in chunk:
            task, reason = self.task_at(index), "worker-died"
            for _ in range(2):
                try:
                    yield from self._alone(task)
                    break
                except Exception as error:
                    if not _broken(error):
                        raise
                    # loky's words hold the exit codes of its workers
                    reason = "timeout" if f"({TIMED_OUT})" in str(error) else "worker-died"
            else:
                yield self.lost(task, reason)

    def _alone(self, task: Task) -> list[Result]:
        from joblib import delayed

        with _parallel(2) as start:
            calls = [delayed(_numbered)(0, self.work, [task], os.getpid(), self.limit)]
            return [r for _, results in start(calls) for r in results]


def _numbered(
    at: int, work: Callable[[Task], Result], tasks: Sequence[Task], parent: int, limit: float
) -> tuple[int, list[Result]]:
    return at, run_chunk(work, tasks, parent, limit)


@contextlib.contextmanager
def _parallel(jobs: int) -> Iterator[Callable[[Iterable[Any]], Generator[Any, None, None]]]:
    """Give the function that starts calls in workers, and yields their results as they come."""
    from joblib import Parallel, parallel_config

    with (
        warnings.catch_warnings(),
        parallel_config(backend="loky", inner_max_num_threads=1),
        contextlib.ExitStack() as started,
    ):
        warnings.filterwarnings("ignore", module=r"joblib|loky")
        parallel = Parallel(
            n_jobs=jobs,
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="6*n_jobs",
            max_nbytes=None,
        )

        def start(calls: Iterable[Any]) -> Generator[Any, None, None]:
            with (
                _signals_held()
            ):  # a signal that waited is heard at its end: the results must be closed then
                return started.enter_context(contextlib.closing(parallel(calls)))

        yield start


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Let signals wait while processes and loky's threads start: these inherit it, and keep it for life."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        _start_trackers()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)  # the standard library's let some in again
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_trackers() -> None:
    """Start the processes that clean up after loky's, where they do not run."""
    from multiprocessing import resource_tracker

    from joblib.externals.loky.backend import resource_tracker as loky_tracker

    sys.warnoptions.append(NO_LEAKS)
    try:
        loky_tracker.ensure_running()
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(NO_LEAKS)


def _broken(error: Exception) -> bool:
    """Tell whether a worker died; never asked of a signal, which may have come amid joblib's import."""
    from concurrent.futures.process import BrokenProcessPool

    from joblib.externals.loky.process_executor import TerminatedWorkerError

    return isinstance(error, BrokenProcessPool | TerminatedWorkerError)


def stop_workers() -> None:
    """End the worker processes at once; they are idle, or their results are no longer wanted."""
    loky = sys.modules.get(
        "joblib.externals.loky.reusable_executor"
    )  # an import may have been cut short
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=False, kill_workers=True)


def default_jobs() -> int:
    """Return how many processes this process may keep busy."""
    import joblib

    return int(joblib.cpu_count())
