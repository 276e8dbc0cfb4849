"""JSON Schemas (draft 2020-12) of recipes, of a command's settings and of a corpus' rows.

They are derived from the models that check the settings, so the two cannot disagree; that of a row
is a file in ``templates``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Final, TypeAlias

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from img2img_data.cli.recipe import Recipe
from img2img_data.cli.steps import STEPS, BuildStep
from img2img_data.core.errors import UsageError
from img2img_data.core.settings_model import did_you_mean
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.compose import Composite
from img2img_data.degradations.registry import DEGRADATIONS

Schema: TypeAlias = dict[str, Any]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def _of(kind: str, description: str, **bounds: Any) -> Schema:
    return {"type": kind, "description": description, **bounds}


_FOLDERS: Final[Mapping[str, str]] = {
    "source": "folder of the source images",
    "out": "folder to write",
    "inputs": "folder of the inputs, A",
    "targets": "folder of the targets, B",
    "a": "folder of domain A",
    "b": "folder of domain B",
    "corpus": "folder of the corpus",
    "shards": "folder of the shards",
    "wiki_crop": "folder with wiki.mat, or the .mat file",
}


def schema_of(what: str) -> Schema:
    """Return the schema of "recipe", "corpus-row", "degradation" or a command.

    Raises ``UsageError`` for any other word.
    """
    defs: Schema = {}
    if what == "recipe":
        schema = _recipe_schema(defs)
    elif what == "corpus-row":
        schema = json.loads((files(__package__) / "templates/row.schema.json").read_text("utf-8"))
    elif what == "degradation":
        schema = {"title": "a pipeline of degradations", **pipeline_schema(defs)}
    elif what in STEPS:
        schema = {"title": f"settings of {what}", **step_schema(STEPS[what], defs)}
    else:
        known = ["recipe", "corpus-row", "degradation", *STEPS]
        raise UsageError("schema", what, "unknown", did_you_mean(what, known))
    return {"$schema": DRAFT, **schema, **({"$defs": defs} if defs else {})}


def _recipe_schema(defs: Schema) -> Schema:
    """Return the schema of a recipe; its ``run`` sections belong to img2img-train: any object."""
    schema = {**_model_schema(Recipe, defs), "title": "a recipe of img2img"}
    steps = {name: step_schema(step, defs) for name, step in STEPS.items()}
    defs["step"] = _object("one {command: settings}", steps, [])
    defs["step"] |= {"minProperties": 1, "maxProperties": 1}
    schema["properties"]["degradation"] |= pipeline_schema(defs)
    for part in (schema, defs["Smoke"]):
        part["properties"]["corpus"]["items"] = {"$ref": "#/$defs/step"}
    return schema


def step_schema(step: BuildStep, defs: Schema) -> Schema:
    """Return the schema of a step's folders and settings; shared parts go into ``defs``.

    A step whose setting ``kind`` selects a model has one alternative for each kind.
    """
    schemas: list[Schema] = []
    for kind in step.kinds or [""]:
        text = {"type": ["string", "number"], "minLength": 1}
        properties: Schema = {p: {**text, "description": _FOLDERS[p]} for p in step.paths}
        for model in step.models_for(kind):
            properties |= _model_schema(model, defs)["properties"]
        if "degradation" in properties:
            properties["degradation"] = pipeline_schema(defs)
        schema = _object(_first_line(step.run.__doc__), properties, list(step.paths))
        if step.kinds:
            properties["kind"]["enum"] = [kind]
            # Without the setting the first kind is chosen.
            schema["required"] += ["kind"] if schemas else []
        schemas.append(schema)
    return {"anyOf": schemas} if step.kinds else schemas[0]


def pipeline_schema(defs: Schema) -> Schema:
    """Return the schema of a pipeline of degradations, as ``parse_spec`` reads it."""
    pipeline: Schema = {"$ref": "#/$defs/degradation"}
    if "degradation" not in defs:
        share = _of("number", "share of the images to degrade", minimum=0, maximum=1)
        weight = _of("number", "relative frequency within a one-of", minimum=0)
        kinds = {kind: _kind_schema(model, pipeline) for kind, model in DEGRADATIONS.items()}
        one = _object("one kind", {**kinds, "weight": weight, "probability": share}, [])
        one["oneOf"] = [{"required": [kind]} for kind in kinds]
        chain = {"type": "array", "items": pipeline, "minItems": 1}
        defs["degradation"] = {"anyOf": [{"enum": list(DEGRADATIONS)}, chain, one]}
    return pipeline


def _kind_schema(model: type[Degradation], pipeline: Schema) -> Schema:
    """Return the schema of one kind's settings; a composite may also be a plain list of steps."""
    about, properties = _first_line(model.__doc__), _model_schema(model, {})["properties"]
    if "transform" in properties:
        return _of("object", about)
    for setting in properties.values():
        # A list of words may be one word.
        if setting.get("type") == "array" and "enum" in setting.get("items", {}):
            items, _ = setting.pop("items"), setting.pop("type")
            setting["anyOf"] = [items, {"type": "array", "items": items}]
    if not issubclass(model, Composite):
        return {**_object(about, properties, []), "type": ["object", "null"]}
    properties["steps"] = {"type": "array", "items": pipeline}
    plain = {**properties["steps"], "minItems": 1}
    return {"description": about, "anyOf": [plain, _object(about, properties, ["steps"])]}


class _GenerateSchema(GenerateJsonSchema):
    def str_schema(self, schema: Any) -> Schema:
        """Return the schema of a text, which a file may write as a number: ``size: 64``."""
        return {**super().str_schema(schema), "type": ["string", "number"]}


def _model_schema(model: type[BaseModel], defs: Schema) -> Schema:
    schema = model.model_json_schema(schema_generator=_GenerateSchema)
    defs |= schema.pop("$defs", {})
    return {"properties": {}, **schema}


def _object(description: str, properties: Schema, required: list[str]) -> Schema:
    closed = {"additionalProperties": False, "required": required}
    return _of("object", description, properties=properties, **closed)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]
