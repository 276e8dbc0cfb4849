"""Progress of a run: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO, TypeAlias

if TYPE_CHECKING:
    from rich import progress as rich_progress

REFRESH_SECONDS: Final = 0.2
QUIET_SECONDS: Final = 10.0


Progress: TypeAlias = Callable[[int, int], None]
"""Function that is called with the units done and in total, as often as the caller likes."""


class ProgressByPart(Protocol):
    """A ``Progress`` that also takes the name of a part counted on its own, as one video."""

    def __call__(self, done: int, total: int, part: str = "", /) -> None:
        """Report the units done and in total, of all or of one part."""


class Display:
    """Lines of text and one bar on ``stream`` (default: standard error)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: rich_progress.Progress | None = None
        self._title, self._total, self._unit, self._first = "", 0, "", 0
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Display:
        if self._stream.isatty():
            self._bar = _new_bar(self._stream)
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._shown = time.monotonic()
            print(text, file=self._stream, flush=True)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Start a bar of ``total`` units, of which ``done`` are done, in place of the last one."""
        self._title, self._total, self._unit, self._first = title, total, unit, done
        self._began = self._shown = time.monotonic()
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(title, total=total, completed=done, rate="")
            self._bar.refresh()

    def advance(self, done: int, total: int | None = None) -> None:
        """Show that ``done`` units are done, of now ``total`` if that has changed."""
        self._total = self._total if total is None else total
        interval = QUIET_SECONDS if self._bar is None else REFRESH_SECONDS
        now = time.monotonic()
        if now - self._shown < interval and (self._bar is None or done != self._total):
            return
        self._shown = now  # drawing for every image would cost more than some images do
        rate = f"{self.rate(done):,.0f} {self._unit}/s"
        if self._bar is None:
            counts = f"{done:,} of {self._total:,} {self._unit}"
            self.line(f"{self._title}: {counts}, {rate}, {self.time_left(done)} left")
            return
        for task in self._bar.task_ids:
            self._bar.update(task, completed=done, total=self._total, rate=rate, refresh=True)

    def report(
        self, title: str, unit: str = "images", part_unit: str | None = None
    ) -> ProgressByPart:
        """Return a function that shows the progress reported to it under ``title``.

        The bar starts with the first call, and again whenever ``part`` changes; that of a part has
        the name of the part as its title and counts in ``part_unit``.
        """
        current: str | None = None

        def show(done: int, total: int, part: str = "", /) -> None:
            nonlocal current
            if part != current:
                current = part
                self.begin(part or title, total, done, part_unit or unit if part else unit)
            self.advance(done, total)

        return show

    def rate(self, done: int) -> float:
        """Return the units per second since the bar started."""
        return (done - self._first) / max(time.monotonic() - self._began, 1e-9)

    def time_left(self, done: int) -> str:
        """Return the time left at the rate so far, as ``format_duration`` writes it."""
        return format_duration((self._total - done) / max(self.rate(done), 1e-9))


@contextmanager
def progress_of(title: str) -> Iterator[ProgressByPart]:
    """Show progress on standard error while the block runs; yields the function to report it to."""
    with Display() as display:
        yield display.report(title)


def _new_bar(stream: TextIO) -> rich_progress.Progress:
    # Imported here: rich is slow to load, and the help of a command needs no bar.
    from rich import console, progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    # Refreshed by hand: the thread of auto_refresh could hold a lock while a worker is forked.
    options: dict[str, Any] = {"auto_refresh": False, "transient": True}
    return progress.Progress(
        *columns, console=console.Console(file=stream), speed_estimate_period=60, **options
    )


def format_duration(seconds: float) -> str:
    """Return a duration in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
