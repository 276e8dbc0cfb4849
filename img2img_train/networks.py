"""The networks. A ``NetworkSpec`` describes one; ``build`` makes it, so a checkpoint can rebuild what it
holds.

Adding one: write a module that takes a ``NetworkSpec``, and give it a row in ``NETWORKS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from img2img_data.errors import UsageError
from img2img_data.fields import did_you_mean

SLOPE: Final = 0.2
SPREAD: Final = 0.02


class NetworkSpec(BaseModel):
    """What rebuilds a network: its name in ``NETWORKS``, channels in and out, channels of the first layer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    inputs: int = Field(3, ge=1, le=64)
    outputs: int = Field(3, ge=1, le=64)
    width: int = Field(64, ge=1, le=1024)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS:
            raise ValueError(f"unknown network; {did_you_mean(name, NETWORKS)}")
        return name

    @property
    def multiple(self) -> int:
        """Height and width have to be a multiple of this many pixels."""
        return NETWORKS[self.name].multiple

    def check_size(self, height: int, width: int) -> None:
        """Raise UsageError, naming the multiple and the nearest fitting size, where pictures do not fit."""
        if height % self.multiple or width % self.multiple:
            fits = [
                max(self.multiple, round(side / self.multiple) * self.multiple) for side in (width, height)
            ]
            size = f"{fits[0]}x{fits[1]}" if fits[0] != fits[1] else str(fits[0])
            why = f"takes sides that are a multiple of {self.multiple}, the pictures are {width}x{height}"
            raise UsageError("network", self.name, why, f"build the corpus with --size {size}")


def _down(inputs: int, outputs: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=not norm)]
    layers += [nn.BatchNorm2d(outputs)] if norm else []
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    wider = nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1, bias=False)
    return nn.Sequential(wider, nn.BatchNorm2d(outputs), nn.ReLU())


def _out(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1), nn.Tanh()
    )


class Autoencoder(nn.Module):
    """Four 5x5 convolutions of stride 2 (w, 2w, 4w, 8w), batch norm on the last three, and as many transposed
    back.

    N x inputs x H x W in [-1, 1] to N x outputs x H x W in (-1, 1); H and W multiples of 16. After DCGAN
    (Radford, Metz, Chintala 2016).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        w = spec.width
        self.down = nn.Sequential(
            _down(spec.inputs, w, False),
            _down(w, 2 * w, True),
            _down(2 * w, 4 * w, True),
            _down(4 * w, 8 * w, True),
        )
        self.up = nn.Sequential(_up(8 * w, 4 * w), _up(4 * w, 2 * w), _up(2 * w, w), _out(w, spec.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the restored batch."""
        return self.up(self.down(x))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """The autoencoder with skips: each level of the way back also sees what that level saw on the way down.

    Shapes as ``Autoencoder``, the output unbounded. After Ronneberger, Fischer, Brox (2015), with
    concatenation as there, up to the input itself: a last 3x3 convolution without tanh can pass the input on
    unchanged, so that what needs no repair (a clear sky) is not harmed.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        w = spec.width
        self.down = nn.ModuleList(
            [
                _down(spec.inputs, w, False),
                _down(w, 2 * w, True),
                _down(2 * w, 4 * w, True),
                _down(4 * w, 8 * w, True),
            ]
        )
        fine = max(1, w // 4)
        self.up = nn.ModuleList([_up(8 * w, 4 * w), _up(8 * w, 2 * w), _up(4 * w, w), _up(2 * w, fine)])
        self.out = nn.Conv2d(fine + spec.inputs, spec.outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the restored batch."""
        levels = [x]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            x = torch.cat([up(x), levels.pop()], dim=1)
        return self.out(x)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Network:
    """A row of ``NETWORKS``: the module's class, and the multiple of pixels its sides need."""

    make: Callable[[NetworkSpec], nn.Module]
    multiple: int


NETWORKS: Final[dict[str, Network]] = {
    "autoencoder": Network(Autoencoder, 16),
    "unet": Network(UNet, 16),
}


def build(spec: NetworkSpec, seed: int | None = None) -> nn.Module:
    """Return the network of a spec on the CPU; with a ``seed`` its weights are drawn, without they are
    arbitrary.

    Weights of convolutions N(0, 0.02), of norms N(1, 0.02), biases 0. The global generator is not touched.
    """
    with torch.device("meta"):
        network = NETWORKS[spec.name].make(spec)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    if seed is not None:
        _draw(network, torch.Generator().manual_seed(seed))
    return network


@torch.no_grad()
def _draw(network: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            mean = 1.0 if parameter.ndim == 1 else 0.0
            parameter.normal_(mean, SPREAD, generator=generator)
