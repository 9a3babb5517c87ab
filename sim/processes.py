"""A process per site: real isolation and parallel work, on one machine.

Each site is a warm `client.worker`. A reply stays in its pipe until the server's turn for it comes.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from flwr.app import Context, Message

from client.settings import from_node_config
from client.worker import Worker, died
from sim.inprocess import LocalGrid


class ProcessGrid(LocalGrid):
    """Sites as worker processes; close it to end them."""

    def __init__(self, contexts: Mapping[int, Context]) -> None:
        super().__init__(contexts)
        self.workers = {n: Worker(from_node_config(c.node_config)) for n, c in contexts.items()}
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to its site's process."""
        sent: list[str] = []
        for message in messages:
            sent.append(self.stamp(message))
            self._waiting[sent[-1]] = message
            with suppress(OSError):  # the pull says that the process has died
                self.workers[message.metadata.dst_node_id].send(message)
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that have come; a dead process is an error reply."""
        for number in message_ids:
            asked = self._waiting.get(number)
            if asked is not None and (reply := self._reply_to(asked)) is not None:
                del self._waiting[number]
                yield reply

    def close(self) -> None:
        """End every worker."""
        for worker in self.workers.values():
            worker.close()

    def _reply_to(self, asked: Message) -> Message | None:
        """Return the reply to `asked` if it is there.

        A site answers in the order in which it was asked: what answers another message came too late for
        whoever had asked that, and is dropped.
        """
        worker = self.workers[asked.metadata.dst_node_id]
        try:
            while worker.has_answered():
                reply = worker.receive()
                if reply.metadata.reply_to_message_id == asked.metadata.message_id:
                    return reply
                self._waiting.pop(reply.metadata.reply_to_message_id, None)
        except (EOFError, OSError):
            return died(asked)
        return None
