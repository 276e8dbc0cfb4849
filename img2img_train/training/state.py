"""What a step changes, and its tensors: networks, optimizers, pools, averages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from img2img_data.core.errors import CheckpointError
from img2img_train.config import RunConfig
from img2img_train.networks.layers import set_test_norm
from img2img_train.networks.registry import build
from img2img_train.networks.specs import NetworkSpec
from img2img_train.objectives.base import Objective, Phase
from img2img_train.objectives.image_pool import ImagePool
from img2img_train.optim.ema import ModelEma
from img2img_train.runs.checkpoint import (
    Checkpoint,
    Tensors,
    load_into_network,
    load_into_optimizer,
    optimizer_tensors,
)

RMSPROP_DECAY: Final = 0.9
"""As in https://github.com/duxingren14/DualGAN; TensorFlow's default."""


@dataclass(slots=True)
class State:
    """What a step changes. ``ema`` averages the generators, with ``--ema``; ``layout`` is how images and
    weights lie in memory.
    """

    device: torch.device
    layout: torch.memory_format
    nets: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    pools: dict[str, ImagePool]
    ema: ModelEma | None

    @classmethod
    def begin(
        cls,
        config: RunConfig,
        objective: Objective,
        device: torch.device,
        channels: tuple[int, int],
    ) -> State:
        """Return the state before the first step, from the seed; ``channels`` of inputs and targets."""
        nets: dict[str, nn.Module] = {}
        specs = objective.networks(channels)
        layout = _layout(specs, device)
        seeds = np.random.SeedSequence(config.seed).generate_state(len(specs))
        for (name, spec), seed in zip(specs.items(), seeds.tolist(), strict=True):
            nets[name] = build(spec, seed).to(device=device, memory_format=layout)  # type: ignore[call-overload]
            set_test_norm(nets[name], config.test_norm)
        optimizers = {p.name: _optimizer(p, config, nets, device) for p in objective.phases()}
        remembered = enumerate(objective.image_pools().items())
        pools = {name: ImagePool(size, config.seed, number) for number, (name, size) in remembered}
        ema = ModelEma.of(config.ema, nets, objective.generators()) if config.ema else None
        return cls(device, layout, nets, optimizers, pools, ema)

    @property
    def shown(self) -> Mapping[str, nn.Module]:
        """The networks as validation, samples and others see them: averages where there are some."""
        return self.nets | self.ema.nets if self.ema is not None else self.nets

    def network_tensors(self) -> Tensors:
        """Return the weights and buffers of all networks, ``network/NAME/KEY`` and ``ema/NAME/KEY``."""
        kinds = {"network": self.nets, "ema": self.ema.nets if self.ema is not None else {}}
        return {
            f"{kind}/{name}/{key}": tensor
            for kind, nets in kinds.items()
            for name, net in nets.items()
            for key, tensor in net.state_dict().items()
        }

    def tensors(self) -> Tensors:
        """Return all that moves while training, by name."""
        tensors = self.network_tensors() | {"rng/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        for name, optimizer in self.optimizers.items():
            tensors |= {f"optimizer/{name}/{k}": t for k, t in optimizer_tensors(optimizer).items()}
        pools = {name: pool.images for name, pool in self.pools.items()}
        return tensors | {f"pool/{name}": kept for name, kept in pools.items() if kept is not None}

    def load(self, checkpoint: Checkpoint, size: tuple[int, int]) -> None:
        """Stand where a checkpoint was written, exactly; images are of ``size``, height and width.

        Raises CheckpointError where it does not fit.
        """
        for name, net in self.nets.items():
            load_into_network(net, checkpoint.tensors_under(f"network/{name}/"), checkpoint.path)
        for name, net in (self.ema.nets if self.ema is not None else {}).items():
            load_into_network(net, checkpoint.tensors_under(f"ema/{name}/"), checkpoint.path)
        for name, optimizer in self.optimizers.items():
            load_into_optimizer(
                optimizer, checkpoint.tensors_under(f"optimizer/{name}/"), checkpoint.path
            )
        for name, pool in self.pools.items():
            kept = checkpoint.tensors.get(f"pool/{name}")
            kept = None if kept is None else kept.to(self.device)
            pool.fill(kept, size, checkpoint.path)
        if "rng/cpu" not in checkpoint.tensors:
            raise CheckpointError(
                "checkpoint", checkpoint.path, "has no state of the generator", "use another one"
            )
        torch.set_rng_state(checkpoint.tensors["rng/cpu"])
        if self.device.type == "cuda" and "rng/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng/cuda"], self.device)


def _layout(specs: Mapping[str, NetworkSpec], device: torch.device) -> torch.memory_format:
    """Return the faster layout (docs/log.md): on a CPU instance norm copies to channel_layout and back."""
    channel_layout = device.type == "cpu" and any(
        spec.norm == "instance" for spec in specs.values()
    )
    return (
        torch.contiguous_format if channel_layout or device.type == "mps" else torch.channels_last
    )


def _optimizer(
    phase: Phase, config: RunConfig, nets: Mapping[str, nn.Module], device: torch.device
) -> torch.optim.Optimizer:
    parameters = [p for name in phase.modules for p in nets[name].parameters()]
    if phase.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config.lr, alpha=RMSPROP_DECAY)
    betas = config.beta1, config.beta2
    return torch.optim.Adam(parameters, lr=config.lr, betas=betas, fused=device.type != "mps")
