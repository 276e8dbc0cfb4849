"""Tags of the images of a folder, from the metadata.jsonl or metadata.csv next to them.

The convention is that of Hugging Face's imagefolder
(https://huggingface.co/docs/datasets/image_dataset): a row names an image by ``file_name``,
relative to the folder of the list; its other columns are the tags. If a row has a column ``tags``
that is an object, as the lists of selections have, that holds the tags. The list nearest to an
image counts, and metadata.jsonl before metadata.csv.

A tag "group" can be grouped by, but is not written to a corpus, where the word names the groups of
splits.

Lists are not trusted: a row counts only for an image that was found in the folder.
"""

from __future__ import annotations

import csv
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, BinaryIO, Final

import numpy as np

from img2img_data.core.errors import Rejected
from img2img_data.core.files import open_regular
from img2img_data.core.jsonl import Row

Tags = Mapping[str, Any]

MAX_LINE: Final = 1 << 20
"""Bytes of a line; a longer one ends the reading of its list."""
MAX_TAGS: Final = 64
MAX_TEXT: Final = 1000
"""Characters of a tag's name or text; longer ones are left out."""


class FolderTags:
    """Tags of the images of one folder, read on demand: 20 bytes per image stay in memory.

    ``lists`` are the paths of the lists, relative to ``root``, the nearest to an image last. A list
    that is a pipe, or a link without ``follow_links``, is skipped, a damaged one read as far as
    possible. ``names`` holds the tags that occur, ``faults`` a line about each list that was not
    read completely, ``digest`` changes with any byte.
    """

    def __init__(self, root: bytes, lists: Iterable[bytes], follow_links: bool = False) -> None:
        self.names: set[str] = set()
        self.faults: list[str] = []
        self._root, self._follow_links = root, follow_links
        self._lists: list[tuple[bytes, tuple[str, ...]]] = []  # path, and columns if it is CSV
        self._open: tuple[int, BinaryIO] | None = None
        # Three plain columns: a dict from paths to offsets would take ten times the memory.
        self._hash = blake2b(digest_size=8)
        columns = array("Q"), array("q"), array("i")
        for path in lists:
            self._index(path, columns)
        self.digest = self._hash.hexdigest()
        # Stable: of equal keys the last is that of the nearest list.
        order = np.argsort(np.array(columns[0]), kind="stable")
        self._keys, self._offsets, self._list_of = (np.array(column)[order] for column in columns)

    def get(self, path: bytes) -> Tags:
        """Return the tags of an image by its path within the folder; {} if there are none."""
        key = np.uint64(_key(path))
        at = int(np.searchsorted(self._keys, key, side="right")) - 1
        if at < 0 or self._keys[at] != key:
            return {}
        number = int(self._list_of[at])
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].close()
            self._open = number, self._open_list(self._lists[number][0])
        row = _row_at(self._open[1], int(self._offsets[at]), self._lists[number][1])
        # The list may have changed, and two paths may share a hash.
        return tags_of(row) if row and _image_path(self._lists[number][0], row) == path else {}

    def _open_list(self, path: bytes) -> BinaryIO:
        path = os.path.join(self._root, path)
        return open(open_regular(os.path.realpath(path) if self._follow_links else path), "rb")

    def _index(self, path: bytes, columns: Iterable[array[int]]) -> None:
        """Append key, offset and number of the list of each row of a list to the columns."""
        shown, damaged = os.fsdecode(path), 0
        try:
            with self._open_list(path) as file:
                head = next(_cells(_lines(file)), []) if path.endswith(b".csv") else []
                names = tuple(name.removeprefix("\ufeff").strip() for name in head)
                self._lists.append((path, names))
                self._hash.update(len(path).to_bytes(8, "little") + path)
                for offset, row in _rows(file, names, self._hash):
                    damaged += row is None
                    image = _image_path(path, row or {})
                    if row is None or image is None:
                        continue
                    values = _key(image), offset, len(self._lists) - 1
                    for column, value in zip(columns, values, strict=True):
                        column.append(value)
                    if len(self.names) < MAX_TAGS:
                        self.names.update(tags_of(row))
        except (OSError, Rejected, csv.Error) as error:
            why = error.args[-1] or "not a regular file"
            self.faults.append(f"'{shown}' was not read: {why}")
        if damaged:
            self.faults.append(f"'{shown}' has {damaged:,} damaged rows; their images have no tags")


def tags_of(row: Mapping[str, Any]) -> Row:
    """Return the tags of a row: texts, finite numbers, booleans and None."""
    inner = row.get("tags")
    columns = inner if isinstance(inner, Mapping) else row
    tags: Row = {}
    for name, value in columns.items():
        is_path = columns is row and name.endswith("file_name")
        named = isinstance(name, str) and 0 < len(name) <= MAX_TEXT and not is_path
        if named and _is_plain(value) and len(tags) < MAX_TAGS:
            tags[storable(name)] = storable(value) if isinstance(value, str) else value
    return tags


def _is_plain(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) < 1 << 63)


def storable(text: str) -> str:
    """Return a text that UTF-8 can hold: halves of surrogate pairs become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ------------------------------------------------------------------------------------------- lists
def _image_path(path: bytes, row: Mapping[str, Any]) -> bytes | None:
    """Return the path, within the folder, of the image that a row of the list ``path`` names."""
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        return None
    return path[: path.rfind(b"/") + 1] + name.removeprefix("./").encode("utf-8", "surrogatepass")


def _key(path: bytes) -> int:
    return int.from_bytes(blake2b(path, digest_size=8).digest(), "little")


def _rows(file: BinaryIO, columns: Sequence[str], hashed: Any) -> Iterator[tuple[int, Row | None]]:
    """Yield the offset of each row from here on, and the row, None if it is damaged."""
    offset = file.tell()
    for row in _parsed(_lines(file, hashed), columns):
        if row != {}:
            yield offset, row
        offset = file.tell()


def _row_at(file: BinaryIO, offset: int, columns: Sequence[str]) -> Row | None:
    file.seek(offset)
    with suppress(OSError, csv.Error):
        return next(_parsed(_lines(file), columns), None)
    return None


def _lines(file: BinaryIO, hashed: Any = None) -> Iterator[bytes]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            raise OSError(0, f"a line of more than {MAX_LINE:,} bytes")
        if hashed is not None:
            hashed.update(line)
        yield line


def _parsed(lines: Iterable[bytes], columns: Sequence[str]) -> Iterator[Row | None]:
    """Yield each row of JSON lines, of CSV if there are ``columns``; None: damaged, {}: empty."""
    if not columns:
        plain = (line.removeprefix(b"\xef\xbb\xbf") for line in lines)
        yield from (parse_row(line) if line.strip() else {} for line in plain)
        return
    for cells in _cells(lines):
        equal = len(cells) in {0, len(columns)}
        yield {n: c or None for n, c in zip(columns, cells, strict=False)} if equal else None


def parse_row(line: str | bytes) -> Row | None:
    """Return the JSON object in a line, None if there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _cells(lines: Iterable[bytes]) -> Iterator[list[str]]:
    return csv.reader(line.decode("utf-8", "replace") for line in lines)
