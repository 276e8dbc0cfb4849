"""Every objective resumes exactly, and names the step at which it diverged; image pools."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Killer, tree
from small_corpus import write_corpus, write_domains
from small_runs import small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CheckpointError, DivergedError
from img2img_train.objectives.image_pool import ImagePool
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs.folder import RunFolder
from img2img_train.training import fit as loop
from img2img_train.training.signals import StoppedBySignal

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 6, "val": 2}, size=(18, 30)
    )


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domains(tmp_path_factory.mktemp("data") / "domains", 5)


@pytest.mark.parametrize(
    ("loss", "workers"), [*((loss, 0) for loss in OBJECTIVES), ("pix2pix", 2), ("cyclegan", 2)]
)
def test_every_objective_resumes_exactly(
    loss: str, workers: int, corpus: Path, tmp_path: Path
) -> None:
    def fit(out: str, display: Display, **more: Any) -> None:
        more |= {"flip": True, "jitter": 1.3, "checkpoint_seconds": 0}
        config = small_config(loss, corpus, tmp_path / out, **more)
        loop.fit(config, display)

    same = {"workers": workers, "cache": "off"} if workers else {}
    fit("whole", Display(), **same)
    with pytest.raises(StoppedBySignal, match="at step 4"):
        fit("cut", Killer("training", 4 * 2, signal.SIGTERM), **same)
    fit("cut", Display(), **same)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["wgan", "wgan-gp"])
def test_wasserstein_modes_resume_exactly(mode: str, domains: Path, tmp_path: Path) -> None:
    def fit(out: str, display: Display) -> None:
        more = {"gan_mode": mode, "n_critic": 3, "net": "resnet-6", "dropout": 0.3, "flip": True}
        config = small_config("dualgan", domains, tmp_path / out, checkpoint_seconds=0, **more)
        loop.fit(config, display)

    fit("whole", Display())
    with pytest.raises(StoppedBySignal):
        fit("cut", Killer("training", 2 * 2, signal.SIGTERM))
    fit("cut", Display())
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_divergence_names_the_step_the_losses_and_the_last_good_checkpoint(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    config = small_config(loss, corpus, tmp_path, checkpoint_seconds=0)
    with pytest.raises(StoppedBySignal):
        loop.fit(config, Killer("training", 4 * 2, signal.SIGTERM))
    folder = RunFolder(tmp_path)
    good = checkpoints.read_checkpoint(folder.latest)
    huge = {k: t * 1e30 if k.endswith("weight") else t for k, t in good.tensors.items()}
    checkpoints.write_checkpoint(folder.latest, huge, good.description)
    pattern = rf"diverged at step 5 \(.*(nan|inf).*\); lower --lr.* '{folder.latest}', step 4"
    with pytest.raises(DivergedError, match=pattern) as error:
        loop.fit(config.model_copy(update={"checkpoint_seconds": 60.0}), Display())
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_nonfinite_weights_are_not_written(corpus: Path, tmp_path: Path) -> None:
    state = small_training("pix2pix", corpus, tmp_path)
    state.folder.checkpoints.mkdir(parents=True)
    state.save()
    with torch.no_grad():
        next(state.state.nets["discriminator"].parameters()).fill_(torch.inf)
    pattern = (
        r"diverged at step 0 \(network/discriminator/.*not finite.*last good checkpoint.*step 0"
    )
    with pytest.raises(DivergedError, match=pattern):
        state.save()


# ------------------------------------------------------------------------------------------ pool
def test_a_pool_of_size_zero_returns_its_input() -> None:
    batch = torch.rand(3, 1, 2, 2)
    pool = ImagePool(0, seed=1)
    assert torch.equal(pool.query(batch, pool.rng(7)), batch)


def test_a_pool_mixes_new_and_old_images_and_resumes_exactly(tmp_path: Path) -> None:
    images = torch.arange(80.0).view(40, 2, 1, 1, 1)
    uninterrupted, cut = ImagePool(5, seed=3), ImagePool(5, seed=3)
    shown = [
        uninterrupted.query(batch, uninterrupted.rng(step)) for step, batch in enumerate(images)
    ]
    for step in range(20):
        cut.query(images[step], uninterrupted.rng(step))
    again = ImagePool(5, seed=3)
    assert cut.images is not None
    again.fill(cut.images.clone(), (1, 1), tmp_path)
    for step in range(20, 40):
        assert torch.equal(again.query(images[step], uninterrupted.rng(step)), shown[step])
    assert torch.equal(torch.cat(shown[:2]), images[:2].flatten(0, 1))
    late = torch.cat(shown[5:]).flatten()
    new = torch.isin(late, images[5:].flatten()) & (late == images[5:].flatten())
    assert 0.3 < float(new.float().mean()) < 0.7
    assert set(late.tolist()) <= set(range(80))
    for wrong in (torch.zeros(6, 1, 1, 1), torch.zeros(2, 1, 3, 1), torch.zeros(2)):
        with pytest.raises(CheckpointError, match="image pool of 5"):
            again.fill(wrong, (1, 1), tmp_path)
