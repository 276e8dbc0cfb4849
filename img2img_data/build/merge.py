"""Shards into one: the corpus that a plain run would have made, byte for byte.

Files are hard-linked where the file system can, else copied; the shards stay as they are. A merge that was
interrupted goes on when the same command is given again.
"""

from __future__ import annotations

import errno
import heapq
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from img2img_data.build.select import EXPECTED, PAGE
from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.core.files import cannot_write, locked, writing_to
from img2img_data.corpus.format import CORPUS_FILE, METADATA_FILE, REJECTED_FILE, inside
from img2img_data.runner.build_folder import BuildFolder, shard_name
from img2img_data.runner.manifests import SHARD_FILE, write_manifests
from img2img_data.runner.outcome import Outcome, Report
from img2img_data.runner.run import report_of, write_file

_OWN: Final = frozenset({"shard", "counts", "measured"})
"""What the pages of two shards of one run differ in."""

_NO_LINKS: Final = frozenset(
    {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
)


@dataclass(frozen=True, slots=True)
class Shard:
    """One part that is complete: its folder, the name of its page, and what the page says."""

    root: Path
    page: str
    info: Mapping[str, Any]
    written: int
    """When the page was written, the last of the shard's files, in nanoseconds."""

    @property
    def number(self) -> tuple[int, int]:
        """Which part it is, and of how many."""
        return int(self.info["shard"]["number"]), int(self.info["shard"]["of"])


def open_shards(folders: Sequence[Path], out: Path) -> list[Shard]:
    """Return the shards in the order of their numbers.

    ``CorpusError`` when one is unfinished or none; ``UsageError`` when they are not all the parts of one run,
    or when ``out`` is one of them.
    """
    shards = [_open_shard(folder) for folder in folders]
    first = shards[0]
    for folder in map(Path.resolve, folders):
        if folder == out.resolve() or folder in out.resolve().parents:
            raise UsageError("folder", out, "lies in a shard", "choose one outside of them")
    for shard in shards[1:]:
        differ = _differences(first, shard)
        if differ:
            why = f"belongs to another run than '{first.root}' ({', '.join(differ)} differ)"
            raise UsageError("shard", shard.root, why, "give the shards of one run")
    count = first.number[1]
    there: dict[int, Shard] = {}
    for shard in shards:
        twin = there.setdefault(shard.number[0], shard)
        if twin is not shard:
            why = f"is {shard_name(shard.info)}, as '{twin.root}' is"
            raise UsageError("shard", shard.root, why, "give each part once")
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in there]
    if missing:
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        names = ", ".join(missing[:8]) + more
        raise UsageError(
            "shards", first.root.parent, f"lack {names}", "give the folders of all parts"
        )
    return [there[number] for number in sorted(there)]


def _open_shard(root: Path) -> Shard:
    for page in (CORPUS_FILE, PAGE):
        if (root / page).is_file():
            try:
                info = json.loads((root / page).read_bytes())
                shard = Shard(root, page, info, (root / page).stat().st_mtime_ns)
                if not shard_name(info):
                    raise UsageError("folder", root, "is no shard", "merge what --shard made")
                if not 1 <= shard.number[0] <= shard.number[1] or not (root / SHARD_FILE).is_file():
                    raise ValueError
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise CorpusError(
                    "shard", root / page, "is damaged", "make the shard again"
                ) from None
            return shard
    why = "is unfinished" if (root / ".building").is_dir() else "holds no shard"
    raise CorpusError("shard", root, why, "run the command with its --shard again")


def _differences(one: Shard, other: Shard) -> list[str]:
    """Return the names of what two shards of one run would have in common, and these have not."""
    sides = []
    for shard in (one, other):
        flat = {k: v for k, v in shard.info.items() if k not in _OWN and not isinstance(v, dict)}
        for part in ("recipe", "versions"):
            flat |= shard.info.get(part) or {}
        flat |= {
            "number of shards": shard.number[1],
            "number of sources": shard.info["shard"].get("sources"),
        }
        sides.append(flat)
    return sorted(
        k for k in sides[0].keys() | sides[1].keys() if sides[0].get(k) != sides[1].get(k)
    )


def merge_shards(
    shards: Sequence[Shard], out: Path, progress: Callable[[int, int], None], copy: bool = False
) -> Report:
    """Join all shards of a run in ``out``; ``copy`` files even where they could be hard-linked.

    Raises ``CorpusError`` naming what a shard lacks, ``UsageError`` when ``out`` holds something else.
    """
    info = shards[0].info
    folder = BuildFolder(out, shards[0].page)
    page = {name: value for name, value in info.items() if name not in _OWN}
    total = int(info["shard"]["sources"])
    with locked(out):
        if not folder.begin(
            {**info["recipe"], "shard": None}, [os.fsencode(s.root) for s in shards]
        ):
            return report_of(folder)
        report = Report()
        with folder.dropped_unused(), writing_to(folder.building):
            write_manifests(folder, _rows(shards, out, total, copy, report, progress), page, report)
        folder.end()
        return report


def exit_code_of(shards: Sequence[Shard], report: Report, max_bad: float) -> int:
    """Return what the run without ``--shard`` would have ended with; unmatched files were the shards' to tell."""
    selected = shards[0].info["recipe"].get("command") in {"wiki", "select"}
    return report.exit_code(max_bad, EXPECTED if selected else frozenset(), unmatched_ok=True)


def _rows(
    shards: Sequence[Shard],
    out: Path,
    total: int,
    copy: bool,
    report: Report,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[int, str, bytes]]:
    """Yield the rows of all shards in the order of the keys, each once its files are in ``out``."""
    done = 0
    for place, name, line, shard in heapq.merge(
        *(_read(s) for s in shards), key=lambda row: row[0]
    ):
        if place != done:
            why = "holds a image that another shard holds too" if place < done else "lacks images"
            raise CorpusError("shard", shard.root, why, "make it again")
        if name:
            _bring_files(shard, out, name, json.loads(line), copy)
        reason = "" if name else str(json.loads(line).get("reason"))
        report.add(Outcome(place, name, reason, line))
        done += 1
        progress(done, total)
        yield place, name, line
    if done != total:
        raise CorpusError(
            "shards",
            shards[0].root.parent,
            f"hold {done:,} of {total:,} sources",
            "make them again",
        )


def _read(shard: Shard) -> Iterator[tuple[int, str, bytes, Shard]]:
    """Yield (place in the whole, manifest, line) of one shard, reading all its manifests side by side."""
    damaged = CorpusError("shard", shard.root, "its manifests do not fit together", "make it again")
    files: dict[str, BinaryIO] = {}
    with ExitStack() as stack:
        for entry in stack.enter_context((shard.root / SHARD_FILE).open("rb")):
            place, _, rest = entry.decode().partition("\t")
            name = rest.removesuffix("\n")
            if name not in files:
                path = (
                    inside(shard.root, name) / METADATA_FILE if name else shard.root / REJECTED_FILE
                )
                if not path.is_file():
                    raise damaged
                files[name] = stack.enter_context(path.open("rb"))
            line = files[name].readline()
            if not place.isdigit() or not line.endswith(b"\n"):
                raise damaged
            yield int(place), name, line, shard
        if any(file.read(1) for file in files.values()):
            raise damaged


def _bring_files(shard: Shard, out: Path, name: str, row: Mapping[str, Any], copy: bool) -> None:
    """Bring the files of a row; one that changed after its shard was complete is read and compared first."""
    for column in [c for c in row if c.endswith("file_name")]:
        source = inside(shard.root / name, row[column])
        digest = str(row.get(column.replace("file_name", "sha256")))
        if not source.is_file() or source.is_symlink():
            raise CorpusError("image", source, "is missing in its shard", "make the shard again")
        if not copy and source.stat().st_mtime_ns > shard.written:
            _content(source, digest)
        if copy or not _linked(source, out / name / str(row[column])):
            _copy(source, out, f"{name}/{row[column]}", digest)


def _linked(source: Path, target: Path) -> bool:
    """Hard-link a file; return False where the file system cannot, or another file is there."""
    for _ in range(2):
        try:
            os.link(source, target)
            return True
        except FileExistsError:
            return source.samefile(target)
        except FileNotFoundError:
            with writing_to(target):
                target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in _NO_LINKS:
                return False
            raise cannot_write(target, error) from None
    return False


def _copy(source: Path, out: Path, name: str, digest: str) -> None:
    target = out / name
    if target.is_file() and sha256(target.read_bytes()).hexdigest() == digest:
        return
    write_file(os.fspath(out), name, _content(source, digest))


def _content(source: Path, digest: str) -> bytes:
    data = source.read_bytes()
    if sha256(data).hexdigest() != digest:
        raise CorpusError(
            "image", source, "is not what the shard's manifest says", "make the shard again"
        )
    return data
