"""The Inception network that FID is defined by, from weights that the user brings.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna (2015), "Rethinking the Inception Architecture for Computer Vision",
in the variant of 2015-12-05 that Heusel et al. used, as https://github.com/mseitzer/pytorch-fid ported it:
its file ``pt_inception-2015-12-05-6726825d.pth`` is read here. Widths come from the tensors; what stands here
is how they are joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from img2img_data.core.errors import CheckpointError, printable
from img2img_train.runs.weight_files import read_tensors

SIDE: Final = 299
EPSILON: Final = 1e-3
WIDEST: Final = 4096
"""Channels a layer may have: files are not ours to trust."""
IMAGES: Final = 32
"""Images that go through the network at a time."""
PARTS: Final = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


@dataclass(frozen=True, slots=True)
class Inception:
    """The network up to its last pooling: 2,048 features a image, by the published weights."""

    tensors: dict[str, Tensor]
    device: torch.device

    @torch.no_grad()
    def features(self, images: NDArray[Any]) -> NDArray[np.float64]:
        """Return N x D features of N x H x W x 3 uint8 or uint16 images, scaled to 299 x 299 (bilinear)."""
        parts = []
        for group in (images[at : at + IMAGES] for at in range(0, len(images), IMAGES)):
            scaled = group.astype(np.float32) / np.float32(np.iinfo(group.dtype).max)
            x = torch.from_numpy(scaled).to(self.device).permute(0, 3, 1, 2)
            x = functional.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
            parts.append(self._forward(2 * x - 1).cpu().double().numpy())
        return np.concatenate(parts)

    def _forward(self, x: Tensor) -> Tensor:
        x = self._convolve(x, "Conv2d_1a_3x3", stride=2, padding=(0, 0))
        x = self._convolve(x, "Conv2d_2a_3x3", padding=(0, 0))
        x = _shrunk(self._convolve(x, "Conv2d_2b_3x3"))
        x = self._convolve(x, "Conv2d_3b_1x1")
        x = _shrunk(self._convolve(x, "Conv2d_4a_3x3", padding=(0, 0)))
        for letter in "bcd":
            x = self._fives(x, f"Mixed_5{letter}")
        x = self._reduced(
            x, "Mixed_6a", ("branch3x3",), tuple(f"branch3x3dbl_{n}" for n in (1, 2, 3))
        )
        for letter in "bcde":
            x = self._sevens(x, f"Mixed_6{letter}")
        sevens = tuple(f"branch7x7x3_{n}" for n in (1, 2, 3, 4))
        x = self._reduced(x, "Mixed_7a", ("branch3x3_1", "branch3x3_2"), sevens)
        x = self._forked(x, "Mixed_7b", _averaged)
        x = self._forked(x, "Mixed_7c", _highest)
        return x.mean(dim=(2, 3))

    def _convolve(
        self, x: Tensor, name: str, stride: int = 1, padding: tuple[int, int] | None = None
    ) -> Tensor:
        weight, scale, shift, mean, variance = (self.tensors[f"{name}.{part}"] for part in PARTS)
        around = (weight.shape[2] // 2, weight.shape[3] // 2) if padding is None else padding
        x = functional.conv2d(x, weight, stride=stride, padding=around)
        return functional.relu(functional.batch_norm(x, mean, variance, scale, shift, eps=EPSILON))

    def _chain(self, x: Tensor, block: str, *names: str) -> Tensor:
        for name in names:
            x = self._convolve(x, f"{block}.{name}")
        return x

    def _fives(self, x: Tensor, block: str) -> Tensor:
        parts = [
            self._chain(x, block, "branch1x1"),
            self._chain(x, block, "branch5x5_1", "branch5x5_2"),
            self._chain(x, block, *(f"branch3x3dbl_{n}" for n in (1, 2, 3))),
            self._chain(_averaged(x), block, "branch_pool"),
        ]
        return torch.cat(parts, 1)

    def _sevens(self, x: Tensor, block: str) -> Tensor:
        parts = [
            self._chain(x, block, "branch1x1"),
            self._chain(x, block, *(f"branch7x7_{n}" for n in (1, 2, 3))),
            self._chain(x, block, *(f"branch7x7dbl_{n}" for n in (1, 2, 3, 4, 5))),
            self._chain(_averaged(x), block, "branch_pool"),
        ]
        return torch.cat(parts, 1)

    def _reduced(self, x: Tensor, block: str, *branches: tuple[str, ...]) -> Tensor:
        """Halve the sides: the last convolution of each branch steps by two, and so does a pooling."""
        parts = []
        for *before, last in branches:
            inner = self._chain(x, block, *before)
            parts.append(self._convolve(inner, f"{block}.{last}", stride=2, padding=(0, 0)))
        return torch.cat([*parts, _shrunk(x)], 1)

    def _forked(self, x: Tensor, block: str, pool: Any) -> Tensor:
        parts = [self._chain(x, block, "branch1x1")]
        double = ("branch3x3dbl_1", "branch3x3dbl_2")
        for stem, fork in ((("branch3x3_1",), "branch3x3_2"), (double, "branch3x3dbl_3")):
            inner = self._chain(x, block, *stem)
            parts += [self._chain(inner, block, f"{fork}{side}") for side in "ab"]
        return torch.cat([*parts, self._chain(pool(x), block, "branch_pool")], 1)


def _shrunk(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=2)


def _averaged(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _highest(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def load_inception(path: Path, device: torch.device) -> Inception:
    """Return the network by its weights; CheckpointError, in one line, where they are of another one."""
    hint = "give pt_inception-2015-12-05-6726825d.pth, the weights of pytorch-fid"
    tensors = read_tensors(path, hint)
    wide = [name for name, tensor in tensors.items() if max(tensor.shape, default=0) > WIDEST]
    if wide:
        raise CheckpointError(
            "weights", path, f"hold too large a tensor {printable(wide[0])}", hint
        )
    held = {
        name: tensor.float().to(device) for name, tensor in tensors.items() if name.endswith(PARTS)
    }
    network = Inception(held, device)
    try:
        network.features(np.zeros((1, 8, 8, 3), np.uint8))
    except KeyError as error:
        raise CheckpointError(
            "weights", path, f"hold no {printable(str(error.args[0]))}", hint
        ) from None
    except RuntimeError as error:
        why = f"do not fit the network ({printable(str(error).partition(chr(10))[0])[:120]})"
        raise CheckpointError("weights", path, why, hint) from None
    return network
