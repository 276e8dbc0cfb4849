"""Videos in, videos out: every frame, upright, at its pace; nothing but videos ever reaches FFmpeg."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import make_photo, write_photos

torch = pytest.importorskip("torch")

from small_runs import negative_model  # noqa: E402

from img2img_data.core.errors import FolderInUseError, Rejected, UsageError  # noqa: E402
from img2img_train.inference.inputs import is_one_file, list_images  # noqa: E402
from img2img_train.inference.resume_log import ResumeLog  # noqa: E402
from img2img_train.inference.translate import TranslateSettings, translate  # noqa: E402
from img2img_train.inference.video import (  # noqa: E402
    CONTAINERS,
    VIDEO_FORMATS,
    VideoInfo,
    open_video,
    write_video,
)
from img2img_train.runs.model import LoadedModel  # noqa: E402

try:
    cv2.VideoCapture(None, cv2.CAP_FFMPEG, [])  # type: ignore[call-overload]
except cv2.error as problem:
    if "BufferedIOBase" not in str(problem):
        pytest.skip("OpenCV before 4.12 reads no open file", allow_module_level=True)

LOSSLESS = TranslateSettings(tile=64, overlap=16, video_format="mkv")
CODED = {"mp4": "mp4v", "mov": "mp4v", "m4v": "mp4v", "mkv": "FFV1", "webm": "VP80", "avi": "MJPG"}


@pytest.fixture
def negative(tmp_path: Path) -> LoadedModel:
    return negative_model(tmp_path)


def images(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    photo = make_photo(3, width, height) // 3 + 80
    return [np.roll(photo, 3 * number, axis=1) for number in range(count)]


def write(
    path: Path, count: int = 8, rate: float = 25.0, width: int = 64, height: int = 48
) -> Path:
    """A video by OpenCV itself, not by the code under test."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*CODED[path.suffix[1:]])
    made = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, rate, (width, height))
    for frame in images(count, width, height):
        made.write(np.ascontiguousarray(frame[..., ::-1]))
    made.release()
    return path


def frames_of(path: Path) -> np.ndarray:
    with open_video(path) as video:
        return np.stack(list(video.frames()))


def survey_of(path: Path) -> VideoInfo:
    with open_video(path) as video:
        return video.survey(10**6)


def reason(path: Path) -> str:
    with pytest.raises(Rejected) as rejected, open_video(path) as video:
        video.survey(10**6)
    return str(rejected.value.reason)


# --------------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("suffix", CODED)
def test_every_frame_comes_out_at_its_pace(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"v.{suffix}", 7, 12.5)
    assert survey_of(path) == VideoInfo(7, 7, 12.5, 64, 48)
    got, given = frames_of(path), np.stack(images(7))
    assert np.abs(got.astype(int) - given).mean() < (1 if suffix == "mkv" else 8)


def boxed(path: Path, kind: bytes, offset: int, layout: str, *values: int) -> None:
    """Write into a box of an MP4, so far behind its name."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.find(kind) + offset, *values)
    path.write_bytes(data)


def test_a_turned_video_is_turned_once(tmp_path: Path, negative: LoadedModel) -> None:
    path = write(tmp_path / "in" / "v.mp4")
    lying = frames_of(path)
    boxed(path, b"tkhd", 44, ">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    assert survey_of(path)[3:] == (48, 64)
    assert np.array_equal(frames_of(path), np.rot90(lying, -1, (1, 2)))
    translate(negative, path.parent, tmp_path / "out", settings=LOSSLESS)
    assert np.array_equal(frames_of(tmp_path / "out" / "v.mkv"), 255 - np.rot90(lying, -1, (1, 2)))


def test_frames_that_an_editor_has_cut_away_are_told_of(
    tmp_path: Path, negative: LoadedModel
) -> None:
    path = write(tmp_path / "in" / "v.mp4", 20)
    boxed(path, b"elst", 12, ">I", 400)
    boxed(path, b"mvhd", 20, ">I", 400)
    assert survey_of(path)[:3] == (10, 20, 25)
    done = translate(negative, path.parent, tmp_path / "out", settings=LOSSLESS)
    assert done.notes == ["'v.mp4': its header states 20 frames, 10 are there"]


@pytest.mark.parametrize("suffix", CODED)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_video_is_rejected(suffix: str, share: float, tmp_path: Path) -> None:
    data = write(tmp_path / f"v.{suffix}").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    assert (
        reason(tmp_path / "cut") in {"truncated"} if share > 0.1 else {"truncated", "not-an-image"}
    )


HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://%s\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile '%s'\n"


@pytest.mark.parametrize("script", [HLS, CONCAT, b"no video\n" * 50, b"\0" * 4096], ids=range(4))
def test_scripts_and_text_are_rejected_unread(script: bytes, tmp_path: Path) -> None:
    target = os.fsencode(write(tmp_path / "secret.avi"))
    path = tmp_path / "v.mp4"
    path.write_bytes(script % target if b"%s" in script else script)
    assert reason(path) == "not-an-image"


def test_no_demuxer_but_the_one_and_no_protocol_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "secret.avi").with_name("v.avi")
    path.write_bytes(CONCAT % b"secret.avi")
    assert cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).read()[0], (
        "so it would be read without the door"
    )
    monkeypatch.setitem(CONTAINERS, "avi", (lambda start: True, lambda file, size: None))
    before = dict(os.environ)
    assert reason(path) == "unsupported-format"
    assert dict(os.environ) == before


def test_lying_containers_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    for content, why in (
        (b"", "empty"),
        (struct.pack(">I4s", 3, b"ftyp") + bytes(99), "corrupt"),
        (struct.pack(">I4s", 1 << 30, b"mdat") + bytes(99), "truncated"),
        (struct.pack(">I4sQ", 1, b"mdat", 1 << 60) + bytes(99), "truncated"),
        (struct.pack(">I4s", 8, b"free") * 30, "truncated"),
        (b"\x1a\x45\xdf\xa3", "truncated"),
        (b"\x1a\x45\xdf\xa3\x80" + bytes(99), "corrupt"),
        (b"RIFF\xff\xff\xff\xffAVI " + bytes(99), "truncated"),
    ):
        path.write_bytes(content)
        assert reason(path) == why, content
    path.unlink()
    path.symlink_to(write(tmp_path / "v.avi"))
    assert reason(path) == "link"
    path.unlink()
    os.mkfifo(path)
    assert reason(path) == "not-a-regular-file"


# --------------------------------------------------------------------------------------------- writing
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
@pytest.mark.parametrize("format", VIDEO_FORMATS)
def test_what_is_written_is_what_was_given(
    format: str, size: tuple[int, int], tmp_path: Path
) -> None:
    width, height = size
    given = images(5, width, height)
    with write_video(tmp_path / f"v.{format}", format, VideoInfo(5, 5, 24, width, height)) as take:
        for frame in given:
            take(frame)
    assert [p.name for p in tmp_path.iterdir()] == [f"v.{format}"]
    seen = survey_of(tmp_path / f"v.{format}")
    assert seen == VideoInfo(5, 5, 24, width + width % 2, height + height % 2)
    got = frames_of(tmp_path / f"v.{format}")[:, :height, :width]
    far = np.abs(got.astype(int) - np.stack(given))
    assert far.max() == 0 if VIDEO_FORMATS[format].lossless else width < 9 or far.mean() < 8


@pytest.mark.parametrize("format", VIDEO_FORMATS)
def test_grays_stay_gray_and_as_light(format: str, tmp_path: Path) -> None:
    with write_video(tmp_path / f"v.{format}", format, VideoInfo(9, 9, 25, 32, 32)) as take:
        for level in range(10, 250, 24):
            take(np.full((32, 32), level, np.uint8))
    got = frames_of(tmp_path / f"v.{format}")[:, 16, 16].astype(int)
    assert np.abs(got - np.arange(10, 250, 24)[:, None]).max() <= 2
    assert np.abs(got - got.mean(axis=1, keepdims=True)).max() <= 1


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with (
        contextlib.suppress(KeyError),
        write_video(path, "mp4", VideoInfo(9, 9, 25, 32, 32)) as take,
    ):
        take(np.zeros((32, 32, 3), np.uint8))
        raise KeyError
    with (
        pytest.raises(UsageError, match="choose webm"),
        write_video(path, "mp4", VideoInfo(9, 9, 0, 9, 9)),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_of(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, pathlib; from img2img_train.inference.video import *\n"
        "frames = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)\n"
        "try:\n"
        "  with write_video(pathlib.Path(sys.argv[1]), sys.argv[2], VideoInfo(30, 30, 25, 64, 64)) as take:\n"
        "    for frame in frames: take(frame)\n"
        "except OSError as error: print(error.strerror)\n"
    )
    for format in VIDEO_FORMATS:
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path / f"v.{format}", format],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        )
        assert "disk may be full" in done.stdout, (format, done.stdout, done.stderr)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- a folder
def test_images_and_videos_of_a_folder(tmp_path: Path, negative: LoadedModel) -> None:
    write_photos(tmp_path / "in", 2, 20, 20)
    odd = os.fsdecode(b"a: %d\xff\n.avi")
    given = {
        name: write(tmp_path / "in" / "v.avi", 6).rename(tmp_path / "in" / name) for name in (odd,)
    }
    write(tmp_path / "in" / "deep" / "w.webm", 6)
    (tmp_path / "in" / "text.mp4").write_text("no video")
    told: list[Any] = []
    done = translate(
        negative,
        tmp_path / "in",
        tmp_path / "out",
        lambda *said: told.append(said),
        settings=LOSSLESS,
    )
    assert (done.restored, done.videos, done.frames, done.reused) == (4, 2, 12, 0)
    assert dict(done.rejected) == {"not-an-image": 1}
    assert told[-1] == ("", 5, 5)
    assert ("restoring w.mkv", 6, 6) in told
    rows = [
        json.loads(x) for x in (tmp_path / "out" / "translated.jsonl").read_text().splitlines()
    ][1:]
    assert [row.get("frames") for row in rows] == [None, None, 6, 6]
    made = next(
        tmp_path / "out" / row["file_name"]
        for row in rows
        if row["source_hex"].endswith("ff0a2e617669")
    )
    assert np.array_equal(frames_of(made), 255 - frames_of(given[odd]))
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.mkv")}
    again = translate(negative, tmp_path / "in", tmp_path / "out", settings=LOSSLESS)
    assert (again.restored, again.reused, again.frames) == (4, 4, 0)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.mkv")}
    assert not list((tmp_path / "out").rglob(".*"))
    other = LOSSLESS.model_copy(update={"video_format": "avi"})
    assert translate(negative, tmp_path / "in", tmp_path / "out", settings=other).reused == 2


def test_one_file_becomes_one_of_its_kind(tmp_path: Path) -> None:
    video = write(tmp_path / "v.mp4")
    assert is_one_file(video, tmp_path / "w.webm")
    assert not is_one_file(video, tmp_path / "folder")
    image = next(write_photos(tmp_path / "in", 1).iterdir())
    wrong = [(video, video), (video, "p.png"), (video, "-"), (video, "w.mov"), (image, image)]
    wrong += [(image, "w.webm"), (image, "w.tiff"), ("-", "w.mp4"), ("-", "w.mov")]
    for source, out in wrong:
        with pytest.raises(UsageError):
            is_one_file(Path(source), Path(out))
    assert is_one_file(Path("-"), Path("-"))
    assert not is_one_file(image, Path("png"))


def test_results_are_no_sources_and_overwrite_none(tmp_path: Path, negative: LoadedModel) -> None:
    write_photos(tmp_path / "in", 2, 20, 20, ".png")
    before = [p.read_bytes() for p in sorted((tmp_path / "in").iterdir())]
    with pytest.raises(UsageError, match="is the folder of the images"):
        translate(negative, tmp_path / "in", tmp_path / "in")
    for _ in range(2):
        done = translate(negative, tmp_path / "in", tmp_path / "in" / "out", settings=LOSSLESS)
        assert done.restored == 2
    assert len(list_images(tmp_path / "in" / "**" / "*.png", tmp_path / "in" / "out")[1]) == 2
    assert before == [p.read_bytes() for p in sorted((tmp_path / "in").glob("*.png"))]
    with ResumeLog.open(tmp_path / "in" / "out", negative, {}), pytest.raises(FolderInUseError):
        translate(negative, tmp_path / "in", tmp_path / "in" / "out")
