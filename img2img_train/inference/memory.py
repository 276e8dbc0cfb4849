"""Memory that a network takes for an image, estimated from a small one."""

from __future__ import annotations

import weakref
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from img2img_train.data import dataset
from img2img_train.runs.model import LoadedModel

SIDE: Final = 128
WORKSPACE: Final = 3.0
PIXEL: Final = 150
"""Memory in use over that of the tensors of a network, and bytes per pixel for the image itself.
Operations have buffers and other layouts of their own. The sum is 1.2 to 1.9 times what was
measured on a CPU, for each kind of network and widths of 1 to 64."""
_KNOWN: Final = weakref.WeakKeyDictionary[nn.Module, float]()


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are created, while they exist."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.seen = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            # Views share a storage, which is counted once.
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is not None and storage._cdata not in self.seen:
                self.seen.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return output

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def bytes_per_pixel(model: LoadedModel) -> float:
    """Return the memory per pixel that a model takes at most, in bytes, apart from its weights."""
    network, side = model.generator, model.spec.padded_side(SIDE)
    if network not in _KNOWN:
        x = torch.zeros(1, model.spec.inputs, side, side, device=model.device)
        with torch.no_grad(), _LiveTensors() as live:
            network(x)
        _KNOWN[network] = PIXEL + WORKSPACE * live.peak / side**2
    return _KNOWN[network]


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device in bytes."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else dataset.free_memory()
