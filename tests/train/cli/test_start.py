"""Commands start without searching the modules of torch for garbage, or without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_photos

COUNT_FROZEN = """
import gc, sys
from img2img_train.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(gc.isenabled(), gc.get_freeze_count())
"""


@pytest.mark.parametrize(
    "command",
    [
        "fit .",
        "evaluate nowhere --on nowhere",
        "translate nowhere photos restored",
        "export nowhere model.onnx",
        "adopt nowhere.pth model.safetensors",
    ],
)
def test_a_command_freezes_the_modules_that_it_imports(command: str, tmp_path: Path) -> None:
    # An unpaired corpus, which the default loss rejects when all modules are there.
    for domain in ("trainA", "trainB"):
        write_photos(tmp_path / domain, 1)
    words = [sys.executable, "-c", COUNT_FROZEN, *command.split()]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    is_enabled, frozen = done.stdout.split()
    assert is_enabled == "True"
    assert int(frozen) > 100_000, "torch alone has more objects"


def test_a_report_needs_no_torch() -> None:
    code = "import img2img_train.report.page, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
