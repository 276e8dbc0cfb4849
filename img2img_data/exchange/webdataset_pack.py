"""A corpus as WebDataset shards: equal corpora give equal bytes, and ``unpacking`` gives the corpus back.

::

    SHARDS/index.json                what was packed: counts and SHA-256 of every file; written last
    SHARDS/corpus.json  rejected.jsonl
    SHARDS/train-000000.tar          KEY.input.png  KEY.target.png  KEY.json ...
                                     KEY.image.png  KEY.json        (one A|B image a pair)
                                     A/KEY.image.png  A/KEY.json    (unpaired: the domain comes first)

KEY.json is the row of the manifest, byte for byte. The format is that of
https://github.com/webdataset/webdataset: a sample ends where the part of the name before its first "."
changes, so a "." of a key is written %2E, and a leading "__", which would be skipped, %5F_.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

from pydantic import BaseModel, ConfigDict, Field

from img2img_data.core import tar
from img2img_data.core.errors import CorpusError, Rejected, printable
from img2img_data.core.files import locked, write_atomically, writing_to
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import CORPUS_FILE, REJECTED_FILE, digest, inside, to_json_page
from img2img_data.corpus.reader import manifests_of, read_info
from img2img_data.images import io
from img2img_data.runner.build_folder import BuildFolder
from img2img_data.runner.outcome import Report
from img2img_data.runner.run import write_file

INDEX_FILE: Final = "index.json"
SHARDS_FORMAT: Final = 1
PAGES: Final = (CORPUS_FILE, REJECTED_FILE)
Say = Callable[[str], None]


class PackSettings(BaseModel):
    """How a corpus is cut into shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_shard: int = Field(10_000, ge=1, description="pairs in a shard, at most")
    shard_bytes: int = Field(
        1_000_000_000, ge=1, description="bytes of a shard, at most, but for one pair"
    )


class ShardEntry(BaseModel):
    """One shard, as the index lists it."""

    model_config = ConfigDict(frozen=True)

    url: str = Field(pattern=r"^[A-Za-z0-9_-]+-[0-9]{6,}\.tar$")
    split: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    nsamples: int = Field(ge=0)
    filesize: int = Field(ge=0)
    sha256: str


class Index(BaseModel):
    """What a folder of shards holds."""

    model_config = ConfigDict(frozen=True)

    format: int
    recipe: dict[str, Any]
    splits: dict[str, int]
    files: dict[str, str] = Field(description="SHA-256 of corpus.json and rejected.jsonl")
    shards: tuple[ShardEntry, ...]


# ------------------------------------------------------------------------------------------ pack
@dataclass(frozen=True, slots=True)
class Sample:
    """One row on its way: the part of the names before the dot, the row's bytes, its files by member name."""

    prefix: str
    line: bytes
    files: Mapping[str, tuple[Path, str | None]]
    """Member's extension > (file, its SHA-256 if the row has it)."""


def pack_corpus(
    root: Path, out: Path, settings: PackSettings, dry_run: bool, progress: Progress, say: Say
) -> Report:
    """Pack the corpus ``root`` into shards at ``out``; an interrupted run is done again by the same call.

    Equal corpora give equal shards, byte for byte. Memory: one image, the rows of one shard, and some 60
    bytes a row. Raises ``CorpusError`` when the corpus is none, or a file is not what its row says;
    ``UsageError`` when ``out`` is taken.
    """
    manifests = manifests_of(root, read_info(root))
    counts = {split: _count_lines(path) for split, path in manifests.items()}
    known = {*PAGES, *manifests}
    left_out = sorted(p.name for p in root.iterdir() if p.name not in known)
    if left_out:
        say(f"not packed, as no manifest names it: {printable(', '.join(left_out))}")
    if dry_run:
        shards = sum(len(list(_cut(_samples_of(p), settings))) for p in manifests.values())
        say(
            f"would pack {sum(counts.values()):,} rows into {shards:,} shards in '{out}'; nothing was written"
        )
        return Report()
    recipe = {"command": "pack", **settings.model_dump(), "corpus": _digest_of(root, manifests)}
    folder = BuildFolder(out, INDEX_FILE)
    with locked(out):
        complete = not folder.begin(recipe, [os.fsencode(root)])
        if not complete:
            with folder.dropped_unused(), writing_to(out):
                _write_shards(root, folder, manifests, counts, settings, recipe, progress)
            folder.end()
    return Report(kept=Counter(counts), complete=complete)


def _write_shards(
    root: Path,
    folder: BuildFolder,
    manifests: Mapping[str, Path],
    counts: Mapping[str, int],
    settings: PackSettings,
    recipe: Mapping[str, Any],
    progress: Progress,
) -> None:
    made = folder.building / "shards"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    entries, done, total = [], 0, sum(counts.values())
    for split, manifest in manifests.items():
        for number, samples in enumerate(_cut(_samples_of(manifest), settings)):
            shard = Shard(made / f"{split}-{number:06d}.tar")
            with shard.path.open("wb") as file:
                for sample in samples:
                    shard.add(file, sample)
                    done += 1
                    progress(done, total)
                shard.write(file, tar.END)
            entries.append(shard.entry(split, len(samples)))
    files = {}
    for name in PAGES:
        if (root / name).is_file():
            data = read_file(root / name)
            files[name] = sha256(data).hexdigest()
            write_file(os.fspath(folder.root), name, data)
    for entry in entries:
        (made / entry["url"]).replace(folder.root / entry["url"])
    page = {
        "format": SHARDS_FORMAT,
        "recipe": recipe,
        "splits": counts,
        "files": files,
        "shards": entries,
    }
    write_atomically(
        folder.root / INDEX_FILE, to_json_page(page), folder.building / "page", sync=True
    )


@dataclass(slots=True)
class Shard:
    """A shard while it is written."""

    path: Path
    size: int = 0
    hash: Any = field(default_factory=sha256)

    def add(self, file: BinaryIO, sample: Sample) -> None:
        """Append the files of one row, then the row."""
        for extension, (path, wanted) in sample.files.items():
            data = read_file(path)
            if wanted is not None and sha256(data).hexdigest() != wanted:
                raise CorpusError(
                    "image", path, "is not what its row says", "see 'img2img-data verify'"
                )
            self.member(file, f"{sample.prefix}.{extension}", data)
        self.member(file, f"{sample.prefix}.json", sample.line)

    def member(self, file: BinaryIO, name: str, data: bytes) -> None:
        """Append one file."""
        self.write(file, tar.head(name, len(data)))
        self.write(file, data)
        self.write(file, tar.padding(len(data)))

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Append bytes."""
        file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def entry(self, split: str, count: int) -> dict[str, Any]:
        """Return what the index says about it."""
        return {
            "url": self.path.name,
            "split": split,
            "nsamples": count,
            "filesize": self.size,
            "sha256": self.hash.hexdigest(),
        }


def _cut(samples: Iterator[Sample], settings: PackSettings) -> Iterator[list[Sample]]:
    """Yield the samples of one shard after the other."""
    part: list[Sample] = []
    size = 0
    for sample in samples:
        sizes = [len(sample.line), *(_size_of(path) for path, _ in sample.files.values())]
        more = sum(tar.BLOCK + s + len(tar.padding(s)) for s in sizes)
        if part and (len(part) >= settings.per_shard or size + more > settings.shard_bytes):
            yield part
            part, size = [], 0
        part.append(sample)
        size += more
    if part:
        yield part


def _samples_of(manifest: Path) -> Iterator[Sample]:
    seen: set[bytes] = set()
    for number, line in enumerate(_lines(manifest), 1):
        row = row_of(line)
        if row is None:
            raise CorpusError(
                "manifest", manifest, f"line {number} is damaged", "build the corpus again"
            )
        prefix = member_prefix(str(row.get("key", "")), row.get("domain"))
        check_new(seen, prefix, CorpusError("manifest", manifest, f"line {number} repeats a key"))
        files = {}
        for column in columns_of(row):
            name = row[column]
            files[f"{stem_of(column)}{PurePosixPath(name).suffix.lower()}"] = (
                inside(manifest.parent, name),
                row.get(column.replace("file_name", "sha256")),
            )
        yield Sample(prefix, line, files)


def member_prefix(key: str, domain: object = None) -> str:
    """Return what the members of a row are called before the first dot."""
    name = key.replace(".", "%2E")
    name = f"{domain}/{name}" if domain in ("A", "B") else name
    return "%5F" + name[1:] if name.startswith("__") else name


def columns_of(row: Mapping[str, Any]) -> list[str]:
    """Return the columns of a row that name files."""
    return [c for c in row if c.endswith("file_name") and isinstance(row[c], str)]


def stem_of(column: str) -> str:
    """Return what a file's member is called between the row's name and the extension."""
    return column.removesuffix("file_name").rstrip("_") or "image"


def check_new(seen: set[bytes], name: str, error: Exception) -> None:
    """Remember a name by 8 bytes; raise ``error`` when it was there."""
    mark = digest(name.encode("utf-8", "surrogatepass"))
    if mark in seen:
        raise error
    seen.add(mark)


def row_of(line: bytes) -> dict[str, Any] | None:
    """Return the row in a line of a manifest, None if there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise CorpusError(
            "manifest", path, error.strerror or "cannot be read", "check the path"
        ) from None


def _count_lines(path: Path) -> int:
    return sum(1 for _ in _lines(path))


def _digest_of(root: Path, manifests: Mapping[str, Path]) -> str:
    whole = sha256()
    for path in (root / CORPUS_FILE, *manifests.values()):
        for line in _lines(path):
            whole.update(line)
    return whole.hexdigest()


def read_file(path: Path) -> bytes:
    """Return the bytes of a file of the corpus, or of the shards' folder; ``CorpusError`` names it."""
    try:
        return io.read_bytes(path)
    except Rejected as rejected:
        if rejected.reason == "empty":
            return b""
        why = f"{rejected.reason} {rejected.detail}".strip()
        raise CorpusError(
            "file", path, why, "check the corpus with 'img2img-data verify'"
        ) from None


def _size_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError as error:
        why = error.strerror or "cannot be read"
        raise CorpusError(
            "file", path, why, "check the corpus with 'img2img-data verify'"
        ) from None
