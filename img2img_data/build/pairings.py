"""How sources become pairs: what stands on the left, and what on the right.

A pairing draws what differs from image to image, and makes the pair from that, in two functions: with
the drawn values of its row a pair can be made again. Adding one: write a frozen model with ``redo`` (and
``draw``, if it has anything to draw) and give it a row in ``PAIRINGS``. Input and target have one size.
Which files of two folders belong together is decided in ``matching``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from img2img_data.core.errors import Rejected
from img2img_data.core.settings_model import Place, build_model
from img2img_data.corpus.format import ColorSpace
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.blur import GaussianBlur
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import parse_spec, to_spec
from img2img_data.images import io
from img2img_data.images.pixels import Pixels

Drawn = dict[str, float]


class Made(NamedTuple):
    """One pair in memory, the parameters that were drawn for it, and what was measured on it."""

    input: Pixels
    target: Pixels
    drawn: Drawn
    measured: dict[str, float]


class Pairing(BaseModel):
    """What every pairing is: frozen settings, ``draw`` and ``redo``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    color: ClassVar[ColorSpace] = "rgb"
    takes: ClassVar[frozenset[io.Channels]] = frozenset({"rgb", "gray"})
    """The channels that ``make`` can work on. RGBA only where no sample is computed from others: what degrades
    a color has no rule for one that is half seen."""
    plane: ClassVar[bool] = False
    """Whether the input is one plane, whatever the channels of the target."""
    clean: ClassVar[bool] = False
    """Whether the target is the image itself, so that the input can be made of it again."""

    @property
    def random(self) -> bool:
        """Whether ``draw`` uses its generator."""
        return False

    def draw(self, images: Sequence[Pixels], rng: np.random.Generator | None) -> Drawn:
        """Return what this pair is made with; with it ``redo`` gives the same pixels for ever.

        ``rng`` may be None where ``random`` is false.
        """
        return {}

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Make a pair with the drawn values of its row.

        ``images``: upright, one for each source of the pair, H x W x 3 RGB, H x W gray or H x W x 4 RGBA as
        ``takes`` says, uint8 or uint16; they are not written to. The pair has the same type. Raises
        ``Rejected`` when they make no pair.
        """
        raise NotImplementedError

    def make(self, images: Sequence[Pixels], rng: np.random.Generator | None) -> Made:
        """Draw, then make the pair."""
        return self.redo(images, self.draw(images, rng))

    def settings(self) -> dict[str, Any]:
        """Return what the recipe in corpus.json says about this pairing."""
        return {"pairing": _name_of(type(self), PAIRINGS), **self.model_dump(mode="json")}


class Degrade(Pairing):
    """Input: the image, degraded. Target: the image itself."""

    clean: ClassVar[bool] = True
    degradation: Degradation = Field(GaussianBlur(), description="what degrades the input")

    @property
    def random(self) -> bool:
        """As the degradation says."""
        return self.degradation.random

    def draw(self, images: Sequence[Pixels], rng: np.random.Generator | None) -> Drawn:
        """Draw as the degradation does."""
        return self.degradation.draw(rng)

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Apply; the target is the very array that came in."""
        return Made(self.degradation.apply(images[0], "yx", **drawn), images[0], drawn, {})

    def settings(self) -> dict[str, Any]:
        """Return the whole tree of degradations, every default filled in."""
        return {"pairing": "degrade", "degradation": to_spec(self.degradation)}


class Blur(Degrade):
    """One of the plain blurs; the recipe in corpus.json has its parameters beside the others."""

    def settings(self) -> dict[str, Any]:
        """Name the kind of degradation beside its parameters."""
        kind = _name_of(type(self.degradation), DEGRADATIONS)
        return {"pairing": "degrade", "kind": kind, **self.degradation.model_dump(mode="json")}


class Combine(Pairing):
    """Input: one image. Target: the other of the pair. Both upright and of one size."""

    takes: ClassVar[frozenset[io.Channels]] = frozenset(io.COUNT)
    audit_shift: bool = Field(
        False,
        description="measure how far the two images of each pair lie apart (shift_x, shift_y)",
    )
    max_shift: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="reject pairs that lie further apart than this, pixels; where it cannot be told "
        "they stay  [default: none is rejected]",
    )

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Put the two side by side, unchanged."""
        return Made(images[0], images[1], {}, self._audit(*images))

    def _audit(self, first: Pixels, second: Pixels) -> dict[str, float]:
        if not self.audit_shift and self.max_shift is None:
            return {}
        from img2img_data.similarity.alignment import measure_shift

        shift = measure_shift(first, second)
        if not shift.believed:
            return {"shift_doubt": shift.doubt}
        if self.max_shift is not None and shift.length > self.max_shift:
            raise Rejected("misaligned", str(shift))
        return {"shift_x": shift.x, "shift_y": shift.y, "shift_doubt": shift.doubt}


class Halves(Pairing):
    """Input: the left half of the image. Target: the right half. As pix2pix keeps its pairs."""

    takes: ClassVar[frozenset[io.Channels]] = frozenset(io.COUNT)

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Cut in the middle; ``Rejected`` (size) when there is none."""
        width = images[0].shape[1]
        if width % 2:
            raise Rejected("size", f"an odd width, {width}: no two halves")
        return Made(images[0][:, : width // 2], images[0][:, width // 2 :], {}, {})


class Colorize(Pairing):
    """Input: the L plane. Target: the Lab image (D65; 8 bit: L*255/100, a+128, b+128; 16 bit: x 257)."""

    color: ClassVar[ColorSpace] = "lab"
    takes: ClassVar[frozenset[io.Channels]] = frozenset({"rgb"})
    plane: ClassVar[bool] = True

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Convert at the image's depth, and measure what the way there and back costs.

        ``round_trip_max`` and ``round_trip_mean`` are in gray levels of 0 to 255, ``out_of_gamut_share`` is
        the share of pixels that rounding to Lab moved out of sRGB.
        """
        lab = io.rgb_to_lab(images[0])
        levels = 257 if lab.dtype == np.uint16 else 1
        error = np.abs(io.lab_to_rgb(lab).astype(np.int32) - images[0])
        measured = {
            "round_trip_max": round(float(error.max()) / levels, 4),
            "round_trip_mean": round(float(error.mean()) / levels, 4),
            "out_of_gamut_share": round(io.outside_srgb(lab), 6),
        }
        return Made(np.ascontiguousarray(lab[..., 0]), lab, {}, measured)


class Grayscale(Pairing):
    """Input: the image without its colors, H x W (BT.601 luma). Target: the image."""

    takes: ClassVar[frozenset[io.Channels]] = frozenset({"rgb"})
    plane: ClassVar[bool] = True
    clean: ClassVar[bool] = True

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Take the luma; the target is the very array that came in."""
        return Made(io.luminance(images[0]), images[0], {}, {})


class Blank(Pairing):
    """Input: the image with a rectangular hole. Target: the image. For inpainting.

    The central hole of half the side is that of Pathak et al., "Context Encoders" (CVPR 2016); a white one of
    0.3 is ``--operation blank`` of affinelayer/pix2pix-tensorflow, tools/process.py. The row tells the hole
    (left, top, hole_width, hole_height, pixels), and so the mask; noise is drawn anew from noise_seed.
    """

    clean: ClassVar[bool] = True
    where: Literal["centre", "random"] = Field(
        "centre", description="where the hole is: in the middle, or at another place in each image"
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="side of the hole as a share of the image's side"
    )
    fill: Literal["mean", "gray", "white", "noise"] = Field(
        "mean",
        description="what fills the hole: the mean color of what is left, middle gray, white, or noise",
    )

    @property
    def random(self) -> bool:
        """Where the place or the noise is drawn."""
        return self.where == "random" or self.fill == "noise"

    def draw(self, images: Sequence[Pixels], rng: np.random.Generator | None) -> Drawn:
        """Draw the place, each equally likely, then the seed of the noise."""
        height, width = images[0].shape[:2]
        hole_width, hole_height = (max(1, round(self.share * side)) for side in (width, height))
        left, top = (width - hole_width) // 2, (height - hole_height) // 2
        if self.where == "random":
            left, top = _below(rng, width - hole_width + 1), _below(rng, height - hole_height + 1)
        noise = {"noise_seed": _below(rng, 1 << 32)} if self.fill == "noise" else {}
        return {
            "left": left,
            "top": top,
            "hole_width": hole_width,
            "hole_height": hole_height,
            **noise,
        }

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Cut the hole out of a copy; the target is the very array that came in."""
        left, top, width, height = (
            int(drawn[n]) for n in ("left", "top", "hole_width", "hole_height")
        )
        holed = images[0].copy()
        hole = holed[top : top + height, left : left + width]
        hole[...] = self._filling(images[0], hole, drawn)
        return Made(holed, images[0], drawn, {})

    def _filling(self, image: Pixels, hole: Pixels, drawn: Drawn) -> Any:
        white = int(np.iinfo(image.dtype).max)
        if self.fill == "noise":
            rng = np.random.Generator(np.random.PCG64(int(drawn["noise_seed"])))
            return rng.integers(0, white + 1, hole.shape, image.dtype)
        left_over = image.shape[0] * image.shape[1] - hole.shape[0] * hole.shape[1]
        if self.fill == "mean" and left_over:
            total, inside = (np.array(cv2.sumElems(p)) for p in (image, hole))  # exact: below 2**53
            mean = np.rint((total - inside) / left_over).astype(image.dtype)
            return mean[0] if image.ndim == 2 else mean[: image.shape[2]]
        return white if self.fill == "white" else (white + 1) // 2


def _below(rng: np.random.Generator | None, count: int) -> int:
    if rng is None:
        raise ValueError("a random pairing needs a generator")
    return int(rng.integers(count))


class Edges(Pairing):
    """Input: the edges of the image, H x W. Target: the image. For edges-to-photo, as in pix2pix.

    Canny's detector (IEEE PAMI 8(6), 1986) in OpenCV's implementation, after a Gaussian blur. Without given
    thresholds the image's own gradients set them: low is their median, high three times as much (Canny
    recommends a ratio of 2 to 3), but not below a step of 2 and of 6 gray levels. The usual advice is the
    median of the lightness; of our faces and misty landscapes it left next to nothing, for a gradient is not
    a lightness. Isola et al. (CVPR 2017) used the network HED, whose weights no maintained package ships.
    """

    plane: ClassVar[bool] = True
    clean: ClassVar[bool] = True
    low: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="weakest gradient that prolongs a line  [default: median]",
    )
    high: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="weakest gradient that begins a line  [default: 3 medians]",
    )
    blur: float = Field(
        1.0, ge=0, le=100, description="Gaussian blur before, standard deviation in pixels"
    )
    lines: Literal["black", "white"] = Field(
        "black", description="color of the lines; the rest is the other"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Edges:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self

    def draw(self, images: Sequence[Pixels], rng: np.random.Generator | None) -> Drawn:
        """Return the thresholds, in the units of OpenCV's 3 x 3 Sobel operator: 4 for each gray level."""
        low, high = self.low, self.high
        if low is None or high is None:
            median = round(
                float(np.median(cv2.magnitude(*self._gradients(images[0], cv2.CV_32F)))), 2
            )
            high = max(24.0, 3 * median) if high is None else high
            low = min(max(8.0, median), high) if low is None else low
        return {"low": low, "high": max(low, high)}

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Draw the lines, and measure which share of the pixels they take."""
        image = images[0]
        across, down = self._gradients(image, cv2.CV_16S)
        found = cv2.Canny(across, down, drawn["low"], drawn["high"], L2gradient=True) > 0
        white = np.iinfo(image.dtype).max
        shown = (found if self.lines == "white" else ~found).astype(image.dtype) * image.dtype.type(
            white
        )
        return Made(shown, image, drawn, {"edge_share": round(float(found.mean()), 4)})

    def _gradients(self, image: Pixels, depth: int) -> tuple[Pixels, Pixels]:
        gray = image if image.ndim == 2 else io.luminance(image)
        if gray.dtype != np.uint8:
            gray = cv2.convertScaleAbs(gray, alpha=255 / np.iinfo(gray.dtype).max)
        if self.blur:
            gray = cv2.GaussianBlur(gray, (0, 0), self.blur)
        return cv2.Sobel(gray, depth, 1, 0), cv2.Sobel(gray, depth, 0, 1)


class Keep(Pairing):
    """One image as it is: a domain of an unpaired corpus."""

    takes: ClassVar[frozenset[io.Channels]] = frozenset(io.COUNT)

    def redo(self, images: Sequence[Pixels], drawn: Drawn) -> Made:
        """Return the image twice; an unpaired corpus writes the target alone."""
        return Made(images[0], images[0], {}, {})


PAIRINGS: Final[dict[str, type[Pairing]]] = {
    "degrade": Degrade,
    "combine": Combine,
    "halves": Halves,
    "lab": Colorize,
    "grayscale": Grayscale,
    "blank": Blank,
    "edges": Edges,
    "unpaired": Keep,
}


def pairing_of(recipe: Mapping[str, Any], place: Place) -> Pairing:
    """Return the pairing that a corpus was made by, from its recipe; ``UsageError`` where that is none."""
    name = str(recipe.get("pairing"))
    if name not in PAIRINGS:
        raise place.error(
            ["pairing"], f"names no pairing (got {name!r})", "the corpus is damaged, or newer"
        )
    if name == "degrade":
        return Degrade(degradation=_degradation_of(recipe, place))
    given = {field: recipe[field] for field in PAIRINGS[name].model_fields if field in recipe}
    return build_model(PAIRINGS[name], given, place)


def _degradation_of(recipe: Mapping[str, Any], place: Place) -> Degradation:
    if "degradation" in recipe:
        return parse_spec(recipe["degradation"], place.below("degradation")).degradation
    kind = str(recipe.get("kind"))
    fields = DEGRADATIONS[kind].model_fields if kind in DEGRADATIONS else {}
    return parse_spec(
        {kind: {name: recipe[name] for name in fields if name in recipe}}, place
    ).degradation


def _name_of(cls: type[Any], names: Mapping[str, type[Any]]) -> str:
    return next(name for name, member in names.items() if member is cls)
