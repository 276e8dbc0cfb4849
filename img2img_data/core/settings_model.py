"""A model's field becomes a click option: type, default, range, unit and help are said once, in the field.

``ModelCommand`` loads its models only when the command is parsed or helped, so ``--help`` of the group
stays quick.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import click

from img2img_data.core.errors import UsageError, printable

if typing.TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic.fields import FieldInfo

ModelT = TypeVar("ModelT", bound="BaseModel")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the way out for a misspelt word: the nearest known one, else all of them."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(word, names, 1)
    return f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(names))}"


def print_usage_error(error: click.ClickException) -> None:
    """Print what is wrong with a command line in one line, with the way out; click takes four.

    A command that was given nothing at all shows its help.
    """
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    said = " ".join(error.format_message().split()).rstrip(".")
    said = said[:1].lower() + said[1:]
    head = click.style("error", fg="red")
    click.echo(f"{head}: {said}; see '{context.command_path} --help'", err=True)


class ModelCommand(click.Command):
    """A click command whose options are the fields of pydantic models.

    ``models`` is called when the options are first needed. The callback gets one keyword ``settings`` with
    the values that were given on the command line, and only those.
    """

    def __init__(
        self, *args: Any, models: Callable[[], Sequence[type[BaseModel]]] = tuple, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._models = models
        self._loaded: list[click.Parameter] | None = None

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the written parameters, then one option for each field."""
        if self._loaded is None:
            taken = {p.name for p in self.params}
            self._loaded = []
            for model in self._models():
                fields = model.model_fields.items()
                # What may be anything is a tree, which only a recipe can hold.
                made = [
                    option_for(n, f)
                    for n, f in fields
                    if n not in taken and f.annotation is not Any
                ]
                taken.update(o.name for o in made)
                self._loaded += made
        own = super().get_params(ctx)
        return [*own[:-1], *self._loaded, *own[-1:]]

    def invoke(self, ctx: click.Context) -> Any:
        """Hand the options that were given over as ``settings``."""
        given = click.core.ParameterSource.COMMANDLINE
        names = [p.name for p in self._loaded or () if p.name is not None]
        settings = {n: ctx.params[n] for n in names if ctx.get_parameter_source(n) is given}
        ctx.params = {k: v for k, v in ctx.params.items() if k not in names} | {
            "settings": settings
        }
        return super().invoke(ctx)


def in_group(name: str) -> dict[str, Any]:
    """Return the ``json_schema_extra`` of a field whose option ``--help`` lists under a heading."""
    return {"group": name}


def option_for(name: str, field: FieldInfo) -> click.Option:
    """Return the click option of one model field."""
    plain = _without_none(field.annotation)
    flag = "--" + name.replace("_", "-")
    text = field.description or ""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    named = ", ".join(map(str, default)) if isinstance(default, tuple) else default
    shown = (
        f"{text}  [default: {named}]" if default is not None and default not in ((), "") else text
    )
    if plain is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=default, help=text)
    if typing.get_origin(plain) is tuple and ... in typing.get_args(plain):
        return click.Option(
            [flag, name], multiple=True, type=_click_type(typing.get_args(plain)[0]), help=shown
        )
    return click.Option(
        [flag, name],
        type=_click_type(plain),
        default=None,
        help=shown + range_of(field),
        metavar=getattr(plain, "metavar", None),
        callback=_member_of(plain),
    )


def _member_of(annotation: Any) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return the callback that turns a chosen word into the member of the Literal, maybe a number."""
    members = (
        {str(a): a for a in typing.get_args(annotation)}
        if typing.get_origin(annotation) is typing.Literal
        else {}
    )
    return lambda context, option, value: members.get(value, value)


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return inner[0] if len(inner) == 1 else str
    return annotation


def _click_type(annotation: Any) -> Any:
    if typing.get_origin(annotation) is typing.Literal:
        return click.Choice([str(a) for a in typing.get_args(annotation)])
    return {int: click.INT, float: click.FLOAT}.get(annotation, click.STRING)


def range_of(field: FieldInfo) -> str:
    """Return the bounds of a field for its help, as in "  [>= 0, <= 1]"; "" where it has none."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{s} {getattr(m, a)}" for m in field.metadata for a, s in signs.items() if hasattr(m, a)
    ]
    return f"  [{', '.join(bounds)}]" if bounds else ""


@dataclass(frozen=True)
class Place:
    """Where settings were given: on the command line, or under some keys of a file.

    ``title`` names the file, "" stands for the command line; ``lines`` holds the line of each key.
    """

    title: str = ""
    keys: tuple[str, ...] = ()
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def below(self, *keys: str) -> Place:
        """Return the place of a section under this one."""
        return replace(self, keys=(*self.keys, *keys))

    def error(self, keys: Sequence[str], why: str, hint: str = "") -> UsageError:
        """Return the line about the value under ``keys``: its option, or file, line and whole key path."""
        if not self.title:
            named = "--" + keys[0].replace("_", "-") if keys else None
            return UsageError("option" if keys else "options", named, why, hint)
        path = (*self.keys, *keys)
        nearest = next((n for n in range(len(path), 0, -1) if path[:n] in self.lines), 0)
        line = f", line {self.lines[path[:nearest]]}" if nearest else ""
        return UsageError(f"{self.title}{line}: key", ".".join(path) or "all", why, hint)


OPTIONS: Final = Place()
"""The command line."""


def build_model(
    model: type[ModelT], values: Mapping[str, Any], where: str | Place = OPTIONS
) -> ModelT:
    """Return ``model(**values)``; a wrong value is one ``UsageError`` that names the option or key path.

    ``where`` is a place, or the title of a file.
    """
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        raise describe_validation(error, model, where, values) from None


def describe_validation(
    error: ValidationError,
    model: type[BaseModel],
    where: str | Place = OPTIONS,
    values: Mapping[str, Any] | None = None,
) -> UsageError:
    """Turn pydantic's first complaint into one line."""
    place = where if isinstance(where, Place) else Place(where)
    first = error.errors(include_url=False)[0]
    path = _key_path(first["loc"], values or {})
    wrong = first["input"]
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return place.error(
            path, "unknown", did_you_mean(path[-1], known) if known else "leave it out"
        )
    if first["type"] == "missing":
        return place.error(path, "missing", "give it a value")
    members = re.findall(r"'([^']*)'", str(first.get("ctx", {}).get("expected", "")))
    if first["type"] == "literal_error" and isinstance(wrong, str):
        return place.error(path, f"'{printable(wrong)}' is unknown", did_you_mean(wrong, members))
    said = str(first["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    shown = (
        f" (got {printable(repr(wrong))[:80]})" if path and not isinstance(wrong, Mapping) else ""
    )
    return place.error(path, said + shown, "see --help for what it takes")


def _key_path(location: Sequence[str | int], values: Any) -> list[str]:
    """Return the keys that lead to a fault, without the names pydantic puts between for unions."""
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
    """Return the names of the fields of the model under a path, none where that is no single model."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and hasattr(here, "model_fields"):
            found = here.model_fields.get(part)
            here = _without_none(found.annotation) if found else None
        else:
            here = (
                next((a for a in typing.get_args(here) if a is not ...), None)
                if part.isdigit()
                else None
            )
    return tuple(getattr(here, "model_fields", ()))


def split_settings(settings: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return those of the settings that are fields of ``model``."""
    return {k: v for k, v in settings.items() if k in model.model_fields}


def accepts_text(field: FieldInfo) -> bool:
    """Tell whether a field holds any text; a file may then give a number, as in ``size: 64``."""
    return _without_none(field.annotation) is str
