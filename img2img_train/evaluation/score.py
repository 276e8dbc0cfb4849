"""Score a model on the pairs of a corpus: each image by each metric, beside doing nothing.

"Doing nothing" scores the input as if it were the output: a model that does not beat it is of no use. A gain
is positive where the model is better (PSNR and SSIM: output minus input; MAE: input minus output). Images
are compared as RGB, at the depth of the corpus, in units of 8-bit levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np

from img2img_data.core.errors import CorpusError
from img2img_data.corpus.reader import Corpus, Pair
from img2img_data.images.pixels import Pixels
from img2img_train.data.on_the_fly import OnTheFly
from img2img_train.evaluation.by_tag import Facts, choose_tags, facts_of, heaps
from img2img_train.metrics.bootstrap import Interval, bootstrap_interval
from img2img_train.metrics.color_overlap import Histograms
from img2img_train.metrics.image import METRICS, PERCEPTUAL, PSNR_CAP, SET_METRICS, Measure
from img2img_train.metrics.perceptual import PerceptualMetrics, Seen

SCORED: Final = {**METRICS, **SET_METRICS}
"""What every evaluation holds."""
ALL_METRICS: Final[Mapping[str, Measure]] = {**SCORED, **PERCEPTUAL}
BATCH_PIXELS: Final = 1 << 22
"""Large images go through a model in smaller batches than asked for: 64 of 256 x 256 at most."""


class Restorer(Protocol):
    """What is scored: a model, or anything else that turns a batch of inputs into outputs."""

    def restore(self, batch: Pixels) -> Pixels:
        """Return the outputs of N x H x W x 3 inputs, uint8 or uint16, in the same shape and range."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one image. ``group`` names the photo or person it comes from, ``facts`` its tags."""

    key: str
    group: str
    source: str
    scores: Mapping[str, float]
    nothing: Mapping[str, float]
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Means:
    """Mean scores of some images, those of doing nothing, the gain with its 95 % interval, by metric.

    ``groups`` counts the photos. An interval is None where all images come from one photo, for nothing is
    known then about another photo, and of FID.
    """

    images: int
    groups: int
    scores: Mapping[str, float]
    nothing: Mapping[str, float]
    gain: Mapping[str, float]
    gain_interval: Mapping[str, Interval]

    def means(self) -> dict[str, Any]:
        """Return the counts and the means, rounded, ready for JSON."""
        return {
            "images": self.images,
            "groups": self.groups,
            "scores": _rounded(self.scores),
            "nothing": _rounded(self.nothing),
            "gain": _rounded(self.gain),
            "gain_interval": _rounded(self.gain_interval),
        }


@dataclass(frozen=True, slots=True)
class Slice(Means):
    """The images with one value of a tag."""

    tag: str
    value: str

    def summary(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {"tag": self.tag, "value": self.value, **self.means()}


@dataclass(frozen=True, slots=True)
class Cell(Means):
    """One run on one corpus.

    ``run`` and ``corpus`` are short names, ``at_test`` says how dropout and norms stood, ``notes`` are what a
    reader has to know.
    """

    run: str
    corpus: str
    split: str
    rows: tuple[Row, ...]
    at_test: Mapping[str, bool | str] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Say in one sentence whether the model is of use, by its PSNR."""
        return verdict(self.gain["psnr"], self.gain_interval["psnr"])

    def summary(self) -> dict[str, Any]:
        """Return everything but the rows, ready for JSON."""
        return {
            "run": self.run,
            "corpus": self.corpus,
            "split": self.split,
            **self.means(),
            "verdict": self.verdict,
            "at_test": self.at_test,
            "notes": self.notes,
            "slices": [one.summary() for one in self.slices],
        }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rounded(value) for name, value in values.items()}


def verdict(gain: float, interval: Interval) -> str:
    """Say in one sentence whether a gain in PSNR, dB, is one."""
    if interval is None:
        seen = "all images come from one photo, so there is no interval"
        return f"{'beats' if gain > 0 else 'does not beat'} doing nothing by {abs(gain):.2f} dB ({seen})"
    low, high = interval
    span = f"95 % interval {low:+.2f} to {high:+.2f}"
    if low > 0:
        return f"beats doing nothing by {gain:.2f} dB ({span})"
    if high < 0:
        return f"does not beat doing nothing: it is worse by {-gain:.2f} dB ({span})"
    return f"does not beat doing nothing: a difference of {gain:+.2f} dB is within chance ({span})"


def evaluate_model(
    model: Restorer,
    corpus: Corpus,
    pairs: Sequence[Pair],
    names: tuple[str, str] = ("model", "corpus"),
    batch: int = 64,
    count: Callable[[int], None] = lambda done: None,
    swapped: bool = False,
    online: OnTheFly | None = None,
    learned: PerceptualMetrics | None = None,
    by: Sequence[str] = (),
) -> Cell:
    """Score a model on some pairs of a corpus; ``names`` are those of the run and the corpus.

    ``swapped``: the model goes from target to input (BtoA); ``online``: inputs are made from the targets, in
    the fixed way; ``learned``: networks that score too; ``by``: tags to score by, else those with few values.
    ``count`` is called with the pairs done.
    """
    rows: list[Row] = []
    colors, seen = Histograms(), Seen(learned) if learned else None
    for group in batches(model, corpus, pairs, batch, swapped, online):
        more = _by_networks(seen, group)
        for (pair, given, made, target), (scored, plain) in zip(group, more, strict=True):
            scores = {
                name: metric.measure(made, target) for name, metric in METRICS.items()
            } | scored
            nothing = {
                name: metric.measure(given, target) for name, metric in METRICS.items()
            } | plain
            rows.append(
                Row(pair.key, photo_of(pair), source_of(pair), scores, nothing, facts_of(pair.row))
            )
            colors.add(photo_of(pair), given, made, target)
        count(len(rows))
    return _cell(*names, pairs[0].split, tuple(rows), colors, seen, by)


def _by_networks(
    seen: Seen | None, group: Sequence[Scored]
) -> list[tuple[dict[str, float], dict[str, float]]]:
    if seen is None:
        return [({}, {}) for _ in group]
    _, *images = zip(*group, strict=True)
    given, made, target = (np.stack(side) for side in images)
    return seen.add(given, made, target)


def _cell(
    run: str,
    corpus: str,
    split: str,
    rows: tuple[Row, ...],
    colors: Histograms,
    seen: Seen | None,
    by: Sequence[str],
) -> Cell:
    means, choice = _means(rows), choose_tags([row.facts for row in rows], by)
    made, nothing = colors.scores()
    intervals = colors.intervals()
    if seen is not None:
        far, far_nothing = seen.of_the_set()
        made, nothing = made | far, nothing | far_nothing
    return Cell(
        images=means.images,
        groups=means.groups,
        scores={**means.scores, **made},
        nothing={**means.nothing, **nothing},
        gain={**means.gain, **{n: ALL_METRICS[n].gain(made[n], nothing[n]) for n in made}},
        gain_interval={**means.gain_interval, **{name: intervals.get(name) for name in made}},
        run=run,
        corpus=corpus,
        split=split,
        rows=rows,
        slices=tuple(_slices(rows, choice.names)),
        notes=(*_equal_pairs(rows), *(seen.notes() if seen else ()), *choice.notes),
    )


def _equal_pairs(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what to know of a corpus that left some images as they were."""
    equal = sum(row.nothing["psnr"] == PSNR_CAP for row in rows)
    if equal:
        yield (
            f"{equal:,} of {len(rows):,} inputs equal their targets: doing nothing has {PSNR_CAP:g} dB "
            "there, which moves its mean"
        )


def _slices(rows: Sequence[Row], tags: Sequence[str]) -> Iterator[Slice]:
    for tag in tags:
        for value, places in heaps([row.facts for row in rows], tag).items():
            m = _means([rows[place] for place in places])
            yield Slice(
                m.images, m.groups, m.scores, m.nothing, m.gain, m.gain_interval, tag, value
            )


def _means(rows: Sequence[Row]) -> Means:
    names, groups = list(rows[0].scores), [row.group for row in rows]
    gains = np.array(
        [
            [ALL_METRICS[name].gain(row.scores[name], row.nothing[name]) for name in names]
            for row in rows
        ]
    )
    return Means(
        images=len(rows),
        groups=len(set(groups)),
        scores={name: float(np.mean([row.scores[name] for row in rows])) for name in names},
        nothing={name: float(np.mean([row.nothing[name] for row in rows])) for name in names},
        gain=dict(zip(names, gains.mean(axis=0).tolist(), strict=True)),
        gain_interval=dict(zip(names, bootstrap_interval(gains, groups), strict=True)),
    )


Scored: TypeAlias = tuple[Pair, Pixels, Pixels, Pixels]


def batches(
    model: Restorer,
    corpus: Corpus,
    pairs: Sequence[Pair],
    batch: int,
    swapped: bool,
    online: OnTheFly | None = None,
) -> Iterator[list[Scored]]:
    """Yield (pair, input, output, target), RGB, uint8 or uint16, in batches of neighbours of one size."""
    held: list[tuple[Pair, Pixels, Pixels]] = []
    for pair in pairs:
        given, target = corpus.read(pair, exact=True)
        if given.shape != target.shape:
            raise CorpusError(
                "image", pair.input, "is of another size than its target", "verify the corpus"
            )
        if swapped:
            given, target = target, given
        if online is not None:
            given = online.degrade(target, pair, None)
        given, target = _as_rgb(given, target, corpus.color == "lab")
        room = min(batch, max(1, BATCH_PIXELS // (given.shape[0] * given.shape[1])))
        if held and (len(held) >= room or held[0][1].shape != given.shape):
            yield _restored(model, held)
            held = []
        held.append((pair, given, target))
    if held:
        yield _restored(model, held)


def _as_rgb(given: Pixels, target: Pixels, lab: bool) -> tuple[Pixels, Pixels]:
    """Return a pair in RGB, both of one depth; of an L plane the gray image."""
    from img2img_data.images import io

    if lab:
        middle = np.full_like(given[..., 0], 128 * 257 if given.dtype == np.uint16 else 128)
        given = io.lab_to_rgb(np.dstack([given[..., 0], middle, middle]))
        target = io.lab_to_rgb(np.ascontiguousarray(target))
    if given.dtype == target.dtype == np.uint16:
        return given, target
    return io.to_uint8_rgb(given), io.to_uint8_rgb(target)


def _restored(model: Restorer, held: Sequence[tuple[Pair, Pixels, Pixels]]) -> list[Scored]:
    made = model.restore(np.stack([given for _, given, _ in held]))
    return [
        (pair, given, out, target) for (pair, given, target), out in zip(held, made, strict=True)
    ]


def photo_of(pair: Pair) -> str:
    """Return the photo a pair comes from: the tag ``group`` if there is one, else its source, else itself."""
    tags = pair.row.get("tags") or {}
    return str(tags.get("group") or pair.row.get("source") or pair.key)


def source_of(pair: Pair) -> str:
    """Return where a pair comes from, or its key."""
    return str(pair.row.get("source") or pair.key)


def rounded(value: Any) -> Any:
    """Round to what is the same on every machine; a sum of floats differs in its last digits."""
    if isinstance(value, tuple):
        return [rounded(part) for part in value]
    return value if value is None else round(value, 6) + 0.0
