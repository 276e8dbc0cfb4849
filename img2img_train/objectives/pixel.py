"""Pixel losses against the paired target, and their shared defaults."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field

from img2img_train.objectives.base import (
    MAX_ERROR,
    Batch,
    Images,
    Losses,
    Nets,
    Objective,
    loss_setting,
)

if TYPE_CHECKING:
    from torch import Tensor


class PixelObjective(Objective):
    """Base class of losses that compare the output with the target pixel by pixel."""

    fft_weight: float = loss_setting(0.0, advanced=True, ge=0, le=1e6)
    """weight of an L1 loss on the 2-D spectra; 0.1 in MIMO-UNet; 0: none"""
    lpips: tuple[str, str] | None = Field(
        None, json_schema_extra={"group": "Objective", "advanced": True, "metavar": "NETWORK HEADS"}
    )
    """weights of a network and its heads, for a perceptual loss; the same files as for evaluate
    --lpips"""
    lpips_weight: float = loss_setting(0.1, advanced=True, ge=0, le=1e6)
    """weight of the perceptual loss, with --lpips"""

    def published_defaults(self) -> dict[str, Any]:
        """Return settings for restoration; docs/log.md has the measurements that chose them."""
        defaults: dict[str, Any] = {"batch": 4, "epochs": None, "epochs_decay": None}
        defaults |= {"lr": 2e-3, "decay": "cosine", "beta1": 0.9, "ema": 0.998}
        defaults |= {"clip_grad": 0.1, "flip": True, "crop": None, "rotate": None}
        return {**defaults, "validate_every": None, "samples_every": None}

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return a term named as the loss, and ``fft`` and ``lpips``, weighted, if asked for."""
        from img2img_train.objectives.losses import fft_loss

        output, target = outputs["output"], batch.target
        terms = {type(self).__name__.lower(): self.distance(output, target)}
        if self.fft_weight:
            terms["fft"] = self.fft_weight * fft_loss(output, target)
        if self.lpips:
            terms["lpips"] = self.lpips_weight * nets["lpips"](output, target).mean()
        return terms

    def frozen_networks(self) -> dict[str, tuple[str, str]]:
        """Return the files of LPIPS if it is asked for."""
        return {"lpips": self.lpips} if self.lpips else {}

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance of N x C x H x W, scalar, float32."""
        raise NotImplementedError

    def loss_limit(self, term: str) -> float:
        """Return the limit of an error that is not squared, infinity for other terms."""
        return MAX_ERROR if term == type(self).__name__.lower() else math.inf


class L2(PixelObjective):
    """Mean squared error, samples in [-1, 1]."""

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean squared error."""
        from torch.nn import functional

        return functional.mse_loss(output.float(), target)

    def loss_limit(self, term: str) -> float:
        """Return the limit of a squared error, infinity for other terms."""
        return super().loss_limit(term) ** 2


class L1(PixelObjective):
    """Mean absolute error, samples in [-1, 1]."""

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean absolute error."""
        from img2img_train.objectives.losses import l1_loss

        return l1_loss(output, target)


class Charbonnier(PixelObjective):
    """Mean of sqrt(error^2 + epsilon^2): an L1 loss that is smooth at zero.

    Lai, Huang, Ahuja, Yang (2017), section 3.2, after Charbonnier et al. (1994).
    """

    epsilon: float = loss_setting(1e-3, advanced=True, gt=0, le=1)
    """error below which the loss is quadratic; samples are in [-1, 1]"""

    def distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance."""
        return ((output.float() - target).square() + self.epsilon**2).sqrt().mean()
