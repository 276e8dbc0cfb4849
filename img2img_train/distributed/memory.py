"""Free memory of the host and of devices, and running out of it, reported in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from img2img_data.core.errors import Img2ImgError

SHARE_OF_MEMORY: Final = 0.5
"""Share of the free memory that images may take."""

# cuBLAS, cuDNN and the allocators of the CPU and MPS raise plain RuntimeErrors with these words.
# cuDNN finds no algorithm or engine where the workspaces of all of them are too large.
MESSAGES: Final = (
    "out of memory",
    "can't allocate memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine",
    "valid cuDNN algorithm",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that the host or the device is out of memory."""
    says_so = any(words in str(error) for words in MESSAGES)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_so)


@contextlib.contextmanager
def catch_out_of_memory(
    what: str, name: object, device: str, hint: str | Callable[[], str]
) -> Iterator[None]:
    """Raise Img2ImgError about ``what`` of this name where the block runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        hint = hint if isinstance(hint, str) else hint()
        raise Img2ImgError(what, name, f"out of memory on {device}", hint) from None


def free_memory(device: str = "cpu") -> int:
    """Return the free bytes of a CUDA device, else those of the host.

    A cautious 2 GiB where the system does not tell.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        # MemFree would leave out the page cache, which the system gives back on demand.
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        return 2 << 30
