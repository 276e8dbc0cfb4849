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
# cuDNN finds no algorithm or engine where the workspaces of all of them are too large; a thread
# cannot start without room for its stack. oneDNN ends this message with "primitive"; one that ends
# otherwise is about types or shapes.
MESSAGES: Final = (
    "out of memory",
    "can't allocate memory",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",
    "unable to find an engine",
    "valid cuDNN algorithm",
    "can't start new thread",
    "could not create a primitive\n",
)
# Limit, use, and the part of the page cache that has not been read again, by the controllers of a
# group: none in version 2, https://docs.kernel.org/admin-guide/cgroup-v2.html#memory
GROUP_FILES: Final = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that the host or the device is out of memory."""
    says_so = any(words in f"{error}\n" for words in MESSAGES)
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


def free_memory(device: str = "cpu", root: Path = Path("/")) -> int:
    """Return the free bytes of a CUDA device, else those of the host, or of this container.

    A cautious 2 GiB where the system does not say. ``root`` holds the folders proc and sys.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    try:
        # MemFree would leave out the page cache, which the system gives back on demand.
        lines = (root / "proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        free = int(available.split()[1]) * 1024
    except (OSError, StopIteration):
        free = 2 << 30
    return max(0, min([free, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes that are left of each memory limit of this process's control groups."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                # In a container the folder of its own group may be the topmost one.
                folder = root / "sys/fs/cgroup" / controllers / path.lstrip("/")
                for group in (folder, *folder.parents):
                    with contextlib.suppress(OSError, ValueError):  # where the limit is "max"
                        yield _left_in_group(group, GROUP_FILES[controllers])


def _left_in_group(group: Path, names: tuple[str, str, str]) -> int:
    limit, used = (int((group / name).read_text()) for name in names[:2])
    lines = map(str.split, (group / "memory.stat").read_text().splitlines())
    # The page cache counts as used, and is given back on demand.
    return limit - used + sum(int(size) for name, size in lines if name == names[2])
