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

Paths are relative to the current folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from img2img_data.engine import Progress
from img2img_data.errors import UsageError
from img2img_data.fields import build_model, did_you_mean
from img2img_data.outcome import Report
from img2img_data.steps import STEPS, run_step

RunStep = Callable[[Progress, Callable[[str], None]], tuple[Report, int]]


class Recipe(BaseModel):
    """What a recipe file holds. The ``run`` section belongs to img2img-train and is not looked at here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", description="what the experiment is called")
    about: str = Field("", description="what it shows, in a sentence")
    corpus: tuple[dict[str, dict[str, Any]], ...] = Field(
        (), description="the steps, each {command: settings}"
    )
    run: dict[str, Any] = Field({}, description="settings of img2img-train")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, read without running anything; ``UsageError`` when it is none."""
    import yaml

    try:
        content = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise UsageError("recipe", path, error.strerror or str(error), "check the path") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise UsageError("recipe", path, f"is no YAML{line}", "mend the file") from None
    if not isinstance(content, dict):
        raise UsageError("recipe", path, "is no mapping of name, corpus and run", "see the files in recipes/")
    return content


def load_recipe(path: Path) -> Recipe:
    """Read a recipe and check its steps by name, so that a mistake shows before any work."""
    recipe = build_model(Recipe, read_yaml(path), f"recipe '{path}'")
    if not recipe.corpus:
        raise UsageError("recipe", path, "has no 'corpus' steps", "see the files in recipes/")
    for number, step in enumerate(recipe.corpus):
        where = f"corpus.{number}"
        if len(step) != 1:
            raise UsageError(
                "recipe", path, f"{where} is not one {{command: settings}}", "start each with '- '"
            )
        ((name, values),) = step.items()
        if name not in STEPS:
            raise UsageError(
                f"recipe '{path}': step", f"{where}.{name}", "unknown", did_you_mean(name, STEPS)
            )
        _check_step(path, f"{where}.{name}", name, values)
    return recipe


def _check_step(path: Path, where: str, name: str, values: Mapping[str, Any]) -> None:
    step = STEPS[name]
    known = {*step.paths, *(f for m in step.models for f in m.model_fields)}
    for key in values:
        if key not in known:
            raise UsageError(f"recipe '{path}': key", f"{where}.{key}", "unknown", did_you_mean(key, known))
    for needed in step.paths:
        if needed not in values:
            raise UsageError(f"recipe '{path}': key", f"{where}.{needed}", "missing", "say which folder")


def run_recipe(recipe: Recipe, extra: Mapping[str, Any]) -> Iterator[tuple[str, list[Path], RunStep]]:
    """Yield (command, paths, function that does it) for each step; ``extra`` settings go to every step."""
    for step in recipe.corpus:
        ((name, values),) = step.items()
        paths = [Path(str(values[p])) for p in STEPS[name].paths]
        given = {k: _as_text(k, v) for k, v in values.items() if k not in STEPS[name].paths}
        yield name, paths, partial(run_step, name, paths, {**given, **extra})


def _as_text(key: str, value: Any) -> Any:
    return str(value) if key == "size" else value
