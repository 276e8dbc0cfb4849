"""Export of a generator: ONNX with images in and out, a page that runs it in a browser, bare
weights.

Input and output of the ONNX graph are plain images, so a program needs nothing of this project:

    image     N x height x width x 3 uint8 RGB, any size
    restored  same shape and type

Scaling to [-1, 1] and back, conversion to gray, to L and from Lab, and mirroring up to the
network's multiple are nodes of the graph. Dropout is off. The file is compared with torch before
it is written.

The page holds that graph and ONNX Runtime Web (npm package onnxruntime-web, supplied by the user).
It opens from a file and makes no requests.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img2img_data.core.errors import Img2ImgError, UsageError, load_extra
from img2img_data.core.files import write_atomically
from img2img_train.data.color import denormalize, normalize
from img2img_train.networks.generators import PaddedGenerator
from img2img_train.networks.layers import uses_image_statistics
from img2img_train.networks.registry import count_parameters
from img2img_train.report.page import render_browser_page
from img2img_train.runs.checkpoint import read_description, write_checkpoint
from img2img_train.runs.model import LoadedModel

OPSET: Final = 18
TOLERANCE: Final = 1
"""Largest difference between ONNX and torch, gray levels."""
TEST_BATCHES: Final = 6
TEST_SIDES: Final = (64, 128)
"""Bounds of the side of a larger test image, which has the size of the crops in training."""
MAX_PAGE_PARAMETERS: Final = 15_000_000
RUNTIME_FILES: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
AXES: Final = ("batch", "height", "width")


class ImageToImage(nn.Module):
    """A generator between uint8 images, N x H x W x 3 RGB, with sides of any length."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.channel_layout, self.generator = model.channel_layout, model.generator
        self.multiple, self.smallest = model.spec.multiple, model.spec.smallest
        # The padding of PaddedGenerator branches on the size, which a graph cannot: it is done
        # here.
        padded = isinstance(self.generator, PaddedGenerator)
        self.translate: Any = self.generator.forward_padded if padded else self.generator

    def forward(self, image: Tensor) -> Tensor:
        """Return the restored images."""
        height, width = image.shape[1], image.shape[2]
        padded = self._mirrored(self._mirrored(image, 1), 2)
        x = self.channel_layout.network_input(normalize(padded))
        output = self.channel_layout.to_rgb(self.translate(x), x)
        return denormalize(output)[:, :height, :width]

    def _mirrored(self, image: Tensor, axis: int) -> Tensor:
        """Mirror an axis at its end, without the last pixel, up to the multiple and smallest
        side.
        """
        length = image.shape[axis]
        period = torch.full((1,), 2 * (length - 1), device=image.device).clamp(min=1)
        # Not -(-length // multiple): ONNX divides towards zero.
        count = (length + self.multiple - 1) // self.multiple * self.multiple
        if self.smallest > self.multiple:
            count = torch.sym_max(count, self.smallest)  # type: ignore[no-untyped-call]
        index = torch.remainder(torch.arange(count, device=image.device), period)
        return image.index_select(axis, torch.minimum(index, period - index))


class Parity(NamedTuple):
    """Comparison of ONNX with torch: images, their longest side, largest difference in gray
    levels.
    """

    images: int
    side: int
    worst: int


def export_weights(model: LoadedModel, out: Path) -> None:
    """Write the generator alone as a checkpoint, which every command takes as a model."""
    about, direction = read_description(model.path), model.config.direction
    trained = about.config.get("direction", direction) == direction
    name = about.generator if trained else about.reverse_generator or about.generator
    tensors = {f"network/{name}/{key}": t for key, t in model.generator.state_dict().items()}
    changes = {
        "networks": {name: about.networks[name]},
        "generator": name,
        "reverse_generator": None,
        "complete": False,
        "config": {**about.config, "direction": direction},
    }
    write_checkpoint(out, tensors, about.model_copy(update=changes))


def export_onnx(model: LoadedModel, out: Path, opset: int = OPSET) -> Parity:
    """Write a generator on the CPU as ONNX, for any batch and size, and compare it with torch.

    Raises UsageError if the extra is not installed, and Img2ImgError if the outputs differ by more
    than ``TOLERANCE``; then no file is left behind.
    """
    graph, parity = onnx_bytes(model, out, opset)
    write_atomically(out, graph)
    return parity


def onnx_bytes(model: LoadedModel, out: Path, opset: int) -> tuple[bytes, Parity]:
    """Return the ONNX file of a generator, and its comparison with torch; errors name ``out``."""
    # ONNX Runtime sends telemetry unless this is set before its import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for name in ("onnx", "onnxscript", "onnxruntime"):
        load_extra(name, "export", "export")
    network = ImageToImage(model).eval()
    graph = _graph_of(network, model, out, opset)
    parity = _compare(network, graph, out, _test_batches(model))
    if parity.worst > TOLERANCE:
        why = f"differs from torch by {parity.worst} levels on an image"
        raise Img2ImgError("ONNX file", out, why, "it was not written; try another --opset")
    return graph, parity


def _graph_of(network: ImageToImage, model: LoadedModel, out: Path, opset: int) -> bytes:
    # An odd size, so that no side is specialized as a multiple of the network's.
    side = 2 * model.spec.multiple + 1
    example = torch.zeros(2, side, side + 2, 3, dtype=torch.uint8)
    # Not Dim(name): its bounds contradict the padding, and the exporter would trace twice.
    free = dict.fromkeys(range(len(AXES)), torch.export.Dim.DYNAMIC)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["restored"]}
    names |= {"opset_version": opset, "dynamic_shapes": (free,)}
    level = logging.root.manager.disable
    # The exporter logs its own steps and warns of its own deprecations.
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(network, (example,), dynamo=True, verbose=False, **names)
    finally:
        logging.disable(level)
    if program is None:
        raise Img2ImgError("ONNX file", out, "the exporter failed", "try another --opset")
    proto = program.model_proto
    # The exporter notes where each node came from, with paths of this machine.
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input):
        part.ClearField("metadata_props")
    for value in (proto.graph.input[0], proto.graph.output[0]):
        # The exporter names the sides of the output with formulas.
        for dimension, name in zip(value.type.tensor_type.shape.dim, AXES, strict=False):
            dimension.dim_param = name
    sides = "uint8 RGB, N x H x W x 3"
    about = {"title": model.config.title, "step": str(model.step), "network": model.spec.name}
    takes = ", ".join(filter(None, (sides, model.config.preparation)))
    about |= {"input": takes, "output": sides, "channels": model.channel_layout.label or "RGB"}
    for key, text in about.items():
        proto.metadata_props.add(key=key, value=text)
    graph: bytes = proto.SerializeToString(deterministic=True)
    return graph


def _test_batches(model: LoadedModel) -> list[NDArray[np.uint8]]:
    """Return noise and ramps of odd sizes and of that in training, N x H x W x 3, in batches of 1
    and 2.
    """
    rng, batches, limit = np.random.default_rng(0), [], 5 * model.spec.multiple
    # Of a single pixel, as the innermost map of a small image is, the deviation is 0: only rounding
    # errors would be left to compare.
    least = model.spec.multiple + 1 if uses_image_statistics(model.generator) else 1
    sizes = [(least, least)]
    sizes += [tuple(rng.integers(max(2, least), limit, 2).tolist()) for _ in range(1, TEST_BATCHES)]
    side = min(max(model.config.crop or 128, TEST_SIDES[0]), TEST_SIDES[1])
    # Only larger images show what a border, or a sum over many pixels, does. Deep networks have
    # them already.
    sizes += [(side, side), (side + 1, side // 2 + 1)] if side > limit else []
    for number, (height, width) in enumerate(sizes):
        noise = rng.integers(0, 256, (1 + number % 2, height, width, 3))
        ramp = np.linspace(0, 255, width)[:, None]
        image = noise if number % 3 else noise // 4 + ramp * 3 // 4
        batches.append(np.asarray(image, np.uint8))
    return batches


def _compare(
    network: ImageToImage, graph: bytes, out: Path, batches: Sequence[NDArray[np.uint8]]
) -> Parity:
    """Run ONNX and torch on batches, N x H x W x 3 uint8, and return their difference."""
    onnxruntime = load_extra("onnxruntime", "export", "export")
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    worst = 0
    for batch in batches:
        with torch.no_grad():
            expected = network(torch.from_numpy(batch)).numpy()
        (output,) = session.run(None, {"image": batch})
        if output.shape != expected.shape:
            why = f"returns {output.shape}, but torch {expected.shape}"
            raise Img2ImgError("ONNX file", out, why)
        worst = max(worst, int(np.abs(output.astype(np.int16) - expected).max()))
    return Parity(sum(map(len, batches)), max(max(b.shape[1:3]) for b in batches), worst)


def export_page(model: LoadedModel, out: Path, runtime: Path | None, opset: int = OPSET) -> Parity:
    """Write a page that runs the model in a browser, from a file, without a network.

    ``runtime`` is the folder of the npm package onnxruntime-web; None: that in ``node_modules``.
    Raises UsageError if it is missing or the model is too large, and as
    ``export_onnx``.
    """
    count = count_parameters(model.generator)
    if count > MAX_PAGE_PARAMETERS:
        limit = f"but a page holds at most {MAX_PAGE_PARAMETERS / 1e6:.0f}"
        why = f"has {count / 1e6:.1f} million parameters, {limit}"
        hint = "export it as .onnx, or train a narrower one with --width"
        raise UsageError("model", model.path, why, hint)
    folder = runtime or Path("node_modules/onnxruntime-web")
    folder = folder / "dist" if (folder / "dist").is_dir() else folder
    try:
        script, wasm = ((folder / name).read_bytes() for name in RUNTIME_FILES)
    except OSError as error:
        hint = "run 'npm install onnxruntime-web' here, or give its folder with --runtime"
        why = f"has no {Path(str(error.filename)).name}"
        raise UsageError("runtime", folder, why, hint) from None
    graph, parity = onnx_bytes(model, out, opset)
    about = f"{model.spec.name}, {count / 1e6:.1f} million parameters, step {model.step:,}"
    page = render_browser_page(model.config.title, about, script, wasm, graph)
    write_atomically(out, page.encode())
    return parity
