"""Deconvolution of images by the blur that is recorded in the row of their pair.

The input transform ``wiener`` of a run, and the baseline of that name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import Place
from img2img_data.corpus.reader import Corpus, Pair
from img2img_data.degradations.base import Degradation, is_number
from img2img_data.degradations.compose import AtScale, Composite
from img2img_data.degradations.samples import FloatImage, from_unit, to_unit
from img2img_data.degradations.spec import degradation_of
from img2img_data.images.pixels import Pixels
from img2img_train.data.checks import Size

Steps: TypeAlias = Sequence[tuple[Degradation, Mapping[str, Any]]]
"""The degradations of an image, the first one first, each with its drawn parameters."""

PROBE_CONTRAST: Final = 0.25
TOLERANCE: Final = 0.01
"""Difference between two impulse responses of a blur, at most, relative to their peak."""


# --------------------------------------------------------------------------- what a corpus states
def known_steps(corpus: Corpus, pair: Pair) -> Steps:
    """Return the degradations of a pair's input by its corpus and its row; none if not known."""
    return steps_of(stated_degradation(corpus), pair)


def stated_degradation(corpus: Corpus) -> Degradation | None:
    """Return the degradation of the inputs by the recipe of a corpus, None if it states none."""
    recipe = corpus.info.get("recipe")
    if isinstance(recipe, dict) and recipe.get("pairing") == "degrade":
        # It may be newer than this version, or need a package that is not here.
        with suppress(UsageError):
            return degradation_of(recipe, Place())
    return None


def steps_of(degradation: Degradation | None, pair: Pair) -> Steps:
    """Return the degradations of a pair's input; none if its row does not fit the degradation."""
    drawn = pair.row.get("drawn")
    if degradation is None or not isinstance(drawn, Mapping):
        return ()
    try:
        # Rows may come from other programs: numbers out of range could take all memory.
        steps = list(flat_steps(degradation, drawn))
        if not all(_in_range(*step) for step in steps):
            return ()
        degradation.apply(np.zeros((2, 2, 3), np.uint8), **drawn)
    except (ArithmeticError, LookupError, TypeError, ValueError, cv2.error):
        return ()
    return steps


def flat_steps(
    degradation: Degradation, drawn: Mapping[str, Any]
) -> Iterator[tuple[Degradation, Any]]:
    """Yield the steps of a degradation, the first one first, each with its drawn parameters."""
    # The steps of AtScale act at another size, so it stays one step.
    if not isinstance(degradation, Composite) or isinstance(degradation, AtScale):
        yield degradation, drawn
        return
    for step, own in degradation.drawn_steps(drawn):
        yield from flat_steps(step, own)


def _in_range(step: Degradation, drawn: Mapping[str, Any]) -> bool:
    return all(is_number(value) for value in drawn.values()) and all(
        limits.low <= drawn[name] <= limits.high for name, limits in step.ranges().items()
    )


# ---------------------------------------------------------------------------------- deconvolution
def deconvolved(image: Pixels, steps: Steps, noise_ratio: float) -> Pixels:
    """Return the Wiener deconvolution of an image, of its shape and dtype, rounded once.

    An image without a blur among its steps is returned unchanged.
    """
    return from_unit(wiener(to_unit(image), steps, noise_ratio), image)


def wiener(image: FloatImage, steps: Steps, k: float) -> FloatImage:
    """Return the Wiener deconvolution of H x W x C by all blurs among the steps.

    conj(H) / (|H|^2 + k), H the transfer function of the blurs and k the ratio of noise to signal
    (Gonzalez and Woods, Digital Image Processing, equation 5.8-6). The image is continued as the
    blurs continue it: mirrored, the edge pixel repeated. For kernels that are symmetric about both
    axes that is exact, right to the border.
    """
    from scipy.fft import irfft2, rfft2

    height, width = image.shape[:2]
    transfer = transfer_of(steps, (height, width))
    if transfer is None:
        return image
    inverse = np.conj(transfer) / (np.abs(transfer) ** 2 + np.float32(k))
    planes = []
    # One channel at a time, for large images.
    for plane in np.moveaxis(image, 2, 0):
        mean = plane.mean()
        mirrored = cv2.copyMakeBorder(plane - mean, 0, height, 0, width, cv2.BORDER_REFLECT)
        restored = irfft2(rfft2(mirrored) * inverse, s=mirrored.shape)
        planes.append(restored[:height, :width] + mean)
    return np.stack(planes, axis=2)


def transfer_of(steps: Steps, size: Size) -> NDArray[np.complex64] | None:
    """Return the transfer function of all blurs among the steps, None if there is none.

    It is that of real planes of twice the ``size``, as of ``scipy.fft.rfft2``.
    """
    double = 2 * size[0], 2 * size[1]
    found = [_transfer(step, tuple(sorted(drawn.items())), double) for step, drawn in steps]
    blurs = [transfer for transfer in found if transfer is not None]
    return functools.reduce(np.multiply, blurs) if blurs else None


# Without random parameters all images of one size have the same. Few, because they are large.
@functools.lru_cache(maxsize=2)
def _transfer(
    step: Degradation, drawn: tuple[tuple[str, Any], ...], size: Size
) -> NDArray[np.complex64] | None:
    """Return the transfer function of a degradation, None if it is not a blur.

    A blur is linear, shifts with the image, and keeps the mean: its response to an impulse is its
    kernel, whichever its kind.
    """
    from scipy.fft import ifftshift, rfft2

    if not step.keeps_mean or step.seeded:
        return None
    center, responses = (size[0] // 2, size[1] // 2), []
    for shift, contrast in ((0, PROBE_CONTRAST), (1, -PROBE_CONTRAST)):
        probe = np.full(size, 0.5, np.float32)
        probe[center[0] - shift, center[1] - shift] += contrast
        response = (step.apply(probe, **dict(drawn)) - np.float32(0.5)) / np.float32(contrast)
        responses.append(np.roll(response, (shift, shift), (0, 1)))
    kernel, other = responses
    if np.abs(kernel - other).max() > TOLERANCE * np.abs(kernel).max() or kernel[center] > 0.999:
        return None
    return rfft2(ifftshift(kernel))
