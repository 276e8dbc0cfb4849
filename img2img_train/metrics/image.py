"""Metrics of two images: PSNR, MAE, SSIM, MS-SSIM, and PSNR and SSIM of the luma.

Every function takes an output and its target, both H x W x C, uint8 or uint16 and of one dtype.
Samples are measured in gray levels, 0 to 255: 16-bit samples are divided by 257 and not rounded.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.images.pixels import Pixels

Levels: TypeAlias = NDArray[np.float64]

PSNR_CAP: Final = 100.0
SSIM_WINDOW: Final = 11
SSIM_SIGMA: Final = 1.5
K1: Final = 0.01
K2: Final = 0.03
MS_SSIM_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales (Wang, Simoncelli, Bovik 2003, section 3.2)."""


def to_levels(pixels: Pixels) -> Levels:
    """Return the samples in gray levels, float64, 0 to 255."""
    values = pixels.astype(np.float64)
    # 65535 = 257 x 255. No rounding: it would hide errors below one 8-bit level.
    return values / 257 if pixels.dtype == np.uint16 else values


def psnr(output: Pixels, target: Pixels) -> float:
    """Return the peak signal-to-noise ratio in dB: peak 255, squared error over all samples.

    Agrees with ``skimage.metrics.peak_signal_noise_ratio`` to 1e-6 dB below PSNR_CAP.
    """
    error = float(np.mean(np.square(to_levels(output) - to_levels(target))))
    # Capped, because the ratio of identical images is infinite and would make the mean infinite.
    return PSNR_CAP if error == 0 else min(PSNR_CAP, 10 * float(np.log10(255**2 / error)))


def psnr_y(output: Pixels, target: Pixels) -> float:
    """Return the PSNR of the luma of RGB, as `luma` gives it, with a peak of 255.

    The definition of ``calculate_psnr(test_y_channel=True, crop_border=0)`` of BasicSR
    (basicsr/metrics/psnr_ssim.py). Agrees with scikit-image on its own luma to 1e-6 dB.
    """
    return psnr(luma(output), luma(target))


def ssim_y(output: Pixels, target: Pixels) -> float:
    """Return the structural similarity of the luma of RGB, otherwise as `ssim`.

    The definition of ``calculate_ssim(test_y_channel=True, crop_border=0)`` of BasicSR.
    """
    return ssim(luma(output), luma(target))


def luma(pixels: Pixels) -> Levels:
    """Return Y of YCbCr (ITU-R BT.601), H x W, 16 to 235, not rounded.

    The weights of MATLAB's ``rgb2ycbcr``, which papers on restoration use.
    """
    return np.asarray(to_levels(pixels) / 255 @ (65.481, 128.553, 24.966) + 16, np.float64)


def mae(output: Pixels, target: Pixels) -> float:
    """Return the mean absolute error over all samples, in gray levels 0 to 255."""
    return float(np.mean(np.abs(to_levels(output) - to_levels(target))))


def ssim(output: Pixels, target: Pixels) -> float:
    """Return the structural similarity, -1 to 1: the mean over pixels and channels.

    Wang, Bovik, Sheikh, Simoncelli (2004), "Image Quality Assessment: From Error Visibility to
    Structural Similarity", equation 13, with the constants of its section III.C: Gaussian window of
    11 x 11, sigma 1.5, K1 0.01, K2 0.03. The border of 5 pixels is left out; an image narrower than
    the window is averaged with its borders reflected. Agrees to 1e-6 with
    ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)``.
    """
    luminance, structure = _similarity_maps(to_levels(output), to_levels(target))
    return float(_without_border(luminance * structure).mean())


def ms_ssim(output: Pixels, target: Pixels) -> float:
    """Return the multi-scale structural similarity, 0 to 1: the mean over the channels.

    Wang, Simoncelli, Bovik (2003), "Multiscale Structural Similarity for Image Quality Assessment",
    equation 7: contrast and structure on five scales, each half the one before (2 x 2 means),
    luminance on the last. Negative means count as 0. The published weights need a shorter side of
    176 pixels; a smaller image uses the scales on which the window fits, their weights scaled to
    sum 1. Agrees with
    ``torchmetrics.functional.image.multiscale_structural_similarity_index_measure`` to 1e-4 on gray
    images (torchmetrics averages over the channels before it multiplies the scales).
    """
    x, y = to_levels(output), to_levels(target)
    short_side = min(x.shape[:2])
    scales = sum(short_side >> scale >= SSIM_WINDOW for scale in range(len(MS_SSIM_WEIGHTS))) or 1
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    product = np.ones(x.shape[2])
    for scale, weight in enumerate(weights, 1):
        luminance, structure = _similarity_maps(x, y)
        similarity = luminance * structure if scale == scales else structure
        # A negative base has no real power; the paper does not say what to do with it.
        product *= np.maximum(_without_border(similarity).mean(axis=(0, 1)), 0) ** weight
        if scale < scales:
            x, y = _halved(x), _halved(y)
    return float(product.mean())


def _halved(values: Levels) -> Levels:
    """Return the means of 2 x 2 blocks; an odd last row or column is left out."""
    height, width = values.shape[0] // 2, values.shape[1] // 2
    even = values[: 2 * height, : 2 * width]
    return np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.float64)


def _similarity_maps(x: Levels, y: Levels) -> tuple[Levels, Levels]:
    """Return the maps of luminance and of contrast times structure, H x W x C."""
    window = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)

    def local_mean(values: Levels) -> Levels:
        smooth = cv2.sepFilter2D(values, cv2.CV_64F, window, window, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, np.float64)

    mean_x, mean_y = local_mean(x), local_mean(y)
    # Population moments (weights sum to 1), as in the paper; scikit-image's default is the
    # sample's.
    var_x, var_y = local_mean(x * x) - mean_x**2, local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def _without_border(values: Levels) -> Levels:
    """Return a map without the border where the window leaves the image, if it fits at all."""
    border = SSIM_WINDOW // 2 if min(values.shape[:2]) >= SSIM_WINDOW else 0
    return values[border : values.shape[0] - border, border : values.shape[1] - border]
