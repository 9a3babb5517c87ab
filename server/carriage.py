"""Pieces of messages through the SuperLink: written down as they come, read as they go.

    POST /v1/fleet/push-piece     of a site; as `protocol.carriage` has it
    POST /v1/fleet/pull-piece
    POST /v1/runtime/push-piece   of a server application
    POST /v1/runtime/pull-piece

Who asks is let in as Flower lets them in to its own `push-object` and `pull-object`, which this stands in
for, and is answered alike where a run has ended. A piece that is there is found by its name alone, without
the database: who knows its SHA-256 was told it in a message's head.

A server application is a process of the same user on the same machine. What it has to bring it has written
down beside the others, and the header says under which name.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from http import HTTPStatus
from io import FileIO
from typing import Any, NamedTuple, cast

from fastapi import HTTPException
from flwr.proto.message_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.constant import TASK_TOKEN_HEADER
from flwr.supercore.dependencies.task import authenticate_task
from flwr.supercore.error import http_error_translator
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers
from google.protobuf.message import DecodeError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from protocol.carriage import ABOUT, FOR_APPS, FOR_SITES, PULL, PUSH, R, from_header
from protocol.pieces import PIECE_BYTES, is_name
from server.store import Incoming, Kept, PieceStore, ShortState

TELL_S = 30.0
"""How often it is noted that a piece is coming."""
SILENT_S = 120.0
"""How long no byte of a piece may come; whoever sends it gives up after 30."""
WRITTEN_BYTES = 4_000_000
"""Written and read at a time, by a thread that is asked to."""


class Stored(NamedTuple):
    """What Flower's handlers read of a request to store a piece; the piece is a file by then."""

    node: Node
    run_id: int
    session_id: str
    object_id: str
    object_content: Kept


class Pieces:
    """Answer whoever brings or fetches a piece; pass on every other request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        answer = (
            _ANSWERS.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        )
        if answer is None:
            await self._app(scope, receive, send)
        else:
            request = Request(scope, receive)
            await (await http_error_translator(request, answer))(scope, receive, send)


def for_site(request: Request, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler for a site that shows its key; raises what Flower raises at any other."""
    authenticate_node(request)
    return partial(handler, state=get_linkstate(request))


def for_app(request: Request, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return Flower's handler for a server application that shows its token; raises likewise."""
    state = get_linkstate(request)
    task = authenticate_task(request, request.headers.get(TASK_TOKEN_HEADER, ""), state)
    return partial(handler, state=state, task=task)


async def take_in(let_in: Callable[..., Any], handler: Callable[..., Any], request: Request) -> Response:
    """Store a piece as it comes: 201, 409 where nobody announced it, 400 where it is none, 413 too long."""
    told = _told(request, PushObjectRequest)
    store = await run_in_threadpool(let_in, request, handler)
    with _store(request).incoming(told.object_id) as piece:
        await _written(piece, request, told.session_id)
        return await _put(store, told, piece.kept)


async def take_over(let_in: Callable[..., Any], handler: Callable[..., Any], request: Request) -> Response:
    """Store a piece that its sender has written down itself, or that comes; answers as `take_in`."""
    told = _told(request, PushObjectRequest)
    if not told.object_content:
        return await take_in(let_in, handler, request)
    store = await run_in_threadpool(let_in, request, handler)
    lying = partial(_store(request).lying, told.object_id, told.object_content.decode(errors="replace"))
    return await _put(store, told, lying)


async def hand_out(let_in: Callable[..., Any], handler: Callable[..., Any], request: Request) -> Response:
    """Return a piece: 200, 425 where it is announced and not there yet, 404 where nobody has heard of it.

    Flower is asked only about one that is not there. It would look whether the run goes on that the asker
    names, and not whose the piece is: who knows its name has it from a head of its own. That a run has ended
    a site is told when it has taken all of a message, before it works at it.
    """
    told = _told(request, PullObjectRequest)
    find = await run_in_threadpool(let_in, request, handler)
    path = _store(request).path(told.object_id)
    if not path.exists():
        found = await run_in_threadpool(find, told)
        if not found.object_available:
            return Response(status_code=HTTPStatus.TOO_EARLY if found.object_found else HTTPStatus.NOT_FOUND)
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        return Response(status_code=HTTPStatus.NOT_FOUND)
    length = {"content-length": str(os.fstat(file.fileno()).st_size)}
    return StreamingResponse(_read(file), headers=length)


async def _written(piece: Incoming, request: Request, session: str) -> None:
    state, told_at = cast("ShortState", get_linkstate(request)), time.monotonic()
    async for parts in _blocks(request.receive):
        await run_in_threadpool(piece.write, *parts)
        if time.monotonic() - told_at > TELL_S:
            await run_in_threadpool(state.keep_open, session)
            told_at = time.monotonic()


async def _put(store: Callable[..., Any], told: PushObjectRequest, kept: Callable[[], Kept]) -> Response:
    try:
        about = Stored(told.node, told.run_id, told.session_id, told.object_id, kept())
    except ValueError as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error
    answer = await run_in_threadpool(store, about)
    return Response(status_code=HTTPStatus.CREATED if answer.stored else HTTPStatus.CONFLICT)


async def _read(file: FileIO) -> AsyncIterator[bytes]:
    with file:
        while block := await run_in_threadpool(file.read, WRITTEN_BYTES):
            yield block


_ANSWERS: dict[str, Callable[[Request], Awaitable[Response]]] = {
    FOR_SITES + PUSH: partial(take_in, for_site, fleet_handlers.push_object),
    FOR_SITES + PULL: partial(hand_out, for_site, fleet_handlers.pull_object),
    FOR_APPS + PUSH: partial(take_over, for_app, runtime_handlers.push_object),
    FOR_APPS + PULL: partial(hand_out, for_app, runtime_handlers.pull_object),
}


def _told(request: Request, kind: type[R]) -> R:
    """Return what the header says of a piece, where Flower's login looks for it too."""
    try:
        told = from_header(kind, request.headers.get(ABOUT, ""))
    except (ValueError, DecodeError) as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, "nothing says which piece") from error
    if not is_name(told.object_id):
        raise HTTPException(HTTPStatus.BAD_REQUEST, "a piece is called by its SHA-256")
    request.state.protobuf_request = told
    return told


def _store(request: Request) -> PieceStore:
    return cast("PieceStore", get_linkstate(request).object_store)


async def _blocks(receive: Receive) -> AsyncIterator[list[bytes]]:
    """Yield what comes of a request's body, as much at a time as is worth a thread's while."""
    held, size, whole, more = list[bytes](), 0, 0, True
    while more:
        async with asyncio.timeout(SILENT_S):  # who has vanished without a word is never heard of again
            message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        held.append(message.get("body", b""))
        size, whole, more = size + len(held[-1]), whole + len(held[-1]), message.get("more_body", False)
        if whole > PIECE_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long for a piece")
        if size >= WRITTEN_BYTES or not more:
            yield held
            held, size = [], 0
