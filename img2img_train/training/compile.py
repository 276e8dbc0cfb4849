"""Networks compiled for the steps of a run; everything else sees them as they were built.

What compiles is a cover over each network, with the same parameters and buffers: names in checkpoints,
averages, validation and samples know the network inside alone. Compiled or not, a run can be continued
either way. Should a compiler be missing or fail, training goes on without, and says so once.
"""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from img2img_data.core.errors import printable
from img2img_train.networks.layers import norm_alone, together_uncompiled
from img2img_train.networks.registry import NetworkSpec

BACKEND: Final = "inductor"
"""The compiler: https://docs.pytorch.org/docs/stable/generated/torch.compile.html."""
CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
LONGEST: Final = 160
VARIANTS: Final = 64
"""Networks of a kind count together, each with gradients to weights, to images, to both or none, and in
parts of two sizes; torch's own limit of 8 would leave some of them as they are.
"""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a network is tried with before it is relied on: images of a step, its arithmetic."""

    images: int
    size: tuple[int, int]
    device: torch.device
    autocast: Callable[[], torch.autocast]

    def run(self, net: nn.Module, cover: nn.Module, channels: int) -> None:
        """Go forward and back; weights, statistics, generators stay as they are."""
        kept = [buffer.clone() for buffer in net.buffers()]
        given = torch.zeros(self.images, *self.size, channels, device=self.device).permute(
            0, 3, 1, 2
        )
        with (
            torch.random.fork_rng([self.device] if self.device.type == "cuda" else []),
            norm_alone(net),
        ):
            try:
                with self.autocast():
                    made: Tensor = cover(given)
                made.float().sum().backward()  # type: ignore[no-untyped-call]
            finally:
                net.zero_grad(set_to_none=True)
                for buffer, value in zip(net.buffers(), kept, strict=True):
                    buffer.copy_(value)


def cover(
    nets: Mapping[str, nn.Module],
    specs: Mapping[str, NetworkSpec],
    leave: Container[str],
    trial: Trial,
    done: Callable[[int], None] = lambda number: None,
) -> dict[str, nn.Module]:
    """Return networks to take steps with: all but those to ``leave`` compiled, and tried.

    ``done`` is called with the number of networks so far. Raises whatever the compiler does; a variant that
    comes later and cannot be compiled, the forward way, is run as it is, and torch says so.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    config.suppress_errors = False
    keep_apart()
    covered = dict[str, nn.Module]()
    for number, (name, net) in enumerate(nets.items(), 1):
        if name in leave:
            covered[name] = net
            continue
        together_uncompiled(net)
        covered[name] = torch.compile(net, dynamic=False, backend=BACKEND)  # type: ignore[assignment]
        with warnings.catch_warnings():
            # That float32 products stay float32 is meant: online degradations are such.
            warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
            trial.run(net, covered[name], specs[name].inputs)
        done(number)
    config.suppress_errors = True
    return covered


def why(error: Exception) -> str:
    """Return the reason of a compiler's error, one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = printable(lines[0] if lines else type(error).__name__)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}…"


def keep_apart() -> None:
    """Keep what is compiled in a folder of this process alone, gone when it ends.

    What lies in the usual one, whose name all on a machine know, is loaded and run without a question. A
    folder that the environment names is used as it is.
    """
    if not os.environ.get(CACHE):
        os.environ[CACHE] = _own_folder().name


@functools.cache
def _own_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="img2img-compiled-", ignore_cleanup_errors=True)
