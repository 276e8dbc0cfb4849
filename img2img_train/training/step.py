"""One training step: the phases of an objective in turn, each with its losses and its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from img2img_train.config import RunConfig
from img2img_train.distributed.processes import Processes
from img2img_train.networks.layers import sync_batch_norm
from img2img_train.objectives.base import Batch, Images, Losses, Phase
from img2img_train.objectives.image_pool import ImagePool
from img2img_train.optim.optimizers import LrSchedule
from img2img_train.training.state import TrainingState


@dataclass(slots=True)
class MicroBatches:
    """The parts of a batch for gradient accumulation.

    ``images`` holds for each part the images of ``forward`` and those of the image pools, which
    draw from ``rngs``.
    """

    parts: list[Batch]
    images: list[tuple[Images, Images]] = field(default_factory=list)
    rngs: dict[str, np.random.Generator] = field(default_factory=dict)

    @classmethod
    def split(cls, batch: Batch, count: int) -> MicroBatches:
        """Split a batch of N into ``count`` parts, at most N, as equal as possible."""
        count = min(count, len(batch.input))
        sides = (x.tensor_split(count) for x in (batch.input, batch.target))
        return cls([Batch(inputs, targets) for inputs, targets in zip(*sides, strict=True)])


@dataclass(slots=True)
class TrainStep:
    """The steps of a run; each depends on ``state``, batch and step number, and changes ``state``.

    ``nets`` are the networks that steps run: those of the state, or compiled ones with their
    weights. Losses see the ``frozen`` ones too.
    """

    config: RunConfig
    state: TrainingState
    schedule: LrSchedule
    processes: Processes
    frozen: Mapping[str, nn.Module] = field(default_factory=dict)
    nets: Mapping[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.nets = self.state.nets
        for net in self.nets.values():
            sync_batch_norm(net, self.processes.world_size)

    def autocast(self) -> torch.autocast:
        """Return the autocast context of a training step."""
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=bf16)

    def run(self, batch: Batch, number: int) -> Losses:
        """Run step ``number``, from 0; return its losses, still on the device."""
        objective, state = self.config.objective, self.state
        if self.config.compile == "graphs":
            # Nothing that networks returned outlives the step: losses and pools hold copies.
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.rate(number)
        # A single process goes on with its global random state, which the checkpoint holds.
        if self.processes.world_size > 1:
            self.processes.seed(self.config.seed, number)
        layout = state.memory_format
        inputs, targets = (x.contiguous(memory_format=layout) for x in (batch.input, batch.target))
        micro = MicroBatches.split(Batch(inputs, targets), self.config.accumulate)
        micro.rngs = {name: pool.rng(number) for name, pool in state.pools.items()}
        phases = [phase for phase in objective.phases() if (number + 1) % phase.every == 0]
        terms = dict[str, Tensor]()
        for phase in phases:
            optimizer = state.optimizers[phase.name]
            optimizer.zero_grad(set_to_none=True)
            for index, part in enumerate(micro.parts):
                fraction = len(part.input) / len(batch.input)
                outputs, history = self._images(phase, phases, micro, index)
                self.require_gradients(phase)
                with self.autocast():
                    nets = {**self.nets, **self.frozen}
                    losses = objective.losses(phase.name, nets, part, outputs, history)
                # Losses are means over images: weighted by the fractions they add up to the
                # batch's, and so do their gradients.
                loss = torch.stack(list(losses.values())).sum() * fraction
                loss.backward()  # type: ignore[no-untyped-call]
                for name, term in losses.items():
                    terms[name] = terms.get(name, 0) + term.detach() * fraction
            if self.processes.world_size > 1:
                self.processes.average_gradients(weights_of(optimizer))
            if self.config.clip_grad:
                nn.utils.clip_grad_norm_(weights_of(optimizer), self.config.clip_grad)
            # In this order: weights are clipped after the optimizer has moved them, and the average
            # takes in clipped weights.
            optimizer.step()
            objective.after_update(phase.name, state.nets)
            if state.ema.nets:
                state.ema.update(state.nets, phase.modules, (number + 1) // phase.every)
        return terms

    def _images(
        self, phase: Phase, phases: list[Phase], micro: MicroBatches, index: int
    ) -> tuple[Images, Images]:
        """Return the images generated from a micro-batch, and the images of the pools for it."""
        objective = self.config.objective
        undivided, first = len(micro.parts) == 1, index == len(micro.images)
        trains = not set(phase.modules).isdisjoint(objective.generators())
        # One forward per step: all phases share its images, as in pix2pix and CycleGAN. With
        # several micro-batches the graph of each is freed after its backward, or no memory would be
        # saved; so a phase that trains the generators runs them again, with the weights they still
        # have.
        if not first and (undivided or not trains):
            return micro.images[index]
        # The graph of an undivided batch serves all phases of the step, so it has to be built with
        # the gradients of all their networks.
        self.require_gradients(*(phases if undivided else [phase]))
        with self.autocast(), torch.set_grad_enabled(undivided or trains):
            outputs = objective.forward(self.nets, micro.parts[index])
        if first:
            pools = self.state.pools.items()
            history = {n: self._query(pool, outputs[n], micro.rngs[n]) for n, pool in pools}
            kept = outputs if undivided else {name: x.detach() for name, x in outputs.items()}
            micro.images.append((kept, history))
        return outputs, micro.images[index][1]

    def _query(self, pool: ImagePool, images: Tensor, rng: np.random.Generator) -> Tensor:
        # Every process passes all images through its pool, so that all pools stay equal and a
        # checkpoint of the main process is complete; each trains on its own share.
        shown = pool.query(self.processes.all_gather(images), rng)
        shard = shown.chunk(self.processes.world_size)[self.processes.rank]
        return shard.contiguous(memory_format=self.state.memory_format)

    def require_gradients(self, *phases: Phase) -> None:
        """Set requires_grad for the networks that these phases update, and for no others."""
        # A generator's loss runs through the discriminators: without this, autograd would also
        # compute the gradients of their weights, only for zero_grad to discard them.
        if len(self.config.objective.phases()) > 1:
            for name, net in self.state.nets.items():
                net.requires_grad_(any(name in phase.modules for phase in phases))


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the weights that an optimizer moves."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]
