"""Backend settings, memory formats, precision; no step waits for the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpus import write_corpus
from small_runs import a_batch, small_config, small_training
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from img2img_data.core.command_line import Display
from img2img_train.config import RunConfig
from img2img_train.networks.specs import GanMode
from img2img_train.objectives import losses as adversarial
from img2img_train.objectives.base import Batch
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.folder import read_log
from img2img_train.training import fit as loop
from img2img_train.training.setup import torch_backend
from img2img_train.training.validation import batch_psnr

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", {"train": 4}, size=(32, 32))


@pytest.mark.parametrize(
    ("asked", "device", "found"),
    [("auto", "cpu", True), ("auto", "mps", False), ("on", "mps", True), ("off", "cpu", False)],
)
def test_deterministic_algorithms_are_set_for_the_run_only(
    asked: str, device: str, found: bool
) -> None:
    config = RunConfig(corpora="x", deterministic=asked, threads=1)
    before = torch.get_deterministic_debug_mode()
    for mode in (1, before):  # 1 warns
        torch.set_deterministic_debug_mode(mode)
        with torch_backend(config, torch.device(device)):
            assert torch.are_deterministic_algorithms_enabled() is found
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.get_deterministic_debug_mode() == mode


@pytest.mark.parametrize("loss", ["charbonnier", "pix2pix"])
def test_a_default_dtype_of_the_caller_changes_no_run(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    weights = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            result = loop.fit(small_config(loss, corpus, tmp_path / str(dtype)), Display())
            assert torch.get_default_dtype() == dtype
        finally:
            torch.set_default_dtype(torch.float32)
        weights.append(result.folder.latest.read_bytes())
    assert weights[0] == weights[1]


def test_yaml_reads_on_as_true() -> None:
    assert RunConfig(corpora="x", deterministic=True).deterministic == "on"
    assert RunConfig(corpora="x", deterministic=False).deterministic == "off"


def test_a_run_may_resume_without_determinism(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4}, size=(16, 16))
    for mode in ("on", "off"):
        result = loop.fit(
            small_config("l2", corpus, tmp_path / "run", deterministic=mode), Display()
        )
    assert result.already
    assert len(read_log(tmp_path / "run")) == 2


@pytest.mark.parametrize(("norm", "count"), [("batch", 2), ("instance", 2), ("instance", 1)])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_no_step_converts_the_memory_format(
    loss: str, norm: str, count: int, corpus: Path, tmp_path: Path
) -> None:
    """In training the inputs of networks have the memory format of their weights."""
    training = small_training(loss, corpus, tmp_path, norm=norm, batch=count)
    layout, seen = training.state.memory_format, list[bool]()
    for net in training.state.nets.values():
        assert all(p.is_contiguous(memory_format=layout) for p in net.parameters() if p.ndim == 4)
        net.register_forward_pre_hook(
            lambda _, x: seen.append(x[0].is_contiguous(memory_format=layout))
        )
    images = torch.rand(2, count, 32, 32, 3).permute(0, 1, 4, 2, 3)
    training.step(Batch(images[0], images[1]))
    assert seen
    assert all(seen)


# --------------------------------------------------------------------------- waiting for the device
WAITS = {
    "item",
    "tolist",
    "cpu",
    "numpy",
    "nonzero",
    "__bool__",
    "__float__",
    "__int__",
    "__index__",
}
# Methods of tensors that make Python wait until the device has computed them.


class NeverAsked(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert getattr(func, "__name__", "") not in WAITS, f"a step asks for {func.__name__}"
        return func(*args, **(kwargs or {}))


class NeverWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}
        assert func._schema.name not in asked, f"a step waits for {func._schema.name}"
        return func(*args, **(kwargs or {}))


def settings_of(loss: str) -> Iterator[dict[str, Any]]:
    modes = (
        ("vanilla", "lsgan", "wgan", "wgan-gp")
        if "gan_mode" in OBJECTIVES[loss].model_fields
        else ()
    )
    yield from ({"gan_mode": mode} for mode in modes) if modes else [{}]


@pytest.mark.parametrize("more", [{}, {"accumulate": 2, "ema": 0.9, "precision": "bf16"}])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_no_step_waits_for_the_device(
    loss: str, more: dict[str, Any], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam is fused here as on CUDA; RMSProp reads its step counter, which is on the host."""
    for settings in settings_of(loss):
        training = small_training(loss, corpus, tmp_path, width=2, net="unet", **settings, **more)
        training.progress = training.progress.model_copy(update={"step": training.config.batch - 1})
        for optimizer in training.state.optimizers.values():
            if isinstance(optimizer, torch.optim.RMSprop):
                monkeypatch.setattr(optimizer, "step", lambda: None)
            else:
                assert all(group["fused"] for group in optimizer.param_groups)
        with NeverAsked(), NeverWaits():
            full = training.loss_buffer.add(training.step(a_batch()))
        assert not full


def test_no_batch_of_a_validation_waits_for_the_device(corpus: Path, tmp_path: Path) -> None:
    training, images = small_training("l2", corpus, tmp_path), torch.zeros(2, 32, 32, 3).byte()
    with NeverAsked(), NeverWaits():
        outputs = training.validator.run(images, images)
        batch_psnr(outputs["output"], outputs["target"])


def test_the_guards_notice_waiting() -> None:
    value = torch.zeros(())
    for ask in (float, bool, lambda x: x.item(), lambda x: x.cpu(), lambda x: x.tolist()):
        with pytest.raises(AssertionError, match="a step"), NeverAsked():
            ask(value)
        if ask is not bool:
            continue
        with pytest.raises(AssertionError, match="a step waits"), NeverWaits():
            ask(value)


# -------------------------------------------------------------------------------------------- bf16
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_losses_in_bf16_runs_are_float32(
    loss: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks compute in bf16; losses, penalties and weights stay float32."""
    for settings in settings_of(loss):
        found = []
        for precision in ("fp32", "bf16"):
            training = small_training(
                loss, corpus, tmp_path, net="unet", precision=precision, **settings
            )
            torch.manual_seed(0)
            training.progress = training.progress.model_copy(update={"step": 1})
            found.append(training.step(a_batch()))
            assert all(
                p.dtype == torch.float32
                for net in training.state.nets.values()
                for p in net.parameters()
            )
        plain, half = found
        assert plain.keys() == half.keys()
        for name, value in half.items():
            assert value.dtype == torch.float32
            assert math.isfinite(value)
            assert float(value) == pytest.approx(float(plain[name]), rel=0.05, abs=0.02), (
                settings,
                name,
            )


@pytest.mark.parametrize("mode", ["vanilla", "lsgan", "wgan", "wgan-gp"])
def test_bf16_logits_become_float32_losses(mode: GanMode) -> None:
    discriminator, seen = torch.nn.Conv2d(3, 1, 3), list[torch.Tensor]()
    discriminator.register_forward_hook(lambda net, inputs, logits: seen.append(logits.detach()))
    real, fake = torch.rand(2, 2, 3, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        terms = adversarial.discriminator_loss(mode, discriminator, real, fake, 1.0)
        generator_term = adversarial.generator_loss(mode, seen[1])
    dtypes = [torch.bfloat16] * 2 + [torch.float32] * (mode == "wgan-gp")
    assert [logits.dtype for logits in seen] == dtypes, "the penalty's critic computes in float32"
    assert {term.dtype for term in (*terms.values(), generator_term)} == {torch.float32}
    assert torch.equal(generator_term, adversarial.generator_loss(mode, seen[1].float())), (
        "bit by bit that of float32"
    )
