"""Where of a image a network looks: at a piece of it, at a piece of it enlarged, drawn anew each epoch.

A place is two shares of the room there is, down and across, each in [0, 1): what is drawn does not depend on
the sizes of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img_data.images.pixels import Pixels

TAPS: Final = 4
SHARPNESS: Final = -0.5


@dataclass(frozen=True, slots=True)
class Crops:
    """Square pieces of images: their side, and their ``places`` in inputs and targets, 2 x N x 2."""

    side: int
    places: NDArray[np.float64]

    @classmethod
    def middle(cls, side: int, count: int) -> Crops:
        """Return the pieces in the middle of so many images."""
        return cls(side, np.full((2, count, 2), 0.5))

    def of(self, images: Sequence[Pixels], half: int) -> Pixels:
        """Return the pieces of inputs (0) or targets (1), each H x W x C of at least ``side``, stacked."""
        pieces = []
        for image, (down, across) in zip(images, self.places[half], strict=True):
            top, left = (
                int(start(share, whole - self.side))
                for share, whole in zip((down, across), image.shape[:2], strict=True)
            )
            pieces.append(image[top : top + self.side, left : left + self.side])
        return np.stack(pieces)


def stacked(images: Sequence[Pixels], cuts: Crops | None, half: int) -> Pixels:
    """Return images of one size, or pieces of any, as N x H x W x C."""
    return np.stack(images) if cuts is None else cuts.of(images, half)


def start(share: NDArray[np.float64], room: int) -> NDArray[np.int64]:
    """Return the first pixel of windows that can begin at 0 to ``room``."""
    return np.floor(share * (room + 1)).astype(np.int64)


def enlarged(images: Tensor, factor: float, places: NDArray[np.float64]) -> Tensor:
    """Return windows of images N x H x W x C, enlarged by ``factor``, each of its image's own size.

    ``places`` are N x 2. Samples stay integers of the same range, as float32: bicubic, rounded and clipped
    once. Only products and sums of single samples in a fixed order, so the bits do not depend on the number
    of threads. Jitter of Isola et al. (2017), 6.2; bicubic by Pillow's kernel (Keys 1981, a = -0.5) as in
    https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, data/base_dataset.py.
    """
    top = torch.iinfo(images.dtype).max
    made, which = (
        images.to(torch.float32),
        torch.arange(len(images), device=images.device)[:, None],
    )
    rows, weights = _window(made.shape[1], factor, places[:, 0], made.device)
    made = _summed([made[which, rows[..., k]] * weights[..., k, None, None] for k in range(TAPS)])
    columns, weights = _window(made.shape[2], factor, places[:, 1], made.device)
    every, which = torch.arange(made.shape[1], device=made.device)[:, None], which[:, None]
    terms = (
        made[which, every, columns[:, None, :, k]] * weights[:, None, :, k, None]
        for k in range(TAPS)
    )
    return _summed(list(terms)).round_().clamp_(0, top)


def enlarged_pixels(images: Pixels, factor: float, places: NDArray[np.float64]) -> Pixels:
    """Return what ``enlarged`` does, of the same type."""
    made = enlarged(torch.from_numpy(images), factor, places).numpy()
    return np.ascontiguousarray(made.astype(images.dtype))


def moved(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return values on a device; the host does not wait for them to get there."""
    tensor = torch.from_numpy(values)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def _summed(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total += term
    return total


def _window(
    side: int, factor: float, shares: NDArray[np.float64], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return which pixels of a side make those of windows of the side enlarged, and their weights: N x side x
    4.
    """
    length = max(side, round(side * factor))
    begin = moved(start(shares, length - side), device)
    wanted = begin[:, None] + torch.arange(side, device=device)
    pixels, weights = (moved(table, device)[wanted] for table in _taps(side, length))
    return pixels, weights


@lru_cache(maxsize=4)
def _taps(side: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return which pixels of a side make each of the side enlarged to ``length``, and their weights: length x
    4.

    Weights of pixels beyond the border are given to the others, as Pillow does.
    """
    centres = (np.arange(length) + 0.5) * (side / length)
    places = np.floor(centres - 1.5).astype(np.int64)[..., None] + np.arange(TAPS)
    weights = _cubic(places + 0.5 - centres[..., None]) * ((places >= 0) & (places < side))
    weights /= weights.sum(-1, keepdims=True)
    return places.clip(0, side - 1), weights.astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of pixels so far away: Keys (1981), eq. 4."""
    x, a = np.abs(distance), SHARPNESS
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
