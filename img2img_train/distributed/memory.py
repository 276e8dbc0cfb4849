"""Running out of memory, told in one line that says what takes less."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from img2img_data.core.errors import Img2ImgError

SAID: Final = ("out of memory", "can't allocate memory", "ALLOC_FAILED")
"""By torch's allocators, and by cuBLAS and cuDNN, in errors that have no type of their own."""


def is_shortage(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, of the host or of the device."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in SAID)
    )


@contextlib.contextmanager
def limited(what: str, name: object, device: str, hint: Callable[[], str]) -> Iterator[None]:
    """Let ``what`` of this name end by one line where memory runs out; ``device`` says whose."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise Img2ImgError(what, name, f"out of memory on {device}", hint()) from None
