"""Results of an evaluation on disk: JSON, CSV, the protocol of the scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from img2img_data.core.files import versions, write_atomically
from img2img_data.corpus.format import to_json_page
from img2img_train.evaluation.baselines import BASELINES
from img2img_train.evaluation.by_tag import MAX_VALUES
from img2img_train.evaluation.domains import COLOR_TRANSFER, DEFINITION
from img2img_train.evaluation.score import Evaluation, MeanScores, rounded
from img2img_train.metrics.bootstrap import FEW_GROUPS, LEAST_GROUPS, RESAMPLES, SEED, Interval
from img2img_train.metrics.registry import METRICS
from img2img_train.report.page import write_matrix_page
from img2img_train.runs.folder import LIBRARIES

BEST: Final = (
    "the one with the highest mean PSNR on the scored images, or the lowest FID where there are no "
    "pairs; fitted on another split"
)


@dataclass(frozen=True, slots=True)
class Matrix:
    """The evaluations of several runs on several corpora: run by run, in the order of ``corpora``.

    ``files`` names the weights of perceptual networks.
    """

    runs: tuple[str, ...]
    corpora: tuple[str, ...]
    split: str
    evaluations: tuple[Evaluation, ...]
    files: Mapping[str, str] = field(default_factory=dict)


def protocol(
    scores: Collection[str], files: Mapping[str, str] | None = None, baselines: Collection[str] = ()
) -> dict[str, Any]:
    """Return how the scores were computed; ``files`` names the weights of networks."""
    shown = ("label", "unit", "digits", "better", "definition")
    known = {name: baseline.definition for name, baseline in BASELINES.items()}
    known[COLOR_TRANSFER] = DEFINITION
    definitions = {name: known[name] for name in baselines}
    used = {name: metric for name, metric in METRICS.items() if name in scores}
    return {
        "color": "RGB; Lab corpora too are scored as RGB",
        "data_range": 255,
        "samples": "uint8, or uint16 divided by 257 and not rounded if the corpus has 16 bits; "
        "metrics in float64, networks in float32",
        "images": "whole images at the size of the corpus; outputs are rounded to its depth first",
        "means": "over images, each weighing the same",
        "input_scores": "the input baseline: the input scored as if it were the output",
        **({"baselines": definitions, "best_baseline": BEST} if baselines else {}),
        "gain": "mean of model minus baseline, positive where the model is better, for MAE too",
        "interval": "95 % by bootstrap of whole groups, widened for few groups (expanded "
        f"percentile, Hesterberg 2015), by Student's t below {FEW_GROUPS} groups; none below "
        f"{LEAST_GROUPS}, or for FID",
        "resamples": RESAMPLES,
        "seed": SEED,
        "groups": "images of one group of the corpus (--group-by, as a person), else of one source",
        "tags": f"by default those with 2 to {MAX_VALUES} values and two images per value; means "
        "as over all images",
        "versions": versions(*LIBRARIES, "numpy", "opencv-python-headless"),
        **({"networks": dict(files)} if files else {}),
        "metrics": {n: {key: getattr(m, key) for key in shown} for n, m in used.items()},
    }


def write_matrix(matrix: Matrix, out: Path) -> Path:
    """Write a matrix as JSON, CSV and a page, and return the path of the page.

    ``matrix.json``, ``matrix.csv`` (a row per run and corpus), ``tags.csv`` (a row per run, corpus,
    tag and value), ``images.csv`` (a row per image), ``index.html``.
    """
    evaluations = matrix.evaluations
    scored = {name for e in evaluations for name in e.scores}
    baselines = [name for e in evaluations for name in e.baselines]
    payload = {
        "runs": list(matrix.runs),
        "corpora": list(matrix.corpora),
        "split": matrix.split,
        "protocol": protocol(scored, matrix.files, dict.fromkeys(baselines)),
        "evaluations": [e.summary() for e in evaluations],
    }
    means = [{**e.names, **_mean_columns(e)} for e in evaluations]
    parts = [(e.names, part) for e in evaluations for part in e.by_tag]
    tags = [{**n, "tag": p.tag, "value": p.value, **_mean_columns(p)} for n, p in parts]
    # Without tags there is still a header.
    columns = ("run", "corpus", "split", "tag", "value", "images", "groups")
    write_atomically(out / "matrix.json", to_json_page(payload))
    write_atomically(out / "matrix.csv", _to_csv(means))
    write_atomically(out / "tags.csv", _to_csv(tags, columns))
    write_atomically(out / "images.csv", images_csv(evaluations))
    return write_matrix_page(payload, out / "index.html", [e.gallery for e in evaluations])


def images_csv(evaluations: Sequence[Evaluation]) -> bytes:
    """Return the scores of every image as CSV: evaluations in order, images by key."""
    rows = []
    for evaluation in evaluations:
        for image in evaluation.image_scores:
            row: dict[str, object] = {**evaluation.names, "key": image.key}
            row |= {"group": image.group, "source": image.source}
            for name, score in image.scores.items():
                row |= {name: score, f"{name}_input": image.input_scores[name]}
            for baseline, scores in image.baseline_scores.items():
                row |= {f"{name}_{baseline}": score for name, score in scores.items()}
            rows.append(row | {f"tag {name}": text for name, text in image.attributes.items()})
    return _to_csv(rows, ("run", "corpus", "split", "key", "group", "source"))


def _mean_columns(part: MeanScores) -> dict[str, object]:
    columns: dict[str, object] = {"images": part.images, "groups": part.groups}
    for name in (name for name in METRICS if name in part.scores):
        columns |= {name: part.scores[name], f"{name}_input": part.input_scores[name]}
        columns |= _gain_columns(f"{name}_gain", part.gain[name], part.gain_interval[name])
    for baseline, its in part.baselines.items():
        for name, score in its.scores.items():
            column = f"{name}_{baseline}"
            columns[column] = score
            columns |= _gain_columns(f"{column}_gain", its.gain[name], its.gain_interval[name])
    return columns


def _gain_columns(name: str, gain: float, interval: Interval) -> dict[str, object]:
    # No interval is two empty fields: "None" is a text to spreadsheets.
    low, high = interval or ("", "")
    return {name: gain, f"{name}_low": low, f"{name}_high": high}


def _to_csv(rows: Sequence[Mapping[str, object]], first: Iterable[str] = ()) -> bytes:
    """Return rows as CSV, their numbers rounded: the columns ``first``, then all others in order of
    appearance.
    """
    # Rows may lack columns: not every image has every tag.
    text, columns = io.StringIO(), dict.fromkeys([*first, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(rounded, rows))
    return text.getvalue().encode()
