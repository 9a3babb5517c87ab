"""A whole message from one of our processes to another on this machine, through a pipe.

    head     the message without its vectors' bytes, as Flower's protobuf
    sizes    of the vectors in bytes, as JSON
    bytes    of one vector after the other, from its own memory into memory that its receiver owns

Without torch: a process that only passes messages on does without it.
"""

import json
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as Proto  # pyright: ignore[reportAttributeAccessIssue]


def send_message(pipe: Connection, message: Message) -> None:
    """Hand a whole message to another of our processes: its head, then each vector from its own memory."""
    arrays = list(arrays_in(message.content)) if message.has_content() else []
    head = make_message(message.metadata, hollow(message.content)) if arrays else message
    pipe.send_bytes(message_to_proto(head).SerializeToString())
    pipe.send_bytes(json.dumps([len(array.data) for array in arrays]).encode())
    for array in arrays:
        _write(pipe, memoryview(array.data))


def receive_message(pipe: Connection) -> Message:
    """Receive what `send_message` sent; its vectors can be written to.

    Raises `EOFError` where the sender has ended.
    """
    message = message_from_proto(Proto.FromString(pipe.recv_bytes()))
    sizes = json.loads(pipe.recv_bytes())
    for array, size in zip(arrays_in(message.content), sizes, strict=True) if sizes else ():
        array.data = _read_exactly(pipe, size)  # pyright: ignore[reportAttributeAccessIssue]
    return message


def arrays_in(content: RecordDict) -> Iterator[Array]:
    """Yield every array of a message's content."""
    # Flower's own `array_records` builds a checked copy at every access.
    for record in content.values():
        if isinstance(record, ArrayRecord):
            yield from record.values()


def solid(content: RecordDict) -> RecordDict:
    """Turn borrowed buffers into bytes of the content's own, for a wire that needs bytes."""
    for array in arrays_in(content):
        array.data = bytes(array.data)
    return content


def hollow(content: RecordDict) -> RecordDict:
    """Return a message's content without the bytes of its vectors."""
    return RecordDict(
        {
            key: ArrayRecord({name: Array(a.dtype, a.shape, a.stype, b"") for name, a in record.items()})
            if isinstance(record, ArrayRecord)
            else record
            for key, record in content.items()
        }
    )


def _write(pipe: Connection, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(pipe.fileno(), rest) :]


def _read_exactly(pipe: Connection, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        if not (count := os.readv(pipe.fileno(), [rest])):
            raise EOFError
        rest = rest[count:]
    return data
