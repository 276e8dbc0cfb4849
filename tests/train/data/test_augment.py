"""Jitter: crops of enlarged images, drawn anew each epoch, equal for both halves of a pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_photo
from PIL import Image
from small_corpus import write_corpus, write_domains
from small_runs import DEGRADED, seen, small_config

from img2img_data.images import io
from img2img_data.images.pixels import to_16_bit
from img2img_train.data import dataset, loader
from img2img_train.data.augment import first_pixel, resize_and_crop, resize_and_crop_pixels
from img2img_train.data.color import denormalize
from img2img_train.training.setup import RunData

CPU = torch.device("cpu")
FACTOR = 286 / 256
OFFSETS = np.array([[0.0, 0.0], [0.3, 0.99], [0.999999, 0.5]])


def same_halves(root: Path, layout: str = "folders", bits: int = 8, channels: int = 3) -> Path:
    """A corpus whose inputs are its targets."""
    info = {"bits": bits, "channels": {"input": channels, "target": channels}}
    write_corpus(root, {"train": 4}, layout, size=(20, 24), info=info)
    for path in root.glob("train/**/*.png"):
        pixels = make_photo(int(path.stem), 20, 24)
        pixels = pixels if channels == 3 else np.ascontiguousarray(pixels[..., 0])
        pixels = to_16_bit(pixels) // 2 + 77 if bits == 16 else pixels
        both = np.hstack([pixels, pixels]) if layout == "combined" else pixels
        path.write_bytes(io.encode(both, "png"))
    return root


# --------------------------------------------------------------------------------------- enlarging
def test_crops_are_those_of_an_image_enlarged_by_pillow() -> None:
    photos = np.stack([make_photo(i, 70, 50) // 2 + 60 for i in range(3)])
    cropped = resize_and_crop_pixels(photos, FACTOR, OFFSETS)
    assert cropped.dtype == np.uint8
    for photo, crop, (vertical, horizontal) in zip(photos, cropped, OFFSETS, strict=True):
        size = round(70 * FACTOR), round(50 * FACTOR)
        enlarged = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC), int)
        top, left = int(vertical * (size[1] - 50 + 1)), int(horizontal * (size[0] - 70 + 1))
        assert np.abs(enlarged[top : top + 50, left : left + 70] - crop).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_factor_of_one_returns_the_image(dtype: type, channels: int) -> None:
    shape = (3, 9, 13, channels)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    assert np.array_equal(resize_and_crop_pixels(pixels, 1.0, OFFSETS), pixels)
    assert np.array_equal(resize_and_crop_pixels(pixels, 1.01, OFFSETS), pixels), (
        "less than a pixel"
    )


def test_ranges_are_kept() -> None:
    stripes = np.tile(np.array([0, 65535], np.uint16).repeat(3), 8)
    pixels = np.broadcast_to(stripes[None, None, :, None], (3, 48, 48, 1)).copy()
    cropped = resize_and_crop(torch.from_numpy(pixels), 1.5, OFFSETS)
    assert cropped.min() == 0
    assert cropped.max() == 65535
    flat = np.full((3, 17, 17, 1), 65535, np.uint16)
    assert np.array_equal(resize_and_crop_pixels(flat, 2.7, OFFSETS), flat)


def test_all_offsets_are_equally_likely() -> None:
    found = first_pixel(np.random.default_rng(0).random(40_000), 3)
    assert set(found.tolist()) == {0, 1, 2, 3}
    assert np.bincount(found).min() > 9_500


# ------------------------------------------------------------------------------------ both halves
@pytest.mark.parametrize(
    "kind",
    [{}, {"layout": "combined"}, {"bits": 16}, {"channels": 1}, {"bits": 16, "channels": 1}],
    ids=str,
)
def test_halves_of_a_pair_have_the_same_crop(kind: dict[str, Any], tmp_path: Path) -> None:
    corpus = same_halves(tmp_path / "c", **kind)
    plain = seen("l2", corpus, range(4))
    jittered = seen("l2", corpus, range(4), jitter=1.4, flip=True)
    for before, after in zip(plain, jittered, strict=True):
        assert torch.equal(after.input, after.target)
        assert before.input.shape == after.input.shape
        assert not torch.equal(before.input, after.input)
        assert after.input.is_contiguous(memory_format=torch.channels_last)


def test_an_l_plane_keeps_to_its_colors(tmp_path: Path) -> None:
    corpus = same_halves(tmp_path / "c")
    page = (
        (corpus / "corpus.json")
        .read_text()
        .replace('"rgb"', '"lab"')
        .replace('"input": 3', '"input": 1')
    )
    (corpus / "corpus.json").write_text(page)
    for path in corpus.glob("train/*/*.png"):
        gray = make_photo(int(path.stem), 20, 24)[..., :1]
        path.write_bytes(
            io.encode(gray.repeat(3, 2) if "target" in str(path) else gray[..., 0], "png")
        )
    for batch in seen("l1", corpus, range(4), jitter=1.4):
        levels = (batch.input + 1) * 127.5
        assert torch.allclose(batch.target * 110 + 128, levels.expand(-1, 2, -1, -1), atol=1e-4)


def test_unpaired_domains_have_offsets_of_their_own(tmp_path: Path) -> None:
    corpus = write_domains(tmp_path / "c", 5)
    config = small_config("cyclegan", corpus, jitter=1.3, batch=5)
    plan = RunData.open(config).plan
    inputs, targets = plan.draw(0, loader.JITTER, 2)
    assert not np.intersect1d(inputs, targets).size
    step = plan.step(0)
    assert step.jitter is not None
    assert np.array_equal(step.jitter.offsets, plan.draw(0, loader.JITTER, 2))


# -------------------------------------------------------------------------------- anew, and exactly
def test_each_epoch_draws_other_offsets_and_nothing_else_changes(tmp_path: Path) -> None:
    plans = [
        loader.SamplingPlan((6,), (1.0,), 2, 3, jitter=factor, flip=True) for factor in (1.0, 1.2)
    ]
    for number in range(6):
        plain, jittered = (plan.step(number) for plan in plans)
        assert plain.jitter is None
        assert jittered.jitter is not None
        assert np.array_equal(plain.indices, jittered.indices)
        assert np.array_equal(plain.orientations, jittered.orientations)
        assert np.array_equal(*jittered.jitter.offsets)
    first, second = (plans[1].draw(epoch, loader.JITTER, 2) for epoch in (0, 1))
    assert not np.intersect1d(first, second).size
    other = loader.SamplingPlan((6,), (1.0,), 2, 4, jitter=1.2)
    assert not np.array_equal(first, other.draw(0, loader.JITTER, 2))
    share = plans[1].step(0).select(slice(1, 2))
    assert share.jitter is not None
    assert np.array_equal(share.jitter.offsets, first[:, 1:2])


@pytest.mark.parametrize("degrade", DEGRADED)
def test_all_readers_give_the_same_crops(degrade: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 6}, size=(16, 16))
    settings = {"degrade": DEGRADED[degrade], "jitter": 1.3, "flip": True}
    plain = seen("l2", corpus, range(1, 6), **settings)
    for workers, cache in ((0, "ram"), (2, "off")):
        for one, two in zip(
            plain, seen("l2", corpus, range(1, 6), workers, cache, **settings), strict=True
        ):
            assert torch.equal(one.input, two.input)
            assert torch.equal(one.target, two.target)


@pytest.mark.parametrize("degrade", [name for name in DEGRADED if DEGRADED[name]])
def test_a_crop_is_degraded_like_an_image_on_disk(degrade: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 6}, size=(16, 24))
    config = small_config("l2", corpus, degrade=DEGRADED[degrade], jitter=1.3, net="resnet-6")
    data = RunData.open(config)
    assert isinstance(data.train, dataset.PairedImages)
    assert data.train.on_the_fly is not None
    order = data.plan.order(0)
    (batch,) = seen("l2", corpus, range(1), degrade=DEGRADED[degrade], jitter=1.3)
    degraded, clean = denormalize(batch.input).numpy(), denormalize(batch.target).numpy()
    for place, index in enumerate(order[:2]):
        expected = data.train.on_the_fly.degrade(clean[place], data.train.pairs[index][1], 0)
        assert np.abs(degraded[place].astype(int) - expected).max() <= 1
        assert not np.array_equal(clean[place], data.train.read(index)[1])
