"""Signals: the loop takes note of one, ends what it is doing, writes a checkpoint and stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

SIGNALS: Final = tuple(
    getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)
)


class Interrupted(Exception):
    """Leaves what the loop is doing; the loop itself writes the checkpoint."""


class Stopped(Exception):
    """A signal ended the run, its checkpoint is written; ``exit_code`` is 128 and the signal's number."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = 128 + number


@dataclass(slots=True)
class Stop:
    """Which signal came, if one did. A second one of the kind ends the process at once, but not a ``patient``
    one.
    """

    number: int | None = None
    patient: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        self.number = number
        if not self.patient:
            signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Raise Interrupted after a signal."""
        if self.number is not None:
            raise Interrupted


@contextlib.contextmanager
def listening(patient: bool = False) -> Iterator[Stop]:
    """Note signals instead of dying of them, for as long as the block lasts.

    ``patient``: of the second one neither. Torchrun passes on what the terminal has sent already; it kills,
    after a while, what does not end.
    """
    stop = Stop(patient=patient)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
