"""LPIPS: a perceptual distance of two images, from the inner features of a classification network.

Zhang, Isola, Efros, Shechtman, Wang (2018), "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", equation 1, version 0.1 of https://github.com/richzhang/PerceptualSimilarity.
Nothing is downloaded: the user supplies the weights of the network (torchvision's AlexNet or
VGG-16) and of the linear heads (``alex.pth`` or ``vgg.pth`` of that repository), or one file with
both, a saved ``lpips.LPIPS().state_dict()``.
"""

# Our own network, because the package lpips needs torchvision and downloads the weights.

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from img2img_data.core.errors import CheckpointError, UsageError
from img2img_data.images.pixels import Pixels
from img2img_train.runs.weight_files import MAX_CHANNELS, read_tensors

# ScalingLayer of the reference: ImageNet's mean and deviation for images in [-1, 1].
SHIFT: Final = (-0.030, -0.088, -0.188)
SCALE: Final = (0.458, 0.448, 0.450)
EPSILON: Final = 1e-10
BATCH_PIXELS: Final = 1 << 20


class Stage(NamedTuple):
    """Convolutions, each with a ReLU; the output of the last one is compared.

    ``pool`` is the kernel of the max pooling before them (stride 2), 0 for none; a convolution is
    its index in torchvision's ``features``, its kernel, stride and padding.
    """

    pool: int
    convolutions: Sequence[tuple[int, int, int, int]]


def _stage_3x3(pool: int, *indices: int) -> Stage:
    return Stage(pool, [(index, 3, 1, 1) for index in indices])


ALEX: Final = (
    *(Stage(0, [(0, 11, 4, 2)]), Stage(3, [(3, 5, 1, 2)])),
    *(_stage_3x3(3, 6), _stage_3x3(0, 8), _stage_3x3(0, 10)),
)
VGG: Final = (
    *(_stage_3x3(0, 0, 2), _stage_3x3(2, 5, 7), _stage_3x3(2, 10, 12, 14)),
    *(_stage_3x3(2, 17, 19, 21), _stage_3x3(2, 24, 26, 28)),
)
STAGES: Final[dict[str, tuple[Stage, ...]]] = {"alex": ALEX, "vgg": VGG}
"""The networks by name. To add one, add its stages."""
MIN_SIDE: Final = {"alex": 31, "vgg": 16}
"""Shortest image side, in pixels, that leaves a feature in the last stage."""


class Lpips(nn.Module):
    """A network (``net``: alex or vgg) with its heads; ``weights`` by index of the convolution.

    The weights are frozen; gradients reach the images.
    """

    def __init__(
        self, net: str, weights: dict[int, tuple[Tensor, Tensor]], heads: tuple[Tensor, ...]
    ) -> None:
        super().__init__()
        self.net, self.weights, self.heads = net, weights, heads

    def check_size(self, height: int, width: int) -> None:
        """Raise UsageError if images are too small for the network."""
        if min(height, width) < MIN_SIDE[self.net]:
            least = MIN_SIDE[self.net]
            why = f"needs images of at least {least} pixels a side, and one is {width} x {height}"
            raise UsageError("LPIPS", why=why, hint="leave --lpips out")

    @torch.no_grad()
    def distances(self, first: Pixels, second: Pixels) -> NDArray[np.float64]:
        """Return the distance of each of N images from its partner, 0 for equal ones.

        Both are N x H x W x 3, uint8 or uint16. Raises UsageError if they are too small for the
        network.
        """
        height, width = first.shape[1:3]
        self.check_size(height, width)
        size = max(1, BATCH_PIXELS // (height * width))
        parts = [
            self.forward(*(self._scaled(side[at : at + size]) for side in (first, second)))
            for at in range(0, len(first), size)
        ]
        return np.asarray(torch.cat(parts).cpu().numpy(), np.float64)

    def _scaled(self, images: Pixels) -> Tensor:
        """Return N x 3 x H x W float32 in [-1, 1], on the device."""
        scaled = images.astype(np.float32) * np.float32(2 / np.iinfo(images.dtype).max) - 1
        return torch.from_numpy(scaled).to(self.heads[0].device).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances, N, of images N x 3 x H x W (or N x 1 x H x W) in [-1, 1]."""
        total = torch.zeros(len(x), device=x.device)
        # Normalized as the network was trained, in float32 as in a score.
        shift, scale = torch.tensor([SHIFT, SCALE], device=x.device)[:, :, None, None]
        with torch.autocast(x.device.type, enabled=False):
            x, y = ((images.float() - shift) / scale for images in (x, y))
            for stage, head in zip(STAGES[self.net], self.heads, strict=True):
                x, y = self._run(stage, x), self._run(stage, y)
                difference = (_unit_length(x) - _unit_length(y)).square()
                total = total + functional.conv2d(difference, head).mean(dim=(1, 2, 3))
        return total

    def _run(self, stage: Stage, x: Tensor) -> Tensor:
        if stage.pool:
            x = functional.max_pool2d(x, stage.pool, stride=2)
        for index, _, stride, padding in stage.convolutions:
            weight, bias = self.weights[index]
            x = functional.relu(functional.conv2d(x, weight, bias, stride=stride, padding=padding))
        return x


def _unit_length(features: Tensor) -> Tensor:
    """Return the features scaled to length 1 over the channels, at each position."""
    # A square root of the sum would have an infinite gradient where all features are zero.
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + EPSILON)


def load_lpips(network: Path, heads: Path, device: torch.device) -> Lpips:
    """Return LPIPS with the weights of a network and of its heads; both may be one file.

    Raises CheckpointError, naming the file, if they are damaged or of something else.
    """
    hint = "give torchvision's AlexNet or VGG-16, or a saved lpips.LPIPS"
    tensors = read_tensors(network, hint)
    # lpips.LPIPS holds the layers in slices and keeps torchvision's numbers.
    renamed = {re.sub(r"^net\.slice\d\.", "features.", name): t for name, t in tensors.items()}
    first = renamed.get("features.0.weight")
    kernel = first.shape[-1] if first is not None and first.dim() == 4 else 0
    net = {11: "alex", 3: "vgg"}.get(kernel)
    if net is None:
        raise CheckpointError("weights", network, "hold neither AlexNet nor VGG-16", hint)
    weights, widths, width = {}, list[int](), 3
    other = "use another file"
    for stage in STAGES[net]:
        for index, kernel, _, _ in stage.convolutions:
            name = f"features.{index}"
            weight, bias = (renamed.get(f"{name}.{part}") for part in ("weight", "bias"))
            if weight is None or bias is None:
                raise CheckpointError("weights", network, f"hold no {name}", other)
            # Checked before anything is allocated: the file comes from elsewhere.
            channels = bias.numel()
            shapes = (channels, width, kernel, kernel), (channels,)
            if (weight.shape, bias.shape) != shapes or not 0 < channels <= MAX_CHANNELS:
                raise CheckpointError("weights", network, f"hold a {name} of wrong shape", other)
            weights[index] = weight.float().to(device), bias.float().to(device)
            width = channels
        widths.append(width)
    if heads != network:
        tensors = read_tensors(heads, "give alex.pth or vgg.pth of LPIPS")
    linear = []
    for number, width in enumerate(widths):
        name = f"lin{number}.model.1.weight"
        head = tensors.get(name)
        if head is None or head.shape != (1, width, 1, 1):
            hint = "give the heads of this network, alex.pth or vgg.pth"
            raise CheckpointError("weights", heads, f"hold no {name} for {width} channels", hint)
        linear.append(head.float().to(device))
    return Lpips(net, weights, tuple(linear))
