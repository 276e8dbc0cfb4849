"""Lossy compression. Codecs take bytes: images of any other depth go through 8 bits here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from img2img_data.core.errors import Rejected
from img2img_data.degradations.base import Axes, Degradation, IntRange, parameter
from img2img_data.degradations.samples import Image, from_unit, to_unit

ByteImage = NDArray[np.uint8]
Codec = Callable[[ByteImage], ByteImage]
_MAX_WEBP_SIDE: Final = 16383  # 14 bits in the VP8 header (RFC 6386, section 9.1)


def apply_codec(image: Image, codec: Codec) -> Image:
    """Return an image of any depth after a codec for H x W x 1 or H x W x 3 uint8, RGB."""
    deep = image if image.ndim == 3 else image[..., None]
    if image.dtype != np.uint8:
        deep = np.rint(np.clip(to_unit(image), 0, 1) * 255).astype(np.uint8)
    if deep.shape[2] in {1, 3}:
        coded = codec(np.ascontiguousarray(deep))
    else:
        channels = (np.ascontiguousarray(deep[..., c, None]) for c in range(deep.shape[2]))
        coded = np.stack([codec(channel) for channel in channels], -1)
    if image.dtype == np.uint8:
        return coded.reshape(image.shape)
    return from_unit(to_unit(coded), image)


class JpegCompression(Degradation):
    """JPEG compression and back. Works in 8 bit, whatever the image's depth."""

    # jpeg_range of Real-ESRGAN (github.com/xinntao/Real-ESRGAN,
    # options/train_realesrgan_x4plus.yml).
    quality: IntRange = parameter([30, 95], ge=1, le=100)
    """JPEG quality, 1 (worst) to 100"""
    chroma: Literal[420, 422, 444] = 420
    """resolution of the color: 420 is half both ways"""

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Encode at ``drawn["quality"]`` (libjpeg-turbo) and decode."""
        quality, chroma = int(drawn["quality"]), str(self.chroma)

        def codec(pixels: ByteImage) -> ByteImage:
            gray = pixels.shape[2] == 1
            space = "GRAY" if gray else "RGB"
            data = simplejpeg.encode_jpeg(pixels, quality, space, "Gray" if gray else chroma)
            return np.asarray(simplejpeg.decode_jpeg(data, space), np.uint8)

        return apply_codec(image, codec)


class WebpCompression(Degradation):
    """Lossy WebP compression and back, also at 100. Works in 8 bit; up to 16,383 pixels a side."""

    quality: IntRange = parameter([30, 95], ge=1, le=100)
    """WebP quality, 1 (worst) to 100"""

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Encode at ``drawn["quality"]`` and decode; ``Rejected`` if a side is too long."""
        if max(image.shape[:2]) > _MAX_WEBP_SIDE:
            raise Rejected("too-many-pixels", f"WebP holds {_MAX_WEBP_SIDE} pixels a side")
        quality = int(drawn["quality"])

        def codec(pixels: ByteImage) -> ByteImage:
            gray = pixels.shape[2] == 1
            bgr = pixels if gray else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            # Lossy up to 100: OpenCV turns to lossless WebP above that.
            _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
            mode = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
            decoded = np.asarray(cv2.imdecode(data, mode), np.uint8)
            return decoded if gray else np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))

        return apply_codec(image, codec)
