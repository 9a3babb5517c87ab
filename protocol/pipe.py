"""A whole message from one of our processes to another on this machine, through a pipe.

    head     the message without its vectors' bytes, as Flower's protobuf
    sizes    of the vectors in bytes, as JSON
    room     the memory that they lie in (`protocol.room`): whoever sends it has given it away, and gets it
             back with the next message

Without torch: a process that only passes messages on does without it.
"""

import json
import os
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from operator import is_

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as Proto  # pyright: ignore[reportAttributeAccessIssue]

from protocol.room import Room, free


class Channel:
    """One end of a pipe, for one message after the other."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self._room: Room | None = None
        self._places: list[memoryview] = []

    def room(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return memory for vectors of so many bytes each, from which `send` need not copy them."""
        self._places = []  # else they would be looked at
        self._room = free(self._room)
        self._places = self._room.views(sizes)
        return self._places

    def send(self, message: Message) -> None:
        """Hand a whole message over; its vectors are not to be looked at afterwards.

        The room goes with every message, also with one that needs none: unless somebody here looks at what
        was received in it, who then keeps it.
        """
        arrays = list(arrays_in(message.content)) if message.has_content() else []
        head = make_message(message.metadata, hollow(message.content)) if arrays else message
        room = self._laid(arrays)
        self.pipe.send_bytes(message_to_proto(head).SerializeToString())
        self.pipe.send_bytes(json.dumps([len(array.data) for array in arrays]).encode())
        send_handle(self.pipe, room.handle, os.getpid())

    def receive(self) -> Message:
        """Receive what `send` sent; its vectors can be written to. `EOFError` where the sender has ended."""
        message = message_from_proto(Proto.FromString(self.pipe.recv_bytes()))
        sizes = json.loads(self.pipe.recv_bytes())
        self._room = Room(recv_handle(self.pipe))
        places = self._room.views(sizes)
        for array, place in zip(arrays_in(message.content), places, strict=True) if places else ():
            array.data = place  # pyright: ignore[reportAttributeAccessIssue] - any buffer will do
        return message

    def _laid(self, arrays: Sequence[Array]) -> Room:
        """Return the room in which the vectors lie, which is this end's no more."""
        room, places = self._room, self._places
        self._room, self._places = None, []
        if room is not None and arrays and _lie(arrays, places):
            return room
        del places
        room = free(room)
        for array, place in zip(arrays, room.views([len(array.data) for array in arrays]), strict=True):
            place[:] = memoryview(array.data)
        return room


def _lie(arrays: Sequence[Array], places: Sequence[memoryview]) -> bool:
    """Say whether each vector is at its place."""
    return len(arrays) == len(places) and all(map(is_, (array.data for array in arrays), places))


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
