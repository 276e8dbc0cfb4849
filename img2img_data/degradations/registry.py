"""What degrades a image. A degradation draws its parameters and applies them, in two functions.

The members stand in files by kind, each of which ends in its own dict: ``blurs``, ``scaling``, ``noises``,
``codecs``, ``tones``, ``composites``, ``catalogue``. Adding one: a class in the file of its kind, and a row
in the dict at its end. The command line, the recipes and the laws in the tests pick it up from there.
"""

from __future__ import annotations

from typing import Final

from img2img_data.core.settings_model import did_you_mean
from img2img_data.degradations.albumentations_step import CATALOGUE
from img2img_data.degradations.base import Axes, Degradation, Image, to_dtype
from img2img_data.degradations.blur import (
    BLURS,
    SIMPLE_BLURS,
    GaussianBlur,
    RandomGaussianBlur,
    blur_separably,
)
from img2img_data.degradations.compose import COMPOSITES, Composite, PipelineStep
from img2img_data.degradations.compression import CODECS
from img2img_data.degradations.kernels import gaussian_kernel
from img2img_data.degradations.noise import NOISES
from img2img_data.degradations.parameters import OddInt
from img2img_data.degradations.resample import RESIZINGS, Interpolation, Resize
from img2img_data.degradations.tone import TONES

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
    from img2img_data.core.errors import UsageError

    if kind not in DEGRADATIONS:
        raise UsageError("degradation", kind, "unknown", did_you_mean(kind, DEGRADATIONS))
    return DEGRADATIONS[kind]


__all__ = [
    "BLUR_KINDS",
    "DEGRADATIONS",
    "Axes",
    "Composite",
    "Degradation",
    "GaussianBlur",
    "Image",
    "Interpolation",
    "OddInt",
    "RandomGaussianBlur",
    "Resize",
    "PipelineStep",
    "blur_separably",
    "find_degradation",
    "gaussian_kernel",
    "to_dtype",
]
