"""What a run is asked to do: one frozen model, filled by a recipe and the command line, kept with the run.

Nothing here imports torch, so that ``--help`` stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from img2img_data.errors import CheckpointError, UsageError, printable
from img2img_data.fields import Place, build_model, did_you_mean

CONFIG_FILE: Final = "config.json"
RESOURCES: Final = frozenset({"out", "device", "threads", "workers", "cache", "checkpoint_seconds"})
"""Settings that say with what a run is computed, not what: a run may be resumed with others."""


class CorpusChoice(BaseModel):
    """One corpus to train on. Written ``PATH`` or ``PATH=WEIGHT`` on the command line and in recipes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(min_length=1, description="folder of the corpus, relative to the current folder")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="its part of the pictures of an epoch")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and (unknown := [str(k) for k in value if k not in cls.model_fields]):
            raise ValueError(f"unknown key '{unknown[0]}'; {did_you_mean(unknown[0], cls.model_fields)}")
        if not isinstance(value, str | Path):
            return value
        path, sign, weight = str(value).rpartition("=")
        try:
            return {"path": path, "weight": float(weight)} if sign else {"path": str(value)}
        except ValueError:
            return {"path": str(value)}


class RunConfig(BaseModel):
    """One training run, whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpora: tuple[CorpusChoice, ...] = Field(
        min_length=1,
        description="corpora to train on, PATH or PATH=WEIGHT (WEIGHT: share of an epoch's pictures)",
    )
    out: str = Field(
        "", exclude=True, description="folder of the run, made if missing; default: runs/CORPUS-LOSS-NET"
    )
    loss: Literal["l2", "l1"] = Field("l2", description="what is minimised: squared or absolute difference")
    net: Literal["autoencoder", "unet"] = Field(
        "autoencoder", description="generator: encoder-decoder of the original work, or the same with skips"
    )
    width: int = Field(
        64, ge=1, le=1024, description="channels of the first layer; the others are multiples of it"
    )
    direction: Literal["AtoB", "BtoA"] = Field("AtoB", description="input to target, or target to input")
    split: str = Field("train", min_length=1, description="split to train on")
    validation_split: str = Field("val", min_length=1, description="split that chooses the best checkpoint")
    epochs: int = Field(
        50, ge=1, le=1_000_000, description="passes over as many pictures as the corpora hold"
    )
    batch: int = Field(64, ge=1, le=65_536, description="pictures a step")
    lr: float = Field(2e-4, gt=0, le=10, description="learning rate of Adam")
    epochs_decay: int = Field(
        0, ge=0, le=1_000_000, description="last epochs over which the learning rate falls to zero, linearly"
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="decay of Adam's first moment")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of Adam's second moment")
    flip: bool = Field(False, description="mirror half of the pairs, left and right, anew each epoch")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, order and augmentation")
    limit: int = Field(0, ge=0, description="use only so many pairs of each corpus, 0 for all")
    max_steps: int = Field(0, ge=0, description="end after so many steps, 0 for all epochs")
    validate_every: int = Field(1, ge=0, description="epochs between validations, 0 for the last epoch alone")
    samples_every: int = Field(5, ge=0, description="epochs between sample grids, 0 for the last epoch alone")
    samples: int = Field(8, ge=1, le=64, description="pictures in a sample grid")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of a training step; auto is bf16 on CUDA, else fp32"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to compute")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads, 0 for all cores; results depend on it")
    workers: int = Field(
        0, ge=0, le=256, description="processes that read pictures, 0 for none; same results"
    )
    cache: Literal["auto", "ram", "off"] = Field(
        "auto",
        description="keep decoded pictures in memory; auto does where they fit and there are no workers",
    )
    checkpoint_seconds: float = Field(60.0, ge=0, description="seconds between checkpoints, 0 for every step")

    @field_validator("corpora", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Path | Mapping) else value

    @property
    def title(self) -> str:
        """What the run is called on its pages; the same wherever its folder lies."""
        names = " + ".join(Path(choice.path).name for choice in self.corpora)
        return f"{self.loss} {self.net} on {names}"

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
            raise CheckpointError("run", path, "is damaged: it has no 'config'", "train into another folder")
        return build_model(cls, {**values, "out": str(path.parent)}, str(path))

    def changes(self, other: RunConfig) -> dict[str, tuple[Any, Any]]:
        """Return the settings, resources left out, in which ``other`` differs: name to (self's, other's)."""
        ours, theirs = self.model_dump(exclude=set(RESOURCES)), other.model_dump(exclude=set(RESOURCES))
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


def default_out(config: RunConfig) -> str:
    """Return the folder a run goes to when none is given."""
    name = Path(config.corpora[0].path).resolve().name
    return str(Path("runs") / f"{name}-{config.loss}-{config.net}")


def read_page(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a run; CheckpointError when it is missing or damaged."""
    try:
        page = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError("run", path.parent, f"has no {path.name}", "give the folder of a run") from None
    except OSError as error:
        raise CheckpointError("run", path, error.strerror or "cannot be read") from None
    except (ValueError, RecursionError):
        page = None
    if not isinstance(page, dict):
        raise CheckpointError("run", path, "is damaged", "train into another folder")
    return page


def read_recipe(path: Path | str) -> dict[str, Any]:
    """Return the section ``run`` of a YAML recipe, unchecked but for its keys and values by RunConfig.

    The other sections belong to other commands. Raises UsageError naming file, line and key, and the nearest
    one there is.
    """
    from img2img_data.yamlfile import read_yaml

    path = Path(path)
    content, lines = read_yaml(path)
    section = content.get("run")
    if not isinstance(section, dict):
        near = [key for key in content if did_you_mean(key, ["run"]).startswith("did")]
        why = f"has no section 'run'{f' (is {near[0]!r} meant?)' if near else ''}"
        raise UsageError("recipe", path, why, "put the settings of img2img-train under 'run:'")
    filled = {"corpora": ["filled from the command line"], **section}
    build_model(RunConfig, filled, Place(f"recipe '{printable(str(path))}'", ("run",), lines))
    return section


def run_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the section ``run`` of a recipe."""
    schema = RunConfig.model_json_schema()
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
            "corpora", why="none given", way_out="name at least one corpus, or a recipe that does"
        )
    config = build_model(RunConfig, values)
    return config if config.out else config.model_copy(update={"out": default_out(config)})
