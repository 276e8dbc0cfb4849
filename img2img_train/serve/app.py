"""The demo page: choose a model, upload an image, see the output and its scores.

``Handlers`` computes what a click shows; ``build_page`` lays the page out with gradio. Any error
becomes one line in the page.
"""

from __future__ import annotations

import html
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from img2img_data.core.errors import REASONS, Img2ImgError, Rejected, UsageError, printable
from img2img_data.core.settings_model import Place, build_model, help_of
from img2img_data.core.yaml_file import read_value
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import parse_spec
from img2img_data.images import io
from img2img_train.distributed.memory import is_out_of_memory
from img2img_train.inference.settings import TranslateSettings
from img2img_train.metrics.registry import IMAGE_METRICS
from img2img_train.serve.models import ModelChoice, ModelRegistry, ScoredRestoration, degraded
from img2img_train.serve.request_guard import EXAMPLES_FOLDER
from img2img_train.serve.widgets import Widget, all_widgets, settings_of

RECIPE: Final = "recipe"
EXAMPLE: Final = "- gaussian: {sigma: 1.5}\n- noise: {sigma: 8}\n- jpeg: {quality: [30, 60]}\n"

# Without the default button that shares an image with a web service.
RESULT: Final = {"buttons": ["fullscreen"], "interactive": False, "format": "png"}
"""Arguments of images that are results."""
QUIET: Final = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Arguments of events that compute nothing: they do not wait for the device."""


@dataclass(slots=True)
class Handlers:
    """Functions behind the buttons. ``folder`` holds uploads and results; it is removed with the
    server.
    """

    registry: ModelRegistry
    folder: Path
    widgets: Mapping[str, Mapping[str, Widget]] = field(default_factory=all_widgets)

    def restore(self, upload: str | None, *model: Any) -> tuple[Any, ...]:
        """Return (input, output), a status line, the file to download."""
        choice = _choice(*model)
        start, data = time.perf_counter(), self.read(upload)
        seen, file = self.registry.restore(choice, data)
        seconds = time.perf_counter() - start
        # In a folder of its own, because its name is that of the download; gradio deletes it later.
        name = f"{Path(str(upload)).stem[:80]}-restored.png"
        result = Path(tempfile.mkdtemp(dir=self.folder), name)
        result.write_bytes(file)
        entry = self.registry.entries[choice.number]
        direction = f", {choice.direction}" if len(entry.directions) > 1 else ""
        size = f"{seen.shape[1]} × {seen.shape[0]} pixels in {seconds:.2f} s"
        return (seen, str(result)), html.escape(f"{entry.name}{direction}: {size}"), str(result)

    def degrade_and_restore(self, upload: str | None, *values: Any) -> tuple[Any, ...]:
        """Return (degraded, restored), the scores, and clean, degraded and restored image."""
        (*model, kind, recipe, seed), parameters = values[:9], values[9:]
        choice = _choice(*model)
        degradation = self.degradation(kind, recipe, parameters)
        clean, name = self.registry.decode(self.read(upload)), Path(str(upload)).name
        image, drawn = degraded(degradation, clean, int(seed or 0), name)
        result = self.registry.score(choice, clean, image)
        table = _score_table(result)
        if drawn:
            pairs = (f"{html.escape(name)} {value:g}" for name, value in drawn.items())
            table += f"<p>Drawn: {', '.join(pairs)}.</p>"
        images = (result.target, result.input, result.output)
        return images[1:], table, *images

    def compare(self, upload: str | None, target: str | None, *model: Any) -> tuple[Any, ...]:
        """Return (output, target) and the scores."""
        choice = _choice(*model)
        image, clean = (self.registry.decode(self.read(path)) for path in (upload, target))
        result = self.registry.score(choice, clean, image)
        return (result.output, result.target), _score_table(result)

    def degradation(self, kind: str, recipe: str, values: Sequence[Any]) -> Degradation:
        """Return the degradation of a recipe, or of the values of all widgets; UsageError if
        wrong.
        """
        if kind == RECIPE:
            try:
                return parse_spec(read_value(recipe), Place(RECIPE)).degradation
            except ValueError as error:
                why = f"is not YAML ({error})"
                raise UsageError(RECIPE, None, why, "see the example") from None
        remaining = iter(values)
        for name, widgets in self.widgets.items():
            settings = settings_of(widgets, list(islice(remaining, len(widgets))))
            if name == kind:
                return build_model(DEGRADATIONS[kind], settings, Place(kind))
        raise UsageError("degradation", kind, "unknown", "choose one from the list")

    def read(self, upload: str | None) -> bytes:
        """Return an uploaded file; UsageError if there is none, Rejected if it is too large."""
        if upload is None:
            raise UsageError("image", None, "is missing", "upload one first")
        path = Path(upload).resolve()
        # A request may name any path: only files in the upload folder are read.
        if not path.is_relative_to(self.folder.resolve()):
            raise UsageError("image", path.name, "was not uploaded here", "upload it")
        return io.read_bytes(path, self.registry.policy.max_bytes)


def _choice(
    number: int | None, direction: str | None, dropout: str, norm: str, tile: Any, overlap: Any
) -> ModelChoice:
    settings = build_model(TranslateSettings, {"tile": tile, "overlap": overlap})
    if number is None:
        raise UsageError("model", None, "is missing", "choose one")
    switch: Any = {"on": True, "off": False}.get(dropout)
    statistics: Any = norm if norm in ("batch", "running") else None
    return ModelChoice(int(number), direction, switch, statistics, settings)


def _score_table(result: ScoredRestoration) -> str:
    baseline, scores = result.input_scores, result.scores
    rows = [["", "input", "model", "gain"]]
    for name, m in IMAGE_METRICS.items():
        unit, arrow = f" ({m.unit})" if m.unit else "", "↑" if m.better == "higher" else "↓"
        numbers = [f"{part[name]:.{m.digits}f}" for part in (baseline, scores)]
        gain = f"{m.gain(scores[name], baseline[name]):+.{m.digits}f}"
        rows.append([f"{m.label}{unit} {arrow}", *numbers, gain])
    cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    decibels = IMAGE_METRICS["psnr"].gain(scores["psnr"], baseline["psnr"])
    verb = f"beats the input by {decibels:.2f} dB" if decibels > 0 else "does not beat the input"
    return (
        f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
        f"<p>On this image the model <b>{verb}</b>. One image says little: "
        "<code>img2img-train evaluate</code> scores a whole corpus.</p>"
    )


def _one_line_errors(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with its errors as one line in the page; unexpected ones are also
    printed.
    """

    def call(*values: Any) -> Any:
        try:
            return function(*values)
        except Rejected as rejected:
            detail = f" ({printable(rejected.detail)})" if rejected.detail else ""
            line = f"{rejected.reason}: {REASONS[rejected.reason]}{detail}"
        except Img2ImgError as error:
            line = str(error)
        except Exception as error:
            if is_out_of_memory(error):
                line = "not enough memory: choose a smaller tile or a smaller image"
            else:
                traceback.print_exception(error)
                line = f"internal error ({type(error).__name__}); details are in the terminal"
        # Names of files and recipes are user input, and the page would render them as HTML.
        raise gr.Error(html.escape(line), duration=None, print_exception=False)

    return call


# --------------------------------------------------------------------------------------- the page
def build_page(gr: Any, registry: ModelRegistry, folder: Path) -> Any:
    """Return the page as gradio's Blocks."""
    handlers = Handlers(registry, folder)
    with gr.Blocks(title="img2img", analytics_enabled=False) as page:
        where = "no image leaves it, and uploads are deleted when the server stops"
        names = html.escape(", ".join(entry.name for entry in registry.entries))
        head = f"<p>img2img · on this computer: {where}</p><h1>{names}</h1>"
        gr.HTML(head, elem_id="head", padding=False)
        model = _model_settings(gr, registry)
        with gr.Tab("Restore"):
            _hint(gr, "Upload an image of any size; drag the line to compare input and output.")
            with gr.Row():
                with gr.Column(min_width=280):
                    upload = _upload(gr, "Image", "restore-image")
                    starts = _examples(gr, page, handlers, model[0], upload)
                    button = gr.Button("Restore", variant="primary", elem_id="restore-run")
                with gr.Column(scale=2, min_width=280):
                    slider, status = _results(gr, "restore", "input | output", "status")
                    label = "Download the output (PNG)"
                    download = gr.DownloadButton(label, elem_id="restore-download")
            outputs = [slider, status, download]
            for start in (partial(gr.on, [upload.upload, button.click]), *starts):
                _on(gr, start, handlers.restore, [upload, *model], outputs)
        with gr.Tab("Degrade and restore"):
            _degrade_tab(gr, handlers, model)
        with gr.Tab("Compare"):
            _hint(gr, "Upload both halves of a pair: the input and the target.")
            with gr.Row():
                upload = _upload(gr, "Input", "pair-input")
                target = _upload(gr, "Target", "pair-target")
            button = gr.Button("Compare", variant="primary", elem_id="compare-run")
            slider, table = _results(gr, "compare", "output | target", "scores")
            inputs = [upload, target, *model]
            _on(gr, button.click, handlers.compare, inputs, [slider, table])
    # Up to 16 clicks may wait for the device.
    page.queue(default_concurrency_limit=1, max_size=16, api_open=False)
    return page


def _model_settings(gr: Any, registry: ModelRegistry) -> list[Any]:
    """Lay out the choice of a model and how it is applied; return the inputs of ``_choice``."""
    entries, fields = registry.entries, TranslateSettings.model_fields

    def description(number: int) -> str:
        entry = entries[number]
        purpose, *lines = map(html.escape, entry.description)
        return f"<p>{purpose}</p>{'<br>'.join(lines)}"

    def directions(number: int) -> dict[str, Any]:
        first, *others = entries[number].directions
        choices = [(f"{first} (as trained)", first), *((other, other) for other in others)]
        return {"choices": choices, "value": first, "visible": bool(others)}

    def show(number: int) -> tuple[Any, Any]:
        return description(number), gr.Radio(**directions(number))

    names = [(entry.name, number) for number, entry in enumerate(entries)]
    box = gr.Radio if len(entries) <= 6 else gr.Dropdown
    model = box(names, value=0, label="Model", visible=len(entries) > 1, elem_id="model")
    about = gr.HTML(description(0), elem_id="about", elem_classes="status", padding=False)
    direction = gr.Radio(**directions(0), label="Direction", elem_id="direction")
    with gr.Accordion("Model settings", open=False), gr.Row():
        saved = ("as saved", "saved")
        masks, statistics = "on: a mask drawn from the image", "of the image, or the learned ones"
        dropout = gr.Radio([saved, "on", "off"], value="saved", label="Dropout", info=masks)
        norms = [saved, "batch", "running"]
        norm = gr.Radio(norms, value="saved", label="Batch norm statistics", info=statistics)
        numbers = []
        for name, minimum in (("tile", 16), ("overlap", 0)):
            about_it = {"label": name.capitalize(), "info": help_of(fields[name])}
            number = gr.Number(fields[name].default, precision=0, minimum=minimum, **about_it)
            numbers.append(number)
    model.change(show, model, [about, direction], **QUIET)
    return [model, direction, dropout, norm, *numbers]


def _examples(gr: Any, page: Any, handlers: Handlers, model: Any, upload: Any) -> list[Any]:
    """Lay out the examples of the chosen model; return the events after one has been chosen.

    The first one is chosen when the page opens, so that it shows a result at once.
    """
    folder, files = handlers.folder / EXAMPLES_FOLDER, list[list[list[str]]]()
    folder.mkdir()
    for number, entry in enumerate(handlers.registry.entries, 1):
        paths = [folder / f"example-{number}-{n + 1}.png" for n in range(len(entry.examples))]
        for path, data in zip(paths, entry.examples, strict=True):
            path.write_bytes(data)
        files.append([[str(path)] for path in paths])

    def choices(number: int) -> dict[str, Any]:
        return {"samples": files[number], "visible": bool(files[number])}

    title = {"label": "Examples of its corpus", "elem_id": "examples", "type": "index"}
    box = gr.Dataset(components=["image"], layout="gallery", **title, **choices(0))
    model.change(lambda number: gr.Dataset(**choices(number)), model, box, **QUIET)
    events = [box.click(lambda n, place: files[n][place][0], [model, box], upload, **QUIET)]
    if files[0]:
        events.append(page.load(lambda: files[0][0][0], None, upload, **QUIET))
    return [event.then for event in events]


def _degrade_tab(gr: Any, handlers: Handlers, model: list[Any]) -> None:
    what = "Upload a clean image. It is degraded and restored, and both are scored against it"
    _hint(gr, f"{what}: a model that does not beat its input is useless.")
    upload = _upload(gr, "Clean image", "clean-image")
    names = [*handlers.widgets, RECIPE]
    with gr.Row():
        kind = gr.Dropdown(names, value=names[0], label="Degradation", elem_id="kind", scale=3)
        seed = gr.Number(0, precision=0, minimum=0, label="Seed", elem_id="seed", min_width=120)
    groups, parameters = [], []
    for name, widgets in handlers.widgets.items():
        with gr.Group(visible=name == names[0]) as group:
            summary = (DEGRADATIONS[name].__doc__ or "").strip().partition("\n")[0]
            gr.HTML(html.escape(summary), elem_classes=["hint", "inside"])
            for parameter, widget in widgets.items():
                component = getattr(gr, widget.component)
                parameters.append(component(**widget.arguments, elem_id=f"{name}-{parameter}"))
        groups.append(group)
    with gr.Group(visible=False) as group:
        label = "As in a recipe, under 'degradation:'"
        recipe = gr.Code(EXAMPLE, language="yaml", label=label, elem_id="recipe")
    groups.append(group)

    def show(chosen: str) -> list[Any]:
        return [gr.Group(visible=name == chosen) for name in names]

    kind.change(show, kind, groups, **QUIET)
    button = gr.Button("Degrade and restore", variant="primary", elem_id="degrade-run")
    slider, table = _results(gr, "degrade", "degraded | restored", "scores")
    with gr.Row():
        looks = {"min_width": 100, "height": 240, **RESULT}
        images = [gr.Image(label=name, **looks) for name in ("clean", "degraded", "restored")]
    inputs, outputs = [upload, *model, kind, recipe, seed, *parameters], [slider, table, *images]
    start = partial(gr.on, [upload.upload, button.click])
    _on(gr, start, handlers.degrade_and_restore, inputs, outputs)


def _hint(gr: Any, text: str) -> None:
    gr.Markdown(text, elem_classes="hint")


def _upload(gr: Any, label: str, name: str) -> Any:
    # A file box: an image box would decode the upload itself.
    return gr.File(label=label, elem_id=name, height=140, min_width=260)


def _results(gr: Any, name: str, images: str, kind: str) -> tuple[Any, Any]:
    """Lay out the results of a tab: two images, and a text ("status" or "scores")."""
    slider = gr.ImageSlider(label=images, elem_id=f"{name}-slider", max_height=600, **RESULT)
    return slider, gr.HTML(elem_id=f"{name}-{kind}", elem_classes=kind, padding=False)


def _on(gr: Any, start: Any, call: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Call a function on the events of ``start``; earlier results are cleared first.

    A click during a call counts: the function is called once more, with the values of that moment.
    """
    latest = {"trigger_mode": "always_last"}
    cleared = start(lambda: [None] * len(outputs), None, outputs, **QUIET, **latest)
    # One queue for all tabs, because they share the device.
    device = {"concurrency_limit": 1, "concurrency_id": "device", "api_visibility": "private"}
    cleared.then(_one_line_errors(gr, call), inputs, outputs, **device, **latest)
