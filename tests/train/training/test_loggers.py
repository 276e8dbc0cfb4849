"""TensorBoard and the live report agree with the files of a run, and do not change them."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from interrupted import Killer, tree
from small_corpus import write_corpus
from small_runs import small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_train.runs.folder import read_log, sample_paths
from img2img_train.training import fit as loop
from img2img_train.training import loggers
from img2img_train.training.signals import StoppedBySignal

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(
        tmp_path_factory.mktemp("data") / "corpus", {"train": 5, "val": 2}, size=(16, 16)
    )


def fit(
    corpus: Path, out: Path, display: Display | None = None, report: bool = False, **more: Any
) -> Path:
    settings = {"epochs": 4, "samples_every": 2, "checkpoint_seconds": 0, **more}
    loop.fit(small_config("l1", corpus, out, **settings), display or Display(), report)
    return out


def on_board(run: Path) -> tuple[Counter[tuple[str, int]], Counter[int]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0}
    )
    board.Reload()
    scalars = Counter((tag, e.step) for tag in board.Tags()["scalars"] for e in board.Scalars(tag))
    return scalars, Counter(e.step for e in board.Images("samples"))


def test_tensorboard_shows_each_row_of_the_log_once(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedBySignal, match="at step 5"):
        fit(corpus, tmp_path / "cut", Killer("training", 5 * 2, signal.SIGTERM), tensorboard=True)
    scalars, grids = on_board(fit(corpus, tmp_path / "cut", tensorboard=True))
    rows = read_log(tmp_path / "cut")
    expected = {
        (f"{row['kind']}/{name}", row["step"])
        for row in rows
        for name, value in (row | row.get("losses", {})).items()
        if isinstance(value, float)
    }
    assert set(scalars) == expected
    assert {"train/l1", "validation/psnr", "validation/psnr_train"} <= {tag for tag, _ in expected}
    assert set(scalars.values()) == {1}
    assert len(sample_paths(tmp_path / "cut")) == 2
    assert grids == Counter([4, 8])


def test_loggers_do_not_change_the_run(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    fit(corpus, tmp_path / "plain")
    fit(corpus, tmp_path / "looked", tensorboard=True)
    seen, plain = tree(tmp_path / "looked"), tree(tmp_path / "plain")
    assert {n: c for n, c in seen.items() if "board" not in n and "checkpoints" not in n} == {
        n: c for n, c in plain.items() if "checkpoints" not in n
    }


def test_without_tensorboard_there_is_one_line(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(UsageError, match=r"needs 'tensorboard'.*'img2img\[tensorboard\]'"):
        fit(corpus, tmp_path / "run", tensorboard=True)


def test_the_report_is_written_while_the_run_trains(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "REPORT_SECONDS", 0.0)
    monkeypatch.setattr(loggers, "REPORT_SHARE", 1e9)
    with pytest.raises(StoppedBySignal):
        fit(corpus, tmp_path / "run", Killer("training", 5 * 2, signal.SIGTERM), report=True)
    report = (tmp_path / "run/report.html").read_text()
    assert "Validation PSNR" in report
    assert "epoch 2" in report
    fit(corpus, tmp_path / "run", report=True)
    folder = loop.RunFolder(tmp_path / "run")
    assert not folder.has_current_report(), "the last page is still to be written, with the scores"


def test_the_report_takes_a_small_share_of_the_time(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = fit(corpus, tmp_path / "run"), []
    now = [1000.0]

    def write(path: Path) -> None:
        now[0] += 2.0
        written.append(now[0])

    monkeypatch.setattr(loggers, "write_run_report", write)
    monkeypatch.setattr(loggers.time, "monotonic", lambda: now[0])
    report = loggers.LiveReport(run)
    for _ in range(3000):
        now[0] += 0.5
        report.refresh()
    assert len(written) > 5
    assert len(written) * 2.0 <= 0.025 * (now[0] - 1000)
