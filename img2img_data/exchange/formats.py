"""The layouts that a corpus can be written in, for other tools.

A format says which file holds which half under which name, and writes its lists at the end; ``exporting``
does the rest. Adding one: a class, and a row in ``EXPORTS``. What ``layouts`` reads comes back with equal
pixels, keys and splits.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple, overload

from img2img_data.core.errors import CorpusError, Img2ImgError, UsageError, load_extra
from img2img_data.corpus.format import METADATA_FILE, Kind, inside, to_json_line
from img2img_data.corpus.reader import Corpus, manifests_of, read_info
from img2img_data.exchange.webdataset_pack import row_of
from img2img_data.runner.build_folder import BUILDING, BuildFolder

Part = Literal["input", "target", "both", "own"]


class Shot(NamedTuple):
    """One file of an export: its name without extension, and what it holds."""

    name: str
    part: Part


class Item(NamedTuple):
    """One pair of the corpus, or one image of a domain."""

    number: int
    split: str
    key: str
    first: Path
    second: Path
    side: int
    row: Mapping[str, Any]


class Done(NamedTuple):
    """One item that was written: its files' names, and height and width."""

    item: Item
    names: tuple[str, ...]
    size: tuple[int, int]


class Export:
    """What every format is: the files of an item, and the lists about them."""

    kinds: ClassVar[tuple[Kind, ...]] = ("paired",)
    hint: ClassVar[str] = "--format cyclegan takes it"
    one_extension: ClassVar[bool] = False
    """Whether the two halves must end alike; where they do not, both become PNG."""

    def check(self, corpus: Corpus, items: Items) -> None:
        """Raise ``UsageError`` when the format cannot hold the corpus, or a package is missing."""

    def files(self, item: Item) -> tuple[Shot, ...]:
        """Return the files that an item becomes."""
        raise NotImplementedError

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, done: Sequence[Done]) -> None:
        """Write the lists of a split, from its items in the order of their keys."""


class Pix2Pix(Export):
    """``train/KEY.png``: input left, target right. https://github.com/phillipi/pix2pix, docs/datasets."""

    def check(self, corpus: Corpus, items: Items) -> None:
        """Reject Lab: its L plane and its target share no image."""
        if corpus.color == "lab":
            raise UsageError(
                "corpus", corpus.root, "is Lab, which no A|B image holds", "--format hf takes it"
            )

    def files(self, item: Item) -> tuple[Shot, ...]:
        """Put both halves into one file."""
        return (Shot(f"{item.split}/{item.key}", "both"),)


class CycleGAN(Export):
    """``trainA/KEY.png`` and ``trainB/KEY.png``; of pairs, A is the input and B the target."""

    kinds = ("unpaired", "paired")

    def files(self, item: Item) -> tuple[Shot, ...]:
        """Put each image into the folder of its domain."""
        if not item.row.get("domain"):
            return Shot(f"{item.split}A/{item.key}", "input"), Shot(
                f"{item.split}B/{item.key}", "target"
            )
        return (Shot(f"{item.split}{'AB'[item.side]}/{item.key}", "own"),)


class BasicSR(Export):
    """``train/lq/KEY.png``, ``train/gt/KEY.png`` and ``train/meta_info.txt`` with "KEY.png (h,w,c)".

    As in https://github.com/XPixelGroup/BasicSR, docs/DatasetPreparation. It looks for both halves under one
    name, without folders, and takes what stands before the first space of a line: so "/" and " " of a key
    are written %2F and %20.
    """

    one_extension = True

    def files(self, item: Item) -> tuple[Shot, ...]:
        """Put the input into lq and the target into gt."""
        name = flat(item.key)
        return Shot(f"{item.split}/lq/{name}", "input"), Shot(f"{item.split}/gt/{name}", "target")

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, done: Sequence[Done]) -> None:
        """Write meta_info.txt."""
        channels = corpus.channels["target"]
        lines = (
            f"{d.names[1].rpartition('/')[2]} ({d.size[0]},{d.size[1]},{channels})\n" for d in done
        )
        _write_list(folder, f"{split}/meta_info.txt", (line.encode() for line in lines))


class HuggingFace(Export):
    """What ``datasets.load_dataset("imagefolder")`` reads as Image columns input and target.

    Every split has the same columns of the same types, whatever the corpus drew; the row of the corpus is
    there whole as a JSON text. The split val is called validation, as in https://huggingface.co/docs/datasets.
    """

    _splits: Final[Mapping[str, str]] = {"train": "train", "val": "validation", "test": "test"}

    def check(self, corpus: Corpus, items: Items) -> None:
        """Reject splits whose names ``datasets`` would not tell apart."""
        for split in items.splits:
            if split not in self._splits:
                known = ", ".join(self._splits)
                raise UsageError("split", split, "has no name in this format", f"it knows {known}")

    def files(self, item: Item) -> tuple[Shot, ...]:
        """Put the halves into input and target."""
        place = self._splits[item.split]
        return Shot(f"{place}/input/{item.key}", "input"), Shot(
            f"{place}/target/{item.key}", "target"
        )

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, done: Sequence[Done]) -> None:
        """Write metadata.jsonl."""
        place = self._splits[split]
        _write_list(
            folder, f"{place}/{METADATA_FILE}", (to_json_line(self._row(d, place)) for d in done)
        )

    @staticmethod
    def _row(done: Done, place: str) -> dict[str, Any]:
        first, second = (n.removeprefix(f"{place}/") for n in done.names)
        return {
            "key": done.item.key,
            "input_file_name": first,
            "target_file_name": second,
            "source": str(done.item.row.get("source", "")),
            "kind": str(done.item.row.get("kind", "")),
            "width": done.size[1],
            "height": done.size[0],
            "row": to_json_line(done.item.row).decode().strip(),
        }


class LMDB(BasicSR):
    """``train/lq.lmdb`` and ``train/gt.lmdb``: key without extension > the image's file. As BasicSR does.

    Each holds a meta_info.txt with "KEY.png (h,w,c) 1". A "." in a key is written %2E, for BasicSR takes what
    stands before the first one.
    """

    _longest: Final = 511
    """Bytes of a key in LMDB as it is built."""

    def check(self, corpus: Corpus, items: Items) -> None:
        """Reject when the package is missing, or a key too long."""
        load_extra("lmdb", "lmdb", "format", "lmdb")
        for item in items:
            if len(flat(item.key, "/ .").encode()) > self._longest:
                raise UsageError("key", item.key, "is too long for LMDB", "choose another format")

    def files(self, item: Item) -> tuple[Shot, ...]:
        """Stage the files; ``finish`` moves them into the databases."""
        name = flat(item.key, "/ .")
        place = f"{BUILDING}/stage/{item.split}"
        return Shot(f"{place}/lq/{name}", "input"), Shot(f"{place}/gt/{name}", "target")

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, done: Sequence[Done]) -> None:
        """Fill the databases in the order of the keys' bytes, beside their place, then rename."""
        for number, (side, half) in enumerate((("lq", "input"), ("gt", "target"))):
            made = folder.building / f"{side}.lmdb"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            shown = folder.root / split / made.name
            self._fill(shown, made, [folder.root / d.names[number] for d in done])
            channels = corpus.channels[half]
            with (made / "meta_info.txt").open("wb") as file:
                for d in done:
                    name = d.names[number].rpartition("/")[2]
                    file.write(f"{name} ({d.size[0]},{d.size[1]},{channels}) 1\n".encode())
            (folder.root / split).mkdir(exist_ok=True)
            shutil.rmtree(shown, ignore_errors=True)
            made.replace(shown)
        shutil.rmtree(folder.building / "stage" / split)

    @staticmethod
    def _fill(shown: Path, made: Path, files: Sequence[Path]) -> None:
        """Put the files into the database ``made``, which will be called ``shown``."""
        import lmdb

        room = sum(f.stat().st_size + 8192 for f in files) * 2 + (1 << 20)
        try:
            with lmdb.open(os.fspath(made), map_size=room, lock=False) as database:
                for start in range(0, len(files), 1000):
                    with database.begin(write=True) as change:
                        for path in files[start : start + 1000]:
                            change.put(path.stem.encode(), path.read_bytes())
        except lmdb.Error as error:
            # LMDB calls a write that was cut short, by a full disk or a limit, an input/output error.
            why = f"{error}: no space left, or a file size limit"
            raise Img2ImgError("cannot write", shown, why, "make room and run it again") from None


def _write_list(folder: BuildFolder, name: str, lines: Iterable[bytes]) -> None:
    """Write a list line by line, then rename it into place."""
    with (folder.building / "list").open("wb") as file:
        file.writelines(lines)
    (folder.root / name).parent.mkdir(exist_ok=True)
    (folder.building / "list").replace(folder.root / name)


def flat(key: str, unsafe: str = "/ ") -> str:
    """Return a key without the characters that a list or database of names cannot hold, %-encoded."""
    return "".join(f"%{ord(c):02X}" if c in unsafe else c for c in key)


@dataclass(slots=True)
class Items(Sequence[Item]):
    """The rows of a corpus by number, in the order of its manifests; in memory, 8 bytes a row.

    ``flip`` lets the two domains of an unpaired corpus change places.
    """

    root: Path
    splits: tuple[str, ...] = ()
    flip: bool = False
    starts: list[int] = field(default_factory=list)
    """The number of the first row of each split, and of them all."""
    places: array[int] = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        self.splits = tuple(manifests_of(self.root, read_info(self.root)))
        for split in self.splits:
            self.starts.append(len(self.places))
            with (self.root / split / METADATA_FILE).open("rb") as file:
                place = 0
                for line in file:
                    self.places.append(place)
                    place += len(line)
        self.starts.append(len(self.places))

    def __len__(self) -> int:
        return len(self.places)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each split."""
        return {s: self.starts[n + 1] - self.starts[n] for n, s in enumerate(self.splits)}

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Item]: ...
    def __getitem__(self, number: int | slice) -> Item | Sequence[Item]:
        """Read one row; ``CorpusError`` when it is damaged, or names what lies outside."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        split = self.splits[bisect_right(self.starts, number) - 1]
        manifest = self.root / split / METADATA_FILE
        with manifest.open("rb") as file:
            file.seek(self.places[number])
            row = row_of(file.readline())
        if row is None:
            raise CorpusError("manifest", manifest, "is damaged", "build the corpus again")
        first, second = (
            row.get(c, row.get("file_name")) for c in ("input_file_name", "target_file_name")
        )
        key = str(row.get("key", ""))
        inside(manifest.parent, key)
        side = (row.get("domain") == "B") != self.flip
        files = inside(manifest.parent, first), inside(manifest.parent, second)
        return Item(number, split, key, *files, int(side), row)


@dataclass(slots=True)
class Finished(Sequence[Done]):
    """What was written for each item of a split, in their order; in memory, 8 bytes an item."""

    items: Items
    spool: Path
    places: array[int]
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @overload
    def __getitem__(self, number: int) -> Done: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Done]: ...
    def __getitem__(self, number: int | slice) -> Done | Sequence[Done]:
        """Read one back."""
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        with self.spool.open("rb") as file:
            file.seek(self.places[self.start + number])
            names, size = json.loads(file.readline())
        return Done(self.items[self.start + number], tuple(names), (size[0], size[1]))


EXPORTS: Final[dict[str, Export]] = {
    "pix2pix": Pix2Pix(),
    "cyclegan": CycleGAN(),
    "basicsr": BasicSR(),
    "hf": HuggingFace(),
    "lmdb": LMDB(),
}
"""Every format by its name."""
