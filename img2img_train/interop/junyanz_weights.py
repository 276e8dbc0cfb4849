"""Weights of the PyTorch CycleGAN/pix2pix repository: import and export of ``latest_net_G.pth``.

https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix, models/networks.py: the generators
``unet_128``, ``unet_256``, ``resnet_6blocks`` and ``resnet_9blocks``.
"""

from __future__ import annotations

from collections import OrderedDict
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Final

import torch

from img2img_data.core.errors import CheckpointError, UsageError, printable
from img2img_data.core.files import versions, write_atomically
from img2img_train.config import config_of
from img2img_train.data.color import ChannelLayout, ColorSpace
from img2img_train.interop.junyanz_options import GENERATORS
from img2img_train.networks.registry import build_on_meta
from img2img_train.networks.specs import GeneratorName, NetworkSpec, Norm
from img2img_train.runs import checkpoint
from img2img_train.runs.folder import LIBRARIES
from img2img_train.runs.model import LoadedModel
from img2img_train.runs.weight_files import read_tensors

REPOSITORY: Final = "the PyTorch CycleGAN/pix2pix repository"
# Weights do not tell the size of training images; this is the default of the repository.
SIZE: Final = (256, 256)
STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
CONVOLUTIONS: Final[dict[int, GeneratorName]] = {14: "unet-128", 16: "unet-256",
                                                 18: "resnet-6", 24: "resnet-9"}  # fmt: skip
"""Generators by their number of convolutions."""
NORMS: Final[tuple[Norm, ...]] = ("batch", "instance", "none")


def spec_of(tensors: checkpoint.Tensors, path: Path, dropout: float | None = None) -> NetworkSpec:
    """Return the specification of the generator that tensors in the order of their layers belong
    to.

    A U-Net's weights do not show its dropout: it is 0.5, as published, unless ``dropout`` says
    otherwise. CheckpointError if no generator of the repository has these tensors.
    """
    kernels = [tensor.shape for tensor in tensors.values() if tensor.ndim == 4]
    name = CONVOLUTIONS.get(len(kernels), "unet-256")
    # The dropout layers of a ResNet shift the numbers in the names of the layers behind them.
    shares = (0.5, 0.0) if dropout is None else (dropout,)
    for norm, share in product(NORMS, shares) if kernels else ():
        # The last layer of a U-Net is a transposed convolution: its kernel is input x output.
        outputs = kernels[-1][1 if name.startswith("unet") else 0]
        shape = {"inputs": kernels[0][1], "outputs": outputs, "width": kernels[0][0]}
        # A hostile file may have any shape: specs reject sizes out of range.
        try:
            spec = NetworkSpec(name=name, norm=norm, dropout=share, **shape)
        except ValueError:
            continue
        state = build_on_meta(spec).state_dict()
        expected = {there: state[here].shape for there, here in _names(spec).items()}
        if expected == {n: t.shape for n, t in _used(tensors, norm).items()}:
            return spec
    names = ", ".join(map(printable, list(tensors)[:3]))
    why = f"are not those of a generator of {REPOSITORY} (they begin with {names})"
    hint = f"known are {', '.join(GENERATORS)}"
    hint += "" if dropout is None else f"; or leave --dropout {dropout:g} out"
    raise CheckpointError("weights", path, why, hint)


def _names(spec: NetworkSpec) -> dict[str, str]:
    """Return the names of a generator's tensors in the repository, and those here."""
    names = list(build_on_meta(spec).state_dict())
    if spec.norm != "none":
        return dict(zip(names, names, strict=True))
    # The repository puts an empty layer in place of the norm; only its last convolution has a bias.
    numbered = build_on_meta(spec.model_copy(update={"norm": "instance"})).state_dict()
    pairs = zip(numbered, names, strict=True)
    return {n: here for n, here in pairs if here.endswith("weight") or here == names[-1]}


def _used(tensors: checkpoint.Tensors, norm: Norm) -> checkpoint.Tensors:
    # Before PyTorch 0.4 instance norms had running statistics, which were never used, and batch
    # norms had no counter, which only a momentum of None reads.
    if norm != "batch":
        return {name: t for name, t in tensors.items() if not name.endswith(STATISTICS)}
    means = [name for name in tensors if name.endswith(STATISTICS[0])]
    counters = {f"{n.removesuffix(STATISTICS[0])}{STATISTICS[2]}": torch.tensor(0) for n in means}
    return counters | tensors


def import_weights(
    path: Path, out: Path, direction: str = "AtoB", dropout: float | None = None
) -> NetworkSpec:
    """Write the weights of a ``.pth`` file as a checkpoint, which every command takes as a model.

    At test U-Nets keep dropout on and use the statistics of the image, as pix2pix does.
    """
    tensors = read_tensors(path, "give a latest_net_G.pth")
    spec = spec_of(tensors, path, dropout)
    color: ColorSpace = "lab" if (spec.inputs, spec.outputs) == (1, 2) else "rgb"
    if not ChannelLayout(color, (spec.inputs, spec.outputs)).is_supported:
        why = f"map {spec.inputs} channels to {spec.outputs}"
        raise CheckpointError("weights", path, why, "images are RGB or gray, or L to ab")
    network, used = build_on_meta(spec), _used(tensors, spec.norm)
    # Biases that the repository does not have are zero.
    state = {name: torch.zeros(tensor.shape) for name, tensor in network.state_dict().items()}
    state |= {here: used[there] for there, here in _names(spec).items()}
    checkpoint.load_into_network(network, state, path)
    loss = "cyclegan" if spec.name.startswith("resnet") and spec.norm == "instance" else "pix2pix"
    settings = {name: getattr(spec, name) for name in ("width", "norm", "dropout")}
    settings |= {"corpora": [path.stem], "loss": loss, "direction": direction, "net": spec.name}
    if loss == "cyclegan" and spec.inputs != spec.outputs:
        settings["identity_weight"] = 0
    about = checkpoint.Description(
        complete=False,
        generator="generator",
        color=color,
        networks={"generator": spec},
        size=SIZE,
        versions=versions(*LIBRARIES),
        config=config_of(settings).model_dump(mode="json"),
        progress=checkpoint.TrainingProgress(),
    )
    named = {f"network/generator/{name}": t for name, t in network.state_dict().items()}
    checkpoint.write_checkpoint(out, named, about)
    return spec


def export_pth(model: LoadedModel, out: Path) -> None:
    """Write a generator as ``latest_net_G.pth``; UsageError if the repository has no such
    network.
    """
    spec = model.spec
    if spec.name not in GENERATORS.values() or spec.bottleneck_norm or spec.residual:
        hint = f"it has {', '.join(GENERATORS.values())}"
        raise UsageError("network", spec.name, f"has no counterpart in {REPOSITORY}", hint)
    own, names = model.generator.state_dict(), _names(spec)
    if any(bool(own[name].any()) for name in own.keys() - names.values()):
        why, hint = "has biases, unlike that of the repository", "train with another --norm"
        raise UsageError("network", f"{spec.name} with --norm none", why, hint)
    state = OrderedDict((there, own[here].cpu().clone()) for there, here in names.items())
    content = BytesIO()
    torch.save(state, content)
    write_atomically(out, content.getvalue())
