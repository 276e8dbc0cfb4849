"""What there is to do: every source with its key, sorted, before the first image is read.

A plan holds a million sources in some 60 MB: their paths one behind the other, what is known about them as
JSON only where something is, and a byte that tells how the key is made. Tasks are made on demand.
"""

from __future__ import annotations

import heapq
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from unicodedata import normalize

from img2img_data.corpus.format import Kind, digest, key_forms, key_in_form
from img2img_data.corpus.layouts import FolderLayout, LayoutEntry, Span
from img2img_data.runner.settings import BuildSettings, parse_split
from img2img_data.runner.splits import Strata, check_tag, group_of, stratum_of
from img2img_data.sources.folder import Item, find_tags
from img2img_data.sources.matching import Matching
from img2img_data.sources.tags import FolderTags

_RUN: Final = 1 << 16
"""How many sources are sorted at once; their keys exist as text only meanwhile."""


GIVEN: Final = 255
"""The form of a key that the source itself gives."""


@dataclass(frozen=True, slots=True)
class Task:
    """One pair to make: its sources, relative to the plan's roots, under its key."""

    index: int
    key: str
    root: int
    sources: tuple[bytes, ...]
    tags: Mapping[str, Any]
    rejected: tuple[str, str] | None
    split: str = ""
    """The split, where the plan as a whole or the source itself decides it; else its group's hash does."""
    spans: tuple[Span, ...] = ()
    """Where the sources lie, if in archives."""


@dataclass(slots=True)
class Column:
    """Byte strings, one behind the other: 8 bytes each besides their own, where a list takes 41 more."""

    data: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))

    def append(self, value: bytes) -> None:
        """Put one more behind the last."""
        self.data += value
        self.ends.append(len(self.data))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        return bytes(self.data[self.ends[row - 1] if row else 0 : self.ends[row]])

    def __iter__(self) -> Iterator[bytes]:
        start = 0
        for end in self.ends:
            yield bytes(self.data[start:end])
            start = end


@dataclass(slots=True)
class Plan:
    """Everything there is to do, sorted by key; a task is made when its turn comes.

    Rows stand in the order they were found. ``order`` sorts them; ``mine`` holds the places in that order
    that this run does, all of them or a shard's.
    """

    roots: tuple[bytes, ...]
    kind: Kind = "paired"
    sides: bytearray = field(default_factory=bytearray)
    first: Column = field(default_factory=Column)
    second: Column = field(default_factory=Column)
    """The other half of each pair; no rows at all where tasks have one source."""
    notes: Column = field(default_factory=Column)
    """Tags and rejection of each row as JSON; nothing where there is neither."""
    forms: bytearray = field(default_factory=bytearray)
    order: array[int] = field(default_factory=lambda: array("q"))
    mine: Sequence[int] = ()
    tags: tuple[FolderTags | None, ...] = ()
    """Of each root: what its own lists say about its images."""
    splits: Sequence[str] = ()
    split_at: Sequence[int] = ()
    """For each place in the order that of its split in ``splits``; empty where hashes of groups decide."""

    def __len__(self) -> int:
        return len(self.mine)

    def task(self, index: int) -> Task:
        """Return a task of this run, ready to be sent to a worker."""
        return self._task(index, self.mine[index])

    def task_of_all(self, place: int) -> Task:
        """Return a task of the whole order, of this run or not; its index is the place."""
        return self._task(place, place)

    def _task(self, index: int, place: int) -> Task:
        row = self.order[place]
        note = self.notes[row]
        tags, rejected, *given = json.loads(note) if note else ({}, None)
        sources, split = (
            self._sources(row),
            self.splits[self.split_at[place]] if self.split_at else "",
        )
        spans: tuple[Span, ...] = ()
        if given:
            _, split, parts = given
            spans = tuple((bytes.fromhex(archive), start, size) for archive, start, size in parts)
        if self.tags:
            tags = {**self._listed_tags(self.sides[row], sources), **tags}
        rejected = rejected and tuple(rejected)
        return Task(index, self._key(row), self.sides[row], sources, tags, rejected, split, spans)

    def _listed_tags(self, root: int, sources: tuple[bytes, ...]) -> dict[str, Any]:
        """Return what the folders' lists say about a task's sources; of what both halves say, the first's."""
        out: dict[str, Any] = {}
        for number in reversed(range(len(sources)) if self.tags else ()):
            found = self.tags[root + number]
            if found is not None:
                out.update(found.get(sources[number]))
        return out

    def find_tags(self) -> Plan:
        """Look for lists of tags beside the images; returns itself."""
        self.tags = tuple(
            find_tags(name, self._paths(root)) for root, name in enumerate(self.roots)
        )
        return self

    def _paths(self, root: int) -> Iterator[bytes]:
        yield from (path for path, side in zip(self.first, self.sides, strict=True) if side == root)
        yield from (path for path in (self.second if root else ()) if path)

    def tag_names(self) -> set[str]:
        """Return the names of the tags that the folders' own lists have."""
        return {name for found in self.tags if found is not None for name in found.names}

    def tags_digest(self) -> dict[str, str]:
        """Return what a recipe says of the lists of tags: nothing where there are none."""
        found = [t.digest if t else "" for t in self.tags]
        return {"source_tags": " ".join(found)} if any(found) else {}

    def assign_splits(self, settings: BuildSettings) -> None:
        """Decide every split now where ``--stratify`` asks for it; ``UsageError`` for an unknown tag."""
        check_tag(settings.group_by, "--group-by", self.tag_names())
        check_tag(settings.stratify, "--stratify", self.tag_names())
        if settings.stratify is None:
            return
        import numpy as np

        strata, chosen = Strata(settings.seed), array("q")
        for task in map(self.task_of_all, range(len(self.order))):
            if not task.rejected:
                path, side = task.sources[0], f"{task.root}/" if self.kind == "unpaired" else ""
                group = group_of(path, task.tags, settings.group_by)
                strata.add(group, side + stratum_of(path, task.tags, settings.stratify))
                chosen.append(task.index)
        shares = parse_split(settings.split)
        splits = np.zeros(len(self.order), np.uint8)
        splits[np.frombuffer(chosen, np.int64)] = strata.split(shares.values())
        self.splits, self.split_at = tuple(shares), splits.tobytes()

    def names_digest(self) -> str:
        """Return a digest of all source names: tells whether the folder holds other files now."""
        h = blake2b(digest_size=8)
        for row in self.order:
            name = b"\0".join([str(self.sides[row]).encode(), *self._sources(row)])
            h.update(len(name).to_bytes(8, "little") + name)
        return h.hexdigest()

    def shard(self, number: int, of: int) -> Plan:
        """Return the plan of one part, numbered from 1: by a hash of each first source's path.

        Keys and ``names_digest`` stay those of the whole, so the parts join to what a plain run makes.
        """
        places = (place for place in self.mine if self._part(self.order[place], of) == number - 1)
        return replace(self, mine=array("q", places))

    def _part(self, row: int, of: int) -> int:
        return int.from_bytes(digest(b"shard", self.first[row]), "little") % of

    def finder(self) -> Callable[[int, bytes, str], int | None]:
        """Return the way from (root, path of the first source, key) to the index of the task that it is."""
        import numpy as np

        hashes = np.array([self._hash(self.order[place]) for place in self.mine], np.uint64)
        by_hash = np.argsort(hashes, kind="stable")
        hashes = hashes[by_hash]

        def find(root: int, path: bytes, key: str) -> int | None:
            wanted = np.uint64(_hash_of(root, path))
            low, high = (int(np.searchsorted(hashes, wanted, side)) for side in ("left", "right"))
            for index in map(int, by_hash[low:high]):
                task = self.task(index)
                if (task.root, task.sources[0], task.key, task.rejected) == (root, path, key, None):
                    return index
            return None

        return find

    def _add(
        self,
        side: int,
        sources: Sequence[bytes],
        tags: Mapping[str, Any],
        rejected: object,
        *given: object,
    ) -> None:
        self.sides.append(side)
        self.first.append(sources[0])
        if len(self.roots) > 1 and self.kind == "paired":
            self.second.append(sources[1] if len(sources) > 1 else b"")
        noted = tags or rejected or given
        self.notes.append(json.dumps([tags, rejected, *given]).encode() if noted else b"")

    def _sources(self, row: int) -> tuple[bytes, ...]:
        other = self.second[row] if len(self.second) else b""
        return (self.first[row], other) if other else (self.first[row],)

    def _key(self, row: int) -> str:
        if self.forms[row] == GIVEN:
            return str(json.loads(self.notes[row])[2])
        return key_in_form(self.first[row], self.forms[row])

    def _hash(self, row: int) -> int:
        return _hash_of(self.sides[row], self.first[row])

    def _sort(self, rows: Iterable[int]) -> None:
        """Append the rows to the order, sorted by key; those of pairs then by side and sources.

        Elsewhere rows of one key are of one path: they stay in the order they were found.
        """
        of_pairs = len(self.second) > 0
        key = (lambda r: (self._key(r), self.sides[r], self._sources(r))) if of_pairs else self._key
        self.order.extend(_in_order(array("q", rows), key))
        self.mine = range(len(self.order))


def _hash_of(root: int, path: bytes) -> int:
    return int.from_bytes(digest(bytes([root]), path), "little")


def _in_order(rows: array[int], key: Callable[[int], Any]) -> Iterable[int]:
    """Return rows sorted by ``key``, in runs merged only where they overlap: few keys exist at once."""
    runs = [array("q", sorted(rows[i : i + _RUN], key=key)) for i in range(0, len(rows), _RUN)]
    if all(key(a[-1]) <= key(b[0]) for a, b in pairwise(runs)):
        return (row for run in runs for row in run)
    return heapq.merge(*runs, key=key)


def plan_folders(roots: Sequence[Path], kind: Kind, items: Sequence[Iterable[Item]]) -> Plan:
    """Plan one task for each source: of one folder, or of the two domains of an unpaired corpus."""
    plan = Plan(tuple(os.fsencode(r) for r in roots), kind)
    ends = [0]
    for side, found in enumerate(items):
        for item in found:
            plan._add(side, (item.path,), item.tags, item.rejected)
        ends.append(len(plan.first))
        plan.forms += key_forms(plan.first, ends[-2], ends[-1])
    for start, end in pairwise(ends):
        plan._sort(range(start, end))
    return plan.find_tags()


def plan_pairs(roots: Sequence[Path], matching: Matching) -> Plan:
    """Plan one task for each matched pair, and a rejection for each unmatched file."""
    plan = Plan(tuple(os.fsencode(r) for r in roots))
    for pair in matching.pairs:
        plan._add(0, pair, {}, None)
    for side in (0, 1):
        start = len(plan.first) if side else 0
        for path, reason, detail in ((p, r, d) for s, p, r, d in matching.unmatched if s == side):
            plan._add(side, (path,), {}, (reason, detail))
        plan.forms += key_forms(plan.first, start, len(plan.first))
    plan._sort(range(len(plan.first)))
    return plan.find_tags()


def plan_entries(root: Path, layout: FolderLayout, entries: Iterable[LayoutEntry]) -> Plan:
    """Plan one task for each entry of another tool's folder, with the key and the split it has there.

    Where two of a split would share a key, the later one's ends in a digest of its path.
    """
    roots = (os.fsencode(root),) * (1 if layout.layout == "combined" else 2)
    plan, seen = Plan(roots, layout.kind), set[bytes]()
    for entry in entries:
        key = entry.key
        mark = digest(
            entry.split.encode(), bytes([entry.side]), normalize("NFC", key.casefold()).encode()
        )
        if mark in seen and not entry.rejected:
            key += "~" + digest(entry.sources[0]).hex()
        seen.add(mark)
        spans = [(path.hex(), start, size) for path, start, size in entry.spans]
        plan._add(entry.side, entry.sources, entry.tags, entry.rejected, key, entry.split, spans)
        plan.forms.append(GIVEN)
    sides = (0, 1) if layout.kind == "unpaired" else (None,)
    for side in sides:
        plan._sort(row for row in range(len(plan.first)) if side in (None, plan.sides[row]))
    return plan
