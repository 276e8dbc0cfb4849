"""The objectives by name, as ``--loss`` takes them."""

from __future__ import annotations

from typing import Final

from img2img_train.objectives.base import Objective
from img2img_train.objectives.cycle import CycleGan, DualGan
from img2img_train.objectives.gan import CGan, Gan, L1Gan, Pix2Pix
from img2img_train.objectives.pixel import L1, L2, Charbonnier

OBJECTIVES: Final[dict[str, type[Objective]]] = {
    "charbonnier": Charbonnier,
    "l1": L1,
    "l2": L2,
    "gan": Gan,
    "cgan": CGan,
    "l1+gan": L1Gan,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGan,
    "dualgan": DualGan,
}
