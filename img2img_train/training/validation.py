"""Validation: scores on held-out images, grids of samples, and of what training sees.

Paired objectives are scored by the PSNR of the output. Without pairs no score tells good images
from bad ones; the error of the cycles is measured.
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
from img2img_train.data.augment import Crops, stack_crops
from img2img_train.data.color import PLAIN, ChannelLayout, denormalize
from img2img_train.data.dataset import ImageSet, ImageStore, indices_of_keys
from img2img_train.data.device_cache import DeviceCache
from img2img_train.data.loader import RawBatch, StepDataset, evenly_spaced, to_device
from img2img_train.metrics.image import PSNR_CAP
from img2img_train.networks.layers import dropout_at_test, dropout_seeds
from img2img_train.objectives.base import Objective
from img2img_train.runs.model import cudnn_settings

CYCLES: Final = {"reconstructed_input": "input", "reconstructed_target": "target"}
MAX_SAMPLE_SIDE: Final = 256


def sample_images(held: ImageSet, count: int, keys: Sequence[str] = ()) -> tuple[Pixels, Pixels]:
    """Return inputs and targets of a sample grid: those of ``keys``, or ``count`` evenly spaced.

    Of images of several sizes the center is shown, as large as the smallest of them,
    ``MAX_SAMPLE_SIDE`` pixels a side at most.
    """
    indices = indices_of_keys(held, keys) or evenly_spaced(len(held), count)
    inputs, targets = zip(*(held.read(index) for index in indices), strict=True)
    sides = (side for image in (*inputs, *targets) for side in image.shape[:2])
    side = min(max(MAX_SAMPLE_SIDE, *held.size), *sides)
    crops = Crops.center(side, len(indices)) if held.min_side else None
    return stack_crops(inputs, crops, 0), stack_crops(targets, crops, 1)


def sample_keys(held: ImageSet, count: int, keys: Sequence[str] = ()) -> list[str]:
    """Return the keys of the images of a sample grid, in its order."""
    if keys:
        return list(keys)
    # Of domains of two sizes the smaller one repeats.
    chosen = [index % sum(held.counts) for index in evenly_spaced(len(held), count)]
    shown = set(chosen)
    found = {index: key for index, key in enumerate(held.keys) if index in shown}
    return [found[index] for index in chosen]


def training_grid(steps: StepDataset, count: int, device: torch.device) -> NDArray[Any]:
    """Return the first ``count`` pairs of a run as steps see them, H x W x 3 uint8.

    A row per pair, input | target: degraded, cropped and augmented.
    """
    count, layout = min(count, steps.plan.total), steps.images.channel_layout
    numbers = range(-(-count // steps.plan.step_images))
    rows = []
    for batch in (to_device(steps[number], device, layout) for number in numbers):
        halves = (layout.to_rgb(x, batch.input) for x in (batch.input, batch.target))
        rows.append(torch.cat([denormalize(half) for half in halves], dim=2))
    return np.concatenate(list(torch.cat(rows)[:count].cpu().numpy()))


@dataclass(frozen=True, slots=True)
class Validator:
    """The networks in eval mode, float32, without gradients; ``dropout`` may stay on."""

    objective: Objective
    nets: Mapping[str, nn.Module]
    device: torch.device
    channel_layout: ChannelLayout = PLAIN
    dropout: bool = False

    @torch.no_grad()
    def run(self, inputs: Pixels | Tensor, targets: Pixels | Tensor) -> dict[str, Tensor]:
        """Return ``input``, ``target`` and the generated images: RGB, uint8 N x H x W x 3."""
        layout = self.channel_layout
        for net in self.nets.values():
            net.eval()
        try:
            batch = to_device(RawBatch(inputs, targets), self.device, layout)
            seeds = dropout_seeds(batch.input) if self.dropout else ()
            # The autotuner would try all algorithms anew for each size of images.
            with cudnn_settings(), dropout_at_test(seeds):
                outputs = self.objective.forward(self.nets, batch)
            images = {"input": batch.input, "target": batch.target} | outputs
            return {n: denormalize(layout.to_rgb(x, batch.input)) for n, x in images.items()}
        finally:
            for net in self.nets.values():
                net.train()

    def scores(
        self,
        store: ImageStore | DeviceCache,
        chosen: Sequence[int],
        batch: int,
        check: Callable[[], None],
    ) -> dict[str, float]:
        """Return mean scores of images, given by index: ``psnr``, ``psnr_input`` (dB), or
        ``cycle_mae``.

        ``psnr_input`` is the input baseline, the input scored as if it were the output.
        ``cycle_mae`` is the mean absolute error of both cycles, in gray levels of 255. ``check`` is
        called before each batch.
        """
        values: dict[str, list[Tensor]] = {}
        for start in range(0, len(chosen), batch):
            check()
            indices = np.asarray(chosen[start : start + batch])
            images = self.run(*store.gather(np.stack([indices, indices])))
            if self.objective.paired:
                columns = {"psnr": "output", "psnr_input": "input"}
                found = {k: batch_psnr(images[x], images["target"]) for k, x in columns.items()}
            else:
                errors = [_mean_error(images[name], images[CYCLES[name]], 1) for name in CYCLES]
                found = {"cycle_mae": torch.stack(errors).mean(0)}
            for name, scores in found.items():
                values.setdefault(name, []).append(scores)
        return {name: round_score(float(torch.cat(x).mean())) for name, x in values.items()}

    def grid(self, inputs: Pixels, targets: Pixels) -> NDArray[Any]:
        """Return a sample grid, H x W x 3 uint8: a row per pair, with the objective's columns."""
        images = self.run(inputs, targets)
        arrays = (images[name].cpu().numpy() for name in self.objective.sample_columns)
        columns = [np.concatenate(list(array)) for array in arrays]
        return np.ascontiguousarray(np.concatenate(columns, axis=1))


def batch_psnr(output: Tensor, target: Tensor) -> Tensor:
    """Return the PSNR of each image in dB, at most 100, float64.

    Both are uint8 N x H x W x C; the peak is 255, the error is taken over all samples of an image.
    """
    mean = _mean_error(output, target, 2)
    return (10 * torch.log10(255**2 / mean)).clamp(max=PSNR_CAP)


def _mean_error(output: Tensor, target: Tensor, power: int) -> Tensor:
    """Return the mean of the absolute errors of each image, or of their squares (``power`` 2)."""
    # Integer sums are exact, so the score does not depend on the order in which the device adds.
    errors = (output.to(torch.int32) - target.to(torch.int32)).abs().pow(power).flatten(1)
    total = errors.sum(1, dtype=torch.int64)
    # MPS has no float64. The host waits for CUDA only when it reads the mean of all images.
    total = total.cpu() if total.device.type == "mps" else total
    return total.to(torch.float64) / output[0].numel()


def round_score(value: float) -> float:
    """Return a number for the log, with six decimals and without a negative zero."""
    return round(value, 6) + 0.0
