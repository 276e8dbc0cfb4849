"""What a run minimises: frozen settings, no state. The loop knows phases, never which game is played.

Adding one: write an ``Objective`` with its settings as fields, and give it a row in ``OBJECTIVES``; command
line, recipes, checkpoints and the tests' laws take it from there. A field of another objective with another
default is given that default alone: type, range and help stand once, in the aliases below. Torch is
imported where tensors are, so that settings stay quick to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self, TypeAlias, TypedDict

from pydantic import BaseModel, ConfigDict, Field, model_validator

from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import in_group
from img2img_train.networks.registry import Discriminator, GanMode, Generator, NetworkSpec, describe

if TYPE_CHECKING:
    from torch import Tensor, nn

    Images: TypeAlias = dict[str, Tensor]
    Nets: TypeAlias = Mapping[str, nn.Module]


@dataclass(frozen=True, slots=True)
class Batch:
    """Images on the device: float32 N x C x H x W in [-1, 1]; of an unpaired corpus the halves have
    nothing to do with each other.
    """

    input: Tensor
    target: Tensor


@dataclass(frozen=True, slots=True)
class Phase:
    """One update: the networks it moves, with an optimizer of their own, in every ``every``-th step."""

    name: str
    modules: tuple[str, ...]
    optimizer: Literal["adam", "rmsprop"] = "adam"
    every: int = 1


# ---------------------------------------------------------------- settings, each described once
# The first clause of a description is the short help; ``--help-all`` shows all of it.
Net: TypeAlias = Annotated[
    Generator, Field(description="generator network", json_schema_extra=in_group("Generator"))
]
Width: TypeAlias = Annotated[
    int,
    Field(
        ge=1,
        le=1024,
        description="channels of the generator's first layer; deeper layers have multiples of it",
        json_schema_extra=in_group("Generator"),
    ),
]
Dropout: TypeAlias = Annotated[
    float | None,
    Field(
        ge=0,
        lt=1,
        description="dropout rate of the generator; for unet-N, encoder-decoder-N and resnet-N; "
        "default: as published, 0.5, or 0 in a resnet-N",
        json_schema_extra=in_group("Generator"),
    ),
]
NormName: TypeAlias = Literal["auto", "batch", "instance", "none"]
GeneratorNorm: TypeAlias = Annotated[
    NormName,
    Field(
        description="normalization of the generator; auto: as published",
        json_schema_extra=in_group("Generator"),
    ),
]
BottleneckNorm: TypeAlias = Annotated[
    bool,
    Field(
        description="normalize the innermost layer of a unet-N too",
        json_schema_extra=in_group("Generator"),
    ),
]
Residual: TypeAlias = Annotated[
    bool,
    Field(
        description="predict the difference from the input; an untrained generator then returns "
        "its input",
        json_schema_extra=in_group("Generator"),
    ),
]
Mode: TypeAlias = Annotated[
    GanMode,
    Field(
        description="adversarial loss; vanilla (BCE), lsgan (MSE), wgan (weight clipping, trained "
        "with RMSProp), wgan-gp (gradient penalty)",
        json_schema_extra=in_group("Objective"),
    ),
]
DiscriminatorName: TypeAlias = Annotated[
    Discriminator,
    Field(
        description="discriminator network; patch-N has a receptive field of N x N pixels, global "
        "sees the whole image",
        json_schema_extra=in_group("Discriminator"),
    ),
]
DiscriminatorWidth: TypeAlias = Annotated[
    int,
    Field(
        ge=1,
        le=1024,
        description="channels of the discriminator's first layer",
        json_schema_extra=in_group("Discriminator"),
    ),
]
DiscriminatorNorm: TypeAlias = Annotated[
    NormName,
    Field(
        description="normalization of the discriminator; auto: that of the generator, but instance "
        "in place of batch with wgan-gp",
        json_schema_extra=in_group("Discriminator"),
    ),
]
DiscriminatorWeight: TypeAlias = Annotated[
    float,
    Field(
        gt=0,
        le=1000,
        description="multiplier of the discriminator loss; 0.5 as in pix2pix",
        json_schema_extra=in_group("Discriminator"),
    ),
]
NCritic: TypeAlias = Annotated[
    int,
    Field(
        ge=1,
        le=100,
        description="discriminator updates per generator update",
        json_schema_extra=in_group("Discriminator"),
    ),
]
ClipValue: TypeAlias = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="weight clipping bound, with --gan-mode wgan",
        json_schema_extra=in_group("Discriminator"),
    ),
]
L1Weight: TypeAlias = Annotated[
    float,
    Field(
        ge=0, le=1e6, description="weight of the L1 loss", json_schema_extra=in_group("Objective")
    ),
]
CycleWeight: TypeAlias = Annotated[
    float,
    Field(
        ge=0,
        le=1e6,
        description="weight of the cycle-consistency loss; L1 between an image and its cycle",
        json_schema_extra=in_group("Objective"),
    ),
]
IdentityWeight: TypeAlias = Annotated[
    float,
    Field(
        ge=0,
        le=1e3,
        description="weight of the identity loss; as a multiple of --cycle-weight (lambda_identity); "
        "needs equal channels in both domains",
        json_schema_extra=in_group("Objective"),
    ),
]
PoolSize: TypeAlias = Annotated[
    int,
    Field(
        ge=0,
        le=10_000,
        description="images in the history shown to the discriminators; 0: no history",
        json_schema_extra=in_group("Discriminator"),
    ),
]


class PublishedDefaults(TypedDict, total=False):
    """Settings of a run with which an objective was published."""

    batch: int
    epochs: int
    epochs_decay: int
    lr: float
    test_dropout: bool
    test_norm: Literal["running", "batch"]


class Objective(BaseModel):
    """What every objective is. A step calls ``forward`` once, then ``losses``, ``after`` for each phase.

    ``paired``: images come with their target; else from two sides that are drawn independently.
    ``best_by_psnr``: the checkpoint with the best PSNR on held-out images is handed over; else the newest.
    Every objective has a network ``generator``, input to target, and an image ``output`` that it made;
    ``back``, where there is one, is the network from target to input. ``shown`` are the columns of a sample
    grid: ``input``, ``target`` and images of ``forward``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    paired: ClassVar[bool] = True
    best_by_psnr: ClassVar[bool] = True
    back: ClassVar[str | None] = None
    shown: ClassVar[tuple[str, ...]] = ("input", "output", "target")

    net: Net = "autoencoder"
    width: Width = 64
    norm: GeneratorNorm = "auto"
    bottleneck_norm: BottleneckNorm = False
    dropout: Dropout = None
    residual: Residual = False

    @property
    def generator(self) -> str:
        """The network that is handed over in the end: input to output."""
        return "generator"

    def generators(self) -> tuple[str, ...]:
        """Return the networks by which ``forward`` makes images; a run may hand over averages of them."""
        return (self.generator,) if self.back is None else (self.generator, self.back)

    def published_defaults(self) -> PublishedDefaults:
        """Return the run's settings (``RunConfig``) with which the objective was published, where not
        given.
        """
        return {}

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return the networks for images of so many channels, input and target."""
        return {"generator": self.translator(channels)}

    def translator(self, channels: tuple[int, int]) -> NetworkSpec:
        """Return a generator from so many channels to so many."""
        return describe(
            self.net,
            channels,
            self.width,
            self.norm,
            self.dropout,
            self.bottleneck_norm,
            self.residual,
        )

    def phases(self) -> tuple[Phase, ...]:
        """Return the updates of a step, in order."""
        return (Phase("generator", ("generator",)),)

    def image_pools(self) -> dict[str, int]:
        """Return the images of ``forward`` of which a history is kept, and how many of each."""
        return {}

    def needs_double_backward(self) -> tuple[str, ...]:
        """Return the networks of whose gradients there are gradients; no compiler of torch's knows that."""
        return ()

    def forward(self, nets: Nets, batch: Batch) -> Images:
        """Return the images made of a batch, by name; all phases share them."""
        return {"output": nets["generator"](batch.input)}

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return the terms whose sum the phase minimises, by name; scalars, float32.

        ``past`` holds images from the histories of ``image_pools``, as many as were made.
        """
        raise NotImplementedError

    def after_update(self, phase: str, nets: Nets) -> None:
        """Do what follows the update of a phase, clipping weights for instance."""


# ------------------------------------------------------------------------------ without a game
class L2(Objective):
    """Mean squared difference, samples in [-1, 1]."""

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return the one term ``l2``."""
        from img2img_train.objectives.losses import squared

        return {"l2": squared(made["output"], batch.target)}


class L1(Objective):
    """Mean absolute difference, samples in [-1, 1]."""

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return the one term ``l1``."""
        from img2img_train.objectives.losses import absolute

        return {"l1": absolute(made["output"], batch.target)}


# ------------------------------------------------------------------------------ games with pairs
class Adversarial(Objective):
    """A generator against discriminators. Which networks judge what is for its subclasses to say.

    No score tells when a game is at its best, and PSNR least of all, for it prefers what is blurred: the
    newest checkpoint counts.
    """

    best_by_psnr: ClassVar[bool] = False

    net: Net = "unet-256"
    gan_mode: Mode = "vanilla"
    discriminator: DiscriminatorName = "patch-70"
    d_width: DiscriminatorWidth = 64
    d_norm: DiscriminatorNorm = "auto"
    d_weight: DiscriminatorWeight = 0.5
    n_critic: NCritic = 1
    clip_value: ClipValue = 0.01

    @model_validator(mode="after")
    def _clip_is_of_wgan(self) -> Self:
        if (
            self.gan_mode != "wgan"
            and self.clip_value != type(self).model_fields["clip_value"].default
        ):
            raise ValueError(
                "--clip-value belongs to --gan-mode wgan; give that too, or leave it out"
            )
        return self

    def published_defaults(self) -> PublishedDefaults:
        """Isola et al. (2017), 6.2; the rate of wgan as in Arjovsky et al. (2017), algorithm 1."""
        usual: PublishedDefaults = {"batch": 1, "epochs": 200, "epochs_decay": 100}
        return {**usual, "lr": 5e-5} if self.gan_mode == "wgan" else usual

    def judge(self, channels: int) -> NetworkSpec:
        """Return a discriminator of images with so many channels."""
        norm = self.d_norm
        if norm == "auto":
            norm = self.translator((3, 3)).norm
            norm = "instance" if norm == "batch" and self.gan_mode == "wgan-gp" else norm
        return describe(self.discriminator, (channels, 1), self.d_width, norm)

    def _phase(self, name: str, *modules: str, every: int = 1) -> Phase:
        return Phase(name, modules, "rmsprop" if self.gan_mode == "wgan" else "adam", every)

    def needs_double_backward(self) -> tuple[str, ...]:
        """Return the critics, with ``wgan-gp``."""
        judges = next(phase.modules for phase in self.phases() if phase.name == "discriminator")
        return judges if self.gan_mode == "wgan-gp" else ()

    def after_update(self, phase: str, nets: Nets) -> None:
        """Clip the discriminators' weights, with ``wgan``."""
        from img2img_train.objectives.losses import clip

        if phase == "discriminator" and self.gan_mode == "wgan":
            clip(
                [net for name, net in nets.items() if name.startswith("discriminator")],
                self.clip_value,
            )


class Gan(Adversarial):
    """The adversarial loss alone; the discriminator does not see the input. "GAN" in Isola et al. (2017),
    4.1.
    """

    conditional: ClassVar[bool] = False

    def published_defaults(self) -> PublishedDefaults:
        """Dropout and batch statistics stay at test: Isola et al. (2017), 3.4."""
        return {**super().published_defaults(), "test_dropout": True, "test_norm": "batch"}

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return the generator and its discriminator."""
        seen = channels[1] + (channels[0] if self.conditional else 0)
        return {"generator": self.translator(channels), "discriminator": self.judge(seen)}

    def phases(self) -> tuple[Phase, ...]:
        """Return the discriminator's update, then the generator's."""
        return (
            self._phase("discriminator", "discriminator"),
            self._phase("generator", "generator", every=self.n_critic),
        )

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return ``d_real``, ``d_made`` (``d_penalty``) of the discriminator, ``gan`` of the generator."""
        from img2img_train.objectives.losses import discriminator_loss, generator_loss

        judge, output = nets["discriminator"], made["output"]
        if phase == "generator":
            return {"gan": generator_loss(self.gan_mode, judge(self._seen(batch, output)))}
        images = self._seen(batch, batch.target), self._seen(batch, output)
        terms = discriminator_loss(self.gan_mode, judge, *images, self.d_weight)
        return {f"d_{name}": term for name, term in terms.items()}

    def _seen(self, batch: Batch, image: Tensor) -> Tensor:
        from img2img_train.objectives.losses import beside

        return beside(batch.input, image) if self.conditional else image


class CGan(Gan):
    """The adversarial loss alone; the discriminator sees input and image. Isola et al. (2017), eq. 1."""

    conditional: ClassVar[bool] = True


class L1Gan(Gan):
    """The absolute difference beside the unconditional game. "L1+GAN" in Isola et al. (2017), 4.1."""

    l1_weight: L1Weight = 100.0

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return the terms of the game, and ``l1``, weighted, of the generator."""
        from img2img_train.objectives.losses import absolute

        terms = super().losses(phase, nets, batch, made, past)
        if phase == "generator":
            terms["l1"] = self.l1_weight * absolute(made["output"], batch.target)
        return terms


class Pix2Pix(L1Gan):
    """The absolute difference beside the conditional game. Isola et al. (2017), eq. 4, lambda 100."""

    conditional: ClassVar[bool] = True


# --------------------------------------------------------------------------- games without pairs
class CycleObjective(Adversarial):
    """Two generators, input to target (``generator``) and back (``inverse``), each with its discriminator.

    A corpus with pairs will do: its pairs are not used.
    """

    paired: ClassVar[bool] = False
    back: ClassVar[str | None] = "inverse"
    shown: ClassVar[tuple[str, ...]] = (
        "input", "output", "input_again", "target", "inverse", "target_again"
    )  # fmt: skip

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return both generators and both discriminators, each named after the side it judges."""
        inputs, outputs = channels
        return {
            "generator": self.translator(channels),
            "inverse": self.translator((outputs, inputs)),
            "discriminator_target": self.judge(outputs),
            "discriminator_input": self.judge(inputs),
        }

    def forward(self, nets: Nets, batch: Batch) -> Images:
        """Return both ways: of the input ``output`` and ``input_again``, of the target ``inverse`` and
        ``target_again``.
        """
        there, back = nets["generator"], nets["inverse"]
        output, inverse = there(batch.input), back(batch.target)
        return {
            "output": output,
            "input_again": back(output),
            "inverse": inverse,
            "target_again": there(inverse),
        }

    def _fooling(self, nets: Nets, made: Images) -> Images:
        from img2img_train.objectives.losses import generator_loss

        return {
            "gan_there": generator_loss(
                self.gan_mode, nets["discriminator_target"](made["output"])
            ),
            "gan_back": generator_loss(self.gan_mode, nets["discriminator_input"](made["inverse"])),
        }

    def _cycle(self, weight: float, batch: Batch, made: Images) -> Images:
        from img2img_train.objectives.losses import absolute

        return {
            "cycle_input": weight * absolute(made["input_again"], batch.input),
            "cycle_target": weight * absolute(made["target_again"], batch.target),
        }

    def _judging(self, nets: Nets, batch: Batch, made: Images) -> Images:
        from img2img_train.objectives.losses import discriminator_loss

        sides = {"input": (batch.input, made["inverse"]), "target": (batch.target, made["output"])}
        terms: Images = {}
        for side, images in sides.items():
            found = discriminator_loss(
                self.gan_mode, nets[f"discriminator_{side}"], *images, self.d_weight
            )
            terms |= {f"d_{side}_{name}": term for name, term in found.items()}
        return terms

    def _translators(self, every: int = 1) -> Phase:
        return self._phase("generator", "generator", "inverse", every=every)

    def _judges(self) -> Phase:
        return self._phase("discriminator", "discriminator_target", "discriminator_input")


class CycleGan(CycleObjective):
    """Zhu, Park, Isola, Efros (2017), eq. 3 with least squares (4), lambda 10; identity loss of 5.2.

    Identity 0.5, a pool of 50, generators first, D halved, and the rest as in
    https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    net: Net = "resnet-9"
    gan_mode: Mode = "lsgan"
    cycle_weight: CycleWeight = 10.0
    identity_weight: IdentityWeight = 0.5
    pool_size: PoolSize = 50

    def networks(self, channels: tuple[int, int]) -> dict[str, NetworkSpec]:
        """Return the networks; UsageError where identity is asked for between unequal channels."""
        if self.identity_weight and channels[0] != channels[1]:
            why = f"compares images of {channels[0]} and {channels[1]} channels"
            raise UsageError("option", "--identity-weight", why, "give --identity-weight 0")
        return super().networks(channels)

    def phases(self) -> tuple[Phase, ...]:
        """Return the generators' update, then the discriminators'."""
        return self._translators(self.n_critic), self._judges()

    def image_pools(self) -> dict[str, int]:
        """Keep a history of what both generators made."""
        return {"output": self.pool_size, "inverse": self.pool_size}

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return the discriminators' terms over the history, or the generators', cycle and identity
        weighted.
        """
        if phase == "discriminator":
            return self._judging(nets, batch, past)
        terms = self._fooling(nets, made) | self._cycle(self.cycle_weight, batch, made)
        return terms | (self._identity(nets, batch) if self.identity_weight else {})

    def _identity(self, nets: Nets, batch: Batch) -> Images:
        from img2img_train.objectives.losses import absolute

        weight = self.identity_weight * self.cycle_weight
        return {
            "identity_input": weight * absolute(nets["inverse"](batch.input), batch.input),
            "identity_target": weight * absolute(nets["generator"](batch.target), batch.target),
        }


class DualGan(CycleObjective):
    """Yi, Zhang, Tan, Gong (2017), eq. 1 to 3: critics, and the absolute difference there and back, lambda
    500.

    By default with a gradient penalty in place of the paper's clipped weights (``--gan-mode wgan``: clip
    0.01, RMSProp, 5e-5); two updates of the critics for one of the generators (3.4: 2 to 4), not halved.
    """

    gan_mode: Mode = "wgan-gp"
    d_weight: DiscriminatorWeight = 1.0
    n_critic: NCritic = 2
    reconstruction_weight: CycleWeight = 500.0

    def published_defaults(self) -> PublishedDefaults:
        """The rate does not fall: it does not in https://github.com/duxingren14/DualGAN."""
        return {**super().published_defaults(), "epochs_decay": 0}

    def phases(self) -> tuple[Phase, ...]:
        """Return the critics' update, then the generators', every ``n_critic`` steps."""
        return self._judges(), self._translators(self.n_critic)

    def losses(self, phase: str, nets: Nets, batch: Batch, made: Images, past: Images) -> Images:
        """Return the critics' terms, or the generators'."""
        if phase == "discriminator":
            return self._judging(nets, batch, made)
        return self._fooling(nets, made) | self._cycle(self.reconstruction_weight, batch, made)


OBJECTIVES: Final[dict[str, type[Objective]]] = {
    "l2": L2,
    "l1": L1,
    "gan": Gan,
    "cgan": CGan,
    "l1+gan": L1Gan,
    "pix2pix": Pix2Pix,
    "cyclegan": CycleGan,
    "dualgan": DualGan,
}
