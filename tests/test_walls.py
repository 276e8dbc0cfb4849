"""Arrows run one way, and what is slow to import stays off the way to --help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOORS = {"corpus", "images", "degradations", "fields", "errors", "trees", "yamlfile"}
DATA_LEVELS = [
    {"errors"},
    {"fields", "rows", "yamlfile"},
    {"framing", "matfile", "orientation", "png", "profiles", "archives"},
    {"headers"},
    {"samples"},
    {"images", "strengths", "kernels"},
    {"spoil"},
    {"blurs", "scaling", "noises", "codecs", "tones", "catalogue"},
    {"composites"},
    {"degradations"},
    {"trees"},
    {"corpus", "alignment", "tags", "sources", "layouts"},
    {"splits", "fingerprints"},
    {"outcome", "filters", "matching", "pairings", "settings", "duplicates"},
    {"histogram"},
    {"plan", "folder", "workers", "survey", "sample", "audit", "verify", "sheet"},
    {"manifests", "show", "leaks"},
    {"cluster"},
    {"engine"},
    {"build", "selection", "packing"},
    {"unpacking", "resizing", "exports", "exporting", "replay"},
    {"steps", "merge"},
    {"recipe", "progress"},
    {"schema"},
    {"commands"},
    {"cli"},
]
TRAIN_LEVELS = [
    {
        "display",
        "ema",
        "gate",
        "interrupts",
        "intervals",
        "layers",
        "metrics",
        "options",
        "planes",
        "frechet",
        "inception",
        "lpips",
        "memory",
        "ranks",
        "schedule",
        "tiles",
        "slices",
        "videos",
        "watching",
        "weights",
        "windows",
    },
    {"listing"},
    {"networks", "generators", "discriminators", "pool"},
    {"adversarial"},
    {"colours", "objectives", "sheets"},
    {"compiling", "config", "parts"},
    {"checkpoints", "online"},
    {"kinds", "sizes"},
    {"pictures"},
    {"kept"},
    {"batches"},
    {"run", "meters"},
    {"finished"},
    {"album", "learned", "prepare", "report"},
    {"scoring"},
    {"findings", "gallery", "looking", "results"},
    {"experiments"},
    {"state", "validation"},
    {"step"},
    {"training"},
    {"theirs"},
    {"compat", "evaluate", "export", "translate", "loop", "reproduce"},
    {"controls", "offers"},
    {"panel"},
    {"serve"},
    {"commands", "fitting"},
    {"cli"},
]


def imports_of(path: Path) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("img2img"):
            found |= (
                {f"{node.module}.{a.name}" for a in node.names} if "." not in node.module else {node.module}
            )
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("img2img")}
    return found


def level(name: str, levels: list[set[str]] = DATA_LEVELS) -> int:
    return next(i for i, members in enumerate(levels) if name in members)


@pytest.mark.parametrize("path", sorted((ROOT / "img2img_data").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_data_imports_only_from_below_and_never_train(path: Path) -> None:
    for name in imports_of(path):
        package, _, module = name.partition(".")
        assert package == "img2img_data"
        assert level(module.split(".")[0]) <= level(path.stem), f"{path.stem} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "img2img_train").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_train_imports_only_the_doors_of_data(path: Path) -> None:
    used = {n.split(".")[1] for n in imports_of(path) if n.startswith("img2img_data.")}
    assert used <= DOORS
    inner = {n.split(".")[1] for n in imports_of(path) if n.startswith("img2img_train.")}
    assert all(level(n, TRAIN_LEVELS) <= level(path.stem, TRAIN_LEVELS) for n in inner), (
        f"{path.stem}: {inner}"
    )


def loaded(*argv: str) -> set[str]:
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("module", ["img2img_data.cli", "img2img_train.cli"])
def test_help_loads_nothing_slow(module: str) -> None:
    slow = {"torch", "cv2", "albumentations", "scipy", "joblib", "numpy", "pydantic", "rich"}
    assert not loaded(module, "--help") & slow


def test_data_never_loads_torch(photos: Path, tmp_path: Path) -> None:
    assert not loaded("img2img_data.cli", "blur", str(photos), str(tmp_path / "out"), "--jobs", "1") & {
        "torch"
    }
    assert (tmp_path / "out" / "corpus.json").is_file()
