"""The commands on real images; the expected counts come from the key beside them."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import rows, run


def test_wiki_sorts_by_gender_and_finds_the_gray_ones(
    real_data: Path, wiki: tuple[Path, str]
) -> None:
    from scipy.io import loadmat

    faces, output = wiki
    with (real_data / "faces" / "wiki_crop.sources.csv").open() as file:
        key = {r["full_path"]: r for r in csv.DictReader(file)}
    table = loadmat(real_data / "faces" / "wiki_crop" / "wiki.mat")["wiki"][0, 0]
    path = [str(p[0]) for p in table["full_path"].ravel()]
    gender = dict(zip(path, table["gender"].ravel(), strict=True))
    score = dict(zip(path, table["face_score"].ravel(), strict=True))
    faceless = {p for p in path if not np.isfinite(score[p])}
    nameless = {p for p in path if np.isnan(gender[p])} - faceless
    reasons = Counter(str(r["reason"]) for r in rows(faces / "rejected.jsonl"))
    assert (reasons["no-face"], reasons["no-gender"]) == (len(faceless), len(nameless))
    assert {"no-face", "no-gender", "gray"} >= set(reasons)
    left = [p for p in path if p not in faceless | nameless]
    dropped = {str(r["source"]) for r in rows(faces / "rejected.jsonl") if r["reason"] == "gray"}
    gray = {p for p in left if key[p]["gray_class"] != "colour"}
    assert len(dropped & gray) >= 0.98 * len(gray)
    assert len(dropped - gray) < 0.003 * (len(left) - len(gray))
    for name, value in (("male", 1), ("female", 0)):
        kept = rows(faces / name / "metadata.jsonl")
        assert {r["source"] for r in kept} == {p for p in left if gender[p] == value} - dropped
        first = faces / name / str(kept[0]["file_name"])
        assert (
            first.read_bytes()
            == (real_data / "faces" / "wiki_crop" / str(kept[0]["source"])).read_bytes()
        )
    assert "no-gender" in output


@pytest.mark.parametrize("scheme", ["training", "test"])
def test_cuhk_pairs_whole_under_both_schemes(scheme: str, real_data: Path, tmp_path: Path) -> None:
    photos, sketches = (real_data / "cuhk" / f"Training {n}" for n in ("photo", "sketch"))
    if scheme == "test":  # m-001-01.jpg with m-001-01-sz1.jpg
        renamed = tmp_path / "sketches"
        renamed.mkdir()
        for path in sketches.iterdir():
            (renamed / path.name.lower().replace("2-", "-", 1)).write_bytes(path.read_bytes())
        sketches = renamed
    run("combine", photos, sketches, tmp_path / "out", "--match", "cuhk", "--jobs", 1)
    kept = rows(tmp_path / "out" / "train" / "metadata.jsonl")
    assert len(kept) == 88
    for row in kept[::11]:
        both = cv2.imread(str(tmp_path / "out" / "train" / str(row["file_name"])))
        photo = cv2.imread(str(photos / str(row["source"])))
        assert both.shape == (250, 400, 3)
        assert np.abs(both[:, :200].astype(int) - photo).max() <= 1
        assert (both[:, 200:, 0] == both[:, 200:, 2]).all(), "the sketch is on the right"


@pytest.mark.parametrize("bits", [8, 16])
def test_lab_states_its_error_and_16_bit_comes_back_within_a_gray_level(
    bits: int, real_data: Path, tmp_path: Path
) -> None:
    source = real_data / "landscapes" / "yosemite" / "trainB"
    run("lab", source, tmp_path / "out", "--bits", bits, "--jobs", 2)
    page = json.loads((tmp_path / "out" / "corpus.json").read_text())
    assert (page["bits"], page["channels"]) == (bits, {"input": 1, "target": 3})
    worst = outside = 0.0
    kept = rows(tmp_path / "out" / "train" / "metadata.jsonl")
    assert len(kept) == 100
    for row in kept:
        stored = cv2.imread(
            str(tmp_path / "out/train" / str(row["target_file_name"])), cv2.IMREAD_UNCHANGED
        )
        lab = stored[..., ::-1].astype(np.float32) / (257 if bits == 16 else 1) * (100 / 255, 1, 1)
        lab -= (0, 128, 128)
        back = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_Lab2BGR) * 255
        photo = cv2.imread(str(source / str(row["source"])))
        worst = max(worst, float(np.abs(back - photo).max()))
        outside += float(str(row["measured"]["out_of_gamut_share"]))
    stated = page["measured"]
    assert abs(stated["round_trip_max"] - worst) <= 0.5 + 0.05, "rounded once"
    assert stated["out_of_gamut_share"] == pytest.approx(outside / 100, abs=1e-5)
    if bits == 16:
        assert worst < 1
        assert stated["out_of_gamut_share"] == 0
    else:
        assert stated["round_trip_max"] >= 1
        assert 0 < stated["out_of_gamut_share"] < 0.1


def test_resize_at_64_goes_through_16(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "landscapes" / "scenes150" / "street"
    run("blur", source, tmp_path / "out", "--kind", "resize", "--size", 64, "--jobs", 1)
    row = rows(tmp_path / "out" / "train" / "metadata.jsonl")[0]
    target = cv2.imread(str(tmp_path / "out" / "train" / str(row["target_file_name"])))
    blurred = cv2.imread(str(tmp_path / "out" / "train" / str(row["input_file_name"])))
    small = cv2.resize(target.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    assert target.shape == (64, 64, 3)
    assert (
        np.abs(cv2.resize(small, (64, 64), interpolation=cv2.INTER_LINEAR) - blurred).max() <= 0.51
    )


def pairs_of(kind: str, real_data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    from img2img_data.images import io

    if kind == "photo and sketch":
        photos = sorted((real_data / "cuhk" / "Training photo").iterdir())[::9]
        folder = real_data / "cuhk" / "Training sketch"
        names = [folder / f"{p.name[0].upper()}2{p.stem[1:]}-sz1.jpg" for p in photos]
        return [(io.read(a).pixels, io.read(b).pixels) for a, b in zip(photos, names, strict=True)]
    facades = [io.read(p).pixels for p in sorted((real_data / "facades" / "val").iterdir())[::10]]
    if kind == "photo and labels":
        return [(both[:, :256], both[:, 256:]) for both in facades]
    return [(cv2.GaussianBlur(both[:, :256], (0, 0), 3), both[:, :256]) for both in facades]


@pytest.mark.parametrize("kind", ["photo and sketch", "photo and labels", "blurred and sharp"])
def test_a_shift_planted_in_real_pairs_is_found(kind: str, real_data: Path) -> None:
    from img2img_data.similarity.alignment import measure_shift

    off, believed = [], 0
    for first, second in pairs_of(kind, real_data):
        inner = np.ascontiguousarray(first[8:-8, 8:-8])
        own = measure_shift(inner, np.ascontiguousarray(second[8:-8, 8:-8]))
        for x, y in ((0.5, 0), (0, -1.5), (4, 0), (-2.25, 3.75)):
            matrix = np.float32([[1, 0, x], [0, 1, y]])
            planted = cv2.warpAffine(second, matrix, second.shape[1::-1], flags=cv2.INTER_CUBIC)
            found = measure_shift(inner, np.ascontiguousarray(planted[8:-8, 8:-8]))
            off.append(np.hypot(found.x - own.x - x, found.y - own.y - y))
            believed += found.is_reliable
    assert np.median(off) <= 0.1
    assert np.mean(np.array(off) <= 0.25) >= 0.95
    assert believed >= 0.75 * len(off)
