"""No command believes a corpus that contradicts its format, or follows it out of its folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import FrameType

import pytest
from command_line import run
from conftest import make_photo, write_photos
from small_photos import write
from small_runs import small_config

from img2img_data.core.errors import CorpusError, Img2ImgError
from img2img_data.core.jsonl import LONGEST_LINE
from img2img_data.corpus.reader import open_corpus
from img2img_data.exchange.export import EXPORTS
from img2img_train.data import dataset


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """End a command that waits for a pipe."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("the command reads a pipe or a device")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(90)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------------- readers
def command(*words: str) -> Callable[[Path, Path], None]:
    """Return the run of a command that must end in one line."""

    def call(corpus: Path, out: Path) -> None:
        names = {"CORPUS": corpus, "OUT": out}
        output = run(*(names.get(word, word) for word in words), code=1)
        assert output.count("error:") == 1, output
        assert "Traceback" not in output
        assert not out.exists() or list(out.iterdir()) == []

    return call


def read_pairs(corpus: Path) -> None:
    opened = open_corpus(corpus)
    for split in opened.splits:
        for pair in opened.pairs(split):
            opened.read(pair)


def open_training(corpus: Path) -> None:
    images = dataset.open_images(small_config("l1", corpus), "train")
    for index in range(len(images or ())):
        images.read(index)


def function(call: Callable[[Path], None]) -> Callable[[Path, Path], None]:
    """Return the call of a function that must raise one line."""

    def check(corpus: Path, out: Path) -> None:
        with pytest.raises(CorpusError) as caught:
            call(corpus)
        assert "\n" not in str(caught.value)

    return check


COPYING = {
    "pack": command("pack", "CORPUS", "OUT"),
    "leaks": command("verify", "CORPUS", "--leaks", "--jobs", "1"),
    "quick": command("verify", "CORPUS", "--quick"),
    "replay": command("replay", "CORPUS", "000"),
    **{
        name: command("export", "CORPUS", "OUT", "--format", name, "--jobs", "1")
        for name in EXPORTS
        if name != "lmdb"
    },
}
COMPARING = {
    "verify": command("verify", "CORPUS"),
    "show": command("show", "CORPUS", "--out", "OUT"),
    "read": function(read_pairs),
    "train": function(open_training),
}
"""Readers of pixels."""
READERS = COPYING | COMPARING


# ----------------------------------------------------------------------------------------- faults
def page(**change: object) -> Callable[[Path], None]:
    """Return the change of entries of corpus.json."""

    def edit(corpus: Path) -> None:
        path = corpus / "corpus.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    return edit


def row(**change: object) -> Callable[[Path], None]:
    """Return the change of the first row."""

    def edit(corpus: Path) -> None:
        path = corpus / "train" / "metadata.jsonl"
        first, *rest = path.read_text().splitlines()
        first = json.dumps({**json.loads(first), **change}).replace("1e999", "9" * 400 + ".0")
        path.write_text("\n".join([first.replace("Infinity", "1e999"), *rest, ""]))

    return edit


def linked(name: str) -> Callable[[Path], None]:
    """Return the replacement of a folder by a link to it."""

    def edit(corpus: Path) -> None:
        elsewhere = corpus.parent / "elsewhere"
        shutil.move(corpus / name, elsewhere)
        (corpus / name).symlink_to(elsewhere)

    return edit


def manifest(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return the replacement of a manifest."""

    def edit(corpus: Path) -> None:
        path = corpus / "train" / "metadata.jsonl"
        path.unlink()
        make(path)

    return edit


FAULTS: dict[str, Callable[[Path], None]] = {
    "bits": page(bits=7),
    "channels": page(channels={"input": 10**9, "target": 3}),
    "kind": page(kind="evil"),
    "layout": page(layout=["folders"]),
    "color": page(color="evil"),
    "key outside": row(key="../../evil"),
    "key of markup": row(key="<script>"),
    "key of a surrogate": row(key="\ud800"),
    "key of a number": row(key=1),
    "width of NaN": row(width=float("nan")),
    "width of 0": row(width=0),
    "height of true": row(height=True),
    "infinite": row(drawn={"sigma": float("inf")}),
    "domain": row(domain="C"),
    "source": row(source=5),
    "drawn": row(drawn=[3]),
    "linked split": linked("train"),
    "linked input": linked("train/input"),
    "linked target": linked("train/target"),
    "pipe": manifest(os.mkfifo),
    "device": manifest(lambda path: path.symlink_to("/dev/zero")),
    "folder": manifest(Path.mkdir),
    "long line": manifest(lambda path: path.write_text('{"key": "%s"}' % ("x" * LONGEST_LINE))),
}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in order."""
    root = tmp_path_factory.mktemp("sound")
    write_photos(root / "photos", 6)
    run("blur", root / "photos", root / "corpus", "--split", "train=1", "--jobs", "1")
    return root / "corpus"


def faulty_copy(sound: Path, tmp_path: Path, fault: str) -> Path:
    """Return a copy of the corpus with a fault."""
    shutil.copytree(sound, tmp_path / "corpus")
    FAULTS[fault](tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_no_reader_believes_it(fault: str, reader: str, sound: Path, tmp_path: Path) -> None:
    READERS[reader](faulty_copy(sound, tmp_path, fault), tmp_path / "out")


@pytest.mark.parametrize("reader", COMPARING)
def test_rgb_images_are_not_read_as_lab(reader: str, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "corpus")
    page(color="lab", channels={"input": 3, "target": 3})(tmp_path / "corpus")
    COMPARING[reader](tmp_path / "corpus", tmp_path / "out")


@pytest.mark.parametrize("name", [f"{'x' * 300}/a.png", f"input/{'x' * 300}.png"])
def test_a_name_too_long_for_the_file_system_is_a_missing_file(
    name: str, sound: Path, tmp_path: Path
) -> None:
    shutil.copytree(sound, tmp_path / "corpus")
    row(input_file_name=name)(tmp_path / "corpus")
    assert "1 missing" in run("verify", tmp_path / "corpus", code=1)
    for reader in ("pack", "show", "read", "train"):
        READERS[reader](tmp_path / "corpus", tmp_path / "out")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_shard_with_a_fault_is_not_merged(fault: str, sound: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        shard = ("--shard", f"{number}/2", "--jobs", "1", "--split", "train=1")
        run("blur", sound.parent / "photos", tmp_path / str(number), *shard)
    FAULTS[fault](tmp_path / "1")
    output = run("merge", tmp_path / "1", tmp_path / "2", tmp_path / "out", code=1)
    assert output.count("error:") == 1


def test_a_corpus_may_be_reached_by_a_link(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sound)
    assert "no problems" in run("verify", tmp_path / "link")
    run("pack", tmp_path / "link", tmp_path / "out")
    assert len(open_corpus(tmp_path / "link").pairs("train"))


def test_a_folder_is_looked_at_again(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "corpus")
    open_corpus(tmp_path / "corpus")
    linked("train/input")(tmp_path / "corpus")
    COMPARING["read"](tmp_path / "corpus", tmp_path)


def test_a_row_that_is_not_true_is_not_unpacked(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "corpus")
    run("pack", tmp_path / "corpus", tmp_path / "shards")
    shard = next((tmp_path / "shards").glob("train*.tar"))
    data = shard.read_bytes()
    assert data.count(b'"height": 32') >= 2
    shard.write_bytes(data.replace(b'"height": 32', b'"height": -2', 1))
    index = tmp_path / "shards" / "index.json"
    text = index.read_text()
    old, new = (sha256(d).hexdigest() for d in (data, shard.read_bytes()))
    index.write_text(text.replace(old, new))
    assert "no complete row" in run("unpack", tmp_path / "shards", tmp_path / "out", code=2)


LINKS = {
    "pix2pix": ("train", {"train/a.png": 2, "test/a.png": 2}),
    "cyclegan": ("trainB", {"trainA/a.png": 1, "trainB/a.png": 1}),
    "folders": ("input", {"input/a.png": 1, "target/a.png": 1}),
    "splits around": ("train/input", {"train/input/a.png": 1, "train/target/a.png": 1}),
    "splits around, linked": ("train", {"train/input/a.png": 1, "train/target/a.png": 1}),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_linked_folder_of_another_tool_is_not_read(name: str, tmp_path: Path) -> None:
    link, files = LINKS[name]
    for file, halves in files.items():
        write(tmp_path / "in" / file, make_photo(1, 16 * halves, 16))
    linked(link)(tmp_path / "in")
    if name == "pix2pix":
        assert open_corpus(tmp_path / "in").splits == ("test",), "the other split is there"
    else:
        with pytest.raises(Img2ImgError, match=r"link|known layout"):
            open_corpus(tmp_path / "in")


def test_a_long_line_takes_little_memory(sound: Path, tmp_path: Path) -> None:
    corpus = faulty_copy(sound, tmp_path, "pipe")
    (corpus / "train" / "metadata.jsonl").unlink()
    (corpus / "train" / "metadata.jsonl").write_bytes(b"[" * (40 << 20))
    tracemalloc.start()
    COMPARING["read"](corpus, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
