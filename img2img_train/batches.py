"""Corpora to batches: which pictures a step sees, read and brought onto the device.

A run's position is one integer, the step: ``Plan`` says from it which pictures come, in what order and how
augmented. Whether pictures come from memory, from disk or from worker processes changes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from img2img_data.corpus import Corpus, Pair, open_corpus, to_json_line
from img2img_data.errors import CorpusError, UsageError
from img2img_train.config import RunConfig
from img2img_train.objectives import Batch

Pixels: TypeAlias = NDArray[np.uint8]
SHARE_OF_MEMORY: Final = 0.5
READERS: Final = 4
ORDER, FLIP = 0, 1
HANGUP: Final = getattr(signal, "SIGHUP", signal.SIGTERM)


# ---------------------------------------------------------------------------------------- pictures
@dataclass(frozen=True, slots=True)
class PairSet:
    """One split of several corpora, as one sequence of pairs of one size: corpus after corpus, each sorted by
    key.

    ``counts`` holds the number of pairs of each corpus; ``size`` is (height, width).
    """

    pairs: tuple[tuple[Corpus, Pair], ...]
    counts: tuple[int, ...]
    size: tuple[int, int]
    swapped: bool

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Return input and target of one pair, H x W x 3 RGB uint8; CorpusError where the size differs."""
        return read_pair(*self.pairs[index], self.size, self.swapped)

    @property
    def nbytes(self) -> int:
        """The bytes of all pictures, decoded."""
        return len(self) * 6 * self.size[0] * self.size[1]

    def fingerprint(self) -> str:
        """Return a hash that changes with the pairs: their keys, their rows, their order."""
        h = blake2b(digest_size=16)
        for _, pair in self.pairs:
            h.update(to_json_line({"key": pair.key, "row": dict(pair.row)}))
        return h.hexdigest()


def open_pairs(config: RunConfig, split: str) -> PairSet | None:
    """Return the pairs of a split of a run's corpora, None where no corpus has it.

    Raises CorpusError where a corpus cannot be used, UsageError where sizes differ or a colour space is not
    supported.
    """
    found = [_pairs_of(Path(choice.path), split, config.limit) for choice in config.corpora]
    pairs = [both for part in found for both in part]
    if not pairs:
        return None
    swapped = config.direction == "BtoA"
    first, _ = _halves(*pairs[0], swapped)
    return PairSet(tuple(pairs), tuple(len(part) for part in found), first.shape[:2], swapped)


def splits_of(config: RunConfig) -> list[str]:
    """Return the names of the splits that a run's corpora have."""
    return sorted({split for choice in config.corpora for split in open_corpus(choice.path).splits})


def _pairs_of(root: Path, split: str, limit: int) -> list[tuple[Corpus, Pair]]:
    corpus = open_corpus(root)
    if corpus.kind != "paired":
        raise CorpusError("corpus", root, "is unpaired, and this loss needs pairs", "give a paired corpus")
    if corpus.colour != "rgb":
        raise UsageError(
            "corpus", root, f"holds {corpus.colour} pictures", "training takes RGB corpora for now"
        )
    check_samples(corpus)
    pairs = corpus.pairs(split) if split in corpus.splits else []
    return [(corpus, pair) for pair in (pairs[:limit] if limit else pairs)]


def check_samples(corpus: Corpus) -> None:
    """Raise UsageError for a corpus whose samples would not come through whole: models take 8-bit RGB."""
    if corpus.bits != 8:
        why, way_out = f"holds {corpus.bits}-bit pictures, and models take 8 bit", "build it with --bits 8"
        raise UsageError("corpus", corpus.root, why, way_out)
    if 4 in corpus.channels.values():
        why = "holds transparent pictures, and models take RGB"
        raise UsageError("corpus", corpus.root, why, "build it with --channels rgb")


def read_pair(
    corpus: Corpus, pair: Pair, size: tuple[int, int], swapped: bool = False
) -> tuple[Pixels, Pixels]:
    """Return input and target, H x W x 3 RGB uint8; CorpusError where one is not of this (height, width)."""
    halves = _halves(corpus, pair, swapped)
    for pixels, path in zip(halves, (pair.input, pair.target), strict=True):
        if pixels.shape[:2] != size:
            height, width = pixels.shape[:2]
            why = f"is {width}x{height}, the first one is {size[1]}x{size[0]}"
            raise CorpusError(
                "picture", path, why, "build the corpus with --size, so that all are of one size"
            )
    return halves


def _halves(corpus: Corpus, pair: Pair, swapped: bool) -> tuple[Pixels, Pixels]:
    given, target = corpus.read(pair)
    return (target, given) if swapped else (given, target)


@dataclass(frozen=True, slots=True)
class Memory:
    """All pictures of a ``PairSet``, decoded: two arrays N x H x W x 3 uint8."""

    inputs: Pixels
    targets: Pixels

    def gather(self, indices: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
        """Return the pictures of these indices, stacked."""
        return self.inputs[indices], self.targets[indices]


@dataclass(frozen=True, slots=True)
class Disk:
    """The pictures of a ``PairSet``, decoded each time they are needed."""

    pairs: PairSet

    def gather(self, indices: NDArray[np.int64]) -> tuple[Pixels, Pixels]:
        """Return the pictures of these indices, stacked."""
        given, targets = zip(*(self.pairs.read(int(i)) for i in indices), strict=True)
        return np.stack(given), np.stack(targets)


Store: TypeAlias = Memory | Disk


def store_of(
    pairs: PairSet, cache: str, workers: int, step: Callable[[int], None] = lambda done: None
) -> Store:
    """Return where pictures come from. ``step`` is called with the number of pairs read so far."""
    fits = pairs.nbytes <= SHARE_OF_MEMORY * free_memory()
    if cache == "off" or (cache == "auto" and (workers or not fits)):
        return Disk(pairs)
    inputs = np.empty((len(pairs), *pairs.size, 3), np.uint8)
    targets = np.empty_like(inputs)

    def read(index: int) -> None:
        inputs[index], targets[index] = pairs.read(index)

    with ThreadPoolExecutor(READERS) as pool:
        try:
            for done, _ in enumerate(pool.map(read, range(len(pairs))), 1):
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


# ------------------------------------------------------------------------------------------- order
@dataclass(frozen=True, slots=True)
class Plan:
    """Which pairs each step sees, from the step's number alone.

    An epoch draws as many pairs as the corpora hold together, of each corpus the share that its weight has in
    the sum of weights (all weights equal: the same number from each). Within a corpus no pair comes twice
    before all came once. The last pairs that do not fill a batch are left out; each epoch leaves out others.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    batch: int
    seed: int

    @property
    def total(self) -> int:
        """The pairs of all corpora."""
        return sum(self.counts)

    @property
    def step_pictures(self) -> int:
        """The pairs of one step."""
        return min(self.batch, self.total)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of one epoch, at least one."""
        return self.total // self.step_pictures

    def drawn(self) -> tuple[int, ...]:
        """Return how many pairs of each corpus an epoch draws: shares of ``total``, by largest remainder."""
        weights = [w if n else 0.0 for w, n in zip(self.weights, self.counts, strict=True)]
        exact = [self.total * w / sum(weights) for w in weights]
        whole = [int(share) for share in exact]
        by_rest = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
        for i in by_rest[: self.total - sum(whole)]:
            whole[i] += 1
        return tuple(whole)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the indices of an epoch in the order in which they come. Depends on seed and epoch."""
        rng = np.random.default_rng([self.seed, epoch, ORDER])
        starts = [0, *accumulate(self.counts)]
        parts = [s + _rounds(n, k, rng) for s, n, k in zip(starts, self.counts, self.drawn(), strict=False)]
        return rng.permutation(np.concatenate(parts))

    def flips(self, epoch: int) -> NDArray[np.bool_]:
        """Return for each place of an epoch whether its pair is mirrored. Depends on seed and epoch."""
        return np.random.default_rng([self.seed, epoch, FLIP]).random(self.total) < 0.5

    def step(self, number: int, flip: bool) -> Step:
        """Return what step ``number`` (from 0) sees."""
        epoch, place = divmod(number, self.steps_per_epoch)
        order, flips = _epoch(self, epoch)
        span = slice(place * self.step_pictures, (place + 1) * self.step_pictures)
        return Step(order[span], flips[span] if flip else None)


def _rounds(count: int, drawn: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw from 0..count-1: whole rounds, and a random part of the last one."""
    if not count:
        return np.empty(0, np.int64)
    whole, rest = divmod(drawn, count)
    return np.concatenate([np.tile(np.arange(count), whole), rng.permutation(count)[:rest]])


@lru_cache(maxsize=2)
def _epoch(plan: Plan, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return plan.order(epoch), plan.flips(epoch)


@dataclass(frozen=True, slots=True)
class Step:
    """The pairs of one step, and which of them are mirrored (None: none)."""

    indices: NDArray[np.int64]
    flips: NDArray[np.bool_] | None


# ----------------------------------------------------------------------------------------- loading
@dataclass(frozen=True, slots=True)
class Raw:
    """The pictures of one step on the host: N x H x W x 3 uint8."""

    inputs: Pixels
    targets: Pixels
    flips: NDArray[np.bool_] | None


class _Steps(Dataset[Raw]):
    def __init__(self, plan: Plan, store: Store, flip: bool) -> None:
        self.plan, self.store, self.flip = plan, store, flip

    def __getitem__(self, number: int) -> Raw:
        step = self.plan.step(number, self.flip)
        return Raw(*self.store.gather(step.indices), step.flips)


class _Numbers(Sampler[int]):
    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def steps(plan: Plan, store: Store, numbers: range, flip: bool, workers: int) -> Generator[Raw, None, None]:
    """Yield the pictures of the steps ``numbers``; with ``workers`` that many processes read ahead, through
    all epochs.

    The workers have a generator of their own, draw nothing, leave signals to their parent and end when it is
    gone.
    """
    data = _Steps(plan, store, flip)
    if not workers:
        yield from (data[number] for number in numbers)
        return
    loader: DataLoader[Raw] = DataLoader(
        data,
        batch_size=None,
        sampler=_Numbers(numbers),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_Watched(os.getpid()),
        generator=torch.Generator(),
        prefetch_factor=4,
    )
    yield from loader


def _as_it_is(raw: Any) -> Any:
    return raw


@dataclass(frozen=True, slots=True)
class _Watched:
    """Sets up a worker. Pictures travel through its pipe, so it leaves nothing in shared memory either."""

    parent: int

    def __call__(self, worker: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(0.5)
        os._exit(1)


def to_device(raw: Raw, device: torch.device) -> Batch:
    """Return a step's pictures on the device, float32 N x 3 x H x W in [-1, 1], mirrored where asked for.

    Bytes travel, floats are made on the device; the layout in memory stays channels last.
    """
    flips = None
    if raw.flips is not None:
        flips = _moved(torch.from_numpy(raw.flips), device).view(-1, 1, 1, 1)
    return Batch(_scaled(raw.inputs, device, flips), _scaled(raw.targets, device, flips))


def _scaled(pixels: Pixels, device: torch.device, flips: Tensor | None) -> Tensor:
    x = _moved(torch.from_numpy(pixels), device)
    if flips is not None:
        x = torch.where(flips, x.flip(2), x)
    return from_bytes(x)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def from_bytes(x: Tensor) -> Tensor:
    """Return uint8 N x H x W x C as float32 N x C x H x W in [-1, 1]."""
    return x.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_bytes(x: Tensor) -> Tensor:
    """Return N x C x H x W in [-1, 1] as uint8 N x H x W x C, rounded once."""
    return x.detach().float().add(1.0).mul(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def spread(count: int, wanted: int) -> Sequence[int]:
    """Return ``wanted`` places evenly spread over ``count``, fewer where there are fewer."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})
