"""Degradations that combine others: in sequence, one of several, in random order, at another size.

Drawn parameters of a composite are flat: the name of each is prefixed with the index and the kind
of its step, as in ``{"0.gaussian.sigma": 1.7, "1.one-of.branch": 2, "1.one-of.2.jpeg.quality":
40}``.

Between the steps the image is float32, so integers are rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, NamedTuple

import cv2
import numpy as np
from pydantic import Field, SkipValidation, field_serializer, model_validator

from img2img_data.degradations import resample
from img2img_data.degradations.base import Axes, Degradation, Rng, Uniform, parameter
from img2img_data.degradations.blur import GaussianBlur
from img2img_data.degradations.noise import GaussianNoise
from img2img_data.degradations.samples import Image, from_unit, to_unit
from img2img_data.images.io import check_pixels


class PipelineStep(NamedTuple):
    """A degradation and the name of its kind."""

    kind: str
    degradation: Degradation

    def plain(self) -> dict[str, Any]:
        """Return the step as a recipe holds it, with every default filled in."""
        return {self.kind: self.degradation.model_dump(mode="json")}


_EXAMPLE: Final = (
    PipelineStep("gaussian", GaussianBlur(sigma=Uniform(0.5, 2))),
    PipelineStep("noise", GaussianNoise()),
)


class Composite(Degradation):
    """Base class of degradations with steps; draws and applies them in the order of the list."""

    identity_settings: ClassVar[Mapping[str, Any] | None] = {}
    example_settings: ClassVar[Mapping[str, Any]] = {"steps": _EXAMPLE}

    # Steps are validated where a recipe is read (``spec``), which can name the key of a mistake.
    steps: Annotated[tuple[PipelineStep, ...], SkipValidation] = ()
    """the steps, each {kind: settings}"""

    @field_serializer("steps")
    def _plain(self, steps: tuple[PipelineStep, ...]) -> list[dict[str, Any]]:
        return [step.plain() for step in steps]

    def draw(self, rng: Rng) -> dict[str, float]:
        """Draw the parameters, then each step."""
        return super().draw(rng) | self._draw_steps(rng, range(len(self.steps)))

    def _draw_steps(self, rng: Rng, indices: Iterable[int]) -> dict[str, float]:
        drawn: dict[str, float] = {}
        for index in indices:
            kind, degradation = self.steps[index]
            own = degradation.draw(rng)
            drawn |= {f"{index}.{kind}.{name}": value for name, value in own.items()}
        return drawn

    def drawn_steps(self, drawn: Mapping[str, Any]) -> Iterator[tuple[Degradation, dict[str, Any]]]:
        """Yield the steps that ``apply`` takes, the first one first, each with its parameters."""
        for index in self._order(drawn):
            kind, degradation = self.steps[index]
            prefix = f"{index}.{kind}."
            own = {n.removeprefix(prefix): v for n, v in drawn.items() if n.startswith(prefix)}
            yield degradation, own

    def _order(self, drawn: Mapping[str, Any]) -> Sequence[int]:
        """Return the indices of the steps to apply, the first one first."""
        return range(len(self.steps))

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the drawn steps in their order."""
        steps = list(self.drawn_steps(drawn))
        if not steps:
            return image.copy()
        # A single step may be more exact on integers than by way of floats.
        if len(steps) == 1:
            return steps[0][0].apply(image, axes, **steps[0][1])
        # Float32 between the steps: weak blurs that are rounded each time change nothing.
        degraded: Image = to_unit(image)
        for degradation, own in steps:
            degraded = degradation.apply(degraded, axes, **own)
        return from_unit(degraded, image)


class Chain(Composite):
    """All steps, one after the other."""

    @property
    def separable(self) -> bool:
        """True if every step is."""
        return all(step.degradation.separable for step in self.steps)


class OneOf(Composite):
    """One of the steps, drawn by weight; with ``probability`` below 1 sometimes none."""

    weights: tuple[float, ...] = ()
    """relative frequency of each step  [default: equal]"""
    probability: float = Field(1.0, ge=0, le=1)
    """probability of applying any step, 0 to 1"""
    identity_settings: ClassVar = {"probability": 0}
    example_settings: ClassVar = {"steps": _EXAMPLE, "weights": (3, 1), "probability": 0.9}

    @model_validator(mode="after")
    def _check_weights(self) -> OneOf:
        if self.weights and len(self.weights) != len(self.steps):
            raise ValueError(f"{len(self.weights)} weights for {len(self.steps)} steps")
        if self.weights and (min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf")):
            raise ValueError("weights must be 0 or more, and not all 0")
        return self

    def draw(self, rng: Rng) -> dict[str, float]:
        """Draw the branch (-1: none), then its parameters."""
        drawn: dict[str, float] = {"branch": self._draw_branch(rng)}
        return drawn | self._draw_steps(rng, self._order(drawn))

    def _draw_branch(self, rng: Rng) -> int:
        weights = self.weights or (1.0,) * len(self.steps)
        branches = [i for i, weight in enumerate(weights) if self.probability > 0 and weight > 0]
        if not branches:
            return -1
        if self.probability == 1 and len(branches) == 1:
            return branches[0]
        if self.probability < 1 and rng.random() >= self.probability:
            return -1
        at = rng.random() * sum(weights)
        for index in branches:
            at -= weights[index]
            if at < 0:
                return index
        return branches[-1]  # rounding errors of the sum

    def _order(self, drawn: Mapping[str, Any]) -> Sequence[int]:
        return [] if drawn["branch"] < 0 else [int(drawn["branch"])]


class Shuffle(Composite):
    """All steps, in an order that each image draws (BSRGAN: Zhang et al., ICCV 2021)."""

    def draw(self, rng: Rng) -> dict[str, float]:
        """Draw the order ("order.0" is the index of the first step), then each step as listed."""
        order = enumerate(rng.permutation(len(self.steps)))
        drawn: dict[str, float] = {f"order.{n}": int(step) for n, step in order}
        return drawn | super().draw(rng)

    def _order(self, drawn: Mapping[str, Any]) -> Sequence[int]:
        return [int(drawn[f"order.{n}"]) for n in range(len(self.steps))]


class AtScale(Composite):
    """Resize the image, apply the steps, resize it back, which scales their noise too."""

    scale: Uniform = parameter(0.25, gt=0.01, le=4)
    """size of each side, relative to the image; 1 is the same"""
    down: resample.Interpolations = ("area",)
    """interpolation when shrinking; of several, each image draws one"""
    up: resample.Interpolations = ("linear",)
    """interpolation when enlarging; of several, each image draws one"""
    identity_settings: ClassVar = {"scale": 1}
    # About half the size, with drawn interpolations.
    _several: ClassVar = {"down": ["area", "linear"], "up": ["linear", "cubic"]}
    example_settings: ClassVar = {"steps": _EXAMPLE, "scale": [0.4, 1.5], **_several}

    def draw(self, rng: Rng) -> dict[str, float]:
        """Draw the scale, the interpolations that have a choice, then each step."""
        scale = {"scale": self.scale.draw(rng)}
        resizing = resample.draw_interpolations(rng, down=self.down, up=self.up)
        return scale | resizing | self._draw_steps(rng, range(len(self.steps)))

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the steps at ``drawn["scale"]`` times the size, at least one pixel a side.

        Raises ``Rejected`` if that is too large.
        """
        height, width = image.shape[:2]
        scale = drawn["scale"]
        size = max(1, round(width * scale)), max(1, round(height * scale))
        check_pixels(*size, f" at {scale:g} times its size (a smaller --size needs less)")
        down, up = resample.interpolation_flags(drawn, down=self.down, up=self.up)
        first, second = (down, up) if scale <= 1 else (up, down)
        degraded = _resize(to_unit(image), size, first)
        for degradation, own in self.drawn_steps(drawn):
            # All axes, always: with another size between, the whole is not separable.
            degraded = degradation.apply(degraded, "yx", **own)
        return from_unit(_resize(degraded, (width, height), second), image)


def _resize(image: Image, size: tuple[int, int], interpolation: int) -> Image:
    resized = cv2.resize(image, size, interpolation=interpolation)
    return np.clip(resized.reshape(size[1], size[0], image.shape[2]), 0, 1)
