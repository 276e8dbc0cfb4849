"""Work spread over a Dask cluster: results as they come, memory bounded, a dead worker costs nothing.

Through ``distributed`` itself, not through joblib's Dask backend: that one scatters its arguments to single
workers, so that a worker's death takes chunks along that others were to do, and it never reports a call that
failed to a generator that yields in any order, which then waits for ever (joblib 1.6, ``_dask.py``).

Dask does a dead worker's chunks again elsewhere; those whose workers died too often are done at the end,
image by image. Workers read the sources and write the images themselves: the paths must mean the same
folders to them. There is no watch over the parent: the scheduler drops what a client that is gone asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic

from img2img_data.core.errors import Img2ImgError, UsageError, load_extra
from img2img_data.core.files import versions
from img2img_data.runner.manifests import LIBRARIES
from img2img_data.runner.workers import CHUNK, Result, Task, run_chunk

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS: Final = 5.0
WORKER_SECONDS: Final = 60.0
"""How long the scheduler may take to answer, and the first worker to join: some are started on demand."""

_FLIGHT: Final = 3
"""Chunks in flight for each thread of the cluster."""

_RECOUNT_SECONDS: Final = 5.0


@contextlib.contextmanager
def connected(scheduler: str | None) -> Iterator[Client]:
    """Give a client of the scheduler at an address such as tcp://host:8786, with a worker at least.

    ``UsageError`` in one line when Dask is missing, the scheduler does not answer, or no worker joins.
    """
    if not scheduler:
        raise UsageError(
            "option",
            "--backend dask",
            "needs a scheduler",
            "give its address, --scheduler tcp://HOST:8786",
        )
    Client = load_extra("distributed", "dask", "option", "--backend dask").Client
    with _quiet(), contextlib.ExitStack() as stack:
        try:
            asyncio.run(_knock(scheduler))
            client = stack.enter_context(
                Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
            )
        except (OSError, ValueError, TypeError) as error:
            why = f"no scheduler answers ({type(error).__name__})"
            raise UsageError("option --scheduler", scheduler, why, "check the address") from None
        try:
            client.submit(os.getpid, pure=False).result(timeout=WORKER_SECONDS)
        except TimeoutError:
            why = f"no worker joined it within {WORKER_SECONDS:g} s"
            raise UsageError("option --scheduler", scheduler, why, "start workers") from None
        yield client


async def _knock(scheduler: str) -> None:
    """Raise where nobody answers: a ``Client`` that cannot connect complains again when it is collected."""
    from distributed import Security
    from distributed.comm import connect

    more = Security().get_connection_args("client")
    comm = await connect(scheduler, timeout=CONNECT_SECONDS, **more)
    comm.abort()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs and warns of off the terminal: what matters is said in one line."""
    names = [
        name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"
    ]
    before = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in before:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"distributed|dask|tornado")
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


@dataclass(slots=True)
class ClusterPool(Generic[Task, Result]):
    """Runs ``work`` over tasks on a cluster, as ``workers.Pool`` does in processes; results in any order.

    ``folders`` must be there on every worker. ``jobs`` bounds the chunks in flight; 0: by the cluster's size.
    """

    client: Client
    work: Callable[[Task], Result]
    task_at: Callable[[int], Task]
    lost: Callable[[Task, str], Result]
    folders: Sequence[str]
    jobs: int = 0
    limit: float = 60.0
    counted: float = 0.0
    threads: int = 1

    def run(self, todo: Sequence[int]) -> Iterator[Result]:
        """Yield one result for each index in ``todo``.

        Dask blames a worker's death on all that was waiting there; so who is to blame is found out alone.
        """
        self._count_threads()
        size = max(1, min(CHUNK, len(todo) // (4 * self.threads)))
        waiting = deque(range(at, min(at + size, len(todo))) for at in range(0, len(todo), size))
        suspects: list[int] = []
        yield from self._run_chunks(todo, waiting, suspects)
        for index in suspects:
            blamed: list[int] = []
            began = time.monotonic()
            yield from self._run_chunks([index], deque([range(1)]), blamed)
            if blamed:
                late = time.monotonic() - began > self.limit
                yield self.lost(self.task_at(index), "timeout" if late else "worker-died")

    def _run_chunks(
        self, todo: Sequence[int], waiting: deque[range], suspects: list[int]
    ) -> Iterator[Result]:
        """Keep the cluster busy with the waiting chunks; those whose workers died too often are suspects."""
        from distributed import KilledWorker, as_completed

        flying: dict[Future, range] = {}
        ready = as_completed(loop=self.client.loop)
        while waiting or flying:
            self._count_threads()
            while waiting and len(flying) < (self.jobs or _FLIGHT * self.threads):
                chunk = waiting.popleft()
                future = self._submit([todo[at] for at in chunk])
                flying[future] = chunk
                ready.add(future)
            future = next(ready)
            chunk = flying.pop(future)
            try:
                yield from self._results(future)
            except KilledWorker:
                suspects.extend(todo[at] for at in chunk)

    def _submit(self, indices: Sequence[int]) -> Future:
        tasks = [self.task_at(index) for index in indices]
        with self._talking():
            return self.client.submit(
                do_chunk,
                self.work,
                tasks,
                self.limit,
                self.folders,
                versions(*LIBRARIES),
                pure=False,
            )

    def _results(self, future: Future) -> list[Result]:
        """Return what a chunk made, or raise what it raised."""
        if future.status == "error":
            with self._talking(OSError):
                future.result()
        with self._talking():
            results: list[Result] = future.result()
        return results

    @contextlib.contextmanager
    def _talking(self, *raised: type[Exception]) -> Iterator[None]:
        """Turn a lost connection into one line; ``raised`` may come from a task as well."""
        from concurrent.futures import CancelledError

        address = self.client.scheduler.address if self.client.scheduler else ""
        try:
            yield
        except raised:
            raise
        except ImportError as error:
            why, hint = f"a worker lacks {error.name}", "install the same img2img there"
            raise UsageError("scheduler", address, why, hint) from None
        except (CancelledError, OSError):
            hint = "start it and give the same command, it goes on"
            raise Img2ImgError("scheduler", address, "went away", hint) from None

    def _count_threads(self) -> None:
        """Look now and then how many threads the cluster has: it may grow and shrink."""
        if time.monotonic() - self.counted > _RECOUNT_SECONDS:
            with self._talking():
                self.threads = max(1, sum(self.client.nthreads().values()))
            self.counted = time.monotonic()


def do_chunk(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    limit: float,
    folders: Sequence[str],
    wanted: Mapping[str, str],
) -> list[Result]:
    """Do a chunk on a worker of the cluster, after a look whether its results can be what they should be."""
    for folder in folders:
        if not Path(folder).is_dir():
            why = f"is not there on the worker {socket.gethostname()}"
            raise UsageError("folder", folder, why, "give paths that all workers share")
    here = versions(*LIBRARIES)
    differ = [
        f"{name} {here[name]}, not {wanted[name]}" for name in wanted if here[name] != wanted[name]
    ]
    if differ:
        why = f"has {', '.join(differ)}: other bytes"
        raise UsageError("worker", socket.gethostname(), why, "install the same versions there")
    return run_chunk(work, tasks, None, limit if _restarts() else float("inf"))


def _restarts() -> bool:
    """Tell whether somebody starts this worker again when it ends, so that it may end over a image."""
    from distributed import get_worker

    nanny: Any = get_worker().nanny
    return nanny is not None
