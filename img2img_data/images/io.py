"""The only place that reads, decodes, converts and encodes images.

One policy for every image and for both halves of a pair. Content decides, never the name. A image that is
cut, damaged or lying is rejected, never half read. It comes out upright, opaque, RGB, 8 bit, unless a
``ReadPolicy`` asks for 16 bit, one channel or RGBA: 16-bit samples divided by 257 and rounded, float ones
clipped to 0..1, palettes and gray expanded, transparency composed on white, CMYK converted by the plain
formula, the first frame taken of several; whatever was changed is noted. Embedded ICC profiles are *ignored*:
the stored numbers are taken as sRGB and the image is noted ("profile"). Orientation comes from EXIF or the
TIFF tag, else from XMP. Metadata never passes on to an output. No path ever reaches OpenCV: it decodes from
memory, to memory. This module is the door to ``samples`` and ``framing`` too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
import simplejpeg

from img2img_data.core.errors import Rejected
from img2img_data.images.headers import Header, header, jpeg_bare
from img2img_data.images.icc import icc_profile, with_profile
from img2img_data.images.pixels import (
    COUNT,
    Channels,
    Pixels,
    ReadPolicy,
    as_wanted,
    cielab,
    filled,
    from_decoder,
    from_raster,
    lab8_to_range,
    lab8_to_rgb,
    lab16_to_rgb,
    lab16_to_rgb16,
    lab_to_rgb,
    luminance,
    outside_srgb,
    range_to_lab8,
    rgb_to_lab,
    rgb_to_lab8,
    rgb_to_lab16,
    to_8_bit,
    to_16_bit,
    to_uint8_rgb,
)
from img2img_data.images.png import encode_png
from img2img_data.images.resize import Fit, fit, upright

__all__ = [
    "COUNT",
    "NOTES",
    "Channels",
    "Fit",
    "DecodedImage",
    "Pixels",
    "ReadPolicy",
    "Rejected",
    "cielab",
    "decode",
    "encode",
    "fit",
    "icc_profile",
    "lab16_to_rgb",
    "lab16_to_rgb16",
    "lab8_to_range",
    "lab8_to_rgb",
    "lab_to_rgb",
    "luminance",
    "open_regular",
    "outside_srgb",
    "range_to_lab8",
    "read",
    "read_bytes",
    "rgb_to_lab",
    "rgb_to_lab16",
    "rgb_to_lab8",
    "silent_stderr",
    "to_16_bit",
    "to_8_bit",
    "to_uint8_rgb",
]

NOTES: Final[dict[str, str]] = {
    "alpha": "had transparency: composed on white",
    "clipped": "had float samples outside 0..1: clipped",
    "cmyk": "was CMYK or YCCK: converted without a profile",
    "depth": "was 16 bit or float: scaled",
    "equal": "had three equal channels: one was taken",
    "first-frame": "had more frames or pages: the first was taken",
    "float": "was float: scaled to 16 bit",
    "gray": "was single-channel: expanded",
    "luma": "was color: its luma was taken",
    "opaque": "had no transparency: an opaque alpha was added",
    "orientation": "was turned or mirrored upright",
    "palette": "had a palette: expanded",
    "profile": "had an embedded ICC profile: ignored",
    "repaired": "had junk or a bad profile in its header: skipped",
    "unmultiplied": "had color multiplied by alpha: divided again",
    "widened": "was 8 bit: multiplied by 257",
}
"""Every conversion a image may be noted with. The words are part of the corpus format."""

MAX_BYTES: Final = 256 << 20
_STDERR: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One decoded image.

    ``pixels``: upright, C-contiguous; H x W x 3 RGB uint8, or what the policy asked for (uint16; H x W gray,
    H x W x 4 RGBA). ``verbatim``: the file's own bytes are exactly this image and nothing else (upright; no
    profile, EXIF, XMP, comment or trailer; JPEG, PNG or WebP), so they may be published unchanged.
    ``format``: jpeg, png, webp, gif, bmp, tiff or pnm. ``notes``: sorted words of ``NOTES``.
    """

    pixels: Pixels
    verbatim: bool
    format: str
    notes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


# ---- bytes
OPEN_FLAGS: Final = functools.reduce(
    int.__or__,
    (getattr(os, f"O_{name}", 0) for name in ("NONBLOCK", "NOFOLLOW", "CLOEXEC", "BINARY")),
    os.O_RDONLY,
)
OPEN_ERRORS: Final[dict[int, str]] = {
    errno.ELOOP: "link",
    errno.EMLINK: "link",
    errno.ENOENT: "vanished",
    errno.ENOTDIR: "vanished",
    errno.ESTALE: "vanished",
    errno.ENXIO: "not-a-regular-file",
    errno.ENODEV: "not-a-regular-file",
    errno.EISDIR: "not-a-regular-file",
    errno.ENAMETOOLONG: "name",
}


def open_regular(path: bytes | str | Path) -> int:
    """Return a descriptor for reading a regular file, of any size; links and pipes are rejected unopened.

    Raises ``Rejected``: link, vanished, unreadable, not-a-regular-file, name.
    """
    try:
        if not hasattr(os, "O_NOFOLLOW") and Path(os.fsdecode(path)).is_symlink():
            raise Rejected("link")
        handle = os.open(path, OPEN_FLAGS)
    except ValueError as error:
        raise Rejected("name", str(error)) from None
    except OSError as error:
        raise Rejected(
            OPEN_ERRORS.get(error.errno or 0, "unreadable"), os.strerror(error.errno or 0)
        ) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Rejected("not-a-regular-file")
    return handle


def read_bytes(path: bytes | str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; links and pipes are rejected unread.

    Raises ``Rejected`` as ``open_regular`` does, and: empty, file-too-big.
    """
    handle = open_regular(path)
    try:
        return _read_open(handle, limit)
    except OSError as error:
        raise Rejected("unreadable", os.strerror(error.errno or 0)) from None
    finally:
        os.close(handle)


def _read_open(handle: int, limit: int) -> bytes:
    status = os.fstat(handle)
    if status.st_size > limit:
        raise Rejected("file-too-big", f"{status.st_size} bytes, limit {limit}")
    data = os.read(handle, status.st_size)
    while len(data) < status.st_size and (more := os.read(handle, status.st_size - len(data))):
        data += more
    if not data:
        raise Rejected("empty")
    return data


# ---- decoding
def read(path: bytes | str | Path, policy: ReadPolicy | None = None) -> DecodedImage:
    """Read and decode one file. Raises ``Rejected`` as ``read_bytes`` and ``decode`` do."""
    policy = policy or ReadPolicy()
    return decode(read_bytes(path, policy.max_bytes), policy)


def decode(data: bytes, policy: ReadPolicy | None = None) -> DecodedImage:
    """Decode the bytes of one image file strictly.

    Raises ``Rejected``: empty, not-an-image, truncated, corrupt, unsupported-format, unsupported-depth,
    non-finite, too-many-pixels, too-small (narrower than the aspect limit), alpha, animated.
    """
    policy = policy or ReadPolicy()
    found = header(data)
    _check_size(found, policy)
    if len(data) < found.needs:
        raise Rejected("truncated", f"{len(data)} of {found.needs} bytes")
    if found.format == "jpeg":
        pixels = _decode_jpeg(data, found)
    else:
        pixels = from_decoder(_decode(data, found), found, policy)
    pixels = as_wanted(pixels, found, policy)
    if found.orientation != 1:
        pixels = upright(pixels, found.orientation)
        found.notes.add("orientation")
    return DecodedImage(
        pixels, found.plain and not found.notes, found.format, tuple(sorted(found.notes))
    )


def size_of(path: bytes | str | Path) -> tuple[int, int]:
    """Return height and width of a file's image, upright, by its header alone. Raises ``Rejected``."""
    found = header(read_bytes(path))
    _check_size(found, ReadPolicy())
    turned = found.orientation > 4
    return (found.width, found.height) if turned else (found.height, found.width)


def _check_size(found: Header, policy: ReadPolicy) -> None:
    """Reject before anything is allocated."""
    width, height = found.width, found.height
    if not (width and height):
        raise Rejected("corrupt", f"{width} x {height} pixels")
    if width * height > policy.max_pixels or max(width, height) > policy.max_side:
        raise Rejected("too-many-pixels", f"{width} x {height}")
    if max(width, height) > policy.max_aspect * min(width, height):
        raise Rejected("too-small", f"{width} x {height}: longer than {policy.max_aspect:g} : 1")


def _decode(data: bytes, found: Header) -> Pixels:
    if found.format == "gif":
        return _decode_gif(data, found)
    return from_raster(data, found) if found.format == "pnm" else _decode_opencv(found, data)


def _decode_jpeg(data: bytes, found: Header) -> Pixels:
    """Decode with every warning an error; only junk between header segments and bad profiles are cut out."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        if "extraneous bytes before marker" not in str(error) and "ICC" not in str(error):
            raise _jpeg_rejection(error, data) from None
        try:
            pixels = simplejpeg.decode_jpeg(jpeg_bare(data), "RGB", strict=True)
        except ValueError as again:
            raise _jpeg_rejection(again, data) from None
        found.notes.add("repaired")
    return pixels


def _jpeg_rejection(error: ValueError, data: bytes) -> Rejected:
    text = str(error).removeprefix("tjDecompressHeader3(): ")
    if "remature end" in text or b"\xff\xd9" not in data:
        return Rejected("truncated", text)
    return Rejected("unsupported-format" if text.startswith("Unsupported") else "corrupt", text)


def _decode_opencv(found: Header, data: bytes) -> Pixels:
    """Decode PNG, WebP, BMP or TIFF as stored (BGR order, no orientation applied)."""
    flags = (
        cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if found.expand else cv2.IMREAD_UNCHANGED
    )
    try:
        with silent_stderr():
            raw = cv2.imdecode(np.frombuffer(found.data or data, np.uint8), flags)
    except cv2.error as error:
        raise Rejected("corrupt", str(error.err)[:200]) from None
    if raw is None and "first-frame" in found.notes and not hasattr(cv2, "imreadanimation"):
        raise Rejected("animated", "OpenCV before 4.11 reads no animated WebP")
    if raw is None or raw.shape[:2] != (found.height, found.width):
        raise Rejected("corrupt", "the decoder gave up: its data or checksums are damaged")
    return filled(raw, found.cut) if found.cut else raw


def _decode_gif(data: bytes, found: Header) -> Pixels:
    """Decode the first frame to BGRA. By Pillow: OpenCV reads GIF only since 4.11, and then not every one."""
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=["GIF"]) as image,
        ):
            if image.size != (found.width, found.height):
                raise Rejected("corrupt", "a frame larger than the screen")
            if getattr(image, "is_animated", False):
                found.notes.add("first-frame")
            image.seek(0)
            found.alpha = (
                "straight" if "transparency" in image.info or image.mode == "RGBA" else "none"
            )
            return cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    except Rejected:
        raise
    except Image.DecompressionBombError:
        raise Rejected("too-many-pixels", "a frame larger than the screen") from None
    except Exception as error:
        raise Rejected(
            "truncated" if "truncated" in str(error) else "corrupt", str(error)[:200]
        ) from None


@functools.cache
def _quiet() -> None:
    """Stop OpenCV's own log lines: what is wrong with a image is said in its row."""
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send descriptor 2 to nowhere: libpng and libtiff in OpenCV write warnings there, past any log level."""
    _quiet()
    with _STDERR:
        try:
            saved = os.dup(2)
        except OSError:
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


# ---- encoding
def encode(
    pixels: Pixels, format: Literal["png", "jpg", "webp"], quality: int = 95, profile: bytes = b""
) -> bytes:
    """Return a file holding ``pixels``: H x W gray or H x W x 3 RGB uint8; PNG also uint16 and RGBA.

    PNG is lossless and ignores ``quality`` (1..100). JPEG keeps full chroma resolution (4:4:4). WebP is
    lossless at 100. ``profile``: an ICC profile to embed; WebP files go without. Raises ``ValueError`` where
    the format cannot hold the array.
    """
    if format == "png":
        return encode_png(pixels, profile)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{format} holds 8 bits a sample, not {pixels.dtype}")
    gray = pixels.ndim == 2
    if format == "jpg":
        pixels = np.ascontiguousarray(pixels[..., None] if gray else pixels)
        colors: tuple[str, str] = ("GRAY", "Gray") if gray else ("RGB", "444")
        return with_profile(bytes(simplejpeg.encode_jpeg(pixels, quality, *colors)), profile)
    ordered = pixels if gray else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(
        ".webp", ordered, [cv2.IMWRITE_WEBP_QUALITY, quality if quality < 100 else 101]
    )
    if not done:
        raise ValueError(f"no WebP of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return encoded.tobytes()
