"""Scale: a build with ten thousand sources and with a million, a cluster, and shards with a merge.

Called by ``benchmarks/data.py``, ``--scale``, ``--only cluster`` and ``--merge``.

``--scale``: memory, start and speed. Each size is a process of its own over hard links to tiny
JPEGs (8x8, a thousand names in each folder). The smaller size runs before and after the larger one,
and its figures are medians of these rounds.

Measured from outside: the peak memory of the parent (VmHWM), the time until the first image has its
final name, and the time from then to the end, manifests included, per image.

``--only cluster``: seconds and CPU seconds of a build by ``--jobs 2`` and by ``--backend dask`` on
a local cluster of two workers that has started before.

``--merge``: CPU seconds of all shards of a build, of the merge, and of what follows it, all
processes included, and the bytes of a pair.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from img2img_data.corpus.reader import open_corpus

SMALL = 10_000
FOLDER = 1_000
MAX_MEMORY_MB = 300
MAX_FIRST_S = 10
MAX_RATIO = 1.1
MAX_DASK = 1.2
MAX_MERGE = 0.03
SHARDS = 4
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


def write_sources(out: Path, count: int, photos: Sequence[Path] = ()) -> Path:
    """Write ``count`` names of JPEGs, a thousand links to each file: inodes cost memory.

    The files are copies of the photos, by turns, or tiny without any.
    """
    for start in range(0, count, FOLDER):
        folder = out / f"{start // FOLDER:05d}"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(start).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        first = folder / f"{start:08d}.jpg"
        if photos:
            shutil.copyfile(photos[start // FOLDER % len(photos)], first)
        else:
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
    print_aim("peak memory of the parent in MB", many.peak_mb, MAX_MEMORY_MB)
    print_aim("seconds to the first image", many.first_s, MAX_FIRST_S)
    print_aim(f"time per image, as a ratio to that with {SMALL:,}", ratio, MAX_RATIO)


def print_aim(aim: str, value: float, most: float) -> None:
    """Print whether a figure is small enough."""
    print(f"{'met' if value <= most else 'NOT MET'}: {aim}: {value:.3g}, at most {most}")


def cpu_seconds(command: str, *arguments: object) -> tuple[float, float]:
    """Run a command of img2img-data; return its seconds, and the CPU seconds of its processes."""
    words = [sys.executable, "-m", "img2img_data", command, *map(str, arguments)]
    began = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime


def measure_cluster(
    paths: Sequence[Path], work: Path, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Return seconds and CPU seconds of builds by two local workers and by two of Dask, in turn.

    The CPU seconds of Dask include its scheduler, which runs in this process.
    """
    import psutil  # installed with Dask
    from distributed import LocalCluster

    results: dict[str, list[tuple[float, float]]] = {"local": [], "dask": []}
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        own = psutil.Process()
        processes = [own, *own.children(recursive=True)]
        dask = ["--backend", "dask", "--scheduler", cluster.scheduler_address]
        for _ in range(rounds):
            for name, words in (("local", ["--jobs", 2]), ("dask", dask)):
                before = sum(sum(process.cpu_times()[:2]) for process in processes)
                wall, cpu = cpu_seconds("blur", paths[0].parent, work / name, *words)
                after = sum(sum(process.cpu_times()[:2]) for process in processes)
                shutil.rmtree(work / name)
                results[name].append((wall, cpu + after - before if name == "dask" else cpu))
    return results


def measure_merge(source: Path, count: int, jobs: int, work: Path) -> None:
    """Build shards of ``count`` sources, merge, verify and pack them; print times and sizes."""
    shards = [work / f"shard{number}" for number in range(1, SHARDS + 1)]
    builds = [
        cpu_seconds("blur", source, shard, "--jobs", jobs, "--shard", f"{number}/{SHARDS}")
        for number, shard in enumerate(shards, 1)
    ]
    merged = work / "merged"
    wall, build_cpu = map(sum, zip(*builds, strict=True))
    merge_wall, merge_cpu = cpu_seconds("merge", *shards, merged)
    rows = {f"{SHARDS} shards": (wall, build_cpu), "merge": (merge_wall, merge_cpu)}
    rows["verify"] = cpu_seconds("verify", merged)
    rows["verify --quick"] = cpu_seconds("verify", merged, "--quick")
    rows["pack"] = cpu_seconds("pack", merged, work / "packed")
    began = time.process_time()
    open_corpus(merged)
    rows["open_corpus"] = (time.process_time() - began,) * 2
    print("                 wall s    CPU s  CPU us each")
    for name, (seconds, cpu) in rows.items():
        print(f"{name:<15} {seconds:>7.1f} {cpu:>8.1f} {1e6 * cpu / count:>12.0f}")
    files = [path for path in merged.rglob("*") if path.is_file()]
    manifests = sum(path.stat().st_size for path in files if path.suffix == ".jsonl")
    images = sum(path.stat().st_size for path in files) - manifests
    print(f"bytes of a pair: {images / count:,.0f}, of its rows: {manifests / count:,.0f}")
    print_aim("CPU time of the merge, as a part of the build's", merge_cpu / build_cpu, MAX_MERGE)
