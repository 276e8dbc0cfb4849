"""Resizing of images when they are read, random crops, and crops of enlarged images (the jitter of
pix2pix), at offsets drawn anew in each epoch.

An offset is a pair of fractions in [0, 1) of the free space, (vertical, horizontal), so what is
drawn does not depend on the sizes of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img_data.images.pixels import Pixels

TAPS: Final = 4


@dataclass(frozen=True, slots=True)
class Crops:
    """Square crops: their side in pixels, and ``offsets`` in inputs and targets, 2 x N x 2."""

    side: int
    offsets: NDArray[np.float64]

    @classmethod
    def center(cls, side: int, count: int) -> Crops:
        """Return the center crops of ``count`` images."""
        return cls(side, np.full((2, count, 2), 0.5))


def resize_to(pixels: Pixels, side: int) -> Pixels:
    """Return H x W x C, uint8 or uint16, resized to side x side x C, whatever the aspect.

    Bicubic and antialiased by Pillow, as in https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix,
    data/base_dataset.py.
    """
    from PIL import Image

    planes = []
    for plane in np.moveaxis(pixels, 2, 0):
        # Pillow resizes planes of 8 bits or of floats.
        image = Image.fromarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32))
        planes.append(np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)))
    top = np.iinfo(pixels.dtype).max
    return np.asarray(np.rint(np.stack(planes, -1)).clip(0, top), pixels.dtype)


def stack_crops(images: Sequence[Pixels], crops: Crops | None, half: int) -> Pixels:
    """Return crops of inputs (``half`` 0) or targets (1), stacked to N x side x side x C.

    Without ``crops`` the images, which then have one size, are stacked whole.
    """
    if crops is None:
        return np.stack(images)
    out = []
    for image, offset in zip(images, crops.offsets[half], strict=True):
        free = np.array(image.shape[:2]) - crops.side
        top, left = first_pixel(offset, free).tolist()
        out.append(image[top : top + crops.side, left : left + crops.side])
    return np.stack(out)


def first_pixel(offset: NDArray[np.float64], free: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first pixel of crops that can start at 0 to ``free``, all equally likely."""
    return np.floor(offset * (free + 1)).astype(np.int64)


def resize_and_crop(images: Tensor, factor: float, offsets: NDArray[np.float64]) -> Tensor:
    """Enlarge images by ``factor`` and crop each to its original size.

    ``images`` are integers N x H x W x C, ``offsets`` N x 2. The result has the same range as
    float32, rounded and clipped once. Random jitter of Isola et al. (2017), section 6.2; bicubic
    with the kernel of Pillow, as in https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix,
    data/base_dataset.py.
    """
    # Four weighted samples per axis, added in a fixed order, instead of two matrix products: a
    # matrix product adds in an order that depends on the number of threads, and the bits would
    # depend on it too.
    top = torch.iinfo(images.dtype).max
    x, device = images.to(torch.float32), images.device
    image = torch.arange(len(x), device=device)[:, None]
    for axis in (0, 1):
        sources, weights = _taps_of_crops(x.shape[1], factor, offsets[:, axis], device)
        parts = [x[image, sources[..., k]] * weights[..., k, None, None] for k in range(TAPS)]
        # Transposed: first the rows of the images are enlarged, then the columns.
        x = reduce(Tensor.add_, parts).transpose(1, 2)
    return x.contiguous().round_().clamp_(0, top)


def resize_and_crop_pixels(images: Pixels, factor: float, offsets: NDArray[np.float64]) -> Pixels:
    """Return the result of ``resize_and_crop`` with the dtype of ``images``."""
    out = resize_and_crop(torch.from_numpy(images), factor, offsets).numpy()
    return np.ascontiguousarray(out.astype(images.dtype))


def copy_to(values: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on a device. On CUDA the host does not wait for the copy."""
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _taps_of_crops(
    side: int, factor: float, offsets: NDArray[np.float64], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return source pixels and weights, both N x side x 4, of crops along one axis of enlarged
    images.
    """
    length = max(side, round(side * factor))
    first = copy_to(first_pixel(offsets, length - side), device)
    pixels = first[:, None] + torch.arange(side, device=device)
    sources, weights = (copy_to(table, device)[pixels] for table in _taps(side, length))
    return sources, weights


@lru_cache(maxsize=4)
def _taps(side: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return source pixels and weights, both length x 4, of an axis of ``side`` enlarged to
    ``length``.
    """
    centers = (np.arange(length) + 0.5) * (side / length)
    sources = np.floor(centers - 1.5).astype(np.int64)[..., None] + np.arange(TAPS)
    # Taps beyond the border get no weight and the others are normalized, as in Pillow.
    weights = _cubic(sources + 0.5 - centers[..., None]) * ((sources >= 0) & (sources < side))
    weights /= weights.sum(-1, keepdims=True)
    return sources.clip(0, side - 1), weights.astype(np.float32)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bicubic kernel at a distance in pixels: Keys (1981), eq. 4."""
    x, a = np.abs(distance), -0.5  # as in Pillow
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
