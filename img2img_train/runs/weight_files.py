"""Weight files from elsewhere (torch.save): read as tensors, without running anything in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Final

import torch
from torch import Tensor

from img2img_data.core.errors import CheckpointError, printable

MAX_FILE_BYTES: Final = 4 << 30
MAX_CHANNELS: Final = 4096
"""Channels of a layer at most."""
ZIP_MAGIC: Final = b"PK\x03\x04"
# torch.serialization.MAGIC_NUMBER, pickled near the start of files of torch before 1.6.
LEGACY_MAGIC: Final = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def read_tensors(path: Path, hint: str) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file by name, without the prefix ``module.`` of
    DataParallel; those of the network in it, if they are wrapped in a dict.

    ``hint`` names the file to give instead. Raises CheckpointError if anything is wrong with the
    file.
    """

    def error(why: str, hint: str = "use another file") -> CheckpointError:
        return CheckpointError("weights", path, why, hint)

    not_torch = "were not written by torch.save"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as failure:
        raise error(failure.strerror or "cannot be read", "check the path") from None
    if size > MAX_FILE_BYTES:
        raise error("are larger than 4 GiB")
    # Checked first: torch.load warns about other files in many lines.
    if not start.startswith(ZIP_MAGIC) and LEGACY_MAGIC not in start:
        raise error(not_torch, hint)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as failure:
        # Damaged files raise exceptions of any type. The text of torch's is not shown, because it
        # suggests weights_only=False, which runs the code in the file.
        if isinstance(failure, UnpicklingError) or "TorchScript" in str(failure):
            why = "hold objects other than tensors, which are not loaded"
            raise error(why, "save the model's state_dict() there") from None
        raise error(f"{not_torch}, or damaged", hint) from None
    if isinstance(content, dict):
        # Trainers wrap the network: {"epoch": 3, "state_dict": {...}, "optimizer": {...}}.
        inner = [value for value in content.values() if isinstance(value, dict)]
        content = content.get("state_dict", inner[0] if len(inner) == 1 else content)
    if not isinstance(content, dict) or not content:
        raise error("hold no tensors by name", hint)
    tensors = {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            why = f"hold no finite tensor {printable(name)}"
            raise error(why, "save the state_dict of one network alone")
    return tensors


def _is_finite(value: object) -> bool:
    """Return True for a dense tensor of finite real numbers."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_complex():
        return False
    try:
        return bool(torch.isfinite(value.double()).all())
    except RuntimeError:  # quantized, nested or on the device "meta", which has no values
        return False
