"""Trained generators: device, loading from a checkpoint, restoring of images."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from img2img_data.core.errors import CheckpointError, UsageError
from img2img_data.core.memory import keep_freed_memory
from img2img_data.images.pixels import Pixels
from img2img_train.config import RunConfig
from img2img_train.data import deconvolution
from img2img_train.data.color import ChannelLayout, ColorSpace, denormalize, normalize
from img2img_train.networks.layers import TestNorm, dropout_at_test, dropout_seeds, set_test_norm
from img2img_train.networks.registry import build_on_meta
from img2img_train.networks.specs import NetworkSpec
from img2img_train.runs.checkpoint import load_into_network, read_checkpoint
from img2img_train.runs.folder import find_checkpoint, notes_on_run


def choose_device(name: str) -> torch.device:
    """Return a device by name, as "cuda" or "cuda:1"; "auto": the first of CUDA, MPS, CPU.

    UsageError if it is missing.
    """
    kind, _, index = name.partition(":")
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    available = [*(kind for kind, is_there in found.items() if is_there), "cpu"]
    count = torch.cuda.device_count() if kind == "cuda" else 1
    there = index.isdigit() and int(index) < count if index else True
    if name != "auto" and (kind not in available or not there):
        hint = f"choose one of {', '.join(available)}"
        raise UsageError("option", "--device", f"{name} is not available", hint)
    # For runs with --deterministic on; torch looks at it once in a process, before its first
    # product: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(available[0] if name == "auto" else name)


@contextlib.contextmanager
def cudnn_settings(fast: bool = False, tf32: bool = False) -> Iterator[None]:
    """Set cuDNN for a block: its autotuner if ``fast``, else deterministic algorithms only.

    TF32 convolutions if both. The default is that of scores and of restored images, which should
    not depend on the settings of a training, nor vary between calls.
    """
    # Matrix products stay in full float32, torch's default: on-the-fly degradations are such
    # products. This is the older of torch's two switches for TF32: its compiler reads that one, and
    # mixing both is an error (https://github.com/pytorch/pytorch/issues/166387).
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = fast, not fast, fast and tf32
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained generator in eval mode, with its description, and notes about its run.

    ``keeps_gray``: gray inputs had gray targets in training, so the output of one is gray.
    ``digest``: that of the checkpoint.
    """

    generator: nn.Module
    spec: NetworkSpec
    color: ColorSpace
    step: int
    config: RunConfig
    device: torch.device
    path: Path
    keeps_gray: bool = False
    notes: tuple[str, ...] = ()
    digest: str = ""

    @property
    def channel_layout(self) -> ChannelLayout:
        """The channels of the network, in and out; UsageError if they are not those of an image."""
        channel_layout = ChannelLayout(self.color, (self.spec.inputs, self.spec.outputs))
        if not channel_layout.is_supported:
            why = f"maps {self.spec.inputs} channels to {self.spec.outputs} ({self.color})"
            raise UsageError("model", self.path, why, "images are RGB or gray, or L to ab")
        return channel_layout

    def prepared(self, image: Pixels, steps: deconvolution.Steps) -> Pixels:
        """Return an image, H x W x 3 RGB, as the network takes it: deconvolved by the blur of its
        degradation ``steps`` if the run was trained with ``--input wiener``.
        """
        ratio = self.config.noise_ratio
        return image if ratio is None else deconvolution.deconvolved(image, steps, ratio)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the output of N x 3 x H x W RGB in [-1, 1], as RGB in [-1, 1]."""
        input = self.channel_layout.network_input(x)
        # Masks are drawn from the image, so its output does not depend on the batch that it is in.
        seeds = dropout_seeds(input) if self.config.test_dropout else ()
        with cudnn_settings(), dropout_at_test(seeds):
            return self.channel_layout.to_rgb(self.generator(input), input)

    @torch.no_grad()
    def restore(self, batch: Pixels) -> Pixels:
        """Return the outputs of N x H x W x 3 RGB, uint8 or uint16, of the same shape and dtype.

        Sides may have any length. Computes in float32.
        """
        top = int(np.iinfo(batch.dtype).max)
        # torch converts no uint16 on every device; float32 holds all of its values exactly.
        dtype = np.float32 if batch.dtype == np.uint16 else np.uint8
        samples = torch.from_numpy(np.ascontiguousarray(batch, dtype)).to(self.device)
        output = denormalize(self.forward(normalize(samples, top)), top)
        return np.ascontiguousarray(output.cpu().numpy(), batch.dtype)


def load_generator(
    path: Path | str,
    device: str = "auto",
    direction: str | None = None,
    dropout: bool | None = None,
    norm: TestNorm | None = None,
) -> LoadedModel:
    """Return the generator of a checkpoint file or a run folder (the best checkpoint, else the
    latest).

    A run with ``--ema`` has its averaged generator. ``direction`` is AtoB or BtoA; default: the one
    of the training; the other one needs a model with two generators. ``dropout`` and ``norm``
    override the behavior at test time that the model was saved with. Raises CheckpointError, naming
    the file, and UsageError if the device or the direction is not available.
    """
    keep_freed_memory()
    chosen, file = choose_device(device), find_checkpoint(path)
    checkpoint = read_checkpoint(file, ("network/", "ema/"))
    about, config = checkpoint.description, checkpoint.config()
    name = about.generator
    if direction not in (None, config.direction):
        if about.reverse_generator is None:
            why = f"was trained for {config.direction} and has no generator for {direction}"
            raise UsageError("model", file, why, "leave --direction out, or train with it")
        name, config = about.reverse_generator, config.model_copy(update={"direction": direction})
    try:
        network = build_on_meta(about.networks[name])
    except UsageError as error:
        why = f"describes an unknown network: {error}"
        raise CheckpointError("checkpoint", file, why) from None
    load_into_network(network, checkpoint.weights_of(name), file)
    overrides = {"test_dropout": dropout, "test_norm": norm}
    config = config.model_copy(update={k: v for k, v in overrides.items() if v is not None})
    set_test_norm(network, config.test_norm)
    network.eval().requires_grad_(False).to(chosen)
    spec, step = about.networks[name], about.progress.step
    more = config, chosen, file, about.keeps_gray, notes_on_run(path, step), checkpoint.digest
    return LoadedModel(network, spec, about.color, step, *more)
