"""Tasks that cost a worker its life or its time, and why they are lost."""

from __future__ import annotations

import os
import signal
import time


def dies_on_seven(task: int) -> int:
    if task == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def hangs_on_seven(task: int) -> int:
    if task == 7:
        time.sleep(60)
    return task


LOST = [(dies_on_seven, 60.0, "worker-died"), (hangs_on_seven, 1.0, "timeout")]
"""Work, the seconds that it may take, the reason."""
