"""The experiments of the original work and of the papers: models, test corpora and claims.

``reproduce.py`` runs them. To add one, add a row to ``EXPERIMENTS`` and its recipes, with a full
and a smoke size, to ``recipes/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from claims import (
    Claim,
    about_equal,
    better,
    drifts,
    gains,
    gains_more,
    halves_cycle,
    harms,
    no_better,
    no_data,
    overfits,
    share,
    wider_gap,
)
from measurements import DIGITS, EDGES, LABELS, RED, YELLOW, Results, TrainedModel, spread

from img2img_train.networks.layers import TestNorm

Table: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A head and rows of text."""
MINUTES: Final = ("minutes", "CPU minutes")


class AtTest(NamedTuple):
    """Behavior of a network at test: dropout on or off, statistics of batch norm."""

    dropout: bool = False
    norm: TestNorm = "running"


LEARNED: Final = AtTest()
PUBLISHED: Final = AtTest(dropout=True, norm="batch")
"""That of Isola et al. (2017), 3.4, for models that were trained with few images per step."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment.

    ``models``: name to recipe. ``tests``: name to the path of a corpus, or to a recipe, of whose
    run the first corpus is used; at least one. ``split`` is that of the tests; ``corpora`` are
    recipes that are built but not trained; ``note`` explains the table; ``at_test`` is the same for
    all models.
    """

    title: str
    models: Mapping[str, str]
    claims: Sequence[Claim]
    table: Callable[[Results], Table]
    tests: Mapping[str, str]
    split: str = "test"
    corpora: Sequence[str] = ()
    note: str = ""
    at_test: AtTest = LEARNED


# ------------------------------------------------------------------------------------------ tables
def by_corpus(results: Results) -> Table:
    """Return a table with a row per model and a column per corpus: PSNR and its gain."""
    tests = list(results.baselines)
    rows = []
    # Not every filter suits every corpus.
    for name in dict.fromkeys(name for test in tests for name in results.baselines[test]):
        found = [results.baselines[test].get(name) for test in tests]
        texts = [f"{scores.mean('psnr'):.2f}" if scores else "" for scores in found]
        rows.append([name, "", *texts, "", ""])
    for name, runs in results.models.items():
        texts = []
        for test in tests:
            evaluations = [scores.evaluation for scores in results.scores[name, test]]
            gain = np.mean([evaluation.gain["psnr"] for evaluation in evaluations])
            texts.append(f"{spread([e.scores['psnr'] for e in evaluations], 2)} ({gain:+.2f})")
        rows.append([name, runs[0].networks, *texts, *_minutes(runs)])
    return ["trained on", "network", *(f"{test}, PSNR dB" for test in tests), *MINUTES], rows


def by_metric(*metrics: str) -> Callable[[Results], Table]:
    """Return a function for a table with a row per model and a column per metric."""

    def table(results: Results) -> Table:
        test, baselines = next(iter(results.baselines.items()))
        rows = []
        for name, scores in baselines.items():
            means = [f"{scores.mean(metric):.{DIGITS[metric]}f}" for metric in metrics]
            rows.append([name, "", *means, "", ""])
        for name, runs in results.models.items():
            seeds = results.scores[name, test]
            texts = [spread([s.mean(metric) for s in seeds], DIGITS[metric]) for metric in metrics]
            rows.append([name, runs[0].networks, *texts, *_minutes(runs)])
        return ["", "networks", *(LABELS[metric] for metric in metrics), *MINUTES], rows

    return table


def by_gap(results: Results) -> Table:
    """Return a table with a row per model: its PSNR on training and on held-out pairs."""
    names = ["PSNR on training pairs", "held-out, end", "held-out, best", "gap"]
    rows = []
    for name, runs in results.models.items():
        ends = [run.last("validation") for run in runs]
        best = [max(r["psnr"] for r in run.log if r["kind"] == "validation") for run in runs]
        trained, held_out = ([row[key] for row in ends] for key in ("psnr_train", "psnr"))
        columns = [trained, held_out, best, [run.gap() for run in runs]]
        texts = [spread(values, 2) for values in columns]
        rows.append([name, f"{runs[0].pairs:,}", *texts, *_minutes(runs)])
    return ["", "pairs", *names, *MINUTES], rows


def by_cycle(results: Results) -> Table:
    """Return a table with a row per model: the cycle loss of the first and the last epoch."""
    rows = []
    for name, runs in results.models.items():
        starts, ends = zip(*(run.cycle_losses() for run in runs), strict=True)
        shares = [end / start for start, end in zip(starts, ends, strict=True)]
        texts = [f"{np.mean(starts):.4g}", f"{np.mean(ends):.4g}", spread(shares, 2)]
        rows.append([name, runs[0].networks, *texts, *_minutes(runs)])
    return ["", "networks", "cycle loss, epoch 1", "last epoch", "share", *MINUTES], rows


def _minutes(runs: Sequence[TrainedModel]) -> list[str]:
    """Return the means of the MINUTES of a model's runs, as far as they were measured."""
    cpu = [run.cpu_minutes for run in runs if run.cpu_minutes is not None]
    wall = f"{np.mean([run.minutes for run in runs]):.1f}"
    return [wall, f"{np.mean(cpu):.1f}" if len(cpu) == len(runs) else ""]


# ------------------------------------------------------------------------------------- experiments
FACADES: Final = by_metric("mae", "psnr", "ssim", "lab-l", "lab-a", "lab-b", EDGES)
COLORS: Final = by_metric("psnr", "ssim", "lab-a", "lab-b", EDGES)
LABS: Final = {"facades": "facades_pix2pix"}
SHARP: Final = (
    "Edges: mean gradient of the outputs over that of the targets; 1 is as sharp, noise included."
)

EXPERIMENTS: Final[Mapping[str, Experiment]] = {
    "others": Experiment(
        "A model trained on men, on women and on buildings",
        {"men": "wiki_gaussian"},
        [
            Claim("It restores the men that it was trained for", gains("men", "men")),
            Claim("It restores women about as well", share("women", "men", "men", least=0.8)),
            Claim("On buildings it gains little", share("buildings", "men", "men", most=0.5)),
            Claim(
                "... and on buildings without colors",
                share("gray buildings", "men", "men", most=0.5),
            ),
            Claim(
                "Gray buildings look better: they gain more than the same photos in color",
                gains_more("gray buildings", "buildings", "men"),
            ),
            Claim(
                "The colors of buildings drift to that of skin: redder, a rises by over 1 unit",
                drifts("men", "buildings", RED, 1),
            ),
            Claim("... and yellower, b rises", drifts("men", "buildings", YELLOW, 1)),
        ],
        by_corpus,
        {
            "men": "corpora/male-gaussian",
            "women": "corpora/female-gaussian",
            "buildings": "corpora/buildings-gaussian",
            "gray buildings": "corpora/gray-buildings-gaussian",
        },
        corpora=["wiki_others"],
    ),
    "kinds": Experiment(
        "A model trained on one kind of blur, tested on another kind; and a mixture as the remedy",
        {
            "gaussian": "wiki_gaussian",
            "random-gaussian": "wiki_random",
            "resize": "wiki_resize",
            "gaussian + resize": "wiki_mixed",
        },
        [
            Claim(
                "Trained on Gaussian blur, it harms images that were shrunk",
                harms("gaussian", "resize"),
            ),
            Claim(
                "Trained on both kinds, it restores the one", gains("gaussian + resize", "gaussian")
            ),
            Claim("... and the other", gains("gaussian + resize", "resize")),
            Claim(
                "... and the other better than the model trained on one kind",
                better("psnr", "gaussian + resize", "gaussian", "resize"),
            ),
            Claim(
                "Blur of random strength generalizes better to shrunk images than of one strength",
                better("psnr", "random-gaussian", "gaussian", "resize"),
            ),
        ],
        by_corpus,
        {
            "gaussian": "corpora/male-gaussian",
            "random-gaussian": "corpora/male-random",
            "resize": "corpora/male-resize",
        },
    ),
    "overfitting": Experiment(
        "How many pairs are enough: 250, 1,000 or 3,000 faces, with equal steps",
        {"250": "wiki_pairs250", "1,000": "wiki_pairs1000", "3,000": "wiki_pairs3000"},
        [
            Claim(
                "Under 1,000 pairs the network overfits: a wider gap at 250",
                wider_gap("250", "1,000", 2),
            ),
            Claim("At 1,000 pairs the gap is wider than at 3,000", wider_gap("1,000", "3,000")),
            Claim(
                "3,000 pairs are better than 1,000, on held-out faces",
                better("psnr", "3,000", "1,000", "faces"),
            ),
            Claim(
                "More than 10,000 pairs are recommended",
                no_data("no data: the sources have about 3,000 faces"),
            ),
        ],
        by_gap,
        {"faces": "wiki_pairs3000"},
        split="val",
        note="PSNR in dB; the held-out pairs are the same for all runs, the training pairs a "
        "sample of each run's own. 'Best' is the best of many validations on the same pairs, so it "
        "is too high; no claim uses it.",
    ),
    "faces": Experiment(
        "The autoencoder, pix2pix and the defaults of this tool on blurred faces of men",
        {"autoencoder": "wiki_gaussian", "pix2pix": "wiki_pix2pix", "defaults": "wiki_restore"},
        [
            Claim(
                "On faces pix2pix is about as good as the autoencoder: within 0.5 dB",
                about_equal("psnr", "pix2pix", "autoencoder", "men", 0.5),
            ),
            Claim(
                "The defaults are past the original: better than its autoencoder and any filter",
                better("psnr", "defaults", "autoencoder", "men"),
            ),
        ],
        by_metric("psnr", "ssim", EDGES),
        {"men": "corpora/male-gaussian"},
        note=SHARP,
    ),
    "losses": Experiment(
        "L1, the conditional GAN, both, and the autoencoder: labels to photos of facades",
        {
            "l1": "facades_l1",
            "cgan": "facades_cgan",
            "pix2pix": "facades_pix2pix",
            "autoencoder": "facades_autoencoder",
        },
        [
            Claim(
                "L1 alone has a smaller error than the GAN alone (Isola et al. 2017, 4.1)",
                better("mae", "l1", "cgan", "facades"),
            ),
            Claim(
                "The GAN brings the a of Lab closer to that of photos than L1 (4.2, figure 7)",
                better("lab-a", "pix2pix", "l1", "facades"),
            ),
            Claim("... and the b", better("lab-b", "pix2pix", "l1", "facades")),
            Claim(
                "L1 alone is blurred; the GAN makes it sharper",
                better(EDGES, "pix2pix", "l1", "facades"),
            ),
            Claim(
                "pix2pix is better than the autoencoder on facades: closer in a",
                better("lab-a", "pix2pix", "autoencoder", "facades"),
            ),
            Claim("... and in b", better("lab-b", "pix2pix", "autoencoder", "facades")),
            Claim("... and sharper", better(EDGES, "pix2pix", "autoencoder", "facades")),
            Claim(
                "The autoencoder overfits 400 facades: a gap of over 1 dB",
                overfits("autoencoder", 1),
            ),
        ],
        FACADES,
        LABS,
        split="val",
        note=SHARP,
        at_test=PUBLISHED,
    ),
    "skips": Experiment(
        "The U-Net against the encoder-decoder: labels to photos of facades",
        {"unet": "facades_pix2pix", "encoder-decoder": "facades_encoder_decoder"},
        [
            Claim(
                "Skip connections give a smaller error (Isola et al. 2017, 4.3, table 2)",
                better("mae", "unet", "encoder-decoder", "facades"),
            ),
            Claim("... and a higher SSIM", better("ssim", "unet", "encoder-decoder", "facades")),
        ],
        FACADES,
        LABS,
        split="val",
        note=SHARP,
        at_test=PUBLISHED,
    ),
    "patches": Experiment(
        "The receptive field of the discriminator: a pixel, patches, the whole image",
        {
            "l1": "facades_l1",
            "patch1": "facades_patch1",
            "patch16": "facades_patch16",
            "patch70": "facades_patch70",
            "patch286": "facades_patch286",
        },
        [
            Claim(
                "A pixel discriminator makes it no sharper than L1 (Isola et al. 2017, 4.4)",
                no_better(EDGES, "patch1", "l1", "facades", 0.01),
            ),
            Claim("... but more colorful: closer in a", better("lab-a", "patch1", "l1", "facades")),
            Claim("... and in b", better("lab-b", "patch1", "l1", "facades")),
            Claim(
                "Patches make it sharper than pixels", better(EDGES, "patch16", "patch1", "facades")
            ),
            Claim(
                "The whole image does not beat patches of 70 (there by FCN score, here by MAE)",
                no_better("mae", "patch286", "patch70", "facades", 0.4),
            ),
        ],
        FACADES,
        LABS,
        split="val",
        note=f"{SHARP} At the smoke scale, 64 px, the discriminators see 1, 16, 34 and 70 px: "
        "there 70 is the whole image, as 286 is of 256.",
        at_test=PUBLISHED,
    ),
    "sketches": Experiment(
        "Photos of faces from pencil sketches",
        {"pix2pix": "cuhk_sketch2photo"},
        [
            Claim(
                "The output is closer to the photo than the sketch is", gains("pix2pix", "sketches")
            ),
            Claim("... with the photos' a of Lab", gains("pix2pix", "sketches", "lab-a")),
            Claim("... and their b", gains("pix2pix", "sketches", "lab-b")),
        ],
        COLORS,
        {"sketches": "cuhk_sketch2photo"},
        note=SHARP,
        at_test=PUBLISHED,
    ),
    "colors": Experiment(
        "Colors for black-and-white landscapes: L to ab",
        {"l1": "landscapes_l1", "pix2pix": "landscapes_colorization"},
        [
            Claim(
                "With colors it is closer to the photo than without", gains("pix2pix", "landscapes")
            ),
            Claim(
                "The GAN brings the a of Lab closer than L1 (Isola et al. 2017, 4.2, figure 7)",
                better("lab-a", "pix2pix", "l1", "landscapes"),
            ),
            Claim("... and the b", better("lab-b", "pix2pix", "l1", "landscapes")),
        ],
        COLORS,
        {"landscapes": "landscapes_colorization"},
        note=SHARP,
        at_test=PUBLISHED,
    ),
    "translators": Experiment(
        "CycleGAN and DualGAN as translators: labels to photos of facades, without pairs",
        {
            "cyclegan": "facades_cyclegan",
            "dualgan": "facades_dualgan",
            "pix2pix": "facades_pix2pix",
        },
        [
            *(
                claim
                for model, name in (("cyclegan", "CycleGAN"), ("dualgan", "DualGAN"))
                for claim in (
                    Claim(
                        f"{name} comes closer to the true photos than the labels and one color",
                        gains(model, "facades", "mae"),
                    ),
                    Claim("... in the a of Lab too", gains(model, "facades", "lab-a")),
                    Claim("... and in b", gains(model, "facades", "lab-b")),
                    Claim(
                        f"pix2pix, which sees pairs, has a smaller error than {name}",
                        better("mae", "pix2pix", model, "facades"),
                    ),
                )
            )
        ],
        FACADES,
        {"facades": "facades_pix2pix"},
        split="val",
        note=f"{SHARP} The unpaired models have the photos of one half of the training pairs and "
        "the labels of the other.",
        at_test=PUBLISHED,
    ),
    "seasons": Experiment(
        "Summer to winter and back, without pairs",
        {"cyclegan": "yosemite_cyclegan", "dualgan": "yosemite_dualgan"},
        [
            Claim("CycleGAN halves its cycle loss", halves_cycle("cyclegan")),
            Claim("DualGAN halves its cycle loss", halves_cycle("dualgan")),
        ],
        by_cycle,
        {"photos": "yosemite_cyclegan"},
        split="val",
        at_test=PUBLISHED,
    ),
}


def listing() -> list[str]:
    """Return a line per experiment: its name and title."""
    width = max(map(len, EXPERIMENTS))
    return [f"{name:{width}}  {experiment.title}" for name, experiment in EXPERIMENTS.items()]
