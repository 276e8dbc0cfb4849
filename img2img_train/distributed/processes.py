"""Data-parallel training: the processes that torchrun started, and their collectives.

All processes hold the same weights, optimizer states, image pools and position, so the main one
(rank 0) alone writes files.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_train.distributed.memory import is_out_of_memory
from img2img_train.distributed.torchrun import MainProcessFailed, TorchrunEnv

T = TypeVar("T")


# Gradients are averaged by one explicit all-reduce per phase, after its backward and before its
# update, as StyleGAN3 does. DistributedDataParallel does not fit: a GAN objective runs a network
# several times for one backward, switches requires_grad between phases, and differentiates twice,
# which its hooks do not support (https://github.com/pytorch/pytorch/issues/63812). The price:
# communication does not overlap the backward.
@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a run, as seen by one of them; a single one exchanges nothing.

    All processes have to call each method in the same order, except for ``shard_indices``.
    ``cpu_group`` exchanges tensors on the host, so that no method there waits for the device.
    """

    rank: int = 0
    world_size: int = 1
    cpu_group: distributed.ProcessGroup | None = None

    @property
    def is_distributed(self) -> bool:
        """True with more than one process."""
        return self.world_size > 1

    @property
    def is_main(self) -> bool:
        """True in the process that writes files and messages."""
        return self.rank == 0

    def shard_indices(self, count: int, micro_batches: int) -> NDArray[np.int64]:
        """Return the indices of this process's images among the ``count`` of a step, int64.

        The first micro-batches of all processes are the first images of the step, and so on. Image
        pools see one micro-batch of all processes after the other, so their contents equal those of
        one process.
        """
        local = count // self.world_size
        sizes = [len(x) for x in np.array_split(np.arange(local), min(micro_batches, local))]
        starts = np.cumsum([0, *sizes[:-1]]) * self.world_size
        spans = zip(starts, sizes, strict=True)
        return np.concatenate([start + self.rank * n + np.arange(n) for start, n in spans])

    def check_batch(self, count: int) -> None:
        """Raise UsageError if ``count`` images cannot be shared evenly."""
        if count % self.world_size:
            why = f"{count} images per step cannot be divided among {self.world_size} processes"
            hint = f"give a multiple of {self.world_size}, or another --nproc-per-node"
            raise UsageError("option", "--batch", why, hint)

    def seed(self, seed: int, step: int) -> None:
        """Seed torch's global generators from (seed, step, rank)."""
        # A function of seed, step and rank alone, so no random state of the other ranks is
        # checkpointed.
        (value,) = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(value))

    # ------------------------------------------------------------------------------- on the device
    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients of these parameters by their mean over all processes."""
        # One flat buffer: a single large message instead of one per parameter. A gradient has the
        # memory format of its parameter; in the order of its memory it is copied at once.
        grads = [p.grad for p in parameters if p.grad is not None]
        grads = [grad.as_strided((grad.numel(),), (1,)) for grad in grads]
        flat = torch.cat(grads)
        with collective():
            distributed.all_reduce(flat)
        flat.div_(self.world_size)
        torch._foreach_copy_(grads, torch.split(flat, [grad.numel() for grad in grads]))

    def all_gather(self, images: Tensor) -> Tensor:
        """Return the images of all processes, N x ... to (world_size * N) x ..., float32."""
        if not self.is_distributed:
            return images
        local = images.detach().float().contiguous()
        gathered = [torch.empty_like(local) for _ in range(self.world_size)]
        with collective():
            distributed.all_gather(gathered, local)
        return torch.cat(gathered)

    # ---------------------------------------------------------------------------------- on the host
    def all_reduce_mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes of a CPU tensor."""
        if not self.is_distributed:
            return values
        values = values.clone()
        with collective():
            distributed.all_reduce(values, group=self.cpu_group)
        return values / self.world_size

    def all_reduce_max(self, *numbers: int) -> tuple[int, ...]:
        """Return the maximum of each number over all processes; waits for the others."""
        if not self.is_distributed:
            return numbers
        values = torch.tensor(numbers)
        with collective():
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.cpu_group)
        return tuple(values.tolist())

    def broadcast(self, value: T) -> T:
        """Return the value of the main process, in each of several processes."""
        values = [value]
        with collective():
            distributed.broadcast_object_list(values, 0, group=self.cpu_group)
        return values[0]

    def main_first(self, function: Callable[[], T]) -> T | None:
        """Run a function on rank 0 while the others wait; return its result there, None elsewhere.

        A failure on rank 0 stops every rank: the others raise MainProcessFailed.
        """
        if not self.is_main:
            (code,) = self.all_reduce_max(0)
            if code:
                raise MainProcessFailed(code)
            return None
        try:
            result = function()
        except BaseException as error:
            self.all_reduce_max(max(1, getattr(error, "exit_code", 1)))
            raise
        self.all_reduce_max(0)
        return result

    def report_once(self, error: Exception) -> Exception:
        """Return an error that all processes have; a silent one except for the main process."""
        return error if self.is_main else MainProcessFailed(getattr(error, "exit_code", 1))


class ProcessLost(Img2ImgError):
    """Another process ended in the middle of a run."""


@contextlib.contextmanager
def collective() -> Iterator[None]:
    """Run a collective operation; raise ProcessLost, one line, if another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        why = f"another process ended ({str(error).partition(chr(10))[0][:100]})"
        hint = "see its message; run the same command again to continue from the last checkpoint"
        raise ProcessLost("run", why=why, hint=hint) from None


def local_device(kind: str, env: TorchrunEnv) -> torch.device:
    """Return the device of this process; UsageError if there are more processes than devices."""
    if env.world_size == 1 or kind == "cpu":
        return torch.device(kind)
    if kind != "cuda":
        why, hint = f"{kind} supports a single process", "start it without torchrun"
        raise UsageError("option", "--device", why, hint)
    devices = torch.cuda.device_count()
    if env.local_rank >= devices:
        why = f"{env.local_world_size} processes need as many GPUs (found: {devices})"
        raise UsageError("option", "--device", why, f"use torchrun --nproc-per-node {devices}")
    torch.cuda.set_device(env.local_rank)
    return torch.device(kind, env.local_rank)


@contextlib.contextmanager
def join_processes(device: torch.device, env: TorchrunEnv) -> Iterator[Processes]:
    """Connect the processes, by nccl on CUDA and gloo elsewhere, while the block runs."""
    if env.world_size == 1:
        yield Processes()
        return
    options: dict[str, Any] = {"device_id": device} if device.type == "cuda" else {}
    with collective():
        distributed.init_process_group("nccl" if options else "gloo", **options)
    try:
        # The others wait this long while the main process validates. If a process dies, waiting
        # ends at once; nccl alone would notice it after ten minutes.
        cpu_group = distributed.new_group(backend="gloo", timeout=timedelta(days=1))
        yield Processes(env.rank, env.world_size, cpu_group)
    finally:
        # It waits for collectives that have begun, of which some would not end without the other.
        if not isinstance(sys.exception(), ProcessLost):
            distributed.destroy_process_group()
