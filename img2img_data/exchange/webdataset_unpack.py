"""From shards that ``packing`` wrote back to the corpus, byte for byte; or one line that says what is wrong.

Everything is checked before the first file is written: digests, counts, the kinds and names of members,
what the rows name. What an archive says of itself is not trusted, so a shard made to do harm does none.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

from pydantic import ValidationError

from img2img_data.core import tar
from img2img_data.core.errors import ArchiveError, CorpusError, Rejected, printable
from img2img_data.core.files import locked, write_atomically, writing_to
from img2img_data.core.progress import Progress
from img2img_data.corpus.format import CORPUS_FILE, EXTENSIONS, METADATA_FILE, inside
from img2img_data.exchange.webdataset_pack import (
    INDEX_FILE,
    PAGES,
    SHARDS_FORMAT,
    Index,
    Say,
    ShardEntry,
    check_new,
    columns_of,
    read_file,
    row_of,
    stem_of,
)
from img2img_data.images import io
from img2img_data.runner.build_folder import BUILDING, BuildFolder
from img2img_data.runner.outcome import Report
from img2img_data.runner.run import write_file

LONGEST_ROW: Final = 1 << 24
_SPLIT: Final = re.compile(r"[A-Za-z0-9_-]+")
Files = list[tuple[str, Callable[[], bytes]]]
"""(name in the split's folder, function that reads its bytes)"""


def unpack_corpus(root: Path, out: Path, dry_run: bool, progress: Progress, say: Say) -> Report:
    """Write the corpus that was packed at ``root`` to ``out``, file for file and byte for byte.

    Raises ``ArchiveError`` for what is damaged or means harm, ``UsageError`` when ``out`` is taken.
    """
    index = _read_index(root)
    rows = sum(index.splits.values())
    for done, _ in enumerate(_checked_samples(root, index), 1):
        progress(done, 2 * rows)
    if dry_run:
        say(
            f"would write {rows:,} rows of {', '.join(index.splits)} to '{out}'; nothing was written"
        )
        return Report()
    if _is_there(out, index):
        return Report(kept=Counter(index.splits), complete=True)
    folder = BuildFolder(out, f"{BUILDING}/none")
    recipe = {"command": "unpack", "index": sha256(read_file(root / INDEX_FILE)).hexdigest()}
    with locked(out):
        folder.begin(recipe, [os.fsencode(root)])
        with writing_to(out):
            _write_corpus(root, folder, index, lambda done: progress(rows + done, 2 * rows))
        folder.end()
    return Report(kept=Counter(index.splits))


def _is_there(out: Path, index: Index) -> bool:
    """Tell whether an earlier run of the same call had come to its end."""
    page = out / CORPUS_FILE
    whole = page.is_file() and not (out / BUILDING).exists()
    return whole and sha256(read_file(page)).hexdigest() == index.files[CORPUS_FILE]


def _write_corpus(
    root: Path, folder: BuildFolder, index: Index, progress: Callable[[int], None]
) -> None:
    place = os.fspath(folder.root)
    done = 0
    for split in index.splits:
        manifest = folder.building / "manifest"
        with manifest.open("wb") as file:
            for shard in (s for s in index.shards if s.split == split):
                for line, files in _samples(root / shard.url):
                    for name, data in files:
                        write_file(place, f"{split}/{name}", data())
                    file.write(line)
                    done += 1
                    progress(done)
        (folder.root / split).mkdir(exist_ok=True)
        manifest.replace(folder.root / split / METADATA_FILE)
    for page in reversed(PAGES):
        if page in index.files:
            content = read_file(root / page)
            write_atomically(folder.root / page, content, folder.building / "page", sync=True)


def _read_index(root: Path) -> Index:
    if not root.is_dir():
        what = "is one file, not a folder of shards" if root.exists() else "no such folder"
        raise ArchiveError("shards", root, what, "give the folder that 'img2img-data pack' wrote")
    path = root / INDEX_FILE
    if not path.is_file():
        hint = "shards of other generators are read by 'img2img-data import --format webdataset'"
        raise ArchiveError("shards", root, f"has no {INDEX_FILE}, so it was not packed here", hint)
    try:
        index = Index.model_validate_json(io.read_bytes(path, LONGEST_ROW))
    except (ValidationError, Rejected, RecursionError):
        raise ArchiveError("index", path, "is damaged", "pack the corpus again") from None
    if index.format > SHARDS_FORMAT:
        raise ArchiveError(
            "index", path, f"has format {index.format}, not {SHARDS_FORMAT}", "update"
        )
    _check_index(path, index)
    return index


def _check_index(path: Path, index: Index) -> None:
    for split in index.splits:
        count = sum(s.nsamples for s in index.shards if s.split == split)
        if not _SPLIT.fullmatch(split) or count != index.splits[split]:
            raise ArchiveError(
                "index", path, f"contradicts itself about '{split}'", "pack the corpus again"
            )
    urls = [s.url for s in index.shards]
    if len(set(urls)) < len(urls) or not {s.split for s in index.shards} <= index.splits.keys():
        raise ArchiveError(
            "index", path, "names a shard twice, or of no split", "pack the corpus again"
        )
    if CORPUS_FILE not in index.files or not set(index.files) <= set(PAGES):
        raise ArchiveError("index", path, "does not list corpus.json", "pack the corpus again")
    for name, wanted in index.files.items():
        if sha256(read_file(path.parent / name)).hexdigest() != wanted:
            raise ArchiveError(
                "file", path.parent / name, "is not what the index says", "fetch it again"
            )


def _checked_samples(root: Path, index: Index) -> Iterator[None]:
    """Yield once for each row, after everything about it was checked."""
    seen: dict[str, set[bytes]] = {split: set() for split in index.splits}
    for shard in index.shards:
        path, count = root / shard.url, 0
        _check_digest(path, shard)
        for _, files in _samples(path):
            count += 1
            for name, _ in files:
                twice = ArchiveError(
                    "shard", path, f"has '{printable(name)}' twice", "do not use it"
                )
                check_new(seen[shard.split], name.casefold(), twice)
            yield
        if count != shard.nsamples:
            what = f"has {count} rows, the index says {shard.nsamples}"
            raise ArchiveError("shard", path, what, "fetch it again")


def _check_digest(path: Path, shard: ShardEntry) -> None:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("shard", path, "is no regular file", "fetch it again")
        whole = sha256()
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                whole.update(data)
    except OSError as error:
        raise ArchiveError(
            "shard", path, error.strerror or "cannot be read", "fetch it again"
        ) from None
    if (status.st_size, whole.hexdigest()) != (shard.filesize, shard.sha256):
        raise ArchiveError("shard", path, "is not what the index says", "fetch it again")


def _samples(path: Path) -> Iterator[tuple[bytes, Files]]:
    """Yield the row's bytes and (name in the split's folder, function that reads it) of each sample."""
    group: dict[str, tar.Member] = {}
    prefix = ""
    for member in tar.members(path):
        folder, slash, name = member.name.rpartition("/")
        base, _, extension = name.partition(".")
        base = folder + slash + base
        if base != prefix and group:
            yield _sample(path, prefix, group)
            group = {}
        prefix = base
        if extension in group:
            raise ArchiveError(
                "shard", path, f"has '{printable(member.name)}' twice", "do not use it"
            )
        if member.size > io.MAX_BYTES or len(group) > 8:
            raise ArchiveError(
                "shard", path, f"'{printable(member.name)}' in it is too big", "do not use it"
            )
        group[extension] = member
    if group:
        yield _sample(path, prefix, group)


def _sample(path: Path, prefix: str, group: dict[str, tar.Member]) -> tuple[bytes, Files]:
    there = "json" in group and group["json"].size <= LONGEST_ROW
    line = tar.content(path, group["json"]) if there else b""
    row = row_of(line)
    if row is None or b"\n" in line[:-1]:
        raise ArchiveError(
            "shard", path, f"has no whole row for '{printable(prefix)}'", "do not use it"
        )
    files: Files = []
    for column in columns_of(row):
        name = row[column]
        suffix = PurePosixPath(name).suffix.lower()
        member = group.pop(f"{stem_of(column)}{suffix}", None)
        try:
            inside(Path("split"), name)
            harmless = suffix in EXTENSIONS and name.isprintable()
        except CorpusError:
            harmless = False
        if member is None or not harmless:
            what = f"the row of '{printable(prefix)}' names {name!r}, which it may not"
            raise ArchiveError("shard", path, what, "do not use it")
        files.append((name, partial(tar.content, path, member)))
    if len(group) > 1:
        raise ArchiveError(
            "shard", path, f"'{printable(prefix)}' has files of no row", "do not use it"
        )
    return line, files
