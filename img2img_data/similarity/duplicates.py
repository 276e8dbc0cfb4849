"""The same image twice: groups of copies in one set, and copies across splits.

What a copy is, exact or near, ``fingerprints`` says.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from img2img_data.similarity.perceptual_hash import BANDS, FLAT, HASHED, Prints, Words

EXACT: Final = -1
"""The distance of exact copies."""
MAX_DISTANCE: Final = 9
"""Bits; of more the index would not find all."""

_BLOCK, _STEP = 4096, 64
_CANDIDATES: Final = 1 << 22
"""Pairs compared at once."""
_CONFIRMED: Final = 256
"""How many of the hashes near one are looked at as images: the nearest."""


# ----------------------------------------------------------------------------------------- search
class HashIndex:
    """Finds the hashes within a few bits, all of them, without comparing each with each.

    Multi-index hashing (Norouzi, Punjani & Fleet 2012, "Fast search in Hamming space with multi-index
    hashing", section 3): of five parts of two hashes that differ in up to nine bits, one differs in at most
    one bit, so only hashes that share a part, but for one bit, are compared.
    """

    def __init__(self, hashes: Words) -> None:
        self._hashes = hashes
        self._order, self._starts = [], []
        for band, (_, bits) in enumerate(BANDS):
            part = _part(hashes, band)
            self._order.append(np.argsort(part, kind="stable").astype(np.uint32))
            self._starts.append(
                np.concatenate(([0], np.cumsum(np.bincount(part, minlength=1 << bits))))
            )

    def near(
        self, wanted: Words, distance: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield pairs (places in ``wanted``, places in the index) within ``distance``, sorted, part by part.

        All pairs of one place in ``wanted`` come in one part; a part is as small as memory wants it.
        """
        probes = [p for band in range(len(BANDS)) for p in self._probes(wanted, band, distance)]
        sizes = np.sum([count for _, _, count in probes], 0)
        parts = np.cumsum(sizes) // _CANDIDATES
        for rows in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(parts)) + 1):
            found = [self._compare(wanted, rows, distance, *probe) for probe in probes]
            both = np.unique(np.concatenate(found))
            yield (
                (both >> np.uint64(32)).astype(np.int64),
                (both & np.uint64(0xFFFFFFFF)).astype(np.int64),
            )

    def _probes(
        self, wanted: Words, band: int, distance: int
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Yield (band, begin, count) of the hashes that share a part with each wanted one."""
        flips = [0, *(1 << b for b in range(BANDS[band][1]))] if distance >= len(BANDS) else [0]
        starts = self._starts[band]
        for flip in flips:
            part = (_part(wanted, band) ^ np.uint16(flip)).astype(np.int64)
            yield band, starts[part], starts[part + 1] - starts[part]

    def _compare(
        self,
        wanted: Words,
        rows: NDArray[np.int64],
        distance: int,
        band: int,
        low: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> Words:
        number = counts[rows]
        query = np.repeat(rows, number)
        within = np.arange(len(query)) - np.repeat(np.cumsum(number) - number, number)
        there = self._order[band][np.repeat(low[rows], number) + within]
        close = _bits(wanted[query] ^ self._hashes[there]) <= distance
        pairs = (query[close].astype(np.uint64) << np.uint64(32)) | there[close].astype(np.uint64)
        return np.asarray(pairs, np.uint64)


def _part(hashes: Words, band: int) -> NDArray[np.uint16]:
    start, bits = BANDS[band]
    return ((hashes >> np.uint64(start)) & np.uint64((1 << bits) - 1)).astype(np.uint16)


def _bits(words: Words) -> NDArray[np.uint8]:
    """Return how many bits are set in each word."""
    if hasattr(np, "bitwise_count"):
        return np.asarray(np.bitwise_count(words))
    each = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1)
    return np.asarray(each.sum(1), np.uint8)


# ----------------------------------------------------------------------------------------- groups
@dataclass(frozen=True, slots=True)
class Groups:
    """For each image the place of the one that is kept instead, its own where it is kept itself.

    ``distances`` are 0..9 bits, or ``EXACT``. A image without fingerprint is its own group.
    """

    kept: NDArray[np.int64]
    distances: NDArray[np.int8]

    def members(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield each kept image that has copies, with the places of these, in order."""
        dropped = np.flatnonzero(self.kept != np.arange(len(self.kept)))
        dropped = dropped[np.argsort(self.kept[dropped], kind="stable")]
        yield from _by_head(self.kept[dropped], dropped)


def group(prints: Prints, distance: int) -> Groups:
    """Return which images are copies of an earlier one: exact ones, and near ones where ``distance`` > 0.

    Groups are stars, not chains: going through the images in order, each that is near one *kept* before
    becomes a copy of the nearest such (the first, where equally near); any other is kept. So a copy is near
    the image that is kept for it, no two kept ones are near each other, and a row of images each a little
    different from the last does not end in one group. The copies of a copy count with it.
    """
    kept = _first_of_equal(prints)
    distances = np.where(kept == np.arange(len(kept)), 0, EXACT).astype(np.int8)
    if distance > 0:
        places = np.flatnonzero((prints.kinds == HASHED) & (kept == np.arange(len(kept))))
        _join_near(prints, places, distance, kept, distances)
        through = kept[kept] != kept
        distances[through] = distances[kept[through]]
        kept[through] = kept[kept[through]]
    return Groups(kept, distances)


def _first_of_equal(prints: Prints) -> NDArray[np.int64]:
    """Return for each image the first one with the same pixels."""
    first = np.arange(len(prints))
    used = np.flatnonzero(prints.kinds >= FLAT)
    digests = prints.digests[used]
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    same = np.concatenate(([False], (digests[order][1:] == digests[order][:-1]).all(1)))[
        : len(order)
    ]
    heads = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    first[used[order]] = used[order[heads]]
    return first


def _join_near(
    prints: Prints,
    places: NDArray[np.int64],
    distance: int,
    kept: NDArray[np.int64],
    distances: NDArray[np.int8],
) -> None:
    """Go through the places in blocks: first against all that was kept before, then within the block.

    Only kept images are compared with, so that a million frames of one scene cost no more than others.
    """
    stay = array("q")
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        before = np.array(stay, np.int64)
        for asked, found in HashIndex(prints.hashes[before]).near(prints.hashes[block], distance):
            for at, others in _by_head(asked, before[found]):
                _settle(prints, int(block[at]), others, kept, distances)
        fresh = block[:0]
        for part in np.split(block, range(_STEP, len(block), _STEP)):
            pool = np.concatenate((fresh, part))
            close = _bits(prints.hashes[part][:, None] ^ prints.hashes[pool]) <= distance
            close &= pool < part[:, None]
            for row in np.flatnonzero(close.any(1)):
                _settle(prints, int(part[row]), pool[close[row]], kept, distances)
            fresh = np.concatenate((fresh, part[kept[part] == part]))
        stay.extend(fresh.tolist())


def _settle(
    prints: Prints,
    place: int,
    others: NDArray[np.int64],
    kept: NDArray[np.int64],
    distances: NDArray[np.int8],
) -> None:
    """Make a image a copy of the nearest of the others that are kept and look like it, if any does."""
    others = others[kept[others] == others]
    found = _confirmed(prints, place, others)
    if len(found):
        bits = int(_bits(prints.hashes[found[:1]] ^ prints.hashes[place])[0])
        if kept[place] == place or bits < distances[place]:
            kept[place], distances[place] = found[0], bits


def _confirmed(prints: Prints, place: int, others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return those of the others that look like a image, the nearest first; looks at 256."""
    bits = _bits(prints.hashes[others] ^ prints.hashes[place])
    others = others[np.lexsort((others, bits))][:_CONFIRMED]
    return others[prints.confirm(place, others)] if len(others) else others


def _by_head(
    heads: NDArray[Any], values: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield (head, its values); equal heads stand together."""
    names, starts = np.unique(heads, return_index=True)
    yield from zip(map(int, names), np.split(values, starts[1:]), strict=False)


# ------------------------------------------------------------------------------------------ leaks
def leaks(
    prints: Prints, splits: NDArray[np.uint8], distance: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (place, place of a copy in an earlier split, distance): of each copy the nearest one there.

    ``splits`` numbers the split of each image. One row for each image and each split of a lower number
    that has a copy of it.
    """
    exact = set[tuple[int, int]]()
    first = _first_of_equal(prints)
    for copies in _equal(first):
        heads = {int(s): int(copies[splits[copies] == s][0]) for s in np.unique(splits[copies])}
        for place in map(int, copies):
            for split, head in heads.items():
                if split < splits[place]:
                    exact.add((place, split))
                    yield place, head, EXACT
    places = np.flatnonzero(prints.kinds == HASHED)
    if distance <= 0 or not len(places):
        return
    index = HashIndex(prints.hashes[places])
    for start in range(0, len(places), _BLOCK):
        block = places[start : start + _BLOCK]
        for asked, found in index.near(prints.hashes[block], distance):
            crossing = splits[places[found]] < splits[block[asked]]
            for at, others in _by_head(asked[crossing], places[found[crossing]]):
                yield from _nearest(prints, splits, int(block[at]), others, exact)


def _nearest(
    prints: Prints,
    splits: NDArray[np.uint8],
    place: int,
    others: NDArray[np.int64],
    exact: set[tuple[int, int]],
) -> Iterator[tuple[int, int, int]]:
    for split in np.unique(splits[others]):
        found = _confirmed(prints, place, others[splits[others] == split])
        if len(found) and (place, int(split)) not in exact:
            yield (
                place,
                int(found[0]),
                int(_bits(prints.hashes[found[:1]] ^ prints.hashes[place])[0]),
            )


def copies_within(prints: Prints, splits: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Yield (place, place of the first image with the same pixels in the same split)."""
    for copies in _equal(_first_of_equal(prints)):
        for split in np.unique(splits[copies]):
            head, *rest = map(int, copies[splits[copies] == split])
            yield from ((place, head) for place in rest)


def _equal(first: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the places of images with equal pixels, those that have any."""
    order = np.argsort(first, kind="stable")
    _, starts, counts = np.unique(first[order], return_index=True, return_counts=True)
    for start, count in zip(starts[counts > 1], counts[counts > 1], strict=True):
        yield order[start : start + count]
