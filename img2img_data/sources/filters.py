"""Filters of selections: by the tags of an image, or by its pixels.

A filter is a frozen model. ``check_tags`` or ``check_image`` raises ``Rejected`` with the filter's
one ``reason``, or returns nothing. Tags are checked before the image is read, so an image that they
reject costs no decoding.

To add a filter, write a model and add a row to ``FILTERS``. The order of ``FILTERS`` is the
precedence of the reasons: an image that fails several filters is counted under the first of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from img2img_data.core.errors import Rejected
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.images import color
from img2img_data.images.io import DecodedImage
from img2img_data.images.pixels import Pixels
from img2img_data.sources.folder import Tags

TONE_SIDE: Final = 32
"""Side in pixels to which ``tone_spread`` shrinks an image."""

TONE_CLASSES: Final = 12
"""Number of lightness classes, of equally many samples, in ``tone_spread``."""

MAX_TONE: Final = 40.0
"""Chroma (CIELAB) above which a single tone is a colored surface or light, not a toned image."""


class Filter(FrozenModel):
    """Base class of filters: frozen settings, one reason, and a check of tags or of the image."""

    reason: ClassVar[str]

    def check_tags(self, tags: Tags) -> None:
        """Raise ``Rejected`` if an image with these tags fails."""

    def check_image(self, image: DecodedImage) -> None:
        """Raise ``Rejected`` if the image fails."""


class NoFace(Filter):
    """Reject images in which the source's face detector found no face, or too weak a one.

    Reads the tag ``face_score``; None means that no face was found. Images of a source without this
    tag pass.
    """

    reason: ClassVar[str] = "no-face"
    min_face_score: float = Field(0.0, allow_inf_nan=False)
    """lowest score of the face detector to accept; images without a face are left out"""

    def check_tags(self, tags: Tags) -> None:
        """Compare the tag with the lowest score."""
        if "face_score" not in tags:
            return
        score = tags["face_score"]
        if not isinstance(score, int | float):
            raise Rejected(self.reason, "the list says that no face was found")
        if not score >= self.min_face_score:  # NaN is rejected too
            raise Rejected(self.reason, f"face score {score:.4g}, below {self.min_face_score:g}")


class NoGender(Filter):
    """Reject images of people whose tag ``gender`` is neither "male" nor "female"."""

    reason: ClassVar[str] = "no-gender"

    def check_tags(self, tags: Tags) -> None:
        """Check the tag."""
        if tags.get("gender") not in {"male", "female"}:
            raise Rejected(self.reason, "the list does not state it")


class MinSide(Filter):
    """Reject images whose shorter side is too short."""

    reason: ClassVar[str] = "too-small"
    min_side: int = Field(2, ge=1)
    """shortest side to accept, pixels"""

    def check_image(self, image: DecodedImage) -> None:
        """Compare the shorter side, in pixels, with the limit."""
        width, height = image.size
        if min(width, height) < self.min_side:
            raise Rejected(self.reason, f"{width}x{height}, shorter side below {self.min_side}")


class Gray(Filter):
    """Reject black-and-white images: single-channel, strict, near-gray, or toned in one color.

    A toned image has color, but its color is a function of its lightness alone. ``tone_spread``
    estimates that function and measures the rest, so gray is not a special case. Measured (CIELAB):

    ======================  ===================  =============================  ==============
    set                     spread, gray photos  spread, color photos          left out
    ======================  ===================  =============================  ==============
    200 px faces, 98 gray   0.02-1.95            6 (*) 1.88-2.47, 3194 >= 2.91  98, and 6 (*)
    200 px scenes, 10 gray  0.02-0.05            50 >= 1.22                     10, and 2 (**)
    150 px scenes, 50 gray  0.02-1.85            240 >= 2.41                    50, and 1 (**)
    Yosemite, summer        -                    450 >= 1.19                    3 (**)
    Yosemite, winter        -                    100 >= 2.39                    2
    BSDS500, train          -                    200 >= 2.09                    4
    CUHK sketches           88 <= 0.02           -                              88
    CUHK photos, facades    -                    588 >= 29                      0
    ======================  ===================  =============================  ==============

    (*) color by the key of the set, but they look toned; (**) 4 of these 6 look toned. The
    rest are scenes of one hue: mist, dusk, rock under snow. For faces any tolerance from 2.5 to 2.9
    gives the same result.

    Images toned by computation (seven tones from warm to sepia and cyanotype) are found in 96 % of
    cases, as JPEG of quality 75 in 88 %. Most are missed if JPEG of quality 30, or color planes a
    pixel out of register, added false color.
    """

    reason: ClassVar[str] = "gray"
    gray_tolerance: float = Field(2.65, gt=0, le=20)
    """largest color deviation from one tone in a gray image, CIELAB units"""

    def check_image(self, image: DecodedImage) -> None:
        """Compare the spread of the colors around the one tone with the tolerance."""
        spread, chroma = tone_spread(image.pixels)
        if spread <= self.gray_tolerance and chroma <= MAX_TONE:
            raise Rejected(self.reason, f"chroma {chroma:.1f}, {spread:.2f} from a single tone")


def tone_spread(pixels: Pixels) -> tuple[float, float]:
    """Return the distance of the colors from one tone, and their chroma, in CIELAB units.

    ``pixels``: H x W x 3 RGB, uint8 or uint16. The samples of the image, averaged down to at most
    32 x 32, are sorted by lightness into 12 classes of equal size; the medians of the classes,
    joined by straight lines, are the tone: (a, b) as a function of L. The first number is max(P90,
    P98 / 2.5) of the samples' distances from it, the second the 90th percentile of chroma. Takes
    0.2 ms for an image of 200 x 200.
    """
    lab = _samples(pixels)
    lab = lab[:, np.argsort(lab[0], kind="stable")]
    count = lab.shape[1]
    classes = min(TONE_CLASSES, count)
    size = count // classes
    sorted_classes = lab[:, : classes * size].reshape(3, classes, size)
    knots = np.partition(sorted_classes, size // 2, axis=2)[..., size // 2]
    a, b = (lab[channel] - np.interp(lab[0], knots[0], knots[channel]) for channel in (1, 2))
    # Nine tenths of the image must be near the tone, and not even a fiftieth far off: a small red
    # bird in a blue sky makes a color image.
    at90, at98 = (int(share * (count - 1)) for share in (0.90, 0.98))
    distance = np.sqrt(np.partition(a**2 + b**2, (at90, at98)))
    chroma = np.sqrt(np.partition(lab[1] ** 2 + lab[2] ** 2, at90)[at90])
    return float(max(distance[at90], distance[at98] / 2.5)), float(chroma)


def _samples(pixels: Pixels) -> NDArray[np.float32]:
    """Return the samples of the small image, 3 x N CIELAB (L 0..100, a and b about -128..127)."""
    height, width = pixels.shape[:2]
    # Averaging removes the chroma noise of JPEG and film.
    size = min(width, TONE_SIDE), min(height, TONE_SIDE)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(color.cielab(small).reshape(-1, 3).T)


def apply_filters(filters: Iterable[Filter], tags: Tags, image: DecodedImage | None = None) -> None:
    """Check the image, or the tags if there is none yet.

    Raises ``Rejected`` of the first filter that it fails.
    """
    for one in filters:
        if image is None:
            one.check_tags(tags)
        else:
            one.check_image(image)


FILTERS: Final[dict[str, type[Filter]]] = {
    "no-face": NoFace,
    "no-gender": NoGender,
    "min-side": MinSide,
    "gray": Gray,
}
"""Filters by name, in the order of precedence of their reasons; those without pixels come first."""
