"""The whole federation in one process: a Grid that calls the ClientApp when a reply is asked for.

Nothing runs until the server pulls, so one site works at a time, on one shared model, and
a vector is never copied between "server" and "site".
"""

from collections.abc import Iterable, Mapping
from itertools import count

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo  # pyright: ignore[reportAttributeAccessIssue]
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE = 1


def identify(run_id: int = 1) -> None:
    """Tell Flower who this process is: it refuses to build a message otherwise."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, SERVER_NODE


def contexts_for(node_configs: Iterable[Mapping[str, str | int]]) -> dict[int, Context]:
    """Return node id -> Flower context, one a site."""
    return {
        node: Context(1, node, dict(config), RecordDict(), {})
        for node, config in enumerate(node_configs, start=SERVER_NODE + 1)
    }


class LocalGrid(Grid):
    """What the grids of one machine share; a subclass delivers and collects."""

    def __init__(self, nodes: Iterable[int]) -> None:
        identify()
        self._nodes = list(nodes)
        self._ids = count(1)
        self._run = Run.create_empty(run_id=1)

    def set_run(self, run: Run) -> None:
        """Set the run that this grid serves."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run that this grid serves."""
        return self._run

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return every site, connected from the start."""
        return [NodeInfo(node_id=node) for node in self._nodes]

    def get_node_ids(self) -> Iterable[int]:
        """Return the node of every site."""
        return self._nodes

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Build a message (Flower's older way)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push all, then pull all; a local site always answers, so `timeout` has no use."""
        del timeout
        return [
            reply for number in list(self.push_messages(messages)) for reply in self.pull_messages([number])
        ]

    def stamp(self, message: Message) -> str:
        """Give the message the id by which its reply is pulled."""
        number = str(next(self._ids))
        message.metadata.__dict__["_message_id"] = number  # as Flower's own grids do
        return number


class InProcessGrid(LocalGrid):
    """Sites as function calls."""

    def __init__(self, app: ClientApp, contexts: Mapping[int, Context]) -> None:
        super().__init__(contexts)
        self._app = app
        self._contexts = contexts
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep the messages until their replies are pulled."""
        sent = {self.stamp(message): message for message in messages}
        self._waiting |= sent
        return list(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the sites do their work now, one after the other."""
        for number in message_ids:
            message = self._waiting.pop(number)
            yield self._app(message, self._contexts[message.metadata.dst_node_id])
