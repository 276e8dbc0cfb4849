"""Layers: batch norm and dropout that can stay as in training, deterministic padding.

Pix2pix keeps dropout and batch statistics at test (Isola et al. 2017, 3.4).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from img2img_train.distributed.processes import collective

TestNorm: TypeAlias = Literal["running", "batch"]


# Written by hand because the all-reduce of torch.distributed.nn cannot be differentiated twice,
# which the gradient penalty of WGAN-GP needs: the gradient of a sum over processes is the sum of
# their gradients.
class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        with collective():
            distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduceSum.apply(grad)  # type: ignore[no-any-return,no-untyped-call]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with optional per-image statistics at test and synchronization in training.

    ``per_image`` chooses the statistics at test; ``world_size`` processes share them in training.
    """

    per_image: bool = False
    world_size: int = 1

    def forward(self, x: Tensor) -> Tensor:
        """Normalize N x C x H x W."""
        if self.training and self.world_size > 1:
            return self.forward_synced(x)
        # A single value per channel has no statistics of its own: the running ones are used.
        if self.training or not self.per_image or x.shape[2] * x.shape[3] == 1:
            return super().forward(x)
        # Statistics of one image, as with the published batch of one: no result depends on its
        # batch.
        return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)

    # SyncBatchNorm of torch runs on CUDA only, and cannot be differentiated twice.
    def forward_synced(self, x: Tensor) -> Tensor:
        """Normalize by the statistics over the images of all processes."""
        # Float32 whatever the step's precision: sums of bfloat16 over a whole batch lose most of
        # their digits.
        with torch.autocast(x.device.type, enabled=False):
            values = x.float()
            mean = self._mean(values)
            var = self._mean((values - mean).square())
            count = self.world_size * values.numel() // values.shape[1]
            unbiased = var * (count / (count - 1))
            self._update_running(mean.detach().flatten(), unbiased.detach().flatten())
            scale = torch.rsqrt(var + self.eps) * self.weight.view_as(var)
            return ((values - mean) * scale + self.bias.view_as(var)).to(x.dtype)

    def _mean(self, x: Tensor) -> Tensor:
        local = x.mean((0, 2, 3), keepdim=True)
        return _AllReduceSum.apply(local) / self.world_size  # type: ignore[no-any-return,no-untyped-call]

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, var)):
            assert running is not None
            running.lerp_(value, self.momentum or 0.0)


class InstanceNorm(nn.InstanceNorm2d):
    """Instance norm that keeps the memory format of a single image in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize N x C x H x W."""
        # Torch copies channels-last images to contiguous memory. Batch norm does not, and for one
        # image it is the same.
        if self.training and len(x) == 1 and not x.is_contiguous():
            return functional.batch_norm(x, None, None, training=True, eps=self.eps)
        return super().forward(x)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel (Ba, Kiros, Hinton 2016), as in NAFNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize N x C x H x W."""
        mean = x.mean(1, keepdim=True)
        var = (x - mean).square().mean(1, keepdim=True)
        scale = self.weight.view(-1, 1, 1) * torch.rsqrt(var + 1e-6)
        return (x - mean) * scale + self.bias.view(-1, 1, 1)


class ImageMean(nn.Module):
    """The mean of each channel over the whole image."""

    def forward(self, x: Tensor) -> Tensor:
        """Return N x C x 1 x 1 of N x C x H x W."""
        return x.mean((2, 3), keepdim=True)


class ReflectionPad(nn.ReflectionPad2d):
    """Reflection padding with a deterministic gradient on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """Pad N x C x H x W on all four sides."""
        # Torch's own backward adds with atomics there, in no fixed order:
        # https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
        if x.is_cuda and torch.are_deterministic_algorithms_enabled():
            return self.pad_by_slices(x)
        return super().forward(x)

    def pad_by_slices(self, x: Tensor) -> Tensor:
        """Return the same padding, concatenated from slices, whose gradients are plain sums."""
        left, right, top, bottom = self.padding
        for axis, before, after in ((2, top, bottom), (3, left, right)):
            start = x.narrow(axis, 1, before).flip(axis)
            end = x.narrow(axis, x.shape[axis] - 1 - after, after).flip(axis)
            x = torch.cat([start, x, end], axis)
        return x


# Per thread: several may call one model at once.
_SEEDS: ContextVar[tuple[int, ...]] = ContextVar("seeds", default=())


class Dropout(nn.Dropout):
    """Dropout that can stay on at test, with a mask for each image drawn from the image's seed.

    ``number`` distinguishes the dropout layers of a network, which share the seeds.
    """

    number: int = 0

    def forward(self, x: Tensor) -> Tensor:
        """Drop activations; at test only within ``dropout_at_test``."""
        if self.training or not (seeds := _SEEDS.get()):
            return super().forward(x)
        masks = torch.stack([self._mask(seed, x.shape[1:]) for seed in seeds])
        return x * masks.to(x) / (1 - self.p)

    def _mask(self, seed: int, shape: torch.Size) -> Tensor:
        # Drawn on the CPU, whose generator gives the same mask whatever the device of the network.
        generator = torch.Generator().manual_seed(seed * 64 + self.number)
        return torch.rand(shape, generator=generator) >= self.p


def set_test_norm(network: nn.Module, norm: TestNorm) -> None:
    """Choose the statistics of all batch norms at test, and number the dropout layers."""
    dropouts = 0
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.per_image = norm == "batch"
        elif isinstance(module, Dropout):
            module.number, dropouts = dropouts, dropouts + 1


def uses_image_statistics(network: nn.Module) -> bool:
    """Return True if the network computes statistics of its whole input; tiles differ then."""
    return any(
        isinstance(m, nn.InstanceNorm2d | ImageMean) or (isinstance(m, BatchNorm) and m.per_image)
        for m in network.modules()
    )


def sync_batch_norm(network: nn.Module, world_size: int) -> None:
    """Let all batch norms share their statistics among ``world_size`` processes in training."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            module.world_size = world_size


def dropout_seeds(images: Tensor) -> tuple[int, ...]:
    """Return a seed for each of N images with values in [-1, 1], a hash of their 16-bit levels."""
    # Devices round the last bit of a float differently; the hash of whole levels is the same.
    levels = ((images.detach() + 1) * 32767.5).round().to(torch.int32)
    arrays = levels.cpu().contiguous().numpy()
    digests = (blake2b(array.tobytes(), digest_size=7) for array in arrays)
    return tuple(int.from_bytes(d.digest(), "little") for d in digests)


@contextlib.contextmanager
def dropout_at_test(seeds: Sequence[int]) -> Iterator[None]:
    """Keep dropout on in eval mode, with a seed for each of N images; without seeds it is off."""
    token = _SEEDS.set(tuple(seeds))
    try:
        yield
    finally:
        _SEEDS.reset(token)
