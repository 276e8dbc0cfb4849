"""An experiment is built, trained, scored and held against its claims, by the commands that it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import claims as findings
import numpy as np
import pytest
from catalogue import EXPERIMENTS, Experiment, by_corpus, by_cycle, by_metric
from claims import Claim, Finding, Results, Seen, Trained, better, gains, judged
from conftest import write_photos
from pages import check_self_contained
from reproduce import PROGRAMS, Task, command, commands, markdown, measure, write_results
from small_corpus import write_domains
from small_runs import small_config

from img2img_data.core.errors import UsageError
from img2img_data.core.progress import Display
from img2img_data.images import io
from img2img_train.cli.main import main
from img2img_train.config import config_of, read_recipe
from img2img_train.evaluation.score import Cell, Row
from img2img_train.metrics.color_overlap import Histograms
from img2img_train.training import fit as loop

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = """\
corpus:
  - blur: {source: photos, out: corpora/tiny, size: 16, sigma: 2, split: 'train=0.5,test=0.5', jobs: 1}
run: {corpora: corpora/tiny, out: runs/tiny, loss: l1, net: unet, width: 4, batch: 4, epochs: 90, threads: 1}
smoke:
  run: {epochs: 2}
"""
EXPERIMENT = Experiment(
    "A tiny one",
    {"tiny": "tiny"},
    [
        Claim("It beats doing nothing", gains("tiny", "photos")),
        Claim("|", gains("tiny", "photos", "lab-a")),
    ],
    by_metric("psnr", "lab-a", findings.EDGES),
    {"photos": "tiny"},
)


def task_of(folder: Path, name: str = "tiny", **settings: Any) -> Task:
    return Task(name, True, folder, folder / "results", folder, 1, "cpu", **settings)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    main([str(word) for word in words], command, "reproduce")


# ------------------------------------------------------------------------------ the experiments there are
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("smoke", [True, False])
def test_every_experiment_has_what_it_names(name: str, smoke: bool) -> None:
    experiment, task = EXPERIMENTS[name], Task(name, smoke, Path(), Path("out"), RECIPES)
    done = commands(task)
    assert all(words[0] in PROGRAMS for words in done)
    assert len([words for words in done if words[0] == "img2img-train"]) == len(experiment.models)
    assert experiment.tests
    outs = [task.config(model).out for model in experiment.models]
    assert len(set(outs)) == len(outs)
    made = {
        step["out"]
        for recipe in [*experiment.models.values(), *experiment.corpora]
        for part in _corpora_of(recipe, smoke)
        for step in part.values()
    }
    assert {str(task.corpus(test)) for test in experiment.tests} <= made


def _corpora_of(recipe: str, smoke: bool) -> list[dict[str, Any]]:
    from img2img_data.core.yaml_file import read_yaml

    content = read_yaml(RECIPES / f"{recipe}.yaml").content
    small = content.get("smoke", {}).get("corpus") if smoke else None
    return list(small or content["corpus"])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_of_an_experiment_can_be_judged(name: str) -> None:
    experiment = EXPERIMENTS[name]
    log = [
        {"kind": "train", "epoch": epoch, "losses": {"cycle_input": 4 / epoch, "l1": 9.0}}
        for epoch in (1, 3)
    ]
    log.append(
        {"kind": "validation", "epoch": 3, "psnr": 20.0, "psnr_train": 22.5, "cycle_mae": 9.0}
    )
    models = {model: Trained("a net", 9, log, 1.5) for model in experiment.models}
    tests = experiment.tests if name != "seasons" else ()
    seen = {(model, test): seen_of(place) for place, model in enumerate(models) for test in tests}
    results = Results(models, seen)
    for claim in experiment.claims:
        finding = claim.rule(results)
        assert finding.held in {"held", "not held", "within chance"}
        assert any(letter.isdigit() for letter in finding.numbers)
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


# ----------------------------------------------------------------------------------------- the rules
def seen_of(shift: float, images: int = 8) -> Seen:
    """A model whose PSNR is better by ``shift`` dB, without spread between the photos but its own."""
    rng = np.random.default_rng(1)
    base = 20 + rng.normal(size=images)
    rows = tuple(
        Row(
            str(n),
            str(n),
            str(n),
            dict.fromkeys(("psnr", "ssim", "ms-ssim"), v + shift) | {"mae": 9 - shift},
            {},
        )
        for n, v in enumerate(base)
    )
    names = findings.LABELS.keys() - {findings.EDGES}
    cell = Cell(
        images, images,
        dict.fromkeys(names, 20 + shift), dict.fromkeys(names, 19.0), dict.fromkeys(names, 1 + shift),
        dict.fromkeys(names, (0.5 + shift, 1.5 + shift)), "run", "corpus", "test", rows,
    )  # fmt: skip
    colors = Histograms()
    for n in range(images):
        plain = np.full((4, 4, 3), 30 * n, np.uint8)
        colors.add(str(n), plain, plain + np.uint8(max(shift, 0)), plain)
    return Seen(cell, colors, np.full(images, 0.5 + shift))


def found(rule: findings.Rule, first: float, second: float) -> Finding:
    return rule(
        Results(
            {},
            {("a", "t"): seen_of(first), ("b", "t"): seen_of(second), ("a", "u"): seen_of(second)},
        )
    )


def test_a_difference_beyond_chance_is_told_from_none() -> None:
    for metric in ("psnr", "mae", findings.EDGES):
        assert found(better(metric, "a", "b", "t"), 0.2, 0.0).held == "held"
        assert found(better(metric, "a", "b", "t"), 0.0, 0.2).held == "not held"
        assert found(findings.no_better(metric, "a", "b", "t"), 0.0, 0.2).held == "held"
        assert found(findings.no_better(metric, "a", "b", "t"), 0.2, 0.0).held == "not held"
        assert found(better(metric, "a", "b", "t"), 0.0, 0.0).held == "within chance"
    assert found(better("lab-l", "a", "b", "t"), 0.0, 9.0).held == "held"
    assert found(better("lab-l", "a", "b", "t"), 9.0, 0.0).held == "not held"
    assert judged(1.0, None) == "held"
    assert judged(-1.0, None) == "not held"


def test_gains_and_parts_of_gains() -> None:
    assert found(gains("a", "t"), 0.0, 0.0).held == "held"
    assert found(findings.harms("a", "t"), 0.0, 0.0).held == "not held"
    assert found(findings.harms("a", "t"), -3.0, 0.0).held == "held"
    assert found(findings.harms("a", "t"), -1.0, 0.0).held == "within chance"
    assert found(findings.share("t", "u", "a", least=0.8), 2.0, 2.0).held == "within chance"
    assert found(findings.share("t", "u", "a", least=0.8), 4.0, 2.0).held == "held"
    assert found(findings.share("t", "u", "a", most=0.5), 0.0, 6.0).held == "held"
    assert found(findings.share("t", "u", "a", most=0.5), 6.0, 6.0).held == "not held"


def test_a_lead_in_overlap_agrees_with_the_gain() -> None:
    """The lead over a model that does nothing is the gain over doing nothing."""
    rng = np.random.default_rng(0)
    made, idle = Histograms(), Histograms()
    for n in range(9):
        given, output, target = (rng.integers(0, 200 + n, (6, 6, 3), np.uint8) for _ in range(3))
        made.add(str(n), given, output, target)
        idle.add(str(n), given, given, target)
    assert made.lead(idle) == made.intervals()


def test_logs_are_judged_without_an_interval() -> None:
    def trained(gap: float, end: float) -> Trained:
        log: list[dict[str, Any]] = [
            {"kind": "train", "losses": {"cycle_input": 1.0, "cycle_target": 1.0, "gan": 9.0}},
            {"kind": "train", "losses": {"cycle_input": end, "cycle_target": end, "gan": 9.0}},
            {"kind": "validation", "psnr": 20.0, "psnr_train": 20.0 + gap},
        ]
        return Trained("", 1, log, 0.0)

    results = Results({"a": trained(2.0, 0.5), "b": trained(0.9, 0.6), "c": trained(-0.1, 0.4)}, {})
    assert findings.wider_gap("a", "b", 2)(results).held == "held"
    assert findings.wider_gap("a", "b", 3)(results).held == "not held"
    assert findings.wider_gap("b", "c")(results).held == "held"
    held = [findings.halves_cycle(name)(results).held for name in "abc"]
    assert held == ["held", "not held", "held"]


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
    said = capfd.readouterr()
    assert all(line in said.err for line in planned)
    page = json.loads((tiny / "results" / "results.json").read_text())
    assert page["commands"] == planned[:2]
    assert (page["scale"], page["seeds"], page["split"]) == ("smoke", [0], "test")
    assert [claim["claim"] for claim in page["claims"]] == [
        claim.said for claim in EXPERIMENT.claims
    ]
    assert page["cells"][0]["images"] == len(
        (tiny / "corpora/tiny/test/metadata.jsonl").read_text().splitlines()
    )
    assert (tiny / "results" / "results.md").read_text() in said.out
    assert "| \\| |" in (tiny / "results" / "results.md").read_text()
    check_self_contained((tiny / "results" / "results.html").read_text())
    contact = io.read(tiny / "results" / "contact.png").pixels
    assert contact.shape[1] > 3 * 128
    before = (tiny / "results" / "results.json").read_bytes()
    task = Task("tiny", True, tiny, tiny / "results", tiny, 1, "cpu")
    write_results(task, *measure(task), commands(task))
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


def test_two_sides_are_shown_there_and_back(
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
    task = task_of(tmp_path, "sides")
    results, strips = measure(task)
    assert list(strips[0].images) == ["input", "one", "one, back"]
    write_results(task, results, strips, commands(task))
    assert "cycle terms" in (tmp_path / "results" / "results.md").read_text()


def test_what_is_not_there_is_one_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="did you mean 'losses'"):
        commands(task_of(tiny, "loses"))
    with pytest.raises(UsageError, match="name the folder of recipes by --recipes"):
        commands(Task("losses", True, tiny, tiny, tiny / "none"))
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, "tiny", "--recipes", tiny, "--data", tiny / "none")
    assert end.value.code == 2


def test_the_experiments_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(monkeypatch, "--list")
    assert len(capsys.readouterr().out.splitlines()) == len(EXPERIMENTS)


def test_tables_of_several_corpora() -> None:
    seen = {("a", test): seen_of(0.0) for test in ("x", "y")}
    head, rows = by_corpus(Results({"a": Trained("net", 1, [], 2.0)}, seen))
    assert head[2:4] == ["x, PSNR dB", "y, PSNR dB"]
    assert rows[1][2] == "20.00 (+1.00)"
    page = {
        "title": "T", "name": "n", "note": "", "scale": "smoke", "split": "test", "claims": [],
        "commands": ["c"],
        "table": {"head": head, "rows": rows}, "versions": {"a": "1"}, "seeds": [0], "machine": "m",
    }  # fmt: skip
    assert "| a | net | 20.00 (+1.00) | 20.00 (+1.00) | 2.0 |" in markdown(page)
