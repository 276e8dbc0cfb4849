"""The experiments of the original work and of the papers: models, test corpora and claims.

``reproduce.py`` runs them. To add one, add a row to ``EXPERIMENTS`` and its recipes, with a full
and a smoke size, to ``recipes/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from claims import (
    DIGITS,
    EDGES,
    LABELS,
    Claim,
    Results,
    better,
    gains,
    halves_cycle,
    harms,
    no_better,
    share,
    wider_gap,
)

Table: TypeAlias = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A head and rows of text."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment.

    ``models``: name to recipe. ``tests``: name to the path of a corpus, or to a recipe, of whose
    run the first corpus is used; at least one. ``split`` is that of the tests; ``corpora`` are
    recipes that are built but not trained; ``note`` explains the table.
    """

    title: str
    models: Mapping[str, str]
    claims: Sequence[Claim]
    table: Callable[[Results], Table]
    tests: Mapping[str, str]
    split: str = "test"
    corpora: Sequence[str] = ()
    note: str = ""


# ------------------------------------------------------------------------------------------ tables
def by_corpus(results: Results) -> Table:
    """Return a table with a row per model and a column per corpus: PSNR and its gain."""
    tests = list(dict.fromkeys(test for _, test in results.scores))
    first = next(iter(results.models))
    baselines = [results.scores[first, test].evaluation.input_scores["psnr"] for test in tests]
    rows = [["input", "", *(f"{psnr:.2f}" for psnr in baselines), ""]]
    for name, trained in results.models.items():
        evaluations = [results.scores[name, test].evaluation for test in tests]
        scores = [f"{e.scores['psnr']:.2f} ({e.gain['psnr']:+.2f})" for e in evaluations]
        rows.append([name, trained.networks, *scores, f"{trained.minutes:.1f}"])
    return ["trained on", "network", *(f"{test}, PSNR dB" for test in tests), "minutes"], rows


def by_metric(*metrics: str) -> Callable[[Results], Table]:
    """Return a function for a table with a row per model and a column per metric."""

    def table(results: Results) -> Table:
        head = ["", "networks", *(LABELS[metric] for metric in metrics), "minutes"]
        test = next(test for _, test in results.scores)
        inputs = results.scores[next(iter(results.models)), test].evaluation.input_scores
        baselines = [f"{inputs[m]:.{DIGITS[m]}f}" if m != EDGES else "" for m in metrics]
        rows = [["input", "", *baselines, ""]]
        for name, trained in results.models.items():
            measured = results.scores[name, test]
            scores = [f"{measured.mean(metric):.{DIGITS[metric]}f}" for metric in metrics]
            rows.append([name, trained.networks, *scores, f"{trained.minutes:.1f}"])
        return head, rows

    return table


def by_gap(results: Results) -> Table:
    """Return a table with a row per model: its PSNR on training and on held-out pairs."""
    head = [
        "",
        "pairs",
        "PSNR on training pairs",
        "held-out, end",
        "held-out, best",
        "gap",
        "minutes",
    ]
    rows = []
    for name, trained in results.models.items():
        last = trained.last("validation")
        best = max(row["psnr"] for row in trained.log if row["kind"] == "validation")
        scores = [last["psnr_train"], last["psnr"], best, trained.gap()]
        texts = [f"{score:.2f}" for score in scores]
        rows.append([name, f"{trained.pairs:,}", *texts, f"{trained.minutes:.1f}"])
    return head, rows


def by_cycle(results: Results) -> Table:
    """Return a table with a row per model: the cycle loss of the first and the last epoch."""
    head = ["", "networks", "cycle loss, epoch 1", "last epoch", "share", "minutes"]
    rows = []
    for name, trained in results.models.items():
        start, end = (
            trained.cycle_loss(row) for row in (trained.first("train"), trained.last("train"))
        )
        texts = [f"{start:.4g}", f"{end:.4g}", f"{end / start:.2f}"]
        rows.append([name, trained.networks, *texts, f"{trained.minutes:.1f}"])
    return head, rows


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
            Claim("... and at the other", gains("gaussian + resize", "resize")),
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
        ],
        by_gap,
        {"faces": "wiki_pairs3000"},
        split="val",
        note="PSNR in dB; the held-out pairs are the same for all runs, the training pairs a "
        "sample of each run's own. Images are by each run's best checkpoint, before it overfits.",
    ),
    "losses": Experiment(
        "L1, the conditional GAN, and both: labels to photos of facades",
        {"l1": "facades_l1", "cgan": "facades_cgan", "pix2pix": "facades_pix2pix"},
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
        ],
        FACADES,
        LABS,
        split="val",
        note=SHARP,
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
                no_better(EDGES, "patch1", "l1", "facades"),
            ),
            Claim("... but more colorful: closer in a", better("lab-a", "patch1", "l1", "facades")),
            Claim("... and in b", better("lab-b", "patch1", "l1", "facades")),
            Claim(
                "Patches make it sharper than pixels", better(EDGES, "patch16", "patch1", "facades")
            ),
            Claim(
                "The whole image does not beat patches of 70 (there by FCN score, here by MAE)",
                no_better("mae", "patch286", "patch70", "facades"),
            ),
        ],
        FACADES,
        LABS,
        split="val",
        note=f"{SHARP} At the smoke scale, 64 px, the discriminators see 1, 16, 34 and 70 px: "
        "there 70 is the whole image, as 286 is of 256.",
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
    ),
}


def listing() -> list[str]:
    """Return a line per experiment: its name and title."""
    width = max(map(len, EXPERIMENTS))
    return [f"{name:{width}}  {experiment.title}" for name, experiment in EXPERIMENTS.items()]
