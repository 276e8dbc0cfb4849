"""Classical baselines: each helps where it suits, and the best one is named in the results."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from conftest import make_photo
from degradation_examples import LIGHT, example
from fake_models import Brighter, Identity, strict_json, write_run
from pages import check_self_contained
from small_corpus import degraded_corpus, write_corpus, write_lab

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import Place
from img2img_data.corpus.reader import Pair, open_corpus
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import parse_spec
from img2img_train.data import deconvolution
from img2img_train.evaluation.baselines import (
    BASELINES,
    FIT_IMAGES,
    FIT_PIXELS,
    FittedBaselines,
    _sample,
    fit_baselines,
)
from img2img_train.evaluation.evaluate import evaluate_run
from img2img_train.evaluation.results import Matrix, write_matrix
from img2img_train.evaluation.score import Evaluation, Scoring, evaluate_model, read_pair
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.report.page import write_run_report

BLUR: Final = {"gaussian": {"sigma": [1, 2]}}
EXAMPLES: Final = {
    "blurred": BLUR,
    "shrunk": {"resize": {"factor": 4}},
    "noisy": {"noise": {"sigma": 30}},
}
"""A degradation that gives images each trait."""


def suited(name: str) -> Any:
    """Return a degradation that a baseline suits."""
    return EXAMPLES[min(BASELINES[name].suits)]


@pytest.mark.parametrize("side", [4, 360, 700])
@pytest.mark.parametrize("count", [1, FIT_IMAGES - 1, FIT_IMAGES, 2 * FIT_IMAGES - 1, 300])
def test_settings_are_fitted_on_images_of_the_whole_split(count: int, side: int) -> None:
    seen: list[int] = []
    image = np.zeros((side, side, 3), np.uint8)

    def read(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        seen.append(int(pair.key))
        return image, image

    pairs = [Pair(str(n), "val", Path(), Path()) for n in range(count)]
    list(_sample(pairs, read, FittedBaselines()))
    room = -(-FIT_PIXELS // image[..., 0].size)
    assert len(set(seen)) == len(seen) == min(count, FIT_IMAGES, room)
    # Fewer images, because they are large, are at most twice as far apart as evenly spaced ones.
    gaps = np.diff([-1, *sorted(seen), count])
    assert max(gaps) <= 2 * count / len(seen) + 1


IDENTITY = Identity()
PAIR = Pair("k", "test", Path(), Path())


def fitted(corpus: Path, asked: str = "auto", split: str = "test") -> FittedBaselines:
    opened = open_corpus(corpus)
    return fit_baselines(asked, opened, split, partial(read_pair, opened))


def scored(corpus: Path, model: Any = IDENTITY, asked: str = "auto") -> Evaluation:
    opened = open_corpus(corpus)
    scoring = Scoring(baselines=fitted(corpus, asked))
    return evaluate_model(model, opened, opened.pairs("test"), scoring)


# ------------------------------------------------------------------------------------ each baseline
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_beats_the_input_where_it_suits(name: str, deep: bool, tmp_path: Path) -> None:
    corpus = degraded_corpus(tmp_path / "c", suited(name), {"train": 4, "test": 4}, deep)
    evaluation = scored(corpus)
    assert evaluation.baselines[name].gain["psnr"] < -0.1
    assert evaluation.baseline_settings[name] in BASELINES[name].grid
    assert evaluation.best_baseline == max(
        evaluation.baselines, key=lambda n: evaluation.baselines[n].scores["psnr"]
    )


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (33, 20)])
def test_a_baseline_keeps_shape_and_type(name: str, size: tuple[int, int]) -> None:
    degradation = parse_spec(suited(name), Place()).degradation
    for dtype in (np.uint8, np.uint16):
        photo = make_photo(1, *size).astype(dtype)
        pair = replace(PAIR, row={"drawn": degradation.draw(np.random.default_rng(0))})
        for chosen in BASELINES[name].grid:
            output = FittedBaselines(degradation, {name: chosen}).restore(pair, photo)[name]
            assert (output.shape, output.dtype) == (photo.shape, photo.dtype)


@pytest.mark.parametrize("kind", LIGHT)
def test_a_transfer_function_is_that_of_the_blur(kind: str) -> None:
    """It applies the degradation to a smooth periodic image; only blurs have one."""
    degradation = example(kind)
    drawn = degradation.draw(np.random.default_rng(1))
    transfer = deconvolution.transfer_of([(degradation, drawn)], (32, 32))
    blurs = {"gaussian", "random-gaussian", "anisotropic", "generalized", "plateau"}
    assert (transfer is not None) == (kind in blurs | {"motion", "defocus", "sinc"})
    if transfer is not None:
        wave = 0.5 + 0.25 * np.cos(2 * np.pi * 3 * np.arange(64) / 64, dtype=np.float32)
        image = np.tile(wave, (64, 1))
        ours = np.fft.irfft2(np.fft.rfft2(image) * transfer)
        theirs = degradation.apply(np.tile(image, (3, 3)), "yx", **drawn)[64:128, 64:128]
        assert np.abs(ours - theirs).max() < 1e-3


def test_wiener_continues_the_image_as_the_blur_does() -> None:
    """The rim is restored as well as the middle, if the kernel has both symmetries."""
    gaussian = DEGRADATIONS["gaussian"](sigma=1.5)
    photo = make_photo(3, 64, 64).astype(np.float32) / 255
    blurred = gaussian.apply(photo, "yx", sigma=1.5)
    restored = deconvolution.wiener(blurred, [(gaussian, {"sigma": 1.5})], k=1e-9)
    error = np.abs(restored - photo)
    assert error.max() < 0.05
    assert error[0].mean() < 2 * error.mean()


# ---------------------------------------------------------------------------- what a corpus knows
@pytest.mark.parametrize(
    ("spec", "traits"),
    [
        ({"motion": {"length": 9}}, {"blurred"}),
        ({"at-scale": {"scale": 0.5, "steps": ["jpeg"]}}, {"shrunk"}),
        ([{"gaussian": {"sigma": 1}}, {"noise": {"sigma": 9}}], {"blurred", "noisy"}),
        ({"one-of": ["resize", {"gaussian": {"sigma": 2}}]}, {"blurred", "shrunk"}),
        ("jpeg", set()),
    ],
)
def test_the_baselines_are_those_that_suit(spec: Any, traits: set[str], tmp_path: Path) -> None:
    names = [name for name, baseline in BASELINES.items() if baseline.suits & traits]
    for name, trait in (("wiener", "blurred"), ("bicubic", "shrunk"), ("median", "noisy")):
        assert (name in names) == (trait in traits)
    corpus = degraded_corpus(tmp_path / "c", spec, {"train": 6, "test": 1})
    assert list(fitted(corpus).settings) == names


def test_no_baseline_sees_the_scored_split(tmp_path: Path) -> None:
    corpus = degraded_corpus(tmp_path / "c", BLUR, {"train": 2, "test": 2})
    before = fitted(corpus)
    for path in (corpus / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert fitted(corpus).settings == before.settings
    alone = degraded_corpus(tmp_path / "alone", BLUR, {"test": 2})
    assert not fitted(alone).settings
    assert "only 'test'" in fitted(alone).notes[0]
    assert scored(alone).conclusion.startswith("does not beat the input: both are equal")


def test_without_a_degradation_the_input_stands_alone(tmp_path: Path) -> None:
    splits = {"train": 2, "test": 2}
    for corpus in (write_corpus(tmp_path / "c", splits), write_lab(tmp_path / "lab", splits)):
        assert fitted(corpus) == FittedBaselines()
        assert list(fitted(corpus, "unsharp,median").settings) == ["unsharp", "median"]
        (note,) = fitted(corpus, "wiener").notes
        assert "baseline wiener left out" in note


@pytest.mark.parametrize("drawn", [None, {}, {"sigma": "9"}, {"sigma": 1e9}, {"sigma": True}])
def test_a_row_that_does_not_fit_gives_the_input(drawn: Any, tmp_path: Path) -> None:
    corpus = degraded_corpus(tmp_path / "c", BLUR, {"train": 2, "test": 1})
    manifest = corpus / "test/metadata.jsonl"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "drawn": drawn}) + "\n")
    evaluation = scored(corpus, asked="wiener")
    assert evaluation.baselines["wiener"].scores["psnr"] == evaluation.input_scores["psnr"]


def test_an_unknown_baseline_is_one_line(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 1})
    with pytest.raises(UsageError, match=r"'--baselines': 'weiner' is not a baseline; .*wiener"):
        fitted(corpus, "unsharp, weiner")
    with pytest.raises(UsageError, match="'auto' is not a baseline; use it alone"):
        fitted(corpus, "auto, wiener")
    assert fitted(corpus, "none") == FittedBaselines()


# ----------------------------------------------------------------------------------------- results
def test_the_headline_names_the_best_baseline(tmp_path: Path) -> None:
    corpus = degraded_corpus(tmp_path / "c", BLUR, {"train": 3, "test": 4})
    evaluation = scored(corpus, Brighter())
    best = evaluation.baselines["wiener"]
    assert evaluation.best_baseline == "wiener"
    start = f"does not beat the best baseline (wiener, {best.scores['psnr']:.2f} dB): it is worse"
    assert evaluation.conclusion.startswith(start)
    assert evaluation.conclusion.endswith(f"over the input is {evaluation.gain['psnr']:+.2f} dB")
    assert f"; wiener {best.scores['psnr']:.2f}, gain {best.gain['psnr']:+.2f}" in repr(evaluation)
    gains = [
        row.scores["psnr"] - row.baseline_scores["wiener"]["psnr"]
        for row in evaluation.image_scores
    ]
    assert best.gain["psnr"] == pytest.approx(np.mean(gains))

    write_matrix(Matrix(("r",), ("c",), "test", (evaluation,)), tmp_path / "out")
    (saved,) = strict_json(tmp_path / "out/matrix.json")["evaluations"]
    assert saved["baselines"]["wiener"]["gain"]["psnr"] == round(best.gain["psnr"], 6)
    with (tmp_path / "out/matrix.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["psnr_wiener"]) == round(best.scores["psnr"], 6)
    assert float(row["psnr_wiener_gain_high"]) < 0
    with (tmp_path / "out/images.csv").open(newline="") as file:
        assert {"psnr_wiener", "mae_unsharp"} <= set(next(csv.DictReader(file)))


def test_pages_show_every_baseline(tmp_path: Path) -> None:
    corpus = degraded_corpus(tmp_path / "c", BLUR, {"train": 2, "test": 2})
    run = write_run(tmp_path / "run")
    evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
    page = write_run_report(run).read_text("utf-8")
    check_self_contained(page)
    assert "the best baseline (wiener, " in page
    for text in ("wiener (k ", "unsharp (sigma ", "Wiener deconvolution"):
        assert text in page
