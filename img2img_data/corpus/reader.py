"""Reading a corpus: its pairs and images, opened from corpus.json or from a folder of another tool."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2img_data.core.errors import CorpusError, Rejected, printable
from img2img_data.core.jsonl import open_rows
from img2img_data.corpus.format import (
    CORPUS_FILE,
    FORMAT,
    METADATA_FILE,
    ColorSpace,
    Kind,
    Layout,
    inside,
)
from img2img_data.corpus.layouts import LAYOUTS, find_layout

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of a corpus; ``input`` and ``target`` are the same file in the combined layout."""

    key: str
    split: str
    input: Path
    target: Path
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus opened for reading. ``by_split`` maps each split to its pairs, sorted by key.

    Pairs are read from the manifest when they are asked for: a million take 8 MB. In an unpaired
    corpus ``domains`` holds, for each split, the images of A and of B instead.
    """

    root: Path
    kind: Kind
    layout: Layout
    color: ColorSpace
    info: Mapping[str, Any]
    by_split: Mapping[str, Sequence[Pair]]
    domains: Mapping[str, tuple[Sequence[Path], Sequence[Path]]] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, train first."""
        names = self.domains if self.kind == "unpaired" else self.by_split
        return tuple(sorted(names, key=lambda s: (s != "train", s)))

    @property
    def bits(self) -> int:
        """Bits a sample, 8 or 16."""
        return bits_of(self.info)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of ``input`` and ``target`` on disk: 1, 3 or 4."""
        return channels_of(self.info)

    def pairs(self, split: str) -> Sequence[Pair]:
        """Return the pairs of a split, sorted by key; ``CorpusError`` names the splits there are."""
        if self.kind == "unpaired":
            raise CorpusError("corpus", self.root, "is unpaired", "use a paired one here")
        if split not in self.by_split:
            have = ", ".join(self.splits) or "none"
            raise CorpusError("corpus", self.root, f"has no split '{split}'", f"it has {have}")
        return self.by_split[split]

    def read(self, pair: Pair, exact: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return input and target, H x W x 3 RGB (Lab corpora: as stored), uint8, or uint16 where ``bits`` is
        16.

        A single channel is given three times; RGBA corpora give H x W x 4. Where nothing says that images
        are 16 bit, as in another tool's folder, such are read as 8 bit, or with ``exact`` are a
        ``CorpusError``.
        """
        first = self.read_image(pair.input, exact)
        if self.layout == "folders":
            return first, self.read_image(pair.target, exact)
        if first.shape[1] % 2:
            raise CorpusError(
                "image", pair.input, "has an odd width, so it is not A|B", "check the layout"
            )
        middle = first.shape[1] // 2
        return first[:, :middle], first[:, middle:]

    def read_image(self, path: Path, exact: bool = False) -> NDArray[Any]:
        """Return one image of the corpus, as ``read`` does."""
        return _read_image(path, self.bits, 4 in self.channels.values(), exact)


def _read_image(path: Path, bits: int, transparent: bool, exact: bool) -> NDArray[Any]:
    from img2img_data.images import io

    try:
        policy = io.ReadPolicy(
            depth=16 if bits == 16 else 8, channels="rgba" if transparent else "rgb"
        )
        image = io.read(path, policy)
    except Rejected as rejected:
        why = f"{rejected.reason} {rejected.detail}".strip()
        raise CorpusError(
            "image", path, why, "check the corpus with 'img2img-data verify'"
        ) from None
    if exact and "depth" in image.notes:
        why = "holds 16 bit, and nothing says that the corpus does"
        raise CorpusError(
            "image", path, why, "make a corpus of the folder with 'img2img-data import'"
        )
    return image.pixels


def open_corpus(root: Path | str, rows: bool = True) -> Corpus:
    """Open a corpus, or a folder in one of the ``layouts`` of other tools, for reading.

    Without ``rows`` the manifests stay unread: every split is there, but empty, however large it is.
    Raises ``CorpusError`` when the folder is missing, unfinished or none of these.
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError("corpus", root, "no such folder", "check the path")
    if (root / CORPUS_FILE).is_file():
        return _open_manifest(root, rows)
    if (root / ".building").is_dir():
        raise CorpusError("corpus", root, "is unfinished", "run the command that builds it again")
    found = _open_layout(root)
    if found is None:
        what = "holds neither corpus.json nor images in a layout that is known"
        raise CorpusError("corpus", root, what, "see 'img2img-data import --help' for the layouts")
    return found


def read_info(root: Path) -> dict[str, Any]:
    """Return corpus.json; ``CorpusError`` when it is missing, damaged or of a later format."""
    path = root / CORPUS_FILE
    try:
        info = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        why = "has no corpus.json"
        raise CorpusError("corpus", root, why, "it is unfinished, or was not made here") from None
    except (OSError, ValueError, RecursionError):
        info = None
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise CorpusError("corpus", path, "is damaged", "build the corpus again")
    if info["format"] != FORMAT:
        older = info["format"] < FORMAT
        why = f"was written by {'an older' if older else 'a newer'} version of img2img"
        why += f" (format {info['format']}, this version reads {FORMAT})"
        raise CorpusError("corpus", root, why, "build it again" if older else "update img2img")
    return info


def bits_of(info: Mapping[str, Any]) -> int:
    """Return the bits a sample that corpus.json states."""
    return 16 if info.get("bits") == 16 else 8


def channels_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Return the channels of input and target that corpus.json states."""
    stated = info.get("channels")
    known = stated if isinstance(stated, dict) else {}
    usual = {"input": 1 if info.get("color") == "lab" else 3, "target": 3}
    return {
        side: known[side] if known.get(side) in (1, 3, 4) else count
        for side, count in usual.items()
    }


def kept_of(info: Mapping[str, Any]) -> dict[str, int]:
    """Return how many rows corpus.json states of each split, as far as it does."""
    counts = info.get("counts")
    kept = counts.get("kept") if isinstance(counts, dict) else None
    return {s: n for s, n in kept.items() if isinstance(n, int)} if isinstance(kept, dict) else {}


def manifests_of(root: Path, info: Mapping[str, Any]) -> dict[str, Path]:
    """Return the manifest of each split; ``CorpusError`` when corpus.json has a split of which none is."""
    found = {path.parent.name: path for path in sorted(root.glob(f"*/{METADATA_FILE}"))}
    lost = sorted(split for split, count in kept_of(info).items() if count and split not in found)
    if lost:
        why = f"has lost the manifest of '{printable(lost[0])}'"
        raise CorpusError("corpus", root, why, "see 'img2img-data verify', or build it again")
    return found


def _open_manifest(root: Path, rows: bool) -> Corpus:
    info = read_info(root)
    kind, layout = info.get("kind", "paired"), info.get("layout", "folders")
    folders = [path.parent for path in manifests_of(root, info).values()]
    color = info.get("color", "rgb")
    if kind == "unpaired":
        domains = {f.name: _open_domains(f) if rows else ((), ()) for f in folders}
        return Corpus(root, "unpaired", layout, color, info, {}, domains)
    pairs = {f.name: _open_pairs(f) if rows else () for f in folders}
    return Corpus(root, "paired", layout, color, info, pairs)


def _open_pairs(folder: Path) -> Sequence[Pair]:
    make = {"": partial(pair_of, folder, folder.name)}
    return open_rows(folder / METADATA_FILE, make, lambda row: "")[""]


def _open_domains(folder: Path) -> tuple[Sequence[Path], Sequence[Path]]:
    make = dict.fromkeys("AB", partial(_image_of, folder))
    found = open_rows(folder / METADATA_FILE, make, lambda row: str(row.get("domain")))
    return found["A"], found["B"]


def _image_of(folder: Path, row: Mapping[str, Any]) -> Path:
    return inside(folder, row.get("file_name"))


def pair_of(folder: Path, split: str, row: Mapping[str, Any]) -> Pair:
    """Return the pair of a row in the folder of its split."""
    both = row.get("file_name")
    names = (both, both) if both else (row.get("input_file_name"), row.get("target_file_name"))
    first, second = (inside(folder, n) for n in names)
    return Pair(str(row.get("key", "")), split, first, second, row)


def _open_layout(root: Path) -> Corpus | None:
    """Open a folder of another tool; ``CorpusError`` names the first file in it that cannot be used."""
    name = find_layout(root)
    if name is None or name == "webdataset":
        return None
    layout = LAYOUTS[name]
    pairs: dict[str, list[Pair]] = {}
    domains: dict[str, tuple[list[Path], list[Path]]] = {}
    for entry in layout.entries(root):
        paths = [root.joinpath(*os.fsdecode(p).split("/")) for p in entry.sources]
        if entry.rejected:
            why = f"{entry.rejected[0]} {entry.rejected[1]}".strip()
            raise CorpusError(
                "image", paths[0], why, "'img2img-data import' lists what it cannot use"
            )
        if layout.kind == "unpaired":
            domains.setdefault(entry.split, ([], []))[entry.side].append(paths[0])
        else:
            pair = Pair(entry.key, entry.split, paths[0], paths[-1], {"tags": entry.tags})
            pairs.setdefault(entry.split, []).append(pair)
    for found in pairs.values():
        found.sort(key=lambda p: p.key)
    return Corpus(root, layout.kind, layout.layout, "rgb", {}, pairs, domains)
