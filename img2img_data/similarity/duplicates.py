"""Copies of images: groups of copies in one set, and copies in different splits.

``perceptual_hash`` defines what exact and near copies are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from img2img_data.similarity.perceptual_hash import BANDS, FLAT, HASHED, Fingerprints, Words

EXACT: Final = -1
"""Distance of exact copies."""
MAX_DISTANCE: Final = 9
"""Bits; the index would miss some copies at a larger distance."""

_BLOCK, _STEP = 4096, 64
_MAX_PAIRS: Final = 1 << 22
"""Pairs of hashes compared at once."""
_MAX_CONFIRMED: Final = 256
"""Hashes near one that are compared as images: the nearest."""

Places = NDArray[np.int64]
"""Positions of images in their set."""
_Probe = tuple[int, Places, Places]
"""A band, and for each query the start and the number of the hashes to compare."""


# ------------------------------------------------------------------------------------------- search
class HashIndex:
    """Finds all hashes within a few bits of another, without comparing each with each.

    Multi-index hashing (Norouzi, Punjani & Fleet 2012, "Fast search in Hamming space with
    multi-index hashing", section 3): of the five bands of two hashes that differ in up to nine
    bits, one differs in at most one bit, so only hashes that share a band, except for one bit, are
    compared.
    """

    def __init__(self, hashes: Words) -> None:
        self._hashes = hashes
        self._order, self._starts = [], []
        for band, (_, bits) in enumerate(BANDS):
            part = _band(hashes, band)
            self._order.append(np.argsort(part, kind="stable").astype(np.uint32))
            counts = np.bincount(part, minlength=1 << bits)
            self._starts.append(np.concatenate(([0], np.cumsum(counts))))

    def near(self, queries: Words, distance: int) -> Iterator[tuple[Places, Places]]:
        """Yield pairs (places in ``queries``, places in the index) within ``distance`` bits,
        sorted.

        They come in batches, to bound the memory; all pairs of one query are in one batch.
        """
        probes = [p for band in range(len(BANDS)) for p in self._probes(queries, band, distance)]
        sizes = np.sum([count for _, _, count in probes], 0)
        parts = np.cumsum(sizes) // _MAX_PAIRS
        for rows in np.split(np.arange(len(queries)), np.flatnonzero(np.diff(parts)) + 1):
            found = [self._compare(queries, rows, distance, probe) for probe in probes]
            # A pair is one number here, so that those found by several bands are easy to merge.
            pairs = np.unique(np.concatenate(found))
            first, second = pairs >> np.uint64(32), pairs & np.uint64(0xFFFFFFFF)
            yield first.astype(np.int64), second.astype(np.int64)

    def _probes(self, queries: Words, band: int, distance: int) -> Iterator[_Probe]:
        """Yield the hashes that share a band, or all but one bit of it."""
        starts = self._starts[band]
        flips = [0, *(1 << b for b in range(BANDS[band][1]))] if distance >= len(BANDS) else [0]
        for flip in flips:
            part = (_band(queries, band) ^ np.uint16(flip)).astype(np.int64)
            yield band, starts[part], starts[part + 1] - starts[part]

    def _compare(self, queries: Words, rows: Places, distance: int, probe: _Probe) -> Words:
        band, starts, counts = probe
        count = counts[rows]
        query = np.repeat(rows, count)
        within = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
        found = self._order[band][np.repeat(starts[rows], count) + within]
        close = np.bitwise_count(queries[query] ^ self._hashes[found]) <= distance
        pairs = (query[close].astype(np.uint64) << np.uint64(32)) | found[close].astype(np.uint64)
        return np.asarray(pairs, np.uint64)


def _band(hashes: Words, band: int) -> NDArray[np.uint16]:
    start, bits = BANDS[band]
    return ((hashes >> np.uint64(start)) & np.uint64((1 << bits) - 1)).astype(np.uint16)


# ------------------------------------------------------------------------------------------- groups
class DuplicateGroups:
    """Groups of copies: exact ones, and near ones if ``distance`` > 0.

    ``kept[i]`` is the place of the image that is kept instead of image i, i itself if it is kept;
    places are those in the file of fingerprints. ``distances`` are 0..9 bits, or ``EXACT``. A
    rejected image is its own group.

    Groups are stars, not chains: going through the images in the order of ``prints``, each that is
    near an earlier *kept* one becomes a copy of the nearest such (of the first, if equally near);
    any other is kept. So a copy is near the image that is kept for it, no two kept ones are near
    each other, and a row of images that each differ a little from the last does not end up in one
    group. Copies of a copy count with it.
    """

    def __init__(self, prints: Fingerprints, distance: int) -> None:
        self._prints, self._distance = prints, distance
        self.kept = _first_of_equal(prints)
        own = self.kept == np.arange(len(prints))
        self.distances = np.where(own, 0, EXACT).astype(np.int8)
        if distance > 0:
            self._join_near(np.flatnonzero((prints.types == HASHED) & own))
            through = self.kept[self.kept] != self.kept
            # An exact copy of a near copy belongs to the image that is kept for that one.
            self.distances[through] = self.distances[self.kept[through]]
            self.kept[through] = self.kept[self.kept[through]]
        order = prints.order
        self.kept[order], self.distances[order] = order[self.kept], self.distances.copy()

    def members(self) -> Iterator[tuple[int, Places]]:
        """Yield each kept image that has copies, with the places of its copies, in order."""
        copies = np.flatnonzero(self.kept != np.arange(len(self.kept)))
        return _grouped(self.kept[copies], copies)

    def _join_near(self, places: Places) -> None:
        """Go through the places in blocks: each against all that was kept before, then within.

        Only kept images are compared with, so a million frames of one scene cost no more than
        other images.
        """
        hashes = self._prints.hashes
        kept_before = array("q")
        for start in range(0, len(places), _BLOCK):
            block = places[start : start + _BLOCK]
            before = np.array(kept_before, np.int64)
            for asked, found in HashIndex(hashes[before]).near(hashes[block], self._distance):
                for at, others in _grouped(asked, before[found]):
                    self._join_nearest(int(block[at]), others)
            fresh = block[:0]
            # A step is compared with kept images of the block only: few, in a row of copies.
            for part in np.split(block, range(_STEP, len(block), _STEP)):
                pool = np.concatenate((fresh, part))
                close = np.bitwise_count(hashes[part][:, None] ^ hashes[pool]) <= self._distance
                close &= pool < part[:, None]
                for row in np.flatnonzero(close.any(1)):
                    self._join_nearest(int(part[row]), pool[close[row]])
                fresh = np.concatenate((fresh, part[self.kept[part] == part]))
            kept_before.extend(fresh.tolist())

    def _join_nearest(self, place: int, others: Places) -> None:
        """Make an image a copy of the nearest of the others that is kept and confirmed, if any."""
        others = others[self.kept[others] == others]
        for nearest, bits in _confirmed(self._prints, place, others):
            if self.kept[place] == place or bits < self.distances[place]:
                self.kept[place], self.distances[place] = nearest, bits


def _first_of_equal(prints: Fingerprints) -> Places:
    """Return for each image the place of the first one with the same pixels."""
    first = np.arange(len(prints))
    used = np.flatnonzero(prints.types >= FLAT)
    # As one text of 16 bytes each: NumPy sorts rows of two numbers much slower.
    digests = prints.digests[used].view("S16")[:, 0]
    _, index, inverse = np.unique(digests, return_index=True, return_inverse=True)
    first[used] = used[index[inverse]]
    return first


def _confirmed(prints: Fingerprints, place: int, others: Places) -> Iterator[tuple[int, int]]:
    """Yield the nearest of the others that is confirmed as a copy of an image, and its distance."""
    bits = np.bitwise_count(prints.hashes[others] ^ prints.hashes[place])
    order = np.lexsort((others, bits))[:_MAX_CONFIRMED]
    if len(order):
        good = np.flatnonzero(prints.confirm(place, others[order]))[:1]
        yield from zip(map(int, others[order[good]]), map(int, bits[order[good]]), strict=True)


def _grouped(heads: NDArray[Any], places: Places, least: int = 1) -> Iterator[tuple[int, Places]]:
    """Yield (head, its places in order) for each head with at least ``least`` places."""
    order = np.argsort(heads, kind="stable")
    names, starts, counts = np.unique(heads[order], return_index=True, return_counts=True)
    for group in np.flatnonzero(counts >= least):
        start = starts[group]
        yield int(names[group]), places[order[start : start + counts[group]]]


# ------------------------------------------------------------------------------------------- splits
def copies_across_splits(
    prints: Fingerprints, splits: NDArray[np.uint8], distance: int, turns: int = 1
) -> Iterator[tuple[int, int, int]]:
    """Yield (place, place of its nearest copy in an earlier split, distance in bits or ``EXACT``).

    ``splits`` numbers the split of each fingerprint. One row for each image and each split of a
    lower number that has a copy of it. Each image has ``turns`` fingerprints, one after the other:
    its first is compared with all of the others.
    """
    exact = set[tuple[int, int]]()
    for _, copies in _grouped(_first_of_equal(prints), np.arange(len(prints)), least=2):
        heads = [(split, int(same[0])) for split, same in _grouped(splits[copies], copies)]
        for place in map(int, copies[copies % turns == 0]):
            for split, head in heads:
                if split < splits[place]:
                    exact.add((place, split))
                    yield place, head, EXACT
    places = np.flatnonzero(prints.types == HASHED)
    if distance <= 0 or not len(places):
        return
    index, upright = HashIndex(prints.hashes[places]), places[places % turns == 0]
    for start in range(0, len(upright), _BLOCK):
        block = upright[start : start + _BLOCK]
        for asked, found in index.near(prints.hashes[block], distance):
            across = splits[places[found]] < splits[block[asked]]
            for at, others in _grouped(asked[across], places[found[across]]):
                place = int(block[at])
                for split, candidates in _grouped(splits[others], others):
                    if (place, split) not in exact:
                        for other, bits in _confirmed(prints, place, candidates):
                            yield place, other, bits
