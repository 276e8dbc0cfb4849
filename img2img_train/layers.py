"""Layers that behave at test as in training, where a model was published so.

Pix2pix keeps dropout and batch statistics at test (Isola et al. 2017, 3.4). Both are made here so that a
result depends on the picture alone: statistics are those of one picture, as with the published batch of one,
and dropout is drawn from a seed that belongs to the picture. Neither depends on the batch a picture is in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

TestNorm: TypeAlias = Literal["running", "batch"]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that can use each picture's own statistics at test, as a batch of one does in training."""

    per_picture: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N x C x H x W; a single value a channel has no statistics, it takes the running ones."""
        if self.training or not self.per_picture or x.shape[2] * x.shape[3] == 1:
            return super().forward(x)
        return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)


class Dropout(nn.Dropout):
    """Dropout that can go on at test, with a mask for each picture drawn from its seed."""

    seeds: tuple[int, ...] = ()
    number: int = 0

    def forward(self, x: Tensor) -> Tensor:
        """Drop; at test only where there are ``seeds``, one for each of the N pictures."""
        if self.training or not self.seeds:
            return super().forward(x)
        masks = torch.stack([self._mask(seed, x.shape[1:]) for seed in self.seeds])
        return x * masks.to(x) / (1 - self.p)

    def _mask(self, seed: int, shape: torch.Size) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 64 + self.number)
        return torch.rand(shape, generator=generator) >= self.p


def set_norm(network: nn.Module, norm: TestNorm) -> None:
    """Choose the statistics of all batch norms at test; dropout layers get their numbers."""
    dropouts = 0
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.per_picture = norm == "batch"
        elif isinstance(module, Dropout):
            module.number, dropouts = dropouts, dropouts + 1


def seeds_of(pictures: Tensor, draw: int = 0) -> tuple[int, ...]:
    """Return a seed for each of N pictures, from its samples and the number of the draw."""
    held = pictures.detach().cpu().contiguous().numpy()
    digests = (blake2b(p.tobytes(), digest_size=7, salt=draw.to_bytes(8, "little")) for p in held)
    return tuple(int.from_bytes(d.digest(), "little") for d in digests)


@contextlib.contextmanager
def dropping(networks: Iterable[nn.Module], seeds: Sequence[int]) -> Iterator[None]:
    """Let dropout go on in eval mode, by these seeds; none: it does nothing there."""
    layers = [m for network in networks for m in network.modules() if isinstance(m, Dropout)]
    for layer in layers:
        layer.seeds = tuple(seeds)
    try:
        yield
    finally:
        for layer in layers:
            layer.seeds = ()
