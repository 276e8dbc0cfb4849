"""Signals: a run finishes its step, writes a checkpoint and stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal, TypeAlias

from img2img_train.data.loader import SIGNALS

Repeats: TypeAlias = Literal["end", "raise", "ignore"]
"""What a second signal does."""


class StopRequested(Exception):
    """Leaves the loop after a signal; the handler of the exception writes the checkpoint."""


class StoppedBySignal(Exception):
    """A signal ended the run; ``exit_code`` is 128 plus its number, as in shells."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = 128 + number


@dataclass(slots=True)
class StopSignal:
    """The handler of signals, and the number of the one that came, if any."""

    number: int | None = None
    repeats: Repeats = "end"
    before: dict[int, Any] = field(default_factory=dict)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Store the number of a signal."""
        self.number = number
        # A second Ctrl-C ends a run at once that does not reach its next step.
        if self.repeats != "ignore":
            again = self.before[number] if self.repeats == "raise" else signal.SIG_DFL
            signal.signal(number, again)

    def check(self) -> None:
        """Raise StopRequested after a signal."""
        if self.number is not None:
            raise StopRequested


def stop_signals() -> list[int]:
    """Return the signals that stop a run, but none that the process ignores, as with nohup."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def handle_signals(repeats: Repeats = "end") -> Iterator[StopSignal]:
    """Store signals instead of being killed by them, while the block runs in the main thread.

    ``repeats``: a second signal ends the process, or is handled as before the block, which raises
    KeyboardInterrupt after Ctrl-C; "ignore" is for torchrun, which passes on what the terminal has
    sent to its processes already, and kills those that do not end in time.
    """
    stop = StopSignal(repeats=repeats)
    # Python allows signal handlers in the main thread only; notebooks and tests may train in
    # another one.
    in_main_thread = threading.current_thread() is threading.main_thread()
    for number in stop_signals() if in_main_thread else ():
        stop.before[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            signal.signal(number, handler)
