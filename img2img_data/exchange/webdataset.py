"""Corpora as WebDataset shards. Equal corpora give equal bytes, and unpacking returns the corpus.

::

    SHARDS/index.json                counts and SHA-256 of every file; written last
    SHARDS/corpus.json  README.md  rejected.jsonl
    SHARDS/train-000000.tar          KEY.input.png  KEY.target.png  KEY.json ...
                                     KEY.image.png  KEY.json        (one A|B image per pair)
                                     A/KEY.image.png  A/KEY.json    (unpaired: the domain first)

KEY.json is the row of the manifest, byte for byte. The format is that of
https://github.com/webdataset/webdataset: a sample ends where the part of the name before its first
"." changes, so a "." of a key is written %2E, and a leading "__", which WebDataset skips, is
written %5F_.

Shards are not trusted. Unpacking checks digests, counts, the types and names of members, and the
files that the rows name, all before it writes the first file.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import file_digest, sha256
from itertools import groupby
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field, ValidationError

from img2img_data.core import jsonl, tar
from img2img_data.core.command_line import CountOne, Echo, Progress, counter_of
from img2img_data.core.errors import ArchiveError, CorpusError, Rejected, printable
from img2img_data.core.files import no_folder, write_atomically
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.corpus import format as corpus_format
from img2img_data.corpus.card import README, write_datasets_rows
from img2img_data.corpus.layouts import MemberGroup, webdataset_samples
from img2img_data.corpus.reader import manifests_of, stated_corpus
from img2img_data.images import io
from img2img_data.runner.build_folder import BUILDING, BuildFolder, Report, write_file

INDEX_FILE: Final = "index.json"
SHARDS_FORMAT: Final = 1
PAGES: Final = (corpus_format.CORPUS_FILE, README, corpus_format.REJECTED_FILE)
LARGEST_SAMPLE: Final = 8
"""Members of one sample."""
VERIFY: Final = "check the corpus with 'img2img-data verify'"
_REPACK: Final = "pack the corpus again"
_REFETCH: Final = "download it again"
Split = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
SampleFiles = list[tuple[str, Callable[[], bytes]]]
"""(name in the split's folder, function that reads the bytes)."""


class PackSettings(FrozenModel):
    """Sizes of the shards."""

    per_shard: int = Field(10_000, ge=1)
    """largest number of pairs per shard"""
    shard_bytes: int = Field(1_000_000_000, ge=1)
    """largest size of a shard with several pairs, bytes"""


class ShardInfo(BaseModel, frozen=True):
    """One shard in the index."""

    # The pattern has no "/" and one ".", so a name cannot lead out of the folder.
    url: str = Field(pattern=r"^[A-Za-z0-9_-]+-[0-9]{6,}\.tar$")
    split: Split
    nsamples: int = Field(ge=0)
    filesize: int = Field(ge=0)
    sha256: str


class ShardIndex(BaseModel, frozen=True):
    """Contents of a folder of shards. ``files``: SHA-256 of each of ``PAGES`` of the corpus."""

    format: int
    recipe: dict[str, Any]
    splits: dict[Split, int]
    files: dict[str, str]
    shards: tuple[ShardInfo, ...]


# ------------------------------------------------------------------------------------------ pack
def pack_corpus(
    root: Path, out: Path, settings: PackSettings, dry_run: bool, progress: Progress, echo: Echo
) -> Report:
    """Pack the corpus ``root`` into shards at ``out``; the same call repeats an interrupted run.

    Memory: one pair, and about 60 bytes per row. Raises ``CorpusError`` if
    ``root`` is not a corpus or a file does not match its row, ``UsageError`` if ``out`` is taken.
    """
    manifests = manifests_of(stated_corpus(root))
    counts = Counter({split: jsonl.count_rows(path) for split, path in manifests.items()})
    skipped = sorted(p.name for p in root.iterdir() if p.name not in {*PAGES, *manifests})
    if skipped:
        echo(f"not packed, because no manifest lists it: {printable(', '.join(skipped))}")
    if dry_run:
        rows = f"{counts.total():,} rows of {', '.join(counts)}"
        echo(f"would pack {rows} into '{out}'; nothing was written")
        return Report()
    recipe = {"command": "pack", **settings.model_dump(), "corpus": digest_of(root, manifests)}

    folder = BuildFolder(out, INDEX_FILE)

    def write() -> None:
        count = counter_of(progress, counts.total())
        shards, files = [*_write_shards(folder, manifests, settings, count)], {}
        for name in (n for n in PAGES if (root / n).is_file()):
            data = read_file(root / name)
            files[name] = sha256(data).hexdigest()
            write_file(os.fspath(out), name, data)
        for shard in shards:
            (folder.building / "shards" / shard.url).replace(out / shard.url)
        page = {"format": SHARDS_FORMAT, "recipe": recipe, "splits": counts, "files": files}
        folder.write_page({**page, "shards": [shard.model_dump() for shard in shards]})

    is_new = folder.fill(recipe, [os.fsencode(root)], write)
    return Report(kept=counts, complete=not is_new)


def digest_of(root: Path, manifests: Mapping[str, Path]) -> str:
    """Return the SHA-256 of corpus.json and of the manifests, which state those of all images."""
    digest = sha256()
    for path in (root / corpus_format.CORPUS_FILE, *manifests.values()):
        with path.open("rb") as file:
            file_digest(file, lambda: digest)
    return digest.hexdigest()


def _write_shards(
    folder: BuildFolder, manifests: Mapping[str, Path], settings: PackSettings, count: CountOne
) -> Iterator[ShardInfo]:
    # Shards are staged and moved together at the end, so that no reader finds half of them.
    staged = folder.building / "shards"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    for split, manifest in manifests.items():
        for number, group in groupby(_numbered(manifest, settings), key=itemgetter(0)):
            path, rows = staged / f"{split}-{number:06d}.tar", 0
            with path.open("wb") as file:
                for _, members in group:
                    file.write(members)
                    rows += 1
                    count()
                # tarfile would fill the archive up to 10 KiB; in POSIX two empty blocks end it.
                file.write(bytes(2 * tarfile.BLOCKSIZE))
            facts = _size_and_digest(path)
            yield ShardInfo(url=path.name, split=split, nsamples=rows, **facts)


def _numbered(manifest: Path, settings: PackSettings) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the shard, members of the row) for each row of a manifest."""
    number = rows = size = 0
    for members in _packed_rows(manifest):
        if rows and (rows >= settings.per_shard or size + len(members) > settings.shard_bytes):
            number, rows, size = number + 1, 0, 0
        rows, size = rows + 1, size + len(members)
        yield number, members


def _packed_rows(manifest: Path) -> Iterator[bytes]:
    """Yield the members of each row as they are in an archive: its files, then the row itself."""
    seen: set[int] = set()
    for number, line in enumerate(jsonl.lines_of(manifest), 1):
        row = jsonl.checked_row(line, manifest, f"line {number}")
        prefix = member_prefix(str(row.get("key", "")), row.get("domain"))
        if _is_repeated(seen, prefix):
            raise CorpusError("manifest", manifest, f"line {number} repeats a key")
        members = []
        for column in corpus_format.columns_of(row):
            data = read_listed(corpus_format.inside(manifest.parent, row[column]), row, column)
            members.append(_member(f"{prefix}.{_extension_of(column, row[column])}", data))
        yield b"".join([*members, _member(f"{prefix}.json", line)])


def _member(name: str, data: bytes) -> bytes:
    # A new TarInfo has no time and no owner, so equal contents give equal bytes.
    info = tarfile.TarInfo(name)
    info.size = len(data)
    head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    return head + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def member_prefix(key: str, domain: object = None) -> str:
    """Return the part before the first dot of the member names of a row."""
    name = key.replace(".", "%2E")
    name = f"{domain}/{name}" if domain in ("A", "B") else name
    return "%5F" + name[1:] if name.startswith("__") else name


def _extension_of(column: str, name: str) -> str:
    """Return the part after the first dot of the member name of a file: input.png."""
    side = column.removesuffix("file_name").rstrip("_") or "image"
    return side + PurePosixPath(name).suffix.lower()


def _is_repeated(seen: set[int], name: str) -> bool:
    """Return True if a name was seen before. Only hashes are kept: rows can be millions."""
    mark = corpus_format.hash64(name.encode("utf-8", "surrogatepass"))
    repeated = mark in seen
    seen.add(mark)
    return repeated


def read_file(path: Path) -> bytes:
    """Return the bytes of a file; ``CorpusError`` if it is not a readable regular file."""
    try:
        return io.read_bytes(path)
    except Rejected as rejected:
        if rejected.reason == "empty":
            return b""
        raise CorpusError("file", path, str(rejected), VERIFY) from None


def read_listed(path: Path, row: Mapping[str, Any], column: str) -> bytes:
    """Return the bytes of a file that a row names; ``CorpusError`` if they are not the row's."""
    data, stated = read_file(path), row.get(column.replace("file_name", "sha256"))
    if stated is not None and sha256(data).hexdigest() != stated:
        raise CorpusError("image", path, "does not match its row", VERIFY)
    return data


def _size_and_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return {"filesize": path.lstat().st_size, "sha256": digest}


# ---------------------------------------------------------------------------------------- unpack
def unpack_corpus(root: Path, out: Path, dry_run: bool, progress: Progress, echo: Echo) -> Report:
    """Write the corpus that was packed at ``root`` to ``out``, byte for byte.

    Raises ``ArchiveError`` if a shard is damaged or unsafe, ``UsageError`` if ``out`` is taken.
    """
    index = _read_index(root)
    rows = sum(index.splits.values())
    # Everything is read twice, so that nothing is written unless all of it is safe.
    count = counter_of(progress, 2 * rows)
    for _ in _checked_samples(root, index):
        count()
    if dry_run:
        splits = ", ".join(index.splits)
        echo(f"would write {rows:,} rows of {splits} to '{out}'; nothing was written")
        return Report()
    page = out / corpus_format.CORPUS_FILE
    complete = page.is_file() and not (out / BUILDING).exists()
    if complete and sha256(read_file(page)).hexdigest() == index.files[corpus_format.CORPUS_FILE]:
        return Report(kept=Counter(index.splits), complete=True)
    # A corpus.json has no recipe of an unpacking, so no page tells that one is complete: none is
    # named.
    folder = BuildFolder(out, f"{BUILDING}/none")
    recipe = {"command": "unpack", "index": sha256(read_file(root / INDEX_FILE)).hexdigest()}
    folder.fill(recipe, [os.fsencode(root)], partial(_write_corpus, root, folder, index, count))
    return Report(kept=Counter(index.splits))


def _write_corpus(root: Path, folder: BuildFolder, index: ShardIndex, count: CountOne) -> None:
    for split in index.splits:
        manifest = folder.building / "manifest"
        with manifest.open("wb") as file:
            for shard in (s for s in index.shards if s.split == split):
                for line, files in _samples(root / shard.url):
                    for name, read in files:
                        write_file(os.fspath(folder.root), f"{split}/{name}", read())
                    file.write(line)
                    count()
        (folder.root / split).mkdir(exist_ok=True)
        manifest.replace(folder.root / split / corpus_format.METADATA_FILE)
        if README in index.files:  # else another program wrote the corpus
            write_datasets_rows(folder.root / split, manifest)
    # corpus.json comes last: without it the corpus is unfinished.
    for page in (p for p in reversed(PAGES) if p in index.files):
        content = read_file(root / page)
        write_atomically(folder.root / page, content, folder.building / "page", sync=True)


def _read_index(root: Path) -> ShardIndex:
    if not root.is_dir():
        raise no_folder(root, "shards")
    path = root / INDEX_FILE
    if not path.is_file():
        hint = "'img2img-data import --format webdataset' reads shards of other generators"
        raise ArchiveError("shards", root, f"has no {INDEX_FILE}", hint)
    try:
        index = ShardIndex.model_validate_json(io.read_bytes(path, jsonl.LARGEST_PAGE))
    except (ValidationError, Rejected, RecursionError):
        raise ArchiveError("index", path, "is damaged", _REPACK) from None
    if index.format != SHARDS_FORMAT:
        why = f"has format {index.format}, but this version reads {SHARDS_FORMAT}"
        raise ArchiveError("index", path, why, "use the version that packed it")
    listed = dict.fromkeys(index.splits, 0)
    for shard in index.shards:
        listed[shard.split] = listed.get(shard.split, 0) + shard.nsamples
    urls = {shard.url for shard in index.shards}
    if listed != index.splits or len(urls) < len(index.shards):
        raise ArchiveError("index", path, "is inconsistent about its shards", _REPACK)
    if corpus_format.CORPUS_FILE not in index.files or not set(index.files) <= set(PAGES):
        raise ArchiveError("index", path, "does not list corpus.json", _REPACK)
    for name, stated in index.files.items():
        if sha256(read_file(root / name)).hexdigest() != stated:
            raise ArchiveError("file", root / name, "does not match the index", _REFETCH)
    return index


def _checked_samples(root: Path, index: ShardIndex) -> Iterator[None]:
    """Yield once per row, after everything about it was checked."""
    seen: dict[str, set[int]] = {split: set() for split in index.splits}
    for shard in index.shards:
        path, count = root / shard.url, 0
        _check_shard(path, shard)
        for _, files in _samples(path):
            count += 1
            for name, _ in files:
                # Files that differ in case only would overwrite each other on some file systems.
                if _is_repeated(seen[shard.split], name.casefold()):
                    raise ArchiveError("shard", path, f"has '{printable(name)}' twice", tar.UNSAFE)
            yield
        if count != shard.nsamples:
            why = f"has {count} rows, but the index states {shard.nsamples}"
            raise ArchiveError("shard", path, why, _REFETCH)


def _check_shard(path: Path, shard: ShardInfo) -> None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ArchiveError("shard", path, "is not a regular file", _REFETCH)
        found = _size_and_digest(path)
    except OSError as error:
        raise ArchiveError("shard", path, error.strerror or "cannot be read", _REFETCH) from None
    if found != shard.model_dump(include={*found}):
        raise ArchiveError("shard", path, "does not match the index", _REFETCH)


def _samples(path: Path) -> Iterator[tuple[bytes, SampleFiles]]:
    """Yield the bytes of the row and the files of each sample; ``ArchiveError`` if it is unsafe."""
    for prefix, group in webdataset_samples(path):
        too_big = next((m for m in group.values() if m.size > io.MAX_BYTES), None)
        if too_big or len(group) > LARGEST_SAMPLE:
            raise ArchiveError("shard", path, f"'{printable(prefix)}' is too large", tar.UNSAFE)
        yield _sample(path, prefix, group)


def _sample(path: Path, prefix: str, group: MemberGroup) -> tuple[bytes, SampleFiles]:
    has_row = "json" in group and group["json"].size <= jsonl.LONGEST_LINE
    line = tar.content(path, group["json"]) if has_row else b""
    row = jsonl.parse_object(line)
    # A line end within a row would make two rows of the manifest from it.
    if row is None or jsonl.wrong_value(row) or b"\n" in line[:-1]:
        why = f"has no complete row for '{printable(prefix)}'"
        raise ArchiveError("shard", path, why, tar.UNSAFE)
    files: SampleFiles = []
    used = {"json"}
    for column in corpus_format.columns_of(row):
        name = row[column]
        extension = _extension_of(column, name)
        if extension in used or extension not in group or not _is_safe(name):
            why = f"the row of '{printable(prefix)}' names {name!r}, which is not allowed"
            raise ArchiveError("shard", path, why, tar.UNSAFE)
        used.add(extension)
        files.append((name, partial(tar.content, path, group[extension])))
    if used != set(group):
        why = f"'{printable(prefix)}' has files that its row does not name"
        raise ArchiveError("shard", path, why, tar.UNSAFE)
    return line, files


def _is_safe(name: str) -> bool:
    try:
        corpus_format.inside(Path("split"), name)
    except CorpusError:
        return False
    return PurePosixPath(name).suffix.lower() in corpus_format.EXTENSIONS and name.isprintable()
