"""The site's line to a real SuperLink over TLS, and what we change of Flower's connection.

What we rely on inside Flower is held here: a version that has it no more is noticed.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import torch
from flwr.app import Message
from flwr.common.serde import message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.message_pb2 import PullObjectRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.node_pb2 import Node  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.runtime_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
)
from flwr.supercore import heartbeat
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client import supernode
from client.home import SiteHome
from client.launcher import Launcher
from client.supernode import LONGEST_PAUSE_S, changes, connected, keep_line, patient, step
from privacy.certificates import node_key as node_private_key
from protocol import files
from protocol.carriage import ABOUT, Carrier, in_header, puller, pusher
from protocol.errors import WireError
from protocol.messages import Reply, Task, pack_reply, pack_task, unpack_task
from protocol.pieces import FOLDED, PIECE_BYTES, SMALL_BYTES, Parcel, Parts, Place, Push, given, packed
from server import carriage, superlink
from server import grid as our_grid
from server.control import Control, control, node_key
from server.grid import SERVER
from server.home import CoordinatorHome
from server.store import ShortState
from server.wire import Wire
from sim.inprocess import identify
from tests.client.hand import Hand
from tests.client.listener import Authority, closed_port, listening
from tests.enrolment import founded, joined
from tests.serving import serving

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # Flower's migrations


OURS = {"door", "largest", "pieces", "replies", "room"}
"""Names that Flower's classes have none of."""


class Ended(BaseException):
    """Ends a loop that does not end."""


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("brain"))


@pytest.fixture(autouse=True)
def changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change Flower as the processes do, for the length of a test."""
    for module, name, value in [*changes(), *our_grid.changes(Path("elsewhere")), *superlink.changes()]:
        monkeypatch.setattr(module, name, value, raising=name not in {*vars(Carrier), *OURS})


@contextmanager
def _serving(
    home: CoordinatorHome, north: SiteHome, patch: pytest.MonkeyPatch
) -> Generator[tuple[str, Control]]:
    """A SuperLink that knows north's key, and that north knows."""
    home.state.mkdir(exist_ok=True)
    patch.setenv("FLWR_DATABASE", str(home.database))
    options = {"ssl_certfile": home.server_certificate, "ssl_keyfile": home.server_key}
    with serving(create_app(), **options) as address, control(address, home.ca) as link:
        text = north.settings.read_text()
        north.settings.write_text(text.replace("127.0.0.1:25999", address))
        link.register(node_key(north.auth_public), "north")
        yield address, link


@contextmanager
def _at_work(north: SiteHome, hand: Hand, patch: pytest.MonkeyPatch) -> Generator[Launcher]:
    """North's process, as a thread."""
    done, start = threading.Event(), iter([hand]).__next__
    launcher: Any = Launcher(north.approved, north.policy, start)  # pyright: ignore[reportArgumentType]

    def sleep(seconds: float) -> None:
        if done.wait(seconds):
            raise Ended

    def work() -> None:
        with closing(launcher), suppress(Ended):
            keep_line(lambda: connected(north), launcher, north.obstacle)

    for module in (fleet_http_connection, heartbeat):  # a second one would interrupt a site that is sent away
        patch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 300)
    patch.setattr(supernode, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield launcher
    finally:
        done.set()
        thread.join()


@contextmanager
def _grid(address: str, home: CoordinatorHome, link: Control) -> Generator[HttpGrid]:
    """What a server application has, in a run that has begun."""
    number, trusted = link.start({"folder": "/somewhere", "sites": 1}), home.ca.read_bytes()
    version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
    with RuntimeHttpClient.from_server_address(address, False, trusted, [version]) as executor:
        wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        token = executor.AcquireTask(wanted).token
    with closing(HttpGrid(address, False, trusted, token=token)) as grid:
        grid.set_run(run_from_proto(grid._runtime_client.PullTaskInput(PullTaskInputRequest()).run))
        identify(number)
        yield grid


@contextmanager
def _wire(address: str, home: CoordinatorHome, link: Control) -> Generator[Wire]:
    with _grid(address, home, link) as grid:
        wire = Wire(grid)
        wire.meet(Task("describe", "r", 0, "recipe"), 1, 60.0)
        yield wire


class Brief(Hand):
    """Answers without an update."""

    def receive(self) -> Message:
        message, _ = self.asked.pop()
        task = unpack_task(message)
        return Message(pack_reply(Reply("north", task.kind, task.run, task.round)), reply_to=message)


def _forged(message: Message) -> Parcel:
    """A reply ready to go, whose head says that there is more of it than there is."""
    parcel = packed(message)
    told: Any = parcel.head.content[FOLDED]
    told["sizes"] = [size + 4 for size in told.get("sizes", [])]
    return parcel


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
    files.write_text(north.obstacle, "the line before was not let in")
    vectors = {"shared": torch.rand(2_000_000), "head:tumour": torch.zeros(3)}
    with (
        _serving(home, north, monkeypatch) as (address, link),
        _at_work(north, hand, monkeypatch),
        _wire(address, home, link) as wire,
    ):
        (arrival,) = wire.ask([("north", Task("train", "r", 1, "recipe", vectors=vectors))], 60.0)
        assert arrival.reply is not None, arrival
        assert arrival.reply.update is not None
        assert all(torch.equal(arrival.reply.update.deltas[g], v) for g, v in vectors.items())
        assert [objection for _, objection in hand.asked] == ["", ""]  # the bundle was ours
        assert not north.obstacle.exists()
        (node,) = link.nodes()
        link.unregister(node.number)
        assert _until(lambda: "not let in" in caplog.text)
    assert "Flower's exit code" in north.obstacle.read_text()
    assert "clock" not in north.obstacle.read_text()
    assert not hand.alive


@pytest.mark.parametrize(
    ("date", "said"),
    [
        (timedelta(hours=-1), "clock is 3600 s ahead of the coordinator: set this machine's clock, by NTP"),
        (timedelta(hours=1), "clock is 3600 s behind the coordinator: set this machine's clock, by NTP"),
        (timedelta(), ""),
        (None, ""),
    ],
)
def test_a_site_that_is_sent_away_says_whether_its_clock_is_wrong(
    date: timedelta | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    monkeypatch.setattr(supernode, "datetime", SimpleNamespace(now=lambda _: now))
    headers = {} if date is None else {"date": format_datetime(now + date, usegmt=True)}
    request = httpx.Request("POST", "https://server")
    away = httpx.HTTPStatusError("401", request=request, response=httpx.Response(401, headers=headers))

    def end() -> None:  # as Flower does it
        try:
            raise away
        except httpx.HTTPStatusError:
            supernode.not_let_in(600, "Invalid SuperNode authentication")

    with pytest.raises(WireError) as found:
        end()
    told = supernode.reason(found.value)
    assert told.endswith("Invalid SuperNode authentication (Flower's exit code 600)")
    assert ("clock" in told) == bool(said)
    assert said in told


def test_a_reply_that_is_no_message_is_an_answer_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernode, "packed", _forged)
    home = founded(tmp_path, "north", host="127.0.0.1")
    north = joined(home, tmp_path, "north")
    with (
        _serving(home, north, monkeypatch) as (address, link),
        _at_work(north, Hand(), monkeypatch),
        _wire(address, home, link) as wire,
    ):
        large = {"shared": torch.rand(300_000)}  # too large to go with its head
        (arrival,) = wire.ask([("north", Task("train", "r", 1, "recipe", vectors=large))], 60.0)
        assert all(piece.stat().st_size < SMALL_BYTES for piece in home.pieces.iterdir())  # none is left
    assert arrival.status == "failed"
    assert "fewer bytes than announced" in arrival.reason


def test_a_piece_that_is_named_again_and_again_is_not_taken_beyond_what_the_policy_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = founded(tmp_path, "north", host="127.0.0.1")
    north, hand, most = joined(home, tmp_path, "north"), Hand(), 4 * PIECE_BYTES
    north.policy.write_text(f"leaves: {{largest_message_bytes: {most}}}")
    empty = torch.zeros(PIECE_BYTES // 4)
    with (
        _serving(home, north, monkeypatch) as (address, link),
        _at_work(north, hand, monkeypatch),
        _wire(address, home, link) as wire,
    ):
        for times, status in ((4, "answered"), (5, "declined"), (4, "answered")):
            vectors = {f"modality:m{number}": empty for number in range(times)}
            (arrival,) = wire.ask([("north", Task("evaluate", "r", 1, "recipe", vectors=vectors))], 60.0)
            assert arrival.status == status
            message, objection = hand.asked[-1]
            assert ("largest_message_bytes" in objection) == (times > 4) == ("largest" in arrival.reason)
            assert len(unpack_task(message).vectors) == (0 if times > 4 else times)


def test_a_model_that_a_site_holds_is_taken_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that waits for no piece is done with a task while the coordinator still brings them."""
    home = founded(tmp_path, "north", host="127.0.0.1")
    north, late, launchers = joined(home, tmp_path, "north"), list[str](), list[Launcher]()
    large = {"shared": torch.rand(2_000_000)}

    def given_late(pieces: Mapping[str, Parts], push: Push, wanted: set[str]) -> None:
        root, *others = pieces
        holds = bool(launchers) and launchers[0].lying == set(others)  # until it has taken the next task
        given(pieces, push, {root} & wanted)
        if holds:
            assert _until(lambda: not (home.pieces / root).exists())
            late.extend(others)
        given(pieces, push, set(others) & wanted)

    monkeypatch.setattr(our_grid, "given", given_late)
    with (
        _serving(home, north, monkeypatch) as (address, link),
        _at_work(north, Brief(), monkeypatch) as launcher,
        _wire(address, home, link) as wire,
    ):
        launchers.append(launcher)
        for number, kind in enumerate(("evaluate", "train")):
            task = Task(kind, "r", number, "recipe", vectors=large)
            (arrival,) = wire.ask([("north", task)], 60.0)
            assert arrival.status == "answered"
    assert late


def _refused(status: int) -> AbstractContextManager[Any]:
    return pytest.raises(httpx.HTTPStatusError, match=f"'{status} ")


def test_a_piece_is_given_by_and_to_those_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = founded(tmp_path, "north", host="127.0.0.1")
    north = joined(home, tmp_path, "north")
    key, trusted = node_private_key(north.auth_key), home.ca.read_bytes()
    logins = [RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(*key.pair)]
    with (
        _serving(home, north, monkeypatch) as (address, link),
        _grid(address, home, link) as grid,
        FleetHttpClient.from_server_address(address, False, trusted, logins) as site,
    ):
        run, (known,) = grid.run.run_id, link.nodes()
        public = public_key_to_bytes(key.pair[1])
        site.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=300))
        task = Task("train", "r", 1, "recipe", vectors={"shared": torch.rand(2_000_000)})
        parcel = packed(Message(pack_task(task), known.number, "train"))
        announced = PushAppMessagesRequest(
            messages_list=[message_to_proto(parcel.head)], message_object_trees=[parcel.tree]
        )
        session = grid._runtime_client.PushMessages(announced).session_id
        name, parts = list(parcel.pieces.items())[-1]
        ours, theirs = cast("Carrier", grid._runtime_client), cast("Carrier", site)
        node = Node(node_id=known.number)
        place = [bytearray(len(part)) for part in parts]
        pull = puller(theirs.PullObject, node, run)
        with pytest.raises(ObjectUnavailableError):
            pull(Place(name, place))
        with pytest.raises(ObjectPullError):
            pull(Place("0" * 64, place))
        for client, asker in ((ours, SERVER), (theirs, node)):
            with pytest.raises(ObjectPushError):
                pusher(client.PushObject, asker, run, "another session")(name, parts)
        with _refused(400):
            pusher(ours.PushObject, SERVER, run, session)(name, [b"something else"])
        with _refused(413):
            pusher(ours.PushObject, SERVER, run, session)(name, [bytes(PIECE_BYTES + 1)])
        with _refused(401):
            puller(theirs.PullObject, Node(node_id=known.number + 1), run)(Place(name, place))
        with pytest.raises(ObjectUnavailableError):  # nothing of all that was stored
            pull(Place(name, place))
        monkeypatch.setattr(carriage, "TELL_S", -1.0)
        told = list[str]()
        monkeypatch.setattr(ShortState, "keep_open", lambda _, session: told.append(session))
        pusher(ours.PushObject, SERVER, run, session)(name, parts)
        assert told == [session] * len(told) != []
        pull(Place(name, place))
        assert b"".join(place) == b"".join(parts)
        trust = ssl.create_default_context(cadata=trusted.decode())
        for request, status in (
            (in_header(PullObjectRequest(node=node, run_id=run, object_id=name)), 401),
            (in_header(PullObjectRequest(object_id="../superlink.db")), 400),
            ({ABOUT: "nonsense"}, 400),
            ({}, 400),
        ):
            for path in ("fleet/pull-piece", "fleet/push-piece", "runtime/pull-piece", "runtime/push-piece"):
                answer = httpx.post(f"https://{address}/v1/{path}", headers=request, verify=trust)
                assert (path, request, answer.status_code) == (path, request, status)
    assert {path.name for path in home.pieces.iterdir()} == {name}


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


def test_a_line_that_had_broken_and_brings_nothing_is_made_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's server may have noted a task as handed out, and died before it was."""
    caplog.set_level("INFO")
    asked = list[bool]()

    def receive() -> None:
        asked.append(True)
        if len(asked) == 2:
            gives_up = patient().should_giveup
            assert gives_up is not None
            assert not gives_up(httpx.RemoteProtocolError("disconnected"))
        if len(asked) > 2:
            raise Ended

    line: Any = SimpleNamespace(receive=receive, bundle=bytes)
    launcher: Any = None
    monkeypatch.setattr(supernode.time, "sleep", _at_once)
    supernode.serve(line, launcher)
    assert len(asked) == 2
    assert "made anew" in caplog.text
    monkeypatch.setattr(supernode.BROKE, "is_set", lambda: False)
    with pytest.raises(Ended):  # the mutant that goes on
        supernode.serve(line, launcher)


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
