"""Generators: N x inputs x H x W images in [-1, 1] to N x outputs x H x W."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from img2img_train.networks.layers import (
    BatchNorm,
    ChannelNorm,
    Dropout,
    ImageMean,
    InstanceNorm,
    ReflectionPad,
)
from img2img_train.networks.specs import NetworkSpec, Norm

LEAKY_SLOPE: Final = 0.2
# The innermost levels of the decoder of a pix2pix U-Net that have dropout.
DROPOUT_LEVELS: Final = 3


def norm_layers(norm: Norm, channels: int) -> list[nn.Module]:
    """Return the norm layer for ``channels`` channels, or an empty list."""
    if norm == "batch":
        return [BatchNorm(channels)]
    return [InstanceNorm(channels)] if norm == "instance" else []


def needs_bias(norm: Norm) -> bool:
    """Return True if a convolution before this norm has a bias."""
    # Batch norm adds a bias of its own; instance norm has no affine parameters here, as in
    # CycleGAN.
    return norm != "batch"


class PaddedGenerator(nn.Module):
    """Base class of generators: pads images of any size for ``translate``, and crops the output.

    Images are padded by mirroring at the right and the bottom. A ``residual`` generator adds its
    input to the output of its layers, so it starts near the identity: Zhang et al. (2017), DnCNN,
    3.2; Kupyn et al. (2018), DeblurGAN, 3.2.
    """

    model: nn.Module

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        # Plain numbers: torch.compile cannot trace the properties of a pydantic model.
        self.multiple, self.smallest, self.residual = spec.multiple, spec.smallest, spec.residual

    # Padding happens in this one place, so that training, validation, tiles and ONNX cannot differ
    # in it.
    def forward(self, x: Tensor) -> Tensor:
        """Return the output, as high and wide as the input."""
        height, width = x.shape[2:]
        rows, columns = (
            max(self.smallest, -(-side // self.multiple) * self.multiple)
            for side in (height, width)
        )
        if (rows, columns) == (height, width):
            return self.forward_padded(x)
        padded = mirror_pad(mirror_pad(x, 2, rows), 3, columns)
        return self.forward_padded(padded)[..., :height, :width]

    def forward_padded(self, x: Tensor) -> Tensor:
        """Return the output for images that need no padding."""
        return x + self.translate(x) if self.residual else self.translate(x)

    def translate(self, x: Tensor) -> Tensor:
        """Return the output of ``model``, for sides that fit ``multiple`` and ``smallest``."""
        return self.model(x)  # type: ignore[no-any-return]


def mirror_pad(x: Tensor, axis: int, length: int) -> Tensor:
    """Return images mirrored at the end of an axis, without the edge pixel, up to ``length``.

    Unlike ``reflect`` of torch, the padding may be longer than the image.
    """
    while x.shape[axis] < length:
        side = x.shape[axis]
        if side == 1:
            return x.expand([length if dim == axis else -1 for dim in range(x.ndim)])
        more = x.narrow(axis, max(0, 2 * side - 1 - length), min(side - 1, length - side))
        x = torch.cat([x, more.flip(axis)], axis)
    return x


# ------------------------------------------------------------------- 5x5 encoders and decoders
def _down(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 5, stride=2, padding=2, bias=needs_bias(norm))
    return nn.Sequential(conv, *norm_layers(norm, outputs), nn.LeakyReLU(LEAKY_SLOPE))


def _up(inputs: int, outputs: int, norm: Norm) -> nn.Sequential:
    conv = nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, output_padding=1, bias=needs_bias(norm))
    return nn.Sequential(conv, *norm_layers(norm, outputs), nn.ReLU())


def _encoder(spec: NetworkSpec) -> list[nn.Module]:
    w = spec.width
    deeper = [_down(w * 2**n, w * 2 ** (n + 1), spec.norm) for n in range(3)]
    return [_down(spec.inputs, w, "none"), *deeper]


class Autoencoder(PaddedGenerator):
    """Four 5x5 convolutions of stride 2 (w, 2w, 4w, 8w), and as many transposed ones back.

    The output is in (-1, 1); H and W are multiples of 16. The first and the last layer have no
    norm. After DCGAN (Radford, Metz, Chintala 2016).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        w, norm = spec.width, spec.norm
        last = nn.ConvTranspose2d(w, spec.outputs, 5, stride=2, padding=2, output_padding=1)
        decoder = [_up(2 * n * w, n * w, norm) for n in (4, 2, 1)]
        self.down = nn.Sequential(*_encoder(spec))
        self.up = nn.Sequential(*decoder, nn.Sequential(last, nn.Tanh()))

    def translate(self, x: Tensor) -> Tensor:
        """Return the decoded batch."""
        return self.up(self.down(x))  # type: ignore[no-any-return]


class UNet(PaddedGenerator):
    """The autoencoder with skip connections, up to the input itself; the output is unbounded.

    After Ronneberger, Fischer, Brox (2015), with concatenation as there.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        w, norm, last = spec.width, spec.norm, max(1, spec.width // 4)
        widths = [(8 * w, 4 * w), (8 * w, 2 * w), (4 * w, w), (2 * w, last)]
        self.down = nn.ModuleList(_encoder(spec))
        self.up = nn.ModuleList([_up(inputs, outputs, norm) for inputs, outputs in widths])
        # A 3x3 convolution that sees the input, without tanh, can copy the input unchanged: regions
        # that need no restoration, such as a clear sky, stay as they are.
        self.out = nn.Conv2d(last + spec.inputs, spec.outputs, 3, padding=1)

    def translate(self, x: Tensor) -> Tensor:
        """Return the decoded batch."""
        levels = [x]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for up in self.up:
            x = torch.cat([up(x), levels.pop()], dim=1)
        return self.out(x)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------- pix2pix
class UNetLevel(nn.Module):
    """One level of ``Pix2PixUNet`` with the levels inside it; ``skip`` concatenates its input."""

    def __init__(self, layers: list[nn.Module], skip: bool) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the level."""
        output: Tensor = self.model(x)
        return torch.cat([x, output], dim=1) if self.skip else output


class Pix2PixUNet(PaddedGenerator):
    """The U-Net of pix2pix: 4x4 convolutions of stride 2 (w, 2w, 4w, then 8w) and back.

    The output is in (-1, 1); H and W are multiples of 2^levels. The three innermost levels of the
    decoder have dropout. Without ``skips`` it is the encoder-decoder of the same paper. Isola, Zhu,
    Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks" (2017), 6.1.1;
    layers in the order of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    def __init__(self, spec: NetworkSpec, levels: int, skips: bool) -> None:
        super().__init__(spec)
        widths = [spec.width * min(2**n, 8) for n in range(levels)]
        bias, inner = needs_bias(spec.norm), list[nn.Module]()
        for number in range(levels - 1, 0, -1):
            width, deeper = widths[number - 1], widths[number]
            down = [nn.LeakyReLU(LEAKY_SLOPE), nn.Conv2d(width, deeper, 4, 2, 1, bias=bias)]
            # The innermost layer has no norm unless asked for: with one image a step batch norm
            # would make it zero (erratum to the paper).
            if inner or spec.bottleneck_norm:
                down += norm_layers(spec.norm, deeper)
            inputs = deeper * (2 if skips and inner else 1)
            up = [nn.ReLU(), nn.ConvTranspose2d(inputs, width, 4, 2, 1, bias=bias)]
            up += norm_layers(spec.norm, width)
            if spec.dropout and levels - number <= DROPOUT_LEVELS:
                up.append(Dropout(spec.dropout))
            inner = [UNetLevel([*down, *inner, *up], skips)]
        first = nn.Conv2d(spec.inputs, widths[0], 4, 2, 1, bias=bias)
        last = nn.ConvTranspose2d(widths[0] * (2 if skips else 1), spec.outputs, 4, 2, 1)
        self.model = UNetLevel([first, *inner, nn.ReLU(), last, nn.Tanh()], skip=False)


# ------------------------------------------------------------------------------------ CycleGAN
class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, reflection padded, added to their input (He, Zhang, Ren, Sun 2016)."""

    def __init__(self, width: int, norm: Norm, dropout: float) -> None:
        super().__init__()

        def convolution() -> list[nn.Module]:
            conv = nn.Conv2d(width, width, 3, bias=needs_bias(norm))
            return [ReflectionPad(1), conv, *norm_layers(norm, width)]

        drop = [Dropout(dropout)] if dropout else []
        self.conv_block = nn.Sequential(*convolution(), nn.ReLU(), *drop, *convolution())

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus the output of the convolutions."""
        return x + self.conv_block(x)  # type: ignore[no-any-return]


class ResNetGenerator(PaddedGenerator):
    """The generator of CycleGAN: two strided convolutions, residual blocks, two transposed.

    The first and the last convolution are 7x7. The output is in (-1, 1); H and W are multiples of
    4. Zhu, Park, Isola, Efros (2017), 7.1, after Johnson, Alahi, Fei-Fei (2016); layers in the
    order of https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix.
    """

    def __init__(self, spec: NetworkSpec, blocks: int) -> None:
        super().__init__(spec)
        w, norm, bias = spec.width, spec.norm, needs_bias(spec.norm)
        layers = [ReflectionPad(3), nn.Conv2d(spec.inputs, w, 7, bias=bias)]
        layers += [*norm_layers(norm, w), nn.ReLU()]
        for outputs in (2 * w, 4 * w):
            down = nn.Conv2d(outputs // 2, outputs, 3, 2, 1, bias=bias)
            layers += [down, *norm_layers(norm, outputs), nn.ReLU()]
        layers += [ResidualBlock(4 * w, norm, spec.dropout) for _ in range(blocks)]
        for outputs in (2 * w, w):
            up = nn.ConvTranspose2d(2 * outputs, outputs, 3, 2, 1, output_padding=1, bias=bias)
            layers += [up, *norm_layers(norm, outputs), nn.ReLU()]
        layers += [ReflectionPad(3), nn.Conv2d(w, spec.outputs, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)


# ---------------------------------------------------------------------------------- restoration
# Both networks work at half the resolution, on pixels rearranged into channels, as Real-ESRGAN does
# at scale 1 (Wang et al. 2021, 3.4): a quarter of the operations, twice the receptive field. Their
# last layer starts at zero, so that an untrained residual network returns its input.
class EdsrBlock(nn.Module):
    """Two 3x3 convolutions without norm, added to their input (Lim et al. 2017, figure 2c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus the output of the convolutions."""
        return x + self.last(torch.relu(self.first(x)))  # type: ignore[no-any-return]


class Edsr(PaddedGenerator):
    """Residual blocks without norm behind a pixel unshuffle; the output is unbounded.

    The body of EDSR (Lim, Son, Kim, Nah, Lee 2017, section 3); H and W are multiples of 2. Two by
    two pixels of the output see 4 ``blocks`` + 4 pixels beyond themselves on each side.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.head = nn.Conv2d(4 * spec.inputs, spec.width, 3, padding=1)
        self.body = nn.Sequential(*(EdsrBlock(spec.width) for _ in range(spec.blocks)))
        self.last = nn.Conv2d(spec.width, 4 * spec.outputs, 3, padding=1)

    def translate(self, x: Tensor) -> Tensor:
        """Return the output, or the difference from the input."""
        features = self.head(functional.pixel_unshuffle(x, 2))
        return functional.pixel_shuffle(self.last(features + self.body(features)), 2)


class NafBlock(nn.Module):
    """Depthwise convolution and a feed-forward part, both gated, without activation functions.

    Chen, Chu, Zhang, Sun (2022), figures 3 and 4: layer norm over the channels, simple gate,
    simplified channel attention.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.norm1, self.norm2 = ChannelNorm(w), ChannelNorm(w)
        self.conv1 = nn.Conv2d(w, 2 * w, 1)
        self.conv2 = nn.Conv2d(2 * w, 2 * w, 3, padding=1, groups=2 * w)
        self.attention = nn.Sequential(ImageMean(), nn.Conv2d(w, w, 1))
        self.conv3 = nn.Conv2d(w, w, 1)
        self.conv4, self.conv5 = nn.Conv2d(w, 2 * w, 1), nn.Conv2d(w, w, 1)
        self.scale1 = nn.Parameter(torch.zeros(1, w, 1, 1))
        self.scale2 = nn.Parameter(torch.zeros(1, w, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus the scaled outputs of both parts."""
        y = simple_gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.scale1 * self.conv3(y * self.attention(y))
        y = simple_gate(self.conv4(self.norm2(x)))
        return x + self.scale2 * self.conv5(y)  # type: ignore[no-any-return]


def simple_gate(x: Tensor) -> Tensor:
    """Return the product of both halves of the channels (Chen et al. 2022, eq. 4)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class NafNet(PaddedGenerator):
    """A U-Net of NAF blocks behind a pixel unshuffle; the output is unbounded.

    Two levels of one block each on the way down and up, ``blocks`` in the middle; H and W are
    multiples of 8. Chen et al. (2022), section 4. The attention averages over the whole image, so
    tiles differ from it a little (Chu et al. 2022).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        w = spec.width
        self.head = nn.Conv2d(4 * spec.inputs, w, 3, padding=1)
        self.encoders = nn.ModuleList(NafBlock(n * w) for n in (1, 2))
        self.downs = nn.ModuleList(nn.Conv2d(n * w, 2 * n * w, 2, stride=2) for n in (1, 2))
        self.middle = nn.Sequential(*(NafBlock(4 * w) for _ in range(spec.blocks)))
        self.ups = nn.ModuleList(nn.Conv2d(n * w, 2 * n * w, 1, bias=False) for n in (4, 2))
        self.decoders = nn.ModuleList(NafBlock(n * w) for n in (2, 1))
        self.last = nn.Conv2d(w, 4 * spec.outputs, 3, padding=1)

    def translate(self, x: Tensor) -> Tensor:
        """Return the output, or the difference from the input."""
        x = self.head(functional.pixel_unshuffle(x, 2))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(functional.pixel_shuffle(up(x), 2) + skips.pop())
        return functional.pixel_shuffle(self.last(x), 2)
