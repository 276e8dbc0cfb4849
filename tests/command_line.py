"""img2img-data run in this process, and readers of its results: digests of files, rows."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from img2img_data.cli.main import main

COMMAND = [sys.executable, "-m", "img2img_data"]


def run(*argv: object, code: int = 0, cwd: Path | None = None) -> str:
    """Run a command in this process and return its output; assert its exit code.

    Starting a process takes longer. Workers are kept from one call to the next; conftest stops
    them.
    """
    output = io.StringIO()
    with (
        redirect_stdout(output),
        redirect_stderr(output),
        chdir(cwd or os.curdir),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["img2img-data", *map(str, argv)])
        patch.setattr("img2img_data.cli.main._catch_signals", lambda: None)
        patch.setattr("img2img_data.cli.main._stop_workers", lambda: None)
        with pytest.raises(SystemExit) as end:
            main()
    assert (end.value.code or 0) == code, output.getvalue()
    assert "internal error" not in output.getvalue()
    return output.getvalue()


def tree(root: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, by relative path."""
    files = {p.relative_to(root).as_posix(): p for p in sorted(root.rglob("*")) if p.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a manifest or a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def pair_rows(corpus: Path, split: str = "train") -> list[dict[str, Any]]:
    """Return the rows of a split of a corpus."""
    return rows(corpus / split / "metadata.jsonl")
