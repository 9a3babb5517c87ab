"""What a request passes on its way through the SuperLink, and what it costs to pass it.

Flower has nine layers, all of Starlette's `BaseHTTPMiddleware`, which runs what lies within as a task of its
own and hands its answer on through a queue, so that it may come in parts. That is most of what a short
request costs. What sites and server applications are answered comes whole: their requests pass a layer as a
function is called (`Layer`), and only if it has something to do on their path. The way of starting and
watching runs, where logs are streamed, is left as it is.

And each layer takes a request's body in pieces of 64 kB: here it goes through as one, up to a limit
(`Whole`).
"""

from collections.abc import Sequence
from typing import Any

from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink.routers.control import middlewares as control
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.carriage import FOR_APPS, FOR_SITES

MOST_BYTES = 16_000_000
"""Of one request, whoever sends it; a head that holds its message has 1 MB, a bundle at most 10."""
FOR_RUNS = "/v1/control/"
CONCERNS: dict[object, str] = {
    control.ControlSensitiveResponseMiddleware: FOR_RUNS,
    control.ControlAuthenticationMiddleware: FOR_RUNS,
    control.ControlLicenseMiddleware: FOR_RUNS,
    control.ControlEventLogMiddleware: FOR_RUNS,
    RuntimeTracingMiddleware: FOR_APPS,
    NodeAuthMiddleware: FOR_SITES,
    FleetEventLogMiddleware: FOR_SITES,
}
"""Flower's layers -> the only paths on which they do anything."""
EVERYWHERE = "/"


class Whole:
    """Take a request's body in before passing it on.

    One of more than `MOST_BYTES` is answered 413; so is, unheard, a sender that has left before its end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (body := await _taken_in(receive)) is None:
            await PlainTextResponse("too long", status_code=413)(scope, receive, send)
        else:
            await self._app(
                scope, first({"type": "http.request", "body": body, "more_body": False}, receive), send
            )


class Layer:
    """One of Flower's layers, passed by requests under `path`; others go past it."""

    def __init__(self, app: ASGIApp, layer: Middleware, path: str) -> None:
        self._past, self._path = app, path
        self._through: Any = layer.cls(app, *layer.args, **layer.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, one way or the other."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(self._path):
            await self._past(scope, receive, send)
        elif path.startswith((FOR_SITES, FOR_APPS)):
            await self._directly(scope, receive, send)
        else:
            await self._through(scope, receive, send)

    async def _directly(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await receive()  # whole, by `Whole`; the layer reads it, and so does what lies within

        async def within(_: Request) -> Response:
            answer: list[Message] = []

            async def keep(message: Message) -> None:
                answer.append(message)

            await self._past(scope, first(asked, receive), keep)
            return _response(answer)

        response = await self._through.dispatch_func(Request(scope, first(asked, receive)), within)
        await response(scope, receive, send)


def straight(layers: Sequence[Middleware]) -> list[Middleware]:
    """Return Flower's layers as they are passed here; one that is not of Starlette's kind as it is."""
    return [
        Middleware(Layer, layer=layer, path=CONCERNS.get(layer.cls, EVERYWHERE))
        if isinstance(layer.cls, type) and issubclass(layer.cls, BaseHTTPMiddleware)
        else layer
        for layer in layers
    ]


def first(message: Message, receive: Receive) -> Receive:
    """Return what gives `message`, and then what comes after it."""
    coming = iter([message])

    async def received() -> Message:
        return next(coming, None) or await receive()

    return received


def _response(answer: Sequence[Message]) -> Response:
    """Return an answer's messages as the response that a layer may change."""
    start, *parts = answer
    response = Response(b"".join(part.get("body", b"") for part in parts), start["status"])
    response.raw_headers = list(start["headers"])
    return response


async def _taken_in(receive: Receive) -> bytes | None:
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if message["type"] != "http.request" or size > MOST_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)
