"""Laws of the atomic writer, the lock of a folder and the versions of packages."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from img2img_data.core.errors import FolderInUseError, UsageError
from img2img_data.core.files import (
    LOCK_FILE,
    cannot_write,
    locked,
    read_bytes,
    versions,
    write_atomically,
)

HOLD = """
import sys, time
from pathlib import Path
from img2img_data.core.files import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("data", [b"new", [b"n", memoryview(b"ew")]])
def test_a_file_is_replaced_and_its_folder_created(
    tmp_path: Path, data: bytes | list[bytes | memoryview], sync: bool
) -> None:
    path = tmp_path / "folder" / "page.json"
    write_atomically(path, b"old", sync=sync)
    write_atomically(path, data, sync=sync)
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["page.json"]


def test_the_temporary_file_may_be_elsewhere(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_atomically(tmp_path / "deep/folder/page.json", content, tmp_path / "temporary")
        assert (tmp_path / "deep/folder/page.json").read_bytes() == content
    assert names(tmp_path) == ["deep"]


def test_a_folder_that_was_moved_is_not_created_again(tmp_path: Path) -> None:
    """Of the temporary file, that is: a build would be stopped by the rest of itself."""
    with pytest.raises(OSError, match=r"page\.json"):
        write_atomically(tmp_path / "out/page.json", b"new", tmp_path / "out/tmp/temporary")
    assert names(tmp_path) == []


def test_system_calls_may_transfer_less_than_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.read, os.write
    monkeypatch.setattr(os, "read", lambda handle, size: read(handle, min(size, 3)))
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:3]))
    write_atomically(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").stat().st_size == 10
    assert read_bytes(tmp_path / "file") == b"0123456789"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    def parts() -> Iterator[bytes]:
        yield b"new"
        raise error

    path = tmp_path / "page.json"
    write_atomically(path, b"old")
    with pytest.raises(type(error)) as caught:
        write_atomically(path, parts())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["page.json"]
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "page.json"
    write_atomically(path, b"old")

    def parts() -> Iterator[bytes]:
        yield b"half"
        assert path.read_bytes() == b"old"
        yield b"half"

    write_atomically(path, parts())
    assert path.read_bytes() == b"halfhalf"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EMFILE, "raise the limit"),
        (errno.EAGAIN, "raise the limit"),
        (errno.EACCES, "check the path and its permissions"),
        (errno.ENAMETOOLONG, "choose a shorter name"),
    ],
)
def test_a_failed_write_says_what_to_do(number: int, hint: str) -> None:
    error = cannot_write(Path("out"), OSError(number, os.strerror(number), "out/page.json"))
    assert str(error).startswith("cannot write 'out/page.json': ")
    assert hint in str(error)


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    for path in (tmp_path / "page.html", Path(os.devnull)):
        with pytest.raises(UsageError, match="choose another name"):
            write_atomically(path, b"x")
    with pytest.raises(OSError, match=r"page\.html"):
        write_atomically(tmp_path / "page.html", b"x", tmp_path / "temporary")
    assert names(tmp_path) == ["page.html"]


def test_a_lock_is_exclusive_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "folder"
    with locked(folder):
        with pytest.raises(FolderInUseError, match=r"run '.*': is in use by another process; ask"):
            locked(folder, "run", "ask them").__enter__()
        (folder / "file").touch()
    assert names(folder) == ["file"]
    with locked(tmp_path / "empty"):
        assert names(tmp_path / "empty") == [LOCK_FILE]
    assert names(tmp_path) == ["deep"]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        began = time.monotonic()
        with pytest.raises(FolderInUseError):
            locked(tmp_path, wait=0.3).__enter__()
        assert time.monotonic() - began >= 0.3
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert names(tmp_path) == [LOCK_FILE]
    with locked(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_lock_on_a_removed_file_is_not_taken_for_the_lock(tmp_path: Path) -> None:
    """The holder removes the file before it unlocks it; another may have opened it by then."""
    import fcntl

    from img2img_data.core import files

    real = fcntl.flock

    def removed_meanwhile(handle: int, how: int) -> None:
        (tmp_path / LOCK_FILE).unlink()
        real(handle, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", removed_meanwhile)
        assert files._try_lock(tmp_path / LOCK_FILE) is None


def test_versions_are_those_installed() -> None:
    found = versions("python", "numpy", "no-such-package")
    assert list(found) == ["python", "numpy", "no-such-package"]
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["numpy"] == np.__version__
    assert found["no-such-package"] == "unknown"
