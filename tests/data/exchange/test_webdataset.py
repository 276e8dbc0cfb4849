"""Shards: reproducible, unpacked to the same corpus, readable by webdataset, and never harmful."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from command_line import run, tree
from conftest import make_photo, write_photos

from img2img_data.core import tar
from img2img_data.core.errors import ArchiveError, CorpusError, Img2ImgError
from img2img_data.corpus.format import FORMAT
from img2img_data.corpus.reader import open_corpus
from img2img_data.exchange.webdataset import PackSettings, member_prefix, pack_corpus, unpack_corpus
from img2img_data.images import io


def quiet(*_: object) -> None:
    pass


NAMES = [
    "a.b.c.jpg",
    "__meta__/x.jpg",
    "val/train.jpg",
    "sub.dir/new\nline 1.jpg",
    "ü.jpg",
    "n" * 140 + "/" + "m" * 140 + ".jpg",
]
LAYOUTS = {
    "folders": ["blur", "{a}", "{out}", "--split", "train=0.5,val=0.5"],
    "combined": ["blur", "{a}", "{out}", "--layout", "combined"],
    "unpaired": ["unpaired", "{a}", "{b}", "{out}"],
    "lab": ["lab", "{a}", "{out}", "--bits", "16"],
}


@pytest.fixture(scope="module", params=LAYOUTS)
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    photos = write_photos(root / "photos", 7)
    for number, name in enumerate(NAMES):
        path = photos / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(io.encode(make_photo(50 + number), "jpg"))
    (photos / "bad.jpg").write_bytes(b"bad")
    places = {"{a}": photos, "{b}": photos, "{out}": root / "corpus"}
    argv = [places.get(word, word) for word in LAYOUTS[request.param]]
    run(*argv, "--jobs", "1")
    return root / "corpus"


def pack(corpus: Path, out: Path, **settings: int) -> Path:
    pack_corpus(corpus, out, PackSettings(**settings), False, quiet, quiet)
    return out


def test_the_corpus_comes_back_byte_for_byte(corpus: Path, tmp_path: Path) -> None:
    shards = pack(corpus, tmp_path / "shards", per_shard=5)
    assert len(list(shards.glob("*.tar"))) >= 3
    assert (
        sum(s["nsamples"] for s in json.loads((shards / "index.json").read_text())["shards"]) >= 12
    )
    unpack_corpus(shards, tmp_path / "back", False, quiet, quiet)
    assert tree(tmp_path / "back") == tree(corpus)
    for path in corpus.rglob("*"):
        os.utime(path, (1, 1))
    again = pack(corpus, tmp_path / "again", per_shard=5)
    assert tree(again) == tree(shards)


def test_webdataset_reads_the_shards(corpus: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = pack(corpus, tmp_path / "shards", per_shard=5)
    urls = [str(p) for p in sorted(shards.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    opened = open_corpus(corpus)
    if opened.kind == "unpaired":
        assert len(samples) == sum(len(d) for both in opened.domains.values() for d in both)
        return
    pairs = {(p.split, p.key): p for s in opened.splits for p in opened.pairs(s)}
    assert len(samples) == len(pairs)
    for sample in samples:
        row = json.loads(sample["json"])
        split = Path(sample["__url__"]).name.rpartition("-")[0]
        pair = pairs.pop((split, row["key"]))
        members = {pair.input.name: "input", pair.target.name: "target"}
        if opened.layout == "combined":
            assert sample["image.png"] == pair.input.read_bytes(), members
        else:
            assert sample[f"input{pair.input.suffix}"] == pair.input.read_bytes()
            assert sample[f"target{pair.target.suffix}"] == pair.target.read_bytes()
    assert not pairs


def test_shards_have_a_largest_size(corpus: Path, tmp_path: Path) -> None:
    shards = pack(corpus, tmp_path / "shards", shard_bytes=12_000)
    sizes = [p.stat().st_size for p in shards.glob("*.tar")]
    assert len(sizes) > 2
    assert min(sizes) > 0


def test_an_interrupted_pack_is_repeated_and_other_recipes_are_rejected(
    tmp_path: Path, photos: Path
) -> None:
    corpus = small(tmp_path)
    complete = tree(pack(corpus, tmp_path / "whole"))
    calls = 0

    def stop(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_corpus(corpus, tmp_path / "out", PackSettings(), False, stop, quiet)
    assert calls
    assert not list((tmp_path / "out").glob("*.tar"))
    assert tree(pack(corpus, tmp_path / "out")) == complete
    assert pack_corpus(corpus, tmp_path / "out", PackSettings(), False, quiet, quiet).complete
    with pytest.raises(Img2ImgError, match="other settings"):
        pack(corpus, tmp_path / "out", per_shard=1)
    with pytest.raises(Img2ImgError, match="other files"):
        pack(corpus, photos)


def small(tmp_path: Path) -> Path:
    from small_corpus import write_corpus

    return write_corpus(tmp_path / "corpus", {"train": 4, "val": 1})


def test_a_changed_image_is_not_packed(tmp_path: Path) -> None:
    corpus = small(tmp_path)
    manifest = corpus / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[2]["input_sha256"] = "0" * 64
    manifest.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(CorpusError, match="does not match its row"):
        pack(corpus, tmp_path / "shards")
    assert not (tmp_path / "shards" / "index.json").exists()


def test_member_names_are_unique() -> None:
    keys = ["a.b", "a/b", "a%2Cb", "__x__/a", "_x", "a", "A"]
    assert len({member_prefix(k) for k in keys}) == len(keys)
    assert all("." not in member_prefix(k) and not member_prefix(k).startswith("__") for k in keys)


# ---------------------------------------------------------------------------------------- hostile
IMAGE = io.encode(np.zeros((8, 8, 3), np.uint8), "png")


def tarred(*items: tuple[str, bytes], **fields: object) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            file.addfile(info, BytesIO(data))
    return out.getvalue()


def sample(key: str = "a", name: object = "input/a.png") -> tuple[tuple[str, bytes], ...]:
    row = {"key": "a", "input_file_name": name, "target_file_name": "target/a.png"}
    line = json.dumps(row).encode() + b"\n"
    return (f"{key}.input.png", IMAGE), (f"{key}.target.png", IMAGE), (f"{key}.json", line)


def lying(size: bytes) -> bytes:
    data = bytearray(tarred(*sample()))
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


GOOD = tarred(*sample())
HOSTILE: dict[str, Callable[[], bytes]] = {
    "climbs": lambda: tarred(("../../evil.input.png", IMAGE)),
    "absolute": lambda: tarred(("/tmp/evil-abs.input.png", IMAGE)),
    "backslash": lambda: tarred(("..\\evil.input.png", IMAGE)),
    "drive": lambda: tarred(("C:evil.png", IMAGE)),
    "control": lambda: tarred(("a\nb.input.png", IMAGE)),
    "dots": lambda: tarred(("a/./b.png", IMAGE)),
    "symlink": lambda: tarred(("a.input.png", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hardlink": lambda: tarred(("a.input.png", b""), type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": lambda: tarred(("a.input.png", b""), type=tarfile.CHRTYPE),
    "pipe": lambda: tarred(("a.input.png", b""), type=tarfile.FIFOTYPE),
    "sparse": lambda: tarred(("a.input.png", b""), type=tarfile.GNUTYPE_SPARSE),
    "pax sparse": lambda: tarred(*sample(), pax_headers={"GNU.sparse.major": "1"}),
    "pax size": lambda: tarred(*sample(), pax_headers={"size": "99999999999"}),
    "pax path": lambda: tarred(*sample(), pax_headers={"path": "../../evil.png"}),
    "pax bomb": lambda: tarred(*sample(), pax_headers={"comment": "x" * (1 << 20)}),
    "long name": lambda: tarred(("d/" * 40_000 + "x.png", IMAGE)),
    "huge": lambda: lying(b"77777777777\0"),
    "binary size": lambda: lying(b"\x80" + b"\xff" * 11),
    "no number": lambda: lying(b"-0000000001\0"),
    "cut": lambda: GOOD[:700],
    "cut head": lambda: GOOD[:100],
    "empty": lambda: b"",
    "text": lambda: b"hello\n" * 1000,
    "gzip": lambda: __import__("gzip").compress(bytes(1 << 24)),
    "zip": lambda: b"PK\x03\x04" + bytes(600),
    "twice": lambda: tarred(*sample(), *sample()),
    "twice in a sample": lambda: tarred(sample()[0], *sample()),
    "no row": lambda: tarred(*sample()[:2]),
    "row is none": lambda: tarred(*sample()[:2], ("a.json", b"[" * 100_000)),
    "two rows in one": lambda: tarred(*sample()[:2], ("a.json", sample()[2][1] * 2)),
    "file of no row": lambda: tarred(*sample(), ("a.evil.png", IMAGE)),
    "missing file": lambda: tarred(*sample()[1:]),
    "row climbs": lambda: tarred(*sample(name="../../evil.png")),
    "row absolute": lambda: tarred(*sample(name="/tmp/evil-abs.png")),
    "row script": lambda: tarred(("a.input.py", b"x"), *sample(name="a.py")[1:]),
    "row overwrites": lambda: tarred(*sample(name="target/a.png")),
}


def forge(folder: Path, data: bytes) -> Path:
    """Write shards with an index that matches ``data``."""
    folder.mkdir(parents=True)
    (folder / "corpus.json").write_text(json.dumps({"format": FORMAT}))
    (folder / "train-000000.tar").write_bytes(data)
    digest = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    shard = {
        "url": "train-000000.tar",
        "split": "train",
        "nsamples": 1,
        "filesize": len(data),
        "sha256": digest["train-000000.tar"],
    }
    page = {"format": 1, "recipe": {}, "splits": {"train": 1}, "shards": [shard]}
    (folder / "index.json").write_text(
        json.dumps({**page, "files": {"corpus.json": digest["corpus.json"]}})
    )
    return folder


def test_forged_shards_pass_if_they_are_harmless(tmp_path: Path) -> None:
    unpack_corpus(forge(tmp_path / "shards", GOOD), tmp_path / "out", False, quiet, quiet)
    assert len(open_corpus(tmp_path / "out").pairs("train")) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_shard_is_one_line_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    shards = forge(tmp_path / "box" / "shards", HOSTILE[name]())
    before = tree(tmp_path)
    with pytest.raises(ArchiveError) as caught:
        unpack_corpus(shards, tmp_path / "box" / "out", False, quiet, quiet)
    assert "train-000000.tar" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert caught.value.exit_code == 2
    assert tree(tmp_path) == before
    assert not (tmp_path / "box" / "out").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("train-000000.tar", "../train-000000.tar"),
        ('"split": "train"', '"split": "../x"'),
        ('"nsamples": 1', '"nsamples": 2'),
        ('"train": 1', '"../x": 1'),
        ('"corpus.json": "', '"../x.json": "'),
        ('"corpus.json": "', '"corpus.json": "00'),
        ('"format": 1', '"format": 9'),
        ('"sha256": "', '"sha256": "00'),
        ("{", "[" * 100_000),
    ],
)
def test_a_lying_index_is_one_line(old: str, new: str, tmp_path: Path) -> None:
    shards = forge(tmp_path / "shards", GOOD)
    text = (shards / "index.json").read_text()
    assert old in text
    (shards / "index.json").write_text(text.replace(old, new))
    with pytest.raises(ArchiveError):
        unpack_corpus(shards, tmp_path / "out", False, quiet, quiet)
    assert not (tmp_path / "out").exists()


def test_a_linked_shard_is_rejected(tmp_path: Path) -> None:
    shards = forge(tmp_path / "shards", GOOD)
    shutil.move(shards / "train-000000.tar", tmp_path / "elsewhere.tar")
    (shards / "train-000000.tar").symlink_to(tmp_path / "elsewhere.tar")
    with pytest.raises(ArchiveError, match="not a regular file"):
        unpack_corpus(shards, tmp_path / "out", False, quiet, quiet)


def test_archives_of_other_programs_are_read(tmp_path: Path) -> None:
    long = "d" * 60 + "/" + "é" * 60 + ".png"
    for number, form in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        path = tmp_path / f"{number}.tar"
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / "x.png").write_bytes(IMAGE)
        names = ["./d/x.png", "d" * 99 + "/" + "x" * 60 + ".png"]
        with tarfile.open(path, "w", format=form) as file:
            file.add(tmp_path / "d", "./d", recursive=False)
            for name in names if form == tarfile.USTAR_FORMAT else [*names, long]:
                file.add(tmp_path / "d" / "x.png", name)
        found = list(tar.members(path))
        assert [m.name for m in found][:2] == ["d/x.png", names[1]]
        assert all(tar.content(path, m) == IMAGE for m in found)
        assert form == tarfile.USTAR_FORMAT or found[2].name == long
