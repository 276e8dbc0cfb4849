"""``img2img-train``: parse, call, print. Torch is imported by the commands that need it, never on the way to
--help.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from img2img_data.core.errors import Img2ImgError, install_hint, printable
from img2img_data.core.settings_model import print_usage_error
from img2img_train.cli import fit_commands, model_commands
from img2img_train.distributed.processes import torchrun_env


class FitByDefault(click.Group):
    """A group whose command is ``fit`` where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``fit`` in front of corpora and options of training."""
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["fit", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=FitByDefault,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="img2img", prog_name="img2img-train")
def group() -> None:
    """Train image-to-image models on corpora, score them, apply them.

    \b
    Example:
      img2img-train corpora/gaussian --loss l2 --out runs/l2
      img2img-train corpora/gaussian corpora/resize=2 --net unet --out runs/mixed
      img2img-train corpora/facades --loss pix2pix --direction BtoA
      img2img-train corpora/horse2zebra --loss cyclegan
      img2img-train --recipe recipes/wiki_gaussian.yaml
      img2img-train resume runs/l2
      img2img-train evaluate runs/l2 runs/mixed --on corpora/gaussian corpora/resize --out scores
      img2img-train translate runs/l2 photos/ restored/
      img2img-train serve runs/l2 runs/mixed

    Without the name of a command it trains: 'img2img-train fit --help' lists the settings. A run that was
    interrupted goes on, exactly, when the same command is given again.

    \b
    Exit codes: 0 done; 1 could not finish; 2 wrong option, recipe, checkpoint, or folder in use;
    3 training diverged; 129 / 130 / 143 ended by a signal, with a checkpoint.
    """


for _command in (*fit_commands.COMMANDS, *model_commands.COMMANDS):
    group.add_command(_command)


def main(
    argv: Sequence[str] | None = None,
    command: click.Command | None = None,
    name: str = "img2img-train",
) -> None:
    """Run the command line; every known error is one line and its exit code."""
    try:
        (command or group).main(args=argv, prog_name=name, standalone_mode=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        print_usage_error(error)
        sys.exit(error.exit_code)
    except Img2ImgError as error:
        rank = torchrun_env().rank
        click.echo(f"error: {f'process {rank}: ' if rank else ''}{error}", err=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in {"torch", "safetensors"}:
            raise
        hint = install_hint("train")
        click.echo(
            f"error: training needs '{error.name}', which is not installed; {hint}", err=True
        )
        sys.exit(1)
    except OSError as error:
        where = f" '{printable(str(error.filename))}'" if error.filename else ""
        hint = "when that is mended, the same command goes on from where it was"
        click.echo(f"error: file{where}: {error.strerror or error}; {hint}", err=True)
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ not in {"Stopped", "MainProcessFailed"}:
            raise
        if str(error):
            click.echo(str(error), err=True)
        sys.exit(getattr(error, "exit_code", 1))


if __name__ == "__main__":
    main()
