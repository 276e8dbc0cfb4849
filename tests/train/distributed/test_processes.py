"""Two processes that train together equal one with the same batches, and end together."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from interrupted import tree
from small_corpus import write_corpus
from small_runs import small_config
from two_processes import fit

from img2img_data.core.command_line import Display
from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_train.data.loader import SamplingPlan
from img2img_train.distributed.processes import Processes, local_device
from img2img_train.distributed.torchrun import TorchrunEnv, torchrun_env
from img2img_train.networks import layers
from img2img_train.objectives.base import Batch
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.training import fit as loop
from img2img_train.training.step import MicroBatches

ROOT = Path(__file__).parents[3]
SETTINGS: dict[str, Any] = {"batch": 4, "flip": True}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals as on POSIX")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 9, "val": 2}, size=(16, 16)
    )


def options(loss: str, corpus: Path, out: Path, **settings: Any) -> list[str]:
    config = small_config(loss, corpus, out, **{**SETTINGS, **settings})
    own = {
        n: v
        for n, v in config.model_dump().items()
        if n not in {"corpora", "device"} and v not in (None, ())
    }
    words = [str(corpus), "--out", str(out), "--device", "cpu", "--no-report"]
    for name, value in own.items():
        option = f"--{name.replace('_', '-')}"
        words += (
            [option if value else f"--no-{option[2:]}"]
            if isinstance(value, bool)
            else [option, str(value)]
        )
    return words


def start(words: list[str], folder: Path, count: int = 2) -> list[ForkServerProcess]:
    """Start the processes as torchrun does, but from a server that has loaded torch already."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
    }  # fmt: skip
    server = multiprocessing.get_context("forkserver")
    # The first step of any optimizer imports torch._dynamo, which takes a second.
    server.set_forkserver_preload(["two_processes", "img2img_train.training.fit", "torch._dynamo"])
    started = []
    for rank in range(count):
        place = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(server.Process(target=fit, args=(words, folder / f"said{rank}", place)))
        started[-1].start()
    return started


def ends(processes: list[ForkServerProcess], folder: Path) -> tuple[list[int | None], list[str]]:
    """Wait for the processes; return their exit codes and outputs."""
    for process in processes:
        process.join(60)
    return [p.exitcode for p in processes], [
        (folder / f"said{rank}").read_text() for rank in range(len(processes))
    ]


def under_torchrun(words: list[str]) -> str:
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "img2img_train", "fit", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=True,
        timeout=60,
    )  # fmt: skip
    return done.stdout


def weights(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(RunFolder(out).latest)


def check_equal(one: Path, two: Path, tolerance: float, skip: str = "-") -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name in (n for n in first if n.startswith(("network/", "ema/", "pool/")) and skip not in n):
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=tolerance)
    for a, b in zip(read_log(one), read_log(two), strict=True):
        assert a.keys() == b.keys()
        assert b.get("losses") == pytest.approx(a.get("losses"), abs=1e-4)


@pytest.mark.slow
def test_two_processes_under_torchrun_equal_one(corpus: Path, tmp_path: Path) -> None:
    board = importlib.util.find_spec("tensorboard") is not None
    settings = {"net": "unet", "norm": "none", "tensorboard": board}
    output = under_torchrun(options("l2", corpus, tmp_path / "two", **settings))
    assert output.count("epoch 2/2") == output.count("is finished: 4 steps") == 1
    assert len(list((tmp_path / "two").glob("tensorboard/*"))) == board
    loop.fit(small_config("l2", corpus, tmp_path / "one", **SETTINGS, **settings), Display())
    check_equal(tmp_path / "one", tmp_path / "two", 1e-5)


def test_image_pools_of_two_processes_equal_those_of_one(corpus: Path, tmp_path: Path) -> None:
    """With micro-batches and averages; without norm, before which biases have noisy steps."""
    settings = {"net": "resnet-6", "norm": "none", "accumulate": 2, "ema": 0.9}
    codes, output = ends(
        start(options("cyclegan", corpus, tmp_path / "two", **settings), tmp_path), tmp_path
    )
    assert codes == [0, 0], output
    assert output[1] == ""
    loop.fit(small_config("cyclegan", corpus, tmp_path / "one", **SETTINGS, **settings), Display())
    check_equal(tmp_path / "one", tmp_path / "two", 1e-5)
    assert {"ema", "pool"} <= {name.partition("/")[0] for name in weights(tmp_path / "one")}


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_exactly(corpus: Path, tmp_path: Path) -> None:
    """Batch norm, dropout, two phases; the signal reaches the second process alone."""
    settings = {"net": "resnet-6", "norm": "batch", "dropout": 0.5, "checkpoint_seconds": 0}
    words, uninterrupted = (
        options("pix2pix", corpus, tmp_path / n, epochs=4, **settings) for n in ("cut", "whole")
    )
    assert ends(start(uninterrupted, tmp_path), tmp_path)[0] == [0, 0]
    processes = start(words, tmp_path)
    until = time.monotonic() + 120
    while not (tmp_path / "cut/log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGTERM)
    codes, output = ends(processes, tmp_path)
    assert codes == [143, 143], output
    assert "stopped by SIGTERM at step" in output[0]
    assert output[1] == ""
    assert ends(start(words, tmp_path), tmp_path)[0] == [0, 0]
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_folder_in_use_ends_both_with_one_message(corpus: Path, tmp_path: Path) -> None:
    """Once it is free the run stops early, on both: no weight changes."""
    words = options("l2", corpus, tmp_path / "run", lr=1e-30, epochs=30, patience=2)
    with RunFolder(tmp_path / "run").lock():
        codes, output = ends(start(words, tmp_path), tmp_path)
    assert codes == [2, 2]
    assert "in use by another process" in output[0]
    assert output[1] == ""
    codes, output = ends(start(words, tmp_path), tmp_path)
    assert codes == [0, 0], output
    assert "stopped early" in output[0]
    assert output[1] == ""
    assert [row["epoch"] for row in read_log(tmp_path / "run") if row["kind"] == "stopped"] == [3]


def test_a_process_that_dies_ends_the_other_with_one_line(corpus: Path, tmp_path: Path) -> None:
    """During batch norms, which communicate in forward and backward."""
    settings = {"net": "resnet-6", "norm": "batch", "epochs": 9999, "validate_every": 0}
    processes = start(options("l2", corpus, tmp_path / "run", **settings), tmp_path)
    until = time.monotonic() + 120
    while not (tmp_path / "run/log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.31)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGKILL)
    codes, output = ends(processes, tmp_path)
    assert codes == [1, -signal.SIGKILL], output
    assert "error: run: another process ended" in output[0]
    assert "Traceback" not in output[0]


# ------------------------------------------------------------------------------- within one process
def test_ranks_come_from_torchrun_only() -> None:
    variables = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
    }
    assert torchrun_env(variables) == TorchrunEnv(3, 4, 1, 2)
    for wrong in (
        {},
        {**variables, "RANK": "x"},
        {n: v for n, v in variables.items() if n != "MASTER_ADDR"},
    ):
        assert torchrun_env(wrong) == TorchrunEnv()


def test_shards_make_up_the_step() -> None:
    plan = SamplingPlan((10, 7), (1, 2), 4, 5, flip=True)
    for number in range(6):
        step = plan.step(number)
        parts = [
            step.select(Processes(rank, 2).shard_indices(plan.step_images, 1)) for rank in range(2)
        ]
        assert np.array_equal(
            np.concatenate([part.indices for part in parts], axis=1), step.indices
        )
        assert step.orientations is not None
        flips = [part.orientations for part in parts if part.orientations is not None]
        assert np.array_equal(np.concatenate(flips, axis=1), step.orientations)


@pytest.mark.parametrize(
    ("count", "processes", "parts"), [(12, 2, 2), (12, 3, 3), (6, 2, 2), (6, 2, 9)]
)
def test_micro_batches_of_all_processes_have_the_order_of_the_step(
    count: int, processes: int, parts: int
) -> None:
    """The order in which they enter a pool: of each micro-batch one process after the other."""
    each = [Processes(rank, processes).shard_indices(count, parts) for rank in range(processes)]
    assert sorted(np.concatenate(each)) == list(range(count))
    images = [torch.from_numpy(places).float().view(-1, 1, 1, 1) for places in each]
    cut = [MicroBatches.split(Batch(own, own), parts).parts for own in images]
    entering = [part.input.flatten() for place in zip(*cut, strict=True) for part in place]
    assert torch.cat(entering).tolist() == list(range(count))


def test_devices_that_cannot_be_shared_are_rejected() -> None:
    assert local_device("cpu", TorchrunEnv(1, 2, 1, 2)) == torch.device("cpu")
    with pytest.raises(UsageError, match="3 images per step cannot be divided among 2 processes"):
        Processes(0, 2).check_batch(3)
    with pytest.raises(UsageError, match="mps supports a single process"):
        local_device("mps", TorchrunEnv(1, 2, 1, 2))


def test_synchronized_statistics_equal_those_of_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an all-reduce over one process: outputs, gradients, running statistics."""
    monkeypatch.setattr(layers.distributed, "all_reduce", lambda x: None)
    plain, shared = layers.BatchNorm(3), layers.BatchNorm(3)
    seen = [
        torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
        for _ in range(2)
    ]
    for x in seen:
        x.requires_grad_()
    outputs = plain(seen[0]), shared.forward_synced(seen[1])
    torch.testing.assert_close(*outputs)
    for y in outputs:
        (y * y * y).sum().backward()
    torch.testing.assert_close(seen[1].grad, seen[0].grad, rtol=1e-4, atol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)


def test_synchronized_batch_norm_reports_a_dead_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In forward and in backward, from which autograd passes the error on."""

    def dead(x: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer\nwith more lines")

    layer, x = layers.BatchNorm(3), torch.ones(2, 3, 4, 4, requires_grad=True)
    monkeypatch.setattr(layers.distributed, "all_reduce", lambda x: None)
    outputs = layer.forward_synced(x)
    monkeypatch.setattr(layers.distributed, "all_reduce", dead)
    for ask in (lambda: layer.forward_synced(x), outputs.sum().backward):
        with pytest.raises(Img2ImgError, match=r"ended \(Connection closed by peer\); see"):
            ask()
