"""MATLAB's .mat files, version 5 to 7: one struct out of a file that nobody vouches for.

scipy reads it, but sees only bytes whose declared sizes were found to agree with what is there, so its memory
is bounded by theirs. Nothing in a .mat is run.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_MAX_MAT_BYTES: Final = 256 << 20  # imdb.mat unpacks to about 140
_MAX_ARRAYS: Final = 4_000_000  # one for each cell; the 460,723 rows of imdb.mat have 1.4 million
_MAX_DEPTH: Final = 8

_MATRIX: Final = 14
_COMPRESSED: Final = 15
_FLAGS: Final = 6
_SIZES: Final = 5
_CELL: Final = 1
_STRUCT: Final = 2
_TEXT: Final = 4
_UTF16: Final = frozenset({4, 17})
_SURROGATES: Final = bytes(range(0xD8, 0xE0))
_PLAIN_CLASSES: Final = frozenset({4, *range(6, 16)})  # text and numbers; 5 would be sparse
_COMPLEX: Final = 0x0800
_ITEM_SIZES: Final[Mapping[int, int]] = {
    1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4,
}  # fmt: skip


class BadMat(Exception):
    """A list that cannot be used: what is wrong with it, and the way out."""

    def __init__(self, why: str, hint: str = "get it anew") -> None:
        super().__init__(why, hint)


def load_struct(mat: Path, names: Sequence[str]) -> Any:
    """Return the first struct of these names in a .mat, as a NumPy record.

    scipy gets the bytes of that variable alone, unpacked, and only when ``_MatCheck`` has found the sizes
    declared in them to be true; so its memory is bounded by the file's. It runs nothing that a .mat holds.
    """
    import warnings

    from scipy.io import loadmat

    with mat.open("rb") as opened:
        data = opened.read(_MAX_MAT_BYTES + 1)
    order = _byte_order(data)
    name, element = _find_variable(data, order, names)
    content = bytearray(data[:128]) + element
    _MatCheck(content, order).check(136, len(content))
    load: Any = loadmat  # its stubs know neither open files nor codecs
    codec = "utf-16-le" if order == "<" else "utf-16-be"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = load(io.BytesIO(content), variable_names=[name], uint16_codec=codec)[name]
        record = loaded.ravel()[0]
    except Exception as error:  # scipy raises whatever it trips over
        raise BadMat(f"is damaged ({type(error).__name__} in '{name}')") from None
    if loaded.dtype.names is None:
        raise BadMat(f"has a variable '{name}' that is no struct")
    return record


def _byte_order(data: bytes) -> str:
    """Return the ``struct`` sign of a .mat's byte order, once its header is found to be one that is read."""
    if len(data) > _MAX_MAT_BYTES:
        raise BadMat(f"is larger than {_MAX_MAT_BYTES >> 20} MiB")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128], "")
    version = struct.unpack(order + "H", data[124:126])[0] if order else 0
    if version == 0x0200 or data[:4] == b"\x89HDF":
        raise BadMat("is a MATLAB 7.3 (HDF5) file", "save it in MATLAB with the option -v7")
    if version != 0x0100:
        raise BadMat("is no MATLAB 5 to 7 file")
    return order


def _find_variable(data: bytes, order: str, names: Sequence[str]) -> tuple[str, bytes]:
    """Return the first variable of these names, and its element with the tag, unpacked."""
    at = 128
    while at < len(data):
        kind, start, end, after = _tag(data, order, at, len(data))
        if kind not in (_MATRIX, _COMPRESSED):
            raise BadMat("is damaged (no variable where one should begin)")
        packed = kind == _COMPRESSED
        head = _unpacked(data[start:end], 4096) if packed else data[at:end]
        name = _MatCheck(head, order).head(8, len(head))[2]
        if name in names:
            element = (
                _unpacked(data[start:end], _MAX_MAT_BYTES, whole=True) if packed else data[at:end]
            )
            kind, _, end, _ = _tag(element, order, 0, len(element))
            if kind != _MATRIX:
                raise BadMat("is damaged (packed data that are no array)")
            return name, element[:end]
        at = end if packed else after
    raise BadMat(f"has no variable '{names[0]}'")


def _unpacked(packed: bytes, limit: int, whole: bool = False) -> bytes:
    """Return what zlib data unpack to, up to ``limit`` bytes; ``whole``: ``BadMat`` unless that is all."""
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(packed, limit)
    except zlib.error:
        raise BadMat("is damaged (packed data)") from None
    if whole and not unpack.eof:
        more = len(data) == limit
        raise BadMat(f"unpacks to more than {limit >> 20} MiB" if more else "is cut short")
    return data


def _tag(data: bytes | bytearray, order: str, at: int, limit: int) -> tuple[int, int, int, int]:
    """Return type, start and end of the element at ``at``, and the next one's place; it ends by ``limit``."""
    if at + 8 > limit:
        raise BadMat("is cut short")
    kind, size = struct.unpack_from(order + "II", data, at)
    start, after = at + 8, at + 8 + size + -size % 8
    if (
        kind >> 16
    ):  # a small element: type and size share the first word, its data follow within the tag
        kind, size, start, after = kind & 0xFFFF, min(kind >> 16, 4), at + 4, at + 8
    if start + size > limit:
        raise BadMat("is cut short")
    return kind, start, start + size, after


@dataclass(slots=True)
class _MatCheck:
    """Walks through a variable of a .mat and finds whether it holds as much as it declares.

    Cells, structs, text and real numbers pass; objects, functions, sparse and complex arrays do not. Halves
    of surrogate pairs in UTF-16 text become U+FFFD, for scipy counts characters where there are two units.
    """

    data: bytes | bytearray
    order: str
    arrays: int = 0

    def check(self, at: int, limit: int, depth: int = 0) -> None:
        """Check the array whose content lies between ``at`` and ``limit``; raises ``BadMat``."""
        self.arrays += 1
        if self.arrays > _MAX_ARRAYS or depth > _MAX_DEPTH:
            raise BadMat("holds too many arrays, or too deep ones")
        if at == limit:
            return  # an empty cell
        flags, count, _, at = self.head(at, limit)
        kind = flags & 0xFF
        if kind == _STRUCT:
            fields, at = self._fields(at, limit)
            count *= fields
        if kind in (_STRUCT, _CELL):
            self._check_cells(at, limit, count, depth)
        elif kind in _PLAIN_CLASSES and not flags & _COMPLEX:
            numbers, start, end, _ = _tag(self.data, self.order, at, limit)
            if count * _ITEM_SIZES.get(numbers, limit + 1) > end - start:
                raise BadMat("is damaged (an array with fewer items than it declares)")
            if kind == _TEXT and numbers in _UTF16:
                self._mend_text(start, end)
        else:
            raise BadMat("holds arrays of a class that no such list has")

    def head(self, at: int, limit: int) -> tuple[int, int, str, int]:
        """Return an array's flags, its number of items, its name, and where the rest of it begins."""
        kind, start, end, after = _tag(self.data, self.order, at, limit)
        if kind != _FLAGS or end - start != 8:
            raise BadMat("is damaged (an array without flags)")
        flags = struct.unpack_from(self.order + "I", self.data, start)[0]
        kind, start, end, after = _tag(self.data, self.order, after, limit)
        if kind != _SIZES or end - start not in range(8, 36, 4):
            raise BadMat("is damaged (an array without size)")
        sizes = struct.unpack_from(f"{self.order}{(end - start) // 4}i", self.data, start)
        if min(sizes) < 0:
            raise BadMat("is damaged (an array of negative size)")
        _, start, end, after = _tag(self.data, self.order, after, limit)
        return (
            flags,
            math.prod(sizes),
            self.data[start : min(end, start + 64)].decode("latin-1"),
            after,
        )

    def _mend_text(self, start: int, end: int) -> None:
        high = self.data[start + (self.order == "<") : end : 2]
        if len(high.translate(None, _SURROGATES)) < len(high):
            for number, byte in enumerate(high):
                if byte in _SURROGATES:
                    struct.pack_into(self.order + "H", self.data, start + 2 * number, 0xFFFD)

    def _fields(self, at: int, limit: int) -> tuple[int, int]:
        """Return how many fields a struct has, and where its values begin."""
        _, start, end, after = _tag(self.data, self.order, at, limit)
        width = struct.unpack_from(self.order + "i", self.data, start)[0] if end - start == 4 else 0
        _, start, end, after = _tag(self.data, self.order, after, limit)
        if not 0 < width <= 4096:
            raise BadMat("is damaged (a struct without fields)")
        return (end - start) // width, after

    def _check_cells(self, at: int, limit: int, count: int, depth: int) -> None:
        if count > (limit - at) // 8:
            raise BadMat("is damaged (fewer cells than it declares)")
        for _ in range(count):
            kind, start, end, at = _tag(self.data, self.order, at, limit)
            if kind != _MATRIX:
                raise BadMat("is damaged (a cell without array)")
            self.check(start, end, depth + 1)
