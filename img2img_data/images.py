"""The only place that reads, decodes, converts and encodes pictures.

One policy for every picture and for both halves of a pair. Content decides, never the name. A picture that is
cut, damaged or lying is refused, never half read. It comes out upright, opaque, RGB, 8 bit: 16-bit samples
divided by 257 and rounded, float ones clipped to 0..1, palettes and grey expanded, transparency composed on
white, CMYK converted by the plain formula, the first frame taken of several. Embedded ICC profiles are
*ignored*: the stored numbers are taken as sRGB and the picture is noted ("profile"). Orientation comes from
EXIF or the TIFF tag, not from XMP. Metadata never passes on to an output. No path ever reaches OpenCV: it
decodes from memory, to memory.
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
from typing import Any, Final, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from img2img_data.errors import Refused
from img2img_data.headers import Header, header, jpeg_bare
from img2img_data.png import encode_png

Pixels = NDArray[Any]
"""H x W x 3 RGB, uint8 (0..255) or uint16 (0..65535), C-contiguous."""

NOTES: Final[dict[str, str]] = {
    "alpha": "had transparency: composed on white",
    "cmyk": "was CMYK or YCCK: converted without a profile",
    "depth": "was 16 bit or float: scaled",
    "first-frame": "had more frames or pages: the first was taken",
    "grey": "was single-channel: expanded",
    "orientation": "was turned or mirrored upright",
    "palette": "had a palette: expanded",
    "profile": "had an embedded ICC profile: ignored",
    "repaired": "had junk or a bad profile in its header: skipped",
}
"""Every conversion a picture may be noted with. The words are part of the corpus format."""

MAX_BYTES: Final = 256 << 20
_STDERR: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """What is read and what is refused.

    ``alpha``: compose transparency on white, or refuse pictures that have any. ``depth``: 8 bit always, or
    "keep" 16 bit where stored so. ``max_pixels`` counts width x height, ``max_side`` is in pixels,
    ``max_aspect`` the longer side over the shorter, ``max_bytes`` the size of the file.
    """

    alpha: Literal["white", "refuse"] = "white"
    depth: Literal[8, "keep"] = 8
    max_pixels: int = 100_000_000
    max_side: int = 65_500
    max_aspect: float = 500.0
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded picture.

    ``pixels``: H x W x 3 RGB uint8 (uint16 only under ``depth="keep"``), upright, C-contiguous. ``verbatim``:
    the file's own bytes are exactly this picture and nothing else (RGB, 8 bit, upright, opaque; no profile,
    EXIF, XMP, comment or trailer; JPEG, PNG or WebP), so they may be published unchanged. ``format``: jpeg,
    png, webp, gif, bmp or tiff. ``notes``: sorted words of ``NOTES``.
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


def read_bytes(path: bytes | str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes; links and pipes are refused unread.

    Raises ``Refused``: link, vanished, unreadable, not-a-regular-file, empty, file-too-big, name.
    """
    try:
        if not hasattr(os, "O_NOFOLLOW") and Path(os.fsdecode(path)).is_symlink():
            raise Refused("link")
        handle = os.open(path, OPEN_FLAGS)
    except ValueError as error:
        raise Refused("name", str(error)) from None
    except OSError as error:
        raise Refused(
            OPEN_ERRORS.get(error.errno or 0, "unreadable"), os.strerror(error.errno or 0)
        ) from None
    try:
        return _read_open(handle, limit)
    except OSError as error:
        raise Refused("unreadable", os.strerror(error.errno or 0)) from None
    finally:
        os.close(handle)


def _read_open(handle: int, limit: int) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not-a-regular-file")
    if status.st_size > limit:
        raise Refused("file-too-big", f"{status.st_size} bytes, limit {limit}")
    data = os.read(handle, status.st_size)
    while len(data) < status.st_size and (more := os.read(handle, status.st_size - len(data))):
        data += more
    if not data:
        raise Refused("empty")
    return data


# ---- decoding
def read(path: bytes | str | Path, policy: ReadPolicy | None = None) -> Picture:
    """Read and decode one file. Raises ``Refused`` as ``read_bytes`` and ``decode`` do."""
    policy = policy or ReadPolicy()
    return decode(read_bytes(path, policy.max_bytes), policy)


def decode(data: bytes, policy: ReadPolicy | None = None) -> Picture:
    """Decode the bytes of one picture file strictly.

    Raises ``Refused``: empty, not-an-image, truncated, corrupt, unsupported-format, unsupported-depth,
    non-finite, too-many-pixels, too-small (narrower than the aspect limit), alpha, animated.
    """
    policy = policy or ReadPolicy()
    found = header(data)
    _check_size(found, policy)
    if len(data) < found.needs:
        raise Refused("truncated", f"{len(data)} of {found.needs} bytes")
    if found.format == "jpeg":
        pixels = _decode_jpeg(data, found)
    else:
        raw = _decode_gif(data, found) if found.format == "gif" else _decode_opencv(found, data)
        pixels = _to_rgb(raw, found, policy)
    if found.orientation != 1:
        pixels = _upright(pixels, found.orientation)
        found.notes.add("orientation")
    return Picture(pixels, found.plain and not found.notes, found.format, tuple(sorted(found.notes)))


def _check_size(found: Header, policy: ReadPolicy) -> None:
    """Refuse before anything is allocated."""
    width, height = found.width, found.height
    if not (width and height):
        raise Refused("corrupt", f"{width} x {height} pixels")
    if width * height > policy.max_pixels or max(width, height) > policy.max_side:
        raise Refused("too-many-pixels", f"{width} x {height}")
    if max(width, height) > policy.max_aspect * min(width, height):
        raise Refused("too-small", f"{width} x {height}: longer than {policy.max_aspect:g} : 1")


def _decode_jpeg(data: bytes, found: Header) -> Pixels:
    """Decode with every warning an error; only junk between header segments and bad profiles are cut out."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError as error:
        if "extraneous bytes before marker" not in str(error) and "ICC" not in str(error):
            raise _jpeg_refusal(error, data) from None
        try:
            pixels = simplejpeg.decode_jpeg(jpeg_bare(data), "RGB", strict=True)
        except ValueError as again:
            raise _jpeg_refusal(again, data) from None
        found.notes.add("repaired")
    return pixels


def _jpeg_refusal(error: ValueError, data: bytes) -> Refused:
    text = str(error)
    if "remature end" in text or b"\xff\xd9" not in data:
        return Refused("truncated", text)
    return Refused("unsupported-format" if text.startswith("Unsupported") else "corrupt", text)


def _decode_opencv(found: Header, data: bytes) -> Pixels:
    """Decode PNG, WebP, BMP or TIFF as stored (BGR order, no orientation applied)."""
    _quiet()
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if found.expand else cv2.IMREAD_UNCHANGED
    try:
        with _silent_stderr():
            raw = cv2.imdecode(np.frombuffer(found.data or data, np.uint8), flags)
    except cv2.error as error:
        raise Refused("corrupt", str(error.err)[:200]) from None
    if raw is None and "first-frame" in found.notes and not hasattr(cv2, "imreadanimation"):
        raise Refused("animated", "OpenCV before 4.11 reads no animated WebP")
    if raw is None or raw.shape[:2] != (found.height, found.width):
        raise Refused("corrupt", "the decoder gave up")
    return raw


def _decode_gif(data: bytes, found: Header) -> Pixels:
    """Decode the first frame to BGRA. By Pillow: OpenCV reads GIF only since 4.11, and then not every one."""
    from PIL import Image

    try:
        with (
            warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning),
            Image.open(io.BytesIO(data), formats=["GIF"]) as picture,
        ):
            if picture.size != (found.width, found.height):
                raise Refused("corrupt", "a frame larger than the screen")
            if getattr(picture, "is_animated", False):
                found.notes.add("first-frame")
            picture.seek(0)
            found.alpha = "straight" if "transparency" in picture.info or picture.mode == "RGBA" else "none"
            return cv2.cvtColor(np.asarray(picture.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    except Refused:
        raise
    except Exception as error:
        raise Refused("truncated" if "truncated" in str(error) else "corrupt", str(error)[:200]) from None


@functools.cache
def _quiet() -> None:
    """Stop OpenCV's own log lines: what is wrong with a picture is said in its row."""
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Send descriptor 2 to nowhere: libpng and libtiff in OpenCV write warnings there, past any log level."""
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


# ---- to 8-bit (or 16-bit) RGB
def _to_rgb(raw: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Bring decoded samples (grey, BGR, BGRA; uint8, uint16, float32) to opaque RGB of the wanted depth."""
    if raw.dtype == np.float32:
        raw = _from_float(raw)
    if raw.dtype not in (np.uint8, np.uint16):
        raise Refused("unsupported-depth", str(raw.dtype))
    channels = raw.shape[2] if raw.ndim == 3 else 1
    if channels == 4 and found.alpha != "none":
        pixels = _opaque(raw, found, policy)
    elif channels == 1:
        pixels = cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
        if found.clear is not None:
            pixels = _clear_grey(pixels, raw.reshape(raw.shape[:2]) == found.clear, found, policy)
    else:
        pixels = cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB if channels == 4 else cv2.COLOR_BGR2RGB)
    if raw.dtype == np.uint16 and policy.depth == 8:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
        found.notes.add("depth")
    return pixels


def _from_float(raw: Pixels) -> Pixels:
    """Scale 0..1 to 0..65535, clipped; NaN and infinity are refused."""
    if not np.isfinite(raw).all():
        raise Refused("non-finite")
    return np.rint(np.clip(raw, 0, 1) * np.float32(65535)).astype(np.uint16)


def _opaque(raw: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Compose BGRA on white, rounded once, in slabs of rows to bound the memory."""
    white = int(np.iinfo(raw.dtype).max)
    found.notes.add("alpha")
    if int(raw[..., 3].min()) == white:
        return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB)
    if policy.alpha == "refuse":
        raise Refused("alpha")
    pixels = np.empty((*raw.shape[:2], 3), raw.dtype)
    for top in range(0, raw.shape[0], 256):
        part = raw[top : top + 256].astype(np.uint32)
        colour, alpha = part[..., 2::-1], part[..., 3:]
        if found.alpha == "premultiplied":
            pixels[top : top + 256] = np.minimum(colour + (white - alpha), white)
        else:
            pixels[top : top + 256] = (colour * alpha + white * (white - alpha) + white // 2) // white
    return pixels


def _clear_grey(pixels: Pixels, clear: NDArray[np.bool_], found: Header, policy: ReadPolicy) -> Pixels:
    """Turn the grey level declared transparent white (OpenCV drops it)."""
    if clear.any():
        if policy.alpha == "refuse":
            raise Refused("alpha")
        pixels[clear] = np.iinfo(pixels.dtype).max
    found.notes.add("alpha")
    return pixels


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation 2..8."""
    if orientation in (2, 3, 4):
        return cv2.flip(pixels, {2: 1, 3: -1, 4: 0}[orientation])
    turned = cv2.transpose(pixels)
    return turned if orientation == 5 else cv2.flip(turned, {6: 1, 7: -1, 8: 0}[orientation])


# ---- encoding
def encode(pixels: Pixels, format: Literal["png", "jpg", "webp"], quality: int = 95) -> bytes:
    """Return a file holding ``pixels``: H x W grey or H x W x 3 RGB uint8; PNG also uint16 and H x W x 4.

    PNG is lossless and ignores ``quality`` (1..100). JPEG keeps full chroma resolution (4:4:4). WebP is
    lossless at 100. Raises ``ValueError`` where the format cannot hold the array.
    """
    if format == "png":
        return encode_png(pixels)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{format} holds 8 bits a sample, not {pixels.dtype}")
    grey = pixels.ndim == 2
    if format == "jpg":
        pixels = np.ascontiguousarray(pixels[..., None] if grey else pixels)
        colours: tuple[str, str] = ("GRAY", "Gray") if grey else ("RGB", "444")
        return bytes(simplejpeg.encode_jpeg(pixels, quality, *colours))
    ordered = pixels if grey else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(
        ".webp", ordered, [cv2.IMWRITE_WEBP_QUALITY, quality if quality < 100 else 101]
    )
    if not done:
        raise ValueError(f"no WebP of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return encoded.tobytes()


# ---- framing
Fit = Literal["crop", "pad", "stretch", "error"]


def fit(pixels: Pixels, size: tuple[int, int], how: Fit) -> Pixels:
    """Bring a picture to ``size`` (width, height).

    ``crop`` scales it to cover the frame and cuts the centre; ``pad`` scales it to fit inside and reflects
    its border (no invented colour, edge pixels not repeated); ``stretch`` ignores the aspect; ``error``
    raises ``Refused("size")``. Area averaging downwards, bicubic upwards. The same array comes back if it
    fits already.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    if how == "error":
        raise Refused("size", f"{width} x {height}, not {size[0]} x {size[1]}")
    if how == "stretch":
        return _resize(pixels, size)
    scales = size[0] / width, size[1] / height
    scale = max(scales) if how == "crop" else min(scales)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    return _frame(_resize(pixels, inner), size)


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    shrinks = size[0] <= width and size[1] <= height
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _frame(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Cut or reflect around the centre."""
    height, width = pixels.shape[:2]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    if left < 0 or top < 0:
        left, top = max(0, -left), max(0, -top)
        return np.ascontiguousarray(pixels[top : top + size[1], left : left + size[0]])
    edges = (top, size[1] - height - top, left, size[0] - width - left)
    # Reflection without the edge pixel needs two pixels to reflect.
    border = cv2.BORDER_REFLECT_101 if min(height, width) > 1 else cv2.BORDER_REPLICATE
    return cv2.copyMakeBorder(pixels, *edges, border)


# ---- colour
LAB_SHIFT, LAB_SCALE = np.array([0, 128, 128], np.float32), np.array([655.35, 257, 257], np.float32)
RANGE_CENTRE, RANGE_SCALE = np.array([127.5, 128, 128], np.float32), np.array([127.5, 110, 110], np.float32)


def rgb_to_lab8(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB to 8-bit CIE L*a*b* (D65) by OpenCV's convention: L x 255 / 100, a + 128, b + 128."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab), np.uint8)


def lab8_to_rgb(lab: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert OpenCV's 8-bit Lab back to H x W x 3 RGB uint8; colours outside sRGB are clipped."""
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), np.uint8)


def rgb_to_lab16(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Convert RGB to 16-bit Lab, L x 65535 / 100, (a + 128) x 257, (b + 128) x 257: back within one level."""
    lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    return np.asarray(np.rint((lab + LAB_SHIFT) * LAB_SCALE), np.uint16)


def lab16_to_rgb(lab: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Undo ``rgb_to_lab16``; colours outside sRGB are clipped."""
    pixels = cv2.cvtColor(lab / LAB_SCALE - LAB_SHIFT, cv2.COLOR_Lab2RGB)
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), np.uint8)


def lab8_to_range(lab: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale 8-bit Lab, H x W x 3, to the networks' range: L / 50 - 1 in [-1, 1], a / 110, b / 110."""
    return (lab - RANGE_CENTRE) / RANGE_SCALE


def range_to_lab8(scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Undo ``lab8_to_range``, rounded and clipped to 0..255."""
    return np.asarray(np.rint(np.clip(scaled * RANGE_SCALE + RANGE_CENTRE, 0, 255)), np.uint8)


def luminance(pixels: Pixels) -> Pixels:
    """Return the H x W luma of RGB pixels (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B), in their dtype."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
