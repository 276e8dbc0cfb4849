"""The registry of metrics: label, unit, digits, direction and definition of each, in the order of
tables.

To add a metric of two images, write a function in `image` and add a row to ``METRICS``: every
table, CSV file and page shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from img2img_data.images.pixels import Pixels
from img2img_train.metrics import image


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as tables show it; ``definition`` is printed in the protocol of a result."""

    label: str
    unit: str
    digits: int
    better: Literal["higher", "lower"]
    definition: str

    def gain(self, score: float, baseline: float) -> float:
        """Return by how much ``score`` is better than ``baseline``: positive is better."""
        return score - baseline if self.better == "higher" else baseline - score


@dataclass(frozen=True, slots=True)
class ImageMetric(Metric):
    """A metric of one image: ``compute(output, target)``, both H x W x 3, uint8 or uint16.

    ``always``: computed unasked.
    """

    compute: Callable[[Pixels, Pixels], float]
    always: bool = True


PSNR: Final = (
    "10 log10(255² / mean squared error over all samples of an image, no border left out), "
    f"at most {image.PSNR_CAP:g}"
)
SSIM: Final = (
    "Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03, population covariance, mean over "
    "channels, border of 5 pixels left out (an image narrower than the window keeps it, reflected)"
)
MS_SSIM: Final = (
    "five scales, each the 2 x 2 means of the one before, weights 0.0448, 0.2856, 0.3001, 0.2363, "
    "0.1333; an image whose shorter side is below 176 pixels uses the scales on which the window "
    "fits, their weights scaled to sum 1, so compare only images of one size; otherwise as SSIM"
)
LUMA: Final = (
    "on Y of YCbCr (BT.601, range 16 to 235, not rounded), as test_y_channel of BasicSR with "
    "crop_border 0; peak 255; otherwise as {}"
)
MAE: Final = "mean absolute difference in gray levels, 0 to 255"
OVERLAP: Final = (
    "intersection of the histograms of {} in CIE L*a*b*, all outputs against all targets, each "
    "image weighing the same (after Isola, Zhu, Zhou, Efros 2017, section 4.2); bins of 8-bit Lab"
)
LPIPS: Final = (
    "distance of network features, scaled to length 1 at each position and weighted by learned "
    "heads, mean over positions, sum over layers (Zhang et al. 2018, version 0.1)"
)
FID: Final = (
    "Fréchet distance of all outputs from all targets as Gaussians of Inception features (Heusel "
    "et al. 2017), images resized to 299 x 299 (bilinear, pixel centers, as pytorch-fid); too high "
    "for few images, so compare only sets of equal size"
)

METRICS: Final[dict[str, Metric]] = {
    "psnr": ImageMetric("PSNR", "dB", 2, "higher", PSNR, image.psnr),
    "ssim": ImageMetric("SSIM", "", 4, "higher", SSIM, image.ssim),
    "ms-ssim": ImageMetric("MS-SSIM", "", 4, "higher", MS_SSIM, image.ms_ssim),
    "psnr_y": ImageMetric("PSNR Y", "dB", 2, "higher", LUMA.format("PSNR"), image.psnr_y, False),
    "ssim_y": ImageMetric("SSIM Y", "", 4, "higher", LUMA.format("SSIM"), image.ssim_y, False),
    "mae": ImageMetric("MAE", "levels", 2, "lower", MAE, image.mae),
    "lab-l": Metric("L overlap", "", 3, "higher", OVERLAP.format("L")),
    "lab-a": Metric("a overlap", "", 3, "higher", OVERLAP.format("a")),
    "lab-b": Metric("b overlap", "", 3, "higher", OVERLAP.format("b")),
    "lpips": Metric("LPIPS", "", 4, "lower", LPIPS),
    "fid": Metric("FID", "", 2, "lower", FID),
}
"""All metrics by name, in the order of tables."""

IMAGE_METRICS: Final = {n: m for n, m in METRICS.items() if isinstance(m, ImageMetric)}
"""Computed per image."""
COLOR_METRICS: Final = ("lab-l", "lab-a", "lab-b")
"""Computed over a set of images, always (`color_overlap`); in the order of Lab channels."""
PERCEPTUAL_METRICS: Final = ("lpips", "fid")
"""Computed by networks whose weights the user supplies (`perceptual`)."""
ON_DEMAND: Final = {n for n, m in IMAGE_METRICS.items() if not m.always} | {*PERCEPTUAL_METRICS}
"""Computed only if they are asked for."""


def image_scores(
    outputs: Sequence[Pixels], target: Pixels, names: Collection[str]
) -> list[dict[str, float]]:
    """Return the scores of each of several outputs of one target by the image metrics ``names``."""
    rows = []
    for x, (ssim, ms_ssim) in zip(outputs, image.similarities(outputs, target), strict=True):
        own = {"ssim": ssim, "ms-ssim": ms_ssim}
        rows.append({n: own[n] if n in own else IMAGE_METRICS[n].compute(x, target) for n in names})
    return rows
