"""Networks that judge images: N x inputs x H x W to N x 1 x h x w logits, unbounded, high for real."""

from __future__ import annotations

from torch import Tensor, nn

from img2img_train.networks.generators import SLOPE, needs_bias, norm_layers
from img2img_train.networks.registry import NetworkSpec, Norm


def _strided(inputs: int, outputs: int, norm: Norm, stride: int = 2) -> list[nn.Module]:
    wider = nn.Conv2d(inputs, outputs, 4, stride, 1, bias=needs_bias(norm))
    return [wider, *norm_layers(norm, outputs), nn.LeakyReLU(SLOPE)]


class PatchGAN(nn.Module):
    """A verdict on each patch: ``layers`` 4x4 convolutions of stride 2 (w, 2w, 4w, then 8w), two of stride
    1.

    The receptive field is 16, 34, 70, 142, 286 pixels for 1 to 5 layers; no norm on the first. Isola et al.
    (2017), 6.1.2; layers in the order of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    def __init__(self, spec: NetworkSpec, layers: int) -> None:
        super().__init__()
        widths = [spec.width * min(2**n, 8) for n in range(layers + 1)]
        parts = _strided(spec.inputs, widths[0], "none")
        for number in range(1, layers + 1):
            stride = 2 if number < layers else 1
            parts += _strided(widths[number - 1], widths[number], spec.norm, stride)
        self.model = nn.Sequential(*parts, nn.Conv2d(widths[-1], spec.outputs, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.model(x)  # type: ignore[no-any-return]


class PixelGAN(nn.Module):
    """A verdict on each pixel by itself: three 1x1 convolutions. Isola et al. (2017), 6.1.2."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        w, bias = spec.width, needs_bias(spec.norm)
        second = [
            nn.Conv2d(w, 2 * w, 1, bias=bias),
            *norm_layers(spec.norm, 2 * w),
            nn.LeakyReLU(SLOPE),
        ]
        last = nn.Conv2d(2 * w, spec.outputs, 1, bias=bias)
        self.net = nn.Sequential(nn.Conv2d(spec.inputs, w, 1), nn.LeakyReLU(SLOPE), *second, last)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net(x)  # type: ignore[no-any-return]


class GlobalGAN(nn.Module):
    """One verdict on the whole image, N x 1 x 1 x 1: four 4x4 convolutions of stride 2, their mean, a
    last layer.

    In place of patches, where what matters is the composition. The convolutions are those of DCGAN
    (Radford, Metz, Chintala 2016); the mean over all places makes it fit every size.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        w, parts = spec.width, _strided(spec.inputs, spec.width, "none")
        for inner in (2 * w, 4 * w, 8 * w):
            parts += _strided(inner // 2, inner, spec.norm)
        self.model = nn.Sequential(*parts)
        self.verdict = nn.Conv2d(8 * w, spec.outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.verdict(self.model(x).mean((2, 3), keepdim=True))  # type: ignore[no-any-return]
