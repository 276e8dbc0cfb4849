"""The examples of CONTRIBUTING.md, applied to a copy of the repository, pass the laws."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_rooms import ROOT

BLOCK = re.compile(
    r"<!-- (append|add|import) (?:to|into) (.+?) -->\n```python\n(.*?)```", re.DOTALL
)
COPIED = (
    "img2img_data",
    "img2img_train",
    "tests",
    "recipes",
    "tools",
    "experiments",
    "pyproject.toml",
)
LAWS = {
    "vignette": [
        "tests/data/degradations",
        "tests/data/builds/test_replay.py",
        "tests/data/images/test_depth.py",
        "tests/end_to_end/test_from_python.py",
        "tests/train/data/test_on_the_fly.py",
        "tests/train/serve/test_serve.py",
    ],
    "huber": ["tests/train/objectives", "tests/train/training/test_resume_objectives.py"],
    "srcnn": ["tests/train/networks"],
    "rmse": ["tests/train/metrics"],
    "bilateral": ["tests/train/evaluation/test_baselines.py"],
    "mirror": ["tests/data/builds/test_pairings.py"],
    "image-list": ["tests/data/sources"],
}


def apply(action: str, place: str, code: str, root: Path) -> None:
    """Edit a copy as an example says: a class at the end, a row in a registry, an import on top."""
    name, _, file = place.rpartition(" in ")
    path = root / file
    text = path.read_text("utf-8")
    if action == "append":
        # Before the registry, if it is in the same file: its rows name the class.
        at = re.search(r"^[A-Z_]+: Final\[dict", text, re.MULTILINE)
        cut = at.start() if at else len(text)
        text = f"{text[:cut].rstrip()}\n\n\n{code}\n\n{text[cut:]}".rstrip() + "\n"
    elif action == "add":
        start = re.search(rf"^{name}: [^=]+= ?(?:\w+)?[{{\[]$", text, re.MULTILINE)
        assert start, f"{place} has no {name}"
        text = f"{text[: start.end()]}\n{code.rstrip()}{text[start.end() :]}"
    else:
        text = text.replace("\n\nfrom img2img", f"\n\n{code}from img2img", 1)
    path.write_text(text, "utf-8")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(blocks) >= 2 * len(LAWS)
    for block in blocks:
        apply(*block, root)
    return root


def run_in(copy: Path, *arguments: str, fails: bool = False) -> str:
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stdout[-3000:] + done.stderr[-1000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def passed(copy: Path) -> list[str]:
    """Return the names of the tests that passed, of those that the examples select and the rooms.

    One process for all of them: most of the time of each would be that of the imports.
    """
    files = dict.fromkeys(file for files in LAWS.values() for file in files)
    names = " or ".join([*LAWS, "test_rooms"])
    options = "-vv", "-p", "no:cacheprovider", "-k", names
    ran = run_in(copy, "pytest", *options, *files, "tests/house/test_rooms.py")
    return re.findall(r"^(\S+::.+) PASSED", ran, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("member", LAWS)
def test_the_laws_pick_up_a_new_member(member: str, passed: list[str]) -> None:
    laws = [name for name in passed if name.startswith(tuple(LAWS[member])) and member in name]
    assert laws, "no law was run"
    assert [name for name in laws if member not in name.partition("[")[2]] == []


@pytest.mark.slow
def test_the_examples_pass_lint(copy: Path) -> None:
    run_in(copy, "ruff", "check", "--no-cache", ".")
    run_in(copy, "ruff", "format", "--no-cache", "--check", ".")


@pytest.mark.slow
def test_new_members_break_no_test_of_the_house(passed: list[str]) -> None:
    assert [name for name in passed if "test_rooms_import_only" in name]


@pytest.mark.slow
def test_a_new_objective_has_an_option_of_its_own(copy: Path) -> None:
    fit = "img2img_train", "fit"
    assert "--delta" in run_in(copy, *fit, "--loss", "huber", "--help")
    error = run_in(copy, *fit, "corpus", "--loss", "l2", "--delta", "0.1", fails=True)
    assert "'--delta': is not a setting of the loss l2; it belongs to huber" in error
