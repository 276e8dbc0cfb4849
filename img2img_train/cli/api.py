"""Commands as functions of the package."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Final

from img2img_data.core.command_line import Display
from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import build_model
from img2img_data.corpus.reader import open_corpus
from img2img_train.cli.fit_commands import with_start
from img2img_train.config import configure
from img2img_train.evaluation.evaluate import evaluate_loaded
from img2img_train.evaluation.score import Evaluation
from img2img_train.evaluation.settings import EvaluateSettings
from img2img_train.inference.function import Model, StrPath, load
from img2img_train.metrics.perceptual import load_perceptual_networks
from img2img_train.training.fit import FitResult
from img2img_train.training.fit import fit as train
from img2img_train.training.signals import StoppedBySignal

INTERRUPTED: Final = 128 + signal.SIGINT


def fit(corpora: Any, out: StrPath = "", **settings: Any) -> FitResult:
    """Train a model as ``img2img-train fit`` does, but without a report; return the run.

    ``corpora`` is one or several, each a path, ``"PATH=WEIGHT"`` or an opened corpus; ``settings``
    are the options of the command, as ``img2img-train fit --help`` lists them. Without ``out`` the
    folder is runs/CORPUS-LOSS-NET. The result can be used wherever the path of a run is taken.

    Ctrl-C finishes the step, writes a checkpoint and raises KeyboardInterrupt; SIGTERM raises
    SystemExit. The same call continues. Raises UsageError for wrong settings, Img2ImgError for data
    that cannot be used and for a loss that diverges.

    >>> run = train.fit("corpora/gaussian", out="runs/unet", net="unet", width=4, epochs=2)
    >>> run.progress.step
    2
    """
    values = {**settings, "corpora": corpora, "out": os.fspath(out)}
    values["init"] = os.fspath(settings.get("init") or "")
    config = configure(with_start(values))
    try:
        with Display() as display:
            return train(config, display, repeats="raise")
    except StoppedBySignal as stopped:
        # What Python raises without a handler, so that no "except Exception" swallows it.
        if stopped.exit_code == INTERRUPTED:
            raise KeyboardInterrupt(str(stopped)) from None
        raise SystemExit(stopped.exit_code) from None


def evaluate(
    model: Model | StrPath,
    corpus: StrPath,
    split: str = "test",
    batch: int = 64,
    metrics: str = "",
    baselines: str = "auto",
    lpips: tuple[StrPath, StrPath] | None = None,
    fid: StrPath | None = None,
) -> Evaluation:
    """Return the scores of a model on a corpus as ``img2img-train evaluate`` does.

    The result has the means by metric, ``scores`` of the outputs and ``input_scores`` of the
    inputs, their ``gain``, its 95 % ``gain_interval``, the ``baselines``, a ``conclusion`` in
    words, and all ``image_scores``. ``batch``: images per forward pass; ``metrics``: names of
    further ones, comma-separated; ``baselines``: those that suit the corpus, comma-separated names,
    or "none"; ``lpips`` (network and heads) and ``fid``: files of weights. Unpaired corpora need
    ``fid``. Raises UsageError for wrong settings, Img2ImgError for a corpus that cannot be scored.

    >>> train.evaluate("runs/unet", "corpora/gaussian", split="test")
    unet on gaussian, 5 images: PSNR 12... dB, input 20..., gain -8...; wiener 35..., gain -23...
    """
    settings = {"split": split, "batch": batch, "metrics": metrics, "baselines": baselines}
    options, opened = build_model(EvaluateSettings, settings), open_corpus(corpus)
    loaded = (model if isinstance(model, Model) else load(model)).loaded
    if lpips is not None and (isinstance(lpips, str) or len(lpips) != 2):
        hint = "give one file with the network and one with the heads"
        raise UsageError("option", "lpips", "should be two files", hint)
    weights = (Path(lpips[0]), Path(lpips[1])) if lpips else None
    networks = load_perceptual_networks(weights, Path(fid) if fid else None, str(loaded.device))
    path = loaded.path.resolve()
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    names = run.name, opened.root.resolve().name
    return evaluate_loaded(loaded, opened, options, names, networks)
