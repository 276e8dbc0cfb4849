"""Dask cluster: results as they complete, bounded memory, no loss from a dead worker.

Dask repeats the chunks of a dead worker elsewhere; chunks whose workers died too often are
repeated at the end, image by image. Workers read the sources and write the images themselves, so
paths must mean the same folders to them. Workers do not watch the parent: the scheduler drops the
tasks of a client that is gone.
"""

from __future__ import annotations

# ``distributed`` is used directly because joblib's Dask backend scatters its arguments to single
# workers, so that a worker's death affects chunks of others, and never reports a failed call to a
# generator that yields in any order, which then waits forever (joblib 1.6, ``_dask.py``).
import asyncio
import contextlib
import functools
import logging
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from img2img_data.core.errors import Img2ImgError, UsageError, load_extra
from img2img_data.core.files import versions
from img2img_data.runner.build_folder import LIBRARIES
from img2img_data.runner.stages import ResultT, TaskT, Work
from img2img_data.runner.workers import CHUNK, Suspects, TaskPool, run_chunk

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS: Final = 5.0
"""Time limit for the scheduler to answer."""
WORKER_SECONDS: Final = 60.0
"""Time limit for a worker to join if there is none; some clusters start workers on demand."""

_CHUNKS_PER_THREAD: Final = 3
"""Chunks in flight for each thread of the cluster."""

_CHUNK_SECONDS: Final = 0.15
"""Time that a chunk should take: client, scheduler and worker spend 20 ms of CPU time on each."""
_MOST_PER_CHUNK: Final = 4 * CHUNK
"""Tasks of a chunk, at most: slow ones may follow quick ones, and a death repeats a whole chunk."""

_RECOUNT_SECONDS: Final = 5.0
THEN_AGAIN: Final = "then run the same command again to continue"


@contextlib.contextmanager
def connected(scheduler: str | None) -> Iterator[Client]:
    """Connect to the scheduler at an address such as tcp://host:8786, with at least one worker.

    Raises ``UsageError`` if Dask is missing, the scheduler does not answer, or no worker joins.
    """
    if not scheduler:
        hint = "add its address, --scheduler tcp://HOST:8786"
        raise UsageError("option", "--backend dask", "needs a scheduler", hint)
    Client = load_extra("distributed", "dask", "option", "--backend dask").Client
    with _without_messages(), contextlib.ExitStack() as stack:
        try:
            asyncio.run(_check_scheduler(scheduler))
            opened = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
            client = stack.enter_context(opened)
        except (OSError, ValueError, TypeError) as error:
            why = f"no scheduler answers ({type(error).__name__})"
            raise UsageError("option --scheduler", scheduler, why, "check the address") from None
        try:
            client.submit(os.getpid, pure=False).result(timeout=WORKER_SECONDS)
        except TimeoutError:
            why = f"no worker joined it within {WORKER_SECONDS:g} s"
            raise UsageError("option --scheduler", scheduler, why, "start workers") from None
        yield client


async def _check_scheduler(scheduler: str) -> None:
    # A ``Client`` that cannot connect logs further errors when it is garbage-collected.
    from distributed import Security
    from distributed.comm import connect

    arguments = Security().get_connection_args("client")
    comm = await connect(scheduler, timeout=CONNECT_SECONDS, **arguments)
    comm.abort()


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """Hide logs, and Dask's warnings: every failure is reported as one error line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"distributed|dask|tornado")
            yield
    finally:
        logging.disable(before)


@dataclass(kw_only=True)
class ClusterPool(TaskPool[TaskT, ResultT]):
    """Pool of the workers of a cluster; ``folders`` must exist on every one.

    ``jobs`` limits the chunks in flight; 0: by the cluster's size.
    """

    client: Client
    folders: Sequence[str]
    counted: float = 0.0
    threads: int = 1
    per_chunk: int = 0
    """Tasks of the next chunk, at most, by the time that the last one took."""

    def width(self) -> int:
        """Return the number of threads, counted now and then: a cluster may grow and shrink."""
        if time.monotonic() - self.counted > _RECOUNT_SECONDS:
            with self._connection_errors():
                self.threads = max(1, sum(self.client.nthreads().values()))
            self.counted = time.monotonic()
        return self.threads

    def run_chunks(self, chunks: deque[Sequence[int]], suspects: Suspects) -> Iterator[ResultT]:
        """Yield the results of all chunks; tasks whose workers died too often become suspects."""
        from distributed import KilledWorker

        in_flight: dict[Future, Sequence[int]] = {}
        began = time.monotonic()
        while True:
            room = self.jobs or _CHUNKS_PER_THREAD * self.width()
            while chunks and len(in_flight) < room:
                joined = list(chunks.popleft())
                while chunks and len(joined) + len(chunks[0]) <= self.per_chunk:
                    joined += chunks.popleft()
                in_flight[self._submit(joined)] = joined
            if not in_flight:
                return
            future = self._first_done([*in_flight])
            chunk = in_flight.pop(future)
            try:
                seconds, results = self._results(future)
                self.per_chunk = min(_MOST_PER_CHUNK, int(len(chunk) * _CHUNK_SECONDS / seconds))
                yield from results
            except KilledWorker:
                # Dask blames a worker's death on every chunk that waited there.
                late = time.monotonic() - began > self.limit
                suspects += [(index, "timeout" if late else "worker-died") for index in chunk]

    def _submit(self, indices: Sequence[int]) -> Future:
        tasks = [self.task_at(index) for index in indices]
        job = (self.work, tasks, self.limit, self.folders, _own_versions())
        with self._connection_errors():
            # Not pure: Dask would answer equal arguments, as after a kill, from its memory.
            return self.client.submit(process_chunk, *job, pure=False)

    def _first_done(self, futures: Sequence[Future]) -> Future:
        """Wait for one of the chunks to end. Raises ``Img2ImgError`` if no worker is left."""
        from distributed import wait

        with self.client.as_current(), self._connection_errors():
            while True:
                with contextlib.suppress(TimeoutError):
                    future: Future = wait(futures, WORKER_SECONDS, "FIRST_COMPLETED").done.pop()
                    return future
                # Dask would wait forever for a worker that no nanny starts again.
                try:
                    self.client.wait_for_workers(1, WORKER_SECONDS)
                except TimeoutError:
                    raise self._error("lost all workers", f"start some, {THEN_AGAIN}") from None

    def _results(self, future: Future) -> tuple[float, list[ResultT]]:
        """Return the seconds and results of a chunk, or raise the error that its work raised."""
        # An OSError may be the task's own or a lost connection; only the status tells them apart.
        own = (OSError,) if future.status == "error" else ()
        with self._connection_errors(*own):
            done: tuple[float, list[ResultT]] = future.result()
        return done

    @contextlib.contextmanager
    def _connection_errors(self, *raised: type[Exception]) -> Iterator[None]:
        """Turn a lost connection into one line; ``raised`` may come from a task and passes."""
        from concurrent.futures import CancelledError

        try:
            yield
        except raised:
            raise
        except ImportError as error:
            why, hint = f"a worker lacks {error.name}", "install the same img2img there"
            raise self._error(why, hint, UsageError) from None
        except (CancelledError, OSError):
            raise self._error("is gone", f"start it, {THEN_AGAIN}") from None

    def _error(self, why: str, hint: str, kind: type[Img2ImgError] = Img2ImgError) -> Img2ImgError:
        address = self.client.scheduler.address if self.client.scheduler else ""
        return kind("scheduler", address, why, hint)


@functools.cache
def _own_versions() -> dict[str, str]:
    # Asked once in a process: reading the metadata takes as long as ten small images.
    return versions(*LIBRARIES)


def process_chunk(
    work: Work[TaskT, ResultT],
    tasks: Sequence[TaskT],
    limit: float,
    folders: Sequence[str],
    required: Mapping[str, str],
) -> tuple[float, list[ResultT]]:
    """Return the seconds that a chunk took on a worker of the cluster, and its results.

    Raises ``UsageError`` if the worker lacks a folder or has other library versions than
    ``required``.
    """
    from distributed import get_worker

    for folder in folders:
        if not Path(folder).is_dir():
            why = f"does not exist on the worker {socket.gethostname()}"
            raise UsageError("folder", folder, why, "use paths that all workers share")
    found = _own_versions()
    differ = [f"{n} {found[n]}, not {required[n]}" for n in required if found[n] != required[n]]
    if differ:
        why = f"has {', '.join(differ)}, so its bytes would differ"
        raise UsageError("worker", socket.gethostname(), why, "install the same versions there")
    nanny: Any = get_worker().nanny
    began = time.perf_counter()
    # The time limit ends the process, so it only applies if a nanny starts the worker again.
    results = run_chunk(work, tasks, None, float("inf") if nanny is None else limit)
    return time.perf_counter() - began, results
