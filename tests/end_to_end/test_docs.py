"""The shell and Python of README and docs/: every block is checked, most run, at a small size."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import ROOT, Block, check, read_blocks, run_page

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in read_blocks(page)]
RUN = [page for page in PAGES if any(not block.not_run for block in read_blocks(page))]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}:{block.line}")
def test_commands_options_and_names_exist(block: Block) -> None:
    check(block)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)
