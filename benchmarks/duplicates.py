"""Near copies: recall on planted copies, copies among real photos, cost of a million hashes.

::

    python benchmarks/duplicates.py --photos FOLDER [--photos FOLDER ...]    recall and real copies
    python benchmarks/duplicates.py --photos FOLDER ... --mirrored           the same of all turns
    python benchmarks/duplicates.py --hashes 1000000                         time and memory

Altered copies of every ``--every``-th photo are planted. Copies among the photos themselves are
printed, to be checked by eye.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from data import argument_parser

from img2img_data.core.errors import Rejected
from img2img_data.images import io
from img2img_data.images.pixels import luminance
from img2img_data.similarity.duplicates import DuplicateGroups, Places, copies_across_splits
from img2img_data.similarity.perceptual_hash import (
    FLAT,
    HASHED,
    RECORD,
    FingerprintFile,
    fingerprint,
)
from img2img_data.sources.folder import list_folder

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def cut(photo: Pixels, left: float, top: float, right: float, bottom: float) -> Pixels:
    """Return a photo without some shares of its width and height at the borders."""
    height, width = photo.shape[:2]
    rows = slice(round(top * height), height - round(bottom * height))
    return np.ascontiguousarray(photo[rows, round(left * width) : width - round(right * width)])


def scaled(photo: Pixels, factor: float) -> Pixels:
    """Return a photo resized by a factor."""
    size = max(1, round(photo.shape[1] * factor)), max(1, round(photo.shape[0] * factor))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


ALTERATIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "scaled to 70 %": lambda p: scaled(p, 0.7),
    "JPEG of quality 50": lambda p: io.decode(io.encode(p, "jpg", 50)).pixels,
    "10 levels brighter": lambda p: cv2.add(p, np.full_like(p, 10)),
    "blurred, sigma 1.5": lambda p: cv2.GaussianBlur(p, (0, 0), 1.5),
    "without color": lambda p: cv2.cvtColor(luminance(p), cv2.COLOR_GRAY2RGB),
    "cut by 1 % on each side": lambda p: cut(p, 0.01, 0.01, 0.01, 0.01),
    "cut by 2 % on two sides": lambda p: cut(p, 0.02, 0.02, 0, 0),
    "cut by 2 % on each side": lambda p: cut(p, 0.02, 0.02, 0.02, 0.02),
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
}


def group(
    prints: list[bytes], distance: int
) -> tuple[DuplicateGroups, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Return the groups of fingerprints, and their types (``HASHED``, ``FLAT`` ...)."""
    with (
        tempfile.TemporaryDirectory() as folder,
        FingerprintFile(Path(folder) / "prints", len(prints)) as file,
    ):
        for place, data in enumerate(prints):
            file.write(place, data)
        loaded = file.load()
        return DuplicateGroups(loaded, distance), loaded.types


def measure_recall(folders: list[Path], every: int, distance: int) -> None:
    """Print the copies among photos, and the share of planted copies that is found."""
    names, prints = [], []
    planted: dict[str, list[tuple[int, bytes]]] = {name: [] for name in ALTERATIONS}
    for folder in folders:
        for number, item in enumerate(list_folder(folder)):
            try:
                pixels = io.read(folder / Path(item.path.decode())).pixels
            except Rejected:
                continue
            if min(pixels.shape[:2]) >= 16 and number % every == 0:
                for name, alter in ALTERATIONS.items():
                    planted[name].append((len(names), fingerprint(alter(pixels))))
            names.append(f"{folder.name}/{item.path.decode()}")
            prints.append(fingerprint(pixels))
    groups, types = group(prints, distance)
    print(f"{len(names):,} photos, {(types == FLAT).sum()} flat")
    for place in np.flatnonzero(groups.kept != np.arange(len(names))):
        print(f"  {names[place]}  is  {names[groups.kept[place]]}  at {groups.distances[place]}")
    for name, copies in planted.items():
        found = 0
        for start in range(0, len(copies), 400):
            part = copies[start : start + 400]
            both = [x for place, data in part for x in (prints[place], data)]
            kept = group(both, distance)[0].kept
            found += int((kept[0::2] == kept[1::2]).sum())
        print(f"{name:<26} {found / max(len(copies), 1):.4f} of {len(copies):,}")


def turns_of(photo: Pixels) -> list[bytes]:
    """Return the fingerprints of a photo, turned and mirrored."""
    return [fingerprint(np.rot90(p, turn)) for p in (photo, photo[:, ::-1]) for turn in range(4)]


def measure_turned(folders: list[Path], every: int, distance: int) -> None:
    """Print the turned copies among photos, and the share of planted ones that is found."""
    names, prints = [], []
    planted: dict[str, list[bytes]] = {name: [] for name in ALTERATIONS}
    for folder in folders:
        for number, item in enumerate(list_folder(folder)):
            try:
                pixels = io.read(folder / Path(item.path.decode())).pixels
            except Rejected:
                continue
            turns = turns_of(pixels)
            if min(pixels.shape[:2]) >= 16 and number % every == 0:
                for name, alter in ALTERATIONS.items():
                    # Turned by another number of steps for each photo.
                    turned = np.rot90(alter(pixels[:, ::-1]), len(names))
                    planted[name] += [*turns, *turns_of(np.ascontiguousarray(turned))]
            names.append(f"{folder.name}/{item.path.decode()}")
            prints += turns
    print(f"{len(names):,} photos in 8 turns")
    # The numbers of any two photos differ in one bit at least.
    for bit in range(len(names).bit_length()):
        for place, other, bits in across(prints, np.arange(len(names)) >> bit & 1, distance):
            if other % 8:
                print(f"  {names[place // 8]}  is  {names[other // 8]}  at {bits}, turned")
    for name, both in planted.items():
        groups = [both[start : start + 16] for start in range(0, len(both), 16)]
        found = sum(bool(across(group, np.arange(2), distance)) for group in groups)
        print(f"{name:<26} {found / max(len(groups), 1):.4f} of {len(groups):,}, mirrored, turned")


def across(prints: list[bytes], splits: Places, distance: int) -> list[tuple[int, int, int]]:
    """Return the copies of photos of split 1 in split 0, each with 8 fingerprints."""
    with (
        tempfile.TemporaryDirectory() as folder,
        FingerprintFile(Path(folder) / "prints", len(prints)) as file,
    ):
        file.write(0, b"".join(prints))
        splits = np.repeat(splits.astype(np.uint8), 8)
        return list(copies_across_splits(file.load(), splits, distance, 8))


def measure_search(count: int, distance: int) -> None:
    """Print time and memory of the search among random hashes, 1 % of them near copies."""
    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        FingerprintFile(Path(folder) / "prints", count) as file,
    ):
        for start in range(0, count, 10_000):
            part = np.zeros(min(10_000, count - start), RECORD)
            part["kind"], part["aspect"] = HASHED, 1
            part["digest"] = rng.integers(0, 2**63, (len(part), 2), np.uint64)
            part["hash"] = rng.integers(0, 2**64, len(part), np.uint64, endpoint=False)
            part["thumb"] = rng.integers(0, 256, part["thumb"].shape, np.uint8)
            part["hash"][1::100] = part["hash"][::100] ^ np.uint64(0b1011)
            part["thumb"][1::100] = part["thumb"][::100]
            file.write(start, part.tobytes())
        began = time.perf_counter()
        prints = file.load()
        loaded = time.perf_counter()
        groups = DuplicateGroups(prints, distance)
        done = time.perf_counter()
    dropped = int((groups.kept != np.arange(count)).sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{count:,} hashes: loaded in {loaded - began:.1f} s, grouped in {done - loaded:.1f} s, "
        f"{dropped:,} copies, peak memory {peak:.0f} MB"
    )


def main() -> None:
    """Run the measurements that options ask for."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--photos", type=Path, action="append", default=[], help="folder of photos")
    add("--every", type=int, default=1, help="plant copies of every N-th photo")
    add("--mirrored", action="store_true", help="find mirrored and turned copies instead")
    add("--hashes", type=int, default=0, help="number of random hashes to search")
    add("--distance", type=int, default=8, help="largest distance of copies, in bits")
    args = parser.parse_args()
    if args.photos:
        measure = measure_turned if args.mirrored else measure_recall
        measure(args.photos, args.every, args.distance)
    if args.hashes:
        measure_search(args.hashes, args.distance)


if __name__ == "__main__":
    main()
