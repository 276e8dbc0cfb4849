"""LPIPS and FID: the formulas, agreement with torchmetrics, files that are wrong or hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_photo
from small_corpus import degraded, write_corpus, write_lab

torch = pytest.importorskip("torch")

from inception_weights import drawn, inception_file  # noqa: E402
from small_runs import a_batch, small_training  # noqa: E402

from img2img_data.core.errors import CheckpointError, CorpusError, Img2ImgError, UsageError  # noqa: E402
from img2img_data.corpus.reader import open_corpus  # noqa: E402
from img2img_train.cli.main import group  # noqa: E402
from img2img_train.evaluation.evaluate import parse_limits  # noqa: E402
from img2img_train.evaluation.score import Scoring, evaluate_model  # noqa: E402
from img2img_train.metrics.fid import Gaussian, frechet_distance, load_inception  # noqa: E402
from img2img_train.metrics.lpips import STAGES, load_lpips  # noqa: E402
from img2img_train.metrics.perceptual import load_perceptual_networks  # noqa: E402
from img2img_train.objectives.registry import OBJECTIVES  # noqa: E402
from img2img_train.runs.model import cudnn_settings  # noqa: E402

CPU = torch.device("cpu")
WIDTH = {"alex": 4, "vgg": 3}
PIXEL_LOSSES = [loss for loss, model in OBJECTIVES.items() if "lpips" in model.model_fields]


class Identity:
    def restore(self, batch: np.ndarray) -> np.ndarray:
        return batch


def convolutions(net: str) -> Iterator[tuple[int, int]]:
    return ((number, kernel) for stage in STAGES[net] for number, kernel, *_ in stage.convolutions)


def lpips_files(folder: Path, net: str = "alex") -> tuple[Path, Path]:
    """Write random weights in the format of torchvision's network and of the heads."""
    width, inputs, network = WIDTH[net], 3, {}
    for number, kernel in convolutions(net):
        network[f"features.{number}.weight"] = drawn(number, width, inputs, kernel, kernel)
        network[f"features.{number}.bias"] = drawn(100 + number, width)
        inputs = width
    network["classifier.1.weight"] = drawn(7, 3, 3)
    heads = {f"lin{k}.model.1.weight": drawn(200 + k, 1, width, 1, 1).abs() for k in range(5)}
    torch.save(network, folder / "network.pth")
    torch.save(heads, folder / "heads.pth")
    return folder / "network.pth", folder / "heads.pth"


def images(count: int, size: tuple[int, int] = (40, 36), seed: int = 0) -> np.ndarray:
    return np.stack([make_photo(seed + number, *size) for number in range(count)])


def blurred(batch: np.ndarray) -> np.ndarray:
    return np.stack([degraded(image, 1.5) for image in batch])


# ------------------------------------------------------------------------------------------- LPIPS
def by_the_formula(
    net: str, network: dict[str, Any], heads: dict[str, Any], a: Any, b: Any
) -> float:
    """Equation 1 of the paper for one pair of images, place by place, by modules of torch."""
    layers: list[Any] = []
    taps = []
    for stage in STAGES[net]:
        if stage.pool:
            layers.append(torch.nn.MaxPool2d(stage.pool, 2))
        for number, kernel, stride, padding in stage.convolutions:
            weight = network[f"features.{number}.weight"]
            one = torch.nn.Conv2d(weight.shape[1], weight.shape[0], kernel, stride, padding)
            one.load_state_dict({p: network[f"features.{number}.{p}"] for p in ("weight", "bias")})
            layers += [one, torch.nn.ReLU()]
        taps.append(len(layers))
    total = 0.0
    mean, deviation = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x, y = (((p / 127.5 - 1) - mean) / deviation for p in (a, b))
    u, v = (torch.tensor(p.transpose(2, 0, 1)[None], dtype=torch.float32) for p in (x, y))
    for tap, (start, end) in enumerate(zip([0, *taps], taps, strict=False)):
        for layer in layers[start:end]:
            u, v = layer(u), layer(v)
        f, g = (t[0].detach().double().numpy() for t in (u, v))
        f, g = (t / np.maximum(np.sqrt((t**2).sum(axis=0)), 1e-10) for t in (f, g))
        weights = heads[f"lin{tap}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
        total += float((weights * (f - g) ** 2).sum(axis=0).mean())
    return total


@pytest.mark.parametrize("net", STAGES)
def test_lpips_is_the_formula(net: str, tmp_path: Path) -> None:
    files = lpips_files(tmp_path, net)
    network, heads = (torch.load(path, weights_only=True) for path in files)
    first = images(3, (47, 41))
    second = blurred(first)
    found = load_lpips(*files, CPU).distances(first, second)
    expected = [
        by_the_formula(net, network, heads, a, b) for a, b in zip(first, second, strict=True)
    ]
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0


@pytest.mark.parametrize("net", STAGES)
def test_lpips_is_symmetric_and_zero_for_equal_images(net: str, tmp_path: Path) -> None:
    lpips = load_lpips(*lpips_files(tmp_path, net), CPU)
    first = images(2)
    second = blurred(first)
    assert lpips.distances(first, first).tolist() == [0, 0]
    forward, backward = lpips.distances(first, second), lpips.distances(second, first)
    assert forward == pytest.approx(backward)
    deep = [p.astype(np.uint16) * 257 for p in (first, second)]
    assert lpips.distances(*deep) == pytest.approx(forward, rel=1e-4)


def test_lpips_from_one_file_with_both(tmp_path: Path) -> None:
    """As ``torch.save(lpips.LPIPS().state_dict())`` writes it."""
    network, heads = (torch.load(path, weights_only=True) for path in lpips_files(tmp_path))
    inner = {
        f"net.slice1.{name.removeprefix('features.')}": t
        for name, t in network.items()
        if "feat" in name
    }
    torch.save(inner | heads, tmp_path / "combined.pth")
    apart, combined = (
        load_lpips(*files, CPU).distances(images(2), blurred(images(2)))
        for files in (
            (tmp_path / "network.pth", tmp_path / "heads.pth"),
            (tmp_path / "combined.pth",) * 2,
        )
    )
    assert apart.tolist() == combined.tolist()


def test_lpips_rejects_images_that_are_too_small(tmp_path: Path) -> None:
    lpips = load_lpips(*lpips_files(tmp_path), CPU)
    lpips.distances(images(1, (31, 31)), images(1, (31, 31)))
    with pytest.raises(UsageError, match="31 pixels"):
        lpips.distances(images(1, (40, 30)), images(1, (40, 30)))


# ------------------------------------------------------------------------------- LPIPS as a loss
@pytest.mark.parametrize("net", STAGES)
def test_gradients_of_lpips_lead_to_the_target(net: str, tmp_path: Path) -> None:
    lpips, target = (
        load_lpips(*lpips_files(tmp_path, net), CPU),
        a_batch().target.repeat(1, 1, 1, 2),
    )
    image = (target + 0.3 * target.flip(3)).requires_grad_()
    distance = lpips(image, target).sum()
    (gradient,) = torch.autograd.grad(distance, image)
    assert lpips(image - 0.1 * gradient / gradient.norm(), target).sum() < distance
    for weight, bias in lpips.weights.values():
        weight.zero_(), bias.zero_()  # no feature anywhere
    (gradient,) = torch.autograd.grad(lpips(image, target).sum(), image)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_a_perceptual_loss_is_lpips_and_in_no_checkpoint(loss: str, tmp_path: Path) -> None:
    corpus, files = write_corpus(tmp_path / "c", {"train": 2}), lpips_files(tmp_path, "vgg")
    settings = {"lpips": [*map(str, files)], "lpips_weight": 0.5}
    trainer, batch = small_training(loss, corpus, tmp_path / "run", **settings), a_batch()
    output = trainer.state.nets["generator"](batch.input)
    expected = 0.5 * load_lpips(*files, CPU)(output, batch.target).mean()
    found = trainer.step(batch)
    assert float(found["lpips"]) == pytest.approx(float(expected.detach()))
    assert found.keys() == {loss, "lpips"}
    assert not any("lpips" in name for name in trainer.state.tensors())
    assert not [*trainer.train_step.frozen["lpips"].parameters()]


@pytest.mark.parametrize("layout", ["too small", "lab", "no file"])
def test_a_perceptual_loss_that_cannot_be_had_is_one_line(layout: str, tmp_path: Path) -> None:
    files = [*map(str, lpips_files(tmp_path))]
    if layout == "lab":
        corpus = write_lab(tmp_path / "c", {"train": 2}, size=(32, 32))
    else:
        corpus = write_corpus(tmp_path / "c", {"train": 2}, size=(32, 30))
    files = ["gone", "gone"] if layout == "no file" else files
    with pytest.raises(Img2ImgError, match=r"LPIPS|--lpips|gone"):
        small_training("l1", corpus, tmp_path / "run", lpips=files)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------- FID
def gaussian(features: np.ndarray) -> Gaussian:
    found = Gaussian()
    for part in np.array_split(features, 3):
        found.update(part)
    return found


def test_sums_are_mean_and_covariance() -> None:
    features = np.random.default_rng(0).normal(3, 2, (50, 6))
    mean, covariance = gaussian(features).moments()
    assert mean == pytest.approx(features.mean(axis=0))
    assert covariance == pytest.approx(np.cov(features, rowvar=False))


def test_fid_of_known_gaussians() -> None:
    """The distance of axis-aligned Gaussians is that of means plus that of deviations, squared."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 5))
    features -= features.mean(axis=0)
    features @= np.linalg.inv(
        np.linalg.cholesky(np.cov(features, rowvar=False)).T
    )  # now exactly white
    mean, first, second = rng.normal(size=5), rng.uniform(0.2, 3, 5), rng.uniform(0.2, 3, 5)
    found = frechet_distance(gaussian(features * first), gaussian(features * second + mean))
    assert found == pytest.approx(float(((first - second) ** 2).sum() + (mean**2).sum()), rel=1e-8)


@pytest.mark.parametrize("count", [2, 5, 60])
def test_fid_is_symmetric_and_zero_for_equal_sets(count: int) -> None:
    """Also with fewer images than features, where the covariance is singular."""
    rng = np.random.default_rng(0)
    one, two = gaussian(rng.normal(size=(count, 20))), gaussian(rng.normal(1, 2, size=(count, 20)))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, two) == pytest.approx(frechet_distance(two, one), rel=1e-6)


def test_fid_agrees_with_torchmetrics(tmp_path: Path) -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    inception = load_inception(inception_file(tmp_path / "i.pth"), CPU)
    first = images(24)
    second = blurred(first)

    class Features(torch.nn.Module):  # type: ignore[misc]
        num_features = inception.features(first[:1]).shape[1]

        def forward(self, x: Any) -> Any:
            return torch.from_numpy(inception.features(x.permute(0, 2, 3, 1).numpy()))

    reference = fid.FrechetInceptionDistance(
        feature=Features(), input_img_size=(3, 36, 40)
    ).set_dtype(torch.float64)
    for batch, real in ((first, True), (second, False)):
        reference.update(torch.from_numpy(batch).permute(0, 3, 1, 2), real=real)
    found = frechet_distance(*(gaussian(inception.features(batch)) for batch in (first, second)))
    assert found == pytest.approx(float(reference.compute()), rel=1e-3)
    assert found > 1e-7


def test_inception_gives_a_feature_for_each_channel(tmp_path: Path) -> None:
    inception = load_inception(inception_file(tmp_path / "i.pth", 3), CPU)
    found = inception.features(images(3))
    assert found.shape == (3, 18)
    assert inception.features(images(3).astype(np.uint16) * 257) == pytest.approx(found, rel=1e-3)
    assert np.abs(found[0] - found[1]).max() > 1e-4


# -------------------------------------------------------------------------- files from elsewhere
class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("/tmp/never", "w"))


def changed(path: Path, **tensors: Any) -> Path:
    found = torch.load(path, weights_only=True) | {
        k.replace("__", "."): v for k, v in tensors.items()
    }
    torch.save({name: tensor for name, tensor in found.items() if tensor is not None}, path)
    return path


WRONG = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "code": lambda path: torch.save({"features.0.weight": Harm()}, path),
    "a list": lambda path: torch.save([torch.zeros(3)], path),
    "other names": lambda path: torch.save({"x": torch.zeros(3)}, path),
    "not finite": lambda path: changed(path, extra=torch.tensor([float("nan")])),
    "text": lambda path: torch.save({"features.0.weight": "text"}, path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("which", ["network", "heads", "fid"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_line_that_names_it(name: str, which: str, tmp_path: Path) -> None:
    network, heads = lpips_files(tmp_path)
    fid = inception_file(tmp_path / "inception.pth")
    path = {"network": network, "heads": heads, "fid": fid}[which]
    if name == "not finite" or path.exists():
        WRONG[name](path)
    with pytest.raises(CheckpointError) as rejected:
        load_perceptual_networks((network, heads), fid, "cpu")
    assert path.name in str(rejected.value)
    assert "\n" not in str(rejected.value)


def test_tensors_of_wrong_shapes_are_rejected(tmp_path: Path) -> None:
    network, heads = lpips_files(tmp_path)
    changed(network, features__3__weight=drawn(0, 4, 5, 5, 5))
    with pytest.raises(CheckpointError, match=r"features\.3"):
        load_lpips(network, heads, CPU)
    network, heads = lpips_files(tmp_path)
    with pytest.raises(CheckpointError, match="lin2"):
        load_lpips(network, changed(heads, lin2__model__1__weight=drawn(0, 1, 9, 1, 1)), CPU)
    fid = inception_file(tmp_path / "i.pth")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_inception(changed(fid, Mixed_6b__branch7x7_2__conv__weight=drawn(0, 2, 9, 1, 7)), CPU)
    fid = inception_file(tmp_path / "i.pth")
    with pytest.raises(CheckpointError, match=r"hold no Mixed_5c\.branch1x1"):
        load_inception(changed(fid, Mixed_5c__branch1x1__conv__weight=None), CPU)
    fid = inception_file(tmp_path / "i.pth")
    with pytest.raises(CheckpointError, match="too large"):
        load_inception(changed(fid, Conv2d_1a_3x3__bn__bias=torch.zeros(1_000_000)), CPU)


# -------------------------------------------------------------------------------- in evaluations
def test_the_input_has_no_gain_over_itself(tmp_path: Path) -> None:
    opened = open_corpus(write_corpus(tmp_path / "c", {"test": 8}, crops=2))
    networks = load_perceptual_networks(
        lpips_files(tmp_path), inception_file(tmp_path / "i.pth"), "cpu"
    )
    scored = evaluate_model(Identity(), opened, opened.pairs("test"), Scoring(perceptual=networks))
    for name in ("lpips", "fid"):
        assert scored.scores[name] == scored.input_scores[name] > 0
        assert scored.gain[name] == 0
    assert scored.gain_interval["lpips"] == (0, 0)
    assert scored.gain_interval["fid"] is None
    assert any("2,048" in note for note in scored.notes)
    assert all("lpips" in row.scores and "fid" not in row.scores for row in scored.image_scores)


def test_scores_are_those_of_deterministic_float32_convolutions(tmp_path: Path) -> None:
    opened = open_corpus(write_corpus(tmp_path / "c", {"test": 2}, crops=2))
    files = lpips_files(tmp_path), inception_file(tmp_path / "i.pth")
    scoring, seen = Scoring(perceptual=load_perceptual_networks(*files, "cpu")), set()
    cudnn = torch.backends.cudnn

    class Settings(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.nn.functional.conv2d:
                seen.add((cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32))
            return func(*args, **kwargs or {})

    with cudnn_settings(fast=True, tf32=True), Settings():
        evaluate_model(Identity(), opened, opened.pairs("test"), scoring)
    assert seen == {(False, True, False)}


def test_fid_of_one_image_is_rejected(tmp_path: Path) -> None:
    opened = open_corpus(write_corpus(tmp_path / "c", {"test": 1}))
    networks = load_perceptual_networks(None, inception_file(tmp_path / "i.pth"), "cpu")
    with pytest.raises(CorpusError, match="two images"):
        evaluate_model(Identity(), opened, opened.pairs("test"), Scoring(perceptual=networks))


def run_command(*argv: str) -> tuple[int, str]:
    from click.testing import CliRunner

    done = CliRunner().invoke(group, ["evaluate", *argv])
    if isinstance(done.exception, Img2ImgError):
        return done.exception.exit_code, str(done.exception)
    return done.exit_code, done.output


def test_command_with_networks_and_limits(tmp_path: Path) -> None:
    from fake_models import write_run

    run, corpus = write_run(tmp_path / "run"), write_corpus(tmp_path / "c", {"test": 4})
    (network, heads), fid = lpips_files(tmp_path), inception_file(tmp_path / "i.pth")
    argv = [str(run), "--on", str(corpus), "--out", str(tmp_path / "out"), "--device", "cpu"]
    weights = ["--lpips", str(network), str(heads), "--fid", str(fid)]
    code, output = run_command(*argv, *weights, "--fail-under", "lpips=9", "--fail-under", "psnr=0")
    assert code == 0, output
    assert "2,048" in output
    page = json.loads((tmp_path / "out" / "matrix.json").read_text())
    assert network.name in page["protocol"]["networks"]["lpips"]
    assert page["protocol"]["metrics"]["fid"]["better"] == "lower"
    head = (tmp_path / "out" / "matrix.csv").read_text().partition("\n")[0].split(",")
    assert {"lpips", "lpips_input", "fid", "fid_input"} <= set(head)
    assert "LPIPS" in (tmp_path / "out" / "index.html").read_text()
    limits = ["--fail-under", "lpips=0", "--fail-under", "psnr=99", "--fail-under", "mae=255"]
    code, output = run_command(*argv, *weights, *limits)
    assert code == 1
    short = [line for line in output.splitlines() if "is worse than" in line]
    assert len(short) == 2
    assert "LPIPS" in short[0] + short[1]
    assert "lower is better" in short[0] + short[1]


def test_a_limit_on_a_metric_without_its_network_is_one_line() -> None:
    with pytest.raises(UsageError, match="add --lpips"):
        parse_limits(["lpips=0.2"])
    assert parse_limits(["lpips=0.2"], ["lpips"]) == {"lpips": 0.2}
    for text in ("psnr=nan", "psnr=inf"):
        with pytest.raises(UsageError, match="no number"):
            parse_limits([text])
