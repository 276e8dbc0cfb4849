"""Samples of images, integers of any depth and float32 in [0, 1]: conversions, luma, borders."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""H x W x C or H x W, RGB: float32 in [0, 1], or uint8 or uint16 at full scale."""

FloatImage = NDArray[np.float32]
"""H x W x C, float32 in [0, 1]."""

# Extensions of an image, where pixels beyond its border count.
MIRRORED: Final = "mirrored, the edge pixel repeated (c b a | a b c)"
REPLICATED: Final = "replicated from the edge pixel (a a a | a b c)"


def to_unit(image: Image) -> FloatImage:
    """Return a copy as float32, H x W x C in [0, 1]."""
    deep = image if image.ndim == 3 else image[..., None]
    if image.dtype.kind == "f":
        return np.array(deep, np.float32)
    return np.divide(deep, np.float32(np.iinfo(image.dtype).max), dtype=np.float32)


def from_unit(result: Image, like: Image) -> Image:
    """Convert float samples in [0, 1] to the dtype and shape of ``like``: clip, round once."""
    if like.dtype.kind != "f":
        result = np.multiply(result, np.float32(np.iinfo(like.dtype).max))
    return to_dtype(result, like)


def to_dtype(result: Image, like: Image) -> Image:
    """Round float samples at the scale of ``like`` to its dtype and shape, clipping overshoot."""
    result = result.reshape(like.shape)
    if like.dtype.kind == "f":
        return np.clip(result, 0, 1, out=result)
    # np.rint rounds halves to even, as OpenCV's saturate_cast does: both ways give the same bytes.
    return np.clip(np.rint(result, out=result), 0, np.iinfo(like.dtype).max).astype(like.dtype)


def luma(image: FloatImage) -> FloatImage:
    """Return H x W x 1: ITU-R BT.601 luma of RGB, the mean of any other number of channels."""
    rgb = image.shape[2] == 3
    weights = [0.299, 0.587, 0.114] if rgb else [1 / image.shape[2]] * image.shape[2]
    return np.asarray(image @ np.asarray(weights, np.float32), np.float32)[..., None]
