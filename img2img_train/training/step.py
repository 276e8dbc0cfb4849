"""One step of the networks: every phase in its turn, with its losses, its update and what follows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from img2img_train.config import RunConfig
from img2img_train.distributed.processes import Processes
from img2img_train.networks.layers import sync_batch_norm
from img2img_train.objectives.base import Batch, Objective, Phase
from img2img_train.objectives.image_pool import ImagePool
from img2img_train.optim.lr_schedule import LrSchedule
from img2img_train.training.micro_batches import MicroBatches
from img2img_train.training.state import State

if TYPE_CHECKING:
    from img2img_train.objectives.base import Images


@dataclass(slots=True)
class Stepper:
    """Takes the steps of a run: it changes ``state`` and nothing else, by the number of the step alone.

    ``used`` are its networks as steps go through them: the same, or covers over them that are compiled.
    """

    config: RunConfig
    objective: Objective
    state: State
    schedule: LrSchedule
    processes: Processes
    used: Mapping[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        self.used = self.state.nets
        for net in self.state.nets.values():
            sync_batch_norm(net, self.processes.world_size)

    def autocast(self) -> torch.autocast:
        """Return the arithmetic of a training step."""
        return torch.autocast(
            self.state.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def step(self, batch: Batch, number: int) -> dict[str, Tensor]:
        """Take step ``number``, from 0, its batch whole or in parts; return losses, still on the device."""
        rate, nets = self.schedule.rate(number), self.state.nets
        for group in (g for o in self.state.optimizers.values() for g in o.param_groups):
            group["lr"] = rate
        seen = dict[str, Tensor]()
        self.processes.seed(self.config.seed, number)
        due = [phase for phase in self.objective.phases() if (number + 1) % phase.every == 0]
        given, target = (
            x.contiguous(memory_format=self.state.layout) for x in (batch.input, batch.target)
        )
        parts = MicroBatches.of(Batch(given, target), self.config.accumulate)
        draws = {name: pool.rng(number) for name, pool in self.state.pools.items()}
        for phase in due:
            optimizer = self.state.optimizers[phase.name]
            optimizer.zero_grad(set_to_none=True)
            for place, (part, share) in enumerate(zip(parts.batches, parts.shares, strict=True)):
                made, past = self._images(phase, due, parts, place, draws)
                self.train_only(phase)
                with self.autocast():
                    losses = self.objective.losses(phase.name, self.used, part, made, past)
                (torch.stack(list(losses.values())).sum() * share).backward()  # type: ignore[no-untyped-call]
                for name, loss in losses.items():
                    seen[name] = seen.get(name, 0) + loss.detach() * share
            self.processes.average_gradients(
                p for group in optimizer.param_groups for p in group["params"]
            )
            optimizer.step()
            self.objective.after_update(phase.name, nets)
            if self.state.ema is not None:
                self.state.ema.update(nets, phase.modules, (number + 1) // phase.every)
        return seen

    def _images(
        self,
        phase: Phase,
        due: list[Phase],
        parts: MicroBatches,
        place: int,
        draws: Mapping[str, np.random.Generator],
    ) -> tuple[Images, Images]:
        """Return what is made of a part, and the images of the histories for it.

        A whole batch is made once, for all phases. Of a part what leads to the images is forgotten after each
        phase, or memory would not be saved: a phase that moves what makes them makes them again.
        """
        first, makes = (
            place == len(parts.kept),
            not set(phase.modules).isdisjoint(self.objective.generators()),
        )
        if not first and (parts.alone or not makes):
            return parts.kept[place]
        self.train_only(*(due if parts.alone else [phase]))
        with self.autocast(), torch.set_grad_enabled(parts.alone or makes):
            made = self.objective.forward(self.used, parts.batches[place])
        if first:
            pools = self.state.pools.items()
            parts.keep(
                made, {name: self._past(pool, made[name], draws[name]) for name, pool in pools}
            )
        return made, parts.kept[place][1]

    def _past(self, pool: ImagePool, made: Tensor, draw: np.random.Generator) -> Tensor:
        shown = pool.query(self.processes.all_gather(made), draw)
        return shown[self.processes.shard(len(shown))].contiguous(memory_format=self.state.layout)

    def train_only(self, *phases: Phase) -> None:
        """Take gradients in the networks that these phases move, and in no others."""
        if len(self.objective.phases()) > 1:
            for name, net in self.state.nets.items():
                net.requires_grad_(any(name in phase.modules for phase in phases))
