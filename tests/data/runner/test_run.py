"""The engine's laws: same bytes for any number of workers and after any kill; one run a folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import cv2
import deadly
import numpy as np
import pytest
from command_line import COMMAND, rows, run, tree
from conftest import make_photo, write_photos
from deadly import LOST

BLURS = {
    "gaussian": ["--kind", "gaussian"],
    "random-gaussian": ["--kind", "random-gaussian", "--size", "24"],
    "resize": ["--kind", "resize", "--layout", "combined", "--split", "train=0.5,test=0.5"],
}


@pytest.mark.parametrize("kind", BLURS)
def test_one_and_two_workers_give_the_same_bytes(kind: str, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    for jobs in (1, 2):
        run("blur", photos, tmp_path / f"out{jobs}", *BLURS[kind], "--jobs", jobs)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")
    assert not (tmp_path / "out1" / ".building").exists()


def test_killed_and_rerun_equals_uninterrupted(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 400, 64, 64)
    command = ["blur", photos, "--kind", "random-gaussian", "--jobs", 2]
    run(*command[:2], tmp_path / "plain", *command[2:])
    plain, out, rng = tree(tmp_path / "plain"), tmp_path / "killed", random.Random(4)
    argv = [*COMMAND, *map(str, [*command[:2], out, *command[2:]])]
    for _ in range(3):
        process = subprocess.Popen(
            argv, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.4, 1.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        published = (
            {n: h for n, h in tree(out).items() if n.startswith("train/")} if out.exists() else {}
        )
        assert published.items() <= plain.items(), "a half-written file under a final name"
    run(*command[:2], out, *command[2:])
    assert tree(out) == plain


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the workers in /proc")
@pytest.mark.parametrize(
    ("number", "code", "forks", "processes"),
    [
        (signal.SIGINT, 130, True, 2),
        (signal.SIGHUP, 129, True, 2),
        (signal.SIGINT, 130, False, 4),  # two trackers and two workers
        (signal.SIGTERM, 143, False, 4),
    ],
)
def test_a_signal_to_all_its_processes_is_one_line(
    number: int, code: int, forks: bool, processes: int, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", 16, 1240, 700)
    in_loky = (
        "from img2img_data.cli.main import main; from img2img_data.runner import workers; "
        "workers._can_fork = lambda: False; main()"
    )
    command = COMMAND if forks else [sys.executable, "-c", in_loky]
    argv = [*command, "blur", str(photos), str(tmp_path / "out"), "--jobs", "2"]
    process = subprocess.Popen(
        argv,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup or in the background this process ignores a signal, and a child would too.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and len(children.read_text().split()) < processes:
        time.sleep(0.01)
    time.sleep(0.15)  # amid the imports of the workers, or amid an image of the forks
    os.killpg(process.pid, number)
    _, output = process.communicate(timeout=90)
    assert process.returncode == code
    assert [s for s in output.splitlines() if s and not s.startswith("blur")] == [
        "interrupted; run the same command again to continue"
    ]


@pytest.mark.parametrize("jobs", [1, 2, 64])
@pytest.mark.parametrize("count", [0, 1, 24, 200, 5000])
def test_chunks_shrink_towards_the_end(count: int, jobs: int) -> None:
    from img2img_data.runner.workers import CHUNK, chunks_of

    chunks = list(chunks_of(range(count), jobs))
    assert [index for chunk in chunks for index in chunk] == list(range(count))
    sizes = [len(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert not sizes or (sizes[0] <= CHUNK and sizes[-1] == 1)


def test_workers_are_never_more_than_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from img2img_data.runner import workers

    asked: list[int] = []
    parallel = workers._parallel
    monkeypatch.setattr(workers, "_can_fork", lambda: False)
    monkeypatch.setattr(
        workers, "_parallel", lambda jobs, calls: asked.append(jobs) or parallel(2, calls)
    )
    pool: workers.LocalPool[int, int] = workers.LocalPool(abs, lambda i: i, lambda i, _: i, 1000)
    assert sorted(pool.run(range(9))) == list(range(9))
    assert asked == [9]


def test_going_on_keeps_what_is_whole_and_mends_what_is_not(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("blur", photos, out, "--jobs", 1)
    plain = tree(out)
    journal = "".join(f"train\t{json.dumps(r)}\n" for r in rows(out / "train" / "metadata.jsonl"))
    recipe = json.loads((out / "corpus.json").read_text())["recipe"]
    recipe["source_folders"] = [os.fsencode(photos).hex()]
    (out / ".building" / "tmp").mkdir(parents=True)
    (out / ".building" / "recipe.json").write_text(json.dumps(recipe))
    (out / ".building" / "journal.jsonl").write_text(journal + journal[:50])
    (out / "corpus.json").unlink()
    (out / "train" / "input" / "003.png").write_bytes(b"torn")
    run("blur", photos, out, "--jobs", 1)
    assert tree(out) == plain


@pytest.mark.parametrize(
    ("command", "option", "hint", "then"),
    [
        (["combine", "--size", 8], [], "--fit crop", ["--fit", "crop"]),
        (["combine", "--size", 8], ["--fit", "error"], "--fit crop", ["--fit", "pad"]),
        (["select"], ["--min-side", 999], "--min-side", ["--min-side", 9]),
        (["select", "--drop-duplicates"], ["--min-side", 999], "--min-side", []),
        (["blur"], ["--kind", "gaussian"], "", ["--kind", "resize"]),
    ],
)
def test_a_run_that_keeps_nothing_is_an_error_and_leaves_its_folder_free(
    command: list[Any], option: list[Any], hint: str, then: list[Any], tmp_path: Path
) -> None:
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    damaged = {path: path.read_bytes() for path in photos.iterdir() if not hint}
    for path, content in damaged.items():
        path.write_bytes(content[:99])
    paths = [photos] * (2 if command[0] == "combine" else 1)
    words = [command[0], *paths, out, *command[1:], "--jobs", 1]
    output = run(*words, *option, code=1)
    error = output.splitlines()[-1]
    assert error.startswith(f"error: nothing to write to '{out}': 3 of 3 images were rejected")
    assert hint in error
    assert "complete" not in output
    assert len(rows(out / "rejected.jsonl")) == 3
    for path, content in damaged.items():
        path.write_bytes(content)
    run(*words, *then)
    assert (out / "rejected.jsonl").read_bytes() == b""


def test_a_hint_names_only_options_of_the_command(tmp_path: Path) -> None:
    photos, pairs = write_photos(tmp_path / "photos", 2), tmp_path / "pairs"
    run("blur", photos, pairs, "--size", 8)
    for half in (pairs / "train" / "target").iterdir():
        cv2.imwrite(str(half), make_photo(1))
    (pairs / "corpus.json").unlink()
    small = "smaller, or narrower, than the limit"
    for words, why, hint in (
        (["import", pairs], "not the requested size", ""),
        (["select", photos, "--min-side", 999], small, "; lower --min-side"),
        (["blur", photos, "--tile", 999], small, "; lower --tile"),
    ):
        error = run(words[0], words[1], tmp_path / "out", *words[2:], code=1).splitlines()[-1]
        assert why in error
        assert error.endswith(f"rejected.jsonl lists all{hint}")


@pytest.mark.parametrize("options", [["--drop-duplicates"], []])
def test_an_image_counts_once(options: list[str], tmp_path: Path) -> None:
    """However often it is read, by ``select`` and by ``show``; own lists count as no images."""
    from img2img_data.cli.steps import run_step
    from img2img_data.inspect.corpus_page import write_corpus_page

    photos, seen = write_photos(tmp_path / "photos", 30), list[tuple[int, int]]()
    settings = {"jobs": 1, "drop_duplicates": bool(options)}
    paths = [photos, tmp_path / "chosen"]
    run_step("select", paths, settings, lambda *count: seen.append(count), print)
    assert {total for _, total in seen} == {30}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (30, 30)
    assert "skipped" not in run("blur", tmp_path / "chosen", tmp_path / "corpus", "--jobs", 1)
    seen.clear()
    write_corpus_page(tmp_path / "corpus", progress=lambda *count: seen.append(count))
    assert {total for _, total in seen} == {30}
    assert seen[-1] == (30, 30)


def test_splits_are_named_in_their_order_with_their_numbers(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", 30), tmp_path / "out"
    words = ["blur", photos, out, "--split", "test=0.2,val=0.2,train=0.6", "--jobs", 1]
    dry = run(*words, "--dry-run")
    output = run(*words)
    kept = json.loads((out / "corpus.json").read_text())["counts"]["kept"]
    assert list(kept) == ["train", "val", "test"]
    counts = ", ".join(f"{name} {count}" for name, count in kept.items())
    assert counts in dry
    assert f"kept 30 ({counts})" in output
    assert kept != {"train": 18, "val": 6, "test": 6}
    assert f"split: {counts}; requested: test 6, val 6, train 18; images" in output
    words[2] = tmp_path / "exact"
    output = run(*words, "--stratify", "folder")
    assert "kept 30 (train 18, val 6, test 6)" in output
    assert "hash" not in output


def not_a_file(path: Path, kind: str) -> None:
    """Put something at ``path`` that a user could take for a file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("build {file}", "recipe"),
        ("degrade {in} {out} --recipe {file}", "recipe"),
        ("combine {in} {in} {out} --match csv --csv {file}", "table"),
    ],
)
def test_a_list_that_is_no_file_is_one_line(
    words: str, what: str, kind: str, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "list"
    not_a_file(file, kind)
    names = {"file": file, "in": photos, "out": tmp_path / "out"}
    output = run(*(word.format(**names) for word in words.split()), code=2)
    assert output.splitlines()[-1].startswith(f"error: {what} '{file}': is a pipe, socket, device")
    (tmp_path / "empty").touch()
    names["file"] = tmp_path / "empty"
    output = run(*(word.format(**names) for word in words.split()), code=2)
    assert "empty': the file has no bytes; check the path" in output


def test_text_that_is_not_unicode_is_kept(photos: Path, tmp_path: Path) -> None:
    run("blur", photos, tmp_path / "out", "--group-by", "k\udcff", "--jobs", 1)
    recipe = json.loads((tmp_path / "out" / "corpus.json").read_text())["recipe"]
    assert recipe["group_by"] == "k\udcff"
    assert "already complete" in run("blur", photos, tmp_path / "out", "--group-by", "k\udcff")


def test_another_recipe_or_source_is_rejected(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("blur", photos, out, "--jobs", 1)
    before = tree(out)
    output = run("blur", photos, out, "--sigma", 2, code=2)
    assert len(output.splitlines()) == 1
    assert "sigma" in output
    assert str(out) in output
    assert "already complete" in run("blur", photos, out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    assert "other files ('thesis.tex')" in run("blur", photos, tmp_path / "full", code=2)
    (tmp_path / "full" / "thesis.tex").rename(tmp_path / "full" / ".DS_Store")
    run("blur", photos, tmp_path / "full")
    assert tree(out) == before


def test_a_copy_never_has_the_name_of_another(tmp_path: Path) -> None:
    sources = tmp_path / "in"
    write_photos(sources, 3, 20, 20)
    for old, new in zip(sorted(sources.iterdir()), ("a", "a.png", "b"), strict=True):
        old.rename(sources / f"{new}.png")
    run("select", sources, tmp_path / "out")
    copies = [path.read_bytes() for path in (tmp_path / "out").glob("*.png*")]
    assert sorted(copies) == sorted(path.read_bytes() for path in sources.iterdir())
    assert "already complete" in run("select", sources, tmp_path / "out")


def test_a_second_builder_is_rejected(photos: Path, tmp_path: Path) -> None:
    from img2img_data.core.files import locked

    with locked(tmp_path / "out"):
        output = run("blur", photos, tmp_path / "out", code=2)
    assert "in use" in output
    assert len(output.splitlines()) == 1


def test_the_pixels_are_the_degraded_source(photos: Path, tmp_path: Path) -> None:
    from img2img_data.degradations.blur import GaussianBlur
    from img2img_data.images import io

    run("blur", photos, tmp_path / "out", "--sigma", 1.5, "--jobs", 1)
    for row in rows(tmp_path / "out" / "train" / "metadata.jsonl"):
        source = io.read(photos / str(row["source"])).pixels
        pixels = io.read(tmp_path / "out" / "train" / str(row["input_file_name"])).pixels
        assert (pixels == GaussianBlur(sigma=1.5).apply(source, sigma=1.5)).all()
        target = tmp_path / "out" / "train" / str(row["target_file_name"])
        assert target.read_bytes() == (photos / str(row["source"])).read_bytes()
        assert row["source_sha256"] == row["target_sha256"]


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
    body = (
        len(d).to_bytes(4, "big") + n + d + zlib.crc32(n + d).to_bytes(4, "big") for n, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_junk_is_listed_never_fatal(photos: Path, tmp_path: Path) -> None:
    good = (photos / "000.jpg").read_bytes()
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "good.jpg").write_bytes(good)
    (junk / "new\nline.jpg").write_bytes(good)
    (junk / "text.jpg").write_text("not a image")
    (junk / "raw.cr2").write_bytes(good)
    (junk / "zero.jpg").write_bytes(b"")
    (junk / "cut.jpg").write_bytes(good[: len(good) // 2])
    (junk / "bomb.png").write_bytes(png_of(50000, 50000))
    os.mkfifo(junk / "fifo.jpg")
    (junk / "loop.jpg").symlink_to("loop.jpg")
    (junk / "more").symlink_to(photos)
    output = run("blur", junk, tmp_path / "out", "--jobs", 2, code=1)
    found = {str(r["source"]): r["reason"] for r in rows(tmp_path / "out" / "rejected.jsonl")}
    assert found == {
        "bomb.png": "too-many-pixels",
        "text.jpg": "not-an-image",
        "zero.jpg": "empty",
        "cut.jpg": "truncated",
        "fifo.jpg": "not-a-regular-file",
        "loop.jpg": "link",
    }
    kept = rows(tmp_path / "out" / "train" / "metadata.jsonl")
    assert [r["key"] for r in kept] == ["good", "new%0Aline"]
    assert "rejected 6" in output
    skipped = "skipped files without an image extension (.cr2: 1, linked folder: 1); --follow"
    assert f"'{junk}': {skipped}" in output
    assert sum(p.is_file() for p in (tmp_path / "out" / "train").rglob("*.*")) == 6


@pytest.mark.parametrize(("jobs", "count"), [(1, 1), (2, 40)])
@pytest.mark.parametrize("name", LOST)
def test_a_deadly_task_costs_only_itself(name: str, jobs: int, count: int) -> None:
    """In forks, as in a command: a process of its own has one thread."""
    argv = [sys.executable, deadly.__file__, name, str(jobs), str(count)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == deadly.expected(name, count), done.stderr


@pytest.mark.parametrize(("name", "jobs", "count"), [("dies", 2, 40), ("hangs", 1, 4)])
def test_a_deadly_task_costs_only_itself_in_loky(
    name: str, jobs: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("img2img_data.runner.workers._can_fork", lambda: False)
    assert deadly.results(name, jobs, count) == deadly.expected(name, count)


def test_workers_are_in_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from img2img_data.runner import workers

    monkeypatch.setattr(workers, "_can_fork", lambda: False)
    for name in ("first", "second"):  # the second time with the workers of the first
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        pool: Any = workers.LocalPool(os.path.abspath, lambda i: f"{i}.png", max, 2)
        assert sorted(pool.run(range(8))) == [str(folder / f"{i}.png") for i in range(8)]


def test_an_error_of_a_fork_is_raised_with_its_traceback() -> None:
    argv = [sys.executable, deadly.__file__, "fails", "1", "4"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.count("\nZeroDivisionError:") == 2, "there and here"
    assert "in fails_on_first" in done.stderr


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_time_limit_holds_for_few_images(jobs: int, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    slow = ["--size", 8000, "--timeout", 0.1, "--max-bad", 1, "--jobs", jobs]
    argv = [*COMMAND, *map(str, ["blur", photos, tmp_path / "out", *slow])]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "raise --timeout" in done.stderr) == (1, True), done.stderr
    reasons = [row["reason"] for row in rows(tmp_path / "out" / "rejected.jsonl")]
    assert reasons == ["timeout", "timeout"]


def write_pairs(root: Path, names: dict[str, str]) -> None:
    for side in "AB":
        (root / side).mkdir(parents=True)
    for number, (a, b) in enumerate(names.items()):
        for side, name in (("A", a), ("B", b)):
            cv2.imwrite(str(root / side / name), make_photo(number)[..., ::-1])


def test_combine_names_what_is_missing_twice_and_of_another_size(tmp_path: Path) -> None:
    write_pairs(tmp_path, {f"f-00{i}-01.jpg": f"F2-00{i}-01-sz1.jpg" for i in range(1, 7)})
    (tmp_path / "B" / "F2-001-01-sz1.jpg").unlink()
    shutil.copy(tmp_path / "B" / "F2-002-01-sz1.jpg", tmp_path / "B" / "F2-002-01-sz1.png")
    cv2.imwrite(str(tmp_path / "B" / "F2-003-01-sz1.jpg"), make_photo(3, 64, 80))
    shutil.copy(tmp_path / "B" / "F2-005-01-sz1.jpg", tmp_path / "B" / "F2-006-01-sz1.jpg")
    output = run(
        "combine", tmp_path / "A", tmp_path / "B", tmp_path / "out", "--match", "cuhk", code=1
    )
    assert "f-001-01.jpg" in output
    assert "F2-002-01-sz1.png" in output
    listed = {str(r["source"]): str(r["reason"]) for r in rows(tmp_path / "out" / "rejected.jsonl")}
    assert listed["f-001-01.jpg"] == "unpaired"
    assert listed["f-002-01.jpg"] == "ambiguous-pair"
    assert listed["f-003-01.jpg"] == "size"
    assert "f-003-01.jpg" in output
    assert "'F2-006-01-sz1.jpg' and 'F2-005-01-sz1.jpg' are the same image" in output
    kept = rows(tmp_path / "out" / "train" / "metadata.jsonl")
    assert [r["key"] for r in kept] == ["f-004-01", "f-005-01", "f-006-01"]
    row = kept[0]
    both = cv2.imread(str(tmp_path / "out" / "train" / str(row["file_name"])))
    left = cv2.imread(str(tmp_path / "A" / str(row["source"])))
    assert np.abs(both[:, : left.shape[1]].astype(int) - left).max() <= 1
    dry = run(
        "combine",
        tmp_path / "A",
        tmp_path / "B",
        tmp_path / "dry",
        "--match",
        "cuhk",
        "--dry-run",
        code=1,
    )
    assert "pair  f-004-01.jpg  |  F2-004-01-sz1.jpg" in dry
    assert not (tmp_path / "dry").exists()


def test_lab_states_its_round_trip(photos: Path, tmp_path: Path) -> None:
    errors = {}
    for bits in (8, 16):
        run("lab", photos, tmp_path / f"lab{bits}", "--bits", bits, "--jobs", 1)
        page = json.loads((tmp_path / f"lab{bits}" / "corpus.json").read_text())
        assert page["color"] == "lab"
        errors[bits] = page["measured"]["round_trip_max"]
    assert errors[16] <= 1 < errors[8]


@pytest.mark.parametrize("command", ["lab", "grayscale"])
def test_images_without_color_are_noted_where_colors_are_learned(
    command: str, photos: Path, tmp_path: Path
) -> None:
    assert "without color" not in run(command, photos, tmp_path / "colors")
    gray = np.zeros((20, 24), np.uint8)
    cv2.imwrite(str(photos / "gray.png"), gray)
    text = "note: images without color: 1; they teach a model no colors"
    assert text in run(command, photos, tmp_path / "mixed")


@pytest.mark.parametrize("empty", [0, 1])
def test_a_domain_without_a_image_is_no_corpus(photos: Path, tmp_path: Path, empty: int) -> None:
    domains = [photos, tmp_path / "empty"][:: -1 if empty == 0 else 1]
    (tmp_path / "empty").mkdir()
    output = run("unpaired", *domains, tmp_path / "out", code=2)
    assert f"no images in '{tmp_path / 'empty'}'" in output
    assert not (tmp_path / "out").exists()


def test_unpaired_keeps_the_domains_apart(photos: Path, tmp_path: Path) -> None:
    from img2img_data.corpus.reader import open_corpus

    other = write_photos(tmp_path / "other", 5, 20, 20)
    run("unpaired", photos, other, tmp_path / "out", "--jobs", 1)
    a, b = open_corpus(tmp_path / "out").domains["train"]
    assert (len(a), len(b)) == (12, 5)


def test_groups_stay_in_one_split(tmp_path: Path) -> None:
    for folder in "abcdefghij":
        write_photos(tmp_path / "photos" / folder, 3)
    run(
        "blur",
        tmp_path / "photos",
        tmp_path / "out",
        "--group-by",
        "folder",
        "--split",
        "train=0.5,test=0.5",
    )
    sides = [
        {str(r["key"])[0] for r in rows(tmp_path / "out" / s / "metadata.jsonl")}
        for s in ("train", "test")
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_verify_finds_every_kind_of_damage(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("blur", photos, out, "--jobs", 1)
    assert "no problems" in run("verify", out)
    inputs = out / "train" / "input"
    (inputs / "000.png").unlink()
    (inputs / "001.png").write_bytes((inputs / "002.png").read_bytes())
    (inputs / "003.png").write_bytes(b"torn")
    cv2.imwrite(str(inputs / "004.png"), make_photo(1, 10, 10))
    cv2.imwrite(str(inputs / "more.png"), make_photo(1))
    output = run("verify", out, code=1)
    for line in (
        "missing     train/input/000.png",
        "changed     train/input/001.png",
        "unreadable  train/input/003.png",
        "size        train/input/004.png",
        "extra       train/input/more.png",
    ):
        assert line in output


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["blur", "{in}", "{out}", "--sigma", "-1"], "--sigma"),
        (["blur", "{in}", "{out}", "--kind", "gausian"], "gaussian"),
        (["blur", "{in}", "{out}", "--factor", "2"], "--factor"),
        (["blur", "{in}", "{out}", "--split", "train=0.5"], "--split"),
        (["blur", "{in}", "{out}", "--size", "0"], "--size"),
        (["blur", "{in}", "{out}", "--sigma", "9" * 400], "--sigma"),
        (["degrade", "{in}", "{out}", "--kind", "noise", "--set", "sigma=" + "9" * 400], "sigma"),
        (["blur", "{in}", "{out}", "--jobs", "100000"], "--jobs"),
        (["blur", "{in}", "{in}/sub"], "overlaps"),
        (["blur", "{in}/none", "{out}"], "no such folder"),
        (["combine", "{in}", "{in}", "{out}", "--match", "template"], "--template-a"),
        (["edges", "{in}", "{out}", "--low", "9", "--high", "8"], "--low is above --high"),
        (["degrade", "{in}", "{out}", "--kind", "jpeg", "--recipe", "camera"], "conflicts with"),
        (["combine", "{in}", "{in}", "{out}", "--match", "regex", "--regex-a", "("], "--regex-a"),
        (["verify", "{in}"], "holds images, not pairs"),
    ],
)
def test_wrong_options_are_one_line(
    argv: list[str], names: str, photos: Path, tmp_path: Path
) -> None:
    words = [w.replace("{in}", str(photos)).replace("{out}", str(tmp_path / "out")) for w in argv]
    output = run(*words, code=2)
    assert names in output
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


DEGRADE = ("degrade", "photos", "out", "--kind", "noise", "--size", "16")
OTHER_SETTINGS: dict[tuple[str, ...], str] = {
    (*DEGRADE[:-1], "24"): "--size 24, was --size 16",
    (*DEGRADE, "--alpha", "reject"): "--alpha reject, was --alpha white",
    (*DEGRADE, "--license", "a\x1bb"): "--license a\\x1bb, was no --license",
    (*DEGRADE, "--license", "x" * 200): "another --license",
    (*DEGRADE[:-2], "--set", "sigma=2..4"): "degradation noise: gray: 0.0, sigma: [2.0, 4.0], was "
    "degradation noise: gray: 0.0, sigma: 10.0; no --size, was --size 16",
    (*DEGRADE[:3], "--recipe", "mixed", *DEGRADE[-2:]): "another degradation",
    # Not the pairing, which is no option, and not the options of one command only.
    ("lab", *DEGRADE[1:3]): "command lab, was command degrade",
    # The tags of another folder are no setting.
    ("degrade", "tagged", *DEGRADE[2:], "--seed", "1"): "--seed 1, was --seed 0",
}


@pytest.mark.parametrize("words", OTHER_SETTINGS)
def test_other_settings_are_named_as_options(words: tuple[str, ...], tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1)
    tags = json.dumps({"file_name": "000.jpg", "a": 1})
    (write_photos(tmp_path / "tagged", 1) / "metadata.jsonl").write_text(tags)
    run(*DEGRADE, cwd=tmp_path)
    output = run(*words, cwd=tmp_path, code=2)
    assert f"was made with other settings ({OTHER_SETTINGS[words]}); choose" in output


def test_an_unpacking_of_another_corpus_names_the_corpus(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2)
    run(*DEGRADE, cwd=tmp_path)
    run("pack", "out", "packed", cwd=tmp_path)
    (tmp_path / "corpus" / ".building").mkdir(parents=True)
    note = {"command": "unpack", "index": "0" * 64, "source_folders": [b"/elsewhere".hex()]}
    (tmp_path / "corpus" / ".building" / "recipe.json").write_text(json.dumps(note))
    output = run("unpack", "packed", "corpus", cwd=tmp_path, code=2)
    assert "was made with other settings (the packed corpus; the source folder)" in output


def test_a_build_that_another_folder_began_names_the_folder(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2)
    run(*DEGRADE, cwd=tmp_path)
    corpus = tmp_path / "out"
    recipe = json.loads((corpus / "corpus.json").read_text())["recipe"]
    (corpus / "corpus.json").unlink()
    (corpus / ".building").mkdir()
    note = {**recipe, "shard": None, "source_folders": [b"/elsewhere".hex()]}
    (corpus / ".building" / "recipe.json").write_text(json.dumps(note))
    output = run(*DEGRADE, cwd=tmp_path, code=2)
    assert "was made with other settings (the source folder)" in output


# Since Python 3.14 pathlib takes a name that is too long for that of a missing file.
only_looked_at = pytest.mark.skipif(sys.version_info >= (3, 14), reason="nothing is there")


@pytest.mark.parametrize(
    "argv",
    [
        ["blur", "{in}", "{long}"],
        pytest.param(["blur", "{in}", "{long}", "--dry-run"], marks=only_looked_at),
        ["select", "{in}", "{long}"],
        pytest.param(["blur", "{long}", "{out}"], marks=only_looked_at),
        pytest.param(["verify", "{long}"], marks=only_looked_at),
    ],
)
def test_a_name_that_is_too_long_is_one_line(argv: list[str], photos: Path, tmp_path: Path) -> None:
    place = {
        "{in}": str(photos),
        "{out}": str(tmp_path / "out"),
        "{long}": str(tmp_path / ("a" * 300)),
    }
    output = run(*(place.get(word, word) for word in argv), code=1)
    assert "File name too long; choose a shorter name" in output
    assert ("cannot write" in output) == ("{in}" in argv)
    assert len(output.strip().splitlines()) == 1
