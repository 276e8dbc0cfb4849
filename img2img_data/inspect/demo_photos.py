"""Demo photos: those that scikit-image ships. No network is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from img2img_data.core.errors import load_extra
from img2img_data.core.files import check_unused, writing_to
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


def write_demo_photos(out: Path) -> list[Path]:
    """Write each photo as OUT/NAME.png, its pixels unchanged; return the files.

    A second run writes the same bytes. Raises ``UsageError`` if OUT contains anything else.
    """
    check_unused(out, {f"{name}.png" for name in PHOTOS})
    folder = Path(load_extra("skimage", "demo", "the demo photos").__file__).parent / "data"
    # Some photos are downloads in some versions of scikit-image: only those that are there are
    # used.
    found = {name: folder / file for name, file in PHOTOS.items() if (folder / file).is_file()}
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, file in found.items():
            (out / f"{name}.png").write_bytes(io.encode(io.read(file).pixels, "png"))
    return [out / f"{name}.png" for name in found]
