"""Sources: where photos come from, and what is known about them before they are read.

A source is a generator of ``Item``: relative paths as bytes, with "/" between their parts, and tags.
What can be told to be unusable without opening a image is an item that is rejected already. Adding a
source: a function of that kind, and a row in ``SOURCES``.
"""

from __future__ import annotations

import datetime
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import UsageError, printable
from img2img_data.images.headers import is_image_name
from img2img_data.sources.mat_file import BadMat, load_struct

Tags = Mapping[str, Any]
Rejection = tuple[str, str]
"""A key of ``errors.REASONS``, and a short free text."""

JUNK: Final = frozenset({b"thumbs.db", b"desktop.ini", b"@eadir", b"__macosx"})
"""Names, in lower case, that operating systems leave behind; passed over like hidden files and folders."""

LINKED: Final = "linked folder"
LISTS: Final = frozenset({b"metadata.jsonl", b"metadata.csv", b"rejected.jsonl", b"selection.json"})
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


def passed_over(ignored: Mapping[str, int]) -> str:
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


# --------------------------------------------------------------------------------------------- wiki
def find_mat(path: Path) -> Path:
    """Return the .mat of an IMDB-WIKI folder: ``path`` itself, or wiki.mat or imdb.mat in it.

    The paths of ``list_wiki`` are relative to its folder. ``UsageError`` if there is none.
    """
    for mat in (path, path / "wiki.mat", path / "imdb.mat"):
        if mat.is_file():
            return mat
    raise UsageError(
        "folder", path, "holds neither wiki.mat nor imdb.mat", "give the folder that does"
    )


def list_wiki(root: Path, ignored: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the photos that an IMDB-WIKI list names, in its order, with what it says about them.

    ``root`` is as for ``find_mat``. The layout is that of https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki.
    Tags, None where the list does not know:

    - ``gender``: "male" or "female"
    - ``person``: the name, else the number at the head of the file's name
    - ``birth``: an ISO date, from a MATLAB day number; ``photo_taken``: a year
    - ``face_score``, ``second_face_score``: of the face detector; None where it found no (second) face.
      A list without such a column gives no such tag.

    Entries that leave the folder, name no file, or name one again are rejected. Nothing outside the folder is
    opened. ``UsageError`` naming the file if the list is damaged or in a format that is not read here.
    """
    mat = find_mat(root)
    table = _wiki_table(mat)
    entries = Entries(os.fsencode(mat.parent))
    for row, text in enumerate(table["full_path"]):
        path, rejected = entries.resolve(text)
        tags = _NO_TAGS if rejected else _wiki_tags(table, row, path)
        yield Item(path, tags, rejected)


def _wiki_tags(table: Mapping[str, Sequence[Any]], row: int, path: bytes) -> Tags:
    tags = {
        tag: read(table[name][row]) for name, (tag, read) in _WIKI_TAGS.items() if name in table
    }
    person = table["name"][row] if "name" in table else ""
    number = path.rpartition(b"/")[2].split(b".")[0].split(b"_")[0]
    return {"person": _storable(person) if person else number.decode(), **tags}


def _storable(text: str) -> str:
    """Replace what no UTF-8 file can hold: halves of surrogate pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _gender(value: float) -> str | None:
    return {1.0: "male", 0.0: "female"}.get(value)


def _score(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _year(value: float) -> int | None:
    return int(value) if 1 <= value <= 9999 else None


_DATENUM_OF_YEAR_1: Final = (
    367  # MATLAB counts days from a year 0; Python from 0001-01-01, which is day 1
)


def _birth(value: float) -> str | None:
    day = value - _DATENUM_OF_YEAR_1 + 1
    if not 1 <= day < datetime.date.max.toordinal() + 1:
        return None
    return datetime.date.fromordinal(int(day)).isoformat()


_WIKI_TAGS: Final[Mapping[str, tuple[str, Callable[[float], Any]]]] = {
    "gender": ("gender", _gender),
    "dob": ("birth", _birth),
    "photo_taken": ("photo_taken", _year),
    "face_score": ("face_score", _score),
    "second_face_score": ("second_face_score", _score),
}
"""Field of the list > tag, and how its number is read."""

_LEAVES: Final = re.compile(r"[/\\]|[A-Za-z]:[/\\]|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)


class Entries:
    """Resolves the paths of a list within a folder; image_pools which files and folders it has seen.

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


def _wiki_table(mat: Path) -> dict[str, list[Any]]:
    """Read the columns of an IMDB-WIKI list, all of one length. ``UsageError`` names the file's fault."""
    try:
        record = load_struct(mat, ("wiki", "imdb"))
        names = record.dtype.names or ()
        for name in ("full_path", "gender"):
            if name not in names:
                raise BadMat(f"has no field '{name}'")
        table: dict[str, list[Any]] = {
            n: _texts(record[n]) for n in ("full_path", "name") if n in names
        }
        table |= {n: _numbers(record[n], n) for n in _WIKI_TAGS if n in names}
        rows = len(table["full_path"])
        for name, column in table.items():
            if len(column) != rows:
                raise BadMat(
                    f"has fields of unequal lengths (full_path {rows}, {name} {len(column)})"
                )
        return table
    except BadMat as bad:
        raise UsageError("list", mat, *bad.args) from None
    except OSError as error:
        raise UsageError(
            "list", mat, error.strerror or "cannot be read", "check the path"
        ) from None


def _texts(column: Any) -> list[str | None]:
    """Return the texts of a column of cells: "" for an empty cell, None for one that holds something else."""
    return [_text(cell) for cell in column.ravel()]


def _text(cell: Any) -> str | None:
    size = getattr(cell, "size", 1)
    if size == 0:
        return ""
    value = cell.ravel()[0] if size == 1 and hasattr(cell, "ravel") else cell
    return str(value) if isinstance(value, str) else None


def _numbers(column: Any, name: str) -> list[float]:
    import numpy as np

    try:
        return [float(v) for v in np.asarray(column, np.float64).ravel()]
    except (TypeError, ValueError):
        raise BadMat(f"has a field '{name}' that is no row of numbers") from None


SOURCES: Final[dict[str, Callable[[Path, Counter[str] | None], Iterator[Item]]]] = {
    "folder": list_folder,
    "wiki": list_wiki,
}
"""Every source by its name: called with the folder, and a counter of passed-over files or None."""
