"""Extras, the hints that name them, and the Python that ``make`` takes."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_rooms import MODULES, ROOT, imported

from img2img_data.core.errors import install_hint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"dev", "docs"}


def test_all_is_every_extra_for_users() -> None:
    (entry,) = EXTRAS["all"]
    assert entry.startswith("img2img[")
    named = entry.removeprefix("img2img[").removesuffix("]").split(",")
    assert sorted(named) == sorted(EXTRAS.keys() - FOR_DEVELOPERS - {"all"})


def test_hints_name_extras_that_exist() -> None:
    assert install_hint("train") == "pip install 'img2img[train]'"
    named = set()
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                place = {"load_extra": 1, "missing_extra": 1, "install_hint": 0}.get(name)
                argument = node.args[place] if place is not None else None
                named |= {argument.value} if isinstance(argument, ast.Constant) else set()
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert "pip install -" not in node.value, path  # one function writes them
    assert named >= {"train", "demo", "export"}
    assert named <= EXTRAS.keys()


def test_img2img_data_imports_what_its_environment_has() -> None:
    base = {"click", "cv2", "deflate", "jinja2", "joblib", "numpy", "PIL", "pydantic"}
    base |= {"pydantic_core", "rich", "simplejpeg", "yaml", "img2img_data"}
    allowed = {"lmdb": "exchange.export", "distributed": "dask_cluster", "scipy": "mat_file"}
    for name, path in MODULES.items():
        if name.startswith("img2img_data."):
            found = {module.partition(".")[0] for module in imported(path)}
            for module in found - base - sys.stdlib_module_names:
                assert name.endswith(allowed.get(module, "?")), f"{name} imports {module}"


def test_the_oldest_versions_are_those_of_the_project() -> None:
    """So that a test of constraints-oldest.txt is one of what pyproject.toml allows."""
    used = [extra for name, extra in EXTRAS.items() if name not in {"all", "dev", "docs"}]
    oldest = dict[str, str]()
    for requirement in [*PROJECT["dependencies"], *(text for extra in used for text in extra)]:
        name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<[\d.]+)?", requirement).groups()
        assert oldest.setdefault(name, version) == version
    lines = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pinned.keys() == oldest.keys()
    for name, version in pinned.items():
        assert f"{version}.".startswith(f"{oldest[name]}."), name


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("python", ["old", "missing"])
def test_make_says_in_one_line_that_python_is_too_old(tmp_path: Path, python: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho False\n")
    old.chmod(0o755)
    # Under `make test` this make would be a part of that one, and say which folder it enters.
    outer = ("MAKE", "PYTHON", "CONSTRAINTS")
    own = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
    for target in ("demo", "test"):
        command = ["make", target, f"PYTHON={tmp_path / python}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=own, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert "Python 3.11 or later" in done.stderr
    assert not (tmp_path / ".venv").exists()
