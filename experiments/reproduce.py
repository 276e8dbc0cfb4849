"""Run an experiment: build its corpora, train its models, score them, check its claims.

Corpora are built and models trained by the commands that are printed, each in a process of its own,
so finished work is not repeated.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from catalogue import EXPERIMENTS, Experiment, listing
from claims import ModelScores, Results, TrainedModel
from contact_sheet import Strip, draw_sheet

from img2img_data.core.command_line import FOLDER
from img2img_data.core.errors import UsageError, printable
from img2img_data.core.files import versions, write_atomically
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, open_corpus
from img2img_data.images.pixels import Pixels, to_uint8_rgb
from img2img_train.cli.main import main
from img2img_train.config import CONFIG_FILE, RunConfig, config_of, read_page, read_recipe
from img2img_train.evaluation.score import Scoring, evaluate_model, group_of, restored_batches
from img2img_train.metrics.color_overlap import ColorHistograms
from img2img_train.objectives.gan import GanObjective
from img2img_train.report.page import flatten, render, write_page
from img2img_train.runs.folder import LIBRARIES, read_log, read_timing
from img2img_train.runs.model import choose_device, load_generator

PROGRAMS: Final = {"img2img-data": "img2img_data", "img2img-train": "img2img_train"}
SHEET_ROWS: Final = 6
"""Images on a contact sheet, of all corpora together; at least two of each."""


@dataclass(frozen=True, slots=True)
class ExperimentRun:
    """An experiment with its scale, folders and options.

    ``data`` is the folder that paths in recipes are relative to, ``out`` that of the results,
    ``extra`` are options of every training.
    """

    name: str
    smoke: bool
    data: Path
    out: Path
    recipes: Path
    jobs: int = 0
    device: str = "auto"
    extra: Sequence[str] = field(default_factory=tuple)

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

    def corpus(self, test: str) -> Path:
        """Return the corpus of a test: its path, or the first corpus of its recipe's run."""
        where = self.experiment.tests[test]
        if "/" in where:
            return self.data / where
        small = self.smoke
        return self.data / config_of(read_recipe(self.recipe(where), small)).corpora[0].path


def commands(run: ExperimentRun) -> list[list[str]]:
    """Return the commands that build the corpora and train the models, to run in ``run.data``."""
    experiment, small = run.experiment, ["--smoke"] if run.smoke else []
    found = []
    for name in dict.fromkeys([*experiment.models.values(), *experiment.corpora]):
        # A recipe without a run has one size.
        size = small if name in experiment.models.values() else []
        path = os.fspath(_seen_from(run.data, run.recipe(name)))
        found.append(["img2img-data", "build", path, *size, "--jobs", str(run.jobs)])
    for name in experiment.models.values():
        path = os.fspath(_seen_from(run.data, run.recipe(name)))
        device = ["--device", run.device] if run.device != "auto" else []
        found.append(["img2img-train", "--recipe", path, *small, *device, *run.extra])
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
    for number, words in enumerate(done, 1):
        log(f"[{number}/{len(done)}] {' '.join(words)}")
        code = run_command(words, run.data)
        if code:
            return code
    log("scoring")
    results, strips = measure(run)
    write_results(run, results, strips, done)
    return 0


def run_command(words: Sequence[str], folder: Path) -> int:
    """Run a command in a folder and return its exit code; signals are passed on to it."""
    line = [sys.executable, "-m", PROGRAMS[words[0]], *words[1:]]
    child = subprocess.Popen(line, cwd=folder)
    names = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.signal(number, lambda n, _: child.send_signal(n)) for number in names}
    try:
        while True:
            try:
                code = child.wait()
                return code if code >= 0 else 128 - code
            except KeyboardInterrupt:
                # The terminal sent the signal to the command too, which now writes its checkpoint.
                continue
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------- measuring
def measure(run: ExperimentRun) -> tuple[Results, list[Strip]]:
    """Return the scores of the trained models on the tests, and rows of images for the sheet."""
    models, scores, strips = {}, {}, []
    for name in run.experiment.models:
        config = run.config(name)
        folder = run.data / config.out
        models[name] = TrainedModel(
            _networks_of(config), _pairs_of(folder), read_log(folder), _minutes(folder)
        )
    for test in run.experiment.tests:
        corpus = open_corpus(run.corpus(test))
        if corpus.kind == "unpaired":
            strips += _cycle_strips(run, corpus)
            continue
        rows: list[list[Strip]] = []
        for name in run.experiment.models:
            scores[name, test], shown = _score(run, name, test, corpus)
            rows.append(shown)
        strips += [_merged(parts, list(run.experiment.models)) for parts in zip(*rows, strict=True)]
    return Results(models, scores), strips


def _score(
    run: ExperimentRun, name: str, test: str, corpus: Corpus
) -> tuple[ModelScores, list[Strip]]:
    """Return the scores of one model on one corpus, and rows of some of its images."""
    config = run.config(name)
    model = load_generator(run.data / config.out, run.device)
    pairs = corpus.pairs(run.experiment.split)
    scoring = Scoring(swapped=config.direction == "BtoA", names=(name, test))
    evaluation = evaluate_model(model, corpus, pairs, scoring)
    colors, edges, strips = ColorHistograms(), list[float](), list[Strip]()
    chosen = {pairs[index].key for index in _evenly(len(pairs), len(run.experiment.tests))}
    for batch in restored_batches(model, corpus, pairs, scoring):
        for pair, input, output, target in batch:
            colors.update(group_of(pair), input, output, target)
            edges.append(mean_gradient(output) / max(mean_gradient(target), 1e-6))
            if pair.key in chosen:
                strips.append(Strip(test, {"input": input, "output": output, "target": target}))
    return ModelScores(evaluation, colors, np.array(edges)), strips


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
        folder = run.data / run.config(name).out
        forward, inverse = (
            load_generator(folder, run.device, direction) for direction in ("AtoB", "BtoA")
        )
        for strip, image in zip(strips, inputs, strict=True):
            output = forward.restore(image[None])
            strip |= {name: output[0], f"{name}, cycle": inverse.restore(output)[0]}
    return [Strip("", images) for images in strips]


def _evenly(count: int, tests: int) -> list[int]:
    """Return the indices of some of ``count`` images, evenly through them."""
    shown = min(count, max(2, SHEET_ROWS // tests))
    return [(2 * number + 1) * count // (2 * shown) for number in range(shown)]


def mean_gradient(image: Pixels) -> float:
    """Return the mean absolute difference of neighbors in an H x W x 3 image, in gray levels."""
    values = image.astype(np.int16)
    down, across = (np.abs(np.diff(values, axis=axis)).mean() for axis in (0, 1))
    return float(down + across) / 2


def _networks_of(config: RunConfig) -> str:
    objective = config.objective
    names = [f"{objective.net} of width {objective.width}"]
    names += [objective.discriminator] if isinstance(objective, GanObjective) else []
    return ", ".join(names)


def _pairs_of(run: Path) -> int:
    return sum(read_page(run / CONFIG_FILE)["data"]["drawn_per_epoch"])


def _minutes(run: Path) -> float:
    return sum(float(row["seconds"]) for row in read_timing(run)) / 60


# ------------------------------------------------------------------------------------------ writing
def write_results(
    run: ExperimentRun, results: Results, strips: Sequence[Strip], done: Sequence[list[str]]
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


def page_of(run: ExperimentRun, results: Results, done: Sequence[list[str]]) -> dict[str, Any]:
    """Return the content of ``results.json``."""
    experiment = run.experiment
    claims = []
    for claim in experiment.claims:
        result = claim.rule(results)
        row = {"claim": claim.text, "status": result.status, "numbers": result.numbers}
        claims.append(row)
    head, rows = experiment.table(results)
    seeds = sorted({run.config(name).seed for name in experiment.models})
    return {
        "name": run.name,
        "title": experiment.title,
        "scale": "smoke" if run.smoke else "full",
        "split": experiment.split,
        "claims": claims,
        "table": {"head": list(head), "rows": [list(row) for row in rows]},
        "note": experiment.note,
        "minutes": {name: round(trained.minutes, 2) for name, trained in results.models.items()},
        "seeds": seeds,
        "commands": [" ".join(words) for words in done],
        "machine": machine(run.device),
        "versions": versions(*LIBRARIES),
        "evaluations": [scores.evaluation.summary() for scores in results.scores.values()],
    }


def machine(device: str) -> str:
    """Return the name of the GPU, or the processor and its number of cores."""
    import torch

    chosen = choose_device(device)
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    import platform

    about = Path("/proc/cpuinfo")
    lines = about.read_text(errors="replace").splitlines() if about.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def markdown(page: dict[str, Any]) -> str:
    """Return the page as a section of Markdown."""
    lines = [
        f"## {page['title']}",
        "",
        f"`{page['name']}`, scale {page['scale']}, split {page['split']}.",
        "",
    ]
    lines += _table(
        [["claim", "status", "numbers"]]
        + [[c["claim"], c["status"], c["numbers"]] for c in page["claims"]]
    )
    lines += ["", *_table([page["table"]["head"], *page["table"]["rows"]]), ""]
    lines += [page["note"], ""] if page["note"] else []
    libraries = ", ".join(f"{name} {number}" for name, number in page["versions"].items())
    seeds = ", ".join(map(str, page["seeds"]))
    lines += [
        f"{page['machine']}; {libraries}; one run each, seed {seeds}.",
        "",
        "```",
        *page["commands"],
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
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
    facts = {"machine": page["machine"], "versions": page["versions"], "seeds": page["seeds"]}
    minutes = {f"minutes of {name}": number for name, number in page["minutes"].items()}
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
      python experiments/reproduce.py losses --data images/
      python experiments/reproduce.py losses --data images/ --scale full --precision bf16
    """
    extra = [*(["--threads", str(threads)] if threads else [])]
    extra += ["--precision", precision] if precision else []
    folder = out or Path("results") / f"{name}-{scale}"
    run = ExperimentRun(name, scale == "smoke", data, folder, recipes, jobs, device, extra)
    if dry_run:
        click.echo("\n".join(" ".join(words) for words in commands(run)))
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
