"""Degradations made of others: one after the other, one of several, in a drawn order, at another size.

What a composite draws is flat: each number stands under its step's place and kind, as in
``{"0.gaussian.sigma": 1.7, "1.one-of.branch": 2, "1.one-of.2.jpeg.quality": 40}``.

Between the steps the image is float32, so integers are rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import cv2
import numpy as np
from pydantic import Field, SkipValidation, field_serializer, model_validator

from img2img_data.degradations.base import Axes, Degradation, Image, from_unit, to_unit
from img2img_data.degradations.blur import GaussianBlur
from img2img_data.degradations.noise import GaussianNoise
from img2img_data.degradations.parameters import Uniform, parameter
from img2img_data.degradations.resample import Interpolations, draw_ways, way


class PipelineStep(NamedTuple):
    """One step of a composite: the name its kind has, and the degradation."""

    kind: str
    degradation: Degradation

    def plain(self) -> dict[str, Any]:
        """Return what a recipe says, with every default filled in."""
        return {self.kind: self.degradation.model_dump(mode="json")}


_EXAMPLE: Final = (
    PipelineStep("gaussian", GaussianBlur(sigma=Uniform(0.5, 2))),
    PipelineStep("noise", GaussianNoise()),
)


class Composite(Degradation):
    """What all composites share: their steps, and drawing them."""

    steps: Annotated[tuple[PipelineStep, ...], SkipValidation] = Field(
        (), description="the steps, each {kind: settings}"
    )

    @field_serializer("steps")
    def _plain(self, steps: tuple[PipelineStep, ...]) -> list[dict[str, Any]]:
        return [step.plain() for step in steps]

    @property
    def random(self) -> bool:
        """Whether any of its strengths or steps is."""
        return super().random or any(step.degradation.random for step in self.steps)

    def draw_step(self, place: int, rng: np.random.Generator | None) -> dict[str, float]:
        """Return what one step draws, under its place and kind."""
        kind, degradation = self.steps[place]
        return {f"{place}.{kind}.{name}": value for name, value in degradation.draw(rng).items()}

    def apply_step(self, place: int, image: Image, axes: Axes, drawn: Mapping[str, Any]) -> Image:
        """Apply one step with its share of what was drawn."""
        kind, degradation = self.steps[place]
        prefix = f"{place}.{kind}."
        own = {
            name[len(prefix) :]: value for name, value in drawn.items() if name.startswith(prefix)
        }
        return degradation.apply(image, axes, **own)

    def apply_steps(
        self, places: Sequence[int], image: Image, axes: Axes, drawn: Mapping[str, Any]
    ) -> Image:
        """Apply steps one after the other; a single one may take its own way with integers."""
        if len(places) == 1:
            return self.apply_step(places[0], image, axes, drawn)
        degraded: Image = to_unit(image)
        for place in places:
            degraded = self.apply_step(place, degraded, axes, drawn)
        return from_unit(degraded, image)


class Chain(Composite):
    """All steps, one after the other."""

    @property
    def separable(self) -> bool:
        """Where every step is."""
        return all(step.degradation.separable for step in self.steps)

    @classmethod
    def identity(cls) -> Degradation:
        """No steps."""
        return cls()

    @classmethod
    def example(cls) -> Degradation:
        """Blur, then noise."""
        return cls(steps=_EXAMPLE)

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw each step, in order."""
        drawn: dict[str, float] = {}
        for place in range(len(self.steps)):
            drawn |= self.draw_step(place, rng)
        return drawn

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the steps in order."""
        return self.apply_steps(range(len(self.steps)), image, axes, drawn)


class OneOf(Composite):
    """One of the steps, drawn by weight; with ``probability`` below 1 sometimes none."""

    weights: tuple[float, ...] = Field(
        (), description="how often each step is taken, relative to the others  [default: equally]"
    )
    probability: float = Field(
        1.0, ge=0, le=1, description="chance that anything is done at all, 0 to 1"
    )

    @model_validator(mode="after")
    def _check_weights(self) -> OneOf:
        if self.weights and len(self.weights) != len(self.steps):
            raise ValueError(f"{len(self.weights)} weights for {len(self.steps)} steps")
        if self.weights and (min(self.weights) < 0 or not 0 < sum(self.weights) < float("inf")):
            raise ValueError("weights are 0 or more, and not all 0")
        return self

    @property
    def random(self) -> bool:
        """Whether the branch, or something in a branch that may be taken, is drawn."""
        if self.probability == 0 or not self.steps:
            return False
        able = [s for s, w in zip(self.steps, self._shares(), strict=True) if w > 0]
        return len(able) > 1 or self.probability < 1 or any(s.degradation.random for s in able)

    def _shares(self) -> tuple[float, ...]:
        return self.weights or (1.0,) * len(self.steps)

    @classmethod
    def identity(cls) -> Degradation:
        """Never anything."""
        return cls(probability=0.0)

    @classmethod
    def example(cls) -> Degradation:
        """Blur three times as often as noise, sometimes neither."""
        return cls(steps=_EXAMPLE, weights=(3, 1), probability=0.9)

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw the branch (-1: none) and what it draws."""
        place = self._branch(rng)
        return {"branch": place} | (self.draw_step(place, rng) if place >= 0 else {})

    def _branch(self, rng: np.random.Generator | None) -> int:
        if self.probability == 0 or not self.steps:
            return -1
        able = [place for place, share in enumerate(self._shares()) if share > 0]
        if self.probability == 1 and len(able) == 1:
            return able[0]
        if rng is None:
            raise ValueError("a random degradation needs a generator")
        if self.probability < 1 and rng.random() >= self.probability:
            return -1
        at = rng.random() * sum(self._shares())
        for place in able:
            at -= self._shares()[place]
            if at < 0:
                return place
        return able[-1]

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the branch that was drawn."""
        place = int(drawn["branch"])
        return image.copy() if place < 0 else self.apply_step(place, image, axes, drawn)


class Shuffle(Composite):
    """All steps, in an order that each image draws (BSRGAN: Zhang et al., ICCV 2021)."""

    @property
    def random(self) -> bool:
        """Whether there is an order to draw, or a step draws."""
        return len(self.steps) > 1 or super().random

    @classmethod
    def identity(cls) -> Degradation:
        """No steps."""
        return cls()

    @classmethod
    def example(cls) -> Degradation:
        """Blur and noise, whichever comes first."""
        return cls(steps=_EXAMPLE)

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw the order ("order.0" is the place of the step that comes first), then each step as listed."""
        order = [0] * len(self.steps)
        if len(order) > 1:
            if rng is None:
                raise ValueError("a random degradation needs a generator")
            order = [int(place) for place in rng.permutation(len(order))]
        drawn: dict[str, float] = {f"order.{turn}": place for turn, place in enumerate(order)}
        for place in range(len(self.steps)):
            drawn |= self.draw_step(place, rng)
        return drawn

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the steps in the order that was drawn."""
        order = [int(drawn[f"order.{turn}"]) for turn in range(len(self.steps))]
        return self.apply_steps(order, image, axes, drawn)


class AtScale(Composite):
    """Bring the image to another size, apply the steps there, bring it back: noise grows with it."""

    scale: Uniform = parameter(
        0.25,
        gt=0.01,
        le=4,
        description="size of each side there, times the side here; 1 is the same",
    )
    down: Interpolations = Field(
        ("area",), description="interpolation when shrinking; of several each image draws one"
    )
    up: Interpolations = Field(
        ("linear",), description="interpolation when enlarging; of several each image draws one"
    )

    @property
    def random(self) -> bool:
        """Whether the scale, an interpolation or a step draws."""
        return super().random or len(self.down) > 1 or len(self.up) > 1

    @classmethod
    def identity(cls) -> Degradation:
        """The same size, no steps."""
        return cls(scale=Uniform(1.0))

    @classmethod
    def example(cls) -> Degradation:
        """Blur and noise at about half the size, by interpolations that are drawn."""
        return cls(
            steps=_EXAMPLE, scale=Uniform(0.4, 1.5), down=("area", "linear"), up=("linear", "cubic")
        )

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw the scale, the interpolations where there are several, then each step."""
        drawn = super().draw(rng) | draw_ways(rng, down=self.down, up=self.up)
        for place in range(len(self.steps)):
            drawn |= self.draw_step(place, rng)
        return drawn

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Resize by ``drawn["scale"]`` to at least one pixel a side, apply the steps, resize back."""
        height, width = image.shape[:2]
        scale = drawn["scale"]
        there = max(1, round(width * scale)), max(1, round(height * scale))
        shrink, enlarge = way("down", self.down, drawn), way("up", self.up, drawn)
        first, second = (shrink, enlarge) if scale <= 1 else (enlarge, shrink)
        degraded = _resized(to_unit(image), there, first)
        for place in range(len(self.steps)):
            degraded = self.apply_step(place, degraded, "yx", drawn)
        return from_unit(_resized(degraded, (width, height), second), image)


def _resized(image: Image, size: tuple[int, int], interpolation: int) -> Image:
    resized = cv2.resize(image, size, interpolation=interpolation)
    return np.clip(resized.reshape(size[1], size[0], image.shape[2]), 0, 1)


COMPOSITES: Final[dict[str, type[Composite]]] = {
    "chain": Chain,
    "one-of": OneOf,
    "shuffle": Shuffle,
    "at-scale": AtScale,
}
