"""Flower's SuperLink with three things changed, in its process and not in its files.

Its database    SQLite gives up on a locked database after 5 s, too soon for a 100 MB model: here after 120.
                Its pages are large, since what is stored are chunks of models; it has no memory of its own
                beside the kernel's, of which every connection would have 64 MB and all 256 MB.
Its doors       one port carries the sites' API, the one that starts runs, and the executors'; the last
                two have no login. Other machines reach only the first.
Its corridor    each request passes nine layers, of which most look at its path and let it pass: here a layer
                is passed only where it has something to do. And each layer takes a request's body in
                pieces of 64 kB, with a task for each: here the body goes through as one, up to a limit.

    python -m server.superlink ARGUMENT...      as `flower-superlink` takes them
"""

from collections.abc import Sequence
from ipaddress import ip_address
from types import ModuleType
from typing import Any

from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink import extensions
from flwr.superlink import main as flower
from flwr.superlink.cli import flower_superlink
from flwr.superlink.routers.control import middlewares as control
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PRAGMAS = {
    "page_size": "32768",  # first: it counts only while the database is empty
    "wal_autocheckpoint": "4000",  # pages: moved into place, and flushed to the disk, each 128 MB
    "busy_timeout": "120000",
    "cache_size": "-4000",
    "mmap_size": "0",
}
MOST_BYTES = 64_000_000
"""Of one request; a chunk of a model is 5 MB, a bundle at most 10."""
FOR_SITES, FOR_RUNS, FOR_APPS = "/v1/fleet/", "/v1/control/", "/v1/runtime/"
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


class Doors:
    """Answer 404 to other machines, except where sites talk to us."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "http" and not (scope["path"].startswith(FOR_SITES) or _from_here(scope)):
            await PlainTextResponse("nothing here", status_code=404)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Whole:
    """Take a request's body in before passing it on; one of more than `MOST_BYTES` is answered 413."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif (body := await _taken_in(receive)) is None:
            await PlainTextResponse("too long", status_code=413)(scope, receive, send)
        else:
            coming = iter([{"type": "http.request", "body": body, "more_body": False}])

            async def received() -> Message:
                return next(coming, None) or await receive()

            await self._app(scope, received, send)


class Only:
    """A layer that is passed by requests under `path`; others go past it."""

    def __init__(self, app: ASGIApp, layer: Any, path: str) -> None:
        self._past, self._through, self._path = app, layer(app), path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, either way."""
        concerned = scope["type"] == "http" and scope["path"].startswith(self._path)
        await (self._through if concerned else self._past)(scope, receive, send)


def straight(layers: Sequence[Middleware]) -> list[Middleware]:
    """Return Flower's layers with those that concern few paths out of the way of the others."""
    return [
        Middleware(Only, layer=layer.cls, path=CONCERNS[layer.cls]) if layer.cls in CONCERNS else layer
        for layer in layers
    ]


def changes() -> list[tuple[ModuleType, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    layers = vars(flower)["_get_middleware"]
    pragmas = (*PRAGMAS.items(), *(each for each in SQLITE_PRAGMAS if each[0] not in PRAGMAS))
    return [
        (sql_mixin, "SQLITE_PRAGMAS", pragmas),
        (extensions, "get_middleware", lambda: (Middleware(Doors), Middleware(Whole))),
        (flower, "_get_middleware", lambda: straight(layers())),
    ]


def main() -> None:
    """Run the SuperLink."""
    for module, name, value in changes():
        vars(module)[name] = value
    flower_superlink()


async def _taken_in(receive: Receive) -> bytes | None:
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MOST_BYTES:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _from_here(scope: Any) -> bool:
    client = scope.get("client")
    return client is not None and ip_address(client[0]).is_loopback


if __name__ == "__main__":
    main()
