"""Write a corpus in another tool's layout: one engine for every format of ``exports``.

Files are copied byte for byte wherever the layout allows, else re-encoded without loss. OUT/export.json says
what was written; it comes last, so it exists or the export is unfinished.
"""

from __future__ import annotations

import functools
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from img2img_data.core.errors import CorpusError, Img2ImgError, UsageError, printable
from img2img_data.core.files import locked, write_atomically, writing_to
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import CORPUS_FILE, EXTENSIONS, to_json_page
from img2img_data.corpus.reader import Corpus, Pair, read_info
from img2img_data.exchange.formats import EXPORTS, Done, Finished, Item, Items, Part
from img2img_data.exchange.webdataset_pack import read_file
from img2img_data.images import io
from img2img_data.runner.build_folder import BuildFolder
from img2img_data.runner.outcome import Report
from img2img_data.runner.run import write_file
from img2img_data.runner.settings import RunSettings
from img2img_data.runner.workers import Pool, default_jobs

EXPORT_FILE: Final = "export.json"


class ExportSettings(BaseModel):
    """Which format, and which half is the input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["pix2pix", "cyclegan", "basicsr", "hf", "lmdb"] = Field(
        "pix2pix", description="what is written; see above"
    )
    direction: Literal["AtoB", "BtoA"] = Field(
        "AtoB", description="BtoA: inputs and targets change places"
    )


@dataclass(frozen=True, slots=True)
class Work:
    """What every worker knows: the corpus without its rows, the format, and where to."""

    corpus: Corpus
    format: str
    swapped: bool
    out: str


def export_corpus(
    root: Path,
    out: Path,
    settings: ExportSettings,
    run: RunSettings,
    progress: Progress,
    say: Callable[[str], None],
) -> Report:
    """Write the corpus ``root`` at ``out`` in another tool's format, which must be new or empty.

    Raises ``CorpusError`` when the corpus is none or a image in it is not what its row says; ``UsageError``
    when the format cannot hold it, or ``out`` is taken.
    """
    if not (root / CORPUS_FILE).is_file():
        raise UsageError("folder", root, "is no corpus", "'img2img-data import' makes one of it")
    corpus, format = _without_rows(root), EXPORTS[settings.format]
    if corpus.kind not in format.kinds:
        raise UsageError(
            "corpus", root, f"is {corpus.kind}, which {settings.format} cannot hold", format.hint
        )
    swapped = settings.direction == "BtoA"
    items = Items(root, flip=swapped and corpus.kind == "unpaired")
    format.check(corpus, items)
    counts = {split: count for split, count in items.counts().items() if count}
    if run.dry_run:
        parts = ", ".join(f"{split} {n:,}" for split, n in counts.items())
        say(
            f"would write {len(items):,} ({parts}) as {settings.format} to '{out}'; nothing was written"
        )
        return Report()
    folder = BuildFolder(out, EXPORT_FILE)
    digest = sha256(read_file(root / CORPUS_FILE)).hexdigest()
    recipe = {"command": "export", **settings.model_dump(), "corpus": digest}
    work = Work(corpus, settings.format, swapped, os.fspath(out))
    with locked(out):
        complete = not folder.begin(recipe, [os.fsencode(root)])
        if not complete:
            with folder.dropped_unused(), writing_to(out):
                _write(work, folder, items, run, progress)
                page = {"format": 1, "recipe": recipe, "color": corpus.color, "counts": counts}
                write_atomically(
                    out / EXPORT_FILE, to_json_page(page), folder.building / "page", sync=True
                )
            folder.end()
    return Report(kept=Counter(counts), complete=complete)


def _without_rows(root: Path) -> Corpus:
    info = read_info(root)
    kind, layout, color = (
        info.get("kind", "paired"),
        info.get("layout", "folders"),
        info.get("color", "rgb"),
    )
    return Corpus(root, kind, layout, color, info, {})


def _write(
    work: Work, folder: BuildFolder, items: Items, run: RunSettings, progress: Progress
) -> None:
    places = array("q", bytes(8 * len(items)))
    todo = array("q", range(len(items)))
    one = functools.partial(write_item, work)
    pool = Pool(one, items.__getitem__, _lost, run.jobs or default_jobs(), run.timeout)
    with (folder.building / "done").open("wb") as spool:
        for count, done in enumerate(pool.run(todo), 1):
            places[done.item.number] = spool.tell()
            spool.write(json.dumps([done.names, done.size]).encode() + b"\n")
            progress(count, len(items))
    for number, split in enumerate(items.splits):
        start, end = items.starts[number : number + 2]
        if end > start:
            done_there = Finished(items, folder.building / "done", places, start, end)
            EXPORTS[work.format].finish(work.corpus, folder, split, done_there)


def _lost(item: Item, reason: str) -> Done:
    raise Img2ImgError("image", item.first, f"{reason}: its worker was lost twice", "look at it")


def write_item(work: Work, item: Item) -> Done:
    """Write the files of one item."""
    format, names, size = EXPORTS[work.format], [], (0, 0)
    shots = format.files(item)
    ends = {item.first.suffix.lower(), item.second.suffix.lower()}
    as_png = format.one_extension and (len(ends) > 1 or work.corpus.layout == "combined")
    for shot in shots:
        data, extension, size = _content(work, item, shot.part, as_png)
        name = f"{shot.name}{extension}"
        write_file(work.out, name, data)
        names.append(name)
    return Done(item, tuple(names), size)


def _content(
    work: Work, item: Item, part: Part, as_png: bool
) -> tuple[bytes, str, tuple[int, int]]:
    """Return the bytes of a file, its extension, and height and width of the image it holds."""
    if part == "both":
        if work.corpus.layout == "combined" and not work.swapped:
            return _as_it_is(work, item, item.first, "file_name", 2)
        first, second = _halves(work, item)
        return (
            io.encode(np.ascontiguousarray(np.hstack((first, second))), "png"),
            ".png",
            first.shape[:2],
        )
    if work.corpus.layout == "combined":
        half = _halves(work, item)[part == "target"]
        return io.encode(np.ascontiguousarray(half), "png"), ".png", half.shape[:2]
    other = part != "own" and (part == "target") != work.swapped
    path, column = (item.second, "target_file_name") if other else (item.first, "input_file_name")
    data, extension, size = _as_it_is(work, item, path, column, 1)
    if as_png and extension != ".png":
        return io.encode(work.corpus.read_image(path), "png"), ".png", size
    return data, extension, size


def _halves(work: Work, item: Item) -> tuple[io.Pixels, io.Pixels]:
    first, second = work.corpus.read(Pair(item.key, item.split, item.first, item.second))
    return (second, first) if work.swapped else (first, second)


def _as_it_is(
    work: Work, item: Item, path: Path, column: str, across: int
) -> tuple[bytes, str, tuple[int, int]]:
    """Return a file's own bytes once they are known to be what the row says, and a whole image."""
    data = read_file(path)
    wanted = item.row.get(column.replace("file_name", "sha256"))
    if isinstance(wanted, str) and sha256(data).hexdigest() != wanted:
        raise CorpusError("image", path, "is not what its row says", "see 'img2img-data verify'")
    try:
        width, height = io.decode(data).size
    except io.Rejected as rejected:
        why = f"{rejected.reason} {rejected.detail}".strip()
        raise CorpusError("image", path, why, "see 'img2img-data verify'") from None
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise CorpusError(
            "image", path, f"ends in '{printable(extension)}'", "see 'img2img-data verify'"
        )
    return data, extension, (height, width // across)
