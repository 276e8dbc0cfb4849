"""The networks: a ``NetworkSpec`` describes one, ``build`` makes it, so a checkpoint can rebuild what it
holds.

Adding one: write a module that takes a ``NetworkSpec``, give it a row in ``NETWORKS`` and its name in
``Generator`` or ``Discriminator``. Torch is imported where networks are made, so that settings stay quick
to load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

from img2img_data.core.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Generator: TypeAlias = Literal[
    "autoencoder",
    "unet",
    "unet-64",
    "unet-128",
    "unet-256",
    "encoder-decoder-64",
    "encoder-decoder-128",
    "encoder-decoder-256",
    "resnet-6",
    "resnet-9",
]
Discriminator: TypeAlias = Literal[
    "patch-1", "patch-16", "patch-34", "patch-70", "patch-142", "patch-286", "global"
]
Norm: TypeAlias = Literal["batch", "instance", "none"]
GanMode: TypeAlias = Literal["vanilla", "lsgan", "wgan", "wgan-gp"]

SPREAD: Final = 0.02
MOST_FILLED: Final = 4
"""Images are mirrored up to a network's multiple, to at most so many times their pixels while it trains."""
LARGEST: Final = 1 << 30
"""Parameters a network may have: 4 GiB in float32. A checkpoint can ask for any width."""


class NetworkSpec(BaseModel):
    """What rebuilds a network: its name in ``NETWORKS``, channels in and out, channels of the first layer.

    ``dropout`` is the share of activations dropped where the network drops some; ``bottleneck_norm`` says
    whether a U-Net normalises its innermost layer too, ``residual`` whether a generator adds its input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Generator | Discriminator
    inputs: int = Field(3, ge=1, le=64)
    outputs: int = Field(3, ge=1, le=64)
    width: int = Field(64, ge=1, le=1024)
    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)
    bottleneck_norm: bool = False
    residual: bool = False

    @property
    def multiple(self) -> int:
        """Height and width are brought to a multiple of this many pixels."""
        return NETWORKS[self.name].multiple

    @property
    def smallest(self) -> int:
        """Height and width are brought to at least this many pixels."""
        row = NETWORKS[self.name]
        return -(-row.smallest // row.multiple) * row.multiple

    def room(self, side: int) -> int:
        """Return what a side of so many pixels has to be filled up to."""
        return max(self.smallest, -(-side // self.multiple) * self.multiple)

    def check_size(self, height: int, width: int, images: int = 2) -> None:
        """Raise UsageError, naming the way out, where steps of so many images of this size do not fit."""
        row = NETWORKS[self.name]
        filled = self.room(height), self.room(width)
        if self.name in get_args(Discriminator) and min(height, width) < row.smallest:
            why = f"takes sides of at least {row.smallest} pixels, the images are {width}x{height}"
            raise UsageError(
                "network", self.name, why, "choose a smaller one, or build the corpus larger"
            )
        if filled[0] * filled[1] > MOST_FILLED * height * width:
            hint = f"build the corpus with --size {_size(filled)}, or choose another --net"
            why = f"takes sides that are a multiple of {row.multiple}: images of {width}x{height} would be "
            raise UsageError("network", self.name, f"{why}mirrored up to {_size(filled)}", hint)
        factor = row.normed * (2 if self.bottleneck_norm else 1)
        values = (
            (filled[0] // factor) * (filled[1] // factor) * (images if self.norm == "batch" else 1)
        )
        if values < 2 and self.norm != "none":
            why = f"would normalise a single value by itself ({self.norm} norm, {images} images at a time)"
            raise UsageError(
                "network",
                self.name,
                why,
                "use a larger --batch, a smaller --accumulate, larger images or another norm",
            )


def _size(sides: tuple[int, int]) -> str:
    height, width = sides
    return f"{width}x{height}" if width != height else str(width)


@dataclass(frozen=True, slots=True)
class Network:
    """A row of ``NETWORKS``: how to make it, what it needs, and the norm and dropout it was published with.

    Sides are brought to a multiple of ``multiple`` and at least ``smallest`` pixels, but for those of a
    discriminator, which have to be as large; the narrowest layer that is
    normalised is ``normed`` times smaller than the image. ``dropout`` None: there is none in it.
    """

    make: Callable[[NetworkSpec], nn.Module]
    multiple: int = 1
    smallest: int = 1
    normed: int = 1
    norm: Norm = "batch"
    dropout: float | None = None
    bottleneck: bool = False


def describe(
    name: Generator | Discriminator,
    channels: tuple[int, int],
    width: int,
    norm: Norm | Literal["auto"] = "auto",
    dropout: float | None = None,
    bottleneck_norm: bool = False,
    residual: bool = False,
) -> NetworkSpec:
    """Return the spec of a network; what is left open (auto, None) is as it was published.

    UsageError where something is asked of a network that does not have it.
    """
    row = NETWORKS[name]
    if dropout is not None and row.dropout is None:
        raise UsageError(
            "network", name, "has no dropout", "leave --dropout out, or choose another --net"
        )
    if bottleneck_norm and not row.bottleneck:
        why = "has no bottleneck that is left without a norm"
        raise UsageError("network", name, why, "leave --bottleneck-norm out, or choose a unet-N")
    if residual and channels[0] != channels[1]:
        why = f"cannot add an input of {channels[0]} channels to an output of {channels[1]}"
        raise UsageError("network", name, why, "leave --residual out")
    return NetworkSpec(
        name=name,
        inputs=channels[0],
        outputs=channels[1],
        width=width,
        norm=row.norm if norm == "auto" else norm,
        dropout=(row.dropout or 0.0) if dropout is None else dropout,
        bottleneck_norm=bottleneck_norm,
        residual=residual,
    )


def _autoencoder(spec: NetworkSpec) -> nn.Module:
    from img2img_train.networks.generators import Autoencoder

    return Autoencoder(spec)


def _unet(spec: NetworkSpec) -> nn.Module:
    from img2img_train.networks.generators import UNet

    return UNet(spec)


def _pix2pix(levels: int, skips: bool) -> Network:
    def make(spec: NetworkSpec) -> nn.Module:
        from img2img_train.networks.generators import SkipNet

        return SkipNet(spec, levels, skips)

    side = 2**levels
    return Network(make, side, side, side // 2, "batch", 0.5, bottleneck=True)


def _resnet(blocks: int) -> Network:
    def make(spec: NetworkSpec) -> nn.Module:
        from img2img_train.networks.generators import ResNet

        return ResNet(spec, blocks)

    return Network(make, 4, 8, 4, "instance", 0.0)


def _patch(layers: int) -> Network:
    def make(spec: NetworkSpec) -> nn.Module:
        from img2img_train.networks.discriminators import PatchGAN

        return PatchGAN(spec, layers)

    return Network(make, smallest=3 * 2**layers)


def _pixel(spec: NetworkSpec) -> nn.Module:
    from img2img_train.networks.discriminators import PixelGAN

    return PixelGAN(spec)


def _global(spec: NetworkSpec) -> nn.Module:
    from img2img_train.networks.discriminators import GlobalGAN

    return GlobalGAN(spec)


NETWORKS: Final[dict[Generator | Discriminator, Network]] = {
    "autoencoder": Network(_autoencoder, 16, 16, 16),
    "unet": Network(_unet, 16, 16, 16),
    "unet-64": _pix2pix(6, True),
    "unet-128": _pix2pix(7, True),
    "unet-256": _pix2pix(8, True),
    "encoder-decoder-64": _pix2pix(6, False),
    "encoder-decoder-128": _pix2pix(7, False),
    "encoder-decoder-256": _pix2pix(8, False),
    "resnet-6": _resnet(6),
    "resnet-9": _resnet(9),
    "patch-1": Network(_pixel, smallest=2),
    "patch-16": _patch(1),
    "patch-34": _patch(2),
    "patch-70": _patch(3),
    "patch-142": _patch(4),
    "patch-286": _patch(5),
    "global": Network(_global, smallest=32),
}


def build(spec: NetworkSpec, seed: int | None = None) -> nn.Module:
    """Return the network of a spec on the CPU; with a ``seed`` its weights are drawn, without they are
    arbitrary.

    Weights of convolutions N(0, 0.02), of norms N(1, 0.02), biases 0 (Radford, Metz, Chintala 2016; Isola
    et al. 2017, 6.2). The global generator is not touched. UsageError where it would have more than 2^30
    parameters.
    """
    import torch

    network = skeleton(spec)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
    if seed is not None:
        _draw(network, torch.Generator().manual_seed(seed))
    return network


def skeleton(spec: NetworkSpec) -> nn.Module:
    """Return the network of a spec with shapes but no memory; UsageError as ``build``."""
    import torch

    with torch.device("meta"):
        network = NETWORKS[spec.name].make(spec)
    size = count_parameters(network)
    if size > LARGEST:
        why = f"of width {spec.width} has {size:,} parameters, more than {LARGEST:,}"
        raise UsageError("network", spec.name, why, "use a smaller width")
    return network


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def _draw(network: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in network.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            values.zero_()
        else:
            values.normal_(1.0 if parameter.ndim == 1 else 0.0, SPREAD, generator=generator)
