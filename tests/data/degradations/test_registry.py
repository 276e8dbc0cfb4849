"""Laws of every degradation of the registry; a new member is tested without a new test."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo
from degradation_examples import KINDS, LIGHT, example

from img2img_data.core.errors import Rejected, UsageError
from img2img_data.core.settings_model import Place, help_of
from img2img_data.core.yaml_file import read_value
from img2img_data.degradations.albumentations_step import SUGGESTED
from img2img_data.degradations.blur import GaussianBlur, KernelBlur, normalized_kernel
from img2img_data.degradations.noise import MixedNoise
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.resample import Resize
from img2img_data.degradations.samples import MIRRORED, REPLICATED
from img2img_data.degradations.spec import describe_degradations, parse_spec, to_spec
from img2img_data.images import io
from img2img_data.inspect.contact_sheet import write_contact_sheet

DTYPES = [np.uint8, np.uint16, np.float32]
PLACE = Place("recipe 'x'", ("degradation",))


def typed(dtype: type, width: int = 37, height: int = 29) -> np.ndarray:
    photo = make_photo(3, width, height)
    if dtype is np.float32:
        return photo.astype(np.float32) / 255
    return photo.astype(dtype) * (257 if dtype is np.uint16 else 1)


def shapes_of(image: np.ndarray) -> list[np.ndarray]:
    two = np.ascontiguousarray(image[..., :2])
    return [
        image,
        image[..., 0].copy(),
        image[..., :1].copy(),
        two,
        image[:1],
        image[:, :1],
        image[:1, :1],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_fixed_parameters_are_those_that_every_image_draws(kind: str) -> None:
    identity = DEGRADATIONS[kind].identity_settings
    variants = [example(kind)]
    variants += [] if identity is None else [DEGRADATIONS[kind].model_validate(identity)]
    for degradation in variants:
        if degradation.fixed_parameters is None:
            continue
        rng = np.random.default_rng(0)
        assert degradation.draw(rng) == degradation.fixed_parameters
        assert rng.random() == np.random.default_rng(0).random(), "nothing was drawn"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shape_dtype_and_range_are_kept(kind: str, dtype: type) -> None:
    degradation = example(kind)
    for shaped, seed in itertools.product(shapes_of(typed(dtype)), (0, 1)):
        before = shaped.copy()
        out = degradation.apply(shaped, **degradation.draw(np.random.default_rng(seed)))
        assert out.shape == shaped.shape
        assert out.dtype == shaped.dtype
        assert np.isfinite(out.astype(np.float64)).all()
        assert dtype is not np.float32 or (out.min() >= 0 and out.max() <= 1 + 1e-6)
        assert (shaped == before).all(), "the source was written to"
        assert not np.shares_memory(out, shaped)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_parameters_replay_the_pixels(kind: str) -> None:
    degradation, image = example(kind), typed(np.uint8)
    again = parse_spec(json.loads(json.dumps(to_spec(degradation))), PLACE).degradation
    assert again == degradation
    for seed in range(4):
        drawn = degradation.draw(np.random.default_rng(seed))
        assert drawn == degradation.draw(np.random.default_rng(seed))
        assert all(type(value) in {int, float} for value in drawn.values())
        row = json.loads(json.dumps(drawn, allow_nan=False))
        assert row == drawn
        assert (degradation.apply(image, **drawn) == again.apply(image.copy(), **row)).all()


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_every_parameter_has_a_help_text(kind: str) -> None:
    fields = DEGRADATIONS[kind].model_fields
    without = [name for name, field in fields.items() if not help_of(field)]
    assert without == [], "write a docstring below the field"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_identity_leaves_every_image_unchanged(kind: str, dtype: type) -> None:
    settings = DEGRADATIONS[kind].identity_settings
    if settings is None:
        pytest.skip(f"{kind} has no identity")
    identity = DEGRADATIONS[kind].model_validate(settings)
    drawn = identity.draw(np.random.default_rng(5))
    for shaped in shapes_of(typed(dtype)):
        assert (identity.apply(shaped, **drawn) == shaped).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_changes_something(kind: str) -> None:
    degradation, image = example(kind), typed(np.uint8)
    drawn = [degradation.draw(np.random.default_rng(seed)) for seed in range(4)]
    assert any((degradation.apply(image, **d) != image).any() for d in drawn)


PADDING = {MIRRORED: "symmetric", REPLICATED: "edge"}


@pytest.mark.parametrize("kind", [k for k in KINDS if DEGRADATIONS[k].border in PADDING])
def test_the_border_is_extended_as_stated(kind: str) -> None:
    """An image that is extended, degraded and cropped is the degraded image."""
    degradation, image = example(kind), typed(np.float32, 32, 24)
    border = DEGRADATIONS[kind].border
    extended = np.pad(image, ((64, 64), (64, 64), (0, 0)), PADDING[border])  # type: ignore[call-overload]
    for seed in range(3):
        drawn = degradation.draw(np.random.default_rng(seed))
        cropped = degradation.apply(extended, **drawn)[64:-64, 64:-64]
        assert np.abs(degradation.apply(image, **drawn) - cropped).max() < 1e-4
    assert any(border in line for line in describe_degradations(kind))


@pytest.mark.parametrize("kind", LIGHT)
def test_integers_are_rounded_once(kind: str) -> None:
    """Bytes equal rounded floats. (Rounding inside of albumentations is not ours.)"""
    degradation = example(kind)
    for seed in range(4):
        drawn = degradation.draw(np.random.default_rng(seed))
        exact = degradation.apply(typed(np.float32), **drawn) * 255
        assert np.abs(degradation.apply(typed(np.uint8), **drawn) - exact).max() <= 0.51


@pytest.mark.parametrize("kind", KINDS)
def test_separable_degradations_are_two_matrices(kind: str) -> None:
    """Applied to the identity matrix along one axis it returns its operator: R x image x C^T."""
    degradation, image = example(kind), typed(np.float32)[..., 0].copy()
    if not degradation.separable:
        pytest.skip(f"{kind} is not separable")
    drawn = degradation.draw(np.random.default_rng(1))
    rows = degradation.apply(np.eye(image.shape[0], dtype=np.float32), axes="y", **drawn)
    columns = degradation.apply(np.eye(image.shape[1], dtype=np.float32), axes="y", **drawn)
    assert np.abs(rows @ image @ columns.T - degradation.apply(image, **drawn)).max() < 1e-5


@pytest.mark.parametrize("kind", [k for k in KINDS if DEGRADATIONS[k].keeps_mean])
def test_four_applications_keep_the_mean(kind: str) -> None:
    """Truncation instead of rounding would lose half a level each time."""
    image, rng = np.full((160, 160, 3), 128, np.uint8), np.random.default_rng(0)
    image[32:128, 32:128] = np.clip(make_photo(3, 96, 96), 64, 192)  # the border is flat
    degradation, out = example(kind), image
    for _ in range(4):
        out = degradation.apply(out, **degradation.draw(rng))
    noise = 4 * (out.astype(float) - image).std() / image.size**0.5 if degradation.seeded else 0
    assert abs(out.mean() - image.mean()) <= 0.05 + noise


def test_blur_and_jpeg_in_turns_keep_the_mean() -> None:
    image = np.full((160, 160, 3), 128, np.uint8)
    image[32:128, 32:128] = np.clip(make_photo(3, 96, 96), 64, 192)
    step = parse_spec([{"gaussian": {"sigma": 2}}, {"jpeg": {"quality": 90}}], PLACE).degradation
    out = image
    for _ in range(3):
        out = step.apply(out, **step.draw(np.random.default_rng(0)))
    assert abs(out.mean() - image.mean()) <= 0.05


def test_sharpen_is_the_published_mask() -> None:
    """``usm_sharp`` of BasicSR, with another end of its kernel and another border."""
    image = typed(np.float32, 64, 64)
    out = DEGRADATIONS["sharpen"]().apply(image, sigma=8.0, amount=2.0, threshold=10.0)
    blurred = cv2.GaussianBlur(image, (65, 65), 8.0, borderType=cv2.BORDER_REFLECT)
    mask = (np.abs(image - blurred) * 255 > 10).astype(np.float32)
    soft = cv2.GaussianBlur(mask, (65, 65), 8.0, borderType=cv2.BORDER_REFLECT)
    sharp = np.clip(image + 2 * (image - blurred), 0, 1)
    expected = soft * sharp + (1 - soft) * image
    assert np.abs(out - expected).max() < 1e-4


@pytest.mark.parametrize("kind", ["dither", "halftone"])
def test_dots_show_the_tone_with_few_levels(kind: str) -> None:
    flat = np.full((64, 64, 3), 64, np.uint8)
    out = DEGRADATIONS[kind]().apply(flat, levels=2, period=4.0)
    assert set(np.unique(out)) == {0, 255}
    assert np.abs(out.mean((0, 1)) - 64).max() < 3
    halves = out[:32], out[32:], out[:, :32], out[:, 32:]
    assert all(np.abs(half.mean((0, 1)) - 64).max() < 8 for half in halves), "spread evenly"


def test_floyd_steinberg_agrees_with_a_plain_loop() -> None:
    image = typed(np.float32, 13, 11)
    work, (height, width) = np.pad(image, ((0, 1), (1, 1), (0, 0))), image.shape[:2]
    for y, x in itertools.product(range(height), range(1, width + 1)):
        level = np.rint(np.clip(work[y, x], 0, 1) * 3) / 3
        error, work[y, x] = work[y, x] - level, level
        work[y, x + 1] += error * 7 / 16
        work[y + 1, x - 1 : x + 2] += error * np.array([[3], [5], [1]]) / 16
    out = DEGRADATIONS["dither"]().apply(image, levels=4)
    assert np.abs(out - work[:height, 1:-1]).max() < 1e-6


@pytest.mark.parametrize("kind", ["chroma-noise", "chroma-subsample"])
def test_color_changes_and_luma_does_not(kind: str) -> None:
    image = typed(np.float32) * 0.4 + 0.3
    out = example(kind).apply(image, sigma=5.0, seed=1)
    weights = np.array([0.299, 0.587, 0.114])
    assert np.abs((out - image) @ weights).max() < 1e-5
    assert np.abs(out - image).max() > 0.01


def test_channels_shift_in_opposite_directions() -> None:
    point = np.zeros((9, 9, 3), np.uint8)
    point[4, 4] = 255
    out = DEGRADATIONS["channel-shift"]().apply(point, x=2.0, y=-1.0)
    assert [np.argwhere(out[..., c]).tolist() for c in range(3)] == [[[3, 6]], [[4, 4]], [[5, 2]]]
    image = typed(np.float32)
    halfway = DEGRADATIONS["channel-shift"]().apply(image, x=0.5, y=0.0)
    assert np.abs(halfway[:, 1:, 0] - (image[:, 1:, 0] + image[:, :-1, 0]) / 2).max() < 1e-6
    long = DEGRADATIONS["channel-shift"]().apply(np.zeros((40_000, 2, 3), np.uint8), x=1.0, y=1.0)
    assert not long.any()


def test_separable_kinds() -> None:
    assert {"gaussian", "random-gaussian", "resize"} <= {k for k in LIGHT if example(k).separable}
    blurs = [{"gaussian": {"sigma": [1, 2]}}, {"resize": {"factor": 2}}]
    assert parse_spec(blurs, PLACE).degradation.separable
    assert not parse_spec([*blurs, "noise"], PLACE).degradation.separable


# ------------------------------------------------------------------------------------------ draws
def test_only_without_ranges_and_seeds_are_parameters_fixed() -> None:
    assert GaussianBlur(sigma=3).fixed_parameters == {"sigma": 3}
    assert GaussianBlur(sigma="1..3").fixed_parameters is None
    assert DEGRADATIONS["noise"]().fixed_parameters is None, "each image draws a seed"
    assert Resize(down=("area", "cubic")).fixed_parameters is None, "it draws an interpolation"


def test_ranges_are_drawn_as_stated() -> None:
    rng = np.random.default_rng(0)
    specs = (
        {"jpeg": {"quality": [30, 33]}},
        {"sinc": {"size": [7, 11]}},
        {"gaussian": {"sigma": [1, 100, "log"]}},
        {"median": {"size": [1, 31, "log"]}},
    )
    quality, sinc, sigma, median = (
        [parsed.draw(rng) for _ in range(600)]
        for parsed in (parse_spec(t, PLACE).degradation for t in specs)
    )
    assert {d["quality"] for d in quality} == {30, 31, 32, 33}
    assert {d["size"] for d in sinc} == {7, 9, 11}
    drawn = [d["sigma"] for d in sigma]
    assert 1 <= min(drawn) < 1.2
    assert 80 < max(drawn) <= 100
    assert abs(np.median(drawn) - 10) < 2, "uniform in the logarithm"
    sizes = [d["size"] for d in median]
    assert set(sizes) <= set(range(1, 32, 2))
    assert {1, 31} <= set(sizes)
    assert 3 <= np.median(sizes) <= 5, "uniform in the logarithm"
    assert parse_spec({"gaussian": {"sigma": "1..5"}}, PLACE) == parse_spec(
        {"gaussian": {"sigma": [1, 5]}}, PLACE
    )


def test_branches_are_drawn_by_weight() -> None:
    steps = [{"noise": {}, "weight": 3}, {"jpeg": {}, "weight": 1}, {"median": {}, "weight": 0}]
    one_of = parse_spec({"one-of": {"steps": steps, "probability": 0.8}}, PLACE).degradation
    rng = np.random.default_rng(0)
    branches = [one_of.draw(rng)["branch"] for _ in range(4000)]
    shares = [branches.count(branch) / 4000 for branch in (-1, 0, 1, 2)]
    assert np.abs(np.subtract(shares, [0.2, 0.6, 0.2, 0])).max() < 0.03


def test_shuffle_draws_every_order() -> None:
    shuffle = parse_spec({"shuffle": ["grayscale", "posterize", "median"]}, PLACE).degradation
    rng = np.random.default_rng(0)
    orders = {
        tuple(d[f"order.{i}"] for i in range(3)) for d in (shuffle.draw(rng) for _ in range(200))
    }
    assert orders == set(itertools.permutations(range(3)))


def test_names_of_drawn_parameters_are_paths() -> None:
    spec = [{"one-of": [{"chain": ["noise", "jpeg"]}]}, {"median": {}, "probability": 0.5}]
    drawn = parse_spec(spec, PLACE).degradation.draw(np.random.default_rng(1))
    assert {
        "0.one-of.0.chain.0.noise.sigma",
        "0.one-of.0.chain.1.jpeg.quality",
        "1.one-of.branch",
    } <= set(drawn)


def test_a_chain_rounds_once() -> None:
    """Ten weak blurs, rounded each time, would change nothing; the chain is their product."""
    image = typed(np.uint8)
    chain = parse_spec([{"gaussian": {"sigma": 0.4}}] * 10, PLACE).degradation
    drawn = chain.draw(np.random.default_rng(0))
    exact = chain.apply(image.astype(np.float32) / 255, **drawn) * 255
    assert np.abs(chain.apply(image, **drawn) - exact).max() <= 0.51


# ------------------------------------------------------------------------------ published formulas
def kernel(kind: str, **drawn: float) -> np.ndarray:
    blur = DEGRADATIONS[kind]()
    return normalized_kernel(blur, **drawn)


@pytest.mark.parametrize("kind", [k for k in KINDS if issubclass(DEGRADATIONS[k], KernelBlur)])
def test_kernels_sum_to_one_and_are_symmetric(kind: str) -> None:
    blur = example(kind)
    for seed in range(8):
        weights = normalized_kernel(blur, **blur.draw(np.random.default_rng(seed)))
        assert weights.shape[0] == weights.shape[1]
        assert weights.shape[0] % 2 == 1
        assert abs(weights.sum(dtype=np.float64) - 1) < 1e-5
        assert np.abs(weights - weights[::-1, ::-1]).max() < 1e-6
        assert np.isfinite(weights).all()


def test_bell_and_plateau_are_the_published_formulas() -> None:
    """exp(-(x^T S^-1 x)^beta / 2) with S = U diag(sx^2, sy^2) U^T, as in BasicSR."""
    theta, beta = math.radians(-30), 0.7  # y points down
    turn = np.array([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    inverse = np.linalg.inv(turn @ np.diag([4.0, 1.0]) @ turn.T)
    at = np.stack(np.meshgrid(np.arange(-7, 8), np.arange(-7, 8)), -1).astype(float)
    distance = np.einsum("yxi,ij,yxj->yx", at, inverse, at)
    drawn = {"size": 15, "sigma_x": 2, "sigma_y": 1, "rotation": 30, "beta": beta}
    for kind, expected in (
        ("generalized", np.exp(-0.5 * distance**beta)),
        ("plateau", 1 / (1 + distance**beta)),
    ):
        assert np.abs(kernel(kind, **drawn) - expected / expected.sum()).max() < 1e-7


def test_sinc_is_the_published_formula() -> None:
    from scipy.special import j1

    for size, cutoff in ((7, math.pi / 3), (21, math.pi), (101, 2.0)):
        radius = np.hypot(*np.meshgrid(np.arange(size) - size // 2, np.arange(size) - size // 2))
        radius[size // 2, size // 2] = 1
        expected = cutoff * j1(cutoff * radius) / (2 * math.pi * radius)
        expected[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
        weights = kernel("sinc", size=size, cutoff=cutoff)
        assert np.abs(weights - expected / expected.sum()).max() < 1e-7


def test_known_kernels() -> None:
    horizontal = kernel("motion", length=5, angle=0)
    assert np.allclose(horizontal, [[0.2] * 5 if row == 2 else [0.0] * 5 for row in range(5)])
    assert np.allclose(kernel("motion", length=5, angle=90), horizontal.T)
    even = kernel("motion", length=4, angle=0)[2]
    assert np.allclose(even, np.array([0.5, 1, 1, 1, 0.5]) / 4)
    rising = kernel("motion", length=7, angle=45)
    assert rising[1, -2] > 0.05 > rising[1, 1], "45 degrees rise to the right"
    assert (kernel("motion", length=1, angle=33) == 1).all()
    disk = kernel("defocus", radius=10)
    assert abs(1 / disk[10, 10] / (math.pi * 100) - 1) < 0.01
    small = kernel("defocus", radius=1)
    assert np.allclose(small[1] / small[1, 1], [0.5, 1, 0.5])


def test_round_gaussians_agree() -> None:
    """The separable and the two-dimensional kernel agree with OpenCV and scipy."""
    from scipy.ndimage import gaussian_filter

    image = typed(np.float32, 64, 64)
    blurred = DEGRADATIONS["gaussian"]().apply(image, sigma=2.0)
    bell = DEGRADATIONS["anisotropic"]().apply(image, sigma_x=2.0, sigma_y=2.0, rotation=20.0)
    opencv = cv2.GaussianBlur(image, (17, 17), 2.0, borderType=cv2.BORDER_REFLECT)
    scipy_blurred = np.stack(
        [gaussian_filter(image[..., c].astype(np.float64), 2) for c in range(3)], -1
    )
    for other in (bell, opencv, scipy_blurred):
        assert np.abs(blurred - other).max() < 2e-4


@pytest.mark.parametrize("kind", ["noise", "gray-noise", "speckle", "poisson"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_has_the_stated_deviation(kind: str, dtype: type) -> None:
    white = 1.0 if dtype is np.float32 else np.iinfo(dtype).max
    image = np.full((200, 200, 3), 0.25 * white).astype(dtype)
    degradation = DEGRADATIONS[kind](sigma=20)
    out = degradation.apply(image, **degradation.draw(np.random.default_rng(0))) / white * 255
    expected = {"speckle": 20 * 0.25, "poisson": 20 * 0.25**0.5}.get(kind, 20)
    assert abs(out.std() / expected - 1) < 0.03
    assert abs(out.mean() - image.mean() / white * 255) < 0.5
    correlation = np.corrcoef(out[..., 0].ravel(), out[..., 1].ravel())[0, 1]
    assert abs(correlation - (kind == "gray-noise")) < 0.02


@pytest.mark.parametrize("kind", [k for k in KINDS if issubclass(DEGRADATIONS[k], MixedNoise)])
def test_gray_noise_is_the_same_in_all_channels(kind: str) -> None:
    image = np.full((40, 40, 3), 128, np.uint8)
    degradation = DEGRADATIONS[kind](sigma=20, gray=0.5)
    draws = [degradation.draw(np.random.default_rng(seed)) for seed in range(12)]
    assert {d["gray"] for d in draws} == {0, 1}
    for drawn in draws:
        out = degradation.apply(image, **drawn)
        assert (out[..., 0] == out[..., 2]).all() == drawn["gray"]


def test_median_is_equal_for_every_depth() -> None:
    median = DEGRADATIONS["median"](size=7)
    bytes_, floats = typed(np.uint8), typed(np.float32)
    assert (median.apply(bytes_, size=7) == np.rint(median.apply(floats, size=7) * 255)).all()
    assert (median.apply(bytes_, size=7) == cv2.medianBlur(bytes_, 7)).all()


def test_grayscale_keeps_three_channels_of_luma() -> None:
    image = typed(np.uint8)
    gray = DEGRADATIONS["grayscale"]().apply(image, amount=1.0)
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert np.abs(gray.astype(int) - expected[..., None]).max() <= 1
    assert (gray[..., 0] == gray[..., 2]).all()


def test_posterize_leaves_that_many_levels() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    assert np.unique(DEGRADATIONS["posterize"]().apply(ramp, levels=5)).tolist() == [
        0,
        64,
        128,
        191,
        255,
    ]


def test_at_scale_makes_noise_coarse() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    step = parse_spec(
        {"at-scale": {"scale": 0.25, "up": "nearest", "steps": [{"noise": {"sigma": 20}}]}}, PLACE
    )
    out = step.degradation.apply(flat, **step.degradation.draw(np.random.default_rng(0)))
    assert (out[::4, ::4] == out[3::4, 3::4]).all()
    assert out.std() > 15


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(20, 13), (20, 13, 2), (9, 40, 3), (1, 1, 3), (3, 2, 5)])
def test_median_equals_scipy(shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    from scipy.ndimage import median_filter

    image = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    for size in (1, 3, 7, 31):
        square = (size, size, 1)[: len(shape)]
        output = DEGRADATIONS["median"]().apply(image, size=size)
        assert output.dtype == dtype
        np.testing.assert_array_equal(output, median_filter(image, square, mode="nearest"))


@pytest.mark.parametrize("by", [(0.3, -1.7), (-2, 0.0), (100, -100), (0.0, 1e-9)])
@pytest.mark.parametrize("shape", [(70, 9, 3), (1, 1, 3), (2, 130, 3)])
def test_channel_shift_equals_scipy(shape: tuple[int, ...], by: tuple[float, float]) -> None:
    from scipy.ndimage import shift

    image = np.random.default_rng(0).random(shape, np.float32)
    output = DEGRADATIONS["channel-shift"]().degrade(image.copy(), y=by[0], x=by[1])
    for channel, sign in enumerate((1, 0, -1)):
        moved = shift(image[..., channel], (sign * by[0], sign * by[1]), order=1, mode="nearest")
        np.testing.assert_array_equal(output[..., channel], moved)


def test_gaussian_agrees_with_scipy(real_data: object) -> None:
    from scipy.ndimage import gaussian_filter

    from img2img_data.images import io

    assert isinstance(real_data, Path)
    files = sorted((real_data / "faces" / "wiki_crop").glob("*/*.jpg"))[::17][:120]
    files += sorted((real_data / "natural" / "bsds500-train").glob("*.jpg"))[:80]
    seen = 0
    for path in files:
        try:
            image = io.read(path).pixels
        except Rejected:
            continue
        blurred = GaussianBlur(sigma=3).apply(image, sigma=3.0)
        expected = np.stack(
            [gaussian_filter(image[..., c].astype(np.float64), 3) for c in range(3)], -1
        )
        assert np.abs(blurred - expected).max() <= 1
        seen += 1
    assert seen >= 190


@pytest.mark.parametrize("scales", [[4], [2, 2]])
def test_an_intermediate_of_too_many_pixels_is_rejected(scales: list[float]) -> None:
    steps: list[object] = [{"noise": {"sigma": 1}}]
    for scale in scales:
        steps = [{"at-scale": {"scale": scale, "steps": steps}}]
    degradation = parse_spec(steps, PLACE).degradation
    image = np.broadcast_to(np.uint8(0), (2600, 2600, 1))
    with pytest.raises(Rejected, match=r"10400 x 10400 at .* more than 100,000,000 pixels"):
        degradation.apply(image, **degradation.draw(np.random.default_rng(0)))


def test_resize_keeps_a_sixteenth_of_the_area() -> None:
    image = typed(np.float32, 64, 64)
    drawn = Resize().draw(np.random.default_rng(0))
    assert drawn == {"factor": 4.0}
    operator = Resize().apply(np.eye(64, dtype=np.float32), axes="y", **drawn)
    assert np.linalg.matrix_rank(operator) == 16
    assert Resize().apply(image, **drawn).shape == image.shape


def test_resize_draws_interpolations() -> None:
    resize = Resize(factor=[2, 4], down=["area", "cubic"], up="linear")
    draws = [resize.draw(np.random.default_rng(seed)) for seed in range(20)]
    assert len({d["down"] for d in draws}) == 2
    assert all("up" not in d for d in draws)
    image = typed(np.uint8)
    fixed = [Resize(down=down).apply(image, factor=3.0) for down in ("area", "cubic")]
    chosen = {d["down"]: resize.apply(image, factor=3.0, down=d["down"]) for d in draws}
    assert {o.tobytes() for o in chosen.values()} == {o.tobytes() for o in fixed}


# --------------------------------------------------------------------------------- albumentations
@pytest.mark.skipif("albumentations" not in KINDS, reason="albumentations is not installed")
def test_motion_blur_of_albumentations_stays_in_place() -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blur = parse_spec({"albumentations": {"MotionBlur": {"blur_limit": [9, 9]}}}, PLACE).degradation
    for seed in range(6):
        spread = blur.apply(point, seed=seed).sum(axis=(1, 2)).astype(float)
        assert abs((spread * np.arange(41)).sum() / spread.sum() - 20) < 1


@pytest.mark.skipif("albumentations" not in KINDS, reason="albumentations is not installed")
@pytest.mark.parametrize("line", SUGGESTED)
def test_the_suggested_transforms_work(line: str) -> None:
    assert any(line in listed for listed in describe_degradations("albumentations"))
    degradation = parse_spec([read_value(f"albumentations: {{{line}}}")], PLACE).degradation
    image = typed(np.uint8, 64, 64)
    drawn = degradation.draw(np.random.default_rng(1))
    assert (degradation.apply(image, **drawn) != image).any()


@pytest.mark.skipif("albumentations" not in KINDS, reason="albumentations is not installed")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MotionBlr": {}}, "albumentations.MotionBlr': unknown; did you mean 'MotionBlur'"),
        (
            {"MotionBlur": {"blur_limt": 3}},
            "MotionBlur.blur_limt': unknown; did you mean 'blur_limit'",
        ),
        ({"MotionBlur": {"blur_limit": -3}}, "albumentations.MotionBlur': "),
        ({"GaussNoise": {"std_range": [0.1, 2]}}, "albumentations.GaussNoise': "),
        ({"Rotate": {"limit": 10}}, "albumentations.Rotate': would move the image"),
        ({"TextImage": {"font_path": "/etc/passwd"}}, "needs a font file"),
        ({}, "albumentations.transform': missing"),
        ({"transform": "Blur", "version": "1.0"}, "version': albumentations 1.0 is required"),
    ],
)
def test_a_wrong_transform_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_spec([{"albumentations": settings}], PLACE)
    assert message in str(error.value)
    assert str(error.value).startswith("recipe 'x': key 'degradation.0.albumentations")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["", "motion", "chain"])
def test_a_contact_sheet_shows_the_image_clean_and_degraded(tmp_path: Path, name: str) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(io.encode(make_photo(1, 60, 50), "png"))
    sheets = [tmp_path / "a.png", tmp_path / "b.png"]
    for sheet in sheets:
        write_contact_sheet(photo, sheet, name, side=32)
    pixels = io.read(sheets[0]).pixels
    tiles = pixels[:32].reshape(32, -1, 32, 3).swapaxes(0, 1)
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    assert np.array_equal(tiles[0], make_photo(1, 60, 50)[9:41, 14:46])
    assert not any(np.array_equal(tiles[0], tile) for tile in tiles[1:])


@pytest.mark.parametrize("wrong", [{"photo": "none.png"}, {"out": "sheet.jpg"}, {"name": "motoin"}])
def test_a_wrong_contact_sheet_is_one_line(tmp_path: Path, wrong: dict[str, str]) -> None:
    (tmp_path / "photo.png").write_bytes(io.encode(make_photo(1, 60, 50), "png"))
    options = {"photo": "photo.png", "out": "sheet.png", "name": ""} | wrong
    with pytest.raises(UsageError, match=next(iter(wrong.values()))):
        write_contact_sheet(tmp_path / options["photo"], tmp_path / options["out"], options["name"])
