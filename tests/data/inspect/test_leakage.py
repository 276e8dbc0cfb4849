"""Images in two splits are found in every kind and layout of corpus, and no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import rows, run
from small_photos import NEAR, RGB, detailed, write

from img2img_data.images import io

SPLIT = ["--split", "train=0.5,val=0.25,test=0.25"]


def write_pairs(folder: Path, count: int) -> Path:
    """Write distinct photos, every second with a near copy, every fifth with an exact one."""
    for number in range(count):
        photo = detailed(number, 64, 64)
        write(folder / f"{number:02d}.png", photo)
        if number % 2 == 0:
            write(folder / f"{number:02d}-near.png", NEAR[list(NEAR)[number // 2 % 5]](photo))
        if number % 5 == 0:
            write(folder / f"{number:02d}-same.png", photo)
    return folder


def places(out: Path) -> dict[str, str]:
    """Return the split of each key (in unpaired corpora, of DOMAIN/KEY)."""
    found = {}
    for split in ("train", "val", "test"):
        for row in rows(out / split / "metadata.jsonl"):
            found[f"{row['domain']}/{row['key']}" if "domain" in row else str(row["key"])] = split
    return found


def expected(out: Path) -> set[tuple[str, str]]:
    """Return (split/key, earlier split with a copy); keys with equal numbers are copies."""
    order, where = ["train", "val", "test"], places(out)
    pairs = set()
    for key, split in where.items():
        for other, there in where.items():
            if key[:2] == other[:2] and order.index(there) < order.index(split):
                pairs.add((f"{split}/{key}", there))
    return pairs


def leaks_in(output: str) -> set[tuple[str, str]]:
    lines = re.findall(r"^leak +(\S+)  (?:exact|near) copy of (\w+)/", output, re.MULTILINE)
    return {(name, split) for name, split in lines}


BUILDS = {
    "folders": ["blur"],
    "combined": ["blur", "--layout", "combined"],
    "lab": ["lab"],
    "lab 16": ["lab", "--bits", "16"],
    "jpg": ["blur", "--format", "jpg", "--quality", "80"],
    "small": ["blur", "--size", "32"],
}


@pytest.mark.parametrize("name", BUILDS)
def test_planted_leaks_are_found_in_every_layout(name: str, tmp_path: Path) -> None:
    photos, out = write_pairs(tmp_path / "photos", 14), tmp_path / "out"
    command, *options = BUILDS[name]
    run(command, photos, out, *options, *SPLIT, "--jobs", 1)
    planted = expected(out)
    assert len(planted) >= 4, "the plants lie in different splits"
    output = run("verify", out, "--leaks", "--jobs", 1, code=1)
    assert leaks_in(output) == planted
    assert run("verify", out, "--leaks", "--jobs", 2, code=1) == output


def test_a_corpus_without_leaks_passes(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / "photos" / f"{number}.png", detailed(number, 64, 64))
    run("blur", tmp_path / "photos", tmp_path / "out", *SPLIT, "--jobs", 1)
    output = run("verify", tmp_path / "out", "--leaks", "--jobs", 1)
    assert "no image is in two splits" in output
    assert "no problems" in output
    run("blur", tmp_path / "photos", tmp_path / "one", "--jobs", 1)
    assert "one split" in run("verify", tmp_path / "one", "--leaks", "--jobs", 1)


def test_grouped_splits_have_no_leaks(tmp_path: Path) -> None:
    photos = write_pairs(tmp_path / "photos", 14)
    run("blur", photos, tmp_path / "out", *SPLIT, "--group-by", r"^\d+", "--jobs", 1)
    output = run("verify", tmp_path / "out", "--leaks", "--jobs", 1)
    assert "no image is in two splits" in output


def test_distance_zero_finds_exact_copies_only(tmp_path: Path) -> None:
    photos = write_pairs(tmp_path / "photos", 14)
    run("blur", photos, tmp_path / "out", *SPLIT, "--jobs", 1)
    output = run(
        "verify", tmp_path / "out", "--leaks", "--duplicate-distance", 0, "--jobs", 1, code=1
    )
    assert "exact copy" in output
    assert "near copy" not in output


def test_unpaired_domains_are_compared_together(tmp_path: Path) -> None:
    for number in range(16):
        write(tmp_path / "AB"[number % 2] / f"{number:02d}.png", detailed(number, 64, 64))
    for number in range(0, 16, 2):
        write(tmp_path / "B" / f"{number:02d}-near.png", NEAR["jpeg"](detailed(number, 64, 64)))
    out = tmp_path / "out"
    run("unpaired", tmp_path / "A", tmp_path / "B", out, *SPLIT, "--jobs", 1)
    where = places(out)
    apart = {k for k in where if "-near" in k and where[k] != where["A/" + k[2:4]]}
    assert apart
    output = run("verify", out, "--leaks", "--jobs", 1, code=1)
    assert len(leaks_in(output)) == len(apart)
    assert all(
        "/A/" in line and "/B/" in line for line in output.splitlines() if line.startswith("leak")
    )


def test_both_halves_of_pairs_from_two_folders_are_compared(tmp_path: Path) -> None:
    for number in range(12):  # the same photo with another sketch, then the reverse
        photo = detailed(0 if number < 6 else number, 64, 64)
        sketch = detailed(100 if number >= 6 else 100 + number, 64, 64)
        write(tmp_path / "A" / f"{number}.png", photo)
        write(tmp_path / "B" / f"{number}.png", sketch)
    run("combine", tmp_path / "A", tmp_path / "B", tmp_path / "out", *SPLIT, "--jobs", 1)
    output = run("verify", tmp_path / "out", "--leaks", "--jobs", 1, code=1)
    where = places(tmp_path / "out")
    leaked = {name for name, _ in leaks_in(output)}
    for part in ([str(n) for n in range(6)], [str(n) for n in range(6, 12)]):
        splits = {where[k] for k in part}
        later = {f"{where[k]}/{k}" for k in part if where[k] != "train" and len(splits) > 1}
        assert later <= leaked
    assert "(input)" in output
    assert "(target)" in output


def test_a_damaged_image_is_listed_not_fatal(tmp_path: Path) -> None:
    photos = write_pairs(tmp_path / "photos", 6)
    run("blur", photos, tmp_path / "out", *SPLIT, "--jobs", 1)
    target = next((tmp_path / "out" / "train" / "target").iterdir())
    target.write_bytes(target.read_bytes()[:200])
    assert "unreadable" in run("verify", tmp_path / "out", "--leaks", "--jobs", 1, code=1)


def test_planted_near_copies_of_real_photos_are_found(real_data: Path, tmp_path: Path) -> None:
    names = sorted((real_data / "natural" / "bsds500-train").iterdir())[:20]
    rng = np.random.default_rng(1)
    for number, path in enumerate(names):
        photo = io.read(path).pixels
        write(tmp_path / "photos" / f"{number:02d}.jpg", photo)
        plant = list(NEAR)[int(rng.integers(5))]
        write(tmp_path / "photos" / f"{number:02d}-{plant}.jpg", NEAR[plant](photo))
    run("blur", tmp_path / "photos", tmp_path / "out", "--size", 128, *SPLIT, "--jobs", 2)
    planted = expected(tmp_path / "out")
    assert len(planted) > 7
    assert leaks_in(run("verify", tmp_path / "out", "--leaks", "--jobs", 2, code=1)) == planted


def test_real_leaks_of_yosemite(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "landscapes" / "yosemite" / "trainA"  # holds some photos twice
    run(
        "blur", source, tmp_path / "out", "--size", 64, "--split", "train=0.5,test=0.5", "--jobs", 2
    )
    output = run("verify", tmp_path / "out", "--leaks", "--quick", "--jobs", 2, code=1)
    sources = {p.stem: p.read_bytes() for p in source.iterdir()}
    for test, train in re.findall(
        r"^leak +test/(.+?)  exact copy of train/(.+)$", output, re.MULTILINE
    ):
        assert sources[test] == sources[train]
    assert "exact copy" in output
    assert "near copy" not in output


CHANGES: dict[str, Callable[[RGB], RGB]] = {
    "mirrored": lambda p: p[:, ::-1],
    "turned": lambda p: np.rot90(p, 2),
    "mirrored turned": lambda p: np.rot90(p[:, ::-1]),
}


@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_mirrored_and_turned_copies_are_found_if_asked_for(layout: str, tmp_path: Path) -> None:
    for number in range(12):
        photo = detailed(number, 64, 64)
        write(tmp_path / "photos" / f"{number:02d}.png", photo)
        name = list(CHANGES)[number % 3]
        copy = np.ascontiguousarray(CHANGES[name](photo))
        write(
            tmp_path / "photos" / f"{number:02d}-copy.png",
            NEAR["jpeg"](copy) if number % 2 else copy,
        )
    out = tmp_path / "out"
    run("blur", tmp_path / "photos", out, "--layout", layout, *SPLIT, "--jobs", 1)
    planted = expected(out)
    assert len(planted) >= 4
    assert "no image is in two splits" in run("verify", out, "--leaks", "--jobs", 1)
    output = run("verify", out, "--mirrored", "--jobs", 1, code=1)
    found = re.findall(r"^leak +(\S+)  (exact|near) (.+) copy of (\w+)/(\d+)", output, re.MULTILINE)
    assert {(name, split) for name, _, _, split, _ in found} == planted
    for _, exactness, change, _, number in found:
        assert exactness == ("near" if int(number) % 2 else "exact")
        assert change == list(CHANGES)[int(number) % 3]
    assert run("verify", out, "--mirrored", "--jobs", 2, code=1) == output
