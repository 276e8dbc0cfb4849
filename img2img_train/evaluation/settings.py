"""Settings of evaluations and of models at test, which are options of the command line too.

A module of its own, because ``--help`` must not import torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from img2img_data.core.frozen_model import FrozenModel


def names_in(text: str) -> list[str]:
    """Return the names in a comma-separated text."""
    return [name for name in map(str.strip, text.split(",")) if name]


class DirectionOption(FrozenModel):
    """Option of the commands that can use either model of a run for both directions."""

    direction: Literal["AtoB", "BtoA"] | None = None
    """direction to use, if the model has both  [default: as trained]"""


class ModelSettings(DirectionOption):
    """Device, direction and test-time behavior of a model, which override those that it was saved
    with.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """device to run on"""
    dropout: Literal["on", "off"] | None = None
    """dropout at test time  [default: as saved]; on: one mask per image, seeded by the image"""
    norm: Literal["batch", "running"] | None = None
    """batch-norm statistics at test time: of the image, or learned  [default: as saved]"""

    @property
    def at_test(self) -> tuple[str | None, bool | None, Literal["batch", "running"] | None]:
        """Direction, dropout and norm as ``load_generator`` takes them, each None if as saved."""
        keep_dropout = None if self.dropout is None else self.dropout == "on"
        return self.direction, keep_dropout, self.norm


class EvaluateSettings(ModelSettings):
    """Settings of an evaluation."""

    split: str = "test"
    """split to score"""
    batch: int = Field(64, ge=1)
    """images per batch; fewer if they are large"""
    metrics: str = ""
    """additional metrics, comma-separated: psnr_y, ssim_y (of the luma)"""
    baselines: str = "auto"
    """classical methods to compare with, comma-separated: wiener, unsharp, bicubic, median; auto:
    those that suit the degradation of the corpus; none: only the input"""
    by: tuple[str, ...] = Field((), json_schema_extra={"metavar": "TAG"})
    """tag to break the scores down by, may be repeated  [default: all tags with few values]"""
