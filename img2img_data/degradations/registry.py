"""Registry of all degradations, by the name of their kind.

To add a degradation, write a class in the module of its kind and add a row here. The command line,
the recipes, the demo page and the laws in the tests pick it up.
"""

from __future__ import annotations

from typing import Final

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.degradations import blur, compose, compression, noise, tone
from img2img_data.degradations.albumentations_step import Albumentations
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.resample import ChannelShift, Resize

# The order is that of the help and of the contact sheet.
DEGRADATIONS: Final[dict[str, type[Degradation]]] = {
    "gaussian": blur.GaussianBlur,
    "random-gaussian": blur.RandomGaussianBlur,
    "anisotropic": blur.AnisotropicGaussianBlur,
    "generalized": blur.GeneralizedGaussianBlur,
    "plateau": blur.PlateauBlur,
    "motion": blur.MotionBlur,
    "defocus": blur.DefocusBlur,
    "sinc": blur.SincFilter,
    "median": blur.MedianFilter,
    "sharpen": blur.Sharpen,
    "resize": Resize,
    "noise": noise.GaussianNoise,
    "gray-noise": noise.GrayNoise,
    "chroma-noise": noise.ChromaNoise,
    "speckle": noise.SpeckleNoise,
    "poisson": noise.PoissonNoise,
    "jpeg": compression.JpegCompression,
    "webp": compression.WebpCompression,
    "avif": compression.AvifCompression,
    "jpeg2000": compression.Jpeg2000Compression,
    "chroma-subsample": compression.ChromaSubsample,
    "channel-shift": ChannelShift,
    "posterize": tone.Posterize,
    "dither": tone.Dither,
    "halftone": tone.Halftone,
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
