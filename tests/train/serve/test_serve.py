"""The page of ``serve``: in a real browser it gives what ``translate`` gives, and keeps to
itself.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run as run_data
from conftest import make_photo
from pydantic import ValidationError
from small_corpus import write_corpus

torch = pytest.importorskip("torch")

from img2img_data.core.errors import CheckpointError, Rejected, UsageError  # noqa: E402
from img2img_data.core.jsonl import read_rows  # noqa: E402
from img2img_data.core.settings_model import help_of  # noqa: E402
from img2img_data.corpus.format import image_rng  # noqa: E402
from img2img_data.corpus.reader import open_corpus  # noqa: E402
from img2img_data.degradations.compose import Composite  # noqa: E402
from img2img_data.degradations.registry import DEGRADATIONS  # noqa: E402
from img2img_data.images import io  # noqa: E402
from img2img_data.images.pixels import ReadPolicy  # noqa: E402
from img2img_train.cli.main import main  # noqa: E402
from img2img_train.config import RunConfig  # noqa: E402
from img2img_train.inference.settings import TranslateSettings  # noqa: E402
from img2img_train.inference.translate import translate_bytes  # noqa: E402
from img2img_train.metrics.registry import IMAGE_METRICS  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import NetworkSpec  # noqa: E402
from img2img_train.runs import checkpoint  # noqa: E402
from img2img_train.runs.model import load_generator  # noqa: E402
from img2img_train.serve.models import (  # noqa: E402
    MAX_LOADED,
    ModelChoice,
    ModelRegistry,
    as_seen,
    degraded,
    load_cached,
)
from img2img_train.serve.request_guard import remove_old_files  # noqa: E402
from img2img_train.serve.widgets import all_widgets, settings_of  # noqa: E402

COMMAND = [sys.executable, "-m", "img2img_train", "serve"]
LIMITS = ReadPolicy(max_pixels=100_000, max_bytes=200_000, max_aspect=1e9)
NAMES = [
    kind
    for kind, cls in DEGRADATIONS.items()
    if not issubclass(cls, Composite) and kind != "albumentations"
]


def write_model(
    path: Path,
    reverse: bool = False,
    color: str = "rgb",
    inputs: int = 3,
    outputs: int = 3,
    corpus: Path = Path("corpora/some"),
) -> Path:
    """Write a checkpoint of an untrained network."""
    spec = NetworkSpec(name="unet", width=2, inputs=inputs, outputs=outputs)
    names = {"generator": 1, **({"reverse": 2} if reverse else {})}
    weights = {name: build(spec, seed).state_dict() for name, seed in names.items()}
    about = checkpoint.Description(
        complete=False,
        generator="generator",
        reverse_generator="reverse" if reverse else None,
        networks=dict.fromkeys(names, spec),
        color=color,
        size=(32, 32),
        versions={},
        config=RunConfig(corpora=(str(corpus),)).model_dump(mode="json"),
        progress=checkpoint.TrainingProgress(),
    )
    tensors = {
        f"network/{name}/{key}": t for name, part in weights.items() for key, t in part.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_checkpoint(path, tensors, about)
    return path


# ---------------------------------------------------------------------------- parameters as widgets
def test_every_degradation_that_a_page_can_show_has_widgets() -> None:
    assert list(all_widgets()) == NAMES


def defaults_of(kind: str) -> dict[str, Any]:
    widgets = all_widgets()[kind]
    return settings_of(widgets, [widget.arguments["value"] for widget in widgets.values()])


@pytest.mark.parametrize("kind", NAMES)
def test_widgets_stay_within_the_bounds_of_their_parameters(kind: str) -> None:
    cls, widgets = DEGRADATIONS[kind], all_widgets()[kind]
    assert list(widgets) == list(cls.model_fields)
    assert cls(**defaults_of(kind))
    for name, (component, about) in widgets.items():
        description = help_of(cls.model_fields[name])
        assert about["info"] == description or "; empty: " in about["info"]
        ends = [value for _, value in about.get("choices", ())]
        if component == "Slider":
            assert about["minimum"] <= about["value"] <= about["maximum"]
            ends = [about["minimum"], about["maximum"]]
        for end in ends:
            value = [end] if about.get("multiselect") else end
            settings = defaults_of(kind) | settings_of([name], [value])
            with contextlib.suppress(ValidationError):
                cls(**settings)
                continue
            with pytest.raises(ValidationError) as caught:
                cls(**settings)
            # The end of a slider may contradict another parameter, never its own bounds.
            assert not any(error["loc"] for error in caught.value.errors())


def test_an_empty_widget_is_left_to_the_degradation() -> None:
    assert all_widgets()["generalized"]["sigma_y"].arguments["value"] is None
    assert "sigma_y" not in defaults_of("generalized")


def test_an_image_is_degraded_as_in_a_corpus_of_that_seed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(io.encode(photo := make_photo(1), "png"))
    run_data(
        "degrade", tmp_path / "photos", tmp_path / "c", "--kind", "noise", "--seed", 5, "--jobs", 1
    )
    row = read_rows(tmp_path / "c" / "train" / "metadata.jsonl")[0]
    image, drawn = degraded(DEGRADATIONS["noise"](), photo, 5, "one.png")
    assert drawn == row["drawn"]
    assert np.array_equal(image, io.read(tmp_path / "c" / "train" / row["input_file_name"]).pixels)


# -------------------------------------------------------------------------------- models
def test_models_have_unique_names_and_few_stay_loaded(tmp_path: Path) -> None:
    paths = [
        write_model(tmp_path / f"{n}.safetensors", reverse=n == 0) for n in range(MAX_LOADED + 1)
    ]
    registry = ModelRegistry.open(paths, "cpu", LIMITS)
    assert [entry.name for entry in registry.entries] == [path.name for path in paths]
    assert [entry.directions for entry in registry.entries][:2] == [("AtoB", "BtoA"), ("AtoB",)]
    for number in range(len(paths)):
        registry.model(ModelChoice(number))
    assert load_cached.cache_info().currsize == MAX_LOADED
    forward, reverse = (
        registry.model(ModelChoice(0, direction)).restore(make_photo(1)[None])
        for direction in ("AtoB", "BtoA")
    )
    assert not np.array_equal(forward, reverse)
    with pytest.raises(CheckpointError, match="No such file"):
        ModelRegistry.open([tmp_path / "none"], "cpu", LIMITS)


def test_scores_and_examples_of_a_run_are_shown(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", {"train": 4, "val": 2}, size=(16, 16))
    small = ["--loss", "l2", "--width", "2", "--batch", "2", "--max-steps", "1", "--device", "cpu"]
    main([str(corpus), *small, "--out", str(tmp_path / "run")])
    (entry,) = ModelRegistry.open([tmp_path / "run"], "cpu", LIMITS).entries
    assert entry.description[0] == "Turns input into target, as in the corpus corpus."
    assert entry.description[1].endswith("1 steps")
    assert re.fullmatch(r"corpus val: PSNR \S+ dB, input \S+ dB", entry.description[2])
    inputs = [pair.input for pair in open_corpus(corpus)["val"]]
    assert all(map(np.array_equal, map(pixels_of, entry.examples), inputs))
    shutil.rmtree(corpus)
    (copied,) = ModelRegistry.open([tmp_path / "run"], "cpu", LIMITS).entries
    assert all(map(np.array_equal, map(pixels_of, copied.examples), inputs))
    assert len(entry.examples) == len(copied.examples) == len(inputs)


def pixels_of(data: bytes) -> np.ndarray:
    return io.decode(data).pixels


@pytest.mark.parametrize(
    ("color", "inputs", "outputs"), [("lab", 1, 2), ("rgb", 1, 1), ("rgb", 3, 1)]
)
def test_gray_and_lab_models_are_scored_on_what_they_take(
    color: str, inputs: int, outputs: int, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m", color=color, inputs=inputs, outputs=outputs)
    registry, image = ModelRegistry.open([path], "cpu", LIMITS), make_photo(3, 47, 33)
    result = registry.score(ModelChoice(), image, image)
    gray = [bool((p == p[..., :1]).all()) for p in (result.input, result.output, result.target)]
    assert gray == [inputs == 1, outputs == 1, outputs == 1]
    model = registry.model(ModelChoice())
    assert np.abs(result.output.astype(int) - model.restore(image[None])[0]).max() <= 1
    assert np.array_equal(result.input, as_seen(model.channel_layout, image))
    for pixels, scores in ((result.input, result.input_scores), (result.output, result.scores)):
        expected = {n: m.compute(pixels, result.target) for n, m in IMAGE_METRICS.items()}
        assert scores == expected


def test_images_of_two_sizes_are_one_line(tmp_path: Path) -> None:
    registry = ModelRegistry.open([write_model(tmp_path / "m")], "cpu", LIMITS)
    with pytest.raises(UsageError, match="40 x 32 and 20 x 16 pixels"):
        registry.score(ModelChoice(), make_photo(1, 20, 16), make_photo(1, 40, 32))


def test_limits_hold_before_anything_is_decoded(tmp_path: Path) -> None:
    registry = ModelRegistry.open([write_model(tmp_path / "m")], "cpu", LIMITS)
    with pytest.raises(Rejected, match="too-many-pixels"):
        registry.decode(io.encode(make_photo(1, 400, 300), "png"))


def test_a_process_can_connect_to_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = f"""
import socket
from img2img_train.serve.request_guard import block_connections
block_connections()
for host, port in (("127.0.0.1", {listener.getsockname()[1]}), ("example.com", 80)):
    try:
        socket.create_connection((host, port), 5)
    except PermissionError:
        print("blocked")
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["blocked", "blocked"]


def rejected(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run the command in this process and return its one line."""
    with pytest.raises(SystemExit) as end:
        main(["serve", *map(str, words)])
    text = capsys.readouterr()
    assert (end.value.code, text.out, text.err.count("\n")) == (2, "", 1)
    return text.err


def test_a_taken_port_and_a_missing_extra_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "GRADIO_ANALYTICS_ENABLED",
        "GRADIO_TEMP_DIR",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_OFFLINE",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setitem(sys.modules, "gradio", None)
    model = write_model(tmp_path / "m")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = rejected(capsys, model, "--port", port)
        assert text.startswith(f"error: option '--port': {port} cannot be used")
    assert "pip install 'img2img[serve]'" in rejected(capsys, model, "--port", 0)
    assert "No such file" in rejected(capsys, tmp_path / "none", "--port", 0)


# ------------------------------------------------------------------------------------ in a browser
class Server:
    """A server in a process of its own, and the folder of its uploads."""

    def __init__(self, folder: Path) -> None:
        # Three pairs: its first input is shown, and restored, when the page opens.
        corpus = write_corpus(folder / "corpus", {"val": 3}, size=(40, 32))
        self.models = [
            write_model(folder / "one" / "first", corpus=corpus),
            write_model(folder / "two" / "both", reverse=True),
        ]
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        limits = [
            "--max-megapixels",
            LIMITS.max_pixels / 1e6,
            "--max-megabytes",
            LIMITS.max_bytes / 1e6,
        ]
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, self.models), "--port", "0", "--device", "cpu", *map(str, limits)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "TMPDIR": str(self.temporary),
                "GRADIO_SERVER_NAME": "0.0.0.0",
                "GRADIO_SHARE": "1",
            },
        )
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", text)
        assert found, text
        self.url, self.port = found[0], int(found[1])

    def end(self) -> tuple[int, str]:
        """End it by SIGTERM; return its exit code and its standard error."""
        self.process.send_signal(signal.SIGTERM)
        complaint = self.process.communicate(timeout=90)[1]
        return self.process.returncode, complaint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio")
    started = Server(tmp_path_factory.mktemp("serve"))
    yield started
    assert started.end() == (143, "the server has stopped\n"), "not one traceback"
    assert list(started.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def window(browser: Any, server: Server) -> Iterator[Any]:
    """The page, which may ask nobody else for anything."""
    asked, faults = [], []
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#restore-run")
    page.set_default_timeout(60_000)
    page.locator("#restore-status:has-text('first: 40 × 32 pixels')").wait_for()
    yield page
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert faults == []
    assert len(asked) > 10


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def upload(page: Any, name: str, path: Path) -> None:
    """Put a file into a box, in place of the file there."""
    box = page.locator(f"#{name}")
    if not box.locator("input[type=file]").count():
        box.get_by_label("Clear").click()
    box.locator("input[type=file]").set_input_files(path)


def rejection(page: Any) -> str:
    """Return the newest line of the errors in the page, and close them."""
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    text = str(toast.inner_text())
    page.get_by_test_id("toast-close").click()
    toast.wait_for(state="detached")
    return text


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a photo.png"
    path.write_bytes(io.encode(make_photo(5, 70, 45), "png"))
    return path


def downloaded(page: Any) -> bytes:
    page.wait_for_function(
        "document.querySelector('#restore-status').innerText.includes('70 × 45 pixels in')"
    )
    with page.expect_download() as download:
        page.locator("#restore-download").click()
    assert download.value.suggested_filename == "a photo-restored.png"
    return Path(download.value.path()).read_bytes()


def test_an_image_becomes_the_output_of_translate(window: Any, server: Server, image: Path) -> None:
    tab(window, "Restore")
    upload(window, "restore-image", image)
    settings = TranslateSettings()
    expected = translate_bytes(
        load_generator(server.models[0], "cpu"), image.read_bytes(), settings
    )
    assert downloaded(window) == expected.image
    assert window.locator("#restore-slider img").count() == 2
    assert "first: 70 × 45 pixels" in window.locator("#restore-status").inner_text()


def test_another_model_goes_both_ways(window: Any, server: Server, image: Path) -> None:
    tab(window, "Restore")
    upload(window, "restore-image", image)
    downloaded(window)
    assert not window.locator("#direction").is_visible()
    window.locator("#model").get_by_label("both").check()
    window.locator("#direction").get_by_label("BtoA").check()
    window.locator("#restore-run").click()
    window.wait_for_function(
        "document.querySelector('#restore-status').innerText.includes('both, BtoA')"
    )
    model = load_generator(server.models[1], "cpu", "BtoA")
    assert (
        downloaded(window) == translate_bytes(model, image.read_bytes(), TranslateSettings()).image
    )
    window.locator("#model").get_by_label("first").check()
    window.locator("#direction").wait_for(state="hidden")


def test_an_example_is_restored_by_a_click(window: Any) -> None:
    tab(window, "Restore")
    assert (
        window.locator("#about p").inner_text()
        == "Turns input into target, as in the corpus corpus."
    )
    window.locator("#examples button").nth(1).click()
    window.locator("#restore-status:has-text('first: 40 × 32 pixels')").wait_for()
    assert window.locator("#restore-slider img").count() == 2
    window.locator("#model").get_by_label("both").check()
    window.locator("#examples").wait_for(state="hidden")
    window.locator("#model").get_by_label("first").check()
    window.locator("#examples img").nth(2).wait_for()


def shown_scores(page: Any, name: str) -> list[list[str]]:
    page.locator(f"#{name} table").wait_for()
    rows = page.locator(f"#{name} tr").all()[1:]
    return [row.locator("td").all_inner_texts()[1:] for row in rows]


def expected_scores(image: np.ndarray, output: np.ndarray, target: np.ndarray) -> list[list[str]]:
    rows = []
    for metric in IMAGE_METRICS.values():
        numbers = [metric.compute(p, target) for p in (image, output)]
        gain = f"{metric.gain(numbers[1], numbers[0]):+.{metric.digits}f}"
        rows.append([*(f"{n:.{metric.digits}f}" for n in numbers), gain])
    return rows


def test_a_degraded_image_is_restored_and_scored(window: Any, server: Server, image: Path) -> None:
    tab(window, "Degrade and restore")
    upload(window, "clean-image", image)
    clean, model = io.read(image).pixels, load_generator(server.models[0], "cpu")
    window.locator("#degrade-scores table").wait_for()
    window.locator("#kind input").click()
    window.get_by_role("option", name="noise", exact=True).click()
    window.locator("#noise-sigma input[type=number]").fill("17")
    window.locator("#seed input").fill("3")
    window.locator("#degrade-run").click()
    window.wait_for_function(
        "document.querySelector('#degrade-scores').innerText.includes('sigma 17')"
    )
    noise = DEGRADATIONS["noise"](sigma=17)
    degraded = noise.apply(clean, **noise.draw(image_rng(3, b"a photo.png")))
    output = model.restore(degraded[None])[0]
    assert shown_scores(window, "degrade-scores") == expected_scores(degraded, output, clean)


def test_a_recipe_is_read_or_rejected_in_a_line(window: Any, image: Path) -> None:
    tab(window, "Degrade and restore")
    upload(window, "clean-image", image)
    window.locator("#degrade-scores table").wait_for()
    window.locator("#kind input").click()
    window.get_by_role("option", name="recipe", exact=True).click()
    window.locator("#degrade-run").click()
    window.wait_for_function(
        "document.querySelector('#degrade-scores').innerText.includes('2.jpeg.quality')"
    )
    window.locator("#recipe .cm-content").fill("- gausian: {sigma: 3}")
    window.locator("#degrade-run").click()
    assert "did you mean 'gaussian'?" in rejection(window)


def test_every_setting_of_every_degradation_is_in_the_page(window: Any) -> None:
    listed = window.evaluate(
        "window.gradio_config.components.map((c) => [c.props.elem_id, c.type, c.props])"
    )
    components = {name: (kind, about) for name, kind, about in listed if name}
    for kind in NAMES:
        for name, widget in all_widgets()[kind].items():
            component, about = components[f"{kind}-{name}"]
            assert component == widget.component.lower()
            for limit in {"minimum", "maximum"} & widget.arguments.keys():
                assert about[limit] == widget.arguments[limit]


def test_an_output_is_compared_with_a_target(
    window: Any, server: Server, image: Path, tmp_path: Path
) -> None:
    tab(window, "Compare")
    target = tmp_path / "target.png"
    target.write_bytes(io.encode(make_photo(6, 70, 45), "png"))
    upload(window, "pair-input", image)
    upload(window, "pair-target", target)
    window.wait_for_function(
        "document.querySelectorAll('#pair-input a, #pair-target a').length == 2"
    )
    window.locator("#compare-run").click()
    first, second = (io.read(path).pixels for path in (image, target))
    output = load_generator(server.models[0], "cpu").restore(first[None])[0]
    assert shown_scores(window, "compare-scores") == expected_scores(first, output, second)
    target.write_bytes(io.encode(make_photo(6, 40, 32), "png"))
    upload(window, "pair-target", target)
    window.wait_for_function(
        "document.querySelectorAll('#pair-input a, #pair-target a').length == 2"
    )
    window.locator("#compare-run").click()
    assert "70 x 45 and 40 x 32 pixels" in rejection(window)
    assert window.locator("#compare-scores table").count() == 0


def test_an_unreadable_image_is_rejected_in_a_line(
    window: Any, image: Path, tmp_path: Path
) -> None:
    tab(window, "Restore")
    data = image.read_bytes()
    large = io.encode(make_photo(1, 400, 300), "jpg")
    files = {
        "cut.png": (data[: len(data) // 2], "truncated: the data end before the image does"),
        "<img src=x>.png": (b"no image", "not-an-image"),
        "wide.jpg": (large, "than the limit (400 x 300, more than 100,000 pixels)"),
        "heavy.png": (data + bytes(LIMITS.max_bytes), "maximum allowed size"),
    }
    for name, (content, reason) in files.items():
        (tmp_path / name).write_bytes(content)
        upload(window, "restore-image", tmp_path / name)
        assert reason in rejection(window)
        assert "pixels in" not in window.locator("#restore-status").inner_text()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_follows_the_color_scheme(window: Any, width: int, scheme: str) -> None:
    window.set_viewport_size({"width": width, "height": 800})
    window.emulate_media(color_scheme=scheme)
    window.reload()
    window.wait_for_selector("#restore-run")
    wide, seen = window.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= seen
    ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground[4:-1]}]")) > 382) == (scheme == "light")
    assert (
        window.locator("footer").count() == 0 or not window.locator("footer").inner_text().strip()
    )


# ------------------------------------------------------------------------------------- from outside
def status(server: Server, path: str = "/", **headers: str) -> int:
    request = urllib.request.Request(server.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_its_own_page_on_its_own_name_is_answered(server: Server, tmp_path: Path) -> None:
    host = f"127.0.0.1:{server.port}"
    assert status(server) == status(server, Host=f"localhost:{server.port}") == 200
    assert status(server, Host=f"127.0.0.1.evil.example:{server.port}") == 421
    assert status(server, Host="evil.example") == 421
    assert status(server, Origin=f"http://{host}") == 200
    assert status(server, Origin="http://evil.example") == status(server, Origin="null") == 403
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    for path in (
        "/gradio_api/info",
        "/gradio_api/proxy=http://example.com/x",
        "/monitoring",
        "/config",
    ):
        assert status(server, path) == 404, path
    for path in (secret, "/etc/passwd", "http://example.com/x.png", server.models[0]):
        assert status(server, f"/gradio_api/file={path}") in {403, 404}, path


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), 5)
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            local, state = line.split()[1], line.split()[3]
            assert (
                state != "0A"
                or not local.endswith(f":{server.port:04X}")
                or local.startswith("0100007F:")
            )


def test_files_that_were_not_uploaded_are_not_read(
    window: Any, server: Server, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(io.encode(make_photo(9, 20, 20), "png"))
    ask = """async ([path]) => {
      const {dependencies, components} = window.gradio_config;
      const own = components.find((c) => c.props.elem_id == "restore-image").id;
      const job = dependencies.find((d) => d.inputs[0] == own && d.inputs.length == 7);
      const file = {path, meta: {_type: "gradio.FileData"}};
      const data = [file, 0, "AtoB", "saved", "saved", 512, 128];
      const session_hash = "test" + Math.random();
      const body = JSON.stringify({data, fn_index: job.id, session_hash});
      const headers = {"Content-Type": "application/json"};
      await fetch("/gradio_api/queue/join", {method: "POST", headers, body});
      return await (await fetch("/gradio_api/queue/data?session_hash=" + session_hash)).text();
    }"""
    for path in (str(secret), "/etc/passwd", f"http://127.0.0.1:{server.port}/favicon.ico"):
        text = window.evaluate(ask, [path])
        assert '"success":false' in text, text
    copies = [p for p in server.temporary.rglob("*") if p.is_file()]
    assert not [p for p in copies if p.read_bytes() == secret.read_bytes()]


# ------------------------------------------------------------------------------------ under attack
STREAMS = ("/gradio_api/queue/data", "/gradio_api/heartbeat/")


def asked(server: Server, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    """Return status and text of an answer; a stream that goes on is cut."""
    request = urllib.request.Request(server.url + path, body, headers)
    seconds = 5 if path.startswith(STREAMS) else 60
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (TimeoutError, http.client.IncompleteRead):
        assert path.startswith(STREAMS), f"{path} gave no answer"
        return 200, "a stream"


def sent(server: Server, name: str, data: bytes) -> tuple[int, str]:
    """Upload a file."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return asked(server, "/gradio_api/upload", head.encode() + data + b"\r\n--x--\r\n", **kind)


def posted(server: Server, path: str, content: Any) -> tuple[int, str]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return asked(server, f"/gradio_api/{path}", body, **{"Content-Type": "application/json"})


def restored(server: Server, first: Any, *model: Any) -> tuple[int, str]:
    """Ask for the restoration of an image without a browser; return the last answer."""
    page = asked(server, "/")[1].partition("window.gradio_config = ")[2].partition(";</script>")[0]
    config, name = json.loads(page), f"s{time.monotonic_ns()}"
    ids = {c["props"].get("elem_id"): c["id"] for c in config["components"]}
    job = next(
        d["id"]
        for d in config["dependencies"]
        if d["inputs"][:1] == [ids["restore-image"]] and len(d["inputs"]) == 7
    )
    ask = {"data": [first, *model], "fn_index": job, "session_hash": name}
    code, text = posted(server, "queue/join", ask)
    return (
        asked(server, f"/gradio_api/queue/data?session_hash={name}")
        if code == 200
        else (code, text)
    )


def file_data(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def test_odd_requests_are_rejected_without_an_error_of_the_server(
    server: Server, image: Path
) -> None:
    """The fixture checks that the terminal shows no traceback, at shutdown neither."""
    path = json.loads(sent(server, "a.png", image.read_bytes())[1])[0]
    good = [0, "AtoB", "saved", "saved", 512, 128]
    assert '"success":true' in restored(server, file_data(path), *good)[1]
    odd = [None, 3, "x", [], {"path": 3}, file_data(str(Path(path).parent)), file_data("a\0b")]
    codes = [restored(server, first, *good)[0] for first in odd]
    for place, wrong in enumerate([99, {}, None, 1.5, None, -3]):
        model = [*good[:place], wrong, *good[place + 1 :]]
        codes.append(restored(server, file_data(path), *model)[0])
    for index in (-1, 10**6, "x", None, 10**30, 1.5):
        for data in ([], [1, 2, 3], None, {}):
            odd_ask = {"data": data, "fn_index": index, "session_hash": "s"}
            codes += [posted(server, name, odd_ask)[0] for name in ("queue/join", "run/predict")]
    for body in (b"", b"{", b"null", b"\xff", b"[" * 99_999, b'{"data": [1e999], "fn_index": NaN}'):
        for name in ("queue/join", "run/predict", "upload", "queue/x"):
            codes.append(posted(server, name, body)[0])
    for name in ("", ".", "../x.png", "a" * 300 + ".png", "x/../../y"):
        codes.append(sent(server, name, b"x")[0])
    names = ("queue/data", "queue/status", "file=", "file=%00", f"file={Path(path).parent}")
    codes += [asked(server, f"/gradio_api/{name}")[0] for name in names]
    assert {code for code in codes if code != 200 and not 400 <= code < 500} == set()
    assert '"success":true' in restored(server, file_data(path), *good)[1]


def is_cut_off(send: Callable[[], tuple[int, str]]) -> bool:
    """Return True if a body is too large: the server answers 413 and reads no further."""
    try:
        return send()[0] == 413
    # The answer, or its end, is lost if the connection ends while the client still sends.
    except ConnectionError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ConnectionError)


def test_uploads_are_bounded_together(server: Server, image: Path) -> None:
    assert is_cut_off(lambda: sent(server, "big.png", bytes(LIMITS.max_bytes + 2**20)))
    assert is_cut_off(lambda: posted(server, "queue/join", bytes(2**21)))
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        assert b" 413 " in raw.recv(99)
    for number in range(40):
        noise = np.random.default_rng(number).bytes(LIMITS.max_bytes // 2)
        assert sent(server, f"{number}.png", noise)[0] == 200
    kept = sum(path.stat().st_size for path in server.temporary.rglob("*") if path.is_file())
    assert kept <= 11 * LIMITS.max_bytes
    path = json.loads(sent(server, "a.png", image.read_bytes())[1])[0]
    answer = restored(server, file_data(path), 0, "AtoB", "saved", "saved", 512, 128)
    assert '"success":true' in answer[1]


def test_old_files_are_removed(tmp_path: Path) -> None:
    for number, age in enumerate([10, 4000, 20, 5]):
        path = tmp_path / f"{number}" / "file"
        path.parent.mkdir()
        path.write_bytes(bytes(10_000))
        os.utime(path, (time.time() - age,) * 2)
    remove_old_files(tmp_path, 25_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "3"]
