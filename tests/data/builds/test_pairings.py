"""Laws that every pairing keeps; a new member of the dict is tested unasked."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import rows, run, tree
from conftest import make_photo, write_photos
from small_photos import write

from img2img_data.builds.pairings import PAIRINGS, Blank, Combine, Edges, Grayscale, Pairing
from img2img_data.builds.replay import replay_pair
from img2img_data.cli.steps import STEPS, print_after, run_step
from img2img_data.core.command_line import run_command_line
from img2img_data.core.errors import Rejected
from img2img_data.images import io
from img2img_data.images.pixels import luminance
from img2img_data.inspect.verify import mismatch, verify_corpus
from img2img_data.similarity.alignment import measure_shift
from img2img_train.cli import main as train

TWO_SOURCES = {"combine"}
COMMANDS = [n for n in STEPS if STEPS[n].models and n in {"blur", *PAIRINGS} - {"unpaired"}]
"""The commands that write paired corpora, one of them under another name than its pairing."""

VARIANTS: dict[str, list[Pairing]] = {
    "blank": [
        Blank(where=where, fill=fill, share=share)
        for where in ("center", "random")
        for fill in ("mean", "gray", "white", "noise")
        for share in (0.01, 0.5, 0.9)
    ],
    "edges": [
        Edges(),
        Edges(lines="white", blur=0),
        Edges(low=0, high=0),
        Edges(high=3),
        Edges(low=2000),
    ],
    "combine": [Combine(), Combine(audit_shift=True), Combine(max_shift=5)],
}
CASES = [
    pytest.param(p, id=f"{name}-{number}")
    for name, cls in PAIRINGS.items()
    for number, p in enumerate(VARIANTS.get(name, [cls()]))
]
SHAPES = [(33, 41), (64, 64), (1, 1), (1, 9), (7, 1)]


def typed(dtype: type, height: int, width: int, seed: int = 3) -> np.ndarray:
    photo = cv2.resize(make_photo(seed), (width, height), interpolation=cv2.INTER_AREA)
    return photo.astype(dtype) * (257 if dtype is np.uint16 else 1)


def sources(
    pairing: Pairing, dtype: type = np.uint8, height: int = 33, width: int = 41
) -> list[np.ndarray]:
    name = next(n for n, cls in PAIRINGS.items() if type(pairing) is cls)
    width *= 2 if name == "halves" else 1
    return [typed(dtype, height, width, seed) for seed in range(2 if name in TWO_SOURCES else 1)]


@pytest.mark.parametrize("pairing", CASES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_halves_have_one_size_and_the_sources_stay(
    pairing: Pairing, dtype: type, shape: tuple[int, int]
) -> None:
    images = sources(pairing, dtype, *shape)
    before = [p.copy() for p in images]
    pair = pairing.make(images, np.random.default_rng(0))
    for half in pair[:2]:
        assert half.shape[:2] == shape
        assert half.ndim == 2 or half.shape[2] == 3
        assert half.dtype == dtype
    for old, new in zip(before, images, strict=True):
        assert (old == new).all(), "a source was written to"
    json.dumps([pair.drawn, pair.measured], allow_nan=False)
    assert all(isinstance(v, int | float) for v in pair.measured.values())


IN_CHANNELS = {
    "rgb": lambda p: p,
    "gray": lambda p: p[..., 1].copy(),
    "rgba": lambda p: np.dstack([p, p[..., 1]]),
}


@pytest.mark.parametrize("pairing", CASES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_and_depth_are_those_it_takes(pairing: Pairing, dtype: type) -> None:
    for channels in pairing.takes:
        images = [IN_CHANNELS[channels](p) for p in sources(pairing, dtype)]
        pair = pairing.make(images, np.random.default_rng(0))
        assert pair.target.dtype == pair.input.dtype == dtype
        assert pair.target.ndim == images[0].ndim
        assert pair.input.ndim == (2 if pairing.plane or channels == "gray" else 3)


@pytest.mark.parametrize("pairing", CASES)
def test_a_row_is_enough_to_make_the_pair_again(pairing: Pairing) -> None:
    images = sources(pairing)
    pair = pairing.make(images, np.random.default_rng(7))
    assert pairing.fixed_parameters in (None, pair.drawn)
    again = pairing.apply(images, json.loads(json.dumps(pair.drawn)))
    assert all((a == b).all() for a, b in zip(pair[:2], again[:2], strict=True))
    assert again[2:] == pair[2:]


@pytest.mark.parametrize("pairing", CASES)
def test_settings_name_the_pairing(pairing: Pairing) -> None:
    output = pairing.settings()
    assert PAIRINGS[output["pairing"]] is type(pairing)
    json.dumps(output)


EXTRA = {
    "degrade": {"kind": "noise"},
    "blank": {"where": "random", "fill": "noise"},
    "combine": {"audit_shift": True},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_gives_the_same_bytes_for_one_and_two_workers(
    command: str, tmp_path: Path
) -> None:
    paths = [write_photos(tmp_path / n, 6, 48, 40) for n in STEPS[command].paths if n != "out"]
    for jobs in (1, 2):
        settings = {**EXTRA.get(command, {}), "jobs": jobs}
        _, code = run_step(
            command, [*paths, tmp_path / f"out{jobs}"], settings, lambda *_: None, print
        )
        assert code == 0
    assert tree(tmp_path / "out1") == tree(tmp_path / "out2")
    assert not verify_corpus(tmp_path / "out1", lambda *_: None).problems


@pytest.mark.parametrize("command", [*COMMANDS, "unpaired"])
def test_the_suggested_preset_fits_the_pairs(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_photos(tmp_path / n, 1, 48, 40) for n in STEPS[command].paths if n != "out"]
    settings = {**EXTRA.get(command, {}), "jobs": 1}
    run_step(command, [*paths, tmp_path / "out"], settings, lambda *_: None, print)
    print_after(tmp_path / "out")
    expected = {"blur": [], "degrade": [], "unpaired": ["--preset", "cyclegan"]}
    words = shlex.split(capsys.readouterr().err)
    assert words[3:-2] == expected.get(command, ["--preset", "pix2pix"])


@pytest.mark.parametrize("command", ["edges", "unpaired"])
@pytest.mark.parametrize(
    "sizes", ["", "size=24", "size=32", "size=64", "size=65x130", "size=96", "size=128"]
)
def test_the_suggested_command_trains_on_images_of_any_size(
    sizes: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**dict(text.split("=") for text in sizes.split()), "jobs": 1}
    paths = [write_photos(tmp_path / n, 1, 48, 40) for n in STEPS[command].paths if n != "out"]
    write(paths[0] / "other.png", make_photo(1, 90, 70))
    run_step(command, [*paths, tmp_path / "out"], settings, lambda *_: None, print)
    print_after(tmp_path / "out")
    words = shlex.split(capsys.readouterr().err)
    code = run_command_line(train.group, [*words[2:], "--dry-run"], "img2img-train")
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("format", ["basicsr", "pix2pix"])
def test_pairs_from_two_folders_are_restored(format: str, tmp_path: Path) -> None:
    run("blur", write_photos(tmp_path / "photos", 2), tmp_path / "corpus")
    run("export", tmp_path / "corpus", tmp_path / "out", "--format", format)
    output = run("import", tmp_path / "out", tmp_path / "imported")
    assert ("--preset pix2pix" in output) is (format == "pix2pix")


def test_the_command_after_select_splits_as_the_images_are_split(tmp_path: Path) -> None:
    def after(*words: object) -> list[str]:
        output = run(*words, cwd=tmp_path)
        following = shlex.split(output.partition("next: img2img-data ")[2])
        run(*following, "--dry-run", "--size", "16", cwd=tmp_path)
        return following

    photos = write_photos(tmp_path / "photos", 4, 20, 20)
    camera = ["--recipe", "camera"]
    shares = [*camera, "--split", "train=0.8,val=0.1,test=0.1"]
    assert after("select", photos, "some") == ["degrade", "some", "corpora/some", *shares]
    assert after("resize", "--", photos, "-x") == ["degrade", "./-x", "corpora/-x", *shares]
    for name in ("train", "val"):
        shutil.copytree(photos, tmp_path / "both" / name)
    assert after("select", "both", "kept")[3:] == [*camera, "--split", "folder"]
    lines = [f'{{"file_name": "{path.name}", "split": "dev"}}' for path in photos.iterdir()]
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    assert after("select", photos, "tagged")[3:] == camera


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
@pytest.mark.parametrize("layout", ["folders", "combined"])
@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"lab"}))
def test_the_corpus_page_is_true_in_every_format(
    command: str, layout: str, format: str, tmp_path: Path
) -> None:
    paths = [write_photos(tmp_path / n, 2, 48, 40) for n in STEPS[command].paths if n != "out"]
    settings = {**EXTRA.get(command, {}), "jobs": 1, "layout": layout, "format": format}
    run_step(command, [*paths, tmp_path / "out"], settings, lambda *_: None, print)
    assert not verify_corpus(tmp_path / "out", lambda *_: None).problems


@pytest.mark.parametrize("command", sorted(c for c in COMMANDS if len(STEPS[c].paths) == 2))
def test_every_pair_of_single_photos_is_replayed_byte_for_byte(
    command: str, tmp_path: Path
) -> None:
    photos, out = write_photos(tmp_path / "photos", 2, 48, 40), tmp_path / "out"
    settings = {**EXTRA.get(command, {}), "jobs": 1, "size": "40"}
    run_step(command, [photos, out], settings, lambda *_: None, print)
    assert replay_pair(out, "001", photos).equal


def test_gray_is_the_luma_of_the_target() -> None:
    image = typed(np.uint16, 20, 30)
    pair = Grayscale().make([image], None)
    assert pair.target is image
    luma = image.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(pair.input - luma).max() <= 3, "of 65535"


@pytest.mark.parametrize("fill", ["mean", "gray", "white", "noise"])
@pytest.mark.parametrize("where", ["center", "random"])
def test_the_hole_is_where_the_row_says_and_nowhere_else(where: str, fill: str) -> None:
    image = typed(np.uint8, 50, 80)
    pair = Blank.model_validate({"where": where, "fill": fill, "share": 0.3}).make(
        [image], np.random.default_rng(5)
    )
    left, top, width, height = (
        int(pair.drawn[n]) for n in ("left", "top", "hole_width", "hole_height")
    )
    assert (width, height) == (24, 15)
    mask = np.zeros((50, 80), bool)
    mask[top : top + height, left : left + width] = True
    assert mask.sum() == width * height
    assert (pair.input[~mask] == image[~mask]).all()
    assert (pair.input[mask] != image[mask]).any(axis=1).mean() > 0.9
    if fill == "mean":
        assert np.abs(pair.input[mask] - image[~mask].mean(axis=0)).max() <= 0.5
    if where == "center":
        assert (left, top) == (28, 17)


def test_random_holes_reach_every_place() -> None:
    image, blank = typed(np.uint8, 4, 6), Blank(where="random", share=0.5)
    drawn = [blank.draw([image], np.random.default_rng(seed)) for seed in range(300)]
    assert {(d["left"], d["top"]) for d in drawn} == {(x, y) for x in range(4) for y in range(3)}


@pytest.mark.parametrize("lines", ["black", "white"])
def test_edges_lie_on_the_rim_of_a_square(lines: str) -> None:
    image = np.full((60, 60, 3), 40, np.uint8)
    image[20:40, 15:45] = (200, 90, 120)
    pair = Edges.model_validate({"lines": lines}).make([image], None)
    drawn = (pair.input > 0) == (lines == "white")
    assert pair.measured["edge_share"] == pytest.approx(drawn.mean(), abs=1e-4)
    ys, xs = np.nonzero(drawn)
    assert 80 <= len(ys) <= 120
    on_rim = [
        min(abs(y - t) for t in (19.5, 39.5)) < 2 or min(abs(x - t) for t in (14.5, 44.5)) < 2
        for y, x in zip(ys, xs, strict=True)
    ]
    assert all(on_rim)


def test_a_flat_image_has_no_edges() -> None:
    pair = Edges().make([np.full((32, 32, 3), 90, np.uint8)], None)
    assert pair.measured == {"edge_share": 0.0}
    assert (pair.input == 255).all()


def moved(image: np.ndarray, x: float, y: float) -> np.ndarray:
    matrix = np.float32([[1, 0, x], [0, 1, y]])
    return cv2.warpAffine(
        image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def textured(seed: int, size: int = 176) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(
            rng.integers(0, 256, (n, n, 3), dtype=np.uint8),
            (size, size),
            interpolation=cv2.INTER_CUBIC,
        )
        for n in (5, 11, 23, 47)
    ]
    return np.mean(layers, axis=0).round().astype(np.uint8)


LOOKS = {
    "same": lambda p: p,
    "blurred": lambda p: cv2.GaussianBlur(p, (0, 0), 2),
    "negative": lambda p: 255 - p,
    "gray": luminance,
    "sixteen": lambda p: p.astype(np.uint16) * 257,
    "levels": lambda p: (p // 64) * 64,
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 12, p.shape), 0, 255).astype(
        np.uint8
    ),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("shift", [(0, 0), (0.5, 0), (0, -1.5), (4, 0), (-2.25, 6.75)], ids=str)
def test_a_planted_shift_is_found(look: str, shift: tuple[float, float]) -> None:
    photo = textured(1)
    first, second = (p[12:-12, 12:-12] for p in (photo, LOOKS[look](moved(photo, *shift))))
    found = measure_shift(first, second)
    assert found.is_reliable
    assert abs(found.x - shift[0]) <= 0.25
    assert abs(found.y - shift[1]) <= 0.25


@pytest.mark.parametrize(
    "second", [np.zeros((120, 120, 3), np.uint8), textured(9)[:120, :120]], ids=["flat", "other"]
)
def test_unrelated_images_are_not_believed(second: np.ndarray) -> None:
    assert not measure_shift(textured(1)[:120, :120], second).is_reliable
    Combine(max_shift=0.01).make([textured(1)[:120, :120], second], None)


def test_a_periodic_image_is_in_doubt() -> None:
    stripes = np.tile(np.repeat(np.uint8([0, 200]), 6), 16)[None].repeat(150, 0)
    assert not measure_shift(stripes, np.roll(stripes, 3, axis=1)).is_reliable


def test_large_images_are_measured_in_their_own_pixels() -> None:
    photo = cv2.resize(textured(2), (2400, 1200), interpolation=cv2.INTER_CUBIC)
    found = measure_shift(photo, moved(photo, 12, -8))
    assert (found.x, found.y) == pytest.approx((12, -8), abs=1)


def test_pairs_apart_are_rejected_and_the_others_tell_their_shift(tmp_path: Path) -> None:
    for name, shift in {"good": (0.5, 0), "bad": (5, 0), "flat": (0, 0)}.items():
        photo = textured(4) if name != "flat" else np.full((176, 176, 3), 9, np.uint8)
        for side, image in (("A", photo), ("B", moved(photo, *shift))):
            (tmp_path / side).mkdir(exist_ok=True)
            data = io.encode(np.ascontiguousarray(image[12:-12, 12:-12]), "png")
            (tmp_path / side / f"{name}.png").write_bytes(data)
    run(
        "combine",
        tmp_path / "A",
        tmp_path / "B",
        tmp_path / "out",
        "--max-shift",
        2,
        "--max-bad",
        0.5,
    )
    (rejected,) = rows(tmp_path / "out" / "rejected.jsonl")
    assert (rejected["source"], rejected["reason"]) == ("bad.png", "misaligned")
    assert "+5.0" in str(rejected["detail"])
    flat, good = rows(tmp_path / "out" / "train" / "metadata.jsonl")
    assert flat["measured"] == {"shift_doubt": 1.0}
    assert good["measured"] == {
        "shift_x": pytest.approx(0.5, abs=0.25),
        "shift_y": pytest.approx(0, abs=0.25),
        "shift_doubt": pytest.approx(0.1, abs=0.2),
    }
    run("combine", tmp_path / "A", tmp_path / "B", tmp_path / "all", "--layout", "folders")
    assert "no problems" in run("verify", tmp_path / "all", "--max-shift", 8)
    output = run("verify", tmp_path / "all", "--max-shift", 2, code=1)
    assert "misaligned  train/bad  5.0 pixels apart: +5.0 to the right, +0.0 down" in output
    with pytest.raises(Rejected):
        Combine(max_shift=2).make([textured(4), moved(textured(4), 0, -3)], None)


@pytest.mark.parametrize("offset", [0, 1, -1])
def test_pairs_with_wrong_numbers_are_reported(offset: int, tmp_path: Path) -> None:
    for number in range(24):
        photo = textured(number)[:96, :96]
        edges = 255 - cv2.Canny(textured((number + offset) % 24)[:96, :96], 60, 120)
        for side, image in (("A", photo), ("B", edges)):
            write(tmp_path / side / f"{number:02d}.png", image)
    out = tmp_path / "out"
    output = run("combine", tmp_path / "A", tmp_path / "B", out, "--audit-shift", "--jobs", 1)
    assert ("fit each other no better than those of different pairs" in output) == (offset != 0)
    verified = run("verify", out, "--max-shift", 1000)
    assert ("fit each other no better than those of different pairs" in verified) == (offset != 0)


def test_flat_few_and_still_pairs_are_not_reported(tmp_path: Path) -> None:
    still = textured(1)[:96, :96]
    for number in range(30):
        flat, few = np.full((40, 40, 3), number, np.uint8), textured(number)[:40, :40]
        for side in ("input", "target"):
            write(tmp_path / "flat" / side / f"{number}.png", flat)
            write(tmp_path / "few" / side / f"{number}.png", few if number < 9 else flat)
            frame = cv2.circle(still.copy(), (40, 40), 3, (8 * number, 0, 0), -1)
            write(tmp_path / "still" / side / f"{number}.png", frame)
    assert [mismatch(tmp_path / name) for name in ("flat", "few", "still")] == [[], [], []]


def test_real_sketches_with_wrong_numbers_are_reported(real_data: Path, tmp_path: Path) -> None:
    photos = sorted((real_data / "cuhk" / "Training photo").iterdir())[:50]
    sketches = sorted((real_data / "cuhk" / "Training sketch").iterdir())[:50]
    for offset in (0, 1, -1):
        folder = tmp_path / str(offset)
        for number, photo in enumerate(photos):
            for side, path in (("input", photo), ("target", sketches[(number + offset) % 50])):
                (folder / side).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / side / f"{number:02d}.jpg")
        assert bool(mismatch(folder)) == (offset != 0)
