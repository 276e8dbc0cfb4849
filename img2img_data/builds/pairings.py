"""Pairings: one image and the other, halves, Lab, grayscale, a hole, edges; and their registry.

To add one, write a frozen model with ``apply`` (and ``draw`` if it has random parameters) and add
a row to ``PAIRINGS`` under its name in lower case. Which files of two folders belong together is
decided in ``sources.matching``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

from img2img_data.builds.pairs import Degrade, DrawnPair, Pairing
from img2img_data.core.errors import Rejected
from img2img_data.core.settings_model import Place, build_part
from img2img_data.corpus.format import ColorSpace
from img2img_data.degradations.base import Rng
from img2img_data.degradations.spec import degradation_of
from img2img_data.images.color import lab_to_rgb, outside_srgb, rgb_to_lab
from img2img_data.images.pixels import COUNT, Channels, Pixels, luminance

ANY_CHANNELS: Final[frozenset[Channels]] = frozenset(COUNT)


class Combine(Pairing):
    """Input: one image. Target: the other image of the pair. Both upright and of one size."""

    takes: ClassVar[frozenset[Channels]] = ANY_CHANNELS
    audit_shift: bool = False
    """measure the shift between the images of each pair (shift_x, shift_y); warn if the images of a
    pair fit no better than images of different pairs"""
    max_shift: float | None = Field(None, gt=0, allow_inf_nan=False)
    """largest shift between the images of a pair, pixels; pairs with a larger one are rejected,
    those whose shift cannot be measured are kept  [default: no limit]"""

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Return both images; ``Rejected`` (misaligned) if their shift exceeds the limit."""
        first, second = images
        measured: dict[str, float] = {}
        if self.audit_shift or self.max_shift is not None:
            from img2img_data.similarity.alignment import measure_shift

            shift = measure_shift(first, second)
            if self.max_shift is not None and shift.is_reliable and shift.length > self.max_shift:
                raise Rejected("misaligned", str(shift))
            measured = {"shift_x": shift.x, "shift_y": shift.y} if shift.is_reliable else {}
            measured["shift_doubt"] = shift.doubt
        return DrawnPair(first, second, {}, measured)


class Halves(Pairing):
    """Input: the left half of the image. Target: the right half, as in pix2pix corpora."""

    takes: ClassVar[frozenset[Channels]] = ANY_CHANNELS

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Cut the image in the middle; ``Rejected`` (size) if its width is odd."""
        width = images[0].shape[1]
        if width % 2:
            raise Rejected("size", f"the width, {width}, is odd: no two equal halves")
        return DrawnPair(images[0][:, : width // 2], images[0][:, width // 2 :], {}, {})


class Lab(Pairing):
    """Input: the L plane. Target: Lab (D65; 8 bit: L*255/100, a+128, b+128; 16 bit: x 257)."""

    color: ClassVar[ColorSpace] = "lab"
    takes: ClassVar[frozenset[Channels]] = frozenset({"rgb"})
    plane: ClassVar[bool] = True

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Convert at the image's depth, and measure the error of the conversion to Lab and back.

        ``round_trip_max`` and ``round_trip_mean`` are gray levels of 0 to 255;
        ``out_of_gamut_share`` is the share of pixels that rounding to Lab moved out of sRGB.
        """
        lab = rgb_to_lab(images[0])
        levels = 257 if lab.dtype == np.uint16 else 1
        error = cv2.absdiff(lab_to_rgb(lab), images[0])
        measured = {
            "round_trip_max": round(float(error.max()) / levels, 4),
            "round_trip_mean": round(float(error.mean()) / levels, 4),
            "out_of_gamut_share": round(outside_srgb(lab), 6),
        }
        return DrawnPair(np.ascontiguousarray(lab[..., 0]), lab, {}, measured)


class Grayscale(Pairing):
    """Input: the luma of the image (BT.601), H x W. Target: the image."""

    takes: ClassVar[frozenset[Channels]] = frozenset({"rgb"})
    plane: ClassVar[bool] = True
    clean: ClassVar[bool] = True

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Compute the luma; the target is the same array, not a copy."""
        return DrawnPair(luminance(images[0]), images[0], {}, {})


class Blank(Pairing):
    """Input: the image with a rectangular hole, for inpainting. Target: the image.

    A central hole of half the side is that of Pathak et al., "Context Encoders" (CVPR 2016); a
    white one of 0.3 is ``--operation blank`` of affinelayer/pix2pix-tensorflow, tools/process.py.
    The row holds the hole (left, top, hole_width, hole_height in pixels), and thereby the mask;
    noise is generated from noise_seed.
    """

    clean: ClassVar[bool] = True
    where: Literal["center", "random"] = "center"
    """position of the hole: in the center, or random for each image"""
    share: float = Field(0.5, gt=0, lt=1)
    """side of the hole, as a share of the image's side"""
    fill: Literal["mean", "gray", "white", "noise"] = "mean"
    """content of the hole: mean color of the rest, middle gray, white, or noise"""

    def draw(self, images: Sequence[Pixels], rng: Rng) -> dict[str, float]:
        """Draw the position, uniformly, then the seed of the noise."""
        height, width = images[0].shape[:2]
        hole_width, hole_height = (max(1, round(self.share * side)) for side in (width, height))
        left, top = (width - hole_width) // 2, (height - hole_height) // 2
        if self.where == "random":
            left = int(rng.integers(width - hole_width + 1))
            top = int(rng.integers(height - hole_height + 1))
        drawn = {"left": left, "top": top, "hole_width": hole_width, "hole_height": hole_height}
        return drawn | ({"noise_seed": int(rng.integers(1 << 32))} if self.fill == "noise" else {})

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Fill the hole in a copy; the target is the same array, not a copy."""
        names = ("left", "top", "hole_width", "hole_height")
        left, top, width, height = (int(drawn[name]) for name in names)
        output = images[0].copy()
        hole = output[top : top + height, left : left + width]
        hole[...] = self._filling(images[0], hole, drawn)
        return DrawnPair(output, images[0], drawn, {})

    def _filling(self, image: Pixels, hole: Pixels, drawn: dict[str, float]) -> Any:
        white = int(np.iinfo(image.dtype).max)
        if self.fill == "noise":
            # A named bit generator: the default one of NumPy may change with its version.
            rng = np.random.Generator(np.random.PCG64(int(drawn["noise_seed"])))
            return rng.integers(0, white + 1, hole.shape, image.dtype)
        rest = image.shape[0] * image.shape[1] - hole.shape[0] * hole.shape[1]
        if self.fill == "mean" and rest:
            # Sums of integers in double precision are exact below 2**53: equal on every machine.
            total, inside = (np.array(cv2.sumElems(p)) for p in (image, hole))
            mean = np.rint((total - inside) / rest).astype(image.dtype)
            return mean[0] if image.ndim == 2 else mean[: image.shape[2]]
        return white if self.fill == "white" else (white + 1) // 2


class Edges(Pairing):
    """Input: the edges of the image, H x W, as in the edges2photo of pix2pix. Target: the image.

    Canny's detector (IEEE PAMI 8(6), 1986) in OpenCV's implementation, after a Gaussian blur.
    Isola et al. (CVPR 2017) used the network HED, whose weights no maintained package ships.
    """

    plane: ClassVar[bool] = True
    clean: ClassVar[bool] = True
    low: float | None = Field(None, ge=0, allow_inf_nan=False)
    """lower hysteresis threshold  [default: median gradient]"""
    high: float | None = Field(None, ge=0, allow_inf_nan=False)
    """upper hysteresis threshold  [default: 3 times the median]"""
    blur: float = Field(1.0, ge=0, le=100)
    """Gaussian blur before edge detection, sigma in pixels"""
    lines: Literal["black", "white"] = "black"
    """color of the lines; the background has the other color"""

    @model_validator(mode="after")
    def _ordered(self) -> Edges:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("--low is above --high")
        return self

    def draw(self, images: Sequence[Pixels], rng: Rng) -> dict[str, float]:
        """Return the thresholds in units of OpenCV's 3 x 3 Sobel operator: 4 per gray level."""
        low, high = self.low, self.high
        if low is None or high is None:
            # The gradients of the image itself set its thresholds. The common advice, the median of
            # the lightness, left almost no edges in faces and misty landscapes. Canny recommends a
            # ratio of 2 to 3. The lower bounds are steps of 2 and of 6 gray levels.
            gradients = cv2.magnitude(*self._gradients(images[0], cv2.CV_32F))
            median = round(float(np.median(gradients)), 2)
            high = max(24.0, 3 * median) if high is None else high
            low = min(max(8.0, median), high) if low is None else low
        return {"low": low, "high": max(low, high)}

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Draw the lines, and measure the share of the pixels that they cover (``edge_share``)."""
        image = images[0]
        # Canny on given gradients takes 16-bit integers; with the L2 norm its thresholds have the
        # units of ``cv2.magnitude`` in ``draw``.
        gradients = self._gradients(image, cv2.CV_16S)
        found = cv2.Canny(*gradients, drawn["low"], drawn["high"], L2gradient=True) > 0
        shown = found if self.lines == "white" else ~found
        lines = shown.astype(image.dtype) * image.dtype.type(np.iinfo(image.dtype).max)
        return DrawnPair(lines, image, drawn, {"edge_share": round(float(found.mean()), 4)})

    def _gradients(self, image: Pixels, depth: int) -> tuple[Pixels, Pixels]:
        gray = luminance(image)
        # Thresholds are in 8-bit gray levels, whatever the depth of the image.
        if gray.dtype != np.uint8:
            gray = cv2.convertScaleAbs(gray, alpha=255 / np.iinfo(gray.dtype).max)
        if self.blur:
            gray = cv2.GaussianBlur(gray, (0, 0), self.blur)
        return cv2.Sobel(gray, depth, 1, 0), cv2.Sobel(gray, depth, 0, 1)


class Unpaired(Pairing):
    """A single image, unchanged: one domain of an unpaired corpus."""

    takes: ClassVar[frozenset[Channels]] = ANY_CHANNELS

    def apply(self, images: Sequence[Pixels], drawn: dict[str, float]) -> DrawnPair:
        """Return the image twice; an unpaired corpus writes only the target."""
        return DrawnPair(images[0], images[0], {}, {})


PAIRINGS: Final[dict[str, type[Pairing]]] = {
    "degrade": Degrade,
    "combine": Combine,
    "halves": Halves,
    "lab": Lab,
    "grayscale": Grayscale,
    "blank": Blank,
    "edges": Edges,
    "unpaired": Unpaired,
}


def pairing_of(recipe: Mapping[str, Any], place: Place) -> Pairing:
    """Return the pairing of a corpus from its recipe. Raises ``UsageError`` if it names none."""
    name = str(recipe.get("pairing"))
    if name not in PAIRINGS:
        hint = "the corpus is damaged, or was written by a newer version"
        raise place.error(["pairing"], f"is not a pairing (got {name!r})", hint)
    if name != "degrade":
        return build_part(PAIRINGS[name], recipe, place)
    return Degrade(degradation=degradation_of(recipe, place))
