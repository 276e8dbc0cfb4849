"""Registry of all degradations, by the name of their kind.

To add a degradation, write a class in the module of its kind and add a row here. The command line,
the recipes, the demo page and the laws in the tests pick it up.
"""

from __future__ import annotations

from typing import Final

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.degradations import blur, compose, compression, kernel_blur, noise, tone
from img2img_data.degradations.albumentations_step import Albumentations
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.resample import Resize

# The order is that of the help and of the contact sheet.
DEGRADATIONS: Final[dict[str, type[Degradation]]] = {
    "gaussian": blur.GaussianBlur,
    "random-gaussian": blur.RandomGaussianBlur,
    "anisotropic": kernel_blur.AnisotropicGaussianBlur,
    "generalized": kernel_blur.GeneralizedGaussianBlur,
    "plateau": kernel_blur.PlateauBlur,
    "motion": kernel_blur.MotionBlur,
    "defocus": kernel_blur.DefocusBlur,
    "sinc": kernel_blur.SincFilter,
    "median": blur.MedianFilter,
    "resize": Resize,
    "noise": noise.GaussianNoise,
    "gray-noise": noise.GrayNoise,
    "speckle": noise.SpeckleNoise,
    "poisson": noise.PoissonNoise,
    "jpeg": compression.JpegCompression,
    "webp": compression.WebpCompression,
    "posterize": tone.Posterize,
    "gamma": tone.Gamma,
    "grayscale": tone.Desaturate,
    "chain": compose.Chain,
    "one-of": compose.OneOf,
    "shuffle": compose.Shuffle,
    "at-scale": compose.AtScale,
    "albumentations": Albumentations,
}

BLUR_KINDS: Final = {kind: DEGRADATIONS[kind] for kind in ("gaussian", "random-gaussian", "resize")}
"""Kinds of ``img2img-data blur``, which has all their settings as options."""


def find_degradation(kind: str) -> type[Degradation]:
    """Return the class of a kind; ``UsageError`` with the known kinds if there is none."""
    if kind not in DEGRADATIONS:
        raise UsageError("degradation", kind, "unknown", did_you_mean(kind, DEGRADATIONS))
    return DEGRADATIONS[kind]
