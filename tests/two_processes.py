"""A training run as a process of a group: the target of ``multiprocessing.Process``."""

from __future__ import annotations

import os
from pathlib import Path

from img2img_train.cli.main import main


def fit(words: list[str], log: Path, environment: dict[str, str]) -> None:
    """Run ``img2img-train fit`` with torchrun's variables and write its output to a log."""
    os.environ |= environment
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(["fit", *words])
