"""Exponential moving average of network weights (EMA).

The average of the iterates is a better estimate than the last of them (Polyak and Juditsky 1992);
for generators see Karras et al. (2018), 4.1, with a decay of 0.999 a step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(slots=True)
class ModelEma:
    """Moving averages of networks, which start as copies; buffers are copied, not averaged."""

    decay: float
    nets: dict[str, nn.Module]

    @classmethod
    def of(cls, decay: float, nets: Mapping[str, nn.Module], names: Iterable[str]) -> ModelEma:
        """Return the averages of the networks of these names, as they are now."""
        return cls(decay, {name: copy.deepcopy(nets[name]).requires_grad_(False) for name in names})

    @torch.no_grad()
    def update(self, nets: Mapping[str, nn.Module], names: Iterable[str], update: int) -> None:
        """Update the averages of the named networks after update number ``update``, from 1."""
        # The decay grows with the number of updates, as in TensorFlow's ExponentialMovingAverage:
        # with a constant one, the average of a short run would still be dominated by the initial
        # weights.
        weight = 1 - min(self.decay, (1 + update) / (10 + update))
        for name in (name for name in names if name in self.nets):
            average, net = self.nets[name], nets[name]
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), weight)
            if buffers := list(net.buffers()):
                torch._foreach_copy_(list(average.buffers()), buffers)
