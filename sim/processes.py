"""A process per site: real isolation and parallel work, on one machine.

Each worker holds its site warm (imports, data, model) and speaks Flower's protobuf messages
over a pipe. A reply stays in its pipe until the server's turn for it comes.
"""

import multiprocessing
import signal
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from flwr.app import Context, Error, Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage  # pyright: ignore[reportAttributeAccessIssue]

from protocol.messages import solidify
from sim.inprocess import LocalGrid, identify

DIED = 1
STOP_S = 5.0


def serve(pipe: Connection, context: Context) -> None:
    """Answer messages from `pipe` until it closes. Runs in the site's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    identify()
    from client.app import app  # noqa: PLC0415 - heavy imports belong to the worker

    while True:
        try:
            message = message_from_proto(ProtoMessage.FromString(pipe.recv_bytes()))
        except EOFError:
            return
        reply = app(message, context)
        pipe.send_bytes(message_to_proto(solidify(reply)).SerializeToString())


class ProcessGrid(LocalGrid):
    """Sites as worker processes; close it to end them."""

    def __init__(self, contexts: Mapping[int, Context]) -> None:
        super().__init__(contexts)
        spawn = multiprocessing.get_context("spawn")
        self._pipes: dict[int, Connection] = {}
        self._workers: list[BaseProcess] = []
        self._waiting: dict[str, Message] = {}
        for node, context in contexts.items():
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=serve, args=(theirs, context), daemon=True)
            worker.start()
            theirs.close()
            self._pipes[node] = ours
            self._workers.append(worker)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to its site's process."""
        sent: list[str] = []
        for message in messages:
            sent.append(self.stamp(message))
            self._waiting[sent[-1]] = message
            data = message_to_proto(solidify(message)).SerializeToString()
            try:
                self._pipes[message.metadata.dst_node_id].send_bytes(data)
            except OSError:
                continue  # the pull says that the process has died
        return sent

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Yield the replies that have come; a dead process is an error reply."""
        for number in message_ids:
            asked = self._waiting[number]
            pipe = self._pipes[asked.metadata.dst_node_id]
            try:
                if not pipe.poll():
                    continue
                reply = message_from_proto(ProtoMessage.FromString(pipe.recv_bytes()))
            except (EOFError, OSError):
                reply = Message(Error(DIED, "the site's process died: see its log"), reply_to=asked)
            del self._waiting[number]
            yield reply

    def close(self) -> None:
        """End every worker: first politely, then by SIGKILL."""
        for pipe in self._pipes.values():
            pipe.close()
        for worker in self._workers:
            worker.join(STOP_S)
            if worker.is_alive():
                worker.kill()
                worker.join()
