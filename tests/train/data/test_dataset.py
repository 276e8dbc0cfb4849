"""Corpora as networks see them: gray, RGB, Lab, 8 and 16 bits, images of any size."""

from __future__ import annotations

import pathlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import make_photo
from small_corpus import write_corpus, write_deep, write_lab
from small_runs import small_config

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_data.core.jsonl import read_rows
from img2img_data.corpus.format import to_json_line
from img2img_data.images import color, io
from img2img_data.images.pixels import to_uint8_rgb
from img2img_train.data import dataset, loader
from img2img_train.data.color import ChannelLayout, lab_to_rgb, lightness
from img2img_train.evaluation.evaluate import evaluate_matrix
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.inference.settings import TranslateSettings
from img2img_train.inference.translate import translate_bytes
from img2img_train.networks.specs import GeneratorName, make_spec
from img2img_train.runs.checkpoint import read_checkpoint
from img2img_train.runs.folder import RunFolder, read_log, sample_paths
from img2img_train.runs.model import load_generator
from img2img_train.training import fit as loop
from img2img_train.training.setup import RunData

CPU = torch.device("cpu")


def first_batch(loss: str, corpus: Path, **settings: Any) -> tuple[loader.Batch, RunData]:
    config = small_config(loss, corpus, **settings)
    data = RunData.open(config)
    raw = loader.StepDataset(data.plan, data.train.for_training(), data.train)[0]
    return loader.to_device(raw, CPU, data.train.channel_layout), data


# ------------------------------------------------------------------------------------------ colors
# 8-bit Lab > the range of networks: L / 50 - 1, a / 110, b / 110
CENTER, SCALE = np.array([127.5, 128, 128]), np.array([127.5, 110, 110])


@pytest.mark.parametrize("bits", [8, 16])
def test_lab_goes_to_the_range_of_networks(bits: int, tmp_path: Path) -> None:
    batch, data = first_batch("l1", write_lab(tmp_path / "c", {"train": 2}, bits))
    order = data.plan.order(0)
    for place, index in enumerate(order):
        path = sorted((tmp_path / "c/train/target").iterdir())[index]
        policy = io.ReadPolicy(depth=16 if bits == 16 else 8)
        lab = io.read(path, policy).pixels / (257 if bits == 16 else 1)
        expected = (lab - CENTER) / SCALE
        assert np.abs(batch.input[place, 0].numpy() - expected[..., 0]).max() < 1e-5
        assert np.abs(batch.target[place].permute(1, 2, 0).numpy() - expected[..., 1:]).max() < 1e-5
    assert batch.input.shape[1] == 1
    assert batch.target.shape[1] == 2
    assert data.train.channel_layout == ChannelLayout("lab", (1, 2), bits)


@pytest.mark.parametrize("bits", [8, 16])
def test_lab_in_torch_equals_lab_in_numpy(bits: int) -> None:
    rng, levels = np.random.default_rng(0), 257 if bits == 16 else 1
    rgb = rng.integers(0, 1 << bits, (64, 64, 3), dtype=f"uint{bits}")
    rgb[:8] = rgb[:8, :, :1]
    rgb[0] = 0
    rgb[1] = 255 * levels
    lab = color.rgb_to_lab(rgb)
    scaled = torch.from_numpy((lab / levels - CENTER) / SCALE).permute(2, 0, 1)[None].float()
    converted = (lab_to_rgb(scaled[:, :1], scaled[:, 1:])[0].permute(1, 2, 0).numpy() + 1) * 127.5
    rounding = 0.5 if bits == 8 else 0
    assert np.abs(converted - color.lab_to_rgb(lab) / levels).max() < 0.2 + rounding
    image = torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None] / (127.5 * levels) - 1
    difference = np.abs(lightness(image)[0, 0].numpy() - scaled[0, 0].numpy())
    assert difference.max() < (0.51 / 127.5 if bits == 8 else 2e-3)


@pytest.mark.parametrize("loss", ["l1", "pix2pix"])
def test_a_colorization_from_training_to_a_photo(loss: str, tmp_path: Path) -> None:
    corpus = write_lab(tmp_path / "c", {"train": 4, "val": 2, "test": 2})
    out = tmp_path / "run"
    loop.fit(small_config(loss, corpus, out), Display())
    about = read_checkpoint(RunFolder(out).latest).description
    spec = about.networks["generator"]
    assert (about.color, spec.inputs, spec.outputs) == ("lab", 1, 2)
    if loss == "pix2pix":
        assert about.networks["discriminator"].inputs == 3
    grid = io.read(sample_paths(out)[-1]).pixels
    assert grid.shape == (2 * 16, 3 * 16, 3)
    assert (grid[:, :16].max(2) - grid[:, :16].min(2)).max() <= 1, "the input is shown gray"
    evaluation = evaluate_matrix(
        [out], [corpus], EvaluateSettings(split="val", device="cpu")
    ).evaluations[0]
    logged = [row for row in read_log(out) if row["kind"] == "validation"][-1]
    assert evaluation.input_scores["psnr"] == pytest.approx(logged["psnr_input"], abs=0.1)
    model = load_generator(out, "cpu")
    for pixels in (make_photo(5, 40, 24), make_photo(5, 40, 24)[..., 0].copy()):
        output = translate_bytes(model, io.encode(pixels, "png"), TranslateSettings()).image
        colored = io.decode(output).pixels
        assert colored.shape == (24, 40, 3)
        before, after = (color.cielab(to_uint8_rgb(p))[..., 0] for p in (pixels, colored))
        assert np.median(np.abs(before - after)) < 1, "L stays"


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 16), (1, 16)])
def test_gray_and_deep_corpora_train(channels: int, bits: int, tmp_path: Path) -> None:
    info = {"channels": {"input": channels, "target": channels}}
    splits = {"train": 4, "val": 2}
    if bits == 16:
        corpus = write_deep(tmp_path / "c", splits, channels)
    else:
        corpus = write_corpus(tmp_path / "c", splits, size=(16, 16), info=info)
    batch, data = first_batch("l2", corpus)
    assert batch.target.shape[1] == channels
    if bits == 16:
        stored = np.stack([target for _, target in map(data.train.read, data.plan.order(0)[:2])])
        assert stored.dtype == np.uint16
        back = (batch.target.permute(0, 2, 3, 1).double().numpy() + 1) * 32767.5
        assert np.abs(back - stored).max() < 0.01, "no bit is lost"
    loop.fit(small_config("l2", corpus, tmp_path / "run"), Display())
    model = load_generator(tmp_path / "run", "cpu")
    assert (model.spec.inputs, model.spec.outputs) == (channels, channels)
    evaluate_matrix([tmp_path / "run"], [corpus], EvaluateSettings(split="val", device="cpu"))
    photo = io.encode(make_photo(5, 40, 24), "png")
    output = io.decode(translate_bytes(model, photo, TranslateSettings()).image, KEEP).pixels
    assert output.shape == ((24, 40) if channels == 1 else (24, 40, 3))


KEEP = io.ReadPolicy(depth="keep", channels="keep")


def test_plane_to_color(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "c", {"train": 4}, size=(16, 16), info={"channels": {"input": 1}}
    )
    _, data = first_batch("pix2pix", corpus, direction="BtoA")
    assert data.train.channel_layout.channels == (3, 1)
    loop.fit(small_config("pix2pix", corpus, tmp_path / "run"), Display())
    gray = io.encode(make_photo(5, 40, 24)[..., 0].copy(), "png")
    model = load_generator(tmp_path / "run", "cpu")
    output = io.decode(translate_bytes(model, gray, TranslateSettings()).image, KEEP).pixels
    assert output.shape == (24, 40, 3)


# -------------------------------------------------------------------------------------------- sizes
@pytest.mark.parametrize("net", get_args(GeneratorName))
def test_images_of_any_size_train_and_are_scored_as_they_are(
    net: GeneratorName, tmp_path: Path
) -> None:
    smallest = make_spec(net, (3, 3), 2).smallest
    width, height = max(7, smallest - 3), max(9, smallest * 3 // 4 + 1)
    corpus = write_corpus(tmp_path / "c", {"train": 2, "val": 2}, size=(width, height))
    out = tmp_path / "run"
    config = small_config("l1+gan", corpus, out, net=net, width=2, epochs=1, test_dropout=True)
    assert any("padded to" in line for line in loop.dry_run(config))
    loop.fit(config, Display())
    grid = io.read(sample_paths(out)[-1]).pixels
    assert grid.shape == (2 * height, 3 * width, 3)
    evaluation = evaluate_matrix(
        [out], [corpus], EvaluateSettings(split="val", device="cpu")
    ).evaluations[0]
    logged = [row for row in read_log(out) if row["kind"] == "validation"][-1]
    assert logged["psnr"] == pytest.approx(evaluation.scores["psnr"], abs=1e-3)
    output = io.decode(
        translate_bytes(load_generator(out, "cpu"), PHOTO, TranslateSettings()).image
    )
    assert output.pixels.shape == (24, 40, 3)


def test_a_discriminator_says_how_large_images_have_to_be(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 2}, size=(16, 17))
    config = small_config("pix2pix", corpus, discriminator="patch-70")
    with pytest.raises(UsageError, match=r"'patch-70': needs sides of at least 24 pixels.*16x17"):
        RunData.open(config)


PHOTO = io.encode(make_photo(5, 40, 24), "png")
REJECTED: dict[str, tuple[dict[str, Any], str]] = {
    "cyclegan": ({"loss": "cyclegan"}, "cyclegan"),
    "back": ({"loss": "l1", "direction": "BtoA"}, "BtoA"),
    "degrade": ({"loss": "l1", "degrade": "gaussian"}, "--degrade"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_unsupported_uses_of_lab_are_one_line(name: str, tmp_path: Path) -> None:
    settings, message = REJECTED[name]
    config = small_config(corpora=write_lab(tmp_path / "c", {"train": 2}), **settings)
    with pytest.raises(UsageError, match=message):
        RunData.open(config)


def test_corpora_of_two_kinds_are_rejected_by_name(tmp_path: Path) -> None:
    plain = write_corpus(tmp_path / "plain", {"train": 2}, size=(16, 16))
    others = [
        write_lab(tmp_path / "lab", {"train": 2}),
        write_deep(tmp_path / "deep", {"train": 2}, 1),
    ]
    for other in others:
        config = small_config("l1", [str(plain), str(other)])
        with pytest.raises(UsageError, match=f"{other.name}.*{plain.name}"):
            RunData.open(config)


def test_transparent_images_are_rejected(tmp_path: Path) -> None:
    info = {"channels": {"input": 4, "target": 4}}
    corpus = write_corpus(tmp_path / "c", {"train": 2}, info=info)
    for loss in ("l2", "cyclegan"):
        config = small_config(loss, corpus)
        with pytest.raises(UsageError, match="--channels rgb"):
            RunData.open(config)


def test_identity_needs_equal_channels(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "c", {"train": 2}, size=(16, 16), info={"channels": {"input": 1}}
    )
    config = small_config("cyclegan", corpus)
    with pytest.raises(UsageError, match="--identity-weight"):
        RunData.open(config)
    first_batch("cyclegan", corpus, identity_weight=0)


# ------------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize("loss", ["l2", "cyclegan"])
def test_memory_is_flat_in_the_number_of_images(loss: str, tmp_path: Path) -> None:
    """A million pairs take 150 MB at most, their order and crops included."""
    number, corpus = 1500, write_corpus(tmp_path / "c", {"train": 4}, size=(16, 16))
    manifest = corpus / "train" / "metadata.jsonl"
    rows = read_rows(manifest)
    many = ({**rows[i % 4], "key": f"person {i // 9}/photo {i:09}"} for i in range(number))
    config = small_config(loss, corpus, crop=8, jitter=1.5, flip=True)

    def held() -> tuple[int, int]:
        """Return the number of pairs, and the bytes that a run holds after its first step."""
        tracemalloc.start()
        data = RunData.open(config)
        assert (data.plan.step(0).indices < len(data.train)).all()
        assert data.summary()["train"]["fingerprint"]
        # pathlib interns names in a table of the interpreter, which grows at any moment.
        ignored = tracemalloc.Filter(False, pathlib.__file__)
        traces = tracemalloc.take_snapshot().filter_traces([ignored]).traces
        tracemalloc.stop()
        return len(data.train), sum(trace.size for trace in traces)

    held()  # imports and caches
    few = held()[1]
    manifest.write_bytes(b"".join(map(to_json_line, many)))
    count, size = held()
    assert count == number
    assert (size - few) / number < 150


def test_images_are_cached_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "READ_AT_ONCE", 2)
    data = RunData.open(small_config("l2", write_corpus(tmp_path / "c", {"train": 5})))
    seen = list[int]()
    store = dataset.cache_images(data.train, "ram", 0, seen.append)
    assert seen == [1, 2, 3, 4, 5]
    both = np.array([[4, 0]] * 2)
    assert np.array_equal(store.gather(both)[0], data.train.gather(both)[0])


def test_items_are_made_one_ahead_and_an_error_reaches_the_caller() -> None:
    made = list[int]()

    def items() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number
        raise ValueError("the last one is damaged")

    ahead = dataset.one_ahead(items())
    for number in range(3):
        assert next(ahead) == number
        assert len(made) <= number + 2
    with pytest.raises(ValueError, match="damaged"):
        next(ahead)
