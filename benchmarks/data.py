"""How fast the data side is, as ratios measured in one run.

    python benchmarks/data.py --photos PHOTOS            everything, about ten minutes on 2 cores
    python benchmarks/data.py --photos PHOTOS --only photos --count 2000 --rounds 3
    python benchmarks/data.py --scale                    a million tiny sources: memory, start, time for each

PHOTOS is any folder of JPEG photos; the images measured on are cut from them. In each round, in turn:

    naive    a Pillow loop: open, GaussianBlur, save as PNG (on a tenth of the images)
    opencv   imread, GaussianBlur, imwrite under joblib, one image a task
    ours     img2img-data blur as a whole process, from start to the last byte of the manifests
    limit    bare forked processes that only read, decode, blur, encode and write, by the fastest codecs

The figures are images per second, medians over the rounds; "ours" includes its start-up, which is also
shown apart (the same command on four images).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scale import measure_scale

SIGMA = 3.0
JOBS = os.cpu_count() or 1
COMMAND = [sys.executable, "-m", "img2img_data"]
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}
"""Where that is set, as images for containers do, each process translates all of its modules anew."""


def make_images(photos: Path, out: Path, count: int, side: int) -> list[Path]:
    """Cut ``count`` crops of ``side`` pixels out of the photos and save them as JPEG, quality 92."""
    files = sorted(
        p for p in photos.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg"} and p.is_file()
    )
    big = [
        p
        for p in (
            cv2.imdecode(np.fromfile(f, np.uint8), 1) for f in files[:: max(1, len(files) // 400)]
        )
        if p is not None and min(p.shape[:2]) >= side
    ]
    rng, made = np.random.default_rng(0), []
    out.mkdir(parents=True)
    for number in range(count):
        photo = big[number % len(big)]
        top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
        path = out / f"{number:06d}.jpg"
        crop = photo[top : top + side, left : left + side]
        path.write_bytes(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
        made.append(path)
    return made


# ------------------------------------------------------------------------------------- the four ways
def naive(paths: Sequence[Path], out: Path) -> int:
    from PIL import Image, ImageFilter

    part = paths[: max(1, len(paths) // 10)]
    for path in part:
        Image.open(path).filter(ImageFilter.GaussianBlur(SIGMA)).save(out / f"{path.stem}.png")
    return len(part)


def _opencv_one(path: str, out: str) -> None:
    cv2.imwrite(out, cv2.GaussianBlur(cv2.imread(path), (0, 0), SIGMA))


def opencv(paths: Sequence[Path], out: Path) -> int:
    from joblib import Parallel, delayed

    Parallel(n_jobs=JOBS)(delayed(_opencv_one)(str(p), str(out / f"{p.stem}.png")) for p in paths)
    return len(paths)


def ours(paths: Sequence[Path], out: Path) -> int:
    command = [
        *COMMAND,
        "blur",
        str(paths[0].parent),
        str(out / "corpus"),
        "--kind",
        "gaussian",
        "--jobs",
        str(JOBS),
    ]
    _run(command)
    return len(paths)


def _run(command: Sequence[str]) -> None:
    subprocess.run(
        command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _limit_worker(paths: Sequence[Path], out: Path) -> None:
    import simplejpeg

    from img2img_data.images.io import encode

    cv2.setNumThreads(1)
    x = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (x / SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for path in paths:
        with open(path, "rb") as file:
            pixels = simplejpeg.decode_jpeg(file.read(), fastdct=True, fastupsample=True)
        pixels = cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT)
        with open(out / f"{path.stem}.png", "wb") as file:
            file.write(encode(pixels, "png"))


def limit(paths: Sequence[Path], out: Path) -> int:
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
    from PIL import Image

    part = paths[: max(1, len(paths) // 10)]
    for path in part:
        a, b = Image.open(path), Image.open(path.parent.with_name("other") / path.name)
        both = Image.new("RGB", (a.width + b.width, a.height))
        both.paste(a, (0, 0))
        both.paste(b, (a.width, 0))
        both.save(out / f"{path.stem}.png")
    return len(part)


def our_combine(paths: Sequence[Path], out: Path) -> int:
    sides = (str(paths[0].parent), str(paths[0].parent.with_name("other")))
    command = [*COMMAND, "combine", *sides, str(out / "corpus"), "--jobs", str(JOBS)]
    _run(command)
    return len(paths)


# ------------------------------------------------------------------------------------------ measuring
def rate(way: Callable[[Sequence[Path], Path], int], paths: Sequence[Path], work: Path) -> float:
    """Return images per second into a new folder."""
    out = Path(tempfile.mkdtemp(dir=work))
    began = time.perf_counter()
    done = way(paths, out)
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return done / seconds


def compare(
    ways: Sequence[Callable[[Sequence[Path], Path], int]],
    paths: Sequence[Path],
    work: Path,
    rounds: int,
) -> dict[str, float]:
    rates: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            rates[way.__name__].append(rate(way, paths, work))
    return {name: statistics.median(found) for name, found in rates.items()}


def start_up(paths: Sequence[Path], work: Path, rounds: int) -> float:
    few = work / "few"
    few.mkdir()
    copies = [Path(shutil.copy(p, few / p.name)) for p in paths[:5]]
    return statistics.median(5 / rate(ours, copies, work) for _ in range(rounds))


def photos(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    paths = make_images(args.photos, work / "photos", args.count, 256)
    found = compare([naive, opencv, ours, limit], paths, work, args.rounds)
    return _with_ratios("256 px photos", args.count, found) | {
        "start_up_s": round(start_up(paths, work, 3), 2)
    }


def faces(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    paths = make_images(args.photos, work / "faces", args.count * 5, 64)
    return _with_ratios(
        "64 px images", args.count * 5, compare([ours, limit], paths, work, args.rounds)
    )


def combine(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    paths = make_images(args.photos, work / "one" / "inputs", args.count // 3, 256)
    shutil.copytree(work / "one" / "inputs", work / "one" / "other")
    found = compare([pillow_combine, our_combine], paths, work, args.rounds)
    return {
        "what": "combine, 256 px",
        "count": len(paths),
        "per_second": _rounded(found),
        "ours/naive": round(found["our_combine"] / found["pillow_combine"], 2),
    }


def memory(args: argparse.Namespace, work: Path) -> dict[str, Any]:
    peaks = {}
    for count in (args.count, args.count * 10):
        paths = make_images(args.photos, work / f"m{count}", count, 64)
        peaks[count] = round(_parent_peak(paths, work), 1)
    low, high = peaks.values()
    return {
        "what": "peak memory of the parent, MB",
        "peaks": peaks,
        "difference": round(high - low, 1),
    }


def _parent_peak(paths: Sequence[Path], work: Path) -> float:
    out = Path(tempfile.mkdtemp(dir=work)) / "corpus"
    command = [*COMMAND, "blur", str(paths[0].parent), str(out), "--jobs", str(JOBS)]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(
                peak,
                *(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM")),
                0,
            )
        except OSError:
            pass
        time.sleep(0.05)
    return peak / 1024


def _rounded(found: dict[str, float]) -> dict[str, int]:
    return {name: round(value) for name, value in found.items()}


def _with_ratios(what: str, count: int, found: dict[str, float]) -> dict[str, Any]:
    ratios = {
        f"ours/{n}": round(found["ours"] / found[n], 2)
        for n in ("naive", "opencv", "limit")
        if n in found
    }
    return {"what": what, "count": count, "per_second": _rounded(found), **ratios}


def ram_disk() -> Path | None:
    """Return a place in memory: file systems differ by more than the ways compared.

    On ext4 the round after a deletion is slow (inodes freed a moment ago are passed over one by one), on a
    virtual machine so is every page that the cache grows by.
    """
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and shutil.disk_usage(shm).free > 8 << 30 else None


PARTS = {"photos": photos, "faces": faces, "combine": combine, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, help="any folder of JPEG photos; all but --scale need it"
    )
    parser.add_argument(
        "--count", type=int, default=6000, help="256 px images; five times as many of 64 px"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--work", type=Path, help="where to write; default: a RAM disk if there is one"
    )
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument(
        "--scale", type=int, nargs="?", const=1_000_000, help="so many tiny sources, and 10,000"
    )
    args = parser.parse_args()
    if args.scale:
        with tempfile.TemporaryDirectory(
            prefix="img2img-bench-", dir=args.work or ram_disk()
        ) as work:
            measure_scale(args.scale, args.rounds, JOBS, Path(work))
        return
    if args.photos is None:
        parser.error("--photos: say which folder of JPEG photos")
    print(json.dumps({"cores": JOBS, "opencv": cv2.__version__, "rounds": args.rounds}))
    for name in args.only or PARTS:
        with tempfile.TemporaryDirectory(
            prefix="img2img-bench-", dir=args.work or ram_disk()
        ) as work:
            print(json.dumps(PARTS[name](args, Path(work))), flush=True)


if __name__ == "__main__":
    main()
