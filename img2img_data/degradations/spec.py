"""Pipeline specs: a degradation as recipes write it and as corpus.json keeps it.

::

    degradation:                            # a list is a chain
      - one-of:
          - {gaussian: {sigma: [0.2, 3]}, weight: 2}
          - motion: {length: [3, 15]}
      - {median: {size: 3}, probability: 0.2}       # short for a one-of with a single step
      - jpeg: {quality: [30, 95]}
      - grayscale                           # a kind by itself, with its defaults

A mistake is one ``UsageError`` with the full path of the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo

from img2img_data.core import yaml_file
from img2img_data.core.errors import UsageError, printable
from img2img_data.core.settings_model import Place, bounds_of, build_model, did_you_mean, help_of
from img2img_data.degradations.albumentations_step import SUGGESTED, Albumentations
from img2img_data.degradations.base import Degradation, Uniform, is_number
from img2img_data.degradations.compose import Chain, Composite, OneOf, PipelineStep
from img2img_data.degradations.registry import DEGRADATIONS, find_degradation

_MAX_DEPTH: Final = 16
_STEP_KEYS: Final = ("weight", "probability")
"""Keys of a step besides its kind."""


def degradation(pipeline: Any, /, **settings: Any) -> Degradation:
    """Return a degradation: a kind and its settings, a pipeline, or a recipe by name or path.

    >>> degrade = data.degradation("gaussian", sigma=(1, 5))
    >>> image, drawn = degrade(photo, seed=0)
    >>> image.shape == photo.shape, sorted(drawn)
    (True, ['sigma'])
    >>> data.degradation([{"motion": {"length": [3, 15]}}, "jpeg"])(photo, seed=None)[0].dtype
    dtype('uint8')

    Raises ``UsageError`` for an unknown kind or setting, with the nearest one.
    """
    if settings:
        recipes = yaml_file.shipped_recipes()
        if not isinstance(pipeline, str) or {pipeline} & recipes.keys() - DEGRADATIONS.keys():
            why, hint = "is not a kind, so it takes no settings", "change a copy of the recipe"
            raise UsageError("degradation", printable(pipeline)[:80], why, hint)
        pipeline = {pipeline: settings}
    return parse_spec(*read_pipeline(pipeline, Place("degradation"))).degradation


def read_pipeline(value: Any, place: Place) -> tuple[Any, Place]:
    """Return a pipeline and its place: ``value``, or the ``degradation`` of the recipe it names.

    A text is a kind, else the name or path of a recipe.
    """
    if isinstance(value, Degradation):
        return to_spec(value), place
    if not isinstance(value, str | Path) or value in DEGRADATIONS:
        return value, place
    recipes = yaml_file.shipped_recipes()
    if not yaml_file.is_recipe_path(value) and value not in recipes:
        hint = did_you_mean(str(value), [*DEGRADATIONS, *recipes])
        raise place.error([str(value)], "unknown", hint)
    content, file = yaml_file.read_sections(value)
    if "degradation" not in content:
        hint = f"write a pipeline of degradations under that key, as in {yaml_file.EXAMPLE}"
        if "corpus" in content:
            hint = f"'img2img-data build {printable(value)}' makes its corpora"
        raise UsageError("recipe", value, "has no 'degradation'", hint)
    return content["degradation"], file.below("degradation")


def parse_spec(content: Any, place: Place) -> PipelineStep:
    """Return the degradation of a recipe's value, with the name of its kind.

    ``place`` is the location of the value. Raises ``UsageError`` with the line and the full key
    path.
    """
    # Each level of nesting adds up to three keys: index, kind and "steps".
    if len(place.keys) > 3 * _MAX_DEPTH:
        raise place.error([], "is nested too deeply", f"{_MAX_DEPTH} levels are the limit")
    if isinstance(content, list) and content:
        return PipelineStep("chain", Chain(**_parse_steps(content, place)))
    if isinstance(content, str):
        content = {content: None}
    if not isinstance(content, Mapping) or not content:
        why = f"is not a step but {printable(repr(content))[:80]}"
        raise place.error([], why, "write {kind: {setting: value}}, or a list of such")
    names = [key for key in content if key not in _STEP_KEYS]
    if len(names) != 1:
        count = f"has {len(names)} kinds ({', '.join(map(str, names))})"
        why = count if names else "has no kind"
        raise place.error([], why, "a step has one kind; start each with '- '")
    kind = str(names[0])
    step = PipelineStep(kind, _parse_kind(kind, content[names[0]], place.below(kind)))
    # A step with a probability is a one-of with a single branch.
    if "probability" not in content:
        return step
    values = {"steps": (step,), "probability": content["probability"]}
    return PipelineStep("one-of", build_model(OneOf, values, place))


def degradation_of(recipe: Mapping[str, Any], place: Place) -> Degradation:
    """Return the degradation of a corpus whose pairing is ``degrade`` from its recipe.

    Raises ``UsageError`` as ``parse_spec`` does.
    """
    if "degradation" in recipe:
        return parse_spec(recipe["degradation"], place.below("degradation")).degradation
    # The commands of one blur write its kind and settings beside those of the corpus.
    kind = str(recipe.get("kind"))
    known = DEGRADATIONS[kind].model_fields if kind in DEGRADATIONS else {}
    return parse_spec({kind: {n: recipe[n] for n in known if n in recipe}}, place).degradation


def parse_assignments(texts: Sequence[str], place: Place) -> dict[str, Any]:
    """Return {name: value} of texts such as "sigma=3", "sigma=1..5" or "sigma=[1, 5]" (YAML)."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or name in found:
            why = "is given twice" if name in found else "is not NAME=VALUE"
            raise place.error([text], why, "as in sigma=3")
        try:
            found[name.strip().replace("-", "_")] = yaml_file.read_value(value)
        except ValueError:
            hint = "as in sigma=3 or sigma=1..5"
            raise place.error([text], "has a value that is not YAML", hint) from None
    return found


def _parse_kind(kind: str, settings: Any, place: Place) -> Degradation:
    if kind not in DEGRADATIONS:
        raise place.error([], "unknown", did_you_mean(kind, DEGRADATIONS))
    cls = DEGRADATIONS[kind]
    if issubclass(cls, Composite):
        return _parse_composite(cls, settings, place)
    if settings is not None and not isinstance(settings, Mapping):
        hint = f"write {{name: value}}; it has {', '.join(cls.model_fields)}"
        raise place.error([], f"is not a mapping but {settings!r}", hint)
    values = {str(name): value for name, value in (settings or {}).items()}
    return build_model(cls, values, place)


def _parse_composite(cls: type[Composite], settings: Any, place: Place) -> Degradation:
    short = isinstance(settings, list)
    values = {"steps": settings} if short else settings
    if not isinstance(values, Mapping) or settings == []:
        raise place.error([], "has no steps", "write them as a list")
    unknown = next((key for key in values if key not in cls.model_fields), None)
    if unknown is not None:
        raise place.error([str(unknown)], "unknown", did_you_mean(str(unknown), cls.model_fields))
    if not isinstance(values.get("steps"), list):
        hint = "write them under 'steps', or as a plain list"
        raise place.error([], "has no list of steps", hint)
    inner = place if short else place.below("steps")
    parsed = _parse_steps(values["steps"], inner, weighted=issubclass(cls, OneOf))
    if "weights" in parsed and values.get("weights"):
        raise place.error(["weights"], "is also given in the steps", "keep one of them")
    return build_model(cls, {**values, **parsed}, place)


def _parse_steps(content: list[Any], place: Place, weighted: bool = False) -> dict[str, Any]:
    """Return the ``steps`` of a list, and their ``weights`` if any has one."""
    steps = tuple(parse_spec(step, place.below(str(n))) for n, step in enumerate(content))
    weights = [step.get("weight") if isinstance(step, Mapping) else None for step in content]
    for number, weight in enumerate(weights):
        keys = [str(number), "weight"]
        if weight is not None and not weighted:
            raise place.error(keys, "has no effect here", "weights belong to the steps of one-of")
        if weight is not None and not is_number(weight):
            why = f"is not a number (got {weight!r})"
            raise place.error(keys, why, "1 is as frequent as a step without a weight")
    if all(weight is None for weight in weights):
        return {"steps": steps}
    return {"steps": steps, "weights": [1.0 if weight is None else weight for weight in weights]}


def to_spec(degradation: Degradation) -> dict[str, Any]:
    """Return the spec that ``parse_spec`` reads, with every default filled in.

    Raises ``UsageError`` for a class without a name: a recipe could not state it.
    """
    own = type(degradation)
    kind = next((kind for kind, cls in DEGRADATIONS.items() if cls is own), None)
    if kind is None:
        why = "must be a row of DEGRADATIONS, so that its corpora can be rebuilt from their recipes"
        hint = "see 'Add a degradation' in CONTRIBUTING.md"
        raise UsageError("degradation", own.__name__, why, hint)
    return PipelineStep(kind, degradation).plain()


# ------------------------------------------------------------------------------------------- help
def describe_degradations(name: str = "") -> Iterator[str]:
    """Yield a line for each degradation, or the settings of one (``UsageError``: unknown)."""
    if not name:
        width = max(map(len, DEGRADATIONS))
        for kind, cls in DEGRADATIONS.items():
            first, *_ = (cls.__doc__ or "").strip().split("\n")  # python -OO leaves no docstrings
            yield f"{kind:<{width}}  {first}"
        some = ", ".join(line.partition(":")[0] for line in SUGGESTED)
        yield f"From albumentations: {some}, ...; 'degradations albumentations' lists them"
        return
    cls = find_degradation(name)
    border = f" Beyond its border the image is {cls.border}." if cls.border else ""
    yield f"{name}: {' '.join((cls.__doc__ or '').split())}{border}"
    width = max(map(len, cls.model_fields), default=0)
    for setting, field in cls.model_fields.items():
        bounds = f"  [{bounds_of(field)}]" if bounds_of(field) else ""
        yield f"  {setting:<{width}}  {help_of(field)}{bounds}{_default_of(field)}"
    if cls is Albumentations:
        yield "Some of its transforms, as steps of a recipe:"
        yield from (f"  - albumentations: {{{line}}}" for line in SUGGESTED)


def _default_of(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "  [required]"
    if default is None or default in ((), {}, ""):
        return ""
    if isinstance(default, list):
        return f"  [default: {Uniform.parse(default)}]"
    return f"  [default: {', '.join(map(str, default)) if isinstance(default, tuple) else default}]"
