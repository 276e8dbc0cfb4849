"""What several commands take: paths, the device, how a model stands at test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

PATH: Final = click.Path(path_type=Path)
DEVICE: Final = click.Choice(["auto", "cpu", "cuda", "mps"])

F = TypeVar("F", bound=Callable[..., Any])


def at_test(command: F) -> F:
    """Add the options that say how dropout and norms stand at test."""
    dropout = click.option(
        "--dropout",
        type=click.Choice(["on", "off"]),
        help="dropout at test; on: a mask for each image, drawn from it  [default: as the model was saved]",
    )
    norm = click.option(
        "--norm",
        type=click.Choice(["batch", "running"]),
        help="statistics of batch norm: the image's own or the learned  [default: as the model was saved]",
    )
    return dropout(norm(command))


def switch(dropout: str | None) -> bool | None:
    """Return what ``--dropout`` asks for, None where it was not given."""
    return None if dropout is None else dropout == "on"


class ManyAfterOn(click.Command):
    """A command whose ``--on`` takes all words up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat ``--on`` before each of its words."""
        spread, inside = [], False
        for word in args:
            if word.startswith("-") and word != "-":
                inside = word == "--on"
                spread += [] if inside else [word]
            else:
                spread += ["--on", word] if inside else [word]
        return super().parse_args(ctx, spread)
