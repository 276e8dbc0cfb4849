"""The files in examples/ run, at a tiny size."""

from __future__ import annotations

import ast
import json
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import write_photos
from PIL import Image, ImageOps

import img2img_data as data
import img2img_train as train

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS: dict[str, dict[str, Any]] = {
    "deblur_your_photos": {"SIZE": 16, "EPOCHS": 1, "WIDTH": 4},
    "sketch_to_photo": {
        "SKETCHES": "sketches",
        "PHOTOS": "photos",
        "MATCH": "stem",
        "SIZE": 16,
        "EPOCHS": 1,
        "SETTINGS": {
            "net": "unet",
            "width": 4,
            "discriminator": "patch-16",
            "d_width": 4,
            "batch": 4,
        },
    },
}
SCRIPTS = {"own_training_loop", "onnx_in_ten_lines"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with photos/ and sketches/ of equal names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sketches").mkdir()
    for path in sorted(write_photos(tmp_path / "photos", 24).iterdir()):
        ImageOps.grayscale(Image.open(path)).save(tmp_path / "sketches" / f"{path.stem}.png")
    return tmp_path


def execute(source: str, names: dict[str, Any]) -> str:
    """Run a cell; return what a notebook would show of its last line."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        exec(source, names)
        return ""
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return str(value._repr_html_() if hasattr(value, "_repr_html_") else repr(value))


def test_all_examples_are_run() -> None:
    assert {path.stem for path in EXAMPLES.iterdir() if path.is_file()} == {*NOTEBOOKS, *SCRIPTS}


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.usefixtures("one_thread")
def test_a_notebook_runs_and_shows_its_results(name: str, folder: Path) -> None:
    page = json.loads((EXAMPLES / f"{name}.ipynb").read_text("utf-8"))
    names: dict[str, Any] = {}
    shown = []
    for cell in page["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert (cell["outputs"], cell["execution_count"]) == ([], None), "stored without outputs"
        source = "".join(cell["source"])
        shown.append(execute(source, names))
        # By the convention of papermill: values of a cell tagged "parameters" may be replaced.
        if "parameters" in cell["metadata"].get("tags", []):
            assert NOTEBOOKS[name].keys() <= names.keys()
            names |= NOTEBOOKS[name]
    text = "\n".join(shown)
    assert "<td>train</td>" in text
    assert text.count("data:image/png;base64,") == 2
    assert "is finished" in text
    assert "gain" in text
    assert "PIL.Image" in text


def run_script(name: str, *arguments: object) -> str:
    """Run a script in this process, which has loaded torch already; return what it prints."""
    path, output = EXAMPLES / f"{name}.py", StringIO()
    with redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
    return output.getvalue()


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_without_arguments_says_how_it_is_used(name: str) -> None:
    if name.startswith("onnx"):
        pytest.importorskip("onnxruntime")
    with pytest.raises(SystemExit, match=f"python examples/{name}.py "):
        run_script(name)


def test_a_training_loop_of_ones_own_learns(folder: Path) -> None:
    data.build("blur", "photos", "c", sigma=1.5, size=24, split="train=0.8,test=0.2", jobs=1)
    output = run_script("own_training_loop", "c", 4)
    gain = output.splitlines()[-1].removeprefix("PSNR ").split(" dB, input ")
    assert float(gain[0]) > float(gain[1].split(",")[0]), output


@pytest.mark.slow
def test_a_model_runs_in_ten_lines_of_onnx_runtime(folder: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    from img2img_train.inference.onnx_export import export_onnx

    data.build("blur", "photos", "c", sigma=1.5, size=24, jobs=1)
    model = train.load(train.fit("c", "run", net="unet", width=4, epochs=1, threads=1), "cpu")
    export_onnx(model.loaded, Path("m.onnx"), 18)
    run_script("onnx_in_ten_lines", "m.onnx", "photos/000.jpg", "restored.png")
    restored, expected = Image.open("restored.png"), model(Image.open("photos/000.jpg"))
    differences = [abs(a - b) for a, b in zip(restored.tobytes(), expected.tobytes(), strict=True)]
    assert max(differences) <= 1
    lines = (EXAMPLES / "onnx_in_ten_lines.py").read_text().partition('"""\n\n')[2].splitlines()
    assert len([line for line in lines if line]) <= 10
