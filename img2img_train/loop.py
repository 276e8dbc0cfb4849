"""The only training loop. It knows phases, networks and images; it never asks which objective it trains.

Whatever the moment a run is killed at, the same command continues as if nothing had happened: a checkpoint holds all that later
steps depend on, and what a killed run wrote after its last checkpoint is written again with the same bytes.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img2img_data import images
from img2img_data.errors import CheckpointError, CorpusError, DivergedError, Img2ImgError, UsageError
from img2img_train import batches, run
from img2img_train.batches import PairSet, Plan, Store
from img2img_train.config import RunConfig, read_page
from img2img_train.display import Display, duration
from img2img_train.networks import build
from img2img_train.objectives import Batch, Objective, Phase, objective_of
from img2img_train.run import Checkpoint, Description, Progress, RunFolder, Tensors

CHANNELS: Final = (3, 3)
TRACE_STEPS: Final = 64
PSNR_CAP: Final = 100.0
SIGNALS: Final = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))


class Stopped(Exception):
    """A signal asked the run to end; a checkpoint is written."""

    def __init__(self, number: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = 128 + number


@dataclass(slots=True)
class Stop:
    """Which signal came, if one did. A second one ends the process at once."""

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal."""
        self.number = number
        signal.signal(number, signal.SIG_DFL)

    def check(self) -> None:
        """Raise Interrupted after a signal."""
        if self.number is not None:
            raise Interrupted


class Interrupted(Exception):
    """Leaves what the loop is doing, to write a checkpoint and end."""


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """Note signals instead of dying of them, for as long as the block lasts."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def computing(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Set torch up for a run, and back afterwards: threads, generators, deterministic algorithms on the CPU."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    with torch.random.fork_rng(enabled=True):
        torch.manual_seed(config.seed)
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(device.type == "cpu")
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = device.type == "cuda"
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)
            torch.utils.deterministic.fill_uninitialized_memory = fill


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with every "auto" decided: a run already begun decides its own, else the machine."""
    folder = RunFolder(Path(config.out))
    before = RunConfig.load(folder.config) if folder.config.is_file() else None
    device, threads = config.device, config.threads
    if before is not None:
        device = before.device if device == "auto" else device
        threads = threads or before.threads
    found = run.choose_device(device).type
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if found == "cuda" else "fp32"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return config.model_copy(update={"device": found, "threads": threads or cores, "precision": precision})


# -------------------------------------------------------------------------------------------- data
@dataclass(frozen=True, slots=True)
class Data:
    """The pairs of a run and the order in which they come. ``held_out`` chooses the best checkpoint, where there is one."""

    train: PairSet
    held_out: PairSet | None
    plan: Plan
    steps: int

    @classmethod
    def open(cls, config: RunConfig, objective: Objective) -> Data:
        """Open a run's corpora; errors name the corpus or picture, and the way out."""
        train = batches.open_pairs(config, config.split)
        if train is None:
            have = ", ".join(batches.splits_of(config)) or "no pairs"
            raise UsageError(
                "split", config.split, f"is in none of the corpora (there: {have})", "choose by --split"
            )
        held_out = batches.open_pairs(config, config.validation_split)
        if held_out is not None and held_out.size != train.size:
            raise CorpusError(
                "corpus", config.corpora[0].path, "splits differ in picture size", "build it with --size"
            )
        for spec in objective.networks(CHANNELS).values():
            spec.check_size(*train.size)
        plan = Plan(train.counts, tuple(c.weight for c in config.corpora), config.batch, config.seed)
        steps = config.epochs * plan.steps_per_epoch
        return cls(train, held_out, plan, min(steps, config.max_steps) if config.max_steps else steps)

    def page(self) -> dict[str, Any]:
        """Return what config.json keeps of the data, so that a run is not continued on others."""
        sets = {"train": self.train, "held_out": self.held_out}
        return {
            "size": list(self.train.size),
            "steps_per_epoch": self.plan.steps_per_epoch,
            "steps": self.steps,
            "drawn_per_epoch": list(self.plan.drawn()),
            **{
                n: {"pairs": list(s.counts), "fingerprint": s.fingerprint()}
                for n, s in sets.items()
                if s is not None
            },
        }


@dataclass(slots=True)
class HeldOut:
    """The pictures that choose the best checkpoint, and what doing nothing reaches on them, PSNR in dB, once known."""

    pairs: PairSet
    store: Store
    nothing: float | None = None


def psnr_of(made: Tensor, target: Tensor) -> Tensor:
    """Return the PSNR of each picture, dB, at most 100: N x H x W x 3 uint8, peak 255, error over all samples, exact sums."""
    error = (made.to(torch.int32) - target.to(torch.int32)).square().flatten(1).sum(1, dtype=torch.int64)
    mean = error.to(torch.float64).cpu() / made[0].numel()
    return (10 * torch.log10(255**2 / mean)).clamp(max=PSNR_CAP)


# ------------------------------------------------------------------------------------------ losses
@dataclass(slots=True)
class Trace:
    """The losses of the last steps, kept on the device so that no step waits for it; read a block at a time."""

    device: torch.device
    names: list[str] = field(default_factory=list)
    rows: Tensor | None = None
    used: int = 0

    def add(self, losses: Mapping[str, Tensor]) -> bool:
        """Keep the losses of a step; True when the block is full."""
        if self.rows is None:
            self.names = list(losses)
            self.rows = torch.empty(TRACE_STEPS, len(losses), device=self.device)
        torch.stack([loss.detach().float() for loss in losses.values()], out=self.rows[self.used])
        self.used += 1
        return self.used == TRACE_STEPS

    def take(self) -> NDArray[np.float64]:
        """Return the block, steps x names, and empty it."""
        if self.rows is None or not self.used:
            return np.empty((0, 0))
        block, self.used = self.rows[: self.used].cpu().numpy().astype(np.float64), 0
        return block


# ---------------------------------------------------------------------------------------- training
@dataclass(slots=True)
class Training:
    """Everything that moves while a run trains."""

    config: RunConfig
    data: Data
    objective: Objective
    device: torch.device
    folder: RunFolder
    display: Display
    stop: Stop
    progress: Progress = field(default_factory=Progress)
    nets: dict[str, nn.Module] = field(default_factory=dict)
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    held_out: HeldOut | None = None
    trace: Trace = field(init=False)
    versions: dict[str, str] = field(default_factory=run.versions)

    def __post_init__(self) -> None:
        self.trace = Trace(self.device)
        layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last
        seeds = np.random.SeedSequence(self.config.seed).generate_state(16, np.uint64)
        specs = self.objective.networks(CHANNELS)
        for (name, spec), seed in zip(specs.items(), seeds, strict=False):
            self.nets[name] = build(spec, int(seed >> np.uint64(1))).to(self.device, memory_format=layout)  # type: ignore[call-overload]
        for phase in self.phases:
            self.optimizers[phase.name] = self._optimizer(phase)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The updates of a step."""
        return self.objective.phases()

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        parameters = [p for name in phase.modules for p in self.nets[name].parameters()]
        c = self.config
        return torch.optim.Adam(
            parameters, lr=c.lr, betas=(c.beta1, c.beta2), fused=self.device.type != "mps"
        )

    def autocast(self) -> torch.autocast:
        """Return the arithmetic of a training step."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

    # ------------------------------------------------------------------------------------- a step
    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one step; return its losses, still on the device."""
        self._train_only(None)
        with self.autocast():
            made = self.objective.forward(self.nets, batch)
        seen: dict[str, Tensor] = {}
        for phase in self.phases:
            self._train_only(phase)
            optimizer = self.optimizers[phase.name]
            with self.autocast():
                losses = self.objective.losses(phase.name, self.nets, batch, made)
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            self.objective.after(phase.name, self.nets)
            seen |= losses
        return seen

    def _train_only(self, phase: Phase | None) -> None:
        if len(self.phases) > 1:
            for name, net in self.nets.items():
                net.requires_grad_(phase is None or name in phase.modules)

    def train(self, steps: Iterator[batches.Raw]) -> None:
        """Train to the end of the run, from where it stands."""
        written, total = time.monotonic(), self.data.steps
        clock = Clock()
        while True:
            if self._epoch_is_over() and self.progress.reported != self.progress.step:
                self.end_epoch(clock)
            if self.progress.step == total:
                return
            if self.progress.step and time.monotonic() - written >= self.config.checkpoint_seconds:
                self.save()
                written = time.monotonic()
            self.stop.check()
            raw = clock.waiting(lambda: next(steps))
            full = self.trace.add(self.step(batches.to_device(raw, self.device)))
            self._move(len(raw.inputs))
            if full:
                self.read_trace()

    def _move(self, pictures: int) -> None:
        p = self.progress
        self.progress = p.model_copy(update={"step": p.step + 1, "pictures": p.pictures + pictures})
        self.display.advance(self.progress.pictures)

    def _epoch_is_over(self) -> bool:
        step = self.progress.step
        return step > 0 and (step % self.data.plan.steps_per_epoch == 0 or step == self.data.steps)

    def read_trace(self) -> None:
        """Add the losses of the last steps up. DivergedError names the first step where one is not finite."""
        block, sums = self.trace.take(), dict(self.progress.sums)
        for row, losses in enumerate(block):
            if not np.isfinite(losses).all():
                self._diverged(self.progress.step - len(block) + row + 1, losses)
            for name, value in zip(self.trace.names, losses, strict=True):
                sums[name] = sums.get(name, 0.0) + float(value)
        self.progress = self.progress.model_copy(update={"sums": sums})

    def _diverged(self, step: int, losses: NDArray[np.float64]) -> None:
        values = ", ".join(f"{n} {v:g}" for n, v in zip(self.trace.names, losses, strict=True))
        raise DivergedError(
            "run", self.folder.root, f"diverged at step {step} ({values})", self._after_divergence()
        )

    def _after_divergence(self) -> str:
        if not self.folder.latest.exists():
            return "no checkpoint was written before; lower --lr and give another --out"
        step = read_step(self.folder.latest)
        return f"the last good checkpoint is {self.folder.latest} (step {step}); lower --lr and give another --out"

    # ---------------------------------------------------------------------------- the end of an epoch
    def end_epoch(self, clock: Clock) -> None:
        """Validate, keep the best, draw samples, then write the rows: an interruption before that leaves no trace."""
        self.read_trace()
        p = self.progress
        steps_per_epoch, last = self.data.plan.steps_per_epoch, p.step == self.data.steps
        epoch = math.ceil(p.step / steps_per_epoch)
        steps = (p.step - 1) % steps_per_epoch + 1
        losses = {name: _rounded(total / steps) for name, total in p.sums.items()}
        rows: list[dict[str, Any]] = [
            {"kind": "train", "epoch": epoch, "step": p.step, "pictures": p.pictures, "losses": losses}
        ]
        trained = time.monotonic()
        update: dict[str, Any] = {"sums": {}, "reported": p.step}
        if self.held_out is not None and (last or _due(epoch, self.config.validate_every)):
            psnr, nothing = self.validate(self.held_out)
            best = p.best_psnr is None or psnr > p.best_psnr
            rows.append(
                {
                    "kind": "validation",
                    "epoch": epoch,
                    "step": p.step,
                    "psnr": psnr,
                    "psnr_nothing": nothing,
                    "best": best,
                }
            )
            if best:
                update |= {"best_psnr": psnr, "best_step": p.step}
                self.keep_best(self.progress.model_copy(update=update))
        if last or _due(epoch, self.config.samples_every):
            self.draw_samples(epoch)
        self.folder.append(self.folder.log, rows)
        self.progress = p.model_copy(update=update)
        self._tell(epoch, rows, clock, trained)

    def _tell(self, epoch: int, rows: list[dict[str, Any]], clock: Clock, trained: float) -> None:
        pictures = self.progress.pictures
        timing = clock.row(epoch, pictures, trained)
        self.folder.append(self.folder.timing, [timing])
        parts = [f"epoch {epoch}/{self.config.epochs}"]
        parts += [f"{name} {value:.5f}" for name, value in rows[0]["losses"].items()]
        if len(rows) > 1:
            v = rows[1]
            parts.append(
                f"PSNR {v['psnr']:.2f} dB (nothing {v['psnr_nothing']:.2f}){', best' if v['best'] else ''}"
            )
        parts.append(f"{timing['pictures_per_second']:,.0f} pictures/s")
        if self.progress.step < self.data.steps:
            parts.append(f"{self.display.left(pictures)} left")
        self.display.line("  ".join(parts))

    @torch.no_grad()
    def generate(self, given: Tensor) -> dict[str, Tensor]:
        """Return the images made of uint8 N x H x W x 3 in float32 by the networks in eval mode, as bytes of that shape."""
        modes = {name: net.training for name, net in self.nets.items()}
        for net in self.nets.values():
            net.eval()
        try:
            x = batches.from_bytes(given)
            made = self.objective.forward(self.nets, Batch(x, x))
            return {name: batches.to_bytes(image) for name, image in made.items()}
        finally:
            for name, net in self.nets.items():
                net.train(modes[name])

    def validate(self, held_out: HeldOut) -> tuple[float, float]:
        """Return the mean PSNR of the generator and of doing nothing over the held-out pictures, dB."""
        made, nothing = [], []
        for start in range(0, len(held_out.pairs), self.config.batch):
            self.stop.check()
            indices = np.arange(start, min(start + self.config.batch, len(held_out.pairs)))
            given, target = (torch.from_numpy(x).to(self.device) for x in held_out.store.gather(indices))
            made.append(psnr_of(self.generate(given)["output"], target))
            if held_out.nothing is None:
                nothing.append(psnr_of(given, target))
        if held_out.nothing is None:
            held_out.nothing = _rounded(float(torch.cat(nothing).mean()))
        return _rounded(float(torch.cat(made).mean())), held_out.nothing

    def draw_samples(self, epoch: int) -> None:
        """Write the grid of an epoch: a row per picture, input | what was made | target; always the same pictures."""
        pairs = self.held_out.pairs if self.held_out is not None else self.data.train
        chosen = [pairs.read(i) for i in batches.spread(len(pairs), self.config.samples)]
        given, target = (np.stack(part) for part in zip(*chosen, strict=True))
        made = self.generate(torch.from_numpy(given).to(self.device))
        columns = [given, *(image.cpu().numpy() for image in made.values()), target]
        grid = np.concatenate([np.concatenate(list(c)) for c in columns], axis=1)
        path = self.folder.samples / f"epoch-{epoch:05d}.png"
        run.write_file(path, [images.encode(np.ascontiguousarray(grid), "png")])

    # ------------------------------------------------------------------------------- checkpoints
    def describe(self, progress: Progress, complete: bool) -> Description:
        """Return what a checkpoint of now says of itself."""
        return Description(
            complete=complete,
            generator=self.objective.generator,
            networks=self.objective.networks(CHANNELS),
            size=self.data.train.size,
            versions=self.versions,
            config=self.config.model_dump(mode="json"),
            progress=progress,
        )

    def network_tensors(self) -> Tensors:
        """Return the weights and buffers of all networks."""
        return {f"network/{n}/{k}": t for n, net in self.nets.items() for k, t in net.state_dict().items()}

    def keep_best(self, progress: Progress) -> None:
        """Write the networks as the best so far."""
        about = self.describe(progress.model_copy(update={"log_bytes": 0}), complete=False)
        run.write_checkpoint(self.folder.best, self.network_tensors(), about)

    def save(self) -> None:
        """Write all that later steps depend on."""
        self.read_trace()
        self.progress = self.progress.model_copy(update={"log_bytes": self.folder.log_size()})
        tensors = self.network_tensors() | {"rng/cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        for name, optimizer in self.optimizers.items():
            for number, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{name}/{number}/{slot}": value for slot, value in slots.items()}
        run.rotate(self.folder, tensors, self.describe(self.progress, complete=True))

    def load(self, checkpoint: Checkpoint) -> None:
        """Stand where a checkpoint was written, exactly."""
        for name, net in self.nets.items():
            run.fill_network(net, checkpoint.part(f"network/{name}/"), checkpoint.path)
        for name, optimizer in self.optimizers.items():
            _fill_optimizer(optimizer, checkpoint.part(f"optimizer/{name}/"), checkpoint.path)
        torch.set_rng_state(checkpoint.tensors["rng/cpu"])
        if self.device.type == "cuda" and "rng/cuda" in checkpoint.tensors:
            torch.cuda.set_rng_state(checkpoint.tensors["rng/cuda"], self.device)
        self.progress = checkpoint.about.progress


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, path: Path) -> None:
    """Give an optimizer its state back, each tensor laid out in memory as its parameter is: fused updates rely on it."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, slot = name.partition("/")
        if not number.isdigit() or int(number) >= len(parameters):
            raise CheckpointError(
                "checkpoint", path, f"does not fit its optimizer: {name}", "use another one"
            )
        like = parameters[int(number)]
        if tensor.shape == like.shape:
            tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
        state.setdefault(int(number), {})[slot] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


@dataclass(slots=True)
class Clock:
    """Where the time of an epoch goes."""

    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    pictures: int = -1

    def waiting(self, fetch: Callable[[], batches.Raw]) -> batches.Raw:
        """Return what ``fetch`` does, its time counted as waiting for data."""
        start = time.monotonic()
        raw = fetch()
        self.waited += time.monotonic() - start
        if self.pictures < 0:
            self.pictures = 0
        self.pictures += len(raw.inputs)
        return raw

    def row(self, epoch: int, pictures: int, trained: float) -> dict[str, Any]:
        """Return the row of an epoch, and begin the next one."""
        now, seconds = time.monotonic(), max(trained - self.began, 1e-9)
        row = {
            "epoch": epoch,
            "seconds": round(now - self.began, 3),
            "training_seconds": round(seconds, 3),
            "waiting_for_data": round(self.waited / seconds, 4),
            "pictures_per_second": round(max(self.pictures, 0) / seconds, 1),
        }
        self.began, self.waited, self.pictures = now, 0.0, 0
        return row


def _due(epoch: int, every: int) -> bool:
    return every > 0 and epoch % every == 0


def _rounded(value: float) -> float:
    return round(value, 6) + 0.0


def read_step(path: Path) -> int:
    """Return the step a checkpoint was written at, reading its description alone."""
    return run.read_checkpoint(path, "nothing").about.progress.step


# --------------------------------------------------------------------------------------------- fit
@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. ``already`` when there was nothing left to do."""

    folder: RunFolder
    progress: Progress
    seconds: float
    already: bool


def fit(config: RunConfig, display: Display) -> Result:
    """Train, or continue, or find finished, the run of a configuration.

    Raises Stopped after a signal, DivergedError, and what the errors of corpora, options and checkpoints are.
    """
    began = time.monotonic()
    config = resolve(config)
    objective, folder = objective_of(config), RunFolder(Path(config.out))
    folder.check_free()
    device = torch.device(config.device)
    with listening() as stop, computing(config, device):
        try:
            data = Data.open(config, objective)
            with folder.lock():
                folder.sweep()
                checkpoint = _continue(folder, config, data, display)
                training = Training(config, data, objective, device, folder, display, stop)
                if checkpoint is not None:
                    training.load(checkpoint)
                already = _train(training)
        except Interrupted:
            raise _stopped(stop, folder) from None
    return Result(folder, training.progress, time.monotonic() - began, already)


def plan(config: RunConfig) -> list[str]:
    """Return what a run would do, in lines for reading; nothing is written."""
    config = resolve(config)
    objective = objective_of(config)
    data = Data.open(config, objective)
    return _opening(config, data, objective)


def _train(training: Training) -> bool:
    """Train to the end and leave the folder as a finished run; True when it was one already."""
    config, data, folder = training.config, training.data, training.folder
    done = training.progress.step == data.steps and training.progress.reported == data.steps
    if not done:
        for line in _opening(config, data, training.objective):
            training.display.line(line)
        _steps(training)
        training.save()
    folder.previous.unlink(missing_ok=True)
    return done


def _steps(training: Training) -> None:
    config, data, stop = training.config, training.data, training.stop

    def check(done: int) -> None:
        stop.check()
        training.display.advance(done)

    training.display.begin("reading", len(data.train))
    store = batches.store_of(data.train, config.cache, config.workers, check)
    if data.held_out is not None:
        training.display.begin("reading", len(data.held_out))
        training.held_out = HeldOut(data.held_out, batches.store_of(data.held_out, config.cache, 0, check))
    total = data.steps * data.plan.step_pictures
    training.display.begin("training", total, training.progress.pictures)
    numbers = range(training.progress.step, data.steps)
    steps = batches.steps(data.plan, store, numbers, config.flip, config.workers)
    try:
        training.train(steps)
    except Interrupted:
        if training.progress.step:
            training.save()
        raise
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        stop.check()
        raise Img2ImgError(
            "run", training.folder.root, "a loading worker died", "run the same command again"
        ) from None
    finally:
        steps.close()  # type: ignore[attr-defined]


def _stopped(stop: Stop, folder: RunFolder) -> Stopped:
    number = stop.number or signal.SIGTERM
    step = f"at step {read_step(folder.latest)}" if folder.latest.exists() else "before the first step"
    way_on = f"the same command, or 'img2img-train resume {folder.root}', continues"
    return Stopped(number, f"stopped by {signal.Signals(number).name} {step}; {way_on}")


def _opening(config: RunConfig, data: Data, objective: Objective) -> list[str]:
    height, width = data.train.size
    drawn = " + ".join(f"{n} of {c.path}" for n, c in zip(data.plan.drawn(), config.corpora, strict=True))
    held_out = (
        f"{len(data.held_out):,} held out"
        if data.held_out
        else f"no split '{config.validation_split}': no validation"
    )
    spec = objective.networks(CHANNELS)[objective.generator]
    return [
        f"{len(data.train):,} pairs of {width}x{height} ({held_out}); an epoch draws {drawn}",
        f"{config.loss}, {spec.name} of width {spec.width}, {config.precision} on {config.device}, {data.steps:,} steps "
        f"of {data.plan.step_pictures} pictures, {config.epochs} epochs > {config.out}",
    ]


def _continue(folder: RunFolder, config: RunConfig, data: Data, display: Display) -> Checkpoint | None:
    """Return the checkpoint to go on from; None for a new run. UsageError where the folder holds another run."""
    page = {
        "format": run.FORMAT,
        "config": config.model_dump(mode="json"),
        "versions": run.versions(),
        "data": data.page(),
    }
    if not folder.config.is_file():
        run.write_page(folder.config, page)
        return None
    _check_same(folder, config, page)
    checkpoint = _newest(folder, display)
    if checkpoint is not None:
        display.line(f"continuing {folder.root} at step {checkpoint.about.progress.step:,}")
    folder.cut_log(checkpoint.about.progress.log_bytes if checkpoint else 0)
    return checkpoint


def _check_same(folder: RunFolder, config: RunConfig, page: Mapping[str, Any]) -> None:
    before = read_page(folder.config)
    changes = RunConfig.load(folder.config).changes(config)
    if changes:
        name, (old, new) = next(iter(changes.items()))
        why = f"was begun with another configuration ({name} {old!r}, now {new!r})"
        raise UsageError("run", folder.root, why, "give another --out, or the same settings")
    if before.get("data") != page["data"]:
        raise UsageError(
            "run", folder.root, "was begun on other pairs: a corpus has changed since", "give another --out"
        )


def _newest(folder: RunFolder, display: Display) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; a damaged one is told of and makes room for the one before."""
    trouble: CheckpointError | None = None
    for path in (folder.latest, folder.previous):
        if not path.exists():
            continue
        try:
            checkpoint = run.read_checkpoint(path)
            if not checkpoint.about.complete:
                raise CheckpointError(
                    "checkpoint", path, "holds networks alone, training cannot go on from it"
                )
        except CheckpointError as error:
            trouble = trouble or error
            continue
        if trouble is not None:
            display.line(
                f"warning: {trouble}; going on from the one before, step {checkpoint.about.progress.step:,}"
            )
            path.replace(folder.latest)
        return checkpoint
    if trouble is not None:
        raise trouble
    return None
