"""Tiles: an image of any size passes a network in bounded memory, without seams.

Tiles start at multiples of the network's stride, so every pixel meets the same phase of each
convolution as in the whole image. In the overlap of two tiles the outer part of either is dropped,
because there the network saw a border that the image does not have; the middle is blended
linearly. A network whose receptive field fits into the dropped part gives the same image in tiles
as at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from img2img_data.images.pixels import Pixels
from img2img_train.distributed.memory import SHARE_OF_MEMORY, free_memory
from img2img_train.inference.settings import TranslateSettings
from img2img_train.networks.layers import uses_image_statistics
from img2img_train.runs.model import LoadedModel

Forward: TypeAlias = Callable[[Tensor], Tensor]
"""Maps N x 3 x H x W float32 in [-1, 1] to the same; H and W are multiples of the network's
stride.
"""

TILE: Final = 512
"""Side of a tile by default, pixels."""
BLENDED: Final = 0.25
"""Share of an overlap in which two tiles are blended; half of the rest is dropped on either
side.
"""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Cut of an image into tiles: side of a tile and overlap in pixels, rounded up to ``multiple``.

    ``batch`` tiles form a forward pass; no tile is smaller than ``smallest`` pixels.
    """

    tile: int
    overlap: int
    multiple: int
    batch: int = 1
    smallest: int = 1

    @property
    def side(self) -> int:
        """Side of a tile: at least twice the overlap, so that every tile has a middle of its
        own.
        """
        return self._up(max(self.tile, 2 * self.shared, self.smallest))

    @property
    def shared(self) -> int:
        """Overlap of two tiles."""
        return self._up(self.overlap)

    def starts(self, length: int) -> list[int]:
        """Return the starts of the tiles along ``length`` pixels; one tile if it fits."""
        last = self._up(max(length, self.smallest)) - self.size(length)
        return [*range(0, last, self.side - self.shared), last]

    def size(self, length: int) -> int:
        """Return the size of the tiles along ``length`` pixels: ``side``, or less for a single
        tile.
        """
        return min(self.side, self._up(max(length, self.smallest)))

    def weights(self, length: int) -> NDArray[np.float32]:
        """Return the weights of the tiles, tiles x size; they sum to 1 at each pixel."""
        starts, size = self.starts(length), self.size(length)
        edges = np.zeros((len(starts), starts[-1] + size))
        for row, start in zip(edges, starts, strict=True):
            row[start : start + size] = 1
        for number, (before, after) in enumerate(pairwise(starts)):
            shared = before + size - after
            # 0 in the first part of the overlap, 1 in the last, a line in the blended middle.
            middle = max(1, round(shared * BLENDED))
            distance = np.arange(shared) - (shared - middle) / 2
            ramp = np.clip((distance + 0.5) / middle, 0, 1)
            edges[number, after : after + shared] *= 1 - ramp
            edges[number + 1, after : after + shared] *= ramp
        # The last two tiles may overlap by more than the others, and three then meet at a pixel.
        edges /= edges.sum(axis=0)
        rows = [row[s : s + size] for row, s in zip(edges, starts, strict=True)]
        return np.stack(rows).astype(np.float32)

    def _up(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple


@torch.no_grad()
def restore(forward: Forward, pixels: Pixels, tiling: Tiling, device: torch.device) -> Pixels:
    """Return the output of a network for an image, H x W x 3 uint8 or uint16, of the same size and
    dtype.

    At most ``tiling.batch`` tiles are on the device at a time. Right and bottom edges are mirrored
    up to the network's multiple and cut off again.
    """
    height, width = pixels.shape[:2]
    top = np.iinfo(pixels.dtype).max
    tile_height, tile_width = tiling.size(height), tiling.size(width)
    columns = list(zip(tiling.starts(width), tiling.weights(width), strict=True))
    starts, row_weights = tiling.starts(height), tiling.weights(height)
    rows = _mirrored(height, starts[-1] + tile_height)
    cols = _mirrored(width, columns[-1][0] + tile_width)
    out = np.empty((height, width, 3), pixels.dtype)
    # Sums of the rows that tiles still overlap: a band of one tile's height, not the whole image.
    band = np.zeros((tile_height, len(cols), 3), np.float32)
    for number, (start, row_weight) in enumerate(zip(starts, row_weights, strict=True)):
        strip = pixels[rows[start : start + tile_height]]
        for first in range(0, len(columns), tiling.batch):
            group = columns[first : first + tiling.batch]
            tiles = np.stack([strip[:, cols[left : left + tile_width]] for left, _ in group])
            x = torch.from_numpy(tiles.astype(np.float32)).to(device).permute(0, 3, 1, 2)
            output = forward(x.div_(top / 2).sub_(1.0)).float().permute(0, 2, 3, 1).cpu().numpy()
            for (left, weight), tile in zip(group, output, strict=True):
                weights = row_weight[:, None, None] * weight[None, :, None]
                band[:, left : left + tile_width] += tile * weights
        # Rows above the next tile are complete.
        end = starts[number + 1] if number + 1 < len(starts) else start + tile_height
        done = band[: end - start, :width]
        scaled = np.clip(np.rint((done + 1) * np.float32(top / 2)), 0, top)
        out[start:end] = scaled[: height - start]
        band = np.concatenate([band[end - start :], np.zeros_like(band[: end - start])])
    return out


def _mirrored(length: int, end: int) -> NDArray[np.int64]:
    """Return the indices of a side that is mirrored from ``length`` to ``end`` pixels."""
    mode: Any = "reflect" if length > 1 else "edge"
    return np.pad(np.arange(length), (0, end - length), mode=mode)


# --------------------------------------------------------------------------- whole image or tiles
MEASURED_SIDE: Final = 128
"""Side of the image with which the memory of a network is measured, pixels."""
WORKSPACE: Final = 3.0
PIXEL: Final = 150
"""Memory in use over that of the tensors of a network, and bytes per pixel for the image itself.
Operations have buffers and other layouts of their own. The sum is 1.2 to 1.9 times what was
measured on a CPU, for each kind of network and widths of 1 to 64."""
_MEASURED: Final = weakref.WeakKeyDictionary[nn.Module, float]()


def choose_tiling(
    settings: TranslateSettings, model: LoadedModel, height: int, width: int
) -> tuple[Tiling, list[str]]:
    """Return how an image is cut into tiles, and a note if its contrast may change between them.

    By default a network that normalizes by statistics of the image gets the whole image, if that
    takes at most half of the free memory.
    """
    spec, side, tile = model.spec, max(height, width), settings.tile or TILE
    hint = f"--tile {side} uses a single tile, if memory allows"
    by_image = uses_image_statistics(model.generator)
    if by_image and settings.tile is None and side > tile:
        pixels = spec.padded_side(height) * spec.padded_side(width)
        need, free = pixels * bytes_per_pixel(model), free_memory(str(model.device))
        tile = side if need <= free * SHARE_OF_MEMORY else tile
        figures = f"up to {need / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free"
        hint = f"the whole image takes {figures}; {hint}"
    tiling = Tiling(tile, settings.overlap, spec.multiple, settings.batch, spec.smallest)
    if not by_image or len(tiling.starts(side)) == 1:
        return tiling, []
    why = "each tile is normalized by its own statistics, so contrast may change across the image"
    return tiling, [f"{why}; {hint}"]


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of the tensors that exist at a time; ``peak`` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = dict[int, int](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        tensors = output if isinstance(output, tuple | list) else (output,)
        # Views share a storage, which is counted once.
        for storage in (x.untyped_storage() for x in tensors if isinstance(x, Tensor)):
            if storage._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.live.values()))
        return output


def bytes_per_pixel(model: LoadedModel) -> float:
    """Return the memory per pixel that a model takes at most, in bytes, apart from its weights."""
    network, side = model.generator, model.spec.padded_side(MEASURED_SIDE)
    if network not in _MEASURED:
        x = torch.zeros(1, model.spec.inputs, side, side, device=model.device)
        with torch.no_grad(), _LiveTensors() as live:
            network(x)
        _MEASURED[network] = PIXEL + WORKSPACE * live.peak / side**2
    return _MEASURED[network]
