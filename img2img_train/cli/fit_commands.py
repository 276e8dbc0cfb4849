"""Commands that train: ``fit`` and ``resume``."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from pydantic import Field

from img2img_data.core.command_line import FOLDER, ModelCommand, SettingOption, shell_line
from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import build_model, build_part, did_you_mean, setting
from img2img_train.distributed.torchrun import torchrun_env

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from img2img_data.core.command_line import Display
    from img2img_train.config import RunConfig
    from img2img_train.training.fit import FitResult

FIRST: Final = ("recipe", "preset", "loss", "net", "init", "out", "epochs", "batch")
"""Options listed first; the others follow by group."""


class FitOptions(FrozenModel):
    """Options of ``fit`` that are not settings of the run."""

    recipe: str | None = Field(None, json_schema_extra={"metavar": "RECIPE"})
    """recipe to run, a name or a YAML file; its section 'run' holds the settings, and options
    override them; 'img2img-data recipes' lists the names"""
    smoke: bool = setting("Data", False)
    """run the recipe at its small size; from its section 'smoke', into OUT-smoke"""
    report: bool = setting("Output", True)
    """score the finished run and write report.html"""
    dry_run: bool = setting("Output", False)
    """check and print the plan without writing anything"""


class FitCommand(ModelCommand):
    """The command ``fit``: it takes the settings of all losses, its help lists those of one."""

    group_order = (
        *("Options", "Data", "Objective", "Generator", "Discriminator"),
        *("Optimization", "Validation", "Output", "Runtime"),
    )

    @functools.cached_property
    def setting_options(self) -> list[SettingOption]:
        """One option for each setting of all losses, after those of the command itself."""
        from img2img_train.config import all_fields

        return _options_of(all_fields())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note the loss for the help, which click shows before it parses the other options."""
        # --help is eager: it is handled before --loss has a value in the context.
        words = [word for arg in args for word in arg.split("=", 1)]
        ctx.meta["loss"] = dict(pairwise(words)).get("--loss")
        return super().parse_args(ctx, args)

    def shown_options(self, ctx: click.Context, full: bool) -> list[click.Option]:
        """Return the options of the given loss; without one, of the default, or all in full."""
        from img2img_train.config import DEFAULT_LOSS, all_fields, fields_of
        from img2img_train.objectives.registry import OBJECTIVES

        loss = ctx.meta.get("loss")
        if loss is not None and loss not in OBJECTIVES:
            raise UsageError("option", "--loss", "unknown", did_you_mean(loss, OBJECTIVES))
        fields = all_fields() if full and loss is None else fields_of(loss or DEFAULT_LOSS)
        others = [o for o in super().shown_options(ctx, full) if not isinstance(o, SettingOption)]
        # Built anew, because the defaults depend on the loss.
        shown = [*_options_of(fields), *others]
        return sorted(shown, key=lambda o: FIRST.index(o.name) if o.name in FIRST else len(FIRST))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say how to see the settings of another loss."""
        from img2img_train.config import DEFAULT_LOSS

        loss = ctx.meta.get("loss") or DEFAULT_LOSS
        hint = "see 'fit --loss NAME --help' for others."
        formatter.write_paragraph()
        formatter.write_text(f"Defaults of --loss {loss}; {hint}")


def _options_of(settings: dict[str, FieldInfo]) -> list[SettingOption]:
    """Return the options of the command itself, then one for each setting but the corpora."""
    fields = FitOptions.model_fields | settings
    return [SettingOption(n, field) for n, field in fields.items() if n != "corpora"]


@click.command(cls=FitCommand)
@click.argument("corpora", nargs=-1, metavar="[CORPUS[=WEIGHT]]...")
def fit(corpora: tuple[str, ...], settings: dict[str, Any]) -> None:
    """Train on corpora: folders of img2img-data, pix2pix or CycleGAN.

    \b
    Example:
      img2img-train corpora/gaussian
      img2img-train corpora/gaussian corpora/resize=2 --out runs/mixed     # =2: twice as often
      img2img-train --recipe facades_pix2pix --smoke
      torchrun --nproc-per-node 2 -m img2img_train fit corpora/gaussian --out runs/two
    """
    from img2img_train.config import configure, read_recipe

    options = build_part(FitOptions, settings)
    recipe, smoke = options.recipe, options.smoke
    if smoke and recipe is None:
        raise UsageError("option", "--smoke", "needs a recipe", "add --recipe")
    values = read_recipe(recipe, smoke) if recipe is not None else {}
    chosen = {n: v for n, v in settings.items() if n not in FitOptions.model_fields}
    chosen |= {"corpora": corpora} if corpora else {}
    config = configure(with_start({**values, **chosen}))
    missing = [choice.path for choice in config.corpora if not Path(choice.path).exists()]
    if recipe is not None and not corpora and missing:
        command = shell_line("img2img-data", "build", recipe, *["--smoke"] * smoke)
        raise UsageError("corpus", missing[0], "does not exist yet", f"'{command}' builds it")
    if options.dry_run:
        from img2img_train.training.fit import dry_run

        click.echo("\n".join(dry_run(config)))
        return
    _fit(config, options.report)


def with_start(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings; those of the networks of ``init``, if there are any, are their defaults."""
    if not values.get("init"):
        return {name: value for name, value in values.items() if name != "init"}
    from img2img_train.config import CONFIG_FILE, DEFAULT_LOSS, PRESETS, read_page
    from img2img_train.objectives.base import Objective
    from img2img_train.objectives.registry import OBJECTIVES
    from img2img_train.runs.checkpoint import read_description
    from img2img_train.runs.folder import find_checkpoint

    # A run that has begun keeps its settings; the model that it started from may be gone.
    begun = Path(values.get("out") or values["init"]) / CONFIG_FILE
    page = read_page(begun) if begun.is_file() else {}
    saved = page.get("config") or read_description(find_checkpoint(values["init"])).config
    preset: Any = values.get("preset")
    loss = str(values.get("loss") or PRESETS.get(preset, {}).get("loss", DEFAULT_LOSS))
    own, source = (OBJECTIVES.get(name, Objective) for name in (loss, saved.get("loss", "")))
    # The settings that all objectives share are those of the generator. A discriminator is taken
    # over by its name, which differs between objectives with and without pairs.
    shared = ("discriminator", "d_width", "d_norm") if own.paired == source.paired else ()
    networks = (n for n in (*Objective.model_fields, *shared) if n in own.model_fields)
    return {n: saved[n] for n in networks if n in saved} | dict(values)


def _fit(config: RunConfig, report: bool, changed: bool = False) -> None:
    from img2img_data.core.command_line import Display, frozen_imports
    from img2img_data.core.files import no_folder

    # Before the import of torch: a wrong path fails at once.
    for path in (Path(choice.path) for choice in config.corpora):
        if not path.is_dir():
            raise no_folder(path, "corpus")
    with frozen_imports():
        import torch._inductor.config  # noqa: F401  # torch imports it before the first step

        from img2img_train.cli.model_commands import print_translate
        from img2img_train.training.fit import fit as train

    # Only rank 0 shows progress and scores the run; the others would print the same.
    rank, command = torchrun_env().rank, click.get_current_context().obj or ""
    with Path(os.devnull).open("w") as nowhere, Display(nowhere if rank else None) as display:
        result = train(config, display, report, changed, command)
    if rank:
        return
    click.echo(repr(result))
    # A finished run that is given again is not scored again, unless its report is out of date.
    if report and not (result.already and result.folder.has_current_report()):
        with Display() as display:
            lines = _score(config, result, display)
        click.echo("\n".join(lines))
    if report:
        click.echo(f"report: {printable(result.folder.report)}")
    sigma = ["--sigma", "3"] * (config.input != "plain")
    print_translate(result.folder.root, *sigma)


def _score(config: RunConfig, result: FitResult, display: Display) -> list[str]:
    """Score a finished run on the test split of its corpora, or the validation split; write its
    report.
    """
    from img2img_data.corpus.reader import open_corpus
    from img2img_train.distributed.memory import catch_out_of_memory
    from img2img_train.evaluation.evaluate import evaluate_run
    from img2img_train.evaluation.settings import EvaluateSettings
    from img2img_train.report.page import write_run_report
    from img2img_train.runs.model import choose_device

    device = choose_device(config.device).type
    folder, splits, lines = result.folder, ("test", config.validation_split), []
    for choice in config.corpora:
        name, corpus = printable(choice.path), open_corpus(choice.path)
        split = next((split for split in splits if split in corpus.splits), None)
        on = ("img2img-train", "evaluate", folder.root, "--on", choice.path, "--split")
        # The images of an unpaired corpus have no counterpart to compare an output with.
        if corpus.kind == "unpaired":
            by_fid = shell_line(*on, split or config.split, "--fid", "WEIGHTS")
            lines.append(f"not scored on '{name}': it is unpaired; score it by FID: {by_fid}")
            continue
        if split is None:
            hint = "build it with --split train=0.8,val=0.1,test=0.1"
            lines.append(f"not scored on '{name}': it has no split {' or '.join(splits)}; {hint}")
            continue
        progress = display.report(f"scoring on {name}")
        less = f"the run is finished; '{shell_line(*on, split, '--batch', 1)}' needs less memory"
        with catch_out_of_memory("scoring run", folder.root, device, less):
            settings = EvaluateSettings(device=config.device, split=split, batch=config.batch)
            evaluation = evaluate_run(folder.root, Path(choice.path), settings, progress)
        psnr = f"PSNR {evaluation.scores['psnr']:.2f} dB"
        lines.append(f"'{name}' {split}: {psnr}, {evaluation.conclusion}")
    write_run_report(folder.root)
    return lines


class ResumeOptions(FrozenModel):
    """Options of ``resume``: a later end, and resources; others would make it another run."""

    epochs: int | None = Field(None, ge=1)
    """passes over the corpora in total, including those done"""
    max_steps: int | None = Field(None, ge=1)
    """stop after this many steps in total, including those done; the run gets more epochs if it has
    too few for them"""
    lr: float | None = Field(None, gt=0, le=10)
    """learning rate from here on"""
    epochs_decay: int | None = Field(None, ge=0)
    """final epochs in which the learning rate decays to 0, counted from the new end"""
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """device to train on  [default: as before]"""
    threads: int | None = Field(None, ge=0)
    """CPU threads; 0: all cores"""
    workers: int | None = Field(None, ge=0)
    """processes that load images; 0: none"""
    report: bool = True
    """score the finished run and write report.html"""


@click.command(cls=ModelCommand, models=lambda: (ResumeOptions,))
@click.argument("run", type=FOLDER)
def resume(run: Path, settings: dict[str, Any]) -> None:
    """Continue the run in folder RUN as if it had never stopped, or a finished one to a later end.

    \b
    Example:
      img2img-train resume runs/l2
      img2img-train resume runs/l2 --epochs 100 --lr 1e-4
      img2img-train resume runs/l2 --max-steps 5000

    Optimizers, averages and image pools are kept, the log continues, and config.json records the
    change with its step. From there on the learning rates are those of a run with the new settings
    from the start: with a constant rate, or a later --max-steps within the same epochs, the weights
    are the same as well. Another number of threads, or another device, changes the last digits of
    the results.
    """
    from img2img_train.config import RunConfig, config_of

    report = build_model(ResumeOptions, settings).report
    changed = {name: value for name, value in settings.items() if name != "report"}
    config, (old_end, per_epoch) = RunConfig.load(run), _planned_steps(run)
    steps = changed.get("max_steps", 0)
    if "epochs" in changed or "max_steps" in changed:
        # The old end of the other kind must not come before the new one.
        epochs = max(config.epochs or 1, math.ceil(steps / per_epoch))
        changed = {"epochs": epochs, "max_steps": 0, **changed}
    # Built anew: the settings check each other.
    config = config_of({**config.model_dump(), "out": config.out, **changed})
    end = min((config.epochs or 1) * per_epoch, config.max_steps or math.inf)
    if end < old_end:
        why = f"ends the run at step {end:,}, before its present end at step {old_end:,}"
        raise UsageError("option", "--max-steps" if steps else "--epochs", why, "give more")
    _fit(config, report, changed=True)


def _planned_steps(run: Path) -> tuple[int, int]:
    """Return the steps of a run, and of an epoch; CheckpointError if config.json lacks them."""
    from img2img_train.config import CONFIG_FILE, read_page

    try:
        data = read_page(run / CONFIG_FILE)["data"]
        return max(1, int(data["steps"])), max(1, int(data["steps_per_epoch"]))
    except (LookupError, TypeError, ValueError):
        why = "is damaged: 'data' does not state the steps"
        raise CheckpointError("run", run / CONFIG_FILE, why, "train into another folder") from None


COMMANDS: Final = (fit, resume)
