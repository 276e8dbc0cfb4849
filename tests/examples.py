"""Shared by several tests."""

from __future__ import annotations

import importlib.util

from img2img_data.degradations.base import Degradation
from img2img_data.degradations.registry import DEGRADATIONS

LIGHT = sorted(set(DEGRADATIONS) - {"albumentations"})


KINDS = sorted(DEGRADATIONS) if importlib.util.find_spec("albumentations") else LIGHT


def example(kind: str) -> Degradation:
    return DEGRADATIONS[kind].example()
