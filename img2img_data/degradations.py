"""What spoils a picture. A degradation draws its parameters and applies them, in two functions.

The members stand in files by kind, each of which ends in its own dict: ``blurs``, ``scaling``, ``noises``,
``codecs``, ``tones``, ``composites``, ``catalogue``. Adding one: a class in the file of its kind, and a row
in the dict at its end. The command line, the recipes and the laws in the tests pick it up from there.
"""

from __future__ import annotations

from typing import Final

from img2img_data.blurs import (
    BLURS,
    SIMPLE_BLURS,
    Gaussian,
    RandomGaussian,
    blur_separably,
)
from img2img_data.catalogue import CATALOGUE
from img2img_data.codecs import CODECS
from img2img_data.composites import COMPOSITES, Composite, Step
from img2img_data.fields import did_you_mean
from img2img_data.kernels import gaussian_kernel
from img2img_data.noises import NOISES
from img2img_data.scaling import RESIZINGS, Interpolation, Resize
from img2img_data.spoil import Axes, Degradation, Image, to_dtype
from img2img_data.strengths import Odd
from img2img_data.tones import TONES

DEGRADATIONS: Final[dict[str, type[Degradation]]] = {
    **BLURS,
    **RESIZINGS,
    **NOISES,
    **CODECS,
    **TONES,
    **COMPOSITES,
    **CATALOGUE,
}

BLUR_KINDS: Final[dict[str, type[Degradation]]] = {**SIMPLE_BLURS, **RESIZINGS}
"""What ``img2img-data blur`` offers, with all their options."""


def find_degradation(kind: str) -> type[Degradation]:
    """Return the class called ``kind``; ``UsageError`` names the ones there are."""
    from img2img_data.errors import UsageError

    if kind not in DEGRADATIONS:
        raise UsageError("degradation", kind, "unknown", did_you_mean(kind, DEGRADATIONS))
    return DEGRADATIONS[kind]


__all__ = [
    "BLUR_KINDS",
    "DEGRADATIONS",
    "Axes",
    "Composite",
    "Degradation",
    "Gaussian",
    "Image",
    "Interpolation",
    "Odd",
    "RandomGaussian",
    "Resize",
    "Step",
    "blur_separably",
    "find_degradation",
    "gaussian_kernel",
    "to_dtype",
]
