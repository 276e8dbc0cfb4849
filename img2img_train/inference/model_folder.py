"""A model folder: weights, description, ONNX, a model card, and a script that runs the model.

::

    config.json         the network, its channels and range, and the settings of the run
    model.onnx          uint8 images in and out; with usage.py only if the extra is installed
    usage.py            runs model.onnx by ONNX Runtime, NumPy and Pillow
    examples.png        input | output | target
    README.md           model card, as Hugging Face expects it
    model.safetensors   the generator alone, a checkpoint for every command; written last

The same run gives the same bytes.
"""

from __future__ import annotations

import contextlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from img2img_data.core.errors import Img2ImgError
from img2img_data.core.files import check_unused, versions, write_atomically
from img2img_data.core.jsonl import read_object
from img2img_data.corpus.card import README, to_yaml
from img2img_data.corpus.format import CORPUS_FILE, to_json_page
from img2img_data.images import io
from img2img_data.images.pixels import Pixels
from img2img_train.config import CONFIG_FILE, RESOURCES, config_of
from img2img_train.inference.onnx_export import Parity, export_weights, onnx_bytes
from img2img_train.networks.registry import count_parameters
from img2img_train.report.page import flatten, one_error_if_damaged, render
from img2img_train.runs.checkpoint import read_description
from img2img_train.runs.folder import LIBRARIES, MODEL_FILE, read_evaluations, sample_paths
from img2img_train.runs.model import LoadedModel

MODEL_FORMAT: Final = 1
FILES: Final = (CONFIG_FILE, "model.onnx", "usage.py", "examples.png", README, MODEL_FILE)
"""Files of a model folder; the last one is written last."""
SHOWN_IMAGES: Final = 3


def export_folder(
    model: LoadedModel, out: Path, license: str, opset: int
) -> tuple[Parity | None, list[str]]:
    """Write a model folder; return the comparison of ONNX with torch, and notes.

    Files of an earlier export are replaced, others are left alone. Without the extra, or if ONNX
    differs from torch, the folder has no ONNX and a note says why. Raises UsageError if the folder
    holds something else.
    """
    _check_own(out)
    files, parity, notes = dict[str, bytes](), None, list[str]()
    try:
        files["model.onnx"], parity = onnx_bytes(model, out / "model.onnx", opset)
        files["usage.py"] = render("usage.txt", {}).encode() + b"\n"
    except Img2ImgError as error:  # no extra, or a difference from torch
        notes.append(f"without model.onnx and usage.py: {error}")
    folder = model.path.resolve().parent
    run = folder.parent if folder.name == "checkpoints" else folder
    about, evaluations = read_description(model.path), list[dict[str, Any]]()
    if about.config.get("direction") == model.config.direction:
        scored = {"file": model.path.name, "step": model.step}
        evaluations += (e for e in read_evaluations(run) if e["checkpoint"] == scored)
    page = {**_description(model), "size": about.size}
    files[CONFIG_FILE] = to_json_page(page)
    with one_error_if_damaged():
        if strip := _examples(run, evaluations):
            files["examples.png"] = strip
        files[README] = _card(model, page, evaluations, files, license).encode() + b"\n"
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES[:-1]:
        if name in files:
            write_atomically(out / name, files[name])
        else:
            (out / name).unlink(missing_ok=True)
    export_weights(model, out / MODEL_FILE)
    return parity, notes


def _check_own(out: Path) -> None:
    with contextlib.suppress(Img2ImgError):
        if "model_format" in read_object(out / CONFIG_FILE):
            return
    check_unused(out)


def _description(model: LoadedModel) -> dict[str, Any]:
    spec, config = model.spec, model.config
    return {
        "model_format": MODEL_FORMAT,
        "title": config.title,
        "network": spec.model_dump(),
        "parameters": count_parameters(model.generator),
        "channels": model.channel_layout.label or "RGB to RGB",
        "color": model.color,
        "value_range": [-1, 1],
        "side_multiple": spec.multiple,
        "smallest_side": spec.smallest,
        "direction": config.direction,
        "step": model.step,
        "versions": versions(*LIBRARIES),
        "settings": config.model_dump(mode="json", exclude=RESOURCES),
    }


def _examples(run: Path, evaluations: Sequence[Mapping[str, Any]]) -> bytes:
    """Return input | output | target of a few images as PNG; empty if the run has none."""
    if not evaluations:
        grids = sample_paths(run)
        return grids[-1].read_bytes() if grids else b""
    gallery, rows = evaluations[0]["gallery"], []
    # The gallery begins with the worst: every n-th image is fairer.
    for item in gallery[:: -(-len(gallery) // SHOWN_IMAGES)]:
        webp = (item["webp"][name] for name in ("input", "output", "target"))
        rows.append(np.hstack([_framed(io.decode(b64decode(image)).pixels, 8) for image in webp]))
    width = max(row.shape[1] for row in rows)
    return io.encode(np.vstack([_framed(row, 0, width) for row in rows]), "png")


def _framed(pixels: Pixels, border: int, width: int = 0) -> Pixels:
    """Return H x W x 3 with a white border, below and at the right, and white up to a width."""
    right = max(border, width - pixels.shape[1])
    return np.pad(pixels, [(0, border), (0, right), (0, 0)], constant_values=255)


def _card(
    model: LoadedModel,
    page: Mapping[str, Any],
    evaluations: Sequence[Mapping[str, Any]],
    files: Mapping[str, bytes],
    license: str,
) -> str:
    config, saved = model.config, page["settings"]
    published = config_of({name: saved[name] for name in ("corpora", "loss")})
    defaults = dict(flatten(published.model_dump(mode="json")))
    changed = {n: v for n, v in flatten(saved) if defaults.get(n) != v}
    content = {
        "page": page,
        "config": config,
        "evaluations": evaluations,
        "corpora": [_corpus(Path(choice.path)) for choice in config.corpora],
        "changed": changed,
        "files": files,
        "license": " ".join(license.split()),
        "invents": "discriminator" in type(config.objective).model_fields,
    }
    return render("model_card.md", content)


def _corpus(path: Path) -> dict[str, Any]:
    """Return what a card states about a corpus: only its name if it is gone."""
    with contextlib.suppress(Img2ImgError, LookupError, AttributeError):
        found = read_object(path / CORPUS_FILE)
        recipe = {n: v for n, v in found["recipe"].items() if v is not None}
        content = {"recipe": recipe, "pairs": found["counts"]["kept"], "text": to_yaml(recipe)}
        return {"name": path.name, **content}
    return {"name": path.name, "recipe": {}, "pairs": {}, "text": ""}
