"""Does a build stay small and quick from ten thousand sources to a million?

Called by ``benchmarks/data.py --scale``. Each size is run as a whole process over hard links to tiny JPEGs
(8x8, a thousand names to a folder); the smaller size before and after the larger one, medians of its rounds.
Looked at from outside: the highest memory of the parent (VmHWM), when the first image stands under its
final name, and the time from then to the end, manifests included, for each image.
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
MOST_MEMORY_MB = 300
LATEST_FIRST_S = 10
SLOWEST_RATIO = 1.1
BYTES_A_SOURCE = 6_500
"""What one source takes in memory on a RAM disk: a image's page, its inode and name, rows, a link."""


@dataclass(frozen=True)
class Measured:
    peak_mb: float
    first_s: float
    each_us: float
    cpu_us: float
    seconds: float


def write_sources(out: Path, count: int) -> Path:
    """Write ``count`` names of tiny JPEGs; every thousand share their bytes, for inodes are dear."""
    for start in range(0, count, FOLDER):
        folder = out / f"{start // FOLDER:05d}"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(start).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        first = folder / f"{start:08d}.jpg"
        first.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        for number in range(start + 1, min(start + FOLDER, count)):
            os.link(first, folder / f"{number:08d}.jpg")
    return out


def run_once(source: Path, out: Path, count: int, jobs: int) -> Measured:
    command = [sys.executable, "-m", "img2img_data", "blur", str(source), str(out)]
    command += ["--sigma", "1", "--layout", "combined", "--jobs", str(jobs)]
    began, first, peak = time.monotonic(), 0.0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        peak = max(peak, _high_water(process.pid))
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
    return Measured(
        peak / 1024, first - began, 1e6 * (end - first) / count, 1e6 * cpu / count, end - began
    )


def _high_water(process: int) -> int:
    """Return the highest resident memory of a process so far, kB."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), default=0)


def measure_scale(count: int, rounds: int, jobs: int, work: Path) -> None:
    """Measure both sizes and print a table, and which of the aims hold."""
    room, needed = shutil.disk_usage(work).free, count * BYTES_A_SOURCE
    if room < needed:
        raise SystemExit(
            f"'{work}' has {room >> 30} GB, this takes {needed >> 30}; give --work elsewhere"
        )
    small, large = write_sources(work / "small", SMALL), write_sources(work / "large", count)
    before = [run_once(small, work / "out", SMALL, jobs) for _ in range(rounds)]
    whole = run_once(large, work / "out", count, jobs)
    after = [run_once(small, work / "out", SMALL, jobs) for _ in range(rounds)]
    few = _medians([*before, *after])
    print(
        f"{'sources':>10} {'peak MB':>8} {'first s':>8} {'us each':>8} {'CPU us each':>12} {'whole s':>8}"
    )
    for size, m in ((SMALL, few), (count, whole)):
        print(
            f"{size:>10,} {m.peak_mb:>8.1f} {m.first_s:>8.2f} {m.each_us:>8.0f} {m.cpu_us:>12.0f} "
            f"{m.seconds:>8.1f}"
        )
    ratio = whole.each_us / few.each_us
    for aim, holds in {
        f"peak memory of the parent {whole.peak_mb:.0f} MB, under {MOST_MEMORY_MB}": whole.peak_mb
        < MOST_MEMORY_MB,
        f"first image after {whole.first_s:.1f} s, within {LATEST_FIRST_S}": whole.first_s
        < LATEST_FIRST_S,
        f"time for each image {ratio:.2f} of that at {SMALL:,}, at most {SLOWEST_RATIO}": ratio
        <= SLOWEST_RATIO,
    }.items():
        print(f"{'holds' if holds else 'FAILS'}: {aim}")


def _medians(found: list[Measured]) -> Measured:
    columns = zip(*(vars(m).values() for m in found), strict=True)
    return Measured(*(statistics.median(c) for c in columns))
