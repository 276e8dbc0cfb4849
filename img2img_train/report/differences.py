"""Differences between runs that were scored on the same images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from img2img_data.core.errors import printable
from img2img_train.metrics.bootstrap import bootstrap_interval, describe_interval
from img2img_train.report.page import one_error_if_damaged
from img2img_train.runs.folder import read_evaluations

Scored: TypeAlias = tuple[str, tuple[tuple[str, str, str], ...]]
"""Corpus and split; key, group and PSNR of the input of each image: all that was scored."""


@one_error_if_damaged()
def describe_differences(runs: Sequence[Path]) -> list[str]:
    """Return whether each run is better or worse than the first one by PSNR, in words.

    There is a sentence for each corpus of which both were scored on the same images; without any
    it says why. Raises CheckpointError if scores are damaged.
    """
    # The user chose the first before any score was known. The best of several runs owes a part of
    # its lead to the images that it was chosen on: the differences from it would be too large.
    psnr = {printable(run): dict(map(_psnr_of, read_evaluations(run))) for run in runs}
    (first, *others), sentences = psnr, []
    for name in others:
        shared = [scored for scored in psnr[first] if scored in psnr[name]]
        for scored in shared:
            gains = psnr[name][scored] - psnr[first][scored]
            sentences.append(_describe(first, name, scored, gains))
        if not shared:
            places = [" and ".join(place for place, _ in psnr[n]) or "none" for n in (first, name)]
            why = f"{first} on {places[0]}; {name} on {places[1]}"
            sentences.append(f"{first} and {name} were not scored on the same images: {why}")
    return sentences


def _psnr_of(saved: dict[str, Any]) -> tuple[Scored, Any]:
    """Return what was scored in an evaluation, and the PSNR of each image."""
    path, direction = saved["images_file"], saved.get("test_time", {}).get("direction")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = tuple((row["key"], row["group"], row["psnr_input"]) for row in rows)
    psnr = np.array([float(row["psnr"]) for row in rows])
    if not (rows and np.isfinite(psnr).all()):
        raise ValueError(f"no PSNR in {path.name}")
    caveat = "a colorization, about which PSNR says little" if saved.get("colorizes") else ""
    # Both directions have inputs of one PSNR, but other targets.
    names = saved["corpus"], f"split {saved['split']}", direction, caveat
    return (printable(", ".join(filter(None, names))), images), psnr


def _describe(worse: str, better: str, scored: Scored, gains: Any) -> str:
    (place, images), groups = scored, [group for _, group, _ in scored[1]]
    if gains.mean() < 0:
        worse, better, gains = better, worse, -gains
    # Paired, as the gains over baselines: differences of single images, resampled by group.
    (interval,) = bootstrap_interval(gains[:, None], groups)
    span = describe_interval(interval, len(set(groups)))
    number = f"{gains.mean():.2f} dB PSNR ({span}; {len(images):,} images of {place})"
    if interval is not None and interval[0] > 0:
        return f"{better} is better than {worse} by {number}"
    return f"no difference between {worse} and {better} is shown: {better} leads by {number}"
