"""Any transform of albumentations that leaves the image where it is, by name, with explicit parameters.

albumentations (https://github.com/albumentations-team/albumentations, MIT) is imported in the functions that
need it, with its question for updates switched off: it takes seconds, and loads PyTorch where that is there.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import cv2
import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from img2img_data.core.errors import Img2ImgError, Rejected, load_extra
from img2img_data.core.settings_model import did_you_mean
from img2img_data.degradations.base import Axes, Degradation, Image, from_unit, to_unit

if TYPE_CHECKING:
    from types import ModuleType

_NOT_HERE: Final[dict[str, str]] = {
    "FDA": "needs other images",
    "HistogramMatching": "needs other images",
    "PixelDistributionAdaptation": "needs other images",
    "TextImage": "needs a font file",
    "FromFloat": "changes the type of the samples",
    "Normalize": "changes the range of the samples",
    "ToFloat": "changes the type of the samples",
    "ToRGB": "changes the channels",
}
_SAFER: Final[dict[str, dict[str, Any]]] = {
    "MotionBlur": {"allow_shifted": False, "direction_range": (0.0, 0.0)}
}
"""Where the defaults move the image against its target, ours do not."""

_SMALL: Final = 16
"""Shorter side in pixels below which a transform that fails is taken to need a larger image."""


class WrongKey(ValueError):
    """A mistake under keys of its own: the keys, what is wrong, the way out."""

    def __init__(self, keys: Sequence[str], why: str, hint: str) -> None:
        super().__init__(why)
        self.keys, self.why, self.hint = keys, why, hint


class Albumentations(Degradation):
    """A transform of albumentations, always applied; ``albumentations: {ISONoise: {intensity: [0.1, 0.5]}}``.

    Its own random parameters follow from the seed that is drawn. Images of 16 bit go through float32,
    gray ones through three equal channels.
    """

    seeded: ClassVar[bool] = True

    transform: str = Field(
        description="name of the transform; those that would move the image are rejected"
    )
    parameters: dict[str, Any] = Field({}, description="its parameters, by name, in its own units")
    version: str = Field("", description="version of albumentations  [default: the one installed]")

    @classmethod
    def example(cls) -> Degradation:
        """Camera noise."""
        return cls(transform="ISONoise", parameters={"intensity": [0.2, 0.6]})

    @model_validator(mode="before")
    @classmethod
    def _of_short_form(cls, values: Any) -> Any:
        """Take {NAME: {parameters}} for {transform: NAME, parameters: {...}}."""
        if isinstance(values, Mapping) and len(values) == 1:
            ((name, parameters),) = values.items()
            if name not in cls.model_fields:
                return {"transform": name, "parameters": {} if parameters is None else parameters}
        return values

    @field_validator("transform")
    @classmethod
    def _check_transform(cls, name: str) -> str:
        known = transforms()
        if name in known:
            return name
        if name in _NOT_HERE:
            raise WrongKey(
                [name], f"{_NOT_HERE[name]}, so it cannot be used here", "choose another"
            )
        if hasattr(_library(), name):
            raise WrongKey(
                [name],
                "would move the image against its target, or is no transform",
                "choose another",
            )
        raise WrongKey([name], "unknown", did_you_mean(name, known))

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("transform")
        if name is None:
            return parameters
        known = sorted(
            set(inspect.signature(transforms()[name].__init__).parameters) - {"self", "p"}
        )
        for key in parameters:
            if key not in known:
                hint = did_you_mean(key, known) if known else "it takes none"
                raise WrongKey([name, key], "unknown", hint)
        try:
            make_transform(name, json.dumps(parameters))
        except (ValueError, TypeError, UserWarning) as error:
            said = _first_complaint(error)
            raise WrongKey([name], said, "see the documentation of albumentations 2.0") from None
        return parameters

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: str) -> str:
        here = str(_library().__version__)
        if version not in {"", here}:
            why = f"{version} of albumentations is asked for, {here} is installed"
            raise WrongKey(
                ["version"], why, f"pip install albumentations=={version}, or leave the key out"
            )
        return here

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the transform, its generator set by ``drawn["seed"]``.

        Raises ``Rejected`` where a small image is too small for it, ``Img2ImgError`` where it fails else.
        """
        if image.ndim == 3 and image.shape[2] not in {1, 3}:
            channels = range(image.shape[2])
            return np.stack(
                [self.apply(np.ascontiguousarray(image[..., c]), **drawn) for c in channels], -1
            )
        gray = image.ndim == 2 or image.shape[2] == 1
        given = image if image.dtype == np.uint8 else np.clip(to_unit(image), 0, 1)
        if gray:
            given = cv2.cvtColor(given.reshape(image.shape[:2]), cv2.COLOR_GRAY2RGB)
        made = self._transformed(np.array(given, order="C"), int(drawn["seed"]))
        if gray:
            made = cv2.cvtColor(made, cv2.COLOR_RGB2GRAY)
        if image.dtype == np.uint8:
            return np.asarray(made, np.uint8).reshape(image.shape)
        return from_unit(np.array(made, np.float32), image)

    def _transformed(self, image: Image, seed: int) -> Image:
        transform = make_transform(self.transform, json.dumps(self.parameters))
        transform.set_random_seed(seed % (1 << 32))
        try:
            made: Image = transform(image=image)["image"]
        except Exception as error:
            said = f"{self.transform} of albumentations: {_first_complaint(error)[:120]}"
            if min(image.shape[:2]) < _SMALL:
                raise Rejected("too-small", said) from None
            raise Img2ImgError(said, hint="change its parameters") from None
        if made.shape != image.shape or made.dtype != image.dtype:
            raise Img2ImgError(
                f"{self.transform} of albumentations changes shape or type", hint="leave it out"
            )
        return made


def transforms() -> dict[str, type[Any]]:
    """Return the transforms that change samples alone, by name."""
    library = _library()
    members = ((name, getattr(library, name)) for name in dir(library) if name not in _NOT_HERE)
    found = {
        n: m for n, m in members if inspect.isclass(m) and issubclass(m, library.ImageOnlyTransform)
    }
    del found["ImageOnlyTransform"]
    return found


@functools.lru_cache(maxsize=64)
def make_transform(name: str, parameters: str) -> Any:
    """Return the transform, always applied; ``parameters`` is JSON. Raises what albumentations says."""
    given = {key: _tuples(value) for key, value in json.loads(parameters).items()}
    settings = {**_SAFER.get(name, {}), **given, "p": 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # it mends wrong values with no more than a warning
        cls = transforms()[name]
        if hasattr(cls, "InitSchema") and "InitSchema" in vars(cls):
            settings["strict"] = True
        return cls(**settings)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _first_complaint(error: Exception) -> str:
    said = " ".join(str(error).split())
    return (
        said.rpartition("for InitSchema ")[2].partition(" [type=")[0].replace("Value error, ", "")
    )


@functools.cache
def _library() -> ModuleType:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    library: ModuleType = load_extra(
        "albumentations", "albumentations", "degradation", "albumentations"
    )
    return library


CATALOGUE: Final[dict[str, type[Degradation]]] = {"albumentations": Albumentations}
