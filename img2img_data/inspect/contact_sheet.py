"""What degradations do, on one sheet: a photo degraded by each of them, or by one of them anew and anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from img2img_data.core.errors import Img2ImgError, Rejected, UsageError
from img2img_data.core.files import write_atomically
from img2img_data.corpus.format import image_rng
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.registry import DEGRADATIONS, find_degradation
from img2img_data.images import io

DRAWS: Final = 9
"""Tiles of a sheet about one degradation, beside the clean one."""
COLUMNS: Final = 5
LABEL: Final = 20
"""Height in pixels of the line under a tile."""


class Tile(NamedTuple):
    """A image, H x W x 3 uint8, and what stands under it."""

    label: str
    pixels: io.Pixels


def write_sheet(
    photo: Path, out: Path, name: str = "", side: int = 160, seed: int = 0
) -> list[str]:
    """Write a PNG of the middle of ``photo``, ``side`` pixels at full scale, clean and degraded.

    Without ``name`` each degradation is shown once, in its example settings; with it the one, as nine
    images would draw it. Return the lines about those that cannot be shown, for want of a package say.
    ``UsageError`` for an unknown name, a photo that cannot be read, an ``out`` that is no PNG.
    """
    if out.suffix.lower() != ".png":
        raise UsageError("file", out, "is no name of a PNG image", "give a name that ends in .png")
    members = {name: find_degradation(name)} if name else DEGRADATIONS
    clean = _middle(_read(photo), side)
    tiles, missing = [Tile("clean", clean)], []
    for kind, cls in members.items():
        try:
            tiles += _degraded(kind, cls.example(), clean, seed, DRAWS if name else 0)
        except Img2ImgError as error:
            missing.append(f"{kind} is not shown: {error}")
    write_atomically(out, io.encode(_laid_out(tiles), "png"))
    return missing


def _read(photo: Path) -> io.Pixels:
    try:
        return io.read(photo).pixels
    except Rejected as rejected:
        why = (
            f"cannot be used: {rejected.reason}{f' ({rejected.detail})' if rejected.detail else ''}"
        )
        raise UsageError("photo", photo, why, "give another one") from None


def _middle(photo: io.Pixels, side: int) -> io.Pixels:
    top, left = (max(0, (length - side) // 2) for length in photo.shape[:2])
    return np.ascontiguousarray(photo[top : top + side, left : left + side])


def _degraded(
    kind: str, degradation: Degradation, clean: io.Pixels, seed: int, draws: int
) -> Iterator[Tile]:
    """Yield the one tile of a sheet about all, or those of a sheet about one with what was drawn."""
    for number in range(draws or 1):
        drawn: dict[str, Any] = degradation.draw(image_rng(seed, f"{kind}/{number}".encode()))
        yield Tile(_told(drawn) if draws else kind, degradation.apply(clean, **drawn))


def _told(drawn: Mapping[str, float]) -> str:
    """Return what was drawn, seeds left out, in few words."""
    told = (
        f"{name} {value:.3g}" for name, value in drawn.items() if name.rpartition(".")[2] != "seed"
    )
    return ", ".join(told)


def _laid_out(tiles: Sequence[Tile]) -> io.Pixels:
    height, width = tiles[0].pixels.shape[:2]
    rows = -(-len(tiles) // COLUMNS)
    columns = min(COLUMNS, len(tiles))
    sheet = np.full((rows * (height + LABEL), columns * width, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // COLUMNS * (height + LABEL), place % COLUMNS * width
        sheet[top : top + height, left : left + width] = tile.pixels
        sheet[top + height : top + height + LABEL, left : left + width] = _label(tile.label, width)
    return sheet


def _label(text: str, width: int) -> io.Pixels:
    strip = np.full((LABEL, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (3, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
