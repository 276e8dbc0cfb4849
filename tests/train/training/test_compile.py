"""Compiled networks: equal steps, the same files, and a fallback without a compiler."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import tree
from small_corpus import write_corpus
from small_runs import a_batch, small_config, small_training
from torch._dynamo.backends.common import aot_autograd

from img2img_data.core.command_line import Display
from img2img_train.config import RunConfig
from img2img_train.networks.layers import BatchNorm
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.checkpoint import read_checkpoint
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import cudnn_settings
from img2img_train.training import compile
from img2img_train.training import fit as loop
from img2img_train.training.setup import should_compile
from img2img_train.training.signals import StoppedBySignal

pytestmark = pytest.mark.usefixtures("one_thread")

# Traces forward and backward as inductor does, but generates no code: a second instead of a minute.
TRACED = "aot_eager"
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


def three_steps(training: loop.Trainer) -> list[dict[str, float]]:
    found = []
    for number in range(3):
        torch.manual_seed(number)
        losses = training.step(a_batch(number))
        found.append({name: float(value) for name, value in losses.items()})
        training.progress = training.progress.model_copy(update={"step": number + 1})
    return found


class Graphs:
    """A backend that overwrites at the next step what networks and gradients returned, as replayed
    CUDA graphs do; ``modes`` are those that torch.compile was asked for.
    """

    def __init__(self) -> None:
        self.modes = set[str | None]()
        self.returned: list[torch.Tensor] = []

    def __call__(self, graph: Any, inputs: Any, mode: str | None = None) -> Any:
        self.modes.add(mode)
        return aot_autograd(fw_compiler=self.remember, bw_compiler=self.remember)(graph, inputs)

    def remember(self, graph: Any, _: Any) -> Any:
        def run(inputs: list[Any]) -> Any:
            given = {x.untyped_storage().data_ptr() for x in inputs if isinstance(x, torch.Tensor)}
            outputs = graph(*inputs)
            found = (x for x in outputs if isinstance(x, torch.Tensor))
            self.returned += [x for x in found if x.untyped_storage().data_ptr() not in given]
            return outputs

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    def begin_step(self) -> None:
        for x in self.returned:
            x.detach().fill_(torch.nan if x.is_floating_point() else 0)
        self.returned = []


# -------------------------------------------------------------------------------------------- laws
# Without a discriminator, with one, and with two generators; the others run the same networks.
@pytest.mark.parametrize("loss", ["l2", "pix2pix", "cyclegan", "dualgan"])
def test_compiled_steps_equal_eager_steps(
    loss: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as CUDA graphs: no step needs what networks returned in the one before."""
    graphs = Graphs()
    monkeypatch.setattr(compile, "BACKEND", graphs)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", graphs.begin_step)
    plain, compiled = (
        small_training(loss, corpus, tmp_path, net="autoencoder", compile=mode)
        for mode in ("off", "graphs")
    )
    loop._compile(compiled)
    left = compiled.config.objective.needs_double_backward()
    assert {
        n for n, net in compiled.train_step.nets.items() if net is compiled.state.nets[n]
    } == set(left)
    for actual, expected in zip(three_steps(compiled), three_steps(plain), strict=True):
        # Compiled code rounds otherwise, in torch 2.11 more than in 2.13.
        tolerance = 1e-3 if torch.__version__ < "2.13" else 1e-4
        assert actual == pytest.approx(expected, abs=tolerance, rel=tolerance)
    assert graphs.modes == {None, "reduce-overhead"}  # None: whether there is a compiler
    assert graphs.returned
    assert compiled.state.tensors().keys() == plain.state.tensors().keys()


@pytest.mark.parametrize("loss", [n for n, m in OBJECTIVES.items() if "gan_mode" in m.model_fields])
def test_critics_with_a_gradient_penalty_are_not_compiled(loss: str) -> None:
    for mode in ("vanilla", "lsgan", "wgan", "wgan-gp"):
        objective = OBJECTIVES[loss](gan_mode=mode)
        discriminators = {
            name for name in objective.networks((3, 3)) if name not in objective.generators()
        }
        assert set(objective.needs_double_backward()) == (
            discriminators if mode == "wgan-gp" else set()
        )


def test_compiling_changes_no_state(corpus: Path, tmp_path: Path) -> None:
    training = small_training(
        "pix2pix", corpus, tmp_path, norm="batch", net="resnet-6", dropout=0.5
    )
    before = {name: tensor.clone() for name, tensor in training.state.tensors().items()}
    loop._compile(training)
    after = training.state.tensors()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for net in training.state.nets.values() for p in net.parameters())


@pytest.mark.slow
def test_every_variant_of_a_network_is_compiled(corpus: Path, tmp_path: Path) -> None:
    """Two runs in one process share the limit of recompilations, each with micro-batches."""
    from torch._dynamo.utils import counters

    counters.clear()
    for width in range(2, 5):
        settings = {"net": "autoencoder", "norm": "none", "width": width, "accumulate": 2}
        training = small_training("cyclegan", corpus, tmp_path, **settings)
        loop._compile(training)
        three_steps(training)
    assert counters["frames"]["total"] == counters["frames"]["ok"] > 8


def test_a_variant_that_cannot_be_compiled_runs_eagerly(
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
    output = training.train_step.nets["generator"](image)
    torch.testing.assert_close(output, net(image), atol=1e-5, rtol=1e-5)


def test_synchronized_batch_norm_is_excluded_from_compilation(
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
    output = training.train_step.nets["generator"](a_batch(0).input)
    assert asked
    torch.testing.assert_close(output, net(a_batch(0).input), atol=1e-5, rtol=1e-5)
    assert all(m.world_size == 2 for m in net.modules() if isinstance(m, BatchNorm))


# -------------------------------------------------------------------------------------------- runs
def test_a_run_resumes_compiled_or_not(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(out: str, compile: str, epochs: int = 2) -> None:
        config = small_config("pix2pix", corpus, tmp_path / out, epochs=2, compile=compile)
        loop.fit(config, Stopping(epochs) if epochs < 2 else Display())

    fit("whole", "off")
    for out, ways in {"one": ("off", "graphs"), "other": ("on", "off")}.items():
        with pytest.raises(StoppedBySignal):
            fit(out, ways[0], epochs=1)
        fit(out, ways[1])
        assert capsys.readouterr().err.count("compiling generator") == 1
        first, second = (read_checkpoint(RunFolder(tmp_path / n).latest) for n in ("whole", out))
        assert first.tensors.keys() == second.tensors.keys()
        for name, tensor in first.tensors.items():
            torch.testing.assert_close(second.tensors[name], tensor, atol=1e-3, rtol=1e-3)


class Stopping(Display):
    """A display that sends SIGTERM after some epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def routine_line(self, text: str) -> None:
        import signal

        super().routine_line(text)
        if text.startswith(f"epoch {self.epochs}/"):
            os.kill(os.getpid(), signal.SIGTERM)


# Before the test without a compiler: inductor remembers that there was none.
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
    for actual, expected in zip(three_steps(compiled), three_steps(plain), strict=True):
        assert actual == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_without_a_compiler_training_continues_with_one_line(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "/nonexistent"))
    monkeypatch.setattr(compile, "BACKEND", "inductor")
    for out, mode in {"plain": "off", "tried": "on"}.items():
        loop.fit(small_config("pix2pix", corpus, tmp_path / out, epochs=1, compile=mode), Display())
    lines = [x for x in capsys.readouterr().err.splitlines() if "not compiled" in x]
    assert len(lines) == 1
    assert "training continues" in lines[0]
    assert "compiler" in lines[0]
    plain, tried = (tree(tmp_path / n) for n in ("plain", "tried"))
    assert plain["log.jsonl"] == tried["log.jsonl"]
    assert plain.keys() == tried.keys()
    first, second = (
        read_checkpoint(RunFolder(tmp_path / n).latest).tensors for n in ("plain", "tried")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------------------------------- settings
def test_when_auto_compiles() -> None:
    def asked(device: str, **settings: Any) -> bool:
        return should_compile(RunConfig(corpora="c", **settings), torch.device(device))

    assert [asked("cpu"), asked("mps"), asked("cuda")] == [False, False, True]
    assert not asked("cuda", deterministic="on")
    assert asked("cuda", deterministic="on", compile="on")
    assert asked("cpu", compile="on")
    assert asked("cuda", deterministic="on", compile="graphs")
    assert not asked("cuda", compile="off")
    assert RunConfig(corpora="c", compile=False).compile == "off"
    assert not RunConfig(corpora="c").changes(RunConfig(corpora="c", compile="on"))


def test_compiled_code_is_in_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    monkeypatch.delenv(compile.CACHE, raising=False)
    compile.use_private_cache()
    folder = Path(os.environ[compile.CACHE])
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o077 == 0
    monkeypatch.delenv(compile.CACHE)
    compile.use_private_cache()
    assert Path(os.environ[compile.CACHE]) == folder
    # A folder that others can write to is not trusted.
    folder.chmod(0o777)
    monkeypatch.delenv(compile.CACHE)
    compile.use_private_cache()
    elsewhere = Path(os.environ[compile.CACHE])
    assert elsewhere != folder
    assert elsewhere.stat().st_mode & 0o077 == 0
    monkeypatch.setenv(compile.CACHE, "/somewhere")
    compile.use_private_cache()
    assert os.environ[compile.CACHE] == "/somewhere"


def test_cudnn_settings_are_restored() -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    for fast, tf32 in itertools.product((True, False), repeat=2):
        with cudnn_settings(fast, tf32):
            found = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
            assert found == (fast, not fast, fast and tf32)
            assert torch.get_float32_matmul_precision() == "highest"
        assert (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before
