"""The colours of a whole set of pictures: do outputs have those of their targets?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from img2img_train.intervals import RESAMPLES, Interval, draws, percentiles
from img2img_train.metrics import SET_METRICS, Pixels, intersection, lab_histogram

MOST_GROUPS: Final = 1000
"""Histograms are kept for so many groups of pictures; of more photos, several share one."""


@dataclass(slots=True)
class Histograms:
    """The colours of inputs, outputs and targets, summed over the pictures of each photo."""

    places: dict[str, int] = field(default_factory=dict)
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3, 3, 256)))
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def add(self, group: str, given: Pixels, output: Pixels, target: Pixels) -> None:
        """Count one picture; ``group`` names its photo."""
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
        return dict(zip(SET_METRICS, made, strict=True)), dict(zip(SET_METRICS, nothing, strict=True))

    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % interval of the gain in overlap, by resampling whole photos."""
        there = self.sizes > 0
        count = int(there.sum())
        if count < 2:
            return dict.fromkeys(SET_METRICS)
        sums, gains = self.sums[there].reshape(count, -1), []
        for drawn in draws(count, RESAMPLES):
            means = (drawn @ sums / (drawn @ self.sizes[there])[:, None]).reshape(-1, 3, 3, 256)
            gains.append(intersection(means[:, 1], means[:, 2]) - intersection(means[:, 0], means[:, 2]))
        return dict(zip(SET_METRICS, percentiles(np.concatenate(gains), count), strict=True))
