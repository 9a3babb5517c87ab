"""What we change of Flower's SuperLink, and that Flower still has it where we change it."""

import asyncio
import sqlite3
from collections.abc import Iterable

import httpx
import pytest
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink import extensions
from flwr.superlink import main as flower
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from server.superlink import BUSY_TIMEOUT_MS, Doors, patient

PATHS = ("/v1/fleet/pull-messages", "/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/")
APP = Starlette(
    routes=[Route(path, lambda _: PlainTextResponse("open")) for path in PATHS],
    middleware=[Middleware(Doors)],
)


def _open(host: str, paths: Iterable[str] = PATHS) -> list[bool]:
    async def ask() -> list[bool]:
        transport = httpx.ASGITransport(APP, client=(host, 50000))
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink") as client:
            return [(await client.get(path)).text == "open" for path in paths]

    return asyncio.run(ask())


def test_other_machines_reach_only_what_sites_need() -> None:
    assert _open("10.0.0.7") == _open("2001:db8::7") == [True, False, False, False, False]
    assert _open("127.0.0.1") == _open("::1") == [True] * len(PATHS)


def test_a_path_that_only_looks_like_the_sites_is_shut() -> None:
    assert not any(_open("10.0.0.7", ("//v1/fleet/x", "/v1/fleet", "/V1/FLEET/x", "/v1/control/../fleet/x")))


def test_flower_asks_where_we_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extensions, "get_middleware", lambda: (Middleware(Doors),))
    assert flower._get_middleware()[0].cls is Doors


def test_flowers_connections_wait_for_a_lock_as_long_as_we_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(sql_mixin), "SQLITE_PRAGMAS", patient(SQLITE_PRAGMAS))
    connection = sqlite3.connect(":memory:")
    sql_mixin._set_sqlite_pragmas(connection, None)
    (waits,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.close()
    assert waits == BUSY_TIMEOUT_MS
    assert [name for name, _ in patient(SQLITE_PRAGMAS)] == [name for name, _ in SQLITE_PRAGMAS]
