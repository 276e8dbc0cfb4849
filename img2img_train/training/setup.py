"""Setup of a run before its first step: automatic settings, torch's global state, the data."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import joblib
import torch
import torch.utils.deterministic
from torch import nn

from img2img_data.core.errors import CorpusError, UsageError
from img2img_data.core.memory import keep_freed_memory
from img2img_train.config import RunConfig
from img2img_train.data import dataset
from img2img_train.data.color import is_gray
from img2img_train.data.deconvolution import known_steps
from img2img_train.data.device_cache import check_device_cache
from img2img_train.data.loader import SamplingPlan, evenly_spaced, spread_out
from img2img_train.distributed.torchrun import torchrun_env
from img2img_train.evaluation.baselines import FIT_IMAGES, fit_noise_ratio
from img2img_train.evaluation.score import read_pair
from img2img_train.metrics.lpips import load_lpips
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import choose_device, cudnn_settings

MAX_SPEC_CHARACTERS: Final = 120
FROM_DATA: Final = ("epochs", "crop", "rotate", "validate_every", "samples_every", "noise_ratio")
AUTOMATIC: Final = {**dict.fromkeys(FROM_DATA), "device": "auto", "threads": 0, "precision": "auto"}
"""Values of the settings that follow from the corpora or the machine where they are not given."""
STEPS: Final = 3000
LEAST_EPOCHS: Final = 3
"""Least passes over the images in a run of ``epochs=None``, of ``STEPS`` steps or more."""
SAMPLE_BYTES: Final = 1 << 28
"""Bytes of the sample of training pairs that is kept for validations, at most."""


# ----------------------------------------------------------------------------------------- settings
def resolve_auto(config: RunConfig) -> RunConfig:
    """Return the configuration with every "auto" resolved, by a begun run or the machine."""
    folder = RunFolder(Path(config.out))
    if folder.config.is_file():
        # Results depend on all of these, so a resumed run keeps them.
        begun = RunConfig.load(folder.config)
        names = [name for name, auto in AUTOMATIC.items() if getattr(config, name) == auto]
        update: dict[str, Any] = {name: getattr(begun, name) for name in names}
        # More than was asked for where memory ran out.
        update["accumulate"] = max(config.accumulate, begun.accumulate)
        config = config.model_copy(update=update)
    device, threads, precision = choose_device(config.device).type, config.threads, config.precision
    if precision == "auto":
        precision = "bf16" if multiplies_bf16(device) else "fp32"
    if not threads:
        # This process's share of the cores: those that it may use, by affinity and quota.
        threads = max(1, joblib.cpu_count() // torchrun_env().local_world_size)
    return config.model_copy(update={"device": device, "threads": threads, "precision": precision})


def resolve_length(config: RunConfig, steps_per_epoch: int) -> RunConfig:
    """Return the configuration with epochs, and how often to validate and to draw samples."""
    steps = max(STEPS, config.max_steps)
    epochs = config.epochs or max(LEAST_EPOCHS, math.ceil(steps / steps_per_epoch))
    update = {"epochs": epochs}
    if config.validate_every is None:
        update["validate_every"] = max(1, epochs // 20)
    if config.samples_every is None:
        update["samples_every"] = max(5, epochs // 10)
    return config.model_copy(update=update)


def resolve_noise_ratio(config: RunConfig, train: dataset.ImageSet) -> RunConfig:
    """Return the configuration with the noise ratio of its deconvolution, fitted on training pairs.

    Raises UsageError if their rows name no blur.
    """
    assert isinstance(train, dataset.PairedImages)  # RunConfig has checked it
    pairs = (train.pairs[index] for index in spread_out(len(train), FIT_IMAGES))
    ratio = fit_noise_ratio((*read_pair(*pair), known_steps(*pair)) for pair in pairs)
    if ratio is None:
        hint = "leave --input wiener out, or use a corpus of 'img2img-data blur' or 'degrade'"
        raise UsageError("corpus", config.corpora[0].path, "states no blur in its rows", hint)
    return config.model_copy(update={"noise_ratio": ratio})


def multiplies_bf16(device: str) -> bool:
    """Return True if a device multiplies bfloat16 natively: others emulate it, slower than float32.

    These are CUDA devices from Ampere on, and CPUs with AVX512-BF16 or AMX.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def is_deterministic(config: RunConfig, device: torch.device) -> bool:
    """Return True if equal runs give equal bits: ``--deterministic``, auto resolved."""
    return device.type == "cpu" if config.deterministic == "auto" else config.deterministic == "on"


def should_compile(config: RunConfig, device: torch.device) -> bool:
    """Return True if networks are to be compiled: ``--compile``, auto resolved."""
    if config.compile == "auto":
        return device.type == "cuda" and not is_deterministic(config, device)
    return config.compile != "off"


@contextlib.contextmanager
def torch_backend(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Set torch's threads, random state and algorithms for a run, and restore them afterwards."""
    keep_freed_memory()
    deterministic, cuda = is_deterministic(config, device), device.type == "cuda"
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    dtype = torch.get_default_dtype()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with (
        # A caller may have turned gradients off, as notebooks do for inference.
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.random.fork_rng([torch.cuda.current_device()] if cuda else []),
        cudnn_settings(fast=cuda and not deterministic, tf32=config.precision == "bf16"),
    ):
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(deterministic)
        # Deterministic mode would fill every new tensor with NaN, which helps to find bugs and
        # costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
            torch.set_deterministic_debug_mode(mode)
            torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


# --------------------------------------------------------------------------------------------- data
@dataclass(frozen=True, slots=True)
class RunData:
    """The images of a run, the order in which steps see them, and the number of steps."""

    train: dataset.ImageSet
    held_out: dataset.ImageSet | None
    plan: SamplingPlan
    steps: int
    config: RunConfig

    @classmethod
    def open(cls, config: RunConfig) -> RunData:
        """Open the corpora of a run, and resolve what follows from them in its configuration.

        Raises UsageError or CorpusError.
        """
        train = dataset.open_training(config)
        if config.input != "plain" and config.noise_ratio is None:
            config = resolve_noise_ratio(config, train)
            train = dataset.open_training(config)
        config = dataset.resolve_crops(config, train)
        split, begun = config.validation_split, RunFolder(Path(config.out)).config.is_file()
        held_out = dataset.open_images(config, split)
        # The default may be missing; a run of an earlier version may have begun with any name.
        if held_out is None and split not in ("val", "none") and not begun:
            raise dataset.missing_split(config, split, "--validation-split")
        if held_out is not None and held_out.size != train.size:
            where, why = config.corpora[0].path, "has splits with images of different sizes"
            raise CorpusError("corpus", where, why, "build it with --size")
        check_device_cache(config.cache, train, config.workers)
        _check_patience(config, held_out)
        plan = SamplingPlan.of(config, train)
        config = resolve_length(config, plan.steps_per_epoch)
        dataset.indices_of_keys(held_out or train, config.grid_keys)
        for spec in config.objective.networks(train.channel_layout.channels).values():
            spec.check_size(*train.size, max(1, plan.step_images // config.accumulate))
        steps = (config.epochs or 1) * plan.steps_per_epoch
        if config.warmup > steps:
            why = f"{config.warmup:,} steps of warm-up are more than the {steps:,} of the run"
            raise UsageError("option", "--warmup", why, "use fewer")
        return cls(train, held_out, plan, min(steps, config.max_steps or steps), config)

    @property
    def epochs(self) -> int:
        """The number of epochs that are begun; --max-steps may end the run before all."""
        return math.ceil(self.steps / self.plan.steps_per_epoch)

    def summary(self) -> dict[str, Any]:
        """Return what config.json holds about the data; a run is not resumed with other data."""
        sets = {"train": self.train, "held_out": self.held_out}
        return {
            "size": list(self.train.size),
            "steps_per_epoch": self.plan.steps_per_epoch,
            "steps": self.steps,
            "drawn_per_epoch": list(self.plan.drawn()),
            **{name: _summary(images) for name, images in sets.items() if images},
        }

    def validation_indices(self) -> Sequence[int]:
        """Return the indices of the held-out images that a validation scores."""
        count = len(self.held_out or ())
        return evenly_spaced(count, self.config.validation_images or count)

    def train_sample(self, limit: int) -> tuple[dataset.ImageStore, Sequence[int]]:
        """Return evenly spaced training pairs, as many as are held out, ``limit`` at most: a store,
        and their indices in it.

        Up to SAMPLE_BYTES are kept in memory; larger ones are read each time.
        """
        # As stored, like the held-out ones, which --degrade does not degrade either.
        train = replace(self.train, on_the_fly=None)
        indices = evenly_spaced(len(train), min(len(self.held_out or ()), limit))
        if train.nbytes * len(indices) > SAMPLE_BYTES * len(train):
            return train, indices
        inputs, targets = zip(*(train.read(index) for index in indices), strict=True)
        return dataset.CachedImages(list(inputs), list(targets)), range(len(indices))

    def keeps_gray(self, limit: int) -> bool:
        """Return True if gray inputs have gray targets: a model then answers gray with gray.

        Looks at ``limit`` evenly spaced training images. Where inputs and targets are independent,
        all of them have to be gray.
        """
        pairs = (self.train.read(index) for index in evenly_spaced(len(self.train), limit))
        gray = [(is_gray(image), is_gray(target)) for image, target in pairs]
        if self.train.other_counts is not None:
            return all(map(all, gray))
        return any(target for _, target in gray) and all(target for image, target in gray if image)


def frozen_networks(data: RunData, device: torch.device) -> dict[str, nn.Module]:
    """Return the networks that the losses of a run use and no phase trains, by name.

    Raises CheckpointError or UsageError if they cannot be read or used.
    """
    found = dict[str, nn.Module]()
    for name, files in data.config.objective.frozen_networks().items():
        if data.train.channel_layout.color == "lab":
            why = "compares RGB images, but the corpus is a Lab corpus"
            raise UsageError("option", f"--{name}", why, "leave it out")
        found[name] = network = load_lpips(Path(files[0]), Path(files[1]), device)
        network.check_size(*data.train.size)
    return found


def _check_patience(config: RunConfig, held_out: dataset.ImageSet | None) -> None:
    why = None
    if not config.objective.paired:
        why = f"needs pairs: no score tells when {config.loss} is at its best"
    elif held_out is None:
        why = f"needs held-out pairs, but there is no split '{config.validation_split}'"
    elif config.validate_every == 0:
        why = "counts validations, and --validate-every 0 leaves only the last one"
    if config.patience and why is not None:
        raise UsageError("option", "--patience", why, "leave it out")


def _summary(images: dataset.ImageSet) -> dict[str, Any]:
    counts: dict[str, Any] = {"pairs": list(images.counts)}
    if images.other_counts is not None:
        counts = {"inputs": list(images.counts), "targets": list(images.other_counts)}
    return {**counts, "fingerprint": images.fingerprint}


def describe_run(data: RunData) -> list[str]:
    """Return lines that describe what a run is about to do."""
    config, (height, width) = data.config, data.train.size
    layout, online = data.train.channel_layout, data.train.on_the_fly
    specs = config.objective.networks(layout.channels)
    spec, named = specs["generator"], Counter(f"{s.name} (width {s.width})" for s in specs.values())
    networks = " + ".join(f"{n} x {name}" if n > 1 else name for name, n in named.items())
    padded = f"{spec.padded_side(width)}x{spec.padded_side(height)}"
    images = f"{_count(data.train)} {'cropped to' if data.train.min_side else 'of'} "
    images += f"{width}x{height}"
    images += f", read at {config.load_size}x{config.load_size}" if config.load_size else ""
    images += f", enlarged by {config.jitter:g} and cropped again" if config.jitter > 1 else ""
    images += f", {layout.label}" if layout.label else ""
    images += f", padded to {padded} and cropped back" if padded != f"{width}x{height}" else ""
    no_split = f"no split '{config.validation_split}' (see --validation-split), so none"
    no_split = "none" if config.validation_split == "none" else no_split
    held_out = _count(data.held_out) if data.held_out else no_split
    part = len(data.validation_indices())
    scored = f" ({part:,} scored by a validation)" if part < len(data.held_out or ()) else ""
    drawn = ""
    if len(config.corpora) > 1:
        counts = zip(data.plan.drawn(), config.corpora, strict=True)
        drawn = "; an epoch draws " + " + ".join(f"{n:,} of {corpus.path}" for n, corpus in counts)
    networks += f", {config.precision} on {config.device}"
    unit, sides = ("pair", "") if config.objective.paired else ("image", " of each side")
    step = f"{data.plan.step_images} {unit}{'s' * (data.plan.step_images != 1)}{sides}"
    cut = f" of {config.epochs:,}" if data.epochs != config.epochs else ""
    steps = f"{data.steps:,} step{'s' * (data.steps != 1)} of {step}, {data.epochs:,}{cut} epoch"
    steps += "s" * (config.epochs != 1)
    return [
        *([_describe_degradation(config.degrade, online.is_linear)] if online else []),
        *([f"inputs are {config.preparation}"] if config.preparation else []),
        *([_describe_shares(config)] if config.stored_share or config.clean_share else []),
        f"{images}, {held_out} held out{scored}{drawn}",
        f"{config.loss}, {networks}; {steps}; into '{config.out}'",
    ]


def _describe_degradation(spec: Any, is_linear: bool) -> str:
    where, text = " on the device" * is_linear, json.dumps(spec)
    text = text if len(text) <= MAX_SPEC_CHARACTERS else f"{text[:MAX_SPEC_CHARACTERS]}…"
    return f"targets are degraded anew in every epoch{where}, by {text}"


def _describe_shares(config: RunConfig) -> str:
    why = "clean (--clean-share), so that the model learns to leave clean images alone"
    shares = {"as stored (--stored-share)": config.stored_share, why: config.clean_share}
    return " and ".join(f"{x:.0%} of the inputs are {what}" for what, x in shares.items() if x)


def _count(images: dataset.ImageSet) -> str:
    inputs, targets = images.sides
    if images.other_counts is None:
        return f"{inputs:,} pair{'s' * (inputs != 1)}"
    return f"{inputs:,} inputs and {targets:,} targets"
