"""Channel layouts: the meaning of stored samples, and of the channels that networks take and
return.

::

    color   on disk                network input          network output
    rgb     1 or 3 channels each   the same               the same, all in [-1, 1]
    lab     L plane | Lab image    L / 50 - 1             a / 110 and b / 110

The Lab scale is that of https://github.com/richzhang/colorization-pytorch and of the PyTorch
CycleGAN/pix2pix repository, models/colorization_model.py. Results are shown, scored and written as
RGB. An image without colors (a = b = 0) is gray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from img2img_data.images.pixels import Pixels

ColorSpace: TypeAlias = Literal["rgb", "lab"]

AB_SCALE: Final = 110.0
LUMA: Final = (0.299, 0.587, 0.114)
# sRGB primaries and white point D65 (IEC 61966-2-1, CIE 15), with the digits that OpenCV uses.
LUMINANCE: Final = (0.212671, 0.715160, 0.072169)
WHITE: Final = (0.950456, 1.0, 1.088754)
XYZ_TO_RGB: Final = (
    (3.240479, -1.53715, -0.498535),
    (-0.969256, 1.875991, 0.041556),
    (0.055648, -0.204043, 1.057311),
)


@dataclass(frozen=True, slots=True)
class ChannelLayout:
    """Color space of a run's images, channels of network input and output, bits per sample."""

    color: ColorSpace = "rgb"
    channels: tuple[int, int] = (3, 3)
    bits: int = 8

    @property
    def stored(self) -> tuple[int, int]:
        """Channels of input and target as read."""
        return (1, 3) if self.color == "lab" else self.channels

    @property
    def top(self) -> int:
        """Largest sample value: 255 or 65535."""
        return 65_535 if self.bits == 16 else 255

    @property
    def label(self) -> str:
        """A readable name, empty for 8-bit RGB to RGB."""
        if self == PLAIN:
            return ""
        names = {1: "L", 2: "ab"} if self.color == "lab" else {1: "gray", 3: "RGB"}
        source, target = (names.get(count, f"{count} channels") for count in self.channels)
        return f"{'' if self.bits == 8 else '16-bit '}{source} to {target}"

    @property
    def is_supported(self) -> bool:
        """True if images can be made from these channels."""
        return self.channels == (1, 2) if self.color == "lab" else {*self.channels} <= {1, 3}

    def input(self, stored: Tensor) -> Tensor:
        """Return network inputs, float32 N x C x H x W in [-1, 1], from samples N x H x W x C."""
        return normalize(stored, self.top)

    def target(self, stored: Tensor) -> Tensor:
        """Return targets in the range of network outputs, N x C x H x W, from samples N x H x W x
        C.
        """
        if self.color != "lab":
            return normalize(stored, self.top)
        ab = stored.permute(0, 3, 1, 2).to(torch.float32)[:, 1:]
        return ab.div(self.top / 255).sub_(128).div_(AB_SCALE)

    def network_input(self, rgb: Tensor) -> Tensor:
        """Return network inputs from RGB images N x 3 x H x W in [-1, 1]."""
        if self.color == "lab":
            return lightness(rgb)
        return _weighted(rgb, LUMA) if self.channels[0] == 1 else rgb

    def to_rgb(self, image: Tensor, network_input: Tensor) -> Tensor:
        """Return the RGB image N x 3 x H x W in [-1, 1] of a network's input or output.

        The output of a Lab model needs ``network_input`` for its lightness.
        """
        if self.color != "lab":
            return image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
        if image.shape[1] == 2:
            return lab_to_rgb(network_input, image)
        return lab_to_rgb(image, image.new_zeros(image.shape).repeat(1, 2, 1, 1))


PLAIN: Final = ChannelLayout()
"""8-bit RGB to RGB."""


def normalize(samples: Tensor, top: int = 255) -> Tensor:
    """Return samples N x H x W x C in 0..``top`` as float32 N x C x H x W in [-1, 1]."""
    # A copy, because samples may be float32 already: 16-bit ones, and those of jitter.
    x = samples.permute(0, 3, 1, 2).to(torch.float32, copy=True)
    return x.div_(top / 2).sub_(1.0)


def denormalize(x: Tensor, top: int = 255) -> Tensor:
    """Return N x C x H x W in [-1, 1] as samples N x H x W x C in 0..``top``, rounded once.

    They are uint8 for a ``top`` of 255, else int32: torch has few operations on uint16.
    """
    levels = x.detach().float().add(1.0).mul(top / 2).round_().clamp_(0, top)
    return levels.to(torch.uint8 if top == 255 else torch.int32).permute(0, 2, 3, 1)


def is_gray(pixels: Pixels) -> bool:
    """Return True if the channels of an image, H x W x C, are equal."""
    return bool((pixels[..., :-1] == pixels[..., 1:]).all())


def _weighted(rgb: Tensor, weights: tuple[float, float, float]) -> Tensor:
    red, green, blue = (rgb[:, i : i + 1] * weight for i, weight in enumerate(weights))
    return red + green + blue


# The same conversions exist in ``images`` for pixels in NumPy. These run on the device and inside
# an exported graph; a test compares both.
def lightness(rgb: Tensor) -> Tensor:
    """Return L / 50 - 1, N x 1 x H x W, from RGB N x 3 x H x W in [-1, 1]."""
    x = ((rgb + 1) / 2).clamp(0, 1)
    linear = torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    y = _weighted(linear, LUMINANCE)
    # The clamp keeps the gradient of the branch that is not taken finite.
    f = torch.where(y > (6 / 29) ** 3, y.clamp(min=1e-6) ** (1 / 3), y * (841 / 108) + 4 / 29)
    return (116 * f - 16) / 50 - 1


def lab_to_rgb(light: Tensor, ab: Tensor) -> Tensor:
    """Return RGB N x 3 x H x W in [-1, 1], clipped, from L / 50 - 1 and a / 110, b / 110."""
    light, ab = light.float(), ab.float() * AB_SCALE
    y = ((light + 1) * 50 + 16) / 116
    f = zip((y + ab[:, :1] / 500, y, y - ab[:, 1:] / 200), WHITE, strict=True)
    xyz = [torch.where(t > 6 / 29, t**3, (t - 4 / 29) * (108 / 841)) * scale for t, scale in f]
    rows = [a * xyz[0] + b * xyz[1] + c * xyz[2] for a, b, c in XYZ_TO_RGB]
    linear = torch.cat(rows, 1).clamp(0, 1)
    curved = 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curved) * 2 - 1
