"""How fast training is, beside a plain loop, measured in turn in one run.

    python benchmarks/train.py --photos PHOTOS                          every case
    python benchmarks/train.py --photos PHOTOS --only unet-1 --seconds 20
    python benchmarks/train.py --photos PHOTOS --seconds 8 --steps 1    where a step may take a minute

PHOTOS is any folder of JPEG photos; the images trained on are cut from them. Each case runs in processes of
its own, in turn, ``--rounds`` times:

    plain   a fp32 eager loop the way tutorials write it: a Dataset that opens PNG files with Pillow, a
            DataLoader with two workers, networks in plain PyTorch, Adam, ``loss.item()`` at every step
    ours    img2img-train on the same images as a corpus, with its defaults

The plain loop takes a step to warm up, then steps for ``--seconds``, ``--steps`` at the least; ours as many
up to a whole epoch, after an epoch to warm up. Figures: images per second, the share of the time spent
waiting for data, the peak of the process's memory (on CUDA: of the device's), and with ``--peak-tflops`` the
share of the chip's peak: operations of the plain step (``torch.utils.flop_counter``) times our rate.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from data import make_images, ram_disk
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MOST = 100_000
"""Steps that a plain loop may take."""


# -------------------------------------------------------------------------- networks as tutorials write them
class PlainAutoencoder(nn.Module):
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
        seen = []
        for down in self.down:
            x = down(x)
            seen.append(x)
        for up, skip in zip(self.up, reversed(seen[:-1]), strict=True):
            x = torch.cat([up(x), skip], 1)
        return self.last(x)


class PlainPatchGAN(nn.Module):
    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 64, 4, 2, 1), nn.LeakyReLU(0.2)]
        for a, b, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
            layers += [nn.Conv2d(a, b, 4, stride, 1), norm(b), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PlainBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        half = [nn.ReflectionPad2d(1), nn.Conv2d(256, 256, 3), nn.InstanceNorm2d(256)]
        more = [nn.ReflectionPad2d(1), nn.Conv2d(256, 256, 3), nn.InstanceNorm2d(256)]
        self.net = nn.Sequential(*half, nn.ReLU(), *more)

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


# ------------------------------------------------------------------------------ steps as tutorials write them
Step = Callable[[Tensor, Tensor], float]


def adam(*networks: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([p for n in networks for p in n.parameters()], 2e-4, (0.5, 0.999))


def plain_l2() -> Step:
    net = PlainAutoencoder().to(DEVICE)
    optimizer = adam(net)

    def step(a: Tensor, b: Tensor) -> float:
        loss = nn.functional.mse_loss(net(a), b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def plain_pix2pix() -> Step:
    net, judge = PlainUNet().to(DEVICE), PlainPatchGAN(6, nn.BatchNorm2d).to(DEVICE)
    optimizer, judges = adam(net), adam(judge)
    bce = nn.BCEWithLogitsLoss()

    def step(a: Tensor, b: Tensor) -> float:
        fake = net(a)
        real_said, fake_said = judge(torch.cat([a, b], 1)), judge(torch.cat([a, fake.detach()], 1))
        loss = (
            bce(real_said, torch.ones_like(real_said)) + bce(fake_said, torch.zeros_like(fake_said))
        ) / 2
        judges.zero_grad()
        loss.backward()
        judges.step()
        said = judge(torch.cat([a, fake], 1))
        total = bce(said, torch.ones_like(said)) + 100 * nn.functional.l1_loss(fake, b)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return loss.item() + total.item()

    return step


def plain_cyclegan() -> Step:
    there, back = PlainResNet().to(DEVICE), PlainResNet().to(DEVICE)
    judge_a, judge_b = (PlainPatchGAN(3, nn.InstanceNorm2d).to(DEVICE) for _ in range(2))
    optimizer, judges = adam(there, back), adam(judge_a, judge_b)
    mse, l1 = nn.functional.mse_loss, nn.functional.l1_loss

    def fooled(said: Tensor) -> Tensor:
        return mse(said, torch.ones_like(said))

    def judged(judge: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        said = judge(fake.detach())
        return (fooled(judge(real)) + mse(said, torch.zeros_like(said))) / 2

    def step(a: Tensor, b: Tensor) -> float:
        fake_b, fake_a = there(a), back(b)
        cycle = 10 * (l1(back(fake_b), a) + l1(there(fake_a), b))
        identity = 5 * (l1(there(b), b) + l1(back(a), a))
        total = fooled(judge_b(fake_b)) + fooled(judge_a(fake_a)) + cycle + identity
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        loss = judged(judge_a, a, fake_a) + judged(judge_b, b, fake_b)
        judges.zero_grad()
        loss.backward()
        judges.step()
        return total.item() + loss.item()

    return step


class PlainPairs(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, corpus: Path, sides: tuple[str, str]) -> None:
        first, second = (sorted((corpus / "train" / side).glob("*")) for side in sides)
        self.files = list(zip(first, second, strict=True))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images = (np.asarray(Image.open(p).convert("RGB")).copy() for p in self.files[index])
        a, b = (torch.from_numpy(p).permute(2, 0, 1).float() / 127.5 - 1 for p in images)
        return a, b


# --------------------------------------------------------------------------------------------------- cases
@dataclass(frozen=True, slots=True)
class Case:
    """What is trained: the plain step, our options, side of the images, batch, and where they lie."""

    plain: Callable[[], Step]
    options: tuple[str, ...]
    side: int
    batch: int
    sides: tuple[str, str] = ("input", "target")


PIX2PIX = ("--loss", "pix2pix", "--net", "unet-256")
CASES = {
    "autoencoder": Case(plain_l2, ("--loss", "l2", "--net", "autoencoder"), 64, 64),
    "unet-1": Case(plain_pix2pix, PIX2PIX, 256, 1),
    "unet-16": Case(plain_pix2pix, PIX2PIX, 256, 16),
    "unet-64": Case(plain_pix2pix, PIX2PIX, 256, 64),
    "cyclegan": Case(
        plain_cyclegan, ("--loss", "cyclegan", "--net", "resnet-9"), 256, 1, ("A", "B")
    ),
}


def run_plain(case: Case, corpus: Path, seconds: float, least: int) -> dict[str, Any]:
    """One step, then as many as there is time for."""
    step, pairs = case.plain(), PlainPairs(corpus, case.sides)
    order = RandomSampler(pairs, replacement=True, num_samples=(1 + MOST) * case.batch)
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


def run_ours(case: Case, corpus: Path, steps: int, out: Path) -> dict[str, Any]:
    """The same by img2img-train, in this process so that its memory is seen."""
    from img2img_train.cli.main import main

    epoch = min(steps, images_of(case) // case.batch)
    epochs = 1 + -(-steps // epoch)
    words = [str(corpus), *case.options, "--out", str(out), "--no-report", "--device", DEVICE.type]
    words += [
        "--limit",
        str(epoch * case.batch),
        "--batch",
        str(case.batch),
        "--epochs",
        str(epochs),
    ]
    words += ["--samples-every", "0", "--validate-every", "0", "--checkpoint-seconds", "100000"]
    try:
        main(words)
    except SystemExit as end:
        if end.code:
            raise
    rows = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()[1:]]
    took = sum(row["training_seconds"] for row in rows)
    waited = sum(row["waiting_for_data"] * row["training_seconds"] for row in rows)
    rate = len(rows) * epoch * case.batch / took
    return {"rate": rate, "waiting": waited / took, "steps": len(rows) * epoch, **_memory()}


def images_of(case: Case) -> int:
    """Return how many images a case is measured on: on a GPU enough for epochs that take a while."""
    return case.batch * 64 if DEVICE.type == "cuda" else max(case.batch, 64)


def _memory() -> dict[str, float]:
    if DEVICE.type == "cuda":
        return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}


def flops(case: Case) -> float:
    """Return the floating-point operations of one plain step, a image, by torch's own counter."""
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
    (out / CORPUS_FILE).write_text(
        json.dumps({"format": FORMAT, "kind": kind, "layout": "folders", "color": "rgb"})
    )
    return out


def _rows(key: str, name: str, case: Case) -> list[dict[str, str]]:
    if case.sides == ("A", "B"):
        return [{"key": key, "file_name": f"{side}/{name}", "domain": side} for side in case.sides]
    return [{"key": key, **{f"{side}_file_name": f"{side}/{name}" for side in case.sides}}]


# ----------------------------------------------------------------------------------------------- measuring
def alone(*words: str) -> dict[str, Any]:
    """Run one measurement in a process of its own and return what it printed last."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def one(words: list[str]) -> None:
    way, name, corpus, *numbers, out = words
    case = CASES[name]
    if way == "plain":
        found = run_plain(case, Path(corpus), float(numbers[0]), int(numbers[1]))
    elif way == "ours":
        found = run_ours(case, Path(corpus), int(numbers[1]), Path(out))
    else:
        found = {"flops": flops(case)}
    print(json.dumps(found))


def measure(name: str, args: argparse.Namespace, work: Path) -> dict[str, Any]:
    case = CASES[name]
    corpus = make_corpus(args.photos, work / "corpus", case, images_of(case))
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    steps = args.steps
    for number in range(args.rounds):
        for way, rows in found.items():
            rows.append(
                alone(
                    way,
                    name,
                    str(corpus),
                    str(args.seconds),
                    str(steps),
                    str(work / f"run{number}"),
                )
            )
            steps = rows[-1]["steps"] if way == "plain" else args.steps
    row: dict[str, Any] = {"what": name, "side": case.side, "batch": case.batch}
    for way, rows in found.items():
        median = {key: statistics.median(r[key] for r in rows) for key in rows[0]}
        row[way] = {"images/s": round(median["rate"], 2), "waiting": f"{median['waiting']:.1%}"}
        row[way] |= {"peak MB": round(median["peak_mb"]), "steps": int(median["steps"])}
    rates = [statistics.median(r["rate"] for r in rows) for rows in found.values()]
    row["ours/plain"] = round(rates[1] / rates[0], 2)
    if args.peak_tflops:
        a_image = alone("flops", name, "-", "0", "0", "-")["flops"]
        row["share of peak"] = f"{a_image * rates[1] / (args.peak_tflops * 1e12):.1%}"
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="any folder of JPEG photos")
    parser.add_argument(
        "--seconds", type=float, default=15, help="how long the plain loop is measured"
    )
    parser.add_argument("--steps", type=int, default=2, help="but for so many steps at least")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=CASES, action="append")
    parser.add_argument(
        "--peak-tflops", type=float, help="the chip's peak in bf16, from its data sheet"
    )
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one)
        return
    chip = (
        torch.cuda.get_device_name()
        if DEVICE.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    print(
        json.dumps({"device": chip, "torch": torch.__version__, "rounds": args.rounds}), flush=True
    )
    for name in args.only or CASES:
        with tempfile.TemporaryDirectory(prefix="img2img-bench-", dir=ram_disk()) as work:
            print(json.dumps(measure(name, args, Path(work))), flush=True)


if __name__ == "__main__":
    main()
