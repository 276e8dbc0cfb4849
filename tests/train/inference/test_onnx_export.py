"""Exported files give what torch gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import make_photo
from fake_models import write_run
from small_corpus import write_corpus, write_domains

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from small_runs import command  # noqa: E402

from img2img_data.core.errors import UsageError  # noqa: E402
from img2img_data.images import io  # noqa: E402
from img2img_train.config import RunConfig  # noqa: E402
from img2img_train.inference import onnx_export as export  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import NETWORKS, GeneratorName, NetworkSpec  # noqa: E402
from img2img_train.runs.checkpoint import read_description  # noqa: E402
from img2img_train.runs.model import LoadedModel, load_generator  # noqa: E402

SIZES = [(1, 1), (2, 33), (16, 16), (31, 47), (75, 20)]
CPU = torch.device("cpu")


def model_of(name: str, **channels: Any) -> LoadedModel:
    spec = NetworkSpec(name=name, width=2, **channels)
    config = RunConfig(corpora=("corpus",), out="run")
    network = build(spec, 3).eval().requires_grad_(False)
    return LoadedModel(network, spec, "rgb", 7, config, CPU, Path("model"))


@pytest.mark.parametrize("size", SIZES)
def test_mirroring_in_the_graph_is_that_of_numpy(size: tuple[int, int]) -> None:
    image = make_photo(1, *size)[None]
    model = replace(model_of("autoencoder"), generator=torch.nn.Identity())
    wrapped = export.ImageToImage(model)
    assert np.array_equal(wrapped(torch.from_numpy(image)).numpy(), image)
    padded = wrapped._mirrored(torch.from_numpy(image), 1).numpy()
    mode = "reflect" if size[1] > 1 else "edge"
    assert np.array_equal(
        padded, np.pad(image, [(0, 0), (0, -size[1] % 16), (0, 0), (0, 0)], mode=mode)
    )


# Every color space and number of channels is exported with some network.
LAYOUTS = [("lab", 1, 2), ("rgb", 3, 3), ("rgb", 1, 3), ("rgb", 3, 1)]


FIRST, *OTHERS = sorted(get_args(GeneratorName), key=lambda name: name != "edsr")


@pytest.mark.parametrize(
    "name", [FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
)
def test_onnx_is_torch_within_a_level_on_any_size(name: str, tmp_path: Path) -> None:
    classes = list(dict.fromkeys(NETWORKS[n].cls for n in get_args(GeneratorName)))
    color, inputs, outputs = LAYOUTS[classes.index(NETWORKS[name].cls) % len(LAYOUTS)]
    model = replace(model_of(name, inputs=inputs, outputs=outputs), color=color)
    parity = export.export_onnx(model, tmp_path / "m.onnx")
    assert parity.worst <= export.TOLERANCE
    assert parity.images > export.TEST_BATCHES
    assert b".py" not in (tmp_path / "m.onnx").read_bytes()  # paths of this machine
    for size in SIZES[1:]:
        batch = np.stack([make_photo(seed, *size) for seed in range(3)])
        output = run_onnx(tmp_path / "m.onnx", batch)
        assert np.abs(output.astype(int) - model.restore(batch)).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(("crop", "side"), [(0, 128), (16, 64), (96, 96), (512, 128)])
def test_onnx_is_compared_with_torch_at_the_size_of_training(crop: int, side: int) -> None:
    config = RunConfig(corpora=("corpus",), out="run", crop=crop)
    sizes = [b.shape[1:3] for b in export._test_batches(replace(model_of("edsr"), config=config))]
    assert sizes[0] == (1, 1)
    assert (side, side) in sizes
    assert any(height > side and height % 2 and width % 2 for height, width in sizes)


def test_statistics_of_an_image_are_those_of_more_than_one_pixel() -> None:
    model = model_of("unet", norm="instance")
    assert export.uses_image_statistics(model.generator)
    sizes = [side for b in export._test_batches(model) for side in b.shape[1:3]]
    assert min(sizes) > model.spec.multiple


def run_onnx(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"image": batch})
    return np.asarray(output)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", get_args(GeneratorName))
def test_the_exported_module_gives_what_the_model_gives(name: str, residual: bool) -> None:
    model = model_of(name, residual=residual)
    module = export.ImageToImage(model)
    for size in SIZES:
        batch = make_photo(2, *size)[None]
        assert (
            np.abs(module(torch.from_numpy(batch)).numpy().astype(int) - model.restore(batch)).max()
            <= 1
        )


SMALL = ["--width", "2", "--batch", "2", "--max-steps", "1", "--device", "cpu", "--threads", "1"]


def test_both_directions_and_a_graph_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, out = write_domains(tmp_path / "domains", 2), tmp_path / "run"
    small = [*SMALL, "--batch", "1", "--net", "autoencoder", "--discriminator", "patch-16"]
    small += ["--crop", "16", "--norm", "none"]
    assert command(corpus, "--loss", "cyclegan", *small, "--out", out, "--no-report") == 0
    image, outputs = make_photo(1, 21, 17)[None], {}
    for direction in ("AtoB", "BtoA"):
        bare = tmp_path / f"{direction}.safetensors"
        assert command("export", out, bare, "--direction", direction) == 0
        outputs[direction] = load_generator(out, "cpu", direction).restore(image)
        assert np.array_equal(load_generator(bare, "cpu").restore(image), outputs[direction])
        assert load_generator(bare, "cpu").config.direction == direction
        assert read_description(bare).reverse_generator is None
    assert not np.array_equal(outputs["AtoB"], outputs["BtoA"])
    graph = tmp_path / "BtoA.onnx"
    assert command("export", out, graph, "--direction", "BtoA") == 0
    assert np.abs(run_onnx(graph, image).astype(int) - outputs["BtoA"]).max() <= 1

    def another(network: export.ImageToImage, *_: Any) -> bytes:
        with torch.no_grad():
            for weight in network.generator.parameters():
                weight.add_(0.05)
        return graph.read_bytes()

    monkeypatch.setattr(export, "_graph_of", another)
    (tmp_path / "empty").mkdir()
    assert command("export", out, tmp_path / "empty" / "m.onnx", "--direction", "BtoA") == 1
    assert "differs from torch by" in capsys.readouterr().err
    assert not list((tmp_path / "empty").iterdir())


def test_other_channels_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RGB"):
        export.export_onnx(model_of("autoencoder", inputs=4), tmp_path / "m.onnx")


def test_exported_weights_are_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": 4}, size=(16, 16))
    out = tmp_path / "run"
    assert command(corpus, "--loss", "l2", *SMALL, "--out", out) == 0
    assert command("export", out, tmp_path / "bare.safetensors") == 0
    image = make_photo(1, 21, 17)[None]
    full, bare = (load_generator(p, "cpu") for p in (out, tmp_path / "bare.safetensors"))
    assert np.array_equal(full.restore(image), bare.restore(image))
    assert command("export", out, tmp_path / "model.tar") == 2
    assert "give a name ending in .onnx" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- page
def browser() -> Path:
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("no browser")
    return Path(found)


def runtime_folder() -> Path:
    folder = Path(os.environ.get("IMG2IMG_ORT_WEB", "node_modules/onnxruntime-web"))
    if not folder.is_dir():
        pytest.skip("no onnxruntime-web: npm install onnxruntime-web")
    return folder


DROP = """(bytes) => {
  const moved = new DataTransfer();
  moved.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: moved }));
}"""


def test_the_page_gives_what_torch_gives_and_makes_no_requests(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    program, runtime = browser(), runtime_folder()
    model, page_file = model_of("unet"), tmp_path / "m.html"
    export.export_page(model, page_file, runtime)
    export.export_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    image, requests, console = make_photo(4, 45, 37), [], []
    (tmp_path / "photo.png").write_bytes(io.encode(image, "png"))
    playwright.expect.set_options(timeout=60_000)
    with playwright.sync_playwright() as p:
        window = p.chromium.launch(executable_path=program, args=["--no-sandbox"]).new_page()
        window.on("request", lambda request: requests.append(request.url))
        window.on("console", lambda line: console.append(line.text))
        window.goto(page_file.as_uri())
        status = playwright.expect(window.locator("#status"))
        status.to_have_text("Ready.")
        window.set_input_files("#file", tmp_path / "photo.png")
        status.to_contain_text("45 × 37")
        context = "document.getElementById('output').getContext('2d')"
        read = f"[...{context}.getImageData(0, 0, 45, 37).data]"
        got = window.evaluate(read)
        window.evaluate("document.getElementById('status').textContent = 'waiting'")
        window.mouse.move(*(window.locator("#input").bounding_box()[k] + 40 for k in "xy"))
        window.mouse.down()
        window.mouse.move(*(window.locator("#input").bounding_box()[k] + 90 for k in "xy"))
        window.mouse.up()
        status.to_contain_text("45 × 37")
        drawn = window.evaluate(read)
        assert drawn != got, "a line was drawn"
        window.evaluate(DROP, [*io.encode(image, "png")])
        # Not wait_for_function, which evaluates a string in the page if the first look fails; the
        # page forbids that.
        for _ in range(600):
            if window.evaluate(read) != drawn:
                break
            window.wait_for_timeout(100)
        assert window.evaluate(read) == got, "dropped or chosen, it is the same image"
    shown = np.array(got, np.uint8).reshape(37, 45, 4)[..., :3].astype(int)
    (onnx,) = session.run(None, {"image": image[None]})
    for output in (onnx, model.restore(image[None])):
        assert np.abs(shown - output[0]).max() <= 1
    assert not [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]
    assert not [line for line in console if "Content Security" in line]


def test_a_page_needs_its_runtime_and_a_small_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="npm install onnxruntime-web"):
        export.export_page(model_of("unet"), tmp_path / "m.html", tmp_path)
    monkeypatch.setattr(export, "MAX_PAGE_PARAMETERS", 10)
    with pytest.raises(UsageError, match="parameters"):
        export.export_page(model_of("unet"), tmp_path / "m.html", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.slow
def test_an_export_opens_no_connection(tmp_path: Path) -> None:
    """ONNX Runtime looks up addresses of its maker unless it is told not to before its import."""
    run, trace = write_run(tmp_path / "run"), tmp_path / "trace"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    watch = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", trace]
    words = [sys.executable, "-m", "img2img_train", "export", run, tmp_path / "m.onnx"]
    subprocess.run([*watch, *words], env=environment, check=True, capture_output=True)
    assert "AF_INET" not in trace.read_text()
