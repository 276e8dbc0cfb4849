"""Scores on domains without pairs: laws of sets, the command, and what it says without weights."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_photo
from small_corpus import write_corpus

torch = pytest.importorskip("torch")

from fake_models import Identity, strict_json, write_run  # noqa: E402
from inception_weights import inception_file  # noqa: E402

import img2img_train as train  # noqa: E402
from img2img_data.core.errors import CorpusError, UsageError  # noqa: E402
from img2img_data.corpus.reader import open_corpus  # noqa: E402
from img2img_data.images import io  # noqa: E402
from img2img_train.cli.main import group  # noqa: E402
from img2img_train.evaluation.domains import (  # noqa: E402
    COLOR_TRANSFER,
    Colors,
    evaluate_domains,
    images_of,
    transfer_colors,
)
from img2img_train.evaluation.evaluate import outputs_in  # noqa: E402
from img2img_train.evaluation.score import Evaluation, Scoring  # noqa: E402
from img2img_train.metrics.perceptual import load_perceptual_networks  # noqa: E402
from img2img_train.metrics.registry import COLOR_METRICS, METRICS  # noqa: E402


def warm(photo: np.ndarray) -> np.ndarray:
    """Return a photo with other colors, as those of another season."""
    return np.asarray(photo * [1.0, 0.75, 0.4] + [0, 20, 10], np.uint8)


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    """A CycleGAN folder: photos, and other photos in warmer colors; of two sizes."""
    root = tmp_path / "seasons"
    for split, count in (("train", 6), ("test", 5)):
        for side, seed in (("A", 0), ("B", 50)):
            folder = root / f"{split}{side}"
            folder.mkdir(parents=True)
            for number in range(count + (side == "B")):
                photo = make_photo(seed + number, 40 + 4 * (number == 2), 32)
                photo = photo if side == "A" else warm(photo)
                (folder / f"{number}.png").write_bytes(io.encode(photo, "png"))
    return root


def score(model: Any, corpus: Path, weights: Path, split: str = "test", **more: Any) -> Evaluation:
    opened = open_corpus(corpus)
    networks = load_perceptual_networks(None, weights, "cpu")
    scoring = Scoring(perceptual=networks, **more)
    return evaluate_domains(model, opened, images_of(opened, split, networks), scoring)


def test_the_input_has_no_gain_over_itself(domains: Path, tmp_path: Path) -> None:
    done: list[int] = []
    scored = score(Identity(), domains, inception_file(tmp_path / "i.pth"), progress=done.append)
    assert scored.scores == scored.input_scores
    assert set(scored.scores) == {*COLOR_METRICS, "fid"}
    assert set(scored.gain.values()) == {0}
    assert set(scored.gain_interval.values()) == {None}
    assert (scored.images, done[-1]) == (5, 11)
    assert "5 images" in " ".join(scored.notes)


def test_images_of_the_other_domain_have_a_distance_of_zero(domains: Path, tmp_path: Path) -> None:
    wanted = [io.read(p).pixels for p in sorted((domains / "testB").iterdir())][:5]
    (domains / "testB" / "5.png").unlink()

    def perfect(pairs: Sequence[Any], inputs: np.ndarray) -> np.ndarray:
        return np.stack([wanted[int(pair.key)] for pair in pairs])

    scored = score(perfect, domains, inception_file(tmp_path / "i.pth"))
    assert [scored.scores[name] for name in COLOR_METRICS] == pytest.approx([1, 1, 1])
    assert scored.scores["fid"] < 1e-6 * scored.input_scores["fid"]
    assert scored.conclusion.startswith("beats the ")


def test_directions_swap_the_domains(domains: Path, tmp_path: Path) -> None:
    small = {
        "net": "unet",
        "width": 2,
        "discriminator": "patch-16",
        "d_width": 2,
        "crop": 32,
        "max_steps": 1,
    }
    trained = train.fit(domains, tmp_path / "run", loss="cyclegan", threads=1, **small)
    weights, outputs = inception_file(tmp_path / "i.pth"), tmp_path / "outputs"
    shutil.copytree(domains / "testB", outputs)
    pages = {}
    for direction, images in (("AtoB", domains / "testA"), ("BtoA", outputs)):
        words = ["evaluate", trained, "--images", images, "--on", domains, "--fid", weights]
        words += ["--direction", direction, "--out", tmp_path / direction, "--device", "cpu"]
        done = CliRunner().invoke(group, list(map(str, words)))
        assert done.exit_code == 0, done.output
        pages[direction] = strict_json(tmp_path / direction / "matrix.json")["evaluations"]
    there, back = pages["AtoB"], pages["BtoA"]
    assert [e["images"] for e in there + back] == [5, 5, 6, 6]
    assert [e["test_time"].get("direction") for e in there + back] == [None, None, "BtoA", "BtoA"]
    for run, folder in (there, back):
        # The outputs in the folder are the inputs, whose scores all models share.
        assert folder["scores"] == folder["input_scores"] == run["input_scores"]
        assert run["scores"]["fid"] != run["input_scores"]["fid"]
    assert there[0]["scores"]["fid"] != back[0]["scores"]["fid"]


def test_sets_that_models_share_are_computed_once(domains: Path, tmp_path: Path) -> None:
    opened = open_corpus(domains)
    networks = load_perceptual_networks(None, inception_file(tmp_path / "i.pth"), "cpu")
    images, scoring = images_of(opened, "test", networks), Scoring(perceptual=networks)
    seen, scores = list[int](), []
    for _ in range(2):
        one = dataclasses.replace(scoring, progress=seen.append)
        scores.append(evaluate_domains(Identity(), opened, images, one))
        seen.append(-1)
    first, second = seen[: seen.index(-1)], seen[seen.index(-1) + 1 : -1]
    assert first[-1] == second[-1] == 11
    assert len(second) < len(first)
    assert scores[0] == scores[1]


def test_images_in_folders_have_keys_of_their_own(tmp_path: Path) -> None:
    for side in "AB":
        for name in ("x", "y"):
            folder = tmp_path / "foreign" / f"test{side}" / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(io.encode(make_photo(ord(name)), "png"))
    weights = inception_file(tmp_path / "i.pth")
    networks = load_perceptual_networks(None, weights, "cpu")
    images = images_of(open_corpus(tmp_path / "foreign"), "test", networks)
    assert [image.key for image in images] == ["x/0", "y/0"] * 2
    outputs = outputs_in(tmp_path / "foreign" / "testA")
    assert score(outputs, tmp_path / "foreign", weights).gain["fid"] == 0
    (tmp_path / "flat").mkdir()
    shutil.copy(tmp_path / "foreign" / "testA" / "x" / "0.png", tmp_path / "flat")
    with pytest.raises(CorpusError, match="is the only output for both 'x/0' and 'y/0'"):
        score(outputs_in(tmp_path / "flat"), tmp_path / "foreign", weights)


def test_color_transfer_has_the_colors_of_the_domain(domains: Path, tmp_path: Path) -> None:
    scored = score(Identity(), domains, inception_file(tmp_path / "i.pth"))
    its = scored.baselines[COLOR_TRANSFER].scores
    assert its["lab-b"] > scored.input_scores["lab-b"] + 0.2
    assert its["lab-l"] > scored.input_scores["lab-l"] + 0.05
    for bits in (np.uint8, np.uint16):
        photo = make_photo(1).astype(bits) * (257 if bits == np.uint16 else 1)
        unit = np.iinfo(bits).max / 255
        moved = transfer_colors(photo, Colors(np.full(3, 120.0) * unit, np.full(3, 9.0) * unit))
        assert moved.dtype == bits
        assert moved.std() < photo.std()
    flat = np.full((8, 8, 3), 90, np.uint8)
    assert transfer_colors(flat, Colors(np.full(3, 128.0), np.full(3, 9.0))).std() == 0


def test_without_another_split_there_is_no_color_transfer(domains: Path, tmp_path: Path) -> None:
    for side in "AB":
        for path in (domains / f"train{side}").iterdir():
            path.unlink()
        (domains / f"train{side}").rmdir()
    scored = score(Identity(), domains, inception_file(tmp_path / "i.pth"))
    assert scored.baselines == {}
    assert any(COLOR_TRANSFER in note for note in scored.notes)
    assert scored.conclusion == "does not beat the input: both are equal (no interval)"


def test_command_on_paired_and_unpaired_corpora(domains: Path, tmp_path: Path) -> None:
    pairs = write_corpus(tmp_path / "pairs", {"test": 3})
    trained, weights = write_run(tmp_path / "run"), inception_file(tmp_path / "i.pth")
    out = tmp_path / "scores"
    words = ["evaluate", trained, "--on", domains, pairs, "--fid", weights, "--out", out]
    done = CliRunner().invoke(group, [*map(str, words), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    text = done.output
    assert "run on seasons, 5 images: FID " in text
    assert "run on pairs, 3 images: PSNR " in text
    page = strict_json(out / "matrix.json")
    assert {"fid", "psnr"} <= page["protocol"]["metrics"].keys()
    assert COLOR_TRANSFER in page["protocol"]["baselines"]
    rows = list(csv.DictReader((out / "matrix.csv").open()))
    assert [bool(row["psnr"]) for row in rows] == [False, True]
    assert all(row["fid"] and row["fid_input"] for row in rows)
    # Each tab has the corpora and rows that its metric scores; a single gap is marked.
    tabs = (out / "index.html").read_text("utf-8").split('data-tab="')[1:]
    tables = {tab.partition('"')[0]: tab.partition("</section>")[0] for tab in tabs}
    shown = {n: " ".join(re.findall(r'"col">(\w+)', table)) for n, table in tables.items()}
    of_sets = [METRICS[name].label for name in (*COLOR_METRICS, "fid")]
    of_images = dict.fromkeys(("PSNR", "SSIM", "MS-SSIM", "MAE"), "pairs")
    assert shown == of_images | dict.fromkeys(of_sets, "seasons pairs")
    for mark in (COLOR_TRANSFER, "–</td>", "–: not scored."):
        assert [name for name, table in tables.items() if mark in table] == of_sets
    limited = CliRunner().invoke(group, [*map(str, words), "--fail-under", "psnr=1"])
    assert limited.exit_code == 1
    assert "run on seasons: no PSNR, which needs pairs" in limited.output
    plain = CliRunner().invoke(group, [*map(str, words), "--baselines", "none"])
    assert plain.exit_code == 0, plain.output
    assert COLOR_TRANSFER not in (out / "matrix.json").read_text("utf-8")
    alone = ["evaluate", trained, "--on", domains, "--fid", weights, "--by", "split", "--out", out]
    failed = CliRunner().invoke(group, [*map(str, alone)])
    assert isinstance(failed.exception, UsageError)
    assert CliRunner().invoke(group, [*map(str, alone[:6]), "--out", str(out)]).exit_code == 0
    assert (out / "images.csv").read_text("utf-8").startswith("run,corpus,split,key")


def test_what_is_missing_is_one_line(domains: Path, tmp_path: Path) -> None:
    trained = write_run(tmp_path / "run")
    with pytest.raises(UsageError, match="unpaired, so it needs FID; give --fid WEIGHTS"):
        train.evaluate(trained, domains)
    with pytest.raises(UsageError, match="has no split 'val'"):
        train.evaluate(trained, domains, split="val")
    weights = inception_file(tmp_path / "i.pth")
    assert train.evaluate(trained, domains, fid=weights).scores["fid"] > 0
    for path in list((domains / "testB").iterdir())[1:]:
        path.unlink()
    with pytest.raises(CorpusError, match="fewer than two images"):
        train.evaluate(trained, domains, fid=weights)
