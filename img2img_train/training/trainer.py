"""The training loop: steps, the end of each epoch, checkpoints.

It knows phases, networks and images, but not which objective it trains.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CheckpointError, DivergedError, Img2ImgError, printable
from img2img_data.core.files import versions, write_atomically
from img2img_data.corpus.format import to_json_page
from img2img_data.images import io
from img2img_train.config import RunConfig
from img2img_train.data.dataset import ImageSet, ImageStore
from img2img_train.data.device_cache import DeviceCache
from img2img_train.data.loader import StepDataset
from img2img_train.distributed.memory import is_out_of_memory
from img2img_train.distributed.processes import Processes
from img2img_train.networks.layers import BatchNorm
from img2img_train.objectives.base import Batch, Losses
from img2img_train.optim.optimizers import LrSchedule
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs.checkpoint import TrainingProgress
from img2img_train.runs.folder import LIBRARIES, RunFolder
from img2img_train.training import early_stopping, validation
from img2img_train.training.loggers import EpochTimer, LiveReport, LossBuffer, TensorBoardLogger
from img2img_train.training.setup import RunData, frozen_networks
from img2img_train.training.signals import StopRequested, StopSignal
from img2img_train.training.state import TrainingState
from img2img_train.training.step import TrainStep
from img2img_train.training.validation import Validator, round_score, sample_images, training_grid

EARLY_STEPS: Final = 8


# A run may be killed at any moment. The last checkpoint holds all that later steps depend on, and
# the length of the log at that time: a resumed run cuts the log there and writes what followed
# again, byte for byte.
@dataclass(slots=True)
class Trainer:
    """A run in training: its state, progress, loggers and data."""

    config: RunConfig
    data: RunData
    device: torch.device
    folder: RunFolder
    display: Display
    stop: StopSignal
    processes: Processes = field(default_factory=Processes)
    changed: bool = False
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    resumed_at: int = 0
    state: TrainingState = field(init=False)
    train_step: TrainStep = field(init=False)
    train_store: ImageStore | DeviceCache | None = None
    validation_store: ImageStore | DeviceCache | None = None
    train_sample: tuple[ImageStore, Sequence[int]] | None = None
    keeps_gray: bool = False
    log_rows: list[dict[str, Any]] = field(default_factory=list)
    best: tuple[checkpoints.Tensors, checkpoints.Description] | None = None
    live_report: LiveReport | None = None
    tensorboard: TensorBoardLogger | None = None
    loss_buffer: LossBuffer = field(init=False)
    last_losses: dict[str, float] = field(default_factory=dict)
    timer: EpochTimer = field(default_factory=EpochTimer)

    def __post_init__(self) -> None:
        c, per_epoch = self.config, self.data.plan.steps_per_epoch
        # The schedule is that of all epochs: a run cut short by --max-steps has the rates of the
        # whole one.
        epochs = c.epochs or 1
        decay = epochs if c.epochs_decay is None else c.epochs_decay
        schedule = LrSchedule(c.lr, epochs * per_epoch, decay * per_epoch, c.decay, c.warmup)
        channels = self.data.train.channel_layout.channels
        self.loss_buffer = LossBuffer(self.processes.all_reduce_mean)
        self.state = TrainingState.create(c, self.device, channels)
        frozen = frozen_networks(self.data, self.device)
        self.train_step = TrainStep(c, self.state, schedule, self.processes, frozen)

    def can_split_step(self) -> bool:
        """Return True if more micro-batches take the same step in less memory."""
        nets = self.state.nets.values()
        # Batch norm would normalize each on its own. Other processes do not know of the shortage.
        same = not any(isinstance(m, BatchNorm) for net in nets for m in net.modules())
        several = self.config.accumulate < self.data.plan.step_images
        return same and several and not self.processes.is_distributed

    def split_step(self) -> None:
        """Double the number of micro-batches, and go back to the state before the first step."""
        count = min(2 * self.config.accumulate, self.data.plan.step_images)
        self.display.line(
            f"out of memory on {self.device.type}: training continues with {count} micro-batches "
            f"per step (--accumulate {count})"
        )
        self.config = self.config.model_copy(update={"accumulate": count})
        self.progress, self.best, self.changed = TrainingProgress(), None, True
        # Without this there would be no room for the new networks; CUDA graphs have memory, too.
        if self.train_step.nets is not self.state.nets:
            torch.compiler.reset()
        del self.state, self.train_step
        gc.collect()
        torch.manual_seed(self.config.seed)
        self.__post_init__()

    def step(self, batch: Batch) -> Losses:
        """Run the next step; return its losses, still on the device."""
        return self.train_step.run(batch, self.progress.step)

    def train(self, batches: Iterator[Batch]) -> None:
        """Train to the end of the run."""
        saved = time.monotonic()
        self.timer = EpochTimer(self.progress.images)
        while True:
            step = self.progress.step
            ends_epoch = step % self.data.plan.steps_per_epoch == 0 or step == self.data.steps
            if ends_epoch and self.progress.logged_step != step:
                self.end_epoch()
            if self.is_over:
                return
            due = step > 0 and time.monotonic() - saved >= self.config.checkpoint_seconds
            if self.agree(due):
                self.save()
                saved = time.monotonic()
            batch = self.timer.next_batch(batches)
            full = self.loss_buffer.add(self.step(batch))
            images = self.progress.images + self.processes.world_size * len(batch.input)
            self.progress = self.progress.model_copy(update={"step": step + 1, "images": images})
            # The first losses at once: they show whether the run starts well.
            if full or step < EARLY_STEPS:
                self.read_losses()
            self.display.advance(images, status=self.status)

    def status(self) -> tuple[str, str]:
        """Return where the run is in words, and the losses of the last steps with the best PSNR."""
        p, epochs = self.progress, self.data.epochs
        epoch = math.ceil(p.step / self.data.plan.steps_per_epoch)
        scores = [f"{name} {value:.4g}" for name, value in self.last_losses.items()]
        scores += [] if p.best_psnr is None else [f"best PSNR {p.best_psnr:.2f} dB"]
        return f"epoch {epoch}/{epochs}, step {p.step:,}/{self.data.steps:,}", ", ".join(scores)

    # Clocks and signals differ between processes; saving and stopping need all of them at the same
    # step.
    def agree(self, save: bool = False) -> bool:
        """Return True if any process wants to ``save``; raise StopRequested if any got a signal."""
        number, save_now = self.processes.all_reduce_max(self.stop.number or 0, save)
        if number:
            self.stop.number = number
            raise StopRequested
        return bool(save_now)

    @property
    def is_over(self) -> bool:
        """True after all steps or when the patience is exhausted, with the last epoch logged."""
        p = self.progress
        early = 0 < self.config.patience <= p.stale_validations
        return p.logged_step == p.step and (early or p.step == self.data.steps)

    def read_losses(self) -> None:
        """Add up the losses of the last steps; DivergedError names the first that went wrong."""
        # A device that waits for a process that died would never return; the host notices at once.
        self.processes.all_reduce_max(0)
        block = self.loss_buffer.take()
        if self.processes.is_main:
            self._log_steps(block)
        sums, counts = dict(self.progress.loss_sums), dict(self.progress.loss_counts)
        for row, losses in enumerate(block):
            limits = {name: self.config.objective.loss_limit(name) for name in losses}
            over = [name for name, value in losses.items() if abs(value) > limits[name]]
            if over or not all(map(math.isfinite, losses.values())):
                values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
                values += "".join(f"; {n} is over {limits[n]:,.0f}" for n in over[:1])
                raise self._diverged(self.progress.step - len(block) + row + 1, values)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
                self.last_losses[name] = value
        update = {"loss_sums": sums, "loss_counts": counts}
        self.progress = self.progress.model_copy(update=update)

    def _log_steps(self, block: list[dict[str, float]]) -> None:
        first, rate = self.progress.step - len(block), self.train_step.schedule.rate
        rows = []
        for step, losses in enumerate(block, first + 1):
            finite = {n: float(f"{v:.6g}") for n, v in losses.items() if math.isfinite(v)}
            rows.append({"step": step, "lr": float(f"{rate(step - 1):.6g}"), "losses": finite})
        self.folder.append(self.folder.steps, rows)

    def _diverged(self, step: int, what: str) -> DivergedError:
        saved, good = self.folder.latest_step(), "there is no earlier checkpoint"
        if saved is not None:
            path = printable(self.folder.latest)
            good = f"the last good checkpoint is '{path}', step {saved:,}"
        why = f"diverged at step {step:,} ({what})"
        hint = f"lower --lr and choose another --out; {good}"
        return DivergedError("run", self.folder.root, why, hint)

    # ----------------------------------------------------------------------- the end of an epoch
    def end_epoch(self) -> None:
        """Validate and log on the main process; the others take over the progress it found."""
        self.read_losses()
        self.processes.main_first(self._log_epoch)
        if self.processes.is_distributed:
            self.progress = self.processes.broadcast(self.progress)

    def _log_epoch(self) -> None:
        p, trained = self.progress, time.monotonic()
        last, epoch = p.step == self.data.steps, math.ceil(p.step / self.data.plan.steps_per_epoch)
        at = {"epoch": epoch, "step": p.step}
        sums = sorted(p.loss_sums.items())
        means = {name: round_score(total / p.loss_counts[name]) for name, total in sums}
        rows: list[dict[str, Any]] = [{"kind": "train", **at, "images": p.images, "losses": means}]
        update: dict[str, Any] = {"loss_sums": {}, "loss_counts": {}, "logged_step": p.step}
        if self.data.held_out and (last or _is_due(epoch, self.config.validate_every or 0)):
            rows.append({"kind": "validation", **at, **self._validate(self.data.held_out)})
            all_rows = [*self.log_rows, *rows]
            update["stale_validations"] = early_stopping.validations_since_best(all_rows)
            if rows[-1]["best"]:
                update |= {"best_psnr": rows[-1]["psnr"], "best_step": p.step}
                self._keep_best(p.model_copy(update=update))
        early = not last and 0 < self.config.patience <= update.get("stale_validations", 0)
        rows += self._remarks(rows, at)
        if early:
            text = f"stopped early after epoch {epoch}: no better PSNR in "
            text += f"{self.config.patience:,} validations"
            rows.append({"kind": "stopped", **at, "text": text})
        if last or early or _is_due(epoch, self.config.samples_every or 0):
            self._write_samples(epoch)
        if _is_due(epoch, self.config.keep_every):
            self._check_finite(self.state.network_tensors())
            kept = self.folder.checkpoints / f"epoch-{epoch:05d}.safetensors"
            about = self._describe(p, complete=False)
            checkpoints.write_checkpoint(kept, self.state.network_tensors(), about)
        # Rows are written last and at once: a signal that interrupts validation leaves no
        # half-logged epoch.
        self.folder.append(self.folder.log, rows)
        self.progress = p.model_copy(update=update)
        self.log_rows += rows[1:]
        self._print_epoch(rows, self.timer.finish(epoch, trained, p.images))
        if self.tensorboard is not None:
            self.tensorboard.add_rows(rows)
        if self.live_report is not None and not self.is_over:
            self.live_report.refresh()

    def _validate(self, held_out: ImageSet) -> dict[str, Any]:
        """Return the scores on held-out images, ``psnr_train`` on training pairs, and ``best``."""
        validator, sample = self.validator, self.train_sample
        # As many images as a micro-batch has; images of different sizes do not stack.
        batch = -(-self.config.batch // self.config.accumulate)
        batch = 1 if held_out.min_side and not held_out.load_size else batch
        # With several processes a signal has to wait for the next ``agree``: the others are not
        # validating.
        check = (lambda: None) if self.processes.is_distributed else self.stop.check
        store, chosen = self.validation_store or held_out, self.data.validation_indices()
        try:
            scores: dict[str, Any] = validator.scores(store, chosen, batch, check)
            if sample is not None:
                scores["psnr_train"] = validator.scores(*sample, batch, check)["psnr"]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or batch > 1:
                raise
            # Not left to the loop, which would retry with fewer images in a step.
            why = f"out of memory on {self.device.type} in validation, which uses whole images"
            hint = "build the corpus with --size or --tile, and choose another --out"
            raise Img2ImgError("run", self.folder.root, why, hint) from None
        psnr = scores.get("psnr") if self.config.objective.best_by_psnr else None
        before = self.progress.best_psnr
        return scores | {"best": psnr is not None and (before is None or psnr > before)}

    def _remarks(self, rows: list[dict[str, Any]], at: dict[str, int]) -> list[dict[str, Any]]:
        settings = {"--flip": self.config.flip, "--patience": self.config.patience}
        options = [option for option, value in settings.items() if not value]
        pairs, all_rows = len(self.data.train), [*self.log_rows, *rows]
        warning = early_stopping.overfitting_warning(all_rows, pairs, options)
        return [{"kind": "warning", **at, "text": warning}] if warning is not None else []

    def _print_epoch(self, rows: list[dict[str, Any]], timing: dict[str, Any]) -> None:
        self.folder.append(self.folder.timing, [timing])
        parts = [f"epoch {timing['epoch']}/{self.data.epochs}"]
        parts += [f"{name} {value:.5f}" for name, value in rows[0]["losses"].items()]
        parts += [_format_validation(row) for row in rows if row["kind"] == "validation"]
        rate = timing["images_per_second"]
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} images/s")
        if not self.is_over and (left := self.display.time_left(self.progress.images)):
            parts.append(f"{left} left")
        show = self.display.line if self.is_over else self.display.routine_line
        show("  ".join(parts))
        for text in (row["text"] for row in rows if "text" in row):
            self.display.line(text)

    @property
    def validator(self) -> Validator:
        """The networks for validation and samples: moving averages where there are any."""
        c, layout = self.config, self.data.train.channel_layout
        nets = self.state.nets | self.state.ema.nets
        return Validator(c.objective, nets, self.device, layout, c.test_dropout)

    def _write_samples(self, epoch: int) -> None:
        held = self.data.held_out or self.data.train
        chosen = held, self.config.samples, self.config.grid_keys
        images = sample_images(*chosen)
        write_atomically(
            self.folder.sample_keys, to_json_page({"keys": validation.sample_keys(*chosen)})
        )
        path = self.folder.samples / f"epoch-{epoch:05d}.png"
        write_atomically(path, io.encode(self.validator.grid(*images), "png"))
        if self.tensorboard is not None:
            self.tensorboard.add_grid(path, self.progress.step)

    def write_training_samples(self, store: ImageStore | DeviceCache) -> None:
        """Write the first pairs of the run as steps see them; ``store`` holds its images."""
        steps = StepDataset(self.data.plan, store, self.data.train)
        grid = training_grid(steps, self.config.samples, self.device)
        write_atomically(self.folder.training_samples, io.encode(grid, "png"))

    # -------------------------------------------------------------------------------- checkpoints
    def _describe(self, progress: TrainingProgress, complete: bool) -> checkpoints.Description:
        train, layout = self.data.train, self.data.train.channel_layout
        return checkpoints.Description(
            complete=complete,
            generator="generator",
            reverse_generator=self.config.objective.reverse_generator,
            networks=self.config.objective.networks(layout.channels),
            color=layout.color,
            size=train.size,
            keeps_gray=self.keeps_gray,
            versions=versions(*LIBRARIES),
            config=self.config.model_dump(mode="json"),
            # Only a run that is resumed cuts the log.
            progress=progress if complete else progress.model_copy(update={"log_bytes": 0}),
        )

    def _check_finite(self, tensors: checkpoints.Tensors) -> None:
        if bad := checkpoints.first_nonfinite(tensors):
            raise self._diverged(self.progress.step, f"{printable(bad)} is not finite")

    def _keep_best(self, progress: TrainingProgress) -> None:
        # A copy on the host, which ``save`` writes: an epoch may take less time than a file.
        networks = self.state.network_tensors().items()
        tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in networks}
        self.best = tensors, self._describe(progress, complete=False)

    def save(self) -> None:
        """Write a checkpoint with all that later steps depend on."""
        self.read_losses()
        self.processes.main_first(self._write_checkpoints)

    def _write_checkpoints(self) -> None:
        # The best networks first: the progress in the complete checkpoint refers to them.
        if self.best is not None:
            checkpoints.write_checkpoint(self.folder.best, *self.best)
            self.best = None
        log_bytes = self.folder.sync_log()
        self.progress = self.progress.model_copy(update={"log_bytes": log_bytes})
        tensors = self.state.tensors()
        self._check_finite(tensors)
        self.folder.write_latest(tensors, self._describe(self.progress, complete=True))

    def load(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Restore state and progress of a checkpoint; CheckpointError if it does not fit."""
        progress = checkpoint.description.progress
        if progress.step > self.data.steps:
            why = f"is at step {progress.step:,} of {self.data.steps:,}"
            raise CheckpointError("checkpoint", checkpoint.path, why, "use another one")
        self.state.load(checkpoint, self.data.train.size)
        self.progress, self.resumed_at = progress, progress.step


def _is_due(epoch: int, every: int) -> bool:
    return every > 0 and epoch % every == 0


def _format_validation(row: dict[str, Any]) -> str:
    if "psnr" not in row:
        return f"cycle MAE {row['cycle_mae']:.2f} (of 255)"
    train = f", train {row['psnr_train']:.2f}" if "psnr_train" in row else ""
    best = ", best" if row["best"] else ""
    return f"PSNR {row['psnr']:.2f} dB (input {row['psnr_input']:.2f}{train}){best}"
