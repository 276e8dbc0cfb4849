"""Scores agree with scikit-image, intervals tell the truth, pages are valid and the same each time."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo
from fake_models import Brighter, Identity, score, strict_json, write_run
from pages import check_self_contained, elements
from small_corpus import EVIL, degraded, write_corpus, write_domains

from img2img_data.core.errors import CheckpointError, CorpusError, UsageError
from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_train.evaluation.evaluate import (
    evaluate_matrix,
    evaluate_run,
    parse_limits,
    shortfalls,
)
from img2img_train.evaluation.results import Matrix, write_matrix
from img2img_train.evaluation.score import SCORED, verdict
from img2img_train.metrics.bootstrap import bootstrap_interval
from img2img_train.metrics.image import METRICS, PSNR_CAP, SET_METRICS
from img2img_train.report.page import Series, chart, write_run_report

IMAGES = {
    "alike": (make_photo(1, 48, 40), degraded(make_photo(1, 48, 40), 1.5)),
    "unlike": (make_photo(1, 48, 40), make_photo(2, 48, 40)),
    "odd size": (make_photo(3, 47, 33), degraded(make_photo(3, 47, 33), 0.7)),
    "window": (make_photo(4, 11, 11), make_photo(5, 11, 11)),
    "flat": (np.full((20, 20, 3), 7, np.uint8), np.full((20, 20, 3), 9, np.uint8)),
    "far": (np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)),
}


# ----------------------------------------------------------------------------------------- metrics
def by_skimage(name: str, a: np.ndarray, b: np.ndarray) -> float:
    measures = pytest.importorskip("skimage.metrics")
    top = int(np.iinfo(a.dtype).max)
    if name == "psnr":
        return float(measures.peak_signal_noise_ratio(b, a, data_range=top))
    if name == "ssim":
        how = {
            "gaussian_weights": True,
            "sigma": 1.5,
            "use_sample_covariance": False,
            "data_range": top,
        }
        axis = 2 if a.ndim == 3 else None
        return float(measures.structural_similarity(a, b, channel_axis=axis, **how))
    return float(np.abs(a.astype(float) - b).mean()) / top * 255


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", ["psnr", "ssim", "mae"])
def test_metrics_agree_with_scikit_image(name: str, images: str) -> None:
    a, b = IMAGES[images]
    assert METRICS[name].measure(a, b) == pytest.approx(by_skimage(name, a, b), abs=1e-6)


def real_images(real_data: Path) -> dict[str, np.ndarray]:
    """Photos as they come: portrait and landscape, odd sides, one 16-bit, one gray."""
    photos = sorted((real_data / "natural" / "bsds500-train").glob("*.jpg"))[:3]
    photos += sorted((real_data / "faces" / "wiki_crop").rglob("*.jpg"))[5:6]
    found = {path.stem: io.read(path).pixels for path in photos}
    first, second = list(found.values())[:2]
    wide = cv2.GaussianBlur(first.astype(np.float32), (0, 0), 0.8) * 257
    found["16 bit"] = np.rint(wide).astype(np.uint16)
    found["odd"] = np.ascontiguousarray(second[:101, :57])
    sketch = sorted((real_data / "cuhk").rglob("*sz1.jpg"))[0]
    found["gray"] = io.to_uint8_rgb(io.read(sketch).pixels)
    return found


@pytest.mark.parametrize("name", ["psnr", "ssim", "mae"])
def test_metrics_agree_with_scikit_image_on_real_images(name: str, real_data: Path) -> None:
    """Gray ones also as the single plane that they are."""
    for kind, target in real_images(real_data).items():
        for made in (degraded(target, 1.5), np.ascontiguousarray(target[::-1])):
            found = METRICS[name].measure(made, target)
            assert found == pytest.approx(by_skimage(name, made, target), abs=1e-6), kind
            if kind == "gray":
                assert found == pytest.approx(
                    by_skimage(name, made[..., 0], target[..., 0]), abs=1e-6
                )


@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_deep_corpora_are_scored_at_their_depth(layout: str, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 2}, layout, info={"bits": 16}, deep=True)
    opened = open_corpus(corpus)
    cell = score(Identity(), corpus)
    for row, pair in zip(cell.rows, opened.pairs("test"), strict=True):
        given, target = opened.read(pair, exact=True)
        assert given.dtype == np.uint16
        assert np.any(given % 257)
        assert row.scores["psnr"] == pytest.approx(by_skimage("psnr", given, target), abs=1e-6)
        assert row.scores["ssim"] == pytest.approx(by_skimage("ssim", given, target), abs=1e-6)


def test_a_model_restores_16_bit_as_it_restores_8(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from img2img_train.runs.model import load_generator

    model = load_generator(write_run(tmp_path / "run"), "cpu")
    batch = np.stack([make_photo(seed, 36, 33) for seed in range(2)])
    shallow, deep = model.restore(batch), model.restore(batch.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - shallow).max() <= 0.51
    assert np.any(deep % 257)


@pytest.mark.parametrize("size", [(176, 176), (200, 181), (320, 256)])
def test_ms_ssim_agrees_with_torchmetrics(size: tuple[int, int]) -> None:
    """On gray images: torchmetrics averages over the channels before it multiplies, the paper has one."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    torch = pytest.importorskip("torch")
    target = make_photo(5, *size)[..., :1].repeat(3, 2)
    made = degraded(target, 1.5)
    a, b = (torch.from_numpy(p.transpose(2, 0, 1).copy())[None].double() for p in (made, target))
    theirs = functional.multiscale_structural_similarity_index_measure(a, b, data_range=255.0)
    assert METRICS["ms-ssim"].measure(made, target) == pytest.approx(float(theirs), abs=1e-4)


def test_overlap_of_colors_is_that_of_the_whole_set(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 6}, crops=2)
    opened = open_corpus(corpus)
    shown = [opened.read(pair) for pair in opened.pairs("test")]
    given, target = (np.concatenate([pair[side] for pair in shown]) for side in (0, 1))
    cell = score(Identity(), corpus)
    for name, metric in SET_METRICS.items():
        assert cell.scores[name] == pytest.approx(metric.measure(given, target))
        assert metric.measure(target, target) == pytest.approx(1)
        assert metric.measure(target, 255 - target) < 0.9


@pytest.mark.parametrize("name", METRICS)
def test_identical_images_have_the_best_score_and_a_finite_one(name: str) -> None:
    best = METRICS[name].measure(IMAGES["alike"][0], IMAGES["alike"][0].copy())
    assert (
        best
        == {"psnr": PSNR_CAP, "ssim": pytest.approx(1), "ms-ssim": pytest.approx(1), "mae": 0}[name]
    )
    for a, b in IMAGES.values():
        assert METRICS[name].gain(METRICS[name].measure(a, b), best) < 0


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (10, 10)])
def test_metrics_of_images_narrower_than_the_window(size: tuple[int, int]) -> None:
    a, b = make_photo(1, *size), make_photo(2, *size)
    assert all(np.isfinite(metric.measure(a, b)) for metric in METRICS.values())


@pytest.mark.parametrize("name", SCORED)
def test_a_limit_is_kept_or_fallen_short_of(name: str, tmp_path: Path) -> None:
    cell = score(Brighter(), write_corpus(tmp_path / "c", {"test": 3}))
    matrix = Matrix(("r",), ("c",), "test", (cell,))
    reached, better = cell.scores[name], 1 if SCORED[name].higher_is_better else -1
    assert not shortfalls(matrix, {name: reached})
    (line,) = shortfalls(matrix, {name: reached + 0.01 * better})
    assert SCORED[name].label in line


@pytest.mark.parametrize(
    ("text", "said"), [("pnsr=2", "psnr"), ("psnr", "no number"), ("mae=x", "no number")]
)
def test_a_wrong_limit_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_limits([text])


# --------------------------------------------------------------------------------------- intervals
def test_interval_holds_the_mean_and_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).normal(1, 2, (60, 2))
    groups = [str(i) for i in range(60)]
    intervals = bootstrap_interval(values, groups)
    assert all(
        low < mean < high for (low, high), mean in zip(intervals, values.mean(axis=0), strict=True)
    )
    assert intervals == bootstrap_interval(values, groups)
    assert intervals != bootstrap_interval(values, groups, seed=1)
    assert intervals[0][1] - intervals[0][0] == pytest.approx(
        2 * 1.96 * values[:, 0].std() / 60**0.5, rel=0.15
    )


def test_crops_of_one_photo_count_once() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(0, 1, (6, 1)), 40, axis=0) + rng.normal(0, 0.01, (240, 1))
    groups = np.repeat(np.arange(6), 40).astype(str).tolist()
    [(low, high)] = bootstrap_interval(values, groups)
    [(alone_low, alone_high)] = bootstrap_interval(values, [str(i) for i in range(240)])
    assert high - low > 4 * (alone_high - alone_low)


def test_interval_is_honest_for_few_photos() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        [(low, high)] = bootstrap_interval(
            rng.normal(0, 1, (8, 1)), list("abcdefgh"), resamples=500
        )
        held += low <= 0 <= high
    assert held >= 0.9 * 200


def test_one_photo_gives_no_interval() -> None:
    assert bootstrap_interval(np.ones((9, 3)), ["one"] * 9) == [None] * 3
    assert "no interval" in verdict(1.0, None)


def test_verdict_says_which_of_three() -> None:
    assert (
        verdict(1.5, (1.2, 1.8)) == "beats doing nothing by 1.50 dB (95 % interval +1.20 to +1.80)"
    )
    assert verdict(-1.5, (-1.8, -1.2)).startswith(
        "does not beat doing nothing: it is worse by 1.50 dB"
    )
    assert "within chance" in verdict(0.1, (-0.2, 0.4))


# ------------------------------------------------------------------------------------------ models
def test_doing_nothing_gains_nothing(tmp_path: Path) -> None:
    cell = score(Identity(), write_corpus(tmp_path / "c", {"test": 6}, crops=2))
    assert cell.scores == cell.nothing
    assert cell.gain == dict.fromkeys(SCORED, 0.0)
    assert cell.gain_interval == dict.fromkeys(SCORED, (0.0, 0.0))
    assert (cell.images, cell.groups) == (6, 3)


def test_batches_change_nothing(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 5}, layout="combined")
    alone, together = (score(Brighter(), corpus, batch=batch) for batch in (1, 64))
    assert alone == together
    assert alone.gain["psnr"] < 0
    assert alone.gain["mae"] < 0


def test_direction_changes_what_is_given(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 2})
    there, back = (score(Brighter(), corpus, swapped=swapped) for swapped in (False, True))
    assert there.nothing == pytest.approx(back.nothing)
    assert there.scores != back.scores


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
        evaluate_matrix([tmp_path / "run"], [corpus])
    assert "\n" not in str(rejected.value)


# ------------------------------------------------------------------------------- a run, its report


def test_report_of_a_run_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 9}, crops=3, names=(EVIL,))
    run = write_run(tmp_path / "run")
    seen: list[tuple[int, int, str]] = []
    cell = evaluate_run(
        run, corpus, device="cpu", progress=lambda *what: seen.append(what), gallery=6
    )
    assert seen[-1] == (9, 9, "l2 unet on other on c")
    saved = strict_json(run / "evaluation" / "c-test.json")
    assert saved["verdict"] == cell.verdict
    assert saved["protocol"]["metrics"].keys() == SCORED.keys()
    worst = [row.key for row in sorted(cell.rows, key=lambda row: row.scores["psnr"])]
    assert [p["key"] for p in saved["gallery"]][:4] == worst[:4]

    page = write_run_report(run).read_text("utf-8")
    check_self_contained(page)
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "doing nothing" in page
    assert "corpora" in page
    assert len([a for a in elements(page, "figure") if a["class"] == "card three"]) == 6
    assert len(elements(page, "svg")) == 2
    assert len(elements(page, "img")) == 6 * 3 + 3

    again = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, again)
    (again / "report.html").unlink()
    evaluate_run(again, corpus, device="cpu", gallery=6)
    assert write_run_report(again).read_text("utf-8") == page


def test_report_of_an_evaluation_by_an_earlier_version(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    evaluate_run(run, write_corpus(tmp_path / "c", {"test": 3}), device="cpu")
    (path,) = (run / "evaluation").glob("*.json")
    saved = strict_json(path)
    for name in ("slices", "notes"):
        del saved[name]
    for card in saved["gallery"]:
        del card["facts"]
    path.write_text(json.dumps(saved))
    check_self_contained(write_run_report(run).read_text("utf-8"))


def test_report_before_anything_was_evaluated_and_of_no_run(tmp_path: Path) -> None:
    page = write_run_report(write_run(tmp_path / "run")).read_text("utf-8")
    check_self_contained(page)
    assert "Not evaluated yet" in page
    with pytest.raises(CheckpointError):
        write_run_report(tmp_path)


def test_corpora_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    corpora = [write_corpus(tmp_path / side / "c", {"test": 1}) for side in "ab"]
    run = write_run(tmp_path / "run", corpora=corpora)
    names = [evaluate_run(run, corpus, device="cpu").corpus for corpus in corpora]
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
    matrix = evaluate_matrix(runs, corpora, device="cpu", batch=2)
    assert matrix.corpora == ("a/c", "b/c")
    assert matrix.cell("<i>1", "b/c").images == 2
    page = write_matrix(matrix, tmp_path / "out").read_text("utf-8")
    check_self_contained(page)
    assert "<i>0" not in page
    written = strict_json(tmp_path / "out" / "matrix.json")
    assert [(cell["run"], cell["corpus"]) for cell in written["cells"]] == [
        (r, c) for r in matrix.runs for c in matrix.corpora
    ]
    with (tmp_path / "out" / "matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr_gain"]) for row in rows] == [
        cell["gain"]["psnr"] for cell in written["cells"]
    ]
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * (3 + 2)


def test_no_interval_is_null_and_empty(tmp_path: Path) -> None:
    cell = score(Brighter(), write_corpus(tmp_path / "c", {"test": 2}, crops=2))
    write_matrix(Matrix(("model",), ("corpus",), "test", (cell,)), tmp_path / "out")
    assert (
        strict_json(tmp_path / "out" / "matrix.json")["cells"][0]["gain_interval"]["psnr"] is None
    )
    with (tmp_path / "out" / "matrix.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["psnr_gain_low"] == ""
    assert "no interval" in (tmp_path / "out" / "index.html").read_text("utf-8")


# ------------------------------------------------------------------------------------------ charts
LINES = {
    "one point": [(1.0, 3.0)],
    "flat": [(1.0, 0.0), (2.0, 0.0)],
    "falling far": [(1.0, 1.0), (2.0, 1e-3), (3.0, 2e-6)],
    "below zero": [(0.0, -4.0), (10.0, 1.0)],
    "thousands": [(float(e), 1000.0 + e) for e in range(500)],
}


@pytest.mark.parametrize("name", LINES)
def test_charts_keep_lines_and_ticks_inside(name: str) -> None:
    drawn = chart("t", "", [Series("line", LINES[name]), Series("none", [])])
    assert len(drawn.lines) == 1
    numbers = [
        float(part) for part in drawn.lines[0].path.replace("M", "").replace("L", " ").split()
    ]
    assert all(0 <= x <= drawn.width for x in numbers[::2])
    assert all(0 <= y <= drawn.height for y in numbers[1::2])
    assert 2 <= len(drawn.y_ticks) <= 9
    assert len({label for _, label in drawn.y_ticks}) == len(drawn.y_ticks)
