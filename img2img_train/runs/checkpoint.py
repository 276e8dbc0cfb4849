"""One checkpoint, one file: tensors, a description of the model, a digest.

It is a safetensors file (https://github.com/huggingface/safetensors) whose header holds the description as
JSON and the SHA-256 of all tensors. Reading it runs no code, and rejects whatever is damaged in one line.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from img2img_data.core.errors import CheckpointError, Img2ImgError, printable
from img2img_data.core.files import write_atomically
from img2img_train.config import RunConfig, config_of
from img2img_train.networks.specs import NetworkSpec

PART: Final = 1 << 20
LARGEST_HEADER: Final = 16 << 20
FORMAT: Final = 2
DESCRIPTION: Final = "img2img"
DIGEST: Final = "sha256"
ANOTHER: Final = "use another one"
KINDS: Final = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types by the names of safetensors, in the order in which it writes them: no tensor lies unaligned."""

Tensors: TypeAlias = dict[str, Tensor]


class TrainingProgress(BaseModel):
    """Where a run is.

    ``logged_step`` is the last step whose end of epoch is written, ``loss_sums`` are the losses since then and
    ``loss_counts`` the steps that had them, ``stale_validations`` the validations since the best one,
    ``log_bytes`` is the length of the log at that time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(default=0, ge=0)
    images: int = Field(default=0, ge=0)
    logged_step: int = Field(default=0, ge=0)
    loss_sums: dict[str, float] = {}
    loss_counts: dict[str, int] = {}
    best_psnr: float | None = None
    best_step: int | None = None
    stale_validations: int = Field(default=0, ge=0)
    log_bytes: int = Field(default=0, ge=0)


class Description(BaseModel):
    """What a checkpoint says of itself: enough to rebuild and use it. ``size`` is height and width in
    training; ``generator`` is the network from input to target, ``reverse_generator``, if there is one, that from target
    to input.

    ``complete`` means that training can go on from it; without it there are networks alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    complete: bool
    generator: str
    reverse_generator: str | None = None
    networks: dict[str, NetworkSpec] = Field(min_length=1, max_length=16)
    color: Literal["rgb", "lab"] = "rgb"
    value_range: tuple[Literal[-1], Literal[1]] = (-1, 1)
    size: tuple[int, int]
    versions: dict[str, str]
    config: dict[str, Any]
    progress: TrainingProgress


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as read; tensors on the CPU: ``network/NAME/KEY``, ``ema/NAME/KEY`` of averaged
    networks, ``optimizer/PHASE/NUMBER/SLOT``, ``pool/IMAGE``, ``rng/DEVICE``.
    """

    path: Path
    description: Description
    tensors: Tensors

    def tensors_under(self, prefix: str) -> Tensors:
        """Return the tensors under a prefix, without it."""
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def config(self) -> RunConfig:
        """Return the configuration of its run; CheckpointError where this program does not know it."""
        try:
            return config_of(self.description.config, f"checkpoint '{printable(str(self.path))}'")
        except Img2ImgError as error:
            raise CheckpointError(str(error)) from None


# ----------------------------------------------------------------------------------------- writing
def write_checkpoint(path: Path, tensors: Tensors, about: Description) -> None:
    """Write a checkpoint, whole or not at all, equal contents as equal bytes; CheckpointError for NaN.

    One tensor at a time: safetensors would hold the file in memory twice, beside the tensors.
    """
    _check_finite(path, tensors, "not written: ", "lower --lr")
    order = sorted(tensors, key=lambda name: (list(KINDS).index(tensors[name].dtype), name))
    header, place, whole = dict[str, Any](), 0, sha256()
    for name in order:
        tensor, data = tensors[name], _bytes_of(tensors[name])
        offsets = [place, place := place + len(data)]
        header[name] = {
            "dtype": KINDS[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        whole.update(data)
    description = json.dumps(about.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    header["__metadata__"] = {DESCRIPTION: description, DIGEST: whole.hexdigest()}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    payload = (_bytes_of(tensors[name]) for name in order)
    head = [struct.pack("<Q", len(text)), text]
    write_atomically(path, itertools.chain(head, payload), sync=True)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def first_nonfinite(tensors: Tensors) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity, None where all are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _check_finite(path: Path, tensors: Tensors, before: str, hint: str) -> None:
    name = first_nonfinite(tensors)
    if name is not None:
        raise CheckpointError("checkpoint", path, f"{before}{printable(name)} is not finite", hint)


# ----------------------------------------------------------------------------------------- reading
def read_checkpoint(path: Path, prefix: str | tuple[str, ...] = "") -> Checkpoint:
    """Return a checkpoint, of its tensors those under ``prefix``; CheckpointError whatever is wrong."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content, about = _read_whole(path, prefix)
        tensors = load(content)
    except OSError as error:
        raise CheckpointError(
            "checkpoint", path, error.strerror or "cannot be read", "check the path"
        ) from None
    except (SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        why = printable(str(error).partition("\n")[0])[:200]
        raise CheckpointError("checkpoint", path, f"is damaged ({why})", ANOTHER) from None
    _check_finite(path, tensors, "", "use an earlier one")
    return Checkpoint(path, about, tensors)


def read_description(path: Path) -> Description:
    """Return what a whole checkpoint says of itself; errors as ``read_checkpoint``."""
    try:
        return _read_whole(path, None)[1]
    except OSError as error:
        raise CheckpointError(
            "checkpoint", path, error.strerror or "cannot be read", "check the path"
        ) from None


def _read_whole(path: Path, prefix: str | tuple[str, ...] | None) -> tuple[bytes, Description]:
    """Return a safetensors file of the tensors under ``prefix`` (None: of none) from one that is whole."""
    if path.exists() and not path.is_file():
        raise CheckpointError(
            "checkpoint", path, "is not a file", "give a checkpoint or the folder of a run"
        )
    with path.open("rb") as file:
        header = _read_header(path, file)
        said = header.pop("__metadata__", None)
        if not isinstance(said, dict) or not {DESCRIPTION, DIGEST} <= said.keys():
            names = ", ".join(sorted(map(printable, header))[:3]) or "no tensors"
            why = f"was not written by img2img-train: it has no description (and holds {names})"
            raise CheckpointError("checkpoint", path, why, "give a checkpoint of a run")
        start, whole = file.tell(), sha256()
        while part := file.read(PART):
            whole.update(part)
        if whole.hexdigest() != said[DIGEST]:
            raise CheckpointError(
                "checkpoint", path, "is damaged: its SHA-256 does not agree", ANOTHER
            )
        content = b"" if prefix is None else _chosen(path, file, header, start, prefix)
    try:
        return content, Description.model_validate_json(said[DESCRIPTION])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"] == ("format",) and first["input"] == FORMAT - 1:
            why = "was written by an older version of img2img-train"
            raise CheckpointError(
                "checkpoint", path, why, "train it again with this version"
            ) from None
        where = printable(".".join(map(str, first["loc"])) or "description")
        why = f"describes a model not known here ({where}: {printable(str(first['msg']))})"
        raise CheckpointError("checkpoint", path, why, "update, or use another one") from None


def _chosen(
    path: Path, file: IO[bytes], header: dict[str, Any], start: int, prefix: str | tuple[str, ...]
) -> bytes:
    """Return a safetensors file of some tensors of a file: a generator alone is a third of a complete one."""
    kept, parts, place, end = {}, [], 0, file.seek(0, os.SEEK_END) - start
    for name, about in header.items():
        places = about.get("data_offsets") if isinstance(about, dict) else None
        match places:
            case [int(first), int(last)] if 0 <= first <= last <= end:
                if not name.startswith(prefix):
                    continue
                file.seek(start + first)
                parts.append(file.read(last - first))
                kept[name] = {**about, "data_offsets": [place, place + last - first]}
                place += last - first
            case _:
                raise CheckpointError(
                    "checkpoint", path, f"is damaged ({printable(name)})", ANOTHER
                )
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *parts])


def _read_header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    start, size = file.read(8), path.stat().st_size
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(LARGEST_HEADER, size - 8):
        why = (
            "is no safetensors file (pickles such as .pt and .pth are never loaded)"
            if size
            else "is empty"
        )
        raise CheckpointError("checkpoint", path, why, "give a checkpoint of a run")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError("checkpoint", path, "is damaged: its header is not JSON", ANOTHER)
    return header


# ------------------------------------------------------------------------------------------ filling
def load_into_network(network: nn.Module, tensors: Tensors, path: Path) -> None:
    """Copy tensors into a network, which may have no memory yet; CheckpointError names the first tensor
    that is missing, unexpected or of another shape.
    """
    wanted = network.state_dict()
    for name in [*wanted, *tensors]:
        shapes = [tuple(t[name].shape) if name in t else None for t in (tensors, wanted)]
        if shapes[0] != shapes[1]:
            found, needed = (f"is {s}" if s is not None else "is missing" for s in shapes)
            why = f"does not fit its network: {printable(name)} {found}, in the network it {needed}"
            raise CheckpointError("checkpoint", path, why, ANOTHER)
    if any(tensor.is_meta for tensor in wanted.values()):
        network.to_empty(device="cpu")
    network.load_state_dict(tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the state of an optimizer, named ``NUMBER/SLOT`` by the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}/{slot}": value
        for number, slots in state.items()
        for slot, value in slots.items()
    }


def load_into_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, path: Path) -> None:
    """Give an optimizer its state back, each tensor laid out in memory as its parameter: fused updates rely
    on it.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, slot = name.partition("/")
        if not number.isdigit() or int(number) >= len(parameters):
            raise CheckpointError(
                "checkpoint", path, f"does not fit its optimizer: {printable(name)}", ANOTHER
            )
        like = parameters[int(number)]
        if tensor.shape == like.shape and tensor.ndim:
            tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
        state.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
