"""The run folder: configuration, log, samples, lock and checkpoints.

::

    config.json             the configuration, whole and resolved; versions; what the corpora held
    log.jsonl               a row per epoch and per validation
    timing.jsonl            seconds and rates; the one file that differs between equal runs
    samples/epoch-00005.png input | output | target of the same pictures each time
    checkpoints/            latest and previous (complete), best (networks alone)

A checkpoint is one safetensors file whose header holds a description as JSON and the SHA-256 of all tensors: no code is run
to read it (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from img2img_data.corpus import read_rows, to_json_line, to_json_page
from img2img_data.errors import CheckpointError, FolderInUse, Img2ImgError, UsageError, printable
from img2img_data.fields import build_model
from img2img_train.batches import from_bytes, to_bytes
from img2img_train.config import CONFIG_FILE, RunConfig
from img2img_train.networks import NetworkSpec, build

FORMAT: Final = 1
LARGEST_HEADER: Final = 16 << 20
PATIENCE_SECONDS: Final = 2.0
DESCRIPTION: Final = "img2img"
DIGEST: Final = "sha256"

Tensors: TypeAlias = dict[str, Tensor]


class Progress(BaseModel):
    """Where a run is. ``reported`` is the last step whose end of epoch is written; ``sums`` are the losses since then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(0, ge=0)
    pictures: int = Field(0, ge=0)
    reported: int = Field(0, ge=0)
    sums: dict[str, float] = {}
    best_psnr: float | None = None
    best_step: int | None = None
    log_bytes: int = Field(0, ge=0)


class Description(BaseModel):
    """What a checkpoint says of itself. ``size`` is height and width of the pictures it was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    complete: bool
    generator: str
    networks: dict[str, NetworkSpec] = Field(min_length=1, max_length=16)
    colour: Literal["rgb"] = "rgb"
    value_range: tuple[Literal[-1], Literal[1]] = (-1, 1)
    size: tuple[int, int]
    versions: dict[str, str]
    config: dict[str, Any]
    progress: Progress


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.root / CONFIG_FILE

    @property
    def log(self) -> Path:
        """The rows of epochs and validations."""
        return self.root / "log.jsonl"

    @property
    def timing(self) -> Path:
        """Seconds and rates, one row per epoch."""
        return self.root / "timing.jsonl"

    @property
    def samples(self) -> Path:
        """The folder of sample grids."""
        return self.root / "samples"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def latest(self) -> Path:
        """The newest complete checkpoint."""
        return self.checkpoints / "latest.safetensors"

    @property
    def previous(self) -> Path:
        """The one before; gone once a run is finished."""
        return self.checkpoints / "previous.safetensors"

    @property
    def best(self) -> Path:
        """The networks of the best validation."""
        return self.checkpoints / "best.safetensors"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.root / "report.html"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, made if missing, until the end of the process at the latest. FolderInUse where another one does."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("ab")
        except OSError as error:
            raise UsageError(
                "run", self.root, error.strerror or "cannot be written", "give another --out"
            ) from None
        with file:
            if not _locked(file):
                raise FolderInUse(
                    "run", self.root, "is in use by another run", "wait for it, or give another --out"
                )
            yield

    def check_free(self) -> None:
        """Raise UsageError where the folder holds something that is no run."""
        others = [p for p in self.root.iterdir() if p.name != ".lock"] if self.root.is_dir() else []
        if others and not self.config.is_file():
            why = f"holds other files ('{printable(others[0].name)}')"
            raise UsageError("run", self.root, why, "give another --out")

    def append(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Append rows to the log or the timing file, at once."""
        with path.open("ab") as file:
            file.write(b"".join(map(to_json_line, rows)))

    def cut_log(self, size: int) -> None:
        """Cut rows that a checkpoint does not know: they are written again."""
        if self.log.exists() and self.log.stat().st_size > size:
            os.truncate(self.log, size)

    def log_size(self) -> int:
        """Return the bytes of the log, on the disk for sure."""
        if not self.log.exists():
            return 0
        with self.log.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def sweep(self) -> None:
        """Remove what a killed run left half written."""
        for path in self.root.glob("**/.*.tmp"):
            path.unlink(missing_ok=True)


def _locked(file: IO[bytes]) -> bool:
    """Try to lock; the workers of a killed run hold its lock for a moment."""
    if sys.platform == "win32":
        return True
    import fcntl

    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        else:
            return True


def read_log(run: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a run's log, in order; none where it has not begun.

    ``{"kind": "train", "epoch", "step", "pictures", "losses": {name: mean}}`` and
    ``{"kind": "validation", "epoch", "step", "psnr", "psnr_nothing", "best"}``; PSNR in dB, mean over pictures. A half row at the
    end, of a run under way, is left out.
    """
    log = RunFolder(Path(run)).log
    if not log.is_file():
        return []
    whole = log.read_bytes().endswith(b"\n")
    if whole:
        return read_rows(log)
    lines = log.read_bytes().splitlines()[:-1]
    return [json.loads(line) for line in lines]


def sample_paths(run: Path | str) -> list[Path]:
    """Return the sample grids of a run, oldest first."""
    return sorted(RunFolder(Path(run)).samples.glob("epoch-*.png"))


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    import platform
    from importlib.metadata import version

    return {"img2img": version("img2img"), "python": platform.python_version(), "torch": torch.__version__}


def write_file(path: Path, data: list[bytes]) -> None:
    """Write a file beside its place, on the disk for sure, and rename it; the folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        for part in data:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring renames in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON page, whole or not at all."""
    write_file(path, [to_json_page(content)])


# ------------------------------------------------------------------------------------- checkpoints
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint as read: tensors on the CPU, named ``network/NAME/KEY``, ``optimizer/PHASE/KEY/SLOT``, ``rng/DEVICE``."""

    path: Path
    about: Description
    tensors: Tensors

    def part(self, prefix: str) -> Tensors:
        """Return the tensors under a prefix, without it."""
        return {k.removeprefix(prefix): t for k, t in self.tensors.items() if k.startswith(prefix)}

    def config(self) -> RunConfig:
        """Return the configuration of its run."""
        return build_model(RunConfig, self.about.config, f"checkpoint '{self.path}'")


def write_checkpoint(path: Path, tensors: Tensors, about: Description) -> None:
    """Write one file, atomically; equal tensors and descriptions give equal bytes. Raises CheckpointError if not finite."""
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError("checkpoint", path, f"not written: {name} is not finite", "lower --lr")
    file = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    (length,) = struct.unpack("<Q", file[:8])
    header, payload = json.loads(file[8 : 8 + length]), memoryview(file)[8 + length :]
    description = json.dumps(about.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    header["__metadata__"] = {DESCRIPTION: description, DIGEST: sha256(payload).hexdigest()}
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_file(path, [struct.pack("<Q", len(text)), text, payload])


def rotate(folder: RunFolder, tensors: Tensors, about: Description) -> None:
    """Write the latest checkpoint; the one that was stays as previous."""
    fresh = folder.latest.with_name("next.safetensors")
    write_checkpoint(fresh, tensors, about)
    if folder.latest.exists():
        folder.latest.replace(folder.previous)
    fresh.replace(folder.latest)
    sync_folder(folder.checkpoints)


def read_checkpoint(path: Path, prefix: str = "") -> Checkpoint:
    """Return a checkpoint, of its tensors those under ``prefix``. CheckpointError in one line whatever is wrong with it."""
    try:
        about, names = _describe(path)
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names if name.startswith(prefix)}
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            "checkpoint", path, error.strerror or "cannot be read", "check the path"
        ) from None
    except Exception as error:
        why = printable(str(error).partition("\n")[0])[:200]
        raise CheckpointError("checkpoint", path, f"is damaged ({why})", "use another one") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                "checkpoint", path, f"{printable(name)} is not finite", "use an earlier one"
            )
    return Checkpoint(path, about, tensors)


def _describe(path: Path) -> tuple[Description, list[str]]:
    if path.exists() and not path.is_file():
        raise CheckpointError("checkpoint", path, "is not a file", "give a checkpoint or the folder of a run")
    with path.open("rb") as file:
        header = _header(path, file)
        said = header.pop("__metadata__", None)
        if not isinstance(said, dict) or DESCRIPTION not in said or DIGEST not in said:
            names = ", ".join(sorted(printable(str(k)) for k in header)[:3]) or "no tensors"
            why = f"was not written by img2img-train (safetensors with {names}, without a description)"
            raise CheckpointError("checkpoint", path, why, "give a checkpoint of a run")
        digest = sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != said[DIGEST]:
        raise CheckpointError("checkpoint", path, "is damaged: its SHA-256 does not agree", "use another one")
    try:
        return Description.model_validate_json(said[DESCRIPTION]), list(header)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "description"
        why = f"describes a model not known here ({printable(where)}: {printable(str(first['msg']))})"
        raise CheckpointError("checkpoint", path, why, "update, or use another one") from None


def _header(path: Path, file: IO[bytes]) -> dict[str, Any]:
    start, size = file.read(8), path.stat().st_size
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if not 2 <= length <= min(LARGEST_HEADER, size - 8):
        why = (
            "is empty"
            if not size
            else "is no safetensors file (pickles such as .pt and .pth are never loaded)"
        )
        raise CheckpointError("checkpoint", path, why, "give a checkpoint of a run")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise CheckpointError("checkpoint", path, "is damaged: its header is not JSON", "use another one")
    return header


def fill_network(network: nn.Module, tensors: Tensors, path: Path) -> None:
    """Copy tensors into a network; CheckpointError names the first one that is missing, unexpected or of another shape."""
    wanted = network.state_dict()
    for name in [*wanted, *tensors]:
        shapes = [tuple(t[name].shape) if name in t else None for t in (tensors, wanted)]
        if shapes[0] != shapes[1]:
            is_, should = (f"has shape {s}" if s is not None else "is missing" for s in shapes)
            why = f"does not fit its network: {printable(name)} {is_}, in the network it {should}"
            raise CheckpointError("checkpoint", path, why, "use another one")
    network.load_state_dict(tensors)


# ------------------------------------------------------------------------------------------ models
def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA, MPS, CPU, whichever there is. UsageError where it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(n for n, is_there in there.items() if is_there))
    if not there.get(name, False):
        have = ", ".join(n for n, is_there in there.items() if is_there)
        raise UsageError("option", "--device", f"there is no {name} here", f"choose one of {have}")
    return torch.device(name)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained generator in eval mode, and what is known of it."""

    generator: nn.Module
    spec: NetworkSpec
    colour: str
    value_range: tuple[int, int]
    step: int
    config: RunConfig
    device: torch.device
    path: Path

    @torch.no_grad()
    def restore(self, batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the restored pictures, N x H x W x 3 RGB uint8 as the input; sides of any length.

        Pictures are mirrored at the right and the bottom up to the network's multiple, and cut back. Computed in float32.
        """
        height, width = batch.shape[1:3]
        pad = [(0, -side % self.spec.multiple) for side in (height, width)]
        if any(after for _, after in pad):
            batch = np.pad(batch, [(0, 0), *pad, (0, 0)], mode="reflect")
        made = self.generator(from_bytes(torch.from_numpy(np.ascontiguousarray(batch)).to(self.device)))
        return np.ascontiguousarray(to_bytes(made).cpu().numpy()[:, :height, :width])


def find_checkpoint(path: Path | str) -> Path:
    """Return the checkpoint meant by a path: itself, or of a run folder the best one, else the latest."""
    path = Path(path)
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    for candidate in (folder.best, folder.latest, folder.previous):
        if candidate.exists():
            return candidate
    raise CheckpointError(
        "run", path, "has no checkpoint yet", "give the folder of a run that has begun training"
    )


def load_generator(path: Path | str, device: str = "auto") -> LoadedModel:
    """Return the generator of a checkpoint file or a run folder (the best checkpoint, else the latest).

    Raises CheckpointError in one line that names the file; UsageError where the device is not there.
    """
    where, found = choose_device(device), find_checkpoint(path)
    checkpoint = read_checkpoint(found, "network/")
    about = checkpoint.about
    if about.generator not in about.networks:
        raise CheckpointError("checkpoint", found, "describes no generator", "use another one")
    spec = about.networks[about.generator]
    tensors = checkpoint.part(f"network/{about.generator}/")
    network = build(spec)
    fill_network(network, tensors, found)
    network.eval().requires_grad_(False).to(where)
    try:
        config = checkpoint.config()
    except Img2ImgError as error:
        raise CheckpointError(str(error)) from None
    return LoadedModel(
        network, spec, about.colour, about.value_range, about.progress.step, config, where, found
    )
