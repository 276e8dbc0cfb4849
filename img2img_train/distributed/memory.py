"""Out-of-memory errors of the host and of devices, reported in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from img2img_data.core.errors import Img2ImgError

# cuBLAS, cuDNN and the allocators of the CPU and MPS raise plain RuntimeErrors with these words.
MESSAGES: Final = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


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
