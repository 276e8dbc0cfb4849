"""Merging: shards become the corpus that a plain run would have written, byte for byte.

Files are hard-linked if the file system supports it, else copied; the shards stay as they are. An
interrupted merge continues when the same command runs again.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from img2img_data.builds.image_folders import EXPECTED_REASONS, SELECTION_FILE
from img2img_data.core.command_line import Progress
from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.core.files import cannot_write, no_folder, with_folder
from img2img_data.core.jsonl import Row, checked_row, lines_of, read_object
from img2img_data.corpus import format as corpus_format
from img2img_data.corpus.card import to_datasets_line
from img2img_data.corpus.format import METADATA_FILE, REJECTED_FILE, inside, text_inside
from img2img_data.corpus.reader import read_info
from img2img_data.runner import build_folder
from img2img_data.runner.build_folder import BuildFolder, IndexedRow, Outcome, Report, shard_name

_DIFFERENT: Final = frozenset({"shard", "counts", "measured"})
"""Entries in which the pages of two shards of one run differ."""

_NO_LINKS: Final = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
"""Errors of file systems that cannot link the two files."""


@dataclass(frozen=True, slots=True)
class CorpusShard:
    """A complete shard: its folder, the name and the content of its page, its position in the run.

    ``sources`` is the number of images of the run.
    ``written`` is the modification time of the page, the last of the shard's files, in nanoseconds.
    """

    root: Path
    page: str
    info: Mapping[str, Any]
    number: int
    count: int
    sources: int
    written: int


def open_shards(folders: Sequence[Path], out: Path) -> list[CorpusShard]:
    """Return the shards in the order of their numbers.

    Raises ``CorpusError`` if a folder is not a complete shard; ``UsageError`` if the folders are
    not all shards of one run, or if ``out`` is inside one of them.
    """
    shards = [_open_shard(folder) for folder in folders]
    first, count = shards[0], shards[0].count
    target = Path(os.path.realpath(out))
    if any(target.is_relative_to(os.path.realpath(folder)) for folder in folders):
        raise UsageError("folder", out, "is inside a shard", "choose a folder outside the shards")
    by_number: dict[int, CorpusShard] = {}
    for shard in shards:
        one, other = _common_entries(first), _common_entries(shard)
        differ = sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))
        if differ:
            names = ", ".join(corpus_format.SOURCE_ENTRIES.get(name, name) for name in differ)
            why = f"belongs to a different run than '{first.root}' ({names} differ)"
            raise UsageError("shard", shard.root, why, "merge the shards of one run")
        twin = by_number.setdefault(shard.number, shard)
        if twin is not shard:
            why = f"is shard {shard_name(shard.info)}, and so is '{twin.root}'"
            raise UsageError("shard", shard.root, why, "give each shard once")
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in by_number]
    if missing:
        names = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if missing[8:] else "")
        raise UsageError("shards", first.root.parent, f"{names} missing", "give all their folders")
    return [by_number[number] for number in sorted(by_number)]


def _open_shard(root: Path) -> CorpusShard:
    if not root.is_dir():
        raise no_folder(root, "shard")
    for page in (corpus_format.CORPUS_FILE, SELECTION_FILE):
        path, hint = root / page, "build the shard again"
        if path.is_file():
            try:
                info = read_info(root) if page == corpus_format.CORPUS_FILE else read_object(path)
                if not shard_name(info):
                    raise UsageError("folder", root, "is not a shard", "build it with --shard")
                numbers = (int(info["shard"][name]) for name in ("number", "of", "sources"))
                number, count, sources = numbers
                recipe = dict(info["recipe"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise CorpusError("shard", path, "is damaged", hint) from None
            is_sound = 1 <= number <= count and "command" in recipe
            if not is_sound or not (root / build_folder.SHARD_FILE).is_file():
                raise CorpusError("shard", path, "is damaged", hint)
            return CorpusShard(root, page, info, number, count, sources, path.stat().st_mtime_ns)
    why = "is unfinished" if (root / build_folder.BUILDING).is_dir() else "holds no shard"
    raise CorpusError("shard", root, why, "run the same command with --shard again")


def _common_entries(shard: CorpusShard) -> dict[str, Any]:
    """Return what the pages of all shards of one run have in common, as one flat mapping."""
    flat = {k: v for k, v in shard.info.items() if k not in _DIFFERENT and not isinstance(v, dict)}
    flat |= (shard.info.get("recipe") or {}) | (shard.info.get("versions") or {})
    return flat | {"number of shards": shard.count, "number of sources": shard.sources}


def merge_shards(
    shards: Sequence[CorpusShard], out: Path, progress: Progress, copy: bool = False
) -> Report:
    """Join all shards of a run in ``out``; with ``copy``, files are never hard-linked.

    Raises ``CorpusError`` that names what a shard lacks, ``UsageError`` if ``out`` holds something
    else.
    """
    info = shards[0].info
    folder = BuildFolder(out, shards[0].page)
    page = {name: value for name, value in info.items() if name not in _DIFFERENT}
    recipe = {**info["recipe"], "shard": None}
    report, roots = Report(), [os.fsencode(s.root) for s in shards]
    rows = _rows(shards, out, copy, report, progress)
    is_new = folder.fill(recipe, roots, lambda: folder.write_manifests(rows, page, report, None))
    return report if is_new else folder.report()


def exit_code_of(shards: Sequence[CorpusShard], report: Report, max_bad: float) -> int:
    """Return the exit code of the plain run; unmatched files were reported by the shards."""
    expected = EXPECTED_REASONS.get(shards[0].info["recipe"].get("command"), frozenset())
    return report.conclude(max_bad, expected, unmatched_ok=True)


def _rows(
    shards: Sequence[CorpusShard], out: Path, copy: bool, report: Report, progress: Progress
) -> Iterator[IndexedRow]:
    """Yield the rows of all shards in the order of the keys, each once its files are in ``out``."""
    done, total = 0, shards[0].sources
    # Each shard is in the order of the complete plan, so only one row per shard is in memory.
    merged = heapq.merge(*(_read(s) for s in shards), key=lambda row: row[0])
    for done, (position, name, line, shard) in enumerate(merged, 1):
        if position != done - 1:
            why = "lacks images" if position >= done else "also holds an image of another shard"
            raise CorpusError("shard", shard.root, why, "build it again")
        row = checked_row(line, shard.root, f"the row of source {position}")
        if name:
            _bring_files(shard, os.fspath(out), name, row, copy)
        report.add(Outcome(position, name, "" if name else str(row.get("reason")), line))
        progress(done, total)
        yield position, name, line, to_datasets_line(row, line) if name else b""
    if done != total:
        why = f"hold {done:,} of {total:,} sources"
        raise CorpusError("shards", shards[0].root.parent, why, "build them again")


def _read(shard: CorpusShard) -> Iterator[tuple[int, str, bytes, CorpusShard]]:
    """Yield (position in the complete plan, manifest, line) of one shard from all its manifests."""
    why = "its manifests contradict each other"
    damaged = CorpusError("shard", shard.root, why, "build it again")
    files: dict[str, Iterator[bytes]] = {}
    for entry in lines_of(shard.root / build_folder.SHARD_FILE):
        position, _, name = entry.decode().removesuffix("\n").partition("\t")
        if name not in files:
            manifest = f"{name}/{METADATA_FILE}".removeprefix("./") if name else REJECTED_FILE
            path = inside(shard.root, manifest)
            if not path.is_file():
                raise damaged
            files[name] = _lines_of(path)
        line = next(files[name], b"")
        if not position.isdigit() or not line.endswith(b"\n"):
            raise damaged
        yield int(position), name, line, shard
    if any(next(file, b"") for file in files.values()):
        raise damaged


def _lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest, which is open only while some are read: splits can be many."""
    start = 0
    while lines := list(itertools.islice(lines_of(path, start), 16)):
        yield from lines
        start += sum(map(len, lines))


def _bring_files(shard: CorpusShard, out: str, name: str, row: Row, copy: bool) -> None:
    """Link or copy the files of a row."""
    # One look at each file, and strings in place of paths: millions of links are the whole work.
    for column in corpus_format.columns_of(row):
        path = f"{name}/{row[column]}"
        source, target = text_inside(shard.root, path), f"{out}/{path}"
        digest = str(row.get(column.replace("file_name", "sha256")))
        try:
            found = os.lstat(source)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a null byte
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            raise CorpusError("image", source, "is missing from its shard", "build the shard again")
        # Reading every file would cost more than the merge; only a file that is younger than the
        # page can have been overwritten by accident.
        if not copy and found.st_mtime_ns > shard.written:
            _content(source, digest)
        if not copy and _linked(source, target):
            continue
        # An interrupted merge may have left a link, or the file of another shard.
        there = Path(target)
        left = there.is_file() and not there.samefile(source)
        if not left or sha256(there.read_bytes()).hexdigest() != digest:
            build_folder.write_file(out, path, _content(source, digest))


def _linked(source: str, target: str) -> bool:
    """Hard-link a file; return False if the file system cannot, or if another file is there."""
    try:
        with_folder(target, lambda: os.link(source, target))
    except FileExistsError:  # from an interrupted merge
        return Path(source).samefile(target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return False
        raise cannot_write(Path(target), error) from None
    return True


def _content(source: str, digest: str) -> bytes:
    data = Path(source).read_bytes()
    if sha256(data).hexdigest() != digest:
        why = "does not match the shard's manifest"
        raise CorpusError("image", source, why, "build the shard again")
    return data
