"""The commands that use what was trained: scores, images, files for elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.progress import Display
from img2img_data.core.settings_model import ModelCommand
from img2img_train.cli.options import DEVICE, PATH, ManyAfterOn, at_test, switch
from img2img_train.distributed.memory import catch_out_of_memory

if TYPE_CHECKING:
    from pydantic import BaseModel

    from img2img_train.inference.translate import Translated, TranslateSettings
    from img2img_train.networks.layers import TestNorm
    from img2img_train.runs.model import LoadedModel

LESS_AT_ONCE: Final = (
    "give a smaller --tile, with --overlap half of it at most, or --batch, or another --device"
)


@click.command(cls=ManyAfterOn, short_help="Score runs on corpora, beside doing nothing.")
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
@click.option(
    "--out", type=PATH, default=Path("evaluation"), show_default=True, help="folder for the matrix"
)
@click.option("--split", default="test", show_default=True, help="split of the corpora")
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="where to compute")
@click.option(
    "--batch", type=click.IntRange(1), default=64, show_default=True, help="images at a time"
)
@click.option(
    "--fail-under",
    "limits",
    multiple=True,
    metavar="METRIC=NUMBER",
    help="end with exit code 1 where a mean score is worse, as in psnr=24 or mae=10; may be repeated",
)
@click.option(
    "--by",
    multiple=True,
    metavar="TAG",
    help="score by this tag; may be repeated  [default: those of few values]",
)
@click.option(
    "--images",
    type=click.IntRange(0, 1000),
    default=96,
    show_default=True,
    help="images that the page shows, of all evaluations together",
)
@click.option(
    "--lpips",
    type=(PATH, PATH),
    metavar="NETWORK HEADS",
    help="LPIPS by these weights: torchvision's AlexNet or VGG-16, and the linear heads of LPIPS 0.1",
)
@click.option(
    "--fid", type=PATH, metavar="WEIGHTS", help="FID by the Inception weights of pytorch-fid"
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
    by: tuple[str, ...],
    images: int,
    lpips: tuple[Path, Path] | None,
    fid: Path | None,
    dropout: str | None,
    norm: TestNorm | None,
) -> None:
    """Score RUNS (run folders or checkpoints) on corpora, next to the input baseline.

    PSNR, SSIM, MS-SSIM, MAE and the overlap of colors in Lab, per image, per tag and as means with their
    intervals. LPIPS and FID need weights that you have on disk: nothing is fetched, no code in them is run.
    NETWORK is alexnet-owt-7be5be79.pth or vgg16-397923af.pth, HEADS alex.pth or vgg.pth of the package lpips
    (a saved lpips.LPIPS may be given as both); WEIGHTS is pt_inception-2015-12-05-6726825d.pth.

    \b
    Example:
      img2img-train evaluate runs/l2 runs/unet --on corpora/gaussian corpora/resize --out scores
      img2img-train evaluate runs/l2 --on corpora/gaussian --by gender --fail-under psnr=24
    """
    from img2img_train.evaluation.evaluate import evaluate_matrix, parse_limits, shortfalls
    from img2img_train.evaluation.results import write_matrix
    from img2img_train.metrics.perceptual import load_perceptual_networks
    from img2img_train.runs.model import choose_device

    where, hint = choose_device(device).type, "give a smaller --batch or another --device"
    wanted = parse_limits(
        limits, [name for name, given in (("lpips", lpips), ("fid", fid)) if given]
    )
    perceptual = load_perceptual_networks(lpips, fid, device)
    with Display() as display, catch_out_of_memory("scoring", None, where, lambda: hint):
        follow, how = display.report("scoring"), switch(dropout)
        matrix = evaluate_matrix(
            runs, corpora, split, device, batch, follow, how, norm, by, perceptual, images
        )
    for e in matrix.evaluations:
        model, baseline, gain = (part["psnr"] for part in (e.scores, e.input_scores, e.gain))
        name = f"{printable(e.run)} on {printable(e.corpus)}, {e.images:,} images"
        click.echo(f"{name}: PSNR {model:.2f} dB, input {baseline:.2f}, gain {gain:+.2f}")
    for note in dict.fromkeys(note for e in matrix.evaluations for note in e.notes):
        click.echo(f"note: {note}")
    click.echo(f"matrix: {printable(str(write_matrix(matrix, out)))}")
    short = shortfalls(matrix, wanted)
    for line in short:
        click.echo(line, err=True)
    sys.exit(1 if short else 0)


def _translate_models() -> Sequence[type[BaseModel]]:
    from img2img_train.inference.translate import TranslateSettings

    return (TranslateSettings,)


@click.command(
    cls=ModelCommand,
    models=_translate_models,
    short_help="Apply a model to images of any size, to videos.",
)
@click.argument("model", type=PATH)
@click.argument("images", type=PATH)
@click.argument("out", type=PATH)
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="where to compute")
@click.option(
    "--direction",
    type=click.Choice(["AtoB", "BtoA"]),
    help="which way, of a model that knows both; default: as trained",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="share that may be rejected",
)
@click.option("--dry-run", is_flag=True, help="say how many files there are, write nothing")
@at_test
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
    """Restore IMAGE_SUFFIXES by MODEL (a run or a checkpoint) into the folder OUT.

    IMAGE_SUFFIXES is a folder, a file, a pattern in quotes, or - for one image on standard input; OUT may also
    be the name of one image or video, or - for standard output. Images may be of any size: they pass the
    network in blended tiles. Transparency, 16 bits, gray and ICC profiles are kept. Given again, the command
    goes on where it was.

    Videos (mp4, mov, mkv, webm, avi) are restored frame by frame, each on its own, at 8 bits; size and frame
    rate are kept, and the sound where the new file can hold it.

    \b
    Example:
      img2img-train translate runs/l2 photos/ restored/
      img2img-train translate runs/l2 'photos/**/*.jpg' restored/ --tile 1024
      img2img-train translate runs/l2 blurred.jpg restored.png
      img2img-train translate runs/l2 clip.mov restored.mp4
      img2img-train translate runs/horse2zebra zebras/ horses/ --direction BtoA
    """
    from img2img_data.core.settings_model import build_model
    from img2img_train.inference.inputs import is_one_file, list_images
    from img2img_train.inference.translate import TranslateSettings
    from img2img_train.inference.translate import translate as restore
    from img2img_train.runs.model import load_generator

    chosen = build_model(TranslateSettings, settings)
    single = is_one_file(images, out)
    total = 1 if single else len(list_images(images, out)[1])
    if dry_run:
        click.echo(
            f"would restore {total:,} files into '{printable(str(out))}'; nothing was written"
        )
        return
    loaded = load_generator(model, device, direction, switch(dropout), norm)
    less = catch_out_of_memory("model", model, loaded.device.type, lambda: LESS_AT_ONCE)
    if single:
        with less:
            _translate_one(loaded, images, out, chosen, settings)
        return
    with Display() as display, less:
        done = restore(loaded, images, out, display.report("restoring", "files", "frames"), chosen)
    click.echo(_translated_line(done, total))
    _say(done.notes)
    for reason, count in done.rejected.most_common():
        click.echo(
            f"  rejected {count:,}: {reason} (rows in {printable(str(out / 'rejected.jsonl'))})"
        )
    if done.rejected.total() > max_bad * total:
        sys.exit(1)


def _translated_line(done: Translated, total: int) -> str:
    kind = "files" if done.videos else "images"
    there = f", {done.reused:,} of them already there" if done.reused else ""
    videos = f"; {done.videos:,} videos ({done.frames:,} frames now)" if done.videos else ""
    return f"restored {done.restored:,} of {total:,} {kind} into '{printable(str(done.out))}'{there}{videos}"


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _translate_one(
    model: LoadedModel,
    source: Path,
    out: Path,
    settings: TranslateSettings,
    given: Mapping[str, object],
) -> None:
    """Restore one file into another, whose name tells the format unless an option does."""
    from img2img_train.inference.inputs import IMAGE_FORMATS, STDIO
    from img2img_train.inference.translate import translate_file, translate_video_file
    from img2img_train.inference.video import VIDEO_FORMATS

    suffix = out.suffix.lower()
    if suffix[1:] in VIDEO_FORMATS:
        chosen = settings.model_copy(update={"video_format": suffix[1:]})
        with Display() as display:
            seen = translate_video_file(
                model, source, out, chosen, display.report("restoring", "files", "frames")
            )
        click.echo(f"restored {seen.frames:,} frames into '{printable(str(out))}'")
        _say([*seen.notes, *settings.note(model, max(seen.width, seen.height))])
        return
    if "format" not in given and suffix in IMAGE_FORMATS:
        settings = settings.model_copy(update={"format": IMAGE_FORMATS[suffix]})
    data = sys.stdin.buffer.read() if str(source) == STDIO else source.read_bytes()
    made = translate_file(model, data, str(source), settings)
    _say(settings.note(model, made.longest_side))
    if str(out) == STDIO:
        sys.stdout.buffer.write(made.image)
        return
    if made.spread:
        _write_one(out.with_name(f"{out.stem}.spread.png"), made.spread)
    _write_one(out, made.image)


def _write_one(out: Path, data: bytes) -> None:
    from img2img_data.core.files import write_atomically

    write_atomically(out, data)


@click.command(short_help="Write a model as ONNX, a page, weights.")
@click.argument("model", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--opset", type=click.IntRange(18, 25), default=18, show_default=True, help="ONNX operator set"
)
@click.option("--runtime", type=PATH, help="for .html: folder of the npm package onnxruntime-web")
@click.option(
    "--direction",
    type=click.Choice(["AtoB", "BtoA"]),
    help="which way, of a model that knows both; default: as trained",
)
def export(model: Path, out: Path, opset: int, runtime: Path | None, direction: str | None) -> None:
    """Write the generator of MODEL (a run or a checkpoint) as OUT, for use without this program.

    .onnx takes and gives uint8 RGB images of any size; .html is a page that runs it in a browser, on a
    image dropped on it or drawn, for models below 15 million parameters; both are compared with torch
    before they are handed over. .safetensors
    holds the generator alone and is a model for every command here; .pth holds it for the PyTorch
    CycleGAN/pix2pix repository (latest_net_G.pth).

    \b
    Example:
      img2img-train export runs/l2 deblur.onnx
      npm install onnxruntime-web && img2img-train export runs/l2 deblur.html
    """
    from img2img_train.inference.onnx_export import export_onnx, export_page, export_weights
    from img2img_train.interop.junyanz_weights import export_pth
    from img2img_train.runs.model import load_generator

    kind = out.suffix.lower()
    if kind not in {".onnx", ".html", ".safetensors", ".pth"}:
        why = f"ends in '{out.suffix}'"
        raise UsageError(
            "file", out, why, "give a name ending in .onnx, .html, .safetensors or .pth"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    loaded, said = load_generator(model, "cpu", direction), "the generator alone"
    if kind == ".safetensors":
        export_weights(loaded, out)
    elif kind == ".pth":
        export_pth(loaded, out)
    else:
        page = kind == ".html"
        parity = (
            export_page(loaded, out, runtime, opset) if page else export_onnx(loaded, out, opset)
        )
        said = f"{parity.worst} levels off torch at most, on {parity.images} images up to {parity.side} px"
        said += (
            "; dropout, which the model keeps on at test, is off"
            if loaded.config.test_dropout
            else ""
        )
    click.echo(f"'{printable(str(out))}': {out.stat().st_size / 1e6:.1f} MB, {said}")


@click.command(short_help="Take over weights of the PyTorch CycleGAN/pix2pix repository.")
@click.argument("weights", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--direction", type=click.Choice(["AtoB", "BtoA"]), default="AtoB", help="which way they go"
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 1, max_open=True),
    help="share dropped; default: as published",
)
def adopt(weights: Path, out: Path, direction: str, dropout: float | None) -> None:
    """Write WEIGHTS, a latest_net_G.pth of the PyTorch CycleGAN/pix2pix repository, as the model OUT.

    The network is told from the names and shapes of its tensors; no code in the file is run.

    \b
    Example:
      img2img-train adopt checkpoints/horse2zebra/latest_net_G.pth horse2zebra.safetensors
      img2img-train translate horse2zebra.safetensors horses/ zebras/
    """
    from img2img_train.interop import junyanz_weights as compat

    spec = compat.import_weights(weights, out, direction, dropout)
    said = f"{spec.name} of width {spec.width}, {spec.norm} norm, {spec.inputs} to {spec.outputs} channels"
    click.echo(f"'{printable(str(out))}': {said}")


@click.command(
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
    import shlex

    from img2img_train.interop.junyanz_options import native_command

    command, notes = native_command(options)
    for note in notes:
        click.echo(f"# {note}", err=True)
    click.echo(shlex.join(command))


@click.command(short_help="A page on this machine to try models in.")
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="where the page is, on 127.0.0.1; 0 takes a free port",
)
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="where to compute")
@click.option(
    "--max-megapixels",
    type=click.FloatRange(0, 1000, min_open=True),
    default=50,
    show_default=True,
    help="largest image",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(0, 256, min_open=True),
    default=100,
    show_default=True,
    help="largest file",
)
@click.option(
    "--open/--no-open", "show", default=False, show_default=True, help="open it in a browser"
)
def serve(
    runs: tuple[Path, ...],
    port: int,
    device: str,
    max_megapixels: float,
    max_megabytes: float,
    show: bool,
) -> None:
    """Serve a page in which RUNS (run folders or checkpoints) are tried on images, on this machine alone.

    One tab restores a image; one degrades a clean image first, by any degradation, and scores the result
    beside doing nothing; one compares with a target. The page asks no other machine for anything, no other
    machine reaches it, and what is uploaded is deleted when the server ends.

    \b
    Example:
      img2img-train serve runs/l2 runs/unet
      img2img-train serve runs/horse2zebra --port 0 --open
      ssh -L 7860:127.0.0.1:7860 HOST       and open http://127.0.0.1:7860, for a server on HOST
    """
    from img2img_train.serve.models import Limits
    from img2img_train.serve.server import serve as serve_page

    limits = Limits(int(max_megapixels * 1e6), int(max_megabytes * 1e6))
    serve_page(runs, port, device, limits, show, click.echo)


@click.command(short_help="Print the JSON Schema of a run's settings.")
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe's section 'run'.

    \b
    Example:
      img2img-train schema > run.schema.json
    """
    from img2img_train.config import run_schema

    click.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))


@click.command()
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
