"""Videos as frames, frames as videos: OpenCV's FFmpeg behind a narrow door.

FFmpeg is a large parser that also reads playlists, scripts and addresses, so a file must begin as MP4, MOV,
Matroska, WebM or AVI do and be as long as it says; then it is handed over as an open stream, never by name,
with the one demuxer allowed and every protocol forbidden. Frames are 8-bit RGB, upright.

What is lost in a video that is written: sound, subtitles, all else that is no image; samples beyond 8 bits;
transparency; changing frame rates (the mean one is kept), pixels that are not square. A side of odd length
gets one more pixel, for the codecs know even ones alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from img2img_data.core.errors import Rejected, UsageError
from img2img_data.images import io
from img2img_data.images.pixels import Pixels

SUFFIXES: Final = frozenset({b"mp4", b"m4v", b"mov", b"avi", b"mkv", b"webm"})
"""What a file's name ends in to be taken for a video in a folder; its content decides whether it is one."""

MOST_BOXES: Final = 1 << 20
FASTEST: Final = 1000.0
"""Frames a second that a video may have."""
_OPTIONS: Final = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


class VideoFormat(NamedTuple):
    """A kind of video that is written: names of codecs, the first that OpenCV has is taken.

    ``lossless``: each pixel stays. The others store colors at half the resolution.
    """

    codecs: tuple[str, ...]
    lossless: bool = False


class VideoInfo(NamedTuple):
    """What reading a video once has told: frames that are there and that its header states (0: nothing),
    frames a second, width and height of an upright frame.
    """

    frames: int
    stated: int
    rate: float
    width: int
    height: int


def is_video(name: bytes) -> bool:
    """Tell whether a name ends as those of videos do."""
    return b"." in name and name.rpartition(b".")[2].lower() in SUFFIXES


# ------------------------------------------------------------------------------------------ containers
def demuxer_of(file: BufferedReader) -> str:
    """Return FFmpeg's name for the container of an open file, from its bytes alone.

    Raises Rejected: empty, not-an-image, truncated (the file is shorter than its parts say), corrupt.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise Rejected("empty")
    start = _at(file, 0, 12)
    for demuxer, (belongs, check) in CONTAINERS.items():
        if belongs(start):
            check(file, size)
            return demuxer
    raise Rejected("not-an-image", "neither MP4, MOV, Matroska, WebM nor AVI")


def _at(file: BufferedReader, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _check_length(needed: int, size: int) -> None:
    if needed > size:
        raise Rejected("truncated", f"{size} of {needed} bytes")


def _check_boxes(file: BufferedReader, size: int) -> None:
    """Walk the boxes of an MP4 or MOV (ISO/IEC 14496-12, 4.2): all whole, the table of frames among them."""
    place, kinds = 0, set[bytes]()
    for _ in range(MOST_BOXES):
        head = _at(file, place, 16)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1 and len(head) == 16:
            length = int.from_bytes(head[8:])
        elif length == 0:
            length = size - place
        if length < 8:
            raise Rejected("corrupt", f"a box of {length} bytes")
        kinds.add(kind)
        place += length
        _check_length(place, size)
    if b"moov" not in kinds:
        raise Rejected("truncated", "the table of its frames is missing")


def _check_segment(file: BufferedReader, size: int) -> None:
    """Check that a Matroska or WebM holds its segment whole (RFC 8794, 9559); live ones do not say."""
    place = 4 + _number(_at(file, 4, 8))[1]
    place += _number(_at(file, 4, 8))[0] or 0
    head = _at(file, place, 12)
    if head[:4] != b"\x18\x53\x80\x67":
        raise Rejected("truncated" if len(head) < 4 else "corrupt", "no segment after the header")
    length, digits = _number(head[4:])
    if length is not None:
        _check_length(place + 4 + digits + length, size)


def _number(data: bytes) -> tuple[int | None, int]:
    """Return a variable-size integer of EBML, None for "unknown", and how many bytes it takes."""
    digits = 9 - data[0].bit_length() if data and data[0] else 9
    if len(data) < digits:
        raise Rejected("truncated", "the file ends in its header")
    value = int.from_bytes(data[:digits]) & (1 << 7 * digits) - 1
    return (None if value == (1 << 7 * digits) - 1 else value), digits


def _check_riff(file: BufferedReader, size: int) -> None:
    """Check that every RIFF part of an AVI is whole; 0 is what an unfinished recording says."""
    place = 0
    while len(head := _at(file, place, 8)) == 8 and head[:4] == b"RIFF" and any(head[4:]):
        place += 8 + int.from_bytes(head[4:], "little")
        _check_length(place, size)
        place += place % 2


CONTAINERS: Final[
    dict[str, tuple[Callable[[bytes], bool], Callable[[BufferedReader, int], None]]]
] = {
    "mov": (
        lambda start: start[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"},
        _check_boxes,
    ),
    "matroska": (lambda start: start[:4] == b"\x1a\x45\xdf\xa3", _check_segment),
    "avi": (lambda start: start[:4] == b"RIFF" and start[8:11] == b"AVI", _check_riff),
}
"""FFmpeg's demuxer, how its files begin, and what checks that one is whole."""


# --------------------------------------------------------------------------------------------- reading
@dataclass(frozen=True, slots=True)
class Video:
    """A video that is open for reading, its container checked."""

    file: BufferedReader
    demuxer: str

    def digest(self) -> str:
        """Return the SHA-256 of the file."""
        self.file.seek(0)
        return file_digest(self.file, "sha256").hexdigest()

    def survey(
        self, max_pixels: int, follow: Callable[[int, int], None] = lambda done, total: None
    ) -> VideoInfo:
        """Read all frames once, keeping none: headers lie about their number and rate.

        ``follow`` is told how many were read of how many the header states. Raises Rejected: corrupt (no
        frames, no rate), too-many-pixels, unsupported-format.
        """
        with self._capture() as capture:
            width, height = (
                round(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            )
            if width * height > max_pixels:
                raise Rejected("too-many-pixels", f"{width} x {height}")
            stated = max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            said, times, count = capture.get(cv2.CAP_PROP_FPS), [0.0, 0.0], 0
            while _quietly(capture.grab):
                times[min(count, 1)] = capture.get(cv2.CAP_PROP_POS_MSEC)
                count += 1
                follow(count, max(count, stated))
        if not (count and width and height):
            raise Rejected("corrupt", "no frame of it can be read")
        return VideoInfo(
            count, stated, _rate(said, count, (times[1] - times[0]) / 1000), width, height
        )

    def frames(self) -> Iterator[Pixels]:
        """Yield the frames, H x W x 3 RGB uint8, upright; Rejected where their size changes."""
        size = None
        with self._capture() as capture:
            while True:
                there, bgr = _quietly(capture.read)
                if not there:
                    return
                size = size or bgr.shape
                if bgr.shape != size:
                    raise Rejected(
                        "corrupt", f"a frame of {bgr.shape[1]} x {bgr.shape[0]} among others"
                    )
                yield cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

    @contextlib.contextmanager
    def _capture(self) -> Iterator[Any]:
        """Open the stream from its beginning: this container and nothing that it may name."""
        self.file.seek(0)
        opened: Any = cv2.VideoCapture
        with _setting(_OPTIONS, f"format_whitelist;{self.demuxer}|protocol_whitelist;none"):
            try:
                capture = _quietly(opened, self.file, cv2.CAP_FFMPEG, [])
            except (TypeError, cv2.error):
                raise Rejected(
                    "unsupported-format", "needs OpenCV 4.12 or newer, with FFmpeg"
                ) from None
        try:
            if not capture.isOpened():
                raise Rejected("unsupported-format", "no codec that is known here, or damaged")
            capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
            yield capture
        finally:
            _quietly(capture.release)


def _rate(said: float, frames: int, seconds: float) -> float:
    """Return the frames a second: as stated, unless the times of the frames tell otherwise."""
    shown = (frames - 1) / seconds if frames > 1 and seconds > 0 else said
    rate = said if abs(said - shown) <= 0.01 * shown else shown
    if not 0 < rate <= FASTEST:
        raise Rejected("corrupt", f"{rate:g} frames a second")
    return rate


@contextlib.contextmanager
def open_video(path: bytes | Path) -> Iterator[Video]:
    """Open a video. Raises Rejected as ``io.open_regular`` and ``demuxer_of`` do."""
    with os.fdopen(io.open_regular(path), "rb") as file:
        yield Video(file, demuxer_of(file))


# --------------------------------------------------------------------------------------------- writing
@contextlib.contextmanager
def write_video(path: Path, format: str, survey: VideoInfo) -> Iterator[Callable[[Pixels], None]]:
    """Give a function that takes the frames of a new video (H x W or H x W x 3, uint8), one by one.

    The file is there when the block ends without an exception, by rename. UsageError where OpenCV has no
    codec for ``format``, OSError where the file did not get whole.
    """
    # Of the result's name, so that two at work never share one, but no part of it: OpenCV may choke on that.
    name = f".{sha256(os.fsencode(path.name)).hexdigest()[:16]}.tmp.{format}"
    temporary, count = path.parent / name, 0
    size = (survey.width + survey.width % 2, survey.height + survey.height % 2)
    try:
        with _named(path.parent) as folder:
            writer = _writer(f"{folder}/{name}", format, survey.rate, size)

            def write(frame: Pixels) -> None:
                nonlocal count
                count += 1
                _quietly(writer.write, _as_stored(frame, size, VIDEO_FORMATS[format].lossless))

            try:
                yield write
            finally:
                _quietly(writer.release)
        _check_written(temporary, path, count)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _writer(name: str, format: str, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    for codec in VIDEO_FORMATS[format].codecs:
        writer: cv2.VideoWriter = _quietly(
            cv2.VideoWriter, name, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, size
        )
        if writer.isOpened():
            return writer
    others = " or ".join(f for f in VIDEO_FORMATS if f != format)
    why = f"OpenCV here cannot write {size[0]} x {size[1]} pixels at {rate:g} frames a second as {format}"
    raise UsageError("option", "--video-format", why, f"choose {others}")


def _as_stored(frame: Pixels, size: tuple[int, int], lossless: bool) -> Pixels:
    """Return a frame as the writer wants it: BGR, even sides.

    OpenCV cuts what is behind the point when it makes luma and chroma of a frame, so that all grays become
    darker and green; half a step in each of the three is one level of red and of blue.
    """
    color = np.dstack([frame] * 3) if frame.ndim == 2 else frame
    more = ((0, size[1] - frame.shape[0]), (0, size[0] - frame.shape[1]), (0, 0))
    bgr = np.ascontiguousarray(np.pad(color, more, mode="edge")[..., ::-1])
    if not lossless:
        bgr[..., ::2] += bgr[..., ::2] < 255
    return bgr


def _check_written(temporary: Path, path: Path, frames: int) -> None:
    """Raise OSError where the file is not what was written: OpenCV says nothing of a full disk."""
    try:
        with open_video(temporary) as video, video._capture() as capture:
            stated = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    except Rejected:
        stated = 0
    if not frames or abs(stated - frames) > 1 + frames // 100:
        raise OSError(
            errno.ENOSPC, "the video could not be written whole, the disk may be full", str(path)
        )


VIDEO_FORMATS: Final[dict[str, VideoFormat]] = {
    "mp4": VideoFormat(("avc1", "mp4v")),
    "webm": VideoFormat(("VP90", "VP80")),
    "mkv": VideoFormat(("FFV1",), lossless=True),
    "avi": VideoFormat(("MJPG",)),
}


# ---------------------------------------------------------------------------------------------- OpenCV
def _quietly(call: Callable[..., Any], *given: Any) -> Any:
    with io.silent_stderr():
        return call(*given)


@contextlib.contextmanager
def _setting(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment, the only way to these options, for as long as the block lasts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[str]:
    """Give a name of a folder that FFmpeg takes for nothing else: no colon, no byte that is not UTF-8."""
    if not Path("/proc/self/fd").is_dir():
        yield os.fspath(folder)
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
