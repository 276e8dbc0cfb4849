"""How far the two images of a pair lie apart, to a fraction of a pixel; or that it cannot be told.

Phase correlation (Kuglin and Hines, "The Phase Correlation Image Alignment Method", 1975), made to work
between a photo and a sketch, a label map, an edge map or a blurred copy:

- What is correlated is not lightness but edges, each as gradient squared over its length, a complex number
  whose angle is twice the edge's (Bigün and Granlund, "Optimal orientation detection of linear symmetry",
  ICCV 1987): a dark line on white and the rim of a bright surface are the same.
- The spectrum is whitened by the power 0.7; 1 is the phase transform among the weights of Knapp and Carter
  (IEEE TASSP 24(4), 1976). Low frequencies count most: high ones are gone from a blurred image, and noise
  elsewhere.

Measured by ``benchmarks/alignment.py`` on real pairs, shifts of 0 to 9 pixels planted (facades and faces:
from where the pair was found before); the share of shifts that were found more than a pixel off:

=============================  =========  ============================================
pairs                          this here  cv2.phaseCorrelate on lightness / gradients
=============================  =========  ============================================
photo | Gaussian blur of 3     0.00       0.00 / 0.01
the same at 64 pixels          0.00       0.18 / 0.50
photo | Canny edges            0.00       0.91 / 0.03
facade | label map             0.00       0.45 / 0.27
face | pencil sketch           0.00       0.05 / 0.04
=============================  =========  ============================================

The median error is 0.02 to 0.11 pixels, at 64 pixels under that blur 0.21.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.images import io

Plane = NDArray[np.float32]

WHITENING: Final = 0.7
BAND: Final = 0.1
"""Standard deviation, in cycles a pixel, of the Gaussian that weighs the frequencies."""

NEAR: Final = 5
"""Pixels around the peak that belong to it."""

LONGEST: Final = 1024
"""Larger images are measured at this longer side."""

SHORTEST: Final = 32
"""In images with a shorter side than this nothing is told."""

DOUBTFUL: Final = 0.7
"""Doubt above which a shift is not believed. At this limit 85 of 100 facades are told from their label maps,
87 of 88 faces from their sketches, and all of 240 photos from their blurred copies at 48 to 128 pixels; of
unrelated photos 1 to 4 in 100 seem to be told at 128 pixels and more, 12 at 64."""


class Shift(NamedTuple):
    """Where the second image lies: ``x`` pixels to the right of the first, ``y`` below.

    ``doubt``: how well the best other place fits beside this one, 0 (not at all) to 1 (as well: periodic,
    flat or unrelated images).
    """

    x: float
    y: float
    doubt: float

    def __str__(self) -> str:
        right, down = (round(v, 1) + 0.0 for v in (self.x, self.y))  # + 0.0: no -0.0
        return f"{self.length:.1f} pixels apart: {right:+.1f} to the right, {down:+.1f} down"

    @property
    def length(self) -> float:
        """The way in pixels."""
        return float(np.hypot(self.x, self.y))

    @property
    def believed(self) -> bool:
        """Whether the place is told apart from all others."""
        return self.doubt <= DOUBTFUL


def measure_shift(first: NDArray[Any], second: NDArray[Any]) -> Shift:
    """Measure the shift between two images of one size, H x W, H x W x 3 or RGBA, uint8 or uint16.

    Takes 3 ms at 250 x 200 pixels. ``ValueError`` when the sizes differ.
    """
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(f"two sizes: {first.shape[:2]} and {second.shape[:2]}")
    if min(first.shape[:2]) < SHORTEST:
        return Shift(0.0, 0.0, 1.0)
    scale = min(1.0, LONGEST / max(first.shape[:2]))
    fits = _correlation(*(_spectrum(_scaled(p, scale)) for p in (first, second)))
    top, left = np.unravel_index(int(fits.argmax()), fits.shape)
    peak = float(fits[top, left])
    if peak <= 0:
        return Shift(0.0, 0.0, 1.0)
    around = np.roll(fits, (NEAR - int(top), NEAR - int(left)), (0, 1))
    x = left + _summit(around[NEAR, NEAR - 1 : NEAR + 2])
    y = top + _summit(around[NEAR - 1 : NEAR + 2, NEAR])
    around[: 2 * NEAR + 1, : 2 * NEAR + 1] = 0
    height, width = fits.shape
    x, y = (v - n if v > n / 2 else v for v, n in ((x, width), (y, height)))
    doubt = max(0.0, float(around.max()) / peak)
    return Shift(round(x / scale, 2) + 0.0, round(y / scale, 2) + 0.0, round(doubt, 3))


def _scaled(pixels: NDArray[Any], scale: float) -> NDArray[Any]:
    if scale == 1.0:
        return pixels
    return cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _spectrum(pixels: NDArray[Any]) -> Plane:
    """Return the Fourier transform, H x W x 2, of a image's edges under a Hann window."""
    gray = pixels if pixels.ndim == 2 else io.luminance(pixels[..., :3])
    smooth = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.0)
    along_x, along_y = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    strength = np.maximum(cv2.magnitude(along_x, along_y), np.float32(1e-6))
    height, width = gray.shape
    window = cv2.createHanningWindow((width, height), cv2.CV_32F) / strength
    plane = np.zeros((cv2.getOptimalDFTSize(height), cv2.getOptimalDFTSize(width), 2), np.float32)
    plane[:height, :width, 0] = (along_x**2 - along_y**2) * window
    plane[:height, :width, 1] = 2 * along_x * along_y * window
    return np.asarray(cv2.dft(plane, flags=cv2.DFT_COMPLEX_OUTPUT), np.float32)


def _correlation(first: Plane, second: Plane) -> Plane:
    """Return how well each shift (x, y) fits, at [y, x] of H x W; negative ones stand at the far end."""
    product = cv2.mulSpectrums(second, first, 0, conjB=True)
    strength = cv2.magnitude(product[..., 0], product[..., 1])
    weight = (
        _band(strength.shape) / np.maximum(strength, 1e-9 * strength.max() + 1e-30) ** WHITENING
    )
    back = cv2.dft(product * weight[..., None], flags=cv2.DFT_INVERSE | cv2.DFT_SCALE)
    return np.asarray(back[..., 0], np.float32)


def _band(shape: tuple[int, ...]) -> Plane:
    across, down = (np.exp(-0.5 * (np.fft.fftfreq(n) / BAND) ** 2) for n in (shape[1], shape[0]))
    return np.outer(down, across).astype(np.float32)


def _summit(three: Plane) -> float:
    """Return where the parabola through three samples is highest, from the middle one."""
    before, here, after = (float(v) for v in three)
    bend = before - 2 * here + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0
