"""Models of the demo page: load them, restore an image, score a restored image.

Nothing here depends on gradio. Images are decoded by the project's own reader, within limits that
are checked before anything is decoded, and pass a model as in ``translate``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from img2img_data.core.errors import Img2ImgError, UsageError, printable
from img2img_data.corpus.format import image_rng
from img2img_data.corpus.reader import open_corpus
from img2img_data.degradations.base import Degradation
from img2img_data.images import io
from img2img_data.images.pixels import Pixels, ReadPolicy, strips, to_uint8_rgb
from img2img_train.config import RunConfig
from img2img_train.data.color import ChannelLayout, denormalize, normalize
from img2img_train.data.dataset import open_images
from img2img_train.data.loader import evenly_spaced
from img2img_train.evaluation.evaluate import short_names
from img2img_train.inference.settings import TranslateSettings
from img2img_train.inference.tiles import choose_tiling
from img2img_train.inference.translate import translate_bytes, translate_pixels
from img2img_train.metrics.registry import IMAGE_METRICS, image_scores
from img2img_train.networks.layers import TestNorm
from img2img_train.runs.checkpoint import Description, read_checkpoint
from img2img_train.runs.folder import find_checkpoint, read_evaluations, sample_paths
from img2img_train.runs.model import LoadedModel, choose_device, load_generator

MAX_LOADED: Final = 2
"""Number of models that stay in memory."""
load_cached: Final = lru_cache(MAX_LOADED)(load_generator)

EXAMPLES: Final = 6
PURPOSES: Final = {
    "blur": "Sharpens blurred images",
    "degrade": "Restores degraded images",
    "lab": "Colors gray images",
    "grayscale": "Colors gray images",
    "blank": "Fills holes in images",
    "edges": "Draws an image from its edges",
}
"""The purpose of a model by the command that made its corpus."""


class ModelChoice(NamedTuple):
    """A model by its number and how it is applied; None: as it was trained and saved."""

    number: int = 0
    direction: str | None = None
    dropout: bool | None = None
    norm: TestNorm | None = None
    settings: TranslateSettings = TranslateSettings()


class ScoredRestoration(NamedTuple):
    """Three images, H x W x 3 uint8, and the metrics of input and output against the target."""

    input: Pixels
    output: Pixels
    target: Pixels
    input_scores: Mapping[str, float]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be chosen: checkpoint, unique name, lines that describe it, directions.

    ``examples`` are inputs that it was not trained on, as PNG files.
    """

    checkpoint: Path
    name: str
    description: tuple[str, ...]
    directions: tuple[str, ...]
    examples: tuple[bytes, ...]

    @classmethod
    def read(cls, path: Path, name: str) -> ModelEntry:
        """Read the description of a run or a checkpoint; CheckpointError if it is neither."""
        checkpoint = read_checkpoint(find_checkpoint(path), ())
        about, config = checkpoint.description, checkpoint.config()
        if config.input != "plain":
            raise UsageError("model", path, "needs the blur of each image", "use translate --sigma")
        spec = about.networks[about.generator]
        layout = ChannelLayout(about.color, (spec.inputs, spec.outputs)).label
        line = ", ".join(filter(None, [config.title, layout, f"{about.progress.step:,} steps"]))
        both = ("AtoB", "BtoA") if config.direction == "AtoB" else ("BtoA", "AtoB")
        directions = both if about.reverse_generator else both[:1]
        lines = (_purpose(config), line, *_saved_scores(path))
        examples = tuple(io.encode(image, "png") for image in _examples(path, config, about))
        return cls(checkpoint.path, name, lines, directions, examples)


def _purpose(config: RunConfig) -> str:
    """Return a sentence about the purpose of a model, by its corpora, which may be gone."""
    names, command = [], "degrade" if config.degrade else ""
    for choice in config.corpora:
        names.append(printable(Path(choice.path).name))
        with contextlib.suppress(Img2ImgError):
            recipe = open_corpus(choice.path, rows=False).info.get("recipe") or {}
            command = command or str(recipe.get("command"))
    sides = "input into target" if config.objective.paired else "one domain into the other"
    purpose = PURPOSES.get(command, f"Turns {sides}")
    return f"{purpose}, as in the corpus {' and '.join(names)}."


def _examples(run: Path, config: RunConfig, about: Description) -> list[Pixels]:
    """Return a few held-out inputs: of the run's corpora, or of its sample grid if they are gone.

    H x W x 3 uint8. Images of the training split are taken if none are held out.
    """
    with contextlib.suppress(Img2ImgError):
        for split in ("test", config.validation_split, config.split):
            if images := open_images(config, split):
                indices = evenly_spaced(len(images), EXAMPLES)
                return [to_uint8_rgb(images.read(index)[0]) for index in indices]
    columns, grids = config.objective.sample_columns, sample_paths(run)
    if "input" not in columns or not grids:
        return []
    grid = io.read(grids[-1]).pixels
    width = grid.shape[1] // len(columns)
    height, left = width * about.size[0] // about.size[1], columns.index("input") * width
    tops = range(0, len(grid), height)[:EXAMPLES]
    return [grid[top : top + height, left : left + width].copy() for top in tops]


def _saved_scores(run: Path) -> list[str]:
    """Return a line for each evaluation in a run folder."""
    lines = []
    for saved in read_evaluations(run):
        output, baseline = saved["scores"]["psnr"], saved["input_scores"]["psnr"]
        where = printable(f"{saved['corpus']} {saved['split']}")
        lines.append(f"{where}: PSNR {output:.2f} dB, input {baseline:.2f} dB")
    return lines


@dataclass(slots=True)
class ModelRegistry:
    """The models of a page, loaded when they are first used. ``policy`` holds the limits of
    images.
    """

    entries: tuple[ModelEntry, ...]
    device: str
    policy: ReadPolicy

    @classmethod
    def open(cls, paths: Sequence[Path], device: str, policy: ReadPolicy) -> ModelRegistry:
        """Read all descriptions; CheckpointError or UsageError if a path is not a model."""
        choose_device(device)
        entries = map(ModelEntry.read, paths, short_names(paths))
        return cls(tuple(entries), device, policy)

    def model(self, choice: ModelChoice) -> LoadedModel:
        """Return a model in eval mode; raises as ``load_generator``."""
        entry = self.entries[choice.number]
        # While the page changes the model it may still send the direction of the one before.
        direction = choice.direction if choice.direction in entry.directions else None
        how = self.device, direction, choice.dropout, choice.norm
        return load_cached(entry.checkpoint, *how)

    def decode(self, data: bytes) -> Pixels:
        """Return an image as H x W x 3 uint8; Rejected if it is damaged, too large or not an
        image.
        """
        return io.decode(data, self.policy).pixels

    def restore(self, choice: ModelChoice, data: bytes) -> tuple[Pixels, bytes]:
        """Return the input as the model sees it, and the file that ``translate`` writes."""
        image, model = self.decode(data), self.model(choice)
        settings = choice.settings.model_copy(update={"max_pixels": self.policy.max_pixels})
        seen = as_seen(model.channel_layout, image)
        return seen, translate_bytes(model, data, settings).image

    def score(self, choice: ModelChoice, target: Pixels, image: Pixels) -> ScoredRestoration:
        """Restore an image and score input and output against the target, by every metric.

        If the model's output is gray, the target is the gray of ``target``. Raises UsageError if
        image and target differ in size.
        """
        if image.shape != target.shape:
            sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (image, target))
            why = f"input and target have different sizes, {sizes} pixels"
            raise UsageError("images", None, why, "give the two halves of one pair")
        model = self.model(choice)
        if model.spec.outputs == 1:
            target = as_seen(ChannelLayout("rgb", (1, 1)), target)
        seen = as_seen(model.channel_layout, image)
        tiling, _ = choose_tiling(choice.settings, model, *image.shape[:2])
        output = to_uint8_rgb(translate_pixels(model, image, tiling))
        scores = image_scores([seen, output], target, IMAGE_METRICS)
        return ScoredRestoration(seen, output, target, *scores)


def as_seen(layout: ChannelLayout, image: Pixels) -> Pixels:
    """Return the part of an image that a model sees, as RGB: all of it, or its gray or L plane."""
    if layout.channels[0] == 3:
        return image
    planes = []
    # In strips: the way by float32 and Lab takes 20 times the memory of the image.
    for strip in strips(image):
        seen = layout.network_input(normalize(torch.from_numpy(strip[None].copy())))
        planes.append(denormalize(layout.to_rgb(seen, seen)).numpy()[0])
    return np.concatenate(planes)


def degraded(
    degradation: Degradation, image: Pixels, seed: int, name: str
) -> tuple[Pixels, dict[str, Any]]:
    """Return a degraded image and the drawn parameters, as in a corpus with this seed and source
    name.
    """
    rng = image_rng(seed, name.encode("utf-8", "surrogateescape"))
    drawn: dict[str, Any] = {**degradation.draw(rng)}
    return np.asarray(degradation.apply(image, **drawn), np.uint8), drawn
