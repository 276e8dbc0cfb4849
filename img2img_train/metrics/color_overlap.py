"""Overlap of the color histograms of outputs and targets, over a set of images.

Isola, Zhu, Zhou, Efros (2017), "Image-to-Image Translation with Conditional Adversarial Networks",
section 4.2 and table 5, compare the same marginals in Lab.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_data.images.color import rgb_to_lab
from img2img_data.images.pixels import Pixels, to_uint8_rgb
from img2img_train.metrics import bootstrap
from img2img_train.metrics.registry import COLOR_METRICS

# 1,000 x 3 x 3 x 256 float64 are 18 MB; the histograms of every image of a corpus would not fit.
MAX_GROUPS: Final = 1000
"""Groups of images whose histograms are kept apart; beyond, several groups share one histogram."""

Histograms: TypeAlias = Sequence[NDArray[np.float64]]
INPUT, OUTPUT, TARGET = range(3)


def lab_histogram(pixels: Pixels) -> NDArray[np.float64]:
    """Return the shares of an image's pixels by L, by a and by b: 3 x 256, each row summing to 1.

    Bins are those of 8-bit CIE L*a*b* (D65): 100 / 255 units of L, one unit of a and b.
    """
    lab = rgb_to_lab(np.ascontiguousarray(to_uint8_rgb(pixels))).reshape(-1, 3)
    counts = np.stack([np.bincount(lab[:, channel], minlength=256) for channel in range(3)])
    return counts / len(lab)


def intersection(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the overlap of histograms along the last axis, 0 (disjoint) to 1 (equal)."""
    return np.asarray(np.minimum(first, second).sum(axis=-1), np.float64)


def color_overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, float]:
    """Return the overlaps of two ``lab_histogram``s, 3 x 256, by metric."""
    return dict(zip(COLOR_METRICS, intersection(first, second).tolist(), strict=True))


@dataclass(slots=True)
class ColorHistograms:
    """The colors of inputs, outputs and targets, summed over the images of each group.

    ``sums`` holds 3 (input, output, target) x 3 (L, a, b) x 256 numbers for each group, ``images``
    the number of its images.
    """

    indices: dict[str, int] = field(default_factory=dict)
    sums: list[NDArray[np.float64]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def update(self, group: str, input: Pixels, output: Pixels, target: Pixels) -> None:
        """Add one image, H x W x 3 each; ``group`` names the unit that intervals resample."""
        self.add(group, [lab_histogram(image) for image in (input, output, target)])

    def add(self, group: str, histograms: Histograms) -> None:
        """Add the histograms of one image: of input, output and target."""
        index = self.indices.setdefault(group, len(self.indices) % MAX_GROUPS)
        if index == len(self.images):
            self.sums.append(np.zeros((3, 3, 256)))
            self.images.append(0)
        self.sums[index] += histograms
        self.images[index] += 1

    def scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the overlaps with the targets, by metric: of the outputs, and of the inputs."""
        input, output, target = np.sum(self.sums, axis=0) / sum(self.images)
        return color_overlaps(output, target), color_overlaps(input, target)

    def gain_intervals(self, other: ColorHistograms | None = None) -> dict[str, bootstrap.Interval]:
        """Return the 95 % interval of the gain in overlap over the inputs, by metric, or over the
        outputs of ``other``, which must hold the same images. None below four groups.
        """
        groups = len(self.images)
        if groups < bootstrap.LEAST_GROUPS:
            return dict.fromkeys(COLOR_METRICS)
        intervals = bootstrap.percentile_intervals(self.resampled_gains(other), groups)
        return dict(zip(COLOR_METRICS, intervals, strict=True))

    def resampled_gains(self, other: ColorHistograms | None = None) -> NDArray[np.float64]:
        """Return the gains of ``gain_intervals`` in each resample of groups, resamples x 3."""
        own = self._resampled_overlaps()
        baseline = own[:, INPUT] if other is None else other._resampled_overlaps()[:, OUTPUT]
        return own[:, OUTPUT] - baseline

    def _resampled_overlaps(self) -> NDArray[np.float64]:
        """Return the overlaps of inputs and of outputs with the targets in each resample of groups:
        resamples x 2 x 3.
        """
        sums, overlaps = np.stack(self.sums).reshape(len(self.sums), -1), []
        for counts in bootstrap.resample_counts(len(sums)):
            means = (counts @ sums / (counts @ self.images)[:, None]).reshape(-1, 3, 3, 256)
            overlaps.append(intersection(means[:, :TARGET], means[:, TARGET:]))
        return np.concatenate(overlaps)
