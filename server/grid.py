"""Flower's Grid with its way to cut and to join messages changed, in the server application's process.

Its pieces     one at a time (`protocol.pieces`): Flower's own way holds a model four times, and waits a
               second or two for a reply that has been announced and is still on its way.
Its patience   a reply that is no message at all is an answer that failed, and not the run's end.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import ModuleType

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import InflatableObject
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.superlink.grid import http_grid

from protocol.errors import WireError
from protocol.pieces import Pull, Push, folded, give, take

_push_messages = http_grid.HttpGrid.push_messages


def changes() -> list[tuple[ModuleType | type, str, object]]:
    """Return what is changed: where, which name, and its new value."""
    return [
        (http_grid.HttpGrid, "push_messages", push_folded),
        (http_grid, "push_objects", pushed),
        (http_grid, "pull_objects", pulled),
        (http_grid, "inflate_object_from_contents", joined),
    ]


def push_folded(grid: http_grid.HttpGrid, messages: Iterable[Message]) -> Iterable[str]:
    """Push messages as Flower's Grid does, small ones in fewer pieces."""
    return _push_messages(grid, [folded(message) for message in messages])


def pushed(
    objects: Mapping[str, InflatableObject], push_object_fn: Push, object_ids_to_push: Collection[str]
) -> None:
    """Push pieces as Flower's `push_objects` does."""
    give(objects, push_object_fn, object_ids_to_push)


def pulled(object_ids: Sequence[str], pull_object_fn: Pull) -> Message:
    """Pull the message whose root is the last of `object_ids`; Flower's `pull_objects` yields its pieces."""
    root = object_ids[-1]
    try:
        return take(root, pull_object_fn)
    except WireError as error:
        raise ObjectPullError(root, str(error)) from error


def joined(root: str, message: Message) -> Message:
    """Return what `pulled` has joined already."""
    del root
    return message
