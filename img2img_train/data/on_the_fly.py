"""Degradation of clean targets during training, by the same definitions that build corpora.

A linear separable degradation is a pair of matrices: degraded = R x image x C^T. Applied to an
identity matrix along one axis, the degradation returns its own operator, and the device applies two
batched matrix products with different parameters for each image. All other degradations run in the
loader, through ``Degradation.apply``. No degradation is implemented twice, so the two paths cannot
drift apart.

Random parameters depend on the run's seed, the source of the image and the epoch only. Without an
epoch they are those of ``img2img-data degrade`` with the same seed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.settings_model import Place
from img2img_data.corpus.format import TILE_COLUMNS, image_rng, stream_of
from img2img_data.corpus.reader import Pair
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.compose import Composite
from img2img_data.degradations.resample import Resize
from img2img_data.degradations.spec import parse_spec
from img2img_data.images.pixels import Pixels
from img2img_train.data.checks import Size

# The probe is an identity matrix of low contrast on mid-gray: its ringing stays in [0, 1], so that
# no clipping hides in the operator.
PROBE_BASE, PROBE_CONTRAST = np.float32(0.5), np.float32(0.25)
OVERSHOOTS: Final = {"cubic", "lanczos"}

Operators: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Matrices for the rows, N x H x H, and columns, N x W x W, of N images; N = 1 if all are equal."""


@dataclass(frozen=True, slots=True)
class OnTheFly:
    """A degradation and the seed of its random parameters."""

    degradation: Degradation
    seed: int

    @classmethod
    def of(cls, spec: Any, seed: int) -> OnTheFly | None:
        """Return the degradation of a spec (``RunConfig.degrade``), None if there is none."""
        return None if spec is None else cls(parse_spec(spec, Place()).degradation, seed)

    @property
    def is_linear(self) -> bool:
        """True if a pair of matrices does the same: separable, with no clipping before the last
        step.
        """
        steps = list(_steps_of(self.degradation))
        inner = (step for step in steps[:-1] if isinstance(step, Resize))
        # A resize that overshoots is clipped to the value range between two steps, which is not
        # linear.
        overshoots = any(OVERSHOOTS & {*step.down, *step.up} for step in inner)
        return self.degradation.separable and not overshoots

    def draw(self, pair: Pair, epoch: int | None) -> dict[str, float]:
        """Return the random parameters of a pair in an epoch, or those on disk (None)."""
        return self.degradation.draw(image_rng(self.seed, source_of(pair), epoch))

    def degrade(self, target: Pixels, pair: Pair, epoch: int | None) -> Pixels:
        """Return a degraded copy of a target, H x W x C uint8 or uint16."""
        return self.degradation.apply(target, "yx", **self.draw(pair, epoch))

    def operators(self, pairs: Sequence[Pair], epoch: int | None, size: Size) -> Operators:
        """Return the matrices for images of ``size`` (height, width)."""
        drawn = [tuple(sorted(self.draw(pair, epoch).items())) for pair in pairs]
        if all(parameters == drawn[0] for parameters in drawn):
            drawn = drawn[:1]
        # Of a square both sides have the same matrix.
        sides = {n: np.stack([_operator(self.degradation, p, n) for p in drawn]) for n in {*size}}
        return sides[size[0]], sides[size[1]]


def source_of(pair: Pair) -> bytes:
    """Return the name that keys the RNG of a pair: its source, or tile of one, else its key."""
    tile = (pair.row[name] for name in TILE_COLUMNS if name in pair.row)
    with suppress(KeyError, TypeError, ValueError):
        if path := bytes.fromhex(pair.row["source_hex"]):
            return stream_of(path, tile)
    return pair.key.encode()


def _steps_of(degradation: Degradation) -> Iterator[Degradation]:
    if not isinstance(degradation, Composite):
        yield degradation
        return
    for step in degradation.steps:
        yield from _steps_of(step.degradation)


# Without random parameters every step asks for the same two matrices.
@lru_cache(maxsize=8)
def _operator(
    degradation: Degradation, drawn: tuple[tuple[str, float], ...], side: int
) -> NDArray[np.float32]:
    """Return the side x side matrix of a separable degradation along one axis."""
    probe = np.eye(side, dtype=np.float32) * PROBE_CONTRAST + PROBE_BASE
    response = degradation.apply(probe, "y", **dict(drawn))
    return np.asarray((response - PROBE_BASE) / PROBE_CONTRAST, np.float32)
