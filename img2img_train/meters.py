"""What is measured while training: losses, seconds, PSNR. Nothing here makes a step wait for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from img2img_train.batches import Raw

BLOCK: Final = 64
PSNR_CAP: Final = 100.0


def psnr_of(made: Tensor, target: Tensor) -> Tensor:
    """Return the PSNR of each picture, dB, peak 255, error over all samples, at most 100; float64 on the CPU.

    Both are uint8 N x H x W x C; sums are exact.
    """
    error = (made.to(torch.int32) - target.to(torch.int32)).square().flatten(1).sum(1, dtype=torch.int64)
    mean = error.cpu().to(torch.float64) / made[0].numel()
    return (10 * torch.log10(255**2 / mean)).clamp(max=PSNR_CAP)


@dataclass(slots=True)
class Trace:
    """The losses of the last steps, kept on the device and read a block at a time."""

    device: torch.device
    names: list[str] = field(default_factory=list)
    rows: Tensor | None = None
    used: int = 0

    def add(self, losses: Mapping[str, Tensor]) -> bool:
        """Keep the losses of a step; True when the block is full."""
        if self.rows is None:
            self.names = list(losses)
            self.rows = torch.empty(BLOCK, len(losses), device=self.device)
        torch.stack([loss.detach().float() for loss in losses.values()], out=self.rows[self.used])
        self.used += 1
        return self.used == BLOCK

    def take(self) -> NDArray[np.float64]:
        """Return the block, steps x names, and empty it."""
        if self.rows is None or not self.used:
            return np.empty((0, 0))
        block, self.used = self.rows[: self.used].cpu().numpy().astype(np.float64), 0
        return block


@dataclass(slots=True)
class Clock:
    """Where the time of an epoch goes."""

    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    pictures: int = 0

    def waiting(self, fetch: Callable[[], Raw]) -> Raw:
        """Return what ``fetch`` does, its time counted as waiting for data."""
        start = time.monotonic()
        raw = fetch()
        self.waited += time.monotonic() - start
        self.pictures += len(raw.inputs)
        return raw

    def row(self, epoch: int, trained: float) -> dict[str, Any]:
        """Return the row of an epoch whose training ended at ``trained``, and begin the next one."""
        now, seconds = time.monotonic(), max(trained - self.began, 1e-9)
        row = {
            "epoch": epoch,
            "seconds": round(now - self.began, 3),
            "training_seconds": round(seconds, 3),
            "waiting_for_data": round(self.waited / seconds, 4),
            "pictures_per_second": round(self.pictures / seconds, 1),
        }
        self.began, self.waited, self.pictures = now, 0.0, 0
        return row
