"""Gradient accumulation: the step of the whole batch in less memory, resumed exactly."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Killer, tree
from small_corpus import write_corpus
from small_runs import a_batch, small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_train.config import RunConfig
from img2img_train.networks.generators import PaddedGenerator
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


# ----------------------------------------------------------------------------- shortage of memory
@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of images for which training has memory, and that of the forwards before that."""
    left = [1, 0]

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        left[1] -= isinstance(module, PaddedGenerator)
        if module.training and len(inputs[0]) > left[0] and left[1] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with torch.nn.modules.module.register_module_forward_pre_hook(check):
        yield left


def short_config(loss: str, corpus: Path, out: Path, **more: Any) -> RunConfig:
    settings = {"net": "resnet-6", "dropout": 0.5, "norm": "instance", "d_norm": "instance"}
    settings |= {"batch": 4, "epochs": 2, "checkpoint_seconds": 0, "validate_every": 1}
    return small_config(loss, corpus, out, **known(loss, {**settings, **more}))


@pytest.mark.parametrize("loss", ["charbonnier", "cyclegan"])
def test_a_run_that_runs_out_of_memory_takes_more_micro_batches(
    loss: str, corpus: Path, tmp_path: Path, room: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """It equals the run with that many, also if it is stopped and resumed by the same command."""
    loop.fit(short_config(loss, corpus, tmp_path / "asked", accumulate=4), Display())
    capsys.readouterr()
    config = short_config(loss, corpus, tmp_path / "found")
    with pytest.raises(StoppedBySignal, match="at step 3"):
        loop.fit(config, Killer("training", 3 * 4, signal.SIGTERM))
    said = capsys.readouterr().err
    assert said.count("out of memory on cpu") == said.count(" micro-batches per step") == 2
    assert said.count(" held out") == 1
    assert "an epoch draws" not in said, "of one corpus an epoch draws all images"
    page = json.loads((tmp_path / "found" / "config.json").read_text())
    assert page["config"]["accumulate"] == 4
    assert [change["accumulate"] for change in page["changes"]] == [[1, 2], [2, 4]]
    loop.fit(config, Display())
    assert "out of memory" not in capsys.readouterr().err
    assert tree(tmp_path / "found") == tree(tmp_path / "asked")


def test_steps_before_the_shortage_are_kept(corpus: Path, tmp_path: Path, room: list[int]) -> None:
    """As if the run had been stopped there and resumed with more micro-batches."""
    room[:] = 2, 5  # three steps, and the validation after the second
    loop.fit(short_config("charbonnier", corpus, tmp_path / "found"), Display())
    room[:] = 4, 0
    config = short_config("charbonnier", corpus, tmp_path / "asked")
    with pytest.raises(StoppedBySignal, match="at step 3"):
        loop.fit(config, Killer("training", 3 * 4, signal.SIGTERM))
    config = config.model_copy(update={"accumulate": 2})
    loop.fit(config, Display(), changed=True)
    pages = [json.loads((tmp_path / n / "config.json").read_text()) for n in ("found", "asked")]
    assert pages[0]["changes"] == pages[1]["changes"] == [{"step": 3, "accumulate": [1, 2]}]
    assert tree(tmp_path / "found") == tree(tmp_path / "asked")


@pytest.mark.parametrize(
    ("room_for", "settings"), [(1, {"norm": "batch"}), (0, {})], ids=["batch norm", "one image"]
)
def test_a_shortage_that_micro_batches_do_not_mend_is_an_error(
    room_for: int, settings: dict[str, Any], corpus: Path, tmp_path: Path, room: list[int]
) -> None:
    room[0] = room_for
    with pytest.raises(Img2ImgError, match="out of memory on cpu; use a smaller --batch or") as e:
        loop.fit(short_config("l1", corpus, tmp_path / "run", **settings), Display())
    assert ("--accumulate" in str(e.value)) == bool(room_for)


def test_a_validation_takes_as_many_images_as_a_micro_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a shortage there is mended by smaller ones, as in a step."""
    corpus = write_corpus(tmp_path / "c", {"train": 4, "val": 4})

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not module.training and len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    settings = {"net": "edsr", "batch": 4, "epochs": 1, "samples": 1}
    config = small_config("charbonnier", corpus, tmp_path / "run", **settings)
    with torch.nn.modules.module.register_module_forward_pre_hook(check):
        loop.fit(config, Display())
    assert "training continues with 2 micro-batches" in capsys.readouterr().err


def test_a_shortage_in_validation_changes_no_setting(tmp_path: Path) -> None:
    """Crops fit, and the whole held-out images do not: smaller steps would change nothing."""
    corpus = write_corpus(tmp_path / "c", {"train": 4, "val": 2}, size=(48, 48))

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if not module.training and inputs[0].shape[-1] >= 48:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    config = small_config("charbonnier", corpus, tmp_path / "run", crop=16, batch=4)
    with (
        torch.nn.modules.module.register_module_forward_pre_hook(check),
        pytest.raises(Img2ImgError, match=r"in validation, which uses whole images; .*--tile"),
    ):
        loop.fit(config, Display())
    assert "changes" not in json.loads((tmp_path / "run" / "config.json").read_text())
