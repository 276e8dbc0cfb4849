"""JSON Lines files: manifests of one JSON object per line, read row by row to keep memory flat.

Files may be untrusted: only regular files are opened, and no line may be longer than
``LONGEST_LINE``.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, TypeVar, overload

from img2img_data.core.errors import REASONS, CorpusError, Rejected, printable
from img2img_data.core.files import open_regular, read_bytes

ItemT = TypeVar("ItemT", covariant=True)
Row = dict[str, Any]
Columns = Mapping[str, Callable[[Any], bool]]
"""Column > a function that returns True if a value can be there. A row may lack the column."""
NOT_IN_KEYS: Final = frozenset('<>:"\\|?*')
"""Characters that some file system cannot have in a name; keys have them percent-encoded."""

LONGEST_LINE: Final = 1 << 20
"""Bytes of a line. Parsed, a line takes up to thirty times its bytes."""
LARGEST_PAGE: Final = 1 << 24
"""Bytes of a file that is one JSON object."""


def _is_key(value: object) -> bool:
    if not isinstance(value, str) or {"", ".", ".."} & {*value.split("/")}:
        return False
    return value.isprintable() and not NOT_IN_KEYS & {*value}


def _is_side(value: object, least: int = 1) -> bool:
    return type(value) is int and least <= value < 1 << 31


COLUMNS: Final[Columns] = {
    "key": _is_key,
    "domain": ("A", "B").__contains__,
    **dict.fromkeys(("width", "height"), _is_side),
    **dict.fromkeys(("tile_left", "tile_top"), partial(_is_side, least=0)),
    **dict.fromkeys(("source", "target_source", "kind"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("tags", "drawn", "measured"), lambda value: isinstance(value, dict | None)),
}
"""Columns of manifests that readers rely on. File names are checked by the reader."""


# ------------------------------------------------------------------------------------------- lines
def lines_of(path: Path, start: int = 0) -> Generator[bytes, None, None]:
    """Yield the lines of a file from a byte on.

    Raises ``CorpusError`` if it is not regular, or if a line is too long.
    """
    with _open(path) as file:
        file.seek(start)
        lines = iter(partial(file.readline, LONGEST_LINE + 1), b"")
        for number, line in enumerate(lines, 1):
            if len(line) > LONGEST_LINE:
                why = f"line {number} has more than {LONGEST_LINE:,} bytes"
                raise CorpusError("manifest", path, why, "do not use it")
            yield line


def _open(path: Path) -> BinaryIO:
    try:
        return open(open_regular(path), "rb")
    except Rejected as rejected:
        why = f"cannot be used: {REASONS[rejected.reason]}"
        raise CorpusError("manifest", path, why, "check the path") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


_DECODER: Final = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def parse_object(text: bytes) -> Row | None:
    """Return the JSON object in a text, None if there is none.

    Also None for what could not be written again: numbers that are not finite, unpaired surrogates.
    """
    try:
        row = _DECODER.decode(text.decode())
        if b"\\u" in text:
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # the latter for "[[[[..."
        return None
    return row if isinstance(row, dict) else None


def read_object(path: Path) -> Row:
    """Return the JSON object in a regular file; ``CorpusError`` if there is none."""
    try:
        content = parse_object(read_bytes(path, LARGEST_PAGE))
    except Rejected:
        content = None
    if content is None:
        raise CorpusError("corpus", path, "is damaged", "build the corpus again")
    return content


# -------------------------------------------------------------------------------------------- rows
def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; ``CorpusError`` names file and line of a damaged one."""
    return list(iter_rows(path))


def iter_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file one by one; ``CorpusError`` names file and line of a damaged one.

    A row with a value that cannot be in one of ``COLUMNS`` counts as damaged too.
    """
    for number, line in enumerate(lines_of(path), 1):
        yield checked_row(line, path, f"line {number}")


def count_rows(path: Path) -> int:
    """Return the number of lines of a file."""
    return sum(1 for _ in lines_of(path))


def checked_row(line: bytes, path: Path, where: str) -> Row:
    """Return the row of a line; ``CorpusError`` says where in the file a damaged one is."""
    row = parse_object(line)
    wrong = wrong_value(row or {})
    if row is None or wrong:
        raise CorpusError("manifest", path, f"{where} is damaged{wrong}", "build the corpus again")
    return row


def wrong_value(row: Row, columns: Columns = COLUMNS) -> str:
    """Return ", its 'NAME' is VALUE" of the first value that cannot be in its column, or ""."""
    for name, is_valid in columns.items():
        if name in row and not is_valid(row[name]):
            return f", its '{name}' is {json.dumps(row[name])[:40]}"
    return ""


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

    def __repr__(self) -> str:
        return f"<{len(self):,} rows of '{printable(self.path)}'>"

    def _items(self, starts: Sequence[int]) -> Iterator[ItemT]:
        with _open(self.path) as file:
            for start in starts:
                if start != file.tell():  # a seek would drop the buffer of a sequential read
                    file.seek(start)
                line = file.readline(LONGEST_LINE)
                yield self.make(checked_row(line, self.path, f"the row at byte {start}"))


def open_rows(
    path: Path, make: Callable[[Row], ItemT], column: str = "", names: Iterable[str] = ("",)
) -> dict[str, RowFile[ItemT]]:
    """Return the rows of a file with each of the ``names`` in a column; "" > all rows by default.

    Reads the file once and makes every item once, so that a damaged row, as in ``iter_rows``, is a
    ``CorpusError`` here and not in the middle of a run.
    """
    starts = {name: array("q") for name in names}
    start = 0
    for number, line in enumerate(lines_of(path), 1):
        row = checked_row(line, path, f"line {number}")
        name = str(row.get(column)) if column else ""
        if name in starts:
            make(row)  # only to see that it can be made
            starts[name].append(start)
        start += len(line)
    return {name: RowFile(path, make, places) for name, places in starts.items()}
