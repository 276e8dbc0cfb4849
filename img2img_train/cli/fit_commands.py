"""The commands that train: ``fit`` and ``resume``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.settings_model import ModelCommand
from img2img_train.cli.options import DEVICE, PATH
from img2img_train.distributed.processes import torchrun_env

if TYPE_CHECKING:
    from pydantic import BaseModel

    from img2img_data.core.progress import Display
    from img2img_train.config import RunConfig
    from img2img_train.runs.folder import RunFolder
    from img2img_train.training.fit import Result


def _settings() -> Sequence[type[BaseModel]]:
    from img2img_train.config import options

    return (options(),)


@click.command(
    cls=ModelCommand, models=_settings, short_help="Train on corpora (the default command)."
)
@click.argument("corpora", nargs=-1, metavar="[CORPUS[=WEIGHT]]...")
@click.option(
    "--recipe",
    type=PATH,
    help="take the settings from the section 'run' of a YAML recipe; options override it",
)
@click.option(
    "--smoke", is_flag=True, help="the recipe's small size, of its section 'smoke', into OUT-smoke"
)
@click.option("--dry-run", is_flag=True, help="check everything and say what would be done")
@click.option(
    "--report/--no-report", default=True, help="score the finished run and write its report.html"
)
def fit(
    corpora: tuple[str, ...],
    recipe: Path | None,
    smoke: bool,
    dry_run: bool,
    report: bool,
    settings: dict[str, object],
) -> None:
    """Train on one or several corpora; a corpus is a folder made by img2img-data, or one that pix2pix would
    take.

    \b
    Example:
      img2img-train corpora/gaussian --loss l2 --net unet --out runs/unet
      img2img-train corpora/gaussian corpora/resize=2 --out runs/mixed --epochs 30
      img2img-train --recipe recipes/wiki_gaussian.yaml --precision bf16
      img2img-data build recipes/facades_pix2pix.yaml --smoke
      img2img-train --recipe recipes/facades_pix2pix.yaml --smoke
      torchrun --nproc-per-node 2 -m img2img_train fit corpora/gaussian --out runs/two

    Started by torchrun, each process takes an even part of every step's --batch; the first one writes.
    """
    from img2img_train.config import configure, read_recipe

    if smoke and recipe is None:
        raise UsageError("option", "--smoke", "belongs to a recipe", "give one by --recipe")
    values = read_recipe(recipe, smoke) if recipe is not None else {}
    config = configure(values, {**settings, **({"corpora": corpora} if corpora else {})})
    if recipe is not None and not corpora:
        _check_built(config, recipe, smoke)
    if dry_run:
        from img2img_train.training.fit import plan

        click.echo("\n".join(plan(config)))
        return
    _fit(config, report)


def _check_built(config: RunConfig, recipe: Path, smoke: bool) -> None:
    missing = next(
        (choice.path for choice in config.corpora if not Path(choice.path).exists()), None
    )
    if missing is not None:
        hint = f"img2img-data build {printable(str(recipe))}{' --smoke' if smoke else ''}"
        raise UsageError("corpus", missing, "is not there yet", f"'{hint}' makes it")


def _fit(config: RunConfig, report: bool) -> None:
    from img2img_data.core.progress import Display
    from img2img_train.training.fit import fit as train

    if torchrun_env().rank:
        with Path(os.devnull).open("w") as nowhere:
            train(config, Display(nowhere))
        return
    with Display() as display:
        result = train(config, display, report)
    click.echo(_outcome(result))
    if report and not (result.already and result.folder.has_current_report()):
        with Display() as display:
            lines = _score(config, result, display)
        click.echo("\n".join(lines))
    if report:
        click.echo(f"report: {printable(str(result.folder.report))}")


def _outcome(result: Result) -> str:
    from img2img_data.core.progress import format_duration

    p, root = result.progress, printable(str(result.folder.root))
    best = (
        f"; best PSNR {p.best_psnr:.2f} dB at step {p.best_step:,}"
        if p.best_psnr is not None
        else ""
    )
    best += (
        f"; stopped early, no better PSNR in {p.stale_validations:,} validations"
        if result.early
        else ""
    )
    if result.already:
        return f"run '{root}' was finished already, {p.step:,} steps{best}"
    return f"run '{root}' is finished: {p.step:,} steps in {format_duration(result.seconds)}{best}"


def _score(config: RunConfig, result: Result, display: Display) -> list[str]:
    """Score a finished run on its corpora's test split, or else validation split, and write its report."""
    from img2img_data.corpus.reader import open_corpus
    from img2img_train.distributed.memory import catch_out_of_memory
    from img2img_train.evaluation.evaluate import evaluate_run
    from img2img_train.report.page import write_run_report
    from img2img_train.runs.model import choose_device

    device = choose_device(config.device).type
    folder, wanted, lines = result.folder, ("test", config.validation_split), []
    for choice in config.corpora:
        name, corpus = printable(choice.path), open_corpus(choice.path)
        if corpus.kind == "unpaired":
            lines.append(
                f"not scored on '{name}': it is unpaired, so there is no target; see samples/"
            )
            continue
        split = next((split for split in wanted if split in corpus.splits), None)
        if split is None:
            lines.append(f"not scored on '{name}': it has no split {' or '.join(wanted)}")
            continue
        follow = display.report(f"scoring on {name}")
        with catch_out_of_memory(
            "scoring run", folder.root, device, partial(_in_parts, folder, name, split)
        ):
            evaluation = evaluate_run(
                folder.root, Path(choice.path), split, config.device, config.batch, follow
            )
        psnr = f"PSNR {evaluation.scores['psnr']:.2f} dB"
        lines.append(f"'{name}' {split}: {psnr}, {evaluation.conclusion}")
    write_run_report(folder.root)
    return lines


def _in_parts(folder: RunFolder, corpus: str, split: str) -> str:
    command = f"img2img-train evaluate {printable(str(folder.root))} --on {corpus} --split {split} --batch 1"
    return f"the run is finished; '{command}' takes less"


@click.command(short_help="Go on with a run.")
@click.argument("run", type=PATH)
@click.option("--device", type=DEVICE, help="where to compute")
@click.option(
    "--threads", type=click.IntRange(0), help="CPU threads; another number gives other last digits"
)
@click.option("--workers", type=click.IntRange(0), help="processes that read images")
@click.option(
    "--report/--no-report", default=True, help="score the finished run and write its report.html"
)
def resume(run: Path, report: bool, **resources: Any) -> None:
    """Go on with the run in folder RUN as if it had never stopped.

    \b
    Example:
      img2img-train resume runs/l2
    """
    from img2img_train.config import RunConfig

    changed = {name: value for name, value in resources.items() if value is not None}
    _fit(RunConfig.load(run).model_copy(update=changed), report)


COMMANDS: Final = (fit, resume)
