"""How a message travels: announced by its head, and then as a tree of pieces, each known by its SHA-256.

    Message - RecordDict - ArrayRecord - Array - chunks of 5 MB
                         - ConfigRecord

That is Flower's way, and what it gains by it: a site that is sent what another was sent before costs the
server no second copy. Flower's own code for it holds a model three to four times on either side. Here

    `taken`   goes down the tree from its root, and puts every chunk into its place as it comes
    `given`   cuts off a chunk when its turn has come

so that either side holds the message and the few chunks that are on the line. Each piece costs a request on
every leg of its way, and Flower's server some 7 ms of work: a small message goes whole with its head, and of
its pieces only the root is given, which the server wants before it keeps a message. A piece that its sender
announced and has not delivered yet is waited for, in pauses that grow (`protocol.waiting`); Flower's begin
at a second.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.message_pb2 import ObjectTree  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.recorddict_pb2 import RecordDict as Proto  # pyright: ignore[reportAttributeAccessIssue]
from flwr.supercore.constant import PULL_MAX_TIME
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_head_values_from_object_content,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflatable_class_registry,
)
from google.protobuf.message import DecodeError

from protocol.errors import WireError
from protocol.pipe import arrays_in, solid
from protocol.waiting import pause

AT_ONCE = 2
"""Pieces on the line at a time: one is unpacked while the other comes."""
LONGEST_PAUSE_S = 1.0

SMALL_BYTES = 1_000_000
FOLDED = "folded"

T = TypeVar("T")
Pull = Callable[[str], bytes]
Push = Callable[[str, bytes], None]

_MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, DecodeError)


@dataclass(frozen=True)
class Parcel:
    """A message ready to go.

    `head`     what announces it, and holds all of its content if that is small
    `tree`     the names of its pieces
    `pieces`   by name
    """

    head: Message
    tree: ObjectTree
    pieces: Mapping[str, InflatableObject]


def packed(message: Message) -> Parcel:
    """Make a message ready to go, and give it the name that its root piece has.

    Whoever gives its pieces does both within Flower's `no_object_id_recompute`, or all is hashed twice.
    """
    bare = remove_content_from_message(message)
    if _is_small(message):
        tree, pieces = ObjectTree(object_id=bare.object_id), {bare.object_id: bare}
        head = _folded(message)
    else:
        tree, pieces, head = get_object_tree(message), get_all_nested_objects(message), bare
    message.metadata.__dict__["_message_id"] = tree.object_id
    return Parcel(head, tree, pieces)


def is_whole(head: Message) -> bool:
    """Say whether a head holds its message, so that there are no pieces to take."""
    return not head.has_content() or FOLDED in head.content


def taken(head: Message, root: str, pull: Pull) -> Message:
    """Return the message that `head` announces and whose root piece is called `root`.

    Each array's data can be written to. Raises `WireError` where this is no message, Flower's
    `ObjectPullError` where a piece of it cannot be had.
    """
    try:
        found = _unfolded(head) if is_whole(head) else _taken(root, partial(_patiently, pull))
    except _MALFORMED as error:
        raise WireError(f"message {root} is not whole ({error!r}): its sender runs something else") from error
    if not isinstance(found, Message):
        raise WireError(f"{root} is a {type(found).__name__}, no message: its sender runs something else")
    found.metadata.__dict__["_message_id"] = root
    return found


def given(pieces: Mapping[str, InflatableObject], push: Push, wanted: Collection[str]) -> None:
    """Push those of `pieces` that are `wanted`; whatever `push` raises ends it."""
    names = [name for name in pieces if name in wanted]
    for _ in _two_at_a_time(lambda name: push(name, pieces[name].deflate()), names):
        pass


def _is_small(message: Message) -> bool:
    return not message.has_content() or sum(len(a.data) for a in arrays_in(message.content)) <= SMALL_BYTES


def _folded(message: Message) -> Message:
    """Return a message with all its content as the bytes of one record, which no server need look into."""
    if not message.has_content():
        return message
    record = ConfigRecord()
    record["content"] = recorddict_to_proto(solid(message.content)).SerializeToString()
    return make_message(message.metadata, RecordDict({FOLDED: record}))


def _unfolded(head: Message) -> Message:
    if not head.has_content():
        return head
    content = cast("ConfigRecord", head.content[FOLDED])["content"]
    return make_message(head.metadata, recorddict_from_proto(Proto.FromString(cast("bytes", content))))


def _taken(name: str, pull: Pull) -> InflatableObject:
    content = pull(name)
    kind, children, _ = get_object_head_values_from_object_content(content)
    if kind == ArrayRecord.__qualname__:
        return _arrays(content, pull)
    below = {child: _taken(child, pull) for child in children}
    return inflatable_class_registry[kind].inflate(content, below)


def _arrays(content: bytes, pull: Pull) -> ArrayRecord:
    # Equal arrays are one piece: each is taken for itself, so that no two share their memory.
    record = ArrayRecord()
    for key, piece in json.loads(get_object_body(content, ArrayRecord)).items():
        record[key] = _array(pull(piece), pull)
    return record


def _array(content: bytes, pull: Pull) -> Array:
    children = get_object_children_ids_from_object_content(content)
    facts = json.loads(get_object_body(content, Array))
    names = [children[int(place)] for place in facts["arraychunk_ids"]]
    data = bytearray()  # grows with what has come: what a head claims allocates nothing
    for chunk in _two_at_a_time(lru_cache(AT_ONCE)(pull), names):  # equal chunks follow each other
        data += memoryview(get_object_body(chunk, ArrayChunk))
    array = Array(str(facts["dtype"]), tuple(facts["shape"]), str(facts["stype"]), b"")
    array.data = data  # pyright: ignore[reportAttributeAccessIssue] - any buffer will do
    return array


def _patiently(pull: Pull, name: str) -> bytes:
    began = time.monotonic()
    while True:
        try:
            return pull(name)
        except ObjectUnavailableError:
            waited = time.monotonic() - began
        if waited > PULL_MAX_TIME:
            raise ObjectPullError(name, f"its sender did not deliver it within {PULL_MAX_TIME} s")
        time.sleep(pause(waited, LONGEST_PAUSE_S))


def _two_at_a_time(work: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """Yield what `work` makes of each name, in order; the first error ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(work, names)
    finally:
        pool.shutdown(cancel_futures=True)
