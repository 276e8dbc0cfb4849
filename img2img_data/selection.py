"""Choose photos: those that pass the filters are copied, byte for byte; the others listed."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from img2img_data import images
from img2img_data.corpus import FORMAT, to_json_line
from img2img_data.engine import Progress, forecast, refusal, run_plan, write_file
from img2img_data.errors import Refused, printable
from img2img_data.filters import FILTERS, Filter, Gray, MinSide, NoFace, NoGender, check_picture, check_tags
from img2img_data.folder import BuildFolder
from img2img_data.outcome import Outcome, Report
from img2img_data.plan import Plan, Task
from img2img_data.settings import RunSettings

PAGE = "selection.json"


def _as_in(model: type[BaseModel], name: str) -> Any:
    """Return a field with the default, range and help that ``model`` states for it."""
    return copy.deepcopy(model.model_fields[name])


class SelectSettings(BaseModel):
    """Which photos are left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_side: int = _as_in(MinSide, "min_side")
    drop_gray: bool = Field(False, description="leave out black-and-white photos, toned ones too")
    gray_tolerance: float = _as_in(Gray, "gray_tolerance")

    def filters(self) -> tuple[Filter, ...]:
        """Return the filters, in the order of precedence of their reasons."""
        gray = (Gray(gray_tolerance=self.gray_tolerance),) if self.drop_gray else ()
        return (MinSide(min_side=self.min_side), *gray)


class WikiSettings(SelectSettings):
    """Which faces of IMDB-WIKI are left out: unknown gender always."""

    min_face_score: float = _as_in(NoFace, "min_face_score")

    def filters(self) -> tuple[Filter, ...]:
        """Put the filters that read the list before those that read the picture."""
        return (NoFace(min_face_score=self.min_face_score), NoGender(), *super().filters())


EXPECTED = frozenset({*(f.reason for f in FILTERS.values()), "missing", "duplicate"})
"""Reasons that a selection is made for; they do not count as bad pictures."""


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
        if task.refused:
            raise Refused(*task.refused)
        check_tags(choice.filters, task.tags)
        data = images.read_bytes(os.path.join(choice.root, *task.sources[0].split(b"/")))
        picture = images.decode(data)
        check_picture(choice.filters, picture, task.tags)
    except Refused as refused:
        return refusal(task, refused.reason, refused.detail)
    folder = _folder_of(choice, task)
    name = _name_of(task)
    write_file(choice.out, f"{folder}/{name}", data)
    width, height = picture.size
    row = {
        "file_name": name,
        "source": printable(task.sources[0]),
        "source_hex": task.sources[0].hex(),
        "tags": dict(task.tags),
        "width": width,
        "height": height,
        "notes": list(picture.notes),
        "sha256": sha256(data).hexdigest(),
    }
    return Outcome(task.index, folder, "", to_json_line(row))


def _name_of(task: Task) -> str:
    """Return the name of the copy: the source's own, but for what some file system would not take."""
    extension = os.path.splitext(os.fsdecode(task.sources[0]))[1]
    return task.key if task.key.endswith(extension) else task.key + extension


def select_photos(
    name: str,
    plan: Plan,
    out: Path,
    settings: SelectSettings,
    run: RunSettings,
    progress: Progress,
) -> Report:
    """Copy the photos of a plan that pass; ``wiki`` sorts them by gender."""
    choice, recipe = _choice_of(plan, out, settings), _recipe_of(name, plan, settings)
    about = {"format": FORMAT, "kind": "selection"}
    work = functools.partial(choose_one, choice)
    return run_plan(plan, BuildFolder(out, PAGE), recipe, about, work, run, progress)


def forecast_photos(
    name: str, plan: Plan, out: Path, settings: SelectSettings, run: RunSettings
) -> Iterator[str]:
    """Yield what ``select_photos`` would do, as far as names and tags tell."""
    choice = _choice_of(plan, out, settings)

    def expect(task: Task) -> Outcome:
        try:
            if task.refused:
                raise Refused(*task.refused)
            check_tags(choice.filters, task.tags)
        except Refused as refused:
            return refusal(task, refused.reason, refused.detail)
        return Outcome(task.index, _folder_of(choice, task), "", b"")

    yield from forecast(plan, BuildFolder(out, PAGE), _recipe_of(name, plan, settings), expect, run)


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
