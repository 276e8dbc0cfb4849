"""verify finds what is named twice or in two splits, and stays small however many rows there are."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

from conftest import write_photos

from img2img_data.steps import run_step
from img2img_data.verify import verify_corpus


def build(photos: Path, out: Path, **settings: Any) -> Path:
    run_step("blur", [photos, out], {"jobs": 1, **settings}, lambda done, total: None, lambda line: None)
    return out


def problems(root: Path) -> list[tuple[str, str, str]]:
    return sorted(verify_corpus(root, lambda done, total: None).problems)


def append(manifest: Path, row: dict[str, Any]) -> None:
    with manifest.open("a") as file:
        file.write(json.dumps(row) + "\n")


def test_what_stands_in_two_splits_or_twice_is_named(tmp_path: Path) -> None:
    out = build(write_photos(tmp_path / "photos", 12), tmp_path / "out", split="train=0.5,val=0.5")
    assert problems(out) == []
    rows = {s: [json.loads(x) for x in (out / s / "metadata.jsonl").open()] for s in ("train", "val")}
    row = rows["train"][0]
    append(out / "train" / "metadata.jsonl", row)
    for column in ("input_file_name", "target_file_name"):
        (out / "val" / row[column]).write_bytes((out / "train" / row[column]).read_bytes())
    append(out / "val" / "metadata.jsonl", row)
    assert problems(out) == [
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


def test_memory_does_not_follow_the_rows(tmp_path: Path) -> None:
    root = tmp_path / "c"
    (root / "train").mkdir(parents=True)
    (root / "corpus.json").write_text(json.dumps({"format": 1, "layout": "combined"}))
    peaks = []
    for count in (1000, 1000, 9000):
        lines = (json.dumps({"key": f"{n:05d}", "source_hex": f"{n:010x}"}) for n in range(count))
        (root / "train" / "metadata.jsonl").write_text("".join(f"{line}\n" for line in lines))
        tracemalloc.start()
        verify_corpus(root, lambda done, total: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[2] - peaks[1]) / 8000 < 60
