"""What a run sees of itself while it trains: scores on held-out images, grids of samples.

With pairs the score is the PSNR of the output; without, no score tells a good translation from a bad one:
what is measured is how far a image is from itself after the way there and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img2img_data.images.pixels import Pixels
from img2img_train.data import loader
from img2img_train.data.augment import Crops, stack_crops
from img2img_train.data.color import PLAIN, ChannelLayout
from img2img_train.data.dataset import CachedImages, ImageSet, ImageStore, indices_of_keys
from img2img_train.networks.layers import dropout_at_test, dropout_seeds
from img2img_train.objectives.base import Batch, Objective
from img2img_train.training.setup import HeldOut
from img2img_train.training.timing import psnr_of

AGAIN: Final = {"reconstructed_input": "input", "reconstructed_target": "target"}
"""Images after the way there and back, and what they should be."""
SHOWN: Final = 256


def samples(held: ImageSet, count: int, keys: Sequence[str] = ()) -> tuple[Pixels, Pixels]:
    """Return inputs and targets for a sample grid: those of ``keys``, else ``count`` evenly spread.

    Of images of several sizes the middle is shown, as large as the smallest, ``SHOWN`` pixels at most.
    """
    places = indices_of_keys(held, keys) or loader.evenly_spaced(len(held), count)
    given, targets = zip(*(held.read(place) for place in places), strict=True)
    if not held.min_side:
        return np.stack(given), np.stack(targets)
    side = min(
        max(SHOWN, *held.size), *(side for one in (*given, *targets) for side in one.shape[:2])
    )
    cuts = Crops.center(side, len(places))
    return stack_crops(given, cuts, 0), stack_crops(targets, cuts, 1)


@dataclass(frozen=True, slots=True)
class Validator:
    """The networks of a run, looked at from outside: eval mode, float32, no gradient; maybe dropout."""

    objective: Objective
    nets: Mapping[str, nn.Module]
    device: torch.device
    channel_layout: ChannelLayout = PLAIN
    dropout: bool = False

    @torch.no_grad()
    def look(self, given: Pixels, target: Pixels) -> dict[str, Tensor]:
        """Return ``input``, ``target`` and what is made of them: RGB, uint8 N x H x W x 3 on the device."""
        for net in self.nets.values():
            net.eval()
        try:
            held = (torch.from_numpy(x).to(self.device) for x in (given, target))
            batch = Batch(
                self.channel_layout.input(next(held)), self.channel_layout.target(next(held))
            )
            with dropout_at_test(
                self.nets.values(), dropout_seeds(batch.input) if self.dropout else ()
            ):
                made = self.objective.forward(self.nets, batch)
            seen = {"input": batch.input, "target": batch.target} | made
            shown = {
                name: self.channel_layout.to_rgb(image, batch.input) for name, image in seen.items()
            }
            return {name: loader.to_uint8(image) for name, image in shown.items()}
        finally:
            for net in self.nets.values():
                net.train()

    def scores(self, held_out: HeldOut, batch: int, check: Callable[[], None]) -> dict[str, float]:
        """Return the mean scores over the held-out images: ``psnr`` and ``psnr_input``, dB, or
        ``cycle_mae``.

        ``psnr_input`` scores the input as if it were the output; ``cycle_mae`` is in gray levels, 0 to
        255, over both ways there and back. ``check`` is called before each batch.
        """
        found: dict[str, list[Tensor]] = {}
        batch = 1 if held_out.images.min_side else batch
        for start in range(0, len(held_out.images), batch):
            check()
            places = np.arange(start, min(start + batch, len(held_out.images)))
            seen = self.look(*held_out.store.gather(places, places))
            for name, values in self._measured(seen, held_out.nothing is None).items():
                found.setdefault(name, []).append(values)
        means = {name: _rounded(float(torch.cat(values).mean())) for name, values in found.items()}
        if not self.objective.paired:
            return means
        held_out.nothing = means.get("psnr_input", held_out.nothing)
        return means | {"psnr_input": held_out.nothing or 0.0}

    def psnr(self, store: ImageStore, count: int, batch: int, check: Callable[[], None]) -> float:
        """Return the mean PSNR of a store's first ``count`` images, dB; ``check`` as for ``scores``."""
        found: list[Tensor] = []
        batch = 1 if isinstance(store, CachedImages) and isinstance(store.inputs, list) else batch
        for start in range(0, count, batch):
            check()
            places = np.arange(start, min(start + batch, count))
            seen = self.look(*store.gather(places, places))
            found.append(psnr_of(seen["output"], seen["target"]))
        return _rounded(float(torch.cat(found).mean()))

    def _measured(self, seen: Mapping[str, Tensor], nothing: bool) -> dict[str, Tensor]:
        if not self.objective.paired:
            errors = [_mae_of(seen[again], seen[name]) for again, name in AGAIN.items()]
            return {"cycle_mae": torch.stack(errors).mean(0)}
        scores = {"psnr": psnr_of(seen["output"], seen["target"])}
        return scores | ({"psnr_input": psnr_of(seen["input"], seen["target"])} if nothing else {})

    def grid(self, given: Pixels, target: Pixels) -> NDArray[Any]:
        """Return a image with a row for each pair: what the objective shows of it, side by side."""
        seen = self.look(given, target)
        columns = [seen[name].cpu().numpy() for name in self.objective.sample_columns]
        return np.ascontiguousarray(
            np.concatenate([np.concatenate(list(c)) for c in columns], axis=1)
        )


def _mae_of(made: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean absolute difference of each image, gray levels; sums are exact."""
    error = (
        (made.to(torch.int32) - wanted.to(torch.int32)).abs().flatten(1).sum(1, dtype=torch.int64)
    )
    return error.cpu().to(torch.float64) / made[0].numel()


def _rounded(value: float) -> float:
    return round(value, 6) + 0.0
