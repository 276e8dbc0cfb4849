"""Videos: decoded, restored frame by frame and encoded with PyAV (FFmpeg).

Frames are 8-bit RGB, upright, and keep their times. Sound is copied if the new container can hold
its codec. Lost are subtitles, samples beyond 8 bits, transparency and non-square pixels; a side of
odd length grows by one pixel, because most codecs need even ones.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import numpy as np

from img2img_data.core.command_line import Progress
from img2img_data.core.errors import Rejected, UsageError, load_extra
from img2img_data.images import io
from img2img_data.images.pixels import Pixels
from img2img_train.inference.settings import TranslateSettings

FrameFunction: TypeAlias = Callable[[Pixels], Pixels]
"""Maps a frame, H x W x 3 uint8 RGB, to H x W or H x W x 3 uint8."""

SUFFIXES: Final = frozenset({b"mp4", b"m4v", b"mov", b"avi", b"mkv", b"webm"})
"""File name extensions of the videos in a folder; the content decides whether a file is one."""
BOXES: Final = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
"""First boxes of MP4 and MOV files (ISO/IEC 14496-12, 4.2; QuickTime File Format)."""
MAX_RATE: Final = Fraction(1000)
# Bicubic, full chroma, accurate rounding, bit-exact (swscale.h): gray stays gray, on every
# processor alike.
SCALING: Final = 0x4 | 0x2000 | 0x40000 | 0x80000
# Fixed, because the bytes that libx264 and libvpx write depend on the number of threads.
ENCODER_THREADS: Final = 4


class VideoFormat(NamedTuple):
    """A format that is written: FFmpeg's names of muxer, encoder and pixel format, encoder options.

    ``sounds``: codecs that are copied. FFmpeg's own list for a muxer names some that fail later.
    """

    muxer: str
    codec: str
    pixel_format: str
    options: dict[str, str]
    sounds: tuple[str, ...]


VP9_OPTIONS: Final = {"crf": "24", "b": "0", "cpu-used": "4"}
AVI_SOUNDS: Final = ("mp3", "mp2", "ac3", "pcm_s16le", "pcm_s24le")
MP4_SOUNDS: Final = ("aac", "mp3", "mp2", "ac3", "eac3", "alac", "flac", "opus")
MKV_SOUNDS: Final = (*MP4_SOUNDS, "pcm_s16le", "pcm_s24le", "vorbis", "dts")
VIDEO_FORMATS: Final[dict[str, VideoFormat]] = {
    "mp4": VideoFormat("mp4", "libx264", "yuv420p", {"crf": "18"}, MP4_SOUNDS),
    "webm": VideoFormat("webm", "libvpx-vp9", "yuv420p", VP9_OPTIONS, ("opus", "vorbis")),
    "mkv": VideoFormat("matroska", "ffv1", "bgr0", {"level": "3"}, MKV_SOUNDS),
    "avi": VideoFormat("avi", "mjpeg", "yuvj420p", {"qmin": "2", "qmax": "2"}, AVI_SOUNDS),
}


class VideoInfo(NamedTuple):
    """A restored video: number of frames, size of an upright frame in pixels, notes for the
    user.
    """

    frames: int
    width: int
    height: int
    notes: tuple[str, ...] = ()


def is_video(name: bytes) -> bool:
    """Return True if a file name ends as the names of videos do."""
    return b"." in name and name.rpartition(b".")[2].lower() in SUFFIXES


def open_video(path: bytes | Path) -> BufferedReader:
    """Open a file that may be a video; Rejected if it is missing, a link, a pipe or unreadable."""
    # PyAV hands the name of a file object to FFmpeg: this one says nothing.
    return open("video", "rb", opener=lambda *_: io.open_regular(path))


def restore_video(
    file: BufferedReader,
    out: Path,
    settings: TranslateSettings,
    restore: FrameFunction,
    progress: Progress = lambda done, total: None,
) -> VideoInfo:
    """Restore an open video into the file ``out``, one frame in memory at a time.

    Raises Rejected (empty, not-an-image, truncated, corrupt, too-many-pixels, unsupported-format),
    UsageError if PyAV or its encoder for the format is missing, and OSError if the disk is full. A
    video that fails leaves no file.
    """
    av, format = load_extra("av", "video", "video"), settings.video_format
    with _opened(av, file, settings.max_pixels) as source:
        # The encoder needs the size of an upright frame before the first sound is written.
        frames = (frame for _, frames in _decoded(av, source) for frame in frames)
        first = next(map(_upright, frames), None)
    if first is None:
        raise Rejected("corrupt", "no frame can be decoded")
    # A digest: two results never share a temporary name, and it is never too long.
    temporary = out.with_name(f".{sha256(os.fsencode(out.name)).hexdigest()[:16]}.tmp.{format}")
    try:
        with _opened(av, file, settings.max_pixels) as source:
            info = _transcode(av, source, temporary, format, first.shape, restore, progress)
        temporary.replace(out)
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(out)) from None
        # Such as times that the new container cannot express.
        raise Rejected("corrupt", str(error.strerror)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return info


def _transcode(
    av: Any, source: Any, out: Path, format: str, shape: tuple[int, ...],
    restore: FrameFunction, progress: Progress,
) -> VideoInfo:  # fmt: skip
    video, sounds, kind = source.streams.best("video"), source.streams.audio, VIDEO_FORMATS[format]
    count, time = 0, -1
    # Bit-exact muxers write neither versions nor random identifiers: a rerun gives the same bytes.
    options = {"fflags": "+bitexact"}
    # An absolute path, because FFmpeg takes a name such as "a:b" for a protocol.
    with av.open(str(out.absolute()), "w", format=kind.muxer, options=options) as target:
        encoder = _add_encoder(av, target, format, video, shape)
        tick = encoder.codec_context.time_base
        copies = {
            sound.index: target.add_stream_from_template(sound)
            for sound in sounds
            if sound.codec_context and sound.codec_context.codec.canonical_name in kind.sounds
        }
        for packet, frames in _decoded(av, source):
            for frame in frames:
                pixels = _upright(frame)
                if pixels.shape != shape:
                    size = f"{frame.width} x {frame.height}"
                    raise Rejected("corrupt", f"one frame of {size} pixels differs from the others")
                stated = None if frame.pts is None else round(frame.pts * video.time_base / tick)
                # Encoders need increasing times; damaged files have equal, decreasing or no times.
                count, time = count + 1, max(time + 1, stated or 0)
                target.mux(encoder.encode(_to_frame(av, restore(pixels), format, time, tick)))
                progress(count, max(count, video.frames))
            if packet.stream.index in copies and packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
        target.mux(encoder.encode(None))
    notes = []
    if len(copies) < len(sounds):
        notes.append(f"the sound was left out: {format} cannot hold its codec")
    if count < video.frames:
        notes.append(f"the header states {video.frames:,} frames, but the file has {count:,}")
    return VideoInfo(count, shape[1], shape[0], tuple(notes))


def _add_encoder(av: Any, target: Any, format: str, video: Any, shape: tuple[int, ...]) -> Any:
    kind = VIDEO_FORMATS[format]
    rate = min(video.guessed_rate or video.average_rate or Fraction(25), MAX_RATE)
    try:
        encoder = target.add_stream(kind.codec, rate=rate, options=kind.options)
    except (av.FFmpegError, ValueError):
        others = " or ".join(name for name in VIDEO_FORMATS if name != format)
        why = f"PyAV has no encoder {kind.codec} here"
        raise UsageError("option", "--video-format", why, f"choose {others}") from None
    encoder.height, encoder.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    encoder.pix_fmt = kind.pixel_format
    # AVI stores a rate and no times.
    encoder.codec_context.time_base = 1 / rate if format == "avi" else video.time_base
    encoder.codec_context.thread_count = ENCODER_THREADS
    encoder.codec_context.flags |= av.codec.context.Flags.bitexact
    return encoder


def _upright(frame: Any) -> Pixels:
    """Return a decoded frame as H x W x 3 uint8 RGB, rotated as its display matrix asks for."""
    pixels: Pixels = frame.reformat(format="rgb24", interpolation=SCALING).to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _to_frame(av: Any, pixels: Pixels, format: str, time: int, tick: Fraction) -> Any:
    color = np.dstack([pixels] * 3) if pixels.ndim == 2 else pixels
    to_even = ((0, color.shape[0] % 2), (0, color.shape[1] % 2), (0, 0))
    frame = av.VideoFrame.from_ndarray(np.pad(color, to_even, mode="edge"), format="rgb24")
    frame = frame.reformat(format=VIDEO_FORMATS[format].pixel_format, interpolation=SCALING)
    frame.pts, frame.time_base = time, tick
    return frame


def _decoded(av: Any, source: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the packets of video and sound, each with the frames that it completes."""
    video = source.streams.best("video")
    try:
        for packet in source.demux(video, *source.streams.audio):
            yield packet, packet.decode() if packet.stream.index == video.index else []
    except av.FFmpegError as error:
        raise Rejected("corrupt", str(error.strerror)) from None


@contextlib.contextmanager
def _opened(av: Any, file: BufferedReader, max_pixels: int) -> Iterator[Any]:
    """Open a video for decoding, from its beginning.

    FFmpeg also reads playlists, scripts and network addresses. It gets the one demuxer that
    belongs to the first bytes, an open file, and no protocol to open another.
    """
    size = os.fstat(file.fileno()).st_size
    demuxer = _demuxer_of(file, size)
    file.seek(0)
    options = {"protocol_whitelist": "none", "format_whitelist": "mov,matroska,avi"}
    try:
        source = av.open(file, format=demuxer, options=options, io_open=_open_nothing)
    except av.FFmpegError as error:
        raise Rejected("corrupt", str(error.strerror)) from None
    with source:
        video = source.streams.best("video")
        if video is None or video.codec_context is None:
            raise Rejected("unsupported-format", "it has no video stream of a known codec")
        width, height = video.codec_context.width, video.codec_context.height
        if width * height > max_pixels:
            raise Rejected("too-many-pixels", f"{width} x {height}")
        # A stream can grow after its header: the decoder itself must reject larger frames.
        video.codec_context.options = {"max_pixels": str(max_pixels)}
        if any(entry.pos + entry.size > size for entry in video.index_entries):
            raise Rejected("truncated", "its index names frames beyond the end of the file")
        yield source


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video may not open other files")


def _demuxer_of(file: BufferedReader, size: int) -> str:
    """Return FFmpeg's name of the container, from the first bytes of the file.

    FFmpeg finds a truncated MP4 by its index, but reads Matroska and AVI up to any end: here the
    length in their header is compared with the length of the file.
    """
    file.seek(0)
    head, needed, demuxer = file.read(4096), 0, "mov"
    if not head:
        raise Rejected("empty")
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        needed, demuxer = 8 + int.from_bytes(head[4:8], "little"), "avi"
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        needed, demuxer = _end_of_element(head, _end_of_element(head, 0)), "matroska"
    elif head[4:8] not in BOXES:
        raise Rejected("not-an-image", "neither MP4, MOV, Matroska, WebM nor AVI")
    if needed > size:
        raise Rejected("truncated", f"{size} of {needed} bytes")
    return demuxer


def _end_of_element(head: bytes, start: int) -> int:
    """Return the end of an EBML element with a 4-byte ID (RFC 8794, 4 to 6), 0 if its size is
    unknown.
    """
    data = head[start + 4 : start + 12]
    if not data or not data[0]:
        raise Rejected("corrupt", "no segment after its header")
    length = 9 - data[0].bit_length()
    unknown = (1 << 7 * length) - 1
    size = int.from_bytes(data[:length]) & unknown
    return 0 if size == unknown else start + 4 + length + size
