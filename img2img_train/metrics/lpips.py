"""LPIPS: how far two images are apart for the inner layers of a network that knows images.

Zhang, Isola, Efros, Shechtman, Wang (2018), "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric", equation 1, version 0.1 of https://github.com/richzhang/PerceptualSimilarity. Nothing is fetched: the
user brings the weights of the network (torchvision's AlexNet or VGG-16) and of the linear heads (alex.pth or
vgg.pth of that repository), or one file with both, as ``lpips.LPIPS().state_dict()`` is saved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from img2img_data.core.errors import CheckpointError, UsageError
from img2img_train.runs.weight_files import read_tensors

SHIFT: Final = (-0.030, -0.088, -0.188)
SCALE: Final = (0.458, 0.448, 0.450)
TINY: Final = 1e-10
WIDEST: Final = 4096
"""Channels a layer may have: files are not ours to trust."""
PIXELS: Final = 1 << 20
"""Pixels that go through the network at a time."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Convolutions, each with a ReLU; what comes of the last is compared.

    ``pool`` is the side of the max pooling before them, stride 2, 0 for none; a convolution is its number in
    torchvision's ``features``, its kernel, stride and padding.
    """

    pool: int
    convolutions: tuple[tuple[int, int, int, int], ...]


def _of_three(pool: int, *numbers: int) -> Stage:
    return Stage(pool, tuple((number, 3, 1, 1) for number in numbers))


STAGES: Final[dict[str, tuple[Stage, ...]]] = {
    "alex": (
        Stage(0, ((0, 11, 4, 2),)),
        Stage(3, ((3, 5, 1, 2),)),
        _of_three(3, 6),
        _of_three(0, 8),
        _of_three(0, 10),
    ),
    "vgg": (
        _of_three(0, 0, 2),
        _of_three(2, 5, 7),
        _of_three(2, 10, 12, 14),
        _of_three(2, 17, 19, 21),
        _of_three(2, 24, 26, 28),
    ),
}
"""The networks. To add one, add its stages."""
SMALLEST: Final = {"alex": 31, "vgg": 16}
"""Shortest side that leaves something to compare in the last stage."""


@dataclass(frozen=True, slots=True)
class Lpips:
    """A network and its heads, ready to compare."""

    net: str
    weights: dict[int, tuple[Tensor, Tensor]]
    heads: tuple[Tensor, ...]
    device: torch.device

    @torch.no_grad()
    def distances(self, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distance of each of N images from its partner: N x H x W x 3 uint8 or uint16.

        0 is no difference. UsageError where the images are too small for the network.
        """
        smallest = SMALLEST[self.net]
        if min(first.shape[1:3]) < smallest:
            size = f"{first.shape[2]} x {first.shape[1]}"
            why = f"needs images of {smallest} pixels a side at least, and one is {size}"
            raise UsageError("LPIPS", why=why, hint="leave --lpips out")
        step = max(1, PIXELS // (first.shape[1] * first.shape[2]))
        parts = [
            self._distances(self._given(first[at : at + step]), self._given(second[at : at + step]))
            for at in range(0, len(first), step)
        ]
        return np.concatenate(parts)

    def _given(self, images: NDArray[Any]) -> Tensor:
        scaled = images.astype(np.float32) * np.float32(2 / np.iinfo(images.dtype).max) - 1
        x = torch.from_numpy(scaled).to(self.device).permute(0, 3, 1, 2)
        shift, scale = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (SHIFT, SCALE)
        )
        return (x - shift) / scale

    def _distances(self, x: Tensor, y: Tensor) -> NDArray[np.float64]:
        total = torch.zeros(len(x), device=self.device)
        for stage, head in zip(STAGES[self.net], self.heads, strict=True):
            x, y = self._through(stage, x), self._through(stage, y)
            apart = (_unit(x) - _unit(y)).square()
            total += functional.conv2d(apart, head).mean(dim=(1, 2, 3))
        return np.asarray(total.cpu().numpy(), np.float64)

    def _through(self, stage: Stage, x: Tensor) -> Tensor:
        if stage.pool:
            x = functional.max_pool2d(x, stage.pool, stride=2)
        for number, _, stride, padding in stage.convolutions:
            x = functional.relu(
                functional.conv2d(x, *self.weights[number], stride=stride, padding=padding)
            )
        return x


def _unit(features: Tensor) -> Tensor:
    """Return the features of each place scaled to length 1."""
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + TINY)


def load_lpips(network: Path, heads: Path, device: torch.device) -> Lpips:
    """Return LPIPS by the weights of a network and of its heads; both may be one file.

    CheckpointError, in one line that names the file, where they are damaged or those of something else.
    """
    tensors = read_tensors(network, "give torchvision's AlexNet or VGG-16")
    inside = {
        re.sub(r"^net\.slice\d\.", "features.", name): tensor for name, tensor in tensors.items()
    }
    first = inside.get("features.0.weight")
    net = {11: "alex", 3: "vgg"}.get(
        first.shape[-1] if first is not None and first.dim() == 4 else 0
    )
    if net is None:
        hint = "give torchvision's AlexNet or VGG-16, or a saved lpips.LPIPS"
        raise CheckpointError("weights", network, "hold neither AlexNet nor VGG-16", hint)
    weights, widths, width = {}, list[int](), 3
    for stage in STAGES[net]:
        for number, kernel, _, _ in stage.convolutions:
            pair = (inside.get(f"features.{number}.weight"), inside.get(f"features.{number}.bias"))
            weights[number] = _checked(
                pair, (width, kernel, kernel), network, f"features.{number}", device
            )
            width = len(weights[number][1])
        widths.append(width)
    found = (
        tensors if heads == network else read_tensors(heads, "give alex.pth or vgg.pth of LPIPS")
    )
    linear = tuple(_head(found, place, width, heads, device) for place, width in enumerate(widths))
    return Lpips(net, weights, linear, device)


def _checked(
    pair: tuple[Tensor | None, Tensor | None],
    shape: tuple[int, ...],
    path: Path,
    name: str,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    weight, bias = pair
    if (
        weight is None
        or bias is None
        or weight.shape[1:] != shape
        or bias.shape != weight.shape[:1]
    ):
        raise CheckpointError(
            "weights", path, f"hold no {name} of the right shape", "use another file"
        )
    if not 0 < len(bias) <= WIDEST:
        raise CheckpointError(
            "weights", path, f"hold a {name} of {len(bias):,} channels", "use another file"
        )
    return weight.float().to(device), bias.float().to(device)


def _head(
    found: dict[str, Tensor], place: int, width: int, path: Path, device: torch.device
) -> Tensor:
    head = found.get(f"lin{place}.model.1.weight")
    if head is None or head.shape != (1, width, 1, 1):
        why = f"hold no lin{place}.model.1.weight for {width} channels"
        raise CheckpointError(
            "weights", path, why, "give the heads of this network, alex.pth or vgg.pth"
        )
    return head.float().to(device)
