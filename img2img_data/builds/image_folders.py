"""Folders of images: selections, and the images of another folder in one size.

Images of a selection pass the filters and are copied byte for byte; the others are listed. Resized
images are upright, opaque and all of one size. Their folder is not a corpus, because a pair of an
image with itself teaches nothing; it is what ``combine``, ``unpaired`` and the other commands take,
as with ``--operation resize`` of affinelayer/pix2pix-tensorflow, tools/process.py.
"""

from __future__ import annotations

import functools
import os
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from img2img_data.builds import pairings, pairs
from img2img_data.core.command_line import Progress
from img2img_data.core.errors import TRANSIENT_REASONS, Rejected, UsageError, printable
from img2img_data.core.files import stamp_of, write_atomically
from img2img_data.core.frozen_model import FrozenModel, field_of
from img2img_data.core.memory import as_rejected
from img2img_data.corpus.format import FORMAT, key_of, to_json_line
from img2img_data.images import io
from img2img_data.images.pixels import Fit
from img2img_data.runner.build_folder import DUPLICATES_FILE, BuildFolder, write_file
from img2img_data.runner.plan import ImageTask, Plan
from img2img_data.runner.run import FolderBuild, MakePool, RunSettings, checked_by, source_columns
from img2img_data.runner.stages import Stages
from img2img_data.similarity.duplicates import EXACT, MAX_DISTANCE, DuplicateGroups
from img2img_data.similarity.perceptual_hash import FingerprintFile, fingerprint
from img2img_data.sources import filters

SELECTION_FILE: Final = "selection.json"
_FILTERED: Final = frozenset(f.reason for f in filters.FILTERS.values()) | {"missing", "duplicate"}
EXPECTED_REASONS: Final[dict[Any, frozenset[str]]] = {"wiki": _FILTERED, "select": _FILTERED}
"""Command > reasons for which it leaves images out; those are not bad images."""


class SelectSettings(FrozenModel):
    """Settings of a selection."""

    min_side: int = field_of(filters.MinSide, "min_side")
    drop_gray: bool = False
    """leave out black-and-white images, including toned ones"""
    gray_tolerance: float = field_of(filters.Gray, "gray_tolerance")
    drop_duplicates: bool = False
    """leave out exact and near copies of other images; they are listed in duplicates.jsonl; each
    image is read twice"""
    keep: Literal["first", "largest"] = "first"
    """copy that --drop-duplicates keeps; first: the first by key; largest: the one with the most
    pixels, then the largest file"""
    duplicate_distance: int = Field(8, ge=0, le=MAX_DISTANCE)
    """bits of the 64-bit hash in which near copies may differ; 0: exact copies only"""
    sample: int | None = Field(None, ge=1)
    """number of images to draw at random; by --seed, before the filters, which may
    leave fewer; default: all"""
    seed: int = field_of(pairs.BuildSettings, "seed")

    def filters(self) -> tuple[filters.Filter, ...]:
        """Return the filters, in the order of precedence of their reasons."""
        gray = (filters.Gray(gray_tolerance=self.gray_tolerance),) if self.drop_gray else ()
        return (filters.MinSide(min_side=self.min_side), *gray)


class WikiSettings(SelectSettings):
    """Settings of a selection from IMDB-WIKI; faces of unknown gender are always left out."""

    min_face_score: float = field_of(filters.NoFace, "min_face_score")

    def filters(self) -> tuple[filters.Filter, ...]:
        """Return the filters; those that read the list come before those that read the image."""
        no_face = filters.NoFace(min_face_score=self.min_face_score)
        return (no_face, filters.NoGender(), *super().filters())


@dataclass(frozen=True, slots=True)
class SelectJob:
    """The settings that a worker needs."""

    root: bytes
    out: str
    filters: tuple[filters.Filter, ...]
    by_gender: bool

    def folder_of(self, task: ImageTask) -> str:
        """Return the folder of a copy, relative to the output."""
        return str(task.tags["gender"]) if self.by_gender else "."


def copy_image(job: SelectJob, task: ImageTask) -> Stages[tuple[str, dict[str, Any]]]:
    """Read one image, apply the filters, and copy its bytes. Raises ``Rejected``."""
    data, image = _read(job, task)
    yield len(data) + image.pixels.nbytes
    folder = job.folder_of(task)
    # The copy keeps its name, except for characters that some file systems reject. A key has the
    # extension only where the names of two images differ in nothing else.
    extension = os.path.splitext(os.fsdecode(task.sources[0]))[1]
    with_extension = key_of(task.sources[0], extension=True)
    name = task.key if task.key == with_extension else task.key + extension
    write_file(job.out, f"{folder}/{name}", data)
    size = {"width": image.size[0], "height": image.size[1]}
    row = {**first_columns(name, task), **size, **io.note_columns(image)}
    return folder, {**row, "sha256": sha256(data).hexdigest()}


def first_columns(name: str, task: ImageTask) -> dict[str, Any]:
    """Return the first columns of the row of an image that was written as ``name``."""
    names = {"key": task.key, "file_name": name, **source_columns(task.sources[0])}
    return {**names, "tags": dict(task.tags)}


def _read(job: SelectJob, task: ImageTask) -> tuple[bytes, io.DecodedImage]:
    """Return the bytes and the image of a source that passes the filters; raises ``Rejected``."""
    filters.apply_filters(job.filters, task.tags)
    data = task.read([job.root])
    image = io.decode(data)
    filters.apply_filters(job.filters, task.tags, image)
    return data, image


def selection_build(
    name: str, plan: Plan, out: Path, settings: SelectSettings, run: RunSettings
) -> FolderBuild:
    """Return the build of a selection by the command ``name``; ``wiki`` sorts by gender.

    Raises ``UsageError`` if duplicates are to be dropped in a shard.
    """
    if settings.drop_duplicates and run.shard:
        why, hint = "does not work with --shard", "select from all images, then shard the corpora"
        raise UsageError("option", "--drop-duplicates", why, hint)
    by_gender = isinstance(settings, WikiSettings)
    root, target = os.path.abspath(plan.roots[0]), os.path.abspath(out)
    job = SelectJob(root, target, settings.filters(), by_gender)
    recipe = {"command": name, **settings.model_dump(mode="json"), **plan.digests()}

    def expect(task: ImageTask) -> tuple[str, dict[str, Any]]:
        filters.apply_filters(job.filters, task.tags)
        return job.folder_of(task), dict(task.tags)

    folder = BuildFolder(out, SELECTION_FILE)
    before = DuplicatePass(job, plan, folder, settings) if settings.drop_duplicates else None
    about, work = {"format": FORMAT, "kind": "selection"}, functools.partial(copy_image, job)
    return FolderBuild(plan, folder, recipe, about, work, expect, before)


# ------------------------------------------------------------------------------------- duplicates
def fingerprint_image(job: SelectJob, task: ImageTask) -> tuple[int, bytes, str]:
    """Return the index, the fingerprint and "" for one image; with a transient reason to reject it
    that reason. The fingerprint of an image that will be rejected matches no other.
    """
    # Taken before the file is read: a change during the reading makes the fingerprint invalid.
    stamp = stamp_of(task.path([job.root]))
    try:
        if task.rejected:
            raise Rejected(*task.rejected)
        return task.index, fingerprint(_read(job, task)[1].pixels, stamp), ""
    except Exception as error:
        reason = as_rejected(error).reason
        if reason in TRANSIENT_REASONS and not task.rejected:
            return _lost(task, reason)
        return task.index, fingerprint(None, stamp), ""


def _lost(task: ImageTask, reason: str) -> tuple[int, bytes, str]:
    return task.index, fingerprint(None), reason


@dataclass(frozen=True, slots=True)
class DuplicatePass:
    """Search for copies before the run; the fingerprints survive a kill."""

    job: SelectJob
    plan: Plan
    folder: BuildFolder
    settings: SelectSettings

    def __call__(self, make_pool: MakePool, progress: Progress) -> Callable[[int], ImageTask]:
        """Compute all fingerprints, list the groups; return a function that rejects the copies."""
        count = len(self.plan)
        name = f"fingerprints-{self.plan.names_digest()}"  # the sources may change before a rerun
        with FingerprintFile(self.folder.building / name, count) as file:
            valid = bytearray(count)
            for place, stamp in file.stamps():
                now = stamp_of(self.plan.task(place).path([self.job.root]))
                valid[place] = stamp == now  # a fingerprint is valid while they stay the same
            todo = array("q", (index for index, is_valid in enumerate(valid) if not is_valid))
            work = functools.partial(fingerprint_image, self.job)
            results = make_pool(work, self.plan.task, _lost).run(todo)
            # Images that could not be compared may be copies, so they are not kept.
            failed: dict[int, str] = {}
            for done, (index, data, reason) in enumerate(results, count - len(todo) + 1):
                file.write(index, data)
                if reason:
                    failed[index] = reason
                progress(done // 2, count)  # the run itself is the second half
            prints = file.load(largest_first=self.settings.keep == "largest")
            groups = DuplicateGroups(prints, self.settings.duplicate_distance)
        write_atomically(self.folder.root / DUPLICATES_FILE, self._rows(groups))
        return functools.partial(self._task, groups, failed)

    def _rows(self, groups: DuplicateGroups) -> Iterator[bytes]:
        def columns(index: int) -> dict[str, str]:
            return source_columns(self.plan.task(index).sources[0])

        for head, places in groups.members():
            copies = [{**columns(i), **_match(groups, i)} for i in map(int, places)]
            yield to_json_line({"kept": columns(head), "copies": copies})

    def _task(self, groups: DuplicateGroups, failed: dict[int, str], index: int) -> ImageTask:
        task, kept = self.plan.task(index), int(groups.kept[index])
        if index in failed:
            return task._replace(rejected=(failed[index], ""))
        if kept == index:
            return task
        match, first = _match(groups, index), self.plan.task(kept).sources[0]
        bits = f", {match['distance']} of 64 bits differ" if match["kind"] == "near" else ""
        detail = f"{match['kind']} copy of '{printable(first)}'{bits}"
        return task._replace(rejected=("duplicate", detail))


def _match(groups: DuplicateGroups, index: int) -> dict[str, Any]:
    distance = int(groups.distances[index])
    return {"kind": "exact"} if distance == EXACT else {"kind": "near", "distance": distance}


# ----------------------------------------------------------------------------------------- resizing
class ResizeSettings(FrozenModel):
    """Settings of a resized folder."""

    size: Annotated[str, checked_by(pairs.parse_size)] = "256"
    """size of every image, such as 64 or 640x480; WIDTHxHEIGHT, at most 100 million pixels"""
    fit: Fit = "crop"
    """how to fit images of another size; crop: scale and crop; pad: scale and mirror the border;
    error: reject"""
    format: pairs.FileFormat = field_of(pairs.BuildSettings, "format")
    quality: int = field_of(pairs.BuildSettings, "quality")
    alpha: Literal["white", "reject"] = "white"
    """what to do with transparent images; white: composite on white"""


def resize_image(job: pairs.CorpusJob, task: ImageTask) -> Stages[tuple[str, dict[str, Any]]]:
    """Read one image, resize it, and write it; 16 bits stay 16 if the format holds them."""
    (source,) = pairs.read_sources(job, task)
    yield source.nbytes
    format, quality = job.settings.format, job.settings.quality
    content, extension = pairs.encode_image(source.pixels, [source], format, quality)
    yield source.nbytes
    name = f"{task.key}.{extension}"
    write_file(job.out, name, content)
    row = first_columns(name, task)
    (height, width), old = source.pixels.shape[:2], source.image.size
    row |= {"width": width, "height": height, "source_width": old[0], "source_height": old[1]}
    row |= {**io.note_columns(source.image), "source_sha256": source.sha256}
    return ".", {**row, "sha256": sha256(content).hexdigest()}


def resize_build(plan: Plan, out: Path, settings: ResizeSettings) -> FolderBuild:
    """Return the build of a folder with the images of a plan in one size."""
    dumped = settings.model_dump(mode="json")
    recipe = {"command": "resize", **dumped, "source_names": plan.names_digest()}
    job = pairs.make_job(plan, pairings.Unpaired(), out, pairs.BuildSettings(**dumped), "resize")
    if settings.format == "png":  # a format that can hold 16 bits
        job = replace(job, policy=replace(job.policy, depth="keep"))
    about = {"format": FORMAT, "kind": "resized"}
    work, folder = functools.partial(resize_image, job), BuildFolder(out, SELECTION_FILE)
    return FolderBuild(plan, folder, recipe, about, work, lambda task: (".", dict(task.tags)))
