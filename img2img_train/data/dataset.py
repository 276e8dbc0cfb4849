"""The images of a run: paired or unpaired, read from disk on demand or cached in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError, UsageError, printable
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_line
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.images.pixels import Pixels
from img2img_train.config import RunConfig
from img2img_train.data import checks
from img2img_train.data.augment import Crops, resize_to, stack_crops
from img2img_train.data.color import PLAIN, ChannelLayout
from img2img_train.data.deconvolution import deconvolved, known_steps
from img2img_train.data.on_the_fly import OnTheFly
from img2img_train.distributed.memory import SHARE_OF_MEMORY, free_memory
from img2img_train.objectives.registry import OBJECTIVES

READERS: Final = 4
AUTO_CROP: Final = 96
"""Least side of the crops that ``crop=None`` cuts from larger images, pixels."""
READ_AT_ONCE: Final = 4096
Indices: TypeAlias = NDArray[np.int64]
ItemT = TypeVar("ItemT", covariant=True)
Half = Literal["whole", "left", "right"]
_Rows: TypeAlias = tuple[Sequence[Any], Callable[[Any], Any]]


@dataclass(frozen=True, slots=True)
class Joined(Generic[ItemT]):
    """Items of several corpora, corpus after corpus.

    An item is made of its row when it is asked for, so a million items take 8 MB. ``parts`` holds
    the rows of each corpus and a function that makes an item of one; ``limit`` of each are used,
    all if it is 0.
    """

    parts: tuple[tuple[Sequence[Any], Callable[[Any], ItemT]], ...]
    limit: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of items of each corpus."""
        return tuple(min(len(rows), self.limit or len(rows)) for rows, _ in self.parts)

    def __len__(self) -> int:
        return sum(self.counts)

    def __getitem__(self, index: int) -> ItemT:
        for (rows, make), count in zip(self.parts, self.counts, strict=True):
            if index < count:
                return make(rows[index])
            index -= count
        raise IndexError(index)

    def __iter__(self) -> Iterator[ItemT]:
        for rows, make in self.parts:
            yield from map(make, islice(rows, self.limit or None))


# --------------------------------------------------------------------------------- images on disk
@dataclass(frozen=True, slots=True, kw_only=True)
class _ImageSetFields:
    """Sizes and numbers of the images of one split of several corpora.

    ``counts`` holds the number of inputs of each corpus, ``other_counts`` that of its targets if
    they are independent of the inputs. ``size`` is the (height, width) of every image, or of the
    crops where ``min_side`` is not 0: then images differ in size, have at least ``min_side`` pixels
    a side. Images are resized to ``load_size`` pixels a side when they are read; if it is 0, images
    of several sizes have ``area`` pixels in all (the larger domain). ``targets_only``: the inputs
    are made from the targets by ``on_the_fly``, so only these are read; with ``keeps_stored`` not
    all of them are, so training reads both.
    """

    counts: tuple[int, ...]
    other_counts: tuple[int, ...] | None = None
    size: checks.Size
    channel_layout: ChannelLayout = PLAIN
    min_side: int = 0
    area: int = 0
    load_size: int = 0
    on_the_fly: OnTheFly | None = None
    keeps_stored: bool = False
    targets_only: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """Numbers of inputs and targets that are read."""
        inputs = 0 if self.targets_only else sum(self.counts)
        return inputs, sum(self.other_counts or self.counts)

    def __len__(self) -> int:
        return max(self.sides)

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded images."""
        layout, (height, width) = self.channel_layout, self.size
        pixels = self.area or len(self) * (self.load_size**2 or height * width)
        return sum(layout.stored) * layout.bits // 8 * pixels // (2 if self.targets_only else 1)

    @property
    def crop(self) -> int:
        """Side of the crops that training cuts out, 0 for whole images."""
        return self.size[0] if self.min_side else 0

    def for_training(self) -> Self:
        """Return the images that training reads, as stored: targets alone if all inputs are made
        on the fly.
        """
        if self.on_the_fly is None or self.keeps_stored:
            return replace(self, on_the_fly=None)
        return replace(self, targets_only=True)

    def _fitted(self, path: Path, pixels: Pixels, channels: int) -> Pixels:
        """Return the first channels of an image, resized to ``load_size``, or of the right size."""
        if self.load_size:
            pixels = resize_to(pixels, self.load_size)
        elif self.min_side:
            # Not what the manifest or the header of the file states, which was checked before.
            checks.check_min_side([(path, _size(pixels))], self.min_side, CorpusError)
        else:
            checks.check_same_size(path, _size(pixels), self.size)
        return pixels[..., :channels]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedImages(_ImageSetFields):
    """Pairs of one split of several corpora, corpus after corpus, each sorted by key.

    With ``on_the_fly`` the inputs are degraded targets: ``read`` degrades them in one fixed way,
    training reads only the targets (``targets_only``). With a ``noise_ratio`` they are deconvolved
    by the blur in their rows. ``fingerprint`` is a hash of the pairs: their keys, their rows, their
    order.
    """

    pairs: Joined[tuple[Corpus, Pair]]
    fingerprint: str
    swapped: bool = False
    noise_ratio: float | None = None

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return input and target of one pair, H x W x C as stored (with ``targets_only`` the
        target twice).

        Raises:
            CorpusError: if an image cannot be read or has another size.
        """
        corpus, pair = self.pairs[index]
        image, target = corpus.read(pair, exact=True)
        paths, channels = (pair.input, pair.target), self.channel_layout.stored
        if self.swapped:
            image, target, paths = target, image, paths[::-1]
        checks.check_same_size(paths[1], _size(target), _size(image))
        if self.noise_ratio is not None:
            image = deconvolved(image, known_steps(corpus, pair), self.noise_ratio)
        image, target = map(self._fitted, paths, (image, target), channels)
        if self.on_the_fly is not None:
            image = target if self.targets_only else self.on_the_fly.degrade(target, pair, None)
        return image, target

    def gather(self, indices: Indices, crops: Crops | None = None) -> tuple[Pixels, Pixels]:
        """Return the pairs at ``indices`` (2 x N, both rows equal), or crops of them, stacked."""
        inputs, targets = zip(*(self.read(int(i)) for i in indices[0]), strict=True)
        stacked = stack_crops(targets, crops, 1)
        return stacked if self.targets_only else stack_crops(inputs, crops, 0), stacked

    @property
    def keys(self) -> Iterator[str]:
        """Keys of the pairs."""
        return (pair.key for _, pair in self.pairs)


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a domain: a file, or one half of an A|B file."""

    corpus: Corpus
    path: Path
    half: Half = "whole"

    def read(self) -> Pixels:
        """Return it as H x W x 3, as stored; CorpusError if it cannot be read."""
        pixels = self.corpus.read_image(self.path, exact=True)
        middle = pixels.shape[1] // 2
        return {"whole": pixels, "left": pixels[:, :middle], "right": pixels[:, middle:]}[self.half]

    def size(self) -> checks.Size:
        """Return its size from the header."""
        return checks.size_of_file(self.path, 1 if self.half == "whole" else 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairedImages(_ImageSetFields):
    """Two domains of one split of several corpora: independent inputs and targets.

    Corpus after corpus in each domain, each sorted.
    """

    inputs: Joined[ImageFile]
    targets: Joined[ImageFile]

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return the input and the target at ``index``; the shorter domain starts over."""
        return self._read(self.inputs, index, 0), self._read(self.targets, index, 1)

    def _read(self, images: Joined[ImageFile], index: int, side: int) -> Pixels:
        image = images[index % len(images)]
        return self._fitted(image.path, image.read(), self.channel_layout.stored[side])

    def gather(self, indices: Indices, crops: Crops | None = None) -> tuple[Pixels, Pixels]:
        """Return inputs and targets at ``indices`` (2 x N), or crops of them, stacked."""
        inputs = [self._read(self.inputs, int(i), 0) for i in indices[0]]
        targets = [self._read(self.targets, int(i), 1) for i in indices[1]]
        return stack_crops(inputs, crops, 0), stack_crops(targets, crops, 1)

    @property
    def keys(self) -> Iterator[str]:
        """Names of the inputs without their extensions."""
        return (image.path.stem for image in self.inputs)

    @property
    def fingerprint(self) -> str:
        """Hash of the names of the images and of their order."""
        digest = blake2b(digest_size=16)
        for side in (self.inputs, self.targets):
            # One JSON object per side, written in pieces because a side may have a million images.
            before = b'{"side": ['
            for image in side:
                name = os.fsencode(image.path.name).hex()
                digest.update(before + json.dumps([name, image.half]).encode())
                before = b", "
            digest.update(b"]}\n")
        return digest.hexdigest()


ImageSet: TypeAlias = PairedImages | UnpairedImages


def _size(pixels: Pixels) -> checks.Size:
    return pixels.shape[0], pixels.shape[1]


# ---------------------------------------------------------------------------------------- opening
def open_images(config: RunConfig, split: str) -> ImageSet | None:
    """Return the images of a split as the run's objective needs them, None if no corpus has that
    split.

    Raises:
        CorpusError: if a corpus cannot be used.
        UsageError: if the run cannot use its kind, color space, channels or sizes.
    """
    return open_pairs(config, split) if config.objective.paired else open_unpaired(config, split)


def open_training(config: RunConfig) -> ImageSet:
    """Return the images that a run trains on; UsageError if no corpus has that split."""
    images = open_images(config, config.split)
    if images is None:
        raise missing_split(config, config.split, "--split")
    return images


def missing_split(config: RunConfig, split: str, option: str) -> UsageError:
    """Return the error for a split that no corpus of a run has."""
    splits = sorted({split for c in config.corpora for split in open_corpus(c.path).splits})
    why = f"is in none of the corpora (they have {', '.join(splits) or 'no pairs'})"
    return UsageError("split", split, why, f"choose one with {option}")


def resolve_crops(config: RunConfig, images: ImageSet) -> RunConfig:
    """Return the configuration with the crops and turns that follow from the training images.

    Raises UsageError if images that are not square are to be turned.
    """
    height, width = images.size
    rotate = config.rotate
    if rotate is None:
        rotate = config.crop is None and images.crop > 0
    if rotate and height != width:
        why = f"needs square images, but they are {width}x{height}"
        raise UsageError("option", "--rotate", why, "add --crop, or leave --rotate out")
    return config.model_copy(update={"crop": images.crop, "rotate": rotate})


def open_unpaired(config: RunConfig, split: str) -> UnpairedImages | None:
    """Return both domains of a split, also of paired corpora.

    Errors and None as in ``open_images``.
    """
    if option := _option_of_targets(config):
        why = f"makes pairs, but {config.loss} does not use them"
        raise UsageError("option", option, why, "leave it out, or choose a paired loss")
    domains = [_domains_of(Path(choice.path), split) for choice in config.corpora]
    sides = [Joined(side, config.limit) for side in zip(*domains, strict=True)]
    inputs, targets = reversed(sides) if config.direction == "BtoA" else sides
    if not inputs or not targets:
        return None
    sizes = (((image.path, image.size()) for image in side) for side in (inputs, targets))
    return UnpairedImages(
        inputs=inputs,
        targets=targets,
        counts=inputs.counts,
        other_counts=targets.counts,
        **_measure(config, split, inputs[0].read, *sizes),
        channel_layout=checks.channel_layout_of(config),
    )


def _measure(
    config: RunConfig, split: str, read_first: Callable[[], Pixels], *sides: checks.Sizes
) -> dict[str, Any]:
    """Return the sizes of images by the names that they have in ``_ImageSetFields``.

    ``sides`` are paths and sizes of inputs and targets, or of the targets of pairs. They are read
    only if images are cropped as they are, and so may differ in size.
    """
    crop, load_size = config.crop, config.load_size
    if crop is None:
        # As large as the network takes without padding.
        networks = config.objective.networks(checks.channel_layout_of(config).channels)
        side = networks["generator"].padded_side(AUTO_CROP)
        crop = 0 if load_size or min(_size(read_first())) <= side else side
    if crop > load_size > 0:
        why = f"is {crop}, larger than --load-size {load_size}"
        raise UsageError("option", "--crop", why, "choose a smaller one")
    if not crop:
        size = (load_size,) * 2 if load_size else _size(read_first())
        return {"size": size, "load_size": load_size}
    min_side = crop if split == config.split else 1
    area = 0 if load_size else max(checks.check_min_side(side, min_side) for side in sides)
    return {"size": (crop, crop), "min_side": min_side, "area": area, "load_size": load_size}


def _domains_of(root: Path, split: str) -> tuple[_Rows, _Rows]:
    """Return the rows of both domains and the functions that make images of them."""
    corpus = open_corpus(root)
    rows: tuple[Sequence[Any], Sequence[Any]] = (), ()
    if split in corpus.splits:
        unpaired = corpus.kind == "unpaired"
        rows = corpus.domains[split] if unpaired else (corpus.pairs(split),) * 2
    if bool(rows[0]) != bool(rows[1]):
        why = f"has images of only one domain in split '{split}'"
        raise CorpusError("corpus", root, why, "add the other domain")
    return (rows[0], partial(_image_of, corpus, 0)), (rows[1], partial(_image_of, corpus, 1))


def _image_of(corpus: Corpus, side: int, row: Pair | Path) -> ImageFile:
    if isinstance(row, Path):
        return ImageFile(corpus, row)
    half: Half = ("left", "right")[side] if corpus.layout == "combined" else "whole"
    return ImageFile(corpus, (row.input, row.target)[side], half)


def open_pairs(config: RunConfig, split: str) -> PairedImages | None:
    """Return the pairs of a split; errors and None as in ``open_images``."""
    parts = (_pairs_of(Path(choice.path), split) for choice in config.corpora)
    pairs = Joined(tuple(parts), config.limit)
    if not pairs:
        return None
    layout = checks.channel_layout_of(config)
    option = _option_of_targets(config)
    if option and len({*layout.channels}) > 1:
        why = f"makes inputs from targets, but the corpus maps {layout.label}"
        raise UsageError("option", option, why, "leave it out")
    corpus, first = pairs[0]
    swapped = config.direction == "BtoA"
    sizes = _measure(
        config, split, lambda: corpus.read(first, exact=True)[swapped], map(_target_size, pairs)
    )
    digest, size = blake2b(digest_size=16), sizes["size"]
    for _, pair in pairs:
        digest.update(to_json_line({"key": pair.key, "row": dict(pair.row)}))
        if not (sizes.get("min_side") or config.load_size):
            checks.check_same_size(pair.target, checks.stated_size(pair) or size, size)
    return PairedImages(
        pairs=pairs,
        fingerprint=digest.hexdigest(),
        counts=pairs.counts,
        swapped=swapped,
        channel_layout=layout,
        # Held-out inputs stay as stored: ``evaluate`` scores those.
        on_the_fly=OnTheFly.of(config.degrade, config.seed) if split == config.split else None,
        keeps_stored=config.stored_share > 0,
        noise_ratio=config.noise_ratio,
        **sizes,
    )


def _option_of_targets(config: RunConfig) -> str | None:
    """Return the option by which inputs are made from targets, None if there is none."""
    if config.degrade is not None:
        return "--degrade"
    return "--clean-share" if config.clean_share else None


def _target_size(pair: tuple[Corpus, Pair]) -> tuple[Path, checks.Size]:
    corpus, row = pair
    halves = 2 if corpus.layout == "combined" else 1
    return row.target, checks.stated_size(row) or checks.size_of_file(row.target, halves)


def _pairs_of(root: Path, split: str) -> _Rows:
    corpus = open_corpus(root)
    if corpus.kind != "paired":
        losses = " or ".join(name for name, loss in OBJECTIVES.items() if not loss.paired)
        why = "is unpaired, but this loss needs pairs"
        raise UsageError("corpus", root, why, f"give a paired corpus, or --loss {losses}")
    return corpus.pairs(split) if split in corpus.splits else (), partial(_with_corpus, corpus)


def _with_corpus(corpus: Corpus, pair: Pair) -> tuple[Corpus, Pair]:
    return corpus, pair


def indices_of_keys(images: ImageSet, keys: Sequence[str]) -> list[int]:
    """Return the index of each key; UsageError names an unknown key and the nearest one."""
    if not keys:
        return []
    chosen, indices = set(keys), dict[str, int]()
    for index, key in enumerate(images.keys):
        if key in chosen:
            indices.setdefault(key, index)
    for key in keys:
        if key not in indices:
            near, example = get_close_matches(key, images.keys, 1), printable(next(images.keys))
            hint = did_you_mean(key, near) if near else f"keys look like '{example}'"
            raise UsageError("option", "--sample-keys", f"unknown key '{printable(key)}'", hint)
    return [indices[key] for key in keys]


# ---------------------------------------------------------------------------------------- caching
@dataclass(frozen=True, slots=True)
class CachedImages:
    """All decoded images of an ``ImageSet`` in memory.

    Two arrays N x H x W x C, or lists of arrays if sizes differ. ``inputs`` is empty where the
    targets take their place (on-the-fly degradation).
    """

    inputs: Pixels | list[Pixels]
    targets: Pixels | list[Pixels]

    def gather(self, indices: Indices, crops: Crops | None = None) -> tuple[Pixels, Pixels]:
        """Return inputs and targets at ``indices`` (2 x N), or crops of them, stacked."""
        targets = _select(self.targets, indices, crops, 1)
        return (_select(self.inputs, indices, crops, 0) if len(self.inputs) else targets), targets


def _select(
    images: Pixels | list[Pixels], indices: Indices, crops: Crops | None, side: int
) -> Pixels:
    indices = indices[side] % len(images)
    if isinstance(images, np.ndarray) and crops is None:
        return images[indices]
    return stack_crops([images[index] for index in indices.tolist()], crops, side)


ImageStore: TypeAlias = CachedImages | ImageSet


def cache_images(
    images: ImageSet, cache: str, workers: int, progress: Callable[[int], None] = lambda done: None
) -> ImageStore:
    """Return the images in memory, or ``images`` itself if they are to be read from disk.

    ``cache`` is the setting of that name; with "device" the images are read into memory first.
    ``progress`` is called with the number of images read so far.
    """
    fits = images.nbytes <= SHARE_OF_MEMORY * free_memory()
    if cache == "off" or (cache == "auto" and (workers or not fits)):
        return images
    layout = images.channel_layout
    dtype = np.uint16 if layout.bits == 16 else np.uint8
    inputs, targets = (
        [np.empty(0, dtype)] * count
        if images.min_side
        else np.empty((count, *images.size, channels), dtype)
        for count, channels in zip(images.sides, layout.stored, strict=True)
    )

    def read(index: int) -> None:
        image, targets[index % len(targets)] = images.read(index)
        if len(inputs):
            inputs[index % len(inputs)] = image

    # Threads, not processes: decoders release the GIL, and the arrays need no copy.
    with ThreadPoolExecutor(READERS) as pool:
        try:
            # In parts, because a call that waits takes more memory than a small image.
            for start in range(0, len(images), READ_AT_ONCE):
                part = range(start, min(start + READ_AT_ONCE, len(images)))
                for done, _ in zip(part, pool.map(read, part), strict=True):
                    progress(done + 1)
        finally:
            # After an error or a signal nobody waits for the images that are still to be read.
            pool.shutdown(wait=False, cancel_futures=True)
    return CachedImages(inputs, targets)


def one_ahead(items: Iterator[ItemT]) -> Iterator[ItemT]:
    """Yield items that a thread makes while the one before is in use, so two are in memory."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(list, islice(items, 1))
        while item := coming.result():
            coming = pool.submit(list, islice(items, 1))
            yield item[0]
