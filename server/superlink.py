"""Flower's SuperLink with some things changed, in its process and not in its files.

Its database    SQLite gives up on a locked database after 5 s, too soon where many write: here after 120.
                It has no memory of its own beside the kernel's, of which every connection would have 64 MB
                and all 256 MB. What is written is short (`server.store`).
Its pieces      of models are no messages to be parsed, but files that come and go (`server.carriage`).
Its doors       one port carries the sites' API, the one that starts runs, and the executors'; the last
                two have no login. Other machines reach only the first.
Its corridor    each request passes nine layers, of which most look at its path and let it pass: here a layer
                is passed only where it has something to do. And each layer takes a request's body in
                pieces of 64 kB, with a task for each: here the body goes through as one, up to a limit.
Its silence     who asks for messages where there is none is told so at once, and asks again and again, as
                does the executor for runs to start: here the answer waits, two seconds at most.

    python -m server.superlink ARGUMENT...      as `flower-superlink` takes them
"""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from ipaddress import ip_address
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

from flwr.proto.fleet_pb2 import PullMessagesRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.runtime_pb2 import PushAppMessagesRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink import extensions
from flwr.superlink import main as flower
from flwr.superlink.cli import flower_superlink
from flwr.superlink.routers.control import middlewares as control
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from google.protobuf.message import DecodeError
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http import httptools_impl

from protocol.carriage import FOR_APPS, FOR_SITES
from server.carriage import Pieces
from server.store import PieceStore, ShortState

PRAGMAS = {
    "page_size": "32768",  # first: it counts only while the database is empty
    "wal_autocheckpoint": "4000",  # pages: moved into place, and flushed to the disk, each 128 MB
    "busy_timeout": "120000",
    "cache_size": "-4000",
    "mmap_size": "0",
}
MOST_BYTES = 64_000_000
"""Of one request; a head that holds its message has 1 MB, a bundle at most 10."""
WAITING_BYTES = 500_000
"""Of a body that its taker has not come for, before no more is read."""
HELD_S = 2.0
"""How long an answer waits for a message: less than Flower's clients wait for an answer (5 s)."""
FOR_RUNS = "/v1/control/"
APPS, EXECUTORS = 0, -1
"""Who waits for replies, and who for runs; no site has these numbers."""
START, ACQUIRE = f"{FOR_RUNS}start-run", f"{FOR_APPS}acquire-task"
ASKS, TELLS = ("/pull-messages", ACQUIRE), ("/push-messages", START)
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
            await self._app(
                scope, _first({"type": "http.request", "body": body, "more_body": False}, receive), send
            )


class Awaited:
    """Hold an answer that has no message until there is one.

    A message is announced to whom it is for; a reply to all server applications, of which each then asks for
    its own. An asker that has hung up is not asked for again: it would be given what it never gets.
    An executor that hears of a run asks anew itself: Flower lets each of its signed questions pass once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # An event lasts while somebody waits for it: whoever asks, under whatever number, leaves nothing.
        self._news: WeakValueDictionary[int, asyncio.Event] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once more if there is news for whoever asks."""
        path = scope.get("path", "")
        if not path.endswith((*ASKS, *TELLS)):
            await self._app(scope, receive, send)
            return
        asked = await receive()
        who = _concerned(path, asked.get("body", b""))
        if path.endswith(TELLS):
            await self._app(scope, _first(asked, receive), send)
            for each in who:
                self._news.pop(each, asyncio.Event()).set()
            return
        news = asyncio.Event()
        for each in who:  # one who asks
            news = self._news.setdefault(each, news)
        await self._answer(scope, asked, receive, send, news)

    async def _answer(
        self, scope: Scope, asked: Message, receive: Receive, send: Send, news: asyncio.Event
    ) -> None:
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self._app(scope, _first(asked, receive), keep)
        if _says_nothing(answer) and await _came(news, receive) and scope["path"] != ACQUIRE:
            await self._app(scope, _first(asked, receive), send)
            return
        for message in answer:
            await send(message)


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


LAYERS = (Doors, Pieces, Whole, Awaited)
"""What a request passes before Flower's own layers."""


def changes() -> list[tuple[ModuleType, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    layers = vars(flower)["_get_middleware"]
    pragmas = (*PRAGMAS.items(), *(each for each in SQLITE_PRAGMAS if each[0] not in PRAGMAS))
    return [
        (sql_mixin, "SQLITE_PRAGMAS", pragmas),
        (object_store_factory, "SqlObjectStore", PieceStore),
        (linkstate_factory, "SqlLinkState", ShortState),
        (extensions, "get_middleware", lambda: tuple(map(Middleware, LAYERS))),
        (flower, "_get_middleware", lambda: straight(layers())),
        (httptools_impl, "HIGH_WATER_LIMIT", WAITING_BYTES),
    ]


def main() -> None:
    """Run the SuperLink."""
    for module, name, value in changes():
        vars(module)[name] = value
    flower_superlink()


def _first(message: Message, receive: Receive) -> Receive:
    coming = iter([message])

    async def received() -> Message:
        return next(coming, None) or await receive()

    return received


def _concerned(path: str, body: bytes) -> list[int]:
    """Return who asks for messages, or for whom they are; nobody where the body is none of Flower's."""
    try:
        if path == f"{FOR_SITES}pull-messages":
            return [PullMessagesRequest.FromString(body).node.node_id]
        if path == f"{FOR_APPS}push-messages":
            pushed = PushAppMessagesRequest.FromString(body).messages_list
            return [each.metadata.dst_node_id for each in pushed]
    except DecodeError:
        return []
    return [EXECUTORS if path in {START, ACQUIRE} else APPS]


def _says_nothing(answer: Sequence[Message]) -> bool:
    """Say whether an answer is Flower's to who asks for messages where there is none."""
    found = answer[0].get("status") == HTTPStatus.OK if answer else False
    return found and not any(message.get("body") for message in answer)


async def _came(news: asyncio.Event, receive: Receive) -> bool:
    """Wait for news; False where it is late, or where nobody waits any more."""
    told, gone = asyncio.ensure_future(news.wait()), asyncio.ensure_future(receive())
    done, waiting = await asyncio.wait({told, gone}, timeout=HELD_S, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return told in done and gone not in done


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
