"""Compiled networks for the steps of a run, where a compiler works.

A compiled network is a wrapper with the parameters and buffers of the network inside it.
Checkpoints, moving averages, validation and samples use the network itself, so a run can be resumed
compiled or not.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from img2img_train.networks.layers import BatchNorm

BACKEND: Final = "inductor"
CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
# Networks of one class share torch's limit of recompilations, each with gradients for weights, for
# images, for both or none, and with micro-batches of two sizes; the default of 8 leaves some of
# them uncompiled.
RECOMPILE_LIMIT: Final = 64


def compile_networks(
    nets: Mapping[str, nn.Module], skip: Container[str], device: torch.device, graphs: bool = False
) -> dict[str, nn.Module]:
    """Return the networks, compiled except ``skip``; raises if the compiler does not work.

    Compilation itself happens in the first steps. A network that cannot be compiled then runs as it
    is, and torch warns about it. With ``graphs`` a CUDA device runs each as a CUDA graph, which
    reuses the memory of what networks and their gradients return, from step to step.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    use_private_cache()
    # The products of float32 matrices stay float32 on purpose: on-the-fly degradations are such
    # products.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    # A tiny graph shows whether there is a compiler at all, before any state of the run has
    # changed.
    config.suppress_errors = False
    torch.compile(lambda x: 2 * x + 1, backend=BACKEND)(torch.ones(2, device=device))
    config.suppress_errors = True
    for module in (m for net in nets.values() for m in net.modules()):
        if isinstance(module, BatchNorm) and module.world_size > 1:
            # No compiler traces an all-reduce inside an autograd function of our own.
            module.forward_synced = torch.compiler.disable(module.forward_synced)  # type: ignore[method-assign,no-untyped-call]
    options: dict[str, Any] = {"backend": BACKEND, "mode": "reduce-overhead" if graphs else None}
    return {
        name: net if name in skip else torch.compile(net, dynamic=False, **options)  # type: ignore[misc]
        for name, net in nets.items()
    }


def use_private_cache() -> None:
    """Keep compiled code in the user's cache folder, unless the environment names another.

    Runs find there what earlier ones compiled. Where no private folder can be made, it is one of
    this process, removed at its end.
    """
    # Torch's default folder has a predictable name in /tmp, and code in it is loaded without any
    # check.
    if os.environ.get(CACHE):
        return
    folder = user_cache() / "img2img" / "compiled"
    with contextlib.suppress(OSError, RuntimeError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.lstat()
        mine = not hasattr(os, "getuid") or about.st_uid == os.getuid()
        if stat.S_ISDIR(about.st_mode) and mine and not about.st_mode & 0o022:
            os.environ[CACHE] = os.fspath(folder)
            return
    os.environ[CACHE] = tempfile.mkdtemp(prefix="img2img-compiled-")
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)


def user_cache() -> Path:
    """Return the folder for caches of this user; RuntimeError if the user has no home."""
    named = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
