"""How strong: a number, or a range that each image draws its own number from.

::

    sigma: 3                 always 3
    sigma: [0.2, 3]          uniform between the ends           on the command line: 0.2..3
    sigma: [0.2, 3, log]     uniform in the logarithm           on the command line: 0.2..3 log

``Whole`` draws whole numbers, both ends among them, ``OddInt`` odd ones. A fixed strength never touches the
generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

if TYPE_CHECKING:
    from typing import Self

    import numpy as np


def parameter(default: float | list[float | str] | None, **about: Any) -> Any:
    """Return the field of a strength: its default as a recipe writes it, bounds and ``description``."""
    return Field(default, json_schema_extra=_bound, **about)


def _bound(schema: dict[str, Any]) -> None:
    """Say the bounds of a field in JSON Schema: they hold for a number and for both ends of a range."""
    bounds = {_BOUNDS[key]: schema.pop(key) for key in list(schema) if key in _BOUNDS}
    for part in schema.get("anyOf", ()):
        _bound(part)
        for number in (part, *part.get("prefixItems", ())):
            if number.get("type") in {"number", "integer"}:
                number.update(bounds)


_NUMBER: Final = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_PATTERN: Final = rf"^\s*{_NUMBER}\s*(\.\.\s*{_NUMBER}\s*( log)?)?$"
"""What a text may look like, for editors; ``parse`` decides."""
_BOUNDS: Final = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}


@dataclass(frozen=True, slots=True)
class Uniform:
    """The numbers from ``low`` to ``high``; equal ends are one number. ``log``: uniform in the logarithm."""

    low: float
    high: float = math.nan
    log: bool = False

    metavar: ClassVar[str] = "NUMBER|LOW..HIGH"
    json_type: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        low, high = float(self.low), float(self.low if math.isnan(self.high) else self.high)
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError("is not finite")
        if low > high:
            raise ValueError(f"the range ends below its beginning, {low:g} > {high:g}")
        if self.log and low <= 0:
            raise ValueError("a logarithmic range begins above 0")
        object.__setattr__(self, "low", self._checked(low))
        object.__setattr__(self, "high", self._checked(high))

    def _checked(self, value: float) -> float:
        return value

    @property
    def fixed(self) -> bool:
        """Whether it is one number."""
        return self.low == self.high

    def draw(self, rng: np.random.Generator | None) -> float:
        """Return the number for one image; ``ValueError`` where a range has no generator to draw from."""
        if self.fixed:
            return self.low
        if rng is None:
            raise ValueError("a random degradation needs a generator")
        return self._drawn(rng)

    def _drawn(self, rng: np.random.Generator) -> float:
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(drawn, self.low), self.high)

    # A bound of a field holds when it holds for the whole range: pydantic compares with these.
    def __gt__(self, bound: float) -> bool:
        return self.low > bound

    def __ge__(self, bound: float) -> bool:
        return self.low >= bound

    def __lt__(self, bound: float) -> bool:
        return self.high < bound

    def __le__(self, bound: float) -> bool:
        return self.high <= bound

    def __str__(self) -> str:
        if self.fixed:
            return f"{self.low:g}"
        return f"{self.low:g}..{self.high:g}" + (" log" if self.log else "")

    @classmethod
    def parse(cls, value: Any) -> Self:
        """Return the range that a number, a list or a text stands for; ``ValueError`` says what is wrong."""
        if isinstance(value, Uniform):
            return cls(value.low, value.high, value.log)
        if isinstance(value, str):
            return cls._of_text(value)
        if isinstance(value, Sequence) and len(value) in {2, 3}:
            low, high, *scale = value
            if scale in ([], ["log"]) and all(_is_number(v) for v in (low, high)):
                return cls(low, high, bool(scale))
        if _is_number(value):
            return cls(value)
        raise ValueError("is neither a number nor a range [low, high] or [low, high, log]")

    @classmethod
    def _of_text(cls, text: str) -> Self:
        ends = text.removesuffix(" log")
        low, dots, high = ends.partition("..")
        try:
            numbers = float(low), float(high if dots else low)
        except ValueError:
            raise ValueError(
                "is neither a number nor a range LOW..HIGH or 'LOW..HIGH log'"
            ) from None
        return cls(*numbers, ends != text)

    def plain(self) -> float | list[float | str]:
        """Return what a recipe says: the number, or the list that ``parse`` takes."""
        if self.fixed:
            return self.low
        return [self.low, self.high, "log"] if self.log else [self.low, self.high]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        serialization = core_schema.plain_serializer_function_ser_schema(_plain)
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=serialization)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        number = {"type": cls.json_type}
        pair: dict[str, Any] = {"type": "array", "minItems": 2, "maxItems": 3}
        pair["prefixItems"] = [dict(number), dict(number), {"const": "log"}]
        return {"anyOf": [dict(number), pair, {"type": "string", "pattern": _PATTERN}]}


class IntRange(Uniform):
    """Whole numbers, both ends among them."""

    __slots__ = ()
    metavar: ClassVar[str] = "INTEGER|LOW..HIGH"
    json_type: ClassVar[str] = "integer"

    def _checked(self, value: float) -> float:
        if value != int(value):
            raise ValueError(f"{value:g} is no whole number")
        return int(value)

    def _drawn(self, rng: np.random.Generator) -> float:
        if self.log:
            # Each whole number owns the half-open stretch around it.
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return int(min(max(round(drawn), self.low), self.high))
        return int(rng.integers(int(self.low), int(self.high) + 1))


class OddInt(IntRange):
    """Odd numbers, both ends among them."""

    __slots__ = ()
    metavar: ClassVar[str] = "ODD|LOW..HIGH"

    def _checked(self, value: float) -> float:
        if value != int(value) or int(value) % 2 == 0:
            raise ValueError(f"{value:g} is not odd")
        return int(value)

    def _drawn(self, rng: np.random.Generator) -> float:
        return 2 * int(rng.integers(int(self.low) // 2, int(self.high) // 2 + 1)) + 1


def _plain(value: Any) -> Any:
    return value.plain() if isinstance(value, Uniform) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
