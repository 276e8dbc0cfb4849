"""``img2img-data``: parse, call, print."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from img2img_data.cli.build_commands import COMMANDS, FOLDER, print_report, say
from img2img_data.core.errors import Img2ImgError, printable
from img2img_data.core.settings_model import print_usage_error


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="img2img", prog_name="img2img-data")
def group() -> None:
    """Turn folders of photos into paired corpora: degraded | clean, photo | sketch, L | ab.

    \b
    Example:
      img2img-data blur photos/ corpora/gaussian --kind gaussian --sigma 3 --size 64
      img2img-data show corpora/gaussian

    Rejected images never stop a run: each is a row in rejected.jsonl with its reason. A run that was
    interrupted goes on when the same command is given again.

    \b
    Exit codes: 0 done; 1 could not finish, too many images rejected, or files without their other half;
    2 wrong option, recipe or folder; 130 / 143 ended by a signal.
    """


@group.command(short_help="List the degradations, or the settings of one; show what they do.")
@click.argument("name", default="")
@click.option("--on", "photo", type=FOLDER, default=None, help="a photo to show them on")
@click.option(
    "--out", type=FOLDER, default=Path("degradations.png"), show_default=True, help="the sheet"
)
@click.option(
    "--side",
    type=click.IntRange(16, 1024),
    default=160,
    show_default=True,
    help="pixels cut from its middle",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="seed of what is drawn"
)
def degradations(name: str, photo: Path | None, out: Path, side: int, seed: int) -> None:
    """List all degradations; with NAME, its settings: units, ranges, defaults.

    A strength is a number, or a range of which each image draws its own: [1, 5] in a recipe, 1..5 on the
    command line; [1, 5, log] and '1..5 log' are uniform in the logarithm.

    With --on PHOTO they are shown instead: a sheet with the photo degraded by each, or by NAME nine times
    with what was drawn.

    \b
    Example:
      img2img-data degradations
      img2img-data degradations motion
      img2img-data degradations --on cat.jpg --out sheet.png
    """
    if photo is not None:
        from img2img_data.inspect.contact_sheet import write_contact_sheet

        for line in write_contact_sheet(photo, out, name, side, seed):
            say(line)
        say(f"sheet: {printable(str(out))}")
        return
    from img2img_data.degradations.spec import describe_degradations

    for line in describe_degradations(name):
        say(line)


@group.command(short_help="Make the input of one pair again, byte for byte.")
@click.argument("corpus", type=FOLDER)
@click.argument("key")
@click.option(
    "--source", type=FOLDER, default=None, help="folder of photos that the corpus was made from"
)
@click.option("--out", type=FOLDER, default=None, help="file to write what was made to")
def replay(corpus: Path, key: str, source: Path | None, out: Path | None) -> None:
    """Degrade one photo again by what CORPUS noted under KEY, and compare with what the corpus holds.

    Without --source the clean image in the corpus serves, if it was kept without loss; of 'lab' there is
    none. Ends with 1 when a single byte differs.

    \b
    Example:
      img2img-data replay corpora/mixed 000123 --source photos/
      img2img-data replay corpora/mixed 000123 --out again.png
    """
    from img2img_data.build.replay import replay_pair

    result = replay_pair(corpus, key, source, out)
    for line in result.lines:
        say(line)
    sys.exit(0 if result.equal else 1)


@group.command(short_help="Run the corpus steps of a recipe.")
@click.argument("recipe", type=FOLDER)
@click.option("--smoke", is_flag=True, help="the small size, of the recipe's section 'smoke'")
@click.option(
    "--jobs",
    type=click.IntRange(0, 1024),
    default=None,
    help="worker processes, whatever the recipe says; 0: one for each core",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="print the plan, the counts and what is there already; write nothing",
)
def build(recipe: Path, smoke: bool, jobs: int | None, dry_run: bool) -> None:
    """Run the corpus steps of RECIPE, a YAML file, in order. Paths in it are relative to the current folder.

    The whole recipe is checked before the first step. What is complete already is not made again.

    \b
    Example:
      img2img-data build recipes/demo.yaml
      img2img-data build recipes/wiki_mixed.yaml --dry-run
      img2img-data build recipes/facades_pix2pix.yaml --smoke
    """
    from img2img_data.cli.recipe import forecast_recipe, load_recipe
    from img2img_data.core.progress import progress_of

    extra: dict[str, Any] = {} if jobs is None else {"jobs": jobs}
    steps = load_recipe(recipe, smoke)
    if dry_run:
        sys.exit(forecast_recipe(steps, extra, say))
    for step in steps:
        say(step.line)
        began = time.monotonic()
        with progress_of(step.name) as show:
            report, code = step.run(extra)(show, say)
        print_report(
            report, step.paths[-1], bool(step.settings.get("dry_run")), time.monotonic() - began
        )
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
    from img2img_data.cli.json_schema import schema_of

    say(json.dumps(schema_of(what), indent=2, ensure_ascii=False))


@group.command(short_help="Join the shards of a run.")
@click.argument("shards", type=FOLDER, nargs=-1, required=True)
@click.argument("out", type=FOLDER)
@click.option("--copy", is_flag=True, help="copy the files, even where they could be hard-linked")
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="end with exit code 1 when a larger share of the whole was rejected",
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
    from img2img_data.build.merge import exit_code_of, merge_shards, open_shards
    from img2img_data.core.progress import progress_of

    began = time.monotonic()
    opened = open_shards(shards, out)
    if dry_run:
        sources = opened[0].info["shard"]["sources"]
        click.echo(
            f"would join {len(opened)} shards with {sources:,} sources in '{printable(str(out))}'"
        )
        return
    with progress_of("merge") as show:
        report = merge_shards(opened, out, show, copy)
    print_report(report, out, False, time.monotonic() - began)
    if not copy and not report.complete:
        click.echo(
            "only files that changed after their shard was made were read; 'verify' reads all of them"
        )
    sys.exit(exit_code_of(opened, report, max_bad))


@group.command(short_help="Check a corpus file by file.")
@click.argument("corpus", type=FOLDER)
@click.option("--quick", is_flag=True, help="compare names only, read no image")
@click.option(
    "--max-shift",
    type=click.FloatRange(min=0, min_open=True),
    help="also measure each pair, list those whose halves lie further apart, pixels",
)
@click.option(
    "--leaks",
    is_flag=True,
    help="also list images of which a copy, exact or near, is in another split",
)
@click.option(
    "--duplicate-distance",
    "--distance",
    "distance",
    type=click.IntRange(0, 9),
    default=8,
    show_default=True,
    help="bits of 64 in which near copies may differ; 0: exact copies alone",
)
@click.option(
    "--jobs",
    type=click.IntRange(0, 1024),
    default=0,
    help="worker processes of --leaks; 0: one for each core",
)
def verify(
    corpus: Path, quick: bool, max_shift: float | None, leaks: bool, distance: int, jobs: int
) -> None:
    """Re-read CORPUS and list what is missing, extra, unreadable, changed, of another size, or in two splits.

    \b
    Example:
      img2img-data verify corpora/gaussian
      img2img-data verify corpora/cuhk --max-shift 3
      img2img-data verify corpora/gaussian --leaks
    """
    from img2img_data.core.progress import progress_of
    from img2img_data.inspect.verify import verify_corpus

    with progress_of("verify") as show:
        found = verify_corpus(corpus, show, quick)
    lost = any(
        problem == "manifest" and not (corpus / name).is_file()
        for problem, name, _ in found.problems
    )
    if lost and (leaks or max_shift is not None):
        found.notes.append("--max-shift and --leaks were left out, as they need every manifest")
        leaks, max_shift = False, None
    if max_shift is not None:
        from img2img_data.inspect.verify import misaligned_pairs

        with progress_of("measure") as show:
            found.problems += misaligned_pairs(corpus, max_shift, show)
    if leaks:
        from img2img_data.inspect.leakage import find_leaks

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
@click.option(
    "--limit", type=click.IntRange(min=1), default=200, show_default=True, help="pairs on the page"
)
@click.option(
    "--split", default="", metavar="NAME", help="pairs of this split alone  [default: of all]"
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="another sample of a large corpus",
)
def show(corpus: Path, out: Path | None, limit: int, split: str, seed: int) -> None:
    """Write a self-contained HTML page: the most degraded pairs and typical ones, a slider on each.

    Filters and a search box choose among the pairs by split, kind, tag and drawn parameter; histograms show
    what was drawn and measured over the whole corpus. Of a corpus of more than 1,000 pairs a sample is read.

    \b
    Example:
      img2img-data show corpora/gaussian
      img2img-data show corpora/gaussian --split test --limit 50 --out test.html
    """
    from img2img_data.core.progress import progress_of
    from img2img_data.inspect.corpus_page import write_corpus_page

    with progress_of("show") as progress:
        page = write_corpus_page(corpus, out, limit, split, seed, progress)
    click.echo(printable(str(page)))


@group.command(short_help="Write the bundled demo photos.")
@click.argument("out", type=FOLDER)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=64,
    show_default=True,
    help="side of a crop, pixels",
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
    from img2img_data.inspect.demo_photos import write_demo_photos

    for name, count in write_demo_photos(out, size, limit).items():
        click.echo(f"{name}: {count} crops")


for _command in COMMANDS:
    group.add_command(_command)


def _ended_by(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _catch_signals() -> None:
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _ended_by)


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """Report a thread's failure, but not that of loky's: it stumbles over the calls it was told to drop."""
    flags = getattr(args.thread, "executor_flags", None)
    if not (flags and flags.shutdown):
        threading.__excepthook__(args)


def _stop_workers() -> None:
    if "img2img_data.runner.workers" in sys.modules:
        from img2img_data.runner.workers import stop_workers

        stop_workers()


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG and error.filename:
        return f"'{printable(os.fsdecode(error.filename))}': {error.strerror}; give a shorter name"
    about = f"{type(error).__name__}: {printable(str(error))[:300]}"
    return f"a fault of this program, {about}; IMG2IMG_TRACEBACK=1 shows where"


def main() -> None:
    """Run the command line; every end has one line and an exit code."""
    _catch_signals()
    threading.excepthook = _thread_failed
    code: object = 0
    try:
        code = group(standalone_mode=False)
    except click.ClickException as error:
        print_usage_error(error)
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
        click.echo(f"error: {_unforeseen(error)}", err=True)
        code = 1
    if code in {129, 130, 143}:
        click.echo("interrupted; the same command goes on from here", err=True)
    _stop_workers()
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
