"""The benchmark for GPUs, rehearsed on the CPU: the first minute there is not for typing errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.mark.slow
def test_sections_are_rehearsed(tmp_path: Path) -> None:
    """A law and a speed, the whole way: processes, figures, verdicts. All: --rehearse alone."""
    command = [sys.executable, str(SCRIPT), "--rehearse", "--only", "caches", "--only", "edsr"]
    done = subprocess.run([*command, "--out", str(tmp_path / "gpu.json")], capture_output=True)
    assert done.returncode == 0, done
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert list(rows) == ["machine", "caches", "edsr"]
    assert rows["caches"]["ok"] is True
    assert rows["edsr"]["img2img, images/s"] > 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{k: rows[k]} for k in rows]
