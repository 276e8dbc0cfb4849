"""Tone and color of single pixels, dithering and halftoning."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import cv2
import numpy as np

from img2img_data.degradations.base import Axes, Degradation, IntRange, Uniform, parameter
from img2img_data.degradations.samples import FloatImage, Image, from_unit, luma, to_unit

# Screen angles of red, green and blue: those of cyan, magenta and yellow in print, in degrees.
SCREEN_ANGLES: Final = (15.0, 75.0, 0.0)
# Shares of the error that the next pixel and the three below it take (Floyd, Steinberg 1976).
DIFFUSION: Final = {(0, 1): 7 / 16, (1, -1): 3 / 16, (1, 0): 5 / 16, (1, 1): 1 / 16}


class ToneCurve(Degradation):
    """Base class of curves from sample to sample."""

    def curve(self, samples: FloatImage, **drawn: Any) -> Image:
        """Return the new values of samples in [0, 1], of any shape."""
        raise NotImplementedError

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the curve to float samples, and by a table of all levels to integers."""
        if image.dtype.kind == "f":
            return from_unit(self.curve(to_unit(image), **drawn), image)
        # 256 or 65536 levels, far fewer than samples; each is rounded once, as a sample would be.
        levels = np.arange(np.iinfo(image.dtype).max + 1).astype(image.dtype)
        table = from_unit(np.asarray(self.curve(to_unit(levels[None])[..., 0], **drawn)), levels)
        is_byte = image.dtype == np.uint8  # OpenCV's tables hold 256 levels
        return cv2.LUT(image, table).reshape(image.shape) if is_byte else table[image]


class Posterize(ToneCurve):
    """Fewer gray levels, evenly spaced from black to white, without dithering."""

    levels: IntRange = parameter([4, 32], ge=2, le=65536)
    """gray levels left in each channel; 65536 keeps all"""
    identity_settings: ClassVar = {"levels": 65536}

    def curve(self, samples: FloatImage, **drawn: Any) -> Image:
        """Return the nearest of the levels."""
        last = np.float32(drawn["levels"] - 1)
        return samples if drawn["levels"] == 65536 else np.rint(samples * last) / last


class Gamma(ToneCurve):
    """A power curve: above 1 darker, below 1 brighter."""

    gamma: Uniform = parameter([0.5, 2, "log"], gt=0, le=20)
    """exponent of the samples in 0..1; 1 has no effect"""
    identity_settings: ClassVar = {"gamma": 1}

    def curve(self, samples: FloatImage, **drawn: Any) -> Image:
        """Return samples^gamma."""
        return np.power(samples, np.float32(drawn["gamma"]))


class Desaturate(Degradation):
    """Color removed: BT.601 luma in all three channels."""

    amount: Uniform = parameter(1.0, ge=0, le=1)
    """share of the color removed, 0 to 1"""
    identity_settings: ClassVar = {"amount": 0}

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Mix the image with its luma; an image without three channels is gray already."""
        if image.shape[2] != 3 or drawn["amount"] == 0:
            return image
        image += (luma(image) - image) * np.float32(drawn["amount"])
        return image


class Dither(Degradation):
    """Error-diffusion dithering (Floyd-Steinberg) to a few gray levels.

    Floyd and Steinberg, Proceedings of the Society for Information Display 17(2), 1976.
    """

    levels: IntRange = parameter([2, 8], ge=2, le=256)
    """gray levels left in each channel"""

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Round each pixel to the nearest level, its error added to the pixels that follow."""
        height, width, channels = image.shape
        last = np.float32(drawn["levels"] - 1)
        # A margin takes the errors that leave the image.
        work = np.zeros((height + 1, width + 2, channels), np.float32)
        work[:height, 1:-1] = image
        # Pixels with the same x + 2 y do not depend on each other: all are rounded at once.
        for diagonal in range(width + 2 * height - 2):
            y = np.arange(max(0, (diagonal - width + 2) // 2), min(height, diagonal // 2 + 1))
            x = diagonal - 2 * y + 1
            exact = work[y, x]
            work[y, x] = np.rint(np.clip(exact, 0, 1) * last) / last
            error = exact - work[y, x]
            for (down, right), share in DIFFUSION.items():
                work[y + down, x + right] += error * np.float32(share)
        return work[:height, 1:-1]


class Halftone(Degradation):
    """Halftone screening: each channel becomes black or white, by a screen at its own angle.

    The screen is ranked over the whole image, so that its levels are equally frequent; a crop
    gets another screen.
    """

    period: Uniform = parameter([3, 8], ge=2, le=64)
    """distance between the dots, pixels"""

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Compare each channel to its screen, whose levels are equally frequent."""
        y, x = np.indices(image.shape[:2])
        # An R2 sequence (Roberts 2018): equal levels of the screen are spread over the image.
        tie = (0.7548776662466927 * x + 0.5698402909980532 * y) % 1
        for channel in range(image.shape[2]):
            angle = np.deg2rad(SCREEN_ANGLES[channel % 3])
            turned = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
            u, v = (2 * np.pi / drawn["period"] * axis for axis in turned)
            order = np.lexsort((tie.ravel(), (np.cos(u) + np.cos(v)).round(9).ravel()))
            screen = np.empty(order.size, np.float32)
            screen[order] = (np.arange(order.size) + 0.5) / order.size
            # Not ">": of many pixels float32 rounds the last level to 1, and white is 1.
            image[..., channel] = image[..., channel] >= screen.reshape(x.shape)
        return image
