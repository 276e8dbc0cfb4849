"""How sources become pairs: what stands on the left, and what on the right.

Adding a pairing: write a frozen model with ``make`` and give it a row in ``PAIRINGS``. Which files of two
folders belong together is decided in ``matching``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from img2img_data import images
from img2img_data.corpus import Colour
from img2img_data.degradations import DEGRADATIONS, Degradation, Gaussian

Pixels = NDArray[Any]


class Made(NamedTuple):
    """One pair in memory, the parameters that were drawn for it, and what was measured on it."""

    input: Pixels
    target: Pixels
    drawn: dict[str, float]
    measured: dict[str, float]


class Pairing(BaseModel):
    """What every pairing is: frozen settings and ``make``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    colour: ClassVar[Colour] = "rgb"

    @property
    def random(self) -> bool:
        """Whether ``make`` uses its generator."""
        return False

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Make a pair from upright H x W x 3 RGB pictures, one for each source of the pair."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Return what the recipe in corpus.json says about this pairing."""
        return {"pairing": _name_of(type(self), PAIRINGS), **self.model_dump(mode="json")}


class Degrade(Pairing):
    """Input: the picture, spoiled. Target: the picture itself."""

    degradation: Degradation = Field(Gaussian(), description="what spoils the input")

    @property
    def random(self) -> bool:
        """As the degradation says."""
        return self.degradation.random

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Draw, then apply; the target is the very array that came in."""
        drawn = self.degradation.draw(rng)
        return Made(self.degradation.apply(pictures[0], "yx", **drawn), pictures[0], drawn, {})

    def settings(self) -> dict[str, Any]:
        """Name the kind of degradation beside its parameters."""
        kind = _name_of(type(self.degradation), DEGRADATIONS)
        return {"pairing": "degrade", "kind": kind, **self.degradation.model_dump(mode="json")}


class Combine(Pairing):
    """Input: one picture. Target: the other of the pair. Both upright and of one size."""

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Put the two side by side, unchanged."""
        return Made(pictures[0], pictures[1], {}, {})


class Colorize(Pairing):
    """Input: the L plane. Target: the Lab picture (D65; 8 bit: L*255/100, a+128, b+128)."""

    colour: ClassVar[Colour] = "lab"
    bits: Literal[8, 16] = Field(8, description="bits per Lab sample; 16 comes back within one level")

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Convert, and measure what the way there and back costs."""
        there, back_again = _LAB[self.bits]
        lab = there(pictures[0])
        back = back_again(lab)
        error = np.abs(back.astype(np.int16) - pictures[0])
        measured = {"round_trip_max": float(error.max()), "round_trip_mean": round(float(error.mean()), 4)}
        return Made(np.ascontiguousarray(lab[..., 0]), lab, {}, measured)


_LAB: Final[dict[int, tuple[Callable[[Pixels], Pixels], Callable[[Pixels], Pixels]]]] = {
    8: (images.rgb_to_lab8, images.lab8_to_rgb),
    16: (images.rgb_to_lab16, images.lab16_to_rgb),
}


class Keep(Pairing):
    """One picture as it is: a domain of an unpaired corpus."""

    def make(self, pictures: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Return the picture twice; an unpaired corpus writes the target alone."""
        return Made(pictures[0], pictures[0], {}, {})


PAIRINGS: Final[dict[str, type[Pairing]]] = {
    "degrade": Degrade,
    "combine": Combine,
    "lab": Colorize,
    "unpaired": Keep,
}


def _name_of(cls: type[Any], names: Mapping[str, type[Any]]) -> str:
    return next(name for name, member in names.items() if member is cls)
