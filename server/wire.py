"""Asking sites and hearing from them, over Flower's Grid.

Tasks go out at once. Replies come back **in roster order, one at a time**: a reply waits at
its sender (or on the link) until its turn, so that a sum of floats does not depend on who is
faster, and the server holds one reply however many sites there are.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.errors import QuorumError, WireError
from protocol.messages import KINDS, Reply, Task, pack_task, payload_bytes, unpack_reply

POLL_S = 0.02


@dataclass(frozen=True)
class Arrival:
    """What became of one task: a reply, or the reason why there is none.

    `status` is `answered`, `failed` (the site could not), `declined` (its policy), `spent` (its
    budget), `late`, or `refused` (what came is not a reply of ours). `by` is what a site that did
    not answer calls itself.
    """

    site: str
    status: str
    reply: Reply | None = None
    reason: str = ""
    bytes_down: int = 0
    bytes_up: int = 0
    by: str = ""


_STATUS_OF = {"BudgetError": "spent", "PolicyError": "declined"}


class Wire:
    """The federation's sites by name, over one Grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}

    def meet(self, question: Task, sites: int, deadline_s: float) -> list[Reply]:
        """Wait for `sites` nodes, ask each who it is, and remember; replies in name order.

        A site whose policy declines the run is among them, with its reason as the reply's error.
        """
        nodes = self._wait_for(sites, deadline_s)
        replies: list[Reply] = []
        for arrival in self._hear(self._send([(str(n), n, question) for n in nodes]), deadline_s):
            reply = arrival.reply
            if arrival.status == "declined":
                error = ("PolicyError", arrival.reason)
                reply = Reply(arrival.by, question.kind, question.run, question.round, error=error)
            if reply is None:
                msg = f"a site could not describe its cohort: {arrival.reason}"
                raise QuorumError(msg)
            replies.append(reply)
        self._nodes = {reply.site: node for reply, node in zip(replies, nodes, strict=True)}
        if len(self._nodes) != len(nodes):
            msg = f"two nodes call themselves by one name ({sorted(r.site for r in replies)}): rename one"
            raise QuorumError(msg)
        return sorted(replies, key=lambda reply: reply.site)

    def ask(self, tasks: Iterable[tuple[str, Task]], deadline_s: float) -> Iterator[Arrival]:
        """Send every task, then yield what became of each, in the given order."""
        return self._hear(self._send((site, self._nodes[site], task) for site, task in tasks), deadline_s)

    def _send(self, tasks: Iterable[tuple[str, int, Task]]) -> list[tuple[str, str, int]]:
        sent: list[tuple[str, str, int]] = []
        for site, node, task in tasks:
            content = pack_task(task)
            message = Message(content, node, KINDS[task.kind], group_id=str(task.round))
            size = payload_bytes(content)
            (message_id,) = self._grid.push_messages([message])
            sent.append((site, message_id, size))
        return sent

    def _hear(self, sent: list[tuple[str, str, int]], deadline_s: float) -> Iterator[Arrival]:
        closes = time.monotonic() + deadline_s
        for site, message_id, size in sent:
            message = self._pull(message_id, closes)
            if message is None:
                yield Arrival(site, "late", None, f"no reply within {deadline_s:g} s", size)
            else:
                yield _arrival(site, message, size)

    def _pull(self, message_id: str, closes: float) -> Message | None:
        while True:
            for message in self._grid.pull_messages([message_id]):
                return message
            if time.monotonic() >= closes:
                return None
            time.sleep(POLL_S)

    def _wait_for(self, sites: int, deadline_s: float) -> list[int]:
        closes = time.monotonic() + deadline_s
        while len(nodes := sorted(self._grid.get_node_ids())) < sites:
            if time.monotonic() >= closes:
                msg = f"{len(nodes)} of {sites} sites connected within {deadline_s:g} s: start the others"
                raise QuorumError(msg)
            time.sleep(POLL_S)
        return nodes


def _arrival(site: str, message: Message, size: int) -> Arrival:
    if message.has_error():
        return Arrival(site, "failed", None, message.error.reason or "the site's process died", size)
    try:
        reply = unpack_reply(message)
    except WireError as error:
        return Arrival(site, "refused", None, str(error), size)
    up = payload_bytes(message.content)
    if reply.error is not None:
        kind, text = reply.error
        return Arrival(site, _STATUS_OF.get(kind, "failed"), None, f"{kind}: {text}", size, up, reply.site)
    return Arrival(site, "answered", reply, "", size, up)
