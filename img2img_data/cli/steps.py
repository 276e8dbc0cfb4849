"""The steps that make corpora: one for each command, called by the command line and by recipes alike.

A step takes the paths and the settings that were given, by name, and returns a ``Report``. Adding one: a
function, and a row in ``STEPS``.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from img2img_data.build.pairings import (
    Blank,
    Blur,
    Colorize,
    Combine,
    Degrade,
    Edges,
    Grayscale,
    Halves,
    Pairing,
    Unpaired,
)
from img2img_data.build.pairs import BuildSettings, corpus_build
from img2img_data.build.resize_folder import ResizeSettings, resize_build
from img2img_data.build.selection import (
    EXPECTED_REASONS,
    SelectSettings,
    WikiSettings,
    field_of,
    selection_build,
)
from img2img_data.core.errors import UsageError, printable
from img2img_data.core.progress import Progress
from img2img_data.core.settings_model import (
    OPTIONS,
    Place,
    build_model,
    did_you_mean,
    split_settings,
)
from img2img_data.corpus.format import CORPUS_FILE
from img2img_data.corpus.layouts import LAYOUTS, find_layout
from img2img_data.degradations.compose import PipelineStep
from img2img_data.degradations.registry import BLUR_KINDS, DEGRADATIONS
from img2img_data.degradations.spec import parse_assignments, parse_spec
from img2img_data.exchange.export import ExportSettings, export_corpus
from img2img_data.exchange.webdataset import INDEX_FILE, PackSettings, pack_corpus, unpack_corpus
from img2img_data.images.io import Channels
from img2img_data.runner.build_folder import Report
from img2img_data.runner.plan import Plan, plan_entries, plan_folders, plan_pairs
from img2img_data.runner.run import RunSettings, run_build
from img2img_data.sources.folder import Item, describe_skipped, list_folder
from img2img_data.sources.imdb_wiki import find_mat, list_wiki
from img2img_data.sources.matching import (
    MatchSettings,
    better_match,
    describe_matching,
    match_paths,
)

Settings = Mapping[str, Any]
Run = Callable[[Sequence[Path], Settings, Progress, Callable[[str], None]], Report]
Models = tuple[type[BaseModel], ...]


class BlurSettings(BaseModel):
    """Which blur."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(
        "gaussian",
        description=f"what degrades the images: {', '.join(BLUR_KINDS)}",
        json_schema_extra={"enum": list(BLUR_KINDS)},
    )

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, value: str) -> str:
        if value in DEGRADATIONS and value not in BLUR_KINDS:
            raise ValueError(f"is none of 'blur'; 'degrade --kind {value}' has it")
        if value not in BLUR_KINDS:
            raise ValueError(f"unknown; {did_you_mean(value, BLUR_KINDS)}")
        return value


class DegradeSettings(BaseModel):
    """What degrades the images: one kind, or a tree of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str | None = Field(
        None,
        description="a single degradation by its name; 'img2img-data degradations' lists them",
        json_schema_extra={"enum": [*DEGRADATIONS, None]},
    )
    set: tuple[str, ...] = Field(
        (),
        description="a setting of that kind, as in --set sigma=3 or --set sigma=1..5; may be given again",
    )
    degradation: Any = Field(None, description="a tree of degradations, in a recipe")

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, value: str | None) -> str | None:
        if value is not None and value not in DEGRADATIONS:
            raise ValueError(f"unknown; {did_you_mean(value, DEGRADATIONS)}")
        return value


class PairSettings(BaseModel):
    """What to do about files without another half."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_unpaired: bool = Field(False, description="end with 0 although files had no other half")
    rows: int = Field(
        20, ge=0, description="rows of the matching table to show of each kind; 0 for all of them"
    )


class ImportSettings(BaseModel):
    """Which tool's folder it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(
        "auto",
        description=f"the layout of the folder: auto, {', '.join(LAYOUTS)}",
        json_schema_extra={"enum": ["auto", *LAYOUTS]},
    )
    bits: Literal[8, 16] = field_of(BuildSettings, "bits")
    channels: Channels = field_of(BuildSettings, "channels")

    @field_validator("format")
    @classmethod
    def _check_format(cls, value: str) -> str:
        if value not in {"auto", *LAYOUTS}:
            raise ValueError(f"unknown; {did_you_mean(value, ['auto', *LAYOUTS])}")
        return value


class DryRun(BaseModel):
    """Whether to write at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dry_run: bool = Field(False, description="say what would be done, write nothing")


class Workers(DryRun):
    """How many work at it."""

    jobs: int = Field(0, ge=0, le=1024, description="worker processes; 0: one for each core")


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting whose value decides which of several models the other settings belong to."""

    name: str
    members: Mapping[str, type[BaseModel]]
    default: str


@dataclass(frozen=True, slots=True)
class Step:
    """One way to fill a folder. ``paths`` names what it takes, the output last; ``models`` its settings.

    With a ``choice``, only the chosen one of its members takes part.
    """

    run: Run
    paths: tuple[str, ...]
    models: Models
    choice: Choice | None = None
    check: Callable[[Settings, Place], object] | None = None
    """What else is to be checked of the settings; it raises ``UsageError``."""

    def models_for(self, given: Settings) -> Models:
        """Return the models that the settings given have to fit."""
        if self.choice is None:
            return self.models
        chosen = self.choice.members.get(str(given.get(self.choice.name, self.choice.default)))
        left_out = set(self.choice.members.values()) - {chosen}
        return tuple(model for model in self.models if model not in left_out)


def run_step(
    name: str,
    paths: Sequence[Path],
    given: Settings,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[Report, int]:
    """Do one step; return the counts and the exit code they mean."""
    step = STEPS[name]
    check_settings(name, given)
    _check_apart(paths)
    run = build_model(RunSettings, split_settings(given, RunSettings))
    report = step.run(paths, given, progress, say)
    unmatched_ok = bool(given.get("allow_unpaired", False))
    expected = EXPECTED_REASONS if name in {"wiki", "select"} else frozenset[str]()
    return report, report.exit_code(run.max_bad, expected, unmatched_ok)


def check_settings(name: str, given: Settings, place: Place = OPTIONS) -> None:
    """Raise ``UsageError`` when settings are unknown, wrong, or do not belong to what was chosen.

    Reads nothing from disk, so that a whole recipe can be checked before any work.
    """
    step = STEPS[name]
    models = step.models_for(given)
    known, fitting = _fields_of(step.models), _fields_of(models)
    for key in given:
        if key not in known:
            why = "unknown" if place.title else f"is none of '{name}'"
            raise place.error([key], why, did_you_mean(key, known))
    for model in models:
        build_model(model, split_settings(given, model), place)
    for key in given:
        if key not in fitting and step.choice:
            chosen = given.get(step.choice.name, step.choice.default)
            raise place.error(
                [key], f"does not belong to {step.choice.name} '{chosen}'", "leave it out"
            )
    if step.check:
        step.check(given, place)


def _fields_of(models: Models) -> set[str]:
    return {field for model in models for field in model.model_fields}


def _check_apart(paths: Sequence[Path]) -> None:
    *sources, out = (Path(os.path.abspath(p)) for p in paths)
    for source, shown in zip(sources, paths, strict=False):
        if not source.exists():
            raise UsageError("folder", shown, "no such folder", "check the path")
        if not source.is_dir() and source.suffix not in {".mat", ".tar"}:
            raise UsageError("folder", shown, "is a file, not a folder", "check the path")
        if out == source or out in source.parents or source in out.parents:
            raise UsageError(
                "folder", paths[-1], "overlaps the source folder", "choose one outside of it"
            )


# ------------------------------------------------------------------------------------ corpus steps
def _corpus(
    name: str,
    plan: Plan,
    pairing: Pairing,
    out: Path,
    given: Settings,
    progress: Progress,
    say: Callable[[str], None],
) -> Report:
    settings = build_model(BuildSettings, split_settings(given, BuildSettings))
    run = build_model(RunSettings, split_settings(given, RunSettings))
    _say_faults(plan, say)
    return run_build(corpus_build(plan, pairing, out, settings, name), run, progress, say)


def blur(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair each image with a degraded copy of itself."""
    kind = build_model(BlurSettings, split_settings(given, BlurSettings)).kind
    degradation = BLUR_KINDS[kind]
    pairing = Blur(degradation=build_model(degradation, split_settings(given, degradation)))
    return _corpus("blur", _plan_one(paths[0], say), pairing, paths[1], given, progress, say)


def degrade(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair each image with a copy of itself, degraded by one kind or by a whole tree of degradations."""
    pairing = Degrade(degradation=degradation_of_step(given).degradation)
    return _corpus("degrade", _plan_one(paths[0], say), pairing, paths[1], given, progress, say)


def degradation_of_step(given: Settings, place: Place = OPTIONS) -> PipelineStep:
    """Return what the settings of ``degrade`` say; ``UsageError`` names the key of a mistake."""
    settings = build_model(DegradeSettings, split_settings(given, DegradeSettings), place)
    if settings.kind is not None and settings.degradation is not None:
        raise place.error(["kind"], "is given beside a tree of degradations", "keep one of the two")
    if settings.kind is not None:
        where = place.below("set") if place.title else Place("option --set")
        return parse_spec({settings.kind: parse_assignments(settings.set, where)}, where)
    if settings.set:
        raise place.error(["set"], "belongs to a kind", "change the tree of degradations instead")
    if settings.degradation is None:
        hint = "name a kind; 'img2img-data degradations' lists them; or give a recipe with a 'degradation:'"
        raise place.error(["kind"], "missing, so nothing is degraded", hint)
    return parse_spec(
        settings.degradation, place.below("degradation") if place.title else Place("recipe")
    )


def lab(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair the L plane of each image with its Lab image."""
    pairing = build_model(Colorize, split_settings(given, Colorize))
    return _corpus("lab", _plan_one(paths[0], say), pairing, paths[1], given, progress, say)


def grayscale(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair each image without its colors with itself."""
    return _corpus(
        "grayscale", _plan_one(paths[0], say), Grayscale(), paths[1], given, progress, say
    )


def blank(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair each image with a hole in it with itself."""
    pairing = build_model(Blank, split_settings(given, Blank))
    return _corpus("blank", _plan_one(paths[0], say), pairing, paths[1], given, progress, say)


def edges(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair the edges of each image with itself."""
    pairing = build_model(Edges, split_settings(given, Edges))
    return _corpus("edges", _plan_one(paths[0], say), pairing, paths[1], given, progress, say)


def unpaired(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Take two folders as the two domains of an unpaired corpus."""
    plan = plan_folders(paths[:2], "unpaired", [_listed(p, say) for p in paths[:2]])
    return _corpus("unpaired", plan, Unpaired(), paths[2], given, progress, say)


def combine(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Pair the images of two folders by their names."""
    settings = build_model(MatchSettings, split_settings(given, MatchSettings))
    found = [list(_listed(p, say)) for p in paths[:2]]
    usable = [[i.path for i in side if not i.rejected] for side in found]
    matching = match_paths(usable[0], usable[1], settings)
    rejected = [
        (n, i.path, *i.rejected) for n, side in enumerate(found) for i in side if i.rejected
    ]
    matching.unmatched += rejected
    shown = build_model(PairSettings, split_settings(given, PairSettings)).rows
    for line in describe_matching(
        matching, bool(given.get("dry_run")), shown if matching.pairs else min(shown, 3)
    ):
        say(line)
    other, count = better_match(usable[0], usable[1], settings) if matching.unmatched else ("", 0)
    hint = f"--match {other} would pair {count:,}" if count > len(matching.pairs) else ""
    if not matching.pairs and not given.get("dry_run"):
        raise UsageError(
            "folders",
            f"{paths[0]}' and '{paths[1]}",
            "no image of one has its other half in the other (all unpaired)",
            hint or "try another --match; --dry-run shows the table",
        )
    if hint:
        say(f"{hint} of them")
    pairing = build_model(Combine, split_settings(given, Combine))
    report = _corpus(
        "combine", plan_pairs(paths[:2], matching), pairing, paths[2], given, progress, say
    )
    if given.get("dry_run"):
        report.unmatched = len(matching.unmatched)
    return report


def select(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Copy the photos of a folder that pass the filters."""
    return _selection(
        "select", _plan_one(paths[0], say), SelectSettings, paths[1], given, progress, say
    )


def resize(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Write the images of a folder in one size."""
    settings = build_model(ResizeSettings, split_settings(given, ResizeSettings))
    run = build_model(RunSettings, split_settings(given, RunSettings))
    plan = _plan_one(paths[0], say)
    return run_build(resize_build(plan, paths[1], settings), run, progress, say)


def wiki(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Sort the faces of an IMDB-WIKI folder by gender."""
    root = find_mat(paths[0]).parent
    plan = plan_folders([root], "paired", [list_wiki(paths[0])])
    return _selection("wiki", plan, WikiSettings, paths[1], given, progress, say)


def _selection(
    name: str,
    plan: Plan,
    model: type[SelectSettings],
    out: Path,
    given: Settings,
    progress: Progress,
    say: Callable[[str], None],
) -> Report:
    settings = build_model(model, split_settings(given, model))
    run = build_model(RunSettings, split_settings(given, RunSettings))
    _say_faults(plan, say)
    return run_build(selection_build(name, plan, out, settings, run), run, progress, say)


def import_folder(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Make a corpus of a folder in another tool's layout: its pairs, its splits, its names."""
    root, out = paths
    name = build_model(ImportSettings, split_settings(given, ImportSettings)).format
    if (root / CORPUS_FILE).is_file():
        packed = (root / INDEX_FILE).is_file()
        hint = "'img2img-data unpack' gives it back" if packed else "use it as it is"
        raise UsageError("folder", root, "is a corpus already" + ", packed" * packed, hint)
    found = find_layout(root) if name == "auto" else name
    if found is None:
        raise UsageError(
            "folder", root, "has no layout that is known", "see --help for the layouts"
        )
    layout = LAYOUTS[found]
    if not layout.fits(root):
        raise UsageError("folder", root, f"has not the layout of {found}", layout.hint)
    say(f"layout {found}")
    plan = plan_entries(root.parent if root.is_file() else root, layout, layout.entries(root))
    kept = {name: given[name] for name in ("bits", "channels") if name in given}
    kept |= split_settings(given, RunSettings)
    if layout.kind == "unpaired":
        return _corpus("import", plan, Unpaired(), out, kept, progress, say)
    pairing = Halves() if layout.layout == "combined" else Combine()
    kept |= {"fit": "error", "layout": layout.layout}
    return _corpus("import", plan, pairing, out, kept, progress, say)


def export(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Write a corpus in another tool's layout."""
    settings = build_model(ExportSettings, split_settings(given, ExportSettings))
    run = build_model(RunSettings, split_settings(given, RunSettings))
    return export_corpus(paths[0], paths[1], settings, run, progress, say)


def pack(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Write a corpus as WebDataset shards."""
    settings = build_model(PackSettings, split_settings(given, PackSettings))
    return pack_corpus(paths[0], paths[1], settings, bool(given.get("dry_run")), progress, say)


def unpack(
    paths: Sequence[Path], given: Settings, progress: Progress, say: Callable[[str], None]
) -> Report:
    """Write the corpus that was packed."""
    return unpack_corpus(paths[0], paths[1], bool(given.get("dry_run")), progress, say)


def _say_faults(plan: Plan, say: Callable[[str], None]) -> None:
    for fault in (f for found in plan.tags if found for f in found.faults):
        say(f"warning: {fault}")


def _plan_one(folder: Path, say: Callable[[str], None]) -> Plan:
    return plan_folders([folder], "paired", [_listed(folder, say)])


def _listed(folder: Path, say: Callable[[str], None]) -> Iterator[Item]:
    """Yield the images of a folder, and say in the end what else there was."""
    ignored: Counter[str] = Counter()
    yield from list_folder(folder, ignored)
    if line := describe_skipped(ignored):
        say(f"'{printable(str(folder))}': {line}")


_BUILD: Final = (BuildSettings, RunSettings)

STEPS: Final[dict[str, Step]] = {
    "wiki": Step(wiki, ("wiki_crop", "out"), (WikiSettings, RunSettings)),
    "select": Step(select, ("source", "out"), (SelectSettings, RunSettings)),
    "resize": Step(resize, ("source", "out"), (ResizeSettings, RunSettings)),
    "blur": Step(
        blur,
        ("source", "out"),
        (BlurSettings, *BLUR_KINDS.values(), *_BUILD),
        Choice("kind", BLUR_KINDS, "gaussian"),
    ),
    "degrade": Step(
        degrade, ("source", "out"), (DegradeSettings, *_BUILD), check=degradation_of_step
    ),
    "combine": Step(
        combine, ("inputs", "targets", "out"), (MatchSettings, PairSettings, Combine, *_BUILD)
    ),
    "lab": Step(lab, ("source", "out"), (Colorize, *_BUILD)),
    "grayscale": Step(grayscale, ("source", "out"), _BUILD),
    "blank": Step(blank, ("source", "out"), (Blank, *_BUILD)),
    "edges": Step(edges, ("source", "out"), (Edges, *_BUILD)),
    "unpaired": Step(unpaired, ("a", "b", "out"), _BUILD),
    "import": Step(import_folder, ("source", "out"), (ImportSettings, PairSettings, RunSettings)),
    "export": Step(export, ("corpus", "out"), (ExportSettings, Workers)),
    "pack": Step(pack, ("corpus", "shards"), (PackSettings, DryRun)),
    "unpack": Step(unpack, ("shards", "out"), (DryRun,)),
}
