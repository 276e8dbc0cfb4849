"""The history of what a generator made, from which a discriminator also learns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from img2img_data.core.errors import CheckpointError

POOL: Final = 2
"""Tells these draws from those of a plan, which come from the same seed."""


@dataclass(slots=True)
class ImagePool:
    """The last ``size`` images, more or less; one of a training's states that a checkpoint holds.

    A new image takes a free place and is shown; where none is free it is shown, or, every other time, takes
    the place of an older one that is shown instead. Shrivastava et al. (2017), 2.3; per image as in
    CycleGAN (Zhu et al. 2017, section 4; size 50). The draws depend on seed, ``number`` of the pool and
    step alone.
    """

    size: int
    seed: int
    number: int = 0
    images: Tensor | None = field(default=None)

    def draws(self, step: int) -> np.random.Generator:
        """Return what a step draws from."""
        return np.random.default_rng([self.seed, step, POOL, self.number])

    @torch.no_grad()
    def query(self, made: Tensor, draws: np.random.Generator) -> Tensor:
        """Take in images of a step, N x C x H x W, and return as many to show, float32.

        The images of a step may come in parts, from the same ``draws``.
        """
        made = made.detach().float()
        if not self.size:
            return made
        # What a checkpoint gives back has this layout, and layouts differ in last digits.
        made = made.contiguous()
        return torch.stack([self._one(image, draws) for image in made])

    def fill(self, images: Tensor | None, size: tuple[int, int], path: Path) -> None:
        """Take the images of a checkpoint, (height, width) each; CheckpointError where they do not fit."""
        if images is not None and (
            images.ndim != 4 or images.shape[2:] != size or not 0 < len(images) <= self.size
        ):
            why = f"does not fit its pool of {self.size}: it holds {tuple(images.shape)}"
            raise CheckpointError("checkpoint", path, why, "use another one")
        self.images = images

    def _one(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        if self.images is None or len(self.images) < self.size:
            kept = [] if self.images is None else [self.images]
            self.images = torch.cat([*kept, image.unsqueeze(0)])
            return image
        older, place = rng.random() < 0.5, int(rng.integers(self.size))
        if not older:
            return image
        shown = self.images[place].clone()
        self.images[place] = image
        return shown
