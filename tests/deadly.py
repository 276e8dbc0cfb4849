"""Tasks that kill or block their worker, and the reasons for which they are rejected."""

from __future__ import annotations

import os
import signal
import time


def dies_on_seven(task: int) -> int:
    """Return the task, but kill the process on 7."""
    if task == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def hangs_on_seven(task: int) -> int:
    """Return the task, but sleep for a minute on 7."""
    if task == 7:
        time.sleep(60)
    return task


LOST = [(dies_on_seven, 60.0, "worker-died"), (hangs_on_seven, 1.0, "timeout")]
"""Function, time limit in seconds, reason of the rejection."""
