"""Layouts in which a corpus can be written for other tools.

A format names the files of a pair and their contents, and writes its lists at the end; ``export``
does the rest. To add one, write a class and add a row to ``EXPORTS``. The layouts of the same name
in ``corpus`` read an export back with equal pixels, keys and splits.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

from img2img_data.core.errors import Img2ImgError, UsageError, load_extra
from img2img_data.corpus.format import METADATA_FILE, README, to_card, to_json_line
from img2img_data.corpus.layouts import SPLITS
from img2img_data.corpus.reader import Corpus, Pair
from img2img_data.runner.build_folder import BUILDING, BuildFolder

Content = Literal["input", "target", "both", "image"]
"""Content of a file: one half, both side by side, or the one image of an unpaired corpus."""
PairsBySplit = Mapping[str, Sequence[Pair]]
"""Rows of a corpus. A row of an unpaired corpus is a pair whose halves are the same file."""


class ExportedPair(NamedTuple):
    """One pair that was written: its files' names, and height and width of its images."""

    pair: Pair
    names: tuple[str, ...]
    size: tuple[int, int]


Exported = Sequence[ExportedPair]
"""The pairs of a split that were written, in the order of the corpus."""


class ExportFormat:
    """Base class of the formats."""

    names: ClassVar[Mapping[Content, str]]
    """The files of a pair: content > name without extension, of {split} and {key}."""
    splits: ClassVar[Mapping[str, str]] = {}
    """Splits that have another name in the format."""
    unsafe: ClassVar[str] = ""
    """Characters of a key that are percent-encoded."""
    holds_domains: ClassVar[bool] = False
    """True if the format can hold an unpaired corpus: A is named as the input, B as the target."""
    one_extension: ClassVar[bool] = False
    """True if both halves must have the same extension; if they differ, both become PNG."""

    def check(self, corpus: Corpus, pairs: PairsBySplit) -> None:
        """Raise ``UsageError`` if the format cannot hold the corpus, or a package is missing."""

    def files(self, pair: Pair) -> dict[Content, str]:
        """Return the names of the files of a pair, or of an image of a domain, by their content."""
        split, key = self.splits.get(pair.split, pair.split), flat_key(pair.key, self.unsafe)
        files = {half: name.format(split=split, key=key) for half, name in self.names.items()}
        domain = pair.row.get("domain")
        return {"image": files["target" if domain == "B" else "input"]} if domain else files

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, exported: Exported) -> None:
        """Write the lists of a split."""


class Pix2PixFormat(ExportFormat):
    """``train/KEY.png``: input left, target right.

    Source: https://github.com/phillipi/pix2pix, docs/datasets.
    """

    names: ClassVar = {"both": "{split}/{key}"}

    def check(self, corpus: Corpus, pairs: PairsBySplit) -> None:
        """Reject Lab: one image cannot hold an L plane and a Lab target."""
        if corpus.color == "lab":
            why = "is a Lab corpus, which an A|B image cannot hold"
            raise UsageError("corpus", corpus.root, why, "--format hf can hold it")


class CycleGANFormat(ExportFormat):
    """``trainA/KEY.png`` and ``trainB/KEY.png``; of pairs, A is the input and B the target."""

    names: ClassVar = {"input": "{split}A/{key}", "target": "{split}B/{key}"}
    holds_domains = True


class BasicSRFormat(ExportFormat):
    """``train/lq/KEY.png``, ``train/gt/KEY.png``, and ``train/meta_info.txt`` with their sizes.

    As in https://github.com/XPixelGroup/BasicSR, docs/DatasetPreparation. BasicSR expects both
    halves under one name, without folders, and reads a line up to its first space: so "/" and " "
    of a key are written %2F and %20.
    """

    names: ClassVar = {"input": "{split}/lq/{key}", "target": "{split}/gt/{key}"}
    unsafe = "/ "
    one_extension = True

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, exported: Exported) -> None:
        """Write meta_info.txt."""
        lines = (_meta_line(e, 1, corpus.channels["target"]) for e in exported)
        _write_list(folder, f"{split}/meta_info.txt", (f"{line}\n".encode() for line in lines))


class HuggingFaceFormat(ExportFormat):
    """The layout of ``datasets.load_dataset("imagefolder")``, with image columns input and target.

    Every split has the same columns of the same types, whatever was drawn for the corpus; the row
    of the corpus is there as JSON text. The split val is called validation, as in
    https://huggingface.co/docs/datasets, where a folder called train, test, dev... is a split at
    any depth: so the last letter of such a word in a key's folders is percent-encoded, trai%6E.
    """

    names: ClassVar = {"input": "{split}/input/{key}", "target": "{split}/target/{key}"}
    splits: ClassVar = {"train": "train", "val": "validation", "test": "test"}
    _split_word: Final = re.compile(rf"(?<![^-._ 0-9/])({'|'.join(SPLITS)})(?=/|[-._ 0-9][^/]*/)")

    def files(self, pair: Pair) -> dict[Content, str]:
        """Return the names of the files of a pair, none in a folder with the name of a split."""
        key = self._split_word.sub(lambda m: f"{m[0][:-1]}%{ord(m[0][-1]):02X}", pair.key)
        return super().files(replace(pair, key=key))

    def check(self, corpus: Corpus, pairs: PairsBySplit) -> None:
        """Reject splits whose names ``datasets`` would not recognize."""
        for split in pairs:
            if split not in self.splits:
                known = ", ".join(self.splits)
                raise UsageError("split", split, "has no name in this format", f"it knows {known}")

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, exported: Exported) -> None:
        """Write metadata.jsonl."""
        place = self.splits[split]
        rows = (to_json_line(self._row(e, place)) for e in exported)
        _write_list(folder, f"{place}/{METADATA_FILE}", rows)
        done = [p for p in self.splits.values() if (folder.root / p / METADATA_FILE).is_file()]
        _write_list(folder, README, [to_card(done)])

    @staticmethod
    def _row(exported: ExportedPair, place: str) -> dict[str, Any]:
        first, second = (n.removeprefix(f"{place}/") for n in exported.names)
        # ``datasets`` needs equal columns and types in all splits, but drawn values differ by row:
        # so the row is one text.
        row = exported.pair.row
        return {
            "key": exported.pair.key,
            "input_file_name": first,
            "target_file_name": second,
            "source": str(row.get("source", "")),
            "kind": str(row.get("kind", "")),
            "width": exported.size[1],
            "height": exported.size[0],
            "row": to_json_line(row).decode().strip(),
        }


class LMDBFormat(BasicSRFormat):
    """``train/lq.lmdb`` and ``train/gt.lmdb``: key > the image's file, as in BasicSR.

    Each contains a meta_info.txt with "KEY.png (h,w,c) 1". A "." of a key is written %2E, because
    BasicSR reads names up to the first dot.
    """

    # Staged: ``finish`` moves the files into the databases.
    names: ClassVar = {k: f"{BUILDING}/stage/{name}" for k, name in BasicSRFormat.names.items()}
    unsafe = "/ ."
    _longest_key: Final = 511
    """Bytes of a key; LMDB's limit as it is built."""

    def check(self, corpus: Corpus, pairs: PairsBySplit) -> None:
        """Reject if the package is missing, or a key is too long."""
        load_extra("lmdb", "lmdb", "format", "lmdb")
        for pair in (pair for rows in pairs.values() for pair in rows):
            if len(flat_key(pair.key, self.unsafe).encode()) > self._longest_key:
                raise UsageError("key", pair.key, "is too long for LMDB", "choose another format")

    def finish(self, corpus: Corpus, folder: BuildFolder, split: str, exported: Exported) -> None:
        """Fill both databases, then rename them into place."""
        for number, (side, half) in enumerate((("lq", "input"), ("gt", "target"))):
            database, final = folder.building / f"{side}.lmdb", folder.root / split / f"{side}.lmdb"
            shutil.rmtree(database, ignore_errors=True)
            database.mkdir()
            self._fill(database, final, [folder.root / e.names[number] for e in exported])
            lines = (_meta_line(e, number, corpus.channels[half]) for e in exported)
            (database / "meta_info.txt").write_text("".join(f"{x} 1\n" for x in lines), "utf-8")
            final.parent.mkdir(exist_ok=True)
            shutil.rmtree(final, ignore_errors=True)
            database.replace(final)
        shutil.rmtree(folder.building / "stage" / split)

    @staticmethod
    def _fill(database: Path, final: Path, files: Sequence[Path]) -> None:
        """Put the files into ``database``; errors name ``final``, the name that it will get."""
        import lmdb

        # Values fill whole pages, and the tree of the keys comes on top: twice the size is enough.
        # The map is virtual memory, so a generous one costs nothing.
        room = sum(f.stat().st_size + 8192 for f in files) * 2 + (1 << 20)
        try:
            with lmdb.open(os.fspath(database), map_size=room, lock=False) as environment:
                # One transaction for all files would need much memory, one per file would be slow.
                for start in range(0, len(files), 1000):
                    with environment.begin(write=True) as transaction:
                        for path in files[start : start + 1000]:
                            transaction.put(path.stem.encode(), path.read_bytes())
        except lmdb.Error as error:
            # LMDB reports a write that a full disk or a limit cut short as an input/output error.
            why = f"{error}: no space left, or a file size limit"
            raise Img2ImgError("cannot write", final, why, "make room and run it again") from None


def _meta_line(exported: ExportedPair, half: int, channels: int) -> str:
    """Return "KEY.png (h,w,c)" of one half."""
    height, width = exported.size
    return f"{exported.names[half].rpartition('/')[2]} ({height},{width},{channels})"


def _write_list(folder: BuildFolder, name: str, lines: Iterable[bytes]) -> None:
    """Write a list line by line, then rename it into place."""
    with (folder.building / "list").open("wb") as file:
        file.writelines(lines)
    (folder.root / name).parent.mkdir(exist_ok=True)
    (folder.building / "list").replace(folder.root / name)


def flat_key(key: str, unsafe: str) -> str:
    """Return a key with the characters that a list or database cannot hold percent-encoded."""
    return "".join(f"%{ord(c):02X}" if c in unsafe else c for c in key)


EXPORTS: Final[dict[str, ExportFormat]] = {
    "pix2pix": Pix2PixFormat(),
    "cyclegan": CycleGANFormat(),
    "basicsr": BasicSRFormat(),
    "hf": HuggingFaceFormat(),
    "lmdb": LMDBFormat(),
}
"""Every format by its name."""
