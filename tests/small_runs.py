"""Tiny runs of every objective: the settings that make one small, as far as the objective knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from img2img_train import loop
from img2img_train.config import RunConfig
from img2img_train.display import Display
from img2img_train.interrupts import Stop
from img2img_train.networks import NetworkSpec
from img2img_train.objectives import OBJECTIVES
from img2img_train.run import LoadedModel, RunFolder

SMALL: dict[str, Any] = {
    "width": 4,
    "batch": 2,
    "epochs": 2,
    "epochs_decay": 0,
    "threads": 1,
    "samples_every": 0,
    "device": "cpu",
    "discriminator": "patch-16",
    "d_width": 4,
    "pool": 3,
}


def small_config(loss: str, corpora: Any, out: Path | str = "", **settings: Any) -> RunConfig:
    """The configuration of a tiny run: a small U-Net or ResNet, for pictures from 16 x 16 on."""
    model = OBJECTIVES[loss]
    net = "resnet-6" if model.model_fields["net"].default.startswith("resnet") else "unet"
    known = {*model.model_fields, *RunConfig.model_fields}
    values = {name: value for name, value in SMALL.items() if name in known}
    return RunConfig(**{"net": net, **values, **settings}, loss=loss, corpora=corpora, out=str(out))


def small_training(loss: str, corpus: Path, out: Path, **settings: Any) -> loop.Training:
    """A tiny run before its first step."""
    config = loop.resolve(small_config(loss, corpus, out, **settings))
    data = loop.Data.open(config, config.objective)
    return loop.Training(
        config, data, config.objective, torch.device("cpu"), RunFolder(out), Display(), Stop()
    )


class Negative(torch.nn.Module):
    """What it does to a pixel is known, whatever the tile."""

    def forward(self, x: Any) -> Any:
        return -x


def negative_model(folder: Path) -> LoadedModel:
    """A model that makes negatives; its file lies in the folder."""
    (folder / "model").write_bytes(b"negative")
    spec, config = NetworkSpec(name="autoencoder"), RunConfig(corpora=("c",), out="run")
    cpu = torch.device("cpu")
    return LoadedModel(Negative(), spec, "rgb", (-1, 1), 0, config, cpu, folder / "model")
