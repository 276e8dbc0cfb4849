"""Files: regular files, atomic writes, the lock of a folder, journals, versions of packages."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from img2img_data.core.errors import REASONS, FolderInUseError, Img2ImgError, Rejected, UsageError

LOCK_FILE: Final = ".lock"
"""Name of the file that marks a folder as in use; scans of a folder skip it."""

_RETRY_SECONDS: Final = 0.1


# ---------------------------------------------------------------------------------- regular files
MAX_BYTES: Final = 256 << 20
MAX_LINE: Final = 1 << 24
"""Bytes of a line of a journal."""

# O_NONBLOCK: opening a pipe that nobody writes to would wait forever. Not every system has all.
OPEN_FLAGS: Final = sum(getattr(os, f"O_{name}", 0) for name in ("NONBLOCK", "NOFOLLOW", "BINARY"))
_WRITE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
OPEN_ERRORS: Final[dict[int, str]] = {
    **dict.fromkeys((errno.ELOOP, errno.EMLINK), "link"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE), "vanished"),
    **dict.fromkeys((errno.ENXIO, errno.ENODEV, errno.EISDIR), "not-a-regular-file"),
    errno.ENAMETOOLONG: "name",
}


def open_regular(path: bytes | str | Path) -> int:
    """Return a descriptor for reading a regular file of any size; links and pipes are never opened.

    Raises ``Rejected``: link, vanished, unreadable, not-a-regular-file, name.
    """
    try:
        if not hasattr(os, "O_NOFOLLOW") and Path(os.fsdecode(path)).is_symlink():
            raise Rejected("link")
        handle = os.open(path, OPEN_FLAGS)
    except ValueError as error:
        raise Rejected("name", str(error)) from None
    except OSError as error:
        number = error.errno or 0
        reason = OPEN_ERRORS.get(number, "unreadable")
        # For a single link, too, the system's message is about a loop of links.
        raise Rejected(reason, "" if reason == "link" else os.strerror(number)) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Rejected("not-a-regular-file")
    return handle


def read_bytes(path: bytes | str | Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most ``limit`` bytes.

    Raises ``Rejected`` as ``open_regular`` does, and: empty, file-too-big.
    """
    # System calls, because a file object costs as much as reading a small image.
    handle = open_regular(path)
    try:
        # The size is taken from the open file: the name could mean another one by now.
        size = os.fstat(handle).st_size
        if size > limit:
            raise Rejected("file-too-big", f"{size} bytes, limit {limit}")
        data = os.read(handle, size)
        while len(data) < size and (more := os.read(handle, size - len(data))):
            data += more
    except OSError as error:
        raise Rejected("unreadable", os.strerror(error.errno or 0)) from None
    finally:
        os.close(handle)
    if not data:
        raise Rejected("empty")
    return data


def read_named(what: str, path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file that the user named; a link to one is followed.

    Raises ``UsageError``, which calls the file ``what``.
    """
    try:
        return read_bytes(os.path.realpath(path), limit)
    except Rejected as rejected:
        reason = REASONS[rejected.reason]
        why = rejected.detail or (f"is {reason}" if reason.startswith("a ") else reason)
        raise UsageError(what, path, why, "check the path") from None


# ---------------------------------------------------------------------------------- atomic writes
T = TypeVar("T")

Content = bytes | Iterable[bytes | memoryview]


def write_atomically(
    path: str | Path, data: Content, temporary: str | Path | None = None, sync: bool = False
) -> None:
    """Write a file under a temporary name and rename it, so that no reader sees a partial file.

    ``data`` is the content or its parts, which are written as they come. Missing parent folders are
    created. ``temporary`` must be on the same file system as ``path``; the default is a hidden
    neighbor. With ``sync`` the content and the new name are on the disk when the function returns.

    Raises ``UsageError`` if ``path`` exists and is not a regular file, and ``OSError`` with
    ``path`` as its file name if writing fails; either way nothing is left behind. A caller that
    gives ``temporary`` chose ``path`` itself, so what ``path`` is now is not checked.
    """
    # This runs for every image, so names are text and not a ``Path``, there are system calls in
    # place of file objects, and a folder is created only after a call has failed without it.
    is_given = temporary is not None
    if temporary is None:
        # A rename would replace a device such as /dev/null by a file.
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
            raise UsageError("file", path, "is a folder or a device", "choose another name")
        folder, name = os.path.split(path)
        temporary = os.path.join(folder, f".{name}.tmp")
    open_it = functools.partial(os.open, temporary, _WRITE_FLAGS, 0o666)
    try:
        # The folder of a given temporary file is missing where the output was moved meanwhile.
        _write(open_it() if is_given else with_folder(path, open_it), data, sync)
        with_folder(path, lambda: os.replace(temporary, path))
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        # The error names the file that was asked for, not the temporary one.
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    if sync:
        sync_folder(Path(path).parent)


def with_folder(path: str | Path, use: Callable[[], T]) -> T:
    """Return the result of ``use``; if it fails without the folder of ``path``, create that."""
    try:
        return use()
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return use()


def _write(handle: int, data: Content, sync: bool) -> None:
    """Write the content to an open file and close it."""
    try:
        if isinstance(data, bytes):
            while data:  # a system call may write less than it is given
                data = data[os.write(handle, data) :]
        else:
            with open(handle, "wb", closefd=False) as file:
                file.writelines(data)
        if sync:
            # Without this the rename may reach the disk before the content does, and a power
            # failure in between leaves an empty file under the final name.
            os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk; systems that cannot (Windows) are left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` of the block into the ``Img2ImgError`` of ``cannot_write``."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> Img2ImgError:
    """Return the one-line error for a failed write to ``path``, or to the file that it names."""
    name = Path(os.fsdecode(error.filename)) if error.filename else path
    why, hint = os.strerror(error.errno or 0), "check the path and its permissions"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        why, hint = "no space left on the device", "free some space and run it again"
    elif error.errno == errno.EFBIG:
        why, hint = "file too large", "raise the file size limit and run it again"
    elif error.errno == errno.ENAMETOOLONG:
        hint = "choose a shorter name"
    elif error.errno in {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        hint = "raise the limit (ulimit -a shows it), or use fewer processes"
    return Img2ImgError("cannot write", name, why, hint)


# ---------------------------------------------------------------------------------------- folders
def no_folder(path: Path, what: str = "folder") -> UsageError:
    """Return the error for a path that is not a folder; ``what`` is the word of its message."""
    why = "is a file, not a folder" if path.exists() else "no such folder"
    return UsageError(what, path, why, "check the path")


def check_unused(folder: Path, own: Collection[str] = (), what: str = "folder") -> None:
    """Raise UsageError if a folder holds files, or is a file; ``own`` and hidden ones do not count.

    Hidden files are those of Git, of a file manager, or what a killed process left. ``what`` is the
    word of the error message.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(what, folder, "is a file, not a folder", "choose a new or an empty folder")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if other := min((name for name in names - {*own} if name[0] != "."), default=""):
        why, hint = f"holds other files ({other!r})", "choose a new or an empty folder"
        raise UsageError(what, folder, why, hint)


@contextlib.contextmanager
def locked(
    folder: Path,
    what: str = "folder",
    hint: str = "wait for it, or choose another folder",
    wait: float = 0.0,
) -> Iterator[None]:
    """Hold a folder for this process while the block runs; the folder is created if missing.

    ``wait``: seconds to wait for another process. ``what`` and ``hint`` are words of the error
    message. A folder that the call created and that is still empty afterwards is removed again.

    Raises ``FolderInUseError`` if another process holds the folder, ``Img2ImgError`` if it cannot
    be written to.
    """
    with writing_to(folder):
        created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + wait
        while (handle := _try_lock(folder / LOCK_FILE)) is None and time.monotonic() < deadline:
            time.sleep(_RETRY_SECONDS)
    if handle is None:
        raise FolderInUseError(what, folder, "is in use by another process", hint)
    try:
        yield
    finally:
        _unlock(folder / LOCK_FILE, handle)
        if created:
            with contextlib.suppress(OSError):
                folder.rmdir()  # fails unless empty


def _try_lock(path: Path) -> int | None:
    """Return the handle of the locked file, or None if another process holds it.

    The operating system releases the lock when the process ends, however it ends, so a file that a
    killed process left behind locks nobody out. A file and not the folder itself is locked: Windows
    cannot lock folders, and NFS needs a handle that is open for writing.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            return handle
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder may have removed the file after we opened it; our lock is then on a file
        # without a name, and another process can lock the new one.
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError, PermissionError):
        pass
    except OSError:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _unlock(path: Path, handle: int) -> None:
    # Removed before it is unlocked: the other way around we could remove the file of the next
    # holder. Windows removes no open file, so there the file is closed first; a next holder keeps
    # it open.
    if sys.platform != "win32":
        path.unlink(missing_ok=True)
    os.close(handle)
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            path.unlink()


def stamp_of(path: bytes) -> tuple[int, int]:
    """Return size and time of a file, which reveal a change; zeros if there is no file."""
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return (0, 0)
    # A file that was put in place of another may be older than that one.
    return found.st_size, max(found.st_mtime_ns, found.st_ctime_ns)


def has_changed_since(path: bytes, time_ns: int) -> bool:
    """Return True if a file was changed, or put in its place, at or after a time.

    A modification time in the future, as cameras and archives may state, does not count: it
    would be after every time.
    """
    try:
        found = os.lstat(path)
    except (OSError, ValueError):
        return False
    modified = found.st_mtime_ns if found.st_mtime_ns <= time.time_ns() else 0
    return max(modified, found.st_ctime_ns) >= time_ns


# ---------------------------------------------------------------------------------------- journal
def complete_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a journal, if there is one, without a last line that a kill cut short."""
    with contextlib.suppress(Rejected), open(open_regular(path), "rb") as file:
        while (line := file.readline(MAX_LINE)).endswith(b"\n"):
            yield line


# --------------------------------------------------------------------------------------- versions
def versions(*names: str) -> dict[str, str]:
    """Return the version of each installed distribution, "unknown" if it is missing.

    ``"python"`` is the version of the interpreter.
    """
    # Imported here: importlib.metadata loads the email package, which slows down --help.
    from importlib import metadata
    from platform import python_version

    found = dict.fromkeys(names, "unknown")
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = python_version() if name == "python" else metadata.version(name)
    return found
