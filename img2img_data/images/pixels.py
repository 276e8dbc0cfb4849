"""Arrays of samples: channels, depth and transparency.

Arrays are H x W (gray), H x W x 3 (RGB) or H x W x 4 (RGBA, color not multiplied by alpha), uint8
or uint16 over their whole range. Every change made to an image is noted in its header's ``notes``,
so an image without notes is exactly what its file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import Rejected, UsageError, printable
from img2img_data.images.headers import Header

Pixels: TypeAlias = NDArray[Any]
"""An image: H x W or H x W x C, uint8 or uint16 unless stated otherwise; RGB, never BGR."""
Channels = Literal["rgb", "gray", "rgba"]
Fit = Literal["crop", "pad", "stretch", "error"]

COUNT: Final[dict[Channels, int]] = {"rgb": 3, "gray": 1, "rgba": 4}
"""Samples per pixel."""

LEVELS: Final = 257
"""16-bit levels per 8-bit level: 65535 / 255."""

STRIP_PIXELS: Final = 1 << 20
"""Pixels, width x height, of a strip of rows."""

MAX_PIXELS: Final = 100_000_000
"""Pixels, width x height, of an image that is read, written or an intermediate of a step."""


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """Limits on images that are read, and the form that they are converted to.

    ``alpha``: composite transparency on white, or reject images that have any. ``depth``: bits per
    sample, or "keep" as stored. ``channels``: "rgb" expands gray; "gray" takes the luma of color;
    "rgba" keeps transparency and gives every other image an opaque alpha; "keep" leaves one, three
    or four as stored. ``max_pixels``: width x height; ``max_side``: pixels; ``max_aspect``: longer
    over shorter side; ``max_bytes``: size of the file.
    """

    alpha: Literal["white", "reject"] = "white"
    depth: Literal[8, 16, "keep"] = 8
    channels: Literal["rgb", "gray", "rgba", "keep"] = "rgb"
    max_pixels: int = MAX_PIXELS
    max_side: int = 65_500
    max_aspect: float = 500.0
    max_bytes: int = 256 << 20


def strips(samples: Pixels) -> Iterator[Pixels]:
    """Yield views of strips of rows, for samples that are computed in a wider type.

    The whole image would take many times its memory then.
    """
    rows = max(1, STRIP_PIXELS // samples.shape[1])
    return (samples[top : top + rows] for top in range(0, samples.shape[0], rows))


# ------------------------------------------------------------------------------- from the decoder
def from_decoder(raw: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Return decoded samples (gray, BGR, BGRA; uint8, uint16, float32) as RGB or RGBA."""
    if raw.dtype == np.float32:
        raw = _from_float(raw, found)
    if raw.dtype not in (np.uint8, np.uint16):
        raise Rejected("unsupported-depth", f"{raw.dtype} samples")
    channels = raw.shape[2] if raw.ndim == 3 else 1
    if channels == 1 and found.clear is not None:
        # The transparent gray level of a PNG, which OpenCV drops.
        opacity = np.where(raw == found.clear, 0, np.iinfo(raw.dtype).max).astype(raw.dtype)
        raw, channels, found.alpha = np.dstack((raw, raw, raw, opacity)), 4, "straight"
    if channels == 4 and found.alpha != "none":
        return _from_bgra(raw, found, policy)
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return cv2.cvtColor(raw, code)


def from_raster(data: bytes, found: Header) -> Pixels:
    """Return the samples of a PGM or PPM in BGR order, scaled to the whole range of 8 or 16 bit."""
    start, samples, maximum = found.raster
    kind, top = (np.dtype("u1"), 255) if maximum < 256 else (np.dtype(">u2"), 65535)
    shape = (found.height, found.width, samples)
    raw = np.frombuffer(data, kind, int(np.prod(shape)), start).reshape(shape)[..., ::-1]
    if maximum != top:
        raw = (np.minimum(raw, maximum).astype(np.uint32) * top + maximum // 2) // maximum
    return np.ascontiguousarray(raw, np.uint8 if top == 255 else np.uint16)


def from_bit_fields(data: bytes, found: Header) -> Pixels:
    """Return the samples of a bitmap with bit fields in BGR or BGRA order, rounded to 8 bit."""
    # OpenCV reads few bit fields, those of some headers not at all or wrongly.
    start, bits, downwards = found.raster
    stride = (found.width * bits + 31) // 32 * 4
    rows = np.frombuffer(data, np.uint8, stride * found.height, start).reshape(-1, stride)
    words = rows[:: 1 if downwards else -1, : found.width * bits // 8].view(f"<u{bits // 8}")
    pixels = np.empty((found.height, found.width, len(found.masks)), np.uint8)
    for channel, mask in enumerate(found.masks):
        unit = mask & -mask
        top = mask // unit
        levels = ((np.arange(top + 1) * 510 + top) // (2 * top)).astype(np.uint8)
        for part, indices in zip(strips(pixels), strips(words), strict=True):
            part[..., channel] = levels[(indices & mask) // unit]
    return pixels


def _from_float(raw: Pixels, found: Header) -> Pixels:
    if not np.isfinite(raw).all():
        raise Rejected("non-finite")
    found.notes |= {"clipped", "float"} if raw.min() < 0 or raw.max() > 1 else {"float"}
    return np.rint(np.clip(raw, 0, 1) * np.float32(65535)).astype(np.uint16)


def _from_bgra(raw: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Return BGRA as RGBA if transparency is kept, else composited on white."""
    opaque = int(raw[..., 3].min()) == np.iinfo(raw.dtype).max
    if not opaque and policy.alpha == "reject":
        raise Rejected("alpha")
    premultiplied = found.alpha == "premultiplied" and not opaque
    # Kept only where no sample is computed: blur and noise have no sound rule for transparency.
    if policy.channels in ("rgba", "keep"):
        pixels = cv2.cvtColor(raw, cv2.COLOR_BGRA2RGBA)
        return _unmultiply(pixels, found) if premultiplied else pixels
    found.notes.add("alpha")
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB) if opaque else _on_white(raw, premultiplied)


def _on_white(raw: Pixels, premultiplied: bool) -> Pixels:
    white = int(np.iinfo(raw.dtype).max)
    pixels = np.empty((*raw.shape[:2], 3), raw.dtype)
    for part, samples in zip(strips(pixels), strips(raw), strict=True):
        wide = samples.astype(np.uint32)
        color, alpha = wide[..., 2::-1], wide[..., 3:]
        if premultiplied:
            part[...] = np.minimum(color + (white - alpha), white)
        else:
            part[...] = (color * alpha + white * (white - alpha) + white // 2) // white
    return pixels


def _unmultiply(pixels: Pixels, found: Header) -> Pixels:
    """Divide color by alpha; invisible pixels become black."""
    white = int(np.iinfo(pixels.dtype).max)
    found.notes.add("unmultiplied")
    alpha = np.maximum(pixels[..., 3:].astype(np.uint32), 1)
    color = np.minimum((pixels[..., :3] * np.uint32(white) + alpha // 2) // alpha, white)
    return np.dstack((color * (pixels[..., 3:] > 0), pixels[..., 3])).astype(pixels.dtype)


# ------------------------------------------------------------------------------------- conversions
def luminance(pixels: Pixels) -> Pixels:
    """Return the H x W luma of an image (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B), same depth.

    Alpha does not count; an image that is H x W is returned as it is.
    """
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def detail(pixels: Pixels) -> float:
    """Return the mean difference between neighboring pixels of the luma, in levels of 0 to 255."""
    gray = luminance(pixels)
    pairs = (gray[1:], gray[:-1]), (gray[:, 1:], gray[:, :-1])
    # Sums of integers: equal on every machine.
    means = [cv2.norm(a, b, cv2.NORM_L1) / a.size for a, b in pairs if a.size]
    return sum(means) / max(1, len(means)) / (LEVELS if gray.dtype == np.uint16 else 1)


def to_8_bit(pixels: Pixels) -> Pixels:
    """Divide uint16 samples by 257 and round."""
    return cv2.convertScaleAbs(pixels, alpha=1 / LEVELS)


def to_16_bit(pixels: Pixels) -> Pixels:
    """Multiply uint8 samples by 257, so that white stays white; ``to_8_bit`` undoes it."""
    return pixels.astype(np.uint16) * np.uint16(LEVELS)


def to_array(image: Any, hint: str) -> Pixels:
    """Return what a caller gave as an image as an array; UsageError with ``hint`` if it is none."""
    try:
        return np.asarray(image)
    except (RuntimeError, TypeError, ValueError) as error:
        why = f"cannot be converted to an array: {printable(error).rstrip('.')}"
        raise UsageError("image", None, why, hint) from None


def to_uint8_rgb(pixels: Pixels) -> NDArray[np.uint8]:
    """Return an image as H x W x 3 uint8: 16 bit scaled, gray expanded, alpha on white.

    ``pixels``: H x W, or H x W x 1, 3 (RGB) or 4 (RGBA), uint8 or uint16. Returns the same array if
    there is nothing to do.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _on_white(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA), False)
    if pixels.dtype == np.uint16:
        pixels = to_8_bit(pixels)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return np.asarray(pixels, np.uint8)
