"""Writing a corpus in the layout of another tool: one engine for every format of ``formats``.

Files are copied byte for byte if the layout allows, else re-encoded without loss. OUT/export.json
describes the export; it is written last, so an export without it is unfinished.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from img2img_data.core.command_line import Echo, Progress
from img2img_data.core.errors import CorpusError, Img2ImgError, Rejected, UsageError, printable
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.jsonl import RowFile, open_rows
from img2img_data.corpus.format import CORPUS_FILE, EXTENSIONS, to_json_line
from img2img_data.corpus.reader import Corpus, Pair, manifests_of, open_corpus, pair_of, reason_of
from img2img_data.exchange.formats import EXPORTS, Content, ExportedPair, PairsBySplit
from img2img_data.exchange.webdataset import VERIFY, read_file, read_listed, write_folder
from img2img_data.images import io
from img2img_data.runner.build_folder import BuildFolder, Report, write_file
from img2img_data.runner.run import RunSettings
from img2img_data.runner.workers import LocalPool

EXPORT_FILE: Final = "export.json"


class ExportSettings(FrozenModel):
    """Format, and which half is the input."""

    format: Literal["pix2pix", "cyclegan", "basicsr", "hf", "lmdb"] = "pix2pix"
    """layout to write; see above"""
    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """BtoA swaps inputs and targets"""


@dataclass(frozen=True, slots=True)
class ExportJob:
    """Settings that all workers share: the corpus without its rows, the format, and the output."""

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
    if not (root / CORPUS_FILE).is_file():
        raise UsageError("folder", root, "is not a corpus", "'img2img-data import' makes one of it")
    corpus, format = open_corpus(root, rows=False), EXPORTS[settings.format]
    if corpus.kind == "unpaired" and not format.holds_domains:
        why = f"is unpaired, which {settings.format} cannot hold"
        raise UsageError("corpus", root, why, "--format cyclegan can hold it")
    swapped = settings.direction == "BtoA"
    # Opening reads every row once: a damaged one is found before anything is written.
    pairs = {
        split: open_rows(path, partial(_pair_of, swapped, path.parent))[""]
        for split, path in manifests_of(corpus).items()
    }
    format.check(corpus, pairs)
    counts = {split: len(rows) for split, rows in pairs.items() if rows}
    if run.dry_run:
        parts = ", ".join(f"{split} {n:,}" for split, n in counts.items())
        total = f"{sum(counts.values()):,} ({parts})"
        echo(f"would write {total} as {settings.format} to '{out}'; nothing was written")
        return Report()
    digest = sha256(read_file(root / CORPUS_FILE)).hexdigest()
    recipe = {"command": "export", **settings.model_dump(), "corpus": digest}
    job = ExportJob(corpus, settings.format, swapped, os.fspath(out))

    folder = BuildFolder(out, EXPORT_FILE)

    def write() -> dict[str, Any]:
        _write_splits(job, folder, pairs, run, progress)
        return {"format": 1, "recipe": recipe, "color": corpus.color, "counts": counts}

    complete = not write_folder(folder, recipe, root, write)
    return Report(kept=Counter(counts), complete=complete)


def _pair_of(swapped: bool, folder: Path, row: Mapping[str, Any]) -> Pair:
    """Return the pair of a row; the domains of an unpaired corpus are swapped here."""
    if "domain" in row:
        row = {**row, "domain": "AB"[(row["domain"] == "B") != swapped]}
    return pair_of(folder, row)


def _write_splits(
    job: ExportJob, folder: BuildFolder, pairs: PairsBySplit, run: RunSettings, progress: Progress
) -> None:
    """Write the files of every split in worker processes, then its lists in row order."""
    done, total = 0, sum(map(len, pairs.values()))
    for split, rows in pairs.items():
        # Results come in any order: they go to a file, and only their positions stay in memory.
        results, starts = folder.building / "written.jsonl", array("q", bytes(8 * len(rows)))
        work, pair_at = partial(write_pair, job), partial(_numbered, rows)
        pool = LocalPool(work, pair_at, _lost, run.jobs, run.timeout)
        with results.open("wb") as file:
            for number, names, size in pool.run(range(len(rows))):
                starts[number] = file.tell()
                file.write(to_json_line({"number": number, "names": names, "size": size}))
                done += 1
                progress(done, total)
        if rows:
            exported = RowFile(results, partial(_exported, rows), starts)
            EXPORTS[job.format].finish(job.corpus, folder, split, exported)


def _numbered(rows: Sequence[Pair], number: int) -> NumberedPair:
    return number, rows[number]


def _exported(rows: Sequence[Pair], result: Mapping[str, Any]) -> ExportedPair:
    height, width = result["size"]
    return ExportedPair(rows[result["number"]], tuple(result["names"]), (height, width))


def _lost(task: NumberedPair, reason: str) -> WrittenFiles:
    why = f"{reason}: its worker process ended twice"
    raise Img2ImgError("image", task[1].input, why, "check the file")


def write_pair(job: ExportJob, task: NumberedPair) -> WrittenFiles:
    """Write the files of one pair."""
    (number, pair), format = task, EXPORTS[job.format]
    extensions = {pair.input.suffix.lower(), pair.target.suffix.lower()}
    as_png = format.one_extension and len(extensions) > 1
    names, size = [], (0, 0)
    for content, name in format.files(pair).items():
        data, extension, size = _content(job, pair, content, as_png)
        names.append(f"{name}{extension}")
        write_file(job.out, names[-1], data)
    return number, names, size


def _content(job: ExportJob, pair: Pair, content: Content, as_png: bool) -> EncodedImage:
    combined = job.corpus.layout == "combined" and content != "image"
    if combined and content == "both" and not job.swapped:
        return _copied(pair, pair.input, "file_name", 2)
    if combined or content == "both":
        halves = job.corpus.read(pair)
        first, second = reversed(halves) if job.swapped else halves
        parts = {"input": (first,), "target": (second,), "both": (first, second)}[content]
        return io.encode(np.hstack(parts), "png"), ".png", first.shape[:2]
    path, column = pair.input, "file_name" if content == "image" else "input_file_name"
    if content != "image" and (content == "target") != job.swapped:
        path, column = pair.target, "target_file_name"
    data, extension, size = _copied(pair, path, column, 1)
    if as_png and extension != ".png":
        return io.encode(job.corpus.read_image(path), "png"), ".png", size
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
        raise CorpusError("image", path, reason_of(rejected), VERIFY) from None
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise CorpusError("image", path, f"ends in '{printable(extension)}'", VERIFY)
    return data, extension, (height, width // across)
