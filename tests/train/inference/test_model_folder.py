"""An exported folder is the model of its run, for this program and without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import tree
from conftest import make_photo
from PIL import Image
from small_corpus import EVIL, write_corpus

torch = pytest.importorskip("torch")
for module in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(module)

import onnx  # noqa: E402
from small_runs import command  # noqa: E402

import img2img_train as train  # noqa: E402
from img2img_train.runs.checkpoint import read_checkpoint  # noqa: E402
from img2img_train.runs.model import load_generator  # noqa: E402
from img2img_train.serve.models import ModelEntry  # noqa: E402

SMALL = ["--width", "2", "--batch", "2", "--max-steps", "2", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a corpus, a scored run with EMA, and its model folder, model.v1."""
    root = tmp_path_factory.mktemp("models")
    recipe = {"command": "blur", "kind": EVIL, "license": "cc0-1.0"}
    info = {"recipe": recipe, "counts": {"kept": {"train": 4, "test": 3}}}
    write_corpus(root / "corpus", {"train": 4, "test": 3}, info=info)
    assert command(root / "corpus", *SMALL, "--crop", 24, "--out", root / "run") == 0
    assert command("export", root / "run", f"{root / 'model.v1'}/", "--license", "mit") == 0
    return root


def test_the_folder_is_the_model_of_the_run(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, image = root / "model.v1", make_photo(1, 21, 17)
    outputs = [train.load(root / name, device="cpu")(image) for name in ("run", "model.v1")]
    assert np.array_equal(*outputs)
    names = read_checkpoint(folder / "model.safetensors").tensors
    ema = read_checkpoint(root / "run" / "checkpoints" / "latest.safetensors").tensors_under("ema/")
    assert {n.removeprefix("network/") for n in names} == {*ema}
    page = json.loads((folder / "config.json").read_text())
    generator = load_generator(folder, "cpu")
    assert page["network"] == generator.spec.model_dump()
    assert page["parameters"] == sum(p.numel() for p in generator.generator.parameters())
    assert command("evaluate", folder, "--on", root / "corpus", "--out", tmp_path / "scores") == 0
    Image.fromarray(image).save(tmp_path / "photo.png")
    assert command("translate", folder, tmp_path / "photo.png", tmp_path / "out.png") == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), outputs[0])
    assert command(root / "corpus", *SMALL[2:], "--init", folder, "--out", tmp_path / "run") == 0
    assert ModelEntry.read(folder, "name").checkpoint == folder / "model.safetensors"


def test_the_card_shows_the_scores_and_the_images_of_the_run(root: Path) -> None:
    folder = root / "model.v1"
    card = (folder / "README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pipeline_tag"] == "image-to-image"
    assert (head["library_name"], head["license"]) == ("img2img", "mit")
    (saved,) = (json.loads(p.read_bytes()) for p in (root / "run" / "evaluation").glob("*.json"))
    baselines = [baseline["scores"] for baseline in saved["baselines"].values()]
    psnr = [saved["scores"], saved["input_scores"], *baselines]
    assert f"| PSNR (dB) | {' | '.join(format(s['psnr'], '.2f') for s in psnr)} |" in card
    assert "\n| SSIM | " in card
    assert card.count("restor") == bool(baselines)  # a model may do something else
    assert "It was trained on crops of 24 x 24 pixels." in card
    assert "License of the images: cc0-1.0." in card
    assert "| width | 2 |" in card
    assert "](examples.png)" in card
    assert Image.open(folder / "examples.png").size == (3 * 40, 3 * 40)


def test_the_script_needs_three_packages(root: Path, tmp_path: Path) -> None:
    for name in ("numpy", "onnxruntime", "PIL"):
        package = Path(str(find_spec(name).origin)).parent
        for path in package.parent.glob(f"{'pillow' if name == 'PIL' else name}.libs"):
            (tmp_path / path.name).symlink_to(path)
        (tmp_path / name).symlink_to(package)
    image = make_photo(1, 21, 17)
    Image.fromarray(image).save(tmp_path / "in.png")
    script = root / "model.v1" / "usage.py"
    assert len([*filter(str.strip, script.read_text().partition('"""\n\n')[2].splitlines())]) == 13
    start = "import runpy, sys; del sys.argv[0]; sys.path.append(sys.argv.pop(0)); "
    start += "runpy.run_path(sys.argv[0])"
    words = [tmp_path, script, tmp_path / "in.png", tmp_path / "out.png"]
    subprocess.run([sys.executable, "-I", "-S", "-c", start, *words], check=True)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("Run the model: python usage.py IMAGE OUT.png")
    bare = [sys.executable, "-I", "-S", script, *words[2:]]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    hint = "install what it needs: pip install onnxruntime numpy pillow\n"
    assert (done.returncode, done.stderr) == (1, f"No module named 'numpy'; {hint}")
    output = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    assert np.abs(output - train.load(root / "run", device="cpu")(image)).max() <= 1
    about = {p.key: p.value for p in onnx.load(script.with_name("model.onnx")).metadata_props}
    assert about["input"] == about["output"] == "uint8 RGB, N x H x W x 3"


@pytest.mark.parametrize(("name", "value"), [("gallery", []), ("gain", 1), ("protocol", {})])
def test_a_damaged_evaluation_is_one_line(
    name: str, value: object, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(root / "run", run)
    (path,) = (run / "evaluation").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    assert command("export", run, tmp_path / "model") == 2
    assert "likely in its folder evaluation, is damaged" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_second_export_gives_the_same_bytes_and_other_folders_are_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, before = root / "model.v1", tree(root / "model.v1")
    (folder / "notes.txt").write_text("mine" * 1_000_000)
    assert command("export", root / "run", folder, "--license", "mit") == 0
    (folder / "notes.txt").unlink()
    assert tree(folder) == before
    output = capsys.readouterr()
    assert f"note: replaced the earlier '{folder}'\n" in output.err
    assert f"'{folder}': 0.1 MB, ONNX differs" in output.out, "files of others do not count"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    for name in (tmp_path / "photos", root / "run"):
        assert command("export", root / "run", name) == 2
        assert "holds other files" in capsys.readouterr().err
    # The format of the run's file is another one.
    for words in (["report", folder], [root / "corpus", *SMALL, "--out", folder]):
        assert command(*words) in (1, 2)
        assert "is from an exported model, not a run" in capsys.readouterr().err
    assert tree(folder).keys() - {".lock"} == before.keys()
    # Without the extra, a copy that had ONNX loses it.
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.onnx"):
        os.link(folder / name, tmp_path / "bare" / name)
    assert command("export", root / "run", tmp_path / "bare") == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("without model.onnx and usage.py" in n and "img2img[export]" in n for n in lines)
    assert not {"model.onnx", "usage.py"} & tree(tmp_path / "bare").keys()
    # A bare file has no run, so no scores and no images.
    capsys.readouterr()
    assert command("export", folder / "model.safetensors", tmp_path / "again") == 0
    assert "replaced" not in capsys.readouterr().err
    assert {*tree(tmp_path / "again")} == {"README.md", "config.json", "model.safetensors"}
    assert "This model was not scored." in (tmp_path / "again" / "README.md").read_text()


def test_damaged_and_unsafe_files_are_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, folder = (root / "model.v1" / "model.safetensors").read_bytes(), tmp_path / "m"
    folder.mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle")
    pickle, flipped = (tmp_path / "pickle").read_bytes(), bytearray(whole)
    flipped[-1] ^= 1
    for damaged in (b"", whole[:-1], flipped, pickle):
        (folder / "model.safetensors").write_bytes(damaged)
        assert command("translate", folder, root / "corpus", tmp_path / "out") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: checkpoint")
