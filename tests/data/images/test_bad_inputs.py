"""Nine hundred odd, damaged and hostile files: each is rejected, or right to two levels.

Pillow, which reads most of them too, is the reference; where the two disagree, ``ONLY_PILLOW`` and
``ONLY_HERE`` say why. Both tables are exact: an entry that no file needs any more fails the test as
well.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL import __version__ as pillow_version

from img2img_data.core.errors import REASONS
from img2img_data.images.io import ReadPolicy, read
from img2img_data.sources.folder import list_folder

Pixels = np.ndarray[Any, np.dtype[Any]]
OLD_PILLOW = int(pillow_version.partition(".")[0]) < 13

ONLY_PILLOW = {
    "*.psd": "Photoshop's format is not read here",
    "jpeg-crashtest/*": "damaged in the middle: Pillow fills up with gray what it cannot decode",
    "pillow/hopper_bad_exif.jpg": "a wrong length in its header: 1,214 coded bytes are skipped",
    "pillow/bmp/b/badrle.bmp": "its run lengths leave the image",
    "pillow/hopper_rle8_row_overflow.bmp": "its run lengths leave the row",
    "pillow/mmap_error.bmp": "its pixels begin inside the palette",
    "pngsuite/xcsn0g01.png": "a wrong checksum, which Pillow does not check",
    "pillow/*hopper_bigtiff.tif": "BigTIFF is not read here",
    "pillow/10ct_32bit_128.tiff": "does not say whether 0 is black or white",
    "pillow/12bit.cropped.tif": "12 bits a sample",
    "pillow/hopper_gray_4bpp.tif": "4 bits a sample",
    "pillow/tiff_gray_2_4_bpp/*": "2 or 4 bits a sample",
    "pillow/tiff_wrong_bits_per_sample_2.tiff": "contradicts itself: 1 and 8 bits a sample",
    "pillow/16_bit_binary_pgm.tiff": "signed 32-bit samples",
    "pillow/16bit.s.tif": "signed samples: it is unclear which one is black",
    "pillow/8bit.s.tif": "signed samples",
    "pillow/separate_planar_extra_samples.tiff": "signed samples",
    "pillow/*lab*.tif": "Lab samples in a TIFF",
    "pillow/hopper.Lab.tif": "Lab samples in a TIFF",
    "pillow/hopper_lzma.tif": "TIFF compressed by LZMA",
    "pillow/old-style-jpeg-compression*.tif": "TIFF with old-style JPEG compression",
    "pillow/tiff_strip_cmyk_16l_jpeg.tif": "CMYK of 16 bits",
    "pillow/tiff_*_planar_16bit_RGB*.tiff": "16 bits stored plane by plane",
}
"""Files that Pillow opens and that are rejected here, and why."""

ONLY_HERE = {
    "pillow/bmp/g/rgb32bf.bmp": "bit fields that Pillow does not know",
    "pillow/bmp/q/rgb16-231.bmp": "bit fields that Pillow does not know",
    "pillow/bmp/q/rgb32-111110.bmp": "bit fields that Pillow does not know",
    "pillow/bmp/q/rgba16-4444.bmp": "bit fields that Pillow does not know",
    "pillow/bmp/q/rgba32abf.bmp": "bit fields that Pillow does not know",
    "pillow/apng/chunk_no_fctl.png": "the animation is broken, its first frame is complete",
    "pillow/png_decompression_dos.png": "a text chunk is a bomb; texts are dropped unread",
    "pillow/unknown_compression_method.png": "an unknown packing of a profile, which is dropped",
}
"""Files that are read here and not by Pillow, and why."""

BEFORE_13 = {
    "pillow/bmp/*/pal4rle*.bmp": "its runs of 4-bit samples come out wrong",
    "pillow/crash-*.tif": "faxes with a bad code word, which newer ones and OpenCV read on from",
}
"""Files that Pillow before 13 reads otherwise than newer ones do, or not at all."""

OLD_OPENCV = int(cv2.__version__.partition(".")[0]) < 5
BEFORE_5 = {
    "pillow/bmp/q/pal8rletrns.bmp": "pixels that its runs skip have another color",
    "pillow/separate_planar_extra_samples.tiff": "it is read",
}
"""Files that OpenCV before 5 reads otherwise than newer ones do."""


@pytest.fixture(scope="module")
def folder(real_data: Path) -> Path:
    return real_data / "bad-inputs"


@pytest.fixture(scope="module")
def corpus(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bad") / "corpus"
    run("blur", folder, out)
    return out


def run(command: str, source: Path, out: Path) -> str:
    argv = [sys.executable, "-m", "img2img_data", command, str(source), str(out), "--max-bad", "1"]
    done = subprocess.run(
        [*argv, "--jobs", "2"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stderr.splitlines()
    lines = [line for line in said if not line.startswith((f"{command}: ", "next: "))]
    assert not lines, "nothing but progress"
    return done.stdout


def rows(path: Path) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for row in map(json.loads, path.read_text().splitlines())}


def by_pillow(path: Path) -> Pixels:
    """Return upright RGB on white, 0..255."""
    with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
        assert opened.width * opened.height <= 100_000_000, "a bomb"
        opened.load()
        clear = opened.info.get("transparency")
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            levels = np.asarray(image).astype(np.float32)
            levels[levels == clear] = 65535
            return np.dstack([levels / 257] * 3)
        if image.mode == "F":
            return np.dstack([np.clip(np.asarray(image), 0, 1) * 255] * 3)
        color = np.asarray(image.convert("RGBA")).astype(np.float32)
    return color[..., :3] * color[..., 3:] / 255 + 255 - color[..., 3:]


def explained(name: str, table: dict[str, str]) -> list[str]:
    return [pattern for pattern in table if fnmatchcase(name, pattern)]


def test_every_file_is_kept_or_rejected_for_a_reason(folder: Path, corpus: Path) -> None:
    listed = {item.path.decode() for item in list_folder(folder)}
    kept, rejected = rows(corpus / "train" / "metadata.jsonl"), rows(corpus / "rejected.jsonl")
    assert kept.keys() | rejected.keys() == listed
    assert not kept.keys() & rejected.keys()
    assert len(listed) > 900
    assert len(kept) > 650
    for row in rejected.values():
        assert row["reason"] in REASONS
        assert row["detail"] or row["reason"] in {"empty", "not-an-image"}


def test_select_rejects_the_same_and_copies_the_rest(
    folder: Path, corpus: Path, tmp_path: Path
) -> None:
    run("select", folder, tmp_path / "chosen")
    kept = rows(tmp_path / "chosen" / "metadata.jsonl")
    small = {
        n
        for n, r in rows(tmp_path / "chosen" / "rejected.jsonl").items()
        if r["reason"] == "too-small"
    }
    assert kept.keys() | small == rows(corpus / "train" / "metadata.jsonl").keys() | small
    for row in list(kept.values())[::10]:
        copy = (tmp_path / "chosen" / row["file_name"]).read_bytes()
        assert copy == (folder / row["source"]).read_bytes()


def test_what_is_kept_is_what_pillow_sees(folder: Path, corpus: Path) -> None:
    used = set[str]()
    for name, row in rows(corpus / "train" / "metadata.jsonl").items():
        decoded = cv2.imread(str(corpus / "train" / row["target_file_name"]), cv2.IMREAD_COLOR)[
            ..., ::-1
        ]
        if OLD_PILLOW and explained(name, BEFORE_13):
            continue
        if OLD_OPENCV and explained(name, BEFORE_5):
            continue
        try:
            expected = by_pillow(folder / name)
        except Exception:
            assert explained(name, ONLY_HERE), f"{name} is read here alone"
            used.update(explained(name, ONLY_HERE))
            continue
        assert expected.shape == decoded.shape, name
        assert np.abs(expected - decoded).max() <= 2, name
    assert used == ONLY_HERE.keys()


def test_what_is_rejected_though_pillow_opens_it_is_explained(folder: Path, corpus: Path) -> None:
    used = set[str]()
    for name in rows(corpus / "rejected.jsonl"):
        try:
            by_pillow(folder / name)
        except Exception:
            continue
        assert explained(name, ONLY_PILLOW), f"{name} is read by Pillow alone"
        used.update(explained(name, ONLY_PILLOW))
    assert used == ONLY_PILLOW.keys() - (BEFORE_5.keys() if OLD_OPENCV else ())


def test_16_bits_are_those_that_pillow_sees(folder: Path) -> None:
    seen = 0
    for item in list_folder(folder):
        path = folder / item.path.decode()
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
                if not image.mode.startswith("I;16") or "transparency" in image.info:
                    continue
                expected = np.asarray(ImageOps.exif_transpose(image))
            decoded = read(path, ReadPolicy(depth=16, channels="gray"))
        except Exception:
            continue
        assert np.array_equal(decoded.pixels, expected), path.name
        assert not {"depth", "widened"} & set(decoded.notes)
        seen += 1
    assert seen >= 10


def test_transparency_is_what_pillow_sees(folder: Path) -> None:
    seen = 0
    for item in list_folder(folder):
        path = folder / item.path.decode()
        try:
            decoded = read(path, ReadPolicy(channels="rgba"))
            with warnings.catch_warnings(action="ignore"), Image.open(path) as opened:
                if "opaque" in decoded.notes or opened.mode in {"1", "L", "I;16"}:
                    continue  # Pillow does not scale the transparent level of 1 to 4 bits
                expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGBA")).astype(
                    np.int16
                )
        except Exception:
            continue
        visible = expected[..., 3] > 0
        assert np.abs(decoded.pixels[..., 3] - expected[..., 3]).max() <= 1, path.name
        color = np.abs(decoded.pixels - expected)[visible][:, :3] * (expected[visible][:, 3:] / 255)
        assert color.max(initial=0) <= 2, path.name
        seen += 1
    assert seen >= 100
