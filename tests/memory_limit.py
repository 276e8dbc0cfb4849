"""The command img2img-train with a limit of memory: ``python memory_limit.py BYTES WORD...``

The limit comes on top of what the imports take. A process of its own has the same memory to begin
with whatever ran before.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import img2img_train.evaluation.evaluate
import img2img_train.inference.translate  # noqa: F401
from img2img_train.cli.main import main

if __name__ == "__main__":
    size, sys.argv = int(sys.argv[1]), ["img2img-train", *sys.argv[2:]]
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + size,) * 2)
    main()
