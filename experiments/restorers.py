"""The table of restorers: networks and settings of this tool, beside filters that are not trained.

Every row of ROWS is trained once per seed, by the command that is printed, and scored at its last
checkpoint. Runs that are finished are not trained again, so the table may be made in several
sittings (``--only``); it holds the runs that are finished. deepinv_restorers.py makes the rows of
deepinv.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from measurements import spread
from reproduce import table_of
from scoring import baselines_of
from trainings import Command, cpu_seconds, is_finished, machine, run_all

from img2img_data.core.command_line import FOLDER
from img2img_data.core.errors import UsageError
from img2img_data.core.files import versions, write_atomically
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_train.cli.main import main
from img2img_train.evaluation.score import AnyModel, Scoring, evaluate_model, rounded
from img2img_train.runs.folder import LIBRARIES, RunFolder
from img2img_train.runs.model import load_generator

RECIPES: Final = Path(__file__).parents[1] / "recipes"
BUILT: Final = ["wiki_gaussian", "wiki_mixed", "wiki_others"]
"""Recipes whose corpora are needed."""
MEN, SHRUNK_MEN = "corpora/male-gaussian", "corpora/male-resize"
TESTS: Final = {
    "men": MEN,
    "women": "corpora/female-gaussian",
    "buildings": "corpora/buildings-gaussian",
    "men, shrunk": SHRUNK_MEN,
}
"""Corpora whose split ``test`` is scored, by the name of their column."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a title, options of ``img2img-train fit``, corpora to train on."""

    title: str
    options: str = ""
    corpora: Sequence[str] = (MEN,)


ORIGINAL: Final = "autoencoder of the original"
ROWS: Final = {
    "original": Row(ORIGINAL, "--preset original"),
    "unet": Row("U-Net of the experiments", "--preset original --net unet"),
    "residual": Row("U-Net, residual", "--net unet --residual --width 32"),
    "nafnet": Row("NAFNet", "--net nafnet"),
    "default": Row("defaults of this tool"),
    "long": Row("defaults, longer", "--epochs 40"),
    "wiener": Row("defaults, Wiener-restored input", "--input wiener"),
    "mixture": Row("defaults, one network for both blurs", corpora=(MEN, SHRUNK_MEN)),
    "mixture-long": Row("the same, twice as long", "--epochs 8", (MEN, SHRUNK_MEN)),
}
LEFT_OUT: Final = {"constant"}
"""Baselines that are of no interest here."""
NOTE: Final = (
    "Mean over seeds ± the largest distance of a seed from it, at the last checkpoint. CPU seconds "
    "are those of the whole command: start, training, scores and report."
)
METRICS: Final = ("psnr", "ssim")


@dataclass(frozen=True, slots=True)
class TableRow:
    """Measurements of a row, each a list over its finished seeds, or of a baseline.

    ``scores``: test to metric to values. ``cpu_seconds`` are those of the whole command, start,
    scores and report included; None where they were not measured.
    """

    title: str
    scores: dict[str, dict[str, list[float]]]
    parameters: int = 0
    seeds: list[int] = field(default_factory=list)
    cpu_seconds: list[float | None] = field(default_factory=list)
    command: str = ""


def folder_of(name: str, seed: int) -> str:
    """Return the folder of a run, relative to that of the images."""
    return f"runs/restorers-{name}" + (f"-seed{seed}" if seed else "")


def training(data: Path, name: str, seed: int, threads: int) -> Command:
    """Return the training of a row with a seed."""
    row, out = ROWS[name], folder_of(name, seed)
    words = ["img2img-train", "fit", *row.corpora, *row.options.split(), "--seed", str(seed)]
    words += ["--threads", str(threads), "--device", "cpu", "--out", out]
    return Command(words, data / out)


def commands(data: Path, names: Sequence[str], seeds: int, threads: int) -> list[Command]:
    """Return the commands that build the corpora and train some rows, to run in ``data``."""
    paths = [os.fspath((RECIPES / f"{recipe}.yaml").resolve()) for recipe in BUILT]
    builds = [Command(["img2img-data", "build", path, "--jobs", str(threads)]) for path in paths]
    return builds + [training(data, n, seed, threads) for seed in range(seeds) for n in names]


# ---------------------------------------------------------------------------------------- the table
def measure(data: Path, seeds: int, threads: int) -> list[TableRow]:
    """Return the rows of the baselines, then those of ROWS that have a finished run."""
    torch.set_num_threads(threads)
    corpora = {test: open_corpus(data / path) for test, path in TESTS.items()}
    baselines: dict[str, TableRow] = {}
    for test, corpus in corpora.items():
        found = baselines_of(corpus, corpus.pairs("test"), Scoring(), data / MEN)
        for name in found.keys() - LEFT_OUT:
            row = baselines.setdefault(name, TableRow(name, {}))
            row.scores[test] = scores_of([found[name]], corpus)
    rows = [baselines[name] for name in sorted(baselines, key=lambda name: name != "input")]
    for name, about in ROWS.items():
        folders = {seed: data / folder_of(name, seed) for seed in range(seeds)}
        folders = {seed: folder for seed, folder in folders.items() if is_finished(folder)}
        # The last checkpoint: the best one was selected by PSNR on the validation images.
        models = [load_generator(RunFolder(path).latest, "cpu") for path in folders.values()]
        if models:
            count = sum(part.numel() for part in models[0].generator.parameters())
            scores = {test: scores_of(models, corpus) for test, corpus in corpora.items()}
            seconds = [cpu_seconds(folder) for folder in folders.values()]
            words = str(training(Path(), name, min(folders), threads))
            rows.append(TableRow(about.title, scores, count, list(folders), seconds, words))
    return rows


def scores_of(models: Sequence[AnyModel], corpus: Corpus) -> dict[str, list[float]]:
    """Return the scores of models on the split ``test``, by metric."""
    pairs = corpus.pairs("test")
    evaluations = [evaluate_model(model, corpus, pairs) for model in models]
    return {name: [one.scores[name] for one in evaluations] for name in METRICS}


def markdown(
    rows: Sequence[TableRow], machine_name: str, threads: int, about_rows: str = NOTE
) -> str:
    """Return the table, a note about its rows, and their commands."""
    first, *others = TESTS
    head = ["", "seeds", "parameters", "CPU s", f"{first}, PSNR dB", "over the original", "SSIM"]
    lines = [[*head, *(f"{test}, PSNR dB" for test in others)]]
    originals = [row.scores[first]["psnr"] for row in rows if row.title == ORIGINAL]
    for row in rows:
        seconds = [value for value in row.cpu_seconds if value is not None]
        cells = [f"{row.parameters:,}", spread(seconds, 0) if seconds else ""]
        cells = [str(len(row.seeds)), *cells] if row.seeds else ["", "0", "0"]
        over = ""
        if originals and first in row.scores:
            over = f"{np.mean(row.scores[first]['psnr']) - np.mean(originals):+.2f}"
        cells += [_cell(row, first, "psnr", 2), over, _cell(row, first, "ssim", 4)]
        lines.append([row.title, *cells, *(_cell(row, test, "psnr", 2) for test in others)])
    used = [row.command for row in rows if row.command]
    note = (
        f"{about_rows} {machine_name}, {threads} thread{'s' if threads > 1 else ''}; "
        f"{', '.join(f'{name} {number}' for name, number in versions(*LIBRARIES).items())}."
    )
    return "\n".join([*table_of(lines), "", note, "", "```", *used, "```", ""])


def _cell(row: TableRow, test: str, metric: str, digits: int) -> str:
    """Return a score of a row; a filter has none where it does not suit the degradation."""
    return spread(row.scores[test][metric], digits) if test in row.scores else ""


@click.command(short_help="Make the table of restorers.")
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="runs of each row"
)
@click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    help=f"train only this row, may be repeated: {', '.join(ROWS)}",
)
@click.option(
    "--data",
    type=FOLDER,
    default=Path(),
    help="folder of the source images, corpora and runs  [default: the current one]",
)
@click.option("--out", type=FOLDER, default=Path("results"), help="folder of the results")
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="CPU threads of a training",
)
@click.option("--dry-run", is_flag=True, help="print the commands and run nothing")
def command(
    seeds: int, only: tuple[str, ...], data: Path, out: Path, threads: int, dry_run: bool
) -> None:
    """Train the rows of the table of restorers and write restorers.md and restorers.json into OUT.

    The table holds all rows that have a finished run, also from earlier calls. Images: wiki_crop
    and buildings, as in recipes/wiki_gaussian.yaml and recipes/wiki_others.yaml.

    \b
    Example:
      python experiments/restorers.py --dry-run
      python experiments/restorers.py --data images/ --seeds 1 --only default
      python experiments/restorers.py --data images/
    """
    for name in only:
        if name not in ROWS:
            raise UsageError("option", "--only", f"'{name}' is unknown", did_you_mean(name, ROWS))
    done = commands(data, only or list(ROWS), seeds, threads)
    if dry_run:
        click.echo("\n".join(map(str, done)))
        return
    if code := run_all(done, data, lambda line: click.echo(line, err=True)):
        sys.exit(code)
    rows, about = measure(data, seeds, threads), machine("cpu")
    page = {"rows": [asdict(row) for row in rows], "machine": about, "threads": threads}
    write_atomically(out / "restorers.json", to_json_page(rounded(page)))
    text = markdown(rows, about, threads)
    write_atomically(out / "restorers.md", text.encode())
    click.echo(text)


if __name__ == "__main__":
    main(command=command, name="restorers")
