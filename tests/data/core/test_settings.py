"""Help of settings: written once, below the field, and found wherever the field is used."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from img2img_data.core.command_line import SettingOption
from img2img_data.core.frozen_model import FrozenModel, field_of
from img2img_data.core.settings_model import help_of, setting


class Base(FrozenModel):
    """Settings with help."""

    size: int = 3
    """side in pixels; a long
    explanation"""
    plain: int = 4
    stated: int = setting("Group", 5, "said here")
    """not this"""


class Other(Base):
    """Settings that take over help."""

    size: Annotated[int, Base.model_fields["size"]] = 7
    plain: int = field_of(Base, "size")
    own: int = Field(1, ge=0)
    """its own help"""


EXPECTED = {"size": "side in pixels; a long explanation", "stated": "said here"}


def test_help_is_below_the_field_and_stays_with_it() -> None:
    found = {name: help_of(field) for name, field in Base.model_fields.items()}
    assert found == {**EXPECTED, "plain": ""}
    found = {name: help_of(field) for name, field in Other.model_fields.items()}
    assert found == {**EXPECTED, "plain": EXPECTED["size"], "own": "its own help"}
    field = field_of(Other, "own")
    field.metadata = [*field.metadata, "; and more"]
    assert help_of(field) == SettingOption("own", field).help == "its own help; and more"


def test_the_schema_has_the_help() -> None:
    properties = Other.model_json_schema()["properties"]
    found = {name: about.get("description", "") for name, about in properties.items()}
    assert found == {name: help_of(field) for name, field in Other.model_fields.items()}
    assert "description" not in Base.model_json_schema()["properties"]["plain"]


def test_a_class_without_source_has_no_help() -> None:
    typed = 'class Typed(Base):\n    number: int = 1\n    """a number"""\n'
    names = {"Base": FrozenModel, "__name__": "no_such_module"}
    exec(typed, names)
    assert help_of(names["Typed"].model_fields["number"]) == ""
    assert names["Typed"].model_json_schema()["properties"]["number"]["type"] == "integer"
