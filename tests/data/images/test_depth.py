"""16 bit, one channel and transparency come through, from source to disk and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import pair_rows, run, tree
from conftest import make_photo, write_photos
from PIL import Image

from img2img_data.builds.pairings import PAIRINGS
from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.images import color, io
from img2img_data.images.io import ReadPolicy, fit
from img2img_data.images.pixels import to_16_bit, to_uint8_rgb

Pixels = np.ndarray[Any, np.dtype[Any]]


def stored(path: Path) -> Pixels:
    """The samples as another reader sees them, channels in the order of the file."""
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(found.shape[2] if found.ndim == 3 else 1)
    return found if order is None else np.ascontiguousarray(found[..., order])


def deep(seed: int, width: int = 40, height: int = 32) -> Pixels:
    """A 16-bit photo that uses all its bits."""
    low = np.random.default_rng([seed, 1]).integers(0, 257, (height, width, 3))
    return (
        (make_photo(seed, width, height).astype(np.int64) * 256 + low)
        .clip(0, 65535)
        .astype(np.uint16)
    )


def tiff(pixels: Pixels) -> bytes:
    ordered = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    return cv2.imencode(".tif", ordered, [cv2.IMWRITE_TIFF_COMPRESSION, 1])[1].tobytes()


WRITERS: Mapping[str, tuple[str, Callable[[Pixels], bytes]]] = {
    "png": (".png", lambda p: io.encode(p, "png")),
    "tiff": (".tif", tiff),
}


def write_deep(folder: Path, kind: str, channels: int = 3, count: int = 7) -> dict[str, Pixels]:
    """Write 16-bit sources and return them by key."""
    folder.mkdir(parents=True)
    extension, encode = WRITERS[kind]
    sources = {
        f"{i:03d}": deep(i) if channels == 3 else deep(i)[..., 1].copy() for i in range(count)
    }
    for key, pixels in sources.items():
        (folder / f"{key}{extension}").write_bytes(encode(pixels))
    return sources


# ---- 16 bit
@pytest.mark.parametrize("channels", ["rgb", "gray"])
@pytest.mark.parametrize("kind", WRITERS)
def test_16_bit_samples_reach_the_disk_and_the_reader_exactly(
    kind: str, channels: str, tmp_path: Path
) -> None:
    sources = write_deep(tmp_path / "a", kind, 3 if channels == "rgb" else 1)
    write_deep(tmp_path / "b", kind, 3 if channels == "rgb" else 1)
    options = ("--bits", 16, "--channels", channels, "--jobs", 1)
    run("blur", tmp_path / "a", tmp_path / "blur", "--sigma", 1, *options)
    run("unpaired", tmp_path / "a", tmp_path / "b", tmp_path / "unpaired", *options)
    run("combine", tmp_path / "a", tmp_path / "b", tmp_path / "combine", *options)
    for key, pixels in sources.items():
        assert np.array_equal(stored(tmp_path / f"blur/train/target/{key}.png"), pixels)
        assert np.array_equal(stored(tmp_path / f"unpaired/train/A/{key}.png"), pixels)
        assert np.array_equal(
            stored(tmp_path / f"combine/train/{key}.png"), np.hstack((pixels, pixels))
        )
    for name in ("blur", "unpaired", "combine"):
        assert "no problems" in run("verify", tmp_path / name)
        page = json.loads((tmp_path / name / "corpus.json").read_text())
        count = 3 if channels == "rgb" else 1
        assert (page["bits"], page["channels"]) == (16, {"input": count, "target": count})
    for name in ("blur", "combine"):
        corpus = open_corpus(tmp_path / name)
        for pair in corpus.pairs("train"):
            input_pixels, target = corpus.read(pair)
            assert input_pixels.dtype == target.dtype == np.uint16
            expected = sources[pair.key]
            assert np.array_equal(
                target, expected if expected.ndim == 3 else np.dstack([expected] * 3)
            )
    assert [r["notes"] for r in pair_rows(tmp_path / "blur")] == [[]] * len(sources)


def test_a_clean_16_bit_file_is_kept_byte_for_byte(tmp_path: Path) -> None:
    write_deep(tmp_path / "a", "png")
    run("blur", tmp_path / "a", tmp_path / "out", "--bits", 16, "--jobs", 1)
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "out" / "train" / "target" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", sorted(DEGRADATIONS))
def test_degradations_use_all_16_bits(kind: str) -> None:
    """On 16-bit samples a degradation gives what it gives on floats, within one level of 65535."""
    if kind == "albumentations":
        pytest.importorskip("albumentations")
    degradation = DEGRADATIONS[kind].example()
    for pixels in (deep(5), deep(5)[..., 0].copy()):
        drawn = degradation.draw(np.random.default_rng(1))
        exact = (
            degradation.apply(pixels.astype(np.float32) / 65535, **drawn).astype(np.float64) * 65535
        )
        degraded = degradation.apply(pixels, **drawn)
        assert (degraded.shape, degraded.dtype) == (pixels.shape, np.uint16)
        assert np.abs(degraded - exact).max() <= 1


@pytest.mark.parametrize("name", sorted(PAIRINGS))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pairings_keep_depth_and_channels(name: str, dtype: type) -> None:
    pairing = PAIRINGS[name]()
    samples: dict[str, Pixels] = {
        "rgb": deep(3),
        "gray": deep(3)[..., 0].copy(),
        "rgba": seen_through(3),
    }
    for channels in sorted(pairing.takes):
        pixels = samples[channels].astype(dtype)
        pair = pairing.make([pixels, pixels], np.random.default_rng(0))
        assert pair.input.dtype == pair.target.dtype == dtype
        assert pair.target.shape[2:] == pixels.shape[2:]
        assert pair.input.shape == (pair.target.shape[:2] if pairing.plane else pair.target.shape)


def test_8_bit_sources_of_a_16_bit_corpus_are_widened_and_counted(
    photos: Path, tmp_path: Path
) -> None:
    output = run("blur", photos, tmp_path / "out", "--bits", 16, "--jobs", 1)
    assert "12 images were 8 bit and became 16 bit" in output
    for row in pair_rows(tmp_path / "out"):
        assert row["notes"] == ["widened"]
        expected = io.read(photos / row["source"]).pixels.astype(np.uint16) * 257
        assert np.array_equal(
            stored(tmp_path / "out" / "train" / row["target_file_name"]), expected
        )


@pytest.mark.parametrize(
    ("command", "folder"),
    [("blur", "train"), ("combine", "train"), ("resize", "."), ("select", ".")],
)
def test_frames_that_are_not_used_are_noted_and_counted(
    command: str, folder: str, tmp_path: Path
) -> None:
    frames = [Image.fromarray(make_photo(seed, 80, 80)) for seed in range(3)]
    for name, count in (("a/one.png", 1), ("a/two.gif", 2), ("b/one.png", 1), ("b/two.tif", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        more = {"save_all": True, "append_images": frames[1:count]} if count > 1 else {}
        frames[0].save(tmp_path / name, **more)
    sources = [tmp_path / "a", *([tmp_path / "b"] if command == "combine" else [])]
    output = run(command, *sources, tmp_path / "out", "--jobs", 1)
    one, two = pair_rows(tmp_path / "out", folder)
    assert "source_frames" not in one
    assert two["source_frames"] == (3 if command == "combine" else 2)
    assert "first-frame" in two["notes"]
    # A selection copies files with all their frames.
    assert ("1 image was the first of several frames or pages" in output) != (command == "select")


def test_16_bit_sources_of_an_8_bit_corpus_are_noted_and_counted(tmp_path: Path) -> None:
    write_deep(tmp_path / "a", "tiff")
    (tmp_path / "a" / "float.tif").write_bytes(tiff(deep(9).astype(np.float32) / 65535 * 1.5))
    output = run("blur", tmp_path / "a", tmp_path / "out", "--jobs", 1)
    assert (
        "8 images were 16 bit or float and became 8 bit; --bits 16 keeps that, in png files"
        in output
    )
    assert "1 image was float with samples outside 0..1" in output
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["counts"]["notes"] == {
        "clipped": 1,
        "depth": 8,
    }
    assert "8 images were 16 bit" in run("blur", tmp_path / "a", tmp_path / "out"), (
        "of a finished corpus too"
    )
    assert "became 8 bit" not in run("select", tmp_path / "a", tmp_path / "kept"), (
        "a copy loses nothing"
    )


def test_float_samples_keep_16_bits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ramp = np.linspace(0, 1, 40 * 32 * 3, dtype=np.float32).reshape(32, 40, 3)
    (tmp_path / "a" / "x.tif").write_bytes(tiff(ramp))
    run("blur", tmp_path / "a", tmp_path / "out", "--bits", 16, "--jobs", 1)
    assert np.abs(stored(tmp_path / "out/train/target/x.png") - ramp * 65535.0).max() <= 0.51
    assert pair_rows(tmp_path / "out")[0]["notes"] == ["float"]


# ---- one channel
def test_gray_stays_one_channel_and_color_becomes_it_in_the_open(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    write_photos(folder, 2)
    gray = make_photo(7)[..., 0].copy()
    (folder / "gray.png").write_bytes(io.encode(gray, "png"))
    (folder / "grayscale.jpg").write_bytes(io.encode(gray, "jpg"))
    (folder / "three.png").write_bytes(io.encode(np.dstack([gray] * 3), "png"))
    (folder / "clear.png").write_bytes(io.encode(np.dstack([gray, gray // 2]), "png"))
    output = run("blur", folder, tmp_path / "out", "--channels", "gray", "--jobs", 1)
    assert "2 images were in color and became gray" in output
    notes = {r["key"]: r["notes"] for r in pair_rows(tmp_path / "out")}
    assert (notes["gray"], notes["grayscale"], notes["three"]) == ([], [], ["equal"])
    assert notes["clear"] == ["alpha"]
    target = tmp_path / "out" / "train" / "target"
    assert (target / "gray.png").read_bytes() == (folder / "gray.png").read_bytes()
    assert (target / "grayscale.jpg").read_bytes() == (folder / "grayscale.jpg").read_bytes()
    assert np.array_equal(stored(target / "three.png"), gray)
    for path in (tmp_path / "out" / "train").glob("*/*"):
        assert stored(path).ndim == 2, path
    assert "no problems" in run("verify", tmp_path / "out")
    assert "folders · gray<" in Path(run("show", tmp_path / "out").splitlines()[0]).read_text()
    luma = stored(target / "000.png").astype(float)
    weighed = io.read(folder / "000.jpg").pixels @ [0.299, 0.587, 0.114]
    assert np.abs(luma - weighed).max() <= 0.51


# ---- transparency
def seen_through(seed: int) -> Pixels:
    alpha = np.add.outer(np.arange(32) * 4, np.arange(40) * 3)
    return np.dstack((make_photo(seed), alpha.clip(0, 255).astype(np.uint8)))


@pytest.mark.parametrize("bits", [8, 16])
def test_rgba_keeps_transparency_where_no_sample_is_computed(bits: int, tmp_path: Path) -> None:
    sides = [tmp_path / "a", tmp_path / "b"]
    for side in sides:
        write_photos(side, 2, suffix=".png")
        (side / "clear.png").write_bytes(io.encode(seen_through(3), "png"))
    options = ("--channels", "rgba", "--bits", bits, "--jobs", 1)
    run("combine", *sides, tmp_path / "both", *options)
    run("unpaired", *sides, tmp_path / "un", *options)
    expected = seen_through(3).astype(np.uint16) * 257 if bits == 16 else seen_through(3)
    assert np.array_equal(stored(tmp_path / "un/train/A/clear.png"), expected)
    assert np.array_equal(
        stored(tmp_path / "both/train/clear.png"), np.hstack((expected, expected))
    )
    assert (stored(tmp_path / "un/train/A/000.png")[..., 3] == np.iinfo(expected.dtype).max).all()
    assert "opaque" in pair_rows(tmp_path / "un")[0]["notes"]
    corpus = open_corpus(tmp_path / "both")
    assert all(half.shape == (32, 40, 4) for half in corpus.read(corpus.pairs("train")[-1]))
    for name in ("both", "un"):
        assert "no problems" in run("verify", tmp_path / name)
        run("show", tmp_path / name)


def test_what_is_invisible_does_not_bleed_when_scaled() -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16] = (200, 100, 50, 255)
    pixels[:, 16:] = (0, 255, 0, 0)
    for size in ((8, 8), (9, 9), (70, 70)):
        scaled = fit(pixels, size, "crop").astype(int)
        visible = scaled[..., 3] > 8
        assert np.abs(scaled[visible][:, :3] - (200, 100, 50)).max() <= 2


@pytest.mark.parametrize(
    "options",
    [
        ("edges", "--channels", "gray", "--bits", 16),
        ("edges", "--channels", "gray", "--layout", "combined"),
        ("edges", "--layout", "combined"),
        ("grayscale", "--bits", 16),
        ("blank", "--channels", "gray", "--fill", "noise"),
    ],
)
def test_corpus_json_states_the_samples_on_disk(
    options: tuple[object, ...], photos: Path, tmp_path: Path
) -> None:
    run(options[0], photos, tmp_path / "out", *options[1:], "--jobs", 1)
    assert "no problems" in run("verify", tmp_path / "out")


# ---- rejections
@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["blur", "{in}", "{out}", "--bits", "16", "--format", "jpg"], "--bits 16"),
        (["unpaired", "{in}", "{in}", "{out}", "--bits", "16", "--format", "webp"], "use png"),
        (["blur", "{in}", "{out}", "--channels", "gray", "--format", "webp"], "--channels gray"),
        (["blur", "{in}", "{out}", "--channels", "rgba"], "use rgb or gray"),
        (["lab", "{in}", "{out}", "--channels", "gray"], "use rgb"),
        (
            ["unpaired", "{in}", "{in}", "{out}", "--channels", "rgba", "--alpha", "reject"],
            "--alpha reject",
        ),
        (["unpaired", "{in}", "{in}", "{out}", "--channels", "rgba", "--format", "jpg"], "use png"),
        (["blur", "{in}", "{out}", "--bits", "12"], "--bits"),
    ],
)
def test_what_does_not_fit_is_one_line(
    argv: list[str], names: str, photos: Path, tmp_path: Path
) -> None:
    words = [w.replace("{in}", str(photos)).replace("{out}", str(tmp_path / "out")) for w in argv]
    output = run(*words, code=2)
    assert names in output
    assert not (tmp_path / "out").exists()


def test_verify_finds_files_of_another_depth_or_other_channels(tmp_path: Path) -> None:
    write_deep(tmp_path / "a", "png")
    out = tmp_path / "out"
    run("blur", tmp_path / "a", out, "--bits", 16, "--jobs", 1)
    (out / "train/input/000.png").write_bytes(io.encode(make_photo(0), "png"))
    (out / "train/target/001.png").write_bytes(io.encode(deep(1)[..., 0].copy(), "png"))
    output = run("verify", out, code=1)
    assert "samples     train/input/000.png  8 bit x 3, not 16 bit x 3" in output
    assert "samples     train/target/001.png  16 bit x 1, not 16 bit x 3" in output


@pytest.mark.parametrize(
    "options", [("--bits", 16), ("--channels", "gray"), ("--bits", 16, "--channels", "gray")]
)
def test_one_and_two_workers_give_the_same_bytes(
    options: tuple[object, ...], tmp_path: Path
) -> None:
    write_deep(tmp_path / "a", "png", count=12)
    for jobs in (1, 2):
        command = (
            "blur",
            tmp_path / "a",
            tmp_path / f"out{jobs}",
            "--kind",
            "random-gaussian",
            *options,
        )
        run(*command, "--size", "24", "--jobs", jobs)
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")


# ---- reading
def test_a_image_without_notes_is_exactly_its_file() -> None:
    gray, color = deep(1)[..., 0].copy(), deep(1)
    for pixels in (gray, color, (gray >> 8).astype(np.uint8), (color >> 8).astype(np.uint8)):
        image = io.decode(io.encode(pixels, "png"), ReadPolicy(depth="keep", channels="keep"))
        assert np.array_equal(image.pixels, pixels)
        assert image.notes == ()
        assert image.verbatim


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_any_image_can_be_looked_at(shape: tuple[int, ...], dtype: type) -> None:
    top = np.iinfo(dtype).max
    pixels = np.full((5, 6, *shape), top, dtype)
    assert (to_uint8_rgb(pixels) == 255).all()
    assert to_uint8_rgb(pixels).shape == (5, 6, 3)
    assert to_uint8_rgb(np.zeros((5, 6, 3), dtype)).max() == 0
    if shape == (4,):
        assert (to_uint8_rgb(pixels * 0) == 255).all(), "nothing but white shows through"


def test_a_page_that_does_not_state_its_samples_means_8_bit_rgb(tmp_path: Path) -> None:
    def reading(info: dict[str, Any]) -> Corpus:
        return Corpus(tmp_path, "paired", "folders", "rgb", info, {})

    assert (reading({}).bits, reading({}).channels) == (8, {"input": 3, "target": 3})
    odd = {"recipe": 3}
    assert (reading(odd).bits, reading(odd).channels) == (8, {"input": 3, "target": 3})


def test_16_bit_images_of_a_folder_that_says_nothing_are_not_read_as_8(tmp_path: Path) -> None:
    write_deep(tmp_path / "bare" / "train", "png")
    corpus = open_corpus(tmp_path / "bare")
    with pytest.raises(CorpusError, match=r"16 bits.*import"):
        corpus.read(corpus.pairs("train")[0], exact=True)
    assert "became 8 bit" in run("import", tmp_path / "bare", tmp_path / "eight", "--jobs", 1)
    run("import", tmp_path / "bare", tmp_path / "deep", "--bits", 16, "--jobs", 1)
    corpus = open_corpus(tmp_path / "deep")
    assert np.array_equal(np.hstack(corpus.read(corpus.pairs("train")[1])), deep(1))


# ---- Lab
def test_lab_at_16_bit_is_made_from_16_bit_and_comes_back(tmp_path: Path) -> None:
    sources = write_deep(tmp_path / "a", "png")
    run("lab", tmp_path / "a", tmp_path / "out", "--bits", 16, "--jobs", 1)
    assert "no problems" in run("verify", tmp_path / "out")
    for key, pixels in sources.items():
        lab, plane = (stored(tmp_path / f"out/train/{n}/{key}.png") for n in ("target", "input"))
        assert lab.dtype == plane.dtype == np.uint16
        assert np.array_equal(lab[..., 0], plane)
        assert np.abs(color.lab_to_rgb(lab).astype(int) - pixels).max() < 257 / 3
        assert not np.array_equal(lab, color.rgb_to_lab(to_16_bit((pixels >> 8).astype(np.uint8))))
    measured = json.loads((tmp_path / "out" / "corpus.json").read_text())["measured"]
    assert measured["round_trip_max"] < 1 / 3
    assert measured["out_of_gamut_share"] == 0


def exact_lab(rgb: Pixels) -> Pixels:
    """CIE L*a*b* of RGB 0..1 in double precision, with the matrix and white that OpenCV states."""
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = light @ TO_XYZ.T / color.WHITE
    bent = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * 841 / 108 + 4 / 29)
    x, y, z = np.moveaxis(bent, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def exact_rgb(lab: Pixels) -> Pixels:
    """RGB 0..1 of CIE L*a*b*, clipped to sRGB, in double precision."""
    y = (lab[..., 0] + 16) / 116
    bent = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(bent > 6 / 29, bent**3, (bent - 4 / 29) * 108 / 841) * color.WHITE
    light = np.clip(xyz @ np.linalg.inv(TO_XYZ).T, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_lab_is_rounded_once_in_both_directions(dtype: type) -> None:
    top, levels = np.iinfo(dtype).max, 257 if dtype is np.uint16 else 1
    pixels = np.random.default_rng(0).integers(0, top, (200, 300, 3), dtype, endpoint=True)
    scale, shift = np.array([2.55, 1, 1]) * levels, np.array([0, 128, 128])
    lab = color.rgb_to_lab(pixels)
    expected = (exact_lab(pixels / top) + shift) * scale
    # Within the precision of OpenCV's cube root.
    assert np.abs(lab - expected).max() < 0.5 + 0.05 * levels
    back = color.lab_to_rgb(lab)
    assert back.dtype == lab.dtype == dtype
    expected = exact_rgb(lab / scale - shift) * top
    assert np.abs(back - expected).max() < 0.5 + 0.2 * levels
    if dtype is np.uint8:
        assert (np.rint(expected) != back).mean() < 1e-3


def test_the_share_outside_srgb_is_what_clips() -> None:
    inside = color.rgb_to_lab(np.full((8, 8, 3), 127, np.uint8))
    assert color.outside_srgb(inside) == 0
    for rgb in ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 0, 255)):
        flat = np.full((2, 2, 3), rgb, np.uint16) * 257
        assert color.outside_srgb(color.rgb_to_lab(flat)) == 0, rgb
    vivid = inside.copy()
    vivid[:2, :, 1] = 250
    assert color.outside_srgb(vivid) == 0.25
    assert color.outside_srgb(vivid.astype(np.uint16) * 257) == 0.25


# ---- training
def test_training_rejects_transparent_images(tmp_path: Path) -> None:
    checks = pytest.importorskip("img2img_train.data.checks")
    rgba = {"channels": {"input": 4, "target": 4}}
    with pytest.raises(UsageError, match="alpha channel"):
        checks.check_no_alpha(Corpus(tmp_path, "paired", "folders", "rgb", rgba, {}))
    checks.check_no_alpha(
        Corpus(tmp_path, "paired", "folders", "rgb", {"channels": {"input": 1}}, {})
    )
