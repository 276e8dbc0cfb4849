"""A clean folder: the pictures of another one, upright, opaque and all of one size.

No corpus: a picture paired with itself teaches nothing. What comes out is what ``combine``, ``unpaired`` and
the other commands take, as with ``--operation resize`` of affinelayer/pix2pix-tensorflow, tools/process.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from img2img_data import images
from img2img_data.corpus import FORMAT, to_json_line
from img2img_data.engine import Progress, forecast, refusal, run_plan, write_file
from img2img_data.errors import Refused, printable
from img2img_data.folder import BuildFolder
from img2img_data.outcome import Outcome, Report
from img2img_data.plan import Plan, Task
from img2img_data.selection import PAGE
from img2img_data.settings import RunSettings, check_size, parse_size


class ResizeSettings(BaseModel):
    """What the pictures look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: str = Field("256", description="size of every picture, as 64 or 640x480 (width x height)")
    fit: images.Fit = Field(
        "crop",
        description="how other sizes get there: scale and cut the middle out, scale and mirror the rim, "
        "stretch, or refuse the picture",
    )
    format: Literal["png", "jpg", "webp"] = Field(
        "png",
        description="format of the pictures; a clean one that has the size keeps its file, byte for byte",
    )
    quality: int = Field(95, ge=1, le=100, description="quality of jpg and webp; webp at 100 is lossless")
    alpha: Literal["white", "refuse"] = Field(
        "white", description="transparent pictures: compose on white, or refuse"
    )

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: str) -> str:
        return check_size(value)


@dataclass(frozen=True, slots=True)
class Resizing:
    """What every worker knows: where from, where to, and the settings."""

    root: bytes
    out: str
    settings: ResizeSettings
    size: tuple[int, int]
    policy: images.ReadPolicy


def resize_one(resizing: Resizing, task: Task) -> Outcome:
    """Read one picture, bring it to the size, and write it; 16 bits stay 16 where the format holds them."""
    settings = resizing.settings
    try:
        if task.refused:
            raise Refused(*task.refused)
        data = images.read_bytes(os.path.join(resizing.root, *task.sources[0].split(b"/")))
        picture = images.decode(data, resizing.policy)
        pixels = images.fit(picture.pixels, resizing.size, settings.fit)
    except Refused as refused:
        return refusal(task, refused.reason, refused.detail)
    if pixels is picture.pixels and picture.verbatim:
        content, extension = data, "jpg" if picture.format == "jpeg" else picture.format
    else:
        content, extension = images.encode(pixels, settings.format, settings.quality), settings.format
    name = f"{task.key}.{extension}"
    write_file(resizing.out, name, content)
    row = {
        "file_name": name,
        "source": printable(task.sources[0]),
        "source_hex": task.sources[0].hex(),
        "tags": dict(task.tags),
        "width": resizing.size[0],
        "height": resizing.size[1],
        "source_width": picture.size[0],
        "source_height": picture.size[1],
        "notes": list(picture.notes),
        "source_sha256": sha256(data).hexdigest(),
        "sha256": sha256(content).hexdigest(),
    }
    return Outcome(task.index, ".", "", to_json_line(row))


def resize_pictures(
    plan: Plan, out: Path, settings: ResizeSettings, run: RunSettings, progress: Progress
) -> Report:
    """Write the pictures of a plan in one size. Returns the counts; raises ``Img2ImgError``."""
    size = parse_size(settings.size) or (0, 0)
    depth: Literal[8, "keep"] = "keep" if settings.format == "png" else 8
    policy = images.ReadPolicy(alpha=settings.alpha, depth=depth)
    resizing = Resizing(plan.roots[0], os.fspath(out), settings, size, policy)
    about = {"format": FORMAT, "kind": "resized"}
    work = functools.partial(resize_one, resizing)
    return run_plan(plan, BuildFolder(out, PAGE), _recipe_of(plan, settings), about, work, run, progress)


def forecast_resizing(plan: Plan, out: Path, settings: ResizeSettings, run: RunSettings) -> Iterator[str]:
    """Yield what ``resize_pictures`` would do, as far as names tell."""

    def expect(task: Task) -> Outcome:
        return refusal(task, *task.refused) if task.refused else Outcome(task.index, ".", "", b"")

    yield from forecast(plan, BuildFolder(out, PAGE), _recipe_of(plan, settings), expect, run)


def _recipe_of(plan: Plan, settings: ResizeSettings) -> dict[str, Any]:
    return {"command": "resize", **settings.model_dump(mode="json"), "source_names": plan.names_digest()}
