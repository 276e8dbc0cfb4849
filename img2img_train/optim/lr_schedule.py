"""The learning rate of every step: warm-up, constant, fall. Pure, so that a resumed run has the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Decay: TypeAlias = Literal["linear", "cosine"]

SHAPES: Final[Mapping[str, Callable[[float], float]]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
}
"""How a fall goes: from the share of it that is left, 1 to 0, to the share of the rate."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rates of a run of ``steps`` steps, counted from 0.

    Over the first ``warmup`` steps the rate rises linearly from ``lr / warmup`` (Goyal et al. 2017, 2.2);
    over the last ``falling`` it falls to zero: ``linear`` as in Isola et al. (2017) and Zhu et al. (2017),
    ``cosine`` as in Loshchilov and Hutter (2017), eq. 5, without restarts. Where both meet they multiply.
    A fall longer than the run begins on its way down.
    """

    lr: float
    steps: int
    falling: int = 0
    decay: Decay = "linear"
    warmup: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, at least 0 and at most ``lr``."""
        left = max(0.0, min(1.0, (self.steps - step) / self.falling)) if self.falling else 1.0
        rate = self.lr * SHAPES[self.decay](left)
        return rate * (step + 1) / self.warmup if step < self.warmup else rate
