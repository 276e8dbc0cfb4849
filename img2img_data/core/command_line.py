"""Command lines: groups, options from pydantic models, exit codes, and progress.

A field states type, default, range, unit and help once; ``SettingOption`` makes an option of it.
The first clause of a description (up to ``; ``) is the short help; ``--help-all`` shows it whole.
Progress is a bar with rate and time left on a terminal, a line a minute elsewhere.
"""

from __future__ import annotations

import errno
import functools
import gc
import io
import itertools
import os
import shlex
import subprocess
import sys
import time
import traceback
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol, TextIO, TypeAlias

import click

from img2img_data.core.errors import Img2ImgError, UsageError, missing_extra, printable
from img2img_data.core.memory import lacks_memory
from img2img_data.core.settings_model import bounds_of, did_you_mean, help_of, without_none

if typing.TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo
    from rich import progress as rich_progress

Echo: TypeAlias = Callable[[str], None]
LoadCommand: TypeAlias = Callable[[str], click.Command]
Sections: TypeAlias = Mapping[str, Mapping[str, str]]

EXIT_CODES: Final = {
    "0": "done",
    "1": "not finished, or a check failed: too many rejected images, unmatched files, damaged "
    "corpus, low score",
    "2": "wrong command, option, recipe, path, checkpoint; a folder in use; an extra is missing",
    "3": "training diverged",
    "129 / 130 / 143": "ended by SIGHUP / SIGINT / SIGTERM; the same command resumes the work",
    "141": "the program that read the output closed it",
}
INTERRUPTED: Final = (129, 130, 143)
FOLDER: Final = click.Path(path_type=Path)
CONTEXT: Final = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 100,
    "show_default": True,
}
LONGEST_METAVAR: Final = 21
TRAIN_ONLY: Final = {"torch", "safetensors", "scipy"}
"""Modules that only an extra installs and that training imports without a check of their own."""
_HELP_ALL: Final = "img2img.help_all"


# ------------------------------------------------------------------------------------------- groups
class CommandGroup(click.Group):
    """A group that loads a command only when it is used, so its own ``--help`` is quick.

    ``sections`` maps headings of ``--help`` to commands, name to short help; ``load`` returns a
    command by name.
    """

    def __init__(self, *args: Any, sections: Sections, load: LoadCommand, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections, self.load = sections, load

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return [name for commands in self.sections.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None if there is none of that name."""
        return self.load(cmd_name) if cmd_name in self.list_commands(ctx) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named; ``UsageError`` names the nearest known one."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise UsageError("command", args[0], "unknown", did_you_mean(args[0], known))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by section, without loading any of them."""
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl(list(EXIT_CODES.items()))


# ------------------------------------------------------------------------ options made from a model
class SettingOption(click.Option):
    """The option of a model's field, with a heading, a short and a long help text.

    ``json_schema_extra`` of the field may name another heading as its ``group`` and a ``metavar``,
    and mark it as ``advanced``: such options are listed by ``--help-all`` only. A tuple of two
    types is an option with two values.
    """

    # Read from the source when it is shown, so what click's constructor assigns is dropped.
    help: Any = property(lambda option: help_of(option.field), lambda option, text: None)

    def __init__(self, name: str, field: FieldInfo, group: str = "Options") -> None:
        stated = field.json_schema_extra
        extra: dict[str, Any] = stated if isinstance(stated, dict) else {}
        self.group, self.advanced = extra.get("group", group), extra.get("advanced", False)
        self.field, self.bounds = field, bounds_of(field)
        annotation, flag = without_none(field.annotation), "--" + name.replace("_", "-")
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if annotation is bool:
            names = [f"{flag}/--no-{flag[2:]}", name]
            super().__init__(names, default=default)
            return
        of_type = getattr(annotation, "metavar", None)
        shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
        is_list = typing.get_origin(annotation) is tuple and ... in typing.get_args(annotation)
        super().__init__(
            [flag, name],
            type=_click_type(typing.get_args(annotation)[0] if is_list else annotation),
            multiple=is_list,
            metavar="NAME" if "enum" in extra else extra.get("metavar", of_type),
            show_default=None if shown is None else str(shown),
        )

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return flags and help: the first clause only, or with ``--help-all`` the whole text."""
        full = ctx.meta.get(_HELP_ALL, False)
        text = self.help or ""
        text = text if full else text.partition("; ")[0]
        flag, metavar = self.opts[-1], ""
        if self.secondary_opts:
            both = f"{flag} / {self.secondary_opts[0]}"
            flag = both if full or self.default else flag
        elif not self.is_flag:
            metavar = self.make_metavar(ctx)
        if isinstance(self.type, click.Choice) and len(metavar) > LONGEST_METAVAR:
            choices = ", ".join(map(str, self.type.choices))
            metavar, text = "NAME", f"{text}  [{choices}]" if full else f"{text}: {choices}"
        # A default of zero mostly means "off" or "all", which the long text explains.
        shown = full or self.show_default not in {"0", "0.0"}
        notes = [f"[default: {self.show_default}]"] if self.show_default and shown else []
        notes += [f"[{self.bounds}]"] if full and self.bounds else []
        return f"{flag} {metavar}".strip(), "  ".join([text, *notes])


class ModelCommand(click.Command):
    """A command whose options are the fields of pydantic models, listed by group.

    A model's class variable ``option_group`` is their heading. ``models`` is called when the
    options are first needed. The callback gets one keyword ``settings``: the values that were on
    the command line, and only those.
    """

    group_order: tuple[str, ...] = ("Options",)

    def __init__(
        self, *args: Any, models: Callable[[], Sequence[type[BaseModel]]] = tuple, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._models = models

    @functools.cached_property
    def setting_options(self) -> list[SettingOption]:
        """One option for each field; of several models that have it, the first wins."""
        options: dict[str, SettingOption] = {}
        for model in self._models():
            for name, field in model.model_fields.items():
                # A field of any type holds a pipeline of degradations, for recipes alone.
                if field.annotation is not Any:
                    group = getattr(model, "option_group", "Options")
                    options.setdefault(name, SettingOption(name, field, group))
        return list(options.values())

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the written parameters, one option for each field, and those that show help."""
        *own, shows_help = super().get_params(ctx)
        return [*own, *self.setting_options, shows_help, _SHOW_ALL]

    def shown_options(self, ctx: click.Context, full: bool) -> list[click.Option]:
        """Return the options that ``--help`` (``full``: ``--help-all``) may list."""
        return [p for p in self.get_params(ctx) if isinstance(p, click.Option)]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options by group, the command's own first."""
        full = ctx.meta.get(_HELP_ALL, False)
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in self.group_order}
        for option in self.shown_options(ctx, full):
            record = option.get_help_record(ctx)
            if record and (full or not getattr(option, "advanced", False)):
                groups.setdefault(getattr(option, "group", "Options"), []).append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command with the options that were given as ``settings``."""
        # Without defaults: the models have them, and they must not override a recipe.
        settings: dict[str, Any] = {}
        for name in [option.name or "" for option in self.setting_options]:
            value = ctx.params.pop(name)
            if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                settings[name] = value
        ctx.params["settings"] = settings
        return super().invoke(ctx)


def _show_all(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    # Shell completion parses resiliently and must print nothing.
    if value and not ctx.resilient_parsing:
        ctx.meta[_HELP_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


_SHOW_ALL: Final = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all options with explanations and exit.",
)


class _Choice(click.Choice):  # type: ignore[type-arg]
    """A choice whose error suggests the nearest value; click lists all of them."""

    def convert(self, value: Any, param: Any, ctx: click.Context | None) -> Any:
        if str(value) not in map(str, self.choices):
            why, hint = f"'{printable(value)}' is unknown", did_you_mean(value, self.choices)
            raise UsageError("option", param.opts[-1], why, hint)
        return super().convert(value, param, ctx)


def _click_type(annotation: Any) -> Any:
    if typing.get_origin(annotation) is tuple:
        return tuple(map(_click_type, typing.get_args(annotation)))
    if typing.get_origin(annotation) is typing.Literal:
        return _Choice(typing.get_args(annotation))
    return {int: click.INT, float: click.FLOAT, Path: FOLDER}.get(annotation, click.STRING)


# ------------------------------------------------------------------------------------------ running
@contextmanager
def frozen_imports() -> Iterator[None]:
    """Exempt what the block imports, and all objects so far, from garbage collection.

    The collector would search them many times while they are imported, and again at the end: torch
    and its compiler create a million objects, which stay. For commands only: in a process of a
    caller, the caller's garbage would stay, too.
    """
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # later commands in one process import little
            gc.freeze()
        gc.enable()


def run_command_line(
    command: click.Command, argv: Sequence[str] | None = None, name: str = "", prefix: str = ""
) -> int:
    """Run a command line and return its exit code; an error is one line on stderr.

    ``argv`` defaults to ``sys.argv``. ``prefix`` goes before the text of an error.
    """
    _open_streams()
    # A plugin of pydantic is code of another package, which may send data over the network, and to
    # look for plugins pydantic opens a file of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "true")
    # Not click's standalone mode: it prints usage errors in four lines and knows no other errors.
    try:
        result = command.main(args=argv, prog_name=name or None, standalone_mode=False)
    except BaseException as error:
        return _report_error(error, prefix)
    return result if isinstance(result, int) else 0


def _open_streams() -> None:
    """Let a command work without its standard streams, and without a reader of its log."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Otherwise the next file that is opened would take the place of the stream.
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "w" if number else "r"))  # noqa: SIM115
    stderr = sys.__stderr__
    if stderr is not None and stderr is sys.stderr and not stderr.isatty():
        log = io.BufferedWriter(_Log(stderr.fileno(), "wb", closefd=False))
        sys.stderr = io.TextIOWrapper(log, errors="backslashreplace", line_buffering=True)


class _Log(io.FileIO):
    """Standard error on which a full disk, or a reader that is gone, does not end the command."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _report_error(error: BaseException, prefix: str) -> int:
    """Print the line about an error, if it needs one, and return the exit code."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        error = SystemExit(130)
    if isinstance(error, SystemExit):
        if error.code in INTERRUPTED:
            click.echo("interrupted; run the same command again to continue", err=True)
        if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            return 141  # a broken pipe, for which click wraps the stream and exits with 1
        return error.code if isinstance(error.code, int) else 0
    if isinstance(error, click.ClickException):
        _print_usage_error(error)
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in TRAIN_ONLY:
        error = missing_extra(error, "train", "img2img-train")
    if isinstance(error, Img2ImgError):
        _print_error(f"{prefix}{error}")
        return error.exit_code
    if hasattr(error, "exit_code"):
        # A signal ended the training, or another process of it failed: its text says all there is.
        if str(error):
            click.echo(str(error), err=True)
        return int(error.exit_code)
    if os.environ.get("IMG2IMG_TRACEBACK"):
        raise error
    _print_error(prefix + _describe(error))
    return 1


def _print_error(text: str) -> None:
    click.echo(f"{click.style('error', fg='red')}: {text}", err=True)


def _describe(error: BaseException) -> str:
    """Return one line about an unexpected error: a full disk, a bug."""
    if isinstance(error, OSError) and error.strerror:
        name = f"file '{printable(os.fsdecode(error.filename))}': " if error.filename else ""
        too_long = error.errno == errno.ENAMETOOLONG
        hint = "choose a shorter name" if too_long else "fix this, then run the same command again"
        return f"{name}{error.strerror}; {hint}"
    if lacks_memory(error):
        return "out of memory; free some or use fewer processes, then run the command again"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(frame.filename).name}, line {frame.lineno}"
    about = f"{type(error).__name__}: {printable(error)[:300]}"
    return f"internal error in {where}: {about}; set IMG2IMG_TRACEBACK=1 to see the traceback"


def _print_usage_error(error: click.ClickException) -> None:
    """Print a mistake on the command line in one line, with a hint; click prints four.

    A command without any arguments shows its help.
    """
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    # click's parser does not name the command of an option that lacks a value.
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"see '{context.command_path} --help'" if context else "see --help"
    text = " ".join(error.format_message().split()).rstrip(".")
    _print_error(f"{text[:1].lower()}{text[1:]}; {hint}")


# --------------------------------------------------------------------------------- the next command
def shell_line(*words: object) -> str:
    """Return a command line to type: its words, quoted for the shell of this system."""
    # A path that begins with a dash would be an option.
    texts = ["./" * (isinstance(w, Path) and str(w)[0] == "-") + printable(w) for w in words]
    # Not quoted as for Bash: cmd has no single quotes, PowerShell no escapes by backslash.
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)


def print_next(*words: object) -> None:
    """Print the command that follows, on standard error: the output may be read by a program."""
    click.echo(f"next: {shell_line(*words)}", err=True)


# ----------------------------------------------------------------------------------------- progress
REFRESH_SECONDS: Final = 0.2
FIRST_SECONDS: Final = 10.0
QUIET_SECONDS: Final = 60.0
"""Seconds between lines without a terminal; the first comes earlier, as a sign of life."""
MEANINGFUL: Final = 10
MEANINGFUL_SECONDS: Final = 3.0
"""Units and seconds after which an estimate of the time left is meaningful."""

Progress: TypeAlias = Callable[[int, int], None]
"""Function that takes the units done and in total; it may be called at any rate."""
CountOne: TypeAlias = Callable[[], None]
"""Function that is called once for each unit that is done."""

Status: TypeAlias = Callable[[], tuple[str, str]]


def counter_of(progress: Progress, total: int) -> CountOne:
    """Return the function that reports one more unit of ``total`` as done."""
    count = itertools.count(1)
    return lambda: progress(next(count), total)


class ProgressByPart(Protocol):
    """A ``Progress`` that also takes the name of a part counted on its own, as one video."""

    def __call__(self, done: int, total: int, part: str = "", /) -> None:
        """Report the units done and in total, of all or of one part."""


class Display:
    """Lines of text and one bar on ``stream`` (default: standard error)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        # Services and pythonw have no standard error.
        self._stream = stream or sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        self._bar: rich_progress.Progress | None = None
        # The rate counts from the first unit on, which may have waited for imports or a compiler.
        self._title, self._unit, self._total, self._first, self._counting = "", "", 0, 0, False
        self._began = time.monotonic()
        self._due = self._began + FIRST_SECONDS

    def __enter__(self) -> Display:
        if self._stream.isatty():
            self._bar, self._due = _new_bar(self._stream), 0.0
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def line(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def routine_line(self, text: str) -> None:
        """Print one of many lines, as for each epoch; without a terminal at most one a minute."""
        if self._bar is not None:
            self.line(text)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + QUIET_SECONDS
            self.line(text)

    def begin(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
        """Start a bar of ``total`` units, of which ``done`` are done, in place of the last one."""
        self._title, self._total, self._unit = title, total, unit
        self._first, self._counting, self._began = done, False, time.monotonic()
        if self._bar is not None:
            for task in self._bar.task_ids:
                self._bar.remove_task(task)
            self._bar.add_task(title, total=total, completed=done, text="")
            self._bar.refresh()

    def advance(self, done: int, total: int | None = None, status: Status | None = None) -> None:
        """Show that ``done`` units are done, of now ``total`` if that has changed.

        ``status``, called when it is shown, returns what to show in place of these numbers and
        after them.
        """
        self._total = self._total if total is None else total
        now = time.monotonic()
        if done > self._first and not self._counting:
            self._first, self._counting, self._began = done, True, now
        # Drawing for every image would cost more than some images do.
        if now < self._due and (self._bar is None or done != self._total):
            return
        counts, more = status() if status else (f"{done:,} of {self._total:,} {self._unit}", "")
        speed, left = self.rate(done), self.time_left(done)
        rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        text = counts + f", {rate} {self._unit}/s" * (speed > 0) + (left and f", {left} left")
        if self._bar is None:
            self.routine_line(f"{self._title}: {text}" + (more and f", {more}"))
            return
        self._due = now + REFRESH_SECONDS
        text += more and f"\n{more}"
        for task in self._bar.task_ids:
            self._bar.update(task, completed=done, total=self._total, text=text, refresh=True)

    def report(
        self, title: str, unit: str = "images", part_unit: str | None = None
    ) -> ProgressByPart:
        """Return a function that shows the progress reported to it under ``title``.

        The bar starts with the first call, and again whenever ``part`` changes; that of a part has
        the name of the part as its title and counts in ``part_unit``.
        """
        current: str | None = None

        def show(done: int, total: int, part: str = "", /) -> None:
            nonlocal current
            if part != current:
                current = part
                self.begin(part or title, total, done, part_unit or unit if part else unit)
            self.advance(done, total)

        return show

    def rate(self, done: int) -> float:
        """Return the units per second since the first one."""
        return (done - self._first) / max(time.monotonic() - self._began, 1e-9)

    def time_left(self, done: int) -> str:
        """Return the time left at the rate so far in words; "" before it is meaningful."""
        seconds = time.monotonic() - self._began
        if done - self._first < MEANINGFUL or seconds < MEANINGFUL_SECONDS or done >= self._total:
            return ""
        return format_duration((self._total - done) / self.rate(done))


@contextmanager
def progress_of(title: str) -> Iterator[ProgressByPart]:
    """Show progress on standard error while the block runs; yields the function to report it to."""
    with Display() as display:
        yield display.report(title)


def _new_bar(stream: TextIO) -> rich_progress.Progress:
    # Imported here: rich is slow to load, and the help of a command needs no bar.
    from rich import console, progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.fields[text]}", markup=False),
    )
    # Refreshed by hand: the thread of auto_refresh could hold a lock while a worker is forked.
    options: dict[str, Any] = {"auto_refresh": False, "transient": True, "expand": True}
    return progress.Progress(*columns, console=console.Console(file=stream), **options)


def format_duration(seconds: float) -> str:
    """Return a duration in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
