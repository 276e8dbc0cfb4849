"""A run from its configuration to its end: begun, gone on with, found finished, stopped by a signal."""

from __future__ import annotations

import contextlib
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from img2img_data.core.errors import DivergedError, Img2ImgError, printable
from img2img_data.core.progress import Display
from img2img_train.config import RunConfig
from img2img_train.data import dataset, loader
from img2img_train.data.dataset import CachedImages, ImageSet, ImageStore
from img2img_train.data.device_cache import DeviceCache, uses_device_cache
from img2img_train.distributed.memory import catch_out_of_memory
from img2img_train.distributed.processes import join_processes, local_device, torchrun_env
from img2img_train.runs.checkpoint import Checkpoint, TrainingProgress
from img2img_train.runs.folder import RunFolder, read_log
from img2img_train.training import compile, early_stopping
from img2img_train.training.loggers import LiveReport, TensorBoardLogger
from img2img_train.training.setup import Data, HeldOut, compiles, computing, opening, resolve
from img2img_train.training.signals import Interrupted, Stop, Stopped, listening
from img2img_train.training.trainer import Training, step_of


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended; ``already`` when there was nothing left to do, ``early`` by its patience. ``seconds``
    are those of this call.
    """

    folder: RunFolder
    progress: TrainingProgress
    seconds: float
    already: bool
    early: bool = False


def fit(config: RunConfig, display: Display, report: bool = False) -> Result:
    """Train, or continue, or find finished, the run of a configuration; ``report``: its page is kept fresh.

    Raises Stopped after a signal, DivergedError, and the errors of corpora, options and checkpoints.
    """
    began, env, config = time.monotonic(), torchrun_env(), resolve(config)
    objective, folder, device = (
        config.objective,
        RunFolder(Path(config.out)),
        local_device(config.device, env),
    )
    folder.check_free()
    with (
        listening(env.world_size > 1) as stop,
        join_processes(device, env) as processes,
        catch_out_of_memory("run", folder.root, device.type, lambda: _leaner(config, folder)),
        computing(config, device),
    ):
        try:
            data = Data.open(config, objective)
            processes.check_batch(data.plan.step_images)
            with contextlib.ExitStack() as held:
                processes.main_first(lambda: held.enter_context(folder.lock()))
                training = Training(
                    config, data, objective, device, folder, display, stop, processes
                )
                training.page = LiveReport(folder.root, report and processes.is_main)
                already = _run(training)
        except Interrupted:
            raise processes.report_once(_stopped(stop, folder)) from None
        except DivergedError as error:
            raise processes.report_once(error) from None
    early = training.progress.step < data.steps
    return Result(folder, training.progress, time.monotonic() - began, already, early)


def plan(config: RunConfig) -> list[str]:
    """Return what a run would do, in lines for reading; nothing is written. Errors as those of ``fit``."""
    config, folder = resolve(config), RunFolder(Path(config.out))
    folder.check_free()
    data = Data.open(config, config.objective)
    if folder.config.is_file():
        folder.check_unchanged(config, data.page())
    return opening(config, data, config.objective)


def _run(training: Training) -> bool:
    """Take the folder to a finished run from whatever it holds; True when it was one already."""
    folder, data, tell = training.folder, training.data, training.display.line
    checkpoint = training.processes.main_first(lambda: _claim(training))
    if not training.processes.is_main:
        checkpoint = folder.load_newest(tell)
    if checkpoint is not None:
        training.load(checkpoint)
    training.processes.main_first(lambda: folder.truncate_log(training.progress.log_bytes))
    training.seen = [row for row in read_log(folder.root) if row["kind"] != "train"]
    already = training.is_over
    if not already:
        for line in opening(training.config, data, training.objective):
            tell(line)
        if training.progress.step:
            tell(f"going on from step {training.progress.step:,}")
        if training.config.tensorboard and training.processes.is_main:
            training.board = TensorBoardLogger.begin(folder.root, data.plan.steps_per_epoch)
        try:
            _train(training)
        finally:
            if training.board is not None:
                training.board.close()
        training.save()
    training.processes.main_first(lambda: folder.previous.unlink(missing_ok=True))
    return already


def _claim(training: Training) -> Checkpoint | None:
    """Make the folder this run's; return the checkpoint it goes on from."""
    folder = training.folder
    folder.remove_temporaries()
    there = folder.write_config(training.config, training.data.page())
    return folder.load_newest(training.display.line) if there else None


def _train(training: Training) -> None:
    config, data, progress = training.config, training.data, training.progress
    store = _read_all(training)
    if compiles(config, training.device):
        _compile(training)
    training.display.begin("training", data.steps * data.plan.step_images, progress.images)
    numbers = range(progress.step, data.steps)
    share = training.processes.shard_indices(data.plan.step_images, config.accumulate)
    reading = loader.raw_batches(
        data.plan, store, numbers, config.flip, config.workers, data.train, share
    )
    with contextlib.closing(reading) as steps:
        try:
            training.train(loader.prefetch(steps, training.device, data.train.channel_layout))
        except Interrupted:
            if training.progress.step:
                training.save()
            raise
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            training.stop.check()
            hint = "run the same command again, it goes on from the last checkpoint"
            raise Img2ImgError(
                "run", training.folder.root, "a process that reads images died", hint
            ) from None


def _compile(training: Training) -> None:
    """Let steps run compiled networks, or explain in one line why they do not."""
    skip = training.objective.needs_double_backward()
    try:
        nets = compile.compile_networks(training.nets, skip, training.device)
    except Exception as error:  # compilers raise errors of any type
        why = printable(str(error).strip().partition("\n")[0][:160]) or type(error).__name__
        training.display.line(f"networks are not compiled ({why}); training continues without")
        return
    training.stepper.used = nets
    names = ", ".join(name for name in nets if name not in skip)
    training.display.line(f"compiling {names}: the first steps take up to a minute")


def _read_all(training: Training) -> ImageStore | DeviceCache:
    """Read what is kept in memory; all processes wait for the slowest, and end when one was told to."""
    data = training.data
    try:
        store = _training_store(training)
        if data.held_out is not None and training.processes.is_main:
            training.held_out = HeldOut(data.held_out, _read(training, data.held_out, 0))
            if training.objective.paired:
                training.sample = data.train_sample(early_stopping.SAMPLE)
    except Interrupted:
        training.agree()
        raise
    training.agree()
    return store


def _training_store(training: Training) -> ImageStore | DeviceCache:
    held, config = training.data.train, training.config
    store = _read(training, held.for_training(), config.workers)
    if isinstance(store, CachedImages) and uses_device_cache(
        config.cache, held, config.workers, training.device
    ):
        return DeviceCache.of(store, training.device)
    return store


def _read(training: Training, held: ImageSet, workers: int) -> ImageStore:
    def check(done: int) -> None:
        training.stop.check()
        training.display.advance(done)

    training.display.begin("reading", len(held))
    cache = "ram" if training.config.cache == "device" else training.config.cache
    return dataset.cache_images(held, cache, workers, check)


def _leaner(config: RunConfig, folder: RunFolder) -> str:
    """Return what takes less memory; a run that has begun keeps its settings."""
    ways = ["a smaller --batch"] if config.batch > 1 else []
    ways += [f"--accumulate {min(2 * config.accumulate, config.batch)}"] * (
        config.accumulate < config.batch
    )
    ways += ["a narrower --width", *(["a smaller --crop"] if config.crop else [])]
    another = ", and another --out, for they are part of the run" if folder.config.is_file() else ""
    waits = "; with more memory free the same command goes on from the last checkpoint"
    return f"give {' or '.join(ways)}{another}{waits if folder.latest.exists() else ''}"


def _stopped(stop: Stop, folder: RunFolder) -> Stopped:
    number = stop.number or signal.SIGTERM
    step = (
        f"at step {step_of(folder.latest):,}" if folder.latest.exists() else "before the first step"
    )
    way_on = f"the same command, or 'img2img-train resume {folder.root}', goes on from there"
    return Stopped(number, f"stopped by {signal.Signals(number).name} {step}; {way_on}")
