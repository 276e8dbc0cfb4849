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

from img2img_data.core.errors import Img2ImgError, UsageError
from img2img_data.core.progress import Display
from img2img_train.data.loader import SamplingPlan
from img2img_train.distributed.processes import Processes, local_device
from img2img_train.distributed.torchrun import TorchrunEnv, torchrun_env
from img2img_train.networks import layers
from img2img_train.objectives.base import Batch
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.training import fit as loop
from img2img_train.training.step import MicroBatches

ROOT = Path(__file__).parents[3]
USUAL: dict[str, Any] = {"batch": 4, "flip": True}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and signals as on POSIX")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 9, "val": 2}, size=(16, 16)
    )


def options(loss: str, corpus: Path, out: Path, **settings: Any) -> list[str]:
    config = small_config(loss, corpus, out, **{**USUAL, **settings})
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
    server.set_forkserver_preload(
        ["img2img_train.training.fit", "torch.distributed", "interrupted"]
    )
    started = []
    for rank in range(count):
        place = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(server.Process(target=fit, args=(words, folder / f"said{rank}", place)))
        started[-1].start()
    return started


def ends(processes: list[ForkServerProcess], folder: Path) -> tuple[list[int | None], list[str]]:
    """Wait for the processes; return exit codes and what they said."""
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
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=True, timeout=60,
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


def test_under_torchrun_two_processes_equal_one(corpus: Path, tmp_path: Path) -> None:
    board = importlib.util.find_spec("tensorboard") is not None
    settings = {"net": "unet", "norm": "none", "tensorboard": board}
    said = under_torchrun(options("l2", corpus, tmp_path / "two", **settings))
    assert said.count("epoch 2/2") == said.count("is finished: 4 steps") == 1
    assert len(list((tmp_path / "two").glob("tensorboard/*"))) == board
    loop.fit(small_config("l2", corpus, tmp_path / "one", **USUAL, **settings), Display())
    check_equal(tmp_path / "one", tmp_path / "two", 1e-5)


def test_a_game_with_a_pool_equals_one_process(corpus: Path, tmp_path: Path) -> None:
    """In parts, with averages. (Without a norm: of biases before one Adam makes steps of noise.)"""
    settings = {"net": "resnet-6", "norm": "none", "accumulate": 2, "ema": 0.9, "epochs": 3}
    codes, said = ends(
        start(options("cyclegan", corpus, tmp_path / "two", **settings), tmp_path), tmp_path
    )
    assert codes == [0, 0], said
    assert said[1] == ""
    loop.fit(small_config("cyclegan", corpus, tmp_path / "one", **USUAL, **settings), Display())
    check_equal(tmp_path / "one", tmp_path / "two", 1e-5)
    assert {"ema", "pool"} <= {name.partition("/")[0] for name in weights(tmp_path / "one")}


def test_stopped_together_and_continued_exactly(corpus: Path, tmp_path: Path) -> None:
    """Batch norm, dropout, two phases; the signal reaches the second process alone."""
    settings = {"net": "resnet-6", "norm": "batch", "dropout": 0.5, "checkpoint_seconds": 0}
    words, whole = (
        options("pix2pix", corpus, tmp_path / n, epochs=6, **settings) for n in ("cut", "whole")
    )
    assert ends(start(whole, tmp_path), tmp_path)[0] == [0, 0]
    processes = start(words, tmp_path)
    until = time.monotonic() + 40
    while not (tmp_path / "cut/log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGTERM)
    codes, said = ends(processes, tmp_path)
    assert codes == [143, 143], said
    assert "stopped by SIGTERM at step" in said[0]
    assert said[1] == ""
    assert ends(start(words, tmp_path), tmp_path)[0] == [0, 0]
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_folder_in_use_ends_both_and_is_told_of_once(corpus: Path, tmp_path: Path) -> None:
    """Free again, it takes the run, which ends where both lose patience: nothing moves."""
    words = options("l2", corpus, tmp_path / "run", lr=1e-30, epochs=30, patience=2)
    with RunFolder(tmp_path / "run").lock():
        codes, said = ends(start(words, tmp_path), tmp_path)
    assert codes == [2, 2]
    assert "in use by another process" in said[0]
    assert said[1] == ""
    codes, said = ends(start(words, tmp_path), tmp_path)
    assert codes == [0, 0], said
    assert "stopped early" in said[0]
    assert said[1] == ""
    assert [row["epoch"] for row in read_log(tmp_path / "run") if row["kind"] == "stopped"] == [3]


def test_a_process_that_dies_ends_the_other_by_one_line(corpus: Path, tmp_path: Path) -> None:
    """Amid batch norms, which ask the other in forward and backward."""
    settings = {"net": "resnet-6", "norm": "batch", "epochs": 9999, "validate_every": 0}
    processes = start(options("l2", corpus, tmp_path / "run", **settings), tmp_path)
    until = time.monotonic() + 40
    while not (tmp_path / "run/log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.31)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, signal.SIGKILL)
    codes, said = ends(processes, tmp_path)
    assert codes == [1, -signal.SIGKILL], said
    assert "error: run: another process ended" in said[0]
    assert "Traceback" not in said[0]


# ------------------------------------------------------------------------------- within one process
def test_a_place_is_told_by_torchrun_alone() -> None:
    told = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "x",
    }
    assert torchrun_env(told) == TorchrunEnv(3, 4, 1, 2)
    for wrong in ({}, {**told, "RANK": "x"}, {n: v for n, v in told.items() if n != "MASTER_ADDR"}):
        assert torchrun_env(wrong) == TorchrunEnv()


def test_parts_make_the_whole_step() -> None:
    plan = SamplingPlan((10, 7), (1, 2), 4, 5)
    for number in range(6):
        step = plan.step(number, True)
        parts = [
            step.select(Processes(rank, 2).shard_indices(plan.step_images, 1)) for rank in range(2)
        ]
        assert np.array_equal(np.concatenate([part.indices for part in parts]), step.indices)
        assert step.flips is not None
        flips = [part.flips for part in parts if part.flips is not None]
        assert np.array_equal(np.concatenate(flips, axis=1), step.flips)


@pytest.mark.parametrize(
    ("count", "processes", "parts"), [(12, 2, 2), (12, 3, 3), (6, 2, 2), (6, 2, 9)]
)
def test_parts_of_all_processes_come_in_the_order_of_the_step(
    count: int, processes: int, parts: int
) -> None:
    """As they enter a pool: of each part the images of one process after the other."""
    each = [Processes(rank, processes).shard_indices(count, parts) for rank in range(processes)]
    assert sorted(np.concatenate(each)) == list(range(count))
    images = [torch.from_numpy(places).float().view(-1, 1, 1, 1) for places in each]
    cut = [MicroBatches.split(Batch(own, own), parts).parts for own in images]
    entering = [part.input.flatten() for place in zip(*cut, strict=True) for part in place]
    assert torch.cat(entering).tolist() == list(range(count))


def test_devices_that_cannot_be_shared_are_rejected() -> None:
    assert local_device("cpu", TorchrunEnv(1, 2, 1, 2)) == torch.device("cpu")
    with pytest.raises(UsageError, match="3 images a step cannot be shared evenly by 2 processes"):
        Processes(0, 2).check_batch(3)
    with pytest.raises(UsageError, match="mps supports a single process"):
        local_device("mps", TorchrunEnv(1, 2, 1, 2))


def test_statistics_shared_by_processes_are_those_of_batch_norm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one process that is told of no other the sums are its own: values, slopes, running statistics."""
    monkeypatch.setattr(layers.distributed, "all_reduce", lambda x: None)
    plain, shared = layers.BatchNorm(3), layers.BatchNorm(3)
    seen = [
        torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 5
        for _ in range(2)
    ]
    for x in seen:
        x.requires_grad_()
    made = plain(seen[0]), shared.forward_synced(seen[1])
    torch.testing.assert_close(*made)
    for y in made:
        (y * y * y).sum().backward()
    torch.testing.assert_close(seen[1].grad, seen[0].grad, rtol=1e-4, atol=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value)


def test_shared_statistics_tell_of_the_death_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the forward and in the backward, out of which autograd hands the error on."""

    def dead(x: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer\nwith more lines")

    layer, x = layers.BatchNorm(3), torch.ones(2, 3, 4, 4, requires_grad=True)
    monkeypatch.setattr(layers.distributed, "all_reduce", lambda x: None)
    made = layer.forward_synced(x)
    monkeypatch.setattr(layers.distributed, "all_reduce", dead)
    for ask in (lambda: layer.forward_synced(x), made.sum().backward):
        with pytest.raises(Img2ImgError, match=r"ended \(Connection closed by peer\); see"):
            ask()
