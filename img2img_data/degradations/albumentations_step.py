"""Transforms of albumentations that keep every pixel in place, by name, with explicit parameters.

albumentations (https://github.com/albumentations-team/albumentations, MIT) is imported inside of
the functions that need it: it takes seconds, and loads PyTorch if that is installed.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import cv2
import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from img2img_data.core.errors import Img2ImgError, Rejected, load_extra
from img2img_data.core.settings_model import InvalidKeyError, did_you_mean
from img2img_data.degradations.base import Axes, Degradation
from img2img_data.degradations.samples import Image, from_unit, to_unit

_UNSUPPORTED: Final[dict[str, str]] = {
    "FDA": "needs other images",
    "HistogramMatching": "needs other images",
    "PixelDistributionAdaptation": "needs other images",
    "TextImage": "needs a font file",
    "FromFloat": "changes the type of the samples",
    "Normalize": "changes the range of the samples",
    "ToFloat": "changes the type of the samples",
    "ToRGB": "changes the channels",
}

# With these settings the image stays aligned with its target; with the defaults it does not.
_DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "MotionBlur": {"allow_shifted": False, "direction_range": (0.0, 0.0)}
}

SUGGESTED: Final = (
    "SaltAndPepper: {amount: [0.01, 0.06]}",
    "ISONoise: {intensity: [0.1, 0.5]}",
    "ChromaticAberration: {primary_distortion_limit: 0.05}",
    "HueSaturationValue: {hue_shift_limit: 10}",
    "PlanckianJitter: {}",
    "RandomToneCurve: {scale: 0.2}",
    "Illumination: {intensity_range: [0.05, 0.2]}",
    "ZoomBlur: {max_factor: [1.02, 1.1]}",
    "GlassBlur: {sigma: 0.5, max_delta: 2, iterations: 1}",
    "RandomRain: {rain_type: drizzle}",
    "RandomFog: {fog_coef_range: [0.2, 0.5]}",
    "Spatter: {mode: rain}",
)
"""Transforms that suit image restoration, as the value of ``albumentations`` in a recipe."""

_SMALL: Final = 16
"""Shorter side in pixels below which a failing transform rejects the image as too small."""


class Albumentations(Degradation):
    """A transform of albumentations, always applied.

    As in ``albumentations: {ISONoise: {intensity: [0.1, 0.5]}}``. Its own random parameters follow
    from the seed that is drawn. Images of 16 bit go through float32, gray ones through three equal
    channels.
    """

    seeded: ClassVar[bool] = True
    # Camera noise.
    example_settings: ClassVar = {"ISONoise": {"intensity": [0.2, 0.6]}}

    transform: str
    """name of the transform; those that would move the image are rejected"""
    parameters: dict[str, Any] = Field(default={})
    """its parameters, by name, in its own units"""
    version: str = ""
    """version of albumentations  [default: the one installed]"""

    @model_validator(mode="before")
    @classmethod
    def _of_short_form(cls, values: Any) -> Any:
        """Read {NAME: {parameters}} as {transform: NAME, parameters: {...}}."""
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
        if not hasattr(_library(), name):
            raise InvalidKeyError([name], "unknown", did_you_mean(name, known))
        why = "would move the image relative to its target, or is not a transform"
        raise InvalidKeyError([name], _UNSUPPORTED.get(name, why), "choose another")

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, parameters: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = info.data.get("transform")
        if name is None:
            return parameters
        signature = inspect.signature(transforms()[name].__init__)
        known = sorted(set(signature.parameters) - {"self", "p"})
        for key in parameters:
            if key not in known:
                hint = did_you_mean(key, known) if known else "it takes none"
                raise InvalidKeyError([name, key], "unknown", hint)
        try:
            make_transform(name, json.dumps(parameters))
        except (ValueError, TypeError, UserWarning) as error:
            hint = "see the documentation of albumentations 2.0"
            raise InvalidKeyError([name], _first_message(error), hint) from None
        return parameters

    @field_validator("version")
    @classmethod
    def _check_version(cls, version: str) -> str:
        installed = str(_library().__version__)
        if version not in {"", installed}:
            why = f"albumentations {version} is required, but {installed} is installed"
            hint = f"pip install albumentations=={version}, or leave the key out"
            raise InvalidKeyError(["version"], why, hint)
        return installed

    def apply(self, image: Image, axes: Axes = "yx", **drawn: Any) -> Image:
        """Apply the transform with the generator of ``drawn["seed"]``.

        Raises ``Rejected`` if a small image is too small for it, ``Img2ImgError`` if it fails
        otherwise.
        """
        if image.ndim == 3 and image.shape[2] not in {1, 3}:
            return self._by_channel(image, **drawn)
        gray = image.ndim == 2 or image.shape[2] == 1
        samples = image if image.dtype == np.uint8 else np.clip(to_unit(image), 0, 1)
        if gray:
            samples = cv2.cvtColor(samples.reshape(image.shape[:2]), cv2.COLOR_GRAY2RGB)
        # A copy: some transforms write to their input.
        output = self._transformed(np.array(samples, order="C"), int(drawn["seed"]))
        if gray:
            output = cv2.cvtColor(output, cv2.COLOR_RGB2GRAY)
        if image.dtype == np.uint8:
            return np.asarray(output, np.uint8).reshape(image.shape)
        return from_unit(np.array(output, np.float32), image)

    def _transformed(self, image: Image, seed: int) -> Image:
        transform = make_transform(self.transform, json.dumps(self.parameters))
        transform.set_random_seed(seed % (1 << 32))
        title = f"{self.transform} of albumentations"
        try:
            output: Image = transform(image=image)["image"]
        except Exception as error:
            why = f"{title}: {_first_message(error)[:120]}"
            if min(image.shape[:2]) < _SMALL:
                raise Rejected("too-small", why) from None
            raise Img2ImgError(why, hint="change its parameters") from None
        if output.shape != image.shape or output.dtype != image.dtype:
            raise Img2ImgError(f"{title} changes shape or type", hint="leave it out")
        return output


def transforms() -> dict[str, type[Any]]:
    """Return the transforms that only change samples, by name."""
    base = _library().ImageOnlyTransform
    return {
        name: member
        for name, member in inspect.getmembers(_library(), inspect.isclass)
        if issubclass(member, base) and member is not base and name not in _UNSUPPORTED
    }


@functools.lru_cache(maxsize=64)
def make_transform(name: str, parameters: str) -> Any:
    """Return the transform, always applied; ``parameters`` is JSON, so that it can be cached."""
    values = {key: _to_tuple(value) for key, value in json.loads(parameters).items()}
    settings = {**_DEFAULTS.get(name, {}), **values, "p": 1.0}
    cls = transforms()[name]
    if "InitSchema" in vars(cls):
        settings["strict"] = True
    with warnings.catch_warnings():
        # Even if strict, albumentations replaces some wrong values and only warns.
        warnings.simplefilter("error", UserWarning)
        return cls(**settings)


def _to_tuple(value: Any) -> Any:
    return tuple(_to_tuple(v) for v in value) if isinstance(value, list) else value


def _first_message(error: Exception) -> str:
    message = " ".join(str(error).split()).rpartition("for InitSchema ")[2]
    return message.partition(" [type=")[0].replace("Value error, ", "")


@functools.cache
def _library() -> Any:
    # Before the import, which otherwise asks the network for a newer version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    name = "albumentations"
    return load_extra(name, name, "degradation", name)
