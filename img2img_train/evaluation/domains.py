"""Scores of a model on two domains without pairs: FID and colors of its outputs, as a set.

No output has a target here, so all outputs are compared with all images of the other domain. The
baselines are the inputs as they are, and their colors transferred to those of the other domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError, printable
from img2img_data.corpus.reader import Corpus, Pair, no_split
from img2img_data.images.color import lab_to_rgb, rgb_to_lab
from img2img_data.images.pixels import Pixels
from img2img_train.data.loader import spread_out
from img2img_train.evaluation.baselines import FIT_IMAGES
from img2img_train.evaluation.score import (
    BATCH_PIXELS,
    INPUT,
    AnyModel,
    BaselineScores,
    Evaluation,
    Scoring,
)
from img2img_train.metrics.bootstrap import Interval
from img2img_train.metrics.color_overlap import intersection, lab_histogram
from img2img_train.metrics.fid import Gaussian, Inception, frechet_distance
from img2img_train.metrics.perceptual import note_on_few_images
from img2img_train.metrics.registry import COLOR_METRICS, METRICS
from img2img_train.runs.model import cudnn_settings

OUTPUT: Final = "output"
COLOR_TRANSFER: Final = "color-transfer"
DEFINITION: Final = (
    "the input with the mean and the deviation of L, a and b of the other domain (Reinhard et al. "
    "2001), which are means over images of another split"
)


class Colors(NamedTuple):
    """Mean and standard deviation of L, a and b in an image, or the means of both over a domain."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def images_of(corpus: Corpus, split: str) -> list[Pair]:
    """Return the images of A, then those of B, each as a pair with itself; UsageError if there is
    no such split.
    """
    if split not in corpus.domains:
        raise no_split(corpus, split)
    paths = (path for side in corpus.domains[split] for path in side)
    return [Pair(path.stem, split, path, path) for path in paths]


def evaluate_domains(
    model: AnyModel, corpus: Corpus, images: Sequence[Pair], scoring: Scoring
) -> Evaluation:
    """Return the scores of a model that maps one domain of an unpaired corpus to the other.

    ``images`` are those of ``images_of``. Raises CorpusError without the network of FID, or with
    fewer than two images in a domain.
    """
    split, inception = images[0].split, scoring.perceptual.inception
    if inception is None:
        hint = "give --fid WEIGHTS, the Inception weights of pytorch-fid"
        raise CorpusError("corpus", corpus.root, "is unpaired, so only FID scores it", hint)
    count = len(corpus.domains[split][0])
    sides = (
        (images[count:], images[:count]) if scoring.swapped else (images[:count], images[count:])
    )
    least = min(map(len, sides))
    if least < 2:
        why = f"has fewer than two images in a domain of split '{printable(split)}'"
        raise CorpusError("corpus", corpus.root, why, "FID needs at least two")
    notes, colors = note_on_few_images(least), _colors_of_domain(corpus, split, scoring.swapped)
    if colors is None:
        why = "it is fitted on another split, and the corpus has no other"
        notes = [*notes, f"no baseline {COLOR_TRANSFER}: {why}"]
    with cudnn_settings():
        *sets, target = _image_sets(model, corpus, sides, colors, scoring, inception)
    # The names of a set without color transfer are those before it.
    names = OUTPUT, INPUT, COLOR_TRANSFER
    scores = {name: found.scores(target) for name, found in zip(names, sets, strict=False)}
    own = scores.pop(OUTPUT)
    # FID has no interval (see `score`).
    none: dict[str, Interval] = dict.fromkeys(own)
    against = {
        name: BaselineScores(its, {n: METRICS[n].gain(own[n], its[n]) for n in own}, none)
        for name, its in scores.items()
    }
    over_input = against.pop(INPUT)
    return Evaluation(
        images=len(sides[0]),
        groups=len(sides[0]),
        scores=own,
        input_scores=over_input.scores,
        gain=over_input.gain,
        gain_interval=none,
        baselines=against,
        best_baseline=min(scores, key=lambda name: scores[name]["fid"]),
        run=scoring.names[0],
        corpus=scoring.names[1],
        split=split,
        image_scores=(),
        notes=tuple(notes),
    )


def _image_sets(
    model: AnyModel,
    corpus: Corpus,
    sides: tuple[Sequence[Pair], Sequence[Pair]],
    colors: Colors | None,
    scoring: Scoring,
    inception: Inception,
) -> list[_SetStatistics]:
    """Return the sets of outputs, of inputs, of inputs with other ``colors``, and of targets."""
    sets, done = [_SetStatistics(inception) for _ in range(3 if colors is None else 4)], 0
    for pairs, inputs in _batches(corpus, sides[0], scoring.batch):
        parts = [model(pairs, inputs) if callable(model) else model.restore(inputs), inputs]
        if colors is not None:
            parts.append(np.stack([transfer_colors(image, colors) for image in inputs]))
        for images, part in zip(sets, parts, strict=False):
            images.add(part)
        done += len(pairs)
        scoring.progress(done)
    for pairs, targets in _batches(corpus, sides[1], scoring.batch):
        sets[-1].add(targets)
        done += len(pairs)
        scoring.progress(done)
    return sets


def transfer_colors(image: Pixels, colors: Colors) -> Pixels:
    """Return an image, H x W x 3 RGB, with another mean and deviation of L, a and b.

    Reinhard, Ashikhmin, Gooch, Shirley (2001), "Color Transfer between Images", equations 10 and
    11, in CIE Lab in place of l-alpha-beta.
    """
    lab, own = rgb_to_lab(image), _colors_of(image)
    scale = colors.deviation / np.maximum(own.deviation, 1e-6)
    moved = (lab - own.mean) * scale + colors.mean
    return lab_to_rgb(np.asarray(np.clip(np.rint(moved), 0, np.iinfo(lab.dtype).max), lab.dtype))


def _colors_of(image: Pixels) -> Colors:
    lab = rgb_to_lab(image)
    return Colors(lab.mean(axis=(0, 1)), lab.std(axis=(0, 1)))


def _colors_of_domain(corpus: Corpus, split: str, swapped: bool) -> Colors | None:
    """Return the mean colors of the target domain in a split other than ``split``, if any."""
    sides = (sides for name, sides in corpus.domains.items() if name != split)
    paths = next((sides[0 if swapped else 1] for sides in sides), ())
    chosen = [paths[index] for index in spread_out(len(paths), FIT_IMAGES)]
    found = [_colors_of(corpus.read_image(path, exact=True)) for path in chosen]
    return Colors(*np.mean(found, axis=0)) if found else None


def _batches(
    corpus: Corpus, images: Sequence[Pair], most: int
) -> Iterator[tuple[list[Pair], Pixels]]:
    """Yield images in order, stacked: up to ``most`` consecutive ones of one size."""
    read = ((image, corpus.read_image(image.input, exact=True)) for image in images)
    for (height, width, _), same in groupby(read, key=lambda item: item[1].shape):
        room = min(most, max(1, BATCH_PIXELS // (height * width)))
        while held := list(islice(same, room)):
            pairs, batch = zip(*held, strict=True)
            yield list(pairs), np.stack(batch)


@dataclass(slots=True)
class _SetStatistics:
    """Colors and Inception features of a set of images, accumulated over batches."""

    inception: Inception
    features: Gaussian = field(default_factory=Gaussian)
    histograms: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 256)))

    def add(self, images: Pixels) -> None:
        """Add N x H x W x 3 RGB."""
        self.features.update(self.inception.features(images))
        self.histograms = self.histograms + np.sum([*map(lab_histogram, images)], axis=0)

    def scores(self, other: _SetStatistics) -> dict[str, float]:
        """Return the scores of this set against another one, by metric."""
        shares = (each.histograms / each.features.count for each in (self, other))
        overlaps = dict(zip(COLOR_METRICS, intersection(*shares).tolist(), strict=True))
        return overlaps | {"fid": frechet_distance(self.features, other.features)}
