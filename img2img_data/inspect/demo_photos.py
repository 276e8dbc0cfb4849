"""Demo photos: crops of the photos that scikit-image ships. No network is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np

from img2img_data.core.errors import UsageError, load_extra
from img2img_data.core.files import writing_to
from img2img_data.images import io

PHOTOS: Final = {
    "astronaut": "astronaut.png", "brick": "brick.png", "camera": "camera.png",
    "cell": "cell.png", "chelsea": "chelsea.png", "clock": "clock_motion.png",
    "coffee": "coffee.png", "coins": "coins.png", "grass": "grass.png",
    "gravel": "gravel.png", "hubble": "hubble_deep_field.jpg", "moon": "moon.png",
    "motorcycle": "motorcycle_left.png", "page": "page.png", "retina": "retina.jpg",
    "rocket": "rocket.jpg", "tissue": "ihc.png",
}  # fmt: skip
"""Photos in the scikit-image package (free licenses, see its data/README), by name."""


def write_demo_photos(out: Path, size: int, limit: int) -> dict[str, int]:
    """Write up to ``limit`` square crops of each photo to OUT/PHOTO/; return their counts.

    A second run writes the same bytes. Raises ``UsageError`` if OUT contains anything else.
    """
    if out.is_dir() and any(p.name not in PHOTOS for p in out.iterdir()):
        raise UsageError("folder", out, "contains other files", "choose a new or an empty folder")
    folder = Path(load_extra("skimage", "demo", "the demo photos").__file__).parent / "data"
    # Some photos are downloads in some versions of scikit-image: only those that are there are
    # used.
    return {
        name: _write_crops(out / name, io.read(folder / file).pixels, size, limit)
        for name, file in PHOTOS.items()
        if (folder / file).is_file()
    }


def _write_crops(folder: Path, photo: io.Pixels, size: int, limit: int) -> int:
    """Write up to ``limit`` overlapping crops of the photo at half its size and at full size."""
    height, width = photo.shape[:2]
    half = cv2.resize(photo, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    crops = [
        scaled[top : top + size, left : left + size]
        for scaled in (half, photo)
        for top in range(0, scaled.shape[0] - size + 1, size * 3 // 4)
        for left in range(0, scaled.shape[1] - size + 1, size * 3 // 4)
    ]
    chosen = [crops[i] for i in np.linspace(0, len(crops) - 1, min(limit, len(crops))).astype(int)]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for number, crop in enumerate(chosen):
            (folder / f"{number:03d}.png").write_bytes(io.encode(crop, "png"))
    return len(chosen)
