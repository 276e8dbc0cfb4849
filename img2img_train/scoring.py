"""Score a model on the pairs of a corpus: each picture by each metric, beside doing nothing.

"Doing nothing" scores the input as if it were the output: a model that does not beat it is of no use. A gain
is positive where the model is better (PSNR and SSIM: output minus input; MAE: input minus output). Pictures
are compared as 8-bit RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from img2img_data.corpus import Corpus, Pair
from img2img_data.errors import CorpusError
from img2img_train.colours import Histograms
from img2img_train.intervals import Interval, bootstrap_interval
from img2img_train.metrics import METRICS, SET_METRICS, Pixels
from img2img_train.online import Online

SCORED: Final = {**METRICS, **SET_METRICS}
BATCH_PIXELS: Final = 1 << 22
"""Large pictures go through a model in smaller batches than asked for: 64 of 256 x 256 at most."""


class Restorer(Protocol):
    """What is scored: a model, or anything else that turns a batch of inputs into outputs."""

    def restore(self, batch: Pixels) -> Pixels:
        """Return the outputs of N x H x W x 3 uint8 inputs, in the same shape and range."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """The scores of one picture. ``group`` names the photo it comes from."""

    key: str
    group: str
    source: str
    scores: Mapping[str, float]
    nothing: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cell:
    """One run on one corpus: mean scores, those of doing nothing, the gain with its 95 % interval.

    ``run`` and ``corpus`` are short names, ``at_test`` says how dropout and norms stood. An interval is None
    where all pictures come from one photo, for nothing is known then about another photo. ``groups`` counts
    the photos.
    """

    run: str
    corpus: str
    split: str
    pictures: int
    groups: int
    scores: Mapping[str, float]
    nothing: Mapping[str, float]
    gain: Mapping[str, float]
    gain_interval: Mapping[str, Interval]
    rows: tuple[Row, ...]
    at_test: Mapping[str, bool | str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Say in one sentence whether the model is of use, by its PSNR."""
        return verdict(self.gain["psnr"], self.gain_interval["psnr"])

    def summary(self) -> dict[str, Any]:
        """Return everything but the rows, ready for JSON."""
        plain = ("run", "corpus", "split", "pictures", "groups", "verdict", "at_test")
        means = ("scores", "nothing", "gain", "gain_interval")
        scored = {mean: {name: rounded(v) for name, v in getattr(self, mean).items()} for mean in means}
        return {name: getattr(self, name) for name in plain} | scored


def verdict(gain: float, interval: Interval) -> str:
    """Say in one sentence whether a gain in PSNR, dB, is one."""
    if interval is None:
        seen = "all pictures come from one photo, so there is no interval"
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
    online: Online | None = None,
) -> Cell:
    """Score a model on some pairs of a corpus; ``names`` are those of the run and the corpus.

    ``swapped``: the model goes from target to input (BtoA); ``online``: inputs are made from the targets, in
    the fixed way. ``count`` is called with the pairs done.
    """
    rows: list[Row] = []
    colours = Histograms()
    for group in batches(model, corpus, pairs, batch, swapped, online):
        for pair, given, made, target in group:
            scores = {name: metric.measure(made, target) for name, metric in METRICS.items()}
            nothing = {name: metric.measure(given, target) for name, metric in METRICS.items()}
            rows.append(Row(pair.key, photo_of(pair), source_of(pair), scores, nothing))
            colours.add(photo_of(pair), given, made, target)
        count(len(rows))
    return _cell(*names, pairs[0].split, tuple(rows), colours)


def _cell(run: str, corpus: str, split: str, rows: tuple[Row, ...], colours: Histograms) -> Cell:
    gains = np.array(
        [[m.gain(row.scores[name], row.nothing[name]) for name, m in METRICS.items()] for row in rows]
    )
    groups = [row.group for row in rows]
    intervals = bootstrap_interval(gains, groups)
    overlap, overlap_nothing = colours.scores()
    return Cell(
        run=run,
        corpus=corpus,
        split=split,
        pictures=len(rows),
        groups=len(set(groups)),
        scores={name: float(np.mean([row.scores[name] for row in rows])) for name in METRICS} | overlap,
        nothing={name: float(np.mean([row.nothing[name] for row in rows])) for name in METRICS}
        | overlap_nothing,
        gain=dict(zip(METRICS, gains.mean(axis=0).tolist(), strict=True))
        | {name: overlap[name] - overlap_nothing[name] for name in SET_METRICS},
        gain_interval=dict(zip(METRICS, intervals, strict=True)) | colours.intervals(),
        rows=rows,
    )


Scored: TypeAlias = tuple[Pair, Pixels, Pixels, Pixels]


def batches(
    model: Restorer,
    corpus: Corpus,
    pairs: Sequence[Pair],
    batch: int,
    swapped: bool,
    online: Online | None = None,
) -> Iterator[list[Scored]]:
    """Yield (pair, input, output, target), all RGB uint8, in batches of neighbours of one size."""
    held: list[tuple[Pair, Pixels, Pixels]] = []
    for pair in pairs:
        given, target = corpus.read(pair, exact=True)
        if given.shape != target.shape:
            raise CorpusError(
                "picture", pair.input, "is of another size than its target", "verify the corpus"
            )
        if swapped:
            given, target = target, given
        if online is not None:
            given = online.spoil(target, pair, None)
        given, target = _as_rgb(given, target, corpus.colour == "lab")
        room = min(batch, max(1, BATCH_PIXELS // (given.shape[0] * given.shape[1])))
        if held and (len(held) >= room or held[0][1].shape != given.shape):
            yield _restored(model, held)
            held = []
        held.append((pair, given, target))
    if held:
        yield _restored(model, held)


def _as_rgb(given: NDArray[Any], target: NDArray[Any], lab: bool) -> tuple[Pixels, Pixels]:
    """Return a pair as it is stored in 8-bit RGB; of an L plane the grey picture."""
    from img2img_data import images

    if lab:
        middle = np.full_like(given[..., 0], 128 * 257 if given.dtype == np.uint16 else 128)
        given = images.lab_to_rgb(np.dstack([given[..., 0], middle, middle]))
        target = images.lab_to_rgb(np.ascontiguousarray(target))
    return images.to_uint8_rgb(given), images.to_uint8_rgb(target)


def _restored(model: Restorer, held: Sequence[tuple[Pair, Pixels, Pixels]]) -> list[Scored]:
    made = model.restore(np.stack([given for _, given, _ in held]))
    return [(pair, given, out, target) for (pair, given, target), out in zip(held, made, strict=True)]


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
