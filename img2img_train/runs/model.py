"""Trained generators loaded from checkpoints: choose a device, load, restore images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img2img_data.core.errors import CheckpointError, UsageError
from img2img_train.config import RunConfig
from img2img_train.data.color import ChannelLayout, ColorSpace
from img2img_train.data.loader import from_uint8, from_uint16, to_uint8, to_uint16
from img2img_train.networks.layers import TestNorm, dropout_at_test, dropout_seeds, set_test_norm
from img2img_train.networks.registry import build_on_meta
from img2img_train.networks.specs import NetworkSpec
from img2img_train.runs.checkpoint import load_into_network, read_checkpoint
from img2img_train.runs.folder import find_checkpoint


def choose_device(name: str) -> torch.device:
    """Return the device of a name, of "auto" CUDA, MPS or CPU, what is there; UsageError where it is not."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(n for n, is_there in there.items() if is_there))
    if not there.get(name, False):
        have = ", ".join(n for n, is_there in there.items() if is_there)
        raise UsageError("option", "--device", f"there is no {name} here", f"choose one of {have}")
    return torch.device(name)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained generator in eval mode, and what is known of it."""

    generator: nn.Module
    spec: NetworkSpec
    color: ColorSpace
    value_range: tuple[int, int]
    step: int
    config: RunConfig
    device: torch.device
    path: Path

    @property
    def channel_layout(self) -> ChannelLayout:
        """What the network takes and gives of a image; UsageError where that is no image."""
        channel_layout = ChannelLayout(self.color, (self.spec.inputs, self.spec.outputs))
        if not channel_layout.is_supported:
            why = f"takes {self.spec.inputs} channels to {self.spec.outputs} ({self.color})"
            raise UsageError("model", self.path, why, "images are RGB or gray, or L to ab")
        return channel_layout

    @torch.no_grad()
    def forward(self, x: Tensor, draw: int = 0) -> Tensor:
        """Return the output of N x 3 x H x W RGB in [-1, 1], as RGB; with dropout ``draw`` chooses the masks.

        A image's result depends on the image alone, never on the batch it is in.
        """
        given = self.channel_layout.network_input(x)
        with dropout_at_test(
            [self.generator], dropout_seeds(given, draw) if self.config.test_dropout else ()
        ):
            return self.channel_layout.to_rgb(self.generator(given), given)

    @torch.no_grad()
    def restore(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Return the restored images: N x H x W x 3 RGB, uint8 or uint16, to the same, sides of any length;
        float32 inside.
        """
        if batch.dtype == np.uint16:
            words = torch.from_numpy(batch.astype(np.float32)).to(self.device)
            return np.ascontiguousarray(
                to_uint16(self.forward(from_uint16(words))).cpu().numpy().astype(np.uint16)
            )
        made = self.forward(
            from_uint8(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device))
        )
        return np.ascontiguousarray(to_uint8(made).cpu().numpy())


def load_generator(
    path: Path | str,
    device: str = "auto",
    direction: str | None = None,
    dropout: bool | None = None,
    norm: TestNorm | None = None,
) -> LoadedModel:
    """Return the generator of a checkpoint file or a run folder (the best checkpoint, else the latest).

    Of a run with ``--ema`` it is the average of the generators.
    ``direction`` (AtoB, BtoA; None: the one it was trained for) may ask for the way back, where there is
    one; ``dropout`` and ``norm`` for another way at test than the model was saved with. Raises
    CheckpointError in one line that names the file; UsageError where the device or the way is not there.
    """
    where, found = choose_device(device), find_checkpoint(path)
    checkpoint = read_checkpoint(found, ("network/", "ema/"))
    about, config = checkpoint.description, checkpoint.config()
    name = about.generator
    if direction not in (None, config.direction):
        if about.reverse_generator is None:
            why = f"has no way {direction}: it was trained for {config.direction}"
            raise UsageError("model", found, why, "leave --direction out, or train with it")
        name, config = about.reverse_generator, config.model_copy(update={"direction": direction})
    if name not in about.networks:
        raise CheckpointError("checkpoint", found, "describes no generator", "use another one")
    spec = about.networks[name]
    try:
        network = build_on_meta(spec)
    except UsageError as error:
        raise CheckpointError(
            "checkpoint", found, f"describes what is not made here: {error}"
        ) from None
    averaged = checkpoint.tensors_under(f"ema/{name}/")
    load_into_network(network, averaged or checkpoint.tensors_under(f"network/{name}/"), found)
    policy = {"test_dropout": dropout, "test_norm": norm}
    config = config.model_copy(
        update={name: value for name, value in policy.items() if value is not None}
    )
    set_test_norm(network, config.test_norm)
    network.eval().requires_grad_(False).to(where)
    return LoadedModel(
        network, spec, about.color, about.value_range, about.progress.step, config, where, found
    )
