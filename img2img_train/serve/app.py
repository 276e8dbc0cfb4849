"""The page of ``serve``: choose a model, bring a image, see what the model makes of it, and the scores.

Gradio draws it. What happens on a click is a method of ``Handlers``, which takes what the page holds and returns
what it shows; whatever goes wrong becomes one line in the page.
"""

from __future__ import annotations

import functools
import html
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

from img2img_data.core.errors import REASONS, Img2ImgError, Rejected, UsageError, printable
from img2img_data.core.settings_model import Place, build_model
from img2img_data.core.yaml_file import read_value
from img2img_data.degradations.base import Degradation
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import parse_spec
from img2img_data.images import io
from img2img_data.images.pixels import Pixels
from img2img_train.distributed.memory import is_out_of_memory
from img2img_train.inference.translate import TranslateSettings
from img2img_train.metrics.registry import IMAGE_METRICS
from img2img_train.networks.layers import TestNorm
from img2img_train.serve.models import ModelChoice, ModelRegistry, degraded
from img2img_train.serve.widgets import Control, all_controls, settings_of

RECIPE: Final = "a recipe"
EXAMPLE: Final = "- gaussian: {sigma: 1.5}\n- noise: {sigma: 8}\n- jpeg: {quality: [30, 60]}\n"
KEPT: Final = 12
"""Results whose files stay in the temporary folder."""
QUEUE: Final = 16
"""Clicks that may wait for the device."""

CSS: Final = """
.gradio-container { width: 100% !important; max-width: 1080px !important; margin: 0 auto !important; }
.fillable { padding: 16px clamp(12px, 4vw, 32px) !important; }
.html-container { padding: 0 !important; }
#head h1 { margin-bottom: 0; }
#head p, .hint, .hint p, .said {
  color: color-mix(in srgb, var(--body-text-color) 75%, transparent) !important;
}
.said { font-variant-numeric: tabular-nums; line-height: 1.5; }
.block.inside { background: var(--block-background-fill); padding: 0.6rem 0.8rem 0 !important; }
.scores { overflow-x: auto; }
.scores table {
  width: 100%; max-width: 34rem; border: 0 !important; border-collapse: collapse;
  font-variant-numeric: tabular-nums;
}
.scores td {
  padding: 0.35rem 0.3rem !important; border: 0 !important;
  font-size: 0.9rem; text-align: right !important; white-space: nowrap;
}
.scores tr { border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important; }
.scores tr > :first-child { text-align: left !important; }
.scores tr > :last-child { font-weight: 600; }
.scores p { margin: 0.6rem 0 0; }
"""


@dataclass(slots=True)
class Handlers:
    """What happens on a click. ``folder`` holds uploads and results, and goes when the server does."""

    offers: ModelRegistry
    folder: Path
    controls: Mapping[str, tuple[Control, ...]] = field(default_factory=all_controls)
    made: list[Path] = field(default_factory=list)

    def restore(self, upload: str | None, *chosen: Any) -> tuple[Any, ...]:
        """Return (input, output), a line, the file to download."""
        choice, settings = choice_of(*chosen)
        began = time.perf_counter()
        taken, file = self.offers.restore(choice, self.bytes_of(upload), settings)
        seconds, name = time.perf_counter() - began, Path(str(upload)).stem
        given, result = self.keep(taken, f"{name}-input"), self.keep(file, f"{name}-restored")
        said = (
            f"{self.title(choice)}: {taken.shape[1]} × {taken.shape[0]} pixels in {seconds:.2f} s"
        )
        return (given, result), html.escape(said), result

    def degrade_and_restore(self, upload: str | None, *values: Any) -> tuple[Any, ...]:
        """Return (degraded, restored), the scores, and clean, degraded and restored."""
        (*chosen, kind, recipe, seed), settings = values[:9], values[9:]
        choice, how = choice_of(*chosen)
        degradation = self.degradation(kind, recipe, settings)
        data, path = self.bytes_of(upload), Path(str(upload))
        image, drawn = degraded(
            degradation, clean := self.offers.read(data), int(seed or 0), path.name
        )
        trial = self.offers.trial(choice, clean, image, how)
        parts = {"clean": trial.target, "degraded": trial.given, "restored": trial.made}
        shown = [self.keep(image, f"{path.stem}-{part}") for part, image in parts.items()]
        table = score_table(trial.nothing, trial.scores)
        return (shown[1], shown[2]), table + drawn_line(drawn), *shown

    def compare(self, upload: str | None, target: str | None, *chosen: Any) -> tuple[Any, ...]:
        """Return (output, target) and the scores."""
        choice, settings = choice_of(*chosen)
        given, wanted = (self.offers.read(self.bytes_of(path)) for path in (upload, target))
        trial = self.offers.trial(choice, wanted, given, settings)
        name = Path(str(upload)).stem
        pair = self.keep(trial.made, f"{name}-output"), self.keep(trial.target, f"{name}-target")
        return pair, score_table(trial.nothing, trial.scores)

    def degradation(self, kind: str, recipe: str, values: Sequence[Any]) -> Degradation:
        """Return the degradation that the controls, or a recipe, stand for; UsageError says what is wrong."""
        if kind == RECIPE:
            try:
                return parse_spec(read_value(recipe), Place(RECIPE)).degradation
            except ValueError as error:
                raise UsageError(RECIPE, None, f"is no YAML ({error})", "see the example") from None
        place = 0
        for name, controls in self.controls.items():
            if name == kind:
                settings = settings_of(controls, values[place : place + len(controls)])
                return build_model(DEGRADATIONS[kind], settings, Place(kind))
            place += len(controls)
        raise UsageError("degradation", kind, "unknown", "choose one of the list")

    def bytes_of(self, upload: str | None) -> bytes:
        """Return an uploaded file; UsageError where none was given, Rejected where it is too large."""
        if upload is None:
            raise UsageError("image", None, "none was given", "upload one first")
        path = Path(upload).resolve()
        if not path.is_relative_to(self.folder.resolve()):
            raise UsageError("image", path.name, "was not uploaded here", "upload it")
        return io.read_bytes(path, self.offers.limits.bytes)

    def keep(self, content: Pixels | bytes, name: str) -> str:
        """Write a image for the page to show and return its path; the oldest ones go."""
        data = content if isinstance(content, bytes) else io.encode(content, "png")
        folder = self.folder / "made" / f"{time.monotonic_ns():x}"
        folder.mkdir(parents=True)
        self.made.append(folder)
        for old in self.made[:-KEPT]:
            rmtree(old, ignore_errors=True)
        del self.made[:-KEPT]
        path = folder / f"{name[:80]}.png"
        path.write_bytes(data)
        return str(path)

    def title(self, choice: ModelChoice) -> str:
        """Return the name of a model and its way, where it has two."""
        offer = self.offers.offers[choice.number]
        return offer.name + (f", {choice.way}" if len(offer.ways) > 1 and choice.way else "")


def choice_of(
    number: int, way: str | None, dropout: str, norm: str, tile: float, overlap: float
) -> tuple[ModelChoice, TranslateSettings]:
    """Return the model and the way it is applied from the page's settings."""
    settings = build_model(TranslateSettings, {"tile": int(tile), "overlap": int(overlap)})
    switched = {"on": True, "off": False}.get(dropout)
    how: TestNorm | None = "batch" if norm == "batch" else "running" if norm == "running" else None
    return ModelChoice(int(number), way, switched, how), settings


def score_table(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Return the scores as a table of a page, and what they say of the model."""
    rows = [["", "doing<br>nothing", "model", "gain"]]
    for name, m in IMAGE_METRICS.items():
        title = f"{m.label}{f' ({m.unit})' if m.unit else ''} {'↑' if m.higher_is_better else '↓'}"
        numbers = [f"{part[name]:.{m.digits}f}" for part in (before, after)]
        rows.append([title, *numbers, f"{m.gain(after[name], before[name]):+.{m.digits}f}"])
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    gain = IMAGE_METRICS["psnr"].gain(after["psnr"], before["psnr"])
    said = f"beats doing nothing by {gain:.2f} dB" if gain > 0 else "does not beat doing nothing"
    advice = "One image says little: <code>img2img-train evaluate</code> scores a whole corpus."
    table = f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
    return f"{table}<p>On this image the model <b>{said}</b>. {advice}</p>"


def drawn_line(drawn: Mapping[str, float]) -> str:
    """Return what was drawn for a image, as its row in a corpus would say."""
    named = ", ".join(f"{html.escape(name)} {value:g}" for name, value in drawn.items())
    return f"<p>Drawn: {named}.</p>" if named else ""


# ------------------------------------------------------------------------------------------ the page
def in_one_line(gr: Any, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``work`` with its errors as a line in the page; what is a fault of ours goes to the terminal."""

    def said(line: str) -> Exception:
        fault: Exception = gr.Error(html.escape(line), duration=None, print_exception=False)
        return fault

    @functools.wraps(work)
    def call(*values: Any) -> Any:
        try:
            return work(*values)
        except Rejected as rejected:
            detail = f" ({printable(rejected.detail)})" if rejected.detail else ""
            raise said(f"{rejected.reason}: {REASONS[rejected.reason]}{detail}") from None
        except Img2ImgError as error:
            raise said(str(error)) from None
        except Exception as error:
            if is_out_of_memory(error):
                raise said("not enough memory: choose a smaller tile or a smaller image") from None
            traceback.print_exc(file=sys.stderr)
            raise said(
                f"a fault of this program ({type(error).__name__}); the terminal says more"
            ) from None

    return call


def build_page(gr: Any, desk: Handlers) -> Any:
    """Return the page as gradio's Blocks."""
    with gr.Blocks(title="img2img", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# img2img\nEverything happens on this machine: no image leaves it, "
            "and what you upload is deleted when the server ends.",
            elem_id="head",
        )
        chosen = _choosing(gr, desk)
        for title, tab in (
            ("Restore", _own_tab),
            ("Degrade, restore", _degrade_tab),
            ("Compare", _compare_tab),
        ):
            with gr.Tab(title):
                tab(gr, desk, chosen)
    page.queue(default_concurrency_limit=1, max_size=QUEUE, api_open=False)
    return page


def _choosing(gr: Any, desk: Handlers) -> list[Any]:
    """Lay out the choice of a model and how it is applied; the order is that of ``choice_of``."""
    offers = desk.offers.offers
    names = [(offer.name, number) for number, offer in enumerate(offers)]
    box = gr.Radio if len(offers) <= 6 else gr.Dropdown
    model = box(names, value=0, label="Model", visible=len(offers) > 1, elem_id="model")
    about = gr.HTML(_about(desk, 0), elem_id="about", elem_classes="said", padding=False)
    ways = offers[0].ways
    way = gr.Radio(
        _ways(ways), value=ways[0], label="Direction", visible=len(ways) > 1, elem_id="way"
    )
    fields = TranslateSettings.model_fields
    with gr.Accordion("Model settings", open=False), gr.Row():
        dropout = gr.Radio(
            [("as saved", "saved"), "on", "off"],
            value="saved",
            label="Dropout",
            info="on: a mask drawn from the image",
        )
        norm = gr.Radio(
            [("as saved", "saved"), "batch", "running"],
            value="saved",
            label="Batch norm",
            info="the image's own statistics, or the learned",
        )
        numbers = [
            gr.Number(
                fields[n].default,
                precision=0,
                minimum=low,
                label=n.capitalize(),
                info=fields[n].description,
            )
            for n, low in (("tile", 16), ("overlap", 0))
        ]

    def follow(number: int) -> tuple[Any, Any]:
        ways = offers[number].ways
        return _about(desk, number), gr.Radio(_ways(ways), value=ways[0], visible=len(ways) > 1)

    model.change(
        follow, model, [about, way], queue=False, api_visibility="private", show_progress="hidden"
    )
    return [model, way, dropout, norm, *numbers]


def _about(desk: Handlers, number: int) -> str:
    offer = desk.offers.offers[number]
    alone = f"<b>{html.escape(offer.name)}</b><br>" if len(desk.offers.offers) == 1 else ""
    return alone + "<br>".join(map(html.escape, offer.about))


def _ways(ways: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{way} (as trained)" if way == ways[0] else way, way) for way in ways]


def _upload(gr: Any, label: str, name: str) -> Any:
    return gr.File(label=label, elem_id=name, height=140, min_width=260)


def _slider(gr: Any, label: str, name: str) -> Any:
    return gr.ImageSlider(
        label=label,
        elem_id=name,
        interactive=False,
        type="filepath",
        buttons=["fullscreen"],
        max_height=600,
    )


def _on(
    gr: Any, events: Sequence[Any], work: Callable[..., Any], inputs: list[Any], outputs: list[Any]
) -> None:
    """Do ``work`` on any of the events, one at a time on the device; what was shown before goes first.

    A click while it is at work counts: it is done once more with what the page says then.
    """
    quiet = {"api_visibility": "private", "trigger_mode": "always_last"}
    cleared = gr.on(
        events,
        lambda: [None] * len(outputs),
        None,
        outputs,
        queue=False,
        show_progress="hidden",
        **quiet,
    )
    cleared.then(
        in_one_line(gr, work),
        inputs,
        outputs,
        concurrency_limit=1,
        concurrency_id="device",
        **quiet,
    )


def _own_tab(gr: Any, desk: Handlers, chosen: list[Any]) -> None:
    gr.Markdown(
        "Bring a image of any size; drag the line to see it before and after.", elem_classes="hint"
    )
    upload = _upload(gr, "Image", "own-image")
    button = gr.Button("Restore", variant="primary", elem_id="own-go")
    slider = _slider(gr, "input | output", "own-slider")
    said = gr.HTML(elem_id="own-said", elem_classes="said", padding=False)
    download = gr.DownloadButton("Download the result (PNG)", elem_id="own-download")
    _on(
        gr, [upload.upload, button.click], desk.restore, [upload, *chosen], [slider, said, download]
    )


def _degrade_tab(gr: Any, desk: Handlers, chosen: list[Any]) -> None:
    gr.Markdown(
        "Bring a clean image. It is degraded, restored, and both are compared with the clean one: "
        "a model that does not beat doing nothing is of no use.",
        elem_classes="hint",
    )
    upload = _upload(gr, "Clean image", "clean-image")
    kinds = [*desk.controls, RECIPE]
    with gr.Row():
        kind = gr.Dropdown(kinds, value=kinds[0], label="Degradation", elem_id="kind", scale=3)
        seed = gr.Number(
            0, precision=0, minimum=0, label="Seed", elem_id="seed", scale=1, min_width=120
        )
    groups, controls = [], []
    for name, listed in desk.controls.items():
        with gr.Group(visible=name == kinds[0], elem_id=f"settings-{name}") as group:
            doc = (DEGRADATIONS[name].__doc__ or "").strip().partition("\n")[0]
            gr.HTML(html.escape(doc), elem_classes=["hint", "inside"])
            controls += [_control(gr, name, control) for control in listed]
        groups.append(group)
    with gr.Group(visible=False, elem_id="settings-recipe") as group:
        recipe = gr.Code(
            EXAMPLE, language="yaml", label="As in a recipe, under 'degradation:'", elem_id="recipe"
        )
    groups.append(group)
    kind.change(
        lambda name: [gr.Group(visible=other == name) for other in kinds],
        kind,
        groups,
        queue=False,
        api_visibility="private",
        show_progress="hidden",
    )
    button = gr.Button("Degrade and restore", variant="primary", elem_id="degrade-go")
    slider = _slider(gr, "degraded | restored", "degrade-slider")
    table = gr.HTML(elem_id="degrade-scores", elem_classes="scores", padding=False)
    with gr.Row():
        shown = [
            gr.Image(
                label=label,
                interactive=False,
                type="filepath",
                height=240,
                min_width=100,
                buttons=["fullscreen"],
            )
            for label in ("clean", "degraded", "restored")
        ]
    inputs = [upload, *chosen, kind, recipe, seed, *controls]
    _on(
        gr, [upload.upload, button.click], desk.degrade_and_restore, inputs, [slider, table, *shown]
    )


def _control(gr: Any, kind: str, control: Control) -> Any:
    """Return the component of one setting."""
    about = {"label": control.label, "info": control.about, "elem_id": f"{kind}-{control.name}"}
    if control.kind == "slider":
        return gr.Slider(control.low, control.high, control.value, step=control.step, **about)
    if control.kind == "number":
        precision = 0 if control.step == 1 else None
        return gr.Number(
            control.value, minimum=control.low, maximum=control.high, precision=precision, **about
        )
    if control.kind == "switch":
        return gr.Checkbox(control.value, **about)
    choices = [(str(choice), choice) for choice in control.choices]
    return gr.Dropdown(choices, value=control.value, multiselect=control.kind == "several", **about)


def _compare_tab(gr: Any, desk: Handlers, chosen: list[Any]) -> None:
    gr.Markdown(
        "Bring both halves of a pair: what goes in, and what should come out.", elem_classes="hint"
    )
    with gr.Row():
        upload, target = _upload(gr, "Input", "pair-input"), _upload(gr, "Target", "pair-target")
    button = gr.Button("Compare", variant="primary", elem_id="pair-go")
    slider = _slider(gr, "output | target", "pair-slider")
    table = gr.HTML(elem_id="pair-scores", elem_classes="scores", padding=False)
    _on(gr, [button.click], desk.compare, [upload, target, *chosen], [slider, table])
