"""Imports between rooms run one way, and slow imports stay off the way to ``--help``."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Each room imports only rooms listed before it. A new room needs an entry, a new file does not.
ROOMS = {
    "img2img_data": (
        "core", "images", "degradations", "sources", "corpus", "similarity", "runner", "builds",
        "exchange", "inspect", "cli",
    ),
    "img2img_train": (
        "distributed", "optim", "networks", "objectives", "config", "data", "runs", "metrics",
        "report", "evaluation", "inference", "interop", "training", "serve", "cli",
    ),
}  # fmt: skip
SHARED = {"core", "images", "degradations", "corpus"}  # what training imports of img2img_data


def modules() -> dict[str, Path]:
    paths = (p for package in ROOMS for p in (ROOT / package).rglob("*.py"))
    return {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted(paths)}


MODULES = modules()


@cache
def imported(path: Path) -> list[str]:
    """Return every module of ours that a file imports, inside functions and TYPE_CHECKING too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if name in MODULES else node.module for name in names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def check_import(importer: str, module: str) -> str | None:
    """Return what is wrong with one module importing another, None if nothing is."""
    package, room = importer.split(".")[:2]
    other_package, _, rest = module.partition(".")
    if other_package not in ROOMS or not rest:
        return None
    other = rest.split(".")[0]
    if package != other_package:
        return None if package == "img2img_train" and other in SHARED else "imports another package"
    order = ROOMS[package]
    if room in order and other in order and order.index(other) > order.index(room):
        return f"imports {other}, which stands above {room}"
    return None


@pytest.mark.parametrize("importer", MODULES)
def test_rooms_import_only_what_stands_below(importer: str) -> None:
    for module in imported(MODULES[importer]):
        wrong = check_import(importer, module)
        assert wrong is None, f"{importer} -> {module}: {wrong}"


def test_every_module_is_in_a_room() -> None:
    for name in MODULES:
        package, room, *rest = name.split(".")
        assert rest or room in {"__init__", "__main__", "config"}, f"{name} is outside the rooms"
        assert room in {*ROOMS[package], "__init__", "__main__"}, f"{room} is not in ROOMS"


def test_an_import_upwards_is_named() -> None:
    assert check_import("img2img_data.images.io", "img2img_data.runner.run")
    assert check_import("img2img_data.cli.main", "img2img_train.cli.main")
    assert check_import("img2img_train.data.loader", "img2img_data.runner.run")
    assert check_import("img2img_data.runner.run", "img2img_data.images.io") is None
    assert check_import("img2img_train.data.loader", "img2img_data.images.io") is None


def loaded(*argv: str) -> set[str]:
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("module", ["img2img_data", "img2img_train"])
def test_help_loads_nothing_slow(module: str) -> None:
    slow = {"torch", "cv2", "albumentations", "scipy", "joblib", "numpy", "pydantic", "rich"}
    assert not loaded(module, "--help") & slow


def test_data_never_loads_torch(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "torch" not in loaded("img2img_data", "blur", str(photos), str(out), "--jobs", "1")
    assert (out / "corpus.json").is_file()
