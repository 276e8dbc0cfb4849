"""A degradation's settings as the controls of a page: sliders, switches, choices, made from its fields.

Bounds, defaults and texts are those of the fields, so that a new degradation has its controls unasked. A
setting that may be a range is one number here: a page shows one image, not the spread over many.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from img2img_data.degradations.base import Degradation, OddInt
from img2img_data.degradations.compose import Composite
from img2img_data.degradations.registry import DEGRADATIONS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Kind: TypeAlias = Literal["slider", "number", "switch", "choice", "several"]

REACH: Final = 10
"""A slider ends at so many times its default, where the field allows far more: its middle is what is used."""
STEPS: Final = 1000


@dataclass(frozen=True, slots=True)
class Control:
    """One setting. ``low``, ``high`` and ``step`` belong to numbers, ``choices`` to choices.

    A ``number`` may be left empty; the degradation then does what its description says.
    """

    name: str
    kind: Kind
    value: Any
    about: str
    low: float | None = None
    high: float | None = None
    step: float = 1
    choices: tuple[Any, ...] = ()

    @property
    def label(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ")


def all_controls() -> dict[str, tuple[Control, ...]]:
    """Return the controls of every degradation that has only settings a page can show, by its kind.

    Left out are the composites, which hold others, and what takes a mapping.
    """
    found = {
        kind: controls_of(cls)
        for kind, cls in DEGRADATIONS.items()
        if not issubclass(cls, Composite)
    }
    return {kind: controls for kind, controls in found.items() if controls is not None}


def controls_of(cls: type[Degradation]) -> tuple[Control, ...] | None:
    """Return the controls of one degradation, None where a setting has none."""
    made = [_control(name, field) for name, field in cls.model_fields.items()]
    known = tuple(control for control in made if control is not None)
    return known if len(known) == len(made) else None


def settings_of(controls: Sequence[Control], values: Sequence[Any]) -> dict[str, Any]:
    """Return the settings that the values of some controls stand for; what was left empty is left out."""
    pairs = ((control.name, value) for control, value in zip(controls, values, strict=True))
    return {
        name: tuple(v) if isinstance(v, list) else v
        for name, v in pairs
        if v is not None and v != []
    }


def _control(name: str, field: FieldInfo) -> Control | None:
    plain, optional = _without_none(field.annotation)
    about = (field.description or "").replace("  [default: ", "; empty: ").removesuffix("]")
    if plain is bool:
        return Control(name, "switch", field.default, about)
    members, several = _members(plain)
    if members:
        listed = list(field.default) if several else field.default
        return Control(name, "several" if several else "choice", listed, about, choices=members)
    if plain is float or plain is int or hasattr(plain, "json_type"):
        return _number(name, field, plain, about, optional)
    return None


def _number(name: str, field: FieldInfo, plain: Any, about: str, optional: bool) -> Control:
    """Return the slider of a number, or the box of one that may be left empty or has no bounds."""
    bounds, default = _bounds(field), _middle(field.default)
    whole = plain is int or getattr(plain, "json_type", "") == "integer"
    odd = issubclass(plain, OddInt)
    low, high = (bounds.get(a, bounds.get(b)) for a, b in (("ge", "gt"), ("le", "lt")))
    if optional or default is None or low is None or high is None:
        return Control(name, "number", default, about, low, high, 1 if whole else 0.01)
    reach = REACH * _largest(field.default)
    high = reach if 0 <= low < reach < high else high
    step = (2.0 if odd else 1.0) if whole else _step(high - low)
    low, high = low + step * ("gt" in bounds), high - step * ("lt" in bounds)
    low += odd and low % 2 == 0
    high = low + math.floor((high - low) / step + 1e-9) * step
    value = low + round((default - low) / step) * step
    if whole:
        low, high, value, step = (int(number) for number in (low, high, value, step))
    return Control(name, "slider", _tidy(value), about, _tidy(low), _tidy(high), step)


def _bounds(field: FieldInfo) -> dict[str, float]:
    names = ("gt", "ge", "lt", "le")
    return {n: float(getattr(m, n)) for m in field.metadata for n in names if hasattr(m, n)}


def _middle(default: Any) -> float | None:
    """Return one number for a default: itself, or the middle of a range (of its logarithm, if it says so)."""
    if not isinstance(default, list):
        return None if default is None else float(default)
    low, high = float(default[0]), float(default[1])
    return math.sqrt(low * high) if "log" in default else (low + high) / 2


def _largest(default: Any) -> float:
    ends = default[:2] if isinstance(default, list) else [default]
    return max(abs(float(end)) for end in ends)


def _step(span: float) -> float:
    """Return 1, 2 or 5 times a power of ten, about a thousandth of a span."""
    power = 10.0 ** math.floor(math.log10(span / STEPS))
    return float(
        next(power * digit for digit in (1, 2, 5, 10) if power * digit * STEPS >= span * (1 - 1e-9))
    )


def _tidy(value: float) -> float:
    """Round away what binary fractions add."""
    return value if isinstance(value, int) else float(f"{value:.10g}")


def _without_none(annotation: Any) -> tuple[Any, bool]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(annotation) if a is not type(None)]
        return (inner[0] if len(inner) == 1 else None), len(inner) < len(
            typing.get_args(annotation)
        )
    return annotation, False


def _members(annotation: Any) -> tuple[tuple[Any, ...], bool]:
    """Return the members of a Literal, and whether several of them may be given."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation), False
    if typing.get_origin(annotation) is tuple:
        return _members(typing.get_args(annotation)[0])[0], True
    return (), False


def defaults_of(controls: Sequence[Control]) -> Mapping[str, Any]:
    """Return the settings as the controls stand at first."""
    return settings_of(controls, [control.value for control in controls])
