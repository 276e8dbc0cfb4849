"""Base class of settings: frozen models that reject unknown keys."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel, ConfigDict


def _join_lines(schema: dict[str, Any]) -> None:
    for part in (schema, *schema.get("properties", {}).values()):
        if "description" in part:
            part["description"] = " ".join(part["description"].split())


class FrozenModel(BaseModel):
    """A frozen pydantic model; the docstring below a field is its help."""

    # YAML reads size: 64 as a number, and a folder or tag may be called 2024.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        coerce_numbers_to_str=True,
        json_schema_extra=_join_lines,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        # A docstring may wrap; options, widgets and lists of parameters wrap it themselves.
        for field in cls.model_fields.values():
            field.description = field.description and " ".join(field.description.split())


def field_of(model: type[BaseModel], name: str) -> Any:
    """Return a field with the default, range and help that ``model`` states for it."""
    return copy.deepcopy(model.model_fields[name])
