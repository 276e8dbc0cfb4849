"""Journals survive a kill at any byte: complete lines are found again, a torn one is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from img2img_data.core.files import complete_lines

LINES = [b"one\n", b"\n", "zwei \u00e9\n".encode(), b"three\tcolumns\n"]


@pytest.mark.parametrize("cut", range(sum(map(len, LINES)) + 1))
def test_a_journal_cut_at_any_byte_keeps_its_complete_lines(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"".join(LINES)[:cut])
    found = list(complete_lines(path))
    assert found == LINES[: len(found)]
    assert cut - sum(map(len, found)) < max(map(len, LINES)), "only the torn line is lost"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "missing"])
def test_a_journal_that_is_no_file_has_no_lines(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    assert list(complete_lines(path)) == []


def test_a_journal_ends_at_a_line_without_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("img2img_data.core.files.MAX_LINE", 100)
    (tmp_path / "journal").write_bytes(b"a\n" + b"x" * 1000 + b"\nb\n")
    assert list(complete_lines(tmp_path / "journal")) == [b"a\n"]
