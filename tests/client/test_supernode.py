"""What we change of Flower's SuperNode, and that Flower still has it where we change it."""

import inspect
import re
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supernode import fleet_http_connection, start_client_internal

from client import supernode
from client.supernode import LONGEST_PAUSE_S, LOOK_S, changes, doze, main, patient
from tests.client.listener import Authority, closed_port, listening


class Ended(BaseException):
    """The process would have ended here."""


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("brain"))


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo after a test what `main` changes of Flower, and end nothing."""
    monkeypatch.setattr(supernode.logs, "begin", lambda: None)
    for module, name, _ in changes():
        monkeypatch.setattr(module, name, vars(module)[name])

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(supernode.os, "_exit", end)


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


def _leave() -> None:
    raise SystemExit(0)


def _fail() -> None:
    raise RuntimeError("Flower's way")


@pytest.mark.parametrize("how", [lambda: None, _fail])
def test_a_supernode_that_gives_up_ends(
    how: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supernode, "flower_supernode", how)
    with pytest.raises(Ended, match="1"):
        main()
    assert "the SuperNode gave up" in caplog.text


def test_a_supernode_that_is_stopped_ends_as_flower_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "flower_supernode", _leave)
    with pytest.raises(SystemExit, match="0"):
        main()


def test_flower_takes_our_patience_and_our_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "flower_supernode", _leave)
    with suppress(SystemExit):
        main()
    assert vars(fleet_http_connection)["make_simple_http_retry_invoker"] is patient
    pauses = patient().wait_gen_factory()
    assert max(next(pauses) for _ in range(20)) == LONGEST_PAUSE_S


def test_flower_waits_in_its_loop_as_long_as_we_say(monkeypatch: pytest.MonkeyPatch) -> None:
    used = re.findall(r"\btime\.([a-z_]+)\(([\d.]+)\)", inspect.getsource(start_client_internal))
    assert {name for name, _ in used} == {"sleep"}
    assert max(float(seconds) for _, seconds in used) > LOOK_S
    slept: list[float] = []
    monkeypatch.setattr(supernode.time, "sleep", slept.append)
    doze(3)
    doze(0.5)
    assert slept == [LOOK_S, 0.5]
