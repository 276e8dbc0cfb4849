"""Tiny runs of every objective: their settings, trainers, models and batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from img2img_data.core.command_line import Display
from img2img_train.cli.main import main
from img2img_train.config import RunConfig
from img2img_train.data import dataset, loader
from img2img_train.networks.specs import NetworkSpec
from img2img_train.objectives.base import Batch
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import LoadedModel
from img2img_train.training import fit as loop
from img2img_train.training.setup import RunData, resolve_auto
from img2img_train.training.signals import StopSignal

SMALL: dict[str, Any] = {
    "width": 4,
    "batch": 2,
    "epochs": 2,
    "epochs_decay": 0,
    "threads": 1,
    "samples_every": 0,
    "device": "cpu",
    "precision": "fp32",
    "discriminator": "patch-16",
    "d_width": 4,
    "pool_size": 3,
}


def command(*words: object) -> int:
    """Run img2img-train in this process and return its exit code."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def small_config(loss: str, corpora: Any, out: Path | str = "", **settings: Any) -> RunConfig:
    """Return the configuration of a tiny run with a U-Net, for images of 16 x 16 and more.

    Plain Adam for l1 and l2; charbonnier has the defaults of restoration, with EMA and clipping.
    """
    first = {"preset": "original"} if loss in ("l1", "l2") else {}
    known = {*OBJECTIVES[loss].model_fields, *RunConfig.model_fields}
    values = first | {"net": "unet"} | {n: value for n, value in SMALL.items() if n in known}
    return RunConfig(**values | settings, loss=loss, corpora=corpora, out=str(out))


def small_training(loss: str, corpus: Path, out: Path, **settings: Any) -> loop.Trainer:
    """Return the trainer of a tiny run before its first step."""
    config = resolve_auto(small_config(loss, corpus, out, **settings))
    data = RunData.open(config)
    device = torch.device("cpu")
    return loop.Trainer(config, data, device, RunFolder(out), Display(), StopSignal())


def a_batch(seed: int = 0, count: int = 2) -> Batch:
    """Return random inputs and targets of 32 x 16 pixels."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(*torch.rand(2, count, 3, 32, 16, generator=generator) * 2 - 1)


class Negative(torch.nn.Module):
    """A network with a known output, which does not depend on the tile."""

    def forward(self, x: Any) -> Any:
        return -x


def negative_model() -> LoadedModel:
    """Return a model whose outputs are negatives."""
    spec, config = NetworkSpec(name="autoencoder"), RunConfig(corpora=("c",), out="run")
    cpu = torch.device("cpu")
    return LoadedModel(Negative(), spec, "rgb", 0, config, cpu, Path("model"))


def seen(
    loss: str, corpus: Path, numbers: range, workers: int = 0, cache: str = "off", **settings: Any
) -> list[loader.Batch]:
    """Return the batches of some steps, as networks take them."""
    config = small_config(loss, corpus, **{"net": "resnet-6", **settings})
    data = RunData.open(config)
    store = dataset.cache_images(data.train.for_training(), cache, workers)
    raws = loader.raw_batches(loader.StepDataset(data.plan, store, data.train), numbers, workers)
    return [loader.to_device(raw, torch.device("cpu"), data.train.channel_layout) for raw in raws]


DEGRADED: dict[str, Any] = {
    "pairs": None,
    "linear": {"gaussian": {"sigma": [0.5, 2]}},
    "not linear": [{"gaussian": {"sigma": [0.5, 2]}}, {"jpeg": {"quality": [20, 80]}}],
}
"""Values of ``degrade`` with inputs from the corpus, from the device, and from the loader."""
