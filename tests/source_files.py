"""Source folders whose files hold one byte: sources list names and do not open files."""

from __future__ import annotations

import os
from pathlib import Path

from img2img_data.sources.folder import Item


def put(root: Path, *names: str | bytes) -> Path:
    """Write a file for each name and return the folder."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def paths(items: list[Item]) -> list[bytes]:
    """Return the relative paths of items."""
    return [item.path for item in items]
