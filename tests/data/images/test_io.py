"""The laws of reading and writing: whole or rejected, upright, opaque, 8-bit RGB; written without
loss.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from img2img_data.builds.pairs import parse_size
from img2img_data.core.errors import Rejected
from img2img_data.images import color
from img2img_data.images.io import ReadPolicy, decode, encode, fit, read, read_bytes
from img2img_data.images.pixels import luminance, to_8_bit, to_16_bit

RED, GREEN, BLUE, YELLOW = (220, 40, 40), (40, 180, 60), (40, 60, 200), (230, 210, 50)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def quadrants(width: int = 32, height: int = 24) -> np.ndarray[Any, np.dtype[np.uint8]]:
    a = np.zeros((height, width, 3), np.uint8)
    a[: height // 2, : width // 2], a[: height // 2, width // 2 :] = RED, GREEN
    a[height // 2 :, : width // 2], a[height // 2 :, width // 2 :] = BLUE, YELLOW
    return a


def textured(
    height: int = 20, width: int = 23, seed: int = 0
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1), np.uint8)


def saved(image: Any, format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, format, **options
    )
    return buffer.getvalue()


def by_opencv(extension: str, image: Any, *options: int) -> bytes:
    done, data = cv2.imencode(extension, image, list(options))
    assert done
    return data.tobytes()


def exif(orientation: int, order: str = "<") -> bytes:
    head = ("II" if order == "<" else "MM").encode() + struct.pack(order + "HI", 42, 8)
    return b"Exif\0\0" + head + struct.pack(order + "HHHIHHI", 1, 0x112, 3, 1, orientation, 0, 0)


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(Rejected) as caught:
        call()
    return caught.value.reason


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


# ---- writing
SHAPES: dict[str, tuple[int, ...]] = {
    "gray": (17, 13),
    "one channel": (5, 4, 1),
    "rgb": (17, 13, 3),
    "rgba": (9, 11, 4),
    "one pixel": (1, 1, 3),
    "one row": (1, 40, 3),
    "one column": (40, 1, 3),
    "tall": (300, 7, 3),
}
CONTENTS: dict[str, Callable[[tuple[int, ...], Any], Any]] = {
    "noise": lambda shape, top: np.random.default_rng(1).integers(0, top + 1, shape),
    "flat": lambda shape, top: np.full(shape, top // 3),
    "rows": lambda shape, top: (
        np.random.default_rng(2).integers(0, top + 1, (shape[0], *[1] * (len(shape) - 1)))
        + np.zeros(shape, int)
    ),
    "extremes": lambda shape, top: np.indices(shape).sum(0) % 2 * top,
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_png_loses_nothing(shape: str, content: str, dtype: type[np.unsignedinteger[Any]]) -> None:
    pixels = CONTENTS[content](SHAPES[shape], int(np.iinfo(dtype).max)).astype(dtype)
    data = encode(pixels, "png")
    assert data == encode(pixels.copy(order="F"), "png")
    seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(pixels.shape[-1] if pixels.ndim == 3 else 1)
    assert np.array_equal(
        seen if order is None else seen[..., order],
        pixels.squeeze(2) if order is None and pixels.ndim == 3 else pixels,
    )
    with Image.open(BytesIO(data)) as image:
        image.load()
        assert image.size == (pixels.shape[1], pixels.shape[0])
        if dtype == np.uint8:
            assert np.array_equal(np.asarray(image).squeeze(), pixels.squeeze())


def test_jpeg_goes_without_a_profile_that_it_cannot_hold() -> None:
    plain, largest = encode(quadrants(), "jpg"), b"\0" * (255 * 65_519)
    assert encode(quadrants(), "jpg", profile=largest + b"\0") == plain
    with Image.open(BytesIO(encode(quadrants(), "jpg", profile=largest))) as image:
        assert image.info["icc_profile"] == largest


def test_png_rejects_what_it_cannot_hold() -> None:
    for bad in (
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 5), np.uint8),
    ):
        with pytest.raises(ValueError, match="no PNG"):
            encode(bad, "png")


@pytest.mark.skipif("IMG2IMG_DATA" not in os.environ, reason="no photos: IMG2IMG_DATA is not set")
@pytest.mark.parametrize("sigma", [0, 3])
@pytest.mark.parametrize("side", [64, 256])
def test_png_of_photos_is_no_larger_than_a_quarter_over_opencv(side: int, sigma: int) -> None:
    photos = sorted(Path(os.environ["IMG2IMG_DATA"], "natural/bsds500-train").glob("*.jpg"))[::20]
    size = opencv_size = 0
    for photo in photos:
        pixels = fit(read(photo).pixels, (side, side), "crop")
        pixels = cv2.GaussianBlur(pixels, (0, 0), sigma) if sigma else pixels
        size, opencv_size = (
            size + len(encode(pixels, "png")),
            opencv_size + len(by_opencv(".png", pixels)),
        )
    assert photos
    assert size <= 1.25 * opencv_size


@pytest.mark.parametrize("format", ["jpg", "webp"])
def test_lossy_formats_come_back_close_and_lossless_webp_exact(format: Any) -> None:
    pixels = np.asarray(cv2.GaussianBlur(textured(48, 40), (0, 0), 2), np.uint8)
    assert np.abs(decode(encode(pixels, format)).pixels.astype(int) - pixels).mean() < 5
    gray = decode(encode(pixels[..., 1], format)).pixels
    assert np.abs(gray.astype(int) - pixels[..., 1:2]).mean() < 5
    assert np.array_equal(decode(encode(pixels, "webp", 100)).pixels, pixels)
    with pytest.raises(ValueError, match="8 bits"):
        encode(pixels.astype(np.uint16), format)


# ---- reading whole images
ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "jpeg": lambda a: saved(a, "JPEG", quality=90),
    "progressive": lambda a: saved(a, "JPEG", progressive=True),
    "png": lambda a: saved(a, "PNG"),
    "own png": lambda a: encode(a, "png"),
    "webp": lambda a: saved(a, "WEBP"),
    "lossless webp": lambda a: saved(a, "WEBP", lossless=True),
    "gif": lambda a: saved(a, "GIF"),
    "bmp": lambda a: saved(a, "BMP"),
    "tiff": lambda a: saved(a, "TIFF"),
    "ppm": lambda a: saved(a, "PPM"),
    "lzw tiff": lambda a: by_opencv(".tif", a[..., ::-1], cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "avif": lambda a: saved(a, "AVIF"),
    "jpeg 2000": lambda a: saved(a, "JPEG2000"),
    "jpeg 2000 codestream": lambda a: saved(a, "JPEG2000", no_jp2=True),
    "tga": lambda a: saved(a, "TGA"),
    "tga in runs": lambda a: saved(a, "TGA", compression="tga_rle"),
    "qoi": lambda a: saved(a, "QOI"),
    "ico": lambda a: saved(a, "ICO", sizes=[a.shape[1::-1]]),
    "ico of bitmaps": lambda a: saved(a, "ICO", sizes=[a.shape[1::-1]], bitmap_format="bmp"),
}
LOSSLESS = ("jpeg 2000", "jpeg 2000 codestream", "tga", "tga in runs", "qoi", "ico")
WITH_A_TAIL = ("gif", "tga", "tga in runs")
"""Formats that end in bytes which are no part of the image."""


def heic(pixels: Any) -> bytes:
    pytest.importorskip("pillow_heif").register_heif_opener()
    return saved(pixels, "HEIF", quality=95)


if find_spec("pillow_heif"):
    ENCODERS["heic"] = heic


@pytest.mark.parametrize("name", LOSSLESS)
def test_formats_that_pillow_decodes_hold_the_same_samples(name: str) -> None:
    image = decode(ENCODERS[name](textured()))
    assert np.array_equal(image.pixels, textured())
    assert not image.verbatim
    if name not in ("ico", "qoi"):
        assert decode(ENCODERS[name](textured()[..., 0])).notes == ("gray",)


def test_more_than_8_bits_of_jpeg_2000_are_kept_or_noted() -> None:
    levels = np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) * 30
    stored = saved(levels, "JPEG2000")
    assert np.array_equal(decode(stored, ReadPolicy(depth=16, channels="gray")).pixels, levels)
    assert decode(stored).notes == ("depth", "gray")


def test_avif_is_turned_upright_and_counts_its_frames() -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = decode(saved(textured(), "AVIF", exif=exif))
    assert image.size == textured().shape[:2]
    assert image.notes == ("orientation",)
    frames = [Image.fromarray(textured() // n) for n in (2, 3)]
    many = decode(saved(textured(), "AVIF", save_all=True, append_images=frames))
    assert (many.frames, many.notes) == (3, ("first-frame",))


def test_heic_is_read_with_its_extra_and_named_without(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
        with pytest.raises(Rejected, match=r"unsupported-format.*HEIC.*\[heif\]"):
            decode(stub)
    image = decode(heic(textured()))
    assert image.format == "heif"
    assert np.abs(image.pixels.astype(int) - textured()).mean() < 30
    with pytest.raises(Rejected, match="corrupt"):
        decode(stub)


@pytest.mark.parametrize("name", ENCODERS)
def test_no_cut_file_is_ever_half_read(name: str) -> None:
    data = ENCODERS[name](textured())
    complete = decode(data).pixels
    for end in range(len(data)):
        try:
            cut = decode(data[:end])
        except Rejected:
            continue
        assert name in WITH_A_TAIL, f"cut at {end} of {len(data)}"
        assert np.array_equal(cut.pixels, complete)


@pytest.mark.parametrize("name", ENCODERS)
def test_damage_is_rejected_or_harmless_never_a_crash(name: str) -> None:
    data, rng = ENCODERS[name](textured()), np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 10 ** rng.integers(1, 5)), 3):
            damaged[at] = rng.integers(256)
        try:
            image = decode(bytes(damaged))
        except Rejected:
            continue
        assert image.pixels.dtype == np.uint8
        assert image.pixels.ndim == 3


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF16"])
def test_every_image_comes_upright_once(format: str, orientation: int) -> None:
    stored = np.ascontiguousarray(UPRIGHT[orientation](quadrants()))
    if format == "TIFF16":
        data = tiff16(stored, orientation)
    elif format == "TIFF":
        data = saved(stored, "TIFF", tiffinfo={274: orientation})
    else:
        extra = (
            {"lossless": True}
            if format == "WEBP"
            else {"quality": 95, "subsampling": 0}
            if format == "JPEG"
            else {}
        )
        data = saved(stored, format, exif=exif(orientation, "<>"[orientation % 2]), **extra)
    image = decode(data)
    assert image.size == (32, 24)
    assert np.abs(image.pixels.astype(int) - quadrants()).max() < 30
    assert ("orientation" in image.notes) == (orientation != 1)
    assert not image.verbatim
    assert image.pixels.flags.c_contiguous


def tiff16(pixels: Any, orientation: int) -> bytes:
    samples = (pixels.astype("<u2") * 257).tobytes()
    height, width = pixels.shape[:2]
    strip = 8 + 2 + 12 * 10 + 4 + 8
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, strip - 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, strip),
        (274, 3, 1, orientation),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(samples)),
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", 10)
        + directory
        + bytes(4)
        + struct.pack("<HHHH", 16, 16, 16, 0)
        + samples
    )


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_means_none(orientation: int) -> None:
    image = decode(saved(quadrants(), "JPEG", exif=exif(orientation)))
    assert image.size == (32, 24)
    assert image.notes == ()
    broken = saved(quadrants(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 99)
    assert decode(broken).size == (32, 24)


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</x:xmpmeta>'


def imagemagick(block: bytes) -> bytes:
    """EXIF as ImageMagick writes it into a PNG text."""
    return b"\nexif\n%8d\n" % len(block) + block.hex().encode() + b"\n"


TURNED: dict[str, Callable[[Any], bytes]] = {
    "jpeg": lambda a: saved(
        a, "JPEG", quality=95, subsampling=0, xmp=XMP % b'tiff:Orientation="6"/>'
    ),
    "webp": lambda a: saved(
        a, "WEBP", lossless=True, xmp=XMP % b"><tiff:Orientation>6</tiff:Orientation>"
    ),
    "png": lambda a: with_text(
        a, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % b"tiff:Orientation='6'/>"
    ),
    "packed png": lambda a: with_text(
        a,
        b"iTXt",
        b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP % b'tiff:Orientation = "6"/>'),
    ),
    "text": lambda a: with_text(a, b"tEXt", b"Raw profile type exif\0" + imagemagick(exif(6))),
    "packed text": lambda a: with_text(
        a, b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(imagemagick(exif(6, ">")))
    ),
}


def with_text(pixels: Any, name: bytes, body: bytes) -> bytes:
    data = saved(pixels, "PNG")
    return data[:33] + chunk(name, body) + data[33:]


@pytest.mark.parametrize("where", TURNED)
def test_orientation_counts_wherever_programs_write_it(where: str) -> None:
    image = decode(TURNED[where](np.ascontiguousarray(UPRIGHT[6](quadrants()))))
    assert image.size == (32, 24)
    assert np.abs(image.pixels.astype(int) - quadrants()).max() < 30
    assert image.notes == ("orientation",)


def test_exif_goes_before_xmp_and_broken_texts_mean_nothing() -> None:
    xmp = XMP % b'tiff:Orientation="6"/>'
    assert decode(saved(quadrants(), "JPEG", xmp=xmp, exif=exif(1))).size == (32, 24)
    for body in (
        b"\0\0not deflate",
        b"",
        b"\0\0" + zlib.compress(bytes(1 << 24)),
        b"\0\0" + zlib.compress(b"\nexif\n 9\nf0f"),
    ):
        assert decode(with_text(quadrants(), b"zTXt", b"Raw profile type exif" + body)).size == (
            32,
            24,
        )


def test_a_thousand_packed_texts_cost_no_time() -> None:
    data = saved(quadrants(), "PNG")
    bomb = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1 << 21)))
    began = time.process_time()
    assert decode(data[:33] + bomb * 2000 + data[33:]).size == (32, 24)
    assert time.process_time() - began < 1


def test_prefixed_exif_of_webp_counts() -> None:
    data = saved(np.ascontiguousarray(UPRIGHT[6](quadrants())), "WEBP", lossless=True, exif=exif(6))
    at = data.index(b"EXIF")
    body = data[at + 8 :].removeprefix(b"Exif\0\0")
    for prefix in (b"", b"Exif\0\0"):
        chunked = b"EXIF" + struct.pack("<I", len(prefix + body)) + prefix + body
        content = data[8:at] + chunked
        assert decode(b"RIFF" + struct.pack("<I", len(content)) + content).size == (32, 24)


def with_alpha(alpha: int, dtype: Any = np.uint8) -> Any:
    scale = 257 if dtype == np.uint16 else 1
    return np.dstack([quadrants(), np.full((24, 32), alpha, np.uint8)]).astype(dtype) * dtype(scale)


TRANSPARENT: dict[str, Callable[[int], bytes]] = {
    "png": lambda a: saved(with_alpha(a), "PNG"),
    "png16": lambda a: encode(with_alpha(a, np.uint16), "png"),
    "webp": lambda a: saved(with_alpha(a), "WEBP", lossless=True, exact=True),
    "tiff": lambda a: saved(with_alpha(a), "TIFF"),
    "bmp": lambda a: bmp32(with_alpha(a)),
}


def bmp32(pixels: Any) -> bytes:
    height, width = pixels.shape[:2]
    samples = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(samples), 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    return (
        b"BM"
        + struct.pack("<IHHI", 122 + len(samples), 0, 0, 122)
        + (head + masks).ljust(108, b"\0")
        + samples
    )


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_transparency_is_composed_on_white_or_rejected(name: str, alpha: int) -> None:
    data = TRANSPARENT[name](alpha)
    expected = np.rint((quadrants() * float(alpha) + 255.0 * (255 - alpha)) / 255)
    image = decode(data)
    assert np.abs(image.pixels - expected).max() <= (1 if name == "tiff" else 0)
    assert "alpha" in image.notes or (name, alpha) == ("webp", 255), (
        "an opaque WebP drops its alpha when saved"
    )
    assert image.verbatim == (image.notes == ())
    if alpha < 255:
        assert reason_of(lambda: decode(data, ReadPolicy(alpha="reject"))) == "alpha"
    else:
        assert np.array_equal(decode(data, ReadPolicy(alpha="reject")).pixels, image.pixels)


def test_transparent_colors_and_palettes() -> None:
    palette = Image.fromarray(quadrants()).quantize(8)
    first = int(np.asarray(palette)[0, 0])
    for format in ("PNG", "GIF"):
        plain, clear = (
            decode(saved(palette, format)),
            decode(saved(palette, format, transparency=first)),
        )
        assert np.abs(plain.pixels.astype(int) - quadrants()).max() < 12
        assert plain.notes == ("palette",)
        assert tuple(clear.pixels[0, 0]) == (255, 255, 255)
        assert clear.notes == ("alpha", "palette")
    gray = np.uint8([[10, 200], [200, 10]])
    for dtype, level in ((np.uint8, 10), (np.uint16, 2570)):
        data = encode(gray.astype(dtype) * dtype(1 if dtype == np.uint8 else 257), "png")
        marked = data[:33] + chunk(b"tRNS", struct.pack(">H", level)) + data[33:]
        assert decode(marked).pixels[..., 0].tolist() == [[255, 200], [200, 255]]


def test_16_bit_samples_are_divided_by_257_and_rounded() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for data in (encode(levels, "png"), by_opencv(".tif", levels)):
        image = decode(data)
        assert np.array_equal(image.pixels[..., 1], np.rint(levels / 257).astype(np.uint8))
        assert image.notes == ("depth", "gray")
        kept = decode(data, ReadPolicy(depth="keep"))
        assert np.array_equal(kept.pixels, np.dstack([levels] * 3))
        assert kept.notes == ("gray",)


def test_float_samples_are_clipped_and_must_be_finite() -> None:
    def tiff(samples: Any) -> bytes:
        return by_opencv(".tif", samples, cv2.IMWRITE_TIFF_COMPRESSION, 1)

    ramp = np.dstack([np.linspace(-0.5, 1.5, 99, dtype=np.float32).reshape(9, 11)] * 3)
    image = decode(tiff(ramp))
    assert np.abs(image.pixels - np.clip(ramp, 0, 1) * 255).max() < 0.51
    for bad in (np.nan, np.inf):
        ramp[0, 0, 0] = bad
        assert reason_of(lambda: decode(tiff(ramp))) == "non-finite"
    assert reason_of(lambda: decode(tiff(ramp.astype(np.float64)))) == "unsupported-depth"


@pytest.mark.parametrize("largest", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_pgm_and_ppm_use_the_whole_range(channels: int, largest: int) -> None:
    wide = largest > 255
    levels = np.random.default_rng(0).integers(0, largest + 1, (9, 7, channels))
    levels[0, 0], levels[0, 1] = 0, largest
    head = f"P{5 if channels == 1 else 6} # comment\n7\t9 {largest}\n".encode()
    data = head + levels.astype(">u2" if wide else "u1").tobytes()
    image = decode(data, ReadPolicy(depth="keep", channels="keep"))
    top = 65535 if wide else 255
    assert np.array_equal(image.pixels, np.floor(levels.squeeze() * top / largest + 0.5))
    assert image.pixels.dtype == (np.uint16 if wide else np.uint8)
    assert decode(data).pixels.shape == (9, 7, 3)
    assert reason_of(lambda: decode(data[:-1])) == "truncated"
    assert reason_of(lambda: decode(head.replace(b"7", b"99999999"))) == "too-many-pixels"


BIT_FIELDS = {  # red, green, blue, alpha
    "565": (0xF800, 0x7E0, 0x1F, 0),
    "555": (0x7C00, 0x3E0, 0x1F, 0),
    "1555": (0x7C00, 0x3E0, 0x1F, 0x8000),
    "4444": (0xF00, 0xF0, 0xF, 0xF000),
    "blue first": (0x1F, 0x7E0, 0xF800, 0),
    "8888": (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    "10 bits": (0x3FF00000, 0xFFC00, 0x3FF, 0),
}


def bitmap(fields: tuple[int, ...], header: int, packing: int, height: int) -> tuple[bytes, Any]:
    """Return a bitmap with bit fields, and its words from top to bottom."""
    word = "<u4" if max(fields) >= 1 << 16 else "<u2"
    top = np.iinfo(word).max
    words = np.random.default_rng(0).integers(0, top, (4, 5), word, endpoint=True)
    rows = np.pad(words, ((0, 0), (0, 1))) if word == "<u2" else words  # 4 bytes a row
    samples = rows[:: 1 if height < 0 else -1].tobytes()
    size, bits = len(samples), 8 * words.itemsize
    head = struct.pack("<IiiHHIIiiII", header, 5, height, 1, bits, packing, size, 0, 0, 0, 0)
    masks = struct.pack("<4I", *fields)
    behind = {0: 0, 3: 12, 6: 16}[packing] if header == 40 else header - 40
    head += masks.ljust(behind, b"\0")[:behind]
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + size, 0, 0, start) + head + samples, words


@pytest.mark.parametrize("height", [4, -4])
@pytest.mark.parametrize("header", [40, 52, 56, 64, 108, 124])
@pytest.mark.parametrize("fields", BIT_FIELDS)
def test_bit_fields_of_a_bitmap_are_rounded_once(fields: str, header: int, height: int) -> None:
    for packing in (0, 3, 6):
        masks = BIT_FIELDS[fields]
        if (packing == 0 and fields != "555") or (packing == 6 and header != 40):
            continue
        data, words = bitmap(masks, header, packing, height)
        expected = [np.rint((words & m) // (m & -m) * 255.0 / (m // (m & -m))) for m in masks if m]
        image = decode(data, ReadPolicy(channels="keep"))
        has_alpha = len(expected) == 4 and (header >= 56 or packing == 6)
        assert np.array_equal(image.pixels, np.dstack(expected[: 4 if has_alpha else 3]))
        with pytest.raises(Rejected, match="truncated"):
            decode(data[:-1])


@pytest.mark.parametrize("mask", [0, 0b101, 0x1F0000])
def test_bit_fields_that_are_none_are_rejected(mask: int) -> None:
    data, _ = bitmap((0xF800, 0x7E0, 0x1F, 0), 40, 3, 4)
    broken = data[:62] + struct.pack("<I", mask) + data[66:]
    assert reason_of(lambda: decode(broken)) == "unsupported-format"


WRITERS: dict[str, list[dict[str, Any]]] = {
    "BMP": [{}],
    "GIF": [{}, {"interlace": 1}],
    "JPEG": [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}],
    "PNG": [{}, {"optimize": True}],
    "PPM": [{}],
    "TIFF": [{}, *({"compression": c} for c in ("tiff_lzw", "tiff_deflate", "packbits", "lzma"))],
    "WEBP": [{}, {"lossless": True}],
}
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("format", WRITERS)
def test_no_valid_file_is_called_damaged(format: str) -> None:
    written = 0
    for mode, options in itertools.product(MODES, WRITERS[format]):
        try:
            data = saved(Image.fromarray(quadrants()).convert("L").convert(mode), format, **options)
        except (OSError, ValueError, KeyError):
            continue  # the format does not hold this mode
        written += 1
        reason = ""
        try:
            decode(data)
        except Rejected as rejected:
            reason = rejected.reason
        assert reason in {"", "unsupported-format", "unsupported-depth"}, (mode, options)
    assert written > 1


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_no_negative(format: str) -> None:
    options = {"quality": 95, "subsampling": 0} if format == "JPEG" else {}
    image = decode(saved(Image.fromarray(quadrants()).convert("CMYK"), format, **options))
    assert np.abs(image.pixels.astype(int) - quadrants()).max() < 40
    assert image.notes == ("cmyk",)


def test_gray_and_one_bit() -> None:
    gray = decode(saved(quadrants()[..., 1], "JPEG", quality=95))
    assert gray.pixels.shape == (24, 32, 3)
    assert gray.notes == ("gray",)
    bits = np.indices((6, 7)).sum(0) % 2 == 0
    assert np.array_equal(decode(saved(bits, "PNG")).pixels[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("more", [0, 1, 2, 40])
@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_is_read_and_all_are_counted(format: str, more: int) -> None:
    first, *others = [Image.fromarray(np.roll(quadrants(), n, 1)) for n in range(more + 1)]
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    if format == "PNG":
        options["default_image"] = more == 2
    data = saved(first, format, save_all=True, append_images=others, **options)
    image = decode(data)
    assert image.frames == more + 1
    assert ("first-frame" in image.notes) == (more > 0)
    assert np.abs(image.pixels.astype(int) - quadrants()).max() < 12


def test_a_damaged_chain_of_pages_ends_the_count() -> None:
    pages = [Image.fromarray(quadrants())] * 3
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    following, count = 0, 0
    at = int.from_bytes(data[4:8], "little")
    while at:
        following = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
        at, count = int.from_bytes(data[following : following + 4], "little"), count + 1
    assert count == 3
    for number, frames in ((int.from_bytes(data[4:8], "little"), 3), (1 << 31, 4)):
        looped = data[:following] + number.to_bytes(4, "little") + data[following + 4 :]
        assert decode(looped).frames == frames


# ---- files that may be published unchanged
def comment(data: bytes) -> bytes:
    return data[:2] + b"\xff\xfe\0\x06note" + data[2:]


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    return info


PLAIN: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(quadrants(), "JPEG"),
    "progressive": lambda: saved(quadrants(), "JPEG", progressive=True),
    "own jpeg": lambda: encode(quadrants(), "jpg"),
    "png": lambda: saved(quadrants(), "PNG"),
    "own png": lambda: encode(quadrants(), "png"),
    "webp": lambda: saved(quadrants(), "WEBP"),
    "own webp": lambda: encode(quadrants(), "webp", 100),
}
ADORNED: dict[str, Callable[[], bytes]] = {
    "exif": lambda: saved(quadrants(), "JPEG", exif=exif(1)),
    "profile": lambda: saved(quadrants(), "JPEG", icc_profile=b"\0" * 200),
    "comment": lambda: comment(saved(quadrants(), "JPEG")),
    "xmp": lambda: saved(quadrants(), "JPEG", xmp=b"<x:xmpmeta/>"),
    "trailer": lambda: saved(quadrants(), "JPEG") + b"\0",
    "second image": lambda: saved(quadrants(), "JPEG") * 2,
    "gray": lambda: saved(quadrants()[..., 0], "JPEG"),
    "cmyk": lambda: saved(Image.fromarray(quadrants()).convert("CMYK"), "JPEG"),
    "comment between scans": lambda: late_comment(saved(quadrants(), "JPEG", progressive=True)),
    "png exif": lambda: saved(quadrants(), "PNG", exif=exif(1)),
    "png text": lambda: saved(quadrants(), "PNG", pnginfo=text()),
    "png profile": lambda: saved(quadrants(), "PNG", icc_profile=b"\0" * 200),
    "png trailer": lambda: saved(quadrants(), "PNG") + b"\0",
    "png gray": lambda: encode(quadrants()[..., 0], "png"),
    "png alpha": lambda: encode(with_alpha(255), "png"),
    "png 16 bit": lambda: encode(quadrants().astype(np.uint16), "png"),
    "webp exif": lambda: saved(quadrants(), "WEBP", exif=exif(1)),
    "webp alpha": lambda: saved(with_alpha(0), "WEBP", lossless=True),
    "bmp": lambda: saved(quadrants(), "BMP"),
    "tiff": lambda: saved(quadrants(), "TIFF"),
}


def late_comment(data: bytes) -> bytes:
    scan = data.index(b"\xff\xda")
    table = data.index(b"\xff\xc4", scan)
    return data[:table] + b"\xff\xfe\0\x06note" + data[table:]


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_verbatim(name: str) -> None:
    image = decode(PLAIN[name]())
    assert image.verbatim
    assert image.notes == ()


@pytest.mark.parametrize("name", ADORNED)
def test_files_with_anything_more_are_not(name: str) -> None:
    image = decode(ADORNED[name]())
    assert not image.verbatim
    assert image.size == (32, 24)


# ---- rejected before any decoder
REJECTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing": ("empty", lambda: b""),
    "text": ("not-an-image", lambda: b"this is not a image\n"),
    "svg": ("not-an-image", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "postscript": ("not-an-image", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "photoshop": ("unsupported-format", lambda: b"8BPS\0\1" + bytes(99)),
    "openexr": ("unsupported-format", lambda: b"v/1\x01" + bytes(99)),
    "cursor": ("unsupported-format", lambda: b"\0\0\2\0\1" + bytes(99)),
    "zeros": ("not-an-image", lambda: bytes(999)),
    "jpeg start only": ("truncated", lambda: b"\xff\xd8\xff\xe0"),
    "png start only": ("truncated", lambda: b"\x89PNG\r\n\x1a\n"),
    "huge png": ("too-many-pixels", lambda: resized_png(50_000, 50_000)),
    "wide png": ("too-many-pixels", lambda: resized_png(1_000_000, 3)),
    "thin png": ("too-small", lambda: resized_png(20_000, 8)),
    "empty png": ("corrupt", lambda: resized_png(0, 0)),
    "huge bmp": (
        "too-many-pixels",
        lambda: sized(saved(quadrants(), "BMP"), 18, "<ii", 30_000, 30_000),
    ),
    "bmp that points far behind its end": ("truncated", lambda: bmp16(start=2**31 - 1)),
    "huge gif": (
        "too-many-pixels",
        lambda: sized(saved(quadrants(), "GIF"), 6, "<HH", 65_535, 65_535),
    ),
    "huge jpeg": ("too-many-pixels", lambda: sized_jpeg(65_500, 65_500)),
    "lying jpeg": ("truncated", lambda: sized_jpeg(2_000, 2_000)),
    "zero tail": ("truncated", lambda: zero_tail(saved(textured(64, 64), "JPEG"))),
    "12 bit": (
        "unsupported-depth",
        lambda: sized(saved(quadrants(), "JPEG", progressive=True), -1, "B", 12),
    ),
}


def bmp16(start: int) -> bytes:
    """Return an image of 16 bits with bit fields of an unknown packing."""
    head = struct.pack("<2sIIIIiiHHI", b"BM", 4096, 0, start, 40, 9, 9, 1, 16, 64)
    return sized(head + bytes(4062), 54, "<III", 0xF800, 0x7E0, 0x1F)


def sized(data: bytes, at: int, layout: str, *values: int) -> bytes:
    at = data.index(b"\xff\xc2") + 4 if at < 0 else at
    return data[:at] + struct.pack(layout, *values) + data[at + struct.calcsize(layout) :]


def sized_jpeg(width: int, height: int) -> bytes:
    data = saved(quadrants(), "JPEG")
    return sized(data, data.index(b"\xff\xc0") + 5, ">HH", height, width)


def resized_png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(999)))
        + chunk(b"IEND", b"")
    )


def zero_tail(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(len(data) - len(data) // 2 - 2) + b"\xff\xd9"


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_no_honest_image_is_rejected_by_reason(name: str) -> None:
    reason, make = REJECTED[name]
    assert reason_of(lambda: decode(make())) == reason


def test_equal_faults_have_equal_details() -> None:
    """Rows of rejected.jsonl must not differ from run to run."""
    cut = saved(quadrants(), "GIF")[:20]
    details = set()
    for _ in range(2):
        with pytest.raises(Rejected) as caught:
            decode(cut)
        details.add(caught.value.detail)
    assert len(details) == 1


def test_text_bombs_are_never_expanded() -> None:
    data = encode(quadrants(), "png")
    bomb = zlib.compress(bytes(50_000_000), 9)
    for name, body in ((b"zTXt", b"Comment\0\0" + bomb), (b"iCCP", b"x\0\0" + bomb)):
        assert np.array_equal(decode(data[:33] + chunk(name, body) + data[33:]).pixels, quadrants())


def test_junk_in_a_jpeg_header_is_cut_out_and_noted() -> None:
    data = saved(textured(), "JPEG")
    junk = data[:20] + b"\0\1\2" + data[20:]
    image = decode(junk)
    assert image.notes == ("repaired",)
    assert not image.verbatim
    assert np.array_equal(image.pixels, decode(data).pixels)
    assert reason_of(lambda: decode(junk[:-9])) == "truncated"


def test_decoders_keep_quiet() -> None:
    program = """
import struct, zlib, numpy as np
from img2img_data.images.io import decode, encode
from img2img_data.core.errors import Rejected
png = encode(np.zeros((9, 9, 3), np.uint8), "png")
tiff = b"II*\\0" + b"\\x08\\0\\0\\0" + b"\\xff" * 99
for data in (png[:60] + b"????" + png[64:], png[:29] + b"????" + png[33:], tiff):
    try:
        decode(data)
    except Rejected:
        pass
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=60
    )
    assert done.stderr == b""


# ---- files
def test_reading_takes_regular_files_only(tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    good.write_bytes(saved(quadrants(), "JPEG"))
    assert read(good).size == read(os.fsencode(good)).size == read(str(good)).size == (32, 24)
    (tmp_path / "empty.jpg").touch()
    assert reason_of(lambda: read(tmp_path / "empty.jpg")) == "empty"
    assert reason_of(lambda: read(tmp_path / "no such.jpg")) == "vanished"
    assert reason_of(lambda: read(tmp_path)) == "not-a-regular-file"
    assert reason_of(lambda: read("a\0b.jpg")) == "name"
    assert reason_of(lambda: read(tmp_path / ("n" * 999))) == "name"
    assert reason_of(lambda: read_bytes(good, 10)) == "file-too-big"
    with (tmp_path / "sparse.jpg").open("wb") as hole:
        hole.truncate(6 << 30)
    assert reason_of(lambda: read(tmp_path / "sparse.jpg")) == "file-too-big"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_sockets_links_and_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.jpg").write_bytes(saved(quadrants(), "JPEG"))
    os.mkfifo("pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
    for name in ("pipe.jpg", "socket.jpg", "/dev/zero"):
        assert reason_of(lambda name=name: read(name)) == "not-a-regular-file"
    Path("link.jpg").symlink_to("good.jpg")
    Path("loop.jpg").symlink_to("loop.jpg")
    Path("zero.jpg").symlink_to("/dev/zero")
    for name in ("link.jpg", "loop.jpg", "zero.jpg"):
        assert reason_of(lambda name=name: read(name)) == "link"
    odd = b"caf\xe9 \xff\n.jpg"
    with open(odd, "wb") as file:
        file.write(Path("good.jpg").read_bytes())
    assert read(odd).size == (32, 24)


def test_fit_rejects_what_it_would_scale_to_a_huge_image_to_cut_it() -> None:
    long = np.zeros((40, 20_000, 3), np.uint8)
    with pytest.raises(Rejected, match=r"too-many-pixels.*500000 x 1000.*100,000,000"):
        fit(long, (1000, 1000), "crop")
    assert fit(long, (1000, 1000), "stretch").shape == (1000, 1000, 3)


@pytest.mark.parametrize(("width", "height"), [(10_001, 10_000), (65_501, 200), (501, 1)])
def test_what_is_too_large_to_be_read_says_the_limit(width: int, height: int) -> None:
    limits = "more than 100,000,000 pixels|more than 65,500 pixels|longer than 500 : 1"
    with pytest.raises(Rejected, match=limits):
        decode(resized_png(width, height))
    with pytest.raises(ValueError, match=limits):
        parse_size(f"{width}x{height}")


# ---- framing and color
@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(64, 64), (7, 30), (30, 7), (1, 1), (100, 20)])
@pytest.mark.parametrize("shape", [(24, 32, 3), (1, 1, 3), (50, 3, 3), (17, 90)])
def test_fit_gives_the_size_and_keeps_a_flat_color(
    shape: tuple[int, ...], size: tuple[int, int], how: Any
) -> None:
    flat = np.full(shape, 77, np.uint8)
    fitted = fit(flat, size, how)
    assert fitted.shape == (size[1], size[0], *shape[2:])
    assert (fitted == 77).all()
    assert fitted.flags.c_contiguous


def test_fit_frames_around_the_centre() -> None:
    pixels = quadrants(32, 24)
    assert fit(pixels, (32, 24), "error") is pixels
    assert fit(pixels, (32, 24), "crop") is pixels
    assert reason_of(lambda: fit(pixels, (24, 24), "error")) == "size"
    assert np.array_equal(fit(pixels, (24, 24), "crop"), pixels[:, 4:28])
    padded = fit(pixels, (32, 32), "pad")
    assert np.array_equal(padded[4:28], pixels)
    assert np.array_equal(padded[3], pixels[1])
    assert fit(pixels.astype(np.uint16), (9, 9), "crop").dtype == np.uint16


def test_lab_comes_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    lab = color.rgb_to_lab(pixels)
    assert color.rgb_to_lab(np.uint8([[[255, 255, 255], [0, 0, 0]]])).tolist() == [
        [[255, 128, 128], [0, 128, 128]]
    ]
    assert np.abs(color.lab_to_rgb(lab).astype(int) - pixels).mean() < 1.5
    wide = to_16_bit(pixels)
    back = color.lab_to_rgb(color.rgb_to_lab(wide))
    assert back.dtype == np.uint16
    assert np.abs(to_8_bit(back).astype(int) - pixels).max() <= 1


def test_the_luma_of_any_image_is_one_plane() -> None:
    for kind in (np.uint8, np.uint16):
        pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 4)).astype(kind)
        gray = luminance(np.ascontiguousarray(pixels[..., :3]))
        assert gray.shape == (64, 48)
        assert gray.dtype == kind
        assert np.array_equal(luminance(pixels), gray)
        assert luminance(gray) is gray


DECODE_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import cv2
from img2img_data.core.errors import Rejected
from img2img_data.images.io import ReadPolicy, decode

cv2.setNumThreads(1)
small, large = (Path(name).read_bytes() for name in sys.argv[1:])
decode(small, ReadPolicy())  # imports what it needs
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (40 << 20),) * 2)
try:
    decode(large, ReadPolicy())
except Rejected as rejected:
    print(rejected.reason)
except MemoryError:
    print("out-of-memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.parametrize("format", ["JPEG", "progressive", "PNG", "TIFF", "WEBP", "GIF", "TGA"])
def test_a_lack_of_memory_is_not_the_fault_of_an_image(format: str, tmp_path: Path) -> None:
    """Another run tries such an image again, but never a corrupt one."""
    options: dict[str, dict[str, Any]] = {
        "progressive": {"progressive": True},
        "TIFF": {"compression": "tiff_lzw"},
        "TGA": {"compression": "tga_rle"},
    }
    kind = "JPEG" if format == "progressive" else format
    for name, side in (("small", 32), ("large", 6000)):
        image = Image.new("RGB", (side, side))
        (tmp_path / name).write_bytes(saved(image, kind, **options.get(format, {})))
    command = [sys.executable, "-c", DECODE_WITH_LITTLE_MEMORY, "small", "large"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert result.stdout == b"out-of-memory\n", result.stderr.decode()
