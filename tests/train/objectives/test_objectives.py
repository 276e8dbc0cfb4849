"""Every objective: settings, phases, finite losses, the formulas of the papers."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import write_corpus, write_domains
from small_runs import a_batch, small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import DivergedError, UsageError
from img2img_data.core.settings_model import bounds_of, help_of
from img2img_train.config import PRESETS, RunConfig, all_fields, config_of, configure
from img2img_train.objectives import losses as adversarial
from img2img_train.objectives.base import Objective
from img2img_train.objectives.cycle import CycleGan, DualGan
from img2img_train.objectives.gan import Pix2Pix
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs import folder as run
from img2img_train.runs.folder import RunFolder
from img2img_train.training import fit as loop

pytestmark = pytest.mark.usefixtures("one_thread")

GANS = [loss for loss, model in OBJECTIVES.items() if "gan_mode" in model.model_fields]
MODES = ["vanilla", "lsgan", "wgan", "wgan-gp"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 6, "val": 2}, size=(16, 32)
    )


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domains(tmp_path_factory.mktemp("data") / "domains", 5)


# -------------------------------------------------------------------------------------- settings
def test_a_setting_is_described_once() -> None:
    models = [RunConfig, *OBJECTIVES.values()]
    for name in all_fields():
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        assert len({(str(f.annotation), help_of(f), bounds_of(f)) for f in fields}) == 1, name
        assert help_of(fields[0])
    assert not RunConfig.model_fields.keys() & Objective.model_fields.keys()


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_a_configuration_survives_its_file(loss: str) -> None:
    config = small_config(loss, "corpus")
    assert RunConfig(**config.model_dump(mode="json")) == config
    assert isinstance(config.objective, OBJECTIVES[loss])
    assert set(OBJECTIVES[loss]().published_defaults()) <= set(RunConfig.model_fields)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_its_settings_and_is_named_in_the_run(name: str) -> None:
    preset, given = RunConfig(corpora="c", preset=name), dict(PRESETS[name])
    values = preset.model_dump()
    assert {key: values[key] for key in given} == given
    assert values["preset"] == name
    assert RunConfig(corpora="c", preset=name, lr=0.5).lr == 0.5
    again = RunConfig(corpora="c", loss=given["loss"]).model_dump()
    assert {**again, **given, "preset": name} == values
    with pytest.raises(UsageError, match="did you mean 'restore'"):
        RunConfig(corpora="c", preset="restor")


LIKE: dict[str, set[str]] = {
    "restore": {"l2", "l1", "charbonnier"},
    "original": {"l2", "l1", "charbonnier"},
    "pix2pix": {"pix2pix", "l1+gan", "cgan", "gan"},
    "cyclegan": {"cyclegan"},
}


@pytest.mark.parametrize("loss", OBJECTIVES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_for_losses_with_the_same_published_settings(preset: str, loss: str) -> None:
    """With another one little of it would be left: --preset pix2pix --loss l1 trained an EDSR."""
    words = {"corpora": "c", "preset": preset, "loss": loss}
    if loss in LIKE[preset]:
        config, own = configure(words), configure({"corpora": "c", "preset": preset})
        assert config.objective.net == own.objective.net
        differing = {n for n in RunConfig.model_fields if getattr(config, n) != getattr(own, n)}
        assert differing <= {"loss", "objective", "out"}
        assert configure({**words, "net": "unet-64"}).objective.net == "unet-64"
        return
    with pytest.raises(UsageError, match=rf"'--preset {preset}': is for --loss .*; omit one") as e:
        configure(words)
    assert loss in str(e.value)
    assert RunConfig(**words).loss == loss, "runs that were begun with both can still be used"


def test_a_folder_that_exists_has_no_weight_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sigma=3").mkdir()
    for text, expected in {
        "sigma=3": ("sigma=3", 1),
        "sigma=3=2": ("sigma=3", 2),
        "sigma=4": ("sigma", 4),
        "sigma=high": ("sigma=high", 1),
    }.items():
        [choice] = RunConfig(corpora=text).corpora
        assert (choice.path, choice.weight) == expected


def test_published_defaults_are_filled_in_and_overridden() -> None:
    published = RunConfig(corpora="c", loss="pix2pix")
    assert (published.batch, published.epochs, published.epochs_decay, published.lr) == (
        1,
        200,
        100,
        2e-4,
    )
    assert RunConfig(corpora="c", loss="cyclegan", epochs=6).epochs_decay == 3
    assert RunConfig(corpora="c", loss="cyclegan", epochs=6, epochs_decay=0, batch=4).batch == 4
    assert RunConfig(corpora="c", loss="dualgan", gan_mode="wgan").lr == 5e-5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"loss": "l2", "identity_weight": 1},
            "'--identity-weight': is not a setting of the loss l2; it belongs to cyclegan",
        ),
        ({"loss": "pix2pixel"}, "'--loss': 'pix2pixel' is unknown; did you mean 'pix2pix'"),
        ({"objective": {}}, "'--objective': unknown"),
        ({f"wrong_{n}": 1 for n in range(50)}, "'--wrong-0': unknown"),  # the first
        ({"loss": "cgan", "gan_mod": "x"}, "'--gan-mod': unknown; did you mean 'gan_mode'"),
        ({"loss": "cgan", "gan_mode": "x"}, "'--gan-mode': 'x' is unknown; choose one of"),
        ({"loss": "pix2pix", "d_weight": 0}, "'--d-weight'.*greater than 0"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config_of({"corpora": "c", **wrong})


@pytest.mark.parametrize("loss", GANS)
def test_norm_and_dropout_are_at_test_as_in_training_with_one_image(loss: str) -> None:
    config = RunConfig(corpora="c", loss=loss)
    assert (config.batch, config.test_norm, config.test_dropout) == (1, "batch", True)


# ------------------------------------------------------------------------------------------ laws
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_each_phase_moves_its_own_networks_alone(corpus: Path, tmp_path: Path, loss: str) -> None:
    state, batch = small_training(loss, corpus, tmp_path), a_batch()
    assert {module for phase in state.config.objective.phases() for module in phase.modules} == set(
        state.state.nets
    )
    for phase in state.config.objective.phases():
        before = {n: [p.clone() for p in net.parameters()] for n, net in state.state.nets.items()}
        state.train_step.require_gradients(*state.config.objective.phases())
        outputs = state.config.objective.forward(state.state.nets, batch)
        state.train_step.require_gradients(phase)
        losses = state.config.objective.losses(
            phase.name, state.state.nets, batch, outputs, outputs
        )
        torch.stack(list(losses.values())).sum().backward()
        state.state.optimizers[phase.name].step()
        state.config.objective.after_update(phase.name, state.state.nets)
        for name, net in state.state.nets.items():
            moved = any(
                not torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True)
            )
            assert moved == (name in phase.modules), (phase.name, name)
            net.zero_grad()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", GANS)
def test_every_gan_in_every_mode_stays_finite(
    corpus: Path, tmp_path: Path, loss: str, mode: str, precision: str
) -> None:
    state = small_training(loss, corpus, tmp_path, gan_mode=mode, lr=1e-3, precision=precision)
    seen: set[str] = set()
    for number in range(2):
        losses = state.step(a_batch(number))
        assert all(
            value.dtype == torch.float32 and math.isfinite(value.detach())
            for value in losses.values()
        )
        seen |= losses.keys()
        state.progress = state.progress.model_copy(update={"step": number + 1})
    assert any(name.endswith("gp") for name in seen) == (mode == "wgan-gp")
    assert len(seen) == len({name.lower() for name in seen})


@pytest.mark.parametrize("loss", [loss for loss in OBJECTIVES if loss not in ("gan", "cgan")])
def test_reconstruction_losses_fall(corpus: Path, tmp_path: Path, loss: str) -> None:
    torch.manual_seed(0)  # the gradient penalty draws from the global generator
    state, batch = small_training(loss, corpus, tmp_path, width=8, lr=4e-3), a_batch()
    terms = (
        ("g_l1", "cycle") if loss in GANS else ()
    )  # without a discriminator every term is an error
    found = []
    for number in range(20):
        losses = state.step(batch)
        found.append(
            [float(v.detach()) for n, v in losses.items() if not terms or n.startswith(terms)]
        )
        state.progress = state.progress.model_copy(update={"step": number + 1})
    found = [sum(row) for row in found if row]
    assert found[-1] < 0.85 * found[0]


# ---------------------------------------------------------------------------------------- papers
def test_discriminators_see_what_the_paper_says() -> None:
    seen = {
        loss: OBJECTIVES[loss]().networks((1, 2)) for loss in ("gan", "l1+gan", "cgan", "pix2pix")
    }
    assert {loss: specs["discriminator"].inputs for loss, specs in seen.items()} == {
        "gan": 2, "l1+gan": 2, "cgan": 3, "pix2pix": 3
    }  # fmt: skip
    both = DualGan().networks((1, 2))
    assert {name: (spec.inputs, spec.outputs) for name, spec in both.items()} == {
        "generator": (1, 2), "reverse_generator": (2, 1),
        "discriminator_target": (2, 1), "discriminator_input": (1, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    "loss", [loss for loss, model in OBJECTIVES.items() if "fft_weight" in model.model_fields]
)
def test_the_frequency_loss_is_a_mean_of_amplitudes(loss: str) -> None:
    batch, term = a_batch(), OBJECTIVES[loss](fft_weight=0.1)
    found = term.losses("generator", {}, batch, {"output": batch.input}, {})
    error = (batch.input - batch.target).double().numpy()
    assert float(found["fft"]) == pytest.approx(0.1 * np.abs(np.fft.rfft2(error)).mean())
    plain = OBJECTIVES[loss]().losses("generator", {}, batch, {"output": batch.input}, {})
    assert plain == {loss: found[loss]}
    assert math.isfinite(term.loss_limit(loss))


def test_norms_follow_the_generator_and_the_penalty() -> None:
    norms = {
        (loss, mode): OBJECTIVES[loss](gan_mode=mode).discriminator_spec(3).norm
        for loss in ("pix2pix", "cyclegan")
        for mode in ("vanilla", "wgan-gp")
    }
    assert norms["pix2pix", "vanilla"] == "batch"
    assert {norms[key] for key in norms if key != ("pix2pix", "vanilla")} == {"instance"}


def test_identity_between_unequal_channels_is_rejected() -> None:
    with pytest.raises(
        UsageError,
        match="'--identity-weight': compares images of 1 and 2 channels; set --identity-weight 0",
    ):
        CycleGan().networks((1, 2))
    assert len(CycleGan(identity_weight=0).networks((1, 2))) == 4


def test_gan_losses_are_the_published_formulas() -> None:
    logits = torch.tensor([-2.0, 0.5, 3.0])
    chance = torch.sigmoid(logits)
    assert adversarial.generator_loss("vanilla", logits) == pytest.approx(
        float(-chance.log().mean())
    )
    assert adversarial.generator_loss("lsgan", logits) == pytest.approx(
        float(((logits - 1) ** 2).mean())
    )
    assert adversarial.generator_loss("wgan-gp", logits) == pytest.approx(float(-logits.mean()))

    class Passthrough(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    real, outputs = logits, logits.flip(0) * 2
    terms = adversarial.discriminator_loss("vanilla", Passthrough(), real, outputs, 0.5)
    assert terms["real"] == pytest.approx(0.5 * float(-chance.log().mean()))
    assert terms["fake"] == pytest.approx(
        0.5 * float(-(1 - torch.sigmoid(outputs)).log().mean()), rel=1e-4
    )
    terms = adversarial.discriminator_loss("wgan", Passthrough(), real, outputs, 1)
    assert terms["real"] + terms["fake"] == pytest.approx(float(outputs.mean() - real.mean()))


def test_the_gradient_penalty_is_the_squared_distance_from_slope_one() -> None:
    net = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 3.0)
    slope = 3 / 16 * math.sqrt(16)
    found = adversarial.gradient_penalty(net, torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    assert float(found.detach()) == pytest.approx((slope - 1) ** 2, rel=1e-5)


def test_clipped_weights_stay_in_their_bounds(corpus: Path, tmp_path: Path) -> None:
    state = small_training("dualgan", corpus, tmp_path, gan_mode="wgan", n_critic=1, lr=1e-2)
    assert all(isinstance(o, torch.optim.RMSprop) for o in state.state.optimizers.values())
    state.step(a_batch())
    for name, net in state.state.nets.items():
        largest = max(float(p.detach().abs().max()) for p in net.parameters())
        assert (largest <= 0.01 + 1e-9) == name.startswith("discriminator")


def test_the_generator_waits_for_its_critic(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop.fit(small_config("dualgan", corpus, out, n_critic=2, epochs=1), Display())
    [row, *_] = run.read_log(out)
    state = checkpoints.read_checkpoint(RunFolder(out).latest)
    steps = {
        k: int(t)
        for k, t in state.tensors.items()
        if k.startswith("optimizer/") and k.endswith("/step")
    }
    assert {v for k, v in steps.items() if "discriminator" in k} == {3}
    assert {v for k, v in steps.items() if "generator" in k} == {1}
    assert {"d_B_real", "g_A", "cycle_B"} <= row["losses"].keys()


def test_defaults_are_the_published_weights() -> None:
    assert {loss: OBJECTIVES[loss]().model_dump()["d_weight"] for loss in GANS} == {
        "gan": 0.5, "cgan": 0.5, "l1+gan": 0.5, "pix2pix": 0.5, "cyclegan": 0.5, "dualgan": 1.0
    }  # fmt: skip
    assert Pix2Pix().l1_weight == 100
    assert (CycleGan().cycle_weight, CycleGan().identity_weight, CycleGan().pool_size) == (
        10,
        0.5,
        50,
    )
    assert (DualGan().cycle_weight, DualGan().clip_value) == (500, 0.01)


# -------------------------------------------------------------------------------- divergence
LIMITED = [loss for loss, cls in OBJECTIVES.items() if cls.loss_limit is not Objective.loss_limit]
"""Objectives that know how large a loss can be."""


@pytest.mark.parametrize("loss", LIMITED)
def test_finite_losses_that_no_working_run_shows_end_it(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"batch": 1, "lr": 10, "epochs": 4, "width": 8}
    more |= {"discriminator": "patch-34", "d_width": 64} if loss in GANS else {}
    with pytest.raises(
        DivergedError, match=r"diverged at step \d+ \(.* is over [\d,]+\); lower --lr"
    ):
        loop.fit(small_config(loss, corpus, tmp_path, **more), Display())


@pytest.mark.parametrize(("loss", "mode"), [*product(GANS, MODES), ("l1", ""), ("l2", "")])
def test_a_high_rate_that_works_is_not_called_diverged(
    loss: str, mode: str, corpus: Path, tmp_path: Path
) -> None:
    more = {"d_width": 16, "gan_mode": mode} if mode else {}
    trainer = small_training(loss, corpus, tmp_path, **more, batch=1, lr=0.01)
    for _ in range(3):
        for name, value in trainer.step(a_batch()).items():
            assert abs(float(value.detach())) < trainer.config.objective.loss_limit(name) / 10


def test_a_large_identity_weight_is_not_called_diverged(corpus: Path, tmp_path: Path) -> None:
    config = small_config("cyclegan", corpus, tmp_path, identity_weight=1e3, epochs=1)
    assert loop.fit(config, Display()).progress.step
