"""What lets a page meet this machine alone: where it listens, which requests pass, where nothing connects to.

A library that draws pages answers to much that this page does not need, and may tell its generators things. The
gate stands before it, and the process itself is kept at home.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from img2img_data.core.errors import UsageError

HOST: Final = "127.0.0.1"
NAMES: Final = (HOST, "localhost")
PASSED: Final = (
    "/theme.css",
    "/favicon.ico",
    "/assets/",
    "/static/",
    "/gradio_api/heartbeat/",
    "/gradio_api/queue/",
    "/gradio_api/run/predict",
    "/gradio_api/upload",
    "/gradio_api/file=",
)
"""What the page asks for; gradio answers to much else."""
POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'self'"
)

Scope: TypeAlias = Mapping[str, Any]
Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RequestGuard:
    """Passes on the requests of the page that this server gave out, and no others.

    A request under another host name is rejected, for a name that was made to point here would give its page
    what this one gets (DNS rebinding); one that another page sends is, too. Any port will do: a tunnel may
    have changed it.
    """

    app: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and (rejection := self.rejection(scope)):
            await _answer(send, *rejection)
        elif scope["type"] == "http":
            await self.app(scope, receive, _with_policy(send))

    def rejection(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the reason to reject a request with, None where it may pass."""
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0].partition(":")[0] not in NAMES:
            return 421, f"this server is {HOST} alone"
        if not {value for name, value in headers if name == b"origin"} <= {f"http://{hosts[0]}"}:
            return 403, "another page may not use this server"
        path = str(scope["path"])
        if path != "/" and not path.startswith(PASSED):
            return 404, "there is nothing here"
        return None


async def _answer(send: Send, status: int, reason: str) -> None:
    body = reason.encode() + b"\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_policy(send: Send) -> Send:
    """Add headers that keep the page from asking others for anything, and out of their frames."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [
                (b"content-security-policy", POLICY.encode()),
                (b"referrer-policy", b"no-referrer"),
            ]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


def stay_home() -> None:
    """Keep this process from connecting to anything, for good; what is tried raises PermissionError."""

    def forbid(event: str, values: tuple[Any, ...]) -> None:
        if event == "socket.connect" and isinstance(values[1], tuple):
            raise PermissionError(f"no connection is made from here, not to {values[1][0]}")
        if event == "socket.getaddrinfo" and values[0] not in (None, *NAMES):
            raise PermissionError("no name is looked up from here")

    sys.addaudithook(forbid)


def listen(port: int) -> socket.socket:
    """Return a socket that listens on loopback; UsageError where the port is taken or not ours to take."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        why = f"{port} cannot be had ({error.strerror})"
        raise UsageError("option", "--port", why, "give another, or 0 for a free one") from None
    return listener
