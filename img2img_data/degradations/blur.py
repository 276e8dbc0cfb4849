"""Blurs, each stated by its formula and its source; median filter; sharpening by an unsharp mask.

Gaussian blurs are separable. Other kernels are two-dimensional, odd-sized, point-symmetric,
float32, of sum 1; their angles are in degrees, counter-clockwise as the image is seen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field, model_validator

from img2img_data.degradations.base import Axes, Degradation, OddInt, Uniform, parameter
from img2img_data.degradations.samples import MIRRORED, REPLICATED, FloatImage, Image, to_dtype

_Grid = NDArray[np.float64]

_IDENTITY: Final = np.ones(1, np.float32)
_MEDIAN_VALUES: Final = 1 << 22
"""Values that are sorted at a time, if one row has no more."""


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

    border: ClassVar[str] = MIRRORED
    keeps_mean: ClassVar[bool] = True
    separable: ClassVar[bool] = True
    """The kernel is an outer product."""

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Blur with ``drawn["sigma"]``."""
        return gaussian_blur(image, drawn["sigma"], axes)


class GaussianBlur(SeparableGaussian):
    """Gaussian blur of one fixed strength, or a strength drawn for each image.

    The kernel ends at 4 sigma.
    """

    sigma: Uniform = parameter(3.0, gt=0, le=100)
    """standard deviation of the blur, pixels of the output"""
    identity_settings: ClassVar = {"sigma": 0.1}  # 4 sigma round to a kernel of one pixel


class RandomGaussianBlur(SeparableGaussian):
    """Gaussian blur, another strength for each image.

    The kernel ends at 4 sigma.
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
    """Median of a square: removes dust and fine detail, keeps edges."""

    border: ClassVar[str] = REPLICATED
    size: OddInt = parameter(5, ge=1, le=31)
    """side of the square, an odd number of pixels; 1 has no effect"""
    identity_settings: ClassVar = {"size": 1}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Take the median of ``drawn["size"]`` squared pixels of each channel, without rounding."""
        size = int(drawn["size"])
        # OpenCV's median takes 1, 3 or 4 channels, and squares above 5 only for uint8.
        if image.ndim == 3 and image.shape[2] not in {1, 3, 4}:
            return self._by_channel(image, **drawn)
        if image.dtype == np.uint8 or size <= 5:
            return cv2.medianBlur(image, size).reshape(image.shape)
        half, middle = size // 2, size * size // 2
        border = [(half, half), (half, half), (0, 0)][: image.ndim]
        padded, median = np.pad(image, border, mode="edge"), np.empty_like(image)
        # A few rows at a time: all squares of an image would fill the memory.
        rows = max(1, _MEDIAN_VALUES // (size * size * image[0].size))
        for top in range(0, len(image), rows):
            part = padded[top : top + rows + 2 * half]
            squares = sliding_window_view(part, (size, size), (0, 1))
            sorted_by_middle = np.partition(squares.reshape(*squares.shape[:-2], -1), middle)
            median[top : top + rows] = sorted_by_middle[..., middle]
        return median


class Sharpen(Degradation):
    """Unsharp masking: halos around edges, as in camera and web images.

    ``usm_sharp`` of BasicSR (basicsr/utils/img_process_util.py), which Real-ESRGAN applies to its
    targets with sigma 8, amount 0.5 and threshold 10. The kernel ends at 4 sigma; that of BasicSR
    ends at 25 pixels.
    """

    border: ClassVar[str] = MIRRORED
    sigma: Uniform = parameter([0.5, 3], gt=0, le=100)
    """standard deviation of the blur that is subtracted, pixels"""
    amount: Uniform = parameter([0.5, 2], ge=0, le=10)
    """weight of the difference between the image and its blur; 0 has no effect"""
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


# ------------------------------------------------------------------------ two-dimensional kernels
class KernelBlur(Degradation):
    """Base class of blurs whose kernel is not separable."""

    border: ClassVar[str] = MIRRORED
    keeps_mean: ClassVar[bool] = True

    def kernel(self, **drawn: Any) -> NDArray[Any]:
        """Return the weights, odd-sized and point-symmetric, of any positive sum."""
        raise NotImplementedError

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Filter with the kernel; integers are summed in float32 and rounded once."""
        kernel = normalized_kernel(self, **drawn)
        filtered = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT)
        # OpenCV rounds and clips integers itself; float samples may overshoot [0, 1].
        is_float = image.dtype.kind == "f"
        return to_dtype(filtered, image) if is_float else filtered.reshape(image.shape)


# Kernels of fixed settings are the same for every image; those of drawn ones hardly ever come
# again.
@functools.lru_cache(maxsize=64)
def normalized_kernel(blur: KernelBlur, **drawn: float) -> NDArray[np.float32]:
    """Return the kernel of the drawn parameters, sum 1."""
    weights = blur.kernel(**drawn)
    return np.asarray(weights / weights.sum(), np.float32)


class BellBlur(KernelBlur):
    """Base class of generalized Gaussian blurs with rotated axes; without a ``beta`` it is 1."""

    def kernel(self, **drawn: Any) -> NDArray[Any]:
        """Return exp(-d^(2 beta) / 2), d the Mahalanobis distance from the center."""
        beta, widest = drawn.get("beta", 1.0), max(drawn["sigma_x"], drawn.get("sigma_y", 0))
        # By default as far as exp(-8) of the peak, which a Gaussian reaches at 4 sigma.
        size = int(drawn.get("size", 2 * math.ceil(widest * 16 ** (0.5 / beta)) + 1))
        return np.asarray(np.exp(-0.5 * _mahalanobis(min(401, size), drawn) ** beta))


class AnisotropicGaussianBlur(BellBlur):
    """Gaussian blur of another strength along two rotated axes."""

    sigma_x: Uniform = parameter([0.5, 4], gt=0, le=50)
    """standard deviation along the x axis before the rotation, pixels"""
    sigma_y: Uniform = parameter([0.5, 4], gt=0, le=50)
    """standard deviation along the y axis before the rotation, pixels"""
    rotation: Uniform = parameter([-180, 180], ge=-360, le=360)
    """rotation of the x axis, degrees counter-clockwise"""
    size: OddInt | None = parameter(None, ge=1, le=401)
    """width and height of the kernel, an odd number of pixels  [default: 4 sigma to each side]"""
    identity_settings: ClassVar = {"size": 1}


class GeneralizedGaussianBlur(BellBlur):
    """Generalized Gaussian blur: sharper peak and heavier tails (beta < 1), or flatter (beta > 1).

    The kernel exp(-d^(2 beta) / 2), d the Mahalanobis distance: Pascal, Bombrun, Tourneret,
    Berthoumieu, Parameter Estimation for Multivariate Generalized Gaussian Distributions, IEEE TSP
    2013, as used in Real-ESRGAN (Wang et al., ICCVW 2021, section 3.1).
    """

    sigma_x: Uniform = parameter([0.5, 3], gt=0, le=25)
    """standard deviation along the x axis before the rotation, pixels"""
    sigma_y: Uniform | None = parameter(None, gt=0, le=25)
    """standard deviation along the y axis before the rotation, pixels
    [default: as sigma_x, a round kernel]"""
    rotation: Uniform = parameter(0.0, ge=-360, le=360)
    """rotation of the x axis, degrees counter-clockwise"""
    # betag_range of Real-ESRGAN (github.com/xinntao/Real-ESRGAN,
    # options/train_realesrgan_x4plus.yml).
    beta: Uniform = parameter([0.5, 4], ge=0.3, le=20)
    """shape of the kernel; 1 is the Gaussian"""
    size: OddInt | None = parameter(None, ge=1, le=401)
    """width and height of the kernel, an odd number of pixels
    [default: as far as exp(-8) of the peak, up to 401]"""
    identity_settings: ClassVar = {"size": 1}


class PlateauBlur(KernelBlur):
    """Blur with a plateau-shaped kernel, 1 / (1 + d^(2 beta)).

    d is the Mahalanobis distance (Real-ESRGAN: Wang et al., ICCVW 2021, section 3.1).
    """

    sigma_x: Uniform = parameter([0.5, 3], gt=0, le=50)
    """standard deviation along the x axis before the rotation, pixels"""
    sigma_y: Uniform | None = parameter(None, gt=0, le=50)
    """standard deviation along the y axis before the rotation, pixels
    [default: as sigma_x, a round kernel]"""
    rotation: Uniform = parameter(0.0, ge=-360, le=360)
    """rotation of the x axis, degrees counter-clockwise"""
    # betap_range and blur_kernel_size of Real-ESRGAN's options.
    beta: Uniform = parameter([1, 2], ge=0.5, le=20)
    """shape of the kernel; larger values are flatter"""
    size: OddInt = parameter(21, ge=1, le=401)
    """width and height of the kernel, an odd number of pixels"""
    identity_settings: ClassVar = {"size": 1}

    def kernel(self, **drawn: Any) -> NDArray[Any]:
        """Return 1 / (1 + d^(2 beta)), d the Mahalanobis distance from the center."""
        return np.asarray(1 / (1 + _mahalanobis(int(drawn["size"]), drawn) ** drawn["beta"]))


class MotionBlur(KernelBlur):
    """Motion blur along a straight line, centered: the image does not move.

    The kernel of ``fspecial('motion')`` in MATLAB and Octave's image package.
    """

    length: Uniform = parameter([3, 15], ge=1, le=200)
    """length of the line, pixels; 1 means no blur"""
    angle: Uniform = parameter([-90, 90], ge=-360, le=360)
    """angle, degrees counter-clockwise; 0 is horizontal"""
    identity_settings: ClassVar = {"length": 1}

    def kernel(self, **drawn: Any) -> NDArray[Any]:
        """Return max(0, 1 - distance to a centered segment that is ``length`` - 1 pixels long)."""
        half = (drawn["length"] - 1) / 2
        along, across = _rotated(2 * math.ceil(half) + 1, drawn["angle"])
        distance = np.hypot(np.maximum(np.abs(along) - half, 0), across)
        return np.asarray(np.maximum(1 - distance, 0))


class DefocusBlur(KernelBlur):
    """Blur of a lens out of focus: a disk with a smooth rim."""

    radius: Uniform = parameter([1, 5], ge=0, le=100)
    """radius of the disk, pixels; up to 0.5 means no blur"""
    identity_settings: ClassVar = {"radius": 0}

    def kernel(self, **drawn: Any) -> NDArray[Any]:
        """Return 1 inside of the disk, falling to 0 over the pixel that the rim crosses."""
        x, y = _grid(2 * math.ceil(drawn["radius"]) + 1)
        return np.asarray(np.clip(drawn["radius"] + 0.5 - np.hypot(x, y), 0, 1))


class SincFilter(KernelBlur):
    """Truncated ideal low-pass: ringing and overshoot, as of over-sharpened images.

    The kernel cutoff x J1(cutoff r) / (2 pi r) (Real-ESRGAN: Wang et al., ICCVW 2021, section 3.3).
    """

    # pi / 3 to pi, and 7 to 21 pixels: the kernels of Real-ESRGAN's dataset.
    cutoff: Uniform = parameter([1.05, 3.14], gt=0, le=3.15)
    """low-pass cutoff, radians per pixel; 3.14 keeps everything"""
    size: OddInt = parameter([7, 21], ge=1, le=101)
    """width and height of the kernel, an odd number of pixels"""
    identity_settings: ClassVar = {"size": 1}

    def kernel(self, **drawn: Any) -> NDArray[Any]:
        """Return cutoff x J1(cutoff r) / (2 pi r), with its limit cutoff^2 / (4 pi) at r = 0."""
        size, cutoff = int(drawn["size"]), drawn["cutoff"]
        x, y = _grid(size)
        # J1 is slow: once for each distance from the center, of which a square has few.
        radii, index = np.unique(np.hypot(x, y), return_inverse=True)
        values = np.full(len(radii), cutoff**2 / (4 * math.pi))
        values[1:] = cutoff * _bessel_j1(cutoff * radii[1:]) / (2 * math.pi * radii[1:])
        return values[index].reshape(size, size)


# ---------------------------------------------------------------------------------------- formulas
def _mahalanobis(size: int, drawn: Mapping[str, float]) -> _Grid:
    """Return the squared distance from the center in units of the sigmas."""
    along, across = _rotated(size, drawn["rotation"])
    x = drawn["sigma_x"]
    return np.asarray((along / x) ** 2 + (across / drawn.get("sigma_y", x)) ** 2, np.float64)


def _rotated(size: int, degrees: float) -> tuple[_Grid, _Grid]:
    """Return the coordinates of each weight along and across an axis at that angle."""
    x, y = _grid(size)
    angle = math.radians(degrees)
    # y points down, so the signs are those of a rotation that is counter-clockwise as seen.
    along = x * math.cos(angle) - y * math.sin(angle)
    return along, x * math.sin(angle) + y * math.cos(angle)


def _grid(size: int) -> tuple[_Grid, _Grid]:
    """Return x and y of each weight, 0 in the center, y downwards."""
    at = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(at, at)
    return x, y


def _bessel_j1(x: _Grid) -> _Grid:
    """Return the Bessel function J1 of ``x``, to 1e-13.

    The integral of cos(t - x sin t) / 2 pi over a period, by the midpoint rule, which converges
    exponentially for periodic functions: the error is below 1e-13 while x is less than half the
    number of points.
    """
    # Not scipy.special.j1: its import takes 0.2 s, in each worker.
    points = 2 * int(x.max(initial=0)) + 64
    t = (np.arange(points) + 0.5) * (2 * math.pi / points)
    return np.asarray(np.cos(t[:, None] - x * np.sin(t)[:, None]).mean(axis=0), np.float64)
