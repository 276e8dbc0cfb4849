"""What a folder itself says about its images: the tags in metadata.jsonl or metadata.csv beside them.

The convention is that of Hugging Face's imagefolder (https://huggingface.co/docs/datasets/image_dataset): a
row names a image by ``file_name``, relative to the folder of the list; its other columns are the tags. A
row with a column ``tags`` that is an object, as ``select`` and ``wiki`` write it, has its tags in there. The
list nearest to a image counts, and metadata.jsonl before metadata.csv.

A tag "group" can be grouped by, but does not get into a corpus: there the word names the groups of splits.

Nothing in a list is trusted: only names of images that were found by looking are ever looked up.
"""

from __future__ import annotations

import csv
import json
import math
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tags = Mapping[str, Any]

MAX_LINE: Final = 1 << 20
"""Bytes of a line; a longer one ends the reading of its list."""
MAX_TAGS: Final = 64
MAX_TEXT: Final = 1000
"""Characters of a tag's name or text; longer ones are left out, as are lists, objects, NaN, infinity."""

_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass(slots=True)
class FolderTags:
    """The tags of the images of one folder, read when asked for: 20 bytes a image stay in memory.

    ``get`` reads one row; equal for every process that opens the same folder. ``names`` are the tags there
    are, ``faults`` the lists that could not be read whole, ``digest`` changes with the lists' bytes.
    """

    root: bytes
    names: frozenset[str]
    faults: tuple[str, ...]
    digest: str
    _lists: tuple[bytes, ...]
    _heads: tuple[tuple[str, ...], ...]
    _keys: NDArray[np.uint64]
    _offsets: NDArray[np.int64]
    _list_of: NDArray[np.int32]
    _open: dict[int, BinaryIO] = field(default_factory=dict, repr=False)

    def get(self, path: bytes) -> Tags:
        """Return the tags of a image by its path within the folder, with "/"; none: an empty mapping."""
        import numpy as np

        key = _key(path)
        at = int(np.searchsorted(self._keys, np.uint64(key), side="right")) - 1
        if at < 0 or int(self._keys[at]) != key:
            return {}
        number = int(self._list_of[at])
        row = _row_at(self._file(number), int(self._offsets[at]), self._heads[number])
        named = row is not None and _path_of(self._lists[number], row) == path
        return tags_of(row) if row is not None and named else {}

    def _file(self, number: int) -> BinaryIO:
        if number not in self._open:
            for file in self._open.values():
                file.close()
            self._open.clear()
            self._open[number] = _open_regular(self.root + b"/" + self._lists[number])
        return self._open[number]


def read_tags(root: bytes, lists: Iterable[bytes]) -> FolderTags:
    """Return the tags in the lists of a folder, the nearest to an image last.

    ``lists`` are paths relative to ``root``. A list that is a link or a pipe is skipped, a damaged one is read
    as far as possible; ``faults`` says which.
    """
    import numpy as np

    found = _Found()
    for path in lists:
        found.read(root, path)
    keys = np.frombuffer(found.keys, np.uint64) if found.keys else np.empty(0, np.uint64)
    order = np.argsort(keys, kind="stable")
    return FolderTags(
        root,
        frozenset(found.names),
        tuple(found.faults),
        found.hash.hexdigest(),
        tuple(found.lists),
        tuple(found.heads),
        keys[order],
        np.frombuffer(found.offsets, np.int64)[order],
        np.frombuffer(found.list_of, np.int32)[order],
    )


def tags_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be a tag in a row: texts, numbers, truth values and None."""
    inner = row.get("tags")
    columns = inner if isinstance(inner, Mapping) else row
    out: dict[str, Any] = {}
    for name, value in columns.items():
        if (
            isinstance(name, str)
            and 0 < len(name) <= MAX_TEXT
            and _is_plain(value)
            and len(out) < MAX_TAGS
        ):
            if columns is row and name.endswith("file_name"):
                continue
            out[_storable(name)] = _storable(value) if isinstance(value, str) else value
    return out


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 1 << 63)


def _storable(text: str) -> str:
    """Replace what no UTF-8 file can hold: halves of surrogate pairs."""
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


# --------------------------------------------------------------------------------------------- lists
@dataclass(slots=True)
class _Found:
    """Where the rows of all lists lie, in the order they were read: nearer lists later."""

    lists: list[bytes] = field(default_factory=list)
    heads: list[tuple[str, ...]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    keys: bytearray = field(default_factory=bytearray)
    offsets: array[int] = field(default_factory=lambda: array("q"))
    list_of: array[int] = field(default_factory=lambda: array("i"))
    hash: Any = field(default_factory=lambda: blake2b(digest_size=8))

    def read(self, root: bytes, path: bytes) -> None:
        """Note where the rows of a list begin."""
        number, shown = len(self.lists), os.fsdecode(path)
        damaged = 0
        try:
            with _open_regular(os.path.join(root, path)) as file:
                head = _head_of(file) if path.endswith(b".csv") else ()
                self.lists.append(path)
                self.heads.append(head)
                self.hash.update(len(path).to_bytes(8, "little") + path)
                for offset, row in _rows(file, head, self.hash):
                    named = _path_of(path, row) if row is not None else None
                    damaged += row is None
                    if row is not None and named is not None:
                        self.keys += _key(named).to_bytes(8, "little")
                        self.offsets.append(offset)
                        self.list_of.append(number)
                        if len(self.names) < MAX_TAGS:
                            self.names.update(tags_of(row))
        except OSError as error:
            self.faults.append(f"'{shown}' was not read: {error.strerror or error}")
        if damaged:
            self.faults.append(f"'{shown}' has {damaged:,} damaged rows; their images have no tags")


def _open_regular(path: bytes) -> BinaryIO:
    """Open a regular file; a link, pipe or device is an ``OSError``."""
    handle = os.open(path, _FLAGS)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "not a regular file")
    return os.fdopen(handle, "rb")


def _path_of(path: bytes, row: Mapping[str, Any]) -> bytes | None:
    """Return the image's path within the folder that a row of the list at ``path`` names."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        return None
    return path[: path.rfind(b"/") + 1] + name.removeprefix("./").encode("utf-8", "surrogatepass")


def _key(path: bytes) -> int:
    return int.from_bytes(blake2b(path, digest_size=8).digest(), "little")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise OSError(0, f"a line of more than {MAX_LINE:,} bytes")
        yield line


def _rows(
    file: BinaryIO, head: Sequence[str], hashed: Any
) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield (offset, row) from where the file stands; None for a damaged row."""
    texts = _hashing(file, hashed)
    if not head:
        offset = file.tell()
        for line in texts:
            if line.strip():
                yield offset, _json_row(line)
            offset += len(line)
        return
    reader = _csv_reader(texts)
    while True:
        offset = file.tell()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise OSError(0, str(error)) from None
        if cells:
            yield offset, _csv_row(head, cells)


def _hashing(file: BinaryIO, hashed: Any) -> Iterator[bytes]:
    for line in _lines(file):
        hashed.update(line)
        yield line


def _row_at(file: BinaryIO, offset: int, head: Sequence[str]) -> dict[str, Any] | None:
    file.seek(offset)
    try:
        if not head:
            return _json_row(file.readline(MAX_LINE))
        return _csv_row(head, next(_csv_reader(_lines(file))))
    except (OSError, StopIteration, csv.Error):
        return None


def _json_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _csv_reader(lines: Iterable[bytes]) -> Iterator[list[str]]:
    return csv.reader(line.decode("utf-8", "replace") for line in lines)


def _head_of(file: BinaryIO) -> tuple[str, ...]:
    try:
        cells = next(_csv_reader(_lines(file)), [])
    except csv.Error as error:
        raise OSError(0, str(error)) from None
    return tuple(c.removeprefix("\ufeff").strip() for c in cells)


def _csv_row(head: Sequence[str], cells: Sequence[str]) -> dict[str, Any] | None:
    """Pair cells with columns; an empty cell is None, and a row of another length is damaged."""
    return (
        dict(zip(head, (c or None for c in cells), strict=True))
        if len(cells) == len(head)
        else None
    )
