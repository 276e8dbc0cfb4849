"""One task becomes one pair on disk; all tasks of a plan become a corpus.

The same plan and settings give the same bytes for any number of workers, in any order, in one go or after
any number of kills.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from img2img_data.build.pairings import Made, Pairing
from img2img_data.core import tar
from img2img_data.core.errors import Rejected, UsageError, printable
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import (
    CORPUS_FILE,
    FORMAT,
    Kind,
    Layout,
    image_rng,
    split_of,
    to_json_line,
)
from img2img_data.images import io
from img2img_data.runner.build_folder import BuildFolder
from img2img_data.runner.outcome import Outcome, Report
from img2img_data.runner.plan import Plan, Task
from img2img_data.runner.run import forecast, rejection, run_plan, write_file
from img2img_data.runner.settings import BuildSettings, RunSettings, parse_size, parse_split
from img2img_data.runner.splits import group_of


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker knows: the same for all tasks of a build."""

    roots: tuple[bytes, ...]
    out: str
    pairing: Pairing
    settings: BuildSettings
    kind: Kind
    layout: Layout
    fit: io.Fit
    policy: io.ReadPolicy
    splits: Mapping[str, float]
    name: str


@dataclass(frozen=True, slots=True)
class Source:
    """One source that was read: its bytes and their digest, its image, and its pixels once framed."""

    data: bytes
    sha256: str
    image: io.DecodedImage
    pixels: io.Pixels


def one_item(job: Job, task: Task) -> Outcome:
    """Read, frame, pair and write one task. A image's fault is a row, not an exception."""
    try:
        if task.rejected:
            raise Rejected(*task.rejected)
        sources = read_sources(job, task)
        rng = image_rng(job.settings.seed, task.sources[0]) if job.pairing.random else None
        made = job.pairing.make([s.pixels for s in sources], rng)
        group, split = _place_of(job, task)
        files = encode_files(job, task, made.input, made.target, sources)
        for file in files:
            write_file(job.out, f"{split}/{file.name}", file.data)
        tags = {
            name: value for name, value in task.tags.items() if name != "group"
        }  # it is the splits' word
        if job.settings.group_by:
            tags["group"] = printable(group)
        row = _row(job, task, tags, sources, made, files)
        return Outcome(task.index, split, "", to_json_line(row))
    except Rejected as rejected:
        return rejection(task, rejected.reason, rejected.detail)


def read_sources(job: Job, task: Task) -> list[Source]:
    """Read and frame the sources of a task; ``Rejected`` tells which could not be used, and why."""
    out: list[Source] = []
    for number, path in enumerate(task.sources):
        try:
            data = _read_source(job, task, number)
            image = io.decode(data, job.policy)
            pixels = _framed(job, image.pixels, out)
            out.append(Source(data, sha256(data).hexdigest(), image, pixels))
        except Rejected as rejected:
            if len(task.sources) == 1:
                raise
            raise Rejected(
                rejected.reason, f"{'AB'[number]}/{printable(path)}: {rejected.detail}"
            ) from None
    return out


def _read_source(job: Job, task: Task, number: int) -> bytes:
    root = job.roots[task.root + number]
    if not task.spans:
        return io.read_bytes(os.path.join(root, *task.sources[number].split(b"/")))
    archive, start, size = task.spans[number]
    if not 0 < size <= io.MAX_BYTES:
        raise Rejected("file-too-big" if size else "empty", f"{size} bytes, limit {io.MAX_BYTES}")
    path = Path(os.fsdecode(os.path.join(root, archive)))
    return tar.content(path, tar.Member("", start, size))


def _framed(job: Job, pixels: io.Pixels, before: Sequence[Source]) -> io.Pixels:
    size = parse_size(job.settings.size)
    if size is None and before:
        height, width = before[0].pixels.shape[:2]
        size = (width, height)
    return pixels if size is None else io.fit(pixels, size, job.fit)


def _place_of(job: Job, task: Task) -> tuple[bytes, str]:
    """Return the group and the split of a task; its name and tags tell them, not its pixels."""
    group = group_of(task.sources[0], task.tags, job.settings.group_by)
    return group, task.split or split_of(group, job.splits, job.settings.seed)


def _side_by_side(first: io.Pixels, second: io.Pixels, sources: Sequence[Source]) -> io.Pixels:
    """Return A|B; the very image that was read where these are its halves, so that it keeps its file."""
    whole = sources[0].image.pixels
    if len(sources) == 1 and first.base is whole and second.base is whole:
        return whole
    return np.hstack((_like(second, first), second))


class Encoded(NamedTuple):
    """A file of the corpus: the column its name stands in, its name in the split's folder, its bytes."""

    column: str
    name: str
    data: bytes
    sha256: str


def encode_files(
    job: Job, task: Task, first: io.Pixels, second: io.Pixels, sources: Sequence[Source]
) -> list[Encoded]:
    """Return the files of one pair; a image that was not changed keeps the bytes it came in."""
    if job.kind == "unpaired":
        content = [("file_name", "AB"[task.root], second)]
    elif job.layout == "combined":
        content = [("file_name", "", _side_by_side(first, second, sources))]
    else:
        content = [("input_file_name", "input", first), ("target_file_name", "target", second)]
    files = []
    for column, folder, pixels in content:
        same = [s for s in sources if pixels is s.image.pixels and s.image.verbatim]
        if same:
            data, digest = same[0].data, same[0].sha256
            extension = "jpg" if same[0].image.format == "jpeg" else same[0].image.format
        else:
            extension = job.settings.format
            data = io.encode(pixels, job.settings.format, job.settings.quality)
            digest = sha256(data).hexdigest()
        name = f"{folder}/{task.key}.{extension}" if folder else f"{task.key}.{extension}"
        files.append(Encoded(column, name, data, digest))
    return files


def _like(second: io.Pixels, first: io.Pixels) -> io.Pixels:
    """Give a plane the channels of its other half, where that has some."""
    plane = first.ndim == 2 < second.ndim
    return np.repeat(first[..., None], second.shape[2], axis=2) if plane else first


def _row(
    job: Job,
    task: Task,
    tags: Mapping[str, Any],
    sources: Sequence[Source],
    made: Made,
    files: Sequence[Encoded],
) -> dict[str, Any]:
    height, width = made.target.shape[:2]
    row: dict[str, Any] = {"key": task.key, **{f.column: f.name for f in files}}
    if job.kind == "unpaired":
        row["domain"] = "AB"[task.root]
    row |= {"source": printable(task.sources[0]), "source_hex": task.sources[0].hex()}
    if len(sources) > 1:
        row |= {
            "target_source": printable(task.sources[1]),
            "target_source_hex": task.sources[1].hex(),
        }
    row |= {
        "tags": dict(tags),
        "kind": job.name,
        "drawn": dict(made.drawn),
        "width": width,
        "height": height,
    }
    if made.measured:
        row["measured"] = dict(made.measured)
    notes = sorted({n for s in sources for n in s.image.notes})
    row |= {"notes": notes, "source_sha256": sources[0].sha256}
    if len(sources) > 1:
        row["target_source_sha256"] = sources[1].sha256
    return row | {f.column.replace("file_name", "sha256"): f.sha256 for f in files}


def build_corpus(
    plan: Plan,
    pairing: Pairing,
    out: Path,
    settings: BuildSettings,
    run: RunSettings,
    name: str,
    progress: Progress,
) -> Report:
    """Build the corpus at ``out``, or finish it. Returns the counts; raises ``Img2ImgError``."""
    job = make_job(plan, pairing, out, settings, name)
    plan.assign_splits(settings)
    recipe = _recipe_of(plan, job)
    about = {
        "format": FORMAT,
        "kind": job.kind,
        "layout": job.layout,
        "color": pairing.color,
        "bits": settings.bits,
        "channels": _channels_of(job),
    }
    work = functools.partial(one_item, job)
    return run_plan(plan, BuildFolder(out, CORPUS_FILE), recipe, about, work, run, progress)


def _channels_of(job: Job) -> dict[str, int]:
    target = io.COUNT[job.settings.channels]
    plane = (
        job.pairing.plane and job.layout == "folders" and job.settings.format != "webp"
    )  # holds no plane
    return {"input": 1 if plane else target, "target": target}


def forecast_corpus(
    plan: Plan, pairing: Pairing, out: Path, settings: BuildSettings, run: RunSettings, name: str
) -> Iterator[str]:
    """Yield what ``build_corpus`` would do, a line a fact: how many pairs, in which splits, where to."""
    job = make_job(plan, pairing, out, settings, name)
    plan.assign_splits(settings)

    def expect(task: Task) -> Outcome:
        if task.rejected:
            return rejection(task, *task.rejected)
        split = _place_of(job, task)[1]
        return Outcome(
            task.index, f"{split}/{'AB'[task.root]}" if job.kind == "unpaired" else split, "", b""
        )

    yield from forecast(plan, BuildFolder(out, CORPUS_FILE), _recipe_of(plan, job), expect, run)


def _recipe_of(plan: Plan, job: Job) -> dict[str, Any]:
    """Return what the bytes of the corpus depend on."""
    return {
        "command": job.name,
        **job.pairing.settings(),
        **job.settings.model_dump(mode="json"),
        "fit": job.fit,
        "layout": job.layout,
        "source_names": plan.names_digest(),
        **plan.tags_digest(),
    }


def make_job(plan: Plan, pairing: Pairing, out: Path, settings: BuildSettings, name: str) -> Job:
    """Resolve the settings whose defaults depend on the kind of corpus; ``UsageError`` where they clash."""
    combined = len(plan.roots) == 2 and plan.kind == "paired"
    layout = settings.layout or ("combined" if combined else "folders")
    if layout == "combined" and (plan.kind == "unpaired" or pairing.color == "lab"):
        raise UsageError(
            "option", "--layout combined", f"does not fit a {name} corpus", "leave it out"
        )
    _check_samples(pairing, settings, name)
    lossy = settings.format == "jpg" or (settings.format == "webp" and settings.quality < 100)
    if lossy and pairing.color == "lab":
        raise UsageError(
            "option",
            f"--format {settings.format}",
            "would degrade Lab samples",
            "use png, or webp with --quality 100",
        )
    policy = io.ReadPolicy(alpha=settings.alpha, depth=settings.bits, channels=settings.channels)
    fit = settings.fit or ("error" if combined else "crop")
    out_text = os.path.abspath(out)
    return Job(
        tuple(os.path.abspath(root) for root in plan.roots),
        out_text,
        pairing,
        settings,
        plan.kind,
        layout,
        fit,
        policy,
        parse_split(settings.split),
        name,
    )


def _check_samples(pairing: Pairing, settings: BuildSettings, name: str) -> None:
    """Reject depth and channels that the format cannot hold or the pairing cannot work on."""
    file, channels = settings.format, settings.channels
    if settings.bits == 16 and file != "png":
        raise UsageError(
            "option", "--bits 16", f"does not fit --format {file}, which holds 8 bits", "use png"
        )
    if (channels == "rgba" and file != "png") or (channels == "gray" and file == "webp"):
        held = "no transparency here" if channels == "rgba" else "no single channel"
        raise UsageError(
            "option",
            f"--channels {channels}",
            f"does not fit --format {file}, which holds {held}",
            "use png",
        )
    if channels not in pairing.takes:
        fits = " or ".join(c for c in io.COUNT if c in pairing.takes)
        raise UsageError(
            "option", f"--channels {channels}", f"does not fit a {name} corpus", f"use {fits}"
        )
    if channels == "rgba" and settings.alpha == "reject":
        raise UsageError(
            "option", "--alpha reject", "contradicts --channels rgba", "leave one of the two out"
        )
