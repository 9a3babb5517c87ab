"""The launcher against Flower's own SuperNode API: what it relies on there is held here."""

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import Status
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.runtime.run_clientapp import pull_task_input

from client import launcher as launcher_module
from client.launcher import Launcher
from client.worker import DIED
from protocol.bundle import bundle, bundle_hash
from protocol.messages import Reply, Task, pack_reply, pack_task
from sim.inprocess import identify
from tests.serving import serving

SECRET = b"known to both"
RUN, NODE = 7, 11


class Hand:
    """Stands in for the worker's process: answers at once, or is dead."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive, self.asked = alive, list[tuple[Message, str]]()

    def send(self, message: Message, objection: str = "") -> None:
        if not self.alive:
            raise BrokenPipeError
        self.asked.append((message, objection))

    def receive(self) -> Message:
        message, objection = self.asked[-1]
        error = ("PolicyError", objection) if objection else None
        return Message(pack_reply(Reply("north", "train", "r", 1, error=error)), reply_to=message)

    def close(self) -> None:
        self.alive = False


@pytest.fixture
def supernode() -> Iterator[tuple[str, NodeState]]:
    """A SuperNode's Runtime API on a free port, and its state."""
    factory = NodeStateFactory(objectstore_factory=ObjectStoreFactory())
    state = factory.state()
    state.set_node_id(NODE)
    with serving(create_app(state_factory=factory, superexec_auth_secret=SECRET)) as address:
        yield address, state


def _ask(state: NodeState, code: bytes) -> Message:
    """Put a task into the SuperNode, as if the coordinator had sent it with its bundle."""
    identify(RUN)
    fab = Fab(bundle_hash(code), code, {})
    run = Run.create_empty(RUN)
    run.fab_hash, run.series_id = fab.hash_str, 1
    state.store_run(run)
    state.store_fab(fab)
    state.set_run_series_context(1, Context(RUN, NODE, {}, RecordDict(), {}, 1))
    message = Message(pack_task(Task("train", "r", 1, "recipe")), NODE, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    assert state.create_task(TaskType.CLIENT_APP, RUN, fab_hash=fab.hash_str)
    state.object_store.preregister(RUN, get_object_tree(message))
    for number, part in get_all_nested_objects(message).items():
        state.object_store.put(number, part.deflate())
    state.store_message(message)
    return message


@contextmanager
def _launcher(address: str, folder: Path, *hands: Hand, secret: bytes = SECRET) -> Generator[Launcher]:
    start: Any = iter(hands).__next__
    with closing(Launcher(address, secret, folder / "approved.json", start)) as launcher:
        yield launcher


def _until(found: Callable[[], object], seconds: float = 20.0) -> bool:
    closes = time.monotonic() + seconds
    while time.monotonic() < closes:
        if found():
            return True
        time.sleep(0.01)
    return False


def _reply(state: NodeState) -> Message:
    (reply,) = state.get_messages_legacy(run_ids=[RUN], is_reply=True)
    return reply


@pytest.mark.parametrize("more", [b"", b"x"])
def test_a_task_is_handed_over_with_what_is_wrong_with_its_code(
    supernode: tuple[str, NodeState], tmp_path: Path, more: bytes
) -> None:
    address, state = supernode
    code, hand = bundle() + more, Hand()
    asked = _ask(state, code)
    with _launcher(address, tmp_path, hand) as launcher:
        launcher._serve_one(launcher._acquired())
        assert launcher._acquired() == ""
    ((message, objection),) = hand.asked
    assert message.metadata.message_id == asked.metadata.message_id
    assert (objection == "") == (code == bundle())
    assert _reply(state).metadata.reply_to_message_id == asked.metadata.message_id
    assert all(task.status.status == Status.FINISHED for task in state.get_tasks())


def test_a_dead_worker_is_answered_for_and_another_takes_its_place(
    supernode: tuple[str, NodeState], tmp_path: Path
) -> None:
    address, state = supernode
    dead, fresh = Hand(alive=False), Hand()
    with _launcher(address, tmp_path, dead, fresh) as launcher:
        _ask(state, bundle())
        launcher._serve_one(launcher._acquired())
        reply = _reply(state)
        _ask(state, bundle())
        assert launcher.step()
        assert _until(lambda: fresh.asked)
        assert _until(lambda: state.get_messages_legacy(run_ids=[RUN], is_reply=True))
    assert reply.has_error()
    assert reply.error.code == DIED
    assert len(fresh.asked) == 1


def test_a_task_whose_message_does_not_come_keeps_nobody_from_the_worker(
    supernode: tuple[str, NodeState],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, state = supernode
    hand, never, begun = Hand(), threading.Event(), list[int]()

    def pull(client: Any) -> Any:
        begun.append(1)
        if len(begun) == 1:
            never.wait()
            raise RuntimeError("No messages received from Runtime API")
        return pull_task_input(client)

    monkeypatch.setattr(launcher_module, "pull_task_input", pull)
    with _launcher(address, tmp_path, hand) as launcher:
        _ask(state, bundle())
        assert launcher.step()
        assert _until(lambda: begun)
        _ask(state, bundle())
        assert launcher.step()
        assert _until(lambda: hand.asked)
        assert _until(lambda: state.get_messages_legacy(run_ids=[RUN], is_reply=True))
        never.set()
        assert _until(lambda: "a task is dropped" in caplog.text)


def test_who_does_not_know_the_secret_gets_no_task(supernode: tuple[str, NodeState], tmp_path: Path) -> None:
    address, state = supernode
    _ask(state, bundle())
    with _launcher(address, tmp_path, Hand(), secret=b"a guess") as launcher:
        assert launcher._acquired() == ""
    with _launcher(address, tmp_path, Hand()) as launcher:
        assert launcher._acquired() != ""


def test_a_supernode_that_is_away_is_no_error(tmp_path: Path) -> None:
    with _launcher("127.0.0.1:9", tmp_path, Hand()) as launcher:
        assert launcher._acquired() == ""
        launcher._serve_one("a token of before")
