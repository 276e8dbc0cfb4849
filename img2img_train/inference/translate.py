"""Apply a model to images of any size, depth and channels, and to videos.

An image keeps its transparency, 16 bits per sample and ICC profile; the output has the channels of
the model's target. EXIF orientation is applied, other metadata is not copied. Each frame of a video
is restored on its own; an interrupted video starts again from its first frame.

::

    OUT/FOLDERS/KEY.png     folders as in the source; KEY.mp4 for a video
    OUT/translated.jsonl    one row per result; a rerun with the same model skips these
    OUT/rejected.jsonl      one row per file that cannot be read
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from img2img_data.core.command_line import ProgressByPart
from img2img_data.core.errors import CorpusError, Rejected, UsageError, load_extra, printable
from img2img_data.core.files import check_unused, locked, write_atomically
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import REJECTED_FILE, UniqueKeys, to_json_line
from img2img_data.degradations.blur import GaussianBlur
from img2img_data.images import io
from img2img_data.images.pixels import Pixels, to_8_bit, to_uint8_rgb
from img2img_train.data.color import is_gray
from img2img_train.data.deconvolution import Steps
from img2img_train.inference.inputs import check_readable, list_images
from img2img_train.inference.settings import TranslateSettings
from img2img_train.inference.tiles import Tiling, choose_tiling, restore
from img2img_train.inference.video import VideoInfo, is_video, open_video, restore_video
from img2img_train.runs.model import LoadedModel

LOG_FILE: Final = "translated.jsonl"


@dataclass(slots=True)
class Translated:
    """Results of a call of ``translate``.

    ``restored`` files have a result, ``reused`` of them from an earlier call; ``videos`` of them
    are videos, of which ``frames`` were restored now. ``rejected`` holds the names of the other
    files by reason; ``notes`` are lines for the user.
    """

    out: Path
    restored: int = 0
    reused: int = 0
    videos: int = 0
    frames: int = 0
    rejected: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class TranslatedImage(NamedTuple):
    """File of a restored image, notes for the user, and the frames of its source."""

    image: bytes
    notes: list[str]
    source_frames: int = 1


def notes_on_frames(sources: Mapping[str, int]) -> list[str]:
    """Return a note for the user about images, by name, of which only the first frame was used."""
    many = [f"'{name}' (the first of {n:,} frames)" for name, n in sources.items() if n > 1]
    rest = f" and {len(many) - 3:,} more" if len(many) > 3 else ""
    return [f"only one frame or page was used of {', '.join(many[:3])}{rest}"] if many else []


def blur_of(model: LoadedModel, settings: TranslateSettings) -> Steps:
    """Return the blur that settings name; UsageError if the model needs it, or takes none."""
    sigma, needs = settings.sigma, model.config.input == "wiener"
    if needs and sigma is None:
        hint = "give the standard deviation of the images' Gaussian blur, pixels (0: no blur)"
        raise UsageError("option", "--sigma", "is missing, but the model needs it", hint)
    if sigma is not None and not needs:
        raise UsageError("option", "--sigma", "needs a model of --input wiener", "leave it out")
    return [(GaussianBlur(), {"sigma": sigma})] if sigma else []


# -------------------------------------------------------------------------------------- one file
def translate_bytes(
    model: LoadedModel, data: bytes, settings: TranslateSettings
) -> TranslatedImage:
    """Return the file of a restored image from the file of an image; Rejected if it cannot be
    read.
    """
    image = decode_image(data, settings)
    tiling, notes = choose_tiling(settings, model, *image.pixels.shape[:2])
    output = translate_pixels(model, image.pixels, tiling, blur_of(model, settings))
    if settings.format != "png":
        output = _on_white(to_8_bit(output) if output.dtype == np.uint16 else output)
    profile = io.icc_profile(data, 1 if output.shape[2:] in {(), (2,)} else 3)
    file = io.encode(np.ascontiguousarray(output), settings.format, settings.quality, profile)
    return TranslatedImage(file, notes, image.frames)


def decode_image(data: bytes, settings: TranslateSettings) -> io.DecodedImage:
    """Return an image with its own depth and channels; Rejected if it cannot be read."""
    pixels = settings.max_pixels
    policy = io.ReadPolicy(depth="keep", channels="keep", max_pixels=pixels, max_aspect=1e9)
    return io.decode(data, policy)


def translate_pixels(
    model: LoadedModel, pixels: Pixels, tiling: Tiling, blur: Steps = ()
) -> Pixels:
    """Return a restored image, one that ``blur`` has degraded (``blur_of``).

    ``pixels``: H x W, H x W x 3 or H x W x 4 with alpha, uint8 or uint16; the result has the same
    size and dtype. Alpha is kept. The channels are those of the model's target: a gray image gives
    a gray one only if gray inputs had gray targets in training. A gray result is H x W, or H x W x
    2 with alpha.
    """
    alpha = pixels.shape[2:] == (4,)
    gray = pixels.ndim == 2 or (alpha and is_gray(pixels[..., :3]))
    color = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels[..., :3]
    output = restore(model.forward, model.prepared(color, blur), tiling, model.device)
    if model.spec.outputs == 1 or (gray and model.keeps_gray):
        output = np.asarray(np.rint(output.mean(axis=2)), pixels.dtype)
    return np.dstack([output, pixels[..., 3]]) if alpha else output


def _on_white(pixels: Pixels) -> Pixels:
    """Return an 8-bit image without its alpha channel, composed on white."""
    if pixels.shape[2:] == (2,):
        return to_uint8_rgb(pixels[..., [0, 0, 0, 1]])[..., 0]
    return to_uint8_rgb(pixels) if pixels.shape[2:] == (4,) else pixels


def translate_file(
    model: LoadedModel, data: bytes, name: str, settings: TranslateSettings
) -> TranslatedImage:
    """Return the file of one restored image; CorpusError with its ``name`` if unreadable."""
    with unreadable("image", name):
        check_readable(os.fsencode(name))
        return translate_bytes(model, data, settings)


@contextmanager
def unreadable(what: str, name: str) -> Iterator[None]:
    """Raise CorpusError with the name of a file that is rejected."""
    try:
        yield
    except Rejected as rejected:
        raise CorpusError(what, name, str(rejected), "use another file") from None


def translate_video(
    model: LoadedModel,
    file: BufferedReader,
    out: Path,
    settings: TranslateSettings,
    progress: ProgressByPart,
) -> VideoInfo:
    """Restore an open video into the file ``out``; raises as ``restore_video``."""

    def show(done: int, total: int) -> None:
        progress(done, total, f"writing {printable(out.name)}")

    out.parent.mkdir(parents=True, exist_ok=True)
    # Chosen once: free memory changes, and so would the contrast of frames.
    choose, blur = lru_cache(partial(choose_tiling, settings, model)), blur_of(model, settings)

    def restore_frame(pixels: Pixels) -> Pixels:
        return translate_pixels(model, pixels, choose(*pixels.shape[:2])[0], blur)

    info = restore_video(file, out, settings, restore_frame, show)
    return info._replace(notes=(*info.notes, *choose(info.height, info.width)[1]))


# --------------------------------------------------------------------------------------- a folder
def translate(
    model: LoadedModel,
    source: Path,
    out: Path,
    progress: ProgressByPart = lambda done, total, part="", /: None,
    settings: TranslateSettings | None = None,
) -> Translated:
    """Restore a file, or the files of a folder or a pattern, into the same folders below ``out``.

    A file that cannot be read is a row in ``out/rejected.jsonl``. Equal inputs give equal bytes,
    unless memory decides whether an image is cut into tiles (``choose_tiling``); results of an
    earlier call with the same model and settings are kept. Raises UsageError if the
    source holds no images or ``out`` holds other files than results, Img2ImgError if ``out``
    cannot be written, FolderInUseError if another process works in it.
    """
    settings = settings or TranslateSettings()
    blur_of(model, settings)  # before anything is written
    root, paths = list_images(source, out)
    if any(map(is_video, paths)):
        # Now, not after hours of work.
        load_extra("av", "video", "video")
    rows = []
    with locked(out, "output", "wait for it, or choose another folder"):
        log = _ResumeLog(out, model, settings)
        job = _FolderJob(model, settings, root, UniqueKeys(paths), log, progress, Translated(out))
        for number, path in enumerate(paths, 1):
            try:
                job.video(path) if is_video(path) else job.image(path)
                job.done.restored += 1
            except Rejected as rejected:
                name = printable(path)
                job.done.rejected.setdefault(rejected.reason, []).append(name)
                row = {"source": name, "source_hex": path.hex()}
                row |= {"reason": rejected.reason, "detail": printable(rejected.detail)}
                rows.append(row)
            progress(number, len(paths))
        job.done.notes += [*log.notes, *notes_on_frames(log.source_frames(paths))]
        if others := len(log.rows.keys() - {path.hex() for path in paths}):
            images = f"{others:,} other image{'s' * (others != 1)}"
            job.done.notes.append(f"'{printable(out)}' also holds earlier results of {images}")
        log.write()
        write_atomically(out / REJECTED_FILE, map(to_json_line, rows))
    return job.done


class _ResumeLog:
    """Results in a folder: rows by source, behind a first row that names the model and settings.

    The runner's journal does not fit here: it counts the rows of a fixed plan, while these results
    stay valid if sources come, go or change, so each row holds the hashes of its source and of its
    result.
    """

    def __init__(self, out: Path, model: LoadedModel, settings: TranslateSettings) -> None:
        # The other settings change no pixel, or only the name of a result. (A batch of two changes
        # the order of sums, and so a sample here and there by one level.)
        config, others = model.config, {"max_pixels", "video_format"}
        policy = {"dropout": config.test_dropout, "norm": config.test_norm}
        self.head = {"model": model.digest, "direction": config.direction, **policy}
        self.head |= settings.model_dump(mode="json", exclude=others)
        self.path, rows = out / LOG_FILE, list[dict[str, Any]]()
        if not self.path.exists():
            check_unused(out, what="output")
        # The last line of an interrupted run may be incomplete: it and all behind it are done
        # again.
        with suppress(FileNotFoundError, CorpusError):
            rows.extend(iter_rows(self.path))
        self.notes, valid = list[str](), rows[1:]
        if valid and rows[0] != self.head:
            which = f"'{printable(out)}' held results of another model or other settings"
            self.notes = [f"{which}: files of the same names are replaced, the others stay"]
            valid = []
        self.rows = {str(row.get("source_hex")): row for row in valid}
        # Without the rows of another model or other settings, before a new one is appended.
        self.write()

    def has(self, source: bytes, name: str, digest: str) -> bool:
        """Return True if the result of a source with this SHA-256 is in the folder, undamaged."""
        row, result = self.rows.get(source.hex(), {}), self.path.parent / name
        if (row.get("file_name"), row.get("source_sha256")) != (name, digest):
            return False
        return result.is_file() and _sha256(result) == row.get("sha256")

    def add(self, source: bytes, name: str, digest: str, **more: Any) -> None:
        """Append a result; the row is with the system when the function returns."""
        row = {"source": printable(source), "source_hex": source.hex(), "source_sha256": digest}
        row |= {"file_name": name, "sha256": _sha256(self.path.parent / name), **more}
        self.rows[source.hex()] = row
        with self.path.open("ab") as file:
            file.write(to_json_line(row))

    def source_frames(self, sources: Iterable[bytes]) -> dict[str, int]:
        """Return the number of frames of each restored image with several, by printable name."""
        rows = (self.rows.get(source.hex(), {}) for source in sources)
        return {row["source"]: row["source_frames"] for row in rows if "source_frames" in row}

    def write(self) -> None:
        """Rewrite the log in the order of the sources, so that equal work leaves equal bytes."""
        rows = [self.head, *(self.rows[name] for name in sorted(self.rows))]
        write_atomically(self.path, map(to_json_line, rows))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _FolderJob:
    model: LoadedModel
    settings: TranslateSettings
    root: bytes
    keys: UniqueKeys
    log: _ResumeLog
    progress: ProgressByPart
    done: Translated

    def image(self, path: bytes) -> None:
        """Restore an image unless its result is in the folder; Rejected if it cannot be read."""
        check_readable(path)
        data, done = io.read_bytes(os.path.join(self.root, path)), self.done
        name, digest = f"{self.keys[path]}.{self.settings.format}", sha256(data).hexdigest()
        if self.log.has(path, name, digest):
            done.reused += 1
            return
        result = translate_bytes(self.model, data, self.settings)
        # A name may be as long as names can be, so the temporary one is not derived from it.
        write_atomically(done.out / name, result.image, done.out / ".image.tmp")
        done.notes += [f"'{printable(path)}': {note}" for note in result.notes]
        frames = {"source_frames": result.source_frames} if result.source_frames > 1 else {}
        self.log.add(path, name, digest, **frames)

    def video(self, path: bytes) -> None:
        """Restore a video unless its result is in the folder; Rejected if it cannot be read."""
        name, done = f"{self.keys[path]}.{self.settings.video_format}", self.done
        with open_video(os.path.join(self.root, path)) as file:
            digest = file_digest(file, "sha256").hexdigest()
            if self.log.has(path, name, digest):
                done.reused += 1
            else:
                out = done.out / name
                info = translate_video(self.model, file, out, self.settings, self.progress)
                self.log.add(path, name, digest, frames=info.frames)
                done.frames += info.frames
                done.notes += [f"'{printable(path)}': {note}" for note in info.notes]
        done.videos += 1
