"""Tone and color, changed pixel by pixel."""

from __future__ import annotations

from typing import Any, ClassVar

import cv2
import numpy as np

from img2img_data.degradations.base import Axes, Degradation, IntRange, Uniform, parameter
from img2img_data.degradations.samples import FloatImage, Image, from_unit, luma, to_unit


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
    """gray levels left in each channel; 65536 is all"""
    identity_settings: ClassVar = {"levels": 65536}

    def curve(self, samples: FloatImage, **drawn: Any) -> Image:
        """Return the nearest of the levels."""
        last = np.float32(drawn["levels"] - 1)
        return samples if drawn["levels"] == 65536 else np.rint(samples * last) / last


class Gamma(ToneCurve):
    """A power curve: above 1 darker, below 1 brighter."""

    gamma: Uniform = parameter([0.5, 2, "log"], gt=0, le=20)
    """exponent of the samples in 0..1; 1 is none"""
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
