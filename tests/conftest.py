from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session", autouse=True)
def _workers_end() -> Iterator[None]:
    """Workers are kept from one test to the next; here they end."""
    yield
    if "img2img_data.runner.workers" in sys.modules:
        from img2img_data.runner.workers import stop_workers

        stop_workers()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tiny networks, which several threads slow down; results depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, or a skip."""
    folder = os.environ.get("IMG2IMG_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IMG2IMG_DATA names no folder")
    return Path(folder)


def make_photo(seed: int, width: int = 40, height: int = 32) -> np.ndarray:
    """A smooth color image with some noise, H x W x 3 RGB uint8, another one for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def write_photos(
    folder: Path, count: int, width: int = 40, height: int = 32, suffix: str = ".jpg"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        bgr = np.ascontiguousarray(make_photo(number, width, height)[..., ::-1])
        (folder / f"{number:03d}{suffix}").write_bytes(cv2.imencode(suffix, bgr)[1].tobytes())
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 12)
