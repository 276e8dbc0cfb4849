"""Headers of image files: format, size, orientation and sample layout, before decoding.

A few dozen bytes decide whether a file is an image, of which format and size, and how it must be
decoded, so that no decoder ever allocates memory for a false size, warns about a comment or expands
a text chunk. Whatever is wrong raises ``Rejected``.

Formats: JPEG (ITU T.81), PNG (W3C, third edition), WebP (RFC 9649), GIF89a, BMP, TIFF 6.0, binary
PGM and PPM (netpbm); by Pillow AVIF, HEIC, JPEG 2000, TGA, QOI and ICO. Files of the first three
may be published byte for byte, so the parsers also find out whether a file holds anything besides
the image. Of BMP and TIFF they reject the layouts that no decoder here reads rightly.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import islice, takewhile
from typing import Any, Final, Literal

from img2img_data.core.errors import Rejected, install_hint
from img2img_data.core.memory import lacks_memory

IMAGE_EXTENSIONS: Final = frozenset(
    b"jpg jpeg jpe jfif png bmp dib webp tif tiff gif ppm pgm pbm pnm mpo jp2 j2k j2c jpc jpf jpx "
    b"avif avifs heic heics heif heifs hif tga qoi ico jxl psd exr hdr".split()
)
"""Extensions, in lower case, by which a folder's images are found. Not all formats are read; a file
of another format becomes a rejected row instead of a silent gap."""


@dataclass(slots=True)
class Header:
    """Facts about an image file that are known before decoding.

    ``width``, ``height``: pixels as stored, before the orientation is applied. ``exif``, ``xmp``:
    the orientations 1..8 that those blocks state, 0 if they do not. ``plain``: the file holds gray,
    RGB or RGBA samples and nothing else: no metadata, profile, trailer. ``alpha``: meaning of the
    decoder's fourth channel; ``clear``: the gray level that means transparent. ``as_color``:
    ask the decoder for BGR instead of the stored samples. ``data``: bytes for the decoder in place
    of the file, unless empty. ``min_bytes``: length of an uncut file. ``raster`` of a PGM or PPM:
    offset of the samples, samples per pixel, maximum value; of a BMP with ``masks`` (bit fields of
    blue, green, red and perhaps alpha): offset, bits per pixel, 1 if its first row is the top one.
    ``frames``: number of frames or pages, of which the first is read.
    """

    format: str
    width: int = 0
    height: int = 0
    exif: int = 0
    xmp: int = 0
    plain: bool = False
    alpha: Literal["none", "straight", "premultiplied"] = "none"
    clear: int | None = None
    as_color: bool = False
    notes: set[str] = field(default_factory=set)
    data: bytes = b""
    min_bytes: int = 0
    masks: tuple[int, ...] = ()
    raster: tuple[int, int, int] = (0, 0, 0)
    frames: int = 1

    @property
    def orientation(self) -> int:
        """Orientation 1..8 as EXIF defines it: stated by EXIF, else by XMP."""
        return self.exif or self.xmp or 1


def is_image_name(name: bytes) -> bool:
    """Return True if a file name ends in the extension of an image format, in any case."""
    return b"." in name and name.lower().rpartition(b".")[2] in IMAGE_EXTENSIONS


OTHER_FORMATS: Final = {
    "BigTIFF": rb"II\+\0|MM\0\+",
    "JPEG XR": rb"II\xbc",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PSD": rb"8BPS",
    "a text or float PNM": rb"P[1-7][\s#]|P[Ff]\s",
    "Radiance HDR": rb"#\?RADIANCE|#\?RGBE",
    "OpenEXR": rb"v/1\x01",
    "DDS": rb"DDS ",
    "CUR, MNG, ILBM, ICNS, XCF, FITS or BLP": (
        rb"\0\0\x02\0[^\0]|[\x8a\x8b][MJ]NG|FORM....ILBM|icns|gimp xcf|SIMPLE  =|BLP[12]"
    ),
}
"""First bytes of formats that are not read, by name."""


def read_header(data: bytes) -> Header:
    """Return the header of ``data``, the content of one file.

    Raises ``Rejected``: empty, not-an-image, truncated, corrupt, unsupported-format,
    unsupported-depth.
    """
    for signature, parse in PARSERS.items():  # the content decides, never the name
        if re.match(signature, data, re.DOTALL):
            found = parse(data)
            found.notes |= {"first-frame"} if found.frames > 1 else set()
            return found
    for name, signature in OTHER_FORMATS.items():
        if re.match(signature, data, re.DOTALL):
            raise Rejected("unsupported-format", f"{name} is not supported; convert it to PNG")
    raise Rejected("not-an-image" if data else "empty")


# ------------------------------------------------------------------------------------------- JPEG
MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
XMP_SEGMENT: Final = b"http://ns.adobe.com/xap/1.0/\0"
# Between scans only restarts, Huffman tables, scan headers and restart intervals may come.
AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xc4\xda\xdb\xdd\xff]")
BARE_MARKERS: Final = frozenset((1, *range(0xD0, 0xD9)))
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LOSSLESS_FRAMES: Final = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
SCAN: Final = 0xDA
# A progressive file of a few kilobytes can hold thousands of scans, each a pass over all pixels.
MAX_MARKERS, MAX_SCANS = 10_000, 1_000


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield marker, start, start of the body and end of each segment up to the first scan header.

    A marker without a body has a body that starts at its end.
    """
    end = 2
    for _ in range(MAX_MARKERS):
        found = MARKER.search(data, end)
        body = found.end() if found else len(data)
        if body + 2 > len(data):
            raise Rejected("truncated", "the file ends before the image begins")
        marker = data[body - 1]
        has_body = marker not in BARE_MARKERS
        size = data[body] << 8 | data[body + 1] if has_body else 0
        if marker == 0xD9 or (has_body and size < 2):
            raise Rejected("corrupt", "a marker out of place")
        end = body + size
        if end > len(data):
            raise Rejected("truncated", "the file ends before the image begins")
        yield marker, body - 2, body + 2 if has_body else end, end
        if marker == SCAN:
            return
    raise Rejected("corrupt", f"more than {MAX_MARKERS:,} markers before the image")


def jpeg_header(data: bytes) -> Header:
    """Read size, components, orientation and profile from the segments before the first scan."""
    found = Header("jpeg", plain=True)
    frame, last = 0, 2
    for marker, start, body, end in _jpeg_segments(data):
        # Bytes between segments are junk, which a file that is published as it is must not hold.
        found.plain &= start == last and body != end
        last = end
        if marker in FRAMES:
            frame = marker
            _read_jpeg_frame(found, frame, data[body:end])
        elif marker >= 0xE0:
            _read_jpeg_application(found, marker, data[body:end])
    if not frame:
        raise Rejected("corrupt", "a scan without a frame")
    if frame == 0xC2 and data.count(b"\xff\xda", last) > MAX_SCANS:
        raise Rejected("corrupt", "a progressive image with too many scans")
    if found.plain:
        after = AFTER_SCAN.search(data, last)
        found.plain = after is not None and data[after.start() :] == b"\xff\xd9"
    return found


def _read_jpeg_frame(found: Header, frame: int, body: bytes) -> None:
    if len(body) < 6:
        raise Rejected("corrupt", "a frame header too short")
    precision, found.height, found.width, components = struct.unpack(">BHHB", body[:6])
    if precision != 8:
        reason = "unsupported-depth" if frame != 0xC0 else "corrupt"
        raise Rejected(reason, f"{precision} bits per sample")
    if frame in LOSSLESS_FRAMES:
        raise Rejected("unsupported-format", "lossless JPEG")
    found.notes |= {1: {"gray"}, 4: {"cmyk"}}.get(components, set())
    found.plain &= components in (1, 3) and frame in (0xC0, 0xC1, 0xC2)


def _read_jpeg_application(found: Header, marker: int, body: bytes) -> None:
    if marker == 0xE1 and body.startswith(b"Exif\0"):
        found.exif = found.exif or exif_orientation(body)
    elif marker == 0xE1 and body.startswith(XMP_SEGMENT):
        found.xmp = found.xmp or xmp_orientation(body)
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        found.notes.add("profile")
    jfif = marker == 0xE0 and len(body) == 14 and body.startswith(b"JFIF\0")
    adobe = marker == 0xEE and len(body) == 12 and body.startswith(b"Adobe")
    found.plain &= jfif or adobe


def strip_jpeg(data: bytes) -> bytes:
    """Return a JPEG without metadata and junk before its first scan; coded data are untouched."""
    kept = [data[:2]]
    for marker, start, body, end in _jpeg_segments(data):
        if marker == SCAN:
            kept.append(data[start:])
        elif body != end and (marker < 0xE0 or marker in (0xE0, 0xEE)):
            kept.append(data[start:end])
    return b"".join(kept)


# -------------------------------------------------------------------------------------------- PNG
PNG_COLOR_TYPES: Final = frozenset((0, 2, 3, 4, 6))
PNG_PIXELS: Final = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
PNG_TEXTS: Final = frozenset((b"tEXt", b"zTXt", b"iTXt"))
PNG_HARMLESS: Final = frozenset((b"IHDR", b"IDAT", b"IEND", b"sRGB", b"pHYs"))


def png_header(data: bytes) -> Header:
    """Read the chunks; ``data`` of the result keeps only those that make pixels.

    Text and profile chunks would be expanded by libpng, whatever they hold.
    """
    chunks = _png_chunks(data)
    # Reversed, so that the first of several chunks of one name counts.
    body = {name: chunk[8:-4] for name, chunk in reversed(chunks)}
    names = body.keys()
    if chunks[0][0] != b"IHDR" or len(body[b"IHDR"]) != 13:
        raise Rejected("corrupt", "PNG without its header chunk")
    width, height, depth, color, *_ = struct.unpack(">IIBBBBB", body[b"IHDR"])
    # The 5th bit of the first letter tells whether a decoder may skip a chunk.
    if unknown := {n for n in names - PNG_PIXELS if n[0] & 0x20 == 0}:
        raise Rejected("unsupported-format", f"critical chunk {min(unknown)!r}")
    if color not in PNG_COLOR_TYPES or depth not in (1, 2, 4, 8, 16):
        raise Rejected("corrupt", f"color type {color}, depth {depth}")
    found = Header("png", width, height, exif_orientation(bytes(body.get(b"eXIf", b""))))
    ends = 8 + sum(len(chunk) for _, chunk in chunks) == len(data)
    found.plain = color in (0, 2, 6) and depth >= 8 and names <= PNG_HARMLESS and ends
    if color in (4, 6) or (color in (2, 3) and b"tRNS" in names):
        found.alpha = "straight"
    elif b"tRNS" in names and len(body[b"tRNS"]) == 2:
        level = int.from_bytes(body[b"tRNS"], "big") & (1 << depth) - 1
        found.clear = level if depth == 16 else level * 255 // ((1 << depth) - 1)
    if not found.exif and names & PNG_TEXTS:
        texts = (bytes(chunk[4:-4]) for name, chunk in chunks if name in PNG_TEXTS)
        found.exif, found.xmp = png_text_orientation(texts)
    found.notes |= {0: {"gray"}, 3: {"palette"}, 4: {"gray"}}.get(color, set())
    found.notes |= {"profile"} if b"iCCP" in names else set()
    if b"acTL" in names:
        order = [name for name, _ in chunks]
        # An image before the first frame control is for readers without animation.
        still = b"fcTL" not in takewhile(b"IDAT".__ne__, order)
        found.frames = order.count(b"fcTL") + still
    if not names <= PNG_PIXELS:
        found.data = data[:8] + b"".join(chunk for name, chunk in chunks if name in PNG_PIXELS)
    return found


def _png_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """Return name and bytes of every chunk up to IEND."""
    chunks, rest = list[tuple[bytes, memoryview]](), memoryview(data)[8:]
    while len(rest) >= 12:
        size, name = 12 + int.from_bytes(rest[:4], "big"), bytes(rest[4:8])
        if size > len(rest):
            break
        chunks.append((name, rest[:size]))
        if name == b"IEND":
            return chunks
        rest = rest[size:]
    raise Rejected("truncated", "the file ends before its last chunk")


# ------------------------------------------------------------------------------------------- WebP
def webp_header(data: bytes) -> Header:
    """Read the RIFF chunks: size of canvas or frame, alpha, animation, profile, orientation."""
    size = int.from_bytes(data[4:8], "little") + 8
    found, at, first, frames = Header("webp", min_bytes=size), 12, b"", 0
    while at + 8 <= min(size, len(data)):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + min(length, 1 << 16)]
        if at + 8 + length > size:
            raise Rejected("corrupt", "a chunk longer than the file")
        if not first:
            first = name
            _read_webp_frame(found, name, body)
        elif name == b"EXIF":
            found.exif = exif_orientation(body)
        elif name == b"XMP ":
            found.xmp = xmp_orientation(body)
        frames += name == b"ANMF"
        at += 8 + length + length % 2
    found.frames = max(1, frames)
    found.plain = first in (b"VP8 ", b"VP8L") and at == len(data) == size
    return found


def _read_webp_frame(found: Header, name: bytes, body: bytes) -> None:
    if name == b"VP8X" and len(body) >= 10:
        found.width = int.from_bytes(body[4:7], "little") + 1
        found.height = int.from_bytes(body[7:10], "little") + 1
        found.alpha = "straight" if body[0] & 0x10 else "none"
        found.notes |= {"profile"} if body[0] & 0x20 else set()
    elif name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        found.width, found.height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        found.alpha = "straight" if bits >> 28 & 1 else "none"
    elif name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        width, height = struct.unpack("<HH", body[6:10])
        found.width, found.height = width & 0x3FFF, height & 0x3FFF
    else:
        raise Rejected("corrupt", "WebP without a frame")


# ------------------------------------------------------------------------------------- GIF and BMP
MAX_BLOCKS: Final = 100_000
"""Blocks of a GIF, and pages of a TIFF, that are looked at to count frames."""


def gif_header(data: bytes) -> Header:
    """Read the size of the logical screen, and count the frames."""
    if len(data) < 14:
        raise Rejected("truncated", "the file ends before the image begins")
    width, height = struct.unpack("<HH", data[6:10])
    at, frames = 13 + _gif_palette_bytes(data[10]), 0
    for _ in range(MAX_BLOCKS):
        kind = data[at : at + 1]
        if kind not in (b"!", b",") or at + 10 > len(data):
            break
        frames += kind == b","
        at += 2 if kind == b"!" else 11 + _gif_palette_bytes(data[at + 9])
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return Header("gif", width, height, notes={"palette"}, frames=max(1, frames))


def _gif_palette_bytes(flags: int) -> int:
    return 6 << (flags & 7) if flags & 0x80 else 0


BMP_PACKINGS: Final = {4: "JPEG data or runs", 5: "PNG data", 11: "CMYK", 12: "CMYK", 13: "CMYK"}
DEFAULT_FIELDS: Final = struct.pack("<III", 0x7C00, 0x3E0, 0x1F)


def bmp_header(data: bytes) -> Header:
    """Read size and layout from a Windows or OS/2 bitmap header.

    Not by Pillow: it does not read every bit field, and does not tell that the pixels overlap the
    palette.
    """
    if len(data) < 54:
        raise Rejected("truncated" if len(data) > 5 else "not-an-image")
    offset, length = struct.unpack("<II", data[10:18])
    packing = colors = 0
    if length == 12:
        width, height, _, bits = struct.unpack("<HHHH", data[18:26])
    elif length in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, packing = struct.unpack("<iiHHI", data[18:34])
        colors = int.from_bytes(data[46:50], "little")
    else:
        reason = "unsupported-format" if length == 16 else "not-an-image"
        raise Rejected(reason, f"a bitmap header of {length} bytes")
    if packing in BMP_PACKINGS or bits == 2 or (packing, bits) == (3, 1):  # 3, 1: a fax of OS/2
        why = BMP_PACKINGS.get(packing, f"{bits} bits per pixel, packing {packing}")
        raise Rejected("unsupported-format", f"a bitmap of {why}")
    if width < 0 or bits not in (1, 4, 8, 16, 24, 32):
        raise Rejected("corrupt", f"width {width}, {bits} bits per pixel")
    found = Header("bmp", width, abs(height), as_color=True)
    if bits <= 8:
        found.notes.add("palette")
        palette = 6 if length == 12 else 4 * min(colors or 1 << bits, 1 << bits)
        if offset < 14 + length + palette:
            raise Rejected("corrupt", "the pixels begin inside the palette")
    if bits >= 16 or packing in (0, 3, 6):  # only palette images are compressed
        found.min_bytes = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if bits == 16 or (packing in (3, 6) and bits == 32):
        found.raster = offset, bits, int(height < 0)
        end = 70 if length >= 56 or (packing, length) == (6, 40) else 66
        _read_bit_fields(found, data[54:end] if packing else DEFAULT_FIELDS)
    return found


def _read_bit_fields(found: Header, fields: bytes) -> None:
    """Read the masks of red, green, blue and alpha; 0 means without alpha."""
    red, green, blue, alpha = struct.unpack("<4I", fields.ljust(16, b"\0"))
    found.masks = (blue, green, red, alpha) if alpha else (blue, green, red)
    found.alpha = "straight" if alpha else "none"
    for mask in found.masks:
        top = mask // (mask & -mask or 1)
        if not mask or mask >> found.raster[1] or top & (top + 1) or top >= 1 << 16:
            raise Rejected("unsupported-format", f"a bitmap with the bit field {mask:#x}")


# ------------------------------------------------------------------------------------------- TIFF
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION = 256, 257, 258, 259, 262, 274
SAMPLES_PER_PIXEL, PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT, PROFILE = 277, 284, 338, 339, 34675
COMPRESSIONS: Final = frozenset((1, 2, 3, 4, 5, 7, 8, 32773, 32946))
PHOTOMETRICS: Final = {0: {"gray"}, 1: {"gray"}, 2: set(), 3: {"palette"}, 5: {"cmyk"}, 6: set()}
SAMPLE_FORMATS: Final = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
NUMBER_TYPES: Final = {1: "B", 3: "H", 4: "I"}


class Directory:
    """First directory of a TIFF or EXIF block; ``struct.error`` if it is cut.

    Not by Pillow: it gives up at the first value that is out of the file, and of two entries of one
    tag it believes the last, OpenCV the first.
    """

    def __init__(self, block: bytes) -> None:
        self.block, self.order = block, "<" if block[:2] == b"II" else ">"
        if block[:4] not in (b"II*\0", b"MM\0*"):
            raise struct.error("not a TIFF block")
        self.start = self.unpack("I", 4)[0]
        start, self.end = self.start + 2, self._end(self.start)
        self.entries: dict[int, int] = {}
        for at in range(start, self.end, 12):
            self.entries.setdefault(self.unpack("HHI", at)[0], at)

    def _end(self, start: int) -> int:
        """Return the offset behind the entries of a directory, where the next one is named."""
        return start + 2 + 12 * self.unpack("H", start)[0]

    def pages(self) -> int:
        """Return the number of directories; those that are out of the file end the count."""
        following, seen = self.unpack("I", self.end)[0], {0, self.start}
        with contextlib.suppress(struct.error):
            while following not in seen and len(seen) < MAX_BLOCKS:
                seen.add(following)
                following = self.unpack("I", self._end(following))[0]
        return len(seen) - 1

    def unpack(self, layout: str, at: int) -> tuple[int, ...]:
        """Return the numbers at an offset."""
        return struct.unpack_from(self.order + layout, self.block, at)

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return the unsigned numbers of a tag, at most 16, none if missing or of another type."""
        if tag not in self.entries:
            return ()
        at = self.entries[tag] + 8
        kind, count = self.unpack("HI", at - 6)
        letter = NUMBER_TYPES.get(kind)
        if letter is None or not count:
            return ()
        if count * struct.calcsize(letter) > 4:
            at = self.unpack("I", at)[0]
        return self.unpack(f"{min(count, 16)}{letter}", at)

    def first(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        return (self.numbers(tag) or (default,))[0]

    def orientation(self) -> int:
        """Return the orientation 1..8, 0 if it is absent or another number."""
        value = self.first(ORIENTATION, 0)
        return value if 1 <= value <= 8 else 0


def tiff_header(data: bytes) -> Header:
    """Read size and sample layout; reject layouts that OpenCV reads wrongly."""
    try:
        tags = Directory(data)
        found = Header("tiff", tags.first(WIDTH, 0), tags.first(HEIGHT, 0), tags.orientation())
        compression = tags.first(COMPRESSION, 1)
        if compression not in COMPRESSIONS:
            why = f"TIFF compressed by {_name_of(COMPRESSION, compression)}"
            raise Rejected("unsupported-format", why)
        _check_tiff_layout(found, tags)
        found.frames = tags.pages()
    except struct.error:
        raise Rejected("truncated", "the file ends before its directory") from None
    found.notes |= {"profile"} if PROFILE in tags.entries else set()
    if found.orientation != 1:
        # OpenCV's TIFF decoder applies the orientation in some versions, whatever it is told: set
        # it to 1.
        at = tags.entries[ORIENTATION]
        upright = struct.pack(tags.order + "HHIHH", ORIENTATION, 3, 1, 1, 0)
        found.data = data[:at] + upright + data[at + len(upright) :]
    return found


def _check_tiff_layout(found: Header, tags: Directory) -> None:
    """Decide how the samples are decoded."""
    depths = set(tags.numbers(BITS) or (1,))
    formats = set(tags.numbers(SAMPLE_FORMAT) or (1,))
    photometric, planar = tags.first(PHOTOMETRIC, -1), tags.first(PLANAR, 1) != 1
    samples = tags.first(SAMPLES_PER_PIXEL, len(tags.numbers(BITS)) or 1)
    depth = min(depths)
    if (depths, formats) not in (({1}, {1}), ({8}, {1}), ({16}, {1}), ({32}, {3})):
        words = " and ".join(SAMPLE_FORMATS.get(f, f"format {f}") for f in sorted(formats))
        bits = " and ".join(map(str, sorted(depths)))
        raise Rejected("unsupported-depth", f"TIFF, {bits} bits per sample, {words}")
    layout = f"TIFF, {_name_of(PHOTOMETRIC, photometric)}, {samples} samples per pixel"
    if samples > 4 or photometric not in PHOTOMETRICS or (photometric == 2 and samples < 3):
        raise Rejected("unsupported-format", layout)
    if depth > 8 and (planar or (photometric, samples) not in ((1, 1), (2, 3), (2, 4))):
        planes = ", stored plane by plane" if planar else ""
        raise Rejected("unsupported-format", f"{layout} of {depth} bits{planes}")
    extra = tags.first(EXTRA_SAMPLES, 2)
    has_alpha = photometric == 2 and samples == 4 and extra in (1, 2)
    found.as_color = depth <= 8 and not has_alpha
    if has_alpha:
        # OpenCV multiplies 8-bit samples by their alpha only if the file says that this is to be
        # done.
        multiplied = extra == 1 or (depth == 8 and EXTRA_SAMPLES in tags.entries)
        found.alpha = "premultiplied" if multiplied else "straight"
    found.notes |= PHOTOMETRICS[photometric]


def _name_of(tag: int, value: int) -> str:
    """Return the name of a tag's value, as in "CIELab"; the number if it has none."""
    from PIL import TiffTags

    names = {number: name for name, number in TiffTags.lookup(tag).enum.items()}
    return names.get(value, f"{TiffTags.lookup(tag).name} {value}")


# ------------------------------------------------------------------------------------ PGM and PPM
PNM: Final = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s")


def pnm_header(data: bytes) -> Header:
    """Read size and maximum of a netpbm file (https://netpbm.sourceforge.net/doc/ppm.html)."""
    found = PNM.match(data, 0, 1 << 12)
    if not found:
        reason = "truncated" if len(data) < 9 else "not-an-image"
        raise Rejected(reason, "no header of a PGM or PPM")
    width, height, maximum = (int(number) for number in found.groups()[1:])
    if not 0 < maximum < 65536:
        raise Rejected("unsupported-depth", f"maximum value {maximum}")
    samples = 1 if found[1] == b"5" else 3
    end = found.end() + width * height * samples * (2 if maximum > 255 else 1)
    raster = found.end(), samples, maximum
    notes = {"gray"} if samples == 1 else set()
    return Header("pnm", width, height, notes=notes, min_bytes=end, raster=raster)


# ---------------------------------------------------------------------------------- by Pillow
# Without a magic number: color map, image type, specification of the map; size; depth, descriptor.
TGA_SIGNATURE: Final = (
    rb".(?:\0[\x02\x03\x0a\x0b]\0{5}|\x01[\x01\x09]....[\x0f\x10\x18\x20])"
    rb".{8}[\x08\x10\x18\x20][\0-\x3f]"
)
SIZ, QOI_END = b"\xff\x4f\xff\x51", b"\0\0\0\0\0\0\0\1"


@contextlib.contextmanager
def pillow_image(data: bytes, name: str) -> Iterator[Any]:
    """Open an image of a format by Pillow; whatever it raises becomes ``Rejected``."""
    from PIL import Image, UnidentifiedImageError

    try:
        # Limits are set by the policy, not by Pillow.
        with warnings.catch_warnings(action="ignore"):
            if name == "HEIF":
                importlib.import_module("pillow_heif").register_heif_opener()
            with Image.open(BytesIO(data), formats=[name]) as image:
                yield image
    except ModuleNotFoundError:
        why = f"HEIC needs an extra; {install_hint('heif')}"
        raise Rejected("unsupported-format", why) from None
    except Image.DecompressionBombError:
        raise Rejected("too-many-pixels", "more than the header states or Pillow allows") from None
    except UnidentifiedImageError:  # its text holds an address, which would differ from run to run
        raise Rejected("corrupt", f"not a readable {name} image") from None
    except Exception as error:
        text = str(error)[:200]
        if lacks_memory(error) or "ut of memory" in text:
            raise Rejected("out-of-memory", text) from None
        is_cut = isinstance(error, IndexError) or "runcated" in text or "end of file" in text
        raise Rejected("truncated" if is_cut else "corrupt", text) from None


PILLOW_NOTES: Final = {"P": "palette", "PA": "palette", "CMYK": "cmyk"}
PILLOW_NOTES.update(dict.fromkeys(("1", "L", "LA", "I;16"), "gray"))
"""Notes by the mode of an image of Pillow."""


def pillow_header(name: str, data: bytes) -> Header:
    """Read a header by Pillow, and check the ends that its decoders do not look for."""
    siz, av1c = data.find(SIZ), data.find(b"av1C")
    with pillow_image(data, name) as image:
        turned, mode = image.getexif().get(ORIENTATION), image.mode
        exif = turned if turned in range(1, 9) else 0
        found = Header(name.lower(), image.width, image.height, exif=exif)
        found.frames = getattr(image, "n_frames", 1)
        # Samples of more bits come out as 8, but for gray JPEG 2000.
        deep = {
            "AVIF": int.from_bytes(data[av1c + 6 : av1c + 7]) & 0x40,
            "HEIF": image.info.get("bit_depth", 8) > 8,
            # The upper bit of Ssiz is the sign.
            "JPEG2000": int.from_bytes(data[siz + 42 : siz + 43]) & 0x7F > 7 and mode != "I;16",
        }.get(name)
        noted = {PILLOW_NOTES.get(mode): 1, "depth": deep, "profile": image.info.get("icc_profile")}
        found.notes |= {note for note, applies in noted.items() if note and applies}
    if name == "ICO":
        places = range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16)
        found.min_bytes = max(sum(struct.unpack_from("<II", data, at + 8)) for at in places)
    no_end = name == "JPEG2000" and data.rfind(b"\xff\xd9") < siz
    if no_end or (name == "QOI" and not data.endswith(QOI_END)):
        raise Rejected("truncated", "the file ends before the image does")
    return found


# By hand and not by Pillow: 10 microseconds a file instead of 21, and Pillow does not tell what
# must not reach an output.
PARSERS: Final[dict[bytes, Callable[[bytes], Header]]] = {
    rb"\xff\xd8\xff": jpeg_header,
    rb"\x89PNG\r\n\x1a\n": png_header,
    rb"RIFF....WEBP": webp_header,
    rb"GIF8[79]a": gif_header,
    rb"BM": bmp_header,
    rb"II\*\0|MM\0\*": tiff_header,
    rb"P[56]": pnm_header,
    rb"....ftyp(?:avi[fs]|(?:mif1|msf1)(?:....){1,8}?avi[fs])": partial(pillow_header, "AVIF"),
    rb"....ftyp(?:he[iv][cxms]|mif1|msf1)": partial(pillow_header, "HEIF"),
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": partial(pillow_header, "JPEG2000"),
    rb"qoif": partial(pillow_header, "QOI"),
    rb"\0\0\x01\0[^\0]": partial(pillow_header, "ICO"),
    TGA_SIGNATURE: partial(pillow_header, "TGA"),
}
"""Parsers by the regular expression that the first bytes of a file match."""


# ------------------------------------------------------------------------------------ orientation
MAX_TEXT: Final = 1 << 20
"""Bytes of a compressed text that are expanded."""
MAX_TEXTS: Final = 4
"""Texts that are searched; an honest file has one."""
XMP_TAG: Final = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])""")
EXIF_TEXTS: Final = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
XMP_TEXT: Final = b"XML:com.adobe.xmp\0"
# ImageMagick writes a block into a PNG text as its name, its length and its bytes in hexadecimal.
RAW_PROFILE: Final = re.compile(rb"\s*\w+\s+\d+\s+([0-9a-fA-F\s]+)")


def exif_orientation(block: bytes) -> int:
    """Return the orientation 1..8 in an EXIF block with or without prefix, 0 if there is none."""
    try:
        return Directory(block.removeprefix(b"Exif\0\0")).orientation()
    except struct.error:
        return 0


def xmp_orientation(packet: bytes) -> int:
    """Return the orientation 1..8 in an XMP packet, 0 if absent. Nothing is parsed as XML."""
    found = XMP_TAG.search(packet)
    return int(found[1]) if found else 0


def png_text_orientation(chunks: Iterable[bytes]) -> tuple[int, int]:
    """Return the orientations of EXIF and XMP in PNG text chunks (name and body), 0 if absent."""
    exif = xmp = 0
    relevant = (chunk for chunk in chunks if chunk.startswith((*EXIF_TEXTS, XMP_TEXT), 4))
    for chunk in islice(relevant, MAX_TEXTS):
        text = _text(chunk)
        if chunk.startswith(XMP_TEXT, 4):
            xmp = xmp or xmp_orientation(text)
        elif raw := RAW_PROFILE.match(text):
            digits = b"".join(raw[1].split())
            exif = exif or exif_orientation(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()))
    return exif, xmp


def _text(chunk: bytes) -> bytes:
    """Return at most ``MAX_TEXT`` bytes of the text of a tEXt, zTXt or iTXt chunk."""
    name, (_, _, text) = chunk[:4], chunk[4:].partition(b"\0")
    packed = name == b"zTXt" or (name == b"iTXt" and text[:1] == b"\1")
    if name == b"iTXt":  # flags, then language and translated keyword
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif name == b"zTXt":
        text = text[1:]
    if not packed:
        return text[:MAX_TEXT]
    try:
        return zlib.decompressobj().decompress(text, MAX_TEXT)
    except zlib.error:
        return b""
