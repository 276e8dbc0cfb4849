"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

PATH: Final = click.Path(path_type=Path)
DEVICE: Final = click.Choice(["auto", "cpu", "cuda", "mps"])

F = TypeVar("F", bound=Callable[..., Any])


def device_option(command: F) -> F:
    """Add ``--device``."""
    option = click.option("--device", type=DEVICE, default="auto", help="compute device")
    return option(command)


def direction_option(command: F) -> F:
    """Add ``--direction``, for models that translate both ways."""
    option = click.option(
        "--direction",
        type=click.Choice(["AtoB", "BtoA"]),
        help="translation, of a model that has both  [default: as trained]",
    )
    return option(command)


def test_mode_options(command: F) -> F:
    """Add the options for dropout and batch norm at test."""
    dropout = click.option(
        "--dropout",
        type=click.Choice(["on", "off"]),
        help="dropout at test; on: one mask per image, seeded by it  [default: as saved]",
    )
    norm = click.option(
        "--norm",
        type=click.Choice(["batch", "running"]),
        help="batch-norm statistics at test: of the image, or learned  [default: as saved]",
    )
    return dropout(norm(command))


def as_switch(dropout: str | None) -> bool | None:
    """Return the value of ``--dropout`` as a boolean, None if it was not given."""
    return None if dropout is None else dropout == "on"


class ManyAfterOn(click.Command):
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
