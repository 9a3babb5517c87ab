"""Flower's Grid with its way to send and to take messages changed, in the server application's process.

Its pieces     as `protocol.pieces` has them and `protocol.carriage` carries them: Flower's own way holds a
               model four times, and waits a second or two for a reply that is still on its way. The
               SuperLink is on the same machine: a task's are written down where it keeps them, and a
               reply's are read there.
Its memory     one reply lies where the one before lay, once nobody looks at that any more. It may be some
               times as large as the largest task: one piece that is named again and again would fill it.
Its patience   a reply that is no message at all is an answer that failed, and not the run's end.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from io import FileIO
from pathlib import Path
from typing import cast

import httpx
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    ConfirmMessageReceivedRequest,
    ObjectTree,
)
from flwr.proto.node_pb2 import Node  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.runtime_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    PullAppMessagesRequest,
    PushAppMessagesRequest,
)
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from protocol import carriage
from protocol.carriage import FOR_APPS, Carrier, Pushed, puller, pusher
from protocol.errors import WireError
from protocol.pieces import Parcel, Part, Place, Pull, given, packed, put, taken
from protocol.room import Room, free
from server.store import new_file

SERVER = Node(node_id=SUPERLINK_NODE_ID)
"""As whom a server application asks."""
TIMES, SPARE_BYTES = 4, 64_000_000
"""What a reply may have: so many times the largest task, for what a strategy sends besides, and some more."""


class StraightGrid(HttpGrid):
    """What a server application's grid does in place of Flower's methods of the same names.

    `pieces`: the folder in which the SuperLink keeps pieces (`server.store`).
    """

    pieces: Path
    replies: Room | None = None
    largest: int = 0

    def room(self, sizes: Sequence[int]) -> list[memoryview]:
        """Return memory for a reply's vectors, of so many bytes each; `ValueError` for too many."""
        if sum(sizes) > TIMES * self.largest + SPARE_BYTES:
            raise ValueError(f"{sum(sizes)} bytes in answer to {self.largest}")
        self.replies = free(self.replies)
        return self.replies.views(sizes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push messages one by one, each as it is made; return their names."""
        names, before = list[str](), None
        for message in messages:
            before = _pushed(self._runtime_client, self.run.run_id, self.pieces, message, before)
            names.append(before.tree.object_id)
            self.largest = max(self.largest, sum(len(p) for parts in before.pieces.values() for p in parts))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return those replies to the named messages that are there."""
        client, run = self._runtime_client, self.run.run_id
        found = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        heads = [message_from_proto(each) for each in found.messages_list]
        fetch = puller(cast("Carrier", client).PullObject, SERVER, run, partial(lying_or_coming, self.pieces))
        take = partial(taken, pull=partial(in_place, self.pieces, fetch), room=self.room)
        trees = found.message_object_trees
        return [_pulled(client, run, take, *each) for each in zip(heads, trees, strict=True)]


def changes(pieces: Path) -> list[tuple[type, str, object]]:
    """Return what is changed where pieces are kept in `pieces`: where, which name, and its new value."""
    ours = vars(StraightGrid)
    return [
        (HttpGrid, "pieces", pieces),
        (HttpGrid, "replies", None),
        (HttpGrid, "largest", 0),
        (HttpGrid, "room", ours["room"]),
        (HttpGrid, "push_messages", ours["push_messages"]),
        (HttpGrid, "pull_messages", ours["pull_messages"]),
        *carriage.changes(RuntimeHttpClient, FOR_APPS),
    ]


def in_place(pieces: Path, pull: Pull, place: Place) -> None:
    """Read a piece as the SuperLink has written it down; fetch it where that is not there."""
    if not _lies(pieces, place):
        pull(place)


def lying_or_coming(pieces: Path, place: Place, parts: Iterable[Part]) -> None:
    """Fill a place with a piece that was not there and is about to come; it may have been written meanwhile.

    Then it is read there: what comes over a line holds some MB while it comes.
    """
    if not _lies(pieces, place):
        put(place, parts)


def _lies(pieces: Path, place: Place) -> bool:
    """Read a piece where the SuperLink has written it down; say whether it has."""
    try:
        file = (pieces / place.name).open("rb", buffering=0)
    except FileNotFoundError:
        return False
    with file:
        _read(file, place)
    return True


def _read(file: FileIO, place: Place) -> None:
    for stretch in map(memoryview, place.stretches):
        filled = 0
        while filled < len(stretch):
            if not (count := file.readinto(stretch[filled:])):
                raise ValueError("fewer bytes than announced")
            filled += count
    if file.read(1):
        raise ValueError("more bytes than announced")


def laid(pieces: Path, push: Callable[[Pushed], bool], asked: Pushed) -> bool:
    """Write a piece down where the SuperLink keeps them, and say so; send it where that is not to be seen."""
    if not pieces.is_dir():
        return push(asked)
    with new_file(pieces, asked.request.object_id) as (place, file):
        for part in asked.parts:
            file.write(part)
        file.flush()
        asked.request.object_content = place.encode()
        try:
            return push(Pushed(asked.request, ()))
        except httpx.HTTPStatusError:
            if (pieces / place).exists():
                raise
    return laid(pieces, push, asked)  # a SuperLink that was started anew has cleared it away


def _pushed(
    client: RuntimeHttpClient, run: int, pieces: Path, message: Message, before: Parcel | None
) -> Parcel:
    with no_object_id_recompute():
        parcel = packed(message, before.pieces if before else {})
        announced = PushAppMessagesRequest(
            messages_list=[message_to_proto(parcel.head)], message_object_trees=[parcel.tree]
        )
        told = client.PushMessages(announced)
        lay = partial(laid, pieces, cast("Carrier", client).PushObject)
        push = pusher(lay, SERVER, run, told.session_id)
        with suppress(ObjectPushError):  # its site holds all of it, and has taken it
            given(parcel.pieces, push, set(told.objects_to_push))
    return parcel


def _pulled(
    client: RuntimeHttpClient,
    run: int,
    take: Callable[[Message, str], Message],
    head: Message,
    tree: ObjectTree,
) -> Message:
    """Take one message, and have the pieces that came with it removed, whatever they are."""
    try:
        message = take(head, tree.object_id)
    except (WireError, ObjectPullError) as error:
        message = make_message(head.metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error)))
    if tree.children:
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=SERVER, run_id=run, message_object_id=tree.object_id)
        )
    return message
