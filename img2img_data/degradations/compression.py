"""Degradations by lossy compression. Codecs take bytes: images of more depth go through 8 bit here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydantic import Field

from img2img_data.core.errors import Rejected
from img2img_data.degradations.base import Axes, Degradation, Image, from_unit, to_unit
from img2img_data.degradations.parameters import IntRange, parameter

Bytes = NDArray[np.uint8]
Codec = Callable[[Bytes], Bytes]
_LONGEST_WEBP: Final = 16383


def through_bytes(image: Image, codec: Codec) -> Image:
    """Send a image of any depth through a codec for H x W x 1 or H x W x 3 bytes, RGB, and back."""
    deep = image if image.ndim == 3 else image[..., None]
    if image.dtype != np.uint8:
        deep = np.rint(np.clip(to_unit(image), 0, 1) * 255).astype(np.uint8)
    if deep.shape[2] in {1, 3}:
        done = codec(np.ascontiguousarray(deep))
    else:
        done = np.stack(
            [codec(np.ascontiguousarray(deep[..., c, None])) for c in range(deep.shape[2])], -1
        )
    if image.dtype == np.uint8:
        return done.reshape(image.shape)
    return from_unit(np.divide(done, np.float32(255), dtype=np.float32), image)


class Jpeg(Degradation):
    """JPEG compression and back. Works in 8 bit, whatever the image's depth."""

    quality: IntRange = parameter(
        [30, 95], ge=1, le=100, description="JPEG quality, 1 (worst) to 100"
    )
    chroma: Literal[420, 422, 444] = Field(
        420, description="resolution of the color: 420 is half both ways"
    )

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Encode at ``drawn["quality"]`` (libjpeg-turbo) and decode."""
        quality, chroma = int(drawn["quality"]), str(self.chroma)

        def codec(pixels: Bytes) -> Bytes:
            gray = pixels.shape[2] == 1
            space = "GRAY" if gray else "RGB"
            data = simplejpeg.encode_jpeg(pixels, quality, space, "Gray" if gray else chroma)
            return np.asarray(simplejpeg.decode_jpeg(data, space), np.uint8)

        return through_bytes(image, codec)


class Webp(Degradation):
    """Lossy WebP compression and back, also at 100. Works in 8 bit; up to 16,383 pixels a side."""

    quality: IntRange = parameter(
        [30, 95], ge=1, le=100, description="WebP quality, 1 (worst) to 100"
    )

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Encode at ``drawn["quality"]`` and decode; ``Rejected`` where a side is too long for WebP."""
        if max(image.shape[:2]) > _LONGEST_WEBP:
            raise Rejected("too-many-pixels", f"WebP holds {_LONGEST_WEBP} pixels a side")
        quality = int(drawn["quality"])

        def codec(pixels: Bytes) -> Bytes:
            gray = pixels.shape[2] == 1
            bgr = pixels if gray else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
            _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
            back = np.asarray(
                cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR), np.uint8
            )
            return back if gray else np.asarray(cv2.cvtColor(back, cv2.COLOR_BGR2RGB), np.uint8)

        return through_bytes(image, codec)


CODECS: Final[dict[str, type[Degradation]]] = {"jpeg": Jpeg, "webp": Webp}
