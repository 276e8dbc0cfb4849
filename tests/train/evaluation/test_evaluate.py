"""Evaluation of models: scores, limits, files, and pages that are valid and reproducible."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_photo
from fake_models import Brighter, Identity, score, strict_json, write_run
from pages import check_self_contained, elements
from small_corpus import EVIL, write_corpus, write_domains, write_lab

from img2img_data.core.errors import CheckpointError, CorpusError, UsageError
from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_train.evaluation import score as score_module
from img2img_train.evaluation.evaluate import (
    evaluate_matrix,
    evaluate_run,
    parse_limits,
    shortfalls,
)
from img2img_train.evaluation.results import Matrix, write_matrix
from img2img_train.evaluation.score import Scoring, describe_gain
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.metrics.image import psnr
from img2img_train.metrics.registry import COLOR_METRICS, IMAGE_METRICS, METRICS
from img2img_train.report.page import write_run_report

CPU = EvaluateSettings(device="cpu")
ON_DEMAND = tuple(name for name, metric in IMAGE_METRICS.items() if not metric.always)
SCORED = (*(name for name in IMAGE_METRICS if name not in ON_DEMAND), *COLOR_METRICS)


def test_each_image_has_the_scores_of_its_metrics(tmp_path: Path) -> None:
    """In the order of the corpus, whichever threads compute them, in batches of any size."""
    corpus = open_corpus(write_corpus(tmp_path / "c", {"test": 5}))
    pairs = corpus.pairs("test")
    for batch in (1, 2, 5):
        scored = score(Brighter(), corpus.root, Scoring(batch=batch, metrics=ON_DEMAND))
        assert [row.key for row in scored.image_scores] == [pair.key for pair in pairs]
        for row, pair in zip(scored.image_scores, pairs, strict=True):
            input, target = corpus.read(pair)
            output = Brighter().restore(input)
            for name, metric in IMAGE_METRICS.items():
                assert row.scores[name] == metric.compute(output, target), name
                assert row.input_scores[name] == metric.compute(input, target), name


@pytest.mark.parametrize("name", [*SCORED, *ON_DEMAND])
def test_a_limit_is_met_or_missed(name: str, tmp_path: Path) -> None:
    scoring = Scoring(metrics=ON_DEMAND)
    scored = score(Brighter(), write_corpus(tmp_path / "c", {"test": 3}), scoring)
    matrix = Matrix(("r",), ("c",), "test", (scored,))
    reached, better = scored.scores[name], 1 if METRICS[name].better == "higher" else -1
    assert not shortfalls(matrix, {name: reached})
    (line,) = shortfalls(matrix, {name: reached + 0.01 * better})
    assert METRICS[name].label in line


@pytest.mark.parametrize(
    ("text", "message"), [("pnsr=2", "psnr"), ("psnr", "no number"), ("mae=x", "no number")]
)
def test_a_wrong_limit_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_limits([text])


@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_deep_corpora_are_scored_at_their_depth(layout: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 2}, layout, info={"bits": 16}, deep=True)
    opened = open_corpus(corpus)
    scored = score(Identity(), corpus)
    for row, pair in zip(scored.image_scores, opened.pairs("test"), strict=True):
        input, target = opened.read(pair, exact=True)
        assert input.dtype == np.uint16
        assert np.any(input % 257)
        assert row.scores["psnr"] == psnr(input, target)


def test_a_model_restores_16_bit_as_it_restores_8(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from img2img_train.runs.model import load_generator

    model = load_generator(write_run(tmp_path / "run"), "cpu")
    batch = np.stack([make_photo(seed, 36, 33) for seed in range(2)])
    shallow, deep = model.restore(batch), model.restore(batch.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - shallow).max() <= 0.51
    assert np.any(deep % 257)


# ---------------------------------------------------------------------- outputs of other programs
@pytest.mark.parametrize("name", ["key", "source", "nested"])
def test_outputs_of_another_program_are_scored_beside_runs(name: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 3})
    opened, folder = open_corpus(corpus), tmp_path / "results"
    for pair in opened.pairs("test"):
        stem = Path(score_module.source_of(pair)).stem if name == "source" else pair.key
        file = folder / ("deep" if name == "nested" else "") / f"{stem}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        input = opened.read(pair)[0]
        file.write_bytes(io.encode(Brighter().restore(input), "png"))
    settings = EvaluateSettings(metrics=",".join(ON_DEMAND))
    matrix = evaluate_matrix([], [corpus], settings, folders=[folder])
    (evaluation,) = matrix.evaluations
    expected = score(Brighter(), corpus, Scoring(metrics=ON_DEMAND))
    assert evaluation.scores == expected.scores
    assert evaluation.gain["psnr_y"] < 0
    assert "crop_border 0" in write_matrix(matrix, tmp_path / "out").read_text("utf-8")


def test_a_missing_or_odd_output_is_one_line(tmp_path: Path) -> None:
    corpus, folder = write_corpus(tmp_path / "c", {"test": 1}), tmp_path / "results"
    (pair,) = open_corpus(corpus).pairs("test")
    folder.mkdir()

    def evaluate() -> Matrix:
        return evaluate_matrix([], [corpus], CPU, folders=[folder])

    with pytest.raises(CorpusError, match=f"has no images for '{pair.key}'"):
        evaluate()
    (folder / f"{pair.key}.png").write_bytes(io.encode(make_photo(1, 20, 10), "png"))
    with pytest.raises(CorpusError, match="is 20 x 10 pixels, its input is "):
        evaluate()
    (folder / f"{pair.key}.png").write_bytes(b"no image")
    with pytest.raises(CorpusError, match="not-an-image"):
        evaluate()


def test_two_pairs_never_share_an_output(tmp_path: Path) -> None:
    corpus, folder = write_corpus(tmp_path / "c", {"test": 2}), tmp_path / "results"
    folder.mkdir()
    manifest = corpus / "test/metadata.jsonl"
    keyed = [dict(row, source="same.jpg") for row in map(json.loads, manifest.open())]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in keyed))
    input = open_corpus(corpus).read(open_corpus(corpus).pairs("test")[0])[0]
    (folder / "same.png").write_bytes(io.encode(input, "png"))
    with pytest.raises(CorpusError, match="is the only output for both"):
        evaluate_matrix([], [corpus], CPU, folders=[folder])
    with pytest.raises(UsageError, match="no such folder"):
        evaluate_matrix([], [corpus], CPU, folders=[tmp_path / "none"])


def test_a_metric_on_demand_has_a_limit_only_if_it_is_computed() -> None:
    with pytest.raises(UsageError, match="add --metrics psnr_y"):
        parse_limits(["psnr_y=20"])
    assert parse_limits(["psnr_y=20"], {"psnr_y"}) == {"psnr_y": 20}


# ------------------------------------------------------------------------------------------- gains
def test_a_gain_without_an_interval_says_so() -> None:
    assert describe_gain(1.0, None, 1).endswith("(no interval: 1 photo, fewer than 4)")
    assert describe_gain(1.0, None, 3).endswith("(no interval: 3 photos, fewer than 4)")
    assert "worse by 1.00 dB" in describe_gain(-1.0, None, 1)
    assert describe_gain(0.0, None, 1).startswith("does not beat the input: both are equal")


def test_a_gain_is_described_in_one_of_three_ways() -> None:
    assert (
        describe_gain(1.5, (1.2, 1.8), 9)
        == "beats the input by 1.50 dB (95 % interval +1.20 to +1.80)"
    )
    assert (
        describe_gain(-1.5, (-1.8, -1.2), 9)
        == "does not beat the input: it is worse by 1.50 dB (95 % interval +1.20 to +1.80)"
    )
    assert "within chance" in describe_gain(0.1, (-0.2, 0.4), 9)


# ------------------------------------------------------------------------------------------ models
def test_the_input_has_no_gain_over_itself(tmp_path: Path) -> None:
    scored = score(Identity(), write_corpus(tmp_path / "c", {"test": 8}, crops=2))
    assert scored.scores == scored.input_scores
    assert scored.gain == dict.fromkeys(SCORED, 0.0)
    assert scored.gain_interval == dict.fromkeys(SCORED, (0.0, 0.0))
    assert (scored.images, scored.groups) == (8, 4)


def test_where_inputs_equal_targets_no_model_is_said_to_lose(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 4})
    shutil.copytree(corpus / "test" / "target", corpus / "test" / "input", dirs_exist_ok=True)
    scored = score(Brighter(), corpus)
    assert scored.conclusion.startswith("had nothing to restore, because all inputs equal")
    assert repr(scored).endswith("dB, all inputs equal their targets")
    assert scored.notes[0].startswith("4 of 4 inputs equal their targets: there is nothing to gain")
    run = write_run(tmp_path / "run")
    evaluate_run(run, corpus, CPU)
    page = write_run_report(run).read_text("utf-8")
    assert 'the model <b class="even">had nothing to restore' in page
    assert "over the input</dd>" not in page
    assert page.count("input equals its target") == 4
    matrix = Matrix(("model",), ("corpus",), "test", (scored,))
    table = write_matrix(matrix, tmp_path / "out").read_text("utf-8")
    for text in (page, table):
        assert "equals the target</span>" in text
        assert not re.search('class="bad|"under">[+\N{MINUS SIGN}]|In small type: the gain', text)


@pytest.mark.parametrize("pairing", ["lab", "grayscale", "combine"])
def test_a_colorization_is_compared_by_its_colors(pairing: str, tmp_path: Path) -> None:
    corpus = write_lab(tmp_path / "c", {"test": 4}, size=(32, 32))
    if pairing != "lab":
        # The same images as gray and color.
        info = {"recipe": {"pairing": pairing}}
        colored = write_corpus(tmp_path / "rgb", {"test": 4}, info=info)
        for path in (colored / "test" / "input").iterdir():
            path.write_bytes((corpus / "test" / "input" / path.name).read_bytes())
        corpus = colored
    run = write_run(tmp_path / "run")
    scored = evaluate_run(run, corpus, CPU)
    page = write_run_report(run).read_text("utf-8")
    colorizes = pairing != "combine"
    words = f"overlaps the colors of the targets by {scored.scores['lab-a']:.3f} in a (input "
    assert scored.conclusion.startswith(words) == colorizes
    assert (words in page) == ("PSNR and MAE say little here" in page) == colorizes
    labels = re.findall(r'<dt title="\w+ is better">(.*?) [↑↓]</dt>', page)
    assert labels == re.findall(r'<th scope="col">(.*?) ?<span', page)
    first = ["a overlap", "b overlap", "PSNR", "SSIM"] if colorizes else ["PSNR", "SSIM"]
    assert labels[: len(first)] == first


def test_batches_change_nothing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 5}, layout="combined")
    single, batched = (score(Brighter(), corpus, Scoring(batch=batch)) for batch in (1, 64))
    assert single == batched
    assert single.gain["psnr"] < 0
    assert single.gain["mae"] < 0


@pytest.mark.parametrize("gallery", [0, 9])
def test_pairs_of_one_key_have_scores_and_images_of_their_own(gallery: int, tmp_path: Path) -> None:
    """A list of BasicSR may name several inputs for one target."""
    photos = [make_photo(n, 24, 24) for n in range(2)]
    for name, photo in zip(("gt/1", "lq/1_a", "lq/1_b"), (photos[0], *photos), strict=True):
        path = tmp_path / f"list/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(io.encode(photo, "png"))
    lines = "gt/1.png, lq/1_a.png\ngt/1.png, lq/1_b.png\n"
    (tmp_path / "list" / "meta_info.txt").write_text(lines)
    run = write_run(tmp_path / "run")
    settings = EvaluateSettings(device="cpu", split="train", batch=1)
    matrix = evaluate_matrix([run], [tmp_path / "list"], settings, gallery=gallery)
    [scored] = matrix.evaluations
    assert len({row.key for row in scored.image_scores}) == 1
    first, second = (row.scores["psnr"] for row in scored.image_scores)
    assert first != second
    assert len({item["webp"]["output"] for item in scored.gallery}) == min(gallery, 2)


def test_the_direction_swaps_input_and_target(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 2})
    forward, inverse = (
        score(Brighter(), corpus, Scoring(swapped=swapped)) for swapped in (False, True)
    )
    assert forward.input_scores == pytest.approx(inverse.input_scores)
    assert forward.scores != inverse.scores


REJECTED = {
    "no such split": lambda root: write_corpus(root, {"train": 1}),
    "unpaired": lambda root: write_domains(root, 2),
    "no pairs": lambda root: write_corpus(root, {"train": 1, "test": 0}),
    "transparent": lambda root: write_corpus(root, {"test": 1}, info={"channels": {"input": 4}}),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_scored_is_rejected_in_one_line(tmp_path: Path, name: str) -> None:
    corpus = REJECTED[name](tmp_path / "c")
    with pytest.raises((CorpusError, UsageError)) as rejected:
        evaluate_matrix([tmp_path / "run"], [corpus], EvaluateSettings())
    assert "\n" not in str(rejected.value)


# ------------------------------------------------------------------------------- a run, its report


def test_the_report_of_a_run_is_complete_and_reproducible(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 9}, crops=3, names=(EVIL,))
    run = write_run(tmp_path / "run")
    seen: list[tuple[int, int, str]] = []
    scored = evaluate_run(run, corpus, CPU, progress=lambda *what: seen.append(what), gallery=6)
    assert seen[-1] == (9, 9, "charbonnier unet on other on c")
    saved = strict_json(run / "evaluation" / "c-test.json")
    assert saved["conclusion"] == scored.conclusion
    assert tuple(saved["protocol"]["metrics"]) == SCORED
    worst = [row.key for row in sorted(scored.image_scores, key=lambda row: row.scores["psnr"])]
    assert [p["key"] for p in saved["gallery"]][:4] == worst[:4]

    page = write_run_report(run).read_text("utf-8")
    check_self_contained(page)
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "input" in page
    assert "corpora" in page
    assert len([a for a in elements(page, "figure") if a["class"] == "card three"]) == 6
    assert len(elements(page, "svg")) == 3
    assert len(elements(page, "img")) == 6 * 3 + 3 * 3

    again = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, again)
    (again / "report.html").unlink()
    evaluate_run(again, corpus, CPU, gallery=6)
    assert write_run_report(again).read_text("utf-8") == page


def test_report_before_anything_was_evaluated_and_of_no_run(tmp_path: Path) -> None:
    page = write_run_report(write_run(tmp_path / "run")).read_text("utf-8")
    check_self_contained(page)
    assert "No scores: " in page
    with pytest.raises(CheckpointError):
        write_run_report(tmp_path)


def test_corpora_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    corpora = [write_corpus(tmp_path / side / "c", {"test": 1}) for side in "ab"]
    run = write_run(tmp_path / "run", corpora=corpora)
    names = [evaluate_run(run, corpus, CPU).corpus for corpus in corpora]
    assert names == ["a/c", "b/c"]
    assert sorted(p.name for p in (run / "evaluation").glob("*.json")) == [
        "a_c-test.json",
        "b_c-test.json",
    ]


def test_matrix_is_written_as_json_csv_and_page(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"<i>{seed}", seed) for seed in (0, 1)]
    corpora = [
        write_corpus(tmp_path / side / "c", {"test": count}) for side, count in (("a", 3), ("b", 2))
    ]
    matrix = evaluate_matrix(runs, corpora, EvaluateSettings(device="cpu", batch=2))
    assert matrix.corpora == ("a/c", "b/c")
    assert matrix.evaluations[3].images == 2
    page = write_matrix(matrix, tmp_path / "out").read_text("utf-8")
    check_self_contained(page)
    assert "<i>0" not in page
    written = strict_json(tmp_path / "out" / "matrix.json")
    assert [(scored["run"], scored["corpus"]) for scored in written["evaluations"]] == [
        (r, c) for r in matrix.runs for c in matrix.corpora
    ]
    with (tmp_path / "out" / "matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr_gain"]) for row in rows] == [
        scored["gain"]["psnr"] for scored in written["evaluations"]
    ]
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * (3 + 2)


def test_no_interval_is_null_and_empty(tmp_path: Path) -> None:
    scored = score(Brighter(), write_corpus(tmp_path / "c", {"test": 3}))
    assert set(scored.gain_interval.values()) == {None}
    write_matrix(Matrix(("model",), ("corpus",), "test", (scored,)), tmp_path / "out")
    assert (
        strict_json(tmp_path / "out" / "matrix.json")["evaluations"][0]["gain_interval"]["psnr"]
        is None
    )
    with (tmp_path / "out" / "matrix.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["psnr_gain_low"] == ""
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "no interval: 3 photos, fewer than 4" in page
