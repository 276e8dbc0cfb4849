"""Degradations of tone and color, each pixel by itself."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.degradations.base import Axes, Degradation, Image, from_unit, luma, to_unit
from img2img_data.degradations.parameters import IntRange, Uniform, parameter

Unit = NDArray[np.float32]


class Tone(Degradation):
    """A curve from sample to sample: of integers a table is made, once for all pixels."""

    def curve(self, samples: Unit, **drawn: Any) -> Image:
        """Return the new values of samples in [0, 1]."""
        raise NotImplementedError

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Look each sample up in the curve's table; float samples go through the curve itself."""
        if image.dtype.kind == "f":
            return from_unit(self.curve(to_unit(image), **drawn), image)
        levels = np.arange(np.iinfo(image.dtype).max + 1).astype(image.dtype)
        table = from_unit(np.asarray(self.curve(to_unit(levels[None])[..., 0], **drawn)), levels)
        return (
            cv2.LUT(image, table).reshape(image.shape) if image.dtype == np.uint8 else table[image]
        )


class Posterize(Tone):
    """Fewer gray levels, evenly spaced from black to white, without dithering."""

    levels: IntRange = parameter(
        [4, 32],
        ge=2,
        le=65536,
        description="gray levels left in each channel; 65536 is all of them",
    )

    @classmethod
    def identity(cls) -> Degradation:
        """Every level that 16 bits have."""
        return cls(levels=IntRange(65536))

    def curve(self, samples: Unit, **drawn: Any) -> Image:
        """Return the nearest of the levels."""
        last = np.float32(drawn["levels"] - 1)
        return samples if drawn["levels"] == 65536 else np.rint(samples * last) / last


class Gamma(Tone):
    """A power curve: above 1 darker, below 1 brighter."""

    gamma: Uniform = parameter(
        [0.5, 2, "log"], gt=0, le=20, description="exponent of the samples in 0..1; 1 is none"
    )

    @classmethod
    def identity(cls) -> Degradation:
        """The exponent 1."""
        return cls(gamma=Uniform(1.0))

    def curve(self, samples: Unit, **drawn: Any) -> Image:
        """Return samples^gamma."""
        return np.power(samples, np.float32(drawn["gamma"]))


class Desaturate(Degradation):
    """ColorSpace taken away: BT.601 luma in all three channels."""

    amount: Uniform = parameter(1.0, ge=0, le=1, description="share of the color that goes, 0 to 1")

    @classmethod
    def identity(cls) -> Degradation:
        """All the color stays."""
        return cls(amount=Uniform(0.0))

    def degrade(self, image: Unit, **drawn: Any) -> Image:
        """Mix the image with its luma; a image of one channel is gray already."""
        if image.shape[2] != 3 or drawn["amount"] == 0:
            return image
        image += (luma(image) - image) * np.float32(drawn["amount"])
        return image


TONES: Final[dict[str, type[Degradation]]] = {
    "posterize": Posterize,
    "gamma": Gamma,
    "grayscale": Desaturate,
}
