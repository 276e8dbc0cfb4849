"""Images to batches: which ones a step sees, and the way onto the device.

A run's position is one integer, the step: ``SamplingPlan`` says from it which images come, in what order and how
augmented. Whether images come from memory, from disk or from worker processes changes nothing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from img2img_data.corpus.reader import Pair
from img2img_data.images.pixels import Pixels
from img2img_train.data.augment import Crops, enlarged, enlarged_pixels, moved
from img2img_train.data.color import PLAIN, ChannelLayout
from img2img_train.data.dataset import ImageSet, ImageStore, PairedImages
from img2img_train.data.device_cache import DeviceCache
from img2img_train.data.on_the_fly import OnTheFly, Operators
from img2img_train.objectives.base import Batch

ORDER, FLIP, WINDOW, CUT = 0, 1, 3, 4
"""Tell the draws of a plan apart; ``pool.POOL`` is another."""
Share: TypeAlias = slice | NDArray[np.int64]
WHOLE: Final = slice(None)
HANGUP: Final = getattr(signal, "SIGHUP", signal.SIGTERM)


# ------------------------------------------------------------------------------------------- order
@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Which pairs each step sees, from the step's number alone.

    An epoch draws as many pairs as the corpora hold together, of each corpus the share that its weight has
    in the sum of weights (all weights equal: the same number from each). Within a corpus no pair comes
    twice before all came once. The last pairs that do not fill a batch are left out; each epoch leaves out
    others.

    Of unpaired corpora ``counts`` are the inputs and ``others`` the targets, each drawn in this way and
    independently; a corpus counts as many images as its larger side.

    With ``crop`` a square of so many pixels is cut out of each image; with ``jitter`` above 1 each is then
    enlarged by so much, and a window of its size cut out of that. Both places are drawn anew in each epoch.
    """

    counts: tuple[int, ...]
    weights: tuple[float, ...]
    batch: int
    seed: int
    others: tuple[int, ...] | None = None
    jitter: float = 1.0
    crop: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The pairs of each corpus, or the images of its larger side."""
        return tuple(map(max, self.counts, self.others)) if self.others else self.counts

    @property
    def total(self) -> int:
        """The pairs of all corpora."""
        return sum(self.sizes)

    @property
    def step_images(self) -> int:
        """The pairs of one step."""
        return min(self.batch, self.total)

    @property
    def steps_per_epoch(self) -> int:
        """The steps of one epoch, at least one."""
        return self.total // self.step_images

    def drawn(self) -> tuple[int, ...]:
        """Return how many pairs of each corpus an epoch draws: shares of ``total``, by largest remainder."""
        weights = [w if n else 0.0 for w, n in zip(self.weights, self.sizes, strict=True)]
        exact = [self.total * w / sum(weights) for w in weights]
        whole = [int(share) for share in exact]
        by_rest = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
        for i in by_rest[: self.total - sum(whole)]:
            whole[i] += 1
        return tuple(whole)

    def order(self, epoch: int, side: int = 0) -> NDArray[np.int64]:
        """Return the indices of an epoch in the order in which they come. Depends on seed, epoch and side."""
        rng = np.random.default_rng(
            [self.seed, epoch, ORDER, side] if side else [self.seed, epoch, ORDER]
        )
        counts = self.others if side and self.others else self.counts
        starts = [0, *accumulate(counts)]
        parts = [
            s + _rounds(n, k, rng) for s, n, k in zip(starts, counts, self.drawn(), strict=False)
        ]
        return rng.permutation(np.concatenate(parts))

    def flips(self, epoch: int) -> NDArray[np.bool_]:
        """Return for each place of an epoch whether input and target are mirrored, 2 x places; pairs both
        or none.

        Depends on seed and epoch.
        """
        rng = np.random.default_rng([self.seed, epoch, FLIP])
        inputs = rng.random(self.total) < 0.5
        return np.stack([inputs, rng.random(self.total) < 0.5 if self.others else inputs])

    def windows(self, epoch: int, kind: int = WINDOW) -> NDArray[np.float64]:
        """Return where the windows of an epoch lie, as shares of the room there is: 2 x places x 2, of inputs
        and targets, down and across; those of a pair are the same.

        Depends on seed, epoch and kind: ``WINDOW`` of what is enlarged, ``CUT`` of what is cut.
        """
        rng = np.random.default_rng([self.seed, epoch, kind])
        inputs = rng.random((self.total, 2))
        return np.stack([inputs, rng.random((self.total, 2)) if self.others else inputs])

    def step(self, number: int, flip: bool) -> Step:
        """Return what step ``number`` (from 0) sees."""
        epoch, place = divmod(number, self.steps_per_epoch)
        drawn = _epoch(self, epoch)
        span = slice(place * self.step_images, (place + 1) * self.step_images)
        flips = drawn.flips[:, span] if flip else None
        jitter, crop = drawn.windows, drawn.cuts
        return Step(
            drawn.order[span],
            drawn.others[span],
            flips,
            epoch,
            None if jitter is None else Jitter(self.jitter, jitter[:, span]),
            None if crop is None else Crops(self.crop, crop[:, span]),
        )


def _rounds(count: int, drawn: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw from 0..count-1: whole rounds, and a random part of the last one."""
    if not count:
        return np.empty(0, np.int64)
    whole, rest = divmod(drawn, count)
    return np.concatenate([np.tile(np.arange(count), whole), rng.permutation(count)[:rest]])


@dataclass(frozen=True, slots=True)
class _Epoch:
    order: NDArray[np.int64]
    others: NDArray[np.int64]
    flips: NDArray[np.bool_]
    windows: NDArray[np.float64] | None
    cuts: NDArray[np.float64] | None


@lru_cache(maxsize=2)
def _epoch(plan: SamplingPlan, epoch: int) -> _Epoch:
    order = plan.order(epoch)
    others = plan.order(epoch, side=1) if plan.others else order
    windows = plan.windows(epoch) if plan.jitter > 1 else None
    cuts = plan.windows(epoch, CUT) if plan.crop else None
    return _Epoch(order, others, plan.flips(epoch), windows, cuts)


@dataclass(frozen=True, slots=True)
class Jitter:
    """The factor by which images are enlarged, and the places of their windows, 2 x N x 2."""

    factor: float
    places: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Step:
    """The inputs and targets of one step, which are mirrored, 2 x N, and what is cut out of them, enlarged or
    not (None: nothing); of pairs both are the same.
    """

    indices: NDArray[np.int64]
    others: NDArray[np.int64]
    flips: NDArray[np.bool_] | None
    epoch: int
    jitter: Jitter | None = None
    cuts: Crops | None = None

    def part(self, share: Share) -> Step:
        """Return what one of several processes sees of the step."""
        flips = None if self.flips is None else self.flips[:, share]
        jitter = self.jitter and replace(self.jitter, places=self.jitter.places[:, share])
        cuts = self.cuts and replace(self.cuts, places=self.cuts.places[:, share])
        return Step(self.indices[share], self.others[share], flips, self.epoch, jitter, cuts)


# ----------------------------------------------------------------------------------------- loading
@dataclass(frozen=True, slots=True)
class Raw:
    """The images of one step: N x H x W x C as read, on the host, or on the device where they are kept; and
    ``flips`` 2 x N, of inputs and targets.

    Where there is ``jitter`` the device enlarges them; where there are ``operators`` the inputs are still the
    targets: the device then degrades them.
    """

    inputs: Pixels | Tensor
    targets: Pixels | Tensor
    flips: NDArray[np.bool_] | None
    operators: Operators | None = None
    jitter: Jitter | None = None


class _Steps(Dataset[Raw]):
    def __init__(
        self,
        plan: SamplingPlan,
        store: ImageStore | DeviceCache,
        flip: bool,
        held: ImageSet | None,
        share: Share,
    ) -> None:
        self.plan, self.store, self.flip, self.held = plan, store, flip, held
        self.share = share

    def __getitem__(self, number: int) -> Raw:
        step = self.plan.step(number, self.flip).part(self.share)
        given, targets = self.store.gather(step.indices, step.others, step.cuts)
        if not isinstance(self.held, PairedImages) or self.held.online is None:
            return Raw(given, targets, step.flips, jitter=step.jitter)
        pairs = [self.held.pairs[i][1] for i in step.indices.tolist()]
        return _degraded(self.held.online, targets, pairs, step)


def _degraded(online: OnTheFly, clean: Pixels | Tensor, pairs: Sequence[Pair], step: Step) -> Raw:
    """Degrade a step's images here, or say how the device is to; what is degraded is enlarged before."""
    if online.linear:
        operators = online.operators(pairs, step.epoch, (clean.shape[1], clean.shape[2]))
        return Raw(clean, clean, step.flips, operators, step.jitter)
    assert isinstance(clean, np.ndarray)
    if step.jitter is not None:
        clean = enlarged_pixels(clean, step.jitter.factor, step.jitter.places[1])
    made = [
        online.degrade(image, pair, step.epoch) for image, pair in zip(clean, pairs, strict=True)
    ]
    return Raw(np.stack(made), clean, step.flips)


class _Numbers(Sampler[int]):
    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def raw_batches(
    plan: SamplingPlan,
    store: ImageStore | DeviceCache,
    numbers: range,
    flip: bool,
    workers: int,
    held: ImageSet | None = None,
    share: Share = WHOLE,
) -> Generator[Raw, None, None]:
    """Yield the images of the steps ``numbers``; with ``workers`` that many processes read ahead, through
    all epochs. ``store`` has the images of ``held`` to train on; ``share`` says which of each step are
    wanted.

    The workers have a generator of their own, draw nothing, leave signals to their parent and end when it is
    gone.
    """
    data = _Steps(plan, store, flip, held, share)
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
    """Sets up a worker. Images travel through its pipe, so it leaves nothing in shared memory either."""

    parent: int

    def __call__(self, worker: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, HANGUP):
            signal.signal(number, signal.SIG_IGN)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while os.getppid() == self.parent:
            time.sleep(0.5)
        os._exit(1)


def prefetch(
    raws: Iterator[Raw], device: torch.device, channel_layout: ChannelLayout = PLAIN
) -> Iterator[Batch]:
    """Yield the steps' images as ``to_device`` returns them.

    On CUDA they come by a stream of their own: as nothing in a step waits for the device, the host is back
    for the next images while the device computes, and neither their way nor their floats wait for the step
    before. Elsewhere host and device are one, and there is nothing to overlap.
    """
    if device.type != "cuda":
        yield from (to_device(raw, device, channel_layout) for raw in raws)
        return
    computing, moving = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    moving.wait_stream(computing)  # which may have brought the images there
    while True:
        with torch.cuda.stream(moving):
            raw = next(raws, None)
            if raw is None:
                return
            batch = to_device(raw, device, channel_layout)
        computing.wait_stream(moving)
        for images in (batch.input, batch.target):
            # Else their memory is given to a later step's while this one still computes with it:
            # https://docs.pytorch.org/docs/stable/generated/torch.Tensor.record_stream.html
            images.record_stream(computing)
        yield batch


def to_device(raw: Raw, device: torch.device, channel_layout: ChannelLayout = PLAIN) -> Batch:
    """Return a step's images on the device, float32 N x C x H x W as networks take them, mirrored where
    asked for.

    Bytes travel, floats are made on the device; the layout in memory stays channels last. A image is
    enlarged before it is degraded, and degraded before it is mirrored.
    """
    flips = (None, None) if raw.flips is None else raw.flips
    targets = _levels(raw, 1, device)
    if raw.operators is None:
        inputs = channel_layout.input(_levels(raw, 0, device))
    else:
        levels = targets.permute(0, 3, 1, 2).to(torch.float32)
        inputs = (
            apply_operators(levels, raw.operators, channel_layout.top)
            .div_(channel_layout.top / 2)
            .sub_(1.0)
        )
    return Batch(_mirrored(inputs, flips[0]), _mirrored(channel_layout.target(targets), flips[1]))


def _levels(raw: Raw, side: int, device: torch.device) -> Tensor:
    """Return the samples of inputs (0) or targets (1), N x H x W x C on the device, enlarged if need be."""
    stored = (raw.inputs, raw.targets)[side]
    levels = stored if isinstance(stored, Tensor) else moved(stored, device)
    return (
        levels
        if raw.jitter is None
        else enlarged(levels, raw.jitter.factor, raw.jitter.places[side])
    )


def apply_operators(levels: Tensor, operators: Operators, top: int) -> Tensor:
    """Return images N x C x H x W float32, samples 0 to ``top``, degraded, rounded and clipped once.

    Float32 whatever the arithmetic of the step.
    """
    rows, columns = (moved(m, levels.device) for m in (operators.rows, operators.columns))
    with torch.autocast(levels.device.type, enabled=False):
        degraded = rows[:, None] @ levels @ columns.mT[:, None]
    return degraded.round_().clamp_(0, top)


def _mirrored(x: Tensor, flips: NDArray[np.bool_] | None) -> Tensor:
    """Mirror those images of N x C x H x W, left and right, for which ``flips`` says so."""
    if flips is None:
        return x
    return torch.where(moved(flips, x.device).view(-1, 1, 1, 1), x.flip(3), x)


def from_uint8(x: Tensor) -> Tensor:
    """Return uint8 N x H x W x C as float32 N x C x H x W in [-1, 1]."""
    return x.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Return N x C x H x W in [-1, 1] as uint8 N x H x W x C, rounded once."""
    return (
        x.detach()
        .float()
        .add(1.0)
        .mul(127.5)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
    )


def from_uint16(x: Tensor) -> Tensor:
    """Return 16-bit samples, N x H x W x C float32, as N x C x H x W in [-1, 1]."""
    return x.permute(0, 3, 1, 2).to(torch.float32).div(32767.5).sub_(1.0)


def to_uint16(x: Tensor) -> Tensor:
    """Return N x C x H x W in [-1, 1] as 16-bit samples, N x H x W x C int32, rounded once."""
    whole = x.detach().float().add(1.0).mul(32767.5).round_().clamp_(0, 65535)
    return whole.to(torch.int32).permute(0, 2, 3, 1)


def evenly_spaced(count: int, wanted: int) -> Sequence[int]:
    """Return ``wanted`` places evenly spread over ``count``, fewer where there are fewer."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(wanted, count))})
