"""A model's field becomes a click option: type, default, range, unit and help are said once, in the field.

``ModelCommand`` loads its models only when the command is parsed or helped, so ``--help`` of the group
stays quick.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from img2img_data.errors import UsageError

if typing.TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic.fields import FieldInfo

ModelT = TypeVar("ModelT", bound="BaseModel")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the way out for a misspelt word: the nearest known one, else all of them."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(word, names, 1)
    return f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(sorted(names))}"


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
                made = [option_for(n, f) for n, f in model.model_fields.items() if n not in taken]
                taken.update(o.name for o in made)
                self._loaded += made
        own = super().get_params(ctx)
        return [*own[:-1], *self._loaded, *own[-1:]]

    def invoke(self, ctx: click.Context) -> Any:
        """Hand the options that were given over as ``settings``."""
        given = click.core.ParameterSource.COMMANDLINE
        names = [p.name for p in self._loaded or () if p.name is not None]
        settings = {n: ctx.params[n] for n in names if ctx.get_parameter_source(n) is given}
        ctx.params = {k: v for k, v in ctx.params.items() if k not in names} | {"settings": settings}
        return super().invoke(ctx)


def option_for(name: str, field: FieldInfo) -> click.Option:
    """Return the click option of one model field."""
    plain = _without_none(field.annotation)
    flag = "--" + name.replace("_", "-")
    text = field.description or ""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown = f"{text}  [default: {default}]" if default is not None and default not in ((), "") else text
    if plain is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], default=default, help=text)
    if typing.get_origin(plain) is tuple and ... in typing.get_args(plain):
        return click.Option(
            [flag, name], multiple=True, type=_click_type(typing.get_args(plain)[0]), help=text
        )
    return click.Option(
        [flag, name],
        type=_click_type(plain),
        default=None,
        help=shown + _range_of(field),
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


def _range_of(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [f"{s} {getattr(m, a)}" for m in field.metadata for a, s in signs.items() if hasattr(m, a)]
    return f"  [{', '.join(bounds)}]" if bounds else ""


def build_model(model: type[ModelT], values: Mapping[str, Any], where: str = "option") -> ModelT:
    """Return ``model(**values)``; a wrong value is one ``UsageError`` that names the option or key path."""
    from pydantic import ValidationError

    try:
        return model(**values)
    except ValidationError as error:
        raise describe_validation(error, model, where) from None


def describe_validation(error: ValidationError, model: type[BaseModel], where: str = "option") -> UsageError:
    """Turn pydantic's first complaint into one line. ``where`` is "option" or the path of a recipe."""
    first = error.errors(include_url=False)[0]
    path = [str(p) for p in first["loc"]]
    name = ("--" + path[0].replace("_", "-")) if where == "option" and path else ".".join(path) or "settings"
    what = "option" if where == "option" else f"{where}: key"
    if first["type"] == "extra_forbidden":
        return UsageError(what, name, "unknown", did_you_mean(path[-1], model.model_fields))
    said = str(first["msg"]).removeprefix("Value error, ")
    shown = f" (got {first['input']!r})" if path and not isinstance(first["input"], Mapping) else ""
    return UsageError(what, name, said + shown, "see --help for what it takes")


def split_settings(settings: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return those of the settings that are fields of ``model``."""
    return {k: v for k, v in settings.items() if k in model.model_fields}
