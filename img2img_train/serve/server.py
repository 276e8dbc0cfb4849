"""Server of the demo page: gradio in a FastAPI app behind the request guard, for one user on
loopback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import tempfile
import traceback
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from img2img_data.core.errors import load_extra
from img2img_data.images.pixels import ReadPolicy
from img2img_train.serve.models import ModelRegistry
from img2img_train.serve.request_guard import HOST, RequestGuard, block_connections, listen
from img2img_train.training.signals import StoppedBySignal, stop_signals


def serve(paths: Sequence[Path], port: int, device: str, policy: ReadPolicy, browser: bool) -> None:
    """Serve the page for some runs or checkpoints until a signal ends it.

    Then ``StoppedBySignal`` is raised. ``port`` 0 takes a free one. Raises UsageError if the extra
    is not installed or the port cannot be used, CheckpointError if a path is not a model.
    """
    with (
        contextlib.ExitStack() as handlers,
        listen(port) as listener,
        tempfile.TemporaryDirectory(prefix="img2img-serve-", ignore_cleanup_errors=True) as folder,
    ):
        for number in stop_signals():
            # Uvicorn ends open connections, and then raises SIGINT and SIGTERM for this handler
            # again.
            handlers.callback(signal.signal, number, signal.signal(number, _stop))
        registry = ModelRegistry.open(paths, device, policy)
        _set_environment(folder)
        gr, uvicorn = (load_extra(name, "serve", "serve") for name in ("gradio", "uvicorn"))
        block_connections()
        port = listener.getsockname()[1]
        page = _mounted(gr, registry, Path(folder), port)
        app = RequestGuard(page, Path(folder), policy.max_bytes)
        # Gradio prints a traceback for each request that does not fit the page.
        logging.disable()
        handlers.callback(setattr, traceback, "print_exc", traceback.print_exc)
        traceback.print_exc = lambda *_, **__: None
        quiet = {"log_config": None, "access_log": False, "server_header": False}
        # Open connections have a second to end.
        config = uvicorn.Config(app, timeout_graceful_shutdown=1, **quiet)
        models = "1 model" if len(paths) == 1 else f"{len(paths):,} models"
        # The socket listens already: a browser that is faster than the server waits.
        click.echo(f"serving {models} on http://{HOST}:{port} (press Ctrl-C to stop)")
        if browser:
            webbrowser.open(f"http://{HOST}:{port}")
        uvicorn.Server(config).run(sockets=[listener])


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedBySignal(number, "the server has stopped")


def _set_environment(folder: str) -> None:
    # Read by gradio when it is imported. Its own variables could share the page or open other
    # folders.
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": folder,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _mounted(gr: Any, registry: ModelRegistry, folder: Path, port: int) -> Any:
    """Return an ASGI app with the page at "/".

    ``launch()`` is not used: it starts a server of its own, which reads a dozen environment
    variables.
    """
    from img2img_train.serve.app import build_page

    page = build_page(gr, registry, folder)
    app = load_extra("fastapi", "serve", "serve").FastAPI(openapi_url=None)
    fonts = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    style = Path(__file__).parent / "templates" / "page.css"
    looks = {"theme": gr.themes.Default(primary_hue="blue", **fonts), "css_paths": [style]}
    looks |= {"footer_links": [], "run_history": False}
    limits = {"max_file_size": registry.policy.max_bytes, "enable_monitoring": False}
    address = {"server_name": HOST, "server_port": port, "ssr_mode": False}
    gr.mount_gradio_app(app, page, "/", **address, **limits, **looks)
    # Gradio checks whether a requested file is in an allowed folder only if the page was launched.
    page.has_launched = True
    return app
