"""Clean images degraded anew in every epoch, by the definitions that corpora are made with.

A degradation that is linear and separable is two matrices: degraded = R x image x C^T. Fed an identity
matrix along one axis it returns its own operator, and the device applies it as two batched products, another
strength for each image. All others run where images are read, through ``Degradation.apply`` itself. No
degradation is written twice, so none can drift.

What a image draws depends on the run's seed, the image's source and the epoch alone. What a run is scored
on is drawn without an epoch: as ``img2img-data degrade`` with the same seed draws it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.settings_model import Place
from img2img_data.corpus.format import image_rng
from img2img_data.corpus.reader import Pair
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.compose import Composite
from img2img_data.degradations.resample import Resize
from img2img_data.degradations.spec import parse_spec
from img2img_data.images.pixels import Pixels

GRAY, PROBE = np.float32(0.5), np.float32(0.25)
"""The identity is fed as gray with a faint diagonal: what rings about it stays within 0 to 1, unclipped."""
OVERSHOOTS: Final = {"cubic", "lanczos"}
KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class Operators:
    """The matrices of a step's images, float32: ``rows`` N x H x H, ``columns`` N x W x W; one where all
    are alike.
    """

    rows: NDArray[np.float32]
    columns: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OnTheFly:
    """A degradation and the seed it draws by."""

    degradation: Degradation
    seed: int

    @classmethod
    def of(cls, tree: Any, seed: int) -> OnTheFly | None:
        """Return the degradation of a tree, as in ``RunConfig.degrade``; None where there is none."""
        return None if tree is None else cls(parse_spec(tree, Place()).degradation, seed)

    @property
    def linear(self) -> bool:
        """Whether two matrices do the same: separable, and nothing is clipped before the last step."""
        steps = list(_steps_of(self.degradation))
        inside = [step for step in steps[:-1] if isinstance(step, Resize)]
        return self.degradation.separable and not any(
            OVERSHOOTS & {*step.down, *step.up} for step in inside
        )

    def draw(self, pair: Pair, epoch: int | None) -> dict[str, float]:
        """Return what a pair draws in an epoch; None: outside of all."""
        return self.degradation.draw(image_rng(self.seed, source_of(pair), epoch))

    def degrade(self, clean: Pixels, pair: Pair, epoch: int | None) -> Pixels:
        """Return a clean image, H x W x C uint8 or uint16, degraded; a new one of the same kind."""
        return self.degradation.apply(clean, "yx", **self.draw(pair, epoch))

    def operators(
        self, pairs: Sequence[Pair], epoch: int | None, size: tuple[int, int]
    ) -> Operators:
        """Return the matrices for images of this (height, width)."""
        drawn = [tuple(sorted(self.draw(pair, epoch).items())) for pair in pairs]
        drawn = drawn[:1] if all(one == drawn[0] for one in drawn) else drawn
        rows, columns = (
            np.stack([_operator(self.degradation, one, side) for one in drawn]) for side in size
        )
        return Operators(rows, columns)


def source_of(pair: Pair) -> bytes:
    """Return the relative path that a pair was made from, else its key: the name it draws by."""
    kept = pair.row.get("source_hex")
    try:
        return bytes.fromhex(kept) if isinstance(kept, str) and kept else pair.key.encode()
    except ValueError:
        return pair.key.encode()


def _steps_of(degradation: Degradation) -> Iterator[Degradation]:
    if not isinstance(degradation, Composite):
        yield degradation
        return
    for step in degradation.steps:
        yield from _steps_of(step.degradation)


@lru_cache(maxsize=KEPT)
def _operator(
    degradation: Degradation, drawn: tuple[tuple[str, float], ...], side: int
) -> NDArray[np.float32]:
    """Return the matrix that a separable degradation is along a side of so many pixels."""
    probe = np.eye(side, dtype=np.float32) * PROBE + GRAY
    return np.asarray((degradation.apply(probe, "y", **dict(drawn)) - GRAY) / PROBE, np.float32)
