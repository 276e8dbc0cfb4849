"""A image of any size through a network, tile by tile: bounded memory, and no seams.

Tiles start on multiples of the network's stride, so each pixel meets the same phase of every
convolution as in the whole image. Of the overlap of two tiles the outer part on either side is
thrown away, for there a network sees a border that is none; the middle is blended linearly. A
network whose receptive field fits into the part that is thrown away gives the same image in tiles
as whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img_data.images.pixels import Pixels

Forward: TypeAlias = Callable[[Tensor], Tensor]
"""N x C x H x W float32 in [-1, 1] to N x C' x H x W, H and W multiples of the network's stride."""

BLENDED: Final = 0.25
"""The part of an overlap in which two tiles are blended; half of the rest is thrown away on either
side.
"""


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a image is cut: side of a tile and overlap of two, pixels, brought up to a ``multiple``.

    ``batch`` tiles go through the network at a time; none is smaller than ``smallest`` pixels.
    """

    tile: int = 512
    overlap: int = 128
    multiple: int = 1
    batch: int = 1
    smallest: int = 1

    @property
    def side(self) -> int:
        """The side of a tile, at least twice the overlap so that every tile has a middle of its
        own.
        """
        return _up(max(self.tile, 2 * self.shared, self.smallest), self.multiple)

    @property
    def shared(self) -> int:
        """The overlap."""
        return _up(self.overlap, self.multiple)

    def starts(self, length: int) -> list[int]:
        """Return where tiles begin along a side of ``length`` pixels; one tile where it fits."""
        end = _up(max(length, self.smallest), self.multiple)
        if end <= self.side:
            return [0]
        return [*range(0, end - self.side, self.side - self.shared), end - self.side]

    def size(self, length: int) -> int:
        """Return the pixels of a tile along a side: ``side``, or less where one tile holds it
        all.
        """
        return min(self.side, _up(max(length, self.smallest), self.multiple))

    def weights(self, length: int) -> NDArray[np.float32]:
        """Return the weights of tiles along a side: tiles x size; at each pixel they sum to 1."""
        starts, size = self.starts(length), self.size(length)
        edges = np.zeros((len(starts), starts[-1] + size))
        for row, start in zip(edges, starts, strict=True):
            row[start : start + size] = 1
        for number, (before, after) in enumerate(pairwise(starts)):
            shared = before + size - after
            ramp = _ramp(shared)
            edges[number, after : after + shared] *= 1 - ramp
            edges[number + 1, after : after + shared] *= ramp
        edges /= edges.sum(axis=0)
        return np.stack([row[s : s + size] for row, s in zip(edges, starts, strict=True)]).astype(
            np.float32
        )


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _ramp(length: int) -> NDArray[np.float64]:
    """Return 0 for the first part of an overlap, 1 for the last, a line between."""
    middle = max(1, round(length * BLENDED))
    places = np.arange(length) - (length - middle) / 2
    return np.clip((places + 0.5) / middle, 0, 1)


@torch.no_grad()
def restore(
    forward: Forward, pixels: Pixels, tiling: Tiling, device: torch.device, channels: int = 3
) -> Pixels:
    """Return what a network makes of a image: H x W x C uint8 or uint16 to H x W x ``channels``.

    Never more than ``tiling.batch`` tiles are on the device. Right and bottom edges are mirrored
    up to the network's multiple and cut back.
    """
    height, width = pixels.shape[:2]
    top = int(np.iinfo(pixels.dtype).max)
    out = np.empty((height, width, channels), pixels.dtype)
    across, done = _Axis.of(width, tiling), 0
    down = _Axis.of(height, tiling)
    band = np.zeros((down.size, across.starts[-1] + across.size, channels), np.float32)
    for number, (start, weight) in enumerate(zip(down.starts, down.weights, strict=True)):
        rows = pixels[down.places[start : start + down.size]]
        for left, weights, made in _row(forward, rows, across, tiling, device, top):
            band[:, left : left + across.size] += made * (
                weight[:, None, None] * weights[None, :, None]
            )
        finished = down.starts[number + 1] if number + 1 < len(down.starts) else start + down.size
        whole = band[: finished - done, :width]
        last = min(finished, height)
        out[done:last] = _to_integers(whole, top)[: last - done]
        band = np.concatenate([band[finished - done :], np.zeros_like(band[: finished - done])])
        done = finished
    return out


@dataclass(frozen=True, slots=True)
class _Axis:
    """The tiles along one side; ``places`` are the pixels of the mirrored side."""

    starts: list[int]
    size: int
    weights: NDArray[np.float32]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, length: int, tiling: Tiling) -> _Axis:
        starts, size = tiling.starts(length), tiling.size(length)
        extra = (0, starts[-1] + size - length)
        pixels = np.arange(length)
        places = (
            np.pad(pixels, extra, mode="reflect")
            if length > 1
            else np.pad(pixels, extra, mode="edge")
        )
        return cls(starts, size, tiling.weights(length), places)


def _row(
    forward: Forward, rows: Pixels, across: _Axis, tiling: Tiling, device: torch.device, top: int
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """Yield (left edge, weights, output in [-1, 1]) of each tile of a row."""
    columns = list(zip(across.starts, across.weights, strict=True))
    step = max(1, tiling.batch)
    for group in (columns[place : place + step] for place in range(0, len(columns), step)):
        tiles = [rows[:, across.places[left : left + across.size]] for left, _ in group]
        given = torch.from_numpy(np.stack(tiles).astype(np.float32)).to(device)
        given = given.permute(0, 3, 1, 2).div_(top / 2).sub_(1.0)
        made = forward(given).float().permute(0, 2, 3, 1).cpu().numpy()
        for (left, weights), one in zip(group, made, strict=True):
            yield left, weights, one


def _to_integers(scaled: NDArray[np.float32], top: int) -> NDArray[np.float32]:
    """Scale [-1, 1] to 0..top, rounded once and clipped."""
    return np.asarray(np.clip(np.rint((scaled + 1) * np.float32(top / 2)), 0, top), np.float32)
