"""What the samples of images mean, and what of them a network sees: RGB, one gray plane, or L to a and b.

::

    color  on disk                  a network takes     a network gives
    rgb     1 or 3 channels a side   the same            the same, all in [-1, 1]
    lab     L plane | Lab image    L / 50 - 1          a / 110 and b / 110

The scale of Lab is that of https://github.com/richzhang/colorization-pytorch and of the PyTorch
CycleGAN/pix2pix repository, models/colorization_model.py. Whatever a network gives is shown, scored and
written as RGB; a image that is not colorized is shown gray, that is with a = b = 0.

The way from Lab to RGB stands here in torch, to run on the device and inside of an exported graph; the tests
hold it to ``images.lab_to_rgb``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

ColorSpace: TypeAlias = Literal["rgb", "lab"]

LARGEST_AB: Final = 110.0
LUMA: Final = (0.299, 0.587, 0.114)
LUMINANCE: Final = (0.212671, 0.715160, 0.072169)
WHITE: Final = (0.950456, 1.0, 1.088754)
TO_LINEAR_RGB: Final = (
    (3.240479, -1.53715, -0.498535), (-0.969256, 1.875991, 0.041556), (0.055648, -0.204043, 1.057311)
)  # fmt: skip
"""sRGB's primaries and D65 (IEC 61966-2-1), CIE 15: as OpenCV has them."""


@dataclass(frozen=True, slots=True)
class ChannelLayout:
    """The color space of a run's images, the channels that its networks take and give, bits a sample."""

    color: ColorSpace = "rgb"
    channels: tuple[int, int] = (3, 3)
    bits: int = 8

    @property
    def stored(self) -> tuple[int, int]:
        """The channels of input and target as they are read."""
        return (1, 3) if self.color == "lab" else self.channels

    @property
    def top(self) -> int:
        """The largest sample."""
        return int(np.iinfo(self.dtype).max)

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The type of samples as they are read."""
        return np.uint16 if self.bits == 16 else np.uint8

    @property
    def pair_bytes(self) -> int:
        """The bytes of a pixel of the input and one of the target."""
        return sum(self.stored) * self.bits // 8

    @property
    def label(self) -> str:
        """What there is beside plain RGB, for reading."""
        names = {1: "gray", 3: "RGB"}
        deep = f"{self.bits}-bit " if self.bits != 8 else ""
        if self.color == "lab":
            return f"{deep}L to ab"
        given, made = (names.get(count, f"{count} channels") for count in self.channels)
        return f"{deep}{given} to {made}" if self != PLAIN else ""

    @property
    def is_supported(self) -> bool:
        """Whether images can be made of these channels."""
        return self.channels == (1, 2) if self.color == "lab" else {*self.channels} <= {1, 3}

    def input(self, stored: Tensor) -> Tensor:
        """Return inputs as a network takes them, float32 N x C x H x W, of samples N x H x W x C."""
        return _scaled(stored, self.top)

    def target(self, stored: Tensor) -> Tensor:
        """Return targets as a network should give them, of samples N x H x W x C."""
        if self.color != "lab":
            return _scaled(stored, self.top)
        levels = stored.permute(0, 3, 1, 2).to(torch.float32)[:, 1:]
        return levels.div(self.top / 255).sub_(128).div_(LARGEST_AB)

    def network_input(self, image: Tensor) -> Tensor:
        """Return what a network takes of an RGB image N x 3 x H x W in [-1, 1]."""
        if self.color == "lab":
            return lightness(image)
        return _weighed(image, LUMA) if self.channels[0] == 1 else image

    def to_rgb(self, made: Tensor, given: Tensor) -> Tensor:
        """Return the RGB image N x 3 x H x W in [-1, 1] of what a network takes, or made of ``given``."""
        if self.color == "lab":
            ab = made if made.shape[1] == 2 else made.new_zeros(made.shape).repeat(1, 2, 1, 1)
            return lab_to_rgb(given if made.shape[1] == 2 else made, ab)
        return made.expand(-1, 3, -1, -1) if made.shape[1] == 1 else made


PLAIN: Final = ChannelLayout()
"""8-bit RGB to RGB."""


def _scaled(stored: Tensor, top: int) -> Tensor:
    return stored.permute(0, 3, 1, 2).to(torch.float32).div_(top / 2).sub_(1.0)


def _weighed(image: Tensor, weights: tuple[float, float, float]) -> Tensor:
    red, green, blue = (image[:, i : i + 1] * weight for i, weight in enumerate(weights))
    return red + green + blue


def lightness(image: Tensor) -> Tensor:
    """Return L / 50 - 1, N x 1 x H x W, of RGB N x 3 x H x W in [-1, 1]."""
    light = ((image + 1) / 2).clamp(0, 1)
    linear = torch.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    y = _weighed(linear, LUMINANCE)
    bent = torch.where(y > (6 / 29) ** 3, y.clamp(min=1e-6) ** (1 / 3), y * (841 / 108) + 4 / 29)
    return (116 * bent - 16) / 50 - 1


def lab_to_rgb(light: Tensor, ab: Tensor) -> Tensor:
    """Return RGB N x 3 x H x W in [-1, 1], clipped, of L / 50 - 1 and of a / 110 and b / 110."""
    light, ab = light.float(), ab.float() * LARGEST_AB
    y = ((light + 1) * 50 + 16) / 116
    bent = (y + ab[:, :1] / 500, y, y - ab[:, 1:] / 200)
    white = zip(bent, WHITE, strict=True)
    xyz = [torch.where(t > 6 / 29, t**3, (t - 4 / 29) * (108 / 841)) * scale for t, scale in white]
    rows = [a * xyz[0] + b * xyz[1] + c * xyz[2] for a, b, c in TO_LINEAR_RGB]
    linear = torch.cat(rows, 1).clamp(0, 1)
    curved = 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curved) * 2 - 1
