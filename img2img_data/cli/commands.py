"""Commands of ``img2img-data``: one for each step, and those for recipes, shards and inspection.

OpenCV, pydantic and the rooms are imported inside the functions, so ``--help`` stays quick.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from img2img_data.core.command_line import FOLDER, ModelCommand
from img2img_data.core.errors import printable
from img2img_data.core.progress import progress_of

if TYPE_CHECKING:
    from img2img_data.runner.build_folder import Report


def print_report(report: Report, out: Path, dry_run: bool, start: float) -> None:
    """Print the summary of a step that began at ``start``; nothing after a dry run."""
    if dry_run:
        return
    lines, name = list(report.lines()), printable(str(out))
    if report.complete:
        lines.append(f"'{name}' was complete already")
    else:
        seconds = time.monotonic() - start
        rate = f"{report.total / max(seconds, 1e-3):,.0f} images/s"
        lines.append(f"'{name}' is complete: {report.total:,} sources in {seconds:.1f} s, {rate}")
    click.echo("\n".join(lines))


# -------------------------------------------------------------------------------------------- steps
def step_command(name: str) -> click.Command:
    """Return the command of a step: its folders as arguments, its settings as options."""
    from img2img_data.cli.steps import STEPS, run_step

    step = STEPS[name]

    def run(settings: dict[str, Any], degradation: Any = None, **folders: Path) -> None:
        if degradation is not None:
            settings["degradation"] = degradation
        paths, start = tuple(folders[path] for path in step.paths), time.monotonic()
        with progress_of(name) as progress:
            report, code = run_step(name, paths, settings, progress, click.echo)
        print_report(report, paths[-1], bool(settings.get("dry_run")), start)
        sys.exit(code)

    params: list[click.Parameter] = [click.Argument([path], type=FOLDER) for path in step.paths]
    params += [_RECIPE] if name == "degrade" else []
    text = step.run.__doc__
    return ModelCommand(name, params=params, callback=run, help=text, models=lambda: step.models)


def _load_degradation(ctx: click.Context, option: click.Parameter, path: Path | None) -> Any:
    from img2img_data.cli.recipe import load_degradation

    return None if path is None else load_degradation(path)


_RECIPE: Final = click.Option(
    ["--recipe", "degradation"],
    type=FOLDER,
    callback=_load_degradation,
    help="YAML file with a tree of degradations under the key 'degradation'",
)


@click.command
@click.argument("recipe", type=FOLDER)
@click.option("--smoke", is_flag=True, help="build the small size, of the recipe's section 'smoke'")
@click.option(
    "--jobs",
    type=click.IntRange(0, 1024),
    help="worker processes, overrides the recipe; 0: one per core",
)
@click.option("--dry-run", is_flag=True, help="print the plan with counts, write nothing")
def build(recipe: Path, smoke: bool, jobs: int | None, dry_run: bool) -> None:
    """Run the corpus steps of RECIPE, a YAML file, in order.

    \b
    Example:
      img2img-data build recipes/demo.yaml
      img2img-data build recipes/wiki_mixed.yaml --dry-run
      img2img-data build recipes/facades_pix2pix.yaml --smoke

    Paths in a recipe are relative to the current folder. The whole recipe is checked before the
    first step. Complete corpora are not built again.
    """
    from img2img_data.cli.recipe import forecast_recipe, load_recipe

    extra: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    steps = load_recipe(recipe, smoke)
    if dry_run:
        sys.exit(forecast_recipe(steps, extra, click.echo))
    for step in steps:
        click.echo(step.line)
        start = time.monotonic()
        with progress_of(step.name) as progress:
            report, code = step.run(extra, progress, click.echo)
        print_report(report, step.paths[-1], bool(step.settings.get("dry_run")), start)
        if code:
            sys.exit(code)


@click.command
@click.argument("shards", type=FOLDER, nargs=-1, required=True)
@click.argument("out", type=FOLDER)
@click.option("--copy", is_flag=True, help="copy the files even where hard links are possible")
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.1,
    help="exit with 1 if a larger share of all images was rejected",
)
@click.option("--dry-run", is_flag=True, help="check that the shards fit together, write nothing")
def merge(shards: tuple[Path, ...], out: Path, copy: bool, max_bad: float, dry_run: bool) -> None:
    """Join all SHARDS of a build in OUT: byte for byte the corpus of a build without --shard.

    \b
    Example:
      img2img-data blur photos/ parts/1 --sigma 3 --shard 1/2     # on one machine
      img2img-data blur photos/ parts/2 --sigma 3 --shard 2/2     # on another
      img2img-data merge parts/1 parts/2 corpora/gaussian

    Each shard of --shard i/n is a corpus in a folder of its own. The files in OUT are hard links to
    those of the shards where the file system supports them, else copies; the shards may be deleted
    afterwards.
    """
    from img2img_data.build.merge import exit_code_of, merge_shards, open_shards

    start = time.monotonic()
    opened = open_shards(shards, out)
    if dry_run:
        sources, name = opened[0].info["shard"]["sources"], printable(str(out))
        click.echo(f"would join {len(opened)} shards with {sources:,} sources in '{name}'")
        return
    with progress_of("merge") as progress:
        report = merge_shards(opened, out, progress, copy)
    print_report(report, out, False, start)
    if not copy and not report.complete:
        click.echo("only files changed after their shard was built were read; 'verify' reads all")
    sys.exit(exit_code_of(opened, report, max_bad))


# --------------------------------------------------------------------------------------- inspection
@click.command
@click.argument("corpus", type=FOLDER)
@click.option("--out", type=FOLDER, help="HTML file to write  [default: CORPUS/show.html]")
@click.option("--limit", type=click.IntRange(min=1), default=200, help="pairs on the page")
@click.option("--split", default="", metavar="NAME", show_default="all", help="split to show")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="seed of the sample of a large corpus"
)
def show(corpus: Path, out: Path | None, limit: int, split: str, seed: int) -> None:
    """Write a self-contained HTML page: the most degraded pairs and typical ones, a slider on each.

    \b
    Example:
      img2img-data show corpora/gaussian
      img2img-data show corpora/gaussian --split test --limit 50 --out test.html

    Filters and a search box select pairs by split, kind, tag and drawn parameter; histograms show
    the drawn and measured values of the whole corpus. A sample of corpora with more than 1,000
    pairs is read.
    """
    from img2img_data.inspect.corpus_page import write_corpus_page

    with progress_of("show") as progress:
        page = write_corpus_page(corpus, out, limit, split, seed, progress)
    click.echo(printable(str(page)))


@click.command
@click.argument("corpus", type=FOLDER)
@click.option("--quick", is_flag=True, help="compare names only, read no image")
@click.option(
    "--max-shift",
    type=click.FloatRange(min=0, min_open=True),
    help="also list pairs whose images are shifted by more than this, pixels",
)
@click.option(
    "--leaks", is_flag=True, help="also list images with an exact or near copy in another split"
)
@click.option(
    "--duplicate-distance",
    type=click.IntRange(0, 9),
    default=8,
    help="bits of 64 in which near copies may differ; 0: exact copies only",
)
@click.option(
    "--jobs",
    type=click.IntRange(0, 1024),
    default=0,
    help="worker processes of --leaks; 0: one per core",
)
def verify(
    corpus: Path,
    quick: bool,
    max_shift: float | None,
    leaks: bool,
    duplicate_distance: int,
    jobs: int,
) -> None:
    """List missing, extra, unreadable, changed and resized files of CORPUS.

    \b
    Example:
      img2img-data verify corpora/gaussian
      img2img-data verify corpora/cuhk --max-shift 3
      img2img-data verify corpora/gaussian --leaks

    The exit code is 1 if a problem is found.
    """
    from img2img_data.inspect.verify import verify_corpus

    with progress_of("verify") as progress:
        found = verify_corpus(corpus, progress, quick)
    lost = any(
        problem == "manifest" and not (corpus / name).is_file()
        for problem, name, _ in found.problems
    )
    if lost and (leaks or max_shift is not None):
        found.notes.append("--max-shift and --leaks were skipped: they need every manifest")
        leaks, max_shift = False, None
    if max_shift is not None:
        from img2img_data.inspect.verify import misaligned_pairs

        with progress_of("measure") as progress:
            found.problems += misaligned_pairs(corpus, max_shift, progress)
    if leaks:
        from img2img_data.inspect.leakage import find_leaks

        with progress_of("leaks") as progress:
            leaked = find_leaks(corpus, duplicate_distance, jobs, progress)
        found.problems += [("leak", *one) for one in leaked.found]
        found.notes += leaked.notes
    for line in found.lines():
        click.echo(line)
    sys.exit(1 if found.problems else 0)


@click.command
@click.argument("corpus", type=FOLDER)
@click.argument("key")
@click.option("--source", type=FOLDER, help="folder of the source images of the corpus")
@click.option("--out", type=FOLDER, help="file to write the input to")
def replay(corpus: Path, key: str, source: Path | None, out: Path | None) -> None:
    """Compute the input of the pair KEY of CORPUS again and compare it, byte for byte.

    \b
    Example:
      img2img-data replay corpora/mixed 000123 --source photos/
      img2img-data replay corpora/mixed 000123 --out again.png

    Without --source the target in the corpus is degraded, if it was stored without loss; 'lab'
    corpora have no such target. The exit code is 1 if a byte differs.
    """
    from img2img_data.build.replay import replay_pair

    result = replay_pair(corpus, key, source, out)
    for line in result.lines:
        click.echo(line)
    sys.exit(0 if result.equal else 1)


# ---------------------------------------------------------------------------------------- catalogue
@click.command
@click.argument("name", default="")
@click.option("--on", "image", type=FOLDER, help="image to show the degradations on")
@click.option(
    "--out", type=FOLDER, default=Path("degradations.png"), help="contact sheet to write, with --on"
)
@click.option(
    "--side",
    type=click.IntRange(16, 1024),
    default=160,
    help="side of the square cut from the middle of the image, pixels",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="seed of the drawn parameters")
def degradations(name: str, image: Path | None, out: Path, side: int, seed: int) -> None:
    """List all degradations, or the settings of NAME with units, ranges and defaults.

    \b
    Example:
      img2img-data degradations
      img2img-data degradations motion
      img2img-data degradations --on cat.jpg --out sheet.png

    A parameter is a number, or a range from which one is drawn for each image: [1, 5] in a recipe,
    1..5 on the command line; [1, 5, log] and '1..5 log' are uniform in the logarithm.

    With --on a contact sheet is written instead: the image degraded by each kind, or nine times by
    NAME.
    """
    if image is not None:
        from img2img_data.inspect.contact_sheet import write_contact_sheet

        for line in write_contact_sheet(image, out, name, side, seed):
            click.echo(line)
        click.echo(f"sheet: {printable(str(out))}")
        return
    from img2img_data.degradations.spec import describe_degradations

    for line in describe_degradations(name):
        click.echo(line)


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
@click.option("--size", type=click.IntRange(min=16), default=64, help="side of a crop, pixels")
@click.option("--limit", type=click.IntRange(min=1), default=128, help="crops per photo")
def sample(out: Path, size: int, limit: int) -> None:
    """Write crops of the photos that ship with scikit-image, one folder per photo.

    \b
    Example:
      img2img-data sample demo/photos
    """
    from img2img_data.inspect.demo_photos import write_demo_photos

    for name, count in write_demo_photos(out, size, limit).items():
        click.echo(f"{name}: {count} crops")


_OTHERS: Final = (build, merge, show, verify, replay, degradations, schema, sample)


def load_command(name: str) -> click.Command:
    """Return a command by name; the slow modules of the steps are imported only for one of them."""
    return next((c for c in _OTHERS if c.name == name), None) or step_command(name)
