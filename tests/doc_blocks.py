"""Blocks of shell and Python in Markdown pages: read, checked without running, and run small.

A block after ``<!-- not run: REASON -->`` is only checked: its programs, commands, options, make
targets, extras and files exist. All others run, in the order of the page, in one folder, smaller:

- options and keywords that set a size have the values of ``SMALL``, splits those of ``SHARES``; a
  training has one epoch, four channels and one thread, an adversarial one small networks;
- a folder or photo that is read and that nothing has written yet is filled with tiny photos.
"""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import write_photos
from docs_site import PACKAGES, PROGRAMS, ROOT

from img2img_data.core.command_line import run_command_line
from img2img_train.config import fields_of

BLOCK = re.compile(
    r"^( *)(?:<!-- not run: (.+?) -->\s*?\n\1)?```(sh|bash|python)\n(.*?)\n\1```$",
    re.MULTILINE | re.DOTALL,
)
SMALL = {
    "size": 24, "tile": 24, "stride": 24, "min-side": 16, "load-size": 28, "crop": 16, "width": 4,
    "d-width": 4, "epochs": 1, "epochs-decay": 0, "batch": 2, "jobs": 1, "workers": 0,
}  # fmt: skip
# Shares of few photos, so that each split has some.
SHARES = {"0.8,val=0.1,test=0.1": "0.6,val=0.2,test=0.2"}
TRAINING = {"--width": "4", "--epochs": "1", "--max-steps": "2", "--threads": "1"}
ADVERSARIAL = {"--net": "unet", "--discriminator": "patch-16", "--d-width": "4"}
SHELL = {
    "cd",
    "cp",
    "mkdir",
    "ls",
    "cat",
    "head",
    "export",
    "ssh",
    "npm",
    "source",
    "git",
    "xdg-open",
    "dask",
    "diff",
    "torchrun",
}
"""Programs of others, which are not run."""
PHOTO = re.compile(r"\.(jpe?g|png)$")


@dataclass(frozen=True)
class Block:
    """A block of code of a page; ``not_run`` is the reason if it is only checked."""

    page: str
    line: int
    language: str
    code: str
    not_run: str | None

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of each command line, without comments and variables of the environment."""
        for line in self.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield words


def read_blocks(path: Path) -> list[Block]:
    text, blocks = path.read_text("utf-8"), []
    for match in BLOCK.finditer(text):
        indent, reason, language, code = match.groups()
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        for share, few in SHARES.items():
            code = code.replace(share, few)
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(Block(path.relative_to(ROOT).as_posix(), line, language, code, reason))
    return blocks


# ---------------------------------------------------------------------------------------- checking
def check(block: Block) -> None:
    """Assert that the programs, options and names of a block exist."""
    if block.language == "python":
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = getattr(PACKAGES.get(f"img2img_{node.value.id}"), "__all__", [node.attr])
                assert node.attr in names, f"{node.value.id}.{node.attr} is not public"
        return
    for words in block.commands:
        check_command(words)


def check_command(words: list[str]) -> None:
    program, *rest = words
    program = Path(program).name
    if found := our_command(words):
        parse(*found)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets), words
    elif program == "pip":
        asked = {e for word in rest for e in re.findall(r"\[(.+)\]", word) for e in e.split(",")}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert asked <= project["optional-dependencies"].keys(), words
    elif program in {"python", "python3"}:
        assert rest[0] == "-m" or (ROOT / rest[0]).is_file(), words
    else:
        assert program in SHELL, words


def our_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Return program and arguments if a command line runs one of ours, by name or as a module."""
    if Path(words[0]).name in PROGRAMS:
        return Path(words[0]).name, words[1:]
    for module in PACKAGES:
        if module in words and words[words.index(module) - 1] == "-m":
            return module.replace("_", "-"), words[words.index(module) + 1 :]
    return None


def parse(program: str, arguments: list[str]) -> tuple[str, click.Context]:
    """Return the command that is named, and its context; a wrong option is an error of click."""
    group = PROGRAMS[program]
    context = group.make_context(program, list(arguments))
    name, command, rest = group.resolve_command(context, context._protected_args + context.args)
    assert name is not None
    assert command is not None
    shown = {"-h", "--help", "--help-all"} & set(rest)
    # Help would be printed, and end the command.
    rest = [word for word in rest if word not in shown] if shown else rest
    return name, command.make_context(name, rest, context, resilient_parsing=bool(shown))


# ----------------------------------------------------------------------------------------- running
def run_page(path: Path, folder: Path) -> None:
    """Run the blocks of a page in ``folder``, which is the current one."""
    for name in ("recipes", "examples"):
        (folder / name).symlink_to(ROOT / name)
    names: dict[str, Any] = {}
    for block in read_blocks(path):
        if block.not_run:
            continue
        where = f"{block.page}, line {block.line}"
        if block.language == "python":
            run_python(block.code, names, where)
            continue
        for words in block.commands:
            run_command(words, f"{where}: {' '.join(words)}")


def run_command(words: list[str], where: str) -> None:
    if found := our_command(words):
        program, arguments = found
        name, context = parse(program, arguments)
        arguments = shrink(arguments, name, context)
        write_sources(name, parse(program, arguments)[1])
        output = StringIO()
        with redirect_stdout(output):
            code = run_command_line(PROGRAMS[program], arguments)
        assert code == 0, f"{where}\n{output.getvalue()}"
    elif Path(words[0]).name.startswith("python") and words[1].endswith(".py"):
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")


def shrink(arguments: list[str], name: str, context: click.Context) -> list[str]:
    """Return the arguments of a command with small sizes, one process and few steps."""
    small = list(arguments)
    for index, word in enumerate(small[:-1]):
        if word.removeprefix("--") in SMALL and word.startswith("--"):
            small[index + 1] = str(SMALL[word.removeprefix("--")])
    added: dict[str, str] = {}
    if name == "fit":
        loss = context.params.get("loss") or context.params.get("preset") or ""
        adversarial = loss in {"pix2pix", "cyclegan"} or "discriminator" in fields_of(loss or "l1")
        added = TRAINING | (ADVERSARIAL if adversarial else {})
    elif any("--jobs" in parameter.opts for parameter in context.command.get_params(context)):
        added = {"--jobs": "1"}
    for flag, value in added.items():
        if flag in small and flag in ADVERSARIAL:
            small[small.index(flag) + 1] = value
        elif flag not in small:
            small += [flag, value]
    return small


def write_sources(name: str, context: click.Context) -> None:
    """Write tiny photos where a command reads a folder or a photo that does not exist."""
    from img2img_data.cli.steps import STEPS

    read = {"translate": ("images",), "degradations": ("on",)}.get(name, ())
    if name in STEPS and name not in {"sample", "export", "pack", "unpack", "import", "wiki"}:
        read = STEPS[name].paths[:-1]
    for path in (context.params.get(key) for key in read):
        if path is not None:
            write_source(Path(path))


def write_source(path: Path) -> None:
    if path.exists():
        return
    if PHOTO.search(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_photos(Path("tiny"), 1) / "000.jpg").rename(path)
    else:
        write_photos(path, 24)


def run_python(code: str, names: dict[str, Any], where: str) -> None:
    import img2img_train

    keywords = "|".join(name.replace("-", "_") for name in SMALL)
    for node in ast.walk(ast.parse(code)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and (PHOTO.search(text) or re.fullmatch(r"\w+/", text)):
            write_source(Path(text))
    code = re.sub(rf"\b({keywords})=\d+", lambda m: f"{m[1]}={SMALL[m[1].replace('_', '-')]}", code)
    fit = img2img_train.fit

    def fit_small(corpora: Any, out: Any = "", **settings: Any) -> Any:
        return fit(corpora, out, **{"width": 4, "epochs": 1, "threads": 1, **settings})

    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()):
        patch.setattr(img2img_train, "fit", fit_small, raising=False)
        with suppress(SystemExit):
            exec(compile(code, where, "exec"), names)
