"""Contact sheets: images in rows, with a label above each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from img2img_data.images.pixels import Pixels

SIDE: Final = 128
"""Width in pixels to which images are enlarged, about: by whole factors, to keep pixels square."""
GAP: Final = 6
HEAD: Final = 22


@dataclass(frozen=True, slots=True)
class Strip:
    """A row of images by label, H x W x 3 RGB uint8 of one size; ``test`` names their corpus."""

    test: str
    images: Mapping[str, Pixels]


def draw_sheet(strips: Sequence[Strip]) -> Pixels:
    """Return rows of images on white, H x W x 3 RGB uint8, with labels where the test changes."""
    rows = [_row(strip) for strip in strips]
    width = max(row.shape[1] for row in rows)
    parts, before = [], None
    for strip, row in zip(strips, rows, strict=True):
        parts += [_head(strip, width)] if strip.test != before else []
        parts.append(
            np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        )
        before = strip.test
    return np.concatenate(parts)


def _row(strip: Strip) -> Pixels:
    parts = [_enlarged(image) for image in strip.images.values()]
    height = max(part.shape[0] for part in parts)
    filled = [
        np.pad(part, ((0, height - part.shape[0]), (0, GAP), (0, 0)), constant_values=255)
        for part in parts
    ]
    return np.concatenate(filled, axis=1)


def _enlarged(image: Pixels) -> Pixels:
    factor = max(1, round(SIDE / image.shape[1]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _head(strip: Strip, width: int) -> Pixels:
    import cv2

    head, left = np.full((HEAD, width, 3), 255, np.uint8), 0
    for word, image in strip.images.items():
        room = _enlarged(image).shape[1]
        word = f"{strip.test}: {word}" if strip.test and not left else word
        scale = min(
            0.45,
            0.45
            * (room - GAP)
            / max(1, cv2.getTextSize(word, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]),
        )
        cv2.putText(
            head,
            word,
            (left, HEAD - 8),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (60, 60, 60),
            1,
            cv2.LINE_AA,
        )
        left += room + GAP
    return head
