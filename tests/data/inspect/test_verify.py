"""verify finds damage, duplicate names and images in two splits, in little memory for each row."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from conftest import write_photos

from img2img_data.cli.steps import run_step
from img2img_data.core.errors import CorpusError, Img2ImgError
from img2img_data.corpus.format import FORMAT
from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_data.images.pixels import ReadPolicy
from img2img_data.inspect.verify import verify_corpus
from img2img_data.runner import workers


def build(photos: Path, out: Path, **settings: Any) -> Path:
    run_step(
        "blur", [photos, out], {"jobs": 1, **settings}, lambda done, total: None, lambda line: None
    )
    return out


def problems(root: Path) -> list[tuple[str, str, str]]:
    return sorted(verify_corpus(root, lambda done, total: None).problems)


def append(manifest: Path, row: dict[str, Any]) -> None:
    with manifest.open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_images_in_two_splits_or_named_twice_are_found(tmp_path: Path) -> None:
    out = build(write_photos(tmp_path / "photos", 12), tmp_path / "out", split="train=0.5,val=0.5")
    assert problems(out) == []
    rows = {
        s: [json.loads(x) for x in (out / s / "metadata.jsonl").open()] for s in ("train", "val")
    }
    row = rows["train"][0]
    append(out / "train" / "metadata.jsonl", row)
    for column in ("input_file_name", "target_file_name"):
        (out / "val" / row[column]).write_bytes((out / "train" / row[column]).read_bytes())
    append(out / "val" / "metadata.jsonl", row)
    more = [
        (
            "manifest",
            f"{s}/metadata.jsonl",
            f"{len(rows[s]) + 1} rows, corpus.json says {len(rows[s])}",
        )
        for s in ("train", "val")
    ]
    assert problems(out) == [
        *more,
        ("twice", f"train/{row['input_file_name']}", ""),
        ("twice", f"train/{row['target_file_name']}", ""),
        ("two-splits", f"val/{row['key']}", f"also in train: source  {row['source_hex']}"),
    ]


def test_groups_are_compared_where_there_are_groups(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos" / "a", 3).parent
    write_photos(photos / "b", 3)
    out = build(photos, tmp_path / "out", split="train=0.5,val=0.5", group_by="folder")
    assert problems(out) == []
    manifest = next(out.glob("*/metadata.jsonl"))
    other = out / ("val" if manifest.parent.name == "train" else "train")
    row = json.loads(manifest.read_text().splitlines()[0])
    other.mkdir(exist_ok=True)
    append(other / "metadata.jsonl", {"key": "x", "tags": row["tags"]})
    assert [kind for kind, _, detail in problems(out) if "group" in detail] == ["two-splits"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_damage_is_found_by_any_number_of_workers(jobs: int, tmp_path: Path) -> None:
    out = build(write_photos(tmp_path / "photos", 8), tmp_path / "out")
    changed, cut, gone = sorted((out / "train" / "input").iterdir())[:3]
    changed.write_bytes((out / "train" / "input" / "005.png").read_bytes())
    cut.write_bytes(cut.read_bytes()[:-9])
    gone.unlink()
    report = verify_corpus(out, lambda done, total: None, jobs=jobs)
    assert report.images == 16
    assert [(kind, name) for kind, name, _ in sorted(report.problems)] == [
        ("changed", f"train/input/{changed.name}"),
        ("missing", f"train/input/{gone.name}"),
        ("unreadable", f"train/input/{cut.name}"),
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the worker must inherit the broken decoder")
def test_a_file_that_kills_the_decoder_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = build(write_photos(tmp_path / "photos", 4), tmp_path / "out")
    deadly, decode = (out / "train" / "input" / "002.png").read_bytes(), io.decode

    def dies(data: bytes, policy: ReadPolicy) -> io.DecodedImage:
        if data == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, policy)

    monkeypatch.setattr(workers, "_can_fork", lambda: True)
    monkeypatch.setattr(io, "decode", dies)
    files = ("input/002.png", "target/002.jpg")
    assert problems(out) == [("unreadable", f"train/{name}", "worker-died") for name in files]


def test_memory_per_row_is_small(tmp_path: Path) -> None:
    root = tmp_path / "c"
    (root / "train").mkdir(parents=True)
    (root / "corpus.json").write_text(json.dumps({"format": FORMAT, "layout": "combined"}))
    peaks = []
    for count in (500, 500, 4500, 4500):  # twice: Python's table of interned names grows in steps
        for n in range(count):
            (root / "train" / f"{n:05d}.png").touch()
        lines = (
            json.dumps({"key": str(n), "file_name": f"{n:05d}.png", "source_hex": f"{n:010x}"})
            for n in range(count)
        )
        (root / "train" / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))
        tracemalloc.start()
        verify_corpus(root, lambda done, total: None, quick=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (min(peaks[2:]) - peaks[1]) / 4000 < 80


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """A corpus with two splits."""
    return build(write_photos(tmp_path / "photos", 12), tmp_path / "out", split="train=0.5,val=0.5")


@pytest.mark.parametrize("remove_folder", [True, False], ids=["folder", "manifest"])
def test_a_lost_split_is_reported_and_cannot_be_used(
    halves: Path, tmp_path: Path, remove_folder: bool
) -> None:
    count = len((halves / "train" / "metadata.jsonl").read_bytes().splitlines())
    if remove_folder:
        shutil.rmtree(halves / "train")
    else:
        (halves / "train" / "metadata.jsonl").unlink()
    found = problems(halves)
    lost = ("manifest", "train/metadata.jsonl", f"not there, corpus.json says {count} rows")
    assert [one for one in found if one[0] != "extra"] == [lost]
    assert len(found) - 1 == (0 if remove_folder else 2 * count)
    with pytest.raises(CorpusError, match="manifest of split 'train'; see 'img2img-data verify'"):
        open_corpus(halves)
    for step in ("export", "pack"):
        with pytest.raises(CorpusError, match="manifest of split 'train'"):
            run_step(
                step, [halves, tmp_path / step], {}, lambda done, total: None, lambda line: None
            )
        assert not (tmp_path / step).exists()


def test_lost_rows_are_reported_with_and_without_their_files(halves: Path) -> None:
    manifest = halves / "train" / "metadata.jsonl"
    first, *rest = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(rest))
    short = (
        "manifest",
        "train/metadata.jsonl",
        f"{len(rest)} rows, corpus.json says {len(rest) + 1}",
    )
    names = [f"train/{json.loads(first)[f'{side}_file_name']}" for side in ("input", "target")]
    assert problems(halves) == [*(("extra", name, "") for name in names), short]
    for name in names:
        (halves / name).unlink()
    assert problems(halves) == [short]


@pytest.mark.parametrize(
    "change",
    [{"width": "abc"}, {"height": None}, {"key": 1}, {"tags": "group"}],
    ids=lambda c: next(iter(c)),
)
def test_a_row_of_wrong_types_is_damaged(halves: Path, change: dict[str, Any]) -> None:
    manifest = halves / "train" / "metadata.jsonl"
    lines = manifest.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | change)
    manifest.write_text("\n".join(lines) + "\n")
    for reader in (problems, open_corpus):
        with pytest.raises(
            Img2ImgError, match=r"train/metadata.jsonl': line 2 is damaged, its '\w+' is"
        ):
            reader(halves)


def test_a_row_without_an_image_is_reported(halves: Path) -> None:
    append(halves / "train" / "metadata.jsonl", {"key": "x", "target_file_name": None})
    found = [one for one in problems(halves) if one[0] == "incomplete"]
    assert found == [("incomplete", "train/x", "has no input_file_name, target_file_name")]
