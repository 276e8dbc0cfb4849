"""Statistics of a set of images, and scores of one set against another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from img2img_data.images.pixels import Pixels
from img2img_train.metrics.color_overlap import color_overlaps, lab_histogram
from img2img_train.metrics.fid import Gaussian, Inception, frechet_distance


@dataclass(slots=True)
class SetStatistics:
    """Colors and Inception features of a set, accumulated over batches.

    ``histograms``: 3 x 256, the shares of pixels by L, a and b (``lab_histogram``), summed over the
    images.
    """

    inception: Inception
    features: Gaussian = field(default_factory=Gaussian)
    histograms: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 256)))

    def add(self, images: Pixels) -> None:
        """Add a batch, N x H x W x 3 RGB, uint8 or uint16."""
        self.features.update(self.inception.features(images))
        self.histograms = self.histograms + np.sum([*map(lab_histogram, images)], axis=0)

    def scores(self, other: SetStatistics) -> dict[str, float]:
        """Return FID (0 or more) and the overlaps of colors (0 to 1) with another set, by metric.

        Both sets hold two images at least.
        """
        shares = (each.histograms / each.features.count for each in (self, other))
        return color_overlaps(*shares) | {"fid": frechet_distance(self.features, other.features)}
