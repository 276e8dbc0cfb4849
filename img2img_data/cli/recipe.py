"""Recipes: YAML files with the steps of a corpus and the settings of a run.

::

    name: wiki_gaussian
    about: Deblurring of faces.                    # img2img-data recipes lists these two
    needs: faces of IMDB-WIKI in wiki_crop
    size: 64
    minutes: 5                                     # where they were measured
    score: PSNR 25.9 dB (input 22.6)
    corpus:                                        # for img2img-data build, in order
      - wiki: {wiki_crop: wiki_crop, out: faces, drop_gray: true}
      - blur: {source: faces/male, out: corpora/gaussian, kind: gaussian, sigma: 3, size: 64}
    run:                                           # for img2img-train --recipe
      loss: l2
      corpora: [corpora/gaussian]
      out: runs/gaussian
    smoke:                                         # the small size, of both commands with --smoke
      corpus: [...]                                # replaces the steps above; optional
      run: {width: 16, epochs: 2}                  # overrides settings of the run

Paths are relative to the current folder. The whole recipe is checked before any work: each key,
type and value, by the models of the steps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any, Final

from pydantic import Field

from img2img_data.builds.image_folders import SELECTION_FILE
from img2img_data.cli.steps import STEPS, DegradeSettings, check_settings, run_step
from img2img_data.core.command_line import Echo
from img2img_data.core.errors import Img2ImgError, UsageError, printable
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import Place, build_model, did_you_mean
from img2img_data.core.yaml_file import EXAMPLE, read_yaml, shipped_recipes
from img2img_data.corpus.format import CORPUS_FILE
from img2img_data.degradations.spec import parse_spec
from img2img_data.exchange.export import EXPORT_FILE
from img2img_data.exchange.webdataset import INDEX_FILE

LAST_FILES: Final = (CORPUS_FILE, SELECTION_FILE, EXPORT_FILE, INDEX_FILE)
"""Files that a step writes last: a folder that has one of them is complete."""
MAX_SHOWN: Final = 60
"""Characters of a setting that a dry run shows; a pipeline of degradations may fill a page."""
SHOWN_LINES: Final = 12
"""First and last lines of a step that a dry run shows, if it has more than twice as many."""
INDENT: Final = "    "

Steps = tuple[dict[str, dict[str, Any]], ...]
"""Steps as a recipe has them, each {command: settings}."""


class Figures(FrozenModel):
    """Expectations of one size of a recipe: pixels, minutes, score."""

    size: int | None = Field(None, ge=1)
    """side of the images of the corpus, or of the longer side, pixels"""
    minutes: float | None = Field(None, gt=0)
    """minutes of training, measured on one or two CPU cores"""
    score: str = ""
    """score of the run on held-out images, as measured"""


class Smoke(Figures):
    """The small size of a recipe; img2img-train reads its section ``run``."""

    corpus: Steps = ()
    """steps of img2img-data build --smoke; default: those of the recipe"""
    run: dict[str, Any] = Field(default={})
    """settings of img2img-train --smoke, which override those of the recipe"""


class Recipe(Figures):
    """The content of a recipe file; img2img-train reads the section ``run``."""

    name: str = ""
    """name of the experiment"""
    about: str = ""
    """purpose of the experiment, in one sentence"""
    needs: str = ""
    """images that it needs, with their folders, relative to the current one"""
    corpus: Steps = ()
    """steps of img2img-data build, in order, each {command: settings}"""
    degradation: Any = None
    """a pipeline of degradations: for degrade steps without one, and degrade --recipe"""
    run: dict[str, Any] = Field(default={})
    """settings of img2img-train; see 'img2img-train schema'"""
    smoke: Smoke | None = None
    """the small size, for --smoke"""


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """One checked step of a recipe: its number from 1, command, folders (output last), settings."""

    number: int
    name: str
    paths: tuple[Path, ...]
    settings: Mapping[str, Any]

    def with_jobs(self, jobs: int | None) -> RecipeStep:
        """Return the step with that number of workers, if it has workers and ``jobs`` is given."""
        if jobs is None or "jobs" not in STEPS[self.name].fields():
            return self
        return replace(self, settings={**self.settings, "jobs": jobs})

    @property
    def line(self) -> str:
        """The step in one line: number, command, folders."""
        *sources, out = (printable(path) for path in self.paths)
        return f"{self.number}  {self.name}  {' | '.join(sources)} > {out}"


# ------------------------------------------------------------------------------------------ reading
def describe_recipes() -> Iterator[str]:
    """Yield lines about the recipes that come with the program: by use, then by what they need."""
    found = {n: build_model(Recipe, *read_yaml(path)) for n, path in shipped_recipes().items()}
    width = max(map(len, found))

    def rows(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            text = f"{INDENT}{name:<{width}}  {found[name].about}"
            yield from wrap(text, 98, subsequent_indent=" " * (width + len(INDENT) + 2))

    yield "Degradations of your photos: img2img-data degrade PHOTOS OUT --recipe NAME"
    yield from rows(n for n, r in found.items() if r.degradation is not None)
    yield "Corpora: img2img-data build NAME, and where it has a run: img2img-train --recipe NAME"
    for needs in dict.fromkeys(recipe.needs for recipe in found.values() if recipe.corpus):
        yield from wrap(f"needs {needs}", 98, initial_indent="  ", subsequent_indent=INDENT)
        yield from rows(n for n, r in found.items() if r.needs == needs)
    yield "'img2img-data recipes NAME' prints one, with its size and what was measured"


def load_recipe(path: Path | str, smoke: bool = False) -> tuple[RecipeStep, ...]:
    """Read and check a whole recipe; return its steps, or with ``smoke`` those of its small size.

    ``path`` may also be a name. ``UsageError`` names file, line and key of the first mistake.
    """
    content, place = read_yaml(path)
    recipe = build_model(Recipe, content, place)
    if not recipe.corpus:
        apply = f"'img2img-data degrade PHOTOS OUT --recipe {printable(path)}' applies it"
        hint = f"{EXAMPLE} shows an example" if recipe.degradation is None else apply
        raise UsageError("recipe", path, "has no 'corpus' steps", hint)
    if recipe.degradation is not None:
        parse_spec(recipe.degradation, place.below("degradation"))
    # Both sizes are checked, whichever is built: a mistake must not wait for the long run.
    full = _read_steps(recipe.corpus, recipe.degradation, place.below("corpus"))
    chain = recipe.smoke.corpus if recipe.smoke else ()
    small = _read_steps(chain, recipe.degradation, place.below("smoke", "corpus"))
    if smoke and recipe.smoke is None:
        raise UsageError("recipe", path, "has no section 'smoke'", "leave --smoke out")
    return small if smoke and small else full


def _read_steps(chain: Steps, degradation: Any, place: Place) -> tuple[RecipeStep, ...]:
    steps: list[RecipeStep] = []
    for number, entry in enumerate(chain, 1):
        here = place.below(str(number - 1))
        if len(entry) != 1:
            raise here.error([], "is not a single {command: settings}", "begin each with '- '")
        ((name, values),) = entry.items()
        if name not in STEPS:
            raise here.error([name], "unknown", did_you_mean(name, STEPS))
        # A step with a degradation of its own does not take the recipe's.
        own = DegradeSettings.model_fields.keys() & values.keys()
        if name == "degrade" and degradation is not None and not own:
            values = {**values, "degradation": degradation}
        here, folders = here.below(name), STEPS[name].paths
        settings = {key: value for key, value in values.items() if key not in folders}
        check_settings(name, settings, here)
        paths = tuple(_read_path(name, key, values, here) for key in folders)
        for step in steps:
            if os.path.abspath(step.paths[-1]) == os.path.abspath(paths[-1]):
                why = f"is also the output of step {step.number} ({step.name})"
                raise here.error([folders[-1]], why, "give each step its own folder")
        steps.append(RecipeStep(number, name, paths, settings))
    return tuple(steps)


def _read_path(name: str, key: str, values: Mapping[str, Any], place: Place) -> Path:
    if key not in values:
        raise place.error([key], "missing", f"give the folder; see 'img2img-data {name} --help'")
    value = values[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # a folder may be called 2024
    if not isinstance(value, str) or not value or "\0" in value:
        why = f"is not a path (got {printable(repr(value))[:80]})"
        raise place.error([key], why, "give a folder")
    return Path(value)


# ------------------------------------------------------------------------------------------ dry run
def forecast_recipe(steps: Sequence[RecipeStep], echo: Echo) -> int:
    """Print what each step would read and write, and what exists already; nothing is written.

    Returns the largest exit code of the mistakes found on the way.
    """
    worst = 0
    for step in steps:
        echo(step.line)
        lines = [_describe_settings(step)]
        sources = list(_needs(step, steps))
        lines += [_describe_source(source, earlier) for source, earlier in sources]
        # Sources that earlier steps have yet to write cannot be counted.
        if all(_is_complete(earlier) for _, earlier in sources):
            settings = {**step.settings, "dry_run": True}
            try:
                code = run_step(step.name, step.paths, settings, lambda *_: None, lines.append)[1]
            except Img2ImgError as error:  # the steps after it are reported too
                lines.append(f"error: {error}")
                code = error.exit_code
            worst = max(worst, code)
        else:
            lines.append("its sources cannot be counted before they exist")
        left_out = len(lines) - 2 * SHOWN_LINES
        if left_out > 1:
            note = f"... {left_out:,} more lines; 'img2img-data {step.name} --dry-run' shows all"
            lines[SHOWN_LINES:-SHOWN_LINES] = [note]
        for line in lines:
            echo(f"   {line}")
    return worst


def _describe_settings(step: RecipeStep) -> str:
    texts = {key: printable(str(value)) for key, value in step.settings.items()}
    shown = (f"{k}={t[:MAX_SHOWN]}{'…' * (len(t) > MAX_SHOWN)}" for k, t in texts.items())
    return f"settings: {', '.join(shown) or 'the defaults'}"


def _describe_source(source: Path, earlier: RecipeStep) -> str:
    complete = _is_complete(earlier)
    state = "is already complete" if complete else "has not run yet"
    missing = " but has no such folder" if complete and not source.is_dir() else ""
    name = printable(source)
    return f"reads '{name}', made by step {earlier.number} ({earlier.name}), which {state}{missing}"


def _needs(step: RecipeStep, steps: Sequence[RecipeStep]) -> Iterator[tuple[Path, RecipeStep]]:
    """Yield each source of a step that an earlier one writes in whole or part, and that one."""
    for source in step.paths[:-1]:
        for earlier in steps[: step.number - 1]:
            output, needed = (Path(os.path.abspath(p)) for p in (earlier.paths[-1], source))
            if output == needed or output in needed.parents or needed in output.parents:
                yield source, earlier


def _is_complete(step: RecipeStep) -> bool:
    return any((step.paths[-1] / name).is_file() for name in LAST_FILES)
