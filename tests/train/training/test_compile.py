"""Compiled networks take the steps of those that are not, and leave no trace in what a run writes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import tree
from small_corpus import write_corpus
from small_runs import small_config, small_training

from img2img_data.core.progress import Display
from img2img_train.config import RunConfig
from img2img_train.networks.layers import BatchNorm
from img2img_train.objectives.base import Batch
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.checkpoint import read_checkpoint
from img2img_train.runs.folder import RunFolder
from img2img_train.training import compile
from img2img_train.training import fit as loop
from img2img_train.training.setup import cudnn_settings, should_compile

pytestmark = pytest.mark.usefixtures("one_thread")

TRACED = "aot_eager"
"""Traces as the real compiler does, forward and back, and needs none: a second where that takes a minute."""
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compile, "BACKEND", TRACED)
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 6, "val": 2}, size=(16, 16)
    )


def a_batch(seed: int) -> Batch:
    images = torch.rand(2, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Batch(images[0], images[1])


def three_steps(training: loop.Trainer) -> list[dict[str, float]]:
    found = []
    for number in range(3):
        torch.manual_seed(number)
        losses = training.step(a_batch(number))
        found.append({name: float(value) for name, value in losses.items()})
        training.progress = training.progress.model_copy(update={"step": number + 1})
    return found


# -------------------------------------------------------------------------------------------- laws
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_compiled_steps_are_those_of_the_plain_networks(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    plain, compiled = (small_training(loss, corpus, tmp_path, net="autoencoder") for _ in range(2))
    loop._compile(compiled)
    left = compiled.objective.needs_double_backward()
    assert {
        n for n, net in compiled.train_step.nets.items() if net is compiled.state.nets[n]
    } == set(left)
    for mine, theirs in zip(three_steps(compiled), three_steps(plain), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-4)
    assert compiled.state.tensors().keys() == plain.state.tensors().keys()


@pytest.mark.parametrize("loss", [n for n, m in OBJECTIVES.items() if "gan_mode" in m.model_fields])
def test_critics_with_a_penalty_are_left_alone(loss: str) -> None:
    for mode in ("vanilla", "lsgan", "wgan", "wgan-gp"):
        objective = OBJECTIVES[loss](gan_mode=mode)
        judges = {name for name in objective.networks((3, 3)) if name not in objective.generators()}
        assert set(objective.needs_double_backward()) == (judges if mode == "wgan-gp" else set())


def test_a_trial_leaves_no_trace(corpus: Path, tmp_path: Path) -> None:
    training = small_training(
        "pix2pix", corpus, tmp_path, norm="batch", net="resnet-6", dropout=0.5
    )
    before = {name: tensor.clone() for name, tensor in training.state.tensors().items()}
    loop._compile(training)
    after = training.state.tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for net in training.state.nets.values() for p in net.parameters())


def test_no_variant_of_a_network_is_left_as_it_is(corpus: Path, tmp_path: Path) -> None:
    """Games one after the other, in parts: networks of a kind count together."""
    from torch._dynamo.utils import counters

    counters.clear()
    for width in range(2, 8):
        settings = {"net": "autoencoder", "norm": "none", "width": width, "accumulate": 2}
        training = small_training("cyclegan", corpus, tmp_path, **settings)
        loop._compile(training)
        three_steps(training)
    assert counters["frames"]["total"] == counters["frames"]["ok"] > 8


def test_a_later_variant_that_fails_is_run_as_it_is(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.backends.debugging import aot_eager

    def fails_for_one(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        if any(x.ndim == 4 and len(x) == 1 and x.shape[2] == 16 for x in inputs):
            raise RuntimeError("no code for one image")
        return aot_eager(graph, inputs)

    monkeypatch.setattr(compile, "BACKEND", fails_for_one)
    training = small_training("l2", corpus, tmp_path, net="autoencoder", norm="none")
    loop._compile(training)
    image, net = a_batch(0).input[:1], training.state.nets["generator"]
    made = training.train_step.nets["generator"](image)
    torch.testing.assert_close(made, net(image), atol=1e-5, rtol=1e-5)


def test_several_processes_share_statistics_outside_of_what_compiles(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from img2img_train.networks import layers

    asked: list[int] = []
    monkeypatch.setattr(layers.distributed, "all_reduce", lambda x: asked.append(x.numel()))
    training = small_training("l2", corpus, tmp_path, norm="batch")
    net = training.state.nets["generator"]
    layers.sync_batch_norm(net, 2)
    loop._compile(training)
    assert not asked, "a trial asks no other process"
    made = training.train_step.nets["generator"](a_batch(0).input)
    assert asked
    torch.testing.assert_close(made, net(a_batch(0).input), atol=1e-5, rtol=1e-5)
    assert all(m.world_size == 2 for m in net.modules() if isinstance(m, BatchNorm))


# -------------------------------------------------------------------------------------------- runs
def test_a_run_goes_on_compiled_or_not(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(out: str, compile: str, epochs: int = 4) -> None:
        config = small_config("pix2pix", corpus, tmp_path / out, epochs=4, compile=compile)
        loop.fit(config, Stopping(epochs) if epochs < 4 else Display())

    fit("whole", "off")
    for out, ways in {"one": ("off", "on"), "other": ("on", "off")}.items():
        with pytest.raises(loop.StoppedBySignal):
            fit(out, ways[0], epochs=2)
        fit(out, ways[1])
        assert capsys.readouterr().err.count("compiling generator") == 1
        first, second = (read_checkpoint(RunFolder(tmp_path / n).latest) for n in ("whole", out))
        assert first.tensors.keys() == second.tensors.keys()
        for name, tensor in first.tensors.items():
            torch.testing.assert_close(second.tensors[name], tensor, atol=1e-3, rtol=1e-3)


class Stopping(Display):
    """Asks the run to end after so many epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def line(self, text: str) -> None:
        import signal

        super().line(text)
        if text.startswith(f"epoch {self.epochs}/"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_without_a_compiler_training_goes_on_and_says_so_once(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nonexistent"))
    monkeypatch.setattr(compile, "BACKEND", "inductor")
    for out, way in {"plain": "off", "tried": "on"}.items():
        loop.fit(small_config("cyclegan", corpus, tmp_path / out, epochs=1, compile=way), Display())
    said = [x for x in capsys.readouterr().err.splitlines() if "not compiled" in x]
    assert len(said) == 1
    assert "training continues without" in said[0]
    assert "compiler" in said[0]
    plain, tried = (tree(tmp_path / n) for n in ("plain", "tried"))
    assert plain["log.jsonl"] == tried["log.jsonl"]
    assert plain.keys() == tried.keys()
    first, second = (
        read_checkpoint(RunFolder(tmp_path / n).latest).tensors for n in ("plain", "tried")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------------------------------- settings
def test_when_networks_are_compiled() -> None:
    def asked(device: str, **settings: Any) -> bool:
        return should_compile(RunConfig(corpora="c", **settings), torch.device(device))

    assert [asked("cpu"), asked("mps"), asked("cuda")] == [False, False, True]
    assert not asked("cuda", deterministic="on")
    assert asked("cuda", deterministic="on", compile="on")
    assert asked("cpu", compile="on")
    assert not asked("cuda", compile="off")
    assert RunConfig(corpora="c", compile=False).compile == "off"
    assert not RunConfig(corpora="c").changes(RunConfig(corpora="c", compile="on"))


def test_what_is_compiled_lies_in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compile.CACHE, raising=False)
    compile.use_private_cache()
    folder = Path(os.environ[compile.CACHE])
    assert folder.stat().st_mode & 0o077 == 0
    compile.use_private_cache()
    assert Path(os.environ[compile.CACHE]) == folder
    monkeypatch.setenv(compile.CACHE, "/somewhere")
    compile.use_private_cache()
    assert os.environ[compile.CACHE] == "/somewhere"


def test_how_cudnn_computes_is_set_for_the_run_alone() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    for fast in (True, False):
        with cudnn_settings(fast):
            assert (cudnn.benchmark, cudnn.allow_tf32) == (fast, fast)
            assert torch.get_float32_matmul_precision() == "highest"
        assert (cudnn.benchmark, cudnn.allow_tf32) == before


@pytest.mark.skipif(
    "IMG2IMG_COMPILE" not in os.environ, reason="IMG2IMG_COMPILE is not set: takes a minute"
)
@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler"
)
def test_really_compiled(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "BACKEND", "inductor")
    plain, compiled = (
        small_training("pix2pix", corpus, tmp_path, net="autoencoder") for _ in range(2)
    )
    loop._compile(compiled)
    assert all(
        net is not compiled.state.nets[name] for name, net in compiled.train_step.nets.items()
    )
    for mine, theirs in zip(three_steps(compiled), three_steps(plain), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-4)
