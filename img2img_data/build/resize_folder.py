"""Resized folders: the images of another folder, upright, opaque and all of one size.

The output is a folder and not a corpus, because a pair of an image with itself teaches nothing. It
is what ``combine``, ``unpaired`` and the other commands take, as with ``--operation resize`` of
affinelayer/pix2pix-tensorflow, tools/process.py.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from img2img_data.build.pairs import BuildSettings, LoadedSource, encode_image, parse_size
from img2img_data.build.selection import SELECTION_FILE, field_of
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.corpus.format import FORMAT
from img2img_data.images import io
from img2img_data.images.pixels import Fit, ReadPolicy, fit
from img2img_data.runner.build_folder import BuildFolder, write_file
from img2img_data.runner.plan import ImageTask, Plan
from img2img_data.runner.run import FolderBuild, source_columns


class ResizeSettings(FrozenModel):
    """Settings of a resized folder."""

    size: str = "256"
    """size of every image, as 64 or 640x480; WIDTHxHEIGHT, pixels"""
    fit: Fit = "crop"
    """adaptation of images of another size; crop: scale and crop, pad: scale and mirror the border,
    error: reject"""
    format: Literal["png", "jpg", "webp"] = field_of(BuildSettings, "format")
    quality: int = field_of(BuildSettings, "quality")
    alpha: Literal["white", "reject"] = "white"
    """transparent images; white: composite on white"""

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: str) -> str:
        parse_size(value)
        return value


@dataclass(frozen=True, slots=True)
class ResizeJob:
    """Everything that a worker needs to know."""

    root: bytes
    out: str
    settings: ResizeSettings
    policy: ReadPolicy


def resize_image(job: ResizeJob, task: ImageTask) -> tuple[str, dict[str, Any]]:
    """Read one image, resize it, and write it; 16 bits stay 16 if the format holds them."""
    size = parse_size(job.settings.size)
    assert size is not None
    data = io.read_bytes(os.path.join(job.root, *task.sources[0].split(b"/")))
    image = io.decode(data, job.policy)
    pixels = fit(image.pixels, size, job.settings.fit)
    source = LoadedSource(data, sha256(data).hexdigest(), image, pixels)
    content, extension = encode_image(pixels, [source], job.settings.format, job.settings.quality)
    name = f"{task.key}.{extension}"
    write_file(job.out, name, content)
    return ".", {
        "file_name": name,
        **source_columns(task.sources[0]),
        "tags": dict(task.tags),
        "width": size[0],
        "height": size[1],
        "source_width": image.size[0],
        "source_height": image.size[1],
        "notes": list(image.notes),
        "source_sha256": source.sha256,
        "sha256": sha256(content).hexdigest(),
    }


def resize_build(plan: Plan, out: Path, settings: ResizeSettings) -> FolderBuild:
    """Return the build of a folder with the images of a plan in one size."""
    policy = ReadPolicy(alpha=settings.alpha, depth="keep" if settings.format == "png" else 8)
    job = ResizeJob(plan.roots[0], os.fspath(out), settings, policy)
    recipe = {
        "command": "resize",
        **settings.model_dump(mode="json"),
        "source_names": plan.names_digest(),
    }
    about = {"format": FORMAT, "kind": "resized"}
    work, folder = functools.partial(resize_image, job), BuildFolder(out, SELECTION_FILE)
    return FolderBuild(plan, folder, recipe, about, work, lambda task: ".")
