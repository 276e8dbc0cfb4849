"""Scores of a model, and of the baselines that it has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from measurements import EDGES, RED, YELLOW, ModelScores, TrainedModel, Values
from trainings import cpu_seconds

from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.images.color import lab_to_rgb, rgb_to_lab
from img2img_data.images.pixels import Pixels, to_uint8_rgb
from img2img_train.config import CONFIG_FILE, RunConfig, read_page
from img2img_train.evaluation.baselines import fit_baselines
from img2img_train.evaluation.score import (
    AnyModel,
    RestoredPair,
    Scoring,
    evaluate_model,
    group_of,
    read_pair,
    restored_batches,
)
from img2img_train.metrics.color_overlap import ColorHistograms
from img2img_train.objectives.gan import GanObjective
from img2img_train.runs.folder import read_log, read_timing


def trained(folder: Path) -> TrainedModel:
    """Return a run as tables and rules see it."""
    config, seconds = RunConfig.load(folder), cpu_seconds(folder)
    minutes = sum(float(row["seconds"]) for row in read_timing(folder)) / 60
    cpu = None if seconds is None else seconds / 60
    return TrainedModel(_networks_of(config), _pairs_of(folder), read_log(folder), minutes, cpu)


def score(model: AnyModel, corpus: Corpus, pairs: Sequence[Pair], scoring: Scoring) -> ModelScores:
    """Return the scores of a model or baseline on some pairs of a corpus."""
    evaluation = evaluate_model(model, corpus, pairs, scoring)
    colors, rows = ColorHistograms(), list[dict[str, float]]()
    for pair, input, output, target in restored(model, corpus, pairs, scoring):
        colors.update(group_of(pair), input, output, target)
        rows.append(properties(output, target))
    return ModelScores(
        evaluation, colors, {name: np.array([row[name] for row in rows]) for name in rows[0]}
    )


def restored(
    model: AnyModel, corpus: Corpus, pairs: Sequence[Pair], scoring: Scoring
) -> Iterator[RestoredPair]:
    """Yield the pairs with their outputs, in order."""
    return chain.from_iterable(restored_batches(model, corpus, pairs, scoring))


def properties(output: Pixels, target: Pixels) -> dict[str, float]:
    """Return the PROPERTIES of an output, both images H x W x 3."""
    a, b = (_mean_lab(output) - _mean_lab(target))[1:]
    sharpness = mean_gradient(output) / max(mean_gradient(target), 1e-6)
    return {EDGES: sharpness, RED: float(a), YELLOW: float(b)}


def _mean_lab(image: Pixels) -> Values:
    return np.asarray(rgb_to_lab(to_uint8_rgb(image)).mean(axis=(0, 1)), np.float64)


def baselines_of(
    corpus: Corpus, pairs: Sequence[Pair], scoring: Scoring, trained_on: Path
) -> dict[str, AnyModel]:
    """Return what a model has to beat on some pairs, by name, as functions of pairs and inputs.

    ``input`` returns its input, ``constant`` the mean color of all targets, which no model knows;
    for an L plane it adds their mean a and b. The others are the classical restorations that suit
    the degradation, fitted on another split, or on ``trained_on`` if the corpus has one split.
    """
    identity: AnyModel = lambda _, batch: batch  # noqa: E731
    targets = [_as_lab(pair.target) for pair in restored(identity, corpus, pairs, scoring)]
    color = np.mean([target.mean(axis=(0, 1)) for target in targets], axis=0).round()

    def constant(_: Sequence[Pair], batch: Pixels) -> Pixels:
        lab = np.stack([_as_lab(image) for image in batch])
        first = 1 if corpus.color == "lab" else 0
        lab[..., first:] = color[first:]
        outputs = np.stack([lab_to_rgb(image) for image in lab])
        return outputs if batch.dtype == np.uint8 else outputs.astype(batch.dtype) * 257

    return {"input": identity, "constant": constant} | _filters(corpus, pairs[0].split, trained_on)


def _filters(corpus: Corpus, split: str, trained_on: Path) -> dict[str, AnyModel]:
    source = corpus if len(corpus.splits) > 1 else open_corpus(trained_on)
    fitted = fit_baselines("auto", source, split, lambda pair: read_pair(source, pair))

    def filter_of(name: str) -> AnyModel:
        one = replace(fitted, settings={name: fitted.settings[name]})
        return lambda pairs, batch: np.stack(
            [one.restore(pair, input)[name] for pair, input in zip(pairs, batch, strict=True)]
        )

    return {name: filter_of(name) for name in fitted.settings}


def mean_gradient(image: Pixels) -> float:
    """Return the mean absolute difference of neighbors in an H x W x 3 image, in gray levels."""
    values = image.astype(np.int16)
    down, across = (np.abs(np.diff(values, axis=axis)).mean() for axis in (0, 1))
    return float(down + across) / 2


def _as_lab(image: Pixels) -> Pixels:
    return rgb_to_lab(np.ascontiguousarray(to_uint8_rgb(image)))


def _networks_of(config: RunConfig) -> str:
    objective = config.objective
    names = [f"{objective.net} of width {objective.generator_spec((3, 3)).width}"]
    names += [objective.discriminator] if isinstance(objective, GanObjective) else []
    return ", ".join(names)


def _pairs_of(run: Path) -> int:
    return sum(read_page(run / CONFIG_FILE)["data"]["drawn_per_epoch"])
