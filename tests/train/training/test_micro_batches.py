"""Gradient accumulation: the step of the whole batch in less memory, resumed exactly."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Killer, tree
from small_corpus import write_corpus
from small_runs import a_batch, small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.training import fit as loop
from img2img_train.training.signals import StoppedBySignal
from img2img_train.training.step import MicroBatches

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT: dict[str, Any] = {
    "batch": 6,
    "net": "autoencoder",
    "norm": "none",
    "d_norm": "none",
    "n_critic": 1,
}
# No layer that sees other images of its batch or draws random numbers.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 9, "val": 2}, size=(16, 16)
    )


def known(loss: str, settings: dict[str, Any]) -> dict[str, Any]:
    from img2img_train.config import RunConfig

    names = {*OBJECTIVES[loss].model_fields, *RunConfig.model_fields}
    return {name: value for name, value in settings.items() if name in names}


def after_steps(loss: str, corpus: Path, out: Path, count: int, **more: Any) -> loop.Trainer:
    settings = {**EXACT, "accumulate": count, **more}
    training = small_training(loss, corpus, out, **known(loss, settings))
    for number in range(3):
        training.step(a_batch(number, 6))
        training.progress = training.progress.model_copy(update={"step": number + 1})
    return training


@pytest.mark.parametrize("count", [4, 9])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_micro_batches_take_the_step_of_the_whole_batch(
    loss: str, count: int, corpus: Path, tmp_path: Path
) -> None:
    mode = {"gan_mode": "lsgan"}  # the gradient penalty draws; where, depends on the parts
    reference, split = (after_steps(loss, corpus, tmp_path, n, **mode) for n in (1, count))
    for name, net in reference.state.nets.items():
        for a, b in zip(net.parameters(), split.state.nets[name].parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    for name, pool in reference.state.pools.items():
        assert pool.images is not None
        torch.testing.assert_close(pool.images, split.state.pools[name].images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_losses_of_micro_batches_add_up_to_those_of_the_batch(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    settings = {**EXACT, "gan_mode": "vanilla"}
    first, second = (
        small_training(loss, corpus, tmp_path, **known(loss, {**settings, "accumulate": n})).step(
            a_batch(0, 6)
        )
        for n in (1, 4)
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert float(second[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


def test_micro_batches_are_as_equal_as_possible() -> None:
    batch = a_batch(0, 7)
    parts = MicroBatches.split(batch, 3)
    assert [len(part.target) for part in parts.parts] == [3, 2, 2]
    assert sum(parts.fractions) == pytest.approx(1)
    assert torch.equal(torch.cat([part.input for part in parts.parts]), batch.input)
    assert len(MicroBatches.split(batch, 99).parts) == 7
    assert len(MicroBatches.split(batch, 1).parts) == 1


@pytest.mark.parametrize("loss", ["l2", "pix2pix", "cyclegan", "dualgan"])
def test_micro_batches_need_less_memory(loss: str, corpus: Path, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        """The most bytes, weights left out, that wait for a gradient at one time."""
        training = small_training(
            loss, corpus, tmp_path, **known(loss, {**EXACT, "accumulate": count})
        )
        weights = {p.data_ptr() for net in training.state.nets.values() for p in net.parameters()}
        held, most = 0, 0

        def pack(tensor: torch.Tensor) -> Any:
            nonlocal held, most
            held += (
                size := tensor.numel() * tensor.element_size() * (tensor.data_ptr() not in weights)
            )
            most = max(most, held)
            return Kept(tensor, size)

        class Kept:
            def __init__(self, tensor: torch.Tensor, size: int) -> None:
                self.tensor, self.size = tensor, size

            def __del__(self) -> None:
                nonlocal held
                held -= self.size

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
            training.step(a_batch(0, 6))
        return most

    assert peak(6) < 0.35 * peak(1)


@pytest.mark.parametrize("loss", ["l1", "pix2pix", "cyclegan"])
def test_a_run_with_micro_batches_resumes_exactly(loss: str, corpus: Path, tmp_path: Path) -> None:
    def fit(out: str, display: Display) -> None:
        more = {"batch": 4, "accumulate": 2, "epochs": 2, "checkpoint_seconds": 0}
        loop.fit(small_config(loss, corpus, tmp_path / out, **more), display)

    fit("whole", Display())
    with pytest.raises(StoppedBySignal, match="at step 3"):
        fit("cut", Killer("training", 3 * 4, signal.SIGTERM))
    fit("cut", Display())
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_micro_batches_too_small_for_their_norm_are_rejected(corpus: Path, tmp_path: Path) -> None:
    small_training("l1", corpus, tmp_path, batch=4, accumulate=2)
    with pytest.raises(UsageError, match="batch norm, 1 images at a time"):
        small_training("l1", corpus, tmp_path, batch=4, accumulate=4)
