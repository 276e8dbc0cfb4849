"""What stands before the first step: settings decided, torch set up, corpora opened."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.utils.deterministic

from img2img_data.core.errors import CorpusError, UsageError
from img2img_train.config import RunConfig
from img2img_train.data import dataset
from img2img_train.data.dataset import ImageSet, ImageStore
from img2img_train.data.device_cache import check_device_cache
from img2img_train.data.loader import SamplingPlan, evenly_spaced
from img2img_train.data.on_the_fly import OnTheFly
from img2img_train.distributed.processes import torchrun_env
from img2img_train.objectives.base import Objective
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import choose_device

LONGEST: Final = 120


# ----------------------------------------------------------------------------------------- settings
def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with every "auto" decided: by the run if it has begun, else by the machine."""
    folder = RunFolder(Path(config.out))
    before = RunConfig.load(folder.config) if folder.config.is_file() else None
    device, threads, precision = config.device, config.threads, config.precision
    if before is not None:
        device = before.device if device == "auto" else device
        threads = threads or before.threads
    found = choose_device(device).type
    if precision == "auto":
        # Chips before Ampere emulate it, slowly.
        quick = found == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if quick else "fp32"
    return config.model_copy(
        update={"device": found, "threads": threads or _cores(), "precision": precision}
    )


def _cores() -> int:
    """Return the cores for this process: those of the machine, shared with the others of its run."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, cores // torchrun_env().local_world_size)


def repeats(config: RunConfig, device: torch.device) -> bool:
    """Return whether a run gives the same bits again: ``--deterministic``, decided."""
    return device.type == "cpu" if config.deterministic == "auto" else config.deterministic == "on"


def compiles(config: RunConfig, device: torch.device) -> bool:
    """Return whether a run compiles its networks: ``--compile``, decided."""
    if config.compile == "auto":
        return device.type == "cuda" and not repeats(config, device)
    return config.compile == "on"


@contextlib.contextmanager
def computing(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Set torch up for a run, and back afterwards: threads, generator, algorithms that repeat themselves."""
    again, cuda = repeats(config, device), device.type == "cuda"
    if again and cuda:
        # cuBLAS reads it when it starts: https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with (
        torch.random.fork_rng([torch.cuda.current_device()] if cuda else []),
        convolving(cuda and not again),
    ):
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(again)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


@contextlib.contextmanager
def convolving(fast: bool) -> Iterator[None]:
    """Let cuDNN try out which algorithm is the quickest, and use TF32 for float32, where ``fast``; else
    neither.

    Products of matrices stay in full float32, torch's default: online degradations are such. The older one
    of torch's two switches, for its compiler still reads that, and mixing both is an error
    (https://github.com/pytorch/pytorch/issues/166387).
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = fast, fast
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before


# --------------------------------------------------------------------------------------------- data
@dataclass(frozen=True, slots=True)
class Data:
    """The images of a run and the order in which they come; it is scored on ``held_out``, where that is."""

    train: ImageSet
    held_out: ImageSet | None
    plan: SamplingPlan
    steps: int

    @classmethod
    def open(cls, config: RunConfig, objective: Objective) -> Data:
        """Open a run's corpora; errors name the corpus or image, and the way out."""
        train = dataset.open_images(config, config.split)
        if train is None:
            why = f"is in none of the corpora (there: {', '.join(dataset.list_splits(config)) or 'no pairs'})"
            raise UsageError("split", config.split, why, "choose one by --split")
        held_out = dataset.open_images(config, config.validation_split)
        if held_out is not None and held_out.size != train.size:
            where, why = config.corpora[0].path, "its splits differ in the size of their images"
            raise CorpusError("corpus", where, why, "build it with --size")
        check_device_cache(config.cache, train, config.workers)
        _check_patience(config, held_out, objective)
        weights = tuple(c.weight for c in config.corpora)
        plan = SamplingPlan(
            train.counts,
            weights,
            config.batch,
            config.seed,
            train.other_counts,
            config.jitter,
            config.crop,
        )
        dataset.indices_of_keys(held_out or train, config.grid_keys)
        for spec in objective.networks(train.channel_layout.channels).values():
            spec.check_size(*train.size, max(1, plan.step_images // config.accumulate))
        steps = config.epochs * plan.steps_per_epoch
        if config.warmup > steps:
            why = f"{config.warmup:,} steps, and the run has {steps:,}: the rate would never get there"
            raise UsageError("option", "--warmup", why, "give fewer")
        return cls(
            train, held_out, plan, min(steps, config.max_steps) if config.max_steps else steps
        )

    def page(self) -> dict[str, Any]:
        """Return what config.json keeps of the data, so that a run is not continued on others."""
        sets = {"train": self.train, "held_out": self.held_out}
        held = {n: {**_counts(s), "fingerprint": s.fingerprint()} for n, s in sets.items() if s}
        return {
            "size": list(self.train.size),
            "steps_per_epoch": self.plan.steps_per_epoch,
            "steps": self.steps,
            "drawn_per_epoch": list(self.plan.drawn()),
            **held,
        }

    def train_sample(self, most: int) -> dataset.CachedImages | None:
        """Return pairs that are trained on, evenly spread: as many as are held out, ``most`` at most."""
        if self.held_out is None:
            return None
        places = evenly_spaced(len(self.train), min(len(self.held_out), most))
        inputs, targets = zip(*(self.train.read(place) for place in places), strict=True)
        if self.train.min_side:
            return dataset.CachedImages(list(inputs), list(targets))
        return dataset.CachedImages(np.stack(inputs), np.stack(targets))

    def is_end_of_epoch(self, step: int) -> bool:
        """Return whether an epoch, or the run, ends with this step (counted from 1)."""
        return step > 0 and (step % self.plan.steps_per_epoch == 0 or step == self.steps)


def _check_patience(config: RunConfig, held_out: ImageSet | None, objective: Objective) -> None:
    """Raise UsageError where patience is asked for that could never end."""
    if not config.patience:
        return
    why = None
    if not objective.paired:
        why = f"needs pairs: no score tells when {config.loss} is at its best"
    elif held_out is None:
        why = f"needs held-out pairs, and there is no split '{config.validation_split}'"
    elif not config.validate_every:
        why = "counts validations, and --validate-every 0 leaves the last one alone"
    if why is not None:
        raise UsageError("option", "--patience", why, "leave it out")


def _counts(held: ImageSet) -> dict[str, list[int]]:
    if held.other_counts is None:
        return {"pairs": list(held.counts)}
    return {"inputs": list(held.counts), "targets": list(held.other_counts)}


@dataclass(slots=True)
class HeldOut:
    """The images that a run is scored on, and the PSNR of doing nothing on them, dB, once known."""

    images: ImageSet
    store: ImageStore
    nothing: float | None = None


def opening(config: RunConfig, data: Data, objective: Objective) -> list[str]:
    """Return what a run is about to do, in lines for reading."""
    height, width = data.train.size
    size = f"cut to {width}x{height}" if data.train.min_side else f"of {width}x{height}"
    size += f", enlarged by {config.jitter:g} and cut again" if config.jitter > 1 else ""
    kind = f", {data.train.channel_layout.label}" if data.train.channel_layout.label else ""
    drawn = " + ".join(
        f"{n:,} of {c.path}" for n, c in zip(data.plan.drawn(), config.corpora, strict=True)
    )
    held_out = (
        _many(data.held_out) if data.held_out else f"no split '{config.validation_split}', so none"
    )
    networks = objective.networks(data.train.channel_layout.channels)
    others = [f"{n.name} of width {n.width}" for name, n in networks.items() if name != "generator"]
    spec, against = (
        networks["generator"],
        f" with {', '.join(sorted(set(others)))}" if others else "",
    )
    filled = f"{spec.padded_side(width)}x{spec.padded_side(height)}"
    filled = f", mirrored up to {filled} and cut back" if filled != f"{width}x{height}" else ""
    network = f"{spec.name} of width {spec.width}{against}, {config.precision} on {config.device}"
    unit = "pair(s)" if objective.paired else "image(s) of each side"
    steps = f"{data.steps:,} steps of {data.plan.step_images} {unit}, {config.epochs} epochs"
    degraded = [_degraded(config.degrade)] if config.degrade else []
    return [
        *degraded,
        f"{_many(data.train)} {size}{kind}{filled}, {held_out} held out; an epoch draws {drawn}",
        f"{config.loss}, {network}; {steps}; into '{config.out}'",
    ]


def _degraded(tree: Any) -> str:
    online = OnTheFly.of(tree, 0)
    where = "on the device" if online and online.is_linear else "where images are read"
    said = json.dumps(tree)
    said = said if len(said) <= LONGEST else f"{said[:LONGEST]}…"
    return f"inputs are the targets, degraded {where} by {said}"


def _many(held: ImageSet) -> str:
    inputs, targets = held.sides
    return (
        f"{inputs:,} pairs"
        if held.other_counts is None
        else f"{inputs:,} inputs and {targets:,} targets"
    )
