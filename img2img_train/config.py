"""Run configuration: one frozen model, filled by a recipe and the command line, saved with the run.

Nothing here imports torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import pydantic
from pydantic import BeforeValidator, Field, JsonValue
from pydantic.fields import FieldInfo

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import OPTIONS, Place, build_model, did_you_mean, setting
from img2img_train.objectives.base import Objective
from img2img_train.objectives.registry import OBJECTIVES

CONFIG_FILE: Final = "config.json"
RUN_FORMAT: Final = 2
"""Format version of ``config.json``; runs of other versions are rejected."""
SMOKE: Final = ("size", "minutes", "score", "corpus", "run")
"""Keys of a recipe's section ``smoke``; only ``run`` is read here."""
LONGEST_NAME: Final = 80
"""Limit of characters for the names of several corpora in the default name of a run."""
PLACEHOLDER: Final = {"corpora": ["filled from the command line"]}
RESOURCES: Final = {
    *("out", "device", "threads", "workers", "cache", "keep_every"),
    *("checkpoint_seconds", "compile", "deterministic", "tensorboard"),
}
"""Settings of where and how a run is computed; a run may be resumed with others."""


def _as_word(value: Any) -> Any:
    # YAML reads an unquoted on or off as a boolean.
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _as_several(value: Any) -> Any:
    return [value] if isinstance(value, str | os.PathLike | Mapping) else value


# Bounds keep hostile numbers from overflowing floats; no real run comes near them.
Count: TypeAlias = Annotated[int, Field(ge=0, le=10**9)]
Positive: TypeAlias = Annotated[int, Field(ge=1, le=10**9)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
AutoOnOff: TypeAlias = Annotated[Literal["auto", "on", "off"], BeforeValidator(_as_word)]


DEFAULT_LOSS: Final = "charbonnier"
Preset: TypeAlias = Literal["restore", "original", "pix2pix", "cyclegan"]
_CROPS_OF_286: Final = {"load_size": 286, "crop": 256, "flip": True}
PRESETS: Final[Mapping[Preset, Mapping[str, Any]]] = {
    # The defaults of this loss are the preset.
    "restore": {"loss": "charbonnier"},
    "original": {
        "loss": "l2",
        "net": "autoencoder",
        "batch": 64,
        "epochs": 50,
        "epochs_decay": 0,
        "validate_every": 1,
        "samples_every": 5,
        "lr": 2e-4,
        "decay": "linear",
        "beta1": 0.5,
        "ema": 0.0,
        "clip_grad": 0.0,
        "flip": False,
        "crop": 0,
        "rotate": False,
    },
    "pix2pix": {"loss": "pix2pix", **_CROPS_OF_286},
    "cyclegan": {"loss": "cyclegan", **_CROPS_OF_286},
}
"""Settings of published methods, beside the published defaults of their objectives: ``original`` is
the first version of this project, pix2pix and CycleGAN are
https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix."""


class CorpusChoice(FrozenModel):
    """One corpus to train on, written ``PATH`` or ``PATH=WEIGHT`` on the command line and in
    recipes.
    """

    path: str = Field(min_length=1)
    """folder of the corpus, relative to the current folder"""
    weight: float = Field(1.0, gt=0, le=1e9)
    """share of the images of an epoch"""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _parse_text(cls, value: Any) -> Any:
        if not isinstance(value, str | os.PathLike):
            return value
        value = os.fspath(value)  # of a corpus too
        path, sign, weight = value.rpartition("=")
        # A folder may have "=" in its name, as sigma=3: one that exists has no weight.
        if sign and not Path(value).is_dir():
            with suppress(ValueError):
                return {"path": path, "weight": float(weight)}
        return {"path": value}


class RunConfig(FrozenModel):
    """Settings of one training run, written flat: those of the objective are keys too.

    ``RunConfig(loss="pix2pix", l1_weight=10, ...)`` gathers the objective's settings and fills in
    its published defaults. Raises UsageError for a setting that is unknown, wrong, or of another
    objective.
    """

    corpora: Annotated[tuple[CorpusChoice, ...], BeforeValidator(_as_several)] = Field(min_length=1)
    """corpora to train on, PATH or PATH=WEIGHT"""
    out: str = setting("Options", "", exclude=True)
    """folder of the run; default: runs/CORPUS-LOSS-NET, or runs/CORPUS+CORPUS-LOSS-NET for several
    corpora"""
    preset: Preset | None = setting("Options", None)
    """published settings; other options, such as --net, override them, but --loss must share them;
    restore: the defaults of l2, l1 and charbonnier; original: the autoencoder of the first version
    of this project, for the same losses; pix2pix (also for l1+gan, cgan and gan) and cyclegan: the
    settings of the authors' code"""
    loss: str = setting(
        "Options", DEFAULT_LOSS, f"objective: {', '.join(OBJECTIVES)}", enum=OBJECTIVES
    )
    objective: pydantic.SerializeAsAny[Objective]
    init: str = setting("Options", "")
    """run or checkpoint to take the initial weights from; adopted and exported models work too; EMA
    weights are used if there are any, and its network settings become the defaults; optimizers,
    schedule and data order start afresh"""
    epochs: int | None = setting("Options", 50, ge=1, le=10**9)
    """passes over the corpora; each draws as many images as the corpora hold, in full batches;
    default with l2, l1 and charbonnier: enough for 3,000 steps (or --max-steps, if larger), at
    least 3"""
    batch: Positive = setting("Options", 64)
    """images per step"""

    direction: Literal["AtoB", "BtoA"] = setting("Data", "AtoB")
    """direction to train; AtoB: input to target; BtoA: target to input"""
    input: Literal["plain", "wiener"] = setting("Data", "plain")
    """use plain or deconvolved inputs; wiener: deconvolve with the blur recorded in the row of each
    pair, before cropping; inputs without a recorded blur stay as they are; translate then needs
    --sigma"""
    noise_ratio: float | None = setting("Data", None, advanced=True, gt=0, le=100)
    """noise-to-signal ratio for --input wiener; default: the one with the highest PSNR on training
    pairs"""
    split: str = setting("Data", "train", min_length=1)
    """split to train on"""
    degrade: str | dict[str, JsonValue] | list[JsonValue] | None = setting("Data", None)
    """degrade the training targets anew in each epoch; a kind such as gaussian, or the name or path
    of a recipe with a 'degradation'; a recipe may give a pipeline of degradations here; held-out
    inputs still come from the corpus"""
    stored_share: float = setting("Data", 0.0, advanced=True, ge=0, le=1)
    """share of samples that keep the input stored in the corpus, with --degrade; drawn anew in each
    epoch"""
    clean_share: float = setting("Data", 0.0, ge=0, le=1)
    """share of samples whose input is the target; they teach the model to leave clean images alone;
    drawn anew in each epoch"""
    load_size: Annotated[int, Field(ge=0, le=8192)] = setting("Data", 0)
    """resize images to squares of this side, pixels; bicubic, when they are read, so images of any
    size can be used; comes before --crop and --jitter; pix2pix and CycleGAN use 286 with --crop
    256; 0: keep the stored size"""
    crop: int | None = setting("Data", 0, ge=0, le=10**9)
    """train on random square crops of this side, pixels; drawn anew in each epoch, the same for
    both images of a pair; images may then differ in size; 0: whole images, all of one size;
    default: whole images, but with l2, l1 or charbonnier crops of 96 if the images are larger (more
    if the network needs it)"""
    jitter: float = setting("Data", 1.0, ge=1, le=8)
    """enlarge by this factor, then crop; to the original size, at a random place in each epoch, the
    same for both images of a pair; 1.1171875 on images stored at 256 equals --load-size 286 --crop
    256; use one or the other"""
    flip: bool = setting("Data", False)
    """mirror a random half of the pairs; drawn anew in each epoch"""
    rotate: bool | None = setting("Data", False)
    """turn pairs by 0, 90, 180 or 270 degrees at random; drawn anew in each epoch; default: on if
    crops are cut by default, because most crops have no natural orientation; else off"""
    limit: Count = setting("Data", 0, advanced=True)
    """largest number of pairs to use from each corpus; the first by key; 0: all"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = setting("Data", 0)
    """random seed; for weights, data order, augmentation and degradation"""

    lr: float = setting("Optimization", 2e-4, gt=0, le=10)
    """learning rate"""
    epochs_decay: int | None = setting("Optimization", 0, ge=0, le=10**9)
    """final epochs in which the learning rate decays to 0; 0: no decay"""
    decay: Literal["linear", "cosine"] = setting("Optimization", "linear")
    """shape of the learning-rate decay; without --epochs-decay it spans the whole run, unless the
    objective has a published decay"""
    warmup: Count = setting("Optimization", 0, advanced=True)
    """steps of linear warm-up; the learning rate starts at lr / STEPS"""
    ema: Fraction = setting("Optimization", 0.0)
    """EMA decay of the weights; the moving average of the generator's weights replaces them at test
    time; 0.999 is common; 0: no EMA"""
    clip_grad: float = setting("Optimization", 0.0, advanced=True, ge=0, le=1e6)
    """clip the norm of the gradient to this value; over all weights of an optimizer; 0: no limit"""
    weight_decay: float = setting("Optimization", 0.0, advanced=True, ge=0, le=1)
    """weight decay, decoupled from the gradient; as in AdamW (Loshchilov and Hutter 2019)"""
    accumulate: Positive = setting("Optimization", 1, advanced=True)
    """split each step into at least this many micro-batches; they need less memory for the same
    step, except that batch norm normalizes each on its own; networks without batch norm split
    further if memory runs out"""
    beta1: Fraction = setting("Optimization", 0.5, advanced=True)
    """decay of Adam's first moment"""
    beta2: Fraction = setting("Optimization", 0.999, advanced=True)
    """decay of Adam's second moment"""
    max_steps: Count = setting("Optimization", 0, advanced=True)
    """stop after this many steps; the schedule remains that of all epochs; 0: train for all
    epochs"""

    validation_split: str = setting("Validation", "val", min_length=1)
    """split to validate on; its PSNR selects the checkpoint of l2, l1 and charbonnier; none: no
    validation"""
    validate_every: int | None = setting("Validation", 1, ge=0, le=10**9)
    """epochs between validations; 0: validate after the last epoch only; default with l2, l1 and
    charbonnier: a twentieth of all epochs"""
    validation_images: Count = setting("Validation", 256, advanced=True)
    """images to score in each validation; evenly spaced over the split; 0: all; the scores at the
    end of training always use whole splits"""
    patience: Count = setting("Validation", 0)
    """validations without a better PSNR before stopping; on held-out pairs; 0: no early stopping"""
    test_dropout: bool = setting("Validation", False, advanced=True)
    """keep dropout on at test time; as in pix2pix and DualGAN"""
    test_norm: Literal["running", "batch"] = setting("Validation", "running", advanced=True)
    """batch-norm statistics at test time; running: those learned in training; batch: those of the
    image, as in pix2pix"""

    keep_every: Count = setting("Output", 0, advanced=True)
    """epochs between checkpoints to keep; as checkpoints/epoch-00010.safetensors, networks only; 0:
    keep none"""
    samples_every: int | None = setting("Output", 5, advanced=True, ge=0, le=10**9)
    """epochs between sample grids; 0: after the last epoch only; default with l2, l1 and
    charbonnier: a tenth of all epochs, at least 5"""
    samples: int = setting("Output", 8, advanced=True, ge=1, le=64)
    """images in a sample grid"""
    sample_keys: str = setting("Output", "", advanced=True)
    """keys of the images in the sample grids, KEY[,KEY...]; default: evenly spaced"""
    tensorboard: bool = setting("Output", False, advanced=True)
    """log to OUT/tensorboard too; losses, scores and sample grids"""
    checkpoint_seconds: float = setting("Output", 60.0, advanced=True, ge=0, le=1e9)
    """seconds between checkpoints; 0: every step"""

    # As text: a torch.device, too.
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], BeforeValidator(str)] = setting(
        "Runtime", "auto"
    )
    """device to train on"""
    precision: Literal["auto", "fp32", "bf16"] = setting("Runtime", "auto")
    """training precision; auto: bf16 on CUDA devices and on CPUs that multiply it natively, else
    fp32; weights and losses stay in fp32"""
    compile: Annotated[Literal["auto", "on", "off", "graphs"], BeforeValidator(_as_word)] = setting(
        "Runtime", "auto"
    )
    """torch.compile the networks; training starts later, steps are faster, results are not
    bit-identical; auto: on with CUDA, unless --deterministic is on; graphs: on, with CUDA graphs,
    which help when steps are short"""
    deterministic: AutoOnOff = setting("Runtime", "auto")
    """make runs repeatable bit for bit; on the same machine; slower; auto: on with the CPU"""
    workers: Annotated[int, Field(ge=0, le=256)] = setting("Runtime", 0)
    """processes that load images; 0: none; results do not depend on it"""
    cache: Literal["auto", "device", "ram", "off"] = setting("Runtime", "auto")
    """where to cache images; they are cached decoded; auto, without --workers: on a CUDA device if
    they take at most a quarter of its free memory, else in RAM if they fit"""
    threads: Annotated[int, Field(ge=0, le=1024)] = setting("Runtime", 0, advanced=True)
    """CPU threads; 0: all cores; the number affects the last digits of the results"""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _gather_objective(cls, values: Any) -> Any:
        return values if "objective" in values else gather(values)

    @pydantic.model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.stored_share and self.degrade is None:
            raise ValueError("--stored-share needs --degrade; add that, or leave it out")
        if self.stored_share + self.clean_share > 1:
            raise ValueError("--stored-share and --clean-share add up to more than 1; lower one")
        return self

    @pydantic.model_validator(mode="after")
    def _check_input(self) -> Self:
        if self.input == "plain" and self.noise_ratio is not None:
            raise ValueError("--noise-ratio needs --input wiener; add that, or leave it out")
        if self.input == "wiener" and self.degrade is not None:
            hint = "build a corpus with 'img2img-data degrade' and train on that"
            raise ValueError(f"--input wiener needs a blur in each row, not --degrade; {hint}")
        if self.input == "wiener" and not (self.objective.paired and self.direction == "AtoB"):
            what = "--direction BtoA" if self.objective.paired else f"--loss {self.loss}"
            raise ValueError(f"--input wiener needs inputs of pairs; leave it or {what} out")
        return self

    @pydantic.model_serializer(mode="wrap")
    def _write_flat(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Flat, because recipes and the command line know no sections for objectives.
        values: dict[str, Any] = handler(self)
        own: dict[str, Any] = values.pop("objective", {})
        return values | own

    @pydantic.field_validator("degrade", mode="before")
    @classmethod
    def _resolve_degradation(cls, value: Any) -> Any:
        # The whole tree is saved, so a run does not depend on a recipe file that may change.
        return None if value is None else degradation_of(value)

    @property
    def grid_keys(self) -> tuple[str, ...]:
        """Keys of the images in a sample grid; empty if they are evenly spread."""
        return tuple(key for key in self.sample_keys.split(",") if key)

    @property
    def preparation(self) -> str:
        """The preparation of inputs for the network, in words; empty if there is none."""
        return f"Wiener-deconvolved (noise ratio {self.noise_ratio:g})" if self.noise_ratio else ""

    @property
    def title(self) -> str:
        """Title of the run on its pages; it does not depend on where the folder is."""
        names = " + ".join(Path(choice.path).name for choice in self.corpora)
        return f"{self.loss} {self.objective.net} on {names}"

    @classmethod
    def load(cls, path: Path | str) -> RunConfig:
        """Return the configuration saved in a run folder, or in its config.json; ``out`` is that
        folder.

        Raises CheckpointError if it is missing or damaged.
        """
        path = Path(path)
        path = path / CONFIG_FILE if path.name != CONFIG_FILE else path
        values = (page := read_page(path)).get("config")
        if not isinstance(values, dict):
            exported = "model_format" in page
            why = "is from an exported model, not a run" if exported else "is damaged: no 'config'"
            raise CheckpointError("run", path, why, "train into another folder")
        return config_of({**values, "out": str(path.parent)}, Place(str(path)))

    def changes(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from ``other``: name to (self's, other's), without
        RESOURCES.
        """
        old, new = (config.model_dump(exclude=RESOURCES) for config in (self, other))
        both = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
        return {name: values for name, values in both.items() if values[0] != values[1]}


# ------------------------------------------------------------------------------ settings and losses
def config_of(values: Mapping[str, Any], place: Place = OPTIONS) -> RunConfig:
    """Return the configuration of flat settings; ``UsageError`` names the wrong option or key."""
    return build_model(RunConfig, gather(values, place), place)


def gather(values: Mapping[str, Any], place: Place = OPTIONS) -> dict[str, Any]:
    """Return flat settings with those of the objective gathered as ``objective``.

    The published defaults of the objective are filled in. Raises ``UsageError`` for a setting that
    is unknown or belongs to other objectives only.
    """
    values = {**_of_preset(values.get("preset"), place), **values}
    loss = str(values.get("loss", DEFAULT_LOSS))
    if loss not in OBJECTIVES:
        why = f"'{printable(loss)}' is unknown"
        raise place.error(["loss"], why, did_you_mean(loss, OBJECTIVES))
    own = {n: value for n, value in values.items() if n in OBJECTIVES[loss].model_fields}
    common = {name: value for name, value in values.items() if name not in own}
    known = RunConfig.model_fields.keys() - {"objective"}
    for name in (name for name in common if name not in known):
        owners = [other for other, model in OBJECTIVES.items() if name in model.model_fields]
        if not owners:
            raise place.error([str(name)], "unknown", did_you_mean(str(name), all_fields()))
        why = f"is not a setting of the loss {loss}"
        raise place.error([name], why, f"it belongs to {', '.join(owners)}")
    objective = build_model(OBJECTIVES[loss], own, place)
    return {**_published_defaults(objective, common), **common, "objective": objective}


def _published_defaults(objective: Objective, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the published defaults of an objective, its decay fitted to the given settings."""
    defaults, epochs = objective.published_defaults(), settings.get("epochs")
    # With another number of epochs the rate decays over the same share of them.
    decay, published = defaults.get("epochs_decay"), defaults.get("epochs")
    if isinstance(epochs, int) and decay and published:
        defaults["epochs_decay"] = epochs * decay // published
    # A decay that is asked for by name spans the run, even if the published rate is constant.
    if "decay" in settings and not defaults.get("epochs_decay"):
        defaults["epochs_decay"] = None
    return defaults


def _of_preset(name: Any, place: Place) -> Mapping[str, Any]:
    """Return the settings of a preset, none without a name; UsageError if it is unknown."""
    if name is not None and name not in list(PRESETS):  # in a recipe it may have no hash
        why = f"'{printable(str(name))}' is unknown"
        raise place.error(["preset"], why, did_you_mean(str(name), PRESETS))
    return PRESETS[name] if name else {}


def fields_of(loss: str) -> dict[str, FieldInfo]:
    """Return the settings that act with a loss, by name, with the defaults that it has."""
    fields = RunConfig.model_fields | OBJECTIVES[loss].model_fields
    found = {name: copy.copy(field) for name, field in fields.items() if name != "objective"}
    for name, default in OBJECTIVES[loss]().published_defaults().items():
        found[name].default = default
    return found


def all_fields() -> dict[str, FieldInfo]:
    """Return the settings of all losses, by name, with the default of the first loss that has them.

    Its help names the losses of a setting that not all have.
    """
    by_loss = {loss: fields_of(loss) for loss in OBJECTIVES}
    found: dict[str, FieldInfo] = {}
    for name, field in (item for fields in by_loss.values() for item in fields.items()):
        owners = [loss for loss, fields in by_loss.items() if name in fields]
        if name not in found and len(owners) < len(OBJECTIVES):
            field.metadata = [*field.metadata, f"; for --loss {', '.join(owners)}"]
        found.setdefault(name, field)
    return found


def degradation_of(value: Any) -> dict[str, Any]:
    """Return a pipeline of degradations with all defaults, from a tree, a kind, or the name or path
    of a recipe.

    Raises ``UsageError`` for a wrong one.
    """
    from img2img_data.degradations.spec import parse_spec, read_pipeline, to_spec

    pipeline = read_pipeline(value, Place("option '--degrade'"))
    return to_spec(parse_spec(*pipeline).degradation)


def run_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the section ``run`` of a recipe."""
    fields: dict[str, Any] = {n: (field.annotation, field) for n, field in all_fields().items()}
    model: type[FrozenModel] = pydantic.create_model("Run", __base__=FrozenModel, **fields)
    schema = model.model_json_schema()
    by_loss = [fields_of(loss) for loss in OBJECTIVES]
    for name, about in schema["properties"].items():
        if len({str(known[name].default) for known in by_loss if name in known}) > 1:
            del about["default"]
    one = {"anyOf": [{"type": "string", "minLength": 1}, {"$ref": "#/$defs/CorpusChoice"}]}
    several = {"type": "array", "items": one, "minItems": 1}
    text = schema["properties"]["corpora"]["description"]
    schema["properties"]["corpora"] = {"description": text, "anyOf": [*one["anyOf"], several]}
    # The command line may name the corpora in place of the recipe.
    del schema["required"]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "run"}


# -------------------------------------------------------------------------------- files and recipes
def configure(values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of flat settings; ``out`` is filled in."""
    if not values.get("corpora"):
        hint = "give at least one corpus, or a recipe that names one"
        raise UsageError("corpora", why="none given", hint=hint)
    config = config_of(values)
    loss = PRESETS[config.preset]["loss"] if config.preset else config.loss
    own, its = (OBJECTIVES[name]() for name in (config.loss, loss))
    if (own.net, own.published_defaults()) != (its.net, its.published_defaults()):
        why = f"is for --loss {loss}, and {config.loss} has other published settings"
        raise UsageError("option", f"--preset {config.preset}", why, "omit one of them")
    # Not ``resolve``, which raises for links in a circle before anything has named the corpus.
    names = [Path(os.path.realpath(choice.path)).name for choice in config.corpora]
    corpora = "+".join(names)
    if len(names) > 1 and len(corpora) > LONGEST_NAME:
        corpora = f"{names[0]}+{len(names) - 1}"
    name = f"{corpora}-{config.loss}-{config.objective.net}"
    return config.model_copy(update={"out": config.out or str(Path("runs") / name)})


def read_page(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a run; CheckpointError if it is missing or damaged."""
    try:
        page = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        hint = "give the folder of a run"
        raise CheckpointError("run", path.parent, f"has no {path.name}", hint) from None
    except OSError as error:
        raise CheckpointError("run", path, error.strerror or "cannot be read") from None
    except (ValueError, RecursionError):  # hostile files nest deeper than the parser goes
        page = None
    if not isinstance(page, dict):
        raise CheckpointError("run", path, "is damaged", "train into another folder")
    if page.get("format") == RUN_FORMAT - 1:
        why = "was written by an older version of img2img-train"
        raise CheckpointError("run", path.parent, why, "train it again with this version")
    return page


def read_recipe(path: Path | str, smoke: bool = False) -> dict[str, Any]:
    """Return the checked section ``run`` of a recipe, given by path or name, as flat settings.

    With ``smoke`` it is overridden by ``smoke.run`` and goes to ``OUT-smoke``, unless that names a
    folder. The other sections belong to img2img-data. Raises UsageError with file, line and key.
    """
    from img2img_data.core.yaml_file import read_sections

    content, file = read_sections(path)
    values = _section(path, content, "run")
    config_of({**PLACEHOLDER, **values}, file.below("run"))
    if not smoke:
        return values
    size = _section(path, content, "smoke")
    for name in (name for name in size if name not in SMOKE):
        raise file.below("smoke").error([name], "unknown", did_you_mean(name, SMOKE))
    # Never into the folder of the full run, which the small one would block.
    out = {"out": f"{values['out']}-smoke"} if values.get("out") else {}
    small = {**values, **out, **_section(path, size, "run", "smoke.")}
    config_of({**PLACEHOLDER, **small}, file.below("smoke", "run"))
    return small


def _section(
    path: Path | str, content: Mapping[str, Any], name: str, parent: str = ""
) -> dict[str, Any]:
    section = content.get(name)
    if not isinstance(section, dict):
        why = f"has no section '{parent}{name}'"
        hint = "leave --smoke out" if name == "smoke" else "put the settings of img2img-train there"
        raise UsageError("recipe", path, why, hint)
    return section
