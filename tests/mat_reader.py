"""The child process of ``mat_file`` without its start: a server that has loaded scipy forks it.

Run as ``python mat_reader.py``; each line is a list of arguments in JSON, and each answer a line
with the exit code and the output of that child.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from img2img_data.sources import mat_file


@contextmanager
def children_forked() -> Iterator[None]:
    """Let ``mat_file`` ask the server; its limits, its answers and its crashes stay the same."""
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert server.stdin
    assert server.stdout
    asked, answers = server.stdin, server.stdout

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.write(json.dumps(command[-3:]) + "\n")
        asked.flush()
        return subprocess.CompletedProcess(command, *json.loads(answers.readline()))

    with pytest.MonkeyPatch.context() as patch:
        expired = subprocess.TimeoutExpired
        patch.setattr(mat_file, "subprocess", SimpleNamespace(run=run, TimeoutExpired=expired))
        yield
    server.communicate()


def serve() -> None:
    """Answer each line of standard input."""
    import scipy.io  # noqa: F401

    for line in sys.stdin:
        path, *names = json.loads(line)
        seen, written = os.pipe()
        if (child := os.fork()) == 0:
            with os.fdopen(written, "w") as file:
                json.dump(mat_file._answer(path, *(words.split(",") for words in names)), file)
            os._exit(0)
        os.close(written)
        with os.fdopen(seen) as answer:
            output = answer.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([code, output]), flush=True)


if __name__ == "__main__":
    serve()
