"""Folders as sources of images, the paths of lists within a folder, and the tags of its images.

A source is a generator of ``Item``: relative paths as bytes, with "/" between their parts, and
tags. What cannot be used, as far as that is known without opening a file, is an item that is
already rejected.

Tags come from the metadata.jsonl or metadata.csv next to the images. The convention is that of
Hugging Face's imagefolder (https://huggingface.co/docs/datasets/image_dataset): a row names an
image by ``file_name``, relative to the folder of the list; its other columns are the tags. If a row
has a column ``tags`` that is an object, as the lists of selections have, that holds the tags. The
list nearest to an image counts, and metadata.jsonl before metadata.csv. A tag "group" can be
grouped by, but is not written to a corpus, where the word names the groups of splits. Lists are not
trusted: a row counts only for an image that was found in the folder.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from img2img_data.core.errors import Rejected, UsageError, printable
from img2img_data.core.files import open_regular
from img2img_data.core.jsonl import Row
from img2img_data.images.headers import is_image_name

Tags = Mapping[str, Any]
Rejection = tuple[str, str]
"""A key of ``errors.REASONS``, and a short detail."""

JUNK: Final = frozenset({b"thumbs.db", b"desktop.ini", b"@eadir", b"__macosx"})
"""Names, in lower case, that operating systems leave behind; skipped like hidden files."""

LINKED: Final = "linked folder"
TAG_LISTS: Final = (b"metadata.jsonl", b"metadata.csv")
LISTS: Final = frozenset({*TAG_LISTS, b"rejected.jsonl", b"selection.json", b"duplicates.jsonl"})
"""Files about the images next to them; skipped without a notice."""

NO_TAGS: Final[Tags] = {}  # shared by all items: a million empty dicts take 64 MB


@dataclass(frozen=True, slots=True)
class Item:
    """One source image: its path relative to the source's folder, and its tags, ready for JSON.

    ``rejected`` is set if the source already knows that the image cannot be used.
    """

    path: bytes
    tags: Tags = field(default_factory=lambda: NO_TAGS)
    rejected: Rejection | None = None


def list_folder(
    root: Path, ignored: Counter[str] | None = None, follow_links: bool = False
) -> Iterator[Item]:
    """Yield the images of a folder and its subfolders, sorted by the bytes of their paths.

    Images are recognized by the extension of their name. Hidden files, ``JUNK`` and other files are
    skipped; ``ignored`` counts them by extension ("" if none), hidden ones as "hidden", ``LISTS``
    not at all. Links are not followed: one with the name of an image is rejected as ``link``, one
    to a folder is counted as ``LINKED``. With ``follow_links`` they are, except for those that lead
    nowhere or to a parent folder. Pipes, sockets and devices are ``not-a-regular-file``, a
    folder that cannot be listed is ``unreadable``. ``UsageError`` if ``root`` itself cannot be
    listed.
    """
    base = os.fsencode(root)
    count: Counter[str] = Counter() if ignored is None else ignored
    try:
        stack = [(b"", _names(base, count, follow_links))]
    except OSError as error:
        why = error.strerror or "cannot be listed"
        raise UsageError("folder", root, why, "check the path") from None
    # A stack of its own, not recursion: folders may nest deeper than Python does. It holds only the
    # names of the folders on the way to the current item.
    while stack:
        prefix, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name, _, reason = names.pop().partition(b"\0")
        path = prefix + name
        if not name.endswith(b"/"):
            yield Item(path, rejected=_REJECTIONS[reason])
            continue
        try:
            place = base + b"/" + path
            around = (os.path.realpath(base + b"/" + outer) for outer, _ in stack)
            # A link to a parent of one of them leads back as well.
            inner = os.path.realpath(place) if reason else b""
            if reason and any(os.path.commonpath([outer, inner]) == inner for outer in around):
                yield Item(path[:-1], rejected=("link", "it leads to a parent folder"))
            else:
                stack.append((path, _names(place, count, follow_links)))
        except OSError as error:
            word = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
            yield Item(path[:-1], rejected=(word, f"folder: {error.strerror}"))


_REJECTIONS: Final[Mapping[bytes, Rejection | None]] = {
    b"": None,
    b"link": ("link", "not read without --follow-links"),
    b"broken": ("link", "its target cannot be read"),
    b"special": ("not-a-regular-file", "a pipe, socket or device"),
}


def _names(folder: bytes, ignored: Counter[str], follow_links: bool) -> list[bytes]:
    """Return the names of folders and images in a folder, in reverse order.

    Folders end in "/", so that sorting puts their contents where their paths belong. A NUL, which
    no name can hold, separates a name from the reason of its rejection. Plain bytes: directory
    entries take five times the memory.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b".") or name.lower() in JUNK:
                ignored["hidden"] += 1
                continue
            kind = _kind_of(entry, follow_links)
            may_be_folder = kind.startswith(b"/") or (kind == b"\0broken" and b"." not in name)
            if may_be_folder or is_image_name(name):
                names.append(name + kind)
            elif name not in LISTS:
                # The entry and Path raise on a link to itself, or into a folder without permission.
                linked = entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112
                ignored[LINKED if linked else Path(os.fsdecode(name)).suffix.lower()] += 1
    names.sort(reverse=True)
    return names


def _kind_of(entry: os.DirEntry[bytes], follow_links: bool) -> bytes:
    """Return what ``_names`` appends to the name of an image or a folder."""
    if entry.is_file(follow_symlinks=False):
        return b""
    if not entry.is_symlink():
        return b"/" if entry.is_dir(follow_symlinks=False) else b"\0special"
    # os.path: the entry and Path raise on a link to itself, or into a folder without permission.
    if not follow_links:
        return b"\0link"
    if os.path.isdir(entry.path):  # noqa: PTH112
        return b"/\0linked"
    if os.path.isfile(entry.path):  # noqa: PTH113
        return b""
    return b"\0special" if os.path.exists(entry.path) else b"\0broken"  # noqa: PTH110


def describe_skipped(ignored: Mapping[str, int]) -> str:
    """Return a line about the files that ``list_folder`` skipped; "" if all of them were hidden."""
    counts = [(-n, name or "no extension") for name, n in ignored.items() if name != "hidden"]
    shown = [f"{printable(name)}: {-n:,}" for n, name in sorted(counts)]
    if not shown:
        return ""
    more = ", ..." * (len(shown) > 8)
    more += "; --follow-links reads linked folders" * (LINKED in ignored)
    return f"skipped files without an image extension ({', '.join(shown[:8])}){more}"


# ------------------------------------------------------------------------------------ listed paths
_LEAVES: Final = re.compile(r"[/\\]|[A-Za-z]:[/\\]|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)
"""Absolute paths, of Windows too, and paths with "..": all of them may leave the folder."""


class PathResolver:
    """Resolver of the paths in a list within a folder; nothing outside of the folder is opened."""

    def __init__(self, base: bytes, follow_links: bool = False) -> None:
        self._base, self._follow_links = base, follow_links
        self._has_link: dict[bytes, bool] = {b"": False}

    def resolve(self, text: str | None) -> tuple[bytes, Rejection | None]:
        """Return the path of an entry, and the reason if it cannot be used; None is not a text."""
        path = (text or "").encode("utf-8", "surrogatepass")
        if text is None or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            return path, ("name", "the entry in the list is not a path")
        if _LEAVES.match(text):
            return path, ("outside-root", "the entry in the list leads out of its folder")
        path = b"/".join(p for p in path.split(b"/") if p not in {b"", b"."})
        return path, self._rejection(path)

    def _rejection(self, path: bytes) -> Rejection | None:
        if not path:
            return "missing", "the list names no file"
        try:
            if not self._follow_links and self._linked(path.rpartition(b"/")[0]):
                return "link", "in a linked folder; not read without --follow-links"
            mode = os.stat(self._base + b"/" + path, follow_symlinks=self._follow_links).st_mode
        except PermissionError as error:
            return "unreadable", str(error.strerror)
        except OSError:
            return "missing", "the list names it"
        if stat.S_ISREG(mode):
            return None
        if stat.S_ISLNK(mode):
            return _REJECTIONS[b"link"]
        return "not-a-regular-file", "a folder, pipe, socket or device"

    def _linked(self, folder: bytes) -> bool:
        """Return True if a part of the folder's path is a link."""
        # Remembered by folder: lists name thousands of files in each.
        if folder not in self._has_link:
            ends = [at.start() for at in re.finditer(b"/", folder)] + [len(folder)]
            modes = (os.lstat(self._base + b"/" + folder[:end]).st_mode for end in ends)
            self._has_link[folder] = any(stat.S_ISLNK(mode) for mode in modes)
        return self._has_link[folder]


# -------------------------------------------------------------------------------------------- tags
MAX_LINE: Final = 1 << 20
"""Bytes of a line; a longer one ends the reading of its list."""
MAX_TAGS: Final = 64
MAX_TEXT: Final = 1000
"""Characters of a tag's name or text; longer ones are left out."""


def find_tags(root: bytes, paths: Iterable[bytes], follow_links: bool = False) -> FolderTags | None:
    """Return the tags of a folder's images from the lists next to them, None if there are none.

    ``paths`` are those of the images, relative to ``root``. Lists are looked for in ``root`` and in
    the folders on the way to an image; metadata.jsonl comes before metadata.csv.
    """
    folders = {b""}
    for path in paths:
        folder = path[: path.rfind(b"/") + 1]
        while folder not in folders:
            folders.add(folder)
            folder = folder[: folder.rfind(b"/", 0, -1) + 1]
    # By depth, so that the nearest list of an image comes last and counts.
    lists: list[bytes] = []
    for folder in sorted(folders, key=lambda name: (name.count(b"/"), name)):
        names = (folder + name for name in TAG_LISTS)
        lists += [name for name in names if os.path.lexists(os.path.join(root, name))][:1]
    return FolderTags(root, lists, follow_links) if lists else None


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
        self._hash = blake2b(digest_size=8)
        # Three plain columns: a dict from paths to offsets would take ten times the memory.
        rows = np.fromiter(chain.from_iterable(map(self._index, lists)), "u8,i8,i4")
        self.digest = self._hash.hexdigest()
        # Stable: of equal keys the last is that of the nearest list.
        order = np.argsort(rows["f0"], kind="stable")
        self._keys, self._offsets, self._list_of = (rows[f][order] for f in ("f0", "f1", "f2"))

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

    def _index(self, path: bytes) -> Iterator[tuple[int, int, int]]:
        """Yield the key, the offset and the number of the list of each row of a list."""
        shown, damaged = os.fsdecode(path), 0
        try:
            with self._open_list(path) as file:
                self._hash.update(len(path).to_bytes(8, "little") + path)
                header = _cells(_lines(file, self._hash)) if path.endswith(b".csv") else iter(())
                names = tuple(name.removeprefix("\ufeff").strip() for name in next(header, []))
                self._lists.append((path, names))
                for offset, row in _rows(file, names, self._hash):
                    damaged += row is None
                    image = _image_path(path, row or {})
                    if row is None or image is None:
                        continue
                    if len(self.names) < MAX_TAGS:
                        self.names.update(tags_of(row))
                    yield _key(image), offset, len(self._lists) - 1
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
    """Return a text that UTF-8 can hold: unpaired surrogates become U+FFFD."""
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
