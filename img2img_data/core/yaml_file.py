"""One YAML file, read strictly, the same way by both commands that a recipe is for.

Words mean what YAML 1.2 says (its core schema, https://yaml.org/spec/1.2.2/#103-core-schema), not what
PyYAML takes from 1.1: ``no`` and ``on`` are words, ``1e-3`` is a number, ``12:30`` is no count of seconds and
``2020-01-01`` no date. What silently loses or multiplies content is rejected: keys given twice, aliases that
unfold without bound or contain themselves. Nothing in a file is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from img2img_data.core.errors import UsageError, printable

LARGEST: Final = 1 << 20
"""Bytes that a file may have."""
LARGEST_UNFOLDED: Final = 100_000
"""Values that a file may hold once every alias is replaced by what it stands for."""

Keys = tuple[str, ...]


class Document(NamedTuple):
    """What a file holds, and the line of each key: {("corpus", "0", "blur", "sigma"): 5}."""

    content: dict[str, Any]
    lines: Mapping[Keys, int]


class _Bad(ValueError):
    """A fault of the file: the line (0: none), what is wrong, the way out."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


def _make_int(loader: _Loader, node: ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0 if text[:2] in {"0x", "0o"} else 10)


def _make_float(loader: _Loader, node: ScalarNode) -> float:
    return float(
        loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    )


_WORDS: Final = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
for _name, (_pattern, _first) in _WORDS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), list(_first)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _make_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _make_float)


def read_yaml(path: Path, what: str = "recipe") -> Document:
    """Return the mapping in a YAML file. ``UsageError`` names file, line and fault."""
    try:
        return _document(path)
    except OSError as error:
        raise UsageError(what, path, error.strerror or str(error), "check the path") from None
    except _Bad as bad:
        line, why, hint = bad.args
        raise UsageError(*_place(what, path, line), why, hint) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = printable(error.problem or error.context or "is no YAML")
        hint = (
            "indent by spaces, never by tabs" if "'\\t'" in why or "\\t" in why else "mend the file"
        )
        place = _place(what, path, mark.line + 1 if mark else 0)
        raise UsageError(*place, f"is not YAML: {why}", hint) from None
    except RecursionError:
        raise UsageError(what, path, "is nested too deeply", "mend the file") from None
    except (yaml.YAMLError, ValueError) as error:
        why = printable(str(error).splitlines()[0])
        raise UsageError(what, path, f"is not YAML: {why}", "mend the file") from None


def read_value(text: str) -> Any:
    """Return what one value means, as on the right of a key in a file; ``ValueError`` if it is none."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, {}, set())
        return loader.construct_document(node)
    except _Bad as bad:
        raise ValueError(bad.args[1]) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(printable(str(error).partition("\n")[0])) from None
    finally:
        if loader:
            loader.dispose()


def _place(what: str, path: Path, line: int) -> tuple[str, Path]:
    return (f"line {line} of {what}" if line else what), path


def _document(path: Path) -> Document:
    loader = _Loader(_text_of(path))
    try:
        node = loader.get_single_node()
        if not isinstance(node, MappingNode):
            raise _Bad(0, "is no mapping of keys to values", "see the files in recipes/")
        _weigh(node, {}, set())
        lines: dict[Keys, int] = {}
        for keys, line in _lines_of(node, ()):
            lines.setdefault(keys, line)
        content: dict[str, Any] = loader.construct_document(node)
        return Document(content, lines)
    finally:
        loader.dispose()


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise _Bad(0, f"is larger than {LARGEST:,} bytes", "give a recipe")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _Bad(line, "holds bytes that are no UTF-8", "save the file as UTF-8") from None


def _weigh(node: Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a node unfolds to; each node is looked at once, however often it is meant."""
    name = id(node)
    if name in above:
        raise _Bad(
            node.start_mark.line + 1, "an alias stands inside of what it means", "leave it out"
        )
    if name not in known:
        above.add(name)
        if isinstance(node, MappingNode):
            _check_keys(node)
        known[name] = 1 + sum(_weigh(child, known, above) for child in _children(node))
        above.remove(name)
    if known[name] > LARGEST_UNFOLDED:
        raise _Bad(node.start_mark.line + 1, "its aliases unfold without bound", "write it out")
    return known[name]


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        yield from (value for _, value in node.value)


def _check_keys(node: MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise _Bad(line, "a key is no word", "write KEY: VALUE")
        if key.value in seen:
            why = f"key '{printable(key.value)}' is given twice, in line {seen[key.value]} too"
            raise _Bad(line, why, "keep one of them")
        seen[key.value] = line
        if key.tag != "tag:yaml.org,2002:merge":
            key.tag = "tag:yaml.org,2002:str"


def _lines_of(node: Node, keys: Keys) -> Iterator[tuple[Keys, int]]:
    """Yield (keys, line); what a mapping says itself comes before what it takes over by ``<<``."""
    if isinstance(node, SequenceNode):
        for place, child in enumerate(node.value):
            yield (*keys, str(place)), child.start_mark.line + 1
            yield from _lines_of(child, (*keys, str(place)))
    elif isinstance(node, MappingNode):
        for key, child in sorted(node.value, key=lambda pair: pair[0].value == "<<"):
            if key.value == "<<":
                for part in child.value if isinstance(child, SequenceNode) else [child]:
                    yield from _lines_of(part, keys)
            else:
                yield (*keys, key.value), key.start_mark.line + 1
                yield from _lines_of(child, (*keys, key.value))
