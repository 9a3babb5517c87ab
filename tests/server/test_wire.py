"""Asking and hearing over a Grid whose sites are small functions."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from protocol.errors import QuorumError
from protocol.messages import Reply, Task, pack_reply, unpack_task
from protocol.update import Update
from server import wire as wire_module
from server.wire import Arrival, Wire
from sim.inprocess import InProcessGrid, contexts_for

Behaviour = Callable[[Message, Task], Message]


def _answers(site: str) -> Behaviour:
    def answer(message: Message, task: Task) -> Message:
        update = Update({"shared": torch.ones(3)}, {"shared": 1}, 1.0)
        return Message(pack_reply(Reply(site, task.kind, task.run, task.round, update)), reply_to=message)

    return answer


def _errs(kind: str) -> Behaviour:
    def answer(message: Message, task: Task) -> Message:
        reply = Reply("c", task.kind, task.run, task.round, error=(kind, "the reason"))
        return Message(pack_reply(reply), reply_to=message)

    return answer


def _dies(message: Message, task: Task) -> Message:
    return Message(Error(1, "out of memory"), reply_to=message)


def _babbles(message: Message, task: Task) -> Message:
    return Message(message.content, reply_to=message)


def _grid(sites: dict[str, Behaviour], grid_class: type[InProcessGrid] = InProcessGrid) -> InProcessGrid:
    """Every site describes itself; to a `train` it does as told."""
    app = ClientApp()
    names = list(sites)

    def handle(message: Message, context: Context) -> Message:
        site = names[context.node_id - 2]
        task = unpack_task(message)
        behaviour = _answers(site) if task.kind == "describe" else sites[site]
        return behaviour(message, task)

    for register in (app.train, app.query):
        register()(handle)
    return grid_class(app, contexts_for([{} for _ in sites]))


def _meet(grid: InProcessGrid, sites: int) -> Wire:
    wire = Wire(grid)
    wire.meet(Task("describe", "run", 0, ""), sites, 1.0)
    return wire


def _ask(wire: Wire, *sites: str, deadline_s: float = 5.0) -> list[Arrival]:
    return list(
        wire.ask(
            [(site, Task("train", "run", 1, "", vectors={"shared": torch.ones(5)})) for site in sites],
            deadline_s,
        )
    )


def test_sites_are_met_in_name_order_and_asked_by_name() -> None:
    grid = _grid({"c": _answers("c"), "a": _answers("a"), "b": _answers("b")})
    wire = Wire(grid)
    assert [reply.site for reply in wire.meet(Task("describe", "run", 0, ""), 3, 1.0)] == ["a", "b", "c"]
    arrivals = _ask(wire, "b", "a", "c")
    assert [(a.site, a.status, a.reply.site) for a in arrivals if a.reply] == [
        (s, "answered", s) for s in ("b", "a", "c")
    ]
    assert all((a.bytes_down, a.bytes_up) == (20, 12) for a in arrivals)


@pytest.mark.parametrize(
    ("behaviour", "status", "reason"),
    [
        (_errs("DataError"), "failed", "DataError: the reason"),
        (_errs("BudgetError"), "spent", "BudgetError: the reason"),
        (_errs("PolicyError"), "declined", "PolicyError: the reason"),
        (_dies, "failed", "out of memory"),
        (_babbles, "refused", ""),
    ],
)
def test_what_becomes_of_a_bad_reply(behaviour: Behaviour, status: str, reason: str) -> None:
    grid = _grid({"a": _answers("a"), "b": behaviour, "d": _answers("d")})
    arrivals = _ask(_meet(grid, 3), "a", "b", "d")
    assert [a.status for a in arrivals] == ["answered", status, "answered"]
    assert reason in arrivals[1].reason
    assert arrivals[1].reply is None


class _Deaf(InProcessGrid):
    """Node 3 never answers a `train`."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        waiting = {n: self._waiting[n].metadata for n in message_ids}
        return super().pull_messages(
            n for n, m in waiting.items() if (m.message_type, m.dst_node_id) != ("train", 3)
        )


def test_a_late_site_holds_nobody_up_for_longer_than_the_deadline() -> None:
    grid = _grid({"a": _answers("a"), "b": _answers("b"), "c": _answers("c")}, _Deaf)
    wire = _meet(grid, 3)
    arrivals = _ask(wire, "a", "b", "c", deadline_s=0.05)
    assert [a.status for a in arrivals] == ["answered", "late", "answered"]
    assert "0.05 s" in arrivals[1].reason


def test_two_sites_of_one_name_are_refused() -> None:
    def same(message: Message, context: Context) -> Message:
        return _answers("twin")(message, unpack_task(message))

    app = ClientApp()
    app.query()(same)
    with pytest.raises(QuorumError, match=r"one name.*rename"):
        Wire(InProcessGrid(app, contexts_for([{}, {}]))).meet(Task("describe", "run", 0, ""), 2, 1.0)


def test_too_few_nodes_is_said() -> None:
    with pytest.raises(QuorumError, match=r"1 of 2 sites connected within 0.05 s"):
        Wire(_grid({"a": _answers("a")})).meet(Task("describe", "run", 0, ""), 2, 0.05)


def test_a_site_that_cannot_describe_itself_stops_the_run_with_its_reason() -> None:
    def wrong(message: Message, context: Context) -> Message:
        return _errs("DataError")(message, unpack_task(message))

    app = ClientApp()
    app.query()(wrong)
    with pytest.raises(QuorumError, match="DataError: the reason"):
        Wire(InProcessGrid(app, contexts_for([{}]))).meet(Task("describe", "run", 0, ""), 1, 1.0)


def test_a_site_whose_policy_declines_is_met_with_its_name_and_reason() -> None:
    def wrong(message: Message, context: Context) -> Message:
        return _errs("PolicyError")(message, unpack_task(message))

    app = ClientApp()
    app.query()(wrong)
    question = Task("describe", "run", 0, "")
    (reply,) = Wire(InProcessGrid(app, contexts_for([{}]))).meet(question, 1, 1.0)
    assert (reply.site, reply.error) == ("c", ("PolicyError", "PolicyError: the reason"))


def test_one_reply_is_held_at_a_time() -> None:
    """A reply is made when its turn comes: the server's memory does not grow with the sites."""
    order: list[str] = []

    def noting(site: str) -> Behaviour:
        def answer(message: Message, task: Task) -> Message:
            order.append(f"{site} works")
            return _answers(site)(message, task)

        return answer

    wire = _meet(_grid({site: noting(site) for site in "abc"}), 3)
    for arrival in wire.ask([(site, Task("train", "run", 1, "")) for site in "abc"], 5.0):
        order.append(f"{arrival.site} heard")  # noqa: PERF401 - whose turn it is is the test
    assert order == [f"{site} {what}" for site in "abc" for what in ("works", "heard")]


class _Lossy(InProcessGrid):
    """Loses what it is told to: node -> how many of its tasks end in Flower's own error."""

    losses: dict[int, int]
    sent: int = 0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        self.sent += len(sent)
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in message_ids:
            asked = self._waiting[number]
            if asked.metadata.message_type == "train" and self.losses.get(asked.metadata.dst_node_id, 0):
                self.losses[asked.metadata.dst_node_id] -= 1
                del self._waiting[number]
                yield Message(Error(1, "ClientApp stopped responding"), reply_to=asked)
            else:
                yield from super().pull_messages([number])


@pytest.mark.parametrize(("losses", "status"), [(1, "answered"), (2, "answered"), (3, "failed")])
def test_a_task_that_was_lost_is_sent_again_three_times_at_most(losses: int, status: str) -> None:
    grid = _grid({"a": _answers("a"), "b": _answers("b")}, _Lossy)
    assert isinstance(grid, _Lossy)
    grid.losses = {3: losses}
    wire = _meet(grid, 2)
    grid.sent = 0
    assert [a.status for a in _ask(wire, "a", "b")] == ["answered", status]
    assert grid.sent == 2 + min(losses, 2)


class _Leaving(_Lossy):
    """Node 3 is away from its loss on, and comes back after so many looks."""

    looks = 0
    back_after: int | None = None

    def get_nodes(self) -> list[NodeInfo]:
        nodes = [NodeInfo(node_id=node, last_activated_at="first") for node in self._nodes]
        if self.sent < 4 or (self.back_after is not None and self.looks > self.back_after):
            return nodes
        self.looks += 1
        return [node for node in nodes if node.node_id != 3]


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that every pause moves, and that nobody waits for."""
    now = [0.0]
    monkeypatch.setattr(wire_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(wire_module.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_site_that_went_away_is_waited_for_once(no_pauses: list[float]) -> None:
    grid = _grid({"a": _answers("a"), "b": _answers("b")}, _Leaving)
    assert isinstance(grid, _Leaving)
    grid.losses = {3: 99}
    wire = _meet(grid, 2)
    assert [a.status for a in _ask(wire, "a", "b", deadline_s=1000)] == ["answered", "failed"]
    waited = no_pauses[0]
    assert wire_module.RETURN_S <= waited < wire_module.RETURN_S + 5
    assert [a.status for a in _ask(wire, "a", "b", deadline_s=1000)] == ["answered", "failed"]
    assert no_pauses[0] - waited < 5


def test_a_site_that_comes_back_is_asked_again(no_pauses: list[float]) -> None:
    grid = _grid({"a": _answers("a"), "b": _answers("b")}, _Leaving)
    assert isinstance(grid, _Leaving)
    grid.losses, grid.back_after = {3: 1}, 20
    assert [a.status for a in _ask(_meet(grid, 2), "a", "b", deadline_s=1000)] == ["answered", "answered"]


class _Reconnecting(InProcessGrid):
    """Node 3's first task is delivered and then forgotten: the site was started anew."""

    since = "first"

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, last_activated_at=self.since) for node in self._nodes]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in message_ids:
            asked = self._waiting[number].metadata
            if (asked.message_type, asked.dst_node_id, self.since) == ("train", 3, "first"):
                self.since = "second"
            elif asked.dst_node_id != 3 or asked.message_type != "train" or int(number) > 4:
                yield from super().pull_messages([number])


def test_a_site_that_was_started_anew_is_asked_again(no_pauses: list[float]) -> None:
    wire = _meet(_grid({"a": _answers("a"), "b": _answers("b")}, _Reconnecting), 2)
    assert [a.status for a in _ask(wire, "a", "b", deadline_s=100)] == ["answered", "answered"]
    assert no_pauses[0] < 10


def _late(message: Message, task: Task) -> Message:
    """The answer to the round before."""
    return _answers("b")(message, replace(task, round=task.round - 1))


def test_an_answer_to_an_earlier_round_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    (arrival,) = _ask(_meet(_grid({"b": _late}), 1), "b")
    assert (arrival.status, arrival.reply) == ("refused", None)
    assert "a late or replayed reply" in arrival.reason
    monkeypatch.setattr(wire_module, "same_question", lambda reply, task: None)
    (mutant,) = _ask(_meet(_grid({"b": _late}), 1), "b")
    assert mutant.status == "answered"


class _Slow(InProcessGrid):
    """Node 2 answers a `train` only after the test lets it."""

    ready = False

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        wanted = [n for n in message_ids if self.ready or self._waiting[n].metadata.message_type != "train"]
        return super().pull_messages(wanted)


def test_what_comes_late_is_taken_off_the_link_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    grid = _grid({"a": _answers("a")}, _Slow)
    assert isinstance(grid, _Slow)
    wire = _meet(grid, 1)
    assert [a.status for a in _ask(wire, "a", deadline_s=0.05)] == ["late"]
    assert len(grid._waiting) == 1
    grid.ready = True
    assert [a.status for a in _ask(wire, "a")] == ["answered"]
    assert not grid._waiting
    assert "train of round 1: a answered too late, discarded" in caplog.text


def test_after_the_deadline_the_quorum_will_do() -> None:
    wire = Wire(_grid({"a": _answers("a")}))
    (reply,) = wire.meet(Task("describe", "run", 0, ""), 2, 0.05, fewest=1)
    assert reply.site == "a"


class _Registered(InProcessGrid):
    """Nodes that the coordinator knows by the names of their keys."""

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=n, name=name) for n, name in zip(self._nodes, ("a", "b"), strict=True)]


def test_who_calls_itself_by_another_name_than_its_key_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    app = ClientApp()

    def b_says_a(message: Message, context: Context) -> Message:
        return _answers("a")(message, unpack_task(message))

    app.query()(b_says_a)
    wire = Wire(_Registered(app, contexts_for([{}, {}])))
    (reply,) = wire.meet(Task("describe", "run", 0, ""), 2, 1.0)
    assert (reply.site, wire._nodes) == ("a", {"a": 2})
    assert "key of 'b' calls itself 'a'" in caplog.text


def test_a_registered_site_that_cannot_describe_itself_is_left_out_with_its_reason() -> None:
    app = ClientApp()

    def b_fails(message: Message, context: Context) -> Message:
        behaviour = _answers("a") if context.node_id == 2 else _errs("DataError")
        return behaviour(message, unpack_task(message))

    app.query()(b_fails)
    wire = Wire(_Registered(app, contexts_for([{}, {}])))
    good, bad = wire.meet(Task("describe", "run", 0, ""), 2, 1.0)
    assert (good.site, good.error) == ("a", None)
    assert (bad.site, bad.error) == ("b", ("PolicyError", "DataError: the reason"))
