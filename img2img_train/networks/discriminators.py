"""Discriminators: N x inputs x H x W images in [-1, 1] to N x 1 x h x w logits, high for real."""

from __future__ import annotations

from torch import Tensor, nn

from img2img_train.networks.generators import LEAKY_SLOPE, needs_bias, norm_layers
from img2img_train.networks.specs import NetworkSpec, Norm


def _conv(inputs: int, outputs: int, norm: Norm, stride: int = 2) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 4, stride, 1, bias=needs_bias(norm))
    return [conv, *norm_layers(norm, outputs), nn.LeakyReLU(LEAKY_SLOPE)]


class PatchDiscriminator(nn.Module):
    """PatchGAN: a logit per patch; ``layers`` 4x4 convolutions of stride 2, two of stride 1.

    Widths are w, 2w, 4w, then 8w; the receptive field is 16, 34, 70, 142, 286 pixels for 1 to 5
    layers. The first layer has no norm. Isola et al. (2017), 6.1.2; layers in the order of
    https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    def __init__(self, spec: NetworkSpec, layers: int) -> None:
        super().__init__()
        widths = [spec.width * min(2**n, 8) for n in range(layers + 1)]
        stack = _conv(spec.inputs, widths[0], "none")
        for number in range(1, layers + 1):
            stride = 2 if number < layers else 1
            stack += _conv(widths[number - 1], widths[number], spec.norm, stride)
        self.model = nn.Sequential(*stack, nn.Conv2d(widths[-1], spec.outputs, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.model(x)  # type: ignore[no-any-return]


class PixelDiscriminator(nn.Module):
    """PixelGAN: a logit per pixel, from three 1x1 convolutions. Isola et al. (2017), 6.1.2."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        w, bias = spec.width, needs_bias(spec.norm)
        self.net = nn.Sequential(
            nn.Conv2d(spec.inputs, w, 1),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Conv2d(w, 2 * w, 1, bias=bias),
            *norm_layers(spec.norm, 2 * w),
            nn.LeakyReLU(LEAKY_SLOPE),
            nn.Conv2d(2 * w, spec.outputs, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net(x)  # type: ignore[no-any-return]


class GlobalDiscriminator(nn.Module):
    """One logit per image, N x 1 x 1 x 1, where the composition matters more than the texture.

    Four 4x4 convolutions of stride 2 as in DCGAN (Radford, Metz, Chintala 2016), the mean over all
    positions, which accepts every size, and a last 1x1 convolution.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        w, stack = spec.width, _conv(spec.inputs, spec.width, "none")
        for width in (2 * w, 4 * w, 8 * w):
            stack += _conv(width // 2, width, spec.norm)
        self.model = nn.Sequential(*stack)
        self.head = nn.Conv2d(8 * w, spec.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.model(x).mean((2, 3), keepdim=True))  # type: ignore[no-any-return]
