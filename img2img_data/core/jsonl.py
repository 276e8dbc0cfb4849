"""JSON Lines files: manifests of one JSON object per line, read row by row to keep memory flat."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, overload

from img2img_data.core.errors import CorpusError, printable

ItemT = TypeVar("ItemT", covariant=True)
Row = dict[str, Any]

COLUMN_TYPES: Final[dict[str, type | tuple[type, ...]]] = {
    "key": str,
    "domain": str,
    "width": int,
    "height": int,
    "tags": (dict, type(None)),
}
"""Columns that readers rely on; a row may lack them. File names are checked by the reader."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; ``CorpusError`` names file and line of a damaged one."""
    return list(iter_rows(path))


def iter_rows(path: Path, strict: bool = False) -> Iterator[Row]:
    """Yield the rows of a file one by one; ``CorpusError`` names file and line of a damaged one.

    With ``strict``, a row whose columns are not of their ``COLUMN_TYPES`` counts as damaged too.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield _parse(line, path, f"line {number}", strict)


def count_rows(path: Path) -> int:
    """Return the number of lines of a file."""
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _parse(line: bytes, path: Path, where: str, strict: bool) -> Row:
    hint = "build the corpus again"
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # the latter for "[[[[..."
        row = None
    if not isinstance(row, dict):
        raise CorpusError("manifest", path, f"{where} is damaged", hint)
    for name, types in COLUMN_TYPES.items() if strict else ():
        if name in row and not isinstance(row[name], types):
            found = printable(json.dumps(row[name]))[:40]
            why = f"{where} is damaged, its '{name}' is {found}"
            raise CorpusError("manifest", path, why, hint)
    return row


@dataclass(frozen=True, slots=True)
class RowFile(Sequence[ItemT], Generic[ItemT]):
    """Sequence of ``make(row)`` for some rows of a file, each read when it is asked for.

    ``starts`` are the offsets of the rows, 8 bytes of memory each. The file must not change
    meanwhile.
    """

    path: Path
    make: Callable[[Row], ItemT]
    starts: array[int]

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, number: int) -> ItemT: ...
    @overload
    def __getitem__(self, number: slice) -> list[ItemT]: ...
    def __getitem__(self, number: int | slice) -> ItemT | list[ItemT]:
        if isinstance(number, slice):
            return list(self._items(self.starts[number]))
        return next(self._items([self.starts[number]]))

    def __iter__(self) -> Iterator[ItemT]:
        return self._items(self.starts)

    def _items(self, starts: Sequence[int]) -> Iterator[ItemT]:
        with self.path.open("rb") as file:
            for start in starts:
                if start != file.tell():  # a seek would drop the buffer of a sequential read
                    file.seek(start)
                where = f"the row at byte {start}"
                yield self.make(_parse(file.readline(), self.path, where, strict=False))


def open_rows(
    path: Path, make: Mapping[str, Callable[[Row], ItemT]], name_of: Callable[[Row], str]
) -> dict[str, RowFile[ItemT]]:
    """Return the rows of a file by group: those of each name of ``make``, as ``name_of`` tells.

    Reads the file once and makes every item once, so that a damaged row is a ``CorpusError`` here
    and not in the middle of a run.
    """
    starts = {name: array("q") for name in make}
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            row = _parse(line, path, f"line {number}", strict=True)
            name = name_of(row)
            if name in starts:
                make[name](row)  # only to see that it can be made
                starts[name].append(start)
            start += len(line)
    return {name: RowFile(path, make[name], starts[name]) for name in make}
