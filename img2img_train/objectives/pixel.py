"""Pixel losses against the paired target."""

from __future__ import annotations

from img2img_train.objectives.base import MAX_ERROR, Batch, Images, Losses, Nets, Objective


class L2(Objective):
    """Mean squared error, samples in [-1, 1]."""

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return the term ``l2``."""
        from img2img_train.objectives.losses import l2_loss

        return {"l2": l2_loss(outputs["output"], batch.target)}

    def loss_limit(self, term: str) -> float:
        """Return the limit of a squared error."""
        return MAX_ERROR**2


class L1(Objective):
    """Mean absolute error, samples in [-1, 1]."""

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return the term ``l1``."""
        from img2img_train.objectives.losses import l1_loss

        return {"l1": l1_loss(outputs["output"], batch.target)}

    def loss_limit(self, term: str) -> float:
        """Return the limit of an error that is not squared."""
        return MAX_ERROR
