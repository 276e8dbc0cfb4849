"""Training on crops of larger images of any size, drawn anew each epoch; scores are of whole
images.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_photo
from interrupted import Killer, tree
from PIL import Image
from small_corpus import write_corpus, write_domains
from small_runs import DEGRADED, seen, small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CorpusError, Rejected, UsageError
from img2img_data.images import io
from img2img_train.config import RunConfig
from img2img_train.data import dataset
from img2img_train.data.augment import Crops, resize_to, stack_crops
from img2img_train.data.color import denormalize
from img2img_train.evaluation.evaluate import evaluate_matrix
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.folder import read_log, sample_paths
from img2img_train.training import fit as loop
from img2img_train.training.setup import RunData
from img2img_train.training.signals import StoppedBySignal
from img2img_train.training.validation import sample_images, sample_keys

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(40, 24), (24, 56), (30, 30), (24, 24), (41, 37), (25, 60)]


def write_mixed(root: Path, layout: str = "folders", same: bool = False) -> Path:
    """Pairs of several sizes, width x height, for training and validation."""
    write_corpus(root, {"train": len(SIZES), "val": 3}, layout)
    for path in sorted(root.glob("*/**/*.png")):
        number = int(path.stem)
        pixels = make_photo(number, *SIZES[number])
        image = pixels if same or "target" in path.parts else 255 - pixels
        path.write_bytes(
            io.encode(np.hstack([image, pixels]) if layout == "combined" else image, "png")
        )
    return root


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("data") / "c")


def positions_of(crop: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Return the corners at which a crop occurs in an image."""
    height, width = crop.shape[:2]
    views = np.lib.stride_tricks.sliding_window_view(image, (height, width), axis=(0, 1))
    equal = (views == np.moveaxis(crop, 2, 0)).all(axis=(2, 3, 4))
    return [(int(y), int(x)) for y, x in np.argwhere(equal)]


# ------------------------------------------------------------------------------------------ pieces
@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_crops_are_parts_of_the_image_and_equal_in_both_halves(layout: str, tmp_path: Path) -> None:
    corpus = write_mixed(tmp_path / "c", layout)
    config = small_config("l2", corpus, crop=20)
    data = RunData.open(config)
    found: dict[int, set[tuple[int, int]]] = {}
    for number, batch in enumerate(seen("l2", corpus, range(12), crop=20)):
        image, target = (denormalize(x).numpy() for x in (batch.input, batch.target))
        assert target.shape == (2, 20, 20, 3)
        assert np.array_equal(255 - image, target)
        for index, crop in zip(data.plan.step(number).indices[0].tolist(), target, strict=True):
            (place,) = positions_of(crop, data.train.read(index)[1])
            found.setdefault(index, set()).add(place)
    assert sum(len(places) for places in found.values()) > 2 * len(SIZES), (
        "other places in other epochs"
    )


@pytest.mark.parametrize("loss", ["l2", "cyclegan"])
@pytest.mark.parametrize("crop", [0, 16])
def test_images_of_any_size_are_read_at_one_size(loss: str, crop: int, mixed: Path) -> None:
    """286 and crops of 256, as pix2pix reads its images, in small."""
    config = small_config(loss, mixed, load_size=20, crop=crop, batch=3)
    images = RunData.open(config).train
    number = SIZES.index((40, 24))
    source = io.read(sorted((mixed / "train/target").iterdir())[number]).pixels
    expected = Image.fromarray(source).resize((20, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(images.read(number)[1], np.asarray(expected))
    plain = seen(loss, mixed, range(3), load_size=20, crop=crop, batch=3)
    cached = seen(loss, mixed, range(3), cache="ram", load_size=20, crop=crop, batch=3)
    for one, two in zip(plain, cached, strict=True):
        assert one.target.shape == (3, 3, crop or 20, crop or 20)
        assert torch.equal(one.target, two.target)


def test_16_bits_are_resized_as_8() -> None:
    image = make_photo(1, 30, 20)
    deep = resize_to(image.astype(np.uint16) * 257, 13)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - resize_to(image, 13)).max() <= 1


def test_a_crop_beyond_the_load_size_is_one_line(mixed: Path) -> None:
    with pytest.raises(UsageError, match="larger than --load-size 20"):
        RunData.open(small_config("l2", mixed, load_size=20, crop=24))


@pytest.mark.parametrize(
    ("loss", "size", "given", "expected"),
    [
        ("charbonnier", (64, 120), {}, (0, False)),
        ("charbonnier", (100, 120), {}, (96, True)),
        ("l1", (100, 120), {"rotate": False}, (96, False)),
        ("l1", (100, 120), {"crop": 0}, (0, False)),
        ("l2", (100, 120), {"crop": 32}, (32, False)),
        ("l2", (140, 160), {"net": "unet-128", "width": 2}, (128, True)),
        ("l2", (120, 160), {"net": "unet-128", "width": 2}, (0, False)),
        ("pix2pix", (100, 120), {}, (0, False)),
        ("charbonnier", (100, 120), {"preset": "original"}, (0, False)),
    ],
)
def test_restorers_train_on_crops_of_large_images(
    loss: str, size: tuple[int, int], given: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 9}, size=size)
    config = RunConfig(corpora=corpus, loss=loss, batch=4, **{"net": "unet", **given})
    resolved = RunData.open(config).config
    assert (resolved.crop, resolved.rotate) == expected
    # 3,000 steps of 4 of 9 pairs, or what was published.
    assert resolved.epochs == {"pix2pix": 200}.get(loss, 50 if "preset" in given else 1500)


def test_images_that_are_not_square_cannot_be_turned(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 2}, size=(16, 32))
    config = RunConfig(corpora=corpus, rotate=True)
    with pytest.raises(UsageError, match=r"--rotate.*16x32; add --crop"):
        RunData.open(config)


def test_every_position_can_be_drawn() -> None:
    image = np.arange(6 * 5).reshape(6, 5, 1)
    offsets = np.random.default_rng(0).random((2, 400, 2))
    corners = stack_crops([image] * 400, Crops(4, offsets), 0)[:, 0, 0, 0]
    assert set(corners.tolist()) == {0, 1, 5, 6, 10, 11}
    (center,) = stack_crops([np.arange(36).reshape(6, 6, 1)], Crops.center(4, 1), 1)
    assert center[0, 0, 0] == 7


def test_unpaired_domains_are_cropped_independently(tmp_path: Path) -> None:
    corpus = write_domains(tmp_path / "c", 4)
    (corpus / "trainA/0.png").write_bytes(io.encode(make_photo(0, 50, 31), "png"))
    config = small_config("cyclegan", corpus, crop=16, batch=4)
    step = RunData.open(config).plan.step(0)
    assert step.crops is not None
    assert not np.intersect1d(*step.crops.offsets).size
    (batch,) = seen("cyclegan", corpus, range(1), crop=16, batch=4)
    assert batch.input.shape == batch.target.shape == (4, 3, 16, 16)


@pytest.mark.parametrize("degrade", DEGRADED)
def test_all_readers_give_the_same_crops(degrade: str, mixed: Path) -> None:
    settings = {"degrade": DEGRADED[degrade], "crop": 18, "jitter": 1.3, "flip": True}
    plain = seen("l2", mixed, range(1, 6), **settings)
    for workers, cache in ((0, "ram"), (2, "off"), (1, "ram")):
        for one, two in zip(
            plain, seen("l2", mixed, range(1, 6), workers, cache, **settings), strict=True
        ):
            assert torch.equal(one.input, two.input)
            assert torch.equal(one.target, two.target)
            assert one.input.shape[2:] == (18, 18)


def test_a_crop_as_large_as_the_images_is_the_image(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4}, size=(24, 24))
    for one, two in zip(
        seen("l1", corpus, range(4)), seen("l1", corpus, range(4), crop=24), strict=True
    ):
        assert torch.equal(one.input, two.input)


# --------------------------------------------------------------------------------------------- runs
# Crops are drawn for pairs or for both domains: one objective of each is quick enough.
QUICK = {objective.paired: name for name, objective in OBJECTIVES.items()}.values()


@pytest.mark.parametrize(
    "loss",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES],
)
def test_runs_on_crops_resume_exactly(loss: str, mixed: Path, tmp_path: Path) -> None:
    def fit(out: str, display: Display) -> None:
        settings = {
            "crop": 18,
            "jitter": 1.2,
            "flip": True,
            "checkpoint_seconds": 0,
            "samples_every": 1,
        }
        loop.fit(small_config(loss, mixed, tmp_path / out, **settings), display)

    fit("uninterrupted", Display())
    with pytest.raises(StoppedBySignal, match="at step 4"):
        fit("interrupted", Killer("training", 4 * 2, signal.SIGTERM))
    fit("interrupted", Display())
    assert tree(tmp_path / "interrupted") == tree(tmp_path / "uninterrupted")


@pytest.mark.parametrize("degrade", [None, "gaussian"])
def test_whole_images_are_scored(degrade: str | None, mixed: Path, tmp_path: Path) -> None:
    config = small_config("l2", mixed, tmp_path, crop=20, jitter=1.25, degrade=degrade)
    assert any("cropped to 20x20, enlarged by 1.25" in line for line in loop.dry_run(config))
    loop.fit(config, Display())
    logged = [row for row in read_log(tmp_path) if row["kind"] == "validation"][-1]
    if degrade is None:
        evaluation = evaluate_matrix(
            [tmp_path], [mixed], EvaluateSettings(split="val", device="cpu")
        ).evaluations[0]
        assert logged["psnr"] == pytest.approx(evaluation.scores["psnr"], abs=1e-3)
        assert logged["psnr_input"] == pytest.approx(evaluation.input_scores["psnr"], abs=1e-3)
    assert io.read(sample_paths(tmp_path)[-1]).pixels.shape == (3 * 24, 3 * 24, 3)


def test_images_that_are_too_small_are_counted_at_the_start(mixed: Path, tmp_path: Path) -> None:
    config = small_config("l2", mixed, tmp_path, crop=32)
    message = (
        r"is (40x24|24x56|24x24).*--crop 32.*4 more are too small; use --crop 24 or less, or skip "
        r"them with 'img2img-data select --min-side 32', which leaves \d of \d"
    )
    with pytest.raises(UsageError, match=message):
        loop.dry_run(config)
    none = small_config("l2", mixed, tmp_path, crop=512)
    with pytest.raises(UsageError, match=r"are too small; use --crop 24 or less$"):
        loop.dry_run(none)
    small = small_config("l2", mixed, tmp_path, crop=24, validation_split="none")
    loop.dry_run(small)
    with pytest.raises(CorpusError, match=r"--size, or .*--crop"):
        loop.fit(small_config("l2", mixed, tmp_path), Display())


@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_memory_is_counted_before_an_image_is_read(layout: str, tmp_path: Path) -> None:
    config = small_config("l2", write_mixed(tmp_path / "c", layout), crop=20)
    images = dataset.open_images(config, "train")
    assert images is not None
    assert images.nbytes == 6 * sum(width * height for width, height in SIZES)


def test_a_header_states_the_size_that_is_decoded(real_data: Path) -> None:
    paths = [path for path in (real_data / "bad-inputs").rglob("*") if path.is_file()]
    agreed = 0
    for path in paths:
        try:
            pixels = io.read(path).pixels
        except Rejected:
            continue
        assert io.size_of(path) == pixels.shape[:2], path
        agreed += 1
    assert agreed > 100


def test_wrong_sizes_in_a_manifest_are_detected(tmp_path: Path) -> None:
    corpus = write_mixed(tmp_path / "c")
    manifest = corpus / "train/metadata.jsonl"
    manifest.write_text(manifest.read_text().replace('"kind"', '"width": 99, "height": 99, "kind"'))
    with pytest.raises(CorpusError, match=r"99x99, but the first one is 40x24"):
        loop.dry_run(small_config("l2", corpus, tmp_path / "run"))
    with pytest.raises(CorpusError, match=r"\d+\.png.*--crop 50"):
        loop.fit(small_config("l2", corpus, tmp_path / "run", crop=50), Display())


# ------------------------------------------------------------------------------------------ samples
def test_samples_are_chosen_by_key(mixed: Path, tmp_path: Path) -> None:
    plain = write_corpus(tmp_path / "c", {"train": 4, "val": 5}, size=(16, 16))
    config = small_config("l2", plain, tmp_path / "run", sample_keys="photo 7,photo 5")
    assert config.grid_keys == ("photo 7", "photo 5")
    images = dataset.open_images(config, "val")
    assert images is not None
    _, targets = sample_images(images, 8, config.grid_keys)
    for place, index in enumerate((3, 1)):
        assert np.array_equal(targets[place], images.read(index)[1])
    loop.fit(config, Display())
    assert io.read(sample_paths(tmp_path / "run")[-1]).pixels.shape == (2 * 16, 3 * 16, 3)
    for keys, message in (
        ("photo 66", r"'photo 66'; did you mean 'photo 6'"),
        ("xyz", "keys look like 'photo 4'"),
    ):
        with pytest.raises(UsageError, match=message):
            loop.dry_run(small_config("l2", plain, tmp_path / "other", sample_keys=keys))


def test_samples_of_unpaired_corpora_are_named_by_inputs(tmp_path: Path) -> None:
    corpus = write_domains(tmp_path / "c", 4)
    config: Any = small_config("cyclegan", corpus, tmp_path / "run", sample_keys="2")
    images = dataset.open_images(config, "train")
    assert images is not None
    inputs, _ = sample_images(images, 8, config.grid_keys)
    assert np.array_equal(inputs[0], io.read(corpus / "trainA/2.png").pixels)
    # Without keys the grid shows inputs in their order, the smaller domain again.
    (corpus / "trainA/3.png").unlink()
    images = dataset.open_images(config, "train")
    assert images is not None
    inputs, _ = sample_images(images, 4)
    for image, key in zip(inputs, sample_keys(images, 4), strict=True):
        assert np.array_equal(image, io.read(corpus / f"trainA/{key}.png").pixels)
