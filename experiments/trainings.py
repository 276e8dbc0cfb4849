"""Commands that build corpora and train models, each in a process of its own, and their processor
time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from img2img_data.core.jsonl import read_rows
from img2img_train.runs.folder import RunFolder, notes_on_run
from img2img_train.runs.model import choose_device

PROGRAMS: Final = {"img2img-data": "img2img_data", "img2img-train": "img2img_train"}
CPU_FILE: Final = "cpu.jsonl"
"""Processor seconds of each command that trained a run, in its folder."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, and the folder of the run that it trains."""

    words: Sequence[str]
    run: Path | None = None

    def __str__(self) -> str:
        return " ".join(self.words)


def run_all(done: Sequence[Command], folder: Path, log: Callable[[str], None]) -> int:
    """Run commands in a folder, one after the other; return the exit code of the first that failed,
    else 0.
    """
    for number, command in enumerate(done, 1):
        log(f"[{number}/{len(done)}] {command}")
        if command.run is None:
            code = run_command(command.words, folder)
        else:
            code = _train(command.words, RunFolder(command.run), folder)
        if code:
            return code
    return 0


def _train(words: Sequence[str], run: RunFolder, folder: Path) -> int:
    """Run a training and add its processor time to that of its run; return its exit code."""
    path, before = run.root / CPU_FILE, _child_seconds()
    # Of a run that was begun without this script a part of the time is unknown.
    counted = path.is_file() or not run.config.is_file()
    counted = counted and not is_finished(run.root)
    code = run_command(words, folder)
    if counted and run.config.is_file():
        run.append(path, [{"cpu_seconds": round(_child_seconds() - before, 2)}])
    return code


def is_finished(run: Path) -> bool:
    """Return True if a run has reached its last step."""
    return RunFolder(run).latest.is_file() and not notes_on_run(run)


def cpu_seconds(run: Path) -> float | None:
    """Return the processor time of a run's commands, None if it was not measured."""
    path = run / CPU_FILE
    return sum(row["cpu_seconds"] for row in read_rows(path)) if path.is_file() else None


def _child_seconds() -> float:
    """Return the processor time of all commands that have ended, with their own children."""
    times = os.times()
    return times.children_user + times.children_system


def run_command(words: Sequence[str], folder: Path) -> int:
    """Run a command in a folder and return its exit code; signals are passed on to it."""
    line = [sys.executable, "-m", PROGRAMS[words[0]], *words[1:]]
    child = subprocess.Popen(line, cwd=folder)
    names = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, lambda n, _: child.send_signal(n)) for number in names}
    try:
        while True:
            try:
                code = child.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                # The terminal sent the signal to the command too, which now writes its checkpoint.
                continue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def machine(device: str) -> str:
    """Return the name of the GPU, or the processor and its number of cores."""
    import torch

    chosen = choose_device(device)
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    import platform

    about = Path("/proc/cpuinfo")
    lines = about.read_text(errors="replace").splitlines() if about.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
