"""Copies are found, other images are kept, whatever the number of jobs and after any kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import COMMAND, rows, run, tree
from small_photos import NEAR, RGB, detailed, resized, write

from img2img_data.images import io
from img2img_data.images.pixels import luminance
from img2img_data.similarity.duplicates import (
    EXACT,
    MAX_DISTANCE,
    DuplicateGroups,
    HashIndex,
    copies_across_splits,
)
from img2img_data.similarity.perceptual_hash import (
    FLAT,
    HASHED,
    RECORD,
    FingerprintFile,
    Fingerprints,
    explain,
    fingerprint,
)

OTHER: dict[str, Callable[[RGB], RGB]] = {
    "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
    "turned": lambda p: np.ascontiguousarray(p[::-1]),
    "inverted": lambda p: 255 - p,
    "stretched": lambda p: cv2.resize(p, (p.shape[1] * 2, p.shape[0])),
    "half": lambda p: np.ascontiguousarray(p[:, : p.shape[1] // 2]),
    "another": lambda p: detailed(10_000 + int(p.sum())),
}


@pytest.fixture
def prints_of(tmp_path: Path) -> Iterator[Callable[..., Fingerprints]]:
    files = []

    def load(*images: RGB | bytes | None) -> Fingerprints:
        file = FingerprintFile(tmp_path / f"prints{len(files)}", len(images))
        files.append(file)
        for place, image in enumerate(images):
            file.write(place, image if isinstance(image, bytes) else fingerprint(image))
        return file.load()

    yield load
    for file in files:
        file.__exit__(None, None, None)


# ---------------------------------------------------------------------------------------- one pair
@pytest.mark.parametrize("name", NEAR)
def test_near_copies_are_found(name: str, prints_of: Callable[..., Fingerprints]) -> None:
    photos = [detailed(seed) for seed in range(30)]
    groups = DuplicateGroups(prints_of(*photos, *map(NEAR[name], photos)), 8)
    assert (groups.kept[30:] == np.arange(30)).sum() >= 29
    assert (groups.kept[:30] == np.arange(30)).all()
    assert (groups.distances[30:] <= 8).all()


@pytest.mark.parametrize("name", OTHER)
def test_other_images_are_kept(name: str, prints_of: Callable[..., Fingerprints]) -> None:
    photos = [detailed(seed) for seed in range(30)]
    groups = DuplicateGroups(prints_of(*photos, *map(OTHER[name], photos)), MAX_DISTANCE)
    assert (groups.kept == np.arange(60)).all()


@pytest.mark.parametrize("distance", [0, 8])
def test_equal_pixels_are_exact_copies_whatever_the_file(
    distance: int, prints_of: Callable[..., Fingerprints]
) -> None:
    photo = detailed(1)
    stored = io.decode(io.encode(photo, "png")).pixels
    groups = DuplicateGroups(prints_of(photo, detailed(2), stored, photo[:, :-1], photo), distance)
    assert groups.kept.tolist()[:3] + groups.kept.tolist()[4:] == [0, 1, 0, 0]
    assert groups.distances[[2, 4]].tolist() == [EXACT, EXACT]
    assert groups.kept[3] == (3 if distance == 0 else 0)


def test_the_same_samples_in_16_bits_are_a_near_copy(
    prints_of: Callable[..., Fingerprints],
) -> None:
    photo = detailed(1)
    groups = DuplicateGroups(prints_of(photo, photo.astype(np.uint16) * 257), 8)
    assert groups.kept.tolist() == [0, 0]
    assert groups.distances[1] == 0


FLATS: dict[str, RGB] = {
    "black": np.zeros((40, 60, 3), np.uint8),
    "white": np.full((40, 60, 3), 255, np.uint8),
    "sky": np.repeat(np.linspace(90, 220, 64).astype(np.uint8)[:, None, None], 80, 1).repeat(3, 2),
    "evening": np.repeat(np.linspace(20, 120, 64).astype(np.uint8)[:, None, None], 80, 1).repeat(
        3, 2
    ),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
}


@pytest.mark.parametrize("noise", [0, 3])
def test_flat_images_have_exact_copies_only(
    noise: int, prints_of: Callable[..., Fingerprints]
) -> None:
    rng = np.random.default_rng(0)
    flats = [
        np.clip(f + rng.normal(0, noise, f.shape), 0, 255).astype(np.uint8) for f in FLATS.values()
    ]
    prints = prints_of(*flats, *flats)
    assert set(prints.types) == {FLAT}
    groups = DuplicateGroups(prints, MAX_DISTANCE)
    assert groups.kept.tolist() == [*range(5), *range(5)]


def test_rejected_images_are_nobodys_copy(prints_of: Callable[..., Fingerprints]) -> None:
    photo = detailed(1)
    assert DuplicateGroups(prints_of(None, photo, None, photo), 8).kept.tolist() == [0, 1, 2, 1]


def test_contrast_level_and_a_small_shift_are_explained_away() -> None:
    thumb = cv2.resize(luminance(detailed(3)), (17, 17), interpolation=cv2.INTER_AREA)
    base, moved = thumb[:16, :16], thumb[1:, :16] // 2 + 60
    other = cv2.resize(luminance(detailed(4)), (16, 16), interpolation=cv2.INTER_AREA)
    correlation, gain = explain(base, np.stack([base, base // 2 + 9, other, np.zeros_like(base)]))
    assert correlation[:2] == pytest.approx([1, 1], abs=1e-3)
    assert gain[:2] == pytest.approx([1, 0.5], abs=0.02)
    assert correlation[2] < 0.7
    assert explain(base, moved[None])[0][0] > np.corrcoef(base.ravel(), moved.ravel())[0, 1]


# ------------------------------------------------------------------------------------------ search
@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_the_index_finds_all_that_comparing_each_with_each_finds(distance: int) -> None:
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 2**64, 300, np.uint64, endpoint=False)
    for place in range(0, 300, 2):  # near ones, up to twelve bits away
        bits = rng.choice(64, rng.integers(0, 13), replace=False)
        hashes[place] = hashes[place + 1] ^ np.uint64(sum(1 << int(b) for b in bits))
    every = np.array([[bin(int(a ^ b)).count("1") for b in hashes] for a in hashes])
    parts = list(HashIndex(hashes).near(hashes, distance))
    found = [pair for part in parts for pair in zip(*map(np.ndarray.tolist, part), strict=True)]
    assert found == list(zip(*map(np.ndarray.tolist, np.nonzero(every <= distance)), strict=True))


def made_record(hash_bits: int, thumb: RGB, serial: int = 0) -> bytes:
    record = np.zeros((), RECORD)
    record["kind"], record["aspect"], record["hash"], record["thumb"] = HASHED, 1, hash_bits, thumb
    record["digest"] = [hash_bits, serial]
    return record.tobytes()


def test_groups_are_stars_not_chains(prints_of: Callable[..., Fingerprints]) -> None:
    thumb = cv2.resize(luminance(detailed(5)), (16, 16), interpolation=cv2.INTER_AREA)
    row = [made_record((1 << 4 * k) - 1, thumb) for k in range(10)]  # each 4 bits from the last
    groups = DuplicateGroups(prints_of(*row), 8)
    assert groups.kept.tolist() == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]
    assert groups.distances.tolist() == [0, 4, 8, 0, 4, 8, 0, 4, 8, 0]
    middle = DuplicateGroups(
        prints_of(row[0], row[4], row[2], row[3]), 8
    )  # the nearest of two that are kept
    assert middle.kept.tolist() == [0, 1, 0, 1]
    assert {head: copies.tolist() for head, copies in middle.members()} == {0: [2], 1: [3]}


def test_many_copies_of_one_image_are_no_burden(prints_of: Callable[..., Fingerprints]) -> None:
    thumb = cv2.resize(luminance(detailed(5)), (16, 16), interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(0)
    same = [made_record(int(rng.integers(0, 8)) << 7, thumb, serial) for serial in range(6000)]
    began = time.process_time()
    groups = DuplicateGroups(prints_of(*same), 8)
    assert (groups.kept == 0).all()
    assert time.process_time() - began < 5


def test_a_damaged_or_missing_fingerprint_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "prints"
    with FingerprintFile(path, 3) as file:
        file.write(0, fingerprint(detailed(1), (5, 6)))
        file.write(2, fingerprint(None, (7, 8)))
        assert list(file.stamps()) == [(0, (5, 6)), (2, (7, 8))]
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with FingerprintFile(path, 3) as file:
        assert list(file.stamps()) == [(2, (7, 8))]


# ------------------------------------------------------------------------------------------- leaks
def test_the_copies_in_earlier_splits_are_the_nearest_copy_in_each_earlier_split(
    prints_of: Callable[..., Fingerprints],
) -> None:
    photos = [detailed(seed) for seed in range(6)]
    near, gray = NEAR["jpeg"](photos[1]), NEAR["gray"](photos[1])
    images = [
        photos[0],
        photos[1],
        near,
        photos[2],
        photos[3],
        photos[0],
        near,
        gray,
        photos[4],
        photos[4],
    ]
    splits = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2], np.uint8)
    prints = prints_of(*images)
    found = {(place, other) for place, other, _ in copies_across_splits(prints, splits, 8)}
    assert found == {(5, 0), (6, 2), (7, 1), (7, 6)}
    assert {(p, o): d for p, o, d in copies_across_splits(prints, splits, 8)}[5, 0] == EXACT
    assert {(p, o) for p, o, _ in copies_across_splits(prints, splits, 0)} == {(5, 0), (6, 2)}


# ------------------------------------------------------------------------------------- the command


def write_planted(folder: Path, count: int) -> tuple[Path, set[str], set[str]]:
    """Write distinct photos, near copies of every fifth and exact ones of every seventh."""
    near, exact = set(), set()
    for number in range(count):
        photo = detailed(number, 64, 56)
        write(folder / f"a{number:03d}.png", photo)
        if number % 5 == 0:
            near.add(f"b/{number:03d}.png")
            write(folder / f"b/{number:03d}.png", NEAR[list(NEAR)[number // 5 % 5]](photo))
        if number % 7 == 0:
            exact.add(f"c/{number:03d}.png")
            write(folder / f"c/{number:03d}.png", photo)
    return folder, near, exact


def test_select_drops_copies_and_lists_them_for_any_jobs(tmp_path: Path) -> None:
    photos, near, exact = write_planted(tmp_path / "photos", 60)
    for jobs in (1, 2):
        run("select", photos, tmp_path / f"out{jobs}", "--drop-duplicates", "--jobs", jobs)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")
    out = tmp_path / "out1"
    rejected = {str(r["source"]): r for r in rows(out / "rejected.jsonl")}
    assert set(rejected) == near | exact
    assert {str(r["reason"]) for r in rejected.values()} == {"duplicate"}
    assert rejected["c/007.png"]["detail"] == "exact copy of 'a007.png'"
    assert str(rejected["b/005.png"]["detail"]).startswith("near copy of 'a005.png', ")
    listed = rows(out / "duplicates.jsonl")
    copies = {c["source"]: (g["kept"]["source"], c["kind"]) for g in listed for c in g["copies"]}  # type: ignore
    assert copies == {
        **{n: (f"a{n[2:]}", "near") for n in near},
        **{n: (f"a{n[2:]}", "exact") for n in exact},
    }
    assert not (out / ".building").exists()
    run("select", photos, tmp_path / "exact", "--drop-duplicates", "--duplicate-distance", 0)
    assert {str(r["source"]) for r in rows(tmp_path / "exact" / "rejected.jsonl")} == exact


def test_of_copies_the_largest_can_be_kept(tmp_path: Path) -> None:
    photos, best = tmp_path / "photos", set()
    for number in range(6):
        photo = detailed(number, 120, 100)
        small, name = resized(photo, 0.6), f"{number}c.png"
        write(photos / f"{number}a.jpg", small)
        write(photos / f"{number}b.png", small)  # the same size, but a larger file
        write(photos / name, photo if number % 2 else small)
        best.add(name if number % 2 else f"{number}b.png")  # then by key
    options = ["--drop-duplicates", "--keep", "largest", "--jobs", 1]
    run("select", photos, tmp_path / "out", *options)
    chosen = {str(r["source"]) for r in rows(tmp_path / "out" / "metadata.jsonl")}
    assert chosen == best
    rejected = rows(tmp_path / "out" / "rejected.jsonl")
    assert len(rejected) == 12
    assert all(str(r["source"])[0] in str(r["detail"]).split("'")[1] for r in rejected)
    listed = rows(tmp_path / "out" / "duplicates.jsonl")
    assert {g["kept"]["source"] for g in listed} == best  # type: ignore
    assert sum(len(g["copies"]) for g in listed) == 12  # type: ignore
    run("select", photos, tmp_path / "first", "--drop-duplicates", "--jobs", 1)
    first = {str(r["source"]) for r in rows(tmp_path / "first" / "metadata.jsonl")}
    assert first == {f"{n}a.jpg" for n in range(6)}


def test_without_copies_the_list_is_empty_and_without_the_option_there_is_none(
    tmp_path: Path,
) -> None:
    for number in range(6):
        write(tmp_path / "photos" / f"{number}.png", detailed(number))
    run("select", tmp_path / "photos", tmp_path / "out", "--drop-duplicates")
    assert (tmp_path / "out" / "duplicates.jsonl").read_bytes() == b""
    run("select", tmp_path / "photos", tmp_path / "plain")
    assert not (tmp_path / "plain" / "duplicates.jsonl").exists()


def test_a_photo_that_a_filter_refuses_takes_no_other_with_it(tmp_path: Path) -> None:
    photo = detailed(1)
    write(tmp_path / "photos" / "a-small.png", resized(photo, 0.5))
    write(tmp_path / "photos" / "b-whole.png", photo)
    (tmp_path / "photos" / "0-torn.png").write_bytes(io.encode(photo, "png")[:500])
    options = ["--drop-duplicates", "--min-side", 64, "--max-bad", 1]
    run("select", tmp_path / "photos", tmp_path / "out", *options)
    assert [r["file_name"] for r in rows(tmp_path / "out" / "metadata.jsonl")] == ["b-whole.png"]
    assert (tmp_path / "out" / "duplicates.jsonl").read_bytes() == b""


def test_killed_and_rerun_equals_uninterrupted(tmp_path: Path) -> None:
    photos, _, _ = write_planted(tmp_path / "photos", 120)
    command = ["select", photos, "--drop-duplicates", "--jobs", 2]
    run(*command[:2], tmp_path / "whole", *command[2:])
    out, rng = tmp_path / "killed", random.Random(4)
    argv = [*COMMAND, *map(str, [*command[:2], out, *command[2:]])]
    for _ in range(3):
        process = subprocess.Popen(
            argv, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.6, 1.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run(*command[:2], out, *command[2:])
    assert tree(out) == tree(tmp_path / "whole")


def test_going_on_takes_changed_photos_again(tmp_path: Path) -> None:
    photos, _, _ = write_planted(tmp_path / "photos", 8)
    options = ["--drop-duplicates", "--jobs", 1]
    run("select", photos, tmp_path / "whole", *options)
    from img2img_data.builds.image_folders import SelectSettings, selection_build
    from img2img_data.runner.plan import plan_folders
    from img2img_data.runner.run import RunSettings
    from img2img_data.sources.folder import list_folder

    plan = plan_folders([photos], "paired", [list_folder(photos)])
    out = tmp_path / "out"
    out.mkdir()
    settings = SelectSettings(drop_duplicates=True)
    build = selection_build("select", plan, out, settings, RunSettings())
    build.folder.open({**build.recipe, "shard": None}, plan.roots)
    name = f"fingerprints-{plan.names_digest()}"
    with FingerprintFile(out / ".building" / name, len(plan)) as file:
        for place in range(len(plan)):  # of files that had another size then
            file.write(place, fingerprint(detailed(99), (1, 2)))
    run("select", photos, out, *options)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_shard_cannot_tell(tmp_path: Path) -> None:
    photos, _, _ = write_planted(tmp_path / "photos", 3)
    output = run("select", photos, tmp_path / "out", "--drop-duplicates", "--shard", "1/2", code=2)
    assert "--drop-duplicates" in output
    options = ["--drop-duplicates", "--shard", "1/2", "--dry-run"]
    assert output == run("select", photos, tmp_path / "out", *options, code=2)
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------- real data
REAL = ["natural/bsds500-train", "landscapes/scenes150/street", "landscapes/yosemite/trainB"]


@pytest.mark.parametrize("folder", REAL)
def test_real_photos_are_kept_and_their_copies_found(
    folder: str, real_data: Path, prints_of: Callable[..., Fingerprints]
) -> None:
    photos = [io.read(p).pixels for p in sorted((real_data / folder).iterdir())[:60]]
    unplanted = DuplicateGroups(prints_of(*photos), 8)
    assert (unplanted.kept == np.arange(len(photos))).all()
    for name, make in NEAR.items():
        groups = DuplicateGroups(prints_of(*photos, *map(make, photos)), 8)
        found = (groups.kept[len(photos) :] == np.arange(len(photos))).mean()
        assert found >= (0.98 if name != "cut" else 0.95), name


def test_the_copies_among_real_faces(real_data: Path, tmp_path: Path) -> None:
    names = [
        "02/890602_1999-01-23_2017.jpg",
        "94/6242194_1999-12-21_2016.jpg",
    ]  # one photo, cut twice
    names += [
        "02/7747402_1995-02-13_2017.jpg",
        "62/26334362_1996-08-07_2017.jpg",
    ]  # alike, not the same
    names += ["68/4124468_1991-01-18_2017.jpg", "83/12566883_2000-11-20_2017.jpg"]
    for name in names:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_data / "faces" / "wiki_crop" / name, tmp_path / "photos" / name)
    run("select", tmp_path / "photos", tmp_path / "out", "--drop-duplicates")
    assert [r["source"] for r in rows(tmp_path / "out" / "rejected.jsonl")] == [names[1]]
    assert json.loads((tmp_path / "out" / "selection.json").read_text())["counts"]["total"] == 6
