"""The colors of a whole set of images: do outputs have those of their targets?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from img2img_data.images.pixels import Pixels
from img2img_train.metrics.bootstrap import RESAMPLES, Interval, draws, percentiles
from img2img_train.metrics.image import SET_METRICS, intersection, lab_histogram

MOST_GROUPS: Final = 1000
"""Histograms are kept for so many groups of images; of more photos, several share one."""


@dataclass(slots=True)
class Histograms:
    """The colors of inputs, outputs and targets, summed over the images of each photo."""

    places: dict[str, int] = field(default_factory=dict)
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3, 3, 256)))
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, group: str, given: Pixels, output: Pixels, target: Pixels) -> None:
        """Count one image; ``group`` names its photo."""
        place = self.places.setdefault(group, len(self.places) % MOST_GROUPS)
        if place == len(self.sizes):
            self.sums = np.concatenate([self.sums, np.zeros((max(1, place), 3, 3, 256))])
            self.sizes = np.concatenate([self.sizes, np.zeros(max(1, place))])
        self.sums[place] += [lab_histogram(p) for p in (given, output, target)]
        self.sizes[place] += 1

    def scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the overlap with the targets of the outputs, and of the inputs."""
        means = self.sums.sum(axis=0) / self.sizes.sum()
        made, nothing = (intersection(means[side], means[2]).tolist() for side in (1, 0))
        return dict(zip(SET_METRICS, made, strict=True)), dict(
            zip(SET_METRICS, nothing, strict=True)
        )

    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % interval of the gain in overlap, by resampling whole photos."""
        return self._intervals(lambda drawn: self._overlaps(drawn, 1) - self._overlaps(drawn, 0))

    def lead(self, other: Histograms) -> dict[str, Interval]:
        """Return the 95 % interval of the overlap of these outputs minus that of ``other``'s, on the same
        images.
        """
        return self._intervals(lambda drawn: self._overlaps(drawn, 1) - other._overlaps(drawn, 1))

    def _intervals(
        self, measure: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    ) -> dict[str, Interval]:
        count = int((self.sizes > 0).sum())
        if count < 2:
            return dict.fromkeys(SET_METRICS)
        found = [measure(drawn) for drawn in draws(count, RESAMPLES)]
        return dict(zip(SET_METRICS, percentiles(np.concatenate(found), count), strict=True))

    def _overlaps(self, drawn: NDArray[np.int64], side: int) -> NDArray[np.float64]:
        """Return the overlap of inputs (side 0) or outputs (1) with the targets, of each resample: N x 3."""
        there = self.sizes > 0
        sums = self.sums[there][:, [side, 2]].reshape(int(there.sum()), -1)
        means = (drawn @ sums / (drawn @ self.sizes[there])[:, None]).reshape(-1, 2, 3, 256)
        return intersection(means[:, 0], means[:, 1])
