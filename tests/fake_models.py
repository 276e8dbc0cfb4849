"""Models without a network, their scores, and run folders without a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_photo

from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_train.evaluation.score import Scoring, evaluate_model


class Identity:
    """A model that returns its input."""

    def restore(self, batch: np.ndarray) -> np.ndarray:
        return batch


class Brighter:
    """A model that is worse than its input, by a different amount for each image."""

    def restore(self, batch: np.ndarray) -> np.ndarray:
        return np.clip(batch.astype(np.int16) + 20, 0, 255).astype(np.uint8)


def score(model: Any, corpus: Path, *scoring: Scoring) -> Any:
    """Evaluate a model on the test split of a corpus."""
    opened = open_corpus(corpus)
    return evaluate_model(model, opened, opened.pairs("test"), *scoring)


def strict_json(path: Path) -> Any:
    """Return the content of a JSON file; reject NaN and infinities, which JSON does not have."""

    def reject(constant: str) -> Any:
        raise ValueError(constant)

    return json.loads(path.read_text("utf-8"), parse_constant=reject)


def write_run(
    root: Path, seed: int = 0, corpora: Sequence[Path] = (Path("corpora/other"),)
) -> Path:
    """Write a run folder as ``fit`` does: untrained checkpoint, logs of three epochs, samples."""
    pytest.importorskip("torch")
    from img2img_data.corpus.format import to_json_page
    from img2img_train.config import RUN_FORMAT, RunConfig
    from img2img_train.networks.registry import build
    from img2img_train.networks.specs import NetworkSpec
    from img2img_train.runs.checkpoint import Description, TrainingProgress, write_checkpoint
    from img2img_train.runs.folder import RunFolder

    config = RunConfig(corpora=tuple(map(str, corpora)), net="unet", width=1)
    spec = NetworkSpec(name="unet", width=1)
    tensors = {f"network/generator/{name}": t for name, t in build(spec, seed).state_dict().items()}
    about = Description(
        complete=False,
        generator="generator",
        networks={"generator": spec},
        size=(32, 32),
        versions={},
        config=config.model_dump(mode="json"),
        progress=TrainingProgress(),
    )
    folder = RunFolder(root)
    folder.checkpoints.mkdir(parents=True)
    write_checkpoint(folder.best, tensors, about)
    folder.config.write_bytes(
        to_json_page(
            {
                "format": RUN_FORMAT,
                "config": config.model_dump(mode="json"),
                "versions": {"img2img": "0"},
            }
        )
    )
    session = {"started": "2026-01-02 03:04 UTC", "command": "img2img-train corpora/other"}
    folder.append(folder.timing, [session | {"machine": "a machine", "commit": "abc1234"}])
    losses = [{"step": n, "lr": 1e-3, "losses": {"l2": 0.5 / n**4}} for n in range(1, 31)]
    folder.append(folder.steps, losses)
    folder.samples.mkdir()
    folder.sample_keys.write_bytes(to_json_page({"keys": ["photo"]}))
    for epoch in (1, 2, 3):
        row = {"epoch": epoch, "step": epoch * 10}
        trained = {"kind": "train", **row, "losses": {"l2": 0.5 / epoch**4}}
        folder.append(
            folder.log,
            [trained, {"kind": "validation", **row, "psnr": 20 + epoch, "psnr_input": 21.5}],
        )
        grid = io.encode(make_photo(epoch, 96, 32), "png")
        (folder.samples / f"epoch-{epoch:05d}.png").write_bytes(grid)
    return root
