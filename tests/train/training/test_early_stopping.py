"""Early stopping by patience, and the overfitting warning."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from interrupted import Killer, tree
from small_corpus import write_corpus, write_domains
from small_runs import a_batch, small_config, small_training

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.training import early_stopping, setup
from img2img_train.training import fit as loop
from img2img_train.training.signals import StoppedBySignal

pytestmark = pytest.mark.usefixtures("one_thread")

NEVER_BETTER: dict[str, Any] = {"lr": 1e-30, "epochs": 30, "checkpoint_seconds": 0}
# No weight changes, so the first validation stays the best.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 4, "val": 3}, size=(16, 16)
    )


def scored(*pairs: tuple[float, float]) -> list[dict[str, Any]]:
    return [
        {"kind": "validation", "epoch": n, "step": n, "psnr_train": train, "psnr": psnr}
        for n, (train, psnr) in enumerate(pairs, 1)
    ]


# -------------------------------------------------------------------------------------- from a log
@pytest.mark.parametrize(
    ("psnr", "count"),
    [([], 0), ([1], 0), ([1, 2, 3], 0), ([3, 2, 1], 2), ([1, 3, 3, 2], 2), ([5, 4, 6], 0)],
)
def test_staleness_counts_from_the_first_best(psnr: list[float], count: int) -> None:
    rows = [{"kind": "train", "epoch": 1}, *scored(*((0.0, value) for value in psnr))]
    assert early_stopping.validations_since_best(rows) == count


def test_overfitting_is_reported_in_one_line() -> None:
    rows = scored((23.0, 23.5), (25.0, 24.6), (26.0, 24.2), (28.14, 24.02))
    assert early_stopping.overfitting_warning(rows[:3], 250, []) is None
    assert early_stopping.overfitting_warning(rows, 250, ["--flip", "--patience"]) == (
        "overfitting: train 28.1 dB, validation 24.0 dB (best 24.6 at epoch 2), on 250 pairs; "
        "more pairs, --flip or --patience help"
    )
    text = early_stopping.overfitting_warning(rows, 1250, [])
    assert text is not None
    assert text.endswith("on 1,250 pairs; more pairs help")
    assert (
        early_stopping.overfitting_warning([*rows, {"kind": "warning", "text": text}], 250, [])
        is None
    )


def test_a_drop_on_training_pairs_too_is_not_overfitting() -> None:
    assert early_stopping.overfitting_warning(scored((25, 24), (24, 22)), 9, []) is None
    assert early_stopping.overfitting_warning(scored((25, 24), (26, 24.4)), 9, []) is None
    assert (
        early_stopping.overfitting_warning(
            [{"kind": "validation", "epoch": 1, "cycle_mae": 3.0}], 9, []
        )
        is None
    )
    assert early_stopping.overfitting_warning([], 9, []) is None


# -------------------------------------------------------------------------------------- in a run
@pytest.mark.parametrize("loss", ["l1", "pix2pix"])
def test_a_run_that_stops_early_is_finished(
    loss: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(loss, corpus, tmp_path / "run", patience=2, norm="none", **NEVER_BETTER)
    result = loop.fit(config, Display())
    assert result.early
    assert not result.already
    rows = read_log(tmp_path / "run")
    assert [row["kind"] for row in rows][-2:] == ["validation", "stopped"]
    assert rows[-1]["text"] == "stopped early after epoch 3: no better PSNR in 2 validations"
    assert rows[-1]["step"] == result.progress.step < 30 * 2
    assert rows[-1]["text"] in capsys.readouterr().err
    assert (tmp_path / "run/samples/epoch-00003.png").exists()
    assert not RunFolder(tmp_path / "run").previous.exists()
    before = tree(tmp_path / "run")
    again = loop.fit(config, Display())
    assert again.already
    assert again.early
    assert "was already finished" in (text := repr(again))
    assert "stopped early, no better PSNR in 2 validations" in text
    assert tree(tmp_path / "run") == before


@pytest.mark.parametrize("at", [2, 4, 5])
def test_an_interrupted_run_stops_at_the_same_validation(
    at: int, corpus: Path, tmp_path: Path
) -> None:
    def fit(out: str, display: Display) -> None:
        loop.fit(small_config("l2", corpus, tmp_path / out, patience=2, **NEVER_BETTER), display)

    fit("whole", Display())
    with pytest.raises(StoppedBySignal, match=f"at step {at}"):
        fit("cut", Killer("training", at * 2, signal.SIGTERM))
    fit("cut", Display())
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_a_run_that_improves_takes_all_its_steps(corpus: Path, tmp_path: Path) -> None:
    config = small_config("l1", corpus, tmp_path, patience=2, lr=3e-3, epochs=6)
    result = loop.fit(config, Display())
    rows = [row for row in read_log(tmp_path) if row["kind"] == "validation"]
    assert result.early == (len(rows) < 6)
    assert result.progress.stale_validations == early_stopping.validations_since_best(rows)


def test_patience_without_a_score_is_rejected(corpus: Path, tmp_path: Path) -> None:
    domains = write_domains(tmp_path / "domains", 3)
    with pytest.raises(
        UsageError, match=r"'--patience': needs pairs: .*cyclegan is at its best; leave it"
    ):
        small_training("cyclegan", domains, tmp_path / "a", patience=3)
    with pytest.raises(
        UsageError, match="'--patience': needs held-out pairs, but there is no split 'none'"
    ):
        small_training("l1", corpus, tmp_path / "b", patience=3, validation_split="none")


def test_later_steps_do_not_change_the_best_weights(corpus: Path, tmp_path: Path) -> None:
    trainer = small_training("l1", corpus, tmp_path)
    trainer._keep_best(trainer.progress)
    assert trainer.best is not None
    before = {name: tensor.clone() for name, tensor in trainer.best[0].items()}
    trainer.step(a_batch())
    assert all(before[name].equal(tensor) for name, tensor in trainer.best[0].items())
    now = trainer.state.network_tensors()
    assert not all(before[name].equal(tensor) for name, tensor in now.items())


def test_a_misspelled_validation_split_is_an_error(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"split 'vall'.*train, val.*--validation-split"):
        small_training("l1", corpus, tmp_path / "a", validation_split="vall")
    assert small_training("l1", corpus, tmp_path / "b", validation_split="none").data.steps


@pytest.mark.parametrize("room", [setup.SAMPLE_BYTES, 0])
def test_training_pairs_are_scored_beside_the_held_out(
    room: int, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "SAMPLE_BYTES", room)
    loop.fit(small_config("l1", corpus, tmp_path / "run", lr=5e-3, epochs=3, flip=True), Display())
    rows = [row for row in read_log(tmp_path / "run") if row["kind"] == "validation"]
    assert all(row["psnr_train"] > 0 for row in rows)
    data = small_training("l1", corpus, tmp_path / "other").data
    sample = data.train_sample(early_stopping.TRAIN_SAMPLE)
    assert sample is not None
    store, indices = sample
    assert len(indices) == 3
    assert (store == data.train) == (room == 0)
    unpaired = write_domains(tmp_path / "domains", 3)
    loop.fit(
        small_config("cyclegan", unpaired, tmp_path / "cycle", validation_split="train"), Display()
    )
    assert all("psnr_train" not in row for row in read_log(tmp_path / "cycle"))


def test_an_overfitting_run_warns_once(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(early_stopping, "OVERFITTING_DROP", 0.01)
    settings = {"lr": 1e-2, "epochs": 40, "width": 8, "norm": "none", "net": "autoencoder"}
    loop.fit(small_config("l1", corpus, tmp_path, **settings), Display())
    warnings = [row for row in read_log(tmp_path) if row["kind"] == "warning"]
    assert len(warnings) == 1
    assert warnings[0]["text"].startswith("overfitting: train ")
    assert warnings[0]["text"].endswith("on 4 pairs; more pairs, --flip or --patience help")
    assert capsys.readouterr().err.count("overfitting:") == 1
    from img2img_train.report.page import write_run_report

    page = write_run_report(tmp_path).read_text()
    assert warnings[0]["text"] in page
    assert "training pairs" in page
