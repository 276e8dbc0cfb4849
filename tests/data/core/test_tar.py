"""Laws of reading archives that ``tarfile`` alone does not keep."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from img2img_data.core import tar
from img2img_data.core.errors import ArchiveError

BLOCK = tarfile.BLOCKSIZE


def archive(*names: str, **fields: object) -> bytes:
    out = BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            for key, value in fields.items():
                setattr(info, key, value)
            file.addfile(info, BytesIO(b"data"))
    return out.getvalue()


def damaged(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


GOOD = archive("a.png", "d/b.png", "c.json")
HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a damaged header is not the end": ("damaged", lambda: damaged(GOOD, 2 * BLOCK + 3)),
    "no end": ("damaged or cut", lambda: GOOD[: 6 * BLOCK]),
    "cut in a header": ("damaged or cut", lambda: GOOD[: 4 * BLOCK + 100]),
    "cut in a file": ("ends within 'd/b.png'", lambda: GOOD[: 3 * BLOCK + 2]),
    "no archive": ("decompress a compressed archive first", lambda: b"\x1f\x8b" + bytes(2000)),
    "a name that is not UTF-8": ("not a plain name", lambda: archive("\udcff.png")),
    "a path for all": (
        "sets path",
        lambda: (
            tarfile.TarInfo.create_pax_global_header({"path": "x.png"}) + archive("a.png", "b.png")
        ),
    ),
}


def members_of(tmp_path: Path, data: bytes) -> list[tar.Member]:
    (tmp_path / "x.tar").write_bytes(data)
    return list(tar.members(tmp_path / "x.tar"))


def test_files_are_found_with_their_bytes(tmp_path: Path) -> None:
    found = members_of(tmp_path, GOOD)
    assert [member.name for member in found] == ["a.png", "d/b.png", "c.json"]
    assert all(tar.content(tmp_path / "x.tar", member) == b"data" for member in found)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_tarfile_passes_over_is_rejected(tmp_path: Path, name: str) -> None:
    why, make = HOSTILE[name]
    with pytest.raises(ArchiveError, match=why):
        members_of(tmp_path, make())
