"""CIE L*a*b* (D65) as 8-bit and 16-bit samples, and as numbers.

8 bit is OpenCV's convention: L x 255 / 100, a + 128, b + 128. 16 bit is L x 65535 / 100, (a + 128)
x 257, (b + 128) x 257. Both conversions round once, to the depth of their output.
"""

from __future__ import annotations

import functools
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.images.pixels import LEVELS, Pixels, strips

LAB_SHIFT: Final = np.array([0, 128, 128], np.float32)
LAB_SCALE: Final = np.array([655.35, 257, 257], np.float32)

# Linear light half a gray level below black and above white, by the slopes of the sRGB curve there.
HALF_LEVEL_BELOW, HALF_LEVEL_ABOVE = -0.5 / 255 / 12.92, 1 + 0.5 / 255 * 2.4 / 1.055
# White point of OpenCV's conversion, so that colors agree with it at the border of the gamut.
WHITE: Final = np.array([0.950456, 1, 1.088754], np.float32)


def rgb_to_lab(pixels: Pixels) -> Pixels:
    """Convert H x W x 3 RGB to Lab samples of the same depth, uint8 or uint16, rounded once."""
    # Not by OpenCV's conversion of bytes, which is up to 3 levels off.
    # Whole rows: NumPy takes three times as long to add three numbers to each pixel.
    shift, scale = (np.tile(row, pixels.shape[1]) for row in (LAB_SHIFT, _scale(pixels)))
    parts = ((cielab(p).reshape(len(p), -1) + shift) * scale for p in strips(pixels))
    rows = np.concatenate([np.asarray(np.rint(part), pixels.dtype) for part in parts])
    return rows.reshape(pixels.shape)


def lab_to_rgb(lab: Pixels) -> Pixels:
    """Convert Lab samples to RGB of the same depth, rounded once; colors outside sRGB are clipped.

    In 16 bit it undoes ``rgb_to_lab`` within a fifth of an 8-bit gray level.
    """
    numbers = (part / _scale(part) - LAB_SHIFT for part in strips(lab))
    parts = (np.clip(cv2.cvtColor(part, cv2.COLOR_Lab2RGB), 0, 1) for part in numbers)
    top = np.iinfo(lab.dtype).max
    return np.concatenate([np.asarray(np.rint(part * top), lab.dtype) for part in parts])


def cielab(pixels: Pixels) -> NDArray[np.float32]:
    """Return CIE L*a*b* of uint8 or uint16 RGB pixels: L 0..100, a and b about -128..127."""
    # The sRGB curve is exact here: OpenCV's own conversion interpolates in a coarse table, which
    # costs up to one gray level of 255.
    light = _linear_light() if pixels.dtype == np.uint16 else _linear_light()[::LEVELS]
    return np.asarray(cv2.cvtColor(light.take(pixels), cv2.COLOR_LRGB2Lab), np.float32)


def _scale(samples: Pixels) -> NDArray[np.float32]:
    return LAB_SCALE if samples.dtype == np.uint16 else LAB_SCALE / np.float32(LEVELS)


@functools.cache
def _linear_light() -> NDArray[np.float32]:
    """Return the sRGB curve (IEC 61966-2-1) at all 16-bit levels."""
    level = np.arange(65536) / 65535
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def outside_srgb(lab: Pixels) -> float:
    """Return the share of pixels, 0 to 1, whose Lab samples are not an sRGB color.

    Such a pixel has, converted back, a channel more than half a gray level below black or above
    white, and is clipped. The colors of an image are in the gamut: rounding to Lab is what moves
    some out of it.
    """
    return sum(map(_count_outside, strips(lab))) * 3 / lab.size


def _count_outside(lab: Pixels) -> int:
    wide = lab / _scale(lab) - LAB_SHIFT
    lightness = (wide[..., 0] + 16) / 116
    bent = np.stack((lightness + wide[..., 1] / 500, lightness, lightness - wide[..., 2] / 200), -1)
    xyz = np.where(bent > 6 / 29, bent * bent * bent, (bent - 16 / 116) / 7.787037) * WHITE
    # Not from Lab to RGB in one call: that clips.
    linear = cv2.cvtColor(xyz, cv2.COLOR_XYZ2RGB)
    return int(((linear < HALF_LEVEL_BELOW) | (linear > HALF_LEVEL_ABOVE)).any(-1).sum())
