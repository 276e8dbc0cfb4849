"""The only training loop. It knows phases, networks and images; it never asks which objective it trains.

Whatever the moment a run is killed at, the same command goes on as if nothing had happened: a checkpoint
holds all that later steps depend on, and what was written after the last checkpoint is written again with the
same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from img2img_data.core.errors import DivergedError, printable
from img2img_data.core.files import versions, write_atomically
from img2img_data.core.progress import Display
from img2img_data.images import io
from img2img_train.config import RunConfig
from img2img_train.data import dataset
from img2img_train.distributed.processes import Processes
from img2img_train.objectives.base import Batch, Objective, Phase
from img2img_train.optim.lr_schedule import LrSchedule
from img2img_train.runs.checkpoint import (
    Checkpoint,
    Description,
    Tensors,
    TrainingProgress,
    first_nonfinite,
    read_description,
    write_checkpoint,
)
from img2img_train.runs.folder import LIBRARIES, RunFolder
from img2img_train.training import early_stopping
from img2img_train.training.loggers import LiveReport, TensorBoardLogger
from img2img_train.training.setup import Data, HeldOut
from img2img_train.training.signals import Interrupted, Stop
from img2img_train.training.state import State
from img2img_train.training.step import Stepper
from img2img_train.training.timing import EpochTimer, LossBuffer
from img2img_train.training.validation import Validator, samples


@dataclass(slots=True)
class Training:
    """Everything that moves while a run trains."""

    config: RunConfig
    data: Data
    objective: Objective
    device: torch.device
    folder: RunFolder
    display: Display
    stop: Stop
    processes: Processes = field(default_factory=Processes)
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    state: State = field(init=False)
    stepper: Stepper = field(init=False)
    held_out: HeldOut | None = None
    sample: dataset.CachedImages | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[Tensors, Description] | None = None
    page: LiveReport | None = None
    board: TensorBoardLogger | None = None
    trace: LossBuffer = field(init=False)
    clock: EpochTimer = field(default_factory=EpochTimer)
    losses: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trace = LossBuffer(self.device, self.processes.all_reduce_mean)
        self.state = State.begin(
            self.config, self.objective, self.device, self.data.train.channel_layout.channels
        )
        self.stepper = Stepper(
            self.config, self.objective, self.state, self.schedule, self.processes
        )

    @property
    def nets(self) -> dict[str, nn.Module]:
        """The networks that are trained."""
        return self.state.nets

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizer of each phase."""
        return self.state.optimizers

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The updates of a step."""
        return self.objective.phases()

    @property
    def schedule(self) -> LrSchedule:
        """The learning rates; a run cut short by ``max_steps`` has those of the whole one."""
        c, steps_per_epoch = self.config, self.data.plan.steps_per_epoch
        falling = c.epochs_decay * steps_per_epoch
        return LrSchedule(c.lr, c.epochs * steps_per_epoch, falling, c.decay, c.warmup)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take the next step; return its losses, still on the device."""
        return self.stepper.step(batch, self.progress.step)

    def train(self, steps: Iterator[Batch]) -> None:
        """Train to the end of the run, from where it stands."""
        written = time.monotonic()
        self.clock = EpochTimer(self.processes.world_size)
        while True:
            step = self.progress.step
            if self.data.is_end_of_epoch(step) and self.progress.logged_step != step:
                self.end_epoch()
            if self.is_over:
                return
            late = step > 0 and time.monotonic() - written >= self.config.checkpoint_seconds
            if self.agree(late):
                self.save()
                written = time.monotonic()
            batch = self.clock.waiting(lambda: next(steps))
            full = self.trace.add(self.step(batch))
            seen = self.progress.images + self.processes.world_size * len(batch.input)
            self.progress = self.progress.model_copy(update={"step": step + 1, "images": seen})
            self.display.advance(seen)
            if full:
                self.read_trace()

    def agree(self, save: bool = False) -> bool:
        """Return whether any process wants to ``save``; Interrupted where a signal has reached any of them.

        What comes after it is for the next time: all have to do the same.
        """
        number, wanted = self.processes.all_reduce_max(self.stop.number or 0, save)
        if number:
            self.stop.number = number
            raise Interrupted
        return bool(wanted)

    @property
    def is_over(self) -> bool:
        """Whether the run is at its end: all steps taken, or no better for longer than its patience."""
        late = 0 < self.config.patience <= self.progress.stale_validations
        return self.progress.logged_step == self.progress.step and (
            late or self.progress.step == self.data.steps
        )

    def read_trace(self) -> None:
        """Add the losses of the last steps up; DivergedError names the first step where one is not finite."""
        block = self.trace.take()
        sums, counts = dict(self.progress.loss_sums), dict(self.progress.loss_counts)
        for row, losses in enumerate(block):
            if not all(map(math.isfinite, losses.values())):
                raise self._diverged(self.progress.step - len(block) + row + 1, losses)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
        self.progress = self.progress.model_copy(update={"loss_sums": sums, "loss_counts": counts})
        self.losses = block[-1] if block else self.losses

    def _diverged(self, step: int, losses: dict[str, float], what: str = "") -> DivergedError:
        values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        latest, good = self.folder.latest, "there is no checkpoint from before"
        if latest.exists():
            good = (
                f"the last good checkpoint is '{printable(str(latest))}', step {step_of(latest):,}"
            )
        why = f"diverged at step {step:,} ({what}{values})"
        return DivergedError(
            "run", self.folder.root, why, f"lower --lr and give another --out; {good}"
        )

    # ----------------------------------------------------------------------- the end of an epoch
    def end_epoch(self) -> None:
        """Let the first process look at the networks; the others take over what it found."""
        self.read_trace()
        if self.processes.is_main:
            self._look()
        if self.processes.is_distributed:
            said = self.processes.broadcast_text(self.progress.model_dump_json())
            self.progress = TrainingProgress.model_validate_json(said)

    def _look(self) -> None:
        """Validate, keep the best, draw samples, write the rows last: an interruption leaves no trace."""
        p, trained = self.progress, time.monotonic()
        steps_per_epoch, last = self.data.plan.steps_per_epoch, p.step == self.data.steps
        epoch, steps = math.ceil(p.step / steps_per_epoch), (p.step - 1) % steps_per_epoch + 1
        means = {
            name: _rounded(total / p.loss_counts.get(name, steps))
            for name, total in sorted(p.loss_sums.items())
        }
        at = {"epoch": epoch, "step": p.step}
        rows: list[dict[str, Any]] = [{"kind": "train", **at, "images": p.images, "losses": means}]
        after: dict[str, Any] = {"loss_sums": {}, "loss_counts": {}, "logged_step": p.step}
        if self.held_out is not None and (last or _due(epoch, self.config.validate_every)):
            scores = self.scores(self.held_out)
            psnr = scores.get("psnr") if self.objective.best_by_psnr else None
            best = psnr is not None and (p.best_psnr is None or psnr > p.best_psnr)
            rows.append({"kind": "validation", **at, **scores, "best": best})
            after["stale_validations"] = early_stopping.stale([*self.seen, *rows])
            if best:
                after |= {"best_psnr": psnr, "best_step": p.step}
                self.keep_best(p.model_copy(update=after))
        early = not last and 0 < self.config.patience <= after.get("stale_validations", 0)
        rows += self._remarks(rows, at, early)
        if last or early or _due(epoch, self.config.samples_every):
            self.draw_samples(epoch)
        self.folder.append(self.folder.log, rows)
        self.progress, self.seen = p.model_copy(update=after), [*self.seen, *rows[1:]]
        self._tell(rows, self.clock.row(epoch, trained))
        if self.board is not None:
            self.board.add(rows)
        if self.page is not None and not self.is_over:
            self.page.refresh()

    def scores(self, held_out: HeldOut) -> dict[str, float]:
        """Return the scores on held-out images, and ``psnr_train`` on some that are trained on."""
        batch = self.config.batch
        check = (
            self.stop.check if not self.processes.is_distributed else lambda: None
        )  # the others cannot be told here
        scores = self.viewer.scores(held_out, batch, check)
        if self.sample is None:
            return scores
        return scores | {
            "psnr_train": self.viewer.psnr(self.sample, len(self.sample.targets), batch, check)
        }

    def _remarks(
        self, rows: list[dict[str, Any]], at: dict[str, int], early: bool
    ) -> Iterator[dict[str, Any]]:
        given = {"--flip": self.config.flip, "--patience": self.config.patience}
        ways_out = [option for option, value in given.items() if not value]
        warning = early_stopping.overfitting([*self.seen, *rows], len(self.data.train), ways_out)
        if warning is not None:
            yield {"kind": "warning", **at, "text": warning}
        if early:
            yield {
                "kind": "stopped",
                **at,
                "text": early_stopping.stopped(at["epoch"], self.config.patience),
            }

    def _tell(self, rows: list[dict[str, Any]], timing: dict[str, Any]) -> None:
        self.folder.append(self.folder.timing, [timing])
        parts = [f"epoch {timing['epoch']}/{self.config.epochs}"]
        parts += [f"{name} {value:.5f}" for name, value in rows[0]["losses"].items()]
        parts += [_said(row) for row in rows if row["kind"] == "validation"]
        parts.append(f"{timing['images_per_second']:,.0f} images/s")
        if not self.is_over:
            parts.append(f"{self.display.time_left(self.progress.images)} left")
        self.display.line("  ".join(parts))
        for text in (row["text"] for row in rows if "text" in row):
            self.display.line(text)

    @property
    def viewer(self) -> Validator:
        """The networks as validation and samples see them."""
        channel_layout = self.data.train.channel_layout
        return Validator(
            self.objective, self.state.shown, self.device, channel_layout, self.config.test_dropout
        )

    def draw_samples(self, epoch: int) -> None:
        """Write an epoch's grid, a row per image: input | made | target; the same images each time."""
        held = self.held_out.images if self.held_out is not None else self.data.train
        given, target = samples(held, self.config.samples, self.config.grid_keys)
        path = self.folder.samples / f"epoch-{epoch:05d}.png"
        write_atomically(path, io.encode(self.viewer.grid(given, target), "png"))
        if self.board is not None:
            self.board.show(path, self.progress.step)

    # -------------------------------------------------------------------------------- checkpoints
    def describe(self, progress: TrainingProgress, complete: bool) -> Description:
        """Return what a checkpoint of now says of itself."""
        return Description(
            complete=complete,
            generator="generator",
            reverse_generator=self.objective.reverse_generator,
            networks=self.objective.networks(self.data.train.channel_layout.channels),
            color=self.data.train.channel_layout.color,
            size=self.data.train.size,
            versions=versions(*LIBRARIES),
            config=self.config.model_dump(mode="json"),
            progress=progress,
        )

    def keep_best(self, progress: TrainingProgress) -> None:
        """Remember the networks as the best so far; ``save`` writes them, for epochs can be short."""
        tensors = {
            name: tensor.detach().to("cpu", copy=True)
            for name, tensor in self.state.network_tensors().items()
        }
        self.best = (
            tensors,
            self.describe(progress.model_copy(update={"log_bytes": 0}), complete=False),
        )

    def save(self) -> None:
        """Write all that later steps depend on; the best networks first, for the rest counts on them."""
        self.read_trace()
        self.processes.main_first(self._write)

    def _write(self) -> None:
        if self.best is not None:
            write_checkpoint(self.folder.best, *self.best)
            self.best = None
        self.progress = self.progress.model_copy(update={"log_bytes": self.folder.sync_log()})
        tensors = self.state.tensors()
        bad = first_nonfinite(tensors)
        if bad is not None:
            raise self._diverged(
                self.progress.step, self.losses, f"{printable(bad)} is not finite; "
            )
        self.folder.write_latest(tensors, self.describe(self.progress, complete=True))

    def load(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint was written, exactly."""
        self.state.load(checkpoint, self.data.train.size)
        self.progress = checkpoint.description.progress


def _due(epoch: int, every: int) -> bool:
    return every > 0 and epoch % every == 0


def _said(row: dict[str, Any]) -> str:
    """Return a validation in words."""
    if "psnr" not in row:
        return f"there and back {row['cycle_mae']:.2f} levels off"
    best = ", best" if row["best"] else ""
    train = f", train {row['psnr_train']:.2f}" if "psnr_train" in row else ""
    return f"PSNR {row['psnr']:.2f} dB (nothing {row['psnr_input']:.2f}{train}){best}"


def _rounded(value: float) -> float:
    return round(value, 6) + 0.0


def step_of(path: Path) -> int:
    """Return the step at which a checkpoint was written; errors as ``read_description``."""
    return read_description(path).progress.step
