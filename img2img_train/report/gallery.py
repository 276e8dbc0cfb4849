"""The images of a page: scored ones with filters and orders, and samples over the epochs."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from img2img_data.core.errors import printable
from img2img_data.corpus.view import shrink
from img2img_data.images import io
from img2img_data.images.pixels import Pixels
from img2img_train.runs.folder import RunFolder, sample_paths

GALLERY_BYTES: Final = 3_300_000
"""Base64 characters of all images of a gallery."""
SIDE: Final = 256
"""Longer side of the largest thumbnails, pixels."""
FINENESS: Final = ((SIDE, 88), (224, 85), (192, 78), (160, 70), (128, 60), (96, 50))
"""Longer side in pixels and WebP quality to try in turn if thumbnails are too large."""
TOLERANCE: Final = 1.05
"""Share of the allowed bytes that thumbnails may take, as their size is estimated."""
SAMPLE_BYTES: Final = 1_300_000
"""Base64 characters of all samples."""
SAMPLE_FRAMES: Final = 12
PROBES: Final = 24
"""Images that are encoded to estimate the size of all."""
MAX_FILTER_VALUES: Final = 12
"""Values that an attribute may have to get a filter; it also needs two images per value."""

NamedImages: TypeAlias = Mapping[str, Pixels]
"""Images of one size, H x W x C, by name."""
GalleryItem: TypeAlias = Mapping[str, Any]
"""One image: key, source, group, attributes, scores, input_scores, width, height, webp."""


def thumbnails(
    images_at: Callable[[int], NamedImages], count: int, limit: int = GALLERY_BYTES
) -> list[dict[str, Any]]:
    """Return thumbnails of ``count`` groups of images, as items hold them: size, and lossy WebP by
    name, in base64.

    They are as fine as a page of ``limit`` bytes allows; those of the last groups may be left out.
    """

    def at(side: int, quality: int, index: int) -> dict[str, Any]:
        small = {name: shrink(image, side) for name, image in images_at(index).items()}
        webp = {name: io.encode(image, "webp", quality) for name, image in small.items()}
        height, width = next(iter(small.values())).shape[:2]
        encoded = {name: b64encode(file).decode() for name, file in webp.items()}
        return {"width": width, "height": height, "webp": encoded}

    # Encoding is slow, and the size of a WebP depends on its content: a sample estimates the whole.
    sample = range(0, count, max(1, count // PROBES))
    others = sorted({*range(count)} - {*sample})
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for side, quality in FINENESS:
            items = dict(zip(sample, pool.map(partial(at, side, quality), sample), strict=True))
            if _size(items.values()) * count <= limit * len(sample):
                break
        items |= zip(others, pool.map(partial(at, side, quality), others), strict=True)
    # The estimate may be wrong by some percent; then the last images, the best ones, are left out.
    in_order = [items[index] for index in range(count)]
    sizes = accumulate(_size([item]) for item in in_order)
    return [item for item, size in zip(in_order, sizes, strict=True) if size <= limit * TOLERANCE]


def build_gallery(
    parts: Sequence[tuple[Mapping[str, str], Mapping[str, Any]]], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the gallery of some evaluations, each (its origin, as in {"corpus": "c"}, what was
    saved), for ``gallery.html``.

    ``metrics`` are those of the protocol, by name. The result holds the ``images``, the worst
    first; ``filters``, (name, values); ``orders``, (value of the option, label); the ``metrics``
    that all images have; and ``total``, the number of images that were scored. An image has,
    besides its saved content: ``picks``, its (number of the filter, value); ``numbers``, its
    (number of the metric, score); ``gain`` in PSNR, dB; and ``origin``, its run and corpus as far
    as they vary.
    """
    origins = [origin for origin, _ in parts]
    varied = [n for n in (origins[0] if origins else ()) if len({o[n] for o in origins}) > 1]
    items = []
    for origin, saved in parts:
        varying = {name: origin[name] for name in varied}
        for item in saved["gallery"]:
            attributes = {**origin, **item["attributes"]}
            items.append({**item, "origin": varying, "attributes": attributes})
    items.sort(key=lambda item: (item["scores"]["psnr"], item["key"]))
    shared = {n: m for n, m in metrics.items() if all(n in item["scores"] for item in items)}
    filters = list(_filters(items))
    images = []
    for item in _fit(items):
        scores, values = item["scores"], item["attributes"]
        picks = [(n, values[name]) for n, (name, _) in enumerate(filters) if name in values]
        numbers = [(n, scores[name]) for n, name in enumerate(shared)]
        gain = round(scores["psnr"] - item["input_scores"]["psnr"], 6)
        images.append({**item, "picks": picks, "numbers": numbers, "gain": gain})
    total, orders = sum(saved["images"] for _, saved in parts), list(_orders(shared))
    shown = {"images": images, "filters": filters, "orders": orders}
    return {**shown, "metrics": shared, "total": total}


def _filters(items: Sequence[GalleryItem]) -> Iterator[tuple[str, list[str]]]:
    """Yield each attribute in which the images differ, and its values."""
    for name in dict.fromkeys(name for item in items for name in item["attributes"]):
        values = sorted({item["attributes"].get(name, "") for item in items} - {""})
        if 1 < len(values) <= MAX_FILTER_VALUES and len(values) * 2 <= len(items):
            yield name, values


def _orders(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    yield from (("place up", "worst PSNR first"), ("place down", "best PSNR first"))
    yield from (("gain up", "least gain first"), ("gain down", "most gain first"))
    for number, (name, metric) in enumerate(metrics.items()):
        if name != "psnr":
            direction = "up" if metric["better"] == "higher" else "down"
            yield f"m{number} {direction}", f"worst {metric['label']} first"


# -------------------------------------------------------------------------------------- samples
def build_samples(
    run: Path, columns: Sequence[str], count: int = SAMPLE_FRAMES, limit: int = SAMPLE_BYTES
) -> dict[str, Any]:
    """Return up to ``count`` sample grids of a run for ``samples.html``; {} if there are none.

    The last, the first and others evenly between. ``rows`` have the key of an image and WebP images
    named "COLUMN/FRAME"; of a column whose frames are all equal there is only the first.
    """
    paths, keys_file = sample_paths(run), RunFolder(run).sample_keys
    if not paths:
        return {}
    last, steps = len(paths) - 1, max(1, min(len(paths), count) - 1)
    chosen = sorted({last - round(i * last / steps) for i in range(min(len(paths), count))})
    grids = [io.read(paths[index]).pixels for index in chosen]
    keys = json.loads(keys_file.read_bytes())["keys"] if keys_file.is_file() else [""]
    # Without keys a grid is one image.
    columns = columns if keys_file.is_file() else ("samples",)

    def images_at(row: int) -> NamedImages:
        images = dict[str, Pixels]()
        for column, name in enumerate(columns):
            frames = [_cell(grid, row, len(keys), column, len(columns)) for grid in grids]
            # Inputs and targets do not change.
            same = all(np.array_equal(frame, frames[0]) for frame in frames)
            shown = enumerate(frames[:1] if same else frames)
            images |= {f"{name}/{at}": frame for at, frame in shown}
        return images

    fitted = thumbnails(images_at, len(keys), limit)
    rows = [{"key": printable(key), **row} for key, row in zip(keys, fitted, strict=False)]
    # "epoch 5" for epoch-00005.png.
    labels = [re.sub(r"-0*(\d+)$", r" \1", printable(paths[index].stem)) for index in chosen]
    return {"labels": labels, "columns": columns, "rows": rows}


def _cell(grid: Pixels, row: int, rows: int, column: int, columns: int) -> Pixels:
    height, width = grid.shape[0] // rows, grid.shape[1] // columns
    return grid[row * height : (row + 1) * height, column * width : (column + 1) * width]


# ----------------------------------------------------------------------------------------- size
def _fit(items: Sequence[GalleryItem]) -> Sequence[GalleryItem]:
    """Return the images of several evaluations, coarser if they are too large together."""
    if _size(items) <= GALLERY_BYTES * TOLERANCE:
        return items

    def images_at(index: int) -> NamedImages:
        webp = items[index]["webp"]
        return {name: io.decode(b64decode(data)).pixels for name, data in webp.items()}

    fitted = thumbnails(images_at, len(items))
    return [{**item, **small} for item, small in zip(items, fitted, strict=False)]


def _size(items: Iterable[GalleryItem]) -> int:
    return sum(len(webp) for item in items for webp in item["webp"].values())
