"""Isolation of the demo page: loopback only, host and origin checks, no outbound connections.

Gradio answers more requests than this page makes and can fetch addresses that a request names. The
guard is in front of it as ASGI middleware, and the process itself is kept from connecting
anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from img2img_data.core.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST: Final = "127.0.0.1"
HOST_NAMES: Final = (HOST, "localhost")
UPLOAD: Final = "/gradio_api/upload"
MOST_BODY: Final = 1 << 20
"""Bytes of a request without an upload."""
BODIES_AT_ONCE: Final = 4
KEPT_UPLOADS: Final = 10
"""Uploads and results together take at most the bytes of this many largest uploads."""
KEPT_SECONDS: Final = 3600
EXAMPLES_FOLDER: Final = "examples"
"""Folder of images that stay as long as the server does."""
LEAST_BYTES: Final = 4096
"""What an empty file takes."""
PATHS: Final = (
    "/theme.css", "/favicon.ico", "/assets/", "/static/", "/gradio_api/heartbeat/",
    "/gradio_api/queue/", "/gradio_api/run/predict", UPLOAD, "/gradio_api/file=",
)  # fmt: skip
"""Beginnings of the paths that the page asks for."""
HEADERS: Final = (
    # The page may load nothing from elsewhere, and no other page may show it in a frame.
    (b"content-security-policy",
     b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
     b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
     b"font-src 'self' data:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
     b"form-action 'self'; frame-ancestors 'none'; base-uri 'self'"),
    (b"referrer-policy", b"no-referrer"),
)  # fmt: skip


class RequestGuard:
    """ASGI middleware: passes requests of the page that this server delivered, and rejects all
    others, as well as those that gradio fails on.

    ``folder`` holds the uploads, each of ``largest`` bytes at most.
    """

    def __init__(self, app: ASGIApp, folder: Path, largest: int) -> None:
        self.app, self.folder, self.largest = app, folder, largest
        self.bodies = asyncio.Semaphore(BODIES_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; WebSockets, which the page does not use, get no answer."""
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        passed = False

        async def send_checked(message: Message) -> None:
            nonlocal passed
            if message["type"] == "http.response.start":
                passed = message["status"] != 500
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            if passed:
                await send(message)

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            rejection = _rejection(Request(scope), self.largest)
            with contextlib.suppress(Exception):
                if rejection is None and scope["method"] == "POST":
                    async with self.bodies:
                        remove_old_files(self.folder, KEPT_UPLOADS * self.largest)
                        await self.app(scope, receive, send_checked)
                elif rejection is None:
                    await self.app(scope, receive, send_checked)
            if not passed:
                # Gradio fails on requests that contradict the page.
                status, why = rejection or (400, "the request does not fit the page\n")
                await PlainTextResponse(why, status)(scope, receive, send_checked)


def remove_old_files(folder: Path, total: int) -> None:
    """Remove the uploads and results that are older than an hour, and the oldest ones beyond
    ``total`` bytes.
    """
    found = (path for path in folder.rglob("*") if path.is_file())
    files = [(path, path.stat()) for path in found if EXAMPLES_FOLDER not in path.parts]
    for path, about in sorted(files, key=lambda file: -file[1].st_mtime):
        total -= max(about.st_size, LEAST_BYTES)
        if total < 0 or about.st_mtime < time.time() - KEPT_SECONDS:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()  # fails unless empty


def _rejection(request: Request, largest: int) -> tuple[int, str] | None:
    """Return status and reason if a request is rejected, else None."""
    # A host name that an attacker points to 127.0.0.1 must not reach the page (DNS rebinding).
    # Ports are not compared, because a tunnel may change them.
    hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
    if len(hosts) != 1 or hosts[0].partition(":")[0] not in HOST_NAMES:
        return 421, f"this server only answers requests to {HOST}\n"
    if not set(origins) <= {f"http://{hosts[0]}"}:
        return 403, "requests from other pages are rejected\n"
    path = request.scope["path"]
    if request.method == "POST":
        length, upload = request.headers.get("content-length", ""), path == UPLOAD
        if not length.isdigit() or int(length) > MOST_BODY + largest * upload:
            return 413, "the request is too large\n"
    return None if path == "/" or path.startswith(PATHS) else (404, "not found\n")


def block_connections() -> None:
    """Make every outbound connection and name lookup of this process a PermissionError, for
    good.
    """

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(values[1], tuple):
            raise PermissionError(f"connections are blocked, here to {values[1][0]}")
        if event == "socket.getaddrinfo" and values[0] not in (None, *HOST_NAMES):
            raise PermissionError("name lookups are blocked")

    # An audit hook sees every library, and cannot be removed.
    sys.addaudithook(hook)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback; UsageError if the port cannot be used."""
    try:
        # It sets SO_REUSEADDR, except on Windows, where another process could take the port over.
        return socket.create_server((HOST, port), backlog=64)
    except OSError as error:
        why = f"{port} cannot be used ({os.strerror(error.errno or 0)})"
        raise UsageError("option", "--port", why, "choose another, or 0 for a free one") from None
