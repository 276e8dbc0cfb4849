"""Runs that a signal interrupts at a chosen step, and the files to compare afterwards."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from img2img_data.core.command_line import Display
from img2img_train.config import RunConfig
from img2img_train.training import fit as loop

SETTINGS: dict[str, Any] = {
    "preset": "original", "precision": "fp32", "net": "unet", "width": 4, "batch": 4, "epochs": 3,
    "threads": 1, "samples_every": 2, "flip": True, "device": "cpu", "checkpoint_seconds": 0,
    "validate_every": 1,
}  # fmt: skip

IMAGES = 4
"""Images of one step."""


class Killer(Display):
    """A display that sends signal ``number`` to this process when bar ``title`` reaches ``at``."""

    def __init__(self, title: str, at: int, number: int) -> None:
        super().__init__()
        self.watched, self.at, self.number = title, at, number

    def begin(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        super().begin(title, total, done, unit)
        self.now = title

    def advance(self, done: int, *_: Any, **__: Any) -> None:
        if self.now == self.watched and done >= self.at:
            self.at = sys.maxsize
            os.kill(os.getpid(), self.number)


def fit(corpora: list[str], out: Path, display: Display | None = None, **settings: Any) -> Path:
    """Train with ``SETTINGS`` and return the run folder."""
    config = RunConfig(**{**SETTINGS, **settings, "corpora": corpora, "out": str(out)})
    loop.fit(config, display or Display())
    return out


def tree(root: Path) -> dict[str, bytes]:
    """Return the content of every file of a run that does not depend on the clock or its place."""
    names = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if name not in {"timing.jsonl", "config.json"}
    }


def members_gone(group: int, seconds: float = 30) -> bool:
    """Return True if no process of a group is left after some seconds at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
