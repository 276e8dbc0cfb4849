"""Metrics of two images: PSNR, MAE, SSIM, MS-SSIM, and PSNR and SSIM of the luma.

Every function takes an output and its target, both H x W x C, uint8 or uint16 and of one dtype.
Samples are measured in gray levels, 0 to 255: 16-bit samples are divided by 257 and not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    error = _mean_error(output, target, cv2.NORM_L2SQR, 2)
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
    """Return Y of YCbCr (ITU-R BT.601), H x W x 1, 16 to 235, not rounded.

    The weights of MATLAB's ``rgb2ycbcr``, which papers on restoration use.
    """
    y = to_levels(pixels) / 255 @ (65.481, 128.553, 24.966) + 16
    return np.asarray(y[..., None], np.float64)


def mae(output: Pixels, target: Pixels) -> float:
    """Return the mean absolute error over all samples, in gray levels 0 to 255."""
    return _mean_error(output, target, cv2.NORM_L1, 1)


def _mean_error(output: Pixels | Levels, target: Pixels | Levels, norm: int, power: int) -> float:
    """Return the mean of the absolute errors in gray levels, or of their squares (``power`` 2)."""
    # OpenCV adds integers exactly, without a copy of the images in float64.
    unit = 257 if output.dtype == np.uint16 else 1
    return float(cv2.norm(output, target, norm)) / float(output.size * unit**power)


def ssim(output: Pixels, target: Pixels) -> float:
    """Return the structural similarity, -1 to 1: the mean over pixels and channels.

    Wang, Bovik, Sheikh, Simoncelli (2004), "Image Quality Assessment: From Error Visibility to
    Structural Similarity", equation 13, with the constants of its section III.C: Gaussian window of
    11 x 11, sigma 1.5, K1 0.01, K2 0.03. The border of 5 pixels is left out; an image narrower than
    the window is averaged with its borders reflected. Agrees to 1e-6 with
    ``skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)``.
    """
    return float(similarities([output], target)[0][0])


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
    return float(similarities([output], target)[0][1])


def similarities(
    outputs: Sequence[Pixels | Levels], target: Pixels | Levels
) -> list[tuple[float, float]]:
    """Return ``ssim`` and ``ms_ssim`` of each of several outputs of one target."""
    # Together, because both need the maps of the first scale, and all outputs those of the target.
    xs, y = [to_levels(output) for output in outputs], to_levels(target)
    short_side = min(y.shape[:2])
    scales = sum(short_side >> scale >= SSIM_WINDOW for scale in range(len(MS_SSIM_WEIGHTS))) or 1
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    first, products = list[float](), np.ones((len(xs), y.shape[2]))
    for scale, weight in enumerate(weights, 1):
        means = list(_similarity_means(xs, y))
        first = first or [float(similarity.mean()) for similarity, _ in means]
        for product, (similarity, structure) in zip(products, means, strict=True):
            # A negative base has no real power; the paper does not say what to do with it.
            product *= np.maximum(similarity if scale == scales else structure, 0) ** weight
        if scale < scales:
            xs, y = list(map(_halved, xs)), _halved(y)
    return list(zip(first, products.mean(axis=1).tolist(), strict=True))


def _halved(values: Levels) -> Levels:
    """Return the means of 2 x 2 blocks; an odd last row or column is left out."""
    height, width = values.shape[0] // 2, values.shape[1] // 2
    even = values[: 2 * height, : 2 * width]
    small = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float64).reshape(height, width, -1)


def _similarity_means(xs: Sequence[Levels], y: Levels) -> Iterator[tuple[Levels, Levels]]:
    """Yield the mean similarity of each x and y, and that of contrast times structure, C each.

    They are means over the pixels, without the border where the window leaves the image, if it fits
    at all.
    """
    window = cv2.getGaussianKernel(SSIM_WINDOW, SSIM_SIGMA, cv2.CV_64F)
    border = SSIM_WINDOW // 2 if min(y.shape[:2]) >= SSIM_WINDOW else 0
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    height, width, channels = y.shape
    inside = slice(border, height - border), slice(border, width - border)

    def channel_means(values: Levels) -> Levels:
        # A tenth of the time that NumPy takes for it.
        return np.array(cv2.mean(values[inside])[:channels])

    def local_mean(values: Levels) -> Levels:
        smooth = cv2.sepFilter2D(values, cv2.CV_64F, window, window, borderType=cv2.BORDER_REFLECT)
        return np.asarray(smooth, np.float64).reshape(y.shape)

    # Whole arrays, in place, and what the target and the constants add to both terms once: the
    # arithmetic takes as long as the filters.
    mean_y, twice_y, squared_y = local_mean(y), 2 * y, y * y + (c1 + c2)
    twice_mean_y, squared_mean_y = 2 * mean_y, mean_y * mean_y + c1
    for x in xs:
        mean_x = local_mean(x)
        products, squares = mean_x * twice_mean_y + c1, mean_x * mean_x + squared_mean_y
        # Population moments (weights sum to 1), as in the paper; scikit-image's default is the
        # sample's.
        structure = local_mean(x * twice_y)
        structure -= products
        structure += c1 + c2
        structure /= local_mean(x * x + squared_y) - squares
        products /= squares
        products *= structure
        yield channel_means(products), channel_means(structure)
