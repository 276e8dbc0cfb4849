"""Settings: pydantic models, the origin of their values, and one line about a wrong value.

A field states type, default, range, unit and help once; ``core.command_line`` makes an option of
it.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from img2img_data.core.errors import UsageError, printable

if typing.TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic.fields import FieldInfo

ModelT = TypeVar("ModelT", bound="BaseModel")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the hint for a misspelled word: the nearest known one, else all of them."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(word, names, 1)
    return f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(names))}"


def setting(
    group: str,
    default: Any = ...,
    description: str | None = None,
    advanced: bool = False,
    enum: Iterable[str] = (),
    **limits: Any,
) -> Any:
    """Return the field of a setting that is an option too; its docstring is the description.

    ``--help`` lists it under the heading ``group`` with the first clause of the description (up to
    ``; ``); only ``--help-all`` lists an ``advanced`` one. ``enum`` are the values of a text that a
    registry checks.
    """
    from pydantic import Field

    extra: dict[str, Any] = {"group": group}
    extra |= {"advanced": True} if advanced else {}
    extra |= {"enum": list(enum)} if enum else {}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def without_none(annotation: Any) -> Any:
    """Return the type of an optional annotation, ``str`` for another union."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return inner[0] if len(inner) == 1 else str
    return annotation


@dataclass(frozen=True)
class Docstring:
    """The place of a field's help: below it, in the source of a class."""

    model: type
    field: str


@functools.cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return the docstrings below the fields of a module's classes, by class and field."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return {}  # typed into an interpreter, or installed without its source
    found = dict[tuple[str, str], str]()
    for cls in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)):
        for above, below in itertools.pairwise(cls.body):
            match above, below:
                case ast.AnnAssign(ast.Name(field)), ast.Expr(ast.Constant(str(text))):
                    found[cls.name, field] = text
    return found


def help_of(field: FieldInfo) -> str:
    """Return the help of a field in one line: its description, or else the docstring below it.

    Texts among the metadata of the field are added.
    """
    places = [(x.model, x.field) for x in field.metadata if isinstance(x, Docstring)]
    found = (_docstrings(model.__module__).get((model.__name__, name)) for model, name in places)
    text = field.description or next(filter(None, found), "")
    return "".join([" ".join(text.split()), *(x for x in field.metadata if isinstance(x, str))])


def bounds_of(field: FieldInfo) -> str:
    """Return the bounds of a field for its help, as in ">= 0, <= 1"; "" if it has none."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = {a: getattr(m, a) for m in field.metadata for a in signs if hasattr(m, a)}
    # Larger bounds only keep hostile numbers out.
    return ", ".join(f"{signs[a]} {bound}" for a, bound in bounds.items() if bound < 10**9)


@dataclass(frozen=True)
class Place:
    """Origin of settings: the command line, or some keys of a file.

    ``title`` names the file, "" is the command line; ``lines`` holds the line of each key.
    """

    title: str = ""
    keys: tuple[str, ...] = ()
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def below(self, *keys: str) -> Place:
        """Return the place of a section under this one."""
        return replace(self, keys=(*self.keys, *keys))

    def error(self, keys: Sequence[str], why: str, hint: str = "") -> UsageError:
        """Return the error about the value under ``keys``: its option, or file, line and path."""
        if not self.title:
            named = "--" + keys[0].replace("_", "-") if keys else None
            return UsageError("option" if keys else "options", named, why, hint)
        path = (*self.keys, *keys)
        # A missing key has no line of its own: the line of its section is the nearest.
        nearest = next((n for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)
        line = f", line {self.lines[path[:nearest]]}" if nearest else ""
        if not path:
            return UsageError(f"{self.title}{line}", None, why, hint)
        return UsageError(f"{self.title}{line}: key", ".".join(path), why, hint)


class InvalidKeyError(ValueError):
    """A mistake in a nested setting, raised by a validator: keys below the section, why, hint."""


OPTIONS: Final = Place()
"""The command line."""


def build_model(model: type[ModelT], values: Mapping[str, Any], place: Place = OPTIONS) -> ModelT:
    """Return ``model(**values)``; ``UsageError`` names the option or key path of a wrong value."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        raise _first_error(error, model, place, values) from None


def build_part(model: type[ModelT], settings: Mapping[str, Any], place: Place = OPTIONS) -> ModelT:
    """Return ``model`` of those settings that are its fields; errors as in ``build_model``."""
    own = {key: value for key, value in settings.items() if key in model.model_fields}
    return build_model(model, own, place)


def _first_error(
    error: ValidationError, model: type[BaseModel], place: Place, values: Mapping[str, Any]
) -> UsageError:
    """Turn pydantic's first complaint into one line."""
    # The first is enough: others often follow from it, and people fix one mistake at a time.
    first = error.errors(include_url=False)[0]
    path, wrong = _key_path(first["loc"], values), first["input"]
    if isinstance(inner := first.get("ctx", {}).get("error"), InvalidKeyError):
        return place.error(*inner.args)
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        hint = did_you_mean(path[-1], known) if known else "leave it out"
        return place.error(path, "unknown", hint)
    about = _hint_of(model, path)
    if first["type"] == "missing":
        return place.error(path, "missing", about or "set it")
    if first["type"] == "literal_error" and isinstance(wrong, str) and about is None:
        # pydantic gives the members as text only: "'a', 'b' or 'c'".
        members = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return place.error(path, f"'{printable(wrong)}' is unknown", did_you_mean(wrong, members))
    why = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if path and not isinstance(wrong, Mapping):
        why += f" (got {printable(repr(wrong))[:80]})"
    hint = f"it is the {about}" if about else "correct it"
    return place.error(path, why, "see --help for its values" if about is None else hint)


def _hint_of(model: type[BaseModel], path: Sequence[str]) -> str | None:
    """Return the help of a parameter for a hint, None if a command shows it by --help."""
    if not getattr(model, "help_in_hints", False):
        return None
    return help_of(model.model_fields[path[0]]).split(" [default")[0] if path else ""


def _key_path(location: Sequence[str | int], values: Any) -> list[str]:
    """Return the keys that lead to a fault, without the names that pydantic inserts for unions."""
    path = []
    for number, part in enumerate(location, 1):
        if isinstance(values, Mapping | list | tuple):
            inside = part in values if isinstance(values, Mapping) else isinstance(part, int)
            if not inside and (number < len(location) or not str(part).isidentifier()):
                continue
            values = values[part] if inside else None  # type: ignore[index]
        path.append(str(part))
    return path


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> Iterable[str]:
    """Return the field names of the model under a path, none if it is not a single model."""
    here: Any = model
    for part in path:
        fields = getattr(here, "model_fields", {})
        if part in fields:
            here = without_none(fields[part].annotation)
        else:  # an item of a list
            items = typing.get_args(here) if part.isdigit() else ()
            here = next((a for a in items if a is not ...), None)
    return tuple(getattr(here, "model_fields", ()))
