"""Folders: items come sorted and complete, and links are followed only if that is asked for."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from source_files import paths, put

from img2img_data.sources.folder import describe_skipped, find_tags, list_folder


def test_folder_is_sorted_by_the_bytes_of_whole_paths(tmp_path: Path) -> None:
    put(
        tmp_path,
        "a.jpg",
        "a/b.jpg",
        "a-b.jpg",
        "a/b/c.png",
        "B.JPG",
        "10.jpg",
        "9.jpg",
        "é.webp",
        b"\xff.bmp",
        "z.jpg/i.jpg",
    )
    found = paths(list(list_folder(tmp_path)))
    assert found == sorted(found)
    assert len(found) == 10
    assert b"z.jpg/i.jpg" in found
    assert b"\xff.bmp" in found


def test_folder_counts_skipped_files(tmp_path: Path) -> None:
    put(
        tmp_path,
        "ok.jpg",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "._ok.jpg",
        ".hidden.jpg",
        "notes.TXT",
        "bare",
        "metadata.jsonl",
    )
    put(
        tmp_path,
        ".ipynb_checkpoints/ok.jpg",
        "__MACOSX/x.jpg",
        "@eaDir/x.jpg",
        "half.jpg.tmp",
        "photo.cr2",
    )
    (tmp_path / "loop").symlink_to("loop")
    ignored: Counter[str] = Counter()
    assert paths(list(list_folder(tmp_path, ignored))) == [b"ok.jpg"]
    assert ignored == {"hidden": 8, ".txt": 1, "": 2, ".tmp": 1, ".cr2": 1}
    assert describe_skipped(ignored) == (
        "skipped files without an image extension (no extension: 2, .cr2: 1, .tmp: 1, .txt: 1)"
    )
    assert describe_skipped({"hidden": 8}) == ""


def test_folder_names_every_image_extension_even_those_not_read(tmp_path: Path) -> None:
    read = "jpg JPEG jpe jfif png bmp dib webp tif TIFF gif ppm pgm pbm pnm jp2 j2k avif"
    names = [*read.split(), "mpo", "heic", "hif", "jxl", "psd", "ico", "exr", "hdr", "tga", "QOI"]
    put(tmp_path, *(f"p.{n}" for n in names), "p.svg", "p.jpeg2", "p.jpg~", "jpg")
    assert sorted(paths(list(list_folder(tmp_path)))) == sorted(f"p.{n}".encode() for n in names)


def test_folder_follows_no_link_and_opens_no_pipe(tmp_path: Path) -> None:
    root = put(tmp_path / "in", "d/ok.jpg")
    put(tmp_path / "out", "secret.jpg")
    for name, target in {
        "l.jpg": "d/ok.jpg",
        "self.jpg": "self.jpg",
        "gone.jpg": "x",
        "dir.jpg": "../out",
        "e": "../out",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    rejected = {i.path: i.rejected and i.rejected[0] for i in list_folder(root)}
    assert rejected == {
        b"d/ok.jpg": None,
        b"dir.jpg": "link",
        b"gone.jpg": "link",
        b"l.jpg": "link",
        b"pipe.jpg": "not-a-regular-file",
        b"self.jpg": "link",
    }


def test_links_are_followed_if_asked_for(tmp_path: Path) -> None:
    root = put(tmp_path / "in", "d/ok.jpg", "d/e/deep.jpg")
    put(tmp_path / "out", "f/far.jpg", "note.txt")
    os.mkfifo(tmp_path / "out" / "pipe")
    links = {
        "l.jpg": "d/ok.jpg", "twice.jpg": "l.jpg", "self.jpg": "self.jpg", "gone.jpg": "x.jpg",
        "gone": "x", "gone.txt": "x", "note.txt": "../out/note.txt", "p.jpg": "../out/pipe",
        "dir.jpg": "../out", "f": "../out/f", "d/e/up": "..", "round": ".", "f2": "f",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    ignored: Counter[str] = Counter()
    items = list(list_folder(root, ignored, follow_links=True))
    assert paths(items) == sorted(paths(items))
    found = {i.path.decode(): i.rejected for i in items}
    assert [name for name, why in found.items() if not why] == [
        "d/e/deep.jpg", "d/ok.jpg", "dir.jpg/f/far.jpg", "f/far.jpg", "f2/far.jpg", "l.jpg",
        "twice.jpg",
    ]  # fmt: skip
    (tmp_path / "in/d/e/top").symlink_to(tmp_path)
    assert [i.rejected for i in list_folder(root / "d", follow_links=True) if i.rejected] == [
        ("link", "it leads to a parent folder")
    ] * 2
    circle, broken = "it leads to a parent folder", "its target cannot be read"
    assert {name: why for name, why in found.items() if why} == {
        "d/e/up": ("link", circle),
        "round": ("link", circle),
        "gone": ("link", broken),
        "gone.jpg": ("link", broken),
        "self.jpg": ("link", broken),
        "p.jpg": ("not-a-regular-file", "a pipe, socket or device"),
    }
    assert ignored == {".txt": 3, "": 1}, "the pipe too"


def test_folder_that_cannot_be_listed_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    scandir = os.scandir

    def guarded(path: bytes) -> Any:
        if os.fsencode(path).endswith(b"/b/"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # the superuser may list everything
    items = list(list_folder(tmp_path))
    assert [(i.path, i.rejected) for i in items if i.rejected] == [
        (b"b", ("unreadable", "folder: Permission denied"))
    ]
    assert len(items) == 3


def test_folder_deeper_than_a_stack_and_longer_than_a_path_ends(tmp_path: Path) -> None:
    here, part = Path.cwd(), Path("d" * 179)
    os.chdir(tmp_path)
    try:
        for _ in range(30):  # 30 x 180 bytes: beyond what one path may hold
            part.mkdir()
            os.chdir(part)
        put(Path(), "deep.jpg")
    finally:
        os.chdir(here)
    put(tmp_path, *("/".join(["n"] * depth) + "/p.jpg" for depth in (1, 200)))
    items = list(list_folder(tmp_path))
    assert [i.rejected[0] for i in items if i.rejected] == ["unreadable"]
    assert len(items) == 3


def test_folder_is_a_stream(tmp_path: Path) -> None:
    put(tmp_path, *(f"{d}/{n}.jpg" for d in "abc" for n in range(3)))
    stream = list_folder(tmp_path)
    assert next(stream).path == b"a/0.jpg"
    put(tmp_path, "c/late.jpg")
    assert b"c/late.jpg" in paths(list(stream))


def test_the_digest_of_a_tag_list_changes_with_any_byte(tmp_path: Path) -> None:
    content, digests = b"file_name,person\n1.jpg,x\n", set[str]()
    for place in range(len(content)):
        (tmp_path / "metadata.csv").write_bytes(
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        )
        tags = find_tags(os.fsencode(tmp_path), [b"1.jpg"])
        assert tags is not None
        digests.add(tags.digest)
    assert len(digests) == len(content)
