"""FID: the Fréchet distance of two sets of images, and the Inception network whose features it
compares.

Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter (2017), "GANs Trained by a Two Time-Scale Update
Rule Converge to a Local Nash Equilibrium", equation 6. The network is Inception v3 (Szegedy et al.
2015, "Rethinking the Inception Architecture for Computer Vision") in the variant of 2015-12-05 that
the authors used, as https://github.com/mseitzer/pytorch-fid ported it: its file
``pt_inception-2015-12-05-6726825d.pth`` is read. Widths come from the tensors; this module holds
the connections.
"""

# Our own network, because every library that has it needs torchvision or downloads the weights.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from img2img_data.core.errors import CheckpointError, printable
from img2img_data.images.pixels import Pixels
from img2img_train.runs.weight_files import MAX_CHANNELS, read_tensors

Features = NDArray[np.float64]
Branches = Sequence[Sequence[str]]

INPUT_SIDE: Final = 299
EPSILON: Final = 1e-3
"""Of the batch norms, as in TensorFlow's slim."""
BATCH_IMAGES: Final = 32
LAYER_TENSORS: Final = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
WEIGHTS_HINT: Final = "give pt_inception-2015-12-05-6726825d.pth, the weights of pytorch-fid"


# ------------------------------------------------------------------------------------ the distance
@dataclass(slots=True)
class Gaussian:
    """Mean and covariance of features, accumulated as sums: D x D numbers for any set."""

    count: int = 0
    total: Features = field(default_factory=lambda: np.zeros(()))
    products: Features = field(default_factory=lambda: np.zeros(()))

    def update(self, features: Features) -> None:
        """Add N x D features."""
        self.count += len(features)
        self.total = self.total + features.sum(axis=0)
        self.products = self.products + features.T @ features

    def moments(self) -> tuple[Features, Features]:
        """Return mean (D) and covariance (D x D, divided by N - 1) of two or more features."""
        mean = self.total / self.count
        covariance = (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, (covariance + covariance.T) / 2


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians, 0 for equal ones.

    Agrees with ``torchmetrics.image.fid`` to 0.1 %.
    """
    (mean, covariance), (other_mean, other) = first.moments(), second.moments()
    # The trace of the root of a product of covariances is the sum of the roots of the eigenvalues
    # of A^(1/2) B A^(1/2). That matrix is symmetric, so its eigenvalues are real even if the
    # covariances are singular, where scipy.linalg.sqrtm of A B returns complex numbers or NaN.
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = root @ other @ root
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum()
    distance = float(np.square(mean - other_mean).sum())
    return max(0.0, distance + float(np.trace(covariance) + np.trace(other) - 2 * shared))


# ------------------------------------------------------------------------------------- the network
def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{number}" for number in range(1, count + 1)]


DOUBLE_3X3: Final = _numbered("branch3x3dbl", 3)
BRANCHES_5: Final = (["branch1x1"], _numbered("branch5x5", 2), DOUBLE_3X3)
BRANCHES_6A: Final = (["branch3x3"], DOUBLE_3X3)
BRANCHES_6: Final = (["branch1x1"], _numbered("branch7x7", 3), _numbered("branch7x7dbl", 5))
BRANCHES_7A: Final = (_numbered("branch3x3", 2), _numbered("branch7x7x3", 4))
BRANCHES_7: Final = (["branch1x1"], ["branch3x3_1"], _numbered("branch3x3dbl", 2))
"""Convolutions of the branches of each kind of block, by the names in the file."""
FORKS: Final = {
    "branch3x3_1": ("branch3x3_2a", "branch3x3_2b"),
    "branch3x3dbl_2": ("branch3x3dbl_3a", "branch3x3dbl_3b"),
}
"""The two convolutions that follow the last one of a branch of BRANCHES_7, on the same features."""


@dataclass(frozen=True, slots=True)
class Inception:
    """Inception v3 up to its last pooling, with the published weights: 2,048 features per image."""

    tensors: dict[str, Tensor]
    device: torch.device

    @torch.no_grad()
    def features(self, images: Pixels) -> Features:
        """Return N x D features of N x H x W x 3 images, uint8 or uint16."""
        parts = []
        for start in range(0, len(images), BATCH_IMAGES):
            batch = images[start : start + BATCH_IMAGES]
            scaled = batch.astype(np.float32) / np.float32(np.iinfo(batch.dtype).max)
            x = torch.from_numpy(scaled).to(self.device).permute(0, 3, 1, 2)
            x = functional.interpolate(x, INPUT_SIDE, mode="bilinear", align_corners=False)
            parts.append(self._forward(2 * x - 1).cpu().double().numpy())
        return np.concatenate(parts)

    def _forward(self, x: Tensor) -> Tensor:
        x = self._layer(x, "Conv2d_1a_3x3", stride=2, padding="valid")
        x = self._layer(x, "Conv2d_2a_3x3", padding="valid")
        x = _max_pool(self._layer(x, "Conv2d_2b_3x3"))
        x = self._layer(x, "Conv2d_3b_1x1")
        x = _max_pool(self._layer(x, "Conv2d_4a_3x3", padding="valid"))
        for letter in "bcd":
            x = self._block(x, f"Mixed_5{letter}", BRANCHES_5, _average_pool(x))
        x = self._reduction(x, "Mixed_6a", BRANCHES_6A)
        for letter in "bcde":
            x = self._block(x, f"Mixed_6{letter}", BRANCHES_6, _average_pool(x))
        x = self._reduction(x, "Mixed_7a", BRANCHES_7A)
        x = self._block(x, "Mixed_7b", BRANCHES_7, _average_pool(x))
        # The published network pools by maximum in its last block only; torchvision's averages.
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1)
        x = self._block(x, "Mixed_7c", BRANCHES_7, pooled)
        return x.mean(dim=(2, 3))

    def _layer(self, x: Tensor, name: str, stride: int = 1, padding: str = "same") -> Tensor:
        weight, scale, shift, mean, variance = (self.tensors[f"{name}.{t}"] for t in LAYER_TENSORS)
        x = functional.conv2d(x, weight, stride=stride, padding=padding)
        return functional.relu(functional.batch_norm(x, mean, variance, scale, shift, eps=EPSILON))

    def _chain(self, x: Tensor, block: str, names: Sequence[str]) -> Tensor:
        for name in names:
            x = self._layer(x, f"{block}.{name}")
        return x

    def _block(self, x: Tensor, block: str, branches: Branches, pooled: Tensor) -> Tensor:
        """Concatenate the branches and a convolution of the pooled features."""
        outputs = []
        for names in branches:
            inner, forks = self._chain(x, block, names), FORKS.get(names[-1], ())
            outputs += [self._layer(inner, f"{block}.{fork}") for fork in forks] or [inner]
        return torch.cat([*outputs, self._chain(pooled, block, ["branch_pool"])], 1)

    def _reduction(self, x: Tensor, block: str, branches: Branches) -> Tensor:
        """Halve the sides: the last convolution of each branch has stride 2, as has the pooling."""
        outputs = []
        for *before, last in branches:
            inner = self._chain(x, block, before)
            outputs.append(self._layer(inner, f"{block}.{last}", stride=2, padding="valid"))
        return torch.cat([*outputs, _max_pool(x)], 1)


def _max_pool(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2)


def _average_pool(x: Tensor) -> Tensor:
    # Padding does not count: so did TensorFlow, and the weights were trained with it.
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def load_inception(path: Path, device: torch.device) -> Inception:
    """Return the network with the weights of a file; CheckpointError if they do not fit it."""
    tensors = read_tensors(path, WEIGHTS_HINT)
    for name, tensor in tensors.items():
        if max(tensor.shape, default=0) > MAX_CHANNELS:
            why = f"hold too large a tensor {printable(name)}"
            raise CheckpointError("weights", path, why, WEIGHTS_HINT)
    used = {n: t.float().to(device) for n, t in tensors.items() if n.endswith(LAYER_TENSORS)}
    network = Inception(used, device)
    try:
        # A pass of a tiny image finds every missing tensor and every shape that does not fit.
        network.features(np.zeros((1, 8, 8, 3), np.uint8))
    except KeyError as error:
        why = f"hold no {printable(str(error.args[0]))}"
        raise CheckpointError("weights", path, why, WEIGHTS_HINT) from None
    except RuntimeError as error:
        first_line = printable(str(error).partition("\n")[0])[:120]
        why = f"do not fit the network ({first_line})"
        raise CheckpointError("weights", path, why, WEIGHTS_HINT) from None
    return network
