"""What a run's corpora hold: pairs, or two sides that have nothing to do with each other; read when needed,
or kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError, UsageError, printable
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_line
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.images.pixels import Pixels
from img2img_train.config import RunConfig
from img2img_train.data.augment import Crops, stacked
from img2img_train.data.color import PLAIN, ChannelLayout
from img2img_train.data.color_checks import channel_layout_of
from img2img_train.data.on_the_fly import OnTheFly
from img2img_train.data.size_checks import (
    Size,
    check_size,
    size_of_file,
    size_of_pair,
    stated_size,
    total_area,
)
from img2img_train.objectives.registry import OBJECTIVES

SHARE_OF_MEMORY: Final = 0.5
READERS: Final = 4
_NONE: Final[Pixels] = np.empty((0, 0, 0), np.uint8)


# --------------------------------------------------------------------------- pairs, sides
@dataclass(frozen=True, slots=True)
class PairedImages:
    """One split of several corpora, as one sequence of pairs of one size: corpus after corpus, each sorted by
    key.

    ``counts`` holds the number of pairs of each corpus; ``size`` is (height, width). With ``online`` the
    inputs are made from the targets, here in one fixed way. With ``least`` images are of several sizes, of
    at least so many pixels a side, together of ``area`` pixels; ``size`` is that of what is cut out of them.
    """

    pairs: tuple[tuple[Corpus, Pair], ...]
    counts: tuple[int, ...]
    size: tuple[int, int]
    swapped: bool
    channel_layout: ChannelLayout = PLAIN
    online: OnTheFly | None = None
    least: int = 0
    area: int = 0

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
        size = self.least or self.size
        given, target = read_pair(corpus, pair, size, self.swapped, self.channel_layout.stored)
        return (given if self.online is None else self.online.degrade(target, pair, None)), target

    def to_train_on(self) -> PairedImages | CleanImages:
        """Return the images that training reads: the pairs, or the targets alone where inputs are made."""
        return self if self.online is None else CleanImages(self)

    def gather(
        self, indices: NDArray[np.int64], others: NDArray[np.int64], cuts: Crops | None = None
    ) -> tuple[Pixels, Pixels]:
        """Return the pairs of these indices, or pieces of them, stacked; ``others`` are the same."""
        given, targets = zip(*(self.read(int(i)) for i in indices), strict=True)
        return stacked(given, cuts, 0), stacked(targets, cuts, 1)

    @property
    def keys(self) -> Iterator[str]:
        """The keys of the pairs."""
        return (pair.key for _, pair in self.pairs)

    @property
    def nbytes(self) -> int:
        """The bytes of all images, decoded."""
        return self.channel_layout.pair_bytes * (
            self.area or len(self) * self.size[0] * self.size[1]
        )

    def fingerprint(self) -> str:
        """Return a hash that changes with the pairs: their keys, their rows, their order."""
        h = blake2b(digest_size=16)
        for _, pair in self.pairs:
            h.update(to_json_line({"key": pair.key, "row": dict(pair.row)}))
        return h.hexdigest()


@dataclass(frozen=True, slots=True)
class CleanImages:
    """The targets of a ``PairedImages``, each also in the place of its input."""

    pairs: PairedImages

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
    def least(self) -> int:
        """The least pixels of a side, where images are of several sizes."""
        return self.pairs.least

    @property
    def channel_layout(self) -> ChannelLayout:
        """What samples mean."""
        return self.pairs.channel_layout

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return one target twice; raises as ``read_pair``."""
        corpus, pair = self.pairs.pairs[index]
        _, target = read_pair(
            corpus, pair, self.least or self.size, self.pairs.swapped, self.channel_layout.stored
        )
        return target, target

    def gather(
        self, indices: NDArray[np.int64], others: NDArray[np.int64], cuts: Crops | None = None
    ) -> tuple[Pixels, Pixels]:
        """Return the targets of these indices, or pieces, stacked, twice; ``others`` are the same."""
        targets = stacked([self.read(int(i))[1] for i in indices], cuts, 1)
        return targets, targets

    @property
    def nbytes(self) -> int:
        """The bytes of all images, decoded."""
        return self.pairs.nbytes // 2


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a side: a file, or a half of an A|B file."""

    corpus: Corpus
    path: Path
    half: Literal["whole", "left", "right"] = "whole"

    def read(self) -> Pixels:
        """Return it as H x W x 3, as stored; CorpusError where it cannot be read."""
        pixels = self.corpus.read_image(self.path, exact=True)
        middle = pixels.shape[1] // 2
        return {"whole": pixels, "left": pixels[:, :middle], "right": pixels[:, middle:]}[self.half]

    def size(self) -> Size:
        """Return its size, without decoding it."""
        return size_of_file(self.path, 1 if self.half == "whole" else 2)


@dataclass(frozen=True, slots=True)
class UnpairedImages:
    """One split of several corpora as two sides, inputs and targets, that have nothing to do with each
    other.

    Corpus after corpus on each side, each sorted; ``counts`` holds the inputs of each corpus,
    ``other_counts`` its targets; ``size``, ``least`` and ``area`` as in ``PairedImages``, ``area`` of the larger
    side.
    """

    inputs: tuple[ImageFile, ...]
    targets: tuple[ImageFile, ...]
    counts: tuple[int, ...]
    other_counts: tuple[int, ...]
    size: tuple[int, int]
    channel_layout: ChannelLayout = PLAIN
    least: int = 0
    area: int = 0

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

    def gather(
        self, indices: NDArray[np.int64], others: NDArray[np.int64], cuts: Crops | None = None
    ) -> tuple[Pixels, Pixels]:
        """Return the inputs of ``indices`` and the targets of ``others``, or pieces, stacked; CorpusError as
        ``read_pair``.
        """
        given = [self._sized(self.inputs[int(i) % len(self.inputs)], 0) for i in indices]
        targets = [self._sized(self.targets[int(i) % len(self.targets)], 1) for i in others]
        return stacked(given, cuts, 0), stacked(targets, cuts, 1)

    def to_train_on(self) -> UnpairedImages:
        """Return the images that training reads."""
        return self

    def _sized(self, image: ImageFile, side: int) -> Pixels:
        pixels = _of_size(image.read(), image.path, self.least or self.size)
        return pixels[..., : self.channel_layout.stored[side]]

    @property
    def keys(self) -> Iterator[str]:
        """The names of the inputs, without their extensions."""
        return (image.path.stem for image in self.inputs)

    @property
    def nbytes(self) -> int:
        """The bytes of all images, decoded."""
        return self.channel_layout.pair_bytes * (
            self.area or len(self) * self.size[0] * self.size[1]
        )

    def fingerprint(self) -> str:
        """Return a hash that changes with the names of the images and their order."""
        h = blake2b(digest_size=16)
        for side in (self.inputs, self.targets):
            h.update(
                to_json_line({"side": [[os.fsencode(p.path.name).hex(), p.half] for p in side]})
            )
        return h.hexdigest()


ImageSet: TypeAlias = PairedImages | UnpairedImages


def open_images(config: RunConfig, split: str) -> ImageSet | None:
    """Return the images of a split as the run's objective needs them, None where no corpus has it.

    Raises CorpusError where a corpus cannot be used, UsageError where a color space is not supported.
    """
    return open_pairs(config, split) if config.objective.paired else open_sides(config, split)


def open_sides(config: RunConfig, split: str) -> UnpairedImages | None:
    """Return the two sides of a split of a run's corpora, unpaired or paired; None where no corpus has
    both.
    """
    if config.degrade is not None:
        hint = "leave it out, or choose a loss that needs pairs"
        raise UsageError("option", "--degrade", f"makes pairs, and {config.loss} takes none", hint)
    found = [_sides_of(Path(choice.path), split, config.limit) for choice in config.corpora]
    if config.direction == "BtoA":
        found = [(targets, inputs) for inputs, targets in found]
    inputs = tuple(image for side, _ in found for image in side)
    targets = tuple(image for _, side in found for image in side)
    if not inputs or not targets:
        return None
    counts = tuple(len(side) for side, _ in found), tuple(len(side) for _, side in found)
    channel_layout, least = channel_layout_of(config), _least(config, split)
    if not least:
        return UnpairedImages(inputs, targets, *counts, inputs[0].read().shape[:2], channel_layout)
    area = max(total_area(((p.path, p.size()) for p in side), least) for side in (inputs, targets))
    return UnpairedImages(
        inputs, targets, *counts, (config.crop, config.crop), channel_layout, least, area
    )


def _least(config: RunConfig, split: str) -> int:
    """Return how many pixels the sides of a split need where any size will do: what is trained on is cut."""
    return 0 if not config.crop else config.crop if split == config.split else 1


def _sides_of(root: Path, split: str, limit: int) -> tuple[list[ImageFile], list[ImageFile]]:
    corpus = open_corpus(root)
    if split not in corpus.splits:
        return [], []
    if corpus.kind == "unpaired":
        first, second = (
            [ImageFile(corpus, path) for path in side] for side in corpus.domains[split]
        )
    elif corpus.layout == "combined":
        pairs = corpus.pairs(split)
        first = [ImageFile(corpus, p.input, "left") for p in pairs]
        second = [ImageFile(corpus, p.input, "right") for p in pairs]
    else:
        pairs = corpus.pairs(split)
        first = [ImageFile(corpus, p.input) for p in pairs]
        second = [ImageFile(corpus, p.target) for p in pairs]
    if bool(first) != bool(second):
        raise CorpusError(
            "corpus", root, f"has images on one side only in split '{split}'", "add the others"
        )
    return (first[:limit], second[:limit]) if limit else (first, second)


def open_pairs(config: RunConfig, split: str) -> PairedImages | None:
    """Return the pairs of a split of a run's corpora, None where no corpus has it.

    Raises CorpusError where a corpus cannot be used, UsageError where a color space is not supported.
    """
    found = [_pairs_of(Path(choice.path), split, config.limit) for choice in config.corpora]
    pairs = [both for part in found for both in part]
    if not pairs:
        return None
    swapped = config.direction == "BtoA"
    online, channel_layout = OnTheFly.of(config.degrade, config.seed), channel_layout_of(config)
    counts, least = tuple(len(part) for part in found), _least(config, split)
    if not least:
        first, _ = _halves(*pairs[0], swapped)
        size = first.shape[0], first.shape[1]
        for _, pair in pairs:
            check_size(pair.target, stated_size(pair) or size, size)
        return PairedImages(tuple(pairs), counts, size, swapped, channel_layout, online)
    area = total_area(((pair.target, size_of_pair(corpus, pair)) for corpus, pair in pairs), least)
    size = config.crop, config.crop
    return PairedImages(tuple(pairs), counts, size, swapped, channel_layout, online, least, area)


def indices_of_keys(held: ImageSet, keys: Sequence[str]) -> list[int]:
    """Return where the images of these keys stand; UsageError where there is no such key."""
    if not keys:
        return []
    places: dict[str, int] = {}
    for place, key in enumerate(held.keys):
        places.setdefault(key, place)
    for key in (key for key in keys if key not in places):
        near = get_close_matches(key, places, 1)
        hint = (
            did_you_mean(key, near) if near else f"keys are like '{printable(next(iter(places)))}'"
        )
        raise UsageError("option", "--sample-keys", f"names no image: '{printable(key)}'", hint)
    return [places[key] for key in keys]


def list_splits(config: RunConfig) -> list[str]:
    """Return the names of the splits that a run's corpora have."""
    return sorted({split for choice in config.corpora for split in open_corpus(choice.path).splits})


def _pairs_of(root: Path, split: str, limit: int) -> list[tuple[Corpus, Pair]]:
    corpus = open_corpus(root)
    if corpus.kind != "paired":
        hint = f"give a paired corpus, or --loss {' or '.join(n for n, o in OBJECTIVES.items() if not o.paired)}"
        raise CorpusError("corpus", root, "is unpaired, and this loss needs pairs", hint)
    pairs = corpus.pairs(split) if split in corpus.splits else []
    return [(corpus, pair) for pair in (pairs[:limit] if limit else pairs)]


def read_pair(
    corpus: Corpus,
    pair: Pair,
    size: Size | int,
    swapped: bool = False,
    channels: tuple[int, int] = (3, 3),
) -> tuple[Pixels, Pixels]:
    """Return so many channels of input and target, H x W x C; CorpusError where one is not of this (height,
    width), or smaller than so many pixels, or not as large as the other.
    """
    given, target = _halves(corpus, pair, swapped)
    paths = (pair.target, pair.input) if swapped else (pair.input, pair.target)
    given = _of_size(given, paths[0], size)
    target = _of_size(target, paths[1], size if isinstance(size, tuple) else given.shape[:2])
    return given[..., : channels[0]], target[..., : channels[1]]


def _of_size(pixels: Pixels, path: Path, size: Size | int) -> Pixels:
    height, width = pixels.shape[:2]
    if isinstance(size, int):
        total_area([(path, (height, width))], size)
    else:
        check_size(path, (height, width), size)
    return pixels


def _halves(corpus: Corpus, pair: Pair, swapped: bool) -> tuple[Pixels, Pixels]:
    given, target = corpus.read(pair, exact=True)
    return (target, given) if swapped else (given, target)


# ------------------------------------------------------------------------------- kept or not
@dataclass(frozen=True, slots=True)
class CachedImages:
    """All images of a ``ImageSet``, decoded: two arrays N x H x W x C, or lists where sizes differ; no
    inputs where the targets stand for them.
    """

    inputs: Pixels | list[Pixels]
    targets: Pixels | list[Pixels]

    def gather(
        self, indices: NDArray[np.int64], others: NDArray[np.int64], cuts: Crops | None = None
    ) -> tuple[Pixels, Pixels]:
        """Return the inputs of ``indices`` and the targets of ``others``, or pieces, stacked."""
        targets = _taken(self.targets, others, cuts, 1)
        return (_taken(self.inputs, indices, cuts, 0) if len(self.inputs) else targets), targets


def _taken(
    kept: Pixels | list[Pixels], places: NDArray[np.int64], cuts: Crops | None, half: int
) -> Pixels:
    places = places % len(kept)
    if isinstance(kept, np.ndarray) and cuts is None:
        return kept[places]
    return stacked([kept[place] for place in places.tolist()], cuts, half)


Readable: TypeAlias = ImageSet | CleanImages
ImageStore: TypeAlias = CachedImages | Readable
"""Where images come from: memory, or the disk each time anew."""


def cache_images(
    images: Readable, cache: str, workers: int, step: Callable[[int], None] = lambda done: None
) -> ImageStore:
    """Return where images come from. ``step`` is called with the number of places read so far."""
    fits = images.nbytes <= SHARE_OF_MEMORY * free_memory()
    if cache == "off" or (cache == "auto" and (workers or not fits)):
        return images
    sides, channel_layout = (
        zip(images.sides, images.channel_layout.stored, strict=True),
        images.channel_layout,
    )
    inputs, targets = (
        [_NONE] * count
        if images.least
        else np.empty((count, *images.size, depth), channel_layout.dtype)
        for count, depth in sides
    )

    def read(index: int) -> None:
        given, targets[index % len(targets)] = images.read(index)
        if len(inputs):
            inputs[index % len(inputs)] = given

    with ThreadPoolExecutor(READERS) as pool:
        try:
            for done, _ in enumerate(pool.map(read, range(len(images))), 1):
                step(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return CachedImages(inputs, targets)


def free_memory() -> int:
    """Return the bytes of memory that can still be had; where the system does not say, a cautious 2 GiB."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")
        )
    except (OSError, StopIteration, ValueError, IndexError):
        return 2 << 30
