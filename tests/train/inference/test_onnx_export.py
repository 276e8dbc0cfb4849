"""The exported files give what torch gives."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from conftest import make_photo
from small_corpus import write_corpus, write_domains

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

from img2img_data.core.errors import Img2ImgError, UsageError  # noqa: E402
from img2img_data.images import io  # noqa: E402
from img2img_train.cli.main import main  # noqa: E402
from img2img_train.config import RunConfig  # noqa: E402
from img2img_train.inference import onnx_export as export  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import NETWORKS, GeneratorName, NetworkSpec  # noqa: E402
from img2img_train.runs.model import LoadedModel, load_generator  # noqa: E402

SIZES = [(1, 1), (2, 33), (16, 16), (31, 47), (75, 20)]
CPU = torch.device("cpu")


def model_of(name: str, **channels: Any) -> LoadedModel:
    spec = NetworkSpec(name=name, width=2, **channels)
    config = RunConfig(corpora=("corpus",), out="run")
    network = build(spec, 3).eval().requires_grad_(False)
    return LoadedModel(network, spec, "rgb", 7, config, CPU, Path("model"))


def is_generator(name: str) -> bool:
    return name in get_args(GeneratorName)


@pytest.mark.parametrize("size", SIZES)
def test_mirroring_in_the_graph_is_that_of_numpy(size: tuple[int, int]) -> None:
    image = make_photo(1, *size)[None]
    wrapped = export.ImageToImage(torch.nn.Identity(), 16)
    assert np.array_equal(wrapped(torch.from_numpy(image)).numpy(), image)
    padded = wrapped._mirrored(torch.from_numpy(image), 1).numpy()
    mode = "reflect" if size[1] > 1 else "edge"
    assert np.array_equal(
        padded, np.pad(image, [(0, 0), (0, -size[1] % 16), (0, 0), (0, 0)], mode=mode)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_is_torch_within_a_level_on_any_size(name: str, tmp_path: Path) -> None:
    if not is_generator(name):
        pytest.skip("no generator")
    model = model_of(name)
    parity = export.export_onnx(model, tmp_path / "m.onnx")
    assert parity.worst <= export.TOLERANCE
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    for size in SIZES[1:]:
        batch = np.stack([make_photo(seed, *size) for seed in range(3)])
        (got,) = session.run(None, {"image": batch})
        assert np.abs(got.astype(int) - model.restore(batch)).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", get_args(GeneratorName))
def test_what_is_exported_does_what_the_model_does(name: str, residual: bool) -> None:
    model = model_of(name, residual=residual)
    whole = export.ImageToImage(
        model.generator, model.spec.multiple, model.spec.smallest, model.channel_layout
    )
    for size in SIZES:
        batch = make_photo(2, *size)[None]
        assert (
            np.abs(whole(torch.from_numpy(batch)).numpy().astype(int) - model.restore(batch)).max()
            <= 1
        )


def test_a_file_that_differs_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1)
    with pytest.raises(Img2ImgError, match="differs from torch"):
        export.export_onnx(model_of("autoencoder"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def call(*words: object) -> int:
    try:
        main([str(w) for w in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


SMALL = ["--width", "2", "--batch", "2", "--max-steps", "1", "--device", "cpu", "--threads", "1"]


def test_a_graph_that_computes_something_else_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": 4}, size=(16, 16))
    assert call(corpus, "--loss", "l2", *SMALL, "--out", tmp_path / "run", "--no-report") == 0
    write = export._write_graph

    def write_another(network: export.ImageToImage, *rest: Any) -> None:
        write(network, *rest)
        with torch.no_grad():
            for weight in network.generator.parameters():
                weight.add_(0.05)

    monkeypatch.setattr(export, "_write_graph", write_another)
    (tmp_path / "made").mkdir()
    assert call("export", tmp_path / "run", tmp_path / "made" / "m.onnx") == 1
    assert "differs from torch by" in capsys.readouterr().err
    assert not list((tmp_path / "made").iterdir())


def test_both_ways_of_a_model_are_exported(tmp_path: Path) -> None:
    corpus = write_domains(tmp_path / "h2z", 2)
    small = [
        *SMALL,
        "--batch",
        "1",
        "--net",
        "resnet-6",
        "--discriminator",
        "patch-16",
        "--crop",
        "16",
    ]
    out = tmp_path / "run"
    assert call(corpus, "--loss", "cyclegan", *small, "--out", out, "--no-report") == 0
    image = make_photo(1, 21, 17)[None]
    made = {}
    for way in ("AtoB", "BtoA"):
        bare, graph = tmp_path / f"{way}.safetensors", tmp_path / f"{way}.onnx"
        assert (
            call("export", out, bare, "--direction", way)
            == call("export", out, graph, "--direction", way)
            == 0
        )
        made[way] = load_generator(out, "cpu", way).restore(image)
        assert np.array_equal(load_generator(bare, "cpu").restore(image), made[way])
        assert load_generator(bare, "cpu").config.direction == way
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, {"image": image})
        assert np.abs(got.astype(int) - made[way]).max() <= 1
    assert not np.array_equal(made["AtoB"], made["BtoA"])


def test_other_channels_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="RGB"):
        export.export_onnx(model_of("autoencoder", inputs=4), tmp_path / "m.onnx")


@pytest.mark.parametrize(("color", "channels"), [("lab", (1, 2)), ("rgb", (1, 3)), ("rgb", (3, 1))])
def test_gray_and_lab_models_take_and_give_rgb_too(
    color: str, channels: tuple[int, int], tmp_path: Path
) -> None:
    model = model_of("autoencoder", inputs=channels[0], outputs=channels[1])
    parity = export.export_onnx(replace(model, color=color), tmp_path / "m.onnx")
    assert parity.worst <= export.TOLERANCE


def test_exported_weights_are_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": 4}, size=(16, 16))
    out = tmp_path / "run"
    assert call(corpus, "--loss", "l2", *SMALL, "--out", out) == 0
    assert call("export", out, tmp_path / "bare.safetensors") == 0
    image = make_photo(1, 21, 17)[None]
    whole, bare = (load_generator(p, "cpu") for p in (out, tmp_path / "bare.safetensors"))
    assert np.array_equal(whole.restore(image), bare.restore(image))
    assert call("export", out, tmp_path / "model.tar") == 2
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


def test_the_page_gives_what_torch_and_onnxruntime_give_and_asks_for_nothing(
    tmp_path: Path,
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    program, runtime = browser(), runtime_folder()
    model, page_file = model_of("unet"), tmp_path / "m.html"
    export.export_page(model, page_file, runtime)
    export.export_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(
        str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    image, requests, said = make_photo(4, 45, 37), [], []
    (tmp_path / "photo.png").write_bytes(io.encode(image, "png"))
    with playwright.sync_playwright() as p:
        window = p.chromium.launch(executable_path=program, args=["--no-sandbox"]).new_page()
        window.on("request", lambda request: requests.append(request.url))
        window.on("console", lambda line: said.append(line.text))
        window.goto(page_file.as_uri())
        status = playwright.expect(window.locator("#said"))
        status.to_have_text("Ready.", timeout=60_000)
        window.set_input_files("#file", tmp_path / "photo.png")
        status.to_contain_text("45 × 37")
        read = (
            "[...document.getElementById('made').getContext('2d').getImageData(0, 0, 45, 37).data]"
        )
        got = window.evaluate(read)
        window.evaluate("document.getElementById('said').textContent = 'waiting'")
        window.mouse.move(*(window.locator("#given").bounding_box()[k] + 40 for k in "xy"))
        window.mouse.down()
        window.mouse.move(*(window.locator("#given").bounding_box()[k] + 90 for k in "xy"))
        window.mouse.up()
        status.to_contain_text("45 × 37")
        drawn = window.evaluate(read)
        assert drawn != got, "a line was drawn"
        window.evaluate(DROP, [*io.encode(image, "png")])
        window.wait_for_function(
            f"JSON.stringify({read}) !== {json.dumps(json.dumps(drawn).replace(' ', ''))}"
        )
        assert window.evaluate(read) == got, "dropped or chosen, it is the same image"
    shown = np.array(got, np.uint8).reshape(37, 45, 4)[..., :3].astype(int)
    (onnx,) = session.run(None, {"image": image[None]})
    for made in (onnx, model.restore(image[None])):
        assert np.abs(shown - made[0]).max() <= 1
    assert not [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]
    assert not [line for line in said if "Content Security" in line]


def test_a_page_needs_its_runtime_and_a_small_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="npm install onnxruntime-web"):
        export.export_page(model_of("unet"), tmp_path / "m.html", tmp_path)
    monkeypatch.setattr(export, "LARGEST_PAGE", 10)
    with pytest.raises(UsageError, match="parameters"):
        export.export_page(model_of("unet"), tmp_path / "m.html", tmp_path)
    assert not list(tmp_path.iterdir())
