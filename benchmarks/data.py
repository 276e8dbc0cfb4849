"""Speed of img2img-data, as ratios to other programs measured in the same run.

::

    python benchmarks/data.py --photos PHOTOS        all parts, about ten minutes on 2 cores
    python benchmarks/data.py --photos PHOTOS --only photos --count 2000 --rounds 3
    python benchmarks/data.py --scale                memory, start and time with a million sources
    python benchmarks/data.py --merge [--photos PHOTOS]  shards of 100,000 sources, and their merge

PHOTOS is any folder of JPEG photos; the images are cut from them. Each round runs in turn:

    pillow   a loop over Pillow: open, GaussianBlur, save as PNG (a tenth of the images)
    opencv   imread, GaussianBlur, imwrite under joblib, one image per task
    img2img  img2img-data blur as a process, from its start to the last byte of the manifests
    limit    forked processes that only read, decode, blur, encode and write, with the same codecs

The figures are images per second, medians over the rounds. "img2img" includes its start-up. The
part "small" measures that alone (the command on five images, beside an interpreter that imports
OpenCV and NumPy), and 24 and 200 images with the default workers beside fixed numbers of them.

    python benchmarks/data.py --photos PHOTOS --only peer --peer PYTHON

measures pepedd too, a program for the same work. PYTHON is the interpreter of an environment with
``pip install "pepedd[nodes]"``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from scale import measure_cluster, measure_merge, measure_scale, peak_memory_kb, write_sources

SIGMA = 3.0
JOBS = os.cpu_count() or 1
COMMAND = [sys.executable, "-m", "img2img_data"]
# Where this variable is set, as in many containers, each process compiles all of its modules.
ENVIRONMENT = {k: value for k, value in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
Program: TypeAlias = Callable[[Sequence[Path], Path], int]
"""Writes the results of images into a folder and returns the number of images."""


def make_images(photos: Path, out: Path, count: int, side: int) -> list[Path]:
    """Cut ``count`` crops of ``side`` pixels out of the photos; save them as JPEG, quality 92."""
    names = (p for p in photos.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"})
    files = sorted(path for path in names if path.is_file())
    decoded = (cv2.imdecode(np.fromfile(f, np.uint8), 1) for f in files[:: len(files) // 400 or 1])
    big = [photo for photo in decoded if photo is not None and min(photo.shape[:2]) >= side]
    if not big:
        raise SystemExit(f"'{photos}' has no JPEG photo with sides of {side} pixels or more")
    rng, paths = np.random.default_rng(0), []
    out.mkdir(parents=True)
    for number in range(count):
        photo = big[number % len(big)]
        top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        path = out / f"{number:06d}.jpg"
        path.write_bytes(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
        paths.append(path)
    return paths


# --------------------------------------------------------------------------------------- programs
def pillow(paths: Sequence[Path], out: Path) -> int:
    """Blur a tenth of the images with Pillow."""
    from PIL import Image, ImageFilter

    part = paths[: max(1, len(paths) // 10)]
    for path in part:
        Image.open(path).filter(ImageFilter.GaussianBlur(SIGMA)).save(out / f"{path.stem}.png")
    return len(part)


def _opencv_one(path: str, out: str) -> None:
    cv2.imwrite(out, cv2.GaussianBlur(cv2.imread(path), (0, 0), SIGMA))


def opencv(paths: Sequence[Path], out: Path) -> int:
    """Blur the images with OpenCV under joblib."""
    from joblib import Parallel, delayed

    Parallel(n_jobs=JOBS)(delayed(_opencv_one)(str(p), str(out / f"{p.stem}.png")) for p in paths)
    return len(paths)


def img2img(paths: Sequence[Path], out: Path) -> int:
    """Blur the images with img2img-data."""
    return _blur(JOBS, paths, out)


def _blur(jobs: int, paths: Sequence[Path], out: Path) -> int:
    """Blur the images with a number of workers; 0: the default."""
    _start("blur", paths[0].parent, out / "corpus", "--kind", "gaussian", jobs=jobs)
    return len(paths)


def _start(*arguments: Any, jobs: int = JOBS) -> None:
    _run([*COMMAND, *map(str, arguments), "--jobs", str(jobs)])


def _run(words: Sequence[str]) -> None:
    subprocess.run(
        words, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def imports(paths: Sequence[Path], out: Path) -> int:
    """Start an interpreter that only imports OpenCV and NumPy."""
    _run([sys.executable, "-c", "import cv2, numpy"])
    return len(paths)


def _limit_worker(paths: Sequence[Path], out: Path) -> None:
    import simplejpeg

    from img2img_data.core.memory import keep_freed_memory
    from img2img_data.images.io import encode

    keep_freed_memory()
    cv2.setNumThreads(1)
    x = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (x / SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for path in paths:
        pixels = simplejpeg.decode_jpeg(path.read_bytes(), fastdct=True, fastupsample=True)
        pixels = cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
        (out / f"{path.stem}.png").write_bytes(encode(pixels, "png"))


def limit(paths: Sequence[Path], out: Path) -> int:
    """Blur the images in forked processes that do nothing else."""
    children = []
    for part in range(JOBS):
        child = os.fork()
        if child == 0:
            _limit_worker(paths[part::JOBS], out)
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise SystemExit("a process of the limit failed")
    return len(paths)


def pillow_combine(paths: Sequence[Path], out: Path) -> int:
    """Join a tenth of the pairs side by side with Pillow."""
    from PIL import Image

    part = paths[: max(1, len(paths) // 10)]
    for path in part:
        a, b = Image.open(path), Image.open(path.parent.with_name("other") / path.name)
        both = Image.new("RGB", (a.width + b.width, a.height))
        both.paste(a, (0, 0))
        both.paste(b, (a.width, 0))
        both.save(out / f"{path.stem}.png")
    return len(part)


def img2img_combine(paths: Sequence[Path], out: Path) -> int:
    """Join the pairs side by side with img2img-data."""
    folder = paths[0].parent
    _start("combine", folder, folder.with_name("other"), out / "corpus")
    return len(paths)


PEPEDD = """
import sys
import pepedd
from pepedd.core import PipeLine

folder, out, sigma, workers = sys.argv[1:]
blur = {"filters": ["gauss"], "kernel": [float(sigma)] * 2}
options = {"input": folder, "output": out, "num_workers": int(workers), "seed": 0}
PipeLine({**options, "degradation": [{"type": "blur", "options": blur}]})()
"""


def pepedd(python: Path, paths: Sequence[Path], out: Path) -> int:
    """Blur the images with pepedd, in threads as by its default."""
    _run([str(python), "-c", PEPEDD, str(paths[0].parent), str(out), str(SIGMA), str(JOBS)])
    assert len(list((out / "lq").iterdir())) == len(paths)
    return len(paths)


# --------------------------------------------------------------------------------------- measuring
def rate(program: Program, paths: Sequence[Path], work: Path) -> float:
    """Return images per second into a new folder."""
    out = Path(tempfile.mkdtemp(dir=work))
    began = time.perf_counter()
    count = program(paths, out)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return count / seconds


def median_rates(
    programs: Sequence[Callable[..., int]] | Mapping[str, Program],
    paths: Sequence[Path],
    work: Path,
    rounds: int,
) -> dict[str, float]:
    """Return images per second of each program, medians over rounds that run them in turn."""
    if not isinstance(programs, Mapping):
        programs = {program.__name__: program for program in programs}
    rates: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            rates[name].append(rate(program, paths, work))
    return {name: statistics.median(values) for name, values in rates.items()}


def _row(what: str, count: int, rates: dict[str, float]) -> dict[str, Any]:
    """Return a line of output: rates, and the ratios of img2img-data to the other programs."""
    own = next(name for name in rates if name.startswith("img2img"))
    ratios = {f"{own}/{n}": round(rates[own] / rates[n], 2) for n in rates if n != own}
    per_second = {name: round(value) for name, value in rates.items()}
    return {"what": what, "count": count, "per_second": per_second, **ratios}


def photos(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure images of 256 pixels."""
    paths = make_images(args.photos, work / "photos", args.count, 256)
    rates = median_rates([pillow, opencv, img2img, limit], paths, work, args.rounds)
    return _row("256 px photos", args.count, rates)


def peer(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure pepedd beside img2img-data, with a tenth of the images of 256 pixels."""
    if args.peer is None:
        return {"what": "beside pepedd", "left out": "--peer is missing"}
    paths = make_images(args.photos, work / "peer", args.count // 10 or 1, 256)
    programs = {"img2img": img2img, "pepedd": functools.partial(pepedd, args.peer)}
    return _row(
        "beside pepedd, 256 px", len(paths), median_rates(programs, paths, work, args.rounds)
    )


def small(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the start-up, and small jobs by number of workers, in seconds."""
    found: dict[str, Any] = {"what": "small jobs, seconds"}
    few = make_images(args.photos, work / "few", 5, 256)
    rates = median_rates([imports, img2img], few, work, 2 * args.rounds + 1)
    found["start_up"] = {name: round(len(few) / value, 2) for name, value in rates.items()}
    for count in (24, 200):
        paths = make_images(args.photos, work / f"some{count}", count, 256)
        programs: dict[str, Program] = {"default": functools.partial(_blur, 0)}
        for jobs in range(1, JOBS + 1):
            programs[f"jobs {jobs}"] = functools.partial(_blur, jobs)
        rates = median_rates(programs, paths, work, 2 * args.rounds + 1)
        seconds = {name: round(count / value, 2) for name, value in rates.items()}
        best = max(value for name, value in rates.items() if name != "default")
        found[f"{count} images"] = {**seconds, "default/best": round(best / rates["default"], 2)}
    return found


def faces(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure images of 64 pixels, five times as many."""
    paths = make_images(args.photos, work / "faces", args.count * 5, 64)
    rates = median_rates([img2img, limit], paths, work, args.rounds)
    return _row("64 px images", len(paths), rates)


def combine(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure pairs of 256 pixels side by side, a third as many."""
    paths = make_images(args.photos, work / "one" / "inputs", args.count // 3 or 1, 256)
    shutil.copytree(work / "one" / "inputs", work / "one" / "other")
    rates = median_rates([pillow_combine, img2img_combine], paths, work, args.rounds)
    return _row("combine, 256 px", len(paths), rates)


def memory(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure the peak memory of the parent process, with ten times as many images too."""
    peaks = {}
    for count in (args.count, args.count * 10):
        paths = make_images(args.photos, work / f"m{count}", count, 64)
        peaks[count] = round(_parent_peak_mb(paths, work), 1)
    low, high = peaks.values()
    difference = round(high - low, 1)
    return {"what": "peak memory of the parent, MB", "peaks": peaks, "difference": difference}


def _parent_peak_mb(paths: Sequence[Path], work: Path) -> float:
    out = Path(tempfile.mkdtemp(dir=work)) / "corpus"
    command = [*COMMAND, "blur", str(paths[0].parent), str(out), "--jobs", str(JOBS)]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, peak_memory_kb(process.pid))
        time.sleep(0.05)
    return peak / 1024


def cluster(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure a local Dask cluster of two workers beside two local processes."""
    row: dict[str, Any] = {"what": "(seconds, CPU seconds), two workers", "count": args.count}
    for side, count in ((256, args.count), (64, args.count * 5)):
        paths = make_images(args.photos, work / f"{side}px", count, side)
        results = measure_cluster(paths, work, args.rounds).items()
        figures = {name: np.median(values, axis=0).round(2).tolist() for name, values in results}
        ratio = np.divide(figures["dask"], figures["local"]).round(2).tolist()
        row[f"{side} px"] = figures | {"dask/local": ratio}
    return row


def merge(args: argparse.Namespace, work: Path) -> None:
    """Build and merge shards of tiny sources or, with ``--photos``, of those of two sizes."""
    sizes = [(64, args.merge), (256, args.merge // 10)] if args.photos else [(8, args.merge)]
    sizes = [(args.side, args.merge)] if args.photos and args.side else sizes
    for side, count in sizes:
        print(f"{count:,} sources of {side} px")
        folder = work / f"{side}px"
        photos = make_images(args.photos, folder / "photos", 100, side) if args.photos else []
        source = write_sources(folder / "sources", count, photos)
        measure_merge(source, count, JOBS, folder)
        shutil.rmtree(folder)


def ram_disk() -> Path | None:
    """Return a folder in memory if it has 8 GB free, else None.

    File systems differ by more than the programs: ext4 is slow in the round after a deletion
    (inodes freed a moment ago are skipped one by one), and on a virtual machine every page by which
    the page cache grows is slow.
    """
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and shutil.disk_usage(shm).free > 8 << 30 else None


def work_folder(parent: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """Return a temporary folder in ``parent``, by default on a RAM disk if there is one."""
    return tempfile.TemporaryDirectory(prefix="img2img-bench-", dir=parent or ram_disk())


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of a benchmark."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


PARTS = {
    "small": small,
    "photos": photos,
    "faces": faces,
    "combine": combine,
    "memory": memory,
    "cluster": cluster,
    "peer": peer,
}


def main() -> None:
    """Measure the selected parts and print a line of JSON for each."""
    parser = argument_parser(__doc__)
    add = parser.add_argument
    add("--photos", type=Path, help="any folder of JPEG photos; not for --scale and --merge")
    add("--count", type=int, default=6000, help="256 px images; five times as many of 64 px")
    add("--rounds", type=int, default=3)
    add("--work", type=Path, help="folder for temporary files; default: a RAM disk if possible")
    add("--only", choices=PARTS, action="append", help="part to run; may be repeated")
    add("--peer", type=Path, metavar="PYTHON", help="interpreter of an environment with pepedd")
    add("--scale", type=int, nargs="?", const=1_000_000, help="number of tiny sources")
    add("--merge", type=int, nargs="?", const=100_000, help="number of tiny sources")
    add("--side", type=int, help="of --merge --photos: this size only, pixels")
    args = parser.parse_args()
    if args.merge:
        with work_folder(args.work) as work:
            merge(args, Path(work))
        return
    if args.scale:
        with work_folder(args.work) as work:
            measure_scale(args.scale, args.rounds, JOBS, Path(work))
        return
    if args.photos is None:
        parser.error("--photos is missing: give a folder of JPEG photos")
    print(json.dumps({"cores": JOBS, "opencv": cv2.__version__, "rounds": args.rounds}))
    for name in args.only or PARTS:
        with work_folder(args.work) as work:
            print(json.dumps(PARTS[name](args, Path(work))), flush=True)


if __name__ == "__main__":
    main()
