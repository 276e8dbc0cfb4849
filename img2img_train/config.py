"""What a run is asked to do: one frozen model, filled by a recipe and the command line, kept with the run.

Nothing here imports torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_data.core.settings_model import OPTIONS, Place, build_model, did_you_mean
from img2img_train.objectives.base import Objective, PublishedDefaults
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.optim.lr_schedule import Decay

CONFIG_FILE: Final = "config.json"
RUN_FORMAT: Final = 2
"""Format version of ``config.json``; runs of other versions are rejected."""
YAML: Final = {".yaml", ".yml"}
SMOKE: Final = ("corpus", "run")
"""What the small size of a recipe has: steps for img2img-data build --smoke, and settings."""
UNNAMED: Final = {"corpora": ["filled from the command line"]}
RESOURCES: Final = frozenset(
    {
        "out",
        "device",
        "threads",
        "workers",
        "cache",
        "checkpoint_seconds",
        "compile",
        "deterministic",
        "tensorboard",
    }
)
"""Settings that say with what a run is computed, not what: a run may be resumed with others."""


class CorpusChoice(BaseModel):
    """One corpus to train on. Written ``PATH`` or ``PATH=WEIGHT`` on the command line and in recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        min_length=1, description="folder of the corpus, relative to the current folder"
    )
    weight: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="its part of the images of an epoch"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and (
            unknown := [str(k) for k in value if k not in cls.model_fields]
        ):
            raise ValueError(
                f"unknown key '{unknown[0]}'; {did_you_mean(unknown[0], cls.model_fields)}"
            )
        if not isinstance(value, str | Path):
            return value
        path, sign, weight = str(value).rpartition("=")
        try:
            return {"path": path, "weight": float(weight)} if sign else {"path": str(value)}
        except ValueError:
            return {"path": str(value)}


class RunConfig(BaseModel):
    """One training run, whole. Written flat: the settings of its objective stand among the others.

    ``RunConfig(loss="pix2pix", l1_weight=10, ...)`` gathers what belongs to the objective and fills in what
    it was published with; UsageError names a setting that is unknown, wrong, or of another objective.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpora: tuple[CorpusChoice, ...] = Field(
        min_length=1,
        description="corpora to train on, PATH or PATH=WEIGHT (WEIGHT: share of an epoch's images)",
    )
    out: str = Field(
        "",
        exclude=True,
        description="folder of the run, made if missing; default: runs/CORPUS-LOSS-NET",
    )
    loss: str = Field("l2", description="what is minimised")
    objective: SerializeAsAny[Objective]
    direction: Literal["AtoB", "BtoA"] = Field(
        "AtoB", description="input to target, or target to input"
    )
    split: str = Field("train", min_length=1, description="split to train on")
    validation_split: str = Field(
        "val",
        min_length=1,
        description="held-out split, scored while training; chooses the best checkpoint of l2 and l1",
    )
    epochs: int = Field(
        50, ge=1, le=1_000_000, description="passes over as many images as the corpora hold"
    )
    batch: int = Field(64, ge=1, le=65_536, description="images a step")
    accumulate: int = Field(
        1,
        ge=1,
        le=65_536,
        description="parts in which a step's batch goes through, for less memory; the step is the same, but "
        "batch norm sees each part alone",
    )
    lr: float = Field(2e-4, gt=0, le=10, description="learning rate")
    epochs_decay: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="last epochs over which the learning rate falls to zero, 0: never",
    )
    decay: Decay = Field(
        "linear",
        description="how it falls; given without --epochs-decay, a rate that is constant falls over all",
    )
    warmup: int = Field(
        0,
        ge=0,
        le=10_000_000,
        description="first steps over which the learning rate rises, from lr/STEPS",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a moving average of the generator's weights, which is used in their place; "
        "0.999 is usual, 0 for none",
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="decay of Adam's first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of Adam's second moment")
    flip: bool = Field(
        False, description="mirror half of the pairs, left and right, anew each epoch"
    )
    crop: int = Field(
        0,
        ge=0,
        le=65_536,
        description="train on squares of so many pixels, cut at a place drawn anew each epoch, the same in "
        "both halves of a pair; images may then be of several sizes; 0: on whole images of one size",
    )
    jitter: float = Field(
        1.0,
        ge=1,
        le=8,
        description="enlarge images by this factor and cut a window of their size, at a place drawn anew "
        "each epoch, the same for both halves of a pair; 1.1171875 (286 for 256) in pix2pix and CycleGAN",
    )
    degrade: str | dict[str, JsonValue] | list[JsonValue] | None = Field(
        None,
        description="degrade the targets afresh each epoch for inputs: a kind, as in gaussian, or a recipe "
        "with a 'degradation'; in a recipe also the tree itself",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="seed of weights, order, augmentation, degradation"
    )
    limit: int = Field(
        0, ge=0, description="use only so many pairs of each corpus, the first by key; 0 for all"
    )
    max_steps: int = Field(0, ge=0, description="end after so many steps, 0 for all epochs")
    validate_every: int = Field(
        1, ge=0, description="epochs between validations, 0 for the last epoch alone"
    )
    patience: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="end after so many validations without a better PSNR, 0 for never; needs held-out pairs",
    )
    samples_every: int = Field(
        5, ge=0, description="epochs between sample grids, 0 for the last epoch alone"
    )
    samples: int = Field(8, ge=1, le=64, description="images in a sample grid")
    sample_keys: str = Field(
        "", description="KEY[,KEY...]: the images in a sample grid, by key; default: evenly spread"
    )
    test_dropout: bool = Field(False, description="let dropout go on at test, as pix2pix does")
    test_norm: Literal["running", "batch"] = Field(
        "running",
        description="statistics of batch norm at test: those learned, or the image's own, as pix2pix does",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="arithmetic of a training step; auto is bf16 on CUDA chips that have it, else fp32",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads, 0 for all cores; results depend on it"
    )
    deterministic: Literal["auto", "on", "off"] = Field(
        "auto",
        description="the same bits again from the same machine, at the price of speed; auto is on on the CPU",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile the networks before training: a minute to begin with, faster steps, other last "
        "digits; auto is on on CUDA, unless --deterministic is on",
    )
    workers: int = Field(
        0, ge=0, le=256, description="processes that read images, 0 for none; same results"
    )
    cache: Literal["auto", "device", "ram", "off"] = Field(
        "auto",
        description="keep decoded images on the device or in memory; without --workers auto does, on CUDA "
        "devices where they take a quarter of what is free at most, else in memory where they fit",
    )
    tensorboard: bool = Field(
        False, description="write losses, scores and sample grids to OUT/tensorboard too"
    )
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="seconds between checkpoints, 0 for every step"
    )

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, values: Any) -> Any:
        return values if "objective" in values else gather(values)

    @model_serializer(mode="wrap")
    def _flat(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        own: dict[str, Any] = values.pop("objective", {})
        return values | own

    @field_validator("compile", "deterministic", mode="before")
    @classmethod
    def _as_yaml_reads_it(cls, value: Any) -> Any:
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("corpora", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path | Mapping) else value

    @field_validator("degrade", mode="before")
    @classmethod
    def _whole_tree(cls, value: Any) -> Any:
        return None if value is None else degradation_of(value)

    @property
    def grid_keys(self) -> tuple[str, ...]:
        """The keys of the images in a sample grid; none where they are evenly spread."""
        return tuple(key for key in self.sample_keys.split(",") if key)

    @property
    def title(self) -> str:
        """What the run is called on its pages; the same wherever its folder lies."""
        names = " + ".join(Path(choice.path).name for choice in self.corpora)
        return f"{self.loss} {self.objective.net} on {names}"

    @classmethod
    def load(cls, path: Path | str) -> RunConfig:
        """Return the configuration kept in a run folder (or in its config.json); ``out`` is that folder.

        Raises CheckpointError when there is none or it is damaged.
        """
        path = Path(path)
        path = path / CONFIG_FILE if path.name != CONFIG_FILE else path
        page = read_page(path)
        values = page.get("config")
        if not isinstance(values, dict):
            raise CheckpointError(
                "run", path, "is damaged: it has no 'config'", "train into another folder"
            )
        return config_of({**values, "out": str(path.parent)}, str(path))

    def changes(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """Return the settings, resources left out, in which ``other`` differs: name to (self's, other's)."""
        ours, theirs = (
            self.model_dump(exclude=set(RESOURCES)),
            other.model_dump(exclude=set(RESOURCES)),
        )
        names = [*ours, *(name for name in theirs if name not in ours)]
        both = {name: (ours.get(name), theirs.get(name)) for name in names}
        return {name: (old, new) for name, (old, new) in both.items() if old != new}


# ----------------------------------------------------------------------- the objective's settings
def gather(values: Mapping[str, Any], where: str | Place = OPTIONS) -> dict[str, Any]:
    """Return flat settings with those of the objective gathered as ``objective``, its usual ones filled in.

    UsageError names a setting that is unknown, or not one of the chosen objective. ``where`` as in
    ``build_model``.
    """
    place = where if isinstance(where, Place) else Place(where)
    loss = values.get("loss", RunConfig.model_fields["loss"].default)
    model = OBJECTIVES.get(str(loss))
    if model is None:
        raise place.error(
            ["loss"], f"'{printable(str(loss))}' is unknown", did_you_mean(str(loss), OBJECTIVES)
        )
    common = RunConfig.model_fields.keys() - {"objective"}
    for name in (n for n in values if n not in common and n not in model.model_fields):
        owners = [other for other, known in OBJECTIVES.items() if name in known.model_fields]
        if not owners:
            raise place.error([str(name)], "unknown", did_you_mean(str(name), settings()))
        raise place.error(
            [name], f"is no setting of the loss {loss}", f"it is one of {', '.join(owners)}"
        )
    objective = build_model(
        model, {n: v for n, v in values.items() if n in model.model_fields}, place
    )
    rest = {n: v for n, v in values.items() if n not in model.model_fields}
    return {**_usual(objective, rest), **rest, "objective": objective}


def _usual(objective: Objective, given: Mapping[str, Any]) -> PublishedDefaults:
    """Return the objective's usual settings; another number of epochs decays over the same part of them.

    A way to fall asked for by name lets fall what would be constant.
    """
    usual = objective.published_defaults()
    epochs = given.get("epochs")
    if isinstance(epochs, int) and "epochs_decay" in usual:
        usual["epochs_decay"] = epochs * usual["epochs_decay"] // usual["epochs"]
    if "decay" in given and not usual.get("epochs_decay"):
        usual["epochs_decay"] = (
            epochs if isinstance(epochs, int) else usual.get("epochs", _default("epochs"))
        )
    return usual


def _default(name: str) -> Any:
    return RunConfig.model_fields[name].default


def settings() -> dict[str, list[tuple[str, Any]]]:
    """Return every setting that can be given, by name: the losses that know it and its default with each."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for loss, model in OBJECTIVES.items():
        common = {n: f.default for n, f in RunConfig.model_fields.items() if n != "objective"}
        own = {n: f.default for n, f in model.model_fields.items()}
        for name, default in (common | own | model().published_defaults()).items():
            found.setdefault(name, []).append((loss, default))
    return found


def options() -> type[BaseModel]:
    """Return a model with every setting of every objective, for the command line to take its options from.

    A help text states the default, loss by loss where they differ, and the losses that know the setting
    where not all do.
    """
    fields: dict[str, Any] = {}
    for name, defaults in settings().items():
        models = [OBJECTIVES[loss].model_fields | RunConfig.model_fields for loss, _ in defaults]
        field = models[0][name]
        annotation = Literal[tuple(OBJECTIVES)] if name == "loss" else field.annotation
        told = f"{field.description}{_told(defaults)}"
        alike = len({str(default) for _, default in defaults}) == 1 and len(defaults) == len(
            OBJECTIVES
        )
        default = field.default if alike else None
        fields[name] = (
            annotation,
            field.merge_field_infos(field, default=default, description=told),
        )
    return create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)


def _told(defaults: list[tuple[str, Any]]) -> str:
    losses: dict[str, list[str]] = {}
    for loss, default in defaults:
        losses.setdefault(str(default), []).append(loss)
    known, others = (
        [loss for loss, _ in defaults],
        [loss for loss in OBJECTIVES if loss not in dict(defaults)],
    )
    few = f"of {', '.join(known)}" if len(known) < len(others) else f"not of {', '.join(others)}"
    whose = f"; {few}" if others else ""
    if len(losses) == 1:
        return whose + (
            f"  [default: {defaults[0][1]}]" if others and defaults[0][1] is not None else ""
        )
    (first, _), *rest = losses.items()
    return (
        f"{whose}  [default: {first}; " + "; ".join(f"{', '.join(n)}: {d}" for d, n in rest) + "]"
    )


def degradation_of(given: Any) -> dict[str, Any]:
    """Return a tree of degradations with every default filled in: of a tree, a kind, or a recipe's path.

    UsageError names what is wrong with it.
    """
    from img2img_data.core.yaml_file import read_yaml
    from img2img_data.degradations.spec import parse_spec, to_spec

    place = Place("option '--degrade'")
    if isinstance(given, str) and (Path(given).suffix in YAML or Path(given).is_file()):
        content, lines = read_yaml(Path(given))
        place = Place(f"recipe '{printable(given)}'", ("degradation",), lines)
        if "degradation" not in content:
            hint = "write a tree of degradations under that key, as in recipes/mixed.yaml"
            raise UsageError("recipe", given, "has no 'degradation'", hint)
        given = content["degradation"]
    return to_spec(parse_spec(given, place).degradation)


def config_of(values: Mapping[str, Any], where: str | Place = OPTIONS) -> RunConfig:
    """Return the configuration of flat settings; a wrong one is one UsageError that names the option or
    key.
    """
    return build_model(RunConfig, gather(values, where), where)


def default_out(config: RunConfig) -> str:
    """Return the folder a run goes to when none is given."""
    name = Path(config.corpora[0].path).resolve().name
    return str(Path("runs") / f"{name}-{config.loss}-{config.objective.net}")


def read_page(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a run; CheckpointError when it is missing or damaged."""
    try:
        page = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            "run", path.parent, f"has no {path.name}", "give the folder of a run"
        ) from None
    except OSError as error:
        raise CheckpointError("run", path, error.strerror or "cannot be read") from None
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict):
        raise CheckpointError("run", path, "is damaged", "train into another folder")
    if page.get("format") == RUN_FORMAT - 1:
        why = "was written by an older version of img2img-train"
        raise CheckpointError("run", path.parent, why, "train it again with this version")
    return page


def read_recipe(path: Path | str, smoke: bool = False) -> dict[str, Any]:
    """Return the section ``run`` of a YAML recipe, unchecked but for its keys and values by RunConfig.

    ``smoke``: overridden by ``smoke.run``, into a folder of its own, ``OUT-smoke`` where it names none. The
    other sections belong to other commands. Raises UsageError naming file, line and key, and the nearest one
    there is.
    """
    from img2img_data.core.yaml_file import read_yaml

    path = Path(path)
    content, lines = read_yaml(path)
    place = Place(f"recipe '{printable(str(path))}'", ("run",), lines)
    values = _section(path, content, "run")
    config_of({**UNNAMED, **values}, place)
    if not smoke:
        return values
    small = {"out": f"{values['out']}-smoke"} if values.get("out") else {}
    size = _section(path, content, "smoke")
    for name in (name for name in size if name not in SMOKE):
        raise replace(place, keys=("smoke",)).error([name], "unknown", did_you_mean(name, SMOKE))
    small = {**values, **small, **_section(path, size, "run", "smoke.")}
    config_of({**UNNAMED, **small}, replace(place, keys=("smoke", "run")))
    return small


def _section(path: Path, content: Mapping[str, Any], name: str, within: str = "") -> dict[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict):
        near = [key for key in content if did_you_mean(key, [name]).startswith("did")]
        why = f"has no section '{within}{name}'{f' (is {near[0]!r} meant?)' if near else ''}"
        hint = "leave --smoke out" if name == "smoke" else "put the settings of img2img-train there"
        raise UsageError("recipe", path, why, hint)
    return section


def run_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the section ``run`` of a recipe."""
    schema = options().model_json_schema()
    for setting in schema["properties"].values():
        if setting.get("default", 0) is None:
            del setting["default"]
    one = {"anyOf": [{"type": "string", "minLength": 1}, {"$ref": "#/$defs/CorpusChoice"}]}
    about = schema["properties"]["corpora"].get("description", "")
    several = {"type": "array", "items": one, "minItems": 1}
    schema["properties"]["corpora"] = {"description": about, "anyOf": [*one["anyOf"], several]}
    # The command line may name the corpora in place of the recipe.
    required = [name for name in schema.pop("required", []) if name != "corpora"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "run",
        **({"required": required} if required else {}),
    }


def configure(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a recipe overridden by the command line, with ``out`` filled in."""
    values = {**recipe, **settings}
    if not values.get("corpora"):
        raise UsageError(
            "corpora", why="none given", hint="name at least one corpus, or a recipe that does"
        )
    config = config_of(values)
    return config if config.out else config.model_copy(update={"out": default_out(config)})
