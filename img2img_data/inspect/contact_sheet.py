"""Contact sheet: one image with every degradation, or with several draws of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from img2img_data.core.errors import REASONS, Img2ImgError, Rejected, UsageError
from img2img_data.core.files import MAX_BYTES, read_named, write_atomically
from img2img_data.corpus.format import image_rng
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.registry import DEGRADATIONS, find_degradation
from img2img_data.images import io

DRAWS: Final = 9
"""Draws on a sheet of one degradation."""
COLUMNS: Final = 5
LABEL_HEIGHT: Final = 20
"""Height in pixels of the label below a tile."""


def write_contact_sheet(
    image: Path, out: Path, name: str = "", side: int = 160, seed: int = 0
) -> list[str]:
    """Write a PNG with the central ``side`` x ``side`` pixels of an image, clean and degraded.

    Without ``name`` each degradation is shown once, with its example settings; with it this one is
    drawn ``DRAWS`` times. Returns a line for each degradation that cannot be shown, because a
    package is missing for example. Raises ``UsageError`` if ``name`` is unknown, the image cannot
    be read, or ``out`` is not a PNG.
    """
    if out.suffix.lower() != ".png":
        hint = "give a name that ends in .png"
        raise UsageError("file", out, "is not the name of a PNG file", hint)
    members = {name: find_degradation(name)} if name else DEGRADATIONS
    try:
        pixels = io.decode(read_named("image", image, MAX_BYTES)).pixels
    except Rejected as rejected:
        why = f"cannot be used: {REASONS[rejected.reason]}"
        raise UsageError("image", image, why, "use another image") from None
    # Cropped, not scaled: scaling would hide the noise and the blur that the sheet is about.
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    clean = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    tiles, missing = [("clean", clean)], []
    for kind, cls in members.items():
        try:
            tiles += _degraded(kind, cls.example(), clean, seed, DRAWS if name else 0)
        except Img2ImgError as error:
            missing.append(f"{kind} is not shown: {error}")
    write_atomically(out, io.encode(_arranged(tiles), "png"))
    return missing


def _degraded(
    kind: str, degradation: Degradation, clean: io.Pixels, seed: int, draws: int
) -> Iterator[tuple[str, io.Pixels]]:
    """Yield one tile with the name, or ``draws`` tiles with the drawn parameters."""
    for number in range(draws or 1):
        # Every tile has its own stream, so a new degradation changes none of the others.
        drawn: dict[str, Any] = degradation.draw(image_rng(seed, f"{kind}/{number}".encode()))
        shown = ((n, v) for n, v in drawn.items() if n.rpartition(".")[2] != "seed")
        label = ", ".join(f"{name} {value:.3g}" for name, value in shown) if draws else kind
        yield label, degradation.apply(clean, **drawn)


def _arranged(tiles: Sequence[tuple[str, io.Pixels]]) -> io.Pixels:
    """Return one image with the tiles, labels and images H x W x 3, in rows of ``COLUMNS``."""
    height, width = tiles[0][1].shape[:2]
    rows, columns = -(-len(tiles) // COLUMNS), min(COLUMNS, len(tiles))
    pitch = height + LABEL_HEIGHT
    sheet = np.full((rows * pitch, columns * width, 3), 255, np.uint8)
    for place, (label, pixels) in enumerate(tiles):
        row, column = divmod(place, COLUMNS)
        cell = sheet[row * pitch : (row + 1) * pitch, column * width : (column + 1) * width]
        cell[:height] = pixels
        font = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(cell[height:], label, (3, 14), font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return sheet
