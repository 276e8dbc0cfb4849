"""Networks built from their specs, with or without weights."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn

from img2img_data.core.errors import UsageError
from img2img_train.networks import discriminators, generators
from img2img_train.networks.specs import NETWORKS, NetworkSpec

INIT_STD: Final = 0.02
# 4 GiB in float32. A hostile checkpoint can ask for any width, so the limit is checked before
# allocation.
MAX_PARAMETERS: Final = 1 << 30


def build(spec: NetworkSpec, seed: int | None = None) -> nn.Module:
    """Return the network of a spec on the CPU, initialized by ``seed``, or uninitialized.

    Biases are 0. With ``init`` "normal" of the architecture, weights of convolutions are drawn with
    a standard deviation of 0.02 and a mean of 0, those of norms with a mean of 1 (Radford, Metz,
    Chintala 2016; Isola et al. 2017, 6.2). With "he" the deviation is sqrt(2 / fan-in) (He et al.
    2015, eq. 10), norms are 1, the last layer and learned scales 0. Raises UsageError for more than
    2^30 parameters.
    """
    network = build_on_meta(spec)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    if seed is not None:
        # A generator of its own: the weights depend on the seed alone, and building a network
        # leaves the global random state of a resumed run untouched.
        rng = torch.Generator().manual_seed(seed)
        (_init_he if NETWORKS[spec.name].init == "he" else _init_normal)(network, rng)
    return network


def build_on_meta(spec: NetworkSpec) -> nn.Module:
    """Return the network of a spec on the meta device, without memory; raises as ``build``."""
    row = NETWORKS[spec.name]
    module = generators if hasattr(generators, row.cls) else discriminators
    with torch.device("meta"):
        # Whatever dtype a caller made the default.
        network: nn.Module = getattr(module, row.cls)(spec, **row.options).float()
    size = count_parameters(network)
    if size > MAX_PARAMETERS:
        why = f"of width {spec.width} has {size:,} parameters, more than {MAX_PARAMETERS:,}"
        raise UsageError("network", spec.name, why, "use a smaller width")
    return network


def count_parameters(network: nn.Module) -> int:
    """Return the number of learned parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _init_normal(network: nn.Module, generator: torch.Generator) -> None:
    # The order of named_parameters is part of what a seed means: reordering layers changes every
    # weight.
    for name, parameter in network.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            values.zero_()
        else:
            values.normal_(1.0 if parameter.ndim == 1 else 0.0, INIT_STD, generator=generator)


def _init_he(network: nn.Module, generator: torch.Generator) -> None:
    for name, parameter in network.named_parameters():
        values, inputs = parameter.detach(), parameter[0].numel()
        if parameter.ndim == 1 and name.endswith("weight"):
            values.fill_(1.0)
        elif name == "last.weight" or not name.endswith("weight"):
            values.zero_()
        else:
            values.normal_(0.0, math.sqrt(2 / inputs), generator=generator)
