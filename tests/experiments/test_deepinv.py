"""Rows of deepinv for the table of restorers; deepinv itself is not needed."""

from __future__ import annotations

import importlib.util

import deepinv_restorers
import numpy as np
import pytest
import torch

from img2img_data.core.errors import UsageError


def test_bytes_pass_through_a_network_that_changes_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    outputs = deepinv_restorers.outputs_of(torch.nn.Identity())
    assert np.array_equal(outputs([], images), images)


@pytest.mark.skipif(importlib.util.find_spec("deepinv") is not None, reason="deepinv is installed")
def test_without_deepinv_the_hint_installs_it() -> None:
    with pytest.raises(UsageError, match="pip install deepinv"):
        deepinv_restorers.command.main([], standalone_mode=False)
