"""Flower's layers are passed in another way, and answer as they would."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import ClassVar, cast

import httpx
import pytest
from flwr.superlink import main as flower
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server import corridor
from server.corridor import CONCERNS, Layer, Whole, straight
from tests.server.asking import answers
from tests.serving import serving

PATHS = ("/v1/fleet/pull-messages", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/")


def test_every_layer_of_flowers_is_passed_where_it_has_something_to_do() -> None:
    layers = flower._get_middleware()
    assert CONCERNS.keys() <= {layer.cls for layer in layers}
    for layer, path in CONCERNS.items():
        source = Path(inspect.getfile(cast("type", layer))).read_text(encoding="utf-8")
        assert path in source or "the Runtime HTTP API" in source, f"{layer} is not for {path} alone"
    assert all(new.cls is Layer for new in straight(layers))


class Noting(BaseHTTPMiddleware):
    """A layer that notes what passes it."""

    seen: ClassVar[list[str]] = []

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        self.seen.append(request.url.path)
        return await call_next(request)


def test_what_does_not_concern_a_layer_goes_past_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONCERNS, Noting, "/v1/fleet/")
    Noting.seen.clear()
    app = Starlette(
        routes=[Route(path, lambda _: PlainTextResponse("open")) for path in PATHS],
        middleware=straight([Middleware(Noting)]),
    )
    assert all(asyncio.run(answers(app, [("GET", path, b"")])) == ["200 open"] for path in PATHS)
    assert Noting.seen == [PATHS[0]]


async def _signs(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Read the body, let what lies within know of it, and change what it answers."""
    request.state.told = (await request.body()).decode()
    response = await call_next(request)
    response.headers["signed"] = "yes"
    return response


async def _refuses(request: Request, call_next: RequestResponseEndpoint) -> Response:
    del request, call_next
    raise HTTPException(401, "nobody")


async def _translates(request: Request, call_next: RequestResponseEndpoint) -> Response:
    try:
        return await call_next(request)
    except (HTTPException, KeyError) as error:
        return PlainTextResponse(f"translated {error!r}", 418)


async def _echoes(request: Request) -> Response:
    told = getattr(request.state, "told", "nothing")
    return PlainTextResponse(f"{told}, {(await request.body()).decode()}", 202, {"twice": "1"})


async def _breaks(request: Request) -> Response:
    raise KeyError(request.url.path)


@pytest.mark.parametrize("within", [_echoes, _breaks])
@pytest.mark.parametrize(
    "layers", [(), (_signs,), (_signs, _signs), (_translates, _refuses), (_translates, _signs)]
)
def test_a_layer_answers_as_it_does_when_starlette_passes_it(
    layers: tuple[Callable[..., Awaitable[Response]], ...], within: Callable[..., Awaitable[Response]]
) -> None:
    theirs = [Middleware(Whole), *(Middleware(BaseHTTPMiddleware, dispatch=each) for each in layers)]
    answer, expected = _told(within, straight(theirs)), _told(within, theirs)
    assert answer == expected


def test_a_layer_that_loses_what_the_answer_says_of_itself_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = corridor._response
    monkeypatch.setattr(corridor, "_response", lambda answer: Response(whole(answer).body))
    with pytest.raises(AssertionError):
        test_a_layer_answers_as_it_does_when_starlette_passes_it((_signs,), _echoes)


def _told(within: Callable[..., Awaitable[Response]], middleware: list[Middleware]) -> tuple[object, ...]:
    """Status, text and headers of an answer; what the application raises, where it does."""
    app: ASGIApp = Starlette(routes=[Route(PATHS[0], within, methods=["POST"])], middleware=middleware)

    async def ask() -> tuple[object, ...]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            try:
                answer = await client.post(PATHS[0], content=b"a body")
            except KeyError as error:
                return (repr(error),)
        return answer.status_code, answer.text, sorted(answer.headers.items())

    return asyncio.run(ask())


def _echo(app_limit: int, monkeypatch: pytest.MonkeyPatch, size: int) -> tuple[str, int]:
    """What is answered to a body of `size`, and in how many pieces it had come through."""
    monkeypatch.setattr(corridor, "MOST_BYTES", app_limit)
    pieces = 0

    async def count(request: Request) -> PlainTextResponse:
        nonlocal pieces
        body = b""
        async for piece in request.stream():
            pieces += bool(piece)
            body += piece
        return PlainTextResponse(sha256(body).hexdigest())

    app = Starlette(routes=[Route("/", count, methods=["POST"])], middleware=[Middleware(Whole)])
    with serving(app) as address:
        return httpx.post(f"http://{address}/", content=bytes(size), trust_env=False).text, pieces


def test_a_body_comes_through_whole_and_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _echo(10**6, monkeypatch, 10**6) == (sha256(bytes(10**6)).hexdigest(), 1)


def test_a_body_beyond_the_limit_is_refused_before_anybody_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _echo(10**6, monkeypatch, 10**6 + 1) == ("too long", 0)


def test_a_body_whose_sender_has_left_is_not_taken_for_a_whole_one() -> None:
    coming = iter([{"type": "http.request", "body": b"ha", "more_body": True}, {"type": "http.disconnect"}])
    answered: list[object] = []

    async def receive() -> Message:
        return next(coming)

    async def send(message: Message) -> None:
        answered.append(message.get("status"))

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError(await receive())

    asyncio.run(Whole(never)({"type": "http"}, receive, send))
    assert answered[0] == 413
