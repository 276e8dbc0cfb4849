"""A run that was stopped, killed or damaged resumes to the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from interrupted import IMAGES, Killer, fit, members_gone, tree
from small_corpus import write_corpus

from img2img_data.core.errors import CheckpointError, DivergedError
from img2img_train.cli.main import main
from img2img_train.evaluation.evaluate import evaluate_matrix
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.runs import checkpoint as checkpoints
from img2img_train.runs.folder import RunFolder, read_timing
from img2img_train.runs.model import load_generator
from img2img_train.training.signals import StoppedBySignal
from img2img_train.training.trainer import Trainer


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("data")
    sizes = {"a": {"train": 9, "val": 3}, "b": {"train": 5, "val": 2}}
    return [
        f"{write_corpus(root / n, splits, size=(16, 16))}={w}"
        for (n, splits), w in zip(sizes.items(), (1, 2), strict=True)
    ]


@pytest.fixture(scope="module")
def uninterrupted(corpora: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return tree(fit(corpora, tmp_path_factory.mktemp("whole") / "run"))


# The first step, the end of an epoch and the step after it, the last step.
@pytest.mark.parametrize("at", [1, 3, 4, 9])
def test_a_run_stopped_at_a_step_resumes(
    at: int, corpora: list[str], uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(StoppedBySignal, match=f"SIGTERM at step {at}; run the same") as stopped:
        fit(corpora, tmp_path, Killer("training", at * IMAGES, signal.SIGTERM))
    assert stopped.value.exit_code == 143
    fit(corpora, tmp_path)
    assert tree(tmp_path) == uninterrupted


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_run_stopped_while_reading_resumes(
    number: int, code: int, corpora: list[str], uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    def handler(*_: object) -> None: ...

    signal.signal(number, handler)
    with pytest.raises(StoppedBySignal, match="before the first step") as stopped:
        fit(corpora, tmp_path, Killer("reading", 3, number), checkpoint_seconds=60)
    assert stopped.value.exit_code == code
    assert signal.getsignal(number) is handler
    fit(corpora, tmp_path, checkpoint_seconds=60)
    same = {n: c for n, c in tree(tmp_path).items() if "checkpoints" not in n}
    assert same == {n: c for n, c in uninterrupted.items() if "checkpoints" not in n}


@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_ignored(
    number: int, corpora: list[str], uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    signal.signal(number, signal.SIG_IGN)
    fit(corpora, tmp_path, Killer("training", IMAGES, number))
    assert signal.getsignal(number) is signal.SIG_IGN
    assert tree(tmp_path) == uninterrupted


KILLED = """
    import sys
    sys.path[:0] = [{tests!r}]
    from pathlib import Path
    from interrupted import Killer, fit
    fit({corpora!r}, Path({out!r}), Killer("training", {at}, 9), workers={workers}, cache={cache!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "cache", "at"), [(0, "ram", 5), (2, "off", 4)])
def test_a_killed_run_resumes(
    workers: int,
    cache: str,
    at: int,
    corpora: list[str],
    uninterrupted: dict[str, bytes],
    tmp_path: Path,
) -> None:
    values = {"tests": str(Path(__file__).parents[2]), "corpora": corpora, "out": str(tmp_path)}
    code = textwrap.dedent(KILLED).format(**values, at=at * IMAGES, workers=workers, cache=cache)
    done = subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert done.wait(60) == -signal.SIGKILL
    assert RunFolder(tmp_path).latest.exists()
    assert members_gone(done.pid)
    fit(corpora, tmp_path, workers=workers, cache=cache)
    assert _without_resources(tree(tmp_path)) == _without_resources(uninterrupted)


def _without_resources(files: dict[str, bytes]) -> dict[str, Any]:
    """Return the tensors of checkpoints, whose description names the workers and the cache."""
    import safetensors.torch

    return {
        name: {k: v.numpy().tobytes() for k, v in safetensors.torch.load(content).items()}
        if name.endswith(".safetensors")
        else content
        for name, content in files.items()
    }


def stopped(corpora: list[str], out: Path, at: int = 5) -> RunFolder:
    with pytest.raises(StoppedBySignal):
        fit(corpora, out, Killer("training", at * IMAGES, signal.SIGTERM))
    return RunFolder(out)


@pytest.mark.parametrize("text", [b"", b"unet"], ids=["tensor", "description"])
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(
    text: bytes, corpora: list[str], uninterrupted: dict[str, bytes], tmp_path: Path, capsys: Any
) -> None:
    folder = stopped(corpora, tmp_path)
    content = bytearray(folder.latest.read_bytes())
    content[content.index(text) if text else -9] ^= 1
    folder.latest.write_bytes(content)
    (folder.checkpoints / ".best.safetensors.tmp").write_bytes(b"half")
    fit(corpora, tmp_path)
    assert "is damaged: its SHA-256 does not match" in capsys.readouterr().err
    assert tree(tmp_path) == uninterrupted


def test_a_checkpoint_that_is_not_damaged_is_never_replaced(
    corpora: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of a newer version, or cannot be read at the moment."""
    folder = stopped(corpora, tmp_path)
    content = checkpoints.read_checkpoint(folder.latest)
    newer = content.description.model_copy(update={"format": 9})
    checkpoints.write_checkpoint(folder.latest, content.tensors, newer)
    with pytest.raises(CheckpointError, match=r"latest.*describes an unknown model"):
        fit(corpora, tmp_path)
    checkpoints.write_checkpoint(folder.latest, content.tensors, content.description)
    latest, previous = folder.latest.read_bytes(), folder.previous.read_bytes()
    for error, text in (
        (PermissionError(13, "denied"), "denied"),
        (MemoryError(), "memory"),
        (RuntimeError("Cannot allocate memory"), "memory"),
    ):
        before = checkpoints.safe_open(folder.previous, "pt")
        monkeypatch.setattr(checkpoints, "safe_open", Mock(side_effect=[error, before]))
        with pytest.raises(CheckpointError, match=rf"latest.*{text}"):
            fit(corpora, tmp_path)
        monkeypatch.undo()
    assert (folder.latest.read_bytes(), folder.previous.read_bytes()) == (latest, previous)


@pytest.mark.parametrize("tail", [b"\0\0\0\n", b"[1]\n", b'{"step": 4, "lr"'], ids=repr)
def test_damaged_ends_of_steps_and_timing_are_cut(
    tail: bytes, corpora: list[str], uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    folder = stopped(corpora, tmp_path)
    timing = folder.timing.read_bytes()
    for path in (folder.steps, folder.timing):
        path.write_bytes(path.read_bytes() + tail)
    fit(corpora, tmp_path)
    assert tree(tmp_path) == uninterrupted
    assert folder.timing.read_bytes().startswith(timing + b'{"started"')
    assert [row["epoch"] for row in read_timing(tmp_path)] == [1, 2, 3]


def test_scores_of_an_unfinished_run_say_so(corpora: list[str], tmp_path: Path) -> None:
    run = tmp_path / "a run"
    folder, settings = stopped(corpora, run), EvaluateSettings(split="val", device="cpu")
    path = Path(corpora[0].partition("=")[0])
    scored = evaluate_matrix([run], [path], settings).evaluations[0]
    hint = f"; 'img2img-train resume '{run}'' continues it"  # quoted for a shell
    expected = f"' is unfinished: step 3 of 9; the model is that of step 3{hint}"
    assert scored.notes[0].endswith(expected)
    best = folder.best.rename(tmp_path / "best.safetensors")
    (latest,) = load_generator(run).notes
    assert latest.endswith(f"' is unfinished: step 5 of 9; the model is that of step 5{hint}")
    best.rename(folder.best)
    log = folder.log.read_bytes()
    for damaged in (b"damaged\n", b"damaged\nhalf", b"{}\n"):
        folder.log.write_bytes(damaged)
        assert not load_generator(run).notes, "a model needs its checkpoint alone"
    folder.log.write_bytes(log)
    fit(corpora, run)
    scored = evaluate_matrix([run], [path], settings).evaluations[0]
    assert not any("unfinished" in note for note in scored.notes)


def test_a_prolonged_run_falls_back_to_the_previous_checkpoint(
    corpora: list[str], tmp_path: Path
) -> None:
    folder = stopped(corpora, tmp_path)
    folder.latest.write_bytes(folder.latest.read_bytes()[:-1])
    assert folder.latest_step() == 4
    main(["resume", str(tmp_path), "--epochs", "4", "--no-report"])
    change = {"step": 4, "epochs": [3, 4]}
    assert json.loads(folder.config.read_bytes())["changes"] == [change]
    assert folder.latest_step() == 12


def test_two_damaged_checkpoints_are_an_error(corpora: list[str], tmp_path: Path) -> None:
    folder = stopped(corpora, tmp_path)
    for path in (folder.latest, folder.previous):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        fit(corpora, tmp_path)


def test_some_tensors_of_a_checkpoint_can_be_read_alone(corpora: list[str], tmp_path: Path) -> None:
    path = stopped(corpora, tmp_path).latest
    uninterrupted, part = (
        checkpoints.read_checkpoint(path, prefix) for prefix in ("", ("network/", "ema/"))
    )
    expected = {name for name in uninterrupted.tensors if name.startswith("network/")}
    assert set(part.tensors) == expected < set(uninterrupted.tensors)
    assert all(bool((part.tensors[name] == uninterrupted.tensors[name]).all()) for name in expected)
    assert part.description == uninterrupted.description
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoints.read_checkpoint(path, "network/")


def test_a_checkpoint_from_behind_the_end_of_the_run_is_rejected(
    corpora: list[str], tmp_path: Path
) -> None:
    folder = stopped(corpora, tmp_path)
    good = checkpoints.read_checkpoint(folder.latest)
    progress = good.description.progress.model_copy(update={"step": 10**9})
    about = good.description.model_copy(update={"progress": progress})
    checkpoints.write_checkpoint(folder.latest, good.tensors, about)
    with pytest.raises(CheckpointError, match=r"latest.* is at step 1,000,000,000 of [0-9]+;"):
        fit(corpora, tmp_path)


def test_weights_that_are_not_finite_end_a_run_that_keeps_epochs_too(
    corpora: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(trainer: Trainer) -> None:
        next(trainer.state.nets["generator"].parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(Trainer, "_write_samples", lambda trainer, epoch: spoil(trainer))
    with pytest.raises(DivergedError, match=r"is not finite.*lower --lr"):
        fit(corpora, tmp_path, keep_every=1, samples_every=1)
    assert not list(tmp_path.glob("checkpoints/epoch-*"))


def test_divergence_names_the_step(corpora: list[str], tmp_path: Path) -> None:
    folder = stopped(corpora, tmp_path)
    good = checkpoints.read_checkpoint(folder.latest)
    huge = {
        k: t * 1e36 if "network" in k and k.endswith("0.weight") else t
        for k, t in good.tensors.items()
    }
    checkpoints.write_checkpoint(folder.latest, huge, good.description)
    with pytest.raises(
        DivergedError, match=r"diverged at step 6 \(l2 nan\).*lower --lr.*latest.*step 5"
    ) as error:
        fit(corpora, tmp_path, checkpoint_seconds=60)
    assert error.value.exit_code == 3
