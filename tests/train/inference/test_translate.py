"""Images keep their size, transparency, depth, gray and ICC profile, and come out upright."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_photo, write_photos

torch = pytest.importorskip("torch")

from fake_models import write_run  # noqa: E402
from PIL import Image, ImageCms  # noqa: E402
from small_corpus import write_corpus  # noqa: E402
from small_runs import negative_model  # noqa: E402

from img2img_data.core.command_line import run_command_line  # noqa: E402
from img2img_data.core.errors import CorpusError, UsageError  # noqa: E402
from img2img_data.images import io  # noqa: E402
from img2img_train.cli.main import group  # noqa: E402
from img2img_train.config import RunConfig  # noqa: E402
from img2img_train.inference import tiles  # noqa: E402
from img2img_train.inference.inputs import is_one_file, list_images, notes_on_targets  # noqa: E402
from img2img_train.inference.settings import TranslateSettings  # noqa: E402
from img2img_train.inference.tiles import bytes_per_pixel, choose_tiling  # noqa: E402
from img2img_train.inference.translate import translate, translate_bytes, translate_file  # noqa: E402
from img2img_train.networks.layers import dropout_seeds, set_test_norm  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import NetworkSpec  # noqa: E402
from img2img_train.runs.model import LoadedModel, cudnn_settings  # noqa: E402

TILED = TranslateSettings(tile=32, overlap=16)
KEEP = io.ReadPolicy(depth="keep", channels="keep")


@pytest.fixture
def negative() -> LoadedModel:
    return negative_model()


def translated(model: LoadedModel, data: bytes, **settings: Any) -> np.ndarray:
    result = translate_bytes(model, data, TILED.model_copy(update=settings)).image
    return io.decode(result, KEEP).pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["gray", "gray+alpha", "rgb", "rgba"])
def test_depth_channels_and_transparency_come_through(
    kind: str, dtype: type, negative: LoadedModel
) -> None:
    photo = make_photo(1, 75, 41).astype(dtype) * (257 if dtype is np.uint16 else 1)
    alpha = make_photo(2, 75, 41).astype(dtype)[..., 0]
    image = {
        "gray": photo[..., 0].copy(),
        "gray+alpha": np.dstack([photo[..., 0], alpha]),
        "rgb": photo,
        "rgba": np.dstack([photo, alpha]),
    }[kind]
    file = io.encode(image, "png")
    negative = dataclasses.replace(negative, keeps_gray=True)
    result = translate_bytes(negative, file, TILED).image
    assert result[25] == file[25], "the same kind of PNG"
    got, kept = (io.decode(f, KEEP).pixels for f in (result, file))
    assert (got.shape, got.dtype) == (kept.shape, kept.dtype)
    expected = np.iinfo(dtype).max - kept.astype(int)
    clear = kind in {"gray+alpha", "rgba"}
    if clear:
        assert (got[..., 3] == alpha).all()
        got, expected = got[..., :3], expected[..., :3]
    assert np.abs(got - expected).max() <= kind.startswith("gray")
    shared = alpha[..., None] / np.iinfo(dtype).max if clear else 1.0
    expected = expected.reshape(*expected.shape[:2], -1) * (255 / np.iinfo(dtype).max)
    white = translated(negative, file, format="webp", quality=100).reshape(*expected.shape[:2], -1)
    assert np.abs(white - (expected * shared + 255 * (1 - shared))).max() <= 3


class Tint(torch.nn.Module):
    """A network that colors what it gets, as a model of sketches to photos does."""

    def forward(self, x: Any) -> Any:
        return x * torch.tensor([1.0, 0.5, 0.1])[None, :, None, None]


@pytest.mark.parametrize("kind", ["png", "png 16", "jpg", "LA", "RGBA", "P", "tif"])
def test_a_gray_image_is_answered_in_the_channels_of_the_target(
    kind: str, negative: LoadedModel
) -> None:
    photo, file = make_photo(1, 75, 41)[..., 0].copy(), BytesIO()
    if kind == "png 16":
        file.write(io.encode(photo.astype(np.uint16) * 257, "png"))
    else:
        suffix = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, "PNG")
        mode = kind if kind in {"LA", "RGBA", "P"} else "L"
        Image.fromarray(photo).convert(mode).save(file, suffix)
    for keeps_gray in (False, True):
        model = dataclasses.replace(negative, generator=Tint(), keeps_gray=keeps_gray)
        output = translated(model, file.getvalue())
        colored = output.ndim == 3 and np.ptp(output[..., :3].astype(int), axis=2).mean() > 10
        assert colored != (keeps_gray and kind != "P")


@pytest.mark.parametrize(
    ("loss", "gray", "expected"),
    [
        ("l1", "none", False),
        ("l1", "input", False),
        ("l1", "target", True),
        ("l1", "both", True),
        ("l1", "some pairs", True),
        ("cyclegan", "both", True),
        ("cyclegan", "target", False),
        ("cyclegan", "some pairs", False),
    ],
)
def test_training_records_whether_gray_inputs_had_gray_targets(
    loss: str, gray: str, expected: bool, tmp_path: Path
) -> None:
    from small_corpus import write_corpus
    from small_runs import small_config

    from img2img_data.core.command_line import Display
    from img2img_train.runs.model import load_generator
    from img2img_train.training import fit

    corpus = write_corpus(tmp_path / "corpus", {"train": 4}, size=(16, 16))
    sides = {"input": ["input"], "target": ["target"], "none": []}.get(gray, ["input", "target"])
    for side in sides:
        for path in sorted((corpus / "train" / side).iterdir())[: 2 if gray == "some pairs" else 4]:
            pixels = io.read(path).pixels
            path.write_bytes(io.encode(np.dstack([pixels[..., 0]] * 3), "png"))
    config = small_config(loss, corpus, tmp_path / "run", max_steps=1, net="unet")
    fit.fit(config, Display())
    model = load_generator(tmp_path / "run", "cpu")
    assert model.keeps_gray is expected
    image = io.encode(make_photo(1, 33, 17)[..., 0].copy(), "png")
    assert io.decode(translate_bytes(model, image, TILED).image, KEEP).pixels.shape == (
        (17, 33) if expected else (17, 33, 3)
    )


@pytest.mark.parametrize("format", ["png", "jpg"])
def test_the_color_profile_stays_and_the_image_is_turned(
    format: str, negative: LoadedModel
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif, file = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    Image.fromarray(make_photo(3, 40, 24)).save(file, "JPEG", exif=exif, icc_profile=profile)
    result = translate_bytes(negative, file.getvalue(), TranslateSettings(format=format)).image
    with Image.open(BytesIO(result)) as image:
        assert image.size == (24, 40)
        assert image.info["icc_profile"] == profile
        assert 0x0112 not in image.getexif()


def test_a_rerun_restores_only_missing_results(negative: LoadedModel, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 4, 20, 20)
    (tmp_path / "in" / "bad.png").write_text("no image")
    first = translate(negative, tmp_path / "in", tmp_path / "out", settings=TILED)
    before = {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted((tmp_path / "out").iterdir())
    }
    assert (first.restored, first.reused, first.rejected) == (4, 0, {"not-an-image": ["bad.png"]})
    (tmp_path / "out" / "002.png").write_bytes(b"torn")
    second = translate(negative, tmp_path / "in", tmp_path / "out", settings=TILED)
    assert (second.restored, second.reused) == (4, 3)
    after = {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted((tmp_path / "out").iterdir())
    }
    assert {n: b for n, (b, _) in after.items()} == {n: b for n, (b, _) in before.items()}
    assert [n for n in after if n.endswith("png") and after[n][1] != before[n][1]] == ["002.png"]
    third = translate(
        negative, tmp_path / "in", tmp_path / "out", settings=TILED.model_copy(update={"tile": 64})
    )
    assert third.reused == 0
    # A batch of another size may round sums in another way.
    batched = TILED.model_copy(update={"batch": 4})
    assert translate(negative, tmp_path / "in", tmp_path / "out", settings=batched).reused == 0
    other = dataclasses.replace(negative, digest="of another checkpoint")
    assert translate(other, tmp_path / "in", tmp_path / "out", settings=TILED).reused == 0


@pytest.mark.parametrize(
    ("layout", "folder", "note"),
    [
        ("combined", ".", "side by side"),
        ("combined", "train", "side by side"),
        ("folders", ".", "its targets"),
        ("folders", "train", "its targets"),
        ("folders", "train/input", None),
    ],
)
def test_a_folder_with_targets_is_noted(
    layout: str, folder: str, note: str | None, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 1}, layout=layout)
    notes = notes_on_targets(corpus / folder, [str(corpus)])
    assert len(notes) == (note is not None)
    assert all(note in text for text in notes if note)
    assert bool(notes_on_targets(corpus / folder, [])) == bool(note)
    write_photos(tmp_path / "elsewhere" / "train", 1, 20, 20)
    assert not notes_on_targets(tmp_path / "elsewhere", [str(corpus), "gone"])
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert not notes_on_targets(tmp_path / "loop", [])


def test_files_of_others_are_not_overwritten(negative: LoadedModel, tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 2, 20, 20)
    write_photos(tmp_path / "out", 2, 24, 24)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(UsageError, match="holds other files"):
        translate(negative, tmp_path / "in", tmp_path / "out", settings=TILED)
    found = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.name != ".lock"}
    assert found == before


def test_results_of_other_settings_are_replaced_with_a_note(
    negative: LoadedModel, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    write_photos(source, 2, 20, 20)
    assert translate(negative, source, out, settings=TILED).notes == []
    (source / "001.jpg").unlink()
    done = translate(negative, source, out, settings=TILED.model_copy(update={"overlap": 8}))
    assert (done.restored, done.reused) == (1, 0)
    assert "held results of another model or other settings" in done.notes[0]
    assert (out / "001.png").is_file()
    again = translate(negative, source, out, settings=TILED.model_copy(update={"overlap": 8}))
    assert (again.reused, again.notes) == (1, [])
    (source / "000.jpg").rename(source / "other.jpg")
    other = translate(negative, source, out, settings=TILED.model_copy(update={"overlap": 8}))
    assert (other.reused, len(other.notes)) == (0, 1)
    assert "also holds earlier results of 1 other image" in other.notes[0]


def test_files_of_other_formats_are_named(negative: LoadedModel, tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_photos(source / "deep", 1, 20, 20)
    preview = BytesIO()
    Image.new("RGB", (16, 16)).save(preview, "TIFF")
    others = {
        "h.heic": b"\0\0\0\x20ftypheic" + bytes(99),
        "j.jxl": b"\xff\x0a" + bytes(99),
        "raw.NEF": preview.getvalue(),
        "t.tga": bytes(99),
        "i.ico": b"\0\0\1\0" + bytes(99),
        "deep/v.mpg": b"\0\0\1\xba" + bytes(99),
    }
    for name, content in others.items():
        (source / name).write_bytes(content)
    (source / "notes.txt").write_text("no image, and not called one")
    done = translate(negative, source, tmp_path / "out", settings=TILED)
    assert done.restored == 1
    assert {name for names in done.rejected.values() for name in names} == others.keys()
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert {row["source"] for row in rows} == others.keys()
    with pytest.raises(CorpusError, match=r"raw.NEF': unsupported-format: convert .nef files"):
        translate_file(negative, preview.getvalue(), "raw.NEF", TILED)
    with pytest.raises(UsageError, match="not the name of an image that can be written"):
        is_one_file(source / "deep" / "000.jpg", tmp_path / "x.tga")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_frames_that_are_not_restored_are_reported(
    suffix: str, negative: LoadedModel, tmp_path: Path
) -> None:
    frames = [Image.fromarray(make_photo(seed, 40, 40)) for seed in range(3)]
    write_photos(tmp_path / "in", 1)
    path = tmp_path / "in" / f"many.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    for _ in range(2):  # those that an earlier call restored are reported too
        done = translate(negative, tmp_path / "in", tmp_path / "out", settings=TILED)
        assert done.restored == 2
        (note,) = done.notes
        assert f"'many.{suffix}' (the first of 3 frames)" in note
    rows = [json.loads(line) for line in (tmp_path / "out" / "translated.jsonl").open()][1:]
    assert [row.get("source_frames") for row in rows] == [None, 3]
    assert translate_bytes(negative, path.read_bytes(), TILED).source_frames == 3


def test_patterns_and_single_files(negative: LoadedModel, tmp_path: Path) -> None:
    write_photos(tmp_path / "in" / "deep", 2, 20, 20)
    write_photos(tmp_path / "in", 1, 20, 20, ".png")
    root, found = list_images(tmp_path / "in" / "**" / "*.jpg")
    assert found == [b"deep/000.jpg", b"deep/001.jpg"]
    assert root == str(tmp_path / "in").encode()
    with pytest.raises(UsageError, match="holds no images"):
        list_images(tmp_path / "in" / "*.webp")
    write_photos(tmp_path / "in" / ".hidden", 1, 20, 20)
    (tmp_path / "in" / "deep" / "back").symlink_to(tmp_path / "in")
    for pattern in ("**", "**/*", "**/*.*"):
        assert list_images(tmp_path / "in" / pattern)[1] == [b"000.png", *found]
    for pattern in ("0**.png", "**/0**.png", "deep/../*.png", "[0]*.png"):
        assert [Path(os.fsdecode(p)).name for p in list_images(tmp_path / "in" / pattern)[1]] == [
            "000.png"
        ]
    assert list_images(tmp_path / "in" / ".h*" / "*")[1] == [b".hidden/000.jpg"]
    image = tmp_path / "in" / "000.png"
    assert is_one_file(image, tmp_path / "a.JPG")
    assert is_one_file(image, Path("-"))
    assert not is_one_file(image, tmp_path / "folder")
    with pytest.raises(UsageError, match=r"has the name of a file, but '.*in' is a folder"):
        is_one_file(tmp_path / "in", tmp_path / "a.png")


def test_an_image_through_standard_input_and_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def command(*words: object, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        line = ["translate", str(run), *map(str, words), "--device", "cpu"]
        return run_command_line(group, line, "img2img-train"), *capfdbinary.readouterr()

    run = write_run(tmp_path / "run")
    image = io.encode(make_photo(1, 33, 17), "png")
    (tmp_path / "one.png").write_bytes(image)
    code, output, _ = command("-", "-", stdin=image)
    assert (code, io.decode(output).size) == (0, (33, 17))
    assert command(tmp_path / "one.png", tmp_path / "output.webp")[0] == 0
    assert io.read(tmp_path / "output.webp").format == "webp"
    code, output, error = command("-", "-", stdin=b"no image")
    assert (code, output) == (1, b"")
    assert b"not-an-image" in error


# ------------------------------------------------------------------------ dropout and norms at test
def skip_net(test_dropout: bool, test_norm: str) -> LoadedModel:
    config = RunConfig(corpora=("c",), out="run", test_dropout=test_dropout, test_norm=test_norm)
    spec = NetworkSpec(name="unet-64", width=2, dropout=0.5)
    network = build(spec, 5).eval().requires_grad_(False)
    set_test_norm(network, config.test_norm)
    return LoadedModel(network, spec, "rgb", 0, config, torch.device("cpu"), Path("model"))


def test_masks_do_not_depend_on_the_rounding_of_a_device() -> None:
    """CUDA multiplies by a rounded reciprocal where a CPU divides: the last bit differs."""
    for top in (255, 65535):
        levels = torch.arange(top + 1, dtype=torch.float32).view(1, 1, 1, -1)
        half = torch.tensor(top / 2)
        divided, multiplied = levels / half - 1, levels * (1 / half) - 1
        assert not divided.equal(multiplied)
        assert dropout_seeds(divided) == dropout_seeds(multiplied)
        assert dropout_seeds(divided) != dropout_seeds(divided.flip(3))


def test_images_are_restored_by_deterministic_float32_convolutions() -> None:
    model, seen = skip_net(False, "running"), []
    cudnn = torch.backends.cudnn
    model.generator.register_forward_hook(
        lambda *_: seen.append((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))
    )
    with cudnn_settings(fast=True, tf32=True):
        model.restore(np.zeros((1, 64, 64, 3), np.uint8))
    assert seen == [(False, True, False)]


@pytest.mark.parametrize("test_norm", ["running", "batch"])
@pytest.mark.parametrize("test_dropout", [False, True])
def test_a_result_never_depends_on_the_batch(test_dropout: bool, test_norm: str) -> None:
    model = skip_net(test_dropout, test_norm)
    images = np.stack([make_photo(seed, 64, 64) for seed in range(3)])
    together = model.restore(images)
    single = np.concatenate([model.restore(p[None]) for p in images[::-1]])[::-1]
    assert np.abs(together.astype(int) - single).max() <= 1
    assert (together == model.restore(images)).all()


def test_results_do_not_depend_on_other_threads() -> None:
    model = skip_net(True, "running")
    images = [make_photo(seed, 64, 64)[None] for seed in range(4)] * 8
    alone = [model.restore(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(model.restore, images))
    assert all((a == b).all() for a, b in zip(alone, together, strict=True))


def test_batch_statistics_are_those_of_training_with_one_image() -> None:
    model, x = (
        skip_net(False, "batch"),
        torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
    )
    got = model.forward(x)
    for module in model.generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
    assert torch.allclose(got, model.generator(x), atol=1e-5)


def test_tiles_with_statistics_of_their_own_are_noted(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1, 150, 64)
    for norm, notes in (("batch", 1), ("running", 0)):
        model = skip_net(False, norm)
        done = translate(
            model, tmp_path / "in", tmp_path / norm, settings=TranslateSettings(tile=64, overlap=0)
        )
        assert len(done.notes) == notes
        assert all("--tile 150" in note for note in done.notes)
        single = translate(
            model, tmp_path / "in", tmp_path / f"one-{norm}", settings=TranslateSettings(tile=150)
        )
        assert single.notes == []


def instance_net() -> LoadedModel:
    spec = NetworkSpec(name="resnet-6", width=4, norm="instance")
    network = build(spec, 5).eval().requires_grad_(False)
    config = RunConfig(corpora=("c",), out="run")
    return LoadedModel(network, spec, "rgb", 0, config, torch.device("cpu"), Path("model"))


def test_an_image_passes_whole_if_its_statistics_count(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = instance_net(), make_photo(3, 700, 516)
    image[:, :350] //= 4
    file = io.encode(image, "png")
    result = translate_bytes(model, file, TranslateSettings())
    assert result.notes == []
    output = io.decode(result.image).pixels.astype(int)
    assert np.abs(output - model.restore(image[None])[0]).max() <= 1
    monkeypatch.setattr(tiles, "free_memory", lambda device: 100_000_000)
    tiled = translate_bytes(model, file, TranslateSettings())
    assert np.abs(io.decode(tiled.image).pixels - output).max() > 1
    pattern = r"own statistics.* takes up to 0\.\d GB, but 0\.1 GB are free; --tile 700 uses a"
    assert re.search(pattern, tiled.notes[0])
    whole = translate_bytes(model, file, TranslateSettings(tile=700))
    assert whole == result
    plain = skip_net(False, "running")
    assert choose_tiling(TranslateSettings(), plain, 700, 516)[0].tile == 512


@pytest.mark.parametrize("name", ["resnet-6", "unet-64", "unet"])
def test_memory_is_estimated_from_above(name: str) -> None:
    reset = Path("/proc/self/clear_refs")
    if not os.access(reset, os.W_OK):
        pytest.skip("peaks of memory cannot be measured here")

    def status(key: str) -> int:
        text = Path("/proc/self/status").read_text()
        return int(re.findall(rf"{key}:\s+(\d+) kB", text)[0]) * 1024

    spec = NetworkSpec(name=name, width=8, norm="instance")
    network = build(spec, 5).eval().requires_grad_(False)
    model = dataclasses.replace(instance_net(), generator=network, spec=spec)
    image = make_photo(3, 768, 768)
    model.restore(image[None, :64, :64])
    estimate = bytes_per_pixel(model) * 768 * 768
    # Memory that is free inside the process would hide what is used.
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = status("VmRSS")
    translate_bytes(model, io.encode(image, "png"), TranslateSettings())
    used = status("VmHWM") - before
    # The allocator keeps a little more than tensors take.
    assert estimate / 4 < used < 1.1 * estimate


def test_other_settings_at_test_are_translated_again(tmp_path: Path) -> None:
    write_photos(tmp_path / "in", 1, 64, 64)
    for dropout, norm in ((False, "running"), (True, "running"), (True, "batch")):
        model = skip_net(dropout, norm)
        for reused in (0, 1):
            assert translate(model, tmp_path / "in", tmp_path / "out").reused == reused
