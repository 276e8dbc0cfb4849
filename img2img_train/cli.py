"""``img2img-train``: parse, call, print. Torch is imported by the commands that need it, never on the way to
--help.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from img2img_data.errors import Img2ImgError, UsageError, printable
from img2img_data.fields import ModelCommand
from img2img_train.ranks import find_place

if TYPE_CHECKING:
    from pydantic import BaseModel

    from img2img_train.config import RunConfig
    from img2img_train.display import Display
    from img2img_train.layers import TestNorm
    from img2img_train.loop import Result

PATH = click.Path(path_type=Path)
DEVICE = click.Choice(["auto", "cpu", "cuda", "mps"])


class FitByDefault(click.Group):
    """A group whose command is ``fit`` where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``fit`` in front of corpora and options of training."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["fit", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=FitByDefault,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="img2img", prog_name="img2img-train")
def group() -> None:
    """Train image-to-image models on corpora, score them, apply them.

    \b
    Example:
      img2img-train corpora/gaussian --loss l2 --out runs/l2
      img2img-train corpora/gaussian corpora/resize=2 --net unet --out runs/mixed
      img2img-train corpora/facades --loss pix2pix --direction BtoA
      img2img-train corpora/horse2zebra --loss cyclegan
      img2img-train --recipe recipes/wiki_gaussian.yaml
      img2img-train resume runs/l2
      img2img-train evaluate runs/l2 runs/mixed --on corpora/gaussian corpora/resize --out scores
      img2img-train translate runs/l2 photos/ restored/

    Without the name of a command it trains: 'img2img-train fit --help' lists the settings. A run that was
    interrupted goes on, exactly, when the same command is given again.

    \b
    Exit codes: 0 done; 1 could not finish; 2 wrong option, recipe, checkpoint, or folder in use;
    3 training diverged; 129 / 130 / 143 ended by a signal, with a checkpoint.
    """


def _settings() -> Sequence[type[BaseModel]]:
    from img2img_train.config import options

    return (options(),)


@group.command(cls=ModelCommand, models=_settings, short_help="Train on corpora (the default command).")
@click.argument("corpora", nargs=-1, metavar="[CORPUS[=WEIGHT]]...")
@click.option(
    "--recipe",
    type=PATH,
    help="take the settings from the section 'run' of a YAML recipe; options override it",
)
@click.option("--smoke", is_flag=True, help="the recipe's small run, of its section 'smoke', into OUT-smoke")
@click.option("--dry-run", is_flag=True, help="check everything and say what would be done")
@click.option("--report/--no-report", default=True, help="score the finished run and write its report.html")
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
      img2img-train --recipe recipes/facades_pix2pix.yaml --smoke
      torchrun --nproc-per-node 2 -m img2img_train.cli fit corpora/gaussian --out runs/two

    Started by torchrun, each process takes an even part of every step's --batch; the first one writes.
    """
    from img2img_train.config import configure, read_recipe

    if smoke and recipe is None:
        raise UsageError("option", "--smoke", "belongs to a recipe", "give one by --recipe")
    values = read_recipe(recipe, smoke) if recipe is not None else {}
    config = configure(values, {**settings, **({"corpora": corpora} if corpora else {})})
    if dry_run:
        from img2img_train.loop import plan

        click.echo("\n".join(plan(config)))
        return
    _fit(config, report)


def _fit(config: RunConfig, report: bool) -> None:
    from img2img_train.display import Display
    from img2img_train.loop import fit as train

    if find_place().rank:
        with Path(os.devnull).open("w") as nowhere:
            train(config, Display(nowhere))
        return
    with Display() as display:
        result = train(config, display, report)
    click.echo(_outcome(result))
    if report and not (result.already and result.folder.is_reported()):
        with Display() as display:
            lines = _score(config, result, display)
        click.echo("\n".join(lines))
    if report:
        click.echo(f"report: {printable(str(result.folder.report))}")


def _outcome(result: Result) -> str:
    from img2img_train.display import duration

    p, root = result.progress, printable(str(result.folder.root))
    best = f"; best PSNR {p.best_psnr:.2f} dB at step {p.best_step:,}" if p.best_psnr is not None else ""
    best += f"; stopped early, no better PSNR in {p.stale:,} validations" if result.early else ""
    if result.already:
        return f"run '{root}' was finished already, {p.step:,} steps{best}"
    return f"run '{root}' is finished: {p.step:,} steps in {duration(result.seconds)}{best}"


def _score(config: RunConfig, result: Result, display: Display) -> list[str]:
    """Score a finished run on its corpora's test split, or else validation split, and write its report."""
    from img2img_data.corpus import open_corpus
    from img2img_train.evaluate import evaluate_run, verdict
    from img2img_train.report import write_run_report

    folder, wanted, lines = result.folder, ("test", config.validation_split), []
    for choice in config.corpora:
        name, corpus = printable(choice.path), open_corpus(choice.path)
        if corpus.kind == "unpaired":
            lines.append(f"not scored on '{name}': it is unpaired, so there is no target; see samples/")
            continue
        split = next((split for split in wanted if split in corpus.splits), None)
        if split is None:
            lines.append(f"not scored on '{name}': it has no split {' or '.join(wanted)}")
            continue
        follow = _following(display, f"scoring on {name}")
        cell = evaluate_run(folder.root, Path(choice.path), split, config.device, config.batch, follow)
        said = verdict(cell.gain["psnr"], cell.gain_interval["psnr"])
        lines.append(f"'{name}' {split}: PSNR {cell.scores['psnr']:.2f} dB, {said}")
    write_run_report(folder.root)
    return lines


@group.command(short_help="Go on with a run.")
@click.argument("run", type=PATH)
@click.option("--device", type=DEVICE, help="where to compute")
@click.option("--threads", type=click.IntRange(0), help="CPU threads; another number gives other last digits")
@click.option("--workers", type=click.IntRange(0), help="processes that read pictures")
@click.option("--report/--no-report", default=True, help="score the finished run and write its report.html")
def resume(run: Path, report: bool, **resources: Any) -> None:
    """Go on with the run in folder RUN as if it had never stopped.

    \b
    Example:
      img2img-train resume runs/l2
    """
    from img2img_train.config import RunConfig

    changed = {name: value for name, value in resources.items() if value is not None}
    _fit(RunConfig.load(run).model_copy(update=changed), report)


F = TypeVar("F", bound=Callable[..., Any])


def at_test(command: F) -> F:
    """Add the options that say how dropout and norms stand at test."""
    dropout = click.option(
        "--dropout",
        type=click.Choice(["on", "off"]),
        help="dropout at test; on: a mask for each picture, drawn from it  [default: as the model was saved]",
    )
    norm = click.option(
        "--norm",
        type=click.Choice(["batch", "running"]),
        help="statistics of batch norm: the picture's own or the learned  [default: as the model was saved]",
    )
    return dropout(norm(command))


def _switch(dropout: str | None) -> bool | None:
    return None if dropout is None else dropout == "on"


class ManyAfterOn(click.Command):
    """A command whose ``--on`` takes all words up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat ``--on`` before each of its words."""
        spread, inside = [], False
        for word in args:
            if word.startswith("-") and word != "-":
                inside = word == "--on"
                spread += [] if inside else [word]
            else:
                spread += ["--on", word] if inside else [word]
        return super().parse_args(ctx, spread)


@group.command(cls=ManyAfterOn, short_help="Score runs on corpora, beside doing nothing.")
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option(
    "--on",
    "corpora",
    type=PATH,
    multiple=True,
    required=True,
    metavar="CORPUS...",
    help="corpora to score on",
)
@click.option("--out", type=PATH, default=Path("evaluation"), show_default=True, help="folder for the matrix")
@click.option("--split", default="test", show_default=True, help="split of the corpora")
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="where to compute")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="pictures at a time")
@click.option(
    "--fail-under",
    "limits",
    multiple=True,
    metavar="METRIC=NUMBER",
    help="end with exit code 1 where a mean score is worse, as in psnr=24 or mae=10; may be repeated",
)
@at_test
def evaluate(
    runs: tuple[Path, ...],
    corpora: tuple[Path, ...],
    out: Path,
    split: str,
    device: str,
    batch: int,
    limits: tuple[str, ...],
    dropout: str | None,
    norm: TestNorm | None,
) -> None:
    """Score RUNS (run folders or checkpoints) on corpora, each beside doing nothing.

    \b
    Example:
      img2img-train evaluate runs/l2 runs/unet --on corpora/gaussian corpora/resize --out scores
      img2img-train evaluate runs/l2 --on corpora/gaussian --fail-under psnr=24
    """
    from img2img_train.display import Display
    from img2img_train.evaluate import evaluate_matrix, parse_limits, shortfalls, write_matrix

    wanted = parse_limits(limits)
    with Display() as display:
        follow = _following(display)
        matrix = evaluate_matrix(runs, corpora, split, device, batch, follow, _switch(dropout), norm)
    for cell in matrix.cells:
        made, nothing, gain = (part["psnr"] for part in (cell.scores, cell.nothing, cell.gain))
        name = f"{printable(cell.run)} on {printable(cell.corpus)}, {cell.pictures:,} pictures"
        click.echo(f"{name}: PSNR {made:.2f} dB, nothing {nothing:.2f}, gain {gain:+.2f}")
    click.echo(f"matrix: {printable(str(write_matrix(matrix, out)))}")
    short = shortfalls(matrix, wanted)
    for line in short:
        click.echo(line, err=True)
    sys.exit(1 if short else 0)


def _following(display: Display, title: str = "scoring") -> Callable[[int, int, str], None]:
    begun = False

    def follow(done: int, total: int, name: str) -> None:
        nonlocal begun
        if not begun:
            display.begin(title, total)
            begun = True
        display.advance(done)

    return follow


def _translate_models() -> Sequence[type[BaseModel]]:
    from img2img_train.translate import TranslateSettings

    return (TranslateSettings,)


@group.command(
    cls=ModelCommand, models=_translate_models, short_help="Apply a model to pictures of any size."
)
@click.argument("model", type=PATH)
@click.argument("pictures", type=PATH)
@click.argument("out", type=PATH)
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="where to compute")
@click.option(
    "--direction",
    type=click.Choice(["AtoB", "BtoA"]),
    help="which way, of a model that knows both; default: as trained",
)
@click.option(
    "--max-bad", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="share that may be refused"
)
@click.option("--dry-run", is_flag=True, help="say how many pictures there are, write nothing")
@at_test
def translate(
    model: Path,
    pictures: Path,
    out: Path,
    device: str,
    direction: str | None,
    max_bad: float,
    dry_run: bool,
    dropout: str | None,
    norm: TestNorm | None,
    settings: dict[str, object],
) -> None:
    """Restore PICTURES by MODEL (a run or a checkpoint) into the folder OUT.

    PICTURES is a folder, a file, a pattern in quotes, or - for one picture on standard input; OUT may also
    be the name of one picture, or - for standard output. Pictures may be of any size: they pass the network
    in blended tiles. Transparency, 16 bits, grey and ICC profiles are kept. Given again, the command goes on
    where it was.

    \b
    Example:
      img2img-train translate runs/l2 photos/ restored/
      img2img-train translate runs/l2 'photos/**/*.jpg' restored/ --tile 1024
      img2img-train translate runs/l2 blurred.jpg restored.png
      img2img-train translate runs/horse2zebra zebras/ horses/ --direction BtoA
    """
    from img2img_data.fields import build_model
    from img2img_train.display import Display
    from img2img_train.run import load_generator
    from img2img_train.translate import (
        FORMATS,
        STANDARD,
        TranslateSettings,
        is_one_file,
        list_pictures,
        translate_file,
    )
    from img2img_train.translate import translate as restore

    chosen = build_model(TranslateSettings, settings)
    if str(pictures) == STANDARD or is_one_file(pictures, out):
        if "format" not in settings and out.suffix.lower() in FORMATS:
            chosen = chosen.model_copy(update={"format": FORMATS[out.suffix.lower()]})
        data = sys.stdin.buffer.read() if str(pictures) == STANDARD else pictures.read_bytes()
        loaded = load_generator(model, device, direction, _switch(dropout), norm)
        made = translate_file(loaded, data, str(pictures), chosen)
        _write_one(out, made)
        return
    total = len(list_pictures(pictures)[1])
    if dry_run:
        click.echo(f"would restore {total:,} pictures into '{printable(str(out))}'; nothing was written")
        return
    loaded = load_generator(model, device, direction, _switch(dropout), norm)
    with Display() as display:
        display.begin("restoring", total)
        done = restore(loaded, pictures, out, lambda number, _: display.advance(number), chosen)
    there = f", {done.already:,} of them already there" if done.already else ""
    click.echo(f"restored {done.kept:,} of {total:,} pictures into '{printable(str(out))}'{there}")
    for reason, count in done.refused.most_common():
        click.echo(f"  refused {count:,}: {reason} (rows in {printable(str(out / 'rejected.jsonl'))})")
    if done.refused.total() > max_bad * total:
        sys.exit(1)


def _write_one(out: Path, data: bytes) -> None:
    from img2img_data.corpus import write_atomically

    if str(out) == "-":
        sys.stdout.buffer.write(data)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, data, out.with_name(f".{out.name}.tmp"))


@group.command(short_help="Write a model as ONNX, a page, weights.")
@click.argument("model", type=PATH)
@click.argument("out", type=PATH)
@click.option("--opset", type=click.IntRange(18, 25), default=18, show_default=True, help="ONNX operator set")
@click.option("--runtime", type=PATH, help="for .html: folder of the npm package onnxruntime-web")
def export(model: Path, out: Path, opset: int, runtime: Path | None) -> None:
    """Write the generator of MODEL (a run or a checkpoint) as OUT, for use without this program.

    .onnx takes and gives uint8 RGB pictures of any size; .html is a page that runs it in a browser, on a
    picture dropped on it or drawn; both are compared with torch before they are handed over. .safetensors
    holds the generator alone and is a model for every command here; .pth holds it for the PyTorch
    CycleGAN/pix2pix repository (latest_net_G.pth).

    \b
    Example:
      img2img-train export runs/l2 deblur.onnx
      npm install onnxruntime-web && img2img-train export runs/l2 deblur.html
    """
    from img2img_data.errors import UsageError
    from img2img_train.compat import export_pth
    from img2img_train.export import export_onnx, export_page, export_weights
    from img2img_train.run import load_generator

    kind = out.suffix.lower()
    if kind not in {".onnx", ".html", ".safetensors", ".pth"}:
        why = f"ends in '{out.suffix}'"
        raise UsageError("file", out, why, "give a name ending in .onnx, .html, .safetensors or .pth")
    out.parent.mkdir(parents=True, exist_ok=True)
    loaded, said = load_generator(model, "cpu"), "the generator alone"
    if kind == ".safetensors":
        export_weights(loaded, out)
    elif kind == ".pth":
        export_pth(loaded, out)
    else:
        page = kind == ".html"
        parity = export_page(loaded, out, runtime, opset) if page else export_onnx(loaded, out, opset)
        said = (
            f"{parity.worst} levels off torch at most, on {parity.pictures} pictures up to {parity.side} px"
        )
    click.echo(f"'{printable(str(out))}': {out.stat().st_size / 1e6:.1f} MB, {said}")


@group.command(short_help="Take over weights of the PyTorch CycleGAN/pix2pix repository.")
@click.argument("weights", type=PATH)
@click.argument("out", type=PATH)
@click.option("--direction", type=click.Choice(["AtoB", "BtoA"]), default="AtoB", help="which way they go")
@click.option(
    "--dropout", type=click.FloatRange(0, 1, max_open=True), help="share dropped; default: as published"
)
def adopt(weights: Path, out: Path, direction: str, dropout: float | None) -> None:
    """Write WEIGHTS, a latest_net_G.pth of the PyTorch CycleGAN/pix2pix repository, as the model OUT.

    The network is told from the names and shapes of its tensors; no code in the file is run.

    \b
    Example:
      img2img-train adopt checkpoints/horse2zebra/latest_net_G.pth horse2zebra.safetensors
      img2img-train translate horse2zebra.safetensors horses/ zebras/
    """
    from img2img_train import compat

    spec = compat.adopt(weights, out, direction, dropout)
    said = f"{spec.name} of width {spec.width}, {spec.norm} norm, {spec.inputs} to {spec.outputs} channels"
    click.echo(f"'{printable(str(out))}': {said}")


@group.command(
    short_help="The native command for options of the PyTorch CycleGAN/pix2pix repository.",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def compat(options: tuple[str, ...]) -> None:
    """Print the native command for OPTIONS of the train.py of the PyTorch CycleGAN/pix2pix repository.

    \b
    Example:
      img2img-train compat --dataroot ./datasets/facades --name facades --model pix2pix --direction BtoA
    """
    from img2img_train.compat import as_shell, native_command

    command, notes = native_command(options)
    for note in notes:
        click.echo(f"# {note}", err=True)
    click.echo(as_shell(command))


@group.command(short_help="Print the JSON Schema of a run's settings.")
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe's section 'run'.

    \b
    Example:
      img2img-train schema > run.schema.json
    """
    from img2img_train.config import run_schema

    click.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))


@group.command()
@click.argument("run", type=PATH)
def report(run: Path) -> None:
    """Write RUN/report.html from what the run has so far.

    \b
    Example:
      img2img-train report runs/l2
    """
    from img2img_train.report import write_run_report

    click.echo(f"report: {printable(str(write_run_report(run)))}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; every known error is one line and its exit code."""
    try:
        group.main(args=argv, prog_name="img2img-train", standalone_mode=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Img2ImgError as error:
        rank = find_place().rank
        click.echo(f"error: {f'process {rank}: ' if rank else ''}{error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "safetensors"}:
            raise
        hint = "pip install 'img2img[train]'"
        click.echo(f"error: training needs '{error.name}', which is not installed; {hint}", err=True)
        sys.exit(1)
    except OSError as error:
        where = f" '{printable(str(error.filename))}'" if error.filename else ""
        way_out = "when that is mended, the same command goes on from where it was"
        click.echo(f"error: file{where}: {error.strerror or error}; {way_out}", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ not in {"Stopped", "Ended"}:
            raise
        if str(error):
            click.echo(str(error), err=True)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
