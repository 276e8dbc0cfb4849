"""Tiles: images are cut at their own pixels; all tiles of an image are in one split."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import rows, run, tree
from conftest import make_photo, write_photos

from img2img_data.builds.replay import replay_pair
from img2img_data.images import io
from img2img_data.images.pixels import detail

COMMANDS = {
    "blur": ("--kind", "random-gaussian"),
    "degrade": ("--kind", "noise"),
    "lab": (),
    "grayscale": (),
    "blank": ("--where", "random", "--fill", "noise"),
    "edges": (),
    "combine": (),
    "unpaired": (),
}
SPLIT = ("--split", "train=0.5,test=0.5")


def all_rows(corpus: Path) -> list[dict[str, object]]:
    found = [
        {**r, "split": m.parent.name} for m in corpus.glob("*/metadata.jsonl") for r in rows(m)
    ]
    return sorted(found, key=lambda row: (str(row.get("domain")), str(row["key"])))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 8 images of 3 x 2 tiles of 16 pixels, and a rest."""
    return write_photos(tmp_path_factory.mktemp("tiles") / "photos", 8, 50, 35, ".png")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_cuts_images_at_their_own_pixels(
    command: str, images: Path, tmp_path: Path
) -> None:
    folders = [images] * (2 if command in ("combine", "unpaired") else 1)
    options = [*COMMANDS[command], "--tile", 16, *SPLIT]
    for jobs in (1, 2):
        run(command, *folders, tmp_path / f"out{jobs}", *options, "--jobs", jobs)
    out = tmp_path / "out1"
    assert tree(out) == tree(tmp_path / "out2")
    found = all_rows(out)
    assert len(found) == 8 * 6 * (2 if command == "unpaired" else 1)
    splits: dict[object, set[object]] = {}
    for row in found:
        splits.setdefault(row["source"], set()).add(row["split"])
        assert (row["width"], row["height"]) == (16, 16)
        left, top = int(str(row["tile_left"])), int(str(row["tile_top"]))
        assert str(row["key"]).endswith(f"_{left:05d}_{top:05d}")
        column = next(c for c in ("target_file_name", "file_name") if c in row)
        target = io.read(out / str(row["split"]) / str(row[column])).pixels[:, -16:]
        expected = io.read(images / str(row["source"])).pixels[top : top + 16, left : left + 16]
        if command != "lab":
            np.testing.assert_array_equal(target, expected)
    assert {len(names) for names in splits.values()} == {1}
    assert {split for names in splits.values() for split in names} == {"train", "test"}
    assert "no problems" in run("verify", out)
    if command not in ("combine", "unpaired"):
        for row in found[:: len(found) // 3]:
            assert command == "lab" or replay_pair(out, str(row["key"])).equal
            assert replay_pair(out, str(row["key"]), images).equal


def test_tiles_overlap_by_the_stride_and_an_image_of_one_tile_is_copied(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 1, 40, 24, ".png")
    content = (tmp_path / "photos" / "000.png").read_bytes()
    run("blur", tmp_path / "photos", tmp_path / "over", "--tile", "16x24", "--stride", 8)
    assert [row["tile_left"] for row in all_rows(tmp_path / "over")] == [0, 8, 16, 24]
    run("blur", tmp_path / "photos", tmp_path / "one", "--tile", "40x24")
    (row,) = all_rows(tmp_path / "one")
    assert row["source_sha256"] == row["target_sha256"]
    assert (tmp_path / "one" / "train" / str(row["target_file_name"])).read_bytes() == content


def test_tiles_of_an_image_draw_numbers_of_their_own(images: Path, tmp_path: Path) -> None:
    run("degrade", images, tmp_path / "out", "--kind", "noise", "--tile", 16)
    drawn = [json.dumps(row["drawn"]) for row in all_rows(tmp_path / "out")]
    assert len(set(drawn)) == len(drawn)


def test_flat_tiles_and_small_images_are_rows(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 1, 48, 16, ".png")
    image = make_photo(3, 48, 16)
    image[:, 16:32] = 90  # a clear sky
    (folder / "000.png").write_bytes(io.encode(image, "png"))
    (folder / "small.png").write_bytes(io.encode(image[:8], "png"))
    output = run(
        "blur", folder, tmp_path / "out", "--tile", 16, "--min-detail", 2, "--max-bad", 0.4
    )
    assert [row["tile_left"] for row in all_rows(tmp_path / "out")] == [0, 32]
    flat, small = rows(tmp_path / "out" / "rejected.jsonl")
    assert (flat["reason"], flat["tile_left"]) == ("low-detail", 16)
    assert (small["reason"], small["detail"]) == (
        "too-small",
        "48 x 8, smaller than --tile 16 x 16",
    )
    assert "low-detail" in output
    # A tile without detail was asked to be left out: it is no bad image.
    (folder / "small.png").unlink()
    run("blur", folder, tmp_path / "good", "--tile", 16, "--min-detail", 2, "--max-bad", 0)
    run("blur", folder, tmp_path / "none", "--tile", 64, code=1)


def test_detail_is_in_gray_levels_at_every_depth() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 3, (64, 1))
    assert detail(ramp) == 1.5  # 3 from column to column, 0 from row to row
    assert detail(ramp.astype(np.uint16) * 257) == 1.5
    assert detail(cv2.cvtColor(ramp, cv2.COLOR_GRAY2RGB)) == 1.5
    assert detail(ramp[:1, :1]) == 0


def test_a_damaged_image_is_read_once_and_a_changed_one_again(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 1, 64, 64)
    name, data = folder / "000.jpg", (folder / "000.jpg").read_bytes()
    name.write_bytes(data[: len(data) // 2])
    output = run("blur", folder, tmp_path / "out", "--tile", 16, code=1)
    assert "16 of 16 images were rejected as 'truncated'" in output
    name.write_bytes(data)
    run("blur", folder, tmp_path / "out", "--tile", 16)
    assert len(all_rows(tmp_path / "out")) == 16


def test_shards_and_an_exact_split_of_tiles(images: Path, tmp_path: Path) -> None:
    options = ("--tile", 16, "--stratify", "folder", *SPLIT)
    assert "48 tiles > up to 48" in run("blur", images, tmp_path / "plain", *options, "--dry-run")
    summary = run("blur", images, tmp_path / "plain", *options)
    assert re.search(r"is complete: 48 tiles in [\d.]+ s, [\d,]+ tiles/s", summary)
    for part in ("1/2", "2/2"):
        run("blur", images, tmp_path / part[0], *options, "--shard", part)
    merge = "merge", tmp_path / "1", tmp_path / "2", tmp_path / "merged"
    assert "2 shards with 48 tiles" in run(*merge, "--dry-run")
    assert "is complete: 48 tiles" in run(*merge)
    assert tree(tmp_path / "merged") == tree(tmp_path / "plain")
    splits = [row["split"] for row in all_rows(tmp_path / "plain")]
    assert splits.count("train") == splits.count("test") == 24
    (tmp_path / "plain/train/metadata.jsonl").unlink()
    output = run("blur", images, tmp_path / "plain", *options, "--dry-run")
    assert "24 of 48 tiles are done" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", 16, "--size", 32), "leave --size out"),
        (("--stride", 8), "--stride needs --tile"),
        (("--tile", 0), "a size is a number of pixels"),
    ],
)
def test_options_that_do_not_fit(
    options: tuple[object, ...], message: str, images: Path, tmp_path: Path
) -> None:
    assert message in run("blur", images, tmp_path / "out", *options, code=2)


def test_a_sample_is_chosen_by_seed(images: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run("select", images, tmp_path / name, "--sample", 3, "--seed", seed)
    names = [sorted(p.name for p in (tmp_path / n).glob("*.png")) for n in "abc"]
    assert len(names[0]) == 3
    assert names[0] == names[1] != names[2]
    run("select", images, tmp_path / "all", "--sample", 99)
    assert len(list((tmp_path / "all").glob("*.png"))) == 8
