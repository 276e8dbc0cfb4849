"""JSON Schemas (draft 2020-12) of recipes, of a command's settings and of a corpus' rows.

They are derived from the models that check the settings, so the two cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
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
_SHA256: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_SIDES: Final = ("source_", "target_source_", "input_", "target_", "")
_HEX: Final[Schema] = {"type": "string", "pattern": "^([0-9a-f]{2})+$"}
_FILE: Final[Schema] = {"type": "string", "description": "relative to the split's folder"}


def _of(kind: str, description: str, **bounds: Any) -> Schema:
    return {"type": kind, "description": description, **bounds}


ROW: Final[Schema] = {
    "title": "a row of metadata.jsonl",
    "type": "object",
    "properties": {
        "key": _of("string", "name of the pair, unique in the corpus", pattern=r'^[^<>:"\\|?*]+$'),
        "input_file_name": _FILE,
        "target_file_name": _FILE,
        "file_name": {**_FILE, "description": "the A|B image, or the image of an unpaired corpus"},
        "domain": {"enum": ["A", "B"], "description": "domain, in an unpaired corpus"},
        "source": _of("string", "path of the source, escaped for reading"),
        "source_hex": {**_HEX, "description": "bytes of that path"},
        "tile_left": _of("integer", "left side of a tile in the source, pixels", minimum=0),
        "tile_top": _of("integer", "top of a tile in the source, pixels", minimum=0),
        "target_source": {"type": "string"},
        "target_source_hex": _HEX,
        "tags": _of("object", "tags of the source"),
        "kind": _of("string", "the command, or the degradation of the input"),
        "drawn": _of("object", "parameters drawn for this pair"),
        "measured": _of("object", "measurements of this pair"),
        "width": _of("integer", "width of one image, pixels", minimum=1, maximum=2**31 - 1),
        "height": _of("integer", "height of one image, pixels", minimum=1, maximum=2**31 - 1),
        "notes": {"type": "array", "items": {"type": "string"}},
        "source_frames": _of("integer", "frames or pages of the source, if several", minimum=2),
        **{f"{side}sha256": _SHA256 for side in _SIDES},
    },
    "required": ["key"],
    "oneOf": [{"required": ["file_name"]}, {"required": ["input_file_name", "target_file_name"]}],
}
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
        schema = ROW
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
        """Return the schema of a text, which a file may give as a number: ``size: 64``."""
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
