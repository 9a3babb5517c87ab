"""Flower's Grid with its way to send and to take messages changed, in the server application's process.

Its pieces     as `protocol.pieces` has them: Flower's own way holds a model four times, needs three requests
               a piece, and waits a second or two for a reply that has been announced and is still on its way.
Its patience   a reply that is no message at all is an answer that failed, and not the run's end.
"""

from collections.abc import Iterable

from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    ConfirmMessageReceivedRequest,
)
from flwr.proto.node_pb2 import Node  # pyright: ignore[reportAttributeAccessIssue]
from flwr.proto.runtime_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    PullAppMessagesRequest,
    PushAppMessagesRequest,
)
from flwr.supercore.inflatable.inflatable_object import no_object_id_recompute
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid.http_grid import HttpGrid

from protocol.errors import WireError
from protocol.pieces import given, is_whole, packed, taken

SERVER = Node(node_id=SUPERLINK_NODE_ID)
"""As whom a server application asks."""


class StraightGrid(HttpGrid):
    """What a server application's grid does in place of Flower's methods of the same names."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Push messages one by one; return their names."""
        return [_pushed(self._runtime_client, self.run.run_id, message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return those replies to the named messages that are there."""
        client = self._runtime_client
        found = client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        heads = [message_from_proto(each) for each in found.messages_list]
        roots = [tree.object_id for tree in found.message_object_trees]
        return [_pulled(client, self.run.run_id, *each) for each in zip(heads, roots, strict=True)]


def changes() -> list[tuple[type, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    return [(HttpGrid, name, vars(StraightGrid)[name]) for name in ("push_messages", "pull_messages")]


def _pushed(client: RuntimeHttpClient, run: int, message: Message) -> str:
    with no_object_id_recompute():
        parcel = packed(message)
        announced = PushAppMessagesRequest(
            messages_list=[message_to_proto(parcel.head)], message_object_trees=[parcel.tree]
        )
        told = client.PushMessages(announced)
        push = make_push_object_fn_protobuf(client.PushObject, SERVER, run, told.session_id)
        given(parcel.pieces, push, set(told.objects_to_push))
    (name,) = told.message_ids
    return name


def _pulled(client: RuntimeHttpClient, run: int, head: Message, root: str) -> Message:
    try:
        message = taken(head, root, make_pull_object_fn_protobuf(client.PullObject, SERVER, run))
    except (WireError, ObjectPullError) as error:
        return make_message(head.metadata, error=Error(ErrorCode.MESSAGE_UNAVAILABLE, str(error)))
    if not is_whole(head):
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=SERVER, run_id=run, message_object_id=root)
        )
    return message
