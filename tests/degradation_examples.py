"""An example of each kind of degradation."""

from __future__ import annotations

import importlib.util

from img2img_data.degradations.base import Degradation
from img2img_data.degradations.registry import DEGRADATIONS

LIGHT = sorted(set(DEGRADATIONS) - {"albumentations"})
"""Kinds that need no optional package."""

KINDS = sorted(DEGRADATIONS) if importlib.util.find_spec("albumentations") else LIGHT
"""Kinds that can be used here."""


def example(kind: str) -> Degradation:
    """Return a degradation of a kind."""
    return DEGRADATIONS[kind].example()
