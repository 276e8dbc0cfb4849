"""Settings of translating, which are options of the command line too.

A module of its own, because ``--help`` must not import torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from img2img_data.core.frozen_model import FrozenModel


class TranslateSettings(FrozenModel):
    """Settings of ``translate``: tiles, formats of results."""

    tile: int | None = Field(None, ge=16)
    """side of the tiles, pixels; raised to twice --overlap if smaller; memory grows with its square
    [default: 512, or the whole image if the network normalizes by image statistics and half of the
    free memory is enough]"""
    overlap: int = Field(128, ge=0)
    """overlap of neighboring tiles, pixels; raise it for a large receptive field"""
    sigma: float | None = Field(None, ge=0, le=100)
    """standard deviation of the Gaussian blur in the images, pixels; required by models trained
    with --input wiener; 0: no blur"""
    batch: int = Field(1, ge=1, le=4096)
    """tiles per forward pass"""
    format: Literal["png", "jpg", "webp"] = "png"
    """format of output images; jpg and webp: 8 bits, no transparency"""
    quality: int = Field(95, ge=1, le=100)
    """quality of jpg and webp; webp at 100 is lossless"""
    video_format: Literal["mp4", "webm", "mkv", "avi"] = "mp4"
    """format of output videos; mkv (FFV1) is lossless, the others are lossy"""
    max_pixels: int = Field(400_000_000, ge=1)
    """largest image or frame to accept, pixels"""
