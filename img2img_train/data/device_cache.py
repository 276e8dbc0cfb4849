"""A cache of all images on the device: a step then sends only the indices of its images there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from img2img_data.core.errors import UsageError
from img2img_train.data.augment import Crops, copy_to
from img2img_train.data.dataset import CachedImages, ImageSet, Indices
from img2img_train.distributed.memory import free_memory

# Of the memory that is free before training; networks, optimizers and activations need the rest.
SHARE_OF_DEVICE: Final = 0.25


@dataclass(frozen=True, slots=True)
class DeviceCache:
    """All images of an ``ImageSet`` on the device, N x H x W x C; ``inputs`` as in
    ``CachedImages``.
    """

    inputs: Tensor
    targets: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, images: CachedImages, device: torch.device) -> DeviceCache:
        """Copy images of one size from memory to the device."""
        inputs, targets = (torch.from_numpy(side) for side in (images.inputs, images.targets))
        dtype = targets.dtype
        if dtype != torch.uint8:
            # uint16 has no index_select on CUDA; int16 holds the same bits.
            inputs, targets = inputs.view(torch.int16), targets.view(torch.int16)
        return cls(inputs.to(device), targets.to(device), dtype)

    def gather(self, indices: Indices, crops: Crops | None = None) -> tuple[Tensor, Tensor]:
        """Return inputs and targets at ``indices`` (2 x N), on the device; it holds no crops."""
        targets = self._select(self.targets, indices[1])
        return (self._select(self.inputs, indices[0]) if len(self.inputs) else targets), targets

    def _select(self, images: Tensor, indices: Indices) -> Tensor:
        indices = indices % len(images)
        return images.index_select(0, copy_to(indices, images.device)).view(self.dtype)


def check_device_cache(cache: str, images: ImageSet, workers: int) -> None:
    """Raise UsageError if ``--cache device`` is set and cannot be used."""
    obstacle = _obstacle(images, workers)
    if cache == "device" and obstacle is not None:
        why = f"'device' cannot be used: {obstacle}"
        raise UsageError("option", "--cache", why, "give --cache ram")


def uses_device_cache(cache: str, images: ImageSet, workers: int, device: torch.device) -> bool:
    """Return True if training images are to be cached on the device.

    Raises:
        UsageError: if ``--cache device`` is set and the images do not fit.
    """
    if device.type != "cuda" or cache not in ("auto", "device"):
        return cache == "device"
    size, free = images.for_training().nbytes, free_memory(str(device))
    if cache == "device" and size > free:
        why = f"'device': the images need {size / 1e9:.1f} GB, but it has {free / 1e9:.1f} GB free"
        raise UsageError("option", "--cache", why, "give --cache ram")
    fits = _obstacle(images, workers) is None and size <= SHARE_OF_DEVICE * free
    return cache == "device" or fits


def _obstacle(images: ImageSet, workers: int) -> str | None:
    if images.min_side:
        return "the images have different sizes"
    if images.on_the_fly is not None and not images.on_the_fly.is_linear:
        return "this degradation runs on images in main memory"
    return "with --workers other processes read the images" if workers else None
