"""``img2img-data``: the group of all commands, one command for each step, the entry point.

OpenCV, pydantic and the rooms are imported inside the functions, so ``--help`` stays quick.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

import click

from img2img_data.core import command_line
from img2img_data.core.command_line import CommandGroup, frozen_imports

SECTIONS: Final = {
    "Make corpora": {
        "blur": "(blurred, original) pairs for deblurring and super-resolution",
        "degrade": "(degraded, original) pairs: noise, compression, chains of degradations",
        "combine": "pairs from two folders, matched by name: photo | sketch",
        "lab": "(L, Lab) pairs for colorization",
        "grayscale": "(gray, color) pairs for colorization in RGB",
        "edges": "(Canny edges, original) pairs",
        "blank": "(masked, original) pairs for inpainting",
        "unpaired": "two domains without pairs, for CycleGAN and DualGAN",
        "build": "all corpora of a recipe",
        "merge": "one corpus from the shards of --shard",
    },
    "Prepare images": {
        "select": "copy the usable images of a folder",
        "resize": "resize images to one size",
        "wiki": "sort the faces of IMDB-WIKI by gender",
        "sample": "write the demo photos of scikit-image",
    },
    "Inspect": {
        "show": "write an HTML page with the pairs of a corpus",
        "verify": "check a corpus file by file",
        "replay": "compute the input of one pair again, byte for byte",
        "degradations": "list the degradations, or show them on an image",
        "recipes": "list the included recipes, or print one",
        "schema": "print the JSON Schema of recipes, rows or settings",
    },
    "Exchange": {
        "import": "make a corpus from another tool's folder",
        "export": "write a corpus for another tool",
        "pack": "write a corpus as WebDataset shards",
        "unpack": "restore a corpus from its shards",
    },
}


def _load_command(name: str) -> click.Command:
    with frozen_imports():
        from img2img_data.cli.commands import COMMANDS

        return next((c for c in COMMANDS if c.name == name), None) or _step_command(name)


def _step_command(name: str) -> click.Command:
    """Return the command of a step: its folders as arguments, its settings as options."""
    from img2img_data.cli.steps import STEPS, print_after, run_and_print

    step = STEPS[name]

    def run(settings: dict[str, Any], recipe: str | None = None, **folders: Path) -> int:
        if recipe is not None:
            from img2img_data.core.yaml_file import find_recipe
            from img2img_data.degradations.spec import degradation, to_spec

            find_recipe(recipe)  # the names of kinds do not count
            settings["degradation"] = to_spec(degradation(recipe))
        code = run_and_print(name, [folders[path] for path in step.paths], settings)
        if not (code or settings.get("dry_run")):
            print_after(folders[step.paths[-1]], settings.get("shard"))
        return code

    folder = command_line.FOLDER
    params: list[click.Parameter] = [click.Argument([path], type=folder) for path in step.paths]
    if name == "degrade":
        about = "recipe with the 'degradation' to apply: a name or a path"
        params.append(click.Option(["--recipe"], metavar="RECIPE", help=about))
    return command_line.ModelCommand(
        name, params=params, callback=run, help=step.run.__doc__, models=lambda: step.models
    )


@click.group(
    cls=CommandGroup, sections=SECTIONS, load=_load_command, context_settings=command_line.CONTEXT
)
@click.version_option(package_name="img2img", prog_name="img2img-data")
def group() -> None:
    """Turn folders of images into paired corpora: degraded | clean, photo | sketch, L | ab.

    \b
    Example:
      img2img-data blur photos/ corpora/gaussian --kind gaussian --sigma 3 --size 64
      img2img-data show corpora/gaussian

    A rejected image never stops a command: it becomes a row in rejected.jsonl with its reason. An
    interrupted command continues when you run it again.
    """


def _catch_signals() -> None:
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # none on Windows
        # A signal that is ignored at the start stays ignored, as under nohup.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _report_thread_failure(args: threading.ExceptHookArgs) -> None:
    # When a build is interrupted, a thread of loky fails on the calls that it was told to drop.
    flags = getattr(args.thread, "executor_flags", None)
    if not (flags and flags.shutdown):
        threading.__excepthook__(args)


def _stop_workers() -> None:
    # Idle workers of loky would outlive the command by minutes.
    if "img2img_data.runner.workers" in sys.modules:  # else no worker was started
        from img2img_data.runner.workers import stop_workers

        stop_workers()


def main() -> None:
    """Run ``img2img-data`` and exit."""
    # Before any worker starts, so that none is left behind by a signal.
    _catch_signals()
    threading.excepthook = _report_thread_failure
    code = command_line.run_command_line(group, name="img2img-data")
    _stop_workers()
    sys.exit(code)
