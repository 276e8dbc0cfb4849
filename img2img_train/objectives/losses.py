"""Loss functions: pixel losses and the adversarial losses of ``GanMode``.

``vanilla`` is cross-entropy, non-saturating for the generator (Goodfellow et al. 2014, section 3);
``lsgan`` squared differences from 1 and 0 (Mao et al. 2017, eq. 9); ``wgan`` the difference of
means, with clipped weights (Arjovsky, Chintala, Bottou 2017, algorithm 1); ``wgan-gp`` the same
with a gradient penalty (Gulrajani et al. 2017, eq. 3).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from img2img_train.networks.specs import GanMode

# Weight of the gradient penalty: lambda of Gulrajani et al. 2017.
PENALTY_WEIGHT: Final = 10.0


def generator_loss(mode: GanMode, logits: Tensor) -> Tensor:
    """Return the generator's loss, float32: small where the logits say "real"."""
    return _gan_loss(mode, logits, real=True)


def discriminator_loss(
    mode: GanMode, discriminator: nn.Module, real: Tensor, fake: Tensor, weight: float
) -> dict[str, Tensor]:
    """Return the terms of a discriminator's loss, times ``weight``: ``real``, ``fake``, ``gp``.

    ``real`` and ``fake`` are N x C x H x W.
    """
    # No gradient flows back to the generator: its own phase trains it.
    fake = fake.detach()
    terms = {
        "real": weight * _gan_loss(mode, discriminator(real), real=True),
        "fake": weight * _gan_loss(mode, discriminator(fake), real=False),
    }
    if mode == "wgan-gp":
        terms["gp"] = weight * PENALTY_WEIGHT * gradient_penalty(discriminator, real, fake)
    return terms


# Networks may run in bfloat16, losses never do: its 8 bits of precision would round small
# differences of logits to zero, and means over many patches lose more.
def _gan_loss(mode: GanMode, logits: Tensor, real: bool) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        if mode == "vanilla":
            return functional.softplus(-logits if real else logits).mean()
        if mode == "lsgan":
            return (logits - float(real)).square().mean()
        return -logits.mean() if real else logits.mean()


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Return (slope - 1) squared at a random point between real and fake images, scalar, float32.

    Gulrajani et al. 2017, eq. 3. For a conditional discriminator the slope is taken with respect to
    input and image. Draws from the global generator of the device.
    """
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = torch.lerp(fake.float(), real.float(), share).requires_grad_(True)
        # The critic is the mean of an image's logits, as in the loss. If their sum had slope 1, the
        # mean would be nearly flat, and hardly any signal would reach a generator with a large
        # cycle weight.
        critic = discriminator(between).flatten(1).mean(dim=1)
        (slope,) = torch.autograd.grad(critic.sum(), between, create_graph=True)
        length: Tensor = torch.linalg.vector_norm(slope.flatten(1), dim=1)
        return (length - 1).square().mean()


@torch.no_grad()
def clip_weights(networks: Iterable[nn.Module], bound: float) -> None:
    """Clip all weights to [-bound, bound] (Arjovsky et al. 2017, algorithm 1, line 7)."""
    weights: list[Tensor] = [weight for network in networks for weight in network.parameters()]
    torch._foreach_clamp_min_(weights, -bound)
    torch._foreach_clamp_max_(weights, bound)


def l1_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error, float32."""
    return functional.l1_loss(output.float(), target)


def fft_loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean amplitude of the difference of the 2-D spectra, float32.

    Not normalized, so that it grows with the side of the images: Cho, Ji, Hong, Jung, Ko (2021),
    "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", eq. 7.
    """
    amplitudes: Tensor = torch.fft.rfft2(output.float() - target).abs()
    return amplitudes.mean()
