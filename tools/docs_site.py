"""Pages of the documentation that are generated from the code, and a hook of MkDocs that adds them.

``pages()`` returns Markdown by the path of the page: the commands of both programs with all
options, the public names for Python, the registries, the recipes, and the pages that stand at the
top of the repository. ``mkdocs.yml`` names this file as a hook; ``make docs`` builds the site.
"""

from __future__ import annotations

import inspect
import json
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any, Final

import click

import img2img_data
import img2img_train
from img2img_data.cli.main import group as data_group
from img2img_data.core import command_line
from img2img_data.core.command_line import EXIT_CODES, CommandGroup
from img2img_train.cli.main import group as train_group

ROOT: Final = Path(__file__).parents[1]
PROGRAMS: Final = {"img2img-data": data_group, "img2img-train": train_group}
PACKAGES: Final = {"img2img_data": img2img_data, "img2img_train": img2img_train}
TOP_PAGES: Final = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages of the site that are files at the top of the repository."""
LINK: Final = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)(?=[)#])")
"""The path of a relative link or image."""
LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


# ---------------------------------------------------------------------------------------- commands
def command_pages(program: str, group: CommandGroup) -> Iterator[tuple[str, str]]:
    """Yield the page of a program, and one for each of its commands."""
    context = click.Context(group, info_name=program, **group.context_settings)
    lines = [f"# {program}", *_help_text(group), "## Commands"]
    for section, commands in group.sections.items():
        rows = [(f"[`{name}`]({name}.md)", _prose(about)) for name, about in commands.items()]
        lines += [f"### {section}", _table(("command", "result"), rows)]
    lines += ["## Options", "\n\n".join(_option(o, context) for o in _options(group, context))]
    lines += [_exit_code_table()]
    yield f"reference/{program}/index.md", _page(lines)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"reference/{program}/{name}.md", _command_page(command, context)


def _command_page(command: click.Command, parent: click.Context) -> str:
    context = click.Context(command, parent, info_name=command.name)
    context.meta[command_line._HELP_ALL] = True
    usage = " ".join(command.get_usage(context).split()).removeprefix("Usage: ")
    lines = [f"# {parent.info_name} {command.name}", *_help_text(command)]
    lines += ["## Usage", f"```text\n{usage}\n```"]
    groups: dict[str, list[str]] = {name: [] for name in getattr(command, "group_order", ())}
    for option in _options(command, context):
        section = getattr(option, "group", "Options")
        groups.setdefault(section, []).append(_option(option, context))
    for section, options in groups.items():
        lines += [f"## {section}", *options] if options else []
    if command.name == "fit":
        lines += _defaults_by_loss()
    return _page(lines)


def _options(command: click.Command, context: click.Context) -> list[click.Option]:
    if isinstance(command, command_line.ModelCommand):
        return command.shown_options(context, True)
    return [p for p in command.get_params(context) if isinstance(p, click.Option)]


def _help_text(command: click.Command) -> list[str]:
    """Return the help of a command as paragraphs; its example becomes a block of code."""
    paragraphs = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        title, _, rest = paragraph.partition("\n")
        if title == "\b":
            _, _, example = rest.partition("\n")
            lines = [line.strip() for line in example.splitlines()]
            paragraphs.append("\n".join(["```sh", *lines, "```"]))
        else:
            paragraphs.append(_prose(" ".join(paragraph.split())))
    return paragraphs


def _option(option: click.Option, context: click.Context) -> str:
    """Return an option as an entry of a definition list: flags, then help, choices and default."""
    flags, text = option.get_help_record(context) or (", ".join(option.opts), "")
    about, *notes = re.split(r"  (?=\[)", text)
    anchor = max(option.opts, key=len)
    entry = f"`{flags}`{{ #{anchor.lstrip('-')} }}\n:   {_prose(_sentence(about))}"
    return f"{entry}{''.join(f' {_note(note[1:-1])}' for note in notes)}"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!")) else f"{text}."


def _note(text: str) -> str:
    if text.startswith("default: "):
        return f"Default: `{text.removeprefix('default: ')}`."
    if re.match(r"[<>]", text):
        return f"Range: {_prose(text)}."
    return f"Values: {', '.join(f'`{value}`' for value in text.split(', '))}."


def _prose(text: str) -> str:
    """Return text with flags and quoted commands as code, and no character that Markdown reads."""
    text = re.sub(r"\*", r"\\*", text.replace("``", "`")).replace("<", "&lt;")
    text = re.sub(r"'([a-z][\w ./-]+)'", r"`\1`", text)
    return re.sub(r"(?<![\w`'-])(--[a-z][a-z-]*)(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)", r"`\1`", text)


def _defaults_by_loss() -> list[str]:
    """Return a table of the defaults of ``fit`` that depend on the loss."""
    from img2img_train.config import DEFAULT_LOSS, fields_of
    from img2img_train.objectives.registry import OBJECTIVES

    fields = {loss: fields_of(loss) for loss in OBJECTIVES}
    names = dict.fromkeys(name for loss in fields for name in fields[loss])
    rows = []
    for name in names:
        cells = [fields[loss][name].default if name in fields[loss] else "" for loss in fields]
        if len({str(cell) for cell in cells if cell != ""}) > 1:
            shown = ["auto" if cell is None else cell for cell in cells]
            rows.append((f"`--{name.replace('_', '-')}`", *shown))
    about = (
        f"Where the defaults depend on the loss, those above are of `{DEFAULT_LOSS}`. An empty"
        " cell: the loss has no such setting; `auto`: the text of the option says how it is chosen."
    )
    return ["## Defaults by loss", about, _table(("option", *(f"`{n}`" for n in fields)), rows)]


def _exit_code_table() -> str:
    rows = [(code, about) for code, about in EXIT_CODES.items()]
    return "## Exit codes\n\n" + _table(("code", "meaning"), rows)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    cells = [list(head), *([str(cell).replace("|", r"\|") for cell in row] for row in rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


# --------------------------------------------------------------------- Python names and registries
def python_page(package: str) -> str:
    """Return the page of the public names of a package; mkdocstrings fills in their docstrings."""
    module = PACKAGES[package]
    about = (module.__doc__ or "").strip().partition("\n\n")
    names = [name for name in module.__all__ if name != "__version__"]
    lines = [f"# {package}", about[0], fence_doctests(about[2])]
    return _page([*lines, *(f"::: {package}.{name}" for name in names)])


def fence_doctests(text: str) -> str:
    """Return a docstring with its examples in fences; Markdown would take them for quotes."""
    block = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
    return block.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```", text)


def registry_pages() -> Iterator[tuple[str, str]]:
    """Yield a page for each registry: its members, with docstring and settings."""
    from img2img_data.degradations.registry import DEGRADATIONS
    from img2img_train.evaluation.baselines import BASELINES
    from img2img_train.metrics.registry import METRICS

    lines = [
        "# Degradations",
        "The kinds of degradations, for `img2img-data degrade --kind NAME`, for the pipelines of"
        " recipes, and for [`img2img_data.degradation`](python/img2img_data.md)."
        " `img2img-data degradations NAME --on photo.jpg` shows one on an image. A parameter is a"
        " number or a range, from which each image draws its own number.",
    ]
    for name, kind in DEGRADATIONS.items():
        lines += [f"## {name}", _docstring(kind), *_settings(kind)]
    yield "reference/degradations.md", _page(lines)

    metrics = [
        (f"`{name}`", f"{row.label} {row.unit}", str(row.better), _prose(row.definition))
        for name, row in METRICS.items()
    ]
    baselines = [
        (f"`{name}`", _docstring(row.restore).partition("\n")[0]) for name, row in BASELINES.items()
    ]
    lines = ["# Metrics and baselines", "## Metrics"]
    lines += [_table(("name", "metric", "better", "definition"), metrics), "## Baselines"]
    lines += [_table(("name", "baseline"), baselines)]
    yield "reference/metrics.md", _page(lines)


def _docstring(thing: Any) -> str:
    return fence_doctests(inspect.getdoc(thing) or "").replace("``", "`")


def _settings(model: Any) -> list[str]:
    from img2img_data.core.settings_model import bounds_of, help_of

    entries = []
    for name, field in model.model_fields.items():
        bounds, default = bounds_of(field), "" if field.is_required() else str(field.default)
        notes = [f"default: {default}"] if default else []
        about = _prose(_sentence(help_of(field)))
        notes = [_note(note) for note in [*notes, *([bounds] if bounds else [])]]
        entries.append(f"`{name}`\n:   {' '.join([about, *notes])}")
    return entries


# ---------------------------------------------------------------------------------- recipes, files
def recipes_page() -> str:
    """Return the page of all recipes: purpose, needs, commands, figures, and the file."""
    from img2img_data.cli.recipe import Recipe
    from img2img_data.core.yaml_file import read_yaml, shipped_recipes

    lines = [
        "# Recipes",
        "A recipe is a YAML file with corpora, degradations and a run. All of it is checked before"
        " any work starts, and errors name the line and the key. Those of this page come with the"
        " program and are found by name; `img2img-data recipes NAME > mine.yaml` writes one to"
        " edit, and every command that takes a name takes a path too. Paths in a recipe are"
        " relative to the current folder. `--smoke` takes the small size. Minutes are those of"
        " training on one or two CPU cores; scores are as [measured](../experiments.md).",
    ]
    for name, path in shipped_recipes().items():
        recipe = Recipe.model_validate(read_yaml(path)[0])
        lines += [f"## {name}", f"{_sentence(recipe.about)} Needs {_prose(recipe.needs)}."]
        programs = {"img2img-data build": recipe.corpus, "img2img-train --recipe": recipe.run}
        commands = [f"{program} {name}" for program, part in programs.items() if part]
        lines += ["\n".join(["```sh", *commands, "```"])] if commands else []
        sizes = {"full": recipe, "`--smoke`": recipe.smoke}
        rows = [
            (title, f"{size.size or ''}", f"{size.minutes or ''}", _prose(size.score))
            for title, size in sizes.items()
            if size
        ]
        lines += [_table(("size", "pixels", "minutes", "score"), rows)] if commands else []
        text = indent(f"```yaml\n{path.read_text('utf-8').rstrip()}\n```", "    ")
        lines += [f'??? note "{name}.yaml"\n\n{text}']
    return _page(lines)


def source_page(path: str) -> str:
    """Return a page that shows a file of the repository: a notebook as its cells, a folder as
    links.
    """
    if (ROOT / path).is_dir():
        names = sorted(p.name for p in (ROOT / path).iterdir() if p.is_file())
        return f"# {path}\n\n" + "\n".join(f"- {name}" for name in names) + "\n"
    text = (ROOT / path).read_text("utf-8")
    if not path.endswith(".ipynb"):
        return f"# {path}\n\n~~~~{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}~~~~\n"
    cells = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        cells.append(source if cell["cell_type"] == "markdown" else f"~~~~python\n{source}\n~~~~")
    return _page(cells)


def pages() -> dict[str, str]:
    """Return the generated pages, Markdown by path."""
    found = {path: (ROOT / name).read_text("utf-8") for path, name in TOP_PAGES.items()}
    found["index.md"] = f"---\nhide: [navigation]\n---\n{found['index.md']}"
    for program, group in PROGRAMS.items():
        found |= dict(command_pages(program, group))
    found |= {f"reference/python/{name}.md": python_page(name) for name in PACKAGES}
    return found | dict(registry_pages()) | {"reference/recipes.md": recipes_page()}


def in_site(page: str, target: str) -> tuple[str, str | None]:
    """Return the link from a page to ``target``, and the file of the repository that it needs.

    Links in the repository are relative to its folders; the site has the files at its top and in
    ``docs/`` as pages, and others as pages that show them.
    """
    folder = Path(TOP_PAGES[page]).parent if page in TOP_PAGES else Path("docs") / Path(page).parent
    path = posixpath.normpath((folder / target).as_posix())
    top = {name: page for page, name in TOP_PAGES.items()}
    shown = None
    if path in top:
        path = top[path]
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif path.startswith("recipes/"):
        path = f"reference/recipes.md#{Path(path).stem}"
    elif (ROOT / path).exists():
        path, shown = f"source/{path}.md", path
    return posixpath.relpath(path, posixpath.dirname(page) or "."), shown


# -------------------------------------------------------------------------------- events of MkDocs
_sources: Final = dict[str, str]()
"""Pages that show files of the repository, by path."""


def on_config(config: Any) -> Any:
    """Replace a program in the navigation by its commands."""
    sys.path.insert(0, str(Path(__file__).parent))  # for the extension of Griffe
    config.nav = [_expand(entry) for entry in config.nav]
    return config


def _expand(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {name: _expand(value) for name, value in entry.items()}
    if isinstance(entry, list):
        expanded = []
        for value in map(_expand, entry):
            expanded += value if isinstance(value, list) else [value]
        return expanded
    if entry in PROGRAMS:
        folder = f"reference/{entry}"
        sections = PROGRAMS[entry].sections.items()
        return [
            f"{folder}/index.md",
            *(
                {title: [{name: f"{folder}/{name}.md"} for name in names]}
                for title, names in sections
            ),
        ]
    return entry


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and one for each file of the repository that a page links to."""
    from mkdocs.structure.files import File

    written = {f.src_uri: f.content_string for f in files if f.src_uri.endswith(".md")}
    generated = pages()
    for path, text in {**written, **generated}.items():
        for target in LINK.findall(text):
            link, shown = in_site(path, target)
            if shown:
                generated[posixpath.normpath(posixpath.join(posixpath.dirname(path), link))] = (
                    source_page(shown)
                )
    for path, text in generated.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point the links of a page to the pages of the site."""
    path = page.file.src_uri
    if path.startswith(("reference/", "source/")):
        return markdown
    return LINK.sub(lambda match: in_site(path, match[1])[0], markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Mark the options in code within sentences and tables, which the style keeps in one piece."""
    return re.sub(r"<code>[^<]*</code>", lambda match: _mark_options(match[0]), html)


def _mark_options(code: str) -> str:
    return re.sub(r"(?<!\w)--[a-z][\w-]*", r'<span class="option">\g<0></span>', code)


def navigation(entries: Iterable[Any]) -> Iterator[str]:
    """Yield the paths of the pages in a navigation."""
    for entry in map(_expand, entries):
        if isinstance(entry, Mapping):
            yield from navigation(entry.values())
        elif isinstance(entry, str):
            yield entry
        else:
            yield from navigation(entry)
