"""Tiles: an image cut into tiles comes out as if the network had seen it at once."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from conftest import make_photo

torch = pytest.importorskip("torch")

from img2img_train.inference.tiles import Tiling, restore  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import GeneratorName, NetworkSpec  # noqa: E402

CPU = torch.device("cpu")
LENGTHS = [1, 7, 32, 33, 64, 100, 131, 257, 300]
TILINGS = [
    Tiling(64, 32, 16),
    Tiling(64, 16, 8),
    Tiling(96, 32, 1),
    Tiling(32, 64, 16),
    Tiling(64, 1, 1),
    Tiling(32, 8, 4, 1, 40),
]


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_tiles_cover_a_side_with_weights_that_sum_to_one(tiling: Tiling, length: int) -> None:
    starts, size, total = tiling.starts(length), tiling.size(length), np.zeros(10_000)
    for start, weight in zip(starts, tiling.weights(length), strict=True):
        assert start % tiling.multiple == size % tiling.multiple == 0
        total[start : start + size] += weight
    assert np.allclose(total[:length], 1, atol=1e-6)
    assert starts[-1] + size - length < tiling.multiple or len(starts) == 1


def convolutions() -> torch.nn.Module:
    """Three layers that see 9 pixels to either side, with a stride of 2 between them."""
    torch.manual_seed(0)
    down = torch.nn.Conv2d(3, 8, 5, stride=2, padding=2)
    up = torch.nn.ConvTranspose2d(8, 3, 5, stride=2, padding=2, output_padding=1)
    return torch.nn.Sequential(down, torch.nn.Tanh(), up, torch.nn.Tanh()).requires_grad_(False)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(150, 97), (64, 200), (33, 31), (1, 90), (128, 128)])
def test_tiles_are_the_whole_within_one_level(size: tuple[int, int], dtype: type) -> None:
    network = convolutions()
    image = make_photo(1, *size).astype(dtype) * (257 if dtype is np.uint16 else 1)
    expected = restore(network, image, Tiling(1024, 32, 2), CPU)
    assert expected.shape == image.shape
    assert expected.dtype == image.dtype
    for batch in (1, 3):
        tiled = restore(network, image, Tiling(64, 32, 2, batch), CPU)
        assert np.abs(tiled.astype(np.int64) - expected).max() <= 1


@pytest.mark.parametrize("name", get_args(GeneratorName))
def test_a_small_image_is_one_tile_whatever_the_network(name: str) -> None:
    spec = NetworkSpec(name=name, width=2)
    network = build(spec, 0).eval().requires_grad_(False)
    image = make_photo(2, spec.multiple * 2 - 1, spec.multiple)
    output = restore(network, image, Tiling(512, 128, spec.multiple, 1, spec.smallest), CPU)
    assert output.shape == image.shape


def test_a_flat_image_has_no_seam() -> None:
    image = np.full((300, 260, 3), 90, np.uint8)
    assert (restore(lambda x: x, image, Tiling(64, 32, 16), CPU) == 90).all()
