"""Signals: a run finishes its step, writes a checkpoint and stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from img2img_train.data.loader import SIGNALS


class StopRequested(Exception):
    """Leaves the loop after a signal; whoever catches it writes the checkpoint."""


class StoppedBySignal(Exception):
    """A signal ended the run; ``exit_code`` is 128 plus its number, as in shells."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = 128 + number


@dataclass(slots=True)
class StopSignal:
    """The handler of signals, and the number of the one that came, if any."""

    number: int | None = None
    ignore_repeats: bool = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Store the number of a signal."""
        self.number = number
        # A second Ctrl-C ends a run at once that does not reach its next step.
        if not self.ignore_repeats:
            signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Raise StopRequested after a signal."""
        if self.number is not None:
            raise StopRequested


def stop_signals() -> list[int]:
    """Return the signals that stop a run, but none that the process ignores, as with nohup."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def handle_signals(ignore_repeats: bool = False) -> Iterator[StopSignal]:
    """Store signals instead of dying of them, while the block runs in the main thread.

    ``ignore_repeats`` is for torchrun, which passes on what the terminal has sent to its processes
    already; it kills those that do not end in time.
    """
    stop = StopSignal(ignore_repeats=ignore_repeats)
    # Python allows signal handlers in the main thread only; notebooks and tests may train in
    # another one.
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = stop_signals() if in_main_thread else []
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
