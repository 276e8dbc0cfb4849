"""Laws and speed of img2img-train on one GPU: one command, eight minutes at most, no network.

::

    python benchmarks/gpu.py                            all sections, on the first CUDA device
    python benchmarks/gpu.py --only objectives --only unet-64
    python benchmarks/gpu.py --facades corpora/facades  also pix2pix on facades, if time is left
    python benchmarks/gpu.py --rehearse                 all sections on the CPU, at toy sizes
    python benchmarks/gpu.py --dry-run                  the sections and the seconds they may take

Needs the dependencies of img2img[train]; the packages themselves are found with ``PYTHONPATH=.``,
too. Needs no images: they are drawn here. Every section is a process of its own with a time limit,
prints a line of JSON, and is added to ``--out``. A section that does not fit into the minutes that
are left is skipped and says so.

Laws run beside each other, one for two cores: every objective trains as on the CPU, and repeats to
the bit; a run that was stopped and resumed equals one that was not; degradation on the device,
caches, bf16, compiled networks, dropout at test, ONNX and running out of memory. The networks of
all cases are compiled beside them, so that later sections find them in the compiler's cache.

Speed, one section after the other: each case of ``benchmarks/train.py`` beside its plain loop, with
the share of the matrix peak that was measured first, the wait for data and the peak memory; the
largest kernels of a step, and how often it waits for the device; and a floor for each step: its
operations at the measured peak, or the bytes of its tensors at the measured bandwidth, whichever
takes longer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from data import argument_parser, work_folder
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from train import CASES, Case, images_of, make_corpus, run_img2img, run_plain

from img2img_data.core.command_line import Display
from img2img_train.config import RunConfig
from img2img_train.data import dataset, loader
from img2img_train.data.color import denormalize
from img2img_train.data.device_cache import DeviceCache
from img2img_train.objectives.registry import OBJECTIVES
from img2img_train.runs.checkpoint import read_checkpoint
from img2img_train.runs.folder import RunFolder
from img2img_train.runs.model import LoadedModel, load_generator
from img2img_train.training import compile, setup
from img2img_train.training.signals import StopSignal
from img2img_train.training.trainer import Trainer

MINUTES = 8.0
TINY: dict[str, Any] = {
    "net": "unet-64",
    "width": 4,
    "batch": 4,
    "threads": 1,
    "epochs": 100,
    "precision": "fp32",
    "deterministic": "on",
    "compile": "off",
    "crop": 0,
    "rotate": False,
    "flip": False,
}
Figures: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a section runs: the device, a folder of its own, and whether this is a rehearsal."""

    device: torch.device
    work: Path
    toy: bool

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def sync(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize()


# ------------------------------------------------------------------------------ images and trainers
def draw_photos(out: Path, side: int) -> Path:
    """Write four JPEGs of smooth shapes and texture, so that a model has something to learn."""
    out.mkdir(parents=True)
    for number in range(4):
        rng = np.random.default_rng(number)
        layers = [rng.normal(0, 40 / 2**k, (side >> k, side >> k, 3)) for k in range(6)]
        size = (side, side)
        photo = sum(cv2.resize(x, size, interpolation=cv2.INTER_CUBIC) for x in layers) * 1.5 + 127
        pixels = np.clip(photo, 0, 255).astype(np.uint8)
        (out / f"{number}.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    return out


def corpus_of(place: Place, case: Case, count: int) -> Path:
    """Return a corpus of ``count`` pairs of drawn images for a case."""
    photos = draw_photos(place.work / "photos", 2 * case.side)
    return make_corpus(photos, place.work / "corpus", case, count)


def small_corpus(place: Place) -> Path:
    return corpus_of(place, CASES["autoencoder"], 24)


def options_of(loss: str, **settings: Any) -> dict[str, Any]:
    """Return the settings of a tiny run, with the presets' defaults of ``l1`` and ``l2``."""
    first = {"preset": "original"} if loss in ("l1", "l2") else {}
    known = {*OBJECTIVES[loss].model_fields, *RunConfig.model_fields}
    return {k: v for k, v in {**first, **TINY, **settings}.items() if k in known | {"preset"}}


@contextlib.contextmanager
def training(
    corpus: Path, out: Path, device: torch.device, loss: str, **settings: Any
) -> Iterator[Trainer]:
    """Set torch up for a run and yield its trainer, before its first step."""
    words = options_of(loss, **settings)
    config = RunConfig(**words, loss=loss, corpora=(str(corpus),), out=str(out), device=device.type)
    config = setup.resolve_auto(config)
    with setup.torch_backend(config, device):
        data = setup.RunData.open(config)
        yield Trainer(data.config, data, device, RunFolder(out), Display(), StopSignal())


def batches_of(trainer: Trainer, count: int, cache: str = "ram") -> Iterator[Any]:
    """Yield the first ``count`` batches of a run on its device."""
    data = trainer.data
    store: Any = dataset.cache_images(data.train.for_training(), "ram", 0)
    if cache == "device":
        store = DeviceCache.of(store, trainer.device)
    raws = loader.raw_batches(loader.StepDataset(data.plan, store, data.train), range(count), 0)
    return loader.prefetch(raws, trainer.device, data.train.channel_layout)


def losses_of(trainer: Trainer, count: int) -> list[dict[str, float]]:
    """Run the first ``count`` steps of a run and return their losses."""
    found = []
    for number, batch in enumerate(batches_of(trainer, count)):
        found.append(trainer.train_step.run(batch, number))
    return [{name: float(value) for name, value in losses.items()} for losses in found]


def train_on(
    corpus: Path, device: torch.device, loss: str, steps: int, seed: int = 0, **settings: Any
) -> list[dict[str, float]]:
    """Return the losses of the first steps of a tiny run; dropout has a seed of its own."""
    with training(corpus, corpus / "run", device, loss, pool_size=4, **settings) as trainer:
        torch.manual_seed(seed)
        return losses_of(trainer, steps)


def distance(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    """Return the largest difference between the losses of two runs, relative where above 0.01."""
    pairs = [(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in x if k in y]
    return max(abs(p - q) / max(abs(p), abs(q), 1e-2) for p, q in pairs)


def is_finite(losses: list[dict[str, float]]) -> bool:
    return all(np.isfinite(value) for row in losses for value in row.values())


def model_of(place: Place, device: str, **settings: Any) -> LoadedModel:
    """Return a model that was trained for a few steps, on a device."""
    out = place.work / "model"
    if not out.exists():
        corpus = small_corpus(place)
        run_words("fit", corpus, *flags(options_of("pix2pix", **settings)), "--loss", "pix2pix",
                  "--max-steps", 4, "--out", out, "--device", place.device.type)  # fmt: skip
    return load_generator(out, device)


def flags(settings: Mapping[str, Any]) -> list[Any]:
    """Return settings as words of a command line."""
    words: list[Any] = []
    for name, value in settings.items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else []
        words += [] if isinstance(value, bool) else [f"--{option}", value]
    return words


def command_of(*words: Any) -> list[str]:
    return [sys.executable, "-m", "img2img_train", *map(str, words)]


def run_words(*words: Any, code: int = 0) -> str:
    """Run img2img-train and return what it wrote to stderr; fails on another exit code."""
    done = subprocess.run(command_of(*words), capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(f"exit code {done.returncode}, not {code}: {done.stderr[-2000:]}")
    return done.stderr


def require(held: bool, figures: Figures) -> Figures:
    """Return figures with the verdict on a law."""
    return {"ok": held, **figures}


# --------------------------------------------------------------------------------------------- laws
def machine(place: Place) -> Figures:
    """Measure the matrix peak in bf16 and the bandwidth of the memory."""
    side, count = (256, 1 << 20) if place.toy else (8192, 1 << 28)
    a, b = (torch.randn(side, side, device=place.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = timed(place, lambda: a @ b)
    x = torch.zeros(count, device=place.device)
    y = torch.empty_like(x)
    copied = timed(place, lambda: y.copy_(x))
    chip = torch.cuda.get_device_name() if place.is_cuda else "CPU"
    cudnn = torch.backends.cudnn.version() if place.is_cuda else None
    return {
        "device": chip,
        "torch": torch.__version__,
        "cudnn": cudnn,
        "bf16 matrix peak, TFLOP/s": round(2 * side**3 / seconds / 1e12, 3),
        "memory, GB/s": round(2 * 4 * count / copied / 1e9, 1),
    }


def timed(place: Place, function: Callable[[], Any], least: float = 0.5) -> float:
    """Return the seconds of a call, the shortest of several rounds of several calls."""
    function()
    calls, best, end = 1, float("inf"), time.perf_counter() + least
    while time.perf_counter() < end:
        place.sync()
        began = time.perf_counter()
        for _ in range(calls):
            function()
        place.sync()
        took = time.perf_counter() - began
        best = min(best, took / calls)
        calls = min(2 * calls, 20)
    return best


def objectives(place: Place) -> Figures:
    """Train every objective for 20 steps, twice; compare three steps with those on the CPU.

    Later steps may differ: adversarial training amplifies rounding errors.
    """
    corpus, unpaired = small_corpus(place), corpus_of_domains(place)
    apart, steps, finite, repeats = {}, 4 if place.toy else 20, True, True
    for loss, objective in OBJECTIVES.items():
        own = corpus if objective.paired else unpaired
        net = {} if objective.paired else {"net": "resnet-6"}
        runs = [train_on(own, place.device, loss, steps, **net) for _ in range(2)]
        finite, repeats = finite and is_finite(runs[0]), repeats and runs[0] == runs[1]
        # Devices draw other random numbers: masks of dropout, and points of a gradient penalty.
        fixed: dict[str, Any] = {"dropout": 0.0, **net}
        fixed |= {"gan_mode": "wgan"} if objective().needs_double_backward() else {}
        devices = enumerate((place.device, torch.device("cpu")))
        runs = [train_on(own, device, loss, 3, seed, **fixed) for seed, device in devices]
        apart[loss] = round(distance(*runs), 7)
    figures = {"finite": finite, "repeats": repeats, "relative difference": apart}
    return require(finite and repeats and max(apart.values()) < 1e-2, figures)


def corpus_of_domains(place: Place) -> Path:
    case = CASES["cyclegan"]
    small = Case(case.plain, case.options, 64, 1, case.sides)
    return corpus_of(Place(place.device, place.work / "domains", place.toy), small, 24)


def resume(place: Place) -> Figures:
    """Stop a deterministic run by a signal and resume it; compare with a run that went on."""
    corpus, epochs = small_corpus(place), 6 if place.toy else 12
    settings = {"loss": "pix2pix", **options_of("pix2pix", epochs=epochs), "validate_every": 0}
    words = ["fit", corpus, *flags(settings), "--device", place.device.type, "--no-report"]
    run_words(*words, "--out", place.work / "whole")
    out = place.work / "stopped"
    process = subprocess.Popen(command_of(*words, "--out", out), stderr=subprocess.DEVNULL)
    log = out / "log.jsonl"
    while process.poll() is None:
        if log.is_file() and log.read_text().count('"train"') >= 2:
            process.send_signal(signal.SIGTERM)
            process.wait()
        time.sleep(0.01)
    stopped_at = RunFolder(out).latest_step() or 0
    if process.returncode:
        run_words("resume", out, "--no-report")
    runs = [read_checkpoint(RunFolder(place.work / n).latest) for n in ("whole", "stopped")]
    whole, resumed = (run.tensors for run in runs)
    different = [name for name in whole if not torch.equal(whole[name], resumed[name])]
    return require(not different, {"stopped at step": stopped_at, "different": different[:3]})


def degradation(place: Place) -> Figures:
    """Degrade on the device and compare with the definition, in levels of 255."""
    corpus, worst = small_corpus(place), 0.0
    for spec in ({"gaussian": {"sigma": [0.5, 4]}}, {"resize": {"factor": 4}}):
        with training(corpus, place.work / "run", place.device, "l2", degrade=spec) as trainer:
            batch, images = next(iter(batches_of(trainer, 1))), trainer.data.train
            assert isinstance(images, dataset.PairedImages)
            assert images.on_the_fly is not None
            indices = trainer.data.plan.step(0).indices[1].tolist()
            targets, inputs = (denormalize(x).cpu().numpy() for x in (batch.target, batch.input))
            for index, target, degraded in zip(indices, targets, inputs, strict=True):
                truth = images.on_the_fly.degrade(target, images.pairs[index][1], 0)
                worst = max(worst, float(np.abs(degraded.astype(int) - truth).max()))
    return require(worst <= 1, {"largest difference, levels": worst})


def caches(place: Place) -> Figures:
    """Compare the batches from a cache on the device with those from one in memory."""
    corpus, equal = small_corpus(place), True
    settings = {"flip": True, "rotate": True, "jitter": 1.12}
    for extra in ({}, settings, {"degrade": {"gaussian": {"sigma": [0.5, 3]}}}):
        with training(corpus, place.work / "run", place.device, "l2", **extra) as trainer:
            sides = [list(batches_of(trainer, 4, cache)) for cache in ("ram", "device")]
            for a, b in zip(*sides, strict=True):
                equal &= torch.equal(a.input, b.input) and torch.equal(a.target, b.target)
    return require(equal, {"equal": equal})


def precisions(place: Place) -> Figures:
    """Compare the losses in bf16 and of compiled networks with those in float32, not compiled."""
    corpus, found = small_corpus(place), {}
    steps = 4 if place.toy else 20
    runs: dict[str, list[dict[str, float]]] = {}
    for name, settings in {
        "fp32": {},
        "bf16": {"precision": "bf16"},
        "compiled": {"deterministic": "off"},
        "graphs": {"deterministic": "off", "compile": "graphs"},
    }.items():
        fixed = {"dropout": 0.0, **settings}  # compiled networks draw other masks
        with training(corpus, place.work / name, place.device, "pix2pix", **fixed) as trainer:
            began = time.perf_counter()
            if name in ("compiled", "graphs"):
                nets = trainer.state.nets, (), place.device, name == "graphs"
                trainer.train_step.nets = compile.compile_networks(*nets)
            runs[name] = losses_of(trainer, steps)
            found[f"{name}, s"] = round(time.perf_counter() - began, 2)
    apart = {n: round(distance(runs["fp32"][:3], run[:3]), 5) for n, run in runs.items()}
    held = apart["bf16"] < 0.1 and max(apart["compiled"], apart["graphs"]) < 1e-2
    held &= all(map(is_finite, runs.values()))
    return require(held, {"relative difference": apart, **found})


def restoring(place: Place) -> Figures:
    """Compare the outputs of a model with dropout at test on the device with those on the CPU."""
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    model, other = (model_of(place, device) for device in (place.device.type, "cpu"))
    got, again, want = model.restore(images), model.restore(images), other.restore(images)
    worst = int(np.abs(got.astype(int) - want).max())
    figures = {"largest difference from the CPU, levels": worst}
    return require(worst <= 2 and bool((got == again).all()), figures)


def onnx(place: Place) -> Figures:
    """Export a model to ONNX, which compares its outputs with those of torch."""
    model_of(place, place.device.type)
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed"}
    return {"ok": True, "said": run_words("export", place.work / "model", place.work / "m.onnx")}


def memory(place: Place) -> Figures:
    """Run out of the device's memory: one line, exit code 1."""
    if not place.is_cuda:
        return {"skipped": "needs a GPU"}
    corpus = small_corpus(place)
    code = "import sys, torch; from img2img_train.cli.main import main; "
    code += "torch.cuda.set_per_process_memory_fraction(0.005); main(sys.argv[1:])"
    words = ["fit", corpus, "--loss", "pix2pix", "--net", "unet-64", "--width", 256, "--out"]
    words += [place.work / "oom", "--compile", "off", "--device", "cuda"]
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    held = done.returncode == 1 and "out of memory" in last and "Traceback" not in done.stderr
    return require(held, {"said": last[-200:]})


def compiling(place: Place) -> Figures:
    """Compile the networks of all cases, beside each other."""
    processes = dict[str, subprocess.Popen[str]]()
    for name in (name for name in CASES if not place.toy or name not in SAME_AS_TOYS):
        case = toy_case(CASES[name]) if place.toy else CASES[name]
        work = place.work / name
        corpus = corpus_of(Place(place.device, work, place.toy), case, case.batch)
        words = ["fit", corpus, *case.options, "--batch", case.batch, "--max-steps", 2, "--out"]
        words += [work / "run", "--device", place.device.type, "--no-report", "--samples-every", 0]
        command = command_of(*words)
        processes[name] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = {name: process.communicate()[1] for name, process in processes.items()}
    wrong = {
        name: text[-500:]
        for name, text in said.items()
        if processes[name].returncode or "not compiled" in text
    }
    return require(not wrong, {"not compiled": wrong})


# -------------------------------------------------------------------------------------------- speed
def toy_case(case: Case) -> Case:
    """Return a case that a CPU finishes in a second: a narrow network, small images."""
    cycle = case.sides == ("A", "B")
    options = ("--loss", "cyclegan" if cycle else "l2", "--net", "unet-64", "--width", "4")
    options += ("--threads", "1")
    return Case(CASES["autoencoder"].plain, options, 64, 2, case.sides)


def images_for(case: Case) -> int:
    """Return the number of images of a case: an epoch of many steps, and seconds to write them."""
    return min(images_of(case), 4096 if case.side == 64 else 512)


def speed(name: str) -> Callable[[Place], Figures]:
    """Return the section that measures a case: both loops in turn, and the floor of a step."""

    def section(place: Place) -> Figures:
        case = toy_case(CASES[name]) if place.toy else CASES[name]
        corpus = corpus_of(place, case, images_for(case))
        seconds, peaks = (0.2, Peaks(1e11, 1e10)) if place.toy else (6.0, Peaks.read())
        plain = run_plain(case, corpus, seconds, 2)
        if place.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        own = run_img2img(case, corpus, max(plain["steps"], 4), place.work / "run")
        step = case.batch / own["rate"]
        operations = operations_of(place, case, corpus)
        moved = bytes_of_step(case, place.device)
        floor = max(operations / peaks.flops, moved / peaks.bandwidth)
        return {
            "plain, images/s": round(plain["rate"], 1),
            "img2img, images/s": round(own["rate"], 1),
            "img2img/plain": round(own["rate"] / plain["rate"], 2),
            "waiting for data": round(own["waiting"], 3),
            "first epoch, s": round(own["first"], 1),
            "steps measured": own["steps"],
            "peak MB": round(own["peak_mb"]),
            "step, ms": round(1e3 * step, 3),
            "floor by operations, ms": round(1e3 * operations / peaks.flops, 3),
            "floor by bytes, ms": round(1e3 * moved / peaks.bandwidth, 3),
            "step/floor": round(step / floor, 2),
            "share of the measured peak": round(operations / peaks.flops / step, 3),
        }

    return section


def modes(place: Place) -> Figures:
    """Measure steps that are short, not compiled, compiled, and compiled as CUDA graphs."""
    found = dict[str, Figures]()
    for name in ("autoencoder", "unet-1"):
        case, steps = (toy_case(CASES[name]), 4) if place.toy else (CASES[name], 256)
        corpus = corpus_of(
            Place(place.device, place.work / name, place.toy), case, images_for(case)
        )
        for mode in ("off", "on", "graphs"):
            asked = Case(case.plain, (*case.options, "--compile", mode), case.side, case.batch)
            row = run_img2img(asked, corpus, steps, place.work / f"{name}-{mode}")
            found[f"{name}, {mode}"] = {"step, ms": round(1e3 * case.batch / row["rate"], 3)}
            found[f"{name}, {mode}"] |= {"peak MB": round(row["peak_mb"])}
    return {"modes": found}


@dataclass(frozen=True, slots=True)
class Peaks:
    """What the device reached: operations and bytes per second."""

    flops: float
    bandwidth: float

    @classmethod
    def read(cls) -> Peaks:
        """Return the peaks that the section ``machine`` measured."""
        found = json.loads(os.environ["IMG2IMG_PEAKS"])
        flops, bandwidth = found["bf16 matrix peak, TFLOP/s"], found["memory, GB/s"]
        return cls(1e12 * flops, 1e9 * bandwidth)


def operations_of(place: Place, case: Case, corpus: Path) -> float:
    """Return the floating-point operations of our step, by torch's counter."""
    words = dict(zip(case.options[::2], case.options[1::2], strict=True))
    loss, net = words.get("--loss", "charbonnier"), words.get("--net", "edsr")
    settings = {"net": net, "width": int(words["--width"]) if "--width" in words else None}
    with training(corpus, corpus / "run", place.device, loss, batch=2, **settings) as trainer:
        (batch,) = batches_of(trainer, 1)
        with FlopCounterMode(display=False) as counter:
            trainer.train_step.run(batch, 0)
    return counter.get_total_flops() / 2 * case.batch


def bytes_of_step(case: Case, device: torch.device) -> float:
    """Return the least bytes of a step: what each layer reads and writes, thrice, and Adam's.

    Activations count two bytes (bf16), and pass once forward and twice backward; weights count
    seven passes of four bytes: gradient, both moments read and written, weight read and written.
    """
    step, layers = case.plain(), list[int]()

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        if not list(module.children()):
            layers.append(output.numel() + sum(x.numel() for x in inputs))

    with nn.modules.module.register_module_forward_hook(count):
        step(*(torch.randn(2, 3, case.side, case.side, device=device) for _ in range(2)))
    held = (cell.cell_contents for cell in step.__closure__ or ())
    networks = [value for value in held if isinstance(value, nn.Module)]
    weights = sum(p.numel() for network in networks for p in network.parameters())
    # The step had two images.
    return 3 * 2 * sum(layers) / 2 * case.batch + 7 * 4 * weights


def kernels(place: Place) -> Figures:
    """Profile steps of pix2pix and name the largest kernels."""
    from torch.profiler import ProfilerActivity, profile

    case = toy_case(CASES["unet-64"]) if place.toy else CASES["unet-64"]
    small = Case(case.plain, case.options, case.side, case.batch)
    corpus = corpus_of(place, small, case.batch)
    settings = {"net": "unet-64" if place.toy else "unet-256", "batch": case.batch}
    settings |= {"width": 4 if place.toy else 64, "precision": "bf16", "deterministic": "off"}
    kinds = [ProfilerActivity.CUDA if place.is_cuda else ProfilerActivity.CPU]
    with training(corpus, place.work / "run", place.device, "pix2pix", **settings) as trainer:
        batch, steps = next(iter(batches_of(trainer, 1))), 1 if place.toy else 5
        if place.is_cuda:
            trainer.train_step.nets = compile.compile_networks(trainer.state.nets, (), place.device)
        numbers = iter(range(100))
        run_steps(trainer, batch, numbers, steps)
        place.sync()
        with waits_of_host(place) as waits:
            run_steps(trainer, batch, numbers, steps)
        place.sync()
        began = time.perf_counter()
        with profile(activities=kinds) as profiler:
            run_steps(trainer, batch, numbers, steps)
            place.sync()
            took = time.perf_counter() - began
    key = "self_device_time_total" if place.is_cuda else "self_cpu_time_total"
    rows = (row for row in profiler.key_averages() if not row.is_user_annotation)
    found = {row.key: (getattr(row, key), row.count) for row in rows}
    largest = sorted(found, key=lambda name: -found[name][0])[:10]
    whole = sum(micros for micros, _ in found.values()) or 1
    return {
        "kernels": {name[:80]: f"{found[name][0] / whole:.1%}" for name in largest},
        "kernels a step": round(sum(n for micros, n in found.values() if micros) / steps, 1),
        "busy": round(whole / 1e6 / took, 3),
        "waits of the host": list(waits),
    }


def run_steps(trainer: Trainer, batch: Any, numbers: Iterator[int], count: int) -> None:
    for number in itertools.islice(numbers, count):
        trainer.train_step.run(batch, number)


@contextlib.contextmanager
def waits_of_host(place: Place) -> Iterator[set[str]]:
    """Yield a set of the places where the host waits for the device in the block; none should."""
    found = set[str]()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if place.is_cuda:
            torch.cuda.set_sync_debug_mode("warn")
        yield found
        if place.is_cuda:
            torch.cuda.set_sync_debug_mode("default")
    found |= {f"{x.filename}:{x.lineno}" for x in caught if "synchroniz" in str(x.message)}


def facades(place: Place) -> Figures:
    """Train pix2pix on facades, 200 epochs, and score it on the split ``val``."""
    corpus = Path(os.environ["IMG2IMG_FACADES"])
    out, scores = place.work / "facades", place.work / "scores"
    size = ["--epochs", 1, "--net", "unet-64", "--width", 4] if place.toy else ["--epochs", 200]
    words = ["--preset", "pix2pix", "--direction", "BtoA", "--batch", 8, "--no-report"]
    run_words("fit", corpus, *words, *size, "--out", out, "--device", place.device.type)
    run_words("evaluate", out, "--on", corpus, "--split", "val", "--out", scores)
    page = json.loads(next(scores.rglob("*.json")).read_text())
    return {"scores": page}


# ----------------------------------------------------------------------------------------- sections
@dataclass(frozen=True, slots=True)
class Section:
    """A measurement and the seconds that it may take on a GPU."""

    run: Callable[[Place], Figures]
    seconds: int


LAWS: dict[str, Section] = {
    law.__name__: Section(law, seconds)
    for law, seconds in (
        (compiling, 100),
        (precisions, 60),
        (resume, 60),
        (objectives, 60),
        (onnx, 40),
        (restoring, 30),
        (degradation, 20),
        (caches, 20),
        (memory, 20),
    )
}
SECTIONS: dict[str, Section] = {
    "machine": Section(machine, 30),
    **LAWS,
    **{name: Section(speed(name), 60) for name in CASES},
    "kernels": Section(kernels, 40),
    "modes": Section(modes, 60),
}
SAME_AS_TOYS = {"edsr", "unet-1", "unet-16", "unet-64"}
"""Cases that a rehearsal leaves out: at its size they are the case ``autoencoder``."""


def run_one(name: str, toy: bool) -> None:
    """Run a section in this process and print its figures, the last line of its output."""
    device = torch.device("cpu" if toy else "cuda")
    if toy:
        # Traces as the compiler does, but generates no code: seconds instead of minutes.
        compile.BACKEND = "aot_eager"
        torch.set_num_threads(1)
    run = facades if name == "facades" else SECTIONS[name].run
    with work_folder() as work, contextlib.redirect_stdout(sys.stderr):
        figures = run(Place(device, Path(work), toy))
    print(json.dumps(figures))


def measure(name: str, toy: bool, limit: float, peaks: Figures) -> Figures:
    """Run a section in a process of its own; what goes wrong there is a figure, too."""
    command = [sys.executable, __file__, "--one", name, *(["--rehearse"] if toy else [])]
    # Torch looks at the first one before its first product, which here may be that of a plain loop.
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", **os.environ}
    environment["IMG2IMG_PEAKS"] = json.dumps(peaks)
    began = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # Those that it started, too: they would hold the device.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"ok": False, "error": f"took more than {limit:.0f} s"}
    seconds = {"seconds": round(time.monotonic() - began, 1)}
    if process.returncode:
        return {"ok": False, "error": errors.strip()[-1500:], **seconds}
    return {**json.loads(out.splitlines()[-1]), **seconds}


def main() -> None:
    """Run the sections, print a line of JSON for each, and exit with 1 if a law does not hold."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--only", choices=[*SECTIONS, "facades"], action="append", help="may be repeated")
    add("--minutes", type=float, default=MINUTES, help="time for all sections")
    add("--facades", type=Path, help="a corpus of facades, to train pix2pix on if time is left")
    add("--out", type=Path, default=Path("gpu.json"), help="file of the figures")
    add("--rehearse", action="store_true", help="run on the CPU at toy sizes")
    add("--dry-run", action="store_true", help="print the sections and run nothing")
    add("--one", help="run one section in this process")
    args = parser.parse_args()
    if args.facades:
        os.environ["IMG2IMG_FACADES"] = str(args.facades.resolve())
    if args.one:
        run_one(args.one, args.rehearse)
        return
    names = list(dict.fromkeys(args.only or [*SECTIONS, *(["facades"] if args.facades else [])]))
    if args.rehearse and not args.only:
        names = [name for name in names if name not in SAME_AS_TOYS]
    limits = {name: SECTIONS[name].seconds if name in SECTIONS else 600 for name in names}
    if args.dry_run:
        print("\n".join(f"{name:12} {limit:4} s" for name, limit in limits.items()))
        return
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --rehearse runs on the CPU")
    end, rows = time.monotonic() + 60 * args.minutes, dict[str, Figures]()

    def run(name: str) -> Figures:
        left = end - time.monotonic()
        if left < min(20, limits.get(name, 20)):
            return {"skipped": "no time left"}
        limit = left if args.rehearse else min(left, 3 * limits.get(name, 30))
        return measure(name, args.rehearse, limit, rows.get("machine", {}))

    def record(name: str, figures: Figures) -> None:
        rows[name] = figures
        print(json.dumps({name: figures}), flush=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")

    record("machine", run("machine"))
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as pool:
        laws = {pool.submit(run, name): name for name in names if name in LAWS}
        for law in as_completed(laws):
            record(laws[law], law.result())
    for name in (name for name in names if name not in rows):
        record(name, run(name))
    broken = [name for name, row in rows.items() if row.get("ok", True) is False]
    sys.exit(f"not as they should be: {', '.join(broken)}" if broken else 0)


if __name__ == "__main__":
    main()
