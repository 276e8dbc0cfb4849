"""Journals survive a kill at any byte: complete lines are found again, a torn one is left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from img2img_data.core.files import Journal, complete_lines

LINES = [b"one\n", b"\n", "zwei \u00e9\n".encode(), b"three\tcolumns\n"]


def write_journal(path: Path, lines: list[bytes]) -> None:
    with Journal(path) as journal:
        for line in lines:
            journal.append(line)
        journal.publish()


@pytest.mark.parametrize("cut", range(sum(map(len, LINES)) + 1))
def test_a_journal_cut_at_any_byte_keeps_its_complete_lines(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"".join(LINES)[:cut])
    found = list(complete_lines(path))
    assert found == LINES[: len(found)]
    assert cut - sum(map(len, found)) < max(map(len, LINES)), "only the torn line is lost"


def test_lines_are_read_by_their_positions_in_any_order(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        positions = [journal.append(line) for line in LINES[:2]]
        journal.publish()
        positions += [journal.append(line) for line in LINES[2:]]
        assert list(journal.lines_at(reversed(positions))) == LINES[::-1]
    assert list(complete_lines(tmp_path / "journal")) == LINES


def test_an_earlier_journal_stays_until_its_successor_is_published(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert list(complete_lines(path)) == []
    write_journal(path, LINES)
    with Journal(path) as journal:  # a kill before ``publish``
        journal.append(b"new\n")
        journal.flush()
    assert list(complete_lines(path)) == LINES
    write_journal(path, LINES[:1])
    assert list(complete_lines(path)) == LINES[:1]


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
