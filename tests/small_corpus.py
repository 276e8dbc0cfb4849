"""Tiny corpora written by hand, in each layout the reader knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from conftest import make_photo

from img2img_data.core.jsonl import read_rows
from img2img_data.corpus.format import FORMAT
from img2img_data.images import color, io
from img2img_data.images.pixels import to_16_bit

EVIL = "<img src=x onerror=alert(1)>"


def degraded(photo: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(photo, (0, 0), sigma)


def write_corpus(
    root: Path,
    splits: Mapping[str, int],
    layout: str = "folders",
    size: tuple[int, int] = (32, 32),
    crops: int = 1,
    names: Sequence[str] = (),
    info: Mapping[str, Any] | None = None,
    deep: bool = False,
) -> Path:
    """Write pairs blurred the more the later they come; ``crops`` of them share a photo (the tag group).

    ``deep``: in 16 bit, not merely 8 of them scaled.
    """
    seed = 0
    for split, count in splits.items():
        rows = []
        (root / split).mkdir(parents=True)
        for number in range(count):
            target = make_photo(seed, *size)
            if deep:
                target = target.astype(np.uint16) * 256 + make_photo(seed + 1000, *size)
            sigma = 0.6 + 0.3 * number
            row = {
                "source": f"{(names[number] if number < len(names) else f'photo {seed}')}.jpg",
                "kind": "gaussian",
            }
            row |= {
                "key": row["source"][:-4],
                "drawn": {"sigma": sigma},
                "tags": {"group": f"{split}{number // crops}"},
            }
            row |= _write_pair(
                root / split, f"{number:03d}.png", degraded(target, sigma), target, layout
            )
            rows.append(row)
            seed += 1
        (root / split / "metadata.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    rejected = [
        {"source": "x", "reason": reason, "detail": ""} for reason in ("gray", "gray", "truncated")
    ]
    (root / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rejected))
    page = {"format": FORMAT, "kind": "paired", "layout": layout, "color": "rgb", **(info or {})}
    (root / "corpus.json").write_text(json.dumps(page))
    return root


def _write_pair(
    folder: Path, name: str, given: np.ndarray, target: np.ndarray, layout: str
) -> dict[str, str]:
    if layout == "combined":
        _write(folder / name, np.hstack([given, target]))
        return {"file_name": name}
    _write(folder / "input" / name, given)
    _write(folder / "target" / name, target)
    return {"input_file_name": f"input/{name}", "target_file_name": f"target/{name}"}


def write_domains(root: Path, count: int) -> Path:
    for side in "AB":
        for number in range(count):
            _write(
                root / f"train{side}" / f"{number}.png",
                make_photo(number + 100 * (side == "B"), 24, 20),
            )
    return root


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(io.encode(np.ascontiguousarray(pixels), "png"))


def tagged(
    root: Path, count: int, tags: Callable[[int], Mapping[str, Any]], crops: int = 1
) -> Path:
    """Write a corpus whose rows have tags; ``crops`` of them share a photo."""
    corpus = write_corpus(root, {"test": count}, crops=crops)
    path = corpus / "test" / "metadata.jsonl"
    rows = read_rows(path)
    for number, row in enumerate(rows):
        row["tags"] = {**row["tags"], **tags(number)}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return corpus


def write_lab(
    root: Path, splits: dict[str, int], bits: int = 8, size: tuple[int, int] = (16, 16)
) -> Path:
    write_corpus(root, splits, size=size, info={"color": "lab", "bits": bits})
    for path in root.glob("*/target/*.png"):
        rgb = make_photo(int(path.stem), *size)
        lab = color.rgb_to_lab(to_16_bit(rgb) if bits == 16 else rgb)
        path.write_bytes(io.encode(lab, "png"))
        given = path.parent.parent / "input" / path.name
        given.write_bytes(io.encode(np.ascontiguousarray(lab[..., 0]), "png"))
    return root


def write_deep(root: Path, splits: dict[str, int], channels: int = 3) -> Path:
    info = {"bits": 16, "channels": {"input": channels, "target": channels}}
    write_corpus(root, splits, size=(16, 16), info=info)
    for path in root.glob("*/*/*.png"):
        pixels = to_16_bit(io.read(path).pixels) // 2 + 77
        pixels = pixels if channels == 3 else np.ascontiguousarray(pixels[..., 0])
        path.write_bytes(io.encode(pixels, "png"))
    return root
