"""Rooms stay small, functions short, and comments are there."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from count_code import count_rooms
from test_rooms import MODULES, ROOT, imported

# Volume is a cost that every reader pays. What is new pays for itself by what it replaces.
MOST_CODE = {"img2img_data": 9_756, "img2img_train": 9_013}
MOST_MODULES = 12
LONGEST_FUNCTION = 60
MOST_WITH_ONE_IMPORTER = 15
LEAST_COMMENTS = 0.04

counted = cache(count_rooms)


def importers() -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for importer, path in MODULES.items():
        for module in imported(path):
            if module != importer:
                found[module].add(importer)
    return found


@pytest.mark.parametrize("package", MOST_CODE)
def test_a_package_stays_small_and_commented(package: str) -> None:
    rooms = [count for room, count in counted(ROOT).items() if room.startswith(package)]
    code, comments = (sum(counts) for counts in zip(*rooms, strict=True))
    limit = MOST_CODE[package]
    hint = "remove as many as you add, or raise MOST_CODE and say why in the commit"
    assert code <= limit, f"{package} has {code} lines, at most {limit}: {hint}"
    assert comments >= LEAST_COMMENTS * code


def test_a_room_holds_few_modules() -> None:
    rooms: dict[Path, int] = defaultdict(int)
    for path in MODULES.values():
        rooms[path.parent] += path.name != "__init__.py"
    assert {room: count for room, count in rooms.items() if count > MOST_MODULES} == {}


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{name}.{node.name} has {length} lines"


def test_few_modules_have_one_importer() -> None:
    """Commands, public names and members of a registry have one; others usually belong into it."""
    by_nature = (".cli.", ".__main__", ".__init__", ".registry", ".perceptual")
    one = {
        module: next(iter(by))
        for module, by in importers().items()
        if module in MODULES and len(by) == 1 and MODULES[module].name != "__init__.py"
    }
    others = {m: by for m, by in one.items() if not any(part in f"{by}." for part in by_nature)}
    assert len(others) <= MOST_WITH_ONE_IMPORTER, others
