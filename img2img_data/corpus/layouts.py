"""Folders that other tools read: which layout one has, and the pairs in it.

::

    pix2pix      train/1.jpg                     input left, target right    github.com/phillipi/pix2pix
    cyclegan     trainA/1.jpg  trainB/9.jpg      no pairs: two domains       github.com/junyanz/CycleGAN
    folders      train/input/1.png  train/target/1.png, also input/1.png or input/train/1.png
    basicsr      meta_info.txt  gt/1.png  lq/1.png                           github.com/XPixelGroup/BasicSR
    hf           train/metadata.jsonl (or .csv) with two *_file_name columns huggingface.co/docs/datasets
    webdataset   train-000.tar with 1.input.png, 1.target.png                github.com/webdataset/webdataset

Nothing is paired by sort order. What a list names is doubted: nothing outside the folder is read, and what
cannot be used is an entry that is rejected. Adding a layout: a class, and a row in ``LAYOUTS``.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from img2img_data.core import tar
from img2img_data.core.errors import ArchiveError, UsageError, printable
from img2img_data.corpus.format import Kind, Layout, as_key
from img2img_data.images.headers import is_image_name
from img2img_data.sources.folder import PathResolver, Rejection, list_folder

SPLITS: Final[Mapping[str, str]] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}
"""What folders are called, and the split that is meant."""

SIDES: Final = (("input", "target"), ("source", "target"), ("A", "B"), ("lq", "gt"), ("LQ", "GT"))
"""What the folders, columns and members of inputs and of targets are called."""

LONGEST_TAG: Final = 1000

Span = tuple[bytes, int, int]
"""Where a image lies in an archive: the archive's path, the first byte, the number of bytes."""


class LayoutEntry(NamedTuple):
    """One pair, or one image of a domain. Paths are relative to the folder, parted by "/"."""

    split: str
    key: str
    sources: tuple[bytes, ...]
    side: int = 0
    tags: Mapping[str, Any] = {}
    rejected: Rejection | None = None
    spans: tuple[Span, ...] = ()


class FolderLayout:
    """What every layout is: whether a folder has it, and what is in one that does."""

    kind: ClassVar[Kind] = "paired"
    layout: ClassVar[Layout] = "folders"
    hint: ClassVar[str] = "check the path"

    def fits(self, root: Path) -> bool:
        """Tell, by a look at the names at the top, whether a folder has this layout."""
        raise NotImplementedError

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Yield what is in the folder; ``UsageError`` when a list in it is damaged."""
        raise NotImplementedError


def _split_folders(root: Path) -> dict[str, str]:
    """Return the folders of splits: name > split."""
    return {n: s for n, s in SPLITS.items() if (root / n).is_dir() and not (root / n).is_symlink()}


def _images(root: Path, folder: str) -> Iterator[tuple[str, bytes, Rejection | None]]:
    """Yield (key, path relative to ``root``, rejection) of the images below one of its folders."""
    for item in list_folder(root / folder):
        yield (
            as_key(os.path.splitext(item.path)[0]),
            os.fsencode(folder) + b"/" + item.path,
            item.rejected,
        )


class Pix2PixLayout(FolderLayout):
    """One image a pair, input left and target right."""

    layout = "combined"
    hint = "it needs images in train/, val/ or test/"

    def fits(self, root: Path) -> bool:
        """Look for a image straight in the folder of a split, or below it."""
        return any(
            any(is_image_name(i.path) for i in list_folder(root / n)) for n in _split_folders(root)
        )

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Take every image below the folders of the splits."""
        for folder, split in _split_folders(root).items():
            for key, path, rejected in _images(root, folder):
                yield LayoutEntry(split, key, (path,), rejected=rejected)


class CycleGANLayout(FolderLayout):
    """Two domains without pairs."""

    kind = "unpaired"
    hint = "it needs trainA/ and trainB/"

    def fits(self, root: Path) -> bool:
        """Look for trainA and trainB, or those of another split."""
        return any(all((root / f"{n}{d}").is_dir() for d in "AB") for n in SPLITS)

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Take every image of each domain."""
        for side, domain in enumerate("AB"):
            for name, split in SPLITS.items():
                if (root / f"{name}{domain}").is_dir():
                    for key, path, rejected in _images(root, f"{name}{domain}"):
                        yield LayoutEntry(split, key, (path,), side, rejected=rejected)


class TwoFoldersLayout(FolderLayout):
    """A folder of inputs beside one of targets; halves have the same path but for the extension."""

    hint = "it needs input/ and target/ (or A and B, lq and gt), within the splits or around them"

    def fits(self, root: Path) -> bool:
        """Look for two folders that are called as in ``SIDES``."""
        return bool(self._places(root))

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Pair by key, within each split."""
        for split, first, second in self._places(root):
            sides = [self._by_key(root, f) for f in (first, second)]
            for key in sorted({*sides[0], *sides[1]}):
                yield from self._pair(split, key, sides[0].get(key, []), sides[1].get(key, []))

    @staticmethod
    def _places(root: Path) -> list[tuple[str, str, str]]:
        patterns = ("{split}/{side}", "{side}/{split}", "{side}")
        found = []
        for pattern in patterns:
            for name, split in SPLITS.items() if "{split}" in pattern else [("", "train")]:
                for sides in SIDES:
                    first, second = (pattern.format(split=name, side=s) for s in sides)
                    if (root / first).is_dir() and (root / second).is_dir():
                        found.append((split, first, second))
                        break
            if found:
                break
        return found

    @staticmethod
    def _by_key(root: Path, folder: str) -> dict[str, list[tuple[bytes, Rejection | None]]]:
        found: dict[str, list[tuple[bytes, Rejection | None]]] = {}
        for key, path, rejected in _images(root, folder):
            found.setdefault(key, []).append((path, rejected))
        return found

    @staticmethod
    def _pair(
        split: str,
        key: str,
        first: list[tuple[bytes, Rejection | None]],
        second: list[tuple[bytes, Rejection | None]],
    ) -> Iterator[LayoutEntry]:
        rejected = [r for _, r in (*first, *second) if r]
        if len(first) == len(second) == 1 and not rejected:
            yield LayoutEntry(split, key, (first[0][0], second[0][0]))
            return
        for side, (own, other) in enumerate(((first, second), (second, first))):
            for path, why in own:
                more = len(own) > 1 or len(other) > 1
                reason = (
                    ("ambiguous-pair", "more than one of this name")
                    if more
                    else ("unpaired", "no other half")
                )
                yield LayoutEntry(split, key, (path,), side, rejected=why or reason)


class BasicSRLayout(FolderLayout):
    """Folders gt and lq, and a list of the names in both: "name (h,w,c)", or "gt/name, lq/name"."""

    hint = "it needs meta_info.txt beside gt/ and lq/"
    _line: Final = re.compile(r"(.*?)(?: \(\d+, ?\d+(?:, ?\d+)?\).*)?")

    def fits(self, root: Path) -> bool:
        """Look for a meta_info*.txt."""
        return bool(self._lists(root))

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Take the pairs of each list, in its order."""
        files = PathResolver(os.fsencode(root), unique=False)
        for split, folder, path in self._lists(root):
            for line in _text_lines(path):
                if line.strip():
                    yield self._entry(root, files, split, folder, line)

    @staticmethod
    def _lists(root: Path) -> list[tuple[str, str, Path]]:
        places = [("train", ""), *((s, f"{n}/") for n, s in _split_folders(root).items())]
        found = []
        for split, folder in places:
            for path in sorted((root / folder).glob("meta_info*.txt")):
                words = re.split(r"[^a-z]+", path.stem.lower())
                found.append((next((SPLITS[w] for w in words if w in SPLITS), split), folder, path))
        return found

    def _entry(
        self, root: Path, files: PathResolver, split: str, folder: str, line: str
    ) -> LayoutEntry:
        whole = self._line.fullmatch(line.strip())
        target, comma, other = (whole[1] if whole else line).partition(", ")
        names = (other, target) if comma else (target, target)
        found = [
            files.resolve(self._path(root, folder, side, n, bool(comma)))
            for side, n in enumerate(names)
        ]
        rejected = next((why for _, why in found if why), None)
        key = as_key(
            os.path.splitext(target.removeprefix("gt/").encode("utf-8", "surrogateescape"))[0]
        )
        return LayoutEntry(split, key, (found[0][0], found[1][0]), rejected=rejected)

    @staticmethod
    def _path(root: Path, folder: str, side: int, name: str, paired: bool) -> str:
        """Return where a name leads: below the folder of its side, unless a line with both says folders."""
        own = next((s[side] for s in SIDES[3:] if (root / folder / s[side]).is_dir()), "")
        if paired and (not own or name.startswith(f"{own}/")):
            return f"{folder}{name}"
        return f"{folder}{own or SIDES[3][side]}/{name}"


class HuggingFaceLayout(FolderLayout):
    """A metadata.jsonl or metadata.csv in each split, whose columns *_file_name name the halves."""

    hint = "it needs a metadata.jsonl or metadata.csv with two *_file_name columns"
    _names: Final = ("metadata.jsonl", "metadata.csv")

    def fits(self, root: Path) -> bool:
        """Look for the lists."""
        return bool(self._lists(root))

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Take the rows of each list, in its order."""
        files = PathResolver(os.fsencode(root), unique=False)
        for split, folder, path in self._lists(root):
            columns: tuple[str, str] | None = None
            for row in _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path):
                columns = columns or self._columns(path, row)
                names = [row.get(c) for c in columns]
                found = [
                    files.resolve(f"{folder}{n}" if isinstance(n, str) and n else None)
                    for n in names
                ]
                rejected = next((why for _, why in found if why), None)
                yield LayoutEntry(
                    split,
                    self._key(row, names),
                    (found[0][0], found[1][0]),
                    0,
                    _tags(row, columns),
                    rejected,
                )

    def _lists(self, root: Path) -> list[tuple[str, str, Path]]:
        places = [("train", ""), *((s, f"{n}/") for n, s in _split_folders(root).items())]
        return [
            (s, f, root / f / n) for s, f in places for n in self._names if (root / f / n).is_file()
        ]

    @staticmethod
    def _columns(path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
        there = {c: c.removesuffix("file_name").rstrip("_") for c in row if c.endswith("file_name")}
        for sides in SIDES:
            if set(sides) <= set(there.values()):
                first, second = (next(c for c, n in there.items() if n == s) for s in sides)
                return first, second
        others = [c for c in there if c != "file_name"]
        if len(there) == 2 and len(others) == 1:
            word = there[others[0]]
            given = re.match("input|source|condition|original|lq|edge|sketch|mask", word)
            return (others[0], "file_name") if given else ("file_name", others[0])
        shown = ", ".join(printable(c) for c in there) or "none"
        raise UsageError(
            "list",
            path,
            f"does not tell input from target (*_file_name columns: {shown})",
            "name them input_file_name and target_file_name",
        )

    @staticmethod
    def _key(row: Mapping[str, Any], names: list[Any]) -> str:
        if isinstance(row.get("key"), str):
            return as_key(row["key"].encode("utf-8", "replace"))
        name = str(names[0]).encode("utf-8", "replace")
        for side in (s for sides in SIDES for s in sides):
            name = name.removeprefix(f"{side}/".encode())
        return as_key(os.path.splitext(name)[0])


class WebDatasetLayout(FolderLayout):
    """Tar archives whose members share a name up to the first dot: KEY.input.png, KEY.target.png."""

    hint = "it needs .tar archives with members like 1.input.png and 1.target.png"

    def fits(self, root: Path) -> bool:
        """Look for archives; one alone may be given itself."""
        return bool(self._archives(root))

    def entries(self, root: Path) -> Iterator[LayoutEntry]:
        """Take the samples of each archive, in its order."""
        for path in self._archives(root):
            words = re.split(r"[^a-z]+", path.stem.lower())
            split = next((SPLITS[w] for w in words if w in SPLITS), "train")
            prefix, group = "", dict[str, tar.Member]()
            for member in tar.members(path):
                folder, slash, name = member.name.rpartition("/")
                base, _, extension = name.partition(".")
                if group and folder + slash + base != prefix:
                    yield self._entry(path, split, prefix, group)
                    group = {}
                prefix = folder + slash + base
                if extension in group:
                    raise ArchiveError(
                        "archive", path, f"has '{printable(member.name)}' twice", "mend it"
                    )
                group[extension] = member
            if group:
                yield self._entry(path, split, prefix, group)

    @staticmethod
    def _archives(root: Path) -> list[Path]:
        if root.is_file():
            return [root]
        return sorted(p for p in root.glob("*.tar") if p.is_file() and not p.is_symlink())

    @staticmethod
    def _entry(path: Path, split: str, prefix: str, group: dict[str, tar.Member]) -> LayoutEntry:
        row: dict[str, Any] = {}
        if "json" in group and group["json"].size < 1 << 24:
            row = _json_row(tar.content(path, group["json"])) or {}
        images = {
            name.rpartition(".")[0]: member
            for name, member in group.items()
            if is_image_name(b"x." + name.encode())
        }
        key = as_key(str(row.get("key") or prefix).encode("utf-8", "replace"))
        own = os.fsencode(path.name)
        for sides in SIDES:
            if set(sides) <= set(images):
                halves = [images[s] for s in sides]
                sources = tuple(own + b"/" + m.name.encode() for m in halves)
                return LayoutEntry(
                    split,
                    key,
                    sources,
                    0,
                    _tags(row, ()),
                    None,
                    tuple((own, m.start, m.size) for m in halves),
                )
        names = ", ".join(printable(n) for n in group)
        rejected = ("unpaired", f"no input and target among {names}"[:LONGEST_TAG])
        return LayoutEntry(split, key, (own + b"/" + prefix.encode(),), rejected=rejected)


# ---------------------------------------------------------------------------------------- lists
def _text_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from file
    except OSError as error:
        raise UsageError(
            "list", path, error.strerror or "cannot be read", "check the path"
        ) from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text_lines(path), 1):
        row = _json_row(line) if line.strip() else {}
        if row is None:
            raise UsageError("list", path, f"line {number} is damaged", "mend the file")
        if row:
            yield row


def _json_row(line: str | bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for row in csv.DictReader(_text_lines(path)):
            yield {k: v for k, v in row.items() if isinstance(k, str)}
    except csv.Error as error:
        raise UsageError("list", path, f"is no CSV table: {error}", "mend the file") from None


def _tags(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return what a foreign row says besides the names: texts, numbers and truths, ready for JSON."""
    there = row["tags"] if isinstance(row.get("tags"), dict) else row
    left_out = {"key", *columns, *_OURS} if there is row else set[str]()
    tags = {_plain(k): _plain(v) for k, v in there.items() if k not in left_out}
    return {k: v for k, v in tags.items() if v is not None}


_OURS: Final = ("source", "source_hex", "kind", "width", "height", "row")


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:LONGEST_TAG]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else None


LAYOUTS: Final[dict[str, FolderLayout]] = {
    "webdataset": WebDatasetLayout(),
    "basicsr": BasicSRLayout(),
    "hf": HuggingFaceLayout(),
    "cyclegan": CycleGANLayout(),
    "folders": TwoFoldersLayout(),
    "pix2pix": Pix2PixLayout(),
}
"""Every layout by its name, in the order in which a folder is tried."""


def find_layout(root: Path) -> str | None:
    """Return the name of the first layout that a folder has, None if it has none."""
    return next((name for name, layout in LAYOUTS.items() if layout.fits(root)), None)
