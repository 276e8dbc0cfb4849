"""Which images and videos a folder, a file or a pattern means."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from img2img_data.core.errors import UsageError
from img2img_data.images.headers import is_image_name
from img2img_train.inference.video import VIDEO_FORMATS, is_video

STDIO: Final = "-"
IMAGE_FORMATS: Final[dict[str, str]] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
}


def list_images(source: Path, out: Path | None = None) -> tuple[bytes, list[bytes]]:
    """Return a folder and the paths of its images and videos relative to it, sorted.

    ``source`` is a folder, a file, or a pattern with ``*`` or ``?`` (``**`` for folders). Hidden files and
    folders are passed over, links to folders are not followed, and what lies in ``out`` is a result, no
    source. UsageError where there is no image or ``out`` is the folder itself.
    """
    if source.is_dir():
        root = os.fsencode(source)
        paths = sorted(_walk(root, b""))
    elif source.is_file() or source.is_symlink():
        root, paths = os.fsencode(source.parent), [os.fsencode(source.name)]
    elif glob.has_magic(str(source)):
        root, paths = _matching(str(source))
    else:
        raise UsageError("images", source, "no such file or folder", "check the path")
    if out is not None:
        paths = _outside(root, paths, out)
    if not paths:
        raise UsageError(
            "images", source, "holds no images", "give a folder with .jpg, .png or the like"
        )
    return root, paths


def is_one_file(source: Path, out: Path) -> bool:
    """Tell whether a file ("-" for standard input) becomes one: ``out`` is "-" or a name of its kind.

    UsageError where ``out`` is of another kind than ``source``, of none that is written, or is ``source``.
    """
    piped, kind = str(source) == STDIO, _kind(out)
    if not piped and (not source.is_file() or not kind or out.is_dir()):
        return False
    if not piped and out.exists() and out.samefile(source):
        raise UsageError("output", out, "is the source itself", "give another name")
    video = is_video(os.fsencode(source.name))
    names = ", ".join(f".{f}" for f in VIDEO_FORMATS) if video else ", ".join(IMAGE_FORMATS)
    if kind not in ({"video"} if video else {"image", STDIO, ""}):
        why = f"is no name of a {'video' if video else 'image'} that is written here"
        raise UsageError("output", out, why, f"give one ending in {names}")
    return True


def _kind(out: Path) -> str:
    """Return what a name is that of: "image", "video", "other" for either not written here, "-", or ""."""
    suffix, name = out.suffix.lower(), os.fsencode(out.name)
    if str(out) == STDIO:
        return STDIO
    if suffix in IMAGE_FORMATS or suffix[1:] in VIDEO_FORMATS:
        return "image" if suffix in IMAGE_FORMATS else "video"
    return "other" if is_image_name(name) or is_video(name) else ""


def _outside(root: bytes, paths: list[bytes], out: Path) -> list[bytes]:
    """Leave out what lies in ``out``: results of an earlier call."""
    inside = os.path.relpath(os.path.realpath(os.fsencode(out)), os.path.realpath(root))
    if inside == b".":
        raise UsageError(
            "output", out, "is the folder of the images", "give another, that none is overwritten"
        )
    return [p for p in paths if not p.startswith(inside + b"/")]


def _walk(root: bytes, below: bytes) -> Iterator[bytes]:
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                continue
            path = below + b"/" + entry.name if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            elif is_image_name(entry.name) or is_video(entry.name):
                yield path


def _matching(pattern: str) -> tuple[bytes, list[bytes]]:
    """Return the folder before the first wildcard and what matches below it."""
    parts = Path(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed]) if fixed else Path()
    found = glob.glob(str(Path(*parts[fixed:])), root_dir=root, recursive=True)
    names = ((f, os.fsencode(f)) for f in found if (root / f).is_file())
    files = {
        os.fsencode(Path(f).as_posix())
        for f, name in names
        if is_image_name(name) or is_video(name)
    }
    return os.fsencode(root), sorted(files)
