"""The page of ``serve``: in a real browser it gives what ``translate`` gives, and keeps to itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run as run_data
from conftest import make_photo
from pydantic import ValidationError

torch = pytest.importorskip("torch")

from img2img_data.core.errors import CheckpointError, Rejected, UsageError  # noqa: E402
from img2img_data.core.jsonl import read_rows  # noqa: E402
from img2img_data.corpus.format import image_rng  # noqa: E402
from img2img_data.degradations.compose import Composite  # noqa: E402
from img2img_data.degradations.registry import DEGRADATIONS  # noqa: E402
from img2img_data.images import io  # noqa: E402
from img2img_train.cli.main import main  # noqa: E402
from img2img_train.config import RunConfig  # noqa: E402
from img2img_train.inference.translate import TranslateSettings, translate_bytes  # noqa: E402
from img2img_train.metrics.registry import IMAGE_METRICS  # noqa: E402
from img2img_train.networks.registry import build  # noqa: E402
from img2img_train.networks.specs import NetworkSpec  # noqa: E402
from img2img_train.runs.checkpoint import Description, TrainingProgress, write_checkpoint  # noqa: E402
from img2img_train.runs.model import load_generator  # noqa: E402
from img2img_train.serve.models import (  # noqa: E402
    KEPT,
    Limits,
    ModelChoice,
    ModelRegistry,
    as_taken,
    degraded,
    scores,
)
from img2img_train.serve.widgets import all_controls, defaults_of, settings_of  # noqa: E402

COMMAND = [sys.executable, "-m", "img2img_train", "serve"]
LIMITS = Limits(100_000, 200_000)
NAMES = [
    kind
    for kind, cls in DEGRADATIONS.items()
    if not issubclass(cls, Composite) and kind != "albumentations"
]


def write_model(
    path: Path, way_back: bool = False, color: str = "rgb", inputs: int = 3, outputs: int = 3
) -> Path:
    """Write a checkpoint of an untrained network."""
    spec = NetworkSpec(name="unet", width=2, inputs=inputs, outputs=outputs)
    names = {"generator": 1, **({"back": 2} if way_back else {})}
    weights = {name: build(spec, seed).state_dict() for name, seed in names.items()}
    about = Description(
        complete=False,
        generator="generator",
        reverse_generator="back" if way_back else None,
        networks=dict.fromkeys(names, spec),
        color=color,
        size=(32, 32),
        versions={},
        config=RunConfig(corpora=("corpora/some",)).model_dump(mode="json"),
        progress=TrainingProgress(),
    )
    tensors = {
        f"network/{name}/{key}": t for name, part in weights.items() for key, t in part.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, tensors, about)
    return path


# ------------------------------------------------------------------------------- settings as controls
def test_every_degradation_that_a_page_can_show_has_controls() -> None:
    assert list(all_controls()) == NAMES


@pytest.mark.parametrize("kind", NAMES)
def test_controls_stand_for_settings_within_their_bounds(kind: str) -> None:
    cls, controls = DEGRADATIONS[kind], all_controls()[kind]
    assert [control.name for control in controls] == list(cls.model_fields)
    assert cls(**defaults_of(controls))
    for control in controls:
        assert (
            control.about == (cls.model_fields[control.name].description or "")
            or "; empty: " in control.about
        )
        ends = (control.low, control.high) if control.kind == "slider" else control.choices
        assert control.kind != "slider" or control.low <= control.value <= control.high
        for end in ends:
            value = [end] if control.kind == "several" else end
            settings = defaults_of(controls) | settings_of([control], [value])
            with contextlib.suppress(ValidationError):
                cls(**settings)
                continue
            with pytest.raises(ValidationError) as caught:
                cls(**settings)
            assert not any(error["loc"] for error in caught.value.errors()), (
                "only against another setting"
            )


def test_what_is_left_empty_is_left_to_the_degradation() -> None:
    controls = all_controls()["generalized"]
    values = {c.name: c.value for c in controls}
    assert values["sigma_y"] is None
    assert "sigma_y" not in defaults_of(controls)


def test_a_image_is_degraded_as_in_a_corpus_of_that_seed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(io.encode(photo := make_photo(1), "png"))
    run_data(
        "degrade", tmp_path / "photos", tmp_path / "c", "--kind", "noise", "--seed", 5, "--jobs", 1
    )
    row = read_rows(tmp_path / "c" / "train" / "metadata.jsonl")[0]
    made, drawn = degraded(DEGRADATIONS["noise"](), photo, 5, "one.png")
    assert drawn == row["drawn"]
    assert np.array_equal(made, io.read(tmp_path / "c" / "train" / row["input_file_name"]).pixels)


# -------------------------------------------------------------------------------- models on offer
def test_models_are_offered_by_names_of_their_own_and_few_are_held(tmp_path: Path) -> None:
    paths = [write_model(tmp_path / f"{n}.safetensors", way_back=n == 0) for n in range(KEPT + 1)]
    offers = ModelRegistry.of(paths, "cpu", LIMITS)
    assert [offer.name for offer in offers.offers] == [path.name for path in paths]
    assert [offer.ways for offer in offers.offers][:2] == [("AtoB", "BtoA"), ("AtoB",)]
    for number in range(len(paths)):
        offers.model(ModelChoice(number))
    assert len(offers.loaded) == KEPT
    there, back = (
        offers.model(ModelChoice(0, way)).restore(make_photo(1)[None]) for way in ("AtoB", "BtoA")
    )
    assert not np.array_equal(there, back)
    with pytest.raises(CheckpointError, match="no such file"):
        ModelRegistry.of([tmp_path / "none"], "cpu", LIMITS)


@pytest.mark.parametrize(
    ("color", "inputs", "outputs"), [("lab", 1, 2), ("rgb", 1, 1), ("rgb", 3, 1)]
)
def test_gray_and_lab_models_are_scored_on_what_they_take(
    color: str, inputs: int, outputs: int, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "m", color=color, inputs=inputs, outputs=outputs)
    offers, image = ModelRegistry.of([path], "cpu", LIMITS), make_photo(3, 47, 33)
    trial = offers.trial(ModelChoice(), image, image, TranslateSettings())
    gray = [bool((p == p[..., :1]).all()) for p in (trial.given, trial.made, trial.target)]
    assert gray == [inputs == 1, outputs == 1, outputs == 1]
    model = offers.model(ModelChoice())
    assert np.abs(trial.made.astype(int) - model.restore(image[None])[0]).max() <= 1
    assert np.array_equal(trial.given, as_taken(model.channel_layout, image))
    assert trial.nothing == scores(trial.target, trial.given)


def test_images_of_two_sizes_are_one_line() -> None:
    with pytest.raises(UsageError, match="40 x 32 and 20 x 16 pixels"):
        scores(make_photo(1, 20, 16), make_photo(1, 40, 32))


def test_limits_hold_before_anything_is_decoded(tmp_path: Path) -> None:
    offers = ModelRegistry.of([write_model(tmp_path / "m")], "cpu", LIMITS)
    with pytest.raises(Rejected, match="too-many-pixels"):
        offers.read(io.encode(make_photo(1, 400, 300), "png"))


def test_a_process_that_stays_home_connects_to_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = (
            "import socket\nfrom img2img_train.serve.request_guard import stay_home\nstay_home()\n"
            f"for host, port in (('127.0.0.1', {listener.getsockname()[1]}), ('example.com', 80)):\n"
            "    try: socket.create_connection((host, port), 5)\n"
            "    except PermissionError: print('kept')"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["kept", "kept"]


def rejected(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run the command in this process and return its one line."""
    with pytest.raises(SystemExit) as end:
        main(["serve", *map(str, words)])
    said = capsys.readouterr()
    assert (end.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err


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
        said = rejected(capsys, model, "--port", port)
        assert said.startswith(f"error: option '--port': {port} cannot be had")
    assert "-e '.[serve]'" in rejected(capsys, model, "--port", 0)
    assert "no such file" in rejected(capsys, tmp_path / "none", "--port", 0)


# ------------------------------------------------------------------------------------ in a browser
class Server:
    """A server in a process of its own, and where it keeps what is uploaded."""

    def __init__(self, folder: Path) -> None:
        self.models = [
            write_model(folder / "one" / "first"),
            write_model(folder / "two" / "both", way_back=True),
        ]
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        limits = ["--max-megapixels", LIMITS.pixels / 1e6, "--max-megabytes", LIMITS.bytes / 1e6]
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
        said = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        assert found, said
        self.url, self.port = found[0], int(found[1])

    def end(self) -> tuple[int, str]:
        """End it by SIGTERM; return its exit code and what it complained about."""
        self.process.send_signal(signal.SIGTERM)
        complaint = self.process.communicate(timeout=20)[1]
        return self.process.returncode, complaint


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio")
    started = Server(tmp_path_factory.mktemp("serve"))
    yield started
    code, complaint = started.end()
    assert (code, complaint.splitlines()[-1]) == (143, "the server has ended")
    # Every request passes the gate, and stands so in the traces of the libraries behind it.
    ours = [
        line for line in complaint.splitlines() if "img2img_train" in line and "gate.py" not in line
    ]
    assert not ours, f"no fault of this program:\n{complaint}"
    assert list(started.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip("no browser")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def window(browser: Any, server: Server) -> Iterator[Any]:
    """The page, which may ask nobody else for anything."""
    asked, faults = [], []
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#own-go")
    page.set_default_timeout(20_000)
    yield page
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert faults == []
    assert len(asked) > 10


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def upload(page: Any, name: str, path: Path) -> None:
    """Put a file into a box, in place of what is there."""
    box = page.locator(f"#{name}")
    if not box.locator("input[type=file]").count():
        box.get_by_label("Clear").click()
    box.locator("input[type=file]").set_input_files(path)


def rejection(page: Any) -> str:
    """Return the newest line of the errors in the page, and close them."""
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    said = str(toast.inner_text())
    page.get_by_test_id("toast-close").click()
    toast.wait_for(state="detached")
    return said


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "a photo.png"
    path.write_bytes(io.encode(make_photo(5, 70, 45), "png"))
    return path


def downloaded(page: Any) -> bytes:
    page.wait_for_function("document.querySelector('#own-said').innerText.includes('pixels in')")
    with page.expect_download() as download:
        page.locator("#own-download").click()
    assert download.value.suggested_filename == "a photo-restored.png"
    return Path(download.value.path()).read_bytes()


def test_a_image_becomes_what_translate_makes_of_it(
    window: Any, server: Server, image: Path
) -> None:
    tab(window, "Restore")
    upload(window, "own-image", image)
    settings = TranslateSettings()
    expected = translate_bytes(
        load_generator(server.models[0], "cpu"), image.read_bytes(), settings
    )
    assert downloaded(window) == expected.image
    assert window.locator("#own-slider img").count() == 2
    assert "first: 70 × 45 pixels" in window.locator("#own-said").inner_text()


def test_another_model_goes_both_ways(window: Any, server: Server, image: Path) -> None:
    tab(window, "Restore")
    upload(window, "own-image", image)
    downloaded(window)
    assert not window.locator("#way").is_visible()
    window.locator("#model").get_by_label("both").check()
    window.locator("#way").get_by_label("BtoA").check()
    window.locator("#own-go").click()
    window.wait_for_function("document.querySelector('#own-said').innerText.includes('both, BtoA')")
    model = load_generator(server.models[1], "cpu", "BtoA")
    assert (
        downloaded(window) == translate_bytes(model, image.read_bytes(), TranslateSettings()).image
    )
    window.locator("#model").get_by_label("first").check()
    window.locator("#way").wait_for(state="hidden")


def shown_scores(page: Any, name: str) -> list[list[str]]:
    page.locator(f"#{name} table").wait_for()
    rows = page.locator(f"#{name} tr").all()[1:]
    return [row.locator("td").all_inner_texts()[1:] for row in rows]


def expected_scores(given: np.ndarray, made: np.ndarray, target: np.ndarray) -> list[list[str]]:
    rows = []
    for metric in IMAGE_METRICS.values():
        numbers = [metric.compute(p, target) for p in (given, made)]
        gain = f"{metric.gain(numbers[1], numbers[0]):+.{metric.digits}f}"
        rows.append([*(f"{n:.{metric.digits}f}" for n in numbers), gain])
    return rows


def test_a_degraded_image_is_restored_and_scored(window: Any, server: Server, image: Path) -> None:
    tab(window, "Degrade, restore")
    upload(window, "clean-image", image)
    clean, model = io.read(image).pixels, load_generator(server.models[0], "cpu")
    window.locator("#degrade-scores table").wait_for()
    window.locator("#kind input").click()
    window.get_by_role("option", name="noise", exact=True).click()
    window.locator("#noise-sigma input[type=number]").fill("17")
    window.locator("#seed input").fill("3")
    window.locator("#degrade-go").click()
    window.wait_for_function(
        "document.querySelector('#degrade-scores').innerText.includes('sigma 17')"
    )
    noise = DEGRADATIONS["noise"](sigma=17)
    degraded = noise.apply(clean, **noise.draw(image_rng(3, b"a photo.png")))
    made = model.restore(degraded[None])[0]
    assert shown_scores(window, "degrade-scores") == expected_scores(degraded, made, clean)


def test_a_recipe_is_read_or_rejected_in_a_line(window: Any, image: Path) -> None:
    tab(window, "Degrade, restore")
    upload(window, "clean-image", image)
    window.locator("#degrade-scores table").wait_for()
    window.locator("#kind input").click()
    window.get_by_role("option", name="a recipe", exact=True).click()
    window.locator("#degrade-go").click()
    window.wait_for_function(
        "document.querySelector('#degrade-scores').innerText.includes('2.jpeg.quality')"
    )
    window.locator("#recipe .cm-content").fill("- gausian: {sigma: 3}")
    window.locator("#degrade-go").click()
    assert "did you mean 'gaussian'?" in rejection(window)


def test_every_setting_of_every_degradation_is_in_the_page(window: Any) -> None:
    listed = window.evaluate(
        "window.gradio_config.components.map((c) => [c.props.elem_id, c.type, c.props])"
    )
    components = {name: (kind, about) for name, kind, about in listed if name}
    for kind in NAMES:
        for control in all_controls()[kind]:
            what, about = components[f"{kind}-{control.name}"]
            if control.kind == "slider":
                assert (what, about["minimum"], about["maximum"]) == (
                    "slider",
                    control.low,
                    control.high,
                )


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
    window.locator("#pair-go").click()
    given, wanted = (io.read(path).pixels for path in (image, target))
    made = load_generator(server.models[0], "cpu").restore(given[None])[0]
    assert shown_scores(window, "pair-scores") == expected_scores(given, made, wanted)
    target.write_bytes(io.encode(make_photo(6, 40, 32), "png"))
    upload(window, "pair-target", target)
    window.wait_for_function(
        "document.querySelectorAll('#pair-input a, #pair-target a').length == 2"
    )
    window.locator("#pair-go").click()
    assert "70 x 45 and 40 x 32 pixels" in rejection(window)
    assert window.locator("#pair-scores table").count() == 0


def test_what_cannot_be_read_is_rejected_in_a_line(
    window: Any, image: Path, tmp_path: Path
) -> None:
    tab(window, "Restore")
    whole = image.read_bytes()
    large = io.encode(make_photo(1, 400, 300), "jpg")
    files = {
        "cut.png": (whole[: len(whole) // 2], "truncated: the data end before the image does"),
        "<img src=x>.png": (b"no image", "not-an-image"),
        "wide.jpg": (
            large,
            "too-many-pixels: more pixels, or a longer side, than the limit (400 x 300)",
        ),
        "heavy.png": (whole + bytes(LIMITS.bytes), "maximum allowed size"),
    }
    for name, (data, reason) in files.items():
        (tmp_path / name).write_bytes(data)
        upload(window, "own-image", tmp_path / name)
        assert reason in rejection(window)
        assert "pixels in" not in window.locator("#own-said").inner_text()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_follows_the_light(window: Any, width: int, scheme: str) -> None:
    window.set_viewport_size({"width": width, "height": 800})
    window.emulate_media(color_scheme=scheme)
    window.reload()
    window.wait_for_selector("#own-go")
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
        with urllib.request.urlopen(request, timeout=10) as answer:
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
      const own = components.find((c) => c.props.elem_id == "own-image").id;
      const job = dependencies.find((d) => d.inputs[0] == own && d.inputs.length == 7);
      const data = [{path, meta: {_type: "gradio.FileData"}}, 0, "AtoB", "saved", "saved", 512, 128];
      const session_hash = "test" + Math.random();
      const body = JSON.stringify({data, fn_index: job.id, session_hash});
      const headers = {"Content-Type": "application/json"};
      await fetch("/gradio_api/queue/join", {method: "POST", headers, body});
      return await (await fetch("/gradio_api/queue/data?session_hash=" + session_hash)).text();
    }"""
    for path in (str(secret), "/etc/passwd", f"http://127.0.0.1:{server.port}/favicon.ico"):
        said = window.evaluate(ask, [path])
        assert '"success":false' in said, said
    copies = [p for p in server.temporary.rglob("*") if p.is_file()]
    assert not [p for p in copies if p.read_bytes() == secret.read_bytes()]
