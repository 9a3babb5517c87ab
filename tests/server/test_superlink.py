"""What we change of Flower's SuperLink, and that Flower still has it where we change it."""

import asyncio
import gc
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message as Announced
from flwr.proto.message_pb2 import Metadata
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink import main as flower
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server import superlink
from server.corridor import Whole
from server.superlink import PRAGMAS, Awaited, Doors, changes
from tests.server.asking import answers

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


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in changes():
        assert name in vars(module)
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("changed")
def test_flower_asks_where_we_answer() -> None:
    assert flower._get_middleware()[0].cls is Doors


@pytest.mark.usefixtures("changed")
def test_flowers_connections_are_made_as_we_say(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        sql_mixin._set_sqlite_pragmas(connection, None)
        connection.execute("CREATE TABLE t (x)")
        for name, value in PRAGMAS.items():
            (found,) = connection.execute(f"PRAGMA {name}").fetchone()
            assert str(found) == value, name
    assert {name for name, _ in SQLITE_PRAGMAS} <= {name for name, _ in vars(sql_mixin)["SQLITE_PRAGMAS"]}


def test_no_site_is_let_in_without_its_key(changed: None) -> None:
    """The layer that asks for it still stands where it did."""
    del changed
    asked = PullMessagesRequest(node=Node(node_id=1)).SerializeToString()
    (answer,) = asyncio.run(answers(flower.create_app(), [("POST", "/v1/fleet/pull-messages", asked)]))
    assert answer.startswith("401")


class Mailbox:
    """An application like Flower's: what is pushed for a number is there when that number asks."""

    def __init__(self) -> None:
        self.letters: list[int] = []
        self.asked = asyncio.Event()
        self.looks = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, found = (await receive())["body"], b""
        if scope["path"] == PUSH:
            pushed = PushAppMessagesRequest.FromString(body).messages_list
            self.letters += [message.metadata.dst_node_id for message in pushed]
        else:
            self.looks += 1
            self.asked.set()
            number = PullMessagesRequest.FromString(body).node.node_id
            if number in self.letters:
                self.letters.remove(number)
                found = b"a message"
        await Response(found)(scope, receive, send)


PULL, PUSH = "/v1/fleet/pull-messages", "/v1/runtime/push-messages"
COLLECT, ANSWER = "/v1/runtime/pull-messages", "/v1/fleet/push-messages"


def _asks(number: int) -> bytes:
    return PullMessagesRequest(node=Node(node_id=number)).SerializeToString()


def _letter(number: int) -> bytes:
    return PushAppMessagesRequest(
        messages_list=[Announced(metadata=Metadata(dst_node_id=number))]
    ).SerializeToString()


def _reply(question: str) -> bytes:
    return PushMessagesRequest(
        messages_list=[Announced(metadata=Metadata(reply_to_message_id=question))]
    ).SerializeToString()


async def _waited(app: ASGIApp, box: Mailbox, letter: int) -> list[str]:
    """What node 3 is answered, where a letter comes after it has asked."""
    asking = asyncio.ensure_future(answers(app, [("POST", PULL, _asks(3))]))
    await box.asked.wait()
    await answers(app, [("POST", PUSH, _letter(letter))])
    return await asking


@pytest.mark.parametrize(("letter", "answer", "looks"), [(3, "200 a message", 2), (4, "200 ", 1)])
def test_who_asks_is_answered_when_there_is_a_message_for_them(
    monkeypatch: pytest.MonkeyPatch, letter: int, answer: str, looks: int
) -> None:
    monkeypatch.setattr(superlink, "HELD_S", 60.0 if letter == 3 else 0.05)
    box = Mailbox()
    assert asyncio.run(_waited(Whole(Awaited(box)), box, letter)) == [answer]
    assert box.looks == looks


def test_a_reply_is_announced_to_who_asks_for_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question is answered when its reply has come, and nobody looks when another has."""
    monkeypatch.setattr(superlink, "HELD_S", 60.0)
    asked, looks, there = asyncio.Event(), list[str](), set[str]()

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        if scope["path"] == ANSWER:
            there.update(
                m.metadata.reply_to_message_id for m in PushMessagesRequest.FromString(body).messages_list
            )
            found = b""
        else:
            (wanted,) = PullAppMessagesRequest.FromString(body).message_ids
            looks.append(wanted)
            asked.set()
            found = b"a reply" if wanted in there else b""
        await Response(found)(scope, receive, send)

    async def replied() -> list[str]:
        app = Whole(Awaited(flower))
        question = PullAppMessagesRequest(message_ids=["first"]).SerializeToString()
        asking = asyncio.ensure_future(answers(app, [("POST", COLLECT, question)]))
        await asked.wait()
        await answers(app, [("POST", ANSWER, _reply("second")), ("POST", ANSWER, _reply("first"))])
        return await asking

    assert asyncio.run(replied()) == ["200 a reply"]
    assert looks == ["first", "first"]


def test_an_executor_asks_anew_once_a_run_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower takes each of its questions once: asked again for it, the SuperLink would refuse."""
    monkeypatch.setattr(superlink, "HELD_S", 60.0)
    asked, seen = asyncio.Event(), list[str]()

    async def flower(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        asked.set()
        await Response(b"")(scope, receive, send)

    async def started() -> list[str]:
        app = Whole(Awaited(flower))
        asking = asyncio.ensure_future(answers(app, [("POST", superlink.ACQUIRE, b"signed")]))
        await asked.wait()
        assert not asking.done()
        await answers(app, [("POST", superlink.START, b"")])
        return await asking

    assert asyncio.run(started()) == ["200 "]
    assert seen == [superlink.ACQUIRE, superlink.START]


def test_a_message_is_not_given_to_who_has_hung_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be delivered to nobody, and its sender would wait."""
    monkeypatch.setattr(superlink, "HELD_S", 60.0)
    box = Mailbox()

    async def hang_up() -> None:
        app, sent = Awaited(box), list[object]()
        gone, coming = asyncio.Event(), iter([{"type": "http.request", "body": _asks(3)}])

        async def receive() -> dict[str, object]:
            if (first := next(coming, None)) is not None:
                return first
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            sent.append(message)

        scope: Any = {"type": "http", "path": PULL, "method": "POST", "headers": []}
        asking = asyncio.ensure_future(app(scope, receive, send))
        await box.asked.wait()
        gone.set()
        await asking
        await answers(app, [("POST", PUSH, _letter(3))])

    asyncio.run(hang_up())
    assert (box.letters, box.looks) == ([3], 1)


def test_a_superlink_that_does_not_notice_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def came(news: asyncio.Event, receive: Receive) -> bool:
        await receive()
        news.set()
        return True

    monkeypatch.setattr(superlink, "_came", came)
    with pytest.raises(AssertionError):
        test_a_message_is_not_given_to_who_has_hung_up(monkeypatch)


def test_what_is_no_question_of_flowers_is_passed_on_as_it_came() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await Response((await receive())["body"])(scope, receive, send)

    asked = [("POST", path, b"\xff nonsense") for path in (PULL, PUSH, COLLECT, ANSWER)]
    assert asyncio.run(answers(Awaited(echo), asked)) == ["200 \ufffd nonsense"] * 4


def test_numbers_that_ask_leave_nothing_behind() -> None:
    """Anybody may ask, before it is known who they are."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=401)(scope, receive, send)

    app = Awaited(refuse)
    asyncio.run(answers(app, [("POST", PULL, _asks(number)) for number in range(1, 50)]))
    gc.collect()
    assert not app._news
