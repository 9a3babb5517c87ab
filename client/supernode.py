"""The site's line to the coordinator: Flower's own, and nothing between it and the worker.

    1. ask whether there is work; the coordinator's server is never the one that calls
    2. take the message in pieces, and the bundle of its run
    3. let `client.launcher` answer it
    4. give the reply back in pieces

Flower's SuperNode would put what it takes into a store of its own and serve that to an executor on a port: a
model is then hashed, written down and sent on within one machine twice in each direction, and both sides look
for each other in pauses. Here one process has Flower's connection (TLS, node authentication, heartbeats,
trying again) and the worker's pipe. What is changed of Flower's, in this process alone:

Its heartbeat   every 10 s instead of 30. Flower's server takes a site for gone when two are missing,
                and lets one that was killed in again only then: after 20 s instead of 60.
Its patience    a line that breaks while TLS or a proxy is greeted is tried again, at least every 5 s, as
                one that is refused is: a proxy answers for a server that is down. Flower gives up there.
Its messages    in pieces as `protocol.pieces` has them, carried as `protocol.carriage` does.
Its end         where it gives up after all, or is not let in, the process would end. Here the line is
                made anew, and the worker stays warm. Why it is not let in is said, in the log and to whoever
                asks for the site's status; a clock that is wrong is known by the server's answer.

    python -m client.supernode HOME
"""

import logging
import ssl
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import NamedTuple, NoReturn, cast

import httpx
from flwr.app import Message, MessageType
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.proto.message_pb2 import ObjectTree  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore import heartbeat
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.retry import RetryInvoker, http_retry, make_simple_http_retry_invoker
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response

from client.home import SiteHome
from client.launcher import Launcher
from client.machine import read_machine, settings_of
from client.reach import clock
from client.worker import Worker
from privacy.certificates import node_key
from protocol import carriage, files, logs
from protocol.children import end_by_signals
from protocol.errors import PolicyError, WireError
from protocol.pieces import Parts, Place, bare, given, is_whole, packed, taken
from protocol.waiting import pause

log = logging.getLogger("consilium.supernode")

LOOK_S, LONGEST_PAUSE_S = 1.0, 5.0
"""The longest pauses: between two questions whether there is work, and before trying a lost line again."""
BROKE = Event()
"""Set where something was asked again over a line that had broken."""
BROKEN = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError, httpx.ProxyError)


class Line(NamedTuple):
    """What Flower's connection offers, in its order."""

    node: int
    receive: Callable[[], tuple[Message, ObjectTree] | None]
    send: Callable[[Message, ObjectTree, float], tuple[set[str], str]]
    get_run: Callable[[int], Run]
    get_fab: Callable[[str, int], Fab]
    pull: Callable[[int, Place], None]
    push: Callable[[int, str, str, Parts], None]
    confirm: Callable[[int, str], None]

    def bundle(self, run: int) -> bytes:
        """Return the coordinator's code as it came with a run."""
        return self.get_fab(self.get_run(run).fab_hash, run).content


Connect = Callable[[], AbstractContextManager[Line]]


def keep_line(connect: Connect, launcher: Launcher, obstacle: Path) -> None:
    """Serve for ever, over one line after the other; what keeps this site out stands in `obstacle`."""
    lost = time.monotonic()
    while True:
        try:
            with connect() as line:
                obstacle.unlink(missing_ok=True)
                log.info("the coordinator's server has let this site in")
                serve(line, launcher)
            lost = time.monotonic()  # Flower has logged why
        except WireError as error:
            why = reason(error)
            log.warning("not let in, tried again: %s", why)
            files.write_text(obstacle, why)
        time.sleep(pause(time.monotonic() - lost, LONGEST_PAUSE_S))


def serve(line: Line, launcher: Launcher) -> None:
    """Do what is asked over `line` until it fails.

    A server that died may have noted a task as handed out that never came. Where nothing comes after a line
    had broken, the line is made anew: then the coordinator asks again for what it waits for.
    """
    bundle = lru_cache(maxsize=1)(line.bundle)
    heard = time.monotonic()
    while True:
        asked = time.monotonic()
        BROKE.clear()
        if step(line, launcher, bundle):
            heard = time.monotonic()
        elif BROKE.is_set():
            log.info("the line had broken: made anew, so that what was on it is sent again")
            return
        else:
            now = time.monotonic()
            time.sleep(pause(now - heard, LOOK_S, now - asked))


def step(line: Line, launcher: Launcher, bundle: Callable[[int], bytes]) -> bool:
    """Do one task; False where there is none."""
    try:
        asked = line.receive()
        if asked is None:
            return False
        work(line, launcher, bundle, asked)
    except RunNotRunningException:
        log.info("dropped: its run has ended")
    return True


def work(
    line: Line,
    launcher: Launcher,
    bundle: Callable[[int], bytes],
    asked: tuple[Message, ObjectTree],
) -> None:
    """Take the message that a head and a tree announce, have it answered, and give the reply."""
    head, tree = asked
    about, run = head.metadata, head.metadata.run_id
    what, clock = f"{about.message_type}, round {about.group_id}", Clock()
    code = bundle(run)
    pull = partial(line.pull, run)
    try:
        message, why = taken(head, tree.object_id, pull, launcher.room, launcher.lying), ""
    except PolicyError as error:
        message, why = bare(head, tree.object_id), str(error)
    scored = about.message_type == MessageType.EVALUATE and not why
    launcher.lying = frozenset(piece.object_id for piece in tree.children) if scored else frozenset()
    if not is_whole(head):
        line.confirm(run, tree.object_id)
    there = clock.lap()
    log.info("%s", what)
    reply = launcher.answer(message, code, why)
    answered = clock.lap()
    reply_with(line, reply, answered)
    log.info("%s: taken in %.3f s, answered in %.3f s, given in %.3f s", what, there, answered, clock.lap())


def reply_with(line: Line, reply: Message, seconds: float) -> None:
    """Give back the reply to a message that took `seconds`."""
    with no_object_id_recompute():
        parcel = packed(reply)
        wanted, session = line.send(parcel.head, parcel.tree, seconds)
        given(parcel.pieces, partial(line.push, reply.metadata.run_id, session), wanted)


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._last = self._last, time.monotonic()
        return self._last - before


@contextmanager
def connected(home: SiteHome) -> Generator[Line]:
    """Yield a line to the coordinator that `home` names; `WireError` where the site is not let in."""
    machine, key = read_machine(home), node_key(home.auth_key)
    server, trusted = machine.server, home.ca.read_bytes()
    with http_request_response(server, False, trusted, key.pair) as found:
        yield Line(*cast("Line", found))  # Flower's, but for what pieces are made of


def changes() -> list[tuple[ModuleType | type, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    return [
        (fleet_http_connection, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_MIN_INTERVAL),
        (heartbeat, "HEARTBEAT_DEFAULT_INTERVAL", HEARTBEAT_MIN_INTERVAL),
        (http_retry, "MAX_RETRY_DELAY", LONGEST_PAUSE_S),
        (fleet_http_connection, "make_simple_http_retry_invoker", patient),
        (fleet_http_connection, "remove_content_from_message", as_it_is),
        (fleet_http_connection, "flwr_exit", not_let_in),
        (fleet_http_connection, "make_push_object_fn_protobuf", carriage.pusher),
        (fleet_http_connection, "make_pull_object_fn_protobuf", carriage.puller),
        *carriage.changes(FleetHttpClient, carriage.FOR_SITES),
    ]


def as_it_is(head: Message) -> Message:
    """Return what is to announce a message; Flower would take its content out, and `packed` has done so."""
    return head


def not_let_in(code: int, message: str) -> NoReturn:
    """Raise what Flower would end the process with."""
    raise WireError(f"{' '.join(message.split())} (Flower's exit code {code})")


def reason(error: WireError) -> str:
    """Return why this site is not let in; where its clock is wrong, that and the remedy."""
    answers = (cause.response for cause in causes(error) if isinstance(cause, httpx.HTTPStatusError))
    checks = (clock(answer.headers.get("date"), datetime.now(UTC)) for answer in answers)
    wrong = (f"this machine's clock is {c.found}: {c.remedy}" for c in checks if c.state == "failed")
    return "; ".join([*wrong, str(error)])


def patient() -> RetryInvoker:
    """Return Flower's way of trying again, with a broken line among what is tried again."""
    invoker = make_simple_http_retry_invoker()
    hopeless = invoker.should_giveup

    def gives_up(error: Exception) -> bool:
        log.warning("no answer: %s", error)
        BROKE.set()
        if is_sent_away(error):
            return True
        return not is_broken_line(error) and hopeless is not None and hopeless(error)

    invoker.recoverable_exceptions = (*BROKEN, httpx.HTTPStatusError)
    invoker.should_giveup = gives_up
    return invoker


def is_sent_away(error: Exception) -> bool:
    """Say whether this site may not connect; there Flower interrupts the process, worker and all."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == HTTPStatus.UNAUTHORIZED


def is_broken_line(error: Exception) -> bool:
    """Say whether nothing was heard of a server; one that shows another CA's certificate was heard of."""
    return isinstance(error, BROKEN) and not any(
        isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error)
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def main(home: SiteHome) -> None:
    """Take part until SIGTERM; what is being worked at when that comes is dropped."""
    logs.begin()
    home.obstacle.unlink(missing_ok=True)
    settings = settings_of(home)
    for place, name, value in changes():
        setattr(place, name, value)
    end_by_signals()
    launching = Launcher(home.approved, settings.policy, lambda: Worker(settings))
    with suppress(KeyboardInterrupt), closing(launching) as launcher:
        keep_line(lambda: connected(home), launcher, home.obstacle)


if __name__ == "__main__":
    main(SiteHome(Path(sys.argv[1])))
