"""Shrinking and enlarging, the interpolations that it draws, and shifts of channels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PlainSerializer

from img2img_data.degradations.base import Axes, Degradation, Rng, Uniform, parameter
from img2img_data.degradations.samples import REPLICATED, FloatImage, Image, to_dtype

Interpolation = Literal["nearest", "linear", "cubic", "area", "lanczos"]

# The order is part of the corpus format: rows store a drawn interpolation as its index.
INTERPOLATIONS: Final[dict[str, int]] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_NAMES: Final = tuple(INTERPOLATIONS)
_SHIFTED_ROWS: Final = 64
_Indices = NDArray[np.intp]


Interpolations = Annotated[
    tuple[Interpolation, ...],
    Field(min_length=1),
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
    PlainSerializer(lambda names: names[0] if len(names) == 1 else list(names)),
]
"""One or more interpolations; a recipe may write a single one as a text."""


def draw_interpolations(rng: Rng, **choices: tuple[Interpolation, ...]) -> dict[str, float]:
    """Return the index of a drawn interpolation for each name with more than one choice."""
    return {
        name: _NAMES.index(among[int(rng.integers(len(among)))])
        for name, among in choices.items()
        if len(among) > 1
    }


def interpolation_flags(drawn: dict[str, Any], **choices: tuple[Interpolation, ...]) -> list[int]:
    """Return OpenCV's flag of the interpolation drawn for each name, or of its only choice."""
    names = (_NAMES[int(drawn[n])] if n in drawn else among[0] for n, among in choices.items())
    return [INTERPOLATIONS[name] for name in names]


class Resize(Degradation):
    """Shrink and enlarge again; the default factor of 4 keeps 1/16 of the area (64 > 16 > 64)."""

    # Shrinking takes means within the image; the enlargement extends the small one.
    border: ClassVar[str] = "replicated from the edge pixel of the small image (a a a | a b c)"
    keeps_mean: ClassVar[bool] = True
    separable: ClassVar[bool] = True
    """Each interpolation is, except for the clipping of cubic and Lanczos overshoot."""

    factor: Uniform = parameter(4.0, ge=1, le=64)
    """factor by which each side shrinks before it is enlarged again"""
    down: Interpolations = ("area",)
    """interpolation when shrinking; of several, each image draws one"""
    up: Interpolations = ("linear",)
    """interpolation when enlarging; of several, each image draws one"""
    identity_settings: ClassVar = {"factor": 1}

    def draw(self, rng: Rng) -> dict[str, float]:
        """Draw the factor, and the interpolations that have a choice."""
        return super().draw(rng) | draw_interpolations(rng, down=self.down, up=self.up)

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Shrink by ``drawn["factor"]`` to at least one pixel a side, enlarge to the same size."""
        height, width = image.shape[:2]
        # Along one axis the other side keeps its size, so the identity matrix gives the operator.
        sides = (("x", width), ("y", height))
        small = [max(1, round(n / drawn["factor"])) if axis in axes else n for axis, n in sides]
        down, up = interpolation_flags(drawn, down=self.down, up=self.up)
        # The small image stays float32: rounding it too would round twice.
        shrunk = cv2.resize(image.astype(np.float32), small, interpolation=down)
        return to_dtype(cv2.resize(shrunk, (width, height), interpolation=up), image)


class ChannelShift(Degradation):
    """Lateral chromatic aberration by translation: red and blue shift in opposite directions."""

    border: ClassVar[str] = REPLICATED
    keeps_mean: ClassVar[bool] = True

    x: Uniform = parameter([-2, 2], ge=-100, le=100)
    """shift of red to the right and of blue to the left, pixels"""
    y: Uniform = parameter([-2, 2], ge=-100, le=100)
    """shift of red downwards and of blue upwards, pixels"""
    identity_settings: ClassVar = {"x": 0, "y": 0}

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Shift both, linearly interpolated; an image without three channels stays as it is."""
        if image.shape[2] != 3 or not (drawn["x"] or drawn["y"]):
            return image
        # Not by cv2.remap: it takes no side above 32,766, and OpenCV 4 interpolates in 1/32 pixels.
        for channel, sign in ((0, 1), (2, -1)):
            image[..., channel] = _shift(image[..., channel], sign * drawn["y"], sign * drawn["x"])
        return image


def _shift(plane: FloatImage, down: float, right: float) -> FloatImage:
    """Return an H x W plane moved by fractions of pixels, to the bit ``scipy.ndimage.shift`` of
    order 1.
    """
    (y0, y1, y), (x0, x1, x) = map(_neighbors, plane.shape, (down, right))
    shifted = np.empty_like(plane)
    # A few rows at a time: in double precision a whole plane would take much memory.
    for top in range(0, len(plane), _SHIFTED_ROWS):
        rows = slice(top, top + _SHIFTED_ROWS)
        upper, lower = plane[y0[rows]] * (1 - y[rows, None]), plane[y1[rows]] * y[rows, None]
        left = upper[:, x0] * (1 - x) + upper[:, x1] * x
        shifted[rows] = left + lower[:, x0] * (1 - x) + lower[:, x1] * x
    return shifted


def _neighbors(count: int, by: float) -> tuple[_Indices, _Indices, NDArray[np.float64]]:
    """Return two sources of each place of a side moved ``by`` pixels, and the second's share."""
    source = np.arange(count) - by
    below = np.floor(source)
    first, second = (np.clip(below + n, 0, count - 1).astype(np.intp) for n in (0, 1))
    return first, second, source - below
