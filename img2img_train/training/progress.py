"""What a person sees of a run while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

QUIET_SECONDS: Final = 30.0


class Display:
    """Lines and one bar, on ``stream`` (standard error by default). Nothing here waits for the device."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._title, self._total, self._unit = "", 0, ""
        self._began = self._spoke = time.monotonic()
        self._first = 0

    def __enter__(self) -> Display:
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """Say a line."""
        self._spoke = time.monotonic()
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Begin a stretch of work of ``total`` units, ``done`` of which are done already."""
        self._title, self._total, self._unit, self._first = title, total, unit, done
        self._began = self._spoke = time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(title, total=total, completed=done, rate="")

    def advance(self, done: int) -> None:
        """Tell that ``done`` units of the stretch are done."""
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, completed=done, rate=f"{self.rate(done):,.0f} {self._unit}/s"
            )
        elif time.monotonic() - self._spoke > QUIET_SECONDS:
            left = duration((self._total - done) / max(self.rate(done), 1e-9))
            rate = f"{self.rate(done):,.0f} {self._unit}/s"
            self.line(
                f"{self._title}: {done:,} of {self._total:,} {self._unit}, {rate}, {left} left"
            )

    def rate(self, done: int) -> float:
        """Return the units per second since the stretch began."""
        return (done - self._first) / max(time.monotonic() - self._began, 1e-9)

    def left(self, done: int) -> str:
        """Return the time left, for reading."""
        return duration((self._total - done) / max(self.rate(done), 1e-9))


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns, console=Console(file=stream), transient=True, speed_estimate_period=60
    )


def duration(seconds: float) -> str:
    """Return a duration for reading: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def following(display: Display, title: str = "scoring") -> Callable[[int, int, str], None]:
    """Return what tells ``display`` of images done and in all; the stretch begins with the first call."""
    begun = False

    def follow(done: int, total: int, name: str) -> None:
        nonlocal begun
        if not begun:
            display.begin(title, total)
            begun = True
        display.advance(done)

    return follow


def stretching(display: Display, title: str) -> Callable[[str, int, int], None]:
    """Return what tells ``display`` of files done and in all, in between of the frames of a video."""
    now: str | None = None

    def follow(what: str, done: int, total: int) -> None:
        nonlocal now
        if what != now:
            display.begin(what or title, total, done - 1, "frames" if what else "files")
            now = what
        display.advance(done)

    return follow
