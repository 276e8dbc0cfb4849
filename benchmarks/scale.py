"""Memory, start and speed of a build with ten thousand sources and with a million.

Called by ``benchmarks/data.py --scale``. Each size is a process of its own over hard links to tiny
JPEGs (8x8, a thousand names in each folder). The smaller size runs before and after the larger one,
and its figures are medians of these rounds.

Measured from outside: the peak memory of the parent (VmHWM), the time until the first image has its
final name, and the time from then to the end, manifests included, per image.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

SMALL = 10_000
FOLDER = 1_000
MAX_MEMORY_MB = 300
MAX_FIRST_S = 10
MAX_RATIO = 1.1
# On a RAM disk: the page of an image, its inode and name, its rows, and a link.
BYTES_PER_SOURCE = 6_500


@dataclass(frozen=True)
class Build:
    """Figures of one build: peak memory, seconds to the first image, microseconds per image."""

    peak_mb: float
    first_s: float
    each_us: float
    cpu_us: float
    seconds: float


def write_sources(out: Path, count: int) -> Path:
    """Write ``count`` names of tiny JPEGs, a thousand links to each file: inodes cost memory."""
    for start in range(0, count, FOLDER):
        folder = out / f"{start // FOLDER:05d}"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(start).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        first = folder / f"{start:08d}.jpg"
        first.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        for number in range(start + 1, min(start + FOLDER, count)):
            os.link(first, folder / f"{number:08d}.jpg")
    return out


def run_build(source: Path, out: Path, count: int, jobs: int) -> Build:
    """Run one build and measure it."""
    command = [sys.executable, "-m", "img2img_data", "blur", str(source), str(out)]
    command += ["--sigma", "1", "--layout", "combined", "--jobs", str(jobs)]
    began, first, peak = time.monotonic(), 0.0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        peak = max(peak, peak_memory_kb(process.pid))
        if not first and any(out.glob("train/*/*.png")):
            first = time.monotonic()
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.02)
    end = time.monotonic()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not (out / "corpus.json").is_file():
        raise SystemExit(f"the build of {count:,} sources failed")
    shutil.rmtree(out)
    cpu = usage.ru_utime + usage.ru_stime
    each_us, cpu_us = 1e6 * (end - first) / count, 1e6 * cpu / count
    return Build(peak / 1024, first - began, each_us, cpu_us, end - began)


def peak_memory_kb(process: int) -> int:
    """Return the peak resident memory of a process so far in kB, 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)


def measure_scale(count: int, rounds: int, jobs: int, work: Path) -> None:
    """Build both sizes, print a table, and print which of the aims are met."""
    free, needed = shutil.disk_usage(work).free, count * BYTES_PER_SOURCE
    if free < needed:
        why = f"'{work}' has {free >> 30} GB free, {needed >> 30} GB are needed"
        raise SystemExit(f"{why}; give another folder by --work")
    small, large = write_sources(work / "small", SMALL), write_sources(work / "large", count)
    builds = [run_build(small, work / "out", SMALL, jobs) for _ in range(rounds)]
    many = run_build(large, work / "out", count, jobs)
    builds += [run_build(small, work / "out", SMALL, jobs) for _ in range(rounds)]
    columns = zip(*(vars(build).values() for build in builds), strict=True)
    few = Build(*(statistics.median(values) for values in columns))
    print("   sources  peak MB  first s  us each  CPU us each  total s")
    for size, b in ((SMALL, few), (count, many)):
        speed = f"{b.each_us:>8.0f} {b.cpu_us:>12.0f} {b.seconds:>8.1f}"
        print(f"{size:>10,} {b.peak_mb:>8.1f} {b.first_s:>8.2f} {speed}")
    ratio = many.each_us / few.each_us
    aims = [
        ("peak memory of the parent in MB", many.peak_mb, MAX_MEMORY_MB),
        ("seconds to the first image", many.first_s, MAX_FIRST_S),
        (f"time per image, as a ratio to that with {SMALL:,}", ratio, MAX_RATIO),
    ]
    for aim, value, most in aims:
        print(f"{'met' if value <= most else 'NOT MET'}: {aim}: {value:.2f}, at most {most}")
