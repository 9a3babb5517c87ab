"""How a piece of a message is carried between Flower's server and whoever sends or takes it.

Flower puts a piece into a protobuf message, which is copied on either side of every library that it passes.
Here a piece is the body of its request, or of its answer, as it is; what is said of it (who asks, the run,
its name) is Flower's message for the same purpose without the piece, in a header. So nobody
holds more of it than the blocks that are on the line: the server writes it down as it comes
(`server.carriage`).

    POST /v1/fleet/push-piece     201 stored, 409 nobody announced it
    POST /v1/fleet/pull-piece     200 with it, 425 announced and not there yet, 404 unknown

with `/v1/runtime/` for the server application. Flower's clients do what is here in place of their own
`PushObject` and `PullObject`, with their logins, their time limits and their trying again.

A TLS record is 16 kB, and Flower's HTTP library hands each on by itself: a hundred thousand calls for a
model. `read` takes what is there.
"""

import ssl
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import httpx
from flwr.proto.message_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
)
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufRequestContext
from httpcore import ReadError, ReadTimeout
from httpcore._backends.sync import SyncStream
from httpcore._exceptions import map_exceptions

from protocol.pieces import Part, Parts, Place, Pull, put

FOR_SITES, FOR_APPS = "/v1/fleet/", "/v1/runtime/"
"""Flower's doors: the paths under which its server is asked by sites, and by server applications."""
PUSH, PULL = "push-piece", "pull-piece"
ABOUT = "x-piece"
"""The header."""
BLOCK_BYTES = 1_000_000
"""Read, written and handed on at a time."""
RECORD_BYTES = 16_384

Put = Callable[[Place, Iterable[Part]], None]
"""Fills a place, with what comes or with the same bytes from elsewhere."""

_KNOWN = frozenset({HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND, HTTPStatus.TOO_EARLY})

T = TypeVar("T")
R = TypeVar("R", PushObjectRequest, PullObjectRequest)


class Pushed(NamedTuple):
    """A piece to be stored, and Flower's request to store it, without it."""

    request: PushObjectRequest
    parts: Parts


class Pulled(NamedTuple):
    """Flower's request to fetch a piece, where to put it, and what does so with the bytes that come."""

    request: PullObjectRequest
    place: Place
    put: Put


def in_header(request: PushObjectRequest | PullObjectRequest) -> dict[str, str]:
    """Return the header that says of a piece what `request` does."""
    return {ABOUT: b64encode(request.SerializeToString()).decode()}


def from_header(kind: type[R], told: str) -> R:
    """Return what a header says; `ValueError` or protobuf's `DecodeError` where it says nothing."""
    return kind.FromString(b64decode(told, validate=True))


def pusher(
    push: Callable[[Pushed], bool], node: Node, run: int, session: str
) -> Callable[[str, Parts], None]:
    """Return what stores a piece under its name; `ObjectPushError` where nobody announced it."""

    def given(name: str, parts: Parts) -> None:
        request = PushObjectRequest(node=node, run_id=run, object_id=name, session_id=session)
        if not push(Pushed(request, parts)):
            raise ObjectPushError(name, run, session)

    return given


def puller(pull: Callable[[Pulled], None], node: Node, run: int, put: Put = put) -> Pull:
    """Return what fetches a piece, as soon as it is there, and has `put` fill its place.

    It raises `ObjectPullError` where nobody has heard of it, `ObjectUnavailableError` where it is on its way.
    """
    return lambda place: pull(
        Pulled(PullObjectRequest(node=node, run_id=run, object_id=place.name), place, put)
    )


class Carrier(ProtobufClient):
    """What Flower's clients do in place of methods of the same names: see `changes`."""

    door: str

    def PushObject(self, asked: Pushed) -> bool:  # noqa: N802 - Flower's name
        """Have a piece stored; False where nobody announced it."""
        length = {"content-length": str(sum(map(len, asked.parts)))}

        def once() -> bool:
            with self._answered(PUSH, asked.request, blocks(asked.parts), length) as answer:
                answer.read()  # to its end, or the next piece would need another line
                return answer.status_code == HTTPStatus.CREATED

        return self._tried(once)

    def PullObject(self, asked: Pulled) -> None:  # noqa: N802 - Flower's name
        """Put a piece into its place; raises `ObjectPullError` or `ObjectUnavailableError`."""

        def once() -> None:
            with self._answered(PULL, asked.request) as answer:
                if answer.status_code == HTTPStatus.NOT_FOUND:
                    raise ObjectPullError(asked.place.name, "nobody has announced it.")
                if answer.status_code == HTTPStatus.TOO_EARLY:
                    raise ObjectUnavailableError(asked.place.name)
                asked.put(asked.place, answer.iter_raw())

        self._tried(once)

    def _tried(self, once: Callable[[], T]) -> T:
        """Do it once, or as often as this client tries again; a site's is tried again by who calls it."""
        return once() if self._retry_invoker is None else self._retry_invoker.invoke(once)

    @contextmanager
    def _answered(
        self,
        errand: str,
        told: PushObjectRequest | PullObjectRequest,
        content: bytes | Iterator[bytes] = b"",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Generator[httpx.Response]:
        """Yield the answer to a request with Flower's login; raises as Flower's clients do."""
        url, about = f"{self._base_url}{self.door}{errand}", in_header(told)
        request = self._client.build_request("POST", url, content=content, headers={**about, **headers})
        answer = self._send(ProtobufRequestContext(errand, told, request), stream=True)
        request.extensions["timeout"]["read"] = self._client.timeout.read  # Flower's streams have none
        with closing(answer):
            if answer.status_code not in _KNOWN:
                answer.raise_for_status()
            yield answer


def blocks(parts: Parts) -> Iterator[bytes]:
    """Yield bytes in blocks, as a request's body must be."""
    for part in map(memoryview, parts):
        yield from (bytes(part[at : at + BLOCK_BYTES]) for at in range(0, len(part), BLOCK_BYTES))


def read(stream: SyncStream, most: int, timeout: float | None = None) -> bytes:
    """Wait for bytes from a line, and return what is there: stands in for `SyncStream.read`."""
    del most
    line, found = stream.get_extra_info("socket"), list[bytes]()
    with map_exceptions({TimeoutError: ReadTimeout, OSError: ReadError}):
        line.settimeout(timeout)
        found.append(line.recv(RECORD_BYTES))
        line.settimeout(0)
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            while found[-1] and len(found) * RECORD_BYTES < BLOCK_BYTES:
                found.append(line.recv(RECORD_BYTES))
    return b"".join(found)


def changes(client: type[ProtobufClient], door: str) -> list[tuple[type, str, object]]:
    """Return what is changed of a Flower client and of its HTTP library: where, which name, its new value."""
    ours = vars(Carrier)
    names = ("PushObject", "PullObject", "_tried", "_answered")
    return [
        *((client, name, ours[name]) for name in names),
        (client, "door", door),
        (SyncStream, "read", read),
    ]
