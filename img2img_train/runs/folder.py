"""The run folder, and what others take from it.

::

    config.json             the configuration, whole and resolved; versions; what the corpora held
    log.jsonl               a row per epoch and per validation
    timing.jsonl            seconds and rates; the one file in which equal runs differ
    samples/epoch-00005.png input | output | target, the same images each time
    checkpoints/            latest and previous (complete), best (networks alone)
    tensorboard/            the log and the samples again, with --tensorboard
    evaluation/ report.html what the finished run was scored with, and the page about it
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_data.core.files import LOCK_FILE, locked, sync_folder, versions, write_atomically
from img2img_data.core.jsonl import read_rows
from img2img_data.corpus.format import to_json_line, to_json_page
from img2img_train.config import CONFIG_FILE, RUN_FORMAT, RunConfig, read_page
from img2img_train.runs.checkpoint import (
    Checkpoint,
    Description,
    Tensors,
    read_checkpoint,
    write_checkpoint,
)

# The workers of a killed run hold its lock until they notice that their parent is gone.
LOCK_WAIT_SECONDS: Final = 2.0
ANOTHER_OUT: Final = "give another --out"
LIBRARIES: Final = ("img2img", "python", "torch")
"""Distributions on which the numbers of a run depend; its config.json and checkpoints record them."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run, and how its files change."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.root / CONFIG_FILE

    @property
    def log(self) -> Path:
        """The rows of epochs and validations."""
        return self.root / "log.jsonl"

    @property
    def timing(self) -> Path:
        """Seconds and rates, one row per epoch."""
        return self.root / "timing.jsonl"

    @property
    def samples(self) -> Path:
        """The folder of sample grids."""
        return self.root / "samples"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def latest(self) -> Path:
        """The newest complete checkpoint."""
        return self.checkpoints / "latest.safetensors"

    @property
    def previous(self) -> Path:
        """The one before; gone once a run is finished."""
        return self.checkpoints / "previous.safetensors"

    @property
    def best(self) -> Path:
        """The networks of the best validation."""
        return self.checkpoints / "best.safetensors"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.root / "report.html"

    def has_current_report(self) -> bool:
        """Return whether the page is at least as new as the latest checkpoint."""
        return (
            self.report.exists()
            and self.report.stat().st_mtime_ns >= self.latest.stat().st_mtime_ns
        )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, made if missing, while the process lives; FolderInUseError where another does."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or "cannot be created"
            raise UsageError("run", self.root, why, ANOTHER_OUT) from None
        with locked(self.root, "run", f"wait for it, or {ANOTHER_OUT}", LOCK_WAIT_SECONDS):
            yield

    def check_free(self) -> None:
        """Raise UsageError where the folder holds something that is no run."""
        there = next((path for path in (self.root, *self.root.parents) if path.exists()), Path())
        if not there.is_dir():
            why = (
                "is a file"
                if there == self.root
                else f"would lie in the file '{printable(str(there))}'"
            )
            raise UsageError("run", self.root, why, ANOTHER_OUT)
        others = (
            [p for p in self.root.iterdir() if p.name != LOCK_FILE] if self.root.exists() else []
        )
        others = [p for p in others if not p.name.startswith(f".{CONFIG_FILE}")]
        if others and not self.config.is_file():
            why = f"holds other files ('{printable(others[0].name)}')"
            raise UsageError("run", self.root, why, ANOTHER_OUT)

    def append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Append rows to the log or the timing file, at once."""
        try:
            with path.open("ab") as file:
                file.write(b"".join(map(to_json_line, rows)))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None

    def truncate_log(self, size: int) -> None:
        """Cut rows that a checkpoint does not know: they are written again."""
        if self.log.exists() and self.log.stat().st_size > size:
            os.truncate(self.log, size)

    def sync_log(self) -> int:
        """Return the bytes of the log, on the disk for sure."""
        if not self.log.exists():
            return 0
        with self.log.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def remove_temporaries(self) -> None:
        """Remove what a killed run left half written."""
        for path in [*self.root.glob(".*.tmp"), *self.root.glob("*/.*.tmp")]:
            path.unlink(missing_ok=True)

    def write_latest(self, tensors: Tensors, about: Description) -> None:
        """Write the latest checkpoint; the one that was stays as previous."""
        fresh = self.latest.with_name(".next.safetensors.tmp")
        write_checkpoint(fresh, tensors, about)
        if self.latest.exists():
            self.latest.replace(self.previous)
        fresh.replace(self.latest)
        sync_folder(self.checkpoints)

    def load_newest(self, tell: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, None where there is none.

        A damaged one is told of and makes room for the one before. CheckpointError where both are damaged.
        """
        trouble: CheckpointError | None = None
        for path in (p for p in (self.latest, self.previous) if p.exists()):
            try:
                checkpoint = _complete(path)
            except CheckpointError as error:
                trouble = trouble or error
                continue
            if trouble is not None:
                tell(f"warning: {trouble}; going on from the one before")
                path.replace(self.latest)
            return checkpoint
        if trouble is not None:
            raise trouble
        return None

    def write_config(self, config: RunConfig, data: Mapping[str, Any]) -> bool:
        """Write config.json; True where it was there already. UsageError where it is another run's."""
        if self.config.is_file():
            self.check_unchanged(config, data)
            return True
        settings = config.model_dump(mode="json")
        page = {
            "format": RUN_FORMAT,
            "config": settings,
            "versions": versions(*LIBRARIES),
            "data": data,
        }
        write_atomically(self.config, to_json_page(page), sync=True)
        return False

    def check_unchanged(self, config: RunConfig, data: Mapping[str, Any]) -> None:
        """Raise UsageError where the run begun here has other settings or other images."""
        for name, (old, new) in RunConfig.load(self.config).changes(config).items():
            why = f"was begun with another configuration ({name} was {_short(old)}, now {_short(new)})"
            raise UsageError("run", self.root, why, f"{ANOTHER_OUT}, or the same settings")
        if read_page(self.config).get("data") != data:
            raise UsageError(
                "run", self.root, "was begun on other pairs: a corpus has changed", ANOTHER_OUT
            )


def _complete(path: Path) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    if not checkpoint.description.complete:
        raise CheckpointError(
            "checkpoint", path, "holds networks alone, so training cannot go on from it"
        )
    return checkpoint


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(
            f"{v['path']}={v['weight']:g}" if isinstance(v, dict) else str(v) for v in value
        )
    return str(value)


def read_log(run: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a run's log, in order; none where it has not begun.

    ``{"kind": "train", "epoch", "step", "images", "losses": {name: mean}}`` and ``{"kind": "validation",
    "epoch", "step", "psnr", "psnr_input", "psnr_train", "best"}``; PSNR in dB, mean over images, that of
    ``psnr_train`` over a few training pairs; without pairs ``cycle_mae`` in their place, gray levels.
    ``{"kind": "warning"`` or ``"stopped", "epoch", "step", "text"}`` say so in words. A half row at the
    end, of a run under way, is left out.
    """
    log = RunFolder(Path(run)).log
    if not log.is_file():
        return []
    content = log.read_bytes()
    return (
        read_rows(log)
        if content.endswith(b"\n")
        else [json.loads(x) for x in content.splitlines()[:-1]]
    )


def read_timing(run: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a run's timing, in order: ``{"epoch", "seconds", "images_per_second", ...}``."""
    timing = RunFolder(Path(run)).timing
    return read_rows(timing) if timing.is_file() else []


def sample_paths(run: Path | str) -> list[Path]:
    """Return the sample grids of a run, oldest first."""
    return sorted(RunFolder(Path(run)).samples.glob("epoch-*.png"))


def find_checkpoint(path: Path | str) -> Path:
    """Return the checkpoint meant by a path: itself, or of a run folder the best one, else the latest."""
    path = Path(path)
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    for candidate in (folder.best, folder.latest, folder.previous):
        if candidate.exists():
            return candidate
    raise CheckpointError(
        "run", path, "has no checkpoint yet", "give the folder of a run that has begun training"
    )
