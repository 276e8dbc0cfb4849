"""Fixtures of all tests, and smooth random photos."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

# Some tests import ONNX Runtime themselves; it sends telemetry unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@pytest.fixture(scope="session", autouse=True)
def _workers_end() -> Iterator[None]:
    """Stop the workers, which are kept from one test to the next."""
    yield
    if "img2img_data.runner.workers" in sys.modules:
        from img2img_data.runner.workers import stop_workers

        stop_workers()


@pytest.fixture
def own_handlers() -> Iterator[None]:
    """Let a test change the handlers of the signals that end commands."""
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread: several slow down tiny networks, and results depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real images; skip the test if IMG2IMG_DATA names none."""
    folder = os.environ.get("IMG2IMG_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("IMG2IMG_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def wiki(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the real faces without gray ones as ``wiki`` sorts them, and what it printed."""
    from command_line import run

    out = tmp_path_factory.mktemp("wiki") / "faces"
    return out, run("wiki", real_data / "faces" / "wiki_crop", out, "--drop-gray", "--jobs", 2)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a browser; skip the test if there is none."""
    api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no browser")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


def make_photo(seed: int, width: int = 40, height: int = 32) -> np.ndarray:
    """Return a smooth color image with some noise, H x W x 3 RGB uint8, different for each seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    smooth = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def write_photos(
    folder: Path, count: int, width: int = 40, height: int = 32, suffix: str = ".jpg"
) -> Path:
    """Write ``count`` photos, 000.jpg and so on, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        bgr = np.ascontiguousarray(make_photo(number, width, height)[..., ::-1])
        (folder / f"{number:03d}{suffix}").write_bytes(cv2.imencode(suffix, bgr)[1].tobytes())
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder of 12 photos."""
    return write_photos(tmp_path / "photos", 12)
