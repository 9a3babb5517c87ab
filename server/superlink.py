"""Flower's SuperLink with some things changed, in its process and not in its files.

Its database    SQLite gives up on a locked database after 5 s, too soon where many write: here after 120.
                It has no memory of its own beside the kernel's, of which every connection would have 64 MB
                and all 256 MB. What is written is short (`server.store`).
Its pieces      of models are no messages to be parsed, but files that come and go (`server.carriage`).
Its doors       one port carries the sites' API, the one that starts runs, and the executors'; the last
                two have no login. Other machines reach only the first.
Its corridor    nine layers, of which each makes tasks and queues for each request (`server.corridor`).
Its silence     who asks for messages where there is none is told so at once, and asks again and again, as
                does the executor for runs to start: here the answer waits, two seconds at most.

    python -m server.superlink ARGUMENT...      as `flower-superlink` takes them
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

from flwr.proto.fleet_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.runtime_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    PullAppMessagesRequest,
    PushAppMessagesRequest,
)
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.supercore.object_store import object_store_factory
from flwr.superlink import extensions
from flwr.superlink import main as flower
from flwr.superlink.cli import flower_superlink
from google.protobuf.message import DecodeError
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http import httptools_impl

from protocol.carriage import FOR_APPS, FOR_SITES
from server.carriage import Pieces
from server.corridor import FOR_RUNS, Whole, first, straight
from server.store import PieceStore, ShortState

PRAGMAS = {
    "page_size": "4096",  # first: it counts only while the database is empty; all its rows are short
    "wal_autocheckpoint": "8000",  # pages: moved into place, and flushed to the disk, each 32 MB
    "busy_timeout": "120000",
    "cache_size": "-4000",
    "mmap_size": "0",
}
WAITING_BYTES = 500_000
"""Of a body that its taker has not come for, before no more is read."""
HELD_S = 2.0
"""How long an answer waits for a message: less than Flower's clients wait for an answer (5 s)."""
EXECUTORS = 0
"""Who waits for runs; no site has this number."""
START, ACQUIRE = f"{FOR_RUNS}start-run", f"{FOR_APPS}acquire-task"
TELLS = {f"{FOR_APPS}push-messages", f"{FOR_SITES}push-messages", START}


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


class Awaited:
    """Hold an answer that has no message until there is one.

    A message is announced to the site that it is for, and a reply to who asks for it. An asker that has hung
    up is not asked for again: it would be given what it never gets. An executor that hears of a run asks anew
    itself: Flower lets each of its signed questions pass once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # An event lasts while somebody waits for it: whoever asks, under whatever number, leaves nothing.
        self._news: WeakValueDictionary[Hashable, asyncio.Event] = WeakValueDictionary()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, once more if there is news for whoever asks."""
        path = scope.get("path", "")
        if path not in _READS:
            await self._app(scope, receive, send)
            return
        asked = await receive()
        who = _concerned(path, asked.get("body", b""))
        if path in TELLS:
            await self._app(scope, first(asked, receive), send)
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

        await self._app(scope, first(asked, receive), keep)
        if _says_nothing(answer) and await _came(news, receive) and scope["path"] != ACQUIRE:
            await self._app(scope, first(asked, receive), send)
            return
        for message in answer:
            await send(message)


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


def _concerned(path: str, body: bytes) -> list[Hashable]:
    """Return what is asked for or told of: a site's number, a reply's question. [] where none can be read."""
    read = _READS.get(path)
    try:
        return read(body) if read else []
    except DecodeError:
        return []


def _tasks_for(body: bytes) -> list[Hashable]:
    told = PushAppMessagesRequest.FromString(body).messages_list
    return [each.metadata.dst_node_id for each in told]


def _questions_of(body: bytes) -> list[Hashable]:
    return [each.metadata.reply_to_message_id for each in PushMessagesRequest.FromString(body).messages_list]


_READS: dict[str, Callable[[bytes], list[Hashable]]] = {
    f"{FOR_SITES}pull-messages": lambda body: [PullMessagesRequest.FromString(body).node.node_id],
    f"{FOR_APPS}push-messages": _tasks_for,
    f"{FOR_APPS}pull-messages": lambda body: [*PullAppMessagesRequest.FromString(body).message_ids],
    f"{FOR_SITES}push-messages": _questions_of,
    ACQUIRE: lambda _: [EXECUTORS],
    START: lambda _: [EXECUTORS],
}


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


def _from_here(scope: Any) -> bool:
    client = scope.get("client")
    return client is not None and ip_address(client[0]).is_loopback


if __name__ == "__main__":
    main()
