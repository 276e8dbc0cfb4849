"""Base class of settings: frozen models that reject unknown keys."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel, ConfigDict

from img2img_data.core.settings_model import Docstring, help_of


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    for name, part in schema.get("properties", {}).items():
        if text := help_of(model.model_fields[name]):
            part["description"] = text


class FrozenModel(BaseModel):
    """A frozen pydantic model; the docstring below a field is its help."""

    # YAML reads size: 64 as a number, and a folder or tag may be called 2024. Validators are built
    # when they are first used: a command defines dozens of models and uses a few.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        defer_build=True,
        json_schema_extra=_describe,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        # Read when it is asked for: pydantic would parse the source of every class at its import.
        for name in cls.__annotations__.keys() & cls.model_fields.keys():
            field = cls.model_fields[name]
            field.metadata = [*field.metadata, Docstring(cls, name)]


def field_of(model: type[BaseModel], name: str) -> Any:
    """Return a field with the default, range and help that ``model`` states for it."""
    return copy.deepcopy(model.model_fields[name])
