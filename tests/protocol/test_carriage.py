"""What carries pieces, without a line: the whole way is in test_supernode."""

import socket
import threading
from typing import Any, cast

import pytest
from flwr.proto.message_pb2 import PullObjectRequest  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.node_pb2 import Node  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.protobuf.client import ProtobufClient
from httpcore import ReadError, ReadTimeout
from httpcore._backends.sync import SyncStream
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from protocol.carriage import (
    BLOCK_BYTES,
    FOR_SITES,
    Carrier,
    blocks,
    changes,
    from_header,
    in_header,
    pusher,
    read,
)
from tests.serving import serving


@given(node=st.integers(0, 2**64 - 1), run=st.integers(0, 2**64 - 1), name=st.text(max_size=70))
def test_what_is_said_in_a_header_is_read_from_it(node: int, run: int, name: str) -> None:
    asked = PullObjectRequest(node=Node(node_id=node), run_id=run, object_id=name)
    (told,) = in_header(asked).values()
    assert told.isascii()
    assert from_header(PullObjectRequest, told) == asked


def test_bytes_go_in_blocks() -> None:
    parts = [memoryview(bytes(range(250))), bytes(BLOCK_BYTES + 1), bytearray(b"end")]
    found = list(blocks(parts))
    assert b"".join(found) == b"".join(parts)
    assert max(map(len, found)) == BLOCK_BYTES


def _read_from(sent: bytes, *, end: bool = False) -> tuple[SyncStream, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.sendall(sent)
    if end:
        theirs.close()
    return SyncStream(ours), theirs


def test_all_that_is_there_is_read_at_once_and_its_end_once_more() -> None:
    stream, _ = _read_from(bytes(100_000), end=True)
    assert read(stream, 1, 5.0) == bytes(100_000)
    assert read(stream, 1, 5.0) == b""
    stream.close()


def test_a_block_is_the_most_that_is_read() -> None:
    stream, theirs = _read_from(b"")
    sender = threading.Thread(target=theirs.sendall, args=[bytes(4 * BLOCK_BYTES)])
    sender.start()
    found = [read(stream, 1, 5.0)]
    while sum(map(len, found)) < 4 * BLOCK_BYTES:
        found.append(read(stream, 1, 5.0))
    sender.join()
    assert max(map(len, found)) <= BLOCK_BYTES + 16_384
    stream.close()
    theirs.close()


def test_a_silent_line_and_a_broken_one_end_as_the_library_says() -> None:
    stream, theirs = _read_from(b"")
    with pytest.raises(ReadTimeout):
        read(stream, 1, 0.01)
    stream.close()
    with pytest.raises(ReadError):
        read(stream, 1, 0.01)
    theirs.close()


def test_one_piece_after_the_other_is_brought_over_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another would be greeted anew for each."""
    for where, name, value in changes(ProtobufClient, FOR_SITES):
        monkeypatch.setattr(where, name, value, raising=False)
    lines, brought = set[Any](), list[bytes]()

    async def take(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            lines.add(tuple(scope["client"]))
            brought.append((await receive())["body"])
            await send({"type": "http.response.start", "status": 201, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body"})

    with serving(take, lifespan="off") as address, ProtobufClient(f"http://{address}") as client:
        push = pusher(cast("Carrier", client).PushObject, Node(node_id=1), 7, "a session")
        for number in range(3):
            push("0" * 64, [bytes([number])])
    assert brought == [b"\0", b"\1", b"\2"]
    assert len(lines) == 1
