"""Errors of both packages, one line each, and the reasons for which an image is rejected.

::

    Img2ImgError                a command cannot do what was asked        exit 1
    ├── UsageError              an option, recipe or setting is wrong     exit 2
    │   ├── FolderInUseError    another process holds the folder          exit 2
    │   └── ArchiveError        an archive is damaged or unsafe           exit 2
    ├── CorpusError             a corpus is unfinished or damaged         exit 1
    ├── NothingKeptError        all images were rejected                  exit 1
    ├── CheckpointError         a checkpoint is damaged or foreign        exit 2
    └── DivergedError           a loss or weight is not finite            exit 3

    Rejected                    one image is not usable: a row in rejected.jsonl, never an exit
"""

from __future__ import annotations

import importlib
from typing import Any, Final

REASONS: Final[dict[str, str]] = {
    "empty": "the file has no bytes",
    "not-an-image": "the content is not a known image format",
    "truncated": "the data end before the image does",
    "corrupt": "the data are damaged",
    "unsupported-format": "an image format that is not supported",
    "unsupported-depth": "a sample type that cannot be converted to 8 or 16 bit",
    "non-finite": "NaN or infinite samples",
    "too-many-pixels": "more pixels, or a longer side, than the limit",
    "too-small": "smaller, or narrower, than the limit",
    "file-too-big": "more bytes than the limit",
    "animated": "more than one frame",
    "alpha": "transparent, and transparency is rejected",
    "size": "not the requested size, with --fit error",
    "low-detail": "less detail than --min-detail",
    "duplicate": "the same image as another one",
    "name": "a name that cannot be a path",
    "not-a-regular-file": "a pipe, socket, device or folder",
    "link": "a symbolic link",
    "no-split": "neither its folder nor a tag names its split",
    "outside-root": "a path that leaves the source folder",
    "unreadable": "the file cannot be opened",
    "vanished": "the file disappeared before it was read",
    "missing": "a listed file does not exist",
    "unpaired": "the other half is missing or was rejected",
    "ambiguous-pair": "more than one candidate for the other half",
    "misaligned": "the halves are shifted by more than --max-shift",
    "gray": "a black-and-white image",
    "no-face": "no face was found",
    "no-gender": "the gender is unknown",
    "timeout": "took longer than the time limit",
    "worker-died": "its worker process died twice",
    "out-of-memory": "not enough memory",
}
"""Reasons for which an image is rejected. The words are part of the corpus format."""

TRANSIENT_REASONS: Final = frozenset(
    {"timeout", "worker-died", "out-of-memory", "unreadable", "vanished"}
)
"""Reasons that may lie in the machine, not in the image: a later run tries it again."""

HINTS: Final[dict[str, tuple[str, ...]]] = {
    "alpha": ("leave out --alpha reject",),
    "gray": ("leave out --drop-gray, or raise --gray-tolerance",),
    "link": ("--follow-links reads them",),
    "low-detail": ("lower --min-detail",),
    "misaligned": ("raise --max-shift",),
    "no-face": ("lower --min-face-score",),
    "out-of-memory": ("lower --jobs",),
    "no-split": ("give shares, as in --split train=0.8,test=0.2",),
    "size": ("--fit crop or --fit pad changes the size",),
    "timeout": ("raise --timeout",),
    "too-small": ("lower --min-side", "lower --tile"),
}
"""Hints for a reason that rejects all images; a command shows those whose options it has."""


def printable(name: object) -> str:
    """Return a name safe to print: control, invisible and undecodable characters escaped."""
    # A name in an archive or a folder comes from others: an escape sequence in it could rewrite the
    # terminal, and a newline could forge a line of a log.
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name)
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


class Img2ImgError(Exception):
    """A command cannot do its work; ``str()`` is the line to print: WHAT 'PATH': WHY; HINT."""

    exit_code = 1

    def __init__(self, what: str, path: object = None, why: str = "", hint: str = "") -> None:
        named = f"{what} '{printable(path)}'" if path is not None else what
        text = ": ".join(part for part in (named, why) if part)
        super().__init__(f"{text}; {hint}" if hint and text else text or hint)


class UsageError(Img2ImgError):
    """An option, a recipe or a setting is wrong, or contradicts what is on disk."""

    exit_code = 2


def load_extra(module: str, extra: str, what: str, name: object = None) -> Any:
    """Return a module that an extra installs; ``UsageError`` gives the command if it is missing."""
    # Imported here, where it is used: an extra that is missing must not break other commands.
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing_extra(error, extra, what, name) from None


def missing_extra(error: ImportError, extra: str, what: str, name: object = None) -> UsageError:
    """Return the error about an extra without which ``what`` cannot do its work."""
    why = f"needs '{(error.name or extra).partition('.')[0]}', which is not installed"
    return UsageError(what, name, why, install_hint(extra))


def install_hint(extra: str) -> str:
    """Return the command that installs an extra of this project."""
    return f"pip install 'img2img[{extra}]'"


class FolderInUseError(UsageError):
    """Another process works in the folder."""


class ArchiveError(UsageError):
    """An archive is damaged, or a member is not a regular file with a safe name."""


class CorpusError(Img2ImgError):
    """A corpus is unfinished or damaged."""


class NothingKeptError(Img2ImgError):
    """All images were rejected, most of them for ``reason``, one of ``REASONS``."""

    def __init__(self, reason: str, folder: object, why: str, hint: str) -> None:
        super().__init__("nothing to write to", folder, why, hint)
        self.reason = reason


class CheckpointError(Img2ImgError):
    """A checkpoint is missing, damaged, of another model, or not finite."""

    exit_code = 2


class DivergedError(Img2ImgError):
    """Training stopped because a loss or a weight is not finite."""

    exit_code = 3


class Rejected(Exception):
    """One image cannot be used. ``reason``: a key of ``REASONS``; ``detail``: a short text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        if reason not in REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
