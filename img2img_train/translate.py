"""A model and a folder of pictures of any size to restored pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from img2img_data import images
from img2img_data.corpus import REJECTED_FILE, Keys, to_json_line, write_atomically
from img2img_data.errors import Refused, UsageError, printable
from img2img_train.run import LoadedModel

PICTURES: Final = frozenset(
    {b"jpg", b"jpeg", b"jpe", b"jfif", b"png", b"webp", b"bmp", b"gif", b"tif", b"tiff"}
)
"""What a file's name ends in to be taken for a picture in a folder; its content decides whether it is one."""


@dataclass(slots=True)
class Translated:
    """How many pictures were restored, and why the others were not."""

    out: Path
    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def list_pictures(source: Path) -> tuple[bytes, list[bytes]]:
    """Return a folder and the paths of its pictures relative to it, sorted; of a file, its folder and its
    name.

    Hidden files and folders are passed over, links to folders are not followed. UsageError where there is no
    picture.
    """
    if source.is_dir():
        root = os.fsencode(source)
        paths = sorted(_walk(root, b""))
    elif source.is_file() or source.is_symlink():
        root, paths = os.fsencode(source.parent), [os.fsencode(source.name)]
    else:
        raise UsageError("pictures", source, "no such file or folder", "check the path")
    if not paths:
        raise UsageError("pictures", source, "holds no pictures", "give a folder with .jpg, .png or the like")
    return root, paths


def _walk(root: bytes, below: bytes) -> Iterator[bytes]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            path = below + b"/" + entry.name if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            elif entry.name.rpartition(b".")[2].lower() in PICTURES:
                yield path


def translate(
    model: LoadedModel,
    source: Path,
    out: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Translated:
    """Restore a picture, or all pictures of a folder, into ``out`` as PNG files in the same folders.

    A picture that cannot be read is a row in ``out/rejected.jsonl``, as in a corpus. Equal inputs give equal
    bytes; an existing output is written again. UsageError where the source holds no picture or ``out`` cannot
    be written.
    """
    root, paths = list_pictures(source)
    keys, done, rows = Keys(paths), Translated(out), []
    _make(out)
    for number, path in enumerate(paths, 1):
        try:
            _restore(model, os.path.join(root, path), out / f"{keys[path]}.png")
            done.kept += 1
        except Refused as refused:
            done.refused[refused.reason] += 1
            rows.append(_row(path, refused))
        progress(number, len(paths))
    write_atomically(out / REJECTED_FILE, b"".join(map(to_json_line, rows)), out / f".{REJECTED_FILE}.tmp")
    return done


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            "output", folder, error.strerror or "cannot be made", "give another folder"
        ) from None


def _restore(model: LoadedModel, source: bytes, target: Path) -> None:
    pixels = images.read(source).pixels
    made = model.restore(pixels[None])[0]
    _make(target.parent)
    write_atomically(target, images.encode(made, "png"), target.with_name(f".{target.name}.tmp"))


def _row(path: bytes, refused: Refused) -> dict[str, Any]:
    return {
        "source": printable(path),
        "source_hex": path.hex(),
        "reason": refused.reason,
        "detail": printable(refused.detail),
    }
