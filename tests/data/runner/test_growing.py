"""Growing: the same command adds what is new, and the folder equals one that was made at once."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from command_line import rows, run, tree
from conftest import write_photos
from serial_pool import work_in_this_process

from img2img_data.core.errors import TRANSIENT_REASONS, Rejected
from img2img_data.images import io

SPLIT = ["--split", "train=0.5,test=0.5"]
COMMANDS: dict[str, list[Any]] = {
    "blur": ["blur", "A", "--kind", "random-gaussian", *SPLIT],
    "stratified": ["blur", "A", *SPLIT, "--stratify", "folder"],
    "grouped": ["degrade", "A", "--kind", "noise", *SPLIT, "--group-by", "person"],
    "sharded": ["blur", "A", "--layout", "combined", "--shard", "1/2"],
    "tiles": ["blur", "A", "--tile", 16, "--stride", 9, *SPLIT],
    "lab": ["lab", "A", "--size", 16],
    "blank": ["blank", "A", "--where", "random"],
    "combine": ["combine", "A", "B", "--allow-unpaired"],
    "table": ["combine", "A", "B", "--allow-unpaired", "--match", "csv", "--csv", "pairs.csv"],
    "unpaired": ["unpaired", "A", "B", *SPLIT],
    "import": ["import", ".", "--allow-unpaired"],
    "select": ["select", "A"],
    "sample": ["select", "A", "--sample", 4],
    "copies": ["select", "A", "--drop-duplicates"],
    "resize": ["resize", "A", "--size", 16],
}
SOME = ("stratified", "tiles", "table", "unpaired", "import", "copies", "resize")
"""Commands of every kind of plan and row."""


def write_first(root: Path) -> None:
    """Write photos for every command: folders A and B, tags, and a table of pairs."""
    for side in "AB":
        write_photos(root / side, 4)
        write_photos(root / side / "more", 3, 30, 30)
    (root / "A" / "metadata.csv").write_text("file_name,person\n000.jpg,x\n001.jpg,y\n")
    (root / "pairs.csv").write_text("input,target\n000.jpg,000.jpg\n001.jpg,001.jpg\n")


def add_photos(root: Path) -> None:
    """Add photos, tags and pairs: a key that collides, a copy, a damaged file, a new folder."""
    for side in "AB":
        write_photos(root / side, 5)
        write_photos(root / side / "new", 3, 24, 24)
        shutil.copy(root / side / "more" / "002.jpg", root / side / "000.png")
        (root / side / "cut.jpg").write_bytes((root / side / "003.jpg").read_bytes()[:300])
    (root / "A" / "only.jpg").write_bytes((root / "A" / "003.jpg").read_bytes())
    shutil.copy(root / "A" / "004.jpg", root / "A" / "00.jpg")
    with (root / "A" / "metadata.csv").open("a") as file:
        file.write("002.jpg,x\n004.jpg,y\n")
    with (root / "pairs.csv").open("a") as file:
        file.write("002.jpg,000.jpg\n004.jpg,004.jpg\n")


def make(root: Path, out: str, words: list[Any], code: int = 0) -> str:
    paths = [word for word in words if word in {"A", "B", "."}]
    options = [*words[1 + len(paths) :], "--max-bad", 1, "--jobs", 1]
    return run(words[0], *paths, root.parent / out, *options, code=code, cwd=root)


def everything(root: Path) -> dict[str, str]:
    """Return the digests of all files, and "" for each folder."""
    return {p.relative_to(root).as_posix(): "" for p in root.rglob("*") if p.is_dir()} | tree(root)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_grown_folder_equals_one_that_was_made_at_once(name: str, tmp_path: Path) -> None:
    root, words = tmp_path / "in", COMMANDS[name]
    write_first(root)
    make(root, "out", words)
    assert "already complete" in make(root, "out", words)
    add_photos(root)
    before = everything(tmp_path / "out")
    unit = "tiles" if "--tile" in words else "sources"
    assert f"{unit} are done" in make(root, "out", [*words, "--dry-run"])
    assert everything(tmp_path / "out") == before
    make(root, "out", words)
    make(root, "fresh", words)
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")
    assert "already complete" in make(root, "out", words)


def drop_first_row(out: Path) -> None:
    manifest = next(out.rglob("metadata.jsonl"))
    manifest.write_bytes(manifest.read_bytes().partition(b"\n")[2])


def repeat_first_row(out: Path) -> None:
    manifest = next(out.rglob("metadata.jsonl"))
    line, newline, rest = manifest.read_bytes().partition(b"\n")
    manifest.write_bytes((line + newline) * 2 + rest)


def add_line(text: str) -> Callable[[Path], None]:
    def add(out: Path) -> None:
        with next(out.rglob("metadata.jsonl")).open("a") as file:
            file.write(f"{text}\n")

    return add


def change_page(out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = next(p for p in (out / "corpus.json", out / "selection.json") if p.is_file())
    page = json.loads(path.read_text())
    change(page)
    path.write_text(json.dumps(page))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a row lost": drop_first_row,
    "a row twice": repeat_first_row,
    "a row lost, another one twice": lambda out: [drop_first_row(out), repeat_first_row(out)],
    "no manifest": lambda out: next(out.rglob("metadata.jsonl")).unlink(),
    "an empty manifest": lambda out: next(out.rglob("metadata.jsonl")).write_bytes(b""),
    "no list of rejections": lambda out: (out / "rejected.jsonl").unlink(),
    "a rejection without a reason": lambda out: (out / "rejected.jsonl").write_text("{}\n"),
    "no counts": lambda out: change_page(out, lambda page: page.pop("counts")),
    "counts that are none": lambda out: change_page(out, lambda page: page.update(counts=5)),
    "no README": lambda out: (out / "README.md").unlink(),
    "no rows for datasets": lambda out: [p.unlink() for p in out.rglob("datasets.jsonl")],
    "null": add_line("null"),
    "a number": add_line("5"),
    "names that are numbers": add_line('{"input_file_name": 5, "target_file_name": []}'),
}


# A selection has neither a card nor rows for datasets.
CORPUS_ONLY = {"no README", "no rows for datasets"}


@pytest.mark.parametrize(
    ("name", "damage"),
    [("blur", d) for d in DAMAGES] + [("select", d) for d in DAMAGES if d not in CORPUS_ONLY],
)
def test_a_damaged_folder_is_repaired(name: str, damage: str, tmp_path: Path) -> None:
    root, words = tmp_path / "in", COMMANDS[name]
    write_first(root)
    make(root, "out", words)
    before = everything(tmp_path / "out")
    DAMAGES[damage](tmp_path / "out")
    assert everything(tmp_path / "out") != before
    make(root, "out", words)
    assert everything(tmp_path / "out") == before
    assert "already complete" in make(root, "out", words)


@pytest.mark.parametrize("line", [b"{}\n", bytes(9) + b"\n", b""])
def test_a_damaged_list_of_rejections_is_repaired(line: bytes, tmp_path: Path) -> None:
    root, words = tmp_path / "in", COMMANDS["blur"]
    write_first(root)
    (root / "A" / "cut.jpg").write_bytes((root / "A" / "003.jpg").read_bytes()[:300])
    make(root, "out", words)
    before = everything(tmp_path / "out")
    (tmp_path / "out" / "rejected.jsonl").write_bytes(line)
    make(root, "out", words)
    assert everything(tmp_path / "out") == before
    assert "already complete" in make(root, "out", words)


def test_a_lost_list_of_copies_is_written_again(tmp_path: Path) -> None:
    root, words = tmp_path / "in", COMMANDS["copies"]
    write_first(root)
    make(root, "out", words)
    before = everything(tmp_path / "out")
    (tmp_path / "out" / "duplicates.jsonl").unlink()
    make(root, "out", words)
    assert everything(tmp_path / "out") == before


def test_a_shard_without_images_is_complete(tmp_path: Path) -> None:
    root, words = tmp_path / "in", ["blur", "A", "--shard"]
    write_first(root)
    for number in range(1, 21):
        make(root, f"out{number}", [*words, f"{number}/20"])
        assert "already complete" in make(root, f"out{number}", [*words, f"{number}/20"])


@pytest.mark.parametrize("content", [None, b""])
def test_a_shard_without_its_order_is_repaired(content: bytes | None, tmp_path: Path) -> None:
    root, words = tmp_path / "in", COMMANDS["sharded"]
    write_first(root)
    make(root, "out", words)
    before = everything(tmp_path / "out")
    (tmp_path / "out" / "shard.tsv").unlink()
    if content is not None:
        (tmp_path / "out" / "shard.tsv").write_bytes(content)
    make(root, "out", words)
    assert everything(tmp_path / "out") == before


NO_MEMORY = "OpenCV(5.0) alloc.cpp:93: error: (-4:Insufficient memory) Failed to allocate"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        *((Rejected(reason), reason) for reason in sorted(TRANSIENT_REASONS)),
        (MemoryError(), "out-of-memory"),
        (cv2.error(NO_MEMORY), "out-of-memory"),
    ],
)
@pytest.mark.parametrize("name", ["blur", "copies"])
def test_what_failed_for_a_transient_reason_is_tried_again(
    name: str, error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, words, decode = tmp_path / "in", COMMANDS[name], io.decode
    write_first(root)
    make(root, "fresh", words)
    failures = itertools.chain([True, True], itertools.repeat(False))

    def fail_at_first(*arguments: Any) -> Any:
        if next(failures):
            raise error
        return decode(*arguments)

    work_in_this_process(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(io, "decode", fail_at_first)
        assert reason in make(root, "out", words)
    make(root, "out", words)
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")


def test_a_source_that_stays_unreadable_leaves_a_corpus_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not written again and again."""
    root, words, decode, access = tmp_path / "in", COMMANDS["blur"], io.decode, os.access
    write_first(root)

    def fail(data: bytes, *others: Any) -> Any:
        if data == (root / "A" / "001.jpg").read_bytes():
            raise Rejected("unreadable", "no permission")
        return decode(data, *others)

    work_in_this_process(monkeypatch)
    monkeypatch.setattr(io, "decode", fail)
    monkeypatch.setattr(
        os, "access", lambda p, m: b"001.jpg" not in os.fsencode(p) and access(p, m)
    )
    assert "unreadable" in make(root, "out", words)
    assert "already complete" in make(root, "out", words)


def test_the_journal_of_a_slow_run_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second after the last time it was written, whatever it holds."""
    journal, lines = tmp_path / "out" / ".building" / "journal.jsonl", list[int]()
    decode, now = io.decode, itertools.count(0, 2)

    def count_lines(*arguments: Any) -> Any:
        lines.append(journal.read_bytes().count(b"\n"))
        return decode(*arguments)

    work_in_this_process(monkeypatch)
    monkeypatch.setattr(io, "decode", count_lines)
    monkeypatch.setattr("img2img_data.runner.build_folder.time.monotonic", lambda: next(now))
    write_photos(tmp_path / "in", 5)
    run("blur", tmp_path / "in", tmp_path / "out", "--split", "train=1")
    assert lines == list(range(5))


@pytest.mark.parametrize("name", SOME)
def test_what_vanished_or_changed_is_refused_and_pruned(name: str, tmp_path: Path) -> None:
    root, words = tmp_path / "in", COMMANDS[name]
    write_first(root)
    make(root, "out", words)
    for side in "AB":
        (root / side / "000.jpg").unlink()
        shutil.copy(root / side / "002.jpg", root / side / "001.jpg")
    before = everything(tmp_path / "out")
    error = make(root, "out", words, code=2).splitlines()[-1]
    assert error.startswith("error: folder '")
    assert re.search(
        r"(sources|tiles) are done; \d changed, as '.*'; \d vanished, as '(A/)?000.jpg'; --", error
    )
    assert "--prune" in error
    assert everything(tmp_path / "out") == before
    make(root, "out", [*words, "--prune"])
    make(root, "fresh", words)
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")


def test_another_source_is_refused_without_advice_to_prune(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 2)
    write_photos(tmp_path / "other", 2)
    (tmp_path / "other/000.jpg").rename(tmp_path / "other/a.jpg")
    (tmp_path / "other/001.jpg").rename(tmp_path / "other/b.jpg")
    run("blur", tmp_path / "in", tmp_path / "out")
    with pytest.raises(AssertionError, match="0 of 2 sources are done; 2 vanished") as failed:
        run("blur", tmp_path / "other", tmp_path / "out")
    assert "give the sources that it was built from" in str(failed.value)
    assert "--prune" not in str(failed.value)


def test_a_split_that_loses_all_its_images_leaves_nothing(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_photos(tmp_path / "in" / "A" / split, 2)
    words = ["blur", "A", "--split", "folder"]
    make(tmp_path / "in", "out", words)
    shutil.rmtree(tmp_path / "in" / "A" / "val")
    make(tmp_path / "in", "out", [*words, "--prune"])
    make(tmp_path / "in", "fresh", words)
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every decoded image adds its number of bytes."""
    found: list[int] = []
    decode = io.decode

    def count(data: bytes, *policy: Any) -> io.DecodedImage:
        found.append(len(data))
        return decode(data, *policy)

    work_in_this_process(monkeypatch)
    monkeypatch.setattr(io, "decode", count)
    return found


def test_only_what_is_new_is_decoded(tmp_path: Path, decoded: list[int]) -> None:
    photos, out = write_photos(tmp_path / "photos", 6), tmp_path / "out"
    run("blur", photos, out)
    assert len(decoded) == 6
    write_photos(photos, 8)
    output = run("blur", photos, out)
    assert "6 of 8" in output
    assert len(decoded) == 8
    (photos / "000.png").write_bytes((photos / "001.jpg").read_bytes())
    output = run("blur", photos, out)
    assert "7 of 9 sources are done; 1 with a new key" in output
    assert len(decoded) == 10, "000.png, and 000.jpg under its new key"
    (photos / "007.jpg").write_bytes((photos / "001.jpg").read_bytes())
    run("blur", photos, out, "--prune")
    assert len(decoded) == 11
    run("blur", photos, out)
    assert len(decoded) == 11


def test_a_rejected_source_that_was_replaced_is_made(tmp_path: Path, decoded: list[int]) -> None:
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    whole = (photos / "001.jpg").read_bytes()
    (photos / "001.jpg").write_bytes(whole[:99])
    run("blur", photos, out, "--max-bad", 1)
    assert "already complete" in run("blur", photos, out, "--max-bad", 1)
    (photos / "001.jpg").write_bytes(whole)
    run("blur", photos, out)
    assert len(decoded) == 4
    assert len(rows(out / "train" / "metadata.jsonl")) == 3


def test_a_rejected_source_from_the_future_is_tried_again_only_if_it_changed(
    tmp_path: Path, decoded: list[int]
) -> None:
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    whole, future = (photos / "001.jpg").read_bytes(), time.time() + 1e6
    (photos / "001.jpg").write_bytes(whole[:99])
    os.utime(photos / "001.jpg", (future, future))
    run("blur", photos, out, "--max-bad", 1)
    assert "already complete" in run("blur", photos, out, "--max-bad", 1)
    (photos / "001.jpg").write_bytes(whole)
    os.utime(photos / "001.jpg", (future, future))
    run("blur", photos, out)
    assert len(decoded) == 4


KILLED = 9


def killed(at: int, out: Path, action: Callable[[], object]) -> None:
    """Do it in a fork that ends when it changes a name in ``out`` for the ``at``-th time."""
    if (child := os.fork()) != 0:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
        return
    calls = itertools.count(1)

    def stopping(function: Any) -> Any:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            if os.fspath(path).startswith(os.fspath(out)) and next(calls) == at:
                os._exit(KILLED)
            return function(path, *args, **options)

        return call

    for owner, name in ((os, "replace"), (os, "unlink"), (shutil, "rmtree")):
        setattr(owner, name, stopping(getattr(owner, name)))
    with contextlib.suppress(BaseException):
        action()
    os._exit(0)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6, 7, 12, 26, 32])
def test_an_interruption_while_growing_continues(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed between two changes; then a photo with a colliding name is added."""
    work_in_this_process(monkeypatch)
    root, words = tmp_path / "in", COMMANDS["stratified"]
    write_first(root)
    make(root, "out", words)
    (root / "A" / "001.jpg").unlink()
    add_photos(root)
    (root / "A" / "000.png").rename(tmp_path / "later.png")
    killed(at, tmp_path / "out", lambda: make(root, "out", [*words, "--prune"]))
    (tmp_path / "later.png").rename(root / "A" / "000.png")
    make(root, "out", [*words, "--prune"])
    make(root, "fresh", words)
    assert everything(tmp_path / "out") == everything(tmp_path / "fresh")


def test_merge_and_other_settings_refuse_as_before(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    run("blur", photos, tmp_path / "out")
    write_photos(photos, 4)
    output = run("blur", photos, tmp_path / "out", "--sigma", 2, "--prune", code=2)
    assert "other settings (--sigma 2.0, was --sigma 3.0)" in output
    for number in (1, 2):
        run("blur", photos, tmp_path / f"s{number}", "--shard", f"{number}/2")
    parts = [tmp_path / "s1", tmp_path / "s2"]
    run("merge", *parts, tmp_path / "merged")
    write_photos(photos, 6)
    for number in (1, 2):
        run("blur", photos, tmp_path / f"s{number}", "--shard", f"{number}/2")
    output = run("merge", *parts, tmp_path / "merged", code=2)
    assert "other settings (the list of images)" in output
    run("blur", write_photos(tmp_path / "few", 2), tmp_path / "s3", "--shard", "2/2")
    output = run("merge", parts[0], tmp_path / "s3", tmp_path / "merged", code=2)
    assert "(number of sources, the list of images differ)" in output
    run("merge", *parts, tmp_path / "again")
    run("blur", photos, tmp_path / "out")
    assert tree(tmp_path / "again") == tree(tmp_path / "out")


def test_an_image_of_the_folder_that_was_damaged_is_made_anew(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", 3), tmp_path / "out"
    run("blur", photos, out)
    plain = tree(out)
    (out / "train" / "input" / "001.png").unlink()
    run("blur", photos, out)
    assert tree(out) == plain
    assert json.loads((out / "corpus.json").read_text())["counts"]["total"] == 3
    os.utime(photos / "001.jpg")
    assert "already complete" in run("blur", photos, out), "only its time changed"


# ------------------------------------------------------------------------------------------- links
def link_all(source: Path, target: Path) -> None:
    """Make ``target`` a folder with a link to each file of ``source``, as hub caches are."""
    for path in source.rglob("*"):
        if path.is_file():
            link = target / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)


@pytest.mark.parametrize("name", SOME)
def test_linked_sources_give_the_same_folder(name: str, tmp_path: Path) -> None:
    root, words = tmp_path / "real" / "in", COMMANDS[name]
    write_first(root)
    make(root, "out", words)
    link_all(root, tmp_path / "in")
    shutil.rmtree(tmp_path / "in" / "A" / "more")
    (tmp_path / "in" / "A" / "more").symlink_to(root / "A" / "more")
    make(tmp_path / "in", "linked", [*words, "--follow-links"])
    assert everything(tmp_path / "linked") == everything(tmp_path / "real" / "out")
    assert "already complete" in make(tmp_path / "in", "linked", [*words, "--follow-links"])


@pytest.mark.parametrize("name", ["photos", "photos/sub"])
def test_a_linked_folder_that_leads_elsewhere_is_noticed(name: str, tmp_path: Path) -> None:
    """Its images are compared by their content; what was rejected is older than the corpus."""
    places = [write_photos(tmp_path / place / "sub", 3) for place in ("new", "old")]
    (places[1] / "001.jpg").write_bytes(b"damaged")
    link, words = tmp_path / name, ["blur", tmp_path / "photos", tmp_path / "out", "--follow-links"]
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(places[1].parent if name == "photos" else places[1])
    run(*words, "--max-bad", 1)
    assert "already complete" in run(*words, "--max-bad", 1)
    link.unlink()
    link.symlink_to(places[0].parent if name == "photos" else places[0])
    assert "kept 3" in run(*words)
    assert "already complete" in run(*words)


def test_links_that_were_rejected_are_made_once_they_are_followed(tmp_path: Path) -> None:
    photos, out = write_photos(tmp_path / "photos", 2), tmp_path / "out"
    real = write_photos(tmp_path / "real", 3)
    (photos / "far.jpg").symlink_to(real / "002.jpg")
    (photos / "lost.jpg").symlink_to(real / "none.jpg")
    run("blur", photos, out, "--max-bad", 1)
    listed = [(row["source"], row["reason"]) for row in rows(out / "rejected.jsonl")]
    assert listed == [("far.jpg", "link"), ("lost.jpg", "link")]
    output = run("blur", photos, out, "--max-bad", 1, "--follow-links")
    assert "2 of 4 sources are done" in output
    assert "lost.jpg: link, its target cannot be read" in output
    assert "follow" not in (out / "corpus.json").read_text()
    run("blur", photos, tmp_path / "fresh", "--max-bad", 1, "--follow-links")
    assert everything(out) == everything(tmp_path / "fresh")
    shutil.copy(real / "000.jpg", real / "002.jpg")
    assert "1 changed, as 'far.jpg'" in run("blur", photos, out, "--follow-links", code=2)


def test_a_rerun_without_following_links_removes_nothing_unasked(tmp_path: Path) -> None:
    write_photos(tmp_path / "far", 3)
    write_photos(tmp_path / "in", 1)
    (tmp_path / "in/sub").symlink_to(tmp_path / "far")
    words = ["blur", tmp_path / "in", tmp_path / "out", "--size", "16"]
    run(*words, "--follow-links")
    before = tree(tmp_path / "out")
    assert "3 vanished" in run(*words, code=2)
    assert tree(tmp_path / "out") == before
    run(*words, "--prune")
    assert len(rows(tmp_path / "out/train/metadata.jsonl")) == 1


def test_an_output_behind_a_link_of_a_source_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path / "far", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/sub").symlink_to(tmp_path / "far")
    words = ["blur", tmp_path / "in", tmp_path / "far/out", "--size", "16", "--follow-links"]
    run(*words)
    assert "through a link" in run(*words, code=2)
    (tmp_path / "same").symlink_to(tmp_path / "far")
    assert "overlaps" in run("blur", tmp_path / "same", tmp_path / "far/x", code=2)


def test_without_the_option_links_are_errors_that_name_it(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    link_all(photos, tmp_path / "links")
    (tmp_path / "folders").mkdir()
    (tmp_path / "folders" / "photos").symlink_to(photos)
    for source, code in {"links": 1, "folders": 2}.items():
        output = run("blur", tmp_path / source, tmp_path / "out", code=code)
        assert "--follow-links reads" in output
