"""Folders in the layouts of other tools: which layout a folder has, and the pairs in it.

::

    pix2pix     train/1.jpg                        input left, target right
    cyclegan    trainA/1.jpg  trainB/9.jpg         two domains, no pairs
    folders     train/input/1.png  train/target/1.png, also input/1.png or input/train/1.png
    basicsr     meta_info.txt  gt/1.png  lq/1.png
    hf          train/metadata.jsonl (or .csv) with two *_file_name columns
    webdataset  train-000.tar with 1.input.png, 1.target.png

Sources: github.com/phillipi/pix2pix, github.com/junyanz/CycleGAN, github.com/XPixelGroup/BasicSR,
huggingface.co/docs/datasets, github.com/webdataset/webdataset.

Nothing is paired by sort order. Lists are not trusted: nothing outside the folder is read, and a
file that cannot be used becomes a rejected entry. To add a layout, write a class and add a row to
``LAYOUTS``.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

from img2img_data.core import tar
from img2img_data.core.errors import ArchiveError, UsageError, printable
from img2img_data.core.jsonl import lines_of
from img2img_data.corpus.format import LINKED, Kind, Layout, as_key, first_link
from img2img_data.images.headers import is_image_name
from img2img_data.sources.folder import PathResolver, Rejection, list_folder, parse_row

SPLITS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of folders and files of a split > the split; all that ``datasets`` knows are among them."""

SIDES: Final = (("input", "target"), ("source", "target"), ("A", "B"), ("lq", "gt"), ("LQ", "GT"))
"""Names of the folders, columns and members of inputs and targets."""

LONGEST_TAG: Final = 1000

Span = tuple[str, int, int]
"""Location of an image in an archive: name of the archive, first byte, number of bytes."""


class LayoutEntry(NamedTuple):
    """One pair, or one image of a domain. Paths are relative to the folder and use "/"."""

    split: str
    key: str
    sources: tuple[bytes, ...] = ()
    side: int = 0
    tags: Mapping[str, Any] = {}
    rejected: Rejection | None = None
    spans: tuple[Span, ...] = ()


class FolderLayout:
    """Base class of the layouts."""

    kind: ClassVar[Kind] = "paired"
    layout: ClassVar[Layout] = "folders"
    hint: ClassVar[str] = "check the path"

    def places(self, root: Path) -> Sequence[Any]:
        """Return the folders, lists or archives that show this layout, [] if it is another one."""
        raise NotImplementedError

    def entries(self, root: Path, follow_links: bool = False) -> Iterator[LayoutEntry]:
        """Yield the entries of a folder; ``UsageError`` if a list in it is damaged.

        By default every image below the places, which are (split, side, folder).
        """
        for split, side, folder in self.places(root):
            for key, path, rejected in _images(root, folder, follow_links):
                yield LayoutEntry(split, key, (path,), side, rejected=rejected)


def _split_folders(root: Path) -> dict[str, str]:
    """Return the folders of splits: name > split."""
    return {n: s for n, s in SPLITS.items() if (root / n).is_dir() and not (root / n).is_symlink()}


def _list_places(root: Path) -> list[tuple[str, str]]:
    """Return (split, folder with "/" at its end) of the places where a list may be."""
    return [("train", ""), *((s, f"{n}/") for n, s in _split_folders(root).items())]


def _split_in(stem: str, default: str = "train") -> str:
    """Return the split that a file name mentions."""
    words = re.split(r"[^a-z]+", stem.lower())
    return next((SPLITS[w] for w in words if w in SPLITS), default)


def _images(
    root: Path, folder: str, follow_links: bool
) -> Iterator[tuple[str, bytes, Rejection | None]]:
    """Yield (key, path relative to ``root``, rejection) of the images below one of its folders."""
    if link := first_link(root, *folder.split("/")):
        raise UsageError("folder", link, LINKED, "replace it with the folder itself")
    for item in list_folder(root / folder, follow_links=follow_links):
        path = os.fsencode(folder) + b"/" + item.path
        yield as_key(os.path.splitext(item.path)[0]), path, item.rejected


def _listed(entry: LayoutEntry, files: PathResolver, names: Iterable[str | None]) -> LayoutEntry:
    """Return the entry with the paths that a list names, and the first reason to reject one."""
    found = [files.resolve(name) for name in names]
    rejected = next((why for _, why in found if why), None)
    return entry._replace(sources=tuple(path for path, _ in found), rejected=rejected)


class Pix2PixLayout(FolderLayout):
    """One image per pair, input left and target right."""

    layout = "combined"
    hint = "it needs images in train/, val/ or test/"

    def places(self, root: Path) -> list[tuple[str, int, str]]:
        """Return (split, 0, folder) of the folders of splits that contain an image."""
        return [
            (split, 0, folder)
            for folder, split in _split_folders(root).items()
            if any(is_image_name(item.path) for item in list_folder(root / folder))
        ]


class CycleGANLayout(FolderLayout):
    """Two domains without pairs."""

    kind = "unpaired"
    hint = "it needs trainA/ and trainB/"

    def places(self, root: Path) -> list[tuple[str, int, str]]:
        """Return (split, side, folder); some split must have both of its folders."""
        found = [
            (split, side, f"{name}{domain}")
            for side, domain in enumerate("AB")
            for name, split in SPLITS.items()
            if (root / f"{name}{domain}").is_dir()
        ]
        names = [folder[:-1] for _, _, folder in found]
        return found if len(set(names)) < len(names) else []


_Files = list[tuple[bytes, Rejection | None]]
"""Files of one key."""


class TwoFoldersLayout(FolderLayout):
    """A folder of inputs and one of targets; halves have the same path apart from the extension."""

    hint = "it needs input/ and target/ (or A and B, lq and gt), within the splits or around them"

    def entries(self, root: Path, follow_links: bool = False) -> Iterator[LayoutEntry]:
        """Pair by key, within each split."""
        for split, *folders in self.places(root):
            found: dict[str, tuple[_Files, _Files]] = {}
            for side, folder in enumerate(folders):
                for key, path, rejected in _images(root, folder, follow_links):
                    found.setdefault(key, ([], []))[side].append((path, rejected))
            for key, halves in sorted(found.items()):
                yield from self._pair(split, key, *halves)

    def places(self, root: Path) -> list[tuple[str, str, str]]:
        """Return (split, folder of inputs, folder of targets), named as in ``SIDES``."""
        # The first pattern that fits is used alone: an outer input/ may lie beside train/input/.
        for pattern in ("{split}/{side}", "{side}/{split}", "{side}"):
            names = SPLITS if "{split}" in pattern else {"": "train"}
            found: dict[str, tuple[str, str, str]] = {}
            for (name, split), sides in product(names.items(), SIDES):
                first, second = (pattern.format(split=name, side=side) for side in sides)
                if (root / first).is_dir() and (root / second).is_dir():
                    found.setdefault(name, (split, first, second))
            if found:
                return [*found.values()]
        return []

    @staticmethod
    def _pair(split: str, key: str, first: _Files, second: _Files) -> Iterator[LayoutEntry]:
        if len(first) == len(second) == 1 and not (first[0][1] or second[0][1]):
            yield LayoutEntry(split, key, (first[0][0], second[0][0]))
            return
        reason = ("unpaired", "the other half is missing")
        if len(first) > 1 or len(second) > 1:
            reason = ("ambiguous-pair", "more than one file has this name")
        for side, files in enumerate((first, second)):
            for path, rejected in files:
                yield LayoutEntry(split, key, (path,), side, rejected=rejected or reason)


class BasicSRLayout(FolderLayout):
    """Folders gt and lq, and a list of names: "name (h,w,c)", or "gt/name, lq/name"."""

    hint = "it needs meta_info.txt beside gt/ and lq/"
    # Names may contain spaces, so the size in parentheses is the end of a name.
    _size: Final = re.compile(r" \(\d+, ?\d+(?:, ?\d+)?\).*")

    def entries(self, root: Path, follow_links: bool = False) -> Iterator[LayoutEntry]:
        """Yield the pairs of each list, in its order."""
        # A list may name a file twice: several inputs can have the same target.
        files = PathResolver(os.fsencode(root), follow_links)
        for split, folder, path in self.places(root):
            for line in filter(None, map(str.strip, _text_lines(path))):
                target, comma, other = self._size.sub("", line).partition(", ")
                name = target.removeprefix("gt/").encode("utf-8", "surrogateescape")
                entry = LayoutEntry(split, as_key(os.path.splitext(name)[0]))
                names = enumerate((other if comma else target, target))
                paths = (self._path(root, folder, side, n, bool(comma)) for side, n in names)
                yield _listed(entry, files, paths)

    def places(self, root: Path) -> list[tuple[str, str, Path]]:
        """Return (split, folder, list) of each meta_info*.txt."""
        return [
            (_split_in(path.stem, split), folder, path)
            for split, folder in _list_places(root)
            for path in sorted((root / folder).glob("meta_info*.txt"))
        ]

    @staticmethod
    def _path(root: Path, folder: str, side: int, name: str, both: bool) -> str:
        """Return the path of a name: below the folder of its side, unless the line has folders.

        ``both`` is True for a line that names both halves: these may name folders of their own.
        """
        own = next((s[side] for s in SIDES[3:] if (root / folder / s[side]).is_dir()), "")
        if both and (not own or name.startswith(f"{own}/")):
            return f"{folder}{name}"
        return f"{folder}{own or SIDES[3][side]}/{name}"


class HuggingFaceLayout(FolderLayout):
    """A metadata.jsonl or metadata.csv in each split, whose columns *_file_name name the halves."""

    hint = "it needs a metadata.jsonl or metadata.csv with two *_file_name columns"

    def entries(self, root: Path, follow_links: bool = False) -> Iterator[LayoutEntry]:
        """Yield the rows of each list, in its order."""
        files = PathResolver(os.fsencode(root), follow_links)
        for split, folder, path in self.places(root):
            columns: tuple[str, str] | None = None
            for row in _json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path):
                columns = columns or self._columns(path, row)
                names = [row.get(c) for c in columns]
                entry = LayoutEntry(split, self._key(row, names), tags=_tags(row, columns))
                paths = (f"{folder}{n}" if isinstance(n, str) and n else None for n in names)
                yield _listed(entry, files, paths)

    def places(self, root: Path) -> list[tuple[str, str, Path]]:
        """Return (split, folder, list) of each place; metadata.jsonl comes before metadata.csv."""
        found: list[tuple[str, str, Path]] = []
        for split, folder in _list_places(root):
            paths = (root / folder / name for name in ("metadata.jsonl", "metadata.csv"))
            found += [(split, folder, path) for path in paths if path.is_file()][:1]
        return found

    @staticmethod
    def _columns(path: Path, row: Mapping[str, Any]) -> tuple[str, str]:
        found = {c: c.removesuffix("file_name").rstrip("_") for c in row if c.endswith("file_name")}
        for sides in SIDES:
            if set(sides) <= set(found.values()):
                first, second = (next(c for c, n in found.items() if n == s) for s in sides)
                return first, second
        others = [c for c in found if c != "file_name"]
        if len(found) == 2 and len(others) == 1:
            # "file_name" says nothing about its side, so the other column must.
            words = "input|source|condition|original|lq|edge|sketch|mask"
            is_input = re.match(words, found[others[0]])
            return (others[0], "file_name") if is_input else ("file_name", others[0])
        if [*found] == ["file_name"]:
            raise no_pairs(path.parent)
        shown = ", ".join(printable(c) for c in found) or "none"
        why = f"does not say which column is the input (*_file_name columns: {shown})"
        raise UsageError("list", path, why, "name them input_file_name and target_file_name")

    @staticmethod
    def _key(row: Mapping[str, Any], names: list[Any]) -> str:
        if isinstance(row.get("key"), str):
            return as_key(row["key"].encode("utf-8", "replace"))
        name = str(names[0]).encode("utf-8", "replace")
        for side in (s for sides in SIDES for s in sides):
            name = name.removeprefix(f"{side}/".encode())
        return as_key(os.path.splitext(name)[0])


MemberGroup = Mapping[str, tar.Member]
"""Members of one WebDataset sample, by the part of their names after the first dot."""


def webdataset_samples(path: Path) -> Iterator[tuple[str, MemberGroup]]:
    """Yield (name up to the first dot, members) of each sample of a shard, in its order.

    Raises ``ArchiveError`` if the archive is damaged, unsafe, or has a member twice.
    """
    for prefix, members in groupby(tar.members(path), key=_sample_of):
        group = dict[str, tar.Member]()
        for member in members:
            extension = member.name[len(prefix) + 1 :]
            if extension in group:
                why = f"contains '{printable(member.name)}' twice"
                raise ArchiveError("archive", path, why, "do not use it")
            group[extension] = member
        yield prefix, group


def _sample_of(member: tar.Member) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


class WebDatasetLayout(FolderLayout):
    """Tar archives whose members share a name up to the first dot: KEY.input.png."""

    hint = "it needs .tar archives with members like 1.input.png and 1.target.png"

    def entries(self, root: Path, follow_links: bool = False) -> Iterator[LayoutEntry]:
        """Yield the samples of each archive, in its order."""
        for path in self.places(root):
            for prefix, group in webdataset_samples(path):
                yield self._entry(path, prefix, group)

    def places(self, root: Path) -> list[Path]:
        """Return the archives of a folder, or the archive itself."""
        if root.is_file():
            return [root]
        return sorted(p for p in root.glob("*.tar") if p.is_file() and not p.is_symlink())

    @staticmethod
    def _entry(path: Path, prefix: str, group: MemberGroup) -> LayoutEntry:
        row: dict[str, Any] = {}
        # Rows have a few hundred bytes; a large member is not worth reading into memory.
        if "json" in group and group["json"].size < 1 << 24:
            row = parse_row(tar.content(path, group["json"])) or {}
        images = {
            name.rpartition(".")[0]: member
            for name, member in group.items()
            if is_image_name(b"x." + name.encode())
        }
        key = as_key(str(row.get("key") or prefix).encode("utf-8", "replace"))
        archive, split = os.fsencode(path.name), _split_in(path.stem)
        for sides in SIDES:
            if set(sides) <= set(images):
                halves = [images[s] for s in sides]
                sources = tuple(archive + b"/" + m.name.encode() for m in halves)
                spans = tuple((path.name, m.start, m.size) for m in halves)
                return LayoutEntry(split, key, sources, 0, _tags(row, ()), None, spans)
        names = ", ".join(printable(n) for n in group)
        rejected = ("unpaired", f"no input and target among {names}"[:LONGEST_TAG])
        return LayoutEntry(split, key, (archive + b"/" + prefix.encode(),), rejected=rejected)


# ---------------------------------------------------------------------------------------- lists
def _text_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(lines_of(path)):
        # This keeps names that are not UTF-8, and skips the byte order mark of Windows editors.
        yield line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text_lines(path), 1):
        row = parse_row(line) if line.strip() else {}
        if row is None:
            raise UsageError("list", path, f"line {number} is damaged", "correct the file")
        if row:
            yield row


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for row in csv.DictReader(_text_lines(path)):
            yield {k: v for k, v in row.items() if isinstance(k, str)}
    except csv.Error as error:
        raise UsageError("list", path, f"is not a CSV table: {error}", "correct the file") from None


_NOT_TAGS: Final = ("source", "source_hex", "kind", "width", "height", "row")


def _tags(row: Mapping[str, Any], columns: Iterable[str]) -> dict[str, Any]:
    """Return the other values of a foreign row: texts, numbers and booleans, ready for JSON."""
    if isinstance(row.get("tags"), dict):
        values = row["tags"]
    else:
        skipped = {"key", *columns, *_NOT_TAGS}
        values = {name: value for name, value in row.items() if name not in skipped}
    tags = {_plain(name): _plain(value) for name, value in values.items()}
    return {name: value for name, value in tags.items() if value is not None}


def _plain(value: object) -> Any:
    # Long texts are cut and lists are left out: tags are for filters and tables.
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()[:LONGEST_TAG]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else None


# A folder is tried in this order: lists before names of folders, "folders" before "pix2pix", which
# any folder train/ with images would fit.
LAYOUTS: Final[dict[str, FolderLayout]] = {
    "webdataset": WebDatasetLayout(),
    "basicsr": BasicSRLayout(),
    "hf": HuggingFaceLayout(),
    "cyclegan": CycleGANLayout(),
    "folders": TwoFoldersLayout(),
    "pix2pix": Pix2PixLayout(),
}
"""Every layout by its name."""


def no_pairs(folder: Path) -> UsageError:
    """Return the error for a folder that holds images without a known layout of pairs."""
    hint = "build a corpus from it, for example with 'img2img-data degrade' or 'unpaired'"
    return UsageError("folder", folder, "holds images, not pairs", hint)


def find_layout(root: Path) -> str | None:
    """Return the name of the first layout that a folder has, None if it has none."""
    return next((name for name, layout in LAYOUTS.items() if layout.places(root)), None)
