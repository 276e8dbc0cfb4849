"""Training state: networks, optimizers, image pools, moving averages, random state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_train.config import RunConfig
from img2img_train.networks.layers import set_test_norm
from img2img_train.networks.registry import build
from img2img_train.networks.specs import NetworkSpec
from img2img_train.objectives.base import Phase
from img2img_train.objectives.image_pool import ImagePool
from img2img_train.optim.ema import ModelEma
from img2img_train.optim.optimizers import CpuAdam
from img2img_train.runs import checkpoint as checkpoints

# As in https://github.com/duxingren14/DualGAN; TensorFlow's default, where torch's is 0.99.
RMSPROP_DECAY: Final = 0.9


@dataclass(slots=True)
class TrainingState:
    """Everything that a step changes; a checkpoint holds all of it.

    ``memory_format`` is that of images and weights; ``ema`` averages the generators, with
    ``--ema``, else no network.
    """

    device: torch.device
    memory_format: torch.memory_format
    nets: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    pools: dict[str, ImagePool]
    ema: ModelEma

    @classmethod
    def create(
        cls, config: RunConfig, device: torch.device, channels: tuple[int, int]
    ) -> TrainingState:
        """Return the state before the first step, for ``channels`` of inputs and targets."""
        objective = config.objective
        specs = objective.networks(channels)
        layout, nets = _memory_format(specs, device, config), dict[str, nn.Module]()
        # A seed for each network by its position: the networks of an objective must keep their
        # order.
        seeds = np.random.SeedSequence(config.seed).generate_state(len(specs))
        for (name, spec), seed in zip(specs.items(), seeds.tolist(), strict=True):
            nets[name] = build(spec, seed).to(device=device, memory_format=layout)  # type: ignore[call-overload]
            set_test_norm(nets[name], config.test_norm)
        optimizers = {p.name: _optimizer(p, config, nets, device) for p in objective.phases()}
        sizes = enumerate(objective.image_pools().items())
        pools = {name: ImagePool(size, config.seed, number) for number, (name, size) in sizes}
        ema = ModelEma.of(config.ema, nets, objective.generators() if config.ema else ())
        return cls(device, layout, nets, optimizers, pools, ema)

    @property
    def _saved_nets(self) -> dict[str, nn.Module]:
        """The networks by their prefix in a checkpoint: ``network/NAME/`` and ``ema/NAME/``."""
        saved = {f"network/{name}/": net for name, net in self.nets.items()}
        return saved | {f"ema/{name}/": net for name, net in self.ema.nets.items()}

    def network_tensors(self) -> checkpoints.Tensors:
        """Return all weights and buffers: ``network/NAME/KEY`` and ``ema/NAME/KEY``."""
        nets = self._saved_nets.items()
        return {prefix + key: t for prefix, net in nets for key, t in net.state_dict().items()}

    # Position in the data, learning rate, augmentation and the draws of pools are functions of the
    # step number. Everything else has to be here, or a resumed run would not be bit-exact: weights,
    # optimizer moments, pool images, and the global random state from which dropout and the
    # gradient penalty draw.
    def tensors(self) -> checkpoints.Tensors:
        """Return all tensors that later steps depend on, by name."""
        tensors = self.network_tensors() | {"rng/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        for name, optimizer in self.optimizers.items():
            moments = checkpoints.optimizer_tensors(optimizer).items()
            tensors |= {f"optimizer/{name}/{key}": tensor for key, tensor in moments}
        for name, pool in self.pools.items():
            if pool.images is not None:
                tensors[f"pool/{name}"] = pool.images
        return tensors

    def initialize(self, checkpoint: checkpoints.Checkpoint, config: RunConfig) -> str:
        """Take over the networks of a checkpoint of another run; return a line that names them.

        Raises UsageError if one does not fit.
        """
        taken, fresh = list[str](), list[str]()
        for name, net in self.nets.items():
            source = checkpoint.description.generator if name == "generator" else name
            tensors = checkpoint.weights_of(source)
            (taken if tensors else fresh).append(name)
            if tensors:
                try:
                    checkpoints.load_into_network(net, tensors, checkpoint.path)
                except CheckpointError as error:
                    options = "--net, --width" if "generator" in name else "--discriminator"
                    hint = f"set {options} and --loss to those of that run, or leave them out"
                    raise UsageError("option", "--init", f"{error} ({name})", hint) from None
        self.ema = ModelEma.of(config.ema, self.nets, self.ema.nets)
        line = f"starting from '{printable(checkpoint.path)}': {', '.join(taken)}"
        trained = checkpoint.description.config.get("input", config.input)
        line += f", trained with --input {trained}" if trained != config.input else ""
        return line + (f"; {', '.join(fresh)} initialized anew" if fresh else "")

    def load(self, checkpoint: checkpoints.Checkpoint, size: tuple[int, int]) -> None:
        """Restore the state of a checkpoint; CheckpointError if it does not fit.

        ``size`` is the height and width of the images in the pools.
        """
        for prefix, net in self._saved_nets.items():
            checkpoints.load_into_network(net, checkpoint.tensors_under(prefix), checkpoint.path)
        for name, optimizer in self.optimizers.items():
            tensors = checkpoint.tensors_under(f"optimizer/{name}/")
            checkpoints.load_into_optimizer(optimizer, tensors, checkpoint.path)
        for name, pool in self.pools.items():
            images = checkpoint.tensors.get(f"pool/{name}")
            pool.fill(None if images is None else images.to(self.device), size, checkpoint.path)
        if "rng/cpu" not in checkpoint.tensors:
            why, hint = "has no state of the random generator", "use another one"
            raise CheckpointError("checkpoint", checkpoint.path, why, hint)
        torch.set_rng_state(checkpoint.tensors["rng/cpu"])
        if self.device.type == "cuda" and "rng/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng/cuda"], self.device)


def _memory_format(
    specs: Mapping[str, NetworkSpec], device: torch.device, config: RunConfig
) -> torch.memory_format:
    # Channels last is faster for convolutions. But instance norm of several images needs contiguous
    # memory: a CPU would spend more time on copying every feature map to that layout and back. MPS
    # gains nothing from it.
    instance = any(spec.norm == "instance" for spec in specs.values())
    several = config.batch > config.accumulate
    if device.type == "mps" or (device.type == "cpu" and instance and several):
        return torch.contiguous_format
    return torch.channels_last


def _optimizer(
    phase: Phase, config: RunConfig, nets: Mapping[str, nn.Module], device: torch.device
) -> torch.optim.Optimizer:
    parameters = [p for name in phase.modules for p in nets[name].parameters()]
    if phase.optimizer == "rmsprop":
        if config.weight_decay:
            why, hint = "is for Adam, but wgan uses RMSProp", "leave it out"
            raise UsageError("option", "--weight-decay", why, hint)
        return torch.optim.RMSprop(parameters, lr=config.lr, alpha=RMSPROP_DECAY)
    betas = config.beta1, config.beta2
    options: dict[str, Any] = {"lr": config.lr, "betas": betas, "fused": device.type != "mps"}
    if config.weight_decay:
        options |= {"weight_decay": config.weight_decay, "decoupled_weight_decay": True}
    return (CpuAdam if device.type == "cpu" else torch.optim.Adam)(parameters, **options)
