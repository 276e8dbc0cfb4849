"""What a image file says about itself, read from its bytes before any decoder sees them.

A few dozen bytes decide here whether a file is a image, which one, how large, and how it must be read, so
that no decoder ever allocates for a lie, warns about a comment or expands a text chunk. Everything wrong
raises ``Rejected``. Formats: JPEG (ITU T.81), PNG (W3C, third edition), WebP (RFC 9649), GIF89a, BMP, TIFF
6.0, binary PGM and PPM (netpbm).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from img2img_data.core.errors import Rejected
from img2img_data.images.orientation import (
    Directory,
    png_text_orientation,
    tiff_orientation,
    xmp_orientation,
)

IMAGE_EXTENSIONS: Final = frozenset(
    b"jpg jpeg jpe jfif png bmp dib webp tif tiff gif ppm pgm pbm pnm mpo jp2 j2k avif heic heif jxl "
    b"psd ico exr hdr".split()
)
"""Extensions, in lower case, by which a folder's images are found. Not all formats are read; a file
of another format becomes a rejected row instead of a silent gap."""

Alpha = Literal["none", "straight", "premultiplied"]


@dataclass(slots=True)
class Header:
    """What is known before decoding.

    ``width`` and ``height`` are the stored ones (pixels, not yet turned); ``exif`` and ``xmp`` are the
    orientations 1..8 that those blocks state, 0 where they do not;
    ``plain`` says that the file holds gray, RGB or RGBA samples as they are meant and nothing else: no
    metadata, profile, trailer. ``alpha`` is what the fourth channel of the decoder means, ``clear`` the gray
    level that stands for transparent. ``expand`` asks the decoder for BGR instead of the stored samples.
    ``data``, where not empty, is what the decoder gets instead of the file; ``needs`` is the least number of
    bytes of a whole file; ``cut`` says how many bits OpenCV left of blue, green and red samples, without
    filling up the rest. ``raster`` of a PGM or PPM: where the samples begin, samples a pixel, largest value.
    """

    format: str
    width: int = 0
    height: int = 0
    exif: int = 0
    xmp: int = 0
    plain: bool = False
    alpha: Alpha = "none"
    clear: int | None = None
    expand: bool = False
    notes: set[str] = field(default_factory=set)
    data: bytes = b""
    needs: int = 0
    cut: tuple[int, ...] = ()
    raster: tuple[int, int, int] = (0, 0, 0)

    @property
    def orientation(self) -> int:
        """How the image is turned, 1..8: by EXIF, else by XMP."""
        return self.exif or self.xmp or 1


SIGNATURES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"P5", "pnm"),
    (b"P6", "pnm"),
)
OTHER_IMAGES: Final = re.compile(
    rb"II\+\0|MM\0\+|II\xbc|8BPS|\x8aMNG|\x8bJNG|P[1-7][\s#]|P[Ff]\s|#\?RADIANCE|#\?RGBE|\0\0[\x01\x02]\0|\xff\x0a"
    rb"|\0\0\0\x0cJXL |\0\0\0\x0cjP  |\xff\x4f\xff\x51|DDS |v/1\x01|qoif|FORM....ILBM|icns|gimp xcf"
    rb"|....ftyp(heic|heix|heim|heis|hevc|mif1|msf1|avif|avis)|SIMPLE  =|BLP[12]",
    re.DOTALL,
)
"""How files begin that are images but not read here: BigTIFF, PSD, PNM, ICO, JPEG XL, JPEG 2000, HEIF..."""


def is_image_name(name: bytes) -> bool:
    """Return True if a file name ends in the extension of an image format, in any case."""
    _, dot, extension = name.rpartition(b".")
    return bool(dot) and extension.lower() in IMAGE_EXTENSIONS


def header(data: bytes) -> Header:
    """Return what ``data`` (one whole file) says about itself."""
    for signature, name in SIGNATURES:
        if data.startswith(signature):
            return HEADERS[name](data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return webp_header(data)
    if OTHER_IMAGES.match(data):
        raise Rejected(
            "unsupported-format", "a image, but not JPEG, PNG, WebP, GIF, BMP, TIFF, PGM or PPM"
        )
    raise Rejected("not-an-image" if data else "empty")


# ---- JPEG
MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
XMP_SEGMENT: Final = b"http://ns.adobe.com/xap/1.0/\0"
AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xc4\xda\xdb\xdd\xff]")
MOST_MARKERS, MOST_SCANS = 10_000, 1_000


def jpeg_header(data: bytes) -> Header:
    """Walk the marker segments up to the first scan: size, components, orientation, what else is there."""
    found = Header("jpeg")
    plain, frame, at = True, 0, 2
    for _ in range(MOST_MARKERS):
        next_marker = MARKER.search(data, at)
        if next_marker is None or next_marker.end() + 2 > len(data):
            raise Rejected("truncated", "the file ends before the image begins")
        plain &= next_marker.start() == at
        marker, at = data[next_marker.end() - 1], next_marker.end()
        if 0xD0 <= marker <= 0xD8 or marker == 1:
            plain = False
            continue
        size = data[at] << 8 | data[at + 1]
        if marker == 0xD9 or size < 2:
            raise Rejected("corrupt", "a marker out of place")
        if at + size > len(data):
            raise Rejected("truncated", "the file ends before the image begins")
        if marker == 0xDA:
            break
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
            frame = marker
            plain &= _jpeg_frame(found, frame, data[at + 2 : at + size])
        elif marker >= 0xE0:
            plain &= _jpeg_application(found, marker, data[at + 2 : at + min(size, 1 << 16)])
        at += size
    if not frame:
        raise Rejected("corrupt", "a scan without a frame")
    if frame == 0xC2 and data.count(b"\xff\xda", at) > MOST_SCANS:
        raise Rejected("corrupt", "a progressive image of absurdly many scans")
    if plain:
        end = AFTER_SCAN.search(data, at + size)
        found.plain = end is not None and end.group() == b"\xff\xd9" and end.end() == len(data)
    return found


def _jpeg_frame(found: Header, frame: int, body: bytes) -> bool:
    """Take size and components from a frame header; say whether they are those of a common image."""
    if len(body) < 6:
        raise Rejected("corrupt", "a frame header too short")
    precision, found.height, found.width, components = struct.unpack(">BHHB", body[:6])
    if precision != 8:
        raise Rejected(
            "unsupported-depth" if frame != 0xC0 else "corrupt", f"{precision} bits a sample"
        )
    if frame in (0xC3, 0xC7, 0xCB, 0xCF):
        raise Rejected("unsupported-format", "lossless JPEG")
    if components == 1:
        found.notes.add("gray")
    elif components == 4:
        found.notes.add("cmyk")
    return components in (1, 3) and frame in (0xC0, 0xC1, 0xC2)


def _jpeg_application(found: Header, marker: int, body: bytes) -> bool:
    """Take orientation and profile from an application segment; say whether it holds nothing to strip."""
    if marker == 0xE1 and body.startswith(b"Exif\0"):
        found.exif = found.exif or tiff_orientation(body)
    elif marker == 0xE1 and body.startswith(XMP_SEGMENT):
        found.xmp = found.xmp or xmp_orientation(body)
    elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
        found.notes.add("profile")
    return (marker == 0xE0 and len(body) == 14 and body.startswith(b"JFIF\0")) or (
        marker == 0xEE and len(body) == 12 and body.startswith(b"Adobe")
    )


def jpeg_bare(data: bytes) -> bytes:
    """Return the same JPEG without metadata and junk before its first scan; the coded data are untouched."""
    kept, at = [data[:2]], 2
    while next_marker := MARKER.search(data, at):
        start, at = next_marker.start(), next_marker.end()
        marker = data[start + 1]
        if marker == 0xDA:
            return b"".join([*kept, data[start:]])
        if 0xD0 <= marker <= 0xD8 or marker == 1:
            continue
        at += int.from_bytes(data[at : at + 2], "big")
        if marker < 0xE0 or marker in (0xE0, 0xEE):
            kept.append(data[start:at])
    return data


# ---- PNG
PNG_COLORS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_PIXELS: Final = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
PNG_TEXTS: Final = frozenset((b"tEXt", b"zTXt", b"iTXt"))
PNG_HARMLESS: Final = frozenset((b"IHDR", b"IDAT", b"IEND", b"sRGB", b"pHYs"))


def png_header(data: bytes) -> Header:
    """Walk the chunks. The result's ``data`` keeps only those that make pixels: no text, no animation."""
    chunks = _png_chunks(data)
    names = {name for name, _, _ in chunks}
    body = {
        name: data[start + 8 : stop - 4]
        for name, start, stop in reversed(chunks)
        if name in (b"IHDR", b"tRNS", b"eXIf")
    }
    if chunks[0][0] != b"IHDR" or len(body[b"IHDR"]) != 13:
        raise Rejected("corrupt", "PNG without its header chunk")
    width, height, depth, color, *_ = struct.unpack(">IIBBBBB", body[b"IHDR"])
    if unknown := {n for n in names - PNG_PIXELS if n[0] & 0x20 == 0}:
        raise Rejected("unsupported-format", f"critical chunk {sorted(unknown)[0]!r}")
    if color not in PNG_COLORS or depth not in (1, 2, 4, 8, 16):
        raise Rejected("corrupt", f"color type {color}, depth {depth}")
    found = Header("png", width, height, tiff_orientation(body.get(b"eXIf", b"")))
    found.plain = (
        color in (0, 2, 6) and depth >= 8 and names <= PNG_HARMLESS and chunks[-1][2] == len(data)
    )
    if color in (4, 6) or (color in (2, 3) and b"tRNS" in names):
        found.alpha = "straight"
    elif b"tRNS" in names and len(body[b"tRNS"]) == 2:
        level = int.from_bytes(body[b"tRNS"], "big") & (1 << depth) - 1
        found.clear = level if depth == 16 else level * 255 // ((1 << depth) - 1)
    if not found.exif and names & PNG_TEXTS:
        texts = (data[start + 4 : stop - 4] for name, start, stop in chunks if name in PNG_TEXTS)
        found.exif, found.xmp = png_text_orientation(texts)
    found.notes |= {"gray"} if color in (0, 4) else {"palette"} if color == 3 else set()
    found.notes |= ({"profile"} if b"iCCP" in names else set()) | (
        {"first-frame"} if b"acTL" in names else set()
    )
    found.data = (
        data
        if names <= PNG_PIXELS
        else data[:8] + b"".join(data[a:b] for n, a, b in chunks if n in PNG_PIXELS)
    )
    return found


def _png_chunks(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return name, start and end of every chunk up to IEND; raise where the file ends before."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        chunks.append((name, at, at + size + 12))
        at += size + 12
        if at > len(data):
            break
        if name == b"IEND":
            return chunks
    raise Rejected("truncated", "the file ends before its last chunk")


# ---- WebP
def webp_header(data: bytes) -> Header:
    """Walk the RIFF chunks of a WebP file: canvas or frame size, alpha, animation, profile, orientation."""
    size = int.from_bytes(data[4:8], "little") + 8
    found, at, first = Header("webp", needs=size), 12, b""
    while at + 8 <= min(size, len(data)):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + min(length, 1 << 16)]
        if at + 8 + length > size:
            raise Rejected("corrupt", "a chunk longer than the file")
        if not first:
            first = name
            _webp_first(found, name, body)
        elif name == b"EXIF":
            found.exif = tiff_orientation(body)
        elif name == b"XMP ":
            found.xmp = xmp_orientation(body)
        at += 8 + length + length % 2
    found.plain = first in (b"VP8 ", b"VP8L") and at == len(data) == size
    return found


def _webp_first(found: Header, name: bytes, body: bytes) -> None:
    """Take the size and the flags from the first chunk."""
    if name == b"VP8X" and len(body) >= 10:
        found.width, found.height = (
            int.from_bytes(body[4:7], "little") + 1,
            int.from_bytes(body[7:10], "little") + 1,
        )
        found.alpha = "straight" if body[0] & 0x10 else "none"
        found.notes |= ({"profile"} if body[0] & 0x20 else set()) | (
            {"first-frame"} if body[0] & 0x02 else set()
        )
    elif name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        found.width, found.height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        found.alpha = "straight" if bits >> 28 & 1 else "none"
    elif name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        found.width, found.height = (
            int.from_bytes(body[i : i + 2], "little") & 0x3FFF for i in (6, 8)
        )
    else:
        raise Rejected("corrupt", "WebP without a frame")


# ---- GIF, BMP
def gif_header(data: bytes) -> Header:
    """Take the size of the logical screen."""
    if len(data) < 14:
        raise Rejected("truncated", "the file ends before the image begins")
    width, height = struct.unpack("<HH", data[6:10])
    return Header("gif", width, height, notes={"palette"})


def bmp_header(data: bytes) -> Header:
    """Take size and layout from a Windows or OS/2 bitmap header."""
    if len(data) < 54:
        raise Rejected("truncated" if len(data) > 5 else "not-an-image")
    offset, length = struct.unpack("<II", data[10:18])
    if length == 12:
        width, height, _, bits = struct.unpack("<HHHH", data[18:26])
        packing, colors = 0, 0
    elif length in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, packing = struct.unpack("<iiHHI", data[18:34])
        colors = int.from_bytes(data[46:50], "little")
    else:
        raise Rejected(
            "unsupported-format" if length == 16 else "not-an-image",
            f"a bitmap header of {length} bytes",
        )
    if width < 0 or bits not in (1, 2, 4, 8, 16, 24, 32):
        raise Rejected("corrupt", f"width {width}, {bits} bits a pixel")
    found = Header("bmp", width, abs(height), expand=True)
    if bits <= 8:
        found.notes.add("palette")
        if offset < 14 + length + (4 * min(colors or 1 << bits, 1 << bits) if length > 12 else 6):
            raise Rejected("corrupt", "the pixels begin inside the palette")
    if packing in (0, 3):
        found.needs = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if packing == 3 and bits == 32:
        _bmp_masks(found, length, data[54:70])
    elif bits == 16:
        found.cut = (5, 6, 5) if packing == 3 and data[58:62] == b"\xe0\x07\0\0" else (5, 5, 5)
    return found


def _bmp_masks(found: Header, length: int, masks: bytes) -> None:
    """Read the bit fields of 32-bit pixels. Short headers have no alpha, and only their usual order works."""
    if length >= 56:
        found.alpha, found.expand = ("straight", False) if any(masks[12:16]) else ("none", True)
    elif masks[:12] != b"\0\0\xff\0\0\xff\0\0\xff\0\0\0":
        raise Rejected("unsupported-format", "bit fields in an unusual order")


# ---- TIFF
TIFF_UNREAD: Final = {
    6: "old-style JPEG",
    34712: "JPEG 2000",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
}
TIFF_COLORS: Final = {
    -1: "of no stated colors",
    0: "gray",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELAB",
    9: "ICC Lab",
    32803: "sensor mosaic",
    34892: "linear raw",
}
TIFF_KINDS: Final = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
TIFF_COMPRESSIONS: Final = frozenset((1, 2, 3, 4, 5, 7, 8, 32773, 32946))


def tiff_header(data: bytes) -> Header:
    """Take size and sample layout from the first directory; reject those that OpenCV reads wrongly.

    ``data`` of the result has its orientation tag set to 1: OpenCV turns TIFF in some versions and modes.
    """
    try:
        tags = Directory(data)
        found = Header("tiff", tags.number(256, 0), tags.number(257, 0), tiff_orientation(data))
        if tags.number(259, 1) not in TIFF_COMPRESSIONS:
            packed = TIFF_UNREAD.get(tags.number(259, 1), f"method {tags.number(259, 1)}")
            raise Rejected("unsupported-format", f"TIFF compressed by {packed}")
        _tiff_layout(found, tags)
        more = tags.unpack("I", 4)[0]
        count = tags.unpack("H", more)[0]
        found.notes |= {"first-frame"} if tags.unpack("I", more + 2 + 12 * count)[0] else set()
    except struct.error:
        raise Rejected("truncated", "the file ends before its directory") from None
    found.notes |= {"profile"} if 34675 in tags.entries else set()
    found.data = data
    if found.orientation != 1:
        kind, _, at = tags.entries[274]
        one = struct.pack(tags.order + {1: "B", 3: "H", 4: "I"}[kind], 1)
        found.data = data[:at] + one + data[at + len(one) :]
    return found


def _tiff_layout(found: Header, tags: Directory) -> None:
    """Decide how the samples are read."""
    depths, kinds, photometric = (
        set(tags.numbers(258)) or {1},
        set(tags.numbers(339)) or {1},
        tags.number(262, -1),
    )
    samples, extra = tags.number(277, len(tags.numbers(258)) or 1), tags.number(338, 2)
    depth = min(depths)
    colors = TIFF_COLORS.get(photometric, f"photometric interpretation {photometric}")
    planes = ", stored plane by plane" if tags.number(284, 1) != 1 else ""
    if (
        len(depths) > 1
        or len(kinds) > 1
        or (depth, *kinds) not in ((1, 1), (8, 1), (16, 1), (32, 3))
    ):
        raise Rejected("unsupported-depth", _tiff_samples(depths, kinds))
    if samples > 4 or photometric not in (0, 1, 2, 3, 5, 6) or (photometric == 2 and samples < 3):
        raise Rejected("unsupported-format", f"TIFF, {colors}, {samples} samples a pixel")
    if depth > 8 and (
        tags.number(284, 1) != 1 or (photometric, samples) not in ((1, 1), (2, 3), (2, 4))
    ):
        raise Rejected(
            "unsupported-format",
            f"TIFF, {colors}, {samples} samples a pixel of {depth} bits{planes}",
        )
    has_alpha = photometric == 2 and samples == 4 and extra in (1, 2)
    found.expand = depth <= 8 and not has_alpha
    if has_alpha:
        # OpenCV multiplies 8-bit samples by their alpha only where the file says that this was not done yet.
        multiplied = extra == 1 or (depth == 8 and 338 in tags.entries)
        found.alpha = "premultiplied" if multiplied else "straight"
    found.notes |= {0: {"gray"}, 1: {"gray"}, 3: {"palette"}, 5: {"cmyk"}}.get(photometric, set())


def _tiff_samples(depths: set[int], kinds: set[int]) -> str:
    what = " and ".join(TIFF_KINDS.get(kind, f"format {kind}") for kind in sorted(kinds))
    return f"TIFF, {' and '.join(map(str, sorted(depths)))} bits a sample, {what}"


# ---- PGM, PPM
PNM: Final = re.compile(rb"P([56])" + rb"(?:\s|#[^\n]*\n)+(\d{1,9})" * 3 + rb"\s")


def pnm_header(data: bytes) -> Header:
    """Take size and largest value from a binary netpbm header (https://netpbm.sourceforge.net/doc/ppm.html)."""
    found = PNM.match(data, 0, 1 << 12)
    if not found:
        raise Rejected(
            "truncated" if len(data) < 9 else "not-an-image", "no header of a PGM or PPM"
        )
    width, height, largest = (int(number) for number in found.groups()[1:])
    if not 0 < largest < 65536:
        raise Rejected("unsupported-depth", f"largest value {largest}")
    samples = 1 if found[1] == b"5" else 3
    needs = found.end() + width * height * samples * (2 if largest > 255 else 1)
    return Header(
        "pnm",
        width,
        height,
        notes={"gray"} if samples == 1 else set(),
        needs=needs,
        raster=(found.end(), samples, largest),
    )


HEADERS: Final[dict[str, Callable[[bytes], Header]]] = {
    "jpeg": jpeg_header,
    "png": png_header,
    "gif": gif_header,
    "bmp": bmp_header,
    "tiff": tiff_header,
    "pnm": pnm_header,
}
