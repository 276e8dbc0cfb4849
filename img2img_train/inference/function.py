"""A trained model as a function of images: arrays, PIL images, files, batches."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch
from PIL import Image, ImageOps

from img2img_data.core.errors import UsageError, printable
from img2img_data.core.settings_model import build_model, build_part
from img2img_data.images.pixels import Pixels, to_8_bit, to_array
from img2img_train.evaluation.settings import ModelSettings
from img2img_train.inference.inputs import check_readable
from img2img_train.inference.settings import TranslateSettings
from img2img_train.inference.tiles import choose_tiling
from img2img_train.inference.translate import blur_of, decode_image, translate_pixels, unreadable
from img2img_train.runs.model import LoadedModel, load_generator

StrPath: TypeAlias = os.PathLike[str] | str


@dataclass(frozen=True, slots=True, repr=False)
class Model:
    """A trained model, a function of images of any size.

    Takes H x W or H x W x C of uint8 or uint16 (RGB, RGBA or gray), a batch N x H x W x C or a list
    of such, the path of an image, or a PIL image, which gives a PIL image; anything else gives an
    array. The output is that of ``img2img-train translate``, in tiles, with the channels that the
    model restores: RGB also for a gray array, unless gray inputs had gray targets in training; RGBA
    stays RGBA where the model restores RGB. Raises UsageError for anything else, Img2ImgError for a
    file that cannot be decoded, OSError for one that cannot be opened.

    >>> model = train.load("runs/unet", tile=256)
    >>> model(photo).shape, model("photos/000.jpg").dtype
    ((32, 40, 3), dtype('uint8'))
    """

    loaded: LoadedModel
    settings: TranslateSettings

    @overload
    def __call__(self, image: Image.Image, sigma: float | None = None) -> Image.Image: ...
    @overload
    def __call__(self, image: Pixels | StrPath, sigma: float | None = None) -> Pixels: ...
    def __call__(self, image: Any, sigma: float | None = None) -> Any:
        """Return the output for an image, of the same size and depth; PIL has no colors of 16 bits.

        ``sigma`` is the setting of that name, for a model with ``--input wiener``.
        """
        if sigma is not None:
            settings = build_model(TranslateSettings, {**dict(self.settings), "sigma": sigma})
            return Model(self.loaded, settings)(image)
        if isinstance(image, Image.Image):
            output = self(_of_pil(image))
            output = output[..., 0] if output.shape[2:] == (1,) else output
            deep = output.dtype == np.uint16 and output.ndim == 3
            return Image.fromarray(to_8_bit(output) if deep else output)
        if isinstance(image, str | os.PathLike):
            if Path(image).is_dir():
                raise UsageError("image", image, "is a folder", "pass its images one by one")
            with unreadable("image", str(image)):
                check_readable(os.fsencode(image))
                file = Path(image).read_bytes()
                return self._restored(decode_image(file, self.settings).pixels)
        hint = "pass H x W x C, uint8 or uint16"
        pixels = to_array(image, hint)
        if pixels.ndim == 4 and len(pixels):
            return np.stack([self(one) for one in pixels])
        if not pixels.dtype.isnative:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        channels = pixels.shape[2:] if pixels.ndim > 1 and pixels.size else (0,)
        if channels not in {(), (1,), (3,), (4,)} or pixels.dtype not in (np.uint8, np.uint16):
            raise UsageError("image", None, f"is {pixels.dtype} of shape {pixels.shape}", hint)
        output = self._restored(pixels[..., 0] if channels == (1,) else pixels)
        if channels == (4,) and output.shape[2] < self.loaded.spec.outputs:
            # The channels of an array, unlike those of a file, do not depend on its colors.
            return output[..., [0, 0, 0, 1]]
        return output[..., None] if output.ndim < pixels.ndim else output

    def _restored(self, pixels: Pixels) -> Pixels:
        tiling, notes = choose_tiling(self.settings, self.loaded, *pixels.shape[:2])
        for note in notes:
            warnings.warn(note, stacklevel=3)
        return translate_pixels(self.loaded, pixels, tiling, blur_of(self.loaded, self.settings))

    def __fspath__(self) -> str:
        return str(self.loaded.path)

    def __repr__(self) -> str:
        path, spec, step = printable(self.loaded.path), self.loaded.spec, self.loaded.step
        about = f"{spec.name} of width {spec.width}, step {step:,}, on {self.loaded.device}"
        return f"<model '{path}': {about}>"


def _of_pil(image: Image.Image) -> Pixels:
    # As for files: EXIF orientation is applied, palettes and CMYK become RGB, alpha is kept.
    upright = ImageOps.exif_transpose(image)
    if upright.mode in {"I", "F"}:
        hint = "convert it to L, RGB, RGBA or I;16, or to an array"
        raise UsageError("image", None, f"has mode {upright.mode}, whose range is unknown", hint)
    if upright.mode == "I;16B":
        return np.asarray(upright).astype(np.uint16)
    if upright.mode not in {"L", "RGB", "RGBA", "I;16"}:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    return np.asarray(upright)


def load(
    path: StrPath,
    device: torch.device | str = "auto",
    direction: Literal["AtoB", "BtoA"] | None = None,
    **settings: Any,
) -> Model:
    """Return the model of a run, a checkpoint, or an exported folder or ``.safetensors`` file, as
    a function.

    ``direction`` is AtoB or BtoA, of a model that has both; ``settings`` are those of ``translate``
    for one image: ``tile``, ``overlap``, ``batch`` (tiles per forward pass), ``sigma``, ``dropout``
    and ``norm``, and for files ``max_pixels``. Raises UsageError for a wrong setting, Img2ImgError
    for a path without a model.

    >>> train.load("runs/unet", device="cpu")
    <model 'runs/unet/checkpoints/latest.safetensors': unet of width 4, step 2, on cpu>
    """
    how = build_part(ModelSettings, {"direction": direction, **settings})
    own = {n: value for n, value in settings.items() if n not in ModelSettings.model_fields}
    chosen = build_model(TranslateSettings, own)
    return Model(load_generator(Path(path), str(device), *how.at_test), chosen)
