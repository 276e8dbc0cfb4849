"""Degradations by a smaller (or larger) image and back."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, get_args

import cv2
import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer

from img2img_data.degradations.base import Axes, Degradation, Image, to_dtype
from img2img_data.degradations.parameters import Uniform, parameter

Interpolation = Literal["nearest", "linear", "cubic", "area", "lanczos"]

INTERPOLATIONS: Final[dict[str, int]] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_NAMES: Final[tuple[str, ...]] = get_args(Interpolation)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _short(value: tuple[str, ...]) -> str | list[str]:
    return value[0] if len(value) == 1 else list(value)


Interpolations = Annotated[
    Annotated[tuple[Interpolation, ...], Field(min_length=1)],
    BeforeValidator(_listed),
    PlainSerializer(_short),
]
"""One interpolation, or several of which each image draws one."""


def draw_ways(
    rng: np.random.Generator | None, **ways: tuple[Interpolation, ...]
) -> dict[str, float]:
    """Draw an interpolation where there are several: its place in ``Interpolation``; of one, nothing."""
    drawn: dict[str, float] = {}
    for name, among in ways.items():
        if len(among) > 1:
            if rng is None:
                raise ValueError("a random degradation needs a generator")
            drawn[name] = _NAMES.index(among[int(rng.integers(len(among)))])
    return drawn


def way(name: str, among: tuple[Interpolation, ...], drawn: dict[str, Any]) -> int:
    """Return OpenCV's number of the interpolation that was drawn, or of the only one."""
    return INTERPOLATIONS[_NAMES[int(drawn[name])] if name in drawn else among[0]]


class Resize(Degradation):
    """Shrink and enlarge again. The original work's "1/16 resize" is 1/16 of the area: 64 > 16 > 64."""

    factor: Uniform = parameter(
        4.0, ge=1, le=64, description="how many times smaller each side becomes on the way"
    )
    down: Interpolations = Field(
        ("area",), description="interpolation when shrinking; of several each image draws one"
    )
    up: Interpolations = Field(
        ("linear",), description="interpolation when enlarging; of several each image draws one"
    )

    @property
    def separable(self) -> bool:
        """Each interpolation is, but for the clipping of cubic and Lanczos overshoot."""
        return True

    @property
    def random(self) -> bool:
        """Whether factor or an interpolation is drawn."""
        return super().random or len(self.down) > 1 or len(self.up) > 1

    @classmethod
    def identity(cls) -> Degradation:
        """The same size."""
        return cls(factor=Uniform(1.0))

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw the factor, and interpolations where there are several."""
        return super().draw(rng) | draw_ways(rng, down=self.down, up=self.up)

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Shrink by ``drawn["factor"]`` to at least one pixel a side, enlarge to the size it had."""
        height, width = image.shape[:2]
        small = (
            max(1, round(width / drawn["factor"])) if "x" in axes else width,
            max(1, round(height / drawn["factor"])) if "y" in axes else height,
        )
        there, back = way("down", self.down, drawn), way("up", self.up, drawn)
        shrunk = cv2.resize(image.astype(np.float32), small, interpolation=there)
        return to_dtype(cv2.resize(shrunk, (width, height), interpolation=back), image)


RESIZINGS: Final[dict[str, type[Degradation]]] = {"resize": Resize}
