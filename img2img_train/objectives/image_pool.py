"""Image pool: a history of generated images, from which discriminators also learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from img2img_data.core.errors import CheckpointError

# Separates the pool's random numbers from those of the data plan, which has the same seed.
POOL_STREAM: Final = 2


@dataclass(slots=True)
class ImagePool:
    """The image buffer of CycleGAN (Zhu et al. 2017, section 4; size 50).

    After Shrivastava et al. (2017), 2.3.

    Until the pool is full, a new image is stored and returned. After that it is returned, or, half
    of the time, replaces a random stored image that is returned instead. ``number`` distinguishes
    the pools of a run. ``images`` is float32 N x C x H x W; a checkpoint holds it.
    """

    size: int
    seed: int
    number: int = 0
    images: Tensor | None = None

    def rng(self, step: int) -> np.random.Generator:
        """Return the random generator of a step; it depends on seed, pool and step only."""
        return np.random.default_rng([self.seed, step, POOL_STREAM, self.number])

    @torch.no_grad()
    def query(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Store images of a step, N x C x H x W, and return as many, float32.

        Micro-batches of a step share its ``rng``.
        """
        images = images.detach().float()
        if not self.size:
            return images
        # Contiguous, as the images of a checkpoint are: sums over another memory layout differ in
        # the last digits, and a resumed run would not be bit-exact.
        images = images.contiguous()
        return torch.stack([self._query_one(image, rng) for image in images])

    def fill(self, images: Tensor | None, size: tuple[int, int], path: Path) -> None:
        """Take the images of a checkpoint; CheckpointError unless they fit pool and ``size``."""
        if images is not None and (
            images.ndim != 4 or images.shape[2:] != size or not 0 < len(images) <= self.size
        ):
            why = f"has images {tuple(images.shape)} that do not fit an image pool of {self.size}"
            raise CheckpointError("checkpoint", path, why, "use another one")
        self.images = images

    def _query_one(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        if self.images is None or len(self.images) < self.size:
            stored = [] if self.images is None else [self.images]
            self.images = torch.cat([*stored, image.unsqueeze(0)])
            return image
        # Both numbers are drawn in either case, so the stream does not depend on the outcome.
        swap, index = rng.random() < 0.5, int(rng.integers(self.size))
        if not swap:
            return image
        old = self.images[index].clone()
        self.images[index] = image
        return old
