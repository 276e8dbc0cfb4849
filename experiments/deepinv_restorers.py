"""Rows of deepinv (https://deepinv.github.io) for the table of restorers.

The same pairs, seeds, threads, CPU seconds and scores as in restorers.py, which builds the corpora.
deepinv's trainer and networks are used as its tutorial "Training a reconstruction model" does:
Adam at 1e-3, mean squared error, constant rate, batches of one; the pairs come from the disk, so
the physics is the identity. Needs ``pip install deepinv`` (it needs torchvision).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from restorers import MEN, TESTS, TableRow, markdown, scores_of
from trainings import machine

from img2img_data.core.command_line import FOLDER
from img2img_data.core.errors import UsageError
from img2img_data.core.files import versions, write_atomically
from img2img_data.corpus.format import to_json_page
from img2img_data.corpus.reader import Corpus, Pair, open_corpus
from img2img_data.images.pixels import Pixels
from img2img_train.cli.main import main
from img2img_train.evaluation.score import OutputsOfPairs, rounded

NETWORKS: Final[dict[str, Callable[[Any], torch.nn.Module]]] = {
    "U-Net of its tutorial": lambda models: models.UNet(3, 3, scales=2, batch_norm=False),
    "U-Net": lambda models: models.UNet(3, 3),
    "DnCNN": lambda models: models.DnCNN(3, 3, pretrained=None),
}
"""Networks of ``deepinv.models`` in three channels, otherwise as they are by default, by title."""
NOTE: Final = (
    "Mean over seeds ± the largest distance of a seed from it, at the last state. CPU seconds are "
    "those of training alone."
)


def train(
    deepinv: Any, network: torch.nn.Module, pairs: Any, batch: int, seconds: float
) -> torch.nn.Module:
    """Train a network on pairs for some CPU seconds and return its last state."""
    model = deepinv.models.ArtifactRemoval(network, mode="direct")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    trainer = deepinv.Trainer(
        model,
        deepinv.physics.LinearPhysics(),
        optimizer,
        torch.utils.data.DataLoader(pairs, batch_size=batch, shuffle=True),
        epochs=10**6,
        losses=deepinv.loss.SupLoss(metric=deepinv.metric.MSE()),
        device="cpu",
        save_path=None,
        verbose=False,
    )
    end = time.process_time() + seconds

    def stop(*_: object) -> None:
        if time.process_time() > end:
            trainer.max_batch_steps = 0

    optimizer.register_step_post_hook(stop)
    trainer.train()
    return network.eval()


def tensor_of(images: Pixels) -> torch.Tensor:
    """Return N 8-bit H x W x 3 images as N x 3 x H x W in 0..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255


def outputs_of(network: torch.nn.Module) -> OutputsOfPairs:
    """Return the function from pairs and their inputs to the 8-bit outputs of a network."""

    @torch.inference_mode()
    def outputs(_: Sequence[Pair], inputs: Pixels) -> Pixels:
        values = network(tensor_of(inputs)).clamp(0, 1).mul(255).round()
        return np.asarray(values.permute(0, 2, 3, 1).contiguous().numpy(), np.uint8)

    return outputs


def measure(
    deepinv: Any, data: Path, titles: Sequence[str], seeds: int, batch: int, seconds: float
) -> list[TableRow]:
    """Return the rows of some networks, trained with each seed and scored."""
    corpora: dict[str, Corpus] = {test: open_corpus(data / path) for test, path in TESTS.items()}
    men = open_corpus(data / MEN)
    images = [men.read(pair) for pair in men.pairs("train")]
    inputs, targets = (tensor_of(np.stack([pair[side] for pair in images])) for side in (0, 1))
    pairs = deepinv.datasets.TensorDataset(x=targets, y=inputs)
    rows = []
    for title in titles:
        networks, used = [], list[float | None]()
        for seed in range(seeds):
            began = time.process_time()
            torch.manual_seed(seed)
            network = NETWORKS[title](deepinv.models)
            networks.append(train(deepinv, network, pairs, batch, seconds))
            used.append(time.process_time() - began)
            click.echo(f"{title}, seed {seed}: {used[-1]:.0f} CPU s", err=True)
        models = [outputs_of(network) for network in networks]
        scores = {test: scores_of(models, corpus) for test, corpus in corpora.items()}
        count = sum(part.numel() for part in networks[0].parameters())
        words = f"python experiments/deepinv_restorers.py --only '{title}' --batch {batch}"
        row = TableRow(f"deepinv, {title}", scores, count, list(range(seeds)), used, words)
        rows.append(row)
    return rows


@click.command(short_help="Make rows of deepinv for the table of restorers.")
@click.option(
    "--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="runs of each row"
)
@click.option("--only", multiple=True, type=click.Choice(list(NETWORKS)), help="only this network")
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=110.0,
    show_default=True,
    help="CPU seconds of a training, without start and scores",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="images of a step"
)
@click.option(
    "--data", type=FOLDER, default=Path(), help="folder of the corpora  [default: the current one]"
)
@click.option("--out", type=FOLDER, default=Path("results"), help="folder of the results")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads")
def command(
    seeds: int,
    only: tuple[str, ...],
    seconds: float,
    batch: int,
    data: Path,
    out: Path,
    threads: int,
) -> None:
    """Train networks of deepinv and write deepinv.md and deepinv.json into OUT.

    \b
    Example:
      python experiments/deepinv_restorers.py --data images/
    """
    try:
        deepinv = importlib.import_module("deepinv")
    except ImportError as error:
        raise UsageError("package", "deepinv", f"{error}", "pip install deepinv") from None
    torch.set_num_threads(threads)
    rows = measure(deepinv, data, only or list(NETWORKS), seeds, batch, seconds)
    about, installed = machine("cpu"), versions("deepinv", "torch")
    settings = {"threads": threads, "batch": batch, "seconds": seconds}
    page = {"rows": [asdict(row) for row in rows], "machine": about, "versions": installed}
    write_atomically(out / "deepinv.json", to_json_page(rounded({**page, "settings": settings})))
    text = markdown(rows, about, threads, f"{NOTE} deepinv {installed['deepinv']}, batch {batch};")
    write_atomically(out / "deepinv.md", text.encode())
    click.echo(text)


if __name__ == "__main__":
    main(command=command, name="deepinv_restorers")
