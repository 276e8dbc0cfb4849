"""Plan: every source of a run with its key and split, sorted before the first image is read.

A plan holds a million sources in about 60 MB: the paths in one byte string, tags as JSON for those
sources that have any, and one byte for the form of each key. Tasks are created on demand.
"""

from __future__ import annotations

import functools
import heapq
import json
import os
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from img2img_data.core import tar
from img2img_data.core.command_line import Progress
from img2img_data.core.errors import Rejected, UsageError, printable
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus import format as corpus_format
from img2img_data.corpus.format import Kind, digest, hash64, split_place
from img2img_data.corpus.layouts import FolderLayout, Span
from img2img_data.images import io
from img2img_data.sources.folder import NO_TAGS, FolderTags, Item, find_tags
from img2img_data.sources.matching import Matching

_SORTED_AT_ONCE: Final = 1 << 16
"""Sources per sorted run; the keys of only one run exist as text at a time."""

EXTERNAL_KEY: Final = 255
"""Key form of a source whose key comes from another tool's folder."""


class ImageTask(NamedTuple):
    """Unit of work: the sources of a pair or image, relative to the plan's roots, and its key."""

    # A tuple, because a data class takes several times as long on its way to a worker.

    index: int  # type: ignore[assignment]  # of the plan, not the method of tuples
    key: str
    root: int
    sources: tuple[bytes, ...]
    tags: Mapping[str, Any]
    rejected: tuple[str, str] | None
    split: str = ""
    """The split if the plan or the source decides it; empty if a hash of the group does."""
    spans: tuple[Span, ...] = ()
    """Positions of the sources within archives, if they are in archives."""
    group_path: bytes = b""
    """The first of several tasks that share a source: all of them get its split."""
    tile: tuple[int, ...] = ()
    """Left and top of the tile of the source that the task is about; empty: the whole source."""
    follow_links: bool = False

    def path(self, roots: Sequence[bytes], number: int = 0) -> bytes:
        """Return the path of a source; ``roots`` are those of the plan."""
        # Of an image in an archive, the archive is the file.
        name = os.fsencode(self.spans[number][0]) if self.spans else self.sources[number]
        path = os.path.join(roots[self.root + number], *name.split(b"/"))
        return os.path.realpath(path) if self.follow_links else path

    def read(self, roots: Sequence[bytes], number: int = 0) -> bytes:
        """Return the bytes of a source.

        Raises ``Rejected``, and as ``tar.content`` for one in an archive.
        """
        if not self.spans:
            return io.read_bytes(self.path(roots, number))
        archive, start, size = self.spans[number]
        if not 0 < size <= io.MAX_BYTES:
            reason = "file-too-big" if size else "empty"
            raise Rejected(reason, f"{size} bytes, limit {io.MAX_BYTES}")
        path = Path(os.fsdecode(roots[self.root + number]), archive)
        return tar.content(path, tar.Member("", start, size))


class SourceNote(NamedTuple):
    """Facts about a source besides its paths, as JSON can hold them.

    ``group``: the first of several sources that share a file, in hexadecimal. ``key`` and ``split``
    are those of another tool, "" if it states none; ``key`` is that of a tile, too.
    """

    tags: Mapping[str, Any] = NO_TAGS
    rejected: Sequence[str] | None = None
    group: str = ""
    key: str = ""
    split: str = ""
    spans: Sequence[Span] = ()
    tile: Sequence[int] = ()


NO_NOTE: Final = SourceNote()


@dataclass(slots=True)
class ByteColumn:
    """Append-only column of byte strings; 8 bytes of overhead per item instead of 49 in a list."""

    data: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q"))

    def append(self, value: bytes) -> None:
        """Append one item."""
        self.data += value
        self.ends.append(len(self.data))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> bytes:
        return bytes(self.data[self.ends[row - 1] if row else 0 : self.ends[row]])

    def __iter__(self) -> Iterator[bytes]:
        return map(self.__getitem__, range(len(self)))


@dataclass(slots=True)
class Plan:
    """All sources of a run, sorted by key.

    Rows are in the order in which the sources were found. ``order`` sorts the rows by key;
    ``selected`` holds the positions in that order that this run processes: all of them, or those
    of one shard.
    """

    roots: tuple[bytes, ...]
    kind: Kind = "paired"
    sides: bytearray = field(default_factory=bytearray)
    first: ByteColumn = field(default_factory=ByteColumn)
    second: ByteColumn = field(default_factory=ByteColumn)
    """The other half of each pair; without rows if tasks have one source."""
    notes: ByteColumn = field(default_factory=ByteColumn)
    """The ``SourceNote`` of each row as a JSON list; empty for ``NO_NOTE``."""
    forms: bytearray = field(default_factory=bytearray)
    order: array[int] = field(default_factory=lambda: array("q"))
    selected: Sequence[int] = ()
    tags: tuple[FolderTags | None, ...] = ()
    """Tags from the lists beside the images, one entry per root."""
    columns: frozenset[str] = frozenset()
    """Names of the tags from a table of pairs."""
    splits: Sequence[str] = ()
    split_at: Sequence[int] = ()
    """Index into ``splits`` for each position in the order; empty if hashes of groups decide."""
    follow_links: bool = False

    def __len__(self) -> int:
        return len(self.selected)

    def task(self, index: int) -> ImageTask:
        """Return a task of this run, ready to be sent to a worker."""
        return self._task(index, self.selected[index])

    def _task(self, index: int, position: int) -> ImageTask:
        row = self.order[position]
        note, sources, side = self._note(row), self._sources(row), self.sides[row]
        split = note.split or (self.splits[self.split_at[position]] if self.split_at else "")
        spans = tuple((archive, start, size) for archive, start, size in note.spans)
        rejected = (note.rejected[0], note.rejected[1]) if note.rejected else None
        # Of the lists beside the images, that of the first source wins.
        tags = note.tags
        for path, listed in zip(sources, self.tags[side:], strict=False):
            tags = {**(listed.get(path) if listed else {}), **tags}
        places = spans, bytes.fromhex(note.group), tuple(note.tile), self.follow_links
        return ImageTask(index, self._key(row), side, sources, tags, rejected, split, *places)

    def _find_tags(self) -> Plan:
        """Read the lists of tags beside the images; return the plan itself."""
        for root, name in enumerate(self.roots):
            first = (p for p, side in zip(self.first, self.sides, strict=True) if side == root)
            second = filter(None, self.second if root else ())
            self.tags += (find_tags(name, chain(first, second), self.follow_links),)
        return self

    @property
    def tag_names(self) -> set[str]:
        """Names of the tags of the images, from lists beside them or from a table of pairs."""
        return {name for found in self.tags if found for name in found.names} | self.columns

    def digests(self) -> dict[str, str]:
        """Return the recipe's entries for the sources: of their names, and of any lists of tags."""
        found = [t.digest if t else "" for t in self.tags]
        tags = {"source_tags": " ".join(found)} if any(found) else {}
        return {"source_names": self.names_digest(), **tags}

    def assign_splits(
        self, shares: Mapping[str, float], group_by: str | None, stratify: str | None, seed: int
    ) -> None:
        """Check the rules, and assign all splits now if ``stratify`` is set.

        Raises ``UsageError`` for an unknown tag.
        """
        check_tag(group_by, "--group-by", self.tag_names)
        check_tag(stratify, "--stratify", self.tag_names)
        self._check_shared(group_by)
        if stratify is None:
            return
        usable: array[int] = array("q")

        def images() -> Iterator[tuple[bytes, str]]:
            for position in range(len(self.order)):
                task = self._task(position, position)
                if not task.rejected:
                    usable.append(position)
                    # The two domains of an unpaired corpus are split separately.
                    path, side = task.sources[0], f"{task.root}/" if self.kind == "unpaired" else ""
                    group = group_of(task.group_path or path, task.tags, group_by)
                    yield group, side + stratum_of(path, task.tags, stratify)

        found = stratified_splits(images(), shares.values(), seed)
        splits = np.zeros(len(self.order), np.uint8)
        splits[np.frombuffer(usable, np.int64)] = found
        self.splits, self.split_at = tuple(shares), splits.tobytes()

    def _check_shared(self, group_by: str | None) -> None:
        """Raise ``UsageError`` if a tag puts pairs that share a file into several groups."""
        groups: dict[bytes, bytes] = {}
        noted = (p for p, row in enumerate(self.order) if tag_in(group_by) and self.notes[row])
        for task in (self._task(position, position) for position in noted):
            group = group_of(task.group_path, task.tags, group_by)
            if task.group_path and groups.setdefault(task.group_path, group) != group:
                why = f"pairs that share '{printable(task.group_path)}' have different values"
                raise UsageError("option", f"--group-by {group_by}", why, "give them one value")

    def names_digest(self) -> str:
        """Return a digest of all source names, and of why some cannot be used."""
        h = blake2b(digest_size=8)
        for row in self.order:
            # The length comes first, so that no two lists of names give the same bytes.
            rejected = self._note(row).rejected
            why = [rejected[0].encode()] if rejected else []
            name = b"\0".join([str(self.sides[row]).encode(), *self._sources(row), *why])
            h.update(len(name).to_bytes(8, "little") + name)
        return h.hexdigest()

    def shard(self, number: int, count: int) -> Plan:
        """Return the plan of one shard, numbered from 1: by a hash of each first source's path.

        Keys and ``names_digest`` stay those of the complete plan, so merged shards equal a plain
        run.
        """
        paths = ((position, self.first[self.order[position]]) for position in self.selected)
        chosen = (p for p, path in paths if hash64(b"shard", path) % count == number - 1)
        return replace(self, selected=array("q", chosen))

    def cut(self, size: tuple[int, int], stride: int | None, progress: Progress) -> Plan:
        """Return the plan with one task per tile of ``size`` (width, height) of each source.

        Tiles are ``stride`` pixels apart, by default side by side, from the top left corner. Their
        number is known from the headers, which are read now; of a pair, those of the input.
        """
        plan = Plan(self.roots, self.kind, follow_links=self.follow_links)
        plan.tags, plan.columns = self.tags, self.columns
        for done, row in enumerate(self.order, 1):
            note, key, sources = self._note(row), self._key(row), self._sources(row)
            note = note._replace(group=note.group or sources[0].hex(), split="", spans=())
            tiles: Iterable[tuple[int, ...]] = [()]
            try:
                if not note.rejected:
                    tiles = _tiles(self._task(0, done - 1).path(self.roots), size, stride)
            except Rejected as found:
                note = note._replace(rejected=(found.reason, found.detail))
            for tile in tiles:
                # Numbers of one length, so that keys with them are as different as those without.
                name = "_".join([key, *(f"{n:05d}" for n in tile)])
                plan._add(self.sides[row], sources, note._replace(key=name, tile=tile))
            progress(done, len(self.order))
        return plan._sort_external()

    def sample(self, count: int, seed: int) -> Plan:
        """Return the plan of ``count`` of its sources, chosen by a hash of path and seed."""
        mark = b"sample%d" % seed
        places = heapq.nsmallest(count, self.order, lambda row: hash64(mark, self.first[row]))
        order = array("q", filter(set(places).__contains__, self.order))
        return replace(self, order=order, selected=range(len(order)))

    def find(self, root: int, sources: tuple[bytes, ...], key: str) -> int | None:
        """Return the index of the usable task with these sources and this key, or None."""
        # The domains of an unpaired corpus are sorted one after the other.
        by_side = self.kind == "unpaired"

        def place(position: int) -> tuple[int, str]:
            row = self.order[position]
            return self.sides[row] if by_side else 0, self._key(row)

        start = bisect_left(self.selected, (root if by_side else 0, key), key=place)
        tasks = takewhile(lambda task: task.key == key, map(self.task, range(start, len(self))))
        usable = (t for t in tasks if (t.root, t.sources, t.rejected) == (root, sources, None))
        return next((task.index for task in usable), None)

    def _add(self, side: int, sources: Sequence[bytes], note: SourceNote) -> None:
        self.sides.append(side)
        self.first.append(sources[0])
        if len(self.roots) > 1 and self.kind == "paired":
            self.second.append(sources[1] if len(sources) > 1 else b"")
        self.notes.append(b"" if note == NO_NOTE else json.dumps(note).encode())

    def _note(self, row: int) -> SourceNote:
        note = self.notes[row]
        return SourceNote(*json.loads(note)) if note else NO_NOTE

    def _sources(self, row: int) -> tuple[bytes, ...]:
        other = self.second[row] if len(self.second) else b""
        return (self.first[row], other) if other else (self.first[row],)

    def _key(self, row: int) -> str:
        if self.forms[row] == EXTERNAL_KEY:
            return self._note(row).key
        return corpus_format.key_in_form(self.first[row], self.forms[row])

    def _sort(self, rows: Iterable[int]) -> None:
        """Append the rows to the order, sorted by key; pairs of one key by side and sources.

        Without pairs, rows of one key have one path and stay in the order in which they were found.
        """

        def pair_key(row: int) -> Any:
            return self._key(row), self.sides[row], self._sources(row)

        key: Callable[[int], Any] = pair_key if len(self.second) else self._key
        found = array("q", rows)
        # All keys of a million sources at once would take 100 MB. A scanned folder is almost
        # sorted, so its sorted runs follow each other and need no merge.
        starts = range(0, len(found), _SORTED_AT_ONCE)
        runs = [array("q", sorted(found[i : i + _SORTED_AT_ONCE], key=key)) for i in starts]
        is_sorted = all(key(a[-1]) <= key(b[0]) for a, b in pairwise(runs))
        self.order.extend(chain(*runs) if is_sorted else heapq.merge(*runs, key=key))
        self.selected = range(len(self.order))

    def _sort_external(self) -> Plan:
        """Sort all rows, whose keys are external; return the plan itself."""
        self.forms += bytes([EXTERNAL_KEY]) * len(self.first)
        for side in (0, 1) if self.kind == "unpaired" else (None,):
            self._sort(row for row in range(len(self.first)) if side in (None, self.sides[row]))
        return self


def _tiles(path: bytes, size: tuple[int, int], stride: int | None) -> Iterator[tuple[int, int]]:
    """Return left and top of the tiles of an image, row by row. Raises ``Rejected``."""
    height, width = io.size_of(path)
    if width < size[0] or height < size[1]:
        detail = f"{width} x {height}, smaller than --tile {size[0]} x {size[1]}"
        raise Rejected("too-small", detail)
    tops = range(0, height - size[1] + 1, stride or size[1])
    lefts = range(0, width - size[0] + 1, stride or size[0])
    return ((left, top) for top in tops for left in lefts)


def plan_folders(
    roots: Sequence[Path], kind: Kind, items: Sequence[Iterable[Item]], follow_links: bool = False
) -> Plan:
    """Plan one task per source: of one folder, or of the two domains of an unpaired corpus."""
    plan = Plan(tuple(os.fsencode(r) for r in roots), kind, follow_links=follow_links)
    for side, found in enumerate(items):
        start = len(plan.first)
        for item in found:
            plan._add(side, (item.path,), SourceNote(item.tags, item.rejected))
        plan.forms += corpus_format.key_forms(plan.first, start)
        # The domains of an unpaired corpus are sorted one after the other, as their rows are
        # written.
        plan._sort(range(start, len(plan.first)))
    return plan._find_tags()


def plan_pairs(roots: Sequence[Path], matching: Matching, follow_links: bool = False) -> Plan:
    """Plan one task per matched pair, and one rejection per unmatched file."""
    plan = Plan(tuple(os.fsencode(r) for r in roots), follow_links=follow_links)
    plan.columns = frozenset(chain.from_iterable(matching.tags.values()))
    groups, uses = _groups_of_shared(matching.pairs), Counter(a for a, _ in matching.pairs)
    repeated = [row for row, pair in enumerate(matching.pairs) if uses[pair[0]] > 1]
    for pair in matching.pairs:
        # An input of several targets gives its name to none of them alone.
        key = f"{corpus_format.key_of(pair[0], extension=True)}~{digest(pair[1]).hex()}"
        group, key = groups.get(pair, b"").hex(), key if uses[pair[0]] > 1 else ""
        plan._add(0, pair, SourceNote(matching.tags.get(pair, NO_TAGS), None, group, key))
    for side in (0, 1):
        start = len(plan.first) if side else 0
        for path, reason, detail in ((p, r, d) for s, p, r, d in matching.unmatched if s == side):
            plan._add(side, (path,), SourceNote(rejected=(reason, detail)))
        plan.forms += corpus_format.key_forms(plan.first, start)
    for row in repeated:
        plan.forms[row] = EXTERNAL_KEY
    plan._sort(range(len(plan.first)))
    return plan._find_tags()


def _groups_of_shared(pairs: Sequence[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], bytes]:
    """Return for each pair that shares a file with another the first input of all such pairs."""
    above: dict[tuple[int, bytes], tuple[int, bytes]] = {}

    def top(file: tuple[int, bytes]) -> tuple[int, bytes]:
        while (parent := above.setdefault(file, file)) != file:
            above[file] = file = above[parent]  # path halving
        return file

    for first, second in pairs:
        low, high = sorted((top((0, first)), top((1, second))))
        above[high] = low
    sizes = Counter(top((0, first)) for first, _ in pairs)
    return {p: group[1] for p in pairs if sizes[group := top((0, p[0]))] > 1}


def plan_entries(root: Path, layout: FolderLayout, follow_links: bool = False) -> Plan:
    """Plan one task per entry of another tool's folder, with the key and the split of that folder.

    ``root`` is the folder, or a single archive. If two entries of a split share a key, a digest of
    its path is appended to the later one's.
    """
    folder = os.fsencode(root.parent if root.is_file() else root)
    roots = (folder,) * (1 if layout.layout == "combined" else 2)
    # Digests, not keys, are remembered: 8 bytes each.
    plan, seen = Plan(roots, layout.kind, follow_links=follow_links), set[bytes]()
    for entry in layout.entries(root, follow_links):
        key = entry.key
        # Some file systems take names that differ only in case or in Unicode form as one name.
        mark = digest(entry.split.encode(), bytes([entry.side]), corpus_format.folded(key))
        if mark in seen and not entry.rejected:
            key += "~" + digest(entry.sources[0]).hex()
        seen.add(mark)
        note = SourceNote(entry.tags, entry.rejected, "", key, entry.split, entry.spans)
        plan._add(entry.side, entry.sources, note)
    return plan._sort_external()


# ------------------------------------------------------------------------------- groups and splits
_SPLIT_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_WORD: Final = re.compile(r"[\w-]+")
FOLDER_RULE: Final = "folder"


@functools.cache
def parse_split(text: str) -> Mapping[str, float]:
    """Return the share of each split of "train=0.8,test=0.2". Raises ``ValueError``.

    Empty for "folder" and "tag:NAME": then each image states its split.
    """
    shares: dict[str, float] = {}
    if text == FOLDER_RULE or (text.startswith("tag:") and tag_in(text)):
        return shares
    for part in map(str.strip, text.split(",")):
        name, _, number = part.partition("=")
        if name in shares:
            raise ValueError(f"'{name}' appears twice")
        with suppress(ValueError):
            shares[name] = float(number)
        if not _SPLIT_NAME.fullmatch(name) or not 0 <= shares.get(name, -1) <= 1:
            example = "use train=0.8,val=0.1,test=0.1, 'folder' or tag:NAME"
            raise ValueError(f"'{part}' is not NAME=SHARE (0 to 1); {example}")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares sum to {sum(shares.values()):g}, not to 1")
    return shares


def tag_in(rule: str | None) -> str | None:
    """Return the tag that a rule names ("tag:person", "person"); None for "folder" and expressions.

    "tag:" is for names that are not plain words.
    """
    if rule is None or rule == FOLDER_RULE:
        return None
    if rule.startswith("tag:"):
        return rule.removeprefix("tag:")
    # As a regular expression a plain word would match only itself: all images would be one group.
    return rule if _PLAIN_WORD.fullmatch(rule) else None


def group_of(path: bytes, tags: Mapping[str, Any], rule: str | None) -> bytes:
    """Return the group of an image: its folder, a tag, or the match of an expression in its name.

    An image is a group of its own, named by its path, if ``rule`` is None, if its tag is missing or
    None, or if the expression does not match.
    """
    value = None if rule is None else _value_of(path, tags, rule)
    return path if value is None else value.encode("utf-8", "surrogateescape")


def group_and_split(
    task: ImageTask, split: str, group_by: str | None, seed: int
) -> tuple[bytes, str]:
    """Return the group and the split of a task by the rules of a corpus.

    Raises ``Rejected`` (no-split) if its folder or its tag is to name the split and names none.
    """
    # Decided by name and tags, not by pixels, so that a dry run knows it.
    path = task.group_path or task.sources[0]
    group, shares = group_of(path, task.tags, group_by), parse_split(split)
    if task.split or shares:
        return group, task.split or corpus_format.split_of(group, shares, seed)
    named = _value_of(path, task.tags, split) or ""
    named = named.partition("/")[0] if split == FOLDER_RULE else named
    if not _SPLIT_NAME.fullmatch(named):
        raise Rejected("no-split", f"--split {split}, '{printable(named)}'")
    return group, named


def stratum_of(path: bytes, tags: Mapping[str, Any], rule: str) -> str:
    """Return the stratum of an image: its folder, or its tag; "" if it has none."""
    return _value_of(path, tags, rule) or ""


def _value_of(path: bytes, tags: Mapping[str, Any], rule: str) -> str | None:
    folder, _, name = path.decode("utf-8", "surrogateescape").rpartition("/")
    if rule == FOLDER_RULE:
        return folder
    tag = tag_in(rule)
    if tag is not None:
        value = tags.get(tag)
        text = value if value is None or isinstance(value, str) else json.dumps(value)
        return text or None
    found = re.search(rule, name)
    return (found[1] if found.re.groups else found[0]) or None if found else None


def check_tag(rule: str | None, option: str, known: Iterable[str]) -> None:
    """Raise ``UsageError`` if the rule names a tag that no image has."""
    tag, known = tag_in(rule), set(known)
    if tag is not None and not known:
        hint = "tags come from a metadata.jsonl or .csv beside the images, such as 'select' writes"
        raise UsageError("option", f"{option} {rule}", "the images have no tags", hint)
    if tag is not None and tag not in known:
        hint = did_you_mean(tag, known)
        raise UsageError("option", f"{option} {rule}", "no image has this tag", hint)


def stratified_splits(
    images: Iterable[tuple[bytes, str]], shares: Iterable[float], seed: int
) -> NDArray[np.uint8]:
    """Return for each image, a group and a stratum, the index of its split among ``shares``.

    ``shares`` sum to 1, and each stratum is split exactly. Memory: 12 bytes per image, and about
    100 more while splitting.

    Method: systematic sampling with a random start (Madow & Madow 1944, "On the theory of
    systematic sampling I"). The groups of a stratum lie side by side on a circle, in the order of
    the hash that ``split_of`` uses, each as long as its number of images. The shares are arcs of
    the circle, rotated by a hash of the stratum's name; a group belongs to the arc that contains
    its middle. So each split gets its share of each stratum to within the stratum's largest group,
    to within one image without groups, and exactly if the share is a whole number of images.
    Rounding errors of small strata differ in direction because their rotations differ.

    A group in several strata counts in the one with most of its images; if equal, in the first by
    name.
    """
    places, strata, numbers = array("Q"), array("i"), dict[str, int]()
    for member, name in images:
        places.append(split_place(member, seed))
        strata.append(numbers.setdefault(name, len(numbers)))
    names = sorted(numbers)
    rank = np.empty(len(names), np.int64)
    rank[[numbers[n] for n in names]] = np.arange(len(names))
    # np.unique sorts by the hash, so a group's number is also its position on the circle.
    _, group = np.unique(np.frombuffer(places, np.uint64), return_inverse=True)
    sizes = np.bincount(group)
    stratum = _majority(group, rank[np.frombuffer(strata, np.int32)], len(names))
    turns = np.array([split_place(n.encode("utf-8", "surrogateescape"), seed) for n in names])
    order = np.lexsort((np.arange(len(sizes)), stratum))
    ends = np.cumsum(sizes[order])
    totals = np.bincount(stratum, sizes, len(names))
    starts = np.concatenate(([0], np.cumsum(totals)[:-1]))
    of = stratum[order]
    middles = (ends - sizes[order] / 2 - starts[of]) / totals[of]
    angles = (middles + turns[of] / 2.0**64) % 1
    bounds = np.cumsum(list(shares))[:-1]
    splits = np.empty(len(sizes), np.uint8)
    splits[order] = np.searchsorted(bounds, angles, side="right")
    return splits[group]


def _majority(group: NDArray[Any], stratum: NDArray[Any], strata: int) -> NDArray[np.int64]:
    """Return for each group the stratum of most of its members; the lowest if equal."""
    both, counts = np.unique(group.astype(np.int64) * strata + stratum, return_counts=True)
    ranked = both[np.lexsort((both, -counts, both // strata))]
    _, first = np.unique(ranked // strata, return_index=True)
    return np.asarray(ranked[first] % strata, np.int64)
