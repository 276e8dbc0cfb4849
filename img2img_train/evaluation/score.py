"""Scores of a model on the pairs of a corpus: every image by every metric, next to baselines.

The input baseline is the score of the input against the target, as if the input were the output: a
model that does not beat it is useless. The others are classical restorations (`baselines`). A
gain is positive where the model is better (PSNR and SSIM: output minus baseline; MAE: baseline
minus output). Images are compared as RGB, at the depth of the
corpus, in units of 8-bit levels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np

from img2img_data.core.errors import CorpusError, printable
from img2img_data.corpus.reader import Corpus, Pair
from img2img_data.images import color
from img2img_data.images.pixels import Pixels, to_uint8_rgb
from img2img_train.data.dataset import one_ahead
from img2img_train.data.deconvolution import known_steps
from img2img_train.evaluation.baselines import FittedBaselines
from img2img_train.evaluation.by_tag import Attributes, attributes_of, choose_tags, group_by_value
from img2img_train.metrics.bootstrap import Interval, bootstrap_interval, describe_interval
from img2img_train.metrics.color_overlap import ColorHistograms, Histograms, lab_histogram
from img2img_train.metrics.image import PSNR_CAP
from img2img_train.metrics.image_sets import SetStatistics
from img2img_train.metrics.perceptual import PerceptualNetworks, PerceptualScores, ScorePair
from img2img_train.metrics.registry import COLOR_METRICS, IMAGE_METRICS, METRICS, image_scores
from img2img_train.report.gallery import GalleryItem
from img2img_train.runs.model import LoadedModel

BATCH_PIXELS: Final = 1 << 18
"""Most pixels in a batch, 64 of 64 x 64: larger ones take more memory and, on a CPU, more time."""
KEPT_BYTES: Final = 1 << 28
"""Outputs that are kept for the images of a page."""
NO_NETWORKS: Final = PerceptualNetworks()
INPUT: Final = "input"
"""Name of the input baseline."""
OF_EQUALS: Final = "the PSNR shows how much the model changes them"
"""Meaning of a PSNR where inputs equal their targets."""
NO_BASELINES: Final = FittedBaselines()

OutputsOfPairs: TypeAlias = Callable[[Sequence[Pair], Pixels], Pixels]
"""A function that returns the outputs of N pairs, as `LoadedModel.restore` does of N inputs."""
AnyModel: TypeAlias = LoadedModel | OutputsOfPairs
Kept: TypeAlias = dict[tuple[Path, Path], Pixels]
_Held: TypeAlias = list[tuple[Pair, Pixels, Pixels]]
_ReadT = TypeVar("_ReadT", bound=tuple[Any, ...])


@dataclass(frozen=True, slots=True)
class Scoring:
    """Images per batch, the way from a pair to the input of a model, tags and networks that score.

    ``swapped``: the model maps target to input (BtoA). ``by``: tags to score by; default: those
    with few values. ``metrics``: names of image metrics beside the usual ones. ``baselines``:
    restorations that are scored too, by image metrics. ``perceptual``: networks that score too.
    ``names`` are those of the run and the corpus; ``progress`` is called with the number of pairs
    done. ``kept``: outputs by the files of a pair; the model's are added up to KEPT_BYTES and not
    restored again. Without pairs: ``color_transfer`` is a baseline too, ``sets`` has the statistics
    of sets that are the same for all models, by their name and ``swapped``, and is filled.
    """

    batch: int = 64
    swapped: bool = False
    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    baselines: FittedBaselines = NO_BASELINES
    perceptual: PerceptualNetworks = NO_NETWORKS
    names: tuple[str, str] = ("model", "corpus")
    progress: Callable[[int], None] = lambda done: None
    kept: Kept | None = None
    color_transfer: bool = True
    sets: dict[tuple[str, bool], SetStatistics] = field(default_factory=dict)


class RestoredPair(NamedTuple):
    """A pair with its images, H x W x 3 RGB, all uint8 or all uint16."""

    pair: Pair
    input: Pixels
    output: Pixels
    target: Pixels


@dataclass(frozen=True, slots=True)
class ImageScores:
    """The scores of one image; ``group`` names the photo or person that it comes from.

    ``baseline_scores`` are those of each baseline beside the input, by its name.
    """

    key: str
    group: str
    source: str
    scores: Mapping[str, float]
    input_scores: Mapping[str, float]
    attributes: Attributes = field(default_factory=dict)
    baseline_scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BaselineScores:
    """Mean scores of a baseline, and the gain of the model over it with its 95 % interval."""

    scores: Mapping[str, float]
    gain: Mapping[str, float]
    gain_interval: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class MeanScores:
    """Mean scores of some images and of their inputs, and the gain with its 95 % interval, by
    metric.

    ``groups`` counts the groups of images. An interval is None below four groups, and for FID.
    ``baselines`` are those beside the input. ``best_baseline`` is the name of the one with the
    highest mean PSNR, or the lowest FID where there are no pairs, or "input". It is chosen on the
    images that are scored, so the choice favors the baseline, never the model.
    """

    images: int
    groups: int
    scores: Mapping[str, float]
    input_scores: Mapping[str, float]
    gain: Mapping[str, float]
    gain_interval: Mapping[str, Interval]
    baselines: Mapping[str, BaselineScores] = field(default_factory=dict, kw_only=True)
    best_baseline: str = field(default=INPUT, kw_only=True)


@dataclass(frozen=True, slots=True)
class TagScores(MeanScores):
    """The mean scores of the images with one value of a tag."""

    tag: str
    value: str


@dataclass(frozen=True, slots=True)
class Evaluation(MeanScores):
    """The scores of one run on one corpus.

    ``run`` and ``corpus`` are short names, ``test_time`` states how dropout and norms behaved,
    ``baseline_settings`` those fitted, ``notes`` are caveats for the reader, ``gallery`` holds the
    images for a page. ``colorizes``: the inputs are the targets without their colors.
    """

    run: str
    corpus: str
    split: str
    image_scores: tuple[ImageScores, ...]
    test_time: Mapping[str, bool | str] = field(default_factory=dict)
    baseline_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_tag: tuple[TagScores, ...] = ()
    notes: tuple[str, ...] = ()
    gallery: tuple[GalleryItem, ...] = ()
    colorizes: bool = False

    def __repr__(self) -> str:
        name, images = self.headline, f"{self.images:,} image{'s' * (self.images != 1)}"
        model, input = self.scores[name], self.input_scores[name]
        score = f"FID {model:.2f}" if name == "fid" else f"PSNR {model:.2f} dB"
        line = f"{printable(self.run)} on {printable(self.corpus)}, {images}: {score}, "
        if name == "psnr" and input == PSNR_CAP:
            return line + "all inputs equal their targets"
        line += f"input {input:.2f}, gain {self.gain[name]:+.2f}"
        if self.best_baseline == INPUT:
            return line
        best = self.baselines[self.best_baseline]
        return f"{line}; {self.best_baseline} {best.scores[name]:.2f}, gain {best.gain[name]:+.2f}"

    @property
    def names(self) -> dict[str, str]:
        """The names of run, corpus and split."""
        return {"run": self.run, "corpus": self.corpus, "split": self.split}

    @property
    def headline(self) -> str:
        """Name of the metric of the conclusion: "psnr", or "fid" where there are no pairs."""
        return "psnr" if "psnr" in self.scores else "fid"

    @property
    def conclusion(self) -> str:
        """The gain over the best baseline, or the colors of a colorization, in words."""
        if self.input_scores.get("psnr") == PSNR_CAP:
            return "had nothing to restore, because all inputs equal their targets; " + OF_EQUALS
        if self.colorizes:
            overlaps = " and ".join(
                f"{self.scores[name]:.3f} in {name[-1]} (input {self.input_scores[name]:.3f})"
                for name in COLOR_METRICS[1:]  # those of the planes a and b of Lab
            )
            return f"overlaps the colors of the targets by {overlaps}; 1 would be equal"
        name, gain, metric = self.headline, self.gain[self.headline], METRICS[self.headline]
        unit = metric.unit or metric.label
        if self.best_baseline == INPUT:
            return describe_gain(gain, self.gain_interval[name], self.groups, unit)
        best = self.baselines[self.best_baseline]
        baseline = f"the best baseline ({self.best_baseline}, {best.scores[name]:.2f} {unit})"
        interval = best.gain_interval[name]
        over_best = describe_gain(best.gain[name], interval, self.groups, unit, baseline)
        return f"{over_best}; the gain over the input is {gain:+.2f} {unit}"

    def summary(self) -> dict[str, Any]:
        """Return everything but the scores of single images and the gallery, ready for JSON."""
        # Replaced before asdict, which would copy the scores of every image.
        content = asdict(replace(self, image_scores=(), gallery=()))
        del content["image_scores"], content["gallery"]
        return {**self.names, "conclusion": self.conclusion, **rounded(content)}


def describe_gain(
    gain: float, interval: Interval, groups: int, unit: str = "dB", baseline: str = "the input"
) -> str:
    """Return a phrase that says whether a gain in PSNR, in dB, or in FID is beyond chance.

    ``groups`` counts the photos of which the gain is the mean.
    """
    fails = f"does not beat {baseline}"
    low, high = interval or (gain, gain)
    if interval and high < 0:
        interval = -high, -low  # of what is lost
    span = describe_interval(interval, groups) if unit == "dB" else "no interval"
    if low > 0:
        return f"beats {baseline} by {gain:.2f} {unit} ({span})"
    if high < 0:
        return f"{fails}: it is worse by {-gain:.2f} {unit} ({span})"
    if interval is None:
        return f"{fails}: both are equal ({span})"
    return f"{fails}: a difference of {gain:+.2f} {unit} is within chance ({span})"


def evaluate_model(
    model: AnyModel, corpus: Corpus, pairs: Sequence[Pair], scoring: Scoring = Scoring()
) -> Evaluation:
    """Return the scores of a model on some pairs of a corpus."""
    # Metrics see what a user gets: outputs rounded to 8 or 16 bits, not the network's floats.
    rows: list[ImageScores] = []
    colors, networks = ColorHistograms(), PerceptualScores(scoring.perceptual)

    def take(scored: Iterable[tuple[ImageScores, Histograms]]) -> None:
        for row, histograms in scored:
            rows.append(row)
            colors.add(row.group, histograms)
        scoring.progress(len(rows))

    # Threads score a batch while the model restores the next one: OpenCV and NumPy release the GIL.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        before: Iterable[tuple[ImageScores, Histograms]] = ()
        for restored in restored_batches(model, corpus, pairs, scoring):
            _, *images = map(list, zip(*restored, strict=True))
            perceptual = networks.update(*map(np.stack, images))
            scored = pool.map(partial(_score_image, scoring), restored, perceptual)
            take(before)
            before = scored
        take(before)
    means = _means(rows)
    # FID has no interval: a bootstrap of 2,048 x 2,048 covariances costs more than it tells.
    intervals = colors.gain_intervals()
    for scores, baseline in (colors.scores(), networks.set_scores()):
        means["scores"] |= scores
        means["input_scores"] |= baseline
        means["gain"] |= {n: METRICS[n].gain(score, baseline[n]) for n, score in scores.items()}
        means["gain_interval"] |= {n: intervals.get(n) for n in scores}
    tags, notes = choose_tags([row.attributes for row in rows], scoring.by)
    pairing = corpus.info.get("recipe", {}).get("pairing")
    return Evaluation(
        **means,
        run=scoring.names[0],
        corpus=scoring.names[1],
        split=pairs[0].split,
        image_scores=tuple(rows),
        baseline_settings=scoring.baselines.settings,
        by_tag=tuple(_tag_scores(rows, tags)),
        notes=(*_equal_pairs(rows), *networks.notes(), *scoring.baselines.notes, *notes),
        colorizes=not scoring.swapped and (corpus.color == "lab" or pairing == "grayscale"),
    )


def _score_image(
    scoring: Scoring, restored: RestoredPair, perceptual: ScorePair
) -> tuple[ImageScores, Histograms]:
    pair, input, output, target = restored
    names = [n for n, m in IMAGE_METRICS.items() if m.always or n in scoring.metrics]
    baselines = scoring.baselines.restore(pair, input)
    own, of_input, *others = image_scores([output, input, *baselines.values()], target, names)
    both = own | perceptual[0], of_input | perceptual[1]
    about = attributes_of(pair.row), dict(zip(baselines, others, strict=True))
    row = ImageScores(pair.key, group_of(pair), source_of(pair), *both, *about)
    return row, [lab_histogram(image) for image in (input, output, target)]


def _means(rows: Sequence[ImageScores]) -> dict[str, Any]:
    """Return the fields of MeanScores for the metrics of single images."""
    scores = {INPUT: [row.input_scores for row in rows]}
    scores |= {n: [row.baseline_scores[n] for row in rows] for n in rows[0].baseline_scores}
    candidates = _gains(rows, scores)
    over_input = candidates[INPUT]
    return {
        "images": len(rows),
        "groups": len({row.group for row in rows}),
        "scores": {n: float(np.mean([row.scores[n] for row in rows])) for n in rows[0].scores},
        "input_scores": over_input.scores,
        "gain": over_input.gain,
        "gain_interval": over_input.gain_interval,
        "baselines": {name: its for name, its in candidates.items() if name != INPUT},
        "best_baseline": max(candidates, key=lambda name: candidates[name].scores["psnr"]),
    }


def _gains(
    rows: Sequence[ImageScores], baselines: Mapping[str, Sequence[Mapping[str, float]]]
) -> dict[str, BaselineScores]:
    """Return the mean scores of each baseline on the images, and the gains of the model over it."""
    # Means of gains, not gains of means: the bootstrap resamples the paired differences.
    columns = [(name, n) for name, its in baselines.items() for n in its[0]]
    gains = np.empty((len(rows), len(columns)))
    for column, (name, n) in enumerate(columns):
        both = zip(rows, baselines[name], strict=True)
        gains[:, column] = [METRICS[n].gain(row.scores[n], its[n]) for row, its in both]
    # One bootstrap for all: drawing takes longer than the means.
    groups = [row.group for row in rows]
    intervals = dict(zip(columns, bootstrap_interval(gains, groups), strict=True))
    means = dict(zip(columns, gains.mean(axis=0).tolist(), strict=True))
    return {
        name: BaselineScores(
            {n: float(np.mean([one[n] for one in its])) for n in its[0]},
            {n: means[name, n] for n in its[0]},
            {n: intervals[name, n] for n in its[0]},
        )
        for name, its in baselines.items()
    }


def _tag_scores(rows: Sequence[ImageScores], tags: Sequence[str]) -> Iterator[TagScores]:
    for tag in tags:
        for value, indices in group_by_value([row.attributes for row in rows], tag).items():
            yield TagScores(**_means([rows[index] for index in indices]), tag=tag, value=value)


def _equal_pairs(rows: Sequence[ImageScores]) -> Iterator[str]:
    """Yield a note if a corpus left some images undegraded."""
    if equal := sum(row.input_scores["psnr"] == PSNR_CAP for row in rows):
        effect = f"there is nothing to gain; {OF_EQUALS}"
        if equal < len(rows):
            effect = f"each counts as {PSNR_CAP:g} dB in the input's mean, so gains say little"
        yield f"{equal:,} of {len(rows):,} inputs equal their targets: {effect}"


# ------------------------------------------------------------------------------------- restoration
def restored_batches(
    model: AnyModel, corpus: Corpus, pairs: Sequence[Pair], scoring: Scoring
) -> Iterator[list[RestoredPair]]:
    """Yield the pairs with their outputs, in order, in batches of consecutive pairs of one size.

    Raises CorpusError if an input and its target differ in size.
    """
    read = ((pair, *read_pair(corpus, pair, scoring.swapped)) for pair in pairs)
    for held in one_ahead(in_batches(read, scoring.batch)):
        yield _restored(model, corpus, held, scoring.kept)


def in_batches(read: Iterable[_ReadT], most: int) -> Iterator[list[_ReadT]]:
    """Yield pairs with their images in lists: up to ``most`` consecutive ones of one size."""
    # Only images of one size can be stacked. In batches of another size an output may differ by the
    # rounding of sums, a level here and there.
    for (height, width, _), same in groupby(read, key=lambda item: item[1].shape):
        room = min(most, max(1, BATCH_PIXELS // (height * width)))
        while held := list(islice(same, room)):
            yield held


def read_pair(corpus: Corpus, pair: Pair, swapped: bool = False) -> tuple[Pixels, Pixels]:
    """Return input and target as RGB of one depth, the target first if ``swapped``.

    Raises CorpusError if they differ in size.
    """
    input, target = corpus.read(pair, exact=True)
    if input.shape != target.shape:
        why = "differs in size from its target"
        raise CorpusError("image", pair.input, why, "verify the corpus")
    if swapped:
        input, target = target, input
    return _as_rgb(input, target, corpus.color == "lab")


def _as_rgb(input: Pixels, target: Pixels, lab: bool) -> tuple[Pixels, Pixels]:
    """Return a pair as RGB of one depth; an L plane becomes the gray image."""
    if lab:
        # Without colors, as a viewer sees the input of a colorization.
        neutral = np.full_like(input[..., 0], 128 * 257 if input.dtype == np.uint16 else 128)
        input = color.lab_to_rgb(np.dstack([input[..., 0], neutral, neutral]))
        target = color.lab_to_rgb(np.ascontiguousarray(target))
    if input.dtype == target.dtype == np.uint16:
        return input, target
    # If one side has 8 bits, both are compared at 8: the other has no counterpart for its last
    # bits.
    return to_uint8_rgb(input), to_uint8_rgb(target)


def _restored(
    model: AnyModel, corpus: Corpus, held: _Held, kept: Kept | None
) -> list[RestoredPair]:
    pairs, inputs, targets = zip(*held, strict=True)
    # By their files: folders of other tools may have several pairs of one key.
    files = [(pair.input, pair.target) for pair in pairs]
    if kept and all(names in kept for names in files):
        return list(map(RestoredPair, pairs, inputs, (kept[names] for names in files), targets))
    batch = np.stack(inputs)
    if isinstance(model, LoadedModel) and model.config.input != "plain":
        steps = (known_steps(corpus, pair) for pair in pairs)
        batch = np.stack(list(map(model.prepared, inputs, steps)))
    outputs = outputs_of(model, pairs, batch)
    if kept is not None and sum(output.nbytes for output in kept.values()) < KEPT_BYTES:
        kept.update(zip(files, outputs, strict=True))
    return list(map(RestoredPair, pairs, inputs, outputs, targets))


def outputs_of(model: AnyModel, pairs: Sequence[Pair], inputs: Pixels) -> Pixels:
    """Return the outputs of N pairs, by a network or from files."""
    return model(pairs, inputs) if callable(model) else model.restore(inputs)


def group_of(pair: Pair) -> str:
    """Return the unit that intervals resample: the tag ``group``, else the source, else the key."""
    tags = pair.row.get("tags") or {}
    return str(tags.get("group") or source_of(pair))


def source_of(pair: Pair) -> str:
    """Return the path of the source image, or the key if it is not known."""
    return str(pair.row.get("source") or pair.key)


def rounded(value: Any) -> Any:
    """Return a value ready for JSON, every float in it rounded to six decimals."""
    # The last digits of a sum of floats differ from machine to machine.
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, 6) + 0.0 if isinstance(value, float) else value  # + 0.0: no negative zero
