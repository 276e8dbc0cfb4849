"""Gaussian blur (separable), median filter, and sharpening by an unsharp mask."""

from __future__ import annotations

import functools
from typing import Any, ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from img2img_data.degradations.base import Axes, Degradation, OddInt, Uniform, parameter
from img2img_data.degradations.samples import FloatImage, Image

_IDENTITY: Final = np.ones(1, np.float32)


@functools.lru_cache(maxsize=64)
def gaussian_kernel(sigma: float) -> NDArray[np.float32]:
    """Return the 2 x int(4 sigma + 0.5) + 1 weights of a Gaussian, sum 1.

    The kernel of ``scipy.ndimage.gaussian_filter(sigma, truncate=4)``.
    """
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def gaussian_blur(image: Image, sigma: float, axes: Axes = "yx") -> Image:
    """Return the blurred image, along both axes or one of them."""
    kernel = gaussian_kernel(sigma)
    along_x, along_y = (kernel if axis in axes else _IDENTITY for axis in "xy")
    # sepFilter2D with our own kernel: cv2.GaussianBlur quantizes the kernel of 8-bit images to
    # fixed point, and is slower. BORDER_REFLECT is scipy's mode "reflect".
    blurred = cv2.sepFilter2D(image, -1, along_x, along_y, borderType=cv2.BORDER_REFLECT)
    return blurred.reshape(image.shape)


class SeparableGaussian(Degradation):
    """Base class of Gaussian blurs of ``drawn["sigma"]`` pixels."""

    keeps_mean: ClassVar[bool] = True

    @property
    def separable(self) -> bool:
        """True: the kernel is an outer product."""
        return True

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Blur with ``drawn["sigma"]``."""
        return gaussian_blur(image, drawn["sigma"], axes)


class GaussianBlur(SeparableGaussian):
    """Gaussian blur of one fixed strength, or a strength drawn for each image.

    The kernel ends at 4 sigma. The border is symmetric, the edge pixel repeated (c b a | a b c).
    """

    sigma: Uniform = parameter(3.0, gt=0, le=100)
    """standard deviation of the blur, pixels of the output"""
    identity_settings: ClassVar = {"sigma": 0.1}  # 4 sigma round to a kernel of one pixel


class RandomGaussianBlur(SeparableGaussian):
    """Gaussian blur, another strength for each image.

    The kernel ends at 4 sigma. The border is symmetric, the edge pixel repeated (c b a | a b c).
    """

    sigma_min: float = Field(1.0, gt=0, le=100)
    """lowest standard deviation, pixels"""
    sigma_max: float = Field(5.0, gt=0, le=100)
    """highest standard deviation, pixels"""
    identity_settings: ClassVar = {"sigma_min": 0.1, "sigma_max": 0.1}

    @model_validator(mode="after")
    def _ordered(self) -> RandomGaussianBlur:
        if self.sigma_min > self.sigma_max:
            raise ValueError("sigma_min is above sigma_max")
        return self

    def ranges(self) -> dict[str, Uniform]:
        """Return sigma, uniform between the two ends."""
        return {"sigma": Uniform(self.sigma_min, self.sigma_max)}


class MedianFilter(Degradation):
    """Median of a square: removes dust and fine detail, keeps edges.

    The border is the edge pixel, replicated (a a a | a b c).
    """

    size: OddInt = parameter(5, ge=1, le=31)
    """side of the square, an odd number of pixels; 1 is none"""
    identity_settings: ClassVar = {"size": 1}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Take the median of ``drawn["size"]`` squared pixels of each channel, without rounding."""
        size = int(drawn["size"])
        # OpenCV's median takes squares above 5 only for uint8, and only 1, 3 or 4 channels.
        channels = 1 if image.ndim == 2 else image.shape[2]
        if (image.dtype == np.uint8 or size <= 5) and channels in {1, 3, 4}:
            return cv2.medianBlur(image, size).reshape(image.shape)
        from scipy.ndimage import median_filter

        square = (size, size) if image.ndim == 2 else (size, size, 1)
        # Mode "nearest" is the border of cv2.medianBlur, BORDER_REPLICATE.
        return np.asarray(median_filter(image, square, mode="nearest"))


class Sharpen(Degradation):
    """Unsharp masking: halos around edges, as in camera and web images.

    ``usm_sharp`` of BasicSR (basicsr/utils/img_process_util.py), which Real-ESRGAN applies to its
    targets with sigma 8, amount 0.5 and threshold 10. The kernel ends at 4 sigma and the border is
    symmetric; that of BasicSR ends at 25 pixels.
    """

    sigma: Uniform = parameter([0.5, 3], gt=0, le=100)
    """standard deviation of the blur that is subtracted, pixels"""
    amount: Uniform = parameter([0.5, 2], ge=0, le=10)
    """weight of the difference between the image and its blur; 0 is none"""
    threshold: Uniform = parameter(0, ge=0, le=255)
    """difference below which pixels are left alone, gray levels (0 to 255)"""
    identity_settings: ClassVar = {"amount": 0}

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Add ``amount`` times the unsharp mask, where it exceeds the threshold."""
        halo = image - gaussian_blur(image, drawn["sigma"])
        sharp = np.clip(image + halo * np.float32(drawn["amount"]), 0, 1)
        if drawn["threshold"] == 0:
            return sharp
        # The mask is blurred too: a hard one would leave seams at its border.
        mask = (np.abs(halo) * 255 > drawn["threshold"]).astype(np.float32)
        return image + gaussian_blur(mask, drawn["sigma"]) * (sharp - image)
