"""Layers that behave at test as in training, where a model was published so.

Pix2pix keeps dropout and batch statistics at test (Isola et al. 2017, 3.4). Both are made here so that a
result depends on the image alone: statistics are those of one image, as with the published batch of one,
and dropout is drawn from a seed that belongs to the image. Neither depends on the batch a image is in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from img2img_train.distributed.processes import asking

TestNorm: TypeAlias = Literal["running", "batch"]


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is the sum of theirs, as often as one likes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        with asking():
            distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)  # type: ignore[no-any-return,no-untyped-call]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that can use each image's own statistics at test, as a batch of one does in training.

    ``shared_by`` processes that train together, the statistics in training are those of all their images.
    (``SyncBatchNorm`` knows CUDA alone, and cannot be differentiated twice.)
    """

    per_image: bool = False
    shared_by: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalise N x C x H x W; a single value a channel has no statistics, it takes the running ones."""
        if self.training and self.shared_by > 1:
            return self._together(x)
        if self.training or not self.per_image or x.shape[2] * x.shape[3] == 1:
            return super().forward(x)
        return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)

    def _together(self, given: Tensor) -> Tensor:
        with torch.autocast(given.device.type, enabled=False):
            x = given.float()
            mean = self._mean(x)
            var = self._mean((x - mean).square())
            count = self.shared_by * x.numel() // x.shape[1]
            self._remember(mean.detach().flatten(), var.detach().flatten() * (count / (count - 1)))
            scale = torch.rsqrt(var + self.eps) * self.weight.view_as(var)
            return ((x - mean) * scale + self.bias.view_as(var)).to(given.dtype)

    def _mean(self, x: Tensor) -> Tensor:
        own = x.mean((0, 2, 3), keepdim=True)
        return _Sum.apply(own) / self.shared_by  # type: ignore[no-any-return,no-untyped-call]

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(var, self.momentum or 0.0)


class ReflectionPad(nn.ReflectionPad2d):
    """Reflection padding whose gradient repeats itself on CUDA too, where that of torch's does not.

    https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html names it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad N x C x H x W on all four sides."""
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return self.joined(x)
        return super().forward(x)

    def joined(self, x: Tensor) -> Tensor:
        """Return the same, put together of slices: their gradients are plain sums."""
        left, right, top, bottom = self.padding
        for axis, before, after in ((2, top, bottom), (3, left, right)):
            start = x.narrow(axis, 1, before).flip(axis)
            end = x.narrow(axis, x.shape[axis] - 1 - after, after).flip(axis)
            x = torch.cat([start, x, end], axis)
        return x


class Dropout(nn.Dropout):
    """Dropout that can go on at test, with a mask for each image drawn from its seed."""

    seeds: tuple[int, ...] = ()
    number: int = 0

    def forward(self, x: Tensor) -> Tensor:
        """Drop; at test only where there are ``seeds``, one for each of the N images."""
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
            module.per_image = norm == "batch"
        elif isinstance(module, Dropout):
            module.number, dropouts = dropouts, dropouts + 1


def looks_around(network: nn.Module) -> bool:
    """Tell whether a network normalises by all that it is given: then tiles are not parts of a whole."""
    return any(
        isinstance(m, nn.InstanceNorm2d) or (isinstance(m, BatchNorm) and m.per_image)
        for m in network.modules()
    )


def share_norm(network: nn.Module, processes: int) -> None:
    """Let so many processes that train together share the statistics of all batch norms in training."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.shared_by = processes


@contextlib.contextmanager
def norm_alone(network: nn.Module) -> Iterator[None]:
    """Let all batch norms ask no other process, for as long as the block lasts."""
    shared = [(m, m.shared_by) for m in network.modules() if isinstance(m, BatchNorm)]
    share_norm(network, 1)
    try:
        yield
    finally:
        for module, processes in shared:
            module.shared_by = processes


def together_uncompiled(network: nn.Module) -> None:
    """Let no compiler look into what batch norms of several processes do together."""
    for module in network.modules():
        if isinstance(module, BatchNorm) and module.shared_by > 1:
            module._together = torch.compiler.disable(module._together)  # type: ignore[method-assign,no-untyped-call]


def seeds_of(images: Tensor, draw: int = 0) -> tuple[int, ...]:
    """Return a seed for each of N images, from its samples and the number of the draw."""
    held = images.detach().cpu().contiguous().numpy()
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
