"""What is measured while training: losses, seconds, PSNR. Nothing here makes a step wait for the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from img2img_train.objectives.base import Batch

BLOCK: Final = 64
PSNR_CAP: Final = 100.0


def psnr_of(made: Tensor, target: Tensor) -> Tensor:
    """Return the PSNR of each image, dB, peak 255, error over all samples, at most 100; float64 on the CPU.

    Both are uint8 N x H x W x C; sums are exact.
    """
    error = (
        (made.to(torch.int32) - target.to(torch.int32))
        .square()
        .flatten(1)
        .sum(1, dtype=torch.int64)
    )
    mean = error.cpu().to(torch.float64) / made[0].numel()
    return (10 * torch.log10(255**2 / mean)).clamp(max=PSNR_CAP)


@dataclass(slots=True)
class LossBuffer:
    """The losses of the last steps, kept on the device and read a block at a time.

    A step may have fewer terms than another: ``there`` says which it has, without asking the device. ``mean``
    makes those of one process those of all.
    """

    device: torch.device
    mean: Callable[[Tensor], Tensor] = field(default=lambda values: values)
    rows: list[Tensor] = field(default_factory=list)
    there: list[list[str]] = field(default_factory=list)

    def add(self, losses: Mapping[str, Tensor]) -> bool:
        """Keep the losses of a step; True when the block is full."""
        self.rows.append(torch.stack([loss.detach().float() for loss in losses.values()]))
        self.there.append(list(losses))
        return len(self.rows) == BLOCK

    def take(self) -> list[dict[str, float]]:
        """Return the losses of the block, a dict a step, and empty it."""
        if not self.rows:
            return []
        values = self.mean(torch.cat(self.rows).cpu()).tolist()
        found = [{name: values.pop(0) for name in names} for names in self.there]
        self.rows, self.there = [], []
        return found


@dataclass(slots=True)
class EpochTimer:
    """Where the time of an epoch goes, in the first of ``processes`` that train together."""

    processes: int = 1
    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    images: int = 0

    def waiting(self, fetch: Callable[[], Batch]) -> Batch:
        """Return what ``fetch`` does, its time counted as waiting for data.

        On CUDA the device may well be computing meanwhile.
        """
        start = time.monotonic()
        batch = fetch()
        self.waited += time.monotonic() - start
        self.images += self.processes * len(batch.input)
        return batch

    def row(self, epoch: int, trained: float) -> dict[str, Any]:
        """Return the row of an epoch whose training ended at ``trained``, and begin the next one."""
        now, seconds = time.monotonic(), max(trained - self.began, 1e-9)
        row = {
            "epoch": epoch,
            "seconds": round(now - self.began, 3),
            "training_seconds": round(seconds, 3),
            "waiting_for_data": round(self.waited / seconds, 4),
            "images_per_second": round(self.images / seconds, 1),
        }
        self.began, self.waited, self.images = now, 0.0, 0
        return row
