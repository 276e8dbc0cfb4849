"""Lossy compression. Codecs take bytes: images of any other depth go through 8 bits here."""

from __future__ import annotations

import io
import math
from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydantic import Field

from img2img_data.core.errors import Rejected
from img2img_data.degradations.base import Axes, Degradation, IntRange, Uniform, parameter
from img2img_data.degradations.samples import FloatImage, Image, from_unit, luma, to_unit

ByteImage = NDArray[np.uint8]


class Codec(Degradation):
    """Base class of codecs. Subclasses implement ``code``."""

    max_side: ClassVar[int] = 65_500
    """Longest side that the format holds, pixels; that of libjpeg-turbo and of all images here."""

    def code(self, pixels: ByteImage, **drawn: Any) -> ByteImage:
        """Return an image, H x W x 1 or H x W x 3 RGB, encoded and decoded."""
        raise NotImplementedError

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Encode and decode an image of any depth; another number of channels one by one.

        Raises ``Rejected`` if a side is too long.
        """
        if max(image.shape[:2]) > self.max_side:
            raise Rejected("too-many-pixels", f"the format allows {self.max_side:,} pixels a side")
        if image.ndim == 3 and image.shape[2] not in {1, 3}:
            return self._by_channel(image, **drawn)
        deep = image if image.ndim == 3 else image[..., None]
        if image.dtype != np.uint8:
            deep = np.rint(np.clip(to_unit(image), 0, 1) * 255).astype(np.uint8)
        coded = self.code(np.ascontiguousarray(deep), **drawn)
        if image.dtype == np.uint8:
            return coded.reshape(image.shape)
        return from_unit(to_unit(coded), image)


class JpegCompression(Codec):
    """JPEG compression and back. Works in 8 bit, whatever the image's depth."""

    # jpeg_range of Real-ESRGAN (github.com/xinntao/Real-ESRGAN,
    # options/train_realesrgan_x4plus.yml).
    quality: IntRange = parameter([30, 95], ge=1, le=100)
    """JPEG quality, 1 (worst) to 100"""
    chroma: Literal[420, 422, 444] = 420
    """resolution of the color: 420 is half both ways"""

    def code(self, pixels: ByteImage, **drawn: Any) -> ByteImage:
        """Encode at ``drawn["quality"]`` (libjpeg-turbo) and decode."""
        gray = pixels.shape[2] == 1
        space, chroma = ("GRAY", "Gray") if gray else ("RGB", str(self.chroma))
        data = simplejpeg.encode_jpeg(pixels, int(drawn["quality"]), space, chroma)
        return np.asarray(simplejpeg.decode_jpeg(data, space), np.uint8)


class WebpCompression(Codec):
    """Lossy WebP compression and back, also at 100. Works in 8 bit; up to 16,383 pixels a side."""

    max_side: ClassVar[int] = 16_383  # 14 bits in the VP8 header (RFC 6386, section 9.1)
    quality: IntRange = parameter([30, 95], ge=1, le=100)
    """WebP quality, 1 (worst) to 100"""

    def code(self, pixels: ByteImage, **drawn: Any) -> ByteImage:
        """Encode at ``drawn["quality"]`` and decode."""
        gray = pixels.shape[2] == 1
        bgr = pixels if gray else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        # Lossy up to 100: OpenCV turns to lossless WebP above that.
        _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, int(drawn["quality"])])
        mode = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
        decoded = np.asarray(cv2.imdecode(data, mode), np.uint8)
        return decoded if gray else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


def _by_pillow(pixels: ByteImage, format: str, **options: Any) -> ByteImage:
    """Encode and decode H x W x 1 or H x W x 3 RGB with Pillow."""
    # Imported here: most corpora need no such codec.
    from PIL import Image as pillow

    file = io.BytesIO()
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    pillow.fromarray(flat).save(file, format, **options)
    with pillow.open(file, formats=[format]) as image:
        return np.array(image.convert("L" if flat.ndim == 2 else "RGB")).reshape(pixels.shape)


class AvifCompression(Codec):
    """AVIF compression (AV1 still image, 4:2:0) and back. Works in 8 bit; slower than JPEG."""

    quality: IntRange = parameter([20, 80], ge=0, le=100)
    """AVIF quality, 0 (worst) to 100"""
    speed: int = Field(8, ge=0, le=10)
    """speed of the encoder, 0 (best) to 10"""

    def code(self, pixels: ByteImage, **drawn: Any) -> ByteImage:
        """Encode at ``drawn["quality"]`` by one thread (Pillow, libavif) and decode."""
        options = {"quality": int(drawn["quality"]), "speed": self.speed, "max_threads": 1}
        return _by_pillow(pixels, "AVIF", **options)


class Jpeg2000Compression(Codec):
    """JPEG 2000 compression (irreversible 9/7 wavelet) and back. Works in 8 bit."""

    ratio: Uniform = parameter([10, 100, "log"], ge=1, le=1000)
    """compression ratio, bytes before to bytes after"""

    def code(self, pixels: ByteImage, **drawn: Any) -> ByteImage:
        """Encode at ``drawn["ratio"]`` (Pillow, OpenJPEG) and decode."""
        # More resolutions than the shorter side can be halved are an error of OpenJPEG.
        halvings = min(6, 1 + int(math.log2(min(pixels.shape[:2]))))
        options = {"quality_layers": [drawn["ratio"]], "num_resolutions": halvings}
        return _by_pillow(pixels, "JPEG2000", irreversible=True, **options)


class ChromaSubsample(Degradation):
    """Chroma subsampling without compression, as in video and JPEG.

    J:a:b names the resolution. 420: half of both sides; 422: half of the width; 411: a quarter of
    the width; 444: full.
    """

    keeps_mean: ClassVar[bool] = True

    chroma: Literal[411, 420, 422, 444] = 420
    """resolution of the color"""
    identity_settings: ClassVar = {"chroma": 444}

    def degrade(self, image: FloatImage, **drawn: Any) -> Image:
        """Average the differences to the BT.601 luma, and interpolate them linearly."""
        if self.chroma == 444 or image.shape[2] != 3:
            return image
        height, width = image.shape[:2]
        across, down = {411: (4, 1), 420: (2, 2), 422: (2, 1)}[self.chroma]
        small = math.ceil(width / across), math.ceil(height / down)
        # Cb and Cr are linear in these differences: both ways of averaging give the same image.
        gray = luma(image)
        color = cv2.resize(image - gray, small, interpolation=cv2.INTER_AREA)
        return gray + cv2.resize(color, (width, height), interpolation=cv2.INTER_LINEAR)
