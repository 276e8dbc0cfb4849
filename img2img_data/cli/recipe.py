"""A recipe: one YAML file with the steps of a corpus and the settings of a run.

::

    name: wiki_gaussian
    corpus:                                        # for img2img-data build, in order
      - wiki: {wiki_crop: wiki_crop, out: faces, drop_gray: true}
      - blur: {source: faces/male, out: corpora/gaussian, kind: gaussian, sigma: 3, size: 64}
    run:                                           # for img2img-train --recipe
      loss: l2
      corpora: [corpora/gaussian]
      out: runs/gaussian
    smoke:                                         # the same, small: both commands with --smoke
      corpus: [...]                                # in place of the steps above; without it they stay
      run: {width: 16, epochs: 2}                  # settings that override those of the run

Paths are relative to the current folder. The whole recipe is checked before any work: each key, type and
value, by the models of the steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from img2img_data.build.selection import SELECTION_FILE
from img2img_data.cli.steps import STEPS, DegradeSettings, check_settings, run_step
from img2img_data.core.errors import Img2ImgError, UsageError, printable
from img2img_data.core.progress import Progress
from img2img_data.core.settings_model import Place, accepts_text, build_model, did_you_mean
from img2img_data.core.yaml_file import Document, read_yaml
from img2img_data.corpus.format import CORPUS_FILE
from img2img_data.degradations.spec import parse_spec
from img2img_data.exchange.export import EXPORT_FILE
from img2img_data.exchange.webdataset import INDEX_FILE
from img2img_data.runner.build_folder import Report

Say = Callable[[str], None]
RunStep = Callable[[Progress, Say], tuple[Report, int]]

PAGES: Final = (CORPUS_FILE, SELECTION_FILE, EXPORT_FILE, INDEX_FILE)
"""What a step's folder holds once it is complete: one of these."""
DEGRADES: Final = DegradeSettings.model_fields.keys()
LONGEST: Final = 60
"""Characters of a setting that a dry run shows; a tree of degradations may fill a page."""
SHOWN_LINES: Final = 12
"""Of a step's lines in a dry run: the first few and the last few, when there are more than twice as many."""


class Smoke(BaseModel):
    """The small size of a recipe. Its section ``run`` belongs to img2img-train and is not looked at here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: tuple[dict[str, dict[str, Any]], ...] = Field(
        (), description="the steps of img2img-data build --smoke; without them those of the recipe"
    )
    run: dict[str, Any] = Field(
        {}, description="settings of img2img-train --smoke that override those of the recipe's run"
    )


class Recipe(BaseModel):
    """What a recipe file holds. The section ``run`` belongs to img2img-train and is not looked at here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", description="what the experiment is called")
    about: str = Field("", description="what it shows, in a sentence")
    corpus: tuple[dict[str, dict[str, Any]], ...] = Field(
        (), description="the steps of img2img-data build, in order, each {command: settings}"
    )
    degradation: Any = Field(
        None,
        description="a tree of degradations: for the degrade steps that name none, and degrade --recipe",
    )
    run: dict[str, Any] = Field(
        {}, description="settings of img2img-train; see 'img2img-train schema'"
    )
    smoke: Smoke | None = Field(None, description="the same, small: what --smoke builds and trains")


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """One step of a recipe, checked: its number from 1, command, paths (output last) and settings."""

    number: int
    name: str
    paths: tuple[Path, ...]
    settings: Mapping[str, Any]

    def run(self, extra: Mapping[str, Any]) -> RunStep:
        """Return the function that does the step; ``extra`` settings, where it has them, override its own."""
        known = {name for model in STEPS[self.name].models for name in model.model_fields}
        given = {**self.settings, **{key: value for key, value in extra.items() if key in known}}
        return lambda progress, say: run_step(self.name, self.paths, given, progress, say)

    @property
    def line(self) -> str:
        """The step in one line: number, command, folders."""
        *sources, out = (printable(str(p)) for p in self.paths)
        return f"{self.number}  {self.name}  {' | '.join(sources)} > {out}"


def load_recipe(path: Path, smoke: bool = False) -> tuple[RecipeStep, ...]:
    """Read a recipe, check all of it, and return its steps, with ``smoke`` those of its small size.

    ``UsageError`` names file, line and key of the first mistake.
    """
    document = read_yaml(path)
    place = Place(f"recipe '{printable(str(path))}'", lines=document.lines)
    recipe = build_model(Recipe, _with_texts(document).content, place)
    if not recipe.corpus:
        raise UsageError("recipe", path, "has no 'corpus' steps", "see the files in recipes/")
    if recipe.degradation is not None:
        parse_spec(recipe.degradation, place.below("degradation"))
    full = _steps_of(recipe.corpus, recipe.degradation, place.below("corpus"))
    own = recipe.smoke.corpus if recipe.smoke else ()
    small = _steps_of(own, recipe.degradation, place.below("smoke", "corpus"))
    if smoke and recipe.smoke is None:
        raise UsageError("recipe", path, "has no section 'smoke'", "leave --smoke out")
    return small if smoke and small else full


def _steps_of(
    chain: Sequence[Mapping[str, Mapping[str, Any]]], degradation: Any, place: Place
) -> tuple[RecipeStep, ...]:
    steps: list[RecipeStep] = []
    for index, step in enumerate(chain):
        here = place.below(str(index))
        if len(step) != 1:
            raise here.error([], "is not one {command: settings}", "start each command with '- '")
        ((name, values),) = step.items()
        if name not in STEPS:
            raise here.error([name], "unknown", did_you_mean(name, STEPS))
        if name == "degrade" and degradation is not None and not values.keys() & DEGRADES:
            values = {**values, "degradation": degradation}
        steps.append(_step_of(index + 1, name, values, here.below(name), steps))
    return tuple(steps)


def load_degradation(path: Path) -> Any:
    """Return the tree of degradations in a recipe, checked; ``UsageError`` names the first mistake."""
    document = read_yaml(path)
    if "degradation" not in document.content:
        hint = "write a tree of degradations under that key, as in recipes/mixed.yaml"
        raise UsageError("recipe", path, "has no 'degradation'", hint)
    place = Place(f"recipe '{printable(str(path))}'", ("degradation",), document.lines)
    parse_spec(document.content["degradation"], place)
    return document.content["degradation"]


def _with_texts(document: Document) -> Document:
    """Take a number as the text it was written as where a text is asked for: ``name: 12``."""
    texts = {
        key: str(document.content[key])
        for key in ("name", "about")
        if _is_number(document.content, key)
    }
    return document._replace(content={**document.content, **texts})


def _is_number(values: Mapping[str, Any], key: str) -> bool:
    return isinstance(values.get(key), int | float) and not isinstance(values[key], bool)


def _step_of(
    number: int, name: str, values: Mapping[str, Any], place: Place, before: Sequence[RecipeStep]
) -> RecipeStep:
    step = STEPS[name]
    known = {*step.paths, *(f for m in step.models for f in m.model_fields)}
    for key in values:
        if key not in known:
            raise place.error([key], "unknown", did_you_mean(key, known))
    paths = tuple(_path_of(name, key, values, place) for key in step.paths)
    for earlier in before:
        if os.path.abspath(earlier.paths[-1]) == os.path.abspath(paths[-1]):
            why = f"is the output of step {earlier.number} ({earlier.name}) too"
            raise place.error([step.paths[-1]], why, "give each step a folder of its own")
    texts = {f for m in step.models for f, field in m.model_fields.items() if accepts_text(field)}
    settings = {
        key: str(value) if key in texts and _is_number(values, key) else value
        for key, value in values.items()
        if key not in step.paths
    }
    check_settings(name, settings, place)
    return RecipeStep(number, name, paths, settings)


def _path_of(name: str, key: str, values: Mapping[str, Any], place: Place) -> Path:
    if key not in values:
        raise place.error(
            [key], "missing", f"say which folder; 'img2img-data {name} --help' tells more"
        )
    value = str(values[key]) if _is_number(values, key) else values[key]
    if not isinstance(value, str) or not value or "\0" in value:
        raise place.error(
            [key], f"is no path (got {printable(repr(values[key]))[:80]})", "name a folder"
        )
    return Path(value)


# -------------------------------------------------------------------------------------------- dry run
def forecast_recipe(steps: Sequence[RecipeStep], extra: Mapping[str, Any], say: Say) -> int:
    """Say what each step would do, what it would read and write, and what is there already; return the exit
    code that the mistakes found on the way mean. Nothing is written.
    """
    worst = 0
    for step in steps:
        say(step.line)
        lines: list[str] = [_settings_line(step)]
        lines += [f"reads {line}" for line in _made_before(step, steps)]
        if _waits(step, steps):
            lines.append("its sources are counted when they are there")
        else:
            worst = max(worst, _forecast_step(step, extra, lines.append))
        for line in _abridged(lines, step.name):
            say(f"   {line}")
    return worst


def _forecast_step(step: RecipeStep, extra: Mapping[str, Any], say: Say) -> int:
    try:
        return step.run({**extra, "dry_run": True})(lambda done, total: None, say)[1]
    except Img2ImgError as error:
        say(f"error: {error}")
        return error.exit_code


def _settings_line(step: RecipeStep) -> str:
    texts = {key: printable(str(value)) for key, value in step.settings.items()}
    said = (
        f"{key}={text if len(text) <= LONGEST else text[:LONGEST] + '…'}"
        for key, text in texts.items()
    )
    return f"settings: {', '.join(said) or 'the defaults'}"


def _made_before(step: RecipeStep, steps: Sequence[RecipeStep]) -> Iterator[str]:
    """Yield a line for each source that an earlier step makes."""
    for source, maker in _makers(step, steps):
        state = "is complete already" if _is_complete(maker) else "is not done yet"
        there = "" if source.is_dir() or not _is_complete(maker) else ", but makes no such folder"
        yield f"'{printable(str(source))}', made by step {maker.number} ({maker.name}), which {state}{there}"


def _waits(step: RecipeStep, steps: Sequence[RecipeStep]) -> bool:
    return any(not _is_complete(maker) for _, maker in _makers(step, steps))


def _makers(step: RecipeStep, steps: Sequence[RecipeStep]) -> Iterator[tuple[Path, RecipeStep]]:
    for source in step.paths[:-1]:
        for earlier in steps[: step.number - 1]:
            made, wanted = (Path(os.path.abspath(p)) for p in (earlier.paths[-1], source))
            if made == wanted or made in wanted.parents:
                yield source, earlier


def _is_complete(step: RecipeStep) -> bool:
    """Tell whether a step's folder has its last page, which is written when all else is there."""
    return any((step.paths[-1] / page).is_file() for page in PAGES)


def _abridged(lines: Sequence[str], name: str) -> list[str]:
    if len(lines) <= 2 * SHOWN_LINES:
        return list(lines)
    between = f"... {len(lines) - 2 * SHOWN_LINES:,} more lines; 'img2img-data {name} --dry-run' shows all"
    return [*lines[:SHOWN_LINES], between, *lines[-SHOWN_LINES:]]
