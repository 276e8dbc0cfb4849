"""Images kept on the device: of a step only the numbers of its images travel there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img_data.core.errors import UsageError
from img2img_train.data.augment import Crops, moved
from img2img_train.data.dataset import CachedImages, ImageSet, PairedImages

SHARE_OF_DEVICE: Final = 0.25
"""Of the memory that is free before training; networks and a step need the rest."""


@dataclass(frozen=True, slots=True)
class DeviceCache:
    """All images of a ``ImageSet`` on the device, N x H x W x C; no inputs where the targets stand for
    them.

    Samples of 16 bits lie there as int16 of the same bits, which every device can gather.
    """

    inputs: Tensor
    targets: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, memory: CachedImages, device: torch.device) -> DeviceCache:
        """Return images in memory, all of one size, brought to the device."""
        inputs, targets = (torch.from_numpy(side) for side in (memory.inputs, memory.targets))
        dtype = targets.dtype
        if dtype != torch.uint8:
            inputs, targets = inputs.view(torch.int16), targets.view(torch.int16)
        return cls(inputs.to(device), targets.to(device), dtype)

    def gather(
        self, indices: NDArray[np.int64], others: NDArray[np.int64], cuts: Crops | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the inputs of ``indices`` and the targets of ``others``, stacked, on the device."""
        targets = self._taken(self.targets, others)
        return (self._taken(self.inputs, indices) if len(self.inputs) else targets), targets

    def _taken(self, kept: Tensor, places: NDArray[np.int64]) -> Tensor:
        return kept.index_select(0, moved(places % len(kept), kept.device)).view(self.dtype)


def check_device_cache(cache: str, held: ImageSet, workers: int) -> None:
    """Raise UsageError where images are to be kept on the device and cannot be."""
    why = _obstacle(held, workers)
    if cache == "device" and why is not None:
        raise UsageError(
            "option", "--cache", f"'device' does not go here: {why}", "give --cache ram"
        )


def uses_device_cache(cache: str, held: ImageSet, workers: int, device: torch.device) -> bool:
    """Return whether images to train on are kept on the device: ``--cache``, decided.

    UsageError where that is asked for and they do not fit.
    """
    if device.type != "cuda" or cache not in ("auto", "device"):
        return cache == "device"
    size, free = held.to_train_on().nbytes, torch.cuda.mem_get_info(device)[0]
    if cache == "device" and size > free:
        why = (
            f"'device': the images take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there"
        )
        raise UsageError("option", "--cache", why, "give --cache ram")
    return cache == "device" or (
        _obstacle(held, workers) is None and size <= SHARE_OF_DEVICE * free
    )


def _obstacle(held: ImageSet, workers: int) -> str | None:
    if held.least:
        return "the images are of several sizes"
    if isinstance(held, PairedImages) and held.online is not None and not held.online.linear:
        return "this degradation works on images in memory"
    return "with --workers other processes read the images" if workers else None
