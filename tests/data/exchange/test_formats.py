"""Formats of other tools: every export can be imported again, and no list leads outside its
folder."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
import yaml
from command_line import rows, tree
from conftest import make_photo, write_photos

from img2img_data.cli.main import SECTIONS
from img2img_data.cli.steps import run_step
from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.corpus import layouts
from img2img_data.corpus.format import SOURCE_ENTRIES, as_key, columns_of, key_of
from img2img_data.corpus.layouts import LAYOUTS, find_layout
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.exchange.export import EXPORTS, ExportFormat, flat_key
from img2img_data.images import io
from img2img_data.runner.build_folder import Report


def step(name: str, *paths: Path, code: int = 0, **settings: Any) -> Report:
    jobs = {} if name in {"pack", "unpack"} else {"jobs": 1}
    report, ended = run_step(
        name, paths, {**jobs, **settings}, lambda done, total: None, lambda line: None
    )
    assert ended == code, report.lines()
    return report


ImageList = Mapping[tuple[str, str], tuple[np.ndarray, ...]]


def images(corpus: Corpus) -> ImageList:
    """Return the images: (split, key) > halves, or (split, domain and number) > image."""
    if corpus.kind == "paired":
        return {(p.split, p.key): corpus.read(p) for s in corpus.splits for p in corpus.pairs(s)}
    return {
        (split, f"{'AB'[side]}/{path.stem}"): (corpus.read_image(path),)
        for split, domains in corpus.domains.items()
        for side, paths in enumerate(domains)
        for path in paths
    }


def assert_same(first: ImageList, second: ImageList) -> None:
    assert first.keys() == second.keys()
    for name, halves in first.items():
        assert all((a == b).all() for a, b in zip(halves, second[name], strict=True)), name


# ------------------------------------------------------------------------------------- corpora
NAMES = [
    "a.b.c.jpg",
    "sub dir/new\nline 1.jpg",
    " edge .jpg",
    "ü%.jpg",
    "CON.jpg",
    "same.jpg",
    "same.png",
    "train/1.jpg",  # folders that tools of the field take for splits
    "val/1.jpg",
    "dev/test/validation.jpg",
]
SPLITS = "train=0.5,val=0.3,test=0.2"


@pytest.fixture(scope="session")
def odd_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    photos = write_photos(tmp_path_factory.mktemp("odd") / "photos", 9)
    for number, name in enumerate(NAMES):
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            io.encode(make_photo(60 + number), "png" if name.endswith("png") else "jpg")
        )
    return photos


CORPORA: dict[str, Callable[[Path, Path], Report]] = {
    "folders": lambda photos, out: step("blur", photos, out, split=SPLITS),
    "combined": lambda photos, out: step("blur", photos, out, split=SPLITS, layout="combined"),
    "jpg": lambda photos, out: step("blur", photos, out, split=SPLITS, format="jpg", size="20"),
    "deep": lambda photos, out: step("blur", photos, out, bits=16, split=SPLITS),
    "gray": lambda photos, out: step("grayscale", photos, out, split=SPLITS),
    "lab": lambda photos, out: step("lab", photos, out, split=SPLITS),
    "unpaired": lambda photos, out: step("unpaired", photos, photos, out, split=SPLITS),
}


@pytest.fixture(scope="session")
def corpora(odd_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("corpora")
    for name, make in CORPORA.items():
        make(odd_photos, root / name)
    return {name: root / name for name in CORPORA}


def can_hold(format: ExportFormat, corpus: Corpus) -> bool:
    try:
        format.check(corpus, corpus.by_split)
    except UsageError:
        return False
    return corpus.kind == "paired" or format.holds_domains


CASES = [(f, c) for f in EXPORTS for c in CORPORA]


# ------------------------------------------------------------------------------------ round trips
@pytest.mark.parametrize(("format", "name"), CASES)
def test_an_export_can_be_imported(
    format: str, name: str, corpora: Mapping[str, Path], tmp_path: Path
) -> None:
    if format == "lmdb":
        pytest.importorskip("lmdb")
    corpus = open_corpus(corpora[name])
    if not can_hold(EXPORTS[format], corpus):
        with pytest.raises(UsageError):
            step("export", corpora[name], tmp_path / "out", format=format)
        assert not (tmp_path / "out").exists()
        return
    step("export", corpora[name], tmp_path / "out", format=format)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["recipe"]["format"] == format
    assert not (tmp_path / "out" / ".building").exists()
    if format == "lmdb":
        assert_same(read_lmdb(tmp_path / "out", corpus), images(corpus))
        return
    step("import", tmp_path / "out", tmp_path / "back", bits=corpus.bits, max_bad=0.0)
    back = open_corpus(tmp_path / "back")
    assert (tmp_path / "back" / "rejected.jsonl").read_bytes() == b""
    if format == "cyclegan" and corpus.kind == "paired":
        counts = {s: tuple(map(len, d)) for s, d in back.domains.items()}
        assert counts == {s: (len(corpus.pairs(s)),) * 2 for s in corpus.splits}
        return
    assert_same(images(back), images(corpus))


def read_lmdb(root: Path, corpus: Corpus) -> ImageList:
    """Read keys from meta_info.txt up to the first dot, as BasicSR does."""
    import lmdb

    found: dict[tuple[str, str], tuple[np.ndarray, ...]] = {}
    policy = io.ReadPolicy(depth=16 if corpus.bits == 16 else 8)
    for split in corpus.splits:
        sides = []
        for side in ("lq", "gt"):
            lines = (root / split / f"{side}.lmdb" / "meta_info.txt").read_text().splitlines()
            keys = [line.split(".")[0] for line in lines]
            place = str(root / split / f"{side}.lmdb")
            with lmdb.open(place, readonly=True, lock=False) as database, database.begin() as look:
                assert look.stat()["entries"] == len(keys)
                sides.append({k: io.decode(look.get(k.encode()), policy).pixels for k in keys})
        assert sides[0].keys() == sides[1].keys()
        found |= {(split, as_key(k.encode())): (sides[0][k], sides[1][k]) for k in sides[0]}
    return found


@pytest.mark.parametrize("format", EXPORTS)
def test_an_export_is_reproducible(
    format: str, corpora: Mapping[str, Path], tmp_path: Path, photos: Path
) -> None:
    if format == "lmdb":
        pytest.importorskip("lmdb")
    for out in ("one", "two"):
        step("export", corpora["folders"], tmp_path / out, format=format)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert step("export", corpora["folders"], tmp_path / "one", format=format).complete
    with pytest.raises(UsageError, match="direction"):
        step("export", corpora["folders"], tmp_path / "one", format=format, direction="BtoA")
    with pytest.raises(UsageError, match="other files"):
        step("export", corpora["folders"], photos, format=format)
    step("export", corpora["folders"], tmp_path / "dry", format=format, dry_run=True)
    assert not (tmp_path / "dry").exists()


def test_an_export_of_other_images_is_not_complete(tmp_path: Path) -> None:
    """Corpora of equal settings and names have one corpus.json; only their manifests differ."""
    corpora = [tmp_path / "first", tmp_path / "second"]
    for seed, corpus in enumerate(corpora):
        photos = corpus.with_suffix(".photos")
        photos.mkdir()
        assert cv2.imwrite(os.fspath(photos / "a.png"), make_photo(seed, 20, 24))
        step("degrade", photos, corpus, kind="gaussian")
        shutil.rmtree(photos)
    assert len({(corpus / "corpus.json").read_bytes() for corpus in corpora}) == 1
    step("export", corpora[0], tmp_path / "out", format="pix2pix")
    with pytest.raises(UsageError, match=r"other settings \(the corpus\)"):
        step("export", corpora[1], tmp_path / "out", format="pix2pix")


def test_an_export_does_not_depend_on_the_number_of_workers(
    corpora: Mapping[str, Path], tmp_path: Path
) -> None:
    for jobs in (1, 2):
        step("export", corpora["folders"], tmp_path / str(jobs), format="pix2pix", jobs=jobs)
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


@pytest.mark.parametrize("name", ["folders", "combined"])
@pytest.mark.parametrize("format", ["pix2pix", "basicsr", "hf"])
def test_b_to_a_swaps_the_halves(
    format: str, name: str, corpora: Mapping[str, Path], tmp_path: Path
) -> None:
    step("export", corpora[name], tmp_path / "out", format=format, direction="BtoA")
    swapped = {k: h[::-1] for k, h in images(open_corpus(corpora[name])).items()}
    assert_same(images(open_corpus(tmp_path / "out")), swapped)


@pytest.mark.parametrize("name", ["folders", "gray", "one channel", "one channel, A|B"])
@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_stated_channels_are_those_of_the_files(
    direction: str, name: str, corpora: Mapping[str, Path], tmp_path: Path
) -> None:
    corpus = corpora.get(name, tmp_path / "corpus")
    if name not in corpora:  # a source that is gray already stays a JPEG beside a PNG
        gray = cv2.imencode(".jpg", make_photo(1)[..., 0])[1].tobytes()
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "gray.jpg").write_bytes(gray)
        layout = "combined" if "A|B" in name else "folders"
        step("blur", tmp_path / "photos", corpus, channels="gray", layout=layout)
    step("export", corpus, tmp_path / "out", format="basicsr", direction=direction)
    (line, *_) = (tmp_path / "out/train/meta_info.txt").read_text().splitlines()
    file, shape = line.split(" ")
    stored = cv2.imread(str(tmp_path / "out/train/gt" / file), cv2.IMREAD_UNCHANGED)
    height, width, channels = map(int, shape.strip("()").split(","))
    assert stored.shape == ((height, width, channels) if channels > 1 else (height, width))


def test_copied_files_keep_their_bytes(corpora: Mapping[str, Path], tmp_path: Path) -> None:
    step("export", corpora["folders"], tmp_path / "hf", format="hf")
    step("import", tmp_path / "hf", tmp_path / "back")
    for split in ("train", "val", "test"):
        own, back = (tree(root / split) for root in (corpora["folders"], tmp_path / "back"))
        for name in ("metadata.jsonl", "datasets.jsonl"):
            del own[name], back[name]
        assert own == back
    step("export", corpora["combined"], tmp_path / "ab", format="pix2pix")
    step("import", tmp_path / "ab", tmp_path / "ba")
    assert tree(tmp_path / "ab").keys() >= {
        f"train/{p.name}" for p in (tmp_path / "ba/train").glob("*.png")
    }
    for path in (tmp_path / "ba" / "train").rglob("*.png"):
        assert (
            path.read_bytes() == (tmp_path / "ab" / path.relative_to(tmp_path / "ba")).read_bytes()
        )


def test_a_damaged_image_is_not_exported(corpora: Mapping[str, Path], tmp_path: Path) -> None:
    shutil.copytree(corpora["folders"], tmp_path / "c")
    image = next((tmp_path / "c" / "train" / "input").glob("*.png"))
    image.write_bytes(image.read_bytes()[:-9])
    with pytest.raises(CorpusError, match="does not match its row"):
        step("export", tmp_path / "c", tmp_path / "out", format="hf")
    assert not (tmp_path / "out" / "export.json").exists()


@pytest.mark.parametrize("digest", [True, False])
def test_a_pair_whose_input_got_another_size_is_not_exported(digest: bool, tmp_path: Path) -> None:
    step("blur", write_photos(tmp_path / "photos", 2), tmp_path / "c")
    next((tmp_path / "c" / "train" / "input").iterdir()).write_bytes(PNG)
    manifest = tmp_path / "c" / "train" / "metadata.jsonl"
    if not digest:
        manifest.write_text(manifest.read_text().replace("input_sha256", "other"))
    expected = "does not match its row" if digest else "differs in size from its target"
    with pytest.raises(CorpusError, match=f"{expected}; check the corpus with"):
        step("export", tmp_path / "c", tmp_path / "out", format="pix2pix")


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_a_domain_outside_the_folder_is_rejected(
    direction: str, corpora: Mapping[str, Path], tmp_path: Path
) -> None:
    corpus = tmp_path / "box" / "corpus"
    shutil.copytree(corpora["unpaired"], corpus)
    manifest = corpus / "train" / "metadata.jsonl"
    hostile = [r | {"domain": "/../../../evil"} for r in rows(manifest)]
    manifest.write_text("".join(json.dumps(r) + "\n" for r in hostile))
    with pytest.raises(CorpusError, match="its 'domain' is"):
        step("export", corpus, tmp_path / "box" / "out", format="cyclegan", direction=direction)
    assert [p.name for p in tmp_path.iterdir()] == ["box"]
    assert not (tmp_path / "box" / "out").exists()


@pytest.mark.parametrize("key", ["../../evil", "/tmp/evil-abs", "a/../../evil", "C:evil", "a\\b"])
@pytest.mark.parametrize("format", EXPORTS)
def test_a_key_outside_the_folder_is_rejected(format: str, key: str, tmp_path: Path) -> None:
    from small_corpus import write_corpus

    corpus = write_corpus(tmp_path / "box" / "corpus", {"train": 2})
    manifest = corpus / "train" / "metadata.jsonl"
    manifest.write_text("".join(json.dumps(r | {"key": key}) + "\n" for r in rows(manifest)))
    before = tree(tmp_path)
    with pytest.raises(CorpusError, match="its 'key' is"):
        step("export", corpus, tmp_path / "box" / "out", format=format)
    assert tree(tmp_path) == before
    assert not (tmp_path / "box" / "out").exists()


@pytest.mark.parametrize("name", ["export", "pack"])
def test_a_run_that_wrote_nothing_leaves_the_folder_free(name: str, tmp_path: Path) -> None:
    from small_corpus import write_corpus

    corpus, out = write_corpus(tmp_path / "corpus", {"train": 2}), tmp_path / "out"
    out.mkdir()
    manifest = corpus / "train" / "metadata.jsonl"
    good = manifest.read_bytes()
    manifest.write_bytes(b"{\n" + good)
    with pytest.raises(CorpusError, match="is damaged"):
        step(name, corpus, out)
    assert list(out.iterdir()) == []
    manifest.write_bytes(good)
    step("export", corpus, out, format="basicsr")


# ----------------------------------------------------------------------------------- other readers
def read_pix2pix(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The aligned reader of pix2pix, without its transforms."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in {".png", ".jpg"}):
        both = cv2.imread(str(path))
        width = both.shape[1] // 2
        found.append((both[:, :width], both[:, width:]))
    return found


@pytest.mark.parametrize("exported", [False, True])
def test_a_plain_pix2pix_reader(
    exported: bool, corpora: Mapping[str, Path], tmp_path: Path
) -> None:
    root = corpora["combined"]
    if exported:
        step("export", corpora["folders"], tmp_path / "out", format="pix2pix")
        root = tmp_path / "out"
    original = open_corpus(corpora["folders"])
    read = read_pix2pix(root / "train")
    pairs = sorted(original.pairs("train"), key=lambda p: Path(p.key + ".png"))
    assert len(read) == len(pairs) > 3
    for (a, b), pair in zip(read, pairs, strict=True):
        first, second = original.read(pair)
        assert (a[..., ::-1] == first).all()
        assert (b[..., ::-1] == second).all()


def load_with_datasets(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, packaged: bool = True
) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(cache))
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    place = {"path": "imagefolder", "data_dir": str(root)} if packaged else {"path": str(root)}
    return datasets.load_dataset(**place, cache_dir=str(cache))


@pytest.mark.parametrize("how", ["as it is", "exported"])
def test_hugging_face_reads_it(
    how: str, corpora: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, root = open_corpus(corpora["jpg"]), corpora["jpg"]
    if how == "exported":
        root = tmp_path / "out"
        step("export", corpora["jpg"], root, format="hf")
    found = load_with_datasets(root, tmp_path / "cache", monkeypatch)
    assert set(found) == {"train", "validation", "test"}
    for split, own in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert [type(found[split].features[c]).__name__ for c in ("input", "target")] == [
            "Image",
            "Image",
        ]
        assert found[split]["key"][:] == [p.key for p in corpus.pairs(own)]
        first, second = corpus.read(corpus.pairs(own)[0])
        assert (np.asarray(found[split][0]["input"]) == first).all()
        assert (np.asarray(found[split][0]["target"]) == second).all()


SPLIT_WORDS = [*layouts.SPLITS, "my test", "dev-1", "x.train", "a_val 2/eval", "__x", "ok/dev/y"]


@pytest.fixture(scope="session")
def named_as_splits(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Corpora of photos in folders that ``datasets`` takes for splits."""
    root = tmp_path_factory.mktemp("words")
    for number, name in enumerate(SPLIT_WORDS):
        for photo in range(2):
            path = root / "photos" / name / f"train_{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(io.encode(make_photo(2 * number + photo), "png"))
    splits = {
        "some": ("folders", "train=0.6,test=0.4"),
        "own": ("combined", "train=0.5,hold-out=0.3,no=0.2"),
    }
    for name, (layout, split) in splits.items():
        step("blur", root / "photos", root / name, layout=layout, split=split)
    step("unpaired", root / "photos", root / "photos", root / "unpaired", split="train=1")
    return {name: root / name for name in (*splits, "unpaired")}


@pytest.mark.parametrize("name", ["some", "own", "unpaired"])
def test_hugging_face_reads_a_corpus_whatever_its_folders_are_called(
    name: str, named_as_splits: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = named_as_splits[name]
    found = load_with_datasets(root, tmp_path / "cache", monkeypatch, packaged=False)
    lists = {p.parent.name: [r["key"] for r in rows(p)] for p in root.glob("*/metadata.jsonl")}
    assert {split: found[split]["key"][:] for split in found} == {
        split.replace("-", "_"): keys for split, keys in lists.items()
    }


@pytest.mark.parametrize("exported", [False, True])
def test_hugging_face_tells_corpora_of_one_name_apart(
    exported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache knows a local folder by its name and its card."""
    for number in range(3):  # two corpora, then the second after it has grown
        root = tmp_path / f"{min(number, 1)}" / "mine"
        photo = root.parent / "photos" / f"{number}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(io.encode(make_photo(number), "png"))
        step("blur", photo.parent, root)
        if exported:
            root = tmp_path / f"export {number}" / "mine"
            step("export", tmp_path / f"{min(number, 1)}" / "mine", root, format="hf")
        found = load_with_datasets(root, tmp_path / "cache", monkeypatch, packaged=False)
        assert found["train"]["key"][:] == [str(n) for n in range(min(number, 1), number + 1)]


@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_hugging_face_reads_a_split_with_one_pair(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are no more images of one extension than lists of rows."""
    photo = write(tmp_path / "photos", {"1.jpg": io.encode(make_photo(1), "jpg")})
    step("blur", photo, tmp_path / "corpus", layout=layout)
    found = load_with_datasets(tmp_path / "corpus", tmp_path / "cache", monkeypatch, packaged=False)
    name = {"folders": "target", "combined": "image"}[layout]
    assert found["train"]["key"][:] == ["1"]
    assert found["train"][0][name].size == (40 if layout == "folders" else 80, 32)


MIXED = [
    {"noise": {"sigma": 3}, "probability": 0.4},
    {"one-of": {"steps": [{"gaussian": {"sigma": [1, 2]}}, {"jpeg": {}}]}},
]
COMMANDS: dict[str, Callable[[Path, Path], Report]] = {
    "blur": CORPORA["folders"],
    "degrade": lambda photos, out: step("degrade", photos, out, degradation=MIXED, split=SPLITS),
    "combine": lambda photos, out: step("combine", photos, photos, out, license="cc-by-4.0"),
    "lab": CORPORA["lab"],
    "grayscale": CORPORA["gray"],
    "edges": lambda photos, out: step("edges", photos, out, split=SPLITS, license='(c) "A | B"'),
    "blank": lambda photos, out: step("blank", photos, out, where="random", tile="16"),
    "unpaired": CORPORA["unpaired"],
}


def test_every_command_that_makes_a_corpus_is_among_them() -> None:
    assert {*SECTIONS["Make corpora"]} - {"build", "merge"} == {*COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_hugging_face_reads_every_corpus_and_its_card_shows_it(
    name: str, odd_photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters that were drawn differ from row to row and split to split."""
    root = tmp_path / name
    COMMANDS[name](odd_photos, root)
    found = load_with_datasets(root, tmp_path / "cache", monkeypatch, packaged=False)
    splits = {p.parent.name: rows(p) for p in root.glob("*/metadata.jsonl")}
    assert {s: list(map(json.loads, found[s]["row"])) for s in found} == splits
    for split, expected in splits.items():
        for column in columns_of(expected[0]):
            image = found[split][0][column.removesuffix("_file_name").replace("file_name", "image")]
            stored = io.read(root / split / expected[0][column]).pixels
            assert (np.asarray(image.convert("RGB")) == stored).all()
    card = (root / "README.md").read_text("utf-8")
    links = [unquote(link) for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", card)]
    assert len(links) > 2
    assert all((root / link).is_file() for link in links)
    for split, expected in splits.items():
        assert f"| {split} | {len(expected)} |" in card
    license = json.loads((root / "corpus.json").read_text())["recipe"]["license"]
    assert f"License of the sources: {license or 'not stated'}." in card
    assert not SOURCE_ENTRIES.keys() & set(card.replace(":", " ").split())
    stated = yaml.safe_load(card.split("---")[1]).get("license")
    assert stated == {None: None, "cc-by-4.0": "cc-by-4.0"}.get(license, "other")


@pytest.mark.parametrize("packaged", [True, False])
def test_hugging_face_reads_an_export_whatever_its_folders_are_called(
    packaged: bool,
    named_as_splits: Mapping[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, corpus = tmp_path / "out", open_corpus(named_as_splits["some"])
    step("export", named_as_splits["some"], root, format="hf")
    found = load_with_datasets(root, tmp_path / "cache", monkeypatch, packaged)
    assert set(found) == set(corpus.splits)
    for split in found:
        assert found[split]["key"][:] == [p.key for p in corpus.pairs(split)]
        for number, pair in enumerate(corpus.pairs(split)):
            assert (np.asarray(found[split][number]["input"]) == corpus.read(pair)[0]).all()
    step("import", root, tmp_path / "back")
    assert_same(images(open_corpus(tmp_path / "back")), images(corpus))


def test_the_split_words_are_those_of_datasets() -> None:
    words = pytest.importorskip("datasets").data_files.SPLIT_KEYWORDS
    assert {w for found in words.values() for w in found} <= set(layouts.SPLITS)


def test_hugging_face_reads_an_export_whose_splits_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splits may differ in their columns; ``datasets`` needs equal ones."""
    from small_corpus import write_corpus

    corpus = write_corpus(tmp_path / "corpus", {"train": 2, "val": 2})
    manifest = corpus / "val" / "metadata.jsonl"
    odd = [
        row | {"drawn": {"noise": 1}, "notes": ["profile"], "tags": {}} for row in rows(manifest)
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in odd))
    step("export", corpus, tmp_path / "out", format="hf")
    found = load_with_datasets(tmp_path / "out", tmp_path / "cache", monkeypatch)
    assert json.loads(found["validation"][0]["row"])["drawn"] == {"noise": 1}


def test_basicsr_reads_it(corpora: Mapping[str, Path], tmp_path: Path) -> None:
    """BasicSR reads a name up to the first space; the other half has the same base name."""
    for name in ("folders", "combined", "jpg"):
        step("export", corpora[name], tmp_path / name, format="basicsr")
        for split in ("train", "val", "test"):
            place = tmp_path / name / split
            lines = (place / "meta_info.txt").read_text().splitlines()
            for line in lines:
                gt = line.split(" ")[0]
                height, width, channels = map(int, line.split(" ")[1].strip("()").split(","))
                assert cv2.imread(str(place / "gt" / gt)).shape == (height, width, channels)
                assert (place / "lq" / Path(gt).name).is_file()
            assert len(lines) == len(list((place / "gt").iterdir()))


# ------------------------------------------------------------------------------------------- import
PNG = io.encode(make_photo(1, 16, 12), "png")
OTHER = io.encode(make_photo(2, 16, 12), "png")


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return root


BOTH = io.encode(np.hstack([make_photo(1, 16, 12), make_photo(2, 16, 12)]), "png")
HF = (
    '{"input_file_name": "a/x.png", "target_file_name": "b/x.png", '
    '"n": 1, "t": "u", "f": NaN, "g": [1]}\n'
)
EDIT = "file_name,conditioning_image_file_name\nb/x.png,a/x.png\n"
FOLDERS: dict[str, tuple[str, Mapping[str, bytes | str]]] = {
    "pix2pix": ("pix2pix", {"train/x.png": BOTH, "test/x.png": BOTH}),
    "pix2pix deep": ("pix2pix", {"validation/d/x.png": BOTH}),
    "two folders": ("folders", {"input/x.png": PNG, "target/x.PNG": OTHER}),
    "A and B": ("folders", {"A/x.png": PNG, "B/x.png": OTHER}),
    "splits around": ("folders", {"train/lq/x.png": PNG, "train/gt/x.png": OTHER}),
    "splits within": ("folders", {"A/val/x.png": PNG, "B/val/x.png": OTHER}),
    "basicsr": (
        "basicsr",
        {"meta_info.txt": "x.png (12,16,3)\n", "gt/x.png": OTHER, "lq/x.png": PNG},
    ),
    "basicsr crc": (
        "basicsr",
        {"meta_info_test_GT.txt": "x.png (12,16,3) abc\n", "GT/x.png": OTHER, "LQ/x.png": PNG},
    ),
    "real-esrgan": (
        "basicsr",
        {"meta_info.txt": "hr/x.png, lr/x.png\n", "hr/x.png": OTHER, "lr/x.png": PNG},
    ),
    "real-esrgan gt": (
        "basicsr",
        {"meta_info.txt": "gt/x.png, lq/x.png\n", "gt/x.png": OTHER, "lq/x.png": PNG},
    ),
    "spaces": (
        "basicsr",
        {"meta_info.txt": "x y.png (12,16,3)\n", "gt/x y.png": OTHER, "lq/x y.png": PNG},
    ),
    "hf": ("hf", {"train/metadata.jsonl": HF, "train/a/x.png": PNG, "train/b/x.png": OTHER}),
    "hf csv": ("hf", {"metadata.csv": EDIT, "a/x.png": PNG, "b/x.png": OTHER}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_every_layout_is_recognized_opened_and_imported(name: str, tmp_path: Path) -> None:
    layout, files = FOLDERS[name]
    root = write(tmp_path / "in", files)
    assert find_layout(root) == layout
    opened = open_corpus(root)
    step("import", root, tmp_path / "out")
    imported = open_corpus(tmp_path / "out")
    assert_same(images(opened), images(imported))
    for first, second in images(imported).values():
        assert (first == make_photo(1, 16, 12)).all()
        assert (second == make_photo(2, 16, 12)).all()
    assert {p.key.rpartition("/")[2] for s in opened.splits for p in opened.pairs(s)} <= {
        "x",
        "x y",
    }
    assert step("import", root, tmp_path / "out").complete


def test_two_lists_of_a_folder_do_not_double_its_pairs(tmp_path: Path) -> None:
    root = write(tmp_path / "in", {"metadata.jsonl": HF, **FOLDERS["hf csv"][1]})
    assert [p.key for p in open_corpus(root).pairs("train")] == ["a/x"]


def test_a_folder_of_images_is_no_corpus(odd_photos: Path, tmp_path: Path) -> None:
    step("select", odd_photos, tmp_path / "chosen")
    with pytest.raises(UsageError, match="holds images, not pairs; build a corpus from it"):
        open_corpus(tmp_path / "chosen")
    write_photos(tmp_path / "plain", 1)
    with pytest.raises(UsageError, match="holds images, not pairs; build a corpus from it"):
        open_corpus(tmp_path / "plain")


def test_values_of_a_foreign_list_become_tags(tmp_path: Path) -> None:
    step("import", write(tmp_path / "in", FOLDERS["hf"][1]), tmp_path / "out")
    assert rows(tmp_path / "out" / "train" / "metadata.jsonl")[0]["tags"] == {"n": 1, "t": "u"}


def test_domains_keep_their_splits(tmp_path: Path) -> None:
    names = ["trainA/x y.png", "trainA/z.png", "trainB/x y.png", "testA/q.png", "testB/q.png"]
    root = write(tmp_path / "in", dict.fromkeys(names, PNG))
    step("import", root, tmp_path / "out")
    counts = {
        s: [len(d) for d in both] for s, both in open_corpus(tmp_path / "out").domains.items()
    }
    assert counts == {"train": [2, 1], "test": [1, 1]}


HOSTILE = ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png", "C:/x.png"]
HOSTILE += [
    "gone.png",
    "",
    "link/secret.png",
    "soft.png",
    "fifo.png",
    "nul\0.png",
    "half\ud800.png",
    "a",
]


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    write(tmp_path, {"secret.png": PNG, "outside/secret.png": PNG})
    root = write(tmp_path / "in", {"a/x.png": PNG, "lq/x.png": PNG, "gt/x.png": OTHER})
    for place in (root, root / "gt", root / "lq"):
        (place / "link").symlink_to(tmp_path / "outside")
        (place / "soft.png").symlink_to(tmp_path / "secret.png")
        os.mkfifo(place / "fifo.png")
    return root


def test_no_metadata_list_leads_outside(trapped: Path, tmp_path: Path) -> None:
    lines = [{"input_file_name": n, "target_file_name": "a/x.png"} for n in HOSTILE]
    lines += [{"input_file_name": "a/x.png", "target_file_name": n} for n in HOSTILE]
    lines += [{"input_file_name": "a/x.png", "target_file_name": "a/x.png", "key": "../../../evil"}]
    (trapped / "metadata.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    before = {p for p in tmp_path.rglob("*") if (tmp_path / "out") not in p.parents}
    report = step("import", trapped, tmp_path / "out", code=1, format="hf")
    assert report.kept.total() == 1
    assert report.rejected.total() == 2 * len(HOSTILE)
    assert (
        rows(tmp_path / "out" / "train" / "metadata.jsonl")[0]["key"] == "%2E%2E/%2E%2E/%2E%2E/evil"
    )
    assert {p for p in tmp_path.rglob("*") if (tmp_path / "out") not in p.parents} - {
        tmp_path / "out"
    } == before
    with pytest.raises(CorpusError):
        open_corpus(trapped)


def test_no_meta_info_leads_outside(trapped: Path, tmp_path: Path) -> None:
    names = [n for n in HOSTILE if n and "\ud800" not in n]
    text = (
        "".join(f"{n} (12,16,3)\n" for n in names)
        + "".join(f"gt/x.png, {n}\n" for n in names)
        + "x.png (1,1,1)\n"
    )
    (trapped / "meta_info.txt").write_text(text)
    report = step("import", trapped, tmp_path / "out", code=1)
    assert report.kept.total() == 1
    assert report.rejected.total() == 2 * len(names)


def test_bad_images_and_unmatched_halves_are_rejected_rows(tmp_path: Path) -> None:
    files = {f"{side}/{n}.png": PNG for side in ("input", "target") for n in range(12)}
    files |= {
        "input/bad.png": PNG[:50],
        "target/bad.png": PNG,
        "input/wide.png": BOTH,
        "target/wide.png": PNG,
    }
    root = write(tmp_path / "in", files)
    report = step("import", root, tmp_path / "out", max_bad=0.2)
    assert report.rejected == {"truncated": 1, "size": 1}
    write(
        root,
        {
            "input/alone.png": PNG,
            "target/two.jpg": PNG,
            "target/two.png": PNG,
            "input/two.png": PNG,
        },
    )
    report = step("import", root, tmp_path / "unmatched", code=1)
    assert (report.rejected["unpaired"], report.rejected["ambiguous-pair"]) == (1, 3)
    step("import", root, tmp_path / "allowed", allow_unpaired=True, max_bad=0.2)


def test_names_with_the_same_key_stay_apart(tmp_path: Path) -> None:
    names = ["x y.png", "x%20y.png", "X Y.png"]
    step("import", write(tmp_path / "in", {f"train/{n}": BOTH for n in names}), tmp_path / "out")
    keys = [r["key"] for r in rows(tmp_path / "out" / "train" / "metadata.jsonl")]
    assert len({k.casefold() for k in keys}) == 3


@pytest.mark.parametrize(
    ("files", "format", "message"),
    [
        ({"x.txt": "hello"}, "auto", "in a known layout"),
        ({"train/x.png": BOTH}, "hf", "metadata"),
        ({"metadata.jsonl": "{"}, "auto", "line 1"),
        ({"metadata.jsonl": "[" * 99_999}, "auto", "line 1"),
        ({"metadata.jsonl": '{"file_name": "x.png"}\n'}, "auto", "holds images, not pairs"),
        ({"metadata.csv": 'a,"b\n",1\nx,y\n'}, "hf", "which column is the input"),
        ({"x.tar": b"hello" * 500}, "auto", "not a plain tar"),
        ({"corpus.json": "{}", "train/x.png": BOTH}, "auto", "already a corpus"),
    ],
)
def test_a_wrong_folder_is_one_line(
    files: Mapping[str, bytes | str], format: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        step("import", write(tmp_path / "in", files), tmp_path / "out", format=format)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_shards_of_other_generators(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    (tmp_path / "in").mkdir()
    for name, count in (("train-000", 3), ("val-000", 2)):
        with webdataset.TarWriter(str(tmp_path / "in" / f"{name}.tar")) as out:
            for number in range(count):
                row = {"caption": "c", "n": number}
                out.write(
                    {"__key__": f"d/{number}", "input.png": PNG, "target.png": OTHER, "json": row}
                )
    step("import", tmp_path / "in", tmp_path / "out")
    corpus = open_corpus(tmp_path / "out")
    assert [p.key for p in corpus.pairs("train")] == ["d/0", "d/1", "d/2"]
    assert rows(tmp_path / "out" / "val" / "metadata.jsonl")[1]["tags"] == {"caption": "c", "n": 1}
    first, second = corpus.read(corpus.pairs("val")[0])
    assert (first == make_photo(1, 16, 12)).all()
    assert (second == make_photo(2, 16, 12)).all()
    step("import", tmp_path / "in" / "val-000.tar", tmp_path / "one")
    assert len(open_corpus(tmp_path / "one").pairs("val")) == 2


# --------------------------------------------------------------------------------------------- keys
def test_keys_survive_percent_encoding() -> None:
    rng = random.Random(3)
    parts = ["a", "B", " ", ".", "%", "/", "é", "\n", "con", "-", "~", ",", "\\", "1"]
    for _ in range(3000):
        path = "/".join(p for p in "".join(rng.choices(parts, k=rng.randint(1, 6))).split("/") if p)
        if not path:
            continue
        key = key_of(path.encode() + b".jpg")
        assert as_key(key.encode()) == key
        assert as_key(flat_key(key, "/ ").encode()) == key
        assert as_key(flat_key(key, "/ .").encode()) == key
        assert not {" ", "/", "."} & set(flat_key(key, "/ ."))


@pytest.mark.parametrize(
    "name", [b"../../x", b"/etc/x", b"..%2F..%2Fx", b"%2e%2e/x", b"", b"%00", b"a//b/./c", b"\xff"]
)
def test_every_key_is_safe(name: bytes) -> None:
    key = as_key(name)
    parts = key.split("/")
    assert key
    assert key.isprintable()
    assert "" not in parts
    assert not {".", ".."} & set(parts)


def test_the_help_lists_every_layout_and_format() -> None:
    from img2img_data.cli.steps import STEPS

    for name in LAYOUTS:
        assert name in str(STEPS["import"].run.__doc__)
    for name in EXPORTS:
        assert name in str(STEPS["export"].run.__doc__)
