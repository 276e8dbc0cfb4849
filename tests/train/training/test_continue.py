"""Runs that start from the networks of another run, and finished runs that go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small_corpus import write_corpus
from small_runs import small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import CorpusError, UsageError
from img2img_train.cli.main import main
from img2img_train.config import RunConfig
from img2img_train.objectives.gan import GanObjective
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.checkpoint import Tensors, read_checkpoint
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.training import fit as loop

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "corpus"
    return write_corpus(root, {"train": 6, "val": 2}, size=(18, 30))


@pytest.fixture(scope="module")
def restorer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a generator alone, with averaged weights."""
    out = tmp_path_factory.mktemp("runs") / "l1"
    loop.fit(small_config("l1", corpus, out, epochs=1, ema=0.5), Display())
    return out


def latest(run: Path) -> Tensors:
    return read_checkpoint(RunFolder(run).latest).tensors


def same(one: Tensors, two: Tensors) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# ------------------------------------------------------------------------------------------- init
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_a_run_starts_from_the_networks_that_another_has(
    loss: str, corpus: Path, restorer: Path, tmp_path: Path
) -> None:
    """The averaged generator is taken, the other networks are those of a run from scratch."""
    trainer, scratch = (
        small_training(loss, corpus, tmp_path / name, ema=ema)
        for name, ema in (("tuned", 0.9), ("scratch", 0))
    )
    source = read_checkpoint(RunFolder(restorer).best)
    line = trainer.state.initialize(source, trainer.config)
    for name, net in trainer.state.nets.items():
        weights, fresh = net.state_dict(), scratch.state.nets[name].state_dict()
        assert same(
            weights, source.tensors_under("ema/generator/") if name == "generator" else fresh
        )
        assert name in line
    assert ("anew" in line) == (len(trainer.state.nets) > 1)
    assert trainer.state.ema is not None
    averaged = trainer.state.ema.nets["generator"].state_dict()
    assert same(averaged, trainer.state.nets["generator"].state_dict())


def test_a_discriminator_is_taken_along(corpus: Path, tmp_path: Path) -> None:
    loop.fit(small_config("pix2pix", corpus, tmp_path / "first", epochs=1), Display())
    trainer = small_training("pix2pix", corpus, tmp_path / "second", seed=9)
    first = read_checkpoint(RunFolder(tmp_path / "first").latest)
    assert "anew" not in trainer.state.initialize(first, trainer.config)
    for name, net in trainer.state.nets.items():
        assert same(net.state_dict(), first.tensors_under(f"network/{name}/"))


def test_an_interrupted_start_needs_the_source_only_once(
    corpus: Path, restorer: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes(RunFolder(restorer).best.read_bytes())
    config = small_config("l1", corpus, tmp_path / "run", init=str(source), lr=1e-4)
    loop.fit(config, Display())
    respelled = config.model_copy(update={"init": f"{tmp_path}/./source.safetensors"})
    assert loop.fit(respelled, Display()).already
    source.unlink()
    assert loop.fit(config, Display()).already
    again = f"fit {corpus} --init {source} --loss l1 --out {tmp_path / 'run'} --no-report"
    unchanged = "--batch 2 --epochs 2 --threads 1 --samples-every 0 --device cpu --lr 1e-4"
    first_version = "--preset original --precision fp32"
    main([*again.split(), *unchanged.split(), *first_version.split()])


def test_a_start_of_a_wrong_loss_is_one_line(
    corpus: Path, restorer: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fit", str(corpus), "--init", str(restorer), "--loss", "nope"])
    assert "'nope' is unknown" in capfd.readouterr().err


def test_networks_that_do_not_fit_are_one_line_and_leave_nothing(
    corpus: Path, restorer: Path, tmp_path: Path
) -> None:
    config = small_config("l2", corpus, tmp_path / "run", init=str(restorer), width=6)
    with pytest.raises(UsageError, match=r"is \(4, .*in the network it is \(6, ") as error:
        loop.fit(config, Display())
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run/config.json").exists()


def test_the_generators_settings_are_those_of_the_source(
    corpus: Path, restorer: Path, tmp_path: Path
) -> None:
    words = f"--init {restorer} --loss pix2pix --epochs 1 --out {tmp_path / 'run'}"
    words += " --d-width 4 --discriminator patch-16"
    main(["fit", str(corpus), "--no-report", *words.split()])
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert (config["net"], config["width"], config["batch"]) == ("unet", 4, 1)


@pytest.mark.parametrize("loss", ["--loss cgan", "--preset pix2pix --crop 0 --load-size 0"])
def test_the_discriminators_settings_are_those_of_the_source(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    loop.fit(small_config("pix2pix", corpus, tmp_path / "first", epochs=1), Display())
    words = f"--init {tmp_path / 'first'} {loss} --epochs 1 --out {tmp_path / 'run'}"
    main(["fit", str(corpus), "--no-report", *words.split()])
    first, config = (RunConfig.load(tmp_path / name).objective for name in ("first", "run"))
    assert isinstance(first, GanObjective)
    assert isinstance(config, GanObjective)
    assert (config.discriminator, config.d_width) == (first.discriminator, first.d_width)
    assert config.d_width != GanObjective.model_fields["d_width"].default


# ------------------------------------------------------------------------------------------ resume
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_a_finished_run_goes_on_as_if_it_had_been_longer(
    loss: str, corpus: Path, tmp_path: Path
) -> None:
    def fit(out: str, **settings: Any) -> Path:
        config = small_config(loss, corpus, tmp_path / out, ema=0.9, flip=True, **settings)
        loop.fit(config, Display(), changed=True)
        return tmp_path / out

    long, prolonged = fit("long", epochs=3), fit("prolonged", epochs=1)
    fit("prolonged", epochs=3)
    assert same(latest(long), latest(prolonged))
    assert read_log(long) == read_log(prolonged)
    page = json.loads((prolonged / "config.json").read_text())
    assert page["changes"] == [{"step": 3 * 2 // 2, "epochs": [1, 3]}]
    fit("prolonged", epochs=3)
    assert json.loads((prolonged / "config.json").read_text()) == page


@pytest.mark.parametrize(
    ("first", "then", "together"),
    [
        ("--preset original --max-steps 10", "--max-steps 20", "--preset original --max-steps 20"),
        ("--preset original --max-steps 4", "--epochs 3", "--preset original --epochs 3"),
        (
            "--preset original --epochs 2",
            "--max-steps 8",
            "--preset original --epochs 3 --max-steps 8",
        ),
        # Rates that fall over all epochs, of which a limit in steps cuts the last ones.
        ("--max-steps 4", "--max-steps 8", "--max-steps 8"),
        ("--epochs 9 --max-steps 4", "--max-steps 8", "--epochs 9 --max-steps 8"),
    ],
)
def test_a_run_cut_short_goes_on_to_any_later_end(
    first: str,
    then: str,
    together: str,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its weights, and the rates of its steps, are those of a run that had this end."""
    tiny = "--net unet --width 4 --batch 2 --threads 1 --device cpu --precision fp32 --no-report"
    cut, longer = tmp_path / "cut", tmp_path / "longer"
    for words in (f"{first} --out {cut}", f"{together} --out {longer}"):
        main(["fit", str(corpus), *words.split(), *tiny.split()])
    for fewer in ("--max-steps 3", "--epochs 1"):
        with pytest.raises(SystemExit, match="2"):
            main(["resume", str(cut), *fewer.split()])
    with pytest.raises(SystemExit, match="2"):
        main(["fit", str(corpus), *together.split(), "--out", str(cut), *tiny.split()])
    assert "or give the new end to 'img2img-train resume'" in capsys.readouterr().err
    old_end = RunFolder(cut).latest_step()
    main(["resume", str(cut), *then.split(), "--no-report"])
    end = RunFolder(cut).latest_step()
    assert old_end is not None
    assert end is not None
    steps = f"{end} steps, the last {end - old_end} in "
    assert steps in capsys.readouterr().out
    assert same(latest(cut), latest(longer))
    assert RunFolder(cut).steps.read_bytes() == RunFolder(longer).steps.read_bytes()


def test_a_change_is_refused_on_other_images_and_after_early_stopping(
    corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings: dict[str, Any] = {"patience": 1, "lr": 1e-9}
    loop.fit(small_config("l2", corpus, run, epochs=6, **settings), Display())
    assert read_log(run)[-1]["kind"] == "stopped"
    longer = small_config("l2", corpus, run, epochs=9, **settings)
    with pytest.raises(UsageError, match="fit --init"):
        loop.fit(longer, Display(), changed=True)
    other = write_corpus(tmp_path / "c", {"train": 4, "val": 2}, size=(18, 30))
    loop.fit(small_config("l2", other, tmp_path / "b", epochs=1), Display())
    shutil.rmtree(other)
    write_corpus(other, {"train": 5, "val": 2}, size=(18, 30))
    before = (tmp_path / "b/config.json").read_bytes()
    with pytest.raises((UsageError, CorpusError)):
        loop.fit(small_config("l2", other, tmp_path / "b", epochs=2), Display(), changed=True)
    assert (tmp_path / "b/config.json").read_bytes() == before


def test_fewer_epochs_are_refused(restorer: Path) -> None:
    main(["resume", str(restorer), "--epochs", "1", "--no-report"])
    with pytest.raises(SystemExit, match="2"):
        main(["resume", str(restorer), "--epochs", "0"])


@pytest.mark.parametrize("data", [None, 3, {"steps": 8}, {"steps": 8, "steps_per_epoch": "x"}])
def test_a_config_that_lost_its_steps_is_one_line(
    data: Any, restorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(restorer, tmp_path / "run")
    config = tmp_path / "run/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"data": data}))
    with pytest.raises(SystemExit, match="2"):
        main(["resume", str(tmp_path / "run"), "--max-steps", "99"])
    error = f"error: run '{config}': is damaged: 'data' does not state the steps; train into "
    assert capsys.readouterr().err.startswith(error)


def test_checkpoints_of_epochs_are_kept(corpus: Path, tmp_path: Path) -> None:
    loop.fit(small_config("l2", corpus, tmp_path / "run", epochs=4, keep_every=2), Display())
    kept = sorted((tmp_path / "run/checkpoints").glob("epoch-*"))
    assert [path.name for path in kept] == ["epoch-00002.safetensors", "epoch-00004.safetensors"]
    last = read_checkpoint(kept[-1])
    assert not last.description.complete
    assert same(
        last.tensors, {n: t for n, t in latest(tmp_path / "run").items() if n[:7] == "network"}
    )
