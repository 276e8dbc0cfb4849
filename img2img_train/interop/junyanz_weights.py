"""From and to the PyTorch CycleGAN/pix2pix repository: its weights; its options are in ``theirs``.

https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix. Weights: ``latest_net_G.pth`` of its generators
``unet_128``, ``unet_256``, ``resnet_6blocks`` and ``resnet_9blocks``; what they are is told from names and
shapes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_train.config import config_of
from img2img_train.interop.junyanz_options import GENERATORS
from img2img_train.networks.registry import build_on_meta
from img2img_train.networks.specs import GeneratorName, NetworkSpec, Norm
from img2img_train.runs.weight_files import read_tensors

if TYPE_CHECKING:
    from img2img_train.runs.checkpoint import Tensors
    from img2img_train.runs.model import LoadedModel

SIZE: Final = (256, 256)


# ----------------------------------------------------------------------------------------- weights
def read_pth(path: Path) -> Tensors:
    """Return the tensors of a ``.pth`` file; no code in it is run. CheckpointError whatever is wrong."""
    return read_tensors(path, "give a latest_net_G.pth")


def spec_of(tensors: Tensors, path: Path, dropout: float | None = None) -> NetworkSpec:
    """Return what network the tensors belong to; CheckpointError where it is none known here.

    Dropout leaves no trace in a U-Net's weights: it is as published, 0.5, unless given.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    norm: Norm = "batch" if any(name.endswith("running_mean") for name in shapes) else "instance"
    found = _unet(shapes) or _resnet(shapes)
    if found is None:
        names = ", ".join(map(printable, list(shapes)[:3]))
        why = f"are of no generator of the repository (they begin with {names})"
        raise CheckpointError("weights", path, why, f"known are {', '.join(GENERATORS)}")
    name, inputs, outputs, width, usual = found
    return NetworkSpec(
        name=name,
        inputs=inputs,
        outputs=outputs,
        width=width,
        norm=norm,
        dropout=usual if dropout is None else dropout,
    )


Found = tuple[GeneratorName, int, int, int, float]
"""Name, channels in and out, width, dropout."""


def _unet(shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    first, last = shapes.get("model.model.0.weight"), shapes.get("model.model.3.weight")
    if (
        first is None
        or last is None
        or len(first) != 4
        or len(last) != 4
        or last[0] != 2 * first[0]
    ):
        return None
    levels = 1 + max(name.count("model.") - 2 for name in shapes)
    name = {7: "unet-128", 8: "unet-256"}.get(levels)
    return (GENERATORS[name.replace("-", "_")], first[1], last[1], first[0], 0.5) if name else None


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    blocks = {m[1] for name in shapes if (m := re.match(r"model\.(\d+)\.conv_block\.", name))}
    ends = [
        shape for name, shape in shapes.items() if name.endswith("weight") and shape[-2:] == (7, 7)
    ]
    if len(blocks) not in (6, 9) or len(ends) != 2:
        return None
    drops = any(re.match(r"model\.\d+\.conv_block\.6\.weight", name) for name in shapes)
    first, last = ends
    return (
        GENERATORS[f"resnet_{len(blocks)}blocks"],
        first[1],
        last[0],
        first[0],
        0.5 if drops else 0.0,
    )


def import_weights(
    path: Path, out: Path, direction: str = "AtoB", dropout: float | None = None
) -> NetworkSpec:
    """Write the weights of a ``.pth`` file as a checkpoint that every command here takes for a model.

    U-Nets behave at test as pix2pix does there: dropout goes on, statistics are the image's own.
    """
    from img2img_data.core.files import versions
    from img2img_train.runs.checkpoint import (
        Description,
        TrainingProgress,
        load_into_network,
        write_checkpoint,
    )
    from img2img_train.runs.folder import LIBRARIES

    tensors = read_pth(path)
    spec = spec_of(tensors, path, dropout)
    network = build_on_meta(spec)
    known = network.state_dict()
    # Old files hold running statistics of instance norms, which never used them.
    tensors = {n: t for n, t in tensors.items() if n in known or not _is_statistic(n)}
    load_into_network(network, tensors, path)
    loss = "cyclegan" if spec.name.startswith("resnet") and spec.norm == "instance" else "pix2pix"
    chosen = {"net": spec.name, "width": spec.width, "norm": spec.norm, "dropout": spec.dropout}
    same = {} if loss == "pix2pix" or spec.inputs == spec.outputs else {"identity_weight": 0}
    config = config_of(
        {"corpora": [path.stem], "loss": loss, "direction": direction, **chosen, **same}
    )
    about = Description(
        complete=False,
        generator="generator",
        color="lab" if (spec.inputs, spec.outputs) == (1, 2) else "rgb",
        networks={"generator": spec},
        size=SIZE,
        versions=versions(*LIBRARIES),
        config=config.model_dump(mode="json"),
        progress=TrainingProgress(),
    )
    write_checkpoint(
        out, {f"network/generator/{n}": t for n, t in network.state_dict().items()}, about
    )
    return spec


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def export_pth(model: LoadedModel, out: Path) -> None:
    """Write a generator as the repository's ``latest_net_G.pth``; UsageError where it has no such network."""
    import torch

    if (
        model.spec.name not in GENERATORS.values()
        or model.spec.bottleneck_norm
        or model.spec.residual
    ):
        why = "has no counterpart in the PyTorch CycleGAN/pix2pix repository"
        raise UsageError(
            "network", model.spec.name, why, f"it has {', '.join(GENERATORS.values())}"
        )
    temporary = out.with_name(f".{out.name}.tmp")
    torch.save(
        OrderedDict((n, t.cpu().clone()) for n, t in model.generator.state_dict().items()),
        temporary,
    )
    temporary.replace(out)
