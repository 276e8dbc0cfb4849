"""A trained generator as one file for other programs: ONNX with images in and out, or bare weights.

Dropout is off in what is exported, whatever the model does at test. The ONNX graph takes and gives plain
images, so that a program needs to know nothing of this project:

    image   N x height x width x 3 uint8 RGB, any size
    restored  the same shape and type

Scaling to [-1, 1] and back, the ways to gray or L and from Lab, and mirroring up to the network's multiple
are nodes of the graph. The file is
compared with torch before it is handed over; one that differs by more than a level is not written.

The page holds that graph and the runtime of ONNX for browsers (npm package onnxruntime-web, which the user
brings): it opens from a file, takes a image or a drawing, and asks the network for nothing.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from img2img_data.core.errors import Img2ImgError, UsageError, load_extra
from img2img_data.core.files import write_atomically
from img2img_train.data.color import PLAIN, ChannelLayout
from img2img_train.data.loader import from_uint8, to_uint8
from img2img_train.networks.generators import PaddedGenerator
from img2img_train.networks.layers import uses_image_statistics
from img2img_train.report.page import render_browser_page
from img2img_train.runs.checkpoint import write_checkpoint
from img2img_train.runs.model import LoadedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

OPSET: Final = 18
TOLERANCE: Final = 1
"""Gray levels that the ONNX file may differ from torch."""
CHECKED: Final = 6
LARGEST_SIDE: Final = 1 << 16
LARGEST_PAGE: Final = 15_000_000
"""Parameters of a model that a page may hold."""
RUNTIME: Final = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")


class ImageToImage(nn.Module):
    """A generator with uint8 images on both sides: N x H x W x 3 RGB, sides of any length."""

    def __init__(
        self,
        generator: nn.Module,
        multiple: int,
        smallest: int = 1,
        channel_layout: ChannelLayout = PLAIN,
    ) -> None:
        super().__init__()
        self.channel_layout = channel_layout
        self.generator, self.multiple, self.smallest = generator, multiple, smallest
        # Sides of any length are brought to the multiple here, where a graph can do it.
        self.translate = (
            generator.forward_padded if isinstance(generator, PaddedGenerator) else generator
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return the restored images."""
        height, width = image.shape[1], image.shape[2]
        padded = self._mirrored(self._mirrored(image, 1), 2)
        given = self.channel_layout.network_input(from_uint8(padded))
        return to_uint8(self.channel_layout.to_rgb(self.translate(given), given))[
            :, :height, :width
        ]

    def _mirrored(self, image: Tensor, axis: int) -> Tensor:
        """Mirror an axis at its end, without its last pixel, up to the multiple and the smallest side."""
        length = image.shape[axis]
        period = torch.full((1,), 2 * (length - 1), device=image.device).clamp(min=1)
        # Not -(-length // multiple): ONNX divides towards zero.
        count = (length + self.multiple - 1) // self.multiple * self.multiple
        if self.smallest > self.multiple:
            count = torch.sym_max(count, self.smallest)  # type: ignore[no-untyped-call]
        places = torch.arange(count, device=image.device)
        places = torch.remainder(places, period)
        return image.index_select(axis, torch.minimum(places, period - places))


@dataclass(frozen=True, slots=True)
class Parity:
    """How an ONNX file was compared with torch: images, their largest side, most levels of difference."""

    images: int
    side: int
    worst: int


def export_weights(model: LoadedModel, out: Path) -> None:
    """Write the generator alone as a checkpoint that every command here takes for a model."""
    from img2img_train.runs.checkpoint import read_description

    about = read_description(model.path)
    trained_for = about.config.get("direction", model.config.direction)
    name = (
        about.generator
        if model.config.direction == trained_for
        else about.reverse_generator or about.generator
    )
    tensors = {f"network/{name}/{k}": v for k, v in model.generator.state_dict().items()}
    only = {
        "networks": {name: about.networks[name]},
        "generator": name,
        "back": None,
        "complete": False,
        "config": {**about.config, "direction": model.config.direction},
    }
    write_checkpoint(out, tensors, about.model_copy(update=only))


def export_onnx(model: LoadedModel, out: Path, opset: int = OPSET) -> Parity:
    """Write the generator as ONNX, batch and size free, and compare it with torch on images of odd sizes.

    Raises UsageError where the extra is not installed, Img2ImgError
    where the file differs from torch by more than ``TOLERANCE`` levels; then nothing is left behind.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        load_extra(name, "export", "export")
    network = ImageToImage(
        model.generator.cpu(), model.spec.multiple, model.spec.smallest, model.channel_layout
    ).eval()
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        _write_graph(network, model, temporary, opset)
        parity = compare(
            network, temporary, _images(model.spec.multiple, uses_image_statistics(model.generator))
        )
        if parity.worst > TOLERANCE:
            why = f"differs from torch by {parity.worst} levels on a image"
            raise Img2ImgError("ONNX file", out, why, "it was not written; try another --opset")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
        model.generator.to(model.device)
    return parity


def _write_graph(network: ImageToImage, model: LoadedModel, path: Path, opset: int) -> None:
    side = 2 * model.spec.multiple + 1
    free = [
        torch.export.Dim(name, min=1, max=LARGEST_SIDE) for name in ("batch", "height", "width")
    ]
    with _quiet():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, side, side + 2, 3, dtype=torch.uint8),),
            dynamo=True,
            dynamic_shapes=(dict(enumerate(free)),),
            input_names=["image"],
            output_names=["restored"],
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise Img2ImgError(
            "ONNX file", path, "the exporter gave nothing back", "try another --opset"
        )
    proto = program.model_proto
    for name, size in zip(
        ("image", "restored"), (proto.graph.input[0], proto.graph.output[0]), strict=True
    ):
        _name_sides(name, size)
    for key, value in _description(model).items():
        proto.metadata_props.add(key=key, value=value)
    write_atomically(path, proto.SerializeToString(deterministic=True))


def _name_sides(name: str, value: Any) -> None:
    """Call the free sides batch, height, width on both ends; the exporter writes formulas on the output."""
    for size, word in zip(
        value.type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False
    ):
        size.dim_param = word


def _description(model: LoadedModel) -> dict[str, str]:
    about = {"title": model.config.title, "step": str(model.step), "network": model.spec.name}
    return {**about, "input": "uint8 RGB, N x H x W x 3", "output": "uint8 RGB, N x H x W x 3"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own chatter off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
        ):
            yield
    finally:
        logging.disable(level)


def _images(multiple: int, uses_image_statistics: bool) -> list[NDArray[np.uint8]]:
    """Return noise and ramps of odd sizes, down to one pixel: batches of 1 and 2.

    A network that ``uses_image_statistics`` divides by the deviation of what it is given: of a flat image, as one of
    a single pixel is, that leaves rounding errors, and torch agrees with itself in no two precisions.
    """
    rng, made = np.random.default_rng(0), []
    smallest = (2, 3) if uses_image_statistics else (1, 1)
    for number in range(CHECKED):
        height, width = smallest if not number else rng.integers(2, 5 * multiple, 2).tolist()
        noise = rng.integers(0, 256, (1 + number % 2, height, width, 3))
        ramp = np.linspace(0, 255, width)[:, None]
        made.append(np.asarray(noise if number % 3 else noise // 4 + ramp * 3 // 4, np.uint8))
    return made


def compare(network: ImageToImage, path: Path, batches: Sequence[NDArray[np.uint8]]) -> Parity:
    """Run both on batches N x H x W x 3 uint8 and return how far they differ."""
    session = load_extra("onnxruntime", "export", "export").InferenceSession(
        path.read_bytes(), providers=["CPUExecutionProvider"]
    )
    worst = 0
    for batch in batches:
        with torch.no_grad():
            expected = network(torch.from_numpy(batch)).numpy()
        (got,) = session.run(None, {"image": batch})
        if got.shape != expected.shape:
            raise Img2ImgError("ONNX file", path, f"gives {got.shape}, torch {expected.shape}")
        worst = max(worst, int(np.abs(got.astype(np.int16) - expected).max()))
    return Parity(sum(len(b) for b in batches), max(max(b.shape[1:3]) for b in batches), worst)


# -------------------------------------------------------------------------------------------- page
def export_page(
    model: LoadedModel, out: Path, runtime: Path | None = None, opset: int = OPSET
) -> Parity:
    """Write a page that runs the model in a browser, from a file, without a network.

    ``runtime`` is the folder of the npm package onnxruntime-web; without it the one in ``node_modules`` here.
    Raises UsageError where it is not there or the model is too large, and as ``export_onnx``.
    """
    count = sum(p.numel() for p in model.generator.parameters())
    if count > LARGEST_PAGE:
        why = f"has {count / 1e6:.1f} million parameters, a page holds {LARGEST_PAGE / 1e6:.0f}"
        raise UsageError(
            "model", model.path, why, "export it as .onnx, or train a narrower one by --width"
        )
    script, binary = _runtime_files(runtime or Path("node_modules/onnxruntime-web"))
    graph = out.with_name(f".{out.name}.onnx")
    try:
        parity = export_onnx(model, graph, opset)
        page = render_browser_page(
            title=model.config.title,
            about=f"{model.spec.name}, {count / 1e6:.1f} million parameters, step {model.step:,}",
            runtime=script,
            wasm=binary,
            model=graph.read_bytes(),
        )
    finally:
        graph.unlink(missing_ok=True)
    write_atomically(out, page.encode())
    return parity


def _runtime_files(folder: Path) -> list[bytes]:
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    try:
        return [(dist / name).read_bytes() for name in RUNTIME]
    except OSError as error:
        why = f"has no {Path(str(error.filename)).name}"
        hint = "run 'npm install onnxruntime-web' here, or give its folder by --runtime"
        raise UsageError("runtime", folder, why, hint) from None
