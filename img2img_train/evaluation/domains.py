"""Scores of a model on two domains without pairs: FID and colors of its outputs, as a set.

No output has a target here, so all outputs are compared with all images of the other domain. The
baselines are the inputs as they are, and their colors transferred to those of the other domain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from img2img_data.core.errors import CorpusError, UsageError, printable
from img2img_data.corpus.reader import Corpus, Pair, iter_pairs, no_split
from img2img_data.images.color import lab_to_rgb, rgb_to_lab
from img2img_data.images.pixels import Pixels
from img2img_train.data.loader import spread_out
from img2img_train.evaluation.baselines import FIT_IMAGES
from img2img_train.evaluation.score import (
    INPUT,
    AnyModel,
    BaselineScores,
    Evaluation,
    Scoring,
    in_batches,
    outputs_of,
)
from img2img_train.metrics.bootstrap import Interval
from img2img_train.metrics.image_sets import SetStatistics
from img2img_train.metrics.perceptual import PerceptualNetworks, note_on_few_images
from img2img_train.metrics.registry import METRICS
from img2img_train.runs.model import cudnn_settings

OUTPUT, TARGET = "output", "target"
COLOR_TRANSFER: Final = "color-transfer"
DEFINITION: Final = (
    "the input with the mean and the deviation of L, a and b of the other domain (Reinhard et al. "
    "2001), which are means over images of another split"
)


class Colors(NamedTuple):
    """Mean and standard deviation of L, a and b in an image, or the means of both over a domain."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


def images_of(corpus: Corpus, split: str, networks: PerceptualNetworks) -> list[Pair]:
    """Return the images of A, then those of B, each as a pair with itself.

    Raises UsageError if there is no such split, or without the network of FID, CorpusError with
    fewer than two images in a domain.
    """
    if split not in corpus.domains:
        raise no_split(corpus, split)
    if networks.inception is None:
        hint = "give --fid WEIGHTS, the Inception weights of pytorch-fid"
        raise UsageError("corpus", corpus.root, "is unpaired, so it needs FID", hint)
    if min(map(len, corpus.domains[split])) < 2:
        why = f"has fewer than two images in a domain of split '{printable(split)}'"
        raise CorpusError("corpus", corpus.root, why, "FID needs at least two")
    return sorted(iter_pairs(corpus, split), key=lambda image: str(image.row["domain"]))


def evaluate_domains(
    model: AnyModel, corpus: Corpus, images: Sequence[Pair], scoring: Scoring
) -> Evaluation:
    """Return the scores of a model that maps one domain of an unpaired corpus to the other.

    ``images`` are those of ``images_of``.
    """
    split, swapped = images[0].split, scoring.swapped
    count = len(corpus.domains[split][0])
    sides = images[:count], images[count:]
    sources, targets = sides[::-1] if swapped else sides
    colors, notes = None, note_on_few_images(min(len(sources), len(targets)))
    if scoring.color_transfer and (colors := _colors_of_domain(corpus, split, swapped)) is None:
        why = "it is fitted on another split, and no other has images of that domain"
        notes.append(f"baseline {COLOR_TRANSFER} left out: {why}")
    if scoring.by or scoring.metrics or scoring.perceptual.lpips:
        notes.append("--lpips, --metrics and --by have no effect: they need pairs")
    sets = _statistics(model, corpus, sources, targets, colors, scoring)
    target = sets.pop(TARGET)
    scores = {name: found.scores(target) for name, found in sets.items()}
    own = scores.pop(OUTPUT)
    # FID has no interval (see `score`).
    none: dict[str, Interval] = dict.fromkeys(own)
    against = {
        name: BaselineScores(its, {n: METRICS[n].gain(own[n], its[n]) for n in own}, none)
        for name, its in scores.items()
    }
    over_input = against.pop(INPUT)
    return Evaluation(
        images=len(sources),
        groups=len(sources),
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


@cudnn_settings()
def _statistics(
    model: AnyModel,
    corpus: Corpus,
    sources: Sequence[Pair],
    targets: Sequence[Pair],
    colors: Colors | None,
    scoring: Scoring,
) -> dict[str, SetStatistics]:
    """Return the statistics of outputs, of inputs, of inputs with other ``colors``, of targets."""

    def transferred(pairs: Sequence[Pair], batch: Pixels) -> Pixels:
        assert colors is not None
        return np.stack([transfer_colors(image, colors) for image in batch])

    passes: dict[str, tuple[Sequence[Pair], Callable[[Sequence[Pair], Pixels], Pixels]]] = {
        OUTPUT: (sources, partial(outputs_of, model)),
        INPUT: (sources, lambda pairs, batch: batch),
        **({COLOR_TRANSFER: (sources, transferred)} if colors is not None else {}),
        TARGET: (targets, lambda pairs, batch: batch),
    }
    # All but the outputs are the same for every model.
    known = {n: found for (n, swapped), found in scoring.sets.items() if swapped == scoring.swapped}
    passes = {name: one for name, one in passes.items() if name not in known}
    left = sum(len(images) for images, _ in passes.values())
    inception, done = scoring.perceptual.inception, 0
    assert inception is not None  # `images_of` has checked it
    for name, (images, change) in passes.items():
        known[name] = SetStatistics(inception)
        read = ((image, corpus.read_image(image.input, exact=True)) for image in images)
        for held in in_batches(read, scoring.batch):
            pairs, batch = zip(*held, strict=True)
            known[name].add(change(pairs, np.stack(batch)))
            done += len(pairs)
            # The caller expects to count the images of both domains, however many passes there are.
            scoring.progress(done * (len(sources) + len(targets)) // left)
        if name != OUTPUT:
            scoring.sets[name, scoring.swapped] = known[name]
    return known


def transfer_colors(image: Pixels, colors: Colors) -> Pixels:
    """Return an image, H x W x 3 RGB, with another mean and deviation of L, a and b.

    Reinhard, Ashikhmin, Gooch, Shirley (2001), "Color Transfer between Images", equations 10 and
    11, in CIE Lab in place of l-alpha-beta.
    """
    lab = rgb_to_lab(image)
    own = _colors_of(lab)
    scale = colors.deviation / np.maximum(own.deviation, 1e-6)
    moved = (lab - own.mean) * scale + colors.mean
    return lab_to_rgb(np.asarray(np.clip(np.rint(moved), 0, np.iinfo(lab.dtype).max), lab.dtype))


def _colors_of(lab: Pixels) -> Colors:
    return Colors(lab.mean(axis=(0, 1)), lab.std(axis=(0, 1)))


def _colors_of_domain(corpus: Corpus, split: str, swapped: bool) -> Colors | None:
    """Return the mean colors of the target domain in a split other than ``split``, if any."""
    domains = (sides[0 if swapped else 1] for n, sides in corpus.domains.items() if n != split)
    paths = next(filter(None, domains), ())
    chosen = [paths[index] for index in spread_out(len(paths), FIT_IMAGES)]
    found = [_colors_of(rgb_to_lab(corpus.read_image(path, exact=True))) for path in chosen]
    return Colors(*np.mean(found, axis=0)) if found else None
