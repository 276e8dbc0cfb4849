"""Tensors in files that others wrote: read without running anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from img2img_data.errors import CheckpointError, Img2ImgError, printable

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_FILE: Final = 4 << 30


def read_tensors(path: Path, way_out: str) -> dict[str, Tensor]:
    """Return the tensors of a ``.pth`` file; no code in it is run. CheckpointError whatever is wrong.

    ``way_out`` says what to give instead where it holds no tensors. The prefix ``module.`` of parallel
    training goes.
    """
    import torch

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CheckpointError("weights", path, "are larger than 4 GiB", "use another file")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError("weights", path, error.strerror or "cannot be read", "check the path") from None
    except Img2ImgError:
        raise
    except Exception as error:
        why = printable(str(error).partition("\n")[0])[:160]
        raise CheckpointError(
            "weights", path, f"cannot be loaded safely ({why})", "use another file"
        ) from None
    if not isinstance(found, dict) or not found:
        raise CheckpointError("weights", path, "hold no tensors by name", way_out)
    named = {str(name).removeprefix("module."): tensor for name, tensor in found.items()}
    for name, tensor in named.items():
        if not isinstance(tensor, torch.Tensor) or not bool(torch.isfinite(tensor.double()).all()):
            raise CheckpointError(
                "weights", path, f"hold no finite tensor {printable(name)}", "use another file"
            )
    return named
