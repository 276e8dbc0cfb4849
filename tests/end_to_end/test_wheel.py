"""The wheel as others get it: built from the source archive, used outside of the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("img2img_data", "img2img_train")
BUILD = "from setuptools import build_meta; build_meta.build_sdist('dist')"
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info")


def run(*command: object, cwd: Path) -> str:
    """Run a command without anything that leads into the repository; return its output."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    # A copy, because a build leaves files beside the sources.
    for name in (*PACKAGES, "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=IGNORED)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", BUILD, cwd=source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "-w", source / "dist", archive, cwd=source)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        about = next(name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = archive.read(about).decode()
    files = [p for package in PACKAGES for p in (ROOT / package).rglob("*") if p.is_file()]
    expected = {
        path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts
    }
    recipes = {f"img2img_data/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    assert names == expected | recipes
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    needed = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra ==)", metadata, re.MULTILINE)
    assert not {"scipy", "torch", "albumentations"} & set(needed)
    # A page of the package has no other files of the repository.
    text = metadata.partition("\n\n")[2]
    assert text.startswith("# img2img")
    assert not re.findall(r'(?:\]\(|src="|href=")(?!https?://|#|mailto:)[^)"]*', text)


@pytest.mark.slow
def test_the_commands_of_a_wheel_work_by_name(wheel: Path, tmp_path: Path) -> None:
    environment, here = tmp_path / "environment", tmp_path / "elsewhere"
    here.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=here)
    paths = sysconfig.get_paths("venv", {"base": str(environment), "platbase": str(environment)})
    python = next(Path(paths["scripts"]).glob("python*"))
    pip = (sys.executable, "-m", "pip", "--python", python)
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=here)
    # The other packages are those of this environment; the wheel comes before them.
    Path(paths["purelib"], "others.pth").write_text(sysconfig.get_path("purelib"))
    data, train = (Path(paths["scripts"]) / name for name in ("img2img-data", "img2img-train"))
    where = run(python, "-c", "import img2img_data; print(img2img_data.__file__)", cwd=here)
    assert where.startswith(str(environment))

    listed = run(data, "recipes", cwd=here)
    assert all(path.stem in listed.split() for path in (ROOT / "recipes").glob("*.yaml"))
    pytest.importorskip("skimage")
    run(data, "sample", "demo/photos", cwd=here)
    run(data, "build", "demo", "--smoke", "--jobs", 1, cwd=here)
    degrade = ("degrade", "demo/photos", "mixed", "--recipe", "mixed", "--size", 32, "--jobs", 1)
    run(data, *degrade, cwd=here)
    steps = ("--degrade", "camera", "--max-steps", 3, "--threads", 1, "--limit", 24, "--no-report")
    run(train, "--recipe", "demo", "--smoke", *steps, "--device", "cpu", cwd=here)
    model = "demo/run-smoke"
    score = ("--on", "mixed", "--split", "train", "--baselines", "none", "--out", "scores")
    run(train, "evaluate", model, *score, "--metrics", "psnr", cwd=here)
    assert (here / "scores" / "matrix.json").is_file()
    run(train, "translate", model, "mixed/train/input", "restored", cwd=here)
    assert len(list((here / "restored").glob("*.png"))) == len(
        list((here / "demo/photos").iterdir())
    )
    pytest.importorskip("onnxscript")
    assert "of 255 levels" in run(train, "export", model, "model.onnx", cwd=here)
