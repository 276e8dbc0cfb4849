"""Degradations that add noise. The field is made again from a drawn seed, so that a row replays it.

Strengths are standard deviations in gray levels of 0..255, for images of any depth.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from img2img_data.degradations.base import Degradation, Image, generator, luma
from img2img_data.degradations.parameters import Uniform, parameter

Unit = NDArray[np.float32]

_NONE: Final = 1e-4
"""Standard deviation in gray levels below which noise is none: it could not change even a 16-bit sample."""


def _sigma(default: float, what: str) -> Any:
    return parameter(default, ge=0, le=255, description=f"{what}, gray levels (0 to 255)")


_GRAY: Final = "chance that all channels get the same noise, 0 to 1"


class Noise(Degradation):
    """Noise with a chance of being gray. ``field`` makes what is added."""

    seeded: ClassVar[bool] = True

    gray: float = Field(0.0, ge=0, le=1, description=_GRAY)

    @classmethod
    def identity(cls) -> Degradation:
        """No noise."""
        return cls.model_validate({"sigma": 0})

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw the strength, whether the noise is gray (0 or 1), and the seed of the field."""
        drawn = {name: strength.draw(rng) for name, strength in self.ranges().items()}
        if rng is not None and 0 < self.gray < 1:
            drawn["gray"] = int(rng.random() < self.gray)
        return drawn | self._seed(rng)

    def degrade(self, image: Unit, **drawn: Any) -> Image:
        """Add the field of ``drawn["seed"]``."""
        if drawn["sigma"] < _NONE:
            return image
        gray = bool(drawn.get("gray", self.gray)) and image.shape[2] > 1
        image += self.field(image, drawn["sigma"] / 255, gray, generator(drawn["seed"]))
        return image

    def field(self, image: Unit, sigma: float, gray: bool, rng: np.random.Generator) -> Image:
        """Return what is added to H x W x C in [0, 1], H x W x 1 where ``gray``; ``sigma`` in that unit."""
        raise NotImplementedError


def _normal(image: Unit, gray: bool, rng: np.random.Generator) -> Unit:
    return rng.standard_normal((*image.shape[:2], 1 if gray else image.shape[2]), np.float32)


class GaussianNoise(Noise):
    """Gaussian noise, independent of the image."""

    sigma: Uniform = _sigma(10, "standard deviation of the noise")

    def field(self, image: Unit, sigma: float, gray: bool, rng: np.random.Generator) -> Image:
        """Return sigma times a standard normal."""
        noise = _normal(image, gray, rng)
        noise *= np.float32(sigma)
        return noise


class GrayNoise(Degradation):
    """Gaussian noise that is the same in all channels."""

    seeded: ClassVar[bool] = True

    sigma: Uniform = _sigma(10, "standard deviation of the noise")

    @classmethod
    def identity(cls) -> Degradation:
        """No noise."""
        return cls(sigma=Uniform(0.0))

    def degrade(self, image: Unit, **drawn: Any) -> Image:
        """Add one field to all channels."""
        image += _normal(image, True, generator(drawn["seed"])) * np.float32(drawn["sigma"] / 255)
        return image


class Speckle(Noise):
    """Speckle: Gaussian noise in proportion to the brightness."""

    sigma: Uniform = _sigma(10, "standard deviation of the noise at white")

    def field(self, image: Unit, sigma: float, gray: bool, rng: np.random.Generator) -> Image:
        """Return image times sigma times a standard normal."""
        noise = _normal(image, gray, rng)
        noise *= np.float32(sigma)
        return noise * image


class Poisson(Noise):
    """Shot noise of a sensor: each sample is a count of photons, (255 / sigma)^2 of them at white.

    At a gray level g the standard deviation is sigma x sqrt(g / 255). Gray noise is that of the luma.
    """

    sigma: Uniform = _sigma(10, "standard deviation of the noise at white")

    def field(self, image: Unit, sigma: float, gray: bool, rng: np.random.Generator) -> Image:
        """Return counted minus expected."""
        photons = 1 / sigma**2
        clean = np.clip(luma(image) if gray else image, 0, 1)
        return np.asarray(rng.poisson(clean * photons) / photons - clean, np.float32)


NOISES: Final[dict[str, type[Degradation]]] = {
    "noise": GaussianNoise,
    "gray-noise": GrayNoise,
    "speckle": Speckle,
    "poisson": Poisson,
}
