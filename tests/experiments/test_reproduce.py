"""Experiments: their commands, rules and claims, and one run from photos to its page."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import claims
import measurements
import numpy as np
import pytest
import trainings
from catalogue import EXPERIMENTS, Experiment, by_corpus, by_cycle, by_metric
from claims import Claim, ClaimResult, better, gains, status_of
from conftest import write_photos
from measurements import Difference, ModelScores, Results, TrainedModel
from pages import check_self_contained
from reproduce import ExperimentRun, command, commands, markdown, measure, write_results
from small_corpus import write_domains
from small_runs import small_config
from trainings import PROGRAMS, cpu_seconds

from img2img_data.cli import main as data_cli
from img2img_data.core.command_line import Display, run_command_line
from img2img_data.core.errors import UsageError
from img2img_data.images import io
from img2img_train.cli import main as train_cli
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
    by_metric("psnr", "lab-a", measurements.EDGES),
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
    experiment = EXPERIMENTS[name]
    run = ExperimentRun(name, smoke, Path(), Path("out"), RECIPES, seeds=2)
    done = commands(run)
    assert all(one.words[0] in PROGRAMS for one in done)
    runs = [one.run for one in done if one.words[0] == "img2img-train"]
    assert len(set(runs)) == len(runs) == 2 * len(experiment.models)
    assert set(runs) == {folder for model in experiment.models for folder in run.folders(model)}
    assert experiment.tests
    # One protocol: the direction of a test is that of all models.
    assert len({run.config(model).direction for model in experiment.models}) == 1
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
    run = TrainedModel("a net", 9, log, 1.5)
    models = {model: [run, run, run] for model in experiment.models}
    tests = experiment.tests if name != "seasons" else ()
    seen = {
        (model, test): [scores_of(place + 0.5)]
        for place, model in enumerate(models)
        for test in tests
    }
    results = Results(models, seen, {test: baselines_of() for test in tests})
    for claim in experiment.claims:
        result = claim.rule(results)
        assert result.status in claims.WORST_FIRST
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
    """Return the scores of a model that is better by ``shift`` on every photo, in every metric."""
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
    names = measurements.METRICS.keys()
    evaluation = Evaluation(
        images, images,
        dict.fromkeys(names, 20 + shift) | {"mae": 9 - shift}, dict.fromkeys(names, 19.0),
        dict.fromkeys(names, 1 + shift),
        dict.fromkeys(names, (0.5 + shift, 1.5 + shift)), "run", "corpus", "test", rows,
    )  # fmt: skip
    colors = ColorHistograms()
    for n in range(images):
        plain = np.full((4, 4, 3), 30 * n, np.uint8)
        colors.update(str(n), plain, plain + np.uint8(max(shift, 0)), plain)
    values = np.linspace(0.4, 0.6, images) + shift
    return ModelScores(evaluation, colors, dict.fromkeys(measurements.PROPERTIES, values))


def baselines_of(constant: float = -5.0) -> dict[str, ModelScores]:
    return {"input": scores_of(0.0), "constant": scores_of(constant)}


def result_of(rule: claims.Rule, *shifts: Sequence[float]) -> ClaimResult:
    """Return the result of a rule on models a, b, ... each with one shift per seed, on test t; on
    test u all seeds of a gain 1.
    """
    seen = {(name, "t"): list(map(scores_of, s)) for name, s in zip("abc", shifts, strict=False)}
    seen |= {("a", "u"): [scores_of(1.0) for _ in shifts[0]]}
    return claims_of(rule, seen)


def claims_of(rule: claims.Rule, seen: Any, constant: float = -5.0) -> ClaimResult:
    return rule(Results({}, seen, dict.fromkeys("tu", baselines_of(constant))))


THREE = (1.0, 1.1, 0.9)


@pytest.mark.parametrize("metric", ["psnr", "mae", measurements.EDGES])
def test_a_difference_counts_if_every_seed_and_the_interval_show_it(metric: str) -> None:
    rule = better(metric, "a", "b", "t")
    assert result_of(rule, THREE, (0.1, 0.1, 0.1)).status == "confirmed"
    assert result_of(rule, (0.1, 0.1, 0.1), THREE).status == "not confirmed"
    assert result_of(rule, (0.5,), (0.1,)).status == "confirmed"
    # One seed disagrees, then all agree but vary by more than they differ.
    assert result_of(rule, (1.0, 1.0, 0.0), (0.1, 0.1, 0.1)).status == "inconclusive"
    assert result_of(rule, (1.1, 2.0, 9.0), (1.0, 1.0, 1.0)).status == "inconclusive"


def test_nothing_is_confirmed_that_a_baseline_does_as_well() -> None:
    seen = {("a", "t"): [scores_of(0.5)], ("b", "t"): [scores_of(-1.0)]}
    for rule in (gains("a", "t"), better("psnr", "a", "b", "t")):
        assert claims_of(rule, seen).status == "confirmed"
        passed = claims_of(rule, seen, constant=1.0)
        assert passed.status == "not confirmed"
        assert "best baseline: constant" in passed.numbers
    assert claims_of(better(measurements.EDGES, "a", "b", "t"), seen, 1.0).status == "confirmed"


def test_no_better_and_equal_are_shown_and_not_assumed() -> None:
    no_better = claims.no_better("psnr", "a", "b", "t", 0.3)
    about_equal = claims.about_equal("psnr", "a", "b", "t", 0.3)
    for first, one_side, both_sides in (
        ((0.1, 0.1, 0.1), "confirmed", "confirmed"),
        ((-1.0, -1.0, -1.0), "confirmed", "not confirmed"),
        ((1.0, 1.0, 1.0), "not confirmed", "not confirmed"),
        # No difference on average, but the seeds leave room for a large one.
        ((-0.2, 0.0, 0.2), "inconclusive", "inconclusive"),
    ):
        others = (0.0, 0.0, 0.0)
        assert result_of(no_better, first, others).status == one_side
        assert result_of(about_equal, first, others).status == both_sides


def test_gains_harms_and_shares_of_gains() -> None:
    assert result_of(gains("a", "t"), THREE).status == "confirmed"
    assert result_of(gains("a", "t"), (0.0,)).status == "inconclusive"
    harms = claims.harms("a", "t")
    assert result_of(harms, THREE).status == "not confirmed"
    assert result_of(harms, (-1.0, -1.1)).status == "confirmed"
    share = claims.share("t", "u", "a", least=0.8)
    assert result_of(share, (2.0, 2.1, 2.2)).status == "confirmed"
    assert result_of(share, (0.1, 0.1, 0.1)).status == "not confirmed"
    assert claims_of(
        share, {("a", t): [scores_of(1.0)] for t in "tu"}, constant=2.0
    ).status == "not confirmed"  # fmt: skip
    little = claims.share("t", "u", "a", most=0.5)
    assert result_of(little, (0.1, 0.1, 0.1)).status == "confirmed"
    assert result_of(little, THREE).status == "not confirmed"
    # A model that harms the reference gains a small share of nothing.
    harmful = {("a", "t"): [scores_of(-2.0)], ("a", "u"): [scores_of(-1.0)]}
    assert claims_of(little, harmful).status == "not confirmed"
    assert claims_of(claims.gains_more("u", "t", "a"), harmful).status == "not confirmed"
    more = claims.gains_more("t", "u", "a")
    assert result_of(more, (2.0, 2.1, 2.2)).status == "confirmed"
    assert result_of(more, (0.0, 0.1, 0.2)).status == "not confirmed"


def test_a_drift_has_a_side() -> None:
    for shifts, up, down in (
        ((2.0, 2.1, 1.9), "confirmed", "not confirmed"),
        ((-2.0, -2.1, -1.9), "not confirmed", "confirmed"),
        ((1.0, 1.1, 0.9), "inconclusive", "not confirmed"),
    ):
        for threshold, expected in ((1, up), (-1, down)):
            rule = claims.drifts("a", "t", measurements.RED, threshold)
            assert result_of(rule, shifts).status == expected


def test_the_interval_covers_seeds_and_images() -> None:
    rng, groups = np.random.default_rng(2), [str(n) for n in range(40)]
    images = rng.normal(size=40)

    def half(*seeds: float) -> float:
        interval = measurements.over_images([images + seed for seed in seeds], groups).interval
        assert interval is not None
        return (interval[1] - interval[0]) / 2

    # Equal seeds tell no more than one; t of 2 degrees of freedom for seeds that differ.
    assert half(0.0, 0.0, 0.0) == pytest.approx(half(0.0))
    wide = half(-1.0, 0.0, 1.0)
    assert wide == pytest.approx(np.hypot(4.3 / np.sqrt(3), half(0.0)), rel=0.15)
    assert measurements.over_images([images], ["a"] * 40).interval is None
    assert status_of(Difference(np.array([1.0]), None)) == "no result"


def test_intervals_over_logs_need_three_runs() -> None:
    def trained(gap: float, end: float) -> TrainedModel:
        log: list[dict[str, Any]] = [
            {"kind": "train", "losses": {"cycle_input": 1.0, "cycle_target": 1.0, "gan": 9.0}},
            {"kind": "train", "losses": {"cycle_input": end, "cycle_target": end, "gan": 9.0}},
            {"kind": "validation", "psnr": 20.0, "psnr_train": 20.0 + gap},
        ]
        return TrainedModel("", 1, log, 0.0)

    def runs(gap: float, end: float, count: int) -> list[TrainedModel]:
        return [trained(gap + seed / 50, end + seed / 50) for seed in range(count)]

    for count in (1, 3):
        parts = {"a": (2.0, 0.3), "b": (0.9, 0.6), "c": (-0.1, 0.47)}
        results = Results({name: runs(*part, count) for name, part in parts.items()}, {})
        wider = [claims.wider_gap("a", "b", least) for least in (1.5, 3)]
        rules = [*wider, claims.wider_gap("b", "c"), claims.overfits("c", 1)]
        statuses = [rule(results).status for rule in (*rules, *map(claims.halves_cycle, "abc"))]
        expected = ["confirmed", "not confirmed", "confirmed", "not confirmed"]
        expected += ["confirmed", "not confirmed", "inconclusive"]
        assert statuses == (expected if count == 3 else ["no result"] * 7)


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
    def in_this_process(words: list[str], folder: Path) -> int:
        program = {"img2img-data": data_cli, "img2img-train": train_cli}[words[0]]
        with contextlib.chdir(folder):
            return run_command_line(program.group, words[1:], words[0])

    monkeypatch.setattr(trainings, "run_command", in_this_process)
    words = ("tiny", "--data", tiny, "--recipes", tiny, "--out", tiny / "results", "--jobs", 1)
    words = (*words, "--seeds", 2)
    call(monkeypatch, *words, "--device", "cpu", "--dry-run")
    assert not (tiny / "corpora").exists()
    planned = capfd.readouterr().out.split("\n")
    call(monkeypatch, *words, "--device", "cpu")
    output = capfd.readouterr()
    assert all(line in output.err for line in planned)
    page = json.loads((tiny / "results" / "results.json").read_text())
    assert page["commands"] == planned[:3]
    assert planned[2].endswith("--seed 1 --out runs/tiny-smoke-seed1 --device cpu")
    assert (page["scale"], page["seeds"], page["split"]) == ("smoke", [0, 1], "test")
    assert page["protocol"] == {"checkpoint": "latest", "dropout": False, "norm": "running"}
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
    run = run_of(tiny, seeds=2)
    assert page["cpu_minutes"]["tiny"] == [
        round((cpu_seconds(folder) or 0) / 60, 2) for folder in run.folders("tiny")
    ]
    results, strips = measure(run)
    write_results(run, results, strips, commands(run))
    assert (tiny / "results" / "results.json").read_bytes() == before
    psnr = {name: scores.mean("psnr") for name, scores in results.baselines["photos"].items()}
    assert psnr["constant"] < psnr["input"] < psnr["unsharp"] < psnr["wiener"]


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
        "import sys; import trainings as r; r.PROGRAMS['x'] = 'wait';"
        "sys.exit(r.run_command(['x'], r.Path(sys.argv[1])))"
    )
    (tmp_path / "wait.py").write_text(
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "pathlib.Path('up').touch(); time.sleep(120)\n"
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
    until = time.monotonic() + 60
    while not (tmp_path / "up").exists() and time.monotonic() < until:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143


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
    assert cpu_seconds(tmp_path / "run") is None
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
    seen = {("a", test): [scores_of(0.0), scores_of(0.5)] for test in ("x", "y")}
    runs = [TrainedModel("net", 1, [], 2.0, 3.0), TrainedModel("net", 1, [], 3.0, 5.0)]
    baselines = baselines_of()
    # A filter that suits one corpus only.
    suited = baselines | {"wiener": baselines["constant"]}
    head, filtered = by_corpus(Results({"a": runs}, seen, {"x": baselines, "y": suited}))
    assert head[2:4] == ["x, PSNR dB", "y, PSNR dB"]
    assert [row[0] for row in filtered] == ["input", "constant", "wiener", "a"]
    assert filtered[2][2:4] == ["", filtered[1][3]]
    rows = filtered[:2] + filtered[3:]
    assert rows[2][2] == "20.25 ± 0.25 (+1.25)"
    page = {
        "title": "T", "name": "n", "note": "", "scale": "smoke", "split": "test", "claims": [],
        "commands": ["c"],
        "table": {"head": head, "rows": rows}, "versions": {"a": "1"}, "seeds": [0], "machine": "m",
        "protocol": {"checkpoint": "latest", "dropout": True, "norm": "batch"},
    }  # fmt: skip
    text = markdown(page)
    assert "| a | net | 20.25 ± 0.25 (+1.25) | 20.25 ± 0.25 (+1.25) | 2.5 | 4.0 |" in text
    assert "do not cover seeds" in text
