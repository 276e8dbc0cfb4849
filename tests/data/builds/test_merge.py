"""Shards joined are the plain run, byte for byte; what does not fit together is named."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, rows, run, tree
from conftest import write_photos
from wiki_list import write_mat

from img2img_data.builds.merge import merge_shards, open_shards
from img2img_data.cli.steps import STEPS, run_step
from img2img_data.core.errors import CorpusError, Img2ImgError, UsageError
from img2img_data.corpus.reader import open_corpus
from img2img_data.runner.build_folder import Report
from img2img_data.runner.run import RunSettings


def messy(folder: Path) -> Path:
    """Photos whose keys collide, in subfolders, with junk between them."""
    write_photos(folder / "b", 9)
    write_photos(folder / "a", 7)
    write_photos(folder / "a", 3, suffix=".png")
    (folder / "a" / "broken.jpg").write_bytes(b"none")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return folder


def make(name: str, *paths: Path, **settings: object) -> Report:
    """Do a step in this process, with one worker."""
    settings = {"jobs": 1, "max_bad": 1.0, **settings}
    return run_step(name, paths, settings, lambda done, total: None, lambda line: None)[0]


def shards_of(
    name: str, sources: list[Path], parts: Path, count: int, **settings: object
) -> list[Path]:
    shards = [parts / str(number) for number in range(1, count + 1)]
    for number, part in enumerate(shards, 1):
        make(name, *sources, part, **settings, shard=f"{number}/{count}")
    return shards


def merge(parts: list[Path], out: Path, copy: bool = False) -> Report:
    return merge_shards(open_shards(parts, out), out, lambda done, total: None, copy)


SETTINGS: dict[str, dict[str, object]] = {
    "blur": {"kind": "random-gaussian", "split": "train=0.6,test=0.4", "stratify": "folder"},
    "degrade": {"kind": "noise"},
    "select": {"drop_gray": True},
    "combine": {"allow_unpaired": True, "fit": "crop"},
    "resize": {"size": "24"},
}
"""Settings of a builder; one without an entry is tested with its defaults."""


def sources_of(name: str, root: Path) -> list[Path]:
    """Folders that a builder takes, with something of everything in them."""
    if name == "import":
        for split in ("train", "val"):
            write_photos(root / "pix2pix" / split, 8, 64, 32)
        return [root / "pix2pix"]
    sources = [messy(root / which) for which in STEPS[name].paths[:-1]]
    if name == "wiki":
        write_mat(
            sources[0] / "wiki.mat",
            [f"b/{n:03d}.jpg" for n in range(9)] + ["gone.jpg", "a/000.jpg"],
        )
    if len(sources) == 2:
        for number in range(4):
            (sources[1] / "b" / f"00{number}.jpg").write_bytes(
                (sources[1] / "b" / "005.jpg").read_bytes()
            )
    return sources


@pytest.mark.parametrize("name", [n for n, step in STEPS.items() if RunSettings in step.models])
def test_merged_shards_are_the_plain_run(name: str, tmp_path: Path) -> None:
    sources, settings = sources_of(name, tmp_path), SETTINGS.get(name, {})
    plain = make(name, *sources, tmp_path / "plain", **settings)
    parts = shards_of(name, sources, tmp_path / "parts", 3, **settings)
    merged = merge([parts[2], parts[0], parts[1]], tmp_path / "merged")
    assert tree(tmp_path / "merged") == tree(tmp_path / "plain")
    assert merged == plain, "with its rejections and warnings"
    assert plain.kept.total() > 5
    assert bool(merged.warnings) == (name == "combine")
    merge(parts, tmp_path / "copied", copy=True)
    assert tree(tmp_path / "copied") == tree(tmp_path / "plain")
    assert merge(parts, tmp_path / "merged").complete


def test_a_shard_is_a_corpus_of_its_own(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    parts = shards_of("blur", [photos], tmp_path / "parts", 2)
    keys = [[p.key for p in open_corpus(part).pairs("train")] for part in parts]
    assert all(keys)
    assert sorted(keys[0] + keys[1]) == [f"{n:03d}" for n in range(20)]
    assert "no problems" in run("verify", parts[0])
    assert open_corpus(parts[0]).info["shard"] == {"number": 1, "of": 2, "sources": 20}
    with pytest.raises(UsageError, match="shard"):
        make("blur", photos, parts[0])
    assert make("blur", photos, parts[0], shard="1/2").complete


def test_a_part_never_depends_on_other_images(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    make("blur", photos, tmp_path / "before", shard="1/2")
    write_photos(photos / "more", 10)
    make("blur", photos, tmp_path / "after", shard="1/2")
    old, new = (
        {str(r["key"]) for r in rows(root / "train" / "metadata.jsonl")}
        for root in (tmp_path / "before", tmp_path / "after")
    )
    assert old < new


def test_more_shards_than_images(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    make("blur", photos, tmp_path / "plain")
    merge(shards_of("blur", [photos], tmp_path / "parts", 5), tmp_path / "merged")
    assert tree(tmp_path / "merged") == tree(tmp_path / "plain")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three")
    photos = write_photos(root / "photos", 20)
    shards_of("blur", [photos], root / "parts", 3)
    make("blur", photos, root / "parts" / "sharp", sigma=1.0, shard="3/3")
    make("blur", photos, root / "parts" / "plain")
    (root / "parts" / "none").mkdir()
    return root / "parts"


@pytest.mark.parametrize(
    ("names", "output"),
    [
        ("1 3", "2/3"),
        ("1 2 3 3", "is shard 3/3"),
        ("1 2 sharp", "sigma"),
        ("1 2 plain", "is not a shard"),
        ("1 2 none", "holds no shard"),
        ("1 2 gone", "gone"),
    ],
)
def test_what_does_not_fit_together_is_named(
    names: str, output: str, three: Path, tmp_path: Path
) -> None:
    with pytest.raises(Img2ImgError, match=output) as caught:
        merge([three / name for name in names.split()], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_joins_shards_and_says_so(three: Path, tmp_path: Path) -> None:
    parts = [three / str(number) for number in (1, 2, 3)]
    assert "would join 3 shards with 20 sources" in run(
        "merge", *parts, tmp_path / "out", "--dry-run"
    )
    assert not (tmp_path / "out").exists()
    output = run("merge", *parts, tmp_path / "out")
    assert "is complete: 20 sources" in output
    assert "'verify' checks all" in output
    assert "verify" not in run("merge", *parts, tmp_path / "out")
    assert "verify" not in run("merge", *parts, tmp_path / "copied", "--copy")
    assert "2/3" in run("merge", parts[0], parts[2], tmp_path / "out", code=2)
    bad = write_photos(tmp_path / "photos", 4)
    (bad / "broken.jpg").write_bytes(b"none")
    bad_parts = shards_of("blur", [bad], tmp_path / "parts", 2)
    run("merge", *bad_parts, tmp_path / "bad", code=1)
    run("merge", *bad_parts, tmp_path / "bad", "--max-bad", 0.5)
    assert "is inside a shard" in run("merge", *parts, parts[0] / "in", code=2)
    assert "--shard" in run("blur", three, tmp_path / "x", "--shard", "3/2", code=2)


def with_a_copy(parts: Path, tmp_path: Path) -> list[Path]:
    shutil.copytree(parts / "2", tmp_path / "2")
    return [parts / "1", tmp_path / "2", parts / "3"]


@pytest.mark.parametrize(
    "change",
    [
        lambda page: page.pop("recipe"),
        lambda page: page.update(recipe=[1]),
        lambda page: page["recipe"].pop("command"),
        lambda page: page["shard"].pop("sources"),
        lambda page: page["shard"].update(sources="many"),
    ],
)
def test_a_damaged_page_is_one_line(change: Any, three: Path, tmp_path: Path) -> None:
    parts = with_a_copy(three, tmp_path)
    page = json.loads((parts[1] / "corpus.json").read_text())
    change(page)
    (parts[1] / "corpus.json").write_text(json.dumps(page))
    with pytest.raises(CorpusError, match="damaged"):
        merge(parts, tmp_path / "out")


def test_a_damaged_shard_is_one_line_and_never_a_half_merge(three: Path, tmp_path: Path) -> None:
    parts = with_a_copy(three, tmp_path)
    kept = sorted((parts[1] / "train" / "input").iterdir())
    kept[0].unlink()
    with pytest.raises(CorpusError, match=kept[0].name):
        merge(parts, tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.json").exists()
    kept[0].symlink_to("/etc/hostname")
    with pytest.raises(CorpusError, match=kept[0].name):
        merge(parts, tmp_path / "out")
    kept[0].unlink()
    kept[0].write_bytes((three / "2" / "train" / "input" / kept[0].name).read_bytes())
    merge(parts, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(three / "plain")


@pytest.mark.parametrize("copy", [False, True])
def test_an_overwritten_file_is_named(copy: bool, three: Path, tmp_path: Path) -> None:
    parts = with_a_copy(three, tmp_path)
    image = sorted((parts[1] / "train" / "input").iterdir())[0]
    good, written = image.read_bytes(), (parts[1] / "corpus.json").stat().st_mtime_ns
    image.write_bytes(good[:-1] + b"x")
    os.utime(image, ns=(written + 1, written + 1))
    with pytest.raises(CorpusError, match=f"{image.name}': does not match the shard's manifest"):
        merge(parts, tmp_path / "out", copy)
    image.write_bytes(good)
    merge(parts, tmp_path / "out", copy)
    assert tree(tmp_path / "out") == tree(three / "plain")


@pytest.mark.parametrize("cut", ["shard.tsv", "train/metadata.jsonl"])
def test_a_shard_with_fewer_rows_is_rejected(cut: str, three: Path, tmp_path: Path) -> None:
    parts = with_a_copy(three, tmp_path)
    lines = (parts[1] / cut).read_bytes().splitlines(keepends=True)
    (parts[1] / cut).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(CorpusError, match=str(parts[1])):
        merge(parts, tmp_path / "out")
    assert not (tmp_path / "out" / "corpus.json").exists()


def test_a_shard_that_names_files_outside_is_rejected(three: Path, tmp_path: Path) -> None:
    parts = with_a_copy(three, tmp_path)
    manifest = parts[1] / "train" / "metadata.jsonl"
    first, *rest = rows(manifest)
    first["input_file_name"] = "../../../1/corpus.json"
    manifest.write_text("".join(json.dumps(r) + "\n" for r in (first, *rest)))
    with pytest.raises(CorpusError, match="outside"):
        merge(parts, tmp_path / "out")


def test_copies_take_the_place_of_links_that_an_interrupted_merge_left(
    three: Path, tmp_path: Path
) -> None:
    parts, out = with_a_copy(three, tmp_path), tmp_path / "out"
    last = max((parts[1] / "train" / "target").iterdir())
    last.rename(tmp_path / "away")
    with pytest.raises(CorpusError, match="is missing from its shard"):
        merge(parts, out)
    links = [path for path in out.rglob("*.png") if path.stat().st_nlink > 1]
    assert links, "the merge ended after it had linked some files"
    (tmp_path / "away").rename(last)
    merge(parts, out, copy=True)
    assert tree(out) == tree(three / "plain")
    assert all(path.stat().st_nlink == 1 for path in out.rglob("*.png"))


def test_more_splits_than_files_may_be_open(tmp_path: Path) -> None:
    names = [f"folder-{number:03d}" for number in range(60)]
    for number, name in enumerate(names):
        write_photos(tmp_path / "photos" / name, 1 + number % 2, 8, 8)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, before[1]))
    try:
        make("blur", tmp_path / "photos", tmp_path / "plain", split="folder")
        parts = shards_of("blur", [tmp_path / "photos"], tmp_path / "parts", 2, split="folder")
        merge(parts, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert list(open_corpus(tmp_path / "plain")) == names
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


def test_killed_merges_go_on(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 300, 16, 16)
    make("blur", photos, tmp_path / "plain")
    parts = shards_of("blur", [photos], tmp_path / "parts", 2)
    out, rng = tmp_path / "merged", random.Random(3)
    argv = [*COMMAND, "merge", *map(str, [*parts, out])]
    for _ in range(4):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
    merge(parts, out)
    assert tree(out) == tree(tmp_path / "plain")
