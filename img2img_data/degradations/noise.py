"""Noise. Rows keep the seed of a noise field, never the field: ``apply`` draws it again.

Standard deviations are in gray levels (0 to 255), whatever the bit depth of the image.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
from pydantic import Field

from img2img_data.degradations.base import Degradation, Rng, Uniform, generator, parameter
from img2img_data.degradations.samples import FloatImage, Image, luma

_NONE: Final = 1e-4
"""Standard deviation in gray levels below which noise is none: too weak for a 16-bit sample."""


class Noise(Degradation):
    """Base class of noises of ``sigma`` gray levels; Gaussian without another ``field``."""

    keeps_mean: ClassVar[bool] = True
    seeded: ClassVar[bool] = True
    identity_settings: ClassVar = {"sigma": 0}

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Add the noise field of ``drawn["seed"]``."""
        if drawn["sigma"] >= _NONE:
            gray, rng = bool(drawn.get("gray")), generator(drawn["seed"])
            image += self.field(image, drawn["sigma"] / 255, gray, rng)
        return image

    def field(self, image: FloatImage, sigma: float, gray: bool, rng: Rng) -> FloatImage:
        """Return the noise of ``image``: H x W x C, H x W x 1 if ``gray``; ``sigma`` in [0, 1].

        Here Gaussian and independent of the image.
        """
        shape = (*image.shape[:2], 1 if gray else image.shape[2])
        return rng.standard_normal(shape, np.float32) * np.float32(sigma)


class MixedNoise(Noise):
    """Base class of noises that may be gray."""

    gray: float = Field(0.0, ge=0, le=1)
    """probability that all channels get the same noise, 0 to 1"""

    def _draw_last(self, rng: Rng) -> dict[str, float]:
        """Draw ``gray`` (0 or 1) if its chance is neither, then the seed."""
        # Parameters, gray, seed: this order is part of the corpus format.
        gray = {"gray": int(rng.random() < self.gray)} if 0 < self.gray < 1 else {}
        return gray | super()._draw_last(rng)

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Add gray noise if it was drawn, or if its chance is 1."""
        return super().degrade(image, **{"gray": self.gray, **drawn})


class GaussianNoise(MixedNoise):
    """Gaussian noise, independent of the image."""

    sigma: Uniform = parameter(10, ge=0, le=255)
    """standard deviation of the noise, gray levels (0 to 255)"""


class GrayNoise(Noise):
    """Gaussian noise that is the same in all channels."""

    sigma: Uniform = parameter(10, ge=0, le=255)
    """standard deviation of the noise, gray levels (0 to 255)"""

    def field(self, image: FloatImage, sigma: float, gray: bool, rng: Rng) -> FloatImage:
        """Return one field for all channels."""
        return super().field(image, sigma, True, rng)


class ChromaNoise(Noise):
    """Gaussian noise of the color alone: the BT.601 luma of every pixel stays the same."""

    sigma: Uniform = parameter(20, ge=0, le=255)
    """standard deviation of the noise before its luma is taken out, gray levels (0 to 255)"""

    def field(self, image: FloatImage, sigma: float, gray: bool, rng: Rng) -> FloatImage:
        """Return a field without luma; an image without three channels has no color."""
        noise = super().field(image, sigma, gray, rng)
        return noise - luma(noise) if image.shape[2] == 3 else np.zeros_like(image)


class SpeckleNoise(MixedNoise):
    """Speckle: Gaussian noise in proportion to the brightness."""

    sigma: Uniform = parameter(10, ge=0, le=255)
    """standard deviation of the noise at white, gray levels (0 to 255)"""

    def field(self, image: FloatImage, sigma: float, gray: bool, rng: Rng) -> FloatImage:
        """Return the image times sigma times a standard normal field."""
        return super().field(image, sigma, gray, rng) * image


class PoissonNoise(MixedNoise):
    """Shot noise of a sensor: each sample is a count of photons, (255 / sigma)^2 of them at white.

    At a gray level g the standard deviation is sigma x sqrt(g / 255). Gray noise is that of the
    luma.
    """

    sigma: Uniform = parameter(10, ge=0, le=255)
    """standard deviation of the noise at white, gray levels (0 to 255)"""

    def field(self, image: FloatImage, sigma: float, gray: bool, rng: Rng) -> FloatImage:
        """Return the counted minus the expected brightness."""
        # A Poisson count has the variance of its mean: sigma is 1 / sqrt(photons) at white.
        photons = 1 / sigma**2
        clean = np.clip(luma(image) if gray else image, 0, 1)
        return np.asarray(rng.poisson(clean * photons) / photons - clean, np.float32)
