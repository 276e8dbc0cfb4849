"""Laws that every degradation keeps; a new member of the dict is tested unasked."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_photo

from img2img_data.degradations import DEGRADATIONS, Gaussian, Resize

KINDS = sorted(DEGRADATIONS)
DTYPES = [np.uint8, np.uint16, np.float32]


def typed(dtype: type, width: int = 37, height: int = 29) -> np.ndarray:
    photo = make_photo(3, width, height)
    if dtype is np.float32:
        return photo.astype(np.float32) / 255
    return photo.astype(dtype) * (257 if dtype is np.uint16 else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_dtype_and_range_stay(kind: str, dtype: type) -> None:
    degradation, image = DEGRADATIONS[kind](), typed(dtype)
    for shaped in (image, image[..., 0].copy(), image[:1], image[:, :1]):
        before = shaped.copy()
        out = degradation.apply(shaped, **degradation.draw(np.random.default_rng(0)))
        assert out.shape == shaped.shape
        assert out.dtype == shaped.dtype
        assert np.isfinite(out.astype(np.float64)).all()
        assert dtype is not np.float32 or (out.min() >= 0 and out.max() <= 1 + 1e-6)
        assert (shaped == before).all(), "the source was written to"


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_draw_gives_the_same_pixels(kind: str) -> None:
    degradation, image = DEGRADATIONS[kind](), typed(np.uint8)
    one, two = (degradation.draw(np.random.default_rng(7)) for _ in range(2))
    assert one == two
    assert (degradation.apply(image, **one) == degradation.apply(image, **two)).all()
    assert degradation.random == (one != degradation.draw(np.random.default_rng(8)))


@pytest.mark.parametrize("kind", KINDS)
def test_integers_are_rounded_once(kind: str) -> None:
    degradation = DEGRADATIONS[kind]()
    drawn = degradation.draw(np.random.default_rng(1))
    exact = degradation.apply(typed(np.float32), **drawn) * 255
    assert np.abs(degradation.apply(typed(np.uint8), **drawn) - exact).max() <= 0.51


@pytest.mark.parametrize("kind", KINDS)
def test_separable_ones_are_two_matrices(kind: str) -> None:
    """Fed the identity along one axis, a degradation returns its own operator: spoiled = R x image x C^T."""
    degradation, image = DEGRADATIONS[kind](), typed(np.float32)[..., 0].copy()
    drawn = degradation.draw(np.random.default_rng(1))
    rows = degradation.apply(np.eye(image.shape[0], dtype=np.float32), axes="y", **drawn)
    columns = degradation.apply(np.eye(image.shape[1], dtype=np.float32), axes="y", **drawn)
    assert np.abs(rows @ image @ columns.T - degradation.apply(image, **drawn)).max() < 1e-5


def test_gaussian_is_scipys(real_data: object) -> None:
    from pathlib import Path

    from scipy.ndimage import gaussian_filter

    from img2img_data import images

    assert isinstance(real_data, Path)
    files = sorted((real_data / "faces" / "wiki_crop").glob("*/*.jpg"))[::17][:120]
    files += sorted((real_data / "natural" / "bsds500-train").glob("*.jpg"))[:80]
    seen = 0
    for path in files:
        try:
            image = images.read(path).pixels
        except images.Refused:
            continue
        ours = Gaussian(sigma=3).apply(image, sigma=3.0)
        theirs = np.stack([gaussian_filter(image[..., c].astype(np.float64), 3) for c in range(3)], -1)
        assert np.abs(ours - theirs).max() <= 1
        seen += 1
    assert seen >= 190


def test_resize_goes_through_a_sixteenth_of_the_area() -> None:
    image = typed(np.float32, 64, 64)
    drawn = Resize().draw(None)
    assert drawn == {"factor": 4.0}
    operator = Resize().apply(np.eye(64, dtype=np.float32), axes="y", **drawn)
    assert np.linalg.matrix_rank(operator) == 16
    assert Resize().apply(image, **drawn).shape == image.shape
