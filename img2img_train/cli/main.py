"""``img2img-train``: the group of all commands and the entry point.

Torch is imported by the commands that need it, never on the way to ``--help``.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

from img2img_data.core.command_line import CONTEXT, CommandGroup, run_command_line, shell_line
from img2img_data.core.errors import UsageError
from img2img_train.distributed.torchrun import torchrun_env

SECTIONS: Final = {
    "Train": {
        "fit": "train on corpora (the default command)",
        "resume": "continue a run",
        "report": "write the report of a run, or compare runs",
        "schema": "print the JSON Schema of a run's settings",
    },
    "Use models": {
        "evaluate": "score runs on corpora, beside baselines",
        "translate": "apply a model to images of any size and to videos",
        "serve": "open a web page on this machine to try models",
        "export": "write a model as ONNX, HTML page or weights",
    },
    "junyanz/pytorch-CycleGAN-and-pix2pix": {
        "adopt": "import the weights of a generator",
        "compat": "print the native command for options of its train.py",
    },
}


class FitByDefault(CommandGroup):
    """A group that runs ``fit`` if no command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``fit`` before corpora and training options.

        Raises ``UsageError`` for a misspelled command, which would be taken for a corpus otherwise.
        """
        # For the report of a run.
        ctx.obj = shell_line("img2img-train", *args)
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        commands = self.list_commands(ctx)
        if args and args[0] not in commands and args[0] not in own:
            near = difflib.get_close_matches(args[0], commands, 1)
            path = args[0].rpartition("=")[0] or args[0]  # CORPUS=WEIGHT
            if near and not Path(path).exists():
                raise UsageError("command", args[0], "unknown", f"did you mean '{near[0]}'?")
            args = ["fit", *args]
        return super().parse_args(ctx, args)


def _load_command(name: str) -> click.Command:
    from img2img_train.cli import fit_commands, model_commands

    commands = (*fit_commands.COMMANDS, *model_commands.COMMANDS)
    return next(command for command in commands if command.name == name)


@click.group(cls=FitByDefault, sections=SECTIONS, load=_load_command, context_settings=CONTEXT)
@click.version_option(package_name="img2img", prog_name="img2img-train")
def group() -> None:
    """Train image-to-image models on corpora, score them, apply them.

    \b
    Example:
      img2img-train corpora/gaussian --loss l2 --out runs/l2
      img2img-train corpora/gaussian corpora/resize=2 --net unet --out runs/mixed
      img2img-train corpora/facades --loss pix2pix --direction BtoA
      img2img-train --recipe wiki_gaussian
      img2img-train evaluate runs/l2 runs/mixed --on corpora/gaussian --out scores
      img2img-train translate runs/l2 photos/ restored/

    Without a command, img2img-train trains: 'img2img-train fit --help' lists the settings. An
    interrupted run continues exactly where it stopped when you run the same command again.
    """


def main(
    argv: Sequence[str] | None = None,
    command: click.Command | None = None,
    name: str = "img2img-train",
) -> None:
    """Run ``img2img-train``, or another ``command`` in the same way; exit unless the code is 0."""
    rank = torchrun_env().rank
    # Experiments call this in their own process, so success returns.
    code = run_command_line(command or group, argv, name, f"process {rank}: " if rank else "")
    if code:
        sys.exit(code)
