"""The site's line to a real SuperLink over TLS, and what we change of Flower's connection.

What we rely on inside Flower is held here: a version that has it no more is noticed.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from flwr.app import Message
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    AcquireTaskRequest,
    PullTaskInputRequest,
)
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.supernode import fleet_http_connection

from client import supernode
from client.home import SiteHome
from client.launcher import Launcher
from client.supernode import LONGEST_PAUSE_S, changes, connected, keep_line, patient, step
from protocol.messages import Task
from server import grid as our_grid
from server.control import Control, control, node_key
from server.home import CoordinatorHome
from server.wire import Wire
from sim.inprocess import identify
from tests.client.hand import Hand
from tests.client.listener import Authority, closed_port, listening
from tests.enrolment import founded, joined
from tests.serving import serving


class Ended(BaseException):
    """Ends a loop that does not end."""


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("brain"))


@pytest.fixture(autouse=True)
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change Flower as the processes do, for the length of a test."""
    for module, name, value in [*changes(), *our_grid.changes()]:
        monkeypatch.setattr(module, name, value)


@contextmanager
def _serving(home: CoordinatorHome, north: SiteHome) -> Generator[tuple[str, Control]]:
    """A SuperLink with its database in memory that knows north's key, and that north knows."""
    options = {"ssl_certfile": home.server_certificate, "ssl_keyfile": home.server_key}
    with serving(create_app(), **options) as address, control(address, home.ca) as link:
        text = north.settings.read_text()
        north.settings.write_text(text.replace("127.0.0.1:25999", address))
        link.register(node_key(north.auth_public), "north")
        yield address, link


@contextmanager
def _at_work(north: SiteHome, hand: Hand, patch: pytest.MonkeyPatch) -> Generator[None]:
    """North's process, as a thread."""
    done, start = threading.Event(), iter([hand]).__next__

    def sleep(seconds: float) -> None:
        if done.wait(seconds):
            raise Ended

    def work() -> None:
        launcher: Any = Launcher(north.approved, start)  # pyright: ignore[reportArgumentType]
        with closing(launcher), suppress(Ended):
            keep_line(lambda: connected(north), launcher)

    for module in (fleet_http_connection, heartbeat):  # a second one would interrupt a site that is sent away
        patch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 300)
    patch.setattr(supernode, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _wire(address: str, home: CoordinatorHome, link: Control) -> Generator[Wire]:
    """What a server application has, in a run that has begun."""
    number, trusted = link.start({"folder": "/somewhere", "sites": 1}), home.ca.read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
    with RuntimeHttpClient.from_server_address(address, False, trusted, [version]) as executor:
        wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        token = executor.AcquireTask(wanted).token
    with closing(HttpGrid(address, False, trusted, token=token)) as grid:
        grid.set_run(run_from_proto(grid._runtime_client.PullTaskInput(PullTaskInputRequest()).run))
        identify(number)
        wire = Wire(grid)
        wire.meet(Task("describe", "r", 0, "recipe"), 1, 60.0)
        yield wire


class Forger(Hand):
    """Answers training with an array that is none."""

    def receive(self) -> Message:
        reply = super().receive()
        for record in reply.content.array_records.values():
            for array in record.values():
                array.shape = ("x",)  # pyright: ignore[reportAttributeAccessIssue]
                reply.content["vectors"] = record
        return reply


def _until(found: Callable[[], object], seconds: float = 60.0) -> bool:
    closes = time.monotonic() + seconds
    while not found() and time.monotonic() < closes:
        time.sleep(0.01)
    return bool(found())


def test_a_task_is_answered_over_one_line_until_the_site_is_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = founded(tmp_path, "north", host="127.0.0.1")
    north, hand = joined(home, tmp_path, "north"), Hand()
    vectors = {"shared": torch.rand(2_000_000), "head:tumour": torch.zeros(3)}
    with (
        _serving(home, north) as (address, link),
        _at_work(north, hand, monkeypatch),
        _wire(address, home, link) as wire,
    ):
        (arrival,) = wire.ask([("north", Task("train", "r", 1, "recipe", vectors=vectors))], 60.0)
        assert arrival.reply is not None, arrival
        assert arrival.reply.update is not None
        assert all(torch.equal(arrival.reply.update.deltas[g], v) for g, v in vectors.items())
        assert [objection for _, objection in hand.asked] == ["", ""]  # the bundle was ours
        (node,) = link.nodes()
        link.unregister(node.number)
        assert _until(lambda: "not let in" in caplog.text)
    assert not hand.alive


def test_a_reply_that_is_no_message_is_an_answer_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = founded(tmp_path, "north", host="127.0.0.1")
    north = joined(home, tmp_path, "north")
    with (
        _serving(home, north) as (address, link),
        _at_work(north, Forger(), monkeypatch),
        _wire(address, home, link) as wire,
    ):
        task = Task(
            "train", "r", 1, "recipe", vectors={"shared": torch.rand(300_000)}
        )  # too large to be folded
        (arrival,) = wire.ask([("north", task)], 60.0)
    assert arrival.status == "failed"
    assert "is not whole" in arrival.reason


def test_a_message_of_a_run_that_has_ended_is_dropped_and_the_line_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    answers: Any = iter([RunNotRunningException(), None])

    def receive() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    line: Any = SimpleNamespace(receive=receive)
    unused: Any = None
    assert step(line, unused, unused)
    assert not step(line, unused, unused)
    assert "its run has ended" in caplog.text


def _at_once(seconds: float) -> None:
    del seconds


@contextmanager
def hanging_up() -> Generator[int]:
    """Yield the port of a relay whose server is down: it takes a line and closes it.

    It reads the greeting first: a line closed with something unread is reset, which
    is an error of another name.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    line = listener.accept()[0]
                    line.recv(1 << 16)
                    line.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _asked(invoker: RetryInvoker, authority: Authority, ports: Iterator[int]) -> int:
    """Ask one port after the other until `invoker` is content; the status."""
    trusted = ssl.create_default_context(cafile=str(authority.certificate))
    invoker.wait_function = _at_once
    return invoker.invoke(
        lambda: httpx.get(f"https://localhost:{next(ports)}", verify=trusted, trust_env=False)
    ).status_code


def test_a_relay_whose_server_is_down_is_tried_again(
    brain: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with hanging_up() as down, listening(brain.server("localhost", datetime.now(UTC))) as up:
        assert _asked(patient(), brain, iter([down, closed_port(), down, up])) == 404
        assert caplog.text.count("no answer: [SSL") == 2
        with pytest.raises(httpx.ConnectError):  # else ours is needless
            _asked(make_simple_http_retry_invoker(), brain, iter([down, up]))


def test_a_proxy_that_cannot_reach_the_server_is_tried_again() -> None:
    answers = iter([httpx.ProxyError("502 Bad Gateway"), None])

    def ask() -> None:
        if error := next(answers):
            raise error

    invoker = patient()
    invoker.wait_function = _at_once
    invoker.invoke(ask)
    assert next(answers, "used up") == "used up"


def test_a_strange_certificate_is_not_tried_again(brain: Authority, tmp_path: Path) -> None:
    strange = Authority(tmp_path).server("localhost", datetime.now(UTC))
    with listening(strange) as port, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        _asked(patient(), brain, iter([port]))


def test_flower_takes_our_patience_and_our_pauses() -> None:
    assert vars(fleet_http_connection)["make_simple_http_retry_invoker"] is patient
    pauses = patient().wait_gen_factory()
    assert max(next(pauses) for _ in range(20)) == LONGEST_PAUSE_S
