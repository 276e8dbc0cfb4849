"""Sources: where photos come from, and what is known about them before they are read.

A source is a generator of ``Item``: relative paths as bytes, with "/" between their parts, and tags.
What can be told to be unusable without opening a image is an item that is rejected already. Adding a
source: a function of that kind, and a row in ``SOURCES``.
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
from img2img_data.sources.tags import FolderTags, Tags, read_tags

Rejection = tuple[str, str]
"""A key of ``errors.REASONS``, and a short free text."""

JUNK: Final = frozenset({b"thumbs.db", b"desktop.ini", b"@eadir", b"__macosx"})
"""Names, in lower case, that operating systems leave behind; passed over like hidden files and folders."""

LINKED: Final = "linked folder"
TAG_LISTS: Final = (b"metadata.jsonl", b"metadata.csv")
LISTS: Final = frozenset({*TAG_LISTS, b"rejected.jsonl", b"selection.json"})
"""What is said about images beside them, by hand or by ``select``: nobody takes these for images."""

_NO_TAGS: Final[Tags] = {}  # one for all items of a folder: a million empty dicts weigh 64 MB


@dataclass(frozen=True, slots=True)
class Item:
    """One source image: its path relative to the source's folder, and what the source knows about it.

    Tags are ready for JSON. ``rejected`` is set when the source already knows that it cannot be used.
    """

    path: bytes
    tags: Tags = field(default_factory=lambda: _NO_TAGS)
    rejected: Rejection | None = None


# ------------------------------------------------------------------------------------------- folder
def list_folder(root: Path, ignored: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the images of a folder and its subfolders, sorted by the bytes of their paths.

    A image is told by its name's extension. Hidden files and folders, and ``JUNK``, are passed over; so
    are other files. ``ignored`` counts them by extension ("" if none), hidden ones as "hidden", ``LISTS`` not
    at all. Links are never followed: one with a image's name is rejected as ``link``, one to a folder is
    counted as ``LINKED``. Pipes, sockets and devices are ``not-a-regular-file``, a folder that cannot be
    listed is ``unreadable``. Memory: the names of the folders on the way to the item in hand. ``UsageError``
    if ``root`` itself cannot be listed.
    """
    base = os.fsencode(root)
    count: Counter[str] = Counter() if ignored is None else ignored
    try:
        stack = [(b"", _names(base, count))]
    except OSError as error:
        raise UsageError(
            "folder", root, error.strerror or "cannot be listed", "check the path"
        ) from None
    while stack:
        prefix, names = stack[-1]
        if not names:
            stack.pop()
            continue
        name, _, reason = names.pop().partition(b"\0")
        path = prefix + name
        if not name.endswith(b"/"):
            yield Item(path, rejected=_LISTED[reason])
            continue
        try:
            stack.append((path, _names(base + b"/" + path, count)))
        except OSError as error:
            reason_word = "vanished" if isinstance(error, FileNotFoundError) else "unreadable"
            yield Item(path[:-1], rejected=(reason_word, f"folder: {error.strerror}"))


_LISTED: Final[Mapping[bytes, Rejection | None]] = {
    b"": None,
    b"link": ("link", "links are not followed"),
    b"special": ("not-a-regular-file", "a pipe, socket or device"),
}


def _names(folder: bytes, ignored: Counter[str]) -> list[bytes]:
    """Return what matters in a folder, last first; as bytes, for directory entries weigh five times as much.

    Folders end in "/": so sorted, their contents stand where their paths belong. What is rejected has the
    reason behind a NUL, which no name can hold.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(b".") or name.lower() in JUNK:
                ignored["hidden"] += 1
            elif entry.is_dir(follow_symlinks=False):
                names.append(name + b"/")
            elif name in LISTS:
                continue
            elif not is_image_name(name) and _is_linked_folder(entry):
                ignored[LINKED] += 1
            elif not is_image_name(name):
                ignored[Path(os.fsdecode(name)).suffix.lower()] += 1
            elif entry.is_file(follow_symlinks=False):
                names.append(name)
            else:
                names.append(name + (b"\0link" if entry.is_symlink() else b"\0special"))
    names.sort(reverse=True)
    return names


def describe_skipped(ignored: Mapping[str, int]) -> str:
    """Return a line that tells what ``list_folder`` ignored, the commonest first; "" if it all was hidden."""
    counts = {name or "none": n for name, n in ignored.items() if name != "hidden"}
    if not counts:
        return ""
    ranked = [
        f"{printable(name)} {n:,}"
        for name, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    ]
    shown = ", ".join(ranked[:8]) + ", ..." * (len(ranked) > 8)
    return f"passed over what is no image by its name: {shown}"


def _is_linked_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link to itself, or to where we may not look
        return False


_LEAVES: Final = re.compile(r"[/\\]|[A-Za-z]:[/\\]|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)


class PathResolver:
    """Resolves the paths of a list within a folder; remembers which files and folders it has seen.

    ``unique``: a file that is named again is rejected.
    """

    def __init__(self, base: bytes, unique: bool = True) -> None:
        self._base = base
        self._unique = unique
        self._seen: set[bytes] = set()
        self._plain: dict[bytes, bool] = {b"": True}

    def resolve(self, text: str | None) -> tuple[bytes, Rejection | None]:
        """Return an entry's path, and why it cannot be used; ``text`` None stands for no text at all."""
        path = (text or "").encode("utf-8", "surrogatepass")
        if text is None or "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            return path, ("name", "the list's entry is no path")
        if _LEAVES.match(text):
            return path, ("outside-root", "the list's entry leaves its folder")
        path = b"/".join(p for p in path.split(b"/") if p not in {b"", b"."})
        return path, self._rejection(path)

    def _rejection(self, path: bytes) -> Rejection | None:
        if not path:
            return "missing", "the list names no file"
        try:
            if not self._is_plain(path.rpartition(b"/")[0]):
                return "link", "in a linked folder; links are not followed"
            mode = os.lstat(self._base + b"/" + path).st_mode
        except PermissionError as error:
            return "unreadable", str(error.strerror)
        except OSError:
            return "missing", "the list names it"
        if not stat.S_ISREG(mode):
            return (
                ("link", "links are not followed")
                if stat.S_ISLNK(mode)
                else ("not-a-regular-file", "a folder, pipe, socket or device")
            )
        if self._unique and path in self._seen:
            return "duplicate", "the list names it again"
        if self._unique:
            self._seen.add(path)
        return None

    def _is_plain(self, folder: bytes) -> bool:
        """Tell whether no part of a folder's path is a link."""
        if folder not in self._plain:
            ends = [at.start() for at in re.finditer(b"/", folder)] + [len(folder)]
            modes = (os.lstat(self._base + b"/" + folder[:end]).st_mode for end in ends)
            self._plain[folder] = not any(stat.S_ISLNK(mode) for mode in modes)
        return self._plain[folder]


# -------------------------------------------------------------------------------------------- tags
def find_tags(root: bytes, paths: Iterable[bytes]) -> FolderTags | None:
    """Return the tags of a folder's images from the metadata files beside them, None if there are none.

    ``paths`` are those of the images, relative to ``root``. Metadata files are looked for in ``root`` and in the
    folders on the way to an image.
    """
    folders = sorted(_folders_of(paths), key=lambda f: (f.count(b"/"), f))
    lists = []
    for folder in folders:
        names = (folder + name for name in TAG_LISTS)
        lists += [n for n in names if os.path.lexists(os.path.join(root, n))][:1]
    return read_tags(root, lists) if lists else None


def _folders_of(paths: Iterable[bytes]) -> set[bytes]:
    """Return the folders on the way to the images, "" first, each with "/" at its end."""
    found = {b""}
    for path in paths:
        folder = path[: path.rfind(b"/") + 1]
        while folder not in found:
            found.add(folder)
            folder = folder[: folder.rfind(b"/", 0, -1) + 1]
    return found
