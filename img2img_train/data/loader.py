"""Batches: which images a step sees, and how they reach the device.

The position of a run is one integer, the step: ``SamplingPlan`` computes from it the images, their
order and their augmentation. Reading from memory, from disk or in worker processes gives the same
batches.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import accumulate
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from img2img_data.core.errors import Img2ImgError
from img2img_data.corpus.reader import Pair
from img2img_data.images.pixels import Pixels
from img2img_train.config import RunConfig
from img2img_train.data.augment import Crops, copy_to, resize_and_crop, resize_and_crop_pixels
from img2img_train.data.color import PLAIN, ChannelLayout
from img2img_train.data.dataset import ImageSet, ImageStore, Indices, PairedImages
from img2img_train.data.device_cache import DeviceCache
from img2img_train.data.on_the_fly import OnTheFly, Operators
from img2img_train.objectives.base import Batch

# These keep the random streams of one (seed, epoch) apart; ``image_pool`` uses 2.
ORDER, FLIP, JITTER, CROP, TURN, KIND = 0, 1, 3, 4, 5, 6
DEFAULT, STORED, CLEAN = range(3)
"""Kinds of inputs: degraded anew with --degrade, else stored; stored all the same; the target."""
ORIENTATIONS: Final[Mapping[int, Callable[[Tensor], Tensor]]] = {
    1: lambda x: x.flip(3),
    2: lambda x: x.rot90(1, (2, 3)),
    4: lambda x: x.rot90(2, (2, 3)),
}
"""What each bit of an orientation does to N x C x H x W."""
Part: TypeAlias = slice | Indices
# Windows has no SIGHUP.
SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
"""Signals that stop a run; workers leave them to the process that trains."""


# ----------------------------------------------------------------------------------------- sampling
@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """The samples of every step, computed from the step's number.

    An epoch draws as many pairs as the corpora hold together: from each corpus the share that its
    weight has in the sum of weights (with equal weights the same number from each). Within a corpus
    no pair is drawn again before all were drawn. Pairs that do not fill the last batch are dropped,
    other ones in each epoch.

    For unpaired corpora ``counts`` are the inputs and ``others`` the targets, drawn in the same way
    and independently; a corpus counts as many images as its larger domain.

    ``crop`` cuts a square of that side from each image; a ``jitter`` above 1 then enlarges it by
    that factor and crops it to its size; ``flip`` mirrors half of the images, ``rotate`` turns them
    by 0, 90, 180 or 270 degrees. ``shares`` are the shares of STORED and CLEAN inputs. All of it is
    drawn anew in each epoch.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    batch: int
    seed: int
    others: tuple[int, ...] | None = None
    jitter: float = 1.0
    crop: int = 0
    flip: bool = False
    rotate: bool = False
    shares: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, config: RunConfig, images: ImageSet) -> SamplingPlan:
        """Return the plan of a run over its training images."""
        c, weights = config, tuple(choice.weight for choice in config.corpora)
        drawn = images.counts, weights, c.batch, c.seed, images.other_counts
        shares = c.stored_share, c.clean_share
        return cls(*drawn, c.jitter, images.crop, c.flip, bool(c.rotate), shares)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of pairs of each corpus, or of images of its larger domain."""
        return tuple(map(max, self.counts, self.others)) if self.others else self.counts

    @property
    def total(self) -> int:
        """Number of pairs of all corpora."""
        return sum(self.sizes)

    @property
    def step_images(self) -> int:
        """Number of pairs of one step."""
        return min(self.batch, self.total)

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps of one epoch, at least one."""
        return self.total // self.step_images

    def drawn(self) -> tuple[int, ...]:
        """Return the number of pairs of each corpus in an epoch: shares of ``total`` by largest
        remainder.
        """
        weights = [w if n else 0.0 for w, n in zip(self.weights, self.sizes, strict=True)]
        exact = [self.total * w / sum(weights) for w in weights]
        numbers = [int(share) for share in exact]
        by_remainder = sorted(range(len(exact)), key=lambda i: (numbers[i] - exact[i], i))
        for i in by_remainder[: self.total - sum(numbers)]:
            numbers[i] += 1
        return tuple(numbers)

    def order(self, epoch: int, side: int = 0) -> Indices:
        """Return the indices of an epoch in order; depends on seed, epoch and side (1: unpaired
        targets).
        """
        # A stream of their own, or domains of equal size would be drawn in pairs.
        key = [self.seed, epoch, ORDER, side] if side else [self.seed, epoch, ORDER]
        rng = np.random.default_rng(key)
        counts = self.others if side and self.others else self.counts
        starts = [0, *accumulate(counts)]
        corpora = zip(starts, counts, self.drawn(), strict=False)
        return rng.permutation(np.concatenate([s + _rounds(n, k, rng) for s, n, k in corpora]))

    def draw(self, epoch: int, stream: int, *shape: int) -> NDArray[np.float64]:
        """Return numbers in [0, 1) for the inputs and targets of an epoch, 2 x N x ``shape``.

        Both numbers of a pair are equal. ``stream`` is the purpose, as ``FLIP``.
        """
        rng = np.random.default_rng([self.seed, epoch, stream])
        inputs = rng.random((self.total, *shape))
        return np.stack([inputs, rng.random((self.total, *shape)) if self.others else inputs])

    def step(self, number: int) -> StepSamples:
        """Return the samples of step ``number``, counted from 0."""
        epoch, place = divmod(number, self.steps_per_epoch)
        part = slice(place * self.step_images, (place + 1) * self.step_images)
        return _epoch_samples(self, epoch).select(part)


def _rounds(count: int, drawn: int, rng: np.random.Generator) -> Indices:
    """Draw from 0..count-1: complete rounds, then a random part of one."""
    if not count:
        return np.empty(0, np.int64)
    rounds, rest = divmod(drawn, count)
    return np.concatenate([np.tile(np.arange(count), rounds), rng.permutation(count)[:rest]])


@dataclass(frozen=True, slots=True)
class Jitter:
    """A factor by which images are enlarged, and the offsets of the crops, 2 x N x 2."""

    factor: float
    offsets: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StepSamples:
    """Indices of inputs and targets, 2 x N, and their augmentation; equal for both halves of a
    pair.

    ``orientations`` is 2 x N: twice the number of quarter turns, plus 1 if mirrored before.
    ``kinds`` holds the kind of each input, N; None: DEFAULT. ``jitter`` and ``crops`` are None
    without an augmentation of that kind.
    """

    indices: Indices
    orientations: NDArray[np.int64]
    epoch: int
    jitter: Jitter | None = None
    crops: Crops | None = None
    kinds: NDArray[np.int64] | None = None

    def select(self, part: Part) -> StepSamples:
        """Return a part of the samples, for instance that of one of several processes."""
        indices, orientations = self.indices[:, part], self.orientations[:, part]
        jitter = self.jitter and replace(self.jitter, offsets=self.jitter.offsets[:, part])
        crops = self.crops and replace(self.crops, offsets=self.crops.offsets[:, part])
        kinds = None if self.kinds is None else self.kinds[part]
        return StepSamples(indices, orientations, self.epoch, jitter, crops, kinds)


@lru_cache(maxsize=2)
def _epoch_samples(plan: SamplingPlan, epoch: int) -> StepSamples:
    order = plan.order(epoch)
    indices = np.stack([order, plan.order(epoch, side=1) if plan.others else order])
    jitter = Jitter(plan.jitter, plan.draw(epoch, JITTER, 2)) if plan.jitter > 1 else None
    crops = Crops(plan.crop, plan.draw(epoch, CROP, 2)) if plan.crop else None
    orientations = np.zeros(indices.shape, np.int64)
    orientations += (plan.draw(epoch, FLIP) < 0.5) if plan.flip else 0
    orientations += 2 * (4 * plan.draw(epoch, TURN)).astype(np.int64) if plan.rotate else 0
    kinds = None
    if any(plan.shares):
        share, clean = plan.draw(epoch, KIND)[0], plan.shares[CLEAN - 1]
        kinds = (share < sum(plan.shares)).astype(np.int64) + (share < clean)
    return StepSamples(indices, orientations, epoch, jitter, crops, kinds)


# ------------------------------------------------------------------------------------------ loading
@dataclass(frozen=True, slots=True)
class RawBatch:
    """The images of one step as read, N x H x W x C, on the host or in the device cache;
    ``orientations`` (None: all are upright) and ``kinds`` as in ``StepSamples``.

    The device still has to apply ``jitter`` to them, to degrade the targets if there are
    ``operators``, which gives the inputs of kind DEFAULT, and to take targets as those that are
    CLEAN. ``inputs`` are the targets themselves where none is stored.
    """

    inputs: Pixels | Tensor
    targets: Pixels | Tensor
    orientations: NDArray[np.int64] | None = None
    operators: Operators | None = None
    jitter: Jitter | None = None
    kinds: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class StepDataset(Dataset[RawBatch]):
    """Maps the number of a step to its images.

    ``store`` holds the training images of ``images``. ``part`` selects the samples of one of
    several processes.
    """

    plan: SamplingPlan
    store: ImageStore | DeviceCache
    images: ImageSet
    part: Part = field(default_factory=lambda: slice(None))

    def __getitem__(self, number: int) -> RawBatch:
        step = self.plan.step(number).select(self.part)
        inputs, targets = self.store.gather(step.indices, step.crops)
        raw = RawBatch(inputs, targets, step.orientations, None, step.jitter, step.kinds)
        if not isinstance(self.images, PairedImages) or self.images.on_the_fly is None:
            return raw
        pairs = [self.images.pairs[i][1] for i in step.indices[1].tolist()]
        return _degrade(self.images.on_the_fly, raw, pairs, step.epoch)


def _degrade(on_the_fly: OnTheFly, raw: RawBatch, pairs: Sequence[Pair], epoch: int) -> RawBatch:
    """Return a batch whose inputs are degraded, or have operators, except those of another kind."""
    if on_the_fly.is_linear:
        size = raw.targets.shape[1], raw.targets.shape[2]
        return replace(raw, operators=on_the_fly.operators(pairs, epoch, size))
    inputs, targets = raw.inputs, raw.targets
    # check_device_cache has made sure of it.
    assert isinstance(inputs, np.ndarray)
    assert isinstance(targets, np.ndarray)
    # The degradation sees the final crop, so that its border is that of the crop, as on the device.
    if raw.jitter is not None:
        factor, offsets = raw.jitter.factor, raw.jitter.offsets
        targets = resize_and_crop_pixels(targets, factor, offsets[1])
        one = raw.inputs is raw.targets
        inputs = targets if one else resize_and_crop_pixels(inputs, factor, offsets[0])
    degraded = np.empty_like(targets)
    for i, pair in enumerate(pairs):
        keep = raw.kinds is not None and raw.kinds[i] != DEFAULT
        degraded[i] = inputs[i] if keep else on_the_fly.degrade(targets[i], pair, epoch)
    return replace(raw, inputs=degraded, targets=targets, jitter=None)


@dataclass(frozen=True, slots=True)
class _ErrorsAsItems(Dataset[RawBatch | Exception]):
    """Returns the errors of a dataset: one that a worker raises would arrive as a traceback."""

    dataset: StepDataset

    def __getitem__(self, number: int) -> RawBatch | Exception:
        try:
            return self.dataset[number]
        except (Img2ImgError, OSError, MemoryError) as error:
            return error


def raw_batches(dataset: StepDataset, numbers: range, workers: int) -> Generator[RawBatch]:
    """Yield the images of the steps ``numbers``; ``workers`` processes read ahead.

    The processes have ended, or end within a second, when the generator ends.
    """
    # Shared memory without a lock, which a killed worker could hold forever.
    ended = multiprocessing.RawValue(ctypes.c_bool, False)
    loader: DataLoader[RawBatch | Exception] = DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,  # an item is a batch already
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=partial(_init_worker, os.getpid(), ended),
        # A DataLoader without a generator draws from the global one, which would shift dropout
        # masks.
        generator=torch.Generator(),
        prefetch_factor=4 if workers else None,
        # A forked worker imports nothing, so it watches its parent from its first moment on.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    try:
        for item in loader:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        # Workers ignore the SIGTERM by which Python ends them, and it would wait for them forever.
        ended.value = True


def _init_worker(parent: int, ended: ctypes.c_bool, worker: int) -> None:
    """Leave signals to the parent, and end this process when told to or when the parent is gone."""

    def watch_parent() -> None:
        while os.getppid() == parent and not ended.value:
            time.sleep(0.25)
        os._exit(0)

    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A worker whose parent was killed would otherwise hang with a full pipe that nobody reads.
    threading.Thread(target=watch_parent, daemon=True).start()


# --------------------------------------------------------------------------------- onto the device
def prefetch(
    raws: Iterator[RawBatch], device: torch.device, channel_layout: ChannelLayout = PLAIN
) -> Iterator[Batch]:
    """Yield the batches of ``raws`` on the device; on CUDA they are copied on a stream of their
    own.
    """
    if device.type != "cuda":
        yield from (to_device(raw, device, channel_layout) for raw in raws)
        return
    # No step waits for the device, so the host is back for the next batch while the device still
    # computes. With a second stream neither the copy nor the conversion to float waits for the step
    # before.
    compute, copy = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copy.wait_stream(compute)  # the device cache may have been filled on it
    while True:
        with torch.cuda.stream(copy):
            raw = next(raws, None)
            if raw is None:
                return
            batch = to_device(raw, device, channel_layout)
        compute.wait_stream(copy)
        for images in (batch.input, batch.target):
            # Without this the allocator would reuse their memory for a later batch while the step
            # computes:
            # https://docs.pytorch.org/docs/stable/generated/torch.Tensor.record_stream.html
            images.record_stream(compute)
        yield batch


def to_device(raw: RawBatch, device: torch.device, channel_layout: ChannelLayout = PLAIN) -> Batch:
    """Return a batch on the device: float32 N x C x H x W in [-1, 1] as networks take it.

    Integers are copied and converted there. An image is enlarged, then degraded, then mirrored
    and turned.
    """
    targets = _samples(raw, 1, device)
    inputs = targets if raw.inputs is raw.targets else _samples(raw, 0, device)
    if raw.operators is not None:
        degraded = apply_operators(targets, raw.operators, channel_layout.top)
        inputs = degraded if raw.kinds is None else _where(raw.kinds == DEFAULT, degraded, inputs)
    if raw.kinds is not None:
        inputs = _where(raw.kinds == CLEAN, targets, inputs)
    images = [channel_layout.input(inputs), channel_layout.target(targets)]
    if raw.orientations is not None:
        images = [orient(x, o) for x, o in zip(images, raw.orientations, strict=True)]
    return Batch(*images)


def orient(images: Tensor, orientations: NDArray[np.int64]) -> Tensor:
    """Return N x C x H x W mirrored and turned as ``StepSamples`` says; H = W to turn by 90."""
    for bit, change in ORIENTATIONS.items():
        chosen = (orientations & bit) > 0
        if chosen.any():
            images = _where(chosen, change(images), images)
    return images


def _where(chosen: NDArray[np.bool_], images: Tensor, others: Tensor) -> Tensor:
    """Return ``others``, N images of any layout, with the chosen ones taken from ``images``."""
    if not chosen.any():
        return others
    where = copy_to(chosen, images.device)[:, None, None, None]
    return torch.where(where, images.to(torch.float32), others.to(torch.float32))


def _samples(raw: RawBatch, side: int, device: torch.device) -> Tensor:
    """Return inputs (0) or targets (1) on the device, N x H x W x C, with jitter."""
    stored = (raw.inputs, raw.targets)[side]
    samples = stored if isinstance(stored, Tensor) else copy_to(stored, device)
    if raw.jitter is None:
        return samples
    return resize_and_crop(samples, raw.jitter.factor, raw.jitter.offsets[side])


def apply_operators(samples: Tensor, operators: Operators, top: int) -> Tensor:
    """Return degraded images N x H x W x C, float32 in 0..``top``, rounded and clipped once."""
    x = samples.permute(0, 3, 1, 2).to(torch.float32)
    rows = copy_to(operators[0], samples.device)
    same = operators[0] is operators[1]
    columns = rows if same else copy_to(operators[1], samples.device)
    # bf16 has 8 bits of precision: under autocast the product would be off by a gray level or more.
    with torch.autocast(samples.device.type, enabled=False):
        x = rows[:, None] @ x @ columns.mT[:, None]
    return x.round_().clamp_(0, top).permute(0, 2, 3, 1)


def evenly_spaced(count: int, number: int) -> Sequence[int]:
    """Return ``number`` indices evenly spaced over ``count``, fewer if there are fewer."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(number, count))})


def spread_out(count: int, number: int) -> Sequence[int]:
    """Return the indices of ``evenly_spaced`` in an order whose every prefix is spread, too."""
    indices = evenly_spaced(count, number)
    bits = len(indices).bit_length()
    # In the order of their reversed binary digits, positions halve the largest gaps first (van der
    # Corput).
    positions = sorted(range(len(indices)), key=lambda i: int(f"{i:0{bits}b}"[::-1], 2))
    return [indices[position] for position in positions]
