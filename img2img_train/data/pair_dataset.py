"""Pairs as a torch Dataset, for your own training loop."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from img2img_data.core.errors import UsageError
from img2img_train.config import config_of
from img2img_train.data import loader
from img2img_train.data.augment import Crops
from img2img_train.data.dataset import open_training, resolve_crops


class PairDataset(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of corpora as (input, target), float32 C x H x W in [-1, 1].

    ``corpora`` is one or several, each a path, ``"PATH=WEIGHT"`` or an opened corpus; ``settings``
    are those of ``fit``: ``degrade``, ``crop``, ``load_size``, ``jitter``, ``flip``, ``seed``,
    ``batch``, ``direction``... Items are not augmented: ``crop`` cuts out the center, and
    ``degrade`` draws one degradation per image. ``batches`` augments, weights and degrades anew in
    each epoch.

    >>> dataset = train.PairDataset("corpora/gaussian", batch=4, flip=True)
    >>> input, target = dataset[0]
    >>> len(dataset), input.shape
    (7, torch.Size([3, 32, 40]))
    >>> [tuple(input.shape) for input, target in dataset.batches(epoch=0)]
    [(4, 3, 32, 40)]
    """

    def __init__(self, corpora: Any, split: str = "train", **settings: Any) -> None:
        config = config_of({**settings, "corpora": corpora, "split": split})
        if config.input != "plain" and config.noise_ratio is None:
            raise UsageError("option", "--input", "needs a noise_ratio here", "give that of a run")
        self.images = open_training(config)
        self.config = resolve_crops(config, self.images)
        self.plan = loader.SamplingPlan.of(self.config, self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        indices = np.full((2, 1), range(len(self))[operator.index(index)])
        crops = Crops.center(self.images.crop, 1) if self.images.crop else None
        raw = loader.RawBatch(*self.images.gather(indices, crops))
        batch = loader.to_device(raw, torch.device("cpu"), self.images.channel_layout)
        return batch.input[0], batch.target[0]

    def batches(
        self, epoch: int = 0, workers: int = 0, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of an epoch, as ``fit`` sees them; they depend on seed and epoch.

        Tensors are N x C x H x W in channels-last memory. Pairs that fill no batch are left out,
        unless the corpus has fewer pairs than a batch. ``workers`` processes read ahead.
        """
        steps = loader.StepDataset(self.plan, self.images.for_training(), self.images)
        count = self.plan.steps_per_epoch
        raws = loader.raw_batches(steps, range(epoch * count, (epoch + 1) * count), workers)
        for batch in loader.prefetch(raws, torch.device(device), self.images.channel_layout):
            yield batch.input, batch.target
