"""Run of a build: lock, continue from the journal, work in processes, write the manifests."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field

from img2img_data.core.command_line import Progress
from img2img_data.core.errors import CorpusError, Img2ImgError, Rejected, UsageError, printable
from img2img_data.core.files import locked, versions
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.corpus.format import TILE_COLUMNS, inside, to_json_line
from img2img_data.runner.build_folder import LIBRARIES, BuildFolder, Outcome, Report
from img2img_data.runner.plan import ImageTask, Plan

if TYPE_CHECKING:
    from distributed import Client

ResultT = TypeVar("ResultT")
Row = dict[str, Any]


def checked_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return the validator of a text that ``parse`` must be able to read; None passes."""

    def check(value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    return AfterValidator(check)


def parse_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of "i/n", numbered from 1. Raises ``ValueError``."""
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError("a shard is NUMBER/COUNT, as in 1/4, 2/4, 3/4, 4/4")
    return int(found[1]), int(found[2])


class RunSettings(FrozenModel):
    """Settings of a run; none of them changes a byte of the result."""

    option_group: ClassVar[str] = "Run"

    jobs: int = Field(0, ge=0, le=1024)
    """worker processes; 0: one per core, or the size of the cluster"""
    max_bad: float = Field(0.1, ge=0, le=1)
    """largest tolerated share of rejected images; exit code 1 above it"""
    timeout: float = Field(60.0, gt=0)
    """time limit of one image, seconds"""
    shard: Annotated[str | None, checked_by(parse_shard)] = None
    """part i of n to process, as 3/16; in its own folder; 'merge' joins the parts"""
    backend: Literal["loky", "dask"] = "loky"
    """workers; loky: processes on this machine, dask: a Dask cluster that shares its folders"""
    scheduler: str | None = None
    """address of the Dask scheduler; as tcp://host:8786, for --backend dask"""
    dry_run: bool = False
    """print what would be done, write nothing"""


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """Workers that the settings of a run ask for: local processes or a cluster."""

    client: Client | None
    folders: Sequence[str]
    settings: RunSettings

    def run(
        self,
        work: Callable[[ImageTask], ResultT],
        task_at: Callable[[int], ImageTask],
        lost: Callable[[ImageTask, str], ResultT],
        todo: Sequence[int],
    ) -> Iterator[ResultT]:
        """Yield one result of ``work`` for each index in ``todo``, in any order."""
        jobs, timeout = self.settings.jobs, self.settings.timeout
        if self.client is not None:
            from img2img_data.runner.dask_cluster import ClusterPool

            pool = ClusterPool(self.client, work, task_at, lost, self.folders, jobs, timeout)
            return pool.run(todo)
        from img2img_data.runner.workers import LocalPool

        return LocalPool(work, task_at, lost, jobs, timeout).run(todo)


@dataclass(frozen=True, slots=True)
class FolderBuild:
    """Everything needed to fill one folder.

    Attributes:
        recipe: what the bytes of the folder depend on.
        about: further entries of the folder's page.
        work: turns a task into its manifest and its row, or raises ``Rejected``.
        expect: returns the name under which a dry run counts a task, or raises ``Rejected``.
        before: a pass before the run; returns the function that creates the tasks.
    """

    plan: Plan
    folder: BuildFolder
    recipe: Row
    about: Row
    work: Callable[[ImageTask], tuple[str, Row]]
    expect: Callable[[ImageTask], str]
    before: Callable[[WorkerPool, Progress], Callable[[int], ImageTask]] | None = None


def run_build(
    build: FolderBuild,
    settings: RunSettings,
    progress: Progress,
    echo: Callable[[str], None] = print,
) -> Report:
    """Fill the folder, or finish it; with ``dry_run`` only print what would be done.

    Returns the counts of the folder. Raises ``Img2ImgError``.
    """
    plan, about = build.plan, build.about
    _check_not_empty(plan)
    if settings.shard:
        number, count = parse_shard(settings.shard)
        about = {**about, "shard": {"number": number, "of": count, "sources": len(plan)}}
        plan = plan.shard(number, count)
    # A shard is part of the identity of the folder, but not of the recipe that its page states:
    # merged shards must give the page of a plain run.
    recipe = {**build.recipe, "shard": settings.shard}
    if settings.dry_run:
        for line in _forecast(build, plan, recipe):
            echo(line)
        return Report()
    # Connected before the lock: a cluster that does not answer leaves no folder behind.
    with _connection(settings) as client, locked(build.folder.root):
        if not build.folder.begin(recipe, plan.roots):
            return build.folder.report()
        folders = (*plan.roots, os.fsencode(build.folder.building))
        pool = WorkerPool(client, [os.path.abspath(os.fsdecode(f)) for f in folders], settings)
        page = {**about, "recipe": build.recipe, "versions": versions(*LIBRARIES)}
        report = _fill(build, plan, pool, progress, page)
        build.folder.end()
        return report


def _fill(
    build: FolderBuild, plan: Plan, pool: WorkerPool, progress: Progress, page: Row
) -> Report:
    """Process the tasks of a plan that have no outcome yet, and write the manifests."""
    report, total = Report(), len(plan)
    # The pass before the run is the first half of the progress: each image counts once.
    show = (lambda d, n: progress((n + d) // 2, n)) if build.before else progress
    with build.folder.outcomes(total, _finder_of_earlier(plan, build.folder.root, show)) as log:
        report.kept.update(log.kept)
        todo = log.pending()
        task_at = build.before(pool, progress) if build.before else plan.task
        work = functools.partial(_outcome_of, build.work)
        outcomes = pool.run(work, task_at, rejection, todo)
        for done, outcome in enumerate(outcomes, total - len(todo) + 1):
            log.add(outcome)
            report.add(outcome)
            show(done, total)
        positions = plan.selected if "shard" in page else None
        build.folder.write_manifests(log.rows(), page, report, positions)
    return report


def _connection(settings: RunSettings) -> AbstractContextManager[Client | None]:
    """Connect to the cluster, before anything is locked or written; None for local processes."""
    if settings.backend == "dask":
        from img2img_data.runner.dask_cluster import connected

        return connected(settings.scheduler)
    if settings.scheduler is not None:
        hint = "add that option, or leave --scheduler out"
        raise UsageError("option", "--scheduler", "needs --backend dask", hint)
    return nullcontext()


def _check_not_empty(plan: Plan) -> None:
    """Raise ``Img2ImgError`` if there are no images, or none for a domain of an unpaired corpus."""
    empty = [root for side, root in enumerate(plan.roots) if side not in plan.sides]
    if empty and (plan.kind == "unpaired" or not len(plan)):
        names = " and ".join(f"'{printable(os.fsdecode(r))}'" for r in dict.fromkeys(empty))
        raise Img2ImgError(f"no images in {names}", why="nothing to do", hint="check the path")


def _forecast(build: FolderBuild, plan: Plan, recipe: Row) -> Iterator[str]:
    """Yield what a run would do, one line per fact; nothing is written, no image is opened."""
    state, out = build.folder.state(recipe, plan.roots), printable(str(build.folder.root))
    report = Report()
    for task in map(plan.task, range(len(plan))):
        report.add(_outcome_of(lambda task: (build.expect(task), {}), task))
    parts = report.parts()
    yield f"{report.total:,} sources > up to {report.kept.total():,}" + (parts and f": {parts}")
    yield from report.reasons()
    if state == "complete":
        yield f"'{out}' is complete already: nothing to do"
    elif state == "unfinished":
        done = build.folder.count_done()
        yield f"'{out}' is unfinished, {done:,} sources done: the run would continue"
    else:
        yield f"'{out}' would be created; nothing was written"


def _outcome_of(work: Callable[[ImageTask], tuple[str, Row]], task: ImageTask) -> Outcome:
    """Process one task; an image that cannot be used becomes a row, never an exception."""
    try:
        if task.rejected:
            raise Rejected(*task.rejected)
        manifest, row = work(task)
    except Rejected as rejected:
        return rejection(task, rejected.reason, rejected.detail)
    return Outcome(task.index, manifest, "", to_json_line(row))


def rejection(task: ImageTask, reason: str, detail: str = "") -> Outcome:
    """Return the outcome of a source that cannot be used."""
    row = {
        **source_columns(task.sources[0], task.tile),
        "reason": reason,
        "detail": printable(detail),
    }
    if task.root:
        row["side"] = "AB"[task.root]
    return Outcome(task.index, "", reason, to_json_line(row))


def source_columns(path: bytes, tile: Sequence[int] = ()) -> dict[str, Any]:
    """Return the columns that name the source of a row: escaped for reading, and as exact bytes.

    ``tile``: its left and top, if the row is about a tile of the source.
    """
    place = zip(TILE_COLUMNS, tile, strict=False)
    return {"source": printable(path), "source_hex": path.hex(), **dict(place)}


def _finder_of_earlier(
    plan: Plan, root: Path, progress: Progress
) -> Callable[[str, bytes], int | None]:
    """Return a function from a row of an earlier run to the index of its task.

    It returns None if the source is not planned any more or the row's files are incomplete.
    """
    calls = itertools.count(1)

    def index_of(manifest: str, line: bytes) -> int | None:
        progress(min(next(calls), len(plan) - 1), len(plan))
        # A power failure can leave any bytes in a journal: such a source is done again.
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            source = bytes.fromhex(str(row.get("source_hex")))
            index = plan.find(int(row.get("domain") == "B"), source, str(row.get("key")))
            return index if index is not None and _files_are_intact(root / manifest, row) else None
        return None

    return index_of


def _files_are_intact(folder: Path, row: Row) -> bool:
    columns = [c for c in row if c.endswith("file_name")]
    # Files are not synced, so after a power failure one can have its name without its content.
    with suppress(OSError, CorpusError):
        return bool(columns) and all(
            sha256(inside(folder, row[c]).read_bytes()).hexdigest()
            == row.get(c.replace("file_name", "sha256"))
            for c in columns
        )
    return False
