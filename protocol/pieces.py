"""How a message travels: announced by its head, and its vectors after it in pieces.

    head      the message without its vectors' bytes, and how those are cut; a small message with them
    pieces    the vectors' bytes one after the other, cut, each known by its SHA-256
    root      an empty piece that Flower's server wants before it lets anybody have the head

A large vector begins and ends with a piece, so that sites that are sent the same vector, among others, cost
the server one copy of it. Flower cuts every array for itself and puts a tree of pieces above them: a network
of two hundred layers is a thousand requests, and either side holds it three to four times. Here

    `taken`   puts every piece into its place as it comes, unless the place holds it already
    `given`   has what is cut off read from the vectors' own memory

so that either side holds the message and the few pieces that are on the line. How vectors of given sizes are
cut is the same on both sides, so each piece's place is known before it comes. A piece that its sender
announced and has not delivered yet is waited for, in pauses that grow (`protocol.waiting`); Flower's begin
at a second. How a piece is carried is `protocol.carriage`'s.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple, cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import ObjectTree  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.recorddict_pb2 import RecordDict as Proto  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.constant import PULL_MAX_TIME
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from google.protobuf.message import DecodeError

from protocol.errors import WireError
from protocol.pipe import arrays_in, hollow, solid
from protocol.room import Room
from protocol.waiting import pause

AT_ONCE = 2
"""Pieces on the line at a time."""
LONGEST_PAUSE_S = 1.0
SMALL_BYTES = 1_000_000
"""Of a message that goes with its head, and of a vector that shares its pieces with its neighbours."""
PIECE_BYTES = 32_000_000
"""The longest piece: what is lost of a line that breaks, and 13 s at 20 Mbit/s."""
FOLDED = "folded"
_SHA256 = re.compile("[0-9a-f]{64}")

Part = bytes | bytearray | memoryview
Parts = Sequence[Part]
"""Bytes in one or more stretches of memory."""
Push = Callable[[str, Parts], None]
Places = Callable[[Sequence[int]], list[memoryview]]
"""Gives memory for vectors of so many bytes each."""

_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
    MemoryError,
    DecodeError,
)


class Place(NamedTuple):
    """Where a piece goes: under its name, the stretches of memory that it is to fill."""

    name: str
    stretches: Parts


Pull = Callable[[Place], None]
"""Puts a piece into its place."""


@dataclass(frozen=True)
class Parcel:
    """A message ready to go.

    `head`     what announces it
    `tree`     the names of its pieces: the root's, and below it the others'
    `pieces`   by name
    """

    head: Message
    tree: ObjectTree
    pieces: Mapping[str, Parts]


def is_name(text: str) -> bool:
    """Say whether a piece may be called so; whoever looks for a file of this name finds no other."""
    return _SHA256.fullmatch(text) is not None


def packed(message: Message, before: Mapping[str, Parts] = MappingProxyType({})) -> Parcel:
    """Make a message ready to go, and give it the name that its root piece has.

    `before`: pieces that went just before; one that lies in the same memory has the same name, and is not
    hashed again. Whoever does it does so within Flower's `no_object_id_recompute`, or all is hashed twice.
    """
    bare = remove_content_from_message(message)
    known = {_place(parts): name for name, parts in before.items()}
    found = [] if _is_small(message) else list(cuts(array.data for array in arrays_in(message.content)))
    cut = [(known.get(_place(parts)) or _name(parts), parts) for parts in found]
    head = _folded(message, [name for name, _ in cut])
    root, pieces = bare.object_id, dict(cut)
    message.metadata.__dict__["_message_id"] = root
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name in pieces])
    return Parcel(head, tree, {root: [bare.deflate()], **pieces})


def is_whole(head: Message) -> bool:
    """Say whether a head holds its message, so that there are no pieces to take."""
    return not head.has_content() or not _told(head).get("pieces")


def fresh(sizes: Sequence[int]) -> list[memoryview]:
    """Return new memory for vectors of so many bytes each."""
    return Room().views(sizes)


def taken(head: Message, root: str, pull: Pull, room: Places = fresh, lying: Collection[str] = ()) -> Message:
    """Return the message that `head` announces and whose root piece is called `root`.

    Its vectors lie in what `room` gives for their sizes, and can be written to. A piece of `lying` may be in
    its place already: if what is there has its name, it is not pulled. Raises `WireError` where this is no
    message, Flower's `ObjectPullError` where a piece of it cannot be had, and what `room` raises.
    """
    try:
        found = _unfolded(head)
        if not is_whole(head):
            _fill(found, _told(head), partial(_patiently, pull), room, lying)
    except _MALFORMED as error:
        raise WireError(f"message {root} is not whole ({error!r}): its sender runs something else") from error
    found.metadata.__dict__["_message_id"] = root
    return found


def bare(head: Message, root: str) -> Message:
    """Return the message that `head` announces, which `taken` would, without its vectors."""
    found = _unfolded(head)
    records = {
        name: ArrayRecord() if isinstance(record, ArrayRecord) else record
        for name, record in found.content.items()
    }
    message = make_message(head.metadata, RecordDict(records))
    message.metadata.__dict__["_message_id"] = root
    return message


def given(pieces: Mapping[str, Parts], push: Push, wanted: Collection[str]) -> None:
    """Push those of `pieces` that are `wanted`; whatever `push` raises ends it."""
    _two_at_a_time(push, [(name, parts) for name, parts in pieces.items() if name in wanted])


def cuts(vectors: Iterable[Part]) -> Iterator[list[memoryview]]:
    """Yield the bytes of `vectors` in pieces, each as stretches of their own memory."""
    held, size, full = list[memoryview](), 0, False
    for data in map(memoryview, vectors):
        for start in range(0, len(data), PIECE_BYTES):
            part = data[start : start + PIECE_BYTES]
            large = len(data) > SMALL_BYTES
            if held and (full or large or size + len(part) > PIECE_BYTES):
                yield held
                held, size = [], 0
            held.append(part)
            size, full = size + len(part), large
    if held:
        yield held


def _name(parts: Parts) -> str:
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _place(parts: Parts) -> tuple[tuple[int, int], ...]:
    return tuple((np.frombuffer(part, np.uint8).ctypes.data, len(part)) for part in parts)


def _is_small(message: Message) -> bool:
    return not message.has_content() or sum(len(a.data) for a in arrays_in(message.content)) <= SMALL_BYTES


def _folded(message: Message, names: list[str]) -> Message:
    """Return a message with all its content as the bytes of one record, which no server need look into.

    Its vectors' bytes are in it only where there are no pieces to hold them.
    """
    if not message.has_content():
        return message
    record = ConfigRecord()
    if names:
        record["pieces"], record["sizes"] = names, [len(array.data) for array in arrays_in(message.content)]
    content = hollow(message.content) if names else solid(message.content)
    record["content"] = recorddict_to_proto(content).SerializeToString()
    return make_message(message.metadata, RecordDict({FOLDED: record}))


def _unfolded(head: Message) -> Message:
    if not head.has_content():
        return head
    content = Proto.FromString(cast("bytes", _told(head)["content"]))
    return make_message(head.metadata, recorddict_from_proto(content))


def _told(head: Message) -> ConfigRecord:
    return cast("ConfigRecord", head.content[FOLDED])


def _fill(message: Message, told: ConfigRecord, pull: Pull, room: Places, lying: Collection[str]) -> None:
    """Put the pieces' bytes into a message's vectors."""
    names, sizes = cast("list[str]", told["pieces"]), cast("list[int]", told["sizes"])
    arrays = list(arrays_in(message.content))
    # Asked before memory is given, or a file looked for.
    if len(sizes) != len(arrays) or not all(map(is_name, names)):
        raise ValueError("not as many sizes as vectors, or a piece that has no piece's name")
    vectors = room(sizes)

    def fill(name: str, stretches: Parts) -> None:
        if name not in lying or _name(stretches) != name:
            pull(Place(name, stretches))

    _two_at_a_time(fill, list(zip(names, cuts(vectors), strict=True)))
    for array, data in zip(arrays, vectors, strict=True):
        array.data = data  # pyright: ignore[reportAttributeAccessIssue] - any buffer will do


def put(place: Place, parts: Iterable[Part]) -> None:
    """Fill a place with what comes; `ValueError` if that is not as long."""
    coming, rest = iter(parts), memoryview(b"")
    for stretch in map(memoryview, place.stretches):
        filled = 0
        while filled < len(stretch):
            rest = rest or memoryview(next(coming, b""))
            if not rest:
                raise ValueError("fewer bytes than announced")
            part, rest = rest[: len(stretch) - filled], rest[len(stretch) - filled :]
            stretch[filled : filled + len(part)] = part
            filled += len(part)
    if rest or any(coming):
        raise ValueError("more bytes than announced")


def _patiently(pull: Pull, place: Place) -> None:
    began = time.monotonic()
    while True:
        try:
            return pull(place)
        except ObjectUnavailableError:
            waited = time.monotonic() - began
        if waited > PULL_MAX_TIME:
            raise ObjectPullError(place.name, f"its sender did not deliver it within {PULL_MAX_TIME} s")
        time.sleep(pause(waited, LONGEST_PAUSE_S))


def _two_at_a_time(work: Callable[[str, Parts], None], pieces: Sequence[tuple[str, Parts]]) -> None:
    """Do what there is to do with each piece; the first error ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for _ in pool.map(work, *zip(*pieces, strict=True)) if pieces else ():
            pass
    finally:
        pool.shutdown(cancel_futures=True)
