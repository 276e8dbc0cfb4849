"""Bringing images upright and to a size."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from img2img_data.core.errors import Rejected
from img2img_data.images.pixels import Pixels

Fit = Literal["crop", "pad", "stretch", "error"]


def fit(pixels: Pixels, size: tuple[int, int], how: Fit) -> Pixels:
    """Bring a image to ``size`` (width, height); its samples keep their type and number.

    ``crop`` scales it to cover the frame and cuts the centre; ``pad`` scales it to fit inside and reflects
    its border (no invented color, edge pixels not repeated); ``stretch`` ignores the aspect; ``error``
    raises ``Rejected("size")``. Area averaging downwards, bicubic upwards. The same array comes back if it
    fits already. RGBA images are scaled with their color multiplied by alpha, so that what is invisible
    does not bleed into what is seen.
    """
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    if how == "error":
        raise Rejected("size", f"{width} x {height}, not {size[0]} x {size[1]}")
    if how == "stretch":
        return _resize(pixels, size)
    scales = size[0] / width, size[1] / height
    scale = max(scales) if how == "crop" else min(scales)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    return _frame(_resize(pixels, inner), size)


def _resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    shrinks = size[0] <= width and size[1] <= height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return _resize_transparent(pixels, size, interpolation)
    return cv2.resize(pixels, size, interpolation=interpolation)


def _resize_transparent(pixels: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    top = np.float32(np.iinfo(pixels.dtype).max)
    seen = pixels.astype(np.float32) / top
    seen[..., :3] *= seen[..., 3:]
    scaled = np.asarray(cv2.resize(seen, size, interpolation=interpolation), np.float32)
    alpha = scaled[..., 3:]
    color = np.divide(scaled[..., :3], alpha, out=np.zeros_like(scaled[..., :3]), where=alpha > 0)
    whole = np.clip(np.dstack((color, alpha)), 0, 1) * top
    return np.asarray(np.rint(whole), pixels.dtype)


def _frame(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Cut or reflect around the centre."""
    height, width = pixels.shape[:2]
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    if left < 0 or top < 0:
        left, top = max(0, -left), max(0, -top)
        return np.ascontiguousarray(pixels[top : top + size[1], left : left + size[0]])
    edges = (top, size[1] - height - top, left, size[0] - width - left)
    # Reflection without the edge pixel needs two pixels to reflect.
    border = cv2.BORDER_REFLECT_101 if min(height, width) > 1 else cv2.BORDER_REPLICATE
    return cv2.copyMakeBorder(pixels, *edges, border)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation 2..8."""
    if orientation in (2, 3, 4):
        return cv2.flip(pixels, {2: 1, 3: -1, 4: 0}[orientation])
    turned = cv2.transpose(pixels)
    return turned if orientation == 5 else cv2.flip(turned, {6: 1, 7: -1, 8: 0}[orientation])
