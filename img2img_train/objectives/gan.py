"""Adversarial (GAN) objectives with pairs: GAN, conditional GAN, L1 + GAN, pix2pix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import model_validator

from img2img_train.networks import specs
from img2img_train.objectives import base
from img2img_train.objectives.base import Batch, Images, Losses, Nets, Objective

if TYPE_CHECKING:
    from torch import Tensor


# Largest terms measured at learning rates up to 0.01, from the first step on: 80 with vanilla, 500
# with lsgan, 70 with wgan-gp, whose levels may drift by some 1,000 in a million steps. Without a
# norm in the discriminator, runs that still recover reach 800, 500,000 and 70. A rate of 10 gives
# 1e5, 1e10 and 1e6 in the first steps. Clipped critics cannot diverge, but have no such bound.
LOSS_LIMITS: Final = {"vanilla": 1e4, "lsgan": 1e6, "wgan": float("inf"), "wgan-gp": 1e6}
"""Largest magnitude of an adversarial term, of weight 1, in a run that has not diverged."""


class GanObjective(Objective):
    """Base class of objectives with discriminators; subclasses say which images those see."""

    # No score tells when a GAN is at its best, PSNR least of all, because it prefers blurred
    # images: the newest checkpoint is used.
    best_by_psnr: ClassVar[bool] = False
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator",)

    net: Annotated[specs.GeneratorName, Objective.model_fields["net"]] = "unet-256"
    gan_mode: specs.GanMode = base.loss_setting("vanilla")
    """adversarial loss; vanilla (BCE), lsgan (MSE), wgan (weight clipping, RMSProp) or wgan-gp
    (gradient penalty)"""
    discriminator: specs.DiscriminatorName = base.discriminator_setting("patch-70")
    """discriminator; patch-N sees N x N pixels per logit, global the whole image"""
    d_width: int = base.discriminator_setting(64, ge=1, le=1024)
    """channels of the discriminator's first layer"""
    d_norm: base.NormName = base.discriminator_setting("auto")
    """normalization; auto: as in the generator, but instance norm in place of batch norm with
    wgan-gp"""
    d_weight: float = base.discriminator_setting(0.5, gt=0, le=1000)
    """weight of the discriminator loss; 0.5 as in pix2pix"""
    n_critic: int = base.discriminator_setting(1, ge=1, le=100)
    """discriminator updates per generator update"""
    clip_value: float = base.discriminator_setting(0.01, gt=0, le=1)
    """bound for weight clipping, with --gan-mode wgan"""

    @model_validator(mode="after")
    def _check_clip_value(self) -> Self:
        default = type(self).model_fields["clip_value"].default
        if self.gan_mode != "wgan" and self.clip_value != default:
            why, hint = "--clip-value needs --gan-mode wgan", "add that, or leave it out"
            raise ValueError(f"{why}; {hint}")
        return self

    def published_defaults(self) -> dict[str, Any]:
        """Return those of Isola et al. (2017), 6.2; the rate of wgan is Arjovsky et al. (2017).

        Dropout and batch statistics stay on at test (3.4 there), because they were on in training
        with one image a step. The rate of Isola et al. is constant; its linear fall over the second
        half is that of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, after Zhu et al.
        (2017).
        """
        defaults: dict[str, Any] = {"batch": 1, "epochs": 200, "epochs_decay": 100}
        defaults |= {"test_dropout": True, "test_norm": "batch"}
        return {**defaults, "lr": 5e-5} if self.gan_mode == "wgan" else defaults

    def discriminator_spec(self, channels: int) -> specs.NetworkSpec:
        """Return the spec of a discriminator of images with ``channels`` channels."""
        norm = self.d_norm
        if norm == "auto":
            norm = self.generator_spec((3, 3)).norm
            # The gradient penalty is defined per image; batch norm would make it depend on the
            # others.
            norm = "instance" if norm == "batch" and self.gan_mode == "wgan-gp" else norm
        return specs.make_spec(self.discriminator, (channels, 1), self.d_width, norm)

    def phases(self) -> tuple[base.Phase, ...]:
        """Return the discriminators' update, then the generators', every ``n_critic`` steps."""
        optimizer: Literal["adam", "rmsprop"] = "rmsprop" if self.gan_mode == "wgan" else "adam"
        return (
            base.Phase("discriminator", self.discriminators, optimizer),
            base.Phase("generator", self.generators(), optimizer, self.n_critic),
        )

    def needs_double_backward(self) -> tuple[str, ...]:
        """Return the discriminators with ``wgan-gp``: its penalty differentiates gradients."""
        return self.discriminators if self.gan_mode == "wgan-gp" else ()

    def loss_limit(self, term: str) -> float:
        """Return the limit of a term."""
        return LOSS_LIMITS[self.gan_mode] * (self.d_weight if term.startswith("d_") else 1)

    def after_update(self, phase: str, nets: Nets) -> None:
        """Clip the discriminators' weights with ``wgan``."""
        from img2img_train.objectives.losses import clip_weights

        if phase == "discriminator" and self.gan_mode == "wgan":
            clip_weights([nets[name] for name in self.discriminators], self.clip_value)


class Gan(GanObjective):
    """The adversarial loss alone; the discriminator does not see the input.

    "GAN" in Isola et al. (2017), 4.1.
    """

    conditional: ClassVar[bool] = False

    def networks(self, channels: tuple[int, int]) -> dict[str, specs.NetworkSpec]:
        """Return the generator and its discriminator."""
        inputs = channels[1] + (channels[0] if self.conditional else 0)
        spec = self.discriminator_spec(inputs)
        return {"generator": self.generator_spec(channels), "discriminator": spec}

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return ``d_real``, ``d_fake``, ``d_gp`` of the discriminator, or ``g_gan``."""
        from img2img_train.objectives.losses import discriminator_loss, generator_loss

        discriminator = nets["discriminator"]
        fake = self._discriminator_input(batch, outputs["output"])
        if phase == "generator":
            return {"g_gan": generator_loss(self.gan_mode, discriminator(fake))}
        real = self._discriminator_input(batch, batch.target)
        terms = discriminator_loss(self.gan_mode, discriminator, real, fake, self.d_weight)
        return {f"d_{name}": term for name, term in terms.items()}

    def _discriminator_input(self, batch: Batch, image: Tensor) -> Tensor:
        import torch

        # Under autocast the image may be bfloat16, the input is float32 then.
        return torch.cat([batch.input.to(image.dtype), image], 1) if self.conditional else image


class CGan(Gan):
    """The conditional adversarial loss alone. Isola et al. (2017), eq. 1."""

    conditional: ClassVar[bool] = True


class L1Gan(Gan):
    """L1 and the unconditional adversarial loss. "L1+GAN" in Isola et al. (2017), 4.1."""

    l1_weight: float = base.loss_setting(100.0, ge=0, le=1e6)
    """weight of the L1 loss"""

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return the adversarial terms, and ``g_l1``, weighted, of the generator."""
        from img2img_train.objectives.losses import l1_loss

        terms = super().losses(phase, nets, batch, outputs, history)
        if phase == "generator":
            terms["g_l1"] = self.l1_weight * l1_loss(outputs["output"], batch.target)
        return terms

    def loss_limit(self, term: str) -> float:
        """Return the limit of a term."""
        return self.l1_weight * base.MAX_ERROR if term == "g_l1" else super().loss_limit(term)


class Pix2Pix(L1Gan):
    """L1 and the conditional adversarial loss. Isola et al. (2017), eq. 4, lambda 100."""

    conditional: ClassVar[bool] = True
