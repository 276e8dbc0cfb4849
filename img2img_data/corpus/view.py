"""Pairs for people: images that are read on demand, as arrays or as thumbnails on a page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import printable
from img2img_data.core.jsonl import Row
from img2img_data.images import color, io
from img2img_data.images.pixels import Pixels, to_uint8_rgb

if TYPE_CHECKING:
    from img2img_data.corpus.reader import Corpus, Pair


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class ImagePair:
    """One pair of a corpus. Its images are read when they are asked for.

    >>> pair = data.open_corpus("corpora/gaussian")["train"][0]
    >>> pair
    <pair '000' of train: {'sigma': 3.0}>
    >>> pair.input.shape, pair.target.dtype, pair.drawn
    ((32, 40, 3), dtype('uint8'), {'sigma': 3.0})
    """

    corpus: Corpus
    files: Pair

    @property
    def key(self) -> str:
        """Name of the pair, unique in a corpus; folders of other tools may repeat it."""
        return self.files.key

    @property
    def split(self) -> str:
        """Split of the pair."""
        return self.files.split

    @property
    def tags(self) -> Mapping[str, Any]:
        """Tags of the source, such as a person or a date."""
        return self.files.row.get("tags") or {}

    @property
    def drawn(self) -> Mapping[str, Any]:
        """Parameters that the degradation drew for this pair."""
        return self.files.row.get("drawn") or {}

    @property
    def input(self) -> Pixels:
        """Input, H x W x C as stored: RGB, RGBA, gray or L, uint8 or uint16."""
        return self._read(0)

    @property
    def target(self) -> Pixels:
        """Target, H x W x C as stored: RGB, RGBA, gray or Lab, uint8 or uint16."""
        return self._read(1)

    def _read(self, side: Literal[0, 1]) -> Pixels:
        corpus, path = self.corpus, (self.files.input, self.files.target)[side]
        combined = corpus.layout == "combined"
        pixels = corpus.read(self.files)[side] if combined else corpus.read_image(path)
        return np.ascontiguousarray(pixels[..., : corpus.channels[("input", "target")[side]]])

    def __repr__(self) -> str:
        numbers = {n: round(v, 3) if isinstance(v, float) else v for n, v in self.drawn.items()}
        key, split, drawn = map(printable, (self.key, self.split, str(numbers)))
        return f"<pair '{key}' of {split}: {drawn}>"

    def _repr_html_(self) -> str:
        uris = thumbnails(self.corpus, self.files, side=320, format="png")["images"]
        images = "".join(f'<img src="{uri}" style="margin: 2px">' for uri in uris)
        return f"<div>{images}</div><div>{escape(repr(self)[1:-1])}</div>"


def view_row(corpus: Corpus, make: Callable[[Row], Pair], row: Row) -> ImagePair:
    """Return the pair of a row. A function, so that it can be sent to workers that load images."""
    return ImagePair(corpus, make(row))


def rgb_of(corpus: Corpus, pair: Pair) -> tuple[NDArray[np.uint8], ...]:
    """Return input and target of a pair, or the one image of a domain, as 8-bit RGB."""
    if corpus.kind == "paired":
        first, second = corpus.read(pair)
        second = color.lab_to_rgb(second) if corpus.color == "lab" else second
        return to_uint8_rgb(first), to_uint8_rgb(second)
    return (to_uint8_rgb(corpus.read_image(pair.input)),)


def thumbnails(
    corpus: Corpus, pair: Pair, side: int, format: Literal["png", "webp"], quality: int = 95
) -> dict[str, Any]:
    """Return the images of a pair as data URIs, and their common width and height."""
    images = [shrink(image, side) for image in rgb_of(corpus, pair)]
    height, width = images[-1].shape[:2]
    encoded = (b64encode(io.encode(image, format, quality)).decode() for image in images)
    uris = [f"data:image/{format};base64,{text}" for text in encoded]
    return {"images": uris, "width": width, "height": height}


def shrink(pixels: Pixels, side: int) -> NDArray[np.uint8]:
    """Return an image as 8-bit RGB, H x W x 3, whose longer side is at most ``side`` pixels."""
    scale = side / max(pixels.shape[:2])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in pixels.shape[1::-1]]
        # INTER_AREA averages all pixels, so noise does not turn into a pattern of its own.
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(to_uint8_rgb(pixels))
