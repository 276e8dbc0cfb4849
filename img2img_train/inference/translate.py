"""A model and images of any size, depth and kind to restored images, tile by tile; videos frame by frame.

What a image has beside its colors is kept: transparency, 16 bits a sample, one channel, an embedded ICC
profile. EXIF orientation is applied, other metadata is not copied. Of a video the frames are restored, each
on its own; what else is lost stands in ``videos``. A video that was interrupted begins again.

::

    OUT/FOLDERS/KEY.png     as in the source; of a video KEY.mp4
    OUT/translated.jsonl    a row per file that is done; a rerun of the same model passes over these
    OUT/rejected.jsonl      a row per file that cannot be read
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Setting

from img2img_data.core.errors import CorpusError, Rejected, UsageError, printable
from img2img_data.core.files import write_atomically
from img2img_data.core.progress import ProgressByPart
from img2img_data.corpus.format import REJECTED_FILE, UniqueKeys, to_json_line
from img2img_data.images import io
from img2img_train.inference.inputs import list_images
from img2img_train.inference.resume_log import ResumeLog
from img2img_train.inference.tiles import Tiling, restore
from img2img_train.inference.video import Video, VideoInfo, is_video, open_video, write_video
from img2img_train.networks.layers import uses_image_statistics
from img2img_train.runs.model import LoadedModel


class TranslateSettings(BaseModel):
    """How images are cut and written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile: int = Setting(
        512,
        ge=16,
        description="side of a tile, pixels, at least twice --overlap; memory grows with its square",
    )
    overlap: int = Setting(
        128, ge=0, description="pixels that two tiles share: more for a network that sees further"
    )
    batch: int = Setting(1, ge=1, le=4096, description="tiles at a time")
    draws: int = Setting(
        1,
        ge=1,
        le=1000,
        description="results that are averaged, with dropout on; several also give NAME.spread.png, "
        "their standard deviation in 1/256 of a gray level",
    )
    format: Literal["png", "jpg", "webp"] = Setting(
        "png", description="format of the results; jpg and webp hold 8 bits and no transparency"
    )
    quality: int = Setting(
        95, ge=1, le=100, description="quality of jpg and webp; webp at 100 is lossless"
    )
    video_format: Literal["mp4", "webm", "mkv", "avi"] = Setting(
        "mp4",
        description="format of restored videos: mp4, webm and avi (JPEG) are lossy, mkv (FFV1) is not",
    )
    max_pixels: int = Setting(400_000_000, ge=1, description="pixels a image or frame may have")

    def check(self, model: LoadedModel) -> None:
        """Raise UsageError where the model makes nothing of a setting."""
        if self.draws > 1 and not model.config.test_dropout:
            raise UsageError(
                "option", "--draws", "makes equal results without dropout", "give --dropout on"
            )

    def note(self, model: LoadedModel, side: int) -> list[str]:
        """Return what to say of a result of this longest side, if anything."""
        whole = self.tiling(model.spec.multiple, model.spec.smallest)
        if len(whole.starts(side)) == 1 or not uses_image_statistics(model.generator):
            return []
        said = "cut into tiles, and this model normalises each by itself: contrast may change across a image"
        return [f"{said}; --tile {side} takes the largest whole, where memory allows"]

    def tiling(self, multiple: int, smallest: int) -> Tiling:
        """Return the tiling for a network that needs sides of this multiple, and at least so many pixels."""
        return Tiling(self.tile, self.overlap, multiple, self.batch, smallest)


@dataclass(slots=True)
class Translated:
    """How many files were restored, how many were there already, and why the others were not.

    ``videos`` of the kept ones are videos; ``frames`` were restored now; ``side`` is the longest side among
    what was; ``notes`` are lines for a person.
    """

    out: Path
    restored: int = 0
    reused: int = 0
    videos: int = 0
    frames: int = 0
    longest_side: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


# -------------------------------------------------------------------------------------------- one image
class TranslatedImage(NamedTuple):
    """The files of one restored image: itself, and with several draws how far they spread (else empty).

    ``side`` is the image's longer side, pixels.
    """

    image: bytes
    spread: bytes
    longest_side: int


def translate_bytes(
    model: LoadedModel, data: bytes, settings: TranslateSettings
) -> TranslatedImage:
    """Return a restored image as a file from the file of one; Rejected where it cannot be read.

    Of several draws the result is the mean; the spread is a 16-bit gray PNG of their standard deviation, mean
    over the channels, in 1/256 of an 8-bit gray level.
    """
    policy = io.ReadPolicy(
        depth="keep", channels="keep", max_pixels=settings.max_pixels, max_aspect=1e9
    )
    pixels = io.decode(data, policy).pixels
    made, deviation = translate_pixels(model, pixels, settings)
    if settings.format != "png":
        made = _on_white(io.to_8_bit(made) if made.dtype == np.uint16 else made)
    profile = io.icc_profile(data, 1 if made.shape[2:] in {(), (2,)} else 3)
    spread = b"" if deviation is None else io.encode(deviation, "png")
    file = io.encode(np.ascontiguousarray(made), settings.format, settings.quality, profile)
    return TranslatedImage(file, spread, max(made.shape[:2]))


def translate_pixels(
    model: LoadedModel, pixels: io.Pixels, settings: TranslateSettings
) -> tuple[io.Pixels, io.Pixels | None]:
    """Return the restored image of H x W, H x W x 3 or H x W x 4, uint8 or uint16; and, of several draws,
    how far they spread.

    Alpha stays. What was gray comes out gray, unless the model makes colors of it; what a model makes gray
    is H x W, or H x W x 2 with alpha.
    """
    alpha = pixels.shape[2:] == (4,)
    gray = pixels.ndim == 2 or (alpha and (pixels[..., :2] == pixels[..., 1:3]).all())
    color = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., :3]
    tiling = settings.tiling(model.spec.multiple, model.spec.smallest)
    draws = (
        restore(partial(model.forward, draw=draw), color, tiling, model.device)
        for draw in range(settings.draws)
    )
    made, deviation = _mean_and_spread(draws) if settings.draws > 1 else (next(draws), None)
    if model.spec.outputs == 1 or (gray and model.spec.inputs == model.spec.outputs):
        made = np.asarray(np.rint(made.mean(axis=2)), pixels.dtype)
    return np.dstack([made, pixels[..., 3]]) if alpha else made, deviation


def _on_white(pixels: io.Pixels) -> io.Pixels:
    """Return an 8-bit image without its transparency: composed on white, as everywhere in this project."""
    if pixels.shape[2:] not in {(2,), (4,)}:
        return pixels
    share = pixels[..., -1:].astype(np.float32) / 255
    opaque = np.rint(pixels[..., :-1] * share + 255 * (1 - share)).astype(np.uint8)
    return opaque[..., 0] if opaque.shape[2] == 1 else opaque


def _mean_and_spread(draws: Iterator[io.Pixels]) -> tuple[io.Pixels, io.Pixels]:
    """Return the rounded mean, and the deviation in 1/256 of an 8-bit level; one draw is held at a time."""
    first = next(draws)
    total, squares, count = first.astype(np.float64), np.square(first, dtype=np.float64), 1
    for made in draws:
        total += made
        squares += np.square(made, dtype=np.float64)
        count += 1
    variance = np.maximum(squares / count - np.square(total / count), 0)
    level = np.iinfo(first.dtype).max / 255
    deviation = np.sqrt(variance).mean(axis=2) / level * 256
    return np.rint(total / count).astype(first.dtype), np.minimum(np.rint(deviation), 65535).astype(
        np.uint16
    )


# --------------------------------------------------------------------------------------------- a video
def translate_video(
    model: LoadedModel,
    video: Video,
    out: Path,
    settings: TranslateSettings,
    follow: ProgressByPart = lambda done, total, part="", /: None,
) -> VideoInfo:
    """Restore an open video into the file ``out``, with a frame in memory at a time.

    Rejected where it cannot be read. Returns what reading it has told. Each frame is restored on its own.
    """
    name = printable(out.name)
    survey = video.survey(
        settings.max_pixels, lambda done, total: follow(done, total, f"reading {name}")
    )
    done = 0
    with write_video(out, settings.video_format, survey) as write:
        for done, frame in enumerate(video.frames(), 1):
            write(translate_pixels(model, frame, settings)[0])
            follow(done, survey.frames, f"restoring {name}")
        if done != survey.frames:
            raise Rejected("corrupt", f"{survey.frames} frames once, {done} when read again")
    return survey


# --------------------------------------------------------------------------------------------- a folder
def translate(
    model: LoadedModel,
    source: Path,
    out: Path,
    follow: ProgressByPart = lambda done, total, part="", /: None,
    settings: TranslateSettings | None = None,
) -> Translated:
    """Restore a file, or those of a folder or a pattern, into the same folders below ``out``.

    A file that cannot be read is a row in ``out/rejected.jsonl``, as in a corpus. Equal inputs give equal
    bytes; what an earlier call with the same model and settings has finished is not done again. UsageError
    where the source holds no image, or ``out`` cannot be written or holds the sources; FolderInUseError where
    another process works in it.
    """
    settings = settings or TranslateSettings()
    settings.check(model)
    root, paths = list_images(source, out)
    _make(out)
    rows = []
    how = settings.model_dump(mode="json", exclude={"batch", "max_pixels", "video_format"})
    with ResumeLog.open(out, model, how) as log:
        work = FolderTranslation(
            model, settings, root, UniqueKeys(paths), log, follow, Translated(out)
        )
        for number, path in enumerate(paths, 1):
            try:
                work.video(path) if is_video(path) else work.image(path)
                work.done.restored += 1
            except Rejected as rejected:
                work.done.rejected[rejected.reason] += 1
                rows.append(_row(path, rejected))
            follow(number, len(paths))
        work.done.notes += settings.note(model, work.done.longest_side)
        log.sort()
        lines = b"".join(map(to_json_line, rows))
        write_atomically(out / REJECTED_FILE, lines)
    return work.done


@dataclass(frozen=True, slots=True)
class FolderTranslation:
    """One call of ``translate``: a method for each kind of file. Both raise Rejected."""

    model: LoadedModel
    settings: TranslateSettings
    root: bytes
    keys: UniqueKeys
    log: ResumeLog
    follow: ProgressByPart
    done: Translated

    def image(self, path: bytes) -> None:
        """Restore a image, unless its result is there."""
        data = io.read_bytes(os.path.join(self.root, path))
        name, digest = f"{self.keys[path]}.{self.settings.format}", sha256(data).hexdigest()
        if self.log.has(path, name, digest):
            self.done.reused += 1
            return
        if self.settings.draws > 1 and self.keys[path].endswith(".spread"):
            raise Rejected("name-collision", "another image's spread has this name")
        made = translate_bytes(self.model, data, self.settings)
        if made.spread:
            self._write(f"{self.keys[path]}.spread.png", made.spread)
        self._write(name, made.image)
        self.done.longest_side = max(self.done.longest_side, made.longest_side)
        self.log.add(path, name, digest)

    def video(self, path: bytes) -> None:
        """Restore a video, unless its result is there."""
        name = f"{self.keys[path]}.{self.settings.video_format}"
        with open_video(os.path.join(self.root, path)) as video:
            digest = video.digest()
            if self.log.has(path, name, digest):
                self.done.reused += 1
            else:
                _make((self.done.out / name).parent)
                seen = translate_video(
                    self.model, video, self.done.out / name, self.settings, self.follow
                )
                self.log.add(path, name, digest, frames=seen.frames)
                self.done.frames += seen.frames
                self.done.longest_side = max(self.done.longest_side, seen.width, seen.height)
                if seen.frames < seen.stated:
                    said = f"its header states {seen.stated:,} frames, {seen.frames:,} are there"
                    self.done.notes.append(f"'{printable(path)}': {said}")
            self.done.videos += 1

    def _write(self, name: str, data: bytes) -> None:
        path = self.done.out / name
        _make(path.parent)
        write_atomically(path, data, self.done.out / ".image.tmp")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "output", folder, error.strerror or "cannot be made", "give another folder"
        ) from None


def translate_file(
    model: LoadedModel, data: bytes, name: str, settings: TranslateSettings
) -> TranslatedImage:
    """Return one restored image as files; CorpusError, naming it, where it cannot be read."""
    settings.check(model)
    try:
        return translate_bytes(model, data, settings)
    except Rejected as rejected:
        raise _unusable("image", name, rejected) from None


def translate_video_file(
    model: LoadedModel, source: Path, out: Path, settings: TranslateSettings, follow: ProgressByPart
) -> VideoInfo:
    """Restore one video into another; CorpusError, naming it, where it cannot be read."""
    settings.check(model)
    _make(out.parent)
    try:
        with open_video(source.resolve()) as video:
            return translate_video(model, video, out, settings, follow)
    except Rejected as rejected:
        raise _unusable("video", str(source), rejected) from None


def _unusable(what: str, name: str, rejected: Rejected) -> CorpusError:
    return CorpusError(what, name, f"{rejected.reason} {rejected.detail}".strip(), "give another")


def _row(path: bytes, rejected: Rejected) -> dict[str, Any]:
    return {
        "source": printable(path),
        "source_hex": path.hex(),
        "reason": rejected.reason,
        "detail": printable(rejected.detail),
    }
