"""Photos with detail at every scale, near copies of them, and a writer of image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from img2img_data.images import io
from img2img_data.images.pixels import luminance

RGB = np.ndarray


def detailed(seed: int, width: int = 96, height: int = 80) -> RGB:
    """Return an image with detail at every scale, as photos have it, different for each seed."""
    rng = np.random.default_rng(seed)
    layers = []
    for cells in (3, 6, 12, 24, 48):
        noise = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        layer = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        layers.append(layer * 120 / cells**0.7)
    return np.clip(120 + np.sum(layers, 0), 0, 255).astype(np.uint8)


def resized(photo: RGB, factor: float) -> RGB:
    """Return a photo resized by a factor."""
    size = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


NEAR: dict[str, Callable[[RGB], RGB]] = {
    "smaller": lambda p: resized(p, 0.7),
    "jpeg": lambda p: io.decode(io.encode(p, "jpg", 50)).pixels,
    "brighter": lambda p: cv2.add(p, np.full_like(p, 10)),
    "blurred": lambda p: cv2.GaussianBlur(p, (0, 0), 1.2),
    "gray": lambda p: cv2.cvtColor(luminance(p), cv2.COLOR_GRAY2RGB),
    "cut": lambda p: np.ascontiguousarray(p[1:-1, 1:-1]),
}
"""Alterations that leave a near copy."""


def write(path: Path, pixels: RGB, quality: int = 95) -> None:
    """Write an image as JPEG or PNG, by the suffix; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = "jpg" if path.suffix == ".jpg" else "png"
    path.write_bytes(io.encode(np.ascontiguousarray(pixels), name, quality))
