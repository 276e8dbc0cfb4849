"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_BAR = 0.2
_EVERY_LINE = 10.0


@contextmanager
def progress_of(name: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function (done, total) that shows progress on stderr, with rate and time left."""
    if not sys.stderr.isatty():
        yield _plain(name)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(
        *columns, console=Console(stderr=True), auto_refresh=False, transient=True
    ) as bar:
        task = bar.add_task(name, total=None, rate="")
        began, shown = time.monotonic(), 0.0

        def show(done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < _EVERY_BAR and done != total:
                return
            shown = now
            rate = f"{done / max(now - began, 1e-6):,.0f}/s"
            bar.update(task, completed=done, total=total, rate=rate, refresh=True)

        yield show


def _plain(name: str) -> Callable[[int, int], None]:
    began = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_LINE:
            last = now
            rate = done / (now - began)
            left = (total - done) / max(rate, 1e-9)
            print(
                f"{name}: {done:,} of {total:,}, {rate:,.0f}/s, {left:,.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    return show
