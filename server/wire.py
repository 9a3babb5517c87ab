"""Asking sites and hearing from them, over Flower's Grid.

Tasks go out at once. Replies come back **in roster order, one at a time**: a reply waits at
its sender (or on the link) until its turn, so that a sum of floats does not depend on who is
faster, and the server holds one reply however many sites there are.

A reply is known by the number of the message that it answers, and must name the task's own run, round
and kind: what comes late from an earlier round is nobody's. A task may be lost on its way, when a site's
process died or the site was away for a moment; it is then sent again, as a site that has done it
already answers with the same bytes and spends nothing.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from protocol.errors import AdmissionError, QuorumError, WireError
from protocol.messages import KINDS, Reply, Task, pack_task, payload_bytes, unpack_reply
from protocol.waiting import SHORTEST_S, pause
from server.admission import same_question

log = logging.getLogger("consilium.wire")

LONGEST_POLL_S = 0.5
LOOK_S = 2.0
"""How often to look whether a site that was asked is still connected as it was."""
RETURN_S = 120.0
"""How long a site that went away is waited for; Flower takes it back after a minute at most."""
TRIES = 3


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


@dataclass(frozen=True)
class Sent:
    """A task under way: the message that carries it, and since when its node had been connected."""

    site: str
    node: int
    task: Task
    message: str
    size: int
    since: str


_STATUS_OF = {"BudgetError": "spent", "PolicyError": "declined"}


class Wire:
    """The federation's sites by name, over one Grid."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nodes: dict[str, int] = {}
        self._away: set[int] = set()
        self._late: list[Sent] = []

    def meet(self, question: Task, sites: int, deadline_s: float, fewest: int = 0) -> list[Reply]:
        """Wait for `sites` nodes, ask each who it is, and remember; replies in name order.

        After the deadline `fewest` will do (0: all of them). A site whose policy declines the run is
        among the replies, with its reason as the reply's error; so is one that could not answer, where its
        node is registered under its name. Whoever calls itself otherwise than its node is left out.
        """
        nodes = self._wait_for(sites, deadline_s, fewest or sites)
        names = {node.node_id: node.name for node in self._grid.get_nodes()}
        replies: dict[int, Reply] = {}
        arrivals = self._hear(self._send([(str(n), n, question) for n in nodes]), deadline_s)
        for node, arrival in zip(nodes, arrivals, strict=True):
            reply = arrival.reply or _unable(arrival, question, names.get(node, ""))
            if names.get(node, reply.site) in {"", reply.site}:
                replies[node] = reply
            else:
                log.error(
                    "the holder of the key of '%s' calls itself '%s': left out", names[node], reply.site
                )
        met = {reply.site: node for node, reply in replies.items()}
        self._nodes |= met
        if len(met) != len(replies):
            told = sorted(reply.site for reply in replies.values())
            raise QuorumError(f"two nodes call themselves by one name ({told}): rename one")
        return sorted(replies.values(), key=lambda reply: reply.site)

    def ask(self, tasks: Iterable[tuple[str, Task]], deadline_s: float) -> Iterator[Arrival]:
        """Send every task, then yield what became of each, in the given order."""
        return self._hear(self._send((site, self._nodes[site], task) for site, task in tasks), deadline_s)

    def _send(self, tasks: Iterable[tuple[str, int, Task]]) -> list[Sent]:
        self._drop_late()
        return self._post(tasks, self._connected())

    def _post(self, tasks: Iterable[tuple[str, int, Task]], since: Mapping[int, str]) -> list[Sent]:
        sizes, asked = list[int](), list[tuple[str, int, Task]]()

        def messages() -> Iterator[Message]:  # each is made when its turn has come
            for site, node, task in tasks:
                content = pack_task(task)
                asked.append((site, node, task))
                sizes.append(payload_bytes(content))
                yield Message(content, node, KINDS[task.kind], group_id=str(task.round))

        names = list(self._grid.push_messages(messages()))
        return [
            Sent(site, node, task, name, size, since.get(node, ""))
            for (site, node, task), name, size in zip(asked, names, sizes, strict=True)
        ]

    def _hear(self, sent: list[Sent], deadline_s: float) -> Iterator[Arrival]:
        closes = time.monotonic() + deadline_s
        for each in sent:
            yield self._heard(each, closes, deadline_s)

    def _heard(self, sent: Sent, closes: float, deadline_s: float) -> Arrival:
        reason = "it was lost on its way"
        for attempt in range(1, TRIES + 1):
            message = self._pull(sent, closes)
            if message is None and time.monotonic() >= closes:
                self._late.append(sent)
                return Arrival(sent.site, "late", None, f"no reply within {deadline_s:g} s", sent.size)
            if message is not None and not message.has_error():
                self._away.discard(sent.node)
                return _arrival(sent, message)
            if message is not None:
                reason = message.error.reason or "the site's process died"
            if attempt == TRIES or (since := self._back(sent.node, closes)) is None:
                break
            log.warning("%s of %s is asked again: %s", sent.task.kind, sent.site, reason)
            (sent,) = self._post([(sent.site, sent.node, sent.task)], {sent.node: since})
        return Arrival(sent.site, "failed", None, reason, sent.size)

    def _pull(self, sent: Sent, closes: float) -> Message | None:
        """Return the answer; None after the deadline, or when the site has connected anew meanwhile."""
        began = time.monotonic()
        looks = began + LOOK_S
        while True:
            asked = time.monotonic()
            for message in self._grid.pull_messages([sent.message]):
                return message
            now = time.monotonic()
            if now >= closes:
                return None
            if now >= looks:
                looks = now + LOOK_S
                if self._connected().get(sent.node, sent.since) != sent.since:
                    return None
            time.sleep(pause(now - began, LONGEST_POLL_S, now - asked))

    def _drop_late(self) -> None:
        """Take what came after its deadline off the link, and leave it at that."""
        waiting = self._late
        self._late = []
        for sent in waiting:
            if list(self._grid.pull_messages([sent.message])):
                task = sent.task
                log.warning(
                    "%s of round %d: %s answered too late, discarded", task.kind, task.round, sent.site
                )
            else:
                self._late.append(sent)

    def _back(self, node: int, closes: float) -> str | None:
        """Wait until a node is connected and return since when; None if it does not come back in time.

        Whoever did not come back once is not waited for again before it has answered.
        """
        patience = 0.0 if node in self._away else RETURN_S
        gives_up = min(time.monotonic() + patience, closes)
        while (since := self._connected().get(node)) is None:
            if time.monotonic() >= gives_up:
                self._away.add(node)
                return None
            time.sleep(LONGEST_POLL_S)
        return since

    def _connected(self) -> Mapping[int, str]:
        """Return node -> since when it is connected."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def _wait_for(self, sites: int, deadline_s: float, fewest: int) -> list[int]:
        closes = time.monotonic() + deadline_s
        while len(nodes := sorted(self._connected())) < sites:
            if time.monotonic() >= closes:
                if len(nodes) >= fewest:
                    break
                msg = f"{len(nodes)} of {sites} sites connected within {deadline_s:g} s: start the others"
                raise QuorumError(msg)
            time.sleep(SHORTEST_S)
        return nodes


def _unable(arrival: Arrival, question: Task, name: str) -> Reply:
    """Return what stands for a site that gave no description; `QuorumError` where its name is not known."""
    site = arrival.by if arrival.status == "declined" else name
    if not site:
        raise QuorumError(f"a site could not describe its cohort: {arrival.reason}")
    return Reply(site, question.kind, question.run, question.round, error=("PolicyError", arrival.reason))


def _arrival(sent: Sent, message: Message) -> Arrival:
    try:
        reply = unpack_reply(message)
        same_question(reply, sent.task)
    except (WireError, AdmissionError) as error:
        return Arrival(sent.site, "refused", None, str(error), sent.size)
    up = payload_bytes(message.content)
    if reply.error is not None:
        kind, text = reply.error
        status = _STATUS_OF.get(kind, "failed")
        return Arrival(sent.site, status, None, f"{kind}: {text}", sent.size, up, reply.site)
    return Arrival(sent.site, "answered", reply, "", sent.size, up)
