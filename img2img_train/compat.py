"""From and to the PyTorch CycleGAN/pix2pix repository: its weights, its options.

https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix. Weights: ``latest_net_G.pth`` of its generators
``unet_128``, ``unet_256``, ``resnet_6blocks`` and ``resnet_9blocks``; what they are is told from names and
shapes. Options: those of its ``train.py``, by which the native command is found.
"""

from __future__ import annotations

import re
import shlex
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from img2img_data.errors import CheckpointError, UsageError, printable
from img2img_data.fields import did_you_mean
from img2img_train.config import config_of
from img2img_train.networks import Generator, NetworkSpec, Norm, skeleton
from img2img_train.weights import read_tensors

if TYPE_CHECKING:
    from img2img_train.checkpoints import Tensors
    from img2img_train.run import LoadedModel

THEIRS: Final[dict[str, Generator]] = {
    "unet_256": "unet-256",
    "unet_128": "unet-128",
    "resnet_9blocks": "resnet-9",
    "resnet_6blocks": "resnet-6",
}
"""Their generators, and ours."""
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
        raise CheckpointError("weights", path, why, f"known are {', '.join(THEIRS)}")
    name, inputs, outputs, width, usual = found
    return NetworkSpec(
        name=name,
        inputs=inputs,
        outputs=outputs,
        width=width,
        norm=norm,
        dropout=usual if dropout is None else dropout,
    )


Found = tuple[Generator, int, int, int, float]
"""Name, channels in and out, width, dropout."""


def _unet(shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    first, last = shapes.get("model.model.0.weight"), shapes.get("model.model.3.weight")
    if first is None or last is None or len(first) != 4 or len(last) != 4 or last[0] != 2 * first[0]:
        return None
    levels = 1 + max(name.count("model.") - 2 for name in shapes)
    name = {7: "unet-128", 8: "unet-256"}.get(levels)
    return (THEIRS[name.replace("-", "_")], first[1], last[1], first[0], 0.5) if name else None


def _resnet(shapes: Mapping[str, tuple[int, ...]]) -> Found | None:
    blocks = {m[1] for name in shapes if (m := re.match(r"model\.(\d+)\.conv_block\.", name))}
    ends = [shape for name, shape in shapes.items() if name.endswith("weight") and shape[-2:] == (7, 7)]
    if len(blocks) not in (6, 9) or len(ends) != 2:
        return None
    drops = any(re.match(r"model\.\d+\.conv_block\.6\.weight", name) for name in shapes)
    first, last = ends
    return THEIRS[f"resnet_{len(blocks)}blocks"], first[1], last[0], first[0], 0.5 if drops else 0.0


def adopt(path: Path, out: Path, direction: str = "AtoB", dropout: float | None = None) -> NetworkSpec:
    """Write the weights of a ``.pth`` file as a checkpoint that every command here takes for a model.

    U-Nets behave at test as pix2pix does there: dropout goes on, statistics are the picture's own.
    """
    from img2img_train.checkpoints import Description, Progress, fill_network, write_checkpoint
    from img2img_train.run import versions

    tensors = read_pth(path)
    spec = spec_of(tensors, path, dropout)
    network = skeleton(spec)
    known = network.state_dict()
    # Old files hold running statistics of instance norms, which never used them.
    tensors = {n: t for n, t in tensors.items() if n in known or not _is_statistic(n)}
    fill_network(network, tensors, path)
    loss = "cyclegan" if spec.name.startswith("resnet") and spec.norm == "instance" else "pix2pix"
    chosen = {"net": spec.name, "width": spec.width, "norm": spec.norm, "dropout": spec.dropout}
    same = {} if loss == "pix2pix" or spec.inputs == spec.outputs else {"identity": 0}
    config = config_of({"corpora": [path.stem], "loss": loss, "direction": direction, **chosen, **same})
    about = Description(
        complete=False,
        generator="generator",
        colour="lab" if (spec.inputs, spec.outputs) == (1, 2) else "rgb",
        networks={"generator": spec},
        size=SIZE,
        versions=versions(),
        config=config.model_dump(mode="json"),
        progress=Progress(),
    )
    write_checkpoint(out, {f"network/generator/{n}": t for n, t in network.state_dict().items()}, about)
    return spec


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def export_pth(model: LoadedModel, out: Path) -> None:
    """Write a generator as the repository's ``latest_net_G.pth``; UsageError where it has no such network."""
    import torch

    if model.spec.name not in THEIRS.values() or model.spec.bottleneck_norm or model.spec.residual:
        why = "has no counterpart in the PyTorch CycleGAN/pix2pix repository"
        raise UsageError("network", model.spec.name, why, f"it has {', '.join(THEIRS.values())}")
    temporary = out.with_name(f".{out.name}.tmp")
    torch.save(OrderedDict((n, t.cpu().clone()) for n, t in model.generator.state_dict().items()), temporary)
    temporary.replace(out)


# ----------------------------------------------------------------------------------------- options
Option = Callable[[str], dict[str, str]]


def _as(name: str, values: Mapping[str, str] | None = None) -> Option:
    """Return the translation of an option that has a counterpart, its value looked up if need be."""

    def translate(value: str) -> dict[str, str]:
        if values is not None and value not in values:
            raise UsageError("value", value, "has no counterpart here", f"there are {', '.join(values)}")
        return {name: values[value] if values is not None else value}

    return translate


MODELS: Final = {"pix2pix": "pix2pix", "cycle_gan": "cyclegan"}
PATCHES: Final = {"1": "patch-16", "2": "patch-34", "3": "patch-70", "4": "patch-142", "5": "patch-286"}
SILENT: Final = frozenset((
    "gpu_ids", "verbose", "suffix", "display_freq", "display_ncols", "display_id", "display_server",
    "display_env", "display_port", "update_html_freq", "print_freq", "no_html", "save_latest_freq",
    "save_epoch_freq", "save_by_iter", "use_wandb", "wandb_project_name", "continue_train", "epoch_count",
    "phase", "dataset_mode",
))  # fmt: skip
"""What needs no counterpart: a run is saved, shown and continued by itself."""
FLAGS: Final = frozenset((
    "no_dropout", "no_flip", "serial_batches", "verbose", "no_html", "save_by_iter", "use_wandb",
    "continue_train",
))  # fmt: skip
OPTIONS: Final[dict[str, Option]] = {
    "model": _as("loss", MODELS),
    "direction": _as("direction", {"AtoB": "AtoB", "BtoA": "BtoA"}),
    "netG": _as("net", THEIRS),
    "netD": _as("discriminator", {"basic": "patch-70", "pixel": "patch-1", "n_layers": "patch-70"}),
    "n_layers_D": _as("discriminator", PATCHES),
    "ngf": _as("width"),
    "ndf": _as("d_width"),
    "norm": _as("norm", {"batch": "batch", "instance": "instance", "none": "none"}),
    "no_dropout": lambda _: {"dropout": "0"},
    "gan_mode": _as("gan_mode", {"vanilla": "vanilla", "lsgan": "lsgan", "wgangp": "wgan-gp"}),
    "batch_size": _as("batch"),
    "lr": _as("lr"),
    "beta1": _as("beta1"),
    "pool_size": _as("pool"),
    "num_threads": _as("workers"),
    "lambda_L1": _as("l1_weight"),
    "lambda_A": _as("cycle_weight"),
    "lambda_identity": _as("identity"),
}
"""Their options with a counterpart here; those of ``native_command`` need more than one."""
OTHERS: Final = (
    "dataroot",
    "name",
    "checkpoints_dir",
    "n_epochs",
    "n_epochs_decay",
    "no_flip",
    "max_dataset_size",
)
UNLIKE: Final = {
    "load_size": "pictures are used at the size of the corpus: build it with img2img-data and --size",
    "crop_size": "pictures are used at the size of the corpus: build it with img2img-data and --size",
    "preprocess": "pictures are used at the size of the corpus: build it with img2img-data and --size",
    "lambda_B": "one --cycle-weight holds for both ways",
    "input_nc": "channels are told from the corpus",
    "output_nc": "channels are told from the corpus",
    "init_type": "weights are drawn from N(0, 0.02)",
    "init_gain": "weights are drawn from N(0, 0.02)",
    "lr_policy": "the rate is constant, then falls linearly over --epochs-decay",
    "lr_decay_iters": "the rate is constant, then falls linearly over --epochs-decay",
    "serial_batches": "pictures come in an order drawn from the seed",
}
"""Their options without a counterpart, and what holds instead."""


def native_command(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the native command for options of their ``train.py``, and notes on the others.

    UsageError names an option that is unknown, incomplete or missing.
    """
    given = _parsed(words)
    if "dataroot" not in given:
        raise UsageError("option", "--dataroot", "is missing", "say where the pictures are")
    model = given.get("model", "cycle_gan")
    settings: dict[str, str] = OPTIONS["model"](model)
    for name, value in given.items():
        if name in OPTIONS:
            settings |= OPTIONS[name](value)
    constant, falling = (int(given.get(n, "100")) for n in ("n_epochs", "n_epochs_decay"))
    settings |= {"epochs": str(constant + falling), "epochs_decay": str(falling)}
    if given.get("max_dataset_size", "inf") != "inf":
        settings["limit"] = given["max_dataset_size"]
    out = f"{given.get('checkpoints_dir', './checkpoints')}/{given.get('name', 'experiment_name')}"
    settings["out"] = out.removeprefix("./")
    command = ["img2img-train", given["dataroot"]]
    for name, value in settings.items():
        command += ["--" + name.replace("_", "-"), value]
    command += [] if "no_flip" in given else ["--flip"]
    return command, [f"--{name}: {UNLIKE[name]}" for name in given if name in UNLIKE]


def _parsed(words: Sequence[str]) -> dict[str, str]:
    """Return their options by name; a flag has an empty value."""
    known, given, rest = {*OPTIONS, *OTHERS, *UNLIKE, *SILENT}, dict[str, str](), list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name = word.removeprefix("--")
        if not word.startswith("--") or name not in known:
            raise UsageError("option", word, "is none of their train.py", did_you_mean(name, known))
        if not equals and name not in FLAGS:
            if not rest or rest[0].startswith("--"):
                raise UsageError("option", word, "has no value", "give one")
            value = rest.pop(0)
        given[name] = value
    return given


def as_shell(command: Sequence[str]) -> str:
    """Return a command as one line for a shell."""
    return shlex.join(command)
