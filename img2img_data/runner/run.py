"""Do a plan in a folder: lock, go on from the journal, work in processes, write the manifests last."""

from __future__ import annotations

import functools
import json
import os
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from img2img_data.core.errors import REASONS, CorpusError, Img2ImgError, UsageError, printable
from img2img_data.core.files import cannot_write, locked, versions, write_atomically, writing_to
from img2img_data.core.jsonl import read_rows
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import REJECTED_FILE, inside, to_json_line
from img2img_data.runner.build_folder import BUILDING, BuildFolder, Row
from img2img_data.runner.manifests import LIBRARIES, write_manifests
from img2img_data.runner.outcome import Outcome, Report
from img2img_data.runner.plan import Plan, Task
from img2img_data.runner.settings import RunSettings, parse_shard
from img2img_data.runner.workers import Pool, default_jobs

if TYPE_CHECKING:
    from distributed import Client

    from img2img_data.runner.dask_cluster import ClusterPool

Result = TypeVar("Result")
"""Called with (done, total) now and then."""


class Pools(Protocol):
    """Makes the workers that a run's settings ask for."""

    def __call__(
        self,
        work: Callable[[Task], Result],
        task_at: Callable[[int], Task],
        lost: Callable[[Task, str], Result],
    ) -> Pool[Task, Result] | ClusterPool[Task, Result]:
        """Return workers for ``work``; ``run`` of theirs yields its results."""
        ...


First = Callable[[Pools], Callable[[int], Task]]
"""Done before the run, by workers of its own; returns how a task is made."""


def run_plan(
    plan: Plan,
    folder: BuildFolder,
    recipe: Mapping[str, Any],
    about: Mapping[str, Any],
    work: Callable[[Task], Outcome],
    run: RunSettings,
    progress: Progress,
    first: First | None = None,
) -> Report:
    """Run ``work`` over the plan and leave a complete folder. Done already: the counts it has.

    ``recipe`` is what the bytes depend on, ``about`` what the folder's own page says besides. ``first`` is
    done before, once the folder is ours, and tells how to make a task; else the plan makes it.
    """
    check_not_empty(plan)
    shard = parse_shard(run.shard)
    if shard:
        about = {**about, "shard": {"number": shard[0], "of": shard[1], "sources": len(plan)}}
        plan = plan.shard(*shard)
    with _client_of(run) as client, locked(folder.root):
        if not folder.begin({**recipe, "shard": run.shard}, plan.roots):
            return report_of(folder)
        report, total = Report(), len(plan)
        with (
            writing_to(folder.building),
            folder.open_journal(total, _still_good(plan, folder.root, progress)) as journal,
        ):
            report.kept.update(journal.found)
            todo = array("q", (index for index, place in enumerate(journal.place) if place < 0))
            pools = functools.partial(_pool_of, client, _folders(plan, folder), run)
            pool = pools(work, first(pools) if first else plan.task, rejection)
            for done, outcome in enumerate(pool.run(todo), total - len(todo) + 1):
                journal.add(outcome)
                report.add(outcome)
                progress(done, total)
            page = {**about, "recipe": dict(recipe), "versions": versions(*LIBRARIES)}
            write_manifests(folder, journal.rows(), page, report, plan.mine if shard else None)
        folder.end()
        return report


def _client_of(run: RunSettings) -> AbstractContextManager[Client | None]:
    """Give the connection to a cluster, before anything is locked or written; None for processes here."""
    if run.backend == "dask":
        from img2img_data.runner.dask_cluster import connected

        return connected(run.scheduler)
    if run.scheduler is not None:
        raise UsageError(
            "option", "--scheduler", "is for --backend dask", "give that too, or leave it out"
        )
    return nullcontext()


def _folders(plan: Plan, folder: BuildFolder) -> list[str]:
    return [os.path.abspath(os.fsdecode(f)) for f in (*plan.roots, os.fsencode(folder.building))]


def _pool_of(
    client: Client | None,
    folders: Sequence[str],
    run: RunSettings,
    work: Callable[[Task], Result],
    task_at: Callable[[int], Task],
    lost: Callable[[Task, str], Result],
) -> Pool[Task, Result] | ClusterPool[Task, Result]:
    if client is None:
        return Pool(work, task_at, lost, run.jobs or default_jobs(), run.timeout)
    from img2img_data.runner.dask_cluster import ClusterPool

    return ClusterPool(client, work, task_at, lost, folders, run.jobs, run.timeout)


def check_not_empty(plan: Plan) -> None:
    """Raise ``Img2ImgError`` when there is nothing to do, or nothing for one domain of an unpaired corpus."""
    sides = range(len(plan.roots)) if plan.kind == "unpaired" else ()
    empty = (
        [plan.roots[side] for side in sides if side not in plan.sides] if len(plan) else plan.roots
    )
    if empty:
        names = " and ".join(f"'{printable(os.fsdecode(r))}'" for r in dict.fromkeys(empty))
        raise Img2ImgError(f"no images in {names}", why="nothing to do", hint="check the path")


def forecast(
    plan: Plan,
    folder: BuildFolder,
    recipe: Mapping[str, Any],
    expect: Callable[[Task], Outcome],
    run: RunSettings,
) -> Iterator[str]:
    """Yield what a run would do, a line a fact; nothing is written, no image is opened.

    ``expect`` says what becomes of a source as far as its name tells. Raises ``UsageError`` as the run would.
    """
    check_not_empty(plan)
    shard = parse_shard(run.shard)
    plan = plan.shard(*shard) if shard else plan
    state, out = (
        folder.state({**recipe, "shard": run.shard}, plan.roots),
        printable(str(folder.root)),
    )
    report = Report()
    for index in range(len(plan)):
        report.add(expect(plan.task(index)))
    named = sorted(
        (not name.startswith("train"), name, n) for name, n in report.kept.items() if name != "."
    )
    parts = ", ".join(f"{name} {n:,}" for _, name, n in named)
    yield f"{report.total:,} sources > up to {report.kept.total():,}" + (
        f": {parts}" if parts else ""
    )
    for reason, count in sorted(report.rejected.items(), key=lambda r: (-r[1], r[0])):
        yield f"  {count:>7,}  {reason:<20} {REASONS[reason]}"
    if state == "complete":
        yield f"'{out}' is complete already: nothing to do"
    elif state == "unfinished":
        yield f"'{out}' is unfinished, {folder.count_done():,} sources done: would go on"
    else:
        yield f"'{out}' would be made; nothing was written"


def rejection(task: Task, reason: str, detail: str = "") -> Outcome:
    """Return the outcome of a source that is not used."""
    path = task.sources[0]
    row = {
        "source": printable(path),
        "source_hex": path.hex(),
        "reason": reason,
        "detail": printable(detail),
    }
    if task.root:
        row["side"] = "AB"[task.root]
    return Outcome(task.index, "", reason, to_json_line(row))


def write_file(out: str, name: str, data: bytes) -> None:
    """Write a file of the output under a temporary name and rename it into place."""
    temporary = f"{out}/{BUILDING}/tmp/{_writer(os.getpid(), threading.get_ident())}"
    path = Path(f"{out}/{name}")
    try:
        write_atomically(path, data, Path(temporary))
    except OSError as error:
        raise cannot_write(path, error) from None


@functools.cache
def _writer(process: int, thread: int) -> str:
    """Return a name that no other writer has, on whatever machine it runs."""
    return f"{process}-{thread}-{os.urandom(8).hex()}"


# --------------------------------------------------------------------------------------- going on
def _still_good(plan: Plan, root: Path, progress: Progress) -> Callable[[str, Row], int | None]:
    """Return the test for rows of an earlier run: the source is still planned, its files are whole."""
    find: Callable[[int, bytes, str], int | None] | None = None
    looked = 0

    def index_of(name: str, row: Row) -> int | None:
        nonlocal find, looked
        find = find or plan.finder()
        looked += 1
        progress(min(looked, len(plan) - 1), len(plan))
        with suppress(ValueError):
            source = bytes.fromhex(str(row.get("source_hex")))
            index = find(int(row.get("domain") == "B"), source, str(row.get("key")))
            return index if index is not None and _files_are_whole(root / name, row) else None
        return None

    return index_of


def _files_are_whole(folder: Path, row: Row) -> bool:
    columns = [c for c in row if c.endswith("file_name")]
    with suppress(OSError, CorpusError):
        return bool(columns) and all(
            sha256(inside(folder, row[c]).read_bytes()).hexdigest()
            == row.get(c.replace("file_name", "sha256"))
            for c in columns
        )
    return False


def report_of(folder: BuildFolder) -> Report:
    """Return the counts of a folder that is complete already."""
    report = Report(complete=True)
    counts = json.loads((folder.root / folder.page).read_bytes())["counts"]
    report.kept.update(counts["kept"])
    report.notes.update(counts.get("notes", {}))
    for row in read_rows(folder.root / REJECTED_FILE):
        report.add(Outcome(0, "", str(row["reason"]), b""))
    return report
