"""The models a page offers, and what it does with one: restore a image, degrade and restore it, score it.

Nothing here knows of a browser. Images are read by the project's own strict reader, within limits that are
checked before anything is decoded; they pass a model as in ``translate``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_data.corpus.format import image_rng
from img2img_data.degradations.base import Degradation
from img2img_data.images import io
from img2img_data.images.pixels import Pixels
from img2img_train.config import RunConfig, config_of
from img2img_train.data.color import ChannelLayout
from img2img_train.data.loader import from_uint8, to_uint8
from img2img_train.evaluation.evaluate import short_names
from img2img_train.inference.translate import TranslateSettings, translate_bytes, translate_pixels
from img2img_train.metrics.registry import IMAGE_METRICS
from img2img_train.networks.layers import TestNorm
from img2img_train.networks.specs import NetworkSpec
from img2img_train.runs.checkpoint import Description, read_description
from img2img_train.runs.folder import find_checkpoint
from img2img_train.runs.model import LoadedModel, choose_device, load_generator

KEPT: Final = 2
"""Models that stay in memory."""
WAYS: Final = ("AtoB", "BtoA")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model to choose: its checkpoint, a name of its own, what is known of it, its ways."""

    checkpoint: Path
    name: str
    about: tuple[str, ...]
    ways: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, name: str) -> ModelEntry:
        """Read what a run or a checkpoint says of itself; CheckpointError where it is none."""
        found = find_checkpoint(path)
        about = read_description(found)
        config = config_of(about.config, f"checkpoint '{printable(str(found))}'")
        way = config.direction
        other = [w for w in WAYS if w != way] if about.reverse_generator is not None else []
        return cls(found, name, tuple(_lines(path, about, config)), (way, *other))


def _lines(path: Path, about: Description, config: RunConfig) -> list[str]:
    """Return what is known of a model: how it was trained, and how it scored."""
    spec: NetworkSpec = about.networks[about.generator]
    channel_layout = ChannelLayout(about.color, (spec.inputs, spec.outputs)).label
    what = f"{config.title}{f', {channel_layout}' if channel_layout else ''}, {about.progress.step:,} steps"
    return [what, *_scores(path)]


def _scores(run: Path) -> list[str]:
    """Return a line for each evaluation that the run folder holds; a file that is none says nothing."""
    said = []
    for path in sorted((run / "evaluation").glob("*.json")):
        try:
            saved = json.loads(path.read_bytes())
            psnr, nothing = (float(saved[part]["psnr"]) for part in ("scores", "nothing"))
            where = f"{saved['corpus']} {saved['split']}"
        except (OSError, ValueError, KeyError, TypeError):
            continue
        said.append(f"{printable(where)}: PSNR {psnr:.2f} dB, doing nothing {nothing:.2f}")
    return said


@dataclass(frozen=True, slots=True)
class Limits:
    """What a image may be: pixels, and bytes of its file."""

    pixels: int
    bytes: int

    def policy(self) -> io.ReadPolicy:
        """Return how images are read: 8-bit RGB, upright."""
        return io.ReadPolicy(max_pixels=self.pixels, max_bytes=self.bytes, max_aspect=1e9)


class ModelChoice(NamedTuple):
    """Which model, and how it is applied; None: as it was trained and saved."""

    number: int = 0
    way: str | None = None
    dropout: bool | None = None
    norm: TestNorm | None = None


class ScoredRestoration(NamedTuple):
    """Three images, H x W x 3 uint8, and the metrics of the first two against the third."""

    given: Pixels
    made: Pixels
    target: Pixels
    nothing: Mapping[str, float]
    scores: Mapping[str, float]


@dataclass(slots=True)
class ModelRegistry:
    """The models there are, read when first used; the last ``KEPT`` stay in memory."""

    offers: tuple[ModelEntry, ...]
    device: str
    limits: Limits
    loaded: dict[ModelChoice, LoadedModel] = field(default_factory=dict)

    @classmethod
    def of(cls, paths: Sequence[Path], device: str, limits: Limits) -> ModelRegistry:
        """Look at every run or checkpoint; CheckpointError or UsageError where one cannot be offered."""
        choose_device(device)
        for path in paths:
            if not path.exists():
                raise CheckpointError("run", path, "no such file or folder", "check the path")
        names = short_names(paths)
        return cls(
            tuple(ModelEntry.of(p, n) for p, n in zip(paths, names, strict=True)), device, limits
        )

    def model(self, choice: ModelChoice) -> LoadedModel:
        """Return a model in eval mode; errors as of ``load_generator``."""
        found = self.loaded.pop(choice, None)
        if found is None:
            offer = self.offers[choice.number]
            way = choice.way if choice.way in offer.ways else None
            found = load_generator(offer.checkpoint, self.device, way, choice.dropout, choice.norm)
            _ = found.channel_layout
        self.loaded[choice] = found
        for old in list(self.loaded)[:-KEPT]:
            del self.loaded[old]
        return found

    def read(self, data: bytes) -> Pixels:
        """Return a image as H x W x 3 uint8; Rejected where it is damaged, too large or none."""
        return io.decode(data, self.limits.policy()).pixels

    def restore(
        self, choice: ModelChoice, data: bytes, settings: TranslateSettings
    ) -> tuple[Pixels, bytes]:
        """Return what a model takes of a image, and the file that ``translate`` makes of it."""
        given, model = self.read(data), self.model(choice)
        settings = settings.model_copy(update={"max_pixels": self.limits.pixels})
        return as_taken(model.channel_layout, given), translate_bytes(model, data, settings).image

    def trial(
        self, choice: ModelChoice, clean: Pixels, degraded: Pixels, settings: TranslateSettings
    ) -> ScoredRestoration:
        """Return what a model makes of a degraded image, scored against the clean one beside doing nothing.

        A model that gives gray is held to the gray of the clean image.
        """
        model = self.model(choice)
        target = as_taken(GRAY, clean) if model.spec.outputs == 1 else clean
        given = as_taken(model.channel_layout, degraded)
        made = io.to_uint8_rgb(translate_pixels(model, degraded, settings)[0])
        return ScoredRestoration(given, made, target, scores(target, given), scores(target, made))


GRAY: Final = ChannelLayout("rgb", (1, 1))


def as_taken(channel_layout: ChannelLayout, image: Pixels) -> Pixels:
    """Return the part of a image that a model takes, as RGB: all of it, or its gray or L plane."""
    if channel_layout.channels[0] == 3:
        return image
    strips = (image[top : top + 256] for top in range(0, len(image), 256))
    return np.concatenate([_plane(channel_layout, strip) for strip in strips])


def _plane(channel_layout: ChannelLayout, strip: Pixels) -> Pixels:
    given = channel_layout.network_input(from_uint8(torch.from_numpy(strip[None].copy())))
    return np.ascontiguousarray(to_uint8(channel_layout.to_rgb(given, given)).numpy()[0])


def degraded(
    degradation: Degradation, image: Pixels, seed: int, name: str
) -> tuple[Pixels, dict[str, Any]]:
    """Return a degraded image and what was drawn: as a corpus of this seed has it, of a source so named."""
    drawn: dict[str, Any] = {
        **degradation.draw(image_rng(seed, name.encode("utf-8", "surrogateescape")))
    }
    return np.asarray(degradation.apply(image, **drawn), np.uint8), drawn


def scores(target: Pixels, image: Pixels) -> dict[str, float]:
    """Return every metric of a image against its target; UsageError where their sizes differ."""
    if image.shape != target.shape:
        sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (image, target))
        why = f"input and target are of two sizes, {sizes} pixels"
        raise UsageError("images", None, why, "give the two halves of one pair")
    return {name: metric.compute(image, target) for name, metric in IMAGE_METRICS.items()}
