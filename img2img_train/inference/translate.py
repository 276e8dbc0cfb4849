"""Apply a model to images of any size, depth and channels, and to videos.

An image keeps its transparency, 16 bits per sample, single channel and ICC profile. EXIF
orientation is applied, other metadata is not copied. Each frame of a video is restored on its own;
an interrupted video starts again from its first frame.

::

    OUT/FOLDERS/KEY.png     folders as in the source; KEY.mp4 for a video
    OUT/translated.jsonl    one row per result; a rerun with the same model skips these
    OUT/rejected.jsonl      one row per file that cannot be read
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from img2img_data.core.errors import CorpusError, Rejected, UsageError, load_extra, printable
from img2img_data.core.files import write_atomically
from img2img_data.core.progress import ProgressByPart
from img2img_data.corpus.format import REJECTED_FILE, UniqueKeys, to_json_line
from img2img_data.images import io
from img2img_data.images.pixels import Pixels, to_8_bit
from img2img_train.inference.inputs import list_images
from img2img_train.inference.resume_log import ResumeLog
from img2img_train.inference.settings import TranslateSettings
from img2img_train.inference.tiles import Tiling, restore
from img2img_train.inference.video import VideoInfo, is_video, open_video, restore_video
from img2img_train.networks.layers import uses_image_statistics
from img2img_train.runs.model import LoadedModel


@dataclass(slots=True)
class Translated:
    """Results of a call of ``translate``.

    ``restored`` files have a result, ``reused`` of them from an earlier call; ``videos`` of them
    are videos, of which ``frames`` were restored now. ``longest_side`` is the longest side of what
    was restored now, in pixels; ``rejected`` counts the other files by reason; ``notes`` are lines
    for the user.
    """

    out: Path
    restored: int = 0
    reused: int = 0
    videos: int = 0
    frames: int = 0
    longest_side: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


class TranslatedImage(NamedTuple):
    """Files of a restored image: itself, and the spread of several draws (else empty).

    ``longest_side`` is that of the image, in pixels.
    """

    image: bytes
    spread: bytes
    longest_side: int


# --------------------------------------------------------------------------- settings and the model
def check_settings(settings: TranslateSettings, model: LoadedModel) -> None:
    """Raise UsageError if the model cannot use a setting."""
    if settings.draws > 1 and not model.config.test_dropout:
        why = "gives equal results without dropout"
        raise UsageError("option", "--draws", why, "give --dropout on")


def notes_on_tiles(settings: TranslateSettings, model: LoadedModel, longest_side: int) -> list[str]:
    """Return notes for the user about results whose longest side is ``longest_side`` pixels."""
    one_tile = len(_tiling(settings, model).starts(longest_side)) == 1
    if one_tile or not uses_image_statistics(model.generator):
        return []
    why = "each tile is normalized by its own statistics, so contrast may change across an image"
    return [f"{why}; --tile {longest_side} uses one tile for the largest, if memory allows"]


def _tiling(settings: TranslateSettings, model: LoadedModel) -> Tiling:
    spec = model.spec
    return Tiling(settings.tile, settings.overlap, spec.multiple, settings.batch, spec.smallest)


# -------------------------------------------------------------------------------------- one image
def translate_bytes(
    model: LoadedModel, data: bytes, settings: TranslateSettings
) -> TranslatedImage:
    """Return the file of a restored image from the file of an image; Rejected if it cannot be read.

    With several draws the result is their mean; the spread is a 16-bit gray PNG of their standard
    deviation, averaged over the channels, in 1/256 of an 8-bit gray level.
    """
    policy = io.ReadPolicy(
        depth="keep", channels="keep", max_pixels=settings.max_pixels, max_aspect=1e9
    )
    output, deviation = translate_pixels(model, io.decode(data, policy).pixels, settings)
    if settings.format != "png":
        output = _on_white(to_8_bit(output) if output.dtype == np.uint16 else output)
    profile = io.icc_profile(data, 1 if output.shape[2:] in {(), (2,)} else 3)
    spread = b"" if deviation is None else io.encode(deviation, "png")
    file = io.encode(np.ascontiguousarray(output), settings.format, settings.quality, profile)
    return TranslatedImage(file, spread, max(output.shape[:2]))


def translate_pixels(
    model: LoadedModel, pixels: Pixels, settings: TranslateSettings
) -> tuple[Pixels, Pixels | None]:
    """Return a restored image, and the spread of several draws (H x W uint16, else None).

    ``pixels``: H x W, H x W x 3 or H x W x 4 with alpha, uint8 or uint16; the result has the same
    size and dtype. Alpha is kept. A gray image gives a gray one, unless the model colorizes; a
    gray result is H x W, or H x W x 2 with alpha.
    """
    alpha = pixels.shape[2:] == (4,)
    gray = pixels.ndim == 2 or (alpha and (pixels[..., :2] == pixels[..., 1:3]).all())
    color = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., :3]
    draws = (
        restore(partial(model.forward, draw=draw), color, _tiling(settings, model), model.device)
        for draw in range(settings.draws)
    )
    output, deviation = _mean_and_spread(draws) if settings.draws > 1 else (next(draws), None)
    if model.spec.outputs == 1 or (gray and model.spec.inputs == model.spec.outputs):
        output = np.asarray(np.rint(output.mean(axis=2)), pixels.dtype)
    return np.dstack([output, pixels[..., 3]]) if alpha else output, deviation


def _on_white(pixels: Pixels) -> Pixels:
    """Return an 8-bit image without its alpha channel, composed on white."""
    if pixels.shape[2:] not in {(2,), (4,)}:
        return pixels
    share = pixels[..., -1:].astype(np.float32) / 255
    opaque = np.rint(pixels[..., :-1] * share + 255 * (1 - share)).astype(np.uint8)
    return opaque[..., 0] if opaque.shape[2] == 1 else opaque


def _mean_and_spread(draws: Iterator[Pixels]) -> tuple[Pixels, Pixels]:
    """Return the rounded mean, and the standard deviation in 1/256 of an 8-bit level (uint16)."""
    first = next(draws)
    # Running sums: one draw is in memory at a time.
    total, squares, count = first.astype(np.float64), np.square(first, dtype=np.float64), 1
    for output in draws:
        total += output
        squares += np.square(output, dtype=np.float64)
        count += 1
    # Rounding may leave a negative variance where all draws are equal.
    variance = np.maximum(squares / count - np.square(total / count), 0)
    level = np.iinfo(first.dtype).max / 255
    spread = np.rint(np.sqrt(variance).mean(axis=2) / level * 256)
    return np.rint(total / count).astype(first.dtype), np.minimum(spread, 65535).astype(np.uint16)


def translate_file(
    model: LoadedModel, data: bytes, name: str, settings: TranslateSettings
) -> TranslatedImage:
    """Return the files of one restored image; CorpusError with its ``name`` if unreadable."""
    check_settings(settings, model)
    with _unreadable("image", name):
        return translate_bytes(model, data, settings)


def translate_video_file(
    model: LoadedModel,
    source: Path,
    out: Path,
    settings: TranslateSettings,
    progress: ProgressByPart,
) -> VideoInfo:
    """Restore one video into another; CorpusError with its name if unreadable."""
    check_settings(settings, model)
    with _unreadable("video", str(source)), open_video(source.resolve()) as file:
        return _translate_video(model, file, out, settings, progress)


@contextmanager
def _unreadable(what: str, name: str) -> Iterator[None]:
    try:
        yield
    except Rejected as rejected:
        why = f"{rejected.reason} {rejected.detail}".strip()
        raise CorpusError(what, name, why, "give another") from None


def _translate_video(
    model: LoadedModel,
    file: BufferedReader,
    out: Path,
    settings: TranslateSettings,
    progress: ProgressByPart,
) -> VideoInfo:
    def restore_frame(frame: Pixels) -> Pixels:
        return translate_pixels(model, frame, settings)[0]

    def show(done: int, total: int) -> None:
        progress(done, total, f"restoring {printable(out.name)}")

    out.parent.mkdir(parents=True, exist_ok=True)
    limit, kind = settings.max_pixels, settings.video_format
    return restore_video(file, out, kind, restore_frame, limit, show)


# --------------------------------------------------------------------------------------- a folder
def translate(
    model: LoadedModel,
    source: Path,
    out: Path,
    progress: ProgressByPart = lambda done, total, part="", /: None,
    settings: TranslateSettings | None = None,
) -> Translated:
    """Restore a file, or the files of a folder or a pattern, into the same folders below ``out``.

    A file that cannot be read is a row in ``out/rejected.jsonl``. Equal inputs give equal bytes;
    results of an earlier call with the same model and settings are kept. Raises UsageError if the
    source holds no images or ``out`` holds the sources, Img2ImgError if ``out`` cannot be written,
    FolderInUseError if another process works in it.
    """
    settings = settings or TranslateSettings()
    check_settings(settings, model)
    root, paths = list_images(source, out)
    if any(map(is_video, paths)):
        # Now, and not after hours of images.
        load_extra("av", "video", "video")
    rows = []
    # The other settings change no pixel, or only the name of a result.
    recorded = settings.model_dump(mode="json", exclude={"batch", "max_pixels", "video_format"})
    with ResumeLog.open(out, model, recorded) as log:
        job = _FolderJob(model, settings, root, UniqueKeys(paths), log, progress, Translated(out))
        for number, path in enumerate(paths, 1):
            try:
                job.video(path) if is_video(path) else job.image(path)
                job.done.restored += 1
            except Rejected as rejected:
                job.done.rejected[rejected.reason] += 1
                row = {"source": printable(path), "source_hex": path.hex()}
                row |= {"reason": rejected.reason, "detail": printable(rejected.detail)}
                rows.append(row)
            progress(number, len(paths))
        job.done.notes += notes_on_tiles(settings, model, job.done.longest_side)
        log.sort()
        write_atomically(out / REJECTED_FILE, map(to_json_line, rows))
    return job.done


@dataclass(frozen=True, slots=True)
class _FolderJob:
    model: LoadedModel
    settings: TranslateSettings
    root: bytes
    keys: UniqueKeys
    log: ResumeLog
    progress: ProgressByPart
    done: Translated

    def image(self, path: bytes) -> None:
        """Restore an image unless its result is in the folder; Rejected if it cannot be read."""
        data = io.read_bytes(os.path.join(self.root, path))
        name, digest = f"{self.keys[path]}.{self.settings.format}", sha256(data).hexdigest()
        if self.log.has(path, name, digest):
            self.done.reused += 1
            return
        if self.settings.draws > 1 and self.keys[path].endswith(".spread"):
            raise Rejected("name-collision", "another image's spread has this name")
        result = translate_bytes(self.model, data, self.settings)
        # A name may be as long as names can be, so the temporary one is not derived from it.
        temporary = self.done.out / ".image.tmp"
        if result.spread:
            spread = self.done.out / f"{self.keys[path]}.spread.png"
            write_atomically(spread, result.spread, temporary)
        write_atomically(self.done.out / name, result.image, temporary)
        self.done.longest_side = max(self.done.longest_side, result.longest_side)
        self.log.add(path, name, digest)

    def video(self, path: bytes) -> None:
        """Restore a video unless its result is in the folder; Rejected if it cannot be read."""
        name, done = f"{self.keys[path]}.{self.settings.video_format}", self.done
        with open_video(os.path.join(self.root, path)) as file:
            digest = file_digest(file, "sha256").hexdigest()
            if self.log.has(path, name, digest):
                done.reused += 1
            else:
                out = done.out / name
                info = _translate_video(self.model, file, out, self.settings, self.progress)
                self.log.add(path, name, digest, frames=info.frames)
                done.frames += info.frames
                done.longest_side = max(done.longest_side, info.width, info.height)
                done.notes += [f"'{printable(path)}': {note}" for note in info.notes]
        done.videos += 1
