"""IMDB-WIKI lists: the images that a wiki.mat or imdb.mat names, with their tags."""

from __future__ import annotations

import datetime
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import UsageError
from img2img_data.sources.folder import _NO_TAGS, Item, PathResolver, list_folder
from img2img_data.sources.mat_file import BadMat, load_struct
from img2img_data.sources.tags import Tags


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
    entries = PathResolver(os.fsencode(mat.parent))
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
