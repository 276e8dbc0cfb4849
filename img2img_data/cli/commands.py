"""Commands of ``img2img-data`` that are not steps: recipes, shards, inspection, catalogs.

The rooms are imported inside the functions, so that each command loads only what it uses.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

import click
from pydantic import Field

from img2img_data.core.command_line import FOLDER, ModelCommand, print_next, progress_of
from img2img_data.core.errors import printable
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import build_model


class BuildOptions(FrozenModel):
    """Options of ``build``."""

    smoke: bool = False
    """build the recipe at its small size; from its section 'smoke'"""
    jobs: int | None = Field(None, ge=0, le=1024)
    """worker processes, in place of the recipe's setting; 0: one per core"""
    dry_run: bool = False
    """print the plan with counts without writing anything"""


@click.command(cls=ModelCommand, models=lambda: (BuildOptions,))
@click.argument("recipe")
def build(recipe: str, settings: dict[str, Any]) -> int:
    """Run the corpus steps of RECIPE, a name of 'img2img-data recipes' or a YAML file, in order.

    \b
    Example:
      img2img-data build demo
      img2img-data build facades_pix2pix --smoke
      img2img-data build mine.yaml --dry-run

    RECIPE is a path if it has a separator or ends in .yaml, else a name. Paths in a recipe are
    relative to the current folder. The whole recipe is checked before the first step. Complete
    corpora are not built again.
    """
    from img2img_data.cli.recipe import forecast_recipe, load_recipe
    from img2img_data.cli.steps import print_after, run_and_print
    from img2img_data.core.yaml_file import read_yaml

    options = build_model(BuildOptions, settings)
    steps = [step.with_jobs(options.jobs) for step in load_recipe(recipe, options.smoke)]
    if options.dry_run:
        return forecast_recipe(steps, click.echo)
    for step in steps:
        click.echo(step.line)
        if code := run_and_print(step.name, step.paths, step.settings):
            return code
    if read_yaml(recipe)[0].get("run"):
        print_next("img2img-train", "--recipe", recipe, *["--smoke"] * options.smoke)
    else:
        print_after(steps[-1].paths[-1])
    return 0


class MergeOptions(FrozenModel):
    """Options of ``merge``."""

    max_bad: float = Field(0.1, ge=0, le=1)
    """exit with 1 if a larger share of all images was rejected"""
    dry_run: bool = False
    """check that the shards fit together without writing anything"""


@click.command(cls=ModelCommand, models=lambda: (MergeOptions,))
@click.argument("shards", type=FOLDER, nargs=-1, required=True)
@click.argument("out", type=FOLDER)
@click.option("--copy", is_flag=True, help="copy the files even where hard links are possible")
def merge(shards: tuple[Path, ...], out: Path, copy: bool, settings: dict[str, Any]) -> int:
    """Join all SHARDS of a build in OUT: byte for byte the corpus of a build without --shard.

    \b
    Example:
      img2img-data blur photos/ parts/1 --sigma 3 --shard 1/2     # on one machine
      img2img-data blur photos/ parts/2 --sigma 3 --shard 2/2     # on another
      img2img-data merge parts/1 parts/2 corpora/gaussian

    Each shard of --shard i/n is a corpus in a folder of its own. The files in OUT are hard links to
    those of the shards where the file system supports them, else copies; you may delete the shards
    afterwards.
    """
    from img2img_data.builds.merge import exit_code_of, merge_shards, open_shards
    from img2img_data.cli.steps import print_after, print_report
    from img2img_data.runner.run import unit_of

    options, start = build_model(MergeOptions, settings), time.monotonic()
    opened = open_shards(shards, out)
    unit = unit_of(opened[0].info["recipe"])
    if options.dry_run:
        count, name = opened[0].sources, printable(out)
        click.echo(f"would join {len(opened)} shards with {count:,} {unit} in '{name}'")
        return 0
    with progress_of("merge") as progress:
        report = merge_shards(opened, out, progress, copy)
    code = exit_code_of(opened, report, options.max_bad)
    print_report(report, out, start, unit)
    if not copy and not report.complete:
        click.echo("only files younger than their shard were checked; 'verify' checks all")
    print_after(out)
    return code


# --------------------------------------------------------------------------------------- inspection
class ShowOptions(FrozenModel):
    """Options of ``show``."""

    out: Path | None = None
    """HTML file to write  [default: CORPUS/show.html]"""
    limit: int = Field(200, ge=1)
    """largest number of pairs on the page"""
    split: str = ""
    """split to show  [default: all]"""
    seed: int = Field(0, ge=0)
    """random seed for the sample of a large corpus"""


@click.command(cls=ModelCommand, models=lambda: (ShowOptions,))
@click.argument("corpus", type=FOLDER)
def show(corpus: Path, settings: dict[str, Any]) -> None:
    """Write a self-contained HTML page: the most degraded pairs and typical ones, a slider on each.

    \b
    Example:
      img2img-data show corpora/gaussian
      img2img-data show corpora/gaussian --split test --limit 50 --out test.html

    Filters and a search box select pairs by split, kind, tag and drawn parameter; histograms show
    the drawn and measured values of the whole corpus. Of a corpus with more than 1,000 pairs only
    a sample is read.
    """
    from img2img_data.cli.steps import print_after
    from img2img_data.inspect.corpus_page import write_corpus_page

    options = build_model(ShowOptions, settings)
    with progress_of("show") as progress:
        page = write_corpus_page(corpus, progress=progress, **dict(options))
    click.echo(printable(page))
    print_after(corpus)


class VerifyOptions(FrozenModel):
    """Options of ``verify``."""

    quick: bool = False
    """compare names only, without reading images"""
    max_shift: float | None = Field(None, gt=0)
    """also list pairs whose images are shifted by more than this, pixels"""
    leaks: bool = False
    """also list images with an exact or near copy in another split"""
    mirrored: bool = False
    """like --leaks, and list mirrored and turned copies too; takes longer"""
    duplicate_distance: int = Field(8, ge=0, le=9)
    """bits of the 64-bit hash in which near copies may differ; 0: exact copies only"""
    jobs: int = Field(0, ge=0, le=1024)
    """worker processes; 0: one per core"""


@click.command(cls=ModelCommand, models=lambda: (VerifyOptions,))
@click.argument("corpus", type=FOLDER)
def verify(corpus: Path, settings: dict[str, Any]) -> int:
    """List missing, extra, unreadable, changed and resized files of CORPUS.

    \b
    Example:
      img2img-data verify corpora/gaussian
      img2img-data verify corpora/cuhk --max-shift 3
      img2img-data verify corpora/gaussian --leaks

    The exit code is 1 if a problem is found.
    """
    from img2img_data.cli.steps import print_after
    from img2img_data.inspect import leakage
    from img2img_data.inspect.verify import misaligned_pairs, mismatch, verify_corpus

    options = build_model(VerifyOptions, settings)
    leaks = options.leaks or options.mirrored
    with progress_of("verify") as progress:
        found = verify_corpus(corpus, progress, options.quick, options.jobs)
    manifests = [name for problem, name, _ in found.problems if problem == "manifest"]
    complete = all((corpus / name).is_file() for name in manifests)
    if not complete and (leaks or options.max_shift):
        found.notes.append("--max-shift and --leaks were skipped: they need every manifest")
    if complete and options.max_shift:
        with progress_of("measure") as progress:
            found.problems += misaligned_pairs(corpus, options.max_shift, progress)
        found.notes += [f"warning: {text}" for text in mismatch(corpus)]
    if complete and leaks:
        with progress_of("leaks") as progress:
            distance, jobs = options.duplicate_distance, options.jobs
            copies, notes = leakage.find_leaks(corpus, distance, jobs, progress, options.mirrored)
        found.problems += copies
        found.notes += notes
    click.echo("\n".join(found.lines()))
    if not found.problems:
        print_after(corpus)
    return 1 if found.problems else 0


class ReplayOptions(FrozenModel):
    """Options of ``replay``."""

    source: Path | None = None
    """folder of the source images of the corpus"""
    out: Path | None = None
    """file to write the computed input to"""


@click.command(cls=ModelCommand, models=lambda: (ReplayOptions,))
@click.argument("corpus", type=FOLDER)
@click.argument("key")
def replay(corpus: Path, key: str, settings: dict[str, Any]) -> int:
    """Compute the input of the pair KEY of CORPUS again and compare it, byte for byte.

    \b
    Example:
      img2img-data replay corpora/mixed 000123 --source photos/
      img2img-data replay corpora/mixed 000123 --out again.png

    Without --source the target in the corpus is degraded, if it was stored without loss; 'lab'
    corpora have no such target. The exit code is 1 if a byte differs.
    """
    from img2img_data.builds.replay import replay_pair

    options = build_model(ReplayOptions, settings)
    result = replay_pair(corpus, key, options.source, options.out)
    click.echo("\n".join(result.lines))
    return 0 if result.equal else 1


# ---------------------------------------------------------------------------------------- catalogue
class DegradationsOptions(FrozenModel):
    """Options of ``degradations``."""

    on: Path | None = None
    """image to show the degradations on"""
    out: Path = Path("degradations.png")
    """contact sheet to write, with --on"""
    side: int = Field(160, ge=16, le=1024)
    """side of the square cut from the center of the image, pixels"""
    seed: int = Field(0, ge=0)
    """random seed for the parameters"""


@click.command(cls=ModelCommand, models=lambda: (DegradationsOptions,))
@click.argument("name", default="")
def degradations(name: str, settings: dict[str, Any]) -> None:
    """List all degradations, or the settings of NAME with units, ranges and defaults.

    \b
    Example:
      img2img-data degradations
      img2img-data degradations motion
      img2img-data degradations --on cat.jpg --out sheet.png

    A parameter is a number, or a range from which one is drawn for each image: [1, 5] in a recipe,
    1..5 on the command line; [1, 5, log] and '1..5 log' are uniform in the logarithm.

    With --on, write a contact sheet instead: the image degraded by each kind, or nine times by
    NAME.
    """
    from img2img_data.degradations.spec import describe_degradations
    from img2img_data.inspect.contact_sheet import write_contact_sheet

    options = build_model(DegradationsOptions, settings)
    if options.on is None:
        lines = list(describe_degradations(name))
    else:
        lines = write_contact_sheet(options.on, options.out, name, options.side, options.seed)
        lines.append(f"sheet: {printable(options.out)}")
    click.echo("\n".join(lines))


@click.command
@click.argument("name", default="")
def recipes(name: str) -> None:
    """List the included recipes, or print the YAML of the recipe NAME.

    \b
    Example:
      img2img-data recipes
      img2img-data recipes mixed > mine.yaml       # edit it, then: --recipe mine.yaml

    The list shows pipelines of degradations, which 'degrade --recipe' applies to any photos, and
    corpora, which 'build' makes, grouped by the images that they need. A recipe states its size
    and, if measured, the minutes of training on one or two CPU cores and the score on held-out
    images.
    """
    from img2img_data.cli.recipe import describe_recipes
    from img2img_data.core.files import read_named
    from img2img_data.core.yaml_file import MAX_BYTES, find_recipe, read_sections

    if name:
        read_sections(name)  # raises for a file that is not a recipe
        click.echo(read_named("recipe", find_recipe(name), MAX_BYTES).decode(), nl=False)
    else:
        click.echo("\n".join(describe_recipes()))


@click.command
@click.argument("what", default="recipe", metavar="[recipe|corpus-row|degradation|COMMAND]")
def schema(what: str) -> None:
    """Print the JSON Schema (draft 2020-12) of recipes, rows of a corpus, or settings.

    \b
    Example:
      img2img-data schema > recipe.schema.json
      img2img-data schema blur

    Editors check and complete recipes with it. For the YAML extension of VS Code, and others that
    use yaml-language-server, save the schema beside the recipe and name it in the recipe's first
    line:

    \b
      # yaml-language-server: $schema=recipe.schema.json
    """
    from img2img_data.cli.json_schema import schema_of

    click.echo(json.dumps(schema_of(what), indent=2, ensure_ascii=False))


@click.command
@click.argument("out", type=FOLDER)
def sample(out: Path) -> None:
    """Write the photos that ship with scikit-image.

    \b
    Example:
      img2img-data sample demo/photos
    """
    from img2img_data.inspect.demo_photos import write_demo_photos

    for file in write_demo_photos(out):
        click.echo(printable(str(file)))
    # Of so few photos a split by hash may leave a share empty, and a tenth is too few to score.
    split = ("--split", "train=0.6,val=0.1,test=0.3", "--stratify", "folder")
    corpus = Path("corpora", out.resolve().name)
    print_next("img2img-data", "degrade", out, corpus, "--recipe", "camera", *split)


COMMANDS: Final = (build, merge, show, verify, replay, degradations, recipes, schema, sample)
