"""Loggers of a run: losses, timing, the live report, TensorBoard."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from img2img_data.core.errors import load_extra
from img2img_data.images import io
from img2img_train.objectives.base import Batch
from img2img_train.report.page import write_run_report
from img2img_train.runs.folder import read_log, sample_paths

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BLOCK_STEPS: Final = 64
REPORT_SECONDS: Final = 20.0
# At most this share of a run's time goes into its live report.
REPORT_SHARE: Final = 0.02


# Reading a loss makes the host wait until the device has computed it. So losses stay on the device
# and are read a block at a time; a diverged run is noticed up to 63 steps late, but the message
# names the right step.
@dataclass(slots=True)
class LossBuffer:
    """The losses of the last steps; steps may have different terms.

    ``mean`` averages them over processes.
    """

    mean: Callable[[Tensor], Tensor]
    steps: list[tuple[list[str], Tensor]] = field(default_factory=list)

    def add(self, losses: Mapping[str, Tensor]) -> bool:
        """Add the losses of a step; return True if the block is full."""
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        self.steps.append((list(losses), values))
        return len(self.steps) == BLOCK_STEPS

    def take(self) -> list[dict[str, float]]:
        """Return the losses of each step of the block, and empty it."""
        if not self.steps:
            return []
        values = iter(self.mean(torch.cat([x for _, x in self.steps]).cpu()).tolist())
        block = [{name: next(values) for name in names} for names, _ in self.steps]
        self.steps = []
        return block


@dataclass(slots=True)
class EpochTimer:
    """The seconds of an epoch; ``images`` are those that the run had seen before it."""

    images: int = 0
    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Return the next batch; count the time as waiting for data (CUDA may still compute)."""
        start = time.monotonic()
        batch = next(batches)
        self.waited += time.monotonic() - start
        return batch

    def finish(self, epoch: int, trained: float, images: int) -> dict[str, Any]:
        """Return the timing row of an epoch trained until ``trained``, and start the next one.

        ``images`` are those that the run has seen by now.
        """
        now, seconds = time.monotonic(), max(trained - self.began, 1e-9)
        row = {
            "epoch": epoch,
            "seconds": round(now - self.began, 3),
            "training_seconds": round(seconds, 3),
            "waiting_for_data": round(self.waited / seconds, 4),
            "images_per_second": round((images - self.images) / seconds, 1),
        }
        self.began, self.waited, self.images = now, 0.0, images
        return row


def describe_session(command: str, device: torch.device) -> dict[str, Any]:
    """Return what the report says about a call of ``fit``: its start, command, machine, commit."""
    # Neither the name of the machine nor paths other than those that the user gave.
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    if device.type == "cuda":
        machine += f", {torch.cuda.get_device_name(device)}"
    started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"started": started, "command": command, "machine": machine, "commit": _commit()}


@cache
def _commit() -> str:
    """Return the git commit of this program, "-dirty" if it was changed; "" if it is unknown."""
    file = Path(__file__)
    run = partial(subprocess.run, cwd=file.parent, capture_output=True, text=True)
    with contextlib.suppress(OSError):
        # An installed package may be inside another repository, which does not track it.
        if run(["git", "ls-files", file.name]).stdout:
            return run(["git", "describe", "--always", "--dirty"]).stdout.strip()
    return ""


@dataclass(slots=True)
class LiveReport:
    """The report of a running run, rewritten at most every ``REPORT_SECONDS``."""

    run: Path
    due: float = field(default_factory=lambda: time.monotonic() + REPORT_SECONDS)

    def refresh(self) -> None:
        """Write the report if it is due."""
        began = time.monotonic()
        if began < self.due:
            return
        write_run_report(self.run)
        now = time.monotonic()
        self.due = now + max(REPORT_SECONDS, (now - began) / REPORT_SHARE)


@dataclass(slots=True)
class TensorBoardLogger:
    """The folder ``tensorboard`` of a run: scalars of the log's rows, and sample grids, by step."""

    writer: SummaryWriter

    @classmethod
    def start(cls, run: Path, steps_per_epoch: int) -> TensorBoardLogger:
        """Write what the run has so far; UsageError if TensorBoard is not installed."""
        name = "torch.utils.tensorboard"
        module = load_extra(name, "tensorboard", "option", "--tensorboard")
        folder = run / "tensorboard"
        # Event files cannot be cut back to a checkpoint, so a resumed run writes them anew from its
        # log: otherwise the steps after the checkpoint would appear twice.
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        rows = read_log(run)
        logger = cls(module.SummaryWriter(str(folder)))
        logger.add_rows(rows)
        last = max((row["step"] for row in rows), default=0)
        for path in sample_paths(run):
            epoch = int(path.stem.partition("-")[2])
            step = min(epoch * steps_per_epoch, last)
            if -(-step // steps_per_epoch) == epoch:
                logger.add_grid(path, step)
        return logger

    def add_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of the log."""
        for row in rows:
            for name, value in {**row, **row.get("losses", {})}.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        self.writer.flush()

    def add_grid(self, path: Path, step: int) -> None:
        """Add a sample grid."""
        self.writer.add_image("samples", io.read(path).pixels, step, dataformats="HWC")
        self.writer.flush()
