"""Tensors in files that others wrote: read without running anything in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Final

from img2img_data.core.errors import CheckpointError, Img2ImgError, printable

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_FILE: Final = 4 << 30
MAX_CHANNELS: Final = 4096
"""Channels that a layer of a supplied network may have: the files come from elsewhere."""
ZIP: Final = b"PK\x03\x04"
OLD: Final = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""How files of torch.save begin; those of before 1.6 have this number near their start."""


def read_tensors(path: Path, hint: str) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file; no code in it is run. CheckpointError whatever is wrong.

    ``hint`` says what to give instead where it holds no tensors. The prefix ``module.`` of parallel
    training goes.
    """
    import torch

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError("weights", path, "are larger than 4 GiB", "use another file")
        if not _is_of_torch(path):
            raise CheckpointError("weights", path, "are no file of torch.save", hint)
        with warnings.catch_warnings(action="ignore"):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(
            "weights", path, error.strerror or "cannot be read", "check the path"
        ) from None
    except Img2ImgError:
        raise
    except (
        Exception
    ) as error:  # whatever is made of bytes that others wrote; its text invites to run them
        raise CheckpointError("weights", path, *_rejection(error, hint)) from None
    if not isinstance(found, dict) or not found:
        raise CheckpointError("weights", path, "hold no tensors by name", hint)
    named = {str(name).removeprefix("module."): tensor for name, tensor in found.items()}
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor) or not bool(torch.isfinite(tensor.double()).all()):
            raise CheckpointError(
                "weights", path, f"hold no finite tensor {printable(name)}", "use another file"
            )
    return named


def _is_of_torch(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(32)
    return head.startswith(ZIP) or OLD in head


def _rejection(error: Exception, hint: str) -> tuple[str, str]:
    """Return why a file was not loaded, and the way out."""
    if isinstance(error, UnpicklingError) or "TorchScript" in str(error):
        return (
            "hold more than tensors, and nothing else is loaded",
            "save the model's state_dict() there",
        )
    return "are no file of torch.save, or a damaged one", hint
