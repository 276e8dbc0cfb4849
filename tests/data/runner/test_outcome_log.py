"""Outcomes are found again by their tasks, and those of an earlier run until they are moved."""

from __future__ import annotations

from pathlib import Path

from img2img_data.core.files import complete_lines
from img2img_data.runner.build_folder import Outcome, OutcomeLog

ROWS = [
    (0, "train", b"one\n", b"its columns\n"),
    (1, "", b"\n", b""),
    (2, "val", "zwei \u00e9\n".encode(), "\u00e9 2\n".encode()),
    (3, ".", b"3\n", b"...\n"),
]
LINES = [
    b"train\tone\tits columns\n",
    b"\t\t\n",
    "val\tzwei \u00e9\t\u00e9 2\n".encode(),
    b".\t3\t...\n",
]


def outcome(index: int) -> Outcome:
    _, manifest, *lines = ROWS[index]
    return Outcome(index, manifest, "", *lines)


def test_rows_come_in_the_order_of_their_tasks(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with OutcomeLog(path, len(ROWS)) as log:
        log.add(outcome(3))
        log.add(outcome(0))
        log.publish()
        assert list(log.pending()) == [1, 2]
        log.add(outcome(2))
        log.add(outcome(1))
        assert list(log.rows()) == ROWS
    assert list(complete_lines(path)) == [LINES[index] for index in (3, 0, 2, 1)]


def test_an_earlier_journal_stays_until_its_successor_is_published(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert list(complete_lines(path)) == []
    for count in (len(ROWS), 1):
        with OutcomeLog(path, len(ROWS)) as log:
            for index in range(count):
                log.add(outcome(index))
            log.publish()
        assert list(complete_lines(path)) == LINES[:count]
        with OutcomeLog(path, 1) as log:  # a kill before ``publish``
            log.add(outcome(0))
        assert list(complete_lines(path)) == LINES[:count]
