"""``img2img-data``: parse, call, print."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from img2img_data.errors import Img2ImgError, printable
from img2img_data.fields import ModelCommand

if TYPE_CHECKING:
    from pydantic import BaseModel

    from img2img_data.outcome import Report

FOLDER = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="img2img", prog_name="img2img-data")
def group() -> None:
    """Turn folders of photos into paired corpora: degraded | clean, photo | sketch, L | ab.

    \b
    Example:
      img2img-data blur photos/ corpora/gaussian --kind gaussian --sigma 3 --size 64
      img2img-data show corpora/gaussian

    Refused pictures never stop a run: each is a row in rejected.jsonl with its reason. A run that was
    interrupted goes on when the same command is given again.

    \b
    Exit codes: 0 done; 1 could not finish, too many pictures refused, or files without their other half;
    2 wrong option, recipe or folder; 130 / 143 ended by a signal.
    """


def _models(step: str) -> Callable[[], Sequence[type[BaseModel]]]:
    def load() -> Sequence[type[BaseModel]]:
        from img2img_data.steps import STEPS

        return STEPS[step].models

    return load


def _run(step: str, paths: Sequence[Path], settings: dict[str, object]) -> None:
    from img2img_data.progress import progress_of
    from img2img_data.steps import run_step

    began = time.monotonic()
    with progress_of(step) as show:
        report, code = run_step(step, paths, settings, show, _say)
    _print_report(report, paths[-1], bool(settings.get("dry_run")), time.monotonic() - began)
    sys.exit(code)


def _say(line: str) -> None:
    click.echo(line)


def _print_report(report: Report, out: Path, dry: bool, seconds: float) -> None:
    if dry:
        return
    for line in report.lines():
        click.echo(line)
    if report.complete:
        click.echo(f"'{printable(str(out))}' was complete already")
    else:
        rate = f"{report.total / max(seconds, 1e-3):,.0f} pictures/s"
        click.echo(
            f"'{printable(str(out))}' is complete: {report.total:,} sources in {seconds:.1f} s, {rate}"
        )


@group.command(cls=ModelCommand, models=_models("resize"), short_help="Bring photos to one size.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def resize(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Write the photos of SOURCE in one size to OUT, upright and opaque: what 'combine' or 'unpaired' take.

    The photos alone, no pairs: 'blur --kind resize' makes a corpus for enlarging. The commands that make
    corpora take --size themselves.

    \b
    Example:
      img2img-data resize photos/ photos256/ --size 256 --fit pad
    """
    _run("resize", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("blur"), short_help="Pair each photo with a blurred copy.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def blur(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair each photo of SOURCE with a blurred copy of itself: a corpus for deblurring.

    \b
    Example:
      img2img-data blur faces/male corpora/gaussian --kind gaussian --sigma 3 --size 64
      img2img-data blur faces/male corpora/resize --kind resize --factor 4 --size 64
      img2img-data blur faces corpora/both --split train=0.8,test=0.2 --group-by person --stratify gender
    """
    _run("blur", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("degrade"), short_help="Pair each photo with a spoiled copy.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--recipe", type=FOLDER, default=None, help="YAML file with a tree of degradations")
def degrade(source: Path, out: Path, recipe: Path | None, settings: dict[str, object]) -> None:
    """Pair each photo of SOURCE with a copy that a tree of degradations spoiled: blur, noise, compression...

    A recipe holds the tree under the key 'degradation'; a single kind needs no recipe.

    \b
    Example:
      img2img-data degrade photos/ corpora/mixed --recipe recipes/mixed.yaml --size 256
      img2img-data degrade photos/ corpora/noisy --kind noise --set sigma=5..25
      img2img-data degradations              # what there is
      img2img-data degradations noise        # what noise takes
    """
    if recipe is not None:
        from img2img_data.recipe import load_degradation

        settings["degradation"] = load_degradation(recipe)
    _run("degrade", (source, out), settings)


@group.command(short_help="List the degradations, or the settings of one.")
@click.argument("name", default="")
def degradations(name: str) -> None:
    """List all degradations; with NAME, its settings: units, ranges, defaults.

    A strength is a number, or a range of which each picture draws its own: [1, 5] in a recipe, 1..5 on the
    command line; [1, 5, log] and '1..5 log' are uniform in the logarithm.

    \b
    Example:
      img2img-data degradations
      img2img-data degradations motion
    """
    from img2img_data.trees import about_degradations

    for line in about_degradations(name):
        _say(line)


@group.command(short_help="Make the input of one pair again, byte for byte.")
@click.argument("corpus", type=FOLDER)
@click.argument("key")
@click.option("--source", type=FOLDER, default=None, help="folder of photos that the corpus was made from")
@click.option("--out", type=FOLDER, default=None, help="file to write what was made to")
def replay(corpus: Path, key: str, source: Path | None, out: Path | None) -> None:
    """Spoil one photo again by what CORPUS noted under KEY, and compare with what the corpus holds.

    Without --source the clean picture in the corpus serves, if it was kept without loss. Ends with 1 when a
    single byte differs.

    \b
    Example:
      img2img-data replay corpora/mixed 000123 --source photos/
      img2img-data replay corpora/mixed 000123 --out again.png
    """
    from img2img_data.replay import replay_pair

    result = replay_pair(corpus, key, source, out)
    for line in result.lines:
        _say(line)
    sys.exit(0 if result.equal else 1)


@group.command(cls=ModelCommand, models=_models("combine"), short_help="Pair two folders: photo | sketch.")
@click.argument("inputs", type=FOLDER)
@click.argument("targets", type=FOLDER)
@click.argument("out", type=FOLDER)
def combine(inputs: Path, targets: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair the pictures of INPUTS with those of TARGETS by their names, never by their order.

    \b
    Example:
      img2img-data combine photos/ sketches/ corpora/cuhk --match cuhk --dry-run
      img2img-data combine photos/ sketches/ corpora/cuhk --match template \\
        --template-a '{id}.jpg' --template-b '{id}-sz1.jpg'
      img2img-data combine photos/ labels/ corpora/labels --max-shift 3
    """
    _run("combine", (inputs, targets, out), settings)


@group.command(cls=ModelCommand, models=_models("lab"), short_help="Pair L with Lab, for colorization.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def lab(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair the L plane of each photo with its Lab picture: a corpus for colorization.

    \b
    Example:
      img2img-data lab photos/ corpora/colour --size 256
    """
    _run("lab", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("grayscale"), short_help="Pair each photo's grey with it.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def grayscale(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair each photo of SOURCE without its colours with the photo itself: colorization in RGB.

    Photos that are black-and-white already teach nothing here: 'select --drop-gray' leaves them out.

    \b
    Example:
      img2img-data grayscale photos/ corpora/grey --size 256
    """
    _run("grayscale", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("blank"), short_help="Cut a hole: a corpus for inpainting.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def blank(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair each photo of SOURCE with a hole in it with the photo itself: a corpus for inpainting.

    Each row of the manifest tells its hole: left, top, hole_width, hole_height, in pixels.

    \b
    Example:
      img2img-data blank photos/ corpora/holes --size 128
      img2img-data blank photos/ corpora/holes --size 128 --where random --share 0.3 --fill noise
    """
    _run("blank", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("edges"), short_help="Pair the edges of each photo with it.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def edges(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair the edges of each photo of SOURCE (Canny) with the photo itself: from lines to photos.

    Thresholds are in the units of OpenCV's Canny, 4 for each grey level between neighbouring pixels; by
    default each photo's own gradients set them.

    \b
    Example:
      img2img-data edges photos/ corpora/edges --size 256
      img2img-data edges photos/ corpora/edges --low 100 --high 200 --lines white
    """
    _run("edges", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("unpaired"), short_help="Two domains without pairs.")
@click.argument("a", type=FOLDER)
@click.argument("b", type=FOLDER)
@click.argument("out", type=FOLDER)
def unpaired(a: Path, b: Path, out: Path, settings: dict[str, object]) -> None:
    """Take the photos of folders A and B as two domains, for CycleGAN and DualGAN.

    \b
    Example:
      img2img-data unpaired horses/ zebras/ corpora/h2z --size 256
    """
    _run("unpaired", (a, b, out), settings)


@group.command(cls=ModelCommand, models=_models("wiki"), short_help="Sort IMDB-WIKI faces by gender.")
@click.argument("wiki_crop", type=FOLDER)
@click.argument("out", type=FOLDER)
def wiki(wiki_crop: Path, out: Path, settings: dict[str, object]) -> None:
    """Sort the faces of an IMDB-WIKI folder into OUT/male and OUT/female by its wiki.mat.

    Left out, and listed with the reason: unknown gender, no face, too small, with --drop-gray
    black-and-white photos too.

    \b
    Example:
      img2img-data wiki wiki_crop/ faces/ --drop-gray
    """
    _run("wiki", (wiki_crop, out), settings)


@group.command(cls=ModelCommand, models=_models("select"), short_help="Copy the usable photos of a folder.")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def select(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Copy the photos of SOURCE that pass the filters to OUT, byte for byte; the others are listed.

    \b
    Example:
      img2img-data select photos/ chosen/ --drop-gray --min-side 64
      img2img-data select photos/ chosen/ --drop-duplicates
    """
    _run("select", (source, out), settings)


@group.command(short_help="Run the corpus steps of a recipe.")
@click.argument("recipe", type=FOLDER)
@click.option(
    "--jobs", type=click.IntRange(min=0), default=None, help="worker processes  [default: every core]"
)
@click.option(
    "--dry-run", is_flag=True, help="print the plan, the counts and what is there already; write nothing"
)
def build(recipe: Path, jobs: int | None, dry_run: bool) -> None:
    """Run the corpus steps of RECIPE, a YAML file, in order. Paths in it are relative to the current folder.

    The whole recipe is checked before the first step. What is complete already is not made again.

    \b
    Example:
      img2img-data build recipes/demo.yaml
      img2img-data build recipes/wiki_mixed.yaml --dry-run
    """
    from img2img_data.progress import progress_of
    from img2img_data.recipe import forecast_recipe, load_recipe

    extra: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    steps = load_recipe(recipe)
    if dry_run:
        sys.exit(forecast_recipe(steps, extra, _say))
    for step in steps:
        _say(step.line)
        began = time.monotonic()
        with progress_of(step.name) as show:
            report, code = step.run(extra)(show, _say)
        _print_report(report, step.paths[-1], bool(step.settings.get("dry_run")), time.monotonic() - began)
        if code:
            sys.exit(code)


@group.command(short_help="Print the JSON Schema of recipes, rows or settings.")
@click.argument("what", default="recipe", metavar="[recipe|corpus-row|degradation|COMMAND]")
def schema(what: str) -> None:
    """Print a JSON Schema (draft 2020-12): of recipes, of a corpus' rows, or of a command's settings.

    Editors check and complete recipes by it. With the YAML extension of VS Code, or any other that uses
    yaml-language-server, write the schema beside the recipe and name it in the recipe's first line:

    \b
      # yaml-language-server: $schema=recipe.schema.json

    \b
    Example:
      img2img-data schema > recipe.schema.json
      img2img-data schema blur
    """
    from img2img_data.schema import schema_of

    _say(json.dumps(schema_of(what), indent=2, ensure_ascii=False))


@group.command(short_help="Join the shards of a run.")
@click.argument("shards", type=FOLDER, nargs=-1, required=True)
@click.argument("out", type=FOLDER)
@click.option("--copy", is_flag=True, help="copy the files, even where they could be hard-linked")
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="end with exit code 1 when a larger share of the whole was refused",
)
@click.option("--dry-run", is_flag=True, help="check that the shards fit together, write nothing")
def merge(shards: tuple[Path, ...], out: Path, copy: bool, max_bad: float, dry_run: bool) -> None:
    """Join all SHARDS of a run in OUT: byte for byte what the run without --shard would have made.

    Each part of --shard i/n is a whole corpus of its own, in a folder of its own. The files in OUT are hard
    links to those of the shards where the file system can, else copies; the shards may be deleted afterwards.

    \b
    Example:
      img2img-data blur photos/ parts/1 --sigma 3 --shard 1/2     # on one machine
      img2img-data blur photos/ parts/2 --sigma 3 --shard 2/2     # on another
      img2img-data merge parts/1 parts/2 corpora/gaussian
    """
    from img2img_data.merge import exit_code_of, merge_shards, open_shards
    from img2img_data.progress import progress_of

    began = time.monotonic()
    opened = open_shards(shards, out)
    if dry_run:
        sources = opened[0].info["shard"]["sources"]
        click.echo(f"would join {len(opened)} shards with {sources:,} sources in '{printable(str(out))}'")
        return
    with progress_of("merge") as show:
        report = merge_shards(opened, out, show, copy)
    _print_report(report, out, False, time.monotonic() - began)
    sys.exit(exit_code_of(opened, report, max_bad))


@group.command(short_help="Check a corpus file by file.")
@click.argument("corpus", type=FOLDER)
@click.option("--quick", is_flag=True, help="compare names only, read no picture")
@click.option(
    "--max-shift",
    type=click.FloatRange(min=0, min_open=True),
    help="also measure each pair, list those whose halves lie further apart, pixels",
)
@click.option(
    "--leaks", is_flag=True, help="also list pictures of which a copy, exact or near, is in another split"
)
@click.option(
    "--distance",
    type=click.IntRange(0, 9),
    default=8,
    show_default=True,
    help="bits of 64 in which near copies may differ; 0: exact copies alone",
)
@click.option(
    "--jobs", type=click.IntRange(min=0), default=0, help="worker processes of --leaks  [default: every core]"
)
def verify(corpus: Path, quick: bool, max_shift: float | None, leaks: bool, distance: int, jobs: int) -> None:
    """Re-read CORPUS and list what is missing, extra, unreadable, changed, of another size, or in two splits.

    \b
    Example:
      img2img-data verify corpora/gaussian
      img2img-data verify corpora/cuhk --max-shift 3
      img2img-data verify corpora/gaussian --leaks
    """
    from img2img_data.progress import progress_of
    from img2img_data.verify import verify_corpus

    with progress_of("verify") as show:
        found = verify_corpus(corpus, show, quick)
    if max_shift is not None:
        from img2img_data.audit import misaligned_pairs

        with progress_of("measure") as show:
            found.problems += misaligned_pairs(corpus, max_shift, show)
    if leaks:
        from img2img_data.leaks import find_leaks

        with progress_of("leaks") as show:
            leaked = find_leaks(corpus, distance, jobs, show)
        found.problems += [("leak", *one) for one in leaked.found]
        found.notes += leaked.notes
    for line in found.lines():
        click.echo(line)
    sys.exit(1 if found.problems else 0)


@group.command(short_help="Write a page with the pairs of a corpus.")
@click.argument("corpus", type=FOLDER)
@click.option("--out", type=FOLDER, default=None, help="the page  [default: CORPUS/show.html]")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="pairs on the page")
@click.option("--split", default="", metavar="NAME", help="pairs of this split alone  [default: of all]")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="another sample of a large corpus",
)
def show(corpus: Path, out: Path | None, limit: int, split: str, seed: int) -> None:
    """Write a self-contained HTML page: the most spoiled pairs and typical ones, a slider on each.

    Filters and a search box choose among the pairs by split, kind, tag and drawn parameter; histograms show
    what was drawn and measured over the whole corpus. Of a corpus of more than 1,000 pairs a sample is read.

    \b
    Example:
      img2img-data show corpora/gaussian
      img2img-data show corpora/gaussian --split test --limit 50 --out test.html
    """
    from img2img_data.progress import progress_of
    from img2img_data.show import write_show

    with progress_of("show") as progress:
        page = write_show(corpus, out, limit, split, seed, progress)
    click.echo(printable(str(page)))


@group.command(short_help="Write the bundled demo photos.")
@click.argument("out", type=FOLDER)
@click.option(
    "--size", type=click.IntRange(min=16), default=64, show_default=True, help="side of a crop, pixels"
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=128, show_default=True, help="crops of one photo"
)
def sample(out: Path, size: int, limit: int) -> None:
    """Write crops of the photos that scikit-image brings, one folder for each photo. Needs no network.

    \b
    Example:
      img2img-data sample demo/photos
    """
    from img2img_data.sample import write_sample

    for name, count in write_sample(out, size, limit).items():
        click.echo(f"{name}: {count} crops")


@group.command(
    "import", cls=ModelCommand, models=_models("import"), short_help="Make a corpus of another tool's folder."
)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def import_folder(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Make a corpus of SOURCE, a folder in the layout of another tool; pairs, splits and names stay.

    \b
      pix2pix      train/1.jpg, input left and target right
      cyclegan     trainA/ and trainB/, no pairs
      folders      input/ and target/, within splits or around them
      basicsr      meta_info.txt beside gt/ and lq/
      hf           metadata.jsonl or .csv with two *_file_name columns
      webdataset   .tar archives with 1.input.png, 1.target.png

    Pictures are kept byte for byte where they are clean. The halves of a pair must have one size.

    \b
    Example:
      img2img-data import facades/ corpora/facades
      img2img-data import DIV2K/ corpora/div2k --format basicsr
    """
    _run("import", (source, out), settings)


@group.command(cls=ModelCommand, models=_models("export"), short_help="Write a corpus for another tool.")
@click.argument("corpus", type=FOLDER)
@click.argument("out", type=FOLDER)
def export(corpus: Path, out: Path, settings: dict[str, object]) -> None:
    """Write CORPUS at OUT in the layout of another tool; files are copied, or re-encoded without loss.

    \b
      pix2pix   train/1.png, input left and target right
      cyclegan  trainA/ and trainB/
      basicsr   train/lq/, train/gt/ and train/meta_info.txt
      hf        datasets.load_dataset("imagefolder"): Image columns input and target
      lmdb      train/lq.lmdb and train/gt.lmdb, as BasicSR makes them

    \b
    Example:
      img2img-data export corpora/gaussian out/ --format basicsr
      img2img-data export corpora/facades out/ --format hf --direction BtoA
    """
    _run("export", (corpus, out), settings)


@group.command(cls=ModelCommand, models=_models("pack"), short_help="Write a corpus as WebDataset shards.")
@click.argument("corpus", type=FOLDER)
@click.argument("shards", type=FOLDER)
def pack(corpus: Path, shards: Path, settings: dict[str, object]) -> None:
    """Write CORPUS as tar archives for webdataset, with an index; equal corpora give equal bytes.

    \b
    Example:
      img2img-data pack corpora/gaussian shards/gaussian --per-shard 1000
    """
    _run("pack", (corpus, shards), settings)


@group.command(cls=ModelCommand, models=_models("unpack"), short_help="Get a corpus back from its shards.")
@click.argument("shards", type=FOLDER)
@click.argument("out", type=FOLDER)
def unpack(shards: Path, out: Path, settings: dict[str, object]) -> None:
    """Write the corpus that was packed at SHARDS to OUT, byte for byte.

    Everything is checked before anything is written: a shard that is damaged, or made to do harm, is refused.

    \b
    Example:
      img2img-data unpack shards/gaussian corpora/gaussian
    """
    _run("unpack", (shards, out), settings)


def _ended_by(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _catch_signals() -> None:
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _ended_by)


def _stop_workers() -> None:
    if "img2img_data.workers" in sys.modules:
        from img2img_data.workers import stop_workers

        stop_workers()


def main() -> None:
    """Run the command line; every end has one line and an exit code."""
    _catch_signals()
    code: object = 0
    try:
        code = group(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Img2ImgError as error:
        click.echo(f"{click.style('error', fg='red')}: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except SystemExit as end:
        code = end.code
    except Exception as error:
        if os.environ.get("IMG2IMG_TRACEBACK"):
            raise
        about = f"{type(error).__name__}: {printable(str(error))[:300]}"
        click.echo(f"error: a fault of this program, {about}; IMG2IMG_TRACEBACK=1 shows where", err=True)
        code = 1
    if code in {129, 130, 143}:
        click.echo("interrupted; the same command goes on from here", err=True)
    _stop_workers()
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
