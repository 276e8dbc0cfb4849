"""Checks of corpora before training: channels and color space, image sizes.

Sizes come from the manifest where it states them, else from the headers of the files. No image is
decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from img2img_data.core.errors import CorpusError, Img2ImgError, Rejected, UsageError, printable
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.images import io
from img2img_train.config import RunConfig
from img2img_train.data.color import ChannelLayout

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""
Sizes: TypeAlias = Iterable[tuple[Path, Size]]
"""Image files and their sizes."""


# ------------------------------------------------------------------------- channels, color space
def channel_layout_of(config: RunConfig) -> ChannelLayout:
    """Return the channel layout of a run's corpora.

    Raises:
        UsageError: if two corpora differ (both are named), or if the run cannot use the layout.
    """
    paths = [choice.path for choice in config.corpora]
    # Only corpus.json is read: it states the channels, and rows may be a million.
    layouts = [_layout_of(open_corpus(path, rows=False)) for path in paths]
    layout = layouts[0]
    for path, other in zip(paths, layouts, strict=True):
        if other != layout:
            first = f"'{printable(paths[0])}' maps {layout.label or 'RGB to RGB'}"
            why = f"maps {other.label or 'RGB to RGB'}, but {first}"
            raise UsageError("corpus", path, why, "train on corpora with the same channels")
    if layout.color == "lab":
        _check_lab(config, paths[0])
    if config.direction == "BtoA":
        layout = replace(layout, channels=layout.channels[::-1])
    return layout


def _layout_of(corpus: Corpus) -> ChannelLayout:
    check_no_alpha(corpus)
    if corpus.color == "lab":
        return ChannelLayout("lab", (1, 2), corpus.bits)
    return ChannelLayout("rgb", (corpus.channels["input"], corpus.channels["target"]), corpus.bits)


def _check_lab(config: RunConfig, path: str) -> None:
    problem = None
    if not config.objective.paired:
        problem = f"{config.loss} needs two domains of RGB images", "choose a paired loss"
    elif config.direction == "BtoA":
        problem = "predicting L from ab is not supported", "leave --direction BtoA out"
    elif config.degrade is not None:
        problem = "degradations are defined for RGB", "leave --degrade out, or train on RGB"
    if problem is not None:
        raise UsageError("corpus", path, f"is a Lab corpus: {problem[0]}", problem[1])


def check_no_alpha(corpus: Corpus) -> None:
    """Raise UsageError if a corpus holds images with an alpha channel."""
    if 4 in corpus.channels.values():
        why = "has images with an alpha channel, but models take RGB"
        raise UsageError("corpus", corpus.root, why, "build it with --channels rgb")


# ------------------------------------------------------------------------------------------ sizes
def stated_size(pair: Pair) -> Size | None:
    """Return the size that the manifest states for both halves of a pair, if any."""
    height, width = pair.row.get("height"), pair.row.get("width")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def size_of_file(path: Path, halves: int = 1) -> Size:
    """Return the size of an image file, or of each of its halves side by side, from its header.

    Raises:
        CorpusError: if the file cannot be read.
    """
    try:
        height, width = io.size_of(path)
    except Rejected as rejected:
        hint = "check the corpus with 'img2img-data verify'"
        raise CorpusError("image", path, str(rejected), hint) from None
    return height, width // halves


def check_same_size(path: Path, size: Size, first: Size) -> None:
    """Raise CorpusError if an image does not have the size of the first one."""
    if size != first:
        why = f"is {size[1]}x{size[0]}, but the first one is {first[1]}x{first[0]}"
        hint = "build the corpus with --size, or train on crops of one size with --crop"
        raise CorpusError("image", path, why, hint)


def check_min_side(sizes: Sizes, min_side: int, error: type[Img2ImgError] = UsageError) -> int:
    """Return the total area of images in pixels.

    Raises:
        UsageError (or ``error``): if an image has a side below ``min_side``; it names the smallest
            one, counts the rest, and says which crop fits all.
    """
    area, count, small, smallest = 0, 0, 0, (Path(), (min_side, min_side))
    for path, size in sizes:
        area += size[0] * size[1]
        count += 1
        small += min(size) < min_side
        if min(size) < min(smallest[1]):
            smallest = path, size
    if small:
        path, (height, width) = smallest
        more = f", and {small - 1:,} more are too small" if small > 1 else ""
        why = f"is {width}x{height}, smaller than --crop {min_side}{more}"
        hint = f"use --crop {min(height, width)} or less"
        if small < count:
            skip = f"skip them with 'img2img-data select --min-side {min_side}'"
            hint += f", or {skip}, which leaves {count - small:,} of {count:,}"
        raise error("image", path, why, hint)
    return area
