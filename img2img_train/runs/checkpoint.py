"""Checkpoints: one safetensors file with all tensors, a description of the model and a SHA-256.

The header of the file (https://github.com/huggingface/safetensors) holds the description as JSON
and the SHA-256 of the whole file, in which the digest itself counts as zeros. Reading a checkpoint
runs no code.
"""

from __future__ import annotations

import itertools
import json
import struct
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from img2img_data.core.errors import CheckpointError, Img2ImgError, printable
from img2img_data.core.files import write_atomically
from img2img_data.core.frozen_model import FrozenModel
from img2img_data.core.settings_model import Place
from img2img_train.config import Positive, RunConfig, config_of
from img2img_train.networks.specs import GeneratorName, NetworkSpec

FORMAT: Final = 3
MAX_HEADER_BYTES: Final = 16 << 20
DESCRIPTION: Final = "img2img"
DIGEST: Final = "digest"
OLD_DIGEST: Final = "sha256"
"""The digest of formats before 3, which covered the tensors alone; they are rejected by format."""
NO_DIGEST: Final = "0" * 64
# The types of a run's state, in the order in which safetensors writes them: widest first, so that
# every tensor is aligned.
DTYPES: Final = {torch.int64: "I64", torch.float32: "F32", torch.uint8: "U8"}

Tensors: TypeAlias = dict[str, Tensor]
# Bounds keep hostile numbers from overflowing; no real run comes near them.
LongCount: TypeAlias = Annotated[int, Field(ge=0, le=10**15)]


class TrainingProgress(FrozenModel):
    """The position of a run, and what its next log row needs.

    ``logged_step`` is the last step whose epoch is in the log, ``loss_sums`` are the losses since
    then and ``loss_counts`` the steps that had them, ``stale_validations`` the validations since
    the best one, ``log_bytes`` is the length of the log.
    """

    step: LongCount = 0
    images: LongCount = 0
    logged_step: LongCount = 0
    loss_sums: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default={})
    loss_counts: dict[str, Positive] = Field(default={})
    best_psnr: float | None = Field(default=None, ge=-1000, le=1000)
    best_step: LongCount | None = None
    stale_validations: LongCount = 0
    log_bytes: LongCount = 0

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        last = max(self.logged_step, self.best_step or 0)
        if last > self.step or self.loss_sums.keys() != self.loss_counts.keys():
            raise ValueError("steps or losses contradict each other")
        return self


class Description(FrozenModel):
    """The description in a checkpoint: enough to rebuild the model and use it.

    ``complete`` checkpoints can be resumed; others hold networks only. ``generator`` names the
    network from input to target, ``reverse_generator`` that from target to input, if there is one.
    ``size`` is height and width in training. ``keeps_gray``: gray inputs had gray targets there.
    """

    format: Literal[3] = FORMAT
    complete: bool
    generator: str
    reverse_generator: str | None = None
    networks: dict[str, NetworkSpec] = Field(min_length=1, max_length=16)
    color: Literal["rgb", "lab"] = "rgb"
    value_range: tuple[Literal[-1], Literal[1]] = (-1, 1)
    size: tuple[Positive, Positive]
    keeps_gray: bool = False
    versions: dict[str, str]
    config: dict[str, Any]
    progress: TrainingProgress

    @model_validator(mode="after")
    def _check_generators(self) -> Self:
        generators = {n for n, s in self.networks.items() if s.name in get_args(GeneratorName)}
        if not {self.generator, self.reverse_generator or self.generator} <= generators:
            raise ValueError("a generator is not among the networks")
        return self


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint, its tensors on the CPU.

    They are named ``network/NAME/KEY``, ``ema/NAME/KEY`` (averaged networks),
    ``optimizer/PHASE/NUMBER/SLOT``, ``pool/IMAGE``, ``rng/DEVICE``.
    """

    path: Path
    description: Description
    tensors: Tensors
    digest: str = ""
    """SHA-256 of the whole file, as in its header."""

    def tensors_under(self, prefix: str) -> Tensors:
        """Return the tensors under a prefix, named without it."""
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def weights_of(self, name: str) -> Tensors:
        """Return the weights of a network, averaged if possible; {} if there are none."""
        return self.tensors_under(f"ema/{name}/") or self.tensors_under(f"network/{name}/")

    def config(self) -> RunConfig:
        """Return the configuration of the run; CheckpointError if this version does not know it."""
        place = Place(f"checkpoint '{printable(self.path)}'")
        try:
            return config_of(self.description.config, place)
        except Img2ImgError as error:
            raise CheckpointError(str(error)) from None


def _error(path: Path, why: str, hint: str = "use another one") -> CheckpointError:
    return CheckpointError("checkpoint", path, why, hint)


# ----------------------------------------------------------------------------------------- writing
def write_checkpoint(path: Path, tensors: Tensors, description: Description) -> None:
    """Write a checkpoint atomically; equal contents give equal bytes.

    Raises CheckpointError if a tensor is not finite, OSError if writing fails.
    """
    # safetensors.torch.save would hold the whole file in memory, next to the tensors: each tensor
    # is converted twice instead, for the digest in the header and for the file. From a device all
    # are copied once.
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    name = first_nonfinite(tensors)
    if name is not None:
        raise _error(path, f"not written: {printable(name)} is not finite", "lower --lr")
    names = sorted(tensors, key=lambda n: (list(DTYPES).index(tensors[n].dtype), n))
    header, start = dict[str, Any](), 0
    for name in names:
        tensor = tensors[name]
        span = [start, start := start + tensor.nbytes]
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": span}
    about = json.dumps(description.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    header["__metadata__"] = {DESCRIPTION: about, DIGEST: NO_DIGEST}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # safetensors aligns the tensors to 8 bytes
    start_of_file = struct.pack("<Q", len(text)) + text
    digest = sha256(start_of_file)
    for name in names:
        digest.update(_bytes_of(tensors[name]))
    start_of_file = _replace_digest(start_of_file, NO_DIGEST, digest.hexdigest())
    parts = (_bytes_of(tensors[name]) for name in names)
    write_atomically(path, itertools.chain([start_of_file], parts), sync=True)


def _replace_digest(start_of_file: bytes, old: str, new: str) -> bytes:
    # In the JSON inside the JSON quotes are escaped, so only the digest itself looks like this.
    before, after = (f'"{DIGEST}":"{value}"'.encode() for value in (old, new))
    return start_of_file.replace(before, after, 1)


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def first_nonfinite(tensors: Tensors) -> str | None:
    """Return the name of the first tensor with a NaN or an infinity, None if all are finite."""
    floats = ((name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point())
    return next((name for name, tensor in floats if not torch.isfinite(tensor).all()), None)


# ----------------------------------------------------------------------------------------- reading
def read_checkpoint(path: Path, prefix: str | tuple[str, ...] = "") -> Checkpoint:
    """Return a checkpoint with the tensors under ``prefix``, on the CPU.

    Raises CheckpointError if it is damaged. The error has a cause, for ``load_newest``, if the file
    is intact as far as is known: it cannot be read now, or was written by another version.
    """
    if path.exists() and not path.is_file():
        raise _error(path, "is not a file", "give a checkpoint or the folder of a run")
    try:
        with path.open("rb") as file:
            # The length of the header is checked before a library reads a hostile one.
            start, size = file.read(8), path.stat().st_size
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                why = "is not a safetensors file (pickles such as .pt and .pth are never loaded)"
                raise _error(path, why if size else "is empty", "give a checkpoint of a run")
            with safe_open(path, "pt") as content:
                metadata, names = content.metadata() or {}, content.keys()
                if metadata.keys() == {DESCRIPTION, OLD_DIGEST}:
                    _parse_description(path, metadata[DESCRIPTION])
                if not {DESCRIPTION, DIGEST} <= metadata.keys():
                    listed = ", ".join(sorted(map(printable, names))[:3]) or "no tensors"
                    why = "was not written by img2img-train: it has no description"
                    raise _error(path, f"{why} (and holds {listed})", "give a checkpoint of a run")
                file.seek(0)
                first = _replace_digest(file.read(8 + length), metadata[DIGEST], NO_DIGEST)
                # Before anything is used, and all of it, whatever the prefix.
                digest = file_digest(file, lambda: sha256(first))
                if digest.hexdigest() != metadata[DIGEST]:
                    raise _error(path, "is damaged: its SHA-256 does not match")
                # Copies, one tensor at a time: the library maps the file into memory, and a file
                # that is overwritten later would change the tensors.
                chosen = [name for name in names if name.startswith(prefix)]
                tensors = {name: content.get_tensor(name).clone() for name in chosen}
    except OSError as error:
        raise _error(path, error.strerror or "cannot be read", "check the path") from error
    except (SafetensorError, ValueError, RuntimeError, MemoryError) as error:
        why = printable(str(error).partition("\n")[0])[:200]
        if isinstance(error, MemoryError) or "allocate memory" in why:
            raise _error(path, f"does not fit into memory ({why})", "free some memory") from error
        raise _error(path, f"is damaged ({why})") from None
    name = first_nonfinite(tensors)
    if name is not None:
        raise _error(path, f"{printable(name)} is not finite", "use an earlier one")
    description = _parse_description(path, metadata[DESCRIPTION])
    return Checkpoint(path, description, tensors, metadata[DIGEST])


def read_description(path: Path) -> Description:
    """Return the description in an intact checkpoint; errors as ``read_checkpoint``."""
    return read_checkpoint(path, ()).description


def _parse_description(path: Path, text: object) -> Description:
    try:
        return Description.model_validate_json(text)  # type: ignore[arg-type]
    except ValidationError as error:
        invalid, first = error, error.errors(include_url=False)[0]
    if first["loc"] == ("format",) and first["input"] in range(FORMAT):
        why = "was written by an older version of img2img-train"
        raise _error(path, why, "train it again with this version") from invalid
    where = printable(".".join(map(str, first["loc"])) or "description")
    why = f"describes an unknown model ({where}: {printable(str(first['msg']))})"
    raise _error(path, why, "update img2img, or use another one") from invalid


# ----------------------------------------------------------------------------------------- loading
def load_into_network(network: nn.Module, tensors: Tensors, path: Path) -> None:
    """Copy tensors into a network, which may be on the meta device.

    Raises CheckpointError, naming the tensor, if one is missing, unexpected or of another shape.
    """
    state = network.state_dict()
    for name in [*state, *tensors]:
        found, needed = (tuple(t[name].shape) if name in t else "missing" for t in (tensors, state))
        if found != needed:
            why = f"{printable(name)} is {found}, in the network it is {needed}"
            raise _error(path, f"does not fit its network: {why}")
    # Not ``to_empty``, which from the meta device imports sympy: half a second.
    if meta := any(tensor.is_meta for tensor in state.values()):
        tensors = {n: x.detach().to(state[n].dtype, copy=True) for n, x in tensors.items()}
    network.load_state_dict(tensors, assign=meta)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the state of an optimizer, named ``NUMBER/SLOT`` by the number of the parameter."""
    state = optimizer.state_dict()["state"].items()
    return {f"{number}/{slot}": x for number, slots in state for slot, x in slots.items()}


def load_into_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, path: Path) -> None:
    """Restore the state of an optimizer; CheckpointError if it has no such parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, slot = name.partition("/")
        if not number.isdigit() or int(number) >= len(parameters):
            raise _error(path, f"does not fit its optimizer: {printable(name)}")
        parameter = parameters[int(number)]
        if tensor.shape == parameter.shape and tensor.ndim:
            # Fused updates need the memory layout of the parameter, which may be channels last.
            tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
        state.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
