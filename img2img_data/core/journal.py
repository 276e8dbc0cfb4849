"""Journal: one line per finished item in an append-only file, so that a killed run can continue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


class Journal:
    """An append-only file of lines that replaces the journal of an earlier run.

    The new journal is written beside ``path`` until ``publish`` renames it, so that a kill during
    the transfer of earlier lines loses none of them. Lines are found again by their positions,
    which are all that a caller has to keep in memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = 0
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._file: BinaryIO = self._temporary.open("wb")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def append(self, line: bytes) -> int:
        """Append a line, which must end in a newline; return its position."""
        start = self._size
        self._file.write(line)
        self._size += len(line)
        return start

    def publish(self) -> None:
        """Rename the journal into place; further lines are appended there."""
        # Closed first: Windows cannot rename an open file.
        self._file.close()
        self._temporary.replace(self.path)
        self._file = self.path.open("ab", buffering=1 << 16)

    def flush(self) -> None:
        """Hand all lines to the operating system: they survive a kill of this process."""
        self._file.flush()

    def lines_at(self, positions: Iterable[int]) -> Iterator[bytes]:
        """Yield the lines at the given positions of a published journal."""
        self.flush()
        with self.path.open("rb") as file:
            for position in positions:
                file.seek(position)
                yield file.readline()


def complete_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a journal, if there is one, without a last line that a kill cut short."""
    if path.is_file():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
