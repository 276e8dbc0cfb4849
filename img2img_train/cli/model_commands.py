"""Commands that use a trained model: scores, images, web page, files for other programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from pydantic import Field

from img2img_data.core.command_line import (
    FOLDER,
    Display,
    ModelCommand,
    frozen_imports,
    print_next,
    shell_line,
)
from img2img_data.core.errors import REASONS, UsageError, printable
from img2img_data.core.files import check_unused
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import build_model, build_part
from img2img_data.corpus.format import is_run
from img2img_train.distributed.memory import catch_out_of_memory
from img2img_train.evaluation.settings import (
    DirectionOption,
    EvaluateSettings,
    ModelSettings,
    names_in,
)
from img2img_train.inference.settings import TranslateSettings

if TYPE_CHECKING:
    from img2img_train.inference.translate import Translated
    from img2img_train.runs.model import LoadedModel

LESS_MEMORY: Final = (
    "use a smaller --tile (--overlap at most half of it), a smaller --batch, or another --device"
)
NAMES_SHOWN: Final = 8


class ManyAfterOn(ModelCommand):
    """A command whose ``--on`` takes all words up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat ``--on`` before each of its words."""
        # click has no options with a variable number of values.
        words, after_on = [], False
        for word in args:
            if word.startswith("-") and word != "-":
                after_on = word == "--on"
                words += [] if after_on else [word]
            else:
                words += ["--on", word] if after_on else [word]
        return super().parse_args(ctx, words)


class EvaluateOptions(EvaluateSettings):
    """Options of ``evaluate``."""

    on: tuple[Path, ...] = Field(json_schema_extra={"metavar": "CORPUS..."}, min_length=1)
    """corpora to score on [required]"""
    images: tuple[Path, ...] = Field((), json_schema_extra={"metavar": "FOLDER"})
    """outputs of another program, named after the keys or the sources, may be repeated"""
    out: Path = Path("evaluation")
    """folder to write the results to; those of an earlier evaluation in it are replaced"""
    fail_under: tuple[str, ...] = Field((), json_schema_extra={"metavar": "METRIC=NUMBER"})
    """exit with 1 if a mean is worse than this, such as psnr=24 or mae=10, may be repeated"""
    lpips: tuple[Path, Path] | None = Field(None, json_schema_extra={"metavar": "NETWORK HEADS"})
    """compute LPIPS with these weights: AlexNet or VGG-16 of torchvision, linear heads of LPIPS
    0.1"""
    fid: Path | None = Field(None, json_schema_extra={"metavar": "WEIGHTS"})
    """compute FID with these Inception weights, those of pytorch-fid"""


@click.command(cls=ManyAfterOn, models=lambda: (EvaluateOptions,))
@click.argument("runs", type=FOLDER, nargs=-1)
def evaluate(runs: tuple[Path, ...], settings: dict[str, Any]) -> None:
    """Score RUNS (run folders, checkpoints or exported folders) on corpora, beside baselines.

    \b
    Example:
      img2img-train evaluate runs/l2 runs/unet --on corpora/gaussian corpora/resize --out scores
      img2img-train evaluate runs/l2 --on corpora/gaussian --by gender --fail-under psnr=24
      img2img-train evaluate runs/l2 --on corpora/gaussian --baselines wiener,unsharp
      img2img-train evaluate runs/l2 --images results/nafnet --on corpora/gaussian

    Scores are PSNR, SSIM, MS-SSIM, MAE and the overlap of colors in Lab: per image, per tag, and as
    means with 95 % intervals. On unpaired corpora all outputs are compared, as a set, with the
    images of the other domain, by FID and colors. LPIPS and FID need weights that you supply;
    nothing is downloaded, and no code in them is run. NETWORK is alexnet-owt-7be5be79.pth or
    vgg16-397923af.pth, HEADS alex.pth or vgg.pth of the package lpips (a saved lpips.LPIPS may be
    given as both); WEIGHTS is pt_inception-2015-12-05-6726825d.pth.
    """
    with frozen_imports():
        from img2img_train.evaluation.evaluate import evaluate_matrix, parse_limits, shortfalls
        from img2img_train.evaluation.results import write_matrix
        from img2img_train.metrics.perceptual import load_perceptual_networks
        from img2img_train.runs.folder import find_checkpoint
        from img2img_train.runs.model import choose_device

    options = build_model(EvaluateOptions, settings)
    if not (runs or options.images):
        raise UsageError("argument", "RUNS", "missing", "name a run, or give outputs with --images")
    where, less = choose_device(options.device).type, "use a smaller --batch or another --device"
    limits = parse_limits(options.fail_under, {*settings, *names_in(options.metrics)})
    perceptual = load_perceptual_networks(options.lpips, options.fid, options.device)
    for run in runs:
        find_checkpoint(run)  # before the corpora are read, which may be in place of the runs
    replaces = (options.out / "matrix.json").is_file()
    if not replaces:
        check_unused(options.out, what="output")
    with Display() as display, catch_out_of_memory("scoring", None, where, less):
        progress = display.report("scoring")
        matrix = evaluate_matrix(runs, options.on, options, progress, perceptual, options.images)
    for e in matrix.evaluations:
        click.echo(repr(e))
    for note in dict.fromkeys(note for e in matrix.evaluations for note in e.notes):
        click.echo(f"note: {note}")
    click.echo(f"scores: {printable(str(write_matrix(matrix, options.out)))}")
    if replaces:
        _print_notes(["replaced the results of an earlier evaluation (see --out)"])
    # After the results are written: a failed check must not lose them.
    short = shortfalls(matrix, limits)
    for line in short:
        click.echo(line, err=True)
    if short:
        sys.exit(1)
    if runs:
        print_translate(runs[0])


def print_translate(model: Path, *options: str) -> None:
    """Print the command that applies a model to images; the user fills in which."""
    # A folder for each model: outputs of two models in one folder would be hard to tell apart.
    out = Path("outputs", model.resolve().name.removesuffix(".safetensors"))
    print_next("img2img-train", "translate", model, "IMAGES", out, *options)


class TranslateOptions(ModelSettings):
    """Options of ``translate`` beside those of each image."""

    max_bad: float = Field(0.1, ge=0, le=1)
    """exit with 1 if a larger share of the images is rejected"""
    dry_run: bool = False
    """count the files without writing anything"""


@click.command(cls=ModelCommand, models=lambda: (TranslateOptions, TranslateSettings))
@click.argument("model", type=FOLDER)
@click.argument("images", type=FOLDER)
@click.argument("out", type=FOLDER)
def translate(model: Path, images: Path, out: Path, settings: dict[str, Any]) -> None:
    """Apply MODEL (a run, a checkpoint or an exported folder) to IMAGES; write into the folder OUT.

    \b
    Example:
      img2img-train translate runs/l2 photos/ restored/
      img2img-train translate runs/l2 'photos/**/*.jpg' restored/ --tile 1024
      img2img-train translate runs/l2 blurred.jpg restored.png
      img2img-train translate runs/wiener blurred/ restored/ --sigma 3     # of fit --input wiener
      img2img-train translate runs/l2 clip.mov restored.mp4
      img2img-train translate runs/horse2zebra zebras/ horses/ --direction BtoA

    IMAGES is a folder, a file, a pattern in quotes, or - for one image on standard input; OUT may
    also be the name of one image or video, or - for standard output. Images may have any size: they
    are processed in blended tiles, or whole by networks that normalize by statistics of the image.
    Transparency, 16 bits and ICC profiles are kept; a gray image gives a gray one if gray inputs
    had gray targets in training. To continue an interrupted command, run it again.

    Videos (mp4, mov, mkv, webm, avi) are processed frame by frame at 8 bits; size and frame rate
    are kept, and the sound if the new file can hold it.
    """
    with frozen_imports():
        from img2img_train.inference.inputs import is_one_file, list_images, notes_on_targets
        from img2img_train.inference.translate import translate as restore
        from img2img_train.runs.checkpoint import read_description
        from img2img_train.runs.folder import find_checkpoint
        from img2img_train.runs.model import load_generator

    options = build_part(TranslateOptions, settings)
    chosen = build_part(TranslateSettings, settings)
    single, following = is_one_file(images, out), ("img2img-train", "export", model, "model.onnx")
    # Before the model is loaded: a wrong path fails at once.
    read_description(find_checkpoint(model))
    total = 1 if single else len(list_images(images, out)[1])
    if options.dry_run:
        click.echo(f"would write {total:,} files into '{printable(out)}'; nothing was written")
        return
    loaded = load_generator(model, options.device, *options.at_test)
    corpora = (choice.path for choice in loaded.config.corpora)
    _print_notes((*loaded.notes, *notes_on_targets(images, corpora)))
    less = catch_out_of_memory("model", model, loaded.device.type, LESS_MEMORY)
    if single:
        with less:
            _restore_one(loaded, images, out, chosen)
        if str(out) != "-":
            print_next(*following)
        return
    with Display() as display, less:
        done = restore(loaded, images, out, display.report("writing", "files", "frames"), chosen)
    click.echo(_describe_translated(done, total))
    _print_notes(done.notes)
    rows = printable(str(out / "rejected.jsonl"))
    for reason, names in sorted(done.rejected.items()):
        shown = ", ".join(names[:NAMES_SHOWN]) + ", ..." * (len(names) > NAMES_SHOWN)
        why = f"{reason}, {REASONS[reason]}"
        click.echo(f"  rejected {len(names):,} ({why}): {shown} (rows in {rows})")
    if sum(map(len, done.rejected.values())) > options.max_bad * total:
        sys.exit(1)
    print_next(*following)


def _describe_translated(done: Translated, total: int) -> str:
    kind, out = "files" if done.videos else "images", printable(done.out)
    reused = f", {done.reused:,} of them by an earlier call" if done.reused else ""
    videos = f"; {done.videos:,} videos ({done.frames:,} frames now)" if done.videos else ""
    return f"wrote {done.restored:,} of {total:,} {kind} into '{out}'{reused}{videos}"


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes[:NAMES_SHOWN]:
        click.echo(f"note: {note}", err=True)
    if len(notes) > NAMES_SHOWN:
        click.echo(f"note: {len(notes) - NAMES_SHOWN:,} more like these", err=True)


def _restore_one(model: LoadedModel, source: Path, out: Path, settings: TranslateSettings) -> None:
    """Restore one file; the suffix of the output sets the format, unless an option does."""
    from img2img_data.core.files import write_atomically
    from img2img_train.inference import translate as inference
    from img2img_train.inference.inputs import IMAGE_FORMATS, STDIO
    from img2img_train.inference.video import VIDEO_FORMATS, open_video

    suffix = out.suffix.lower()
    if suffix[1:] in VIDEO_FORMATS:
        chosen = settings.model_copy(update={"video_format": suffix[1:]})
        with (
            Display() as display,
            inference.unreadable("video", str(source)),
            open_video(source.resolve()) as file,
        ):
            progress = display.report("writing", "files", "frames")
            seen = inference.translate_video(model, file, out, chosen, progress)
        click.echo(f"wrote {seen.frames:,} frames into '{printable(out)}'")
        _print_notes(seen.notes)
        return
    if "format" not in settings.model_fields_set and suffix in IMAGE_FORMATS:
        settings = settings.model_copy(update={"format": IMAGE_FORMATS[suffix]})
    data = sys.stdin.buffer.read() if str(source) == STDIO else source.read_bytes()
    result = inference.translate_file(model, data, str(source), settings)
    frames = inference.notes_on_frames({printable(source): result.source_frames})
    _print_notes([*result.notes, *frames])
    if str(out) == STDIO:
        sys.stdout.buffer.write(result.image)
        return
    write_atomically(out, result.image)
    click.echo(f"wrote 1 image into '{printable(out)}'")


class ExportOptions(DirectionOption):
    """Options of ``export``."""

    opset: int = Field(18, ge=18, le=25)
    """version of the ONNX operator set"""
    runtime: Path | None = None
    """folder of the npm package onnxruntime-web, for .html"""
    license: str = ""
    """license of the model, for the model card of a folder; such as mit, cc-by-4.0 or any text"""


@click.command(cls=ModelCommand, models=lambda: (ExportOptions,))
@click.argument("model", type=FOLDER)
@click.argument("out", type=click.Path())
def export(model: Path, out: str, settings: dict[str, Any]) -> None:
    """Write the generator of MODEL (a run or a checkpoint) to OUT, for use without this program.

    \b
    Example:
      img2img-train export runs/l2 deblur/ --license mit
      img2img-train export runs/l2 deblur.onnx
      npm install onnxruntime-web && img2img-train export runs/l2 deblur.html

    A folder receives weights, ONNX, a model card with scores and images, and a script that runs the
    model; every command here takes it as a model. .onnx takes and returns uint8 images,
    N x H x W x 3 RGB of any size, also of models of gray or Lab. .html is a page that runs the
    model in a browser, for models below 15 million parameters. Both are compared with torch.
    .safetensors holds the generator alone and is a model for all commands here; .pth holds it for
    the PyTorch CycleGAN/pix2pix repository (latest_net_G.pth). With --input wiener, ONNX holds the
    network without the deconvolution; .html and .pth are rejected.
    """
    options, path = build_model(ExportOptions, settings), Path(out)
    suffix = "" if out.endswith(("/", os.sep)) or path.is_dir() else path.suffix.lower()
    if suffix not in {"", ".onnx", ".html", ".safetensors", ".pth"}:
        hint = "give a name ending in .onnx, .html, .safetensors or .pth, or a folder/"
        raise UsageError("file", path, f"ends in '{path.suffix}'", hint)
    _export(model, path, suffix, options)


def _export(model: Path, out: Path, suffix: str, options: ExportOptions) -> None:
    with frozen_imports():
        from img2img_train.inference.model_folder import FILES, export_folder
        from img2img_train.inference.onnx_export import export_onnx, export_page, export_weights
        from img2img_train.interop.junyanz_weights import export_pth
        from img2img_train.runs.folder import MODEL_FILE
        from img2img_train.runs.model import load_generator

    if out.is_file() and is_run(Path(os.path.realpath(out)).parent.parent):
        raise UsageError("file", out, "is a file of a run, which needs it", "choose another name")
    replaces = out.is_file() or (out / MODEL_FILE).is_file()
    out.parent.mkdir(parents=True, exist_ok=True)
    # On the CPU, so that the exported file does not depend on the device.
    loaded, about = load_generator(model, "cpu", options.direction), "the generator alone"
    _print_notes(loaded.notes)
    if loaded.config.preparation and suffix != ".safetensors":
        kind = suffix or ".onnx"
        why = f"takes images that are {loaded.config.preparation}; {kind} files do not do that"
        if kind != ".onnx":
            raise UsageError("model", model, why, "export it as .onnx or .safetensors")
        _print_notes([f"the network {why}"])
    parity, notes = None, list[str]()
    if suffix == ".safetensors":
        export_weights(loaded, out)
    elif suffix == ".pth":
        export_pth(loaded, out)
    elif suffix == ".html":
        parity = export_page(loaded, out, options.runtime, options.opset)
    elif suffix == ".onnx":
        parity = export_onnx(loaded, out, options.opset)
    else:
        parity, notes = export_folder(loaded, out, options.license, options.opset)
    if parity:
        tested = f"{parity.images} images up to {parity.side} px"
        about = f"ONNX differs from torch by at most {parity.worst} of 255 levels, on {tested}"
        if loaded.config.test_dropout and loaded.spec.dropout:
            about += "; dropout is off, although the model keeps it on at test time"
    if replaces:
        notes.append(f"replaced the earlier '{printable(out)}'")
    _print_notes(notes)
    size = sum(p.stat().st_size for p in (out, *(out / name for name in FILES)) if p.is_file())
    click.echo(f"'{printable(out)}': {size / 1e6:.1f} MB, {about}")


class ServeOptions(FrozenModel):
    """Options of ``serve``."""

    port: int = Field(7860, ge=0, le=65535)
    """port on 127.0.0.1; 0: any free port"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """device to run on"""
    max_megapixels: float = Field(50, gt=0, le=1000)
    """largest image to accept, megapixels"""
    max_megabytes: float = Field(100, gt=0, le=256)
    """largest upload to accept, megabytes; the oldest are removed once all uploads take ten times
    that"""
    open: bool = False
    """open the page in a browser"""


@click.command(cls=ModelCommand, models=lambda: (ServeOptions,))
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
def serve(runs: tuple[Path, ...], settings: dict[str, Any]) -> None:
    """Serve a page to try RUNS (or checkpoints, exported folders) on images, on this machine only.

    \b
    Example:
      img2img-train serve runs/l2 runs/unet
      img2img-train serve runs/horse2zebra --port 0 --open
      ssh -L 7860:127.0.0.1:7860 HOST       and open http://127.0.0.1:7860, for a server on HOST

    One tab restores an image; one degrades a clean image first, with any degradation, and scores
    the result beside the input baseline; one compares with a target. The page makes no requests to
    other machines, other machines cannot reach it, and uploads are deleted when the server stops.
    """
    with frozen_imports():
        from img2img_data.images.pixels import ReadPolicy
        from img2img_train.serve.server import serve as serve_page

    options = build_model(ServeOptions, settings)
    pixels, size = int(options.max_megapixels * 1e6), int(options.max_megabytes * 1e6)
    policy = ReadPolicy(max_pixels=pixels, max_bytes=size, max_aspect=1e9)
    serve_page(runs, options.port, options.device, policy, options.open)


class AdoptOptions(FrozenModel):
    """Options of ``adopt``."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """direction that the weights were trained for"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """dropout rate [default: as published]"""


@click.command(cls=ModelCommand, models=lambda: (AdoptOptions,))
@click.argument("weights", type=FOLDER)
@click.argument("out", type=FOLDER)
def adopt(weights: Path, out: Path, settings: dict[str, Any]) -> None:
    """Import WEIGHTS, a latest_net_G.pth of the PyTorch CycleGAN/pix2pix repository, as the model
    OUT.

    \b
    Example:
      img2img-train adopt checkpoints/horse2zebra/latest_net_G.pth horse2zebra.safetensors
      img2img-train translate horse2zebra.safetensors horses/ zebras/

    The network is inferred from the names and shapes of the tensors; no code in the file is run.
    """
    with frozen_imports():
        from img2img_train.interop.junyanz_weights import import_weights

    options = build_model(AdoptOptions, settings)
    spec = import_weights(weights, out, options.direction, options.dropout)
    channels = f"{spec.inputs} to {spec.outputs} channels"
    about = f"{spec.name} of width {spec.width}, {spec.norm} norm, {channels}"
    click.echo(f"'{printable(out)}': {about}")
    print_translate(out)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="TRAIN_OPTIONS...")
def compat(options: tuple[str, ...]) -> None:
    """Print the native command for TRAIN_OPTIONS of the train.py of the PyTorch CycleGAN/pix2pix
    repository.

    \b
    Example:
      img2img-train compat --dataroot ./datasets/facades --name facades --model pix2pix
    """
    from img2img_train.interop.junyanz_options import native_command

    command, notes = native_command(options)
    for note in notes:
        click.echo(f"# {note}", err=True)
    click.echo(shell_line(*command))


@click.command
def schema() -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe's section 'run'.

    \b
    Example:
      img2img-train schema > run.schema.json
    """
    from img2img_train.config import run_schema

    click.echo(json.dumps(run_schema(), indent=2, ensure_ascii=False))


class ReportOptions(FrozenModel):
    """Options of ``report``."""

    out: Path | None = None
    """page to write  [default: RUN/report.html, or comparison.html for several runs]"""


@click.command(cls=ModelCommand, models=lambda: (ReportOptions,))
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
def report(runs: tuple[Path, ...], settings: dict[str, Any]) -> None:
    """Write the page of a run, finished or not, or a page that compares several RUNS.

    \b
    Example:
      img2img-train report runs/l2
      img2img-train report runs/l2 runs/unet --out l2-unet.html

    The comparison has the curves of all runs in the same charts, their scores, their last samples,
    and the settings in which they differ. It also says whether each run is better than the first
    one, by the PSNR of the same images.
    """
    from img2img_train.report.differences import describe_differences
    from img2img_train.report.page import write_comparison, write_run_report
    from img2img_train.runs.folder import notes_on_run

    out, runs = build_model(ReportOptions, settings).out, tuple(dict.fromkeys(runs))
    if out and out.suffix.lower() not in {".html", ".htm"}:
        why, hint = "is not the name of an HTML file", "give a name that ends in .html"
        raise UsageError("file", out, why, hint)
    _print_notes([note for run in runs for note in notes_on_run(run)])
    if len(runs) > 1:
        differences = describe_differences(runs)
        page = write_comparison(runs, out or Path("comparison.html"), differences)
        click.echo("\n".join([*differences, f"report: {printable(page)}"]))
        return
    click.echo(f"report: {printable(str(write_run_report(runs[0], out)))}")
    print_translate(runs[0])


COMMANDS: Final = (evaluate, translate, export, serve, adopt, compat, schema, report)
