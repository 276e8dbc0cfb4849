"""Steps: the commands that fill a folder, called by the command line and by recipes alike.

A step gets a ``StepCall`` (folders, settings, where to report) and returns a ``Report``; its
docstring is the command's help. A new step is one function with ``@step(...)`` and a row in the
group of ``main``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import click
from pydantic import AfterValidator, BaseModel, Field, field_validator

from img2img_data.builds import image_folders, pairings, pairs
from img2img_data.builds.image_folders import ResizeSettings, resize_build
from img2img_data.core.command_line import Echo, Progress, print_next, progress_of
from img2img_data.core.errors import HINTS, Img2ImgError, NothingKeptError, UsageError, printable
from img2img_data.core.files import no_folder
from img2img_data.core.frozen_model import FrozenModel, field_of
from img2img_data.core.settings_model import OPTIONS, ModelT, Place, build_part, did_you_mean
from img2img_data.corpus.format import CORPUS_FILE, Kind, is_run
from img2img_data.corpus.layouts import LAYOUTS, SPLITS, find_layout
from img2img_data.corpus.reader import not_a_corpus, open_corpus
from img2img_data.degradations.compose import PipelineStep
from img2img_data.degradations.registry import BLUR_KINDS, DEGRADATIONS
from img2img_data.degradations.spec import parse_assignments, parse_spec
from img2img_data.exchange.export import EXPORT_FILE, ExportSettings, export_corpus
from img2img_data.exchange.webdataset import INDEX_FILE, PackSettings, pack_corpus, unpack_corpus
from img2img_data.images.pixels import Channels
from img2img_data.runner.build_folder import BuildFolder, Report
from img2img_data.runner.plan import Plan, parse_split, plan_entries, plan_folders, plan_pairs
from img2img_data.runner.run import RunSettings, run_build, unit_of
from img2img_data.sources import matching
from img2img_data.sources.folder import Item, describe_skipped, list_folder
from img2img_data.sources.imdb_wiki import find_mat, list_wiki

Models = tuple[type[BaseModel], ...]


# ------------------------------------------------------------------------- settings of single steps
def _check_known(value: str, known: Collection[str]) -> str:
    if value not in known:
        raise ValueError(f"unknown; {did_you_mean(value, known)}")
    return value


def _choice(default: str, what: str, names: Collection[str]) -> Any:
    """Return the field of a name in a registry; its help lists the names."""
    about = f"{what}: {', '.join(names)}"
    return Field(default, description=about, json_schema_extra={"enum": list(names)})


DegradationName = Annotated[str, AfterValidator(partial(_check_known, known=DEGRADATIONS))]
LayoutName = Annotated[str, AfterValidator(partial(_check_known, known=("auto", *LAYOUTS)))]


class BlurSettings(FrozenModel):
    """The kind of blur."""

    kind: str = _choice("gaussian", "blur", BLUR_KINDS)

    @field_validator("kind")
    @classmethod
    def _check_kind(cls, value: str) -> str:
        if value in DEGRADATIONS and value not in BLUR_KINDS:
            raise ValueError(f"is not a kind of 'blur'; use 'degrade --kind {value}'")
        return _check_known(value, BLUR_KINDS)


class DegradeSettings(FrozenModel):
    """The degradation: one kind, or a pipeline of them."""

    kind: DegradationName | None = Field(None, json_schema_extra={"enum": [*DEGRADATIONS, None]})
    """single degradation to apply; 'img2img-data degradations' lists them"""
    set: tuple[str, ...] = ()
    """setting of that degradation, such as sigma=3 or sigma=1..5; may be repeated"""
    degradation: Any = None
    """a pipeline of degradations, in a recipe"""


class UnmatchedSettings(FrozenModel):
    """The handling of files without a counterpart."""

    allow_unpaired: bool = False
    """exit with 0 even if files are unmatched"""


class TableSettings(UnmatchedSettings):
    """The matching table that ``combine`` prints."""

    rows: int = Field(20, ge=0)
    """rows of each kind to print of the matching table; 0: all"""


class ImportSettings(FrozenModel):
    """The layout of the folder to import."""

    format: LayoutName = _choice("auto", "layout of the folder", ("auto", *LAYOUTS))
    bits: Literal[8, 16] = field_of(pairs.BuildSettings, "bits")
    channels: Channels = field_of(pairs.BuildSettings, "channels")


class DryRun(FrozenModel):
    """The dry run of a step that has no workers."""

    dry_run: bool = field_of(RunSettings, "dry_run")


class Workers(DryRun):
    """The workers of a step that runs on one machine."""

    jobs: int = Field(0, ge=0, le=1024)
    """worker processes; 0: one per core"""


# ----------------------------------------------------------------------------------- what a step is
@dataclass(frozen=True, slots=True)
class StepCall:
    """One call of a step: name, folders (the output last), settings, and where it reports."""

    name: str
    paths: Sequence[Path]
    settings: Mapping[str, Any]
    progress: Progress
    echo: Echo

    def get(self, model: type[ModelT]) -> ModelT:
        """Return the settings that are fields of a model."""
        return build_part(model, self.settings)

    @property
    def run(self) -> RunSettings:
        """The settings of a run."""
        return self.get(RunSettings)


@dataclass(frozen=True, slots=True)
class BuildStep:
    """One way to fill a folder: folders (the output last), models of its settings.

    The setting ``kind`` selects one of the models in ``kinds``, by default the first; the others
    take no part. ``check`` raises ``UsageError`` for mistakes that no model finds.
    """

    run: Callable[[StepCall], Report]
    paths: tuple[str, ...]
    models: Models
    kinds: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    check: Callable[[Mapping[str, Any], Place], object] | None = None

    def models_for(self, kind: str) -> Models:
        """Return the models that settings with this ``kind`` must fit."""
        others = self.kinds.keys() - {kind}
        return tuple(m for m in self.models if all(m is not self.kinds[other] for other in others))

    def fields(self) -> set[str]:
        """Return the names of all settings."""
        return {name for model in self.models for name in model.model_fields}


STEPS: Final[dict[str, BuildStep]] = {}


def step(
    name: str, paths: tuple[str, ...], *models: type[BaseModel], **options: Any
) -> Callable[[Callable[[StepCall], Report]], Callable[[StepCall], Report]]:
    """Register a function in ``STEPS``."""

    def register(run: Callable[[StepCall], Report]) -> Callable[[StepCall], Report]:
        STEPS[name] = BuildStep(run, paths, models, **options)
        return run

    return register


def run_and_print(name: str, paths: Sequence[Path], settings: Mapping[str, Any]) -> int:
    """Run one step with a progress bar, print its summary and return its exit code."""
    start = time.monotonic()
    with progress_of(name) as progress:
        report, code = run_step(name, paths, settings, progress, click.echo)
    if not settings.get("dry_run"):
        print_report(report, paths[-1], start, unit_of(settings))
    return code


def print_report(report: Report, out: Path, start: float, unit: str) -> None:
    """Print the summary of a run that began at ``start``, and counts in ``unit``."""
    name, seconds = printable(out), time.monotonic() - start
    last = f"'{name}' was already complete"
    if not report.complete:
        rate = f"{report.total / max(seconds, 1e-3):,.0f} {unit.replace('sources', 'images')}/s"
        last = f"'{name}' is complete: {report.total:,} {unit} in {seconds:.1f} s, {rate}"
    click.echo("\n".join([*report.lines(), last]))


def print_after(out: Path, shard: object = None) -> None:
    """Print the command that follows by what the folder ``out`` holds.

    A corpus is trained on, a ``shard`` of one merged with the others; images become a corpus. A
    folder for another program has no such command.
    """
    name = out.resolve().name
    corpus, manifest = Path("corpora", name), out / CORPUS_FILE
    if (out / INDEX_FILE).is_file():
        print_next("img2img-data", "unpack", out, corpus)
    elif shard:
        print_next("img2img-data", "merge", out, "OTHER_SHARDS", corpus)
    elif (out / image_folders.SELECTION_FILE).is_file():
        _, line = next(BuildFolder(out, image_folders.SELECTION_FILE).earlier_rows(), ("", b"{}"))
        apart = sum((out / split).is_dir() for split in SPLITS) > 1
        rule = "folder" if apart else "train=0.8,val=0.1,test=0.1"
        # Without the option the tag of that name is the split.
        options = [] if "split" in json.loads(line).get("tags", ()) else ["--split", rule]
        print_next("img2img-data", "degrade", out, corpus, "--recipe", "camera", *options)
    elif not (out / EXPORT_FILE).is_file():
        page = json.loads(manifest.read_bytes()) if manifest.is_file() else {}
        kind = page.get("kind") or open_corpus(out, rows=False).kind
        # The default loss restores what a degradation took; the other pairings are translations,
        # as are most imported A|B images, but not pairs that are imported from two folders.
        recipe = page.get("recipe", {})
        imported = (recipe.get("command"), recipe.get("layout")) == ("import", "folders")
        restored = imported or recipe.get("pairing") in (None, "degrade")
        loss = "cyclegan" if kind == "unpaired" else "" if restored else "pix2pix"
        # The preset resizes images, which may have any size.
        size = recipe.get("tile") or recipe.get("size")
        options = ["--loss" if size else "--preset", loss] if loss else []
        # The default network of pix2pix is made for images of 256 pixels.
        if loss == "pix2pix" and size and (side := min(pairs.parse_size(size))) <= 128:
            options += ["--net", "unet" if side < 32 else "unet-64" if side <= 64 else "unet-128"]
        print_next("img2img-train", out, *options, "--out", Path("runs", name))


def run_step(
    name: str, paths: Sequence[Path], settings: Mapping[str, Any], progress: Progress, echo: Echo
) -> tuple[Report, int]:
    """Run one step; return its report and exit code."""
    # Again, although a recipe was checked before: the command line and tests call this directly.
    check_settings(name, settings)
    _check_paths(paths)
    call = StepCall(name, paths, settings, progress, echo)
    try:
        report = STEPS[name].run(call)
    except NothingKeptError as error:
        # Only the command knows which options it has.
        options = {"--" + field.replace("_", "-") for field in STEPS[name].fields()}
        shown = [t for t in HINTS.get(error.reason, ()) if {*re.findall("--[a-z-]+", t)} <= options]
        raise Img2ImgError(str(error), hint=" or ".join(shown)) from None
    expected = image_folders.EXPECTED_REASONS.get(name, frozenset())
    return report, report.conclude(call.run.max_bad, expected, bool(settings.get("allow_unpaired")))


def check_settings(name: str, settings: Mapping[str, Any], place: Place = OPTIONS) -> None:
    """Raise ``UsageError`` if settings are unknown, wrong, or do not belong to the selected kind.

    Nothing is read from disk, so that a whole recipe can be checked before any work.
    """
    step = STEPS[name]
    known = step.fields() | set(step.paths if place.title else ())  # folders are keys of recipes
    for key in settings:
        if key not in known:
            why = "unknown" if place.title else f"not an option of '{name}'"
            raise place.error([key], why, did_you_mean(key, known))
    kind = str(settings.get("kind", next(iter(step.kinds), "")))
    models = step.models_for(kind)
    for model in models:
        build_part(model, settings, place)
    for key in settings:
        if all(key not in model.model_fields for model in models):
            raise place.error([key], f"does not belong to kind '{kind}'", "leave it out")
    if step.check:
        step.check(settings, place)


def _check_paths(paths: Sequence[Path]) -> None:
    """Raise ``UsageError`` unless all sources exist, and the output is a folder outside them."""
    # Links resolved: the output may lie in a folder to which a source is a link.
    *sources, out = (Path(os.path.realpath(path)) for path in paths)
    for source, shown in zip(sources, paths, strict=False):
        if not source.is_dir() and not (source.is_file() and source.suffix in {".mat", ".tar"}):
            raise no_folder(shown)
        # Output inside a source would be scanned as input by the next run.
        if out == source or out in source.parents or source in out.parents:
            hint = "choose one outside it"
            raise UsageError("folder", paths[-1], "overlaps the source folder", hint)
    if os.path.isfile(out):  # noqa: PTH113  # the method raises for a name that is too long
        raise no_folder(paths[-1])


# ------------------------------------------------------------------------------------------ sources
@step("wiki", ("wiki_crop", "out"), image_folders.WikiSettings, RunSettings)
def wiki(call: StepCall) -> Report:
    """Sort the faces of an IMDB-WIKI folder into OUT/male and OUT/female by its wiki.mat.

    \b
    Example:
      img2img-data wiki wiki_crop/ faces/ --drop-gray

    Faces of unknown gender, images without a face, images that are too small and, with --drop-gray,
    black-and-white photos are skipped and listed with the reason.
    """
    root, links = find_mat(call.paths[0]).parent, call.run.follow_links
    plan = plan_folders([root], "paired", [list_wiki(call.paths[0], follow_links=links)], links)
    return _select(call, plan, image_folders.WikiSettings)


@step("select", ("source", "out"), image_folders.SelectSettings, RunSettings)
def select(call: StepCall) -> Report:
    """Copy the images of SOURCE that pass the filters to OUT, byte for byte; the others are listed.

    \b
    Example:
      img2img-data select photos/ chosen/ --drop-gray --min-side 64
      img2img-data select photos/ chosen/ --drop-duplicates
      img2img-data select photos/ some/ --sample 500 --seed 1
    """
    return _select(call, _plan_folders(call), image_folders.SelectSettings)


@step("resize", ("source", "out"), ResizeSettings, RunSettings)
def resize(call: StepCall) -> Report:
    """Write the images of SOURCE in one size to OUT, upright and opaque.

    \b
    Example:
      img2img-data resize photos/ photos256/ --size 256 --fit pad

    The output is a folder of images, not of pairs; 'blur --kind resize' makes a corpus for
    super-resolution. The commands that make corpora take --size themselves.
    """
    build = resize_build(_plan_folders(call), call.paths[1], call.get(ResizeSettings))
    return run_build(build, call.run, call.progress, call.echo)


def _select(call: StepCall, plan: Plan, model: type[image_folders.SelectSettings]) -> Report:
    settings, run = call.get(model), call.run
    _warn_of_tags(plan, call.echo)
    if settings.sample:
        plan = plan.sample(settings.sample, settings.seed)
    build = image_folders.selection_build(call.name, plan, call.paths[1], settings, run)
    return run_build(build, run, call.progress, call.echo)


def _plan_folders(call: StepCall, kind: Kind = "paired") -> Plan:
    items = [_list_images(call, folder) for folder in call.paths[:-1]]
    return plan_folders(call.paths[:-1], kind, items, call.run.follow_links)


def _list_images(call: StepCall, folder: Path) -> Iterator[Item]:
    """Yield the images of a folder; at the end report which other files were skipped.

    Raises ``UsageError`` for a corpus or a run, whose images are inputs, targets and samples.
    """
    is_corpus = (folder / CORPUS_FILE).is_file()
    if is_corpus or is_run(folder):
        why = f"is a {'corpus' if is_corpus else 'run'}, not a folder of images"
        raise UsageError("folder", folder, why, "give the folder of the original images")
    # Counted, not listed: photo folders are full of thumbnails, XMP files and the like.
    skipped, follow_links = Counter[str](), call.run.follow_links
    out, root = os.fsencode(os.path.realpath(call.paths[-1])), os.fsencode(folder)
    for item in list_folder(folder, skipped, follow_links):
        place = os.path.realpath(os.path.join(root, item.path)) if follow_links else b""
        if place.startswith(out + b"/"):
            why = f"is inside '{printable(folder)}', through a link"
            raise UsageError("folder", call.paths[-1], why, "choose one outside it")
        yield item
    if line := describe_skipped(skipped):
        call.echo(f"'{printable(folder)}': {line}")


def _warn_of_tags(plan: Plan, echo: Echo) -> None:
    for table in filter(None, plan.tags):
        for fault in table.faults:
            echo(f"warning: {fault}")


# ------------------------------------------------------------------------------------------ corpora
_BUILD: Final = (pairs.BuildSettings, RunSettings)


def _build(call: StepCall, plan: Plan, pairing: pairs.Pairing) -> Report:
    """Build a corpus, or with --dry-run report what would be built."""
    settings = call.get(pairs.BuildSettings)
    _warn_of_tags(plan, call.echo)
    if settings.tile:
        plan = plan.cut(pairs.parse_size(settings.tile), settings.stride, call.progress)
    build = pairs.corpus_build(plan, pairing, call.paths[-1], settings, call.name)
    report = run_build(build, call.run, call.progress, call.echo)
    total, shares = report.kept.total(), parse_split(settings.split or "train=1")
    asked = {name: share * total for name, share in shares.items() if len(shares) > 1}
    off = max((abs(report.kept[name] - n) for name, n in asked.items()), default=0)
    if settings.stratify is None and off > total / 100:
        # Of few images a share may be less than one.
        requested = ", ".join(f"{name} {n:,.1f}".removesuffix(".0") for name, n in asked.items())
        why = "images are assigned by a hash; --stratify folder makes the shares exact"
        call.echo(f"split: {report.parts()}; requested: {requested}; {why}")
    empty = [f"'{name}'" for name, n in asked.items() if n and not report.kept[name]]
    if empty and not call.run.shard:  # a shard may have none of the few images of a split
        hint = "another --seed, --stratify folder or more images may help"
        call.echo(f"warning: no image is in split {' or '.join(empty)}; {hint}")
    by_name = not parse_split(settings.split or "folder")  # of a folder or a tag
    if by_name and report.kept and not (report.kept["train"] or call.run.shard):
        why = "'img2img-train --split NAME' trains on another one"
        call.echo(f"note: no image is in split 'train'; {why}")
    found = [name for name in SPLITS if all((root / name).is_dir() for root in call.paths[:-1])]
    if settings.split is None and len(found) > 1 and [*report.kept] == ["train"]:
        why = f"--split folder keeps the folders {', '.join(found)} apart"
        call.echo(f"note: all images are in split 'train'; {why}")
    return report


@step("blur", ("source", "out"), BlurSettings, *BLUR_KINDS.values(), *_BUILD, kinds=BLUR_KINDS)
def blur(call: StepCall) -> Report:
    """Make (blurred, original) pairs of the images of SOURCE, for deblurring and super-resolution.

    \b
    Example:
      img2img-data blur faces/male corpora/gaussian --kind gaussian --sigma 3 --size 64
      img2img-data blur faces/male corpora/resize --kind resize --factor 4 --size 64
      img2img-data blur faces corpora/both --split train=0.8,test=0.2 --group-by person
      img2img-data blur photos corpora/tiles --tile 256 --min-detail 2

    'img2img-data degradations KIND' shows how a blur extends the image beyond its border.
    """
    degradation = call.get(BLUR_KINDS[call.get(BlurSettings).kind])
    return _build(call, _plan_folders(call), pairs.Blur(degradation=degradation))


def degradation_of(settings: Mapping[str, Any], place: Place = OPTIONS) -> PipelineStep:
    """Return the degradation that the settings of ``degrade`` describe; ``UsageError`` names the
    key.
    """
    chosen = build_part(DegradeSettings, settings, place)
    if chosen.kind is not None and chosen.degradation is not None:
        raise place.error(["kind"], "conflicts with --recipe or a pipeline", "keep one of them")
    if chosen.kind is not None:
        where = place.below("set") if place.title else Place("option --set")
        return parse_spec({chosen.kind: parse_assignments(chosen.set, where)}, where)
    if chosen.set:
        raise place.error(["set"], "needs --kind", "change the pipeline of degradations instead")
    if chosen.degradation is None:
        hint = "give one ('img2img-data degradations' lists them), or a recipe with a 'degradation'"
        raise place.error(["kind"], "missing, so nothing would be degraded", hint)
    where = place.below("degradation") if place.title else Place("recipe")
    return parse_spec(chosen.degradation, where)


@step("degrade", ("source", "out"), DegradeSettings, *_BUILD, check=degradation_of)
def degrade(call: StepCall) -> Report:
    """Make (degraded, original) pairs of SOURCE: blur, noise, compression, or a pipeline of them.

    \b
    Example:
      img2img-data degrade photos/ corpora/mixed --recipe mixed --size 256
      img2img-data degrade photos/ corpora/noisy --kind noise --set sigma=5..25
      img2img-data degradations              # lists all kinds
      img2img-data degradations noise        # lists the settings of one

    A recipe (a name of 'img2img-data recipes', or a YAML file) holds the pipeline under the key
    'degradation'; a single kind needs no recipe.
    """
    pairing = pairs.Degrade(degradation=degradation_of(call.settings).degradation)
    return _build(call, _plan_folders(call), pairing)


_COMBINE: Final = (matching.MatchSettings, TableSettings, pairings.Combine, *_BUILD)


@step("combine", ("inputs", "targets", "out"), *_COMBINE)
def combine(call: StepCall) -> Report:
    """Pair the images of INPUTS with those of TARGETS by name, never by sort order.

    \b
    Example:
      img2img-data combine photos/ sketches/ corpora/cuhk --match cuhk --dry-run
      img2img-data combine photos/ sketches/ corpora/cuhk --match template \\
        --template-a '{id}.jpg' --template-b '{id}-sz1.jpg'
      img2img-data combine photos/ labels/ corpora/labels --max-shift 3
    """
    sides = call.paths[:2]
    settings, rows = call.get(matching.MatchSettings), call.get(TableSettings).rows
    items = [list(_list_images(call, folder)) for folder in sides]
    for folder, side in zip(sides, items, strict=True):
        if not side:
            raise UsageError("folder", folder, "holds no images", "check the path")
    usable = [[item.path for item in side if not item.rejected] for side in items]
    found = matching.match_paths(usable[0], usable[1], settings, sides)
    # A rejected file has no counterpart either, and must show up in the exit code.
    found.unmatched += [
        (number, item.path, *item.rejected)
        for number, side in enumerate(items)
        for item in side
        if item.rejected
    ]
    shown = rows if found.pairs else min(rows, 3)
    for line in matching.describe_matching(found, call.run.dry_run, shown):
        call.echo(line)
    # A wrong --match pairs few files without any error: suggest one that would pair more.
    hint = ""
    if found.unmatched:
        options, count = matching.better_match(usable[0], usable[1])
        hint = f"{options} would give {count:,} pairs" if count > len(found.pairs) else ""
    if not found.pairs and not call.run.dry_run:
        names, why = f"{sides[0]}' and '{sides[1]}", "no image in one matches an image in the other"
        hint = hint or "try another --match; --dry-run shows the table"
        raise UsageError("folders", names, why, hint)
    if hint:
        call.echo(hint)
    pairing = call.get(pairings.Combine)
    report = _build(call, plan_pairs(sides, found, call.run.follow_links), pairing)
    if call.run.dry_run:
        report.unmatched = len(found.unmatched)
    elif pairing.audit_shift or pairing.max_shift:
        from img2img_data.inspect.verify import mismatch

        report.warnings += mismatch(call.paths[2])
    return report


@step("lab", ("source", "out"), pairings.Lab, *_BUILD)
def lab(call: StepCall) -> Report:
    """Make (L, Lab) pairs of the images of SOURCE, for colorization.

    \b
    Example:
      img2img-data lab photos/ corpora/color --size 256
    """
    return _build_colors(call, call.get(pairings.Lab))


@step("grayscale", ("source", "out"), *_BUILD)
def grayscale(call: StepCall) -> Report:
    """Make (gray, color) pairs of the images of SOURCE, for colorization in RGB.

    \b
    Example:
      img2img-data grayscale photos/ corpora/gray --size 256

    Black-and-white photos teach a model nothing here; 'select --drop-gray' removes them first.
    """
    return _build_colors(call, pairings.Grayscale())


def _build_colors(call: StepCall, pairing: pairs.Pairing) -> Report:
    report = _build(call, _plan_folders(call), pairing)
    if gray := report.notes["gray"]:
        why = "they teach a model no colors, and 'select --drop-gray' leaves them out"
        call.echo(f"note: images without color: {gray:,}; {why}")
    return report


@step("blank", ("source", "out"), pairings.Blank, *_BUILD)
def blank(call: StepCall) -> Report:
    """Make (masked, original) pairs of the images of SOURCE, for inpainting.

    \b
    Example:
      img2img-data blank photos/ corpora/holes --size 128
      img2img-data blank photos/ corpora/holes --size 128 --where random --share 0.3 --fill noise

    Each row of the manifest gives the hole in pixels: left, top, hole_width, hole_height.
    """
    return _build(call, _plan_folders(call), call.get(pairings.Blank))


@step("edges", ("source", "out"), pairings.Edges, *_BUILD)
def edges(call: StepCall) -> Report:
    """Make (Canny edges, original) pairs of the images of SOURCE.

    \b
    Example:
      img2img-data edges photos/ corpora/edges --size 256
      img2img-data edges photos/ corpora/edges --low 100 --high 200 --lines white

    Thresholds have the units of OpenCV's Canny: 4 for each gray level between neighboring pixels.
    By default they follow the gradients of each image.
    """
    return _build(call, _plan_folders(call), call.get(pairings.Edges))


@step("unpaired", ("a", "b", "out"), *_BUILD)
def unpaired(call: StepCall) -> Report:
    """Take the images of folders A and B as two domains without pairs, for CycleGAN and DualGAN.

    \b
    Example:
      img2img-data unpaired horses/ zebras/ corpora/h2z --size 256
    """
    return _build(call, _plan_folders(call, "unpaired"), pairings.Unpaired())


# ----------------------------------------------------------------------------------------- exchange
@step("import", ("source", "out"), ImportSettings, UnmatchedSettings, RunSettings)
def import_folder(call: StepCall) -> Report:
    """Make a corpus from SOURCE, a folder in the layout of another tool; pairs, splits and names
    are kept.

    \b
    Example:
      img2img-data import facades/ corpora/facades
      img2img-data import DIV2K/ corpora/div2k --format basicsr

    \b
    Layouts:
      pix2pix      train/1.jpg, input left and target right
      cyclegan     trainA/ and trainB/, no pairs
      folders      input/ and target/, within splits or around them
      basicsr      meta_info.txt beside gt/ and lq/
      hf           metadata.jsonl or .csv with two *_file_name columns
      webdataset   .tar archives with 1.input.png, 1.target.png

    Clean images are kept byte for byte. Both images of a pair must have the same
    size.
    """
    root, name = call.paths[0], call.get(ImportSettings).format
    if (root / CORPUS_FILE).is_file():
        packed = (root / INDEX_FILE).is_file()
        hint = "'img2img-data unpack' restores it" if packed else "use it as it is"
        raise UsageError("folder", root, "is already a corpus" + ", packed" * packed, hint)
    found = find_layout(root) if name == "auto" else name
    if found is None:
        raise not_a_corpus(root)
    layout = LAYOUTS[found]
    if not layout.places(root):
        raise UsageError("folder", root, f"does not have the layout '{found}'", layout.hint)
    call.echo(f"layout {found}")
    plan = plan_entries(root, layout, call.run.follow_links)
    # Of a corpus, --format is the format of its images.
    settings = {key: value for key, value in call.settings.items() if key != "format"}
    if layout.kind == "unpaired":
        return _build(replace(call, settings=settings), plan, pairings.Unpaired())
    # Sizes are left as they are: a resized half would no longer be the other tool's file.
    settings |= {"fit": "error", "layout": layout.layout}
    pairing = pairings.Halves() if layout.layout == "combined" else pairings.Combine()
    return _build(replace(call, settings=settings), plan, pairing)


@step("export", ("corpus", "out"), ExportSettings, Workers)
def export(call: StepCall) -> Report:
    """Write CORPUS to OUT in the layout of another tool; files are copied, or re-encoded without
    loss.

    \b
    Example:
      img2img-data export corpora/gaussian out/ --format basicsr
      img2img-data export corpora/facades out/ --format hf --direction BtoA

    \b
    Layouts:
      pix2pix   train/1.png, input left and target right
      cyclegan  trainA/ and trainB/
      basicsr   train/lq/, train/gt/ and train/meta_info.txt
      hf        datasets.load_dataset("imagefolder"): Image columns input and target
      lmdb      train/lq.lmdb and train/gt.lmdb, as written by BasicSR
    """
    settings, run = call.get(ExportSettings), call.run
    return export_corpus(call.paths[0], call.paths[1], settings, run, call.progress, call.echo)


@step("pack", ("corpus", "shards"), PackSettings, DryRun)
def pack(call: StepCall) -> Report:
    """Write CORPUS as WebDataset tar archives with an index; equal corpora give equal bytes.

    \b
    Example:
      img2img-data pack corpora/gaussian shards/gaussian --per-shard 1000
    """
    (corpus, shards), settings = call.paths, call.get(PackSettings)
    return pack_corpus(corpus, shards, settings, call.run.dry_run, call.progress, call.echo)


@step("unpack", ("shards", "out"), DryRun)
def unpack(call: StepCall) -> Report:
    """Restore the corpus that was packed into SHARDS at OUT, byte for byte.

    \b
    Example:
      img2img-data unpack shards/gaussian corpora/gaussian

    All shards are checked before anything is written: damaged and malicious archives are rejected.
    """
    shards, out = call.paths
    return unpack_corpus(shards, out, call.run.dry_run, call.progress, call.echo)
