"""Do a plan in a folder: lock, go on from the journal, work in processes, write the manifests last."""

from __future__ import annotations

import importlib.metadata
import json
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from img2img_data.corpus import (
    METADATA_FILE,
    REJECTED_FILE,
    inside,
    read_rows,
    to_json_line,
    to_json_page,
    write_atomically,
)
from img2img_data.errors import REASONS, CorpusError, Img2ImgError, printable
from img2img_data.folder import BUILDING, BuildFolder, Journal, Row, cannot_write, locked, writing_to
from img2img_data.outcome import SHOWN, Outcome, Report
from img2img_data.plan import Plan, Task
from img2img_data.settings import RunSettings
from img2img_data.workers import Pool, default_jobs

Progress = Callable[[int, int], None]
"""Called with (done, total) now and then."""

_LIBRARIES: Final = ("img2img", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "deflate")


def run_plan(
    plan: Plan,
    folder: BuildFolder,
    recipe: Mapping[str, Any],
    about: Mapping[str, Any],
    work: Callable[[Task], Outcome],
    run: RunSettings,
    progress: Progress,
) -> Report:
    """Run ``work`` over the plan and leave a complete folder. Done already: the counts it has.

    ``recipe`` is what the bytes depend on, ``about`` what the folder's own page says besides.
    """
    check_not_empty(plan)
    with locked(folder.root):
        if not folder.begin(recipe, plan.roots):
            return _report_of(folder)
        report, total = Report(), len(plan)
        with (
            writing_to(folder.building),
            folder.open_journal(total, _still_good(plan, folder.root)) as journal,
        ):
            report.kept.update(journal.found)
            todo = array("q", (index for index, place in enumerate(journal.place) if place < 0))
            pool = Pool(work, plan.task, refusal, run.jobs or default_jobs(), run.timeout)
            for done, outcome in enumerate(pool.run(todo), total - len(todo) + 1):
                journal.add(outcome)
                report.add(outcome)
                progress(done, total)
            _write_manifests(folder, journal, recipe, about, report)
        folder.end()
        return report


def check_not_empty(plan: Plan) -> None:
    """Raise ``Img2ImgError`` when there is nothing to do."""
    if not len(plan):
        names = " and ".join(f"'{printable(os.fsdecode(r))}'" for r in plan.roots)
        raise Img2ImgError(f"no pictures in {names}", why="nothing to do", way_out="check the path")


def forecast(
    plan: Plan, folder: BuildFolder, recipe: Mapping[str, Any], expect: Callable[[Task], Outcome]
) -> Iterator[str]:
    """Yield what a run would do, a line a fact; nothing is written, no picture is opened.

    ``expect`` says what becomes of a source as far as its name tells. Raises ``UsageError`` as the run would.
    """
    check_not_empty(plan)
    state, out = folder.state(recipe, plan.roots), printable(str(folder.root))
    report = Report()
    for index in range(len(plan)):
        report.add(expect(plan.task(index)))
    named = sorted((not name.startswith("train"), name, n) for name, n in report.kept.items() if name != ".")
    parts = ", ".join(f"{name} {n:,}" for _, name, n in named)
    yield f"{report.total:,} sources > up to {report.kept.total():,}" + (f": {parts}" if parts else "")
    for reason, count in sorted(report.refused.items(), key=lambda r: (-r[1], r[0])):
        yield f"  {count:>7,}  {reason:<20} {REASONS[reason]}"
    if state == "complete":
        yield f"'{out}' is complete already: nothing to do"
    elif state == "unfinished":
        yield f"'{out}' is unfinished, {folder.count_done():,} sources done: would go on"
    else:
        yield f"'{out}' would be made; nothing was written"


def refusal(task: Task, reason: str, detail: str = "") -> Outcome:
    """Return the outcome of a source that is not used."""
    path = task.sources[0]
    row = {"source": printable(path), "source_hex": path.hex(), "reason": reason, "detail": printable(detail)}
    if task.root:
        row["side"] = "AB"[task.root]
    return Outcome(task.index, "", reason, to_json_line(row))


def write_file(out: str, name: str, data: bytes) -> None:
    """Write a file of the output under a temporary name and rename it into place."""
    temporary, path = f"{out}/{BUILDING}/tmp/{os.getpid()}", f"{out}/{name}"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
        finally:
            os.close(handle)
        try:
            os.replace(temporary, path)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(Path(path), error) from None


# --------------------------------------------------------------------------------------- going on
def _still_good(plan: Plan, root: Path) -> Callable[[str, Row], int | None]:
    """Return the test for rows of an earlier run: the source is still planned, its files are whole."""
    find: Callable[[int, bytes], int | None] | None = None

    def index_of(name: str, row: Row) -> int | None:
        nonlocal find
        find = find or plan.finder()
        with suppress(ValueError):
            index = find(int(row.get("domain") == "B"), bytes.fromhex(str(row.get("source_hex"))))
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


def _report_of(folder: BuildFolder) -> Report:
    """Return the counts of a folder that is complete already."""
    report = Report(complete=True)
    counts = json.loads((folder.root / folder.page).read_bytes())["counts"]
    report.kept.update(counts["kept"])
    for row in read_rows(folder.root / REJECTED_FILE):
        report.add(Outcome(0, "", str(row["reason"]), b""))
    return report


# -------------------------------------------------------------------------------------- manifests
def _write_manifests(
    folder: BuildFolder, journal: Journal, recipe: Mapping[str, Any], about: Mapping[str, Any], report: Report
) -> None:
    """Write metadata.jsonl of each split and rejected.jsonl, then the folder's page, by rename."""
    parts = folder.building / "manifests"
    parts.mkdir(exist_ok=True)
    found = Gathered()
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {"": stack.enter_context((parts / "rejected").open("wb"))}
        for name, line in journal.rows():
            if name not in files:
                files[name] = stack.enter_context((parts / f"kept-{name}").open("wb"))
            files[name].write(line)
            found.add(line)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    report.warnings += found.twice[:SHOWN]
    for name in files:
        if name:
            (parts / f"kept-{name}").replace(folder.root / name / METADATA_FILE)
    (parts / "rejected").replace(folder.root / REJECTED_FILE)
    page = {
        **about,
        "recipe": dict(recipe),
        "versions": {name: _version_of(name) for name in _LIBRARIES},
        "counts": {
            "kept": dict(sorted(report.kept.items())),
            "refused": dict(sorted(report.refused.items())),
            "total": report.total,
        },
        **({"measured": found.worst} if found.worst else {}),
    }
    write_atomically(folder.root / folder.page, to_json_page(page), folder.building / "page", sync=True)


def _version_of(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@dataclass(slots=True)
class Gathered:
    """What only the whole tells: of each measured value the one farthest from 0; targets there twice."""

    worst: dict[str, float] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)

    def add(self, line: bytes) -> None:
        """Look at one row of a manifest."""
        if b'"measured"' not in line and b'"target_source_sha256"' not in line:
            return
        row = json.loads(line)
        for name, value in row.get("measured", {}).items():
            self.worst[name] = max(self.worst.get(name, value), value, key=abs)
        if "target_source_sha256" in row:
            first = self.targets.setdefault(row["target_source_sha256"], row["target_source"])
            if first != row["target_source"]:
                self.twice.append(f"'{row['target_source']}' and '{first}' are the same picture, duplicated")
