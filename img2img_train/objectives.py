"""What a run minimises: frozen settings, no state. The loop knows phases, never which game is played.

Adding one: write an ``Objective`` with its settings as fields, and give it a row in ``OBJECTIVES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from img2img_train.config import RunConfig
from img2img_train.networks import NetworkSpec

Images = dict[str, Tensor]
Nets = Mapping[str, nn.Module]


@dataclass(frozen=True, slots=True)
class Batch:
    """Pairs on the device: float32 N x C x H x W in [-1, 1]."""

    input: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Phase:
    """One update of a step: the networks it moves, with an optimizer of their own."""

    name: str
    modules: tuple[str, ...]


class Objective(BaseModel):
    """What every objective is. A step calls ``forward`` once, then ``losses``, ``after`` for each phase."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    net: str = Field("autoencoder", description="generator, a row of NETWORKS")
    width: int = Field(64, ge=1, description="channels of the generator's first layer")

    @property
    def generator(self) -> str:
        """The network that is handed over in the end: input to output."""
        return "generator"

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return the networks for pictures of so many channels, input and target."""
        inputs, outputs = channels
        return {"generator": NetworkSpec(name=self.net, inputs=inputs, outputs=outputs, width=self.width)}

    def phases(self) -> tuple[Phase, ...]:
        """Return the updates of a step, in order."""
        return (Phase("generator", ("generator",)),)

    def forward(self, nets: Nets, batch: Batch) -> Images:
        """Return the images made of a batch, as sample grids show them; all phases share them."""
        return {"output": nets["generator"](batch.input)}

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images) -> dict[str, Tensor]:
        """Return the terms whose sum the phase minimises, by name; scalars, float32."""
        raise NotImplementedError

    def after(self, phase: str, nets: Nets) -> None:
        """Do what follows the update of a phase, clipping weights for instance."""


class L2(Objective):
    """Mean squared difference, samples in [-1, 1]."""

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images) -> dict[str, Tensor]:
        """Return the one term ``l2``."""
        return {"l2": functional.mse_loss(made["output"].float(), batch.target)}


class L1(Objective):
    """Mean absolute difference, samples in [-1, 1]."""

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images) -> dict[str, Tensor]:
        """Return the one term ``l1``."""
        return {"l1": functional.l1_loss(made["output"].float(), batch.target)}


OBJECTIVES: Final[dict[str, type[Objective]]] = {"l2": L2, "l1": L1}


def objective_of(config: RunConfig) -> Objective:
    """Return the objective of a run: the fields of the configuration that it knows."""
    model = OBJECTIVES[config.loss]
    values: dict[str, Any] = {name: value for name, value in config if name in model.model_fields}
    return model(**values)
