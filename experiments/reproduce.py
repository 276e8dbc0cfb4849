"""Do an experiment: build its corpora, train its models, score them, and hold the claims against the numbers.

Corpora are built and models trained by the same commands that are printed, each in a process of its own,
so whatever they have done already is not done again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from catalogue import EXPERIMENTS, Experiment, listing
from claims import Results, Seen, Trained
from contact_sheet import Strip, sheet

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.files import versions, write_atomically
from img2img_data.core.settings_model import did_you_mean
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.images.pixels import Pixels
from img2img_train.cli.main import main
from img2img_train.cli.options import DEVICE, PATH
from img2img_train.config import CONFIG_FILE, RunConfig, config_of, read_page, read_recipe
from img2img_train.evaluation.score import batches, evaluate_model, photo_of
from img2img_train.metrics.color_overlap import Histograms
from img2img_train.objectives.gan import GanObjective
from img2img_train.report.page import flat, render, write_page
from img2img_train.runs.folder import LIBRARIES, read_log, read_timing
from img2img_train.runs.model import LoadedModel, choose_device, load_generator

Say = Callable[[str], None]

PROGRAMS: Final = {"img2img-data": "img2img_data", "img2img-train": "img2img_train"}
SHOWN: Final = 6
"""Images on a contact sheet, of all corpora together; at least two of each."""
BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class Task:
    """An experiment to do, where and how.

    ``data`` is the folder that the recipes' paths are relative to, ``out`` that of the results, ``extra``
    options of every training.
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
        """The experiment; UsageError names those there are."""
        if self.name not in EXPERIMENTS:
            raise UsageError(
                "experiment", self.name, "unknown", did_you_mean(self.name, EXPERIMENTS)
            )
        return EXPERIMENTS[self.name]

    def recipe(self, name: str) -> Path:
        """Return the file of a recipe, as it was given; UsageError where there is none."""
        path = self.recipes / f"{name}.yaml"
        if not path.is_file():
            raise UsageError(
                "recipe", path, "is not there", "name the folder of recipes by --recipes"
            )
        return path

    def config(self, model: str) -> RunConfig:
        """Return the configuration of the recipe of a model, at this scale."""
        return config_of(read_recipe(self.recipe(self.experiment.models[model]), self.smoke))

    def corpus(self, test: str) -> Path:
        """Return the corpus of a test: the path that it is, or the first of a recipe's run."""
        where = self.experiment.tests[test]
        if "/" in where:
            return self.data / where
        small = self.smoke
        return self.data / config_of(read_recipe(self.recipe(where), small)).corpora[0].path


def commands(task: Task) -> list[list[str]]:
    """Return what builds the corpora and trains the models, one after the other, run in ``task.data``."""
    experiment, small = task.experiment, ["--smoke"] if task.smoke else []
    found = []
    for name in dict.fromkeys([*experiment.models.values(), *experiment.corpora]):
        # A recipe of corpora alone has one size.
        size = small if name in experiment.models.values() else []
        path = os.fspath(_seen_from(task.data, task.recipe(name)))
        found.append(["img2img-data", "build", path, *size, "--jobs", str(task.jobs)])
    for name in experiment.models.values():
        path = os.fspath(_seen_from(task.data, task.recipe(name)))
        device = ["--device", task.device] if task.device != "auto" else []
        found.append(["img2img-train", "--recipe", path, *small, *device, *task.extra])
    return found


def _seen_from(folder: Path, path: Path) -> Path:
    """Return a path as it is called in a folder: as given from the current one, else whole."""
    return path if folder.resolve() == Path.cwd() else path.resolve()


def reproduce(task: Task, say: Say) -> int:
    """Do an experiment and write what came of it into ``task.out``; return 0, or the exit code of the
    command that failed.

    Writes ``results.json``, ``results.md``, ``results.html`` and ``contact.png``. Given again, it goes on.
    Raises as ``read_recipe`` and the reading of corpora and runs.
    """
    done = commands(task)
    for number, words in enumerate(done, 1):
        say(f"[{number}/{len(done)}] {' '.join(words)}")
        code = run_command(words, task.data)
        if code:
            return code
    say("scoring")
    results, strips = measure(task)
    write_results(task, results, strips, done)
    return 0


def run_command(words: Sequence[str], folder: Path) -> int:
    """Run a command in a folder to its end and return its exit code; signals are handed on to it."""
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
                continue  # the terminal told the command too, which now writes its checkpoint
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------- measuring
def measure(task: Task) -> tuple[Results, list[Strip]]:
    """Score the trained models on the tests; return the results, and rows of images to look at."""
    models, seen, strips = {}, {}, []
    for name in task.experiment.models:
        config = task.config(name)
        folder = task.data / config.out
        models[name] = Trained(
            _about(config), _pairs_of(folder), read_log(folder), _minutes(folder)
        )
    for test in task.experiment.tests:
        corpus = open_corpus(task.corpus(test))
        if corpus.kind == "unpaired":
            strips += _there_and_back(task, corpus)
            continue
        rows: list[list[Strip]] = []
        for name in task.experiment.models:
            found, made = _look(task, name, test, corpus)
            seen[name, test] = found
            rows.append(made)
        strips += [
            _merged(parts, list(task.experiment.models)) for parts in zip(*rows, strict=True)
        ]
    return Results(models, seen), strips


def _look(task: Task, name: str, test: str, corpus: Corpus) -> tuple[Seen, list[Strip]]:
    """Score one model on one corpus; of some images keep input, output and target."""
    config = task.config(name)
    model = load_generator(task.data / config.out, task.device)
    pairs, swapped = corpus.pairs(task.experiment.split), config.direction == "BtoA"
    cell = evaluate_model(model, corpus, pairs, (name, test), BATCH, swapped=swapped)
    colors, edges, strips = Histograms(), [], []
    chosen = {pairs[place].key for place in _places(len(pairs), len(task.experiment.tests))}
    for pair, given, made, target in _each(model, corpus, pairs, swapped):
        colors.add(photo_of(pair), given, made, target)
        edges.append(gradient(made) / max(gradient(target), 1e-6))
        if pair.key in chosen:
            strips.append(Strip(test, {"input": given, "output": made, "target": target}))
    return Seen(cell, colors, np.array(edges)), strips


def _each(
    model: LoadedModel, corpus: Corpus, pairs: Sequence[Pair], swapped: bool
) -> Iterator[tuple[Pair, Pixels, Pixels, Pixels]]:
    for group in batches(model, corpus, pairs, BATCH, swapped):
        yield from group


def _merged(parts: Sequence[Strip], names: Sequence[str]) -> Strip:
    """Join the rows of one image: input, the output of each model, target."""
    first = parts[0].images
    outputs = {name: part.images["output"] for name, part in zip(names, parts, strict=True)}
    return Strip(parts[0].test, {"input": first["input"], **outputs, "target": first["target"]})


def _there_and_back(task: Task, corpus: Corpus) -> list[Strip]:
    """Return some images of the first side, what each model makes of them, and what it makes of that."""
    from img2img_data.images import io

    paths = corpus.domains[task.experiment.split][0]
    given = [io.to_uint8_rgb(corpus.read_image(paths[place])) for place in _places(len(paths), 1)]
    found: list[dict[str, Pixels]] = [{"input": image} for image in given]
    for name in task.experiment.models:
        run = task.data / task.config(name).out
        there, back = (load_generator(run, task.device, way) for way in ("AtoB", "BtoA"))
        for strip, image in zip(found, given, strict=True):
            made = there.restore(image[None])
            strip |= {name: made[0], f"{name}, back": back.restore(made)[0]}
    return [Strip("", images) for images in found]


def _places(count: int, tests: int) -> list[int]:
    """Return the places of the images that are shown of ``count``, evenly through them."""
    shown = min(count, max(2, SHOWN // tests))
    return [(2 * number + 1) * count // (2 * shown) for number in range(shown)]


def gradient(image: Pixels) -> float:
    """Return the mean absolute difference of neighbours, across and down, of an H x W x 3 image, gray
    levels.
    """
    values = image.astype(np.int16)
    return (
        float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean()) / 2
    )


def _about(config: RunConfig) -> str:
    judge = config.objective.discriminator if isinstance(config.objective, GanObjective) else ""
    return ", ".join(
        part
        for part in (f"{config.objective.net} of width {config.objective.width}", judge)
        if part
    )


def _pairs_of(run: Path) -> int:
    return sum(read_page(run / CONFIG_FILE)["data"]["drawn_per_epoch"])


def _minutes(run: Path) -> float:
    return sum(float(row["seconds"]) for row in read_timing(run)) / 60


# ------------------------------------------------------------------------------------------ writing
def write_results(
    task: Task, results: Results, strips: Sequence[Strip], done: Sequence[list[str]]
) -> None:
    """Write ``results.json``, ``results.md``, ``results.html`` and ``contact.png`` into ``task.out``."""
    from img2img_data.images import io

    page = page_of(task, results, done)
    image = sheet(strips)
    task.out.mkdir(parents=True, exist_ok=True)
    _write(task.out / "contact.png", io.encode(image, "png"))
    _write(task.out / "results.json", to_json_page(page))
    _write(task.out / "results.md", markdown(page).encode())
    write_experiment_page(
        page, io.encode(image, "webp", 90), image.shape[:2], task.out / "results.html"
    )


def page_of(task: Task, results: Results, done: Sequence[list[str]]) -> dict[str, Any]:
    """Return everything that is written about an experiment, ready for JSON."""
    experiment = task.experiment
    claims = []
    for claim in experiment.claims:
        finding = claim.rule(results)
        claims.append({"claim": claim.said, "held": finding.held, "numbers": finding.numbers})
    head, rows = experiment.table(results)
    seeds = sorted({task.config(name).seed for name in experiment.models})
    return {
        "name": task.name,
        "title": experiment.title,
        "scale": "smoke" if task.smoke else "full",
        "split": experiment.split,
        "claims": claims,
        "table": {"head": list(head), "rows": [list(row) for row in rows]},
        "note": experiment.note,
        "minutes": {name: round(trained.minutes, 2) for name, trained in results.models.items()},
        "seeds": seeds,
        "commands": [" ".join(words) for words in done],
        "machine": machine(task.device),
        "versions": versions(*LIBRARIES),
        "cells": [found.cell.summary() for found in results.seen.values()],
    }


def machine(device: str) -> str:
    """Return what the scores were computed by, in words: processor and cores, or the GPU."""
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
        [["claim", "held", "our numbers"]]
        + [[c["claim"], c["held"], c["numbers"]] for c in page["claims"]]
    )
    lines += ["", *_table([page["table"]["head"], *page["table"]["rows"]]), ""]
    lines += [page["note"], ""] if page["note"] else []
    known = ", ".join(f"{name} {number}" for name, number in page["versions"].items())
    seeds = ", ".join(map(str, page["seeds"]))
    lines += [
        f"{page['machine']}; {known}; one run each, seed {seeds}.",
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


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, data)


def write_experiment_page(
    page: Mapping[str, Any], webp: bytes, size: tuple[int, ...], path: Path
) -> Path:
    """Write the page of an experiment, ``page`` being the content of ``results.json``; return its path.

    ``webp`` is the contact sheet, ``size`` its height and width.
    """
    about = {"machine": page["machine"], "versions": page["versions"], "seeds": page["seeds"]}
    minutes = {f"minutes of {name}": number for name, number in page["minutes"].items()}
    height, width = size
    text = render(
        "experiment.html",
        {
            "page": page,
            "about": list(flat(about | minutes)),
            "webp": b64encode(webp).decode(),
            "height": height,
            "width": width,
        },
        Path(__file__).parent / "templates",
    )
    return write_page(path, text)


def _list(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    click.echo("\n".join(listing()))
    context.exit()


@click.command(short_help="Do an experiment of the papers again.")
@click.argument("name")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="say which there are",
)
@click.option(
    "--scale",
    type=click.Choice(["smoke", "full"]),
    default="smoke",
    show_default=True,
    help="the recipes' small size, minutes on a laptop, or the published one",
)
@click.option(
    "--data",
    type=PATH,
    default=Path(),
    help="folder in which the recipes' sources lie, and corpora and runs will  [default: the current one]",
)
@click.option("--out", type=PATH, help="folder of the results  [default: results/NAME-SCALE]")
@click.option(
    "--recipes",
    type=PATH,
    default=Path(__file__).parents[1] / "recipes",
    show_default=True,
    help="folder of the recipes",
)
@click.option(
    "--jobs",
    type=click.IntRange(0, 1024),
    default=0,
    help="processes that build; 0: one for each core",
)
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="where to compute")
@click.option("--threads", type=click.IntRange(0), default=0, help="CPU threads; 0: all cores")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="arithmetic of a training step"
)
@click.option("--dry-run", is_flag=True, help="print the commands, do nothing")
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
    """Do the experiment NAME: build its corpora, train its models, score them, hold the claims against it.

    OUT gets results.html, results.md, results.json and contact.png. Each recipe says what has to lie where.
    Given again, the command goes on where it was; what other experiments have built and trained serves.

    \b
    Example:
      python experiments/reproduce.py --list
      python experiments/reproduce.py losses --dry-run
      python experiments/reproduce.py losses --data images/
      python experiments/reproduce.py losses --data images/ --scale full --precision bf16
    """
    extra = [*(["--threads", str(threads)] if threads else [])]
    extra += ["--precision", precision] if precision else []
    where = out or Path("results") / f"{name}-{scale}"
    task = Task(name, scale == "smoke", data, where, recipes, jobs, device, extra)
    if dry_run:
        click.echo("\n".join(" ".join(words) for words in commands(task)))
        return
    if not data.is_dir():
        raise UsageError(
            "option", "--data", f"'{printable(str(data))}' is no folder", "name the sources' folder"
        )
    code = reproduce(task, lambda line: click.echo(line, err=True))
    if code:
        sys.exit(code)
    click.echo((where / "results.md").read_text())
    click.echo(f"page: {printable(str(where / 'results.html'))}")


if __name__ == "__main__":
    main(command=command, name="reproduce")
