"""A run from its configuration to its end: started, resumed, finished, or stopped by a signal."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from img2img_data.core.command_line import Display, format_duration, shell_line
from img2img_data.core.errors import DivergedError, Img2ImgError, printable
from img2img_train.config import RunConfig
from img2img_train.data import dataset, loader
from img2img_train.data.dataset import CachedImages, ImageSet, ImageStore
from img2img_train.data.device_cache import SHARE_OF_DEVICE, DeviceCache, uses_device_cache
from img2img_train.distributed.memory import catch_out_of_memory, free_memory, is_out_of_memory
from img2img_train.distributed.processes import join_processes, local_device
from img2img_train.distributed.torchrun import torchrun_env
from img2img_train.runs.checkpoint import Checkpoint, TrainingProgress, read_checkpoint
from img2img_train.runs.folder import RunFolder, find_checkpoint, read_log
from img2img_train.training import setup, signals
from img2img_train.training.compile import compile_networks
from img2img_train.training.early_stopping import TRAIN_SAMPLE
from img2img_train.training.loggers import LiveReport, TensorBoardLogger, describe_session
from img2img_train.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class FitResult:
    """The end of a run; ``seconds`` are those of this call.

    ``already`` means that the run was finished before, ``early`` that its patience was exhausted.
    """

    folder: RunFolder
    progress: TrainingProgress
    seconds: float
    already: bool
    early: bool = False
    resumed_at: int = 0
    """Step from which this call went on."""

    def __fspath__(self) -> str:
        return str(self.folder.root)

    __str__ = __fspath__

    def __repr__(self) -> str:
        p, root, more = self.progress, printable(self.folder.root), ""
        if p.best_psnr is not None:
            more += f"; best PSNR {p.best_psnr:.2f} dB at step {p.best_step:,}"
        if self.early:
            more += f"; stopped early, no better PSNR in {p.stale_validations:,} validations"
        if self.already:
            return f"run '{root}' was already finished, {p.step:,} steps{more}"
        steps, took = f"{p.step:,} steps", format_duration(self.seconds)
        if self.resumed_at:
            steps += f", the last {p.step - self.resumed_at:,}"
        return f"run '{root}' is finished: {steps} in {took}{more}"


def fit(
    config: RunConfig,
    display: Display,
    report: bool = False,
    changed: bool = False,
    command: str = "",
    repeats: signals.Repeats = "end",
) -> FitResult:
    """Train the run of a configuration, resume it, or find it finished.

    ``report`` keeps the run's report up to date while it trains. ``changed``: the settings may
    differ from those that the run was begun with, which config.json then notes. ``command`` is what
    the user typed, for the report; ``repeats`` as in ``handle_signals``. Raises StoppedBySignal
    after a signal, DivergedError, and the errors of corpora, options and checkpoints.
    """
    began, env, config = time.monotonic(), torchrun_env(), setup.resolve_auto(config)
    folder, device = RunFolder(Path(config.out)), local_device(config.device, env)
    folder.check_free()
    with (
        signals.handle_signals("ignore" if env.world_size > 1 else repeats) as stop,
        join_processes(device, env) as processes,
        catch_out_of_memory("run", folder.root, device.type, lambda: _memory_hint(config, folder)),
        setup.torch_backend(config, device),
        contextlib.ExitStack() as lock,
    ):
        try:
            data = setup.RunData.open(config)
            config = data.config
            processes.check_batch(data.plan.step_images)
            processes.main_first(lambda: lock.enter_context(folder.lock()))
            trainer = Trainer(config, data, device, folder, display, stop, processes, changed)
            if report and processes.is_main:
                trainer.live_report = LiveReport(folder.root)
            while not _run(trainer, command):
                trainer.split_step()
                config = trainer.config
        except signals.StopRequested:
            raise processes.report_once(_stopped(stop, folder)) from None
        except DivergedError as error:
            raise processes.report_once(error) from None
    # A run that was finished before has not read its images again.
    already, early = trainer.train_store is None, trainer.progress.step < data.steps
    took = time.monotonic() - began
    return FitResult(folder, trainer.progress, took, already, early, trainer.resumed_at)


def dry_run(config: RunConfig) -> list[str]:
    """Return lines that describe what ``fit`` would do; raises its errors, and writes nothing."""
    config, folder = setup.resolve_auto(config), RunFolder(Path(config.out))
    folder.check_free()
    data = setup.RunData.open(config)
    if folder.config.is_file():
        folder.check_unchanged(data.config, data.summary())
    setup.frozen_networks(data, local_device(config.device, torchrun_env()))
    return setup.describe_run(data)


def _run(trainer: Trainer, command: str) -> bool:
    """Start or resume the run and bring it to its end; return False if memory ran out, and smaller
    micro-batches may fit.
    """
    folder, data, processes = trainer.folder, trainer.data, trainer.processes
    print_line, start = trainer.display.line, list[str]()
    # Before anything but the lock is written: a checkpoint that does not fit must begin no run. All
    # processes find the same, because the first checkpoint of a run needs all of them.
    if trainer.config.init and not (folder.latest.exists() or folder.previous.exists()):
        source = read_checkpoint(find_checkpoint(trainer.config.init), ("network/", "ema/"))
        start.append(trainer.state.initialize(source, trainer.config))
    # The main process first: it may repair the folder before the others read it.
    checkpoint = processes.main_first(lambda: _open_folder(trainer))
    if not processes.is_main:
        checkpoint = folder.load_newest(print_line)
    if checkpoint is not None:
        trainer.load(checkpoint)
    progress = trainer.progress
    processes.main_first(lambda: folder.truncate_logs(progress.log_bytes, progress.step))
    trainer.log_rows = [row for row in read_log(folder.root) if row["kind"] != "train"]
    if not trainer.is_over:
        if trainer.train_store is None:
            for line in (*setup.describe_run(data), *start):
                print_line(line)
            if processes.is_main:
                folder.append(folder.timing, [describe_session(command, trainer.device)])
        if trainer.progress.step:
            print_line(f"resuming from step {trainer.progress.step:,}")
        with contextlib.ExitStack() as stack:
            if trainer.config.tensorboard and processes.is_main:
                logger = TensorBoardLogger.start(folder.root, data.plan.steps_per_epoch)
                stack.enter_context(logger.writer)
                trainer.tensorboard = logger
            if not _train(trainer):
                return False
        trainer.save()
    # A finished run needs no checkpoint to fall back to.
    processes.main_first(lambda: folder.previous.unlink(missing_ok=True))
    return True


def _open_folder(trainer: Trainer) -> Checkpoint | None:
    """Create or check the run folder; return the checkpoint to resume from, if any."""
    folder = trainer.folder
    folder.remove_temporaries()
    if trainer.changed and folder.config.is_file():
        folder.change_config(trainer.config, trainer.data.summary())
    folder.write_config(trainer.config, trainer.data.summary())
    return folder.load_newest(trainer.display.line)


def _train(trainer: Trainer) -> bool:
    """Run all steps; return False if memory ran out, and smaller micro-batches may fit."""
    config, data, progress = trainer.config, trainer.data, trainer.progress
    trainer.train_store = store = trainer.train_store or _read_images(trainer)
    if setup.should_compile(config, trainer.device):
        _compile(trainer)
    trainer.display.begin("training", data.steps * data.plan.step_images, progress.images)
    trainer.processes.main_first(lambda: trainer.write_training_samples(store))
    numbers = range(progress.step, data.steps)
    shard = trainer.processes.shard_indices(data.plan.step_images, config.accumulate)
    steps = loader.StepDataset(data.plan, store, data.train, shard)
    raw = loader.raw_batches(steps, numbers, config.workers)
    with contextlib.closing(raw) as batches:
        try:
            trainer.train(loader.prefetch(batches, trainer.device, data.train.channel_layout))
            return True
        except signals.StopRequested:
            if trainer.progress.step:
                trainer.save()
            raise
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error) and trainer.can_split_step():
                return False
            if "DataLoader worker" not in str(error):
                raise
            # A signal to the process group kills the workers too: that is a stop, not an error.
            trainer.stop.check()
            why = "a process that reads images died"
            hint = "run the same command again to continue from the last checkpoint"
            raise Img2ImgError("run", trainer.folder.root, why, hint) from None


def _compile(trainer: Trainer) -> None:
    """Let steps run compiled networks, or explain in one line why they do not."""
    # torch.compile does not support double backward, which the gradient penalty of WGAN-GP needs.
    skip = trainer.config.objective.needs_double_backward()
    try:
        graphs = trainer.config.compile == "graphs"
        nets = compile_networks(trainer.state.nets, skip, trainer.device, graphs)
    except Exception as error:  # compilers raise errors of any type
        why = printable(" ".join(str(error).split())[:160]) or type(error).__name__
        trainer.display.line(f"networks are not compiled ({why}); training continues")
        return
    trainer.train_step.nets = nets
    names = ", ".join(name for name in nets if name not in skip)
    trainer.display.line(f"compiling {names}: the first steps take up to a minute")


def _read_images(trainer: Trainer) -> ImageStore | DeviceCache:
    """Return the training images, read into memory if they fit, and read the validation images."""
    data, config = trainer.data, trainer.config
    try:
        store: ImageStore | DeviceCache = _read(trainer, data.train.for_training(), config.workers)
        if isinstance(store, CachedImages) and uses_device_cache(
            config.cache, data.train, config.workers, trainer.device
        ):
            store = DeviceCache.of(store, trainer.device)
        if data.held_out is not None and trainer.processes.is_main:
            # A part of a large split is read from the disk each time.
            if len(data.validation_indices()) == len(data.held_out):
                held_out: ImageStore | DeviceCache = _read(trainer, data.held_out, 0)
                fits = data.held_out.nbytes <= SHARE_OF_DEVICE * free_memory(str(trainer.device))
                if isinstance(store, DeviceCache) and isinstance(held_out, CachedImages) and fits:
                    held_out = DeviceCache.of(held_out, trainer.device)
                trainer.validation_store = held_out
            if trainer.config.objective.paired:
                trainer.train_sample = data.train_sample(TRAIN_SAMPLE)
        if trainer.processes.is_main:
            trainer.keeps_gray = data.keeps_gray(TRAIN_SAMPLE)
    finally:
        # A signal that interrupts one process while it reads has to stop the others too.
        trainer.agree()
    return store


def _read(trainer: Trainer, images: ImageSet, workers: int) -> ImageStore:
    def check(done: int) -> None:
        trainer.stop.check()
        trainer.display.advance(done)

    trainer.display.begin("reading", len(images))
    return dataset.cache_images(images, trainer.config.cache, workers, check)


def _memory_hint(config: RunConfig, folder: RunFolder) -> str:
    """Return what takes less memory; a run that has begun keeps its settings."""
    options = ["a smaller --batch"] if config.batch > 1 else []
    if config.accumulate < config.batch:
        options.append(f"--accumulate {min(2 * config.accumulate, config.batch)}")
    options += ["a narrower --width", *(["a smaller --crop"] if config.crop else [])]
    begun, saved = folder.config.is_file(), folder.latest.exists()
    hint = f"use {' or '.join(options)}"
    hint += ", and another --out, since a run keeps its settings" if begun else ""
    waits = "; or free memory and run the same command again to continue from the last checkpoint"
    return hint + (waits if saved else "")


def _stopped(stop: signals.StopSignal, folder: RunFolder) -> signals.StoppedBySignal:
    number, step = signal.Signals(stop.number or signal.SIGTERM), folder.latest_step()
    where = "before the first step" if step is None else f"at step {step:,}"
    resume = shell_line("img2img-train", "resume", folder.root)
    hint = f"run the same command again, or '{resume}', to continue"
    return signals.StoppedBySignal(number, f"stopped by {number.name} {where}; {hint}")
