"""The images that a report shows of an evaluation: which, and how small."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from img2img_data.images.pixels import Pixels
from img2img_train.evaluation.score import Row, Scored, rounded

THUMBNAIL: Final = 256
GALLERY: Final = 96


def worst_and_typical(rows: Sequence[Row], count: int) -> list[Row]:
    """Return ``count`` rows: the worst two thirds by PSNR, then others evenly through the rest."""
    ranked = sorted(rows, key=lambda row: (row.scores["psnr"], row.key))
    worst, rest = ranked[: count * 2 // 3], ranked[count * 2 // 3 :]
    room = min(count - count * 2 // 3, len(rest))
    return worst + [rest[place * len(rest) // room] for place in range(room)]


def cards(rows: Sequence[Row], batches: Iterable[list[Scored]]) -> Iterator[dict[str, Any]]:
    """Yield what the report shows of each row: its scores and the three images as WebP in base64."""
    from img2img_data.images.io import encode

    scored = (one for batch in batches for one in batch)
    for (_, *images), row in zip(scored, rows, strict=True):
        small = [_thumbnail(pixels) for pixels in images]
        webp = [b64encode(encode(pixels, "webp", 88)).decode() for pixels in small]
        yield {
            "key": row.key,
            "source": row.source,
            "group": row.group,
            "facts": dict(row.facts),
            "scores": {name: rounded(score) for name, score in row.scores.items()},
            "nothing": {name: rounded(score) for name, score in row.nothing.items()},
            "width": small[-1].shape[1],
            "height": small[-1].shape[0],
            "webp": dict(zip(("input", "output", "target"), webp, strict=True)),
        }


def _thumbnail(pixels: Pixels) -> Pixels:
    import cv2

    from img2img_data.images.io import to_uint8_rgb

    height, width = pixels.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(to_uint8_rgb(small), np.uint8)
