"""Commands that use a trained model: scores, images, web page, files for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from img2img_data.core.command_line import ModelCommand
from img2img_data.core.errors import UsageError, printable
from img2img_data.core.progress import Display
from img2img_train.cli.options import (
    PATH,
    ManyAfterOn,
    as_switch,
    device_option,
    direction_option,
    test_mode_options,
)
from img2img_train.distributed.memory import catch_out_of_memory
from img2img_train.inference.settings import TranslateSettings

if TYPE_CHECKING:
    from img2img_train.inference.translate import Translated
    from img2img_train.networks.layers import TestNorm
    from img2img_train.runs.model import LoadedModel

LESS_MEMORY: Final = (
    "give a smaller --tile, with --overlap half of it at most, or --batch, or another --device"
)


@click.command(cls=ManyAfterOn)
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
@click.option("--out", type=PATH, default=Path("evaluation"), help="folder of the results")
@click.option("--split", default="test", help="split of the corpora")
@device_option
@click.option("--batch", type=click.IntRange(1), default=64, help="images per batch")
@click.option(
    "--fail-under",
    "limits",
    multiple=True,
    metavar="METRIC=NUMBER",
    help="exit with 1 if a mean is worse, as in psnr=24 or mae=10; may be repeated",
)
@click.option(
    "--by",
    multiple=True,
    metavar="TAG",
    help="score by this tag; may be repeated  [default: all tags with few values]",
)
@click.option(
    "--lpips",
    type=(PATH, PATH),
    metavar="NETWORK HEADS",
    help="LPIPS with these weights: AlexNet or VGG-16 of torchvision, linear heads of LPIPS 0.1",
)
@click.option(
    "--fid", type=PATH, metavar="WEIGHTS", help="FID with the Inception weights of pytorch-fid"
)
@test_mode_options
def evaluate(
    runs: tuple[Path, ...],
    corpora: tuple[Path, ...],
    out: Path,
    split: str,
    device: str,
    batch: int,
    limits: tuple[str, ...],
    by: tuple[str, ...],
    lpips: tuple[Path, Path] | None,
    fid: Path | None,
    dropout: str | None,
    norm: TestNorm | None,
) -> None:
    """Score RUNS (run folders or checkpoints) on corpora, beside the input baseline.

    \b
    Example:
      img2img-train evaluate runs/l2 runs/unet --on corpora/gaussian corpora/resize --out scores
      img2img-train evaluate runs/l2 --on corpora/gaussian --by gender --fail-under psnr=24

    PSNR, SSIM, MS-SSIM, MAE and the overlap of colors in Lab: per image, per tag, and as means with
    95 % intervals. LPIPS and FID need weights that you supply; nothing is downloaded, and no code
    in them is run. NETWORK is alexnet-owt-7be5be79.pth or vgg16-397923af.pth, HEADS alex.pth or
    vgg.pth of the package lpips (a saved lpips.LPIPS may be given as both); WEIGHTS is
    pt_inception-2015-12-05-6726825d.pth.
    """
    from img2img_train.evaluation.evaluate import evaluate_matrix, parse_limits, shortfalls
    from img2img_train.evaluation.results import write_matrix
    from img2img_train.metrics.perceptual import load_perceptual_networks
    from img2img_train.runs.model import choose_device

    where, hint = choose_device(device).type, "give a smaller --batch or another --device"
    supplied = [name for name, weights in (("lpips", lpips), ("fid", fid)) if weights]
    parsed = parse_limits(limits, supplied)
    perceptual = load_perceptual_networks(lpips, fid, device)
    with Display() as display, catch_out_of_memory("scoring", None, where, lambda: hint):
        progress, keep_dropout = display.report("scoring"), as_switch(dropout)
        matrix = evaluate_matrix(
            runs, corpora, split, device, batch, progress, keep_dropout, norm, by, perceptual
        )
    for e in matrix.evaluations:
        model, baseline, gain = (part["psnr"] for part in (e.scores, e.input_scores, e.gain))
        name = f"{printable(e.run)} on {printable(e.corpus)}, {e.images:,} images"
        click.echo(f"{name}: PSNR {model:.2f} dB, input {baseline:.2f}, gain {gain:+.2f}")
    for note in dict.fromkeys(note for e in matrix.evaluations for note in e.notes):
        click.echo(f"note: {note}")
    click.echo(f"matrix: {printable(str(write_matrix(matrix, out)))}")
    # After the results are written: a failed check must not lose them.
    short = shortfalls(matrix, parsed)
    for line in short:
        click.echo(line, err=True)
    sys.exit(1 if short else 0)


@click.command(cls=ModelCommand, models=lambda: (TranslateSettings,))
@click.argument("model", type=PATH)
@click.argument("images", type=PATH)
@click.argument("out", type=PATH)
@device_option
@direction_option
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.1,
    help="exit with 1 if a larger share is rejected",
)
@click.option("--dry-run", is_flag=True, help="count the files, write nothing")
@test_mode_options
def translate(
    model: Path,
    images: Path,
    out: Path,
    device: str,
    direction: str | None,
    max_bad: float,
    dry_run: bool,
    dropout: str | None,
    norm: TestNorm | None,
    settings: dict[str, object],
) -> None:
    """Apply MODEL (a run or a checkpoint) to IMAGES and write the results into the folder OUT.

    \b
    Example:
      img2img-train translate runs/l2 photos/ restored/
      img2img-train translate runs/l2 'photos/**/*.jpg' restored/ --tile 1024
      img2img-train translate runs/l2 blurred.jpg restored.png
      img2img-train translate runs/l2 clip.mov restored.mp4
      img2img-train translate runs/horse2zebra zebras/ horses/ --direction BtoA

    IMAGES is a folder, a file, a pattern in quotes, or - for one image on standard input; OUT may
    also be the name of one image or video, or - for standard output. Images may have any size: they
    are processed in blended tiles. Transparency, 16 bits, gray and ICC profiles are kept. The same
    command continues an interrupted one.

    Videos (mp4, mov, mkv, webm, avi) are processed frame by frame at 8 bits; size and frame rate
    are kept, and the sound if the new file can hold it.
    """
    from img2img_data.core.settings_model import build_model
    from img2img_train.inference.inputs import is_one_file, list_images
    from img2img_train.inference.translate import translate as restore
    from img2img_train.runs.model import load_generator

    chosen = build_model(TranslateSettings, settings)
    single = is_one_file(images, out)
    # Counted before the model is loaded: a wrong path fails at once.
    total = 1 if single else len(list_images(images, out)[1])
    if dry_run:
        name = printable(str(out))
        click.echo(f"would restore {total:,} files into '{name}'; nothing was written")
        return
    loaded = load_generator(model, device, direction, as_switch(dropout), norm)
    less = catch_out_of_memory("model", model, loaded.device.type, lambda: LESS_MEMORY)
    if single:
        with less:
            _translate_one(loaded, images, out, chosen, settings)
        return
    with Display() as display, less:
        done = restore(loaded, images, out, display.report("restoring", "files", "frames"), chosen)
    click.echo(_describe_translated(done, total))
    _print_notes(done.notes)
    rows = printable(str(out / "rejected.jsonl"))
    for reason, count in done.rejected.most_common():
        click.echo(f"  rejected {count:,}: {reason} (rows in {rows})")
    if done.rejected.total() > max_bad * total:
        sys.exit(1)


def _describe_translated(done: Translated, total: int) -> str:
    kind, out = "files" if done.videos else "images", printable(str(done.out))
    reused = f", {done.reused:,} of them already there" if done.reused else ""
    videos = f"; {done.videos:,} videos ({done.frames:,} frames now)" if done.videos else ""
    return f"restored {done.restored:,} of {total:,} {kind} into '{out}'{reused}{videos}"


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _translate_one(
    model: LoadedModel,
    source: Path,
    out: Path,
    settings: TranslateSettings,
    options: Mapping[str, object],
) -> None:
    """Translate one file; the suffix of the output sets the format, unless an option does."""
    from img2img_data.core.files import write_atomically
    from img2img_train.inference.inputs import IMAGE_FORMATS, STDIO
    from img2img_train.inference.translate import (
        notes_on_tiles,
        translate_file,
        translate_video_file,
    )
    from img2img_train.inference.video import VIDEO_FORMATS

    suffix = out.suffix.lower()
    if suffix[1:] in VIDEO_FORMATS:
        chosen = settings.model_copy(update={"video_format": suffix[1:]})
        with Display() as display:
            seen = translate_video_file(
                model, source, out, chosen, display.report("restoring", "files", "frames")
            )
        click.echo(f"restored {seen.frames:,} frames into '{printable(str(out))}'")
        _print_notes([*seen.notes, *notes_on_tiles(settings, model, max(seen.width, seen.height))])
        return
    if "format" not in options and suffix in IMAGE_FORMATS:
        settings = settings.model_copy(update={"format": IMAGE_FORMATS[suffix]})
    data = sys.stdin.buffer.read() if str(source) == STDIO else source.read_bytes()
    result = translate_file(model, data, str(source), settings)
    _print_notes(notes_on_tiles(settings, model, result.longest_side))
    if str(out) == STDIO:
        sys.stdout.buffer.write(result.image)
        return
    write_atomically(out, result.image)


@click.command
@click.argument("model", type=PATH)
@click.argument("out", type=PATH)
@click.option("--opset", type=click.IntRange(18, 25), default=18, help="ONNX operator set")
@click.option("--runtime", type=PATH, help="folder of the npm package onnxruntime-web, for .html")
@direction_option
def export(model: Path, out: Path, opset: int, runtime: Path | None, direction: str | None) -> None:
    """Write the generator of MODEL (a run or a checkpoint) to OUT, for use without this program.

    \b
    Example:
      img2img-train export runs/l2 deblur.onnx
      npm install onnxruntime-web && img2img-train export runs/l2 deblur.html

    .onnx takes and returns uint8 RGB images of any size. .html is a page that runs the model in a
    browser, on an image that is dropped or drawn, for models below 15 million parameters. Both are
    compared with torch. .safetensors holds the generator alone and is a model for all commands
    here; .pth holds it for the PyTorch CycleGAN/pix2pix repository (latest_net_G.pth).
    """
    from img2img_train.inference.onnx_export import export_onnx, export_page, export_weights
    from img2img_train.interop.junyanz_weights import export_pth
    from img2img_train.runs.model import load_generator

    suffix = out.suffix.lower()
    if suffix not in {".onnx", ".html", ".safetensors", ".pth"}:
        hint = "give a name ending in .onnx, .html, .safetensors or .pth"
        raise UsageError("file", out, f"ends in '{out.suffix}'", hint)
    out.parent.mkdir(parents=True, exist_ok=True)
    # On the CPU, so that the exported file does not depend on the device.
    loaded, about = load_generator(model, "cpu", direction), "the generator alone"
    if suffix == ".safetensors":
        export_weights(loaded, out)
    elif suffix == ".pth":
        export_pth(loaded, out)
    else:
        parity = (
            export_page(loaded, out, runtime, opset)
            if suffix == ".html"
            else export_onnx(loaded, out, opset)
        )
        about = (
            f"differs from torch by {parity.worst} levels at most, on {parity.images} images "
            f"up to {parity.side} px"
        )
        if loaded.config.test_dropout:
            about += "; dropout, which the model keeps on at test, is off"
    click.echo(f"'{printable(str(out))}': {out.stat().st_size / 1e6:.1f} MB, {about}")


@click.command
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, help="port on 127.0.0.1; 0: a free one"
)
@device_option
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, 1000, min_open=True),
    default=50,
    help="largest image, megapixels",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(0, 256, min_open=True),
    default=100,
    help="largest upload, megabytes",
)
@click.option("--open/--no-open", "show", default=False, help="open the page in a browser")
def serve(
    runs: tuple[Path, ...],
    port: int,
    device: str,
    max_megapixels: float,
    max_megabytes: float,
    show: bool,
) -> None:
    """Serve a web page to try RUNS (run folders or checkpoints) on images, on this machine only.

    \b
    Example:
      img2img-train serve runs/l2 runs/unet
      img2img-train serve runs/horse2zebra --port 0 --open
      ssh -L 7860:127.0.0.1:7860 HOST       and open http://127.0.0.1:7860, for a server on HOST

    One tab restores an image; one degrades a clean image first, with any degradation, and scores
    the result beside the input baseline; one compares with a target. The page makes no requests to
    other machines, other machines cannot reach it, and uploads are deleted when the server stops.
    """
    from img2img_train.serve.models import Limits
    from img2img_train.serve.server import serve as serve_page

    limits = Limits(int(max_megapixels * 1e6), int(max_megabytes * 1e6))
    serve_page(runs, port, device, limits, show, click.echo)


@click.command
@click.argument("weights", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--direction",
    type=click.Choice(["AtoB", "BtoA"]),
    default="AtoB",
    help="translation that the weights are of",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    help="dropout rate  [default: as published]",
)
def adopt(weights: Path, out: Path, direction: str, dropout: float | None) -> None:
    """Import WEIGHTS, a latest_net_G.pth of the PyTorch CycleGAN/pix2pix repository, as the model
    OUT.

    \b
    Example:
      img2img-train adopt checkpoints/horse2zebra/latest_net_G.pth horse2zebra.safetensors
      img2img-train translate horse2zebra.safetensors horses/ zebras/

    The network is inferred from the names and shapes of the tensors; no code in the file is run.
    """
    from img2img_train.interop.junyanz_weights import import_weights

    spec = import_weights(weights, out, direction, dropout)
    channels = f"{spec.inputs} to {spec.outputs} channels"
    about = f"{spec.name} of width {spec.width}, {spec.norm} norm, {channels}"
    click.echo(f"'{printable(str(out))}': {about}")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="TRAIN_OPTIONS...")
def compat(options: tuple[str, ...]) -> None:
    """Print the native command for TRAIN_OPTIONS of the train.py of the PyTorch CycleGAN/pix2pix
    repository.

    \b
    Example:
      img2img-train compat --dataroot ./datasets/facades --name facades --model pix2pix
    """
    import shlex

    from img2img_train.interop.junyanz_options import native_command

    command, notes = native_command(options)
    for note in notes:
        click.echo(f"# {note}", err=True)
    click.echo(shlex.join(command))


@click.command
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe's section 'run'.

    \b
    Example:
      img2img-train schema > run.schema.json
    """
    from img2img_train.config import run_schema

    click.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))


@click.command
@click.argument("run", type=PATH)
def report(run: Path) -> None:
    """Write RUN/report.html from what the run has so far.

    \b
    Example:
      img2img-train report runs/l2
    """
    from img2img_train.report.page import write_run_report

    click.echo(f"report: {printable(str(write_run_report(run)))}")


COMMANDS: Final = (evaluate, translate, export, serve, adopt, compat, schema, report)
