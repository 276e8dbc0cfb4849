"""JSON Schemas (draft 2020-12) of recipes, of a command's settings and of a corpus' rows.

They are made from the models that the commands themselves use, so they cannot say anything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from img2img_data.cli.recipe import Recipe
from img2img_data.cli.steps import STEPS, Choice, Step
from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import accepts_text, did_you_mean
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.compose import Composite
from img2img_data.degradations.registry import DEGRADATIONS

Schema = dict[str, Any]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_SHA256: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_HEX: Final[Schema] = {"type": "string", "pattern": "^([0-9a-f]{2})+$"}
_FILE: Final[Schema] = {"type": "string", "description": "relative to the split's folder"}

ROW: Final[Schema] = {
    "title": "a row of metadata.jsonl",
    "type": "object",
    "properties": {
        "key": {"type": "string", "description": "name of the pair, unique in the corpus"},
        "input_file_name": _FILE,
        "target_file_name": _FILE,
        "file_name": {
            **_FILE,
            "description": "the A|B image, or the one image of an unpaired corpus",
        },
        "domain": {"enum": ["A", "B"], "description": "of an unpaired corpus"},
        "source": {"type": "string", "description": "the source's path, escaped for reading"},
        "source_hex": {**_HEX, "description": "the bytes of that path"},
        "target_source": {"type": "string"},
        "target_source_hex": _HEX,
        "tags": {"type": "object", "description": "what is known about the source"},
        "kind": {"type": "string", "description": "the command, or what degraded the input"},
        "drawn": {"type": "object", "description": "the parameters drawn for this pair"},
        "measured": {"type": "object", "description": "what was measured on this pair"},
        "width": {"type": "integer", "minimum": 1, "description": "of one image, pixels"},
        "height": {"type": "integer", "minimum": 1},
        "notes": {"type": "array", "items": {"type": "string"}},
        "source_sha256": _SHA256,
        "target_source_sha256": _SHA256,
        "input_sha256": _SHA256,
        "target_sha256": _SHA256,
        "sha256": _SHA256,
    },
    "required": ["key"],
    "oneOf": [{"required": ["file_name"]}, {"required": ["input_file_name", "target_file_name"]}],
}


def schema_of(what: str) -> Schema:
    """Return the schema of "recipe", "corpus-row", "degradation" or a command; ``UsageError`` names them."""
    if what == "recipe":
        return {"$schema": DRAFT, **recipe_schema()}
    if what == "corpus-row":
        return {"$schema": DRAFT, **ROW}
    defs: Schema = {}
    if what == "degradation":
        return {
            "$schema": DRAFT,
            "title": "a tree of degradations",
            **tree_schema(defs),
            "$defs": defs,
        }
    if what not in STEPS:
        known = ["recipe", "corpus-row", "degradation", *STEPS]
        raise UsageError("schema", what, "unknown", did_you_mean(what, known))
    schema = {"$schema": DRAFT, "title": f"settings of {what}", **step_schema(STEPS[what], defs)}
    return {**schema, **({"$defs": defs} if defs else {})}


def recipe_schema() -> Schema:
    """Return the schema of a recipe; its ``run`` sections belong to img2img-train: any object."""
    defs: Schema = {}
    schema = _model_schema(Recipe, defs)
    one_of = []
    for name, step in STEPS.items():
        defs[f"step-{name}"] = {
            "type": "object",
            "description": _first_line(step.run.__doc__),
            "properties": {name: step_schema(step, defs)},
            "required": [name],
            "additionalProperties": False,
        }
        one_of.append({"$ref": f"#/$defs/step-{name}"})
    for text in ("name", "about"):
        schema["properties"][text]["type"] = ["string", "number"]
    schema["properties"]["degradation"] |= tree_schema(defs)
    schema["properties"]["corpus"] |= {"items": {"oneOf": one_of}}
    defs["Smoke"]["properties"]["corpus"] |= {"items": {"oneOf": one_of}}
    return {**schema, "title": "a recipe of img2img", "$defs": defs}


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def step_schema(step: Step, defs: Schema) -> Schema:
    """Return the schema of a step's paths and settings; what it refers to goes into ``defs``."""
    chosen = set(step.choice.members.values()) if step.choice else set()
    properties: Schema = {
        path: {
            "type": ["string", "number"],
            "minLength": 1,
            "description": _PATHS.get(path, "folder"),
        }
        for path in step.paths
    }
    for model in step.models:
        if model not in chosen:
            properties |= _settings_of(model, defs)
    if "degradation" in properties:
        properties["degradation"] = tree_schema(defs)
    schema: Schema = {"type": "object", "properties": properties}
    if step.choice:
        schema["allOf"] = _branches(step.choice, properties, defs)
    return {**schema, "required": list(step.paths), "additionalProperties": False}


_PATHS: Final[Mapping[str, str]] = {
    "source": "folder of the photos",
    "out": "folder to make",
    "inputs": "folder of the inputs, A",
    "targets": "folder of the targets, B",
    "a": "folder of domain A",
    "b": "folder of domain B",
    "corpus": "folder of the corpus",
    "shards": "folder of the shards",
    "wiki_crop": "folder that holds wiki.mat, or the .mat file",
}


def _branches(choice: Choice, properties: Schema, defs: Schema) -> list[Schema]:
    """Return an if-then for each member of a choice; settings that only others have are forbidden in it.

    Every name joins ``properties`` with its description, so that editors complete it.
    """
    members = {name: _settings_of(model, defs) for name, model in choice.members.items()}
    for settings in members.values():
        for name, setting in settings.items():
            properties.setdefault(name, {"description": setting.get("description", "")})
    every = {name for settings in members.values() for name in settings}
    branches = []
    for name, settings in members.items():
        test: Schema = {"properties": {choice.name: {"const": name}}}
        if name != choice.default:
            test["required"] = [choice.name]
        others: Schema = dict.fromkeys(sorted(every - settings.keys()), False)
        branches.append({"if": test, "then": {"properties": {**settings, **others}}})
    return branches


def tree_schema(defs: Schema) -> Schema:
    """Return the schema of a tree of degradations, as ``trees`` reads it; its parts go into ``defs``."""
    tree: Schema = {"$ref": "#/$defs/degradation"}
    if "degradation" not in defs:
        kinds = {kind: _kind_schema(model, tree) for kind, model in DEGRADATIONS.items()}
        share = {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "of the images it is done to",
        }
        weight = {"type": "number", "minimum": 0, "description": "how often, within a one-of"}
        one: Schema = {
            "type": "object",
            "properties": {**kinds, "weight": weight, "probability": share},
            "additionalProperties": False,
            "oneOf": [{"required": [kind]} for kind in kinds],
        }
        chain = {"type": "array", "items": tree, "minItems": 1}
        defs["degradation"] = {"anyOf": [{"enum": list(DEGRADATIONS)}, chain, one]}
    return tree


def _kind_schema(model: type[Degradation], tree: Schema) -> Schema:
    """Return the schema of one kind's settings; several steps may be given as a list alone."""
    about = _first_line(model.__doc__)
    if "transform" in model.model_fields:
        return {"type": "object", "description": about}
    settings: Schema = {
        "description": about,
        "type": ["object", "null"],
        "properties": _model_schema(model, {})["properties"],
        "additionalProperties": False,
    }
    for setting in settings["properties"].values():
        if setting.get("type") == "array" and "enum" in setting.get("items", {}):
            setting["anyOf"] = [setting["items"], {"type": "array", "items": setting.pop("items")}]
            del setting["type"]
    if not issubclass(model, Composite):
        return settings
    steps = {"type": "array", "items": tree}
    settings["properties"]["steps"] = steps
    whole = {**settings, "type": "object", "required": ["steps"]}
    return {"description": about, "anyOf": [{**steps, "minItems": 1}, whole]}


def _settings_of(model: type[BaseModel], defs: Schema) -> Schema:
    """Return the properties of a model, with numbers allowed where recipes take them for text."""
    properties: Schema = _model_schema(model, defs)["properties"]
    for name, field in model.model_fields.items():
        if accepts_text(field):
            _allow_numbers(properties[name])
    return properties


def _allow_numbers(schema: Schema) -> None:
    for part in [schema, *schema.get("anyOf", [])]:
        if part.get("type") == "string" and "enum" not in schema:
            part["type"] = ["string", "number"]


def _model_schema(model: type[BaseModel], defs: Schema) -> Schema:
    schema = model.model_json_schema()
    defs |= schema.pop("$defs", {})
    return {"properties": {}, **schema}
