"""Writing a corpus in the layout of another tool: the formats, and one engine for all of them.

A format names the files of a pair and their contents, and writes its lists at the end; to add one,
write a class, and add a row to ``EXPORTS`` and its name to ``ExportSettings.format``. The layouts
of the same name in ``corpus`` read an export back with equal pixels, keys and splits.

Files are copied byte for byte if the layout allows, else re-encoded without loss. OUT/export.json
describes the export; it is written last, so an export without it is unfinished.
"""

from __future__ import annotations

import os
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np

from img2img_data.core import errors
from img2img_data.core.command_line import Echo, Progress, counter_of
from img2img_data.core.errors import CorpusError, Img2ImgError, Rejected, UsageError, printable
from img2img_data.core.files import write_atomically
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.jsonl import RowFile, count_rows, open_rows
from img2img_data.corpus.card import README, to_card
from img2img_data.corpus.format import EXTENSIONS, METADATA_FILE, to_json_line
from img2img_data.corpus.layouts import SPLITS
from img2img_data.corpus.reader import Corpus, Pair, manifests_of, open_corpus, pair_of, read_info
from img2img_data.exchange.webdataset import VERIFY, digest_of, read_listed
from img2img_data.images import io
from img2img_data.runner.build_folder import BUILDING, BuildFolder, Report, write_file
from img2img_data.runner.run import RunSettings
from img2img_data.runner.workers import LocalPool

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
        write_atomically(folder.root / split / "meta_info.txt", (f"{x}\n".encode() for x in lines))


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
        write_atomically(folder.root / place / METADATA_FILE, rows)
        manifests = {p: folder.root / p / METADATA_FILE for p in self.splits.values()}
        sizes = {p: count_rows(path) for p, path in manifests.items() if path.is_file()}
        about = {**corpus.info, "channels": corpus.channels, "layout": "folders"}
        write_atomically(folder.root / README, to_card(folder.root, sizes, about, METADATA_FILE))

    @staticmethod
    def _row(exported: ExportedPair, place: str) -> dict[str, Any]:
        first, second = (n.removeprefix(f"{place}/") for n in exported.names)
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
        errors.load_extra("lmdb", "lmdb", "format", "lmdb")
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
            raise Img2ImgError("cannot write", final, why, "free space and run it again") from None


def _meta_line(exported: ExportedPair, half: int, channels: int) -> str:
    """Return "KEY.png (h,w,c)" of one half."""
    height, width = exported.size
    return f"{exported.names[half].rpartition('/')[2]} ({height},{width},{channels})"


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


# ------------------------------------------------------------------------------------------- engine
EXPORT_FILE: Final = "export.json"


class ExportSettings(FrozenModel):
    """Format, and which half is the input."""

    format: Literal["pix2pix", "cyclegan", "basicsr", "hf", "lmdb"] = "pix2pix"
    """layout to write (see above)"""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """direction to write; BtoA: swap inputs and targets"""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Settings that all workers share: the corpus without its rows, the format, and the output.

    The channels of the corpus are those of its halves as they are written.
    """

    corpus: Corpus
    format: str
    swapped: bool
    out: str


NumberedPair = tuple[int, Pair]
WrittenFiles = tuple[int, list[str], tuple[int, int]]
"""Number of a pair, its files' names, height and width of its images."""
EncodedImage = tuple[bytes, str, tuple[int, int]]
"""Bytes of a file, its extension, height and width of a half."""


def export_corpus(
    root: Path,
    out: Path,
    settings: ExportSettings,
    run: RunSettings,
    progress: Progress,
    echo: Echo,
) -> Report:
    """Write the corpus ``root`` at ``out``, a new or empty folder, in another tool's format.

    Raises ``CorpusError`` if ``root`` is damaged or an image does not match its row,
    ``UsageError`` if it is not a corpus, the format cannot hold it, or ``out`` is taken.
    """
    read_info(root)  # raises for a folder of another tool
    corpus, format = open_corpus(root, rows=False), EXPORTS[settings.format]
    if corpus.kind == "unpaired" and not format.holds_domains:
        why = f"is unpaired, which {settings.format} cannot hold"
        raise UsageError("corpus", root, why, "--format cyclegan can hold it")
    swapped = settings.direction == "BtoA"
    if swapped:
        channels = {"input": corpus.channels["target"], "target": corpus.channels["input"]}
        corpus = replace(corpus, info={**corpus.info, "channels": channels})
    # Opening reads every row once: a damaged one is found before anything is written.
    manifests = manifests_of(corpus)
    pairs = {
        split: open_rows(path, partial(_pair_of, swapped, path.parent))[""]
        for split, path in manifests.items()
    }
    format.check(corpus, pairs)
    counts = {split: len(rows) for split, rows in pairs.items() if rows}
    if run.dry_run:
        parts = ", ".join(f"{split} {n:,}" for split, n in counts.items())
        total = f"{sum(counts.values()):,} ({parts})"
        echo(f"would write {total} as {settings.format} to '{out}'; nothing was written")
        return Report()
    recipe = {"command": "export", **settings.model_dump(), "corpus": digest_of(root, manifests)}
    job = ExportJob(corpus, settings.format, swapped, os.fspath(out))

    folder = BuildFolder(out, EXPORT_FILE)

    def write() -> None:
        _write_splits(job, folder, pairs, run, progress)
        folder.write_page({"format": 1, "recipe": recipe, "color": corpus.color, "counts": counts})

    is_new = folder.fill(recipe, [os.fsencode(root)], write)
    return Report(kept=Counter(counts), complete=not is_new)


def _pair_of(swapped: bool, folder: Path, row: Mapping[str, Any]) -> Pair:
    """Return the pair of a row; the domains of an unpaired corpus are swapped here."""
    if "domain" in row:
        row = {**row, "domain": "AB"[(row["domain"] == "B") != swapped]}
    return pair_of(folder, row)


def _write_splits(
    job: ExportJob, folder: BuildFolder, pairs: PairsBySplit, run: RunSettings, progress: Progress
) -> None:
    """Write the files of every split in worker processes, then its lists in row order."""
    count = counter_of(progress, sum(map(len, pairs.values())))
    for split, rows in pairs.items():
        # Results come in any order: they go to a file, and only their positions stay in memory.
        results, starts = folder.building / "written.jsonl", array("q", bytes(8 * len(rows)))
        work, pair_at = partial(write_pair, job), partial(_numbered, rows)
        pool = LocalPool(work, pair_at, _lost, run.jobs, run.timeout)
        with results.open("wb") as file:
            for number, names, size in pool.run(range(len(rows))):
                starts[number] = file.tell()
                file.write(to_json_line({"number": number, "names": names, "size": size}))
                count()
        if rows:
            exported = RowFile(results, partial(_exported, rows), starts)
            EXPORTS[job.format].finish(job.corpus, folder, split, exported)


def _numbered(rows: Sequence[Pair], number: int) -> NumberedPair:
    return number, rows[number]


def _exported(rows: Sequence[Pair], result: Mapping[str, Any]) -> ExportedPair:
    height, width = result["size"]
    return ExportedPair(rows[result["number"]], tuple(result["names"]), (height, width))


def _lost(task: NumberedPair, reason: str) -> WrittenFiles:
    why = f"{reason}: its worker process died twice"
    raise Img2ImgError("image", task[1].input, why, "check the file")


def write_pair(job: ExportJob, task: NumberedPair) -> WrittenFiles:
    """Write the files of one pair."""
    number, pair = task
    names, size = [], (0, 0)
    for content, name in EXPORTS[job.format].files(pair).items():
        data, extension, size = _content(job, pair, content)
        names.append(f"{name}{extension}")
        write_file(job.out, names[-1], data)
    return number, names, size


def _content(job: ExportJob, pair: Pair, content: Content) -> EncodedImage:
    combined = job.corpus.layout == "combined" and content != "image"
    if combined and content == "both" and not job.swapped:
        return _copied(pair, pair.input, "file_name", 2)
    if combined or content == "both":
        # ``read`` repeats a single channel, which A|B needs where only one half has more.
        channels = max(job.corpus.channels.values())
        halves = [half[..., :channels] for half in job.corpus.read(pair)]
        # The digests are checked as of copied files; rows without any leave only the sizes.
        columns = {pair.input: "input_file_name", pair.target: "target_file_name"}
        for path, column in columns.items():
            read_listed(path, pair.row, "file_name" if combined else column)
        if halves[0].shape[:2] != halves[1].shape[:2]:
            raise CorpusError("image", pair.input, "differs in size from its target", VERIFY)
        first, second = reversed(halves) if job.swapped else halves
        parts = {"input": (first,), "target": (second,), "both": (first, second)}[content]
        return io.encode(np.hstack(parts), "png"), ".png", first.shape[:2]
    path, column = pair.input, "file_name" if content == "image" else "input_file_name"
    if content != "image" and (content == "target") != job.swapped:
        path, column = pair.target, "target_file_name"
    data, extension, size = _copied(pair, path, column, 1)
    differ = pair.input.suffix.lower() != pair.target.suffix.lower()
    if EXPORTS[job.format].one_extension and differ and extension != ".png":
        channels = job.corpus.channels[content]
        return io.encode(job.corpus.read_image(path)[..., :channels], "png"), ".png", size
    return data, extension, size


def _copied(pair: Pair, path: Path, column: str, across: int) -> EncodedImage:
    """Return a file's own bytes, after checking that they match the row and are a complete image.

    ``across``: number of halves side by side in the image.
    """
    # The bytes are written, not hard-linked: a link would share every later change of the corpus.
    data = read_listed(path, pair.row, column)
    # Rows without a digest exist, so only decoding shows that the image is complete.
    try:
        width, height = io.decode(data).size
    except Rejected as rejected:
        raise CorpusError("image", path, str(rejected), VERIFY) from None
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise CorpusError("image", path, f"ends in '{printable(extension)}'", VERIFY)
    return data, extension, (height, width // across)
