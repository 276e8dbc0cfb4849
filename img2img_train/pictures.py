"""What a run's corpora hold: pairs, or two sides that have nothing to do with each other; read when needed,
or kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_data.corpus import Corpus, Pair, open_corpus, to_json_line
from img2img_data.errors import CorpusError, UsageError, printable
from img2img_train.config import RunConfig
from img2img_train.objectives import OBJECTIVES
from img2img_train.online import Online
from img2img_train.planes import PLAIN, Planes

Pixels: TypeAlias = NDArray[Any]
"""Samples as read: uint8 or uint16, 1 or 3 channels."""
SHARE_OF_MEMORY: Final = 0.5
READERS: Final = 4


# --------------------------------------------------------------------------- pairs, sides
@dataclass(frozen=True, slots=True)
class PairSet:
    """One split of several corpora, as one sequence of pairs of one size: corpus after corpus, each sorted by
    key.

    ``counts`` holds the number of pairs of each corpus; ``size`` is (height, width). With ``online`` the
    inputs are made from the targets, here in one fixed way.
    """

    pairs: tuple[tuple[Corpus, Pair], ...]
    counts: tuple[int, ...]
    size: tuple[int, int]
    swapped: bool
    planes: Planes = PLAIN
    online: Online | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def sides(self) -> tuple[int, int]:
        """The numbers of inputs and targets."""
        return len(self.pairs), len(self.pairs)

    @property
    def other_counts(self) -> None:
        """A target comes with its input."""
        return None

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return input and target of one pair, H x W x C as stored; CorpusError where the size differs."""
        corpus, pair = self.pairs[index]
        given, target = read_pair(corpus, pair, self.size, self.swapped, self.planes.stored)
        return (given if self.online is None else self.online.spoil(target, pair, None)), target

    def to_train_on(self) -> PairSet | CleanSet:
        """Return the pictures that training reads: the pairs, or the targets alone where inputs are made."""
        return self if self.online is None else CleanSet(self)

    def gather(self, indices: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
        """Return the pairs of these indices, stacked; ``others`` are the same."""
        given, targets = zip(*(self.read(int(i)) for i in indices), strict=True)
        return np.stack(given), np.stack(targets)

    @property
    def nbytes(self) -> int:
        """The bytes of all pictures, decoded."""
        return len(self) * self.planes.pair_bytes * self.size[0] * self.size[1]

    def fingerprint(self) -> str:
        """Return a hash that changes with the pairs: their keys, their rows, their order."""
        h = blake2b(digest_size=16)
        for _, pair in self.pairs:
            h.update(to_json_line({"key": pair.key, "row": dict(pair.row)}))
        return h.hexdigest()


@dataclass(frozen=True, slots=True)
class CleanSet:
    """The targets of a ``PairSet``, each also in the place of its input."""

    pairs: PairSet

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def sides(self) -> tuple[int, int]:
        """The numbers of inputs, none of which is kept, and targets."""
        return 0, len(self)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pairs.size

    @property
    def planes(self) -> Planes:
        """What samples mean."""
        return self.pairs.planes

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return one target twice; raises as ``read_pair``."""
        corpus, pair = self.pairs.pairs[index]
        _, target = read_pair(corpus, pair, self.size, self.pairs.swapped, self.planes.stored)
        return target, target

    def gather(self, indices: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
        """Return the targets of these indices, stacked, twice; ``others`` are the same."""
        targets = np.stack([self.read(int(i))[1] for i in indices])
        return targets, targets

    @property
    def nbytes(self) -> int:
        """The bytes of all pictures, decoded."""
        return self.pairs.nbytes // 2


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a side: a file, or a half of an A|B file."""

    corpus: Corpus
    path: Path
    half: Literal["whole", "left", "right"] = "whole"

    def read(self) -> Pixels:
        """Return it as H x W x 3, as stored; CorpusError where it cannot be read."""
        pixels = self.corpus.read_picture(self.path, exact=True)
        middle = pixels.shape[1] // 2
        return {"whole": pixels, "left": pixels[:, :middle], "right": pixels[:, middle:]}[self.half]


@dataclass(frozen=True, slots=True)
class SideSet:
    """One split of several corpora as two sides, inputs and targets, that have nothing to do with each
    other.

    Corpus after corpus on each side, each sorted; ``counts`` holds the inputs of each corpus,
    ``other_counts`` its targets; ``size`` is (height, width).
    """

    inputs: tuple[Picture, ...]
    targets: tuple[Picture, ...]
    counts: tuple[int, ...]
    other_counts: tuple[int, ...]
    size: tuple[int, int]
    planes: Planes = PLAIN

    def __len__(self) -> int:
        return max(self.sides)

    @property
    def sides(self) -> tuple[int, int]:
        """The numbers of inputs and targets."""
        return len(self.inputs), len(self.targets)

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return an input and a target by their places, from the start again where a side is shorter."""
        place = np.array([index])
        given, target = self.gather(place, place)
        return given[0], target[0]

    def gather(self, indices: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
        """Return the inputs of ``indices`` and the targets of ``others``, stacked; CorpusError as
        ``read_pair``.
        """
        given = [self._sized(self.inputs[int(i) % len(self.inputs)], 0) for i in indices]
        targets = [self._sized(self.targets[int(i) % len(self.targets)], 1) for i in others]
        return np.stack(given), np.stack(targets)

    def to_train_on(self) -> SideSet:
        """Return the pictures that training reads."""
        return self

    def _sized(self, picture: Picture, side: int) -> Pixels:
        return _of_size(picture.read(), picture.path, self.size)[..., : self.planes.stored[side]]

    @property
    def nbytes(self) -> int:
        """The bytes of all pictures, decoded."""
        return len(self) * self.planes.pair_bytes * self.size[0] * self.size[1]

    def fingerprint(self) -> str:
        """Return a hash that changes with the names of the pictures and their order."""
        h = blake2b(digest_size=16)
        for side in (self.inputs, self.targets):
            h.update(to_json_line({"side": [[os.fsencode(p.path.name).hex(), p.half] for p in side]}))
        return h.hexdigest()


PictureSet: TypeAlias = PairSet | SideSet


def open_pictures(config: RunConfig, split: str) -> PictureSet | None:
    """Return the pictures of a split as the run's objective needs them, None where no corpus has it.

    Raises CorpusError where a corpus cannot be used, UsageError where a colour space is not supported.
    """
    return open_pairs(config, split) if config.objective.paired else open_sides(config, split)


def open_sides(config: RunConfig, split: str) -> SideSet | None:
    """Return the two sides of a split of a run's corpora, unpaired or paired; None where no corpus has
    both.
    """
    if config.degrade is not None:
        way_out = "leave it out, or choose a loss that needs pairs"
        raise UsageError("option", "--degrade", f"makes pairs, and {config.loss} takes none", way_out)
    found = [_sides_of(Path(choice.path), split, config.limit) for choice in config.corpora]
    if config.direction == "BtoA":
        found = [(targets, inputs) for inputs, targets in found]
    inputs = tuple(picture for side, _ in found for picture in side)
    targets = tuple(picture for _, side in found for picture in side)
    if not inputs or not targets:
        return None
    counts = tuple(len(side) for side, _ in found), tuple(len(side) for _, side in found)
    return SideSet(inputs, targets, *counts, inputs[0].read().shape[:2], planes_of(config))


def _sides_of(root: Path, split: str, limit: int) -> tuple[list[Picture], list[Picture]]:
    corpus = open_corpus(root)
    if split not in corpus.splits:
        return [], []
    if corpus.kind == "unpaired":
        first, second = ([Picture(corpus, path) for path in side] for side in corpus.domains[split])
    elif corpus.layout == "combined":
        pairs = corpus.pairs(split)
        first = [Picture(corpus, p.input, "left") for p in pairs]
        second = [Picture(corpus, p.input, "right") for p in pairs]
    else:
        pairs = corpus.pairs(split)
        first = [Picture(corpus, p.input) for p in pairs]
        second = [Picture(corpus, p.target) for p in pairs]
    if bool(first) != bool(second):
        raise CorpusError(
            "corpus", root, f"has pictures on one side only in split '{split}'", "add the others"
        )
    return (first[:limit], second[:limit]) if limit else (first, second)


def open_pairs(config: RunConfig, split: str) -> PairSet | None:
    """Return the pairs of a split of a run's corpora, None where no corpus has it.

    Raises CorpusError where a corpus cannot be used, UsageError where a colour space is not supported.
    """
    found = [_pairs_of(Path(choice.path), split, config.limit) for choice in config.corpora]
    pairs = [both for part in found for both in part]
    if not pairs:
        return None
    swapped = config.direction == "BtoA"
    online = Online.of(config.degrade, config.seed)
    first, _ = _halves(*pairs[0], swapped)
    return PairSet(
        tuple(pairs), tuple(len(part) for part in found), first.shape[:2], swapped, planes_of(config), online
    )


def splits_of(config: RunConfig) -> list[str]:
    """Return the names of the splits that a run's corpora have."""
    return sorted({split for choice in config.corpora for split in open_corpus(choice.path).splits})


def _pairs_of(root: Path, split: str, limit: int) -> list[tuple[Corpus, Pair]]:
    corpus = open_corpus(root)
    if corpus.kind != "paired":
        way_out = (
            f"give a paired corpus, or --loss {' or '.join(n for n, o in OBJECTIVES.items() if not o.paired)}"
        )
        raise CorpusError("corpus", root, "is unpaired, and this loss needs pairs", way_out)
    pairs = corpus.pairs(split) if split in corpus.splits else []
    return [(corpus, pair) for pair in (pairs[:limit] if limit else pairs)]


def planes_of(config: RunConfig) -> Planes:
    """Return what the samples of a run's corpora mean; UsageError, naming two, where they differ."""
    found = [(choice.path, _planes(open_corpus(choice.path, rows=False))) for choice in config.corpora]
    path, planes = found[0]
    for other, theirs in found[1:]:
        if theirs != planes:
            why = f"holds {theirs.said or 'RGB to RGB'}, '{printable(path)}' {planes.said or 'RGB to RGB'}"
            raise UsageError("corpus", other, why, "train on corpora of one kind")
    if planes.colour == "lab":
        _check_lab(config, path)
    if config.direction == "BtoA":
        planes = replace(planes, channels=planes.channels[::-1])
    return planes


def _planes(corpus: Corpus) -> Planes:
    check_samples(corpus)
    if corpus.colour == "lab":
        return Planes("lab", (1, 2), corpus.bits)
    return Planes("rgb", (corpus.channels["input"], corpus.channels["target"]), corpus.bits)


def _check_lab(config: RunConfig, path: str) -> None:
    """Raise UsageError for what makes no sense between L and the colours to it."""
    if not config.objective.paired:
        why = f"holds L and ab, and {config.loss} wants two sides of one kind"
        raise UsageError("corpus", path, why, "choose a loss that needs pairs")
    if config.direction == "BtoA":
        why = "holds L and ab, and L is no riddle"
        raise UsageError("corpus", path, why, "leave --direction BtoA out")
    if config.degrade is not None:
        why = "holds Lab pictures, and degradations are defined on RGB"
        raise UsageError("corpus", path, why, "leave --degrade out, or train on RGB")


def check_samples(corpus: Corpus) -> None:
    """Raise UsageError for a corpus with transparent pictures."""
    if 4 in corpus.channels.values():
        why = "holds transparent pictures, and models take RGB"
        raise UsageError("corpus", corpus.root, why, "build it with --channels rgb")


def read_pair(
    corpus: Corpus,
    pair: Pair,
    size: tuple[int, int],
    swapped: bool = False,
    channels: tuple[int, int] = (3, 3),
) -> tuple[Pixels, Pixels]:
    """Return so many channels of input and target, H x W x C; CorpusError where one is not of this (height,
    width).
    """
    given, target = _halves(corpus, pair, swapped)
    paths = (pair.target, pair.input) if swapped else (pair.input, pair.target)
    given, target = _of_size(given, paths[0], size), _of_size(target, paths[1], size)
    return given[..., : channels[0]], target[..., : channels[1]]


def _of_size(pixels: Pixels, path: Path, size: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    if (height, width) != size:
        why = f"is {width}x{height}, the first one is {size[1]}x{size[0]}"
        raise CorpusError("picture", path, why, "build the corpus with --size, so that all are of one size")
    return pixels


def _halves(corpus: Corpus, pair: Pair, swapped: bool) -> tuple[Pixels, Pixels]:
    given, target = corpus.read(pair, exact=True)
    return (target, given) if swapped else (given, target)


# ------------------------------------------------------------------------------- kept or not
@dataclass(frozen=True, slots=True)
class Memory:
    """All pictures of a ``PictureSet``, decoded: two arrays N x H x W x C; no inputs where the targets
    stand for them.
    """

    inputs: Pixels
    targets: Pixels

    def gather(self, indices: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
        """Return the inputs of ``indices`` and the targets of ``others``, stacked."""
        if not len(self.inputs):
            targets = self.targets[others]
            return targets, targets
        return self.inputs[indices % len(self.inputs)], self.targets[others % len(self.targets)]


Readable: TypeAlias = PictureSet | CleanSet
Store: TypeAlias = Memory | Readable
"""Where pictures come from: memory, or the disk each time anew."""


def store_of(
    pictures: Readable, cache: str, workers: int, step: Callable[[int], None] = lambda done: None
) -> Store:
    """Return where pictures come from. ``step`` is called with the number of places read so far."""
    fits = pictures.nbytes <= SHARE_OF_MEMORY * free_memory()
    if cache == "off" or (cache == "auto" and (workers or not fits)):
        return pictures
    sides, planes = zip(pictures.sides, pictures.planes.stored, strict=True), pictures.planes
    inputs, targets = (np.empty((count, *pictures.size, depth), planes.dtype) for count, depth in sides)

    def read(index: int) -> None:
        given, targets[index % len(targets)] = pictures.read(index)
        if len(inputs):
            inputs[index % len(inputs)] = given

    with ThreadPoolExecutor(READERS) as pool:
        try:
            for done, _ in enumerate(pool.map(read, range(len(pictures))), 1):
                step(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Memory(inputs, targets)


def free_memory() -> int:
    """Return the bytes of memory that can still be had; where the system does not say, a cautious 2 GiB."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 2 << 30
