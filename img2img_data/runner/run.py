"""Run of a build: lock, continue from the journal, work in processes, write the manifests."""

from __future__ import annotations

import functools
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from img2img_data.core.command_line import Echo, Progress
from img2img_data.core.errors import CorpusError, Rejected, UsageError, printable
from img2img_data.core.files import has_changed_since, locked, versions
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.jsonl import Row
from img2img_data.core.memory import as_rejected
from img2img_data.corpus.card import to_datasets_line
from img2img_data.corpus.format import TILE_COLUMNS, columns_of, hash64, inside, to_json_line
from img2img_data.runner.build_folder import LIBRARIES, BuildFolder, Outcome, Report
from img2img_data.runner.plan import ImageTask, Plan
from img2img_data.runner.stages import Stages, Work, finished, stages_of

if TYPE_CHECKING:
    from img2img_data.runner.workers import TaskPool


def checked_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return the validator of a text that ``parse`` must be able to read."""

    def check(value: str) -> str:
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
    """Settings of a run: its sources, workers and limits. None changes a byte of an image."""

    option_group: ClassVar[str] = "Run"

    jobs: int = Field(0, ge=0, le=1024)
    """worker processes; 0: one per core, or the size of the cluster"""
    max_bad: float = Field(0.1, ge=0, le=1)
    """exit with 1 if a larger share of the images cannot be used; images left out by a filter or
    --min-detail do not count"""
    timeout: float = Field(60.0, gt=0)
    """time limit for each image or tile, seconds"""
    shard: Annotated[str, checked_by(parse_shard)] | None = None
    """process part i of n, such as 3/16; each part goes into its own folder, and 'merge' joins
    them"""
    backend: Literal["loky", "dask"] = "loky"
    """where the workers run; loky: on this machine (forks on Linux); dask: on a Dask cluster that
    shares its folders"""
    scheduler: str | None = None
    """address of the Dask scheduler; such as tcp://host:8786, for --backend dask"""
    follow_links: bool = False
    """follow links to images and folders"""
    prune: bool = False
    """remove images whose sources are gone, and rebuild those whose sources changed"""
    dry_run: bool = False
    """print what would be done without writing anything"""


MakePool = Callable[..., "TaskPool[Any, Any]"]
"""Function that returns the pool for ``work``, ``task_at`` and ``lost``, by a run's settings."""


@dataclass(frozen=True, slots=True)
class FolderBuild:
    """Everything needed to fill one folder.

    Attributes:
        recipe: what the bytes of the folder depend on.
        about: further entries of the folder's page.
        work: turns a task into its manifest and its row, at once or in stages, or raises
            ``Rejected``.
        expect: returns the manifest of a task and the tags of its row, or raises ``Rejected``.
        before: a pass before the run; returns the function that creates the tasks.
    """

    plan: Plan
    folder: BuildFolder
    recipe: Row
    about: Row
    work: Work[ImageTask, tuple[str, Row]]
    expect: Callable[[ImageTask], tuple[str, Row]]
    before: Callable[[MakePool, Progress], Callable[[int], ImageTask]] | None = None


def unit_of(recipe: Mapping[str, Any]) -> str:
    """Return the word for what a build of this recipe counts."""
    return "tiles" if recipe.get("tile") else "sources"


def run_build(
    build: FolderBuild, settings: RunSettings, progress: Progress, echo: Echo = print
) -> Report:
    """Fill the folder, or finish it; with ``dry_run`` only print what would be done.

    A complete folder grows by the sources that came since, as if it had been filled at once.

    Returns the counts of the folder. Raises ``Img2ImgError``.
    """
    plan, about = build.plan, build.about
    _check_not_empty(plan)
    if settings.shard:
        number, count = parse_shard(settings.shard)
        about = {**about, "shard": {"number": number, "of": count, "sources": len(plan)}}
        build = replace(build, plan=(plan := plan.shard(number, count)), about=about)
    # A shard is part of the identity of the folder, but not of the recipe that its page states:
    # merged shards must give the page of a plain run.
    recipe, folder = {**build.recipe, "shard": settings.shard}, build.folder
    if settings.dry_run:
        for line in _forecast(build, recipe):
            echo(line)
        return Report()
    folders = [os.path.abspath(os.fsdecode(f)) for f in (*plan.roots, os.fsencode(folder.building))]
    # Connected before the lock: a cluster that does not answer leaves no folder behind.
    with _workers(settings, folders) as make_pool, locked(folder.root):
        state, earlier = folder.state(recipe, plan.roots, True), EarlierRun(build, progress)
        if state == "complete" and earlier.is_all():
            folder.end()
            return folder.report()
        if not settings.prune and earlier.counts.keys() & {"vanished", "changed"}:
            hint = "--prune removes what vanished and rebuilds what changed"
            if earlier.counts.keys() == {"vanished"}:
                # Other sources, for example two swapped folders: --prune would replace every image.
                hint = "give the sources that it was built from, or another output folder"
            raise UsageError("folder", folder.root, str(earlier), hint)
        if state != "new":
            echo(f"'{printable(folder.root)}': {earlier}")
        folder.open(recipe, plan.roots)
        report = _fill(build, make_pool, progress, earlier.indices)
        folder.end()
        return report


def _fill(
    build: FolderBuild, make_pool: MakePool, progress: Progress, indices: Iterable[int]
) -> Report:
    """Process the tasks that have no row from an earlier run, and write the manifests."""
    plan, report, total = build.plan, Report(), len(build.plan)
    page = {**build.about, "recipe": build.recipe, "versions": versions(*LIBRARIES)}
    # The pass before the run is the first half of the progress: each image counts once.
    show = (lambda d, n: progress((n + d) // 2, n)) if build.before else progress
    task_at = build.before(make_pool, progress) if build.before else plan.task
    if build.before:  # what was kept may be a copy of an image that came since
        indices = (i if i >= 0 and not task_at(i).rejected else -1 for i in indices)
    with build.folder.outcomes(total, indices, report) as log:
        todo = log.pending()
        work = functools.partial(_outcome_of, build.work)
        outcomes = make_pool(work, task_at, rejection).run(todo)
        for done, outcome in enumerate(outcomes, total - len(todo) + 1):
            log.add(outcome)
            report.add(outcome)
            show(done, total)
        positions = plan.selected if "shard" in page else None
        build.folder.write_manifests(log.rows(), page, report, positions)
    return report


@contextmanager
def _workers(settings: RunSettings, folders: Sequence[str]) -> Iterator[MakePool]:
    """Connect to the cluster, if there is one, before anything is locked or written."""
    common: dict[str, Any] = {"jobs": settings.jobs, "limit": settings.timeout}
    if settings.backend == "dask":
        from img2img_data.runner.dask_cluster import ClusterPool, connected

        with connected(settings.scheduler) as client:
            yield functools.partial(ClusterPool, client=client, folders=folders, **common)
        return
    if settings.scheduler is not None:
        hint = "add that option, or leave --scheduler out"
        raise UsageError("option", "--scheduler", "needs --backend dask", hint)
    from img2img_data.runner.workers import LocalPool

    yield functools.partial(LocalPool, **common)


def _check_not_empty(plan: Plan) -> None:
    """Raise ``UsageError`` if there are no images, or none for a domain of an unpaired corpus."""
    empty = [root for side, root in enumerate(plan.roots) if side not in plan.sides]
    if empty and (plan.kind == "unpaired" or not len(plan)):
        names = " and ".join(f"'{printable(os.fsdecode(r))}'" for r in dict.fromkeys(empty))
        raise UsageError(f"no images in {names}", why="nothing to do", hint="check the path")


def _forecast(build: FolderBuild, recipe: Row) -> Iterator[str]:
    """Yield what a run would do, one line per fact; nothing is written, no image is decoded."""
    plan, report, out = build.plan, Report(), printable(build.folder.root)
    state = build.folder.state(recipe, plan.roots, True)
    earlier = EarlierRun(build, lambda *_: None)

    def expect(task: ImageTask) -> tuple[str, Row]:
        name = build.expect(task)[0]
        return f"{name}/{'AB'[task.root]}" if plan.kind == "unpaired" else name, {}

    for task in map(plan.task, range(len(plan))):
        report.add(finished(_outcome_of(expect, task)))
    parts, unit = report.parts(), unit_of(build.recipe)
    yield f"{report.total:,} {unit} > up to {report.kept.total():,}" + (parts and f": {parts}")
    yield from report.reasons()
    if state == "complete" and earlier.is_all():
        yield f"'{out}' is already complete: nothing to do"
    elif state == "new":
        yield f"'{out}' would be created; nothing was written"
    else:
        yield f"'{out}' is {state}: {earlier}"


def _outcome_of(work: Work[ImageTask, tuple[str, Row]], task: ImageTask) -> Stages[Outcome]:
    """Process one task; an image that cannot be used becomes a row, never an exception."""
    try:
        if task.rejected:
            raise Rejected(*task.rejected)
        manifest, row = yield from stages_of(work, task)
    except Exception as error:
        rejected = as_rejected(error)
        return rejection(task, rejected.reason, rejected.detail)
    line = to_json_line(row)
    return Outcome(task.index, manifest, "", line, to_datasets_line(row, line))


def rejection(task: ImageTask, reason: str, detail: str = "") -> Outcome:
    """Return the outcome of a source that cannot be used."""
    row = source_columns(task.sources[0], task.tile)
    row |= {"reason": reason, "detail": printable(detail)}
    if task.root:
        row["side"] = "AB"[task.root]
    return Outcome(task.index, "", reason, to_json_line(row))


def source_columns(path: bytes, tile: Sequence[int] = ()) -> dict[str, Any]:
    """Return the columns that name the source of a row: escaped for reading, and as exact bytes.

    ``tile``: its left and top, if the row is about a tile of the source.
    """
    place = zip(TILE_COLUMNS, tile, strict=False)
    return {"source": printable(path), "source_hex": path.hex(), **dict(place)}


class EarlierRun:
    """The images that an earlier run kept, compared with the plan and with the sources of today."""

    def __init__(self, build: FolderBuild, progress: Progress) -> None:
        self._build = build
        self.indices = array("q")
        """The task of each row; -1 if the image is to be rebuilt or removed."""
        self.counts: Counter[str] = Counter()
        """Number of rows by the reason for which they do not hold; "" if they do."""
        self._first: dict[str, str] = {}
        self._total = len(build.plan)
        # The tiles of an image follow each other.
        self._digest = functools.lru_cache(maxsize=2)(self._digest_of)
        for done, (manifest, line) in enumerate(build.folder.earlier_rows(), 1):
            progress(min(done, self._total - 1), self._total)
            index, fault, source = None, "damaged", ""
            # A power failure can leave any bytes in a journal: such a source is done again.
            with suppress(ValueError, RecursionError, AttributeError, LookupError, TypeError):
                row = json.loads(line)
                source = row["source"]
                index, fault = self._compare(manifest, row)
            self.indices.append(-1 if fault or index is None else index)
            self.counts[fault] += 1
            self._first.setdefault(fault, source)

    def __str__(self) -> str:
        faults = sorted((fault, n) for fault, n in self.counts.items() if fault)
        parts = [f"{n:,} {fault}, as '{self._first[fault]}'" for fault, n in faults]
        done = f"{self.counts['']:,} of {self._total:,} {unit_of(self._build.recipe)} are done"
        return "; ".join([done, *parts])

    def is_all(self) -> bool:
        """Return True if the folder is intact, all rows hold, and no rejected source is younger
        than the folder or may succeed now.
        """
        folder, plan, rows = self._build.folder, self._build.plan, len(self.indices)
        all_hold = self.counts.keys() <= {""} and len(np.unique(self.indices)) == rows
        if not (all_hold and folder.is_intact(rows)):
            return False
        written = (folder.root / folder.page).stat().st_mtime_ns
        left = np.setdiff1d(np.arange(self._total), self.indices)
        transient = folder.transient_rejections()
        if len(transient) != len(left) or None in transient:
            return False
        # Both are in the order of the plan.
        for task, may_pass in zip(map(plan.task, left.tolist()), transient, strict=True):
            if task.rejected:
                continue
            # A link may lead elsewhere now, and so may that of a folder.
            links = task._replace(follow_links=False)
            paths = {t.path(plan.roots, n) for t in (task, links) for n in range(len(task.sources))}
            folders = {path[: end.start()] for path in paths for end in re.finditer(b"/", path)}
            paths |= set(filter(os.path.islink, folders))
            is_younger = any(has_changed_since(path, written) for path in paths)
            if is_younger or (may_pass and all(os.access(path, os.R_OK) for path in paths)):
                return False
        return True

    def _compare(self, manifest: str, row: Row) -> tuple[int | None, str]:
        """Return the index of a row's task, and why the row does not hold any more, "" if it does.

        The sources of the row and its files are read.
        """
        side = int(row.get("domain") == "B")
        names = (row["source_hex"], row.get("target_source_hex"))
        sources = tuple(bytes.fromhex(name) for name in names if name)
        build, index = self._build, self._build.plan.find(side, sources, row["key"])
        task = ImageTask(-1, "", side, sources, {}, None)
        task = task if index is None else build.plan.task(index)
        digests = (row.get("source_sha256", row.get("sha256")), row.get("target_source_sha256"))
        try:
            for number in range(len(sources)):
                if self._digest(side, sources, task.spans, number) != digests[number]:
                    return index, "changed"
        except Rejected as rejected:
            return index, "vanished" if rejected.reason == "vanished" else "changed"
        if index is None:
            # A file may be there and yet be no source: behind a link that is not followed.
            moved = hash64(b"%d" % side, sources[0]) in self._listed
            return None, "with a new key, split or tags" if moved else "vanished"
        place = finished(_outcome_of(build.expect, task))
        if (place.manifest, place.line) != (manifest, to_json_line(row["tags"])):
            return index, "with a new key, split or tags"
        return index, "" if _files_are_intact(build.folder.root / manifest, row) else "damaged"

    def _digest_of(self, side: int, sources: tuple[bytes, ...], spans: Any, number: int) -> str:
        links, roots = self._build.plan.follow_links, self._build.plan.roots
        task = ImageTask(-1, "", side, sources, {}, None, spans=spans, follow_links=links)
        return sha256(task.read(roots, number)).hexdigest()

    @functools.cached_property
    def _listed(self) -> set[int]:
        plan = self._build.plan
        return set(map(hash64, (b"%d" % side for side in plan.sides), plan.first))


def _files_are_intact(folder: Path, row: Row) -> bool:
    columns = columns_of(row)
    # Files are not synced, so after a power failure one can have its name without its content.
    with suppress(OSError, CorpusError):
        return bool(columns) and all(
            sha256(inside(folder, row[c]).read_bytes()).hexdigest()
            == row.get(c.replace("file_name", "sha256"))
            for c in columns
        )
    return False
