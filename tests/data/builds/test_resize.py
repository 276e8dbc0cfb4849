"""Resize: a folder in, a folder out, every image of one size, fit for the next command."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import run
from conftest import make_photo, write_photos

from img2img_data.cli.steps import run_step
from img2img_data.core.errors import UsageError
from img2img_data.images import io


def resize(source: Path, out: Path, **settings: object) -> tuple[int, list[dict[str, object]]]:
    _, code = run_step("resize", [source, out], {"jobs": 1, **settings}, lambda *_: None, print)
    lines = (out / "metadata.jsonl").read_text().splitlines()
    return code, [json.loads(line) for line in lines]


def digests(root: Path) -> dict[str, str]:
    files = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(io.encode(np.ascontiguousarray(pixels), "png"))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_every_image_gets_the_size_and_is_what_fit_says(fit: str, tmp_path: Path) -> None:
    for number, (width, height) in enumerate([(40, 30), (30, 40), (48, 32), (9, 90), (1, 1)]):
        write(tmp_path / "in" / "sub folder" / f"{number}.png", make_photo(number, width, height))
    code, found = resize(tmp_path / "in", tmp_path / "out", size="48x32", fit=fit)
    assert code == 0
    for row in found:
        before = io.read(tmp_path / "in" / str(row["source"]))
        after = io.read(tmp_path / "out" / str(row["file_name"])).pixels
        assert (after == io.fit(before.pixels, (48, 32), fit)).all()
        assert (row["source_width"], row["source_height"]) == before.size
    same = tmp_path / "out" / "sub folder" / "2.png"
    assert same.read_bytes() == (tmp_path / "in" / "sub folder" / "2.png").read_bytes()


def test_the_output_is_a_folder_of_images_not_a_corpus(photos: Path, tmp_path: Path) -> None:
    resize(photos, tmp_path / "out", size="20")
    lists = {p.name for p in (tmp_path / "out").iterdir() if p.suffix in {".md", ".json", ".jsonl"}}
    assert lists == {"metadata.jsonl", "rejected.jsonl", "selection.json"}


def test_any_number_of_workers_writes_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        resize(photos, tmp_path / f"out{jobs}", size="20", format="jpg", jobs=jobs)
    assert digests(tmp_path / "out1") == digests(tmp_path / "out2")


def test_sixteen_bits_stay_where_the_format_holds_them(tmp_path: Path) -> None:
    write(tmp_path / "in" / "deep.png", make_photo(1).astype(np.uint16) * 257)
    for kind, dtype in (("png", np.uint16), ("jpg", np.uint8)):
        _, (row,) = resize(tmp_path / "in", tmp_path / kind, size="20", format=kind)
        data = (tmp_path / kind / str(row["file_name"])).read_bytes()
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).dtype == dtype
        assert ("depth" in row["notes"]) == (kind == "jpg")  # type: ignore[operator]


def test_what_comes_out_is_what_the_next_command_takes(tmp_path: Path) -> None:
    write_photos(tmp_path / "a", 4, 40, 30)
    write_photos(tmp_path / "b", 4, 64, 80, ".png")
    (tmp_path / "a" / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    code, _ = resize(tmp_path / "a", tmp_path / "a32", size="32", max_bad=0.5)
    assert code == 0
    resize(tmp_path / "b", tmp_path / "b32", size="32")
    rejected = json.loads((tmp_path / "a32" / "rejected.jsonl").read_text())
    assert rejected["source"] == "torn.jpg"
    for command in ("combine", "unpaired"):
        paths = [tmp_path / "a32", tmp_path / "b32", tmp_path / command]
        report, code = run_step(command, paths, {"jobs": 1}, lambda *_: None, print)
        assert (code, report.kept.total()) == (0, 4 if command == "combine" else 8)
        assert not report.rejected


def test_a_second_run_is_complete_and_another_size_is_rejected(
    photos: Path, tmp_path: Path
) -> None:
    resize(photos, tmp_path / "out", size="20")
    report, _ = run_step(
        "resize", [photos, tmp_path / "out"], {"size": "20"}, lambda *_: None, print
    )
    assert report.complete
    with pytest.raises(UsageError, match="size"):
        resize(photos, tmp_path / "out", size="24")
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        resize(photos, tmp_path / "other", size="00")


def test_two_shards_and_a_dry_run(photos: Path, tmp_path: Path) -> None:
    from img2img_data.builds.merge import merge_shards, open_shards

    output: list[str] = []
    run_step(
        "resize", [photos, tmp_path / "out"], {"dry_run": True}, lambda *_: None, output.append
    )
    assert "12 sources > up to 12" in output[0]
    assert not (tmp_path / "out").exists()
    resize(photos, tmp_path / "out", size="20")
    for shard in ("1/2", "2/2"):
        resize(photos, tmp_path / shard[0], size="20", shard=shard)
    merge_shards(
        open_shards([tmp_path / "1", tmp_path / "2"], tmp_path / "m"),
        tmp_path / "m",
        lambda *_: None,
    )
    assert digests(tmp_path / "m") == digests(tmp_path / "out")


def test_tags_travel_on(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 3)
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file_name": "001.jpg", "person": "Ada"}\n')
    resize(tmp_path / "in", tmp_path / "once", size="20")
    _, found = resize(tmp_path / "once", tmp_path / "twice", size="16")
    assert [row["tags"] for row in found] == [{}, {"person": "Ada"}, {}]


@pytest.mark.parametrize("size", ["30000", "65535x1", "123456789"])
def test_a_size_that_cannot_be_read_again_is_rejected_at_once(size: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1)
    for command in ("resize", "blur"):
        said = run(command, tmp_path / "in", tmp_path / "out", "--size", size, code=2)
        assert "pixels (got" in said
        assert len(said.splitlines()) == 1
    step = {"blur": {"source": "in", "out": "out", "size": size}}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "r", "corpus": [step]}))
    assert "pixels (got" in run("build", tmp_path / "r.yaml", code=2, cwd=tmp_path)
    assert not (tmp_path / "out").exists()


def test_halves_too_large_side_by_side_are_rejected(tmp_path: Path) -> None:
    for folder in "ab":
        write_photos(tmp_path / folder, 1)
    options = ("--size", 7100, "--fit", "stretch", "--channels", "gray", "--jobs", 1)
    run("combine", tmp_path / "a", tmp_path / "b", tmp_path / "out", *options, code=1)
    (row,) = map(json.loads, (tmp_path / "out/rejected.jsonl").read_text().splitlines())
    assert row["reason"] == "too-many-pixels"
    assert "--layout folders" in row["detail"]
