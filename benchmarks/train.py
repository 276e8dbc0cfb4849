"""Training speed of img2img-train, beside a plain loop measured in the same run.

::

    python benchmarks/train.py --photos PHOTOS                          every case
    python benchmarks/train.py --photos PHOTOS --only unet-1 --seconds 20
    python benchmarks/train.py --photos PHOTOS --seconds 8 --steps 1    if a step takes a minute
    python benchmarks/train.py --photos PHOTOS --only end-edsr          scores after a run

PHOTOS is any folder of JPEG photos; the training images are cut from them. Each case runs
``--rounds`` times, both loops in turn, each in a process of its own:

    plain    a float32 eager loop as in tutorials: a Dataset that opens PNG files with Pillow, a
             DataLoader with two workers, networks in plain PyTorch, Adam, ``loss.item()`` per step
    img2img  img2img-train on the same images as a corpus, with its defaults

The plain loop runs one step to warm up, then for ``--seconds``, at least ``--steps`` steps. The
other one runs one epoch to warm up, then as many steps, rounded up to a complete epoch. Figures:
images per second, the share of the time spent waiting for data, the peak memory of the process (on
CUDA: of the device), and with ``--peak-tflops`` the share of the chip's peak: operations of the
plain step (``torch.utils.flop_counter``) times the rate of img2img-train.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from data import argument_parser, make_images, work_folder
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MAX_STEPS = 100_000


# ------------------------------------------------------------------- networks as in tutorials
class PlainAutoencoder(nn.Module):
    """Convolutional autoencoder of the original work: four levels."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 5, 2, 2), nn.LeakyReLU(0.2)]
        for a, b in ((64, 128), (128, 256), (256, 512)):
            layers += [nn.Conv2d(a, b, 5, 2, 2), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        for a, b in ((512, 256), (256, 128), (128, 64)):
            layers += [nn.ConvTranspose2d(a, b, 5, 2, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.ConvTranspose2d(64, 3, 5, 2, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainUNet(nn.Module):
    """U-Net of pix2pix: eight levels."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [64, 128, 256, 512, 512, 512, 512, 512]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, out in enumerate(sizes):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            layers.append(nn.Conv2d(sizes[i - 1] if i else 3, out, 4, 2, 1))
            layers += [nn.BatchNorm2d(out)] if 0 < i < 7 else []
            self.down.append(nn.Sequential(*layers))
        for i in range(7, 0, -1):
            inputs = sizes[i] if i == 7 else 2 * sizes[i]
            layers = [
                nn.ReLU(),
                nn.ConvTranspose2d(inputs, sizes[i - 1], 4, 2, 1),
                nn.BatchNorm2d(sizes[i - 1]),
            ]
            self.up.append(nn.Sequential(*layers, *([nn.Dropout(0.5)] if 7 > i > 3 else [])))
        self.last = nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(128, 3, 4, 2, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for up, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            x = torch.cat([up(x), skip], 1)
        return self.last(x)


class PlainEdsr(nn.Module):
    """EDSR behind a pixel unshuffle: four blocks of 48 channels, added to its input."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(nn.Conv2d(48, 48, 3, 1, 1), nn.ReLU(), nn.Conv2d(48, 48, 3, 1, 1))
            for _ in range(4)
        ]
        self.first, self.blocks = nn.Conv2d(12, 48, 3, 1, 1), nn.ModuleList(blocks)
        self.last = nn.Conv2d(48, 12, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.first(nn.functional.pixel_unshuffle(x, 2))
        for block in self.blocks:
            features = features + block(features)
        return x + nn.functional.pixel_shuffle(self.last(features), 2)


class PlainPatchGAN(nn.Module):
    """PatchGAN discriminator with a receptive field of 70 pixels."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
            layers += [nn.Conv2d(a, b, 4, stride, 1), norm(b), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainBlock(nn.Module):
    """Residual block of CycleGAN."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (
            [nn.ReflectionPad2d(1), nn.Conv2d(256, 256, 3), nn.InstanceNorm2d(256)]
            for _ in range(2)
        )
        self.net = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class PlainResNet(nn.Module):
    """Generator of CycleGAN: nine blocks."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, 64, 7),
            nn.InstanceNorm2d(64),
            nn.ReLU(),
        ]
        for a, b in ((64, 128), (128, 256)):
            layers += [nn.Conv2d(a, b, 3, 2, 1), nn.InstanceNorm2d(b), nn.ReLU()]
        layers += [PlainBlock() for _ in range(9)]
        for a, b in ((256, 128), (128, 64)):
            layers += [nn.ConvTranspose2d(a, b, 3, 2, 1, 1), nn.InstanceNorm2d(b), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(64, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


# ---------------------------------------------------------------------- steps as in tutorials
Step: TypeAlias = Callable[[Tensor, Tensor], float]
"""Trains on inputs and targets and returns the loss."""


def adam(*networks: nn.Module) -> torch.optim.Adam:
    """Return an optimizer of networks with the settings of pix2pix and CycleGAN."""
    return torch.optim.Adam([p for n in networks for p in n.parameters()], 2e-4, (0.5, 0.999))


def plain_l2() -> Step:
    """Return a step of an autoencoder with MSE."""
    return _plain_step(PlainAutoencoder(), nn.functional.mse_loss)


def plain_l1() -> Step:
    """Return a step of EDSR with L1."""
    return _plain_step(PlainEdsr(), nn.functional.l1_loss)


def _plain_step(net: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Step:
    net = net.to(DEVICE)
    optimizer = adam(net)

    def step(a: Tensor, b: Tensor) -> float:
        loss = loss_of(net(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def plain_pix2pix() -> Step:
    """Return a step of pix2pix: U-Net and a conditional PatchGAN, BCE and L1."""
    net, discriminator = PlainUNet().to(DEVICE), PlainPatchGAN(6, nn.BatchNorm2d).to(DEVICE)
    optimizer, d_optimizer = adam(net), adam(discriminator)
    bce = nn.BCEWithLogitsLoss()

    def step(a: Tensor, b: Tensor) -> float:
        fake = net(a)
        on_real = discriminator(torch.cat([a, b], 1))
        on_fake = discriminator(torch.cat([a, fake.detach()], 1))
        loss = (
            bce(on_real, torch.ones_like(on_real)) + bce(on_fake, torch.zeros_like(on_fake))
        ) / 2
        d_optimizer.zero_grad()
        loss.backward()
        d_optimizer.step()
        logits = discriminator(torch.cat([a, fake], 1))
        total = bce(logits, torch.ones_like(logits)) + 100 * nn.functional.l1_loss(fake, b)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return loss.item() + total.item()

    return step


def plain_cyclegan() -> Step:
    """Return a step of CycleGAN: two ResNets, two PatchGANs, cycle and identity losses."""
    g_a, g_b = PlainResNet().to(DEVICE), PlainResNet().to(DEVICE)
    d_a, d_b = (PlainPatchGAN(3, nn.InstanceNorm2d).to(DEVICE) for _ in range(2))
    optimizer, d_optimizer = adam(g_a, g_b), adam(d_a, d_b)
    mse, l1 = nn.functional.mse_loss, nn.functional.l1_loss

    def generator_loss(logits: Tensor) -> Tensor:
        return mse(logits, torch.ones_like(logits))

    def discriminator_loss(net: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        logits = net(fake.detach())
        return (generator_loss(net(real)) + mse(logits, torch.zeros_like(logits))) / 2

    def step(a: Tensor, b: Tensor) -> float:
        fake_b, fake_a = g_a(a), g_b(b)
        cycle = 10 * (l1(g_b(fake_b), a) + l1(g_a(fake_a), b))
        identity = 5 * (l1(g_a(b), b) + l1(g_b(a), a))
        total = generator_loss(d_b(fake_b)) + generator_loss(d_a(fake_a)) + cycle + identity
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        loss = discriminator_loss(d_a, a, fake_a) + discriminator_loss(d_b, b, fake_b)
        d_optimizer.zero_grad()
        loss.backward()
        d_optimizer.step()
        return total.item() + loss.item()

    return step


class PlainPairs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of images, float32 in [-1, 1], opened with Pillow."""

    def __init__(self, corpus: Path, sides: tuple[str, str]) -> None:
        first, second = (sorted((corpus / "train" / side).glob("*")) for side in sides)
        self.files = list(zip(first, second, strict=True))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images = (np.asarray(Image.open(p).convert("RGB")).copy() for p in self.files[index])
        a, b = (torch.from_numpy(p).permute(2, 0, 1).float() / 127.5 - 1 for p in images)
        return a, b


# -------------------------------------------------------------------------------------- cases
@dataclass(frozen=True, slots=True)
class Case:
    """One comparison: the plain step, options of ``fit``, side of the images, batch size, and the
    folders of inputs and targets.
    """

    plain: Callable[[], Step]
    options: tuple[str, ...]
    side: int
    batch: int
    sides: tuple[str, str] = ("input", "target")


PIX2PIX = ("--loss", "pix2pix", "--net", "unet-256")
CASES = {
    "autoencoder": Case(plain_l2, ("--loss", "l2", "--net", "autoencoder"), 64, 64),
    "edsr": Case(plain_l1, (), 64, 64),
    "unet-1": Case(plain_pix2pix, PIX2PIX, 256, 1),
    "unet-16": Case(plain_pix2pix, PIX2PIX, 256, 16),
    "unet-64": Case(plain_pix2pix, PIX2PIX, 256, 64),
    "cyclegan": Case(
        plain_cyclegan, ("--loss", "cyclegan", "--net", "resnet-9"), 256, 1, ("A", "B")
    ),
}


def run_plain(case: Case, corpus: Path, seconds: float, least: int) -> dict[str, Any]:
    """Run the plain loop for ``seconds``, at least ``least`` steps, after one step to warm up."""
    step, pairs = case.plain(), PlainPairs(corpus, case.sides)
    order = RandomSampler(pairs, replacement=True, num_samples=(1 + MAX_STEPS) * case.batch)
    loader = DataLoader(pairs, case.batch, sampler=order, num_workers=2)
    began, waited, done = 0.0, 0.0, -1
    for a, b, spent in _timed(iter(loader)):
        waited += spent
        step(a.to(DEVICE), b.to(DEVICE))
        done += 1
        if not done:
            began, waited = time.perf_counter(), 0.0
        if done >= max(1, least) and time.perf_counter() - began >= seconds:
            break
    took = time.perf_counter() - began
    return {"rate": done * case.batch / took, "waiting": waited / took, "steps": done, **_memory()}


def _timed(batches: Iterator[Any]) -> Iterator[tuple[Tensor, Tensor, float]]:
    while True:
        began = time.perf_counter()
        try:
            a, b = next(batches)
        except StopIteration:
            return
        yield a, b, time.perf_counter() - began


def run_img2img(case: Case, corpus: Path, steps: int, out: Path) -> dict[str, Any]:
    """Run img2img-train in this process, which makes its memory measurable."""
    from img2img_train.cli.main import main

    count = len(list((corpus / "train" / case.sides[0]).iterdir()))
    epoch = min(steps, count // case.batch)
    epochs = 1 + -(-steps // epoch)
    values = {"out": out, "device": DEVICE.type, "batch": case.batch, "epochs": epochs}
    values |= {"limit": epoch * case.batch, "checkpoint-seconds": 100_000}
    values |= {"samples-every": 0, "validate-every": 0}
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    try:
        main(["fit", str(corpus), *case.options, *options, "--no-report"])
    except SystemExit as end:
        if end.code:
            raise
    timing = map(json.loads, (out / "timing.jsonl").read_text().splitlines())
    first, *rows = (row for row in timing if "epoch" in row)  # the first epoch is to warm up
    took = sum(row["training_seconds"] for row in rows)
    waited = sum(row["waiting_for_data"] * row["training_seconds"] for row in rows)
    log = (json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
    seen = [row["images"] for row in log if row["kind"] == "train"]
    images = seen[-1] - seen[0]
    steps = images // case.batch
    found = {"rate": images / took, "waiting": waited / took, "steps": steps, **_memory()}
    return {**found, "first": first["training_seconds"]}


def images_of(case: Case) -> int:
    """Return the number of images of a case: on a GPU enough for an epoch of some seconds."""
    return case.batch * 64 if DEVICE.type == "cuda" else max(case.batch, 64)


def _memory() -> dict[str, float]:
    if DEVICE.type == "cuda":
        return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}


def flops(case: Case) -> float:
    """Return the floating-point operations per image of one plain step, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    step = case.plain()
    images = [torch.randn(2, 3, case.side, case.side, device=DEVICE) for _ in range(2)]
    with FlopCounterMode(display=False) as counter:
        step(*images)
    return counter.get_total_flops() / 2


def make_corpus(photos: Path, out: Path, case: Case, count: int) -> Path:
    """Cut PNG pairs and write them as a corpus that both loops read."""
    from img2img_data.corpus.format import CORPUS_FILE, FORMAT

    files = make_images(photos, out / "cut", count, case.side)
    for side in case.sides:
        (out / "train" / side).mkdir(parents=True)
    rows = []
    for path in files:
        clean, name = cv2.imdecode(np.fromfile(path, np.uint8), 1), f"{path.stem}.png"
        images = dict(zip(case.sides, (cv2.GaussianBlur(clean, (0, 0), 3), clean), strict=True))
        for side, pixels in images.items():
            (out / "train" / side / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        rows += _rows(path.stem, name, case)
    (out / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind = "unpaired" if case.sides == ("A", "B") else "paired"
    page = {"format": FORMAT, "kind": kind, "layout": "folders", "color": "rgb"}
    (out / CORPUS_FILE).write_text(json.dumps(page))
    return out


def _rows(key: str, name: str, case: Case) -> list[dict[str, str]]:
    if case.sides == ("A", "B"):
        return [{"key": key, "file_name": f"{side}/{name}", "domain": side} for side in case.sides]
    return [{"key": key, **{f"{side}_file_name": f"{side}/{name}" for side in case.sides}}]


# -------------------------------------------------------------------------- the end of a run
ENDS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...], int, int, int]] = {
    "end-edsr": (PlainEdsr, (), 64, 64, 1000),
    "end-edsr-256": (PlainEdsr, (), 256, 4, 250),
    "end-unet": (PlainUNet, PIX2PIX, 256, 16, 48),
}
"""The plain network, options of ``fit``, side of the images, batch size, and their number."""
PARTS = {"evaluate": "bare", "translate": "bare-save", "end": "bare", "first step": "plain step"}
"""What is measured, and the loop that it is compared with."""
PLAIN_STEP = """
import torch
net = torch.nn.Conv2d(3, 3, 3)
optimizer = torch.optim.Adam(net.parameters())
net(torch.rand(4, 3, 64, 64)).sum().backward()
optimizer.step()
"""
"""The least that a first step takes: at that of its optimizer torch imports its compiler."""


def prepare_end(name: str, photos: Path, work: Path) -> None:
    """Write a corpus, most of it for tests, and a run of two steps on it."""
    _, _, side, _, count = ENDS[name]
    make_images(photos, work / "cut", count, side)
    words = ["--size", str(side), "--split", "train=0.1,val=0.1,test=0.8"]
    for command in (
        ["img2img_data", "blur", work / "cut", work / "corpus", *words],
        ["img2img_train", "fit", *end_options(name, work), "--no-report"],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)


def end_options(name: str, work: Path) -> list[str]:
    """Return the options of the run whose end is measured."""
    options = [str(work / "corpus"), *ENDS[name][1], "--device", DEVICE.type]
    return [*options, "--max-steps", "2", "--out", str(work / "run")]


def run_end(loop: str, name: str, work: Path) -> None:
    """Run one loop or one command on the test images."""
    from img2img_train.cli.main import main

    run, corpus, out = work / "run", work / "corpus", work / "out"
    commands = {
        "evaluate": ["evaluate", run, "--on", corpus, "--out", out / "scores"],
        "translate": ["translate", run, corpus / "test" / "input", out / "images"],
    }
    if loop == "end":
        end_run(run, corpus)
    elif loop in commands:
        main([str(word) for word in commands[loop]])
    else:
        run_bare(name, corpus, out if loop == "bare-save" else None)


def end_run(run: Path, corpus: Path) -> None:
    """Do what ``fit`` does when all steps are done."""
    from img2img_train.evaluation.evaluate import evaluate_run
    from img2img_train.evaluation.settings import EvaluateSettings
    from img2img_train.report.page import write_run_report

    evaluate_run(run, corpus, EvaluateSettings(device=DEVICE.type))
    write_run_report(run)


@torch.inference_mode()
def run_bare(name: str, corpus: Path, out: Path | None) -> float:
    """Run the plain network on the test images; save the outputs, or return the mean PSNR."""
    build, _, _, batch, _ = ENDS[name]
    net, psnr = build().to(DEVICE).eval(), list[float]()
    files, targets = (sorted((corpus / "test" / s).glob("*")) for s in ("input", "target"))
    for start in range(0, len(files), batch):
        part = files[start : start + batch]
        output = net(torch.stack(list(map(_opened, part))).to(DEVICE)).cpu()
        if out is not None:
            out.mkdir(exist_ok=True)
            levels = output.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
            for path, pixels in zip(part, levels.numpy(), strict=True):
                Image.fromarray(pixels).save(out / path.name)
            continue
        target = torch.stack(list(map(_opened, targets[start : start + batch])))
        error = (output - target).square().mean((1, 2, 3))
        psnr += (10 * torch.log10(4 / error)).tolist()
    return statistics.mean(psnr) if psnr else 0.0


def _opened(path: Path) -> Tensor:
    pixels = np.asarray(Image.open(path).convert("RGB")).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def measure_end(name: str, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return seconds and CPU seconds of each part and of its loop, and their ratios; minima."""
    prepare_end(name, args.photos, work)
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(args.rounds):
        for loop in ("torch", *dict.fromkeys(PARTS.values()), *PARTS):
            shutil.rmtree(work / "out", ignore_errors=True)
            (work / "out").mkdir()
            if loop in {"torch", "plain step", "first step"}:
                step = ["-m", "img2img_train", "fit", *end_options(name, work), "--no-report"]
                step = [*step, "--max-steps", "1", "--limit", "8", "--out", str(work / "out")]
                plain = ["-c", "import torch" if loop == "torch" else PLAIN_STEP]
                spent = _seconds_of(step if loop == "first step" else plain)
            else:
                figures = in_own_process(loop, name, work, 0, 0, "-")
                spent = figures["seconds"], figures["cpu"]
            found.setdefault(loop, []).append(spent)
    best = {loop: [min(times) for times in zip(*rows, strict=True)] for loop, rows in found.items()}
    row: dict[str, Any] = {
        "what": name,
        "images": len(list((work / "corpus/test/input").glob("*"))),
    }
    row |= {loop: [round(seconds, 2) for seconds in times] for loop, times in best.items()}
    for part, loop in PARTS.items():
        row[f"{part}/{loop}"] = [
            round(a / b, 2) for a, b in zip(best[part], best[loop], strict=True)
        ]
    return row


def _seconds_of(words: list[str]) -> tuple[float, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after, took = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# ---------------------------------------------------------------------------------- measuring
def in_own_process(*words: Any) -> dict[str, Any]:
    """Run one measurement in a process of its own and return its last line of output."""
    command = [sys.executable, __file__, "--one", *map(str, words)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return figures


def measure_one(loop: str, name: str, corpus: str, seconds: str, steps: str, out: str) -> None:
    """Run one measurement and print its figures: loop "plain", "img2img", "flops", or an end."""
    if name in ENDS:
        # Torch is imported already; everything else is part of the time.
        began, cpu = time.perf_counter(), time.process_time()
        run_end(loop, name, Path(corpus))
        took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}
        print(json.dumps(took))
        return
    case = CASES[name]
    if loop == "plain":
        figures = run_plain(case, Path(corpus), float(seconds), int(steps))
    elif loop == "img2img":
        figures = run_img2img(case, Path(corpus), int(steps), Path(out))
    else:
        figures = {"flops": flops(case)}
    print(json.dumps(figures))


def measure(name: str, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the figures of a case, medians over the rounds."""
    case = CASES[name]
    corpus = make_corpus(args.photos, work / "corpus", case, images_of(case))
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "img2img": []}
    for number in range(args.rounds):
        steps, out = args.steps, work / f"run{number}"
        for loop, rows in found.items():
            rows.append(in_own_process(loop, name, corpus, args.seconds, steps, out))
            steps = rows[-1]["steps"]
    row: dict[str, Any] = {"what": name, "side": case.side, "batch": case.batch}
    for loop, rows in found.items():
        median = {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        row[loop] = {"images/s": round(median["rate"], 2), "waiting": f"{median['waiting']:.1%}"}
        row[loop] |= {"peak MB": round(median["peak_mb"]), "steps": int(median["steps"])}
    plain, own = (statistics.median(r["rate"] for r in rows) for rows in found.values())
    row["img2img/plain"] = round(own / plain, 2)
    if args.peak_tflops:
        per_image = in_own_process("flops", name, "-", 0, 0, "-")["flops"]
        row["share of peak"] = f"{per_image * own / (args.peak_tflops * 1e12):.1%}"
    return row


def main() -> None:
    """Measure the selected cases and print a line of JSON for each."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--photos", type=Path, help="any folder of JPEG photos")
    add("--seconds", type=float, default=15, help="duration of the plain loop")
    add("--steps", type=int, default=2, help="least number of steps of the plain loop")
    add("--rounds", type=int, default=1)
    add("--only", choices=[*CASES, *ENDS], action="append", help="case to run; may be repeated")
    add("--peak-tflops", type=float, help="peak of the chip in bf16, from its data sheet")
    add("--one", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure_one(*args.one)
        return
    if args.photos is None:
        parser.error("--photos is missing: give a folder of JPEG photos")
    cuda = DEVICE.type == "cuda"
    chip = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    start = {"device": chip, "torch": torch.__version__, "rounds": args.rounds}
    print(json.dumps(start), flush=True)
    for name in args.only or [*CASES, *ENDS]:
        with work_folder() as work:
            kind = measure_end if name in ENDS else measure
            print(json.dumps(kind(name, args, Path(work))), flush=True)


if __name__ == "__main__":
    main()
