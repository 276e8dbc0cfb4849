"""Image metrics: agreement with scikit-image and torchmetrics, laws of every registered metric."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo
from fake_models import Identity, score
from small_corpus import degraded, write_corpus

from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_data.images.pixels import to_uint8_rgb
from img2img_train.metrics.color_overlap import ColorHistograms, intersection, lab_histogram
from img2img_train.metrics.image import PSNR_CAP, psnr
from img2img_train.metrics.registry import COLOR_METRICS, IMAGE_METRICS, METRICS, PERCEPTUAL_METRICS

IMAGES = {
    "alike": (make_photo(1, 48, 40), degraded(make_photo(1, 48, 40), 1.5)),
    "unlike": (make_photo(1, 48, 40), make_photo(2, 48, 40)),
    "odd size": (make_photo(3, 47, 33), degraded(make_photo(3, 47, 33), 0.7)),
    "window": (make_photo(4, 11, 11), make_photo(5, 11, 11)),
    "flat": (np.full((20, 20, 3), 7, np.uint8), np.full((20, 20, 3), 9, np.uint8)),
    "far": (np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)),
}


def by_skimage(name: str, output: np.ndarray, target: np.ndarray) -> float:
    metrics = pytest.importorskip("skimage.metrics")
    top = int(np.iinfo(output.dtype).max)
    if name == "psnr":
        return float(metrics.peak_signal_noise_ratio(target, output, data_range=top))
    if name == "ssim":
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        axis = 2 if output.ndim == 3 else None
        return float(
            metrics.structural_similarity(
                output, target, channel_axis=axis, data_range=top, **options
            )
        )
    return float(np.abs(output.astype(float) - target).mean()) / top * 255


# ---------------------------------------------------------------------------- laws of the registry
def test_every_metric_is_of_one_kind() -> None:
    assert list(METRICS) == [*IMAGE_METRICS, *COLOR_METRICS, *PERCEPTUAL_METRICS]


@pytest.mark.parametrize("name", METRICS)
def test_a_gain_is_positive_where_the_score_is_better(name: str) -> None:
    metric = METRICS[name]
    better, worse = (2.0, 1.0) if metric.better == "higher" else (1.0, 2.0)
    assert metric.gain(better, worse) == 1
    assert metric.gain(worse, better) == -1


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_identical_images_have_the_best_score(name: str) -> None:
    metric = IMAGE_METRICS[name]
    best = metric.compute(IMAGES["alike"][0], IMAGES["alike"][0].copy())
    assert np.isfinite(best)
    for output, target in IMAGES.values():
        assert metric.gain(metric.compute(output, target), best) < 0
        assert metric.compute(output, target) == pytest.approx(metric.compute(target, output))


@pytest.mark.parametrize("name", IMAGE_METRICS)
def test_16_bit_samples_are_measured_in_8_bit_levels(name: str) -> None:
    compute = IMAGE_METRICS[name].compute
    for output, target in IMAGES.values():
        deep = (pixels.astype(np.uint16) * 257 for pixels in (output, target))
        assert compute(*deep) == pytest.approx(compute(output, target))


@pytest.mark.parametrize("name", IMAGE_METRICS)
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (10, 10)])
def test_images_narrower_than_the_window_have_a_score(name: str, size: tuple[int, int]) -> None:
    assert np.isfinite(IMAGE_METRICS[name].compute(make_photo(1, *size), make_photo(2, *size)))


def test_psnr_of_identical_images_is_capped() -> None:
    image = IMAGES["alike"][0]
    assert psnr(image, image) == PSNR_CAP


# --------------------------------------------------------------- agreement with other libraries
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", ["psnr", "ssim", "mae"])
def test_metrics_agree_with_scikit_image(name: str, images: str) -> None:
    output, target = IMAGES[images]
    expected = by_skimage(name, output, target)
    assert IMAGE_METRICS[name].compute(output, target) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("name", ["psnr_y", "ssim_y"])
def test_metrics_of_the_luma_agree_with_scikit_image(name: str, images: str) -> None:
    """Its ``rgb2ycbcr`` has the weights of MATLAB, as that of BasicSR."""
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    output, target = (rgb2ycbcr(image)[..., 0] for image in IMAGES[images])
    if name == "psnr_y":
        expected = peak_signal_noise_ratio(target, output, data_range=255)
    else:
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = structural_similarity(target, output, data_range=255, **options)
    assert IMAGE_METRICS[name].compute(*IMAGES[images]) == pytest.approx(expected, abs=1e-6)


def real_images(real_data: Path) -> dict[str, np.ndarray]:
    """Photos as they come: portrait and landscape, odd sides, one with 16 bits, one gray."""
    photos = sorted((real_data / "natural" / "bsds500-train").glob("*.jpg"))[:3]
    photos += sorted((real_data / "faces" / "wiki_crop").rglob("*.jpg"))[5:6]
    found = {path.stem: io.read(path).pixels for path in photos}
    first, second = list(found.values())[:2]
    wide = cv2.GaussianBlur(first.astype(np.float32), (0, 0), 0.8) * 257
    found["16 bit"] = np.rint(wide).astype(np.uint16)
    found["odd"] = np.ascontiguousarray(second[:101, :57])
    sketch = sorted((real_data / "cuhk").rglob("*sz1.jpg"))[0]
    found["gray"] = to_uint8_rgb(io.read(sketch).pixels)
    return found


@pytest.mark.parametrize("name", ["psnr", "ssim", "mae"])
def test_metrics_agree_with_scikit_image_on_real_images(name: str, real_data: Path) -> None:
    """Gray images agree also with the score of their single plane."""
    compute = IMAGE_METRICS[name].compute
    for kind, target in real_images(real_data).items():
        for output in (degraded(target, 1.5), np.ascontiguousarray(target[::-1])):
            found = compute(output, target)
            assert found == pytest.approx(by_skimage(name, output, target), abs=1e-6), kind
            if kind == "gray":
                plane = by_skimage(name, output[..., 0], target[..., 0])
                assert found == pytest.approx(plane, abs=1e-6)


@pytest.mark.parametrize("size", [(176, 176), (200, 181), (320, 256)])
def test_ms_ssim_agrees_with_torchmetrics(size: tuple[int, int]) -> None:
    """On gray images: torchmetrics averages over the channels before it multiplies the scales."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    torch = pytest.importorskip("torch")
    target = make_photo(5, *size)[..., :1].repeat(3, 2)
    output = degraded(target, 1.5)
    a, b = (torch.from_numpy(p.transpose(2, 0, 1).copy())[None].double() for p in (output, target))
    expected = functional.multiscale_structural_similarity_index_measure(a, b, data_range=255.0)
    assert IMAGE_METRICS["ms-ssim"].compute(output, target) == pytest.approx(
        float(expected), abs=1e-4
    )


# ------------------------------------------------------------------------------------ color overlap
def test_color_overlap_is_that_of_the_whole_set(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 6}, crops=2)
    opened = open_corpus(corpus)
    images = [opened.read(pair) for pair in opened.pairs("test")]
    inputs, targets = (lab_histogram(np.concatenate(side)) for side in zip(*images, strict=True))
    scores = score(Identity(), corpus).scores
    assert [scores[name] for name in COLOR_METRICS] == pytest.approx(intersection(inputs, targets))


def test_color_overlap_is_one_for_equal_colors() -> None:
    image = IMAGES["alike"][0]
    histogram = lab_histogram(image)
    assert intersection(histogram, histogram) == pytest.approx(1)
    assert (intersection(histogram, lab_histogram(255 - image)) < 0.9).all()


def test_the_difference_from_the_input_is_the_gain() -> None:
    rng = np.random.default_rng(0)
    model, identity = ColorHistograms(), ColorHistograms()
    for n in range(9):
        input, output, target = (rng.integers(0, 200 + n, (6, 6, 3), np.uint8) for _ in range(3))
        model.update(str(n), input, output, target)
        identity.update(str(n), input, input, target)
    assert model.gain_intervals(identity) == model.gain_intervals()
