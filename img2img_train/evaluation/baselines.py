"""Classical restorations that a model has to beat, with settings fitted to a corpus.

A baseline knows the degradation of each image and the parameters drawn for it, from the row of the
pair. Its few settings, such as the ratio of noise to signal, are the same for all images and are
fitted on another split than the one that is scored.

To add a baseline, write a function and add a row to ``BASELINES``: results, pages and tests pick it
up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final, NamedTuple, TypeAlias

import cv2
import numpy as np

from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.reader import Corpus, Pair
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.blur import gaussian_blur
from img2img_data.degradations.compose import AtScale
from img2img_data.degradations.noise import Noise
from img2img_data.degradations.resample import INTERPOLATIONS, Resize
from img2img_data.degradations.samples import FloatImage, from_unit, to_unit
from img2img_data.images.pixels import Pixels
from img2img_train.data import deconvolution
from img2img_train.data.checks import Size
from img2img_train.data.deconvolution import Steps, transfer_of, wiener
from img2img_train.data.loader import spread_out
from img2img_train.evaluation.settings import names_in
from img2img_train.metrics.image import psnr

Settings: TypeAlias = Mapping[str, Any]
ReadPair: TypeAlias = Callable[[Pair], tuple[Pixels, Pixels]]
"""A function that returns input and target of a pair, H x W x 3 RGB of one depth."""

FIT_IMAGES: Final = 64
"""Images on which settings are fitted, at most."""
FIT_PIXELS: Final = 1 << 21
"""Their pixels in all, at most, but at least one image."""
ROUGH_PIXELS: Final = 1 << 17
"""Pixels on which all settings are tried; the best FINALISTS are compared on all."""
FINALISTS: Final = 4


# ------------------------------------------------------------------------------------ restorations
def unsharp(image: FloatImage, steps: Steps, sigma: float, amount: float) -> FloatImage:
    """Return an H x W x C image plus ``amount`` times its difference from its Gaussian blur."""
    return image + (image - gaussian_blur(image, sigma)) * np.float32(amount)


def bicubic(image: FloatImage, steps: Steps, down: str, up: str) -> FloatImage:
    """Return an H x W x C image at the size to which the steps shrank it, enlarged smoothly."""
    height, width = image.shape[:2]
    factor = shrunk_by(steps)
    small = max(1, round(width / factor)), max(1, round(height / factor))
    shrunk = cv2.resize(image, small, interpolation=INTERPOLATIONS[down])
    enlarged = cv2.resize(shrunk, (width, height), interpolation=INTERPOLATIONS[up])
    return np.asarray(enlarged, np.float32)


def shrunk_by(steps: Steps) -> float:
    """Return the factor by which the steps shrank each side before they enlarged it; 1: none."""
    factors = [float(drawn["factor"]) for step, drawn in steps if isinstance(step, Resize)]
    factors += [1 / float(drawn["scale"]) for step, drawn in steps if isinstance(step, AtScale)]
    # What was shrunk twice has the resolution of the smaller of the two.
    return max([1.0, *factors])


def median(image: FloatImage, steps: Steps, size: int) -> FloatImage:
    """Return the median of ``size`` x ``size`` pixels of each channel, 3 or 5."""
    return np.asarray(cv2.medianBlur(image, size), np.float32)


# ---------------------------------------------------------------------------------------- registry
@dataclass(frozen=True, slots=True)
class Baseline:
    """A restoration by ``restore(image, steps, **settings)``, H x W x 3 float32 in [0, 1].

    It is meant for images with one of the traits that it ``suits`` (``traits_of``); others it may
    return unchanged. ``grid`` holds the settings to choose from. One that is ``blind`` ignores the
    steps, so it can be asked for on any corpus. ``definition`` is printed in the protocol.
    """

    definition: str
    restore: Callable[..., FloatImage]
    suits: frozenset[str]
    grid: tuple[Settings, ...]
    blind: bool = False


def traits_of(steps: Steps, size: Size) -> set[str]:
    """Return which of "blurred", "shrunk" and "noisy" an image is after the steps."""
    found = {
        "blurred": transfer_of(steps, size) is not None,
        "shrunk": shrunk_by(steps) > 1,
        "noisy": any(isinstance(step, Noise) for step, _ in steps),
    }
    return {trait for trait, is_so in found.items() if is_so}


def _grid(**values: Sequence[float | str]) -> tuple[Settings, ...]:
    """Return all combinations of the values of each setting."""
    return tuple(dict(zip(values, chosen, strict=True)) for chosen in product(*values.values()))


WIENER: Final = (
    "Wiener deconvolution by the kernel drawn for the image, which is continued as by the blur "
    "(mirrored, edge pixel repeated); one ratio of noise to signal k"
)
UNSHARP: Final = "unsharp mask: amount times the difference between the image and its Gaussian blur"
BICUBIC: Final = "shrunk to the size that the degradation left, enlarged by cubic or Lanczos kernel"
MEDIAN: Final = "median of size x size pixels of each channel"

K: Final = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1)
SIGMAS: Final = (0.5, 1, 1.5, 2, 3, 4)
AMOUNTS: Final = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12)
KERNELS: Final = {"down": ("area", "linear"), "up": ("cubic", "lanczos")}

BLURRED, SHRUNK, NOISY = (frozenset({trait}) for trait in ("blurred", "shrunk", "noisy"))

BASELINES: Final[dict[str, Baseline]] = {
    "wiener": Baseline(WIENER, wiener, BLURRED, _grid(k=K)),
    "unsharp": Baseline(
        UNSHARP, unsharp, BLURRED | SHRUNK, _grid(sigma=SIGMAS, amount=AMOUNTS), blind=True
    ),
    "bicubic": Baseline(BICUBIC, bicubic, SHRUNK, _grid(**KERNELS)),
    "median": Baseline(MEDIAN, median, NOISY, _grid(size=(3, 5)), blind=True),
}
"""All baselines by name, in the order of tables."""


# ------------------------------------------------------------------------------------------ corpora
@dataclass(frozen=True, slots=True)
class FittedBaselines:
    """The baselines of a corpus: ``settings`` by name, and ``notes`` about those left out.

    The inputs were degraded by ``degradation``, None if it is not known.
    """

    degradation: Degradation | None = None
    settings: Mapping[str, Settings] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def restore(self, pair: Pair, input: Pixels) -> dict[str, Pixels]:
        """Return the output of each baseline for the input of a pair, of its shape and dtype."""
        if not self.settings:
            return {}
        image, steps, all_settings = to_unit(input), self.steps(pair), self.settings.items()
        outputs = {n: BASELINES[n].restore(image, steps, **chosen) for n, chosen in all_settings}
        return {name: from_unit(output, input) for name, output in outputs.items()}

    def steps(self, pair: Pair) -> Steps:
        """Return the degradations of a pair's input; none if its row does not fit the recipe."""
        return deconvolution.steps_of(self.degradation, pair)


class _Sample(NamedTuple):
    image: FloatImage
    target: Pixels
    steps: Steps


def fit_baselines(asked: str, corpus: Corpus, split: str, read: ReadPair) -> FittedBaselines:
    """Return the baselines of a corpus whose ``split`` is to be scored, fitted on another one.

    ``asked`` is "auto" (those that suit the degradation), "none", or comma-separated names.
    Settings are those with the highest mean PSNR on up to FIT_IMAGES images of the other split.
    Raises UsageError if ``asked`` has an unknown name.
    """
    names = _names(asked)
    degradation = deconvolution.stated_degradation(corpus)
    if not names or (asked == "auto" and degradation is None):
        return FittedBaselines()
    other = next((s for s in corpus.splits if s != split and corpus.pairs(s)), None)
    if other is None:
        note = f"no baselines: they are fitted on another split, and the corpus has only '{split}'"
        return FittedBaselines(notes=(note,))
    known = FittedBaselines(degradation)
    sample = list(_sample(corpus.pairs(other), read, known))
    traits = set().union(*(traits_of(s.steps, s.target.shape[:2]) for s in sample))
    settings, notes = dict[str, Settings](), list[str]()
    for name in names:
        baseline = BASELINES[name]
        if baseline.suits & traits or (asked != "auto" and baseline.blind and sample):
            settings[name] = _fit(baseline, sample)
        elif asked != "auto":
            notes.append(f"baseline {name} left out: it does not suit this degradation")
    return FittedBaselines(degradation, settings, tuple(notes))


def _names(asked: str) -> list[str]:
    """Return the names of ``asked`` as in ``fit_baselines``; all for "auto"."""
    if asked in {"auto", "none"}:
        return list(BASELINES) if asked == "auto" else []
    names = names_in(asked)
    for name in names:
        if name not in BASELINES:
            hint = did_you_mean(name, [*BASELINES, "auto", "none"])
            if name in {"auto", "none"}:
                hint = "use it alone"
            raise UsageError("option", "--baselines", f"'{name}' is not a baseline", hint)
    return [name for name in BASELINES if name in names]


def _sample(pairs: Sequence[Pair], read: ReadPair, known: FittedBaselines) -> Iterator[_Sample]:
    """Yield evenly spaced pairs, FIT_IMAGES or fewer if the images are large."""
    room = FIT_PIXELS
    for index in spread_out(len(pairs), FIT_IMAGES):
        # An image that cannot be read is an error where it is scored, not here.
        with suppress(CorpusError):
            input, target = read(pairs[index])
            yield _Sample(to_unit(input), target, known.steps(pairs[index]))
            room -= input.shape[0] * input.shape[1]
        if room <= 0:
            return


def fit_noise_ratio(images: Iterable[tuple[Pixels, Pixels, Steps]]) -> float | None:
    """Return the ratio of noise to signal with which Wiener deconvolution is best; None without
    blurs.

    ``images`` are inputs, targets, and the degradations of the inputs. It is fitted as that of the
    baseline, on those that are blurred.
    """
    sample, room = list[_Sample](), FIT_PIXELS
    for input, target, steps in images:
        if transfer_of(steps, input.shape[:2]) is not None:
            sample.append(_Sample(to_unit(input), target, steps))
            room -= input.shape[0] * input.shape[1]
        if room <= 0:
            break
    return float(_fit(BASELINES["wiener"], sample)["k"]) if sample else None


def _fit(baseline: Baseline, sample: Sequence[_Sample]) -> Settings:
    def mean_psnr(chosen: Settings, images: Sequence[_Sample]) -> float:
        outputs = [baseline.restore(s.image, s.steps, **chosen) for s in images]
        both = zip(outputs, (s.target for s in images), strict=True)
        return float(np.mean([psnr(from_unit(output, t), t) for output, t in both]))

    few = sample[: max(1, ROUGH_PIXELS // sample[0].target[..., 0].size)]
    ranked = sorted(baseline.grid, key=lambda s: mean_psnr(s, few), reverse=True)
    return max(ranked[:FINALISTS], key=lambda s: mean_psnr(s, sample))
