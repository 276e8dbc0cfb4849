"""The log of a translated folder, by which the same command continues where it was interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, Final

from img2img_data.core.errors import CorpusError, printable
from img2img_data.core.files import locked, write_atomically
from img2img_data.core.jsonl import iter_rows
from img2img_data.corpus.format import to_json_line
from img2img_train.runs.model import LoadedModel

LOG_FILE: Final = "translated.jsonl"


@dataclass(slots=True)
class ResumeLog:
    """Results in a folder: ``rows`` by source, behind a first row that names the model and
    settings.

    The runner's journal does not fit here: it counts the rows of a fixed plan, while these results
    stay valid if sources come, go or change, so each row holds the hashes of its source and of its
    result.
    """

    path: Path
    head: Mapping[str, Any]
    rows: dict[str, dict[str, Any]]
    file: BinaryIO

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, out: Path, model: LoadedModel, settings: Mapping[str, Any]
    ) -> Iterator[ResumeLog]:
        """Lock a folder and read its log; rows of another model or other settings are dropped.

        Raises FolderInUseError if another process holds the folder.
        """
        config, path, rows = model.config, out / LOG_FILE, list[dict[str, Any]]()
        policy = {"dropout": config.test_dropout, "norm": config.test_norm}
        head = {"model": _sha256(model.path), "direction": config.direction, **policy, **settings}
        with locked(out, "output", "wait for it, or give another folder"):
            # The last line of an interrupted run may be incomplete: it and all behind it are done
            # again.
            with contextlib.suppress(FileNotFoundError, CorpusError):
                rows.extend(iter_rows(path))
            valid = rows[1:] if rows[:1] == [head] else []
            # Without the rows of other settings, before a new one is appended.
            write_atomically(path, map(to_json_line, [head, *valid]))
            with path.open("ab") as file:
                yield cls(path, head, {str(row.get("source_hex")): row for row in valid}, file)

    def has(self, source: bytes, name: str, digest: str) -> bool:
        """Return True if the result of a source with this SHA-256 is in the folder, undamaged."""
        row, result = self.rows.get(source.hex(), {}), self.path.parent / name
        if (row.get("file_name"), row.get("source_sha256")) != (name, digest):
            return False
        return result.is_file() and _sha256(result) == row.get("sha256")

    def add(self, source: bytes, name: str, digest: str, **more: Any) -> None:
        """Append a result; the row is with the system when the function returns."""
        row = {"source": printable(source), "source_hex": source.hex(), "source_sha256": digest}
        row |= {"file_name": name, "sha256": _sha256(self.path.parent / name), **more}
        self.rows[source.hex()] = row
        self.file.write(to_json_line(row))
        self.file.flush()

    def sort(self) -> None:
        """Rewrite the log in the order of the sources, so that equal work leaves equal bytes."""
        rows = [self.head, *(self.rows[name] for name in sorted(self.rows))]
        write_atomically(self.path, map(to_json_line, rows))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
