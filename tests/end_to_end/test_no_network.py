"""No command of either program opens a connection or resolves a name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import every_command
import pytest


@pytest.mark.slow
def test_no_command_reaches_the_network(tmp_path: Path) -> None:
    for extra in ("gradio", "onnxruntime", "av", "skimage", "tensorboard", "lmdb"):
        pytest.importorskip(extra)
    # An audit hook sees what Python does, strace also what libraries in C and other processes do.
    watch, trace = list[str](), tmp_path / "trace"
    if shutil.which("strace"):
        # A filter in the kernel; without, every system call stops the program twice.
        watch = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(trace)]
        watch += ["-e", "trace=connect,sendto,sendmsg"]
    folders = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [*watch, sys.executable, every_command.__file__, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "attempts").read_text() == ""
    lines = trace.read_text().splitlines() if watch else []
    assert [line for line in lines if "AF_INET" in line and "127.0.0.1" not in line] == []
