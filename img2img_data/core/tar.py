"""Tar archives from untrusted sources: only regular files with safe names, the rest rejected.

The standard ``tarfile`` reads the headers and nothing is extracted. Each header is checked before
``tarfile`` acts on it, because it believes the sizes that an archive declares.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from img2img_data.core.errors import ArchiveError, printable

MAX_EXTENSION: Final = 1 << 16
"""Bytes of an extended header: a few names fit, a bomb does not."""

EXTENSIONS: Final = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
FILES: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)
MEMBER_TYPES: Final = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}
BAD_HEADERS: Final = frozenset({"size", "linkpath", "path"})
"""Extended headers that change what a member is; "path" is one only for all members together."""
UNSAFE: Final = "do not use it"


class Member(NamedTuple):
    """A regular file of an archive: name, offset in the archive and size in bytes."""

    name: str
    start: int
    size: int


class _Unsafe(Exception):
    """A header must not be acted on: reason, hint."""


class _CheckedInfo(tarfile.TarInfo):
    """Header that is checked before anything is read or allocated by its numbers."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Process one header; ``_Unsafe`` unless it is a file, a folder or a short extended one.

        This is the method of ``tarfile`` that subclasses may override. (Newer releases of Python do
        not call ``frombuf`` any more.)
        """
        # tarfile reads an extended header at once, whatever size it states, and skips a member by
        # its size, which may be negative.
        if self.size < 0 or (self.type in EXTENSIONS and self.size > MAX_EXTENSION):
            raise _Unsafe(f"a header in it declares {self.size:,} bytes", UNSAFE)
        is_folder = self.type == tarfile.DIRTYPE and not self.size
        if self.type not in (*FILES, *EXTENSIONS) and not is_folder:
            kind = MEMBER_TYPES.get(self.type, "neither a file nor a folder")
            raise _Unsafe(f"'{printable(self.name)}' in it is {kind}", UNSAFE)
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


def members(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar archive, in order; folders are skipped.

    Raises ``ArchiveError`` if the archive is damaged, cut or compressed, or if a member is not a
    regular file with a safe name: not absolute, inside the archive's folder, without a backslash, a
    drive or a control character.
    """
    try:
        with path.open("rb") as file:
            yield from _members(file, file.seek(0, io.SEEK_END))
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise ArchiveError("archive", path, why, "check the path") from None
    except _Unsafe as error:
        raise ArchiveError("archive", path, *error.args) from None
    except (tarfile.TarError, ValueError) as error:
        hint = "download it again; decompress a compressed archive first"
        raise ArchiveError("archive", path, f"is not a plain tar archive ({error})", hint) from None


def _members(file: BinaryIO, end: int) -> Iterator[Member]:
    file.seek(0)
    # GNU archives cut a long name anywhere in the header that follows it, so names are decoded
    # leniently; one that is not UTF-8 is not printable.
    with tarfile.open(fileobj=file, mode="r:", tarinfo=_CheckedInfo, encoding="utf-8") as archive:
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all in memory
            headers = {*info.pax_headers} - {"path"} | {*archive.pax_headers}
            harmful = [h for h in headers if h in BAD_HEADERS or h.startswith("GNU.sparse")]
            if harmful:
                raise _Unsafe(f"a header in it sets {harmful[0]}", UNSAFE)
            if info.offset_data + info.size > end:
                raise _Unsafe(f"ends within '{printable(info.name)}'", "download it again")
            if info.isreg():
                yield Member(_checked_name(info.name), info.offset_data, info.size)
        # tarfile takes a damaged header for the end of the archive, which is a block of zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _Unsafe("is damaged or cut", "download it again")


def content(path: Path, member: Member) -> bytes:
    """Return the bytes of a member. Raises ``ArchiveError`` if the archive ends within it."""
    with path.open("rb") as file:
        file.seek(member.start)
        data = file.read(member.size)
    if len(data) < member.size:
        why = f"ends within '{printable(member.name)}'"
        raise ArchiveError("archive", path, why, "download it again")
    return data


def _checked_name(name: str) -> str:
    """Return a member's name without leading "./"."""
    plain = name.removeprefix("./")
    parts = plain.split("/")
    outside = ".." in parts or not parts[0] or "\\" in name or re.match("[A-Za-z]:", name)
    if outside or not name.isprintable() or "" in parts or "." in parts:
        what = "leads out of the archive" if outside else "is not a plain name"
        raise _Unsafe(f"the name '{printable(name)}' in it {what}", UNSAFE)
    return plain
