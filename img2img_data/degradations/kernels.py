"""The kernels of the blurs, by formula: point-symmetric, odd, sum 1, float32."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Kernel = NDArray[np.float32]
_Grid = NDArray[np.float64]

_KEPT: Final = 64
"""How many kernels of each kind are kept; fixed strengths need one, drawn ones never come again."""


@functools.lru_cache(maxsize=_KEPT)
def gaussian_kernel(sigma: float) -> Kernel:
    """Return the 2 x int(4 sigma + 0.5) + 1 weights of a GaussianBlur, sum 1."""
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


@functools.lru_cache(maxsize=_KEPT)
def bell_kernel(size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float) -> Kernel:
    """Return exp(-d^(2 beta) / 2), d the Mahalanobis distance: beta 1 is the GaussianBlur, 0.5 has heavy tails.

    ``rotation`` in degrees turns the x axis of the ellipse counter-clockwise as the image is seen.
    Pascal, Bombrun, Tourneret, Berthoumieu: Parameter Estimation for Multivariate Generalized Gaussian
    Distributions, IEEE TSP 2013, as used in Real-ESRGAN (Wang et al., ICCVW 2021, section 3.1).
    """
    return _normalised(np.exp(-0.5 * _mahalanobis(size, sigma_x, sigma_y, rotation) ** beta))


@functools.lru_cache(maxsize=_KEPT)
def plateau_kernel(
    size: int, sigma_x: float, sigma_y: float, rotation: float, beta: float
) -> Kernel:
    """Return 1 / (1 + d^(2 beta)): the flatter in the middle the larger beta (Real-ESRGAN, section 3.1)."""
    return _normalised(1 / (1 + _mahalanobis(size, sigma_x, sigma_y, rotation) ** beta))


def bell_size(sigma: float, beta: float) -> int:
    """Return the size at which a bell of ``beta`` has fallen to exp(-8), as a Gaussian has at 4 sigma."""
    return 2 * math.ceil(sigma * 16 ** (0.5 / beta)) + 1


@functools.lru_cache(maxsize=_KEPT)
def motion_kernel(length: float, angle: float) -> Kernel:
    """Return max(0, 1 - distance to a segment), the segment ``length`` - 1 long, ``angle`` degrees, centred.

    The definition of ``fspecial('motion')`` in MATLAB and Octave's image package: at 0 degrees an odd length
    is a row of equal weights; a length of 1 is no blur. Angles are counter-clockwise as the image is seen.
    """
    half = (length - 1) / 2
    x, y = _grid(2 * math.ceil(half) + 1)
    turn = math.radians(angle)
    along = x * math.cos(turn) - y * math.sin(turn)
    across = x * math.sin(turn) + y * math.cos(turn)
    distance = np.hypot(np.maximum(np.abs(along) - half, 0), across)
    return _normalised(np.maximum(1 - distance, 0))


@functools.lru_cache(maxsize=_KEPT)
def disk_kernel(radius: float) -> Kernel:
    """Return a disk of ``radius`` pixels: full inside, falling over the pixel that its rim crosses.

    A radius of 0.5 or less (one pixel wide) is no blur.
    """
    x, y = _grid(2 * math.ceil(radius) + 1)
    return _normalised(np.clip(radius + 0.5 - np.hypot(x, y), 0, 1))


@functools.lru_cache(maxsize=_KEPT)
def sinc_kernel(size: int, cutoff: float) -> Kernel:
    """Return the circular low-pass of ``cutoff`` radians a pixel: cutoff x J1(cutoff r) / (2 pi r), cut off.

    It makes the ringing of over-sharpened images. Real-ESRGAN, section 3.3.
    """
    x, y = _grid(size)
    radii, place = np.unique(np.hypot(x, y), return_inverse=True)
    values = np.full(len(radii), cutoff**2 / (4 * math.pi))
    values[1:] = cutoff * _bessel_j1(cutoff * radii[1:]) / (2 * math.pi * radii[1:])
    return _normalised(values[place].reshape(size, size))


def _bessel_j1(x: _Grid) -> _Grid:
    """Return J1 by its integral over a period, cos(t - x sin t) / 2 pi, which the midpoint rule sums exactly.

    The error is below 1e-13 while x stays under half the number of points.
    """
    points = 2 * int(x.max(initial=0)) + 64
    t = (np.arange(points) + 0.5) * (2 * math.pi / points)
    return np.asarray(np.cos(t[:, None] - x * np.sin(t)[:, None]).mean(axis=0), np.float64)


def _grid(size: int) -> tuple[_Grid, _Grid]:
    """Return x and y of each weight, 0 in the middle, y downwards."""
    at = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(at, at)
    return x, y


def _mahalanobis(size: int, sigma_x: float, sigma_y: float, rotation: float) -> _Grid:
    """Return the squared distance from the centre in units of the sigmas."""
    x, y = _grid(size)
    turn = math.radians(rotation)
    along = x * math.cos(turn) - y * math.sin(turn)
    across = x * math.sin(turn) + y * math.cos(turn)
    return np.asarray((along / sigma_x) ** 2 + (across / sigma_y) ** 2, np.float64)


def _normalised(weights: NDArray[Any]) -> Kernel:
    return np.asarray(weights / weights.sum(), np.float32)
