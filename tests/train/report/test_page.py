"""Charts, settings and facts of a report."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_models import write_run
from pages import check_self_contained, elements
from small_corpus import write_corpus, write_domains
from small_runs import command

from img2img_data.core.errors import CheckpointError
from img2img_data.corpus.format import to_json_line
from img2img_train.evaluation.evaluate import evaluate_run
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.report.charts import MAX_POINTS, build_charts, thin
from img2img_train.report.differences import describe_differences
from img2img_train.report.page import write_comparison, write_run_report
from img2img_train.runs.folder import RunFolder, read_log

CORPORA = {"a/mine": 3, "b/mine": 4, "c/mine": 5}
VALUES = {
    "one step": [3.0],
    "flat": [0.0, 0.0],
    "falling far": [1.0, 1e-3, 2e-6],
    "below zero": [-4.0, 1.0, 0.5],
    "thousands": [1000.0 + step for step in range(5000)],
}


def write_steps(run: Path, values: list[float]) -> Path:
    rows = [{"step": n, "lr": 1e-3, "losses": {"l2": v}} for n, v in enumerate(values, 1)]
    RunFolder(run).steps.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


@pytest.mark.parametrize("name", VALUES)
def test_charts_keep_lines_inside_and_pages_small(tmp_path: Path, name: str) -> None:
    run = write_steps(write_run(tmp_path / "run"), VALUES[name])
    loss, psnr, rate = charts = build_charts({"": run})
    assert [c["title"] for c in charts] == ["Loss", "Validation PSNR", "Learning rate"]
    assert [line["label"] for line in psnr["lines"]] == ["model", "input"]
    assert (loss["across"], psnr["across"]) == ("step", "epoch")
    assert loss["log"] == (name == "falling far")
    for line in (*loss["lines"], *rate["lines"]):
        assert len(line["points"]) <= MAX_POINTS
        numbers = list(map(float, re.split("[L ]", line["path"][1:])))
        assert all(0 <= x <= loss["width"] for x in numbers[::2])
        assert all(0 <= y <= loss["height"] for y in numbers[1::2])


def test_the_last_validation_of_an_epoch_counts(tmp_path: Path) -> None:
    """A run that ended within an epoch and was continued has validated there twice."""
    run = write_steps(write_run(tmp_path / "run"), [1.0, 0.9])
    rows = read_log(run)
    (last,) = (row for row in rows[-2:] if row["kind"] == "validation")
    RunFolder(run).append(RunFolder(run).log, [{**last, "psnr": last["psnr"] + 1}])
    _, psnr, _ = build_charts({"": run})
    assert psnr["lines"][0]["points"][-1][1] == pytest.approx(last["psnr"] + 1, abs=1e-2)


def test_long_runs_take_little_memory(tmp_path: Path) -> None:
    steps = 10_000
    run = write_steps(write_run(tmp_path / "run"), [1.0] * steps)
    for read in (lambda: build_charts({"": run}), lambda: RunFolder(run).truncate_logs(0, steps)):
        tracemalloc.start()
        read()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 200 * steps, "the row of a step takes 900 bytes"


def test_neighbors_are_averaged() -> None:
    points = [(float(n), float(n % 2)) for n in range(4 * MAX_POINTS)]
    assert len(thin(points)) == MAX_POINTS
    assert {y for _, y in thin(points)} == {0.5}
    assert thin(points[:7]) == points[:7]
    assert len(thin(points[: MAX_POINTS + 1])) <= MAX_POINTS


def test_a_report_says_how_the_run_came_about(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    page = write_run_report(run).read_text("utf-8")
    for text in ("2026-01-02 03:04 UTC", "a machine", "abc1234", "30 steps, 3 epochs"):
        assert text in page
    links = [str(a.get("href")) for a in elements(page, "a")]
    assert "checkpoints/best.safetensors" in links
    assert str(tmp_path) not in page
    changed, _, others = page[page.index('id="settings"') :].partition("<details>")
    assert ">width<" in changed
    assert ">lr<" not in changed
    assert ">lr<" in others


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("pairs", "on pairs in the split test or val"),
        ("domains --loss cyclegan", "ot scored on 'domains': it is unpaired; score it by FID: "),
        # The loss takes two domains, but the corpus has pairs to score on.
        ("pairs --loss cyclegan", "No scores: fit scores a model when training ends, on pairs"),
        ("held --no-report", "unless --no-report is given"),
        ("", "No scores: fit scores a model when training ends"),
    ],
)
def test_a_report_without_scores_says_why(
    words: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("pairs"), {"train": 2})
    write_corpus(Path("held"), {"train": 2, "val": 1})
    write_domains(Path("domains"), 2)
    if words:
        small = "--net unet --width 4 --batch 2 --epochs 1 --threads 1 --out run"
        small += " --discriminator patch-16 --d-width 4" * ("cyclegan" in words)
        assert command("fit", *words.split(), *small.split()) == 0
    else:
        config = write_run(Path("run")) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"data": {"steps": 99}}))
    assert command("report", "run") == 0
    assert command("report", "run", "--out", "folder") == 2
    page = html.unescape(Path("run/report.html").read_text("utf-8"))
    assert reason in page
    printed = capsys.readouterr()
    if "domains" in words:
        assert reason in printed.out  # the same words where training ends
        assert "evaluate RUN --on domains --split SPLIT --fid WEIGHTS" in page
        check_domains(page, Path("run"))
    if not words:
        assert "step 30 of 99; 'img2img-train resume run' continues it" in printed.err
        assert "Unfinished: step 30 of 99</b>" in page
        assert command("report", "run", write_run(Path("other"))) == 0
        assert "unfinished: step 30 of 99</b>" in Path("comparison.html").read_text("utf-8")
    assert ("nfinished" in page) == (not words)


def check_domains(page: str, run: Path) -> None:
    """Check that images without pairs are named by their domains, and that losses differ."""
    columns = ["A", "A to B", "reconstructed A", "B", "B to A", "reconstructed B"]
    heads = re.findall(r'<div class="rows heads">(.*?)</div>', page)[0]
    assert re.findall(r"<span>(.*?)</span>", heads) == columns
    assert {img["data-name"] for img in elements(page, "img")} == {*columns}
    legend = re.findall(r'<button type="button" class="(s\d(?: broken)?)" data-line', page)
    (losses, *_) = build_charts({"": run})
    assert len(losses["lines"]) == len({*legend[: len(losses["lines"])]}) == 10


@pytest.mark.parametrize("name", ["log.jsonl", "steps.jsonl", "timing.jsonl"])
def test_a_damaged_line_is_an_error_about_the_run(name: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run") / name
    cut = path.read_bytes() + b'{"epoch": 2, "seco'
    path.write_bytes(cut)
    write_run_report(path.parent)  # a run in progress
    for end in (b'{"epoch": 3}\n', b'{"epoch": 3}\n{"epoch'):
        path.write_bytes(cut + end)
        with pytest.raises(CheckpointError, match=rf"^run '.*': line \d+ of its {name} is damaged"):
            write_run_report(path.parent)


@pytest.mark.parametrize("content", ["{", "{}", '{"corpus": "c"}', "[1]", ""])
def test_a_file_without_scores_is_no_evaluation(content: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    expected = write_run_report(run).read_bytes()
    (run / "evaluation").mkdir(exist_ok=True)
    (run / "evaluation" / "other.json").write_text(content)
    assert write_run_report(run).read_bytes() == expected


@pytest.mark.parametrize(
    "place", ["scores psnr", "gain psnr", "gain_interval psnr", "protocol metrics", "gallery"]
)
def test_a_damaged_evaluation_is_one_error(place: str, tmp_path: Path) -> None:
    corpus, run = write_corpus(tmp_path / "c", {"test": 4}), write_run(tmp_path / "run")
    evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
    (path,) = (run / "evaluation").glob("*.json")
    *sections, name = place.split()
    for value in ("24.5", [1.0], {"a": 1}, 10**400):
        saved = section = json.loads(path.read_text())
        for key in sections:
            section = section[key]
        before, section[name] = section[name], value
        path.write_text(json.dumps(saved))
        with pytest.raises(CheckpointError, match="evaluation, is damaged"):
            write_run_report(run)
        section[name] = before
        path.write_text(json.dumps(saved))
    section[name] = math.nan  # JSON has none: the file is not an evaluation
    path.write_text(json.dumps(saved))
    assert "No scores: " in write_run_report(run).read_text("utf-8")


def test_several_runs_share_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [write_run(Path(name), seed) for seed, name in enumerate("ab")]
    with RunFolder(runs[1]).log.open("ab") as file:
        validated = {"kind": "validation", "epoch": 4, "step": 40, "psnr": 30.0, "psnr_input": 21.5}
        file.write(to_json_line(validated))
    loss, psnr, _ = build_charts(dict(zip("ab", runs, strict=True)))
    assert loss["title"] == "Loss: l2"
    assert [line["label"] for line in psnr["lines"]] == ["a", "b", "input"]
    assert len({line["color"] for line in psnr["lines"]}) == 3
    page = write_comparison(runs, Path("comparison.html")).read_text("utf-8")
    check_self_contained(page)
    assert {"a/report.html", "b/report.html"} <= {a.get("href") for a in elements(page, "a")}
    assert len(elements(page, "img")) == 4
    # A page elsewhere links nothing, because the path between both would name other folders.
    page = write_comparison(runs, tmp_path / "out.html").read_text("utf-8")
    assert "report.html" not in page
    # The name of a run is no column of a sample, to be put into words.
    renamed = runs[0].rename("reconstructed_input")
    page = write_comparison([renamed, runs[1]], tmp_path / "out.html").read_text("utf-8")
    (heads, *_) = re.findall(r'<div class="rows heads">(.*?)</div>', page)
    names = ["input", "reconstructed_input", "b", "target"]
    assert re.findall("<span>(.*?)</span>", heads) == names
    renamed.rename(runs[0])
    # Runs on other images have no samples side by side.
    RunFolder(runs[1]).sample_keys.write_text('{"keys": ["another"]}')
    page = write_comparison(runs, tmp_path / "out.html").read_text("utf-8")
    assert 'id="samples"' not in page
    assert "#samples" not in page


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (0.5, "b is better than a by 0.50 dB PSNR (95 % interval +0.50 to +0.50; 4 images of "),
        (-0.5, "a is better than b by 0.50 dB PSNR (95 % interval +0.50 to +0.50; 4 images of "),
        (0.0, "is shown: b leads by 0.00 dB PSNR (95 % interval +0.00 to +0.00; 4 images of "),
    ],
)
def test_runs_are_compared_image_by_image(
    added: float,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = write_corpus(Path("c"), {"test": 4})
    runs = [write_run(Path(name), corpora=[corpus]) for name in "ab"]
    for run in runs:
        evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
    change_psnr(runs[1], lambda value: value + added)
    assert command("report", *runs) == 0
    sentence, _ = capsys.readouterr().out.splitlines()
    assert words in sentence
    assert sentence.endswith("c, split test)")
    page = html.unescape(Path("comparison.html").read_text("utf-8"))
    assert f"<p>{sentence}.</p>" in page
    assert "not for other trainings" in page
    assert describe_differences([runs[0]]) == []


@pytest.mark.parametrize(
    "change", ["images", "direction", "few", "missing", "nothing", "damaged", "colors"]
)
def test_runs_without_common_images_say_why(change: str, tmp_path: Path) -> None:
    counts = {"images": (4, 5), "few": (3, 3)}.get(change, (4, 4))
    runs = []
    for number, count in enumerate(counts):
        corpus = write_corpus(tmp_path / str(number) / "c", {"test": count})
        runs.append(write_run(tmp_path / "ab"[number], corpora=[corpus]))
        evaluate_run(runs[-1], corpus, EvaluateSettings(device="cpu"))
    scores = runs[1] / "evaluation" / "c-test.csv"
    if change == "direction":
        saved = json.loads(scores.with_suffix(".json").read_text())
        saved["test_time"] |= {"direction": "BtoA"}
        scores.with_suffix(".json").write_text(json.dumps(saved))
    elif change == "colors":
        for run in runs:
            saved = run / "evaluation" / "c-test.json"
            saved.write_text(json.dumps({**json.loads(saved.read_text()), "colorizes": True}))
    elif change == "missing":
        scores.with_suffix(".json").unlink()
    elif change == "damaged":
        for wrong in ("a word", "x" * 200_000, "nan", "inf"):
            change_psnr(runs[1], lambda value, wrong=wrong: wrong)  # type: ignore[misc]
            with pytest.raises(CheckpointError, match="evaluation, is damaged"):
                describe_differences(runs)
            scores.write_bytes((runs[0] / "evaluation" / "c-test.csv").read_bytes())
        scores.write_text(scores.read_text().splitlines()[0])
        with pytest.raises(CheckpointError, match="evaluation, is damaged"):
            describe_differences(runs)
        return
    (sentence,) = describe_differences(runs)
    expected = {
        "images": "b were not scored on the same images: ",
        "direction": "b on c, split test, BtoA",
        "few": "b leads by 0.00 dB PSNR (no interval: 3 photos, fewer than 4; 3 images of c",
        "missing": f"{runs[1]} on none",
        "nothing": "no difference between ",
        "colors": "c, split test, a colorization, about which PSNR says little)",
    }
    assert expected[change] in sentence


def change_psnr(run: Path, change: Callable[[float], object]) -> None:
    """Change the PSNR of every image that a run was scored on."""
    (path,) = (run / "evaluation").glob("*.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"psnr": f"{change(float(row['psnr']))}"} for row in rows)


def test_each_corpus_has_its_own_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also corpora of one name; a second run on the first corpus shares its table and its line."""
    monkeypatch.chdir(tmp_path)
    corpora = [write_corpus(Path(name), {"test": count}) for name, count in CORPORA.items()]
    runs = []
    for number, corpus in enumerate((*corpora, corpora[0])):
        run = write_run(Path(f"run{number}"), corpora=[corpus])
        evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
        log = RunFolder(run).log
        log.write_text(log.read_text().replace("21.5", f"{21.5 + number % len(corpora)}"))
        runs.append(run)
    page = write_comparison(runs, Path("comparison.html")).read_text("utf-8")
    assert re.findall("<h3>(.*), split test", page) == list(CORPORA)
    assert page.count('<tr class="input">') == len(corpora)
    labels = [line["label"] for line in build_charts({r.name: r for r in runs})[1]["lines"]]
    assert labels[len(runs) :] == [f"input of run{number}" for number in range(len(corpora))]
