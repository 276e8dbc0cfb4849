"""Folders as sources of images, the paths of lists within a folder, and the tags of its images.

A source is a generator of ``Item``: relative paths as bytes, with "/" between their parts, and
tags. What cannot be used, as far as that is known without opening a file, is an item that is
already rejected.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from img2img_data.core.errors import UsageError, printable
from img2img_data.images.headers import is_image_name
from img2img_data.sources.tags import FolderTags, Tags

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
                yield Item(path[:-1], rejected=_REJECTIONS[b"circle"])
            else:
                stack.append((path, _names(place, count, follow_links)))
        except OSError as error:
            word = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
            yield Item(path[:-1], rejected=(word, f"folder: {error.strerror}"))


_REJECTIONS: Final[Mapping[bytes, Rejection | None]] = {
    b"": None,
    b"link": ("link", "not read without --follow-links"),
    b"broken": ("link", "it leads to nothing that can be read"),
    b"circle": ("link", "it leads to a parent folder"),
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
            if kind.startswith(b"/") or (kind == b"\0broken" and b"." not in name):
                names.append(name + kind)
            elif name in LISTS:
                continue
            elif not is_image_name(name):
                # The entry and Path raise on a link to itself, or into a folder without permission.
                linked = entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112
                ignored[LINKED if linked else Path(os.fsdecode(name)).suffix.lower()] += 1
            else:
                names.append(name + kind)
    names.sort(reverse=True)
    return names


def _kind_of(entry: os.DirEntry[bytes], follow_links: bool) -> bytes:
    """Return what ``_names`` appends to the name of an image or a folder."""
    if not entry.is_symlink():
        is_file, is_folder = (f(follow_symlinks=False) for f in (entry.is_file, entry.is_dir))
        return b"/" if is_folder else b"" if is_file else b"\0special"
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
    counts = [(-n, name or "none") for name, n in ignored.items() if name != "hidden"]
    shown = [f"{printable(name)} {-n:,}" for n, name in sorted(counts)]
    if not shown:
        return ""
    more = ", ..." * (len(shown) > 8)
    more += "; --follow-links reads linked folders" * (LINKED in ignored)
    return f"skipped, not images by name: {', '.join(shown[:8])}{more}"


# -------------------------------------------------------------------------------------------- tags
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
            return path, ("name", "the list's entry is not a path")
        if _LEAVES.match(text):
            return path, ("outside-root", "the list's entry leaves its folder")
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
