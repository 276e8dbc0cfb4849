"""Arrays of samples: from what a decoder gives to what was asked for; depth, channels, transparency, Lab.

The arrays here are H x W (gray), H x W x 3 (RGB) or H x W x 4 (RGBA, color not multiplied by alpha), uint8
or uint16 over their whole range. Every change made to a image is noted in its header's ``notes``, so a
image without notes is exactly what its file holds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import Rejected
from img2img_data.images.headers import Header

Pixels: TypeAlias = NDArray[Any]
"""An image: H x W or H x W x C, uint8 or uint16 unless a function says otherwise; RGB, never BGR."""
Channels = Literal["rgb", "gray", "rgba"]
COUNT: Final[dict[Channels, int]] = {"rgb": 3, "gray": 1, "rgba": 4}
"""How many samples a pixel has."""

LEVELS: Final = 257
"""The 16-bit levels of one 8-bit level: 65535 / 255."""


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """What is read, what it becomes, and what is rejected.

    ``alpha``: compose transparency on white, or reject images that have any. ``depth``: bits a sample, or
    "keep" as stored. ``channels``: "rgb" expands gray; "gray" takes the luma of color; "rgba" keeps
    transparency and gives every other image an opaque alpha; "keep" leaves one, three or four as stored.
    ``max_pixels`` counts width x height, ``max_side`` is in pixels, ``max_aspect`` the longer side over the
    shorter, ``max_bytes`` the size of the file.
    """

    alpha: Literal["white", "reject"] = "white"
    depth: Literal[8, 16, "keep"] = 8
    channels: Literal["rgb", "gray", "rgba", "keep"] = "rgb"
    max_pixels: int = 100_000_000
    max_side: int = 65_500
    max_aspect: float = 500.0
    max_bytes: int = 256 << 20

    @property
    def keeps_alpha(self) -> bool:
        """Whether transparency comes through."""
        return self.channels in ("rgba", "keep")


# ---- from the decoder
def from_decoder(raw: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Return decoded samples (gray, BGR, BGRA; uint8, uint16, float32) as RGB, or RGBA where that is kept."""
    if raw.dtype == np.float32:
        raw = _from_float(raw, found)
    if raw.dtype not in (np.uint8, np.uint16):
        raise Rejected("unsupported-depth", f"{raw.dtype} samples")
    channels = raw.shape[2] if raw.ndim == 3 else 1
    if channels == 4 and found.alpha != "none":
        return _transparent(raw, found, policy)
    if channels == 1:
        pixels = cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
        clear = None if found.clear is None else raw.reshape(raw.shape[:2]) == found.clear
        return pixels if clear is None else _clear_gray(pixels, clear, found, policy)
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB if channels == 4 else cv2.COLOR_BGR2RGB)


def from_raster(data: bytes, found: Header) -> Pixels:
    """Return the samples of a PGM or PPM in BGR order, scaled to the whole range of 8 or 16 bit."""
    start, samples, largest = found.raster
    kind, top = (np.dtype("u1"), 255) if largest < 256 else (np.dtype(">u2"), 65535)
    shape = (found.height, found.width, samples)
    raw = np.frombuffer(data, kind, int(np.prod(shape)), start).reshape(shape)[..., ::-1]
    if largest != top:
        raw = (np.minimum(raw, largest).astype(np.uint32) * top + largest // 2) // largest
    return np.ascontiguousarray(raw, np.uint8 if top == 255 else np.uint16)


def filled(raw: Pixels, bits: Sequence[int]) -> Pixels:
    """Fill up uint8 channels of which only the upper ``bits`` are there, so that white is white."""
    low = [raw[..., channel] >> count for channel, count in enumerate(bits)]
    return np.asarray(raw | np.stack(low, -1))


def _from_float(raw: Pixels, found: Header) -> Pixels:
    """Scale 0..1 to 0..65535, clipped; NaN and infinity are rejected."""
    if not np.isfinite(raw).all():
        raise Rejected("non-finite")
    if raw.min() < 0 or raw.max() > 1:
        found.notes.add("clipped")
    found.notes.add("float")
    return np.rint(np.clip(raw, 0, 1) * np.float32(65535)).astype(np.uint16)


def _transparent(raw: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Return BGRA as RGBA where transparency is kept, else composed on white, rounded once."""
    opaque = int(raw[..., 3].min()) == np.iinfo(raw.dtype).max
    if not opaque and policy.alpha == "reject":
        raise Rejected("alpha")
    if policy.keeps_alpha:
        pixels = cv2.cvtColor(raw, cv2.COLOR_BGRA2RGBA)
        return (
            _unmultiplied(pixels, found)
            if found.alpha == "premultiplied" and not opaque
            else pixels
        )
    found.notes.add("alpha")
    if opaque:
        return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGB)
    return _on_white(raw, found.alpha == "premultiplied")


def _on_white(raw: Pixels, premultiplied: bool) -> Pixels:
    """Compose BGRA on white in slabs of rows, to bound the memory."""
    white = int(np.iinfo(raw.dtype).max)
    pixels = np.empty((*raw.shape[:2], 3), raw.dtype)
    for top in range(0, raw.shape[0], 256):
        part = raw[top : top + 256].astype(np.uint32)
        color, alpha = part[..., 2::-1], part[..., 3:]
        if premultiplied:
            pixels[top : top + 256] = np.minimum(color + (white - alpha), white)
        else:
            pixels[top : top + 256] = (
                color * alpha + white * (white - alpha) + white // 2
            ) // white
    return pixels


def _unmultiplied(pixels: Pixels, found: Header) -> Pixels:
    """Divide color by alpha; where nothing is seen it becomes black."""
    white = int(np.iinfo(pixels.dtype).max)
    found.notes.add("unmultiplied")
    alpha = np.maximum(pixels[..., 3:].astype(np.uint32), 1)
    color = np.minimum((pixels[..., :3] * np.uint32(white) + alpha // 2) // alpha, white)
    return np.dstack((color * (pixels[..., 3:] > 0), pixels[..., 3])).astype(pixels.dtype)


def _clear_gray(
    pixels: Pixels, clear: NDArray[np.bool_], found: Header, policy: ReadPolicy
) -> Pixels:
    """Make the gray level declared transparent so, or white (OpenCV drops the declaration)."""
    if clear.any() and policy.alpha == "reject":
        raise Rejected("alpha")
    white = np.iinfo(pixels.dtype).max
    if policy.keeps_alpha:
        return np.dstack((pixels, np.where(clear, 0, white).astype(pixels.dtype)))
    pixels[clear] = white
    found.notes.add("alpha")
    return pixels


# ---- to what was asked for
def as_wanted(pixels: Pixels, found: Header, policy: ReadPolicy) -> Pixels:
    """Bring RGB or RGBA samples to the channels and the depth of the policy."""
    if policy.channels != "rgb":
        pixels = _with_channels(pixels, found, policy.channels)
    if pixels.dtype == np.uint16 and policy.depth == 8:
        found.notes.discard("float")
        found.notes.add("depth")
        return to_8_bit(pixels)
    if pixels.dtype == np.uint8 and policy.depth == 16:
        found.notes.add("widened")
        return to_16_bit(pixels)
    return pixels


def _with_channels(pixels: Pixels, found: Header, wanted: str) -> Pixels:
    if wanted == "rgba":
        return pixels if pixels.shape[2] == 4 else _opaque(pixels, found)
    if pixels.shape[2] == 4:
        return pixels
    if "gray" in found.notes:
        found.notes.discard("gray")
        return cv2.extractChannel(pixels, 0)
    if wanted == "keep":
        return pixels
    first = cv2.extractChannel(pixels, 0)
    if all(np.array_equal(first, pixels[..., i]) for i in (1, 2)):
        found.notes.add("equal")
        return first
    found.notes.add("luma")
    return luminance(pixels)


def _opaque(pixels: Pixels, found: Header) -> Pixels:
    found.notes.add("opaque")
    return np.dstack((pixels, np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)))


def to_8_bit(pixels: Pixels) -> Pixels:
    """Divide uint16 samples by 257 and round."""
    return cv2.convertScaleAbs(pixels, alpha=1 / LEVELS)


def to_16_bit(pixels: Pixels) -> Pixels:
    """Multiply uint8 samples by 257, so that white stays white; ``to_8_bit`` gives them back."""
    return pixels.astype(np.uint16) * np.uint16(LEVELS)


def to_uint8_rgb(pixels: Pixels) -> NDArray[np.uint8]:
    """Return any image as H x W x 3 uint8, for looking at: 16 bit scaled, gray expanded, alpha on white.

    ``pixels``: H x W, or H x W x 1, 3 (RGB) or 4 (RGBA), uint8 or uint16. The same array comes back where
    there is nothing to do.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = _on_white(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA), False)
    if pixels.dtype == np.uint16:
        pixels = to_8_bit(pixels)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    return np.asarray(pixels, np.uint8)


# ---- color
LAB_SHIFT, LAB_SCALE = np.array([0, 128, 128], np.float32), np.array([655.35, 257, 257], np.float32)
RANGE_CENTRE, RANGE_SCALE = (
    np.array([127.5, 128, 128], np.float32),
    np.array([127.5, 110, 110], np.float32),
)
HALF_LEVEL_BELOW, HALF_LEVEL_ABOVE = -0.5 / 255 / 12.92, 1 + 0.5 / 255 * 2.4 / 1.055
"""Linear light half a gray level under black and over white, by the slopes of the sRGB curve there."""

_TO_LINEAR_RGB: Final = np.array(
    [
        [3.240479, -1.53715, -0.498535],
        [-0.969256, 1.875991, 0.041556],
        [0.055648, -0.204043, 1.057311],
    ],
    np.float32,
)
_WHITE: Final = np.array([0.950456, 1, 1.088754], np.float32)


def rgb_to_lab8(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert RGB to 8-bit CIE L*a*b* (D65) by OpenCV's convention: L x 255 / 100, a + 128, b + 128."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab), np.uint8)


def lab8_to_rgb(lab: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert OpenCV's 8-bit Lab back to H x W x 3 RGB uint8; colors outside sRGB are clipped."""
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB), np.uint8)


@functools.cache
def _linear_light() -> NDArray[np.float32]:
    """Return the sRGB curve (IEC 61966-2-1) at all 16-bit levels."""
    level = np.arange(65536) / 65535
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def rgb_to_lab16(pixels: Pixels) -> NDArray[np.uint16]:
    """Convert RGB, uint8 or uint16, to 16-bit Lab: L x 65535 / 100, (a + 128) x 257, (b + 128) x 257.

    The sRGB curve is exact here: OpenCV's own conversion interpolates in a coarse table, which costs up to a
    gray level.
    """
    wide = pixels if pixels.dtype == np.uint16 else to_16_bit(pixels)
    lab = cv2.cvtColor(_linear_light()[wide], cv2.COLOR_LRGB2Lab)
    return np.asarray(np.rint((lab + LAB_SHIFT) * LAB_SCALE), np.uint16)


def lab16_to_rgb16(lab: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Undo ``rgb_to_lab16`` within a fifth of an 8-bit gray level; colors outside sRGB are clipped."""
    pixels = cv2.cvtColor(lab / LAB_SCALE - LAB_SHIFT, cv2.COLOR_Lab2RGB)
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * 65535), np.uint16)


def lab16_to_rgb(lab: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Undo ``rgb_to_lab16`` in 8 bit; colors outside sRGB are clipped."""
    return np.asarray(to_8_bit(lab16_to_rgb16(lab)), np.uint8)


def cielab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the CIE L*a*b* of RGB pixels: L 0..100, a and b about -128..127, within half a unit."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), np.float32)


def rgb_to_lab(pixels: Pixels) -> Pixels:
    """Convert RGB to Lab samples of the same depth."""
    return rgb_to_lab16(pixels) if pixels.dtype == np.uint16 else rgb_to_lab8(pixels)


def lab_to_rgb(lab: Pixels) -> Pixels:
    """Convert Lab samples back to RGB of the same depth; colors outside sRGB are clipped."""
    return lab16_to_rgb16(lab) if lab.dtype == np.uint16 else lab8_to_rgb(lab)


def outside_srgb(lab: Pixels) -> float:
    """Return the share of pixels, 0 to 1, whose Lab samples (uint8 or uint16) are no sRGB color.

    Such a pixel has, converted back, a channel more than half a gray level under black or over white, and is
    clipped. A photo's own colors are in the gamut: rounding to Lab is what moves some out of it.
    """
    wide = lab.astype(np.float32) * np.float32(1 if lab.dtype == np.uint16 else LEVELS)
    wide = wide / LAB_SCALE - LAB_SHIFT
    lightness = (wide[..., 0] + 16) / 116
    bent = np.stack((lightness + wide[..., 1] / 500, lightness, lightness - wide[..., 2] / 200), -1)
    xyz = np.where(bent > 6 / 29, bent**3, (bent - 16 / 116) / 7.787037) * _WHITE
    linear = xyz @ _TO_LINEAR_RGB.T
    out = (linear < HALF_LEVEL_BELOW) | (linear > HALF_LEVEL_ABOVE)
    return float(out.any(-1).mean())


def lab8_to_range(lab: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale 8-bit Lab, H x W x 3, to the networks' range: L / 50 - 1 in [-1, 1], a / 110, b / 110."""
    return (lab - RANGE_CENTRE) / RANGE_SCALE


def range_to_lab8(scaled: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Undo ``lab8_to_range``, rounded and clipped to 0..255."""
    return np.asarray(np.rint(np.clip(scaled * RANGE_SCALE + RANGE_CENTRE, 0, 255)), np.uint8)


def luminance(pixels: Pixels) -> Pixels:
    """Return the H x W luma of RGB pixels, uint8 or uint16 (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B)."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
