"""The commands that fill a folder: each names what it takes, and does one step of ``steps``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from img2img_data.core.errors import printable
from img2img_data.core.settings_model import ModelCommand

if TYPE_CHECKING:
    from pydantic import BaseModel

    from img2img_data.runner.build_folder import Report

FOLDER: Final = click.Path(path_type=Path)


def _models(step: str) -> Callable[[], Sequence[type[BaseModel]]]:
    def load() -> Sequence[type[BaseModel]]:
        from img2img_data.cli.steps import STEPS

        return STEPS[step].models

    return load


def _run(step: str, paths: Sequence[Path], settings: dict[str, object]) -> None:
    from img2img_data.cli.steps import run_step
    from img2img_data.core.progress import progress_of

    began = time.monotonic()
    with progress_of(step) as show:
        report, code = run_step(step, paths, settings, show, say)
    print_report(report, paths[-1], bool(settings.get("dry_run")), time.monotonic() - began)
    sys.exit(code)


def say(line: str) -> None:
    """Print a line."""
    click.echo(line)


def print_report(report: Report, out: Path, dry: bool, seconds: float) -> None:
    """Print the summary of a step; of a dry run nothing."""
    if dry:
        return
    for line in report.lines():
        click.echo(line)
    if report.complete:
        click.echo(f"'{printable(str(out))}' was complete already")
    else:
        rate = f"{report.total / max(seconds, 1e-3):,.0f} images/s"
        click.echo(
            f"'{printable(str(out))}' is complete: {report.total:,} sources in {seconds:.1f} s, {rate}"
        )


@click.command(cls=ModelCommand, models=_models("resize"), short_help="Bring photos to one size.")
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


@click.command(
    cls=ModelCommand, models=_models("blur"), short_help="Pair each photo with a blurred copy."
)
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


@click.command(
    cls=ModelCommand, models=_models("degrade"), short_help="Pair each photo with a degraded copy."
)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--recipe", type=FOLDER, default=None, help="YAML file with a tree of degradations")
def degrade(source: Path, out: Path, recipe: Path | None, settings: dict[str, object]) -> None:
    """Pair each photo of SOURCE with a copy that a tree of degradations degraded: blur, noise, compression...

    A recipe holds the tree under the key 'degradation'; a single kind needs no recipe.

    \b
    Example:
      img2img-data degrade photos/ corpora/mixed --recipe recipes/mixed.yaml --size 256
      img2img-data degrade photos/ corpora/noisy --kind noise --set sigma=5..25
      img2img-data degradations              # what there is
      img2img-data degradations noise        # what noise takes
    """
    if recipe is not None:
        from img2img_data.cli.recipe import load_degradation

        settings["degradation"] = load_degradation(recipe)
    _run("degrade", (source, out), settings)


@click.command(
    cls=ModelCommand, models=_models("combine"), short_help="Pair two folders: photo | sketch."
)
@click.argument("inputs", type=FOLDER)
@click.argument("targets", type=FOLDER)
@click.argument("out", type=FOLDER)
def combine(inputs: Path, targets: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair the images of INPUTS with those of TARGETS by their names, never by their order.

    \b
    Example:
      img2img-data combine photos/ sketches/ corpora/cuhk --match cuhk --dry-run
      img2img-data combine photos/ sketches/ corpora/cuhk --match template \\
        --template-a '{id}.jpg' --template-b '{id}-sz1.jpg'
      img2img-data combine photos/ labels/ corpora/labels --max-shift 3
    """
    _run("combine", (inputs, targets, out), settings)


@click.command(
    cls=ModelCommand, models=_models("lab"), short_help="Pair L with Lab, for colorization."
)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def lab(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair the L plane of each photo with its Lab image: a corpus for colorization.

    \b
    Example:
      img2img-data lab photos/ corpora/color --size 256
    """
    _run("lab", (source, out), settings)


@click.command(
    cls=ModelCommand, models=_models("grayscale"), short_help="Pair each photo's gray with it."
)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def grayscale(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair each photo of SOURCE without its colors with the photo itself: colorization in RGB.

    Photos that are black-and-white already teach nothing here: 'select --drop-gray' leaves them out.

    \b
    Example:
      img2img-data grayscale photos/ corpora/gray --size 256
    """
    _run("grayscale", (source, out), settings)


@click.command(
    cls=ModelCommand, models=_models("blank"), short_help="Cut a hole: a corpus for inpainting."
)
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


@click.command(
    cls=ModelCommand, models=_models("edges"), short_help="Pair the edges of each photo with it."
)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
def edges(source: Path, out: Path, settings: dict[str, object]) -> None:
    """Pair the edges of each photo of SOURCE (Canny) with the photo itself: from lines to photos.

    Thresholds are in the units of OpenCV's Canny, 4 for each gray level between neighbouring pixels; by
    default each photo's own gradients set them.

    \b
    Example:
      img2img-data edges photos/ corpora/edges --size 256
      img2img-data edges photos/ corpora/edges --low 100 --high 200 --lines white
    """
    _run("edges", (source, out), settings)


@click.command(
    cls=ModelCommand, models=_models("unpaired"), short_help="Two domains without pairs."
)
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


@click.command(
    cls=ModelCommand, models=_models("wiki"), short_help="Sort IMDB-WIKI faces by gender."
)
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


@click.command(
    cls=ModelCommand, models=_models("select"), short_help="Copy the usable photos of a folder."
)
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


@click.command(
    "import",
    cls=ModelCommand,
    models=_models("import"),
    short_help="Make a corpus of another tool's folder.",
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

    Images are kept byte for byte where they are clean. The halves of a pair must have one size.

    \b
    Example:
      img2img-data import facades/ corpora/facades
      img2img-data import DIV2K/ corpora/div2k --format basicsr
    """
    _run("import", (source, out), settings)


@click.command(
    cls=ModelCommand, models=_models("export"), short_help="Write a corpus for another tool."
)
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


@click.command(
    cls=ModelCommand, models=_models("pack"), short_help="Write a corpus as WebDataset shards."
)
@click.argument("corpus", type=FOLDER)
@click.argument("shards", type=FOLDER)
def pack(corpus: Path, shards: Path, settings: dict[str, object]) -> None:
    """Write CORPUS as tar archives for webdataset, with an index; equal corpora give equal bytes.

    \b
    Example:
      img2img-data pack corpora/gaussian shards/gaussian --per-shard 1000
    """
    _run("pack", (corpus, shards), settings)


@click.command(
    cls=ModelCommand, models=_models("unpack"), short_help="Get a corpus back from its shards."
)
@click.argument("shards", type=FOLDER)
@click.argument("out", type=FOLDER)
def unpack(shards: Path, out: Path, settings: dict[str, object]) -> None:
    """Write the corpus that was packed at SHARDS to OUT, byte for byte.

    Everything is checked before anything is written: a shard that is damaged, or made to do harm, is rejected.

    \b
    Example:
      img2img-data unpack shards/gaussian corpora/gaussian
    """
    _run("unpack", (shards, out), settings)


COMMANDS: Final = (
    resize,
    blur,
    degrade,
    combine,
    lab,
    grayscale,
    blank,
    edges,
    unpaired,
    wiki,
    select,
    import_folder,
    export,
    pack,
    unpack,
)
