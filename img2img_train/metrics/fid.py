"""FID: how far two sets of images are apart, as Gaussians of their features.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter (2017), "GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium", equation 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Gaussian:
    """The mean and covariance of features, of which only sums are kept: D x D numbers for any set."""

    count: int = 0
    total: Floats | None = None
    products: Floats | None = None

    def add(self, features: Floats) -> None:
        """Count N x D features."""
        total, products = features.sum(axis=0), features.T @ features
        self.count += len(features)
        self.total = total if self.total is None else self.total + total
        self.products = products if self.products is None else self.products + products

    def moments(self) -> tuple[Floats, Floats]:
        """Return mean and covariance (divided by N - 1); ValueError of fewer than two images."""
        if self.count < 2 or self.total is None or self.products is None:
            raise ValueError("a covariance needs two images at least")
        mean = self.total / self.count
        covariance = (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, (covariance + covariance.T) / 2


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians: of means, plus that of covariances.

    The trace of the root of a product of covariances is the sum of the roots of the eigenvalues of
    A^(1/2) B A^(1/2), which is symmetric: real also where the covariances have not full rank.
    """
    (mean, covariance), (other_mean, other) = first.moments(), second.moments()
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ other @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    apart = float(np.square(mean - other_mean).sum())
    return max(0.0, apart + float(np.trace(covariance) + np.trace(other) - 2 * shared))
