"""Alignment: error of planted shifts in real pairs, beside OpenCV's phase correlation.

::

    IMG2IMG_DATA=FOLDER python benchmarks/alignment.py

FOLDER holds natural/bsds500-train, landscapes/yosemite, faces/wiki_crop, facades/val and cuhk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from data import argument_parser
from numpy.typing import NDArray

from img2img_data.similarity.alignment import measure_shift

Plane = NDArray[np.uint8]
Pair = tuple[Plane, Plane]
Method = Callable[[Plane, Plane], tuple[float, float]]
"""Returns the shift (x, y) of the second image in pixels."""
SHIFTS = [(0, 0), (0.5, 0), (0, -1.5), (4, 0), (2.5, -3.25), (-8, 5)]
MARGIN = 10


def read(path: Path) -> Plane:
    """Return an image in gray, H x W."""
    return np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE), np.uint8)


def some(folder: Path, pattern: str, step: int, count: int) -> list[Path]:
    """Return every ``step``-th file of a folder, ``count`` at most."""
    return sorted(folder.glob(pattern))[::step][:count]


def pairs(data: Path) -> dict[str, list[Pair]]:
    """Return aligned pairs of each sort."""
    photos = [read(p) for p in some(data / "natural" / "bsds500-train", "*.jpg", 10, 15)]
    photos += [read(p) for p in some(data / "landscapes" / "yosemite", "*/*.jpg", 50, 10)]
    faces = [read(p) for p in some(data / "faces" / "wiki_crop", "*/*.jpg", 250, 12)]
    small = [
        cv2.resize(f, (72, 72), interpolation=cv2.INTER_AREA) for f in faces if min(f.shape) >= 64
    ]
    facades = [read(p) for p in some(data / "facades" / "val", "*.jpg", 4, 20)]
    drawn = some(data / "cuhk" / "Training photo", "*.jpg", 4, 22)
    sketches = data / "cuhk" / "Training sketch"
    return {
        "photo | blur of 3": [(cv2.GaussianBlur(p, (0, 0), 3), p) for p in photos],
        "the same at 64": [(cv2.GaussianBlur(p, (0, 0), 3), p) for p in small],
        "photo | Canny edges": [(255 - cv2.Canny(p, 100, 200), p) for p in photos],
        "facade | labels": [(f[:, 256:], f[:, :256]) for f in facades],
        "face | sketch": [
            (read(p), read(sketches / f"{p.name[0].upper()}2{p.stem[1:]}-sz1.jpg")) for p in drawn
        ],
    }


def gradient(image: Plane) -> NDArray[np.float32]:
    """Return the magnitude of the gradient."""
    return cv2.magnitude(*(cv2.Sobel(image, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))


def opencv(feature: Callable[[Plane], NDArray[np.float32]]) -> Method:
    """Return OpenCV's phase correlation of a feature of both images."""

    def measure(first: Plane, second: Plane) -> tuple[float, float]:
        window = cv2.createHanningWindow(first.shape[1::-1], cv2.CV_32F)
        (x, y), _ = cv2.phaseCorrelate(feature(first), feature(second), window)
        return x, y

    return measure


# Pairs drawn by hand are not aligned exactly, so the shift measured without a planted one counts as
# zero.
DRAWN: set[str] = {"facade | labels", "face | sketch"}

METHODS: dict[str, Method] = {
    "measure_shift": lambda a, b: measure_shift(a, b)[:2],
    "OpenCV, lightness": opencv(lambda p: p.astype(np.float32)),
    "OpenCV, gradients": opencv(gradient),
}


def cut(image: Plane) -> Plane:
    """Return an image without its margin, which a shift fills with reflections."""
    return np.ascontiguousarray(image[MARGIN:-MARGIN, MARGIN:-MARGIN])


def moved(image: Plane, shift: tuple[float, float]) -> Plane:
    """Return an image moved by (x, y) pixels."""
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    size = image.shape[1::-1]
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def errors_of(method: Method, first: Plane, second: Plane, drawn: bool) -> list[float]:
    """Return the errors of planted shifts in pixels; large shifts of small images are skipped."""
    start = method(cut(first), cut(second)) if drawn else (0.0, 0.0)
    errors = []
    for shift in SHIFTS:
        if max(map(abs, shift)) <= min(first.shape) / 14:
            x, y = method(cut(first), cut(moved(second, shift)))
            errors.append(float(np.hypot(x - start[0] - shift[0], y - start[1] - shift[1])))
    return errors


def main() -> None:
    """Print the errors of each method on each sort of pairs."""
    argument_parser(__doc__).parse_args()
    data = os.environ.get("IMG2IMG_DATA")
    if data is None or not Path(data).is_dir():
        raise SystemExit("set IMG2IMG_DATA to the folder of real images")
    cv2.setNumThreads(1)
    for sort, images in pairs(Path(data)).items():
        for name, method in METHODS.items():
            began, drawn = time.process_time(), sort in DRAWN
            errors = [
                e for first, second in images for e in errors_of(method, first, second, drawn)
            ]
            ms = 1000 * (time.process_time() - began) / (len(errors) + drawn * len(images))
            over = float(np.mean(np.array(errors) > 1))
            figures = f"median {np.median(errors):6.2f} px  over 1 px {over:.2f}  {ms:.1f} ms"
            print(f"{sort:20} {name:18} {figures}")


if __name__ == "__main__":
    main()
