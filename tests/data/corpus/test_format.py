"""The format: keys, splits and random streams are fixed; the reader rejects unsafe names."""

from __future__ import annotations

import json
import pathlib
import pickle
import tracemalloc
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo

from img2img_data.cli.json_schema import schema_of
from img2img_data.core.errors import CorpusError
from img2img_data.core.jsonl import COLUMNS
from img2img_data.corpus.format import FORMAT, UniqueKeys, image_rng, key_of, split_of
from img2img_data.corpus.reader import open_corpus

GOLDEN = {
    b"a/photo 1.jpg": "a/photo 1",
    b"-rf.jpg": "-rf",
    b"new\nline.jpg": "new%0Aline",
    b"per%cent.jpg": "per%25cent",
    b"bytes-\xff\xfe.jpg": "bytes-%FF%FE",
    "café.jpg".encode(): "café",
    "cafe\u0301.jpg".encode(): "café",
    b"x/y-1_2.jpeg": "x/y-1_2",
    b"CON.jpg": "%43ON",
    b"a/nul/b.png": "a/%6Eul/b",
    b"com1/x.jpg": "%63om1/x",
    "COM¹.jpg".encode(): "%43OM¹",
    b"conin$.jpg": "%63onin$",
    b"aux .x.jpg": "%61ux .x",
    b"auxx.jpg": "auxx",
    b"dir.jpg/inner.jpg": "dir%2Ejpg/inner",
    b"back\\slash.jpg": "back%5Cslash",
    b" lead and trail .jpg": "%20lead and trail%20",
    "rtl-\u202egpj.jpg".encode(): "rtl-%E2%80%AEgpj",
    b"..jpg": "%2E.jpg",
}


@pytest.mark.parametrize("path", GOLDEN, ids=repr)
def test_keys_are_fixed(path: bytes) -> None:
    assert key_of(path) == GOLDEN[path]
    assert COLUMNS["key"](GOLDEN[path])


EXAMPLES = {"string": "a", "integer": 1, "object": {}, "array": ["a"]}


@pytest.mark.parametrize("column", COLUMNS)
def test_columns_are_checked_as_their_schema_says(column: str) -> None:
    schema = schema_of("corpus-row")["properties"][column]
    values = {kind: EXAMPLES[kind] == EXAMPLES.get(schema.get("type")) for kind in EXAMPLES}
    assert {kind: COLUMNS[column](EXAMPLES[kind]) for kind in EXAMPLES} == values
    assert all(COLUMNS[column](value) for value in schema.get("enum", ()))


def test_keys_never_collide_on_any_file_system() -> None:
    paths = [
        b"a.jpg",
        b"a.png",
        b"a.jpg.png",
        b"Img.jpg",
        b"img.jpg",
        b"IMG.JPG",
        b"x/1.jpg",
        b"y/1.jpg",
        b"b/c.jpg",
        b"b_c.jpg",
        "é.jpg".encode(),
        "e\u0301.jpg".encode(),
        b"n" * 250 + b".jpg",
        b"n" * 251 + b".jpg",
    ]
    keys = UniqueKeys(paths)
    folded = [keys[p].casefold() for p in paths]
    assert len(set(folded)) == len(paths)
    assert keys[b"a.jpg"] == "a.jpg" or "~" in keys[b"a.jpg"]
    assert all(len(part.encode()) < 240 for key in folded for part in key.split("/"))


def test_other_paths_do_not_change_a_key() -> None:
    assert UniqueKeys([b"a.jpg", b"b.jpg"])[b"b.jpg"] == UniqueKeys([b"b.jpg"])[b"b.jpg"] == "b"


def test_randomness_is_fixed_and_keyed() -> None:
    assert image_rng(0, b"a.jpg").integers(0, 10**9) == image_rng(0, b"a.jpg").integers(0, 10**9)
    drawn = {
        int(image_rng(*k).integers(0, 10**9))
        for k in [(0, b"a"), (1, b"a"), (0, b"b"), (0, b"a", 0), (0, b"a", 1)]
    }
    assert len(drawn) == 5
    assert image_rng(0, b"a.jpg").integers(0, 10**9) == GOLDEN_DRAW


GOLDEN_DRAW = 420384415


def test_splits_keep_their_shares_and_never_move() -> None:
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    splits = [split_of(str(i).encode(), shares, 0) for i in range(4000)]
    counts = Counter(splits)
    assert all(abs(counts[s] / 4000 - share) < 0.03 for s, share in shares.items())
    assert splits[5] == split_of(b"5", shares, 0)


def write_corpus(root: Path, rows: list[dict[str, object]], **info: object) -> Path:
    (root / "train" / "input").mkdir(parents=True)
    (root / "train" / "target").mkdir()
    for side in ("input", "target"):
        cv2.imwrite(str(root / "train" / side / "a.png"), make_photo(1)[..., ::-1])
    (root / "train" / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (root / "corpus.json").write_text(
        json.dumps({"format": FORMAT, "kind": "paired", "layout": "folders"} | info)
    )
    return root


def test_reads_pairs(tmp_path: Path) -> None:
    row: dict[str, object] = {
        "key": "a",
        "input_file_name": "input/a.png",
        "target_file_name": "target/a.png",
    }
    corpus = open_corpus(write_corpus(tmp_path / "c", [row]))
    first, second = corpus.read(corpus.pairs("train")[0])
    assert (first == make_photo(1)).all()
    assert (second == make_photo(1)).all()


@pytest.mark.parametrize(
    "name",
    ["../../x.png", "/etc/passwd", "input/../../x.png", "C:/x.png", "a\\..\\x.png", "", None],
)
def test_names_outside_the_corpus_are_rejected(tmp_path: Path, name: object) -> None:
    row: dict[str, object] = {
        "key": "a",
        "input_file_name": name,
        "target_file_name": "target/a.png",
    }
    with pytest.raises(CorpusError, match="outside"):
        open_corpus(write_corpus(tmp_path / "c", [row]))


def test_bare_pix2pix_and_cyclegan_folders(tmp_path: Path) -> None:
    (tmp_path / "ab" / "train").mkdir(parents=True)
    both = np.hstack([make_photo(1), make_photo(2)])
    cv2.imwrite(str(tmp_path / "ab" / "train" / "1.png"), both[..., ::-1])
    corpus = open_corpus(tmp_path / "ab")
    first, second = corpus.read(corpus.pairs("train")[0])
    assert (first == make_photo(1)).all()
    assert (second == make_photo(2)).all()
    for side in "AB":
        (tmp_path / "un" / f"train{side}").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "un" / f"train{side}" / "x.png"), both)
    assert open_corpus(tmp_path / "un").kind == "unpaired"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 99}', '{"a":' * 5000, f'{{"format": {FORMAT}, "recipe": []}}'],
)
def test_a_damaged_page_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "corpus.json").write_text(content)
    with pytest.raises(CorpusError) as caught:
        open_corpus(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_corpus_of_an_older_version_is_rejected_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "corpus.json").write_text(json.dumps({"format": FORMAT - 1, "kind": "paired"}))
    with pytest.raises(CorpusError, match=r"older version.*build it again") as caught:
        open_corpus(tmp_path)
    assert "\n" not in str(caught.value)


def many_rows(root: Path, count: int, **info: object) -> Path:
    rows: list[dict[str, object]] = [
        {
            "key": f"{n:05d}",
            "input_file_name": f"input/{n}.png",
            "target_file_name": f"target/{n}.png",
        }
        for n in range(count)
    ]
    return write_corpus(root, rows, **info)


def test_rows_are_read_on_access(tmp_path: Path) -> None:
    pairs = open_corpus(many_rows(tmp_path / "c", 50)).pairs("train")
    assert len(pairs) == 50
    assert [p.key for p in pairs] == [f"{n:05d}" for n in range(50)]
    assert pairs[7] == pairs[-43]
    assert [p.key for p in pairs[10:20:5]] == ["00010", "00015"]
    assert pickle.loads(pickle.dumps(pairs))[49] == pairs[49]
    with pytest.raises(IndexError):
        pairs[50]


def test_an_open_corpus_needs_little_memory(tmp_path: Path) -> None:
    """Python's table of interned names grows by megabytes at times, so pathlib is left out."""
    root = many_rows(tmp_path / "c", 8_000)
    open_corpus(root)  # loads modules
    tracemalloc.start()
    pairs = open_corpus(root).pairs("train")
    seen = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
    tracemalloc.stop()
    assert len(pairs) == 8_000
    assert sum(trace.size for trace in seen.traces) < 8_000 * 20
