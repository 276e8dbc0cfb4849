"""Network specs: names, settings and size limits of every architecture.

Nothing here imports torch, so that settings and ``--help`` load fast. To add a network, write a
class that takes a ``NetworkSpec``, add a row to ``NETWORKS``, and its name to ``GeneratorName`` or
``DiscriminatorName``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from pydantic import Field

from img2img_data.core.errors import UsageError
from img2img_data.core.frozen_model import FrozenModel

GeneratorName: TypeAlias = Literal[
    "autoencoder", "unet", "unet-64", "unet-128", "unet-256", "encoder-decoder-64",
    "encoder-decoder-128", "encoder-decoder-256", "resnet-6", "resnet-9", "edsr", "nafnet",
]  # fmt: skip
DiscriminatorName: TypeAlias = Literal[
    "patch-1", "patch-16", "patch-34", "patch-70", "patch-142", "patch-286", "global"
]
Norm: TypeAlias = Literal["batch", "instance", "none"]
GanMode: TypeAlias = Literal["vanilla", "lsgan", "wgan", "wgan-gp"]

# Padding to a network's multiple may enlarge an image to at most this many times its pixels: a
# network that trains mostly on mirrored borders learns little about images.
MAX_PADDING: Final = 4


@dataclass(frozen=True, slots=True)
class Architecture:
    """A row of ``NETWORKS``: the class, its size limits, its published norm and dropout.

    Generators pad their input to a multiple of ``multiple`` and at least ``smallest`` pixels a
    side; images for a discriminator must have at least ``smallest``. The smallest normalized
    feature map has ``stride`` times fewer pixels a side than the image. ``dropout`` is None where
    the network has no dropout layers, ``blocks`` is 0 where their number is fixed. Weights are
    drawn as ``init`` says, see ``registry.build``; a ``residual`` network predicts the difference
    from its input wherever both have the same channels.
    """

    # A name instead of the class: importing the class would import torch.
    cls: str
    options: Mapping[str, int] = field(default_factory=dict)
    multiple: int = 1
    smallest: int = 1
    stride: int = 1
    norm: Norm = "batch"
    dropout: float | None = None
    has_bottleneck: bool = False
    width: int = 64
    blocks: int = 0
    residual: bool = False
    init: Literal["normal", "he"] = "normal"


def _pix2pix_unet(levels: int, skips: bool) -> Architecture:
    options, side = {"levels": levels, "skips": skips}, 2**levels
    return Architecture("Pix2PixUNet", options, side, side, side // 2, "batch", 0.5, True)


def _resnet(blocks: int) -> Architecture:
    return Architecture("ResNetGenerator", {"blocks": blocks}, 4, 8, 4, "instance", 0.0)


def _patch(layers: int) -> Architecture:
    return Architecture("PatchDiscriminator", {"layers": layers}, smallest=3 * 2**layers)


NETWORKS: Final[dict[GeneratorName | DiscriminatorName, Architecture]] = {
    "autoencoder": Architecture("Autoencoder", multiple=16, smallest=16, stride=16),
    "unet": Architecture("UNet", multiple=16, smallest=16, stride=16),
    "unet-64": _pix2pix_unet(6, skips=True),
    "unet-128": _pix2pix_unet(7, skips=True),
    "unet-256": _pix2pix_unet(8, skips=True),
    "encoder-decoder-64": _pix2pix_unet(6, skips=False),
    "encoder-decoder-128": _pix2pix_unet(7, skips=False),
    "encoder-decoder-256": _pix2pix_unet(8, skips=False),
    "resnet-6": _resnet(6),
    "resnet-9": _resnet(9),
    "edsr": Architecture(
        "Edsr", multiple=2, norm="none", width=48, blocks=4, residual=True, init="he"
    ),
    "nafnet": Architecture(
        "NafNet", multiple=8, norm="none", width=32, blocks=4, residual=True, init="he"
    ),
    "patch-1": Architecture("PixelDiscriminator", smallest=2),
    "patch-16": _patch(1),
    "patch-34": _patch(2),
    "patch-70": _patch(3),
    "patch-142": _patch(4),
    "patch-286": _patch(5),
    "global": Architecture("GlobalDiscriminator", smallest=32),
}


class NetworkSpec(FrozenModel):
    """Everything needed to rebuild a network; checkpoints store it.

    ``inputs`` and ``outputs`` are channels, ``width`` the channels of the first layer, ``dropout``
    the probability in the network's dropout layers. ``bottleneck_norm`` also normalizes the
    innermost layer of a pix2pix U-Net; a ``residual`` generator adds its input to its output;
    ``blocks`` are those of a network whose depth can be chosen.
    """

    name: GeneratorName | DiscriminatorName
    inputs: int = Field(3, ge=1, le=64)
    outputs: int = Field(3, ge=1, le=64)
    width: int = Field(64, ge=1, le=1024)
    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)
    bottleneck_norm: bool = False
    residual: bool = False
    blocks: int = Field(0, ge=0, le=128)

    @property
    def multiple(self) -> int:
        """The number of pixels of which padded sides are a multiple."""
        return NETWORKS[self.name].multiple

    @property
    def smallest(self) -> int:
        """The smallest side after padding, pixels."""
        row = NETWORKS[self.name]
        return -(-row.smallest // row.multiple) * row.multiple

    def padded_side(self, side: int) -> int:
        """Return the length in pixels to which a side is padded."""
        return max(self.smallest, -(-side // self.multiple) * self.multiple)

    def check_size(self, height: int, width: int, images: int = 2) -> None:
        """Raise UsageError if the network cannot train on ``images`` images of this size."""
        row = NETWORKS[self.name]
        if self.name in get_args(DiscriminatorName) and min(height, width) < row.smallest:
            why = f"needs sides of at least {row.smallest} pixels, but images are {width}x{height}"
            hint = "choose a smaller network, or build the corpus with larger images"
            raise UsageError("network", self.name, why, hint)
        rows, columns = self.padded_side(height), self.padded_side(width)
        if rows * columns > MAX_PADDING * height * width:
            size = f"{columns}x{rows}" if columns != rows else str(columns)
            why = (
                f"needs sides that are a multiple of {row.multiple}: images of {width}x{height} "
                f"would be padded by mirroring up to {size}"
            )
            names: tuple[GeneratorName, ...] = ("unet", "unet-64", "unet-128")
            fit = [name for name in names if NETWORKS[name].multiple < 2 * min(height, width)]
            other = f"--net {fit[-1]}" if fit else "another --net"
            hint = f"build the corpus with --size {size}, or choose {other}"
            raise UsageError("network", self.name, why, hint)
        # One value minus its own mean is zero whatever the network computes, so nothing could be
        # learned. The innermost map of a pix2pix U-Net is half as large as ``stride`` says, if it
        # is normalized.
        stride = row.stride * (2 if self.bottleneck_norm else 1)
        values = (rows // stride) * (columns // stride) * (images if self.norm == "batch" else 1)
        if values < 2 and self.norm != "none":
            why = f"would normalize a single value ({self.norm} norm, {images} images at a time)"
            hint = "use a larger --batch, a smaller --accumulate, larger images or another norm"
            raise UsageError("network", self.name, why, hint)


def make_spec(
    name: GeneratorName | DiscriminatorName,
    channels: tuple[int, int],
    width: int | None = None,
    norm: Norm | Literal["auto"] = "auto",
    dropout: float | None = None,
    bottleneck_norm: bool = False,
    residual: bool | None = None,
    blocks: int | None = None,
) -> NetworkSpec:
    """Return the spec of a network; ``auto`` and None mean the published value.

    Raises UsageError if the network does not support a setting.
    """
    row = NETWORKS[name]
    why = hint = ""
    if dropout is not None and row.dropout is None:
        why, hint = "has no dropout layers", "leave --dropout out, or choose another --net"
    elif blocks is not None and not row.blocks:
        why, hint = "has a fixed number of blocks", "leave --blocks out, or choose another --net"
    elif norm not in ("auto", "none") and row.norm == "none":
        why, hint = "has no norm to choose", "leave --norm out, or choose another --net"
    elif bottleneck_norm and not row.has_bottleneck:
        why = "has no bottleneck layer without a norm"
        hint = "leave --bottleneck-norm out, or choose a unet-N"
    elif residual and channels[0] != channels[1]:
        why = f"cannot add an input of {channels[0]} channels to an output of {channels[1]}"
        hint = "leave --residual out"
    if why:
        raise UsageError("network", name, why, hint)
    values: dict[str, Any] = {"name": name, "width": row.width if width is None else width}
    values |= {"inputs": channels[0], "outputs": channels[1]}
    values |= {"norm": row.norm if norm == "auto" else norm}
    values |= {"dropout": (row.dropout or 0.0) if dropout is None else dropout}
    values |= {"blocks": row.blocks if blocks is None else blocks}
    if residual is None:
        residual = row.residual and channels[0] == channels[1]
    return NetworkSpec(**values, bottleneck_norm=bottleneck_norm, residual=residual)
