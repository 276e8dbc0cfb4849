"""What can go wrong, and the one line a person reads about it.

::

    Img2ImgError                a command cannot do what was asked        exit 1
    ├── UsageError              an option, recipe or setting is wrong     exit 2
    │   ├── FolderInUseError         another run holds the folder              exit 2
    │   └── ArchiveError        an archive is damaged, or means harm      exit 2
    ├── CorpusError             a corpus is missing, unfinished, damaged  exit 1
    ├── CheckpointError         a checkpoint is damaged or not ours       exit 2
    └── DivergedError           a loss or weight stopped being finite     exit 3

    Rejected                     one image is not usable: a row in rejected.jsonl, never an end
"""

from __future__ import annotations

import importlib
from typing import Any, Final

REASONS: Final[dict[str, str]] = {
    "empty": "the file has no bytes",
    "not-an-image": "the content is no image format known here",
    "truncated": "the data end before the image does",
    "corrupt": "the data contradict themselves",
    "unsupported-format": "a image format that is not read here",
    "unsupported-depth": "a sample type that has no meaning as 8 or 16 bit",
    "non-finite": "NaN or infinite samples",
    "too-many-pixels": "more pixels, or a longer side, than the limit",
    "too-small": "smaller, or narrower, than the limit",
    "file-too-big": "more bytes than the limit",
    "animated": "more than one frame",
    "alpha": "transparent, and transparency is rejected",
    "size": "another size than asked for, and --fit error",
    "duplicate": "the same image as another one",
    "name-collision": "two sources would have one output",
    "name": "a name that cannot be a path",
    "not-a-regular-file": "a pipe, socket, device or folder",
    "link": "a symbolic link",
    "outside-root": "a path that leaves the given folder",
    "unreadable": "the file may not be opened",
    "vanished": "the file went away while reading",
    "missing": "a listed file does not exist",
    "unpaired": "the other half is missing or was rejected",
    "ambiguous-pair": "more than one candidate for the other half",
    "misaligned": "the two halves lie further apart than --max-shift",
    "gray": "a black-and-white photo",
    "no-face": "no face was found in it",
    "no-gender": "the gender is unknown",
    "timeout": "took longer than the limit",
    "worker-died": "its worker process died twice on it",
}
"""Why a image may be rejected, and what each word means; the words are part of the corpus format."""


def printable(text: str | bytes) -> str:
    """Return a name safe to show: control, invisible and undecodable characters escaped."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class Img2ImgError(Exception):
    """A command cannot do what was asked; ``str()`` is the line for a person."""

    exit_code = 1

    def __init__(self, what: str, path: object = None, why: str = "", hint: str = "") -> None:
        named = f"{what} '{printable(str(path))}'" if path is not None else what
        super().__init__("; ".join(p for p in (": ".join(p for p in (named, why) if p), hint) if p))


class UsageError(Img2ImgError):
    """An option, a recipe or a setting is wrong, or contradicts what is on disk."""

    exit_code = 2


def load_extra(module: str, extra: str, what: str, name: object = None) -> Any:
    """Import a package that an extra of this project installs; ``UsageError`` says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        why = f"needs '{package}', which is not installed"
        raise UsageError(what, name, why, install_hint(extra)) from None


def install_hint(extra: str) -> str:
    """Return the command that installs an extra."""
    return f"in the folder of the project: pip install -c constraints.txt -e '.[{extra}]'"


class FolderInUseError(UsageError):
    """Another run works in the folder."""


class ArchiveError(UsageError):
    """An archive is damaged, or holds what is no plain file of a harmless name."""


class CorpusError(Img2ImgError):
    """A corpus is missing, unfinished or damaged."""


class CheckpointError(Img2ImgError):
    """A checkpoint is missing, damaged, of another model, or not finite."""

    exit_code = 2


class DivergedError(Img2ImgError):
    """Training stopped because a loss or a weight was not finite."""

    exit_code = 3


class Rejected(Exception):
    """One image cannot be used. ``reason`` is a key of ``REASONS``, ``detail`` a short free text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
