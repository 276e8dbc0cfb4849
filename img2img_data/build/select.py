"""Choose photos: those that pass the filters are copied, byte for byte; the others listed."""

from __future__ import annotations

import copy
import functools
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from img2img_data.core.errors import Rejected, UsageError, printable
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import FORMAT, to_json_line
from img2img_data.images import io
from img2img_data.runner.build_folder import BuildFolder
from img2img_data.runner.outcome import Outcome, Report
from img2img_data.runner.plan import Plan, Task
from img2img_data.runner.run import Pools, forecast, rejection, run_plan, write_file
from img2img_data.runner.settings import RunSettings
from img2img_data.similarity.duplicates import EXACT, MAX_DISTANCE, Groups, group
from img2img_data.similarity.perceptual_hash import PrintFile, fingerprint
from img2img_data.sources.filters import (
    FILTERS,
    Filter,
    Gray,
    MinSide,
    NoFace,
    NoGender,
    check_image,
    check_tags,
)

PAGE = "selection.json"
DUPLICATES = "duplicates.jsonl"


def as_in(model: type[BaseModel], name: str) -> Any:
    """Return a field with the default, range and help that ``model`` states for it."""
    return copy.deepcopy(model.model_fields[name])


class SelectSettings(BaseModel):
    """Which photos are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_side: int = as_in(MinSide, "min_side")
    drop_gray: bool = Field(False, description="leave out black-and-white photos, toned ones too")
    gray_tolerance: float = as_in(Gray, "gray_tolerance")
    drop_duplicates: bool = Field(
        False,
        description="leave out exact and near copies of other photos, all but the first by key; "
        "duplicates.jsonl lists them; each photo is read twice",
    )
    duplicate_distance: int = Field(
        8,
        ge=0,
        le=MAX_DISTANCE,
        description="bits of 64 in which near copies may differ; 0: exact copies alone",
    )

    def filters(self) -> tuple[Filter, ...]:
        """Return the filters, in the order of precedence of their reasons."""
        gray = (Gray(gray_tolerance=self.gray_tolerance),) if self.drop_gray else ()
        return (MinSide(min_side=self.min_side), *gray)


class WikiSettings(SelectSettings):
    """Which faces of IMDB-WIKI are left out: unknown gender always."""

    min_face_score: float = as_in(NoFace, "min_face_score")

    def filters(self) -> tuple[Filter, ...]:
        """Put the filters that read the list before those that read the image."""
        return (NoFace(min_face_score=self.min_face_score), NoGender(), *super().filters())


EXPECTED = frozenset({*(f.reason for f in FILTERS.values()), "missing", "duplicate"})
"""Reasons that a selection is made for; they do not count as bad images."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What every worker knows: where from, where to, and the filters."""

    root: bytes
    out: str
    filters: tuple[Filter, ...]
    by_gender: bool


def choose_one(choice: Choice, task: Task) -> Outcome:
    """Read one photo, ask the filters, and copy its bytes."""
    try:
        data, image = _read(choice, task)
    except Rejected as rejected:
        return rejection(task, rejected.reason, rejected.detail)
    folder = _folder_of(choice, task)
    name = _name_of(task)
    write_file(choice.out, f"{folder}/{name}", data)
    width, height = image.size
    row = {
        "file_name": name,
        "source": printable(task.sources[0]),
        "source_hex": task.sources[0].hex(),
        "tags": dict(task.tags),
        "width": width,
        "height": height,
        "notes": list(image.notes),
        "sha256": sha256(data).hexdigest(),
    }
    return Outcome(task.index, folder, "", to_json_line(row))


def _read(choice: Choice, task: Task) -> tuple[bytes, io.DecodedImage]:
    """Return the bytes and the image of a photo that passes the filters; raises ``Rejected``."""
    if task.rejected:
        raise Rejected(*task.rejected)
    check_tags(choice.filters, task.tags)
    data = io.read_bytes(os.path.join(choice.root, *task.sources[0].split(b"/")))
    image = io.decode(data)
    check_image(choice.filters, image, task.tags)
    return data, image


# ------------------------------------------------------------------------------------- duplicates
def print_one(choice: Choice, task: Task) -> tuple[int, bytes]:
    """Return the fingerprint of one photo; a photo that will be rejected is nobody's copy."""
    stamp = _stamp(choice.root, task)
    try:
        return task.index, fingerprint(_read(choice, task)[1].pixels, stamp)
    except Rejected:
        return task.index, fingerprint(None, stamp)


def _stamp(root: bytes, task: Task) -> tuple[int, int]:
    """Return size and time of a photo's file: while they are the same, so is its fingerprint."""
    try:
        found = os.lstat(os.path.join(root, *task.sources[0].split(b"/")))
    except (OSError, ValueError):
        return (0, 0)
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Pass:
    """The pass before the run that looks for copies; its fingerprints survive a kill."""

    choice: Choice
    plan: Plan
    folder: BuildFolder
    distance: int
    progress: Progress

    def __call__(self, pools: Pools) -> Callable[[int], Task]:
        """Take all fingerprints, list the groups, and return how to make a task: copies are rejected."""
        count = len(self.plan)
        with PrintFile(self.folder.building / "fingerprints", count) as file:
            todo = self._missing(file)
            work = functools.partial(print_one, self.choice)
            pool = pools(work, self.plan.task, lambda task, _: (task.index, fingerprint(None)))
            for done, (index, data) in enumerate(pool.run(todo), count - len(todo) + 1):
                file.put(index, data)
                self.progress(done, 2 * count)
            groups = group(file.load(), self.distance)
        self._list(groups)
        return functools.partial(self._task, groups)

    def _missing(self, file: PrintFile) -> array[int]:
        found = bytearray(len(self.plan))
        for place, stamp in file.whole():
            found[place] = stamp == _stamp(self.choice.root, self.plan.task(place))
        return array("q", (index for index, there in enumerate(found) if not there))

    def _list(self, groups: Groups) -> None:
        def named(index: int) -> dict[str, str]:
            path = self.plan.task(index).sources[0]
            return {"source": printable(path), "source_hex": path.hex()}

        temporary = self.folder.building / "duplicates"
        with temporary.open("wb") as file:
            for head, places in groups.members():
                copies = [{**named(i), **_how(int(groups.distances[i]))} for i in map(int, places)]
                file.write(to_json_line({"kept": named(head), "copies": copies}))
        temporary.replace(self.folder.root / DUPLICATES)

    def _task(self, groups: Groups, index: int) -> Task:
        task, kept = self.plan.task(index), int(groups.kept[index])
        if kept == index:
            return task
        how, first = _how(int(groups.distances[index])), self.plan.task(kept).sources[0]
        bits = f", {how['distance']} of 64 bits differ" if how["kind"] == "near" else ""
        return replace(
            task, rejected=("duplicate", f"{how['kind']} copy of '{printable(first)}'{bits}")
        )


def _how(distance: int) -> dict[str, Any]:
    return {"kind": "exact"} if distance == EXACT else {"kind": "near", "distance": distance}


# -------------------------------------------------------------------------------------------- run
def _name_of(task: Task) -> str:
    """Return the name of the copy: the source's own, but for what some file system would not take."""
    extension = os.path.splitext(os.fsdecode(task.sources[0]))[1]
    return task.key if task.key.endswith(extension) else task.key + extension


def select_photos(
    name: str, plan: Plan, out: Path, settings: SelectSettings, run: RunSettings, progress: Progress
) -> Report:
    """Copy the photos of a plan that pass; ``wiki`` sorts them by gender."""
    _check_whole(settings, run)
    choice, recipe = _choice_of(plan, out, settings), _recipe_of(name, plan, settings)
    about = {"format": FORMAT, "kind": "selection"}
    work, folder = functools.partial(choose_one, choice), BuildFolder(out, PAGE)
    if not settings.drop_duplicates:
        return run_plan(plan, folder, recipe, about, work, run, progress)
    first = Pass(choice, plan, folder, settings.duplicate_distance, progress)
    return run_plan(
        plan, folder, recipe, about, work, run, lambda d, n: progress(n + d, 2 * n), first
    )


def forecast_photos(
    name: str, plan: Plan, out: Path, settings: SelectSettings, run: RunSettings
) -> Iterator[str]:
    """Yield what ``select_photos`` would do, as far as names and tags tell."""
    _check_whole(settings, run)
    choice = _choice_of(plan, out, settings)

    def expect(task: Task) -> Outcome:
        try:
            if task.rejected:
                raise Rejected(*task.rejected)
            check_tags(choice.filters, task.tags)
        except Rejected as rejected:
            return rejection(task, rejected.reason, rejected.detail)
        return Outcome(task.index, _folder_of(choice, task), "", b"")

    yield from forecast(plan, BuildFolder(out, PAGE), _recipe_of(name, plan, settings), expect, run)


def _check_whole(settings: SelectSettings, run: RunSettings) -> None:
    if settings.drop_duplicates and run.shard:
        hint = "select without --shard, then shard the corpora made from it"
        raise UsageError(
            "option", "--drop-duplicates", "a shard does not see the other photos", hint
        )


def _choice_of(plan: Plan, out: Path, settings: SelectSettings) -> Choice:
    return Choice(
        os.path.abspath(plan.roots[0]),
        os.path.abspath(out),
        settings.filters(),
        isinstance(settings, WikiSettings),
    )


def _recipe_of(name: str, plan: Plan, settings: SelectSettings) -> dict[str, Any]:
    return {
        "command": name,
        **settings.model_dump(mode="json"),
        "source_names": plan.names_digest(),
        **plan.tags_digest(),
    }


def _folder_of(choice: Choice, task: Task) -> str:
    return str(task.tags["gender"]) if choice.by_gender else "."
