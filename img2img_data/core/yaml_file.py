"""Recipes: YAML files, found by path or name, read strictly and alike by both packages.

Scalars mean what YAML 1.2 says (its core schema, https://yaml.org/spec/1.2.2/#103-core-schema), not
what PyYAML takes from YAML 1.1: ``no`` and ``on`` are words, ``1e-3`` is a number, ``12:30`` and
``2020-01-01`` are text. Whatever silently loses or multiplies content is rejected: duplicate keys,
aliases that expand without bound or contain themselves. Nothing in a file is ever executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.files import read_named
from img2img_data.core.settings_model import Place, did_you_mean

MAX_BYTES: Final = 1 << 20
"""Size of a file."""
MAX_VALUES: Final = 10_000
"""Values that a file may hold, and that it may hold once aliases are replaced by their content."""
MAX_DEPTH: Final = 100
"""Levels of nesting."""
MAX_DIGITS: Final = 250
"""Digits of an integer: any that has no more can become a float."""

_DESCRIPTION: Final = ("name", "about", "needs", "size", "minutes", "score")
RECIPE_KEYS: Final = (*_DESCRIPTION, "corpus", "degradation", "run", "smoke")
"""Keys at the top of a recipe."""
EXAMPLE: Final = "'img2img-data recipes mixed'"
"""Command that prints a recipe with a degradation, for hints."""

Keys = tuple[str, ...]


class Document(NamedTuple):
    """Content of a file, and its place, which knows the line of each key."""

    content: dict[str, Any]
    place: Place


class _Fault(ValueError):
    """A fault of the file: line (0 if unknown), reason, hint."""


# PyYAML resolves scalars by YAML 1.1; the table below replaces its rules.
class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    root: Node | None = None
    depth = count = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Return the next node; ``_Fault`` as soon as there are too many, or for invalid text."""
        line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        self.depth, self.count = self.depth + 1, self.count + 1
        if self.depth > MAX_DEPTH or self.count > MAX_VALUES:
            size = "is nested too deeply" if self.depth > MAX_DEPTH else "contains too many values"
            hint = f"{MAX_DEPTH} levels and {MAX_VALUES:,} values are the limit"
            raise _Fault(line, size, hint)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, ScalarNode):
            try:  # JSON writes some characters as two escapes
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError:
                raise _Fault(line, "contains an unpaired surrogate", "write it in full") from None
        return node

    def get_single_node(self) -> Node | None:
        """Return the only document, None if there is none; ``_Fault`` if it is hostile."""
        self.root = super().get_single_node()
        # Checked before any value is made of it: the values of an alias bomb fill the memory.
        if self.root is not None:
            _count(self.root, {}, set())
        return self.root


def _make_int(loader: _Loader, node: ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > MAX_DIGITS:
        why = f"contains a number of {len(text)} digits"
        raise _Fault(node.start_mark.line + 1, why, f"at most {MAX_DIGITS} are allowed")
    return int(text, 0 if text[:2] in {"0x", "0o"} else 10)


_NUMBER: Final = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
_SCALARS: Final = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": rf"{_NUMBER}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "null": r"~|null|Null|NULL|",
    "merge": r"<<",
}
for _name, _pattern in _SCALARS.items():
    _matcher = re.compile(f"(?:{_pattern})$")
    # None: tried whatever the first character is.
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _matcher, None)
_Loader.add_constructor("tag:yaml.org,2002:int", _make_int)


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the program: name to file, sorted."""
    # In a wheel they lie inside the package, in a checkout beside it.
    package = Path(__file__).parents[1]
    folder = package / "recipes"
    folder = folder if folder.is_dir() else package.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def is_recipe_path(recipe: Path | str) -> bool:
    """Return True for a ``Path``, and a text with a separator or the ending .yaml or .yml.

    Any other text is a name, whatever files the current folder has.
    """
    if isinstance(recipe, Path) or recipe.endswith((".yaml", ".yml")):
        return True
    return "/" in recipe or os.sep in recipe


def find_recipe(recipe: Path | str) -> Path:
    """Return the file of a recipe: the path itself, or that of the recipe of this name.

    Raises ``UsageError`` for an unknown name, and for a missing file that could mean a name.
    """
    known, path = shipped_recipes(), Path(recipe)
    if is_recipe_path(recipe):
        if path.stem in known and not path.exists():
            hint = f"'{path.stem}', without the ending, is the recipe that comes with img2img"
            raise UsageError("recipe", recipe, "no such file", hint)
        return path
    if path.name in known:
        return known[path.name]
    hint = did_you_mean(path.name, known)
    if path.is_file():
        hint = f"the file of that name is './{printable(path.name)}'"
    elif not hint.startswith("did"):
        hint = "'img2img-data recipes' lists those that come with img2img"
    raise UsageError("recipe", recipe, "unknown", hint)


def read_yaml(recipe: Path | str) -> Document:
    """Return the mapping in a recipe. Raises ``UsageError`` with file, line and fault."""
    path, line, hint = find_recipe(recipe), 0, "correct the file"
    try:
        loader = _Loader(_text_of(path))
        content = loader.get_single_data()
        if isinstance(content, dict):
            lines = dict(_lines_of(loader.root, ()))
            return Document(content, Place(f"recipe '{printable(path)}'", lines=lines))
        why, hint = "is not a mapping", f"write the steps under 'degradation:', as in {EXAMPLE}"
    except _Fault as fault:
        line, why, hint = fault.args
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        why = f"is not YAML: {printable(error.problem or error.context or 'unknown fault')}"
        if "\\t" in why:
            hint = "indent with spaces, not tabs"
    except (yaml.YAMLError, ValueError) as error:
        why = f"is not YAML: {printable(str(error).splitlines()[0])}"
    raise UsageError(f"line {line} of recipe" if line else "recipe", path, why, hint)


def read_sections(recipe: Path | str) -> Document:
    """Return the mapping in a recipe, all of whose sections are known; raises as ``read_yaml``."""
    document = read_yaml(recipe)
    for key in (key for key in document.content if key not in RECIPE_KEYS):
        raise document.place.error([key], "unknown", did_you_mean(key, RECIPE_KEYS))
    return document


def read_value(text: str) -> Any:
    """Return one value, written as after a key in a file; ``ValueError`` if it is not YAML."""
    try:
        return yaml.load(text, _Loader)
    except _Fault as fault:
        raise ValueError(fault.args[1]) from None
    except yaml.YAMLError as error:
        raise ValueError(printable(str(error).partition("\n")[0])) from None


def _text_of(path: Path) -> str:
    data = read_named("recipe", path, MAX_BYTES)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _Fault(line, "contains bytes that are not UTF-8", "save the file as UTF-8") from None


def _count(node: Node, known: dict[int, int], above: set[int]) -> int:
    """Return the number of values that a node expands to, and check the keys of mappings.

    ``known`` holds the counts of nodes seen before: each is visited once, however many aliases it
    has, so a bomb of nested aliases costs no time.
    """
    name, line = id(node), node.start_mark.line + 1
    if name in above:
        raise _Fault(line, "an alias is inside its own anchor", "remove it")
    if name not in known:
        above.add(name)
        if isinstance(node, MappingNode):
            _check_keys(node)
        known[name] = 1 + sum(_count(child, known, above) for _, _, child in _children(node))
        above.remove(name)
    if known[name] > MAX_VALUES:
        raise _Fault(line, "its aliases expand to too many values", "write the values out")
    return known[name]


def _children(node: Node | None) -> list[tuple[str, Node, Node]]:
    """Return the items of a mapping or a sequence: key or index, node with its line, value."""
    if isinstance(node, MappingNode):
        return [(key.value, key, value) for key, value in node.value]
    if isinstance(node, SequenceNode):
        return [(str(index), value, value) for index, value in enumerate(node.value)]
    return []


def _check_keys(node: MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise _Fault(line, "a key is not text", "write KEY: VALUE")
        if key.value in lines:
            why = f"key '{printable(key.value)}' appears twice, first in line {lines[key.value]}"
            raise _Fault(line, why, "keep one of them")
        lines[key.value] = line
        if key.tag != "tag:yaml.org,2002:merge":
            key.tag = "tag:yaml.org,2002:str"  # keys are names, also where they could be numbers


def _lines_of(node: Node | None, keys: Keys) -> Iterator[tuple[Keys, int]]:
    """Yield (keys, line) of everything below a node whose values were made; the last counts."""
    # By then PyYAML has put the pairs that a mapping merges by "<<" before those of its own.
    for name, marked, child in _children(node):
        yield (*keys, name), marked.start_mark.line + 1
        yield from _lines_of(child, (*keys, name))
