"""IMDB-WIKI lists: every entry is an item with its tags; a hostile list is one line of error."""

from __future__ import annotations

import csv
import datetime
import math
import os
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mat_reader import children_forked
from source_files import paths, put
from wiki_list import cells, write_mat

from img2img_data.core.errors import REASONS, UsageError
from img2img_data.sources import mat_file
from img2img_data.sources.folder import Item, list_folder
from img2img_data.sources.imdb_wiki import SOURCES, find_mat, list_wiki


@pytest.fixture(scope="module", autouse=True)
def _children() -> Iterator[None]:
    """Fork the children of ``mat_file``: the start of one takes longer than what it does."""
    with children_forked():
        yield


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a child as outside of tests."""
    monkeypatch.setattr(mat_file, "subprocess", subprocess)


# ------------------------------------------------------------------------------------------- laws
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_lists_relative_bytes_and_known_reasons(name: str, tmp_path: Path) -> None:
    put(tmp_path, "b/2.jpg", "a/1.jpg", "notes.txt")
    write_mat(tmp_path / "wiki.mat", ["a/1.jpg", "b/2.jpg", "c/3.jpg", "../4.jpg"])
    items = list(SOURCES[name](tmp_path, None))
    assert {b"a/1.jpg", b"b/2.jpg"} <= set(paths(items))
    for item in items:
        assert isinstance(item.path, bytes)
        assert item.rejected is None or item.rejected[0] in REASONS
        assert all(isinstance(v, str | int | float | None) for v in item.tags.values())


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_folder_is_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-place"):
        list(SOURCES[name](tmp_path / "no-such-place", None))


# ------------------------------------------------------------------------------------------- wiki
def test_wiki_reads_the_tags_of_the_list(tmp_path: Path) -> None:
    put(tmp_path, "01/77_1971-10-25_2011.jpg", "02/nm05_rm6.jpg", "03/8.jpg")
    nan, inf = math.nan, math.inf
    write_mat(
        tmp_path / "wiki.mat",
        ["01/77_1971-10-25_2011.jpg", "02/nm05_rm6.jpg", "./03//8.jpg"],
        gender=np.array([[1, 0, nan]]),
        dob=np.array([[720191.7, 3.0, 1e300]]),
        photo_taken=np.array([[2011, nan, -4]]),
        name=cells(["Zoë \U0001f600", "", np.zeros((0, 0))]),
        face_score=np.array([[4.5, -inf, nan]]),
        second_face_score=np.array([[nan, 1.25, inf]]),
    )
    items = list(list_wiki(tmp_path))
    assert paths(items) == [b"01/77_1971-10-25_2011.jpg", b"02/nm05_rm6.jpg", b"03/8.jpg"]
    assert items[0].tags == {
        "person": "Zoë \U0001f600",
        "gender": "male",
        "birth": "1971-10-25",
        "photo_taken": 2011,
        "face_score": 4.5,
        "second_face_score": None,
    }
    unknown = {"birth": None, "photo_taken": None, "face_score": None}
    assert items[1].tags == {
        "person": "nm05",
        "gender": "female",
        **unknown,
        "second_face_score": 1.25,
    }
    assert items[2].tags == {"person": "8", "gender": None, **unknown, "second_face_score": None}


def test_wiki_takes_the_folder_the_list_and_imdb(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    mat = write_mat(
        tmp_path / "imdb.mat", ["1.jpg"], "imdb", celeb_names=cells(["a", "b"]), dob=None
    )
    assert find_mat(tmp_path) == find_mat(mat) == mat
    assert [i.rejected for i in (*list_wiki(tmp_path), *list_wiki(mat))] == [None, None]
    assert "birth" not in next(list_wiki(mat)).tags


def test_wiki_does_not_leave_its_folder(tmp_path: Path) -> None:
    root = put(tmp_path / "wiki_crop", "01/1.jpg", "02/2.jpg")
    put(tmp_path, "secret.jpg")
    (root / "l.jpg").symlink_to("../secret.jpg")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe.jpg")
    expected = {
        "01/1.jpg": "",
        "./02/2.jpg": "",
        "01//1.jpg": "duplicate",
        "../secret.jpg": "outside-root",
        "01/../../secret.jpg": "outside-root",
        "..": "outside-root",
        "/etc/hostname": "outside-root",
        "..\\..\\windows\\win.ini": "outside-root",
        "C:\\Windows\\win.ini": "outside-root",
        "c:/x.jpg": "outside-root",
        "\\\\server\\x.jpg": "outside-root",
        "//server/share/x.jpg": "outside-root",
        "a\n/../../x.jpg": "outside-root",
        "~/x.jpg": "missing",
        "file:///etc/passwd": "missing",
        "09/missing.jpg": "missing",
        "": "missing",
        ".": "missing",
        "x" * 5000 + ".jpg": "missing",
        "d/" * 3000 + "x.jpg": "missing",
        "01": "not-a-regular-file",
        "pipe.jpg": "not-a-regular-file",
        "01/1.jpg/x.jpg": "missing",
        "l.jpg": "link",
        "up/secret.jpg": "link",
        "up/wiki_crop/01/1.jpg": "link",
    }
    write_mat(root / "wiki.mat", list(expected))
    items = list(list_wiki(root))
    assert [i.rejected[0] if i.rejected else "" for i in items] == list(expected.values())
    assert all(not i.tags for i in items if i.rejected)


def test_wiki_entry_that_is_not_text_is_a_row(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    write_mat(tmp_path / "wiki.mat", ["1.jpg", np.array([[1.0, 2.0]]), np.array(["a", "b"])])
    assert [i.rejected and i.rejected[0] for i in list_wiki(tmp_path)] == [None, "name", "name"]


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def array(
    kind: int, sizes: tuple[int, ...], body: bytes, name: bytes = b"", order: str = "<"
) -> bytes:
    flags = element(6, struct.pack(order + "II", kind, 0), order)
    head = flags + element(5, struct.pack(f"{order}{len(sizes)}i", *sizes), order)
    return element(14, head + element(1, name, order) + body, order)


def nested(depth: int) -> bytes:
    inner = array(6, (1, 1), element(9, bytes(8)))
    for _ in range(depth):
        inner = array(1, (1, 1), inner)
    return inner


HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def of_struct(values: bytes, variable: bytes = b"wiki", fields: bytes = b"full_path") -> bytes:
    names = b"".join(f.ljust(32, b"\0") for f in fields.split())
    body = element(5, struct.pack("<i", 32)) + element(1, names) + values
    return HEAD + array(2, (1, 1), body, variable)


def of_size(kind: int, code: int, size: int) -> bytes:
    """Return an array that declares ``size`` bytes of data and has none."""
    return of_struct(array(kind, (1, size // 8), struct.pack("<II", code, size)))


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda w: b"", "damaged"),
    "text": (lambda w: b"not a mat file\n" * 40, "damaged|not a MATLAB"),
    "cut": (lambda w: w[: len(w) // 2], "damaged"),
    "cut in the header": (lambda w: w[:100], "damaged"),
    "header only": (lambda w: w[:128], "no variable 'wiki'"),
    "v7.3": (lambda w: b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM\x89HDF\r\n", "-v7"),
    "HDF5": (lambda w: b"\x89HDF\r\n\x1a\n" + bytes(600), "-v7"),
    "v4": (lambda w: struct.pack("<5i", 0, 1, 1, 0, 5) + b"wiki\0" + bytes(200), "damaged"),
    "another variable": (lambda w: of_struct(nested(1), b"faces"), "no variable 'wiki'"),
    "packed noise": (lambda w: HEAD + element(15, bytes(range(256))), "damaged"),
    "packed zeros": (lambda w: HEAD + element(15, zlib.compress(bytes(1 << 24))), "damaged"),
    "overwritten": (lambda w: w[:300] + bytes(99) + w[399:], "damaged"),
    "no struct": (
        lambda w: HEAD + array(6, (1, 2), element(9, bytes(16)), b"wiki"),
        "not a struct",
    ),
    "no gender": (lambda w: of_struct(array(1, (1, 0), b"")), "no field 'gender'"),
    "too many cells": (lambda w: of_struct(array(1, (2**31 - 1, 2**31 - 1), b"")), "damaged"),
    "negative size": (lambda w: of_struct(array(6, (-1, -8), element(9, bytes(8)))), "damaged"),
    "sparse": (lambda w: of_struct(array(5, (2**30, 2**30), element(9, bytes(8)))), "damaged"),
    "an object": (lambda w: of_struct(array(3, (1, 1), element(1, b"evil"))), "damaged"),
    "a function": (lambda w: of_struct(array(16, (1, 1), nested(1))), "no field 'gender'"),
    "numbers without end": (lambda w: of_size(6, 9, 3 << 30), "more than 2 GiB of memory"),
    "text without end": (lambda w: of_size(4, 4, 3 << 30), "more than 2 GiB of memory"),
    "deep cells": (lambda w: of_struct(nested(5000)), "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_list_is_one_line_that_names_it(name: str, tmp_path: Path) -> None:
    mat = write_mat(tmp_path / "wiki.mat", [f"{n}/x.jpg" for n in range(50)])
    damage, why = DAMAGED[name]
    mat.write_bytes(damage(mat.read_bytes()))
    with pytest.raises(UsageError, match=why) as caught:
        list(list_wiki(tmp_path))
    assert "wiki.mat" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.usefixtures("child")
def test_a_list_that_takes_too_long_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mat(tmp_path / "wiki.mat", ["1.jpg"])
    monkeypatch.setattr(mat_file, "MAX_SECONDS", 0.01)
    with pytest.raises(UsageError, match=r"wiki.mat': takes more than 0.01 s"):
        list(list_wiki(tmp_path))


@pytest.mark.usefixtures("child")
def test_the_reader_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "1.jpg")
    write_mat(tmp_path / "wiki.mat", ["1.jpg"])
    for name in ("scipy", "json", "img2img_data"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert [item.rejected for item in list_wiki(tmp_path)] == [None]


@pytest.mark.parametrize("field", ["dob", "name"])
def test_a_list_of_uneven_fields_is_rejected(field: str, tmp_path: Path) -> None:
    column = cells(["x"]) if field == "name" else np.ones((1, 1))
    write_mat(tmp_path / "wiki.mat", ["1.jpg", "2.jpg"], **{field: column})
    with pytest.raises(UsageError, match=rf"unequal lengths \(full_path 2, {field} 1\)"):
        list(list_wiki(tmp_path))


def test_a_list_with_words_for_numbers_is_rejected(tmp_path: Path) -> None:
    write_mat(tmp_path / "wiki.mat", ["1.jpg"], gender=cells(["male"]))
    with pytest.raises(UsageError, match="'gender'"):
        list(list_wiki(tmp_path))


def test_flipped_bits_give_a_list_or_one_line(tmp_path: Path) -> None:
    mat = write_mat(tmp_path / "wiki.mat", [f"{n}/x.jpg" for n in range(8)])
    plain = HEAD + zlib.decompress(mat.read_bytes()[136:])
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(12):
        data = bytearray(plain)
        for at in rng.integers(128, min(len(data), 2000), rng.integers(1, 6)):
            data[at] = rng.choice((0, 1, 255, data[at] ^ (1 << rng.integers(8))))
        mat.write_bytes(data)
        try:
            list(list_wiki(tmp_path))
            messages.append("")
        except UsageError as error:
            messages.append(str(error))
    assert all("wiki.mat" in message for message in messages if message)
    assert 0 < messages.count("") < 12


def test_the_other_byte_order(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    names = element(1, b"full_path".ljust(32, b"\0") + b"gender".ljust(32, b"\0"), ">")
    text = array(1, (1, 1), array(4, (1, 5), element(16, b"1.jpg", ">"), order=">"), order=">")
    one = array(6, (1, 1), element(9, struct.pack(">d", 1.0), ">"), order=">")
    body = element(5, struct.pack(">i", 32), ">") + names + text + one
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "wiki.mat").write_bytes(head + array(2, (1, 1), body, b"wiki", ">"))
    assert list(list_wiki(tmp_path)) == [Item(b"1.jpg", {"person": "1", "gender": "male"})]


def test_text_that_no_path_can_hold_is_a_row(tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")

    def column(texts: list[str]) -> bytes:
        coded = [t.encode("utf-16-le", "surrogatepass") for t in texts]
        return array(
            1, (1, len(texts)), b"".join(array(4, (1, len(c) // 2), element(4, c)) for c in coded)
        )

    entries, names = column(["1.jpg", "1.jpg\0.png", "\ud800.jpg"]), column(["A", "B", "\ud800C"])
    genders = array(6, (1, 3), element(9, struct.pack("<3d", 1, 1, 1)))
    (tmp_path / "wiki.mat").write_bytes(
        of_struct(entries + genders + names, fields=b"full_path gender name")
    )
    items = list(list_wiki(tmp_path))
    assert [i.rejected and i.rejected[0] for i in items] == [None, "name", "name"]
    assert items[1].path == b"1.jpg\0.png"


@pytest.mark.parametrize("name", ["Žižek", "毛泽东", "smile \U0001f600", "half \ud800"])
def test_names_in_utf16_are_read_and_can_be_stored(name: str, tmp_path: Path) -> None:
    put(tmp_path, "1.jpg")
    text = name.encode("utf-16-le", "surrogatepass")
    names = array(1, (1, 1), array(4, (1, len(text) // 2), element(4, text)))
    entry = array(1, (1, 1), array(4, (1, 5), element(16, b"1.jpg")))
    one = array(6, (1, 1), element(9, struct.pack("<d", 1)))
    (tmp_path / "wiki.mat").write_bytes(
        of_struct(entry + one + names, fields=b"full_path gender name")
    )
    (item,) = list_wiki(tmp_path)
    assert item.tags["person"] == name.replace("\ud800", "\ufffd")
    assert item.tags["person"].encode()


# -------------------------------------------------------------------------------------- real data
def test_the_real_list_agrees_with_its_key(real_data: Path) -> None:
    root = real_data / "faces" / "wiki_crop"
    with (root.parent / "wiki_crop.sources.csv").open(newline="") as file:
        key = {row["full_path"].encode() for row in csv.DictReader(file)}
    items = list(list_wiki(root))
    assert set(paths(items)) == key == set(paths(list(list_folder(root))))
    assert len(items) == 3362
    assert not [i for i in items if i.rejected]
    genders = Counter(i.tags["gender"] for i in items)
    assert genders == {"male": 2259, "female": 951, None: 152}
    assert sum(i.tags["face_score"] is None for i in items) == 64
    for item in items[::50]:  # the file's name repeats number_birth_year
        _, born, year = item.path.decode().removesuffix(".jpg").rpartition("/")[2].split("_")
        assert item.tags["birth"] == datetime.date.fromisoformat(born).isoformat()
        assert item.tags["photo_taken"] == int(year)
