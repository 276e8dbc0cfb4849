"""IMDB-WIKI: the images that a wiki.mat or imdb.mat lists, with their tags."""

from __future__ import annotations

import datetime
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import UsageError
from img2img_data.sources.folder import NO_TAGS, Item, PathResolver, Tags, list_folder, storable
from img2img_data.sources.mat_file import read_columns


def find_mat(path: Path) -> Path:
    """Return the .mat of an IMDB-WIKI folder: ``path`` itself, or wiki.mat or imdb.mat in it.

    The paths of ``list_wiki`` are relative to its folder. ``UsageError`` if there is none.
    """
    for mat in (path, path / "wiki.mat", path / "imdb.mat"):
        if mat.is_file():
            return mat
    hint = "give the folder that has one"
    raise UsageError("folder", path, "holds neither wiki.mat nor imdb.mat", hint)


def list_wiki(
    root: Path, ignored: Counter[str] | None = None, follow_links: bool = False
) -> Iterator[Item]:
    """Yield the images of an IMDB-WIKI list, in its order, with their tags.

    ``root`` is as for ``find_mat``. The layout is that of
    https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki. Tags, None if the list does not know:

    - ``gender``: "male" or "female"
    - ``person``: the name, else the number at the start of the file's name
    - ``birth``: an ISO date; ``photo_taken``: a year
    - ``face_score``, ``second_face_score``: of the face detector, None if it found no (second) face

    A list without such a column gives no such tag. Entries that leave the folder, name no file, or
    name one again are rejected. Nothing outside the folder is opened. ``UsageError`` names the file
    if the list is damaged or in an unsupported format.
    """
    mat = find_mat(root)
    columns = _read_list(mat)
    resolver, seen = PathResolver(os.fsencode(mat.parent), follow_links), set[bytes]()
    for row, text in enumerate(columns["full_path"]):
        path, rejected = resolver.resolve(text if isinstance(text, str) else None)
        if rejected is None and path in seen:
            rejected = "duplicate", "the list names it twice"
        seen.add(path)
        yield Item(path, NO_TAGS if rejected else _tags_of(columns, row, path), rejected)


def _read_list(mat: Path) -> dict[str, list[Any]]:
    """Return the columns of a list, all of one length; ``UsageError`` names the file."""
    hint = "download it again"
    columns = read_columns(mat, ("wiki", "imdb"), ("full_path", "name", *_NUMBERS))
    for name in ("full_path", "gender"):
        if name not in columns:
            raise UsageError("list", mat, f"has no field '{name}'", hint)
    rows = len(columns["full_path"])
    for name, column in columns.items():
        if name in _NUMBERS and not all(isinstance(value, float) for value in column):
            raise UsageError("list", mat, f"has a field '{name}' that is not numeric", hint)
        if len(column) != rows:
            lengths = f"full_path {rows}, {name} {len(column)}"
            raise UsageError("list", mat, f"has fields of unequal lengths ({lengths})", hint)
    return columns


def _tags_of(columns: Mapping[str, Sequence[Any]], row: int, path: bytes) -> Tags:
    numbers = {
        tag: read(columns[name][row]) for name, (tag, read) in _NUMBERS.items() if name in columns
    }
    person = columns["name"][row] if "name" in columns else ""
    number = path.rpartition(b"/")[2].split(b".")[0].split(b"_")[0]
    return {"person": storable(person) if person else number.decode(), **numbers}


def _birth(value: float) -> str | None:
    # MATLAB counts days from the year 0, Python from 0001-01-01, which is MATLAB's day 367.
    day = value - 366
    if not 1 <= day < datetime.date.max.toordinal() + 1:
        return None
    return datetime.date.fromordinal(int(day)).isoformat()


def _score(value: float) -> float | None:
    # A face that was not found has the score -Inf, a second one NaN.
    return round(value, 6) if math.isfinite(value) else None


_NUMBERS: Final[Mapping[str, tuple[str, Callable[[float], Any]]]] = {
    "gender": ("gender", {1.0: "male", 0.0: "female"}.get),
    "dob": ("birth", _birth),
    "photo_taken": ("photo_taken", lambda year: int(year) if 1 <= year <= 9999 else None),
    "face_score": ("face_score", _score),
    "second_face_score": ("second_face_score", _score),
}
"""Numeric field of the list: the tag, and the function that reads its value."""


SOURCES: Final[dict[str, Callable[[Path, Counter[str] | None], Iterator[Item]]]] = {
    "folder": list_folder,
    "wiki": list_wiki,
}
"""Every source by name, called with a folder and a counter of skipped files or None."""
