"""Degradation base class, and the ranges that its parameters are drawn from.

::

    sigma: 3                 always 3
    sigma: [0.2, 3]          uniform between the ends           on the command line: 0.2..3
    sigma: [0.2, 3, log]     uniform in the logarithm           on the command line: 0.2..3 log

A degradation is a frozen model with two functions: ``draw`` returns the parameters of one image,
``apply`` degrades the image with them. Most kinds only declare their parameters and implement
``degrade``; drawing, bit depth, rounding and clipping are done here.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field

from img2img_data.core.errors import UsageError
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.degradations.samples import FloatImage, Image, from_unit, to_unit
from img2img_data.images.pixels import to_array

Axes = Literal["yx", "y", "x"]
Rng = np.random.Generator

SEEDS: Final = 1 << 53
"""Exclusive upper limit of drawn seeds: JSON readers keep every integer up to here exactly."""

_NUMBER: Final = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?"
_PATTERN: Final = rf"^\s*{_NUMBER}\s*(\.\.\s*{_NUMBER}\s*( log)?)?$"
"""Pattern of a range as text, for editors that read the JSON Schema; ``parse`` decides."""
_BOUNDS: Final = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}


# ------------------------------------------------------------------------------------- parameters
def parameter(default: float | list[float | str] | None, **about: Any) -> Any:
    """Return the field of a parameter: a default as in a recipe, and bounds.

    The docstring below the field is its help.
    """
    return Field(default, json_schema_extra=_bound, **about)


def _bound(schema: dict[str, Any]) -> None:
    """Move the bounds of a field, in JSON Schema, to the number and to both ends of the range."""
    bounds = {_BOUNDS[key]: schema.pop(key) for key in list(schema) if key in _BOUNDS}
    for part in schema.get("anyOf", ()):
        _bound(part)
        for number in (part, *part.get("prefixItems", ())):
            if number.get("type") in {"number", "integer"}:
                number.update(bounds)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform distribution from ``low`` to ``high``; with ``log`` of the logarithm.

    Equal ends are one number, which never uses the generator.
    """

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
            raise ValueError(f"the range is reversed: {low:g} > {high:g}")
        if self.log and low <= 0:
            raise ValueError("a logarithmic range must start above 0")
        object.__setattr__(self, "low", self._checked(low))
        object.__setattr__(self, "high", self._checked(high))

    def _checked(self, value: float) -> float:
        return value

    @property
    def fixed(self) -> bool:
        """True if the range is one number."""
        return self.low == self.high

    def draw(self, rng: Rng) -> float:
        """Return the number for one image."""
        return self.low if self.fixed else self._drawn(rng)

    def _drawn(self, rng: Rng) -> float:
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        # exp(log(x)) may miss x by a rounding error; the ends are limits of the kernels.
        return min(max(drawn, self.low), self.high)

    # pydantic checks gt, ge, lt and le of a field with these: a bound holds for both ends.
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
        """Return the range of a number, a list or a text; ``ValueError`` says what is wrong."""
        if isinstance(value, Uniform):
            return cls(value.low, value.high, value.log)
        if isinstance(value, str):
            return cls._of_text(value)
        if isinstance(value, Sequence) and len(value) in {2, 3}:
            low, high, *scale = value
            if scale in ([], ["log"]) and all(is_number(v) for v in (low, high)):
                return cls(low, high, bool(scale))
        if is_number(value):
            return cls(value)
        raise ValueError("is neither a number nor a range [low, high] or [low, high, log]")

    @classmethod
    def _of_text(cls, text: str) -> Self:
        ends = text.removesuffix(" log")
        low, dots, high = ends.partition("..")
        try:
            bounds = float(low), float(high if dots else low)
        except ValueError:
            expected = "a number nor a range LOW..HIGH or 'LOW..HIGH log'"
            raise ValueError(f"is neither {expected}") from None
        return cls(*bounds, ends != text)

    def plain(self) -> float | list[float | str]:
        """Return the number, or the list that ``parse`` reads, as a recipe holds it."""
        if self.fixed:
            return self.low
        return [self.low, self.high, "log"] if self.log else [self.low, self.high]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        serialization = core_schema.plain_serializer_function_ser_schema(cls.plain)
        return core_schema.no_info_plain_validator_function(cls.parse, serialization=serialization)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        number = {"type": cls.json_type}
        pair: dict[str, Any] = {"type": "array", "minItems": 2, "maxItems": 3}
        pair["prefixItems"] = [dict(number), dict(number), {"const": "log"}]
        return {"anyOf": [dict(number), pair, {"type": "string", "pattern": _PATTERN}]}


class IntRange(Uniform):
    """Uniform distribution of integers, both ends included."""

    __slots__ = ()
    metavar: ClassVar[str] = "INTEGER|LOW..HIGH"
    json_type: ClassVar[str] = "integer"

    def _checked(self, value: float) -> float:
        if value != int(value):
            raise ValueError(f"{value:g} is not an integer")
        return int(value)

    def _drawn(self, rng: Rng) -> float:
        if self.log:
            # Rounding gives each integer the half-open interval around it, the ends included.
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return int(min(max(round(drawn), self.low), self.high))
        return int(rng.integers(int(self.low), int(self.high) + 1))


class OddInt(IntRange):
    """Uniform distribution of odd integers, both ends included."""

    __slots__ = ()
    metavar: ClassVar[str] = "ODD|LOW..HIGH"

    def _checked(self, value: float) -> float:
        if value % 2 != 1:  # 0 if even, a fraction if not an integer
            raise ValueError(f"{value:g} is not odd")
        return int(value)

    def _drawn(self, rng: Rng) -> float:
        if self.log:
            # Each odd integer has the interval around it, from one even neighbor to the other.
            low = max(self.low - 1, 0.5)
            drawn = math.exp(rng.uniform(math.log(low), math.log(self.high + 1)))
            return int(min(max(2 * (drawn // 2) + 1, self.low), self.high))
        return 2 * int(rng.integers(int(self.low) // 2, int(self.high) // 2 + 1)) + 1


_MODES: Final = ("L", "RGB", "RGBA", "I;16", "F")
"""Modes of PIL images whose samples are colors."""


def is_number(value: Any) -> bool:
    """Return True for a real number, of NumPy too; booleans are integers in Python, not here."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------ degradation
class Degradation(FrozenModel):
    """Base class of all degradations.

    A subclass declares each parameter as a field of type ``Uniform`` (or ``IntRange``, ``OddInt``)
    and implements ``degrade``; ``seeded = True`` adds a seed to the drawn parameters. A kind that
    is faster or more exact on integers, or draws other parameters, overrides ``apply`` and
    ``draw``.

    A degradation is callable, so other libraries can use it as a transform. Wrap it in a function
    at the top of a module, not in a lambda, so that DataLoader workers can pickle it::

        def degraded(image, **about):
            return degrade(image, seed=None)[0]

        albumentations.Lambda(image=degraded)
        torchvision.transforms.Lambda(degraded)
    """

    model_config = ConfigDict(validate_default=True)

    help_in_hints: ClassVar[bool] = True
    """True: the hint about a wrong value is the help of its parameter, which no --help shows."""
    border: ClassVar[str] = ""
    """Extension of the image, where pixels beyond its border count, as ``samples.MIRRORED``."""
    seeded: ClassVar[bool] = False
    keeps_mean: ClassVar[bool] = False
    """True if the mean of an image stays the same, but for its border, clipping and noise."""
    identity_settings: ClassVar[Mapping[str, Any] | None] = None
    """Settings that leave every image unchanged, None if there are none."""
    example_settings: ClassVar[Mapping[str, Any]] = {}
    """Settings with a visible effect, if the defaults have none."""

    def __call__(self, image: Any, seed: int | None = 0) -> tuple[Image, dict[str, float]]:
        """Return a degraded copy of an image, an array, and the parameters that were drawn.

        ``image`` is H x W or H x W x C of uint8, uint16 or float32 in [0, 1], with 1 to 4 channels,
        or a PIL image of mode L or RGB; the copy has its shape and dtype. Equal seeds
        draw equal parameters, so by default all calls do; None draws new ones in each call. Raises
        UsageError for an array with other axes, types or values.
        """
        mode = getattr(image, "mode", None)
        hint = "pass H x W or H x W x C, uint8, uint16 or float32 in [0, 1]"
        if isinstance(mode, str) and mode not in _MODES:
            raise UsageError("image", None, f"has mode {mode}", "convert it to L or RGB")
        pixels = to_array(image, hint)
        if pixels.ndim not in (2, 3) or pixels.dtype not in (np.uint8, np.uint16, np.float32):
            why = f"has {pixels.ndim} axes of {pixels.dtype}"
            raise UsageError("image", None, why, hint)
        if not pixels.size or pixels.shape[2:] not in {(), (1,), (2,), (3,), (4,)}:
            raise UsageError("image", None, f"is {' x '.join(map(str, pixels.shape))}", hint)
        low, high = float(pixels.min()), float(pixels.max())
        # Not 0 and 1: samples may overshoot, as those of a sharpened image do. NaN fails too.
        if pixels.dtype == np.float32 and not (low >= -0.5 and high <= 2):
            raise UsageError("image", None, f"has values from {low:g} to {high:g}", hint)
        if seed is not None and seed < 0:
            raise UsageError("seed", str(seed), "is negative", "give a whole number, or None")
        rng = np.random.default_rng() if seed is None else generator(seed)
        drawn: dict[str, Any] = self.draw(rng)
        return self.apply(pixels, **drawn), drawn

    @property
    def separable(self) -> bool:
        """True if degraded = R x image x C^T, with R and C from ``apply`` along one axis."""
        return False

    @classmethod
    def example(cls) -> Degradation:
        """Return a degradation with a visible effect; the laws of the tests run on it."""
        return cls.model_validate(cls.example_settings)

    def ranges(self) -> dict[str, Uniform]:
        """Return the parameters that each image may draw, by name."""
        found = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in found if isinstance(value, Uniform)}

    @property
    def fixed_parameters(self) -> dict[str, float] | None:
        """The parameters of every image, None if images draw their own."""
        # A kind that draws other parameters may do so whatever its ranges.
        if self.seeded or type(self).draw is not Degradation.draw:
            return None
        ranges = self.ranges()
        draws = any(not value.fixed for value in ranges.values())
        return None if draws else {name: value.low for name, value in ranges.items()}

    def draw(self, rng: Rng) -> dict[str, float]:
        """Return the parameters of one image; ``apply`` gives the same pixels for them, always."""
        # In the order of the fields: a field put before others changes what every seed draws.
        drawn = {name: value.draw(rng) for name, value in self.ranges().items()}
        return drawn | self._draw_last(rng) if self.seeded else drawn

    def _draw_last(self, rng: Rng) -> dict[str, float]:
        """Return what is drawn after the parameters by a kind that is ``seeded``."""
        return {"seed": int(rng.integers(SEEDS))}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Return a degraded copy of the same shape and dtype, rounded once, at the end.

        ``axes`` restricts a separable degradation to the columns ("y") or the rows ("x") of the
        image; the others ignore it.
        """
        return from_unit(self.degrade(to_unit(image), **drawn), image)

    def _by_channel(self, image: Image, **drawn: Any) -> Image:
        """Return an image, H x W x C, with each channel degraded on its own.

        For functions that do not take C channels at once.
        """
        channels = (np.ascontiguousarray(image[..., c]) for c in range(image.shape[2]))
        return np.stack([self.apply(channel, **drawn) for channel in channels], -1)

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Return the degraded image, H x W x C in [0, 1]. ``image`` is a copy, safe to modify."""
        raise NotImplementedError


def generator(seed: float) -> np.random.Generator:
    """Return the generator of a drawn seed."""
    # PCG64 by name: the rows of a corpus must replay even if NumPy changes its default.
    return np.random.Generator(np.random.PCG64(int(seed)))
