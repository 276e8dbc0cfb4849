"""Optimizers: the learning rates of a run (warm-up, constant, decay), and Adam on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

Decay: TypeAlias = Literal["linear", "cosine"]


# A pure function of the step instead of torch's stateful schedulers: a resumed run has the same
# rates and there is no state to checkpoint.
@dataclass(frozen=True, slots=True)
class LrSchedule:
    """The learning rates of a run of ``steps`` steps, counted from 0.

    Over the first ``warmup`` steps the rate rises linearly from ``lr / warmup`` (Goyal et al. 2017,
    2.2); over the last ``decay_steps`` it falls to zero: ``linear`` as in Zhu et al. (2017) and
    their later PyTorch code, also of pix2pix (the rate of Isola et al. 2017 is constant);
    ``cosine`` as in Loshchilov and Hutter (2017), eq. 5, without restarts. Where both overlap they
    multiply. A decay longer than the run starts below ``lr``.
    """

    lr: float
    steps: int
    decay_steps: int = 0
    decay: Decay = "linear"
    warmup: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, in [0, lr]."""
        left = 1.0
        if self.decay_steps:
            left = max(0.0, min(1.0, (self.steps - step) / self.decay_steps))
        if self.decay == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        rate = self.lr * left
        return rate * (step + 1) / self.warmup if step < self.warmup else rate


class CpuAdam(torch.optim.Adam):
    """Adam that sees weights, gradients and moments as vectors, in the order of their memory."""

    # Torch's fused step on a CPU copies each gradient that is channels last to contiguous memory,
    # and never reads the copy, which takes most of its time:
    # https://github.com/pytorch/pytorch/blob/main/aten/src/ATen/native/cpu/FusedAdamKernel.cpp
    def _init_group(self, group: dict[str, Any], *lists: Any) -> Any:
        found = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        for tensors in lists[:4]:
            tensors[:] = [x.as_strided((x.numel(),), (1,)) for x in tensors]
        return found
