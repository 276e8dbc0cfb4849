"""Evaluation of runs on corpora: the matrix of the command, and the scores of one finished run."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from img2img_data.core.command_line import ProgressByPart
from img2img_data.core.errors import CorpusError, Rejected, UsageError, printable
from img2img_data.core.files import write_atomically
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.corpus.view import shrink
from img2img_data.images import io
from img2img_data.images.headers import is_image_name
from img2img_data.images.pixels import Pixels, ReadPolicy
from img2img_train.data.checks import check_no_alpha
from img2img_train.data.deconvolution import stated_degradation
from img2img_train.evaluation import domains, score
from img2img_train.evaluation.baselines import fit_baselines
from img2img_train.evaluation.by_tag import attributes_of, check_tags
from img2img_train.evaluation.results import Matrix, images_csv, protocol
from img2img_train.evaluation.score import NO_NETWORKS, Evaluation, ImageScores, Scoring
from img2img_train.evaluation.settings import EvaluateSettings, names_in
from img2img_train.metrics.perceptual import PerceptualNetworks
from img2img_train.metrics.registry import IMAGE_METRICS, METRICS, ON_DEMAND, PERCEPTUAL_METRICS
from img2img_train.report.gallery import GALLERY_BYTES, SIDE, NamedImages, thumbnails
from img2img_train.runs.model import LoadedModel, load_generator

GALLERY_IMAGES: Final = 96


def evaluate_matrix(
    runs: Sequence[Path],
    corpora: Sequence[Path],
    settings: EvaluateSettings,
    progress: ProgressByPart | None = None,
    perceptual: PerceptualNetworks = NO_NETWORKS,
    folders: Sequence[Path] = (),
    gallery: int = GALLERY_IMAGES,
) -> Matrix:
    """Score every run (a run folder or a checkpoint) on every corpus, at least one of each.

    ``folders`` hold the outputs of other programs, which are scored after the runs. ``gallery``:
    images for the page, of all evaluations together. Raises CorpusError if a corpus has no such
    split or no pairs or a folder lacks an output, CheckpointError if a run cannot be loaded,
    UsageError if no image has a tag of ``settings.by``.
    """
    runs, corpora = list(dict.fromkeys((*runs, *folders))), list(dict.fromkeys(corpora))
    run_names, corpus_names = short_names(runs), short_names(corpora)
    _metric_names(settings)  # before anything is read
    opened = [open_corpus(path) for path in corpora]
    work = [(corpus, _pairs(corpus, settings.split, perceptual)) for corpus in opened]
    if settings.by:
        known = [attributes_of(pair.row) for _, pairs in work for pair in pairs]
        check_tags(settings.by, known)
    # Once for all runs.
    fitted = [_scoring(corpus, settings, perceptual) for corpus in opened]
    total, done = len(runs) * sum(len(pairs) for _, pairs in work), 0
    evaluations, outputs = list[Evaluation](), {folder: outputs_in(folder) for folder in folders}
    # Shared evenly, so that the page of a large matrix does not grow.
    each, room = (most // (len(runs) * len(corpora)) for most in (gallery, GALLERY_BYTES))
    for run, run_name in zip(runs, run_names, strict=True):
        model: score.AnyModel | None = outputs.get(run)
        model = model or load_generator(run, settings.device, *settings.at_test)
        for (corpus, pairs), name, scoring in zip(work, corpus_names, fitted, strict=True):
            both = (run_name, name)
            count = _counter(progress, done, total, both)
            named = replace(scoring, names=both, progress=count)
            evaluations.append(_evaluate(model, corpus, pairs, named, each, room))
            done += len(pairs)
    names = tuple(run_names), tuple(corpus_names)
    return Matrix(*names, settings.split, tuple(evaluations), perceptual.files)


def evaluate_run(
    run: Path,
    corpus: Path,
    settings: EvaluateSettings,
    progress: ProgressByPart | None = None,
    gallery: int = GALLERY_IMAGES,
) -> Evaluation:
    """Score one run on one corpus and keep the result in ``RUN/evaluation/`` for the run's report.

    Writes ``CORPUS-SPLIT.json`` (the means, the protocol and ``gallery`` images: the worst two
    thirds by PSNR, then others spread evenly over the rest) and ``CORPUS-SPLIT.csv`` (every image).
    Raises as ``evaluate_matrix``.
    """
    opened = open_corpus(corpus)
    model = load_generator(run, settings.device, *settings.at_test)
    # Named apart from the corpora that the run was trained on, which the report names too.
    known = [path.resolve() for path in (corpus, *(Path(c.path) for c in model.config.corpora))]
    names = model.config.title, short_names(list(dict.fromkeys(known)))[0]
    scored = evaluate_loaded(model, opened, settings, names, progress=progress, gallery=gallery)
    stem = f"{_file_name(names[1])}-{_file_name(settings.split)}"
    write_atomically(run / "evaluation" / f"{stem}.csv", images_csv([scored]))
    payload = {
        **scored.summary(),
        "checkpoint": {"file": model.path.name, "step": model.step},
        "protocol": protocol(scored.scores, baselines=scored.baselines),
        "gallery": scored.gallery,
    }
    write_atomically(run / "evaluation" / f"{stem}.json", to_json_page(payload))
    return scored


def evaluate_loaded(
    model: LoadedModel,
    corpus: Corpus,
    settings: EvaluateSettings,
    names: tuple[str, str],
    perceptual: PerceptualNetworks = NO_NETWORKS,
    progress: ProgressByPart | None = None,
    gallery: int = 0,
) -> Evaluation:
    """Return the scores of a model in memory on a corpus; ``names`` are those of both.

    ``progress`` counts images; ``gallery`` is the number of images to keep for a page.
    Raises as ``evaluate_matrix``.
    """
    pairs = _pairs(corpus, settings.split, perceptual)
    count = _counter(progress, 0, len(pairs), names)
    scoring = replace(_scoring(corpus, settings, perceptual), names=names, progress=count)
    return _evaluate(model, corpus, pairs, scoring, gallery)


def _metric_names(settings: EvaluateSettings) -> tuple[str, ...]:
    metrics = tuple(names_in(settings.metrics))
    for name in metrics:
        if name not in IMAGE_METRICS:
            hint = did_you_mean(name, IMAGE_METRICS)
            raise UsageError("option", "--metrics", f"'{name}' is unknown", hint)
    return metrics


def _scoring(corpus: Corpus, settings: EvaluateSettings, perceptual: PerceptualNetworks) -> Scoring:
    baselines, read = score.NO_BASELINES, partial(score.read_pair, corpus)
    if corpus.kind == "paired":
        baselines = fit_baselines(settings.baselines, corpus, settings.split, read)
    return Scoring(
        batch=settings.batch,
        swapped=settings.direction == "BtoA",
        by=settings.by,
        metrics=_metric_names(settings),
        baselines=baselines,
        perceptual=perceptual,
        color_transfer=settings.baselines != "none",
    )


def _evaluate(
    model: score.AnyModel,
    corpus: Corpus,
    pairs: Sequence[Pair],
    scoring: Scoring,
    gallery: int,
    room: int = GALLERY_BYTES,
) -> Evaluation:
    """Return the scores of a model on a corpus, with ``gallery`` of its images for a page, in
    ``room`` bytes.
    """
    test_time: dict[str, bool | str] = {}
    notes: tuple[str, ...] = ()
    if isinstance(model, LoadedModel):
        config, notes = model.config, model.notes
        scoring = replace(scoring, swapped=config.direction == "BtoA")
        test_time = {"dropout": config.test_dropout, "norm": config.test_norm}
        if config.input != "plain":
            test_time["input"] = config.input
            if stated_degradation(corpus) is None:
                notes += (f"the corpus states no blur, so --input {config.input} changed nothing",)
    if scoring.swapped:
        # The baselines undo the degradation of the input, which is the target here.
        scoring = replace(scoring, baselines=score.NO_BASELINES)
        test_time["direction"] = "BtoA"
    if corpus.kind == "unpaired":
        scored = domains.evaluate_domains(model, corpus, pairs, scoring)
        return replace(scored, test_time=test_time, notes=(*notes, *scored.notes))
    # The gallery is known only after all images are scored. Outputs that were not kept are restored
    # a second time, so that the images of a large corpus are never all in memory.
    scoring = replace(scoring, kept={} if gallery else None)
    scored = score.evaluate_model(model, corpus, pairs, scoring)
    chosen = worst_and_typical(scored.image_scores, gallery)
    again = score.restored_batches(model, corpus, [pairs[number] for number in chosen], scoring)
    images = list(map(_shown, chain.from_iterable(again)))
    fitted = thumbnails(images.__getitem__, len(images), room)
    rows = (score.rounded(asdict(scored.image_scores[number])) for number in chosen)
    items = tuple({**row, **small} for row, small in zip(rows, fitted, strict=False))
    return replace(scored, test_time=test_time, gallery=items, notes=(*notes, *scored.notes))


def outputs_in(folder: Path) -> score.OutputsOfPairs:
    """Return a function that reads the outputs of pairs from a folder of another program.

    The image of a pair is the one whose path below ``folder``, or name alone, is the key of the
    pair or the name of its source, without extensions. The function raises CorpusError if there is
    none, or more than one, or one that another pair has too, or one of another size than the input.
    """
    found, taken = defaultdict[str, list[Path]](list), dict[Path, str]()
    if not folder.is_dir():
        raise UsageError("folder", folder, "no such folder", "give the folder with the outputs")
    for path in sorted(folder.rglob("*")):
        if is_image_name(os.fsencode(path.name)):
            relative = path.relative_to(folder).with_suffix("").as_posix()
            for name in {relative, path.stem}:
                found[name].append(path)

    def read(pair: Pair, input: Pixels) -> Pixels:
        names = (pair.key, PurePosixPath(pair.key).name, PurePosixPath(score.source_of(pair)).stem)
        paths = next((found[name] for name in names if name in found), [])
        if len(paths) != 1:
            why = f"has {len(paths) or 'no'} images for '{printable(pair.key)}'"
            hint = "name the outputs after the keys of the corpus or after its sources"
            raise CorpusError("folder", folder, why, hint)
        if (other := taken.setdefault(paths[0], pair.key)) != pair.key:
            why = f"is the only output for both '{printable(other)}' and '{printable(pair.key)}'"
            raise CorpusError("image", paths[0], why, "name the outputs after the full keys")
        policy = ReadPolicy(depth=16 if input.dtype == np.uint16 else 8)
        try:
            output = io.read(paths[0], policy).pixels
        except Rejected as rejected:
            raise CorpusError("image", paths[0], str(rejected), "write it again") from None
        if output.shape != input.shape:
            sizes = [f"{p.shape[1]} x {p.shape[0]} pixels" for p in (output, input)]
            hint = "outputs are scored at the size of the corpus"
            raise CorpusError("image", paths[0], f"is {sizes[0]}, its input is {sizes[1]}", hint)
        return output

    return lambda pairs, inputs: np.stack(list(map(read, pairs, inputs)))


def worst_and_typical(rows: Sequence[ImageScores], count: int) -> list[int]:
    """Return the positions of ``count`` images: two thirds are the worst by PSNR, the others evenly
    spread.
    """
    # The worst show what goes wrong, the others how usual that is. Keys break ties, for equal
    # pages.
    order = [(row.scores["psnr"], row.key) for row in rows]
    ranked = sorted(range(len(rows)), key=order.__getitem__)
    worst, rest = ranked[: count * 2 // 3], ranked[count * 2 // 3 :]
    room = min(count - count * 2 // 3, len(rest))
    return worst + [rest[index * len(rest) // room] for index in range(room)]


def _shown(pair: score.RestoredPair) -> NamedImages:
    """Return the images of a pair that a page shows, small enough to keep."""
    images = {"input": pair.input, "output": pair.output, "target": pair.target}
    return {name: shrink(pixels, SIDE) for name, pixels in images.items()}


def _counter(
    progress: ProgressByPart | None, before: int, total: int, names: tuple[str, str]
) -> Callable[[int], None]:
    return lambda done: progress(before + done, total, " on ".join(names)) if progress else None


def _pairs(corpus: Corpus, split: str, perceptual: PerceptualNetworks) -> Sequence[Pair]:
    check_no_alpha(corpus)
    if corpus.kind == "unpaired":
        return domains.images_of(corpus, split, perceptual)
    if not (pairs := corpus.pairs(split)):
        raise CorpusError("corpus", corpus.root, f"has no pairs in split '{split}'")
    return pairs


# ------------------------------------------------------------------------------------------- limits
def parse_limits(texts: Sequence[str], supplied: Collection[str] = ()) -> dict[str, float]:
    """Return the limits written as "psnr=24"; UsageError if a metric or number is wrong.

    ``supplied`` names those computed on demand.
    """
    limits = {}
    for text in texts:
        name, _, number = text.partition("=")
        if name not in METRICS:
            hint = did_you_mean(name, METRICS)
            raise UsageError("option", "--fail-under", f"'{name}' is unknown", hint)
        if name in ON_DEMAND and name not in supplied:
            why, hint = f"needs {METRICS[name].label}", f"add --metrics {name}"
            if name in PERCEPTUAL_METRICS:
                why, hint = f"{why}, which needs weights", f"add --{name}"
            raise UsageError("option", "--fail-under", why, hint)
        try:
            limits[name] = float(number)
        except ValueError:
            limits[name] = math.nan
        if not math.isfinite(limits[name]):
            raise UsageError("option", "--fail-under", f"'{text}' has no number", "as in psnr=24")
    return limits


def shortfalls(matrix: Matrix, limits: Mapping[str, float]) -> list[str]:
    """Return a line for each evaluation and metric whose mean is worse than its limit."""
    lines = []
    for evaluation in matrix.evaluations:
        for name, limit in limits.items():
            metric, where = METRICS[name], f"{evaluation.run} on {evaluation.corpus}"
            if name not in evaluation.scores:
                lines.append(f"{where}: no {metric.label}, which needs pairs")
                continue
            mean = evaluation.scores[name]
            # Written so that a NaN falls short too.
            if not metric.gain(mean, limit) >= 0:
                result = f"{metric.label} {mean:.{metric.digits}f} is worse than {limit:g}"
                lines.append(f"{where}: {result} ({metric.better} is better)")
    return lines


# -------------------------------------------------------------------------------------------- names
def short_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest endings that tell the paths apart, printable."""
    parts = [Path(os.path.realpath(path)).parts for path in paths]
    names: list[str] = []
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return [printable(name) for name in names]


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text).lstrip(".") or "corpus"
