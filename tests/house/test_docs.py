"""Every command, option, public name and registered member is documented, and every page listed."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import click
import pytest
import yaml
from docs_site import PACKAGES, PROGRAMS, ROOT, navigation, pages

from img2img_data.core.command_line import EXIT_CODES
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_train.evaluation.baselines import BASELINES
from img2img_train.metrics.registry import METRICS

COMMANDS = [
    (program, name)
    for program, group in PROGRAMS.items()
    for name in group.list_commands(click.Context(group))
]

generated = cache(pages)


class MkDocsLoader(yaml.SafeLoader):
    """YAML with the tags that MkDocs adds."""


def read_navigation() -> set[str]:
    config = yaml.load((ROOT / "mkdocs.yml").read_text("utf-8"), MkDocsLoader)
    return set(navigation(config["nav"]))


@pytest.mark.parametrize(("program", "name"), COMMANDS, ids=lambda value: value)
def test_every_option_of_every_command_is_documented(program: str, name: str) -> None:
    group = PROGRAMS[program]
    context = click.Context(group, info_name=program, **group.context_settings)
    command: Any = group.get_command(context, name)
    page = generated()[f"reference/{program}/{name}.md"]
    for option in command.get_params(click.Context(command, context, info_name=name)):
        if isinstance(option, click.Option):
            for flag in option.opts:
                assert re.search(rf"{re.escape(flag)}(?![\w-])", page), flag
    assert "```sh\n" in page, "no example"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package: str) -> None:
    page = generated()[f"reference/python/{package}.md"]
    for name in set(PACKAGES[package].__all__) - {"__version__"}:
        assert f"::: {package}.{name}\n" in page
        assert getattr(PACKAGES[package], name).__doc__


def test_every_registered_member_is_documented() -> None:
    degradations = generated()["reference/degradations.md"]
    assert all(f"\n## {name}\n" in degradations for name in DEGRADATIONS)
    metrics = generated()["reference/metrics.md"]
    assert all(f"| `{name}` |" in metrics for name in {**METRICS, **BASELINES})
    recipes = generated()["reference/recipes.md"]
    assert all(f"\n## {path.stem}\n" in recipes for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_of_a_program_has_all_commands_and_exit_codes(program: str) -> None:
    page = generated()[f"reference/{program}/index.md"]
    assert all(f"| {code} | {about} |" in page for code, about in EXIT_CODES.items())
    assert all(f"({name}.md)" in page for other, name in COMMANDS if other == program)


def test_the_navigation_has_every_page_and_no_other() -> None:
    docs = ROOT / "docs"
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert read_navigation() == written | generated().keys()


def test_pages_have_a_title_and_short_lines() -> None:
    for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]:
        lines = path.read_text("utf-8").splitlines()
        assert lines[0].startswith("# "), path
    for number, line in enumerate((ROOT / "README.md").read_text("utf-8").splitlines(), 1):
        assert len(line) <= 120 or line.startswith("|"), f"line {number} of README.md"
