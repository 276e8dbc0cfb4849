"""The losses of adversarial games. Each is reckoned in float32, outside autocast.

``Mode`` says how logits become losses: ``vanilla`` cross-entropy, the generator's non-saturating
(Goodfellow et al. 2014, section 3); ``lsgan`` squared differences from 1 and 0 (Mao et al. 2017, eq. 9);
``wgan`` the difference of means, weights clipped (Arjovsky, Chintala, Bottou 2017, algorithm 1);
``wgan-gp`` the same with a gradient penalty (Gulrajani et al. 2017, eq. 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from img2img_train.networks.registry import GanMode

PENALTY: Final = 10.0
"""Weight of the gradient penalty: lambda of Gulrajani et al. 2017."""


def generator_loss(mode: GanMode, logits: Tensor) -> Tensor:
    """Return the generator's loss for the logits on what it made: small where they say "real"."""
    return _towards(mode, logits, real=True)


def discriminator_loss(
    mode: GanMode, judge: nn.Module, real: Tensor, made: Tensor, weight: float
) -> dict[str, Tensor]:
    """Return the terms of a discriminator's loss, times ``weight``: ``real``, ``made``, with wgan-gp
    ``penalty``.

    ``real`` and ``made`` are N x C x H x W; no gradient goes back to what was made.
    """
    made = made.detach()
    terms = {
        "real": weight * _towards(mode, judge(real), real=True),
        "made": weight * _towards(mode, judge(made), real=False),
    }
    if mode == "wgan-gp":
        terms["penalty"] = weight * PENALTY * gradient_penalty(judge, real, made)
    return terms


def _towards(mode: GanMode, logits: Tensor, real: bool) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if mode == "vanilla":
            return functional.softplus(-logits if real else logits).mean()
        if mode == "lsgan":
            return (logits - float(real)).square().mean()
        return -logits.mean() if real else logits.mean()


def gradient_penalty(judge: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """Return how far the slope of the critic is from 1, squared, at a random place between real and made.

    Gulrajani et al. 2017, eq. 3. The critic is the mean of a image's logits, as in the loss: a slope of
    1 of their sum would leave hardly a signal to a generator with a large reconstruction weight. Of a
    conditional pair the slope is taken over both halves. Draws from the global generator of the device.
    """
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(made.float(), real.float(), share).requires_grad_(True)
        critic = judge(between).flatten(1).mean(dim=1)
        (slope,) = torch.autograd.grad(critic.sum(), between, create_graph=True)
        length: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        return (length - 1).square().mean()


@torch.no_grad()
def clip(networks: Iterable[nn.Module], bound: float) -> None:
    """Hold every weight of some networks within [-bound, bound] (Arjovsky et al. 2017, algorithm 1, line
    7).
    """
    for network in networks:
        for parameter in network.parameters():
            parameter.clamp_(-bound, bound)


def beside(given: Tensor, image: Tensor) -> Tensor:
    """Return what a conditional discriminator sees: the input and an image for it, along the channels."""
    return torch.cat([given.to(image.dtype), image], dim=1)


def absolute(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean absolute difference, float32."""
    return functional.l1_loss(made.float(), wanted)


def squared(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean squared difference, float32."""
    return functional.mse_loss(made.float(), wanted)
