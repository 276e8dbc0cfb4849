"""Cycle-consistent GAN objectives, without pairs: CycleGAN, DualGAN."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from img2img_data.core.errors import UsageError
from img2img_train.networks.specs import GanMode, GeneratorName, NetworkSpec
from img2img_train.objectives import base
from img2img_train.objectives.base import Batch, Images, Losses, Nets, Phase
from img2img_train.objectives.gan import GanObjective


class CycleObjective(GanObjective):
    """Base class: a generator, a reverse generator, and a discriminator for each side.

    A corpus with pairs works too; its pairs are not used. Loss terms have the names of
    https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix with A for the input side and B for the
    target side: G_A is ``generator``, D_A, which sees images of B, is ``discriminator_target``; G_B
    is ``reverse_generator``, D_B is ``discriminator_input``.
    """

    paired: ClassVar[bool] = False
    reverse_generator: ClassVar[str | None] = "reverse_generator"
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator_target", "discriminator_input")
    sample_columns: ClassVar[tuple[str, ...]] = (
        "input", "output", "reconstructed_input", "target", "reverse_output", "reconstructed_target"
    )  # fmt: skip

    cycle_weight: float = base.loss_setting(10.0, ge=0, le=1e6)
    """weight of the cycle-consistency loss; the L1 distance between an image and its cycle"""

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return both generators and both discriminators."""
        inputs, targets = channels
        return {
            "generator": self.generator_spec(channels),
            "reverse_generator": self.generator_spec((targets, inputs)),
            "discriminator_target": self.discriminator_spec(targets),
            "discriminator_input": self.discriminator_spec(inputs),
        }

    def forward(self, nets: Nets, batch: Batch) -> Images:
        """Return the images of both cycles.

        From the input: ``output``, ``reconstructed_input``; from the target: ``reverse_output``,
        ``reconstructed_target``.
        """
        generator, reverse = nets["generator"], nets["reverse_generator"]
        output, reverse_output = generator(batch.input), reverse(batch.target)
        return {
            "output": output,
            "reconstructed_input": reverse(output),
            "reverse_output": reverse_output,
            "reconstructed_target": generator(reverse_output),
        }

    def loss_limit(self, term: str) -> float:
        """Return the limit of a term."""
        adversarial = term.startswith(("g_", "d_"))
        return super().loss_limit(term) if adversarial else self.cycle_weight * base.MAX_ERROR

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return the generators' terms, or the discriminators', on images of the pools if there
        are any.
        """
        from img2img_train.objectives.losses import discriminator_loss, generator_loss, l1_loss

        if phase == "generator":
            weight = self.cycle_weight
            logits_a = nets["discriminator_target"](outputs["output"])
            terms = {"g_A": generator_loss(self.gan_mode, logits_a)}
            logits_b = nets["discriminator_input"](outputs["reverse_output"])
            terms["g_B"] = generator_loss(self.gan_mode, logits_b)
            terms["cycle_A"] = weight * l1_loss(outputs["reconstructed_input"], batch.input)
            terms["cycle_B"] = weight * l1_loss(outputs["reconstructed_target"], batch.target)
            return terms
        fakes, terms = outputs | history, {}
        for name, net, real, fake in (
            ("d_B", "discriminator_input", batch.input, fakes["reverse_output"]),
            ("d_A", "discriminator_target", batch.target, fakes["output"]),
        ):
            found = discriminator_loss(self.gan_mode, nets[net], real, fake, self.d_weight)
            terms |= {f"{name}_{term}": value for term, value in found.items()}
        return terms


class CycleGan(CycleObjective):
    """Zhu, Park, Isola, Efros (2017), eq. 3: least squares, lambda 10, identity loss of 5.2.

    Identity 0.5, a pool of 50, generators first and the halved discriminator loss are those of
    https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    net: Annotated[GeneratorName, GanObjective.model_fields["net"]] = "resnet-9"
    gan_mode: Annotated[GanMode, GanObjective.model_fields["gan_mode"]] = "lsgan"
    identity_weight: float = base.loss_setting(0.5, ge=0, le=1e3)
    """weight of the identity loss, relative to --cycle-weight; lambda_identity of the authors'
    code; needs inputs and targets with the same channels"""
    pool_size: int = base.discriminator_setting(50, ge=0, le=10_000)
    """size of the image pool of generated images shown to the discriminators; 0: no pool"""

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return the networks; UsageError for an identity loss between unequal channels."""
        if self.identity_weight and channels[0] != channels[1]:
            why = f"compares images of {channels[0]} and {channels[1]} channels"
            raise UsageError("option", "--identity-weight", why, "set --identity-weight 0")
        return super().networks(channels)

    def phases(self) -> tuple[Phase, ...]:
        """Return the generators' update, then the discriminators'."""
        return super().phases()[::-1]

    def loss_limit(self, term: str) -> float:
        """Return the limit of a term."""
        weight = self.identity_weight if term.startswith("idt_") else 1
        return weight * super().loss_limit(term)

    def image_pools(self) -> dict[str, int]:
        """Return a pool of the images of each generator."""
        return {"output": self.pool_size, "reverse_output": self.pool_size}

    def losses(
        self, phase: str, nets: Nets, batch: Batch, outputs: Images, history: Images
    ) -> Losses:
        """Return the terms of both cycles, and of the generators the identity losses too."""
        from img2img_train.objectives.losses import l1_loss

        terms = super().losses(phase, nets, batch, outputs, history)
        if phase == "generator" and self.identity_weight:
            weight = self.identity_weight * self.cycle_weight
            reverse, generator = nets["reverse_generator"], nets["generator"]
            terms["idt_B"] = weight * l1_loss(reverse(batch.input), batch.input)
            terms["idt_A"] = weight * l1_loss(generator(batch.target), batch.target)
        return terms


class DualGan(CycleObjective):
    """Yi, Zhang, Tan, Gong (2017), eq. 1 to 3: Wasserstein critics, L1 cycle loss, lambda 500.

    The cycle weight and the two updates of the critics, not halved, per update of the generators
    are within the paper's ranges (100 to 1,000; 2 to 4). The authors' code
    (https://github.com/duxingren14/DualGAN) differs from the defaults here in the following; the
    first values are those of its first version (commit fabe044), the second those of its last::

        here                                         there
        gradient penalty (``--gan-mode wgan-gp``)    clipped to 0.01 (wgan); cross-entropy
        Adam, 2e-4                                   RMSProp, decay 0.9, 5e-5 (as with wgan here)
        200 epochs                                   50 epochs; 45 in its examples
        cycle weight 500                             200; 20
        n_critic 2                                   3; 1, and two updates of the generators
        patch-70: 4x4, one logit a patch             5x5 and a global linear layer; 5x5, patches
        instance norm in the critics, no scale       statistics of each image, scale and offset
        U-Net of 4x4 convolutions, no norm in its    5x5 convolutions, a norm in the innermost
        innermost layer, no bias before a norm       layer, biases everywhere
        independent order of the two sides           the same, up to the end of the shorter side

    Alike are the constant rate, one image a step, and dropout and statistics of the image at test.
    """

    gan_mode: Annotated[GanMode, GanObjective.model_fields["gan_mode"]] = "wgan-gp"
    d_weight: Annotated[float, GanObjective.model_fields["d_weight"]] = 1.0
    n_critic: Annotated[int, GanObjective.model_fields["n_critic"]] = 2
    cycle_weight: Annotated[float, CycleObjective.model_fields["cycle_weight"]] = 500.0

    def published_defaults(self) -> dict[str, Any]:
        """Return the published settings; the learning rate of the authors' code does not decay."""
        return {**super().published_defaults(), "epochs_decay": 0}
