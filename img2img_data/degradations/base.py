"""What every degradation is: frozen settings, ``draw`` and ``apply``.

The simplest kind states its strengths as fields and implements ``degrade``; drawing, depth, rounding and
clipping are done here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from img2img_data.degradations.parameters import Uniform

Image = NDArray[Any]
"""H x W x C (or H x W), RGB. Either float32 in [0, 1] or integers in their whole range."""

Axes = Literal["yx", "y", "x"]

SEEDS: Final = 1 << 53
"""Seeds lie below: JSON keeps every whole number up to there exactly."""


class Degradation(BaseModel):
    """What every degradation is.

    A subclass states each strength as a field of type ``Uniform`` (or ``Whole``, ``OddInt``) and implements
    ``degrade``; ``seeded = True`` adds a seed to what is drawn. Where it can do better on integers, or needs
    other parameters, it implements ``apply`` and ``draw`` itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    seeded: ClassVar[bool] = False

    @property
    def separable(self) -> bool:
        """Whether degraded = R x image x C^T, with R and C given by ``apply`` along one axis."""
        return False

    @property
    def random(self) -> bool:
        """Whether ``draw`` uses its generator at all."""
        return self.seeded or any(not strength.fixed for strength in self.ranges().values())

    @classmethod
    def identity(cls) -> Degradation | None:
        """Return the settings that leave every image as it is, None where there are none."""
        return None

    @classmethod
    def example(cls) -> Degradation:
        """Return settings that show what it does; the laws of the tests run on them."""
        return cls()

    def ranges(self) -> dict[str, Uniform]:
        """Return the fields that may be ranges, by name."""
        found = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in found if isinstance(value, Uniform)}

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Return the parameters for one image; with them ``apply`` gives the same pixels for ever.

        ``rng`` may be None where ``random`` is false.
        """
        drawn = {name: strength.draw(rng) for name, strength in self.ranges().items()}
        return drawn | self._seed(rng) if self.seeded else drawn

    @staticmethod
    def _seed(rng: np.random.Generator | None) -> dict[str, float]:
        if rng is None:
            raise ValueError("a random degradation needs a generator")
        return {"seed": int(rng.integers(SEEDS))}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Degrade one image into a new one; shape and dtype stay, integers are rounded once, at the end.

        ``axes`` restricts a separable degradation to columns ("y") or rows ("x") of the image; the others
        take no notice of it.
        """
        return from_unit(self.degrade(to_unit(image), **drawn), image)

    def degrade(self, image: NDArray[np.float32], **drawn: Any) -> Image:
        """Return the degraded image: float32, H x W x C in [0, 1]. ``image`` is a copy, yours to change."""
        raise NotImplementedError


def full_scale(image: Image) -> float:
    """Return the value of white: 255, 65535 or 1."""
    return 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)


def to_unit(image: Image) -> NDArray[np.float32]:
    """Return a copy as float32, H x W x C in [0, 1]."""
    deep = image if image.ndim == 3 else image[..., None]
    if image.dtype.kind == "f":
        return np.array(deep, np.float32)
    return np.divide(deep, np.float32(full_scale(image)), dtype=np.float32)


def from_unit(result: Image, like: Image) -> Image:
    """Bring float values in [0, 1] to the dtype and shape of ``like``, clipped, rounded once."""
    scale = full_scale(like)
    return to_dtype(result if scale == 1 else np.multiply(result, np.float32(scale)), like)


def to_dtype(result: Image, like: Image) -> Image:
    """Round float ``result`` to the dtype and shape of ``like``; cubic and Lanczos overshoot is clipped."""
    result = result.reshape(like.shape)
    if like.dtype.kind == "f":
        return np.clip(result, 0, 1, out=result)
    return np.clip(np.rint(result, out=result), 0, np.iinfo(like.dtype).max).astype(like.dtype)


def luma(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the H x W x 1 luma of H x W x 3 RGB (ITU-R BT.601); of others the mean of the channels."""
    weights = (
        [0.299, 0.587, 0.114] if image.shape[2] == 3 else [1 / image.shape[2]] * image.shape[2]
    )
    return np.asarray(image @ np.asarray(weights, np.float32), np.float32)[..., None]


def generator(seed: float) -> np.random.Generator:
    """Return the generator that a drawn seed stands for."""
    return np.random.Generator(np.random.PCG64(int(seed)))
