"""A second set of weights that follows the trained ones slowly and is handed over in their place.

The average of the iterates is a better estimate than the last of them (Polyak and Juditsky 1992); for
generators as in Karras et al. (2018), 4.1, with a decay of 0.999 a step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(slots=True)
class ModelEma:
    """Moving averages of some networks; they begin as their copies.

    The first updates average over fewer: the decay of update n (from 1) is at most (1 + n) / (10 + n), as
    TensorFlow's ExponentialMovingAverage does with a count of updates. Else a short run would hand over
    the weights it began with. Buffers, such as running statistics, are copied.
    """

    decay: float
    nets: dict[str, nn.Module] = field(default_factory=dict)

    @classmethod
    def of(cls, decay: float, nets: Mapping[str, nn.Module], names: Iterable[str]) -> ModelEma:
        """Return the ema of the networks of these names, as they are now."""
        return cls(decay, {name: copy.deepcopy(nets[name]).requires_grad_(False) for name in names})

    @torch.no_grad()
    def update(self, nets: Mapping[str, nn.Module], moved: Iterable[str], update: int) -> None:
        """Take update number ``update``, from 1, of those of the ``moved`` networks that have a ema."""
        share = 1 - min(self.decay, (1 + update) / (10 + update))
        for name in (name for name in moved if name in self.nets):
            mine, theirs = self.nets[name], nets[name]
            torch._foreach_lerp_(list(mine.parameters()), list(theirs.parameters()), share)
            for kept, buffer in zip(mine.buffers(), theirs.buffers(), strict=True):
                kept.copy_(buffer)
