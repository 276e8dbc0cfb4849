"""What there is to do: every source with its key, sorted, before the first picture is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from img2img_data.corpus import Keys, Kind, digest
from img2img_data.matching import Matching
from img2img_data.sources import Item


@dataclass(frozen=True, slots=True)
class Task:
    """One pair to make: its sources, relative to the plan's roots, under its key."""

    index: int
    key: str
    root: int
    sources: tuple[bytes, ...]
    tags: Mapping[str, Any]
    refused: tuple[str, str] | None


@dataclass(slots=True)
class Plan:
    """Everything there is to do, sorted by key; a task is made when its turn comes."""

    roots: tuple[bytes, ...]
    entries: list[tuple[int, tuple[bytes, ...], Item]]
    keys: list[Keys]
    kind: Kind = "paired"

    def key(self, index: int) -> str:
        """Return the key of a task."""
        root, sources, _ = self.entries[index]
        return self.keys[root][sources[0]]

    def task(self, index: int) -> Task:
        """Return a task, ready to be sent to a worker."""
        root, sources, item = self.entries[index]
        return Task(index, self.key(index), root, sources, item.tags, item.refused)

    def names_digest(self) -> str:
        """Return a digest of all source names: tells whether the folder holds other files now."""
        return digest(*(b"\0".join([str(r).encode(), *s]) for r, s, _ in self.entries)).hex()


def plan_folders(roots: Sequence[Path], kind: Kind, items: Sequence[Iterable[Item]]) -> Plan:
    """Plan one task for each source: of one folder, or of the two domains of an unpaired corpus."""
    entries: list[tuple[int, tuple[bytes, ...], Item]] = []
    keys = []
    for root, found in enumerate(items):
        part = [(root, (item.path,), item) for item in found]
        names = Keys(list(dict.fromkeys(sources[0] for _, sources, _ in part)))
        part.sort(key=lambda e: (names[e[1][0]], e[1]))
        entries += part
        keys.append(names)
    return Plan(tuple(os.fsencode(r) for r in roots), entries, keys, kind)


def plan_pairs(roots: Sequence[Path], matching: Matching) -> Plan:
    """Plan one task for each matched pair, and a refusal for each loose file."""
    entries: list[tuple[int, tuple[bytes, ...], Item]] = [
        (0, pair, Item(pair[0])) for pair in matching.pairs
    ] + [
        (side, (path,), Item(path, refused=(reason, detail))) for side, path, reason, detail in matching.loose
    ]
    keys = [Keys([s[0] for r, s, _ in entries if r == side]) for side in (0, 1)]
    entries.sort(key=lambda e: (keys[e[0]][e[1][0]], e[0], e[1]))
    return Plan(tuple(os.fsencode(r) for r in roots), entries, keys)
