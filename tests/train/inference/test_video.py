"""Videos in, videos out: every frame, upright, at its time, with its sound; only videos reach
FFmpeg.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import make_photo, write_photos

torch = pytest.importorskip("torch")
av = pytest.importorskip("av")

from small_runs import negative_model  # noqa: E402

from img2img_data.core.errors import FolderInUseError, Rejected, UsageError  # noqa: E402
from img2img_data.core.files import locked  # noqa: E402
from img2img_train.inference import video  # noqa: E402
from img2img_train.inference.inputs import is_one_file, list_images  # noqa: E402
from img2img_train.inference.settings import TranslateSettings  # noqa: E402
from img2img_train.inference.translate import translate  # noqa: E402
from img2img_train.inference.video import VIDEO_FORMATS, VideoInfo  # noqa: E402
from img2img_train.runs.model import LoadedModel  # noqa: E402

LOSSLESS = TranslateSettings(tile=64, overlap=16, video_format="mkv")
CODECS = {
    "mp4": "mp4v", "mov": "mp4v", "m4v": "mp4v", "mkv": "FFV1", "webm": "VP80", "avi": "MJPG",
}  # fmt: skip


@pytest.fixture
def negative() -> LoadedModel:
    return negative_model()


def images(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    photo = make_photo(3, width, height) // 3 + 80
    return [np.roll(photo, 3 * number, axis=1) for number in range(count)]


def write(path: Path, count: int = 8, rate: float = 25.0) -> Path:
    """Write a video with OpenCV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = cv2.VideoWriter.fourcc(*CODECS[path.suffix[1:]])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, rate, (64, 48))
    for frame in images(count):
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    return path


def write_with_sound(path: Path, times: list[int], codec: str = "aac") -> Path:
    """Write an H.264 video with B-frames at these times (ms), and half a second of sound."""
    with av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        sound = target.add_stream(codec, rate=48000)
        for time, image in zip(times, images(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
        wave = np.sin(np.arange(24000) / 20).astype(np.float32)[None].repeat(2, 0)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48000, 0
        target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
    return path


def frames_of(path: Path) -> np.ndarray:
    """Read the frames with PyAV's own conversion."""
    with av.open(str(path)) as source:
        return np.stack([f.to_ndarray(format="rgb24") for f in source.decode(video=0)])


def times_of(path: Path) -> list[float]:
    with av.open(str(path)) as source:
        return [round(float(frame.time), 3) for frame in source.decode(video=0)]


def sound_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]


def restored(path: Path, out: Path, max_pixels: int = 10**6) -> VideoInfo:
    """Copy a video by way of an identity."""
    with video.open_video(path) as file:
        settings = TranslateSettings(video_format=out.suffix[1:], max_pixels=max_pixels)
        return video.restore_video(file, out, settings, lambda frame: frame)


def reason(path: Path, max_pixels: int = 10**6) -> str:
    with pytest.raises(Rejected) as rejected:
        restored(path, path.with_name("out.mkv"), max_pixels)
    assert not path.with_name("out.mkv").exists()
    return str(rejected.value.reason)


# ---------------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("suffix", CODECS)
def test_every_frame_comes_out_at_its_time(suffix: str, tmp_path: Path) -> None:
    path, out = write(tmp_path / f"v.{suffix}", 7, 12.5), tmp_path / "out.mkv"
    assert restored(path, out) == VideoInfo(7, 64, 48)
    far = np.abs(frames_of(out).astype(int) - np.stack(images(7)))
    assert far.mean() < (1 if suffix == "mkv" else 8)
    assert times_of(out) == times_of(path) == [number * 0.08 for number in range(7)]


def patch_box(path: Path, kind: bytes, offset: int, layout: str, *values: int) -> None:
    """Write into a box of an MP4, at an offset from its type."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.find(kind) + offset, *values)
    path.write_bytes(data)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2)])
def test_a_rotated_video_is_upright(
    matrix: tuple[int, ...], turns: int, tmp_path: Path, negative: LoadedModel
) -> None:
    path = write(tmp_path / "in" / "v.mp4")
    restored(path, tmp_path / "plain.mkv")
    upright = np.rot90(frames_of(tmp_path / "plain.mkv"), turns, (1, 2))
    a, b, c, d = (number * 65536 for number in matrix)
    patch_box(path, b"tkhd", 44, ">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    assert restored(path, tmp_path / "turned.mkv")[1:3] == upright.shape[2:0:-1]
    assert np.array_equal(frames_of(tmp_path / "turned.mkv"), upright)
    translate(negative, path.parent, tmp_path / "out", settings=LOSSLESS)
    assert np.array_equal(frames_of(tmp_path / "out" / "v.mkv"), 255 - upright)


def test_frames_that_an_edit_list_hides_are_noted(tmp_path: Path, negative: LoadedModel) -> None:
    path = write(tmp_path / "in" / "v.mp4", 20)
    patch_box(path, b"elst", 12, ">I", 400)
    patch_box(path, b"mvhd", 20, ">I", 400)
    done = translate(negative, path.parent, tmp_path / "out", settings=LOSSLESS)
    assert done.notes == ["'v.mp4': the header states 20 frames, but the file has 10"]
    assert len(frames_of(tmp_path / "out" / "v.mkv")) == 10


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.9])
def test_a_truncated_video_is_rejected(suffix: str, share: float, tmp_path: Path) -> None:
    data = write(tmp_path / f"v.{suffix}").read_bytes()
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    assert reason(tmp_path / "cut") in {"truncated", "corrupt", "unsupported-format"}


def test_a_truncated_mp4_with_its_index_in_front_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in images(8):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        target.mux(stream.encode(None))
    path.write_bytes(path.read_bytes()[:-20])
    assert reason(path) == "truncated"


def test_frames_are_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4")
    assert reason(path, 64 * 48 - 1) == "too-many-pixels"
    path = write(tmp_path / "v.avi")
    data = path.read_bytes()
    # The header of the container states a small frame, the JPEG inside is larger.
    path.write_bytes(data.replace(struct.pack("<ii", 64, 48), struct.pack("<ii", 16, 16)))
    assert reason(path, 64 * 48 - 1) in {"corrupt", "too-many-pixels"}


HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://%s\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile '%s'\n"


@pytest.mark.parametrize("script", [HLS, CONCAT, b"no video\n" * 50, b"\0" * 4096], ids=range(4))
def test_scripts_and_text_never_reach_ffmpeg(
    script: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = os.fsencode(write(tmp_path / "secret.avi"))
    path = tmp_path / "v.mp4"
    path.write_bytes(script % target if b"%s" in script else script)
    monkeypatch.setattr(av, "open", lambda *values, **options: pytest.fail("FFmpeg was called"))
    assert reason(path) == "not-an-image"


@pytest.mark.parametrize("demuxer", ["concat", "hls"])
def test_no_other_demuxer_and_no_other_file_is_opened(
    demuxer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = os.fsencode(write(tmp_path / "secret.avi"))
    path = tmp_path / "v.avi"
    path.write_bytes((CONCAT if demuxer == "concat" else HLS) % secret)
    with av.open(str(path), format=demuxer, options={"safe": "0"} if demuxer == "concat" else {}):
        pass  # FFmpeg by itself opens the other file
    monkeypatch.setattr(video, "_demuxer_of", lambda file, size: demuxer)
    assert reason(path) == "corrupt"


def test_damaged_containers_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    for content, why in (
        (b"", "empty"),
        (struct.pack(">I4s", 3, b"ftyp") + bytes(99), "corrupt"),
        (struct.pack(">I4s", 1 << 30, b"mdat") + bytes(99), "corrupt"),
        (struct.pack(">I4sQ", 1, b"mdat", 1 << 60) + bytes(99), "corrupt"),
        (struct.pack(">I4s", 8, b"free") * 30, "corrupt"),
        (b"\x1a\x45\xdf\xa3", "corrupt"),
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


def test_without_pyav_one_line_says_what_to_install(
    tmp_path: Path, negative: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in" / "v.mp4")
    write_photos(tmp_path / "in", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"needs 'av'.*\[video\]"):
        restored(path, tmp_path / "out.mkv")
    with pytest.raises(UsageError, match=r"needs 'av'.*\[video\]"):
        translate(negative, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------- writing
def write_lossless(path: Path, frames: list[np.ndarray]) -> Path:
    with av.open(str(path), "w") as target:
        stream = target.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            target.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        target.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
@pytest.mark.parametrize("format", VIDEO_FORMATS)
def test_frames_and_bytes_are_the_same_again(
    format: str, size: tuple[int, int], tmp_path: Path
) -> None:
    width, height = size
    source, out = write_lossless(tmp_path / "in.mkv", images(5, *size)), tmp_path / f"v.{format}"
    info = restored(source, out)
    first = out.read_bytes()
    assert info == restored(source, out) == VideoInfo(5, width, height)
    assert out.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", out.name]
    frames = frames_of(out)
    assert frames.shape[1:3] == (height + height % 2, width + width % 2)
    far = np.abs(frames[:, :height, :width].astype(int) - np.stack(images(5, *size)))
    assert far.max() == 0 if format == "mkv" else width < 9 or far.mean() < 8


@pytest.mark.parametrize("format", VIDEO_FORMATS)
def test_grays_stay_gray_and_as_light(format: str, tmp_path: Path) -> None:
    levels = np.arange(10, 250, 24)
    frames = [np.full((32, 32, 3), level, np.uint8) for level in levels]
    source = write_lossless(tmp_path / "in.mkv", frames)
    with video.open_video(source) as file:
        out, settings = tmp_path / f"v.{format}", TranslateSettings(video_format=format)
        video.restore_video(file, out, settings, lambda frame: frame[..., 0])
    got = frames_of(out)[:, 16, 16].astype(int)
    assert np.abs(got - levels[:, None]).max() <= 2
    assert np.abs(got - got.mean(axis=1, keepdims=True)).max() <= 1


@pytest.mark.parametrize("format", ["mp4", "mkv", "webm"])
def test_changing_frame_rates_and_sound_are_kept(format: str, tmp_path: Path) -> None:
    times = [0, 40, 80, 200, 240, 480]
    codec = "libopus" if format == "webm" else "aac"
    source, out = write_with_sound(tmp_path / "in.mkv", times, codec), tmp_path / f"v.{format}"
    assert restored(source, out) == VideoInfo(6, 64, 48)
    assert times_of(out) == times_of(source)
    assert sound_of(out) == sound_of(source)
    assert len(sound_of(out)) > 10


@pytest.mark.parametrize("format", VIDEO_FORMATS)
def test_times_that_make_no_sense_end_in_a_video_or_a_rejection(
    format: str, tmp_path: Path
) -> None:
    for times in ([0, 40, 1 << 45, 1 << 50], [1 << 50, 1 << 51], [-(1 << 40), 0, 40]):
        source, out = write_with_sound(tmp_path / "in.mkv", times), tmp_path / f"v.{format}"
        with contextlib.suppress(Rejected):
            assert restored(source, out).frames == len(times)
    assert {p.name for p in tmp_path.iterdir()} <= {"in.mkv", f"v.{format}"}


@pytest.mark.parametrize(("codec", "format"), [("aac", "webm"), ("pcm_s16le", "mp4")])
def test_sound_that_a_container_cannot_hold_is_noted(
    codec: str, format: str, tmp_path: Path
) -> None:
    source = write_with_sound(tmp_path / "in.mkv", [0, 40, 80], codec)
    info = restored(source, tmp_path / f"v.{format}")
    assert info.notes == (f"the sound was left out: {format} cannot hold its codec",)
    assert len(frames_of(tmp_path / f"v.{format}")) == 3


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    source = write(tmp_path / "in.avi")

    def fail(frame: np.ndarray) -> np.ndarray:
        raise KeyError

    with pytest.raises(KeyError), video.open_video(source) as file:
        video.restore_video(file, tmp_path / "v.mp4", TranslateSettings(), fail)
    assert list(tmp_path.iterdir()) == [source]


def test_a_missing_encoder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.avi")
    missing = VIDEO_FORMATS["mp4"]._replace(codec="libnone")
    monkeypatch.setitem(VIDEO_FORMATS, "mp4", missing)
    with pytest.raises(UsageError, match="no encoder libnone here; choose webm"):
        restored(source, tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == [source]


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    rng = np.random.default_rng(0)
    write_lossless(source, list(rng.integers(0, 256, (30, 64, 64, 3), np.uint8)))
    code = """
import pathlib, sys
from img2img_train.inference import video
from img2img_train.inference.settings import TranslateSettings
for format in video.VIDEO_FORMATS:
    with video.open_video(pathlib.Path(sys.argv[1])) as file:
        try:
            out = pathlib.Path(sys.argv[1]).with_name(f"v.{format}")
            settings = TranslateSettings(video_format=format)
            video.restore_video(file, out, settings, lambda frame: frame)
        except OSError as error:
            print(format, error.strerror)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, source],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    lines = [f"{name} File too large" for name in VIDEO_FORMATS]
    assert done.stdout.splitlines() == lines, done.stderr
    assert not done.stderr
    assert list(tmp_path.iterdir()) == [source]


# --------------------------------------------------------------------------------------- a folder
def test_images_and_videos_of_a_folder(tmp_path: Path, negative: LoadedModel) -> None:
    write_photos(tmp_path / "in", 2, 20, 20)
    odd = os.fsdecode(b"a: %d\xff\n.avi")
    source = write(tmp_path / "in" / "v.avi", 6).rename(tmp_path / "in" / odd)
    write(tmp_path / "in" / "deep" / "w.webm", 6)
    (tmp_path / "in" / "text.mp4").write_text("no video")
    calls: list[Any] = []
    done = translate(
        negative,
        tmp_path / "in",
        tmp_path / "out",
        lambda *call: calls.append(call),
        settings=LOSSLESS,
    )
    assert (done.restored, done.videos, done.frames, done.reused) == (4, 2, 12, 0)
    assert done.rejected == {"not-an-image": ["text.mp4"]}
    assert calls[-1] == (5, 5)
    assert (6, 6, "writing w.mkv") in calls
    rows = [
        json.loads(x) for x in (tmp_path / "out" / "translated.jsonl").read_text().splitlines()
    ][1:]
    assert [row.get("frames") for row in rows] == [None, None, 6, 6]
    result = next(
        tmp_path / "out" / row["file_name"]
        for row in rows
        if row["source_hex"].endswith("ff0a2e617669")
    )
    plain = tmp_path / "plain.mkv"
    restored(source, plain)
    assert np.array_equal(frames_of(result), 255 - frames_of(plain))
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.mkv")}
    again = translate(negative, tmp_path / "in", tmp_path / "out", settings=LOSSLESS)
    assert (again.restored, again.reused, again.frames) == (4, 4, 0)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.mkv")}
    assert not list((tmp_path / "out").rglob(".*"))
    other = LOSSLESS.model_copy(update={"video_format": "avi"})
    assert translate(negative, tmp_path / "in", tmp_path / "out", settings=other).reused == 2


def test_one_file_becomes_one_of_its_kind(tmp_path: Path) -> None:
    clip = write(tmp_path / "v.mp4")
    assert is_one_file(clip, tmp_path / "w.webm")
    assert not is_one_file(clip, tmp_path / "folder")
    image = next(write_photos(tmp_path / "in", 1).iterdir())
    wrong = [(clip, clip), (clip, "p.png"), (clip, "-"), (clip, "w.mov"), (image, image)]
    wrong += [(image, "w.webm"), (image, "w.tiff"), ("-", "w.mp4"), ("-", "w.mov")]
    for source, out in wrong:
        with pytest.raises(UsageError):
            is_one_file(Path(source), Path(out))
    assert is_one_file(Path("-"), Path("-"))
    assert not is_one_file(image, Path("png"))


def test_results_are_not_sources_and_overwrite_none(tmp_path: Path, negative: LoadedModel) -> None:
    write_photos(tmp_path / "in", 2, 20, 20, ".png")
    before = [p.read_bytes() for p in sorted((tmp_path / "in").iterdir())]
    with pytest.raises(UsageError, match="is the folder of the images"):
        translate(negative, tmp_path / "in", tmp_path / "in")
    for _ in range(2):
        done = translate(negative, tmp_path / "in", tmp_path / "in" / "out", settings=LOSSLESS)
        assert done.restored == 2
    assert len(list_images(tmp_path / "in" / "**" / "*.png", tmp_path / "in" / "out")[1]) == 2
    assert before == [p.read_bytes() for p in sorted((tmp_path / "in").glob("*.png"))]
    with locked(tmp_path / "in" / "out"), pytest.raises(FolderInUseError):
        translate(negative, tmp_path / "in", tmp_path / "in" / "out")
