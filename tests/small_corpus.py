"""Tiny corpora in each layout of the reader, written without the builder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from conftest import make_photo
from small_photos import write

from img2img_data.core.jsonl import read_rows
from img2img_data.core.settings_model import Place
from img2img_data.corpus.format import FORMAT, as_key
from img2img_data.degradations.spec import parse_spec, to_spec
from img2img_data.images import color, io
from img2img_data.images.pixels import to_16_bit

EVIL = "<img src=x onerror=alert(1)>"
"""A name that runs a script in a page that does not escape it."""


def degraded(photo: np.ndarray, sigma: float) -> np.ndarray:
    """Return a blurred photo."""
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
    """Write the number of pairs that ``splits`` states, each blurred more than the one before.

    ``crops`` pairs have the same tag ``group``, as crops of one photo. ``names`` are those of the
    first sources, ``info`` are more fields of corpus.json. ``deep`` images have 16 bits of detail.
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
            name = names[number] if number < len(names) else f"photo {seed}"
            row = {"source": f"{name}.jpg", "kind": "gaussian", "key": as_key(name.encode())}
            row |= {"drawn": {"sigma": sigma}, "tags": {"group": f"{split}{number // crops}"}}
            sides = degraded(target, sigma), target
            rows.append(row | _write_pair(root / split, f"{number:03d}.png", *sides, layout))
            seed += 1
        _write_rows(root / split / "metadata.jsonl", rows)
    reasons = ("gray", "gray", "truncated")
    rejected = [{"source": "x", "reason": reason, "detail": ""} for reason in reasons]
    _write_rows(root / "rejected.jsonl", rejected)
    page = {"format": FORMAT, "kind": "paired", "layout": layout, "color": "rgb", **(info or {})}
    (root / "corpus.json").write_text(json.dumps(page))
    return root


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_pair(
    folder: Path, name: str, input: np.ndarray, target: np.ndarray, layout: str
) -> dict[str, str]:
    if layout == "combined":
        write(folder / name, np.hstack([input, target]))
        return {"file_name": name}
    write(folder / "input" / name, input)
    write(folder / "target" / name, target)
    return {"input_file_name": f"input/{name}", "target_file_name": f"target/{name}"}


def degraded_corpus(root: Path, spec: Any, splits: dict[str, int], deep: bool = False) -> Path:
    """Write a corpus as ``img2img-data degrade`` does, by the same degradation."""
    degradation = parse_spec(spec, Place()).degradation
    info: dict[str, Any] = {"recipe": {"pairing": "degrade", "degradation": to_spec(degradation)}}
    write_corpus(root, splits, size=(40, 36), info=info | ({"bits": 16} if deep else {}), deep=deep)
    for manifest in root.glob("*/metadata.jsonl"):
        rows = [json.loads(line) for line in manifest.open()]
        for number, row in enumerate(rows):
            row["drawn"] = degradation.draw(np.random.default_rng(number))
            policy = io.ReadPolicy(depth=16 if deep else 8)
            target = io.read(manifest.parent / row["target_file_name"], policy).pixels
            input = degradation.apply(target, "yx", **row["drawn"])
            (manifest.parent / row["input_file_name"]).write_bytes(io.encode(input, "png"))
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def write_domains(root: Path, count: int) -> Path:
    """Write the folders trainA and trainB of ``count`` images each."""
    for side, first in (("A", 0), ("B", 100)):
        for number in range(count):
            photo = make_photo(first + number, 24, 20)
            write(root / f"train{side}" / f"{number}.png", photo)
    return root


def tagged(
    root: Path, count: int, tags: Callable[[int], Mapping[str, Any]], crops: int = 1
) -> Path:
    """Write a corpus with the tags of each row's number; ``crops`` as in ``write_corpus``."""
    corpus = write_corpus(root, {"test": count}, crops=crops)
    path = corpus / "test" / "metadata.jsonl"
    rows = read_rows(path)
    for number, row in enumerate(rows):
        row["tags"] = {**row["tags"], **tags(number)}
    _write_rows(path, rows)
    return corpus


def write_lab(
    root: Path, splits: dict[str, int], bits: int = 8, size: tuple[int, int] = (16, 16)
) -> Path:
    """Write a Lab corpus: L plane | Lab image."""
    write_corpus(root, splits, size=size, info={"color": "lab", "bits": bits})
    for path in root.glob("*/target/*.png"):
        rgb = make_photo(int(path.stem), *size)
        lab = color.rgb_to_lab(to_16_bit(rgb) if bits == 16 else rgb)
        write(path, lab)
        write(path.parent.parent / "input" / path.name, lab[..., 0])
    return root


def write_deep(root: Path, splits: dict[str, int], channels: int = 3) -> Path:
    """Write a corpus of 16 bits per sample, gray or RGB."""
    info = {"bits": 16, "channels": {"input": channels, "target": channels}}
    write_corpus(root, splits, size=(16, 16), info=info)
    for path in root.glob("*/*/*.png"):
        pixels = to_16_bit(io.read(path).pixels) // 2 + 77
        write(path, pixels if channels == 3 else pixels[..., 0])
    return root
