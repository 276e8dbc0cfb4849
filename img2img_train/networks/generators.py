"""Networks that make a image of a image: N x inputs x H x W in [-1, 1] to N x outputs x H x W."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from img2img_train.networks.layers import BatchNorm, Dropout, ReflectionPad
from img2img_train.networks.registry import NetworkSpec, Norm

SLOPE: Final = 0.2
DROPPED_LEVELS: Final = 3
"""How many levels of the way up of a pix2pix U-Net have dropout, from the innermost on."""


def norm_layers(norm: Norm, channels: int) -> list[nn.Module]:
    """Return the normalisation of so many channels, a layer or none."""
    if norm == "batch":
        return [BatchNorm(channels)]
    return [nn.InstanceNorm2d(channels)] if norm == "instance" else []


def needs_bias(norm: Norm) -> bool:
    """Return whether a convolution before a norm has a bias: batch norm brings its own, instance norm here
    does not.
    """
    return norm != "batch"


class Translator(nn.Module):
    """A generator, for images of any size: ``forward`` brings them to sides that ``translate`` takes.

    They are mirrored at the right and the bottom, and what is made of that is cut off again. A ``residual``
    one makes what is added to its input, so that it starts from doing nothing: Zhang et al. (2017), DnCNN,
    3.2; Kupyn et al. (2018), DeblurGAN, 3.2.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.multiple, self.smallest, self.residual = spec.multiple, spec.smallest, spec.residual

    def forward(self, x: Tensor) -> Tensor:
        """Return what is made of N x C x H x W, of the same size."""
        height, width = x.shape[2:]
        filled = [
            max(self.smallest, -(-side // self.multiple) * self.multiple)
            for side in (height, width)
        ]
        if filled == [height, width]:
            return self.fitting(x)
        return self.fitting(mirrored(mirrored(x, 2, filled[0]), 3, filled[1]))[..., :height, :width]

    def fitting(self, x: Tensor) -> Tensor:
        """Return what is made of images whose sides need no mirroring."""
        return x + self.translate(x) if self.residual else self.translate(x)

    def translate(self, x: Tensor) -> Tensor:
        """Return what the layers make of images whose sides are a multiple of ``multiple``, at least
        ``smallest``.
        """
        raise NotImplementedError


def mirrored(x: Tensor, axis: int, length: int) -> Tensor:
    """Return images mirrored at the end of an axis, without the last pixel, up to ``length`` pixels."""
    while x.shape[axis] < length:
        side = x.shape[axis]
        if side == 1:
            return x.expand(
                [length if place == axis else size for place, size in enumerate(x.shape)]
            )
        more = x.narrow(axis, max(0, 2 * side - 1 - length), min(side - 1, length - side))
        x = torch.cat([x, more.flip(axis)], axis)
    return x


# --------------------------------------------------------------------------- the original work's
def _down(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    wider = nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=needs_bias(norm))
    return nn.Sequential(wider, *norm_layers(norm, outputs), nn.LeakyReLU(SLOPE))


def _up(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    wider = nn.ConvTranspose2d(
        inputs, outputs, 5, stride=2, padding=2, output_padding=1, bias=needs_bias(norm)
    )
    return nn.Sequential(wider, *norm_layers(norm, outputs), nn.ReLU())


def _out(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1), nn.Tanh()
    )


def _four_down(spec: NetworkSpec) -> list[nn.Module]:
    w = spec.width
    wider = [_down(w * 2**n, w * 2 ** (n + 1), spec.norm) for n in range(3)]
    return [_down(spec.inputs, w, "none"), *wider]


class Autoencoder(Translator):
    """Four 5x5 convolutions of stride 2 (w, 2w, 4w, 8w), a norm on the last three, and as many transposed
    back.

    The output lies in (-1, 1); H and W multiples of 16. After DCGAN (Radford, Metz, Chintala 2016).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        w, norm = spec.width, spec.norm
        self.down = nn.Sequential(*_four_down(spec))
        self.up = nn.Sequential(
            _up(8 * w, 4 * w, norm),
            _up(4 * w, 2 * w, norm),
            _up(2 * w, w, norm),
            _out(w, spec.outputs),
        )

    def translate(self, x: Tensor) -> Tensor:
        """Return the restored batch."""
        return self.up(self.down(x))  # type: ignore[no-any-return]


class UNet(Translator):
    """The autoencoder with skips: each level of the way back also sees what that level saw on the way down.

    Shapes as ``Autoencoder``, the output unbounded. After Ronneberger, Fischer, Brox (2015), with
    concatenation as there, up to the input itself: a last 3x3 convolution without tanh can pass the input on
    unchanged, so that what needs no repair (a clear sky) is not harmed.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        w, norm, fine = spec.width, spec.norm, max(1, spec.width // 4)
        self.down = nn.ModuleList(_four_down(spec))
        self.up = nn.ModuleList(
            [
                _up(8 * w, 4 * w, norm),
                _up(8 * w, 2 * w, norm),
                _up(4 * w, w, norm),
                _up(2 * w, fine, norm),
            ]
        )
        self.out = nn.Conv2d(fine + spec.inputs, spec.outputs, 3, padding=1)

    def translate(self, x: Tensor) -> Tensor:
        """Return the restored batch."""
        levels = [x]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            x = torch.cat([up(x), levels.pop()], dim=1)
        return self.out(x)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------- pix2pix
class SkipLevel(nn.Module):
    """One level of ``SkipNet``, with all levels inside it: down, inside, up; with a skip, beside its own
    input.
    """

    def __init__(self, layers: list[nn.Module], skip: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Return what the level makes of its input."""
        made: Tensor = self.model(x)
        return torch.cat([x, made], dim=1) if self.skip else made


class SkipNet(Translator):
    """The U-Net of pix2pix: 4x4 convolutions of stride 2 down to a bottleneck (w, 2w, 4w, then 8w) and
    back.

    The output lies in (-1, 1); H and W multiples of 2^levels. No norm on the first layer and, unless
    ``bottleneck_norm``, on the innermost (with one image a step batch norm would make it zero: erratum to
    the paper); dropout on the first three levels up. Without ``skips`` it is the encoder-decoder of the
    same paper. Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks"
    (2017), 6.1.1; layers in the order of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    def __init__(self, spec: NetworkSpec, levels: int, skips: bool) -> None:
        super().__init__(spec)
        widths = [spec.width * min(2**n, 8) for n in range(levels)]
        inside = self._innermost(spec, widths[-2], widths[-1], skips)
        for number in range(levels - 2, 0, -1):
            drop = spec.dropout if levels - number <= DROPPED_LEVELS else 0.0
            inside = self._level(spec, widths[number - 1], widths[number], inside, skips, drop)
        self.model = self._outermost(spec, widths[0], inside, skips)

    def translate(self, x: Tensor) -> Tensor:
        """Return the translated batch."""
        return self.model(x)  # type: ignore[no-any-return]

    @staticmethod
    def _innermost(spec: NetworkSpec, outer: int, inner: int, skips: bool) -> SkipLevel:
        bias = needs_bias(spec.norm)
        normed = norm_layers(spec.norm, inner) if spec.bottleneck_norm else []
        down = [nn.LeakyReLU(SLOPE), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias), *normed]
        up = [
            nn.ReLU(),
            nn.ConvTranspose2d(inner, outer, 4, 2, 1, bias=bias),
            *norm_layers(spec.norm, outer),
        ]
        dropout = [Dropout(spec.dropout)] if spec.dropout else []
        return SkipLevel([*down, *up, *dropout], skips)

    @staticmethod
    def _level(
        spec: NetworkSpec, outer: int, inner: int, inside: SkipLevel, skips: bool, drop: float
    ) -> SkipLevel:
        bias, seen = needs_bias(spec.norm), inner * (2 if skips else 1)
        down = [nn.LeakyReLU(SLOPE), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        up = [
            nn.ReLU(),
            nn.ConvTranspose2d(seen, outer, 4, 2, 1, bias=bias),
            *norm_layers(spec.norm, outer),
        ]
        dropout = [Dropout(drop)] if drop else []
        return SkipLevel([*down, *norm_layers(spec.norm, inner), inside, *up, *dropout], skips)

    @staticmethod
    def _outermost(spec: NetworkSpec, width: int, inside: SkipLevel, skips: bool) -> SkipLevel:
        down = nn.Conv2d(spec.inputs, width, 4, 2, 1, bias=needs_bias(spec.norm))
        up = nn.ConvTranspose2d(width * (2 if skips else 1), spec.outputs, 4, 2, 1)
        return SkipLevel([down, inside, nn.ReLU(), up, nn.Tanh()], skip=False)


# ------------------------------------------------------------------------------------ CycleGAN
class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, reflection padded, added to their input (He, Zhang, Ren, Sun 2016)."""

    def __init__(self, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()
        first, second = (
            [ReflectionPad(1), nn.Conv2d(width, width, 3, bias=needs_bias(norm))] for _ in range(2)
        )
        drop = [Dropout(dropout)] if dropout else []
        normed = [norm_layers(norm, width) for _ in range(2)]
        self.conv_block = nn.Sequential(*first, *normed[0], nn.ReLU(), *drop, *second, *normed[1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the input, changed a little."""
        return x + self.conv_block(x)  # type: ignore[no-any-return]


class ResNet(Translator):
    """The generator of CycleGAN: two steps down, residual blocks, two steps up, a 7x7 convolution at both
    ends.

    The output lies in (-1, 1); H and W multiples of 4. Zhu, Park, Isola, Efros (2017), 7.1, after Johnson,
    Alahi, Fei-Fei (2016); layers in the order of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    def __init__(self, spec: NetworkSpec, blocks: int) -> None:
        super().__init__(spec)
        w, norm, bias = spec.width, spec.norm, needs_bias(spec.norm)
        layers = [ReflectionPad(3), nn.Conv2d(spec.inputs, w, 7, bias=bias), *norm_layers(norm, w)]
        layers += [nn.ReLU()]
        for inner in (2 * w, 4 * w):
            layers += [
                nn.Conv2d(inner // 2, inner, 3, 2, 1, bias=bias),
                *norm_layers(norm, inner),
                nn.ReLU(),
            ]
        layers += [ResidualBlock(4 * w, norm, spec.dropout) for _ in range(blocks)]
        for outer in (2 * w, w):
            up = nn.ConvTranspose2d(2 * outer, outer, 3, 2, 1, output_padding=1, bias=bias)
            layers += [up, *norm_layers(norm, outer), nn.ReLU()]
        layers += [ReflectionPad(3), nn.Conv2d(w, spec.outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def translate(self, x: Tensor) -> Tensor:
        """Return the translated batch."""
        return self.model(x)  # type: ignore[no-any-return]
