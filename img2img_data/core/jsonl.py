"""Rows of a manifest: one JSON object a line, read one by one; of a million none stays in memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

from img2img_data.core.errors import CorpusError, printable

Made = TypeVar("Made", covariant=True)
Row = dict[str, Any]

TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "key": str,
    "domain": str,
    "width": int,
    "height": int,
    "tags": (dict, type(None)),
}
"""Columns that readers rely on, and what they hold where they are there. Files' names: ``corpus.inside``."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file; ``CorpusError`` names file and line of a damaged one."""
    return list(iter_rows(path))


def iter_rows(path: Path, strict: bool = False) -> Iterator[Row]:
    """Yield the rows of a JSON-lines file one by one; ``CorpusError`` names the line of a damaged one.

    With ``strict`` one whose columns are not of their ``TYPES`` is damaged too.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _row_of(line, path, f"line {number}")
            if strict:
                check_types(row, path, f"line {number}")
            yield row


def check_types(row: Row, path: Path, where: str) -> None:
    """Raise ``CorpusError`` for a row whose columns are not of their ``TYPES``."""
    for name, kinds in TYPES.items():
        if name in row and not isinstance(row[name], kinds):
            why = f"{where} is damaged, its '{name}' is {printable(json.dumps(row[name]))[:40]}"
            raise CorpusError("manifest", path, why, "build the corpus again")


def count_rows(path: Path) -> int:
    """Return how many lines a file has."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _row_of(line: bytes, path: Path, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise CorpusError("manifest", path, f"{where} is damaged", "build the corpus again")
    return row


@dataclass(frozen=True, slots=True)
class RowFile(Sequence[Made], Generic[Made]):
    """What ``make`` makes of the rows of a file, each read when it is asked for; a slice is a list.

    Memory: 8 bytes a row. The file must stay as it is.
    """

    path: Path
    make: Callable[[Row], Made]
    starts: array[int]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, number: int) -> Made: ...
    @overload
    def __getitem__(self, number: slice) -> list[Made]: ...
    def __getitem__(self, number: int | slice) -> Made | list[Made]:
        if isinstance(number, slice):
            return list(self._at(self.starts[number]))
        return next(self._at([self.starts[number]]))

    def __iter__(self) -> Iterator[Made]:
        return self._at(self.starts)

    def _at(self, starts: Sequence[int]) -> Iterator[Made]:
        with self.path.open("rb") as file:
            for start in starts:
                if start != file.tell():
                    file.seek(start)
                yield self.make(_row_of(file.readline(), self.path, f"the row at byte {start}"))


def open_rows(
    path: Path, make: Mapping[str, Callable[[Row], Made]], name_of: Callable[[Row], str]
) -> dict[str, RowFile[Made]]:
    """Read a manifest once, and return its rows by the names that ``name_of`` gives them.

    Every row is made once and dropped, so that a damaged one is a ``CorpusError`` here and not in mid-run.
    """
    starts = {name: array("q") for name in make}
    at = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _row_of(line, path, f"line {number}")
            check_types(row, path, f"line {number}")
            name = name_of(row)
            if name in starts:
                make[name](row)
                starts[name].append(at)
            at += len(line)
    return {name: RowFile(path, make[name], starts[name]) for name in make}
