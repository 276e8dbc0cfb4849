"""What ``translate`` has done, so that the same command goes on where it was."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import printable
from img2img_data.core.files import locked, write_atomically
from img2img_data.corpus.format import to_json_line
from img2img_train.runs.model import LoadedModel

DONE_FILE: Final = "translated.jsonl"


@dataclass(slots=True)
class ResumeLog:
    """What is done, a row per file behind a first row that says by what."""

    path: Path
    head: Mapping[str, Any]
    rows: dict[str, dict[str, Any]]
    file: Any = None

    @classmethod
    @contextlib.contextmanager
    def open(cls, out: Path, model: LoadedModel, how: Mapping[str, Any]) -> Iterator[ResumeLog]:
        """Hold the folder, and read what an earlier call of the same model and settings left.

        FolderInUseError where another process holds it.
        """
        config = model.config
        head = {
            "model": _digest(model.path),
            "direction": config.direction,
            "dropout": config.test_dropout,
            "norm": config.test_norm,
            **how,
        }
        path = out / DONE_FILE
        with locked(out, "output", "wait for it, or give another folder"):
            rows = [row for row in _rows_of(path) if isinstance(row, dict)]
            known = rows[1:] if rows[:1] == [head] else []
            log = cls(path, head, {str(row.get("source_hex")): row for row in known})
            log.sort()
            with path.open("ab") as log.file:
                yield log

    def has(self, path: bytes, name: str, digest: str) -> bool:
        """Tell whether the result of this source (its SHA-256) is there, whole."""
        row = self.rows.get(path.hex())
        if row is None or row.get("file_name") != name or row.get("source_sha256") != digest:
            return False
        made = self.path.parent / name
        return made.is_file() and _digest(made) == row.get("sha256")

    def add(self, path: bytes, name: str, digest: str, **more: Any) -> None:
        """Remember one result at once."""
        row = {"source": printable(path), "source_hex": path.hex(), "source_sha256": digest}
        row |= {"file_name": name, "sha256": _digest(self.path.parent / name), **more}
        self.rows[path.hex()] = row
        self.file.write(to_json_line(row))
        self.file.flush()

    def sort(self) -> None:
        """Write all rows in order, so that equal work leaves equal bytes."""
        lines = [self.head, *(self.rows[name] for name in sorted(self.rows))]
        write_atomically(self.path, b"".join(map(to_json_line, lines)))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _rows_of(path: Path) -> Iterator[Any]:
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            return
