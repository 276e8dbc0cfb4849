"""A page on this machine in which images meet models: a server for one person, on loopback alone.

Gradio draws the page, and by itself does far more than is wanted here. So nothing is left to chance: its
environment variables are taken away, and ``gate`` decides what reaches it and what leaves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from img2img_data.core.errors import load_extra
from img2img_train.serve.models import Limits, ModelRegistry
from img2img_train.serve.request_guard import HOST, App, RequestGuard, listen, stay_home
from img2img_train.training.signals import SIGNALS, Stopped

LAST_SECONDS: Final = 1
"""How long open connections of the page may take to end."""


def _settle(folder: Path) -> None:
    """Set the environment that gradio and its libraries read when they are imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def serve(
    paths: Sequence[Path],
    port: int = 7860,
    device: str = "auto",
    limits: Limits | None = None,
    show: bool = False,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the page of some runs or checkpoints until a signal ends it: then ``Stopped`` is raised.

    ``port`` 0 takes a free one; ``show`` opens the page in a browser. Raises UsageError where the extra is
    not installed or the port is taken, CheckpointError where a run cannot be offered.
    """
    limits = limits or Limits(50_000_000, 100_000_000)
    with (
        _on_signals(_leave),
        listen(port) as listener,
        tempfile.TemporaryDirectory(
            prefix="img2img-serve-", ignore_cleanup_errors=True
        ) as temporary,
    ):
        offers = ModelRegistry.of(paths, device, limits)
        _settle(Path(temporary))
        gr = load_extra("gradio", "serve", "serve")
        stay_home()
        number = listener.getsockname()[1]
        app = RequestGuard(_page(gr, offers, Path(temporary), number))
        count = "1 model" if len(paths) == 1 else f"{len(paths):,} models"

        def ready() -> None:
            tell(f"serving {count} on http://{HOST}:{number} (Ctrl-C ends)")
            if show:
                webbrowser.open(f"http://{HOST}:{number}")

        _run(app, listener, ready)


def _page(gr: Any, offers: ModelRegistry, folder: Path, port: int) -> App:
    """Return what answers the requests of the page."""
    from img2img_train.serve.app import CSS, Handlers, build_page

    fastapi = load_extra("fastapi", "serve", "serve")
    page = build_page(gr, Handlers(offers, folder))
    outer = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(
        outer,
        page,
        "/",
        server_name=HOST,
        server_port=port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=offers.limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(gr),
        css=CSS,
    )
    # Only of a page that was launched does gradio look where a file lies that a request names.
    page.has_launched = True
    answer: App = outer
    return answer


def _theme(gr: Any) -> Any:
    """Return a theme of the system's own fonts, its small print dark enough to read."""
    mono = ("ui-monospace", "monospace")
    theme = gr.themes.Default(primary_hue="blue", font=("system-ui", "sans-serif"), font_mono=mono)
    return theme.set(
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )


def _run(app: App, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal comes; end open connections; raise Stopped."""
    uvicorn = load_extra("uvicorn", "serve", "serve")
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=LAST_SECONDS,
        server_header=False,
    )
    server, came = uvicorn.Server(config), list[int]()
    started = server.startup

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        await started(sockets)
        ready()

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        server.should_exit = True

    server.startup = startup
    # Uvicorn would raise the signals it caught again; here the temporary folder goes first.
    server.capture_signals = lambda: _on_signals(note)
    server.run(sockets=[listener])
    _leave(came[0] if came else signal.SIGTERM, None)


def _leave(number: int, frame: FrameType | None) -> None:
    raise Stopped(number, "the server has ended")


@contextlib.contextmanager
def _on_signals(call: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, call) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
