"""What can be looked at while a run goes on: its page, and TensorBoard. Both follow from the run's files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from img2img_data.core.errors import UsageError, install_hint
from img2img_data.images import io
from img2img_train.report.page import write_run_report
from img2img_train.runs.folder import RunFolder, read_log, sample_paths

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PAGE_SECONDS: Final = 20.0
PAGE_SHARE: Final = 0.02
"""At most this part of a run's time goes into its page."""


@dataclass(slots=True)
class LiveReport:
    """The page of a run under way; every ``PAGE_SECONDS`` at most, and never where it is not ``wanted``."""

    run: Path
    wanted: bool
    due: float = field(default_factory=lambda: time.monotonic() + PAGE_SECONDS)

    def refresh(self) -> None:
        """Write the page, where it is time to."""
        began = time.monotonic()
        if not self.wanted or began < self.due:
            return
        write_run_report(self.run)
        now = time.monotonic()
        self.due = now + max(PAGE_SECONDS, (now - began) / PAGE_SHARE)


@dataclass(slots=True)
class TensorBoardLogger:
    """The folder ``tensorboard`` of a run: scalars of its log's rows, and its sample grids, by step."""

    writer: SummaryWriter

    @classmethod
    def begin(cls, run: Path, steps_per_epoch: int) -> TensorBoardLogger:
        """Write anew what the run has so far, so that no step of an interrupted run stands there twice.

        UsageError where TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            why, hint = ("needs TensorBoard, which is not installed", install_hint("tensorboard"))
            raise UsageError("option", "--tensorboard", why, hint) from None
        folder = RunFolder(run).root / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        rows = read_log(run)
        board = cls(SummaryWriter(str(folder)))
        board.add(rows)
        last = max((row["step"] for row in rows), default=0)
        for path in sample_paths(run):
            step = min(int(path.stem.partition("-")[2]) * steps_per_epoch, last)
            if (step + steps_per_epoch - 1) // steps_per_epoch == int(path.stem.partition("-")[2]):
                board.show(path, step)
        return board

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of the log."""
        for row in rows:
            values = {**row, **row.get("losses", {})}
            for name, value in values.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{row['kind']}/{name}", value, row["step"])
        self.writer.flush()

    def show(self, path: Path, step: int) -> None:
        """Add a sample grid."""
        pixels = io.read(path).pixels
        self.writer.add_image("samples", pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        """End the file."""
        self.writer.close()
