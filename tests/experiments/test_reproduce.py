"""Experiments: their commands, rules and claims, and one run from photos to its page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import claims
import numpy as np
import pytest
from catalogue import EXPERIMENTS, Experiment, by_corpus, by_cycle, by_metric
from claims import Claim, ClaimResult, ModelScores, Results, TrainedModel, better, gains, status_of
from conftest import write_photos
from pages import check_self_contained
from reproduce import PROGRAMS, ExperimentRun, command, commands, markdown, measure, write_results
from small_corpus import write_domains
from small_runs import small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_data.images import io
from img2img_train.cli.main import main
from img2img_train.config import config_of, read_recipe
from img2img_train.evaluation.score import Evaluation, ImageScores
from img2img_train.metrics.color_overlap import ColorHistograms
from img2img_train.training import fit as loop

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = """\
corpus:
  - blur: {source: photos, out: corpora/tiny, size: 16, sigma: 2, split: 'train=0.5,test=0.5',
      jobs: 1}
run: {corpora: corpora/tiny, out: runs/tiny, loss: l1, net: unet, width: 4, batch: 4, epochs: 90,
  threads: 1}
smoke:
  run: {epochs: 2}
"""
EXPERIMENT = Experiment(
    "A tiny one",
    {"tiny": "tiny"},
    [
        Claim("It beats the input", gains("tiny", "photos")),
        Claim("|", gains("tiny", "photos", "lab-a")),
    ],
    by_metric("psnr", "lab-a", claims.EDGES),
    {"photos": "tiny"},
)


def run_of(folder: Path, name: str = "tiny", **settings: Any) -> ExperimentRun:
    return ExperimentRun(name, True, folder, folder / "results", folder, 1, "cpu", **settings)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    main([str(word) for word in words], command, "reproduce")


# ------------------------------------------------------------------------------------ catalogue
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("smoke", [True, False])
def test_every_experiment_builds_what_it_names(name: str, smoke: bool) -> None:
    experiment, run = EXPERIMENTS[name], ExperimentRun(name, smoke, Path(), Path("out"), RECIPES)
    done = commands(run)
    assert all(words[0] in PROGRAMS for words in done)
    assert len([words for words in done if words[0] == "img2img-train"]) == len(experiment.models)
    assert experiment.tests
    runs = [run.config(model).out for model in experiment.models]
    assert len(set(runs)) == len(runs)
    outs = {
        step["out"]
        for recipe in [*experiment.models.values(), *experiment.corpora]
        for part in _corpora_of(recipe, smoke)
        for step in part.values()
    }
    assert {str(run.corpus(test)) for test in experiment.tests} <= outs


def _corpora_of(recipe: str, smoke: bool) -> list[dict[str, Any]]:
    from img2img_data.core.yaml_file import read_yaml

    content = read_yaml(RECIPES / f"{recipe}.yaml").content
    small = content.get("smoke", {}).get("corpus") if smoke else None
    return list(small or content["corpus"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_of_an_experiment_has_a_status(name: str) -> None:
    experiment = EXPERIMENTS[name]
    log = [
        {"kind": "train", "epoch": epoch, "losses": {"cycle_input": 4 / epoch, "l1": 9.0}}
        for epoch in (1, 3)
    ]
    log.append(
        {"kind": "validation", "epoch": 3, "psnr": 20.0, "psnr_train": 22.5, "cycle_mae": 9.0}
    )
    models = {model: TrainedModel("a net", 9, log, 1.5) for model in experiment.models}
    tests = experiment.tests if name != "seasons" else ()
    seen = {(model, test): scores_of(place) for place, model in enumerate(models) for test in tests}
    results = Results(models, seen)
    for claim in experiment.claims:
        result = claim.rule(results)
        assert result.status in {"confirmed", "not confirmed", "inconclusive"}
        assert any(letter.isdigit() for letter in result.numbers)
    head, rows = experiment.table(results)
    assert {len(row) for row in rows} == {len(head)}


def test_steps_of_the_overfitting_runs_are_equal() -> None:
    for smoke in (True, False):
        configs = [
            config_of(read_recipe(RECIPES / f"wiki_pairs{n}.yaml", smoke))
            for n in (250, 1000, 3000)
        ]
        images = [c.epochs * n for c, n in zip(configs, (250, 1000, 3000), strict=True)]
        assert len(set(images)) == 1
        assert len({c.batch for c in configs}) == 1


# ---------------------------------------------------------------------------------------- rules
def scores_of(shift: float, images: int = 8) -> ModelScores:
    """Return the scores of a model whose PSNR is better by ``shift`` dB on every photo."""
    rng = np.random.default_rng(1)
    base = 20 + rng.normal(size=images)
    rows = tuple(
        ImageScores(
            str(n),
            str(n),
            str(n),
            dict.fromkeys(("psnr", "ssim", "ms-ssim"), v + shift) | {"mae": 9 - shift},
            {},
        )
        for n, v in enumerate(base)
    )
    names = claims.LABELS.keys() - {claims.EDGES}
    evaluation = Evaluation(
        images, images,
        dict.fromkeys(names, 20 + shift), dict.fromkeys(names, 19.0),
        dict.fromkeys(names, 1 + shift),
        dict.fromkeys(names, (0.5 + shift, 1.5 + shift)), "run", "corpus", "test", rows,
    )  # fmt: skip
    colors = ColorHistograms()
    for n in range(images):
        plain = np.full((4, 4, 3), 30 * n, np.uint8)
        colors.update(str(n), plain, plain + np.uint8(max(shift, 0)), plain)
    return ModelScores(evaluation, colors, np.full(images, 0.5 + shift))


def result_of(rule: claims.Rule, first: float, second: float) -> ClaimResult:
    return rule(
        Results(
            {},
            {
                ("a", "t"): scores_of(first),
                ("b", "t"): scores_of(second),
                ("a", "u"): scores_of(second),
            },
        )
    )


def test_a_difference_beyond_chance_is_confirmed() -> None:
    for metric in ("psnr", "mae", claims.EDGES):
        assert result_of(better(metric, "a", "b", "t"), 0.2, 0.0).status == "confirmed"
        assert result_of(better(metric, "a", "b", "t"), 0.0, 0.2).status == "not confirmed"
        assert result_of(claims.no_better(metric, "a", "b", "t"), 0.0, 0.2).status == "confirmed"
        assert (
            result_of(claims.no_better(metric, "a", "b", "t"), 0.2, 0.0).status == "not confirmed"
        )
        assert result_of(better(metric, "a", "b", "t"), 0.0, 0.0).status == "inconclusive"
    assert result_of(better("lab-l", "a", "b", "t"), 0.0, 9.0).status == "confirmed"
    assert result_of(better("lab-l", "a", "b", "t"), 9.0, 0.0).status == "not confirmed"
    assert status_of(1.0, None) == "confirmed"
    assert status_of(-1.0, None) == "not confirmed"


def test_gains_and_shares_of_gains() -> None:
    assert result_of(gains("a", "t"), 0.0, 0.0).status == "confirmed"
    assert result_of(claims.harms("a", "t"), 0.0, 0.0).status == "not confirmed"
    assert result_of(claims.harms("a", "t"), -3.0, 0.0).status == "confirmed"
    assert result_of(claims.harms("a", "t"), -1.0, 0.0).status == "inconclusive"
    assert result_of(claims.share("t", "u", "a", least=0.8), 2.0, 2.0).status == "inconclusive"
    assert result_of(claims.share("t", "u", "a", least=0.8), 4.0, 2.0).status == "confirmed"
    assert result_of(claims.share("t", "u", "a", most=0.5), 0.0, 6.0).status == "confirmed"
    assert result_of(claims.share("t", "u", "a", most=0.5), 6.0, 6.0).status == "not confirmed"


def test_logs_are_compared_without_an_interval() -> None:
    def trained(gap: float, end: float) -> TrainedModel:
        log: list[dict[str, Any]] = [
            {"kind": "train", "losses": {"cycle_input": 1.0, "cycle_target": 1.0, "gan": 9.0}},
            {"kind": "train", "losses": {"cycle_input": end, "cycle_target": end, "gan": 9.0}},
            {"kind": "validation", "psnr": 20.0, "psnr_train": 20.0 + gap},
        ]
        return TrainedModel("", 1, log, 0.0)

    results = Results({"a": trained(2.0, 0.5), "b": trained(0.9, 0.6), "c": trained(-0.1, 0.4)}, {})
    assert claims.wider_gap("a", "b", 2)(results).status == "confirmed"
    assert claims.wider_gap("a", "b", 3)(results).status == "not confirmed"
    assert claims.wider_gap("b", "c")(results).status == "confirmed"
    statuses = [claims.halves_cycle(name)(results).status for name in "abc"]
    assert statuses == ["confirmed", "not confirmed", "confirmed"]


# -------------------------------------------------------------------------------------- doing one
@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_photos(tmp_path / "photos", 16)
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setitem(EXPERIMENTS, "tiny", EXPERIMENT)
    return tmp_path


def test_an_experiment_from_photos_to_its_page(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("tiny", "--data", tiny, "--recipes", tiny, "--out", tiny / "results", "--jobs", 1)
    call(monkeypatch, *words, "--device", "cpu", "--dry-run")
    assert not (tiny / "corpora").exists()
    planned = capfd.readouterr().out.split("\n")
    call(monkeypatch, *words, "--device", "cpu")
    output = capfd.readouterr()
    assert all(line in output.err for line in planned)
    page = json.loads((tiny / "results" / "results.json").read_text())
    assert page["commands"] == planned[:2]
    assert (page["scale"], page["seeds"], page["split"]) == ("smoke", [0], "test")
    assert [claim["claim"] for claim in page["claims"]] == [
        claim.text for claim in EXPERIMENT.claims
    ]
    assert page["evaluations"][0]["images"] == len(
        (tiny / "corpora/tiny/test/metadata.jsonl").read_text().splitlines()
    )
    assert (tiny / "results" / "results.md").read_text() in output.out
    assert "| \\| |" in (tiny / "results" / "results.md").read_text()
    check_self_contained((tiny / "results" / "results.html").read_text())
    contact = io.read(tiny / "results" / "contact.png").pixels
    assert contact.shape[1] > 3 * 128
    before = (tiny / "results" / "results.json").read_bytes()
    run = ExperimentRun("tiny", True, tiny, tiny / "results", tiny, 1, "cpu")
    write_results(run, *measure(run), commands(run))
    assert (tiny / "results" / "results.json").read_bytes() == before


def test_a_command_that_fails_ends_the_experiment(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for photo in (tiny / "photos").iterdir():
        photo.unlink()
    with pytest.raises(SystemExit) as end:
        call(
            monkeypatch, "tiny", "--data", tiny, "--recipes", tiny, "--out", tiny / "r", "--jobs", 1
        )
    assert end.value.code not in (0, None)
    assert "[2/2]" not in capfd.readouterr().err
    assert not (tiny / "r").exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_reaches_the_command(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    code = (
        "import sys; import reproduce as r; r.PROGRAMS['x'] = 'wait';"
        "sys.exit(r.run_command(['x'], r.Path(sys.argv[1])))"
    )
    (tmp_path / "wait.py").write_text(
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "pathlib.Path('up').touch(); time.sleep(30)\n"
    )
    paths = os.pathsep.join(
        [
            str(tmp_path),
            os.environ.get("PYTHONPATH", ""),
            str(RECIPES.parent),
            str(RECIPES.parent / "experiments"),
        ]
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
    )
    until = time.monotonic() + 20
    while not (tmp_path / "up").exists() and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 143


def test_unpaired_corpora_are_shown_with_their_cycle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_domains(tmp_path / "sides", 5)
    settings = {
        "corpora": str(tmp_path / "sides"),
        "out": str(tmp_path / "run"),
        "loss": "cyclegan",
    }
    experiment = Experiment("Sides", {"one": "one"}, [], by_cycle, {"sides": "one"}, split="train")
    monkeypatch.setitem(EXPERIMENTS, "sides", experiment)
    config = small_config("cyclegan", tmp_path / "sides", tmp_path / "run")
    loop.fit(config, Display())
    (tmp_path / "one.yaml").write_text(
        json.dumps({"run": settings, "smoke": {"run": {"out": settings["out"]}}})
    )
    run = run_of(tmp_path, "sides")
    results, strips = measure(run)
    assert list(strips[0].images) == ["input", "one", "one, cycle"]
    write_results(run, results, strips, commands(run))
    assert "cycle loss" in (tmp_path / "results" / "results.md").read_text()


def test_missing_names_and_folders_are_one_line(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="did you mean 'losses'"):
        commands(run_of(tiny, "loses"))
    with pytest.raises(UsageError, match="name the folder of recipes by --recipes"):
        commands(ExperimentRun("losses", True, tiny, tiny, tiny / "none"))
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "tiny", "--recipes", tiny, "--data", tiny / "none")
    assert end.value.code == 2


def test_the_experiments_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "--list")
    assert len(capsys.readouterr().out.splitlines()) == len(EXPERIMENTS)


def test_a_table_of_several_corpora() -> None:
    seen = {("a", test): scores_of(0.0) for test in ("x", "y")}
    head, rows = by_corpus(Results({"a": TrainedModel("net", 1, [], 2.0)}, seen))
    assert head[2:4] == ["x, PSNR dB", "y, PSNR dB"]
    assert rows[1][2] == "20.00 (+1.00)"
    page = {
        "title": "T", "name": "n", "note": "", "scale": "smoke", "split": "test", "claims": [],
        "commands": ["c"],
        "table": {"head": head, "rows": rows}, "versions": {"a": "1"}, "seeds": [0], "machine": "m",
    }  # fmt: skip
    assert "| a | net | 20.00 (+1.00) | 20.00 (+1.00) | 2.0 |" in markdown(page)
