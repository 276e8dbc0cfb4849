"""Reading a corpus: its pairs and images, from corpus.json or from a folder of another tool."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from img2img_data.core.errors import CorpusError, Img2ImgError, Rejected, UsageError, printable
from img2img_data.core.files import no_folder
from img2img_data.core.jsonl import Columns, RowFile, iter_rows, open_rows, read_object, wrong_value
from img2img_data.corpus import format as corpus_format
from img2img_data.corpus.layouts import LAYOUTS, find_layout, no_pairs
from img2img_data.images.headers import is_image_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from img2img_data.corpus.view import ImagePair


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of a corpus; in the combined layout ``input`` and ``target`` are the same file."""

    key: str
    split: str
    input: Path
    target: Path
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Corpus:
    """A corpus opened for reading. ``by_split`` maps each split to its pairs, sorted by key.

    A pair is read from the manifest when it is asked for, so a million pairs take 8 MB. An unpaired
    corpus has ``domains`` instead: for each split, the images of A and of B. A corpus can be
    used wherever its path is taken.

    >>> corpus = data.open_corpus("corpora/gaussian")
    >>> corpus
    <paired corpus 'corpora/gaussian': train 7, test 5>
    >>> [pair.key for pair in corpus["test"]]
    ['001', '002', '006', '007', '008']
    """

    root: Path
    kind: corpus_format.Kind
    layout: corpus_format.Layout
    color: corpus_format.ColorSpace
    info: Mapping[str, Any]
    by_split: Mapping[str, Sequence[Pair]]
    domains: Mapping[str, tuple[Sequence[Path], Sequence[Path]]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: train, val, test, then the others."""
        names = self.domains if self.kind == "unpaired" else self.by_split
        return tuple(corpus_format.in_split_order(names))

    def __getitem__(self, split: str) -> Sequence[ImagePair]:
        # Imported here, because commands that print help must not wait for OpenCV.
        from img2img_data.corpus.view import ImagePair, view_row

        pairs = self.pairs(split)
        if isinstance(pairs, RowFile):
            return replace(pairs, make=partial(view_row, self, pairs.make))
        return [ImagePair(self, pair) for pair in pairs]

    def __iter__(self) -> Iterator[str]:
        return iter(self.splits)

    def __fspath__(self) -> str:
        return str(self.root)

    def __repr__(self) -> str:
        counts = ", ".join(f"{split} {count}" for split, count in self._counts())
        return f"<{self.kind} corpus '{printable(self.root)}': {counts}>"

    def _repr_html_(self) -> str:
        rows = (f"<tr><td>{escape(split)}</td><td>{n}</td></tr>" for split, n in self._counts())
        return f"<table><caption>{escape(repr(self)[1:-1])}</caption>{''.join(rows)}</table>"

    def _counts(self) -> Iterator[tuple[str, str]]:
        for split in self.splits:
            sides = self.domains.get(split) or (self.by_split[split],)
            yield printable(split), " | ".join(f"{len(side):,}" for side in sides)

    @property
    def bits(self) -> Literal[8, 16]:
        """Bits per sample, 8 or 16."""
        return 16 if self.info.get("bits") == 16 else 8

    @property
    def channels(self) -> dict[str, int]:
        """Numbers of channels of ``input`` and ``target`` on disk: 1, 3 or 4."""
        channels = {"input": 1 if self.color == "lab" else 3, "target": 3}
        return channels | {side: int(n) for side, n in self.info.get("channels", {}).items()}

    @property
    def manifests(self) -> list[Path]:
        """The manifests of the splits, sorted; ``CorpusError`` if a split's folder is a link."""
        found = sorted(self.root.glob(f"*/{corpus_format.METADATA_FILE}"))
        return [corpus_format.inside(self.root, f"{p.parent.name}/{p.name}") for p in found]

    @property
    def kept(self) -> dict[str, int]:
        """Numbers of rows of each split that corpus.json states, {} if it states none."""
        # corpus.json is untrusted, so no type is taken for granted.
        counts = self.info.get("counts")
        kept = counts.get("kept") if isinstance(counts, dict) else None
        stated = kept.items() if isinstance(kept, dict) else ()
        return {split: count for split, count in stated if isinstance(count, int)}

    def pairs(self, split: str) -> Sequence[Pair]:
        """Return the pairs of a split, sorted by key.

        Raises ``CorpusError`` if the corpus is unpaired, ``UsageError`` if it has no such split.
        """
        if self.kind == "unpaired":
            raise CorpusError("corpus", self.root, "is unpaired", "use a paired corpus here")
        if split not in self.by_split:
            raise no_split(self, split)
        return self.by_split[split]

    def read(self, pair: Pair, exact: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return input and target of a row (``ImagePair.files``), H x W x 3 RGB, uint8, or uint16
        if ``bits`` is 16.

        Lab images come as stored, single channels are repeated three times, and RGBA corpora give
        H x W x 4. A folder of another tool does not state its depth: its 16-bit images are
        converted to 8 bits, or raise ``CorpusError`` with ``exact``.
        """
        first = self.read_image(pair.input, exact)
        middle = first.shape[1] // 2
        if self.layout == "folders":
            halves = first, self.read_image(pair.target, exact)
        elif first.shape[1] % 2:
            why = "has an odd width, so it is not an A|B image"
            raise CorpusError("image", pair.input, why, "check the layout")
        else:
            halves = first[:, :middle], first[:, middle:]
        # JPEG and WebP change the halves of a Lab pair differently, so only PNG is compared.
        is_lab = self.color == "lab" and pair.input.suffix == ".png"
        if is_lab and halves[0][..., 0].tobytes() != halves[1][..., 0].tobytes():
            why = "is not the L plane of its target, but corpus.json says 'lab'"
            raise CorpusError("image", pair.input, why, "build the corpus again")
        return halves

    def read_image(self, path: Path, exact: bool = False) -> NDArray[Any]:
        """Return one image of the corpus, as ``read`` does."""
        # Imported here, because commands that print help must not wait for OpenCV.
        from img2img_data.images import io

        alpha = 4 in self.channels.values()
        policy = io.ReadPolicy(depth=self.bits, channels="rgba" if alpha else "rgb")
        try:
            image = io.read(path, policy)
        except Rejected as rejected:
            hint = "check the corpus with 'img2img-data verify'"
            raise CorpusError("image", path, str(rejected), hint) from None
        if exact and "depth" in image.notes:
            why = "has 16 bits per sample, but the folder does not state its depth"
            hint = "make a corpus from the folder with 'img2img-data import'"
            raise CorpusError("image", path, why, hint)
        return image.pixels


def not_a_corpus(root: Path) -> Img2ImgError:
    """Return the error for a path without corpus.json: what it is, and what to do."""
    if not root.is_dir():
        return no_folder(root, "corpus")
    # BUILDING of runner.build_folder, which this room must not import.
    if (root / ".building").is_dir():
        return CorpusError("corpus", root, "is unfinished", "run its command again")
    if corpus_format.is_run(root):
        why, hint = "is a run, not a corpus", "give the corpus that it was trained on"
    elif find_layout(root):
        why, hint = "is not a corpus", "'img2img-data import' makes one"
    elif any(map(is_image_name, os.listdir(os.fsencode(root)))):
        return no_pairs(root)
    else:
        why = "contains neither corpus.json nor images in a known layout"
        hint = "see 'img2img-data import --help' for the layouts"
    return UsageError("folder", root, why, hint)


def no_split(corpus: Corpus, split: str) -> UsageError:
    """Return the error for a split that a corpus does not have."""
    why, have = f"has no split '{printable(str(split))}'", ", ".join(corpus.splits) or "none"
    return UsageError("corpus", corpus.root, why, f"it has {have}")


def open_corpus(root: os.PathLike[str] | str, rows: bool = True) -> Corpus:
    """Open a corpus, or a folder in one of the ``layouts`` of other tools, for reading.

    >>> corpus = data.open_corpus("corpora/gaussian")
    >>> len(corpus["train"]), corpus["train"][0].target.shape
    (7, (32, 40, 3))

    Without ``rows`` the manifests stay unread: every split is there but empty, which takes no time
    however large the corpus is. Raises ``UsageError`` if there is no such folder or it has no known
    layout, ``Img2ImgError`` if it is unfinished or was written by another version.
    """
    root = Path(root)
    if (root / corpus_format.CORPUS_FILE).is_file():
        return _open_manifests(root, rows)
    name = None if (root / ".building").is_dir() else find_layout(root)
    if name is None or name == "webdataset":
        raise not_a_corpus(root)
    return _open_layout(root, name)


_STATED: Final[Columns] = {
    "kind": get_args(corpus_format.Kind).__contains__,
    "layout": get_args(corpus_format.Layout).__contains__,
    "color": get_args(corpus_format.ColorSpace).__contains__,
    "bits": (8, 16).__contains__,
    "recipe": lambda value: isinstance(value, dict),
    "channels": lambda value: (
        isinstance(value, dict)
        and all(side in ("input", "target") and n in (1, 3, 4) for side, n in value.items())
    ),
}
"""Entries of corpus.json that readers rely on; it may lack them."""


def read_info(root: Path) -> dict[str, Any]:
    """Return corpus.json.

    Raises ``CorpusError`` if it is damaged, or of another format version, and as ``not_a_corpus``
    if it is missing.
    """
    path = root / corpus_format.CORPUS_FILE
    corpus_format.first_link.cache_clear()
    if not path.exists():
        raise not_a_corpus(root)
    info = read_object(path)
    if not isinstance(info.get("format"), int):
        raise CorpusError("corpus", path, "is damaged", "build the corpus again")
    if info["format"] != corpus_format.FORMAT:
        older = info["format"] < corpus_format.FORMAT
        why = f"was written by {'an older' if older else 'a newer'} version of img2img"
        why += f" (format {info['format']}, this version reads {corpus_format.FORMAT})"
        raise CorpusError("corpus", root, why, "build it again" if older else "update img2img")
    if wrong := wrong_value(info, _STATED):
        raise CorpusError("corpus", path, f"is damaged{wrong}", "build the corpus again")
    return info


def stated_corpus(root: Path) -> Corpus:
    """Return the corpus that corpus.json states, without its splits.

    Raises as ``read_info`` does.
    """
    info = read_info(root)
    kind, layout = info.get("kind", "paired"), info.get("layout", "folders")
    return Corpus(root, kind, layout, info.get("color", "rgb"), info, {})


def manifests_of(corpus: Corpus) -> dict[str, Path]:
    """Return the manifest of each split.

    Raises ``CorpusError`` if corpus.json states a split that has no manifest.
    """
    found = {path.parent.name: path for path in corpus.manifests}
    lost = sorted(split for split, count in corpus.kept.items() if count and split not in found)
    if lost:
        why = f"has no manifest of split '{printable(lost[0])}'"
        hint = "see 'img2img-data verify', or build it again"
        raise CorpusError("corpus", corpus.root, why, hint)
    return found


def _open_manifests(root: Path, rows: bool) -> Corpus:
    corpus = stated_corpus(root)
    manifests = manifests_of(corpus)
    if corpus.kind == "unpaired":
        domains = {s: _open_domains(p) if rows else ((), ()) for s, p in manifests.items()}
        return replace(corpus, domains=domains)
    by_split: dict[str, Sequence[Pair]] = dict.fromkeys(manifests, ())
    for split, path in manifests.items() if rows else ():
        by_split[split] = open_rows(path, partial(pair_of, path.parent))[""]
    return replace(corpus, by_split=by_split)


def _open_domains(manifest: Path) -> tuple[Sequence[Path], Sequence[Path]]:
    found = open_rows(manifest, partial(_image_of, manifest.parent), "domain", "AB")
    return found["A"], found["B"]


def _image_of(folder: Path, row: Mapping[str, Any]) -> Path:
    return corpus_format.inside(folder, row.get("file_name"))


def pair_of(folder: Path, row: Mapping[str, Any]) -> Pair:
    """Return the pair of a row in the folder of its split; ``CorpusError`` if a file is outside."""
    both = row.get("file_name")
    names = (both, both) if both else (row.get("input_file_name"), row.get("target_file_name"))
    first, second = (corpus_format.inside(folder, n) for n in names)
    return Pair(str(row.get("key", "")), folder.name, first, second, row)


def iter_pairs(corpus: Corpus, split: str) -> Iterator[Pair]:
    """Yield the pairs of a split one by one, also of a corpus that was opened without rows.

    An image of a domain is a pair whose halves are the same file; its row has the ``domain``.
    """
    folder = corpus.root / split
    if corpus.info:
        yield from map(partial(pair_of, folder), iter_rows(folder / corpus_format.METADATA_FILE))
    elif corpus.kind == "paired":
        yield from corpus.pairs(split)
    else:
        for domain, paths in zip("AB", corpus.domains[split], strict=True):
            for path in paths:
                # Below the folder of the domain, so that images in its folders differ.
                name = Path(*path.relative_to(corpus.root).parts[1:])
                row = {"domain": domain, "source": name.as_posix()}
                yield Pair(name.with_suffix("").as_posix(), split, path, path, row)


def _open_layout(root: Path, name: str) -> Corpus:
    """Open a folder of another tool; ``CorpusError`` names the first file that cannot be used."""
    layout = LAYOUTS[name]
    pairs: dict[str, list[Pair]] = {}
    domains: dict[str, tuple[list[Path], list[Path]]] = {}
    for entry in layout.entries(root):
        paths = [root.joinpath(*os.fsdecode(p).split("/")) for p in entry.sources]
        if entry.rejected:
            hint = "'img2img-data import' lists the files that it cannot use"
            if entry.rejected[0] == "link":
                hint = "'img2img-data import --follow-links' makes a corpus with it"
            raise CorpusError("image", paths[0], str(Rejected(*entry.rejected)), hint)
        if layout.kind == "unpaired":
            domains.setdefault(entry.split, ([], []))[entry.side].append(paths[0])
        else:
            pair = Pair(entry.key, entry.split, paths[0], paths[-1], {"tags": entry.tags})
            pairs.setdefault(entry.split, []).append(pair)
    # Layouts yield pairs in the order of their lists, a corpus has them sorted by key.
    for found in pairs.values():
        found.sort(key=lambda p: p.key)
    return Corpus(root, layout.kind, layout.layout, "rgb", {}, pairs, domains)
