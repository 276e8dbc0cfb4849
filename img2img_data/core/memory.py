"""Running out of memory, and memory that a process keeps for its next image or tensor."""

from __future__ import annotations

import contextlib
import ctypes

from img2img_data.core.errors import Rejected


def lacks_memory(error: BaseException) -> bool:
    """Return True if an error of Python or OpenCV means that memory ran out."""
    return isinstance(error, MemoryError) or "(-4:Insufficient memory)" in str(error)


def as_rejected(error: Exception) -> Rejected:
    """Return ``Rejected`` for an image that raised it, or ran out of memory; raise other errors."""
    if isinstance(error, Rejected):
        return error
    if lacks_memory(error):
        return Rejected("out-of-memory")
    raise error


def keep_freed_memory(block: int = 64 << 20) -> None:
    """Keep freed blocks of up to ``block`` bytes, 256 MB in all, for the next image or tensor.

    By default glibc returns the memory of an image or a tensor to the system, and the next one is
    faulted in again page by page. Does nothing with other C libraries.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        # M_MMAP_THRESHOLD (twice: mallopt(3) documents 32 MB as its limit, and some versions reject
        # more), M_TRIM_THRESHOLD and M_TOP_PAD.
        for option, size in ((-3, 32 << 20), (-3, block), (-1, 256 << 20), (-2, 16 << 20)):
            ctypes.CDLL(None).mallopt(option, size)
