"""Widgets for the parameters of a degradation: sliders, boxes and lists, derived from its fields.

Bounds, defaults and texts come from the fields, so a new degradation needs no code here. A
parameter that may be a range is one number: a page shows one image, not the spread over many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from img2img_data.core.settings_model import help_of, without_none
from img2img_data.degradations.base import OddInt
from img2img_data.degradations.compose import Composite
from img2img_data.degradations.registry import DEGRADATIONS

REACH: Final = 10
"""A slider ends at this multiple of its default if the field allows more: common values are near
it.
"""


class Widget(NamedTuple):
    """A gradio component by the name of its class, and its arguments."""

    component: str
    arguments: dict[str, Any]


def all_widgets() -> dict[str, dict[str, Widget]]:
    """Return the widgets of every degradation by kind and parameter.

    Composites are left out, and kinds with a parameter that has no widget (a mapping).
    """
    found = {}
    for kind, cls in DEGRADATIONS.items():
        fields = cls.model_fields
        widgets = {name: w for name, field in fields.items() if (w := _widget(name, field))}
        if len(widgets) == len(fields) and not issubclass(cls, Composite):
            found[kind] = widgets
    return found


def settings_of(names: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    """Return the parameters that widgets with these values give; empty ones are left out."""
    filled = ((n, value) for n, value in zip(names, values, strict=True) if value not in (None, []))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in filled}


def _widget(name: str, field: FieldInfo) -> Widget | None:
    """Return the widget of a parameter, None if there is none for its type."""
    # A field without a default says in its help what an empty value means.
    info = help_of(field).replace(" [default: ", "; empty: ").removesuffix("]")
    common: dict[str, Any] = {"label": name.replace("_", " "), "info": info}
    kind = without_none(field.annotation)
    several = get_origin(kind) is tuple
    members = get_args(get_args(kind)[0] if several else kind)
    if kind is bool:
        return Widget("Checkbox", common | {"value": field.default})
    if members and Ellipsis not in members:
        value = list(field.default) if several else field.default
        choices = [(str(member), member) for member in members]
        common |= {"choices": choices, "multiselect": several}
        return Widget("Dropdown", common | {"value": value})
    if kind in (int, float) or hasattr(kind, "json_type"):
        component, arguments = _number(field, kind)
        return Widget(component, common | arguments)
    return None


def _number(field: FieldInfo, kind: Any) -> tuple[str, dict[str, Any]]:
    """Return the slider of a number, or the box of one that may be empty or has no bounds."""
    names = ("gt", "ge", "lt", "le")
    bounds = {n: getattr(m, n) for m in field.metadata for n in names if hasattr(m, n)}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    integer, default = kind is int or getattr(kind, "json_type", "") == "integer", field.default
    if default is None or low is None or high is None:
        limits = {"minimum": low, "maximum": high, "precision": 0 if integer else None}
        return "Number", {"value": default, **limits}
    ends = default if isinstance(default, list) else [default, default]
    value = math.sqrt(ends[0] * ends[1]) if "log" in ends else (ends[0] + ends[1]) / 2
    reach = REACH * max(map(abs, ends[:2]))
    high = reach if 0 <= low < reach < high else high
    step: float = 10.0 ** math.floor(math.log10(high - low) - 2)
    if integer:
        step = 2 if issubclass(kind, OddInt) else 1
    # An excluded bound is one step away.
    low, high = low + step * ("gt" in bounds), high - step * ("lt" in bounds)
    if integer:
        low = low + 1 if step == 2 and low % 2 == 0 else low
        low, high = int(low), int(low + (high - low) // step * step)
        value = low + round((value - low) / step) * step
    # Without the last digits of binary fractions, which the page would show.
    ends = [number if integer else float(f"{number:.6g}") for number in (low, high, value)]
    return "Slider", dict(zip(("minimum", "maximum", "value"), ends, strict=True), step=step)
