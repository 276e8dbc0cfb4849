"""Input files: the images and videos that a folder, a file or a pattern names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from img2img_data.core.errors import Img2ImgError, Rejected, UsageError, printable
from img2img_data.corpus.format import CORPUS_FILE
from img2img_data.corpus.reader import open_corpus
from img2img_data.images.headers import is_image_name
from img2img_train.inference.video import VIDEO_FORMATS, is_video

IMAGE_FORMATS: Final = {".png": "png", ".jpg": "jpg", ".jpeg": "jpg", ".webp": "webp"}
"""Formats of written images by file name extension."""
NOT_READ: Final = frozenset(
    b"pcx dds svg eps xcf dng raw nef nrw cr2 cr3 crw arw srf sr2 orf rw2 raf pef srw x3f "
    b"3fr iiq erf kdc mpg mpeg m2v mts m2ts wmv flv 3gp ogv vob".split()
)
"""Extensions of other images and videos: each such file is a rejected row, not a silent gap."""
STDIO: Final = "-"


def list_images(source: Path, out: Path | None = None) -> tuple[bytes, list[bytes]]:
    """Return a folder and the paths of its images and videos relative to it, sorted, including
    those of formats that are not read.

    ``source`` is a folder, a file, or a pattern with ``*``, ``?`` or ``**``. Hidden files and
    folders are skipped, links to folders are not followed, and files in ``out`` are results of an
    earlier call. UsageError if nothing is found or if ``out`` is the folder itself.
    """
    if source.is_dir():
        root, paths = os.fsencode(source), sorted(_walk(os.fsencode(source), b""))
    elif source.is_file() or source.is_symlink():
        root, paths = os.fsencode(source.parent), [os.fsencode(source.name)]
    elif glob.has_magic(str(source)):
        root, paths = _matches(source)
    else:
        raise UsageError("images", source, "no such file or folder", "check the path")
    if out is not None:
        images, results = (Path(os.path.realpath(p)) for p in (os.fsdecode(root), out))
        if results == images:
            hint = "choose another folder, so that no image is overwritten"
            raise UsageError("output", out, "is the folder of the images", hint)
        if results.is_relative_to(images):
            inner = os.fsencode(results.relative_to(images).as_posix())
            paths = [path for path in paths if not path.startswith(inner + b"/")]
    if not paths:
        hint = "give a folder with .jpg, .png or the like"
        raise UsageError("images", source, "holds no images", hint)
    return root, paths


def notes_on_targets(source: Path, corpora: Iterable[str]) -> list[str]:
    """Return a note if a folder is of a paired corpus and holds more than its inputs.

    ``corpora``: folders that may be corpora of other tools, as those of a run.
    """
    name = printable(source)
    # Not Path.resolve, which raises for a loop of links.
    folder, *own = (Path(os.path.realpath(str(path))) for path in (source, *corpora))
    roots = (p for p in (folder, *folder.parents) if p in own or (p / CORPUS_FILE).is_file())
    with suppress(Img2ImgError, StopIteration):
        corpus = open_corpus(next(roots), rows=False)
        if corpus.kind == "paired" and corpus.layout == "combined":
            why = "its images are an input and a target side by side, translated as one image"
            return [f"'{name}': {why}; 'img2img-train evaluate' takes the inputs alone"]
        if any(path.is_dir() for path in (folder / "target", *folder.glob("*/target"))):
            return [f"'{name}': its targets are translated too; give one of its folders alone"]
    return []


def is_one_file(source: Path, out: Path) -> bool:
    """Return True if ``source`` is one file (or "-") and ``out`` the name of one file (or "-").

    UsageError if ``out`` is of another kind than ``source``, of a format that is not written, or
    ``source``.
    """
    piped, named = str(source) == STDIO, _is_input(os.fsencode(out.name))
    if source.is_dir() and named and not out.is_dir():
        why = f"has the name of a file, but '{printable(source)}' is a folder"
        raise UsageError("output", out, why, "give the name of a folder")
    if not piped and not (source.is_file() and (named or str(out) == STDIO) and not out.is_dir()):
        return False
    if not piped and out.exists() and out.samefile(source):
        raise UsageError("output", out, "is the source itself", "choose another name")
    video = is_video(os.fsencode(source.name))
    formats = [f".{name}" for name in VIDEO_FORMATS] if video else [*IMAGE_FORMATS]
    # An image may go to standard output, or to a name that tells nothing: --format decides.
    if out.suffix.lower() not in formats and (video or named):
        why = f"is not the name of {'a video' if video else 'an image'} that can be written"
        raise UsageError("output", out, why, f"give one ending in {', '.join(formats)}")
    return True


def _walk(root: bytes, folder: bytes) -> Iterator[bytes]:
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            path = folder + b"/" + entry.name if folder else entry.name
            if entry.name.startswith(b"."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            elif _is_input(entry.name):
                yield path


def _matches(pattern: Path) -> tuple[bytes, list[bytes]]:
    """Return the folder before the first wildcard, and the files below it that match."""
    parts = pattern.parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    # Within a name "**" is "*".
    rest = Path(*(part if part == "**" else re.sub(r"\*+", "*", part) for part in parts[fixed:]))
    if "**" in rest.parts:
        # Not glob.glob, whose "**" follows links to folders, in circles too. That of pathlib finds
        # hidden files too, and only folders if it comes last.
        rest = rest / "*" if rest.name == "**" else rest
        found = (str(path.relative_to(root)) for path in root.glob(str(rest)))
        matches = [path for path in found if not any(p.startswith(".") for p in Path(path).parts)]
    else:
        matches = glob.glob(str(rest), root_dir=root)
    files = {os.fsencode(Path(match).as_posix()) for match in matches if (root / match).is_file()}
    return os.fsencode(root), sorted(filter(_is_input, files))


def _is_input(name: bytes) -> bool:
    return is_image_name(name) or is_video(name) or _suffix(name) in NOT_READ


def _suffix(name: bytes) -> bytes:
    return os.path.splitext(name)[1][1:].lower()


def check_readable(name: bytes) -> None:
    """Raise Rejected if a file name ends as those of a format that is not read."""
    # By the name: raw files of cameras are TIFF files, of which only a preview could be read.
    if _suffix(name) in NOT_READ:
        raise Rejected("unsupported-format", f"convert .{_suffix(name).decode()} files first")
