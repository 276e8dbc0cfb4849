"""Shared by the tests of sources."""

from __future__ import annotations

import os
from pathlib import Path

from img2img_data.sources.folder import Item


def put(root: Path, *names: str | bytes) -> Path:
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def paths(items: list[Item]) -> list[bytes]:
    return [i.path for i in items]
