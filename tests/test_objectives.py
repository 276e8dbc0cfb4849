"""Every objective: finite, its phases apart, exact after an interruption, loud when it diverges."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_corpus import write_corpus, write_domains
from small_runs import small_config
from test_train_resume import Killer, tree

from img2img_data import images
from img2img_data.errors import CheckpointError, CorpusError, DivergedError, UsageError
from img2img_train import adversarial, checkpoints, loop, pictures, run
from img2img_train.batches import Plan
from img2img_train.config import RunConfig, options, settings
from img2img_train.display import Display
from img2img_train.interrupts import Stop, Stopped
from img2img_train.networks import describe
from img2img_train.objectives import OBJECTIVES, Batch, CycleGan, DualGan, Objective, Pix2Pix
from img2img_train.pool import Pool
from img2img_train.report import write_run_report
from img2img_train.run import RunFolder, load_generator

GAMES = [loss for loss, model in OBJECTIVES.items() if "gan_mode" in model.model_fields]
UNPAIRED = [loss for loss, model in OBJECTIVES.items() if not model.paired]
MODES = ["vanilla", "lsgan", "wgan", "wgan-gp"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", {"train": 6, "val": 2}, size=(16, 32))


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_domains(tmp_path_factory.mktemp("data") / "domains", 5)


def training(loss: str, corpus: Path, out: Path, **settings: Any) -> loop.Training:
    config = loop.resolve(small_config(loss, corpus, out, **settings))
    data = loop.Data.open(config, config.objective)
    return loop.Training(
        config, data, config.objective, torch.device("cpu"), RunFolder(out), Display(), Stop()
    )


def a_batch(seed: int = 0) -> Batch:
    pictures = torch.rand(2, 2, 3, 32, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Batch(pictures[0], pictures[1])


# -------------------------------------------------------------------------------------- settings
def test_a_setting_means_the_same_wherever_it_stands() -> None:
    for name, known in settings().items():
        models = [RunConfig, *(OBJECTIVES[loss] for loss, _ in known)]
        fields = [model.model_fields[name] for model in models if name in model.model_fields]
        assert len({(str(f.annotation), f.description, str(f.metadata)) for f in fields}) == 1, name
        assert fields[0].description
    assert not RunConfig.model_fields.keys() & Objective.model_fields.keys()
    assert set(options().model_fields) == set(settings())


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_a_configuration_survives_its_file(loss: str) -> None:
    config = small_config(loss, "corpus")
    assert RunConfig(**config.model_dump(mode="json")) == config
    assert isinstance(config.objective, OBJECTIVES[loss])
    assert set(OBJECTIVES[loss]().usual()) <= set(RunConfig.model_fields)


def test_what_was_published_is_filled_in_and_overridden() -> None:
    published = RunConfig(corpora="c", loss="pix2pix")
    assert (published.batch, published.epochs, published.epochs_decay, published.lr) == (1, 200, 100, 2e-4)
    assert RunConfig(corpora="c", loss="cyclegan", epochs=6).epochs_decay == 3
    assert RunConfig(corpora="c", loss="cyclegan", epochs=6, epochs_decay=0, batch=4).batch == 4
    assert RunConfig(corpora="c", loss="dualgan", gan_mode="wgan").lr == 5e-5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "l2", "identity": 1}, "'--identity': is no setting of the loss l2; it is one of cyclegan"),
        ({"loss": "pix2pixel"}, "'--loss': 'pix2pixel' is unknown; did you mean 'pix2pix'"),
        ({"loss": "cgan", "gan_mod": "x"}, "'--gan-mod': unknown; did you mean 'gan_mode'"),
        ({"loss": "cgan", "gan_mode": "x"}, "'--gan-mode': 'x' is unknown; choose one of"),
        ({"loss": "pix2pix", "d_weight": 0}, "'--d-weight'.*greater than 0"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        RunConfig(corpora="c", **given)


# ------------------------------------------------------------------------------------------ laws
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_each_phase_moves_its_own_networks_alone(corpus: Path, tmp_path: Path, loss: str) -> None:
    state, batch = training(loss, corpus, tmp_path), a_batch()
    assert {module for phase in state.phases for module in phase.modules} == set(state.nets)
    for phase in state.phases:
        before = {n: [p.clone() for p in net.parameters()] for n, net in state.nets.items()}
        state._train_only(None)
        made = state.objective.forward(state.nets, batch)
        state._train_only(phase)
        losses = state.objective.losses(phase.name, state.nets, batch, made, made)
        torch.stack(list(losses.values())).sum().backward()
        state.optimizers[phase.name].step()
        state.objective.after(phase.name, state.nets)
        for name, net in state.nets.items():
            moved = any(not torch.equal(a, b) for a, b in zip(before[name], net.parameters(), strict=True))
            assert moved == (name in phase.modules), (phase.name, name)
            net.zero_grad()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", GAMES)
def test_every_game_in_every_mode_stays_finite(corpus: Path, tmp_path: Path, loss: str, mode: str) -> None:
    state = training(loss, corpus, tmp_path, gan_mode=mode, lr=1e-3)
    seen: set[str] = set()
    for number in range(4):
        losses = state.step(a_batch(number))
        assert all(
            value.dtype == torch.float32 and math.isfinite(value.detach()) for value in losses.values()
        )
        seen |= losses.keys()
        state.progress = state.progress.model_copy(update={"step": number + 1})
    assert any(name.endswith("penalty") for name in seen) == (mode == "wgan-gp")
    assert len(seen) == len({name.lower() for name in seen})


@pytest.mark.parametrize("loss", [loss for loss in OBJECTIVES if loss not in ("gan", "cgan")])
def test_what_is_to_be_alike_becomes_alike(corpus: Path, tmp_path: Path, loss: str) -> None:
    state, batch = training(loss, corpus, tmp_path, width=8, lr=2e-3), a_batch()
    wanted = ("l1", "l2", "cycle")
    found = []
    for number in range(40):
        losses = state.step(batch)
        found.append([float(v.detach()) for n, v in losses.items() if n.startswith(wanted)])
        state.progress = state.progress.model_copy(update={"step": number + 1})
    found = [sum(row) for row in found if row]
    assert found[-1] < 0.85 * found[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_every_objective_continues_exactly(loss: str, workers: int, corpus: Path, tmp_path: Path) -> None:
    def fit(out: str, display: Display, **more: Any) -> None:
        config = small_config(loss, corpus, tmp_path / out, flip=True, checkpoint_seconds=0, **more)
        loop.fit(config, display)

    same = {"workers": workers, "cache": "off"} if workers else {}
    fit("whole", Display(), **same)
    with pytest.raises(Stopped, match="at step 4"):
        fit("cut", Killer("training", 4 * 2, signal.SIGTERM), **same)
    fit("cut", Display(), **same)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.parametrize("mode", ["wgan", "wgan-gp"])
def test_modes_with_state_of_their_own_continue_exactly(mode: str, domains: Path, tmp_path: Path) -> None:
    def fit(out: str, display: Display) -> None:
        more = {"gan_mode": mode, "critic_steps": 3, "net": "resnet-6", "dropout": 0.3, "flip": True}
        config = small_config("dualgan", domains, tmp_path / out, checkpoint_seconds=0, **more)
        loop.fit(config, display)

    fit("whole", Display())
    with pytest.raises(Stopped):
        fit("cut", Killer("training", 2 * 2, signal.SIGTERM))
    fit("cut", Display())
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


@pytest.mark.parametrize("loss", OBJECTIVES)
def test_divergence_names_the_step_the_losses_and_the_last_good_checkpoint(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    config = small_config(loss, corpus, tmp_path, checkpoint_seconds=0)
    with pytest.raises(Stopped):
        loop.fit(config, Killer("training", 4 * 2, signal.SIGTERM))
    folder = RunFolder(tmp_path)
    good = checkpoints.read_checkpoint(folder.latest)
    huge = {k: t * 1e30 if k.endswith("weight") else t for k, t in good.tensors.items()}
    checkpoints.write_checkpoint(folder.latest, huge, good.about)
    said = rf"diverged at step 5 \(.*(nan|inf).*\); lower --lr.* good checkpoint is '{folder.latest}', step 4"
    with pytest.raises(DivergedError, match=said) as error:
        loop.fit(config.model_copy(update={"checkpoint_seconds": 60.0}), Display())
    assert error.value.exit_code == 3
    assert "\n" not in str(error.value)


def test_weights_that_diverge_before_the_losses_do_are_not_written(corpus: Path, tmp_path: Path) -> None:
    state = training("pix2pix", corpus, tmp_path)
    state.folder.checkpoints.mkdir(parents=True)
    state.save()
    with torch.no_grad():
        next(state.nets["discriminator"].parameters()).fill_(torch.inf)
    said = r"diverged at step 0 \(network/discriminator/.*not finite.*last good checkpoint.*step 0"
    with pytest.raises(DivergedError, match=said):
        state.save()


# ---------------------------------------------------------------------------------------- papers
def test_discriminators_see_what_the_paper_says() -> None:
    seen = {loss: OBJECTIVES[loss]().networks((1, 2)) for loss in ("gan", "l1+gan", "cgan", "pix2pix")}
    assert {loss: specs["discriminator"].inputs for loss, specs in seen.items()} == {
        "gan": 2, "l1+gan": 2, "cgan": 3, "pix2pix": 3
    }  # fmt: skip
    both = DualGan().networks((1, 2))
    assert {name: (spec.inputs, spec.outputs) for name, spec in both.items()} == {
        "generator": (1, 2), "inverse": (2, 1), "discriminator_target": (2, 1), "discriminator_input": (1, 1)
    }  # fmt: skip


def test_norms_follow_the_generator_and_the_penalty() -> None:
    norms = {
        (loss, mode): OBJECTIVES[loss](gan_mode=mode).judge(3).norm
        for loss in ("pix2pix", "cyclegan")
        for mode in ("vanilla", "wgan-gp")
    }
    assert norms["pix2pix", "vanilla"] == "batch"
    assert {norms[key] for key in norms if key != ("pix2pix", "vanilla")} == {"instance"}


def test_identity_between_unequal_channels_is_refused() -> None:
    with pytest.raises(
        UsageError, match="'--identity': compares pictures of 1 and 2 channels; give --identity 0"
    ):
        CycleGan().networks((1, 2))
    assert len(CycleGan(identity=0).networks((1, 2))) == 4


def test_losses_of_verdicts_are_the_published_formulas() -> None:
    verdicts = torch.tensor([-2.0, 0.5, 3.0])
    chance = torch.sigmoid(verdicts)
    assert adversarial.fooling("vanilla", verdicts) == pytest.approx(float(-chance.log().mean()))
    assert adversarial.fooling("lsgan", verdicts) == pytest.approx(float(((verdicts - 1) ** 2).mean()))
    assert adversarial.fooling("wgan-gp", verdicts) == pytest.approx(float(-verdicts.mean()))

    class Given(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    real, made = verdicts, verdicts.flip(0) * 2
    terms = adversarial.judging("vanilla", Given(), real, made, 0.5)
    assert terms["real"] == pytest.approx(0.5 * float(-chance.log().mean()))
    assert terms["made"] == pytest.approx(0.5 * float(-(1 - torch.sigmoid(made)).log().mean()), rel=1e-4)
    terms = adversarial.judging("wgan", Given(), real, made, 1)
    assert terms["real"] + terms["made"] == pytest.approx(float(made.mean() - real.mean()))


def test_the_penalty_is_the_distance_of_the_slope_from_one() -> None:
    net = torch.nn.Conv2d(1, 1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 3.0)
    slope = 3 * math.sqrt(16)
    found = adversarial.gradient_penalty(net, torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4))
    assert float(found.detach()) == pytest.approx((slope - 1) ** 2, rel=1e-5)


def test_clipped_weights_stay_in_their_bounds(corpus: Path, tmp_path: Path) -> None:
    state = training("dualgan", corpus, tmp_path, gan_mode="wgan", critic_steps=1, lr=1e-2)
    assert all(isinstance(o, torch.optim.RMSprop) for o in state.optimizers.values())
    state.step(a_batch())
    for name, net in state.nets.items():
        largest = max(float(p.detach().abs().max()) for p in net.parameters())
        assert (largest <= 0.01 + 1e-9) == name.startswith("discriminator")


def test_the_generator_waits_for_its_critic(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    loop.fit(small_config("dualgan", corpus, out, critic_steps=2, epochs=1), Display())
    [row, *_] = run.read_log(out)
    state = checkpoints.read_checkpoint(RunFolder(out).latest)
    steps = {
        k: int(t) for k, t in state.tensors.items() if k.startswith("optimizer/") and k.endswith("/step")
    }
    assert {v for k, v in steps.items() if "discriminator" in k} == {3}
    assert {v for k, v in steps.items() if "generator" in k} == {1}
    assert {"d_input_real", "gan_there", "cycle_target"} <= row["losses"].keys()


def test_half_of_the_discriminators_objective_is_the_default() -> None:
    assert {loss: OBJECTIVES[loss]().model_dump()["d_weight"] for loss in GAMES} == {
        "gan": 0.5, "cgan": 0.5, "l1+gan": 0.5, "pix2pix": 0.5, "cyclegan": 0.5, "dualgan": 1.0
    }  # fmt: skip
    assert Pix2Pix().l1_weight == 100
    assert (CycleGan().cycle_weight, CycleGan().identity, CycleGan().pool) == (10, 0.5, 50)
    assert (DualGan().reconstruction_weight, DualGan().clip) == (500, 0.01)


# ------------------------------------------------------------------------------------------ pool
def test_a_pool_of_none_gives_back_what_it_gets() -> None:
    made = torch.rand(3, 1, 2, 2)
    assert torch.equal(Pool(0, seed=1).exchange(made, 7), made)


def test_a_pool_shows_the_new_and_the_old_and_goes_on_exactly(tmp_path: Path) -> None:
    images = torch.arange(80.0).view(40, 2, 1, 1, 1)
    whole, cut = Pool(5, seed=3), Pool(5, seed=3)
    shown = [whole.exchange(made, step) for step, made in enumerate(images)]
    for step in range(20):
        cut.exchange(images[step], step)
    again = Pool(5, seed=3)
    assert cut.images is not None
    again.fill(cut.images.clone(), (1, 1), tmp_path)
    for step in range(20, 40):
        assert torch.equal(again.exchange(images[step], step), shown[step])
    assert torch.equal(torch.cat(shown[:2]), images[:2].flatten(0, 1))
    late = torch.cat(shown[5:]).flatten()
    new = torch.isin(late, images[5:].flatten()) & (late == images[5:].flatten())
    assert 0.3 < float(new.float().mean()) < 0.7
    assert set(late.tolist()) <= set(range(80))
    for wrong in (torch.zeros(6, 1, 1, 1), torch.zeros(2, 1, 3, 1), torch.zeros(2)):
        with pytest.raises(CheckpointError, match="pool of 5"):
            again.fill(wrong, (1, 1), tmp_path)


# ------------------------------------------------------------------------------------- two sides
def test_sides_are_drawn_apart_and_wholly() -> None:
    plan = Plan((10, 3), (1, 1), 4, 0, (4, 9))
    assert (plan.total, plan.steps_per_epoch, plan.drawn()) == (19, 4, (10, 9))
    order, others = plan.order(0), plan.order(0, side=1)
    assert sorted(set(order.tolist())) == list(range(13))
    assert sorted(set(others.tolist())) == list(range(13))
    assert sorted(np.bincount(others)[:4].tolist()) == [2, 2, 3, 3]
    flips = plan.flips(0)
    assert flips.shape == (2, 19)
    assert not np.array_equal(*flips)
    assert np.array_equal(*Plan((10, 3), (1, 1), 4, 0).flips(0))
    again = Plan((10, 3), (1, 1), 4, 0, (4, 9)).step(6, True)
    step = plan.step(6, True)
    assert np.array_equal(step.indices, again.indices)
    assert np.array_equal(step.others, again.others)


def picture(path: Path) -> np.ndarray:
    return images.read(path).pixels


@pytest.mark.parametrize("cache", ["ram", "off"])
def test_sides_are_read_as_they_lie(domains: Path, corpus: Path, cache: str) -> None:
    for direction in ("AtoB", "BtoA"):
        sides = pictures.open_pictures(small_config("cyclegan", domains, direction=direction), "train")
        assert isinstance(sides, pictures.SideSet)
        store = pictures.store_of(sides, cache, 0)
        given, target = store.gather(np.array([1, 4]), np.array([3, 0]))
        first, second = "AB" if direction == "AtoB" else "BA"
        assert np.array_equal(given[1], picture(domains / f"train{first}/4.png"))
        assert np.array_equal(target[0], picture(domains / f"train{second}/3.png"))
    paired = pictures.open_pictures(small_config("cyclegan", corpus), "train")
    pairs = pictures.open_pairs(small_config("l2", corpus), "train")
    assert paired is not None
    assert pairs is not None
    assert all(np.array_equal(a, b) for a, b in zip(paired.read(2), pairs.read(2), strict=True))


def test_halves_of_combined_files_are_sides_too(tmp_path: Path) -> None:
    combined = write_corpus(tmp_path / "c", {"train": 3}, layout="combined", size=(16, 32))
    sides = pictures.open_pictures(small_config("dualgan", combined), "train")
    pairs = pictures.open_pairs(small_config("l2", combined), "train")
    assert sides is not None
    assert pairs is not None
    assert all(np.array_equal(a, b) for a, b in zip(sides.read(1), pairs.read(1), strict=True))


@pytest.mark.parametrize("loss", UNPAIRED)
def test_a_run_without_pairs_from_start_to_end(loss: str, tmp_path: Path) -> None:
    root = write_domains(tmp_path / "data", 3)
    for side in "AB":
        (root / f"val{side}").mkdir()
        (root / f"val{side}" / "0.png").write_bytes((root / f"train{side}" / "2.png").read_bytes())
    out = tmp_path / "run"
    loop.fit(small_config(loss, root, out, net="resnet-6", batch=1), Display())
    rows = [row for row in run.read_log(out) if row["kind"] == "validation"]
    assert len(rows) == 2
    assert all(row["cycle_mae"] > 0 and not row["best"] and "psnr" not in row for row in rows)
    there, back = (load_generator(out, "cpu", direction) for direction in (None, "BtoA"))
    assert there.path == RunFolder(out).latest
    picture = np.zeros((1, 20, 24, 3), np.uint8)
    assert not np.array_equal(there.restore(picture), back.restore(picture))
    assert back.config.direction == "BtoA"
    assert "input again" in write_run_report(out).read_text()


def test_a_model_of_one_way_has_no_other(corpus: Path, tmp_path: Path) -> None:
    loop.fit(small_config("l2", corpus, tmp_path / "run", epochs=1), Display())
    with pytest.raises(UsageError, match="has no way BtoA: it was trained for AtoB"):
        load_generator(tmp_path / "run", "cpu", "BtoA")


def test_pairs_are_asked_for_where_they_are_needed(domains: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"unpaired, and this loss needs pairs; .*--loss cyclegan or dualgan"
    ):
        loop.fit(small_config("pix2pix", domains, tmp_path), Display())


def test_discriminators_too_large_for_the_pictures_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'patch-286': takes sides of at least 96 pixels"):
        loop.fit(small_config("pix2pix", corpus, tmp_path, discriminator="patch-286"), Display())
    assert describe("patch-70", (3, 1), 4).norm == "batch"
