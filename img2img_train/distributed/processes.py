"""The processes that train one run together, started by torchrun: each takes its part of every step.

Gradients are averaged by one sum over the processes for each phase, after its backward and before its update.
That is plain where DistributedDataParallel is not: a game runs a network several times for one backward,
switches its gradients on and off between phases, and differentiates twice, none of which its hooks are made
for (https://github.com/pytorch/pytorch/issues/63812). The price: nothing is sent while the backward still
works.

What every process holds is the same: weights, moments, pools, position. So the first one alone writes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_train.distributed.memory import is_shortage

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")
PATIENCE: Final = timedelta(days=1)
"""The others wait so long while the first one validates. A process that dies ends the waiting at once."""
VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class Ended(Exception):
    """The first process ended for a reason that it tells itself; the others leave with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many processes this is, over all machines and on this one."""

    rank: int = 0
    count: int = 1
    local: int = 0
    beside: int = 1


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return this process's place among those that torchrun started; alone where it did not."""
    found = [environment.get(name, "") for name in VARIABLES]
    if not all(value.isdigit() for value in found) or "MASTER_ADDR" not in environment:
        return Place()
    rank, count, local, beside = map(int, found)
    return Place(rank, count, local, beside)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes of a run, as one of them sees them. Alone, everything here does nothing.

    Every method but ``part`` and ``places`` is to be called by all of them, in the same order.
    """

    rank: int = 0
    count: int = 1
    control: ProcessGroup | None = None

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.count == 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return which of ``count`` images of a step are for this process."""
        each = count // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def places(self, count: int, parts: int) -> NDArray[np.int64]:
        """Return which of ``count`` images of a step are for this process, where they go through in parts.

        Part by part, so that the parts of all processes, one after the other, come in the order of the step:
        the histories of games depend on it.
        """
        import numpy as np

        each = count // self.count
        sizes = [len(part) for part in np.array_split(np.arange(each), min(parts, each))]
        starts = np.cumsum([0, *sizes[:-1]]) * self.count
        mine = [
            start + self.rank * size + np.arange(size)
            for start, size in zip(starts, sizes, strict=True)
        ]
        return np.concatenate(mine)

    def check_step(self, count: int) -> None:
        """Raise UsageError where the images of a step cannot be shared out evenly."""
        if count % self.count:
            why = f"{count} images a step cannot be shared by {self.count} processes evenly"
            raise UsageError(
                "option",
                "--batch",
                why,
                f"give a multiple of {self.count}, or other --nproc-per-node",
            )

    # ------------------------------------------------------------------------------- on the device
    def average(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients of some parameters by their mean over all processes."""
        if self.alone:
            return
        import torch

        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        self._sum(flat)
        flat.div_(self.count)
        means = torch.split(flat, [grad.numel() for grad in grads])
        for grad, mean in zip(grads, means, strict=True):
            grad.copy_(mean.view_as(grad))

    def whole(self, images: Tensor) -> Tensor:
        """Return the images of all processes, in the order of the step: N x ... becomes count * N x ..."""
        if self.alone:
            return images
        import torch
        from torch import distributed

        mine = images.detach().float().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.count)]
        with asking():
            distributed.all_gather(parts, mine)
        return torch.cat(parts)

    def seed(self, seed: int, step: int) -> None:
        """Draw what a step draws from a state that belongs to step and process: nothing has to be kept."""
        if self.alone:
            return
        import numpy as np
        import torch

        (number,) = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(number))

    def _sum(self, flat: Tensor) -> None:
        from torch import distributed

        with asking():
            distributed.all_reduce(flat)

    # ----------------------------------------------------------------- on the host, never the device
    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all processes of values on the CPU."""
        if self.alone:
            return values
        from torch import distributed

        values = values.clone()
        with asking():
            distributed.all_reduce(values, group=self.control)
        return values / self.count

    def highest(self, *numbers: int) -> tuple[int, ...]:
        """Return the highest of each number over all processes."""
        if self.alone:
            return numbers
        import torch
        from torch import distributed

        values = torch.tensor([0, *numbers])
        with asking():
            distributed.all_reduce(values, distributed.ReduceOp.MAX, group=self.control)
        return tuple(values[1:].tolist())

    def wait(self) -> None:
        """Wait for the others."""
        self.highest()

    def told(self, error: Exception) -> Exception:
        """Return how this process ends on an error that all of them have: the first one tells of it."""
        return error if self.leads else Ended(getattr(error, "exit_code", 1))

    def said(self, text: str) -> str:
        """Return the text that the first process gives."""
        if self.alone:
            return text
        import torch
        from torch import distributed

        (length,) = self.highest(len(text.encode()) if self.leads else 0)
        given = text.encode() if self.leads else bytes(length)
        data = torch.frombuffer(bytearray(given), dtype=torch.uint8)
        with asking():
            distributed.broadcast(data, 0, group=self.control)
        return bytes(data.tolist()).decode()

    def first(self, act: Callable[[], T]) -> T | None:
        """Let the first process act while the others wait; its error ends them all, told of by it alone."""
        if not self.leads:
            (code,) = self.highest(0)
            if code:
                raise Ended(code)
            return None
        try:
            result = act()
        except BaseException as error:
            self.highest(max(1, getattr(error, "exit_code", 1)))
            raise
        self.highest(0)
        return result


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Ask the other processes something; Img2ImgError says in one line that one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        if is_shortage(error):
            raise
        hint = "see what it said; the same command goes on from the last checkpoint"
        why = f"another process of it ended ({str(error).partition(chr(10))[0][:100]})"
        raise Img2ImgError("run", why=why, hint=hint) from None


def device_of(kind: str, place: Place) -> torch.device:
    """Return the device of a process; UsageError where there are more processes than devices."""
    import torch

    if place.count == 1 or kind == "cpu":
        return torch.device(kind)
    if kind != "cuda":
        raise UsageError(
            "option", "--device", f"{kind} trains in one process", "start it without torchrun"
        )
    there = torch.cuda.device_count()
    if place.local >= there:
        why = f"{place.beside} processes for {there} device(s)"
        raise UsageError("option", "--device", why, f"give torchrun --nproc-per-node {there}")
    torch.cuda.set_device(place.local)
    return torch.device(kind, place.local)


@contextlib.contextmanager
def joined(device: torch.device, place: Place) -> Iterator[Ranks]:
    """Meet the other processes, nccl on CUDA and gloo elsewhere, for as long as the block lasts."""
    if place.count == 1:
        yield Ranks()
        return
    from torch import distributed

    where: dict[str, Any] = {"device_id": device} if device.type == "cuda" else {}
    with asking():
        distributed.init_process_group("nccl" if where else "gloo", **where)
    try:
        yield Ranks(
            place.rank, place.count, distributed.new_group(backend="gloo", timeout=PATIENCE)
        )
    finally:
        distributed.destroy_process_group()
