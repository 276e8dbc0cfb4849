"""Isolation of the demo page: loopback only, host and origin checks, no outbound connections.

Gradio answers more requests than this page makes and can fetch addresses that a request names. The
guard is in front of it as ASGI middleware, and the process itself is kept from connecting
anywhere.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

from img2img_data.core.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST: Final = "127.0.0.1"
HOST_NAMES: Final = (HOST, "localhost")
PATHS: Final = (
    "/theme.css", "/favicon.ico", "/assets/", "/static/", "/gradio_api/heartbeat/",
    "/gradio_api/queue/", "/gradio_api/run/predict", "/gradio_api/upload", "/gradio_api/file=",
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
    others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; WebSockets, which the page does not use, get no answer."""
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            rejection = _rejection(Request(scope))
            app = PlainTextResponse(rejection[1], rejection[0]) if rejection else self.app
            await app(scope, receive, send_with_headers)


def _rejection(request: Request) -> tuple[int, str] | None:
    """Return status and reason if a request is rejected, else None."""
    # A host name that an attacker points to 127.0.0.1 must not reach the page (DNS rebinding).
    # Ports are not compared, because a tunnel may change them.
    hosts, origins = request.headers.getlist("host"), request.headers.getlist("origin")
    if len(hosts) != 1 or hosts[0].partition(":")[0] not in HOST_NAMES:
        return 421, f"this server is {HOST} only\n"
    if not set(origins) <= {f"http://{hosts[0]}"}:
        return 403, "requests of other pages are rejected\n"
    path = request.scope["path"]
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
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":
        # On Windows this option would let another process take the port over.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        why = f"{port} cannot be used ({error.strerror})"
        raise UsageError("option", "--port", why, "give another, or 0 for a free one") from None
    return listener
