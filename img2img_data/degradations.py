"""What spoils a picture. A degradation draws its parameters and applies them, in two functions.

Adding one: write a frozen model with a ``draw`` and an ``apply``, and give it a row in ``DEGRADATIONS``.
The command line, the recipes and the laws in the tests pick it up from there.
"""

from __future__ import annotations

import functools
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from img2img_data.fields import did_you_mean

Image = NDArray[Any]
"""H x W x C (or H x W), RGB. Either float32 in [0, 1] or integers in their whole range."""

Axes = Literal["yx", "y", "x"]
Interpolation = Literal["nearest", "linear", "cubic", "area", "lanczos"]

_INTERPOLATIONS: Final[dict[str, int]] = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_IDENTITY: Final = np.ones(1, np.float32)


class Degradation(BaseModel):
    """What every degradation is: frozen settings, ``draw`` and ``apply``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def random(self) -> bool:
        """Whether ``draw`` uses its generator at all."""
        return False

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Return the parameters for one picture; with them ``apply`` gives the same pixels for ever.

        ``rng`` may be None where ``random`` is false.
        """
        raise NotImplementedError

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Spoil one picture; shape and dtype stay, integers are rounded once, at the end.

        ``axes`` restricts a separable degradation to columns ("y") or rows ("x") of the picture.
        """
        raise NotImplementedError


@functools.lru_cache(maxsize=64)
def gaussian_kernel(sigma: float) -> NDArray[np.float32]:
    """Return the 2 x int(4 sigma + 0.5) + 1 weights of a Gaussian, sum 1."""
    radius = int(4 * sigma + 0.5)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


def blur_separably(image: Image, sigma: float, axes: Axes) -> Image:
    """Blur with a Gaussian of ``sigma`` pixels, cut at 4 sigma, mirrored at the border (d c b a | a b c d).

    The kernel is the one of ``scipy.ndimage.gaussian_filter(sigma, mode="reflect", truncate=4)``.
    """
    kernel = gaussian_kernel(sigma)
    along_x, along_y = kernel if "x" in axes else _IDENTITY, kernel if "y" in axes else _IDENTITY
    return cv2.sepFilter2D(image, -1, along_x, along_y, borderType=cv2.BORDER_REFLECT)


class Gaussian(Degradation):
    """Gaussian blur of one fixed strength."""

    sigma: float = Field(
        3.0, gt=0, le=100, description="standard deviation of the blur, pixels of the output"
    )

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Return the fixed sigma."""
        return {"sigma": self.sigma}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Blur with ``drawn["sigma"]``."""
        return blur_separably(image, drawn["sigma"], axes)


class RandomGaussian(Degradation):
    """Gaussian blur, another strength for each picture."""

    sigma_min: float = Field(1.0, gt=0, le=100, description="weakest blur, standard deviation in pixels")
    sigma_max: float = Field(5.0, gt=0, le=100, description="strongest blur, standard deviation in pixels")

    @model_validator(mode="after")
    def _ordered(self) -> RandomGaussian:
        if self.sigma_min > self.sigma_max:
            raise ValueError("sigma_min is above sigma_max")
        return self

    @property
    def random(self) -> bool:
        """Always."""
        return True

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Draw sigma uniformly between the two ends."""
        if rng is None:
            raise ValueError("a random degradation needs a generator")
        return {"sigma": float(rng.uniform(self.sigma_min, self.sigma_max))}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Blur with ``drawn["sigma"]``."""
        return blur_separably(image, drawn["sigma"], axes)


class Resize(Degradation):
    """Shrink and enlarge again. The original work's "1/16 resize" is 1/16 of the area: 64 > 16 > 64."""

    factor: float = Field(4.0, ge=1, le=64, description="how many times smaller each side becomes on the way")
    down: Interpolation = Field("area", description="interpolation when shrinking")
    up: Interpolation = Field("linear", description="interpolation when enlarging")

    def draw(self, rng: np.random.Generator | None) -> dict[str, float]:
        """Return the fixed factor."""
        return {"factor": self.factor}

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Shrink by ``drawn["factor"]`` to at least one pixel a side, enlarge to the size it had."""
        height, width = image.shape[:2]
        small = (
            max(1, round(width / drawn["factor"])) if "x" in axes else width,
            max(1, round(height / drawn["factor"])) if "y" in axes else height,
        )
        shrunk = cv2.resize(image.astype(np.float32), small, interpolation=_INTERPOLATIONS[self.down])
        return to_dtype(cv2.resize(shrunk, (width, height), interpolation=_INTERPOLATIONS[self.up]), image)


def to_dtype(result: Image, like: Image) -> Image:
    """Round float ``result`` to the dtype and shape of ``like``; cubic and Lanczos overshoot is clipped."""
    result = result.reshape(like.shape)
    if like.dtype.kind == "f":
        return np.clip(result, 0, 1, out=result)
    return np.clip(np.rint(result, out=result), 0, np.iinfo(like.dtype).max).astype(like.dtype)


DEGRADATIONS: Final[dict[str, type[Degradation]]] = {
    "gaussian": Gaussian,
    "random-gaussian": RandomGaussian,
    "resize": Resize,
}


def find_degradation(kind: str) -> type[Degradation]:
    """Return the class called ``kind``; ``UsageError`` names the ones there are."""
    from img2img_data.errors import UsageError

    if kind not in DEGRADATIONS:
        raise UsageError("degradation", kind, "unknown", did_you_mean(kind, DEGRADATIONS))
    return DEGRADATIONS[kind]
