"""Resized folders: the images of another folder, upright, opaque and all of one size.

The output is a folder and not a corpus, because a pair of an image with itself teaches nothing. It
is what ``combine``, ``unpaired`` and the other commands take, as with ``--operation resize`` of
affinelayer/pix2pix-tensorflow, tools/process.py.
"""

from __future__ import annotations

import functools
import os
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from img2img_data.builds import pairings, pairs
from img2img_data.builds.selection import SELECTION_FILE, first_columns
from img2img_data.core.frozen_model import FrozenModel, field_of
from img2img_data.corpus.format import FORMAT
from img2img_data.images.io import note_columns
from img2img_data.images.pixels import Fit, ReadPolicy
from img2img_data.runner.build_folder import BuildFolder, write_file
from img2img_data.runner.plan import ImageTask, Plan
from img2img_data.runner.run import FolderBuild, checked_by


class ResizeSettings(FrozenModel):
    """Settings of a resized folder."""

    size: Annotated[str, checked_by(pairs.parse_size)] = "256"
    """size of every image, as 64 or 640x480; WIDTHxHEIGHT, at most 100 million pixels"""
    fit: Fit = "crop"
    """adaptation of images of another size; crop: scale and crop, pad: scale and mirror the border,
    error: reject"""
    format: pairs.FileFormat = field_of(pairs.BuildSettings, "format")
    quality: int = field_of(pairs.BuildSettings, "quality")
    alpha: Literal["white", "reject"] = "white"
    """transparent images; white: composite on white"""


def resize_image(job: pairs.CorpusJob, task: ImageTask) -> tuple[str, dict[str, Any]]:
    """Read one image, resize it, and write it; 16 bits stay 16 if the format holds them."""
    (source,) = pairs.read_sources(job, task)
    format, quality = job.settings.format, job.settings.quality
    content, extension = pairs.encode_image(source.pixels, [source], format, quality)
    name = f"{task.key}.{extension}"
    write_file(job.out, name, content)
    row = first_columns(name, task)
    (height, width), old = source.pixels.shape[:2], source.image.size
    row |= {"width": width, "height": height, "source_width": old[0], "source_height": old[1]}
    row |= {**note_columns(source.image), "source_sha256": source.sha256}
    return ".", {**row, "sha256": sha256(content).hexdigest()}


def resize_build(plan: Plan, out: Path, settings: ResizeSettings) -> FolderBuild:
    """Return the build of a folder with the images of a plan in one size."""
    dumped = settings.model_dump(mode="json")
    recipe = {"command": "resize", **dumped, "source_names": plan.names_digest()}
    policy = ReadPolicy(alpha=settings.alpha, depth="keep" if settings.format == "png" else 8)
    single, build = pairings.Unpaired(), pairs.BuildSettings(**dumped)
    roots = tuple(map(os.path.abspath, plan.roots))  # workers may be in another folder
    target = os.path.abspath(out)
    job = pairs.CorpusJob(roots, target, single, build, plan.kind, policy, "resize")
    about = {"format": FORMAT, "kind": "resized"}
    work, folder = functools.partial(resize_image, job), BuildFolder(out, SELECTION_FILE)
    return FolderBuild(plan, folder, recipe, about, work, lambda task: (".", dict(task.tags)))
