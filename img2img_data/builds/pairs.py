"""Pairs: the base class of the pairings, and the work that turns one task into one pair on disk.

The same plan and settings give the same bytes for any number of workers, in any order, in one run
or after any number of kills.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from img2img_data.core.errors import Rejected, UsageError, printable
from img2img_data.core.files import stamp_of
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.memory import as_rejected
from img2img_data.corpus import format as corpus_format
from img2img_data.corpus.format import CORPUS_FILE, FORMAT, image_rng, stream_of
from img2img_data.degradations.base import Degradation, Rng
from img2img_data.degradations.blur import GaussianBlur
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import to_spec
from img2img_data.images import io
from img2img_data.images.pixels import COUNT, Channels, Fit, Pixels, ReadPolicy, detail
from img2img_data.runner import plan as planning
from img2img_data.runner.build_folder import BuildFolder, write_file
from img2img_data.runner.plan import ImageTask, Plan
from img2img_data.runner.run import FolderBuild, checked_by, source_columns
from img2img_data.runner.stages import Stages


# --------------------------------------------------------------------------------------- pairings
class DrawnPair(NamedTuple):
    """A pair in memory, the parameters drawn for it, and the values measured on it."""

    input: Pixels
    target: Pixels
    drawn: dict[str, float]
    measured: dict[str, float]


class Pairing(FrozenModel):
    """Base class of the pairings: frozen settings, ``draw`` and ``apply``.

    A pairing computes the input and the target of a pair, of one size, from one or two sources. It
    draws the parameters that vary between images, and computes the pair from them, in two
    functions: with the drawn values of its row, any pair can be computed again.

    Attributes:
        color: color space of the target.
        takes: channels that ``apply`` accepts. RGBA only if no sample is computed from others:
            degradations have no rule for the color of a half-transparent pixel.
        plane: True if the input has one channel, whatever the channels of the target.
        clean: True if the target is the source image, from which the input can be computed.
    """

    color: ClassVar[corpus_format.ColorSpace] = "rgb"
    takes: ClassVar[frozenset[Channels]] = frozenset({"rgb", "gray"})
    plane: ClassVar[bool] = False
    clean: ClassVar[bool] = False

    @property
    def fixed_parameters(self) -> dict[str, float] | None:
        """The parameters of every pair, None if pairs draw their own."""
        return {} if type(self).draw is Pairing.draw else None

    def draw(self, images: Sequence[Pixels], rng: Rng) -> dict[str, float]:
        """Return the parameters of one pair; ``apply`` with them always gives the same pixels."""
        return {}

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Compute a pair with the drawn values of its row.

        Args:
            images: the upright sources, one or two: H x W gray, H x W x 3 RGB or H x W x 4 RGBA as
                in ``takes``, uint8 or uint16. They are not modified. The pair has the same dtype.

        Raises ``Rejected`` if the images do not form a pair.
        """
        raise NotImplementedError

    def make(self, images: Sequence[Pixels], rng: Rng) -> DrawnPair:
        """Draw the parameters and compute the pair."""
        return self.apply(images, self.draw(images, rng))

    def settings(self) -> dict[str, Any]:
        """Return the recipe's entries for this pairing, from which ``pairing_of`` restores it."""
        return {"pairing": type(self).__name__.lower(), **self.model_dump(mode="json")}


class Degrade(Pairing):
    """Input: the degraded image. Target: the image."""

    clean: ClassVar[bool] = True
    degradation: Degradation = GaussianBlur()
    """degradation of the input"""

    @property
    def fixed_parameters(self) -> dict[str, float] | None:
        """The parameters of the degradation of every image, None if images draw their own."""
        return self.degradation.fixed_parameters

    def draw(self, images: Sequence[Pixels], rng: Rng) -> dict[str, float]:
        """Draw the parameters of the degradation."""
        return self.degradation.draw(rng)

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Degrade the image; the target is the same array, not a copy."""
        return DrawnPair(self.degradation.apply(images[0], "yx", **drawn), images[0], drawn, {})

    def settings(self) -> dict[str, Any]:
        """Return the complete pipeline of degradations, with all defaults."""
        return {"pairing": "degrade", "degradation": to_spec(self.degradation)}


class Blur(Degrade):
    """One of the simple blurs; its parameters are top-level entries of the recipe."""

    def settings(self) -> dict[str, Any]:
        """Return the kind of the degradation and its parameters."""
        kind = next(k for k, cls in DEGRADATIONS.items() if cls is type(self.degradation))
        return {"pairing": "degrade", "kind": kind, **self.degradation.model_dump(mode="json")}


# --------------------------------------------------------------------------------------- settings
FileFormat = Literal["png", "jpg", "webp"]


@functools.cache
def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of "64" or "640x480". Raises ``ValueError``."""
    if not re.fullmatch(r"\d{1,9}(x\d{1,9})?", text) or 0 in map(int, text.split("x")):
        raise ValueError("a size is a number of pixels or WIDTHxHEIGHT")
    width, _, height = text.partition("x")
    size = int(width), int(height or width)
    try:
        io.check_size(*size)  # what is written must be read again
    except Rejected as rejected:
        raise ValueError(rejected.detail) from None
    return size


def _check_group(rule: str) -> None:
    try:
        re.compile("" if planning.tag_in(rule) is not None else rule)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None


def _check_strata(rule: str) -> None:
    if rule != planning.FOLDER_RULE and not planning.tag_in(rule):
        raise ValueError("should be 'folder', the name of a tag, or tag:NAME")


class BuildSettings(FrozenModel):
    """Settings on which the bytes of a corpus depend, besides its pairing."""

    option_group: ClassVar[str] = "Corpus"

    size: Annotated[str, checked_by(parse_size)] | None = None
    """size of every image, pixels, such as 64 or 640x480; at most 100 million pixels; default:
    unchanged"""
    fit: Fit | None = None
    """how to fit images of another size; crop: scale and crop; pad: scale and mirror the border;
    error: reject; default: crop, but error for combine"""
    format: FileFormat = "png"
    """file format; clean images that need no change are copied byte for byte"""
    quality: int = Field(95, ge=1, le=100)
    """quality of jpg and webp; webp 100: lossless"""
    layout: corpus_format.Layout | None = None
    """how to store a pair; folders: one file each in input/ and target/; combined: one A|B image;
    default: folders, but combined for combine"""
    tile: Annotated[str, checked_by(parse_size)] | None = None
    """cut every image into tiles of this size at full resolution; such as 256 or 640x480, from the
    top left; the remainder at the right and the bottom is left out, and smaller images are
    rejected; all tiles of an image are in one split; default: whole images"""
    stride: int | None = Field(None, ge=1)
    """distance from one tile to the next, pixels; tiles overlap if it is below --tile; default:
    --tile"""
    min_detail: float = Field(0, ge=0, le=255)
    """leave out images and tiles with less detail than this; detail is the mean difference between
    neighboring pixels of the luma, in gray levels: clear skies are below 1, most photos 4 to 13; in
    a pair the more detailed image counts; 0: no limit"""
    split: Annotated[str, checked_by(planning.parse_split)] | None = None
    """how to split the corpus: shares, as train=0.8,val=0.1,test=0.1, or folder, or tag:NAME;
    shares: a hash of each image's name chooses its split, so adding images moves no others; shares
    are approximate, or exact with --stratify folder; folder: the image's first folder names its
    split; tag:NAME: its tag does; default: tag:split if images have it, else train=1"""
    group_by: Annotated[str, checked_by(_check_group)] | None = None
    """keep the images of a group in one split; a group shares a folder, the value of a tag, as
    person (a plain word) or tag:NAME, or the match (or group 1) of a regular expression on the file
    name"""
    stratify: Annotated[str, checked_by(_check_strata)] | None = None
    """apply the shares to each folder, or to each value of a tag, such as gender or tag:NAME; exact
    to one group; images added later may move old ones"""
    bits: Literal[8, 16] = 8
    """bits per sample; 16: keep the precision of 16-bit and float sources (png only)"""
    channels: Channels = "rgb"
    """channels of every image; gray: the luma of color images (png, jpg); rgba: with transparency
    (png; for combine, unpaired and import only)"""
    alpha: Literal["white", "reject"] = "white"
    """what to do with transparent images; white: composite on white; not with --channels rgba"""
    seed: int = Field(0, ge=0)
    """random seed"""
    license: str | None = None
    """license of the source images, for the dataset card; such as cc-by-4.0 or any text"""

    @model_validator(mode="after")
    def _check_combinations(self) -> BuildSettings:
        if self.tile and self.size:
            raise ValueError("--tile cuts images at full resolution; leave --size out")
        if self.stride and not self.tile:
            raise ValueError("--stride needs --tile")
        if self.stratify is not None and len(planning.parse_split(self.split or "train=1")) < 2:
            raise ValueError("--stratify needs several shares, as in --split train=0.8,test=0.2")
        return self


# --------------------------------------------------------------------------------------- one task
@dataclass(frozen=True, slots=True)
class CorpusJob:
    """The settings that a worker needs, the same for all tasks of a corpus.

    ``settings`` are resolved: ``fit``, ``layout`` and ``split`` are not None.
    """

    roots: tuple[bytes, ...]
    out: str
    pairing: Pairing
    settings: BuildSettings
    kind: corpus_format.Kind
    policy: ReadPolicy
    name: str
    fixed_parameters: dict[str, float] | None = None
    """Those of the pairing, found once for all tasks."""


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """A source that was read: its bytes and digest, the decoded image, and its resized pixels."""

    data: bytes
    sha256: str
    image: io.DecodedImage
    pixels: Pixels

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the source takes."""
        resized = 0 if self.pixels is self.image.pixels else self.pixels.nbytes
        return len(self.data) + self.image.pixels.nbytes + resized

    def cut(self, tile: Sequence[int], size: tuple[int, int]) -> LoadedSource:
        """Return a tile of the source, which does not keep the rest of it in memory."""
        pixels = io.cut(self.pixels, tile, size)
        if pixels is self.pixels:
            return self
        image = replace(self.image, pixels=pixels, verbatim=False)
        return replace(self, data=b"", image=image, pixels=pixels)


class EncodedFile(NamedTuple):
    """A file of the corpus: the column of its name, its name in the split's folder, its bytes."""

    column: str
    name: str
    data: bytes
    sha256: str


def write_pair(job: CorpusJob, task: ImageTask) -> Stages[tuple[str, dict[str, Any]]]:
    """Read, resize, pair and write one task; return its split and its row. Raises ``Rejected``."""
    sources, least = read_sources(job, task), job.settings.min_detail
    held = sum(source.nbytes for source in sources)
    yield held
    if least and (found := max(detail(source.pixels) for source in sources)) < least:
        raise Rejected("low-detail", f"{found:.2f} gray levels, below {least:g}")
    images = [source.pixels for source in sources]
    if job.fixed_parameters is not None:
        pair = job.pairing.apply(images, job.fixed_parameters)
    else:
        # The generator is keyed by the path, not by the key: a key may gain an extension when a
        # colliding file is added. To create one takes as long as to write a file.
        rng = image_rng(job.settings.seed, stream_of(task.sources[0], task.tile))
        pair = job.pairing.make(images, rng)
    yield held
    split, tags = place_of(job, task)
    files = encode_files(job, task, pair.input, pair.target, sources)
    yield held
    for file in files:
        write_file(job.out, f"{split}/{file.name}", file.data)
    yield held
    row: dict[str, Any] = {"key": task.key, **{f.column: f.name for f in files}}
    if job.kind == "unpaired":
        row["domain"] = "AB"[task.root]
    row |= source_columns(task.sources[0], task.tile)
    if len(sources) > 1:
        row |= {f"target_{k}": v for k, v in source_columns(task.sources[1]).items()}
    height, width = pair.target.shape[:2]
    row |= {"tags": tags, "kind": job.name, "drawn": pair.drawn, "width": width, "height": height}
    if pair.measured:
        row["measured"] = pair.measured
    row |= io.note_columns(*(source.image for source in sources))
    row["source_sha256"] = sources[0].sha256
    if len(sources) > 1:
        row["target_source_sha256"] = sources[1].sha256
    return split, row | {f.column.replace("file_name", "sha256"): f.sha256 for f in files}


def place_of(job: CorpusJob, task: ImageTask) -> tuple[str, dict[str, Any]]:
    """Return the split of a task and the tags of its row, which need no image; or ``Rejected``."""
    rule, by, seed = job.settings.split or "", job.settings.group_by, job.settings.seed
    group, split = planning.group_and_split(task, rule, by, seed)
    # "group" is reserved for the group by which the splits were assigned.
    tags = {name: value for name, value in task.tags.items() if name != "group"}
    if by or task.group_path:
        tags["group"] = printable(group)
    return split, tags


_last_cut: dict[Any, list[LoadedSource] | Rejected] = {}
"""The sources of the last tile in this process: its tiles follow each other."""


def read_sources(job: CorpusJob, task: ImageTask) -> list[LoadedSource]:
    """Read the sources of a task and resize or cut them.

    ``Rejected`` names the one that cannot be used.
    """
    if not task.tile:
        return _read_whole(job, task)
    paths = [task.path(job.roots, number) for number in range(len(task.sources))]
    # A file may change between two runs in one process.
    name = repr((paths, [stamp_of(p) for p in paths], job.policy, job.settings.fit))
    loaded = _last_cut.get(name)
    if loaded is None:
        try:
            loaded = _read_whole(job, task)
        except Exception as error:
            loaded = as_rejected(error)
        _last_cut.clear()
        _last_cut[name] = loaded
    if isinstance(loaded, Rejected):
        raise Rejected(loaded.reason, loaded.detail)  # anew: a traceback would grow tile by tile
    size = parse_size(job.settings.tile or "")
    return [source.cut(task.tile, size) for source in loaded]


def _read_whole(job: CorpusJob, task: ImageTask) -> list[LoadedSource]:
    out: list[LoadedSource] = []
    size = parse_size(job.settings.size) if job.settings.size else None
    how = job.settings.fit or "crop"
    for number, path in enumerate(task.sources):
        try:
            data = task.read(job.roots, number)
            image = io.decode(data, job.policy)
            if number and size is None:
                # Both images of a pair must have one size; without --size the first one sets it.
                size = out[0].pixels.shape[1], out[0].pixels.shape[0]
            pixels = io.fit(image.pixels, size, how) if size else image.pixels
            out.append(LoadedSource(data, sha256(data).hexdigest(), image, pixels))
        except Rejected as rejected:
            if len(task.sources) == 1:
                raise
            detail = f"{'AB'[number]}/{printable(path)}: {rejected.detail}"
            raise Rejected(rejected.reason, detail) from None
    return out


def encode_files(
    job: CorpusJob, task: ImageTask, first: Pixels, second: Pixels, sources: Sequence[LoadedSource]
) -> list[EncodedFile]:
    """Return the files of one pair; an image that was not changed keeps its bytes."""
    if job.kind == "unpaired":
        content = [("file_name", f"{'AB'[task.root]}/", second)]
    elif job.settings.layout == "combined":
        content = [("file_name", "", _side_by_side(first, second, sources))]
    else:
        content = [("input_file_name", "input/", first), ("target_file_name", "target/", second)]
    files = []
    for column, folder, pixels in content:
        data, extension = encode_image(pixels, sources, job.settings.format, job.settings.quality)
        known = next((s.sha256 for s in sources if s.data is data), None)
        name = f"{folder}{task.key}.{extension}"
        files.append(EncodedFile(column, name, data, known or sha256(data).hexdigest()))
    return files


def encode_image(
    pixels: Pixels, sources: Sequence[LoadedSource], format: FileFormat, quality: int
) -> tuple[bytes, str]:
    """Return the bytes of a file and its extension; a source's own if it is clean and unchanged."""
    for source in sources:
        if pixels is source.image.pixels and source.image.verbatim:
            # The bytes that were read and checked, not a hard link: the file may change meanwhile.
            return source.data, "jpg" if source.image.format == "jpeg" else source.image.format
    return io.encode(pixels, format, quality), format


def _side_by_side(first: Pixels, second: Pixels, sources: Sequence[LoadedSource]) -> Pixels:
    """Return A|B; if these are views of both halves of one image, that image, to keep its file."""
    image = sources[0].image.pixels
    if len(sources) == 1 and first.base is image and second.base is image:
        return image
    height, width = second.shape[:2]
    io.check_pixels(2 * width, height, " side by side (--layout folders needs less)")
    if first.ndim < second.ndim:
        first = np.repeat(first[..., None], second.shape[2], axis=2)
    return np.hstack((first, second))


# ------------------------------------------------------------------------------------ whole corpus
def corpus_build(
    plan: Plan, pairing: Pairing, out: Path, settings: BuildSettings, name: str
) -> FolderBuild:
    """Return the build of a corpus at ``out`` by the command ``name``.

    Raises ``UsageError`` if settings contradict each other or the kind of corpus.
    """
    job = make_job(plan, pairing, out, settings, name)
    shares = planning.parse_split(job.settings.split or "")
    planning.check_tag(job.settings.split, "--split", plan.tag_names)
    plan.assign_splits(shares, settings.group_by, settings.stratify, settings.seed)
    dumped = {**pairing.settings(), **job.settings.model_dump(mode="json")}
    recipe = {"command": name, **dumped, **plan.digests()}
    channels = COUNT[settings.channels]
    # WebP has no single channel, and in the combined layout the plane gets those of the target.
    plane = pairing.plane and job.settings.layout == "folders" and settings.format != "webp"
    about: dict[str, Any] = {"format": FORMAT, "kind": job.kind, "layout": job.settings.layout}
    about |= {"color": pairing.color, "bits": settings.bits}
    about["channels"] = {"input": 1 if plane else channels, "target": channels}

    work, expect = functools.partial(write_pair, job), functools.partial(place_of, job)
    return FolderBuild(plan, BuildFolder(out, CORPUS_FILE), recipe, about, work, expect)


def make_job(
    plan: Plan, pairing: Pairing, out: Path, settings: BuildSettings, name: str
) -> CorpusJob:
    """Resolve the settings whose defaults depend on the kind of corpus.

    Raises ``UsageError`` if settings contradict each other.
    """
    two_folders = len(plan.roots) == 2 and plan.kind == "paired"
    fit = settings.fit or ("error" if two_folders else "crop")
    layout = settings.layout or ("combined" if two_folders else "folders")
    split = settings.split or ("tag:split" if "split" in plan.tag_names else "train=1")
    settings = settings.model_copy(update={"fit": fit, "layout": layout, "split": split})
    policy = ReadPolicy(alpha=settings.alpha, depth=settings.bits, channels=settings.channels)
    roots = tuple(os.path.abspath(root) for root in plan.roots)
    target, fixed = os.path.abspath(out), pairing.fixed_parameters
    job = CorpusJob(roots, target, pairing, settings, plan.kind, policy, name, fixed)
    for option, why, hint in _conflicts(job):
        raise UsageError("option", option, why, hint)
    return job


def _conflicts(job: CorpusJob) -> Iterator[tuple[str, str, str]]:
    """Yield (option, why, hint) for settings that the format or the pairing does not support."""
    settings, lab = job.settings, job.pairing.color == "lab"
    file, channels, takes = settings.format, settings.channels, job.pairing.takes
    misfit = f"does not work with '{job.name}'"
    if settings.layout == "combined" and (job.kind == "unpaired" or lab):
        yield "--layout combined", misfit, "leave it out"
    if settings.bits == 16 and file != "png":
        yield "--bits 16", f"does not work with --format {file}, which has 8 bits", "use png"
    if channels == "rgba" and file != "png":
        why = f"does not work with --format {file}, written here without transparency"
        yield "--channels rgba", why, "use png"
    if channels == "gray" and file == "webp":
        why = "does not work with --format webp, which cannot hold a single channel"
        yield "--channels gray", why, "use png"
    if channels not in takes:
        yield f"--channels {channels}", misfit, f"use {' or '.join(c for c in COUNT if c in takes)}"
    if channels == "rgba" and settings.alpha == "reject":
        yield "--alpha reject", "contradicts --channels rgba", "leave one of them out"
    if lab and (file == "jpg" or (file == "webp" and settings.quality < 100)):
        hint = "use png, or webp with --quality 100"
        yield f"--format {file}", "would degrade Lab samples", hint
