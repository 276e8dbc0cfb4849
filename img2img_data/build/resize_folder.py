"""A clean folder: the images of another one, upright, opaque and all of one size.

No corpus: a image paired with itself teaches nothing. What comes out is what ``combine``, ``unpaired`` and
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

from img2img_data.build.select import PAGE
from img2img_data.core.errors import Rejected, printable
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import FORMAT, to_json_line
from img2img_data.images import io
from img2img_data.runner.build_folder import BuildFolder
from img2img_data.runner.outcome import Outcome, Report
from img2img_data.runner.plan import Plan, Task
from img2img_data.runner.run import forecast, rejection, run_plan, write_file
from img2img_data.runner.settings import RunSettings, check_size, parse_size


class ResizeSettings(BaseModel):
    """What the images look like."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: str = Field("256", description="size of every image, as 64 or 640x480 (width x height)")
    fit: io.Fit = Field(
        "crop",
        description="how other sizes get there: scale and cut the middle out, scale and mirror the rim, "
        "stretch, or reject the image",
    )
    format: Literal["png", "jpg", "webp"] = Field(
        "png",
        description="format of the images; a clean one that has the size keeps its file, byte for byte",
    )
    quality: int = Field(
        95, ge=1, le=100, description="quality of jpg and webp; webp at 100 is lossless"
    )
    alpha: Literal["white", "reject"] = Field(
        "white", description="transparent images: compose on white, or reject"
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
    policy: io.ReadPolicy


def resize_one(resizing: Resizing, task: Task) -> Outcome:
    """Read one image, bring it to the size, and write it; 16 bits stay 16 where the format holds them."""
    settings = resizing.settings
    try:
        if task.rejected:
            raise Rejected(*task.rejected)
        data = io.read_bytes(os.path.join(resizing.root, *task.sources[0].split(b"/")))
        image = io.decode(data, resizing.policy)
        pixels = io.fit(image.pixels, resizing.size, settings.fit)
    except Rejected as rejected:
        return rejection(task, rejected.reason, rejected.detail)
    if pixels is image.pixels and image.verbatim:
        content, extension = data, "jpg" if image.format == "jpeg" else image.format
    else:
        content, extension = io.encode(pixels, settings.format, settings.quality), settings.format
    name = f"{task.key}.{extension}"
    write_file(resizing.out, name, content)
    row = {
        "file_name": name,
        "source": printable(task.sources[0]),
        "source_hex": task.sources[0].hex(),
        "tags": dict(task.tags),
        "width": resizing.size[0],
        "height": resizing.size[1],
        "source_width": image.size[0],
        "source_height": image.size[1],
        "notes": list(image.notes),
        "source_sha256": sha256(data).hexdigest(),
        "sha256": sha256(content).hexdigest(),
    }
    return Outcome(task.index, ".", "", to_json_line(row))


def resize_images(
    plan: Plan, out: Path, settings: ResizeSettings, run: RunSettings, progress: Progress
) -> Report:
    """Write the images of a plan in one size. Returns the counts; raises ``Img2ImgError``."""
    size = parse_size(settings.size) or (0, 0)
    depth: Literal[8, "keep"] = "keep" if settings.format == "png" else 8
    policy = io.ReadPolicy(alpha=settings.alpha, depth=depth)
    resizing = Resizing(plan.roots[0], os.fspath(out), settings, size, policy)
    about = {"format": FORMAT, "kind": "resized"}
    work = functools.partial(resize_one, resizing)
    return run_plan(
        plan, BuildFolder(out, PAGE), _recipe_of(plan, settings), about, work, run, progress
    )


def forecast_resizing(
    plan: Plan, out: Path, settings: ResizeSettings, run: RunSettings
) -> Iterator[str]:
    """Yield what ``resize_images`` would do, as far as names tell."""

    def expect(task: Task) -> Outcome:
        return (
            rejection(task, *task.rejected) if task.rejected else Outcome(task.index, ".", "", b"")
        )

    yield from forecast(plan, BuildFolder(out, PAGE), _recipe_of(plan, settings), expect, run)


def _recipe_of(plan: Plan, settings: ResizeSettings) -> dict[str, Any]:
    return {
        "command": "resize",
        **settings.model_dump(mode="json"),
        "source_names": plan.names_digest(),
    }
