"""The output folder while a run works in it: one run at a time, a journal, and the way to go on.

::

    OUT/.building/recipe.json     what is being built, from where; another recipe is rejected
    OUT/.building/journal.jsonl   one line a finished source, in the order they ended
    OUT/.building/tmp/            files before they are renamed into place

``.building`` goes when the run is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.core.files import LOCK_FILE, write_atomically, writing_to
from img2img_data.corpus.format import to_json_page
from img2img_data.runner.outcome import Outcome

BUILDING: Final = ".building"
OWN_NAMES: Final = frozenset({BUILDING, LOCK_FILE})
"""What a run keeps in its folder until it is complete."""
Row = Mapping[str, Any]
State = Literal["new", "unfinished", "complete"]


@dataclass(slots=True)
class Journal:
    """The rows of finished sources on disk; in memory, their place in the file alone (8 bytes a source).

    ``found`` counts the rows, by manifest, that an earlier run left.
    """

    file: BinaryIO
    place: array[int]
    size: int = 0
    found: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.close()

    def add(self, outcome: Outcome) -> None:
        """Append one outcome; a line is read back only if it is whole."""
        head = f"{outcome.index}\t{outcome.file}\t{outcome.reason}\t".encode()
        self.file.write(head + outcome.line)
        self.place[outcome.index] = self.size
        self.size += len(head) + len(outcome.line)

    def rows(self) -> Iterator[tuple[int, str, bytes]]:
        """Yield (index, manifest, line) in the order of the keys."""
        self.file.flush()
        with open(self.file.name, "rb") as file:
            for index, at in enumerate(self.place):
                if at < 0:
                    continue
                file.seek(at)
                _, name, _, line = file.readline().split(b"\t", 3)
                yield index, name.decode(), line


@dataclass(frozen=True, slots=True)
class BuildFolder:
    """The output folder of one run."""

    root: Path
    page: str
    """The name of the file that says what the folder is; it exists, or the run is unfinished."""

    @property
    def building(self) -> Path:
        """Where the unfinished run keeps its own files."""
        return self.root / BUILDING

    def state(self, recipe: Mapping[str, Any], roots: Sequence[bytes]) -> State:
        """Tell how far a run of this recipe is here; nothing is written.

        ``UsageError`` when the folder holds something else: other files, another recipe's run, or one that
        was begun with other source folders.
        """
        with writing_to(self.root):
            if (self.root / self.page).is_file():
                page = _read_json(self.root / self.page)
                there = page.get("recipe")
                if isinstance(there, dict):
                    there = {**there, "shard": shard_name(page)}
                self._check_same(there, recipe)
                return "complete"
            note = self.building / "recipe.json"
            if note.is_file():
                self._check_same(_read_json(note), _note_of(recipe, roots))
                return "unfinished"
            if self.root.is_dir() and any(p.name not in OWN_NAMES for p in self.root.iterdir()):
                raise UsageError(
                    "folder", self.root, "holds other files", "choose a new or an empty folder"
                )
        return "new"

    def begin(self, recipe: Mapping[str, Any], roots: Sequence[bytes]) -> bool:
        """Prepare the folder; return False when a run of this recipe is complete in it.

        ``UsageError`` as from ``state``.
        """
        if self.state(recipe, roots) == "complete":
            self.end()
            return False
        with writing_to(self.root):
            (self.building / "tmp").mkdir(parents=True, exist_ok=True)
            note, fresh = self.building / "recipe.json", self.building / "recipe.tmp"
            write_atomically(note, to_json_page(_note_of(recipe, roots)), fresh)
        return True

    def count_done(self) -> int:
        """Return how many sources an unfinished run has done, kept or rejected."""
        return sum(1 for _ in _whole_lines(self.building / "journal.jsonl"))

    def _check_same(self, there: object, wanted: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(wanted))
        if not isinstance(there, dict):
            raise CorpusError("folder", self.root, "its recipe is damaged", "choose another folder")
        names = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
        if names:
            raise UsageError(
                "folder",
                self.root,
                f"holds a run of another recipe ({', '.join(names)} differ)",
                "choose another folder, or delete this one",
            )

    def open_journal(self, count: int, still_good: Callable[[str, Row], int | None]) -> Journal:
        """Return the journal for ``count`` sources, holding what an earlier run finished.

        ``still_good(manifest, row)`` gives the index that an earlier row has now, or None to do it again.
        """
        path, fresh = self.building / "journal.jsonl", self.building / "journal.tmp"
        with writing_to(path):
            with fresh.open("wb") as file:
                journal = Journal(file, array("q", [-1]) * count)
                for name, reason, line in _whole_lines(path):
                    index = None if reason else still_good(name, json.loads(line))
                    if index is not None:
                        journal.add(Outcome(index, name, reason, line))
                        journal.found[name] += 1
            fresh.replace(path)
            journal.file = path.open("ab", buffering=1 << 16)
        return journal

    @contextlib.contextmanager
    def dropped_unused(self) -> Iterator[None]:
        """Take ``.building`` away when a run fails that has written nothing else.

        For runs that go on from their files alone: another recipe is then free to use the folder.
        """
        try:
            yield
        except Exception:
            if all(path.name in OWN_NAMES for path in self.root.iterdir()):
                self.end()
            raise

    def end(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.building, ignore_errors=True)


def _note_of(recipe: Mapping[str, Any], roots: Sequence[bytes]) -> dict[str, Any]:
    folders = [os.fsencode(os.path.abspath(os.fsdecode(r))).hex() for r in roots]
    return {**recipe, "source_folders": folders}


def shard_name(page: Mapping[str, Any]) -> str | None:
    """Return "i/n" of a shard's page, None of a whole corpus's."""
    shard = page.get("shard")
    return f"{shard.get('number')}/{shard.get('of')}" if isinstance(shard, dict) else None


def _whole_lines(path: Path) -> Iterator[tuple[str, str, bytes]]:
    if not path.is_file():
        return
    with path.open("rb") as file:
        for entry in file:
            parts = entry.split(b"\t", 3)
            with contextlib.suppress(ValueError, IndexError):
                json.loads(parts[3])
                yield parts[1].decode(), parts[2].decode(), parts[3]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
