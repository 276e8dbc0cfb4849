"""Learning-rate schedule and moving averages of generators; both resume exactly."""

from __future__ import annotations

import math
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import Killer, tree
from small_corpus import write_corpus
from small_runs import small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CheckpointError, UsageError
from img2img_data.images import io
from img2img_train.config import RunConfig, config_of
from img2img_train.data import loader
from img2img_train.inference.onnx_export import export_weights
from img2img_train.metrics.registry import IMAGE_METRICS
from img2img_train.objectives.base import Batch
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.optim.optimizers import CpuAdam, Decay, LrSchedule
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.runs.model import load_generator
from img2img_train.training import fit as loop
from img2img_train.training.signals import StoppedBySignal

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 6, "val": 2}, size=(16, 16)
    )


# ------------------------------------------------------------------------------------------- rates
def test_a_rate_is_constant_then_falls_to_zero() -> None:
    rates = [LrSchedule(1.0, 200, 100).rate(step) for step in (0, 99, 100, 101, 150, 199, 200, 250)]
    assert rates == pytest.approx([1, 1, 1, 0.99, 0.5, 0.01, 0, 0])
    assert {LrSchedule(0.5, 200).rate(step) for step in (0, 100, 199)} == {0.5}


def test_the_linear_fall_is_credited_to_those_who_use_it() -> None:
    credit = " ".join((LrSchedule.__doc__ or "").split())
    assert "linear`` as in Zhu et al. (2017) and their later PyTorch code" in credit
    assert "the rate of Isola et al. 2017 is constant" in credit


def test_a_cosine_is_half_way_at_half_time_and_flat_at_both_ends() -> None:
    falling = LrSchedule(2.0, 300, 100, "cosine")
    assert falling.rate(200) == 2
    assert falling.rate(250) == pytest.approx(1)
    assert falling.rate(225) == pytest.approx(1 + math.cos(math.pi / 4))
    assert falling.rate(300) == 0
    assert falling.rate(200) - falling.rate(201) < 0.1 * (falling.rate(250) - falling.rate(251))


def test_warming_up_begins_with_its_share_and_ends_with_the_rate() -> None:
    rates = [LrSchedule(1.0, 100, warmup=4).rate(step) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 500), falling=st.integers(0, 600), warmup=st.integers(0, 600),
    decay=st.sampled_from(get_args(Decay)), step=st.integers(0, 700),
)  # fmt: skip
def test_no_rate_is_negative_or_above_the_one_given(
    steps: int, falling: int, warmup: int, decay: Any, step: int
) -> None:
    schedule = LrSchedule(3e-4, steps, falling, decay, warmup)
    assert 0 <= schedule.rate(step) <= 3e-4 * (1 + 1e-12)
    later = [schedule.rate(s) for s in range(warmup, steps + 1)]
    assert all(a >= b for a, b in pairwise(later))


def test_a_run_cut_short_has_the_rates_of_the_whole_one(corpus: Path, tmp_path: Path) -> None:
    full, short = (
        small_training(
            "pix2pix", corpus, tmp_path, epochs=4, epochs_decay=2, decay="cosine", max_steps=n
        )
        for n in (0, 7)
    )
    assert short.data.steps == 7 < full.data.steps
    assert all(
        short.train_step.schedule.rate(s) == full.train_step.schedule.rate(s) for s in range(12)
    )
    short.progress = short.progress.model_copy(update={"step": 9})
    short.step(first_batch(short))
    assert {g["lr"] for o in short.state.optimizers.values() for g in o.param_groups} == {
        full.train_step.schedule.rate(9)
    }


def first_batch(training: loop.Trainer) -> Batch:
    step = training.data.plan.step(0)
    raw = loader.RawBatch(*training.data.train.gather(step.indices), None)
    return loader.to_device(raw, torch.device("cpu"))


def test_naming_a_decay_lets_the_rate_fall() -> None:
    def falling(**values: Any) -> int | None:
        return RunConfig(corpora="c", **values).epochs_decay

    assert falling(preset="original") == falling(loss="dualgan") == 0
    # None: over the whole run.
    assert falling() is falling(epochs=7) is falling(decay="linear", loss="dualgan") is None
    assert falling(decay="cosine", loss="pix2pix", epochs=10) == 5
    assert falling(epochs_decay=0) == 0
    again = RunConfig(corpora="c", decay="cosine", epochs_decay=0).model_dump()
    assert RunConfig(**again, out="").epochs_decay == 0


# ---------------------------------------------------------------------------------------- averages
def test_an_average_follows_slowly_and_copies_statistics(corpus: Path, tmp_path: Path) -> None:
    training = small_training("l1", corpus, tmp_path, ema=0.9, norm="batch", lr=1e-2)
    ema = training.state.ema
    assert ema is not None
    expected = {k: t.clone() for k, t in training.state.nets["generator"].named_parameters()}
    for number in range(1, 4):
        training.step(first_batch(training))
        training.progress = training.progress.model_copy(update={"step": number})
        decay = min(0.9, (1 + number) / (10 + number))
        for name, now in training.state.nets["generator"].named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * now.detach()
    for name, kept in ema.nets["generator"].named_parameters():
        torch.testing.assert_close(kept, expected[name])
        assert not kept.requires_grad
    pairs = zip(
        ema.nets["generator"].buffers(), training.state.nets["generator"].buffers(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("loss", ["l1", "pix2pix", "cyclegan", "dualgan"])
def test_averages_and_schedules_resume_exactly(loss: str, corpus: Path, tmp_path: Path) -> None:
    def fit(out: str, display: Display) -> None:
        more = {"ema": 0.99, "warmup": 3, "decay": "cosine", "epochs_decay": 1, "flip": True}
        loop.fit(small_config(loss, corpus, tmp_path / out, checkpoint_seconds=0, **more), display)

    fit("whole", Display())
    with pytest.raises(StoppedBySignal, match="at step 4"):
        fit("cut", Killer("training", 4 * 2, signal.SIGTERM))
    fit("cut", Display())
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")
    kept = checkpoints.read_checkpoint(RunFolder(tmp_path / "cut").latest)
    generators = OBJECTIVES[loss]().generators()
    assert {name.split("/")[1] for name in kept.tensors if name.startswith("ema/")} == set(
        generators
    )


def test_the_average_is_scored_and_handed_over(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    loop.fit(small_config("l2", corpus, run, ema=0.8, lr=5e-3, epochs=4), Display())
    model = load_generator(run, "cpu")
    kept = checkpoints.read_checkpoint(model.path)
    for key, tensor in model.generator.state_dict().items():
        assert torch.equal(tensor, kept.tensors[f"ema/generator/{key}"])
    assert any(
        not torch.equal(
            kept.tensors[f"network/generator/{key}"], kept.tensors[f"ema/generator/{key}"]
        )
        for key in model.generator.state_dict()
    )
    pairs = [
        [io.read(corpus / f"val/{h}/00{n}.png").pixels for h in ("input", "target")] for n in (0, 1)
    ]
    psnr = [
        IMAGE_METRICS["psnr"].compute(model.restore(given[None])[0], target)
        for given, target in pairs
    ]
    best = max(row["psnr"] for row in read_log(run) if row["kind"] == "validation")
    assert sum(psnr) / 2 == pytest.approx(best, abs=0.02)
    export_weights(model, tmp_path / "alone.safetensors")
    exported = load_generator(tmp_path / "alone.safetensors", "cpu")
    assert all(
        torch.equal(a, b)
        for a, b in zip(exported.generator.parameters(), model.generator.parameters(), strict=True)
    )


def test_a_checkpoint_without_its_average_is_rejected(corpus: Path, tmp_path: Path) -> None:
    config = small_config("l1", corpus, tmp_path, ema=0.5, checkpoint_seconds=0)
    with pytest.raises(StoppedBySignal):
        loop.fit(config, Killer("training", 4, signal.SIGTERM))
    folder = RunFolder(tmp_path)
    good = checkpoints.read_checkpoint(folder.latest)
    rest = {k: t for k, t in good.tensors.items() if not k.startswith("ema/")}
    checkpoints.write_checkpoint(folder.latest, rest, good.description)
    with pytest.raises(CheckpointError, match=r"does not fit its network: .* is missing"):
        loop.fit(config, Display())


@pytest.mark.parametrize(
    ("setting", "value"), [("ema", 1), ("ema", -0.1), ("warmup", -1), ("decay", "step"), ("lr", 0)]
)
def test_wrong_settings_are_one_line(setting: str, value: Any) -> None:
    from img2img_train.config import config_of

    with pytest.raises(UsageError, match=f"--{setting}"):
        config_of({"corpora": "c", setting: value})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"warmup": 10_000, "epochs": 9}, "--warmup"),
        ({"patience": 1, "validate_every": 0}, "--patience"),
        ({"loss": "cgan", "clip_value": 0.1}, "--clip-value"),
    ],
)
def test_settings_that_contradict_others_are_rejected(
    wrong: dict[str, Any], named: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": 4, "val": 2}, size=(16, 16))
    with pytest.raises(UsageError, match=named):
        loop.dry_run(config_of({"corpora": str(corpus), "out": str(tmp_path / "run"), **wrong}))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_on_a_cpu_moves_weights_as_torch_does(decay: float) -> None:
    found = []
    for kind in (CpuAdam, torch.optim.Adam):
        weights = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
        weight = weights.to(memory_format=torch.channels_last).requires_grad_()
        more = {"weight_decay": decay, "decoupled_weight_decay": bool(decay)}
        optimizer = kind([weight], fused=True, **more)
        for power in (1, 2, 3):
            optimizer.zero_grad()
            (weight - 0.2).pow(power).sum().backward()
            optimizer.step()
        found.append((weight, *optimizer.state[weight].values()))
    for own, expected in zip(*found, strict=True):
        assert own.stride() == expected.stride()
        assert torch.equal(own, expected)
