"""The same fault ends every command of both programs with the same code, in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import write_photos

from img2img_data.cli import main as data_cli
from img2img_data.core.command_line import run_command_line

pytest.importorskip("torch")

from img2img_train.cli import main as train_cli

GROUPS = {"img2img-data": data_cli, "img2img-train": train_cli}
COMMANDS = [
    f"{program} {command}"
    for program, cli in GROUPS.items()
    for commands in cli.SECTIONS.values()
    for command in commands
]
WITHOUT_PATHS = {
    *("img2img-data sample", "img2img-data schema", "img2img-data degradations"),
    *("img2img-train schema", "img2img-train compat"),
}
MISSING = {
    "img2img-data degrade": "nowhere out --kind noise",
    "img2img-data combine": "nowhere nowhere out",
    "img2img-data unpaired": "nowhere nowhere out",
    "img2img-data build": "nowhere.yaml",
    "img2img-data recipes": "nowhere.yaml",
    "img2img-data show": "nowhere",
    "img2img-data verify": "nowhere",
    "img2img-data replay": "nowhere key",
    "img2img-data export": "nowhere out --format hf",
    "img2img-train fit": "nowhere",
    "img2img-train resume": "nowhere",
    "img2img-train report": "nowhere",
    "img2img-train evaluate": "nowhere --on nowhere",
    "img2img-train translate": "nowhere nowhere out",
    "img2img-train serve": "nowhere --port 0",
    "img2img-train export": "nowhere out.onnx",
}
"""What a command is given where nothing exists; the others get ``nowhere out``."""
DAMAGED = {
    "img2img-data show": "c",
    "img2img-data verify": "c",
    "img2img-data export": "c out --format hf",
    "img2img-data pack": "c out",
    "img2img-train fit": "c --out out",
}


def run(command: str, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code of a command in this process, and its one line about an error."""
    program, *name = command.split()
    code = run_command_line(GROUPS[program].group, [*name, *words], program)
    (line,) = capsys.readouterr().err.splitlines()
    return code, line


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in WITHOUT_PATHS])
def test_a_path_that_does_not_exist_is_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = run(command, MISSING.get(command, "nowhere out").split(), capsys)
    assert (code, "nowhere" in line) == (2, True), line
    assert re.search(r"no such|does not exist|has no config.json", line, re.IGNORECASE), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in WITHOUT_PATHS])
def test_links_in_a_circle_are_an_error_about_the_path(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nowhere").symlink_to("there")
    (tmp_path / "there").symlink_to("nowhere")
    code, line = run(command, MISSING.get(command, "nowhere out").split(), capsys)
    assert code in {1, 2}, line
    assert "'nowhere" in line
    assert "internal error" not in line


@pytest.mark.parametrize("command", DAMAGED)
def test_a_damaged_corpus_is_1(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "corpus.json").write_text("{")
    code, line = run(command, DAMAGED[command].split(), capsys)
    assert (code, "is damaged" in line) == (1, True), line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_command_or_option_is_2_and_the_nearest_is_named(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    program, name = command.split()
    code, line = run(program, [name[0] + name, "x", "y"], capsys)
    assert (code, f"did you mean '{name}'?" in line) == (2, True), line
    if name not in {"compat", "schema"}:  # these pass on, or have no options
        code, line = run(command, ["--no-such-option"], capsys)
        assert (code, line.startswith("error: no such option")) == (2, True), line


@pytest.mark.parametrize(
    "words",
    ["translate X images out", "translate X missing out", "evaluate X --on r", "export X o.onnx"],
)
def test_what_is_not_a_model_is_named_with_the_right_order(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images, a corpus, a run that has not trained or another project, before all else is read."""
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "images", 2)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "corpus.json").write_text("{}")
    for file in ("r/config.json", "r/timing.jsonl", "other/config.json"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    order = "give a run, a checkpoint or an exported model; images and corpora come after it"
    for name, line in {
        "images": f"model 'images': is a folder without a checkpoint; {order}",
        "c": f"model 'c': is a corpus; {order}",
        "r": "run 'r': has no checkpoint yet; resume it first",
        # Another project, or an exported model that lost its weights, cannot be resumed.
        "other": f"model 'other': is a folder without a checkpoint; {order}",
    }.items():
        command, *rest = words.replace("X", name).split()
        assert run(f"img2img-train {command}", rest, capsys) == (2, f"error: {line}")


def test_an_option_that_lacks_a_value_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, line = run("img2img-train evaluate", ["run", "--lpips", "a"], capsys)
    assert (code, line) == (2, "error: option '--lpips' requires 2 arguments; see --help")


WITHOUT_TORCH = """
import sys
from importlib.abc import MetaPathFinder
class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name=name)
sys.meta_path.insert(0, Finder())
from img2img_train.cli.main import main
main()
"""


def test_a_missing_extra_is_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_photos(tmp_path / "c/trainA", 1)
    write_photos(tmp_path / "c/trainB", 1)
    # A wrong path is found before torch is imported, which takes a second.
    for corpus, word in {"c": "torch", "missing": "no such folder"}.items():
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, "fit", tmp_path / corpus, "--loss", "cyclegan"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert word in done.stderr
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    code, line = run("img2img-data sample", ["out"], capsys)
    assert (code, "pip install 'img2img[demo]'" in line) == (2, True), line


WRONG_WORDS = {
    "img2img-train fit c --loss pixpix": "pix2pix",
    "img2img-train fit c --net unett": "unet",
    "img2img-train fit c --loss pix2pix --discriminator pach-70": "patch-70",
    "img2img-train fit c --degrade gausian": "gaussian",
    "img2img-train fit c --degrade mxied": "mixed",
    "img2img-train fit --recipe dmeo": "demo",
    "img2img-train fit c --device cupa": "cuda",
    "img2img-train evaluate r --on c --metrics psnrr": "psnr",
    "img2img-train evaluate r --on c --fail-under psn=3": "psnr",
    "img2img-train adopt x y --direction AtB": "AtoB",
    "img2img-data blur a b --kind gausian": "gaussian",
    "img2img-data blur a b --fit cropp": "crop",
    "img2img-data combine a b c --match stm": "stem",
    "img2img-data import a b --format pix2pixx": "pix2pix",
    "img2img-data export c b --format hff": "hf",
    "img2img-data degradations gausian": "gaussian",
    "img2img-data build dmeo": "demo",
    "img2img-data schema blurr": "blur",
}


@pytest.mark.parametrize("words", WRONG_WORDS)
def test_the_word_nearest_to_a_mistyped_one_is_named(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, command, *rest = words.split()
    code, line = run(f"{program} {command}", rest, capsys)
    assert (code, f"did you mean '{WRONG_WORDS[words]}'?" in line) == (2, True), line
