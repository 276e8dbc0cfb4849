"""Learning-rate schedule: warm-up, constant, decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

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
