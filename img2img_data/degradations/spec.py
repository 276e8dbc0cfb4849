"""A tree of degradations, as recipes write it and as corpus.json keeps it.

::

    degradation:                            # a list is a chain
      - one-of:
          - {gaussian: {sigma: [0.2, 3]}, weight: 2}
          - motion: {length: [3, 15]}
      - {median: {size: 3}, probability: 0.2}       # short for a one-of with a single step
      - jpeg: {quality: [30, 95]}
      - grayscale                           # a kind by itself, with its defaults

A mistake is one ``UsageError`` with the whole path of the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import Place, did_you_mean, range_of
from img2img_data.core.yaml_file import read_value
from img2img_data.degradations.albumentations_step import WrongKey
from img2img_data.degradations.compose import Chain, Composite, OneOf, PipelineStep
from img2img_data.degradations.parameters import Uniform
from img2img_data.degradations.registry import DEGRADATIONS, Degradation, find_degradation

_DEEPEST: Final = 16
_BESIDE: Final = ("weight", "probability")
"""What may stand beside the kind of a step."""


def parse_spec(content: Any, place: Place) -> PipelineStep:
    """Return the degradation that a recipe's value stands for, with the name of its kind.

    ``place`` is where it was given. Raises ``UsageError`` with the line and the whole path of the key.
    """
    return _parse(content, place)


def parse_assignments(texts: Sequence[str], place: Place) -> dict[str, Any]:
    """Return {name: value} of texts like "sigma=3", "sigma=1..5", "sigma=[1, 5]"; the values are YAML."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or name in found:
            raise place.error(
                [text], "is given twice" if name in found else "is no NAME=VALUE", "as in sigma=3"
            )
        try:
            found[name.strip().replace("-", "_")] = read_value(value)
        except ValueError:
            raise place.error(
                [text], "has a value that is no YAML", "as in sigma=3 or sigma=1..5"
            ) from None
    return found


def _parse(content: Any, place: Place) -> PipelineStep:
    if len(place.keys) > 3 * _DEEPEST:
        raise place.error([], "is nested too deeply", f"{_DEEPEST} levels are the limit")
    if isinstance(content, list) and content:
        return PipelineStep("chain", Chain(steps=_steps(content, place)[0]))
    if isinstance(content, str):
        content = {content: None}
    if not isinstance(content, Mapping) or not content:
        raise place.error([], "is no step", "write {kind: {setting: value}}, or a list of such")
    kinds = [key for key in content if key not in _BESIDE]
    if len(kinds) != 1:
        said = (
            f"holds {len(kinds)} kinds ({', '.join(map(str, kinds))})" if kinds else "names no kind"
        )
        raise place.error([], said, "a step has one kind; start each with '- '")
    kind = str(kinds[0])
    step = _one(kind, content[kinds[0]], place.below(kind))
    if "probability" not in content:
        return step
    values = {"steps": (step,), "probability": content["probability"]}
    return PipelineStep("one-of", _build(OneOf, values, place))


def _one(kind: str, settings: Any, place: Place) -> PipelineStep:
    if kind not in DEGRADATIONS:
        raise place.error([], "unknown", did_you_mean(kind, DEGRADATIONS))
    cls = DEGRADATIONS[kind]
    if issubclass(cls, Composite):
        return PipelineStep(kind, _composite(cls, settings, place))
    if settings is not None and not isinstance(settings, Mapping):
        known = ", ".join(cls.model_fields)
        raise place.error(
            [], f"is no mapping but {settings!r}", f"write {{name: value}}; it has {known}"
        )
    return PipelineStep(kind, _build(cls, dict(settings or {}), place))


def _composite(cls: type[Composite], settings: Any, place: Place) -> Degradation:
    short = isinstance(settings, list)
    values = {"steps": settings} if short else settings
    if not isinstance(values, Mapping) or settings == []:
        raise place.error([], "has no steps", "write them as a list")
    stray = next((key for key in values if key not in cls.model_fields), None)
    if stray is not None:
        raise place.error([str(stray)], "unknown", did_you_mean(str(stray), cls.model_fields))
    if not isinstance(values.get("steps"), list):
        raise place.error(
            [], "has no list of steps", "write them under 'steps', or as a list if that is all"
        )
    inner = place if short else place.below("steps")
    steps, weights = _steps(values["steps"], inner, weighted=issubclass(cls, OneOf))
    if weights and values.get("weights"):
        raise place.error(["weights"], "is given beside the steps too", "keep one of the two")
    more = {"weights": weights} if weights else {}
    return _build(cls, {**values, "steps": steps, **more}, place)


def _steps(
    content: list[Any], place: Place, weighted: bool = False
) -> tuple[tuple[PipelineStep, ...], list[float]]:
    """Return the steps of a list, and their weights where any is given."""
    steps = tuple(_parse(step, place.below(str(number))) for number, step in enumerate(content))
    given = [c.get("weight") if isinstance(c, Mapping) else None for c in content]
    for number, weight in enumerate(given):
        if weight is not None and not weighted:
            hint = "weights belong to the steps of one-of"
            raise place.error([str(number), "weight"], "has no meaning here", hint)
        if weight is not None and (not isinstance(weight, int | float) or isinstance(weight, bool)):
            why = f"is no number (got {weight!r})"
            raise place.error([str(number), "weight"], why, "1 is as often as the others")
    weights = [1.0 if weight is None else weight for weight in given]
    return steps, weights if any(weight is not None for weight in given) else []


def _build(cls: type[Degradation], values: Mapping[str, Any], place: Place) -> Degradation:
    try:
        return cls(**{str(name): value for name, value in values.items()})
    except ValidationError as error:
        raise _first_mistake(error, cls, place) from None


def _first_mistake(error: ValidationError, cls: type[Degradation], place: Place) -> UsageError:
    first = error.errors(include_url=False)[0]
    wrong, path = first["input"], [str(part) for part in first["loc"][:2]]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, WrongKey):
        return place.error(inner.keys, inner.why, inner.hint)
    if first["type"] == "extra_forbidden":
        return place.error(path, "unknown", did_you_mean(path[-1], cls.model_fields))
    about = (cls.model_fields[path[0]].description or "").split("  [")[0] if path else ""
    if first["type"] == "missing":
        return place.error(path, "missing", about)
    said = str(first["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    shown = f" (got {wrong!r})" if path and not isinstance(wrong, Mapping) else ""
    return place.error(path, said + shown, f"it is the {about}" if about else "mend it")


def kind_of(degradation: Degradation) -> str:
    """Return the name of a degradation's kind."""
    return next(kind for kind, cls in DEGRADATIONS.items() if cls is type(degradation))


def to_spec(degradation: Degradation) -> dict[str, Any]:
    """Return what ``parse_spec`` takes, with every default filled in."""
    return PipelineStep(kind_of(degradation), degradation).plain()


# ---------------------------------------------------------------------------------------------- help
def describe_degradations(name: str = "") -> Iterator[str]:
    """Yield one line for each degradation, or the settings of one; ``UsageError`` for an unknown name."""
    if not name:
        width = max(map(len, DEGRADATIONS))
        yield from (f"{kind:<{width}}  {_first_line(cls)}" for kind, cls in DEGRADATIONS.items())
        return
    cls = find_degradation(name)
    yield f"{name}: {' '.join((cls.__doc__ or '').split())}"
    width = max(map(len, cls.model_fields), default=0)
    for setting, field in cls.model_fields.items():
        about = (field.description or "") + range_of(field)
        yield f"  {setting:<{width}}  {about}{_default_of(field)}"


def _first_line(cls: type[Degradation]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _default_of(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "  [required]"
    if default is None or default in ((), {}, ""):
        return ""
    if isinstance(default, list):
        return f"  [default: {Uniform.parse(default)}]"
    return f"  [default: {', '.join(map(str, default)) if isinstance(default, tuple) else default}]"
