"""Run an experiment: build its corpora, train its models, score them, check its claims.

Corpora are built and models trained by the commands that are printed, each in a process of its own,
so finished work is not repeated. Each model is trained once per seed. All models of an experiment
are scored at their last checkpoint, which no score selected, with the same dropout and norms at
test.
"""

from __future__ import annotations

import os
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import click
from catalogue import EXPERIMENTS, Experiment, listing
from contact_sheet import Strip, draw_sheet
from measurements import Results
from scoring import baselines_of, restored, score, trained
from trainings import Command, machine, run_all

from img2img_data.core.command_line import FOLDER
from img2img_data.core.errors import UsageError, printable
from img2img_data.core.files import versions, write_atomically
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.images.pixels import Pixels, to_uint8_rgb
from img2img_train.cli.main import main
from img2img_train.config import RunConfig, config_of, read_recipe
from img2img_train.evaluation.score import RestoredPair, Scoring
from img2img_train.report.page import flatten, render, write_page
from img2img_train.runs.folder import LIBRARIES, RunFolder
from img2img_train.runs.model import LoadedModel, load_generator

SHEET_ROWS: Final = 6
"""Images on a contact sheet, of all corpora together; at least two of each."""


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """An experiment with its scale, folders and options.

    ``data`` is the folder that paths in recipes are relative to, ``out`` that of the results,
    ``extra`` are options of every training. Seeds are 0 to ``seeds`` - 1.
    """

    name: str
    smoke: bool
    data: Path
    out: Path
    recipes: Path
    jobs: int = 0
    device: str = "auto"
    extra: Sequence[str] = field(default_factory=tuple)
    seeds: int = 1

    @property
    def experiment(self) -> Experiment:
        """The experiment; UsageError, with a suggestion, if the name is unknown."""
        if self.name not in EXPERIMENTS:
            raise UsageError(
                "experiment", self.name, "unknown", did_you_mean(self.name, EXPERIMENTS)
            )
        return EXPERIMENTS[self.name]

    def recipe(self, name: str) -> Path:
        """Return the file of a recipe; UsageError if there is none."""
        path = self.recipes / f"{name}.yaml"
        if not path.is_file():
            raise UsageError(
                "recipe", path, "does not exist", "name the folder of recipes by --recipes"
            )
        return path

    def config(self, model: str) -> RunConfig:
        """Return the configuration of the recipe of a model, at this scale."""
        return config_of(read_recipe(self.recipe(self.experiment.models[model]), self.smoke))

    def out_of(self, model: str, seed: int) -> str:
        """Return the folder of a run relative to ``data``; seed 0 has that of the recipe."""
        return self.config(model).out + (f"-seed{seed}" if seed else "")

    def folders(self, model: str) -> list[Path]:
        """Return the folders of the runs of a model, seed by seed."""
        return [self.data / self.out_of(model, seed) for seed in range(self.seeds)]

    def load(self, folder: Path, direction: str | None = None) -> LoadedModel:
        """Return the last generator of a run, with the test-time behavior of the experiment."""
        last = RunFolder(folder).latest
        return load_generator(last, self.device, direction, *self.experiment.at_test)

    def corpus(self, test: str) -> Path:
        """Return the corpus of a test: its path, or the first corpus of its recipe's run."""
        where = self.experiment.tests[test]
        if "/" in where:
            return self.data / where
        small = self.smoke
        return self.data / config_of(read_recipe(self.recipe(where), small)).corpora[0].path


def commands(run: ExperimentRun) -> list[Command]:
    """Return the commands that build the corpora and train the models, to run in ``run.data``."""
    experiment, small = run.experiment, ["--smoke"] if run.smoke else []
    found = []
    for name in dict.fromkeys([*experiment.models.values(), *experiment.corpora]):
        # A recipe without a run has one size.
        size = small if name in experiment.models.values() else []
        path = os.fspath(_seen_from(run.data, run.recipe(name)))
        found.append(Command(["img2img-data", "build", path, *size, "--jobs", str(run.jobs)]))
    device = ["--device", run.device] if run.device != "auto" else []
    for seed in range(run.seeds):
        for model, recipe in experiment.models.items():
            out = run.out_of(model, seed)
            path = os.fspath(_seen_from(run.data, run.recipe(recipe)))
            again = ["--seed", str(seed), "--out", out] if seed else []
            words = ["img2img-train", "--recipe", path, *small, *again, *device, *run.extra]
            found.append(Command(words, run.data / out))
    return found


def _seen_from(folder: Path, path: Path) -> Path:
    """Return a path for commands in a folder: unchanged in the current one, else absolute."""
    return path if folder.resolve() == Path.cwd() else path.resolve()


def reproduce(run: ExperimentRun, log: Callable[[str], None]) -> int:
    """Run an experiment; return 0, or the exit code of the command that failed.

    Writes ``results.json``, ``results.md``, ``results.html`` and ``contact.png`` into ``run.out``.
    An interrupted experiment continues if it is run again.
    """
    done = commands(run)
    if code := run_all(done, run.data, log):
        return code
    log("scoring")
    results, strips = measure(run)
    write_results(run, results, strips, done)
    return 0


# ---------------------------------------------------------------------------------------- measuring
def measure(run: ExperimentRun) -> tuple[Results, list[Strip]]:
    """Return the scores of the trained models on the tests, and rows of images for the sheet."""
    experiment = run.experiment
    models = {n: [trained(path) for path in run.folders(n)] for n in experiment.models}
    scores, baselines, strips = {}, {}, list[Strip]()
    for test in experiment.tests:
        corpus = open_corpus(run.corpus(test))
        if corpus.kind == "unpaired":
            strips += _cycle_strips(run, corpus)
            continue
        pairs = corpus.pairs(experiment.split)
        config = run.config(next(iter(models)))
        scoring = Scoring(swapped=config.direction == "BtoA")
        trained_on = run.data / config.corpora[0].path
        chosen = [pairs[index] for index in _evenly(len(pairs), len(experiment.tests))]
        baselines[test] = {
            name: score(model, corpus, pairs, replace(scoring, names=(name, test)))
            for name, model in baselines_of(corpus, pairs, scoring, trained_on).items()
        }
        shown = []
        for name in models:
            generators = [run.load(folder) for folder in run.folders(name)]
            named = replace(scoring, names=(name, test))
            scores[name, test] = [score(model, corpus, pairs, named) for model in generators]
            shown.append(_strips(test, restored(generators[0], corpus, chosen, scoring)))
        strips += [_merged(parts, list(models)) for parts in zip(*shown, strict=True)]
    return Results(models, scores, baselines), strips


def _strips(test: str, pairs: Iterator[RestoredPair]) -> list[Strip]:
    return [
        Strip(test, {"input": pair.input, "output": pair.output, "target": pair.target})
        for pair in pairs
    ]


def _merged(parts: Sequence[Strip], names: Sequence[str]) -> Strip:
    """Join the rows of one image: input, the output of each model, target."""
    first = parts[0].images
    outputs = {name: part.images["output"] for name, part in zip(names, parts, strict=True)}
    return Strip(parts[0].test, {"input": first["input"], **outputs, "target": first["target"]})


def _cycle_strips(run: ExperimentRun, corpus: Corpus) -> list[Strip]:
    """Return rows of images of the first domain: input, and outputs and cycles of each model."""

    paths = corpus.domains[run.experiment.split][0]
    inputs = [to_uint8_rgb(corpus.read_image(paths[index])) for index in _evenly(len(paths), 1)]
    strips: list[dict[str, Pixels]] = [{"input": image} for image in inputs]
    for name in run.experiment.models:
        folder = run.folders(name)[0]
        forward, inverse = (run.load(folder, direction) for direction in ("AtoB", "BtoA"))
        for strip, image in zip(strips, inputs, strict=True):
            output = forward.restore(image[None])
            strip |= {name: output[0], f"{name}, cycle": inverse.restore(output)[0]}
    return [Strip("", images) for images in strips]


def _evenly(count: int, tests: int) -> list[int]:
    """Return the indices of some of ``count`` images, evenly through them."""
    shown = min(count, max(2, SHEET_ROWS // tests))
    return [(2 * number + 1) * count // (2 * shown) for number in range(shown)]


# ------------------------------------------------------------------------------------------ writing
def write_results(
    run: ExperimentRun, results: Results, strips: Sequence[Strip], done: Sequence[Command]
) -> None:
    """Write ``results.json``, ``.md``, ``.html`` and ``contact.png`` into ``run.out``."""
    from img2img_data.images import io

    page = page_of(run, results, done)
    image = draw_sheet(strips)
    write_atomically(run.out / "contact.png", io.encode(image, "png"))
    write_atomically(run.out / "results.json", to_json_page(page))
    write_atomically(run.out / "results.md", markdown(page).encode())
    write_experiment_page(
        page, io.encode(image, "webp", 90), image.shape[:2], run.out / "results.html"
    )


def page_of(run: ExperimentRun, results: Results, done: Sequence[Command]) -> dict[str, Any]:
    """Return the content of ``results.json``."""
    experiment = run.experiment
    claims = []
    for claim in experiment.claims:
        result = claim.rule(results)
        row = {"claim": claim.text, "status": result.status, "numbers": result.numbers}
        claims.append(row)
    head, rows = experiment.table(results)
    tested = [scores for named in results.baselines.values() for scores in named.values()]
    tested += chain.from_iterable(results.scores.values())
    at_test = experiment.at_test
    return {
        "name": run.name,
        "title": experiment.title,
        "scale": "smoke" if run.smoke else "full",
        "split": experiment.split,
        "claims": claims,
        "table": {"head": list(head), "rows": [list(row) for row in rows]},
        "note": experiment.note,
        "minutes": {n: [round(r.minutes, 2) for r in runs] for n, runs in results.models.items()},
        "cpu_minutes": {
            name: [None if r.cpu_minutes is None else round(r.cpu_minutes, 2) for r in runs]
            for name, runs in results.models.items()
        },
        "seeds": list(range(run.seeds)),
        "protocol": {"checkpoint": "latest", **at_test._asdict()},
        "commands": [str(command) for command in done],
        "machine": machine(run.device),
        "versions": versions(*LIBRARIES),
        "evaluations": [scores.evaluation.summary() for scores in tested],
    }


def markdown(page: dict[str, Any]) -> str:
    """Return the page as a section of Markdown."""
    lines = [
        f"## {page['title']}",
        "",
        f"`{page['name']}`, scale {page['scale']}, split {page['split']}.",
        "",
    ]
    lines += table_of(
        [["claim", "status", "numbers"]]
        + [[c["claim"], c["status"], c["numbers"]] for c in page["claims"]]
    )
    lines += ["", *table_of([page["table"]["head"], *page["table"]["rows"]]), ""]
    lines += [page["note"], ""] if page["note"] else []
    libraries = ", ".join(f"{name} {number}" for name, number in page["versions"].items())
    lines += [
        f"{protocol_of(page)} {page['machine']}; {libraries}.",
        "",
        "```",
        *page["commands"],
        "```",
        "",
    ]
    return "\n".join(lines)


def protocol_of(page: Mapping[str, Any]) -> str:
    """Return sentences on the seeds, the checkpoints and the behavior of all models at test."""
    rule, seeds = page["protocol"], page["seeds"]
    runs = f"Seeds {', '.join(map(str, seeds))} of each model; intervals are over seeds and images."
    if len(seeds) == 1:
        runs = f"One run each, seed {seeds[0]}: intervals are over images and do not cover seeds."
    return (
        f"{runs} All models at their last checkpoint; dropout at test "
        f"{'on' if rule['dropout'] else 'off'}, batch norm by "
        f"{'learned statistics' if rule['norm'] == 'running' else 'those of the image'}."
    )


def table_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown; the first row is its head."""
    head, *rest = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lined = [f"| {' | '.join(row)} |" for row in rest]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lined]


def write_experiment_page(
    page: Mapping[str, Any], webp: bytes, size: tuple[int, ...], path: Path
) -> Path:
    """Write the page of an experiment, ``page`` being the content of ``results.json``; return its
    path.

    ``webp`` is the contact sheet, ``size`` its height and width.
    """
    facts = {"protocol": protocol_of(page)}
    facts |= {name: page[name] for name in ("machine", "versions", "seeds")}
    minutes = {f"minutes of {name}": numbers for name, numbers in page["minutes"].items()}
    minutes |= {f"CPU minutes of {name}": numbers for name, numbers in page["cpu_minutes"].items()}
    height, width = size
    text = render(
        "experiment.html",
        {
            "page": page,
            "facts": list(flatten(facts | minutes)),
            "webp": b64encode(webp).decode(),
            "height": height,
            "width": width,
        },
        Path(__file__).parent / "templates",
    )
    return write_page(path, text)


def _list(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    click.echo("\n".join(listing()))
    context.exit()


@click.command(short_help="Reproduce an experiment of the papers.")
@click.argument("name")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="list the experiments",
)
@click.option(
    "--scale",
    type=click.Choice(["smoke", "full"]),
    default="smoke",
    show_default=True,
    help="size of the recipes: smoke (minutes on a laptop) or full (as published)",
)
@click.option(
    "--data",
    type=FOLDER,
    default=Path(),
    help="folder of the source images, corpora and runs  [default: the current one]",
)
@click.option("--out", type=FOLDER, help="folder of the results  [default: results/NAME-SCALE]")
@click.option(
    "--recipes",
    type=FOLDER,
    default=Path(__file__).parents[1] / "recipes",
    show_default=True,
    help="folder of the recipes",
)
@click.option(
    "--jobs",
    type=click.IntRange(0, 1024),
    default=0,
    help="worker processes for building; 0: one per core",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="device to compute on",
)
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: all cores")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="arithmetic of a training step"
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 100),
    help="runs of each model, with seeds 0, 1, ...  [default: 1 at scale smoke, 3 at full]",
)
@click.option("--dry-run", is_flag=True, help="print the commands and run nothing")
def command(
    name: str,
    scale: str,
    data: Path,
    out: Path | None,
    recipes: Path,
    jobs: int,
    device: str,
    threads: int,
    precision: str | None,
    seeds: int | None,
    dry_run: bool,
) -> None:
    """Run the experiment NAME: build its corpora, train its models, score them, check its claims.

    Writes results.html, results.md, results.json and contact.png into OUT. Each recipe names the
    source images that it needs. An interrupted experiment continues if it is run again, and
    experiments share corpora and models.

    \b
    Example:
      python experiments/reproduce.py --list
      python experiments/reproduce.py losses --dry-run
      python experiments/reproduce.py losses --data images/ --seeds 3
      python experiments/reproduce.py losses --data images/ --scale full --precision bf16
    """
    extra = [*(["--threads", str(threads)] if threads else [])]
    extra += ["--precision", precision] if precision else []
    folder, small = out or Path("results") / f"{name}-{scale}", scale == "smoke"
    runs = seeds or (1 if small else 3)
    run = ExperimentRun(name, small, data, folder, recipes, jobs, device, extra, runs)
    if dry_run:
        click.echo("\n".join(map(str, commands(run))))
        return
    if not data.is_dir():
        raise UsageError(
            "option",
            "--data",
            f"'{printable(str(data))}' is not a folder",
            "name an existing folder",
        )
    code = reproduce(run, lambda line: click.echo(line, err=True))
    if code:
        sys.exit(code)
    click.echo((folder / "results.md").read_text())
    click.echo(f"page: {printable(str(folder / 'results.html'))}")


if __name__ == "__main__":
    main(command=command, name="reproduce")
