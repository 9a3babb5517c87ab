"""Stands in for the worker's process."""

from collections.abc import Sequence

from flwr.app import Message

from protocol.messages import Reply, pack_reply, unpack_task
from protocol.room import Room, free
from protocol.update import Update


class Hand:
    """Answers at once with what it was sent as the update, or is dead."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive, self.asked, self._room = alive, list[tuple[Message, str]](), Room()

    def send(self, message: Message, objection: str = "") -> None:
        if not self.alive:
            raise BrokenPipeError
        self.asked.append((message, objection))

    def room(self, sizes: Sequence[int]) -> list[memoryview]:
        self._room = free(self._room)
        return self._room.views(sizes)

    def receive(self) -> Message:
        message, objection = self.asked[-1]
        task = unpack_task(message)
        error = ("PolicyError", objection) if objection else None
        update = Update(task.vectors, dict.fromkeys(task.vectors, 1)) if task.vectors else None
        return Message(
            pack_reply(Reply("north", task.kind, task.run, task.round, update, error=error)), reply_to=message
        )

    def close(self) -> None:
        self.alive = False
