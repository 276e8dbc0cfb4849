"""The metrics: what one number says about an output and its target.

A list that grows: write a function of two H x W x 3 uint8 pictures, add a line to ``METRICS``, and every
table, CSV and page shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]

PSNR_CAP: Final = 100.0
SSIM_WINDOW: Final = 11
SSIM_SIGMA: Final = 1.5


def psnr(output: Pixels, target: Pixels) -> float:
    """Peak signal-to-noise ratio of two HWC uint8 pictures, dB: peak 255, error over all samples.

    At most PSNR_CAP, for the ratio of identical pictures is infinite and an infinite mean says nothing.
    """
    error = float(np.mean(np.square(output.astype(np.float64) - target)))
    return PSNR_CAP if error == 0 else min(PSNR_CAP, 10 * float(np.log10(255**2 / error)))


def mae(output: Pixels, target: Pixels) -> float:
    """Mean absolute error of two HWC uint8 pictures, in grey levels 0 to 255."""
    return float(np.mean(np.abs(output.astype(np.int16) - target)))


def ssim(output: Pixels, target: Pixels) -> float:
    """Structural similarity of two HWC uint8 pictures, -1 to 1, the mean over the channels.

    Wang, Bovik, Sheikh, Simoncelli (2004): Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03, the
    border of 5 pixels left out; as ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``. A picture narrower than the window is averaged whole, with its borders
    reflected.
    """
    import cv2

    window = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)

    def local(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth = cv2.sepFilter2D(values, cv2.CV_64F, window, window, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, np.float64)

    x, y = output.astype(np.float64), target.astype(np.float64)
    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similar /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    border = SSIM_WINDOW // 2 if min(similar.shape[:2]) >= SSIM_WINDOW else 0
    return float(similar[border : similar.shape[0] - border, border : similar.shape[1] - border].mean())


@dataclass(frozen=True, slots=True)
class Metric:
    """One number for two pictures, and how to write it for people."""

    measure: Callable[[Pixels, Pixels], float]
    label: str
    unit: str
    digits: int
    higher_is_better: bool
    how: str

    def gain(self, score: float, nothing: float) -> float:
        """Return by how much ``score`` is better than ``nothing``: positive is better whatever the metric."""
        return score - nothing if self.higher_is_better else nothing - score


METRICS: Final[dict[str, Metric]] = {
    "psnr": Metric(
        psnr,
        "PSNR",
        "dB",
        2,
        True,
        f"10 log10(255² / mean squared error over all samples of a picture), at most {PSNR_CAP:g}",
    ),
    "ssim": Metric(
        ssim,
        "SSIM",
        "",
        4,
        True,
        f"Gaussian window {SSIM_WINDOW}, sigma {SSIM_SIGMA}, K1 0.01, K2 0.03, population covariance, "
        f"mean over channels, border of {SSIM_WINDOW // 2} pixels left out",
    ),
    "mae": Metric(mae, "MAE", "levels", 2, False, "mean absolute difference in grey levels, 0 to 255"),
}
"""Every metric, in the order of the tables. To add one, add a line."""
