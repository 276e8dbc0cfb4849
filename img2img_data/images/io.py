"""Reading, resizing and writing images: the only module that opens image files.

One policy for every image and for both halves of a pair. The content decides, never the name. An
image that is cut or damaged is rejected, never read in part. It comes out upright, opaque, RGB,
8 bit, unless a ``ReadPolicy`` asks for 16 bit, one channel or RGBA: 16-bit samples divided by 257
and rounded, float ones clipped to 0..1, palettes and gray expanded, transparency composited on
white, CMYK converted by the plain formula, the first of several frames taken; every change is
noted. Embedded ICC profiles are *ignored*: the stored numbers are taken as sRGB and the image is
noted ("profile"). Orientation comes from EXIF or the TIFF tag, else from XMP. Metadata never passes
on to an output.

Notes, which are part of the corpus format:

===============  ===========================================================
``alpha``        had transparency: composited on white
``clipped``      had float samples outside 0..1: clipped
``cmyk``         was CMYK or YCCK: converted without a profile
``depth``        was 16 bit or float: scaled to 8 bit
``equal``        had three equal channels: one was taken
``first-frame``  had more frames or pages: the first was taken; ``source_frames`` counts them
``float``        was float: scaled to 16 bit
``gray``         was single-channel: expanded
``luma``         was color: its luma was taken
``opaque``       had no transparency: an opaque alpha was added
``orientation``  was turned or mirrored upright
``palette``      had a palette: expanded
``profile``      had an embedded ICC profile: ignored
``repaired``     had junk or a bad profile in its header: skipped
``unmultiplied`` had color multiplied by alpha: divided again
``widened``      was 8 bit: multiplied by 257
===============  ===========================================================
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import deflate
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from img2img_data.core.errors import Rejected
from img2img_data.core.files import MAX_BYTES, open_regular, read_bytes
from img2img_data.core.memory import lacks_memory
from img2img_data.images import pixels as arrays
from img2img_data.images.headers import Header, pillow_image, read_header, strip_jpeg
from img2img_data.images.pixels import MAX_PIXELS, Fit, Pixels, ReadPolicy

# The names by which other rooms use this one.
__all__ = ["MAX_BYTES", "DecodedImage", "Pixels", "ReadPolicy", "cut", "decode", "encode", "fit"]
__all__ += ["check_pixels", "check_size", "icc_profile", "note_columns", "open_regular"]
__all__ += ["read", "read_bytes", "size_of"]


DEFAULT_POLICY: Final = ReadPolicy()


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """One decoded image.

    ``pixels``: upright, C-contiguous; H x W x 3 RGB uint8, or what the policy asked for (uint16; H
    x W gray, H x W x 4 RGBA). ``verbatim``: the file's own bytes are exactly this image and nothing
    else (upright; no profile, EXIF, XMP, comment or trailer; JPEG, PNG or WebP), so they may be
    published unchanged. ``format``: as jpeg, png, webp, avif. ``notes``: sorted words
    of the table above. ``frames``: number of frames or pages in the file.
    """

    pixels: Pixels
    verbatim: bool
    format: str
    notes: tuple[str, ...]
    frames: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def note_columns(*images: DecodedImage) -> dict[str, Any]:
    """Return the columns of a row that say how its images were read."""
    frames = max(image.frames for image in images)
    columns: dict[str, Any] = {"source_frames": frames} if frames > 1 else {}
    return {"notes": sorted({note for image in images for note in image.notes}), **columns}


# --------------------------------------------------------------------------------------- decoding
def read(path: bytes | str | Path, policy: ReadPolicy = DEFAULT_POLICY) -> DecodedImage:
    """Read and decode one file. Raises ``Rejected`` as ``read_bytes`` and ``decode`` do."""
    return decode(read_bytes(path, policy.max_bytes), policy)


def decode(data: bytes, policy: ReadPolicy = DEFAULT_POLICY) -> DecodedImage:
    """Decode the bytes of one image file strictly.

    Raises ``Rejected``: empty, not-an-image, truncated, corrupt, unsupported-format,
    unsupported-depth, non-finite, too-many-pixels, too-small (narrower than the aspect limit),
    alpha, animated.
    """
    found = read_header(data)
    check_size(found.width, found.height, policy)
    if len(data) < found.min_bytes:
        raise Rejected("truncated", f"{len(data)} of {found.min_bytes} bytes")
    if found.format == "jpeg":
        pixels = _decode_jpeg(data, found)
    else:
        decoders = dict.fromkeys(("png", "webp", "bmp", "tiff"), _decode_opencv)
        decoders["pnm"] = arrays.from_raster
        decoder = decoders.get(found.format, _decode_pillow)
        decoder = arrays.from_bit_fields if found.masks else decoder
        pixels = arrays.from_decoder(decoder(data, found), found, policy)
    pixels = apply_policy(pixels, found, policy)
    verbatim = found.plain and not found.notes
    notes = tuple(sorted(found.notes))
    return DecodedImage(pixels, verbatim, found.format, notes, found.frames)


def size_of(path: bytes | str | Path) -> tuple[int, int]:
    """Return height and width of a file's image, upright, from its header. Raises ``Rejected``."""
    found = read_header(read_bytes(path))
    check_size(found.width, found.height)
    swapped = found.orientation > 4
    return (found.width, found.height) if swapped else (found.height, found.width)


def check_size(width: int, height: int, policy: ReadPolicy = DEFAULT_POLICY) -> None:
    """Raise ``Rejected`` if an image of this size is not supported."""
    if not (width and height):
        raise Rejected("corrupt", f"{width} x {height} pixels")
    check_pixels(width, height, limit=policy.max_pixels)
    if max(width, height) > policy.max_side:
        why = f"a side of more than {policy.max_side:,} pixels"
        raise Rejected("too-many-pixels", f"{width} x {height}, {why}")
    if max(width, height) > policy.max_aspect * min(width, height):
        raise Rejected("too-small", f"{width} x {height}, longer than {policy.max_aspect:g} : 1")


def check_pixels(width: int, height: int, what: str = "", limit: int = MAX_PIXELS) -> None:
    """Raise ``Rejected`` if an image has more pixels than the limit; ``what`` follows the size."""
    if width * height > limit:
        detail = f"{width} x {height}{what}, more than {limit:,} pixels"
        raise Rejected("too-many-pixels", detail)


def _decode_jpeg(data: bytes, found: Header) -> Pixels:
    """Decode strictly; only junk between header segments and bad profiles are cut out."""
    # simplejpeg and not OpenCV, whose decoder fills missing parts with gray and reports nothing.
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", strict=True))
    except ValueError as error:
        text = str(error).removeprefix("tjDecompressHeader3(): ")
    if "nsufficient memory" in text:
        raise Rejected("out-of-memory", text)
    repairable = "extraneous bytes before marker" in text or "ICC" in text
    if repairable and "repaired" not in found.notes:
        found.notes.add("repaired")
        return _decode_jpeg(strip_jpeg(data), found)
    if "remature end" in text or b"\xff\xd9" not in data:
        raise Rejected("truncated", text)
    # TurboJPEG gives up at odd chroma subsampling; other decoders would not tell a damaged image.
    is_valid = text.startswith("Unsupported") or "determine subsampling" in text
    raise Rejected("unsupported-format" if is_valid else "corrupt", text)


def _decode_opencv(data: bytes, found: Header) -> Pixels:
    """Decode PNG, WebP, BMP or TIFF as stored (BGR order, orientation not applied)."""
    as_color = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    flags = as_color if found.as_color else cv2.IMREAD_UNCHANGED
    try:
        with silent_stderr():
            raw = cv2.imdecode(np.frombuffer(found.data or data, np.uint8), flags)
    except cv2.error as error:
        reason = "out-of-memory" if lacks_memory(error) else "corrupt"
        raise Rejected(reason, str(error.err)[:200]) from None
    if raw is None or raw.shape[:2] != (found.height, found.width):
        raise Rejected("corrupt", "the data or checksums are damaged")
    return raw


def _decode_pillow(data: bytes, found: Header) -> Pixels:
    """Decode the first frame to BGRA, or to gray of 16 bits."""
    # GIF too: OpenCV does not read every one.
    size = found.width, found.height
    with pillow_image(data, found.format.upper()) as image:
        image.seek(0)
        transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")
        found.alpha = "straight" if transparent else "none"
        if image.size != size:
            raise ValueError("a frame larger than the logical screen")
        if image.mode == "I;16":
            return np.asarray(image)
        pixels = np.asarray(image.convert("RGBA"))
    if pixels.shape[1::-1] != size:
        raise Rejected("corrupt", f"{pixels.shape[1]} x {pixels.shape[0]} pixels, not {size}")
    return cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)


_STDERR: Final = threading.Lock()


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what the block writes to descriptor 2.

    libpng and libtiff inside OpenCV write warnings there, past any log level.
    """
    # The first name is that of OpenCV 4, the second that of OpenCV 5.
    set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_log_level(0)
    with _STDERR:  # the descriptor belongs to the process: one thread at a time
        try:
            saved = os.dup(2)
        except OSError:
            yield
            return
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        os.close(devnull)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


# ----------------------------------------------------------------------- channels, depth and size
def apply_policy(pixels: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Bring RGB or RGBA samples to the channels and the depth of the policy, and upright."""
    if policy.channels == "rgba" and pixels.shape[2] == 3:
        found.notes.add("opaque")
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
    elif policy.channels in ("gray", "keep") and pixels.shape[2] == 3:
        pixels = _to_gray(pixels, found, keep_color=policy.channels == "keep")
    if pixels.dtype == np.uint16 and policy.depth == 8:
        found.notes.discard("float")
        found.notes.add("depth")
        pixels = arrays.to_8_bit(pixels)
    elif pixels.dtype == np.uint8 and policy.depth == 16:
        found.notes.add("widened")
        pixels = arrays.to_16_bit(pixels)
    if found.orientation != 1:
        found.notes.add("orientation")
        pixels = _upright(pixels, found.orientation)
    return pixels


def _to_gray(pixels: Pixels, found: Header, keep_color: bool) -> Pixels:
    if "gray" in found.notes:
        found.notes.discard("gray")
        return cv2.extractChannel(pixels, 0)
    if keep_color:
        return pixels
    first = cv2.extractChannel(pixels, 0)
    if all(np.array_equal(first, pixels[..., i]) for i in (1, 2)):
        found.notes.add("equal")
        return first
    found.notes.add("luma")
    return arrays.luminance(pixels)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation 2..8."""
    if orientation in (2, 3, 4):
        return cv2.flip(pixels, {2: 1, 3: -1, 4: 0}[orientation])
    turned = cv2.transpose(pixels)
    return turned if orientation == 5 else cv2.flip(turned, {6: 1, 7: -1, 8: 0}[orientation])


def fit(pixels: Pixels, size: tuple[int, int], how: Fit) -> Pixels:
    """Bring an image to ``size`` (width, height); its samples keep their type and number.

    ``crop`` scales it to cover the frame and cuts the center; ``pad`` scales it to fit inside and
    reflects its border (no invented color, edge pixels not repeated); ``stretch`` ignores the
    aspect; ``error`` raises ``Rejected("size")``. Area averaging downwards, bicubic upwards.
    Returns the same array if it fits already. Raises ``Rejected("too-many-pixels")`` rather than
    scale a long image to a huge one before its center is cut.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    if how == "error":
        raise Rejected("size", f"{width} x {height}, not {size[0]} x {size[1]}")
    if how == "stretch":
        return _resize(pixels, size)
    scales = size[0] / width, size[1] / height
    scale = max(scales) if how == "crop" else min(scales)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    check_pixels(*inner, " before it is cropped (pad and stretch need less)")
    return _frame(_resize(pixels, inner), size)


def cut(pixels: Pixels, place: Sequence[int], size: tuple[int, int]) -> Pixels:
    """Return a copy of the tile of ``size`` (width, height) whose left and top are ``place``.

    Returns the same array if it is the whole image. Raises ``Rejected`` if the tile leaves it.
    """
    (height, width), (left, top) = pixels.shape[:2], place
    if (width, height) == size and not left + top:
        return pixels
    if left + size[0] > width or top + size[1] > height:
        raise Rejected("size", f"{width} x {height}, too small for the tile at {left}, {top}")
    return pixels[top : top + size[1], left : left + size[0]].copy()


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    shrinks = size[0] <= width and size[1] <= height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    if pixels.ndim == 2 or pixels.shape[2] < 4:
        return cv2.resize(pixels, size, interpolation=interpolation)
    # Color is scaled multiplied by alpha, so that invisible pixels do not bleed into visible ones.
    top = np.float32(np.iinfo(pixels.dtype).max)
    seen = pixels.astype(np.float32) / top
    seen[..., :3] *= seen[..., 3:]
    scaled = np.asarray(cv2.resize(seen, size, interpolation=interpolation), np.float32)
    alpha = scaled[..., 3:]
    color = np.divide(scaled[..., :3], alpha, out=np.zeros_like(scaled[..., :3]), where=alpha > 0)
    rgba = np.clip(np.dstack((color, alpha)), 0, 1) * top
    return np.asarray(np.rint(rgba), pixels.dtype)


def _frame(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Cut or reflect around the center."""
    height, width = pixels.shape[:2]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    if left < 0 or top < 0:
        left, top = max(0, -left), max(0, -top)
        return np.ascontiguousarray(pixels[top : top + size[1], left : left + size[0]])
    edges = (top, size[1] - height - top, left, size[0] - width - left)
    # Reflection without the edge pixel needs two pixels to reflect.
    border = cv2.BORDER_REFLECT_101 if min(height, width) > 1 else cv2.BORDER_REPLICATE
    return cv2.copyMakeBorder(pixels, *edges, border)


# --------------------------------------------------------------------------------------- encoding
def encode(
    pixels: Pixels, format: Literal["png", "jpg", "webp"], quality: int = 95, profile: bytes = b""
) -> bytes:
    """Return a file with ``pixels``: H x W gray or H x W x 3 RGB uint8; PNG also uint16, alpha.

    PNG is lossless and ignores ``quality`` (1..100). JPEG keeps full chroma resolution (4:4:4).
    WebP is lossless at 100. ``profile``: an ICC profile to embed; WebP files go without, JPEG files
    without one of more than 16 MB. Raises ``ValueError`` if the format cannot hold the array.
    """
    if format == "png":
        return _encode_png(pixels, profile)
    if pixels.dtype != np.uint8:
        raise ValueError(f"{format} holds 8 bits a sample, not {pixels.dtype}")
    gray = pixels.ndim == 2
    if format == "jpg":
        pixels = np.ascontiguousarray(pixels[..., None] if gray else pixels)
        colors: tuple[str, str] = ("GRAY", "Gray") if gray else ("RGB", "444")
        return _with_profile(bytes(simplejpeg.encode_jpeg(pixels, quality, *colors)), profile)
    ordered = pixels if gray else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_WEBP_QUALITY, quality if quality < 100 else 101]  # above 100: lossless
    done, encoded = cv2.imencode(".webp", ordered, options)
    if not done:
        raise ValueError(f"no WebP of {pixels.shape[1]} x {pixels.shape[0]} pixels")
    return encoded.tobytes()


# PNG: one row filter for the whole image by NumPy, compressed by libdeflate; ISA-L is 1.3 times
# faster, but did not always give equal bytes. Two to three times faster than OpenCV's default and a
# few percent smaller. The same pixels give the same bytes.
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
PNG_END: Final = b"\0\0\0\0IEND\xaeB\x60\x82"
PNG_COLOR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}
# "Average" would save 1 to 4 % more bytes, "Paeth" as much, for more time than the whole
# compression takes.
SUB, UP = 1, 2
PNG_LEVEL: Final = 1
PROBE_ROWS: Final = 16
# Longer matches are found in Up-filtered rows: Sub has to be clearly better before it gives fewer
# bytes.
SUB_HANDICAP: Final = 0.8


def _encode_png(pixels: Pixels, profile: bytes) -> bytes:
    """Return the PNG of H x W or H x W x C samples: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA."""
    height, width, *rest = pixels.shape
    channels = rest[0] if rest else 1
    allowed = pixels.dtype in (np.uint8, np.uint16) and channels in PNG_COLOR_TYPES
    if not allowed or len(rest) > 1 or not pixels.size:
        raise ValueError(f"no PNG of {pixels.dtype} samples of shape {pixels.shape}")
    step = channels * pixels.dtype.itemsize
    ordered = np.ascontiguousarray(pixels, None if step == channels else ">u2")
    samples = ordered.view(np.uint8).reshape(height, -1)
    layout = 8 * pixels.dtype.itemsize, PNG_COLOR_TYPES[channels], 0, 0, 0
    parts = [PNG_SIGNATURE, *_png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *layout))]
    if profile:
        packed = deflate.zlib_compress(profile, PNG_LEVEL)
        parts += _png_chunk(b"iCCP", b"ICC profile\0\0" + packed)
    parts += _png_chunk(b"IDAT", deflate.zlib_compress(_filter_rows(samples, step), PNG_LEVEL))
    return b"".join((*parts, PNG_END))


def _filter_rows(samples: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Return rows of filter type and differences; ``step``: bytes to the left neighbor."""
    rows = np.empty((samples.shape[0], samples.shape[1] + 1), np.uint8)
    if _sub_is_better(samples, step):
        rows[:, 0], rows[:, 1 : step + 1] = SUB, samples[:, :step]
        np.subtract(samples[:, step:], samples[:, :-step], out=rows[:, step + 1 :])
    else:
        rows[:, 0], rows[0, 1:] = UP, samples[0]
        np.subtract(samples[1:], samples[:-1], out=rows[1:, 1:])
    return rows


def _sub_is_better(samples: NDArray[np.uint8], step: int) -> bool:
    """Compare the sums of absolute differences of both filters on some rows."""
    height, width = samples.shape
    if height < 2 or width <= step:
        return bool(height < 2 <= width // step)
    stride = max(1, height // PROBE_ROWS)
    here, above = samples[1::stride], samples[:-1:stride]
    left = cv2.norm(here[:, step:], here[:, :-step], cv2.NORM_L1)
    return bool(left < SUB_HANDICAP * cv2.norm(here, above, cv2.NORM_L1))


def _png_chunk(name: bytes, body: bytes | bytearray) -> tuple[bytes | bytearray, ...]:
    crc = deflate.crc32(body, deflate.crc32(name))
    return len(body).to_bytes(4, "big"), name, body, crc.to_bytes(4, "big")


# ----------------------------------------------------------------------------------- ICC profiles
ICC_MARKER: Final = b"ICC_PROFILE\0"
ICC_SPACES: Final = {1: b"GRAY", 3: b"RGB "}
ICC_SEGMENT_BYTES: Final = 65_519
"""Bytes of a profile that one JPEG segment holds (ICC.1:2022, annex B.4)."""


def icc_profile(data: bytes, channels: int) -> bytes:
    """Return the ICC profile in an image file, empty if there is none for ``channels`` (1 or 3).

    A profile of another color space (CMYK, Lab) does not describe the decoded samples and is left
    out.
    """
    from PIL import Image

    found = b""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data)) as image:
        found = bytes(image.info.get("icc_profile") or b"")
    return found if len(found) >= 128 and found[16:20] == ICC_SPACES.get(channels) else b""


def _with_profile(jpeg: bytes, profile: bytes) -> bytes:
    """Insert a profile behind the first segment of a JPEG, unless it is too large for one."""
    parts = [profile[i : i + ICC_SEGMENT_BYTES] for i in range(0, len(profile), ICC_SEGMENT_BYTES)]
    if len(parts) > 255:  # their number is one byte
        return jpeg
    segments = b""
    for number, part in enumerate(parts, 1):
        body = ICC_MARKER + bytes([number, len(parts)]) + part
        segments += b"\xff\xe2" + (2 + len(body)).to_bytes(2, "big") + body
    place = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    return jpeg[:place] + segments + jpeg[place:]
