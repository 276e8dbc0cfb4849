"""Worker processes: work in chunks, results as they complete, a dead worker loses one image.

No task runs in the parent, however few there are: a decoder may crash or hang. On Linux workers are
forks, which have all modules already and start in milliseconds. Elsewhere, and in a process with
threads, they are those of joblib's loky backend, with what loky lacks: a killed worker loses its
whole call, so the tasks in flight are repeated one by one. A task that kills twice is reported;
workers end when their parent is gone; an image that takes too long ends its worker; only the parent
handles a signal that is sent to all processes, as Ctrl-C is.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple

from img2img_data.core.memory import keep_freed_memory
from img2img_data.runner.stages import GROUP_SIZE, ResultT, TaskT, Work, in_step

CHUNK: Final = 64
"""Most tasks per call of a worker: enough to hide the 215 microseconds that a joblib call costs."""

FEW: Final = 1024
"""Tasks for which joblib, which takes 0.1 s to import, is not asked for the number of cores."""

PR_SET_PDEATHSIG: Final = 1
"""Option of Linux' prctl(2): the signal that a process gets when its parent ends."""

TIMED_OUT: Final = 75
"""Exit code of a worker whose task exceeded its time limit."""

BLOCKED_SIGNALS: Final = tuple(
    getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
)
"""Signals that workers never receive: the parent ends them."""

NO_LEAK_WARNING: Final = "ignore:resource_tracker:UserWarning"
"""Warning filter for loky's trackers, which report what a killed run gives up as leaked."""


# --------------------------------------------------------------------------------- within a worker
def run_chunk(
    work: Work[TaskT, ResultT], tasks: Sequence[TaskT], parent: int | None, limit: float
) -> list[ResultT]:
    """Return the results of a chunk, in a guarded worker with one OpenCV thread.

    ``parent``: process without which the worker ends; None for a worker that outlives the run.
    ``limit``: seconds per task.
    """
    return list(chain.from_iterable(in_step(work, tasks, limit, _deadlines(parent))))


def _deadlines(parent: int | None) -> dict[int, float]:
    """Return the times at which the task of each thread must be finished, which a guard watches."""
    # joblib starts no workers within a daemonic process: there the parent works, unguarded.
    return {} if os.getpid() == parent else _guarded(os.getpid(), parent)


def _run_numbered(number: int, folder: Path, *job: Any) -> tuple[int, list[Any]]:
    # loky keeps its workers, and the parent may have changed its folder since they started.
    os.chdir(folder)
    return number, run_chunk(*job)


@functools.cache
def _guarded(process: int, parent: int | None) -> dict[int, float]:
    """Prepare a worker process, once, and return the deadlines that its guard watches."""
    import cv2

    # One worker per core already: threads of OpenCV would only compete with the other workers.
    cv2.setNumThreads(1)
    keep_freed_memory(32 << 20)
    deadlines: dict[int, float] = {}
    watch = functools.partial(_watch, parent, deadlines)
    threading.Thread(target=watch, daemon=True, name="img2img-guard").start()
    return deadlines


def _watch(parent: int | None, deadlines: dict[int, float]) -> None:
    """End this process when its parent is gone or a task exceeds its time limit."""
    while True:
        time.sleep(0.1)
        if parent is not None and os.getppid() != parent:
            os._exit(1)
        # A decoder that hangs in C holds no Python code that could be interrupted: the process
        # ends.
        if min(deadlines.copy().values(), default=float("inf")) < time.monotonic():
            os._exit(TIMED_OUT)


def _work_through(
    pool: LocalPool[TaskT, Any],
    tasks: Sequence[TaskT],
    parent: int,
    results: Connection,
    group_size: int,
) -> None:
    """Process tasks in a fork, in order, then those that the parent sends, until it sends none.

    Sends (None, results) of each group, or (error, None) and ends.
    """
    # A fork shares the lock of the folder, so it must not outlive its parent.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        while tasks:
            for group in in_step(pool.work, tasks, pool.limit, _deadlines(parent), group_size):
                results.send((None, group))
            tasks, group_size = results.recv(), GROUP_SIZE
    except Exception as error:
        results.send((ExceptionWithTraceback(error, error.__traceback__), None))


# ----------------------------------------------------------------------------------- in the parent
class RunningFork(NamedTuple, Generic[TaskT]):
    """A fork and its unfinished tasks.

    ``again``: the first of them may have killed an earlier fork. ``one_by_one``: they share no
    stages, so the first is to blame if the fork ends.
    """

    process: ForkProcess
    tasks: deque[TaskT]
    again: bool = False
    one_by_one: bool = False


def _can_fork() -> bool:
    # A fork has only the thread that forked; a lock held by another would stay locked forever.
    has_one_thread = threading.active_count() == 1
    may_fork = sys.platform == "linux" and not multiprocessing.current_process().daemon
    return has_one_thread and may_fork


def chunks_of(todo: Sequence[int], jobs: int) -> Iterator[Sequence[int]]:
    """Yield the tasks in chunks that shrink towards the end, so that all workers end together."""
    start = 0
    while start < len(todo):
        size = max(1, min(CHUNK, (len(todo) - start) // (4 * jobs)))
        yield todo[start : start + size]
        start += size


Suspects = list[tuple[int, str]]
"""Tasks whose worker died, and why: "timeout" or "worker-died"."""


@dataclass
class TaskPool(Generic[TaskT, ResultT]):
    """Runs ``work`` over tasks in workers; ``task_at(i)`` creates the i-th; in any order.

    ``lost(task, reason)`` creates the result of a task whose worker died twice ("worker-died") or
    exceeded the time limit ("timeout"). ``jobs``: number of workers; 0: as many as there are.
    Subclasses implement ``width`` and ``run_chunks``.
    """

    work: Work[TaskT, ResultT]
    task_at: Callable[[int], TaskT]
    lost: Callable[[TaskT, str], ResultT]
    jobs: int = 0
    limit: float = 60.0

    def run(self, todo: Sequence[int]) -> Iterator[ResultT]:
        """Yield one result for each index in ``todo``."""
        suspects = Suspects()
        yield from self.run_chunks(deque(chunks_of(todo, self.width())), suspects)
        # A death is blamed on all tasks in flight. Only one that kills its worker alone is lost.
        for suspect, _ in suspects:
            guilty = Suspects()
            yield from self.run_chunks(deque([[suspect]]), guilty)
            yield from (self.lost(self.task_at(index), reason) for index, reason in guilty)

    def width(self) -> int:
        """Return the number of tasks that can run at once."""
        raise NotImplementedError

    def run_chunks(self, chunks: deque[Sequence[int]], suspects: Suspects) -> Iterator[ResultT]:
        """Yield the results of all chunks, but those of the ``suspects``, which it appends."""
        raise NotImplementedError


class LocalPool(TaskPool[TaskT, ResultT]):
    """Pool of processes on this machine; ``jobs`` 0: one per core."""

    def run(self, todo: Sequence[int]) -> Iterator[ResultT]:
        """Yield one result for each index in ``todo``."""
        if not _can_fork():
            return super().run(todo)
        few = len(todo) <= FEW
        jobs = self.jobs or (len(os.sched_getaffinity(0)) if few else self.width())
        return self._run_forked(todo, jobs)

    def width(self) -> int:
        """Return the number of processes."""
        import joblib

        return self.jobs or int(joblib.cpu_count())

    def run_chunks(self, chunks: deque[Sequence[int]], suspects: Suspects) -> Iterator[ResultT]:
        """Yield the results of all chunks from joblib's loky backend."""
        import joblib

        workers, in_flight = min(self.width(), len(chunks)), dict[int, Sequence[int]]()

        def calls() -> Iterator[Any]:
            while chunks:
                chunk = chunks.popleft()
                in_flight[chunk[0]], tasks = chunk, [self.task_at(index) for index in chunk]
                job = chunk[0], Path.cwd(), self.work, tasks, os.getpid(), self.limit
                yield joblib.delayed(_run_numbered)(*job)

        while chunks:
            try:
                with _parallel(workers, calls()) as finished:
                    for first, results in finished:
                        del in_flight[first]
                        yield from results
            except BrokenProcessPool as error:
                # loky does not say which task killed the worker, but its message has exit codes.
                reason = "timeout" if f"({TIMED_OUT})" in str(error) else "worker-died"
                suspects += [(index, reason) for chunk in in_flight.values() for index in chunk]
                in_flight.clear()

    def _run_forked(self, todo: Sequence[int], jobs: int) -> Iterator[ResultT]:
        """Process the tasks, a chunk at a time, in up to ``jobs`` forks."""
        # The tasks are created here: all forks would read the lists of tags at one file position.
        waiting = (deque(map(self.task_at, chunk)) for chunk in chunks_of(todo, jobs))
        running: dict[Any, RunningFork[TaskT]] = {}
        try:
            while True:
                # One more at a time: a few small images are done before every core has a fork.
                started = [self._fork(tasks) for tasks in islice(waiting, len(running) < jobs)]
                running.update(started)
                if not running:
                    return
                ready: list[Any] = wait(list(running), 0 if started else None)
                for results in ready:
                    process, tasks, again, one_by_one = running[results]
                    try:
                        error, group = results.recv()
                    except (EOFError, OSError):  # the fork has ended, perhaps within a result
                        process.join()
                        reason = "timeout" if process.exitcode == TIMED_OUT else "worker-died"
                        known = one_by_one or len(tasks) == 1
                        lost = known and (again or reason == "timeout")
                        if tasks and lost:
                            yield self.lost(tasks.popleft(), reason)
                        del running[results]
                        running.update([self._fork(tasks, not lost, True)] if tasks else [])
                        continue
                    if error is not None:
                        raise error
                    for _ in group:
                        tasks.popleft()
                    if not tasks:
                        tasks, one_by_one = next(waiting, tasks), False
                        with contextlib.suppress(OSError):  # it has died: its end is received
                            results.send(tasks)
                    running[results] = RunningFork(process, tasks, False, one_by_one)
                    yield from group
        finally:
            for process, *_ in running.values():
                process.kill()
                process.join()

    def _fork(
        self, tasks: deque[TaskT], again: bool = False, one_by_one: bool = False
    ) -> tuple[Any, RunningFork[TaskT]]:
        """Start a fork that works through the tasks."""
        import cv2

        results, sender = multiprocessing.Pipe()
        job = self, tasks, os.getpid(), sender, 1 if one_by_one else GROUP_SIZE
        process = ForkProcess(target=_work_through, args=job)
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # ends OpenCV's own threads: a fork would wait for them forever
        before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            cv2.setNumThreads(threads)
            sender.close()
        return results, RunningFork(process, tasks, again, one_by_one)


@contextlib.contextmanager
def _parallel(jobs: int, calls: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """Start calls in workers and yield their results, which come as they complete."""
    from joblib import Parallel, parallel_config

    with (
        warnings.catch_warnings(),
        parallel_config(backend="loky", inner_max_num_threads=1),
        contextlib.ExitStack() as started,
    ):
        warnings.filterwarnings("ignore", module=r"joblib|loky")
        parallel = Parallel(
            n_jobs=max(2, jobs),  # joblib would run a single job in this process
            return_as="generator_unordered",
            batch_size=1,
            pre_dispatch="6*n_jobs" if jobs > 1 else 1,
        )
        # A signal that arrives meanwhile is handled when the block ends. The results must be
        # registered for closing by then, or loky's threads would outlive the run.
        with _signals_blocked():
            results = started.enter_context(contextlib.closing(parallel(calls)))
        yield results


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals while processes and loky's threads start; they keep the mask for life."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    sys.warnoptions.append(NO_LEAK_WARNING)
    try:
        from multiprocessing import resource_tracker

        from joblib.externals.loky.backend import resource_tracker as loky_tracker

        # The trackers clean up after loky. Starting the standard library's unblocks some signals.
        loky_tracker.ensure_running()
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        yield
    finally:
        sys.warnoptions.remove(NO_LEAK_WARNING)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_workers() -> None:
    """Kill the worker processes: they are idle, or their results are not needed any more."""
    for process in multiprocessing.active_children():
        if isinstance(process, ForkProcess):  # a signal arrived while it was started
            process.kill()
    # Looked up, not imported: a signal may have interrupted the import.
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        executor.shutdown(wait=False, kill_workers=True)
