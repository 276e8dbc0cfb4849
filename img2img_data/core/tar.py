"""Tar archives, read as if they meant harm and written so that equal content gives equal bytes.

The reader is ours because the standard library's follows whatever a header says: it allocates what an
extended header promises and knows links, devices and sparse files. This one knows regular files, in the
ustar layout of POSIX.1-1988 with the long names of POSIX.1-2001 (pax) and GNU; everything else is rejected. It
yields where members lie and reads no content.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from img2img_data.core.errors import ArchiveError, printable

BLOCK: Final = 512
LONGEST_EXTENSION: Final = 1 << 16
"""Bytes of an extended header: a few names fit, a bomb does not."""

_KINDS: Final[Mapping[bytes, str]] = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"7": "a contiguous file",
    b"S": "a sparse file",
    b"K": "a link with a long name",
    b"V": "a volume label",
    b"M": "part of another archive",
}
_DRIVE: Final = re.compile(r"[A-Za-z]:")
_MENDING: Final = "do not use it"


class Member(NamedTuple):
    """A regular file of an archive: its name, and where its bytes lie in the archive."""

    name: str
    start: int
    size: int


def members(path: Path) -> Iterator[Member]:
    """Yield the regular files of a tar archive, in its order; folders are passed over.

    Raises ``ArchiveError`` for what is damaged, cut, compressed, or no plain file of a harmless name:
    absolute, leaving its folder, with a backslash, a drive or a control character.
    """
    try:
        with path.open("rb") as file:
            yield from _walk(path, file, file.seek(0, io.SEEK_END))
    except OSError as error:
        raise ArchiveError(
            "archive", path, error.strerror or "cannot be read", "check the path"
        ) from None


def _walk(path: Path, file: BinaryIO, end: int) -> Iterator[Member]:
    at, long_name, first = 0, "", True
    while True:
        file.seek(at)
        block = file.read(BLOCK)
        if block == bytes(BLOCK):
            return
        if len(block) < BLOCK:
            raise ArchiveError("archive", path, "is cut or empty", "fetch it again")
        _check_block(path, block, first)
        first, kind, size = False, block[156:157], _number(path, block[124:136])
        name = long_name or _name_of(path, block)
        start, at = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        if start + size > end:
            raise ArchiveError(
                "archive", path, f"ends within '{printable(name)}'", "fetch it again"
            )
        if kind in b"xgL":
            long_name = _extension(path, file, start, size, kind) or (
                "" if kind != b"g" else long_name
            )
            continue
        long_name = ""
        if kind in {b"0", b"\0"} and not name.endswith("/"):
            yield Member(checked_name(path, name), start, size)
        elif kind not in {b"5", b"0", b"\0"} or size:
            what = _KINDS.get(kind, "of an unknown kind")
            raise ArchiveError("archive", path, f"'{printable(name)}' in it is {what}", _MENDING)


def _check_block(path: Path, block: bytes, first: bool) -> None:
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if block[257:262] != b"ustar" or _number(path, block[148:156]) != total:
        what = "is no plain tar archive" if first else "is damaged"
        hint = "a compressed one has to be expanded first" if first else "fetch it again"
        raise ArchiveError("archive", path, what, hint)


def _number(path: Path, digits: bytes) -> int:
    """Return an octal field; the binary form is for sizes from 8 GiB, which no image has."""
    text = digits.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", text):
        raise ArchiveError("archive", path, "is no plain tar archive, or damaged", "fetch it again")
    return int(text or b"0", 8)


def _name_of(path: Path, block: bytes) -> str:
    name, prefix = (block[a:b].partition(b"\0")[0] for a, b in ((0, 100), (345, 500)))
    posix = block[257:263] == b"ustar\0"  # GNU keeps times where POSIX has the prefix
    return _text(path, prefix + b"/" + name if prefix and posix else name)


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ArchiveError(
            "archive", path, f"a name in it is no UTF-8: {printable(data)}", _MENDING
        ) from None


def _extension(path: Path, file: BinaryIO, start: int, size: int, kind: bytes) -> str:
    """Return the name that an extended header gives to the next member, "" if none."""
    if size > LONGEST_EXTENSION:
        raise ArchiveError("archive", path, f"a header in it has {size:,} bytes", _MENDING)
    file.seek(start)
    data = file.read(size)
    if kind == b"L":
        return _text(path, data.rstrip(b"\0"))
    records = dict(_pax_records(path, data))
    harmful = [k for k in records if k in {"size", "linkpath"} or k.startswith("GNU.sparse")]
    if harmful or (kind == b"g" and "path" in records):
        raise ArchiveError(
            "archive", path, f"a header in it sets {(harmful or ['path'])[0]}", _MENDING
        )
    return records.get("path", "")


def _pax_records(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the "LENGTH NAME=VALUE\\n" records of a pax header."""
    while data.strip(b"\0"):
        digits, space, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 6 else 0
        name, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not space or not equals or length > len(data) or data[length - 1 : length] != b"\n":
            raise ArchiveError("archive", path, "a header in it is damaged", "fetch it again")
        yield _text(path, name), _text(path, value)
        data = data[length:]


def content(path: Path, member: Member) -> bytes:
    """Return the bytes of a member."""
    with path.open("rb") as file:
        file.seek(member.start)
        data = file.read(member.size)
    if len(data) < member.size:
        raise ArchiveError(
            "archive", path, f"ends within '{printable(member.name)}'", "fetch it again"
        )
    return data


def checked_name(path: Path, name: str) -> str:
    """Return a member's name without leading "./"; ``ArchiveError`` if it could mean harm."""
    parts = name.removeprefix("./").split("/")
    outside = ".." in parts or not parts[0] or "\\" in name or _DRIVE.match(name)
    if outside or not name.isprintable() or "" in parts or "." in parts:
        what = "leaves the archive's folder" if outside else "is no plain name"
        raise ArchiveError("archive", path, f"the name '{printable(name)}' in it {what}", _MENDING)
    return "/".join(parts)


# --------------------------------------------------------------------------------------- writing
END: Final = bytes(2 * BLOCK)
"""What closes an archive."""


def head(name: str, size: int) -> bytes:
    """Return the header of a regular file: its name and size, no time, no owner, mode 644."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """Return the zeros that fill the last block of ``size`` bytes of content."""
    return bytes(-size % BLOCK)
