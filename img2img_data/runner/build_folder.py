"""Output folder of a run: outcomes, journal, manifests, and the state from which a rerun continues.

::

    OUT/.building/recipe.json     what is being built, and from where; another recipe is rejected
    OUT/.building/journal.jsonl   one line per finished source, in order of completion
    OUT/.building/tmp/            files before they are renamed into place

``.building`` is removed when the run is complete.
"""

from __future__ import annotations

import contextlib
import fileinput
import functools
import json
import os
import re
import shutil
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import numpy as np

from img2img_data.core import errors, files
from img2img_data.core.errors import REASONS, CorpusError, NothingKeptError, Rejected, UsageError
from img2img_data.core.files import complete_lines, write_atomically, writing_to
from img2img_data.core.jsonl import Row, lines_of, parse_object
from img2img_data.corpus import format as corpus_format
from img2img_data.corpus.card import DATASETS_FILE, README, to_card, to_datasets_line
from img2img_data.corpus.format import REJECTED_FILE, SOURCE_ENTRIES, in_split_order, to_json_page
from img2img_data.sources.folder import parse_row

BUILDING: Final = ".building"
JOURNAL_FILE: Final = "journal.jsonl"
DUPLICATES_FILE: Final = "duplicates.jsonl"
OWN_NAMES: Final = frozenset({BUILDING, files.LOCK_FILE, REJECTED_FILE, DUPLICATES_FILE})
"""Names that a run uses in its folder until it is complete, or leaves there if it kept no image."""
SHARD_FILE: Final = "shard.tsv"
"""In a shard: position in the complete plan, and manifest, of each row; 'merge' sorts by it."""
LIBRARIES: Final = ("img2img", "numpy", "opencv-python-headless", "simplejpeg", "pillow", "deflate")
"""Packages on which the bytes of an image depend; the page of a corpus has their versions."""

MAX_WAITING: Final = 1 << 22
"""Bytes of rows that wait to be written to their manifests."""
LONGEST_CHANGE: Final = 160
"""Characters of a setting's two values in an error; longer ones, as of pipelines, are not shown."""
SHOWN: Final = 10
"""Rejections, and warnings, that a summary shows."""
PAIRING_REASONS: Final = frozenset({"unpaired", "ambiguous-pair"})
CONVERTED: Final[dict[str, str]] = {
    "first-frame": "the first of several frames or pages, which source_frames in a row counts",
    "depth": "16 bit or float and became 8 bit; --bits 16 keeps that, in png files",
    "float": "float and became 16 bit",
    "clipped": "float with samples outside 0..1, which were clipped",
    "widened": "8 bit and became 16 bit, multiplied by 257",
    "luma": "in color and became gray; --channels rgb keeps that",
    "alpha": "transparent and composited on white; --alpha reject lists images with transparency",
    "profile": "tagged with an ICC profile, which was ignored",
}
"""Notes of images that a summary counts; the texts follow "was" or "were"."""

_INPUTS: Final = SOURCE_ENTRIES | {
    "source_folders": "the source folder",
    "corpus": "the corpus",
    "index": "the packed corpus",
}
"""Entries of a recipe that name inputs, and what messages call them; the others are options."""
Recipe = Mapping[str, Any]
IndexedRow = tuple[int, str, bytes, bytes]
"""Index of a task, its manifest, "" if it was rejected, its line, and that of datasets.jsonl."""
FolderState = Literal["new", "unfinished", "complete", "outdated"]
"""``outdated``: complete, but for sources of other names or tags."""


# ----------------------------------------------------------------------------------------- outcomes
class Outcome(NamedTuple):
    """Result of one source: kept (no reason) or rejected. ``line`` is its finished row.

    ``manifest`` is the folder in whose metadata.jsonl the row belongs, as a split; "" for
    rejected.jsonl. ``datasets_line`` is its line in datasets.jsonl.
    """

    index: int  # type: ignore[assignment]  # of the task, not the method of tuples
    manifest: str
    reason: str
    line: bytes
    datasets_line: bytes = b""


@dataclass(slots=True)
class Report:
    """Counts of a run, for the summary and the exit code."""

    kept: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    unmatched: int = 0
    shown: list[tuple[int, bytes]] = field(default_factory=list)
    """The first few rejections by key: (index, row)."""
    warnings: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """Number of kept images with each note of ``CONVERTED``."""
    complete: bool = False
    """True if an earlier run had finished, so that nothing was left to do."""

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        if outcome.reason:
            self.rejected[outcome.reason] += 1
            # Outcomes come in any order; sorted, the same rows are shown for any number of workers.
            self.shown = sorted([*self.shown, (outcome.index, outcome.line)])[:SHOWN]
            self.unmatched += outcome.reason in PAIRING_REASONS
        else:
            self.kept[outcome.manifest] += 1

    @property
    def total(self) -> int:
        """Number of sources."""
        return self.kept.total() + self.rejected.total()

    def conclude(
        self, max_bad: float, expected: frozenset[str] = frozenset(), unmatched_ok: bool = False
    ) -> int:
        """Return the exit code: 1 if more than ``max_bad`` of the images are bad or files are
        unmatched, else 0. Too many bad images add a warning.

        ``expected`` reasons were asked for by the user (a filter's) and do not count as bad images.
        """
        expected |= PAIRING_REASONS | {"low-detail"}
        bad = sum(n for reason, n in self.rejected.items() if reason not in expected)
        total = self.kept.total() + bad
        if bad > max_bad * total:
            why = f"{bad:,} of {total:,} images cannot be used, more than --max-bad {max_bad:g}"
            self.warnings.append(f"{why}: the exit code is 1")
            return 1
        return int(self.unmatched > 0 and not unmatched_ok)

    def lines(self) -> list[str]:
        """Return the summary, one line per fact; reasons are explained."""
        parts = self.parts()
        out = [f"kept {self.kept.total():,}" + (parts and f" ({parts})")]
        for note, text in CONVERTED.items():
            if count := self.notes[note]:
                out.append(f"{count:,} {'image was' if count == 1 else 'images were'} {text}")
        if self.rejected:
            out.append(f"rejected {self.rejected.total():,}, each a row in rejected.jsonl:")
            out += self.reasons()
            for row in (rows := [json.loads(line) for _, line in self.shown]):
                detail = f", {row['detail']}" if row["detail"] else ""
                out.append(f"  {row['source']}: {row['reason']}{detail}")
            out += ["  ..."] if self.rejected.total() > len(rows) > 0 else []
        return out + [f"warning: {w}" for w in self.warnings]

    def parts(self) -> str:
        """Return the number of kept images by split or folder; "" if there is only one place."""
        names = in_split_order(self.kept.keys() - {"."})
        return ", ".join(f"{name} {self.kept[name]:,}" for name in names)

    def reasons(self) -> list[str]:
        """Return one line per reason of rejection, the most frequent first."""
        ranked = sorted(self.rejected.items(), key=lambda r: (-r[1], r[0]))
        return [f"  {n:>7,}  {reason:<20} {REASONS[reason]}" for reason, n in ranked]


class OutcomeLog:
    """Journal of the outcomes of ``count`` tasks; in memory only their positions, 8 bytes each.

    An entry is a line: manifest, row and line of datasets.jsonl, with tabs between them.

    It is written beside the journal of an earlier run until ``publish`` renames it, so that a kill
    during the transfer of earlier lines loses none of them.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.tmp")
        self._file: BinaryIO = self._temporary.open("wb")
        self._positions = array("q", [-1]) * count
        self._end, self._flush_at = 0, 0.0

    def __enter__(self) -> OutcomeLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Append one outcome."""
        # Counted here: ``tell`` is a system call.
        self._positions[outcome.index] = self._end
        # JSON escapes tabs.
        lines = outcome.line.removesuffix(b"\n"), outcome.datasets_line or b"\n"
        self._end += self._file.write(b"\t".join((outcome.manifest.encode(), *lines)))
        if (now := time.monotonic()) >= self._flush_at:
            self._file.flush()  # a kill loses the images of a second
            self._flush_at = now + 1

    def publish(self) -> None:
        """Rename the journal into place; further outcomes are appended there."""
        # Closed first: Windows cannot rename an open file.
        self._file.close()
        self._temporary.replace(self._path)
        self._file = self._path.open("ab", buffering=1 << 16)

    def is_pending(self, index: int) -> bool:
        """Return True if a task has no outcome."""
        return self._positions[index] < 0

    def pending(self) -> array[int]:
        """Return the indices of the tasks without an outcome."""
        return array("q", (index for index, place in enumerate(self._positions) if place < 0))

    def rows(self) -> Iterator[IndexedRow]:
        """Yield the rows in the order of keys, once all tasks have an outcome."""
        self._file.flush()
        with self._path.open("rb") as file:
            for index, position in enumerate(self._positions):
                file.seek(position)
                manifest, line, datasets_line = file.readline().split(b"\t")
                yield index, manifest.decode(), line + b"\n", datasets_line.lstrip(b"\n")


# ------------------------------------------------------------------------------------------- folder
@dataclass(frozen=True, slots=True)
class BuildFolder:
    """Output folder of one run.

    ``page`` is the name of the file that describes the folder; without it the run is unfinished.
    """

    root: Path
    page: str

    @property
    def building(self) -> Path:
        """Folder of the unfinished run's own files."""
        return self.root / BUILDING

    def state(self, recipe: Recipe, roots: Sequence[bytes], grows: bool = False) -> FolderState:
        """Return the state of a run of this recipe; nothing is written.

        ``grows``: sources of other names and tags are none of the errors below.

        Raises ``UsageError`` if the folder holds other files, a run of other settings, or one of
        other source folders.
        """
        note = self.building / "recipe.json"
        with writing_to(self.root):
            # The page counts first: a kill between writing it and ``end`` leaves both files.
            if (self.root / self.page).is_file():
                page = _read_json(self.root / self.page)
                found = page.get("recipe")
                if isinstance(found, dict):
                    found = {**found, "shard": shard_name(page)}
                return "complete" if self._check_same(found, recipe, grows) else "outdated"
            if note.is_file():
                self._check_same(_read_json(note), _with_folders(recipe, roots), grows)
                return "unfinished"
            files.check_unused(self.root, OWN_NAMES)
        return "new"

    def fill(self, recipe: Recipe, roots: Sequence[bytes], write: Callable[[], object]) -> bool:
        """Lock the folder and let ``write`` complete it; return False if it was already complete.

        For runs that continue from their files alone: if ``write`` raises before it wrote any,
        another recipe may use the folder. Raises ``UsageError`` like ``state``.
        """
        with files.locked(self.root):
            if self.state(recipe, roots) == "complete":
                self.end()
                return False
            self.open(recipe, roots)
            try:
                with writing_to(self.root):
                    write()
            except Exception:
                if all(p.name in OWN_NAMES or p.name[0] == "." for p in self.root.iterdir()):
                    self.end()
                raise
            self.end()
        return True

    def open(self, recipe: Recipe, roots: Sequence[bytes]) -> None:
        """Note what is being built; a complete folder becomes unfinished, with its images."""
        page = self.root / self.page
        with writing_to(self.root):
            if page.is_file():
                self.end()  # the journal of a run that was killed after it wrote the page
            (self.building / "tmp").mkdir(parents=True, exist_ok=True)
            note = to_json_page(_with_folders(recipe, roots))
            write_atomically(self.building / "recipe.json", note, sync=page.is_file())
            for path in (page, self.root / README):
                path.unlink(missing_ok=True)

    def earlier_rows(self) -> Iterator[tuple[str, bytes]]:
        """Yield (manifest, line) of the images that an earlier run kept.

        The lines are those of the journal, or of the manifests if the folder is or was complete.
        """
        journal = self.building / JOURNAL_FILE
        if journal.is_file() and not (self.root / self.page).is_file():
            for entry in complete_lines(journal):
                head, _, rest = entry.partition(b"\t")
                # Rejected sources are tried again: the reason may have been removed meanwhile.
                if head:
                    yield head.decode("utf-8", "replace"), rest.split(b"\t")[0].rstrip() + b"\n"
            return
        for name, path in self._manifests().items():
            yield from ((name, line) for line in lines_of(path))

    def _manifests(self) -> dict[str, Path]:
        name = corpus_format.METADATA_FILE
        found = [*self.root.glob(name), *sorted(self.root.glob(f"*/{name}"))]
        return {path.parent.relative_to(self.root).as_posix(): path for path in found}

    def _check_same(self, found: object, recipe: Recipe, grows: bool) -> bool:
        recipe = json.loads(json.dumps(recipe))  # tuples become lists, as in the file
        if not isinstance(found, dict):
            raise CorpusError("folder", self.root, "its recipe is damaged", "choose another folder")
        names = sorted(k for k in recipe.keys() | found.keys() if recipe.get(k) != found.get(k))
        # A folder that grows may have sources of other names and tags, whatever else differs.
        wrong = [n for n in names if not (grows and n in SOURCE_ENTRIES)]
        if "command" in wrong:
            wrong = ["command"]  # two commands have other options
        if wrong:
            differ = "; ".join(_change(name, found.get(name), recipe.get(name)) for name in wrong)
            why = f"was made with other settings ({errors.printable(differ)})"
            raise UsageError("folder", self.root, why, "choose another folder, or delete this one")
        return not names

    @contextlib.contextmanager
    def outcomes(self, count: int, indices: Iterable[int], report: Report) -> Iterator[OutcomeLog]:
        """Open the journal for ``count`` tasks, with the kept images of an earlier run.

        ``indices``: the task of each of ``earlier_rows``; the files of one with -1 are removed, the
        others are counted in ``report``.
        """
        with writing_to(self.building), OutcomeLog(self.building / JOURNAL_FILE, count) as log:
            for index, (manifest, line) in zip(indices, self.earlier_rows(), strict=True):
                if index < 0:
                    self._remove_files(manifest, line)
                elif log.is_pending(index):  # a damaged manifest may have a row twice
                    datasets_line = to_datasets_line(json.loads(line), line)
                    log.add(Outcome(index, manifest, "", line, datasets_line))
                    report.kept[manifest] += 1
            log.publish()
            yield log

    def _remove_files(self, manifest: str, line: bytes) -> None:
        # A power failure can leave any bytes in a journal.
        wrong = ValueError, RecursionError, AttributeError, LookupError, TypeError, CorpusError
        with contextlib.suppress(*wrong):
            row = json.loads(line)
            for column in corpus_format.columns_of(row):
                _remove(corpus_format.inside(self.root, f"{manifest}/{row[column]}"))

    def end(self) -> None:
        """Remove the files that only an unfinished run needs."""
        shutil.rmtree(self.building, ignore_errors=True)

    def write_manifests(
        self, rows: Iterable[IndexedRow], page: Row, report: Report, positions: Sequence[int] | None
    ) -> None:
        """Write metadata.jsonl of each manifest, rejected.jsonl, then the page, all by rename.

        ``page``: the entries before the counts. ``positions``, for a shard: that of each index in
        the complete plan.

        If no image was kept, only rejected.jsonl is written, the folder is free for another run,
        and ``NothingKeptError`` names the most frequent reason; a shard may be empty.
        """
        parts = self.building / "manifests"
        shutil.rmtree(parts, ignore_errors=True)  # those of a run that was killed
        parts.mkdir()
        # The images of a selection are copied, so their notes describe no conversion.
        gathered = ManifestStatistics(count_notes=page["kind"] != "selection")
        is_corpus = self.page == corpus_format.CORPUS_FILE
        lines, size = {"rejected": bytearray(), "order": bytearray()}, 0
        for index, name, line, datasets_line in rows:
            lines.setdefault(f"kept-{name}" if name else "rejected", bytearray()).extend(line)
            if name and is_corpus:
                lines.setdefault(f"datasets-{name}", bytearray()).extend(datasets_line)
            gathered.add(line)
            if positions is not None:
                lines["order"] += f"{positions[index]}\t{name}\n".encode()
            size += len(line) + len(datasets_line)
            if size > MAX_WAITING:
                _append(parts, lines)
                size = 0
        # The page says that the folder is complete, so the manifests must be on disk before it.
        _append(parts, lines, sync=True)
        kept = {n.removeprefix("kept-"): parts / n for n in lines if n.startswith("kept-")}
        for name in self._manifests().keys() - kept.keys():  # of splits that lost all images
            (self.root / name / DATASETS_FILE).unlink(missing_ok=True)
            _remove(self.root / name / corpus_format.METADATA_FILE)
        (parts / "rejected").replace(self.root / REJECTED_FILE)
        if positions is None and not report.kept:
            self.end()
            raise self._nothing_kept(report)
        report.notes.update(gathered.notes)
        report.warnings += gathered.duplicate_targets(kept.values())[:SHOWN]
        for name, path in kept.items():
            path.replace(self.root / name / corpus_format.METADATA_FILE)
            if is_corpus:
                (parts / f"datasets-{name}").replace(self.root / name / DATASETS_FILE)
        if positions is not None:
            (parts / "order").replace(self.root / SHARD_FILE)
        kept_counts = {name: report.kept[name] for name in in_split_order(report.kept)}
        rejected = dict(sorted(report.rejected.items()))
        counts: dict[str, Any] = {"kept": kept_counts, "rejected": rejected, "total": report.total}
        if is_corpus and kept:
            card = to_card(self.root, kept_counts, {**page, "counts": counts})
            write_atomically(self.root / README, card, self.building / "card")
        if gathered.notes:
            counts["notes"] = dict(sorted(gathered.notes.items()))
        measured = {"measured": gathered.measured()} if gathered.measurements else {}
        self.write_page({**page, "counts": counts, **measured})

    def write_page(self, content: Row) -> None:
        """Write the page. It completes the folder, so everything else is on the disk before it."""
        page = to_json_page(content)
        write_atomically(self.root / self.page, page, self.building / "page", sync=True)

    def _nothing_kept(self, report: Report) -> NothingKeptError:
        ((reason, count),) = report.rejected.most_common(1)
        rows = (json.loads(line) for _, line in report.shown)
        detail = next((f", such as {r['source']}" for r in rows if r["reason"] == reason), "")
        why = f"{count:,} of {report.total:,} images were rejected as '{reason}'"
        why = f"{why} ({REASONS[reason]}){detail}"
        return NothingKeptError(reason, self.root, why, f"{REJECTED_FILE} lists all")

    def is_intact(self, rows: int) -> bool:
        """Return True if all lists of a complete folder are as long as its page says, of which
        ``rows`` are the rows of images.
        """
        page = _read_json(self.root / self.page)
        with contextlib.suppress(CorpusError, OSError, LookupError, TypeError, AttributeError):
            kept, counts = page["counts"]["kept"], page["counts"]
            lists = {REJECTED_FILE: sum(counts["rejected"].values())}
            lists |= {SHARD_FILE: counts["total"]} if shard_name(page) else {}
            if kept and self.page == corpus_format.CORPUS_FILE:  # a shard may be empty
                (self.root / README).stat()  # raises if it is missing
                lists |= {f"{name}/{DATASETS_FILE}": n for name, n in kept.items()}
            if page["recipe"].get("drop_duplicates"):
                (self.root / DUPLICATES_FILE).stat()
            lengths = {name: sum(1 for _ in lines_of(self.root / name)) for name in lists}
            return rows == sum(kept.values()) and lengths == lists
        return False

    def transient_rejections(self) -> list[bool | None]:
        """Return for each row of rejected.jsonl whether its reason is transient; None: damaged."""
        rows = map(parse_object, lines_of(self.root / REJECTED_FILE))
        reasons = (str((row or {}).get("reason")) for row in rows)
        return [r in errors.TRANSIENT_REASONS if r in REASONS else None for r in reasons]

    def report(self) -> Report:
        """Return the counts of a complete folder."""
        counts = _read_json(self.root / self.page)["counts"]
        kept, rejected, notes = (Counter(counts.get(n)) for n in ("kept", "rejected", "notes"))
        unmatched = sum(rejected[reason] for reason in PAIRING_REASONS)
        return Report(kept, rejected, unmatched, notes=notes, complete=True)


def _remove(path: Path) -> None:
    """Remove a file, and the folders that are empty without it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        os.removedirs(path.parent)


def _append(folder: Path, lines: Mapping[str, bytearray], sync: bool = False) -> None:
    """Append its lines to each file of a folder, and forget them."""
    # One file is open at a time: splits can be thousands.
    for name, data in lines.items():
        with (folder / name).open("ab") as file:
            file.write(data)
            data.clear()
            if sync:
                file.flush()
                os.fsync(file.fileno())


def _change(name: str, old: object, new: object) -> str:
    """Return how a setting differs in option words: "--size 64, was --size 128"."""
    if name in _INPUTS:
        return _INPUTS[name]
    option = name if name in {"command", "degradation"} else f"--{name.replace('_', '-')}"

    def words(value: object) -> str:
        if value is None or isinstance(value, bool):
            return option if value else f"no {option}"
        text = "..".join(map(str, value)) if isinstance(value, list) else str(value)
        return f"{option} " + re.sub("[{}']", "", text)  # a degradation is a dict

    change = f"{words(new)}, was {words(old)}"
    return change if len(change) <= LONGEST_CHANGE else f"another {option}"


def _with_folders(recipe: Mapping[str, Any], roots: Sequence[bytes]) -> dict[str, Any]:
    return {**recipe, "source_folders": [os.path.abspath(root).hex() for root in roots]}


def shard_name(page: Mapping[str, Any]) -> str | None:
    """Return "i/n" if a page belongs to a shard, None if to a complete corpus."""
    shard = page.get("shard")
    return f"{shard.get('number')}/{shard.get('of')}" if isinstance(shard, dict) else None


def _read_json(path: Path) -> dict[str, Any]:
    # Not ``parse_object``: a recipe may hold unpaired surrogates.
    with contextlib.suppress(Rejected):
        return parse_row(files.read_bytes(path)) or {}
    return {}


def write_file(out: str, name: str, data: bytes) -> None:
    """Write a file of the output under a temporary name and rename it into place."""
    # Not synced to the disk: that would cost more than the image. A rerun compares digests instead.
    temporary = f"{out}/{BUILDING}/tmp/{_writer(os.getpid(), threading.get_ident())}"
    try:
        write_atomically(f"{out}/{name}", data, temporary)
    except OSError as error:
        raise files.cannot_write(Path(out, name), error) from None


@functools.cache
def _writer(process: int, thread: int) -> str:
    # Workers of a cluster run on several machines, where process numbers can be equal.
    return f"{process}-{thread}-{os.urandom(8).hex()}"


# --------------------------------------------------------------------------------------- statistics
_NOTES: Final = b'"notes": ["'
_TARGET: Final = re.compile(rb'"target_source_sha256": "([0-9a-f]{16})')


@dataclass(slots=True)
class ManifestStatistics:
    """Facts about all rows together: conversions, measured values, targets that occur twice."""

    count_notes: bool
    notes: Counter[str] = field(default_factory=Counter)
    measurements: dict[str, tuple[float, float, int]] = field(default_factory=dict)
    """Worst value, sum and number of the measurements of each name."""
    targets: array[int] = field(default_factory=lambda: array("Q"))
    """First 8 bytes of each target's SHA-256."""

    def add(self, line: bytes) -> None:
        """Add one row of a manifest."""
        # Bytes are searched before JSON is parsed: most rows have neither notes nor measurements.
        if self.count_notes and (at := line.rfind(_NOTES)) >= 0:
            self.notes.update(json.loads(line[at + len(_NOTES) - 2 : line.index(b"]", at) + 1]))
        if b'"measured"' in line:
            for name, value in json.loads(line).get("measured", {}).items():
                worst, total, count = self.measurements.get(name, (value, 0.0, 0))
                worst = max(worst, value, key=abs)
                self.measurements[name] = worst, total + value, count + 1
        if target := _TARGET.search(line):
            self.targets.append(int(target[1], 16))

    def measured(self) -> dict[str, float]:
        """Return the mean of measurements named mean or share, the worst value of the others."""
        return {
            name: round(total / count, 6) if name.endswith(("_mean", "_share")) else worst
            for name, (worst, total, count) in self.measurements.items()
        }

    def duplicate_targets(self, manifests: Iterable[Path]) -> list[str]:
        """Return a warning for each target that is the same image as one under another name."""
        known, counts = np.unique(np.asarray(self.targets), return_counts=True)
        repeated = set(map(int, known[counts > 1]))
        if not repeated:
            return []
        names: dict[str, str] = {}
        warnings = []
        with fileinput.FileInput(manifests, mode="rb") as lines:
            for line in lines:
                target = _TARGET.search(line)
                if target and int(target[1], 16) in repeated:
                    row = json.loads(line)
                    name = row["target_source"]
                    first = names.setdefault(row["target_source_sha256"], name)
                    if name != first:
                        warnings.append(f"'{name}' and '{first}' are the same image, duplicated")
        return warnings
