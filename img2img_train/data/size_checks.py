"""How large the images of a corpus are, before they are decoded: by its manifest, else by their headers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from img2img_data.core.errors import CorpusError, Rejected
from img2img_data.corpus.reader import Corpus, Pair
from img2img_data.images import io

Size: TypeAlias = tuple[int, int]
"""Height and width, pixels."""


def stated_size(pair: Pair) -> Size | None:
    """Return the size that a pair's row states, of both halves; None where it states none."""
    height, width = pair.row.get("height"), pair.row.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def size_of_pair(corpus: Corpus, pair: Pair) -> Size:
    """Return the size of both halves of a pair; CorpusError where its file cannot be read."""
    return stated_size(pair) or size_of_file(
        pair.target, halves=2 if corpus.layout == "combined" else 1
    )


def check_size(path: Path, found: Size, size: Size) -> None:
    """Raise CorpusError where a image is not of the size of the others."""
    if found != size:
        why = f"is {found[1]}x{found[0]}, the first one is {size[1]}x{size[0]}"
        hint = "build the corpus with --size, or train on pieces of one size by --crop"
        raise CorpusError("image", path, why, hint)


def size_of_file(path: Path, halves: int = 1) -> Size:
    """Return the size of a image, or of each half of it; CorpusError where it cannot be read."""
    try:
        height, width = io.size_of(path)
    except Rejected as rejected:
        why = f"{rejected.reason} {rejected.detail}".strip()
        raise CorpusError(
            "image", path, why, "check the corpus with 'img2img-data verify'"
        ) from None
    return height, width // halves


def total_area(sizes: Iterable[tuple[Path, Size]], least: int) -> int:
    """Return the pixels of all images; CorpusError counts those with a side of fewer than ``least``."""
    area, small, smallest = 0, 0, None
    for path, size in sizes:
        area += size[0] * size[1]
        if min(size) < least:
            small += 1
            smallest = (
                (path, size) if smallest is None or min(size) < min(smallest[1]) else smallest
            )
    if smallest is not None:
        path, (height, width) = smallest
        more = f", and {small - 1:,} more are too small" if small > 1 else ""
        hint = (
            f"give a smaller --crop, or leave them out by 'img2img-data select --min-side {least}'"
        )
        raise CorpusError(
            "image", path, f"is {width}x{height}, --crop {least} cuts more{more}", hint
        )
    return area
