"""The base class of objectives, and the settings that all of them share.

To add an objective, write a subclass of ``Objective`` with its settings as fields, and add a row to
``OBJECTIVES`` in ``registry``; the command line, recipes, checkpoints and tests read it from there.
Torch is imported inside functions, so that settings and ``--help`` load fast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import setting
from img2img_train.networks.specs import GeneratorName, NetworkSpec, make_spec

if TYPE_CHECKING:
    from torch import Tensor, nn

Images: TypeAlias = "dict[str, Tensor]"
Losses: TypeAlias = "dict[str, Tensor]"
Nets: TypeAlias = "Mapping[str, nn.Module]"


generator_setting = partial(setting, "Generator")
discriminator_setting = partial(setting, "Discriminator")
loss_setting = partial(setting, "Objective")

NormName: TypeAlias = Literal["auto", "batch", "instance", "none"]

# Samples lie in [-1, 1]: errors stay below 1 at a learning rate of 0.01, from the first step on. At
# 10 a network without tanh has errors of 200 and more.
MAX_ERROR: Final = 100.0


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of a step on the device, float32 N x C x H x W in [-1, 1]."""

    input: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Phase:
    """One update in every ``every``-th step: networks that share an optimizer."""

    name: str
    modules: tuple[str, ...]
    optimizer: Literal["adam", "rmsprop"] = "adam"
    every: int = 1


class Objective(FrozenModel):
    """Base class of objectives.

    A step calls ``forward`` once, then ``losses`` and ``after_update`` for each phase.

    Every objective has a network ``generator``, input to target, and an image ``output`` made by
    it. ``reverse_generator`` is the name of the network from target to input, if there is one.
    ``paired`` objectives train on images with their targets, the others on two sides that are drawn
    independently. ``sample_columns`` are the columns of a sample grid: ``input``, ``target`` and
    images of ``forward``.
    """

    paired: ClassVar[bool] = True
    # True: the checkpoint with the best PSNR on held-out images is used; False: the newest.
    best_by_psnr: ClassVar[bool] = True
    reverse_generator: ClassVar[str | None] = None
    sample_columns: ClassVar[tuple[str, ...]] = ("input", "output", "target")

    # A subclass with another default repeats type and field, so that range and help are written
    # once: ``net: Annotated[GeneratorName, Objective.model_fields["net"]] = "unet-256"``.
    net: GeneratorName = setting("Options", "edsr")
    """generator"""
    width: int | None = generator_setting(None, ge=1, le=1024)
    """channels of the generator's first layer; deeper layers use multiples of it; default: 48 for
    edsr, 32 for nafnet, else 64"""
    blocks: int | None = generator_setting(None, advanced=True, ge=1, le=128)
    """number of residual blocks; of edsr, or in the middle of nafnet (default: 4)"""
    norm: NormName = generator_setting("auto")
    """normalization; auto: as published"""
    bottleneck_norm: bool = generator_setting(False, advanced=True)
    """normalize the innermost layer of a unet-N as well"""
    dropout: float | None = generator_setting(None, advanced=True, ge=0, lt=1)
    """dropout rate of the generator; unet-N and encoder-decoder-N (default: 0.5) or resnet-N (0)"""
    residual: bool | None = generator_setting(None)
    """predict the difference from the input; an untrained generator then returns its input, or
    nearly so; default: on for edsr and nafnet if input and target have the same channels"""

    def generators(self) -> tuple[str, ...]:
        """Return the names of the networks that ``forward`` runs; they may be averaged."""
        return ("generator", self.reverse_generator) if self.reverse_generator else ("generator",)

    def published_defaults(self) -> dict[str, Any]:
        """Return the settings of a run with which the objective was published, used where none are
        given.
        """
        return {}

    # The order of the networks is part of what a seed means: each draws its weights from its
    # position.
    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return the specs of all networks for inputs and targets with these channels."""
        return {"generator": self.generator_spec(channels)}

    def generator_spec(self, channels: tuple[int, int]) -> NetworkSpec:
        """Return the spec of a generator from input to output channels."""
        options = self.norm, self.dropout, self.bottleneck_norm, self.residual, self.blocks
        return make_spec(self.net, channels, self.width, *options)

    def phases(self) -> tuple[Phase, ...]:
        """Return the updates of a step, in order."""
        return (Phase("generator", ("generator",)),)

    def image_pools(self) -> dict[str, int]:
        """Return the images of ``forward`` that have an image pool, and its size."""
        return {}

    def frozen_networks(self) -> dict[str, tuple[str, str]]:
        """Return the networks that ``losses`` runs and no phase trains, with their weight files.

        They are among its ``nets``, and in no checkpoint.
        """
        return {}

    def needs_double_backward(self) -> tuple[str, ...]:
        """Return the names of networks whose gradients are differentiated again."""
        return ()

    def forward(self, nets: Nets, batch: Batch) -> Images:
        """Return the images generated from a batch, N x C x H x W; all phases share them."""
        return {"output": nets["generator"](batch.input)}

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return the terms whose sum the phase minimizes, by name: scalars, float32.

        ``outputs`` are the images of ``forward``, ``history`` as many images from the image pools.
        """
        raise NotImplementedError

    def loss_limit(self, term: str) -> float:
        """Return the largest magnitude of a loss term in a run that has not diverged.

        Infinity if it is not known.
        """
        return math.inf

    def after_update(self, phase: str, nets: Nets) -> None:
        """Run after the update of a phase, for instance to clip weights."""
