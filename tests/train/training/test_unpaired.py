"""Runs without pairs, and the checkpoint that a run hands over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_corpus import write_corpus, write_domains
from small_runs import small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CheckpointError, UsageError
from img2img_data.images import io
from img2img_train.data import dataset
from img2img_train.data.loader import FLIP, SamplingPlan
from img2img_train.networks.specs import make_spec
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.report.page import write_run_report
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs import folder as run
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import load_generator
from img2img_train.training import fit as loop

pytestmark = pytest.mark.usefixtures("one_thread")

UNPAIRED = [loss for loss, model in OBJECTIVES.items() if not model.paired]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 6, "val": 2}, size=(16, 32)
    )


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domains(tmp_path_factory.mktemp("data") / "domains", 5)


# ------------------------------------------------------------------------------------- two sides
def test_sides_are_drawn_independently_and_completely() -> None:
    plan = SamplingPlan((10, 3), (1, 1), 4, 0, (4, 9))
    assert (plan.total, plan.steps_per_epoch, plan.drawn()) == (19, 4, (10, 9))
    order, others = plan.order(0), plan.order(0, side=1)
    assert sorted(set(order.tolist())) == list(range(13))
    assert sorted(set(others.tolist())) == list(range(13))
    assert sorted(np.bincount(others)[:4].tolist()) == [2, 2, 3, 3]
    flips = plan.draw(0, FLIP)
    assert flips.shape == (2, 19)
    assert not np.array_equal(*flips)
    assert np.array_equal(*SamplingPlan((10, 3), (1, 1), 4, 0).draw(0, FLIP))
    again = SamplingPlan((10, 3), (1, 1), 4, 0, (4, 9)).step(6)
    step = plan.step(6)
    assert np.array_equal(step.indices, again.indices)


def image(path: Path) -> np.ndarray:
    return io.read(path).pixels


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_sides_are_read_as_they_lie(domains: Path, corpus: Path, cache: str) -> None:
    for direction in ("AtoB", "BtoA"):
        sides = dataset.open_images(small_config("cyclegan", domains, direction=direction), "train")
        assert isinstance(sides, dataset.UnpairedImages)
        store = dataset.cache_images(sides, cache, 0)
        inputs, target = store.gather(np.array([[1, 4], [3, 0]]))
        first, second = "AB" if direction == "AtoB" else "BA"
        assert np.array_equal(inputs[1], image(domains / f"train{first}/4.png"))
        assert np.array_equal(target[0], image(domains / f"train{second}/3.png"))
    paired = dataset.open_images(small_config("cyclegan", corpus), "train")
    pairs = dataset.open_pairs(small_config("l2", corpus), "train")
    assert paired is not None
    assert pairs is not None
    assert all(np.array_equal(a, b) for a, b in zip(paired.read(2), pairs.read(2), strict=True))


def test_halves_of_combined_files_are_sides_too(tmp_path: Path) -> None:
    combined = write_corpus(tmp_path / "c", {"train": 3}, layout="combined", size=(16, 32))
    sides = dataset.open_images(small_config("dualgan", combined), "train")
    pairs = dataset.open_pairs(small_config("l2", combined), "train")
    assert sides is not None
    assert pairs is not None
    assert all(np.array_equal(a, b) for a, b in zip(sides.read(1), pairs.read(1), strict=True))


@pytest.mark.parametrize("loss", UNPAIRED)
def test_a_run_without_pairs_from_start_to_end(loss: str, tmp_path: Path) -> None:
    root = write_domains(tmp_path / "data", 3)
    for side in "AB":
        (root / f"val{side}").mkdir()
        (root / f"val{side}" / "0.png").write_bytes((root / f"train{side}" / "2.png").read_bytes())
    out = tmp_path / "run"
    loop.fit(small_config(loss, root, out, net="resnet-6", batch=1), Display())
    rows = [row for row in run.read_log(out) if row["kind"] == "validation"]
    assert len(rows) == 2
    assert all(row["cycle_mae"] > 0 and not row["best"] and "psnr" not in row for row in rows)
    forward, reverse = (load_generator(out, "cpu", direction) for direction in (None, "BtoA"))
    assert forward.path == RunFolder(out).latest
    image = np.zeros((1, 20, 24, 3), np.uint8)
    assert not np.array_equal(forward.restore(image), reverse.restore(image))
    assert reverse.config.direction == "BtoA"
    assert "reconstructed A" in write_run_report(out).read_text()


def test_a_gan_hands_over_the_newest_checkpoint_and_others_the_best(
    corpus: Path, tmp_path: Path
) -> None:
    for loss in ("l1", "pix2pix"):
        loop.fit(small_config(loss, corpus, tmp_path / loss), Display())
        rows = [row for row in run.read_log(tmp_path / loss) if row["kind"] == "validation"]
        assert all(row["psnr"] > 0 for row in rows)
        assert (
            any(row["best"] for row in rows)
            == RunFolder(tmp_path / loss).best.exists()
            == (loss == "l1")
        )


def test_a_checkpoint_that_asks_for_an_absurd_network_is_named(
    corpus: Path, tmp_path: Path
) -> None:
    loop.fit(small_config("l1", corpus, tmp_path / "run", epochs=1), Display())
    checkpoint = checkpoints.read_checkpoint(RunFolder(tmp_path / "run").best)
    spec = checkpoint.description.networks["generator"].model_copy(
        update={"name": "unet-256", "width": 1024}
    )
    path = tmp_path / "hostile.safetensors"
    about = checkpoint.description.model_copy(update={"networks": {"generator": spec}})
    checkpoints.write_checkpoint(path, checkpoint.tensors, about)
    with pytest.raises(
        CheckpointError, match=f"'{path}': describes .*unet-256.*more than 1,073,741,824"
    ):
        load_generator(path, "cpu")


def test_a_model_without_a_reverse_generator_says_so(corpus: Path, tmp_path: Path) -> None:
    loop.fit(small_config("l2", corpus, tmp_path / "run", epochs=1), Display())
    with pytest.raises(UsageError, match="was trained for AtoB and has no generator for BtoA"):
        load_generator(tmp_path / "run", "cpu", "BtoA")


def test_a_paired_loss_rejects_unpaired_corpora(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"unpaired, but this loss needs pairs; .*--loss cyclegan or dualgan"
    ):
        loop.fit(small_config("pix2pix", domains, tmp_path), Display())


def test_discriminators_too_large_for_the_images_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'patch-286': needs sides of at least 96 pixels"):
        loop.fit(small_config("pix2pix", corpus, tmp_path, discriminator="patch-286"), Display())
    assert make_spec("patch-70", (3, 1), 4).norm == "batch"
