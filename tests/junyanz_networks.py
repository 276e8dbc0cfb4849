"""The generators of the PyTorch CycleGAN/pix2pix repository in plain torch, with its names.

Written from the description of its layers, so that tests can make files with exactly the names and
shapes that its ``torch.save`` writes: in models/networks.py convolutions before a norm have biases
with instance norm only, and ``--norm none`` keeps an empty layer in the place of the norm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def norm_layer(norm: str, channels: int, statistics: bool) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels, track_running_stats=statistics)
    return nn.Identity()


class Block(nn.Module):
    def __init__(self, width: int, norm: str, dropout: bool, statistics: bool) -> None:
        super().__init__()
        bias = norm == "instance"
        layers: list[nn.Module] = []
        for last in (False, True):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3, bias=bias)]
            layers += [norm_layer(norm, width, statistics)]
            layers += [] if last else [nn.ReLU(), *([nn.Dropout(0.5)] if dropout else [])]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResNet(nn.Module):
    def __init__(
        self, blocks: int, channels: tuple[int, int], width: int, norm: str, dropout: bool,
        statistics: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        bias, w = norm == "instance", width
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels[0], w, 7, bias=bias)]
        layers += [norm_layer(norm, w, statistics), nn.ReLU()]
        for size in (w, 2 * w):
            layers += [nn.Conv2d(size, 2 * size, 3, stride=2, padding=1, bias=bias)]
            layers += [norm_layer(norm, 2 * size, statistics), nn.ReLU()]
        layers += [Block(4 * w, norm, dropout, statistics) for _ in range(blocks)]
        for size in (4 * w, 2 * w):
            half = size // 2
            layers += [nn.ConvTranspose2d(size, half, 3, 2, 1, output_padding=1, bias=bias)]
            layers += [norm_layer(norm, half, statistics), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(w, channels[1], 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Level(nn.Module):
    def __init__(self, layers: list[nn.Module], outermost: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) if self.outermost else torch.cat([x, self.model(x)], 1)


class UNet(nn.Module):
    def __init__(
        self, levels: int, channels: tuple[int, int], width: int, norm: str, dropout: bool,
        statistics: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        bias, w = norm == "instance", width
        # From the innermost level outwards: (outer width, inner width, has dropout).
        sizes = [(8 * w, 8 * w, False)] + [(8 * w, 8 * w, dropout)] * (levels - 5)
        sizes += [(4 * w, 8 * w, False), (2 * w, 4 * w, False), (w, 2 * w, False)]
        inner: Level | None = None
        for outer, deeper, drops in sizes:
            layers = [nn.LeakyReLU(0.2), nn.Conv2d(outer, deeper, 4, 2, 1, bias=bias)]
            if inner is not None:
                layers += [norm_layer(norm, deeper, statistics), inner]
            twice = 1 if inner is None else 2
            up = nn.ConvTranspose2d(deeper * twice, outer, 4, 2, 1, bias=bias)
            layers += [nn.ReLU(), up, norm_layer(norm, outer, statistics)]
            inner = Level(layers + ([nn.Dropout(0.5)] if drops else []), outermost=False)
        assert inner is not None
        first = nn.Conv2d(channels[0], w, 4, 2, 1, bias=bias)
        last = nn.ConvTranspose2d(2 * w, channels[1], 4, 2, 1)
        self.model = Level([first, inner, nn.ReLU(), last, nn.Tanh()], outermost=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def original(
    net: str,
    norm: str,
    dropout: bool = False,
    channels: tuple[int, int] = (3, 3),
    width: int = 2,
    statistics: bool = False,
) -> nn.Module:
    """Return a generator with random weights, by the names of ``--netG`` and ``--norm``."""
    torch.manual_seed(len(net) + dropout)
    rest = (channels, width, norm, dropout, statistics)
    network: nn.Module
    if net.startswith("unet"):
        network = UNet({"unet_128": 7, "unet_256": 8}[net], *rest)
    else:
        network = ResNet({"resnet_6blocks": 6, "resnet_9blocks": 9}[net], *rest)
    for parameter in network.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return network
