"""Fingerprints of images, by which exact and near copies are found.

*Exact* copies have the same pixels, whatever their files. *Near* copies look the same: scaled,
compressed again, brighter, blurred, without color, cropped a little. Two images are near copies if

1. their hashes differ in at most ``distance`` of 64 bits: the signs of the 64 lowest frequencies,
   in zigzag order and without the mean, of the cosine transform of 32 x 32 gray samples (after
   Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", which
   thresholds at the median; the sign separates as well and has no parity);
2. their aspects differ by no more than a tenth; and
3. one explains the other: a thumbnail of 16 x 16 is regressed on the other's level, shift and scale
   (one step of Lucas & Kanade 1981, "An iterative image registration technique"), and the multiple
   correlation is at least 0.97, the contrast not halved or doubled. This removes what the hashes of
   aligned faces have in common.

A *flat* image, a sky or a blank page, has fewer than 32 of those 64 frequencies above two gray
levels; the signs of the others are noise, so flat images have exact copies only. A mirrored or
turned image is another image, except for ``inspect.leakage``, which can compare all eight turns.

Measured at distance 8, on 4,402 photos (3,362 faces aligned alike, 550 of Yosemite, 200 of BSDS500,
290 scenes), with copies of every third planted (``benchmarks/duplicates.py``); share found:

=====================================================  ======
scaled to 70 %; JPEG of quality 50; 10 levels
brighter; blurred, sigma 1.5; without color            1.000
cropped by 1 % on each side                            0.996
cropped by 2 % on two sides (left and top)             0.939
cropped by 2 % on each side                            0.890
mirrored (another image)                               0.000
=====================================================  ======

Among the photos themselves it finds 17 exact and 19 near copies; each pair looks like one photo,
most of them faces cropped a second time. Without the third test, 160 pairs of different people
would join them, of at most 0.961 in correlation, where the true pairs have 0.993 and more. Crops
cost more where shapes are sharp: of portraits on plain ground, sketches and label maps cropped by
2 % on two sides, 0.6 are found.

With ``--mirrored``, no photo is taken for a mirrored or turned copy of another one (9.7 million
pairs, each in eight turns), and of such copies the same share is found as of upright ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.images.pixels import Pixels, luminance, to_8_bit

GRID: Final = 32
"""Side of the samples whose frequencies are hashed."""
THUMB: Final = 16
"""Side of the thumbnail that confirms a near copy."""
SURE_LEVEL, SURE_FREQUENCIES = 2.0, 32
MIN_CORRELATION: Final = 0.97
MAX_GAIN: Final = 2.0
MAX_ASPECT: Final = 1.1

MISSING, REJECTED, FLAT, HASHED = range(4)
"""Kinds of fingerprints: not written yet, of a rejected image, of a flat one, of any other."""

RECORD: Final = np.dtype(
    [
        ("check", "<u4"),
        ("kind", "u1"),
        ("stamp", "<i8", (2,)),
        ("digest", "<u8", (2,)),
        ("hash", "<u8"),
        ("aspect", "<f4"),
        ("pixels", "<u4"),
        ("thumb", "u1", (THUMB, THUMB)),
    ]
)
"""One fingerprint on disk, 313 bytes."""

BANDS: Final = ((0, 13), (13, 13), (26, 13), (39, 13), (52, 12))
"""First bit and number of bits of each band of a hash; all hold low and high frequencies alike."""

Words = NDArray[np.uint64]


def _frequencies() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows and columns of the 64 hashed frequencies, dealt out to the bands in turn."""
    zigzag = sorted((i + j, i, j) for i in range(GRID // 2) for j in range(GRID // 2) if i + j)[:64]
    dealt = [zigzag[k] for band in range(len(BANDS)) for k in range(band, 64, len(BANDS))]
    return np.array([d[1] for d in dealt]), np.array([d[2] for d in dealt])


_ROWS, _COLUMNS = _frequencies()


# ---------------------------------------------------------------------------------- fingerprints
def fingerprint(pixels: Pixels | None, stamp: tuple[int, int] = (0, 0)) -> bytes:
    """Return the record of an image: H x W or H x W x 3, uint8 or uint16; None: a rejected one.

    ``stamp``: two numbers that tell whether the file is still the same. Takes 0.3 ms for 256 x 256
    pixels.
    """
    record = np.zeros((), RECORD)
    record["stamp"], record["kind"] = stamp, REJECTED
    if pixels is not None:
        # Shape and type count: the same bytes as another shape are another image.
        digest = blake2b(repr((pixels.shape, pixels.dtype.str)).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels).data)
        record["digest"] = np.frombuffer(digest.digest(), "<u8")
        gray = luminance(to_8_bit(pixels) if pixels.dtype == np.uint16 else pixels)
        spectrum = cv2.dct(_shrink(gray, GRID).astype(np.float32))[_ROWS, _COLUMNS]
        sure = (np.abs(spectrum) > SURE_LEVEL).sum() >= SURE_FREQUENCIES
        record["kind"] = HASHED if sure else FLAT
        record["hash"] = np.packbits(spectrum > 0, bitorder="little").view("<u8")[0]
        height, width = pixels.shape[:2]
        record["aspect"], record["pixels"] = width / height, width * height
        record["thumb"] = _shrink(gray, THUMB)
    record["check"] = zlib.crc32(record.tobytes()[4:])
    return record.tobytes()


def _shrink(gray: Pixels, side: int) -> Pixels:
    return cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)


class FingerprintFile:
    """Records of ``count`` images in a file, each at its place; complete ones survive a kill."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        # Not truncated: records of an earlier run are used again. Unbuffered: a kill loses nothing.
        path.touch()
        self._file = path.open("r+b", buffering=0)
        self._file.truncate(count * RECORD.itemsize)

    def __enter__(self) -> FingerprintFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def write(self, place: int, record: bytes) -> None:
        """Write the record of an image."""
        self._file.seek(place * RECORD.itemsize)
        self._file.write(record)

    def stamps(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Yield place and stamp of each record that is there and undamaged."""
        records = self._records()
        for place in map(int, np.flatnonzero(records["kind"] != MISSING)):
            if zlib.crc32(records[place].tobytes()[4:]) == int(records["check"][place]):
                size, time = map(int, records["stamp"][place])
                yield place, (size, time)

    def load(self, largest_first: bool = False) -> Fingerprints:
        """Return the fingerprints, 37 bytes each in memory; usable while the file is open.

        ``largest_first``: sorted by number of pixels, then size of the file, then place.
        """
        names, records = ("kind", "digest", "hash", "aspect"), self._records()
        order = np.arange(self.count)
        if largest_first:
            order = np.lexsort((-records["stamp"][:, 0], -records["pixels"].astype(np.int64)))
        types, digests, hashes, aspects = (records[name][order] for name in names)
        return Fingerprints(types, digests, hashes, aspects, order, self._file)

    def _records(self) -> NDArray[Any]:
        # Mapped, not read: thumbnails are most of the file. An empty file cannot be mapped.
        return np.memmap(self.path, RECORD, "r") if self.count else np.zeros(0, RECORD)


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Fingerprints of images in an order; thumbnails are read from the open file when needed."""

    types: NDArray[np.uint8]
    digests: Words
    hashes: Words
    aspects: NDArray[np.float32]
    order: NDArray[np.int64]
    """Place of each in the file."""
    file: FileIO

    def __len__(self) -> int:
        return len(self.types)

    def thumb(self, place: int) -> NDArray[np.uint8]:
        """Return the thumbnail of an image."""
        self.file.seek((int(self.order[place]) + 1) * RECORD.itemsize - THUMB * THUMB)
        return np.frombuffer(self.file.read(THUMB * THUMB), np.uint8).reshape(THUMB, THUMB)

    def confirm(self, place: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for each of the others that is similar enough to the image at ``place``."""
        ratio = np.abs(np.log(self.aspects[others] / self.aspects[place]))
        thumbs = np.stack([self.thumb(int(other)) for other in others])
        correlation, gain = explain(self.thumb(place), thumbs)
        good = (correlation >= MIN_CORRELATION) & (gain <= MAX_GAIN) & (gain >= 1 / MAX_GAIN)
        return np.asarray(good & (ratio <= np.log(MAX_ASPECT)))


def explain(
    thumb: NDArray[Any], others: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how well one thumbnail, S x S, explains each of N others, N x S x S; and the contrast
    ratio.

    The first is the multiple correlation (0..1) of the other's samples with 1, the thumbnail, its
    two derivatives, and these times their coordinate: level, contrast, shift and scale along both
    axes to first order.
    """
    base = thumb.astype(np.float64)
    across = np.linspace(-1, 1, len(base))
    down, right = np.gradient(base)
    columns = [np.ones_like(base), base, right, down, right * across, down * across[:, None]]
    basis, triangle = np.linalg.qr(np.stack([c.ravel() for c in columns], 1))
    samples = others.reshape(len(others), -1).astype(np.float64)
    parts = samples @ basis
    variation = ((samples - samples.mean(1, keepdims=True)) ** 2).sum(1)
    residual = ((samples - parts @ basis.T) ** 2).sum(1)
    correlation = np.sqrt(np.clip(1 - residual / np.maximum(variation, 1e-9), 0, 1))
    gain = np.linalg.lstsq(triangle, parts.T, rcond=None)[0][1]
    return correlation, gain
