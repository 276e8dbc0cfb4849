"""Which way up a image is: the orientation 1..8 in its EXIF, its TIFF tags, its XMP or its PNG texts.

Nothing is followed beyond the first directory, nothing is parsed as XML, no text is unpacked beyond a limit.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from itertools import islice
from typing import Final, Literal

from img2img_data.core.errors import Rejected

MOST_TEXT: Final = 1 << 20
"""Bytes of a compressed text that are looked at."""

MOST_TEXTS: Final = 4
"""Texts that are looked at; an honest file has one."""

XMP_TAG: Final = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
TURNING: Final = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")
"""The keywords of texts that may tell an orientation."""

RAW_PROFILE: Final = re.compile(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]+)")
"""How ImageMagick writes a block into a PNG text: its name, its length, and its bytes in hexadecimal."""


class Directory:
    """The first image directory of a TIFF block: tag > numbers. Nothing is followed beyond it."""

    def __init__(self, block: bytes) -> None:
        self.order: Literal["<", ">"] = "<" if block[:2] == b"II" else ">"
        self.block = block
        if block[:4] not in (b"II*\0", b"MM\0*"):
            raise Rejected("corrupt", "no TIFF block")
        start = self.unpack("I", 4)[0]
        self.entries: dict[int, tuple[int, int, int]] = {}
        for i in range(self.unpack("H", start)[0]):
            tag, kind, count = self.unpack("HHI", start + 2 + 12 * i)
            self.entries.setdefault(tag, (kind, count, start + 10 + 12 * i))

    def unpack(self, layout: str, at: int) -> tuple[int, ...]:
        """Read numbers at an offset; ``struct.error`` behind the end."""
        return struct.unpack_from(self.order + layout, self.block, at)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the unsigned numbers of a tag, at most 16; none where it is missing or of another type."""
        kind, count, at = self.entries.get(tag, (0, 0, 0))
        letter = {1: "B", 3: "H", 4: "I"}.get(kind)
        if letter is None or not count:
            return ()
        if count * struct.calcsize(letter) > 4:
            at = self.unpack("I", at)[0]
        return self.unpack(f"{min(count, 16)}{letter}", at)

    def number(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        return (self.numbers(tag) or (default,))[0]


def tiff_orientation(block: bytes) -> int:
    """Return the orientation 1..8 in a TIFF or EXIF block, with or without prefix; 0 if absent or broken."""
    tiff = block.removeprefix(b"Exif\0\0")
    try:
        value = Directory(tiff).number(274, 0)
    except (Rejected, struct.error):
        return 0
    return value if 1 <= value <= 8 else 0


def xmp_orientation(packet: bytes) -> int:
    """Return the orientation 1..8 in an XMP packet, 0 if absent."""
    found = XMP_TAG.search(packet)
    return int(found[1]) if found else 0


def png_text_orientation(chunks: Iterable[bytes]) -> tuple[int, int]:
    """Return the orientations of EXIF and XMP in PNG text chunks (name and body), 0 where there is none."""
    exif = xmp = 0
    for chunk in islice((c for c in chunks if c.startswith(TURNING, 4)), MOST_TEXTS):
        keyword, _, rest = chunk[4:].partition(b"\0")
        if keyword in (b"Raw profile type exif", b"Raw profile type APP1"):
            raw = RAW_PROFILE.match(_text(chunk[:4], rest))
            digits = b"".join(raw[1].split()) if raw else b""
            exif = exif or tiff_orientation(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()))
        elif keyword == b"XML:com.adobe.xmp":
            xmp = xmp or xmp_orientation(_text(chunk[:4], rest))
    return exif, xmp


def _text(name: bytes, rest: bytes) -> bytes:
    """Return the text behind the keyword of a tEXt, zTXt or iTXt chunk."""
    if name == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        packed, rest = name == b"zTXt", rest[1:] if name == b"zTXt" else rest
    if not packed:
        return rest[:MOST_TEXT]
    try:
        return zlib.decompressobj().decompress(rest, MOST_TEXT)
    except zlib.error:
        return b""
