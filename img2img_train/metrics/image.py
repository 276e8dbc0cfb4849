"""The metrics: what one number says about an output and its target.

A list that grows: write a function of two H x W x 3 images, uint8 or uint16, add a line to ``METRICS``, and
every table, CSV and page shows it. ``SET_METRICS`` holds those that compare all outputs with all targets at
once, ``PERCEPTUAL`` those that need a network whose weights the user brings.

Samples are measured in gray levels, 0 to 255: those of 16 bit are divided by 257 and not rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from img2img_data.images.pixels import Pixels

"""H x W x 3 RGB, uint8 or uint16."""

PSNR_CAP: Final = 100.0
SSIM_WINDOW: Final = 11
SSIM_SIGMA: Final = 1.5
K1: Final = 0.01
K2: Final = 0.03
MS_SSIM_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def levels(pixels: Pixels) -> NDArray[np.float64]:
    """Return the samples in gray levels, 0 to 255."""
    values = pixels.astype(np.float64)
    return values / 257 if pixels.dtype == np.uint16 else values


def psnr(output: Pixels, target: Pixels) -> float:
    """Peak signal-to-noise ratio of two HWC images, dB: peak 255, error over all samples.

    At most PSNR_CAP, for the ratio of identical images is infinite and an infinite mean says nothing.
    """
    error = float(np.mean(np.square(levels(output) - levels(target))))
    return PSNR_CAP if error == 0 else min(PSNR_CAP, 10 * float(np.log10(255**2 / error)))


def mae(output: Pixels, target: Pixels) -> float:
    """Mean absolute error of two HWC images, in gray levels 0 to 255."""
    return float(np.mean(np.abs(levels(output) - levels(target))))


def ssim(output: Pixels, target: Pixels) -> float:
    """Structural similarity of two HWC images, -1 to 1, the mean over the channels.

    Wang, Bovik, Sheikh, Simoncelli (2004): Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03, the
    border of 5 pixels left out; as ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False)``. A image narrower than the window is averaged whole, with its borders
    reflected.
    """
    luminance, structure = _similarity(levels(output), levels(target))
    return float(_inner(luminance * structure).mean())


def _similarity(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the maps of luminance and of contrast times structure, H x W x C, of samples 0 to 255."""
    import cv2

    window = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)

    def local(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth = cv2.sepFilter2D(values, cv2.CV_64F, window, window, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, np.float64)

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _inner(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Leave out the border that the window cannot see whole, where there is anything else."""
    border = SSIM_WINDOW // 2 if min(values.shape[:2]) >= SSIM_WINDOW else 0
    return values[border : values.shape[0] - border, border : values.shape[1] - border]


def ms_ssim(output: Pixels, target: Pixels) -> float:
    """Multi-scale structural similarity of two HWC images, 0 to 1, the mean over the channels.

    Wang, Simoncelli, Bovik (2003), equation 7: contrast and structure on five scales, each half the one
    before (2 x 2 means), luminance on the last. Negative means count as 0. The published weights need a
    shorter side of 176 pixels; of a smaller image the scales on which the window fits are used, their
    weights scaled to sum 1.
    """
    import cv2

    x, y = levels(output), levels(target)
    scales = (
        sum(min(x.shape[:2]) >> scale >= SSIM_WINDOW for scale in range(len(MS_SSIM_WEIGHTS))) or 1
    )
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    product = np.ones(x.shape[2])
    for scale, weight in enumerate(weights, 1):
        luminance, structure = _similarity(x, y)
        seen = _inner(luminance * structure if scale == scales else structure).mean(axis=(0, 1))
        product *= np.maximum(seen, 0) ** weight
        size = x.shape[1] // 2, x.shape[0] // 2
        if scale < scales:
            even = (slice(0, 2 * size[1]), slice(0, 2 * size[0]))
            x, y = (
                np.asarray(cv2.resize(p[even], size, interpolation=cv2.INTER_AREA), np.float64)
                for p in (x, y)
            )
    return float(product.mean())


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number says, and how to write it for people."""

    label: str
    unit: str
    digits: int
    higher_is_better: bool
    how: str

    def gain(self, score: float, nothing: float) -> float:
        """Return by how much ``score`` is better than ``nothing``: positive is better whatever the metric."""
        return score - nothing if self.higher_is_better else nothing - score


@dataclass(frozen=True, slots=True)
class Metric(Measure):
    """One number for two images."""

    measure: Callable[[Pixels, Pixels], float]


METRICS: Final[dict[str, Metric]] = {
    "psnr": Metric(
        "PSNR",
        "dB",
        2,
        True,
        "10 log10(255² / mean squared error over all samples of a image, no border left out), "
        f"at most {PSNR_CAP:g}",
        psnr,
    ),
    "ssim": Metric(
        "SSIM",
        "",
        4,
        True,
        f"Gaussian window of {SSIM_WINDOW} x {SSIM_WINDOW}, sigma {SSIM_SIGMA}, K1 {K1}, K2 {K2}, "
        f"population covariance, mean over channels, border of {SSIM_WINDOW // 2} pixels left out; of a "
        "image narrower than the window nothing is left out, and its borders are reflected",
        ssim,
    ),
    "ms-ssim": Metric(
        "MS-SSIM",
        "",
        4,
        True,
        "five scales, each the 2 x 2 means of the one before, weights "
        f"{', '.join(map(str, MS_SSIM_WEIGHTS))}; of a image whose shorter side is below "
        f"{SSIM_WINDOW << (len(MS_SSIM_WEIGHTS) - 1)} pixels the scales on which the window of {SSIM_WINDOW} "
        "fits, their weights scaled to sum 1, so compare only images of one size; otherwise as SSIM",
        ms_ssim,
    ),
    "mae": Metric(
        "MAE", "levels", 2, False, "mean absolute difference in gray levels, 0 to 255", mae
    ),
}
"""Every metric, in the order of the tables. To add one, add a line."""

PERCEPTUAL: Final[dict[str, Measure]] = {
    "lpips": Measure(
        "LPIPS",
        "",
        4,
        False,
        "distance of the features of a network, scaled to length 1 at each place and weighted by learned "
        "heads, mean over places, sum over layers (Zhang et al. 2018, version 0.1)",
    ),
    "fid": Measure(
        "FID",
        "",
        2,
        False,
        "Fréchet distance of all outputs from all targets as Gaussians of Inception features (Heusel et al. "
        "2017), images scaled to 299 x 299 (bilinear, pixel centres, as pytorch-fid); too high for few "
        "images, so compare only sets of equal size",
    ),
}
"""What networks measure; the functions stand in ``lpips`` and ``frechet``."""


# ------------------------------------------------------------------------------- over a whole set
def lab_histogram(pixels: Pixels) -> NDArray[np.float64]:
    """Return the shares of a image's pixels by L, by a and by b: 3 x 256, each row summing to 1.

    Bins are those of 8-bit CIE L*a*b* (D65): 100 / 255 units of L, one unit of a and b.
    """
    from img2img_data.images.io import rgb_to_lab8, to_uint8_rgb

    lab = rgb_to_lab8(np.ascontiguousarray(to_uint8_rgb(pixels))).reshape(-1, 3)
    return np.stack([np.bincount(lab[:, channel], minlength=256) for channel in range(3)]) / len(
        lab
    )


def intersection(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the overlap of histograms along the last axis, 0 (apart) to 1 (the same)."""
    return np.asarray(np.minimum(first, second).sum(axis=-1), np.float64)


def _overlap(place: int, label: str) -> Metric:
    def measure(output: Pixels, target: Pixels) -> float:
        return float(intersection(lab_histogram(output)[place], lab_histogram(target)[place]))

    how = (
        f"intersection of the histograms of {label} in CIE L*a*b*, all outputs against all targets, each "
        "image weighing the same (after Isola, Zhu, Zhou, Efros 2017, section 4.2); bins of 8-bit Lab"
    )
    return Metric(f"{label} overlap", "", 3, True, how, measure)


SET_METRICS: Final[dict[str, Metric]] = {
    "lab-l": _overlap(0, "L"),
    "lab-a": _overlap(1, "a"),
    "lab-b": _overlap(2, "b"),
}
"""What compares a whole set of outputs with its targets; ``measure`` is for a set of one image."""
